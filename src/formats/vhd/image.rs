//! A VHD as a disk: the bytes before the footer (fixed), or blocks that each begin with a bitmap of their sectors.

use std::sync::Arc;

use super::layout::{Dynamic, Footer};
use crate::disk::{Disk, DiskError, ExtentKind};
use crate::formats::ImageError;
use crate::formats::blocks::{self, BlockMap};
use crate::formats::file::{Bytes, ImageFile};
use crate::formats::mapped::{Cell, Entry};
use crate::formats::raw::image::FileRun;
use crate::units::FileOffset;

/// Entry of a block that is not stored.
const UNUSED: u64 = 0xffff_ffff;

/// A fixed disk: all of it lies before the footer.
pub(crate) fn open_fixed(file: &Arc<ImageFile>, footer: &Footer) -> Result<Arc<dyn Disk>, ImageError> {
    if footer.size > footer.data_end {
        return Err(file.truncated("data of a fixed VHD", FileOffset(0), footer.size).into());
    }
    let run = FileRun::new(Arc::clone(file), FileOffset(0), footer.size, footer.size, ExtentKind::Hole)?;
    Ok(Arc::new(run))
}

/// A dynamic or differencing disk.
pub(crate) fn open_blocks(file: &Arc<ImageFile>, dynamic: &Dynamic) -> Arc<dyn Disk> {
    let map = SectorMap { table_at: dynamic.table_at, bitmap: dynamic.bitmap };
    let bytes: Arc<dyn Bytes> = Arc::<ImageFile>::clone(file);
    blocks::disk(bytes, dynamic.geometry, map)
}

/// Blocks by the sector at which their bitmap begins.
struct SectorMap {
    table_at: FileOffset,
    bitmap: u64,
}

impl BlockMap for SectorMap {
    const ENTRY: Entry = Entry::Be32;

    fn entry_at(&self, block: u64) -> FileOffset {
        FileOffset(self.table_at.0 + block * 4)
    }

    fn block(&self, entry: u64) -> Cell {
        match entry {
            UNUSED => Cell::Hole,
            sector => Cell::Mixed(FileOffset(sector * 512 + self.bitmap)),
        }
    }

    fn bitmap(&self, bytes: &dyn Bytes, _block: u64, stored: FileOffset) -> Result<Vec<u8>, DiskError> {
        bytes.read_vec("sector bitmap", FileOffset(stored.0 - self.bitmap), self.bitmap)
    }

    fn bit(bitmap: &[u8], sector: u64) -> Option<bool> {
        let byte = bitmap.get(usize::try_from(sector / 8).ok()?)?;
        Some(byte << (sector % 8) & 0x80 != 0)
    }
}
