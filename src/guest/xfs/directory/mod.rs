//! Directories, in all their forms:
//!
//! - [`shortform`]: entries in the inode
//! - block: one [`data`] block, which ends with its own index
//! - leaf, node, tree: data blocks below 32 GiB of the fork, an [`index`] by hash above
//!
//! Entries are read from data blocks alone; names are found by the index.

mod data;
mod index;
mod shortform;

use std::ops::ControlFlow;

use data::DataBlock;

use super::corrupt;
use super::fork::{Fork, Runs, Stored};
use super::inode::Inode;
use super::volume::Volume;
use crate::guest::GuestError;
use crate::guest::tree::{Entry, NodeId, NodeKind};

/// Where the index begins in the fork, in bytes (`XFS_DIR2_LEAF_OFFSET`): data blocks lie below.
const INDEX_AT: u64 = 32 << 30;

/// An entry as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawEntry<'a> {
    name: &'a [u8],
    kind: Option<u8>,
    inode: u64,
    /// Where its block or inode lies, for messages.
    at: u64,
}

impl<'a> RawEntry<'a> {
    fn validate(self) -> Result<Entry<'a>, GuestError> {
        if self.name.is_empty() || self.name.contains(&b'/') || self.name.contains(&0) {
            let found = self.name.escape_ascii().to_string();
            return Err(corrupt("name in a directory", self.at, "one or more bytes without / and NUL", found));
        }
        let kind = match self.kind {
            None | Some(0) => None,
            Some(1) => Some(NodeKind::File),
            Some(2) => Some(NodeKind::Directory),
            // 8 is a whiteout of an overlay, which is a device to everybody else.
            Some(3 | 8) => Some(NodeKind::CharacterDevice),
            Some(4) => Some(NodeKind::BlockDevice),
            Some(5) => Some(NodeKind::Fifo),
            Some(6) => Some(NodeKind::Socket),
            Some(7) => Some(NodeKind::Symlink),
            Some(other) => return Err(corrupt("file type in a directory", self.at, "0 to 8", other)),
        };
        Ok(Entry { name: self.name, node: NodeId { tree: 0, number: self.inode }, kind })
    }
}

/// Tells `visit` every entry.
pub(crate) fn read(
    volume: &Volume,
    directory: &Inode,
    visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> Result<(), GuestError> {
    if let Fork::Local(bytes) = &directory.data {
        for entry in shortform::entries(volume, bytes, directory.at)? {
            if visit(entry.validate()?).is_break() {
                return Ok(());
            }
        }
        return Ok(());
    }
    for_each_data_block(volume, directory, &mut |block| {
        for entry in block.entries()? {
            if !matches!(entry.name, b"." | b"..") && visit(entry.validate()?).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// The inode of that name.
pub(crate) fn lookup(volume: &Volume, directory: &Inode, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
    // They are stored like all others, and are no names of the tree.
    if matches!(name, b"." | b"..") {
        return Ok(None);
    }
    let ignore_case = volume.geometry.ignore_case;
    let is_it = |stored: &[u8]| stored == name || ignore_case && stored.eq_ignore_ascii_case(name);
    let found = if let Fork::Local(bytes) = &directory.data {
        shortform::entries(volume, bytes, directory.at)?.into_iter().find(|entry| is_it(entry.name)).map(|e| e.inode)
    } else {
        index::find(volume, directory, name, &is_it)?
    };
    Ok(found.map(|number| NodeId { tree: 0, number }))
}

/// The data block of that number, in directory blocks; `None` if there is a hole.
fn data_block(volume: &Volume, directory: &Inode, number: u64) -> Result<Option<DataBlock>, GuestError> {
    let blocks = volume.geometry.directory_blocks;
    let read = directory.data.metadata(volume, directory.number, number * blocks, blocks)?;
    read.map(|(bytes, at)| DataBlock::new(volume, directory.number, bytes, at)).transpose()
}

fn for_each_data_block(
    volume: &Volume,
    directory: &Inode,
    visit: &mut dyn FnMut(&DataBlock) -> Result<ControlFlow<()>, GuestError>,
) -> Result<(), GuestError> {
    let geometry = &volume.geometry;
    let blocks = geometry.directory_blocks;
    let mut runs = Runs::new(volume, &directory.data, directory.number, 0, INDEX_AT >> geometry.block_log);
    let (mut next, mut seen) = (0, 0);
    while let Some(run) = runs.next()? {
        if run.what == Stored::Hole {
            continue;
        }
        // A directory block may consist of several runs; it is read with its first.
        next = next.max(run.offset / blocks);
        while next * blocks < run.offset + run.count {
            let Some(block) = data_block(volume, directory, next)? else { break };
            // Blocks of directories are never shared: a volume without checksums that says so would never end.
            seen += blocks;
            if seen > geometry.blocks {
                let expected = format!("at most {} blocks", geometry.blocks);
                return Err(corrupt("directory", directory.at, expected, "more"));
            }
            if visit(&block)?.is_break() {
                return Ok(());
            }
            next += 1;
        }
    }
    Ok(())
}
