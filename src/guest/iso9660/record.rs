//! Directory records: raw → checked.
//!
//! Layout: `0 length 1 | 1 blocks of its extended attribute record 1 | 2 extent 8 | 10 bytes of content 8 | 18 date 7 | 25 flags
//! 1 | 26 file unit 1 | 27 gap 1 | 28 volume 4 | 32 length of name 1 | name | padding to an even length | system use`.

use nom::bytes::complete::take;
use nom::number::complete::u8;
use nom::{IResult, Parser};

use super::volume::Volume;
use super::{Both, SECTOR_BYTES, both, corrupt};
use crate::guest::GuestError;

/// Bytes before the name.
const FIXED_BYTES: usize = 33;
const DIRECTORY: u8 = 2;
const ASSOCIATED: u8 = 4;
const MORE_SECTIONS: u8 = 0x80;

/// A record as it lies there.
pub(crate) struct RawRecord<'a> {
    len: u8,
    attribute_blocks: u8,
    extent: Both,
    size: Both,
    date: [u8; 7],
    flags: u8,
    unit: u8,
    gap: u8,
    name: &'a [u8],
    system_use: &'a [u8],
}

/// Takes a record apart; its length is in its first byte.
pub(crate) fn raw(input: &[u8]) -> IResult<&[u8], RawRecord<'_>> {
    let (_, len) = u8(input)?;
    let (rest, record) = take(len)(input)?;
    let (record, (len, attribute_blocks, extent, size, date)) = (u8, u8, both, both, take(7usize)).parse(record)?;
    let (record, (flags, unit, gap, _volume, name_len)) = (u8, u8, u8, take(4usize), u8).parse(record)?;
    let (system_use, name) = take(name_len)(record)?;
    // What follows the name begins at an even place.
    let system_use = if name_len % 2 == 0 { system_use.get(1..).unwrap_or_default() } else { system_use };
    let date = date.try_into().expect("taken as 7 bytes");
    Ok((rest, RawRecord { len, attribute_blocks, extent, size, date, flags, unit, gap, name, system_use }))
}

/// A checked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it lies on the volume.
    pub at: u64,
    /// Where its content lies on the volume, in bytes.
    pub content: u64,
    /// Bytes of content.
    pub size: u32,
    pub date: [u8; 7],
    /// Its content lies in pieces with gaps between them.
    pub interleaved: bool,
    /// Its name as it lies there.
    pub name: Vec<u8>,
    /// What extensions added.
    pub system_use: Vec<u8>,
    flags: u8,
    /// Where the next record begins.
    pub next: u64,
}

/// The record at byte `at`; `None` where only padding follows up to the next sector.
pub(crate) fn read(volume: &Volume, at: u64) -> Result<Option<Record>, GuestError> {
    const FIELD: &str = "directory record";
    let len = volume.metadata(FIELD, at, 1)?[0];
    if len == 0 {
        return Ok(None);
    }
    let in_sector = SECTOR_BYTES - at % SECTOR_BYTES;
    if usize::from(len) <= FIXED_BYTES || u64::from(len) > in_sector {
        return Err(corrupt(FIELD, at, format!("{} to {in_sector} bytes", FIXED_BYTES + 1), format!("{len} bytes")));
    }
    let bytes = volume.metadata(FIELD, at, len.into())?;
    match raw(&bytes) {
        Ok((_, raw)) => Ok(Some(raw.validate(volume.block_bytes, at)?)),
        Err(_) => Err(corrupt(FIELD, at, "a name that fits", format!("{} bytes of name", bytes[FIXED_BYTES - 1]))),
    }
}

impl RawRecord<'_> {
    pub fn validate(self, block_bytes: u64, at: u64) -> Result<Record, GuestError> {
        if self.name.is_empty() {
            return Err(corrupt("directory record", at, "a name", "none"));
        }
        let extent = self.extent.agreed("extent of a directory record", at)?;
        let size = self.size.agreed("size in a directory record", at)?;
        // 33 bits of blocks of at most 2 KiB: far below 2^64.
        let content = (u64::from(extent) + u64::from(self.attribute_blocks)) * block_bytes;
        Ok(Record {
            at,
            content,
            size,
            date: self.date,
            interleaved: self.unit != 0 || self.gap != 0,
            name: self.name.to_vec(),
            system_use: self.system_use.to_vec(),
            flags: self.flags,
            next: at + u64::from(self.len),
        })
    }
}

impl Record {
    pub fn is_directory(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// Belongs to the file of the same name (a resource fork); shown by nobody.
    pub fn is_associated(&self) -> bool {
        self.flags & ASSOCIATED != 0
    }

    /// The next record is another piece of the same file.
    pub fn has_more_sections(&self) -> bool {
        self.flags & MORE_SECTIONS != 0
    }

    /// `.` or `..`.
    pub fn is_dot(&self) -> bool {
        matches!(self.name[..], [0 | 1])
    }
}
