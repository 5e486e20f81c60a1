//! Briefs: what lists, names, rules of retention and the search for a backup to build on need of a manifest, kept in this
//! host's index, so that not every command reads every manifest.
//!
//! The store's listing alone says which backups there are. A brief stands for a manifest because an object never changes
//! under its name; it counts only if the object still has the length that it had, and if its checksum is right, which is
//! keyed with the repository's secret: a torn row, or one that somebody else wrote, is read anew from the store.
//!
//! Who uses briefs, and who reads manifests:
//!
//! - briefs: `list`, `forget`, names of backups, what a mount shows, growth; which backup a new one is built on, where the
//!   manifest that is then read has the last word;
//! - manifests: whatever restores, `show`, commits, what prune marks, `check`, statistics of chunks. They prove.
//!
//! So damage of a manifest that was read before is found by `check`, and by whoever uses that backup; not by `list`.
//!
//! Invariant: what cannot be read has no brief; it is tried again, and told, each time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use super::Repository;
use super::error::RepoError;
use super::ids::{BackupId, ObjectId};
use super::index::BriefRow;
use super::manifest::{self, Manifest, Origin, Statistics};
use super::name::Named;
use super::store::StoreError;

/// What the keyed checksum of a brief is bound to, besides its backup.
const PURPOSE: &str = "brief";
/// Briefs are noted in the index whenever so many were read.
const BATCH: usize = 512;
/// Bytes of a digest of layers.
const LAYERS_BYTES: usize = 16;

/// What is known of a backup without reading its manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    /// The backup's id.
    pub backup: BackupId,
    /// What the machine is called.
    pub machine: String,
    /// What makes it the same machine elsewhere.
    pub identity: String,
    /// The instant that the backup shows.
    pub instant: jiff::Timestamp,
    /// When it was finished.
    pub finished: jiff::Timestamp,
    /// The frozen level.
    pub level: String,
    /// The backup that unchanged segments were taken from.
    pub parent: Option<BackupId>,
    /// What it cost.
    pub statistics: Statistics,
    /// Its disks.
    pub disks: Vec<BriefDisk>,
    /// What was less than asked for, or odd.
    pub warnings: Vec<String>,
    /// Harmless facts.
    pub notes: Vec<String>,
    /// The session it was written in.
    pub session: ObjectId,
    /// Words to choose it by.
    pub tags: Vec<String>,
    /// The backup that it is a copy of.
    pub copied_from: Option<Origin>,
}

/// What is known of a backup's disk without reading its manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BriefDisk {
    /// Its place on the machine.
    pub slot: String,
    /// What it cost; the size of the disk is in there.
    pub costs: Statistics,
    /// Digest of the layers it was read from.
    pub layers: LayersDigest,
}

/// Digest of a chain of layers: equal digests, equal chains, as far as anybody but an enemy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayersDigest([u8; LAYERS_BYTES]);

impl LayersDigest {
    /// The digest of layers as manifests hold them.
    pub fn of(layers: &serde_json::Value) -> LayersDigest {
        let text = serde_json::to_vec(layers).expect("a JSON value serialises");
        let mut digest = [0; LAYERS_BYTES];
        digest.copy_from_slice(&blake3::hash(&text).as_bytes()[..LAYERS_BYTES]);
        LayersDigest(digest)
    }
}

impl Brief {
    /// The brief of a manifest.
    pub fn of(manifest: &Manifest) -> Brief {
        Brief {
            backup: manifest.backup,
            machine: manifest.machine.clone(),
            identity: manifest.identity.clone(),
            instant: manifest.instant,
            finished: manifest.finished,
            level: manifest.capture.level.clone(),
            parent: manifest.parent,
            statistics: manifest.statistics,
            disks: manifest
                .disks
                .iter()
                .map(|disk| BriefDisk {
                    slot: disk.slot.clone(),
                    costs: disk.statistics,
                    layers: LayersDigest::of(&disk.layers),
                })
                .collect(),
            warnings: manifest.warnings.clone(),
            notes: manifest.notes.clone(),
            session: manifest.session,
            tags: manifest.tags.clone(),
            copied_from: manifest.copied_from,
        }
    }
}

impl Named for Brief {
    fn backup(&self) -> BackupId {
        self.backup
    }

    fn machine(&self) -> &str {
        &self.machine
    }

    fn instant(&self) -> jiff::Timestamp {
        self.instant
    }
}

/// The briefs that an open repository has at hand, with the lengths of their manifests.
pub type KnownBriefs = BTreeMap<BackupId, (u64, Arc<Brief>)>;

impl Repository {
    /// What is known of every backup, oldest first. Only manifests that are new to this host are read; one that cannot be
    /// is handed to `unreadable` instead of ending it all.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they cannot be listed, [`RepoError::Index`].
    pub fn briefs(&self, unreadable: &mut dyn FnMut(BackupId, RepoError)) -> Result<Vec<Arc<Brief>>, RepoError> {
        let listed = self.listed_manifests()?;
        // Taken out while we work: no lock is held while the store is read. Who comes meanwhile begins with the index.
        let taken = self.briefs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut known = match taken {
            Some(known) => known,
            None => self.noted_briefs()?,
        };
        let gone: Vec<BackupId> = known.keys().filter(|id| !listed.contains_key(id)).copied().collect();
        for id in &gone {
            known.remove(id);
        }
        self.index.drop_briefs(&gone)?;
        let mut fresh = Vec::new();
        for (id, len) in &listed {
            if known.get(id).is_some_and(|(known_len, _)| known_len == len) {
                continue;
            }
            known.remove(id);
            match self.manifest(*id) {
                Ok(manifest) => {
                    let brief = Arc::new(Brief::of(&manifest));
                    fresh.push(self.row_of(*len, &brief));
                    known.insert(*id, (*len, brief));
                }
                Err(RepoError::Store(StoreError::NotFound { .. })) => {} // forgotten since it was listed
                Err(error) => unreadable(*id, error),
            }
            if fresh.len() == BATCH {
                self.index.put_briefs(&std::mem::take(&mut fresh))?;
            }
        }
        self.index.put_briefs(&fresh)?;
        let mut briefs: Vec<Arc<Brief>> = known.values().map(|(_, brief)| Arc::clone(brief)).collect();
        briefs.sort_by_key(|brief| (brief.instant, brief.backup));
        *self.briefs.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(briefs)
    }

    /// Forgets all briefs, those in the index, too.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn forget_briefs(&self) -> Result<(), RepoError> {
        *self.briefs.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.index.clear_briefs()
    }

    /// Ids of the backups there are, with the lengths of their manifests.
    fn listed_manifests(&self) -> Result<BTreeMap<BackupId, u64>, RepoError> {
        let mut listed = BTreeMap::new();
        self.store.list(manifest::FOLDER, &mut |object| {
            if let Ok(id) = object.name.last_part().parse::<BackupId>() {
                listed.insert(id, object.len);
            }
            ControlFlow::Continue(())
        })?;
        Ok(listed)
    }

    /// What the index has noted, as far as it can be believed.
    fn noted_briefs(&self) -> Result<KnownBriefs, RepoError> {
        let mut known = KnownBriefs::new();
        self.index.each_brief(&mut |row| {
            if self.checksum(row.backup, row.len, &row.record) != row.checksum {
                return;
            }
            if let Ok(brief) = serde_json::from_slice::<Brief>(&row.record)
                && brief.backup == row.backup
            {
                known.insert(row.backup, (row.len, Arc::new(brief)));
            }
        })?;
        Ok(known)
    }

    fn row_of(&self, len: u64, brief: &Brief) -> BriefRow {
        let record = serde_json::to_vec(brief).expect("plain data serialises");
        let checksum = self.checksum(brief.backup, len, &record);
        BriefRow { backup: brief.backup, len, record, checksum }
    }

    fn checksum(&self, backup: BackupId, len: u64, record: &[u8]) -> [u8; 32] {
        self.keys.host_checksum(PURPOSE, &[&backup.0, &len.to_le_bytes(), record])
    }
}
