//! Where a name's entry is: by the hash of the name.
//!
//! An index entry is `hash 4 | offset / 8 of the entry in the directory's data 4`, ascending by hash; offset 0 is stale. In
//! the block form they end the data block, else they fill the leaves of a [`HashTree`].

use std::collections::HashSet;

use nom::bytes::complete::take;
use nom::multi::count;
use nom::number::complete::{be_u16, be_u32};
use nom::{IResult, Parser};

use super::{INDEX_AT, data_block};
use crate::guest::GuestError;
use crate::guest::xfs::dabtree::{Block, BlockKind, HashTree, hash, links_bytes};
use crate::guest::xfs::inode::Inode;
use crate::guest::xfs::volume::Volume;
use crate::guest::xfs::{corrupt, too_short};

/// An entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    hash: u32,
    /// 0 if the entry is stale.
    eighths: u32,
}

impl IndexEntry {
    pub const BYTES: usize = 8;
}

fn entries(input: &[u8], entries: usize) -> IResult<&[u8], Vec<IndexEntry>> {
    count((be_u32, be_u32).map(|(hash, eighths)| IndexEntry { hash, eighths }), entries).parse(input)
}

/// The entries of a leaf.
fn leaf(bytes: &[u8], checksums: bool) -> IResult<&[u8], Vec<IndexEntry>> {
    let (rest, (_, used, _stale)) = (take(links_bytes(checksums)), be_u16, be_u16).parse(bytes)?;
    let (rest, _) = take(if checksums { 4usize } else { 0 }).parse(rest)?;
    if usize::from(used) > rest.len() / IndexEntry::BYTES {
        return Err(nom::Err::Error(nom::error::Error::new(rest, nom::error::ErrorKind::Eof)));
    }
    entries(rest, used.into())
}

/// The inode of the name that `is_it` knows, in a directory that is not in its inode.
pub(super) fn find(
    volume: &Volume,
    directory: &Inode,
    name: &[u8],
    is_it: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<u64>, GuestError> {
    let geometry = &volume.geometry;
    let ignore_case = geometry.ignore_case;
    let wanted = hash(name.iter().map(|byte| if ignore_case { byte.to_ascii_lowercase() } else { *byte }));
    let search = Search { volume, directory, wanted, is_it };
    // Only directories of one block have the block form; some of them have another, and say it by the magic.
    if directory.metadata.size == geometry.directory_block_bytes()
        && let Some(block) = data_block(volume, directory, 0)?
        && let Some(index) = block.index()
    {
        let (_, entries) =
            entries(index, index.len() / IndexEntry::BYTES).map_err(|_| too_short("directory index", block.at()))?;
        return Ok(search.among(&entries, block.at())?.inode());
    }
    let tree = HashTree {
        volume,
        inode: directory,
        fork: &directory.data,
        root: INDEX_AT >> geometry.block_log,
        blocks: geometry.directory_blocks,
        leaves: &[BlockKind::SingleDirectoryLeaf, BlockKind::DirectoryLeaf],
        field: "directory index",
    };
    let mut leaf = tree.leaf_for(wanted)?;
    let mut seen = HashSet::new();
    while let Some(block) = leaf {
        match search.in_leaf(&block)? {
            Outcome::Found(inode) => return Ok(Some(inode)),
            Outcome::Absent => return Ok(None),
            Outcome::MaybeLater => leaf = tree.next_leaf(&block, &mut seen)?,
        }
    }
    Ok(None)
}

/// A search for one name.
struct Search<'a> {
    volume: &'a Volume,
    directory: &'a Inode,
    wanted: u32,
    is_it: &'a dyn Fn(&[u8]) -> bool,
}

/// What a part of the index says.
enum Outcome {
    Found(u64),
    Absent,
    /// It ends with the hash that is wanted.
    MaybeLater,
}

impl Outcome {
    fn inode(self) -> Option<u64> {
        match self {
            Outcome::Found(inode) => Some(inode),
            Outcome::Absent | Outcome::MaybeLater => None,
        }
    }
}

impl Search<'_> {
    fn in_leaf(&self, block: &Block) -> Result<Outcome, GuestError> {
        let (_, entries) = leaf(&block.bytes, self.volume.geometry.checksums)
            .map_err(|_| corrupt("directory index", block.at, "as many entries as fit", "more"))?;
        self.among(&entries, block.at)
    }

    fn among(&self, entries: &[IndexEntry], at: u64) -> Result<Outcome, GuestError> {
        let block_bytes = self.volume.geometry.directory_block_bytes();
        let from = entries.partition_point(|entry| entry.hash < self.wanted);
        // Many names of one hash lie close together: the block is kept from one to the next.
        let mut held = None;
        for entry in entries[from..].iter().take_while(|entry| entry.hash == self.wanted) {
            if entry.eighths == 0 {
                continue;
            }
            let place = u64::from(entry.eighths) * 8;
            let (number, inside) = (place / block_bytes, place % block_bytes);
            if held.as_ref().is_none_or(|(held, _)| *held != number) {
                let block = data_block(self.volume, self.directory, number)?;
                let Some(block) = block.filter(|_| place < INDEX_AT) else {
                    return Err(corrupt("directory index", at, "a place in a data block", format!("place {place}")));
                };
                held = Some((number, block));
            }
            let Some((_, block)) = &held else { continue };
            let stored = block.entry(usize::try_from(inside).expect("less than a block"))?;
            if (self.is_it)(stored.name) {
                return Ok(Outcome::Found(stored.inode));
            }
        }
        let ended = entries.last().is_none_or(|last| last.hash <= self.wanted);
        Ok(if ended { Outcome::MaybeLater } else { Outcome::Absent })
    }
}
