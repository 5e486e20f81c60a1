//! Damaged and hostile exFAT volumes: each lie has its message, and damage anywhere ends in errors.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use abbild::disk::{Disk, MemoryDisk};
use abbild::guest::GuestError;
use abbild::guest::exfat::{self, ExFat};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind};

use crate::guest_exfat::{Places, made, patch, places_of, root_end, seal, set_of};
use crate::guest_fat::found;
use crate::guest_tree::survey;
use crate::patched::{Patched, Random};

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
        Arc::new(Patched { below: self.disk.clone(), patches: patches.to_vec() })
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
