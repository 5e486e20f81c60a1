//! "Something is damaged: tell me what I have lost, save what can be saved, and break nothing else."

use std::sync::Arc;

use abbild::ops::backup::{BackupOptions, backup};
use abbild::ops::check::{CheckReport, Part, ReadData, Repair, Share, check, check_and_repair};
use abbild::ops::machines;
use abbild::repo::ids::PackId;
use abbild::repo::index::IndexPlace;
use abbild::repo::keys::{KeyFile, Secret};
use abbild::repo::manifest::Manifest;
use abbild::repo::seal::Kind;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::store::{DirectoryStore, ObjectName};
use abbild::repo::{RepoError, Repository, listed_packs, manifest, pack, parity, quarantine, session};

use crate::prune::prune_now;
use crate::tools;
use crate::world::{
    CHEAP, ROOT, RawMachine, content_of, create_on, full_check, noise, objects, open_on, quiet, replace, small_disk,
    store_on,
};

/// Changes an object.
pub fn damage(fs: &MemFs, name: &ObjectName, change: impl Fn(&mut Vec<u8>)) {
    let store = store_on(fs).unwrap();
    let mut bytes = store.read(name, 1 << 30).unwrap();
    change(&mut bytes);
    replace(store.as_ref(), name, &bytes);
}

/// Repairs with all data read.
pub fn repair_with(repository: &Arc<Repository>, from: Option<&Arc<Repository>>) -> CheckReport {
    let all = ReadData::Percent(100.0);
    check_and_repair(repository, all, Repair::All { from }, quiet(&false.into())).unwrap()
}

fn repair(fs: &MemFs) -> CheckReport {
    repair_with(&open_on(fs).unwrap(), None)
}

/// The pack of that kind with most bytes.
pub fn largest_pack(fs: &MemFs, kind: Kind) -> PackId {
    let repository = open_on(fs).unwrap();
    let packs = listed_packs(repository.store()).unwrap();
    let of_kind = packs.into_iter().filter(|(id, _)| {
        let record = pack::reader::read_record(repository.store(), repository.keys(), *id).unwrap();
        record.kind == kind
    });
    of_kind.max_by_key(|(_, len)| *len).unwrap().0
}

fn names_in(fs: &MemFs, folder: &str) -> Vec<ObjectName> {
    let store = store_on(fs).unwrap();
    objects(store.as_ref()).into_keys().filter(|name| name.as_str().starts_with(folder)).collect()
}

#[track_caller]
fn restores(fs: &MemFs, manifest: &Manifest, expected: &[u8]) {
    let found = content_of(&open_on(fs).unwrap(), manifest.backup);
    assert!(found.as_ref().is_ok_and(|found| found == expected), "{:?}", found.err());
}

#[track_caller]
fn is_sound(fs: &MemFs) {
    let report = full_check(&open_on(fs).unwrap()).unwrap();
    assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
}

fn back_up_whole(machine: &RawMachine, repository: &Arc<Repository>) -> Manifest {
    let options = BackupOptions { full_read: true, ..Default::default() };
    let read = machines::read(&machine.image()).unwrap();
    backup(repository, &read, &options, quiet(&false.into())).unwrap().manifest
}

/// A repository with other keys that has a backup of the same machine.
fn elsewhere(machine: &RawMachine) -> Arc<Repository> {
    let store = Arc::new(DirectoryStore::create_on(MemFs::new(), std::path::Path::new(ROOT)).unwrap());
    let secret = Secret::KeyFile(KeyFile::generate("another key"));
    let repository = Arc::new(Repository::create(store, &secret, "key", CHEAP, |_| IndexPlace::Memory).unwrap());
    machine.back_up(&repository).unwrap();
    repository
}

#[test]
fn what_is_sound_in_a_damaged_pack_is_saved_and_the_rest_is_named() {
    let fs = MemFs::new();
    let (first, second) = (noise(3 << 20, 1), noise(2 << 20, 2));
    let machine = RawMachine::new(&first);
    let one = machine.back_up(&create_on(&fs)).unwrap().manifest;
    machine.write(&second);
    let two = machine.back_up(&open_on(&fs).unwrap()).unwrap().manifest;
    let id = largest_pack(&fs, Kind::DataPack);
    damage(&fs, &pack::object_name(id), |bytes| bytes[1_000_000] ^= 1);

    let before = full_check(&open_on(&fs).unwrap()).unwrap();
    assert_eq!((before.faults.len(), before.damaged_backups.len()), (1, 1), "{before:?}");
    assert!(before.faults[0].remedy.contains("quarantine") && !before.is_sound());
    let report = repair(&fs);
    assert!(report.faults[0].repaired && !report.is_sound(), "{report:?}");
    let done = report.repair.as_ref().unwrap();
    assert!(done.rescued.chunks > 30 && done.quarantined == 2, "the pack, and the segment that named it: {done:?}");
    // One blob is lost, 256 KiB and a chunk at most, and nothing of it but that.
    let [loss] = report.losses.as_slice() else { panic!("{report:?}") };
    assert_eq!((loss.backup, loss.disks.len()), (one.backup, 1));
    let lost = &loss.disks[0];
    assert!(lost.lost_bytes > 0 && lost.lost_bytes < 400 << 10, "{lost:?}");
    assert_eq!(lost.ranges.iter().map(|(_, len)| len).sum::<u64>(), lost.lost_bytes);
    let repository = open_on(&fs).unwrap();
    let disk = repository.disk(&one, 0).unwrap();
    let mut at = 0;
    for (begins, len) in lost.ranges.iter().copied().chain([(first.len() as u64, 0)]) {
        let mut sound = vec![0; usize::try_from(begins - at).unwrap()];
        abbild::disk::Disk::read_at(&disk, abbild::units::GuestOffset(at), &mut sound).unwrap();
        assert!(sound == first[at as usize..begins as usize]);
        at = begins + len;
    }
    restores(&fs, &two, &second);
    // The pack is in quarantine, and no prune takes it there.
    prune_now(&open_on(&fs).unwrap()).unwrap();
    let aside = quarantine::list(store_on(&fs).unwrap().as_ref()).unwrap();
    assert!(aside.iter().any(|object| object.was == pack::object_name(id)), "{aside:?}");
    // The next repair has nothing left to do, and says what is lost all the same.
    let again = repair(&fs);
    assert!(again.faults.is_empty() && again.damaged_backups.len() == 1, "{again:?}");
    assert_eq!(again.repair.unwrap().rescued.chunks, 0);
}

#[test]
fn the_source_heals_what_a_repair_could_not() {
    for whole in [true, false] {
        let fs = MemFs::new();
        let content = noise(3 << 20, 1);
        let machine = RawMachine::new(&content);
        let one = machine.back_up(&create_on(&fs)).unwrap().manifest;
        let id = largest_pack(&fs, Kind::DataPack);
        damage(&fs, &pack::object_name(id), |bytes| bytes[1_000_000] ^= 1);
        let cache = tempfile::tempdir().unwrap();
        let place = |_| IndexPlace::Folder(cache.path().to_owned());
        let open = || Arc::new(Repository::open(store_on(&fs).unwrap(), &crate::world::secret(), place).unwrap());
        assert!(!repair_with(&open(), None).is_sound());
        let next = if whole { back_up_whole(&machine, &open()) } else { machine.back_up(&open()).unwrap().manifest };
        restores(&fs, &next, &content);
        restores(&fs, &one, &content);
        is_sound(&fs);
        assert!(next.statistics.new < 400 << 10, "only what was lost is new: {:?}", next.statistics);
    }
}

#[test]
fn packs_without_head_or_end_still_give_back_what_is_whole() {
    for (what, change) in [
        ("header", (|bytes| bytes[20] ^= 1) as fn(&mut Vec<u8>)),
        ("last byte", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("end", |bytes| bytes.truncate(bytes.len() - 200)),
        ("padding", |bytes| {
            let at = bytes.len() - 125; // the last byte before the trailer
            bytes[at] ^= 1;
        }),
        ("longer", |bytes| bytes.extend([0; 99])),
    ] {
        let fs = MemFs::new();
        let content = small_disk(1);
        let machine = RawMachine::new(&content);
        let one = machine.back_up(&create_on(&fs)).unwrap().manifest;
        for kind in [Kind::DataPack, Kind::MapPack] {
            damage(&fs, &pack::object_name(largest_pack(&fs, kind)), change);
            let report = repair(&fs);
            assert!(report.is_sound() && report.faults.iter().all(|fault| fault.repaired), "{what}: {report:?}");
            restores(&fs, &one, &content);
            is_sound(&fs);
        }
    }
}

#[test]
fn a_second_repository_with_other_keys_heals_data_and_maps() {
    let content = [noise(5 << 20, 1), vec![0; 3 << 20], noise(1 << 20, 2)].concat();
    let machine = RawMachine::new(&content);
    let other = elsewhere(&machine);
    for kinds in [&[Kind::DataPack][..], &[Kind::MapPack], &[Kind::DataPack, Kind::MapPack]] {
        let fs = MemFs::new();
        let one = machine.back_up(&create_on(&fs)).unwrap().manifest;
        for id in kinds.iter().map(|kind| largest_pack(&fs, *kind)).collect::<Vec<_>>() {
            store_on(&fs).unwrap().remove(&pack::object_name(id)).unwrap();
        }
        let report = repair_with(&open_on(&fs).unwrap(), Some(&other));
        let done = report.repair.as_ref().unwrap();
        assert!(report.damaged_backups.is_empty() && done.healed.chunks > 2, "{kinds:?}: {report:?}");
        assert_eq!(done.whole_again.len(), 1);
        restores(&fs, &one, &content);
        is_sound(&fs);
    }
    // What it has at that place is other bytes: nothing is believed.
    let fs = MemFs::new();
    machine.write(&noise(9 << 20, 3));
    machine.back_up(&create_on(&fs)).unwrap();
    store_on(&fs).unwrap().remove(&pack::object_name(largest_pack(&fs, Kind::DataPack))).unwrap();
    let report = repair_with(&open_on(&fs).unwrap(), Some(&other));
    assert_eq!((report.damaged_backups.len(), report.repair.unwrap().healed.chunks), (1, 0));
}

#[test]
fn a_mirror_gives_back_packs_and_manifests() {
    let fs = MemFs::new();
    let content = small_disk(1);
    let machine = RawMachine::new(&content);
    let one = machine.back_up(&create_on(&fs)).unwrap().manifest;
    let mirror = open_on(&fs.snapshot()).unwrap();
    damage(&fs, &manifest::object_name(one.backup), |bytes| bytes[90] ^= 4);
    for name in [Kind::DataPack, Kind::MapPack].map(|kind| pack::object_name(largest_pack(&fs, kind))) {
        damage(&fs, &name, |bytes| bytes.truncate(100));
    }
    // Nobody names these packs any more: nothing can be saved of them but by the mirror.
    for name in names_in(&fs, "index/") {
        damage(&fs, &name, |bytes| bytes[100] ^= 1);
    }
    let report = repair_with(&open_on(&fs).unwrap(), Some(&mirror));
    assert!(report.is_sound() && report.faults.len() == 4, "{report:?}");
    restores(&fs, &one, &content);
    is_sound(&fs);
}

#[test]
fn a_manifest_without_a_mirror_is_put_aside_and_no_longer_stops_a_prune() {
    let fs = MemFs::new();
    let machine = RawMachine::new(&small_disk(1));
    let one = machine.back_up(&create_on(&fs)).unwrap().manifest;
    machine.write(&small_disk(2));
    let two = machine.back_up(&open_on(&fs).unwrap()).unwrap().manifest;
    damage(&fs, &manifest::object_name(one.backup), |bytes| bytes.truncate(90));
    assert!(prune_now(&open_on(&fs).unwrap()).is_err(), "nobody knows what it needs");
    let report = repair(&fs);
    let aside = report.repair.as_ref().unwrap().quarantined;
    assert!(!report.is_sound() && !report.faults[0].repaired && aside == 1, "it is lost: {report:?}");
    prune_now(&open_on(&fs).unwrap()).unwrap();
    restores(&fs, &two, &small_disk(2));
    is_sound(&fs);
}

#[test]
fn configuration_and_slots_are_written_anew_from_their_twins() {
    let pristine = MemFs::new();
    let content = small_disk(1);
    let one = RawMachine::new(&content).back_up(&create_on(&pristine)).unwrap().manifest;
    let other = MemFs::new();
    create_on(&other);
    let foreign = store_on(&other).unwrap().read(&ObjectName::new("config").unwrap(), 9999).unwrap();
    let plain: Vec<ObjectName> =
        ["config", "copies/", "keys/"].iter().flat_map(|folder| names_in(&pristine, folder)).collect();
    assert_eq!(plain.len(), 4);
    for name in &plain {
        for way in ["flipped", "cut", "gone", "foreign"] {
            let fs = pristine.snapshot();
            let store = store_on(&fs).unwrap();
            match way {
                "flipped" => damage(&fs, name, |bytes| bytes[5] ^= 1),
                "cut" => damage(&fs, name, |bytes| bytes.truncate(50)),
                "gone" => store.remove(name).unwrap(),
                _ => replace(store.as_ref(), name, &foreign),
            }
            let report = repair(&fs);
            assert!(report.is_sound() && report.faults.len() == 1, "{name} {way}: {report:?}");
            let stored = |fs: &MemFs| store_on(fs).unwrap().read(name, 9999).unwrap();
            assert!(stored(&fs) == stored(&pristine), "{name} {way}");
            restores(&fs, &one, &content);
            is_sound(&fs);
        }
    }
}

#[test]
fn the_newest_generation_is_never_taken_away() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    session::take_next_generation(repository.store(), repository.keys()).unwrap();
    for name in names_in(&fs, "generations/") {
        damage(&fs, &name, |bytes| bytes[100] ^= 1);
    }
    let report = repair(&fs);
    assert!(report.is_sound() && report.faults.len() == 2, "{report:?}");
    assert_eq!(session::newest_generation(store_on(&fs).unwrap().as_ref()).unwrap(), 3);
    is_sound(&fs);
    // Without any, the next one is above all that was ever heard of.
    for name in names_in(&fs, "generations/") {
        store_on(&fs).unwrap().remove(&name).unwrap();
    }
    assert!(repair(&fs).is_sound());
    assert!(session::newest_generation(store_on(&fs).unwrap().as_ref()).unwrap() >= 1000);
    is_sound(&fs);
}

#[test]
fn a_session_that_is_put_aside_fences_its_owner_off() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let held = session::OpenSession::begin(repository.store(), repository.keys(), "backup").unwrap();
    damage(&fs, &session::session_name(held.id()), |bytes| bytes[100] ^= 1);
    let report = repair(&fs);
    assert!(report.is_sound() && report.faults.len() == 1, "{report:?}");
    assert!(matches!(held.check(), Err(RepoError::SessionLost { .. })));
    is_sound(&fs);
}

#[test]
fn what_was_verified_is_remembered_and_what_was_not_goes_first() {
    let fs = MemFs::new();
    let machine = RawMachine::new(b"");
    create_on(&fs);
    for seed in 0..4 {
        machine.write(&noise(300 << 10, seed));
        machine.back_up(&open_on(&fs).unwrap()).unwrap();
    }
    let repository = open_on(&fs).unwrap();
    let packs = listed_packs(repository.store()).unwrap();
    let (all, quarter) = (packs.len(), packs.len().div_ceil(4));
    let read = |read_data| check(&repository, read_data, quiet(&false.into())).unwrap();
    for round in 1..=4 {
        let report = read(ReadData::Percent(25.0));
        assert_eq!(report.packs_read, quarter);
        assert_eq!(report.verified.packs, all.min(round * quarter), "never the same twice while others wait");
    }
    assert_eq!(read(ReadData::Nothing).verified.bytes, packs.values().sum::<u64>());
    repository.rebuild_index(&mut |_| {}).unwrap();
    let older = |not_since| ReadData::Part(Part { share: Share::Percent(100.0), not_since: Some(not_since) });
    let now = jiff::Timestamp::now().as_second();
    assert_eq!(read(older(now - 3600)).packs_read, 0, "a rebuild forgets nothing");
    assert_eq!(read(older(now + 3600)).packs_read, all);
    assert_eq!(read(ReadData::Part(Part { share: Share::Bytes(1), not_since: None })).packs_read, 1);
    // Damage ends it.
    let id = largest_pack(&fs, Kind::DataPack);
    damage(&fs, &pack::object_name(id), |bytes| bytes[1000] ^= 1);
    assert_eq!(read(ReadData::Percent(100.0)).verified.packs, all - 1);
    // And from now on that pack is read by every check, whatever is asked for.
    assert_eq!(read(ReadData::Nothing).faults.len(), 1);
}

#[test]
fn the_files_of_the_guest_that_are_hit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("var/lib")).unwrap();
    std::fs::create_dir_all(root.join("etc")).unwrap();
    let big = noise(2 << 20, 4);
    std::fs::write(root.join("var/lib/database"), &big).unwrap();
    std::fs::write(root.join("var/lib/other"), noise(1 << 20, 5)).unwrap();
    std::fs::write(root.join("etc/fstab"), "").unwrap();
    tools::blank(folder.path(), "fs.img", 16 << 20);
    tools::run("mke2fs", "e2fsprogs", folder.path(), &["-q", "-t", "ext4", "-d", "root", "fs.img"]);
    let image = std::fs::read(folder.path().join("fs.img")).unwrap();
    let fs = MemFs::new();
    let machine = RawMachine::new(&image);
    let one = machine.back_up(&create_on(&fs)).unwrap().manifest;

    // The blob in which the middle of the database lies.
    let repository = open_on(&fs).unwrap();
    let at = image.windows(64).position(|window| window == &big[1_000_000..1_000_064]).unwrap();
    let disk = repository.disk(&one, 0).unwrap();
    let list = disk.list(at as u64 >> 22).unwrap();
    let (entry, _) = list.entry_at(at & ((4 << 20) - 1));
    let abbild::repo::map::ListEntry::Chunk(chunk, _) = list.entries()[entry] else { panic!("it holds data") };
    let found = repository.locate(chunk, &String::new).unwrap();
    let blob = found.pack.directory.blobs()[found.place.blob as usize];
    damage(&fs, &pack::object_name(found.pack.id), |bytes| bytes[blob.at as usize + 50] ^= 1);

    let report = full_check(&open_on(&fs).unwrap()).unwrap();
    let guest = report.losses[0].disks[0].guest.as_ref().unwrap();
    assert_eq!((guest.files.as_slice(), guest.unknown.len()), (["disk0/var/lib/database".to_owned()].as_slice(), 0));
    // Without the maps nothing is known.
    let maps = largest_pack(&fs, Kind::MapPack);
    store_on(&fs).unwrap().remove(&pack::object_name(maps)).unwrap();
    let report = full_check(&open_on(&fs).unwrap()).unwrap();
    assert_eq!(report.losses[0].disks[0].lost_bytes, image.len() as u64);
    let guest = report.losses[0].disks[0].guest.as_ref().unwrap();
    assert!(guest.files.is_empty() && guest.unknown.len() == 1, "{guest:?}");
}

#[test]
fn a_pack_with_a_recovery_record_is_made_whole_first() {
    let fs = MemFs::new();
    let content = noise(3 << 20, 1);
    let machine = RawMachine::new(&content);
    create_on(&fs);
    parity::set_share(store_on(&fs).unwrap().as_ref(), "20%".parse().unwrap()).unwrap();
    let one = machine.back_up(&open_on(&fs).unwrap()).unwrap().manifest;
    let id = largest_pack(&fs, Kind::DataPack);
    damage(&fs, &pack::object_name(id), |bytes| bytes[1_000_000..1_004_096].fill(0));
    let report = repair(&fs);
    let done = report.repair.as_ref().unwrap();
    assert!(report.is_sound() && done.healed_in_place == 1 && done.rescued.chunks == 0, "{report:?}");
    assert_eq!(names_in(&fs, "quarantine/").len(), 1, "the damaged one is kept");
    restores(&fs, &one, &content);
    is_sound(&fs);
    // What its record cannot make up for is saved chunk by chunk.
    damage(&fs, &pack::object_name(id), |bytes| {
        let half = bytes.len() / 2;
        bytes[half / 2..half * 3 / 2].fill(0);
    });
    let report = repair(&fs);
    let done = report.repair.as_ref().unwrap();
    assert!(done.healed_in_place == 0 && done.rescued.chunks > 0 && report.losses.len() == 1, "{report:?}");
}

#[test]
fn an_object_of_a_later_version_is_left_where_it_is() {
    let fs = MemFs::new();
    let content = small_disk(1);
    let one = RawMachine::new(&content).back_up(&create_on(&fs)).unwrap().manifest;
    let name = manifest::object_name(one.backup);
    damage(&fs, &name, |bytes| {
        bytes[9] = 2;
        let end = bytes.len() - 32;
        let checksum = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(checksum.as_bytes());
    });
    let report = repair(&fs);
    assert!(!report.is_sound() && !report.faults[0].repaired, "{report:?}");
    assert!(report.faults[0].remedy.contains("later version"), "{report:?}");
    assert!(store_on(&fs).unwrap().len(&name).is_ok());
}

#[test]
fn beside_backups_and_prunes_nothing_that_was_reported_is_lost() {
    for round in 0..3u64 {
        let fs = MemFs::new();
        create_on(&fs);
        let machine = RawMachine::new(b"");
        let content = |seed| [noise(100 << 10, 7), noise(60 << 10, seed)].concat();
        let mut reported = Vec::new();
        for seed in 0..3 {
            machine.write(&content(seed));
            reported.push((machine.back_up(&open_on(&fs).unwrap()).unwrap().manifest, content(seed)));
        }
        // Every pack is damaged where no chunk lies: all of it is to be saved, and all are put aside.
        for name in names_in(&fs, "packs/") {
            damage(&fs, &name, |bytes| bytes[20 + round as usize] ^= 1);
        }
        std::thread::scope(|scope| {
            let backups = scope.spawn(|| {
                let back_up = |seed: u64| {
                    machine.write(&content(seed));
                    // One that lost its ground fails, and is not reported.
                    let done = open_on(&fs).ok().and_then(|repository| machine.back_up(&repository).ok());
                    done.map(|done| (done.manifest, content(seed)))
                };
                (round * 10..round * 10 + 4).filter_map(back_up).collect::<Vec<_>>()
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    let all = ReadData::Percent(100.0);
                    let repository = open_on(&fs).unwrap();
                    // Two at once may each find that the other was faster; the next one finishes.
                    let _ = check_and_repair(&repository, all, Repair::All { from: None }, quiet(&false.into()));
                });
            }
            scope.spawn(|| drop(prune_now(&open_on(&fs).unwrap())));
            reported.extend(backups.join().unwrap());
        });
        for (manifest, content) in &reported {
            restores(&fs, manifest, content);
        }
        repair(&fs);
        prune_now(&open_on(&fs).unwrap()).unwrap();
        for (manifest, content) in &reported {
            restores(&fs, manifest, content);
        }
        is_sound(&fs);
    }
}
