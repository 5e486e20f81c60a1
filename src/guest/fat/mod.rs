//! FAT12, FAT16 and FAT32 with long names, read-only.
//!
//! - `boot` the boot sector: raw → geometry, and which of the three it is
//! - `entry` a directory's record of 32 bytes; `name` short names and the pieces of long ones
//! - `directory` entries of a directory: long names put together and proven to belong to the short one after them
//! - `tree` the filesystem as the house wants it
//!
//! The table, its chains and content are `clusters`'. What a FAT does not have (owners, permissions, the zone of its times)
//! is what Linux makes up by default: root's, 0755, UTC.
//!
//! Source: Microsoft, FAT: General Overview of On-Disk Format 1.03 ("fatgen103"); where it and Linux' vfat differ, the room
//! that does it says so.

mod boot;
mod directory;
mod entry;
mod name;
mod tree;

pub use tree::{Fat, open};
