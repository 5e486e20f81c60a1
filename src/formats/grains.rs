//! What sparse VMDK extents and QED share: a directory in memory leads to tables, a table's entries lead to grains (QED calls
//! them clusters).
//!
//! A table is read when it is first needed. The formats differ in where their tables lie and what an entry means; that is
//! [`GrainMap`], whose implementations have checked their directory, so that every table they name lies inside the file.

use std::sync::Arc;

use super::file::{Bytes, ImageFile};
use super::mapped::{Cell, CellMap, Entry, MappedDisk, Names, Packed, Piece, Runs, Unpacker};
use super::vmdk::sparse::stream;
use crate::disk::{Disk, DiskError};
use crate::units::FileOffset;

/// Where a format keeps its tables, and what their entries mean.
pub(crate) trait GrainMap: Send + Sync {
    /// How an entry lies in its table.
    const ENTRY: Entry;
    /// What errors call things.
    const NAMES: Names = Names { entry: "grain table entry", cell: "grain" };
    /// Where table number `table` lies, inside the file; `None` if none of its grains is stored.
    fn table_at(&self, table: u64) -> Option<FileOffset>;
    /// What an entry means.
    fn grain(&self, entry: u64) -> Cell;
}

/// Sizes of a grained extent, already checked: none is 0, and their products fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Size of the extent in bytes.
    pub size: u64,
    /// Size of a grain in bytes.
    pub grain: u64,
    /// Grains a table covers.
    pub grains_per_table: u64,
}

/// How a grain's bytes lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Plain,
    /// zlib behind a marker (streamOptimized).
    Deflated,
}

/// The disk that `map` describes.
pub(crate) fn disk<M: GrainMap + 'static>(
    file: Arc<ImageFile>,
    geometry: Geometry,
    storage: Storage,
    map: M,
) -> Arc<dyn Disk> {
    Arc::new(MappedDisk::new(Grains { file, geometry, storage, map }))
}

/// A sparse extent.
struct Grains<M> {
    file: Arc<ImageFile>,
    geometry: Geometry,
    storage: Storage,
    map: M,
}

impl Geometry {
    /// Bytes a table covers.
    pub fn table_span(&self) -> u64 {
        self.grain.saturating_mul(self.grains_per_table)
    }

    /// Tables that cover the whole extent.
    pub fn tables(&self) -> u64 {
        self.size.div_ceil(self.table_span())
    }

    /// Grains of table number `table` that lie on the disk; the last table covers more than the disk.
    pub fn grains_in(&self, table: u64) -> u64 {
        let start = table.saturating_mul(self.table_span());
        self.size.saturating_sub(start).div_ceil(self.grain).min(self.grains_per_table)
    }
}

impl<M: GrainMap> CellMap for Grains<M> {
    const NAMES: Names = M::NAMES;
    // A hosted table covers 32 MiB of the disk, so these keep several readers and small random reads going; one costs at
    // most 200 KiB (seSparse, every grain a run of its own).
    const PIECES_CACHED: usize = 64;

    fn size(&self) -> u64 {
        self.geometry.size
    }

    fn cell(&self) -> u64 {
        self.geometry.grain
    }

    fn table_file(&self) -> &ImageFile {
        &self.file
    }

    fn cells(&self) -> &dyn Bytes {
        self.file.as_ref()
    }

    fn piece_at(&self, at: u64) -> Result<Piece, DiskError> {
        let span = self.geometry.table_span();
        let number = at / span;
        let (start, end) = (number * span, self.geometry.size.min((number + 1).saturating_mul(span)));
        Ok(Piece { number, start, end, entries_at: self.map.table_at(number) })
    }

    fn load(&self, piece: &Piece, entries_at: FileOffset, runs: &mut Runs) -> Result<(), DiskError> {
        let grain = self.geometry.grain;
        let len = self.geometry.grains_in(piece.number) * M::ENTRY.bytes();
        let table = self.file.read_vec("grain table", entries_at, len)?;
        for (number, entry) in (0u64..).zip(M::ENTRY.all(&table)) {
            let cell = match (self.map.grain(entry), self.storage) {
                (Cell::Stored(at), Storage::Deflated) => Cell::Packed(at, stream::MARKER_BYTES),
                (cell, _) => cell,
            };
            let place = FileOffset(entries_at.0 + number * M::ENTRY.bytes());
            runs.push(piece.start + number * grain, grain, cell, (place, entry));
        }
        Ok(())
    }

    /// What the disk needs of it: the last grain may be cut short by the disk's end.
    fn unpacked_len(&self, start: u64) -> u64 {
        self.geometry.grain.min(self.geometry.size - start)
    }

    fn unpack(&self, packed: Packed, unpacker: &mut Unpacker, out: &mut [u8]) -> Result<(), DiskError> {
        stream::inflate_grain(&self.file, packed, self.geometry.grain, unpacker, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{ExtentKind, conformance};
    use crate::units::GuestOffset;
    use std::fs::File;

    /// Tables of 4 grains of 1 KiB with 8-byte entries; 0 hole, 1 zero, 2 invalid, else a file offset.
    struct Toy(Vec<Option<u64>>);

    impl GrainMap for Toy {
        const ENTRY: Entry = Entry::Le64;
        fn table_at(&self, table: u64) -> Option<FileOffset> {
            self.0[table as usize].map(FileOffset)
        }
        fn grain(&self, entry: u64) -> Cell {
            match entry {
                0 => Cell::Hole,
                1 => Cell::Zero,
                2 => Cell::Invalid("no 2"),
                at => Cell::Stored(FileOffset(at)),
            }
        }
    }

    fn toy(tables: &[Option<[u64; 4]>], size: u64, file_len: usize) -> (tempfile::TempDir, Arc<dyn Disk>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toy");
        let mut bytes: Vec<u8> = tables.iter().flatten().flatten().flat_map(|entry| entry.to_le_bytes()).collect();
        bytes.extend((bytes.len()..file_len).map(|i| (i / 1024) as u8));
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(ImageFile::new(&path, File::open(&path).unwrap()).unwrap());
        let mut places_left = (0u64..).step_by(32);
        let places = tables.iter().map(|table| table.and_then(|_| places_left.next())).collect();
        let geometry = Geometry { size, grain: 1024, grains_per_table: 4 };
        (dir, super::disk(file, geometry, Storage::Plain, Toy(places)))
    }

    #[test]
    fn neighbouring_grains_are_one_run_and_the_last_grain_may_be_short() {
        let tables = [Some([1024, 2048, 3072, 0]), None, None, Some([1, 1, 9216, 0])];
        let (_dir, disk) = toy(&tables, 4096 * 3 + 2048 + 512, 9216 + 512);
        let mut expected = vec![0; 4096 * 3 + 2048 + 512];
        for (i, byte) in [1, 2, 3].into_iter().enumerate() {
            expected[i * 1024..(i + 1) * 1024].fill(byte);
        }
        expected[4096 * 3 + 2048..].fill(9);
        conformance::check(disk.as_ref(), &expected);
        let extent = |at| disk.extent_at(GuestOffset(at)).map(|extent| (extent.kind, extent.len.0)).unwrap();
        assert_eq!(extent(100), (ExtentKind::Data, 3072 - 100));
        assert_eq!(extent(3072), (ExtentKind::Hole, 1024 + 2 * 4096));
        assert_eq!(extent(3 * 4096 + 1), (ExtentKind::Zero, 2047));
        assert_eq!(extent(3 * 4096 + 2048), (ExtentKind::Data, 512));
    }

    #[test]
    fn one_bad_entry_spoils_only_its_grain() {
        let (_dir, disk) = toy(&[Some([1024, 2, 5000, 0])], 4096, 5500);
        let mut grain = [0; 1024];
        disk.read_at(GuestOffset(0), &mut grain).unwrap();
        assert_eq!(disk.extent_at(GuestOffset(0)).unwrap().len.0, 1024);
        let said = |at, grain: &mut [u8]| {
            let read = disk.read_at(GuestOffset(at), grain).unwrap_err().to_string();
            assert_eq!(read, disk.extent_at(GuestOffset(at)).unwrap_err().to_string());
            read
        };
        assert!(said(1024, &mut grain).contains("grain table entry at offset 0x8: expected no 2, found 0x2"));
        let past = "grain at offset 0x1388: expected 1024 bytes there, found a truncated image of 5500 bytes";
        assert!(said(2048, &mut grain).contains(past));
        disk.read_at(GuestOffset(3072), &mut grain).unwrap();
    }
}
