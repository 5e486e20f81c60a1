//! Finding and reading chunks: index, open packs, blobs, in whatever place a prune that runs beside us puts them.
//!
//! Not in here: what a chunk is a part of.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;

use super::ids::ChunkId;
use super::index::PackRow;
use super::pack::reader::OpenPack;
use super::pack::{ChunkPlace, PlainBlob, directory};
use super::segment_list::SegmentList;
use super::store::StoreError;
use super::{RepoError, Repository, gc};
use crate::recent;

/// Plain bytes of unpacked blobs kept for further reads.
const BLOB_CACHE_BYTES: u64 = 48 << 20;
/// Bytes of open packs' directories kept for further look-ups.
const PACK_CACHE_BYTES: u64 = 32 << 20;
/// Bytes of segment lists kept for further reads: of about 5 GiB of disks.
const LIST_CACHE_BYTES: u64 = 24 << 20;
/// Bytes of segment lists that may be loaded before anybody wants them: as many as are kept of what is new.
pub(super) const LIST_BYTES_AHEAD: u64 = LIST_CACHE_BYTES / 2;
/// The same for packs' directories: some hundred KiB each.
pub(super) const PACKS_AHEAD: usize = 64;
/// Nodes kept, 20 KiB each: of 256 GiB of disks.
const NODES_CACHED: usize = 64;
/// Times that a chunk is looked for anew while prunes move its pack about: each move takes a prune of its own.
const FETCHES: usize = 5;
/// Packs in the trash that are remembered, with their directories: some 4 MiB.
const TRASHED_PACKS_KNOWN: usize = 16;

/// What was read lately.
pub(super) struct WhatWasRead {
    packs: Cache<PackRow, Arc<OpenPack>, PackWeight>,
    blobs: Cache<(PackRow, u32), Arc<PlainBlob>, BlobWeight>,
    pub(super) lists: Cache<ChunkId, Arc<SegmentList>, ListWeight>,
    pub(super) nodes: Cache<ChunkId, Arc<Vec<ChunkId>>>,
    /// Packs in the trash that something was found in, under rows that the index does not have.
    trashed: Mutex<Vec<(PackRow, Arc<OpenPack>)>>,
    trashed_rows: AtomicI64,
}

impl WhatWasRead {
    pub(super) fn new() -> WhatWasRead {
        WhatWasRead {
            packs: recent::weighed(64, PACK_CACHE_BYTES, PackWeight),
            blobs: recent::weighed(256, BLOB_CACHE_BYTES, BlobWeight),
            lists: recent::weighed(1024, LIST_CACHE_BYTES, ListWeight),
            nodes: recent::entries(NODES_CACHED),
            trashed: Mutex::default(),
            trashed_rows: AtomicI64::new(0),
        }
    }

    fn clear(&self) {
        self.packs.clear();
        self.blobs.clear();
        self.lists.clear();
        self.trashed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[derive(Clone)]
struct PackWeight;

impl quick_cache::Weighter<PackRow, Arc<OpenPack>> for PackWeight {
    fn weight(&self, _: &PackRow, pack: &Arc<OpenPack>) -> u64 {
        let entry = size_of::<(ChunkId, ChunkPlace)>() + size_of::<u64>();
        let blob = size_of::<directory::BlobEntry>() + size_of::<u32>();
        (pack.directory.chunks().len() * entry + pack.directory.blobs().len() * blob + 512) as u64
    }
}

#[derive(Clone)]
struct BlobWeight;

impl quick_cache::Weighter<(PackRow, u32), Arc<PlainBlob>> for BlobWeight {
    fn weight(&self, _: &(PackRow, u32), blob: &Arc<PlainBlob>) -> u64 {
        (blob.weight() + size_of::<PlainBlob>()) as u64
    }
}

#[derive(Clone)]
pub(super) struct ListWeight;

impl quick_cache::Weighter<ChunkId, Arc<SegmentList>> for ListWeight {
    fn weight(&self, _: &ChunkId, list: &Arc<SegmentList>) -> u64 {
        list.weight()
    }
}

/// Where a chunk was found.
pub struct FoundChunk {
    /// The pack's row in the index.
    pub row: PackRow,
    /// The pack.
    pub pack: Arc<OpenPack>,
    /// The chunk's blob and range in it.
    pub place: ChunkPlace,
}

/// What is unpacked and kept when one chunk of a blob is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// That chunk alone: its neighbours will hardly be asked for.
    Chunk,
    /// All chunks of the blob.
    Blob,
}

impl Repository {
    /// Finds the chunk `id` by the index alone; `None` if the index does not know it.
    ///
    /// # Errors
    /// [`RepoError::Index`], [`RepoError::Damaged`].
    pub fn find_chunk(&self, id: ChunkId) -> Result<Option<FoundChunk>, RepoError> {
        let Some(row) = self.index.find(id)? else { return Ok(None) };
        let Some(pack) = self.open_pack(row)? else { return Ok(None) };
        // The index keeps a part of the id; only the directory's full one counts.
        Ok(pack.directory.find(id).map(|place| FoundChunk { row, pack, place }))
    }

    /// Where the pack in `row` holds the chunk `id`, if it does and the index still has that row.
    ///
    /// # Errors
    /// As [`Repository::find_chunk`].
    pub fn find_in_pack(&self, row: PackRow, id: ChunkId) -> Result<Option<ChunkPlace>, RepoError> {
        Ok(self.open_pack(row)?.and_then(|pack| pack.directory.find(id)))
    }

    fn open_pack(&self, row: PackRow) -> Result<Option<Arc<OpenPack>>, RepoError> {
        if let Some(pack) = self.read.packs.get(&row) {
            return Ok(Some(pack));
        }
        let Some(record) = self.index.load(row)? else { return Ok(None) };
        let pack = Arc::new(OpenPack::from_index(&self.keys, &record)?);
        self.read.packs.insert(row, Arc::clone(&pack));
        Ok(Some(pack))
    }

    /// Finds the chunk `id`; if the index does not know it, the index is brought up to date with the store first.
    ///
    /// # Errors
    /// [`RepoError::MissingChunk`] naming `needed_by`; else as [`Repository::find_chunk`].
    pub fn locate(&self, id: ChunkId, needed_by: &dyn Fn() -> String) -> Result<FoundChunk, RepoError> {
        if let Some(found) = self.find_chunk(id)? {
            return Ok(found);
        }
        self.sync_index(&mut |_| {})?;
        if let Some(found) = self.find_chunk(id)? {
            return Ok(found);
        }
        if let Some(found) = self.find_hidden(id)? {
            return Ok(found);
        }
        self.find_in_trash(id)?.ok_or_else(|| RepoError::MissingChunk { id, needed_by: needed_by() })
    }

    /// Finds a chunk that lies in a pack in use although an index that is up to date does not say so.
    pub(crate) fn find_hidden(&self, id: ChunkId) -> Result<Option<FoundChunk>, RepoError> {
        // A row that leads to no pack with the chunk is wrong, and hides a right one; a pack that was dropped hid others.
        if self.index.find(id)?.is_some() || self.index.has_dropped()? {
            self.rebuild_index(&mut |_| {})?;
        }
        self.find_chunk(id)
    }

    /// Finds a chunk in a pack that a prune took out of use, and that is needed after all. It can be read where it lies.
    pub(crate) fn find_in_trash(&self, id: ChunkId) -> Result<Option<FoundChunk>, RepoError> {
        let found_in = |row: PackRow, pack: &Arc<OpenPack>| {
            let place = pack.directory.find(id)?;
            Some(FoundChunk { row, pack: Arc::clone(pack), place })
        };
        let known = || self.read.trashed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().iter().find_map(|(row, pack)| found_in(*row, pack)) {
            return Ok(Some(found));
        }
        let Some((_, pack)) = gc::trash::find(self.store(), &self.keys, id)? else { return Ok(None) };
        // Rows of the index count from 1 up: these are nobody else's.
        let row = PackRow(-self.read.trashed_rows.fetch_add(1, Ordering::Relaxed) - 1);
        self.read.packs.insert(row, Arc::clone(&pack));
        let mut known = known();
        if known.len() == TRASHED_PACKS_KNOWN {
            known.remove(0);
        }
        known.push((row, Arc::clone(&pack)));
        Ok(found_in(row, &pack))
    }

    /// Reads a chunk of a pack that may have been moved into the trash since it was found, alone or with its blob.
    fn read_wherever(&self, pack: &OpenPack, place: ChunkPlace, keep: Keep) -> Result<Arc<PlainBlob>, RepoError> {
        let read = |pack: &OpenPack| match keep {
            Keep::Chunk => pack.read_lone_chunk(self.store(), place),
            Keep::Blob => pack.read_blob(self.store(), place.blob),
        };
        let missing = match read(pack) {
            Err(error @ RepoError::Store(StoreError::NotFound { .. })) => error,
            outcome => return outcome.map(Arc::new),
        };
        for trashed in gc::trash::list(self.store())?.into_iter().filter(|trashed| trashed.id == pack.id) {
            if let Some(moved) = gc::trash::open(self.store(), &self.keys, &trashed)? {
                return read(&moved).map(Arc::new);
            }
        }
        Err(missing)
    }

    /// The chunk found, alone or with its blob, from the cache or the store. Two threads that want the same unpack it once,
    /// unless what is kept is another chunk alone.
    ///
    /// # Errors
    /// [`RepoError::Damaged`], [`RepoError::Store`].
    pub fn blob(&self, found: &FoundChunk, keep: Keep) -> Result<Arc<PlainBlob>, RepoError> {
        let (key, pack, place) = ((found.row, found.place.blob), &found.pack, found.place);
        let blob = self.read.blobs.get_or_insert_with(&key, || self.read_wherever(pack, place, keep))?;
        if blob.covers(place) {
            return Ok(blob);
        }
        // A chunk was wanted alone, and now another: the blob's other chunks may well be next.
        let blob = self.read_wherever(pack, place, Keep::Blob)?;
        self.read.blobs.insert(key, Arc::clone(&blob));
        Ok(blob)
    }

    /// The same for a chunk in the pack of `row`; `None` if the index no longer has that row.
    ///
    /// # Errors
    /// [`RepoError::Damaged`], [`RepoError::Store`], [`RepoError::Index`].
    pub fn blob_at(&self, row: PackRow, place: ChunkPlace, keep: Keep) -> Result<Option<Arc<PlainBlob>>, RepoError> {
        if let Some(blob) = self.read.blobs.get(&(row, place.blob)).filter(|blob| blob.covers(place)) {
            return Ok(Some(blob));
        }
        let Some(pack) = self.open_pack(row)? else { return Ok(None) };
        match self.blob(&FoundChunk { row, pack, place }, keep) {
            // It was pruned; the chunk may lie elsewhere by now.
            Err(RepoError::Store(StoreError::NotFound { .. })) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// The chunk `id` and its blob, wherever a prune that runs beside us puts its pack.
    ///
    /// # Errors
    /// As [`Repository::locate`] and [`Repository::blob`].
    pub fn fetch(
        &self,
        id: ChunkId,
        keep: Keep,
        needed_by: &dyn Fn() -> String,
    ) -> Result<(FoundChunk, Arc<PlainBlob>), RepoError> {
        for _ in 1..FETCHES {
            let found = self.locate(id, needed_by)?;
            match self.blob(&found, keep) {
                // Its pack was repacked and pruned since the index was brought up to date, or moved back just now.
                Err(RepoError::Store(StoreError::NotFound { .. })) => {}
                outcome => return outcome.map(|blob| (found, blob)),
            }
            self.sync_index(&mut |_| {})?;
            self.forget_rows();
        }
        let found = self.locate(id, needed_by)?;
        let blob = self.blob(&found, keep)?;
        Ok((found, blob))
    }

    /// Forgets everything that was read by the index's rows.
    pub fn forget_rows(&self) {
        self.read.clear();
    }

    /// Reads one chunk.
    ///
    /// # Errors
    /// As [`Repository::locate`] and [`Repository::blob`].
    pub fn read_chunk(&self, id: ChunkId, needed_by: &dyn Fn() -> String) -> Result<Vec<u8>, RepoError> {
        let (found, blob) = self.fetch(id, Keep::Blob, needed_by)?;
        Ok(blob.chunk(&self.keys, id, found.place.at)?.to_vec())
    }
}
