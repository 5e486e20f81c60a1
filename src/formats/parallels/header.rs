//! The header as it lies in the file, and its extension: little-endian, nothing checked yet.
//!
//! Source: QEMU docs/interop/parallels.rst.

use nom::branch::alt;
use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};

/// First bytes of an image whose table counts in sectors.
pub(crate) const MAGIC_SECTORS: &[u8; 16] = b"WithoutFreeSpace";
/// First bytes of an image whose table counts in blocks.
pub(crate) const MAGIC_BLOCKS: &[u8; 16] = b"WithouFreSpacExt";
/// Length of the header; the table follows it.
pub(super) const HEADER_BYTES: u64 = 64;

/// The header's fields in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawHeader {
    pub counts_blocks: bool,
    pub version: u32,
    /// Sectors.
    pub block: u32,
    pub entries: u32,
    /// Sectors.
    pub size: u64,
    pub in_use: u32,
    /// Sector of the extension, 0 if there is none.
    pub extension_at: u64,
}

/// Takes a header apart; fails only on the magic and on fewer than [`HEADER_BYTES`].
pub(super) fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (rest, magic) = alt((tag(&MAGIC_SECTORS[..]), tag(&MAGIC_BLOCKS[..]))).parse(input)?;
    let (rest, (version, _heads, _cylinders, block, entries)) = (le_u32, le_u32, le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (size, in_use, _data_at, _flags, extension_at)) =
        (le_u64, le_u32, le_u32, le_u32, le_u64).parse(rest)?;
    let counts_blocks = magic == MAGIC_BLOCKS;
    Ok((rest, RawHeader { counts_blocks, version, block, entries, size, in_use, extension_at }))
}

/// Beginning of the extension: magic and checksum.
pub(super) fn extension(input: &[u8]) -> IResult<&[u8], u64> {
    let (rest, (magic, _md5)) = (le_u64, take(16usize)).parse(input)?;
    Ok((rest, magic))
}

/// One feature of the extension: its magic and flags. What comes after its data and padding is returned.
pub(super) fn feature(input: &[u8]) -> IResult<&[u8], (u64, u64)> {
    let (rest, (magic, flags, len, _unused)) = (le_u64, le_u64, le_u32, le_u32).parse(input)?;
    let (rest, data) = take(len)(rest)?;
    let (rest, _) = take((data.len().next_multiple_of(8) - data.len()).min(rest.len()))(rest)?;
    Ok((rest, (magic, flags)))
}
