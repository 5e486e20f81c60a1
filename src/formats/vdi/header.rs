//! The header as it lies in the file: little-endian, nothing checked yet.
//!
//! Source: VirtualBox, Storage/VDICore.h, "VDIPREHEADER" and "VDIHEADER1PLUS".

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};
use uuid::Uuid;

/// Bytes of the header that we read.
pub(crate) const HEADER_BYTES: u64 = 512;
/// Where the magic lies; before it is a text for humans.
pub(crate) const MAGIC_AT: usize = 64;
/// The magic.
pub(crate) const MAGIC: &[u8; 4] = b"\x7f\x10\xda\xbe";

/// The header's fields in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawHeader {
    pub version: u32,
    pub image_type: u32,
    pub map_at: u32,
    pub data_at: u32,
    pub sector: u32,
    pub size: u64,
    pub block: u32,
    pub block_extra: u32,
    pub blocks: u32,
    pub blocks_allocated: u32,
    pub uuid: Uuid,
    pub modification: Uuid,
    pub parent: Uuid,
    pub parent_modification: Uuid,
}

/// Takes a header apart; fails only on the magic and on too few bytes.
pub(crate) fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (_text, _, version, _header_bytes, image_type)) =
        (take(MAGIC_AT), tag(&MAGIC[..]), le_u32, le_u32, le_u32).parse(input)?;
    let (input, (_flags, _comment, map_at, data_at)) = (le_u32, take(256usize), le_u32, le_u32).parse(input)?;
    let (input, (_geometry, sector, _unused, size)) = (take(12usize), le_u32, le_u32, le_u64).parse(input)?;
    let (input, (block, block_extra, blocks, blocks_allocated)) = (le_u32, le_u32, le_u32, le_u32).parse(input)?;
    let (input, (uuid, modification, parent, parent_modification)) = (guid, guid, guid, guid).parse(input)?;
    let raw = RawHeader {
        version,
        image_type,
        map_at,
        data_at,
        sector,
        size,
        block,
        block_extra,
        blocks,
        blocks_allocated,
        uuid,
        modification,
        parent,
        parent_modification,
    };
    Ok((input, raw))
}

/// A UUID: its first three numbers little-endian, the rest as it is written.
fn guid(input: &[u8]) -> IResult<&[u8], Uuid> {
    let (input, bytes) = take(16usize).parse(input)?;
    Ok((input, Uuid::from_bytes_le(bytes.try_into().expect("16 bytes were taken"))))
}
