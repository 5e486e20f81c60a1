//! A disk as a backup recorded it: the repository's [`Disk`]. Reads are verified down to the chunk ids.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::error::RepoError;
use super::ids::ChunkId;
use super::manifest::Manifest;
use super::map::{ListEntry, MapShape, decode_ids, decode_list};
use super::seal::ChunkKind;
use super::{FoundChunk, Repository};
use crate::chunker::{SEGMENT_BYTES, is_zero};
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::units::{ByteLen, GuestOffset};

/// Nodes kept: 32 KiB each.
const NODES_CACHED: usize = 64;
/// Segment lists kept: some 10 KiB each.
const LISTS_CACHED: usize = 256;

/// One disk of a backup.
pub struct BackupDisk {
    repository: Arc<Repository>,
    /// What messages call it: `web1 scsi0:0 of backup 1234…`.
    title: String,
    shape: MapShape,
    nodes: Vec<ChunkId>,
    node_cache: Cache<u64, Arc<Vec<ChunkId>>>,
    list_cache: Cache<u64, Arc<Vec<ListEntry>>>,
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
        let (node_cache, list_cache) = (Cache::new(NODES_CACHED), Cache::new(LISTS_CACHED));
        Ok(BackupDisk { repository, title, shape, nodes, node_cache, list_cache })
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
        self.node_cache.get_or_insert_with(&node, || {
            let id = self.nodes[usize::try_from(node).expect("a node of this disk")];
            let count = self.shape.segments_in_node(node);
            if id == ChunkId::ZERO {
                return Ok(Arc::new(vec![ChunkId::ZERO; usize::try_from(count).expect("at most 1024")]));
            }
            let bytes = self.repository.read_chunk(id, &|| self.title.clone())?;
            decode_ids(&bytes, count).map(Arc::new).map_err(|error| self.damaged(id, &error.to_string()))
        })
    }

    /// The list id of segment `segment`.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn list_id(&self, segment: u64) -> Result<ChunkId, RepoError> {
        use super::map::NODE_SEGMENTS;
        let node = self.node(segment / NODE_SEGMENTS)?;
        Ok(node[usize::try_from(segment % NODE_SEGMENTS).expect("below 1024")])
    }

    /// What segment `segment` is made of.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn list(&self, segment: u64) -> Result<Arc<Vec<ListEntry>>, RepoError> {
        self.list_cache.get_or_insert_with(&segment, || {
            let id = self.list_id(segment)?;
            let len = self.shape.segment_len(segment);
            if id == ChunkId::ZERO {
                return Ok(Arc::new(vec![ListEntry::Zero(len as u32)])); // a segment is 4 MiB
            }
            let bytes = self.repository.read_chunk(id, &|| self.title.clone())?;
            decode_list(&bytes, len).map(Arc::new).map_err(|error| self.damaged(id, &error.to_string()))
        })
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

    /// Fills `buf` with the bytes of `segment` from `skip` on.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn read_segment(&self, segment: u64, skip: usize, buf: &mut [u8]) -> Result<(), RepoError> {
        let list = self.list(segment)?;
        let mut current: Option<(FoundChunk, Arc<Vec<u8>>)> = None;
        let mut entry_at = 0usize;
        for entry in list.iter() {
            let entry_end = entry_at + entry.len() as usize;
            let from = entry_at.max(skip);
            let to = entry_end.min(skip + buf.len());
            if from < to {
                let target = &mut buf[from - skip..to - skip];
                match entry {
                    ListEntry::Zero(_) => target.fill(0),
                    ListEntry::Chunk(id, len) => {
                        self.fill_from_chunk(*id, *len, from - entry_at, target, &mut current)?;
                    }
                }
            }
            entry_at = entry_end;
            if entry_at >= skip + buf.len() {
                break;
            }
        }
        Ok(())
    }

    /// Whether `bytes`, all of segment `segment`, are what was recorded. Only the list is read: ids are compared.
    ///
    /// # Errors
    /// As [`BackupDisk::node`].
    pub fn holds(&self, segment: u64, bytes: &[u8]) -> Result<bool, RepoError> {
        let list = self.list(segment)?;
        let mut at = 0usize;
        Ok(list.iter().all(|entry| {
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

    /// Neighbouring chunks mostly lie in one blob: `current` keeps the last one at hand.
    fn fill_from_chunk(
        &self,
        id: ChunkId,
        len: u32,
        skip: usize,
        target: &mut [u8],
        current: &mut Option<(FoundChunk, Arc<Vec<u8>>)>,
    ) -> Result<(), RepoError> {
        let near = current.as_ref().and_then(|(found, _)| found.pack.directory.find(id).map(|place| (found, place)));
        let found = match near {
            Some((found, place)) => FoundChunk { row: found.row, pack: Arc::clone(&found.pack), place },
            None => self.repository.locate(id, &|| self.title.clone())?,
        };
        if found.place.len != len {
            let what = format!("{len} bytes for a chunk of {}", found.place.len);
            return Err(self.damaged(id, &what));
        }
        let blob = match current.take() {
            Some((before, blob)) if before.row == found.row && before.place.blob == found.place.blob => blob,
            _ => self.repository.blob(&found)?,
        };
        let from = found.place.at as usize + skip;
        target.copy_from_slice(&blob[from..from + target.len()]);
        *current = Some((found, blob));
        Ok(())
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
        if self.nodes[usize::try_from(segment / super::map::NODE_SEGMENTS).expect("at most 32768")] == ChunkId::ZERO {
            let node_bytes = super::map::NODE_SEGMENTS * segment_bytes;
            let len = left.min(ByteLen(node_bytes - at.0 % node_bytes));
            return Ok(Extent { kind: ExtentKind::Hole, len });
        }
        let list = self.list(segment).map_err(backing)?;
        let mut entry_at = 0u64;
        for entry in list.iter() {
            let end = entry_at + u64::from(entry.len());
            if skip < end {
                let kind = if matches!(entry, ListEntry::Zero(_)) { ExtentKind::Hole } else { ExtentKind::Data };
                return Ok(Extent { kind, len: left.min(ByteLen(end - skip)) });
            }
            entry_at = end;
        }
        // The list covers its segment, which holds `at`.
        Ok(Extent { kind: ExtentKind::Data, len: ByteLen(1) })
    }
}

fn backing(error: RepoError) -> DiskError {
    DiskError::Backing(Box::new(error))
}
