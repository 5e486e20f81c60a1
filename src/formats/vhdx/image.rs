//! A VHDX as a disk. Between the entries of the blocks, one after each chunk of them, the table has an entry for a block
//! of sector bitmaps; only partially present blocks of differencing disks use it.

use std::sync::Arc;

use super::layout::Region;
use super::metadata::Metadata;
use crate::disk::{Disk, DiskError};
use crate::formats::blocks::{self, BlockMap, Geometry};
use crate::formats::file::Bytes;
use crate::formats::mapped::{Cell, Entry};
use crate::units::{ByteLen, FileOffset};

/// State of an entry, its lowest bits.
const STATE_MASK: u64 = 7;
/// Offset of an entry: the bits that count MiB.
const OFFSET_MASK: u64 = !0xf_ffff;
/// State of a block of sector bitmaps that is there.
const BITMAP_PRESENT: u64 = 6;

/// The disk in `bytes`.
pub(crate) fn open(bytes: Arc<dyn Bytes>, table: Region, metadata: &Metadata) -> Arc<dyn Disk> {
    let map = ChunkMap {
        table_at: table.at,
        chunk_blocks: metadata.chunk_blocks,
        geometry: metadata.geometry,
        has_parent: metadata.parent.is_some(),
    };
    blocks::disk(bytes, metadata.geometry, map)
}

struct ChunkMap {
    table_at: FileOffset,
    chunk_blocks: u64,
    geometry: Geometry,
    has_parent: bool,
}

impl BlockMap for ChunkMap {
    const ENTRY: Entry = Entry::Le64;

    fn entry_at(&self, block: u64) -> FileOffset {
        FileOffset(self.table_at.0 + (block + block / self.chunk_blocks) * 8)
    }

    fn block(&self, entry: u64) -> Cell {
        let at = FileOffset(entry & OFFSET_MASK);
        match entry & STATE_MASK {
            0 => Cell::Hole,
            // Undefined, zero, unmapped: what is read there is up to us, and zeros betray nothing.
            1..=3 => Cell::Zero,
            6 | 7 if at.0 == 0 => Cell::Invalid("an offset behind the headers for a block that is present"),
            6 => Cell::Stored(at),
            7 if self.has_parent => Cell::Mixed(at),
            7 => Cell::Invalid("no partially present block in a disk without parent"),
            _ => Cell::Invalid("a block state from 0 to 3, 6 or 7"),
        }
    }

    fn bitmap(&self, bytes: &dyn Bytes, block: u64, _stored: FileOffset) -> Result<Vec<u8>, DiskError> {
        let (chunk, number) = (block / self.chunk_blocks, block % self.chunk_blocks);
        // Inside the table: its length was checked for a differencing disk, with all bitmap entries.
        let place = FileOffset(self.table_at.0 + (chunk * (self.chunk_blocks + 1) + self.chunk_blocks) * 8);
        let mut entry = [0; 8];
        bytes.read("sector bitmap entry", place, &mut entry)?;
        let entry = u64::from_le_bytes(entry);
        if entry & STATE_MASK != BITMAP_PRESENT {
            let expected = "a sector bitmap that is present, for a partially present block";
            return Err(bytes.file().corrupt("sector bitmap entry", place, expected, format_args!("{entry:#x}")));
        }
        let len = self.geometry.block / self.geometry.sector / 8; // at least 32
        let at = FileOffset(entry & OFFSET_MASK).checked_add(ByteLen(number * len));
        let at = at.ok_or_else(|| bytes.file().truncated("sector bitmap", FileOffset(entry & OFFSET_MASK), len))?;
        bytes.read_vec("sector bitmap", at, len)
    }

    fn bit(bitmap: &[u8], sector: u64) -> Option<bool> {
        let byte = bitmap.get(usize::try_from(sector / 8).ok()?)?;
        Some(byte >> (sector % 8) & 1 != 0)
    }
}
