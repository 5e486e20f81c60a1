//! "Killed at any moment", whatever it was doing: backups, forgets, undoings, prunes that repack, repairs and copies die by
//! SIGKILL at random instants, one after the other, on one repository. What was reported restores, what is listed is whole,
//! the next run works.
//!
//! The long form sets `ABBILD_TEST_KILLS`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use abbild::repo::gc::trash;
use abbild::repo::ids::BackupId;

use crate::processes::{Reported, Stage, answer, backup_of, draw, forgotten_of, number};
use crate::world::{content_of, full_check, noise};

const KILLS: u64 = 40;
/// Rounds between two looks at everything.
const LOOK_EVERY: u64 = 20;

/// The verbs that take turns, each with its arguments.
const VERBS: [(&str, &[&str]); 10] = [
    ("backup", &["backup", "IMAGE"]),
    ("forget", &["forget", "--keep-last", "3"]),
    ("backup", &["backup", "IMAGE"]),
    ("prune", &["prune", "--max-unused", "0"]),
    ("backup", &["backup", "IMAGE", "--full"]),
    ("copy", &["copy", "--to", "SECOND"]),
    ("undo", &["forget", "--undo", "OLDEST"]),
    ("repair", &["check", "--repair", "--read-data"]),
    ("scrub", &["check", "--scrub", "--repair"]),
    ("prune", &["prune", "--max-unused", "0"]),
];

/// Half of it stays, the rest changes in the middle, so that prunes find waste.
fn disk(turn: u64) -> Vec<u8> {
    let changed = (0..8).map(|part| noise(96 << 10, if part == turn % 8 { 1000 + turn } else { part }));
    [noise(512 << 10, 99)].into_iter().chain(changed).collect::<Vec<_>>().concat()
}

/// What lies in the second repository restores to what its origins were reported as.
fn assert_copies(stage: &Stage, reported: &Reported) -> usize {
    let there = stage.open("second");
    let copies = there.manifests(&mut |id, error| panic!("{id}: {error}")).unwrap();
    for copy in &copies {
        let content = content_of(&there, copy.backup).unwrap_or_else(|error| panic!("copy {}: {error}", copy.backup));
        if let Some(hash) = reported.get(&copy.copied_from.unwrap().backup) {
            assert_eq!(blake3::hash(&content), *hash, "copy {} restores other bytes", copy.backup);
        }
    }
    let report = full_check(&there).unwrap();
    assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
    copies.len()
}

#[test]
fn kills_at_any_moment_of_any_verb_lose_nothing() {
    let kills = number("ABBILD_TEST_KILLS", KILLS);
    let stage = Stage::new();
    let (image, second) = (stage.path("machine.raw"), stage.path("second"));
    let made = stage.abbild_on("second", "maker", &["init"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (mut reported, mut forgotten) = (Reported::new(), HashSet::new());
    let mut usual: HashMap<&str, Duration> = HashMap::new();
    let mut died: BTreeMap<&str, u64> = BTreeMap::new();
    let mut turn = 0;
    while died.values().sum::<u64>() < kills {
        let (verb, args) = VERBS[usize::try_from(turn).unwrap() % VERBS.len()];
        turn += 1;
        let content = disk(turn);
        std::fs::write(&image, &content).unwrap();
        let oldest = forgotten.iter().min().map(BackupId::to_string).unwrap_or_default();
        if verb == "undo" && oldest.is_empty() {
            continue;
        }
        let args: Vec<&str> = args
            .iter()
            .map(|word| match *word {
                "IMAGE" => image.to_str().unwrap(),
                "OLDEST" => &oldest,
                "SECOND" => second.to_str().unwrap(),
                word => word,
            })
            .collect();
        // Of a forget that dies nobody knows how far it came: what it would forget may be forgotten.
        if verb == "forget" {
            let plan = stage.abbild("host", &[&args[..], &["--dry-run"]].concat()).output().unwrap();
            forgotten.extend(answer(&plan.stdout).iter().flat_map(forgotten_of));
        }
        // Anywhere from before its first step to a little after its last. How long that takes, some show that are left alone.
        let began = Instant::now();
        let mut run = stage.abbild("host", &args).spawn().unwrap();
        let lasts = usual.get(verb).copied().filter(|_| !draw(turn + 1_000_000).is_multiple_of(6));
        if let Some(lasts) = lasts {
            std::thread::sleep(lasts.mul_f64((draw(turn) % 1050) as f64 / 1000.0));
            run.kill().unwrap();
        }
        let output = run.wait_with_output().unwrap();
        match output.status.code() {
            None => *died.entry(verb).or_default() += 1,
            Some(0 | 3) if lasts.is_none() => drop(usual.insert(verb, began.elapsed())),
            Some(0 | 3) => {}
            // What is to be brought back may be pruned already.
            Some(_) if verb == "undo" => {}
            Some(code) => panic!("{verb} ended with {code}: {}", String::from_utf8_lossy(&output.stderr)),
        }
        match (verb, answer(&output.stdout)) {
            ("backup", Some(answer)) => {
                reported.extend(backup_of(&answer).map(|id| (id, blake3::hash(&content))));
            }
            ("undo", Some(_)) if output.status.success() => drop(forgotten.remove(&oldest.parse().unwrap())),
            _ => {}
        }
        if turn % LOOK_EVERY == 0 {
            stage.assert_kept(&reported, &forgotten);
            assert_copies(&stage, &reported);
        }
    }
    let run = stage.abbild("host", &["prune", "--max-unused", "0"]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(trash::list(stage.repository().store()).unwrap(), []);
    let listed = stage.assert_kept(&reported, &forgotten);
    let copies = assert_copies(&stage, &reported);
    println!(
        "{died:?} killed in {turn} runs, {} backups reported, {listed} listed, {copies} copies: 0 lost",
        reported.len()
    );
    assert!(died.len() >= 3, "every verb must die now and then");
}
