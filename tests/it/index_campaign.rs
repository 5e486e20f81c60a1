//! "The index is a cache": deleted, stale, torn, flipped, rolled back or another repository's, it is built anew or refused;
//! it never makes a backup that does not restore.
//!
//! `ABBILD_TEST_INDEXES` says how many mutations, `ABBILD_TEST_SEED` which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abbild::repo::ids::BackupId;
use abbild::repo::index::IndexPlace;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::{RepoError, Repository};

use crate::processes::number;
use crate::prune::{forget_one, prune_now};
use crate::world::{Dice, RawMachine, content_of, create_on, full_check, noise, open_on, secret, store_on};

/// Mutations of the short form.
const INDEXES: u64 = 32;

fn open_with(fs: &MemFs, cache: &Path) -> Result<Arc<Repository>, RepoError> {
    let place = |_| IndexPlace::Folder(cache.to_owned());
    Ok(Arc::new(Repository::open(store_on(fs)?, &secret(), place)?))
}

/// The files of a cache.
type Cache = BTreeMap<PathBuf, Vec<u8>>;

fn files(folder: &Path) -> Cache {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().into(), std::fs::read(&path).unwrap())).collect()
}

/// A repository after backups, a forget and a prune, with its cache as it was on the way.
struct World {
    fs: MemFs,
    /// The last is today's.
    caches: Vec<Cache>,
    foreign: Cache,
    contents: Vec<(BackupId, Vec<u8>)>,
    machine: RawMachine,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let fs = MemFs::new();
    create_on(&fs);
    let machine = RawMachine::new(b"");
    let (mut caches, mut contents) = (Vec::new(), Vec::new());
    for seed in 0..5 {
        let content = [noise(60 << 10, 7), noise(60 << 10, seed), noise(30 << 10, seed / 2 + 20)].concat();
        machine.write(&content);
        let repository = open_with(&fs, folder.path()).unwrap();
        contents.push((machine.back_up(&repository).unwrap().manifest.backup, content));
        // As another process would find it: with what is still in the log.
        caches.push(files(folder.path()));
        if seed == 2 {
            forget_one(&repository, contents.remove(0).0).unwrap();
            prune_now(&repository).unwrap();
            caches.push(files(folder.path()));
        }
        drop(repository);
        caches.push(files(folder.path()));
    }
    let (other, elsewhere) = (MemFs::new(), tempfile::tempdir().unwrap());
    create_on(&other);
    machine.back_up(&open_with(&other, elsewhere.path()).unwrap()).unwrap();
    World { fs, caches, foreign: files(elsewhere.path()), contents, machine }
}

fn mutate(world: &World, dice: &mut Dice) -> (&'static str, Cache) {
    let mut cache = world.caches.last().unwrap().clone();
    let names: Vec<PathBuf> = cache.keys().cloned().collect();
    let name = &names[dice.below(names.len())];
    let kind = match dice.below(8) {
        0 => {
            cache.remove(name);
            "deleted"
        }
        1 => {
            cache = world.caches[dice.below(world.caches.len())].clone();
            "rolled back"
        }
        2 => {
            cache = world.foreign.clone();
            "foreign"
        }
        3 => {
            let bytes = cache.get_mut(name).unwrap();
            bytes.truncate(dice.below(bytes.len() + 1));
            "torn"
        }
        4 => {
            // The file of one time with the log of another.
            let older = &world.caches[dice.below(world.caches.len())];
            for (name, bytes) in older.iter().filter(|(name, _)| name.to_string_lossy().ends_with("-wal")) {
                cache.insert(name.clone(), bytes.clone());
            }
            "stale log"
        }
        5 => {
            let bytes = cache.get_mut(name).unwrap();
            let at = dice.below(bytes.len() / 4096 + 1) * 4096;
            let end = (at + 4096).min(bytes.len());
            let fill = [0, 0xff, 0x55][dice.below(3)];
            bytes[at.min(end)..end].fill(fill);
            "page lost"
        }
        _ => {
            let bytes = cache.get_mut(name).unwrap();
            for _ in 0..=dice.below(8) {
                let bit = dice.below((bytes.len() * 8).max(1));
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            "flipped"
        }
    };
    (kind, cache)
}

#[test]
fn a_damaged_index_is_built_anew_or_refused_and_no_backup_dangles() {
    let (wanted, seed) = (number("ABBILD_TEST_INDEXES", INDEXES), number("ABBILD_TEST_SEED", 1));
    let world = world();
    let mut counts: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    let content = [noise(60 << 10, 7), noise(50 << 10, 99)].concat();
    world.machine.write(&content);
    for round in 0..wanted {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let (kind, cache) = mutate(&world, &mut dice);
        let when = format!("{kind} (seed {seed}, round {round})");
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &cache {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let fs = world.fs.snapshot();
        let count = counts.entry(kind).or_default();
        let made = open_with(&fs, folder.path()).and_then(|repository| {
            world.machine.back_up(&repository).map_err(|error| match error {
                abbild::ops::OpsError::Repo(error) => error,
                other => panic!("{when}: {other}"),
            })
        });
        let mut all = world.contents.clone();
        match made {
            Ok(committed) => {
                count.0 += 1;
                all.push((committed.manifest.backup, content.clone()));
            }
            Err(RepoError::Index { .. }) => count.1 += 1,
            Err(error) => panic!("{when}: {error}"),
        }
        let clean = open_on(&fs).unwrap();
        for (id, content) in &all {
            let found = content_of(&clean, *id).unwrap_or_else(|error| panic!("{when}: dangling {id}: {error}"));
            assert!(found == *content, "{when}: wrong bytes");
        }
        assert_eq!(clean.backup_ids().unwrap().len(), all.len(), "{when}: a backup that nobody reported");
        // A check makes the cache right again; then it answers like a new one.
        let repository = open_with(&fs, folder.path()).unwrap_or_else(|error| panic!("{when}, opened again: {error}"));
        let report = full_check(&repository).unwrap_or_else(|error| panic!("{when}, checked: {error:?}"));
        assert!(report.is_sound() && report.faults.is_empty(), "{when}: {report:?}");
        for (id, content) in &all {
            let found = content_of(&repository, *id).unwrap_or_else(|error| panic!("{when}, checked: {error}"));
            assert!(found == *content, "{when}, checked: wrong bytes");
        }
        count.2 += 1;
    }
    for (kind, (backed_up, refused, healed)) in &counts {
        println!("{kind:12} {backed_up:6} backed up, {refused:6} refused, {healed:6} right after a check");
    }
    println!("{wanted} damaged indexes, seed {seed}: 0 dangling backups, 0 wrong bytes");
}
