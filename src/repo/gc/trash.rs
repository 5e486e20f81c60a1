//! The trash: packs that a prune took out of use, under `trash/GENERATION/ID`, until it is proven that nothing needs them.
//!
//! A pack enters one generation's trash at most once, as only that generation's prune moves packs there, and each once.
//! So what is known of a pack *in that place* stays true until it is gone from there. Whoever misses a pack looks here, and
//! a writer moves it back. The object keeps the name that it was sealed under: `packs/…`.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::repo::error::RepoError;
use crate::repo::ids::{ChunkId, PackId};
use crate::repo::pack;
use crate::repo::pack::reader::{self, OpenPack};
use crate::repo::seal::Keys;
use crate::repo::session::numbered;
use crate::repo::store::{ObjectName, ObjectStore, StoreError};

/// Folder of the trash in the store.
pub const FOLDER: &str = "trash";

/// A pack in the trash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trashed {
    /// The generation that moved it.
    pub generation: u64,
    /// The pack.
    pub id: PackId,
    /// Where it lies.
    pub name: ObjectName,
    /// Length in bytes.
    pub len: u64,
}

/// Where generation `generation` puts the pack `id`.
pub fn place(generation: u64, id: PackId) -> ObjectName {
    ObjectName::new(&format!("{FOLDER}/{}/{id}", numbered(generation))).expect("digits make a good name")
}

/// All packs in the trash, sorted.
///
/// # Errors
/// [`RepoError::Store`].
pub fn list(store: &dyn ObjectStore) -> Result<Vec<Trashed>, RepoError> {
    let mut all = Vec::new();
    store.list(FOLDER, &mut |object| {
        let generation = object.name.folder().strip_prefix("trash/").and_then(|number| number.parse().ok());
        if let (Some(generation), Ok(id)) = (generation, object.name.last_part().parse())
            && place(generation, id) == object.name
        {
            all.push(Trashed { generation, id, name: object.name, len: object.len });
        }
        ControlFlow::Continue(())
    })?;
    all.sort();
    Ok(all)
}

/// Moves a pack out of use. `false` if it is not in use any more.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put(store: &dyn ObjectStore, generation: u64, id: PackId) -> Result<bool, RepoError> {
    match store.rename(&pack::object_name(id), &place(generation, id)) {
        Ok(()) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves a pack back into use. `false` if it is not there any more, and not in use either.
///
/// # Errors
/// [`RepoError::Store`].
pub fn revive(store: &dyn ObjectStore, trashed: &Trashed) -> Result<bool, RepoError> {
    let name = pack::object_name(trashed.id);
    match store.rename(&trashed.name, &name) {
        Ok(()) | Err(StoreError::Exists { .. }) => Ok(true),
        // Another one who needs it was first, or it is gone for good.
        Err(StoreError::NotFound { .. }) => match store.len(&name) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Finds the chunk `id` in the trash. Packs that are damaged or gone meanwhile hold nothing.
///
/// # Errors
/// [`RepoError::Store`].
pub fn find(store: &dyn ObjectStore, keys: &Keys, id: ChunkId) -> Result<Option<(Trashed, Arc<OpenPack>)>, RepoError> {
    for trashed in list(store)? {
        if let Some(pack) = open(store, keys, &trashed)?
            && pack.directory.find(id).is_some()
        {
            return Ok(Some((trashed, Arc::new(pack))));
        }
    }
    Ok(None)
}

/// Opens a pack where it lies; `None` if it is damaged or gone.
///
/// # Errors
/// [`RepoError::Store`].
pub fn open(store: &dyn ObjectStore, keys: &Keys, trashed: &Trashed) -> Result<Option<OpenPack>, RepoError> {
    match reader::read_record_at(store, keys, trashed.id, &trashed.name) {
        Ok(record) => Ok(Some(OpenPack::from_index(keys, &record)?.lying_at(&trashed.name))),
        Err(RepoError::Damaged { .. } | RepoError::Store(StoreError::NotFound { .. } | StoreError::Short { .. })) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
