//! Parity: for each pack a recovery record, from which a pack that rots is made whole again. Nothing here needs a key.
//!
//! In here: `share` how much of it a repository wants · `code` the Reed–Solomon code over shards · `record` its object,
//! which says of itself what is damaged · `encoder` bytes of a pack as they are written → record · `heal` a damaged pack
//! made whole, and records made anew. Not in here: what a pack holds, who looks for damage (`ops::scrub`).
//!
//! A record protects against rot, not against forgers: those are what the pack's tags are for. So a record is believed
//! only to say which bytes it stands for; a healed pack counts as one once its own trailer says so, and its chunks are
//! authenticated by whoever reads them. A pack that its trailer finds sound is never touched, whatever a record says.
//!
//! Invariant: no object is replaced. A healed pack is durable under `healed/` before the damaged one goes to
//! `quarantine/`, and takes its name after that; killed anywhere in between, the next [`heal`] goes on.

mod code;
mod encoder;
mod heal;
mod orphans;
mod record;
mod salvage;
mod share;

#[cfg(test)]
mod tests;

use super::error::RepoError;
use super::ids::PackId;
use super::store::{ObjectName, ObjectStore, StoreError};

pub use encoder::Encoder;
pub use heal::{HealError, Healed, drop_unfinished, heal, quarantined, renew, unfinished};
pub use orphans::remove_orphans;
pub use record::{Comparison, RECORD_BYTES_MAX, Record};
pub use share::{NotAShare, Share, mend_share, set_share, share, share_faults, share_name};

/// Folder of the records.
pub const FOLDER: &str = "parity";
/// Folder of healed packs that have not taken their name yet.
pub const HEALED: &str = "healed";
/// Folder of objects that were found damaged and taken out of use.
pub const QUARANTINE: &str = "quarantine";

/// The name of a pack's record: `parity/`, the first two digits of the pack's id, its id.
pub fn object_name(id: PackId) -> ObjectName {
    let hex = id.to_string();
    ObjectName::new(&format!("{FOLDER}/{}/{hex}", &hex[..2])).expect("hex digits make a good name")
}

/// The pack of a record; `None` if this is not the name of a record.
pub fn id_of(name: &ObjectName) -> Option<PackId> {
    let id: PackId = name.last_part().parse().ok()?;
    (object_name(id) == *name).then_some(id)
}

/// Stores the record of a pack that is durable. That it has one already is no error: it was made of the same bytes.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put(store: &dyn ObjectStore, id: PackId, record: &[u8]) -> Result<(), RepoError> {
    match store.put(&object_name(id), record) {
        Ok(()) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the record of a pack that is gone for good; that there is none is no error.
///
/// # Errors
/// [`RepoError::Store`].
pub fn remove(store: &dyn ObjectStore, id: PackId) -> Result<(), RepoError> {
    match store.remove(&object_name(id)) {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that the record of a pack takes in the store: 0 if it has none.
///
/// # Errors
/// [`RepoError::Store`].
pub fn stored_bytes(store: &dyn ObjectStore, id: PackId) -> Result<u64, RepoError> {
    match store.len(&object_name(id)) {
        Ok(len) => Ok(len),
        Err(StoreError::NotFound { .. }) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// All records: how many, and their bytes.
///
/// # Errors
/// [`RepoError::Store`].
pub fn amount(store: &dyn ObjectStore) -> Result<(u64, u64), RepoError> {
    let (mut records, mut bytes) = (0, 0);
    store.list(FOLDER, &mut |object| {
        if id_of(&object.name).is_some() {
            records += 1;
            bytes += object.len;
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok((records, bytes))
}
