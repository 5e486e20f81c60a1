//! The volume as the house's [`FileSystem`].

use std::ops::ControlFlow;
use std::sync::Arc;

use super::fork::{Runs, Stored};
use super::geometry::{self, Geometry};
use super::inode::{self, Inode};
use super::volume::{Overlay, Volume, read_under};
use super::{attributes, directory, link, unsupported};
use crate::disk::{Disk, Extent, ExtentKind};
use crate::guest::GuestError;
use crate::guest::tree::{Entry, ExtendedAttribute, FileSystem, Metadata, NodeId, NodeKind, Summary};
use crate::units::ByteLen;

/// An XFS volume, open for reading.
pub struct Xfs {
    volume: Volume,
    summary: Summary,
}

/// Opens the XFS that begins where `disk` begins.
///
/// # Errors
/// [`GuestError::Corrupt`] if there is none or its superblock is damaged, [`GuestError::Unsupported`] if it has features
/// that we do not know.
pub fn open(disk: Arc<dyn Disk>) -> Result<Xfs, GuestError> {
    let overlay = Overlay::new();
    let geometry = read_geometry(disk.as_ref(), &overlay)?;
    let mut warnings = Vec::new();
    if geometry.bytes() > disk.size().0 {
        warnings.push(format!(
            "the volume ends before its filesystem does: it has {} of {} bytes",
            disk.size(),
            geometry.bytes()
        ));
    }
    if geometry.needs_repair {
        warnings.push("a repair of it began and did not end; what it shows may be wrong".to_string());
    }
    let summary = summary(&geometry, warnings);
    Ok(Xfs { volume: Volume::new(disk, geometry, overlay), summary })
}

fn read_geometry(disk: &dyn Disk, overlay: &Overlay) -> Result<Geometry, GuestError> {
    geometry::read(&|len| {
        let mut bytes = vec![0; len];
        read_under(disk, overlay, 0, &mut bytes)?;
        Ok(bytes)
    })
}

fn summary(geometry: &Geometry, warnings: Vec<String>) -> Summary {
    Summary {
        kind: "xfs",
        label: geometry.label.clone(),
        uuid: uuid::Uuid::from_bytes(geometry.uuid).to_string(),
        size: geometry.bytes(),
        block_size: u32::try_from(geometry.block_bytes).expect("at most 64 KiB"),
        warnings,
    }
}

impl Xfs {
    fn inode(&self, node: NodeId) -> Result<Inode, GuestError> {
        inode::read(&self.volume, node)
    }

    fn inode_of(&self, node: NodeId, kind: NodeKind) -> Result<Inode, GuestError> {
        let inode = self.inode(node)?;
        inode.expect(kind)?;
        Ok(inode)
    }

    /// A file whose content lies on this volume.
    fn file(&self, node: NodeId) -> Result<Inode, GuestError> {
        let inode = self.inode_of(node, NodeKind::File)?;
        if inode.realtime {
            return Err(unsupported("content on the realtime device of an XFS"));
        }
        Ok(inode)
    }
}

impl FileSystem for Xfs {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        NodeId { tree: 0, number: self.volume.geometry.root }
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let inode = self.inode(node)?;
        let special = inode.realtime.then_some("on the realtime device");
        Ok(Metadata { special, ..inode.metadata })
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
        let inode = self.file(file)?;
        let left = usize::try_from(inode.metadata.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        if len == 0 {
            return Ok(0);
        }
        let geometry = &self.volume.geometry;
        let mut buf = &mut buf[..len];
        // Sizes are below 2^63, so that no end of a range in a file passes 2^64.
        let end = geometry.blocks_for(at + len as u64);
        let mut runs = Runs::new(&self.volume, &inode.data, inode.number, at >> geometry.block_log, end);
        let mut skip = at & (geometry.block_bytes - 1);
        let mut pending: Option<(u64, usize)> = None;
        let mut done = 0;
        // Neighbours on the volume that are several mappings become one read.
        while let Some(run) = runs.next()? {
            let bytes = usize::try_from((run.count << geometry.block_log) - skip).unwrap_or(usize::MAX);
            let bytes = bytes.min(len - done - pending.map_or(0, |(_, len)| len));
            pending = match (run.what, pending) {
                (Stored::At(place), Some((from, so_far))) if from + so_far as u64 == place + skip => {
                    Some((from, so_far + bytes))
                }
                (what, before) => {
                    if let Some((from, so_far)) = before {
                        let (now, rest) = buf.split_at_mut(so_far);
                        self.volume.read(from, now)?;
                        (buf, done) = (rest, done + so_far);
                    }
                    match what {
                        Stored::At(place) => Some((place + skip, bytes)),
                        Stored::Hole | Stored::Unwritten => {
                            let (now, rest) = buf.split_at_mut(bytes);
                            now.fill(0);
                            (buf, done) = (rest, done + bytes);
                            None
                        }
                    }
                }
            };
            skip = 0;
        }
        if let Some((from, so_far)) = pending {
            self.volume.read(from, &mut buf[..so_far])?;
        }
        Ok(len)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let inode = self.file(file)?;
        let size = inode.metadata.size;
        if at >= size {
            return Ok(None);
        }
        let geometry = &self.volume.geometry;
        let end = geometry.blocks_for(size);
        let mut runs = Runs::new(&self.volume, &inode.data, inode.number, at >> geometry.block_log, end);
        let Some(run) = runs.next()? else { return Ok(None) };
        let kind = match run.what {
            Stored::Hole => ExtentKind::Hole,
            Stored::Unwritten => ExtentKind::Zero,
            Stored::At(_) => ExtentKind::Data,
        };
        let until = (run.offset + run.count).saturating_mul(geometry.block_bytes).min(size);
        Ok(Some(Extent { kind, len: ByteLen(until - at) }))
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        link::read(&self.volume, &self.inode_of(link, NodeKind::Symlink)?)
    }

    fn extended_attributes(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        attributes::read(&self.volume, &self.inode(node)?)
    }
}
