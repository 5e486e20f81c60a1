//! "A pack that rots is made whole again, and by who has no key": thousands of damages to packs and their recovery records,
//! each found, each repaired as far as the share goes, and refused beyond it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use abbild::ops::scrub::{ScrubOptions, ScrubReport, scrub};
use abbild::repo::Repository;
use abbild::repo::gc::trash;
use abbild::repo::ids::PackId;
use abbild::repo::parity::{self, Record, Share};
use abbild::repo::store::faulty::MemFs;
use abbild::repo::store::{ObjectName, ObjectStore};
use abbild::repo::{listed_packs, pack, session, text};

use crate::prune::{forget_one, prune_now};
use crate::world::{
    Dice, RawMachine, content_of, create_on, noise, objects, open_on, quiet, replace, small_disk, store_on,
};

/// Damages in the suite; the long form says how many in `ABBILD_TEST_FLIPS`.
const DAMAGES: usize = 360;

pub const REPAIR: ScrubOptions = ScrubOptions { repair: true, parity: None };
const LOOK: ScrubOptions = ScrubOptions { repair: false, parity: None };

pub fn scrub_now(store: &dyn ObjectStore, options: ScrubOptions) -> ScrubReport {
    scrub(store, options, quiet(&false.into())).unwrap()
}

/// A new repository whose packs get a share of 5 %.
pub fn create_with_parity(fs: &MemFs) -> Arc<Repository> {
    let repository = create_on(fs);
    parity::set_share(repository.store(), Share::permille(50).unwrap()).unwrap();
    repository
}

/// The largest pack: that of the data.
pub fn largest_pack(store: &dyn ObjectStore) -> PackId {
    listed_packs(store).unwrap().into_iter().max_by_key(|(_, len)| *len).unwrap().0
}

fn world() -> (MemFs, Vec<u8>) {
    let fs = MemFs::new();
    let repository = create_with_parity(&fs);
    let content = [noise(500 << 10, 1), vec![0; 100_000], b"text ".repeat(2000)].concat();
    let content = content[..content.len() / 512 * 512].to_vec();
    RawMachine::new(&content).back_up(&repository).unwrap();
    session::begin(repository.store(), repository.keys(), "elsewhere", "backup").unwrap();
    (fs, content)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Flips,
    Sectors,
    Burst,
    TornEnd,
    Longer,
    ZeroedHead,
}

const DAMAGES_OF_PACKS: [Damage; 6] =
    [Damage::Flips, Damage::Sectors, Damage::Burst, Damage::TornEnd, Damage::Longer, Damage::ZeroedHead];

/// Damages `bytes` in about `shards` of its shards.
fn damage(bytes: &mut Vec<u8>, kind: Damage, shards: usize, shard_bytes: usize, dice: &mut Dice) {
    let len = bytes.len();
    match kind {
        Damage::Flips => (0..shards).for_each(|_| bytes[dice.below(len)] ^= 1 << dice.below(8)),
        Damage::Sectors => {
            for _ in 0..shards {
                let at = dice.below(len.div_ceil(4096)) * 4096;
                let end = (at + 4096).min(len);
                bytes[at..end].fill(0);
            }
        }
        Damage::Burst => {
            let at = dice.below(len);
            let end = (at + shards * shard_bytes).min(len);
            noise(end - at, len as u64).iter().zip(&mut bytes[at..end]).for_each(|(new, old)| *old = *new);
        }
        Damage::TornEnd => bytes.truncate(len.saturating_sub(1 + dice.below(shards * shard_bytes))),
        Damage::Longer => bytes.extend(noise(1 + dice.below(70_000), 4)),
        Damage::ZeroedHead => bytes[..dice.below(shards * shard_bytes).min(len)].fill(0),
    }
}

/// Shards of which a byte differs.
fn differing(before: &[u8], after: &[u8], shard_bytes: usize) -> usize {
    let shards = before.len().div_ceil(shard_bytes);
    let mut after = after.to_vec();
    after.resize(before.len(), 0);
    (0..shards)
        .filter(|shard| {
            let range = shard * shard_bytes..((shard + 1) * shard_bytes).min(before.len());
            before[range.clone()] != after[range]
        })
        .count()
}

/// Where the recovery shards of a record lie.
fn recovery_shards_at(shards: usize, recovery: usize) -> usize {
    let total = shards + recovery;
    96 + total * 16 + total.div_ceil(255) * 16
}

#[derive(Default)]
struct Count {
    tried: u32,
    repaired: u32,
    refused: u32,
}

#[test]
fn parity_campaign_every_damage_is_found_and_repaired_within_the_share() {
    let (fs, content) = world();
    let originals = objects(store_on(&fs).unwrap().as_ref());
    let sound = scrub_now(store_on(&fs).unwrap().as_ref(), LOOK);
    assert!(sound.damage.is_empty() && sound.warnings.is_empty(), "sound before it is damaged: {sound:?}");
    let packs: Vec<PackId> = listed_packs(store_on(&fs).unwrap().as_ref()).unwrap().into_keys().collect();
    let rounds = std::env::var("ABBILD_TEST_FLIPS").map_or(DAMAGES, |count| count.parse().expect("a number"));
    let mut dice = Dice(1);
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for round in 0..rounds {
        let id = packs[round % packs.len()];
        let (name, record_name) = (pack::object_name(id), parity::object_name(id));
        let damaged_fs = fs.snapshot();
        let store = store_on(&damaged_fs).unwrap();
        let record = Record::load(store.as_ref(), id).unwrap().unwrap();
        let ((spare, shards), shard_bytes) = (record.capacity(), record.shard_bytes());
        // Of the pack alone, of the record alone, of both.
        let (hits_pack, hits_record) = [(true, false), (false, true), (true, true)][round / packs.len() % 3];
        let kind = DAMAGES_OF_PACKS[dice.below(DAMAGES_OF_PACKS.len())];
        let (mut bytes, mut record_bytes) = (originals[&name].clone(), originals[&record_name].clone());
        let (mut lost, mut spare_left) = (0, spare);
        if hits_pack {
            // Up to somewhat above the share.
            damage(&mut bytes, kind, 1 + dice.below(spare + 2), shard_bytes, &mut dice);
            lost = differing(&originals[&name], &bytes, shard_bytes);
        }
        if hits_record && hits_pack {
            // One rotten sector: the second table and header are far away.
            let at = dice.below(record_bytes.len().div_ceil(4096)) * 4096;
            let end = (at + 4096).min(record_bytes.len());
            record_bytes[at..end].fill(0);
            let from = recovery_shards_at(shards, spare);
            let range = from..from + spare * shard_bytes;
            spare_left -= differing(&originals[&record_name][range.clone()], &record_bytes[range], shard_bytes);
        } else if hits_record {
            damage(&mut record_bytes, kind, 1 + dice.below(spare + 2), shard_bytes, &mut dice);
        }
        let is_changed =
            [(&name, &bytes), (&record_name, &record_bytes)].map(|(name, bytes)| originals[name] != *bytes);
        if is_changed == [false, false] {
            continue;
        }
        replace(store.as_ref(), &name, &bytes);
        replace(store.as_ref(), &record_name, &record_bytes);
        let what = format!("round {round}: {kind:?} of {name}, {lost} of {shards} shards lost, {spare_left} spare");

        let found = scrub_now(store.as_ref(), LOOK);
        for (name, is_changed) in [&name, &record_name].into_iter().zip(is_changed) {
            let is_named = found.damage.iter().any(|damage| damage.what == name.as_str());
            assert_eq!(is_named, is_changed, "{what}: {name} is named if it is damaged, and only then: {found:?}");
        }
        let repaired = scrub_now(store.as_ref(), REPAIR);
        let after = objects(store.as_ref());
        let can_be = lost <= spare_left;
        let count = counts
            .entry(format!(
                "{kind:?} of {}",
                match (hits_pack, hits_record) {
                    (true, false) => "pack",
                    (false, true) => "record",
                    _ => "both",
                }
            ))
            .or_default();
        count.tried += 1;
        if can_be {
            count.repaired += 1;
            assert_eq!(repaired.unrepaired(), 0, "{what}: {repaired:?}");
            assert!(after[&name] == originals[&name], "{what}: the pack is not what it was");
            assert!(after[&record_name] == originals[&record_name], "{what}: the record is not what it was");
            let again = scrub_now(store.as_ref(), LOOK);
            assert!(again.damage.is_empty(), "{what}: {again:?}");
            if is_changed[0] {
                let kept = ObjectName::new(&format!("quarantine/{id}")).unwrap();
                assert!(after[&kept] == bytes, "{what}: the damaged pack is kept");
            }
        } else {
            count.refused += 1;
            let named = repaired.damage.iter().find(|damage| damage.what == name.as_str()).unwrap();
            assert!(named.repaired.is_none() && named.why_not.is_some(), "{what}: {named:?}");
            assert!(after[&name] == bytes, "{what}: a pack that cannot be healed is left as it is");
        }
        if round % 50 == 0 && can_be {
            let repository = open_on(&damaged_fs).unwrap();
            let id = repository.backup_ids().unwrap()[0];
            assert!(content_of(&repository, id).unwrap() == content, "{what}");
        }
    }
    let sum = |of: fn(&Count) -> u32| counts.values().map(of).sum::<u32>();
    for (kind, count) in &counts {
        println!(
            "{kind:22} {:6} tried, {:6} repaired, {:5} beyond the share",
            count.tried, count.repaired, count.refused
        );
    }
    let (tried, repaired, refused) = (sum(|c| c.tried), sum(|c| c.repaired), sum(|c| c.refused));
    println!(
        "{tried} damages: all found; {repaired} within the share: all repaired; {refused} beyond: all refused and named"
    );
    assert!(repaired > tried / 3 && refused > 0, "both sides must be met");
}

#[test]
fn every_flipped_byte_of_a_small_object_is_found() {
    let (fs, _) = world();
    let originals = objects(store_on(&fs).unwrap().as_ref());
    let mut folders: BTreeMap<String, u32> = BTreeMap::new();
    for (name, bytes) in &originals {
        let folder = name.as_str().split('/').next().unwrap();
        // Others have tests of their own; a reserve holds nothing.
        if ["packs", "parity", "reserve"].contains(&folder) && *name != parity::share_name() {
            continue;
        }
        for at in (0..bytes.len()).step_by((bytes.len() / 24).max(1)).chain([bytes.len() - 1]) {
            let store = store_on(&fs.snapshot()).unwrap();
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            replace(store.as_ref(), name, &flipped);
            let found = scrub_now(store.as_ref(), REPAIR);
            let [damage] = found.damage.as_slice() else { panic!("{name}, byte {at}: {found:?}") };
            assert_eq!(damage.what, name.as_str());
            // What is stored twice comes back; the other copy of sealed objects is somebody else's, who has the key.
            let is_twice = originals.contains_key(&text::copy_of(name)) || folder == "copies";
            assert_eq!(damage.repaired.is_some(), is_twice, "{name}: {damage:?}");
            if is_twice {
                assert!(objects(store.as_ref())[name] == *bytes, "{name}, byte {at}");
            }
            *folders.entry(folder.to_owned()).or_default() += 1;
        }
    }
    println!("flips by folder, all found: {folders:?}");
    let expected = ["config", "copies", "generations", "index", "keys", "manifests", "parity", "sessions"];
    assert_eq!(folders.keys().collect::<Vec<_>>(), expected);
}

#[test]
fn misplaced_objects_are_found_without_a_key() {
    let (fs, _) = world();
    let originals = objects(store_on(&fs).unwrap().as_ref());
    let first = |folder: &str| originals.keys().find(|name| name.as_str().starts_with(folder)).unwrap();
    for (place, other) in [("manifests/", "sessions/"), ("index/", "generations/"), ("packs/", "manifests/")] {
        let store = store_on(&fs.snapshot()).unwrap();
        replace(store.as_ref(), first(place), &originals[first(other)]);
        let found = scrub_now(store.as_ref(), LOOK);
        assert!(found.damage.iter().any(|damage| damage.what == first(place).as_str()), "{place}: {found:?}");
    }
    // The record of another pack is sound, and still not this one's.
    let records: Vec<&ObjectName> = originals.keys().filter(|name| parity::id_of(name).is_some()).collect();
    let store = store_on(&fs.snapshot()).unwrap();
    replace(store.as_ref(), records[0], &originals[records[1]]);
    assert_eq!(scrub_now(store.as_ref(), LOOK).damage[0].what, records[0].as_str());
    assert_eq!(scrub_now(store.as_ref(), REPAIR).unrepaired(), 0);
    assert!(objects(store.as_ref())[records[0]] == originals[records[0]]);
}

#[test]
fn parity_can_be_turned_on_later_and_off_means_as_before() {
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let store = repository.store();
    let machine = RawMachine::new(&small_disk(1));
    machine.back_up(&repository).unwrap();
    assert_eq!(parity::amount(store).unwrap(), (0, 0));
    let packs = || listed_packs(store).unwrap().len() as u64;
    let report = scrub_now(store, LOOK);
    assert_eq!((report.packs_without_record, report.warnings.len(), report.parity), (packs(), 0, None));
    scrub_now(store, REPAIR);
    assert_eq!(parity::amount(store).unwrap().0, 0, "nobody asked for parity");

    let share = Share::permille(100).unwrap();
    let report = scrub_now(store, ScrubOptions { repair: true, parity: Some(share) });
    assert_eq!((report.records_made, report.packs_without_record, report.parity), (packs(), 0, Some(share)));
    machine.write(&small_disk(2));
    let committed = machine.back_up(&repository).unwrap();
    assert_eq!(parity::amount(store).unwrap().0, packs(), "what is written from now on has records at once");
    let bytes: u64 = listed_packs(store).unwrap().values().sum();
    assert!(parity::amount(store).unwrap().1 * 10 > bytes, "a tenth of the packs' bytes");
    assert!(committed.manifest.statistics.stored.unwrap() > 0);
}

#[test]
fn a_record_goes_with_its_pack_and_not_before() {
    let fs = MemFs::new();
    let repository = create_with_parity(&fs);
    let store = repository.store();
    let machine = RawMachine::new(&noise(300 << 10, 1));
    let first = machine.back_up(&repository).unwrap().manifest.backup;
    machine.write(&noise(300 << 10, 2));
    machine.back_up(&repository).unwrap();
    // Another run is at work: what the prune takes out of use stays in the trash.
    let other = session::begin(store, repository.keys(), "elsewhere", "backup").unwrap();
    forget_one(&repository, first).unwrap();
    prune_now(&repository).unwrap();
    let trashed = trash::list(store).unwrap();
    assert!(!trashed.is_empty());
    fn records(store: &dyn ObjectStore) -> u64 {
        parity::amount(store).unwrap().0
    }
    assert_eq!(records(store), (listed_packs(store).unwrap().len() + trashed.len()) as u64);
    let report = scrub_now(store, LOOK);
    assert!(report.damage.is_empty() && report.warnings.is_empty(), "{report:?}");
    assert_eq!(report.packs, records(store));

    store.remove(&session::session_name(other.session)).unwrap();
    prune_now(&repository).unwrap();
    assert!(trash::list(store).unwrap().is_empty());
    assert_eq!(records(store), listed_packs(store).unwrap().len() as u64, "those of deleted packs are gone");

    // A pack in the quarantine keeps its record, too; and a lost one's is not taken for nothing.
    let id = largest_pack(store);
    store.rename(&pack::object_name(id), &ObjectName::new(&format!("quarantine/{id}")).unwrap()).unwrap();
    prune_now(&repository).unwrap();
    assert!(parity::stored_bytes(store, id).unwrap() > 0);
    assert_eq!(scrub_now(store, REPAIR).unrepaired(), 0);
    assert!(store.len(&pack::object_name(id)).is_ok(), "it is sound, and in use again");
}

#[test]
fn a_lost_pack_is_hinted_at_by_its_record() {
    let (fs, _) = world();
    let store = store_on(&fs).unwrap();
    store.remove(&pack::object_name(largest_pack(store.as_ref()))).unwrap();
    let report = scrub_now(store.as_ref(), REPAIR);
    assert!(report.warnings.iter().any(|warning| warning.contains("whose packs are gone: 1")), "{report:?}");
}

#[test]
fn a_healed_pack_waits_for_its_name_however_often_it_is_looked_at() {
    let (fs, _) = world();
    let store = store_on(&fs).unwrap();
    let id = largest_pack(store.as_ref());
    let name = pack::object_name(id);
    let original = store.read(&name, 1 << 30).unwrap();
    let mut damaged = original.clone();
    damaged[1000] ^= 1;
    let place = |folder: &str| ObjectName::new(&format!("{folder}/{id}")).unwrap();
    // As runs leave it that died: before the swap, in the midst of it, and with a name in both folders.
    for (in_place, healed, quarantined) in [
        (Some(&damaged), Some(&original), None),
        (None, Some(&original), Some(&damaged)),
        (None, None, Some(&damaged)),
        (Some(&damaged), Some(&original), Some(&damaged)),
        (Some(&original), Some(&original), Some(&damaged)),
        (Some(&damaged), Some(&damaged), None),
        (None, Some(&damaged), Some(&damaged)),
    ] {
        let state = fs.snapshot();
        let store = store_on(&state).unwrap();
        store.remove(&name).unwrap();
        for (name, bytes) in [(&name, in_place), (&place("healed"), healed), (&place("quarantine"), quarantined)] {
            bytes.iter().for_each(|bytes| store.put(name, bytes).unwrap());
        }
        let report = scrub_now(store.as_ref(), REPAIR);
        assert_eq!(report.unrepaired(), 0, "{report:?}");
        assert!(store.read(&name, 1 << 30).unwrap() == original);
        assert!(store.len(&place("healed")).is_err(), "nothing is left over");
    }
}

/// The judge in Python shares nothing with the library but docs/FORMAT.md.
#[test]
fn an_independent_judge_finds_records_right_and_heals_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let (fs, _) = world();
    let store = store_on(&fs).unwrap();
    let judge = |arguments: &[&str]| {
        let python = std::env::var("ABBILD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/recovery_record.py");
        let output = Command::new(&python).arg(script).args(arguments).current_dir(&folder).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {python}: {error}"));
        assert_ne!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.success(), String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    for id in listed_packs(store.as_ref()).unwrap().into_keys() {
        let bytes = store.read(&pack::object_name(id), 1 << 30).unwrap();
        let mut record = store.read(&parity::object_name(id), 1 << 30).unwrap();
        write("pack", &bytes);
        write("record", &record);
        let (is_right, said) = judge(&["pack", "record"]);
        assert!(is_right && said.contains("are right"), "{id}: {said}");
        let mut damaged = bytes.clone();
        damaged[200] ^= 1;
        damaged.truncate(bytes.len() - 100);
        write("pack", &damaged);
        let hash = blake3::hash(&bytes).to_string();
        assert_eq!(judge(&["--heal", "pack", "record"]), (true, hash));
        let middle = record.len() / 2;
        record[middle] ^= 1;
        write("record", &record);
        assert!(!judge(&["--heal", "pack", "record"]).0, "the judge does look");
    }
}
