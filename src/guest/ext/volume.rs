//! The volume's bytes: the disk with what the journal holds laid over it, and a bounded cache of metadata.
//!
//! In here: reading ranges and blocks, and refusing what lies outside. Not in here: what any block means.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::superblock::Superblock;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::recent;
use crate::units::GuestOffset;

/// Metadata is read and kept in pieces of at least this length: neighbouring inodes and directory blocks come with it.
const PIECE_BYTES: u64 = 32 << 10;
/// Metadata kept at most.
const CACHE_BYTES: u64 = 12 << 20;

/// A block that the journal holds a newer version of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Where on the volume that version lies.
    pub at: GuestOffset,
    /// Its first four bytes are the journal's magic, which the journal itself must not contain.
    pub escaped: bool,
}

/// Blocks that the journal holds newer versions of, by their number.
pub(super) type Overlay = BTreeMap<u64, Replayed>;

/// The journal's magic, as it lies on the volume.
pub(super) const JOURNAL_MAGIC: [u8; 4] = 0xc03b_3998u32.to_be_bytes();

/// The volume, as the filesystem sees it.
pub(super) struct Volume {
    disk: Arc<dyn Disk>,
    block_bits: u32,
    first_data_block: u64,
    blocks: u64,
    overlay: Overlay,
    pieces: Cache<u64, Arc<[u8]>, PieceWeight>,
}

#[derive(Clone)]
struct PieceWeight;

impl quick_cache::Weighter<u64, Arc<[u8]>> for PieceWeight {
    fn weight(&self, _: &u64, piece: &Arc<[u8]>) -> u64 {
        piece.len() as u64 + 64
    }
}

/// Bytes of the volume that stay in memory as long as they are held.
#[derive(Clone)]
pub(super) struct Bytes {
    piece: Arc<[u8]>,
    range: Range<usize>,
    /// Where they begin on the volume.
    pub at: GuestOffset,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.piece[self.range.clone()]
    }
}

impl Bytes {
    /// A part of them; `None` if it leaves them.
    pub fn part(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let at = GuestOffset(self.at.0 + range.start as u64);
        let start = self.range.start;
        Some(Bytes { piece: Arc::clone(&self.piece), range: start + range.start..start + range.end, at })
    }
}

impl Volume {
    pub fn new(disk: Arc<dyn Disk>, superblock: &Superblock, overlay: Overlay) -> Volume {
        let items = usize::try_from(CACHE_BYTES / PIECE_BYTES).expect("a small constant");
        Volume {
            disk,
            block_bits: superblock.block_bits,
            first_data_block: superblock.first_data_block,
            blocks: superblock.blocks,
            overlay,
            pieces: recent::weighed(items, CACHE_BYTES, PieceWeight),
        }
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Block size in bytes.
    pub fn block_size(&self) -> usize {
        1 << self.block_bits
    }

    /// Block size in bytes, for arithmetic with positions.
    pub fn block_bytes(&self) -> u64 {
        1 << self.block_bits
    }

    pub fn block_bits(&self) -> u32 {
        self.block_bits
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Where a block lies. Numbers beyond the filesystem give positions beyond it, which reading refuses.
    pub fn position(&self, block: u64) -> GuestOffset {
        GuestOffset(block.saturating_mul(self.block_bytes()))
    }

    /// Refuses runs of blocks that a pointer cannot mean: those outside, and those of the superblock and before.
    pub fn check_run(&self, field: &'static str, at: GuestOffset, first: u64, count: u64) -> Result<(), GuestError> {
        let fits = first.checked_add(count).is_some_and(|end| end <= self.blocks);
        if fits && first > self.first_data_block {
            return Ok(());
        }
        Err(GuestError::Corrupt {
            field,
            at,
            expected: format!("blocks after {} and below {}", self.first_data_block, self.blocks),
            found: format!("{count} from {first}"),
        })
    }

    /// Fills `buf` from a position, with the journal's newer blocks.
    pub fn read(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), GuestError> {
        if buf.is_empty() {
            return Ok(());
        }
        let size = self.disk.size().0;
        let end = at.0.checked_add(buf.len() as u64).filter(|end| *end <= size);
        let Some(end) = end else {
            return Err(GuestError::Corrupt {
                field: "end of the volume",
                at: GuestOffset(size),
                expected: format!("{} bytes at {at}", buf.len()),
                found: format!("a volume of {size} bytes"),
            });
        };
        self.disk.read_at(at, buf)?;
        if self.overlay.is_empty() {
            return Ok(());
        }
        let blocks = at.0 >> self.block_bits..end.div_ceil(self.block_bytes());
        for (block, replayed) in self.overlay.range(blocks) {
            let start = block << self.block_bits;
            let wanted = start.max(at.0)..(start + self.block_bytes()).min(end);
            let inside = |position: u64| usize::try_from(position - at.0).expect("inside the buffer");
            let part = &mut buf[inside(wanted.start)..inside(wanted.end)];
            let skipped = wanted.start - start;
            self.disk.read_at(GuestOffset(replayed.at.0 + skipped), part)?;
            if replayed.escaped {
                let magic = JOURNAL_MAGIC.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX));
                part.iter_mut().zip(magic).for_each(|(byte, magic)| *byte = *magic);
            }
        }
        Ok(())
    }

    /// A block of metadata, from the cache if it is there.
    pub fn block(&self, block: u64) -> Result<Bytes, GuestError> {
        if block >= self.blocks {
            return Err(GuestError::Corrupt {
                field: "number of a block",
                at: GuestOffset(0),
                expected: format!("below {}", self.blocks),
                found: block.to_string(),
            });
        }
        let piece_bytes = PIECE_BYTES.max(self.block_bytes());
        let at = self.position(block);
        let (number, start) = (at.0 / piece_bytes, at.0 % piece_bytes);
        let start = usize::try_from(start).expect("inside a piece");
        let slice = |piece: Arc<[u8]>| Bytes { piece, range: start..start + self.block_size(), at };
        if let Some(piece) = self.pieces.get(&number) {
            if piece.len() >= start + self.block_size() {
                return Ok(slice(piece));
            }
        } else if let Some(piece) = self.piece(number * piece_bytes, piece_bytes)
            && piece.len() >= start + self.block_size()
        {
            self.pieces.insert(number, Arc::clone(&piece));
            return Ok(slice(piece));
        }
        // The volume ends in this piece, or a neighbour cannot be read: this block alone decides.
        let mut bytes = vec![0; self.block_size()];
        self.read(at, &mut bytes)?;
        Ok(Bytes { range: 0..bytes.len(), piece: bytes.into(), at })
    }

    /// A piece, shorter where the volume ends in it; `None` if something in it cannot be read.
    fn piece(&self, at: u64, piece_bytes: u64) -> Option<Arc<[u8]>> {
        let len = self.disk.size().0.checked_sub(at)?.min(piece_bytes);
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.read(GuestOffset(at), &mut bytes).ok()?;
        Some(bytes.into())
    }
}
