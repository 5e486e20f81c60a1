//! The suite every [`ObjectStore`] passes, wherever its objects live. Called from tests, so it panics on a breach and
//! says which law was broken.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{Cleaned, ListedObject, ObjectName, ObjectStore, StoreError};

/// Checks every law of [`ObjectStore`] on an empty store, which is empty again afterwards.
///
/// # Panics
/// On the first breach.
pub fn check(store: &dyn ObjectStore) {
    assert_eq!(listed(store, ""), [], "the store must be empty at the start");
    one_object(store);
    lengths_and_ranges(store);
    streamed(store);
    never_replaced(store);
    renamed_and_removed(store);
    listings(store);
    exclusive(store);
    cleaned(store);
    assert_eq!(listed(store, ""), [], "the store must be empty at the end");
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).expect("a good name")
}

fn listed(store: &dyn ObjectStore, folder: &str) -> Vec<ListedObject> {
    let mut all = Vec::new();
    store
        .list(folder, &mut |object| {
            all.push(object);
            ControlFlow::Continue(())
        })
        .expect("list");
    all.sort();
    all
}

/// Sees that every way to look at an absent object says `NotFound`.
fn absent(store: &dyn ObjectStore, absent: &ObjectName) {
    let to = name("other/name");
    for (way, outcome) in [
        ("read", store.read(absent, 10).map(drop)),
        ("read_range", store.read_range(absent, 0, &mut [0])),
        ("len", store.len(absent).map(drop)),
        ("rename", store.rename(absent, &to)),
        ("remove", store.remove(absent)),
    ] {
        match outcome {
            Err(StoreError::NotFound { name, .. }) if name == *absent => {}
            outcome => panic!("{way} of absent {absent}: {outcome:?}"),
        }
    }
}

fn one_object(store: &dyn ObjectStore) {
    let config = name("config");
    absent(store, &config);
    store.put(&config, b"bytes").expect("put");
    assert_eq!(store.read(&config, 5).expect("read"), b"bytes");
    assert_eq!(store.len(&config).expect("len"), 5);
    absent(store, &name("config/below"));
    store.remove(&config).expect("remove");
    absent(store, &config);
}

fn lengths_and_ranges(store: &dyn ObjectStore) {
    for len in [0usize, 1, 4095, 4096, 100_000] {
        let object = name("packs/ab/ranges");
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        store.put(&object, &bytes).expect("put");
        assert_eq!(store.read(&object, len as u64).expect("read"), bytes);
        if len > 0 {
            match store.read(&object, len as u64 - 1) {
                Err(StoreError::TooLarge { limit, found, .. }) => {
                    assert_eq!((limit, found), (len as u64 - 1, len as u64));
                }
                outcome => panic!("{len} bytes, limit one below: {outcome:?}"),
            }
        }
        for (at, want) in [(0, len), (0, len / 2), (len / 3, len / 2), (len, 0), (len.saturating_sub(1), len.min(1))] {
            let mut part = vec![0x5a; want];
            store.read_range(&object, at as u64, &mut part).expect("read_range");
            assert!(part == bytes[at..at + want], "{want} bytes at {at} of {len} differ");
        }
        for (at, want) in [(len as u64, 1), (0, len + 1), (len as u64 + 1, 0), (u64::MAX, 1), (1 << 63, 8)] {
            match store.read_range(&object, at, &mut vec![0; want]) {
                Err(StoreError::Short { found, .. }) => assert_eq!(found, len as u64),
                outcome => panic!("{want} bytes at {at} of {len}: {outcome:?}"),
            }
        }
        store.remove(&object).expect("remove");
        absent(store, &object);
    }
}

fn streamed(store: &dyn ObjectStore) {
    let object = name("packs/cd/streamed");
    let mut writer = store.create(&object).expect("create");
    let mut whole = Vec::new();
    for part in [&b""[..], b"one", &[7; 70_000], b""] {
        writer.write(part).expect("write");
        whole.extend_from_slice(part);
        absent(store, &object);
        assert_eq!(listed(store, ""), [], "an unfinished object is listed");
    }
    writer.commit().expect("commit");
    assert_eq!(store.read(&object, 1 << 20).expect("read"), whole);

    let dropped = name("packs/cd/dropped");
    let mut writer = store.create(&dropped).expect("create");
    writer.write(b"never seen").expect("write");
    drop(writer);
    absent(store, &dropped);
    store.remove(&object).expect("remove");
}

fn never_replaced(store: &dyn ObjectStore) {
    let object = name("manifests/m1");
    // Two writers of one name at once: the second to commit must not win.
    let mut first = store.create(&object).expect("create");
    let mut second = store.create(&object).expect("create");
    first.write(b"first").expect("write");
    second.write(b"second").expect("write");
    first.commit().expect("commit");
    exists(&object, second.commit());
    exists(&object, store.put(&object, b"third"));
    exists(&object, store.put_exclusive(&object, b"fourth"));
    exists(&object, store.create(&object).map(drop));
    let other = name("manifests/m2");
    store.put(&other, b"other").expect("put");
    exists(&object, store.rename(&other, &object));
    assert_eq!(store.read(&object, 100).expect("read"), b"first");
    assert_eq!(store.read(&other, 100).expect("read"), b"other");
    store.remove(&object).expect("remove");
    store.remove(&other).expect("remove");
}

fn exists(object: &ObjectName, outcome: Result<(), StoreError>) {
    match outcome {
        Err(StoreError::Exists { name, .. }) if name == *object => {}
        outcome => panic!("{object} is taken, but: {outcome:?}"),
    }
}

fn renamed_and_removed(store: &dyn ObjectStore) {
    let (from, to) = (name("packs/ab/p1"), name("trash/7/p1"));
    store.put(&from, b"moves").expect("put");
    let mut part = [0; 3];
    store.read_range(&from, 1, &mut part).expect("read_range"); // a store may keep a handle now
    store.rename(&from, &to).expect("rename");
    absent(store, &from);
    assert_eq!(store.read(&to, 5).expect("read"), b"moves");
    // The old name is free again and is another object.
    store.put(&from, b"other").expect("put");
    store.read_range(&from, 1, &mut part).expect("read_range");
    assert_eq!(&part, b"the");
    store.remove(&from).expect("remove");
    absent(store, &from);
    store.remove(&to).expect("remove");
    absent(store, &to);
}

fn listings(store: &dyn ObjectStore) {
    let objects = ["config", "keys/k1", "packs/ab/p1", "packs/ab/p2", "packs/cd/p3", "packs-old"].map(name);
    for (len, object) in objects.iter().enumerate() {
        store.put(object, &vec![1; len]).expect("put");
    }
    for (folder, expected) in
        [("", &[0, 1, 2, 3, 4, 5][..]), ("packs", &[2, 3, 4]), ("packs/ab", &[2, 3]), ("nothing/here", &[]), ("p", &[])]
    {
        let mut wanted: Vec<_> =
            expected.iter().map(|i| ListedObject { name: objects[*i].clone(), len: *i as u64 }).collect();
        wanted.sort();
        assert_eq!(listed(store, folder), wanted, "below {folder:?}");
    }
    let mut calls = 0;
    store
        .list("", &mut |_| {
            calls += 1;
            if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("list");
    assert_eq!(calls, 2, "a listing goes on after it was broken off");
    let outside = store.list("../elsewhere", &mut |_| ControlFlow::Continue(()));
    assert!(matches!(outside, Err(StoreError::BadName { .. })), "{outside:?}");
    store.foreign("", &mut |found| panic!("foreign {found:?} in a store of our own making")).expect("foreign");
    objects.iter().for_each(|object| store.remove(object).expect("remove"));
}

/// Of many who claim one name at once exactly one wins, and its bytes are what is stored.
fn exclusive(store: &dyn ObjectStore) {
    const CLAIMANTS: u8 = 8;
    for round in 0..20 {
        let token = name(&format!("generations/{round}"));
        let barrier = std::sync::Barrier::new(usize::from(CLAIMANTS));
        let winners: Vec<u8> = std::thread::scope(|scope| {
            let claims: Vec<_> = (0..CLAIMANTS)
                .map(|who| {
                    let (token, barrier) = (&token, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        (who, store.put_exclusive(token, &[who]))
                    })
                })
                .collect();
            let outcomes = claims.into_iter().map(|claim| claim.join().expect("a claimant does not panic"));
            outcomes
                .filter_map(|(who, outcome)| match outcome {
                    Ok(()) => Some(who),
                    Err(StoreError::Exists { .. }) => None,
                    Err(error) => panic!("claim of {token} by {who}: {error:?}"),
                })
                .collect()
        });
        assert_eq!(winners.len(), 1, "round {round}: winners {winners:?}");
        assert_eq!(store.read(&token, 1).expect("read"), winners);
        store.remove(&token).expect("remove");
    }
}

fn cleaned(store: &dyn ObjectStore) {
    let object = name("packs/ab/slow");
    let mut writer = store.create(&object).expect("create");
    writer.write(b"12345").expect("write");
    assert_eq!(store.clean_temporaries(Duration::from_secs(3600)).expect("clean"), Cleaned::default());
    let all = store.clean_temporaries(Duration::ZERO).expect("clean");
    assert_eq!(all.objects, 1);
    assert!(writer.commit().is_err(), "an object whose bytes were cleaned away was committed");
    absent(store, &object);
}
