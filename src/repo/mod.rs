//! The repository: deduplicated, encrypted, content-addressed; indexed by a cache that can be deleted at any time.
//!
//! In here: opening and creating one, backups by name. Its rooms:
//!
//! - [`store`] where objects live · [`seal`], [`object`], [`text`] how objects are protected · [`keys`] who may open it
//! - [`blob`], [`branch_filter`], [`pack`] chunks → stored objects · [`parity`] packs that heal · [`index`] chunk → place · [`map`], [`manifest`],
//!   [`brief`] what a backup is made of
//! - [`intake`] the way in · [`chunks`], [`backup_disk`] the way out · [`session`] writers beside each other · [`gc`] what goes ·
//!   [`seen`] what this host remembers, so that a store that went back in time is noticed
//! - [`salvage`], [`new_packs`], [`quarantine`] what a repair saves, where it writes it, what it puts aside
//!
//! Not in here: images, machines, guests. The repository takes segments of bytes and gives disks back.

pub mod backup_disk;
pub mod blob;
pub mod branch_filter;
pub mod brief;
pub mod chunks;
pub mod config;
pub mod error;
pub mod gc;
pub mod ids;
pub mod index;
pub mod intake;
pub mod keyless;
pub mod keys;
pub mod manifest;
pub mod map;
pub mod map_builder;
pub mod name;
pub mod new_packs;
pub mod object;
pub mod pack;
pub mod parity;
pub mod pins;
pub mod quarantine;
pub mod run;
pub mod salvage;
pub mod seal;
pub mod seen;
pub mod segment_list;
pub mod session;
pub mod store;
pub mod sync;
pub mod tag;
pub mod text;
#[cfg(test)]
mod vectors;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

pub use backup_disk::BackupDisk;
pub use chunks::FoundChunk;
use chunks::WhatWasRead;
use config::Config;
pub use error::RepoError;
use ids::{BackupId, ObjectId, PackId, RepoId, random};
use index::{Index, IndexPlace};
use keys::{KdfCost, Secret};
use manifest::Manifest;
use pack::writer::PackWriter;
use seal::{Keys, Kind, MasterSecrets};
use store::{ObjectStore, StoreError};

use crate::chunker::Chunker;

/// An open repository.
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    config: Config,
    config_hash: [u8; 32],
    keys: Keys,
    masters: MasterSecrets,
    slot: ObjectId,
    index: Index,
    index_opened: index::Opened,
    read: WhatWasRead,
    /// What is known of the backups there are, once somebody asked.
    briefs: Mutex<Option<brief::KnownBriefs>>,
}

impl Repository {
    /// Makes a repository in an empty store. The configuration is written last: before it, there is no repository.
    ///
    /// # Errors
    /// [`RepoError::NotEmpty`], [`RepoError::Store`].
    pub fn create(
        store: Arc<dyn ObjectStore>,
        secret: &Secret,
        label: &str,
        cost: KdfCost,
        place: impl Fn(RepoId) -> IndexPlace,
    ) -> Result<Repository, RepoError> {
        refuse_unless_empty(store.as_ref())?;
        let config = Config::create(RepoId(random()));
        let bytes = config.encode();
        let config_hash = *blake3::hash(&bytes).as_bytes();
        let masters = MasterSecrets::generate();
        let keys = Keys::derive(&masters, config.repository);
        let slot = keys::add(store.as_ref(), &config_hash, &masters, secret, label, cost)?;
        session::take_generation(store.as_ref(), &keys, 1, &host_name())?;
        text::put(store.as_ref(), &config::object_name(), &bytes)?;
        // Nothing depends on it; without room for it the first backup would not get far.
        let _ = gc::reserve::make(store.as_ref());
        let (index, opened) = open_index(&place(config.repository), config.repository)?;
        Ok(Repository::assemble(store, config, config_hash, keys, masters, slot, index, opened))
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`RepoError::NoRepository`], [`RepoError::WrongKey`], [`RepoError::Damaged`], [`RepoError::Index`].
    pub fn open(
        store: Arc<dyn ObjectStore>,
        secret: &Secret,
        place: impl Fn(RepoId) -> IndexPlace,
    ) -> Result<Repository, RepoError> {
        let (mut config, mut config_hash) = Config::load(store.as_ref())?;
        index::read_ahead(&place(config.repository)); // deriving the key takes its time
        let (masters, slot) = keys::unlock(store.as_ref(), &config_hash, secret).or_else(|error| {
            // The configuration may be that of another repository, put in the place of ours.
            let Ok(Some(other)) = Config::load_other(store.as_ref(), &config_hash) else { return Err(error) };
            let unlocked = keys::unlock(store.as_ref(), &other.1, secret).map_err(|_| error)?;
            (config, config_hash) = other;
            Ok(unlocked)
        })?;
        let keys = Keys::derive(&masters, config.repository);
        let (index, opened) = open_index(&place(config.repository), config.repository)?;
        Ok(Repository::assemble(store, config, config_hash, keys, masters, slot, index, opened))
    }

    #[allow(clippy::too_many_arguments)] // one caller's parts, each of its own type
    fn assemble(
        store: Arc<dyn ObjectStore>,
        config: Config,
        config_hash: [u8; 32],
        keys: Keys,
        masters: MasterSecrets,
        slot: ObjectId,
        index: Index,
        index_opened: index::Opened,
    ) -> Repository {
        Repository {
            store,
            config,
            config_hash,
            keys,
            masters,
            slot,
            index,
            index_opened,
            read: WhatWasRead::new(),
            briefs: Mutex::default(),
        }
    }

    /// Where its objects live.
    pub fn store(&self) -> &dyn ObjectStore {
        self.store.as_ref()
    }

    /// What was fixed when it was made.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is wrong with the configuration, the key slots, the share of parity, and the copies of these.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn plain_faults(&self) -> Result<Vec<text::PlainFault>, RepoError> {
        let mut faults = Config::faults(self.store(), Some(&self.config_hash));
        faults.extend(keys::faults(self.store())?);
        faults.extend(parity::share_faults(self.store()));
        Ok(faults)
    }

    /// Its keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Its index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What became of the index cache when it was opened.
    pub fn index_opened(&self) -> &index::Opened {
        &self.index_opened
    }

    /// The key slot it was opened with.
    pub fn slot(&self) -> ObjectId {
        self.slot
    }

    /// Begins a pack, with a recovery record if the repository wants parity.
    ///
    /// # Errors
    /// [`RepoError::Store`]; [`RepoError::Damaged`] if it cannot be told how much parity is wanted.
    pub fn begin_pack(&self, kind: Kind) -> Result<PackWriter<'_>, RepoError> {
        PackWriter::create(self.store(), &self.keys, kind, parity::share(self.store())?)
    }

    /// A chunker with this repository's sizes and secret table.
    pub fn chunker(&self) -> Chunker {
        Chunker::new(self.config.chunks, self.keys.gear_table())
    }

    /// Adds a key slot for `secret`.
    ///
    /// # Errors
    /// As [`keys::add`].
    pub fn add_key(&self, secret: &Secret, label: &str, cost: KdfCost) -> Result<ObjectId, RepoError> {
        keys::add(self.store(), &self.config_hash, &self.masters, secret, label, cost)
    }

    /// Begins a new epoch: what is sealed from now on, by who opens the repository with `secret`, opens for no key of
    /// before. Gives the slot of `secret`; the other slots are the caller's to remove, as they open the old epochs still.
    /// This `Repository` goes on in the old epoch.
    ///
    /// # Errors
    /// As [`keys::add`]; [`RepoError::Slot`] after the last epoch that a slot has room for.
    pub fn begin_epoch(&self, secret: &Secret, label: &str, cost: KdfCost) -> Result<ObjectId, RepoError> {
        let next = self.masters.with_next().filter(|next| next.epochs().len() <= keys::EPOCHS_MAX);
        let next = next.ok_or_else(|| RepoError::Slot {
            slot: self.slot.to_string(),
            reason: format!("a repository has at most {} epochs", keys::EPOCHS_MAX),
        })?;
        keys::add(self.store(), &self.config_hash, &next, secret, label, cost)
    }

    /// The epoch that new objects are sealed under.
    pub fn epoch(&self) -> u16 {
        self.masters.newest()
    }

    /// The ids of all backups, in no order.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn backup_ids(&self) -> Result<Vec<BackupId>, RepoError> {
        let mut ids = Vec::new();
        self.store.list(manifest::FOLDER, &mut |object| {
            ids.extend(object.name.last_part().parse::<BackupId>());
            ControlFlow::Continue(())
        })?;
        Ok(ids)
    }

    /// Reads the manifest of a backup.
    ///
    /// # Errors
    /// [`RepoError::Damaged`], [`RepoError::Store`].
    pub fn manifest(&self, id: BackupId) -> Result<Manifest, RepoError> {
        let name = manifest::object_name(id);
        let payload = object::get(self.store.as_ref(), &self.keys, Kind::Manifest, &name)?;
        manifest::checked(id, &payload)
    }

    /// Reads every manifest, oldest first; one that cannot be read is handed to `unreadable` instead of ending it all.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they cannot be listed.
    pub fn manifests(&self, unreadable: &mut dyn FnMut(BackupId, RepoError)) -> Result<Vec<Manifest>, RepoError> {
        let mut manifests = Vec::new();
        for id in self.backup_ids()? {
            match self.manifest(id) {
                Ok(manifest) => manifests.push(manifest),
                // Forgotten since it was listed.
                Err(RepoError::Store(StoreError::NotFound { .. })) => {}
                Err(error) => unreadable(id, error),
            }
        }
        manifests.sort_by_key(|manifest| (manifest.instant, manifest.backup));
        Ok(manifests)
    }

    /// The disk that a backup recorded.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if its map is not one.
    pub fn disk(self: &Arc<Self>, manifest: &Manifest, number: usize) -> Result<BackupDisk, RepoError> {
        BackupDisk::open(Arc::clone(self), manifest, number)
    }
}

/// Refuses a store that holds anything, but for what a creation leaves that died before its last step: without a
/// configuration nothing was ever stored, so its slot and generation are worth nothing and go.
fn refuse_unless_empty(store: &dyn ObjectStore) -> Result<(), RepoError> {
    let mut unfinished = Vec::new();
    let mut found = None;
    store.list("", &mut |object| {
        if ["keys/", "copies/keys/", "generations/"].iter().any(|folder| object.name.as_str().starts_with(folder)) {
            unfinished.push(object.name);
            return ControlFlow::Continue(());
        }
        found = Some(object.name.to_string());
        ControlFlow::Break(())
    })?;
    store.foreign("", &mut |name| {
        let left_by_us = name.rsplit('/').next().is_some_and(|last| last.starts_with('.'));
        if !left_by_us {
            found.get_or_insert_with(|| name.to_owned());
        }
        ControlFlow::Continue(())
    })?;
    if let Some(found) = found {
        return Err(RepoError::NotEmpty { place: store.place(), found });
    }
    for name in unfinished {
        store.remove(&name)?;
    }
    Ok(())
}

/// Opens the index cache; where there is no room left for it, as it lies on the store's own full medium, in memory. The
/// store's reserve is not for this: it is a prune's, to get room again.
fn open_index(place: &IndexPlace, repository: RepoId) -> Result<(Index, index::Opened), RepoError> {
    match Index::open(place, repository) {
        Err(error) if error.is_out_of_space() => {
            let (index, _) = Index::open(&IndexPlace::Memory, repository)?;
            Ok((index, index::Opened::InMemory))
        }
        outcome => outcome,
    }
}

/// Makes durable that these packs are there. What a listing shows is not always: its writer may have died before. Must be
/// done before anything new relies on packs that others stored, or is deleted because of them.
///
/// # Errors
/// [`RepoError::Store`].
pub(crate) fn settle_packs(store: &dyn ObjectStore, packs: impl Iterator<Item = PackId>) -> Result<(), RepoError> {
    let folders: BTreeSet<String> = packs.map(|id| pack::object_name(id).folder().to_owned()).collect();
    Ok(folders.iter().try_for_each(|folder| store.settle(folder))?)
}

/// This host's name, for sessions and manifests.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Ids and lengths of the packs that the store lists.
///
/// # Errors
/// [`RepoError::Store`].
pub fn listed_packs(store: &dyn ObjectStore) -> Result<std::collections::HashMap<PackId, u64>, RepoError> {
    let mut packs = std::collections::HashMap::new();
    store.list("packs", &mut |object| {
        if let Some(id) = pack::id_of(&object.name) {
            packs.insert(id, object.len);
        }
        ControlFlow::Continue(())
    })?;
    Ok(packs)
}
