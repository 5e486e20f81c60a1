//! What the fuzzer kept and what it found, judged again: `fuzz/corpus` and `fuzz/finds`, through the same judges.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fuzz_targets::TARGETS;
use crate::fuzz_targets::stage::{Content, Entry, Plan, REPAIR, decode, encode};

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
/// Longest one input may take. The fuzzer allows 10 s; this is for inputs that were kept because they are quick.
const INPUT_SECONDS_MAX: u64 = 5;

/// The files of `fuzz/KIND/TARGET`, in a fixed order.
fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(FUZZ).join(kind).join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Judges every input of every target; panics with the names of all that break a promise.
fn replay(kind: &str) -> usize {
    let mut broken = Vec::new();
    let mut count = 0;
    for (target, judge) in TARGETS {
        for file in inputs(kind, target) {
            let input = fs::read(&file).unwrap();
            let begun = Instant::now();
            let is_kept = catch_unwind(|| judge(&input)).is_ok();
            if !is_kept || begun.elapsed() > Duration::from_secs(INPUT_SECONDS_MAX) {
                broken.push(format!("{} ({:?})", file.display(), begun.elapsed()));
            }
            count += 1;
        }
    }
    assert!(broken.is_empty(), "{} of {count} inputs break a promise:\n{}", broken.len(), broken.join("\n"));
    count
}

#[test]
fn finds_stay_repaired() {
    replay("finds");
}

#[test]
fn the_kept_corpora_break_no_promise() {
    let count = replay("corpus");
    let without: Vec<_> = TARGETS.iter().filter(|(target, _)| inputs("corpus", target).is_empty()).collect();
    assert!(without.is_empty() && count > 0, "targets without a corpus: {without:?}");
}

/// A folder that belongs to no target would never be replayed.
#[test]
fn every_folder_is_a_targets() {
    let known: BTreeSet<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
    assert_eq!(known.len(), TARGETS.len(), "a name of its own for each target");
    for kind in ["corpus", "finds", "dictionaries"] {
        for entry in fs::read_dir(Path::new(FUZZ).join(kind)).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(known.contains(name), "{} is no target's", path.display());
        }
    }
}

#[test]
fn folders_round_trip_and_nonsense_is_one_too() {
    let mut bytes = vec![0; 4096 + 700];
    bytes[1030] = 7;
    bytes[4796 - 1] = 9;
    let file = Content::file(&bytes);
    let Content::File(len, records) = &file else { panic!("{file:?}") };
    assert_eq!(
        (*len, records.iter().map(|(at, run)| (*at, run.len())).collect::<Vec<_>>()),
        (4796, vec![(1024, 7), (4608, 188)])
    );
    let entry = |name: &str, content| Entry { name: name.to_string(), content };
    let plan = Plan {
        options: REPAIR,
        entries: vec![
            entry("a", file),
            entry("Snapshots/b", Content::Link("../a".into())),
            entry("c", Content::Folder),
        ],
    };
    assert_eq!(decode(&encode(&plan)), plan);
    assert_eq!(decode(&[]), Plan::default());
    let names: Vec<String> =
        decode(b"\x00\x02..\0\0\0\x05/a/\x01.\0\0\0").entries.into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["_", "_/a/_."], "nothing leads out of the folder");
}
