//! "Healing can be killed at any point": every operation of the store's filesystem fails, tears or loses power, over a
//! healing, over turning parity on, and over a backup with parity. No pack is lost, none has wrong bytes, what was reported
//! as repaired is, and the next run finishes.

use abbild::ops::scrub::{ScrubOptions, scrub};
use abbild::repo::parity::{self, Share};
use abbild::repo::store::ObjectName;
use abbild::repo::store::faulty::{Fault, MemFs};
use abbild::repo::{listed_packs, pack};

use crate::parity::{REPAIR, create_with_parity, largest_pack, scrub_now};
use crate::world::{RawMachine, content_of, create_on, noise, objects, open_on, quiet, replace, store_on};

/// Runs `work` with a fault at every operation, and looks at what power cuts leave: `look` is told whether it was done.
fn campaign(what: &str, start: &MemFs, work: impl Fn(&MemFs) -> bool, look: impl Fn(&MemFs, bool, &str)) {
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
            let was_done = work(&fs);
            runs += 1;
            done += u32::from(was_done);
            for state in [fs.after_power_cut_worst(), fs.after_power_cut(operation * 31)] {
                cuts += 1;
                look(&state, was_done, &when);
            }
        }
    }
    println!("{what}: {operations} operations, {runs} faults, {cuts} power cuts, {done} done: 0 reported and lost");
    assert!(done > 0 && runs > done, "some faults must hit and some must not");
}

/// Scrubs and repairs; whether all that was found is said to be repaired.
fn repair(fs: &MemFs, options: ScrubOptions) -> bool {
    let Ok(store) = store_on(fs) else { return false };
    scrub(store.as_ref(), options, quiet(&false.into())).is_ok_and(|report| report.unrepaired() == 0)
}

#[test]
fn every_fault_at_every_operation_of_a_healing() {
    let fs = MemFs::new();
    let repository = create_with_parity(&fs);
    let content = noise(150 << 10, 1);
    let backup = RawMachine::new(&content).back_up(&repository).unwrap().manifest.backup;
    let store = store_on(&fs).unwrap();
    let originals = objects(store.as_ref());
    let id = largest_pack(store.as_ref());
    let (name, record) = (pack::object_name(id), parity::object_name(id));
    let mut damaged = originals[&name].clone();
    damaged[5000] ^= 1;
    damaged.truncate(damaged.len() - 10);
    replace(store.as_ref(), &name, &damaged);
    let mut rotten = originals[&record].clone();
    rotten[50] ^= 1;
    replace(store.as_ref(), &record, &rotten);
    let start = fs.after_power_cut_worst();
    campaign(
        "heal",
        &start,
        |fs| repair(fs, REPAIR),
        |state, was_done, when| {
            let store = store_on(state).unwrap();
            let found = objects(store.as_ref());
            // The pack is in its place, damaged or whole, or a later run can bring it there.
            match found.get(&name) {
                Some(bytes) if *bytes == originals[&name] => {}
                Some(bytes) => assert!(*bytes == damaged && !was_done, "{when}: wrong bytes, or not as reported"),
                None => assert!(!was_done, "{when}: reported, and lost"),
            }
            let kept = ObjectName::new(&format!("quarantine/{id}")).unwrap();
            assert!(found.contains_key(&name) || found.get(&kept) == Some(&damaged), "{when}: lost");
            for (name, bytes) in found.iter().filter(|(name, _)| originals.contains_key(*name)) {
                let is_known = *bytes == originals[name] || *bytes == damaged || *bytes == rotten;
                assert!(is_known, "{when}: {name} has wrong bytes");
            }
            assert!(repair(state, REPAIR), "{when}: the next run does not finish");
            let after = objects(store.as_ref());
            for (name, bytes) in &originals {
                assert!(after.get(name) == Some(bytes), "{when}: {name} is not what it was");
            }
            assert!(!after.keys().any(|name| name.as_str().starts_with("healed/")), "{when}: something is left over");
            assert!(content_of(&open_on(state).unwrap(), backup).unwrap() == content, "{when}");
        },
    );
}

#[test]
fn every_fault_at_every_operation_of_turning_parity_on() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    RawMachine::new(&noise(100 << 10, 1)).back_up(&repository).unwrap();
    let start = fs.after_power_cut_worst();
    let originals = objects(store_on(&start).unwrap().as_ref());
    let options = ScrubOptions { repair: true, parity: Some(Share::permille(50).unwrap()) };
    campaign(
        "turn on",
        &start,
        |fs| repair(fs, options),
        |state, was_done, when| {
            let store = store_on(state).unwrap();
            let records = parity::amount(store.as_ref()).unwrap().0;
            let packs = listed_packs(store.as_ref()).unwrap().len() as u64;
            assert!(!was_done || records == packs, "{when}: {records} records are left of {packs} that were reported");
            assert!(repair(state, options), "{when}: the next run does not finish");
            let after = objects(store.as_ref());
            assert!(originals.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "{when}: something changed");
            assert_eq!(parity::amount(store.as_ref()).unwrap().0, packs, "{when}");
        },
    );
}

#[test]
fn every_fault_at_every_operation_of_a_backup_with_parity() {
    let fs = MemFs::new();
    let repository = create_with_parity(&fs);
    let before = noise(60 << 10, 1);
    let machine = RawMachine::new(&before);
    let first = machine.back_up(&repository).unwrap().manifest.backup;
    let start = fs.after_power_cut_worst();
    let content = noise(60 << 10, 2);
    machine.write(&content);
    let work = |fs: &MemFs| open_on(fs).is_ok_and(|repository| machine.back_up(&repository).is_ok());
    campaign("backup", &start, work, |state, was_done, when| {
        let repository = open_on(state).unwrap_or_else(|error| panic!("{when}: {error}"));
        let mut ids = repository.backup_ids().unwrap();
        assert!(ids.contains(&first) && (!was_done || ids.len() == 2), "{when}: {ids:?}");
        ids.retain(|id| *id != first);
        assert!(content_of(&repository, first).unwrap() == before, "{when}");
        ids.iter().for_each(|id| assert!(content_of(&repository, *id).unwrap() == content, "{when}"));
        let report = scrub_now(repository.store(), ScrubOptions::default());
        assert!(report.damage.is_empty(), "{when}: {report:?}");
        assert!(!was_done || report.packs_without_record == 0, "{when}: a reported backup's packs have their records");
    });
}
