//! `check` as an admin meets it: what is damaged, what is lost with it, what to do; and what a repair leaves.

use std::path::{Path, PathBuf};

use crate::cli::Stage;

fn damage_largest_pack(stage: &Stage, at: usize) -> PathBuf {
    let pack = stage.objects("packs").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[at] ^= 1;
    overwrite(&pack, &bytes);
    pack
}

fn overwrite(path: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_named_with_what_it_hits_then_saved_then_healed_by_the_next_backup() {
    let stage = Stage::new();
    stage.backup("current");
    damage_largest_pack(&stage, 4000);
    let run = stage.run(&["check", "--read-data"]).ended(13).said("abbild check --repair");
    for line in
        ["fault: packs/", "with --repair: what is sound", "damaged backup: web1@", "  disk scsi0:0: ", "    bytes "]
    {
        assert!(run.stdout.contains(line), "{line}: {run:?}");
    }
    let run = stage.run(&["check", "--repair"]).ended(13).said("back up the machines that are hit again");
    for line in [
        "repaired: packs/",
        "moved to quarantine: 2 objects",
        "in quarantine, until somebody removes it: 2 objects",
        "written anew: ",
    ] {
        assert!(run.stdout.contains(line), "{line}: {run:?}");
    }
    let report = stage.run(&["check", "--json"]).ended(13).json();
    assert_eq!(report["faults"].as_array().unwrap().len(), 0, "{report}");
    let disk = &report["losses"][0]["disks"][0];
    assert!(disk["lost_bytes"].as_u64().unwrap() > 0 && disk["guest"].is_object(), "{report}");
    // It says that it builds on nothing that may be damaged.
    stage.run(&["backup", "web1"]).ended(3);
    let run = stage.run(&["check", "--read-data"]).ok();
    assert!(run.stdout.contains("of data were verified on this host since"), "{run:?}");
    assert_eq!(stage.objects("quarantine").len(), 2, "nothing there is ever deleted");
}

#[test]
fn a_second_repository_with_another_key_heals_all() {
    let stage = Stage::new();
    stage.backup("current");
    let other = ["--repo", "other", "--key-file", "other-key"];
    stage.run(&[&["init"][..], &other].concat()).ok();
    stage.run(&[&["backup", "web1"][..], &other].concat()).ok();
    damage_largest_pack(&stage, 4000);
    let from = ["check", "--read-data", "--repair", "--from", "other"];
    stage.run(&from).ended(2).said("the key of the first repository does not open it");
    let run = stage.run(&[&from[..], &["--from-key-file", "other-key"]].concat()).ok();
    for line in ["lost, taken from the second repository: ", "whole again: web1", "everything was repaired: 1 backup"] {
        assert!(run.stdout.contains(line), "{line}: {run:?}");
    }
    stage.run(&["check", "--read-data", "-q"]).ok();
    stage.run(&["restore", "web1", "--disk", "0", "--to", "x.raw"]).ok();
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let stage = Stage::new();
    stage.backup("current");
    for bad in [
        &["--read-data=0G"][..],
        &["--read-data=1X"],
        &["--older-than", "soon"],
        &["--older-than", "-1d"],
        &["--from", "other"],
        &["--repair", "--from", "https://x/y"],
    ] {
        stage.run(&[&["check"][..], bad].concat()).ended(2);
    }
    let run = stage.run(&["check", "--older-than", "30d"]).ok();
    assert!(run.stdout.contains("all ") && run.stdout.contains(" verified on this host since "), "{run:?}");
    let again = stage.run(&["check", "--older-than", "30d"]).ok();
    assert!(again.stdout.contains("no data read"), "{again:?}");
}
