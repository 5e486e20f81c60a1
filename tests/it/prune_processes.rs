//! Real processes on one repository: backups, forgets and prunes at once, each host with a cache of its own; some are killed,
//! some are stopped for a while and go on. What was reported and not forgotten restores, and nothing listed is damaged.
//!
//! The long form sets `ABBILD_TEST_SECONDS` and `ABBILD_TEST_KILLS`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abbild::repo::Repository;
use abbild::repo::gc::trash;
use abbild::repo::ids::BackupId;
use abbild::repo::index::IndexPlace;
use abbild::repo::keys::{KeyFile, Secret};
use abbild::repo::store::DirectoryStore;
use serde_json::Value;

use crate::world::{content_of, full_check, noise};

const SECONDS: u64 = 5;
const KILLS: u64 = 12;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let stage = Stage { folder: tempfile::tempdir().unwrap() };
        assert!(stage.abbild("init", &["init"]).status().unwrap().success());
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command as `host` runs it, with a cache of its own.
    fn abbild(&self, host: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_abbild"));
        command.args(args).args(["--json", "--no-progress", "--repo"]).arg(self.path("repository"));
        command.arg("--key-file").arg(self.path("key")).arg("--cache-dir").arg(self.path(host));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn repository(&self) -> Arc<Repository> {
        let store = DirectoryStore::open(&self.path("repository")).unwrap();
        let secret = Secret::KeyFile(KeyFile::load(&self.path("key")).unwrap());
        Arc::new(Repository::open(Arc::new(store), &secret, |_| IndexPlace::Memory).unwrap())
    }
}

/// Half of it all disks share, a quarter each machine has for itself, a quarter is new each time.
fn disk(machine: u64, turn: u64) -> Vec<u8> {
    [noise(512 << 10, 99), noise(256 << 10, machine), noise(256 << 10, 1000 + machine * 1000 + turn)].concat()
}

fn draw(seed: u64) -> u64 {
    u64::from_le_bytes(noise(8, seed + 7_000_000).try_into().unwrap())
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill is needed by this test");
}

/// Lets a run end, or dies or sleeps on the way, as the draw has it; gives its code and what it said.
fn ended(mut child: Child, seed: u64) -> (Option<i32>, Option<Value>, String) {
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
    let said = String::from_utf8_lossy(&output.stdout);
    let answer = said.lines().next().and_then(|line| serde_json::from_str(line).ok());
    (output.status.code(), answer, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn assert_kept(stage: &Stage, reported: &HashMap<BackupId, blake3::Hash>, forgotten: &HashSet<BackupId>) -> usize {
    let repository = stage.repository();
    let listed: HashSet<BackupId> = repository.backup_ids().unwrap().into_iter().collect();
    for (id, hash) in reported.iter().filter(|(id, _)| !forgotten.contains(*id)) {
        assert!(listed.contains(id), "{id} was reported, and is neither forgotten nor listed");
        let content = content_of(&repository, *id).unwrap_or_else(|error| panic!("{id} is lost: {error}"));
        assert_eq!(blake3::hash(&content), *hash, "{id} restores other bytes");
    }
    for id in &listed {
        content_of(&repository, *id).unwrap_or_else(|error| panic!("{id} is listed and cannot be restored: {error}"));
    }
    let report = full_check(&repository).unwrap();
    assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
    listed.len()
}

#[test]
fn backups_forgets_and_prunes_at_once() {
    let stage = Stage::new();
    let end = Instant::now() + Duration::from_secs(number("ABBILD_TEST_SECONDS", SECONDS));
    let reported = Mutex::new(HashMap::new());
    let forgotten = Mutex::new(HashSet::new());
    let (failed, pruned, died) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for machine in 0..3u64 {
            let (stage, reported, failed, died) = (&stage, &reported, &failed, &died);
            scope.spawn(move || {
                for turn in 0.. {
                    if Instant::now() > end {
                        return;
                    }
                    let (host, image) = (format!("host{machine}"), stage.path(&format!("machine{machine}.raw")));
                    let content = disk(machine, turn);
                    std::fs::write(&image, &content).unwrap();
                    let run = stage.abbild(&host, &["backup", image.to_str().unwrap()]).spawn().unwrap();
                    let (code, answer, stderr) = ended(run, machine * 100_000 + turn * 10);
                    let id = answer.and_then(|answer| answer["backup"].as_str()?.parse().ok());
                    match (code, id) {
                        (Some(0), Some(id)) => drop(reported.lock().unwrap().insert(id, blake3::hash(&content))),
                        (Some(code), _) => {
                            println!("a backup ended with {code}: {stderr}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                        (None, id) => {
                            died.fetch_add(1, Ordering::Relaxed);
                            reported.lock().unwrap().extend(id.map(|id| (id, blake3::hash(&content))));
                        }
                    }
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
        let (stage, forgotten) = (&stage, &forgotten);
        scope.spawn(move || {
            while Instant::now() < end {
                let run = stage.abbild("forgetter", &["forget", "--keep-last", "2"]).output().unwrap();
                let said = String::from_utf8_lossy(&run.stdout);
                let answer: Value = serde_json::from_str(said.lines().next().unwrap_or("{}")).unwrap_or_default();
                if let Some(gone) = answer["forgotten"].as_array() {
                    let ids = gone.iter().map(|line| line["backup"].as_str().unwrap().parse::<BackupId>().unwrap());
                    forgotten.lock().unwrap().extend(ids);
                }
                std::thread::sleep(Duration::from_millis(150));
            }
        });
    });
    let (reported, forgotten) = (reported.into_inner().unwrap(), forgotten.into_inner().unwrap());
    let listed = assert_kept(&stage, &reported, &forgotten);
    println!(
        "{} backups reported, {} forgotten, {listed} listed, {} failed, {} prunes done, {} runs killed: 0 lost",
        reported.len(),
        forgotten.len(),
        failed.load(Ordering::Relaxed),
        pruned.load(Ordering::Relaxed),
        died.load(Ordering::Relaxed)
    );
    assert!(!reported.is_empty() && pruned.load(Ordering::Relaxed) > 0);
    assert!(failed.load(Ordering::Relaxed) <= reported.len() as u32, "prunes get in the way of backups");

    // Nobody is at work any more, and the dead are known to be dead: all that can go goes.
    assert!(stage.abbild("last", &["prune", "--max-unused", "0"]).status().unwrap().success());
    assert_eq!(trash::list(stage.repository().store()).unwrap(), []);
    assert_kept(&stage, &reported, &forgotten);
}

#[test]
fn killed_prunes_lose_nothing_and_the_next_goes_on() {
    let stage = Stage::new();
    let image = stage.path("machine.raw");
    let (mut reported, mut forgotten) = (HashMap::new(), HashSet::new());
    let (mut killed, mut usual) = (0, Duration::from_millis(60));
    let mut last: Option<BackupId> = None;
    for turn in 0..number("ABBILD_TEST_KILLS", KILLS) {
        for half in 0..2 {
            let content = disk(1, turn * 2 + half);
            std::fs::write(&image, &content).unwrap();
            let run = stage.abbild("host", &["backup", image.to_str().unwrap()]).output().unwrap();
            let answer: Value = serde_json::from_slice(&run.stdout).unwrap();
            let id: BackupId = answer["backup"].as_str().unwrap().parse().unwrap();
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
            assert_kept(&stage, &reported, &forgotten);
            let run = stage.abbild("pruner", &["prune", "--max-unused", "0"]).output().unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            assert_eq!(trash::list(stage.repository().store()).unwrap(), []);
        }
    }
    let listed = assert_kept(&stage, &reported, &forgotten);
    println!("{killed} prunes killed, {} backups reported, {listed} kept: 0 lost", reported.len());
    assert!(killed > 0, "some prunes must die before they are done");
}
