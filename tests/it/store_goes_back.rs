//! "The store's operator cannot put things back unseen": old states of the store, old objects in their old places, backups
//! taken away. What is explained by other hosts' work raises no alarm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use abbild::repo::gc::{forgotten, trash};
use abbild::repo::seen::{self, Alarm};
use abbild::repo::session;
use abbild::repo::store::ObjectName;
use abbild::repo::store::faulty::MemFs;

use crate::cli::{Run, Stage, text};
use crate::prune::{forget_one, prune_at, prune_now};
use crate::world::{RawMachine, create_on, full_check, noise, open_on, store_on};

const REPOSITORY: &str = "data/abbild/repository";

fn copied(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// As another host: nothing remembered, nothing cached.
fn elsewhere(stage: &Stage, arguments: &[&str]) -> Run {
    let mut command = stage.command(arguments);
    command.env("XDG_STATE_HOME", stage.path("other/state")).env("XDG_CACHE_HOME", stage.path("other/cache"));
    Run::of(command.output().unwrap())
}

fn ids(stage: &Stage) -> Vec<String> {
    let listed = stage.run(&["list", "--json"]).json();
    listed["backups"].as_array().unwrap().iter().map(|backup| text(backup, "backup").to_owned()).collect()
}

#[test]
fn a_store_put_back_to_an_earlier_state_is_noticed_until_it_is_accepted() {
    let stage = Stage::new();
    stage.backup("base");
    copied(&stage.path(REPOSITORY), &stage.path("old"));
    let lost = stage.backup("current");
    stage.run(&["check"]).ok();
    fs::remove_dir_all(stage.path(REPOSITORY)).unwrap();
    copied(&stage.path("old"), &stage.path(REPOSITORY));

    let vanished = format!("backup {} ({}) has vanished", text(&lost, "name"), &text(&lost, "backup")[..8]);
    for _ in 0..2 {
        stage.run(&["list"]).ok().said(&vanished).said("abbild check");
        let run = stage.run(&["check"]).ended(13).said("--accept-store");
        assert!(run.stdout.contains(&format!("fault: store: {vanished}: nobody forgot it\n")), "{run:?}");
    }
    stage.run(&["prune"]).ended(13).said("pruning it would make that final");
    stage.run(&["prune", "--dry-run"]).ok().said(&vanished);
    stage.run(&["backup", "web1"]).ended(3).said(&vanished);
    // Another host has nothing to compare with.
    let run = elsewhere(&stage, &["check"]).ok();
    assert!(!run.stderr.contains("vanished"), "{run:?}");
    stage.run(&["check", "--accept-store"]).ok();
    let run = stage.run(&["check"]).ok();
    assert!(!run.stderr.contains("vanished"), "{run:?}");
    stage.run(&["prune"]).ok();
}

#[test]
fn a_copy_of_the_repository_may_lag_behind() {
    let stage = Stage::new();
    stage.backup("base");
    copied(&stage.path(REPOSITORY), &stage.path("copy"));
    stage.backup("current");
    let key = stage.path("config/abbild/key");
    // What the cache knows is of the other place, too: a copy wants a cache of its own.
    let of_copy = ["--repo", "copy", "--key-file", key.to_str().unwrap(), "--cache-dir", "copy-cache"];
    let run = stage.run(&[&["check"][..], &of_copy].concat()).ok();
    assert!(!run.stderr.contains("vanished"), "{run:?}");
    stage.run(&["check"]).ok();
}

#[test]
fn what_another_host_forgets_and_prunes_raises_no_alarm() {
    let stage = Stage::new();
    for level in ["base", "before upgrade", "current"] {
        stage.backup(level);
    }
    let before = ids(&stage);
    let quiet = |run: Run| assert_eq!(run.ok().stderr, "");
    elsewhere(&stage, &["forget", &before[0], "-q"]).ok();
    quiet(stage.run(&["list"]));
    elsewhere(&stage, &["forget", "--undo", "--all"]).ok();
    quiet(stage.run(&["list"]));
    elsewhere(&stage, &["forget", &before[0], &before[1], "-q"]).ok();
    elsewhere(&stage, &["prune", "-q"]).ok();
    quiet(stage.run(&["list"]));
    quiet(stage.run(&["check"]));
    quiet(stage.run(&["prune", "--no-progress"]));
    assert_eq!(ids(&stage), [before[2].clone()]);
}

#[test]
fn a_backup_that_was_taken_away_is_named_and_welcome_back() {
    let stage = Stage::new();
    let backup = stage.backup("base");
    stage.backup("current");
    let manifest = stage.path(REPOSITORY).join("manifests").join(text(&backup, "backup"));
    let bytes = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    // A prune of somebody who knows nothing of it moves the generation, and still explains nothing.
    elsewhere(&stage, &["prune"]).ok();
    stage.run(&["check"]).ended(13);
    fs::write(&manifest, bytes).unwrap();
    let run = stage.run(&["list"]).ok();
    assert!(!run.stderr.contains("vanished"), "{run:?}");
}

#[test]
fn an_old_manifest_put_back_after_a_prune_is_noticed() {
    let stage = Stage::new();
    let backup = stage.backup("base");
    stage.backup("current");
    let manifest: PathBuf = stage.path(REPOSITORY).join("manifests").join(text(&backup, "backup"));
    let bytes = fs::read(&manifest).unwrap();
    stage.run(&["forget", text(&backup, "backup")]).ok();
    stage.run(&["prune"]).ok();
    stage.run(&["list"]).ok();
    fs::write(&manifest, bytes).unwrap();
    stage.run(&["list"]).ok().said("is there again: an old object was put back");
    stage.run(&["check"]).ended(13).said("--accept-store");
    stage.run(&["forget", text(&backup, "backup")]).ok();
    stage.run(&["check"]).ok();
}

#[test]
fn a_missing_newest_generation_is_noticed_and_a_forged_one_is_not_believed() {
    let stage = Stage::new();
    stage.backup("current");
    stage.run(&["prune"]).ok();
    let generations = stage.objects("generations");
    let forged = generations[0].with_file_name("000000999999");
    fs::copy(&generations[0], &forged).unwrap();
    stage.run(&["list"]).ok(); // nothing is remembered of it
    fs::remove_file(&forged).unwrap();
    stage.run(&["check"]).ok();
    let newest = generations.last().unwrap();
    let bytes = fs::read(newest).unwrap();
    fs::remove_file(newest).unwrap();
    stage.run(&["list"]).ok().said("the store went back in time: generation");
    stage.run(&["check"]).ended(13);
    stage.run(&["prune"]).ended(13);
    fs::write(newest, bytes).unwrap();
    stage.run(&["check"]).ok();
}

#[test]
fn a_memory_that_is_damaged_or_cannot_be_written_stops_nothing_and_is_told() {
    let stage = Stage::new();
    stage.backup("current");
    let folder = fs::read_dir(stage.path("home/.local/state/abbild")).unwrap().next().unwrap().unwrap().path();
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert!(fs::read_to_string(&file).unwrap().contains("\"web1\""));
    fs::write(&file, "abbild memory 1\n").unwrap();
    stage.run(&["list"]).ok().said("begins anew");
    let run = stage.run(&["list"]).ok();
    assert_eq!(run.stderr, "");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    stage.run(&["list"]).ok().said("cannot be told");
}

/// What the library's own calls see, with a host's memory in `folder`.
fn alarm(fs: &MemFs, folder: &Path) -> Alarm {
    let repository = open_on(fs).unwrap();
    let briefs = repository.briefs(&mut |_, error| panic!("{error}")).unwrap();
    seen::look(&repository, folder, &briefs).unwrap().alarm
}

#[test]
fn an_old_session_put_back_holds_space_for_a_while_and_harms_nothing() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let machine = RawMachine::new(&noise(64 << 10, 1));
    let first = machine.back_up(&repository).unwrap().manifest.backup;
    machine.write(&noise(64 << 10, 2));
    machine.back_up(&repository).unwrap();
    let old = session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
    let name = session::session_name(old.session);
    let bytes = repository.store().read(&name, 1 << 20).unwrap();
    repository.store().remove(&name).unwrap();
    forget_one(&repository, first).unwrap();
    store_on(&fs).unwrap().put(&name, &bytes).unwrap();
    prune_now(&repository).unwrap();
    assert!(!trash::list(repository.store()).unwrap().is_empty(), "it counts as at work");
    let week = jiff::SignedDuration::from_hours(24 * 7 + 1);
    prune_at(&repository, jiff::Timestamp::now() + week).unwrap();
    assert_eq!(trash::list(repository.store()).unwrap(), []);
    assert_eq!(session::ids(repository.store()).unwrap().len(), 0);
    let report = full_check(&repository).unwrap();
    assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
}

#[test]
fn a_manifest_whose_writer_is_still_at_work_is_not_remembered() {
    let fs = MemFs::new();
    let host = tempfile::tempdir().unwrap();
    let repository = create_on(&fs);
    let machine = RawMachine::new(&noise(64 << 10, 1));
    let manifest = machine.back_up(&repository).unwrap().manifest;
    // As if the writer had not yet looked whether all is still there.
    let name = session::session_name(manifest.session);
    let other = session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
    let other = session::session_name(other.session);
    repository.store().rename(&other, &name).unwrap();
    assert!(alarm(&fs, host.path()).is_none());
    let object = ObjectName::new(&format!("manifests/{}", manifest.backup)).unwrap();
    let bytes = repository.store().read(&object, 1 << 20).unwrap();
    repository.store().remove(&object).unwrap();
    assert!(alarm(&fs, host.path()).is_none(), "it was withdrawn");
    repository.store().put(&object, &bytes).unwrap();
    repository.store().remove(&name).unwrap();
    assert!(alarm(&fs, host.path()).is_none());
    repository.store().remove(&object).unwrap();
    assert_eq!(alarm(&fs, host.path()).vanished.len(), 1, "nobody may withdraw it any more");
}

#[test]
fn a_prune_says_what_it_gives_up_before_it_does() {
    // Any fault at any operation: a host that saw the backup never hears an alarm because of a prune.
    let start = MemFs::new();
    let host = tempfile::tempdir().unwrap();
    {
        let repository = create_on(&start);
        let machine = RawMachine::new(&noise(64 << 10, 1));
        let first = machine.back_up(&repository).unwrap().manifest.backup;
        machine.write(&noise(64 << 10, 2));
        machine.back_up(&repository).unwrap();
        assert!(alarm(&start, host.path()).is_none());
        forget_one(&repository, first).unwrap();
    }
    let start = start.after_power_cut_worst();
    let fs = start.snapshot();
    prune_now(&open_on(&fs).unwrap()).unwrap();
    let operations = fs.operations();
    let stride = if std::env::var_os("ABBILD_TEST_EVERY").is_some() { 1 } else { 4 };
    let (mut cuts, mut given_up) = (0, 0);
    for operation in (1..=operations + 1).step_by(stride) {
        for fault in abbild::repo::store::faulty::Fault::ALL {
            let fs = start.snapshot();
            fs.plan(operation, fault);
            if let Ok(repository) = open_on(&fs) {
                let _ = prune_now(&repository);
            }
            for state in [fs.after_power_cut_worst(), fs.after_power_cut(operation * 31)] {
                cuts += 1;
                let memory = tempfile::tempdir().unwrap();
                copied(&host.path().join("."), memory.path());
                let alarm = alarm(&state, memory.path());
                assert!(alarm.is_none(), "{fault:?} at operation {operation}: {alarm:?}");
                given_up += usize::from(forgotten::list(open_on(&state).unwrap().store()).unwrap().is_empty());
            }
        }
    }
    println!(
        "prune as others see it: {operations} operations, {cuts} power cuts, {given_up} with the backup gone: 0 alarms"
    );
    assert!(given_up > 0 && given_up < cuts);
}
