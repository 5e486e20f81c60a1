//! Where a restored disk goes: the counterpart of [`Disk`](crate::disk::Disk).
//!
//! In here: the trait, what can go wrong with a target, what every writer needs (zero tests, the checks of a call), and
//! files that appear under their name only when they are whole (`new_file`), disks that grow by blocks (`growing`) or are
//! written front to back (`ascending`). Not in here: any format.

pub(in crate::formats) mod ascending;
pub(in crate::formats) mod growing;
pub(in crate::formats) mod new_file;
pub(in crate::formats) mod new_files;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::ImageError;
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// In which order a sink takes its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOrder {
    /// Any order, from several threads.
    Any,
    /// Ascending guest offsets, one call at a time.
    Ascending,
}

/// What to do if the file to be written is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave it alone and fail.
    Refuse,
    /// Replace it in one step at the end; until then, and after a failure, it is what it was.
    Replace,
}

/// A disk being written into some format. What is never written reads as zeros afterwards.
///
/// Calls never overlap; each covers whole 64 KiB-aligned ranges (only the disk's last range may be shorter). A sink that
/// failed once cannot be finished: dropping it removes what a new file had so far.
pub trait DiskSink: Send + Sync {
    /// The order this format needs.
    fn order(&self) -> WriteOrder;

    /// What of the source's properties could not be kept, a sentence each.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Stores `data` at guest offset `at`. Ranges of zeros inside `data` may be stored as holes.
    ///
    /// # Errors
    /// [`ImageError::Target`] with the file.
    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError>;

    /// Makes `len` bytes from `at` read as zeros; only needed where the target held something else before.
    ///
    /// # Errors
    /// [`ImageError::Target`] with the file.
    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError>;

    /// Writes what the format needs at the end, makes all of it durable, and returns the files it consists of,
    /// the one to open first.
    ///
    /// # Errors
    /// [`ImageError::Target`] with the file.
    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError>;
}

/// Why a disk could not be written to its target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is something of that name, and we were not told to replace it.
    #[error("{} exists already", file.display())]
    Exists {
        /// The target.
        file: PathBuf,
    },
    /// The folder that the target should lie in is not there.
    #[error("{}: there is no folder {}", file.display(), folder.display())]
    NoFolder {
        /// The target.
        file: PathBuf,
        /// The folder that is missing.
        folder: PathBuf,
    },
    /// The target is no file that can take a disk.
    #[error("{}: expected {expected}, found {found}", file.display())]
    Kind {
        /// The target.
        file: PathBuf,
        /// What can be written to.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The target has the wrong size for the disk.
    #[error("{}: size of the target: expected {rule} {needed} bytes, found {found}", file.display())]
    Size {
        /// The target.
        file: PathBuf,
        /// `at least` or `exactly`.
        rule: &'static str,
        /// Size of the disk.
        needed: ByteLen,
        /// Size of the target.
        found: ByteLen,
    },
    /// The format cannot hold a disk of this size.
    #[error("{}: size of the disk: expected {expected}, found {found} bytes", file.display())]
    DiskSize {
        /// The target.
        file: PathBuf,
        /// What the format can hold.
        expected: String,
        /// Size of the disk.
        found: ByteLen,
    },
    /// The file has become longer than the format can address.
    #[error("{}: the file would grow to {needed} bytes, but this format addresses at most {limit}", file.display())]
    FileFull {
        /// The target.
        file: PathBuf,
        /// The length it would need.
        needed: u64,
        /// The format's limit.
        limit: u64,
    },
    /// Somebody uses the target.
    #[error("{} is in use: {reason}", file.display())]
    InUse {
        /// The target.
        file: PathBuf,
        /// Who, as far as can be told.
        reason: String,
    },
    /// A call that breaks the contract of [`DiskSink`]: a mistake of the caller.
    #[error("{}: write of {len} bytes at guest offset {at}: expected {expected}", file.display())]
    Call {
        /// The target.
        file: PathBuf,
        /// Where the write began.
        at: GuestOffset,
        /// How many bytes it had.
        len: u64,
        /// The rule it breaks.
        expected: String,
    },
    /// An earlier write failed, so what is there is not the disk.
    #[error("{}: not finished, because an earlier write failed", file.display())]
    Incomplete {
        /// The target.
        file: PathBuf,
    },
    /// A write failed.
    #[error("{}: cannot write {len} bytes at offset {at}", file.display())]
    Write {
        /// The target.
        file: PathBuf,
        /// Where the write began.
        at: FileOffset,
        /// How many bytes it had.
        len: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Of an image of several files, some have their names and the others cannot get theirs.
    #[error("{}: the image is incomplete; of its files are in place: {}", file.display(), in_a_row(left))]
    Mixed {
        /// The file that did not get its name.
        file: PathBuf,
        /// Those that did, and could not be taken away.
        left: Vec<PathBuf>,
        /// Why.
        source: Box<TargetError>,
    },
    /// Anything else the system refused.
    #[error("cannot {action} {}", file.display())]
    Io {
        /// What we were doing, as a verb.
        action: &'static str,
        /// The target.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn in_a_row(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Turns a failure of the system into a [`TargetError::Io`]; for `map_err`.
pub(in crate::formats) fn failed(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> TargetError {
    move |source| TargetError::Io { action, file: file.to_owned(), source }
}

/// A random UUID, for images whose format has an identity.
pub(in crate::formats) fn fresh_uuid() -> io::Result<Uuid> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    Ok(uuid::Builder::from_random_bytes(random).into_uuid())
}

/// Refuses a write that leaves a disk of `size` bytes; every sink begins with it.
///
/// # Errors
/// [`TargetError::Call`].
pub(in crate::formats) fn check_inside(
    file: &Path,
    size: ByteLen,
    at: GuestOffset,
    len: u64,
) -> Result<(), TargetError> {
    match at.0.checked_add(len) {
        Some(end) if end <= size.0 => Ok(()),
        _ => {
            let expected = format!("an end inside the disk of {size} bytes");
            Err(TargetError::Call { file: file.to_owned(), at, len, expected })
        }
    }
}

/// Refuses a write that leaves the disk or covers a part of a block; for formats that store whole blocks.
///
/// # Errors
/// [`TargetError::Call`].
pub(in crate::formats) fn check_blocks(
    file: &Path,
    size: ByteLen,
    at: GuestOffset,
    len: u64,
    block: u64,
) -> Result<(), TargetError> {
    check_inside(file, size, at, len)?;
    let end = at.0 + len; // inside the disk by the check above
    if at.0.is_multiple_of(block) && (end.is_multiple_of(block) || end == size.0) {
        return Ok(());
    }
    let expected = format!("whole ranges of {block} bytes");
    Err(TargetError::Call { file: file.to_owned(), at, len, expected })
}

const ZEROS: [u8; 4096] = [0; 4096];

/// Is there nothing but zeros in `bytes`?
pub(in crate::formats) fn is_zero(bytes: &[u8]) -> bool {
    // Comparing with real zeros is a memcmp, the fastest loop there is; most data fails on its first bytes.
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

/// The longest runs of `block`-sized pieces of `data` that are not all zeros, in order; the last piece may be shorter.
pub(in crate::formats) fn data_runs(data: &[u8], block: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let zero_blocks = data[at..].chunks(block).take_while(|piece| is_zero(piece)).count();
        let start = at + block * zero_blocks;
        if start >= data.len() {
            at = data.len();
            return None;
        }
        let data_blocks = data[start..].chunks(block).take_while(|piece| !is_zero(piece)).count();
        at = data.len().min(start + block * data_blocks);
        Some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn runs(data: &[u8], expected: &[(usize, usize)]) {
        assert_eq!(data_runs(data, 4).map(|run| (run.start, run.end)).collect::<Vec<_>>(), expected, "{data:?}");
    }

    #[test]
    fn data_runs_are_the_blocks_that_are_not_zero() {
        runs(&[], &[]);
        runs(&[0], &[]);
        runs(&[1], &[(0, 1)]);
        runs(&[0, 0, 0, 0], &[]);
        runs(&[0, 0, 0, 9], &[(0, 4)]);
        runs(&[0, 0, 0, 0, 9], &[(4, 5)]);
        runs(&[9, 0, 0, 0, 0, 0, 0, 0], &[(0, 4)]);
        runs(&[9, 0, 0, 0, 0, 0, 0, 9, 0], &[(0, 8)]);
        runs(&[9, 0, 0, 0, 0, 0, 0, 0, 9, 9], &[(0, 4), (8, 10)]);
        runs(&[0, 0, 0, 0, 0, 0], &[]);
    }

    #[test]
    fn zero_test_sees_every_byte() {
        assert!(is_zero(&[]));
        for len in [1usize, 4095, 4096, 4097, 65_536] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for place in [0, len / 2, len - 1] {
                bytes[place] = 1;
                assert!(!is_zero(&bytes), "{len} with a one at {place}");
                bytes[place] = 0;
            }
        }
    }

    #[test]
    fn calls_are_checked_at_their_edges() {
        let size = ByteLen(10 * 16 + 5);
        let file = Path::new("x");
        let inside = |at, len| check_inside(file, size, GuestOffset(at), len).is_ok();
        let blocks = |at, len| check_blocks(file, size, GuestOffset(at), len, 16).is_ok();
        assert!(inside(0, 165) && inside(165, 0) && inside(164, 1));
        assert!(!inside(0, 166) && !inside(166, 0) && !inside(u64::MAX, 1) && !inside(1, u64::MAX));
        assert!(blocks(0, 165) && blocks(16, 32) && blocks(160, 5) && blocks(0, 0));
        assert!(!blocks(1, 15) && !blocks(0, 15) && !blocks(160, 4) && !blocks(160, 6));
    }
}
