//! Btrfs, damaged: copies that stand in for each other, rot, and hostile blocks under sound checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abbild::disk::{Disk, ExtentKind};
use abbild::guest::btrfs::{self, Btrfs};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind};
use abbild::units::GuestOffset;

use crate::guest_btrfs::{lines, made, open, subvolume};
use crate::guest_tree::{Mount, compare, disk, noise, of_tree, set_attribute};
use crate::patched::{Patched, Random};

#[track_caller]
fn error_of(disk: Arc<dyn Disk>) -> String {
    btrfs::open(disk).err().expect("refused").to_string()
}

/// Tells `look` every block of this length that may hold data.
fn blocks(disk: &dyn Disk, len: usize, mut look: impl FnMut(u64, &[u8])) {
    let mut at = 0;
    while at < disk.size().0 {
        let extent = disk.extent_at(GuestOffset(at)).unwrap();
        if extent.kind == ExtentKind::Data {
            let mut bytes = vec![0; extent.len.0 as usize];
            disk.read_at(GuestOffset(at), &mut bytes).unwrap();
            for (index, block) in bytes.chunks_exact(len).enumerate() {
                look(at + (index * len) as u64, block);
            }
        }
        at += extent.len.0;
    }
}

/// Where sound tree blocks lie, by their logical address.
fn tree_blocks(disk: &dyn Disk, node_bytes: usize) -> BTreeMap<u64, Vec<u64>> {
    let mut uuid = [0; 16];
    disk.read_at(GuestOffset(65_536 + 32), &mut uuid).unwrap();
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    blocks(disk, node_bytes, |at, block| {
        let sum = u32::from_le_bytes(block[..4].try_into().unwrap());
        if block[32..48] == uuid && &block[64..72] != b"_BHRfS_M" && crc32c::crc32c(&block[32..]) == sum {
            let logical = u64::from_le_bytes(block[48..56].try_into().unwrap());
            found.entry(logical).or_default().push(at);
        }
    });
    found
}

#[test]
fn a_second_copy_stands_in_for_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "-m dup -d dup");
    let mount = Mount::new(&image, &dir.path().join("mount"), "defaults");
    let content = noise(5, 200_000);
    fs::write(mount.path().join("file"), &content).unwrap();
    for index in 0..300 {
        fs::write(mount.path().join(format!("{index}")), "small").unwrap();
    }
    mount.unmount();
    let below = disk(&image);
    let expected = of_tree(&open(&image));
    let mut metadata = tree_blocks(below.as_ref(), 16_384);
    // What `mkfs` wrote before there were chunks is nobody's.
    metadata.retain(|_, copies| copies.len() == 2);
    assert!(metadata.len() > 5, "{metadata:?}");
    let mut data: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    blocks(below.as_ref(), 4096, |at, block| {
        if let Some(index) = content.chunks_exact(4096).position(|sector| sector == block) {
            data.entry(index).or_default().push(at);
        }
    });
    assert!(data.len() == 48 && data.values().all(|copies| copies.len() == 2), "{data:?}");
    // Now all first copies are damaged, now all second ones, now in turns.
    for damaged in [|_: usize| 0, |_: usize| 1, |index: usize| index % 2] {
        let copies = metadata.values().chain(data.values()).enumerate();
        let disk = Patched::rotten(&below, copies.map(|(index, copies)| copies[damaged(index)] + 2000));
        compare("one copy is damaged", &expected, &of_tree(&btrfs::open(disk).unwrap()), &[]);
    }
    let tree = btrfs::open(Patched::rotten(&below, data[&7].iter().map(|at| at + 2000))).unwrap();
    let file = tree.lookup(tree.root(), b"file").unwrap().unwrap();
    let mut buf = vec![0; 4096];
    assert_eq!(tree.read_at(file, 6 * 4096, &mut buf).unwrap(), 4096);
    for at in [7 * 4096, 8 * 4096 - 1, 7 * 4096 - 1] {
        let message = tree.read_at(file, at, &mut buf[..2]).unwrap_err().to_string();
        let place = data[&7].iter().find(|place| message.starts_with(&format!("content at {place:#x} ")));
        assert!(place.is_some() && message.contains("expected the checksum "), "{message}");
    }
    assert_eq!(tree.read_at(file, 8 * 4096, &mut buf).unwrap(), 4096);
}

#[test]
fn copies_of_the_superblock() {
    let dir = tempfile::tempdir().unwrap();
    let below = disk(&made(dir.path(), ""));
    let tree = btrfs::open(Patched::rotten(&below, [65_536 + 300])).unwrap();
    let warnings = &tree.summary().warnings;
    let expected = "its first superblock was not used, but the copy at 0x4000000: btrfs superblock at 0x10000 of the \
                    volume: expected the checksum ";
    assert!(matches!(&warnings[..], [one] if one.starts_with(expected)), "{warnings:?}");
    let message = error_of(Patched::rotten(&below, [65_536 + 300, (64 << 20) + 300]));
    assert!(message.starts_with("btrfs superblock at 0x10000 of the volume: expected the checksum "), "{message}");
    let message = error_of(Patched::rotten(&below, [65_536 + 64, (64 << 20) + 300]));
    assert_eq!(message, "btrfs superblock at 0x10040 of the volume: expected the magic _BHRfS_M, found OBHRfS_M");
    let patched = |at: usize, bytes: &[u8]| -> Arc<dyn Disk> {
        let patch = |place: u64| {
            let mut block = vec![0; 4096];
            below.read_at(GuestOffset(place), &mut block).unwrap();
            block[at..at + bytes.len()].copy_from_slice(bytes);
            let sum = crc32c::crc32c(&block[32..]);
            block[..4].copy_from_slice(&sum.to_le_bytes());
            (place, block)
        };
        Arc::new(Patched { below: Arc::clone(&below), patches: vec![patch(65_536), patch(64 << 20)] })
    };
    for (at, bytes, expected) in [
        (0xbc + 1, &[0x33u8][..], "btrfs with zones and the second version of the extent tree is not supported"),
        (0xbc + 7, &[0x80], "btrfs with the unknown feature 63 is not supported"),
        (0xc4, &[9], "kind 9 of btrfs checksums is not supported"),
        (0x90, &[1], "sector size at 0x10000 of the volume: expected a power of two from 1024 to 65536, found 4097"),
        (
            0x97,
            &[1],
            "size of tree blocks at 0x10000 of the volume: expected a power of two from 1024 to 65536, found 16793600",
        ),
        (0xc6, &[8], "level of a root at 0x10000 of the volume: expected at most 7, found 8"),
        (
            0xa1,
            &[9],
            "system chunks in the superblock at 0x10000 of the volume: expected at most 2048 bytes, found 2433",
        ),
        (0x57, &[1], "logical address at 0x10000 of the volume: expected one inside a chunk, found 0x1000000001d04000"),
    ] {
        let message = error_of(patched(at, bytes));
        let cut = |text: &str| text.split(", found ").next().unwrap().to_string();
        assert_eq!(cut(&message), cut(expected), "{message}");
    }
    let mut stale = vec![0; 4096];
    below.read_at(GuestOffset(65_536), &mut stale).unwrap();
    stale[72..80].copy_from_slice(&1u64.to_le_bytes());
    let sum = crc32c::crc32c(&stale[32..]);
    stale[..4].copy_from_slice(&sum.to_le_bytes());
    let tree = btrfs::open(Arc::new(Patched { below: Arc::clone(&below), patches: vec![(65_536, stale)] })).unwrap();
    let expected = "its first superblock was not used, but the copy at 0x4000000: it is older than a copy of it";
    assert_eq!(tree.summary().warnings, [expected]);
    let small: Arc<dyn Disk> = Arc::new(abbild::disk::MemoryDisk(vec![0; 1000]));
    let message = error_of(small);
    assert_eq!(
        message,
        "btrfs superblock at 0x10000 of the volume: expected a superblock, found the end of the volume"
    );
}

/// Looks at everything, whatever is wrong with it; returns how many calls failed.
fn look_at_everything(tree: &dyn FileSystem) -> usize {
    let (mut errors, mut seen, mut nodes) = (0, BTreeSet::new(), vec![tree.root()]);
    let mut buf = vec![0; 20_000];
    while let Some(node) = nodes.pop().filter(|_| seen.len() < 1000) {
        if !seen.insert(node) {
            continue;
        }
        errors += usize::from(tree.extended_attributes(node).is_err());
        let Ok(metadata) = tree.metadata(node) else {
            errors += 1;
            continue;
        };
        let outcome = match metadata.kind {
            NodeKind::Directory => {
                let mut names = Vec::new();
                let outcome = tree.read_directory(node, &mut |entry| {
                    nodes.push(entry.node);
                    names.push(entry.name.to_vec());
                    ControlFlow::Continue(())
                });
                let failed = names.iter().step_by(7).filter(|name| tree.lookup(node, name).is_err()).count();
                errors += failed + usize::from(tree.lookup(node, b"absent").is_err());
                outcome
            }
            NodeKind::Symlink => tree.read_link(node).map(|_| ()),
            NodeKind::File => {
                let end = metadata.size.saturating_sub(5000);
                let extents = (0..310).try_fold(0, |at, _| -> Result<u64, _> {
                    Ok(tree.extent_at(node, at)?.map_or(at, |extent| at + extent.len.0))
                });
                tree.read_at(node, 0, &mut buf).and(tree.read_at(node, end, &mut buf)).and(extents).map(|_| ())
            }
            _ => Ok(()),
        };
        errors += usize::from(outcome.is_err());
    }
    errors
}

const HOSTILE_BLOCK: usize = 4096;
const DAMAGED_VOLUMES: usize = 4_000;

/// A small volume with every form of everything.
fn every_form(dir: &Path) -> PathBuf {
    let image = made(dir, "-m single -d single -n 4096");
    let mount = Mount::new(&image, &dir.join("mount"), "compress=zstd");
    let folder = mount.path();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let file = fs::File::create(folder.join("pieces")).unwrap();
    for index in 0..60 {
        file.write_all_at(&noise(index, 100), index * 8192).unwrap();
    }
    drop(file);
    fs::write(folder.join("packed"), lines(0, 300_000)).unwrap();
    fs::write(folder.join("small"), "small").unwrap();
    fs::File::open(folder.join("packed")).unwrap().sync_all().unwrap();
    let file = fs::File::options().write(true).open(folder.join("packed")).unwrap();
    file.write_all_at(b"inside", 50_000).unwrap();
    drop(file);
    for name in ["names", "few"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    for index in 0..150 {
        fs::hard_link(folder.join("pieces"), folder.join(format!("names/{index} of many"))).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(900), folder.join("link")).unwrap();
    for index in 0..60 {
        set_attribute(&folder.join("names"), &format!("user.{index}"), &[b'v'; 40]);
    }
    subvolume(&["create", &path("few/subvolume")]);
    fs::write(folder.join("few/subvolume/file"), noise(3, 9000)).unwrap();
    subvolume(&["snapshot", &path("few/subvolume"), &path("snapshot")]);
    mount.unmount();
    image
}

/// Where blocks lie that a sound volume is read from.
fn used_blocks(image: &Path) -> Vec<u64> {
    let below = disk(image);
    let blocks = tree_blocks(below.as_ref(), HOSTILE_BLOCK);
    // Blocks of earlier generations are nobody's.
    let used = |at: &u64| {
        let disk = Patched::rotten(&below, [*at]);
        btrfs::open(disk).map_or(true, |tree| look_at_everything(&tree) > 0)
    };
    blocks.into_values().flatten().filter(used).collect()
}

#[test]
fn damage_under_sound_checksums_neither_panics_nor_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let image = every_form(dir.path());
    let below = disk(&image);
    assert_eq!(look_at_everything(&open(&image)), 0);
    let mut places = used_blocks(&image);
    assert!(places.len() > 12, "{}", places.len());
    places.push(65_536);
    let mut random = Random(7);
    let mut failed = 0;
    let logical_of = |at: u64| {
        let mut header = [0; 101];
        below.read_at(GuestOffset(at), &mut header).unwrap();
        header
    };
    for _ in 0..DAMAGED_VOLUMES {
        let at = places[random.below(places.len())];
        let mut bytes = vec![0; 4096];
        below.read_at(GuestOffset(at), &mut bytes).unwrap();
        if at != 65_536 && bytes[100] > 0 && random.below(3) == 0 {
            // A pointer to some other block: loops, other trees, other levels.
            let other = logical_of(places[random.below(places.len() - 1)]);
            let entries = u32::from_le_bytes(bytes[96..100].try_into().unwrap()) as usize;
            let pointer = 101 + 33 * random.below(entries) + 17;
            bytes[pointer..pointer + 8].copy_from_slice(&other[48..56]);
            bytes[pointer + 8..pointer + 16].copy_from_slice(&other[80..88]);
        } else {
            for _ in 0..=random.below(3) {
                // Most of what matters lies at the start, or at the end, where items begin.
                let place = match random.below(3) {
                    0 => 32 + random.below(bytes.len() - 32),
                    1 => 32 + random.below(300),
                    _ => bytes.len() - 1 - random.below(1000),
                };
                bytes[place] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[place] ^ 1 << random.below(8),
                    _ => random.below(256) as u8,
                };
            }
        }
        let sum = crc32c::crc32c(&bytes[32..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        let patched = Patched { below: Arc::clone(&below), patches: vec![(at, bytes)] };
        match btrfs::open(Arc::new(patched)) {
            Ok(tree) => failed += usize::from(look_at_everything(&tree) > 0),
            Err(_) => failed += 1,
        }
    }
    assert!(failed > DAMAGED_VOLUMES / 8, "{failed} of {DAMAGED_VOLUMES} were noticed");
}

/// All files below a directory: what could be read of them.
fn files(tree: &dyn FileSystem, directory: NodeId, found: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>, path: &[u8]) {
    let mut entries = Vec::new();
    let _ = tree.read_directory(directory, &mut |entry| {
        entries.push((entry.name.to_vec(), entry.node));
        ControlFlow::Continue(())
    });
    for (name, node) in entries {
        let path = [path, b"/", &name].concat();
        match tree.metadata(node) {
            Ok(metadata) if metadata.kind == NodeKind::Directory => files(tree, node, found, &path),
            Ok(metadata) if metadata.kind == NodeKind::File && metadata.links == 1 => {
                let mut bytes = vec![0xa5; metadata.size as usize];
                let outcome = tree.read_at(node, 0, &mut bytes).ok().filter(|len| *len == bytes.len());
                found.insert(path, outcome.map(|_| bytes));
            }
            _ => {}
        }
    }
}

#[test]
fn rot_gives_errors_and_never_wrong_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let image = every_form(dir.path());
    let below = disk(&image);
    let all_files = |tree: &Btrfs| {
        let mut found = BTreeMap::new();
        files(tree, tree.root(), &mut found, b"");
        found
    };
    let expected = all_files(&open(&image));
    assert!(expected.len() >= 4 && expected.values().all(Option::is_some), "{:?}", expected.keys());
    let mut places = Vec::new();
    blocks(below.as_ref(), 4096, |at, block| places.extend(block.iter().any(|byte| *byte != 0).then_some(at)));
    let mut random = Random(8);
    let mut unread = 0;
    for at in places {
        let rotten = Patched::rotten(&below, [at + random.below(4096) as u64]);
        let Ok(tree) = btrfs::open(rotten) else { continue };
        for (path, bytes) in all_files(&tree) {
            assert!(bytes.is_none() || bytes == expected[&path], "{at:#x}: {}", path.escape_ascii());
            unread += usize::from(bytes.is_none());
        }
    }
    assert!(unread > 10, "{unread}");
}
