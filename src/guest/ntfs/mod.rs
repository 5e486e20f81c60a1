//! NTFS, read only, as Windows and Linux's drivers write it.
//!
//! In here, a file each: the boot sector, the file table and its records, runs of clusters, content (sparse, compressed, not
//! yet written), directories and their index, what reparse points mean, files that Windows compressed behind our back.
//! Damage is an error of the file that has it; content that is elsewhere, encrypted or in a form that we cannot decode is
//! refused by name and never comes as zeros.
//! Not in here: partitions, who wants the files, writing of any kind. The log is not replayed: a volume that needs it says so.
//!
//!     boot ─► table ─► record ─► node ─► content ─► runs │ LZNT1 │ WOF
//!                                   ├──► index (directories)
//!                                   └──► meaning (links, devices, content elsewhere)
//!
//! A node's number is what Windows calls its file id: number of the record, and above 48 bits which use of it. So an entry of
//! a directory that is out of date leads to nothing, and never to another file.
//!
//! Source: the linux-ntfs documentation, \[MS-FSCC\]; what they leave open was tried on volumes that ntfs-3g filled.

mod boot;
mod content;
mod index;
mod linux;
mod list;
mod lznt1;
mod names;
mod node;
mod record;
mod reparse;
mod runs;
mod state;
mod table;
mod volume;
mod wof;

use std::ops::ControlFlow;
use std::sync::Arc;

use quick_cache::sync::Cache;

use boot::{BOOT_BYTES, Boot};
use content::{Content, Kept};
use names::{Capitals, TABLE_BYTES};
use node::Node;
use record::{Reference, kind};
use reparse::Meaning;
use table::Table;
use volume::Volume;

use super::GuestError;
use super::tree::{Entry, ExtendedAttribute, FileSystem, Metadata, NodeId, NodeKind, Summary};
use crate::disk::{Disk, Extent, ExtentKind};
use crate::recent;
use crate::units::{ByteLen, GuestOffset};

/// Records of the system's own files.
const ROOT_RECORD: u64 = 5;
const CAPITALS_RECORD: u64 = 10;
/// The first record of a user's file.
const FIRST_USER_RECORD: u64 = 16;

/// DOS attributes that mean something to us.
mod dos {
    pub const HIDDEN: u32 = 0x2;
    pub const SYSTEM: u32 = 0x4;
    pub const REPARSE_POINT: u32 = 0x400;
    pub const OFFLINE: u32 = 0x1000;
    pub const RECALL_ON_DATA_ACCESS: u32 = 0x40_0000;
    /// In file names only.
    pub const IS_DIRECTORY: u32 = 0x1000_0000;
}

/// Nodes kept at most: as many as there are records in this, for a node may hold the content that lies in its record.
const NODES_BYTES: usize = 8 << 20;
/// Pieces of attributes that a node has for its record's length; one with more counts as several.
const PLACES_A_NODE: usize = 16;
/// Decompressed chunks kept at most: 4 MiB of the largest.
const CHUNKS_KEPT: usize = 128;

/// An NTFS volume, open for reading.
pub struct Ntfs {
    volume: Volume,
    table: Table,
    capitals: Capitals,
    root: Reference,
    summary: Summary,
    nodes: Cache<Reference, Arc<Node>, ByPlaces>,
    kept: Kept,
    chunks: Cache<(Reference, u64), Arc<[u8]>>,
}

#[derive(Clone)]
struct ByPlaces;

impl quick_cache::Weighter<Reference, Arc<Node>> for ByPlaces {
    fn weight(&self, _: &Reference, node: &Arc<Node>) -> u64 {
        1 + (node.places.len() / PLACES_A_NODE) as u64
    }
}

/// Opens the filesystem on a volume.
///
/// # Errors
/// [`GuestError::Corrupt`] if the boot sector is none, or neither the file table nor its copy can be read.
pub fn open(disk: Arc<dyn Disk>) -> Result<Ntfs, GuestError> {
    let mut bytes = [0; BOOT_BYTES];
    if disk.size().0 < BOOT_BYTES as u64 {
        return Err(GuestError::Corrupt {
            field: "NTFS boot sector",
            at: GuestOffset(0),
            expected: format!("{BOOT_BYTES} bytes"),
            found: format!("a volume of {} bytes", disk.size()),
        });
    }
    disk.read_at(GuestOffset(0), &mut bytes)?;
    let boot = boot::read(&bytes)?;
    let mut warnings = Vec::new();
    if disk.size().0 < boot.size {
        warnings.push(format!("the volume ends {} bytes before the filesystem", boot.size - disk.size().0));
    }
    let volume = Volume::new(disk, &boot);
    let table = Table::open(&volume, &boot, &mut warnings)?;
    let root = table.read(&volume, ROOT_RECORD)?;
    let root = Reference(ROOT_RECORD | u64::from(root.sequence) << 48);
    let mut ntfs = Ntfs {
        volume,
        table,
        capitals: Capitals::of_unicode(),
        root,
        summary: summary(&boot),
        nodes: recent::weighed(1000, (NODES_BYTES / boot.record_size) as u64, ByPlaces),
        kept: Kept::new(),
        chunks: recent::entries(CHUNKS_KEPT),
    };
    match capitals(&ntfs) {
        Ok(Some(capitals)) => ntfs.capitals = capitals,
        Ok(None) => warnings.push("its table of capital letters is damaged, and was replaced by another".to_owned()),
        Err(err) => warnings.push(format!("its table of capital letters was replaced by another ({err})")),
    }
    ntfs.summary.label = state::look(&ntfs, &mut warnings);
    ntfs.summary.warnings = warnings;
    Ok(ntfs)
}

fn summary(boot: &Boot) -> Summary {
    Summary {
        kind: "ntfs",
        label: String::new(),
        uuid: format!("{:016X}", boot.serial),
        size: boot.size,
        block_size: 1 << boot.cluster_bits,
        warnings: Vec::new(),
    }
}

/// The volume's own table of capital letters, by which its directories are ordered; `None` if it makes no sense.
fn capitals(ntfs: &Ntfs) -> Result<Option<Capitals>, GuestError> {
    let content = state::system_content(ntfs, CAPITALS_RECORD)?;
    let mut bytes = vec![0; usize::try_from(content.len.min(TABLE_BYTES)).expect("at most 128 KiB")];
    ntfs.read_content(&content, 0, &mut bytes)?;
    Ok(Capitals::read(&bytes))
}

fn node_id(reference: Reference) -> NodeId {
    NodeId { tree: 0, number: reference.0 }
}

impl Ntfs {
    /// A node that must be of one kind.
    fn node_as(&self, id: NodeId, kind: NodeKind) -> Result<Arc<Node>, GuestError> {
        let node = self.node(id)?;
        if node.kind() != kind {
            return Err(GuestError::WrongKind { expected: kind.noun(), found: node.kind().noun() });
        }
        Ok(node)
    }

    /// The stream of that name; the same letters before those of another case.
    fn stream(&self, node: &Node, name: &str) -> Result<Option<Content>, GuestError> {
        let wanted: Vec<u16> = name.encode_utf16().collect();
        let streams = node.places.iter().filter(|place| place.kind == kind::DATA && !place.name.is_empty());
        let named = |place: &&list::Place| self.capitals.compare(&place.name, &wanted).is_eq();
        let mut names: Vec<_> = streams.filter(named).map(|place| &place.name).collect();
        names.sort_by_key(|name| ***name != *wanted);
        names.first().map_or(Ok(None), |name| self.content(node, kind::DATA, name))
    }

    /// Length and allocation of what a node's `stat` is about.
    fn lengths(&self, node: &Node) -> Result<(u64, u64), GuestError> {
        let lengths = |content: &Content| (content.len, content.allocated);
        Ok(match &node.meaning {
            Meaning::Link(target) => (target.len() as u64, self.data(node)?.map_or(0, |data| data.allocated)),
            Meaning::Device(..) => (0, 0),
            Meaning::Packed(_) => {
                let len = self.data(node)?.map_or(0, |data| data.len);
                (len, self.packed(node)?.allocated)
            }
            _ if node.directory => self.index_lengths(node)?,
            Meaning::Plain | Meaning::Elsewhere(_) => self.data(node)?.as_deref().map_or((0, 0), lengths),
        })
    }
}

impl FileSystem for Ntfs {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        node_id(self.root)
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let node = self.node(node)?;
        let (size, allocated) = self.lengths(&node)?;
        let linux = self.linux_metadata(&node)?;
        let encrypted = !node.directory
            && matches!(node.meaning, Meaning::Plain)
            && self.data(&node)?.is_some_and(|data| data.flags & record::flags::ENCRYPTED != 0);
        let mode = linux.mode.map_or(0o777, |mode| mode & 0o7777);
        Ok(Metadata {
            kind: node.kind(),
            size,
            allocated,
            mode: u16::try_from(mode).expect("twelve bits"),
            uid: linux.uid.unwrap_or(0),
            gid: linux.gid.unwrap_or(0),
            links: node.links,
            device: match node.meaning {
                Meaning::Device(_, device) => device,
                _ => None,
            },
            modified: node.information.modified,
            accessed: node.information.accessed,
            changed: node.information.changed,
            created: Some(node.information.created),
            attributes: Some(node.information.attributes),
            special: match node.meaning {
                Meaning::Elsewhere(what) => Some(what),
                _ => encrypted.then_some("encrypted (EFS)"),
            },
        })
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        self.each_entry(&*self.node_as(directory, NodeKind::Directory)?, visit)
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        let found = self.find(&*self.node_as(directory, NodeKind::Directory)?, name)?;
        Ok(found.map(node_id))
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let node = self.node_as(file, NodeKind::File)?;
        let data = self.data(&node)?;
        match node.meaning {
            Meaning::Elsewhere(what) => Err(unreadable(what)),
            Meaning::Packed(packing) => {
                let len = data.map_or(0, |data| data.len);
                self.read_packed(&node, packing, len, at, buf)
            }
            _ => data.map_or(Ok(0), |data| self.read_content(&data, at, buf)),
        }
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let node = self.node_as(file, NodeKind::File)?;
        let data = self.data(&node)?;
        match node.meaning {
            Meaning::Elsewhere(what) => Err(unreadable(what)),
            Meaning::Packed(_) => {
                let left = data.map_or(0, |data| data.len).saturating_sub(at);
                Ok((left > 0).then_some(Extent { kind: ExtentKind::Data, len: ByteLen(left) }))
            }
            _ => data.map_or(Ok(None), |data| self.content_extent(&data, at)),
        }
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        let node = self.node_as(link, NodeKind::Symlink)?;
        match &node.meaning {
            Meaning::Link(target) => Ok(target.clone()),
            _ => unreachable!("what is no link has another kind"),
        }
    }

    fn extended_attributes(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        self.linux_attributes(&*self.node(node)?)
    }

    fn streams(&self, node: NodeId) -> Result<Vec<(String, u64)>, GuestError> {
        let node = self.node(node)?;
        let mut streams = Vec::new();
        for place in node.places.iter().filter(|place| place.kind == kind::DATA && place.start == 0) {
            let name = String::from_utf16_lossy(&place.name);
            let is_content = matches!(node.meaning, Meaning::Packed(_)) && name == wof::STREAM;
            if place.name.is_empty() || is_content {
                continue;
            }
            let len = self.content(&node, kind::DATA, &place.name)?.map_or(0, |content| content.len);
            streams.push((name, len));
        }
        streams.sort();
        Ok(streams)
    }

    fn read_stream(&self, node: NodeId, stream: &str, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let content = self.stream(&*self.node(node)?, stream)?;
        self.read_content(&content.ok_or(GuestError::NoSuchNode { node })?, at, buf)
    }
}

fn unreadable(what: &str) -> GuestError {
    GuestError::Unsupported { feature: format!("reading a file that is {what}") }
}
