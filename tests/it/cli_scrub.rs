//! `abbild check --scrub` as the host that keeps a store runs it: no key, no password, no cache.

use std::path::Path;

use crate::cli::{Stage, expected_sum, sum};

/// Flips bits of the largest file.
fn rot(files: &[std::path::PathBuf], at: usize, len: usize) -> std::path::PathBuf {
    let largest = files.iter().max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    bytes[at..at + len].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(largest, bytes).unwrap();
    largest.clone()
}

fn last_part(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_store_is_scrubbed_and_healed_without_a_key() {
    let stage = Stage::new();
    let init = stage.run(&["init", "--parity", "5%", "--json"]).ok().json();
    assert_eq!(init["parity"], 50);
    stage.backup("current");
    let run = stage.run(&["check", "--scrub"]).ok();
    assert!(run.stdout.starts_with("no damage found: ") && run.stdout.contains("parity of 5%: "), "{run:?}");

    // The keeper of the store has nothing else.
    std::fs::rename(stage.path("config"), stage.path("elsewhere")).unwrap();
    std::fs::remove_dir_all(stage.path("cache")).unwrap();
    let repository = stage.path("data/abbild/repository");
    let there = ["--repo", repository.to_str().unwrap()];
    let scrub = |arguments: &[&str]| stage.run(&[&["check", "--scrub"], arguments, &there].concat());
    scrub(&[]).ok();

    let pack = rot(&stage.objects("packs"), 5000, 3000);
    let run = scrub(&[]).ended(13).said("hint: make whole what can be: abbild check --scrub --repair");
    assert!(
        run.stdout.contains(&format!("damaged: packs/{}/{}: stripe hash", &last_part(&pack)[..2], last_part(&pack))),
        "{run:?}"
    );
    let report = scrub(&["--json"]).ended(13).json_lines();
    assert!(report[0]["damage"][0]["repaired"].is_null(), "{report:?}");
    let run = scrub(&["--repair"]).ended(3);
    assert!(
        run.stdout.contains("whole again") && run.stdout.contains("1 damaged object found, all repaired"),
        "{run:?}"
    );
    scrub(&[]).ok();
    assert!(!stage.path("cache").exists(), "no cache is made");
    assert_eq!(stage.objects("quarantine").len(), 1);

    // Beyond the share nothing is changed, and it is said.
    let pack = rot(&stage.objects("packs"), 0, 120_000);
    rot(&stage.objects("parity"), 4000, 60_000);
    let before = std::fs::read(&pack).unwrap();
    let run = scrub(&["--repair"]).ended(13);
    assert!(run.stdout.contains("cannot be repaired") && run.stdout.contains("makes up for"), "{run:?}");
    assert_eq!(std::fs::read(&pack).unwrap(), before);
    rot(&stage.objects("packs"), 0, 120_000);
    rot(&stage.objects("parity"), 4000, 60_000);
    scrub(&[]).ok();

    std::fs::rename(stage.path("elsewhere"), stage.path("config")).unwrap();
    stage.run(&["restore", "web1", "--disk", "0", "--to", "disk.raw"]).ok();
    assert_eq!(sum(&stage.path("disk.raw")), expected_sum("current"));
    stage.run(&["check", "--read-data"]).ok();
}

#[test]
fn parity_is_turned_on_later_by_who_has_no_key() {
    let stage = Stage::new();
    stage.backup("base");
    let run = stage.run(&["check", "--scrub"]).ok();
    assert!(run.stdout.contains("no parity"), "{run:?}");
    stage.run(&["check", "--scrub", "--parity", "5%"]).ended(2);
    stage.run(&["check", "--scrub", "--repair", "--parity", "26%"]).ended(2).said("0.1 to 25");
    stage.run(&["check", "--scrub", "--read-data"]).ended(2);
    let run = stage.run(&["check", "--scrub", "--repair", "--parity", "10%"]).ok();
    assert!(run.stdout.contains("parity of 10%: ") && run.stdout.contains(" of them made now"), "{run:?}");
    stage.backup("current");
    let run = stage.run(&["check", "--scrub"]).ok();
    assert!(run.stdout.contains("packs without one: 0"), "{run:?}");
}
