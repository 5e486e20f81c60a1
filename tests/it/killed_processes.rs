//! "Killed at any moment": the real program dies by SIGKILL at random instants of a backup, again and again, on one
//! repository. What it had reported restores, the check is content, the next run works.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use abbild::repo::Repository;
use abbild::repo::ids::BackupId;
use abbild::repo::index::IndexPlace;
use abbild::repo::keys::{KeyFile, Secret};
use abbild::repo::store::DirectoryStore;

use crate::world::{content_of, noise};

/// Kills. The long form of this story sets `ABBILD_TEST_KILLS`.
const KILLS: u32 = 200;

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let stage = Stage { folder: tempfile::tempdir().unwrap() };
        let status = stage.abbild(&["init"]).status().unwrap();
        assert!(status.success());
        stage
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn abbild(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_abbild"));
        command.args(args).args(["--no-progress", "--repo"]).arg(self.path("repository"));
        command.arg("--key-file").arg(self.path("key")).arg("--cache-dir").arg(self.path("cache"));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn back_up(&self) -> Child {
        let image = self.path("guest.raw");
        self.abbild(&["backup", "--json", image.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Opens the repository as another host would: without the cache.
    fn repository(&self) -> Arc<Repository> {
        let store = DirectoryStore::open(&self.path("repository")).unwrap();
        let secret = Secret::KeyFile(KeyFile::load(&self.path("key")).unwrap());
        Arc::new(Repository::open(Arc::new(store), &secret, |_| IndexPlace::Memory).unwrap())
    }
}

/// The id of the backup that a run reported, if it came to that.
fn reported(child: &mut Child) -> Option<BackupId> {
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let report: serde_json::Value = serde_json::from_str(said.lines().next()?).ok()?;
    report["backup"].as_str()?.parse().ok()
}

/// Changes some of the disk, so that each run has something to store.
fn change(disk: &mut [u8], round: u64) {
    let at = usize::try_from(round * 7_919_333 % (disk.len() as u64 - 600_000)).unwrap();
    disk[at..at + 600_000].copy_from_slice(&noise(600_000, round));
}

fn write(path: &Path, disk: &[u8]) {
    std::fs::write(path, disk).unwrap();
}

#[test]
fn two_hundred_kills_lose_nothing_that_was_reported() {
    let kills = std::env::var("ABBILD_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let stage = Stage::new();
    let mut disk = noise(24 << 20, 0);
    write(&stage.path("guest.raw"), &disk);
    let began = Instant::now();
    let mut first = stage.back_up();
    let mut kept = vec![(reported(&mut first).expect("the first run is left alone"), blake3::hash(&disk))];
    assert!(first.wait().unwrap().success());
    let mut usual = began.elapsed().max(Duration::from_millis(40));

    let (mut killed, mut done, mut runs) = (0u32, 0u32, 0u32);
    for round in 1..=u64::from(kills) * 3 {
        if killed == kills {
            break;
        }
        runs += 1;
        change(&mut disk, round);
        write(&stage.path("guest.raw"), &disk);
        // Anywhere from before its first step to a little after its last; some are done before.
        let began = Instant::now();
        let mut run = stage.back_up();
        let draw = u64::from_le_bytes(noise(8, round + 1_000_000).try_into().unwrap()) % 1100;
        std::thread::sleep(usual.mul_f64(draw as f64 / 1000.0));
        run.kill().unwrap();
        let status = run.wait().unwrap();
        if let Some(backup) = reported(&mut run) {
            kept.push((backup, blake3::hash(&disk)));
            done += 1;
            if status.success() {
                usual = (usual + began.elapsed().min(usual * 2)) / 2;
            }
        }
        killed += u32::from(!status.success());
        if round % 20 == 0 {
            let repository = stage.repository();
            let report = crate::world::full_check(&repository).unwrap();
            assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "round {round}: {report:?}");
        }
    }
    let repository = stage.repository();
    for (backup, hash) in &kept {
        let content = content_of(&repository, *backup).unwrap_or_else(|error| panic!("{backup} is lost: {error}"));
        assert_eq!(blake3::hash(&content), *hash, "{backup} restores other bytes");
    }
    let listed = repository.backup_ids().unwrap();
    for id in &listed {
        content_of(&repository, *id).unwrap_or_else(|error| panic!("{id} is listed and cannot be restored: {error}"));
    }
    let mut last = stage.back_up();
    let id = reported(&mut last).expect("the next run works");
    assert!(content_of(&stage.repository(), id).unwrap() == disk);
    println!(
        "{killed} kills in {runs} runs, {done} reported, {} listed: 0 reported and lost, 0 that cannot be restored",
        listed.len()
    );
    assert_eq!(killed, kills, "so many runs must die before they are done");
}
