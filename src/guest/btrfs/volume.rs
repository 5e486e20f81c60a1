//! The volume by logical addresses: blocks of trees, through a small cache, and runs of content with all their copies.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::chunks::Chunks;
use super::corrupt;
use super::cursor::Cursor;
use super::key::{Key, kind, object};
use super::node::Node;
use super::superblock::{Root, Superblock};
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::recent;
use crate::units::GuestOffset;

/// Bytes of tree blocks that are kept; taken apart they need about twice that.
const CACHE_BYTES: usize = 8 << 20;

/// A volume whose chunks are known.
pub(crate) struct Volume {
    disk: Arc<dyn Disk>,
    pub superblock: Superblock,
    chunks: Chunks,
    nodes: Cache<u64, Arc<Node>>,
}

impl Volume {
    /// Reads the chunk tree.
    pub fn new(disk: Arc<dyn Disk>, superblock: Superblock) -> Result<Volume, GuestError> {
        let node_bytes = usize::try_from(superblock.node_bytes).expect("at most 64 KiB");
        let nodes = recent::entries(CACHE_BYTES / node_bytes);
        let chunks = Chunks::of_superblock(&superblock)?;
        let mut volume = Volume { disk, superblock, chunks, nodes };
        // The tree is read with the chunks of the superblock; a copy of them grows meanwhile.
        let mut chunks = Chunks::of_superblock(&volume.superblock)?;
        let mut cursor =
            Cursor::from(&volume, &volume.superblock.chunk_root, Key::new(object::CHUNKS, kind::CHUNK, 0))?;
        while let Some(item) = cursor.item().filter(|item| item.key.is_of(object::CHUNKS, kind::CHUNK)) {
            chunks.add(item.key.offset, item.bytes, item.at, &volume.superblock)?;
            cursor.advance()?;
        }
        volume.chunks = chunks;
        Ok(volume)
    }

    /// Bytes of the disk below.
    pub fn disk_bytes(&self) -> u64 {
        self.disk.size().0
    }

    /// The block of a tree that `wanted` names, from the first copy that is sound; what points there lies at `asked_at`.
    pub fn node(&self, wanted: &Root, asked_at: u64) -> Result<Arc<Node>, GuestError> {
        if let Some(node) = self.nodes.get(&wanted.logical) {
            node.check(wanted)?;
            return Ok(node);
        }
        let place = self.chunks.place(wanted.logical, asked_at)?;
        let len = self.superblock.node_bytes;
        if !self.superblock.is_aligned(wanted.logical) || place.left < len.into() {
            let found = format!("{:#x}", wanted.logical);
            return Err(corrupt("address of a tree block", asked_at, "a sector, and a chunk around the block", found));
        }
        let node = first_sound(&place.copies, |at| {
            let mut bytes = vec![0; usize::try_from(len).expect("at most 64 KiB")];
            self.read(at, &mut bytes)?;
            Node::parse(bytes, at, wanted, &self.superblock)
        })?;
        let node = Arc::new(node);
        self.nodes.insert(wanted.logical, Arc::clone(&node));
        Ok(node)
    }

    /// The places of all copies of `logical`, and how many bytes from there are in one piece.
    pub fn place(&self, logical: u64, asked_at: u64) -> Result<super::chunks::Place, GuestError> {
        self.chunks.place(logical, asked_at)
    }

    /// Fills `buf` from byte `at` of the volume.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let end = at.checked_add(buf.len() as u64).filter(|end| *end <= self.disk_bytes());
        if end.is_none() {
            return Err(corrupt("chunk", at, format!("{} bytes", buf.len()), "the end of the volume"));
        }
        Ok(self.disk.read_at(GuestOffset(at), buf)?)
    }
}

/// What `read` makes of the first copy that it does not refuse; else what was wrong with the first of all.
pub(crate) fn first_sound<T>(
    copies: &[u64],
    mut read: impl FnMut(u64) -> Result<T, GuestError>,
) -> Result<T, GuestError> {
    let (first, others) = copies.split_first().expect("a place has at least one copy");
    read(*first).or_else(|err| others.iter().find_map(|at| read(*at).ok()).ok_or(err))
}
