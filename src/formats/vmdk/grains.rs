//! What all sparse VMDK extents share: a grain directory leads to grain tables, a table's entries lead to grains.
//!
//! A table is read when it is first needed and becomes a list of runs, neighbouring grains joined: a sequential read
//! turns into a few large reads of the file, and [`Disk::extent_at`] answers with long runs. Tables live in a bounded
//! cache; no lock is held across I/O.
//!
//! The formats differ in where their tables lie and what an entry means; that is [`GrainMap`], whose implementations
//! have checked their directory, so that every table they name lies inside the file.

use std::sync::Arc;

use super::sparse::stream;
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::formats::file::ImageFile;
use crate::formats::slot_cache::SlotCache;
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// Tables kept for one extent. A hosted table covers 32 MiB of the disk, so 64 keep several readers and small random
/// reads going; one costs at most 96 KiB (seSparse, every grain a run of its own).
const TABLES_CACHED: usize = 64;
/// Absent tables that one answer of `extent_at` looks at, so that asking is cheap however sparse the disk.
const ABSENT_TABLES_AHEAD: u64 = 4096;
/// Inflated grains kept for one compressed extent: reads smaller than a grain come in order.
const GRAINS_CACHED: usize = 4;

/// Where a format keeps its grain tables, and what their entries mean.
pub(super) trait GrainMap: Send + Sync {
    /// Bytes of a table entry, 4 or 8, little-endian.
    const ENTRY_BYTES: u64;
    /// Where table number `table` lies, inside the file; `None` if none of its grains is stored.
    fn table_at(&self, table: u64) -> Option<FileOffset>;
    /// What an entry means.
    fn grain(&self, entry: u64) -> Grain;
}

/// What a table entry means.
pub(super) enum Grain {
    Hole,
    Zero,
    /// Stored at this offset of the file, which need not be inside it.
    Stored(FileOffset),
    /// No such entry may exist; what would be right instead.
    Invalid(&'static str),
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

/// A sparse extent as a disk.
pub(super) struct GrainDisk<M> {
    file: Arc<ImageFile>,
    geometry: Geometry,
    storage: Storage,
    map: M,
    tables: SlotCache<Vec<Run>>,
    inflated: SlotCache<Vec<u8>>,
}

/// Grains of one table that follow each other, in the disk and (if stored) in the file.
struct Run {
    /// Number of its first grain within the table.
    first: u64,
    kind: RunKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Hole,
    Zero,
    Stored(FileOffset),
    /// The entry's place, its value, and what would be right.
    Invalid(FileOffset, u64, &'static str),
    /// The entry leads past the end of the file, to this offset.
    PastEnd(FileOffset),
}

/// A run as `Disk` needs it: the part from the offset asked about.
struct Answer {
    kind: RunKind,
    /// Bytes before the offset asked about in the same run.
    skipped: u64,
    /// Bytes from there on, at least 1.
    len: u64,
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

impl<M: GrainMap> GrainDisk<M> {
    pub fn new(file: Arc<ImageFile>, geometry: Geometry, storage: Storage, map: M) -> GrainDisk<M> {
        let (tables, inflated) = (SlotCache::new(TABLES_CACHED), SlotCache::new(GRAINS_CACHED));
        GrainDisk { file, geometry, storage, map, tables, inflated }
    }

    /// The run that covers `at`, which is inside the disk.
    fn answer_at(&self, at: u64) -> Result<Answer, DiskError> {
        let span = self.geometry.table_span();
        let (table, within) = (at / span, at % span);
        let table_end = self.geometry.size.min((table + 1).saturating_mul(span));
        let Some(place) = self.map.table_at(table) else {
            return Ok(Answer { kind: RunKind::Hole, skipped: within, len: table_end - at });
        };
        let runs = self.tables.get_or(table, || self.load_table(table, place))?;
        let index = runs.partition_point(|run| run.first * self.geometry.grain <= within) - 1;
        let start = runs[index].first * self.geometry.grain;
        let end = runs.get(index + 1).map_or(table_end, |next| table * span + next.first * self.geometry.grain);
        Ok(Answer { kind: runs[index].kind, skipped: within - start, len: end - at })
    }

    /// Reads a table and joins its entries into runs; the first run begins with grain 0.
    fn load_table(&self, table: u64, place: FileOffset) -> Result<Vec<Run>, DiskError> {
        let grains = self.geometry.grains_in(table);
        let bytes = self.file.read_vec("grain table", place, grains * M::ENTRY_BYTES)?;
        let entry_bytes = usize::try_from(M::ENTRY_BYTES).expect("4 or 8");
        let mut runs: Vec<Run> = Vec::new();
        for (number, entry) in (0u64..).zip(bytes.chunks_exact(entry_bytes)) {
            let value = entry.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            let guest = table * self.geometry.table_span() + number * self.geometry.grain;
            let kind = match self.map.grain(value) {
                Grain::Hole => RunKind::Hole,
                Grain::Zero => RunKind::Zero,
                Grain::Stored(at) if self.is_in_file(at, guest) => RunKind::Stored(at),
                Grain::Stored(at) => RunKind::PastEnd(at),
                Grain::Invalid(expected) => {
                    RunKind::Invalid(FileOffset(place.0 + number * M::ENTRY_BYTES), value, expected)
                }
            };
            let follows = runs.last().is_some_and(|last| match (last.kind, kind) {
                (RunKind::Hole, RunKind::Hole) | (RunKind::Zero, RunKind::Zero) => true,
                (RunKind::Stored(from), RunKind::Stored(at)) if self.storage == Storage::Plain => {
                    at.0.checked_sub(from.0) == Some((number - last.first) * self.geometry.grain)
                }
                _ => false,
            });
            if !follows {
                runs.push(Run { first: number, kind });
            }
        }
        Ok(runs)
    }

    /// Whether the file holds what the disk needs of the grain at guest offset `guest`: sparse writers leave a short
    /// last block, which is fine only if the disk ends inside it.
    fn is_in_file(&self, at: FileOffset, guest: u64) -> bool {
        let needed = match self.storage {
            Storage::Plain => self.geometry.grain.min(self.geometry.size - guest),
            Storage::Deflated => stream::MARKER_BYTES,
        };
        at.0.checked_add(needed).is_some_and(|end| end <= self.file.len())
    }

    fn fault(&self, kind: RunKind) -> Option<DiskError> {
        match kind {
            RunKind::Invalid(at, value, expected) => {
                Some(self.file.corrupt("grain table entry", at, expected, format_args!("{value:#x}")))
            }
            RunKind::PastEnd(at) => Some(self.file.truncated("grain", at, self.geometry.grain)),
            RunKind::Hole | RunKind::Zero | RunKind::Stored(_) => None,
        }
    }

    /// Reads one piece of a compressed grain; `buf` does not leave it.
    fn read_deflated(&self, place: FileOffset, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let grain = self.geometry.grain;
        let (number, within) = (at / grain, at % grain);
        let start = number * grain;
        let needed = grain.min(self.geometry.size - start);
        if buf.len() as u64 == needed {
            return stream::inflate_grain(&self.file, place, start, grain, buf);
        }
        let whole = self.inflated.get_or(number, || {
            let len = usize::try_from(needed).expect("a grain has at most 16 MiB");
            let mut whole = vec![0; len];
            stream::inflate_grain(&self.file, place, start, grain, &mut whole)?;
            Ok(whole)
        })?;
        let from = usize::try_from(within).expect("below the grain size");
        buf.copy_from_slice(&whole[from..from + buf.len()]);
        Ok(())
    }
}

impl<M: GrainMap> Disk for GrainDisk<M> {
    fn size(&self) -> ByteLen {
        ByteLen(self.geometry.size)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let mut at = at.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let answer = self.answer_at(at)?;
            let len = rest.len().min(usize::try_from(answer.len).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match (answer.kind, self.storage) {
                (RunKind::Hole | RunKind::Zero, _) => now.fill(0),
                (RunKind::Stored(from), Storage::Plain) => {
                    self.file.read("grain", FileOffset(from.0 + answer.skipped), now)?;
                }
                (RunKind::Stored(from), Storage::Deflated) => self.read_deflated(from, at, now)?,
                (kind, _) => return Err(self.fault(kind).expect("all other kinds are faults")),
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        let left = check_inside(self.size(), at)?.0;
        let first = self.answer_at(at.0)?;
        if let Some(fault) = self.fault(first.kind) {
            return Err(fault);
        }
        let kind = extent_kind(first.kind);
        let span = self.geometry.table_span();
        let table = at.0 / span;
        let mut len = first.len;
        // On to the end of this table, and over absent tables behind it: both without further I/O.
        while len < left {
            let next = at.0 + len;
            let is_near = next / span == table
                || (next / span - table < ABSENT_TABLES_AHEAD && self.map.table_at(next / span).is_none());
            if !is_near {
                break;
            }
            let answer = self.answer_at(next)?;
            if self.fault(answer.kind).is_some() || extent_kind(answer.kind) != kind {
                break;
            }
            len += answer.len;
        }
        Ok(Extent { kind, len: ByteLen(len) })
    }
}

fn extent_kind(kind: RunKind) -> ExtentKind {
    match kind {
        RunKind::Hole => ExtentKind::Hole,
        RunKind::Zero => ExtentKind::Zero,
        RunKind::Stored(_) | RunKind::Invalid(..) | RunKind::PastEnd(_) => ExtentKind::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;
    use std::fs::File;

    /// Tables of 4 grains of 1 KiB with 8-byte entries; 0 hole, 1 zero, 2 invalid, else a file offset.
    struct Toy(Vec<Option<u64>>);

    impl GrainMap for Toy {
        const ENTRY_BYTES: u64 = 8;
        fn table_at(&self, table: u64) -> Option<FileOffset> {
            self.0[table as usize].map(FileOffset)
        }
        fn grain(&self, entry: u64) -> Grain {
            match entry {
                0 => Grain::Hole,
                1 => Grain::Zero,
                2 => Grain::Invalid("no 2"),
                at => Grain::Stored(FileOffset(at)),
            }
        }
    }

    fn toy(tables: &[Option<[u64; 4]>], size: u64, file_len: usize) -> (tempfile::TempDir, GrainDisk<Toy>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toy");
        let mut bytes: Vec<u8> = tables.iter().flatten().flatten().flat_map(|entry| entry.to_le_bytes()).collect();
        bytes.extend((bytes.len()..file_len).map(|i| (i / 1024) as u8));
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(ImageFile::new(&path, File::open(&path).unwrap()).unwrap());
        let mut places_left = (0u64..).step_by(32);
        let places = tables.iter().map(|table| table.and_then(|_| places_left.next())).collect();
        let geometry = Geometry { size, grain: 1024, grains_per_table: 4 };
        (dir, GrainDisk::new(file, geometry, Storage::Plain, Toy(places)))
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
        conformance::check(&disk, &expected);
        assert_eq!(disk.tables.get_or(0, || Err(())).unwrap().len(), 2);
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
