//! Disks that a table maps: what all formats with allocated blocks share, whatever they call them (grains, clusters,
//! blocks; here: cells).
//!
//! A table is never held whole. It is read in pieces, when they are first needed, and a piece becomes a list of runs
//! (`runs`): a sequential read turns into few large reads of the file, and [`Disk::extent_at`] answers with long runs.
//! Pieces, bitmaps and unpacked cells live in bounded caches; no lock is held across I/O.
//!
//! The formats differ in where their entries lie and what they mean: that is [`CellMap`], of which there are three,
//! [`blocks`](super::blocks) (one table), [`grains`](super::grains) (a directory of tables), and qcow2's (two levels that
//! are both read in pieces).

mod runs;
mod unpack;

pub(crate) use self::runs::{Cell, Runs};
pub(crate) use self::unpack::Unpacker;

use self::runs::RunKind;
use self::unpack::Pool;
use super::cache::SlotCache;
use super::file::{Bytes, ImageFile};
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// Unpacked cells kept for one layer, as reads smaller than a cell come in order, from several places at once: so many, but
/// no more bytes than that, unless it were fewer than the least.
const UNPACKED_CACHED: usize = 16;
const UNPACKED_CACHED_MIN: usize = 4;
const UNPACKED_CACHED_BYTES: u64 = 16 << 20;
/// Absent pieces that one answer of `extent_at` looks at, so that asking is cheap however sparse the disk.
const ABSENT_PIECES_AHEAD: u32 = 4096;
/// Cells with a bitmap that one answer of `extent_at` looks at.
const MIXED_AHEAD: u32 = 64;

/// How a format finds its cells. Its implementations have checked their geometry and that all of their table lies inside
/// the file, or check each piece of it.
pub(crate) trait CellMap: Send + Sync {
    /// What errors call an entry of the table, and a cell.
    const NAMES: Names;
    /// Pieces kept for one layer.
    const PIECES_CACHED: usize;

    /// Size of the disk in bytes, below 2^63.
    fn size(&self) -> u64;
    /// Size of a cell in bytes, not 0.
    fn cell(&self) -> u64;
    /// The file that holds the table.
    fn table_file(&self) -> &ImageFile;
    /// The file that holds the cells.
    fn cells(&self) -> &dyn Bytes;
    /// The piece of the table that maps `at`, which is inside the disk.
    fn piece_at(&self, at: u64) -> Result<Piece, DiskError>;
    /// Reads a piece whose entries lie at `entries_at`: pushes what they say from `piece.start` to `piece.end`.
    fn load(&self, piece: &Piece, entries_at: FileOffset, runs: &mut Runs) -> Result<(), DiskError>;

    /// For a [`Cell::Mixed`] that begins at guest offset `start` and lies at `stored`: whether its byte number `within` is
    /// stored, and the number of the next that is not so.
    fn mixed(&self, start: u64, stored: FileOffset, within: u64) -> Result<(bool, u64), DiskError> {
        let _ = (start, within);
        Err(self.cells().file().corrupt(Self::NAMES.cell, stored, "a format with bitmaps", "none"))
    }

    /// How many bytes [`CellMap::unpack`] is to make of the cell that begins at guest offset `start`.
    fn unpacked_len(&self, start: u64) -> u64 {
        let _ = start;
        self.cell()
    }

    /// Unpacks a [`Cell::Packed`] into all of `out`.
    fn unpack(&self, packed: Packed, unpacker: &mut Unpacker, out: &mut [u8]) -> Result<(), DiskError> {
        let _ = (unpacker, out);
        Err(self.cells().file().corrupt(Self::NAMES.cell, packed.at, "a format with compression", "none"))
    }
}

/// What errors call things.
pub(crate) struct Names {
    pub entry: &'static str,
    pub cell: &'static str,
}

/// A piece of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// No other piece with entries has it.
    pub number: u64,
    /// The part of the disk that it maps: from here …
    pub start: u64,
    /// … to here, at most the disk's end.
    pub end: u64,
    /// Where its entries lie; `None` if nothing is stored in all of it.
    pub entries_at: Option<FileOffset>,
}

/// A compressed cell that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    /// Where it begins on the disk.
    pub start: u64,
    /// Where it lies, and in how many bytes, as its entry says.
    pub at: FileOffset,
    pub len: u64,
    /// Bytes of the file behind it that may be wanted soon, as a guess.
    pub ahead: u64,
}

/// How entries lie in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Le32,
    Be32,
    Le64,
    Be64,
}

impl Entry {
    /// Bytes of an entry.
    pub const fn bytes(self) -> u64 {
        match self {
            Entry::Le32 | Entry::Be32 => 4,
            Entry::Le64 | Entry::Be64 => 8,
        }
    }

    /// The entries of a table in memory.
    pub fn all(self, table: &[u8]) -> impl Iterator<Item = u64> + '_ {
        table.chunks_exact(if self.bytes() == 4 { 4 } else { 8 }).map(move |entry| self.value(entry))
    }

    /// One entry, which has [`Entry::bytes`] bytes.
    pub fn value(self, entry: &[u8]) -> u64 {
        let more = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        match self {
            Entry::Le32 | Entry::Le64 => entry.iter().rev().fold(0, more),
            Entry::Be32 | Entry::Be64 => entry.iter().fold(0, more),
        }
    }
}

/// One layer of an image as a disk.
pub(crate) struct MappedDisk<M> {
    map: M,
    pieces: SlotCache<Runs>,
    unpacked: SlotCache<Vec<u8>>,
    pool: Pool,
}

/// What covers an offset.
struct Answer {
    kind: Stored,
    /// For how many bytes from there, at least 1.
    len: u64,
    /// Where the piece ends that says so.
    piece_end: u64,
    /// It took a bitmap to know.
    is_mixed: bool,
}

#[derive(Clone, Copy)]
enum Stored {
    Hole,
    Zero,
    /// The byte asked about lies here.
    At(FileOffset),
    /// The cell around it is compressed: place and length.
    Packed(FileOffset, u64),
}

impl From<Stored> for ExtentKind {
    fn from(stored: Stored) -> ExtentKind {
        match stored {
            Stored::Hole => ExtentKind::Hole,
            Stored::Zero => ExtentKind::Zero,
            Stored::At(_) | Stored::Packed(..) => ExtentKind::Data,
        }
    }
}

impl<M: CellMap> MappedDisk<M> {
    pub fn new(map: M) -> MappedDisk<M> {
        let slots = usize::try_from(UNPACKED_CACHED_BYTES / map.cell()).unwrap_or(usize::MAX);
        let slots = slots.clamp(UNPACKED_CACHED_MIN, UNPACKED_CACHED);
        let (pieces, unpacked) = (SlotCache::new(M::PIECES_CACHED), SlotCache::new(slots));
        MappedDisk { map, pieces, unpacked, pool: Pool::default() }
    }

    /// What covers `at`, which is inside the disk.
    fn answer_at(&self, at: u64) -> Result<Answer, DiskError> {
        let piece = self.map.piece_at(at)?;
        let answer = |kind, end: u64| Ok(Answer { kind, len: end - at, piece_end: piece.end, is_mixed: false });
        let Some(entries_at) = piece.entries_at else { return answer(Stored::Hole, piece.end) };
        let runs = self.pieces.get_or(piece.number, || {
            let mut runs = Runs::new(self.map.size(), self.map.cells().len());
            self.map.load(&piece, entries_at, &mut runs).map(|()| runs)
        })?;
        let (run, next) = runs.at(at).expect("a piece maps every byte from its start");
        let end = next.unwrap_or(piece.end);
        let skipped = at - run.start;
        match run.kind {
            RunKind::Hole => answer(Stored::Hole, end),
            RunKind::Zero => answer(Stored::Zero, end),
            RunKind::Stored(from) => answer(Stored::At(FileOffset(from.0 + skipped)), end),
            RunKind::Packed(from, len) => answer(Stored::Packed(from, len), end),
            RunKind::Mixed(from) => {
                let (is_stored, change) = self.map.mixed(run.start, from, skipped)?;
                let kind = if is_stored { Stored::At(FileOffset(from.0 + skipped)) } else { Stored::Hole };
                let len = (end - at).min(change - skipped);
                Ok(Answer { kind, len, piece_end: piece.end, is_mixed: true })
            }
            RunKind::Invalid(place, value, expected) => {
                Err(self.map.table_file().corrupt(M::NAMES.entry, place, expected, format_args!("{value:#x}")))
            }
            RunKind::PastEnd(from, needed) => Err(self.map.cells().file().truncated(M::NAMES.cell, from, needed)),
        }
    }

    /// Reads a piece of the packed cell around guest offset `at`; `buf` does not leave it.
    fn read_packed(&self, packed: Packed, at: u64, unpacker: &mut Unpacker, buf: &mut [u8]) -> Result<(), DiskError> {
        let len = self.map.unpacked_len(packed.start);
        if buf.len() as u64 == len {
            return self.map.unpack(packed, unpacker, buf);
        }
        let whole = self.unpacked.get_or(packed.start / self.map.cell(), || {
            let mut whole = vec![0; usize::try_from(len).expect("packed cells have at most 16 MiB")];
            self.map.unpack(packed, unpacker, &mut whole).map(|()| whole)
        })?;
        let from = usize::try_from(at - packed.start).expect("below the size of a cell");
        buf.copy_from_slice(&whole[from..from + buf.len()]);
        Ok(())
    }

    fn read_runs(&self, mut at: u64, mut rest: &mut [u8], unpacker: &mut Option<Unpacker>) -> Result<(), DiskError> {
        while !rest.is_empty() {
            let answer = self.answer_at(at)?;
            let ahead = rest.len() as u64;
            let len = rest.len().min(usize::try_from(answer.len).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match answer.kind {
                Stored::Hole | Stored::Zero => now.fill(0),
                Stored::At(from) => self.map.cells().read(M::NAMES.cell, from, now)?,
                Stored::Packed(from, packed_len) => {
                    let start = at - at % self.map.cell();
                    let packed = Packed { start, at: from, len: packed_len, ahead };
                    self.read_packed(packed, at, unpacker.get_or_insert_with(|| self.pool.take()), now)?;
                }
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    /// Where the next piece ends if nothing is stored in it.
    fn absent_until(&self, next: u64) -> Option<u64> {
        let piece = self.map.piece_at(next).ok()?;
        piece.entries_at.is_none().then_some(piece.end)
    }
}

impl<M: CellMap> Disk for MappedDisk<M> {
    fn size(&self) -> ByteLen {
        ByteLen(self.map.size())
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let mut unpacker = None;
        let outcome = self.read_runs(at.0, buf, &mut unpacker);
        if let Some(unpacker) = unpacker {
            self.pool.put(unpacker);
        }
        outcome
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        let left = check_inside(self.size(), at)?.0;
        let first = self.answer_at(at.0)?;
        let kind = ExtentKind::from(first.kind);
        let (mut len, mut near_end) = (first.len, first.piece_end);
        let (mut absent_left, mut mixed_left) = (ABSENT_PIECES_AHEAD, MIXED_AHEAD);
        // On to the end of this piece, and over absent ones behind it: both without further I/O, but for bitmaps.
        while len < left && mixed_left > 0 {
            let next = at.0 + len;
            if next >= near_end {
                let Some(end) = self.absent_until(next).filter(|_| absent_left > 0) else { break };
                absent_left -= 1;
                near_end = end;
            }
            // What is wrong further on is said when it is asked about.
            let Ok(answer) = self.answer_at(next) else { break };
            if ExtentKind::from(answer.kind) != kind {
                break;
            }
            len += answer.len;
            mixed_left -= u32::from(answer.is_mixed);
        }
        Ok(Extent { kind, len: ByteLen(len) })
    }
}

#[cfg(test)]
mod tests;
