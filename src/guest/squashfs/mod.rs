//! Squashfs 4.0, read-only as it is. All numbers are little-endian.
//!
//! All but content lies in *metadata blocks* of up to 8 KiB, each packed for itself. A *reference* names a byte in them:
//! where the block begins (from the start of its table) × 2^16 + the byte in the unpacked block.
//!
//! - `superblock` raw → checked: where the tables lie; `compression` the six ways to pack a block
//! - `volume` blocks of both kinds, unpacked, through caches; `metadata` reading across metadata blocks, and tables by index
//! - `inode` raw → checked; `directory`, `attributes` what they lead to
//! - `content` the blocks of a file, and the fragment that holds its end together with other files' ends
//! - `tree` the filesystem as the house wants it
//!
//! Source: Linux Documentation/filesystems/squashfs.rst; names of structures in comments are the kernel's. Why not the crate
//! `backhand`: it reads all inodes and directories before it answers, keeps every fragment, and needs names in UTF-8.

mod attributes;
mod compression;
mod content;
mod directory;
mod inode;
mod metadata;
mod superblock;
mod tree;
mod volume;

use std::fmt::Display;

use super::GuestError;
use crate::units::GuestOffset;

pub use tree::{Squashfs, open};

/// Damage at byte `at` of the volume.
fn corrupt(field: &'static str, at: u64, expected: impl Display, found: impl Display) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.to_string(), found: found.to_string() }
}

fn unsupported(feature: impl Into<String>) -> GuestError {
    GuestError::Unsupported { feature: feature.into() }
}
