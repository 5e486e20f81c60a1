//! "One look for a whole run": backups of many machines in one session, beside prunes that want to go on, and what very
//! many small runs leave behind.

use std::sync::Arc;

use abbild::ops::backup::{BackupOptions, Backups};
use abbild::ops::machines;
use abbild::repo::manifest::Manifest;
use abbild::repo::seal::Kind;
use abbild::repo::session;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::{Repository, listed_packs};

use crate::prune::{forget_one, prune_now};
use crate::world::{RawMachine, content_of, create_on, full_check, noise, open_on, quiet};

fn take(backups: &mut Backups<'_>, machine: &RawMachine) -> Manifest {
    let options = BackupOptions::default();
    backups.take(&machines::read(&machine.image()).unwrap(), &options, quiet(&false.into())).unwrap()
}

fn sessions(repository: &Repository) -> Vec<session::Session> {
    let ids = session::ids(repository.store()).unwrap();
    let load = |id| session::load_session(repository.store(), repository.keys(), &session::session_name(id)).unwrap();
    ids.into_iter().map(load).collect()
}

#[track_caller]
fn restore(fs: &MemFs, expected: &[(Manifest, Vec<u8>)]) {
    let reader = open_on(fs).unwrap();
    for (manifest, content) in expected {
        assert!(content_of(&reader, manifest.backup).is_ok_and(|found| found == *content), "{}", manifest.backup);
    }
    let report = full_check(&reader).unwrap();
    assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
}

#[test]
fn a_run_has_one_session_until_a_prune_wants_to_go_on() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let contents: Vec<Vec<u8>> = (0..4).map(|seed| noise(300 << 10, seed)).collect();
    let machines: Vec<RawMachine> = contents.iter().map(|content| RawMachine::new(content)).collect();
    let before = machines[0].back_up(&repository).unwrap().manifest;

    let mut backups = Backups::new(&repository);
    let mut taken = Vec::new();
    for number in [0, 1] {
        taken.push((take(&mut backups, &machines[number]), contents[number].clone()));
    }
    assert_eq!(taken[0].0.parent, Some(before.backup));
    assert_eq!(taken[0].0.session, taken[1].0.session);
    assert_eq!(sessions(&repository).len(), 1);
    // The same machine again: what was taken a moment ago is known.
    taken.push((take(&mut backups, &machines[0]), contents[0].clone()));
    assert_eq!(taken[2].0.parent, Some(taken[0].0.backup));

    // A prune on another host moves packs to the trash, and cannot delete them while the run is at work.
    let other = open_on(&fs).unwrap();
    let lonely = RawMachine::new(&noise(1 << 20, 9));
    let lonely = lonely.back_up(&other).unwrap().manifest;
    forget_one(&other, lonely.backup).unwrap();
    let waits = prune_now(&other).unwrap();
    assert!(waits.waiting.objects > 0 && waits.at_work.len() == 1, "{waits:?}");
    taken.push((take(&mut backups, &machines[2]), contents[2].clone()));
    assert_ne!(taken[3].0.session, taken[0].0.session, "it does not wait for the whole run");
    let deletes = prune_now(&other).unwrap();
    assert!(deletes.deleted.objects > 0, "{deletes:?}");

    // Taken for dead between two machines: the next one is none the worse.
    let held = sessions(&repository).pop().unwrap();
    repository.store().remove(&session::session_name(held.session)).unwrap();
    taken.push((take(&mut backups, &machines[3]), contents[3].clone()));
    assert_eq!(backups.end(), [""; 0]);
    assert_eq!(sessions(&repository), []);
    restore(&fs, &taken);
}

#[test]
fn a_machine_that_fails_does_not_end_the_run() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let content = noise(2 << 20, 1);
    let (good, bad) = (RawMachine::new(&content), RawMachine::new(&noise(512, 2)));
    let options = |name: &str| BackupOptions { level: name.parse().unwrap(), ..Default::default() };
    let mut backups = Backups::new(&repository);
    let read = machines::read(&bad.image()).unwrap();
    assert!(backups.take(&read, &options("no such snapshot"), quiet(&false.into())).is_err());
    let taken = take(&mut backups, &good);
    assert_eq!(backups.end(), [""; 0]);
    restore(&fs, &[(taken, content)]);
}

#[test]
fn a_prune_merges_the_packs_of_many_small_runs() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let mut content = noise(256 << 10, 1);
    let machine = RawMachine::new(&content);
    let mut taken = Vec::new();
    for seed in 2..42 {
        content[..8192].copy_from_slice(&noise(8192, seed));
        machine.write(&content);
        taken.push((machine.back_up(&repository).unwrap().manifest, content.clone()));
    }
    let before = listed_packs(repository.store()).unwrap().len();
    assert!(before >= 80, "a pack of data and one of maps each: {before}");
    let report = prune_now(&repository).unwrap();
    assert!(report.merged.objects >= 70 && report.repacked.objects == 0, "{report:?}");
    assert!(
        report.written.bytes <= report.merged.bytes && report.deleted.objects >= report.merged.objects,
        "{report:?}"
    );
    let after = listed_packs(repository.store()).unwrap().len();
    assert!(after <= 12, "{after} packs are left of {before}");
    let kinds: Vec<Kind> = {
        let mut kinds = Vec::new();
        repository
            .index()
            .each_pack(|pack| {
                kinds.push(pack.kind);
                Ok(())
            })
            .unwrap();
        kinds
    };
    assert!(kinds.contains(&Kind::DataPack) && kinds.contains(&Kind::MapPack), "each kind has packs of its own");
    restore(&fs, &taken);
    let again = prune_now(&repository).unwrap();
    assert_eq!((again.merged.objects, again.written.objects), (0, 0), "{again:?}");
    // And with another host beside it, which still reads what was merged.
    let other: Arc<Repository> = open_on(&fs).unwrap();
    machine.back_up(&other).unwrap();
    restore(&fs, &taken);
}
