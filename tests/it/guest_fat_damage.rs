//! FAT volumes that are damaged, or made to harm: each way with what is said about it, and many at random.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use abbild::disk::{Disk, MemoryDisk};
use abbild::guest::fat::{self, Fat};
use abbild::guest::tree::{FileSystem, NodeId};
use abbild::guest::window::Window;
use abbild::units::{ByteLen, GuestOffset};

use crate::guest_fat::{Places, found, made};
use crate::guest_tree::{run, survey};
use crate::patched::{Patch, Patched, Random};

/// A small volume: folders in folders, long names, files in pieces.
struct Sample {
    disk: Arc<MemoryDisk>,
    places: Places,
}

impl Sample {
    fn new(kib: u64, options: &str) -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let image = made(dir.path(), "image", kib, options);
        let from = dir.path().join("A");
        fs::create_dir_all(from.join("B/C")).unwrap();
        fs::write(from.join("FILE"), [7; 5000]).unwrap();
        fs::write(from.join("B/a file with a long name"), [8; 3000]).unwrap();
        for number in 0..40 {
            fs::write(from.join(format!("B/C/a file with a long name, number {number}")), vec![9; number * 10])
                .unwrap();
        }
        run("mcopy", &["-s", "-m", "-Q", "-i", image.to_str().unwrap(), from.to_str().unwrap(), "::/"]);
        let places = Places::of(&image);
        Sample { disk: Arc::new(MemoryDisk(fs::read(&image).unwrap())), places }
    }

    fn patched(&self, patches: &[Patch]) -> Arc<dyn Disk> {
        Arc::new(Patched { below: self.disk.clone(), patches: patches.to_vec() })
    }

    fn open(&self, patches: &[Patch]) -> Fat {
        fat::open(self.patched(patches)).unwrap()
    }

    /// The record of a path, where it lies, and its first cluster.
    fn record(&self, path: &str) -> (u64, u32) {
        let at = found(&self.open(&[]), path).number;
        let record = &self.disk.0[at as usize..][..32];
        (at, u32::from_le_bytes([record[26], record[27], record[20], record[21]]))
    }

    /// A record that leads elsewhere.
    fn leading_to(&self, path: &str, cluster: u32) -> Vec<Patch> {
        let (at, _) = self.record(path);
        let bytes = cluster.to_le_bytes();
        vec![(at + 26, bytes[..2].to_vec()), (at + 20, bytes[2..].to_vec())]
    }

    /// An entry of the FAT32's table.
    fn entry(&self, cluster: u32, value: u32) -> Patch {
        (self.places.table + u64::from(cluster) * 4, value.to_le_bytes().to_vec())
    }
}

/// Below 65,525 clusters it would be FAT16 to mtools.
fn fat32() -> Sample {
    Sample::new(36 << 10, "-F 32 -s 1")
}

#[track_caller]
fn check_said<T>(outcome: Result<T, abbild::guest::GuestError>, expected: &str) {
    let said = outcome.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(said.contains(expected), "{said}\n  does not say: {expected}");
}

fn names(tree: &dyn FileSystem, directory: NodeId) -> (Vec<String>, Result<(), abbild::guest::GuestError>) {
    let mut names = Vec::new();
    let outcome = tree.read_directory(directory, &mut |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        ControlFlow::Continue(())
    });
    (names, outcome)
}

#[test]
fn boot_sectors_that_cannot_be_are_refused() {
    let sample = fat32();
    let cases: [(u64, &[u8], &str); 17] = [
        (11, &[0, 0], "bytes of a FAT's sector at 0xb of the volume: expected 512, 1024, 2048 or 4096, found 0"),
        (11, &[1, 2], "expected 512, 1024, 2048 or 4096, found 513"),
        (11, &[0, 0x20], "expected 512, 1024, 2048 or 4096, found 8192"),
        (13, &[0], "sectors of a FAT's cluster at 0xd of the volume: expected a power of two, found 0"),
        (13, &[3], "expected a power of two, found 3"),
        (14, &[0, 0], "reserved sectors of a FAT at 0xe of the volume: expected at least 1, found 0"),
        (16, &[0], "number of file allocation tables at 0x10 of the volume: expected at least 1, found 0"),
        (21, &[0x12], "media of a FAT at 0x15 of the volume: expected f0, or f8 to ff, found 12"),
        (36, &[0; 4], "sectors of a file allocation table at 0x24 of the volume: expected at least 1, found 0"),
        (36, &[0xff; 4], "sectors of a FAT at 0x20 of the volume: expected more than the 8589934622 before"),
        (19, &[1, 0], "sectors of a FAT at 0x20 of the volume: expected more than the"),
        (42, &[1, 2], "FAT32 of version 2.1 is not supported"),
        (44, &[0; 4], "root directory of a FAT at 0x2c of the volume: expected a cluster from 2 to"),
        (44, &[0xff; 4], "found cluster 4294967295"),
        (40, &[0x8f, 0], "active file allocation table at 0x28 of the volume: expected below 2, found 15"),
        // A table in 16 bits on so many clusters.
        (
            19,
            &[0, 0, 0xf8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            "expected fewer than 65525 with a table",
        ),
        (
            17,
            &[0, 0, 0, 16, 0xf8, 10, 0],
            "entries of a FAT's root directory at 0x11 of the volume: expected at least 1",
        ),
    ];
    for (at, bytes, expected) in cases {
        check_said(fat::open(sample.patched(&[(at, bytes.to_vec())])), expected);
    }
    let short: Arc<dyn Disk> = Arc::new(MemoryDisk(vec![0; 100]));
    check_said(fat::open(short), "expected 512 bytes, found a volume of 100 bytes");
}

#[test]
fn more_sectors_than_there_are_end_in_words() {
    let sample = fat32();
    let tree = sample.open(&[(19, vec![0, 0]), (32, vec![0xff; 4])]);
    assert!(
        tree.summary().warnings[0].starts_with("the volume ends before its filesystem does"),
        "{:?}",
        tree.summary()
    );
    assert_eq!(names(&tree, tree.root()).0, ["A"]);
    survey(&tree);
}

#[test]
fn chains_that_cannot_be_are_errors_of_their_file() {
    let sample = fat32();
    let (at, first) = sample.record("A/FILE");
    let clusters = sample.disk.0.len() as u64 / 512;
    let mut buf = [0; 5000];
    let one_after = |value: u32| vec![sample.entry(first + 2, value)];
    let cases: [(Vec<Patch>, String); 9] = [
        (one_after(first), format!("expected a chain from cluster {first} that ends, found one that comes back to")),
        (
            one_after(first + 2),
            format!("expected a chain from cluster {first} that ends, found one that comes back to"),
        ),
        (one_after(0), format!("after cluster {} a cluster from 2 to", first + 2)),
        (one_after(0), "found a free cluster".to_owned()),
        (one_after(0x0fff_fff7), "found a bad cluster".to_owned()),
        (one_after(1), "found cluster 1".to_owned()),
        (one_after(clusters as u32), format!("found cluster {clusters}")),
        (one_after(0x0fff_ffff), format!("expected a chain of 10 clusters from cluster {first}, found one of 3")),
        (
            vec![(at + 28, 20_000u32.to_le_bytes().to_vec())],
            format!("expected a chain of 40 clusters from cluster {first}, found one of 10"),
        ),
    ];
    for (patches, expected) in cases {
        let tree = sample.open(&patches);
        let file = found(&tree, "A/FILE");
        buf.fill(0);
        let mut whole = vec![0; 20_000];
        check_said(tree.read_at(file, 0, &mut whole), &expected);
        if !expected.contains("comes back") {
            assert_eq!(tree.read_at(file, 100, &mut buf[..1000]).unwrap(), 1000, "{expected}: what is sound");
            assert!(buf[..1000].iter().all(|byte| *byte == 7));
            let extent = tree.extent_at(file, 0).unwrap().unwrap();
            check_said(tree.extent_at(file, extent.len.0), &expected);
        }
        assert_eq!(names(&tree, found(&tree, "A")).0.len(), 2, "{expected}: others are not harmed");
    }
    for (cluster, shown) in [(0, "cluster 0"), (1, "cluster 1"), (0x0fff_0000, "cluster 268369920")] {
        let tree = sample.open(&sample.leading_to("A/FILE", cluster));
        let file = found(&tree, "A/FILE");
        check_said(tree.read_at(file, 0, &mut buf), &format!("first cluster of a file at {:#x} of the volume", at));
        check_said(tree.extent_at(file, 0), shown);
        let tree = sample.open(&sample.leading_to("A/B", cluster));
        check_said(tree.metadata(found(&tree, "A/B")), "first cluster of a directory at");
    }
    // Two files with the same clusters are odd, and readable.
    let tree = sample.open(&sample.leading_to("A/B/a file with a long name", first));
    assert_eq!(tree.read_at(found(&tree, "A/B/a file with a long name"), 0, &mut buf).unwrap(), 3000);
    assert!(buf[..3000].iter().all(|byte| *byte == 7));
}

#[test]
fn directories_in_rings_are_noticed() {
    let sample = fat32();
    let root = u32::from_le_bytes(sample.disk.0[44..48].try_into().unwrap());
    let [(_, a), (_, b), (_, c)] = ["A", "A/B", "A/B/C"].map(|path| sample.record(path));
    for (path, leads_to, above) in
        [("A", root, "/"), ("A/B", root, "A"), ("A/B", a, "A"), ("A/B/C", a, "A/B"), ("A/B/C", b, "A/B")]
    {
        let tree = sample.open(&sample.leading_to(path, leads_to));
        let (_, outcome) = names(&tree, found(&tree, above));
        let name = path.rsplit('/').next().unwrap();
        check_said(
            outcome,
            &format!("expected clusters of its own for the directory {name}, found cluster {leads_to}"),
        );
        survey(&tree);
    }
    // A chain of a directory that bites its tail.
    let tree = sample.open(&[sample.entry(b, b)]);
    check_said(names(&tree, found(&tree, "A/B")).1, "one that comes back to cluster");
    // One that breaks off: what comes before is there.
    let tree = sample.open(&[sample.entry(c, 0)]);
    let (found_names, outcome) = names(&tree, found(&tree, "A/B/C"));
    assert!((1..40).contains(&found_names.len()), "{found_names:?}");
    check_said(outcome, "found a free cluster");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let sample = fat32();
    let (at, _) = sample.record("A/FILE");
    for (name, expected) in [
        (b"../PASSW   ", "expected a name without / and NUL, found \"../PASSW\""),
        (b"        .  ", "expected a name without / and NUL, found \"..\""),
        (b"           ", "expected a name without / and NUL, found \"\""),
        (b"A\0B        ", "expected a name without / and NUL"),
        (b"B          ", "expected each name once, found B again"),
    ] {
        let tree = sample.open(&[(at, name.to_vec())]);
        let (found_names, outcome) = names(&tree, found(&tree, "A"));
        assert_eq!(found_names, ["B"]);
        check_said(outcome, expected);
        assert_eq!(tree.lookup(found(&tree, "A"), b"..").ok().flatten(), None);
    }
}

#[test]
fn a_directory_without_end_is_refused() {
    let sample = fat32();
    let (_, first) = sample.record("A/B");
    let clusters: Vec<u32> = (20_000..24_200).collect();
    let mut table = vec![sample.entry(first, clusters[0])];
    table.extend(clusters.iter().map(|cluster| sample.entry(*cluster, cluster + 1)));
    let tree = sample.open(&table);
    check_said(names(&tree, found(&tree, "A/B")).1, "length of a directory");
    check_said(tree.metadata(found(&tree, "A/B")), "expected at most 2097152 bytes, found more");
}

#[test]
fn damage_anywhere_neither_panics_nor_hangs() {
    for (kib, options) in [(1440, "-F 12"), (5 << 10, "-F 16 -s 1 -r 64"), (36 << 10, "-F 32 -s 1")] {
        let sample = Sample::new(kib, options);
        survey(&sample.open(&[]));
        let places = &sample.places;
        let mut random = Random(kib);
        let mut refused = 0;
        for _ in 0..1200 {
            let mut patches = Vec::new();
            for _ in 0..=random.below(2) {
                // The boot sector's fields, the part of the table in use, the root directory, the first clusters.
                let at = match random.below(4) {
                    0 => 11 + random.below(60),
                    1 => places.table as usize + random.below(600),
                    2 => places.root as usize + random.below(400),
                    _ => places.heap as usize + random.below(20 << 10),
                };
                patches.push(random.damage(&sample.disk, at));
            }
            match fat::open(sample.patched(&patches)) {
                Ok(tree) => survey(&tree),
                Err(_) => refused += 1,
            }
        }
        assert!((20..600).contains(&refused), "{options}: {refused} refused");
        for _ in 0..200 {
            let most = if random.below(2) == 0 { 80 << 10 } else { sample.disk.0.len() };
            let len = random.below(most);
            let disk: Arc<dyn Disk> = Arc::clone(&sample.disk) as Arc<dyn Disk>;
            let cut = Window::new(disk, GuestOffset(0), ByteLen(len as u64)).unwrap();
            if let Ok(tree) = fat::open(Arc::new(cut)) {
                assert!(!tree.summary().warnings.is_empty());
                survey(&tree);
            }
        }
    }
}

/// Numbers of nodes that nobody was given.
#[test]
fn nodes_that_are_none_are_said_to_be_none() {
    let sample = fat32();
    let tree = sample.open(&[]);
    let real = found(&tree, "A/FILE");
    for number in [1, 32, 512, real.number + 1, real.number + 32 * 10_000, u64::MAX, u64::MAX - 31, sample.places.table]
    {
        let node = NodeId { tree: 0, number };
        check_said(tree.metadata(node), &format!("there is no node {number}"));
    }
    check_said(tree.metadata(NodeId { tree: 1, ..real }), "there is no node 1/");
    check_said(tree.read_directory(real, &mut |_| ControlFlow::Continue(())), "expected a directory, found a file");
    check_said(tree.read_at(tree.root(), 0, &mut [0]), "expected a file, found a directory");
    check_said(tree.read_link(real), "expected a symbolic link, found a file");
}

#[test]
fn the_image_of_the_sample_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, &fat32().disk.0).unwrap();
    run("fsck.fat", &["-n", Path::new(&path).to_str().unwrap()]);
}
