//! Why something inside a guest's disk could not be read.
//!
//! Positions are those on the volume (partition, logical volume or whole disk) that the filesystem lies on.

use crate::disk::DiskError;
use crate::units::GuestOffset;

/// Why something inside a guest's disk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The data is wrong.
    #[error("{field} at {at} of the volume: expected {expected}, found {found}")]
    Corrupt {
        /// Which structure.
        field: &'static str,
        /// Where it lies on the volume.
        at: GuestOffset,
        /// What a sound volume has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// We cannot do it.
    #[error("{feature} is not supported")]
    Unsupported {
        /// What it would need.
        feature: String,
    },
    /// The node is of another kind than the call needs.
    #[error("expected {expected}, found {found}")]
    WrongKind {
        /// What the call is for: `a directory`.
        expected: &'static str,
        /// What the node is: `a symbolic link`.
        found: &'static str,
    },
    /// There is no such node; a caller's mistake, or a directory entry that leads nowhere.
    #[error("there is no node {node}")]
    NoSuchNode {
        /// Which one was asked for.
        node: super::tree::NodeId,
    },
    /// The disk below failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
