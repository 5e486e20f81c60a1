//! A segment's list in a form for reading: which entry holds a byte, and where that entry's chunk lies, once it was found.
//!
//! Lists are shared by all disks that have them, under their chunk ids. Rows of the index are never given out twice, so a
//! place stays right as long as its row exists; readers must bear that it does not.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use super::index::PackRow;
use super::map::ListEntry;
use super::pack::ChunkPlace;

/// A segment's list.
pub struct SegmentList {
    entries: Vec<ListEntry>,
    /// Where each entry ends in the segment, in bytes.
    ends: Vec<u32>,
    places: Vec<OnceLock<(PackRow, ChunkPlace)>>,
    /// The pack in which an entry's chunk was found last; 0, which no row has, before that.
    last_row: AtomicI64,
}

impl SegmentList {
    /// A list whose entries cover a segment.
    pub fn new(entries: Vec<ListEntry>) -> SegmentList {
        let ends = entries.iter().scan(0u32, |end, entry| {
            *end += entry.len(); // a segment has 4 MiB, and the entries cover it exactly
            Some(*end)
        });
        let ends = ends.collect();
        let places = entries.iter().map(|_| OnceLock::new()).collect();
        SegmentList { entries, ends, places, last_row: AtomicI64::new(0) }
    }

    /// Its entries in order.
    pub fn entries(&self) -> &[ListEntry] {
        &self.entries
    }

    /// Bytes that the entries cover: the segment's length.
    pub fn covered(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    /// The entry that holds byte `at` of the segment, below [`SegmentList::covered`], and where the entry begins and ends.
    pub fn entry_at(&self, at: usize) -> (usize, std::ops::Range<usize>) {
        let number = self.ends.partition_point(|end| *end as usize <= at);
        let end = self.ends[number] as usize;
        (number, end - self.entries[number].len() as usize..end)
    }

    /// Where the chunk of entry `number` lies, if it was found before.
    pub fn place(&self, number: usize) -> Option<(PackRow, ChunkPlace)> {
        self.places[number].get().copied()
    }

    /// The pack in which the chunk of some entry was found last: the others mostly lie there too.
    pub fn last_row(&self) -> Option<PackRow> {
        match self.last_row.load(Ordering::Relaxed) {
            0 => None,
            row => Some(PackRow(row)),
        }
    }

    /// Remembers where the chunk of entry `number` lies.
    pub fn remember(&self, number: usize, row: PackRow, place: ChunkPlace) {
        self.last_row.store(row.0, Ordering::Relaxed);
        let _ = self.places[number].set((row, place)); // another thread found it as well
    }

    /// Bytes it takes in memory, about.
    pub fn weight(&self) -> u64 {
        let entry = size_of::<ListEntry>() + size_of::<u32>() + size_of::<OnceLock<(PackRow, ChunkPlace)>>();
        (self.entries.len() * entry + 128) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::ChunkId;

    #[test]
    fn every_byte_has_its_entry() {
        let entries = vec![ListEntry::Zero(3), ListEntry::Chunk(ChunkId([1; 20]), 1), ListEntry::Zero(2)];
        let list = SegmentList::new(entries);
        assert_eq!(list.covered(), 6);
        let found: Vec<_> = (0..6).map(|at| list.entry_at(at)).collect();
        assert_eq!(found, [(0, 0..3), (0, 0..3), (0, 0..3), (1, 3..4), (2, 4..6), (2, 4..6)]);
        assert_eq!(SegmentList::new(Vec::new()).covered(), 0);
    }
}
