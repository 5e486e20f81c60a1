//! ext2, ext3 and ext4, read only, in every variant that Linux writes.
//!
//! In here, a file each: the superblock and its features, group descriptors, inodes, extent trees and block maps, content,
//! directories and their index, extended attributes, the journal's replay in memory. Everything is checked where the
//! filesystem has checksums; damage is an error of the node that has it.
//! Not in here: partitions, who wants the files, writing of any kind.
//!
//!     superblock ─► group ─► inode ─► runs of blocks ─► content │ directory │ link
//!                              └────► attributes
//!     volume: the disk, with the blocks that the journal holds newer versions of laid over it
//!
//! Source: Linux Documentation/filesystems/ext4; what it leaves open was tried on images that mke2fs and the kernel made.

mod attributes;
mod checksum;
mod content;
mod directory;
mod extents;
mod features;
mod groups;
mod hash;
mod htree;
mod indirect;
mod inode;
mod journal;
mod superblock;
mod volume;

use std::ops::ControlFlow;
use std::sync::Arc;

use features::{Compatible, Incompatible};
use inode::{Inode, flags};
use superblock::{ROOT_INODE, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use volume::{Overlay, Volume};

use super::GuestError;
use super::tree::{Entry, ExtendedAttribute, FileSystem, Metadata, NodeId, NodeKind, Summary};
use crate::disk::{Disk, Extent};

/// An ext2, ext3 or ext4 filesystem, open for reading.
pub struct Ext {
    superblock: Superblock,
    volume: Volume,
    summary: Summary,
}

/// Opens the filesystem on a volume; a journal that was not replayed is, in memory.
///
/// # Errors
/// [`GuestError::Corrupt`] if the superblock is none or damaged, [`GuestError::Unsupported`] for features we cannot read.
pub fn open(disk: Arc<dyn Disk>) -> Result<Ext, GuestError> {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    if disk.size().0 < SUPERBLOCK_AT.0 + SUPERBLOCK_BYTES as u64 {
        return Err(GuestError::Corrupt {
            field: "ext superblock",
            at: SUPERBLOCK_AT,
            expected: format!("{SUPERBLOCK_BYTES} bytes"),
            found: format!("a volume of {} bytes", disk.size()),
        });
    }
    disk.read_at(SUPERBLOCK_AT, &mut bytes)?;
    let superblock = superblock::read(&bytes)?;
    let plain = Ext::new(disk, superblock, Overlay::new(), Vec::new());
    if plain.superblock.incompatible.has(Incompatible::RECOVER) {
        return Ok(journal::replayed(plain));
    }
    Ok(plain)
}

impl Ext {
    fn new(disk: Arc<dyn Disk>, superblock: Superblock, overlay: Overlay, mut warnings: Vec<String>) -> Ext {
        let size = superblock.blocks * superblock.block_bytes();
        if disk.size().0 < size {
            warnings.push(format!("the volume ends {} bytes before the filesystem", size - disk.size().0));
        }
        if superblock.errors_recorded {
            warnings.push("the guest's system found errors in this filesystem and recorded it".to_owned());
        }
        if !superblock.clean && !superblock.compatible.has(Compatible::HAS_JOURNAL) {
            warnings.push(
                "not unmounted, and without a journal: the newest changes may be missing or half done".to_owned(),
            );
        }
        let summary = Summary {
            kind: superblock.kind(),
            label: superblock.label.clone(),
            uuid: uuid_text(superblock.uuid),
            size,
            block_size: 1 << superblock.block_bits,
            warnings,
        };
        Ext { volume: Volume::new(disk, &superblock, overlay), superblock, summary }
    }

    /// Unit of allocation in bytes.
    fn cluster_bytes(&self) -> u64 {
        self.superblock.cluster_bytes
    }

    /// The inode of a node that must be of one kind.
    fn inode_as(&self, node: NodeId, kind: NodeKind) -> Result<Inode, GuestError> {
        let inode = self.inode_of(node)?;
        if inode.kind != kind {
            return Err(GuestError::WrongKind { expected: kind.noun(), found: inode.kind.noun() });
        }
        Ok(inode)
    }
}

/// As `blkid` prints it; empty for one that was never set.
fn uuid_text(uuid: [u8; 16]) -> String {
    let uuid = uuid::Uuid::from_bytes(uuid);
    if uuid.is_nil() { String::new() } else { uuid.hyphenated().to_string() }
}

impl FileSystem for Ext {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        inode::node(ROOT_INODE)
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let inode = self.inode_of(node)?;
        let mut allocated = inode.allocated;
        // As the kernel's `stat` has it: content inside the inode is something, or it would look like a hole.
        if inode.has(flags::INLINE_DATA) && inode.kind == NodeKind::File {
            allocated = allocated.saturating_add(inode.size.div_ceil(512).saturating_mul(512));
        }
        let is_device = matches!(inode.kind, NodeKind::CharacterDevice | NodeKind::BlockDevice);
        Ok(Metadata {
            kind: inode.kind,
            size: inode.size,
            allocated,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            links: inode.links,
            device: if is_device { inode::device(&inode.map()) } else { None },
            modified: inode.modified,
            accessed: inode.accessed,
            changed: inode.changed,
            created: inode.created,
            attributes: None,
            special: inode.has(flags::ENCRYPT).then_some("encrypted (fscrypt)"),
        })
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        self.each_entry(&self.inode_as(directory, NodeKind::Directory)?, visit)
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        let found = self.find(&self.inode_as(directory, NodeKind::Directory)?, name)?;
        Ok(found.map(inode::node))
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let inode = self.inode_as(file, NodeKind::File)?;
        self.check_plain(&inode)?;
        self.read_content(&inode, at, buf)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let inode = self.inode_as(file, NodeKind::File)?;
        self.check_plain(&inode)?;
        self.content_extent(&inode, at)
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        let inode = self.inode_as(link, NodeKind::Symlink)?;
        self.check_plain(&inode)?;
        self.link_target(&inode)
    }

    fn extended_attributes(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        self.attributes(&self.inode_of(node)?)
    }
}
