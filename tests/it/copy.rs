//! "A second repository has what the first one has": copies restore to the original's bytes, cost what changed, and live
//! beside backups and prunes on both sides.

use std::sync::Arc;

use abbild::ops::copy::{Copier, CopyError, Selection, Verdict};
use abbild::ops::definition_file;
use abbild::repo::ids::BackupId;
use abbild::repo::manifest::{Manifest, Origin};
use abbild::repo::pack::reader;
use abbild::repo::run::Committed;
use abbild::repo::seal::Kind;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::{RepoError, Repository, listed_packs, pack, session};

use crate::prune::{forget_one, prune_now};
use crate::world::{RawMachine, content_of, create_on, full_check, noise, open_on, quiet, small_disk};

/// A backup of the source, and what became of its copy.
pub type Tried = (BackupId, Result<Committed, CopyError>);

/// Copies all that is not there yet, as the command does: up to the first error that is not of one backup. Gives what became
/// of each that was tried.
pub fn copy_all(from: &Arc<Repository>, to: &Arc<Repository>, verify: bool) -> Result<Vec<Tried>, CopyError> {
    let no = false.into();
    let mut copier = Copier::begin(from, to, quiet(&no))?;
    let plan = copier.plan(&Selection::default());
    let mut tried = Vec::new();
    for (id, _) in plan.into_iter().filter(|(_, verdict)| *verdict == Verdict::Copy) {
        let copied = copier.copy(id, verify, quiet(&no));
        let goes_on = copied.as_ref().err().is_none_or(CopyError::is_of_one_backup);
        tried.push((id, copied));
        if !goes_on {
            break;
        }
    }
    copier.end(); // what goes wrong here takes nothing back
    Ok(tried)
}

/// The same where all must go well; gives the copies' manifests, oldest first.
#[track_caller]
fn copies(from: &Arc<Repository>, to: &Arc<Repository>) -> Vec<Manifest> {
    let all = copy_all(from, to, true).unwrap();
    all.into_iter().map(|(id, copied)| copied.unwrap_or_else(|error| panic!("{id}: {error:?}")).manifest).collect()
}

#[track_caller]
fn is_sound(fs: &MemFs) {
    let report = full_check(&open_on(fs).unwrap()).unwrap();
    assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
}

#[track_caller]
fn restores(fs: &MemFs, backup: BackupId, content: &[u8]) {
    let found = content_of(&open_on(fs).unwrap(), backup);
    assert!(found.as_ref().is_ok_and(|found| found == content), "{:?}", found.err());
}

/// Some segments of which few change from day to day.
fn days(count: u64) -> Vec<Vec<u8>> {
    let base = noise(12 << 20, 1);
    let day = |day: u64| {
        let mut disk = base.clone();
        disk[(9 << 20)..(9 << 20) + 4096].copy_from_slice(&noise(4096, 100 + day));
        disk
    };
    (0..count).map(day).collect()
}

#[test]
fn copies_hold_what_the_backups_hold_under_other_keys() {
    let (here, there) = (MemFs::new(), MemFs::new());
    let (from, to) = (create_on(&here), create_on(&there));
    let contents = [small_disk(1), small_disk(2)];
    let machine = RawMachine::new(&contents[0]);
    let mut originals = vec![machine.back_up(&from).unwrap().manifest];
    machine.write(&contents[1]);
    originals.push(machine.back_up(&from).unwrap().manifest);

    let made = copies(&from, &to);
    assert_eq!(made.len(), 2);
    for ((original, copy), content) in originals.iter().zip(&made).zip(&contents) {
        let origin = Origin { repository: from.config().repository, backup: original.backup };
        assert_eq!(copy.copied_from, Some(origin));
        assert_ne!(copy.backup, original.backup);
        assert_ne!(copy.disks[0].root, original.disks[0].root, "ids of another repository mean nothing there");
        // All that is said of the machine stays.
        let as_original = Manifest {
            backup: original.backup,
            copied_from: None,
            finished: original.finished,
            parent: original.parent,
            statistics: original.statistics,
            disks: original.disks.clone(),
            files: original.files.clone(),
            session: original.session,
            generation: original.generation,
            ..copy.clone()
        };
        assert_eq!(as_original, *original);
        assert_eq!(copy.disks[0].layers, original.disks[0].layers);
        restores(&there, copy.backup, content);
    }
    assert_eq!(copies(&from, &to), [], "what is there is not copied again");
    // Back to where it came from, and on to a third place and back from there: one backup, wherever it goes.
    assert_eq!(copies(&to, &from), []);
    let third = create_on(&MemFs::new());
    let on = copies(&to, &third);
    assert_eq!(
        on.iter().map(|copy| copy.copied_from).collect::<Vec<_>>(),
        made.iter().map(|copy| copy.copied_from).collect::<Vec<_>>()
    );
    assert_eq!(copies(&third, &from).len() + copies(&from, &third).len(), 0);
    is_sound(&there);
    assert_eq!(session::ids(from.store()).unwrap().len() + session::ids(to.store()).unwrap().len(), 0);
}

#[test]
fn definition_files_are_copied_and_taken_over() {
    let (from, to) = (create_on(&MemFs::new()), create_on(&MemFs::new()));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("guest.raw"), noise(1 << 20, 1)).unwrap();
    let vmx = "displayName = \"web\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"guest.vmdk\"\n";
    std::fs::write(folder.path().join("web.vmx"), vmx).unwrap();
    let vmdk = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 2048 FLAT \"guest.raw\" 0\n";
    std::fs::write(folder.path().join("guest.vmdk"), vmdk).unwrap();
    let machine = abbild::ops::machines::read(&folder.path().join("web.vmx")).unwrap();
    let options = abbild::ops::backup::BackupOptions {
        full_read: true,
        tags: vec!["gold".parse().unwrap()],
        ..Default::default()
    };
    for _ in 0..2 {
        abbild::ops::backup::backup(&from, &machine, &options, quiet(&false.into())).unwrap();
    }
    let made = copies(&from, &to);
    assert_eq!(made[0].tags, ["gold"]);
    assert!(!made[0].files.is_empty());
    for copy in &made {
        let file = copy.files.iter().find(|file| file.name == "web.vmx").unwrap();
        assert_eq!(definition_file::read(&to, file).unwrap(), vmx.as_bytes());
    }
    assert_eq!(made[0].files, made[1].files);
}

#[test]
fn a_copy_costs_what_changed() {
    let (here, there) = (MemFs::new(), MemFs::new());
    let (from, to) = (create_on(&here), create_on(&there));
    let contents = days(3);
    let machine = RawMachine::new(&contents[0]);
    for content in &contents {
        machine.write(content);
        machine.back_up(&from).unwrap();
    }
    let made = copies(&open_on(&here).unwrap(), &to);
    let read: Vec<u64> = made.iter().map(|copy| copy.statistics.read).collect();
    assert_eq!(read, [12 << 20, 4 << 20, 4 << 20], "one segment of three differs");
    assert_eq!(made[2].parent, Some(made[1].backup));
    assert_eq!(made[2].statistics.unchanged, 8 << 20);
    assert!(made[2].statistics.new < 300 << 10, "{:?}", made[2].statistics);
    // Only what is missing is copied, wherever it lies in time, and builds on what is nearest.
    forget_one(&to, made[1].backup).unwrap();
    prune_now(&to).unwrap();
    let again = copies(&from, &to);
    assert_eq!((again.len(), again[0].parent, again[0].statistics.read), (1, Some(made[0].backup), 4 << 20));
    restores(&there, again[0].backup, &contents[1]);
    // Cut by the destination's own table: a backup made there finds the chunks, and builds on the copy.
    let direct = machine.back_up(&to).unwrap().manifest;
    assert!(direct.statistics.new < 100 << 10, "{:?}", direct.statistics);
    restores(&there, direct.backup, &contents[2]);
    is_sound(&there);
}

#[test]
fn what_was_forgotten_on_either_side_is_not_copied() {
    let (from, to) = (create_on(&MemFs::new()), create_on(&MemFs::new()));
    let machine = RawMachine::new(&noise(64 << 10, 1));
    let ids: Vec<BackupId> = (0..3).map(|_| machine.back_up(&from).unwrap().manifest.backup).collect();
    forget_one(&from, ids[0]).unwrap();
    let made = copies(&from, &to);
    assert_eq!(made.len(), 2);
    forget_one(&to, made[0].backup).unwrap();
    assert_eq!(copies(&from, &to).len(), 0);
    let no = false.into();
    let mut copier = Copier::begin(&from, &to, quiet(&no)).unwrap();
    let named = Selection { backups: vec![ids[1]], ..Selection::default() };
    assert_eq!(copier.plan(&named), [(ids[1], Verdict::Copy)]);
    copier.copy(ids[1], false, quiet(&no)).unwrap();
    let same = Copier::begin(&from, &from, quiet(&no)).map(drop);
    assert!(matches!(same, Err(CopyError::SameRepository { .. })));
}

#[test]
fn a_damaged_chunk_costs_its_backups_and_no_others() {
    let (here, there) = (MemFs::new(), MemFs::new());
    let (from, to) = (create_on(&here), create_on(&there));
    let contents = [noise(300 << 10, 1), noise(300 << 10, 2), noise(300 << 10, 3)];
    let machines: Vec<RawMachine> = contents.iter().map(|content| RawMachine::new(content)).collect();
    let ids: Vec<BackupId> = machines.iter().map(|machine| machine.back_up(&from).unwrap().manifest.backup).collect();
    let mut damaged = None;
    for id in listed_packs(from.store()).unwrap().into_keys() {
        let name = pack::object_name(id);
        let mut bytes = from.store().read(&name, 1 << 30).unwrap();
        bytes[100] ^= 1;
        let trial = here.snapshot();
        let store = crate::world::store_on(&trial).unwrap();
        store.remove(&name).unwrap();
        store.put(&name, &bytes).unwrap();
        let is_hit = |id| content_of(&open_on(&trial).unwrap(), id).is_err();
        if reader::read_record(store.as_ref(), from.keys(), id).unwrap().kind == Kind::DataPack && is_hit(ids[1]) {
            damaged = Some(trial);
        }
    }
    let damaged = damaged.expect("a pack of the second machine's");
    let outcomes = copy_all(&open_on(&damaged).unwrap(), &to, false).unwrap();
    assert_eq!(outcomes.len(), 3);
    for (id, outcome) in outcomes {
        match outcome {
            Ok(copied) => {
                let number = ids.iter().position(|known| *known == id).unwrap();
                restores(&there, copied.manifest.backup, &contents[number]);
            }
            Err(CopyError::Source(error @ RepoError::Damaged { .. })) => {
                assert_eq!(id, ids[1]);
                assert!(error.to_string().contains("packs/"), "{error}");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(to.backup_ids().unwrap().len(), 2, "nothing half done is to be seen");
    assert_eq!(session::ids(to.store()).unwrap().len(), 0);
    // Once the source is whole again, the rest goes on.
    assert_eq!(copies(&from, &to).len(), 1);
    is_sound(&there);
}

#[test]
fn backups_and_prunes_go_on_beside_copies_on_both_sides() {
    let (here, there) = (MemFs::new(), MemFs::new());
    let (from, to) = (create_on(&here), create_on(&there));
    let machine = RawMachine::new(b"");
    let mut contents = Vec::new();
    let mut back_up = |repository: &Arc<Repository>, seed: u64| {
        let content = [noise(200 << 10, 7), noise(200 << 10, seed)].concat();
        machine.write(&content);
        contents.push((machine.back_up(repository).unwrap().manifest.backup, content));
    };
    (0..6).for_each(|seed| back_up(&from, seed));
    (100..103).for_each(|seed| back_up(&to, seed));
    let ids: Vec<BackupId> = contents.iter().map(|(id, _)| *id).collect();

    let no = false.into();
    let mut copier = Copier::begin(&from, &to, quiet(&no)).unwrap();
    // The source forgets what is about to be copied, and prunes twice; the destination forgets what copies build on.
    forget_one(&from, ids[1]).unwrap();
    forget_one(&from, ids[4]).unwrap();
    for _ in 0..2 {
        let report = prune_now(&open_on(&here).unwrap()).unwrap();
        assert_eq!(report.deleted.objects, 0, "a copy is at work: {report:?}");
    }
    let mut made = Vec::new();
    for (number, (id, _)) in copier.plan(&Selection::default()).into_iter().enumerate() {
        let copied = copier.copy(id, true, quiet(&no)).unwrap().manifest.backup;
        made.push((copied, contents.iter().find(|(known, _)| *known == id).unwrap().1.clone()));
        if number == 2 {
            forget_one(&to, made[2].0).unwrap();
            forget_one(&to, ids[6]).unwrap();
        }
        prune_now(&open_on(&there).unwrap()).unwrap();
    }
    assert_eq!(copier.end(), [""; 0]);
    assert_eq!(made.len(), 6, "what was there when it was looked is copied");
    made.remove(2);
    for (copy, content) in &made {
        restores(&there, *copy, content);
    }
    assert!(prune_now(&open_on(&here).unwrap()).unwrap().deleted.objects > 0);
    prune_now(&open_on(&there).unwrap()).unwrap();
    for (copy, content) in &made {
        restores(&there, *copy, content);
    }
    is_sound(&here);
    is_sound(&there);
}

#[test]
fn copies_backups_and_prunes_at_once() {
    let (here, there) = (MemFs::new(), MemFs::new());
    create_on(&here);
    create_on(&there);
    let machine = RawMachine::new(b"");
    let content = |seed: u64| [noise(100 << 10, 7), noise(100 << 10, seed)].concat();
    let mut originals = Vec::new();
    for seed in 0..4 {
        machine.write(&content(seed));
        originals.push((machine.back_up(&open_on(&here).unwrap()).unwrap().manifest.backup, content(seed)));
    }
    let pruners = [&here, &there];
    std::thread::scope(|scope| {
        for fs in pruners {
            scope.spawn(move || (0..12).for_each(|_| drop(prune_now(&open_on(fs).unwrap()).unwrap())));
        }
        scope.spawn(|| {
            let (other, repository) = (RawMachine::new(b""), open_on(&there).unwrap());
            for seed in 50..56 {
                other.write(&content(seed));
                let id = other.back_up(&repository).unwrap().manifest.backup;
                forget_one(&repository, id).unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| copy_all(&open_on(&here).unwrap(), &open_on(&there).unwrap(), true).unwrap());
        }
    });
    let to = open_on(&there).unwrap();
    let manifests = to.manifests(&mut |id, error| panic!("{id}: {error}")).unwrap();
    for (original, content) in &originals {
        let copies = manifests.iter().filter(|copy| copy.copied_from.is_some_and(|origin| origin.backup == *original));
        let copies: Vec<_> = copies.collect();
        assert!(!copies.is_empty(), "copied by one of the two, or by both");
        copies.iter().for_each(|copy| restores(&there, copy.backup, content));
    }
    is_sound(&here);
    is_sound(&there);
}
