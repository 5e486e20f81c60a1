//! What is left of damaged packs, and how it is saved.
//!
//! A blob is sound if it opens and all its chunks have their ids; who says where it lies in the pack does not matter: the
//! pack itself, this host's index, or an index segment. So a pack without its header, directory or end still gives back
//! every blob that is whole.
//!
//! In here: looking ([`examine`]), copies in other packs ([`copies`]), writing anew what is sound ([`rescue`]). Not in here:
//! when that is done, and what becomes of the pack (`ops::check`).

use std::collections::{HashMap, HashSet};

use super::error::RepoError;
use super::ids::{ChunkId, PackId};
use super::new_packs::{NewPacks, settle};
use super::pack::reader::{self, OpenPack};
use super::pack::writer::FinishedPack;
use super::pack::{ChunkPlace, Directory};
use super::seal::{ChunkKind, Kind};
use super::store::{ObjectName, StoreError};
use super::{Repository, config, settle_packs};

/// A damaged pack, blob by blob.
pub struct Remains {
    /// The pack.
    pub id: PackId,
    /// Where it lies.
    pub place: ObjectName,
    /// `None` if nobody knows any more what lies where.
    open: Option<OpenPack>,
    /// By the blobs' numbers.
    sound: Vec<bool>,
}

impl Remains {
    /// Whether it is known what lies where in it.
    pub fn is_known(&self) -> bool {
        self.open.is_some()
    }

    /// Whether all of it is sound: then the damage is in what nobody needs, such as the padding, or there is none.
    pub fn is_all_sound(&self) -> bool {
        self.is_known() && self.sound.iter().all(|sound| *sound)
    }

    /// Whether a blob is sound.
    pub fn is_sound(&self, blob: u32) -> bool {
        self.sound.get(blob as usize).copied().unwrap_or(false)
    }

    /// A chunk in a sound blob.
    pub fn find(&self, id: ChunkId) -> Option<ChunkPlace> {
        self.open.as_ref()?.directory.find(id).filter(|place| self.is_sound(place.blob))
    }

    /// All its chunks, and whether each is sound.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkId, bool)> {
        let chunks = self.open.iter().flat_map(|open| open.directory.chunks());
        chunks.map(|(id, place)| (*id, self.is_sound(place.blob)))
    }

    /// How many chunks are lost with it, as far as it is known what was in it.
    pub fn lost(&self) -> usize {
        self.chunks().filter(|(_, sound)| !sound).count()
    }

    /// Reads a chunk that [`Remains::find`] has found.
    ///
    /// # Errors
    /// As [`OpenPack::read_blob`].
    pub fn read(&self, repository: &Repository, id: ChunkId) -> Result<Option<Vec<u8>>, RepoError> {
        let (Some(open), Some(place)) = (&self.open, self.find(id)) else { return Ok(None) };
        let blob = open.read_blob(repository.store(), place.blob)?;
        blob.chunk(repository.keys(), id, place.at).map(|chunk| Some(chunk.to_vec()))
    }
}

/// Tries once more what failed; a medium may be slow to wake, and what is said to be damaged may be moved away.
///
/// # Errors
/// What `work` says the second time.
pub fn twice<T>(mut work: impl FnMut() -> Result<T, RepoError>) -> Result<T, RepoError> {
    match work() {
        Err(RepoError::Damaged { .. } | RepoError::Store(StoreError::Io { .. } | StoreError::Short { .. })) => work(),
        outcome => outcome,
    }
}

/// Whether an error is about the object that was read, rather than about this host or the whole store: a mount that went
/// away must not make every object look damaged.
pub fn is_of_object(repository: &Repository, error: &RepoError) -> bool {
    match error {
        RepoError::Damaged { .. } | RepoError::Unsupported { .. } | RepoError::MissingChunk { .. } => true,
        RepoError::Store(StoreError::Short { .. } | StoreError::TooLarge { .. } | StoreError::NotFound { .. }) => true,
        RepoError::Store(StoreError::Io { .. }) => config::Config::load(repository.store()).is_ok(),
        _ => false,
    }
}

/// Whether an object with this error may be whole, and written by a later version: what is authentic and not understood.
/// It is left where it is.
pub fn may_be_later(error: &RepoError) -> bool {
    let RepoError::Damaged { field, .. } = error else { return matches!(error, RepoError::Unsupported { .. }) };
    const AUTHENTIC: [&str; 8] = [
        "version and flags",
        "epoch",
        "directory",
        "manifest",
        "payload",
        "payload length",
        "backup id",
        "index segment",
    ];
    AUTHENTIC.contains(field)
}

/// What index segments say of `wanted` packs, whatever the store says of these; for packs that cannot speak for themselves.
///
/// # Errors
/// [`RepoError::Store`].
pub fn named_in_segments(
    repository: &Repository,
    wanted: &HashSet<PackId>,
) -> Result<HashMap<PackId, FinishedPack>, RepoError> {
    let mut named = HashMap::new();
    if wanted.is_empty() {
        return Ok(named);
    }
    for segment in repository.segment_names()? {
        match repository.read_segment(&segment) {
            Ok(packs) => named.extend(packs.into_iter().filter(|p| wanted.contains(&p.id)).map(|p| (p.id, p))),
            Err(error) if is_of_object(repository, &error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}

/// Opens the pack `id` that lies at `place` with the help of whoever knows what is in it.
///
/// # Errors
/// [`RepoError::Index`].
pub fn open(
    repository: &Repository,
    id: PackId,
    place: &ObjectName,
    named: &HashMap<PackId, FinishedPack>,
) -> Result<Option<OpenPack>, RepoError> {
    let (store, keys) = (repository.store(), repository.keys());
    let own = twice(|| reader::read_record_at(store, keys, id, place)).ok();
    let open = |record: &FinishedPack| OpenPack::from_index(keys, record).ok().map(|open| open.lying_at(place));
    let mut found = own.as_ref().and_then(open);
    if found.is_none() {
        found = repository.index().record_of(id)?.as_ref().and_then(open);
    }
    Ok(found.or_else(|| named.get(&id).and_then(open)))
}

/// Looks at every blob of the pack `id` that lies at `place`. `named` is what [`named_in_segments`] gave.
///
/// # Errors
/// [`RepoError::Interrupted`] if `stop` says so, [`RepoError::Index`]; [`RepoError::Store`] if the store is gone as a whole.
pub fn examine(
    repository: &Repository,
    id: PackId,
    place: &ObjectName,
    named: &HashMap<PackId, FinishedPack>,
    stop: &dyn Fn() -> bool,
) -> Result<Remains, RepoError> {
    let (store, keys) = (repository.store(), repository.keys());
    let Some(open) = open(repository, id, place, named)? else {
        return Ok(Remains { id, place: place.clone(), open: None, sound: Vec::new() });
    };
    let mut sound = Vec::with_capacity(open.directory.blobs().len());
    for number in 0..u32::try_from(open.directory.blobs().len()).expect("the directory counts in 32 bits") {
        if stop() {
            return Err(RepoError::Interrupted);
        }
        match twice(|| open.read_blob(store, number)?.verify(keys)) {
            Ok(_) => sound.push(true),
            Err(error) if is_of_object(repository, &error) => sound.push(false),
            Err(error) => return Err(error),
        }
    }
    Ok(Remains { id, place: place.clone(), open: Some(open), sound })
}

/// The packs of the index, other than those in `without`, that say they hold chunks of `wanted`.
///
/// # Errors
/// [`RepoError::Index`].
pub fn copies(
    repository: &Repository,
    wanted: &HashSet<ChunkId>,
    without: &HashSet<PackId>,
) -> Result<HashMap<ChunkId, PackId>, RepoError> {
    let mut copies = HashMap::new();
    if wanted.is_empty() {
        return Ok(copies);
    }
    repository.index().each_pack(|pack| {
        if without.contains(&pack.id) {
            return Ok(());
        }
        let Ok(directory) = Directory::decode(&pack.directory, pack.len) else { return Ok(()) };
        for (id, _) in directory.chunks().iter().filter(|(id, _)| wanted.contains(id)) {
            copies.insert(*id, pack.id);
        }
        Ok(())
    })?;
    Ok(copies)
}

/// Reads copies, a blob once, so that nobody relies on what only a directory says.
#[derive(Default)]
pub struct CopyReader {
    read: HashMap<(PackId, u32), bool>,
    open: Option<OpenPack>,
}

impl CopyReader {
    /// Whether `pack` gives the chunk `id` back.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn gives(&mut self, repository: &Repository, pack: PackId, id: ChunkId) -> Result<bool, RepoError> {
        if self.open.as_ref().is_none_or(|open| open.id != pack) {
            let record = repository.index().record_of(pack)?;
            self.open = record.and_then(|record| OpenPack::from_index(repository.keys(), &record).ok());
        }
        let Some(open) = &self.open else { return Ok(false) };
        let Some(place) = open.directory.find(id) else { return Ok(false) };
        let read = || {
            let verified = twice(|| open.read_blob(repository.store(), place.blob)?.verify(repository.keys()));
            verified.is_ok()
        };
        Ok(*self.read.entry((pack, place.blob)).or_insert_with(read))
    }
}

/// What a rescue wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rescued {
    /// Chunks.
    pub chunks: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// Writes what is sound in `remains` into new packs, durably and published, if `wanted` says so and no other pack but those
/// in `damaged` gives it back. All of it, not only what backups need: a run at work may rely on any of it.
///
/// # Errors
/// [`RepoError::Interrupted`], what store and index say. What was written until then is nobody's.
pub fn rescue(
    repository: &Repository,
    remains: &[Remains],
    damaged: &HashSet<PackId>,
    wanted: &dyn Fn(ChunkId) -> bool,
    stop: &dyn Fn() -> bool,
) -> Result<Rescued, RepoError> {
    let mut rescued = Rescued::default();
    let mut finished = Vec::new();
    let mut taken: HashSet<ChunkId> = HashSet::new();
    // Packs whose copies are why something is not written: they must be as durable as what is.
    let mut relied_on: HashSet<PackId> = HashSet::new();
    let mut reader = CopyReader::default();
    let sound = remains.iter().flat_map(Remains::chunks).filter(|(id, sound)| *sound && wanted(*id)).map(|(id, _)| id);
    let copies = copies(repository, &sound.collect(), damaged)?;
    for (kind, chunk_kind) in [(Kind::DataPack, ChunkKind::Data), (Kind::MapPack, ChunkKind::Map)] {
        let mut new = NewPacks::new(repository, kind);
        for pack in remains {
            let Some(open) = pack.open.as_ref().filter(|open| open.chunk_kind() == chunk_kind) else { continue };
            for number in (0..).take(open.directory.blobs().len()).filter(|number| pack.is_sound(*number)) {
                if stop() {
                    return Err(RepoError::Interrupted);
                }
                let mut missing = Vec::new();
                for (id, place) in open.directory.chunks_of_blob(number) {
                    let has_copy = match copies.get(id) {
                        Some(copy) => reader.gives(repository, *copy, *id)?,
                        None => false,
                    };
                    relied_on.extend(copies.get(id).filter(|_| has_copy));
                    if !has_copy && wanted(*id) && taken.insert(*id) {
                        missing.push((*id, *place));
                    }
                }
                if missing.is_empty() {
                    continue;
                }
                let (packed, plain) = twice(|| open.read_packed(repository.store(), repository.keys(), number))?;
                rescued.chunks += missing.len() as u64;
                if missing.len() == packed.chunks.len() {
                    new.add_blob(packed)?;
                    continue;
                }
                for (id, place) in missing {
                    new.add_chunk(id, plain.chunk(repository.keys(), id, place.at)?)?;
                }
            }
        }
        finished.extend(new.finish()?);
    }
    settle_packs(repository.store(), relied_on.into_iter())?;
    settle(repository, finished, &mut |pack, _| {
        rescued.packs += 1;
        rescued.bytes += pack.len;
    })?;
    Ok(rescued)
}
