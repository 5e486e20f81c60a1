//! XFS, versions 4 and 5, read-only. Everything on the volume is big-endian, but checksums, which are little-endian.
//!
//! - `superblock` raw → [`geometry`](self) checked: where blocks and inodes lie
//! - `volume` bytes of the volume, through a small cache of pages and under what the log replays; `checksum` v5's proof
//!   that a block is what it should be and belongs to whom we think
//! - `inode` raw → checked; `fork` its two maps from file blocks to volume blocks, `bmbt` when they are trees
//! - `dabtree` the tree by hashes of names that directories and attributes share
//! - `directory`, `attributes`, `link` what forks hold
//! - `log` the transactions that are not yet where they belong, replayed in memory
//! - `tree` the filesystem as the house wants it
//!
//! Source: XFS Algorithms & Data Structures, 3rd edition; names of structures in comments are the Linux kernel's.

mod attributes;
mod bmbt;
mod checksum;
mod dabtree;
mod directory;
mod fork;
mod geometry;
mod inode;
mod link;
mod superblock;
mod tree;
mod volume;

use std::fmt::Display;

use super::GuestError;
use crate::units::GuestOffset;

pub use tree::{Xfs, open};

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
