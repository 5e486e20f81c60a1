//! Key slots: each wraps the master secrets for one passphrase or one key file.
//!
//! In here: what a slot looks like, how a secret opens it, key files. Not in here: what the master secret opens (`seal`),
//! who asks for a passphrase (`cli`).
//!
//! A slot is a plain object of three lines (docs/FORMAT.md, "Key slots"): JSON parameters, hex commitment, hex wrapped
//! secret. The wrapping key comes from HKDF-SHA-256 over the argon2id output or the key file's 32 bytes; a second output
//! of it is the commitment, compared before GCM is asked. The associated data is the JSON line and the BLAKE3 of the
//! repository's configuration, so that neither can be exchanged.

pub mod file;
mod slot;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

pub use file::KeyFile;
pub use slot::{EPOCHS_MAX, KdfCost, SlotInfo, SlotKind};
use zeroize::Zeroizing;

use super::error::RepoError;
use super::ids::{ObjectId, random};
use super::seal::MasterSecrets;
use super::store::{ObjectName, ObjectStore, StoreError};
use super::text::{self, PlainFault};
use slot::Slot;

/// Most slots a repository may have: each costs an attacker's guess nothing, and an opener one derivation.
pub const SLOTS_MAX: usize = 16;
const FOLDER: &str = "keys";

/// What somebody who wants to open a repository has in hand.
pub enum Secret {
    /// A passphrase, as typed.
    Passphrase(Zeroizing<String>),
    /// The content of a key file.
    KeyFile(KeyFile),
}

impl Secret {
    /// What it is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Secret::Passphrase(_) => "the passphrase".to_owned(),
            Secret::KeyFile(file) => format!("the key file {}", file.origin()),
        }
    }
}

/// Opens the slot that `secret` fits: the master secrets and the slot's id. Of several it is the one that knows most
/// epochs: a change of keys with the same secret may have died before its last step.
///
/// # Errors
/// [`RepoError::WrongKey`] if it fits none; [`RepoError::Damaged`] if it fits none and a slot that it might have fitted
/// is damaged.
pub fn unlock(
    store: &dyn ObjectStore,
    config_hash: &[u8; 32],
    secret: &Secret,
) -> Result<(MasterSecrets, ObjectId), RepoError> {
    let (mut damaged, mut tried) = (None, 0);
    let mut best: Option<(MasterSecrets, ObjectId)> = None;
    for name in names(store)? {
        match load(store, &name) {
            Ok(slot) if slot.fits(secret) => {
                tried += 1;
                if best.as_ref().is_some_and(|(masters, _)| masters.newest() >= slot.newest_epoch()) {
                    continue;
                }
                if let Some(masters) = slot.open(name.as_str(), secret, config_hash)? {
                    best = Some((masters, slot.id()));
                }
            }
            Ok(_) => {}
            Err(error) => damaged = Some(error),
        }
    }
    let wrong_key = || RepoError::WrongKey { secret: secret.describe(), slots: tried, place: store.place() };
    best.ok_or_else(|| damaged.unwrap_or_else(wrong_key))
}

/// Adds a slot that `secret` opens.
///
/// # Errors
/// [`RepoError::Slot`] if there are [`SLOTS_MAX`] already; [`RepoError::Store`].
pub fn add(
    store: &dyn ObjectStore,
    config_hash: &[u8; 32],
    masters: &MasterSecrets,
    secret: &Secret,
    label: &str,
    cost: KdfCost,
) -> Result<ObjectId, RepoError> {
    let id = ObjectId(random());
    if names(store)?.len() >= SLOTS_MAX {
        let reason = format!("a repository has at most {SLOTS_MAX} slots: remove one first");
        return Err(RepoError::Slot { slot: id.to_string(), reason });
    }
    let slot = Slot::seal(id, secret, label, cost, masters, config_hash);
    text::put(store, &object_name(id), &slot.encode())?;
    Ok(id)
}

/// Removes a slot. Data already fetched by whoever had its secret stays readable to them.
///
/// # Errors
/// [`RepoError::Slot`] if it is not there, or the last one.
pub fn remove(store: &dyn ObjectStore, id: ObjectId) -> Result<(), RepoError> {
    let refuse = |reason: &str| Err(RepoError::Slot { slot: id.to_string(), reason: reason.to_owned() });
    let names = names(store)?;
    if !names.contains(&object_name(id)) {
        return refuse("there is no such slot");
    }
    if names.len() == 1 {
        return refuse("it is the last one: without it nobody can open the repository");
    }
    // The copy first: it would bring the slot back. And last, should somebody have mended it in between.
    let copy = text::copy_of(&object_name(id));
    for name in [copy.clone(), object_name(id), copy] {
        match store.remove(&name) {
            Err(StoreError::NotFound { .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

/// What is wrong with the slots, and with their copies.
///
/// # Errors
/// [`RepoError::Store`].
pub fn faults(store: &dyn ObjectStore) -> Result<Vec<PlainFault>, RepoError> {
    let names = names(store)?;
    Ok(names.iter().flat_map(|name| text::faults(store, name, |bytes| Slot::decode(name, bytes))).collect())
}

/// Makes slots anew from their copies, or copies from their slots, as [`text::mend`]; gives the names of what was made.
///
/// # Errors
/// [`RepoError::Store`].
pub fn mend(store: &dyn ObjectStore) -> Result<Vec<ObjectName>, RepoError> {
    let names = names(store)?;
    let mended = names.iter().map(|name| text::mend(store, name, |bytes| Slot::decode(name, bytes)));
    mended.filter_map(Result::transpose).collect()
}

/// A slot as the store has it.
pub struct ListedSlot {
    /// Its object's name.
    pub name: ObjectName,
    /// What is known without opening it, or what is wrong with it.
    pub info: Result<SlotInfo, RepoError>,
}

/// What is known of each slot without opening it; a damaged one is an error in its place.
///
/// # Errors
/// [`RepoError::Store`].
pub fn list(store: &dyn ObjectStore) -> Result<Vec<ListedSlot>, RepoError> {
    let slots = names(store)?.into_iter().map(|name| {
        let info = load(store, &name).map(|slot| slot.info().clone());
        ListedSlot { name, info }
    });
    Ok(slots.collect())
}

/// The name of a slot's object.
pub fn object_name(id: ObjectId) -> ObjectName {
    ObjectName::new(&format!("{FOLDER}/{id}")).expect("hex digits make a good name")
}

/// The names of all slots, be it that only their copy is left.
fn names(store: &dyn ObjectStore) -> Result<Vec<ObjectName>, RepoError> {
    let mut names = BTreeSet::new();
    let copies = format!("{}/{FOLDER}", text::COPIES);
    for folder in [FOLDER, copies.as_str()] {
        // One more than allowed is looked at, so that a stuffed folder is an error and not a long wait.
        store.list(folder, &mut |object| {
            let own = object.name.as_str().strip_prefix(&format!("{}/", text::COPIES)).map(ObjectName::new);
            names.insert(own.and_then(Result::ok).unwrap_or(object.name));
            if names.len() > SLOTS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    if names.len() > SLOTS_MAX {
        return Err(RepoError::Damaged {
            object: FOLDER.to_owned(),
            field: "number of slots",
            at: 0,
            expected: format!("at most {SLOTS_MAX}"),
            found: "more".to_owned(),
        });
    }
    Ok(names.into_iter().collect())
}

fn load(store: &dyn ObjectStore, name: &ObjectName) -> Result<Slot, RepoError> {
    text::get(store, name, |bytes| Slot::decode(name, bytes))
}
