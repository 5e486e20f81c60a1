//! A Parallels image as a disk: a table of the places of its blocks.

use std::sync::Arc;

use super::header::HEADER_BYTES;
use super::layout::Layout;
use crate::disk::Disk;
use crate::formats::blocks::{self, BlockMap};
use crate::formats::file::{Bytes, ImageFile};
use crate::formats::mapped::{Cell, Entry};
use crate::units::FileOffset;

/// The disk in `file`.
pub(super) fn open(file: &Arc<ImageFile>, layout: &Layout) -> Arc<dyn Disk> {
    let bytes: Arc<dyn Bytes> = Arc::<ImageFile>::clone(file);
    blocks::disk(bytes, layout.geometry, PlaceMap { unit: layout.unit })
}

/// Blocks by where they lie, counted in `unit`.
struct PlaceMap {
    unit: u64,
}

impl BlockMap for PlaceMap {
    const ENTRY: Entry = Entry::Le32;

    fn entry_at(&self, block: u64) -> FileOffset {
        FileOffset(HEADER_BYTES + block * 4)
    }

    fn block(&self, entry: u64) -> Cell {
        match entry {
            0 => Cell::Hole,
            // 32 bits of at most 256 MiB.
            place => Cell::Stored(FileOffset(place * self.unit)),
        }
    }
}
