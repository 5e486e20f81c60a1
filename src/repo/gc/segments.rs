//! Index segments that name packs which are not in use any more: they are written anew without them, so that they do not
//! grow for ever. An aid only: nothing is lost if this never happens.

use std::collections::HashSet;

use crate::repo::error::RepoError;
use crate::repo::ids::PackId;
use crate::repo::pack::writer::FinishedPack;
use crate::repo::store::{ObjectName, StoreError};
use crate::repo::{Repository, quarantine};

/// Directories are published as an index segment whenever so many bytes of them have gathered.
const SEGMENT_BYTES_TARGET: usize = 8 << 20;

/// How segments go that were written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// They are removed.
    Remove,
    /// They are put aside.
    Quarantine,
}

/// Writes anew what names packs that the index, which is up to date, does not have. New segments are durable before old
/// ones go; gives how many of these went.
///
/// # Errors
/// What store and index say.
pub fn rewrite(repository: &Repository, old: Old) -> Result<usize, RepoError> {
    let stale = repository.index().stale_segments()?;
    let (mut going, mut gone) = (Vec::new(), 0);
    let mut kept: Vec<FinishedPack> = Vec::new();
    let in_use: HashSet<_> = repository.index().pack_ids()?.into_iter().map(|(id, _)| id).collect();
    for name in stale {
        let Ok(object) = ObjectName::new(&name) else { continue };
        match repository.read_segment(&object) {
            Ok(packs) => kept.extend(packs.into_iter().filter(|pack| in_use.contains(&pack.id))),
            Err(RepoError::Store(StoreError::NotFound { .. })) => {}
            Err(RepoError::Damaged { .. }) => continue, // it stays, for `check` to name it
            Err(error) => return Err(error),
        }
        going.push(object);
        gone += 1;
        if kept.iter().map(|pack| pack.directory.len()).sum::<usize>() >= SEGMENT_BYTES_TARGET {
            replace(repository, old, &mut going, &mut kept)?;
        }
    }
    replace(repository, old, &mut going, &mut kept)?;
    Ok(gone)
}

/// Publishes the directories of packs that the index has and that are not among `named`, nor in `without`; gives how many.
///
/// # Errors
/// What store and index say.
pub fn complete(
    repository: &Repository,
    named: &HashSet<PackId>,
    without: &HashSet<PackId>,
) -> Result<usize, RepoError> {
    let mut gathered: Vec<FinishedPack> = Vec::new();
    let mut published = 0;
    repository.index().each_pack(|pack| {
        if named.contains(&pack.id) || without.contains(&pack.id) {
            return Ok(());
        }
        published += 1;
        gathered.push(pack);
        if gathered.iter().map(|pack| pack.directory.len()).sum::<usize>() >= SEGMENT_BYTES_TARGET {
            repository.publish_segment(&std::mem::take(&mut gathered))?;
        }
        Ok(())
    })?;
    if !gathered.is_empty() {
        repository.publish_segment(&gathered)?;
    }
    Ok(published)
}

fn replace(
    repository: &Repository,
    old: Old,
    going: &mut Vec<ObjectName>,
    kept: &mut Vec<FinishedPack>,
) -> Result<(), RepoError> {
    if !kept.is_empty() {
        repository.publish_segment(&std::mem::take(kept))?;
    }
    for object in going.iter() {
        match old {
            Old::Quarantine => drop(quarantine::put(repository.store(), object, object)?),
            Old::Remove => match repository.store().remove(object) {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
    repository.index().forget_segments(going.iter().map(ObjectName::as_str))?;
    going.clear();
    Ok(())
}
