//! Trees of mappings (`xfs_bmbt`): by block in the fork. The root lies in the inode, everything else in blocks.
//!
//! Layout of the root: `level 2 | records 2 | keys 8 × n | pointers 8 × n`, n as many as fit; of a block:
//! `header 24 (version 5: 72) | mappings 16 × n`, or keys and pointers as above.
//!
//! No sibling pointers are followed: each step down lessens the level and narrows the range of keys, so every search ends,
//! whatever the volume says.

use nom::multi::count;
use nom::number::complete::{be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use super::checksum::EXTENT_TREE;
use super::fork::{Mapping, mappings};
use super::volume::Volume;
use super::{corrupt, too_short};
use crate::guest::GuestError;

/// `BMAP`, a block of version 4.
const MAGIC_V4: u32 = 0x424d_4150;
/// `BMA3`, a block of version 5.
const MAGIC_V5: u32 = 0x424d_4133;
/// Highest root. Nodes of the smallest blocks have at least 14 children: this is enough for 2^48 mappings.
const LEVELS_MAX: u16 = 13;

/// Which block of the next level holds the mappings from each key on.
#[derive(Clone, Debug)]
struct Children {
    keys: Vec<u64>,
    pointers: Vec<u64>,
}

/// The root in an inode: at least one level above the leaves, at least one child.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    level: u16,
    children: Children,
    /// Where the inode lies.
    at: u64,
}

/// A block's header, nothing checked yet.
struct RawHeader {
    magic: u32,
    level: u16,
    records: u16,
}

fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (magic, level, records)) = (be_u32, be_u16, be_u16).parse(input)?;
    Ok((input, RawHeader { magic, level, records }))
}

/// Reads a root from the fork of an inode at byte `at`.
pub(crate) fn root(fork: &[u8], at: u64) -> Result<Root, GuestError> {
    let (rest, (level, records)) =
        (be_u16::<_, nom::error::Error<&[u8]>>, be_u16).parse(fork).map_err(|_| too_short("root of mappings", at))?;
    if !(1..=LEVELS_MAX).contains(&level) {
        return Err(corrupt("level of the root of mappings", at, format!("1 to {LEVELS_MAX}"), level));
    }
    Ok(Root { level, children: children(rest, records, at)?, at })
}

/// Takes apart the `records` keys and pointers of a root or node at `at`; `bytes` is all the room they have.
fn children(bytes: &[u8], records: u16, at: u64) -> Result<Children, GuestError> {
    let room = bytes.len() / 16;
    let records = usize::from(records);
    if !(1..=room).contains(&records) {
        return Err(corrupt("node of mappings", at, format!("1 to {room} children"), records));
    }
    let numbers = |from: usize| -> Result<Vec<u64>, GuestError> {
        let (_, numbers) = count(be_u64::<_, nom::error::Error<&[u8]>>, records)
            .parse(&bytes[from..])
            .map_err(|_| too_short("node of mappings", at))?;
        Ok(numbers)
    };
    let children = Children { keys: numbers(0)?, pointers: numbers(room * 8)? };
    if !children.keys.is_sorted_by(|a, b| a < b) {
        return Err(corrupt("node of mappings", at, "ascending keys", "others"));
    }
    Ok(children)
}

impl Children {
    /// The child to look for `block` in, its first key, and the first key of the next child.
    fn child_for(&self, block: u64) -> (u64, u64, Option<u64>) {
        // Below the first key lies a hole, and the first child says so as well as any.
        let index = self.keys.partition_point(|key| *key <= block).saturating_sub(1);
        (self.pointers[index], self.keys[index], self.keys.get(index + 1).copied())
    }
}

impl Root {
    /// The mappings of the leaf that knows about `block`, and the block from which on the next leaf does.
    pub fn leaf_for(&self, volume: &Volume, owner: u64, block: u64) -> Result<(Vec<Mapping>, u64), GuestError> {
        let (mut pointer, mut first, next) = self.children.child_for(block);
        let mut until = next.unwrap_or(u64::MAX);
        let mut parent_at = self.at;
        for level in (0..self.level).rev() {
            let at = volume.geometry.block_place(pointer, 1).ok_or_else(|| {
                corrupt("node of mappings", parent_at, "a child inside an allocation group", format!("block {pointer}"))
            })?;
            let bytes = volume.metadata(at, volume.geometry.block_bytes as usize)?;
            let (records, body) = check_block(volume, &bytes, at, owner, level)?;
            let outside = |lowest: u64, end: u64| {
                let (expected, found) = (format!("keys from {first} below {until}"), format!("{lowest} to {end}"));
                Err(corrupt("block of mappings", at, expected, found))
            };
            if level == 0 {
                let mappings = mappings(body, records.into(), at, volume)?;
                let (Some(lowest), Some(highest)) = (mappings.first(), mappings.last()) else {
                    return Err(corrupt("leaf of mappings", at, "at least one mapping", "none"));
                };
                let end = highest.offset + highest.count;
                if lowest.offset < first || end > until {
                    return outside(lowest.offset, end);
                }
                return Ok((mappings, until));
            }
            let children = children(body, records, at)?;
            let (lowest, highest) = (children.keys[0], children.keys[children.keys.len() - 1]);
            if lowest < first || highest >= until {
                return outside(lowest, highest);
            }
            let next;
            (pointer, first, next) = children.child_for(block);
            until = next.unwrap_or(until);
            parent_at = at;
        }
        unreachable!("a root is at least one level above the leaves")
    }
}

/// Checks a block of the tree; returns its number of records and the bytes they have.
fn check_block<'b>(
    volume: &Volume,
    bytes: &'b [u8],
    at: u64,
    owner: u64,
    level: u16,
) -> Result<(u16, &'b [u8]), GuestError> {
    let (_, raw) = header(bytes).map_err(|_| too_short("block of mappings", at))?;
    let (magic, header_bytes) = if volume.geometry.checksums { (MAGIC_V5, 72) } else { (MAGIC_V4, 24) };
    if raw.magic != magic {
        return Err(corrupt("block of mappings", at, format!("the magic {magic:#x}"), format!("{:#x}", raw.magic)));
    }
    EXTENT_TREE.check("block of mappings", bytes, at, owner, &volume.geometry)?;
    if raw.level != level {
        return Err(corrupt("block of mappings", at, format!("level {level}"), format!("level {}", raw.level)));
    }
    Ok((raw.records, &bytes[header_bytes..]))
}
