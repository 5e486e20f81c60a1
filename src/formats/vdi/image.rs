//! A VDI as a disk: a map from blocks of the disk to blocks of the file, numbered from the first.

use std::sync::Arc;

use super::layout::Layout;
use crate::disk::{Disk, DiskError};
use crate::formats::blocks::{Block, BlockDisk, BlockMap, Bytes};
use crate::formats::file::ImageFile;
use crate::units::FileOffset;

/// Entry of a block that is not stored: the parent's, or zeros.
const UNUSED: u32 = u32::MAX;
/// Entry of a block of zeros that hides the parent's.
const ZERO: u32 = u32::MAX - 1;

/// The disk in `file`.
pub(crate) fn open(file: &Arc<ImageFile>, layout: &Layout) -> Arc<dyn Disk> {
    let map = NumberMap {
        map_at: layout.map_at,
        first: layout.data_at + layout.block_extra,
        stride: layout.geometry.block + layout.block_extra,
        allocated: layout.blocks_allocated,
    };
    let bytes: Arc<dyn Bytes> = Arc::<ImageFile>::clone(file);
    Arc::new(BlockDisk::new(bytes, layout.geometry, map))
}

/// Blocks by their number in the file.
struct NumberMap {
    map_at: FileOffset,
    first: u64,
    stride: u64,
    allocated: u32,
}

impl BlockMap for NumberMap {
    const ENTRY_BYTES: u64 = 4;

    fn entry_at(&self, block: u64) -> FileOffset {
        FileOffset(self.map_at.0 + block * 4)
    }

    fn block(&self, entry: &[u8]) -> Block {
        match u32::from_le_bytes(entry.try_into().expect("4 bytes")) {
            UNUSED => Block::Hole,
            ZERO => Block::Zero,
            number if number >= self.allocated => Block::Invalid("a block below the number of allocated blocks"),
            // 32 bits of blocks of at most 256 MiB, each with at most as many bytes before it: below 2^62.
            number => Block::Stored(FileOffset(self.first + u64::from(number) * self.stride)),
        }
    }

    fn bitmap(&self, bytes: &dyn Bytes, _block: u64, stored: FileOffset) -> Result<Vec<u8>, DiskError> {
        // The map above has no mixed blocks.
        Err(bytes.file().corrupt("sector bitmap", stored, "none in a VDI", "one"))
    }

    fn bit(_bitmap: &[u8], _sector: u64) -> Option<bool> {
        None
    }
}
