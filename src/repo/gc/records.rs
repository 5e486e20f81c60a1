//! What prunes tell each other: tombstones before packs are moved, closings after.
//!
//! *Tombstones* of generation N name the packs that N is about to move, and are durable before the first move: a pack
//! that is gone and has a tombstone was taken out of use; one without was lost. Forgotten backups that N is about to give up
//! for good have an object of their own beside it, `N.removed`: so every host can tell a pruned backup from one that vanished.
//!
//! A *closing* of generation N says what lay in the trash, which manifests were forgotten, and which packs nothing needed,
//! and *then* which sessions there were. The order is what makes it worth something: a session that it does not name
//! began later, so its writer never saw these packs in use nor these manifests among the backups. Once every session it
//! names has ended, the closing is *settled*: whatever needs something of it is published by now, and can be seen.
//!
//! Both are small sealed objects holding JSON (docs/FORMAT.md, "Tombstones" and "Closings").

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::repo::error::RepoError;
use crate::repo::ids::{BackupId, ObjectId, PackId};
use crate::repo::object;
use crate::repo::seal::{Keys, Kind};
use crate::repo::session::numbered;
use crate::repo::store::{self, ObjectName, ObjectStore, StoreError};

/// Folder of tombstones in the store.
pub const TOMBSTONES: &str = "tombstones";
/// Folder of closings in the store.
pub const CLOSINGS: &str = "closings";
/// How the names of tombstones end that are for backups.
const GIVEN_UP: &str = ".removed";
/// So many generations' tombstones are kept. An index that was not brought up to date for longer is built anew.
pub const TOMBSTONES_KEPT: u64 = 400;

/// The packs that a prune is about to move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tombstones {
    /// The prune's generation, as in the name.
    pub generation: u64,
    /// The packs.
    pub packs: Vec<PackId>,
    /// Forgotten backups whose manifests go for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupId>,
}

/// What a prune left behind it, and who was at work then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closing {
    /// The prune's generation, as in the name.
    pub generation: u64,
    /// Every pack in the trash: the generation that moved it, its id.
    pub trash: Vec<(u64, PackId)>,
    /// Names of the forgotten manifests, without their folder.
    pub removed: Vec<String>,
    /// Packs in use that nothing needed: of runs that died, or of one that was at work.
    pub orphans: Vec<PackId>,
    /// The sessions there were, listed after all of the above.
    pub sessions: Vec<ObjectId>,
}

impl Closing {
    /// Whether every session that it names has ended.
    pub fn is_settled(&self, alive: &HashSet<ObjectId>) -> bool {
        !self.sessions.iter().any(|session| alive.contains(session))
    }
}

fn name(folder: &str, generation: u64) -> ObjectName {
    ObjectName::new(&format!("{folder}/{}", numbered(generation))).expect("digits make a good name")
}

/// Makes tombstones durable.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put_tombstones(store: &dyn ObjectStore, keys: &Keys, tombstones: &Tombstones) -> Result<(), RepoError> {
    let payload = serde_json::to_vec(tombstones).expect("plain data serialises");
    object::put(store, keys, Kind::Tombstones, &name(TOMBSTONES, tombstones.generation), &payload)
}

/// Makes it durable that these forgotten backups are about to go for good.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put_given_up(
    store: &dyn ObjectStore,
    keys: &Keys,
    generation: u64,
    backups: Vec<BackupId>,
) -> Result<(), RepoError> {
    let tombstones = Tombstones { generation, packs: Vec::new(), backups };
    let payload = serde_json::to_vec(&tombstones).expect("plain data serialises");
    let name = ObjectName::new(&format!("{}{GIVEN_UP}", name(TOMBSTONES, generation))).expect("as good as without");
    object::put(store, keys, Kind::Tombstones, &name, &payload)
}

/// Makes a closing durable.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put_closing(store: &dyn ObjectStore, keys: &Keys, closing: &Closing) -> Result<(), RepoError> {
    let payload = serde_json::to_vec(closing).expect("plain data serialises");
    object::put(store, keys, Kind::Closing, &name(CLOSINGS, closing.generation), &payload)
}

/// Reads one tombstones object.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn load_tombstones(store: &dyn ObjectStore, keys: &Keys, name: &ObjectName) -> Result<Tombstones, RepoError> {
    object::get_json(store, keys, Kind::Tombstones, name)
}

/// Reads one closing.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn load_closing(store: &dyn ObjectStore, keys: &Keys, name: &ObjectName) -> Result<Closing, RepoError> {
    object::get_json(store, keys, Kind::Closing, name)
}

/// The generation in a tombstones' or closing's name.
pub fn generation_of(name: &ObjectName) -> Option<u64> {
    let number = name.last_part();
    number.strip_suffix(GIVEN_UP).unwrap_or(number).parse().ok()
}

/// Every closing that can be read, oldest first. One that is damaged is as good as none: what it knew is found out again.
///
/// # Errors
/// [`RepoError::Store`].
pub fn closings(store: &dyn ObjectStore, keys: &Keys) -> Result<Vec<(ObjectName, Closing)>, RepoError> {
    let mut closings = Vec::new();
    for name in store::names(store, CLOSINGS)? {
        match load_closing(store, keys, &name) {
            Ok(closing) => closings.push((name, closing)),
            Err(RepoError::Damaged { .. } | RepoError::Store(StoreError::NotFound { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(closings)
}

/// Every pack that has a tombstone.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn entombed(store: &dyn ObjectStore, keys: &Keys) -> Result<HashSet<PackId>, RepoError> {
    let mut packs = HashSet::new();
    for name in store::names(store, TOMBSTONES)? {
        match load_tombstones(store, keys, &name) {
            Ok(tombstones) => packs.extend(tombstones.packs),
            // Without it, packs that were pruned look lost: that costs a warning and a full read, and no data.
            Err(RepoError::Damaged { .. } | RepoError::Store(StoreError::NotFound { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(packs)
}

/// Every forgotten backup that a prune gave up for good, or was about to.
///
/// # Errors
/// [`RepoError::Store`].
pub fn given_up(store: &dyn ObjectStore, keys: &Keys) -> Result<HashSet<BackupId>, RepoError> {
    let mut backups = HashSet::new();
    for name in store::names(store, TOMBSTONES)?.iter().filter(|name| name.as_str().ends_with(GIVEN_UP)) {
        match load_tombstones(store, keys, name) {
            Ok(tombstones) => backups.extend(tombstones.backups),
            // Without it, backups that were pruned look vanished: that costs an alarm, and no data.
            Err(RepoError::Damaged { .. } | RepoError::Store(StoreError::NotFound { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(backups)
}
