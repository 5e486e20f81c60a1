//! The header, checked: its holder may use every number without looking again.

use super::header::{HEADER_BYTES, RawHeader, extension, feature, header};
use crate::formats::ImageError;
use crate::formats::blocks::{BLOCK_BYTES_MAX, Geometry, TABLE_BYTES_MAX};
use crate::formats::file::ImageFile;
use crate::units::{FileOffset, SECTOR_BYTES};

const VERSION: u32 = 2;
/// What stands in the header while the image is open for writing.
const IN_USE: u32 = 0x746f_6e59;
const EXTENSION_MAGIC: u64 = 0xab23_4cef_23dc_ea87;
/// The only feature there is: bitmaps of what was written, which a reader does not need.
const FEATURE_BITMAP: u64 = 0x2038_5fae_252c_b34a;
const FEATURE_END: u64 = 0;
/// A reader that does not know the feature must not open the image.
const FEATURE_NECESSARY: u64 = 1 << 0;
/// Features that are looked at.
const FEATURES_MAX: usize = 1024;
/// As much of the extension as is looked at; it may fill a block.
const EXTENSION_BYTES_MAX: u64 = 16 << 20;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub geometry: Geometry,
    /// Bytes that 1 in the table stands for.
    pub unit: u64,
    pub variant: &'static str,
    pub is_in_use: bool,
}

/// Reads and checks the header.
pub(super) fn read(file: &ImageFile) -> Result<Layout, ImageError> {
    let bytes = file.read_vec("Parallels header", FileOffset(0), HEADER_BYTES)?;
    let (_, raw) = header(&bytes).map_err(|_| {
        let found = format!("{:02x?}", &bytes[..16]);
        file.corrupt("Parallels header", FileOffset(0), "the magic of a Parallels image", found)
    })?;
    raw.validate(file)
}

impl RawHeader {
    fn validate(&self, file: &ImageFile) -> Result<Layout, ImageError> {
        let field = |name, at, expected: String, found: u64| -> ImageError {
            file.corrupt(name, FileOffset(at), expected, format!("{found:#x}")).into()
        };
        if self.version != VERSION {
            return Err(file.unsupported(format!("Parallels version {}", self.version)));
        }
        let block = u64::from(self.block) * SECTOR_BYTES;
        if block == 0 || block > BLOCK_BYTES_MAX {
            let expected = format!("1 to {} sectors", BLOCK_BYTES_MAX / SECTOR_BYTES);
            return Err(field("block size", 28, expected, self.block.into()));
        }
        // The older variant had 32 bits here, and anything in the other half.
        let sectors = if self.counts_blocks { self.size } else { self.size & u64::from(u32::MAX) };
        let most = u64::from(self.entries) * block; // below 2^60
        let size = match sectors.checked_mul(SECTOR_BYTES) {
            Some(size) if size <= most => size,
            _ => {
                let expected = format!("at most the {most} bytes that {} table entries map", self.entries);
                return Err(field("disk size", 36, expected, sectors));
            }
        };
        let geometry = Geometry { size, block, sector: SECTOR_BYTES };
        let table = geometry.blocks() * 4;
        if table > TABLE_BYTES_MAX {
            return Err(field("table entries", 32, format!("a table of at most {TABLE_BYTES_MAX} bytes"), table / 4));
        }
        file.check_holds("block table", FileOffset(HEADER_BYTES), table)?;
        self.check_extension(file, block)?;
        let (unit, variant) = if self.counts_blocks {
            (block, "parallels expanding")
        } else {
            (SECTOR_BYTES, "parallels expanding, old")
        };
        Ok(Layout { geometry, unit, variant, is_in_use: self.in_use == IN_USE })
    }

    /// Refuses an image that needs a feature which we do not know.
    fn check_extension(&self, file: &ImageFile, block: u64) -> Result<(), ImageError> {
        if self.extension_at == 0 {
            return Ok(());
        }
        let at = FileOffset::from_sector(self.extension_at).filter(|at| at.0 < file.len()).ok_or_else(|| {
            file.corrupt("extension offset", FileOffset(56), "a sector inside the file", self.extension_at)
        })?;
        let len = block.min(EXTENSION_BYTES_MAX).min(file.len() - at.0);
        let bytes = file.read_vec("extension", at, len)?;
        let fault = |expected: &str| file.corrupt("extension", at, expected, "something else");
        let (mut rest, magic) = extension(&bytes).map_err(|_| fault("a magic and a checksum"))?;
        if magic != EXTENSION_MAGIC {
            return Err(fault("the magic of an extension").into());
        }
        for _ in 0..FEATURES_MAX {
            let (after, (magic, flags)) = feature(rest).map_err(|_| fault("features up to one that ends them"))?;
            match magic {
                FEATURE_END => return Ok(()),
                FEATURE_BITMAP => {}
                _ if flags & FEATURE_NECESSARY == 0 => {}
                unknown => return Err(file.unsupported(format!("the Parallels feature {unknown:#x}, which it needs"))),
            }
            rest = after;
        }
        Err(fault("features up to one that ends them").into())
    }
}
