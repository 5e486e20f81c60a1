//! The superblock: raw (`squashfs_super_block`) → checked.

use nom::bytes::complete::tag;
use nom::number::complete::{le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use super::compression::Compression;
use super::{corrupt, unsupported};
use crate::guest::GuestError;

/// Bytes of the superblock, at the volume's start.
pub(crate) const SUPERBLOCK_BYTES: usize = 96;
/// What stands where a table would lie, if there is none.
const NO_TABLE: u64 = u64::MAX;
/// Block sizes that mksquashfs writes and the kernel reads.
const BLOCK_LOGS: std::ops::RangeInclusive<u16> = 12..=20;

/// The superblock as it lies there, nothing checked yet.
#[derive(Debug)]
struct RawSuperblock {
    block_bytes: u32,
    fragments: u32,
    compression: u16,
    block_log: u16,
    ids: u16,
    version: (u16, u16),
    root: u64,
    bytes_used: u64,
    id_table: u64,
    attribute_table: u64,
    inode_table: u64,
    directory_table: u64,
    fragment_table: u64,
}

fn raw(input: &[u8]) -> IResult<&[u8], RawSuperblock> {
    let (input, (_, _inodes, _made, block_bytes, fragments)) =
        (tag(&b"hsqs"[..]), le_u32, le_u32, le_u32, le_u32).parse(input)?;
    let (input, (compression, block_log, _flags, ids)) = (le_u16, le_u16, le_u16, le_u16).parse(input)?;
    let (input, (version, root, bytes_used)) = ((le_u16, le_u16), le_u64, le_u64).parse(input)?;
    let (input, (id_table, attribute_table, inode_table)) = (le_u64, le_u64, le_u64).parse(input)?;
    let (input, (directory_table, fragment_table, _export_table)) = (le_u64, le_u64, le_u64).parse(input)?;
    let raw = RawSuperblock {
        block_bytes,
        fragments,
        compression,
        block_log,
        ids,
        version,
        root,
        bytes_used,
        id_table,
        attribute_table,
        inode_table,
        directory_table,
        fragment_table,
    };
    Ok((input, raw))
}

/// A superblock whose numbers make sense; where tables lie is checked by who reads them.
#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub block_log: u16,
    pub compression: Compression,
    /// Bytes of the filesystem; nothing lies behind.
    pub bytes_used: u64,
    /// Reference of the root directory's inode.
    pub root: u64,
    pub ids: u32,
    pub id_table: u64,
    pub fragments: u32,
    pub fragment_table: u64,
    pub attribute_table: Option<u64>,
    pub inode_table: u64,
    pub directory_table: u64,
}

/// Checks the first bytes of a volume.
pub(crate) fn read(bytes: &[u8]) -> Result<Superblock, GuestError> {
    let wrong = |field, at, expected: &str, found: String| Err(corrupt(field, at, expected, found));
    let Ok((_, raw)) = raw(bytes) else {
        return wrong("superblock", 0, "96 bytes that begin with hsqs", format!("{:02x?}", bytes.get(..4)));
    };
    if raw.version != (4, 0) {
        return Err(unsupported(format!("squashfs {}.{}", raw.version.0, raw.version.1)));
    }
    let Some(compression) = Compression::from_code(raw.compression) else {
        return Err(unsupported(format!("compression {} of squashfs", raw.compression)));
    };
    if !BLOCK_LOGS.contains(&raw.block_log) || raw.block_bytes != 1 << raw.block_log {
        let found = format!("{} bytes and 2^{}", raw.block_bytes, raw.block_log);
        return wrong("block size", 12, "4 KiB to 1 MiB, and its logarithm", found);
    }
    let tables = [raw.id_table, raw.inode_table, raw.directory_table];
    if let Some(outside) = tables.into_iter().find(|table| *table >= raw.bytes_used) {
        let expected = format!("tables below the end at {:#x}", raw.bytes_used);
        return wrong("superblock", 48, &expected, format!("one at {outside:#x}"));
    }
    // Sums of places and 48 bits stay below 2^64.
    if i64::try_from(raw.bytes_used).is_err() {
        return wrong("size of the filesystem", 40, "less than 2^63", raw.bytes_used.to_string());
    }
    Ok(Superblock {
        block_log: raw.block_log,
        compression,
        bytes_used: raw.bytes_used,
        root: raw.root,
        ids: raw.ids.into(),
        id_table: raw.id_table,
        fragments: if raw.fragment_table == NO_TABLE { 0 } else { raw.fragments },
        fragment_table: raw.fragment_table,
        attribute_table: (raw.attribute_table != NO_TABLE).then_some(raw.attribute_table),
        inode_table: raw.inode_table,
        directory_table: raw.directory_table,
    })
}

impl Superblock {
    /// Bytes of a block of content.
    pub fn block_bytes(&self) -> u64 {
        1 << self.block_log
    }
}
