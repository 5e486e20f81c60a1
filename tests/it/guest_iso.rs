//! ISO 9660: volumes made by `xorriso` and `genisoimage` in every variant. Judges are the folder that they were made from, as
//! the kernel shows it, and libarchive's `bsdtar`, which reads Rock Ridge, Joliet and plain names by itself.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abbild::disk::MemoryDisk;
use abbild::guest::GuestError;
use abbild::guest::iso9660::{self, Iso9660};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind, Time};

use crate::guest_tree::{Field, Named, Tree, compare, disk, fill, noise, of_folder, of_tree, run, survey};
use crate::patched::numbers;

/// What the format does not have, or what its writers do not fill in as the kernel does.
pub(crate) const NOT_THERE: [Field; 7] = [
    Field::Accessed,
    Field::Created,
    Field::Allocated,
    Field::Data,
    Field::DirectorySize,
    Field::DirectoryLinks,
    Field::Attributes,
];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An image of `folder`, made by a writer with these options.
#[track_caller]
pub(crate) fn made(writer: &str, options: &[&str], folder: &Path) -> PathBuf {
    let image = folder.with_extension("iso");
    let _ = fs::remove_file(&image);
    let command: &[&str] = match writer {
        "xorriso" => &["xorriso", "-as", "mkisofs", "-quiet"],
        other => &[other, "-quiet"],
    };
    run(command[0], &[&command[1..], options, &["-o", text(&image), text(folder)]].concat());
    image
}

#[track_caller]
fn open(image: &Path) -> Iso9660 {
    iso9660::open(disk(image)).unwrap_or_else(|err| panic!("{err}"))
}

/// A tree as the format can hold it: whole seconds, and hard links as nodes of their own.
pub(crate) fn as_on_a_disc(mut tree: Tree) -> Tree {
    for (path, named) in &mut tree {
        let mut node = (*named.node).clone();
        for time in [&mut node.modified, &mut node.changed] {
            *time = Time { nanoseconds: 0, ..*time };
        }
        *named = Named { first_name: path.clone(), node: node.into() };
    }
    tree
}

/// The awkward tree, without what the format or its writers refuse.
pub(crate) fn awkward(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fill(folder);
    let refused = ["beyond 4 GiB", "links/to 500 bytes", "links/to 1000 bytes", "times/8", "times/9"];
    refused.iter().for_each(|name| fs::remove_file(folder.join(name)).unwrap());
}

#[test]
fn rock_ridge_of_two_writers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    awkward(&folder);
    let expected = as_on_a_disc(of_folder(&folder));
    assert!(expected.len() > 10_600, "{}", expected.len());
    // This writer moves directories that are too deep elsewhere, and leaves a link.
    let image = made("genisoimage", &["-R", "-V", "AWKWARD", "-input-charset", "iso8859-1"], &folder);
    let tree = open(&image);
    assert_eq!((tree.summary().label.as_str(), tree.summary().block_size), ("AWKWARD", 2048));
    assert_eq!(tree.summary().warnings, Vec::<String>::new());
    let mut found = of_tree(&tree);
    found.remove(&b"rr_moved"[..]).expect("directories that were moved");
    compare("genisoimage -R", &expected, &found, &NOT_THERE);
    // This one counts wrong in a directory of so many long names, and stores other modes where there are access lists.
    fs::remove_dir_all(folder.join("ten thousand")).unwrap();
    ["access list", "inherits"].iter().for_each(|name| fs::remove_file(folder.join("attributes").join(name)).unwrap());
    let expected = as_on_a_disc(of_folder(&folder));
    let image = made("xorriso", &["-R", "-iso-level", "3"], &folder);
    compare("xorriso -R", &expected, &of_tree(&open(&image)), &NOT_THERE);
}

/// A folder whose names all forms can hold.
fn plain(folder: &Path) {
    fs::create_dir_all(folder.join("docs/deep/er")).unwrap();
    for (name, len) in [("README.TXT", 5000), ("noext", 0), ("docs/deep/er/a.b", 2048), ("docs/UPPER.lower", 2049)] {
        fs::write(folder.join(name), noise(len, usize::try_from(len).unwrap())).unwrap();
    }
    fs::write(folder.join("repeated"), "the same words again and again\n".repeat(10_000)).unwrap();
    fs::create_dir(folder.join("many")).unwrap();
    for index in 0..500 {
        fs::write(folder.join(format!("many/{index}")), index.to_string()).unwrap();
    }
}

/// What bsdtar makes of an image, below its root.
#[track_caller]
fn by_judge(image: &Path) -> Tree {
    let place = image.with_extension("judge");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir(&place).unwrap();
    run("bsdtar", &["-C", text(&place), "-xpf", text(image)]);
    without_root(as_on_a_disc(of_folder(&place)))
}

fn without_root(mut tree: Tree) -> Tree {
    tree.remove(&b""[..]).expect("a root");
    tree
}

/// What neither plain nor Joliet volumes have; the judge makes it up.
fn without_rock_ridge() -> Vec<Field> {
    [&NOT_THERE[..], &[Field::Mode, Field::Owner, Field::Links, Field::Changed]].concat()
}

#[test]
fn plain_names_of_every_level() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    plain(&folder);
    for (writer, options) in [
        ("xorriso", &["-iso-level", "1", "--norock"][..]),
        ("xorriso", &["-iso-level", "2", "--norock"]),
        ("genisoimage", &["-iso-level", "3"]),
        ("genisoimage", &["-iso-level", "4"]),
        ("genisoimage", &["-iso-level", "2", "-N", "-l", "-d"]),
        ("genisoimage", &["-iso-level", "1", "-allow-lowercase"]),
    ] {
        let image = made(writer, options, &folder);
        // The judge shows capital letters as they are stored, Linux and we small ones.
        let judge = by_judge(&image).into_iter().map(|(path, named)| {
            let path = path.to_ascii_lowercase();
            (path.clone(), Named { first_name: path, ..named })
        });
        let tree = open(&image);
        let what = format!("{writer} {options:?}");
        compare(&what, &judge.collect(), &without_root(of_tree(&tree)), &without_rock_ridge());
        let readme = tree.lookup(tree.root(), b"readme.txt").unwrap();
        assert!(readme.is_some(), "{what}");
        assert_eq!(tree.lookup(tree.root(), b"ReadMe.txt").unwrap(), readme, "{what}: letters of either size");
        let metadata = tree.metadata(readme.unwrap()).unwrap();
        assert_eq!((metadata.mode, metadata.uid, metadata.links), (0o555, 0, 1));
    }
}

#[test]
fn joliet_where_there_is_no_rock_ridge() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    plain(&folder);
    for name in ["größe.txt", "日本語", "with space", "n".repeat(60).as_str(), "a,b+c[d]"] {
        fs::write(folder.join("docs").join(name), name).unwrap();
    }
    let image = made("genisoimage", &["-J", "-input-charset", "utf-8"], &folder);
    let tree = open(&image);
    compare("genisoimage -J", &by_judge(&image), &without_root(of_tree(&tree)), &without_rock_ridge());
    assert_eq!(tree.lookup(tree.root(), b"noext").unwrap(), tree.lookup(tree.root(), b"NOEXT").unwrap());
    // Only this one writes more than UCS-2.
    fs::write(folder.join("docs/🦀.rs"), "").unwrap();
    let image = made("xorriso", &["-J", "-joliet-utf16", "--norock"], &folder);
    let found = of_tree(&open(&image));
    compare("xorriso -J", &as_on_a_disc(of_folder(&folder)), &found, &without_rock_ridge());
    compare("xorriso -J, by bsdtar", &by_judge(&image), &without_root(found), &without_rock_ridge());
}

#[test]
fn hybrid_images_are_found_whole() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    plain(&folder);
    let other = dir.path().join("other");
    fs::write(&other, [0; 100_000]).unwrap();
    let image =
        made("xorriso", &["-R", "-partition_offset", "16", "-append_partition", "2", "0x83", text(&other)], &folder);
    let machine = abbild::guest::machine::GuestMachine::new(&[disk(&image)]);
    let names: Vec<&str> = machine.names().collect();
    assert!(names.contains(&"disk0"), "{names:?}");
    let expected = as_on_a_disc(of_folder(&folder));
    for name in names {
        let tree = machine.filesystem(name).unwrap().unwrap_or_else(|err| panic!("{err}"));
        compare(name, &expected, &of_tree(tree.as_ref()), &NOT_THERE);
    }
}

#[test]
fn zisofs_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    plain(&folder);
    let image = zisofs(&folder);
    let tree = open(&image);
    let expected = as_on_a_disc(of_folder(&folder));
    compare("zisofs", &expected, &of_tree(&tree), &NOT_THERE);
    let stored = |name: &[u8]| tree.metadata(tree.lookup(tree.root(), name).unwrap().unwrap()).unwrap().allocated;
    assert!(stored(b"repeated") < 100_000 && stored(b"mostly zeros") < 60_000, "they were packed");
}

/// An image of `folder` whose files are packed, with one more that has blocks of nothing.
fn zisofs(folder: &Path) -> PathBuf {
    let zeros = fs::File::create(folder.join("mostly zeros")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&zeros, &noise(1, 40_000), 150_000).unwrap();
    zeros.set_len(1_000_001).unwrap();
    let image = folder.with_extension("iso");
    let pack = ["-set_filter_r", "--zisofs", "/", "--", "-commit"];
    run(
        "xorriso",
        &[&["-report_about", "SORRY", "-outdev", text(&image), "-map", text(folder), "/"], &pack[..]].concat(),
    );
    image
}

// ---- hostile and damaged volumes ------------------------------------------------------------------------------------

fn open_bytes(bytes: Vec<u8>) -> Result<Iso9660, GuestError> {
    iso9660::open(Arc::new(MemoryDisk(bytes)))
}

/// Where the directory record with this name as it is stored begins: in the first tree, which lies first.
#[track_caller]
fn record(bytes: &[u8], name: &[u8]) -> usize {
    let wanted = [&[u8::try_from(name.len()).unwrap()][..], name].concat();
    let at = bytes.windows(wanted.len()).position(|window| window == wanted);
    at.unwrap_or_else(|| panic!("{:?} is not there", String::from_utf8_lossy(name))) - 32
}

/// Writes a number in both byte orders.
fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&number.to_be_bytes());
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
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
        match tree.metadata(node).map(|metadata| metadata.kind) {
            Ok(NodeKind::Directory) if !entered.insert(node) => {
                said.insert(path, "met again".into());
            }
            Ok(NodeKind::Directory) => note(tree.read_directory(node, &mut |entry| {
                left.push((format!("{path}/{}", String::from_utf8_lossy(entry.name)), entry.node));
                ControlFlow::Continue(())
            })),
            Ok(NodeKind::Symlink) => note(tree.read_link(node).map(|_| ())),
            Ok(_) => note(tree.read_at(node, 0, &mut [0; 70_000]).map(|_| ())),
            Err(err) => note(Err(err)),
        }
    }
    said
}

/// A small volume with a bit of everything.
fn small(dir: &Path, options: &[&str]) -> Vec<u8> {
    let folder = dir.join("small");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("one/two")).unwrap();
    fs::create_dir(folder.join("few")).unwrap();
    fs::write(folder.join("aa"), noise(1, 4096)).unwrap();
    fs::write(folder.join("ab"), noise(2, 5000)).unwrap();
    fs::write(folder.join("one/two/file"), "content").unwrap();
    fs::write(folder.join("x".repeat(250)), "its name goes on elsewhere").unwrap();
    std::os::unix::fs::symlink("/a/../b/./c", folder.join("link")).unwrap();
    std::os::unix::fs::symlink(["t".repeat(200), "u".repeat(200)].join("/"), folder.join("long link")).unwrap();
    for index in 0..60 {
        fs::write(folder.join(format!("few/{index}")), "").unwrap();
    }
    fs::read(made("xorriso", options, &folder)).unwrap()
}

#[test]
fn lies_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let sound = small(dir.path(), &["-R"]);
    assert_eq!(said(&sound), BTreeMap::new());
    #[track_caller]
    fn check(sound: &[u8], path: &str, expected: &str, lie: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = sound.to_vec();
        lie(&mut bytes);
        let said = said(&bytes);
        assert!(said.get(path).is_some_and(|said| said.contains(expected)), "{path}: {expected}: {said:#?}");
    }
    let at = |name: &[u8]| record(&sound, name);
    let (one, two, aa, ab) = (at(b"ONE"), at(b"TWO"), at(b"AA.;1"), at(b"AB.;1"));
    let check = |path, expected, lie: &dyn Fn(&mut Vec<u8>)| check(&sound, path, expected, lie);
    // Directories in circles.
    let (root_block, one_block) = (number(&sound, 32_768 + 158), number(&sound, one + 2));
    let below = "expected a directory below this one, found this one or the root";
    check("", below, &|bytes| put(bytes, one + 2, root_block));
    check("/one", below, &|bytes| put(bytes, two + 2, root_block));
    check("/one", below, &|bytes| put(bytes, two + 2, one_block));
    let inner = number(&sound, two + 2) as usize * 2048;
    check("/one/two/file", "met again", &|bytes| {
        // A file below becomes its own grandparent.
        let file = inner + record(&bytes[inner..], b"FILE.;1");
        bytes[file + 25] |= 2;
        put(bytes, file + 2, one_block);
        let px = file + bytes[file..].windows(2).position(|window| window == b"PX").unwrap();
        put(bytes, px + 4, 0o40755);
    });
    // Places and numbers.
    check("/aa", "content of a file at 0x1ffff800 of the volume: expected 4096 bytes", &|bytes| {
        put(bytes, aa + 2, 0x3_ffff);
    });
    check("/one", "directory record at 0x7fffff800 of the volume: expected 1 bytes", &|bytes| {
        put(bytes, one + 2, 0xff_ffff);
    });
    check("/one", "directory at", &|bytes| put(bytes, one_block as usize * 2048 + 10, u32::MAX));
    check("", "in both byte orders", &|bytes| bytes[aa + 6] ^= 1);
    check("open", "in both byte orders", &|bytes| bytes[32_768 + 80] ^= 1);
    check("open", "expected 512, 1024 or 2048 in both byte orders", &|bytes| bytes[32_768 + 129] = 1);
    check("open", "expected a primary one, found none", &|bytes| bytes[32_768] = 9);
    check("open", "expected the directory itself, found nothing", &|bytes| put(bytes, 32_768 + 158, 3));
    check("", "directory record at", &|bytes| bytes[aa] = 20);
    check("", "expected a name that fits", &|bytes| bytes[aa + 32] = 250);
    check("/aa", "a file in pieces with gaps (interleaved) is not supported", &|bytes| bytes[aa + 26] = 4);
    check("/aa", "piece of a file at", &|bytes| bytes[aa + 25] |= 0x80);
    check("/ab", "whole blocks, for another piece follows", &|bytes| bytes[ab + 25] |= 0x80);
    // Fields of Rock Ridge.
    let field = |record: usize, signature: &[u8]| {
        record + sound[record..].windows(signature.len()).position(|window| window == signature).unwrap()
    };
    check("", "mode (PX) at", &|bytes| put(bytes, field(aa, b"PX") + 4, 0o40755));
    check("", "system use field at", &|bytes| bytes[field(aa, b"PX") + 2] = 3);
    check("", "system use field at", &|bytes| bytes[field(aa, b"PX") + 2] = 200);
    check("", "dates (TF) at", &|bytes| bytes[field(aa, b"TF") + 4] = 0x8f);
    check("", "expected one or more bytes without / and NUL", &|bytes| bytes[field(aa, b"NM") + 5] = b'/');
    let ce = field(at(b"LONG_LIN.;1"), b"CE\x1c\x01");
    let (area, len) =
        (number(&sound, ce + 4) as usize * 2048 + number(&sound, ce + 12) as usize, number(&sound, ce + 20));
    assert!(len >= 28);
    check("", "continuation area at", &|bytes| put(bytes, ce + 20, u32::MAX));
    check("", "continuation area at", &|bytes| put(bytes, ce + 4, u32::MAX));
    check("", "expected at most 64 for a record, found more", &|bytes| {
        // An area that says that it goes on in itself.
        put(bytes, ce + 20, 28);
        bytes.copy_within(ce..ce + 28, area);
    });
    let link = field(at(b"LINK.;1"), b"SL");
    check("", "expected a component that fits, found 250 bytes", &|bytes| bytes[link + 6] = 250);
    check("", "expected a known kind of component", &|bytes| bytes[link + 5] = 0x40);
}

#[test]
fn a_file_of_several_pieces() {
    let dir = tempfile::tempdir().unwrap();
    // Two files become one, as writers do it with files of more than 4 GiB.
    let mut bytes = small(dir.path(), &["--norock"]);
    let (aa, ab) = (record(&bytes, b"AA.;1"), record(&bytes, b"AB.;1"));
    bytes[aa + 25] |= 0x80;
    bytes[ab + 33 + 1] = b'A';
    let image = dir.path().join("pieces.iso");
    fs::write(&image, &bytes).unwrap();
    let tree = open(&image);
    compare("pieces", &by_judge(&image), &without_root(upper_of(&tree)), &without_rock_ridge());
    let node = tree.lookup(tree.root(), b"aa").unwrap().unwrap();
    let whole = [noise(1, 4096), noise(2, 5000)].concat();
    for (at, len) in [(0, 9096), (0, 10_000), (4095, 2), (4096, 10), (9095, 5), (9096, 1), (100, 4000)] {
        let mut buf = vec![0; len];
        let found = tree.read_at(node, at as u64, &mut buf).unwrap();
        assert_eq!(buf[..found], whole[at..whole.len().min(at + len)], "{len} at {at}");
    }
}

/// Our tree, with names as the judge shows them.
fn upper_of(tree: &dyn FileSystem) -> Tree {
    let upper = of_tree(tree).into_iter().map(|(path, named)| {
        let path = path.to_ascii_uppercase();
        (path.clone(), Named { first_name: path, ..named })
    });
    upper.collect()
}

#[test]
fn packed_lies_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let sound = fs::read(zisofs(&folder)).unwrap();
    assert_eq!(said(&sound), BTreeMap::new());
    let at = record(&sound, b"MOSTLY_ZEROS.;1");
    let content = number(&sound, at + 2) as usize * 2048;
    let zf = at + sound[at..].windows(4).position(|window| window == b"ZF\x10\x01").unwrap();
    let check = |expected: &str, lie: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        lie(&mut bytes);
        let tree = open_bytes(bytes).unwrap();
        let node = tree.lookup(tree.root(), b"mostly zeros").unwrap().unwrap();
        let metadata = tree.metadata(node).unwrap();
        let said = tree.read_at(node, 150_000, &mut [0; 40_000]).unwrap_err().to_string();
        assert!(said.contains(expected), "{expected}: {said}, {metadata:?}");
    };
    check("a file compressed by zisofs, version 2, is not supported", &|bytes| bytes[zf + 4] = b'P');
    check("expected 2^15 to 2^17, found 2^60", &|bytes| bytes[zf + 7] = 60);
    check("expected the header", &|bytes| bytes[content] ^= 1);
    check("expected the header", &|bytes| put(bytes, zf + 8, u32::MAX));
    check("bytes with its table of blocks", &|bytes| {
        put(bytes, zf + 8, u32::MAX);
        bytes[content + 8..content + 12].fill(0xff);
    });
    let pointer = content + 16 + 4 * 4;
    check("compressed block at", &|bytes| bytes[pointer..pointer + 4].fill(0xff));
    let block = content + number(&sound, pointer) as usize;
    check("expected 32768 bytes packed by zlib", &|bytes| bytes[block..block + 20].fill(0x55));
}

#[test]
fn damage_anywhere_ends_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = numbers(0x9e37_79b9_7f4a_7c15);
    let packed = dir.path().join("packed");
    fs::create_dir(&packed).unwrap();
    let volumes =
        [small(dir.path(), &["-R"]), small(dir.path(), &["-J", "--norock"]), fs::read(zisofs(&packed)).unwrap()];
    for bytes in volumes {
        // What has no zeros, from the first descriptor on; content of files has no effect that could matter.
        let places: Vec<usize> = (32_768..bytes.len().min(200_000)).filter(|at| bytes[*at] != 0).collect();
        let mut opened = 0;
        for round in 0..1500 {
            let mut damaged = bytes.clone();
            for _ in 0..=number(4) {
                let at = places[number(places.len())];
                match number(4) {
                    0 => damaged[at] ^= 1 << number(8),
                    1 => damaged[at] = [0, 1, 0x7f, 0xff][number(4)],
                    2 => {
                        // Numbers are believed if both of their forms agree.
                        let value = [0, 1, 16, 19, 2048, u32::MAX, u32::try_from(number(400)).unwrap()][number(7)];
                        put(&mut damaged, at.min(bytes.len() - 8), value);
                    }
                    _ => {
                        let from = places[number(places.len())].min(bytes.len() - 40);
                        damaged.copy_within(from..from + 1 + number(40), at.min(bytes.len() - 40));
                    }
                }
            }
            if round % 10 == 0 {
                damaged.truncate(number(bytes.len()));
            }
            if let Ok(tree) = open_bytes(damaged) {
                survey(&tree);
                opened += 1;
            }
        }
        assert!(opened > 500, "only {opened} could be opened: the damage is too plain");
    }
}

#[test]
fn a_node_of_nobody_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let tree = open_bytes(small(dir.path(), &["-R"])).unwrap();
    for number in [0, 3, 40_000, u64::MAX] {
        assert!(tree.metadata(NodeId { tree: 0, number }).is_err(), "{number}");
    }
    assert!(tree.metadata(NodeId { tree: 1, ..tree.root() }).is_err());
}
