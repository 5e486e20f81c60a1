//! "A full medium": a backup runs out of space with any amount of room; then, with no byte free at all, forgetting and
//! pruning work, free what they should, and what was reported and not forgotten restores.

use abbild::ops::OpsError;
use abbild::repo::RepoError;
use abbild::repo::store::StoreError;
use abbild::repo::store::faulty::MemFs;

use crate::prune::{forget_one, prune_now};
use crate::world::{RawMachine, content_of, create_on, full_check, noise, open_on};

/// Step between the amounts of room that are tried.
const STEP: u64 = 64 << 10;

#[test]
fn a_full_medium_can_always_be_pruned() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let machine = RawMachine::new(b"");
    let (mut ids, mut contents) = (Vec::new(), Vec::new());
    for seed in [1, 2, 3] {
        let content = [noise(300 << 10, 7), noise(800 << 10, seed)].concat();
        machine.write(&content);
        ids.push(machine.back_up(&repository).unwrap().manifest.backup);
        contents.push(content);
    }
    let before = fs.after_power_cut_worst();
    let newest = [noise(300 << 10, 7), noise(1 << 20, 50)].concat();
    machine.write(&newest);

    let (mut failed, mut done, mut budget) = (0, 0, 0);
    // Until some runs in a row had room enough.
    while done < 3 {
        let when = format!("{budget} bytes of room");
        let fs = before.snapshot();
        fs.set_capacity(Some(fs.used() + budget));
        let outcome = open_on(&fs).map_err(OpsError::from).and_then(|repository| machine.back_up(&repository));
        let mut kept: Vec<_> = ids.iter().copied().zip(&contents).collect();
        match outcome {
            Ok(committed) => {
                kept.push((committed.manifest.backup, &newest));
                done += 1;
            }
            Err(error) => {
                assert!(is_no_space(&error), "{when}: {error}");
                failed += 1;
            }
        }
        let restore_all = |kept: &[(_, &Vec<u8>)], when: &str| {
            let repository = open_on(&fs).unwrap_or_else(|error| panic!("{when}: {error}"));
            for (id, content) in kept {
                let found = content_of(&repository, *id).unwrap_or_else(|error| panic!("{when}: lost: {error}"));
                assert!(found == **content, "{when}: restores other bytes");
            }
        };
        restore_all(&kept, &when);

        // Not a byte is free now.
        let full = fs.used();
        fs.set_capacity(Some(full));
        let repository = open_on(&fs).unwrap();
        forget_one(&repository, ids[1]).unwrap_or_else(|error| panic!("{when}: forget: {error}"));
        let report = prune_now(&repository).unwrap_or_else(|error| panic!("{when}: prune: {error}"));
        kept.retain(|(id, _)| *id != ids[1]);
        restore_all(&kept, &format!("{when}, after prune"));
        assert!(report.deleted.bytes >= 300 << 10, "{when}: {report:?}");
        // What is deleted takes its space for as long as it is open; a new start has nothing open.
        drop(repository);
        let used = fs.after_power_cut_worst().used();
        assert!(used + (200 << 10) < full, "{when}: {used} of {full} are still used");
        let check = full_check(&open_on(&fs).unwrap()).unwrap();
        assert!(check.faults.is_empty() && check.damaged_backups.is_empty(), "{when}: {check:?}");
        budget += STEP;
    }
    println!("{failed} amounts of room that were too small, {done} that were not: each pruned when full, 0 lost");
    assert!(failed > 10, "the backup needs more than some steps");
}

fn is_no_space(error: &OpsError) -> bool {
    matches!(error, OpsError::Repo(RepoError::Store(StoreError::NoSpace { .. })))
}
