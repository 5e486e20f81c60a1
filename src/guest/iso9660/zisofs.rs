//! Files that are compressed by zisofs: blocks packed by zlib, each for itself.
//!
//! Field `ZF`: `algorithm "pz" | header length / 4 1 | log₂ of the block size 1 | length unpacked 8`. The file: `magic 8 | length
//! unpacked 4 | header length / 4 1 | log₂ of the block size 1 | 2 | where each block begins, and the last ends 4 × (n + 1)`,
//! little-endian. A block without bytes is all zeros.

use std::io::Read;

use flate2::bufread::ZlibDecoder;
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::u8;

use super::directory::Section;
use super::volume::Volume;
use super::{both, corrupt, unsupported};
use crate::guest::GuestError;

const MAGIC: &[u8] = &[0x37, 0xe4, 0x53, 0x96, 0xc9, 0xdb, 0xd6, 0x07];
/// Block sizes that writers use: 32 to 128 KiB.
const BLOCK_LOGS: std::ops::RangeInclusive<u8> = 15..=17;

/// How a file is compressed, as its directory record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compressed {
    known: bool,
    header_quads: u8,
    block_log: u8,
    /// Bytes of the file when it is unpacked.
    pub size: u64,
}

impl Compressed {
    /// Takes the field `ZF` apart.
    pub fn read(data: &[u8], at: u64) -> Result<Compressed, GuestError> {
        let parsed = (take(2usize), u8, u8, both).parse(data);
        let (_, (algorithm, header_quads, block_log, size)) = parsed
            .map_err(|_: nom::Err<nom::error::Error<&[u8]>>| corrupt("compression (ZF)", at, "12 bytes", data.len()))?;
        let known = algorithm == b"pz";
        let size = if known {
            size.agreed("size of a compressed file", at)?.into()
        } else {
            // The second version has 64 bits, in one byte order.
            u64::from(size.little) | u64::from(size.big.swap_bytes()) << 32
        };
        Ok(Compressed { known, header_quads, block_log, size })
    }

    /// Fills `buf` from byte `at` of the unpacked file; the range lies inside it.
    pub fn read_at(self, volume: &Volume, file: Section, mut at: u64, mut buf: &mut [u8]) -> Result<(), GuestError> {
        self.check_header(volume, file)?;
        let block_bytes = 1u64 << self.block_log;
        let blocks = self.size.div_ceil(block_bytes);
        let table = u64::from(self.header_quads) * 4;
        let table_end = table + (blocks + 1) * 4;
        if table_end > file.len {
            let expected = format!("{table_end} bytes with its table of blocks");
            return Err(corrupt("compressed file", file.at, expected, format!("{} bytes", file.len)));
        }
        while !buf.is_empty() {
            let (number, skip) = (at / block_bytes, at % block_bytes);
            let len = block_bytes.min(self.size - number * block_bytes);
            let place = file.at + table + number * 4;
            let pointers = volume.metadata("compressed file", place, 8)?;
            let pointer = |at: usize| u32::from_le_bytes(pointers[at..at + 4].try_into().expect("4 of 8 bytes"));
            let (start, end) = (u64::from(pointer(0)), u64::from(pointer(4)));
            let now = usize::try_from((len - skip).min(buf.len() as u64)).expect("at most a block");
            let (target, rest) = buf.split_at_mut(now);
            if start == end {
                target.fill(0);
            } else {
                // Packed bytes may be a little more than they were.
                if start < table_end || start > end || end > file.len || end - start > 2 * block_bytes {
                    let expected = format!("at most {} bytes inside the file", 2 * block_bytes);
                    return Err(corrupt("compressed block", place, expected, format!("bytes {start} to {end}")));
                }
                let stored = volume.metadata("compressed block", file.at + start, (end - start) as usize)?;
                let block = unpack(&stored, len as usize, file.at + start)?;
                target.copy_from_slice(&block[skip as usize..][..now]);
            }
            (buf, at) = (rest, at + now as u64);
        }
        Ok(())
    }

    fn check_header(self, volume: &Volume, file: Section) -> Result<(), GuestError> {
        if !self.known {
            return Err(unsupported("a file compressed by zisofs, version 2,"));
        }
        if !BLOCK_LOGS.contains(&self.block_log) {
            let found = format!("2^{}", self.block_log);
            return Err(corrupt("block size of a compressed file", file.at, "2^15 to 2^17", found));
        }
        let header = volume.metadata("compressed file", file.at, 14)?;
        let mut expected = MAGIC.to_vec();
        expected.extend(&self.size.to_le_bytes()[..4]);
        expected.extend([self.header_quads, self.block_log]);
        if header != expected {
            let expected = format!("the header {expected:02x?}");
            return Err(corrupt("compressed file", file.at, expected, format!("{header:02x?}")));
        }
        Ok(())
    }
}

/// The `len` bytes of one block; no more is ever made.
fn unpack(stored: &[u8], len: usize, at: u64) -> Result<Vec<u8>, GuestError> {
    let mut bytes = Vec::with_capacity(len);
    let expected = || format!("{len} bytes packed by zlib");
    match ZlibDecoder::new(stored).take(len as u64).read_to_end(&mut bytes) {
        Ok(found) if found == len => Ok(bytes),
        Ok(found) => Err(corrupt("compressed block", at, expected(), format!("{found} bytes"))),
        Err(err) => Err(corrupt("compressed block", at, expected(), err)),
    }
}
