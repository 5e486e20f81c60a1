//! From a guest offset to the place of its bytes: an L1 table leads to L2 tables, whose entries lead to clusters.
//!
//! Nothing is held whole. The L1 table is read in pages; an L2 table (up to 2 MiB) in slices of 4 KiB, each of which
//! becomes a list of runs, neighbouring clusters joined: a sequential read turns into a few large reads of the file, and
//! long runs answer [`Disk::extent_at`](crate::disk::Disk::extent_at). Pages and slices live in bounded caches.
//!
//! Tables that overlap, or lead to themselves, are not looked for: reading stays inside the file and ends either way.

use std::sync::Arc;

use super::entries::{Cluster, Rules, SUBCLUSTERS, l2_table};
use crate::disk::DiskError;
use crate::formats::cache::SlotCache;
use crate::formats::file::ImageFile;
use crate::units::FileOffset;

/// Bytes of an L2 table that are read at once: 32 MiB of a disk in clusters of 64 KiB.
const SLICE_BYTES: u64 = 4096;
/// Slices kept. One is a few runs as a rule, and 400 KiB if every subcluster is a run of its own.
const SLICES_CACHED: usize = 64;
/// Entries of the L1 table that are read at once.
const PAGE_ENTRIES: u64 = 8192;
/// Pages kept, 64 KiB each; one maps 4 TiB in clusters of 64 KiB, and the smallest clusters have most pages.
const PAGES_CACHED: usize = 16;

/// Sizes of an image, already checked: their products fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Size of the disk in bytes.
    pub size: u64,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// L2 entries have 16 bytes and know subclusters.
    pub is_extended: bool,
}

impl Geometry {
    /// Size of a cluster in bytes.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that an L2 table maps, at most 2^39.
    pub fn table_span(&self) -> u64 {
        self.cluster() * (self.cluster() / self.entry_bytes())
    }

    /// L1 entries that map all of the disk.
    pub fn l1_entries(&self) -> u64 {
        self.size.div_ceil(self.table_span())
    }

    fn entry_bytes(&self) -> u64 {
        if self.is_extended { 16 } else { 8 }
    }

    /// Bytes of the disk that a slice maps. Slices divide tables, for all sizes are powers of two.
    fn slice_span(&self) -> u64 {
        self.cluster() * (self.cluster().min(SLICE_BYTES) / self.entry_bytes())
    }
}

/// The tables of one state of the disk: the active one's, or a snapshot's.
pub(super) struct Tables {
    /// Holds the tables.
    file: Arc<ImageFile>,
    /// Length of the file that holds the clusters.
    data_len: u64,
    geometry: Geometry,
    rules: Rules,
    l1_at: FileOffset,
    pages: SlotCache<Vec<u64>>,
    slices: SlotCache<Vec<Run>>,
}

/// Bytes of one slice that follow each other, on the disk and (if stored) in the file.
struct Run {
    /// Offset of its first byte within the slice.
    first: u64,
    kind: RunKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    Hole,
    Zero,
    Stored(FileOffset),
    /// One cluster, compressed: place and length.
    Compressed(FileOffset, u64),
    /// The entry's place, its value, and what would be right.
    Invalid(FileOffset, u64, &'static str),
    /// So many bytes that should lie here lead past the end of the file.
    PastEnd(FileOffset, u64),
}

/// A run as `Disk` needs it: the part from the offset asked about.
pub(super) struct Answer {
    pub kind: RunKind,
    /// Bytes before the offset asked about in the same run.
    pub skipped: u64,
    /// Bytes from there on, at least 1.
    pub len: u64,
}

impl Tables {
    /// The tables below the L1 table at `l1_at` of `file`, for clusters that lie in `data`. All of the L1 table is looked
    /// at: it and every L2 table must lie inside the file.
    pub fn open(
        file: Arc<ImageFile>,
        data: &ImageFile,
        geometry: Geometry,
        rules: Rules,
        l1_at: FileOffset,
    ) -> Result<Tables, DiskError> {
        file.check_holds("L1 table", l1_at, geometry.l1_entries() * 8)?;
        let (pages, slices) = (SlotCache::new(PAGES_CACHED), SlotCache::new(SLICES_CACHED));
        let tables = Tables { file, data_len: data.len(), geometry, rules, l1_at, pages, slices };
        for page in 0..geometry.l1_entries().div_ceil(PAGE_ENTRIES) {
            let entries = tables.read_page(page)?;
            for (number, entry) in (page * PAGE_ENTRIES..).zip(&entries) {
                tables.check_l1_entry(number, *entry)?;
            }
        }
        Ok(tables)
    }

    fn read_page(&self, page: u64) -> Result<Vec<u64>, DiskError> {
        let first = page * PAGE_ENTRIES;
        let count = (self.geometry.l1_entries() - first).min(PAGE_ENTRIES);
        let bytes = self.file.read_vec("L1 table", FileOffset(self.l1_at.0 + first * 8), count * 8)?;
        Ok(bytes.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().expect("chunks of 8"))).collect())
    }

    /// Where L2 table number `number` lies, all of its entries that map the disk inside the file.
    fn check_l1_entry(&self, number: u64, entry: u64) -> Result<Option<FileOffset>, DiskError> {
        let span = self.geometry.table_span();
        let needed = (self.geometry.size - number * span).min(span).div_ceil(self.geometry.cluster());
        let place = l2_table(entry, self.geometry.cluster_bits);
        match place {
            Ok(None) => Ok(None),
            Ok(Some(at)) if self.file.check_holds("", at, needed * self.geometry.entry_bytes()).is_ok() => Ok(Some(at)),
            _ => {
                let expected = format!(
                    "an L2 table at a multiple of {} bytes inside the file of {} bytes",
                    self.geometry.cluster(),
                    self.file.len()
                );
                let at = FileOffset(self.l1_at.0 + number * 8);
                Err(self.file.corrupt("L1 table entry", at, expected, format_args!("{entry:#x}")))
            }
        }
    }

    /// Where the L2 table that maps `at` lies.
    pub fn l2_at(&self, at: u64) -> Result<Option<FileOffset>, DiskError> {
        let number = at / self.geometry.table_span();
        let page = self.pages.get_or(number / PAGE_ENTRIES, || self.read_page(number / PAGE_ENTRIES))?;
        let index = usize::try_from(number % PAGE_ENTRIES).expect("below the page's length");
        self.check_l1_entry(number, page[index])
    }

    /// The end of the slice that maps `at`: up to there, an answer costs no more than this slice.
    pub fn slice_end(&self, at: u64) -> u64 {
        let span = self.geometry.slice_span();
        ((at / span + 1) * span).min(self.geometry.size)
    }

    /// The run that covers `at`, which is inside the disk.
    pub fn answer_at(&self, at: u64) -> Result<Answer, DiskError> {
        let geometry = &self.geometry;
        let Some(table) = self.l2_at(at)? else {
            let start = at - at % geometry.table_span();
            let end = start.saturating_add(geometry.table_span()).min(geometry.size);
            return Ok(Answer { kind: RunKind::Hole, skipped: at - start, len: end - at });
        };
        let (slice, within) = (at / geometry.slice_span(), at % geometry.slice_span());
        let start = at - within;
        let runs = self.slices.get_or(slice, || self.load_slice(start, table))?;
        let index = runs.partition_point(|run| run.first <= within) - 1;
        let end = runs.get(index + 1).map_or(self.slice_end(at), |next| start + next.first);
        Ok(Answer { kind: runs[index].kind, skipped: within - runs[index].first, len: end - at })
    }

    /// Reads the slice that maps the disk from `start`, and joins its entries into runs; the first run begins with byte 0.
    fn load_slice(&self, start: u64, table: FileOffset) -> Result<Vec<Run>, DiskError> {
        let geometry = &self.geometry;
        let clusters = (self.slice_end(start) - start).div_ceil(geometry.cluster());
        let from = start % geometry.table_span() / geometry.cluster() * geometry.entry_bytes();
        let place = table.0 + from; // both below 2^56
        let bytes = self.file.read_vec("L2 table", FileOffset(place), clusters * geometry.entry_bytes())?;
        let words: Vec<u64> =
            bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("chunks of 8"))).collect();
        let mut runs = Runs { tables: self, start, runs: Vec::new() };
        for (number, entry) in (0u64..).zip(words.chunks_exact(if geometry.is_extended { 2 } else { 1 })) {
            let (entry, bitmap) = (entry[0], entry.get(1).copied().unwrap_or(0));
            let (first, len) = (number * geometry.cluster(), geometry.cluster());
            match self.rules.cluster(entry, bitmap) {
                Cluster::Hole => runs.push(first, len, RunKind::Hole),
                Cluster::Zero => runs.push(first, len, RunKind::Zero),
                Cluster::Stored(at) => runs.push(first, len, RunKind::Stored(at)),
                Cluster::Compressed(at, len) => runs.push(first, 1, RunKind::Compressed(at, len)),
                Cluster::Mixed { at, stored, zero } => runs.push_subclusters(first, at, stored, zero),
                Cluster::Invalid(expected) => {
                    let at = FileOffset(place + number * geometry.entry_bytes());
                    // What is wrong with an extended entry may lie in either half.
                    let value = if expected.contains("subcluster") { bitmap } else { entry };
                    runs.push(first, len, RunKind::Invalid(at, value, expected));
                }
            }
        }
        Ok(runs.runs)
    }
}

/// The runs of a slice, growing.
struct Runs<'a> {
    tables: &'a Tables,
    /// Guest offset of the slice.
    start: u64,
    runs: Vec<Run>,
}

impl Runs<'_> {
    fn push_subclusters(&mut self, first: u64, at: Option<FileOffset>, stored: u32, zero: u32) {
        let len = self.tables.geometry.cluster() / u64::from(SUBCLUSTERS);
        for number in 0..SUBCLUSTERS {
            let from = u64::from(number) * len;
            let kind = match (stored >> number & 1, at) {
                (1, Some(at)) => RunKind::Stored(FileOffset(at.0 + from)),
                _ if zero >> number & 1 == 1 => RunKind::Zero,
                _ => RunKind::Hole,
            };
            self.push(first + from, len, kind);
        }
    }

    /// Appends `len` bytes from `first`, or makes the last run longer by them.
    fn push(&mut self, first: u64, len: u64, kind: RunKind) {
        let kind = self.inside(first, len, kind);
        let follows = self.runs.last().is_some_and(|last| match (last.kind, kind) {
            (RunKind::Hole, RunKind::Hole) | (RunKind::Zero, RunKind::Zero) => true,
            (RunKind::Stored(from), RunKind::Stored(at)) => at.0.checked_sub(from.0) == Some(first - last.first),
            _ => false,
        });
        if !follows {
            self.runs.push(Run { first, kind });
        }
    }

    /// The same, unless the file does not hold what the disk needs of it. A last cluster may be short if the disk ends
    /// inside it; of a compressed one, whose length is in whole sectors, the file may end with the data.
    fn inside(&self, first: u64, len: u64, kind: RunKind) -> RunKind {
        let (at, needed) = match kind {
            RunKind::Stored(at) => (at, len.min(self.tables.geometry.size.saturating_sub(self.start + first))),
            RunKind::Compressed(at, _) => (at, 1),
            _ => return kind,
        };
        match at.0.checked_add(needed) {
            Some(end) if end <= self.tables.data_len => kind,
            _ => RunKind::PastEnd(at, needed),
        }
    }
}
