//! Forgotten backups: manifests that were moved out of the way, and can be moved back until a prune has made use of it.
//!
//! Forgetting is one durable rename, from `manifests/ID` to `removed/ID.RANDOM`. The random part makes each forgetting
//! an object of its own: what a prune once decided about a forgotten backup is never taken for a decision about the same
//! backup brought back and forgotten again.
//!
//! Not in here: which backups to forget (`retention`), what becomes of what they held (`prune`).

use std::ops::ControlFlow;

use super::mark::prove;
use super::reserve;
use super::walk::Needs;
use crate::repo::error::RepoError;
use crate::repo::ids::{BackupId, random, to_hex};
use crate::repo::manifest::{self, Manifest};
use crate::repo::seal::Kind;
use crate::repo::session::{self, OpenSession};
use crate::repo::store::{ObjectName, ObjectStore, StoreError};
use crate::repo::{Repository, object, pins};

/// Folder of forgotten manifests in the store.
pub const FOLDER: &str = "removed";
/// Random bytes in a forgotten manifest's name.
const NONCE_BYTES: usize = 8;

/// A forgotten backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forgotten {
    /// The backup.
    pub backup: BackupId,
    /// Where its manifest lies now.
    pub name: ObjectName,
}

/// Forgets a backup. Its manifest is not read: one that is damaged can be forgotten, too.
///
/// # Errors
/// [`RepoError::Store`], with `NotFound` if there is no such backup (any more).
pub fn forget(store: &dyn ObjectStore, backup: BackupId) -> Result<Forgotten, RepoError> {
    let nonce = to_hex(&random::<NONCE_BYTES>());
    let name = ObjectName::new(&format!("{FOLDER}/{backup}.{nonce}")).expect("hex digits make a good name");
    let listed = manifest::object_name(backup);
    match store.rename(&listed, &name) {
        // A medium can be too full for a folder's entry, and forgetting is how it gets room again.
        Err(StoreError::NoSpace { .. }) => {
            reserve::give_up(store)?;
            match store.rename(&listed, &name) {
                // It had been moved, and only making that durable had failed.
                Err(StoreError::NotFound { .. }) if store.len(&name).is_ok() => settle(store)?,
                outcome => outcome?,
            }
        }
        outcome => outcome?,
    }
    Ok(Forgotten { backup, name })
}

/// Makes durable which backups can be seen to be forgotten: who forgot them may have died, or have been told of an error,
/// after they were moved. Otherwise what is deleted because of it could be missing from a backup that a power cut brings
/// back.
///
/// # Errors
/// [`RepoError::Store`].
pub fn settle(store: &dyn ObjectStore) -> Result<(), RepoError> {
    // As a rename does: between the two a power cut may leave both names, but never none.
    store.settle(FOLDER)?;
    Ok(store.settle(manifest::FOLDER)?)
}

/// What became of a backup that was to be forgotten.
#[derive(Debug)]
pub enum Outcome {
    /// It is forgotten.
    Forgotten(Forgotten),
    /// It is pinned, and stays.
    Pinned,
    /// It was forgotten before.
    Gone,
}

/// Forgets a backup, unless it is pinned.
///
/// # Errors
/// As [`forget`], and as [`undo`] if it was pinned at the very instant and cannot be moved back: it can be brought back
/// then at any later time, as no prune gives up what is pinned.
pub fn forget_unless_pinned(repository: &Repository, backup: BackupId) -> Result<Outcome, RepoError> {
    let store = repository.store();
    if pins::is_pinned(store, backup)? {
        return Ok(Outcome::Pinned);
    }
    let forgotten = match forget(store, backup) {
        Ok(forgotten) => forgotten,
        Err(RepoError::Store(StoreError::NotFound { .. })) => return Ok(Outcome::Gone),
        Err(error) => return Err(error),
    };
    // After the move: who pins looks for the manifest after the pin is there, so one of the two sees the other.
    if !pins::is_pinned(store, backup)? {
        return Ok(Outcome::Forgotten(forgotten));
    }
    match load(repository, &forgotten).and_then(|manifest| undo(repository, &forgotten, &manifest)) {
        // Somebody else was faster.
        Err(RepoError::Store(StoreError::NotFound { .. })) | Ok(()) => Ok(Outcome::Pinned),
        Err(error) => Err(error),
    }
}

/// The forgotten backups that can still be looked at, sorted.
///
/// # Errors
/// [`RepoError::Store`].
pub fn list(store: &dyn ObjectStore) -> Result<Vec<Forgotten>, RepoError> {
    let mut all = Vec::new();
    store.list(FOLDER, &mut |object| {
        let parts = object.name.last_part().split_once('.');
        let id = parts.filter(|(_, nonce)| nonce.len() == 2 * NONCE_BYTES).and_then(|(id, _)| id.parse().ok());
        if let Some(backup) = id.filter(|_| object.name.folder() == FOLDER) {
            all.push(Forgotten { backup, name: object.name });
        }
        ControlFlow::Continue(())
    })?;
    all.sort();
    Ok(all)
}

/// Reads the manifest of a forgotten backup.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn load(repository: &Repository, forgotten: &Forgotten) -> Result<Manifest, RepoError> {
    let name = manifest::object_name(forgotten.backup);
    let payload = object::get_moved(repository.store(), repository.keys(), Kind::Manifest, &name, &forgotten.name)?;
    manifest::checked(forgotten.backup, &payload)
}

/// Brings a forgotten backup back, as a writer does that publishes: in a session, everything it needs is proven to be in
/// use, then its manifest gets its place back, and then the session must still be held.
///
/// # Errors
/// [`RepoError::MissingChunk`], [`RepoError::ChunksVanished`] if a prune has deleted some of it; [`RepoError::SessionLost`];
/// [`RepoError::Store`], with `NotFound` if it was pruned or brought back meanwhile. It stays forgotten then.
pub fn undo(repository: &Repository, forgotten: &Forgotten, manifest: &Manifest) -> Result<(), RepoError> {
    let store = repository.store();
    let session = OpenSession::begin(store, repository.keys(), "undo")?;
    let needs = Needs::of(manifest);
    let generation = session::newest_generation(store)?;
    prove(repository, &needs)?;
    session.check()?;
    match store.rename(&forgotten.name, &manifest::object_name(forgotten.backup)) {
        // A power cut during the forgetting left both names.
        Err(StoreError::Exists { .. }) => store.remove(&forgotten.name)?,
        outcome => outcome?,
    }
    let look_again = || {
        session.check()?;
        if session::newest_generation(store)? == generation { Ok(()) } else { prove(repository, &needs) }
    };
    look_again().inspect_err(|_| {
        let _ = forget(store, forgotten.backup);
    })?;
    session.end()
}
