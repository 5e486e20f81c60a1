//! "Honest numbers": what `stats` says a backup costs is what goes when it goes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use abbild::ops::backup::{BackupOptions, backup};
use abbild::ops::machines;
use abbild::ops::statistics::space::Thresholds;
use abbild::ops::statistics::{RepositoryStatistics, StatisticsOptions, statistics};
use abbild::repo::Repository;
use abbild::repo::gc::forgotten;
use abbild::repo::ids::BackupId;
use abbild::repo::store::faulty::MemFs;

use crate::cli::Stage;
use crate::prune::forget_one;
use crate::world::{create_on, noise, quiet};

fn back_up(repository: &Arc<Repository>, folder: &Path, machine: &str, content: &[u8]) -> BackupId {
    let image = folder.join(format!("{machine}.raw"));
    fs::write(&image, content).unwrap();
    let options = BackupOptions::default();
    let machine = machines::read(&image).unwrap();
    backup(repository, &machine, &options, quiet(&AtomicBool::new(false))).unwrap().manifest.backup
}

fn gathered(repository: &Repository, machine: &str, chunks_at_once: usize) -> RepositoryStatistics {
    let briefs = repository.briefs(&mut |_, error| panic!("{error}")).unwrap();
    let thresholds: Thresholds = "30,20,10".parse().unwrap();
    let options = StatisticsOptions { machine: Some(machine), thresholds: &thresholds, chunks_at_once };
    statistics(repository, &briefs, &options, quiet(&AtomicBool::new(false))).unwrap()
}

/// A repository, its backups by machine, and what each holds.
type World = (Arc<Repository>, Vec<(&'static str, BackupId)>, Vec<Vec<u8>>);

/// Two machines; what they hold is partly shared within a backup, a machine, and between them.
fn world() -> World {
    let repository = create_on(&MemFs::new());
    let folder = tempfile::tempdir().unwrap();
    let common = noise(300 << 10, 1);
    let own = |seed| noise(100 << 10, seed);
    let contents = vec![
        ("one", [&common[..], &own(2), &vec![0; 5 << 20]].concat()),
        ("one", [&common[..], &own(2), &own(3), &vec![0; 5 << 20]].concat()),
        ("two", [&common[..], &own(4), &own(4)].concat()),
        ("two", [&common[..], &own(4), &own(4)].concat()),
        ("one", own(5)),
        ("two", vec![0; 1 << 20]),
    ];
    let ids = contents.iter().map(|(machine, bytes)| (*machine, back_up(&repository, folder.path(), machine, bytes)));
    let ids = ids.collect();
    (repository, ids, contents.into_iter().map(|(_, bytes)| bytes).collect())
}

#[test]
fn unique_is_what_nothing_needs_once_the_backup_is_forgotten() {
    let (repository, ids, _) = world();
    for (machine, id) in &ids {
        let before = gathered(&repository, machine, usize::MAX);
        let of_it = before.by_backup.iter().find(|backup| backup.backup == *id).unwrap();
        forget_one(&repository, *id).unwrap();
        let after = gathered(&repository, machine, usize::MAX);
        assert_eq!(after.unneeded - before.unneeded, of_it.unique, "{machine} {id}");
        assert_eq!(after.backups, before.backups - 1);
        let place = forgotten::list(repository.store()).unwrap().pop().unwrap();
        let manifest = forgotten::load(&repository, &place).unwrap();
        forgotten::undo(&repository, &place, &manifest).unwrap();
    }
    for machine in ["one", "two"] {
        let before = gathered(&repository, machine, usize::MAX);
        let of_it = ids.iter().filter(|(name, _)| *name == machine);
        of_it.clone().for_each(|(_, id)| forget_one(&repository, *id).unwrap());
        let after = gathered(&repository, machine, usize::MAX);
        assert_eq!(after.unneeded - before.unneeded, before.by_machine[machine].unique, "{machine}");
        for place in forgotten::list(repository.store()).unwrap() {
            let manifest = forgotten::load(&repository, &place).unwrap();
            forgotten::undo(&repository, &place, &manifest).unwrap();
        }
    }
}

#[test]
fn data_is_what_the_disks_hold_besides_zeros() {
    let (repository, ids, contents) = world();
    for machine in ["one", "two"] {
        let found = gathered(&repository, machine, usize::MAX);
        let expected = ids.iter().zip(&contents).filter(|((name, _), _)| *name == machine);
        let expected: Vec<(BackupId, u64, u64)> = expected
            .map(|((_, id), bytes)| {
                let zeros = bytes.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0)).map(<[u8]>::len);
                (*id, bytes.len() as u64, (bytes.len() - zeros.sum::<usize>()) as u64)
            })
            .collect();
        let of_it = found.by_backup.iter();
        assert_eq!(of_it.map(|backup| (backup.backup, backup.size, backup.data)).collect::<Vec<_>>(), expected);
        assert_eq!(found.logical, contents.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
    }
    let (one, two) = (gathered(&repository, "one", usize::MAX), gathered(&repository, "two", usize::MAX));
    // The same backup twice: neither alone is worth anything but its own map's root, and it shares all of its data.
    assert_eq!((two.by_backup[0].unique, two.by_backup[0].shared), (0, two.by_backup[0].data));
    // 100 KiB of noise that nothing else has, and what names it.
    assert!((100 << 10..110 << 10).contains(&one.by_backup[2].unique), "{one:?}");
    assert_eq!(one.by_backup[2].shared, 0);
    assert_eq!((two.by_backup[2].data, two.by_backup[2].unique), (0, 0));
    assert_eq!(one.missing_chunks, 0);
    assert!(one.compressed < one.data && one.distinct < one.data && one.data < one.logical, "{one:?}");
}

#[test]
fn memory_that_holds_a_few_chunks_only_gives_the_same_numbers() {
    let (repository, ..) = world();
    let whole = serde_json::to_value(gathered(&repository, "one", usize::MAX)).unwrap();
    for chunks in [1, 10, 40] {
        assert_eq!(serde_json::to_value(gathered(&repository, "one", chunks)).unwrap(), whole, "{chunks}");
    }
}

#[test]
fn what_is_said_of_a_store_that_is_nearly_full() {
    let stage = Stage::new();
    // Whatever this medium has: less than all of it is free, and more than nothing.
    let run = stage
        .run(&["backup", "web1", "--warn-free", "100", "--json"])
        .ended(3)
        .said("of the store's filesystem are free");
    let space = run.json_lines().into_iter().find(|line| line.get("space").is_some()).unwrap();
    assert_eq!((&space["space"]["below"], &space["space"]["is_urgent"]), (&100.0.into(), &true.into()), "{space}");
    // Below a threshold that is not the last it is a word, not a warning.
    let run = stage.run(&["stats", "--warn-free", "100,0"]).ok();
    assert!(run.stderr.starts_with("only "), "{run:?}");
    let run = stage.run(&["stats", "-q", "--warn-free", "100,0"]).ok();
    assert_eq!(run.stderr, "");
    stage.run_with("ABBILD_WARN_FREE", "100", &["stats"]).ended(3).said("abbild prune");
    let run = stage.run_with("ABBILD_WARN_FREE", "0", &["backup", "web1"]);
    assert!(!run.stderr.contains("free"), "{run:?}");
    stage.run(&["stats", "--warn-free", "most"]).ended(2).said("such as 30,20,10");
}

#[test]
fn the_table_of_a_machine_lines_up() {
    let stage = Stage::new();
    stage.backup("base");
    stage.backup("current");
    let run = stage.run(&["stats", "web1", "--warn-free", "0"]).ok();
    assert!(run.stdout.starts_with("2 backups of 1 machine\n"), "{run:?}");
    assert!(run.stdout.contains("not enough history"), "{run:?}");
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{run:?}");
    let titles: Vec<&str> =
        run.stdout.lines().filter(|line| line.starts_with("ID ") || line.starts_with("WEEK ")).collect();
    assert_eq!(titles.len(), 2, "{run:?}");
    let answer = stage.run(&["stats", "web1", "--json", "--warn-free", "0"]).ok().json();
    assert_eq!(answer["by_backup"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(answer["growth"]["weeks"][0]["backups"], 2, "{answer}");
    assert!(answer["growth"]["bytes_per_day"].is_null() && answer["days_left"].is_null(), "{answer}");
    stage.run(&["stats", "web2"]).ended(1).said("web1@latest");
}
