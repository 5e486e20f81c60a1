//! What a piece of a table says, as runs: neighbouring cells joined, each compared with the end of the file. Pure.
//!
//! A run is a range of the guest's disk whose bytes lie side by side in the file, or that has no bytes at all. What is
//! wrong with a cell becomes a run of its own, so that one bad entry spoils nothing but its cell.

use crate::units::FileOffset;

/// What a table's entry means for its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Hole,
    Zero,
    /// All of it lies at this offset, which need not be inside the file.
    Stored(FileOffset),
    /// Compressed, in at most so many bytes from there; how much that is, the format knows.
    Packed(FileOffset, u64),
    /// Stored there, but only where its bitmap says so; the rest is a hole.
    Mixed(FileOffset),
    /// No such entry may exist; what would be right instead.
    Invalid(&'static str),
}

/// Bytes of one piece that follow each other, on the disk and (if stored) in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Offset of its first byte on the disk.
    pub start: u64,
    pub kind: RunKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    Hole,
    Zero,
    Stored(FileOffset),
    /// One cell: place and length.
    Packed(FileOffset, u64),
    /// One cell with a bitmap.
    Mixed(FileOffset),
    /// The entry's place, its value, and what would be right.
    Invalid(FileOffset, u64, &'static str),
    /// So many bytes that should lie here lead past the end of the file.
    PastEnd(FileOffset, u64),
}

/// The runs of a piece, growing with its entries in their order.
pub(crate) struct Runs {
    /// Size of the disk.
    size: u64,
    /// Length of the file that holds the cells.
    file_len: u64,
    runs: Vec<Run>,
}

impl Runs {
    pub(super) fn new(size: u64, file_len: u64) -> Runs {
        Runs { size, file_len, runs: Vec::new() }
    }

    /// Appends `len` bytes from `start` of the disk, where the run before ends; `entry` is the place and the value of
    /// the entry that says so.
    pub fn push(&mut self, start: u64, len: u64, cell: Cell, entry: (FileOffset, u64)) {
        let kind = self.kind_of(start, len, cell, entry);
        let follows = self.runs.last().is_some_and(|last| match (last.kind, kind) {
            (RunKind::Hole, RunKind::Hole) | (RunKind::Zero, RunKind::Zero) => true,
            (RunKind::Stored(from), RunKind::Stored(at)) => at.0.checked_sub(from.0) == Some(start - last.start),
            _ => false,
        });
        if !follows {
            self.runs.push(Run { start, kind });
        }
    }

    /// Sparse writers leave a short last cell, which is fine only if the disk ends inside it. Of a compressed one, whose
    /// length may be in whole sectors, the file may end with the data.
    fn kind_of(&self, start: u64, len: u64, cell: Cell, (place, value): (FileOffset, u64)) -> RunKind {
        let whole = len.min(self.size.saturating_sub(start));
        let (at, needed, kind) = match cell {
            Cell::Hole => return RunKind::Hole,
            Cell::Zero => return RunKind::Zero,
            Cell::Invalid(expected) => return RunKind::Invalid(place, value, expected),
            Cell::Stored(at) => (at, whole, RunKind::Stored(at)),
            Cell::Mixed(at) => (at, whole, RunKind::Mixed(at)),
            Cell::Packed(at, len) => (at, 1, RunKind::Packed(at, len)),
        };
        match at.0.checked_add(needed) {
            Some(end) if end <= self.file_len => kind,
            _ => RunKind::PastEnd(at, needed),
        }
    }

    /// The run that covers `at`, and where the next one begins, if there is one.
    pub(super) fn at(&self, at: u64) -> Option<(Run, Option<u64>)> {
        let index = self.runs.partition_point(|run| run.start <= at).checked_sub(1)?;
        Some((*self.runs.get(index)?, self.runs.get(index + 1).map(|next| next.start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: (FileOffset, u64) = (FileOffset(96), 7);

    #[track_caller]
    fn check(cells: &[Cell], expected: &[(u64, RunKind)]) {
        let mut runs = Runs::new(10 * 4096 + 512, 100 * 4096);
        for (start, cell) in (0u64..).step_by(4096).zip(cells) {
            runs.push(start, 4096, *cell, ENTRY);
        }
        let found: Vec<_> = runs.runs.iter().map(|run| (run.start, run.kind)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn neighbours_join_only_where_their_bytes_do() {
        let at = |block: u64| FileOffset(block * 4096);
        let (stored, hole, zero) = (|block| Cell::Stored(at(block)), Cell::Hole, Cell::Zero);
        check(&[hole, hole, zero, zero, hole], &[(0, RunKind::Hole), (8192, RunKind::Zero), (16_384, RunKind::Hole)]);
        check(&[stored(5), stored(6), stored(7)], &[(0, RunKind::Stored(at(5)))]);
        check(&[stored(5), stored(7)], &[(0, RunKind::Stored(at(5))), (4096, RunKind::Stored(at(7)))]);
        check(&[stored(5), stored(5)], &[(0, RunKind::Stored(at(5))), (4096, RunKind::Stored(at(5)))]);
        check(&[stored(6), stored(5)], &[(0, RunKind::Stored(at(6))), (4096, RunKind::Stored(at(5)))]);
        let packed = RunKind::Packed(at(5), 4096);
        check(&[Cell::Packed(at(5), 4096), Cell::Packed(at(5), 4096)], &[(0, packed), (4096, packed)]);
        check(&[Cell::Mixed(at(5)), Cell::Mixed(at(6))], &[(0, RunKind::Mixed(at(5))), (4096, RunKind::Mixed(at(6)))]);
        let invalid = RunKind::Invalid(ENTRY.0, ENTRY.1, "no 7");
        check(&[Cell::Invalid("no 7"), Cell::Invalid("no 7")], &[(0, invalid), (4096, invalid)]);
    }

    #[test]
    fn a_cell_must_lie_inside_the_file_as_far_as_the_disk_needs_it() {
        let end = 100 * 4096;
        let kind = |start, cell| Runs::new(10 * 4096 + 512, end).kind_of(start, 4096, cell, ENTRY);
        let stored = |at| Cell::Stored(FileOffset(at));
        assert_eq!(kind(0, stored(end - 4096)), RunKind::Stored(FileOffset(end - 4096)));
        assert_eq!(kind(0, stored(end - 4095)), RunKind::PastEnd(FileOffset(end - 4095), 4096));
        assert_eq!(kind(40_960, stored(end - 512)), RunKind::Stored(FileOffset(end - 512)));
        assert_eq!(kind(40_960, stored(end - 511)), RunKind::PastEnd(FileOffset(end - 511), 512));
        assert_eq!(kind(0, Cell::Mixed(FileOffset(u64::MAX))), RunKind::PastEnd(FileOffset(u64::MAX), 4096));
        assert_eq!(kind(0, Cell::Packed(FileOffset(end - 1), 4096)), RunKind::Packed(FileOffset(end - 1), 4096));
        assert_eq!(kind(0, Cell::Packed(FileOffset(end), 4096)), RunKind::PastEnd(FileOffset(end), 1));
    }
}
