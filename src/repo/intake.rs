//! The way in: segments of bytes → chunks → blobs → packs → a committed manifest.
//!
//! Callers bring segments from any number of threads, each with a [`SegmentWriter`] of its own. Inside, pack writers seal
//! and store; the queues between are bounded, so memory is too. One error stops everything, and is the one reported.
//!
//! Order of durability (docs/FORMAT.md, "Commit"): session → packs → index segment → look at the generation, prove the
//! packs → manifest → look again → report. Everything before the manifest is garbage if we die; nothing after it is
//! needed to restore.

mod recorded;
mod window;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use recorded::Recorded;
use window::Window;

use super::blob::{BlobPacker, PackedBlob};
use super::error::RepoError;
use super::gc::walk::Needs;
use super::ids::{BackupId, ChunkId, PackId};
use super::manifest::{self, Manifest, Statistics};
use super::map::{ListEntry, push_entry};
use super::pack::reader::OpenPack;
use super::pack::writer::{FinishedPack, PackWriter, Padding};
use super::run::{Committed, Held, Run, TakenOver};
use super::seal::{ChunkKind, Kind};
use super::session::{self, renewal};
use super::store::StoreError;
use super::{Repository, gc, object, pack, parity, settle_packs};
use crate::chunker::{Chunker, Piece};
use crate::uncached::PAGE_BYTES;

/// Blobs waiting for a pack writer: some 48 KiB each before compression, 1.25 MiB at most.
const BLOBS_IN_FLIGHT: usize = 16;
/// Pack writers for data: while one waits for the disk to have a pack durably, the other fills the next.
const DATA_WRITERS: usize = 2;
/// Directories are published as an index segment whenever so many bytes of them have gathered.
const SEGMENT_BYTES_TARGET: usize = 8 << 20;
/// Locks that the set of chunks in flight is divided over.
const SHARDS: usize = 16;

/// What has been taken in so far; counters only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Plain bytes of chunks that were new.
    pub new: AtomicU64,
    /// Plain bytes of chunks that the repository had, or had just been given.
    pub deduplicated: AtomicU64,
    /// Bytes added to the store.
    pub stored: AtomicU64,
    /// Packs added to the store.
    pub packs: AtomicU64,
}

impl Counters {
    /// What `manifest` says of a backup that `began` then: the sums of its disks, and what only the whole run knows for sure,
    /// as packs hold the chunks of all disks, and the files' too.
    pub fn of(&self, manifest: &Manifest, began: Instant) -> Statistics {
        let mut total = Statistics::default();
        manifest.disks.iter().for_each(|disk| total.add(&disk.statistics));
        total.new = self.new.load(Ordering::Relaxed);
        total.deduplicated = self.deduplicated.load(Ordering::Relaxed);
        total.stored = Some(self.stored.load(Ordering::Relaxed));
        total.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        total
    }
}

/// A backup being taken in.
pub struct Intake<'r> {
    repository: &'r Repository,
    chunker: Chunker,
    /// Packs that were found damaged inside: what they hold counts as not stored.
    rotten: HashSet<PackId>,
    data: Sender<PackedBlob>,
    map: Sender<PackedBlob>,
    state: &'r State,
}

/// What writers and pack writers share.
#[derive(Default)]
pub struct State {
    /// How much has been taken in.
    pub counters: Counters,
    /// Chunks that are on their way into the index.
    in_flight: [Mutex<HashSet<ChunkId>>; SHARDS],
    /// Packs that chunks were found in instead of being stored again.
    relied_on: Mutex<HashSet<PackId>>,
    /// Packs stored in this run, with their lengths.
    added: Mutex<Vec<(PackId, u64)>>,
    /// Directories not yet published.
    unpublished: Mutex<Vec<FinishedPack>>,
    /// The first error of a pack writer.
    failure: Mutex<Option<RepoError>>,
    /// A segment writer went with chunks in hand that others take for stored: nothing may be committed any more.
    chunks_lost: AtomicBool,
}

/// Runs `body` with an intake, in a run of its own; as [`run_in`].
///
/// # Errors
/// As [`run_in`].
pub fn run<E: From<RepoError>>(
    repository: &Repository,
    state: &State,
    work: &'static str,
    body: impl FnOnce(&Intake<'_>) -> Result<Manifest, E>,
    finish: impl FnOnce(&mut Manifest),
) -> Result<Committed, E> {
    let mut run = Run::new(repository, work);
    let (held, _) = run.look()?;
    let manifest = run_in(repository, held, state, body, finish)?;
    Ok(Committed { manifest, warnings: run.end() })
}

/// Runs `body` with an intake; when it gives a manifest back, everything it refers to is made durable, then the manifest
/// itself, which is given back. `finish` sees the manifest last, with all counters final, before it is sealed.
///
/// The session must have begun before anything was looked up that the manifest will refer to.
///
/// # Errors
/// The first error of any part; `body`'s own, converted. Nothing was committed then.
pub fn run_in<E: From<RepoError>>(
    repository: &Repository,
    held: &Held<'_>,
    state: &State,
    body: impl FnOnce(&Intake<'_>) -> Result<Manifest, E>,
    finish: impl FnOnce(&mut Manifest),
) -> Result<Manifest, E> {
    let rotten = repository.index().rotten()?;
    let (data_tx, data_rx) = bounded(BLOBS_IN_FLIGHT);
    let (map_tx, map_rx) = bounded(BLOBS_IN_FLIGHT);
    let work = || {
        thread::scope(|scope| {
            scope.spawn(move || write_packs(repository, state, Kind::DataPack, DATA_WRITERS, data_rx));
            scope.spawn(move || write_packs(repository, state, Kind::MapPack, 1, map_rx));
            let chunker = repository.chunker();
            let intake = Intake { repository, chunker, rotten, data: data_tx, map: map_tx, state };
            body(&intake)
            // `intake` is dropped here: the channels close, the writers finish their last packs, the scope joins them.
        })
    };
    // Who was taken for dead need not work on.
    let outcome = renewal::while_working(&held.session, repository.keys(), |error| state.fail(error), work);
    // A failed pack writer is the cause; what `body` then met is its consequence.
    if let Some(failure) = lock(&state.failure).take() {
        return Err(failure.into());
    }
    let mut manifest = outcome?;
    if state.chunks_lost.load(Ordering::Relaxed) {
        return Err(RepoError::GivenUp.into());
    }
    commit(repository, state, held, &mut manifest, finish)?;
    Ok(manifest)
}

fn commit(
    repository: &Repository,
    state: &State,
    held: &Held<'_>,
    manifest: &mut Manifest,
    finish: impl FnOnce(&mut Manifest),
) -> Result<(), RepoError> {
    let session = &held.session;
    publish(repository, state, 1)?;
    settle_packs(repository.store(), lock(&state.relied_on).iter().copied())?;
    manifest.session = session.id();
    manifest.generation = session::newest_generation(repository.store())?;
    let moved = manifest.generation != session.record().generation;
    // Taken for dead already: then nothing is published at all.
    session.check()?;
    if moved || held.taken_over == TakenOver::Unproven || !packs_are_there(repository, state)? {
        gc::mark::prove(repository, &Needs::of(manifest))?;
    }
    manifest.finished = jiff::Timestamp::now();
    finish(manifest);
    let name = manifest::object_name(manifest.backup);
    object::put(repository.store(), repository.keys(), Kind::Manifest, &name, &manifest.encode())?;
    // A prune that began in between may not have seen the manifest: what it needs must still be there. And only after
    // the manifest does a session that is held still mean that no prune went on without it.
    let look_again = || {
        session.check()?;
        let moved = session::newest_generation(repository.store())? != manifest.generation;
        if moved { gc::mark::prove(repository, &Needs::of(manifest)) } else { Ok(()) }
    };
    look_again().inspect_err(|_| {
        let _ = repository.store().remove(&name); // never report a backup that cannot be restored
    })
}

/// Whether every pack that was added or relied on is in the store. Others are not looked at: there may be very many.
fn packs_are_there(repository: &Repository, state: &State) -> Result<bool, RepoError> {
    let len_of = |id: &PackId| match repository.store().len(&pack::object_name(*id)) {
        Ok(len) => Ok(Some(len)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(RepoError::from(error)),
    };
    for (id, len) in lock(&state.added).iter() {
        if len_of(id)? != Some(*len) {
            return Ok(false);
        }
    }
    for id in lock(&state.relied_on).iter() {
        if len_of(id)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Publishes the gathered directories if they have at least `min_bytes`.
fn publish(repository: &Repository, state: &State, min_bytes: usize) -> Result<(), RepoError> {
    let packs = {
        let mut unpublished = lock(&state.unpublished);
        let gathered: usize = unpublished.iter().map(|pack| pack.directory.len()).sum();
        if gathered < min_bytes {
            return Ok(());
        }
        std::mem::take(&mut *unpublished)
    };
    let bytes = repository.publish_segment(&packs)?;
    state.counters.stored.fetch_add(bytes, Ordering::Relaxed);
    Ok(())
}

/// Fills packs from the queue until it closes, with so many pack writers. They fill one pack together: so a run ends with
/// one that is not full, and blobs lie in it in the order in which they came.
fn write_packs(repository: &Repository, state: &State, kind: Kind, writers: usize, blobs: Receiver<PackedBlob>) {
    let filling = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                fill_packs(repository, state, kind, &filling, &blobs);
                // After a failure others may still wait to send: take what they bring until they, too, have seen it.
                blobs.iter().for_each(drop);
            });
        }
    });
    // The queue is closed. After a failure elsewhere nothing is committed, so an unfinished pack is not worth a write.
    let last = filling.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = last.filter(|_| !state.has_failed()) {
        let finished = last.finish(Padding::SizeClass).and_then(|pack| settle(repository, state, pack));
        finished.unwrap_or_else(|error| state.fail(error));
    }
}

/// A pack writer, until the queue closes or something fails. Whoever meets a blob that does not fit any more finishes the
/// full pack, while others fill the next.
fn fill_packs<'r>(
    repository: &'r Repository,
    state: &State,
    kind: Kind,
    filling: &Mutex<Option<PackWriter<'r>>>,
    blobs: &Receiver<PackedBlob>,
) {
    for blob in blobs {
        let full = {
            let mut filling = lock(filling);
            if state.has_failed() {
                return;
            }
            match add(repository, kind, &mut filling, blob) {
                Ok(full) => full,
                // Noted before anybody else meets the half-written pack.
                Err(error) => return state.fail(error),
            }
        };
        let settled = full.map_or(Ok(()), |pack| settle(repository, state, pack.finish(Padding::Full)?));
        if let Err(error) = settled {
            return state.fail(error);
        }
    }
}

/// Adds a blob to the pack that is being filled, or to a new one; gives the pack that is full.
fn add<'r>(
    repository: &'r Repository,
    kind: Kind,
    filling: &mut Option<PackWriter<'r>>,
    blob: PackedBlob,
) -> Result<Option<PackWriter<'r>>, RepoError> {
    let full = filling.take_if(|pack| !pack.fits(&blob));
    let pack = match filling {
        Some(pack) => pack,
        none => none.insert(repository.begin_pack(kind)?),
    };
    pack.add(blob)?;
    Ok(full)
}

/// A pack is durable: put it in the index, forget its chunks' flight.
fn settle(repository: &Repository, state: &State, pack: FinishedPack) -> Result<(), RepoError> {
    let bytes = pack.len + parity::stored_bytes(repository.store(), pack.id)?;
    state.counters.stored.fetch_add(bytes, Ordering::Relaxed);
    state.counters.packs.fetch_add(1, Ordering::Relaxed);
    for directory in repository.add_to_index(std::slice::from_ref(&pack))? {
        for (id, _) in directory.chunks() {
            lock(state.shard(*id)).remove(id);
        }
    }
    lock(&state.added).push((pack.id, pack.len));
    lock(&state.unpublished).push(pack);
    publish(repository, state, SEGMENT_BYTES_TARGET)
}

impl State {
    fn shard(&self, id: ChunkId) -> &Mutex<HashSet<ChunkId>> {
        &self.in_flight[usize::from(id.0[0]) % SHARDS]
    }

    /// Notes a failure; the first one counts.
    fn fail(&self, error: RepoError) {
        lock(&self.failure).get_or_insert(error);
    }

    /// Whether some part has failed: work still going on is in vain.
    pub fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }
}

impl<'r> Intake<'r> {
    /// A writer for one thread.
    pub fn writer(&self) -> SegmentWriter<'_, 'r> {
        SegmentWriter {
            intake: self,
            data: BlobPacker::new(ChunkKind::Data),
            map: BlobPacker::new(ChunkKind::Map),
            window: Window::default(),
            list: Vec::new(),
            zeros: 0,
            near: None,
        }
    }

    /// A fresh id for the backup.
    pub fn backup_id(&self) -> BackupId {
        BackupId(super::ids::random())
    }
}

/// Takes segments in, on one thread.
pub struct SegmentWriter<'i, 'r> {
    intake: &'i Intake<'r>,
    data: BlobPacker,
    map: BlobPacker,
    /// Bytes being cut; kept for its memory.
    window: Window,
    /// The list being made, without the zeros at its end.
    list: Vec<u8>,
    /// Zero bytes at its end so far.
    zeros: u32,
    /// The pack that the last known chunk was found in, and which of its chunks that is: its neighbours probably come next.
    near: Option<(Arc<OpenPack>, usize)>,
}

impl SegmentWriter<'_, '_> {
    /// Takes in one segment; gives the id of its list, [`ChunkId::ZERO`] for zeros alone.
    ///
    /// # Errors
    /// [`RepoError::GivenUp`] if another part failed; else what the index or the codec say.
    pub fn store_segment(&mut self, segment: &[u8]) -> Result<ChunkId, RepoError> {
        self.append(0..segment.len(), &[], |at, part| {
            part.copy_from_slice(&segment[at..at + part.len()]);
            Ok::<_, RepoError>(())
        })?;
        self.finish_list()
    }

    /// Cuts the bytes at `range` of a segment and appends the pieces to the list being made. `read` is called with
    /// positions in the segment, in order, and fills what it is given. `recorded` is how an earlier backup cut the whole
    /// segment, if that is known: it saves work where the bytes are the same, and changes nothing else.
    ///
    /// # Errors
    /// As [`SegmentWriter::store_segment`], and those of `read`.
    pub fn append<E: From<RepoError>>(
        &mut self,
        range: Range<usize>,
        recorded: &[ListEntry],
        mut read: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let intake = self.intake;
        // In portions that stay in a core's cache, rather than the whole segment.
        let mut window = std::mem::take(&mut self.window);
        let mut recorded = Recorded::new(recorded);
        let (mut cut_to, mut read_to) = (range.start, range.start);
        while cut_to < range.end {
            // All portions but the last end with a page, so that the next one can be read directly.
            let end = range.end.min((cut_to + intake.chunker.window_bytes()) / PAGE_BYTES * PAGE_BYTES);
            read(read_to, window.extend(read_to, end - read_to))?;
            read_to = end;
            let bytes = window.bytes();
            let more = read_to < range.end;
            let same = recorded.settle(cut_to, bytes, more, intake.chunker.decided_by(), |chunk| {
                intake.repository.keys().chunk_id(ChunkKind::Data, chunk)
            });
            let mut cut = 0;
            for entry in same.entries {
                let begin = cut;
                cut += entry.len() as usize;
                if let ListEntry::Chunk(id, _) = entry {
                    self.store_chunk(ChunkKind::Data, *id, &bytes[begin..cut])?;
                }
                self.append_entry(*entry);
            }
            if same.differs || cut == 0 {
                let rest = &bytes[cut..];
                cut += intake.chunker.cut_portion(cut_to + cut, rest, more, |piece| match piece {
                    Piece::Zero(range) => {
                        self.append_entry(ListEntry::Zero(range.len() as u32)); // ≤ a segment, 4 MiB
                        Ok(())
                    }
                    Piece::Chunk(range) => self.append_chunk(&rest[range]),
                })?;
            }
            window.release(cut);
            cut_to += cut;
        }
        self.window = window;
        Ok(())
    }

    fn append_chunk(&mut self, chunk: &[u8]) -> Result<(), RepoError> {
        let id = self.intake.repository.keys().chunk_id(ChunkKind::Data, chunk);
        self.store_chunk(ChunkKind::Data, id, chunk)?;
        self.append_entry(ListEntry::Chunk(id, chunk.len() as u32));
        Ok(())
    }

    /// Appends an entry that the repository is known to hold to the list being made.
    pub fn append_entry(&mut self, entry: ListEntry) {
        // Neighbouring zero runs are one, so that equal bytes give equal lists however they came.
        match entry {
            ListEntry::Zero(len) => self.zeros += len,
            ListEntry::Chunk(..) => {
                self.flush_zeros();
                push_entry(&mut self.list, entry);
            }
        }
    }

    fn flush_zeros(&mut self) {
        if self.zeros > 0 {
            push_entry(&mut self.list, ListEntry::Zero(std::mem::take(&mut self.zeros)));
        }
    }

    /// Stores the list that was made; gives its id, [`ChunkId::ZERO`] for zeros alone.
    ///
    /// # Errors
    /// As [`SegmentWriter::store_segment`].
    pub fn finish_list(&mut self) -> Result<ChunkId, RepoError> {
        if self.list.is_empty() {
            self.zeros = 0;
            return Ok(ChunkId::ZERO);
        }
        self.flush_zeros();
        let list = std::mem::take(&mut self.list);
        let id = self.store_map(&list)?;
        self.list = list;
        self.list.clear();
        Ok(id)
    }

    /// Takes in a part of a map (a list, node or root); gives its id.
    ///
    /// # Errors
    /// As [`SegmentWriter::store_segment`].
    pub fn store_map(&mut self, bytes: &[u8]) -> Result<ChunkId, RepoError> {
        let id = self.intake.repository.keys().chunk_id(ChunkKind::Map, bytes);
        self.store_chunk(ChunkKind::Map, id, bytes)?;
        Ok(id)
    }

    /// Hands over what has been gathered. Must be called at the end: a writer that goes with chunks in hand makes the
    /// whole intake fail.
    ///
    /// # Errors
    /// As [`SegmentWriter::store_segment`].
    pub fn flush(&mut self) -> Result<(), RepoError> {
        while let Some(blob) = self.data.take()? {
            self.send(ChunkKind::Data, blob)?;
        }
        while let Some(blob) = self.map.take()? {
            self.send(ChunkKind::Map, blob)?;
        }
        Ok(())
    }

    fn store_chunk(&mut self, kind: ChunkKind, id: ChunkId, chunk: &[u8]) -> Result<(), RepoError> {
        let counters = &self.intake.state.counters;
        if self.is_known(id)? {
            if kind == ChunkKind::Data {
                counters.deduplicated.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            return Ok(());
        }
        let full = match kind {
            ChunkKind::Data => {
                counters.new.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                self.data.add(id, chunk)?
            }
            ChunkKind::Map => self.map.add(id, chunk)?,
        };
        full.map_or(Ok(()), |blob| self.send(kind, blob))
    }

    /// Whether the chunk is in the repository or on its way; if not, it is now on its way, and the caller must send it.
    ///
    /// The flight is entered before the index is asked: a pack that settles in between is then found in the index.
    fn is_known(&mut self, id: ChunkId) -> Result<bool, RepoError> {
        let state = self.intake.state;
        if let Some((pack, last)) = &mut self.near
            && let Some(position) = pack.directory.position_after(*last, id)
        {
            *last = position;
            return Ok(true);
        }
        if !lock(state.shard(id)).insert(id) {
            return Ok(true);
        }
        match self.intake.repository.find_chunk(id)? {
            Some(found) if self.intake.rotten.contains(&found.pack.id) => Ok(false),
            Some(found) => {
                lock(state.shard(id)).remove(&id);
                lock(&state.relied_on).insert(found.pack.id);
                let position = found.pack.directory.position(id).unwrap_or(0);
                self.near = Some((found.pack, position));
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn send(&self, kind: ChunkKind, blob: PackedBlob) -> Result<(), RepoError> {
        if self.intake.state.has_failed() {
            return Err(RepoError::GivenUp);
        }
        let queue = match kind {
            ChunkKind::Data => &self.intake.data,
            ChunkKind::Map => &self.intake.map,
        };
        queue.send(blob).map_err(|_| RepoError::GivenUp)
    }
}

impl Drop for SegmentWriter<'_, '_> {
    fn drop(&mut self) {
        // They are in flight for good: whoever meets them again takes them for stored.
        if !(self.data.is_empty() && self.map.is_empty()) {
            self.intake.state.chunks_lost.store(true, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is consistent between any two statements; a panic elsewhere ends the run anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
