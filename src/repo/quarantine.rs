//! The quarantine: objects that a repair moved out of the way because they are damaged, or were replaced. Nothing in here
//! is ever deleted by us; nobody reads it but a later repair that still misses something. Whoever runs the repository may
//! delete it, or move an object back under its old name.
//!
//! An object lies under `quarantine/` and its name, a pack under `quarantine/` and its id; where that is taken, `.` and a
//! number follow, as the same name may be damaged twice. It keeps the name that it was sealed under (docs/FORMAT.md,
//! "Quarantine").

use std::ops::ControlFlow;

use super::error::RepoError;
use super::ids::PackId;
use super::pack;
use super::store::{ObjectName, ObjectStore, StoreError};

/// Folder of the quarantine in the store.
pub const FOLDER: &str = "quarantine";
/// Most objects of one name.
const SAME_NAME_MAX: u32 = 1000;

/// An object in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quarantined {
    /// The name that it was sealed under.
    pub was: ObjectName,
    /// Where it lies.
    pub name: ObjectName,
    /// Length in bytes.
    pub len: u64,
}

/// Moves an object aside that was sealed as `sealed_as` and lies at `at`; gives its new place, `None` if it is not there
/// any more.
///
/// # Errors
/// [`RepoError::Store`]; it may lie in either place then.
pub fn put(store: &dyn ObjectStore, sealed_as: &ObjectName, at: &ObjectName) -> Result<Option<ObjectName>, RepoError> {
    match at_free_name(store, sealed_as, |name| store.rename(at, name)) {
        Err(RepoError::Store(StoreError::NotFound { .. })) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// Stores an object that is to take the place of a damaged one: here first, so that it needs only be moved.
///
/// # Errors
/// [`RepoError::Store`].
pub fn stage(store: &dyn ObjectStore, sealed_as: &ObjectName, bytes: &[u8]) -> Result<ObjectName, RepoError> {
    at_free_name(store, sealed_as, |name| store.put_exclusive(name, bytes))
}

fn at_free_name(
    store: &dyn ObjectStore,
    sealed_as: &ObjectName,
    act: impl Fn(&ObjectName) -> Result<(), StoreError>,
) -> Result<ObjectName, RepoError> {
    let stem = match pack::id_of(sealed_as) {
        Some(id) => format!("{FOLDER}/{id}"),
        None => format!("{FOLDER}/{sealed_as}"),
    };
    for number in 0..SAME_NAME_MAX {
        let name = ObjectName::new(&if number == 0 { stem.clone() } else { format!("{stem}.{number}") })?;
        match act(&name) {
            Ok(()) => return Ok(name),
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let name = ObjectName::new(&stem)?;
    Err(StoreError::Exists { place: store.place(), name }.into())
}

/// Everything in quarantine, sorted.
///
/// # Errors
/// [`RepoError::Store`].
pub fn list(store: &dyn ObjectStore) -> Result<Vec<Quarantined>, RepoError> {
    let mut all = Vec::new();
    store.list(FOLDER, &mut |object| {
        if let Some(was) = name_before(&object.name) {
            all.push(Quarantined { was, name: object.name, len: object.len });
        }
        ControlFlow::Continue(())
    })?;
    all.sort();
    Ok(all)
}

/// The name that an object in quarantine was sealed under.
fn name_before(name: &ObjectName) -> Option<ObjectName> {
    let below = name.as_str().strip_prefix(FOLDER)?.strip_prefix('/')?;
    let stem = match below.rsplit_once('.') {
        Some((stem, number)) if number.bytes().all(|digit| digit.is_ascii_digit()) => stem,
        _ => below,
    };
    match stem.parse::<PackId>() {
        Ok(id) => Some(pack::object_name(id)),
        Err(_) => ObjectName::new(stem).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::store::DirectoryStore;

    #[test]
    fn the_same_name_is_put_aside_twice_and_both_are_listed() {
        let store = DirectoryStore::in_memory();
        let pack = pack::object_name(PackId([0xab; 16]));
        let slot = ObjectName::new("copies/keys/00").unwrap();
        for name in [&slot, &pack] {
            for bytes in [b"one".as_slice(), b"two!", b"three"] {
                store.put(name, bytes).unwrap();
                assert!(put(&store, name, name).unwrap().is_some());
            }
            assert_eq!(put(&store, name, name).unwrap(), None);
        }
        let listed = list(&store).unwrap();
        let places: Vec<(&str, &ObjectName, u64)> =
            listed.iter().map(|object| (object.name.as_str(), &object.was, object.len)).collect();
        let id = "quarantine/abababababababababababababababab";
        assert_eq!(
            places,
            [
                ("quarantine/copies/keys/00", &slot, 3),
                ("quarantine/copies/keys/00.1", &slot, 4),
                ("quarantine/copies/keys/00.2", &slot, 5),
                (id, &pack, 3),
                (format!("{id}.1").as_str(), &pack, 4),
                (format!("{id}.2").as_str(), &pack, 5),
            ]
        );
    }
}
