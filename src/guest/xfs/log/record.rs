//! A record: a header, and the operations that were written together.
//!
//! Layout, in blocks of 512 bytes: `header 1 | extended header, one for every further 32 KiB | data`. The first four bytes
//! of every block but the header are the cycle: how often the log was written round. What was there before lies in
//! the headers.

use nom::bytes::complete::take;
use nom::number::complete::{be_u32, be_u64, le_u32};
use nom::{IResult, Parser};

use super::ring::BLOCK_BYTES;
use crate::guest::GuestError;
use crate::guest::xfs::geometry::Geometry;
use crate::guest::xfs::{corrupt, unsupported};

/// The first four bytes of a header.
pub(super) const MAGIC: u32 = 0xfeed_babe;
/// Bytes of data whose cycles fit into one header.
const CYCLE_BYTES: u32 = 32 << 10;
/// Blocks of data whose cycles fit into one header.
const CYCLES: usize = 64;
/// Where they are, in the header and in extended ones.
const CYCLES_AT: [usize; 2] = [44, 4];
/// Longest record: eight buffers of at most 256 KiB are written one by one.
const RECORD_BYTES_MAX: u32 = 256 << 10;
/// Bytes of a header that its checksum covers, on 64-bit and on 32-bit machines.
const CHECKED_BYTES: [usize; 2] = [328, 324];
/// Bytes of an extended header that the checksum covers.
const CHECKED_EXTENDED_BYTES: usize = 260;
/// Where the checksum lies.
const CHECKSUM_AT: usize = 32;
/// Items are written in the machine's order; this is Linux's on little-endian ones.
const LITTLE_ENDIAN: u32 = 1;

/// A header as it lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawHeader {
    magic: u32,
    pub cycle: u32,
    version: u32,
    len: u32,
    pub sequence: u64,
    pub tail: u64,
    checksum: u32,
    operations: u32,
    format: u32,
    uuid: [u8; 16],
    buffer: u32,
}

fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (magic, cycle, version, len)) = (be_u32, be_u32, be_u32, be_u32).parse(input)?;
    let (input, (sequence, tail, checksum, _previous, operations)) =
        (be_u64, be_u64, le_u32, be_u32, be_u32).parse(input)?;
    let (input, (_cycles, format, uuid, buffer)) = (take(256usize), be_u32, take(16usize), be_u32).parse(input)?;
    let uuid = uuid.try_into().expect("16 bytes were taken");
    Ok((input, RawHeader { magic, cycle, version, len, sequence, tail, checksum, operations, format, uuid, buffer }))
}

/// A header whose lengths are sound: its record may be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub raw: RawHeader,
    header_blocks: u64,
    /// All blocks of the record.
    pub blocks: u64,
}

/// The header in the block of that number; `None` if there is none, or a stale one.
pub(super) fn header_at(block: &[u8], number: u64) -> Option<Header> {
    let (_, raw) = header(block).ok()?;
    let fits = raw.magic == MAGIC
        && raw.sequence == u64::from(raw.cycle) << 32 | number
        && (1..=RECORD_BYTES_MAX).contains(&raw.len)
        && raw.buffer <= RECORD_BYTES_MAX
        && raw.operations <= raw.len;
    let extended = raw.version & 2 != 0 && raw.buffer > CYCLE_BYTES;
    let header_blocks = if extended { u64::from(raw.buffer.div_ceil(CYCLE_BYTES)) } else { 1 };
    let blocks = header_blocks + u64::from(raw.len).div_ceil(BLOCK_BYTES);
    let has_room = u64::from(raw.len) <= header_blocks * u64::from(CYCLE_BYTES);
    (fits && has_room).then_some(Header { raw, header_blocks, blocks })
}

/// A record, whole and sound.
pub(super) struct Record {
    pub sequence: u64,
    pub operations: u32,
    /// The operations, with what the cycles had replaced.
    pub data: Vec<u8>,
}

impl Header {
    /// Checks and unpacks the record of this header; `bytes` are all its blocks, `at` the place of the log.
    pub fn unpack(&self, bytes: &[u8], geometry: &Geometry, at: u64) -> Result<Record, GuestError> {
        let wrong = |expected: &str, found: String| Err(corrupt("log record", at, expected, found));
        let raw = &self.raw;
        let number = raw.sequence & u64::from(u32::MAX);
        if raw.format != LITTLE_ENDIAN {
            return Err(unsupported(format!("a log in format {}, of a machine of another kind", raw.format)));
        }
        if raw.uuid != geometry.uuid && raw.uuid != geometry.meta_uuid {
            return wrong("a record of this filesystem", format!("one of another in block {number}"));
        }
        let block_bytes = usize::try_from(BLOCK_BYTES).expect("512");
        let (headers, data) = bytes.split_at(usize::try_from(self.header_blocks).expect("at most 8") * block_bytes);
        let len = usize::try_from(raw.len).expect("at most 256 KiB");
        // `mkfs.xfs` and old kernels write none.
        if raw.checksum != 0 {
            let sums = CHECKED_BYTES.map(|checked| checksum(headers, &data[..len], checked));
            if !sums.contains(&raw.checksum) {
                return wrong("a sound checksum", format!("another in block {number}"));
            }
        }
        let mut data = data.to_vec();
        for (index, block) in data.chunks_mut(block_bytes).enumerate() {
            let cycle = u32::from_be_bytes(*block.first_chunk().expect("512 bytes"));
            // Behind the end of the log, a record goes on at its start, in the next cycle, which is never the magic.
            let next = raw.cycle.wrapping_add(1);
            let next = if next == MAGIC { next.wrapping_add(1) } else { next };
            if cycle != raw.cycle && cycle != next {
                return wrong("whole records", format!("a torn one in block {number}"));
            }
            let (header, slot) = (index / CYCLES, index % CYCLES);
            let from = header * block_bytes + CYCLES_AT[header.min(1)] + slot * 4;
            block[..4].copy_from_slice(&headers[from..from + 4]);
        }
        data.truncate(len);
        Ok(Record { sequence: raw.sequence, operations: raw.operations, data })
    }
}

fn checksum(headers: &[u8], data: &[u8], checked: usize) -> u32 {
    let block_bytes = usize::try_from(BLOCK_BYTES).expect("512");
    let mut sum = crc32c::crc32c(&headers[..CHECKSUM_AT]);
    sum = crc32c::crc32c_append(sum, &[0; 4]);
    sum = crc32c::crc32c_append(sum, &headers[CHECKSUM_AT + 4..checked]);
    // Extended headers count as far as the data needs them.
    let used = data.len().div_ceil(CYCLES * block_bytes);
    for extended in headers.chunks(block_bytes).take(used).skip(1) {
        sum = crc32c::crc32c_append(sum, &extended[..CHECKED_EXTENDED_BYTES]);
    }
    crc32c::crc32c_append(sum, data)
}
