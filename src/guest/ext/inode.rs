//! Inodes: raw fields, then a checked [`Inode`].
//!
//! Source: Linux Documentation/filesystems/ext4/inodes.rst ("Inode Timestamps", "i_mode"), checksums.rst.

use nom::bytes::complete::take;
use nom::number::complete::{le_u16, le_u32};
use nom::{IResult, Parser};

use super::Ext;
use super::checksum::crc32c;
use super::features::{Incompatible, ReadOnlyCompatible};
use super::volume::Bytes;
use crate::guest::GuestError;
use crate::guest::tree::{NodeId, NodeKind, Time};

/// What all inodes have.
const OLD_BYTES: usize = 128;
/// The inode's own block map, extent tree, inline data or link target.
pub(super) const MAP_BYTES: usize = 60;
const MAP_AT: usize = 40;
/// Where the two halves of the checksum lie.
const CHECKSUM_LOW_AT: usize = 124;
const CHECKSUM_HIGH_AT: usize = 130;
/// Largest length of any content: what the kernel's signed offsets reach.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Flags of an inode.
pub(super) mod flags {
    pub const ENCRYPT: u32 = 0x800;
    pub const INDEX: u32 = 0x1000;
    pub const HUGE_FILE: u32 = 0x4_0000;
    pub const EXTENTS: u32 = 0x8_0000;
    pub const EA_INODE: u32 = 0x20_0000;
    pub const INLINE_DATA: u32 = 0x1000_0000;
    pub const CASEFOLD: u32 = 0x4000_0000;
}

/// The fields we use, in their order; nothing checked.
#[derive(Debug)]
struct RawInode {
    mode: u16,
    uid_low: u16,
    size_low: u32,
    accessed: u32,
    changed: u32,
    modified: u32,
    gid_low: u16,
    links: u16,
    sectors_low: u32,
    flags: u32,
    generation: u32,
    attributes_low: u32,
    size_high: u32,
    sectors_high: u16,
    attributes_high: u16,
    uid_high: u16,
    gid_high: u16,
    checksum_low: u16,
}

/// The fields behind the first 128 bytes; those that an inode's `extra_isize` does not reach are absent.
#[derive(Debug, Default)]
struct RawExtra {
    checksum_high: Option<u16>,
    changed: Option<u32>,
    modified: Option<u32>,
    accessed: Option<u32>,
    created: Option<u32>,
    created_extra: Option<u32>,
}

fn raw_inode(input: &[u8]) -> IResult<&[u8], RawInode> {
    let (rest, (mode, uid_low, size_low)) = (le_u16, le_u16, le_u32).parse(input)?;
    let (rest, (accessed, changed, modified, _deleted)) = (le_u32, le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (gid_low, links, sectors_low, flags)) = (le_u16, le_u16, le_u32, le_u32).parse(rest)?;
    let (rest, (_version, _map, generation)) = (le_u32, take(MAP_BYTES), le_u32).parse(rest)?;
    let (rest, (attributes_low, size_high, _fragment)) = (le_u32, le_u32, le_u32).parse(rest)?;
    let (rest, (sectors_high, attributes_high)) = (le_u16, le_u16).parse(rest)?;
    let (rest, (uid_high, gid_high, checksum_low, _reserved)) = (le_u16, le_u16, le_u16, le_u16).parse(rest)?;
    let raw = RawInode {
        mode,
        uid_low,
        size_low,
        accessed,
        changed,
        modified,
        gid_low,
        links,
        sectors_low,
        flags,
        generation,
        attributes_low,
        size_high,
        sectors_high,
        attributes_high,
        uid_high,
        gid_high,
        checksum_low,
    };
    Ok((rest, raw))
}

/// Takes apart what lies between the 128th byte and the end of the fields in use.
fn raw_extra(input: &[u8]) -> RawExtra {
    fn at(input: &[u8], at: usize) -> Option<u32> {
        le_u32::<_, nom::error::Error<&[u8]>>(input.get(at..)?).ok().map(|(_, value)| value)
    }
    RawExtra {
        checksum_high: input.get(2..4).map(|high| u16::from_le_bytes([high[0], high[1]])),
        changed: at(input, 4),
        modified: at(input, 8),
        accessed: at(input, 12),
        created: at(input, 16),
        created_extra: at(input, 20),
    }
}

/// A checked inode.
#[derive(Clone)]
pub(super) struct Inode {
    pub number: u32,
    pub kind: NodeKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Bytes allocated.
    pub allocated: u64,
    pub links: u32,
    pub flags: u32,
    pub accessed: Time,
    pub changed: Time,
    pub modified: Time,
    pub created: Option<Time>,
    /// Block of extended attributes; 0 if there is none.
    pub attributes_block: u64,
    /// The inode's own attributes: what lies behind its fields.
    pub attributes: Bytes,
    /// The whole inode.
    pub bytes: Bytes,
    /// What the checksums of its blocks start from.
    pub checksum_seed: u32,
}

impl Inode {
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The 60 bytes of its block map, extent tree, inline data or link target.
    pub fn map(&self) -> Bytes {
        self.bytes.part(MAP_AT..MAP_AT + MAP_BYTES).expect("inside the first 128 bytes")
    }
}

/// An inode's number as the tree's.
pub(super) fn node(number: u32) -> NodeId {
    NodeId { tree: 0, number: number.into() }
}

impl Ext {
    /// The inode of a node that a caller named.
    pub(super) fn inode_of(&self, node: NodeId) -> Result<Inode, GuestError> {
        let is_special =
            |number: &u32| *number < self.superblock.first_inode && *number != super::superblock::ROOT_INODE;
        match u32::try_from(node.number) {
            Ok(number) if node.tree == 0 && !is_special(&number) => self.inode(number),
            _ => Err(GuestError::NoSuchNode { node }),
        }
    }

    /// Any inode that is in use, special ones too.
    pub(super) fn inode(&self, number: u32) -> Result<Inode, GuestError> {
        let superblock = &self.superblock;
        if number == 0 || number > superblock.inodes {
            return Err(GuestError::NoSuchNode { node: node(number) });
        }
        let group = (number - 1) / superblock.inodes_per_group;
        let index = u64::from((number - 1) % superblock.inodes_per_group);
        let table = super::groups::inode_table(&self.volume, superblock, group.into())?;
        let at = index * superblock.inode_bytes as u64;
        let block = self.volume.block(table + at / superblock.block_bytes())?;
        let start = usize::try_from(at % superblock.block_bytes()).expect("inside a block");
        let bytes = block.part(start..start + superblock.inode_bytes).expect("whole inodes fill a block");
        self.validate_inode(number, bytes)
    }

    fn validate_inode(&self, number: u32, bytes: Bytes) -> Result<Inode, GuestError> {
        let (_, raw) = raw_inode(&bytes).expect("an inode has at least 128 bytes");
        if raw.mode == 0 && raw.links == 0 {
            return Err(GuestError::NoSuchNode { node: node(number) });
        }
        let fields_end = fields_end(&bytes)?;
        let extra = raw_extra(&bytes[OLD_BYTES..fields_end]);
        let seed = crc32c(self.superblock.checksum_seed, &number.to_le_bytes());
        let checksum_seed = crc32c(seed, &raw.generation.to_le_bytes());
        if self.superblock.has_checksums() {
            check_checksum(checksum_seed, &bytes, &raw, &extra)?;
        }
        let corrupt = |field, at: usize, expected: &str, found: String| GuestError::Corrupt {
            field,
            at: crate::units::GuestOffset(bytes.at.0 + at as u64),
            expected: expected.to_owned(),
            found,
        };
        let Some(kind) = kind_of(raw.mode) else {
            return Err(corrupt("kind of an inode", 0, "one of seven kinds", format!("mode {:#o}", raw.mode)));
        };
        let has_high_size = kind == NodeKind::File
            || kind == NodeKind::Directory && self.superblock.incompatible.has(Incompatible::LARGEDIR);
        let size = u64::from(raw.size_low) | if has_high_size { u64::from(raw.size_high) << 32 } else { 0 };
        if size > SIZE_MAX {
            return Err(corrupt("size of an inode", 108, "at most 2^63 - 1", size.to_string()));
        }
        let owner = |low: u16, high: u16| u32::from(low) | if self.superblock.hurd { 0 } else { u32::from(high) << 16 };
        let mut allocated = u64::from(raw.sectors_low);
        let mut unit = 512;
        if self.superblock.read_only.has(ReadOnlyCompatible::HUGE_FILE) {
            allocated |= u64::from(raw.sectors_high) << 32;
            if raw.flags & flags::HUGE_FILE != 0 {
                unit = self.superblock.block_bytes();
            }
        }
        let attributes_high =
            if self.superblock.incompatible.has(Incompatible::BITS_64) { raw.attributes_high } else { 0 };
        Ok(Inode {
            number,
            kind,
            mode: raw.mode & 0o7777,
            uid: owner(raw.uid_low, raw.uid_high),
            gid: owner(raw.gid_low, raw.gid_high),
            size,
            allocated: allocated.saturating_mul(unit),
            links: raw.links.into(),
            flags: raw.flags,
            accessed: time(raw.accessed, extra.accessed),
            changed: time(raw.changed, extra.changed),
            modified: time(raw.modified, extra.modified),
            created: extra.created.map(|created| time(created, extra.created_extra)),
            attributes_block: u64::from(attributes_high) << 32 | u64::from(raw.attributes_low),
            attributes: bytes.part(fields_end..bytes.len()).expect("the fields end inside"),
            bytes,
            checksum_seed,
        })
    }
}

/// Where an inode's fields end and its own attributes begin.
fn fields_end(bytes: &Bytes) -> Result<usize, GuestError> {
    let Some(extra) = bytes.get(OLD_BYTES..OLD_BYTES + 2) else { return Ok(OLD_BYTES) };
    let extra = u16::from_le_bytes([extra[0], extra[1]]);
    let room = bytes.len() - OLD_BYTES;
    if usize::from(extra) > room || !extra.is_multiple_of(4) {
        return Err(GuestError::Corrupt {
            field: "length of an inode's further fields",
            at: crate::units::GuestOffset(bytes.at.0 + OLD_BYTES as u64),
            expected: format!("a multiple of 4 up to {room}"),
            found: extra.to_string(),
        });
    }
    Ok(OLD_BYTES + usize::from(extra))
}

fn check_checksum(seed: u32, bytes: &Bytes, raw: &RawInode, extra: &RawExtra) -> Result<(), GuestError> {
    let sum = crc32c(crc32c(seed, &bytes[..CHECKSUM_LOW_AT]), &[0, 0]);
    let mut sum = crc32c(sum, &bytes[CHECKSUM_LOW_AT + 2..CHECKSUM_HIGH_AT.min(bytes.len())]);
    let mut stored = u32::from(raw.checksum_low);
    let mut mask = 0xffff;
    if let Some(high) = extra.checksum_high {
        stored |= u32::from(high) << 16;
        mask = u32::MAX;
        sum = crc32c(crc32c(sum, &[0, 0]), &bytes[CHECKSUM_HIGH_AT + 2..]);
    } else if bytes.len() > OLD_BYTES {
        sum = crc32c(sum, &bytes[CHECKSUM_HIGH_AT..]);
    }
    if sum & mask == stored {
        return Ok(());
    }
    Err(GuestError::Corrupt {
        field: "checksum of an inode",
        at: bytes.at,
        expected: format!("{:#010x}", sum & mask),
        found: format!("{stored:#010x}"),
    })
}

fn kind_of(mode: u16) -> Option<NodeKind> {
    Some(match mode & 0o170_000 {
        0o100_000 => NodeKind::File,
        0o040_000 => NodeKind::Directory,
        0o120_000 => NodeKind::Symlink,
        0o020_000 => NodeKind::CharacterDevice,
        0o060_000 => NodeKind::BlockDevice,
        0o010_000 => NodeKind::Fifo,
        0o140_000 => NodeKind::Socket,
        _ => return None,
    })
}

/// Seconds since 1970 as a signed number, which the two low bits of the extra field carry on; the rest of it is nanoseconds.
fn time(seconds: u32, extra: Option<u32>) -> Time {
    let extra = extra.unwrap_or(0);
    let seconds = i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32);
    // More than a second's nanoseconds is damage that is not worth losing the node for.
    Time { seconds, nanoseconds: (extra >> 2).min(999_999_999) }
}

/// A device's numbers from the first two words of its map: the old form in one word, the new one in the other.
pub(super) fn device(map: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| map.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    Some(match (word(0)?, word(4)?) {
        (0, new) => (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00),
        (old, _) => (old >> 8 & 0xff, old & 0xff),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_34_bits_of_seconds() {
        #[track_caller]
        fn check(seconds: u32, extra: Option<u32>, expected: (i64, u32)) {
            assert_eq!(time(seconds, extra), Time { seconds: expected.0, nanoseconds: expected.1 });
        }
        check(0, None, (0, 0));
        check(u32::MAX, None, (-1, 0));
        check(0x8000_0000, Some(0), (-0x8000_0000, 0));
        check(0x8000_0000, Some(1), (0x8000_0000, 0));
        check(0x7fff_ffff, Some(7 << 2 | 3), (0x3_7fff_ffff, 7));
        check(u32::MAX, Some(999_999_999 << 2), (-1, 999_999_999));
        check(0, Some(u32::MAX), (3 << 32, 999_999_999));
    }

    #[test]
    fn devices_have_two_forms() {
        #[track_caller]
        fn check(words: [u32; 2], expected: (u32, u32)) {
            assert_eq!(device(&words.map(u32::to_le_bytes).concat()), Some(expected));
        }
        check([0x0103, 0], (1, 3));
        check([0xffff, 0], (255, 255));
        check([0, 0x1_0000], (256, 0));
        check([0, 0xfff_fffff], (0xfff, 0xf_ffff));
        check([0, 0], (0, 0));
        assert_eq!(device(&[0; 7]), None);
    }
}
