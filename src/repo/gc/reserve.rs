//! Space that is kept for a prune: on a full medium it gives these bytes up first, and has room for what it must write
//! before it may delete anything. They are as random as all that is stored, so no filesystem compresses them away.

use std::ops::ControlFlow;

use crate::repo::error::RepoError;
use crate::repo::ids::{ObjectId, random};
use crate::repo::store::{ListedObject, ObjectName, ObjectStore, StoreError};

/// Folder of the reserve in the store.
pub const FOLDER: &str = "reserve";
/// What is kept at most: room for a pack.
const BYTES_MAX: u64 = 64 << 20;
/// A repository of so many times this keeps that much.
const SHARE: u64 = 256;
/// What is kept at least, and what is added at least: room for all the small objects of a prune, and for a host's index
/// on the same medium.
const BYTES_MIN: u64 = 1 << 20;

fn kept(store: &dyn ObjectStore) -> Result<Vec<ListedObject>, RepoError> {
    let mut kept = Vec::new();
    store.list(FOLDER, &mut |object| {
        kept.push(object);
        ControlFlow::Continue(())
    })?;
    Ok(kept)
}

/// Gives the reserve up.
///
/// # Errors
/// [`RepoError::Store`].
pub fn give_up(store: &dyn ObjectStore) -> Result<(), RepoError> {
    for object in kept(store)? {
        match store.remove(&object.name) {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reserves what a repository of this size should have, if it has much less.
///
/// # Errors
/// [`RepoError::Store`]; nothing depends on it.
pub fn make(store: &dyn ObjectStore) -> Result<(), RepoError> {
    let kept: u64 = kept(store)?.iter().map(|object| object.len).sum();
    let mut stored = 0;
    store.list("packs", &mut |object| {
        stored += object.len;
        ControlFlow::Continue(())
    })?;
    let missing = (stored / SHARE).clamp(BYTES_MIN, BYTES_MAX).saturating_sub(kept);
    if missing < BYTES_MIN.max(kept) {
        return Ok(());
    }
    let name = ObjectName::new(&format!("{FOLDER}/{}", ObjectId(random()))).expect("hex digits make a good name");
    let mut writer = store.create(&name)?;
    let mut stream = blake3::Hasher::new_keyed(&random()).finalize_xof();
    let mut noise = vec![0; 1 << 20];
    let mut left = missing;
    while left > 0 {
        stream.fill(&mut noise);
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(noise.len());
        writer.write(&noise[..part])?;
        left -= part as u64;
    }
    Ok(writer.commit()?)
}
