//! "Flips, truncations, swaps, replays of stored objects": every one is noticed, none restores a wrong byte, and where a
//! second copy exists every one is repaired.
//!
//! `ABBILD_TEST_FLIPS` says how many mutations (the long form is 100 000), `ABBILD_TEST_SEED` which.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use abbild::repo::Repository;
use abbild::repo::ids::BackupId;
use abbild::repo::session;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::store::{ObjectName, ObjectStore};

use crate::processes::number;
use crate::prune::{forget_one, prune_now};
use crate::repair::repair_with;
use crate::world::{Dice, RawMachine, content_of, create_on, full_check, noise, objects, open_on, replace, store_on};

/// Mutations of the short form.
const FLIPS: u64 = 300;

/// A small repository with every kind of object, a sound mirror of it, and objects of another repository.
struct World {
    fs: MemFs,
    mirror: Arc<Repository>,
    objects: Vec<(ObjectName, Vec<u8>)>,
    foreign: Vec<(ObjectName, Vec<u8>)>,
    contents: Vec<(BackupId, Vec<u8>)>,
}

fn small_repository(seed: u64) -> (MemFs, Vec<(BackupId, Vec<u8>)>) {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let machine = RawMachine::new(b"");
    let mut contents = Vec::new();
    for number in 0..2 {
        let content = [noise(20 << 10, seed), vec![0; 40 << 10], noise(8 << 10, seed + number)].concat();
        machine.write(&content);
        contents.push((machine.back_up(&repository).unwrap().manifest.backup, content));
    }
    machine.write(&noise(5 << 10, seed + 50));
    let gone = machine.back_up(&repository).unwrap().manifest.backup;
    let later = machine.back_up(&repository).unwrap().manifest.backup;
    // Somebody is at work: what is pruned stays in the trash, and a closing says so.
    session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
    forget_one(&repository, gone).unwrap();
    forget_one(&repository, later).unwrap();
    prune_now(&repository).unwrap();
    (fs, contents)
}

fn world() -> World {
    let (fs, contents) = small_repository(1);
    let (other, _) = small_repository(3);
    let in_it = |fs: &MemFs| objects(store_on(fs).unwrap().as_ref()).into_iter().collect();
    World { mirror: open_on(&fs.snapshot()).unwrap(), objects: in_it(&fs), foreign: in_it(&other), contents, fs }
}

fn folder(name: &ObjectName) -> &str {
    name.as_str().split('/').next().unwrap()
}

/// Damages one object, or two; says how, `None` if what was drawn changes nothing or cannot be noticed by anybody.
fn mutate(world: &World, store: &dyn ObjectStore, dice: &mut Dice) -> Option<(&'static str, String)> {
    let (name, bytes) = &world.objects[dice.below(world.objects.len())];
    let others = |objects: &[(ObjectName, Vec<u8>)]| -> Vec<usize> {
        (0..objects.len()).filter(|at| folder(&objects[*at].0) == folder(name) && objects[*at].0 != *name).collect()
    };
    let mut changed = bytes.clone();
    let kind = match dice.below(8) {
        0..=2 => {
            let bit = dice.below(bytes.len() * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            "flip"
        }
        3 => {
            changed.truncate(dice.below(bytes.len()));
            "truncation"
        }
        4 => {
            let at = dice.below(bytes.len());
            let end = (at + 1 + dice.below(4096)).min(bytes.len());
            changed[at..end].fill(0);
            "zeros"
        }
        5 => {
            changed.extend(vec![0; 1 + dice.below(600)]);
            "extension"
        }
        6 => {
            // In the trash and among the forgotten lie what no backup needs: they are moved there under names of their own.
            let same = others(&world.objects);
            let (other, theirs) = &world.objects[*same.get(dice.below(same.len()))?];
            if theirs == bytes {
                return None; // copies of one object
            }
            replace(store, other, bytes);
            replace(store, name, theirs);
            return Some(("swap", format!("{name} and {other}")));
        }
        _ => {
            let same = others(&world.foreign);
            changed.clone_from(&world.foreign[*same.get(dice.below(same.len()))?].1);
            "foreign object"
        }
    };
    if changed == *bytes {
        return None;
    }
    replace(store, name, &changed);
    Some((kind, name.to_string()))
}

#[derive(Default)]
struct Count {
    tried: u64,
    noticed: u64,
    repaired: u64,
}

#[test]
fn every_mutation_is_noticed_and_repaired_from_a_second_copy() {
    let (wanted, seed) = (number("ABBILD_TEST_FLIPS", FLIPS), number("ABBILD_TEST_SEED", 1));
    let world = world();
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    let began = Instant::now();
    let (mut done, mut round) = (0, 0);
    while done < wanted {
        round += 1;
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let fs = world.fs.snapshot();
        let store = store_on(&fs).unwrap();
        let Some((kind, what)) = mutate(&world, store.as_ref(), &mut dice) else { continue };
        done += 1;
        let when = format!("{kind} of {what} (seed {seed}, round {round})");
        let count = counts.entry(kind).or_default();
        count.tried += 1;
        let repository = open_on(&fs).unwrap_or_else(|error| panic!("{when}: {error}"));
        for (id, content) in &world.contents {
            if let Ok(found) = content_of(&repository, *id) {
                assert!(found == *content, "{when}: wrong bytes were restored");
            }
        }
        let report = repair_with(&repository, Some(&world.mirror));
        assert!(!report.faults.is_empty(), "{when}: nothing said so");
        count.noticed += 1;
        assert!(report.is_sound(), "{when}: not repaired: {report:?}");
        let repository = open_on(&fs).unwrap_or_else(|error| panic!("{when}, repaired: {error}"));
        let after = full_check(&repository).unwrap();
        assert!(after.faults.is_empty() && after.damaged_backups.is_empty(), "{when}, repaired: {after:?}");
        for (id, content) in &world.contents {
            let found = content_of(&repository, *id).unwrap_or_else(|error| panic!("{when}, repaired: {error}"));
            assert!(found == *content, "{when}, repaired: wrong bytes");
        }
        count.repaired += 1;
    }
    for (kind, count) in &counts {
        println!("{kind:14} {:7} tried, {:7} noticed, {:7} repaired", count.tried, count.noticed, count.repaired);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{done} mutations of {} objects, seed {seed}: all noticed, 0 wrong bytes, all repaired; {:.0} a second",
        world.objects.len(),
        done as f64 / seconds
    );
    assert!(wanted < 100 || counts.len() == 6, "every kind of mutation is tried");
}
