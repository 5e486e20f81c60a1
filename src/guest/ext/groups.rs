//! Group descriptors: where each group's inodes lie. They are found and checked when they are needed, one at a time; a large
//! volume has hundreds of thousands.
//!
//! Source: Linux Documentation/filesystems/ext4/group_descr.rst, blockgroup.rst ("Meta Block Groups").

use nom::bytes::complete::take;
use nom::number::complete::{le_u16, le_u32};
use nom::{IResult, Parser};

use super::checksum::{crc16, crc32c};
use super::features::{Compatible, Incompatible, ReadOnlyCompatible};
use super::superblock::{SUPERBLOCK_AT, Superblock};
use super::volume::Volume;
use crate::guest::GuestError;

/// Where a descriptor has its checksum.
const CHECKSUM_AT: usize = 30;

/// What we use of a descriptor; nothing checked.
#[derive(Debug, PartialEq, Eq)]
struct RawDescriptor {
    inode_table_low: u32,
    checksum: u16,
    inode_table_high: u32,
}

/// Takes a descriptor apart; one of 32 bytes has no high half.
fn descriptor(input: &[u8]) -> IResult<&[u8], RawDescriptor> {
    let (rest, (_bitmaps, inode_table_low)) = (take(8usize), le_u32).parse(input)?;
    let (rest, (_counts_and_sums, checksum)) = (take(18usize), le_u16).parse(rest)?;
    if rest.is_empty() {
        return Ok((rest, RawDescriptor { inode_table_low, checksum, inode_table_high: 0 }));
    }
    let (rest, (_bitmaps, inode_table_high)) = (take(8usize), le_u32).parse(rest)?;
    Ok((rest, RawDescriptor { inode_table_low, checksum, inode_table_high }))
}

/// First block of a group's inodes, after its descriptor was checked.
pub(super) fn inode_table(volume: &Volume, superblock: &Superblock, group: u64) -> Result<u64, GuestError> {
    let per_block = volume.block_size() / superblock.descriptor_bytes;
    let index = usize::try_from(group % per_block as u64).expect("below the number in a block");
    let block = volume.block(table_block(superblock, group / per_block as u64, per_block as u64))?;
    let start = index * superblock.descriptor_bytes;
    let bytes = block.part(start..start + superblock.descriptor_bytes).expect("whole descriptors fill a block");
    let (_, raw) = descriptor(&bytes).expect("a descriptor has at least 32 bytes");
    if let Some(sum) = checksum(superblock, group, &bytes)
        && sum != raw.checksum
    {
        return Err(GuestError::Corrupt {
            field: "checksum of a group descriptor",
            at: bytes.at,
            expected: format!("{sum:#06x}"),
            found: format!("{:#06x}", raw.checksum),
        });
    }
    let table = u64::from(raw.inode_table_high) << 32 | u64::from(raw.inode_table_low);
    let table_bytes = u64::from(superblock.inodes_per_group) * superblock.inode_bytes as u64;
    volume.check_run("inode table of a group", bytes.at, table, table_bytes.div_ceil(volume.block_bytes()))?;
    Ok(table)
}

/// The block of the `number`-th table of descriptors.
fn table_block(superblock: &Superblock, number: u64, per_block: u64) -> u64 {
    let after_superblock = SUPERBLOCK_AT.0 / superblock.block_bytes() + 1;
    if !superblock.incompatible.has(Incompatible::META_BG) || number < superblock.first_meta_group {
        return after_superblock + number;
    }
    // Each table lies in the first of the groups it describes, behind that group's copy of the superblock.
    let group = number * per_block;
    let mut block = superblock.first_data_block + group * superblock.blocks_per_group;
    if has_superblock(superblock, group) {
        block += 1;
    }
    // Blocks of 1 KiB that are counted from 0: the superblock is block 1, not 0.
    if superblock.block_bytes() == SUPERBLOCK_AT.0 && number == 0 && superblock.first_data_block == 0 {
        block += 1;
    }
    block
}

/// Whether a group begins with a copy of the superblock.
fn has_superblock(superblock: &Superblock, group: u64) -> bool {
    if group == 0 {
        return true;
    }
    if superblock.compatible.has(Compatible::SPARSE_SUPER2) {
        return superblock.backup_groups.iter().any(|backup| u64::from(*backup) == group);
    }
    if group == 1 || !superblock.read_only.has(ReadOnlyCompatible::SPARSE_SUPER) {
        return true;
    }
    [3u64, 5, 7].into_iter().any(|base| {
        let mut power = base;
        while power < group {
            power = power.saturating_mul(base);
        }
        power == group
    })
}

/// What a descriptor's checksum must be, if the volume has checksums.
fn checksum(superblock: &Superblock, group: u64, bytes: &[u8]) -> Option<u16> {
    let number = u32::try_from(group).ok()?.to_le_bytes();
    let (before, after) = (&bytes[..CHECKSUM_AT], &bytes[CHECKSUM_AT + 2..]);
    if superblock.has_checksums() {
        let sum = crc32c(crc32c(superblock.checksum_seed, &number), before);
        let [low, high, ..] = crc32c(crc32c(sum, &[0, 0]), after).to_le_bytes();
        return Some(u16::from_le_bytes([low, high]));
    }
    superblock
        .read_only
        .has(ReadOnlyCompatible::GDT_CSUM)
        .then(|| crc16(crc16(crc16(crc16(u16::MAX, &superblock.uuid), &number), before), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_two_sizes() {
        let bytes: Vec<u8> = (0..64).collect();
        let (_, raw) = descriptor(&bytes).unwrap();
        let low = RawDescriptor { inode_table_low: 0x0b0a_0908, checksum: 0x1f1e, inode_table_high: 0 };
        assert_eq!(raw, RawDescriptor { inode_table_high: 0x2b2a_2928, ..low });
        let (_, raw) = descriptor(&bytes[..32]).unwrap();
        assert_eq!(raw, RawDescriptor { inode_table_low: 0x0b0a_0908, checksum: 0x1f1e, inode_table_high: 0 });
        assert!(descriptor(&bytes[..31]).is_err());
    }
}
