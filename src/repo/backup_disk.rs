//! A disk as a backup recorded it: the repository's [`Disk`]. Reads are verified down to the chunk ids.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Repository;
use super::chunks::{Keep, LIST_BYTES_AHEAD, PACKS_AHEAD};
use super::error::RepoError;
use super::ids::ChunkId;
use super::index::PackRow;
use super::manifest::Manifest;
use super::map::{ListEntry, MapShape, NODE_SEGMENTS, decode_ids, decode_list};
use super::pack::PlainBlob;
use super::seal::ChunkKind;
use super::segment_list::SegmentList;
use crate::chunker::{SEGMENT_BYTES, is_zero};
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::units::{ByteLen, GuestOffset};

/// Segments read lately that are remembered: those of a few readers, or of one who goes to and fro.
const SEGMENTS_REMEMBERED: usize = 8;

/// One disk of a backup.
pub struct BackupDisk {
    repository: Arc<Repository>,
    /// What messages call it: `web1 scsi0:0 of backup 1234…`.
    title: String,
    shape: MapShape,
    nodes: Vec<ChunkId>,
    read_lately: ReadLately,
}

impl BackupDisk {
    /// Opens disk number `number` of a backup; reads its map's root.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if the root is none for a disk of that size.
    pub fn open(repository: Arc<Repository>, manifest: &Manifest, number: usize) -> Result<BackupDisk, RepoError> {
        let record = manifest.disks.get(number).ok_or_else(|| RepoError::UnknownBackup {
            wanted: format!("disk {number} of {}", manifest.machine),
            candidates: manifest.disks.iter().map(|disk| disk.slot.clone()).collect(),
        })?;
        let title = format!("{} of {} ({})", record.slot, manifest.machine, manifest.backup);
        let damaged = |found: String| RepoError::Damaged {
            object: super::manifest::object_name(manifest.backup).to_string(),
            field: "disk map",
            at: 0,
            expected: format!("the map of a disk of {} bytes", record.size),
            found,
        };
        let shape = MapShape::new(record.size).ok_or_else(|| damaged("a size beyond 128 TiB".to_owned()))?;
        let count = usize::try_from(shape.nodes()).expect("at most 32768 nodes");
        let nodes = if record.root == ChunkId::ZERO {
            vec![ChunkId::ZERO; count]
        } else {
            let root = repository.read_chunk(record.root, &|| title.clone())?;
            decode_ids(&root, shape.nodes()).map_err(|error| damaged(error.to_string()))?
        };
        Ok(BackupDisk { repository, title, shape, nodes, read_lately: ReadLately::new() })
    }

    /// How the disk is divided.
    pub fn shape(&self) -> MapShape {
        self.shape
    }

    /// The ids of its nodes; [`ChunkId::ZERO`] for all zeros.
    pub fn nodes(&self) -> &[ChunkId] {
        &self.nodes
    }

    /// The list ids of node `node`; [`ChunkId::ZERO`] for segments of zeros.
    ///
    /// # Errors
    /// [`RepoError::MissingChunk`], [`RepoError::Damaged`], [`RepoError::Store`].
    pub fn node(&self, node: u64) -> Result<Arc<Vec<ChunkId>>, RepoError> {
        let id = self.nodes[usize::try_from(node).expect("a node of this disk")];
        let count = self.shape.segments_in_node(node);
        if id == ChunkId::ZERO {
            return Ok(Arc::new(vec![ChunkId::ZERO; usize::try_from(count).expect("at most 1024")]));
        }
        let ids = self.repository.read.nodes.get_or_insert_with(&id, || {
            let bytes = self.repository.read_chunk(id, &|| self.title.clone())?;
            decode_ids(&bytes, count).map(Arc::new).map_err(|error| self.damaged(id, &error.to_string()))
        })?;
        // Disks of different sizes may name one node.
        if ids.len() as u64 == count { Ok(ids) } else { Err(self.damaged(id, &format!("{} ids", ids.len()))) }
    }

    /// The list id of segment `segment`.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn list_id(&self, segment: u64) -> Result<ChunkId, RepoError> {
        let node = self.node(segment / NODE_SEGMENTS)?;
        Ok(node[usize::try_from(segment % NODE_SEGMENTS).expect("below 1024")])
    }

    /// What segment `segment` is made of.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn list(&self, segment: u64) -> Result<Arc<SegmentList>, RepoError> {
        let id = self.list_id(segment)?;
        let len = self.shape.segment_len(segment);
        if id == ChunkId::ZERO {
            return Ok(Arc::new(SegmentList::new(vec![ListEntry::Zero(len as u32)]))); // a segment is 4 MiB
        }
        let list = self.repository.read.lists.get_or_insert_with(&id, || {
            let bytes = self.repository.read_chunk(id, &|| self.title.clone())?;
            let entries = decode_list(&bytes, len).map_err(|error| self.damaged(id, &error.to_string()))?;
            Ok::<_, RepoError>(Arc::new(SegmentList::new(entries)))
        })?;
        // The last segment of a smaller disk may name the list of a whole one.
        if list.covered() == len { Ok(list) } else { Err(self.damaged(id, &format!("{} bytes", list.covered()))) }
    }

    fn damaged(&self, id: ChunkId, found: &str) -> RepoError {
        RepoError::Damaged {
            object: format!("map chunk {id} of {}", self.title),
            field: "disk map",
            at: 0,
            expected: "a list that adds up".to_owned(),
            found: found.to_owned(),
        }
    }

    /// Looks up what scattered reads must look up first: lists from the disk's beginning on, as many as are kept, and the
    /// packs of their first chunks. Faults are left to whoever reads there; at the first in the map it ends.
    pub fn prepare(&self, is_wanted: &dyn Fn() -> bool) {
        let mut room = LIST_BYTES_AHEAD;
        let mut packs = BTreeSet::new();
        for node in (0..self.shape.nodes()).filter(|node| self.nodes[*node as usize] != ChunkId::ZERO) {
            let Ok(ids) = self.node(node) else { return };
            for (segment, _) in (node * NODE_SEGMENTS..).zip(ids.iter()).filter(|(_, id)| **id != ChunkId::ZERO) {
                let Some(list) = self.list(segment).ok().filter(|_| is_wanted()) else { return };
                let Some(left) = room.checked_sub(list.weight()) else { return };
                room = left;
                if packs.len() < PACKS_AHEAD {
                    packs.extend(self.find_first_chunk(&list));
                }
            }
        }
    }

    /// The pack of a list's first chunk, which the list remembers.
    fn find_first_chunk(&self, list: &SegmentList) -> Option<PackRow> {
        let (number, id, len) = list.entries().iter().enumerate().find_map(|(number, entry)| match entry {
            ListEntry::Chunk(id, len) => Some((number, *id, *len)),
            ListEntry::Zero(_) => None,
        })?;
        let found = self.repository.find_chunk(id).ok()??;
        if found.place.len == len {
            list.remember(number, found.row, found.place);
        }
        Some(found.row)
    }

    /// Fills `buf` with the bytes of `segment` from `skip` on.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn read_segment(&self, segment: u64, skip: usize, buf: &mut [u8]) -> Result<(), RepoError> {
        if buf.is_empty() {
            return Ok(());
        }
        let list = self.list(segment)?;
        let (mut number, mut range) = list.entry_at(skip);
        let is_near = self.read_lately.note(segment);
        let keep = if is_near || range.end - skip < buf.len() { Keep::Blob } else { Keep::Chunk };
        let mut filled = 0;
        loop {
            let from = skip + filled;
            let len = (range.end - from).min(buf.len() - filled);
            let target = &mut buf[filled..filled + len];
            match list.entries()[number] {
                ListEntry::Zero(_) => target.fill(0),
                ListEntry::Chunk(id, _) => {
                    let (blob, at) = self.blob_of(&list, number, id, keep)?;
                    let chunk = blob.chunk(self.repository.keys(), id, at)?;
                    let skipped = from - range.start;
                    target.copy_from_slice(&chunk[skipped..skipped + len]);
                }
            }
            filled += len;
            if filled == buf.len() {
                return Ok(());
            }
            number += 1;
            range = range.end..range.end + list.entries()[number].len() as usize;
        }
    }

    /// Whether `bytes`, all of segment `segment`, are what was recorded. Only the list is read: ids are compared.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn holds(&self, segment: u64, bytes: &[u8]) -> Result<bool, RepoError> {
        let list = self.list(segment)?;
        let mut at = 0usize;
        Ok(list.entries().iter().all(|entry| {
            let part = &bytes[at..at + entry.len() as usize];
            at += part.len();
            self.entry_is(*entry, part)
        }))
    }

    /// Whether `bytes` are what the list entry `entry` stands for.
    pub fn entry_is(&self, entry: ListEntry, bytes: &[u8]) -> bool {
        match entry {
            ListEntry::Zero(_) => is_zero(bytes),
            ListEntry::Chunk(id, _) => self.repository.keys().chunk_id(ChunkKind::Data, bytes) == id,
        }
    }

    /// The blob that holds the chunk of entry `number`, and where the chunk begins in it. Neighbours mostly lie in one
    /// pack: the one found last is asked before the index is.
    fn blob_of(
        &self,
        list: &SegmentList,
        number: usize,
        id: ChunkId,
        keep: Keep,
    ) -> Result<(Arc<PlainBlob>, u32), RepoError> {
        if let Some((row, place)) = list.place(number)
            && let Some(blob) = self.repository.blob_at(row, place, keep)?
        {
            return Ok((blob, place.at));
        }
        let near_by = match list.last_row() {
            Some(row) => self.repository.find_in_pack(row, id)?.map(|place| (row, place)),
            None => None,
        };
        // If it is damaged there, the index may know a sound copy elsewhere; if not, the same error comes again.
        let blob = near_by.and_then(|(row, place)| self.repository.blob_at(row, place, keep).ok().flatten());
        let (row, place, blob) = match (near_by, blob) {
            (Some((row, place)), Some(blob)) => (row, place, blob),
            _ => {
                let (found, blob) = self.repository.fetch(id, keep, &|| self.title.clone())?;
                (found.row, found.place, blob)
            }
        };
        let len = list.entries()[number].len();
        if place.len != len {
            return Err(self.damaged(id, &format!("{len} bytes for a chunk of {}", place.len)));
        }
        list.remember(number, row, place);
        Ok((blob, place.at))
    }
}

/// Where a disk was read lately: a read near by is probably one of many.
struct ReadLately {
    /// Numbers of segments; `u64::MAX`, which none has and none is near to, before that.
    segments: [AtomicU64; SEGMENTS_REMEMBERED],
    next: AtomicUsize,
}

impl ReadLately {
    fn new() -> ReadLately {
        ReadLately { segments: [const { AtomicU64::new(u64::MAX) }; SEGMENTS_REMEMBERED], next: AtomicUsize::new(0) }
    }

    /// Notes a read of `segment`; whether it is one of those read lately, or beside one.
    fn note(&self, segment: u64) -> bool {
        let nearest = self.segments.iter().map(|known| known.load(Ordering::Relaxed).abs_diff(segment)).min();
        if nearest != Some(0) {
            let next = self.next.fetch_add(1, Ordering::Relaxed) % SEGMENTS_REMEMBERED;
            self.segments[next].store(segment, Ordering::Relaxed);
        }
        nearest.is_some_and(|distance| distance <= 1)
    }
}

impl Disk for BackupDisk {
    fn size(&self) -> ByteLen {
        ByteLen(self.shape.disk_bytes())
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let segment_bytes = SEGMENT_BYTES as u64;
        let mut at = at.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let (segment, skip) = (at / segment_bytes, (at % segment_bytes) as usize);
            let len = rest.len().min(SEGMENT_BYTES - skip);
            let (now, later) = rest.split_at_mut(len);
            self.read_segment(segment, skip, now).map_err(backing)?;
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        let left = check_inside(self.size(), at)?;
        let segment_bytes = SEGMENT_BYTES as u64;
        let (segment, skip) = (at.0 / segment_bytes, at.0 % segment_bytes);
        if self.nodes[usize::try_from(segment / NODE_SEGMENTS).expect("at most 32768")] == ChunkId::ZERO {
            let node_bytes = NODE_SEGMENTS * segment_bytes;
            let len = left.min(ByteLen(node_bytes - at.0 % node_bytes));
            return Ok(Extent { kind: ExtentKind::Hole, len });
        }
        let list = self.list(segment).map_err(backing)?;
        let (number, range) = list.entry_at(usize::try_from(skip).expect("below 4 MiB"));
        let zero = matches!(list.entries()[number], ListEntry::Zero(_));
        let kind = if zero { ExtentKind::Hole } else { ExtentKind::Data };
        Ok(Extent { kind, len: left.min(ByteLen(range.end as u64 - skip)) })
    }
}

fn backing(error: RepoError) -> DiskError {
    DiskError::Backing(Box::new(error))
}
