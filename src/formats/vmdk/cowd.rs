//! COWD extents (createType `vmfsSparse`): the `-delta.vmdk` of ESX snapshots. Little-endian, 32-bit sector numbers.
//!
//! The extent does not say whether it has a parent (old ones do, new ones leave it to the descriptor), so it is never
//! opened by itself. Behind the next free sector the file holds noise, because it grows in steps.
//!
//! Source: libvmdk's documentation of the format; vmware/open-vmdk `vmware_vmdk.h`.

use std::sync::Arc;

use nom::bytes::complete::{tag, take};
use nom::number::complete::le_u32;
use nom::{IResult, Parser};

use super::budget::Budget;
use super::sparse::layout::DIRECTORY_BYTES_MAX;
use crate::disk::{Disk, DiskError};
use crate::formats::ImageError;
use crate::formats::file::ImageFile;
use crate::formats::grains::{self, Geometry, GrainMap, Storage};
use crate::formats::mapped::{Cell, Entry};
use crate::units::FileOffset;

/// First bytes of the header.
pub(crate) const MAGIC: &[u8; 4] = b"COWD";
/// Length of the header.
const HEADER_BYTES: u64 = 2048;
/// Entries of a grain table.
const TABLE_ENTRIES: u64 = 4096;
/// Largest grain in sectors; ESX uses 1.
const GRAIN_SECTORS_MAX: u32 = 128;

/// The header's fields as they lie in the file.
struct RawHeader {
    version: u32,
    capacity: u32,
    grain: u32,
    directory_at: u32,
    directory_entries: u32,
    unclean: u32,
}

fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (_, version, _flags, capacity, grain)) =
        (tag(&MAGIC[..]), le_u32, le_u32, le_u32, le_u32).parse(input)?;
    let (input, (directory_at, directory_entries)) = (le_u32, le_u32).parse(input)?;
    // Next free sector, geometry or parent's name, generations, name and description: nothing a reader needs.
    let (input, (_, unclean)) = (take(1648usize - 28), le_u32).parse(input)?;
    Ok((input, RawHeader { version, capacity, grain, directory_at, directory_entries, unclean }))
}

/// A header that makes sense, as far as the file's length lets one know.
struct Layout {
    geometry: Geometry,
    directory_at: FileOffset,
    is_unclean: bool,
}

impl RawHeader {
    fn validate(&self, file: &ImageFile) -> Result<Layout, ImageError> {
        let field = |name, at, expected: String, found: u32| file.corrupt(name, FileOffset(at), expected, found);
        if self.version != 1 {
            return Err(file.unsupported(format!("COWD version {}", self.version)));
        }
        if self.capacity == 0 {
            return Err(field("capacity", 12, "at least 1 sector".to_string(), 0).into());
        }
        if self.grain == 0 || self.grain > GRAIN_SECTORS_MAX {
            return Err(field("grain size", 16, format!("1 to {GRAIN_SECTORS_MAX} sectors"), self.grain).into());
        }
        let geometry = Geometry {
            size: u64::from(self.capacity) * 512,
            grain: u64::from(self.grain) * 512,
            grains_per_table: TABLE_ENTRIES,
        };
        // 2 TiB in grains of a sector need 2^20 tables, 4 MiB of directory: below the limit for any 32-bit capacity.
        debug_assert!(geometry.tables() * 4 <= DIRECTORY_BYTES_MAX);
        if u64::from(self.directory_entries) < geometry.tables() {
            let expected = format!("at least {}", geometry.tables());
            return Err(field("grain directory entries", 24, expected, self.directory_entries).into());
        }
        let directory_at = FileOffset(u64::from(self.directory_at) * 512);
        Ok(Layout { geometry, directory_at, is_unclean: self.unclean != 0 })
    }
}

/// Opens a COWD extent; the second value says that it was not closed cleanly.
pub(super) fn open(file: Arc<ImageFile>, budget: &mut Budget) -> Result<(Arc<dyn Disk>, bool), ImageError> {
    let bytes = file.read_vec("COWD header", FileOffset(0), HEADER_BYTES)?;
    let (_, raw) = header(&bytes)
        .map_err(|_| file.corrupt("COWD header", FileOffset(0), "the magic COWD", format!("{:02x?}", &bytes[..4])))?;
    let layout = raw.validate(&file)?;
    budget.take(&file, layout.geometry.tables() * 4)?;
    let map = CowdMap { directory: read_directory(&file, &layout)? };
    Ok((grains::disk(file, layout.geometry, Storage::Plain, map), layout.is_unclean))
}

fn read_directory(file: &ImageFile, layout: &Layout) -> Result<Vec<u32>, DiskError> {
    let bytes = file.read_vec("grain directory", layout.directory_at, layout.geometry.tables() * 4)?;
    let mut directory = Vec::with_capacity(bytes.len() / 4);
    for (table, entry) in (0u64..).zip(bytes.chunks_exact(4)) {
        let sector = u32::from_le_bytes(entry.try_into().expect("chunks of 4"));
        let at = FileOffset(u64::from(sector) * 512);
        if sector != 0 && file.check_holds("grain table", at, layout.geometry.grains_in(table) * 4).is_err() {
            let place = FileOffset(layout.directory_at.0 + table * 4);
            let expected = format!("a grain table inside the file of {} bytes", file.len());
            let found = format!("sector {sector} (a truncated image, or a damaged directory)");
            return Err(file.corrupt("grain directory entry", place, expected, found));
        }
        directory.push(sector);
    }
    Ok(directory)
}

struct CowdMap {
    directory: Vec<u32>,
}

impl GrainMap for CowdMap {
    const ENTRY: Entry = Entry::Le32;

    fn table_at(&self, table: u64) -> Option<FileOffset> {
        let sector = *self.directory.get(usize::try_from(table).ok()?)?;
        if sector == 0 { None } else { FileOffset::from_sector(u64::from(sector)) }
    }

    fn grain(&self, entry: u64) -> Cell {
        match FileOffset::from_sector(entry) {
            Some(FileOffset(0)) => Cell::Hole,
            Some(at) => Cell::Stored(at),
            None => Cell::Invalid("a sector below 2^55"),
        }
    }
}
