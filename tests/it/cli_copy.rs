//! Copying as a user does it: a second repository with a key of its own, what is there is skipped, mistakes are named.

use std::path::Path;

use crate::cli::{Stage, expected_sum, sum, text};

const TO: [&str; 4] = ["--to", "offsite", "--to-key-file", "offsite.key"];

/// A stage with two backups, and an empty second repository.
fn stage() -> (Stage, [String; 2]) {
    let stage = Stage::new();
    let first = text(&stage.backup("base"), "backup").to_owned();
    let second = text(&stage.backup("current"), "backup").to_owned();
    stage.run(&["init", "--repo", "offsite", "--key-file", "offsite.key"]).ok();
    (stage, [first, second])
}

fn there(stage: &Stage) -> Vec<serde_json::Value> {
    let listed = stage.run(&["list", "--json", "--repo", "offsite", "--key-file", "offsite.key"]).ok().json();
    listed["backups"].as_array().unwrap().clone()
}

#[test]
fn what_is_missing_is_copied_and_restores_from_there() {
    let (stage, [first, second]) = stage();
    let plan = stage.run(&[&["copy", "--dry-run"][..], &TO].concat()).ok();
    assert!(plan.stdout.ends_with("2 backups would be copied\n"), "{plan:?}");
    assert!(there(&stage).is_empty());

    let lines = stage.run(&[&["copy", "--json", "--verify", "web1@latest"][..], &TO].concat()).ok().json_lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((text(&lines[0], "backup"), &lines[0]["verified"]), (second.as_str(), &true.into()));
    assert_eq!(lines[1]["copied"], 1);
    let copy = text(&lines[0], "copy").to_owned();
    let run = stage.run(&[&["copy"][..], &TO].concat()).ok();
    assert!(run.stdout.ends_with("1 backup copied, 1 there before\n"), "{run:?}");
    let run = stage.run(&[&["copy", "-q"][..], &TO].concat()).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    let plan = stage.run(&[&["copy", "--dry-run"][..], &TO].concat()).ok().stdout;
    assert!(plan.contains(&format!("there as {}", &copy[..8])), "{plan}");

    let listed = there(&stage);
    assert_eq!(listed.len(), 2);
    assert_eq!(text(&listed[0]["copied_from"], "backup"), first);
    let show = stage.run(&["show", &copy, "--repo", "offsite", "--key-file", "offsite.key"]).ok().stdout;
    assert!(show.contains(&format!("copied from backup {second} of repository")), "{show}");
    // The first repository is gone, and all that this host knew.
    std::fs::remove_dir_all(stage.path("data")).unwrap();
    std::fs::remove_dir_all(stage.path("cache")).unwrap();
    let with = ["--repo", "offsite", "--key-file", "offsite.key"];
    for (id, level) in [(&copy, "current"), (&text(&listed[0], "backup").to_owned(), "base")] {
        let file = format!("{level}.raw");
        stage.run(&[&["restore", id, "--disk", "0", "--to", &file][..], &with].concat()).ok();
        assert_eq!(sum(&stage.path(&file)), expected_sum(level));
    }
    stage.run(&[&["check", "--read-data"][..], &with].concat()).ok();
}

#[test]
fn which_backups_and_what_was_forgotten_there() {
    let (stage, [first, _]) = stage();
    stage.run(&["backup", "web1", "--tag", "gold", "--full"]).ok();
    let copied = |arguments: &[&str]| {
        let lines = stage.run(&[&["copy", "--json"][..], arguments, &TO].concat()).ok().json_lines();
        lines.last().unwrap().clone()
    };
    assert_eq!(copied(&["--tag", "gold"])["copied"], 1);
    assert_eq!(copied(&["--machine", "web1", "--latest"])["there_before"], 1);
    let newer = copied(&["--newer"]);
    assert_eq!((&newer["copied"], &newer["left_out"]), (&0.into(), &2.into()));
    assert_eq!(copied(&[])["copied"], 2);
    let gone = text(&there(&stage)[0], "backup").to_owned();
    stage.run(&["forget", &gone, "--repo", "offsite", "--key-file", "offsite.key"]).ok();
    assert_eq!(copied(&[])["left_out"], 1);
    assert_eq!(copied(&[&first])["copied"], 1);
    stage.run(&[&["copy", "--machine", "other"][..], &TO].concat()).ended(1).said("web1");
    stage.run(&[&["copy", "web1", "--latest"][..], &TO].concat()).ended(2);
}

#[test]
fn mistakes_are_named_before_anything_is_done() {
    let (stage, _) = stage();
    stage.run(&["copy"]).ended(2).said("--to");
    stage.run(&["copy", "--to", "nowhere"]).ended(10).said("abbild init --repo nowhere");
    let own = stage.path("data/abbild/repository");
    let own = own.to_str().unwrap();
    stage.run(&["copy", "--to", own]).ended(2).said("is the repository that is copied from");
    stage.run(&["copy", "--to", &format!("{own}/packs")]).ended(2).said("lie in each other");
    stage.run(&["copy", "--to", "sftp://host/path"]).ended(2).said("repositories are folders");
    // A twin of the store is the same repository.
    let twin = stage.path("twin");
    assert!(std::process::Command::new("cp").arg("-r").args([Path::new(own), &twin]).status().unwrap().success());
    stage.run(&["copy", "--to", "twin"]).ended(2).said("another store of the same repository");

    stage.run(&["copy", "--to", "offsite"]).ended(2).said("--to-key-file");
    stage.run(&["init", "--repo", "other", "--key-file", "other.key"]).ok();
    stage.run(&["copy", "--to", "offsite", "--to-key-file", "other.key"]).ended(12);
    stage.run_with("ABBILD_TO_KEY_FILE", "offsite.key", &["copy", "--to", "offsite"]).ok();
    // A key that opens both need not be named twice.
    stage.run(&["init", "--repo", "same", "--key-file", stage.path("config/abbild/key").to_str().unwrap()]).ok();
    stage.run(&["copy", "--to", "same"]).ok();
}

#[test]
fn passphrases_of_the_second_repository() {
    let (stage, _) = stage();
    stage.run_with("ABBILD_PASSWORD", "far away", &["init", "--repo", "far"]).ok();
    stage.run_with("ABBILD_TO_PASSWORD", "wrong", &["copy", "--to", "far"]).ended(12);
    std::fs::write(stage.path("password"), "far away\n").unwrap();
    let copy = ["copy", "--to", "far"];
    stage.run(&[&copy[..], &["--to-password-file", "password"]].concat()).ok();
    stage.run(&[&copy[..], &["--to-password-command", "exit 7"]].concat()).ended(1).said("--to-password-command");
    stage.run_with("ABBILD_TO_PASSWORD_COMMAND", "cat password", &copy).ok();
    stage.run_with("ABBILD_TO_PASSWORD", "far away", &[&copy[..], &["--cache-dir", "caches"]].concat()).ok();
    assert!(stage.path("caches/index.sqlite").exists(), "the first repository's cache is where it was put");
    stage.run(&["list", "--cache-dir", "caches"]).ok();
}

#[test]
fn damage_costs_one_backup_and_the_exit_code_says_so() {
    let (stage, [first, _]) = stage();
    let manifest = stage.path(&format!("data/abbild/repository/manifests/{first}"));
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&manifest).unwrap();
    std::fs::write(&manifest, bytes).unwrap();
    stage.run(&[&["copy"][..], &TO].concat()).ended(3).said("cannot be read and is not copied");
    assert_eq!(there(&stage).len(), 1);
    // Nothing of what is left can be copied now: the maps are gone.
    let (stage, [_, second]) = self::stage();
    for pack in stage.objects("packs") {
        std::fs::remove_file(pack).unwrap();
    }
    let lines = stage.run(&[&["copy", "--json", &second][..], &TO].concat()).ended(13).json_lines();
    assert!(lines[0]["error"]["message"].as_str().unwrap().contains("was not copied"), "{lines:?}");
    assert_eq!(there(&stage).len(), 0);
}
