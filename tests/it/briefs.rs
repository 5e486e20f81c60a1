//! "Not every command reads every manifest": what is known of backups without reading them, and when it is not believed.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use abbild::repo::Repository;
use abbild::repo::brief::Brief;
use abbild::repo::ids::BackupId;
use abbild::repo::index::IndexPlace;
use abbild::repo::store::ObjectName;
use abbild::repo::store::faulty::MemFs;

use crate::prune::{forget_one, prune_now};
use crate::world::{RawMachine, content_of, create_on, noise, secret, store_on};

/// Three backups of one machine, and a folder for a cache.
struct World {
    fs: MemFs,
    cache: tempfile::TempDir,
    ids: Vec<BackupId>,
}

impl World {
    fn new() -> World {
        let fs = MemFs::new();
        let repository = create_on(&fs);
        let machine = RawMachine::new(b"");
        let back_up = |seed| {
            machine.write(&noise(64 << 10, seed));
            machine.back_up(&repository).unwrap().manifest.backup
        };
        let ids = [1, 2, 3].map(back_up).to_vec();
        World { fs, cache: tempfile::tempdir().unwrap(), ids }
    }

    fn open(&self) -> Arc<Repository> {
        let place = IndexPlace::Folder(self.cache.path().to_owned());
        Arc::new(Repository::open(store_on(&self.fs).unwrap(), &secret(), |_| place.clone()).unwrap())
    }

    /// Every manifest with one byte changed: whoever reads one notices.
    fn damage_all(&self) {
        let store = store_on(&self.fs).unwrap();
        for id in &self.ids {
            let name = ObjectName::new(&format!("manifests/{id}")).unwrap();
            let mut bytes = store.read(&name, 1 << 20).unwrap();
            bytes[100] ^= 1;
            store.remove(&name).unwrap();
            store.put(&name, &bytes).unwrap();
        }
    }

    fn sql(&self, statement: &str) -> usize {
        let file: &Path = &self.cache.path().join("index.sqlite");
        rusqlite::Connection::open(file).unwrap().execute(statement, []).unwrap()
    }
}

/// The ids, oldest first, and how many could not be read.
fn seen(repository: &Repository) -> (Vec<BackupId>, usize) {
    let mut unreadable = 0;
    let briefs = repository.briefs(&mut |_, _| unreadable += 1).unwrap();
    for brief in &briefs {
        assert_eq!(brief.machine, "guest");
    }
    (briefs.iter().map(|brief| brief.backup).collect(), unreadable)
}

#[test]
fn a_manifest_is_read_once_and_damage_in_unknown_ones_is_told_each_time() {
    let world = World::new();
    assert_eq!(seen(&world.open()), (world.ids.clone(), 0));
    world.damage_all();
    // Known from now on, in later processes, too: nobody reads them.
    assert_eq!(seen(&world.open()), (world.ids.clone(), 0));
    let repository = world.open();
    assert!(repository.manifest(world.ids[0]).is_err(), "whoever uses a backup reads its manifest");
    repository.forget_briefs().unwrap();
    for _ in 0..2 {
        assert_eq!(seen(&repository), (vec![], 3));
        assert_eq!(seen(&world.open()), (vec![], 3));
    }
}

#[test]
fn what_a_brief_says_is_what_the_manifest_says() {
    let world = World::new();
    let read: Vec<Brief> = world.ids.iter().map(|id| Brief::of(&world.open().manifest(*id).unwrap())).collect();
    for _ in 0..2 {
        let known: Vec<Brief> =
            world.open().briefs(&mut |_, error| panic!("{error}")).unwrap().iter().map(|b| (**b).clone()).collect();
        assert_eq!(known, read);
    }
}

#[test]
fn torn_and_forged_rows_are_not_believed() {
    let changes = [
        "UPDATE brief SET record = CAST(replace(CAST(record AS TEXT), 'guest', 'other') AS BLOB)",
        "UPDATE brief SET record = substr(record, 1, 40)",
        "UPDATE brief SET record = x''",
        "UPDATE brief SET checksum = zeroblob(32)",
        "UPDATE brief SET checksum = x'00'",
        "UPDATE brief SET len = len + 1",
        "UPDATE brief SET backup = x'00'",
        // A sound row of another backup.
        "UPDATE brief SET record = (SELECT record FROM brief ORDER BY backup DESC LIMIT 1)",
        "DELETE FROM brief",
    ];
    for change in changes {
        let world = World::new();
        seen(&world.open());
        let limited = if change.contains("SET backup") {
            format!("{change} WHERE backup = (SELECT min(backup) FROM brief)")
        } else {
            change.to_owned()
        };
        assert!(world.sql(&limited) > 0, "{change}");
        assert_eq!(seen(&world.open()), (world.ids.clone(), 0), "{change}");
        // And what was read instead is known again.
        world.damage_all();
        assert_eq!(seen(&world.open()), (world.ids.clone(), 0), "{change}");
    }
}

#[test]
fn a_manifest_of_another_length_is_another_object() {
    let world = World::new();
    seen(&world.open());
    let store = store_on(&world.fs).unwrap();
    let name = ObjectName::new(&format!("manifests/{}", world.ids[1])).unwrap();
    let bytes = store.read(&name, 1 << 20).unwrap();
    store.remove(&name).unwrap();
    store.put(&name, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(seen(&world.open()), (vec![world.ids[0], world.ids[2]], 1));
}

#[test]
fn the_listing_alone_says_which_backups_there_are() {
    let world = World::new();
    let repository = world.open();
    seen(&repository);
    forget_one(&repository, world.ids[1]).unwrap();
    assert_eq!(seen(&repository), (vec![world.ids[0], world.ids[2]], 0));
    assert_eq!(world.sql("DELETE FROM brief"), 2, "the row of the forgotten one is gone");
    prune_now(&repository).unwrap();
    let machine = RawMachine::new(&noise(64 << 10, 9));
    let new = machine.back_up(&repository).unwrap().manifest.backup;
    assert_eq!(seen(&repository).0, [world.ids[0], world.ids[2], new]);
    assert_eq!(seen(&world.open()).0, [world.ids[0], world.ids[2], new]);
    let mut listed = 0;
    repository
        .store()
        .list("manifests", &mut |_| {
            listed += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(listed, 3);
}

#[test]
fn a_backup_reads_the_manifest_that_it_builds_on_and_no_other() {
    let world = World::new();
    let machine = RawMachine::new(&noise(64 << 10, 20));
    let repository = world.open();
    let first = machine.back_up(&repository).unwrap().manifest;
    world.damage_all(); // of the others: none is read, none is complained of
    let second = machine.back_up(&repository).unwrap().manifest;
    assert_eq!(second.parent, Some(first.backup));
    assert_eq!((second.warnings.as_slice(), second.statistics.read), (&[][..], 0));
    assert_eq!(content_of(&repository, second.backup).unwrap(), noise(64 << 10, 20));
}
