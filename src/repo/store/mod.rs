//! Where the repository's objects live: named byte strings that are written once and never changed.
//!
//! In here: the trait [`ObjectStore`], its errors, the store in a directory ([`directory`]), the seam to the operating
//! system under it ([`fs`]), a filesystem in memory that loses power on demand ([`faulty`]), and the suite that every
//! store must pass ([`conformance`]). Not in here: what an object holds, keys, who may delete what.
//!
//! Invariants every store keeps:
//!
//! - An object is either absent or complete under its name; it is never replaced and its bytes never change.
//! - When `put`, `put_exclusive`, `commit`, `rename` or `remove` return `Ok`, no power cut can undo them.
//! - When one of them returns an error, the object may be absent or complete, never partial, and if complete perhaps
//!   not yet durable. So an error means "unknown": go on under another name, or look again later. Nothing that became
//!   visible is taken back, because another host may have relied on it already.

pub mod conformance;
pub mod directory;
pub mod faulty;
pub mod fs;
mod handles;
mod name;

#[cfg(test)]
mod campaign;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

pub use directory::DirectoryStore;
pub use name::{NAME_BYTES_MAX, ObjectName};

/// Named objects, written once.
pub trait ObjectStore: Send + Sync {
    /// Begins a new object; it is invisible until [`ObjectWriter::commit`], and dropping the writer throws it away.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the name is taken already (a courtesy: `commit` is what decides).
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter + '_>, StoreError>;

    /// Stores a whole new object durably.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the name is taken; the object there is left alone.
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
        let mut writer = self.create(name)?;
        writer.write(bytes)?;
        writer.commit()
    }

    /// Stores a whole new object durably, and of all who try at once, on whatever host, exactly one succeeds: the
    /// fencing primitive. After any other error than `Exists` the caller may have won without knowing: read it back.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if somebody else was first.
    fn put_exclusive(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError>;

    /// The whole object, which may not be longer than `limit` bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above the limit, before anything is allocated; [`StoreError::NotFound`].
    fn read(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        self.read_into(name, limit, &mut bytes)?;
        Ok(bytes)
    }

    /// The same, in place of what `bytes` held: who reads many keeps its memory.
    ///
    /// # Errors
    /// As [`ObjectStore::read`]; what `bytes` holds is then unspecified.
    fn read_into(&self, name: &ObjectName, limit: u64, bytes: &mut Vec<u8>) -> Result<(), StoreError>;

    /// A hint: the whole object will be read soon, unless it is longer than `limit` bytes. The medium may begin while the
    /// caller does something else.
    fn read_ahead(&self, _name: &ObjectName, _limit: u64) {}

    /// Fills all of `buf` from byte `at` of the object.
    ///
    /// # Errors
    /// [`StoreError::Short`] if the object ends before, [`StoreError::NotFound`]; `buf` is then unspecified.
    fn read_range(&self, name: &ObjectName, at: u64, buf: &mut [u8]) -> Result<(), StoreError>;

    /// Length of the object in bytes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    fn len(&self, name: &ObjectName) -> Result<u64, StoreError>;

    /// Shows every object below `folder` (`""` is the whole store) to `each` until that breaks off, in no promised
    /// order. A folder that is not there is empty. Unfinished objects are not shown; foreign files are not either, see
    /// [`foreign`](ObjectStore::foreign).
    ///
    /// # Errors
    /// If a part cannot be read, all the rest is shown first and then the first error is returned.
    fn list(&self, folder: &str, each: &mut dyn FnMut(ListedObject) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Shows what lies below `folder` and is neither an object nor an unfinished one, as printable text.
    ///
    /// # Errors
    /// As [`list`](ObjectStore::list).
    fn foreign(&self, folder: &str, each: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Shows the names of unfinished objects below `folder`: of writers at work, or of such that died.
    ///
    /// # Errors
    /// As [`list`](ObjectStore::list).
    fn unfinished(&self, folder: &str, each: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Gives an object another name, durably; never replaces. After a crash both names may be there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for `from`, [`StoreError::Exists`] for `to`.
    fn rename(&self, from: &ObjectName, to: &ObjectName) -> Result<(), StoreError>;

    /// Makes durable what can be seen in `folder`: who stored it may have died, or have been told of an error, after it had
    /// its name and before that was durable.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn settle(&self, folder: &str) -> Result<(), StoreError>;

    /// Removes an object, durably.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    fn remove(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// Removes what writers that died left behind, if untouched for `older_than`. Never called by the store itself. A
    /// writer that is alive but was that slow loses its object: its commit fails, and no stored object is harmed.
    ///
    /// # Errors
    /// If a part cannot be cleaned, all the rest is cleaned first and then the first error is returned.
    fn clean_temporaries(&self, older_than: Duration) -> Result<Cleaned, StoreError>;

    /// How much room there is; `None` where nobody can tell.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn space(&self) -> Result<Option<Space>, StoreError> {
        Ok(None)
    }

    /// Where the store is, for messages.
    fn place(&self) -> String;
}

/// An object being written. Dropped without [`commit`](ObjectWriter::commit) it leaves nothing behind.
pub trait ObjectWriter: Send {
    /// Appends `bytes`. After an error the object can only be dropped: `commit` will refuse it.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`].
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes the object durable and then visible.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the name was taken meanwhile. A failed flush is not tried again: the bytes are thrown
    /// away, because the system may by then have forgotten which of them never reached the medium.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// The names of all objects below `folder`, sorted.
///
/// # Errors
/// As [`ObjectStore::list`].
pub fn names(store: &dyn ObjectStore, folder: &str) -> Result<Vec<ObjectName>, StoreError> {
    let mut names = Vec::new();
    store.list(folder, &mut |object| {
        names.push(object.name);
        ControlFlow::Continue(())
    })?;
    names.sort();
    Ok(names)
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedObject {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub len: u64,
}

/// Room on the medium that a store lies on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What may still be used.
    pub free: u64,
    /// All there is.
    pub size: u64,
}

/// What [`ObjectStore::clean_temporaries`] removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// How many unfinished objects.
    pub objects: u64,
    /// How many bytes they held.
    pub bytes: u64,
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{place}: there is no object {name}")]
    NotFound {
        /// The store.
        place: String,
        /// The object.
        name: ObjectName,
    },
    /// The name is taken, and objects are never replaced.
    #[error("{place}: object {name} exists already")]
    Exists {
        /// The store.
        place: String,
        /// The object.
        name: ObjectName,
    },
    /// The object ends before the bytes that were wanted.
    #[error("{place}: object {name} is too short: expected at least {expected} bytes, found {found}")]
    Short {
        /// The store.
        place: String,
        /// The object.
        name: ObjectName,
        /// Bytes it must have for the read to be possible.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The object is longer than the reader accepts.
    #[error("{place}: object {name} is too large: expected at most {limit} bytes, found {found}")]
    TooLarge {
        /// The store.
        place: String,
        /// The object.
        name: ObjectName,
        /// Bytes the reader accepts.
        limit: u64,
        /// Bytes the object has.
        found: u64,
    },
    /// The medium or the quota is full.
    #[error("{place}: no space left for object {name}")]
    NoSpace {
        /// The store.
        place: String,
        /// The object, or the folder for it.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The medium failed.
    #[error("{place}: cannot {action} {name}")]
    Io {
        /// The store.
        place: String,
        /// The object or folder.
        name: String,
        /// What was being done, as a verb.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// This cannot be the name of an object.
    #[error("object name {name:?}: {why}")]
    BadName {
        /// The name, shortened if it is long.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
}
