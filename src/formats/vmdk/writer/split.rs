//! twoGbMaxExtentSparse: a descriptor, and beside it sparse extents of at most 2047 MiB of disk each, for filesystems and
//! media that take no larger files.
//!
//! The disk is written front to back, so that one extent at a time is open, however many there are: a finished one is made
//! durable and waits for its name under a temporary one. Extents that hold nothing are written too, for they are counted.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::descriptor::{Descriptor, Extent, Kind, fresh_content_id};
use super::sparse::SparseExtent;
use super::{GRAIN_BYTES, capacity, extent_path, name_for_line};
use crate::formats::ImageError;
use crate::formats::sink::new_file::{NewFile, SealedFile, check_target};
use crate::formats::sink::new_files::publish_all;
use crate::formats::sink::{DiskSink, Overwrite, TargetError, WriteOrder, check_blocks, check_inside, failed};
use crate::units::{ByteLen, FileOffset, GuestOffset, SECTOR_BYTES};

/// Disk in an extent, as VMware cuts it: with its tables the file stays below 2 GiB.
const EXTENT_BYTES: u64 = 2047 << 20;

/// A twoGbMaxExtentSparse VMDK under construction.
#[derive(Debug)]
struct SplitSink {
    descriptor: NewFile,
    /// Paths of all extents, in order.
    paths: Vec<PathBuf>,
    size: ByteLen,
    overwrite: Overwrite,
    progress: Mutex<Progress>,
    warnings: Vec<String>,
}

/// How far the disk has come.
#[derive(Debug, Default)]
struct Progress {
    /// Guest offset below which nothing can be written any more.
    passed: u64,
    finished: Vec<SealedFile>,
    /// The extent behind the finished ones.
    open: Option<SparseExtent>,
    /// A part of the disk could not be stored.
    broken: bool,
}

/// The names of the extents of a disk of `size` bytes that belong to the descriptor `path`.
pub(super) fn split_paths(path: &Path, size: ByteLen) -> Vec<PathBuf> {
    let count = size.0.div_ceil(EXTENT_BYTES);
    (1..=count).map(|number| extent_path(path, &format!("s{number:03}"))).collect()
}

/// Starts a twoGbMaxExtentSparse VMDK for a disk of `size` bytes: the descriptor `path` and the extents beside it, which
/// appear when it is finished. `properties` are the `ddb.*` lines of the source, kept as they are where they fit.
///
/// # Errors
/// [`ImageError::Target`]: one of the names is taken or cannot stand in a descriptor, there is no such folder, the disk is
/// empty, no whole sectors, or beyond 2 TiB.
pub fn create_split(
    path: &Path,
    size: ByteLen,
    properties: &[(String, String)],
    overwrite: Overwrite,
) -> Result<impl DiskSink + Debug + use<>, ImageError> {
    capacity(path, size)?;
    let paths = split_paths(path, size);
    let mut extents = Vec::with_capacity(paths.len());
    for (number, extent) in (0u64..).zip(&paths) {
        let sectors = extent_len(size, number) / SECTOR_BYTES;
        extents.push(Extent { sectors, kind: Kind::Sparse, name: name_for_line(extent)? });
    }
    let content_id = fresh_content_id().map_err(failed("find a content id for", path))?;
    let (text, warnings) =
        Descriptor { create_type: "twoGbMaxExtentSparse", extents, content_id: &content_id, properties }.encode();
    let descriptor = NewFile::create(path, overwrite)?;
    descriptor.write_all_at(FileOffset(0), text.as_bytes())?;
    // Extents come into being one by one; that a name is taken must be known before anything is written.
    paths.iter().try_for_each(|extent| check_target(extent, overwrite))?;
    Ok(SplitSink { descriptor, paths, size, overwrite, progress: Mutex::default(), warnings })
}

fn extent_len(size: ByteLen, number: u64) -> u64 {
    EXTENT_BYTES.min(size.0 - number * EXTENT_BYTES)
}

impl SplitSink {
    /// Finishes all extents before number `number`, and opens that one if there is such.
    fn turn_to(&self, progress: &mut Progress, number: usize) -> Result<(), TargetError> {
        loop {
            let current = progress.finished.len();
            if progress.open.is_none()
                && let Some(path) = self.paths.get(current)
            {
                let len = ByteLen(extent_len(self.size, current as u64));
                progress.open = Some(SparseExtent::create(path, len, &[], self.overwrite)?);
            }
            if current >= number {
                return Ok(());
            }
            if let Some(extent) = progress.open.take() {
                progress.finished.push(extent.finished()?.seal()?);
            }
        }
    }

    fn write(&self, progress: &mut Progress, at: u64, data: &[u8]) -> Result<(), TargetError> {
        let (mut at, mut rest) = (at, data);
        while !rest.is_empty() {
            let (number, within) = (at / EXTENT_BYTES, at % EXTENT_BYTES);
            let len = rest.len().min(usize::try_from(EXTENT_BYTES - within).unwrap_or(usize::MAX));
            let (part, later) = rest.split_at(len);
            self.turn_to(progress, usize::try_from(number).expect("an extent whose path is in memory"))?;
            let extent = progress.open.as_ref().expect("turned to, and inside the disk");
            extent.write_at(within, part)?;
            (at, rest) = (at + len as u64, later);
            progress.passed = at;
        }
        Ok(())
    }
}

impl DiskSink for SplitSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Ascending
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        let len = data.len() as u64;
        check_blocks(self.descriptor.target(), self.size, at, len, GRAIN_BYTES as u64)?;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if at.0 < progress.passed {
            let expected = format!("ascending offsets, from {:#x} on", progress.passed);
            return Err(TargetError::Call { file: self.descriptor.target().to_owned(), at, len, expected }.into());
        }
        let outcome = self.write(&mut progress, at.0, data);
        progress.broken |= outcome.is_err();
        Ok(outcome?)
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        // The files are new: what nobody writes reads as zeros already.
        Ok(check_inside(self.descriptor.target(), self.size, at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        let mut progress = std::mem::take(&mut *self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        if progress.broken {
            return Err(TargetError::Incomplete { file: self.descriptor.target().to_owned() }.into());
        }
        self.turn_to(&mut progress, self.paths.len())?;
        let mut files = progress.finished;
        files.push(self.descriptor.seal()?);
        Ok(publish_all(files, self.overwrite)?)
    }
}

// Whole grains: a call's whole grains stay whole where it crosses into the next extent.
const _: () = assert!(EXTENT_BYTES.is_multiple_of(GRAIN_BYTES as u64));
