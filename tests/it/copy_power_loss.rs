//! "A copy that was reported restores, whatever fails, on either side": every operation of the destination's filesystem, and
//! of the source's, fails, tears or loses power while a history is copied.

use std::sync::Arc;

use abbild::repo::Repository;
use abbild::repo::ids::BackupId;
use abbild::repo::store::faulty::{Fault, MemFs};

use crate::copy::copy_all;
use crate::prune::prune_now;
use crate::world::{RawMachine, content_of, create_on, full_check, noise, open_on};

struct Before {
    here: MemFs,
    there: MemFs,
    originals: Vec<(BackupId, Vec<u8>)>,
    /// In the destination from the beginning.
    kept: (BackupId, Vec<u8>),
}

/// Two backups to copy, of which the second builds on the first, into a repository that has a backup of its own.
fn before() -> Before {
    let (here, there) = (MemFs::new(), MemFs::new());
    let (from, to) = (create_on(&here), create_on(&there));
    let machine = RawMachine::new(b"");
    let mut originals = Vec::new();
    for seed in [1, 2] {
        let content = [noise(100 << 10, 7), vec![0; 4 << 20], noise(50 << 10, seed)].concat();
        machine.write(&content);
        originals.push((machine.back_up(&from).unwrap().manifest.backup, content));
    }
    let content = noise(200 << 10, 9);
    let kept = (RawMachine::new(&content).back_up(&to).unwrap().manifest.backup, content);
    Before { here: here.after_power_cut_worst(), there: there.after_power_cut_worst(), originals, kept }
}

fn assert_restores(repository: &Arc<Repository>, backup: BackupId, content: &[u8], when: &str) {
    let found = content_of(repository, backup).unwrap_or_else(|error| panic!("{when}: lost: {error}"));
    assert!(found == content, "{when}: restores other bytes");
}

/// Copies all; gives the copies that were reported.
fn copied(here: &MemFs, there: &MemFs) -> Vec<(BackupId, BackupId)> {
    let (Ok(from), Ok(to)) = (open_on(here), open_on(there)) else { return Vec::new() };
    let Ok(all) = copy_all(&from, &to, false) else { return Vec::new() };
    all.into_iter().filter_map(|(original, copy)| Some((original, copy.ok()?.manifest.backup))).collect()
}

/// Which side the faults are on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Destination,
    Source,
}

fn campaign(side: Side) {
    let before = before();
    let faulty = |here: &MemFs, there: &MemFs| if side == Side::Source { here.clone() } else { there.clone() };
    let operations = {
        let (here, there) = (before.here.snapshot(), before.there.snapshot());
        assert_eq!(copied(&here, &there).len(), 2);
        faulty(&here, &there).operations()
    };
    let (mut runs, mut cuts, mut reported) = (0, 0, 0);
    // The long form sets `ABBILD_TEST_EVERY`; the short one meets every third operation, with one kind of fault.
    let stride = if std::env::var_os("ABBILD_TEST_EVERY").is_some() { 1 } else { Fault::ALL.len() * 3 };
    for (offset, fault) in (0u64..).zip(Fault::ALL) {
        let offset = if stride == 1 { 0 } else { offset * 3 };
        for operation in (1 + offset..=operations + 3).step_by(stride) {
            let when = format!("{side:?}: {fault:?} at operation {operation}");
            let (here, there) = (before.here.snapshot(), before.there.snapshot());
            faulty(&here, &there).plan(operation, fault);
            let mut done = copied(&here, &there);
            runs += 1;
            reported += done.len();
            let mut states = vec![
                (there.after_power_cut_worst(), done.clone()),
                (there.after_power_cut(operation * 31), done.clone()),
            ];
            if done.len() < 2 && !here.power_is_out() && !there.power_is_out() {
                // The next run, and only then the power cut: it relies on what the first one left.
                done.extend(copied(&here, &there));
                states.push((there.after_power_cut_worst(), done));
            }
            for (there, done) in states {
                cuts += 1;
                let to = open_on(&there).unwrap_or_else(|error| panic!("{when}: {error}"));
                assert_restores(&to, before.kept.0, &before.kept.1, &when);
                let listed = to.backup_ids().unwrap();
                for (original, copy) in &done {
                    assert!(listed.contains(copy), "{when}: a copy was reported and is not listed");
                    let (_, content) = before.originals.iter().find(|(id, _)| id == original).unwrap();
                    assert_restores(&to, *copy, content, &when);
                }
                // Whatever else is listed must be whole as well.
                for id in &listed {
                    content_of(&to, *id).unwrap_or_else(|error| panic!("{when}: dangling {id}: {error}"));
                }
            }
            let here = here.after_power_cut_worst();
            let from = open_on(&here).unwrap_or_else(|error| panic!("{when}: {error}"));
            for (original, content) in &before.originals {
                assert_restores(&from, *original, content, &when);
            }
            if operation % 7 == 0 {
                // The next copy goes on, and a prune takes nothing that is needed.
                let there = there.after_power_cut(operation);
                copied(&here, &there);
                let to = open_on(&there).unwrap();
                prune_now(&to).unwrap_or_else(|error| panic!("{when}, next prune: {error}"));
                let report = full_check(&open_on(&there).unwrap()).unwrap();
                assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{when}: {report:?}");
                let origins = to.manifests(&mut |id, error| panic!("{when}: {id}: {error}")).unwrap();
                let origins = origins.iter().filter_map(|copy| Some(copy.copied_from?.backup));
                let origins: std::collections::HashSet<BackupId> = origins.collect();
                assert_eq!(origins.len(), 2, "{when}: the next copy has what was missing");
            }
        }
    }
    println!(
        "copy, faults in the {side:?}: {operations} operations, {runs} faults, {cuts} power cuts, {reported} copies reported: \
         0 reported and lost"
    );
    assert!(reported > 0 && reported < 2 * runs, "some faults must hit and some must not");
}

#[test]
fn every_fault_at_every_operation_of_the_destination() {
    campaign(Side::Destination);
}

#[test]
fn every_fault_at_every_operation_of_the_source() {
    campaign(Side::Source);
}
