//! A VDI as a disk: a map from blocks of the disk to blocks of the file, numbered from the first.

use std::sync::Arc;

use super::layout::Layout;
use crate::disk::Disk;
use crate::formats::blocks::{self, BlockMap};
use crate::formats::file::{Bytes, ImageFile};
use crate::formats::mapped::{Cell, Entry};
use crate::units::FileOffset;

/// Entry of a block that is not stored: the parent's, or zeros.
const UNUSED: u64 = 0xffff_ffff;
/// Entry of a block of zeros that hides the parent's.
const ZERO: u64 = 0xffff_fffe;

/// The disk in `file`.
pub(crate) fn open(file: &Arc<ImageFile>, layout: &Layout) -> Arc<dyn Disk> {
    let map = NumberMap {
        map_at: layout.map_at,
        first: layout.data_at + layout.block_extra,
        stride: layout.geometry.block + layout.block_extra,
        allocated: layout.blocks_allocated,
    };
    let bytes: Arc<dyn Bytes> = Arc::<ImageFile>::clone(file);
    blocks::disk(bytes, layout.geometry, map)
}

/// Blocks by their number in the file.
struct NumberMap {
    map_at: FileOffset,
    first: u64,
    stride: u64,
    allocated: u32,
}

impl BlockMap for NumberMap {
    const ENTRY: Entry = Entry::Le32;

    fn entry_at(&self, block: u64) -> FileOffset {
        FileOffset(self.map_at.0 + block * 4)
    }

    fn block(&self, entry: u64) -> Cell {
        match entry {
            UNUSED => Cell::Hole,
            ZERO => Cell::Zero,
            number if number >= u64::from(self.allocated) => {
                Cell::Invalid("a block below the number of allocated blocks")
            }
            // 32 bits of blocks of at most 256 MiB, each with at most as many bytes before it: below 2^62.
            number => Cell::Stored(FileOffset(self.first + number * self.stride)),
        }
    }
}
