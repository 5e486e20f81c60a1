//! exFAT: volumes made by `mkfs.exfat` in every shape, filled by the FUSE driver `exfat-fuse`, and seen by us and by it. What
//! it cannot make (unwritten ends, zones, files beyond 4 GiB) is made here, byte by byte.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use abbild::disk::{Disk, ExtentKind, MemoryDisk};
use abbild::guest::detect::detect;
use abbild::guest::exfat::{self, ExFat};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind, Time};
use abbild::guest::{GuestError, machine};
use rustix::fs as sys;

use crate::guest_fat::found;
use crate::guest_tree::{Field, Tree, compare, disk, noise, of_folder, of_tree, run, survey};
use crate::patched::{Patched, Random};

/// A sparse image file of so many MiB with a new exFAT, made with these options.
#[track_caller]
pub(crate) fn made(folder: &Path, name: &str, mib: u64, options: &str) -> PathBuf {
    let image = folder.join(name);
    fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<&str> = options.split_whitespace().collect();
    args.push(image.to_str().unwrap());
    run("mkfs.exfat", &args);
    image
}

#[track_caller]
fn open(image: &Path) -> ExFat {
    exfat::open(disk(image)).unwrap()
}

/// The volume of an image, mounted by exfat-fuse on a loop device; unmounted when dropped.
pub(crate) struct Mount {
    place: PathBuf,
    device: String,
}

impl Mount {
    #[track_caller]
    pub fn new(image: &Path, place: &Path, options: &str) -> Mount {
        assert!(rustix::process::geteuid().is_root(), "this story mounts filesystems: it needs root and loop devices");
        fs::create_dir_all(place).unwrap();
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]).trim().to_owned();
        let mount = Mount { place: place.to_owned(), device };
        run("mount.exfat-fuse", &["-o", options, &mount.device, place.to_str().unwrap()]);
        mount
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.place).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn names(folder: &Path) {
    let names = folder.join("names");
    fs::create_dir(&names).unwrap();
    let crabs = "🦀".repeat(127) + "x";
    let long = "n".repeat(255);
    for name in
        [&long, &crabs, "ü", "u\u{308}", "日本語のとても長い名前", "🦀", ".hidden", " ", "...", "A", "b c d", "~1"]
    {
        // The system allows no names of more bytes.
        if name.len() <= 255 {
            fs::write(names.join(name), name).unwrap();
        }
    }
    fs::write(names.join("🦀".repeat(63)), "").unwrap();
    for number in 0..60 {
        fs::write(names.join(format!("a long name, different only at its end {number}.text")), "").unwrap();
    }
}

fn files(folder: &Path) {
    for (seed, len) in [0, 1, 511, 512, 513, 4095, 4096, 4097, 32_768, 32_769, 200_000].into_iter().enumerate() {
        fs::write(folder.join(format!("bytes-{len}")), noise(seed as u64, len)).unwrap();
    }
    // Two that grow in turns, so that neither is in one piece.
    let [one, other] = ["one", "other"].map(|name| fs::File::create(folder.join(name)).unwrap());
    for number in 0..60 {
        for file in [&one, &other] {
            file.write_all_at(&noise(number, 3000), number * 3000).unwrap();
        }
    }
    let cut = fs::File::create(folder.join("cut")).unwrap();
    cut.write_all_at(&noise(3, 60_000), 0).unwrap();
    cut.set_len(10_001).unwrap();
    fs::File::create(folder.join("zeros")).unwrap().set_len(300_000).unwrap();
}

fn folders(folder: &Path) {
    let mut deep = folder.join("deep");
    for level in 0..60 {
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("here"), level.to_string()).unwrap();
        deep = deep.join(format!("level {level}"));
    }
    // Two that grow in turns.
    for index in 0..150 {
        for name in ["one folder", "other folder"] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join(format!("a name of some length, {index}")), "").unwrap();
        }
    }
    for index in (0..150).filter(|index| index % 50 != 7) {
        fs::remove_file(folder.join(format!("one folder/a name of some length, {index}"))).unwrap();
    }
}

fn many(folder: &Path) {
    for outer in 0..20 {
        let place = folder.join(format!("five hundred {outer}"));
        fs::create_dir(&place).unwrap();
        for number in 0..500 {
            fs::write(place.join(format!("{number} of five hundred")), number.to_string()).unwrap();
        }
    }
}

fn times(folder: &Path) {
    // To exfat-fuse 2100 is a leap year.
    for seconds in [315_532_800, 951_782_400, 1_582_982_055, 4_102_444_799] {
        let path = folder.join(format!("time {seconds}"));
        fs::write(&path, "").unwrap();
        let moment = sys::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = sys::Timestamps { last_access: moment, last_modification: moment };
        sys::utimensat(sys::CWD, &path, &times, sys::AtFlags::empty()).unwrap();
    }
}

/// What there is to fill volumes with.
pub(crate) const ALL: &[fn(&Path)] = &[names, files, folders, times, many];

/// What exfat-fuse tells neither as it is: when something was made, directories' links, where data lies.
pub(crate) const UNKNOWN: [Field; 3] = [Field::Created, Field::DirectoryLinks, Field::Data];

/// Has exfat-fuse fill a new volume; what it shows of it.
#[track_caller]
pub(crate) fn filled(image: &Path, place: &Path, fill: &[fn(&Path)]) -> Tree {
    let mount = Mount::new(image, place, "noatime");
    fill.iter().for_each(|fill| fill(place));
    drop(mount);
    let _mount = Mount::new(image, place, "ro,umask=022");
    of_folder(place)
}

/// Has exfat-fuse fill and show a new volume, and compares. Returns how many nodes were compared.
#[track_caller]
fn judge(mib: u64, options: &str, fill: &[fn(&Path)]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", mib, options);
    let expected = filled(&image, &dir.path().join("mount"), fill);
    let tree = open(&image);
    assert_eq!(tree.summary().warnings, Vec::<String>::new(), "{options}");
    compare(options, &expected, &of_tree(&tree), &UNKNOWN);
    run("fsck.exfat", &["-n", image.to_str().unwrap()]);
    expected.len()
}

#[test]
fn every_shape_is_what_the_fuse_driver_shows() {
    let basic: &[fn(&Path)] = &[names, files, folders, times];
    let compared = judge(64, "", ALL)
        + judge(40, "-c 512 -L label", basic)
        + judge(300, "-c 128K --pack-bitmap", basic)
        + judge(1024, "-c 32M", &[times]);
    println!("{compared} nodes are the same to exfat-fuse");
    assert!(compared > 11_000, "{compared}");
}

#[test]
fn labels_and_serial_numbers_are_those_of_blkid() {
    let dir = tempfile::tempdir().unwrap();
    for label in ["", "A", "Ünïcödé 日本"] {
        let image = made(dir.path(), "image", 16, &if label.is_empty() { String::new() } else { "-L x".to_owned() });
        if !label.is_empty() {
            run("exfatlabel", &[image.to_str().unwrap(), label]);
        }
        let summary = open(&image).summary().clone();
        assert_eq!((summary.kind, summary.label.as_str(), summary.size), ("exfat", label, 16 << 20));
        let uuid = run("blkid", &["-p", "-o", "value", "-s", "UUID", image.to_str().unwrap()]);
        assert_eq!(summary.uuid, uuid.trim());
        let content = detect(disk(&image).as_ref()).unwrap();
        assert_eq!((content.label, content.uuid), (summary.label.clone(), summary.uuid.clone()));
        assert_eq!(machine::open(content.kind, &disk(&image)).unwrap().summary(), &summary);
    }
}

// ---- volumes made byte by byte --------------------------------------------------------------------------------------

/// Where things lie on a volume, as its boot sector says.
struct Places {
    cluster: u64,
    table: u64,
    heap: u64,
    clusters: u32,
    root: u32,
}

impl Places {
    fn of(boot: &[u8]) -> Places {
        let le32 = |at: usize| u32::from_le_bytes(boot[at..at + 4].try_into().unwrap());
        let sector = 1u64 << boot[108];
        Places {
            cluster: sector << boot[109],
            table: u64::from(le32(80)) * sector,
            heap: u64::from(le32(88)) * sector,
            clusters: le32(92),
            root: le32(96),
        }
    }

    fn position(&self, cluster: u32) -> u64 {
        self.heap + u64::from(cluster - 2) * self.cluster
    }
}

/// A file's set of records; its checksum is right.
fn set_of(name: &str, attributes: u16, in_one_piece: bool, first: u32, valid: u64, len: u64) -> Vec<u8> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut set = vec![0; 64 + units.len().div_ceil(15) * 32];
    set[0] = 0x85;
    set[1] = (set.len() / 32 - 1) as u8;
    set[4..6].copy_from_slice(&attributes.to_le_bytes());
    for at in [8, 12, 16] {
        set[at..at + 4].copy_from_slice(&0x5d76_33c6u32.to_le_bytes()); // 2026-11-22 06:30:12
    }
    set[20..25].copy_from_slice(&[199, 50, 0x84, 0xf8, 0x80]);
    set[32] = 0xc0;
    set[33] = if in_one_piece { 3 } else { 1 };
    set[35] = units.len() as u8;
    set[40..48].copy_from_slice(&valid.to_le_bytes());
    set[52..56].copy_from_slice(&first.to_le_bytes());
    set[56..64].copy_from_slice(&len.to_le_bytes());
    for (piece, record) in units.chunks(15).zip(set[64..].chunks_exact_mut(32)) {
        record[0] = 0xc1;
        for (unit, place) in piece.iter().zip(record[2..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    seal(&mut set);
    set
}

/// Puts the checksum of a set right.
fn seal(set: &mut [u8]) {
    let bytes = set.iter().enumerate().filter(|(at, _)| !(2..4).contains(at));
    let sum = bytes.fold(0u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
}

/// Where the next set in the root directory of a new volume goes.
fn root_end(image: &Path, places: &Places) -> u64 {
    let mut root = vec![0; places.cluster as usize];
    fs::File::open(image).unwrap().read_exact_at(&mut root, places.position(places.root)).unwrap();
    let used = root.chunks_exact(32).position(|record| record[0] == 0).unwrap();
    places.position(places.root) + used as u64 * 32
}

fn patch(image: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

#[track_caller]
fn places_of(image: &Path) -> Places {
    let mut boot = [0; 512];
    fs::File::open(image).unwrap().read_exact_at(&mut boot, 0).unwrap();
    Places::of(&boot)
}

#[test]
fn what_was_never_written_is_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", 16, "-c 4K");
    let places = places_of(&image);
    patch(&image, places.position(1000), &[7; 40_960]);
    for (number, cluster) in (1000..1010u32).enumerate() {
        let next = if number == 9 { u32::MAX } else { cluster + 1 };
        patch(&image, places.table + u64::from(cluster) * 4, &next.to_le_bytes());
    }
    let mut at = root_end(&image, &places);
    for in_one_piece in [true, false] {
        for (valid, len) in [(0, 40_000), (1, 40_000), (5000, 40_000), (8192, 40_000), (40_000, 40_000)] {
            let name = format!("{in_one_piece} {valid}");
            let set = set_of(&name, 0x21, in_one_piece, 1000, valid, len);
            patch(&image, at, &set);
            at += set.len() as u64;
            let tree = open(&image);
            let file = found(&tree, &name);
            let mut content = vec![0xa5; 50_000];
            assert_eq!(tree.read_at(file, 0, &mut content).unwrap(), 40_000);
            assert!(content[..valid as usize].iter().all(|byte| *byte == 7), "{name}");
            assert!(content[valid as usize..40_000].iter().all(|byte| *byte == 0), "{name}");
            let first = tree.extent_at(file, 0).unwrap().unwrap();
            let expected = if valid == 0 { (ExtentKind::Zero, 40_000) } else { (ExtentKind::Data, valid) };
            assert_eq!((first.kind, first.len.0), expected, "{name}");
            let metadata = tree.metadata(file).unwrap();
            assert_eq!((metadata.size, metadata.allocated, metadata.mode), (40_000, 40_960, 0o555));
            assert_eq!((metadata.attributes, metadata.links), (Some(0x21), 1));
            // One hour east, two hours west, in UTC.
            let [created, modified, accessed] = [1_795_329_013 - 3600, 1_795_329_012 + 7200, 1_795_329_012];
            assert_eq!(metadata.created, Some(Time { seconds: created, nanoseconds: 990_000_000 }));
            assert_eq!(metadata.modified, Time { seconds: modified, nanoseconds: 500_000_000 });
            assert_eq!(metadata.accessed, Time { seconds: accessed, nanoseconds: 0 });
        }
    }
    of_tree(&open(&image));
}

#[test]
fn files_beyond_4_gib_are_read_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", 16 << 10, "-c 4K");
    let places = places_of(&image);
    let len = (5u64 << 30) + 3;
    let count = len.div_ceil(4096);
    // No two clusters of the one beside each other; the other in one piece.
    let cluster = |index: u64| (5000 + index / 2 + index % 2 * 700_000) as u32;
    let mut table = vec![0; 1_400_000 * 4];
    for index in 0..count {
        let next = if index + 1 == count { u32::MAX } else { cluster(index + 1) };
        let at = cluster(index) as usize * 4;
        table[at..at + 4].copy_from_slice(&next.to_le_bytes());
    }
    patch(&image, places.table + 20_000, &table[20_000..]);
    let at = root_end(&image, &places);
    let piece_first = 1_500_000;
    let mut sets = set_of("in pieces", 0x20, false, 5000, len, len);
    sets.extend(set_of("in one piece", 0x20, true, piece_first, len - 100_000, len));
    patch(&image, at, &sets);
    let marks = [0, 4095, (1 << 32) - 5, (1 << 32) + 4094, len - 100_009];
    for at in marks {
        for (index, byte) in (at..at + 9).zip(b"found it!") {
            patch(&image, places.position(cluster(index / 4096)) + index % 4096, &[*byte]);
            patch(&image, places.position(piece_first) + index, &[*byte]);
        }
    }
    let tree = open(&image);
    for name in ["in pieces", "in one piece"] {
        let file = found(&tree, name);
        assert_eq!(tree.metadata(file).unwrap().size, len);
        for at in marks {
            let mut buf = [0; 9];
            assert_eq!(tree.read_at(file, at, &mut buf).unwrap(), 9);
            assert_eq!(&buf, b"found it!", "{name} {at}");
        }
        assert_eq!(tree.read_at(file, len - 1, &mut [0; 9]).unwrap(), 1);
    }
    let file = found(&tree, "in one piece");
    assert_eq!(tree.extent_at(file, 4096).unwrap().unwrap().len.0, len - 100_000 - 4096);
    assert_eq!(tree.extent_at(file, len - 1).unwrap().unwrap().kind, ExtentKind::Zero);
}

#[test]
fn names_are_found_by_the_volumes_own_case() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", 16, "");
    let places = places_of(&image);
    let mut sets = Vec::new();
    for name in ["Straße", "ÄÖÜ", "я", "🦀 crab", "n".repeat(255).as_str(), "🦀".repeat(127).as_str()] {
        sets.extend(set_of(name, 0x20, true, 0, 0, 0));
    }
    patch(&image, root_end(&image, &places), &sets);
    let tree = open(&image);
    for (name, other) in [("Straße", "STRAßE"), ("ÄÖÜ", "äöü"), ("я", "Я"), ("🦀 crab", "🦀 CRAB")] {
        assert_eq!(found(&tree, name), found(&tree, other));
    }
    assert_eq!(tree.lookup(tree.root(), b"STRASSE").unwrap(), None);
    assert_eq!(of_tree(&tree).len(), 7);
}

// ---- damage ---------------------------------------------------------------------------------------------------------

/// A volume with some files, in memory.
struct Sample {
    disk: Arc<MemoryDisk>,
    places: Places,
    /// Where the records of files in the root directory begin.
    sets: u64,
}

/// `FILE` of 5 clusters in a chain from 100, `PIECE` of 3 from 200, `A` with `B` in it.
fn sample() -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", 4, "-c 512");
    let places = places_of(&image);
    for (cluster, next) in
        [(100, 101), (101, 103), (103, 102), (102, 104), (104, u32::MAX), (300, 301), (301, u32::MAX)]
    {
        patch(&image, places.table + cluster * 4, &u32::to_le_bytes(next));
    }
    patch(&image, places.position(100), &[7; 2560]);
    let sets = root_end(&image, &places);
    let mut root = set_of("FILE", 0x20, false, 100, 2500, 2500);
    root.extend(set_of("PIECE", 0x20, true, 200, 1500, 1500));
    root.extend(set_of("A", 0x10, false, 300, 1024, 1024));
    patch(&image, sets, &root);
    let mut inner = Vec::new();
    inner.extend(set_of("B", 0x10, true, 400, 512, 512));
    for number in 0..6 {
        inner.extend(set_of(&format!("{number}{}", "x".repeat(20)), 0x20, true, 0, 0, 0));
    }
    assert!(inner.len() > 512 && !512usize.is_multiple_of(96), "a set goes on in the next cluster");
    patch(&image, places.position(300), &inner);
    Sample { disk: Arc::new(MemoryDisk(fs::read(&image).unwrap())), places, sets }
}

impl Sample {
    fn patched(&self, patches: &[(u64, Vec<u8>)]) -> Arc<dyn Disk> {
        Arc::new(Patched { below: Arc::clone(&self.disk), patches: patches.to_vec() })
    }

    fn open(&self, patches: &[(u64, Vec<u8>)]) -> ExFat {
        exfat::open(self.patched(patches)).unwrap()
    }

    fn entry(&self, cluster: u32, value: u32) -> (u64, Vec<u8>) {
        (self.places.table + u64::from(cluster) * 4, value.to_le_bytes().to_vec())
    }

    /// Another set in place of that of `FILE`, which has three records.
    fn other(
        &self,
        name: &str,
        attributes: u16,
        in_one_piece: bool,
        first: u32,
        valid: u64,
        len: u64,
    ) -> (u64, Vec<u8>) {
        let set = set_of(name, attributes, in_one_piece, first, valid, len);
        assert_eq!(set.len(), 96);
        (self.sets, set)
    }

    /// A record of the root directory of this type.
    fn special(&self, kind: u8) -> u64 {
        let root = self.places.position(self.places.root);
        (0..16).map(|index| root + index * 32).find(|at| self.disk.0[*at as usize] == kind).unwrap()
    }
}

#[track_caller]
fn check_said<T>(outcome: Result<T, GuestError>, expected: &str) {
    let said = outcome.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(said.contains(expected), "{said}\n  does not say: {expected}");
}

fn listed(tree: &dyn FileSystem, directory: NodeId) -> (Vec<String>, Result<(), GuestError>) {
    let mut names = Vec::new();
    let outcome = tree.read_directory(directory, &mut |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        ControlFlow::Continue(())
    });
    (names, outcome)
}

/// A boot region with some bytes changed, whose checksum is right.
fn boot_region(sample: &Sample, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut region = sample.disk.0[..12 * 512].to_vec();
    for (at, bytes) in changes {
        region[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let summed = region[..11 * 512].iter().enumerate().filter(|(at, _)| ![106, 107, 112].contains(at));
    let sum = summed.fold(0u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    region[11 * 512..].chunks_exact_mut(4).for_each(|place| place.copy_from_slice(&sum.to_le_bytes()));
    region
}

#[test]
fn boot_regions_that_cannot_be_are_refused() {
    let sample = sample();
    let cases: [(usize, &[u8], &str); 17] = [
        (3, b"EXFUT", "name of an exFAT at 0x3 of the volume: expected \"EXFAT   \", found \"EXFUT   \""),
        (30, &[1], "boot sector of an exFAT at 0xb of the volume: expected 53 zeros"),
        (108, &[8], "log2 of the bytes of an exFAT's sector at 0x6c of the volume: expected 9 to 12, found 8"),
        (108, &[255], "expected 9 to 12, found 255"),
        (109, &[17], "log2 of the sectors of an exFAT's cluster at 0x6d of the volume: expected at most 16, found 17"),
        (109, &[255], "expected at most 16, found 255"),
        (105, &[2], "exFAT of revision 2.00 is not supported"),
        (110, &[0], "number of an exFAT's tables at 0x6e of the volume: expected 1 or 2, found 0"),
        (72, &[0xff; 8], "sectors of an exFAT at 0x48 of the volume: expected fewer than 2^62 bytes"),
        (80, &[1, 0, 0, 0], "file allocation table of an exFAT at 0x50 of the volume: expected after the boot regions"),
        (84, &[0xff; 4], "file allocation table of an exFAT at 0x50 of the volume: expected after the boot regions"),
        (84, &[1, 0, 0, 0], "file allocation table of an exFAT at 0x54 of the volume: expected"),
        (88, &[0xff; 4], "clusters of an exFAT at 0x5c of the volume: expected 1 to 0"),
        (92, &[0; 4], "clusters of an exFAT at 0x5c of the volume: expected 1 to"),
        (92, &[0xff; 4], "file allocation table of an exFAT at 0x54 of the volume: expected 17179869188 bytes"),
        (96, &[0; 4], "root directory of an exFAT at 0x60 of the volume: expected a cluster from 2 to"),
        (96, &[0xff; 4], "found cluster 4294967295"),
    ];
    for (at, bytes, expected) in cases {
        let region = boot_region(&sample, &[(at, bytes)]);
        check_said(exfat::open(sample.patched(&[(0, region.clone()), (12 * 512, region.clone())])), expected);
        // With its copy sound, it is read.
        let tree = sample.open(&[(0, region)]);
        let [warning] = &tree.summary().warnings[..] else { panic!("{:?}", tree.summary().warnings) };
        assert!(warning.starts_with("the boot region is damaged, its copy was used: "), "{warning}");
        assert!(warning.contains(expected), "{warning}");
        assert_eq!(listed(&tree, tree.root()).0, ["FILE", "PIECE", "A"]);
    }
    let tree = sample.open(&[(400, vec![1])]);
    assert!(
        tree.summary().warnings[0].contains("checksum of an exFAT's boot region at 0x1600"),
        "{:?}",
        tree.summary()
    );
    let both = sample.patched(&[(400, vec![1]), (12 * 512 + 400, vec![1])]);
    check_said(exfat::open(both), "checksum of an exFAT's boot region at 0x1600 of the volume: expected");
    let short: Arc<dyn Disk> = Arc::new(MemoryDisk(sample.disk.0[..3000].to_vec()));
    check_said(exfat::open(short), "expected 6144 bytes, found a volume of 3000 bytes");
}

#[test]
fn a_volume_that_was_in_use_is_warned_of() {
    let sample = sample();
    for (flags, expected) in [
        (0u8, &[][..]),
        (2, &["not unmounted: the newest changes may be missing or half done"]),
        (4, &["the guest's system met errors of the medium on this filesystem and recorded it"]),
    ] {
        assert_eq!(sample.open(&[(106, vec![flags])]).summary().warnings, expected);
    }
}

#[test]
fn a_damaged_bitmap_or_up_case_table_is_warned_of() {
    let sample = sample();
    let [bitmap, up_case] = [0x81, 0x82].map(|kind| sample.special(kind));
    let cases: [(u64, Vec<u8>, &str); 8] = [
        (bitmap + 20, vec![0xff; 4], "damaged: allocation bitmap at"),
        (bitmap + 20, vec![0; 4], "expected a cluster from 2 to"),
        (bitmap + 24, vec![1, 0], "damaged: length of the allocation bitmap at"),
        (bitmap, vec![0x01], "expected an allocation bitmap, found none"),
        (up_case + 20, vec![0xff; 4], "damaged: up-case table at"),
        (up_case + 24, vec![0xff; 8], "damaged: length of the up-case table at"),
        (up_case + 4, vec![1, 2, 3, 4], "damaged: checksum of the up-case table at"),
        (up_case, vec![0x02], "expected an up-case table, found none"),
    ];
    for (at, bytes, expected) in cases {
        let tree = sample.open(&[(at, bytes)]);
        let [warning] = &tree.summary().warnings[..] else { panic!("{expected}: {:?}", tree.summary().warnings) };
        assert!(warning.contains(expected), "{warning}\n  does not say: {expected}");
        assert_eq!(found(&tree, "file"), found(&tree, "FILE"));
    }
}

#[test]
fn entries_that_cannot_be_are_errors_of_their_directory() {
    let sample = sample();
    let clusters = sample.places.clusters;
    let cases: [((u64, Vec<u8>), &str); 12] = [
        ((sample.sets + 50, vec![0xee]), "checksum of a directory entry at"),
        ((sample.sets + 32, vec![0x40]), "expected 3 records that belong together, found 1"),
        ((sample.sets + 1, vec![0]), "expected 3 records that belong together, found 1"),
        (sample.other("FILE", 0x20, false, 100, 2501, 2500), "valid length of a file at"),
        (sample.other("FILE", 0x20, false, 100, 0, u64::MAX), "length of a file at"),
        (sample.other("FILE", 0x20, false, 0, 0, 10), "first cluster of a file at"),
        (sample.other("FILE", 0x20, false, clusters + 2, 0, 10), "expected a cluster from 2 to"),
        (sample.other("FILE", 0x20, true, clusters, 0, 2000), "last cluster of a file at"),
        (sample.other("../FILE", 0x20, true, 0, 0, 0), "expected a name without / and NUL, found \"../FILE\""),
        (sample.other("..", 0x20, true, 0, 0, 0), "expected a name without / and NUL, found \"..\""),
        (sample.other("A\0", 0x20, true, 0, 0, 0), "expected a name without / and NUL"),
        (sample.other("FILE", 0x10, false, sample.places.root, 512, 512), "clusters of its own for the directory FILE"),
    ];
    for (patch, expected) in cases {
        let tree = sample.open(&[patch]);
        let (names, outcome) = listed(&tree, tree.root());
        assert_eq!(names, ["PIECE", "A"], "{expected}");
        check_said(outcome, expected);
        survey(&tree);
    }
    let tree = sample.open(&[sample.other("PIECE", 0x20, true, 0, 0, 0)]);
    check_said(listed(&tree, tree.root()).1, "expected each name once, found PIECE again");
    // A directory in itself.
    let inner = sample.places.position(300);
    let tree = sample.open(&[(inner, set_of("B", 0x10, true, 300, 512, 512))]);
    check_said(
        listed(&tree, found(&tree, "A")).1,
        "expected clusters of its own for the directory B, found cluster 300",
    );
    // One that is too long.
    let tree = sample.open(&[sample.other("FILE", 0x10, true, 10, 1 << 20, 1 << 20)]);
    assert_eq!(tree.metadata(found(&tree, "FILE")).unwrap().kind, NodeKind::Directory);
}

#[test]
fn chains_that_cannot_be_are_errors_of_their_file() {
    let sample = sample();
    let cases = [
        (102, 100, "expected a chain from cluster 100 that ends, found one that comes back to cluster"),
        (102, 102, "one that comes back to cluster 102"),
        (102, 0, "after cluster 102 a cluster from 2 to"),
        (102, 0xffff_fff7, "found a bad cluster"),
        (102, 0x00ff_ffff, "found cluster 16777215"),
        (102, u32::MAX, "expected a chain of 5 clusters from cluster 100, found one of 4"),
    ];
    for (cluster, next, expected) in cases {
        let tree = sample.open(&[sample.entry(cluster, next)]);
        let file = found(&tree, "FILE");
        let mut content = vec![0; 2500];
        check_said(tree.read_at(file, 0, &mut content), expected);
        if !expected.contains("comes back") {
            assert_eq!(tree.read_at(file, 0, &mut content[..2048]).unwrap(), 2048);
            assert!(content[..2048].iter().all(|byte| *byte == 7));
        }
    }
    let root = sample.places.root;
    let tree = sample.open(&[sample.entry(root, 0)]);
    assert!(!listed(&tree, tree.root()).0.is_empty());
    check_said(exfat::open(sample.patched(&[sample.entry(root, root)])), "comes back to cluster");
}

#[test]
fn damage_anywhere_neither_panics_nor_hangs() {
    let sample = sample();
    survey(&sample.open(&[]));
    let places = &sample.places;
    let root = places.position(places.root) as usize;
    let mut random = Random(5);
    let mut refused = 0;
    for round in 0..3000 {
        let mut patches = Vec::new();
        for _ in 0..=random.below(2) {
            let at = match random.below(4) {
                0 => random.below(128),
                1 => places.table as usize + random.below(1700),
                2 => root + random.below(512),
                _ => places.position(300) as usize + random.below(1024),
            };
            let patch = random.damage(&sample.disk, at);
            // Checksums that are right let damage in.
            if at < 128 && round % 2 == 0 {
                let region = boot_region(&sample, &[(at, &patch.1)]);
                patches.extend([(0, region.clone()), (12 * 512, region)]);
            }
            patches.push(patch);
            let sets = sample.sets as usize;
            if (sets..sets + 96).contains(&at) {
                let mut set = vec![0; 96];
                let disk = sample.patched(&patches);
                disk.read_at(abbild::units::GuestOffset(sample.sets), &mut set).unwrap();
                seal(&mut set);
                patches.push((sample.sets, set));
            }
        }
        match exfat::open(sample.patched(&patches)) {
            Ok(tree) => survey(&tree),
            Err(_) => refused += 1,
        }
    }
    assert!((20..1500).contains(&refused), "{refused} refused");
    for _ in 0..300 {
        let len = random.below(sample.disk.0.len());
        let cut: Arc<dyn Disk> = Arc::new(MemoryDisk(sample.disk.0[..len].to_vec()));
        if let Ok(tree) = exfat::open(cut) {
            assert!(!tree.summary().warnings.is_empty());
            survey(&tree);
        }
    }
}
