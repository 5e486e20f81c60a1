//! FAT12, FAT16 and FAT32: volumes made by `mkfs.fat` in every shape, filled by Linux' vfat or by mtools, and seen by us and
//! by vfat. Host kernels without one borrow it from a user mode Linux.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use abbild::guest::detect::detect;
use abbild::guest::fat::{self, Fat};
use abbild::guest::machine;
use abbild::guest::tree::{FileSystem, NodeId, NodeKind, Time};
use serde_json::{Value, json};

use crate::guest_tree::{Named, Seen, Tree, compare, disk, hash_of, noise, of_tree, run};
use crate::user_mode_linux;

/// A sparse image file of so many KiB with a new FAT, made with these options.
#[track_caller]
pub(crate) fn made(folder: &Path, name: &str, kib: u64, options: &str) -> PathBuf {
    let image = folder.join(name);
    fs::File::create(&image).unwrap().set_len(kib << 10).unwrap();
    let mut args: Vec<&str> = options.split_whitespace().collect();
    args.push(image.to_str().unwrap());
    run("mkfs.fat", &args);
    image
}

#[track_caller]
fn open(image: &Path) -> Fat {
    fat::open(disk(image)).unwrap()
}

/// Where things lie on a volume, as its boot sector says.
pub(crate) struct Places {
    pub sector: u64,
    pub cluster: u64,
    pub table: u64,
    pub table_len: u64,
    pub root: u64,
    pub heap: u64,
}

impl Places {
    pub fn of(image: &Path) -> Places {
        let mut boot = [0; 512];
        fs::File::open(image).unwrap().read_exact_at(&mut boot, 0).unwrap();
        let le16 = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let sector = le16(11);
        let sectors = if le16(22) == 0 { le16(36) | le16(38) << 16 } else { le16(22) };
        let table = le16(14) * sector;
        let root = table + u64::from(boot[16]) * sectors * sector;
        Places {
            sector,
            cluster: sector * u64::from(boot[13]),
            table,
            table_len: sectors * sector,
            root,
            heap: root + (le16(17) * 32).div_ceil(sector) * sector,
        }
    }

    fn position(&self, cluster: u64) -> u64 {
        self.heap + (cluster - 2) * self.cluster
    }
}

fn patch(image: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

/// A directory's record.
fn record(name: &[u8; 11], attributes: u8, case: u8, first: u32, bytes: u32) -> [u8; 32] {
    let mut record = [0; 32];
    record[..11].copy_from_slice(name);
    record[11..13].copy_from_slice(&[attributes, case]);
    record[13..20].copy_from_slice(&[150, 0x21, 0x7a, 0x5d, 0x58, 0x5e, 0x58]);
    record[20..22].copy_from_slice(&first.to_le_bytes()[2..]);
    record[22..26].copy_from_slice(&[0x22, 0x7b, 0x5f, 0x58]);
    record[26..28].copy_from_slice(&first.to_le_bytes()[..2]);
    record[28..].copy_from_slice(&bytes.to_le_bytes());
    record
}

/// The records of a long name, as they lie before the short one.
fn long_records(units: &[u16], checksum: u8) -> Vec<[u8; 32]> {
    let mut padded = units.to_vec();
    if !padded.len().is_multiple_of(13) {
        padded.push(0);
        padded.resize(padded.len().next_multiple_of(13), 0xffff);
    }
    let count = padded.len() / 13;
    let piece = |(index, units): (usize, &[u16])| {
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let mut record = [0; 32];
        record[0] = (index + 1) as u8 | if index + 1 == count { 0x40 } else { 0 };
        record[1..11].copy_from_slice(&bytes[..10]);
        record[11] = 0x0f;
        record[13] = checksum;
        record[14..26].copy_from_slice(&bytes[10..22]);
        record[28..].copy_from_slice(&bytes[22..]);
        record
    };
    padded.chunks(13).enumerate().map(piece).rev().collect()
}

fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

// ---- the judge ------------------------------------------------------------------------------------------------------

/// What vfat shows of a volume, and the DOS attributes of every path.
fn of_vfat(work: &Path, device: &str) -> (Tree, BTreeMap<Vec<u8>, u32>) {
    let nodes: Vec<Value> = serde_json::from_slice(&fs::read(work.join(format!("{device}.json"))).unwrap()).unwrap();
    let contents = fs::read(work.join(format!("{device}.contents"))).unwrap();
    let (mut tree, mut attributes) = (Tree::new(), BTreeMap::new());
    for node in nodes {
        let number = |field: &str| node[field].as_u64().unwrap();
        let time = |field: &str| Time {
            seconds: node[field][0].as_i64().unwrap(),
            nanoseconds: u32::try_from(node[field][1].as_u64().unwrap()).unwrap(),
        };
        let hex = node["path"].as_str().unwrap().as_bytes();
        let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
        let path: Vec<u8> = hex.chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect();
        let size = number("size");
        let is_file = number("mode") & 0o170_000 == 0o100_000;
        let content = is_file.then(|| {
            let from = number("contents_at");
            Ok(hash_of(size, &[], &mut |at, buf| {
                let start = (from + at) as usize;
                buf.copy_from_slice(&contents[start..start + buf.len()]);
            }))
        });
        let seen = Seen {
            kind: if is_file { NodeKind::File } else { NodeKind::Directory },
            size,
            allocated: number("allocated"),
            mode: (number("mode") & 0o7777) as u16,
            uid: number("uid") as u32,
            gid: number("gid") as u32,
            links: number("links") as u32,
            device: None,
            modified: time("modified"),
            accessed: time("accessed"),
            changed: time("changed"),
            created: Some(time("created")),
            attributes: Vec::new(),
            target: None,
            content,
            data: if is_file && size > 0 { std::iter::once(0..size).collect() } else { Vec::new() },
        };
        attributes.insert(path.clone(), number("attributes") as u32);
        // No FAT has hard links: every name is a node.
        tree.insert(path.clone(), Named { first_name: path, node: Rc::new(seen) });
    }
    (tree, attributes)
}

/// The node of a path.
#[track_caller]
pub(crate) fn found(tree: &dyn FileSystem, path: &str) -> NodeId {
    let steps = path.split('/').filter(|step| !step.is_empty());
    steps.fold(tree.root(), |node, step| tree.lookup(node, step.as_bytes()).unwrap().expect(path))
}

/// A volume to be judged: its image, options of the mount that fills it, what it is filled with.
type Judged<'a> = (PathBuf, &'a [&'a str], &'a [&'a str]);

/// Has vfat fill all these volumes; what it shows of each, and the DOS attributes of every path.
#[track_caller]
pub(crate) fn shown_by_vfat(work: &Path, volumes: &[Judged<'_>]) -> Vec<(Tree, BTreeMap<Vec<u8>, u32>)> {
    let device = |number: usize| format!("ubd{}", char::from(b'a' + number as u8));
    let images: Vec<PathBuf> = volumes.iter().map(|(image, ..)| image.clone()).collect();
    let plan: Vec<Value> = volumes
        .iter()
        .enumerate()
        .map(|(number, (_, options, fill))| json!({"device": device(number), "options": options, "fill": fill}))
        .collect();
    fs::write(work.join("plan.json"), serde_json::to_vec(&plan).unwrap()).unwrap();
    user_mode_linux::boot("vfat.py", work, &images);
    let shown = (0..images.len()).map(|number| {
        let (mut shown, attributes) = of_vfat(work, &device(number));
        // The root has no record that could say when it was made; to vfat, that is 1970.
        let root = Rc::make_mut(&mut shown.get_mut(&b""[..]).unwrap().node);
        assert_eq!(root.created.take(), Some(Time::default()));
        (shown, attributes)
    });
    shown.collect()
}

/// Has vfat fill and show all these volumes, and compares. Returns how many nodes were compared.
#[track_caller]
fn judge(work: &Path, volumes: &[Judged<'_>]) -> usize {
    let mut compared = 0;
    for ((image, ..), (expected, expected_attributes)) in volumes.iter().zip(shown_by_vfat(work, volumes)) {
        let what = image.file_name().unwrap().to_str().unwrap();
        let tree = open(image);
        assert_eq!(tree.summary().warnings, Vec::<String>::new(), "{what}");
        compare(what, &expected, &of_tree(&tree), &[]);
        for (path, attributes) in &expected_attributes {
            let shown = String::from_utf8_lossy(path);
            let metadata = tree.metadata(found(&tree, &shown)).unwrap();
            assert_eq!(metadata.attributes, Some(*attributes), "{what}: {shown}");
        }
        compared += expected.len();
    }
    compared
}

pub(crate) const BASIC: &[&str] = &["names", "files", "folders", "attributes"];

#[test]
fn every_shape_is_what_linux_shows() {
    let dir = user_mode_linux::folder();
    let work = dir.path();
    let volumes: &[Judged<'_>] = &[
        (made(work, "fat12-floppy", 1440, "-F 12"), &[], &["attributes", "full root"]),
        (made(work, "fat12-sectors-of-2048", 12 << 10, "-F 12 -S 2048 -s 2"), &[], BASIC),
        (made(work, "fat16-names-of-windows-nt", 64 << 10, "-F 16 -s 4"), &["shortname=winnt"], BASIC),
        (made(work, "fat16-sectors-of-1024", 300 << 10, "-F 16 -S 1024 -s 32 -r 2048 -f 1"), &[], BASIC),
        (made(work, "fat32-one-sector-a-cluster", 40 << 10, "-F 32 -s 1"), &[], &["names", "files", "many"]),
        (made(work, "fat32-few-sectors", 16 << 10, "-F 32 -s 2 -R 8"), &["shortname=winnt"], BASIC),
        (made(work, "fat32-sectors-of-4096", 512 << 10, "-F 32 -S 4096 -s 1"), &[], BASIC),
        (made(work, "fat32-large-clusters", 2300 << 10, "-F 32 -s 64"), &[], BASIC),
    ];
    let compared = judge(work, volumes);
    println!("{compared} nodes on {} volumes are the same to vfat", volumes.len());
    assert!(compared > 12_000, "{compared}");
    let kinds = volumes.iter().map(|(image, ..)| open(image).summary().kind);
    let expected = ["fat12", "fat12", "fat16", "fat16", "fat32", "fat32", "fat32", "fat32"];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
    assert_eq!(u16::from_le_bytes(fs::read(&volumes[5].0).unwrap()[19..21].try_into().unwrap()), 32768);
}

#[test]
fn volumes_that_mtools_filled_are_what_linux_shows() {
    let dir = user_mode_linux::folder();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("folder/inner")).unwrap();
    for (name, len) in [("SHORT.TXT", 10), ("small.txt", 5000), ("Mixed.Txt", 0), ("Größe.txt", 70_000), ("a b c", 1)]
    {
        fs::write(from.join("folder").join(name), noise(len, len as usize)).unwrap();
    }
    for number in 0..80 {
        fs::write(from.join(format!("folder/inner/differs only at the end {number}")), number.to_string()).unwrap();
    }
    let mut volumes: Vec<Judged<'_>> = Vec::new();
    for (name, kib, options) in [("12", 1440, "-F 12"), ("16", 20 << 10, "-F 16 -s 1"), ("32", 40 << 10, "-F 32 -s 1")]
    {
        let image = made(dir.path(), name, kib, options);
        let [image_name, folder] = [&image, &from.join("folder")].map(|path| path.to_str().unwrap().to_owned());
        run("mcopy", &["-s", "-m", "-Q", "-i", &image_name, &folder, "::/"]);
        run("mdel", &["-i", &image_name, "::/folder/inner/differs only at the end 7*"]);
        run("mattrib", &["+h", "+s", "-i", &image_name, "::/folder/small.txt"]);
        volumes.push((image, &[], &[]));
    }
    let compared = judge(dir.path(), &volumes);
    assert_eq!(compared, 3 * (1 + 1 + 5 + 1 + 69), "{compared}");
}

/// Records that no driver of today writes, but old ones and faulty ones did.
#[test]
fn strange_records_are_what_linux_shows() {
    let dir = user_mode_linux::folder();
    let image = made(dir.path(), "strange", 20 << 10, "-F 16 -s 4 -r 1024");
    let mut records = Vec::new();
    // Every character of the code page that a name can have, in both cases. (Linux shows a dot at the end, and does not find
    // it.)
    for (index, byte) in (1..=255u8).filter(|byte| !b"/ .".contains(byte)).enumerate() {
        let mut name = *b"N       E  ";
        name[1..4].copy_from_slice(format!("{index:03}").as_bytes());
        (name[4], name[9]) = (byte, byte);
        records.push(record(&name, 0x20, [0x18, 0x08, 0x10, 0][index % 4], 0, 0));
    }
    records.push(record(b"\x05IRST BYTE ", 0x20, 0, 0, 0));
    records.push(record(b"       EXTE", 0x20, 0, 0, 0));
    records.push(record(b"IN NER  A B", 0x20, 0x18, 0, 0));
    let long = |name: &str, short: &[u8; 11], sum: u8| {
        let units: Vec<u16> = name.encode_utf16().collect();
        let mut records = long_records(&units, sum);
        records.push(record(short, 0x20, 0, 0, 0));
        records
    };
    records.extend(long("a sound long name", b"SOUND      ", checksum(b"SOUND      ")));
    records.extend(long("of another short name", b"OTHER      ", checksum(b"ANOTHER    ")));
    let mut without_last = long("two pieces, and the first is gone", b"NOLAST     ", checksum(b"NOLAST     "));
    without_last.remove(0);
    records.extend(without_last);
    let mut without_middle = long("three pieces, and the middle one is gone", b"NOMIDDLE   ", checksum(b"NOMIDDLE   "));
    without_middle.remove(1);
    records.extend(without_middle);
    let mut begun_anew = long("a name that never ended, in two pieces", b"BEGUN      ", checksum(b"BEGUN      "));
    begun_anew.truncate(1);
    records.extend(begun_anew);
    records.extend(long("and one that began after it", b"ANEW       ", checksum(b"ANEW       ")));
    let mut deleted = long("its short name was deleted", b"DELETED    ", checksum(b"DELETED    "));
    deleted.last_mut().unwrap()[0] = 0xe5;
    records.extend(deleted);
    records.push(record(b"A LABEL    ", 0x08, 0, 0, 0));
    records.push(record(b"NODATES    ", 0x20, 0, 0, 0));
    let all = records.len();
    records[all - 1][13..20].fill(0);
    records[all - 1][22..26].fill(0);
    records.push(record(b"WRONGDATES ", 0x20, 0, 0, 0));
    records[all][24..26].copy_from_slice(&0x0600u16.to_le_bytes()); // month 0, day 0
    let places = Places::of(&image);
    patch(&image, places.root, records.as_flattened());
    fs::write(dir.path().join("plan.json"), r#"[{"device": "ubda", "options": [], "fill": []}]"#).unwrap();
    user_mode_linux::boot("vfat.py", dir.path(), std::slice::from_ref(&image));
    let (mut expected, _) = of_vfat(dir.path(), "ubda");
    // What is no date we do not show where we need not.
    for path in [&b""[..], b"NODATES"] {
        let named = expected.get_mut(path).unwrap();
        named.node = Rc::new(Seen { created: None, ..(*named.node).clone() });
    }
    let tree = open(&image);
    compare("strange", &expected, &of_tree(&tree), &[]);
    assert_eq!(expected.len(), 1 + 252 + 3 + 5 + 2);
    assert_eq!(tree.summary().label, "A LABEL");
}

#[test]
fn names_are_found_whatever_their_case_and_by_their_short_form() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", 1440, "-F 12");
    let from = dir.path().join("A folder with Ümläuts");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("A long name.text"), "").unwrap();
    run("mcopy", &["-s", "-i", image.to_str().unwrap(), from.to_str().unwrap(), "::/"]);
    let tree = open(&image);
    let node = found(&tree, "A folder with Ümläuts/A long name.text");
    for path in ["a FOLDER with üMLÄUTS/A LONG NAME.TEXT", "AFOLDE~1/ALONGN~1.TEX", "afolde~1/alongn~1.tex"] {
        assert_eq!(found(&tree, path), node, "{path}");
    }
    assert_eq!(tree.lookup(tree.root(), b"A folder with Umlauts").unwrap(), None);
    assert_eq!(tree.lookup(tree.root(), b"\xff").unwrap(), None);
}

#[test]
fn labels_and_serial_numbers_are_those_of_blkid() {
    let dir = tempfile::tempdir().unwrap();
    for (number, options) in
        ["-F 12 -s 32 -n LABEL", "-F 16 -s 4 -i 1234abcd", "-F 32 -s 1 -n A-LABEL"].into_iter().enumerate()
    {
        let image = made(dir.path(), &number.to_string(), 40 << 10, options);
        let summary = open(&image).summary().clone();
        let content = detect(disk(&image).as_ref()).unwrap();
        assert_eq!(summary.kind, content.kind.word());
        let blkid = |tag: &str| {
            let outcome = run("blkid", &["-p", "-o", "export", image.to_str().unwrap()]);
            let line = outcome.lines().find_map(|line| line.strip_prefix(&format!("{tag}=")).map(str::to_owned));
            line.unwrap_or_default()
        };
        assert_eq!((summary.label.clone(), summary.uuid.clone()), (blkid("LABEL"), blkid("UUID")), "{options}");
        let opened = machine::open(content.kind, &disk(&image)).unwrap();
        assert_eq!(opened.summary(), &summary);
        assert_eq!((summary.size, summary.warnings.len()), (40 << 20, 0));
    }
}

#[test]
fn a_volume_that_was_in_use_is_warned_of() {
    const IN_USE: &str = "not unmounted: the newest changes may be missing or half done";
    const FAILED: &str = "the guest's system met errors of the medium on this filesystem and recorded it";
    let dir = tempfile::tempdir().unwrap();
    let shapes = [
        ("-F 12", 37, [0xff; 4]),
        ("-F 16 -s 4", 37, [0xf8, 0xff, 0xff, 0x7f]),
        ("-F 32 -s 1", 65, [0xff, 0xff, 0xff, 0xf7]),
    ];
    for (number, (options, state_at, in_use)) in shapes.into_iter().enumerate() {
        let image = made(dir.path(), &number.to_string(), if number == 0 { 1440 } else { 40 << 10 }, options);
        let places = Places::of(&image);
        assert_eq!(open(&image).summary().warnings, Vec::<String>::new(), "{options}");
        patch(&image, state_at, &[1]);
        assert_eq!(open(&image).summary().warnings, [IN_USE], "{options}");
        patch(&image, state_at, &[0]);
        if number == 0 {
            continue; // no room for marks in 12 bits
        }
        let mut mark = in_use;
        let width = if number == 1 { 2 } else { 4 };
        let at = places.table + width;
        patch(&image, at, &mark[4 - width as usize..]);
        assert_eq!(open(&image).summary().warnings, [IN_USE], "{options}");
        mark[3] ^= 0xc0 >> if number == 1 { 0 } else { 4 };
        patch(&image, at, &mark[4 - width as usize..]);
        assert_eq!(open(&image).summary().warnings, [FAILED], "{options}");
    }
}

#[test]
fn the_active_table_is_the_one_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", 40 << 10, "-F 32 -s 1");
    fs::write(dir.path().join("FILE"), noise(1, 3000)).unwrap();
    run("mcopy", &["-i", image.to_str().unwrap(), dir.path().join("FILE").to_str().unwrap(), "::/"]);
    let expected = of_tree(&open(&image));
    let places = Places::of(&image);
    // Without the first table nothing is found any more, until the boot sector says that only the second counts.
    patch(&image, places.table + 12, &vec![0; places.table_len as usize - 12]);
    let mut content = [0; 3000];
    let tree = open(&image);
    assert!(tree.read_at(found(&tree, "FILE"), 0, &mut content).is_err());
    patch(&image, 40, &[0x81, 0]);
    compare("the second table", &expected, &of_tree(&open(&image)), &[]);
}

/// As long as a FAT allows, and no two of its clusters beside each other.
#[test]
fn a_file_of_almost_4_gib_in_pieces_is_read_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "image", 5 << 20, "-F 32 -s 8 -f 1");
    let places = Places::of(&image);
    assert_eq!((places.sector, places.cluster), (512, 4096));
    // Clusters in the order 3, 1000003, 4, 1000004…: the table's pages change with every step.
    let size = 0xffff_efffu64; // with one cluster more, fsck.fat counts to 2^32 and is at 0
    let count = size.div_ceil(4096);
    let cluster = |index: u64| 1000 + index / 2 + index % 2 * 600_000;
    let mut table = vec![0; (count as usize / 2 + 601_000) * 4];
    for index in 0..count {
        let next = if index + 1 == count { 0x0fff_ffff } else { cluster(index + 1) };
        let at = cluster(index) as usize * 4;
        table[at..at + 4].copy_from_slice(&(next as u32).to_le_bytes());
    }
    patch(&image, places.table + 4000, &table[4000..]);
    patch(&image, places.root, &record(b"LARGE   BIN", 0x20, 0, 1000, size as u32));
    patch(&image, 512 + 488, &[0xff; 4]); // nobody counted what is free
    run("fsck.fat", &["-n", image.to_str().unwrap()]);
    let marks = [0, 4090, 8192, 1 << 20, (2 << 30) - 3, (3 << 30) + 4000, size - 9];
    for at in marks {
        for (index, byte) in (at..at + 9).zip(b"found it!") {
            patch(&image, places.position(cluster(index / 4096)) + index % 4096, &[*byte]);
        }
    }
    let tree = open(&image);
    let file = found(&tree, "large.bin");
    assert_eq!(tree.metadata(file).unwrap().size, size);
    for at in marks {
        let mut buf = [0; 9];
        assert_eq!(tree.read_at(file, at, &mut buf).unwrap(), 9);
        assert_eq!(&buf, b"found it!", "{at}");
    }
    let mut buf = vec![0; 100_000];
    assert_eq!(tree.read_at(file, size - 1000, &mut buf).unwrap(), 1000);
    assert_eq!(tree.extent_at(file, 5).unwrap().unwrap().len.0, size - 5);
    assert_eq!(tree.extent_at(file, size).unwrap(), None);
}
