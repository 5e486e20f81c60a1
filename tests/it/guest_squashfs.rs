//! Squashfs: volumes made by `mksquashfs` in every variant, and read by the kernel and by us. The kernel's view of the same
//! image is the judge; for LZMA, which it does not have, the folder that was packed is.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abbild::disk::{ExtentKind, MemoryDisk};
use abbild::guest::GuestError;
use abbild::guest::squashfs::{self, Squashfs};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind};

use crate::guest_tree::{
    Field, Mount, Tree, compare, disk, fill, noise, of_folder, of_tree, run, set_attribute, survey,
};
use crate::patched::numbers;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An image of `folder`, made with these options.
#[track_caller]
pub(crate) fn made(folder: &Path, options: &str) -> PathBuf {
    let image = folder.with_extension("squashfs");
    let fixed = [text(folder), text(&image), "-noappend", "-quiet", "-no-progress"];
    let options: Vec<&str> = options.split_whitespace().collect();
    run("mksquashfs", &[&fixed[..], &options].concat());
    image
}

#[track_caller]
fn open(image: &Path) -> Squashfs {
    let tree = squashfs::open(disk(image)).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(tree.summary().warnings, Vec::<String>::new());
    tree
}

#[track_caller]
pub(crate) fn of_kernel(image: &Path) -> Tree {
    let mount = Mount::new(image, &image.with_extension("mount"), "ro");
    let tree = of_folder(mount.path());
    mount.unmount();
    tree
}

/// The awkward tree, and attributes of lengths that are kept in other places.
fn awkward(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fill(folder);
    for len in [1, 600, 3000] {
        // Equal values are stored once.
        for name in ["one", "other"] {
            let file = folder.join(format!("{name} with {len}"));
            fs::write(&file, "").unwrap();
            set_attribute(&file, "user.long", &noise(len, usize::try_from(len).unwrap()));
            set_attribute(&file, &format!("trusted.{name}"), name.as_bytes());
        }
    }
}

#[test]
fn the_kernels_view_of_the_awkward_tree() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    awkward(&folder);
    for options in ["-comp zstd", "-comp gzip -b 4K -no-fragments", "-comp lz4 -b 1M -always-use-fragments -no-exports"]
    {
        let image = made(&folder, options);
        let expected = of_kernel(&image);
        assert!(expected.len() > 10_600, "{}", expected.len());
        compare(options, &expected, &of_tree(&open(&image)), &[]);
        // Once is enough for so many zeros.
        let _ = fs::remove_file(folder.join("beyond 4 GiB"));
    }
}

/// A smaller tree of everything that compressors and options make a difference to.
fn small(folder: &Path) {
    fs::create_dir_all(folder.join("a/b/c")).unwrap();
    for len in [0, 1, 100, 4095, 4096, 4097, 131_071, 131_072, 131_073, 300_000] {
        fs::write(folder.join(format!("noise {len}")), noise(len, usize::try_from(len).unwrap())).unwrap();
        let words = "the same words again and again\n".repeat(usize::try_from(len).unwrap() / 20);
        fs::write(folder.join(format!("a/words {len}")), words).unwrap();
    }
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    for at in [0, 1_000_000, 2_000_000] {
        sparse.write_all_at(&noise(at, 5000), at).unwrap();
    }
    sparse.set_len(3_000_000).unwrap();
    fs::File::create(folder.join("all hole")).unwrap().set_len(500_001).unwrap();
    for index in 0..700 {
        fs::write(folder.join(format!("a/b/c/{index} {}", "n".repeat(index % 90))), index.to_string()).unwrap();
    }
    std::os::unix::fs::symlink("../x", folder.join("a/link")).unwrap();
    fs::hard_link(folder.join("noise 100"), folder.join("a/b/hard")).unwrap();
    set_attribute(&folder.join("a"), "user.one", b"1");
    set_attribute(&folder.join("sparse"), "user.two", &[2; 3000]);
}

#[test]
fn every_compressor_and_option() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    small(&folder);
    for options in [
        "-comp gzip",
        "-comp gzip -Xcompression-level 1 -Xstrategy huffman_only -b 16K",
        "-comp lzo",
        "-comp lzo -Xalgorithm lzo1x_1 -b 64K",
        "-comp lz4 -Xhc",
        "-comp xz",
        "-comp xz -Xbcj x86,arm -Xdict-size 50% -b 1M",
        "-comp zstd -Xcompression-level 19 -b 256K",
        "-noI -noId -noD -noF -noX",
        "-noD -b 4K",
        "-noF -always-use-fragments",
        "-no-fragments -no-sparse",
        "-no-xattrs -no-exports -no-duplicates",
        "-all-root -no-tailends",
    ] {
        let image = made(&folder, options);
        compare(options, &of_kernel(&image), &of_tree(&open(&image)), &[]);
    }
}

#[test]
fn lzma_which_the_kernel_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    small(&folder);
    let mut expected = of_folder(&folder);
    for named in expected.values_mut() {
        let mut node = (*named.node).clone();
        node.modified.nanoseconds = 0;
        named.node = node.into();
    }
    let left_out =
        [Field::Accessed, Field::Changed, Field::Created, Field::Allocated, Field::Data, Field::DirectorySize];
    let image = made(&folder, "-comp lzma");
    compare("-comp lzma", &expected, &of_tree(&open(&image)), &left_out);
}

#[test]
fn a_large_sparse_file_is_read_in_its_middle() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let file = fs::File::create(folder.join("large")).unwrap();
    let places = [0, (1 << 28) + 77, (1 << 30) - 5000, 1 << 30];
    for at in places {
        file.write_all_at(&noise(at, 10_000), at).unwrap();
    }
    let image = made(&folder, "-comp lz4 -b 4K");
    let tree = open(&image);
    let node = tree.lookup(tree.root(), b"large").unwrap().unwrap();
    let metadata = tree.metadata(node).unwrap();
    assert_eq!(metadata.size, (1 << 30) + 10_000);
    // From the end to the start: nothing is known from the question before.
    for at in places.into_iter().rev() {
        let mut buf = vec![0; 10_000];
        assert_eq!(tree.read_at(node, at, &mut buf).unwrap(), 10_000);
        let expected = if at == (1 << 30) - 5000 {
            [&noise(at, 10_000)[..5000], &noise(1 << 30, 10_000)[..5000]].concat()
        } else {
            noise(at, 10_000)
        };
        assert!(buf == expected, "at {at}");
    }
    let hole = tree.extent_at(node, 1 << 20).unwrap().unwrap();
    assert_eq!(hole.kind, ExtentKind::Hole);
    compare("large", &of_kernel(&image), &of_tree(&tree), &[]);
}

// ---- hostile and damaged volumes ------------------------------------------------------------------------------------

fn open_bytes(bytes: Vec<u8>) -> Result<Squashfs, GuestError> {
    squashfs::open(Arc::new(MemoryDisk(bytes)))
}

/// A volume with all of its metadata readable as it lies there, so that lies can be told.
fn readable(dir: &Path) -> Vec<u8> {
    let folder = dir.join("folder");
    fs::create_dir_all(folder.join("one/two")).unwrap();
    fs::write(folder.join("file"), noise(1, 10_000)).unwrap();
    fs::write(folder.join("words"), "again and again ".repeat(1000)).unwrap();
    fs::write(folder.join("one/two/small"), "content").unwrap();
    std::os::unix::fs::symlink("target of the link", folder.join("link")).unwrap();
    set_attribute(&folder.join("file"), "user.name", b"a value");
    for index in 0..400 {
        fs::hard_link(folder.join("file"), folder.join(format!("one/{index} {}", "n".repeat(30)))).unwrap();
    }
    fs::read(made(&folder, "-b 4K -noI -noId -noX -comp zstd -always-use-fragments")).unwrap()
}

/// Everything that is said about a volume, by path.
fn said(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut said = BTreeMap::new();
    let tree = match open_bytes(bytes.to_vec()) {
        Ok(tree) => tree,
        Err(err) => return BTreeMap::from([("open".into(), err.to_string())]),
    };
    let mut left = vec![(String::new(), tree.root())];
    let mut entered = std::collections::BTreeSet::new();
    while let Some((path, node)) = left.pop() {
        let mut note = |outcome: Result<(), GuestError>| {
            let _ = outcome.map_err(|err| said.insert(path.clone(), err.to_string()));
        };
        note(tree.extended_attributes(node).map(|_| ()));
        match tree.metadata(node).map(|metadata| metadata.kind) {
            Ok(NodeKind::Directory) if !entered.insert(node) => {
                said.insert(path, "met again".into());
            }
            Ok(NodeKind::Directory) => {
                note(tree.lookup(node, b"399").map(|_| ()));
                note(tree.read_directory(node, &mut |entry| {
                    left.push((format!("{path}/{}", String::from_utf8_lossy(entry.name)), entry.node));
                    ControlFlow::Continue(())
                }));
            }
            Ok(NodeKind::Symlink) => note(tree.read_link(node).map(|_| ())),
            Ok(_) => note(tree.read_at(node, 0, &mut [0; 70_000]).map(|_| ())),
            Err(err) => note(Err(err)),
        }
    }
    said
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

fn offset_of(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let at = bytes[from..].windows(what.len()).position(|window| window == what);
    from + at.unwrap_or_else(|| panic!("{what:?} is not there"))
}

#[test]
fn lies_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let sound = readable(dir.path());
    assert_eq!(said(&sound), BTreeMap::new());
    #[track_caller]
    fn check(sound: &[u8], path: &str, expected: &str, lie: &dyn Fn(&mut Vec<u8>)) {
        let mut bytes = sound.to_vec();
        lie(&mut bytes);
        let said = said(&bytes);
        assert!(said.get(path).is_some_and(|said| said.contains(expected)), "{path}: {expected}: {said:#?}");
    }
    let check = |path: &str, expected: &str, lie: &dyn Fn(&mut Vec<u8>)| check(&sound, path, expected, lie);
    // The superblock.
    check("open", "expected 96 bytes that begin with hsqs", &|bytes| bytes[0] = 0);
    check("open", "squashfs 3.0 is not supported", &|bytes| bytes[28] = 3);
    check("open", "compression 9 of squashfs is not supported", &|bytes| bytes[20] = 9);
    check("open", "expected 4 KiB to 1 MiB, and its logarithm", &|bytes| bytes[22] = 30);
    check("open", "expected 4 KiB to 1 MiB, and its logarithm", &|bytes| bytes[13] = 0x20);
    check("open", "expected tables below the end", &|bytes| bytes[64 + 6] = 1);
    check("open", "the end of the filesystem at", &|bytes| bytes[32 + 4] = 0xff);
    check("open", "an index below 0, found 0", &|bytes| bytes[26..28].fill(0));
    // Inodes: the table's only block follows its header of two bytes.
    let (inodes, directories) = (number(&sound, 64), number(&sound, 72));
    let root = number(&sound, 32);
    let root_at = inodes + 2 + (root & 0xffff);
    check("open", "expected a kind from 1 to 14, found 99", &|bytes| bytes[root_at] = 99);
    check("open", "expected a directory, found a file", &|bytes| bytes[root_at] = 2);
    check("open", "expected 1 to 8192 bytes, found 0 bytes", &|bytes| bytes[inodes..inodes + 2].fill(0));
    check("open", "expected 1 to 8192 bytes, found 8193 bytes", &|bytes| {
        bytes[inodes..inodes + 2].copy_from_slice(&0xa001u16.to_le_bytes());
    });
    check("open", "packed by zstd", &|bytes| bytes[inodes + 1] &= 0x7f);
    let link = offset_of(&sound, inodes, b"target of the link");
    check("/link", "link target at", &|bytes| bytes[link - 4..link].fill(0xff));
    let file = offset_of(&sound, inodes, &10_000u64.to_le_bytes());
    check("/file", "expected less than 2^63", &|bytes| bytes[file..file + 8].fill(0xff));
    check("/file", "a file of more than 268435456 blocks is not supported", &|bytes| bytes[file + 6] = 1);
    check("/file", "table of fragments at", &|bytes| bytes[file + 21] = 9);
    check("/file", "bytes from byte 16777", &|bytes| bytes[file + 24 + 3] = 1);
    check("/file", "table of extended attributes at", &|bytes| bytes[file + 28] = 200);
    check("/file", "block of content at", &|bytes| bytes[file + 32 + 2] = 0xff);
    check("/file", "block of content at", &|bytes| bytes[file - 1] = 1);
    check("/words", "bytes packed by zstd", &|bytes| bytes[96 + 8192..96 + 8192 + 20].fill(0x55));
    // Directories.
    let entry = |name: &[u8]| offset_of(&sound, directories, name) - 8;
    let (one, two) = (entry(b"one"), entry(b"two"));
    let own = |lie: usize| (lie & 0xffff).to_le_bytes();
    check("", "expected a node below this one, found this one or the root", &|bytes| {
        bytes[one..one + 2].copy_from_slice(&own(root)[..2]);
    });
    let one_offset = [sound[one], sound[one + 1]];
    check("/one", "expected a node below this one", &|bytes| bytes[two..two + 2].copy_from_slice(&one_offset));
    let small = entry(b"small");
    check("/one/two/small", "met again", &|bytes| bytes[small..small + 2].copy_from_slice(&one_offset));
    check("", "expected a kind from 1 to 14, found 200", &|bytes| bytes[one + 4] = 200);
    check("", "expected one without / and NUL", &|bytes| bytes[one + 8] = b'/');
    check("", "expected at most 256 bytes", &|bytes| bytes[one + 7] = 7);
    let first = entry(b"file");
    check("", "expected at most 256 entries", &|bytes| bytes[first - 11] = 7);
    check("", "expected a whole entry", &|bytes| bytes[one + 6] = 100);
    // Attributes.
    let head = number(&sound, 56);
    let lists = number(&sound, head);
    check("/file", "expected a kind from 0 to 2, found 9", &|bytes| bytes[lists + 2] = 9);
    check("/file", "value of an extended attribute at", &|bytes| bytes[lists + 2 + 4 + 4 + 3] = 1);
    check("/file", "the end of the filesystem at", &|bytes| bytes[head..head + 8].fill(0xff));
    let table = number(&sound, head + 16);
    check("/file", "expected at most 16384 of them", &|bytes| bytes[table + 2 + 8 + 3] = 1);
}

/// A metadata block of 8 KiB may not become more than that; nor a block of content more than the block size.
#[test]
fn bombs_are_not_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = readable(dir.path());
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let (inodes, at) = (number(&bytes, 64), bytes.len());
    assert!(bomb.len() < 8192);
    bytes.extend(u16::try_from(bomb.len()).unwrap().to_le_bytes());
    bytes.extend(&bomb);
    let end = bytes.len() as u64;
    bytes[40..48].copy_from_slice(&end.to_le_bytes());
    // The root's inode is said to be in the bomb.
    let root = (at - inodes) as u64;
    bytes[32..40].copy_from_slice(&(root << 16).to_le_bytes());
    let said = said(&bytes)["open"].clone();
    let expected = "expected at most 8192 bytes packed by zstd, found ";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_truncated_volume_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = readable(dir.path());
    for len in [0, 50, 96, 200, 9000, bytes.len() - 4096] {
        let outcome = open_bytes(bytes[..len].to_vec());
        if let Ok(tree) = &outcome {
            assert!(tree.summary().warnings.iter().any(|warning| warning.starts_with("the volume ends before")));
        }
        assert!(len > 9000 || outcome.is_err(), "{len}");
    }
}

#[test]
fn damage_anywhere_ends_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("small");
    small(&folder);
    let mut number_below = numbers(0x9e37_79b9_7f4a_7c15);
    let mut volumes = vec![(readable(dir.path()), 1500)];
    for comp in ["gzip", "lzo", "lz4", "xz", "lzma", "zstd"] {
        volumes.push((fs::read(made(&folder, &format!("-comp {comp} -b 4K"))).unwrap(), 200));
    }
    for (bytes, rounds) in volumes {
        // The superblock, and all that lies behind the content.
        let end = number(&bytes, 40);
        let places: Vec<usize> = (0..96).chain(number(&bytes, 64)..end).collect();
        let mut opened = 0;
        for round in 0..rounds {
            let mut damaged = bytes.clone();
            for _ in 0..=number_below(4) {
                let at = places[number_below(places.len())];
                match number_below(4) {
                    0 | 1 => damaged[at] ^= 1 << number_below(8),
                    2 => damaged[at] = [0, 1, 0x7f, 0xff][number_below(4)],
                    _ => {
                        let from = places[number_below(places.len())].min(end - 8);
                        damaged.copy_within(from..from + 1 + number_below(8), at.min(end - 8));
                    }
                }
            }
            if round % 20 == 0 {
                damaged.truncate(number_below(end));
            }
            if let Ok(tree) = open_bytes(damaged) {
                survey(&tree);
                opened += 1;
            }
        }
        assert!(opened > rounds / 10, "only {opened} of {rounds} could be opened: the damage is too plain");
    }
}

#[test]
fn a_node_of_nobody_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let tree = open_bytes(readable(dir.path())).unwrap();
    for number in [0xffff, 1 << 40, u64::MAX] {
        assert!(tree.metadata(NodeId { tree: 0, number }).is_err(), "{number}");
    }
    assert!(tree.metadata(NodeId { tree: 1, ..tree.root() }).is_err());
}
