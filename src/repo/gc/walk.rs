//! Everything that a backup needs: its maps from the root down, each part handed to a visitor that says whether to go on
//! below it. Memory is that of one node and one list.
//!
//! Not in here: what a visitor makes of it (`mark`).

use crate::repo::error::RepoError;
use crate::repo::ids::{BackupId, ChunkId};
use crate::repo::manifest::Manifest;
use crate::repo::map::{BadMap, ListEntry, MapShape, NODE_SEGMENTS, decode_ids, decode_list};
use crate::repo::seal::ChunkKind;
use crate::repo::{Repository, manifest};

/// What a manifest refers to; the rest of it would only take room.
pub struct Needs {
    backup: BackupId,
    machine: String,
    disks: Vec<(u64, ChunkId)>,
    files: Vec<(u64, Vec<ChunkId>)>,
}

/// Takes note of a chunk; whether to look at what it refers to.
pub type Visit<'v> = &'v mut dyn FnMut(ChunkKind, ChunkId, &dyn Fn() -> String) -> Result<bool, RepoError>;

impl Needs {
    /// What `manifest` refers to.
    pub fn of(manifest: &Manifest) -> Needs {
        Needs {
            backup: manifest.backup,
            machine: manifest.machine.clone(),
            disks: manifest.disks.iter().map(|disk| (disk.size, disk.root)).collect(),
            files: manifest.files.iter().map(|file| (file.len, file.segments.clone())).collect(),
        }
    }

    /// Visits every chunk that the backup refers to, parts of maps before what is below them. Zeros are no chunks.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] for a map that is none, [`RepoError::MissingChunk`], what `visit` says.
    pub fn visit(&self, repository: &Repository, visit: Visit<'_>) -> Result<(), RepoError> {
        let needed_by = || format!("backup {} of {}", self.backup, self.machine);
        let walk = Walk { repository, needed_by: &needed_by, object: manifest::object_name(self.backup).to_string() };
        for (size, root) in &self.disks {
            walk.disk(*size, *root, visit)?;
        }
        for (len, segments) in &self.files {
            let shape = walk.shape(*len)?;
            for (segment, list) in (0u64..).zip(segments) {
                walk.list(*list, shape.segment_len(segment), visit)?;
            }
        }
        Ok(())
    }
}

struct Walk<'a> {
    repository: &'a Repository,
    needed_by: &'a dyn Fn() -> String,
    object: String,
}

impl Walk<'_> {
    fn shape(&self, bytes: u64) -> Result<MapShape, RepoError> {
        MapShape::new(bytes).ok_or_else(|| self.damaged(&BadMap(format!("{bytes} bytes, beyond 128 TiB"))))
    }

    fn disk(&self, size: u64, root: ChunkId, visit: Visit<'_>) -> Result<(), RepoError> {
        let shape = self.shape(size)?;
        let Some(nodes) = self.part(root, visit)? else { return Ok(()) };
        let nodes = decode_ids(&nodes, shape.nodes()).map_err(|error| self.damaged(&error))?;
        for (node, id) in (0u64..).zip(nodes) {
            let Some(lists) = self.part(id, visit)? else { continue };
            let lists = decode_ids(&lists, shape.segments_in_node(node)).map_err(|error| self.damaged(&error))?;
            for (segment, list) in (node * NODE_SEGMENTS..).zip(lists) {
                self.list(list, shape.segment_len(segment), visit)?;
            }
        }
        Ok(())
    }

    fn list(&self, id: ChunkId, segment_len: usize, visit: Visit<'_>) -> Result<(), RepoError> {
        let Some(list) = self.part(id, visit)? else { return Ok(()) };
        for entry in decode_list(&list, segment_len).map_err(|error| self.damaged(&error))? {
            if let ListEntry::Chunk(chunk, _) = entry {
                visit(ChunkKind::Data, chunk, self.needed_by)?;
            }
        }
        Ok(())
    }

    /// The bytes of a part of the map, if it is to be looked into.
    fn part(&self, id: ChunkId, visit: Visit<'_>) -> Result<Option<Vec<u8>>, RepoError> {
        if id == ChunkId::ZERO || !visit(ChunkKind::Map, id, self.needed_by)? {
            return Ok(None);
        }
        self.repository.read_chunk(id, self.needed_by).map(Some)
    }

    fn damaged(&self, error: &BadMap) -> RepoError {
        RepoError::Damaged {
            object: self.object.clone(),
            field: "disk map",
            at: 0,
            expected: "a map that adds up".to_owned(),
            found: error.to_string(),
        }
    }
}
