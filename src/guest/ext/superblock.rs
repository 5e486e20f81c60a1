//! The superblock: 1024 bytes at 1024, little-endian. Raw fields, then a checked [`Superblock`] whose numbers the other
//! files may multiply and divide by without looking again.
//!
//! Source: Linux Documentation/filesystems/ext4/super.rst.

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use super::checksum::crc32c;
use super::features::{Compatible, Incompatible, ReadOnlyCompatible};
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Where it lies on every volume.
pub(super) const SUPERBLOCK_AT: GuestOffset = GuestOffset(1024);
/// Its length.
pub(super) const SUPERBLOCK_BYTES: usize = 1024;
/// What it has at 56.
const MAGIC: u16 = 0xef53;
/// Where its checksum lies: in its last four bytes.
const CHECKSUM_AT: usize = 1020;
/// Number of the root directory's inode.
pub(super) const ROOT_INODE: u32 = 2;
/// The first inode that is no special one, before it could be chosen.
const FIRST_INODE_OLD: u32 = 11;
/// Smallest inode, and the only size before it could be chosen.
const INODE_BYTES_OLD: u16 = 128;
/// Largest block: 64 KiB, 1024 × 2^6.
const LOG_BLOCK_SIZE_MAX: u32 = 6;
/// Largest cluster: 1 GiB.
const LOG_CLUSTER_SIZE_MAX: u32 = 20;
/// Descriptors of a volume without `64bit`, and the least and largest of one with it.
const DESCRIPTOR_BYTES_OLD: u16 = 32;
const DESCRIPTOR_BYTES_64: u16 = 64;
const DESCRIPTOR_BYTES_MAX: u16 = 1024;
/// Largest volume: offsets on it stay far from the ends of what 64 bits count.
const VOLUME_BYTES_MAX: u64 = 1 << 62;

/// The fields we use, in their order; nothing checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawSuperblock {
    pub inodes: u32,
    pub blocks_low: u32,
    pub first_data_block: u32,
    pub log_block_size: u32,
    pub log_cluster_size: u32,
    pub blocks_per_group: u32,
    pub inodes_per_group: u32,
    pub magic: u16,
    pub state: u16,
    pub creator: u32,
    pub revision: u32,
    pub first_inode: u32,
    pub inode_bytes: u16,
    pub compatible: u32,
    pub incompatible: u32,
    pub read_only: u32,
    pub uuid: [u8; 16],
    pub label: [u8; 16],
    pub journal_inode: u32,
    pub journal_device: u32,
    pub hash_seed: [u32; 4],
    pub descriptor_bytes: u16,
    pub first_meta_group: u32,
    pub blocks_high: u32,
    pub flags: u32,
    pub backup_groups: [u32; 2],
    pub checksum_seed: u32,
    pub checksum: u32,
}

fn bytes16(input: &[u8]) -> IResult<&[u8], [u8; 16]> {
    let (rest, bytes) = take(16usize)(input)?;
    Ok((rest, bytes.try_into().expect("sixteen bytes were taken")))
}

/// Takes a superblock apart; fails only on an input shorter than 1024 bytes.
pub(super) fn superblock(input: &[u8]) -> IResult<&[u8], RawSuperblock> {
    let (rest, (inodes, blocks_low, _reserved_and_free)) = (le_u32, le_u32, take(12usize)).parse(input)?;
    let (rest, (first_data_block, log_block_size, log_cluster_size)) = (le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (blocks_per_group, _clusters_per_group, inodes_per_group)) = (le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (_mounts, magic, state, _errors)) = (take(12usize), le_u16, le_u16, take(12usize)).parse(rest)?;
    let (rest, (creator, revision, _reserved_ids)) = (le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (first_inode, inode_bytes, _group)) = (le_u32, le_u16, le_u16).parse(rest)?;
    let (rest, (compatible, incompatible, read_only)) = (le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (uuid, label, _mounted_on)) = (bytes16, bytes16, take(72usize)).parse(rest)?;
    let (rest, (_journal_uuid, journal_inode, journal_device, _orphan)) =
        (take(16usize), le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (seed0, seed1, seed2, seed3)) = (le_u32, le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (_hash_version, _backup, descriptor_bytes)) = (le_u8, le_u8, le_u16).parse(rest)?;
    let (rest, (_options, first_meta_group, _made_and_journal_blocks)) = (le_u32, le_u32, take(72usize)).parse(rest)?;
    let (rest, (blocks_high, _counts_and_extra, flags)) = (le_u32, take(12usize), le_u32).parse(rest)?;
    let (rest, _raid_mmp_snapshots_errors_options_quota) = take(232usize)(rest)?;
    let (rest, (backup0, backup1, _encryption)) = (le_u32, le_u32, take(28usize)).parse(rest)?;
    let (rest, (checksum_seed, _reserved, checksum)) = (le_u32, take(392usize), le_u32).parse(rest)?;
    let raw = RawSuperblock {
        inodes,
        blocks_low,
        first_data_block,
        log_block_size,
        log_cluster_size,
        blocks_per_group,
        inodes_per_group,
        magic,
        state,
        creator,
        revision,
        first_inode,
        inode_bytes,
        compatible,
        incompatible,
        read_only,
        uuid,
        label,
        journal_inode,
        journal_device,
        hash_seed: [seed0, seed1, seed2, seed3],
        descriptor_bytes,
        first_meta_group,
        blocks_high,
        flags,
        backup_groups: [backup0, backup1],
        checksum_seed,
        checksum,
    };
    Ok((rest, raw))
}

/// A checked superblock: its sizes are powers of two in range, its counts fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub compatible: Compatible,
    pub incompatible: Incompatible,
    pub read_only: ReadOnlyCompatible,
    /// Block size in bytes, 1 KiB to 64 KiB, as a power of two.
    pub block_bits: u32,
    /// Unit of allocation in bytes: a block, or several of them with `bigalloc`.
    pub cluster_bytes: u64,
    /// Blocks of the whole filesystem; their bytes fit 62 bits.
    pub blocks: u64,
    pub first_data_block: u64,
    pub blocks_per_group: u64,
    pub groups: u64,
    pub inodes: u32,
    pub inodes_per_group: u32,
    /// At most a block, a power of two.
    pub inode_bytes: usize,
    pub first_inode: u32,
    /// At most a block, a power of two.
    pub descriptor_bytes: usize,
    pub first_meta_group: u64,
    pub backup_groups: [u32; 2],
    pub uuid: [u8; 16],
    pub label: String,
    pub journal_inode: u32,
    pub journal_device: u32,
    pub hash_seed: [u32; 4],
    /// Names are hashed as unsigned characters.
    pub unsigned_hash: bool,
    /// What checksums of metadata start from.
    pub checksum_seed: u32,
    /// Where large owner numbers are not what those bytes mean (GNU Hurd).
    pub hurd: bool,
    pub clean: bool,
    pub errors_recorded: bool,
}

impl Superblock {
    /// Block size in bytes.
    pub fn block_bytes(&self) -> u64 {
        1 << self.block_bits
    }

    /// Whether metadata has CRC-32C checksums.
    pub fn has_checksums(&self) -> bool {
        self.read_only.has(ReadOnlyCompatible::METADATA_CSUM)
    }

    /// `ext2`, `ext3` or `ext4`.
    pub fn kind(&self) -> &'static str {
        super::features::kind(self.compatible, self.incompatible, self.read_only)
    }
}

fn corrupt(field: &'static str, at: u64, expected: impl Into<String>, found: impl ToString) -> GuestError {
    let at = GuestOffset(SUPERBLOCK_AT.0 + at);
    GuestError::Corrupt { field, at, expected: expected.into(), found: found.to_string() }
}

/// Parses and checks the superblock's bytes.
pub(super) fn read(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<Superblock, GuestError> {
    let (_, raw) = superblock(bytes).expect("1024 bytes are enough");
    raw.validate(bytes)
}

impl RawSuperblock {
    fn validate(self, bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<Superblock, GuestError> {
        if self.magic != MAGIC {
            return Err(corrupt("magic of an ext superblock", 56, "0xef53", format!("{:#06x}", self.magic)));
        }
        let compatible = Compatible(self.compatible);
        let incompatible = Incompatible(self.incompatible);
        let read_only = ReadOnlyCompatible(self.read_only);
        // First of all, for the checksum of a layout that we do not know means nothing.
        incompatible.validate()?;
        if read_only.has(ReadOnlyCompatible::METADATA_CSUM) {
            let sum = crc32c(u32::MAX, &bytes[..CHECKSUM_AT]);
            if sum != self.checksum {
                let (expected, found) = (format!("{sum:#010x}"), format!("{:#010x}", self.checksum));
                return Err(corrupt("checksum of the superblock", CHECKSUM_AT as u64, expected, found));
            }
        }
        if self.log_block_size > LOG_BLOCK_SIZE_MAX {
            return Err(corrupt("block size (1024 << n)", 24, "n of at most 6", self.log_block_size));
        }
        let block_bits = 10 + self.log_block_size;
        let (blocks, groups) = self.blocks_and_groups(incompatible, block_bits)?;
        Ok(Superblock {
            compatible,
            incompatible,
            read_only,
            block_bits,
            cluster_bytes: self.cluster_bytes(read_only)?,
            blocks,
            first_data_block: self.first_data_block.into(),
            blocks_per_group: self.blocks_per_group.into(),
            groups,
            inodes: self.inodes,
            inodes_per_group: self.inodes_per_group,
            inode_bytes: self.inode_bytes(1 << block_bits)?,
            first_inode: if self.revision == 0 { FIRST_INODE_OLD } else { self.first_inode.max(FIRST_INODE_OLD) },
            descriptor_bytes: self.descriptor_bytes(incompatible)?,
            first_meta_group: self.first_meta_group.into(),
            backup_groups: self.backup_groups,
            uuid: self.uuid,
            label: text(&self.label),
            journal_inode: self.journal_inode,
            journal_device: self.journal_device,
            hash_seed: self.hash_seed,
            unsigned_hash: self.flags & 2 != 0,
            checksum_seed: if incompatible.has(Incompatible::CSUM_SEED) {
                self.checksum_seed
            } else {
                crc32c(u32::MAX, &self.uuid)
            },
            hurd: self.creator == 1,
            clean: self.state & 1 != 0,
            errors_recorded: self.state & 2 != 0,
        })
    }

    /// The filesystem's blocks and groups.
    fn blocks_and_groups(&self, incompatible: Incompatible, block_bits: u32) -> Result<(u64, u64), GuestError> {
        let high = if incompatible.has(Incompatible::BITS_64) { self.blocks_high } else { 0 };
        let blocks = u64::from(high) << 32 | u64::from(self.blocks_low);
        if blocks > VOLUME_BYTES_MAX >> block_bits {
            return Err(corrupt("number of blocks", 4, format!("at most {}", VOLUME_BYTES_MAX >> block_bits), blocks));
        }
        // A superblock lies in block 1 where blocks are as small as it, else in block 0; bigalloc starts at 0 always.
        if self.first_data_block > 1 {
            return Err(corrupt("first data block", 20, "0 or 1", self.first_data_block));
        }
        let in_groups = blocks.saturating_sub(self.first_data_block.into());
        if in_groups == 0 {
            return Err(corrupt("number of blocks", 4, "more than the first data block's number", blocks));
        }
        if self.blocks_per_group == 0 {
            return Err(corrupt("blocks per group", 32, "at least 1", 0));
        }
        let groups = in_groups.div_ceil(self.blocks_per_group.into());
        // A group's inodes have one block of bits.
        let inodes_max = 8u32 << block_bits;
        if self.inodes_per_group == 0 || self.inodes_per_group > inodes_max {
            return Err(corrupt("inodes per group", 40, format!("1 to {inodes_max}"), self.inodes_per_group));
        }
        let inodes_max = groups.saturating_mul(self.inodes_per_group.into());
        if self.inodes < ROOT_INODE || u64::from(self.inodes) > inodes_max {
            return Err(corrupt("number of inodes", 0, format!("2 to {inodes_max}"), self.inodes));
        }
        Ok((blocks, groups))
    }

    fn cluster_bytes(&self, read_only: ReadOnlyCompatible) -> Result<u64, GuestError> {
        if !read_only.has(ReadOnlyCompatible::BIGALLOC) {
            return Ok(1024 << self.log_block_size);
        }
        let range = self.log_block_size..=LOG_CLUSTER_SIZE_MAX;
        if !range.contains(&self.log_cluster_size) {
            let expected = format!("n of {} to {LOG_CLUSTER_SIZE_MAX}", self.log_block_size);
            return Err(corrupt("cluster size (1024 << n)", 28, expected, self.log_cluster_size));
        }
        Ok(1024 << self.log_cluster_size)
    }

    fn inode_bytes(&self, block_size: usize) -> Result<usize, GuestError> {
        let bytes = if self.revision == 0 { INODE_BYTES_OLD } else { self.inode_bytes };
        if !bytes.is_power_of_two() || bytes < INODE_BYTES_OLD || usize::from(bytes) > block_size {
            return Err(corrupt("inode size", 88, format!("a power of two from 128 to {block_size}"), bytes));
        }
        Ok(bytes.into())
    }

    fn descriptor_bytes(&self, incompatible: Incompatible) -> Result<usize, GuestError> {
        if !incompatible.has(Incompatible::BITS_64) {
            return Ok(DESCRIPTOR_BYTES_OLD.into());
        }
        let range = DESCRIPTOR_BYTES_64..=DESCRIPTOR_BYTES_MAX;
        if !self.descriptor_bytes.is_power_of_two() || !range.contains(&self.descriptor_bytes) {
            let expected = "a power of two from 64 to 1024";
            return Err(corrupt("size of group descriptors", 254, expected, self.descriptor_bytes));
        }
        Ok(self.descriptor_bytes.into())
    }
}

/// Text in a field that is filled up with NULs.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A volume of 8 MiB in blocks of 1 KiB.
    fn small() -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        for (at, value) in [(0, 2048), (4, 8192), (20, 1), (32, 8192), (40, 2048), (56, 0x1_ef53), (76, 1), (84, 11)] {
            put(at, value);
        }
        bytes[88] = 128;
        bytes
    }

    #[test]
    fn fields_lie_where_the_format_has_them() {
        let bytes: Vec<u8> = (0..SUPERBLOCK_BYTES).map(|at| (at / 4 % 251) as u8 + (at % 4) as u8).collect();
        let (rest, raw) = superblock(&bytes).unwrap();
        assert!(rest.is_empty());
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let expected = RawSuperblock {
            inodes: u32_at(0),
            blocks_low: u32_at(4),
            first_data_block: u32_at(20),
            log_block_size: u32_at(24),
            log_cluster_size: u32_at(28),
            blocks_per_group: u32_at(32),
            inodes_per_group: u32_at(40),
            magic: u16_at(56),
            state: u16_at(58),
            creator: u32_at(72),
            revision: u32_at(76),
            first_inode: u32_at(84),
            inode_bytes: u16_at(88),
            compatible: u32_at(92),
            incompatible: u32_at(96),
            read_only: u32_at(100),
            uuid: bytes[104..120].try_into().unwrap(),
            label: bytes[120..136].try_into().unwrap(),
            journal_inode: u32_at(224),
            journal_device: u32_at(228),
            hash_seed: [236, 240, 244, 248].map(u32_at),
            descriptor_bytes: u16_at(254),
            first_meta_group: u32_at(260),
            blocks_high: u32_at(336),
            flags: u32_at(352),
            backup_groups: [588, 592].map(u32_at),
            checksum_seed: u32_at(624),
            checksum: u32_at(1020),
        };
        assert_eq!(raw, expected);
        assert!(superblock(&bytes[..1023]).is_err());
    }

    #[test]
    fn numbers_that_do_not_fit_together_are_refused() {
        #[track_caller]
        fn check(changes: &[(usize, u32)], expected: &str) {
            let mut bytes = small();
            for (at, value) in changes {
                bytes[*at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            assert_eq!(read(&bytes).map_or_else(|err| err.to_string(), |_| "fine".to_owned()), expected);
        }
        check(&[], "fine");
        check(&[(56, 0x1_ef54)], "magic of an ext superblock at 0x438 of the volume: expected 0xef53, found 0xef54");
        check(&[(24, 7)], "block size (1024 << n) at 0x418 of the volume: expected n of at most 6, found 7");
        check(&[(20, 2)], "first data block at 0x414 of the volume: expected 0 or 1, found 2");
        check(
            &[(4, 1)],
            "number of blocks at 0x404 of the volume: expected more than the first data block's number, found 1",
        );
        check(&[(32, 0)], "blocks per group at 0x420 of the volume: expected at least 1, found 0");
        check(&[(40, 0)], "inodes per group at 0x428 of the volume: expected 1 to 8192, found 0");
        check(&[(40, 8193)], "inodes per group at 0x428 of the volume: expected 1 to 8192, found 8193");
        check(&[(0, 2049)], "number of inodes at 0x400 of the volume: expected 2 to 2048, found 2049");
        check(&[(88, 192)], "inode size at 0x458 of the volume: expected a power of two from 128 to 1024, found 192");
        check(&[(88, 2048)], "inode size at 0x458 of the volume: expected a power of two from 128 to 1024, found 2048");
        check(
            &[(96, 0x80), (252, 48 << 16)],
            "size of group descriptors at 0x4fe of the volume: expected a power of two from 64 to 1024, found 48",
        );
        check(
            &[(100, 0x400), (1020, 5)],
            "checksum of the superblock at 0x7fc of the volume: expected 0xdaada057, found 0x00000005",
        );
    }
}
