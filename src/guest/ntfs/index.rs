//! Directories: a b-tree of names, whose root lies in the record and whose other nodes are blocks.
//!
//! A walk goes through the blocks that the directory's bitmap names, and meets each name once without following the tree. A
//! look-up follows the tree. Damage in a block costs that block's names alone: the walk goes on and ends with the first error.
//!
//! Every block says where it belongs, so that no block is met twice whatever the runs of the directory claim.
//!
//! Root: 0 type of the indexed attribute u32 | 8 bytes a block u32 | 16 a header. Block: `INDX` | 4 sector ends | 16 its
//! number u64 | 24 a header. Header: 0 its first entry u32, 4 its end u32, both from the header on. Entry: 0 reference u64 |
//! 8 length u16 | 10 length of the file name u16 | 12 flags u16 | 16 the file name; a block's number u64 at the end.
//!
//! Source: linux-ntfs documentation, "Index Header" and "Directory"; tried on volumes that ntfs-3g filled.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{le_u16, le_u32, le_u64};

use super::content::Content;
use super::names::{self, NAME_UNITS_MAX};
use super::node::{NAMESPACE_DOS, Node};
use super::record::{Reference, kind, units};
use super::volume::restore_sector_ends;
use super::{FIRST_USER_RECORD, Ntfs, dos, node_id};
use crate::guest::GuestError;
use crate::guest::tree::{Entry, NodeKind};
use crate::units::GuestOffset;

/// The name of the attributes that make a directory: `$I30`.
const INDEX_NAME: [u16; 4] = [b'$' as u16, b'I' as u16, b'3' as u16, b'0' as u16];
const BLOCK_MAGIC: &[u8] = b"INDX";
/// Where the header begins in the root's value and in a block.
const ROOT_HEADER_AT: usize = 16;
const BLOCK_HEADER_AT: usize = 24;
const BLOCK_NUMBER: Range<usize> = 16..24;
const BLOCK_BYTES_MIN: u32 = 512;
const BLOCK_BYTES_MAX: u32 = 64 << 10;
/// Blocks smaller than a cluster are numbered in units of this.
const SMALL_UNIT_BYTES: u64 = 512;
/// Reference, two lengths, flags, two bytes of nothing.
const ENTRY_HEADER_BYTES: usize = 16;
const FILE_NAME_BYTES_MIN: usize = 66;
const HAS_BLOCK: u16 = 1;
const IS_END: u16 = 2;
const CHILD_BYTES: usize = 8;
/// The bitmap is read in pieces of this length.
const BITMAP_PIECE_BYTES: usize = 4096;
/// Blocks of a directory at most: 2^32 files with long names need as much.
const DIRECTORY_BYTES_MAX: u64 = 1 << 40;
/// A walk ends after so many damaged blocks: claims of blocks that nothing is stored for cost it no time.
const DAMAGED_BLOCKS_MAX: u32 = 1000;

/// What to do with an entry.
pub(super) type Visit<'v> = &'v mut dyn FnMut(Entry<'_>) -> ControlFlow<()>;

/// A directory's root and where its blocks are.
struct Index {
    root: Vec<u8>,
    at: GuestOffset,
    block_bytes: u64,
    /// Blocks are numbered in units of this.
    unit_bytes: u64,
    blocks: Option<Content>,
}

/// An entry of a node; the last one of each has no name.
struct IndexEntry<'a> {
    reference: Reference,
    name: Option<FileName<'a>>,
    /// The block with the names before this one.
    child: Option<u64>,
}

struct FileName<'a> {
    attributes: u32,
    namespace: u8,
    name: &'a [u8],
}

/// What a look-up has met.
struct Search<'n> {
    name: &'n [u16],
    /// The best so far, and how good: the same letters, another case, a short name.
    found: Option<(u8, Reference)>,
    visited: BTreeSet<u64>,
}

/// The attributes and name in an entry's file name; `None` if it is too short.
fn file_name(key: &[u8]) -> Option<FileName<'_>> {
    let (rest, (_, attributes, _)) =
        (take::<_, _, nom::error::Error<&[u8]>>(56usize), le_u32, take(4usize)).parse(key).ok()?;
    let (len, namespace) = (usize::from(*rest.first()?), *rest.get(1)?);
    Some(FileName { attributes, namespace, name: rest.get(2..2 + 2 * len)? })
}

impl Ntfs {
    fn index(&self, directory: &Node) -> Result<Index, GuestError> {
        let at = directory.at;
        let corrupt = |expected: String, found: String| GuestError::Corrupt {
            field: "root of a directory's index",
            at,
            expected,
            found,
        };
        let missing = || corrupt("one".to_owned(), "none".to_owned());
        let content = self.content(directory, kind::INDEX_ROOT, &INDEX_NAME)?.ok_or_else(missing)?;
        if content.len > u64::from(BLOCK_BYTES_MAX) {
            return Err(corrupt(format!("at most {BLOCK_BYTES_MAX} bytes"), content.len.to_string()));
        }
        let mut root = vec![0; usize::try_from(content.len).expect("at most 64 KiB")];
        self.read_content(&content, 0, &mut root)?;
        let head = (le_u32::<_, nom::error::Error<&[u8]>>, le_u32, le_u32).parse(&root[..]);
        let Ok((_, (indexed, _, block_bytes))) = head else {
            return Err(corrupt("a whole one".to_owned(), format!("{} bytes", root.len())));
        };
        if indexed != kind::FILE_NAME {
            return Err(corrupt("an index of file names".to_owned(), format!("one of attributes {indexed:#x}")));
        }
        if !block_bytes.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes) {
            let expected = format!("blocks of a power of two from {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX} bytes");
            return Err(corrupt(expected, block_bytes.to_string()));
        }
        let blocks = self.content(directory, kind::INDEX_ALLOCATION, &INDEX_NAME)?;
        let limit = self.volume.bytes().min(DIRECTORY_BYTES_MAX);
        if let Some(blocks) = blocks.as_ref().filter(|blocks| blocks.len > limit) {
            return Err(corrupt(format!("blocks of at most {limit} bytes"), blocks.len.to_string()));
        }
        let (block_bytes, cluster_bytes) = (u64::from(block_bytes), self.volume.cluster_bytes());
        let unit_bytes = if cluster_bytes <= block_bytes { cluster_bytes } else { SMALL_UNIT_BYTES };
        Ok(Index { root, at: content.at, block_bytes, unit_bytes, blocks })
    }

    /// Length and allocation of a directory: what it has besides its record, as ntfs-3g's `stat` has it.
    pub(super) fn index_lengths(&self, directory: &Node) -> Result<(u64, u64), GuestError> {
        let blocks = self.content(directory, kind::INDEX_ALLOCATION, &INDEX_NAME)?;
        Ok(blocks.map_or((0, 0), |blocks| (blocks.len, blocks.allocated)))
    }

    /// Reads the block that begins at a byte of a directory's blocks.
    fn index_block(&self, index: &Index, at: u64) -> Result<(Vec<u8>, GuestOffset), GuestError> {
        let corrupt = |expected: String, found: String| GuestError::Corrupt {
            field: "block of a directory's index",
            at: index.at,
            expected,
            found,
        };
        let inside = |blocks: &&Content| at.checked_add(index.block_bytes).is_some_and(|end| end <= blocks.len);
        let Some(blocks) = index.blocks.as_ref().filter(inside) else {
            let len = index.blocks.as_ref().map_or(0, |blocks| blocks.len);
            return Err(corrupt(format!("one within {len} bytes"), format!("one at byte {at}")));
        };
        let mut block = vec![0; usize::try_from(index.block_bytes).expect("at most 64 KiB")];
        let lies_at = self.read_content_kept(blocks, at, &mut block)?;
        if !block.starts_with(BLOCK_MAGIC) {
            return Err(GuestError::Corrupt {
                field: "magic of a directory's block",
                at: lies_at,
                expected: "\"INDX\"".to_owned(),
                found: format!("\"{}\"", block[..4].escape_ascii()),
            });
        }
        restore_sector_ends(&mut block, "block of a directory's index", lies_at)?;
        let number = u64::from_le_bytes(block[BLOCK_NUMBER].try_into().expect("eight bytes"));
        if number.checked_mul(index.unit_bytes) != Some(at) {
            return Err(GuestError::Corrupt {
                field: "number of a directory's block",
                at: lies_at,
                expected: (at / index.unit_bytes).to_string(),
                found: number.to_string(),
            });
        }
        Ok((block, lies_at))
    }

    /// Tells `visit` all entries.
    pub(super) fn each_entry(&self, directory: &Node, visit: Visit<'_>) -> Result<(), GuestError> {
        let index = self.index(directory)?;
        let mut damage = None;
        let mut flow = self.each_in(&index.root, ROOT_HEADER_AT, index.at, visit, &mut damage);
        if let (Ok(ControlFlow::Continue(())), Some(blocks)) = (&flow, &index.blocks) {
            flow = self.each_in_blocks(directory, &index, blocks.len / index.block_bytes, visit, &mut damage);
        }
        match flow {
            Ok(ControlFlow::Break(())) => Ok(()),
            Ok(ControlFlow::Continue(())) => damage.map_or(Ok(()), Err),
            Err(err) => Err(damage.unwrap_or(err)),
        }
    }

    fn each_in_blocks(
        &self,
        directory: &Node,
        index: &Index,
        blocks: u64,
        visit: Visit<'_>,
        damage: &mut Option<GuestError>,
    ) -> Result<ControlFlow<()>, GuestError> {
        let bitmap = self.content(directory, kind::BITMAP, &INDEX_NAME)?.ok_or_else(|| GuestError::Corrupt {
            field: "bitmap of a directory's index",
            at: index.at,
            expected: "one".to_owned(),
            found: "none".to_owned(),
        })?;
        let mut piece = [0; BITMAP_PIECE_BYTES];
        let mut damaged = 0;
        let mut number = 0;
        // No more blocks than the volume has room for, whatever the bitmap says.
        while number < blocks {
            let len = self.read_content(&bitmap, number / 8, &mut piece)?;
            if len == 0 {
                break;
            }
            for bit in 0..8 * len {
                let used = piece[bit / 8] & 1 << (bit % 8) != 0;
                let number = number + bit as u64;
                if !used || number >= blocks {
                    continue;
                }
                let flow = self
                    .index_block(index, number * index.block_bytes)
                    .and_then(|(block, at)| self.each_in(&block, BLOCK_HEADER_AT, at, visit, damage));
                match flow {
                    Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                    Ok(ControlFlow::Continue(())) => {}
                    Err(err) => {
                        damage.get_or_insert(err);
                        damaged += 1;
                        if damaged == DAMAGED_BLOCKS_MAX {
                            return Ok(ControlFlow::Continue(()));
                        }
                    }
                }
            }
            number += 8 * len as u64;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tells `visit` the entries of one node. A bad name is noted as damage.
    fn each_in(
        &self,
        node: &[u8],
        header_at: usize,
        at: GuestOffset,
        visit: Visit<'_>,
        damage: &mut Option<GuestError>,
    ) -> Result<ControlFlow<()>, GuestError> {
        for entry in entries(node, header_at, at)? {
            let Some(file_name) = entry.name else { continue };
            // The system's own files are not for users; among them the root, as `.` in itself.
            if file_name.namespace == NAMESPACE_DOS || entry.reference.number() < FIRST_USER_RECORD {
                continue;
            }
            let name = names::to_bytes(&units(file_name.name).collect::<Vec<_>>());
            if name.is_empty() || matches!(&name[..], b"." | b"..") || name.iter().any(|it| matches!(it, 0 | b'/')) {
                damage.get_or_insert_with(|| GuestError::Corrupt {
                    field: "name in a directory",
                    at,
                    expected: "characters without / and NUL".to_owned(),
                    found: format!("\"{}\"", name.escape_ascii()),
                });
                continue;
            }
            // A link, or what a reparse point or a system file means, shows in the record alone.
            let kind = match file_name.attributes {
                special if special & (dos::REPARSE_POINT | dos::SYSTEM) != 0 => None,
                directory if directory & dos::IS_DIRECTORY != 0 => Some(NodeKind::Directory),
                _ => Some(NodeKind::File),
            };
            if visit(Entry { name: &name, node: node_id(entry.reference), kind }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The file of that name. The same letters come before those of another case, and both before a short name.
    pub(super) fn find(&self, directory: &Node, name: &[u8]) -> Result<Option<Reference>, GuestError> {
        if name.is_empty() || matches!(name, b"." | b"..") {
            return Ok(None);
        }
        let Some(name) = names::from_bytes(name).filter(|name| name.len() <= NAME_UNITS_MAX) else { return Ok(None) };
        let index = self.index(directory)?;
        let mut search = Search { name: &name, found: None, visited: BTreeSet::new() };
        let mut children = self.search(&index.root, ROOT_HEADER_AT, index.at, &mut search)?;
        while let Some(child) = children.pop() {
            let (block, lies_at) = self.index_block(&index, child.saturating_mul(index.unit_bytes))?;
            if !search.visited.insert(child) {
                return Err(GuestError::Corrupt {
                    field: "directory's index",
                    at: lies_at,
                    expected: "a tree".to_owned(),
                    found: "a block that is met twice".to_owned(),
                });
            }
            children.extend(self.search(&block, BLOCK_HEADER_AT, lies_at, &mut search)?);
        }
        Ok(search.found.map(|(_, reference)| reference))
    }

    /// Looks through one node; returns the blocks that can have the name too.
    fn search(
        &self,
        node: &[u8],
        header_at: usize,
        at: GuestOffset,
        search: &mut Search<'_>,
    ) -> Result<Vec<u64>, GuestError> {
        let mut children = Vec::new();
        for entry in entries(node, header_at, at)? {
            let Some(file_name) = entry.name else {
                children.extend(entry.child);
                break;
            };
            let name: Vec<u16> = units(file_name.name).collect();
            let order = self.capitals.compare(&name, search.name);
            if order == Ordering::Less {
                continue;
            }
            // Names that differ in case stand beside each other: some may lie below this entry.
            children.extend(entry.child);
            if order == Ordering::Greater {
                break;
            }
            let rank = match file_name.namespace {
                _ if name == search.name => 0,
                NAMESPACE_DOS => 2,
                _ => 1,
            };
            if search.found.is_none_or(|(best, _)| rank < best) {
                search.found = Some((rank, entry.reference));
            }
        }
        Ok(children)
    }
}

/// All entries of a node, whose header begins at a byte of it.
fn entries(node: &[u8], header_at: usize, at: GuestOffset) -> Result<Vec<IndexEntry<'_>>, GuestError> {
    let corrupt = |field, expected: String, found: String| GuestError::Corrupt { field, at, expected, found };
    let header = node.get(header_at..).unwrap_or_default();
    let bounds = (le_u32::<_, nom::error::Error<&[u8]>>, le_u32).parse(header).ok();
    let bounds = bounds.and_then(|(_, (first, end))| Some((usize::try_from(first).ok()?, usize::try_from(end).ok()?)));
    let stretch = bounds.and_then(|(first, end)| header.get(first..end));
    let Some(mut rest) = stretch else {
        let found = bounds.map_or_else(|| "none".to_owned(), |(first, end)| format!("{first} to {end}"));
        return Err(corrupt("entries of a directory's index", format!("within {} bytes", header.len()), found));
    };
    let mut entries = Vec::new();
    loop {
        let head = (le_u64::<_, nom::error::Error<&[u8]>>, le_u16, le_u16, le_u16, le_u16).parse(rest);
        let Ok((_, (reference, len, key_len, flags, _))) = head else {
            return Err(corrupt("entries of a directory's index", "an end".to_owned(), "none".to_owned()));
        };
        let (len, key_len) = (usize::from(len), usize::from(key_len));
        let child_bytes = if flags & HAS_BLOCK == 0 { 0 } else { CHILD_BYTES };
        let key_len = if flags & IS_END == 0 { key_len } else { 0 };
        let least = ENTRY_HEADER_BYTES + key_len + child_bytes;
        if len < least || len > rest.len() {
            let expected = format!("{least} to {}", rest.len());
            return Err(corrupt("length of an entry in a directory", expected, len.to_string()));
        }
        let (entry, behind) = rest.split_at(len);
        let child = entry.last_chunk::<CHILD_BYTES>().filter(|_| child_bytes != 0).map(|it| u64::from_le_bytes(*it));
        if flags & IS_END != 0 {
            entries.push(IndexEntry { reference: Reference(0), name: None, child });
            return Ok(entries);
        }
        let Some(name) = file_name(&entry[ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + key_len]) else {
            let expected = format!("at least {FILE_NAME_BYTES_MIN} bytes with the name in them");
            return Err(corrupt("file name of an entry in a directory", expected, key_len.to_string()));
        };
        entries.push(IndexEntry { reference: Reference(reference), name: Some(name), child });
        rest = behind;
    }
}
