//! Walking the maps of all backups, so that every chunk gets to know who needs it.
//!
//! A part of a map is looked into again only when who needs it changes: at most three times, however many backups share it.
//! Memory is bounded: owners of data chunks are kept for so many chunks at once, and if there are more, the maps are walked
//! once for each part of the packs. Owners of the parts of maps, 12 bytes each, are kept throughout: one part stands for
//! 4 MiB of a disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::owners::{NUMBERS_MAX, Owner, Told};
use crate::ops::{Control, OpsError};
use crate::repo::ids::{ChunkId, PackId};
use crate::repo::manifest::Manifest;
use crate::repo::map::{BadMap, ListEntry, MapShape, NODE_SEGMENTS, decode_ids, decode_list};
use crate::repo::pack::Directory;
use crate::repo::pack::reader::OpenPack;
use crate::repo::seal::Kind;
use crate::repo::{FoundChunk, RepoError, Repository, manifest};

/// What looks into a part of a map, and gives the bytes of data below it.
type Below<'a, W> = dyn FnMut(&mut W, &[u8]) -> Result<u64, RepoError> + 'a;

/// Data chunks whose owners are known at once: 64 MiB, of about 256 GiB of disks.
pub const CHUNKS_AT_ONCE: usize = 16 << 20;

/// So many missing chunks are counted: 4 MiB.
const MISSING_MAX: usize = 100_000;

/// Bytes as they are on the guests' disks, and as they are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// On the disk.
    pub plain: u64,
    /// In the store: the chunk's share of its blob.
    pub stored: u64,
}

impl Bytes {
    fn add(&mut self, other: Bytes) {
        self.plain += other.plain;
        self.stored += other.stored;
    }
}

/// What was found out.
#[derive(Debug, Default)]
pub struct Owned {
    /// What each backup alone needs.
    pub by_backup: Vec<Bytes>,
    /// What only backups of each machine need.
    pub by_machine: Vec<Bytes>,
    /// What any backup needs, each chunk once, parts of maps left out.
    pub data: Bytes,
    /// Stored bytes of chunks that no backup needs, parts of maps included.
    pub unneeded: u64,
    /// Bytes of data that each backup's disks and files hold, without zeros.
    pub held: Vec<u64>,
    /// Chunks of data that are in no pack; counted up to a limit.
    pub missing: u64,
}

/// Backups by number, each with the number of its machine.
pub struct Backups<'b> {
    /// Their ids, in the order of the numbers.
    pub ids: &'b [crate::repo::ids::BackupId],
    /// The machine of each.
    pub machine_of: &'b [u32],
    /// How many machines there are.
    pub machines: usize,
}

/// Finds out who needs what, for `chunks_at_once` data chunks at a time. The index is up to date.
///
/// # Errors
/// What the repository says: damage of a manifest or a map ends it, as nobody knows what it refers to.
pub fn owned(
    repository: &Repository,
    backups: &Backups<'_>,
    chunks_at_once: usize,
    control: Control<'_>,
) -> Result<Owned, OpsError> {
    if backups.ids.len() > NUMBERS_MAX as usize {
        return Err(RepoError::Unsupported {
            object: manifest::FOLDER.to_owned(),
            feature: "so many backups".to_owned(),
        }
        .into());
    }
    let nothing = Bytes::default();
    let mut owned = Owned {
        by_backup: vec![nothing; backups.ids.len()],
        by_machine: vec![nothing; backups.machines],
        held: vec![0; backups.ids.len()],
        ..Owned::default()
    };
    let (parts, part_of) = parts_of(repository, chunks_at_once)?;
    for part in 0..parts {
        let mut walk = Walk {
            repository,
            machine_of: backups.machine_of,
            part,
            part_of: &part_of,
            maps: HashMap::new(),
            data: HashMap::new(),
            near: None,
            backup: 0,
            missing: HashSet::new(),
        };
        for (number, id) in (0u32..).zip(backups.ids) {
            if control.interrupted() {
                return Err(OpsError::Interrupted);
            }
            walk.backup = number;
            owned.held[number as usize] = walk.manifest(&repository.manifest(*id)?)?;
        }
        owned.missing = walk.missing.len() as u64;
        walk.settle(&mut owned)?;
    }
    Ok(owned)
}

/// In how many parts the data packs are looked at, and in which each is.
fn parts_of(repository: &Repository, chunks_at_once: usize) -> Result<(usize, HashMap<PackId, usize>), RepoError> {
    let (mut part, mut chunks) = (0, 0);
    let mut part_of = HashMap::new();
    repository.index().each_pack(|pack| {
        if pack.kind == Kind::DataPack {
            let count = Directory::decode(&pack.directory, pack.len).map_or(0, |directory| directory.chunks().len());
            if chunks > 0 && chunks + count > chunks_at_once {
                part += 1;
                chunks = 0;
            }
            chunks += count;
            part_of.insert(pack.id, part);
        }
        Ok(())
    })?;
    Ok((part + 1, part_of))
}

/// The parts of maps in one pack: who needs them, and how many bytes of data are below.
struct MapParts {
    owners: Vec<Owner>,
    below: Vec<u64>,
}

struct Walk<'w> {
    repository: &'w Repository,
    machine_of: &'w [u32],
    part: usize,
    part_of: &'w HashMap<PackId, usize>,
    maps: HashMap<PackId, MapParts>,
    data: HashMap<PackId, Vec<Owner>>,
    /// The pack that the last data chunk was found in: its neighbours mostly come next.
    near: Option<Arc<OpenPack>>,
    /// Whose map is being walked.
    backup: u32,
    /// Chunks that are in no pack.
    missing: HashSet<ChunkId>,
}

/// What is to be done about a part of a map.
enum Look {
    /// It is known who needs what is below, which is so many bytes.
    Known(u64),
    /// It is to be looked into; where its sum goes.
    Into(PackId, usize),
    /// The same, and it lies in no pack in use.
    Elsewhere,
}

impl Walk<'_> {
    /// Notes that the backup needs what its manifest refers to; gives the bytes of its data.
    fn manifest(&mut self, manifest: &Manifest) -> Result<u64, RepoError> {
        let object = manifest::object_name(manifest.backup).to_string();
        let damaged = |error: &dyn std::fmt::Display| RepoError::Damaged {
            object: object.clone(),
            field: "disk map",
            at: 0,
            expected: "a map that adds up".to_owned(),
            found: error.to_string(),
        };
        let shape = |bytes: u64| MapShape::new(bytes).ok_or_else(|| damaged(&format!("{bytes} bytes, beyond 128 TiB")));
        let bad = |error: BadMap| damaged(&error);
        let mut held = 0;
        for disk in &manifest.disks {
            held += self.disk(shape(disk.size)?, disk.root, &bad)?;
        }
        for file in &manifest.files {
            let shape = shape(file.len)?;
            for (segment, list) in (0u64..).zip(&file.segments) {
                held += self.list(*list, shape.segment_len(segment), &bad)?;
            }
        }
        Ok(held)
    }

    fn disk(&mut self, shape: MapShape, root: ChunkId, bad: &dyn Fn(BadMap) -> RepoError) -> Result<u64, RepoError> {
        self.look_into(root, &mut |walk, bytes| {
            let mut held = 0;
            for (node, id) in (0u64..).zip(decode_ids(bytes, shape.nodes()).map_err(bad)?) {
                held += walk.look_into(id, &mut |walk, bytes| {
                    let lists = decode_ids(bytes, shape.segments_in_node(node)).map_err(bad)?;
                    let segments = node * NODE_SEGMENTS..;
                    segments.zip(lists).try_fold(0, |held, (segment, list)| {
                        Ok(held + walk.list(list, shape.segment_len(segment), bad)?)
                    })
                })?;
            }
            Ok(held)
        })
    }

    fn list(&mut self, id: ChunkId, segment_len: usize, bad: &dyn Fn(BadMap) -> RepoError) -> Result<u64, RepoError> {
        self.look_into(id, &mut |walk, bytes| {
            let mut held = 0;
            for entry in decode_list(bytes, segment_len).map_err(bad)? {
                if let ListEntry::Chunk(chunk, len) = entry {
                    held += u64::from(len);
                    walk.data_chunk(chunk)?;
                }
            }
            Ok(held)
        })
    }

    /// Looks into a part of a map with `below`, which gives the bytes of data below it, unless all is known.
    fn look_into(&mut self, id: ChunkId, below: &mut Below<'_, Self>) -> Result<u64, RepoError> {
        if id == ChunkId::ZERO {
            return Ok(0);
        }
        let look = self.map_chunk(id)?;
        if let Look::Known(held) = look {
            return Ok(held);
        }
        let bytes = self.repository.read_chunk(id, &|| format!("map chunk {id}"))?;
        let held = below(self, &bytes)?;
        if let Look::Into(pack, position) = look
            && let Some(parts) = self.maps.get_mut(&pack)
        {
            parts.below[position] = held;
        }
        Ok(held)
    }

    fn map_chunk(&mut self, id: ChunkId) -> Result<Look, RepoError> {
        let Some(found) = self.repository.find_chunk(id)? else { return Ok(Look::Elsewhere) };
        let directory = &found.pack.directory;
        let position = directory.position(id).expect("it was found in this directory");
        let parts = self.maps.entry(found.pack.id).or_insert_with(|| MapParts {
            owners: vec![Owner::default(); directory.chunks().len()],
            below: vec![0; directory.chunks().len()],
        });
        let owner = parts.owners[position].with(self.backup, self.machine_of);
        if owner == parts.owners[position] {
            return Ok(Look::Known(parts.below[position]));
        }
        parts.owners[position] = owner;
        Ok(Look::Into(found.pack.id, position))
    }

    fn data_chunk(&mut self, id: ChunkId) -> Result<(), RepoError> {
        let known = self.near.as_ref().and_then(|pack| Some((Arc::clone(pack), pack.directory.position(id)?)));
        let (pack, position) = match known {
            Some(found) => found,
            None => match self.find(id)? {
                Some(found) => {
                    let position = found.pack.directory.position(id).expect("it was found in this directory");
                    self.near = Some(Arc::clone(&found.pack));
                    (found.pack, position)
                }
                None => {
                    if self.missing.len() < MISSING_MAX {
                        self.missing.insert(id);
                    }
                    return Ok(());
                }
            },
        };
        if self.part_of.get(&pack.id) != Some(&self.part) {
            return Ok(());
        }
        let chunks = pack.directory.chunks().len();
        let owners = self.data.entry(pack.id).or_insert_with(|| vec![Owner::default(); chunks]);
        owners[position] = owners[position].with(self.backup, self.machine_of);
        Ok(())
    }

    /// Finds a data chunk. Once one was nowhere, the index alone is asked: the whole store was searched then.
    fn find(&self, id: ChunkId) -> Result<Option<FoundChunk>, RepoError> {
        if !self.missing.is_empty() {
            return self.repository.find_chunk(id);
        }
        match self.repository.locate(id, &String::new) {
            Ok(found) => Ok(Some(found)),
            Err(RepoError::MissingChunk { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds up what the packs of this part hold; parts of maps with the first.
    fn settle(&self, owned: &mut Owned) -> Result<(), RepoError> {
        self.repository.index().each_pack(|pack| {
            let owners = match pack.kind {
                Kind::MapPack if self.part == 0 => self.maps.get(&pack.id).map(|parts| &parts.owners),
                Kind::DataPack if self.part_of.get(&pack.id) == Some(&self.part) => self.data.get(&pack.id),
                _ => return Ok(()),
            };
            let Ok(directory) = Directory::decode(&pack.directory, pack.len) else { return Ok(()) };
            for (position, (_, place)) in directory.chunks().iter().enumerate() {
                let owner = owners.and_then(|owners| owners.get(position)).copied().unwrap_or_default();
                let blob = &directory.blobs()[place.blob as usize];
                let share = u64::from(blob.sealed_len) * u64::from(place.len) / u64::from(blob.plain_len.max(1));
                let bytes =
                    Bytes { plain: if pack.kind == Kind::DataPack { place.len.into() } else { 0 }, stored: share };
                match owner.told() {
                    Told::Nobody => {
                        owned.unneeded += share;
                        continue;
                    }
                    Told::Backup(number) => {
                        owned.by_backup[number as usize].add(bytes);
                        owned.by_machine[self.machine_of[number as usize] as usize].add(bytes);
                    }
                    Told::Machine(number) => owned.by_machine[number as usize].add(bytes),
                    Told::Several => {}
                }
                if pack.kind == Kind::DataPack {
                    owned.data.add(bytes);
                }
            }
            Ok(())
        })
    }
}
