//! Records whose packs are gone for good. A pack that moves keeps its record, wherever it lies.
//!
//! Records are listed before packs, as a writer stores them after their packs; and packs are looked for twice, as one that
//! moves from folder to folder may be missed once. Should it be missed all the same, a scrub makes its record anew.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::{FOLDER, heal, id_of};
use crate::repo::error::RepoError;
use crate::repo::gc::trash;
use crate::repo::ids::PackId;
use crate::repo::listed_packs;
use crate::repo::store::ObjectStore;

/// Removes records whose packs are neither in use, nor in the trash, nor in the quarantine. Gives how many, and their bytes.
///
/// # Errors
/// [`RepoError::Store`].
pub fn remove_orphans(store: &dyn ObjectStore) -> Result<(u64, u64), RepoError> {
    let mut orphans = Vec::new();
    store.list(FOLDER, &mut |object| {
        orphans.extend(id_of(&object.name).map(|id| (id, object.len)));
        ControlFlow::Continue(())
    })?;
    for _ in 0..2 {
        if orphans.is_empty() {
            return Ok((0, 0));
        }
        let there = packs_anywhere(store)?;
        orphans.retain(|(id, _)| !there.contains(id));
    }
    let mut bytes = 0;
    for (id, len) in &orphans {
        super::remove(store, *id)?;
        bytes += len;
    }
    Ok((orphans.len() as u64, bytes))
}

fn packs_anywhere(store: &dyn ObjectStore) -> Result<HashSet<PackId>, RepoError> {
    let mut there: HashSet<PackId> = listed_packs(store)?.into_keys().collect();
    there.extend(trash::list(store)?.into_iter().map(|trashed| trashed.id));
    there.extend(heal::unfinished(store)?);
    there.extend(heal::quarantined(store)?);
    Ok(there)
}
