//! Trees by hash (`xfs_da_btree`): directories find names in them, attributes lie in their leaves. Blocks are numbered as
//! in the fork, in the filesystem's blocks, also where a directory's blocks are larger.
//!
//! Layout: `forward 4 | back 4 | magic 2 | pad 2 | (version 5: checksum 4, place 8, sequence 8, uuid 16, owner 8) | …`;
//! of nodes then `count 2 | level 2 | (version 5: pad 4) | (hash 4, block 4) × n`, each hash the highest of its child.

use std::collections::HashSet;

use nom::bytes::complete::take;
use nom::multi::count;
use nom::number::complete::{be_u16, be_u32};
use nom::{IResult, Parser};

use super::checksum::HASH_TREE;
use super::fork::Fork;
use super::inode::Inode;
use super::volume::Volume;
use super::{corrupt, too_short};
use crate::guest::GuestError;

/// Highest root (`XFS_DA_NODE_MAXDEPTH`).
const LEVELS_MAX: u16 = 5;

/// What a block's magic says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Node,
    /// The only leaf of a directory's tree.
    SingleDirectoryLeaf,
    DirectoryLeaf,
    AttributeLeaf,
}

impl BlockKind {
    fn of(magic: u16, checksums: bool) -> Option<BlockKind> {
        Some(match (magic, checksums) {
            (0xfebe, false) | (0x3ebe, true) => BlockKind::Node,
            (0xd2f1, false) | (0x3df1, true) => BlockKind::SingleDirectoryLeaf,
            (0xd2ff, false) | (0x3dff, true) => BlockKind::DirectoryLeaf,
            (0xfbee, false) | (0x3bee, true) => BlockKind::AttributeLeaf,
            _ => return None,
        })
    }
}

/// A block of a tree, its magic, checksum and owner checked.
pub(crate) struct Block {
    pub kind: BlockKind,
    /// Its number.
    pub number: u64,
    /// Where it lies on the volume.
    pub at: u64,
    pub bytes: Vec<u8>,
    forward: u32,
}

/// A tree, in one of an inode's forks.
pub(crate) struct HashTree<'a> {
    pub volume: &'a Volume,
    pub inode: &'a Inode,
    pub fork: &'a Fork,
    /// Number of the root.
    pub root: u64,
    /// The filesystem's blocks to one of the tree's.
    pub blocks: u64,
    /// What leaves there may be.
    pub leaves: &'static [BlockKind],
    /// For messages.
    pub field: &'static str,
}

fn links(input: &[u8]) -> IResult<&[u8], (u32, u16)> {
    let (input, (forward, _back, magic)) = (be_u32, be_u32, be_u16).parse(input)?;
    Ok((input, (forward, magic)))
}

/// Level and (hash, block) pairs of a node.
type Node = (u16, Vec<(u32, u32)>);

fn node(input: &[u8], checksums: bool) -> IResult<&[u8], Node> {
    let (input, (_, children, level)) = (take(links_bytes(checksums)), be_u16, be_u16).parse(input)?;
    let (input, _) = take(if checksums { 4usize } else { 0 }).parse(input)?;
    if usize::from(children) > input.len() / 8 {
        return Err(nom::Err::Error(nom::error::Error::new(input, nom::error::ErrorKind::Eof)));
    }
    let (input, children) = count((be_u32, be_u32), children.into()).parse(input)?;
    Ok((input, (level, children)))
}

/// Bytes before what the kind of block is about.
pub(crate) fn links_bytes(checksums: bool) -> usize {
    if checksums { 56 } else { 12 }
}

impl HashTree<'_> {
    /// Reads the block of that number; `None` if there is a hole.
    fn block(&self, number: u64) -> Result<Option<Block>, GuestError> {
        let Some((bytes, at)) = self.fork.metadata(self.volume, self.inode.number, number, self.blocks)? else {
            return Ok(None);
        };
        let (_, (forward, magic)) = links(&bytes).map_err(|_| too_short(self.field, at))?;
        let kind = BlockKind::of(magic, self.volume.geometry.checksums)
            .filter(|kind| *kind == BlockKind::Node || self.leaves.contains(kind));
        let Some(kind) = kind else {
            return Err(corrupt(self.field, at, "the magic of a node or leaf", format!("{magic:#06x}")));
        };
        HASH_TREE.check(self.field, &bytes, at, self.inode.number, &self.volume.geometry)?;
        Ok(Some(Block { kind, number, at, bytes, forward }))
    }

    fn child(&self, number: u64, of: u64) -> Result<Block, GuestError> {
        let found = || format!("a hole at block {number} of inode {}", self.inode.number);
        self.block(number)?.ok_or_else(|| corrupt(self.field, of, "a stored block", found()))
    }

    /// The first leaf in which `hash` may be; `None` if the tree is empty or ends before it.
    pub fn leaf_for(&self, hash: u32) -> Result<Option<Block>, GuestError> {
        let Some(mut block) = self.block(self.root)? else { return Ok(None) };
        let mut above = LEVELS_MAX + 1;
        while block.kind == BlockKind::Node {
            let (_, (level, children)) =
                node(&block.bytes, self.volume.geometry.checksums).map_err(|_| too_short(self.field, block.at))?;
            // Levels lessen with every step, so that a loop ends.
            let fits = if above > LEVELS_MAX { (1..=LEVELS_MAX).contains(&level) } else { level + 1 == above };
            if !fits {
                let expected = if above > LEVELS_MAX { format!("1 to {LEVELS_MAX}") } else { (above - 1).to_string() };
                return Err(corrupt("level of a node", block.at, expected, level));
            }
            let index = children.partition_point(|(highest, _)| *highest < hash);
            let Some((_, number)) = children.get(index) else { return Ok(None) };
            block = self.child(u64::from(*number), block.at)?;
            let is_leaf = block.kind != BlockKind::Node;
            if is_leaf != (level == 1) {
                let (expected, found) = if is_leaf { ("a node", "a leaf") } else { ("a leaf", "a node") };
                return Err(corrupt(self.field, block.at, expected, found));
            }
            above = level;
        }
        Ok(Some(block))
    }

    /// The leaf after `leaf`; `None` at the end. `seen` has the leaves of the walk.
    pub fn next_leaf(&self, leaf: &Block, seen: &mut HashSet<u64>) -> Result<Option<Block>, GuestError> {
        seen.insert(leaf.number);
        if leaf.forward == 0 {
            return Ok(None);
        }
        let number = u64::from(leaf.forward);
        // A volume without checksums may show one block at many numbers: more than it has are a loop, too.
        if seen.contains(&number) || seen.len() as u64 > self.volume.geometry.blocks {
            return Err(corrupt(self.field, leaf.at, "a chain of leaves that ends", format!("block {number} again")));
        }
        let next = self.child(number, leaf.at)?;
        if next.kind == BlockKind::Node {
            return Err(corrupt(self.field, next.at, "a leaf", "a node"));
        }
        Ok(Some(next))
    }
}

/// The hash of a name (`xfs_da_hashname`).
pub(crate) fn hash(name: impl IntoIterator<Item = u8>) -> u32 {
    name.into_iter().fold(0, |hash, byte| u32::from(byte) ^ u32::rotate_left(hash, 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_kernel_s() {
        // As `xfs_db -c "hash NAME"` prints them.
        for (name, expected) in HASHES {
            assert_eq!(hash(name.bytes()), expected, "{name}");
        }
    }

    const HASHES: [(&str, u32); 4] = [(".", 0x2e), ("..", 0x172e), ("a", 0x61), ("lost+found", 0x21a_a60c)];
}
