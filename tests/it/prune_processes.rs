//! Real processes on one repository: backups, forgets and prunes at once, each host with a cache of its own; some are killed,
//! some are stopped for a while and go on. What was reported and not forgotten restores, and nothing listed is damaged.
//!
//! The long form sets `ABBILD_TEST_SECONDS` and `ABBILD_TEST_KILLS`.

use std::collections::{HashMap, HashSet};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use abbild::repo::gc::trash;
use abbild::repo::ids::BackupId;
use serde_json::Value;

use crate::processes::{Reported, Stage, answer, answers, backup_of, draw, forgotten_of, number};
use crate::world::{content_of, noise};

const SECONDS: u64 = 5;
const KILLS: u64 = 12;
/// Hosts that back up at once.
const HOSTS: u64 = 4;
/// Machines that each backs up in one run.
const MACHINES: u64 = 3;

/// Half of it all disks share, a quarter each machine has for itself, a quarter is new each time.
fn disk(machine: u64, turn: u64) -> Vec<u8> {
    [noise(512 << 10, 99), noise(256 << 10, machine), noise(256 << 10, 1000 + machine * 1000 + turn)].concat()
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill is needed by this test");
}

/// Lets a run end, or dies or sleeps on the way, as the draw has it; gives its code and what it said.
fn ended(mut child: Child, seed: u64) -> (Option<i32>, Vec<Value>, String) {
    let at = Duration::from_millis(draw(seed) % 120);
    match draw(seed + 1) % 6 {
        0 => {
            std::thread::sleep(at);
            child.kill().unwrap();
        }
        1 => {
            std::thread::sleep(at);
            if child.try_wait().unwrap().is_none() {
                signal(&child, "-STOP");
                std::thread::sleep(Duration::from_millis(400));
                signal(&child, "-CONT");
            }
        }
        _ => {}
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), answers(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Looks at a backup that was reported: it restores to what it was, unless it was forgotten meanwhile.
fn restore_one(stage: &Stage, reported: &Mutex<Reported>, forgotten: &Mutex<HashSet<BackupId>>, turn: u64) -> bool {
    let drawn = {
        let reported = reported.lock().unwrap();
        let number = draw(turn) as usize % reported.len().max(1);
        reported.iter().nth(number).map(|(id, hash)| (*id, *hash))
    };
    let Some((id, hash)) = drawn else { return false };
    let content = content_of(&stage.repository(), id);
    // Who forgets says so before it asks for it.
    if forgotten.lock().unwrap().contains(&id) {
        return false;
    }
    let content = content.unwrap_or_else(|error| panic!("{id} is lost: {error}"));
    assert_eq!(blake3::hash(&content), hash, "{id} restores other bytes");
    true
}

#[test]
fn backups_forgets_and_prunes_at_once() {
    let stage = Stage::new();
    let end = Instant::now() + Duration::from_secs(number("ABBILD_TEST_SECONDS", SECONDS));
    let reported = Mutex::new(Reported::new());
    let forgotten = Mutex::new(HashSet::new());
    let (failed, pruned, died) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let (checked, restored) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for host in 0..HOSTS {
            let (stage, reported, failed, died) = (&stage, &reported, &failed, &died);
            scope.spawn(move || {
                for turn in 0.. {
                    if Instant::now() > end {
                        return;
                    }
                    let mut hashes = HashMap::new();
                    let mut arguments = vec!["backup".to_owned()];
                    for machine in host * MACHINES..(host + 1) * MACHINES {
                        let (name, content) = (format!("machine{machine}"), disk(machine, turn));
                        let image = stage.path(&format!("{name}.raw"));
                        std::fs::write(&image, &content).unwrap();
                        hashes.insert(name, blake3::hash(&content));
                        arguments.push(image.to_str().unwrap().to_owned());
                    }
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    let run = stage.abbild(&format!("host{host}"), &arguments).spawn().unwrap();
                    let (code, answers, stderr) = ended(run, host * 100_000 + turn * 10);
                    let made: Vec<_> = answers
                        .iter()
                        .filter_map(|answer| Some((backup_of(answer)?, hashes[answer["machine"].as_str()?])))
                        .collect();
                    match code {
                        Some(0) => assert_eq!(made.len() as u64, MACHINES, "{stderr}"),
                        Some(code) => {
                            println!("a backup ended with {code}: {stderr}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                        None => drop(died.fetch_add(1, Ordering::Relaxed)),
                    }
                    reported.lock().unwrap().extend(made);
                }
            });
        }
        for pruner in 0..2u64 {
            let (stage, pruned, died) = (&stage, &pruned, &died);
            scope.spawn(move || {
                for turn in 0.. {
                    if Instant::now() > end {
                        return;
                    }
                    let run =
                        stage.abbild(&format!("pruner{pruner}"), &["prune", "--max-unused", "0"]).spawn().unwrap();
                    let (code, _, stderr) = ended(run, 900_000 + pruner * 10_000 + turn * 10);
                    match code {
                        Some(0 | 3) => pruned.fetch_add(1, Ordering::Relaxed),
                        None => died.fetch_add(1, Ordering::Relaxed),
                        Some(code) => panic!("a prune ended with {code}: {stderr}"),
                    };
                }
            });
        }
        let (stage, reported, forgotten) = (&stage, &reported, &forgotten);
        scope.spawn(move || {
            while Instant::now() < end {
                let args = ["forget", "--keep-last", "2"];
                let plan = stage.abbild("forgetter", &[&args[..], &["--dry-run"]].concat()).output().unwrap();
                let going = answer(&plan.stdout).map(|plan| forgotten_of(&plan)).unwrap_or_default();
                forgotten.lock().unwrap().extend(&going);
                // By name: what is forgotten is what was said, whatever came in between.
                let names: Vec<String> = going.iter().map(BackupId::to_string).collect();
                if !names.is_empty() {
                    let names = names.iter().map(String::as_str);
                    stage
                        .abbild("forgetter", &["forget"].into_iter().chain(names).collect::<Vec<_>>())
                        .output()
                        .unwrap();
                }
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        let checked = &checked;
        scope.spawn(move || {
            while Instant::now() < end {
                let run = stage.abbild("checker", &["check", "--read-data"]).output().unwrap();
                let said = (String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&run.stdout));
                assert!(matches!(run.status.code(), Some(0 | 3)), "a check ended with {:?}: {said:?}", run.status);
                checked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let restored = &restored;
        scope.spawn(move || {
            for turn in 0.. {
                if Instant::now() > end {
                    return;
                }
                restored
                    .fetch_add(u32::from(restore_one(stage, reported, forgotten, 5_000_000 + turn)), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    });
    let (reported, forgotten) = (reported.into_inner().unwrap(), forgotten.into_inner().unwrap());
    let listed = stage.assert_kept(&reported, &forgotten);
    println!(
        "{} processes at once: {} backups reported, {} forgotten, {listed} listed, {} failed, {} prunes done, {} checks, \
         {} restores, {} runs killed: 0 lost",
        HOSTS + 5,
        reported.len(),
        forgotten.len(),
        failed.load(Ordering::Relaxed),
        pruned.load(Ordering::Relaxed),
        checked.load(Ordering::Relaxed),
        restored.load(Ordering::Relaxed),
        died.load(Ordering::Relaxed)
    );
    assert!(!reported.is_empty() && pruned.load(Ordering::Relaxed) > 0);
    assert!(failed.load(Ordering::Relaxed) <= reported.len() as u32, "prunes get in the way of backups");

    // Nobody is at work any more, and the dead are known to be dead: all that can go goes.
    assert!(stage.abbild("last", &["prune", "--max-unused", "0"]).status().unwrap().success());
    assert_eq!(trash::list(stage.repository().store()).unwrap(), []);
    stage.assert_kept(&reported, &forgotten);
}

#[test]
fn killed_prunes_lose_nothing_and_the_next_goes_on() {
    let stage = Stage::new();
    let image = stage.path("machine.raw");
    let (mut reported, mut forgotten) = (Reported::new(), HashSet::new());
    let (mut killed, mut usual) = (0, Duration::from_millis(60));
    let mut last: Option<BackupId> = None;
    for turn in 0..number("ABBILD_TEST_KILLS", KILLS) {
        for half in 0..2 {
            let content = disk(1, turn * 2 + half);
            std::fs::write(&image, &content).unwrap();
            let run = stage.abbild("host", &["backup", image.to_str().unwrap()]).output().unwrap();
            let said = String::from_utf8_lossy(&run.stderr);
            let id = answer(&run.stdout).as_ref().and_then(backup_of).unwrap_or_else(|| panic!("no backup: {said}"));
            reported.insert(id, blake3::hash(&content));
            if let Some(old) = last.replace(id) {
                let gone = stage.abbild("host", &["forget", &old.to_string()]).output().unwrap();
                assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
                forgotten.insert(old);
            }
        }
        let began = Instant::now();
        let mut run = stage.abbild("pruner", &["prune", "--max-unused", "0"]).spawn().unwrap();
        std::thread::sleep(usual.mul_f64((draw(turn) % 1100) as f64 / 1000.0));
        run.kill().unwrap();
        match run.wait().unwrap().success() {
            true => usual = (usual + began.elapsed()) / 2,
            false => killed += 1,
        }
        if turn % 4 == 3 {
            stage.assert_kept(&reported, &forgotten);
            let run = stage.abbild("pruner", &["prune", "--max-unused", "0"]).output().unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            assert_eq!(trash::list(stage.repository().store()).unwrap(), []);
        }
    }
    let listed = stage.assert_kept(&reported, &forgotten);
    println!("{killed} prunes killed, {} backups reported, {listed} kept: 0 lost", reported.len());
    assert!(killed > 0, "some prunes must die before they are done");
}
