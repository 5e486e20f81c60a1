//! "The store's objects are not trusted": every kind of object is damaged in every way, and nothing wrong comes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use abbild::repo::store::faulty::MemFs;
use abbild::repo::store::{ObjectName, ObjectStore};

use crate::world::{RawMachine, content_of, create_on, full_check, noise, objects, open_on, replace, store_on};

/// Every byte of the first and last so many of an object is flipped; beyond, every byte of a spread of positions.
const EDGE: usize = 160;
/// Positions between the edges.
const SPREAD: usize = 48;

fn positions(len: usize) -> Vec<usize> {
    let edges = (0..len).filter(|at| *at < EDGE || *at + EDGE >= len);
    let step = (len / SPREAD).max(1);
    let mut all: Vec<usize> = edges.chain((EDGE..len.saturating_sub(EDGE)).step_by(step)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A small repository with two backups and one session that was left behind.
fn world() -> (MemFs, Vec<u8>) {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let content = [noise(30_000, 1), vec![0; 100_000], b"text ".repeat(2000), noise(512 * 3, 3)].concat();
    let content = content[..content.len() / 512 * 512].to_vec();
    let machine = RawMachine::new(&content);
    machine.back_up(&repository).unwrap();
    machine.back_up(&repository).unwrap();
    abbild::repo::session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
    (fs, content)
}

/// What a damaged repository shows: whether anything said so, and whether a restore gave wrong bytes.
struct Shown {
    noticed: bool,
    wrong: bool,
}

fn look(fs: &MemFs, content: &[u8]) -> Shown {
    let Ok(repository) = open_on(fs) else { return Shown { noticed: true, wrong: false } };
    let mut noticed = match full_check(&repository) {
        Ok(report) => !report.faults.is_empty() || !report.damaged_backups.is_empty(),
        Err(_) => true,
    };
    let mut wrong = false;
    match repository.backup_ids() {
        Ok(ids) => {
            for id in ids {
                match content_of(&repository, id) {
                    Ok(restored) => wrong |= restored != content,
                    Err(_) => noticed = true,
                }
            }
        }
        Err(_) => noticed = true,
    }
    Shown { noticed, wrong }
}

/// Counts by kind of object.
#[derive(Default)]
struct Count {
    tried: u32,
    noticed: u32,
}

#[test]
fn every_flipped_byte_in_every_kind_of_object_is_noticed() {
    let (fs, content) = world();
    let originals = objects(store_on(&fs).unwrap().as_ref());
    let sound = look(&fs, &content);
    assert!(!sound.noticed && !sound.wrong, "the world is sound before it is damaged");
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for (name, bytes) in &originals {
        let kind = name.as_str().split('/').next().unwrap().to_owned();
        for (round, at) in positions(bytes.len()).into_iter().enumerate() {
            let mut flipped = bytes.clone();
            flipped[at] ^= [0x01, 0x80, 0xff, 0x20][round % 4];
            let damaged = fs.snapshot();
            replace(store_on(&damaged).unwrap().as_ref(), name, &flipped);
            let shown = look(&damaged, &content);
            assert!(!shown.wrong, "{name}: byte {at}: wrong bytes were restored");
            assert!(shown.noticed, "{name}: byte {at}: nothing said so");
            let count = counts.entry(kind.clone()).or_default();
            count.tried += 1;
            count.noticed += u32::from(shown.noticed);
        }
    }
    let total: u32 = counts.values().map(|count| count.tried).sum();
    for (kind, count) in &counts {
        println!("{kind:12} {:6} flips, {:6} noticed", count.tried, count.noticed);
    }
    println!(
        "{total} flips in {} objects of {} kinds: all noticed, 0 wrong bytes restored",
        originals.len(),
        counts.len()
    );
    assert_eq!(counts.len(), 8, "config, keys, copies of both, packs, index, manifests, sessions, generations");
}

#[test]
fn truncated_extended_swapped_and_missing_objects_are_noticed() {
    let (fs, content) = world();
    let originals = objects(store_on(&fs).unwrap().as_ref());
    let mut tried = 0;
    let mut attempt = |what: String, damage: &dyn Fn(&dyn ObjectStore)| {
        let damaged = fs.snapshot();
        damage(store_on(&damaged).unwrap().as_ref());
        let shown = look(&damaged, &content);
        assert!(!shown.wrong, "{what}: wrong bytes were restored");
        tried += 1;
        shown.noticed
    };
    for (name, bytes) in &originals {
        for len in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let cut = |store: &dyn ObjectStore| replace(store, name, &bytes[..len]);
            assert!(attempt(format!("{name} cut to {len}"), &cut), "{name} cut to {len}: nothing said so");
        }
        let longer = [bytes.as_slice(), &[0; 32]].concat();
        let extend = |store: &dyn ObjectStore| replace(store, name, &longer);
        assert!(attempt(format!("{name} extended"), &extend), "{name} extended: nothing said so");
    }
    // Objects of one kind in each other's place: each is authentic, but not there.
    let by_folder = |folder: &str| -> Vec<&ObjectName> {
        originals.keys().filter(|name| name.as_str().starts_with(folder)).collect()
    };
    for folder in ["packs/", "manifests/"] {
        let names = by_folder(folder);
        for (a, b) in names.iter().zip(names.iter().skip(1)) {
            let swap = |store: &dyn ObjectStore| {
                replace(store, a, &originals[*b]);
                replace(store, b, &originals[*a]);
            };
            assert!(attempt(format!("{a} and {b} swapped"), &swap), "{a} and {b} swapped: nothing said so");
        }
    }
    for name in by_folder("packs/") {
        let remove = |store: &dyn ObjectStore| store.remove(name).unwrap();
        assert!(attempt(format!("{name} removed"), &remove), "{name} removed: nothing said so");
    }
    println!("{tried} cuts, extensions, swaps and removals: all noticed, 0 wrong bytes restored");
}

#[test]
fn an_object_of_another_repository_is_refused() {
    let ((fs, content), (other, _)) = (world(), world());
    let theirs = objects(store_on(&other).unwrap().as_ref());
    let ours = objects(store_on(&fs).unwrap().as_ref());
    let first = |objects: &BTreeMap<ObjectName, Vec<u8>>, folder: &str| {
        objects.iter().find(|(name, _)| name.as_str().starts_with(folder)).map(|(n, b)| (n.clone(), b.clone())).unwrap()
    };
    for folder in ["config", "keys/", "packs/", "manifests/", "sessions/", "generations/", "index/"] {
        let damaged = fs.snapshot();
        let (name, _) = first(&ours, folder);
        let (_, bytes) = first(&theirs, folder);
        replace(store_on(&damaged).unwrap().as_ref(), &name, &bytes);
        let shown = look(&damaged, &content);
        assert!(shown.noticed && !shown.wrong, "{folder} of another repository");
    }
}

#[test]
fn a_cache_that_lies_is_found_out_by_check_and_does_no_harm() {
    let (fs, content) = world();
    let repository = open_on(&fs).unwrap();
    repository.sync_index(&mut |_| {}).unwrap();
    for id in repository.backup_ids().unwrap() {
        assert_eq!(content_of(&repository, id).unwrap(), content);
    }
    let store: Arc<dyn ObjectStore> = store_on(&fs).unwrap();
    let pack = objects(store.as_ref()).into_keys().find(|name| name.as_str().starts_with("packs/")).unwrap();
    store.remove(&pack).unwrap();
    // The index still knows the pack: a backup must not rely on it.
    let machine = RawMachine::new(&content);
    let committed = machine.back_up(&repository).unwrap();
    assert!(
        committed.manifest.warnings.iter().any(|warning| warning.contains("vanished")),
        "{:?}",
        committed.manifest.warnings
    );
    assert_eq!(content_of(&open_on(&fs).unwrap(), committed.manifest.backup).unwrap(), content);
}

#[test]
fn config_and_slots_open_from_their_copies() {
    let (fs, content) = world();
    let originals = objects(store_on(&fs).unwrap().as_ref());
    for folder in ["config", "keys/"] {
        let name = originals.keys().find(|name| name.as_str().starts_with(folder)).unwrap();
        for damage in [None, Some(b"rot".as_slice())] {
            let damaged = fs.snapshot();
            let store = store_on(&damaged).unwrap();
            store.remove(name).unwrap();
            if let Some(bytes) = damage {
                store.put(name, bytes).unwrap();
            }
            let repository = open_on(&damaged).unwrap_or_else(|error| panic!("{name} {damage:?}: {error}"));
            let id = repository.backup_ids().unwrap()[0];
            assert_eq!(content_of(&repository, id).unwrap(), content);
            let faults = full_check(&repository).unwrap().faults;
            assert!(faults.iter().any(|fault| fault.what == name.as_str()), "{name}: {faults:?}");
        }
    }
}
