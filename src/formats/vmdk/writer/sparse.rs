//! monolithicSparse: one file, its grains in the order in which they arrive. The same file without a descriptor is a part
//! of a disk that is [`split`](super::split).
//!
//! Layout, in sectors; tables are allocated whole at the start, so their places follow from the disk's size:
//!
//! ```text
//! header 1 | descriptor | redundant directory | its tables 4 × n | directory | its tables 4 × n | pad | grains …
//! ```
//!
//! Calls never overlap, so no grain is written twice and nobody has to look a grain up: the only state is the end of the
//! file, an atomic counter. Table entries go to the file with each call (twice, for the redundant copy), side by side for
//! grains side by side. Memory is thus constant; the tables of a 2 TiB disk, twice 128 MiB, would not be. Tables that
//! no grain touched stay holes of the file, and read as "no grain".

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::descriptor::{Descriptor, Extent, Kind, extent_name, fresh_content_id};
use super::{
    BYTES_MAX, DESCRIPTOR_SECTOR, FLAG_NEWLINE_TEST, FLAG_REDUNDANT_DIRECTORY, GRAIN_BYTES, GRAIN_SECTORS, Header,
    TABLE_ENTRIES, TABLE_SECTORS, capacity, entry, sectors_for,
};
use crate::formats::ImageError;
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{
    DiskSink, Overwrite, TargetError, WriteOrder, check_blocks, check_inside, data_runs, failed,
};
use crate::units::{ByteLen, FileOffset, GuestOffset, SECTOR_BYTES};

/// Entries sent to the tables at once, those of 64 MiB of disk: bounds what a call of any length needs.
const ENTRIES_AT_ONCE: usize = 1024;

/// A hosted sparse extent under construction: all of the disk, or a part of it.
#[derive(Debug)]
pub(super) struct SparseExtent {
    file: NewFile,
    /// Where the tables of the two directories begin; each table follows the one before.
    tables_at: [u64; 2],
    /// First byte that no grain has taken yet.
    next_grain: AtomicU64,
}

/// A monolithicSparse VMDK under construction.
#[derive(Debug)]
struct SparseSink {
    extent: SparseExtent,
    size: ByteLen,
    warnings: Vec<String>,
}

/// Where everything lies, in sectors.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    redundant_directory: u32,
    redundant_tables: u32,
    directory: u32,
    tables: u32,
    /// First grain.
    overhead: u32,
}

impl Layout {
    /// `tables` is at most 65536 and the descriptor a few hundred KiB, so no sum comes near 2^32.
    fn of(tables: u32, descriptor_sectors: u32) -> Layout {
        let directory_sectors = tables.div_ceil(SECTOR_BYTES as u32 / 4);
        let redundant_directory = DESCRIPTOR_SECTOR + descriptor_sectors;
        let redundant_tables = redundant_directory + directory_sectors;
        let directory = redundant_tables + tables * TABLE_SECTORS;
        let first_table = directory + directory_sectors;
        let overhead = (first_table + tables * TABLE_SECTORS).next_multiple_of(GRAIN_SECTORS);
        Layout { redundant_directory, redundant_tables, directory, tables: first_table, overhead }
    }
}

/// Starts a monolithicSparse VMDK for a disk of `size` bytes that appears as `path` when it is finished. `properties` are
/// the `ddb.*` lines of the source (adapter, geometry, uuid), kept as they are where they fit.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the disk is empty, no whole sectors, or beyond 2 TiB.
pub fn create_sparse(
    path: &Path,
    size: ByteLen,
    properties: &[(String, String)],
    overwrite: Overwrite,
) -> Result<impl DiskSink + Debug + use<>, ImageError> {
    let sectors = capacity(path, size)?.0;
    let content_id = fresh_content_id().map_err(failed("find a content id for", path))?;
    let extents = vec![Extent { sectors, kind: Kind::Sparse, name: extent_name(path) }];
    let (descriptor, warnings) =
        Descriptor { create_type: "monolithicSparse", extents, content_id: &content_id, properties }.embedded();
    let extent = SparseExtent::create(path, size, &descriptor, overwrite)?;
    Ok(SparseSink { extent, size, warnings })
}

fn at_sector(sector: u32) -> u64 {
    u64::from(sector) * SECTOR_BYTES
}

impl SparseExtent {
    /// Starts an extent of `size` bytes. `descriptor` is embedded: whole sectors, none if it is elsewhere.
    ///
    /// # Errors
    /// As [`create_sparse`].
    pub fn create(
        path: &Path,
        size: ByteLen,
        descriptor: &[u8],
        overwrite: Overwrite,
    ) -> Result<SparseExtent, TargetError> {
        let (capacity_sectors, tables) = capacity(path, size)?;
        let descriptor_sectors = sectors_for(descriptor.len()) as u32; // bounded by the descriptor's own limits
        let layout = Layout::of(tables, descriptor_sectors);
        let header = Header {
            version: 1,
            flags: FLAG_NEWLINE_TEST | FLAG_REDUNDANT_DIRECTORY,
            capacity_sectors,
            descriptor_sectors,
            redundant_directory_sector: layout.redundant_directory.into(),
            directory_sector: layout.directory.into(),
            overhead_sectors: layout.overhead,
        };
        let file = NewFile::create(path, overwrite)?;
        let next_grain = at_sector(layout.overhead);
        file.set_len(next_grain)?;
        file.write_all_at(FileOffset(0), &[&header.encode(), descriptor].concat())?;
        for (directory, first_table) in
            [(layout.redundant_directory, layout.redundant_tables), (layout.directory, layout.tables)]
        {
            let entries: Vec<u8> = (0..tables).flat_map(|n| (first_table + n * TABLE_SECTORS).to_le_bytes()).collect();
            file.write_all_at(FileOffset(at_sector(directory)), &entries)?;
        }
        let tables_at = [at_sector(layout.redundant_tables), at_sector(layout.tables)];
        Ok(SparseExtent { file, tables_at, next_grain: AtomicU64::new(next_grain) })
    }

    /// Stores whole grains from offset `at` of the extent (its last grain may be short), but none of zeros.
    pub fn write_at(&self, at: u64, data: &[u8]) -> Result<(), TargetError> {
        data_runs(data, GRAIN_BYTES).try_for_each(|run| self.put(at + run.start as u64, &data[run]))
    }

    /// Ends the file.
    pub fn finished(self) -> Result<NewFile, TargetError> {
        // The last grain may have been short; in the file all are whole.
        self.file.set_len(self.next_grain.load(Ordering::Relaxed))?;
        Ok(self.file)
    }

    /// Takes room for `grains` grains at the end of the file.
    fn allocate(&self, grains: u64) -> Result<u64, TargetError> {
        let len = grains * GRAIN_BYTES as u64; // of a slice in memory, rounded up
        let within_limit = |at: u64| at.checked_add(len).filter(|end| *end <= BYTES_MAX);
        self.next_grain.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within_limit).map_err(|at| {
            self.file.mark_broken();
            TargetError::FileFull {
                file: self.file.target().to_owned(),
                needed: at.saturating_add(len),
                limit: BYTES_MAX,
            }
        })
    }

    /// Stores whole grains side by side (the disk's last may be short), then points the tables to them.
    fn put(&self, at: u64, grains: &[u8]) -> Result<(), TargetError> {
        let count = grains.len().div_ceil(GRAIN_BYTES);
        let place = self.allocate(count as u64)?;
        self.file.write_all_at(FileOffset(place), grains)?;
        // The whole allocation lies below the limit, so the first entry bounds the others.
        let first_sector = entry(self.file.target(), place, place + grains.len() as u64)?;
        let first_grain = at / GRAIN_BYTES as u64;
        for start in (0..count).step_by(ENTRIES_AT_ONCE) {
            let part = start..count.min(start + ENTRIES_AT_ONCE);
            // As one table follows the other, a run of grains is a run of entries even from table to table.
            let entries: Vec<u8> = part.flat_map(|n| (first_sector + n as u32 * GRAIN_SECTORS).to_le_bytes()).collect();
            for tables in self.tables_at {
                self.file.write_all_at(FileOffset(tables + (first_grain + start as u64) * 4), &entries)?;
            }
        }
        Ok(())
    }
}

impl DiskSink for SparseSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        check_blocks(self.extent.file.target(), self.size, at, data.len() as u64, GRAIN_BYTES as u64)?;
        Ok(self.extent.write_at(at.0, data)?)
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        // The file is new: what nobody writes reads as zeros already.
        Ok(check_inside(self.extent.file.target(), self.size, at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        Ok(vec![self.extent.finished()?.publish()?])
    }
}

// A table's entries are as many as a directory entry stands for: the arithmetic in `put` relies on it.
const _: () = assert!(TABLE_ENTRIES * 4 == TABLE_SECTORS * SECTOR_BYTES as u32);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn layout_of_the_smallest_and_the_largest_disk() {
        let small = Layout { redundant_directory: 21, redundant_tables: 22, directory: 26, tables: 27, overhead: 128 };
        assert_eq!(Layout::of(1, 20), small);
        let large = Layout::of(65_536, 20);
        assert_eq!((large.redundant_tables, large.directory), (21 + 512, 21 + 512 + 262_144));
        assert_eq!(large.overhead, 525_440);
    }

    #[test]
    fn both_directories_lead_to_the_grain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        let size = ByteLen(40 << 20); // two tables
        let sink = Box::new(create_sparse(&path, size, &[], Overwrite::Refuse).unwrap());
        // The last grain of the first table and the first of the second, in one call.
        let at = (32 << 20) - GRAIN_BYTES as u64;
        sink.write_at(GuestOffset(at), &vec![7; 2 * GRAIN_BYTES]).unwrap();
        sink.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let overhead = number(64);
        for directory in [number(48), number(56)] {
            let (first, second) = (number(directory * 512), number(directory * 512 + 4));
            assert_eq!(number(first * 512 + 511 * 4), overhead);
            assert_eq!(number(second * 512), overhead + 128);
            assert_eq!(number(second * 512 + 4), 0);
        }
        assert!(bytes[overhead * 512..].iter().all(|b| *b == 7));
        assert_eq!(bytes.len(), overhead * 512 + 2 * GRAIN_BYTES);
    }

    #[test]
    fn every_grain_is_whole_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        let sink = Box::new(create_sparse(&path, ByteLen(512), &[], Overwrite::Refuse).unwrap());
        sink.write_at(GuestOffset(0), &[1; 512]).unwrap();
        sink.finish().unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            2 * GRAIN_BYTES as u64,
            "one for header and tables, one of data"
        );
    }

    #[test]
    fn a_file_that_would_pass_the_limit_is_refused_and_never_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        let extent = SparseExtent::create(&path, ByteLen(1 << 20), &[], Overwrite::Refuse).unwrap();
        extent.next_grain.store(BYTES_MAX - GRAIN_BYTES as u64, Ordering::Relaxed);
        assert_eq!(extent.allocate(1).unwrap(), BYTES_MAX - GRAIN_BYTES as u64);
        let outcome = extent.write_at(0, &[1; GRAIN_BYTES]);
        assert!(matches!(outcome, Err(TargetError::FileFull { .. })), "{outcome:?}");
        assert!(extent.finished().and_then(NewFile::publish).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
