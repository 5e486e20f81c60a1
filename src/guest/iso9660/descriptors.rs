//! Volume descriptors: from sector 16 on, one a sector, until one says that it is the last.
//!
//! Layout, numbers in both byte orders: `type 1 | "CD001" 5 | version 1 | …`; primary (type 1) and supplementary (type 2) have
//! at 80 the number of blocks 8, at 88 escape sequences 32 (they make a supplementary one Joliet's), at 128 the bytes of a
//! block 4, at 156 the record of the root directory 34.

use nom::bytes::complete::take;
use nom::number::complete::{be_u16, le_u16};
use nom::{IResult, Parser};

use super::record::RawRecord;
use super::{Both, SECTOR_BYTES, both, corrupt, record};
use crate::disk::{Disk, DiskError};
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// The first sector with a descriptor.
const FIRST_SECTOR: u64 = 16;
/// Descriptors that are looked at; real volumes have fewer than ten.
const DESCRIPTORS_MAX: u64 = 64;
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
const TERMINATOR: u8 = 255;
/// Escape sequences that stand for UCS-2 of level 1, 2 and 3.
const JOLIET_ESCAPES: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];

/// What the descriptors say.
pub(crate) struct Descriptors {
    pub block_bytes: u64,
    pub blocks: u32,
    /// Where the root directory of the first tree lies, in bytes.
    pub root: u64,
    /// Where the root directory of Joliet's tree lies.
    pub joliet_root: Option<u64>,
    /// There is a UDF filesystem beside it, which may hold other files.
    pub has_udf: bool,
}

/// A primary or supplementary descriptor as it lies there.
struct RawDescriptor<'a> {
    blocks: Both,
    escapes: &'a [u8],
    block_bytes: (u16, u16),
    root: RawRecord<'a>,
}

fn descriptor(input: &[u8]) -> IResult<&[u8], RawDescriptor<'_>> {
    let (rest, (_, blocks, escapes, _, block_bytes, _)) =
        (take(80usize), both, take(32usize), take(8usize), (le_u16, be_u16), take(24usize)).parse(input)?;
    let (rest, root) = record::raw(rest)?;
    Ok((rest, RawDescriptor { blocks, escapes, block_bytes, root }))
}

/// Reads all descriptors.
pub(crate) fn read(disk: &dyn Disk) -> Result<Descriptors, GuestError> {
    let (mut primary, mut joliet_root) = (None, None);
    let mut next = FIRST_SECTOR;
    while next < FIRST_SECTOR + DESCRIPTORS_MAX {
        let at = next * SECTOR_BYTES;
        let Some(sector) = sector(disk, at)? else { break };
        let (kind, magic) = header(&sector);
        if magic != b"CD001" {
            break;
        }
        next += 1;
        match kind {
            TERMINATOR => break,
            PRIMARY if primary.is_none() => primary = Some(validate(&sector, at)?),
            SUPPLEMENTARY if joliet_root.is_none() && is_joliet(&sector) => joliet_root = Some((sector, at)),
            _ => {}
        }
    }
    let at = FIRST_SECTOR * SECTOR_BYTES;
    let Some((block_bytes, blocks, root)) = primary else {
        return Err(corrupt("volume descriptor", at, "a primary one", "none"));
    };
    let joliet_root = match joliet_root {
        Some((sector, at)) => {
            let (bytes, _, root) = validate(&sector, at)?;
            if bytes != block_bytes {
                return Err(corrupt("block size of Joliet", at, format!("{block_bytes} bytes"), bytes));
            }
            Some(root)
        }
        None => None,
    };
    Ok(Descriptors { block_bytes, blocks, root, joliet_root, has_udf: has_udf(disk, next)? })
}

/// UDF's own descriptors follow, in the same sequence.
fn has_udf(disk: &dyn Disk, from: u64) -> Result<bool, DiskError> {
    for number in from..from + DESCRIPTORS_MAX {
        let Some(sector) = sector(disk, number * SECTOR_BYTES)? else { break };
        match header(&sector).1 {
            b"NSR02" | b"NSR03" => return Ok(true),
            b"CD001" | b"BEA01" | b"BOOT2" | b"CDW02" => {}
            _ => break,
        }
    }
    Ok(false)
}

fn sector(disk: &dyn Disk, at: u64) -> Result<Option<[u8; SECTOR_BYTES as usize]>, DiskError> {
    if at + SECTOR_BYTES > disk.size().0 {
        return Ok(None);
    }
    let mut bytes = [0; SECTOR_BYTES as usize];
    disk.read_at(GuestOffset(at), &mut bytes)?;
    Ok(Some(bytes))
}

/// Type and magic of any descriptor.
fn header(sector: &[u8; SECTOR_BYTES as usize]) -> (u8, &[u8]) {
    (sector[0], &sector[1..6])
}

fn is_joliet(sector: &[u8]) -> bool {
    descriptor(sector).is_ok_and(|(_, raw)| JOLIET_ESCAPES.iter().any(|escape| raw.escapes.starts_with(escape)))
}

/// Block size, number of blocks, and where the root directory lies.
fn validate(sector: &[u8], at: u64) -> Result<(u64, u32, u64), GuestError> {
    let wrong = |field, expected: &str, found: String| Err(corrupt(field, at, expected, found));
    let Ok((_, raw)) = descriptor(sector) else {
        return wrong("volume descriptor", "a record of the root directory", "none".into());
    };
    let (little, big) = raw.block_bytes;
    if little != big || !matches!(little, 512 | 1024 | 2048) {
        return wrong("block size", "512, 1024 or 2048 in both byte orders", format!("{little} and {big}"));
    }
    let block_bytes = u64::from(little);
    let blocks = raw.blocks.agreed("volume size", at + 80)?;
    let root = raw.root.validate(block_bytes, at + 156)?;
    if !root.is_directory() {
        return wrong("root directory", "a directory", "a file".into());
    }
    Ok((block_bytes, blocks, root.content))
}
