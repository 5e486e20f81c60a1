//! Damaged and hostile NTFS volumes: an error of the file that is damaged, never a panic or a walk without end.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use abbild::disk::MemoryDisk;
use abbild::guest::tree::{FileSystem, NodeId};
use abbild::guest::{GuestError, ntfs};

use crate::guest_ntfs::{Stage, compressing, content, node, opened, text};
use crate::guest_ntfs_windows::{attribute_at, number, open_bytes, record_at};
use crate::guest_tree::{self as tree, noise, set_attribute};
use crate::patched::numbers;

/// A small volume with a bit of everything.
pub(crate) fn small(stage: &Stage) -> Vec<u8> {
    let image = stage.filled(4, &["-c", "1024"], |folder| {
        fs::create_dir_all(folder.join("directory/below")).unwrap();
        for index in 0..120 {
            fs::write(folder.join(format!("directory/a long name for {index}")), "").unwrap();
        }
        fs::write(folder.join("file"), noise(1, 30_000)).unwrap();
        fs::write(folder.join("small"), "content").unwrap();
        compressing(&folder.join("compressed"));
        fs::write(folder.join("compressed/text"), text(1500)).unwrap();
        let sparse = fs::File::create(folder.join("sparse")).unwrap();
        for index in 0..30 {
            std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 1024], index * 32_768).unwrap();
        }
        std::os::unix::fs::symlink("target", folder.join("link")).unwrap();
        fs::write(folder.join("many"), "").unwrap();
        for index in 0..40 {
            set_attribute(&folder.join("many"), &format!("user.stream {index}"), &noise(index, 300));
        }
        fs::create_dir(folder.join("junction")).unwrap();
        let target: Vec<u8> = r"\??\C:\directory\below".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let len = u8::try_from(target.len()).unwrap();
        let data = [&[3, 0, 0, 0xa0, len + 12, 0, 0, 0, 0, 0, len, 0, len + 2, 0, 0, 0], &target[..], &[0; 4]].concat();
        set_attribute(&folder.join("junction"), "system.ntfs_reparse_data", &data);
    });
    fs::read(image).unwrap()
}

#[test]
fn damage_anywhere_ends_in_errors() {
    const ROUNDS: usize = 1000;
    let stage = Stage::new();
    let sound = small(&stage);
    // Words of records, index blocks, attribute lists and the boot sector.
    const LIST_MAGIC: &[u8] = b"\x10\0\0\0\x20\0\0\x1a";
    let len = |place: &[u8]| match place {
        record if record.starts_with(b"FILE") => 1024,
        block if block.starts_with(b"INDX") => 4096,
        list if list.starts_with(LIST_MAGIC) => 2048,
        _ => 0,
    };
    let places = (0..sound.len()).step_by(512).map(|at| at..at + len(&sound[at..]));
    let mut words: Vec<usize> = places.flat_map(|place| place.step_by(2)).collect();
    words.retain(|at| sound[*at..*at + 2] != [0, 0]);
    assert!(
        (0..sound.len()).step_by(512).any(|at| sound[at..].starts_with(LIST_MAGIC)),
        "no list outside of its record"
    );
    words.extend((11..80).step_by(2));
    let mut number = numbers(0x9e37_79b9_7f4a_7c15);
    let mut opened = 0;
    for _ in 0..ROUNDS {
        let mut damaged = sound.clone();
        for _ in 0..=number(5) {
            let at = words[number(words.len())];
            let values = [0, 1, 0xff, 0x7fff, 0xffff, 0x8000, u16::try_from(number(2048)).unwrap()];
            match number(3) {
                0 => damaged[at + number(2)] ^= 1 << number(8),
                1 => damaged[at..at + 2].copy_from_slice(&values[number(values.len())].to_le_bytes()),
                _ => {
                    // Another place's words: numbers that mean something.
                    let from = words[number(words.len())];
                    damaged.copy_within(from..from + 2, at);
                }
            }
        }
        if let Ok(tree) = ntfs::open(Arc::new(MemoryDisk(damaged))) {
            tree::survey(&tree);
            for id in [0, 1, 2, 3, 6, 9, 24, 30] {
                let node = NodeId { tree: 0, number: id | id.max(1) << 48 };
                let _ = tree.metadata(node).map(|_| tree.streams(node));
                let _ = tree.read_at(node, 0, &mut [0; 5000]);
            }
            if let Ok(Some(many)) = tree.lookup(tree.root(), b"many") {
                for (name, len) in tree.streams(many).unwrap_or_default() {
                    let mut value = vec![0; 400];
                    let _ = tree.read_stream(many, &name, len / 2, &mut value);
                }
            }
            opened += 1;
        }
    }
    assert!(opened > ROUNDS / 2, "only {opened} of {ROUNDS} could be opened: the damage is too plain");
}

#[test]
fn damage_is_named_and_costs_its_file_alone() {
    let stage = Stage::new();
    let sound = small(&stage);
    let before = open_bytes(sound.clone());
    let number_of = |path: &str| number(node(&before, path));
    #[track_caller]
    fn check(
        sound: &[u8],
        damage: impl FnOnce(&mut Vec<u8>),
        ask: impl FnOnce(&ntfs::Ntfs) -> Result<(), GuestError>,
        expected: &str,
    ) {
        let mut bytes = sound.to_vec();
        damage(&mut bytes);
        let ours = open_bytes(bytes);
        assert_eq!(ask(&ours).unwrap_err().to_string(), expected);
        // The rest is as it was.
        assert_eq!(content(&ours, "small"), b"content");
    }
    let read =
        |path: &'static str| move |ours: &ntfs::Ntfs| ours.read_at(node(ours, path), 0, &mut [0; 30_000]).map(drop);
    let file = record_at(&sound, number_of("file"));
    let data = attribute_at(&sound, number_of("file"), 0x80);
    let runs = data + usize::from(sound[data + 32]);
    check(
        &sound,
        |bytes| bytes[file + 1022] ^= 1,
        read("file"),
        &format!(
            "file record at {file:#x} of the volume: expected write number {0:#06x} at the end of sector 1, found {1:#06x} \
             (a torn write)",
            u16::from_le_bytes([sound[file + 1022], sound[file + 1023]]),
            u16::from_le_bytes([sound[file + 1022] ^ 1, sound[file + 1023]]),
        ),
    );
    check(
        &sound,
        |bytes| bytes[file..file + 4].copy_from_slice(b"BAAD"),
        read("file"),
        &format!(
            "magic of a file record at {file:#x} of the volume: expected \"FILE\", found one that the guest's system has \
             marked as bad"
        ),
    );
    check(
        &sound,
        |bytes| bytes[runs] = 0,
        read("file"),
        &format!("runs of a file at {file:#x} of the volume: expected a run with cluster 0, found none"),
    );
    check(
        &sound,
        |bytes| bytes[runs..runs + 6].copy_from_slice(&[0x31, 30, 0xff, 0xff, 0x7f, 0]),
        read("file"),
        &format!("runs of a file at {file:#x} of the volume: expected clusters below 4095, found 30 from 8388607"),
    );
    check(
        &sound,
        |bytes| bytes[data + 4..data + 8].copy_from_slice(&8u32.to_le_bytes()),
        read("file"),
        &format!("length of an attribute at {data:#x} of the volume: expected 24 to {}, found 8", {
            let used = usize::from(u16::from_le_bytes([sound[file + 24], sound[file + 25]]));
            used - (data - file)
        }),
    );
    // Another file has taken the record: the name leads to nothing, and not to the other file.
    let reference = node(&before, "file");
    check(&sound, |bytes| bytes[file + 16] += 1, read("file"), &format!("there is no node {reference}"));
}

#[test]
fn a_damaged_block_of_names_costs_its_names_alone() {
    let stage = Stage::new();
    let mut bytes = small(&stage);
    let sound = open_bytes(bytes.clone());
    let count = |ours: &ntfs::Ntfs| {
        let mut count = 0;
        let outcome = ours.read_directory(node(ours, "directory"), &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        (count, outcome.map_err(|err| err.to_string()))
    };
    assert_eq!(count(&sound), (121, Ok(())));
    let name: Vec<u8> = "a long name for 77".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let is_block =
        |at: &usize| bytes[*at..].starts_with(b"INDX") && bytes[*at..at + 4096].windows(36).any(|it| it == name);
    let block = (0..bytes.len() - 4096).step_by(1024).find(is_block).expect("a block with that name");
    bytes[block] = b'X';
    let (left, outcome) = count(&open_bytes(bytes));
    assert!((1..121).contains(&left), "{left}");
    let expected =
        format!("magic of a directory's block at {block:#x} of the volume: expected \"INDX\", found \"XNDX\"");
    assert_eq!(outcome, Err(expected));
}

#[test]
fn a_circle_in_a_directory_ends() {
    let stage = Stage::new();
    let mut bytes = small(&stage);
    // Every entry with blocks below it leads to block 0, in all blocks and roots; blocks themselves too.
    let directory = number(node(&open_bytes(bytes.clone()), "directory"));
    let root = attribute_at_named(&bytes, directory, 0x90);
    let value = root + usize::from(u16::from_le_bytes([bytes[root + 20], bytes[root + 21]]));
    let len = usize::from(bytes[root + 16]);
    let blocks: Vec<usize> = (0..bytes.len()).step_by(1024).filter(|at| bytes[*at..].starts_with(b"INDX")).collect();
    // The first block's last entry claims a block below it: itself.
    let child = bytes[value + len - 8..value + len].to_vec();
    for block in blocks {
        let header = block + 24;
        let end = header + usize::from(u16::from_le_bytes([bytes[header + 4], bytes[header + 5]]));
        let last = end - 16;
        if u16::from_le_bytes([bytes[last + 12], bytes[last + 13]]) & 2 == 0 {
            continue;
        }
        bytes[last + 8..last + 10].copy_from_slice(&24u16.to_le_bytes());
        bytes[last + 12] = 3;
        bytes[last + 16..last + 24].copy_from_slice(&child);
        bytes[header + 4..header + 6].copy_from_slice(&u16::try_from(end + 8 - header).unwrap().to_le_bytes());
    }
    let ours = open_bytes(bytes);
    let err = ours.lookup(node(&ours, "directory"), b"zzz").unwrap_err().to_string();
    assert!(err.starts_with("directory's index at 0x") && err.ends_with("found a block that is met twice"), "{err}");
}

/// Where the first attribute of a type lies, whatever its name.
fn attribute_at_named(bytes: &[u8], number: u64, kind: u32) -> usize {
    let record = record_at(bytes, number);
    let mut at = record + usize::from(bytes[record + 20]);
    while bytes[at..at + 4] != kind.to_le_bytes() {
        at += usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    at
}

#[test]
fn the_copy_of_the_first_records_is_used() {
    let stage = Stage::new();
    let sound = small(&stage);
    let expected = tree::of_tree(&open_bytes(sound.clone()));
    for number in 0..4u64 {
        let mut bytes = sound.clone();
        let at = record_at(&bytes, number);
        bytes[at..at + 1024].fill(0);
        let ours = open_bytes(bytes);
        let warning = format!(
            "file record {number} was taken from its copy, for it is damaged (magic of a file record at {at:#x} of the \
             volume: expected \"FILE\", found \"\\x00\\x00\\x00\\x00\")"
        );
        assert_eq!(ours.summary().warnings, [warning]);
        tree::compare("with a copy", &expected, &tree::of_tree(&ours), &[]);
    }
}

#[test]
fn a_damaged_table_of_capitals_is_replaced() {
    let stage = Stage::new();
    let mut bytes = small(&stage);
    let table = bytes.windows(8).position(|it| it == [b'`', 0, b'A', 0, b'B', 0, b'C', 0]).unwrap();
    bytes[table..table + 100].fill(0);
    let ours = open_bytes(bytes);
    assert_eq!(ours.summary().warnings, ["its table of capital letters is damaged, and was replaced by another"]);
    assert!(ours.lookup(node(&ours, "DIRECTORY"), b"A LONG name for 100").unwrap().is_some());
}

#[test]
fn what_is_no_such_volume_is_refused() {
    #[track_caller]
    fn check(bytes: Vec<u8>, expected: &str) {
        let said = ntfs::open(Arc::new(MemoryDisk(bytes))).map_or_else(|err| err.to_string(), |_| "opened".to_owned());
        assert_eq!(said, expected);
    }
    check(vec![], "NTFS boot sector at 0x0 of the volume: expected 512 bytes, found a volume of 0 bytes");
    let magic = "magic of an NTFS boot sector at 0x3 of the volume: expected \"NTFS    \", found";
    check(vec![0; 4096], &format!("{magic} \"{}\"", "\\x00".repeat(8)));
}

#[test]
fn a_volume_cut_short_is_read_as_far_as_it_goes() {
    let stage = Stage::new();
    let mut bytes = small(&stage);
    let size = opened(&stage.path("volume.img")).summary().size;
    bytes.truncate(bytes.len() / 2);
    let missing = size - bytes.len() as u64;
    let ours = open_bytes(bytes);
    assert_eq!(ours.summary().warnings[0], format!("the volume ends {missing} bytes before the filesystem"));
    tree::survey(&ours);
}

#[test]
fn special_and_missing_nodes_are_none() {
    let stage = Stage::new();
    let tree = open_bytes(small(&stage));
    let root = tree.root().number;
    for (subvolume, number) in [(0, 0), (0, 5), (0, root + 1), (0, root + (1 << 48)), (0, u64::MAX), (1, root)] {
        let node = NodeId { tree: subvolume, number };
        assert!(matches!(tree.metadata(node), Err(GuestError::NoSuchNode { .. })), "{node}");
    }
    let said = tree.read_directory(node(&tree, "file"), &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(said.to_string(), "expected a directory, found a file");
    assert_eq!(tree.read_link(tree.root()).unwrap_err().to_string(), "expected a symbolic link, found a directory");
    assert_eq!(tree.read_at(tree.root(), 0, &mut []).unwrap_err().to_string(), "expected a file, found a directory");
    let said = tree.read_stream(node(&tree, "many"), "no such", 0, &mut [0; 4]).unwrap_err();
    assert!(matches!(said, GuestError::NoSuchNode { .. }), "{said}");
}
