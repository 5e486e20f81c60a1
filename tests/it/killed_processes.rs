//! "Killed at any moment": the real program dies by SIGKILL at random instants of a backup, again and again, on one
//! repository. What it had reported restores, the check is content, the next run works.

use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use abbild::repo::ids::BackupId;

use crate::processes::{Stage, answer, backup_of, number};
use crate::world::{content_of, noise};

/// Kills. The long form of this story sets `ABBILD_TEST_KILLS`.
const KILLS: u64 = 200;

fn back_up(stage: &Stage) -> Child {
    stage.abbild("host", &["backup", stage.path("guest.raw").to_str().unwrap()]).spawn().unwrap()
}

/// The id of the backup that a run reported, if it came to that.
fn reported(child: &mut Child) -> Option<BackupId> {
    let mut said = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
    backup_of(&answer(&said)?)
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
    let kills = number("ABBILD_TEST_KILLS", KILLS);
    let stage = Stage::new();
    let mut disk = noise(24 << 20, 0);
    write(&stage.path("guest.raw"), &disk);
    let began = Instant::now();
    let mut first = back_up(&stage);
    let mut kept = vec![(reported(&mut first).expect("the first run is left alone"), blake3::hash(&disk))];
    assert!(first.wait().unwrap().success());
    let mut usual = began.elapsed().max(Duration::from_millis(40));

    let (mut killed, mut done, mut runs) = (0u64, 0u32, 0u32);
    for round in 1..=kills * 3 {
        if killed == kills {
            break;
        }
        runs += 1;
        change(&mut disk, round);
        write(&stage.path("guest.raw"), &disk);
        // Anywhere from before its first step to a little after its last; some are done before.
        let began = Instant::now();
        let mut run = back_up(&stage);
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
        killed += u64::from(!status.success());
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
    let mut last = back_up(&stage);
    let id = reported(&mut last).expect("the next run works");
    assert!(content_of(&stage.repository(), id).unwrap() == disk);
    println!(
        "{killed} kills in {runs} runs, {done} reported, {} listed: 0 reported and lost, 0 that cannot be restored",
        listed.len()
    );
    assert_eq!(killed, kills, "so many runs must die before they are done");
}
