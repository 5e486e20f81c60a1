//! Footer and dynamic header as they lie in the file: big-endian, nothing checked yet.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification 1.0", "Hard Disk Footer Format" and "Dynamic Disk
//! Header Format".

use nom::bytes::complete::{tag, take};
use nom::multi::count;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};
use uuid::Uuid;

/// Length of the footer. Old writers left off the last byte, which is always 0.
pub(crate) const FOOTER_BYTES: u64 = 512;
/// First bytes of the footer.
pub(crate) const FOOTER_MAGIC: &[u8; 8] = b"conectix";
/// Where the footer's checksum lies in it.
pub(crate) const FOOTER_CHECKSUM_AT: usize = 64;
/// Length of the dynamic header.
pub(crate) const HEADER_BYTES: u64 = 1024;
/// First bytes of the dynamic header.
pub(crate) const HEADER_MAGIC: &[u8; 8] = b"cxsparse";
/// Where the dynamic header's checksum lies in it.
pub(crate) const HEADER_CHECKSUM_AT: usize = 36;
/// Parent locators in a dynamic header.
const LOCATORS: usize = 8;

/// The footer's fields in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawFooter {
    pub version: u32,
    pub data_offset: u64,
    pub creator: [u8; 4],
    pub current_size: u64,
    pub cylinders: u16,
    pub heads: u8,
    pub sectors_per_track: u8,
    pub disk_type: u32,
    pub checksum: u32,
    pub uuid: Uuid,
    pub saved_state: u8,
}

/// The dynamic header's fields in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawDynamicHeader {
    pub table_at: u64,
    pub version: u32,
    pub table_entries: u32,
    pub block: u32,
    pub checksum: u32,
    pub parent_uuid: Uuid,
    /// UTF-16BE, padded with NUL.
    pub parent_name: Vec<u16>,
    pub locators: Vec<RawLocator>,
}

/// Where one of the parent's names lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawLocator {
    pub code: [u8; 4],
    pub len: u32,
    pub at: u64,
}

/// Takes a footer apart; fails only on the magic and on fewer than 85 bytes.
pub(crate) fn footer(input: &[u8]) -> IResult<&[u8], RawFooter> {
    let (input, (_, _features, version, data_offset, _time)) =
        (tag(&FOOTER_MAGIC[..]), be_u32, be_u32, be_u64, be_u32).parse(input)?;
    let (input, (creator, _creator_version, _creator_host)) = (array4, be_u32, be_u32).parse(input)?;
    let (input, (_original_size, current_size)) = (be_u64, be_u64).parse(input)?;
    let (input, (cylinders, heads, sectors_per_track, disk_type)) = (be_u16, be_u8, be_u8, be_u32).parse(input)?;
    let (input, (checksum, uuid, saved_state)) = (be_u32, uuid, be_u8).parse(input)?;
    let raw = RawFooter {
        version,
        data_offset,
        creator,
        current_size,
        cylinders,
        heads,
        sectors_per_track,
        disk_type,
        checksum,
        uuid,
        saved_state,
    };
    Ok((input, raw))
}

/// Takes a dynamic header apart; fails only on the magic and on too few bytes.
pub(crate) fn dynamic_header(input: &[u8]) -> IResult<&[u8], RawDynamicHeader> {
    let (input, (_, _data_offset, table_at, version)) =
        (tag(&HEADER_MAGIC[..]), be_u64, be_u64, be_u32).parse(input)?;
    let (input, (table_entries, block, checksum, parent_uuid)) = (be_u32, be_u32, be_u32, uuid).parse(input)?;
    let (input, (_parent_time, _reserved, parent_name)) = (be_u32, be_u32, count(be_u16, 256)).parse(input)?;
    let (input, locators) = count(locator, LOCATORS).parse(input)?;
    let raw =
        RawDynamicHeader { table_at, version, table_entries, block, checksum, parent_uuid, parent_name, locators };
    Ok((input, raw))
}

fn locator(input: &[u8]) -> IResult<&[u8], RawLocator> {
    // The space is bytes to some writers and sectors to others; the length is bytes to all.
    let (input, (code, _space, len, _reserved, at)) = (array4, be_u32, be_u32, be_u32, be_u64).parse(input)?;
    Ok((input, RawLocator { code, len, at }))
}

fn array4(input: &[u8]) -> IResult<&[u8], [u8; 4]> {
    let (input, bytes) = take(4usize).parse(input)?;
    Ok((input, bytes.try_into().expect("4 bytes were taken")))
}

fn uuid(input: &[u8]) -> IResult<&[u8], Uuid> {
    let (input, bytes) = take(16usize).parse(input)?;
    Ok((input, Uuid::from_bytes(bytes.try_into().expect("16 bytes were taken"))))
}

/// The checksum of both structures: the one's complement of the sum of all bytes but its own four.
pub(crate) fn checksum(bytes: &[u8], own_at: usize) -> u32 {
    let own = own_at..own_at + 4;
    let others = bytes.iter().enumerate().filter(|(at, _)| !own.contains(at));
    !others.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}
