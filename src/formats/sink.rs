//! Where a restored disk goes: the counterpart of [`Disk`](crate::disk::Disk).

use std::path::PathBuf;

use super::ImageError;
use crate::units::GuestOffset;

/// In which order a sink takes its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOrder {
    /// Any order, from several threads.
    Any,
    /// Ascending guest offsets, one call at a time.
    Ascending,
}

/// A disk being written into some format. What is never written reads as zeros afterwards.
///
/// Calls never overlap; each covers whole 64 KiB-aligned ranges (only the disk's last range may be shorter).
pub trait DiskSink: Send + Sync {
    /// The order this format needs.
    fn order(&self) -> WriteOrder;

    /// Stores `data` at guest offset `at`. Ranges of zeros inside `data` may be stored as holes.
    ///
    /// # Errors
    /// [`ImageError::Io`] with the file.
    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError>;

    /// Makes `len` bytes from `at` read as zeros; only needed where the target held something else before.
    ///
    /// # Errors
    /// [`ImageError::Io`] with the file.
    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError>;

    /// Writes what the format needs at the end, makes all of it durable, and returns the files it consists of,
    /// the one to open first.
    ///
    /// # Errors
    /// [`ImageError::Io`] with the file.
    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError>;
}
