//! From a guest offset to the place of its bytes: an L1 table leads to L2 tables, whose entries lead to clusters.
//!
//! Nothing is held whole. The L1 table is read in pages, kept in a bounded cache; an L2 table (up to 2 MiB) in slices of
//! 4 KiB, the pieces of which [`mapped`](crate::formats::mapped) makes runs.
//!
//! Tables that overlap, or lead to themselves, are not looked for: reading stays inside the file and ends either way.

use std::sync::Arc;

use super::entries::{Cluster, Rules, SUBCLUSTERS, l2_table};
use crate::disk::DiskError;
use crate::formats::cache::SlotCache;
use crate::formats::file::ImageFile;
use crate::formats::mapped::{Cell, Entry, Piece, Runs};
use crate::units::FileOffset;

/// Bytes of an L2 table that are read at once: 32 MiB of a disk in clusters of 64 KiB.
const SLICE_BYTES: u64 = 4096;
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
    geometry: Geometry,
    rules: Rules,
    l1_at: FileOffset,
    pages: SlotCache<Vec<u64>>,
}

impl Tables {
    /// The tables below the L1 table at `l1_at` of `file`. All of the L1 table is looked at: it and every L2 table must
    /// lie inside the file.
    pub fn open(
        file: Arc<ImageFile>,
        geometry: Geometry,
        rules: Rules,
        l1_at: FileOffset,
    ) -> Result<Tables, DiskError> {
        file.check_holds("L1 table", l1_at, geometry.l1_entries() * 8)?;
        let tables = Tables { file, geometry, rules, l1_at, pages: SlotCache::new(PAGES_CACHED) };
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
        Ok(Entry::Be64.all(&bytes).collect())
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
    fn l2_at(&self, at: u64) -> Result<Option<FileOffset>, DiskError> {
        let number = at / self.geometry.table_span();
        let page = self.pages.get_or(number / PAGE_ENTRIES, || self.read_page(number / PAGE_ENTRIES))?;
        let index = usize::try_from(number % PAGE_ENTRIES).expect("below the page's length");
        self.check_l1_entry(number, page[index])
    }

    /// The file that holds the tables.
    pub fn file(&self) -> &ImageFile {
        &self.file
    }

    /// Sizes of the image.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The slice that maps `at`, which is inside the disk; or all that an absent L2 table would map.
    pub fn slice_at(&self, at: u64) -> Result<Piece, DiskError> {
        let geometry = &self.geometry;
        let table = self.l2_at(at)?;
        let span = if table.is_some() { geometry.slice_span() } else { geometry.table_span() };
        let (number, start) = (at / span, at - at % span);
        let end = start.saturating_add(span).min(geometry.size);
        let from = start % geometry.table_span() / geometry.cluster() * geometry.entry_bytes();
        // Both below 2^56.
        Ok(Piece { number, start, end, entries_at: table.map(|table| FileOffset(table.0 + from)) })
    }

    /// Reads a slice and says what its entries mean.
    pub fn load(&self, slice: &Piece, entries_at: FileOffset, runs: &mut Runs) -> Result<(), DiskError> {
        let (cluster, entry_bytes) = (self.geometry.cluster(), self.geometry.entry_bytes());
        let count = (slice.end - slice.start).div_ceil(cluster);
        let table = self.file.read_vec("L2 table", entries_at, count * entry_bytes)?;
        let mut words = Entry::Be64.all(&table);
        for number in 0..count {
            let Some(entry) = words.next() else { break };
            let bitmap = if self.geometry.is_extended { words.next().unwrap_or(0) } else { 0 };
            let start = slice.start + number * cluster;
            let place = FileOffset(entries_at.0 + number * entry_bytes);
            match self.rules.cluster(entry, bitmap) {
                Cluster::Whole(cell) => {
                    // What is wrong with an extended entry may lie in either half.
                    let is_second = matches!(cell, Cell::Invalid(expected) if expected.contains("subcluster"));
                    runs.push(start, cluster, cell, (place, if is_second { bitmap } else { entry }));
                }
                Cluster::Split { at, stored, zero } => {
                    let len = cluster / u64::from(SUBCLUSTERS);
                    for number in 0..SUBCLUSTERS {
                        let from = u64::from(number) * len;
                        let cell = subcluster(at, stored >> number & 1 == 1, zero >> number & 1 == 1, from);
                        runs.push(start + from, len, cell, (place, bitmap));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What the subcluster `from` bytes inside its cluster is.
fn subcluster(cluster: Option<FileOffset>, is_stored: bool, is_zero: bool, from: u64) -> Cell {
    match cluster {
        Some(at) if is_stored => Cell::Stored(FileOffset(at.0 + from)),
        _ if is_zero => Cell::Zero,
        _ => Cell::Hole,
    }
}
