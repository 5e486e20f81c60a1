//! Writing what is needed of some packs into new ones. Blobs that are needed whole are taken over as they are packed; of
//! others the chunks that are needed go into new blobs. Whatever is read is verified down to its chunks' ids.
//!
//! When this returns, the new packs are durable and published in an index segment; the old ones have not been touched.

use super::mark::Marks;
use super::plan::PackUse;
use crate::repo::Repository;
use crate::repo::error::RepoError;
use crate::repo::ids::PackId;
use crate::repo::new_packs::{NewPacks, settle};
use crate::repo::pack::Directory;
use crate::repo::pack::reader::{self, OpenPack};
use crate::repo::parity;
use crate::repo::seal::Kind;
use crate::repo::store::StoreError;

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
        let mut writer = NewPacks::new(repository, kind);
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
    settle(repository, finished, &mut |pack, directory| {
        marks.add_live_pack(pack.id, directory.chunks().len());
        repacked.new.push(pack.id);
        repacked.written += pack.len;
    })?;
    for id in &repacked.new {
        repacked.written += parity::stored_bytes(repository.store(), *id)?;
    }
    Ok(repacked)
}

fn copy(
    repository: &Repository,
    marks: &Marks<'_>,
    pack: &PackUse,
    writer: &mut NewPacks<'_>,
) -> Result<(), RepoError> {
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
            writer.add_blob(packed)?;
            continue;
        }
        for (_, (id, place)) in chunks.iter().enumerate().filter(|(at, _)| is_live(*at)) {
            writer.add_chunk(*id, plain.chunk(keys, *id, place.at)?)?;
        }
    }
    Ok(())
}
