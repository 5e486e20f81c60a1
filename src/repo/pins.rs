//! Pins: a pinned backup is forgotten neither by rules nor by name, until somebody unpins it.
//!
//! A pin is a small sealed object of its own under the id of the backup that it pins (docs/FORMAT.md, "Pins"): whose pin it
//! is can be seen from its name, so one that is damaged pins all the same. Nothing but [`remove`] takes a pin away.
//!
//! Against a forgetting at the same instant: who pins writes the pin and *then* looks whether the backup is still there;
//! who forgets moves the manifest and *then* looks for a pin. Whatever the order, at least one sees the other. And a
//! prune gives up no forgotten backup that has a pin.
//!
//! Not in here: which backups to forget (`gc::retention`), the forgetting (`gc::forgotten`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::ids::BackupId;
use super::manifest;
use super::object;
use super::seal::{Keys, Kind};
use super::store::{ObjectName, ObjectStore, StoreError};

/// Folder of pins in the store.
pub const FOLDER: &str = "pins";

/// What a pin says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The backup that is pinned, as in the pin's name.
    pub backup: BackupId,
    /// Why. May be empty.
    pub reason: String,
    /// The host it was pinned on.
    pub host: String,
    /// When.
    pub created: jiff::Timestamp,
}

/// The pins there are; one that cannot be read pins as well.
#[derive(Debug, Default)]
pub struct Pins(BTreeMap<BackupId, Result<Pin, RepoError>>);

impl Pins {
    /// Reads all pins.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they cannot be listed.
    pub fn load(store: &dyn ObjectStore, keys: &Keys) -> Result<Pins, RepoError> {
        let mut pins = BTreeMap::new();
        for backup in ids(store)? {
            match load(store, keys, backup) {
                Err(RepoError::Store(StoreError::NotFound { .. })) => {} // unpinned since it was listed
                pin => drop(pins.insert(backup, pin)),
            }
        }
        Ok(Pins(pins))
    }

    /// Whether `backup` is pinned.
    pub fn has(&self, backup: BackupId) -> bool {
        self.0.contains_key(&backup)
    }

    /// Why `backup` is pinned, in words; empty if nobody said why, `None` if it is not pinned.
    pub fn reason(&self, backup: BackupId) -> Option<String> {
        self.0.get(&backup).map(|pin| match pin {
            Ok(pin) => pin.reason.clone(),
            Err(_) => "the pin is damaged and counts all the same".to_owned(),
        })
    }

    /// Every pin, by its backup.
    pub fn iter(&self) -> impl Iterator<Item = (BackupId, &Result<Pin, RepoError>)> {
        self.0.iter().map(|(backup, pin)| (*backup, pin))
    }
}

/// The name of a backup's pin.
pub fn object_name(backup: BackupId) -> ObjectName {
    ObjectName::new(&format!("{FOLDER}/{backup}")).expect("hex digits make a good name")
}

/// The backups that are pinned.
///
/// # Errors
/// [`RepoError::Store`].
pub fn ids(store: &dyn ObjectStore) -> Result<Vec<BackupId>, RepoError> {
    let mut ids = Vec::new();
    store.list(FOLDER, &mut |object| {
        ids.extend(object.name.last_part().parse::<BackupId>());
        ControlFlow::Continue(())
    })?;
    ids.sort();
    Ok(ids)
}

/// Whether `backup` is pinned just now. Damaged or not does not matter.
///
/// # Errors
/// [`RepoError::Store`].
pub fn is_pinned(store: &dyn ObjectStore, backup: BackupId) -> Result<bool, RepoError> {
    match store.len(&object_name(backup)) {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads a backup's pin.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`], with `NotFound` if it is not pinned.
pub fn load(store: &dyn ObjectStore, keys: &Keys, backup: BackupId) -> Result<Pin, RepoError> {
    let name = object_name(backup);
    let pin: Pin = object::get_json(store, keys, Kind::Pin, &name)?;
    if pin.backup == backup {
        return Ok(pin);
    }
    Err(RepoError::Damaged {
        object: name.to_string(),
        field: "pin",
        at: 0,
        expected: backup.to_string(),
        found: pin.backup.to_string(),
    })
}

/// Pins a backup. When this returns, no forgetting from now on takes it, and none that was going on meanwhile keeps it.
///
/// # Errors
/// [`RepoError::Store`], with `Exists` if it is pinned already, with `NotFound` if there is no such backup, or it was
/// forgotten meanwhile.
pub fn add(store: &dyn ObjectStore, keys: &Keys, backup: BackupId, reason: &str) -> Result<Pin, RepoError> {
    let pin = Pin { backup, reason: reason.to_owned(), host: super::host_name(), created: jiff::Timestamp::now() };
    let payload = serde_json::to_vec(&pin).expect("plain data serialises");
    object::put(store, keys, Kind::Pin, &object_name(backup), &payload)?;
    // After the pin: a forgetting that did not see it yet has moved the manifest by now, or will see it.
    match store.len(&manifest::object_name(backup)) {
        Ok(_) => Ok(pin),
        Err(missing @ StoreError::NotFound { .. }) => {
            let _ = store.remove(&object_name(backup)); // it pins nothing
            Err(missing.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Unpins a backup. The pin is not read: one that is damaged can be removed, too.
///
/// # Errors
/// [`RepoError::Store`], with `NotFound` if it is not pinned.
pub fn remove(store: &dyn ObjectStore, backup: BackupId) -> Result<(), RepoError> {
    Ok(store.remove(&object_name(backup))?)
}
