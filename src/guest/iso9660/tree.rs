//! The volume as the house's [`FileSystem`].
//!
//! A node is the place of its directory record. A directory has many (in its parent, in itself, in each child): the one
//! that counts is its own first. So hard links are nodes of their own, as for Linux, and a directory met twice is one node.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::directory::{self, Records, Section};
use super::record::{self, Record};
use super::rock_ridge::{self, RockRidge};
use super::volume::Volume;
use super::{corrupt, date, descriptors, names, susp, unsupported};
use crate::disk::{Disk, Extent, ExtentKind};
use crate::guest::tree::{Entry, FileSystem, Metadata, NodeId, NodeKind, Summary};
use crate::guest::{GuestError, detect};
use crate::units::ByteLen;

/// An ISO 9660 volume, open for reading.
pub struct Iso9660 {
    volume: Volume,
    root: u64,
    summary: Summary,
}

/// Opens the ISO 9660 that begins where `disk` begins.
///
/// # Errors
/// [`GuestError::Corrupt`] if there is none, or its descriptors or root directory are damaged.
pub fn open(disk: Arc<dyn Disk>) -> Result<Iso9660, GuestError> {
    let found = descriptors::read(disk.as_ref())?;
    let content = detect::detect(disk.as_ref())?;
    let size = u64::from(found.blocks) * found.block_bytes;
    let mut warnings = Vec::new();
    if size > disk.size().0 {
        warnings.push(format!("the volume ends before its filesystem does: it has {} of {size} bytes", disk.size()));
    }
    if found.has_udf {
        warnings.push("it has a UDF filesystem too, which may hold other files; that is not read".to_string());
    }
    let summary = Summary {
        kind: "iso9660",
        label: content.label,
        uuid: content.uuid,
        size,
        block_size: u32::try_from(found.block_bytes).expect("at most 2 KiB"),
        warnings,
    };
    let mut volume = Volume::new(disk, found.block_bytes);
    let mut root = found.root;
    let first = first_record(&volume, root)?;
    if let Some(skip) = susp::skip(&first)
        && rock_ridge::is_there(&susp::fields(&volume, &first, skip)?)
    {
        volume.rock_ridge = Some(skip);
    } else if let Some(joliet_root) = found.joliet_root {
        volume.joliet = true;
        root = joliet_root;
        first_record(&volume, root)?;
    }
    Ok(Iso9660 { volume, root, summary })
}

/// The first record of the directory whose content lies at `at`: its own.
fn first_record(volume: &Volume, at: u64) -> Result<Record, GuestError> {
    match record::read(volume, at)? {
        Some(record) => own(record),
        None => Err(corrupt("first record of a directory", at, "the directory itself", "nothing")),
    }
}

/// Refuses what is not a directory's own record.
fn own(record: Record) -> Result<Record, GuestError> {
    if record.name == [0] && record.is_directory() && record.content == record.at {
        return Ok(record);
    }
    let found = format!("{} bytes at {:#x}", record.size, record.content);
    Err(corrupt("first record of a directory", record.at, "the directory itself", found))
}

/// A record and what Rock Ridge adds.
struct Node {
    record: Record,
    kind: NodeKind,
    rock_ridge: RockRidge,
}

impl Iso9660 {
    fn node(&self, node: NodeId) -> Result<Node, GuestError> {
        match record::read(&self.volume, node.number)? {
            _ if node.tree != 0 => Err(GuestError::NoSuchNode { node }),
            Some(record) if record.is_directory() || record.is_dot() => self.node_of(own(record)?),
            Some(record) => self.node_of(record),
            None => Err(corrupt("directory record", node.number, "a record", "nothing")),
        }
    }

    fn node_of(&self, record: Record) -> Result<Node, GuestError> {
        let rock_ridge = match self.volume.rock_ridge {
            Some(skip) => rock_ridge::read(&susp::fields(&self.volume, &record, skip)?)?,
            None => RockRidge::default(),
        };
        let by_flag = if record.is_directory() { NodeKind::Directory } else { NodeKind::File };
        let kind = match rock_ridge.posix {
            Some(posix) => match kind_of_mode(posix.mode) {
                // What stands in for a relocated directory looks like a file.
                Some(NodeKind::Directory) if rock_ridge.child.is_some() => NodeKind::Directory,
                Some(kind) if (kind == NodeKind::Directory) == record.is_directory() => kind,
                _ => {
                    let found = format!("{:#o}", posix.mode);
                    return Err(corrupt("mode (PX)", record.at, format!("that of {}", by_flag.noun()), found));
                }
            },
            None => by_flag,
        };
        Ok(Node { record, kind, rock_ridge })
    }

    fn node_as(&self, node: NodeId, kind: NodeKind) -> Result<Node, GuestError> {
        let node = self.node(node)?;
        if node.kind == kind {
            return Ok(node);
        }
        Err(GuestError::WrongKind { expected: kind.noun(), found: node.kind.noun() })
    }

    /// Pieces of a file, and their length together.
    fn sections(&self, record: &Record) -> Result<(Vec<Section>, u64), GuestError> {
        let sections = directory::sections(&self.volume, record)?;
        let size = sections.iter().map(|section| section.len).sum();
        Ok((sections, size))
    }

    /// The node that a record in a directory names; a directory by its own first record.
    fn named(&self, directory: u64, node: &Node) -> Result<NodeId, GuestError> {
        let number = match node.rock_ridge.child {
            Some(block) => u64::from(block) * self.volume.block_bytes,
            None if node.kind == NodeKind::Directory => node.record.content,
            None => return Ok(NodeId { tree: 0, number: node.record.at }),
        };
        if number == directory || number == self.root {
            return Err(corrupt(
                "directory record",
                node.record.at,
                "a directory below this one",
                "this one or the root",
            ));
        }
        Ok(NodeId { tree: 0, number })
    }

    fn name(&self, node: &Node) -> Result<Vec<u8>, GuestError> {
        let name = match &node.rock_ridge.name {
            Some(name) => name.clone(),
            None if self.volume.joliet => names::joliet(&node.record.name),
            None => names::plain(&node.record.name),
        };
        let is_name = !matches!(&name[..], b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
        if is_name {
            return Ok(name);
        }
        let found = format!("{:?}", String::from_utf8_lossy(&name));
        Err(corrupt("name", node.record.at, "one or more bytes without / and NUL", found))
    }
}

fn kind_of_mode(mode: u32) -> Option<NodeKind> {
    Some(match mode >> 12 {
        0o01 => NodeKind::Fifo,
        0o02 => NodeKind::CharacterDevice,
        0o04 => NodeKind::Directory,
        0o06 => NodeKind::BlockDevice,
        0o10 => NodeKind::File,
        0o12 => NodeKind::Symlink,
        0o14 => NodeKind::Socket,
        _ => return None,
    })
}

impl FileSystem for Iso9660 {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        NodeId { tree: 0, number: self.root }
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let Node { record, kind, rock_ridge } = self.node(node)?;
        let stored = match kind {
            NodeKind::File => self.sections(&record)?.1,
            NodeKind::Directory => record.size.into(),
            _ => 0,
        };
        let size = match (kind, &rock_ridge.target, rock_ridge.compressed) {
            (NodeKind::Symlink, target, _) => target.as_ref().map_or(0, Vec::len) as u64,
            (NodeKind::File, _, Some(compressed)) => compressed.size,
            _ => stored,
        };
        let recorded = date::short(&record.date);
        let is_device = matches!(kind, NodeKind::CharacterDevice | NodeKind::BlockDevice);
        let posix = rock_ridge.posix;
        Ok(Metadata {
            kind,
            size,
            allocated: stored.next_multiple_of(512),
            // Without Rock Ridge all is readable and might be a program.
            mode: posix.map_or(0o555, |posix| u16::try_from(posix.mode & 0o7777).expect("12 bits")),
            uid: posix.map_or(0, |posix| posix.uid),
            gid: posix.map_or(0, |posix| posix.gid),
            links: posix.map_or(1, |posix| posix.links),
            device: rock_ridge.device.filter(|_| is_device),
            modified: rock_ridge.modified.unwrap_or(recorded),
            accessed: rock_ridge.accessed.unwrap_or(recorded),
            changed: rock_ridge.changed.or(rock_ridge.created).unwrap_or(recorded),
            created: rock_ridge.created,
            attributes: None,
            special: None,
        })
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        let own = self.node_as(directory, NodeKind::Directory)?.record;
        let mut records = Records::of(&self.volume, &own)?;
        let mut is_continued = false;
        while let Some(record) = records.next()? {
            let is_piece = std::mem::replace(&mut is_continued, record.has_more_sections());
            if record.is_dot() || record.is_associated() || is_piece {
                continue;
            }
            let node = self.node_of(record)?;
            if node.rock_ridge.relocated {
                continue;
            }
            let kind = if node.rock_ridge.child.is_some() { NodeKind::Directory } else { node.kind };
            let (name, number) = (self.name(&node)?, self.named(directory.number, &node)?);
            if visit(Entry { name: &name, node: number, kind: Some(kind) }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        let (mut exact, mut alike) = (None, None);
        self.read_directory(directory, &mut |entry| {
            if entry.name == name {
                exact = Some(entry.node);
                return ControlFlow::Break(());
            }
            if alike.is_none() && entry.name.eq_ignore_ascii_case(name) {
                alike = Some(entry.node);
            }
            ControlFlow::Continue(())
        })?;
        // Names of Rock Ridge are what they are; all others are the same in small and in capital letters.
        Ok(exact.or(alike.filter(|_| self.volume.rock_ridge.is_none())))
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let Node { record, rock_ridge, .. } = self.node_as(file, NodeKind::File)?;
        if record.interleaved {
            return Err(unsupported("a file in pieces with gaps (interleaved)"));
        }
        if rock_ridge.sparse {
            return Err(unsupported("a sparse file of Rock Ridge (SF)"));
        }
        let (sections, stored) = self.sections(&record)?;
        let size = rock_ridge.compressed.map_or(stored, |compressed| compressed.size);
        let len = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        if len == 0 {
            return Ok(0);
        }
        let mut buf = &mut buf[..len];
        match (rock_ridge.compressed, &sections[..]) {
            (Some(compressed), [section]) => compressed.read_at(&self.volume, *section, at, buf)?,
            (Some(_), _) => return Err(unsupported("a compressed file in several pieces")),
            (None, _) => {
                let mut start = 0;
                for section in sections {
                    let skip = at.max(start) - start;
                    start += section.len;
                    if skip >= section.len || buf.is_empty() {
                        continue;
                    }
                    let now = usize::try_from(section.len - skip).unwrap_or(usize::MAX).min(buf.len());
                    self.volume.check("content of a file", section.at + skip, now as u64)?;
                    let (target, rest) = buf.split_at_mut(now);
                    self.volume.read(section.at + skip, target)?;
                    buf = rest;
                }
            }
        }
        Ok(len)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        self.node_as(file, NodeKind::File)?;
        let left = self.metadata(file)?.size.saturating_sub(at);
        // The format has no holes: zeros are stored.
        Ok((left > 0).then_some(Extent { kind: ExtentKind::Data, len: ByteLen(left) }))
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        let node = self.node_as(link, NodeKind::Symlink)?;
        let missing = || corrupt("link target (SL)", node.record.at, "a target", "none");
        node.rock_ridge.target.ok_or_else(missing)
    }
}
