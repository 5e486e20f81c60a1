//! Index segments that name packs which are not in use any more: they are written anew without them, so that they do not
//! grow for ever. An aid only: nothing is lost if this never happens.

use crate::repo::Repository;
use crate::repo::error::RepoError;
use crate::repo::pack::writer::FinishedPack;
use crate::repo::store::{ObjectName, StoreError};

/// Directories are published as an index segment whenever so many bytes of them have gathered.
const SEGMENT_BYTES_TARGET: usize = 8 << 20;

/// Writes anew what names packs that the index, which is up to date, does not have. New segments are durable before old
/// ones go.
///
/// # Errors
/// What store and index say.
pub fn rewrite(repository: &Repository) -> Result<(), RepoError> {
    let stale = repository.index().stale_segments()?;
    let mut going = Vec::new();
    let mut kept: Vec<FinishedPack> = Vec::new();
    let in_use: std::collections::HashSet<_> = repository.index().pack_ids()?.into_iter().map(|(id, _)| id).collect();
    for name in stale {
        let Ok(object) = ObjectName::new(&name) else { continue };
        match repository.read_segment(&object) {
            Ok(packs) => kept.extend(packs.into_iter().filter(|pack| in_use.contains(&pack.id))),
            Err(RepoError::Store(StoreError::NotFound { .. })) => {}
            Err(RepoError::Damaged { .. }) => continue, // it stays, for `check` to name it
            Err(error) => return Err(error),
        }
        going.push(object);
        if kept.iter().map(|pack| pack.directory.len()).sum::<usize>() >= SEGMENT_BYTES_TARGET {
            replace(repository, &mut going, &mut kept)?;
        }
    }
    replace(repository, &mut going, &mut kept)
}

fn replace(
    repository: &Repository,
    going: &mut Vec<ObjectName>,
    kept: &mut Vec<FinishedPack>,
) -> Result<(), RepoError> {
    if !kept.is_empty() {
        repository.publish_segment(&std::mem::take(kept))?;
    }
    for object in going.drain(..) {
        match repository.store().remove(&object) {
            Ok(()) | Err(StoreError::NotFound { .. }) => repository.index().forget_segment(object.as_str())?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
