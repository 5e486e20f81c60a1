//! "A backup that was reported as done restores byte for byte, whatever is killed, whenever."
//!
//! Every operation of the store's filesystem fails, in every way, over a backup and over an index rebuild; the power is
//! cut at every one of them. What was reported must restore; what was there before must, too; and the next backup works.

use std::sync::Arc;

use abbild::repo::Repository;
use abbild::repo::ids::BackupId;
use abbild::repo::store::faulty::{Fault, MemFs};

use crate::world::{RawMachine, content_of, create_on, open_on, small_disk};

/// Reboots tried after each fault, besides the worst.
const REBOOTS: u64 = 2;

/// A repository with one backup, and what that backup holds.
struct Before {
    fs: MemFs,
    backup: BackupId,
    content: Vec<u8>,
}

fn before() -> Before {
    let fs = MemFs::new();
    let content = small_disk(1);
    let repository = create_on(&fs);
    let committed = RawMachine::new(&content).back_up(&repository).unwrap();
    // Everything that was reported is durable: the campaign begins with what a power cut leaves.
    Before { fs: fs.after_power_cut_worst(), backup: committed.manifest.backup, content }
}

#[track_caller]
fn assert_restores(repository: &Arc<Repository>, backup: BackupId, content: &[u8], when: &str) {
    let found = content_of(repository, backup).unwrap_or_else(|error| panic!("{when}: lost: {error}"));
    assert!(found == content, "{when}: restores other bytes");
}

#[test]
fn every_fault_at_every_operation_of_a_backup() {
    let before = before();
    let machine = RawMachine::new(&small_disk(2));
    let content = small_disk(2);
    let operations = {
        let fs = before.fs.snapshot();
        machine.back_up(&open_on(&fs).unwrap()).unwrap();
        fs.operations()
    };
    let (mut runs, mut cuts, mut reported) = (0, 0, 0);
    for fault in Fault::ALL {
        // A few more than one clean run needs: after a fault the run may take another way.
        for operation in 1..=operations + 3 {
            let when = format!("{fault:?} at operation {operation}");
            let fs = before.fs.snapshot();
            fs.plan(operation, fault);
            let done = open_on(&fs).ok().and_then(|repository| machine.back_up(&repository).ok());
            let done = done.map(|committed| committed.manifest.backup);
            runs += 1;
            reported += u32::from(done.is_some());
            let mut states = vec![fs.after_power_cut_worst()];
            states.extend((0..REBOOTS).map(|seed| fs.after_power_cut(operation * 31 + seed)));
            for state in states {
                cuts += 1;
                let repository = open_on(&state).unwrap_or_else(|error| panic!("{when}: {error}"));
                assert_restores(&repository, before.backup, &before.content, &when);
                if let Some(backup) = done {
                    assert_restores(&repository, backup, &content, &when);
                }
                // Whatever else is listed must be whole as well: a manifest is there only when all it needs is.
                for id in repository.backup_ids().unwrap() {
                    content_of(&repository, id).unwrap_or_else(|error| panic!("{when}: dangling {id}: {error}"));
                }
            }
            if operation % 5 == 0 {
                let state = fs.after_power_cut(operation);
                let repository = open_on(&state).unwrap();
                let next = machine.back_up(&repository).unwrap_or_else(|error| panic!("{when}, next run: {error}"));
                assert_restores(&repository, next.manifest.backup, &content, &when);
            }
        }
    }
    println!(
        "backup: {operations} operations, {runs} faults, {cuts} power cuts, {reported} backups reported: \
         0 reported and lost"
    );
    assert!(reported > 0 && runs > reported, "some faults must hit and some must not");
}

#[test]
fn every_fault_at_every_operation_of_an_index_rebuild() {
    let before = before();
    let operations = {
        let fs = before.fs.snapshot();
        open_on(&fs).unwrap().rebuild_index(&mut |_| {}).unwrap();
        fs.operations()
    };
    let (mut runs, mut refused) = (0, 0);
    for fault in Fault::ALL {
        for operation in 1..=operations {
            let when = format!("{fault:?} at operation {operation} of a rebuild");
            let fs = before.fs.snapshot();
            fs.plan(operation, fault);
            runs += 1;
            if let Ok(repository) = open_on(&fs) {
                match repository.rebuild_index(&mut |_| {}) {
                    // The fault may have cost an object its place in the index; the next rebuild must find it.
                    Ok(report) if report.damaged.is_empty() && !fs.power_is_out() => {
                        assert_restores(&repository, before.backup, &before.content, &when);
                    }
                    _ => refused += 1,
                }
                if !fs.power_is_out() {
                    repository.rebuild_index(&mut |_| {}).unwrap();
                    assert_restores(&repository, before.backup, &before.content, &when);
                }
            }
            let repository = open_on(&fs.after_power_cut_worst()).unwrap();
            assert_restores(&repository, before.backup, &before.content, &when);
        }
    }
    println!("index rebuild: {operations} operations, {runs} faults, {refused} refused: 0 lost");
    assert!(refused > 0, "a fault at a read must be noticed");
}

#[test]
fn a_repository_restores_without_its_index_and_without_index_segments() {
    let before = before();
    let fs = before.fs.snapshot();
    let repository = open_on(&fs).unwrap();
    let segments = repository.segment_names().unwrap();
    assert!(!segments.is_empty());
    for name in segments {
        repository.store().remove(&name).unwrap();
    }
    drop(repository);
    assert_restores(&open_on(&fs).unwrap(), before.backup, &before.content, "no index at all");
}

#[test]
fn an_interrupted_creation_never_leaves_a_repository_that_cannot_be_opened() {
    use abbild::repo::index::IndexPlace;
    use abbild::repo::store::DirectoryStore;
    use std::path::Path;

    let create = |fs: &MemFs| {
        let store = DirectoryStore::create_on(fs.clone(), Path::new(crate::world::ROOT)).ok()?;
        let secret = crate::world::secret();
        Repository::create(Arc::new(store), &secret, "key", crate::world::CHEAP, |_| IndexPlace::Memory).ok()
    };
    let operations = {
        let fs = MemFs::new();
        create(&fs).unwrap();
        fs.operations()
    };
    let mut runs = 0;
    for fault in Fault::ALL {
        for operation in 1..=operations {
            let fs = MemFs::new();
            fs.plan(operation, fault);
            let made = create(&fs).is_some();
            for state in [fs.after_power_cut_worst(), fs.after_power_cut(operation)] {
                runs += 1;
                match open_on(&state) {
                    Ok(_) => {}
                    Err(error) => {
                        assert!(!made, "{fault:?} at {operation}: reported, then {error}");
                        create(&state).unwrap_or_else(|| panic!("{fault:?} at {operation}: cannot be made again"));
                    }
                }
            }
        }
    }
    println!("creation: {operations} operations, {runs} power cuts: 0 reported and lost");
}
