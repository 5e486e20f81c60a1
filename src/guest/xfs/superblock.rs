//! The superblock as it lies in the first sector (`xfs_dsb`): nothing checked yet.

use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

/// The magic, `XFSB`.
pub(crate) const MAGIC: u32 = 0x5846_5342;
/// Bytes that hold all fields we read; the checksum covers the whole sector.
pub(crate) const SUPERBLOCK_BYTES: usize = 512;
/// Where the checksum lies (version 5).
pub(crate) const CHECKSUM_AT: usize = 224;

/// The fields we use, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawSuperblock {
    pub magic: u32,
    pub block_bytes: u32,
    pub blocks: u64,
    pub uuid: [u8; 16],
    pub log_start: u64,
    pub root: u64,
    pub realtime_bitmap: u64,
    pub realtime_summary: u64,
    pub group_blocks: u32,
    pub groups: u32,
    pub log_blocks: u32,
    pub version: u16,
    pub sector_bytes: u16,
    pub inode_bytes: u16,
    pub inodes_per_block: u16,
    pub label: [u8; 12],
    pub block_log: u8,
    pub sector_log: u8,
    pub inode_log: u8,
    pub inodes_per_block_log: u8,
    pub group_blocks_log: u8,
    pub in_progress: u8,
    pub user_quota: u64,
    pub group_quota: u64,
    pub directory_block_log: u8,
    pub features2: u32,
    pub bad_features2: u32,
    pub incompatible: u32,
    pub log_incompatible: u32,
    pub project_quota: u64,
    pub meta_uuid: [u8; 16],
}

/// Takes a superblock apart; fails only on too few bytes.
pub(crate) fn superblock(input: &[u8]) -> IResult<&[u8], RawSuperblock> {
    let (input, (magic, block_bytes, blocks, _realtime_blocks, _realtime_extents, uuid)) =
        (be_u32, be_u32, be_u64, be_u64, be_u64, uuid).parse(input)?;
    let (input, (log_start, root, realtime_bitmap, realtime_summary)) =
        (be_u64, be_u64, be_u64, be_u64).parse(input)?;
    let (input, (_realtime_extent, group_blocks, groups, _bitmap_blocks, log_blocks)) =
        (be_u32, be_u32, be_u32, be_u32, be_u32).parse(input)?;
    let (input, (version, sector_bytes, inode_bytes, inodes_per_block)) =
        (be_u16, be_u16, be_u16, be_u16).parse(input)?;
    let (input, label) = take(12usize).parse(input)?;
    let (input, (block_log, sector_log, inode_log, inodes_per_block_log, group_blocks_log)) =
        (be_u8, be_u8, be_u8, be_u8, be_u8).parse(input)?;
    let (input, (_realtime_log, in_progress, _inode_percent)) = (be_u8, be_u8, be_u8).parse(input)?;
    let (input, (_counters, user_quota, group_quota)) = (take(32usize), be_u64, be_u64).parse(input)?;
    let (input, (_quota_flags, _flags, _shared, _inode_alignment, _stripe)) =
        (be_u16, be_u8, be_u8, be_u32, be_u64).parse(input)?;
    let (input, (directory_block_log, _log_sector_log, _log_sector, _log_stripe)) =
        (be_u8, be_u8, be_u16, be_u32).parse(input)?;
    let (input, (features2, bad_features2, _compatible, _read_only_compatible)) =
        (be_u32, be_u32, be_u32, be_u32).parse(input)?;
    let (input, (incompatible, log_incompatible, _checksum, _sparse_alignment)) =
        (be_u32, be_u32, be_u32, be_u32).parse(input)?;
    let (input, (project_quota, _sequence, meta_uuid)) = (be_u64, be_u64, self::uuid).parse(input)?;
    let raw = RawSuperblock {
        magic,
        block_bytes,
        blocks,
        uuid,
        log_start,
        root,
        realtime_bitmap,
        realtime_summary,
        group_blocks,
        groups,
        log_blocks,
        version,
        sector_bytes,
        inode_bytes,
        inodes_per_block,
        label: label.try_into().expect("12 bytes were taken"),
        block_log,
        sector_log,
        inode_log,
        inodes_per_block_log,
        group_blocks_log,
        in_progress,
        user_quota,
        group_quota,
        directory_block_log,
        features2,
        bad_features2,
        incompatible,
        log_incompatible,
        project_quota,
        meta_uuid,
    };
    Ok((input, raw))
}

/// Sixteen bytes as they lie.
pub(crate) fn uuid(input: &[u8]) -> IResult<&[u8], [u8; 16]> {
    let (input, bytes) = take(16usize).parse(input)?;
    Ok((input, bytes.try_into().expect("16 bytes were taken")))
}
