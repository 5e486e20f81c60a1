//! The structures at the front of a VHDX as they lie in the file: little-endian, nothing checked yet but magics.
//!
//! Source: \[MS-VHDX\] 2.2 "File Format Header", 2.6 "Metadata Region".

use nom::bytes::complete::{tag, take};
use nom::multi::count;
use nom::number::complete::{le_u16, le_u32, le_u64};
use nom::{IResult, Parser};
use uuid::Uuid;

/// First bytes of the file.
pub(crate) const MAGIC: &[u8; 8] = b"vhdxfile";
/// Where the two headers lie.
pub(crate) const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes of a header that its checksum covers.
pub(crate) const HEADER_BYTES: u64 = 4096;
/// Where the two copies of the region table lie.
pub(crate) const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a region table that its checksum covers.
pub(crate) const REGION_TABLE_BYTES: u64 = 64 << 10;
/// Bytes of the metadata table.
pub(crate) const METADATA_TABLE_BYTES: u64 = 64 << 10;
/// Entries that either table has room for.
pub(crate) const TABLE_ENTRIES_MAX: u32 = 2047;
/// Where headers, region tables and log entries have their checksum.
const CHECKSUM_AT: usize = 4;

/// A header's fields in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawHeader {
    pub checksum: u32,
    pub sequence: u64,
    pub data_write_guid: Uuid,
    pub log_guid: Uuid,
    pub log_version: u16,
    pub version: u16,
    pub log_len: u32,
    pub log_at: u64,
}

/// An entry of the region table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRegion {
    pub guid: Uuid,
    pub at: u64,
    pub len: u32,
    pub is_required: bool,
}

/// An entry of the metadata table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawItem {
    pub guid: Uuid,
    /// From the beginning of the region.
    pub at: u32,
    pub len: u32,
    pub is_required: bool,
}

/// An entry of a parent locator; offsets from the beginning of the item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawLocatorEntry {
    pub key_at: u32,
    pub value_at: u32,
    pub key_len: u16,
    pub value_len: u16,
}

/// CRC-32C of a structure, its own checksum taken as zeros.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(CHECKSUM_AT.min(bytes.len()));
    let behind = rest.get(4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), behind)
}

pub(crate) fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (_, checksum, sequence, _file_write_guid)) = (tag(&b"head"[..]), le_u32, le_u64, guid).parse(input)?;
    let (input, (data_write_guid, log_guid)) = (guid, guid).parse(input)?;
    let (input, (log_version, version, log_len, log_at)) = (le_u16, le_u16, le_u32, le_u64).parse(input)?;
    Ok((input, RawHeader { checksum, sequence, data_write_guid, log_guid, log_version, version, log_len, log_at }))
}

/// Checksum and number of entries of a region table.
pub(crate) fn region_table(input: &[u8]) -> IResult<&[u8], (u32, u32)> {
    let (input, (_, checksum, entries, _reserved)) = (tag(&b"regi"[..]), le_u32, le_u32, le_u32).parse(input)?;
    Ok((input, (checksum, entries)))
}

/// As many entries as the table says it has.
pub(crate) fn regions(entries: usize) -> impl Fn(&[u8]) -> IResult<&[u8], Vec<RawRegion>> {
    move |input| {
        let region = |input| {
            let (input, (guid, at, len, flags)) = (guid, le_u64, le_u32, le_u32).parse(input)?;
            Ok((input, RawRegion { guid, at, len, is_required: flags & 1 != 0 }))
        };
        count(region, entries).parse(input)
    }
}

/// Number of entries of a metadata table.
pub(crate) fn metadata_table(input: &[u8]) -> IResult<&[u8], u16> {
    let (input, (_, _reserved, entries, _more)) =
        (tag(&b"metadata"[..]), le_u16, le_u16, take(20usize)).parse(input)?;
    Ok((input, entries))
}

/// As many entries as the table says it has.
pub(crate) fn items(entries: usize) -> impl Fn(&[u8]) -> IResult<&[u8], Vec<RawItem>> {
    move |input| {
        let item = |input| {
            let (input, (guid, at, len, flags, _reserved)) = (guid, le_u32, le_u32, le_u32, le_u32).parse(input)?;
            Ok((input, RawItem { guid, at, len, is_required: flags & 4 != 0 }))
        };
        count(item, entries).parse(input)
    }
}

/// The kind of a parent locator and its entries.
pub(crate) fn parent_locator(input: &[u8]) -> IResult<&[u8], (Uuid, Vec<RawLocatorEntry>)> {
    let (input, (kind, _reserved, entries)) = (guid, le_u16, le_u16).parse(input)?;
    let entry = |input| {
        let (input, (key_at, value_at, key_len, value_len)) = (le_u32, le_u32, le_u16, le_u16).parse(input)?;
        Ok((input, RawLocatorEntry { key_at, value_at, key_len, value_len }))
    };
    let (input, entries) = count(entry, entries.into()).parse(input)?;
    Ok((input, (kind, entries)))
}

/// A GUID: its first three numbers little-endian, the rest as it is written.
pub(crate) fn guid(input: &[u8]) -> IResult<&[u8], Uuid> {
    let (input, bytes) = take(16usize).parse(input)?;
    Ok((input, Uuid::from_bytes_le(bytes.try_into().expect("16 bytes were taken"))))
}
