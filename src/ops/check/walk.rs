//! The backups' maps, walked from the root down: which ranges of which disks are lost.
//!
//! Lists and nodes that are found whole are not looked at again, and what others miss is remembered: backups share most of
//! their maps, and ten thousand of them are walked in seconds.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::ops::OpsError;
use crate::ops::event::Control;
use crate::repo::gc::trash;
use crate::repo::ids::{ChunkId, PackId};
use crate::repo::manifest::{FileRecord, Manifest};
use crate::repo::map::{ListEntry, MapShape, NODE_SEGMENTS, decode_ids, decode_list};
use crate::repo::pack::ChunkPlace;
use crate::repo::pack::reader::OpenPack;
use crate::repo::salvage::{Remains, is_of_object, twice};
use crate::repo::seal::ChunkKind;
use crate::repo::{RepoError, Repository};

/// Lost chunks that are remembered by their ids, 32 MiB; of more it is only known that they are many.
const MISSING_KEPT: usize = 1 << 20;

/// Lists with holes that are remembered; more are looked at again for each backup.
const LISTS_KEPT: usize = 1 << 18;

/// Where a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be read; so many bytes.
    Sound(u32),
    /// It is whole, in a place where nobody reads it until a repair has moved it.
    Aside(u32),
    /// It is nowhere.
    Missing,
}

/// What a disk, or a file, misses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    /// What is lost, in order, neighbours joined.
    pub lost: Vec<Range<u64>>,
    /// Something that is not lost can be read only after a repair.
    pub aside: bool,
}

impl Holes {
    fn add(&mut self, range: Range<u64>) {
        match self.lost.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.lost.push(range),
        }
    }

    fn add_all(&mut self, at: u64, below: &Holes) {
        self.aside |= below.aside;
        below.lost.iter().for_each(|range| self.add(at + range.start..at + range.end));
    }

    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && !self.aside
    }

    /// Bytes that are lost.
    pub fn bytes(&self) -> u64 {
        self.lost.iter().map(|range| range.end - range.start).sum()
    }
}

/// What a backup misses.
#[derive(Debug, Default)]
pub struct BackupHoles {
    /// By the disks' numbers.
    pub disks: Vec<Holes>,
    /// By the definition files' numbers.
    pub files: Vec<Holes>,
}

impl BackupHoles {
    fn all(&self) -> impl Iterator<Item = &Holes> {
        self.disks.iter().chain(&self.files)
    }

    /// Whether anything is missing.
    pub fn is_damaged(&self) -> bool {
        self.all().any(|holes| !holes.is_empty())
    }

    /// Whether nothing is lost for good.
    pub fn has_lost_nothing(&self) -> bool {
        self.all().all(|holes| holes.lost.is_empty())
    }

    /// Whether all that is missing is only aside.
    pub fn is_only_aside(&self) -> bool {
        self.is_damaged() && self.has_lost_nothing()
    }
}

/// A walk over backups.
pub struct Walk<'a> {
    repository: &'a Arc<Repository>,
    remains: HashMap<PackId, &'a Remains>,
    /// Roots, nodes and lists found whole.
    good: HashSet<ChunkId>,
    /// What the other lists miss.
    lists: HashMap<(ChunkId, usize), Arc<Holes>>,
    /// The packs that the last data and map chunk were found in: neighbours mostly lie in one.
    near: [Option<Arc<OpenPack>>; 2],
    missing: HashSet<ChunkId>,
    newly_bad: HashSet<PackId>,
    chunks: u64,
    /// The index was built anew because something was missing: it is not the index that hides it.
    searched: bool,
    /// First bytes of the ids of all chunks in the trash.
    trash: Option<HashSet<u64>>,
}

impl<'a> Walk<'a> {
    /// Begins; `remains` are the packs that cannot be relied on.
    pub fn new(repository: &'a Arc<Repository>, remains: &'a [Remains]) -> Walk<'a> {
        Walk {
            repository,
            remains: remains.iter().map(|remains| (remains.id, remains)).collect(),
            good: HashSet::new(),
            lists: HashMap::new(),
            near: [None, None],
            missing: HashSet::new(),
            newly_bad: HashSet::new(),
            chunks: 0,
            searched: false,
            trash: None,
        }
    }

    /// Chunks of data that lists refer to, each counted once a list.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Chunks that are nowhere, as far as they fit in memory; `None` if they do not.
    pub fn missing(&self) -> Option<&HashSet<ChunkId>> {
        (self.missing.len() < MISSING_KEPT).then_some(&self.missing)
    }

    /// Packs that something could not be read from although they were not known to be damaged.
    pub fn take_newly_bad(&mut self) -> HashSet<PackId> {
        std::mem::take(&mut self.newly_bad)
    }

    /// What a backup misses.
    ///
    /// # Errors
    /// [`OpsError::Interrupted`]; what the index says.
    pub fn backup(&mut self, manifest: &Manifest, control: Control<'_>) -> Result<BackupHoles, OpsError> {
        let mut holes = BackupHoles::default();
        for disk in &manifest.disks {
            if control.interrupted() {
                return Err(OpsError::Interrupted);
            }
            holes.disks.push(self.disk(disk.size, disk.root)?);
        }
        for file in &manifest.files {
            holes.files.push(self.file(file)?);
        }
        Ok(holes)
    }

    fn disk(&mut self, size: u64, root: ChunkId) -> Result<Holes, RepoError> {
        let mut holes = Holes::default();
        if root == ChunkId::ZERO || self.good.contains(&root) {
            return Ok(holes);
        }
        let Some(shape) = MapShape::new(size) else {
            holes.add(0..size);
            return Ok(holes);
        };
        let Some(nodes) = self.ids(root, shape.nodes(), &mut holes)? else {
            holes.add(0..size);
            return Ok(holes);
        };
        let node_bytes = NODE_SEGMENTS * shape.segment_at(1);
        for (node, id) in (0u64..).zip(nodes) {
            if id == ChunkId::ZERO || self.good.contains(&id) {
                continue;
            }
            let at = node * node_bytes;
            let mut below = Holes::default();
            match self.ids(id, shape.segments_in_node(node), &mut below)? {
                None => below.add(0..node_bytes.min(size - at)),
                Some(lists) => {
                    for (segment, list) in (node * NODE_SEGMENTS..).zip(lists) {
                        let in_node = shape.segment_at(segment) - at;
                        let list = self.list(list, shape.segment_len(segment))?;
                        below.add_all(in_node, &list);
                    }
                }
            }
            if below.is_empty() {
                self.good.insert(id);
            }
            holes.add_all(at, &below);
        }
        if holes.is_empty() {
            self.good.insert(root);
        }
        Ok(holes)
    }

    /// What a definition file misses.
    pub fn file(&mut self, file: &FileRecord) -> Result<Holes, RepoError> {
        let mut holes = Holes::default();
        let shape = MapShape::new(file.len).filter(|shape| shape.segments() == file.segments.len() as u64);
        let Some(shape) = shape else {
            holes.add(0..file.len.max(1));
            return Ok(holes);
        };
        for (segment, list) in (0u64..).zip(&file.segments) {
            let below = self.list(*list, shape.segment_len(segment))?;
            holes.add_all(shape.segment_at(segment), &below);
        }
        Ok(holes)
    }

    /// What the segment of this list misses.
    pub fn list(&mut self, id: ChunkId, segment_len: usize) -> Result<Arc<Holes>, RepoError> {
        if id == ChunkId::ZERO || self.good.contains(&id) {
            return Ok(Arc::default());
        }
        if let Some(known) = self.lists.get(&(id, segment_len)) {
            return Ok(Arc::clone(known));
        }
        let mut holes = Holes::default();
        let bytes = self.map(id, &mut holes)?;
        match bytes.and_then(|bytes| decode_list(&bytes, segment_len).ok()) {
            None => holes.add(0..segment_len as u64),
            Some(entries) => {
                let mut at = 0;
                for entry in entries {
                    let end = at + u64::from(entry.len());
                    if let ListEntry::Chunk(chunk, len) = entry {
                        self.chunks += 1;
                        match self.standing(ChunkKind::Data, chunk)? {
                            Standing::Sound(found) if found == len => {}
                            Standing::Aside(found) if found == len => holes.aside = true,
                            _ => holes.add(at..end),
                        }
                    }
                    at = end;
                }
            }
        }
        if holes.is_empty() {
            self.good.insert(id);
            return Ok(Arc::default());
        }
        let holes = Arc::new(holes);
        if self.lists.len() < LISTS_KEPT {
            self.lists.insert((id, segment_len), Arc::clone(&holes));
        }
        Ok(holes)
    }

    /// The ids in a root or node; `None` if it is lost or is none.
    fn ids(&mut self, id: ChunkId, count: u64, holes: &mut Holes) -> Result<Option<Vec<ChunkId>>, RepoError> {
        Ok(self.map(id, holes)?.and_then(|bytes| decode_ids(&bytes, count).ok()))
    }

    /// The bytes of a part of a map; `None` if it is lost.
    pub fn map(&mut self, id: ChunkId, holes: &mut Holes) -> Result<Option<Vec<u8>>, RepoError> {
        match self.standing(ChunkKind::Map, id)? {
            Standing::Missing => Ok(None),
            Standing::Aside(_) => {
                holes.aside = true;
                Ok(self.remains.values().find_map(|pack| pack.read(self.repository, id).ok().flatten()))
            }
            Standing::Sound(_) => match twice(|| self.repository.read_chunk(id, &|| "a backup".to_owned())) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if is_of_object(self.repository, &error) => {
                    // Its pack was taken for sound, as only its directory had been read.
                    if let Some((pack, _)) = self.find(ChunkKind::Map, id)? {
                        self.newly_bad.insert(pack);
                    }
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Where a chunk stands.
    ///
    /// # Errors
    /// What index and store say.
    pub fn standing(&mut self, kind: ChunkKind, id: ChunkId) -> Result<Standing, RepoError> {
        let found = self.find(kind, id)?;
        if let Some(standing) = found.and_then(|(pack, place)| self.judge(pack, place)) {
            return Ok(standing);
        }
        if found.is_none() && !self.searched {
            // An index that is merely wrong must not pass for a loss.
            self.searched = true;
            self.repository.rebuild_index(&mut |_| {})?;
            self.near = [None, None];
            return self.standing(kind, id);
        }
        if let Some(place) = self.remains.values().find_map(|remains| remains.find(id)) {
            return Ok(Standing::Aside(place.len));
        }
        if self.is_perhaps_in_trash(id)?
            && let Some(found) = self.repository.find_in_trash(id)?
        {
            return Ok(Standing::Sound(found.place.len));
        }
        if self.missing.len() < MISSING_KEPT {
            self.missing.insert(id);
        }
        Ok(Standing::Missing)
    }

    /// The chunk's standing in the pack that the index names; `None` if that pack does not give it back.
    fn judge(&self, pack: PackId, place: ChunkPlace) -> Option<Standing> {
        match self.remains.get(&pack) {
            Some(remains) if !remains.is_sound(place.blob) => None,
            _ => Some(Standing::Sound(place.len)),
        }
    }

    fn find(&mut self, kind: ChunkKind, id: ChunkId) -> Result<Option<(PackId, ChunkPlace)>, RepoError> {
        let near = &mut self.near[usize::from(kind == ChunkKind::Map)];
        // A damaged pack is not asked first: another one may have what it lost.
        if let Some(pack) = near.as_ref().filter(|pack| !self.remains.contains_key(&pack.id))
            && let Some(place) = pack.directory.find(id)
        {
            return Ok(Some((pack.id, place)));
        }
        let Some(found) = self.repository.find_chunk(id)? else { return Ok(None) };
        let answer = (found.pack.id, found.place);
        *near = Some(found.pack);
        Ok(Some(answer))
    }

    fn is_perhaps_in_trash(&mut self, id: ChunkId) -> Result<bool, RepoError> {
        let first = |id: &ChunkId| u64::from_le_bytes(*id.0.first_chunk().expect("an id has 20 bytes"));
        if self.trash.is_none() {
            let (store, keys) = (self.repository.store(), self.repository.keys());
            let mut known = HashSet::new();
            for trashed in trash::list(store)? {
                let open = trash::open(store, keys, &trashed)?;
                known.extend(open.iter().flat_map(|pack| pack.directory.chunks()).map(|(id, _)| first(id)));
            }
            self.trash = Some(known);
        }
        Ok(self.trash.as_ref().is_some_and(|known| known.contains(&first(&id))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_holes_are_one() {
        let mut holes = Holes::default();
        holes.add(0..10);
        holes.add(10..20);
        holes.add(30..40);
        let mut above = Holes::default();
        above.add(90..100);
        above.add_all(100, &holes);
        assert_eq!(above.lost, [90..120, 130..140]);
        assert_eq!(above.bytes(), 40);
        assert!(!above.is_empty() && !above.aside);
    }
}
