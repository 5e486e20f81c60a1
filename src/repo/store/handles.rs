//! A few files kept open between range reads, so that a restore does not open a pack anew for each blob.
//!
//! Invariant: a handle never outlives [`Handles::forget`] of its name. Objects never change, so a handle can be stale
//! only by its object being gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ObjectName;

/// Files kept open at most; far below the usual limit of 1024 descriptors a process.
const HANDLES_MAX: usize = 64;

/// Open files by object, the least recently used one closed first.
pub(super) struct Handles<T>(Mutex<State<T>>);

struct State<T> {
    open: HashMap<ObjectName, Handle<T>>,
    /// Counts uses; the smallest `used` is the least recent.
    clock: u64,
    /// Counts calls of `forget`, so that a file opened before one is not kept after it.
    forgotten: u64,
}

struct Handle<T> {
    file: Arc<T>,
    used: u64,
}

impl<T> Handles<T> {
    pub(super) fn new() -> Handles<T> {
        Handles(Mutex::new(State { open: HashMap::new(), clock: 0, forgotten: 0 }))
    }

    /// The open file of an object, or what `open` gives. The lock is not held while it opens; two threads may both
    /// open, and one of the files is kept.
    pub(super) fn get<E>(&self, name: &ObjectName, open: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let forgotten = {
            let mut state = self.lock();
            state.clock += 1;
            let now = state.clock;
            if let Some(handle) = state.open.get_mut(name) {
                handle.used = now;
                return Ok(Arc::clone(&handle.file));
            }
            state.forgotten
        };
        let file = Arc::new(open()?);
        let mut state = self.lock();
        if state.forgotten == forgotten {
            let used = state.clock;
            state.open.insert(name.clone(), Handle { file: Arc::clone(&file), used });
            if state.open.len() > HANDLES_MAX {
                let oldest = state.open.iter().min_by_key(|(_, handle)| handle.used).map(|(name, _)| name.clone());
                oldest.and_then(|name| state.open.remove(&name));
            }
        }
        Ok(file)
    }

    /// Closes the file of an object that goes away (at the latest when its last reader is done).
    pub(super) fn forget(&self, name: &ObjectName) {
        let mut state = self.lock();
        state.forgotten += 1;
        state.open.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ObjectName {
        ObjectName::new(&format!("n{n}")).unwrap()
    }

    fn get(handles: &Handles<usize>, n: usize) -> (usize, bool) {
        let mut opened = false;
        let file = handles.get(&name(n), || {
            opened = true;
            Ok::<_, ()>(n)
        });
        (*file.unwrap(), opened)
    }

    #[test]
    fn the_least_recently_used_is_closed_first() {
        let handles = Handles::new();
        for n in 0..HANDLES_MAX {
            assert_eq!(get(&handles, n), (n, true));
        }
        assert_eq!(get(&handles, 0), (0, false));
        assert_eq!(get(&handles, HANDLES_MAX), (HANDLES_MAX, true));
        assert_eq!(get(&handles, 0), (0, false));
        assert_eq!(get(&handles, 1), (1, true), "1 was the least recently used");
        assert_eq!(handles.lock().open.len(), HANDLES_MAX);
    }

    #[test]
    fn a_file_opened_while_its_object_is_removed_is_not_kept() {
        let handles = Handles::new();
        let opened = handles.get(&name(1), || {
            handles.forget(&name(1));
            Ok::<_, ()>(1)
        });
        assert_eq!(*opened.unwrap(), 1);
        assert_eq!(get(&handles, 1), (1, true));
        handles.forget(&name(1));
        assert_eq!(get(&handles, 1), (1, true));
    }
}
