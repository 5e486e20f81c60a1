//! Writing what is needed of some packs into new ones. Blobs that are needed whole are taken over as they are packed; of
//! others the chunks that are needed go into new blobs. Whatever is read is verified down to its chunks' ids.
//!
//! When this returns, the new packs are durable and published in an index segment; the old ones have not been touched.

use super::mark::Marks;
use super::plan::PackUse;
use crate::repo::blob::{BlobPacker, PackedBlob};
use crate::repo::error::RepoError;
use crate::repo::ids::PackId;
use crate::repo::pack::Directory;
use crate::repo::pack::reader::{self, OpenPack};
use crate::repo::pack::writer::{FinishedPack, PackWriter, Padding};
use crate::repo::seal::Kind;
use crate::repo::store::StoreError;
use crate::repo::{Repository, listed_packs, parity};

/// Directories are published as an index segment whenever so many bytes of them have gathered.
const SEGMENT_BYTES_TARGET: usize = 8 << 20;

/// What was written anew.
#[derive(Default)]
pub struct Repacked {
    /// The packs that can go.
    pub old: Vec<PackUse>,
    /// The packs that were written.
    pub new: Vec<PackId>,
    /// Bytes of these.
    pub written: u64,
    /// Packs that could not be read whole, and why: they stay.
    pub unreadable: Vec<(PackId, RepoError)>,
}

/// Writes what is needed of `packs` anew; `done` hears how many bytes of them are done, and says whether to go on.
///
/// # Errors
/// What the store says. Packs written before the error are nobody's; a later prune takes them away.
pub fn repack<'r>(
    repository: &'r Repository,
    marks: &mut Marks<'r>,
    packs: &[PackUse],
    done: &mut dyn FnMut(u64) -> Result<(), RepoError>,
) -> Result<Repacked, RepoError> {
    let mut repacked = Repacked::default();
    let mut finished = Vec::new();
    for kind in [Kind::DataPack, Kind::MapPack] {
        let mut writer = Writer { repository, kind, open: None, loose: BlobPacker::default(), finished: Vec::new() };
        for pack in packs.iter().filter(|pack| pack.kind == kind) {
            match copy(repository, marks, pack, &mut writer) {
                Ok(()) => repacked.old.push(pack.clone()),
                // What was copied before it failed is stored twice for now.
                Err(error @ RepoError::Damaged { .. }) => repacked.unreadable.push((pack.id, error)),
                // Another prune was first.
                Err(RepoError::Store(StoreError::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
            done(pack.len)?;
        }
        finished.extend(writer.finish()?);
    }
    let mut unpublished: Vec<FinishedPack> = Vec::new();
    for pack in finished {
        for directory in repository.add_to_index(std::slice::from_ref(&pack))? {
            marks.add_live_pack(pack.id, directory.chunks().len());
        }
        repacked.new.push(pack.id);
        repacked.written += pack.len + parity::stored_bytes(repository.store(), pack.id)?;
        unpublished.push(pack);
        if unpublished.iter().map(|pack| pack.directory.len()).sum::<usize>() >= SEGMENT_BYTES_TARGET {
            repository.publish_segment(&std::mem::take(&mut unpublished))?;
        }
    }
    if !unpublished.is_empty() {
        repository.publish_segment(&unpublished)?;
    }
    // The last look before the old ones go: the new ones must be in the store's own listing.
    let listed = listed_packs(repository.store())?;
    let missing: Vec<&PackId> = repacked.new.iter().filter(|id| !listed.contains_key(*id)).collect();
    match missing.first() {
        Some(first) => Err(RepoError::PacksVanished { count: missing.len(), first: first.to_string() }),
        None => Ok(repacked),
    }
}

fn copy(repository: &Repository, marks: &Marks<'_>, pack: &PackUse, writer: &mut Writer<'_>) -> Result<(), RepoError> {
    let (store, keys) = (repository.store(), repository.keys());
    let old = OpenPack::from_index(keys, &reader::read_record(store, keys, pack.id)?)?;
    let mut position = 0;
    for number in 0..u32::try_from(old.directory.blobs().len()).expect("the directory counts in 32 bits") {
        let chunks = Directory::chunks_of_blob(&old.directory, number);
        let first = position;
        position += chunks.len();
        let is_live = |at: usize| marks.is_live(pack.id, first + at);
        let live = (0..chunks.len()).filter(|at| is_live(*at)).count();
        if live == 0 {
            continue;
        }
        let (packed, plain) = old.read_packed(store, keys, number)?;
        if live == chunks.len() {
            writer.add(packed)?;
            continue;
        }
        for (_, (id, place)) in chunks.iter().enumerate().filter(|(at, _)| is_live(*at)) {
            if let Some(full) = writer.loose.add(*id, plain.chunk(keys, place.at)?)? {
                writer.add(full)?;
            }
        }
    }
    Ok(())
}

struct Writer<'r> {
    repository: &'r Repository,
    kind: Kind,
    open: Option<PackWriter<'r>>,
    /// Chunks of blobs that are not needed whole.
    loose: BlobPacker,
    finished: Vec<FinishedPack>,
}

impl Writer<'_> {
    fn add(&mut self, blob: PackedBlob) -> Result<(), RepoError> {
        if let Some(full) = self.open.take_if(|pack| !pack.fits(&blob)) {
            self.finished.push(full.finish(Padding::Full)?);
        }
        let pack = match &mut self.open {
            Some(pack) => pack,
            none => none.insert(self.repository.begin_pack(self.kind)?),
        };
        pack.add(blob)
    }

    fn finish(mut self) -> Result<Vec<FinishedPack>, RepoError> {
        if let Some(last) = self.loose.take()? {
            self.add(last)?;
        }
        if let Some(last) = self.open.take() {
            self.finished.push(last.finish(Padding::SizeClass)?);
        }
        Ok(self.finished)
    }
}
