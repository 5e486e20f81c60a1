//! "Prune takes what nothing needs, and nothing else": forgotten backups, waste, what dead runs left; beside writers at
//! every step of theirs, and with clocks that lie.

use std::sync::Arc;

use abbild::ops::OpsError;
use abbild::ops::forget;
use abbild::ops::prune::{PruneOptions, PruneReport, prune};
use abbild::repo::gc::{forgotten, records, trash};
use abbild::repo::ids::BackupId;
use abbild::repo::intake::{self, State};
use abbild::repo::manifest::Manifest;
use abbild::repo::session::OpenSession;
use abbild::repo::store;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::{RepoError, Repository, listed_packs};
use jiff::{SignedDuration, Timestamp};

use crate::world::{RawMachine, content_of, create_on, full_check, noise, open_on, quiet, small_disk};

/// Prunes down to the last wasted byte.
pub fn prune_now(repository: &Arc<Repository>) -> Result<PruneReport, OpsError> {
    prune_at(repository, Timestamp::now())
}

/// The same, by a clock that says `now`.
pub fn prune_at(repository: &Arc<Repository>, now: Timestamp) -> Result<PruneReport, OpsError> {
    let options = PruneOptions { max_unused_percent: 0.0, dry_run: false, now };
    prune(repository, &options, quiet(&false.into()))
}

pub fn forget_one(repository: &Repository, backup: BackupId) -> Result<(), OpsError> {
    let spared = forget::carry_out(repository, [backup], &mut |_| ())?;
    assert_eq!(spared, [], "nothing is pinned here");
    Ok(())
}

/// Brings the one forgotten backup back.
fn undo(repository: &Repository) -> Result<(), OpsError> {
    let place = forgotten::list(repository.store()).unwrap().pop().expect("one is forgotten");
    let manifest = forgotten::load(repository, &place).unwrap();
    forget::undo(repository, &place, &manifest, quiet(&false.into()))
}

#[track_caller]
fn restores(fs: &MemFs, id: BackupId, expected: &[u8]) {
    let found = content_of(&open_on(fs).unwrap(), id);
    assert!(found.as_ref().is_ok_and(|found| found == expected), "{:?}", found.err());
}

#[track_caller]
fn is_sound(fs: &MemFs) {
    let report = full_check(&open_on(fs).unwrap()).unwrap();
    assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
}

fn stored(repository: &Repository) -> u64 {
    let trashed: u64 = trash::list(repository.store()).unwrap().iter().map(|pack| pack.len).sum();
    trashed + listed_packs(repository.store()).unwrap().values().sum::<u64>()
}

/// Two backups of one machine that share half their chunks.
struct Two {
    fs: MemFs,
    repository: Arc<Repository>,
    machine: RawMachine,
    ids: [BackupId; 2],
    contents: [Vec<u8>; 2],
}

fn two() -> Two {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let contents = [noise(1 << 20, 1), [noise(512 << 10, 1), noise(512 << 10, 2)].concat()];
    let machine = RawMachine::new(&contents[0]);
    let first = machine.back_up(&repository).unwrap().manifest.backup;
    machine.write(&contents[1]);
    let second = machine.back_up(&repository).unwrap().manifest.backup;
    Two { fs, repository, machine, ids: [first, second], contents }
}

#[test]
fn what_only_a_forgotten_backup_needed_is_freed_and_the_rest_restores() {
    let Two { fs, repository, ids, contents, machine } = two();
    let before = stored(&repository);
    let idle = prune_now(&repository).unwrap();
    assert_eq!((idle.unneeded.objects, idle.repacked.objects, idle.deleted.objects), (0, 0, 0), "{idle:?}");
    forget_one(&repository, ids[0]).unwrap();
    let plan = prune(
        &repository,
        &PruneOptions { max_unused_percent: 0.0, dry_run: true, now: Timestamp::now() },
        quiet(&false.into()),
    )
    .unwrap();
    assert_eq!(stored(&repository), before, "a dry run changes nothing");
    let report = prune_now(&repository).unwrap();
    assert_eq!((plan.unneeded, plan.repacked), (report.unneeded, report.repacked), "it does what it said");
    assert!(report.repacked.objects > 0 && report.forgotten == 1, "{report:?}");
    assert!(stored(&repository) < before - (400 << 10), "{} of {before}: {report:?}", stored(&repository));
    restores(&fs, ids[1], &contents[1]);
    assert!(content_of(&repository, ids[1]).unwrap() == contents[1], "the pruning host's own cache is right");
    is_sound(&fs);
    assert!(forgotten::list(repository.store()).unwrap().is_empty());
    let again = prune_now(&repository).unwrap();
    assert_eq!((again.unneeded.objects, again.repacked.objects, again.deleted.objects), (0, 0, 0), "{again:?}");
    let next = machine.back_up(&repository).unwrap().manifest;
    assert!(next.warnings.is_empty(), "{:?}", next.warnings);
    restores(&fs, next.backup, &contents[1]);
}

#[test]
fn a_host_whose_cache_is_older_than_the_prune_notices_without_alarm() {
    let Two { fs, repository, ids, contents, machine } = two();
    let elsewhere = open_on(&fs).unwrap();
    assert!(content_of(&elsewhere, ids[1]).unwrap() == contents[1]);
    forget_one(&repository, ids[0]).unwrap();
    prune_now(&repository).unwrap();
    assert!(content_of(&elsewhere, ids[1]).unwrap() == contents[1], "a reader finds what was written anew");
    machine.write(&contents[0]);
    let next = machine.back_up(&elsewhere).unwrap().manifest;
    assert!(next.warnings.is_empty(), "{:?}", next.warnings);
    restores(&fs, next.backup, &contents[0]);
    restores(&fs, ids[1], &contents[1]);
    is_sound(&fs);
}

#[test]
fn while_another_is_at_work_nothing_is_deleted_and_undo_brings_all_back() {
    let Two { fs, repository, ids, contents, .. } = two();
    let other = open_on(&fs).unwrap();
    let session = OpenSession::begin(other.store(), other.keys(), "backup").unwrap();
    let before = stored(&repository);
    forget_one(&repository, ids[0]).unwrap();
    for _ in 0..2 {
        let report = prune_now(&repository).unwrap();
        assert_eq!((report.deleted.objects, report.forgotten, report.at_work.len()), (0, 0, 1), "{report:?}");
    }
    assert!(stored(&repository) >= before && !trash::list(repository.store()).unwrap().is_empty());
    restores(&fs, ids[1], &contents[1]);
    undo(&repository).unwrap();
    restores(&fs, ids[0], &contents[0]);
    is_sound(&fs);
    session.end().unwrap();
    prune_now(&repository).unwrap();
    restores(&fs, ids[0], &contents[0]);
    restores(&fs, ids[1], &contents[1]);
    assert_eq!(trash::list(repository.store()).unwrap(), []);
    assert!(records::closings(repository.store(), repository.keys()).unwrap().len() <= 1);
    is_sound(&fs);
}

#[test]
fn what_a_prune_deleted_cannot_be_brought_back_and_is_not_listed() {
    let Two { fs, repository, ids, .. } = two();
    forget_one(&repository, ids[0]).unwrap();
    let place = forgotten::list(repository.store()).unwrap().pop().unwrap();
    let manifest = forgotten::load(&repository, &place).unwrap();
    prune_now(&repository).unwrap();
    assert!(forget::undo(&repository, &place, &manifest, quiet(&false.into())).is_err());
    assert_eq!(open_on(&fs).unwrap().backup_ids().unwrap(), [ids[1]]);
}

/// A writer stores `content` in a session, and `meanwhile` happens at one of two moments: after it has stored all, or when
/// it has proven all and is about to publish.
fn write_with(
    repository: &Arc<Repository>,
    template: &Manifest,
    content: &[u8],
    moment: usize,
    meanwhile: &mut dyn FnMut(),
) -> Result<BackupId, RepoError> {
    let state = State::default();
    repository.sync_index(&mut |_| {})?;
    let meanwhile = std::cell::RefCell::new(meanwhile);
    let committed = intake::run::<RepoError>(
        repository,
        &state,
        "backup",
        |intake| {
            let mut writer = intake.writer();
            let list = writer.store_segment(content)?;
            let node = writer.store_map(&list.0)?;
            let root = writer.store_map(&node.0)?;
            writer.flush()?;
            let mut manifest = template.clone();
            manifest.backup = intake.backup_id();
            manifest.disks[0].root = root;
            manifest.disks[0].size = content.len() as u64;
            manifest.files.clear();
            if moment == 0 {
                (meanwhile.borrow_mut())();
            }
            Ok(manifest)
        },
        |_| {
            if moment == 1 {
                (meanwhile.borrow_mut())();
            }
        },
    )?;
    Ok(committed.manifest.backup)
}

#[test]
fn a_writer_that_relies_on_what_is_forgotten_and_pruned_meanwhile_publishes_what_restores() {
    for moment in 0..2 {
        for clock in [SignedDuration::ZERO, SignedDuration::from_hours(-24 * 3650)] {
            let Two { fs, repository, ids, contents, .. } = two();
            let template = repository.manifest(ids[0]).unwrap();
            let pruner = open_on(&fs).unwrap();
            let mut meanwhile = || {
                ids.iter().for_each(|id| forget_one(&pruner, *id).unwrap());
                for _ in 0..3 {
                    let report = prune_at(&pruner, Timestamp::now() + clock).unwrap();
                    assert_eq!(report.deleted.objects, 0, "the writer is at work: {report:?}");
                }
            };
            let written = write_with(&repository, &template, &contents[0], moment, &mut meanwhile).unwrap();
            restores(&fs, written, &contents[0]);
            prune_now(&pruner).unwrap();
            restores(&fs, written, &contents[0]);
            assert!(content_of(&repository, written).unwrap() == contents[0]);
            assert_eq!(pruner.backup_ids().unwrap(), [written]);
            is_sound(&fs);
        }
    }
}

#[test]
fn a_writer_that_was_taken_for_dead_notices_and_leaves_no_backup_behind() {
    for moment in 0..2 {
        let Two { fs, repository, ids, contents, .. } = two();
        let template = repository.manifest(ids[0]).unwrap();
        let pruner = open_on(&fs).unwrap();
        let mut meanwhile = || {
            forget_one(&pruner, ids[0]).unwrap();
            // Ten years from now every session is over.
            for _ in 0..2 {
                prune_at(&pruner, Timestamp::now() + SignedDuration::from_hours(24 * 3650)).unwrap();
            }
        };
        let outcome = write_with(&repository, &template, &contents[0], moment, &mut meanwhile);
        assert!(matches!(outcome, Err(RepoError::SessionLost { .. })), "{moment}: {outcome:?}");
        assert_eq!(open_on(&fs).unwrap().backup_ids().unwrap(), [ids[1]]);
        restores(&fs, ids[1], &contents[1]);
        let again = write_with(&repository, &template, &contents[0], moment, &mut || ()).unwrap();
        restores(&fs, again, &contents[0]);
        is_sound(&fs);
    }
}

#[test]
fn what_a_dead_run_stored_goes_and_what_a_living_one_stored_stays() {
    let Two { fs, repository, ids, contents, machine } = two();
    let template = repository.manifest(ids[0]).unwrap();
    let state = State::default();
    let other = open_on(&fs).unwrap();
    let before = stored(&repository);
    // A run that fails after it has stored its packs, beside one that lives.
    let session = OpenSession::begin(other.store(), other.keys(), "backup").unwrap();
    let failed = intake::run::<RepoError>(
        &other,
        &state,
        "backup",
        |intake| {
            let mut writer = intake.writer();
            for (seed, _) in (70..).zip(0..300) {
                writer.store_segment(&noise(256 << 10, seed))?; // more than one pack
            }
            writer.flush()?;
            Err(RepoError::Interrupted)
        },
        |_| (),
    );
    assert!(failed.is_err());
    let report = prune_now(&repository).unwrap();
    assert!(report.left.objects > 0 && report.unneeded.objects == 0, "{report:?}");
    // Another one begins; the first one ends: what was seen before it did is nobody's.
    let later = OpenSession::begin(other.store(), other.keys(), "backup").unwrap();
    session.end().unwrap();
    let report = prune_now(&repository).unwrap();
    assert!(report.left.objects == 0 && report.unneeded.objects > 0 && report.deleted.objects == 0, "{report:?}");
    later.end().unwrap();
    let report = prune_now(&repository).unwrap();
    assert!(report.deleted.objects > 0 && report.waiting.objects == 0, "{report:?}");
    assert!(stored(&repository) <= before);
    drop(template);
    restores(&fs, ids[0], &contents[0]);
    restores(&fs, machine.back_up(&repository).unwrap().manifest.backup, &contents[1]);
    is_sound(&fs);
}

#[test]
fn a_needed_pack_that_lies_in_the_trash_is_read_there_and_brought_back() {
    let Two { fs, repository, ids, contents, machine } = two();
    for (id, _) in listed_packs(repository.store()).unwrap() {
        assert!(trash::put(repository.store(), 1, id).unwrap());
    }
    restores(&fs, ids[0], &contents[0]);
    assert!(content_of(&repository, ids[1]).unwrap() == contents[1], "its cache says that they are in use");
    is_sound(&fs);
    let report = prune_now(&open_on(&fs).unwrap()).unwrap();
    assert!(report.revived > 0 && report.missing_chunks == 0, "{report:?}");
    assert_eq!(trash::list(repository.store()).unwrap(), []);
    is_sound(&fs);
    let next = machine.back_up(&repository).unwrap().manifest;
    restores(&fs, next.backup, &contents[1]);
}

#[test]
fn a_lost_pack_is_named_and_nothing_else_is_lost_by_it() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let content = small_disk(5);
    let machine = RawMachine::new(&content);
    let damaged = machine.back_up(&repository).unwrap().manifest.backup;
    let (data, _) = listed_packs(repository.store()).unwrap().into_iter().max_by_key(|(_, len)| *len).unwrap();
    repository.store().remove(&abbild::repo::pack::object_name(data)).unwrap();
    let next = machine.back_up(&open_on(&fs).unwrap()).unwrap().manifest.backup;
    let pruner = open_on(&fs).unwrap();
    prune_now(&pruner).unwrap();
    restores(&fs, next, &content);
    restores(&fs, damaged, &content); // it was healed by the next one
    // A lost map is another thing: nobody knows what it referred to.
    let packs = listed_packs(repository.store()).unwrap();
    for id in packs.into_keys() {
        let name = abbild::repo::pack::object_name(id);
        let kept = pruner.store().read(&name, 1 << 30).unwrap();
        if kept[8] == 2 {
            pruner.store().remove(&name).unwrap();
        }
    }
    let error = prune_now(&open_on(&fs).unwrap()).unwrap_err();
    assert!(matches!(error, OpsError::Repo(RepoError::MissingChunk { .. })), "{error}");
}

#[test]
fn damage_in_what_prunes_leave_for_each_other_is_named_and_costs_no_backup() {
    let Two { fs, repository, ids, contents, .. } = two();
    let _at_work = abbild::repo::session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
    forget_one(&repository, ids[0]).unwrap();
    prune_now(&repository).unwrap();
    let store = repository.store();
    let mut names = vec![forgotten::list(store).unwrap()[0].name.clone()];
    names.extend(store::names(store, records::TOMBSTONES).unwrap());
    names.extend(store::names(store, records::CLOSINGS).unwrap());
    names.extend(trash::list(store).unwrap().into_iter().map(|pack| pack.name));
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let bytes = store.read(&name, 1 << 30).unwrap();
        for at in [0, 9, 20, 60, bytes.len() - 40, bytes.len() - 1] {
            let damaged = fs.snapshot();
            let repository = open_on(&damaged).unwrap();
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            repository.store().remove(&name).unwrap();
            repository.store().put(&name, &flipped).unwrap();
            let report = full_check(&repository).unwrap();
            assert!(report.faults.iter().any(|fault| fault.what == name.as_str()), "{name}, byte {at}: {report:?}");
            prune_now(&repository).unwrap();
            restores(&damaged, ids[1], &contents[1]);
        }
    }
}
