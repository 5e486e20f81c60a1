//! The volume as the house's [`FileSystem`]. A node is the reference of its inode: the same for all of its names.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::content::{self, Marks};
use super::inode::{self, Content, Directory, File, Inode};
use super::superblock::{self, SUPERBLOCK_BYTES};
use super::volume::Volume;
use super::{attributes, corrupt, directory};
use crate::disk::{Disk, Extent};
use crate::guest::GuestError;
use crate::guest::tree::{Entry, ExtendedAttribute, FileSystem, Metadata, NodeId, NodeKind, Summary};
use crate::units::GuestOffset;

/// A squashfs volume, open for reading.
pub struct Squashfs {
    volume: Volume,
    marks: Marks,
    summary: Summary,
}

/// Opens the squashfs that begins where `disk` begins.
///
/// # Errors
/// [`GuestError::Corrupt`] if there is none, or its superblock or root directory are damaged; [`GuestError::Unsupported`]
/// for other versions.
pub fn open(disk: Arc<dyn Disk>) -> Result<Squashfs, GuestError> {
    if disk.size().0 < SUPERBLOCK_BYTES as u64 {
        return Err(corrupt("superblock", 0, "96 bytes", disk.size()));
    }
    let mut bytes = [0; SUPERBLOCK_BYTES];
    disk.read_at(GuestOffset(0), &mut bytes)?;
    let superblock = superblock::read(&bytes)?;
    let mut warnings = Vec::new();
    if superblock.bytes_used > disk.size().0 {
        let (has, needs) = (disk.size(), superblock.bytes_used);
        warnings.push(format!("the volume ends before its filesystem does: it has {has} of {needs} bytes"));
    }
    let summary = Summary {
        kind: "squashfs",
        label: String::new(),
        uuid: String::new(),
        size: superblock.bytes_used,
        block_size: u32::try_from(superblock.block_bytes()).expect("at most 1 MiB"),
        warnings,
    };
    let tree = Squashfs { volume: Volume::new(disk, superblock), marks: Marks::new(), summary };
    tree.directory(tree.root())?;
    Ok(tree)
}

impl Squashfs {
    fn directory(&self, node: NodeId) -> Result<Directory, GuestError> {
        let inode = inode::read(&self.volume, node)?;
        match inode.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(wrong_kind(&inode, NodeKind::Directory)),
        }
    }

    fn file(&self, node: NodeId) -> Result<File, GuestError> {
        let inode = inode::read(&self.volume, node)?;
        match inode.content {
            Content::File(file) => Ok(file),
            _ => Err(wrong_kind(&inode, NodeKind::File)),
        }
    }
}

fn wrong_kind(inode: &Inode, expected: NodeKind) -> GuestError {
    GuestError::WrongKind { expected: expected.noun(), found: inode.metadata.kind.noun() }
}

impl FileSystem for Squashfs {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        NodeId { tree: 0, number: self.volume.superblock.root }
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let Inode { mut metadata, attributes, .. } = inode::read(&self.volume, node)?;
        // Who asks for the attributes themselves is told what is wrong with them.
        let of_attributes = attributes.and_then(|number| attributes::bytes(&self.volume, number).ok()).unwrap_or(0);
        metadata.allocated = metadata.allocated.saturating_add(of_attributes.next_multiple_of(512));
        Ok(metadata)
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        directory::read(&self.volume, &self.directory(directory)?, directory, visit)
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        directory::lookup(&self.volume, &self.directory(directory)?, directory, name)
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let file = self.file(file)?;
        let len = usize::try_from(file.size.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        if len > 0 {
            content::read(&self.volume, &self.marks, &file, at, &mut buf[..len])?;
        }
        Ok(len)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let file = self.file(file)?;
        if at >= file.size {
            return Ok(None);
        }
        content::extent(&self.volume, &self.marks, &file, at).map(Some)
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        let inode = inode::read(&self.volume, link)?;
        match inode.content {
            Content::Link(target) => Ok(target),
            _ => Err(wrong_kind(&inode, NodeKind::Symlink)),
        }
    }

    fn extended_attributes(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        match inode::read(&self.volume, node)?.attributes {
            Some(number) => attributes::read(&self.volume, number),
            None => Ok(Vec::new()),
        }
    }
}
