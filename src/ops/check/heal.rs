//! Taking what is lost from a second repository. It may have other keys, other cuts and other backups of the machine: what
//! it has at the lost place of a disk is believed if it has the lost chunk's keyed id in *our* repository, and only then.
//!
//! Lost parts of maps are computed anew from such a disk: if cutting its segments gives the id that is missing, it is the
//! same map. A list that was patched has other cuts, and is lost with its segment. A mirror, a second repository with the
//! same keys, is simply asked for chunks by their ids.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::walk::{Holes, Standing, Walk};
use crate::chunker::{Chunker, Piece};
use crate::disk::Disk;
use crate::ops::event::Control;
use crate::ops::{OpsError, definition_file};
use crate::repo::ids::{BackupId, ChunkId};
use crate::repo::manifest::{DiskRecord, FileRecord, Manifest};
use crate::repo::map::{ListEntry, MapShape, NODE_SEGMENTS, decode_ids, decode_list, encode_ids, push_entry};
use crate::repo::new_packs::{NewPacks, settle};
use crate::repo::salvage::Rescued;
use crate::repo::seal::{ChunkKind, Kind};
use crate::repo::{BackupDisk, RepoError, Repository};
use crate::units::GuestOffset;

/// Backups of the second repository that are asked for one disk.
const TWINS_MAX: usize = 8;
/// Of these, how many are read whole, 4 GiB each, to compute a lost node.
const TWINS_FOR_NODES: usize = 2;
/// Parts of maps that are kept at hand: some 20 KiB each at most, but for roots.
const MADE_KEPT: usize = 1024;
/// Times that one list is tried: each backup that shares it has other twins.
const TRIES_MAX: u8 = 3;

/// Whether a second repository is a mirror of ours: the same keys, so the same chunks have the same ids.
pub fn is_mirror(repository: &Repository, from: &Repository) -> bool {
    repository.config().repository == from.config().repository
}

/// Takes from `from` what `backups` miss, newest first; what was found is durable and published afterwards.
///
/// # Errors
/// [`OpsError::Interrupted`], what our own store and index say. Whatever is wrong with the second repository only means
/// that it has less.
pub fn heal(
    repository: &Arc<Repository>,
    from: &Arc<Repository>,
    walk: Walk<'_>,
    backups: &[Manifest],
    control: Control<'_>,
) -> Result<Rescued, OpsError> {
    let mut healing = Healing {
        repository,
        from,
        is_mirror: is_mirror(repository, from),
        chunker: repository.chunker(),
        control,
        walk,
        data: NewPacks::new(repository, Kind::DataPack),
        map: NewPacks::new(repository, Kind::MapPack),
        stored: HashSet::new(),
        made: HashMap::new(),
        tried: HashMap::new(),
        theirs: theirs(from),
    };
    for manifest in backups.iter().rev() {
        healing.backup(manifest)?;
    }
    let mut rescued = Rescued { chunks: healing.stored.len() as u64, ..Rescued::default() };
    let packs = [healing.data.finish()?, healing.map.finish()?].concat();
    settle(repository, packs, &mut |pack, _| {
        rescued.packs += 1;
        rescued.bytes += pack.len;
    })?;
    Ok(rescued)
}

/// The backups of the second repository by the machines' identities, oldest first.
fn theirs(from: &Repository) -> HashMap<String, Vec<(jiff::Timestamp, BackupId)>> {
    let mut theirs: HashMap<String, Vec<(jiff::Timestamp, BackupId)>> = HashMap::new();
    for id in from.backup_ids().unwrap_or_default() {
        if let Ok(manifest) = from.manifest(id) {
            theirs.entry(manifest.identity).or_default().push((manifest.instant, id));
        }
    }
    theirs.values_mut().for_each(|backups| backups.sort());
    theirs
}

/// Where bytes may be as ours were.
enum Twin {
    Disk(BackupDisk),
    File(Vec<u8>),
}

impl Twin {
    /// So many bytes from `at`; `None` if it does not have them.
    fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        match self {
            Twin::Disk(disk) => {
                let mut bytes = vec![0; len];
                disk.read_at(GuestOffset(at), &mut bytes).ok().map(|()| bytes)
            }
            Twin::File(bytes) => {
                let at = usize::try_from(at).ok()?;
                bytes.get(at..at.checked_add(len)?).map(<[u8]>::to_vec)
            }
        }
    }
}

struct Healing<'a> {
    repository: &'a Arc<Repository>,
    from: &'a Arc<Repository>,
    is_mirror: bool,
    chunker: Chunker,
    control: Control<'a>,
    walk: Walk<'a>,
    data: NewPacks<'a>,
    map: NewPacks<'a>,
    /// Chunks that were lost and are written anew.
    stored: HashSet<ChunkId>,
    /// Parts of maps among these: they are not read back before all is durable.
    made: HashMap<ChunkId, Vec<u8>>,
    /// Lists that were tried, and how often.
    tried: HashMap<ChunkId, u8>,
    theirs: HashMap<String, Vec<(jiff::Timestamp, BackupId)>>,
}

impl Healing<'_> {
    fn backup(&mut self, manifest: &Manifest) -> Result<(), OpsError> {
        let holes = self.walk.backup(manifest, self.control)?;
        if holes.has_lost_nothing() {
            return Ok(());
        }
        let candidates = self.candidates(manifest);
        for (disk, _) in manifest.disks.iter().zip(&holes.disks).filter(|(_, holes)| !holes.lost.is_empty()) {
            let twins = self.disk_twins(&candidates, disk);
            self.disk(disk, &twins)?;
        }
        for (file, _) in manifest.files.iter().zip(&holes.files).filter(|(_, holes)| !holes.lost.is_empty()) {
            let twins = self.file_twins(&candidates, file);
            let Some(shape) = MapShape::new(file.len) else { continue };
            for (segment, list) in (0u64..).zip(&file.segments).take_while(|(segment, _)| *segment < shape.segments()) {
                self.list(*list, shape, segment, &twins)?;
            }
        }
        Ok(())
    }

    /// Their backups of the same machine: that of the same instant, then the newest first.
    fn candidates(&self, manifest: &Manifest) -> Vec<Manifest> {
        let Some(backups) = self.theirs.get(&manifest.identity) else { return Vec::new() };
        let (same, others): (Vec<_>, Vec<_>) =
            backups.iter().rev().copied().partition(|(instant, _)| *instant == manifest.instant);
        let ids = same.into_iter().chain(others).take(TWINS_MAX);
        ids.filter_map(|(_, id)| self.from.manifest(id).ok()).collect()
    }

    fn disk_twins(&self, candidates: &[Manifest], disk: &DiskRecord) -> Vec<Twin> {
        let open = |manifest: &Manifest| {
            let number = manifest.disks.iter().position(|theirs| theirs.slot == disk.slot)?;
            self.from.disk(manifest, number).ok().map(Twin::Disk)
        };
        candidates.iter().filter_map(open).collect()
    }

    fn file_twins(&self, candidates: &[Manifest], file: &FileRecord) -> Vec<Twin> {
        let read = |manifest: &Manifest| {
            let theirs = manifest.files.iter().find(|theirs| theirs.name == file.name)?;
            definition_file::read(self.from, theirs).ok().map(Twin::File)
        };
        candidates.iter().filter_map(read).collect()
    }

    fn disk(&mut self, disk: &DiskRecord, twins: &[Twin]) -> Result<(), OpsError> {
        let Some(shape) = MapShape::new(disk.size) else { return Ok(()) };
        let root = match self.part(disk.root)? {
            Some(root) => root,
            None => match self.compute_root(disk.root, shape, twins)? {
                Some(root) => root,
                None => return Ok(()),
            },
        };
        let Ok(nodes) = decode_ids(&root, shape.nodes()) else { return Ok(()) };
        for (node, id) in (0u64..).zip(nodes).filter(|(_, id)| *id != ChunkId::ZERO) {
            let bytes = match self.part(id)? {
                Some(bytes) => bytes,
                None => match self.compute_node(Some(id), shape, node, twins)? {
                    Some((_, bytes)) => bytes,
                    None => continue,
                },
            };
            let Ok(lists) = decode_ids(&bytes, shape.segments_in_node(node)) else { continue };
            for (segment, list) in (node * NODE_SEGMENTS..).zip(lists) {
                self.list(list, shape, segment, twins)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, id: ChunkId, shape: MapShape, segment: u64, twins: &[Twin]) -> Result<(), OpsError> {
        let len = shape.segment_len(segment);
        if id == ChunkId::ZERO || self.walk.list(id, len)?.lost.is_empty() {
            return Ok(());
        }
        if self.control.interrupted() {
            return Err(OpsError::Interrupted);
        }
        let tried = self.tried.entry(id).or_default();
        *tried += 1;
        if *tried > TRIES_MAX {
            return Ok(());
        }
        let at = shape.segment_at(segment);
        let bytes = match self.part(id)? {
            Some(bytes) => Some(bytes),
            None => self.compute_list(id, at, len, twins)?,
        };
        let Some(entries) = bytes.and_then(|bytes| decode_list(&bytes, len).ok()) else { return Ok(()) };
        let (mut at, mut is_whole) = (at, true);
        for entry in entries {
            if let ListEntry::Chunk(chunk, len) = entry {
                is_whole &= self.chunk(chunk, len, at, twins)?;
            }
            at += u64::from(entry.len());
        }
        if is_whole {
            self.tried.insert(id, TRIES_MAX); // nothing is left to be tried
        }
        Ok(())
    }

    /// Looks for a chunk of data; whether it is there now.
    fn chunk(&mut self, id: ChunkId, len: u32, at: u64, twins: &[Twin]) -> Result<bool, OpsError> {
        if self.stored.contains(&id) || self.walk.standing(ChunkKind::Data, id)? != Standing::Missing {
            return Ok(true);
        }
        let from_mirror = if self.is_mirror { self.from.read_chunk(id, &String::new).ok() } else { None };
        let of_twins = twins.iter().filter_map(|twin| twin.read(at, len as usize));
        let keys = self.repository.keys();
        let found = from_mirror.into_iter().chain(of_twins).find(|bytes| keys.chunk_id(ChunkKind::Data, bytes) == id);
        if let Some(bytes) = &found {
            self.data.add_chunk(id, bytes)?;
            self.stored.insert(id);
        }
        Ok(found.is_some())
    }

    /// A part of a map that we have, or that a mirror has.
    fn part(&mut self, id: ChunkId) -> Result<Option<Vec<u8>>, OpsError> {
        if let Some(made) = self.made.get(&id) {
            return Ok(Some(made.clone()));
        }
        if let Some(bytes) = self.walk.map(id, &mut Holes::default())? {
            return Ok(Some(bytes));
        }
        if !self.is_mirror {
            return Ok(None);
        }
        let found = self.from.read_chunk(id, &String::new).ok();
        let found = found.filter(|bytes| self.repository.keys().chunk_id(ChunkKind::Map, bytes) == id);
        if let Some(bytes) = &found {
            self.store_map(id, bytes)?;
        }
        Ok(found)
    }

    fn store_map(&mut self, id: ChunkId, bytes: &[u8]) -> Result<(), RepoError> {
        if !self.stored.insert(id) {
            return Ok(());
        }
        if self.made.len() < MADE_KEPT {
            self.made.insert(id, bytes.to_vec());
        }
        self.map.add_chunk(id, bytes)
    }

    fn compute_list(&mut self, id: ChunkId, at: u64, len: usize, twins: &[Twin]) -> Result<Option<Vec<u8>>, OpsError> {
        for segment in twins.iter().filter_map(|twin| twin.read(at, len)) {
            let (computed, list) = self.list_of(&segment);
            if computed == id {
                self.store_map(id, &list)?;
                return Ok(Some(list));
            }
        }
        Ok(None)
    }

    /// The node that a twin's disk has, if it is the one that is missing; any, if none is asked for.
    fn compute_node(
        &mut self,
        wanted: Option<ChunkId>,
        shape: MapShape,
        node: u64,
        twins: &[Twin],
    ) -> Result<Option<(ChunkId, Vec<u8>)>, OpsError> {
        'twins: for twin in twins.iter().take(TWINS_FOR_NODES) {
            let mut lists = Vec::new();
            let first = node * NODE_SEGMENTS;
            for segment in first..first + shape.segments_in_node(node) {
                if self.control.interrupted() {
                    return Err(OpsError::Interrupted);
                }
                let bytes = twin.read(shape.segment_at(segment), shape.segment_len(segment));
                let Some(bytes) = bytes else { continue 'twins };
                lists.push(self.list_of(&bytes).0);
            }
            let is_zero = lists.iter().all(|list| *list == ChunkId::ZERO);
            let bytes = encode_ids(&lists);
            let id = if is_zero { ChunkId::ZERO } else { self.repository.keys().chunk_id(ChunkKind::Map, &bytes) };
            if wanted.is_none_or(|wanted| wanted == id) {
                if wanted.is_some() {
                    self.store_map(id, &bytes)?;
                }
                return Ok(Some((id, bytes)));
            }
        }
        Ok(None)
    }

    fn compute_root(&mut self, id: ChunkId, shape: MapShape, twins: &[Twin]) -> Result<Option<Vec<u8>>, OpsError> {
        for twin in twins.iter().take(TWINS_FOR_NODES) {
            let twin = std::slice::from_ref(twin);
            let mut nodes = Vec::new();
            for node in 0..shape.nodes() {
                let Some((node, _)) = self.compute_node(None, shape, node, twin)? else { break };
                nodes.push(node);
            }
            let bytes = encode_ids(&nodes);
            if self.repository.keys().chunk_id(ChunkKind::Map, &bytes) == id {
                self.store_map(id, &bytes)?;
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The list that a backup of these bytes makes, and its id.
    fn list_of(&self, segment: &[u8]) -> (ChunkId, Vec<u8>) {
        let keys = self.repository.keys();
        let (mut list, mut zeros, mut holds_data) = (Vec::new(), 0u32, false);
        let cut: Result<(), RepoError> = self.chunker.cut(segment, |piece| {
            match piece {
                Piece::Zero(range) => zeros += u32::try_from(range.len()).expect("a segment has 4 MiB"),
                Piece::Chunk(range) => {
                    if zeros > 0 {
                        push_entry(&mut list, ListEntry::Zero(std::mem::take(&mut zeros)));
                    }
                    holds_data = true;
                    let len = u32::try_from(range.len()).expect("a chunk has at most 1 MiB");
                    push_entry(&mut list, ListEntry::Chunk(keys.chunk_id(ChunkKind::Data, &segment[range]), len));
                }
            }
            Ok(())
        });
        cut.expect("nothing in it fails");
        if !holds_data {
            return (ChunkId::ZERO, Vec::new());
        }
        if zeros > 0 {
            push_entry(&mut list, ListEntry::Zero(zeros));
        }
        (keys.chunk_id(ChunkKind::Map, &list), list)
    }
}
