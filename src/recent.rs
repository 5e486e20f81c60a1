//! Caches of what was read lately, for the repository and for what is inside guests.
//!
//! The library's own setting keeps 97 of 100 parts for entries that were asked for again, which suits look-ups of single
//! keys: a new one has to give way to the next. Here disks are read, by several threads, piece after piece: a blob that two
//! neighbouring segments need is asked for twice within milliseconds and then never again. So half of a cache is for what
//! is new. Restoring a guest reads two fifths less with it.

use std::hash::Hash;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter, Weighter};

/// Parts of a cache for what was asked for again.
const HOT: f64 = 0.5;
/// Memory of entries that had to go, as a part of those that are there. With any, the library (quick_cache 0.7.0) lets what
/// comes back through `get_or_insert_with` fill the whole cache as asked for again: then each new entry has to go at once.
const GHOSTS: f64 = 0.0;
/// Parts with a lock of their own. A look-up takes far less time than what it finds took to make.
const SHARDS: usize = 1;

/// A cache of `entries`.
pub fn entries<K: Eq + Hash, V: Clone>(entries: usize) -> Cache<K, V> {
    weighed(entries, entries as u64, UnitWeighter)
}

/// A cache of entries that together weigh `weight` at most; about `entries` of them.
pub fn weighed<K: Eq + Hash, V: Clone, W: Weighter<K, V> + Clone>(
    entries: usize,
    weight: u64,
    weighter: W,
) -> Cache<K, V, W> {
    let options = OptionsBuilder::new()
        .estimated_items_capacity(entries)
        .weight_capacity(weight)
        .hot_allocation(HOT)
        .ghost_allocation(GHOSTS)
        .shards(SHARDS)
        .build()
        .expect("both capacities are given");
    Cache::with_options(options, weighter, DefaultHashBuilder::default(), DefaultLifecycle::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_found_again_whatever_was_asked_for_before() {
        // As much as there is room for, more than that, and much more: all of it twice.
        for before in [64, 80, 96, 500] {
            let cache = entries(64);
            let asked = |key: u64| {
                let mut made = false;
                let make = || {
                    made = true;
                    Ok::<_, ()>(key)
                };
                assert_eq!(cache.get_or_insert_with(&key, make), Ok(key));
                made
            };
            (0..before).chain(0..before).for_each(|key| _ = asked(key));
            // Three threads that read on, each going back to what its neighbour has just read.
            let again = (1002..2000).filter(|key| asked(*key) && key % 3 == 2 && asked(key - 2)).count();
            assert_eq!(again, 0, "made a second time, after {before}");
            assert!(cache.len() <= 64);
        }
    }
}
