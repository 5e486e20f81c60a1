//! The volume as the house's [`FileSystem`].

use std::ops::ControlFlow;
use std::sync::Arc;

use super::content::Content;
use super::extents::{Runs, Stored};
use super::inode::{self, Inode};
use super::key::object;
use super::superblock::{self, Superblock};
use super::volume::Volume;
use super::{attributes, corrupt, directory, log, subvolumes};
use crate::disk::{Disk, Extent, ExtentKind};
use crate::guest::GuestError;
use crate::guest::tree::{Entry, ExtendedAttribute, FileSystem, Metadata, NodeId, NodeKind, Summary};
use crate::units::ByteLen;

/// Longest target of a link (`PATH_MAX` of the kernel).
const TARGET_BYTES_MAX: u64 = 4096;

/// A btrfs volume, open for reading: its default subvolume, and all that are linked below.
pub struct Btrfs {
    volume: Volume,
    content: Content,
    summary: Summary,
    /// The subvolume whose root is the root.
    shown: u64,
}

/// Opens the btrfs that begins where `disk` begins.
///
/// # Errors
/// [`GuestError::Corrupt`] if there is none or its superblock, chunks or roots are damaged, [`GuestError::Unsupported`]
/// if it has features that we do not know or lies where we cannot read it.
pub fn open(disk: Arc<dyn Disk>) -> Result<Btrfs, GuestError> {
    let (superblock, trouble) = superblock::read(disk.as_ref())?;
    let volume = Volume::new(disk, superblock)?;
    let shown = subvolumes::default(&volume)?;
    let checksums = subvolumes::root(&volume, object::CHECKSUM_TREE)?;
    if !subvolumes::is_subvolume(shown) || subvolumes::root(&volume, shown)?.is_none() {
        return Err(corrupt("default subvolume", volume.superblock.at, "one that is there", shown));
    }
    let warnings = warnings(&volume, trouble, shown);
    let summary = summary(&volume.superblock, warnings);
    Ok(Btrfs { volume, content: Content::new(checksums), summary, shown })
}

fn warnings(volume: &Volume, trouble: Option<String>, shown: u64) -> Vec<String> {
    let superblock = &volume.superblock;
    let mut warnings = Vec::new();
    if let Some(trouble) = trouble {
        warnings.push(format!("its first superblock was not used, but the copy at {:#x}: {trouble}", superblock.at));
    }
    if superblock.devices > 1 {
        warnings.push(format!(
            "this is device {} of {}: what lies on others only cannot be read, and what lies here may be older",
            superblock.device, superblock.devices
        ));
    } else if superblock.total_bytes > volume.disk_bytes() {
        let (there, whole) = (volume.disk_bytes(), superblock.total_bytes);
        warnings.push(format!("the volume ends before its filesystem does: it has {there} of {whole} bytes"));
    }
    if shown != object::TOP_LEVEL {
        warnings.push(format!("its default subvolume, {shown}, is shown; what is not linked below it is not"));
    }
    warnings.extend(log::warning(volume));
    warnings
}

fn summary(superblock: &Superblock, warnings: Vec<String>) -> Summary {
    Summary {
        kind: "btrfs",
        label: superblock.label.clone(),
        uuid: uuid::Uuid::from_bytes(superblock.uuid).to_string(),
        size: superblock.total_bytes,
        block_size: superblock.sector_bytes,
        warnings,
    }
}

impl Btrfs {
    /// The root of the subvolume that holds all others, which is not [`FileSystem::root`] where a default was set.
    pub fn top_level(&self) -> NodeId {
        NodeId { tree: object::TOP_LEVEL, number: object::FIRST_FREE }
    }

    fn inode(&self, node: NodeId) -> Result<Inode, GuestError> {
        inode::read(&self.volume, inode::root_of(&self.volume, node)?, node)
    }

    fn inode_of(&self, node: NodeId, kind: NodeKind) -> Result<Inode, GuestError> {
        let inode = self.inode(node)?;
        inode.expect(kind)?;
        Ok(inode)
    }
}

impl FileSystem for Btrfs {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        NodeId { tree: self.shown, number: object::FIRST_FREE }
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        Ok(self.inode(node)?.metadata)
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        directory::read(&self.volume, &self.inode_of(directory, NodeKind::Directory)?, visit)
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        directory::lookup(&self.volume, &self.inode_of(directory, NodeKind::Directory)?, name)
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let inode = self.inode_of(file, NodeKind::File)?;
        let left = usize::try_from(inode.metadata.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        if len > 0 {
            self.content.read(&self.volume, &inode, at, &mut buf[..len])?;
        }
        Ok(len)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let inode = self.inode_of(file, NodeKind::File)?;
        let Some(run) = Runs::new(&self.volume, &inode, at, inode.metadata.size)?.next()? else { return Ok(None) };
        let kind = match run.what {
            Stored::Hole => ExtentKind::Hole,
            Stored::Unwritten => ExtentKind::Zero,
            Stored::At(_) | Stored::Packed { .. } | Stored::Inline { .. } => ExtentKind::Data,
        };
        Ok(Some(Extent { kind, len: ByteLen(run.bytes) }))
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        let inode = self.inode_of(link, NodeKind::Symlink)?;
        let size = inode.metadata.size;
        let len = usize::try_from(size).ok().filter(|_| (1..=TARGET_BYTES_MAX).contains(&size));
        let Some(len) = len else {
            return Err(corrupt("target of a link", inode.at, format!("1 to {TARGET_BYTES_MAX} bytes"), size));
        };
        let mut target = vec![0; len];
        self.content.read(&self.volume, &inode, 0, &mut target)?;
        Ok(target)
    }

    fn extended_attributes(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        attributes::read(&self.volume, &self.inode(node)?)
    }
}
