//! "A repair can be killed at any point": every operation of the store's filesystem fails, tears or loses power over a
//! repair. What could be read before can be read after, and the next repair finishes.

use std::sync::Arc;

use abbild::ops::check::{Fault as Finding, ReadData, Repair, check_and_repair};
use abbild::repo::Repository;
use abbild::repo::ids::BackupId;
use abbild::repo::seal::Kind;
use abbild::repo::store::faulty::{Fault, MemFs};
use abbild::repo::store::{self, ObjectName};
use abbild::repo::{gc, manifest, pack, session};

use crate::prune::{forget_one, prune_now};
use crate::repair::{damage, largest_pack, repair_with};
use crate::world::{RawMachine, content_of, create_on, noise, objects, open_on, quiet, store_on};

/// A repository in which nearly everything is damaged once, and what it held.
struct Before {
    fs: MemFs,
    /// The same, sound.
    mirror: Arc<Repository>,
    ids: Vec<BackupId>,
    contents: Vec<Vec<u8>>,
}

fn before() -> Before {
    let fs = MemFs::new();
    let machine = RawMachine::new(b"");
    let (mut ids, mut contents) = (Vec::new(), Vec::new());
    let repository = create_on(&fs);
    for seed in [1, 2, 3] {
        let content = [noise(300 << 10, 7), noise(600 << 10, seed), noise(200 << 10, seed + 1)].concat();
        machine.write(&content);
        ids.push(machine.back_up(&repository).unwrap().manifest.backup);
        contents.push(content);
    }
    // Something in the trash, and what prunes leave.
    session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
    machine.write(&noise(100 << 10, 99));
    let forgotten = machine.back_up(&repository).unwrap().manifest.backup;
    forget_one(&repository, forgotten).unwrap();
    prune_now(&repository).unwrap();
    drop(repository);
    let mirror = open_on(&fs.snapshot()).unwrap();
    let largest = largest_pack(&fs, Kind::DataPack);
    damage(&fs, &pack::object_name(largest), |bytes| bytes[400_000] ^= 1);
    damage(&fs, &manifest::object_name(ids[1]), |bytes| bytes.truncate(90));
    for folder in ["index/", "generations/", "closings/", "tombstones/", "keys/"] {
        let store = store_on(&fs).unwrap();
        let names: Vec<ObjectName> = objects(store.as_ref()).into_keys().collect();
        if let Some(name) = names.iter().find(|name| name.as_str().starts_with(folder)) {
            damage(&fs, name, |bytes| bytes[100] ^= 1);
        }
    }
    damage(&fs, &ObjectName::new("config").unwrap(), |bytes| bytes.clear());
    Before { fs: fs.after_power_cut_worst(), mirror, ids, contents }
}

/// The backups that can be read whole.
fn readable(fs: &MemFs, before: &Before, when: &str) -> Vec<usize> {
    let repository = open_on(fs).unwrap_or_else(|error| panic!("{when}: {error}"));
    let number = |number: &usize| match content_of(&repository, before.ids[*number]) {
        Ok(found) => {
            assert!(found == before.contents[*number], "{when}: restores other bytes");
            true
        }
        Err(_) => false,
    };
    (0..before.ids.len()).filter(number).collect()
}

fn attempt(fs: &MemFs, from: Option<&Arc<Repository>>) -> bool {
    let Ok(repository) = open_on(fs) else { return false };
    let all = ReadData::Percent(100.0);
    check_and_repair(&repository, all, Repair::All { from }, quiet(&false.into())).is_ok()
}

fn campaign(what: &str, before: &Before, mirrored: bool) {
    let from = mirrored.then_some(&before.mirror);
    let sound_before = readable(&before.fs, before, "before");
    let (operations, sound_after) = {
        let fs = before.fs.snapshot();
        assert!(attempt(&fs, from), "{what} works without faults");
        (fs.operations(), readable(&fs, before, "after"))
    };
    assert_eq!(sound_after.len(), if mirrored { 3 } else { sound_before.len() });
    let (mut runs, mut cuts, mut done, mut finished) = (0, 0, 0, 0);
    // The long form sets `ABBILD_TEST_EVERY`; the short one meets every few operations, with one kind of fault.
    let stride = if std::env::var_os("ABBILD_TEST_EVERY").is_some() { 1 } else { Fault::ALL.len() * 18 };
    for (offset, fault) in (0u64..).zip(Fault::ALL) {
        let offset = if stride == 1 { 0 } else { offset * 18 };
        for operation in (1 + offset..=operations + 3).step_by(stride) {
            let when = format!("{what}: {fault:?} at operation {operation}");
            let fs = before.fs.snapshot();
            fs.plan(operation, fault);
            done += u32::from(attempt(&fs, from));
            runs += 1;
            for state in [fs.after_power_cut_worst(), fs.after_power_cut(operation * 31)] {
                cuts += 1;
                let now = readable(&state, before, &when);
                for number in &sound_before {
                    assert!(now.contains(number), "{when}: backup {number} could be read before");
                }
                if cuts % 3 == 0 {
                    let report = repair_with(&open_on(&state).unwrap(), from);
                    // Without a mirror the damaged manifest makes way, and its backup is lost.
                    let is_right =
                        |fault: &Finding| fault.repaired || (!mirrored && fault.what.starts_with("manifests/"));
                    assert!(report.faults.iter().all(is_right), "{when}, next repair: {report:?}");
                    assert_eq!(readable(&state, before, &when), sound_after, "{when}, next repair");
                    finished += 1;
                }
            }
        }
    }
    println!(
        "{what}: {operations} operations, {runs} faults, {cuts} power cuts, {done} done, {finished} finished by the next \
         repair: 0 lost"
    );
    assert!(done > 0 && runs > done, "some faults must hit and some must not");
}

#[test]
fn every_fault_at_every_operation_of_a_repair() {
    let before = before();
    assert!(
        gc::trash::list(before.mirror.store()).unwrap().len()
            + store::names(before.mirror.store(), "closings").unwrap().len()
            > 0
    );
    campaign("repair", &before, false);
    campaign("repair from a mirror", &before, true);
}
