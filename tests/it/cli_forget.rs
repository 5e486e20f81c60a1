//! Forgetting as a user does it: a plan that says why, nothing lost before a prune, nothing forgotten by accident.

use crate::cli::{Stage, text};

fn listed(stage: &Stage) -> usize {
    stage.run(&["list", "--json"]).ok().json()["backups"].as_array().unwrap().len()
}

#[test]
fn rules_show_their_reasons_and_a_dry_run_forgets_nothing() {
    let stage = Stage::new();
    for level in ["base", "before upgrade", "current"] {
        stage.backup(level);
    }
    let run = stage.run(&["forget", "--keep-last", "2", "--dry-run"]).ok();
    let cells = |line: &str| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        cells.skip(2).collect::<Vec<_>>().join("|")
    };
    let plan: Vec<String> = run.stdout.lines().map(cells).collect();
    assert_eq!(&plan[1..4], ["forget|no rule keeps it", "keep|last 2", "keep|newest, last 1"], "{run:?}");
    assert!(run.stdout.ends_with("1 backup would be forgotten, 2 kept\n"), "{run:?}");
    assert_eq!(listed(&stage), 3);

    let answer = stage.run(&["forget", "web1", "--keep-daily", "7", "--json"]).ok().json();
    assert_eq!(answer["forgotten"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(answer["kept"][0]["reasons"][1]["rule"], "daily", "{answer}");
    assert_eq!(listed(&stage), 1);
    let again = stage.run(&["forget", "--keep-daily", "7", "-q"]).ok();
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""));

    let back = stage.run(&["forget", "--undo", "--all", "--json"]).ok().json();
    assert_eq!(back["brought_back"].as_array().unwrap().len(), 2, "{back}");
    assert_eq!(listed(&stage), 3);
    stage.run(&["check", "--read-data"]).ok();
}

#[test]
fn single_backups_by_name_and_back() {
    let stage = Stage::new();
    let first = stage.backup("base");
    let second = stage.backup("current");
    let (first, second) = (text(&first, "backup"), text(&second, "backup"));
    stage.run(&["forget", first]).ok();
    assert_eq!(listed(&stage), 1);
    stage.run(&["show", first]).ended(1);
    stage.run(&["forget", second]).ended(2).said("--newest-too");
    stage.run(&["forget", "web1"]).ended(2).said("is a machine, not a backup");
    stage.run(&["forget", "web1@1999"]).ended(1);
    stage.run(&["forget", second, "--newest-too"]).ok();
    assert_eq!(listed(&stage), 0);
    stage.run(&["forget", "--undo", second]).ok();
    stage.run(&["show", second]).ok();
    stage.run(&["forget", "--undo", second]).ended(1);
    assert_eq!(listed(&stage), 1);
}

#[test]
fn what_says_nothing_forgets_nothing() {
    let stage = Stage::new();
    stage.backup("current");
    stage.run(&["forget"]).ended(2).said("--keep-daily 7");
    stage.run(&["forget", "--min-age", "7d"]).ended(2);
    stage.run(&["forget", "--keep-last", "0"]).ended(2);
    stage.run(&["forget", "--undo"]).ended(2).said("--all");
    stage.run(&["forget", "other", "--keep-last", "1"]).ended(1).said("web1");
    stage.run(&["forget", "--keep-within", "-3d"]).ended(2);
    stage.run(&["forget", "--keep-within", "soon"]).ended(2).said("such as");
    assert_eq!(listed(&stage), 1);
}

#[test]
fn prune_says_what_it_would_free_then_frees_it_for_good() {
    let stage = Stage::new();
    let first = stage.backup("base");
    stage.backup("current");
    stage.run(&["forget", text(&first, "backup")]).ok();
    let plan = stage.run(&["prune", "--dry-run", "--max-unused", "0", "--json"]).ok().json();
    assert_eq!(plan["dry_run"], true);
    let objects = stage.objects("packs");
    let report = stage.run(&["prune", "--max-unused", "0%", "--json"]).ok().json();
    for amount in ["packs", "unneeded", "repacked"] {
        assert_eq!(plan[amount], report[amount], "it does what it said: {plan} {report}");
    }
    assert_eq!(report["forgotten"], 1, "{report}");
    assert_eq!(report["waiting"]["objects"], 0, "{report}");
    assert_ne!(stage.objects("packs"), objects);
    stage.run(&["forget", "--undo", "--all", "--json"]).ok();
    assert_eq!(listed(&stage), 1);
    let again = stage.run(&["prune"]).ok();
    assert!(again.stdout.ends_with("freed: 0 B\n"), "{again:?}");
    stage.run(&["prune", "--max-unused", "101%"]).ended(2).said("percentage");
    stage.run(&["check", "--read-data"]).ok();
    stage.run(&["prune", "--repo", "nowhere"]).ended(10);
}
