//! Chunks that the repository had before, written into new packs: what a prune keeps of packs that it takes out of use, what
//! a repair saves of damaged ones.
//!
//! [`NewPacks`] fills packs of one kind; [`settle`] makes them part of the repository: index, index segment, and a last look
//! at the store's own listing. Until something refers to them they are garbage that a prune takes away, and a session of
//! the caller's keeps it from doing so too early.

use super::blob::{BlobPacker, PackedBlob};
use super::error::RepoError;
use super::ids::{ChunkId, PackId};
use super::pack::Directory;
use super::pack::writer::{FinishedPack, PackWriter, Padding};
use super::seal::{ChunkKind, Kind};
use super::{Repository, listed_packs};

/// Directories are published as an index segment whenever so many bytes of them have gathered.
const SEGMENT_BYTES_TARGET: usize = 8 << 20;

/// Packs of one kind, being written.
pub struct NewPacks<'r> {
    repository: &'r Repository,
    kind: Kind,
    open: Option<PackWriter<'r>>,
    /// Chunks that come one by one.
    loose: BlobPacker,
    finished: Vec<FinishedPack>,
}

impl<'r> NewPacks<'r> {
    /// None yet.
    pub fn new(repository: &'r Repository, kind: Kind) -> NewPacks<'r> {
        let loose = BlobPacker::new(ChunkKind::in_pack(kind));
        NewPacks { repository, kind, open: None, loose, finished: Vec::new() }
    }

    /// Adds a blob as it was packed.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn add_blob(&mut self, blob: PackedBlob) -> Result<(), RepoError> {
        if let Some(full) = self.open.take_if(|pack| !pack.fits(&blob)) {
            self.finished.push(full.finish(Padding::Full)?);
        }
        let pack = match &mut self.open {
            Some(pack) => pack,
            none => none.insert(self.repository.begin_pack(self.kind)?),
        };
        pack.add(blob)
    }

    /// Adds a chunk, whose id is known to be right.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::BlobNotReproduced`].
    pub fn add_chunk(&mut self, id: ChunkId, chunk: &[u8]) -> Result<(), RepoError> {
        match self.loose.add(id, chunk)? {
            Some(full) => self.add_blob(full),
            None => Ok(()),
        }
    }

    /// Finishes the last of them: all are durable then.
    ///
    /// # Errors
    /// As [`NewPacks::add_chunk`].
    pub fn finish(mut self) -> Result<Vec<FinishedPack>, RepoError> {
        while let Some(last) = self.loose.take()? {
            self.add_blob(last)?;
        }
        if let Some(last) = self.open.take() {
            self.finished.push(last.finish(Padding::SizeClass)?);
        }
        Ok(self.finished)
    }
}

/// Makes durable packs known: in the index, in index segments. `each` sees them one by one.
///
/// # Errors
/// [`RepoError::PacksVanished`] if the store does not list one of them afterwards; what store and index say.
pub fn settle(
    repository: &Repository,
    packs: Vec<FinishedPack>,
    each: &mut dyn FnMut(&FinishedPack, &Directory),
) -> Result<(), RepoError> {
    let ids: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut unpublished: Vec<FinishedPack> = Vec::new();
    for pack in packs {
        for directory in repository.add_to_index(std::slice::from_ref(&pack))? {
            each(&pack, &directory);
        }
        unpublished.push(pack);
        if unpublished.iter().map(|pack| pack.directory.len()).sum::<usize>() >= SEGMENT_BYTES_TARGET {
            repository.publish_segment(&std::mem::take(&mut unpublished))?;
        }
    }
    if !unpublished.is_empty() {
        repository.publish_segment(&unpublished)?;
    }
    // The last look before old ones go: the new ones must be in the store's own listing.
    let listed = listed_packs(repository.store())?;
    let missing: Vec<&PackId> = ids.iter().filter(|id| !listed.contains_key(*id)).collect();
    match missing.first() {
        Some(first) => Err(RepoError::PacksVanished { count: missing.len(), first: first.to_string() }),
        None => Ok(()),
    }
}
