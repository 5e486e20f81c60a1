//! The index of a large directory: a tree of at most three levels of blocks, ordered by the names' hashes. Only a short cut:
//! where it is damaged or of a kind we do not know, the directory is looked through as if it had none.
//!
//! Source: Linux Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories".

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use super::Ext;
use super::checksum::crc32c;
use super::content::RunKind;
use super::directory::entry_len;
use super::features::{Compatible, Incompatible};
use super::hash::{self, Characters, Function};
use super::inode::{Inode, flags};
use super::volume::Bytes;

/// Where the root's own fields lie, behind the entries of `.` and `..`.
const ROOT_FIELDS_AT: usize = 24;
/// Where the entries of the root and of other nodes begin; the first one's hash is the node's room and count.
const ROOT_ENTRIES_AT: usize = 32;
const NODE_ENTRIES_AT: usize = 8;
const ENTRY_BYTES: usize = 8;
/// Reserved, checksum: behind the last entry there is room for.
const TAIL_BYTES: usize = 8;
/// A directory entry that fills the root's first twelve bytes.
const DOT_BYTES: usize = 12;
/// Blocks of names that one look-up reads at most: as many as can hold names of one hash before looking through everything
/// is as good.
const LEAVES_MAX: usize = 1000;

struct RawRoot {
    hash_version: u8,
    fields_len: u8,
    levels: u8,
}

fn root(input: &[u8]) -> IResult<&[u8], RawRoot> {
    let (rest, (_dots, _reserved)) = (take(ROOT_FIELDS_AT), le_u32).parse(input)?;
    let (rest, (hash_version, fields_len, levels, _flags)) = (le_u8, le_u8, le_u8, le_u8).parse(rest)?;
    Ok((rest, RawRoot { hash_version, fields_len, levels }))
}

/// The room for entries and their number.
fn counts(input: &[u8]) -> IResult<&[u8], (u16, u16)> {
    (le_u16, le_u16).parse(input)
}

/// Where a block of an index has its entries; `None` if it is none.
fn entries_at(block: &[u8]) -> Option<usize> {
    let len_at = |at: usize| Some(entry_len(u16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?), block.len()));
    let first = len_at(4)?;
    if first == block.len() {
        return Some(NODE_ENTRIES_AT);
    }
    (first == DOT_BYTES && len_at(DOT_BYTES + 4)? == block.len() - DOT_BYTES).then_some(ROOT_ENTRIES_AT)
}

/// What the checksum of a block of an index must be, and what it is; `None` if it is no such block.
pub(super) fn checksums(block: &[u8], seed: u32) -> Option<(u32, u32)> {
    let at = entries_at(block)?;
    let (_, (room, count)) = counts(block.get(at..)?).ok()?;
    let tail_at = at + usize::from(room) * ENTRY_BYTES;
    let tail = block.get(tail_at..tail_at + TAIL_BYTES)?;
    let used = block.get(..at + usize::from(count) * ENTRY_BYTES)?;
    let (reserved, stored) = tail.split_at(4);
    let sum = crc32c(crc32c(crc32c(seed, used), reserved), &[0; 4]);
    Some((sum, u32::from_le_bytes(stored.try_into().ok()?)))
}

/// A sound node's entries: from which hash on, and in which block of the directory. The first one's hash is 0.
fn entries(block: &[u8], at: usize) -> Option<Vec<(u32, u32)>> {
    let (_, (room, count)) = counts(block.get(at..)?).ok()?;
    if count == 0 || count > room || at + usize::from(room) * ENTRY_BYTES > block.len() {
        return None;
    }
    let entries = block[at..at + usize::from(count) * ENTRY_BYTES].chunks_exact(ENTRY_BYTES);
    let mut entries: Vec<(u32, u32)> = entries
        .map(|entry| {
            let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            (word(0), word(4))
        })
        .collect();
    entries[0].0 = 0;
    entries.is_sorted_by_key(|(hash, _)| *hash).then_some(entries)
}

/// A search for one name.
struct Search<'s> {
    directory: &'s Inode,
    name: &'s [u8],
    hash: u32,
    leaves: usize,
}

/// The index is no help.
struct Unusable;

impl Ext {
    /// The number that an indexed directory has for a name; `None` if it has no index that helps.
    pub(super) fn find_by_index(&self, directory: &Inode, name: &[u8]) -> Option<Option<u32>> {
        if !directory.has(flags::INDEX)
            || directory.has(flags::INLINE_DATA)
            || !self.superblock.compatible.has(Compatible::DIR_INDEX)
        {
            return None;
        }
        let block = self.index_block(directory, 0).ok()?;
        let (_, raw) = root(&block).ok()?;
        let levels_max = if self.superblock.incompatible.has(Incompatible::LARGEDIR) { 2 } else { 1 };
        let is_root = entries_at(&block) == Some(ROOT_ENTRIES_AT);
        if !is_root || usize::from(raw.fields_len) != ROOT_ENTRIES_AT - ROOT_FIELDS_AT || raw.levels > levels_max {
            return None;
        }
        let function = match raw.hash_version {
            0 | 3 => Function::Legacy,
            1 | 4 => Function::HalfMd4,
            2 | 5 => Function::Tea,
            _ => return None,
        };
        let unsigned = raw.hash_version >= 3 || self.superblock.unsigned_hash;
        let characters = if unsigned { Characters::Unsigned } else { Characters::Signed };
        let hash = hash::of_name(name, function, characters, self.superblock.hash_seed);
        let mut search = Search { directory, name, hash, leaves: 0 };
        self.search(&mut search, &block, ROOT_ENTRIES_AT, raw.levels).ok()
    }

    /// Searches below a node with so many levels of nodes below it.
    fn search(&self, search: &mut Search<'_>, node: &Bytes, at: usize, levels: u8) -> Result<Option<u32>, Unusable> {
        let entries = entries(node, at).ok_or(Unusable)?;
        // The last entry from which on the hash can be; the first one's is 0, so there is one.
        let start = entries.partition_point(|(hash, _)| *hash <= search.hash).saturating_sub(1);
        for (index, (hash, block)) in entries[start..].iter().enumerate() {
            // Names of one hash that did not fit one block go on in the next, whose hash says so by its lowest bit.
            if index > 0 && *hash != search.hash | 1 {
                break;
            }
            let child = self.index_block(search.directory, u64::from(*block & 0x0fff_ffff))?;
            let found = if levels > 0 {
                if entries_at(&child) != Some(NODE_ENTRIES_AT) {
                    return Err(Unusable);
                }
                self.search(search, &child, NODE_ENTRIES_AT, levels - 1)?
            } else {
                search.leaves += 1;
                if search.leaves > LEAVES_MAX {
                    return Err(Unusable);
                }
                self.find_in(&child, search.name).map_err(|_| Unusable)?
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn index_block(&self, directory: &Inode, index: u64) -> Result<Bytes, Unusable> {
        if index >= directory.size.div_ceil(self.volume.block_bytes()) {
            return Err(Unusable);
        }
        let RunKind::Data(at) = self.run_at(directory, index).map_err(|_| Unusable)?.kind else { return Err(Unusable) };
        self.directory_block(directory, index, at).map_err(|_| Unusable)
    }
}
