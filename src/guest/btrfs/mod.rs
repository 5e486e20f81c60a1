//! Btrfs, read-only, from one device. All numbers are little-endian.
//!
//! Two kinds of addresses: *logical* ones, which all pointers are, and places on the volume, to which the chunk tree maps
//! them. All else is items with a key (object, kind, offset) in trees of blocks; the root tree has the roots of all others.
//!
//! - `superblock` raw → checked, the best of its copies; `checksum` the four kinds
//! - `chunks` logical → place on the volume; `volume` bytes by logical address, and blocks of trees through a small cache
//! - `key`, `node` a block raw → checked; `cursor` finding and walking items
//! - `subvolumes` roots, and which subvolume is linked where; `log` what was made durable after the last commit
//! - `inode` raw → checked; `names` the form of item that directories and attributes share; `directory`, `attributes`
//! - `extents` what a file's ranges are; `content` their bytes; `data_checksums` the proof of those; `compression`, `lzo`
//! - `tree` the filesystem as the house wants it
//!
//! Source: the btrfs documentation, "Btrfs design" and "On-disk format"; names of structures in comments are the Linux
//! kernel's.

mod attributes;
mod checksum;
mod chunks;
mod compression;
mod content;
mod cursor;
mod data_checksums;
mod directory;
mod extents;
mod inode;
mod key;
mod log;
mod lzo;
mod names;
mod node;
mod subvolumes;
mod superblock;
mod tree;
mod volume;

use std::fmt::Display;

use super::GuestError;
use crate::units::GuestOffset;

pub use tree::{Btrfs, open};

/// Damage at byte `at` of the volume.
fn corrupt(field: &'static str, at: u64, expected: impl Display, found: impl Display) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.to_string(), found: found.to_string() }
}

/// A structure that ends before its last field.
fn too_short(field: &'static str, at: u64) -> GuestError {
    corrupt(field, at, "a whole structure", "its end")
}

fn unsupported(feature: impl Into<String>) -> GuestError {
    GuestError::Unsupported { feature: feature.into() }
}
