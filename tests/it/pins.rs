//! "What is pinned is not forgotten": by no rule, by no name, at no instant, damaged or not; and what tags are for.

use std::sync::Arc;

use abbild::repo::gc::forgotten::{self, Outcome};
use abbild::repo::ids::BackupId;
use abbild::repo::store::StoreError;
use abbild::repo::store::faulty::{Fault, MemFs};
use abbild::repo::{RepoError, Repository, pins};

use crate::cli::{Stage, text};
use crate::prune::{forget_one, prune_now};
use crate::world::{RawMachine, content_of, create_on, full_check, noise, open_on};

fn pin(repository: &Repository, backup: BackupId) -> Result<(), RepoError> {
    pins::add(repository.store(), repository.keys(), backup, "the audit").map(drop)
}

fn is_listed(repository: &Repository, backup: BackupId) -> bool {
    repository.backup_ids().unwrap().contains(&backup)
}

/// A repository with two backups, and what they hold.
fn two() -> (MemFs, Arc<Repository>, [BackupId; 2], [Vec<u8>; 2]) {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let contents = [noise(100 << 10, 1), noise(100 << 10, 2)];
    let machine = RawMachine::new(&contents[0]);
    let first = machine.back_up(&repository).unwrap().manifest.backup;
    machine.write(&contents[1]);
    let second = machine.back_up(&repository).unwrap().manifest.backup;
    (fs, repository, [first, second], contents)
}

#[test]
fn tags_choose_backups_and_pins_keep_them() {
    let stage = Stage::new();
    let backup = |level: &str, tags: &[&str]| {
        let tags: Vec<&str> = tags.iter().flat_map(|tag| ["--tag", tag]).collect();
        let run = stage.run(&[&["backup", "web1", "--snapshot", level, "--json"][..], &tags].concat()).ok();
        text(&run.json(), "backup").to_owned()
    };
    let gold = backup("base", &["gold", "before-upgrade", "gold"]);
    let plain = backup("before upgrade", &[]);
    let last = backup("current", &["nightly"]);
    stage.run(&["backup", "web1", "--tag", "two words"]).ended(2).said("are allowed");

    let listed = stage.run(&["list", "--json", "--tag", "gold", "--tag", "none"]).ok().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["backups"][0]["tags"], serde_json::json!(["before-upgrade", "gold"]));
    assert_eq!(stage.run(&["list", "--tag", "none"]).ok().said("no backup has such a tag").stdout, "");
    assert!(stage.run(&["show", &gold]).ok().stdout.contains("before-upgrade gold"));

    stage.run(&["pin", &plain, "--reason", "the audit"]).ok();
    stage.run(&["pin", &plain]).ok(); // once more changes nothing
    stage.run(&["pin", &plain, "--reason", "another"]).ended(2).said("pinned already: the audit").said("pin --remove");
    let pins = stage.run(&["pin", "--json"]).ok().json();
    assert_eq!((text(&pins["pins"][0], "backup"), text(&pins["pins"][0], "reason")), (plain.as_str(), "the audit"));
    for run in [stage.run(&["pin"]), stage.run(&["list"]), stage.run(&["show", &plain])] {
        assert!(run.ok().stdout.contains("the audit"));
    }
    stage.run(&["forget", &plain]).ended(2).said("is pinned: the audit").said("abbild pin --remove");

    let plan = stage.run(&["forget", "--keep-last", "1", "--keep-tag", "gold", "--dry-run"]).ok().stdout;
    for reason in ["tag gold", "pinned: the audit", "newest, last 1"] {
        assert!(plan.contains(reason), "{reason:?} is not in {plan}");
    }
    stage.run(&["forget", "--keep-tag", "gold"]).ended(2).said("--keep-tag alone is no rule");
    stage.run(&["forget", &gold, "--keep-tag", "gold"]).ended(2).said("--keep-last 1");
    stage.run(&["forget", &gold, "--tag", "gold"]).ended(2);
    // Asked about one tag, others do not go; of that machine's newest with the tag the rule keeps one.
    let answer = stage.run(&["forget", "--keep-last", "1", "--tag", "nightly", "--dry-run", "--json"]).ok().json();
    assert_eq!(answer["forgotten"], serde_json::json!([]), "{answer}");
    let apart = stage.run(&["forget", "--keep-last", "1", "--group-by", "machine,tag", "--json"]).ok().json();
    assert_eq!(apart["forgotten"], serde_json::json!([]), "{apart}");
    let answer = stage.run(&["forget", "--keep-last", "1", "--json"]).ok().json();
    assert_eq!(answer["forgotten"][0]["backup"], gold, "{answer}");
    assert_eq!(answer["forgotten"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["kept"][0]["reasons"][0], serde_json::json!({ "rule": "pinned", "reason": "the audit" }));

    stage.run(&["pin", "--remove", &last]).ended(2).said("is not pinned");
    stage.run(&["pin", "--remove", &plain]).ok();
    assert_eq!(stage.run(&["pin"]).ok().said("nothing is pinned").stdout, "");
    stage.run(&["forget", &plain]).ok();
    stage.run(&["check"]).ok();
}

#[test]
fn a_damaged_pin_pins_and_is_named() {
    let (fs, repository, [first, _], _) = two();
    pin(&repository, first).unwrap();
    let name = pins::object_name(first);
    let sound = repository.store().read(&name, 1 << 20).unwrap();
    for damaged in [Vec::new(), b"rot".to_vec(), [&sound[..90], &[0x55], &sound[91..]].concat()] {
        repository.store().remove(&name).unwrap();
        repository.store().put(&name, &damaged).unwrap();
        let repository = open_on(&fs).unwrap();
        assert!(matches!(forgotten::forget_unless_pinned(&repository, first), Ok(Outcome::Pinned)));
        assert!(pins::Pins::load(repository.store(), repository.keys()).unwrap().has(first));
        let report = full_check(&repository).unwrap();
        assert!(report.faults.iter().any(|fault| fault.what == name.as_str()), "{report:?}");
    }
    pins::remove(repository.store(), first).unwrap();
    forget_one(&repository, first).unwrap();
    assert!(!is_listed(&repository, first));
}

#[test]
fn what_a_dying_forgetting_took_is_kept_by_its_pin_until_it_is_brought_back() {
    let (fs, repository, [first, second], contents) = two();
    pin(&repository, first).unwrap();
    // As a forgetting that dies between its rename and its second look for a pin.
    let place = forgotten::forget(repository.store(), first).unwrap();
    forget_one(&repository, second).unwrap();
    for _ in 0..3 {
        let report = prune_now(&open_on(&fs).unwrap()).unwrap();
        assert!(report.waiting.objects > 0, "what it needs waits in the trash: {report:?}");
    }
    assert_eq!(
        forgotten::list(repository.store()).unwrap(),
        std::slice::from_ref(&place),
        "only what has no pin is given up"
    );
    let manifest = forgotten::load(&repository, &place).unwrap();
    forgotten::undo(&repository, &place, &manifest).unwrap();
    assert!(content_of(&open_on(&fs).unwrap(), first).unwrap() == contents[0]);
    let gone = pin(&repository, second);
    assert!(matches!(gone, Err(RepoError::Store(StoreError::NotFound { .. }))), "{gone:?}");
    assert!(!pins::is_pinned(repository.store(), second).unwrap(), "no pin is left of what is not there");
    assert!(full_check(&repository).unwrap().faults.is_empty());
}

#[test]
fn a_pinning_and_a_forgetting_at_the_same_instant() {
    let (fs, ..) = two();
    let start = fs;
    let (mut pinned, mut forgotten) = (0, 0);
    for _ in 0..300 {
        let fs = start.snapshot();
        let (here, there) = (open_on(&fs).unwrap(), open_on(&fs).unwrap());
        let backup = here.backup_ids().unwrap()[0];
        let gate = std::sync::Barrier::new(2);
        let pinning = std::thread::scope(|scope| {
            let pinning = scope.spawn(|| {
                gate.wait();
                pin(&here, backup)
            });
            gate.wait();
            forgotten::forget_unless_pinned(&there, backup).unwrap();
            pinning.join().unwrap()
        });
        match pinning {
            Ok(()) => {
                pinned += 1;
                assert!(is_listed(&here, backup), "a backup was pinned, and is forgotten");
            }
            Err(RepoError::Store(StoreError::NotFound { .. })) => forgotten += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("{pinned} pinned, {forgotten} forgotten: 0 pinned and forgotten");
    assert!(pinned > 0);
}

#[test]
fn every_fault_at_every_operation_of_pinning_and_of_forgetting_what_is_pinned() {
    let (fs, _, [first, _], contents) = two();
    let start = fs.after_power_cut_worst();
    let work = |fs: &MemFs| {
        let Ok(repository) = open_on(fs) else { return false };
        if pin(&repository, first).is_err() {
            return false;
        }
        let outcome = forgotten::forget_unless_pinned(&repository, first);
        assert!(!matches!(outcome, Ok(Outcome::Forgotten(_) | Outcome::Gone)), "{outcome:?}");
        true
    };
    let operations = {
        let fs = start.snapshot();
        assert!(work(&fs));
        fs.operations()
    };
    let (mut runs, mut reported) = (0, 0);
    for fault in Fault::ALL {
        for operation in 1..=operations + 1 {
            let when = format!("{fault:?} at operation {operation}");
            let fs = start.snapshot();
            fs.plan(operation, fault);
            let done = work(&fs);
            (runs, reported) = (runs + 1, reported + u32::from(done));
            for state in [fs.after_power_cut_worst(), fs.after_power_cut(operation)] {
                let repository = open_on(&state).unwrap_or_else(|error| panic!("{when}: {error}"));
                assert!(is_listed(&repository, first), "{when}");
                assert!(content_of(&repository, first).unwrap() == contents[0], "{when}");
                let pinned = pins::is_pinned(repository.store(), first).unwrap();
                assert!(pinned || !done, "{when}: a pin was reported, and is not there");
            }
        }
    }
    println!("pinning: {operations} operations, {runs} faults, {reported} reported: 0 reported and lost");
    assert!(reported > 0 && runs > reported);
}
