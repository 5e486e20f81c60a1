//! Logs of VHDX files that were not closed cleanly: replayed in memory as qemu-img replays them into its copy; damaged
//! and hostile ones refused in words.

use abbild::disk::conformance;
use proptest::prelude::*;

use crate::formats_vhd::{apply, attempt, says};
use crate::formats_vhdx::{
    HEADERS, LOG, METADATA, MIB, PAYLOAD, REGIONS, SIZE, TABLE, build, plan, put, seal, seal_all,
};
use crate::formats_vmdk::open;
use crate::qemu;

/// What an entry of the log does.
#[derive(Clone)]
pub enum Change {
    Zero(u64, u64),
    Data(u64, Vec<u8>),
}

const LOG_GUID: [u8; 16] = [0x77; 16];

/// An entry of the log.
pub fn log_entry(sequence: u64, tail: usize, changes: &[Change], file_len: u64) -> Vec<u8> {
    let mut out = vec![0; (64 + changes.len() * 32).next_multiple_of(4096)];
    put(&mut out, 0, b"loge");
    put(&mut out, 12, &(tail as u32).to_le_bytes());
    put(&mut out, 16, &sequence.to_le_bytes());
    put(&mut out, 24, &(changes.len() as u32).to_le_bytes());
    put(&mut out, 32, &LOG_GUID);
    put(&mut out, 48, &file_len.to_le_bytes());
    put(&mut out, 56, &file_len.to_le_bytes());
    for (number, change) in changes.iter().enumerate() {
        let at = 64 + number * 32;
        let place = match change {
            Change::Zero(place, len) => {
                put(&mut out, at, b"zero");
                put(&mut out, at + 8, &len.to_le_bytes());
                *place
            }
            Change::Data(place, sector) => {
                put(&mut out, at, b"desc");
                put(&mut out, at + 4, &sector[4092..]);
                put(&mut out, at + 8, &sector[..8]);
                let mut data = sector.clone();
                put(&mut data, 0, b"data");
                put(&mut data, 4, &((sequence >> 32) as u32).to_le_bytes());
                put(&mut data, 4092, &(sequence as u32).to_le_bytes());
                out.extend(data);
                *place
            }
        };
        put(&mut out, at + 16, &place.to_le_bytes());
        put(&mut out, at + 24, &sequence.to_le_bytes());
    }
    let len = out.len() as u32;
    put(&mut out, 8, &len.to_le_bytes());
    seal(&mut out);
    out
}

/// Puts entries into the ring from `at` on and says in the headers that there is a log.
pub fn put_log(image: &mut [u8], at: usize, entries: &[Vec<u8>]) {
    for (number, byte) in entries.concat().into_iter().enumerate() {
        image[LOG + (at + number) % MIB] = byte;
    }
    for header in HEADERS {
        put(image, header + 48, &LOG_GUID);
    }
    seal_all(image);
}

pub fn page(image: &[u8], at: usize) -> Vec<u8> {
    image[at..at + 4096].to_vec()
}

/// A sound image, the same with its table lost but for the log, and what both must read as.
pub fn dirty() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let runs = [(0, 10, 1), (3000, 2000, 2)];
    let sound = build(&plan(&runs));
    let mut dirty = sound.clone();
    dirty[TABLE..TABLE + 4096].fill(0x99);
    let mut expected = Vec::new();
    apply(&mut expected, SIZE, 512, &runs);
    (sound, dirty, expected)
}

/// We read `image` as `expected`, and so does qemu-img after it has replayed the log into its own copy.
#[track_caller]
fn replays(image: &[u8], expected: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    std::fs::write(&path, image).unwrap();
    let opened = open(&path);
    conformance::check(&opened.disk(), expected);
    let layer = &opened.layers[0];
    says(layer.in_use.as_ref().unwrap(), "was not closed cleanly");
    says(&format!("{:?}", layer.warnings), "its log was not empty");
    assert!(std::fs::read(&path).unwrap() == image, "the source is never written");
    qemu::img(dir.path(), &["check", "-q", "-r", "all", "-f", "vhdx", "disk.vhdx"]);
    assert!(qemu::content_as(dir.path(), "disk.vhdx", "vhdx") == expected, "qemu-img disagrees");
}

#[test]
fn a_log_is_replayed_in_memory() {
    let (sound, dirty, expected) = dirty();
    let len = sound.len() as u64;
    let table = Change::Data(TABLE as u64, page(&sound, TABLE));
    let noise = Change::Data(TABLE as u64, vec![0x55; 4096]);
    let zero = Change::Zero(TABLE as u64, 8192);
    let with = |at: usize, entries: &[Vec<u8>]| {
        let mut image = dirty.clone();
        put_log(&mut image, at, entries);
        image
    };
    let one = |sequence, tail, change: &Change| log_entry(sequence, tail, std::slice::from_ref(change), len);
    // Entries with one sector have 8192 bytes, those with zeros alone 4096.
    replays(&with(0, &[one(5, 0, &table)]), &expected);
    replays(&with(40_960, &[one(5, 40_960, &table)]), &expected);
    replays(&with(0, &[one(5, 0, &noise), one(6, 0, &zero), one(7, 0, &table)]), &expected);
    replays(&with(0, &[log_entry(1 << 40, 0, &[noise.clone(), zero.clone(), table.clone()], len)]), &expected);
    // Over the end of the ring, in the middle of an entry.
    let start = MIB - 8192 - 4096;
    replays(&with(start, &[one(5, start, &noise), one(6, start, &table)]), &expected);
    // The tail was moved on: the first entry is no longer to be replayed, and would break the table.
    replays(&with(0, &[one(5, 0, &zero), one(6, 4096, &table)]), &expected);
    // Remains of an older sequence, and of one with a larger number under another GUID.
    let mut stale = with(65_536, &[one(3, 65_536, &noise)]);
    let mut foreign = one(99, 131_072, &noise);
    put(&mut foreign, 32, &[1; 16]);
    seal(&mut foreign);
    put_log(&mut stale, 131_072, &[foreign]);
    put_log(&mut stale, 0, &[one(5, 0, &table)]);
    replays(&stale, &expected);
    // The last entry was torn: what was complete before it counts.
    let mut torn = one(6, 0, &noise);
    torn[5000] ^= 1;
    replays(&with(0, &[one(5, 0, &table), torn]), &expected);
}

#[test]
fn a_log_may_have_promised_a_longer_file() {
    let (sound, _, mut expected) = dirty();
    // The last block is in the table and not yet in the file: it would have been zeros.
    let mut short = sound.clone();
    let grown = (sound.len() + MIB) as u64;
    put(&mut short, TABLE + 5 * 8, &(sound.len() as u64 | 6).to_le_bytes());
    let mut entry = log_entry(5, 0, &[Change::Zero(sound.len() as u64, MIB as u64)], sound.len() as u64);
    put(&mut entry, 56, &grown.to_le_bytes());
    seal(&mut entry);
    put_log(&mut short, 0, &[entry]);
    expected.resize(SIZE as usize, 0);
    replays(&short, &expected);
}

#[test]
fn a_damaged_log_is_refused() {
    let (sound, dirty, _) = dirty();
    let len = sound.len() as u64;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    let table = Change::Data(TABLE as u64, page(&sound, TABLE));
    let check = |entry: Vec<u8>, expected: &str| {
        let mut image = dirty.clone();
        put_log(&mut image, 0, &[entry]);
        std::fs::write(&path, image).unwrap();
        says(&attempt(&path), expected);
    };
    let entry = log_entry(5, 0, &[table], len);
    let changed = |at: usize, patch: &[u8]| {
        let mut entry = entry.clone();
        put(&mut entry, at, patch);
        seal(&mut entry);
        entry
    };
    let none = "log at offset 0x100000: expected a whole sequence of entries of 77777777-7777-7777-7777-777777777777";
    let mut flipped = entry.clone();
    flipped[6000] ^= 1;
    check(flipped, none);
    check(changed(0, b"logx"), none);
    check(changed(32, &[1]), none);
    check(changed(8, &4095u32.to_le_bytes()), none);
    check(changed(8, &u32::MAX.to_le_bytes()), none);
    check(changed(8, &0u32.to_le_bytes()), none);
    check(changed(12, &8192u32.to_le_bytes()), none); // a tail that is no entry
    check(changed(12, &u32::MAX.to_le_bytes()), none);
    check(changed(16, &0u64.to_le_bytes()), none);
    check(changed(24, &u32::MAX.to_le_bytes()), none);
    check(changed(24, &2000u32.to_le_bytes()), none);
    check(changed(24, &2u32.to_le_bytes()), "log at offset 0x100060: expected a log descriptor (zero or desc)");
    check(changed(64, b"dusk"), "log at offset 0x100040: expected a log descriptor (zero or desc), found [64, 75");
    check(changed(80, &4097u64.to_le_bytes()), "expected a log descriptor of whole 4096 byte units");
    check(changed(80, &(u64::MAX - 4095).to_le_bytes()), "expected a log descriptor of whole 4096 byte units");
    check(
        changed(88, &6u64.to_le_bytes()),
        "log at offset 0x100040: expected a log descriptor of entry 5, found one of",
    );
    check(changed(4096, b"dote"), "log at offset 0x101000: expected a data sector of entry 5");
    check(changed(8188, &6u32.to_le_bytes()), "log at offset 0x101000: expected a data sector of entry 5");
    check(changed(48, &(len + 1).to_le_bytes()), "file length at offset 0x700000: expected at least");
    check(changed(56, &u64::MAX.to_le_bytes()), "read"); // a promise of more zeros costs nothing
    let zeros = log_entry(5, 0, &[Change::Zero(0, u64::MAX)], len);
    check(zeros, "expected a log descriptor of whole 4096 byte units");
    // Zeros over everything leave no region table.
    check(log_entry(5, 0, &[Change::Zero(0, 1 << 60)], len), "region table at offset 0x30000: expected the magic regi");

    let header = |at: usize, patch: &[u8], expected: &str| {
        let mut image = dirty.clone();
        put_log(&mut image, 0, std::slice::from_ref(&entry));
        for header in HEADERS {
            put(&mut image, header + at, patch);
        }
        seal_all(&mut image);
        std::fs::write(&path, image).unwrap();
        says(&attempt(&path), expected);
    };
    header(48, &[9], none.split(" of 7").next().unwrap());
    header(64, &[1], "VHDX log version 1 is not supported");
    header(
        68,
        &4096u32.to_le_bytes(),
        "log at offset 0x100000: expected whole MiB behind the first, at most 268435456",
    );
    header(68, &(512u32 << 20).to_le_bytes(), "found 536870912 bytes");
    header(68, &(16u32 << 20).to_le_bytes(), "log at offset 0x100000: expected 16777216 bytes there");
    header(72, &0u64.to_le_bytes(), "log at offset 0x0: expected whole MiB");
    header(72, &(u64::MAX << 20).to_le_bytes(), "log at offset 0xfffffffffff00000: expected");
}

/// A log in which every unit claims to be a long entry would take hours to check.
#[test]
fn a_log_made_to_cost_time_is_refused() {
    let (sound, mut image, _) = dirty();
    let descriptors: Vec<_> = (0..254).map(|_| Change::Data(TABLE as u64, vec![0; 4096])).collect();
    let long = log_entry(5, 0, &descriptors, sound.len() as u64);
    for unit in 0..MIB / 4096 {
        put(&mut image, LOG + unit * 4096, &long[..64]);
        put(&mut image, LOG + unit * 4096 + 4, &[1; 4]);
    }
    put_log(&mut image, 0, &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    std::fs::write(&path, image).unwrap();
    says(&attempt(&path), "expected entries apart from each other");
}

/// Each of a log's zeros costs its reader more memory than the log has bytes for it.
#[test]
fn a_log_made_to_cost_memory_is_refused() {
    let (sound, _, _) = dirty();
    let log_at = sound.len().next_multiple_of(MIB);
    for (count, expected) in [(1 << 17, "read"), ((1 << 17) + 1, "expected at most 131072 changes, found more")] {
        let changes: Vec<_> = (0..count).map(|number| Change::Zero((1 << 40) + number * 8192, 4096)).collect();
        let entry = log_entry(5, 0, &changes, sound.len() as u64);
        let mut image = sound.clone();
        image.resize(log_at + entry.len().next_multiple_of(MIB), 0);
        put(&mut image, log_at, &entry);
        for header in HEADERS {
            put(&mut image, header + 48, &LOG_GUID);
            put(&mut image, header + 68, &(entry.len().next_multiple_of(MIB) as u32).to_le_bytes());
            put(&mut image, header + 72, &(log_at as u64).to_le_bytes());
        }
        seal_all(&mut image);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vhdx");
        std::fs::write(&path, image).unwrap();
        says(&attempt(&path), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// No damage to headers, tables, metadata or log makes us panic or hang.
    #[test]
    fn random_damage_is_survived(
        damage in proptest::collection::vec((0..5usize, 0..400usize, any::<u8>()), 1..8),
    ) {
        let (sound, mut image, _) = dirty();
        let changes = [Change::Data(TABLE as u64, page(&sound, TABLE)), Change::Zero(PAYLOAD as u64, 4096)];
        put_log(&mut image, 0, &[log_entry(5, 0, &changes, sound.len() as u64)]);
        let places = [HEADERS[0], REGIONS[0], METADATA, METADATA + (64 << 10), LOG];
        for (place, at, byte) in damage {
            image[places[place] + at] = byte;
        }
        let len = u32::from_le_bytes(image[LOG + 8..LOG + 12].try_into().unwrap()) as usize;
        seal_all(&mut image);
        if (8..=MIB).contains(&len) {
            seal(&mut image[LOG..LOG + len]);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vhdx");
        std::fs::write(&path, image).unwrap();
        prop_assert!(!attempt(&path).is_empty());
    }
}
