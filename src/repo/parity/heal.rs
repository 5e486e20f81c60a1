//! Healing: a damaged pack made whole from what is left of it and its record; and records made anew from sound packs.
//!
//! Steps of healing, each durable before the next: the whole pack is written to `healed/ID` and read back · the damaged
//! one is renamed to `quarantine/ID` · the whole one is renamed to its name. Killed after the first step, the next run
//! finds the damaged pack in its place and goes on; after the second, it finds no pack but one in `healed/`. What two
//! runs do to the same pack at once, the one that comes later finds out by a name that is gone, and looks anew.

use std::ops::ControlFlow;

use super::record::{Record, hash};
use super::share::Share;
use super::{Encoder, HEALED, QUARANTINE, code, salvage};
use crate::repo::error::RepoError;
use crate::repo::gc::trash;
use crate::repo::ids::PackId;
use crate::repo::pack::reader::{scrub_at, sound_stripes};
use crate::repo::pack::{self, PACK_BYTES_MAX, STRIPE_BYTES};
use crate::repo::store::{ObjectName, ObjectStore, StoreError};

/// Times that a pack is looked at anew because another run moved it.
const LOOKS: usize = 5;
/// Damaged copies of one pack that are kept apart by name.
const COPIES_MAX: u32 = 1000;

/// A pack that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Healed {
    /// Shards that were made anew; 0 if it was sound, or healed already by a run that was killed.
    pub shards: usize,
    /// Where the damaged pack was moved; `None` if there was none in its place.
    pub quarantined: Option<ObjectName>,
}

/// Why a pack could not be healed.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// There is nothing to heal it from.
    #[error("{pack} has no recovery record")]
    NoRecord {
        /// The pack.
        pack: ObjectName,
    },
    /// More of it is damaged than the record makes up for.
    #[error("{pack}: {lost} of its {shards} shards are damaged, and its recovery record makes up for {spare}")]
    TooMuch {
        /// The pack.
        pack: ObjectName,
        /// Damaged shards.
        lost: usize,
        /// Shards it has.
        shards: usize,
        /// Recovery shards that are sound.
        spare: usize,
    },
    /// What came out is not what the pack's own trailer says.
    #[error("what the recovery record makes of {pack} is no sound pack")]
    NotProven {
        /// The pack.
        pack: ObjectName,
        /// What is wrong with it.
        source: RepoError,
    },
    /// It was taken out of use meanwhile.
    #[error("{pack} is not in use: it was moved to the trash")]
    Trashed {
        /// The pack.
        pack: ObjectName,
    },
    /// It is gone: nothing of it is left to heal.
    #[error("{pack} is gone")]
    Gone {
        /// The pack.
        pack: ObjectName,
    },
    /// Record or store failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl From<StoreError> for HealError {
    fn from(error: StoreError) -> HealError {
        HealError::Repo(error.into())
    }
}

/// Makes a pack in use whole, or brings back one that a killed run left in `quarantine/`. Needs no key; holds the pack in
/// memory, and some 24 MiB. A sound pack is left alone.
///
/// # Errors
/// [`HealError`]; the damaged pack is then where it was, or (the store failed in between) in the quarantine, and calling
/// it once more goes on.
pub fn heal(store: &dyn ObjectStore, id: PackId) -> Result<Healed, HealError> {
    let name = pack::object_name(id);
    let staged = staged_name(id);
    let mut healed = Healed { shards: 0, quarantined: None };
    for _ in 0..LOOKS {
        let damaged = match scrub_at(store, &name, &mut |_| {}) {
            Ok(_) => {
                remove_if_there(store, &staged)?;
                return Ok(healed);
            }
            Err(RepoError::Store(StoreError::NotFound { .. })) => None,
            // Unreadable is damaged, too: what the medium still gives is made whole.
            Err(RepoError::Damaged { .. } | RepoError::Store(StoreError::Io { .. } | StoreError::Short { .. })) => {
                Some(name.clone())
            }
            Err(error) => return Err(error.into()),
        };
        if damaged.is_none() && trash::list(store)?.iter().any(|trashed| trashed.id == id) {
            remove_if_there(store, &staged)?;
            return Err(HealError::Trashed { pack: name });
        }
        if !is_staged(store, &staged)? {
            let sources = damaged.clone().map_or_else(|| quarantined_copies(store, id), |one| Ok(vec![one]))?;
            let (bytes, shards) = first_whole(store, id, &sources)?;
            put_if_absent(store, &staged, &bytes)?;
            healed.shards = shards;
            if !is_staged(store, &staged)? {
                continue;
            }
        }
        if damaged.is_some() {
            match quarantine(store, id) {
                Ok(place) => healed.quarantined = Some(place),
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        match store.rename(&staged, &name) {
            Ok(()) => return Ok(healed),
            Err(StoreError::NotFound { .. } | StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(HealError::Gone { pack: name })
}

/// Packs that a killed run left half-way: healed, but not in their place.
///
/// # Errors
/// [`RepoError::Store`].
pub fn unfinished(store: &dyn ObjectStore) -> Result<Vec<PackId>, RepoError> {
    ids_below(store, HEALED)
}

/// Removes what a killed run left of healing a pack that is sound.
///
/// # Errors
/// [`RepoError::Store`].
pub fn drop_unfinished(store: &dyn ObjectStore, id: PackId) -> Result<(), RepoError> {
    Ok(remove_if_there(store, &staged_name(id))?)
}

/// Packs of which damaged copies lie in the quarantine.
///
/// # Errors
/// [`RepoError::Store`].
pub fn quarantined(store: &dyn ObjectStore) -> Result<Vec<PackId>, RepoError> {
    ids_below(store, QUARANTINE)
}

/// Makes the record of a pack anew, or for the first time, if the pack is sound and the record is not of it. Gives the
/// record's length.
///
/// # Errors
/// [`RepoError::Damaged`] if the pack is not sound; [`RepoError::Store`].
pub fn renew(store: &dyn ObjectStore, id: PackId, share: Share) -> Result<u64, RepoError> {
    let name = pack::object_name(id);
    let mut encoder = Encoder::new(id, share, store.len(&name)?.min(PACK_BYTES_MAX));
    // The pack's own trailer is looked at first: a longer object is refused before a byte of it is encoded.
    scrub_at(store, &name, &mut |bytes| encoder.update(bytes))?;
    let record = encoder.finish();
    // While the pack is sound its record is worth nothing: dying between these two costs nothing but the next scrub's work.
    super::remove(store, id)?;
    super::put(store, id, &record)?;
    Ok(record.len() as u64)
}

/// The bytes that a pack had, from what lies at the first of `sources` that enough is left of, and how many shards were
/// made anew.
fn first_whole(store: &dyn ObjectStore, id: PackId, sources: &[ObjectName]) -> Result<(Vec<u8>, usize), HealError> {
    let name = pack::object_name(id);
    if sources.is_empty() {
        return Err(HealError::Gone { pack: name });
    }
    let record = Record::load(store, id)?.ok_or_else(|| HealError::NoRecord { pack: name.clone() })?;
    let mut failure = None;
    for source in sources {
        match whole(&name, salvage::read(store, source, SALVAGED_MAX)?, &record) {
            Ok(made) => return Ok(made),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(failure.unwrap_or(HealError::Gone { pack: name }))
}

/// A damaged pack may have grown; so much of it is read.
const SALVAGED_MAX: u64 = 2 * PACK_BYTES_MAX;

/// The pack's bytes from what is left of them and its record. Pure.
pub(super) fn whole(name: &ObjectName, mut bytes: Vec<u8>, record: &Record) -> Result<(Vec<u8>, usize), HealError> {
    let shape = &record.shape;
    let len = usize::try_from(shape.pack_len).expect("a shape's pack fits in memory");
    bytes.resize(len, 0);
    // Where the record lost a hash, the pack's own trailer may still vouch for the bytes.
    let stripes = sound_stripes(name.as_str(), &bytes).unwrap_or_default();
    bytes.resize(shape.padded_len(), 0);
    let is_sound = |number: usize| {
        let from = number * shape.shard_bytes;
        let shard = &bytes[from..from + shape.shard_bytes];
        match record.data_hash(number) {
            Some(expected) => hash(shard) == expected,
            None => {
                let last = (from + shape.shard_bytes).min(len) - 1;
                !stripes.is_empty()
                    && (from / STRIPE_BYTES..=last / STRIPE_BYTES).all(|stripe| stripes.get(stripe) != Some(&false))
            }
        }
    };
    let lost: Vec<usize> = (0..shape.data).filter(|number| !is_sound(*number)).collect();
    let spare = record.recovery();
    if lost.len() > spare.len() {
        let (lost, shards, spare) = (lost.len(), shape.data, spare.len());
        return Err(HealError::TooMuch { pack: name.clone(), lost, shards, spare });
    }
    if !lost.is_empty() {
        code::restore(shape, &mut bytes, &lost, &spare);
    }
    bytes.truncate(len);
    let not_proven = |source| HealError::NotProven { pack: name.clone(), source };
    let stripes = sound_stripes(name.as_str(), &bytes).map_err(not_proven)?;
    match stripes.iter().position(|is_sound| !is_sound) {
        None => Ok((bytes, lost.len())),
        Some(stripe) => Err(not_proven(RepoError::Damaged {
            object: name.to_string(),
            field: "stripe hash",
            at: (stripe * STRIPE_BYTES) as u64,
            expected: "that of the bytes".to_owned(),
            found: "another".to_owned(),
        })),
    }
}

/// Whether a sound pack lies in `healed/`; one that is not is removed.
fn is_staged(store: &dyn ObjectStore, staged: &ObjectName) -> Result<bool, HealError> {
    match scrub_at(store, staged, &mut |_| {}) {
        Ok(_) => Ok(true),
        Err(RepoError::Store(StoreError::NotFound { .. })) => Ok(false),
        Err(RepoError::Damaged { .. } | RepoError::Store(StoreError::Io { .. } | StoreError::Short { .. })) => {
            remove_if_there(store, staged)?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn put_if_absent(store: &dyn ObjectStore, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
    match store.put(name, bytes) {
        Err(StoreError::Exists { .. }) => Ok(()),
        outcome => outcome,
    }
}

fn remove_if_there(store: &dyn ObjectStore, name: &ObjectName) -> Result<(), StoreError> {
    match store.remove(name) {
        Err(StoreError::NotFound { .. }) => Ok(()),
        outcome => outcome,
    }
}

/// Moves a pack to `quarantine/ID`, or to the first of `quarantine/ID.1`, `.2` … that is free.
fn quarantine(store: &dyn ObjectStore, id: PackId) -> Result<ObjectName, StoreError> {
    let name = pack::object_name(id);
    for number in 0..COPIES_MAX {
        let place = match number {
            0 => format!("{QUARANTINE}/{id}"),
            number => format!("{QUARANTINE}/{id}.{number}"),
        };
        let place = ObjectName::new(&place).expect("hex digits make a good name");
        match store.rename(&name, &place) {
            Ok(()) => return Ok(place),
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Exists { place: store.place(), name })
}

fn quarantined_copies(store: &dyn ObjectStore, id: PackId) -> Result<Vec<ObjectName>, RepoError> {
    let mut copies = Vec::new();
    store.list(QUARANTINE, &mut |object| {
        if id_in(&object.name, QUARANTINE) == Some(id) {
            copies.push(object.name);
        }
        ControlFlow::Continue(())
    })?;
    copies.sort();
    Ok(copies)
}

fn ids_below(store: &dyn ObjectStore, folder: &str) -> Result<Vec<PackId>, RepoError> {
    let mut ids = Vec::new();
    store.list(folder, &mut |object| {
        ids.extend(id_in(&object.name, folder));
        ControlFlow::Continue(())
    })?;
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// The pack of `folder/ID` or `folder/ID.NUMBER`.
fn id_in(name: &ObjectName, folder: &str) -> Option<PackId> {
    if name.folder() != folder {
        return None;
    }
    let last = name.last_part();
    last.split_once('.').map_or(last, |(id, _)| id).parse().ok()
}

fn staged_name(id: PackId) -> ObjectName {
    ObjectName::new(&format!("{HEALED}/{id}")).expect("hex digits make a good name")
}
