//! exFAT: volumes made by `mkfs.exfat` in every shape, filled by the FUSE driver `exfat-fuse`, and seen by us and by it. What
//! it cannot make (unwritten ends, zones, files beyond 4 GiB) is made here, byte by byte.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use abbild::disk::ExtentKind;
use abbild::guest::detect::detect;
use abbild::guest::exfat::{self, ExFat};
use abbild::guest::machine;
use abbild::guest::tree::{FileSystem, Time};
use rustix::fs as sys;

use crate::guest_fat::found;
use crate::guest_tree::{Field, Tree, compare, disk, noise, of_folder, of_tree, run};

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
pub(crate) fn open(image: &Path) -> ExFat {
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
pub(crate) struct Places {
    pub cluster: u64,
    pub table: u64,
    pub heap: u64,
    pub clusters: u32,
    pub root: u32,
}

impl Places {
    pub fn of(boot: &[u8]) -> Places {
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

    pub fn position(&self, cluster: u32) -> u64 {
        self.heap + u64::from(cluster - 2) * self.cluster
    }
}

/// A file's set of records; its checksum is right.
pub(crate) fn set_of(name: &str, attributes: u16, in_one_piece: bool, first: u32, valid: u64, len: u64) -> Vec<u8> {
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
pub(crate) fn seal(set: &mut [u8]) {
    let bytes = set.iter().enumerate().filter(|(at, _)| !(2..4).contains(at));
    let sum = bytes.fold(0u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
}

/// Where the next set in the root directory of a new volume goes.
pub(crate) fn root_end(image: &Path, places: &Places) -> u64 {
    let mut root = vec![0; places.cluster as usize];
    fs::File::open(image).unwrap().read_exact_at(&mut root, places.position(places.root)).unwrap();
    let used = root.chunks_exact(32).position(|record| record[0] == 0).unwrap();
    places.position(places.root) + used as u64 * 32
}

pub(crate) fn patch(image: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

#[track_caller]
pub(crate) fn places_of(image: &Path) -> Places {
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
