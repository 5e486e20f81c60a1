//! The seam of the house: a virtual disk that can be read anywhere.
//!
//! In here: the trait, what can go wrong while reading, disks stacked as redo logs ([`stack`]), and the suite that every
//! disk must pass ([`conformance`]). Not in here: any format, any file, the repository.
//!
//! Three kinds of "no data here" are never mixed up: [`ExtentKind::Hole`] (nothing stored; a layer asks its parent, a
//! whole disk reads zeros), [`ExtentKind::Zero`] (explicit zeros, hides the parent), [`ExtentKind::Data`].

pub mod conformance;
pub mod cursor;
pub mod stack;

use std::io;
use std::path::PathBuf;

use crate::units::{ByteLen, FileOffset, GuestOffset};

/// A virtual disk that can be read anywhere and does not change while it is open.
pub trait Disk: Send + Sync {
    /// Size of the virtual disk in bytes, not of the files that store it.
    fn size(&self) -> ByteLen;

    /// Fills all of `buf` from guest offset `at`; holes read as zeros. An empty `buf` is fine anywhere up to the end.
    ///
    /// # Errors
    /// [`DiskError::PastEnd`] if the range leaves the disk, [`DiskError::Corrupt`] if its map is damaged,
    /// [`DiskError::Read`] if the medium fails; `buf` is then unspecified.
    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError>;

    /// The run of one kind that starts at `at`: its length is at least 1 and never leaves the disk. It may be shorter
    /// than the longest possible run (a disk need not do more I/O to find the end); callers loop.
    ///
    /// # Errors
    /// [`DiskError::PastEnd`] if `at` is not below the size; else as [`Disk::read_at`].
    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError>;
}

/// What is stored for a run of the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Nothing stored: a layer's reader asks the parent; in a whole disk it reads as zeros.
    Hole,
    /// Explicitly zero: hides whatever a parent holds.
    Zero,
    /// Stored bytes.
    Data,
}

/// A run of one kind, from the offset that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What is stored.
    pub kind: ExtentKind,
    /// Length in bytes from the offset asked about, ≥ 1.
    pub len: ByteLen,
}

/// Why a disk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The range asked for leaves the disk: a mistake of the caller.
    #[error("read of {len} bytes at guest offset {at} leaves the disk of {size} bytes")]
    PastEnd {
        /// Where the read began.
        at: GuestOffset,
        /// How many bytes were wanted.
        len: u64,
        /// The disk's size.
        size: ByteLen,
    },
    /// The image's own map is wrong.
    #[error("{}: {field} at offset {at}: expected {expected}, found {found}", file.display())]
    Corrupt {
        /// The image file.
        file: PathBuf,
        /// Which structure.
        field: &'static str,
        /// Where it lies in the file.
        at: FileOffset,
        /// What a sound image has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// The medium failed.
    #[error("{}: cannot read {len} bytes at offset {at}", file.display())]
    Read {
        /// The image file or device.
        file: PathBuf,
        /// Where the read began.
        at: FileOffset,
        /// How many bytes were wanted.
        len: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it was when it was opened: somebody is writing to it.
    #[error("{} changed while it was being read: {what}", file.display())]
    Changed {
        /// The image file.
        file: PathBuf,
        /// What differs, with both values.
        what: String,
    },
    /// A disk that is not an image file (a backup in a repository) failed in its own way.
    #[error("the disk's backing could not be read")]
    Backing(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Refuses a range that leaves a disk of `size` bytes; every [`Disk::read_at`] begins with it.
///
/// # Errors
/// [`DiskError::PastEnd`].
pub fn check_range(size: ByteLen, at: GuestOffset, len: usize) -> Result<(), DiskError> {
    let len = len as u64;
    match at.0.checked_add(len) {
        Some(end) if end <= size.0 => Ok(()),
        _ => Err(DiskError::PastEnd { at, len, size }),
    }
}

/// Refuses an offset at or past the end; every [`Disk::extent_at`] begins with it. Returns the bytes left to the end.
///
/// # Errors
/// [`DiskError::PastEnd`].
pub fn check_inside(size: ByteLen, at: GuestOffset) -> Result<ByteLen, DiskError> {
    match size.0.checked_sub(at.0) {
        Some(left) if left > 0 => Ok(ByteLen(left)),
        _ => Err(DiskError::PastEnd { at, len: 1, size }),
    }
}

/// A disk held in memory, all of it data: the plain model that tests compare with.
pub struct MemoryDisk(pub Vec<u8>);

impl Disk for MemoryDisk {
    fn size(&self) -> ByteLen {
        ByteLen(self.0.len() as u64)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let start = at.0 as usize; // inside the vector by the check above, so it fits
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        Ok(Extent { kind: ExtentKind::Data, len: check_inside(self.size(), at)? })
    }
}
