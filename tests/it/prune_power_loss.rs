//! "Prune can be killed at any point": every operation of the store's filesystem fails, tears or loses power, over a forget
//! and a prune that repacks, and over the undoing of a forget. What was reported and not forgotten restores, and the next
//! prune goes on.

use std::sync::Arc;

use abbild::ops::forget;
use abbild::repo::Repository;
use abbild::repo::gc::{forgotten, trash};
use abbild::repo::ids::BackupId;
use abbild::repo::session;
use abbild::repo::store::faulty::{Fault, MemFs};

use crate::prune::{forget_one, prune_now};
use crate::world::{RawMachine, content_of, create_on, noise, open_on, quiet};

/// A repository with three backups that share chunks, none of which can go without leaving waste behind.
struct Before {
    fs: MemFs,
    ids: Vec<BackupId>,
    contents: Vec<Vec<u8>>,
}

fn before() -> Before {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let machine = RawMachine::new(b"");
    let (mut ids, mut contents) = (Vec::new(), Vec::new());
    for seed in [1, 2, 3] {
        let content = [noise(200 << 10, 7), noise(200 << 10, seed), noise(200 << 10, seed + 1)].concat();
        machine.write(&content);
        ids.push(machine.back_up(&repository).unwrap().manifest.backup);
        contents.push(content);
    }
    Before { fs: fs.after_power_cut_worst(), ids, contents }
}

fn restores(repository: &Arc<Repository>, backup: BackupId, content: &[u8], when: &str) {
    let found = content_of(repository, backup).unwrap_or_else(|error| panic!("{when}: lost: {error}"));
    assert!(found == content, "{when}: restores other bytes");
}

/// Runs `work` with a fault at every operation; then, after power cuts, everything listed must restore, and must be what is
/// not forgotten; a prune must work, and free what it should.
fn campaign(what: &str, start: &MemFs, before: &Before, kept: &[usize], work: impl Fn(&MemFs) -> bool) {
    let operations = {
        let fs = start.snapshot();
        assert!(work(&fs), "{what} works without faults");
        fs.operations()
    };
    let (mut runs, mut cuts, mut done) = (0, 0, 0);
    // The long form sets `ABBILD_TEST_EVERY`; the short one meets every third operation, with one kind of fault.
    let stride = if std::env::var_os("ABBILD_TEST_EVERY").is_some() { 1 } else { Fault::ALL.len() * 3 };
    for (offset, fault) in (0u64..).zip(Fault::ALL) {
        let offset = if stride == 1 { 0 } else { offset * 3 };
        for operation in (1 + offset..=operations + 3).step_by(stride) {
            let when = format!("{what}: {fault:?} at operation {operation}");
            let fs = start.snapshot();
            fs.plan(operation, fault);
            done += u32::from(work(&fs));
            runs += 1;
            let states = [fs.after_power_cut_worst(), fs.after_power_cut(operation * 31)];
            for state in states {
                cuts += 1;
                let repository = open_on(&state).unwrap_or_else(|error| panic!("{when}: {error}"));
                let listed = repository.backup_ids().unwrap();
                for number in kept {
                    assert!(listed.contains(&before.ids[*number]), "{when}: backup {number} is not listed");
                }
                for id in listed {
                    let number = before.ids.iter().position(|known| *known == id).unwrap();
                    restores(&repository, id, &before.contents[number], &when);
                }
            }
            if operation % 7 == 0 {
                let state = fs.after_power_cut(operation);
                let repository = open_on(&state).unwrap();
                prune_now(&repository).unwrap_or_else(|error| panic!("{when}, next prune: {error}"));
                for number in kept {
                    restores(&open_on(&state).unwrap(), before.ids[*number], &before.contents[*number], &when);
                }
                let in_trash = trash::list(repository.store()).unwrap();
                // The session that a killed run left is this living process's: it holds back what was there before.
                let is_held_back = !session::ids(repository.store()).unwrap().is_empty();
                assert!(in_trash.is_empty() || is_held_back, "{when}: {in_trash:?}");
            }
        }
    }
    println!("{what}: {operations} operations, {runs} faults, {cuts} power cuts, {done} done: 0 reported and lost");
    assert!(done > 0 && runs > done, "some faults must hit and some must not");
}

#[test]
fn every_fault_at_every_operation_of_forget_and_prune() {
    let before = before();
    campaign("forget, prune, repack", &before.fs, &before, &[0, 2], |fs| {
        let Ok(repository) = open_on(fs) else { return false };
        forget_one(&repository, before.ids[1]).is_ok() && prune_now(&repository).is_ok()
    });
}

#[test]
fn a_forgetting_that_failed_late_is_durable_before_anything_is_deleted_because_of_it() {
    let before = before();
    let operations = {
        let fs = before.fs.snapshot();
        let repository = open_on(&fs).unwrap();
        let opened = fs.operations();
        forget_one(&repository, before.ids[1]).unwrap();
        opened + 1..=fs.operations()
    };
    for fault in [Fault::Io, Fault::NoSpace, Fault::Torn] {
        for operation in operations.clone() {
            let when = format!("{fault:?} at operation {operation}");
            let fs = before.fs.snapshot();
            fs.plan(operation, fault);
            let repository = open_on(&fs).unwrap();
            let _ = forget_one(&repository, before.ids[1]);
            prune_now(&repository).unwrap_or_else(|error| panic!("{when}: {error}"));
            let repository = open_on(&fs.after_power_cut_worst()).unwrap();
            for id in repository.backup_ids().unwrap() {
                let number = before.ids.iter().position(|known| *known == id).unwrap();
                restores(&repository, id, &before.contents[number], &when);
            }
        }
    }
}

#[test]
fn every_fault_at_every_operation_of_an_undo_out_of_the_trash() {
    let before = before();
    // Another run is at work while the prune runs: what it moved is in the trash.
    let fs = before.fs.snapshot();
    {
        let repository = open_on(&fs).unwrap();
        session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
        forget_one(&repository, before.ids[1]).unwrap();
        prune_now(&repository).unwrap();
        assert!(!trash::list(repository.store()).unwrap().is_empty());
    }
    let start = fs.after_power_cut_worst();
    campaign("undo", &start, &before, &[0, 2], |fs| {
        let Ok(repository) = open_on(fs) else { return false };
        let undo = || {
            let place = forgotten::list(repository.store()).ok()?.pop()?;
            let manifest = forgotten::load(&repository, &place).ok()?;
            forget::undo(&repository, &place, &manifest, quiet(&false.into())).ok()
        };
        let done = undo().is_some();
        if done {
            let listed = repository.backup_ids();
            assert!(listed.is_err() || listed.is_ok_and(|ids| ids.len() == 3));
        }
        done
    });
}
