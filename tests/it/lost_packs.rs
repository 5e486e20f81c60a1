//! "A pack was lost": no later backup is reported as done that needs what was in it, whoever noticed the loss first.

use std::sync::Arc;

use abbild::ops::backup::backup;
use abbild::repo::Repository;
use abbild::repo::ids::{BackupId, PackId};
use abbild::repo::intake::Committed;
use abbild::repo::pack;
use abbild::repo::store::faulty::MemFs;
use abbild::{machine, ops::backup::BackupOptions};

use crate::world::{RawMachine, content_of, create_on, noise, open_on, quiet, store_on};

/// Takes the pack with most bytes out of the store: the one with the disk's data.
fn lose_data(repository: &Repository, fs: &MemFs) -> PackId {
    let packs = abbild::repo::listed_packs(repository.store()).unwrap();
    let (id, _) = packs.into_iter().max_by_key(|(_, len)| *len).unwrap();
    store_on(fs).unwrap().remove(&pack::object_name(id)).unwrap();
    id
}

fn back_up(machine: &RawMachine, repository: &Arc<Repository>, full_read: bool) -> Committed {
    let options = BackupOptions { level: "current".parse().unwrap(), full_read, allowed_folders: Vec::new() };
    let read = machine::read(&machine.image()).unwrap();
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
