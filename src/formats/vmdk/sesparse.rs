//! seSparse extents: the `-sesparse.vmdk` of ESX snapshots on VMFS 6 and of disks beyond 2 TiB. All fields are 64-bit,
//! little-endian.
//!
//! The journal's format is unpublished, so an extent whose journal waits to be replayed is refused.
//!
//! Source: QEMU block/vmdk.c and dissect.hypervisor's disk/vmdk.py, which agree on a real image.

use std::sync::Arc;

use nom::multi::count;
use nom::number::complete::le_u64;
use nom::{IResult, Parser};

use super::budget::Budget;
use super::sparse::layout::DIRECTORY_BYTES_MAX;
use crate::disk::Disk;
use crate::formats::ImageError;
use crate::formats::file::ImageFile;
use crate::formats::grains::{self, Geometry, GrainMap, Storage};
use crate::formats::mapped::{Cell, Entry};
use crate::units::{ByteLen, FileOffset};

/// First bytes of the constant header.
pub(crate) const MAGIC: &[u8; 8] = b"\xbe\xba\xfe\xca\0\0\0\0";
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// Version 2.1, the only one known.
const VERSION: u64 = 0x2_0000_0001;
const GRAIN_SECTORS: u64 = 8;
const TABLE_SECTORS: u64 = 64;
const TABLE_ENTRIES: u64 = TABLE_SECTORS * 512 / 8;
/// Upper half of a directory entry that names a table.
const TABLE_ALLOCATED: u64 = 0x1000_0000;
/// Stands for no table. No file is so large that it had a table of this number.
const NO_TABLE: u32 = u32::MAX;

/// The constant header: 26 numbers, of which these matter. Offsets and sizes in sectors.
struct RawHeader {
    version: u64,
    capacity: u64,
    grain: u64,
    table: u64,
    flags: u64,
    volatile_at: u64,
    directory_at: u64,
    directory_len: u64,
    tables_at: u64,
    tables_len: u64,
    grains_at: u64,
}

fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, words) = count(le_u64, 26).parse(input)?;
    let word = |byte: usize| words[byte / 8];
    let raw = RawHeader {
        version: word(8),
        capacity: word(16),
        grain: word(24),
        table: word(32),
        flags: word(40),
        volatile_at: word(80),
        directory_at: word(128),
        directory_len: word(136),
        tables_at: word(144),
        tables_len: word(152),
        grains_at: word(192),
    };
    Ok((input, raw))
}

/// Magic, free table, next transaction, replay flag.
fn volatile_header(input: &[u8]) -> IResult<&[u8], (u64, u64, u64, u64)> {
    (le_u64, le_u64, le_u64, le_u64).parse(input)
}

/// A constant header that makes sense.
struct Layout {
    geometry: Geometry,
    volatile_at: FileOffset,
    directory_at: FileOffset,
    tables_at: FileOffset,
    tables_len: u64,
    grains_at: u64,
}

impl RawHeader {
    fn validate(&self, file: &ImageFile) -> Result<Layout, ImageError> {
        let field = |name, at, expected: &str, found: u64| -> ImageError {
            file.corrupt(name, FileOffset(at), expected, format!("{found:#x}")).into()
        };
        if self.version != VERSION {
            return Err(file.unsupported(format!("seSparse version {:#x}", self.version)));
        }
        if self.grain != GRAIN_SECTORS {
            return Err(field("grain size", 24, "8 sectors", self.grain));
        }
        if self.table != TABLE_SECTORS {
            return Err(field("grain table size", 32, "64 sectors", self.table));
        }
        if self.flags != 0 {
            return Err(file.unsupported(format!("seSparse flags {:#x}", self.flags)));
        }
        let size = match ByteLen::from_sectors(self.capacity) {
            Some(size) if size.0 > 0 && size.0 <= i64::MAX.unsigned_abs() => size.0,
            _ => return Err(field("capacity", 16, "1 sector to 2^63 bytes", self.capacity)),
        };
        let geometry = Geometry { size, grain: GRAIN_SECTORS * 512, grains_per_table: TABLE_ENTRIES };
        let directory_needed = geometry.tables().saturating_mul(8);
        if directory_needed > DIRECTORY_BYTES_MAX {
            return Err(field("capacity", 16, "a disk that a grain directory of 32 MiB can map", self.capacity));
        }
        let place = |name, at, sector| {
            FileOffset::from_sector(sector).ok_or_else(|| field(name, at, "a sector inside the file", sector))
        };
        if ByteLen::from_sectors(self.directory_len).is_none_or(|len| len.0 < directory_needed) {
            let expected = format!("at least {directory_needed} bytes");
            return Err(field("grain directory size", 136, &expected, self.directory_len));
        }
        let tables_at = place("grain tables offset", 144, self.tables_at)?;
        let tables_len = match ByteLen::from_sectors(self.tables_len) {
            Some(len) if tables_at.checked_add(len).is_some() => len.0,
            _ => return Err(field("grain tables size", 152, "an end below 2^64", self.tables_len)),
        };
        Ok(Layout {
            geometry,
            volatile_at: place("volatile header offset", 80, self.volatile_at)?,
            directory_at: place("grain directory offset", 128, self.directory_at)?,
            tables_at,
            tables_len,
            grains_at: place("grains offset", 192, self.grains_at)?.0,
        })
    }
}

/// Opens a seSparse extent.
pub(super) fn open(file: Arc<ImageFile>, budget: &mut Budget) -> Result<Arc<dyn Disk>, ImageError> {
    let bytes = file.read_vec("seSparse header", FileOffset(0), 512)?;
    let (_, raw) = header(&bytes).expect("512 bytes hold 26 numbers");
    if !bytes.starts_with(MAGIC) {
        let found = format!("{:02x?}", &bytes[..8]);
        return Err(file.corrupt("seSparse header", FileOffset(0), "the magic 0xcafebabe", found).into());
    }
    let layout = raw.validate(&file)?;
    check_journal(&file, layout.volatile_at)?;
    budget.take(&file, layout.geometry.tables() * 4)?;
    let (tables_at, grains_at) = (layout.tables_at, layout.grains_at);
    let map = SeSparseMap { tables: read_directory(&file, &layout)?, tables_at, grains_at };
    Ok(grains::disk(file, layout.geometry, Storage::Plain, map))
}

fn check_journal(file: &ImageFile, at: FileOffset) -> Result<(), ImageError> {
    let bytes = file.read_vec("volatile header", at, 32)?;
    let (_, (magic, _, _, replay)) = volatile_header(&bytes).expect("32 bytes hold 4 numbers");
    if magic != VOLATILE_MAGIC {
        return Err(file.corrupt("volatile header", at, "the magic 0xcafecafe", format!("{magic:#x}")).into());
    }
    if replay != 0 {
        return Err(file.unsupported("a seSparse journal that waits to be replayed (the image was not closed cleanly)"));
    }
    Ok(())
}

/// Turns directory entries into numbers of tables, each inside the file and the table area.
fn read_directory(file: &ImageFile, layout: &Layout) -> Result<Vec<u32>, ImageError> {
    let bytes = file.read_vec("grain directory", layout.directory_at, layout.geometry.tables() * 8)?;
    let mut tables = Vec::with_capacity(bytes.len() / 8);
    for (number, entry) in (0u64..).zip(bytes.chunks_exact(8)) {
        let entry = u64::from_le_bytes(entry.try_into().expect("chunks of 8"));
        if entry == 0 {
            tables.push(NO_TABLE);
            continue;
        }
        let fault = |expected: String| {
            let at = FileOffset(layout.directory_at.0 + number * 8);
            file.corrupt("grain directory entry", at, expected, format!("{entry:#x}"))
        };
        if entry >> 32 != TABLE_ALLOCATED {
            return Err(fault("0 or 0x10000000 in the upper half".to_string()).into());
        }
        let table = u32::try_from(entry & u64::from(u32::MAX)).expect("32 bits");
        let from = table_start(table);
        let needed = layout.geometry.grains_in(number) * 8;
        let at = FileOffset(layout.tables_at.0.saturating_add(from));
        if table == NO_TABLE
            || from + needed > layout.tables_len
            || file.check_holds("grain table", at, needed).is_err()
        {
            let expected = format!("a grain table inside the table area and the file of {} bytes", file.len());
            return Err(fault(expected).into());
        }
        tables.push(table);
    }
    Ok(tables)
}

/// Where a table begins in the table area.
fn table_start(number: u32) -> u64 {
    u64::from(number) * TABLE_SECTORS * 512 // 32 + 15 bits
}

struct SeSparseMap {
    /// By number in the table area; [`NO_TABLE`] where none of a table's grains is stored.
    tables: Vec<u32>,
    /// Where table 0 lies in the file.
    tables_at: FileOffset,
    /// Where grain 0 lies in the file.
    grains_at: u64,
}

impl GrainMap for SeSparseMap {
    const ENTRY: Entry = Entry::Le64;

    fn table_at(&self, table: u64) -> Option<FileOffset> {
        let number = *self.tables.get(usize::try_from(table).ok()?)?;
        // The sum was checked when the directory was read.
        (number != NO_TABLE).then(|| FileOffset(self.tables_at.0 + table_start(number)))
    }

    fn grain(&self, entry: u64) -> Cell {
        match entry >> 60 {
            0 if entry == 0 => Cell::Hole,
            // Unmapped by the guest, or written as zeros: both hide the parent.
            1 | 2 => Cell::Zero,
            3 => {
                // The index is stored rotated: its low 12 bits lie above its high 48 bits.
                let index = ((entry >> 48) & 0xfff) | ((entry & 0xffff_ffff_ffff) << 12);
                let at = index.checked_mul(GRAIN_SECTORS * 512).and_then(|from| from.checked_add(self.grains_at));
                at.map_or(Cell::Invalid("a grain below 2^64"), |at| Cell::Stored(FileOffset(at)))
            }
            _ => Cell::Invalid("0, or 1 to 3 in the top four bits"),
        }
    }
}
