//! The superblock, checked: where blocks and inodes lie, and which forms of structures the volume has. Whoever holds a
//! [`Geometry`] may shift and multiply by its numbers without looking again.
//!
//! Block and inode numbers are sparse: the number of the allocation group in the high bits, then the block in the group,
//! then (inodes) the place in the block. So most numbers name nothing.

use super::superblock::{CHECKSUM_AT, MAGIC, RawSuperblock, SUPERBLOCK_BYTES, superblock};
use super::{checksum, corrupt, too_short, unsupported};
use crate::guest::GuestError;

/// The kinds of features in the version number and `sb_features2` that change what we read.
mod version {
    pub(super) const NUMBER: u16 = 0x000f;
    pub(super) const DIRECTORY_V2: u16 = 0x2000;
    pub(super) const IGNORE_CASE: u16 = 0x4000;
    pub(super) const MORE_BITS: u16 = 0x8000;
    pub(super) const FILE_TYPES: u32 = 0x0200;
}

/// The incompatible features of version 5 that we know.
mod incompatible {
    pub(super) const FILE_TYPES: u32 = 1 << 0;
    pub(super) const SPARSE_INODES: u32 = 1 << 1;
    pub(super) const META_UUID: u32 = 1 << 2;
    pub(super) const BIG_TIME: u32 = 1 << 3;
    pub(super) const NEEDS_REPAIR: u32 = 1 << 4;
    pub(super) const LARGE_EXTENT_COUNTS: u32 = 1 << 5;
    pub(super) const EXCHANGE_RANGE: u32 = 1 << 6;
    pub(super) const PARENT_POINTERS: u32 = 1 << 7;
    pub(super) const METADATA_DIRECTORY: u32 = 1 << 8;
    pub(super) const ZONED: u32 = 1 << 9;
    pub(super) const ZONE_GAPS: u32 = 1 << 10;
    pub(super) const READABLE: u32 = FILE_TYPES
        | SPARSE_INODES
        | META_UUID
        | BIG_TIME
        | NEEDS_REPAIR
        | LARGE_EXTENT_COUNTS
        | EXCHANGE_RANGE
        | PARENT_POINTERS;
}

/// Inode numbers that mean "none" (`NULLFSINO`, and 0 on old volumes).
const NO_INODE: [u64; 2] = [0, u64::MAX];
/// Largest block, of files and of directories.
const BLOCK_BYTES_MAX: u64 = 64 << 10;
/// Largest sector.
const SECTOR_BYTES_MAX: u32 = 32 << 10;
/// Smallest allocation group the kernel accepts, in blocks.
const GROUP_BLOCKS_MIN: u32 = 64;
/// Widest number of a block in its group.
const GROUP_BLOCKS_LOG_MAX: u32 = 31;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Version 5: structures carry checksums, their own place, and their owner.
    pub checksums: bool,
    /// Bytes of a block, a power of two from 512 to 64 KiB.
    pub block_bytes: u64,
    /// Its binary logarithm.
    pub block_log: u32,
    /// Bytes of a sector.
    pub sector_bytes: u64,
    /// All blocks.
    pub blocks: u64,
    group_blocks: u64,
    groups: u64,
    group_blocks_log: u32,
    inodes_per_block_log: u32,
    /// Bytes of an inode, 256 to 2048.
    pub inode_bytes: usize,
    /// Blocks of a directory block, a power of two.
    pub directory_blocks: u64,
    /// Directory entries tell what they name.
    pub file_types: bool,
    /// Names are compared without regard to the case of ASCII letters.
    pub ignore_case: bool,
    /// The root directory's inode.
    pub root: u64,
    /// Inodes that no directory may name.
    pub hidden: Vec<u64>,
    /// The UUID in version 5's structures.
    pub meta_uuid: [u8; 16],
    /// First block of the log; `None` if it lies on another device.
    pub log_start: Option<u64>,
    /// Its length in blocks.
    pub log_blocks: u64,
    /// What an admin sees.
    pub uuid: [u8; 16],
    /// The admin's name for it.
    pub label: String,
    /// `xfs_repair` began and did not end.
    pub needs_repair: bool,
}

/// Reads the first sector; `read` gives that many bytes from the volume's start.
pub(crate) fn read(read: &dyn Fn(usize) -> Result<Vec<u8>, GuestError>) -> Result<Geometry, GuestError> {
    let bytes = read(SUPERBLOCK_BYTES)?;
    let (_, raw) = superblock(&bytes).map_err(|_| too_short("XFS superblock", 0))?;
    if raw.magic != MAGIC {
        return Err(corrupt("XFS superblock", 0, "the magic XFSB", format!("{:#010x}", raw.magic)));
    }
    if raw.version & version::NUMBER == 5 {
        raw.check_sector()?;
        checksum::check("XFS superblock", &read(usize::from(raw.sector_bytes))?, CHECKSUM_AT, 0)?;
    }
    raw.validate()
}

impl RawSuperblock {
    fn check_sector(&self) -> Result<(), GuestError> {
        let bytes = u32::from(self.sector_bytes);
        let fits = (512..=SECTOR_BYTES_MAX).contains(&bytes) && Some(bytes) == 1u32.checked_shl(self.sector_log.into());
        fits.then_some(()).ok_or_else(|| {
            let expected = format!("a power of two from 512 to {SECTOR_BYTES_MAX}");
            corrupt("sector size", 102, expected, format!("{bytes} (log {})", self.sector_log))
        })
    }

    fn validate(self) -> Result<Geometry, GuestError> {
        let version = self.version & version::NUMBER;
        if !(4..=5).contains(&version) {
            return Err(unsupported(format!("XFS version {version}")));
        }
        let checksums = version == 5;
        if checksums {
            refuse_unknown(self.incompatible)?;
        } else if self.version & version::DIRECTORY_V2 == 0 {
            return Err(unsupported("XFS with version 1 directories"));
        }
        if self.in_progress != 0 {
            return Err(corrupt("XFS superblock", 126, "a filesystem whose making ended", "one whose making did not"));
        }
        self.check_sector()?;
        let block_bytes = u64::from(self.block_bytes);
        let block_log = u32::from(self.block_log);
        if !(512..=BLOCK_BYTES_MAX).contains(&block_bytes)
            || Some(block_bytes) != 1u64.checked_shl(block_log)
            || block_bytes < u64::from(self.sector_bytes)
        {
            let expected = format!("a power of two from the sector size to {BLOCK_BYTES_MAX}");
            return Err(corrupt("block size", 4, expected, format!("{block_bytes} (log {block_log})")));
        }
        self.check_inodes(checksums)?;
        self.check_groups()?;
        let directory_log = block_log + u32::from(self.directory_block_log);
        if 1u64.checked_shl(directory_log).is_none_or(|bytes| bytes > BLOCK_BYTES_MAX) {
            let expected = format!("at most {BLOCK_BYTES_MAX}");
            return Err(corrupt("directory block size", 192, expected, format!("2^{directory_log}")));
        }
        // Old kernels wrote some features to the wrong place; what stands in either counts.
        let more = if self.version & version::MORE_BITS != 0 { self.features2 | self.bad_features2 } else { 0 };
        let file_types =
            if checksums { self.incompatible & incompatible::FILE_TYPES != 0 } else { more & version::FILE_TYPES != 0 };
        let has_meta_uuid = checksums && self.incompatible & incompatible::META_UUID != 0;
        let mut hidden = vec![self.realtime_bitmap, self.realtime_summary, self.user_quota, self.group_quota];
        if checksums {
            hidden.push(self.project_quota);
        }
        hidden.retain(|inode| !NO_INODE.contains(inode));
        let label = self.label.split(|byte| *byte == 0).next().unwrap_or_default();
        let geometry = Geometry {
            checksums,
            block_bytes,
            block_log,
            sector_bytes: self.sector_bytes.into(),
            blocks: self.blocks,
            group_blocks: self.group_blocks.into(),
            groups: self.groups.into(),
            group_blocks_log: self.group_blocks_log.into(),
            inodes_per_block_log: self.inodes_per_block_log.into(),
            inode_bytes: self.inode_bytes.into(),
            directory_blocks: 1 << self.directory_block_log,
            file_types,
            ignore_case: self.version & version::IGNORE_CASE != 0,
            root: self.root,
            hidden,
            meta_uuid: if has_meta_uuid { self.meta_uuid } else { self.uuid },
            log_start: (self.log_start != 0).then_some(self.log_start),
            log_blocks: self.log_blocks.into(),
            uuid: self.uuid,
            label: String::from_utf8_lossy(label).into_owned(),
            needs_repair: checksums && self.incompatible & incompatible::NEEDS_REPAIR != 0,
        };
        if geometry.inode_place(geometry.root).is_none() {
            return Err(corrupt("root inode", 56, "a number inside the volume", geometry.root));
        }
        Ok(geometry)
    }

    fn check_inodes(&self, checksums: bool) -> Result<(), GuestError> {
        let smallest = if checksums { 512 } else { 256 };
        let (bytes, block) = (u32::from(self.inode_bytes), self.block_bytes);
        let per_block = block.checked_div(bytes).unwrap_or(0);
        let fits = (smallest..=2048).contains(&bytes)
            && Some(bytes) == 1u32.checked_shl(self.inode_log.into())
            && per_block > 0
            && u32::from(self.inodes_per_block) == per_block
            && Some(per_block) == 1u32.checked_shl(self.inodes_per_block_log.into());
        fits.then_some(()).ok_or_else(|| {
            let found = format!("{bytes} (log {}), {} to a block", self.inode_log, self.inodes_per_block);
            corrupt("inode size", 104, format!("a power of two from {smallest} to 2048"), found)
        })
    }

    fn check_groups(&self) -> Result<(), GuestError> {
        let (group_blocks, groups) = (u64::from(self.group_blocks), u64::from(self.groups));
        let log = u32::from(self.group_blocks_log);
        // The last group is the only one that may be shorter. Both factors have 32 bits.
        let (most, least) = (group_blocks * groups, group_blocks * groups.saturating_sub(1));
        let sizes = self.group_blocks >= GROUP_BLOCKS_MIN
            && log <= GROUP_BLOCKS_LOG_MAX
            && group_blocks.next_power_of_two() == 1 << log
            && groups > 0
            && self.blocks <= most
            && self.blocks > least;
        if !sizes {
            let expected = format!("{groups} groups of {group_blocks} blocks (log {log})");
            return Err(corrupt("allocation groups", 84, expected, format!("{} blocks", self.blocks)));
        }
        // Every byte and every inode must have a number below 2^63.
        let number_bits = 64 - groups.leading_zeros() + log;
        if number_bits + u32::from(self.block_log) > 63 {
            return Err(corrupt("blocks", 8, "less than 2^63 bytes", format!("{} blocks", self.blocks)));
        }
        Ok(())
    }
}

/// Names the first feature that we cannot read.
fn refuse_unknown(features: u32) -> Result<(), GuestError> {
    let unknown = features & !incompatible::READABLE;
    if unknown == 0 {
        return Ok(());
    }
    let lowest = 1u32 << unknown.trailing_zeros();
    let name = match lowest {
        incompatible::METADATA_DIRECTORY => "a metadata directory".to_string(),
        incompatible::ZONED | incompatible::ZONE_GAPS => "a zoned realtime device".to_string(),
        _ => format!("the unknown feature {lowest:#x}"),
    };
    Err(unsupported(format!("XFS with {name}")))
}

impl Geometry {
    /// Bytes of the volume.
    pub fn bytes(&self) -> u64 {
        self.blocks << self.block_log
    }

    /// Blocks of a group; the last may be shorter.
    fn blocks_of_group(&self, group: u64) -> u64 {
        self.group_blocks.min(self.blocks - group * self.group_blocks)
    }

    /// Where `count` blocks from number `block` lie, in bytes; `None` if they leave their group.
    pub fn block_place(&self, block: u64, count: u64) -> Option<u64> {
        let (group, inside) = (block >> self.group_blocks_log, block & ((1 << self.group_blocks_log) - 1));
        if group >= self.groups || inside.checked_add(count)? > self.blocks_of_group(group) {
            return None;
        }
        Some((group * self.group_blocks + inside) << self.block_log)
    }

    /// Where an inode lies, in bytes; `None` if there can be none of that number.
    pub fn inode_place(&self, number: u64) -> Option<u64> {
        let block = self.block_place(number >> self.inodes_per_block_log, 1)?;
        let inside = number & ((1 << self.inodes_per_block_log) - 1);
        Some(block + inside * self.inode_bytes as u64)
    }

    /// Bytes of a directory block.
    pub fn directory_block_bytes(&self) -> u64 {
        self.directory_blocks << self.block_log
    }

    /// File blocks that hold `bytes` bytes.
    pub fn blocks_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.block_bytes)
    }
}
