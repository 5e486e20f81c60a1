//! Blocks of trees: raw → checked. A block is a leaf with items, or has pointers to blocks one level below.
//!
//! Layout of a leaf: `header 101 | item 25 × n | … | data of items`, the data where its item says, counted from the header.
//!
//! Invariant: keys ascend strictly, and the data of every item lies inside the block.

use std::ops::Range;

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u32, le_u64};
use nom::{IResult, Parser};

use super::key::{Key, key};
use super::superblock::{Root, Superblock, uuid};
use super::{corrupt, too_short};
use crate::guest::GuestError;

/// Bytes of a header (`btrfs_header`).
const HEADER_BYTES: usize = 101;
/// Bytes of an item's entry (`btrfs_item`).
const ITEM_BYTES: usize = 25;
/// Bytes of a pointer (`btrfs_key_ptr`).
const POINTER_BYTES: usize = 33;

/// A block, checked.
pub(crate) struct Node {
    /// Where it was read, on the volume.
    pub at: u64,
    pub level: u8,
    pub generation: u64,
    pub entries: Entries,
    bytes: Vec<u8>,
}

/// What a block has.
pub(crate) enum Entries {
    Items(Vec<(Key, Range<usize>)>),
    Pointers(Vec<Pointer>),
}

/// Where a block of the level below is, and the first key in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub key: Key,
    pub logical: u64,
    pub generation: u64,
}

/// An item of a leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub key: Key,
    pub bytes: &'a [u8],
    /// Where its data lies on the volume.
    pub at: u64,
}

/// The header's fields that we use, in their order.
struct RawHeader {
    uuid: [u8; 16],
    logical: u64,
    generation: u64,
    entries: u32,
    level: u8,
}

fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (_checksum, uuid, logical, _flags, _chunks)) =
        (take(32usize), uuid, le_u64, le_u64, self::uuid).parse(input)?;
    let (input, (generation, _owner, entries, level)) = (le_u64, le_u64, le_u32, le_u8).parse(input)?;
    Ok((input, RawHeader { uuid, logical, generation, entries, level }))
}

fn raw_item(input: &[u8]) -> IResult<&[u8], (Key, u32, u32)> {
    (key, le_u32, le_u32).parse(input)
}

fn pointer(input: &[u8]) -> IResult<&[u8], Pointer> {
    let (rest, (key, logical, generation)) = (key, le_u64, le_u64).parse(input)?;
    Ok((rest, Pointer { key, logical, generation }))
}

impl Node {
    /// Takes apart and checks the block that was read at `at`, and should be the one that `wanted` names.
    pub fn parse(bytes: Vec<u8>, at: u64, wanted: &Root, superblock: &Superblock) -> Result<Node, GuestError> {
        if let Some((stored, computed)) = superblock.checksum.mismatch(&bytes) {
            return Err(corrupt("tree block", at, format!("the checksum {stored}"), computed));
        }
        let (_, raw) = header(&bytes).map_err(|_| too_short("tree block", at))?;
        if raw.uuid != superblock.metadata_uuid {
            return Err(corrupt("tree block", at, "one of this filesystem", "one of another"));
        }
        if raw.logical != wanted.logical {
            let found = format!("one of address {:#x}", raw.logical);
            return Err(corrupt("tree block", at, format!("one of address {:#x}", wanted.logical), found));
        }
        let count = usize::try_from(raw.entries).unwrap_or(usize::MAX);
        let entry_bytes = if raw.level == 0 { ITEM_BYTES } else { POINTER_BYTES };
        let most = (bytes.len() - HEADER_BYTES) / entry_bytes;
        if count > most {
            return Err(corrupt("entries of a tree block", at, format!("at most {most}"), count));
        }
        let table = &bytes[HEADER_BYTES..HEADER_BYTES + count * entry_bytes];
        let entries = match raw.level {
            0 => Entries::Items(items(table, bytes.len(), at)?),
            _ => Entries::Pointers(pointers(table, at)?),
        };
        let node = Node { at, level: raw.level, generation: raw.generation, entries, bytes };
        node.check(wanted)?;
        Ok(node)
    }

    /// Refuses a block that is not of the level and generation which its pointer says: one that was left over.
    pub fn check(&self, wanted: &Root) -> Result<(), GuestError> {
        if self.level != wanted.level {
            let expected = format!("one of level {}", wanted.level);
            return Err(corrupt("tree block", self.at, expected, format!("one of level {}", self.level)));
        }
        if self.generation != wanted.generation {
            let expected = format!("one of generation {}", wanted.generation);
            return Err(corrupt("tree block", self.at, expected, format!("one of generation {}", self.generation)));
        }
        Ok(())
    }

    /// How many items or pointers there are.
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Items(items) => items.len(),
            Entries::Pointers(pointers) => pointers.len(),
        }
    }

    /// The key of an entry.
    pub fn key(&self, slot: usize) -> Option<Key> {
        match &self.entries {
            Entries::Items(items) => items.get(slot).map(|(key, _)| *key),
            Entries::Pointers(pointers) => pointers.get(slot).map(|pointer| pointer.key),
        }
    }

    /// The last entry whose key is not above `key`.
    pub fn slot_before(&self, key: Key) -> Option<usize> {
        let above = match &self.entries {
            Entries::Items(items) => items.partition_point(|(other, _)| *other <= key),
            Entries::Pointers(pointers) => pointers.partition_point(|pointer| pointer.key <= key),
        };
        above.checked_sub(1)
    }

    /// An item; `None` past the last, and for blocks that are no leaves.
    pub fn item(&self, slot: usize) -> Option<Item<'_>> {
        let Entries::Items(items) = &self.entries else { return None };
        let (key, range) = items.get(slot)?;
        Some(Item { key: *key, bytes: &self.bytes[range.clone()], at: self.at.saturating_add(range.start as u64) })
    }

    /// A pointer; `None` past the last, and for leaves.
    pub fn pointer(&self, slot: usize) -> Option<Pointer> {
        let Entries::Pointers(pointers) = &self.entries else { return None };
        pointers.get(slot).copied()
    }
}

fn items(table: &[u8], block_bytes: usize, at: u64) -> Result<Vec<(Key, Range<usize>)>, GuestError> {
    let table_end = HEADER_BYTES + table.len();
    let mut items: Vec<(Key, Range<usize>)> = Vec::with_capacity(table.len() / ITEM_BYTES);
    for entry in table.chunks_exact(ITEM_BYTES) {
        let (_, (key, offset, len)) = raw_item(entry).map_err(|_| too_short("tree block", at))?;
        let start = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(HEADER_BYTES));
        let end = start.and_then(|start| start.checked_add(usize::try_from(len).ok()?));
        let range = start.zip(end).filter(|(start, end)| *start >= table_end && *end <= block_bytes);
        let Some((start, end)) = range else {
            let found = format!("{len} bytes at {offset} for {key}");
            return Err(corrupt("item of a tree block", at, format!("data inside {block_bytes} bytes"), found));
        };
        check_order(items.last().map(|(key, _)| *key), key, at)?;
        items.push((key, start..end));
    }
    Ok(items)
}

fn pointers(table: &[u8], at: u64) -> Result<Vec<Pointer>, GuestError> {
    let mut pointers: Vec<Pointer> = Vec::with_capacity(table.len() / POINTER_BYTES);
    for entry in table.chunks_exact(POINTER_BYTES) {
        let (_, pointer) = pointer(entry).map_err(|_| too_short("tree block", at))?;
        check_order(pointers.last().map(|pointer| pointer.key), pointer.key, at)?;
        pointers.push(pointer);
    }
    Ok(pointers)
}

fn check_order(before: Option<Key>, key: Key, at: u64) -> Result<(), GuestError> {
    match before {
        Some(before) if before >= key => Err(corrupt("keys of a tree block", at, format!("one above {before}"), key)),
        _ => Ok(()),
    }
}
