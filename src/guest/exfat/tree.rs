//! The volume as the house's [`FileSystem`].

use std::ops::ControlFlow;
use std::sync::Arc;

use super::boot::{self, Geometry};
use super::directory::Place;
use super::entry::{FileEntry, attributes};
use super::root::{self, UpCase};
use crate::disk::{Disk, Extent, ExtentKind};
use crate::guest::GuestError;
use crate::guest::clusters::Clusters;
use crate::guest::detect::serial;
use crate::guest::tree::{Entry, FileSystem, Metadata, NodeId, NodeKind, Summary, Time};
use crate::units::ByteLen;

/// The root directory has no entry.
const ROOT: NodeId = NodeId { tree: 0, number: 0 };

/// An exFAT volume, open for reading.
pub struct ExFat {
    pub(super) geometry: Geometry,
    pub(super) clusters: Clusters,
    pub(super) up_case: UpCase,
    summary: Summary,
}

/// Opens the exFAT that begins where `disk` begins.
///
/// # Errors
/// [`GuestError::Corrupt`] if there is none, or both its boot regions are damaged, or its root directory cannot be found.
pub fn open(disk: Arc<dyn Disk>) -> Result<ExFat, GuestError> {
    let (geometry, damage) = boot::read(disk.as_ref())?;
    let size = disk.size().0;
    let clusters = Clusters::new(disk, geometry.heap, geometry.table);
    let place = Place::of_root(&clusters, geometry.root_cluster)?;
    let root = root::read(&clusters, &geometry, &place);
    let mut warnings = Vec::new();
    if size < geometry.bytes {
        let bytes = geometry.bytes;
        warnings.push(format!("the volume ends before its filesystem does: it has {size} of {bytes} bytes"));
    }
    if let Some(damage) = damage {
        warnings.push(format!("the boot region is damaged, its copy was used: {damage}"));
    }
    if geometry.dirty {
        warnings.push("not unmounted: the newest changes may be missing or half done".to_owned());
    }
    if geometry.media_failed {
        warnings.push("the guest's system met errors of the medium on this filesystem and recorded it".to_owned());
    }
    warnings.extend(root.warnings);
    let summary = Summary {
        kind: "exfat",
        label: root.label,
        uuid: serial(geometry.serial),
        size: geometry.bytes,
        block_size: 1 << geometry.heap.cluster_log,
        warnings,
    };
    Ok(ExFat { geometry, clusters, up_case: root.up_case, summary })
}

impl ExFat {
    fn directory(&self, directory: NodeId) -> Result<Place, GuestError> {
        if directory == ROOT {
            return Place::of_root(&self.clusters, self.geometry.root_cluster);
        }
        let entry = self.entry_as(directory, NodeKind::Directory)?;
        Place::of(&self.clusters, entry.at, &entry.content)
    }

    fn entry_as(&self, node: NodeId, kind: NodeKind) -> Result<FileEntry, GuestError> {
        let wrong = |found: NodeKind| GuestError::WrongKind { expected: kind.noun(), found: found.noun() };
        if node == ROOT {
            return Err(wrong(NodeKind::Directory));
        }
        let entry = self.entry(node)?;
        if entry.kind() == kind { Ok(entry) } else { Err(wrong(entry.kind())) }
    }

    fn allocated(&self, bytes: u64) -> u64 {
        self.clusters.clusters_for(bytes) << self.geometry.heap.cluster_log
    }
}

impl FileSystem for ExFat {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let entry = if node == ROOT { None } else { Some(self.entry(node)?) };
        let kind = entry.as_ref().map_or(NodeKind::Directory, FileEntry::kind);
        let place = if kind == NodeKind::Directory { Some(self.directory(node)?) } else { None };
        let size = match (&place, &entry) {
            (Some(place), _) => place.bytes,
            (None, entry) => entry.as_ref().map_or(0, |entry| entry.content.bytes),
        };
        let attributes = entry.as_ref().map_or(attributes::DIRECTORY, |entry| entry.attributes);
        let is_protected = attributes & attributes::READ_ONLY != 0 && kind == NodeKind::File;
        let modified = entry.as_ref().map_or(Time::default(), FileEntry::modified);
        Ok(Metadata {
            kind,
            size,
            allocated: self.allocated(size),
            mode: if is_protected { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            links: place.map_or(1, |place| self.subdirectories(&place)),
            device: None,
            modified,
            accessed: entry.as_ref().map_or(Time::default(), FileEntry::accessed),
            changed: modified,
            created: entry.as_ref().map(FileEntry::created),
            attributes: Some(attributes.into()),
            special: None,
        })
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        self.each_entry(&self.directory(directory)?, &mut |found| {
            visit(Entry { name: found.name, node: found.node, kind: Some(found.entry.kind()) })
        })
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        self.find(&self.directory(directory)?, name)
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let content = self.entry_as(file, NodeKind::File)?.content;
        let left = usize::try_from(content.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        let written = usize::try_from(content.valid_bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(len);
        let (written, zeros) = buf[..len].split_at_mut(written);
        if !written.is_empty() {
            self.clusters.read(content.chain(&self.clusters)?.as_ref(), at, written)?;
        }
        zeros.fill(0);
        Ok(len)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let content = self.entry_as(file, NodeKind::File)?.content;
        if at >= content.bytes {
            return Ok(None);
        }
        if at >= content.valid_bytes {
            return Ok(Some(Extent { kind: ExtentKind::Zero, len: ByteLen(content.bytes - at) }));
        }
        let chain = content.chain(&self.clusters)?;
        let reached = u64::from(chain.len()) << self.geometry.heap.cluster_log;
        if at >= reached {
            chain.check_whole(&self.clusters)?;
        }
        Ok(Some(Extent { kind: ExtentKind::Data, len: ByteLen(reached.min(content.valid_bytes) - at) }))
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        self.entry_as(link, NodeKind::Symlink)?;
        Err(GuestError::NoSuchNode { node: link })
    }
}
