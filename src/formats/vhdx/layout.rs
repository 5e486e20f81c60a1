//! Headers and region table, checked: which header counts, where log, table and metadata lie.
//!
//! Both structures exist twice, so that one is whole whenever the writer is stopped. A damaged copy is therefore only a
//! warning; of two sound headers the one with the larger sequence number counts.

use uuid::Uuid;

use super::header::{
    HEADER_BYTES, HEADERS_AT, MAGIC, REGION_TABLE_BYTES, REGIONS_AT, RawHeader, RawRegion, TABLE_ENTRIES_MAX, checksum,
    header, region_table, regions,
};
use super::{MIB, guid};
use crate::disk::DiskError;
use crate::formats::ImageError;
use crate::formats::blocks::TABLE_BYTES_MAX;
use crate::formats::file::{Bytes, ImageFile};
use crate::units::FileOffset;

/// Largest log we replay. Hyper-V's has 1 MiB.
const LOG_BYTES_MAX: u64 = 256 << 20;

/// The header that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Changes with the first write after each opening: what a child remembers of its parent.
    pub data_write_guid: Uuid,
    /// Where the log is, if it has to be replayed: inside the file, whole MiB.
    pub log: Option<LogPlace>,
}

/// Where the log is, and which entries in it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPlace {
    pub guid: Uuid,
    pub at: FileOffset,
    pub len: u64,
}

/// A region inside the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub at: FileOffset,
    pub len: u64,
}

/// The regions that every VHDX has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regions {
    pub table: Region,
    pub metadata: Region,
}

/// Reads both headers and takes the newer.
pub(crate) fn read_header(file: &ImageFile, warnings: &mut Vec<String>) -> Result<Header, ImageError> {
    let magic = file.read_vec("VHDX file identifier", FileOffset(0), 8)?;
    if magic != MAGIC {
        let found = format!("{magic:02x?}");
        return Err(file.corrupt("VHDX file identifier", FileOffset(0), "the magic vhdxfile", found).into());
    }
    let raw = match HEADERS_AT.map(|at| raw_header(file, FileOffset(at))) {
        [Ok(first), Ok(second)] if second.sequence > first.sequence => second,
        [Ok(first), Ok(_)] => first,
        [Ok(sound), Err(fault)] | [Err(fault), Ok(sound)] => {
            warnings.push(format!("one of its two headers is damaged: {fault}"));
            sound
        }
        [Err(fault), Err(_)] => return Err(fault.into()),
    };
    raw.validate(file)
}

fn raw_header(file: &ImageFile, at: FileOffset) -> Result<RawHeader, DiskError> {
    let bytes = file.read_vec("VHDX header", at, HEADER_BYTES)?;
    let (_, raw) = header(&bytes)
        .map_err(|_| file.corrupt("VHDX header", at, "the magic head", format!("{:02x?}", &bytes[..4])))?;
    let sum = checksum(&bytes);
    if raw.checksum != sum {
        let (expected, found) = (format!("{sum:#010x}"), format!("{:#010x}", raw.checksum));
        return Err(file.corrupt("VHDX header checksum", at, expected, found));
    }
    Ok(raw)
}

impl RawHeader {
    fn validate(&self, file: &ImageFile) -> Result<Header, ImageError> {
        if self.version != 1 {
            return Err(file.unsupported(format!("VHDX version {}", self.version)));
        }
        if self.log_guid.is_nil() {
            return Ok(Header { data_write_guid: self.data_write_guid, log: None });
        }
        if self.log_version != 0 {
            return Err(file.unsupported(format!("VHDX log version {}", self.log_version)));
        }
        let (at, len) = (FileOffset(self.log_at), u64::from(self.log_len));
        if !is_region(at.0, len) || len > LOG_BYTES_MAX {
            let expected = format!("whole MiB behind the first, at most {LOG_BYTES_MAX} bytes");
            return Err(file.corrupt("log", at, expected, format!("{len} bytes")).into());
        }
        file.check_holds("log", at, len)?;
        Ok(Header { data_write_guid: self.data_write_guid, log: Some(LogPlace { guid: self.log_guid, at, len }) })
    }
}

/// Reads the region table, the first sound copy of it.
pub(crate) fn read_regions(bytes: &dyn Bytes, warnings: &mut Vec<String>) -> Result<Regions, ImageError> {
    let raw = match REGIONS_AT.map(|at| raw_regions(bytes, FileOffset(at))) {
        [Ok(first), Ok(_)] => first,
        [Ok(sound), Err(fault)] | [Err(fault), Ok(sound)] => {
            warnings.push(format!("one of its two region tables is damaged: {fault}"));
            sound
        }
        [Err(fault), Err(_)] => return Err(fault.into()),
    };
    validate_regions(bytes, &raw)
}

fn raw_regions(bytes: &dyn Bytes, at: FileOffset) -> Result<Vec<RawRegion>, DiskError> {
    let file = bytes.file();
    let table = bytes.read_vec("region table", at, REGION_TABLE_BYTES)?;
    let (rest, (sum_found, entries)) = region_table(&table)
        .map_err(|_| file.corrupt("region table", at, "the magic regi", format!("{:02x?}", &table[..4])))?;
    let sum = checksum(&table);
    if sum_found != sum {
        return Err(file.corrupt("region table checksum", at, format!("{sum:#010x}"), format!("{sum_found:#010x}")));
    }
    let too_many = || file.corrupt("region table", at, format!("at most {TABLE_ENTRIES_MAX} entries"), entries);
    let count = usize::try_from(entries).ok().filter(|_| entries <= TABLE_ENTRIES_MAX).ok_or_else(too_many)?;
    let (_, raw) = regions(count)(rest).map_err(|_| too_many())?;
    Ok(raw)
}

fn validate_regions(bytes: &dyn Bytes, raw: &[RawRegion]) -> Result<Regions, ImageError> {
    let file = bytes.file();
    let (mut table, mut metadata) = (None, None);
    let mut seen: Vec<(u64, u64)> = Vec::new();
    for region in raw {
        let slot = match region.guid {
            guid::BAT => &mut table,
            guid::METADATA => &mut metadata,
            other if region.is_required => {
                return Err(file.unsupported(format!("the region {other}, which it requires")));
            }
            _ => continue,
        };
        let (at, len) = (region.at, u64::from(region.len));
        if !is_region(at, len) {
            let found = format!("{len} bytes");
            return Err(file.corrupt("region", FileOffset(at), "whole MiB behind the first", found).into());
        }
        bytes.check_holds("region", FileOffset(at), len)?;
        if let Some((other, _)) = seen.iter().find(|(start, end)| at < *end && *start < at + len) {
            let found = format!("{len} bytes, overlapping the region at {other:#x}");
            return Err(file.corrupt("region", FileOffset(at), "regions apart from each other", found).into());
        }
        seen.push((at, at + len));
        *slot = Some(Region { at: FileOffset(at), len });
    }
    let missing = |name: &str| -> ImageError {
        file.corrupt("region table", FileOffset(REGIONS_AT[0]), format!("a region for the {name}"), "none").into()
    };
    let table = table.ok_or_else(|| missing("block table"))?;
    if table.len > TABLE_BYTES_MAX {
        let expected = format!("a block table of at most {TABLE_BYTES_MAX} bytes");
        return Err(file.corrupt("region", table.at, expected, table.len).into());
    }
    Ok(Regions { table, metadata: metadata.ok_or_else(|| missing("metadata"))? })
}

/// Whether something may lie there: whole MiB, none of them the first, which belongs to the headers.
fn is_region(at: u64, len: u64) -> bool {
    at >= MIB && len >= MIB && at.is_multiple_of(MIB) && len.is_multiple_of(MIB) && at.checked_add(len).is_some()
}
