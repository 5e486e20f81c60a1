//! "A pack was lost": no later backup is reported as done that needs what was in it, whoever noticed the loss first.

use std::sync::Arc;

use abbild::ops::backup::BackupOptions;
use abbild::ops::backup::backup;
use abbild::ops::machines;
use abbild::repo::Repository;
use abbild::repo::ids::{BackupId, PackId};
use abbild::repo::pack;
use abbild::repo::run::Committed;
use abbild::repo::store::faulty::MemFs;

use crate::world::{RawMachine, content_of, create_on, noise, open_on, quiet, store_on};

/// Takes the pack with most bytes out of the store: the one with the disk's data.
fn lose_data(repository: &Repository, fs: &MemFs) -> PackId {
    let packs = abbild::repo::listed_packs(repository.store()).unwrap();
    let (id, _) = packs.into_iter().max_by_key(|(_, len)| *len).unwrap();
    store_on(fs).unwrap().remove(&pack::object_name(id)).unwrap();
    id
}

fn back_up(machine: &RawMachine, repository: &Arc<Repository>, full_read: bool) -> Committed {
    let options = BackupOptions { full_read, ..Default::default() };
    let read = machines::read(&machine.image()).unwrap();
    backup(repository, &read, &options, quiet(&false.into())).unwrap()
}

#[track_caller]
fn restores(fs: &MemFs, id: BackupId, expected: &[u8]) {
    let found = content_of(&open_on(fs).unwrap(), id);
    assert!(found.as_ref().is_ok_and(|found| found == expected), "{:?}", found.err());
}

/// One backup, then its data is gone, then `notice` happens, then the next backup, which must restore.
#[track_caller]
fn the_next_backup_restores(full_read: bool, touch: bool, notice: impl Fn(Arc<Repository>, &MemFs) -> Arc<Repository>) {
    let content = noise(12 << 20, 5);
    let machine = RawMachine::new(&content);
    let fs = MemFs::new();
    let repository = create_on(&fs);
    back_up(&machine, &repository, false);
    lose_data(&repository, &fs);
    let repository = notice(repository, &fs);
    if touch {
        machine.write(&content); // the same bytes, but the file is not known again
    }
    let next = back_up(&machine, &repository, full_read).manifest;
    restores(&fs, next.backup, &content);
    let third = back_up(&machine, &repository, false).manifest;
    restores(&fs, third.backup, &content);
    assert_eq!(third.parent, Some(next.backup), "what was read whole is good to build on");
}

#[test]
fn noticed_by_the_backup_itself() {
    the_next_backup_restores(false, false, |repository, _| repository);
}

#[test]
fn noticed_by_an_earlier_command_or_a_backup_that_was_interrupted() {
    let sync = |repository: Arc<Repository>, _: &MemFs| {
        assert_eq!(repository.sync_index(&mut |_| {}).unwrap().vanished.len(), 1);
        assert_eq!(repository.sync_index(&mut |_| {}).unwrap().vanished.len(), 0);
        repository
    };
    for (full_read, touch) in [(false, false), (false, true), (true, false)] {
        the_next_backup_restores(full_read, touch, sync);
    }
}

#[test]
fn noticed_by_a_host_that_never_saw_the_pack() {
    let elsewhere = |_: Arc<Repository>, fs: &MemFs| open_on(fs).unwrap();
    for (full_read, touch) in [(false, false), (false, true), (true, false)] {
        the_next_backup_restores(full_read, touch, elsewhere);
    }
}

#[test]
fn what_check_finds_rotten_is_stored_again_and_heals_what_was_there() {
    let content = noise(3 << 20, 5);
    let machine = RawMachine::new(&content);
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let first = back_up(&machine, &repository, false).manifest;
    // One byte deep inside the data: the pack's directory and trailer stay right.
    let packs = abbild::repo::listed_packs(repository.store()).unwrap();
    let (id, _) = packs.into_iter().max_by_key(|(_, len)| *len).unwrap();
    let (store, name) = (store_on(&fs).unwrap(), pack::object_name(id));
    let mut bytes = store.read(&name, 1 << 30).unwrap();
    bytes[100_000] ^= 1;
    store.remove(&name).unwrap();
    store.put(&name, &bytes).unwrap();
    drop(repository);

    // One host with its cache, as it would lie on its disk.
    let cache = tempfile::tempdir().unwrap();
    let place = |_| abbild::repo::index::IndexPlace::Folder(cache.path().to_owned());
    let open = || Arc::new(Repository::open(store_on(&fs).unwrap(), &crate::world::secret(), place).unwrap());
    let report = crate::world::full_check(&open()).unwrap();
    assert_eq!((report.faults.len(), report.damaged_backups.len()), (1, 1), "{report:?}");

    let next = back_up(&machine, &open(), false).manifest;
    assert_eq!(next.parent, None, "nothing is built on what may need the damaged pack");
    assert!(next.statistics.new > 1 << 20, "what the damaged pack held is stored again: {:?}", next.statistics);
    assert!(content_of(&open(), next.backup).unwrap() == content);
    assert!(content_of(&open(), first.backup).unwrap() == content, "the first backup is whole again");
}

#[test]
fn a_reference_whose_map_is_gone_costs_a_full_read_and_no_backup() {
    let content = noise(9 << 20, 6);
    let machine = RawMachine::new(&content);
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let first = back_up(&machine, &repository, false).manifest;
    // A manifest like the first, but its root names nodes that no pack holds.
    let mut broken = first.clone();
    broken.backup = BackupId([9; 16]);
    broken.instant = jiff::Timestamp::now();
    let disk = repository.disk(&first, 0).unwrap();
    let lists = disk
        .node(0)
        .unwrap()
        .iter()
        .map(|list| abbild::repo::ids::ChunkId(list.0.map(|byte| !byte)))
        .collect::<Vec<_>>();
    let state = abbild::repo::intake::State::default();
    let forged = abbild::repo::intake::run::<abbild::repo::RepoError>(
        &repository,
        &state,
        "backup",
        |intake| {
            let mut writer = intake.writer();
            let node = writer.store_map(&abbild::repo::map::encode_ids(&lists))?;
            broken.disks[0].root = writer.store_map(&abbild::repo::map::encode_ids(&[node]))?;
            writer.flush()?;
            Ok(broken.clone())
        },
        |_| {},
    );
    forged.unwrap();
    let removed = abbild::repo::manifest::object_name(first.backup);
    repository.store().remove(&removed).unwrap();

    let next = back_up(&machine, &repository, false).manifest;
    assert!(next.warnings.iter().any(|warning| warning.contains("cannot be read")), "{:?}", next.warnings);
    assert_eq!((next.parent, next.disks[0].statistics.read), (None, content.len() as u64));
    restores(&fs, next.backup, &content);
}
