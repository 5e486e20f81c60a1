//! Damaged and hostile volumes: an error of the node that is damaged, never a panic or a walk without end; and what cannot
//! be read is refused by name.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use abbild::disk::MemoryDisk;
use abbild::guest::tree::{FileSystem, NodeId};
use abbild::guest::{GuestError, ext};

use crate::guest_ext::{Stage, opened};
use crate::guest_tree as tree;
use crate::patched::numbers;

/// A small volume with a bit of everything, made with `mke2fs ARGS`.
fn small(stage: &Stage, args: &[&str]) -> Vec<u8> {
    let folder = stage.path("folder");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("directory/below")).unwrap();
    fs::write(folder.join("file"), tree::noise(1, 30_000)).unwrap();
    fs::write(folder.join("small"), "content").unwrap();
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    for index in 0..30 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 1024], index * 8192).unwrap();
    }
    tree::set_attribute(&folder.join("small"), "user.name", &[7; 300]);
    std::os::unix::fs::symlink("target", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("t".repeat(200), folder.join("long link")).unwrap();
    fs::write(folder.join("directory/0"), "").unwrap();
    for index in 1..150 {
        fs::hard_link(folder.join("directory/0"), folder.join(format!("directory/a long name for {index}"))).unwrap();
    }
    let image = stage.image(2, &[&["-b", "1024", "-d", folder.to_str().unwrap()], args].concat());
    tree::run_checker("e2fsck", &["-fyD", image.to_str().unwrap()]);
    fs::read(image).unwrap()
}

fn open_bytes(bytes: Vec<u8>) -> Result<ext::Ext, GuestError> {
    ext::open(Arc::new(MemoryDisk(bytes)))
}

/// Damages a volume in many ways, where it has something but zeros, and asks everything of it each time.
fn survives(bytes: &[u8], rounds: usize) {
    let mut number = numbers(0x9e37_79b9_7f4a_7c15);
    // What holds metadata: noise and repeated bytes of files have no effect that could matter.
    let words: Vec<usize> = (1024..bytes.len()).step_by(4).filter(|at| bytes[*at..at + 4] != [0; 4]).collect();
    let metadata: Vec<usize> = words.into_iter().filter(|at| *at < 400 * 1024).collect();
    let mut opened = 0;
    for _ in 0..rounds {
        let mut damaged = bytes.to_vec();
        for _ in 0..=number(4) {
            let at = metadata[number(metadata.len())];
            let values = [0, 1, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x8000_0000, u32::try_from(number(2048)).unwrap()];
            match number(3) {
                0 => damaged[at + number(4)] ^= 1 << number(8),
                1 => damaged[at..at + 4].copy_from_slice(&values[number(values.len())].to_le_bytes()),
                _ => {
                    // Another place's word: numbers that mean something.
                    let from = metadata[number(metadata.len())];
                    damaged.copy_within(from..from + 4, at);
                }
            }
        }
        if let Ok(tree) = open_bytes(damaged) {
            tree::survey(&tree);
            opened += 1;
        }
    }
    assert!(opened > rounds / 4, "only {opened} of {rounds} could be opened: the damage is too plain");
}

#[test]
fn damage_anywhere_ends_in_errors() {
    let stage = Stage::new();
    survives(&small(&stage, &["-t", "ext4", "-O", "^metadata_csum,^has_journal,^64bit,^resize_inode"]), 700);
    survives(&small(&stage, &["-t", "ext4", "-O", "^metadata_csum,^has_journal,inline_data,ea_inode"]), 700);
    survives(&small(&stage, &["-t", "ext2", "-I", "128", "-O", "^resize_inode"]), 700);
    survives(&small(&stage, &["-t", "ext4", "-O", "metadata_csum,^has_journal"]), 200);
}

#[test]
fn damage_in_a_journal_ends_in_errors() {
    let stage = Stage::new();
    let image = stage.image(4, &["-t", "ext4", "-O", "^metadata_csum,^resize_inode", "-b", "1024", "-J", "size=1"]);
    let blocks = tree::noise(1, 20 * 1024);
    fs::write(stage.path("blocks"), blocks).unwrap();
    let write = |blocks: &str| format!("journal_write -b {blocks} {}\n", stage.path("blocks").display());
    let script =
        ["journal_open\n", &write("3001-3020"), "journal_write -r 3003-3010\n", &write("3005-3024"), "journal_close\n"];
    fs::write(stage.path("script"), script.concat()).unwrap();
    tree::run("debugfs", &["-w", "-f", stage.path("script").to_str().unwrap(), image.to_str().unwrap()]);
    // Of the first transaction two before the revoked ones, and all of the third.
    let sound = opened(&image).summary().warnings.clone();
    assert_eq!(sound, ["journal replayed in memory: 3 transactions, 22 blocks"]);
    let bytes = fs::read(&image).unwrap();
    let journal: Vec<usize> = bytes
        .chunks(1024)
        .enumerate()
        .filter(|(_, block)| block.starts_with(&[0xc0, 0x3b, 0x39, 0x98]))
        .map(|(index, _)| index * 1024)
        .collect();
    let mut number = numbers(7);
    for _ in 0..1500 {
        let mut damaged = bytes.clone();
        let at = journal[number(journal.len())] + number(100);
        damaged[at] = number(256).to_le_bytes()[0];
        if let Ok(tree) = open_bytes(damaged) {
            tree.metadata(tree.root()).unwrap();
        }
    }
}

fn offset_of(bytes: &[u8], what: &[u8]) -> usize {
    let at = bytes.windows(what.len()).position(|window| window == what);
    at.unwrap_or_else(|| panic!("{what:?} is not there"))
}

fn node(tree: &ext::Ext, path: &str) -> NodeId {
    path.split('/').fold(tree.root(), |node, name| tree.lookup(node, name.as_bytes()).unwrap().unwrap())
}

/// Where an inode lies, by debugfs.
fn inode_at(image: &Path, path: &str) -> usize {
    let said = tree::run("debugfs", &["-R", &format!("imap /{path}"), image.to_str().unwrap()]);
    // Inode 12 is part of block group 0, located at block 37, offset 0x0580
    let word = |after: &str| said.split(after).nth(1).unwrap().split([',', '\n']).next().unwrap().trim().to_owned();
    let block: usize = word("at block ").parse().unwrap();
    block * 1024 + usize::from_str_radix(word("offset 0x").trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn damage_is_named_and_costs_its_node_alone() {
    let stage = Stage::new();
    let bytes = small(&stage, &["-t", "ext4", "-O", "metadata_csum,^has_journal"]);
    let image = stage.path("volume.img");
    let file = inode_at(&image, "file");
    let said = |damaged: &[u8], ask: &dyn Fn(&ext::Ext) -> Result<(), GuestError>| {
        let tree = open_bytes(damaged.to_vec()).unwrap();
        let said = ask(&tree).unwrap_err().to_string();
        // The rest is as it was.
        let mut link = [0; 7];
        assert_eq!(tree.read_at(node(&tree, "small"), 0, &mut link).unwrap(), 7);
        assert_eq!(&link, b"content");
        said
    };
    let mut damaged = bytes.clone();
    damaged[file + 5] ^= 1;
    let text = said(&damaged, &|tree| tree.metadata(node(tree, "file")).map(drop));
    assert!(text.starts_with(&format!("checksum of an inode at {file:#x} of the volume: expected 0x")), "{text}");

    let mut damaged = bytes.clone();
    let at = offset_of(&bytes, b"a long name for 77");
    damaged[at] ^= 1;
    let text = said(&damaged, &|tree| {
        tree.read_directory(node(tree, "directory"), &mut |_| std::ops::ControlFlow::Continue(()))
    });
    let block = at / 1024 * 1024;
    assert!(text.starts_with(&format!("checksum of a directory block at {block:#x} of the volume")), "{text}");
    // The names in its other blocks are still told.
    let tree = open_bytes(damaged).unwrap();
    let mut names = 0;
    let outcome = tree.read_directory(node(&tree, "directory"), &mut |_| {
        names += 1;
        std::ops::ControlFlow::Continue(())
    });
    assert!(outcome.is_err() && (100..150).contains(&names), "{names}");

    let at = offset_of(&bytes, &[7; 300]);
    let mut damaged = bytes.clone();
    damaged[at] = 8;
    let text = said(&damaged, &|tree| tree.extended_attributes(node(tree, "small")).map(drop));
    assert!(text.starts_with("checksum of a block of extended attributes at "), "{text}");

    let mut damaged = bytes;
    damaged[2048 + 8] ^= 1;
    let tree = open_bytes(damaged).unwrap();
    let text = tree.metadata(tree.root()).unwrap_err().to_string();
    assert!(text.starts_with("checksum of a group descriptor at 0x800 of the volume: expected 0x"), "{text}");
}

#[test]
fn damage_without_checksums_is_named() {
    let stage = Stage::new();
    let bytes = small(&stage, &["-t", "ext4", "-O", "^metadata_csum,^has_journal,^64bit,^uninit_bg"]);
    let image = stage.path("volume.img");
    let (file, sparse, root) = (inode_at(&image, "file"), inode_at(&image, "sparse"), inode_at(&image, ""));
    #[track_caller]
    fn check(bytes: &[u8], changes: &[(usize, &[u8])], path: &str, expected: &str) {
        let mut damaged = bytes.to_vec();
        for (at, change) in changes {
            damaged[*at..at + change.len()].copy_from_slice(change);
        }
        let tree = open_bytes(damaged).unwrap();
        let mut buf = vec![0; 40_000];
        let outcome =
            tree.lookup(tree.root(), path.as_bytes()).and_then(|node| tree.read_at(node.unwrap(), 0, &mut buf));
        let said = outcome.unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
    check(&bytes, &[(file, &[0, 0x70])], "file", "kind of an inode");
    check(&bytes, &[(file + 111, &[0x80])], "file", "size of an inode");
    check(&bytes, &[(file + 128, &[30, 0])], "file", "expected a multiple of 4 up to 128, found 30");
    check(&bytes, &[(file + 40, &[1])], "file", "magic of an extent node");
    check(&bytes, &[(file + 42, &[5])], "file", "entries of an extent node");
    check(&bytes, &[(file + 44, &[5])], "file", "room in an extent node");
    check(&bytes, &[(file + 46, &[6])], "file", "depth of an extent tree");
    check(&bytes, &[(file + 56, &[0; 2])], "file", "ascending, apart and not empty");
    check(&bytes, &[(file + 60, &[0xff; 4])], "file", "blocks after 1 and below 2048");
    // A tree that is its own branch: the block it names is the one that the inode lies in.
    let leaf = u32::from_le_bytes(bytes[sparse + 56..sparse + 60].try_into().unwrap());
    let leaf = usize::try_from(leaf).unwrap() * 1024;
    check(&bytes, &[(leaf + 6, &[1])], "sparse", "depth of an extent node");
    let names = usize::try_from(u32::from_le_bytes(bytes[root + 60..root + 64].try_into().unwrap())).unwrap() * 1024;
    check(&bytes, &[(names + 4, &[7])], "nothing", "length of a directory entry");
    check(&bytes, &[(names + 16, &[0xff, 0xff])], "nothing", "length of a directory entry");
    let name = names + bytes[names..].windows(5).position(|window| window == b"small").unwrap();
    check(&bytes, &[(name + 2, b"/")], "nothing", "name in a directory");
    check(&bytes, &[(name - 8, &[0xff; 4])], "nothing", "inode of a directory entry");
}

#[test]
fn what_only_a_key_reads_is_refused_by_name() {
    let stage = Stage::new();
    small(&stage, &["-t", "ext4", "-O", "^metadata_csum,^has_journal,encrypt"]);
    let image = stage.path("volume.img");
    for path in ["/small", "/directory"] {
        tree::run("debugfs", &["-w", "-R", &format!("set_inode_field {path} flags 0x80800"), image.to_str().unwrap()]);
    }
    let ours = opened(&image);
    let (file, directory) = (node(&ours, "small"), node(&ours, "directory"));
    assert_eq!(ours.metadata(file).unwrap().special, Some("encrypted (fscrypt)"));
    let expected = "reading what the guest encrypted (fscrypt) is not supported";
    assert_eq!(ours.read_at(file, 0, &mut [0; 9]).unwrap_err().to_string(), expected);
    assert_eq!(ours.lookup(directory, b"0").unwrap_err().to_string(), expected);
    let walked = ours.read_directory(directory, &mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!(walked.unwrap_err().to_string(), expected);
}

#[test]
fn a_directory_may_ignore_case() {
    let stage = Stage::new();
    small(&stage, &["-t", "ext4", "-O", "^metadata_csum,^has_journal,casefold"]);
    let image = stage.path("volume.img");
    let set = |path: &str, flags: &str| {
        tree::run("debugfs", &["-w", "-R", &format!("set_inode_field {path} flags {flags}"), image.to_str().unwrap()]);
    };
    set("/directory", "0x40080000");
    let ours = opened(&image);
    let directory = node(&ours, "directory");
    let exact = ours.lookup(directory, b"a long name for 5").unwrap();
    assert!(exact.is_some());
    assert_eq!(ours.lookup(directory, b"A Long NAME for 5").unwrap(), exact);
    assert_eq!(ours.lookup(ours.root(), b"SMALL").unwrap(), None);
}

#[test]
fn what_is_no_such_filesystem_is_refused() {
    #[track_caller]
    fn check(bytes: Vec<u8>, expected: &str) {
        let said = open_bytes(bytes).map_or_else(|err| err.to_string(), |_| "opened".to_owned());
        assert_eq!(said, expected);
    }
    check(vec![], "ext superblock at 0x400 of the volume: expected 1024 bytes, found a volume of 0 bytes");
    check(vec![0; 4096], "magic of an ext superblock at 0x438 of the volume: expected 0xef53, found 0x0000");
    let stage = Stage::new();
    let mut bytes = small(&stage, &["-t", "ext4", "-O", "^metadata_csum,^has_journal"]);
    bytes[1024 + 98] |= 0x80;
    check(bytes, "the ext filesystem feature of unknown bit 23 is not supported");
}

#[test]
fn a_volume_cut_short_is_read_as_far_as_it_goes() {
    let stage = Stage::new();
    let mut bytes = small(&stage, &["-t", "ext4", "-O", "metadata_csum,^has_journal"]);
    bytes.truncate(bytes.len() - 1_000_000);
    let ours = open_bytes(bytes).unwrap();
    assert_eq!(ours.summary().warnings, ["the volume ends 1000000 bytes before the filesystem"]);
    tree::survey(&ours);
    assert!(ours.metadata(ours.root()).is_ok());
}

#[test]
fn special_and_missing_nodes_are_none() {
    let stage = Stage::new();
    let tree = open_bytes(small(&stage, &["-t", "ext4", "-O", "^has_journal"])).unwrap();
    for (subvolume, number) in [(0, 0), (0, 1), (0, 3), (0, 8), (0, 60), (0, 1000), (0, u64::MAX), (1, 2)] {
        let node = NodeId { tree: subvolume, number };
        assert!(matches!(tree.metadata(node), Err(GuestError::NoSuchNode { .. })), "{node}");
    }
    let said = tree.read_directory(node(&tree, "file"), &mut |_| std::ops::ControlFlow::Continue(())).unwrap_err();
    assert_eq!(said.to_string(), "expected a directory, found a file");
    assert_eq!(tree.read_link(tree.root()).unwrap_err().to_string(), "expected a symbolic link, found a directory");
    assert_eq!(tree.read_at(tree.root(), 0, &mut []).unwrap_err().to_string(), "expected a file, found a directory");
}
