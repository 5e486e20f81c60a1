//! The header of a hosted sparse extent as it lies in the file: little-endian, nothing checked yet.
//!
//! Source: VMware "Virtual Disk Format 5.0", "Hosted Sparse Extent Header".

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

/// Length of the header.
pub(crate) const HEADER_BYTES: u64 = 512;
/// First bytes of the header.
pub(crate) const MAGIC: &[u8; 4] = b"KDMV";

/// The header's fields in their order; offsets and sizes in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawHeader {
    pub version: u32,
    pub flags: u32,
    pub capacity: u64,
    pub grain: u64,
    pub descriptor_at: u64,
    pub descriptor_len: u64,
    pub entries_per_table: u32,
    pub redundant_directory_at: u64,
    pub directory_at: u64,
    pub unclean_shutdown: u8,
    /// `\n`, blank, `\r`, `\n`: a transfer in text mode mangles them.
    pub newline_test: [u8; 4],
    pub compression: u16,
}

/// Takes a header apart; fails only on the magic and on fewer than [`HEADER_BYTES`].
pub(crate) fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (_, version, flags, capacity, grain)) =
        (tag(&MAGIC[..]), le_u32, le_u32, le_u64, le_u64).parse(input)?;
    let (input, (descriptor_at, descriptor_len, entries_per_table)) = (le_u64, le_u64, le_u32).parse(input)?;
    let (input, (redundant_directory_at, directory_at, _overhead)) = (le_u64, le_u64, le_u64).parse(input)?;
    let (input, (unclean_shutdown, a, b, c, d)) = (le_u8, le_u8, le_u8, le_u8, le_u8).parse(input)?;
    let (input, (compression, _padding)) = (le_u16, take(433usize)).parse(input)?;
    let raw = RawHeader {
        version,
        flags,
        capacity,
        grain,
        descriptor_at,
        descriptor_len,
        entries_per_table,
        redundant_directory_at,
        directory_at,
        unclean_shutdown,
        newline_test: [a, b, c, d],
        compression,
    };
    Ok((input, raw))
}
