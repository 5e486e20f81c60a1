//! Footer and dynamic header, checked: their holder may use every number without looking again.
//!
//! The size of the disk is a matter of who wrote the footer. Virtual PC and old QEMU mean cylinders × heads × sectors, all
//! others the field "current size"; the two differ by up to a cylinder, and a guest's backup partition table lies at the
//! end. Source of that rule: QEMU's block/vpc.c, and images of each writer.

use uuid::Uuid;

use super::header::{
    FOOTER_BYTES, FOOTER_CHECKSUM_AT, FOOTER_MAGIC, HEADER_BYTES, HEADER_CHECKSUM_AT, RawDynamicHeader, RawFooter,
    RawLocator, checksum, dynamic_header, footer,
};
use crate::formats::ImageError;
use crate::formats::blocks::{BLOCK_BYTES_MAX, Geometry, TABLE_BYTES_MAX};
use crate::formats::file::ImageFile;
use crate::units::{FileOffset, SECTOR_BYTES};

/// Smallest block we accept; the usual one has 2 MiB, XenServer's and Azure's are the same.
const BLOCK_BYTES_MIN: u64 = 4096;
/// Creators whose disks have the size that their geometry says.
const CREATORS_BY_GEOMETRY: [&[u8; 4]; 2] = [b"vpc ", b"qemu"];
/// The largest geometry; it says "larger than I can express".
const GEOMETRY_MAX: (u16, u8, u8) = (65_535, 16, 255);

/// The three kinds of VHD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// A footer that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub kind: Kind,
    /// Size of the disk in bytes: whole sectors, below 2^63.
    pub size: u64,
    pub uuid: Uuid,
    pub is_suspended: bool,
    /// Where the data before the footer ends.
    pub data_end: u64,
    data_offset: u64,
    /// What `inspect` shows.
    pub properties: Vec<(String, String)>,
}

/// A dynamic header that makes sense, as far as the file's length lets one know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dynamic {
    pub geometry: Geometry,
    /// The table lies there, all of it inside the file.
    pub table_at: FileOffset,
    /// Bytes of the bitmap before each block.
    pub bitmap: u64,
    pub parent_uuid: Uuid,
    pub parent_name: Vec<u16>,
    pub locators: Vec<RawLocator>,
}

/// Reads the footer: the one at the end, or its copy at the beginning if that is damaged.
pub(crate) fn read_footer(file: &ImageFile, warnings: &mut Vec<String>) -> Result<Footer, ImageError> {
    let fault = match footer_at_end(file) {
        Ok(footer) => {
            if footer.kind != Kind::Fixed
                && let Err(fault) = footer_at(file, FileOffset(0), FOOTER_BYTES)
            {
                warnings.push(format!("the copy of its footer is damaged: {fault}"));
            }
            return Ok(footer);
        }
        Err(fault @ ImageError::Corrupt { .. }) => fault,
        Err(err) => return Err(err),
    };
    match footer_at(file, FileOffset(0), FOOTER_BYTES) {
        Ok(mut footer) if footer.kind != Kind::Fixed => {
            footer.data_end = file.len();
            warnings.push(format!("{fault}; the copy of the footer at the beginning is used instead"));
            Ok(footer)
        }
        _ => Err(fault),
    }
}

fn footer_at_end(file: &ImageFile) -> Result<Footer, ImageError> {
    for len in [FOOTER_BYTES, FOOTER_BYTES - 1] {
        if let Some(at) = file.len().checked_sub(len).map(FileOffset)
            && file.read_vec("VHD footer", at, 8)? == FOOTER_MAGIC
        {
            return footer_at(file, at, len);
        }
    }
    let at = file.len().saturating_sub(FOOTER_BYTES);
    let found = "something else (a truncated image, or a damaged footer)";
    Err(file.corrupt("VHD footer", FileOffset(at), "the magic conectix", found).into())
}

fn footer_at(file: &ImageFile, at: FileOffset, len: u64) -> Result<Footer, ImageError> {
    let bytes = file.read_vec("VHD footer", at, len)?;
    let (_, raw) = footer(&bytes).map_err(|_| {
        file.corrupt("VHD footer", at, "the magic conectix", format!("{:02x?}", bytes.get(..8).unwrap_or(&bytes)))
    })?;
    let sum = checksum(&bytes, FOOTER_CHECKSUM_AT);
    if raw.checksum != sum {
        let found = format!("{:#010x}", raw.checksum);
        return Err(file.corrupt("VHD footer checksum", at, format!("{sum:#010x}"), found).into());
    }
    raw.validate(file, at)
}

impl RawFooter {
    fn validate(&self, file: &ImageFile, at: FileOffset) -> Result<Footer, ImageError> {
        if self.version >> 16 != 1 {
            return Err(file.unsupported(format!("VHD version {:#x}", self.version)));
        }
        let kind = match self.disk_type {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => return Err(file.unsupported(format!("VHD disk type {other}"))),
        };
        let geometry = (self.cylinders, self.heads, self.sectors_per_track);
        let by_geometry =
            u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors_per_track) * SECTOR_BYTES;
        let uses_geometry = geometry != GEOMETRY_MAX && CREATORS_BY_GEOMETRY.contains(&&self.creator);
        let size = if uses_geometry { by_geometry } else { self.current_size };
        if size == 0 || !size.is_multiple_of(SECTOR_BYTES) || size > i64::MAX.unsigned_abs() {
            let (field, offset) = if uses_geometry { ("geometry", 56) } else { ("current size", 48) };
            let place = FileOffset(at.0.saturating_add(offset));
            let found = format!("{size} bytes");
            return Err(file.corrupt(field, place, "whole sectors, 512 to 2^63 bytes", found).into());
        }
        let property = |name: &str, value: String| (format!("vhd.{name}"), value);
        let properties = vec![
            property("creator", self.creator.escape_ascii().to_string()),
            property("geometry", format!("{}/{}/{}", self.cylinders, self.heads, self.sectors_per_track)),
            property("geometry_size", by_geometry.to_string()),
            property("current_size", self.current_size.to_string()),
        ];
        Ok(Footer {
            kind,
            size,
            uuid: self.uuid,
            is_suspended: self.saved_state != 0,
            data_end: at.0,
            data_offset: self.data_offset,
            properties,
        })
    }
}

/// Reads and checks the dynamic header that `footer` leads to.
pub(crate) fn read_dynamic(file: &ImageFile, footer: &Footer) -> Result<Dynamic, ImageError> {
    let at = FileOffset(footer.data_offset);
    let bytes = file.read_vec("dynamic header", at, HEADER_BYTES)?;
    let (_, raw) = dynamic_header(&bytes)
        .map_err(|_| file.corrupt("dynamic header", at, "the magic cxsparse", format!("{:02x?}", &bytes[..8])))?;
    let sum = checksum(&bytes, HEADER_CHECKSUM_AT);
    if raw.checksum != sum {
        let found = format!("{:#010x}", raw.checksum);
        return Err(file.corrupt("dynamic header checksum", at, format!("{sum:#010x}"), found).into());
    }
    raw.validate(file, at, footer.size)
}

impl RawDynamicHeader {
    fn validate(self, file: &ImageFile, at: FileOffset, size: u64) -> Result<Dynamic, ImageError> {
        let field = |name: &'static str, offset: u64, expected: String, found: String| -> ImageError {
            file.corrupt(name, FileOffset(at.0.saturating_add(offset)), expected, found).into()
        };
        if self.version >> 16 != 1 {
            return Err(file.unsupported(format!("dynamic VHD version {:#x}", self.version)));
        }
        let block = u64::from(self.block);
        if !block.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block) {
            let expected = format!("a power of two from {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX}");
            return Err(field("block size", 32, expected, block.to_string()));
        }
        let geometry = Geometry { size, block, sector: SECTOR_BYTES };
        let entries = geometry.blocks();
        if entries > TABLE_BYTES_MAX / 4 {
            let expected = format!("a disk that a table of at most {TABLE_BYTES_MAX} bytes can map");
            return Err(field("block size", 32, expected, format!("{block}, for {size} bytes of disk")));
        }
        if u64::from(self.table_entries) < entries {
            let expected = format!("at least {entries}, for {size} bytes of disk");
            return Err(field("table entries", 28, expected, self.table_entries.to_string()));
        }
        let table_at = FileOffset(self.table_at);
        file.check_holds("block table", table_at, entries * 4)?;
        let bitmap = (block / SECTOR_BYTES).div_ceil(8).next_multiple_of(SECTOR_BYTES);
        let (parent_uuid, parent_name, locators) = (self.parent_uuid, self.parent_name, self.locators);
        Ok(Dynamic { geometry, table_at, bitmap, parent_uuid, parent_name, locators })
    }
}
