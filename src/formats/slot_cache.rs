//! A bounded cache for the tables and blocks of an open image. No lock is held while a value is made.

use std::sync::{Arc, Mutex, PoisonError};

/// A bounded cache: a key has one slot, and a newer key takes it over. The order of eviction does not matter much to
/// readers that go forward, so nothing cleverer is needed.
pub(in crate::formats) struct SlotCache<T> {
    slots: Vec<Slot<T>>,
}

/// A key and its value, if the slot was ever used.
type Slot<T> = Mutex<Option<(u64, Arc<T>)>>;

impl<T> SlotCache<T> {
    /// An empty cache of so many slots, at least 1.
    pub(in crate::formats) fn new(slots: usize) -> SlotCache<T> {
        SlotCache { slots: (0..slots).map(|_| Mutex::new(None)).collect() }
    }

    /// The value of `key`, made by `make` if it is not there. Two threads may make it at once; that is harmless.
    pub(in crate::formats) fn get_or<E>(&self, key: u64, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let slots = self.slots.len() as u64;
        let slot = &self.slots[usize::try_from(key % slots).expect("below the number of slots")];
        let lock = || slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((held, value)) = lock().as_ref()
            && *held == key
        {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(make()?);
        *lock() = Some((key, Arc::clone(&value)));
        Ok(value)
    }
}
