//! The header of a hosted sparse extent, checked: its holder may use every number without looking again.
//!
//! Source: VMware "Virtual Disk Format 5.0"; the limits on tables and grains are QEMU's or tighter.

use super::super::descriptor::DESCRIPTOR_BYTES_MAX;
use super::header::RawHeader;
use crate::disk::DiskError;
use crate::formats::ImageError;
use crate::formats::file::ImageFile;
use crate::formats::grains::{Geometry, Storage};
use crate::units::{ByteLen, FileOffset};

/// Largest grain directory we load: enough for 256 TiB in the usual grains.
pub(crate) const DIRECTORY_BYTES_MAX: u64 = 32 << 20;
/// Largest grain, in sectors (16 MiB): a compressed one is held in memory whole. Usual are 128.
const GRAIN_SECTORS_MAX: u64 = 1 << 15;
/// Entries of a grain table. VMware and QEMU always write 512.
const TABLE_ENTRIES_MAX: u32 = 512;
/// Directory offset that says: look at the footer.
const DIRECTORY_AT_END: u64 = u64::MAX;

const FLAG_NEWLINE_TEST: u32 = 0x1;
const FLAG_REDUNDANT_DIRECTORY: u32 = 0x2;
const FLAG_ZEROED_GRAINS: u32 = 0x4;
const FLAG_COMPRESSED: u32 = 0x1_0000;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `None`: there is nothing but a descriptor, whose extents are elsewhere.
    pub map: Option<MapLayout>,
    /// The embedded descriptor: offset and length, inside the limits but not yet compared with the file.
    pub descriptor: Option<(FileOffset, u64)>,
    /// The image was not closed cleanly.
    pub is_unclean: bool,
}

/// Where the map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapLayout {
    pub geometry: Geometry,
    pub storage: Storage,
    /// Entry 1 means a grain of zeros.
    pub has_zeroed_grains: bool,
    pub directory: Directory,
    /// The second copy of directory and tables.
    pub redundant_directory: Option<FileOffset>,
}

/// Where the grain directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    At(FileOffset),
    /// In the footer's words: the file was written front to back.
    InFooter,
}

impl RawHeader {
    /// Checks the header that lies at `at` in `file`.
    pub(crate) fn validate(&self, file: &ImageFile, at: FileOffset) -> Result<Layout, ImageError> {
        let field = |name: &'static str, offset: u64, expected: &str, found: String| -> ImageError {
            file.corrupt(name, FileOffset(at.0.saturating_add(offset)), expected, found).into()
        };
        if !matches!(self.version, 1..=3) {
            return Err(file.unsupported(format!("sparse extent version {}", self.version)));
        }
        if self.flags & FLAG_NEWLINE_TEST != 0 && self.newline_test != *b"\n \r\n" {
            let expected = "0a 20 0d 0a (a transfer in text mode damages the image)";
            return Err(field("newline test", 73, expected, format!("{:02x?}", self.newline_test)));
        }
        if self.compression > 1 {
            return Err(file.unsupported(format!("compression method {}", self.compression)));
        }
        let descriptor = self.descriptor(field)?;
        let is_unclean = self.unclean_shutdown != 0;
        if self.capacity == 0 && descriptor.is_some() {
            return Ok(Layout { map: None, descriptor, is_unclean });
        }
        let geometry = self.geometry(field)?;
        let is_compressed = self.flags & FLAG_COMPRESSED != 0;
        if is_compressed && self.compression == 0 {
            return Err(field("compression", 77, "1 (deflate), as the flags say", "0".to_string()));
        }
        let directory = match self.directory_at {
            DIRECTORY_AT_END => Directory::InFooter,
            sector => Directory::At(sector_offset(sector).ok_or_else(|| {
                field("grain directory offset", 56, "a sector inside the file", format!("sector {sector}"))
            })?),
        };
        let has_redundant =
            self.flags & FLAG_REDUNDANT_DIRECTORY != 0 && !matches!(self.redundant_directory_at, 0 | u64::MAX);
        let map = MapLayout {
            geometry,
            storage: if is_compressed { Storage::Deflated } else { Storage::Plain },
            has_zeroed_grains: self.flags & FLAG_ZEROED_GRAINS != 0,
            directory,
            redundant_directory: sector_offset(self.redundant_directory_at).filter(|_| has_redundant),
        };
        Ok(Layout { map: Some(map), descriptor, is_unclean })
    }

    fn descriptor(
        &self,
        field: impl Fn(&'static str, u64, &str, String) -> ImageError,
    ) -> Result<Option<(FileOffset, u64)>, ImageError> {
        if self.descriptor_at == 0 {
            return Ok(None);
        }
        let at = sector_offset(self.descriptor_at).ok_or_else(|| {
            field("descriptor offset", 28, "a sector inside the file", format!("sector {}", self.descriptor_at))
        })?;
        match ByteLen::from_sectors(self.descriptor_len) {
            Some(len) if len.0 <= DESCRIPTOR_BYTES_MAX => Ok(Some((at, len.0))),
            _ => {
                let expected = format!("at most {} sectors", DESCRIPTOR_BYTES_MAX / 512);
                Err(field("descriptor size", 36, &expected, format!("{} sectors", self.descriptor_len)))
            }
        }
    }

    fn geometry(&self, field: impl Fn(&'static str, u64, &str, String) -> ImageError) -> Result<Geometry, ImageError> {
        if !self.grain.is_power_of_two() || self.grain > GRAIN_SECTORS_MAX {
            let expected = format!("a power of two of at most {GRAIN_SECTORS_MAX} sectors");
            return Err(field("grain size", 20, &expected, format!("{} sectors", self.grain)));
        }
        if self.entries_per_table == 0 || self.entries_per_table > TABLE_ENTRIES_MAX {
            let expected = format!("1 to {TABLE_ENTRIES_MAX}");
            return Err(field("grain table entries", 44, &expected, self.entries_per_table.to_string()));
        }
        let size = match ByteLen::from_sectors(self.capacity) {
            Some(size) if size.0 > 0 && size.0 <= i64::MAX.unsigned_abs() => size.0,
            _ => return Err(field("capacity", 12, "1 sector to 2^63 bytes", format!("{} sectors", self.capacity))),
        };
        let geometry = Geometry { size, grain: self.grain * 512, grains_per_table: u64::from(self.entries_per_table) };
        if geometry.tables() > DIRECTORY_BYTES_MAX / 4 {
            let expected = format!("a disk that a grain directory of at most {DIRECTORY_BYTES_MAX} bytes can map");
            return Err(field("capacity", 12, &expected, format!("{} sectors", self.capacity)));
        }
        Ok(geometry)
    }
}

impl MapLayout {
    /// Length of one copy of the directory.
    pub(crate) fn directory_bytes(&self) -> u64 {
        self.geometry.tables() * 4 // checked against DIRECTORY_BYTES_MAX
    }

    /// Reads one copy of the directory, a sector number for each table.
    pub(crate) fn read_directory(&self, file: &ImageFile, at: FileOffset) -> Result<Vec<u32>, DiskError> {
        let bytes = file.read_vec("grain directory", at, self.directory_bytes())?;
        Ok(bytes.chunks_exact(4).map(|entry| u32::from_le_bytes(entry.try_into().expect("chunks of 4"))).collect())
    }

    /// Whether `sector` is where the table number `table` can lie in `file`; 0 stands for no table.
    pub(crate) fn holds_table(&self, file: &ImageFile, table: u64, sector: u32) -> bool {
        let at = FileOffset(u64::from(sector) * 512);
        sector == 0 || file.check_holds("grain table", at, self.geometry.grains_in(table) * 4).is_ok()
    }
}

fn sector_offset(sector: u64) -> Option<FileOffset> {
    FileOffset::from_sector(sector)
}
