//! The header, checked: its holder may use every number without looking again.

use uuid::Uuid;

use super::header::{HEADER_BYTES, MAGIC_AT, RawHeader, header};
use crate::formats::ImageError;
use crate::formats::blocks::{BLOCK_BYTES_MAX, Geometry, TABLE_BYTES_MAX};
use crate::formats::file::ImageFile;
use crate::units::{FileOffset, SECTOR_BYTES};

/// Smallest block we accept; VirtualBox always writes 1 MiB.
const BLOCK_BYTES_MIN: u64 = 4096;

/// The kinds of VDI that hold a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dynamic,
    Fixed,
    Differencing,
}

/// Where everything is, and who the image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub kind: Kind,
    pub geometry: Geometry,
    /// The block map lies there, all of it inside the file.
    pub map_at: FileOffset,
    pub data_at: u64,
    /// Bytes before each block that are not the disk's.
    pub block_extra: u64,
    /// Entries of the map below this are stored blocks.
    pub blocks_allocated: u32,
    pub identity: Identity,
}

/// Who an image is, and who its parent must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub uuid: Uuid,
    /// Changes with the first write after each opening.
    pub modification: Uuid,
    pub parent: Uuid,
    pub parent_modification: Uuid,
}

/// Reads and checks the header.
pub(crate) fn read(file: &ImageFile) -> Result<Layout, ImageError> {
    read_raw(file)?.validate(file)
}

/// Only who the image is; for looking through a folder.
pub(crate) fn read_identity(file: &ImageFile) -> Result<Identity, ImageError> {
    Ok(read_raw(file)?.identity())
}

fn read_raw(file: &ImageFile) -> Result<RawHeader, ImageError> {
    let bytes = file.read_vec("VDI header", FileOffset(0), HEADER_BYTES)?;
    let (_, raw) = header(&bytes).map_err(|_| {
        let found = format!("{:02x?}", &bytes[MAGIC_AT..MAGIC_AT + 4]);
        file.corrupt("VDI header", FileOffset(MAGIC_AT as u64), "the magic 7f 10 da be", found)
    })?;
    Ok(raw)
}

impl RawHeader {
    fn identity(&self) -> Identity {
        Identity {
            uuid: self.uuid,
            modification: self.modification,
            parent: self.parent,
            parent_modification: self.parent_modification,
        }
    }

    fn validate(&self, file: &ImageFile) -> Result<Layout, ImageError> {
        let field = |name: &'static str, at: u64, expected: String, found: String| -> ImageError {
            file.corrupt(name, FileOffset(at), expected, found).into()
        };
        if self.version >> 16 != 1 {
            return Err(file.unsupported(format!("VDI version {:#x}", self.version)));
        }
        let kind = match self.image_type {
            1 => Kind::Dynamic,
            2 => Kind::Fixed,
            4 => Kind::Differencing,
            other => return Err(file.unsupported(format!("VDI image type {other}"))),
        };
        if u64::from(self.sector) != SECTOR_BYTES {
            return Err(field("sector size", 360, SECTOR_BYTES.to_string(), self.sector.to_string()));
        }
        if self.size == 0 || !self.size.is_multiple_of(SECTOR_BYTES) || self.size > i64::MAX.unsigned_abs() {
            let expected = "whole sectors, 512 to 2^63 bytes".to_string();
            return Err(field("disk size", 368, expected, format!("{} bytes", self.size)));
        }
        let block = u64::from(self.block);
        if !block.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block) {
            let expected = format!("a power of two from {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX}");
            return Err(field("block size", 376, expected, block.to_string()));
        }
        // VirtualBox writes 0. More than a block would be absurd, and let places in the file pass 2^64.
        if self.block_extra > self.block {
            let expected = format!("at most the block size of {block}");
            return Err(field("bytes before each block", 380, expected, self.block_extra.to_string()));
        }
        let geometry = Geometry { size: self.size, block, sector: SECTOR_BYTES };
        let blocks = geometry.blocks();
        if blocks > TABLE_BYTES_MAX / 4 || u64::from(self.blocks) < blocks {
            let expected = format!("{blocks}, for {} bytes of disk, and at most {}", self.size, TABLE_BYTES_MAX / 4);
            return Err(field("blocks", 384, expected, self.blocks.to_string()));
        }
        if self.blocks_allocated > self.blocks {
            let expected = format!("at most {}", self.blocks);
            return Err(field("allocated blocks", 388, expected, self.blocks_allocated.to_string()));
        }
        let map_at = FileOffset(self.map_at.into());
        file.check_holds("block map", map_at, blocks * 4)?;
        Ok(Layout {
            kind,
            geometry,
            map_at,
            data_at: self.data_at.into(),
            block_extra: self.block_extra.into(),
            blocks_allocated: self.blocks_allocated,
            identity: self.identity(),
        })
    }
}
