//! The volume as the house's [`FileSystem`]. A node's number is where its record lies on the volume; the root's is 0.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::boot::{self, BOOT_BYTES, Geometry};
use super::directory::Place;
use super::entry::{self, Meaning, ShortEntry, attributes};
use crate::disk::{Disk, Extent, ExtentKind};
use crate::guest::GuestError;
use crate::guest::clusters::chain::Chain;
use crate::guest::clusters::content::RECORD_BYTES;
use crate::guest::clusters::table::{Entries, Width};
use crate::guest::clusters::{Clusters, corrupt};
use crate::guest::detect::{dos_label, serial};
use crate::guest::tree::{Entry, FileSystem, Metadata, NodeId, NodeKind, Summary, Time};
use crate::units::{ByteLen, GuestOffset};

/// The root directory has no record.
const ROOT: NodeId = NodeId { tree: 0, number: 0 };

/// A FAT volume, open for reading.
pub struct Fat {
    pub(super) geometry: Geometry,
    pub(super) clusters: Clusters,
    summary: Summary,
}

/// Opens the FAT that begins where `disk` begins.
///
/// # Errors
/// [`GuestError::Corrupt`] if there is none or its boot sector is damaged.
pub fn open(disk: Arc<dyn Disk>) -> Result<Fat, GuestError> {
    let size = disk.size().0;
    let mut bytes = [0; BOOT_BYTES];
    if size < BOOT_BYTES as u64 {
        let expected = format!("{BOOT_BYTES} bytes");
        return Err(corrupt("boot sector of a FAT", 0, expected, format!("a volume of {size} bytes")));
    }
    disk.read_at(GuestOffset(0), &mut bytes)?;
    let geometry = boot::read(&bytes)?;
    let clusters = Clusters::new(disk, geometry.heap, geometry.table);
    let summary = Summary {
        kind: geometry.kind.word(),
        label: String::new(),
        uuid: geometry.serial.map_or(String::new(), serial),
        size: geometry.bytes,
        block_size: 1 << geometry.heap.cluster_log,
        warnings: warnings(&geometry, &clusters, size),
    };
    let mut fat = Fat { geometry, clusters, summary };
    let label = fat.root_label().or(fat.geometry.label);
    fat.summary.label = label.map_or(String::new(), |label| dos_label(&label));
    Ok(fat)
}

/// What may be missing.
fn warnings(geometry: &Geometry, clusters: &Clusters, size: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    if size < geometry.bytes {
        warnings.push(format!("the volume ends before its filesystem does: it has {size} of {} bytes", geometry.bytes));
    }
    // The second entry belongs to no cluster: its high bits say how the volume was left.
    let (clean, sound) = match geometry.table.width {
        Width::Sixteen => (0x8000, 0x4000),
        Width::TwentyEight => (0x0800_0000, 0x0400_0000),
        Width::Twelve | Width::ThirtyTwo => (0, 0),
    };
    let state = Entries::new(&clusters.volume, geometry.heap, geometry.table).entry(1).unwrap_or(u32::MAX);
    if geometry.dirty || state & clean != clean {
        warnings.push("not unmounted: the newest changes may be missing or half done".to_owned());
    }
    if state & sound != sound {
        warnings.push("the guest's system met errors of the medium on this filesystem and recorded it".to_owned());
    }
    warnings
}

/// What a node is.
enum Node {
    Root,
    Entry(ShortEntry),
}

impl Node {
    fn kind(&self) -> NodeKind {
        match self {
            Node::Root => NodeKind::Directory,
            Node::Entry(entry) => entry.kind(),
        }
    }

    fn expect(&self, kind: NodeKind) -> Result<(), GuestError> {
        if self.kind() == kind {
            return Ok(());
        }
        Err(GuestError::WrongKind { expected: kind.noun(), found: self.kind().noun() })
    }
}

impl Fat {
    fn node(&self, node: NodeId) -> Result<Node, GuestError> {
        if node == ROOT {
            return Ok(Node::Root);
        }
        let heap = &self.geometry.heap;
        let in_root = match self.geometry.root {
            boot::Root::Fixed { at, len } => (at..at + len).contains(&node.number),
            boot::Root::Chain(_) => false,
        };
        let inside = in_root || heap.cluster_of(node.number).is_some();
        if node.tree != 0 || !inside || !node.number.is_multiple_of(RECORD_BYTES as u64) {
            return Err(GuestError::NoSuchNode { node });
        }
        let mut record = [0; RECORD_BYTES];
        self.clusters.volume.metadata(node.number, &mut record)?;
        match entry::meaning(&record) {
            Meaning::Entry => Ok(Node::Entry(entry::short(&record))),
            _ => Err(GuestError::NoSuchNode { node }),
        }
    }

    fn directory(&self, directory: NodeId) -> Result<Place, GuestError> {
        let node = self.node(directory)?;
        node.expect(NodeKind::Directory)?;
        match node {
            Node::Root => self.root_place(),
            Node::Entry(entry) => self.place(directory.number, &entry),
        }
    }

    /// Length of a file's content, and its clusters unless it is empty.
    fn file(&self, file: NodeId) -> Result<(u64, Option<Arc<Chain>>), GuestError> {
        let node = self.node(file)?;
        node.expect(NodeKind::File)?;
        let Node::Entry(entry) = node else { return Err(GuestError::NoSuchNode { node: file }) };
        let size = u64::from(entry.bytes);
        if size == 0 {
            return Ok((0, None));
        }
        let first = entry.first_cluster(self.geometry.kind);
        self.clusters.check_first("first cluster of a file", file.number, first)?;
        let wanted = u32::try_from(self.clusters.clusters_for(size)).expect("a file has at most 2^32 bytes");
        Ok((size, Some(self.clusters.chain(first, wanted)?)))
    }
}

impl FileSystem for Fat {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let found = self.node(node)?;
        let place = match &found {
            Node::Root => Some(self.root_place()?),
            Node::Entry(entry) if entry.kind() == NodeKind::Directory => Some(self.place(node.number, entry)?),
            Node::Entry(_) => None,
        };
        let (attributes, size) = match &found {
            Node::Root => (attributes::DIRECTORY, 0),
            Node::Entry(entry) => (entry.attributes, entry.bytes.into()),
        };
        let size = place.as_ref().map_or(size, Place::bytes);
        let is_protected = attributes & attributes::READ_ONLY != 0 && place.is_none();
        let modified = match &found {
            Node::Root => Time::default(),
            Node::Entry(entry) => entry.modified(),
        };
        Ok(Metadata {
            kind: found.kind(),
            size,
            allocated: self.clusters.clusters_for(size) << self.geometry.heap.cluster_log,
            mode: if is_protected { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            links: place.map_or(1, |place| self.subdirectories(&place)),
            device: None,
            modified,
            accessed: if let Node::Entry(entry) = &found { entry.accessed() } else { Time::default() },
            changed: modified,
            created: if let Node::Entry(entry) = &found { entry.created() } else { None },
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
            let node = NodeId { tree: 0, number: found.at };
            visit(Entry { name: found.name, node, kind: Some(found.short.kind()) })
        })
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        let found = self.find(&self.directory(directory)?, name)?;
        Ok(found.map(|number| NodeId { tree: 0, number }))
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let (size, chain) = self.file(file)?;
        let left = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        if let Some(chain) = chain.filter(|_| len > 0) {
            self.clusters.read(&chain, at, &mut buf[..len])?;
        }
        Ok(len)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let (size, chain) = self.file(file)?;
        let Some(chain) = chain.filter(|_| at < size) else { return Ok(None) };
        // A FAT has no holes: all that the chain reaches is data.
        let reached = u64::from(chain.len()) << self.geometry.heap.cluster_log;
        if at >= reached {
            chain.check_whole(&self.clusters)?;
        }
        Ok(Some(Extent { kind: ExtentKind::Data, len: ByteLen(reached.min(size) - at) }))
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        self.node(link)?.expect(NodeKind::Symlink)?;
        Err(GuestError::NoSuchNode { node: link })
    }
}
