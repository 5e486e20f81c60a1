//! XFS: volumes made by `mkfs.xfs`, filled by the kernel, and read by both. The kernel's view of the same image is the judge;
//! where it no longer reads a form (version 4), the folder that `mkfs.xfs` copied from is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use abbild::disk::{Disk, ExtentKind};
use abbild::guest::GuestError;
use abbild::guest::tree::{FileSystem, NodeKind};
use abbild::guest::xfs::{self, Xfs};
use abbild::units::GuestOffset;

use crate::guest_tree::{Mount, Tree, compare, disk, fill, of_folder, of_tree, run, set_attribute};
use crate::patched::Patched;

/// A sparse image file with a new XFS, made with these options.
#[track_caller]
fn made(folder: &Path, options: &str) -> PathBuf {
    let image = folder.join("xfs.img");
    fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    let mut args: Vec<&str> = vec!["-q", "-f"];
    args.extend(options.split_whitespace());
    args.push(image.to_str().unwrap());
    run("mkfs.xfs", &args);
    image
}

#[track_caller]
fn open(image: &Path) -> Xfs {
    xfs::open(disk(image)).unwrap()
}

/// The kernel's view; Linux shows ACLs twice to root, we once.
fn of_kernel(folder: &Path) -> Tree {
    let mut tree = of_folder(folder);
    for named in tree.values_mut() {
        if named.node.attributes.iter().any(|(name, _)| name.starts_with(b"trusted.SGI_ACL_")) {
            let mut node = (*named.node).clone();
            node.attributes.retain(|(name, _)| !name.starts_with(b"trusted.SGI_ACL_"));
            named.node = Rc::new(node);
        }
    }
    tree
}

/// Fills a new volume and compares our view with the kernel's.
#[track_caller]
fn check(options: &str, more: fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), options);
    let place = dir.path().join("mount");
    let mount = Mount::new(&image, &place, "defaults");
    fill(mount.path());
    more(mount.path());
    mount.unmount();
    let mount = Mount::new(&image, &place, "ro,norecovery");
    let expected = of_kernel(mount.path());
    mount.unmount();
    let tree = open(&image);
    assert_eq!(tree.summary().warnings, Vec::<String>::new());
    compare(options, &expected, &of_tree(&tree), &[]);
}

fn many_attributes(folder: &Path) {
    let many = folder.join("many attributes");
    fs::write(&many, "").unwrap();
    for index in 0..1500 {
        set_attribute(&many, &format!("user.{index}"), &vec![b'v'; index % 60]);
    }
    let long = folder.join("long values");
    fs::write(&long, "").unwrap();
    for len in [200, 1000, 2000, 3000, 4000, 4040, 4041, 4096, 20_000, 65_535, 65_536] {
        set_attribute(&long, &format!("user.{len}"), &(0..len).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    }
}

/// Two directories that grow in turns, so that neither is in one piece.
fn directories_in_pieces(folder: &Path) {
    for name in ["one", "other"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let file = folder.join("one/file");
    fs::write(&file, "").unwrap();
    for index in 0..2500 {
        for name in ["one", "other"] {
            fs::hard_link(&file, folder.join(format!("{name}/{index}{}", "n".repeat(200)))).unwrap();
        }
    }
}

/// A file of so many pieces that its map is a tree of several levels.
fn file_in_pieces(folder: &Path) {
    let file = fs::File::create(folder.join("pieces")).unwrap();
    for index in (0..3000).rev() {
        file.write_all_at(&[1 + (index % 255) as u8; 100], index * 8192).unwrap();
    }
    file.sync_all().unwrap();
    let file = fs::File::create(folder.join("1 TiB")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", 1 << 40).unwrap();
}

fn shared_extents(folder: &Path) {
    let content: Vec<u8> = (0..400_000u32).map(|at| (at / 7) as u8).collect();
    fs::write(folder.join("original"), &content).unwrap();
    let original = fs::File::open(folder.join("original")).unwrap();
    let copy = fs::File::create(folder.join("copy")).unwrap();
    rustix::fs::ioctl_ficlone(&copy, &original).unwrap();
    copy.write_all_at(b"changed here", 100_000).unwrap();
}

#[test]
fn as_made_by_default_with_shared_extents_and_many_attributes() {
    check("-L awkward", |folder| {
        many_attributes(folder);
        shared_extents(folder);
        directories_in_pieces(folder);
    });
}

#[test]
fn small_blocks_and_large_directory_blocks() {
    check("-b size=1024 -n size=8192 -m reflink=0,bigtime=0", |folder| {
        file_in_pieces(folder);
        many_attributes(folder);
        directories_in_pieces(folder);
    });
}

#[test]
fn small_blocks_everywhere() {
    check("-b size=1024 -n size=4096 -i nrext64=1", |folder| {
        file_in_pieces(folder);
        directories_in_pieces(folder);
    });
}

#[test]
fn large_sectors_inodes_and_directory_blocks() {
    check("-s size=4096 -i size=2048 -n size=65536 -i sparse=0", many_attributes);
}

#[test]
fn the_largest_blocks() {
    check("-b size=65536 -m rmapbt=1", many_attributes);
}

/// Changes of every kind, some of which no longer fit where they were.
fn busy(folder: &Path) {
    for index in 0..300 {
        let place = folder.join(format!("new {index}"));
        fs::create_dir(&place).unwrap();
        fs::write(place.join("file"), vec![index as u8; index * 50]).unwrap();
        set_attribute(&place, "user.new", &vec![b'a'; index * 5]);
    }
    for index in 100..200 {
        fs::remove_dir_all(folder.join(format!("new {index}"))).unwrap();
        fs::rename(folder.join(format!("new {}", index + 100)), folder.join(format!("new {index}"))).unwrap();
    }
    for index in 5000..8000 {
        let padding = "x".repeat(if index % 100 == 0 { 200 } else { index % 17 });
        fs::remove_file(folder.join(format!("ten thousand/{index}{padding}"))).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(900), folder.join("a new link")).unwrap();
    fs::remove_dir_all(folder.join("many small")).unwrap();
    let file = fs::File::options().write(true).open(folder.join("fragments")).unwrap();
    for index in 200..400 {
        file.write_all_at(b"now there", index * 8192 + 4096).unwrap();
    }
}

/// Stops a filesystem in the middle of its work, and compares our replay of its log with the kernel's.
#[track_caller]
fn check_log(options: &str, mount_options: &str) {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), options);
    let place = dir.path().join("mount");
    let mount = Mount::new(&image, &place, mount_options);
    fill(mount.path());
    fs::File::open(mount.path()).unwrap().sync_all().unwrap();
    run("sync", &["-f", place.to_str().unwrap()]);
    busy(mount.path());
    run("xfs_io", &["-x", "-c", "shutdown -f", place.to_str().unwrap()]);
    mount.unmount();
    let tree = open(&image);
    let warnings = &tree.summary().warnings;
    assert!(matches!(&warnings[..], [one] if one.starts_with("its log was replayed in memory: ")), "{warnings:?}");
    let found = of_tree(&tree);
    let mount = Mount::new(&image, &place, "noatime");
    let expected = of_kernel(mount.path());
    mount.unmount();
    assert!(expected.contains_key(&b"new 150/file"[..]), "the log had the changes");
    compare(options, &expected, &found, &[]);
}

#[test]
fn a_log_is_replayed_as_the_kernel_does() {
    check_log("", "defaults");
}

#[test]
fn a_log_of_small_blocks_and_large_buffers_is_replayed_as_the_kernel_does() {
    check_log("-b size=2048 -i size=1024 -n size=4096", "logbsize=256k");
}

/// Where a structure of version 5 has its checksum, by its first bytes.
fn checksum_of(bytes: &[u8]) -> Option<usize> {
    Some(match (&bytes[..4], &bytes[8..10]) {
        (b"XFSB", _) => 224,
        (b"BMA3", _) => 64,
        (b"XDB3" | b"XDD3", _) => 4,
        (b"XARM" | b"XSLM", _) => 12,
        // Not the free ones.
        ([b'I', b'N', mode, low, ..], _) if (*mode, *low) != (0, 0) => 100,
        (_, [0x3d, 0xf1 | 0xff] | [0x3e, 0xbe] | [0x3b, 0xee]) => 12,
        _ => return None,
    })
}

/// Puts the checksum of a changed structure right.
fn seal(bytes: &mut [u8], checksum: usize) {
    bytes[checksum..checksum + 4].fill(0);
    let sum = crc32c::crc32c(bytes);
    bytes[checksum..checksum + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Looks at everything, whatever is wrong with it; returns how many calls failed.
fn look_at_everything(tree: &dyn FileSystem) -> usize {
    errors_of(tree).len()
}

/// Looks at everything, whatever is wrong with it; returns what was said about it.
fn errors_of(tree: &dyn FileSystem) -> Vec<String> {
    let (mut errors, mut seen, mut nodes) = (Vec::new(), BTreeSet::new(), vec![tree.root()]);
    let mut buf = vec![0; 20_000];
    let mut note = |outcome: Result<(), GuestError>| errors.extend(outcome.err().map(|err| err.to_string()));
    while let Some(node) = nodes.pop().filter(|_| seen.len() < 1000) {
        if !seen.insert(node) {
            continue;
        }
        note(tree.extended_attributes(node).map(|_| ()));
        let metadata = match tree.metadata(node) {
            Ok(metadata) => metadata,
            Err(err) => {
                note(Err(err));
                continue;
            }
        };
        let outcome = match metadata.kind {
            NodeKind::Directory => {
                let mut names = Vec::new();
                let outcome = tree.read_directory(node, &mut |entry| {
                    nodes.push(entry.node);
                    names.push(entry.name.to_vec());
                    ControlFlow::Continue(())
                });
                names.iter().step_by(29).for_each(|name| note(tree.lookup(node, name).map(|_| ())));
                note(tree.lookup(node, b"absent").map(|_| ()));
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
        note(outcome);
    }
    errors
}

const DAMAGED_VOLUMES: usize = 1000;

/// A small volume with every form of everything.
fn every_form(dir: &Path, options: &str) -> PathBuf {
    let image = made(dir, options);
    let mount = Mount::new(&image, &dir.join("mount"), "defaults");
    let folder = mount.path();
    let file = fs::File::create(folder.join("pieces")).unwrap();
    for index in 0..150 {
        file.write_all_at(&[7; 100], index * 8192).unwrap();
    }
    drop(file);
    fs::create_dir(folder.join("names")).unwrap();
    fs::create_dir(folder.join("few")).unwrap();
    for index in 0..1200 {
        fs::hard_link(folder.join("pieces"), folder.join(format!("names/{index}"))).unwrap();
    }
    for index in 0..12 {
        fs::hard_link(folder.join("pieces"), folder.join(format!("few/{index} {}", "n".repeat(40)))).unwrap();
    }
    std::os::unix::fs::symlink("short", folder.join("short")).unwrap();
    std::os::unix::fs::symlink("t".repeat(900), folder.join("long")).unwrap();
    set_attribute(&folder.join("few"), "user.one", b"1");
    for index in 0..60 {
        set_attribute(&folder.join("names"), &format!("user.{index}"), &[b'v'; 40]);
    }
    set_attribute(&folder.join("pieces"), "user.long", &[b'v'; 5000]);
    fs::write(folder.join("no list"), "").unwrap();
    set_attribute(&folder.join("no list"), "trusted.SGI_ACL_FILE", &[1; 40]);
    mount.unmount();
    image
}

/// Where structures with sound checksums begin, where their checksums are, and how long they are.
fn structures(disk: &dyn Disk) -> Vec<(u64, usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < disk.size().0 {
        let extent = disk.extent_at(GuestOffset(at)).unwrap();
        if extent.kind == ExtentKind::Data {
            let mut bytes = vec![0; extent.len.0 as usize];
            disk.read_at(GuestOffset(at), &mut bytes).unwrap();
            for (index, piece) in bytes.chunks_exact(512).enumerate() {
                let Some(checksum) = checksum_of(piece) else { continue };
                // An inode or sector, a block, or a directory block: what its checksum says.
                let is_sealed = |len: &usize| {
                    let whole = bytes.get(index * 512..index * 512 + len);
                    whole.is_some_and(|whole| {
                        let mut sealed = whole.to_vec();
                        seal(&mut sealed, checksum);
                        sealed == whole
                    })
                };
                let len = [512, 1024, 4096].into_iter().find(is_sealed);
                found.extend(len.map(|len| (at + index as u64 * 512, checksum, len)));
            }
        }
        at += extent.len.0;
    }
    found
}

#[test]
fn damage_under_sound_checksums_neither_panics_nor_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let image = every_form(dir.path(), "-b size=1024");
    let below = disk(&image);
    let structures = structures(below.as_ref());
    assert!(structures.len() > 30, "{}", structures.len());
    assert_eq!(look_at_everything(&open(&image)), 1, "all is sound but the ACL that is none");
    let mut random = Random(7);
    let mut failed = 0;
    for _ in 0..DAMAGED_VOLUMES {
        let (at, checksum, len) = structures[random.below(structures.len())];
        let mut bytes = vec![0; len];
        below.read_at(GuestOffset(at), &mut bytes).unwrap();
        for _ in 0..=random.below(3) {
            // Most of what matters lies at the start.
            let place = if random.below(2) == 0 { random.below(len) } else { random.below(len.min(200)) };
            bytes[place] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[place] ^ 1 << random.below(8),
                _ => random.below(256) as u8,
            };
        }
        seal(&mut bytes, checksum);
        let patched = Patched { below: Arc::clone(&below), patches: vec![(at, bytes)] };
        match xfs::open(Arc::new(patched)) {
            Ok(tree) => failed += usize::from(look_at_everything(&tree) > 1),
            Err(_) => failed += 1,
        }
    }
    assert!(failed > DAMAGED_VOLUMES / 8, "{failed} of {DAMAGED_VOLUMES} were noticed");
}

#[test]
fn rot_is_noticed_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let image = every_form(dir.path(), "-b size=1024");
    let below = disk(&image);
    let mut random = Random(8);
    let mut unnoticed = BTreeSet::new();
    let structures = structures(below.as_ref());
    for (at, _, len) in &structures {
        let place = at + random.below(*len) as u64;
        let mut byte = [0];
        below.read_at(GuestOffset(place), &mut byte).unwrap();
        let patched = Patched { below: Arc::clone(&below), patches: vec![(place, vec![byte[0] ^ 0x10])] };
        let noticed = xfs::open(Arc::new(patched)).map_or(2, |tree| look_at_everything(&tree)) > 1;
        if !noticed {
            let mut start = [0; 4];
            below.read_at(GuestOffset(*at), &mut start).unwrap();
            unnoticed.insert(start);
        }
    }
    // Copies of the superblock, and the inodes of the realtime device that is not there: nobody reads them.
    assert_eq!(unnoticed, BTreeSet::from([*b"XFSB", *b"IN\x80\0"]));
}

#[test]
fn lies_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = every_form(dir.path(), "-b size=1024");
    let below = disk(&image);
    let structures = structures(below.as_ref());
    // The structure by its bytes from some place on, where to write what, and what is said.
    type Lie = (usize, &'static [u8], usize, &'static [u8], &'static str);
    let lies: [Lie; 9] = [
        (0, b"XFSB", 216, &[0, 0, 1, 0], "XFS with a metadata directory is not supported"),
        (0, b"XFSB", 216, &[0x40, 0, 0, 0], "XFS with the unknown feature 0x40000000 is not supported"),
        (0, b"XFSB", 4, &[0, 0, 3, 0], "block size at 0x4 of the volume: expected a power of two"),
        (0, b"XDD3", 64 + 8, &[200], "expected an entry at "),
        (0, b"XDD3", 64 + 9, b"a/b", "expected one or more bytes without / and NUL"),
        (0, b"BMA3", 4, &[0, 7], "expected level 0, found level 7"),
        (8, &[0x3e, 0xbe], 64 + 4, &[0, 0xff, 0xff, 0xff], "found a hole at block 16777215"),
        // The index of a directory begins at 32 GiB: a node that is its own child.
        (8, &[0x3e, 0xbe], 64 + 4, &[2, 0, 0, 0], "expected a leaf, found a node"),
        (8, &[0x3e, 0xbe], 58, &[0, 9], "level of a node at"),
    ];
    for (magic_at, magic, place, lie, expected) in lies {
        let mut said = Vec::new();
        for (at, checksum, len) in &structures {
            let mut bytes = vec![0; *len];
            below.read_at(GuestOffset(*at), &mut bytes).unwrap();
            if !bytes[magic_at..].starts_with(magic) {
                continue;
            }
            bytes[place..place + lie.len()].copy_from_slice(lie);
            seal(&mut bytes, *checksum);
            let patched = Patched { below: Arc::clone(&below), patches: vec![(*at, bytes)] };
            match xfs::open(Arc::new(patched)) {
                Ok(tree) => said.extend(errors_of(&tree)),
                Err(err) => said.push(err.to_string()),
            }
        }
        assert!(said.iter().any(|said| said.contains(expected)), "{expected}: {said:#?}");
    }
}

#[test]
fn a_damaged_log_is_replayed_in_part_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "-b size=1024");
    let place = dir.path().join("mount");
    let mount = Mount::new(&image, &place, "logbsize=32k");
    for index in 0..40 {
        fs::create_dir(place.join(format!("{index}"))).unwrap();
        set_attribute(&place.join(format!("{index}")), "user.a", &vec![b'a'; index * 30]);
        std::os::unix::fs::symlink("t".repeat(index * 20 + 1), place.join(format!("to {index}"))).unwrap();
    }
    run("xfs_io", &["-x", "-c", "shutdown -f", place.to_str().unwrap()]);
    mount.unmount();
    let below = disk(&image);
    let mut records = Vec::new();
    let mut at = 0;
    while at < below.size().0 {
        let extent = below.extent_at(GuestOffset(at)).unwrap();
        if extent.kind == ExtentKind::Data {
            let mut bytes = vec![0; extent.len.0 as usize];
            below.read_at(GuestOffset(at), &mut bytes).unwrap();
            for (index, block) in bytes.chunks_exact(512).enumerate() {
                let len = u32::from_be_bytes(block[12..16].try_into().unwrap()) as usize;
                if block.starts_with(&[0xfe, 0xed, 0xba, 0xbe]) && len > 512 && (index + 1) * 512 + len <= bytes.len() {
                    records.push((at + index as u64 * 512, bytes[index * 512..(index + 1) * 512 + len].to_vec()));
                }
            }
        }
        at += extent.len.0;
    }
    assert!(!records.is_empty());
    let mut random = Random(9);
    let mut outcomes = BTreeMap::new();
    for _ in 0..300 {
        let (at, mut bytes) = records[random.below(records.len())].clone();
        for _ in 0..=random.below(3) {
            let place = if random.below(8) == 0 { random.below(44) } else { 512 + random.below(bytes.len() - 512) };
            bytes[place] = if random.below(2) == 0 { 0xff } else { bytes[place] ^ 1 << random.below(8) };
        }
        let mut checked = bytes.clone();
        checked[32..36].fill(0);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&checked[..328]), &checked[512..]);
        bytes[32..36].copy_from_slice(&sum.to_le_bytes());
        let patched = Patched { below: Arc::clone(&below), patches: vec![(at, bytes)] };
        if let Ok(tree) = xfs::open(Arc::new(patched)) {
            look_at_everything(&tree);
            let words = tree.summary().warnings.first().map(|warning| warning[..20].to_string());
            *outcomes.entry(words).or_insert(0) += 1;
        }
    }
    assert!(outcomes.get(&Some("its log could not be".to_string())).is_some_and(|count| *count > 20), "{outcomes:?}");
    assert!(outcomes.get(&Some("its log was replayed".to_string())).is_some_and(|count| *count > 20), "{outcomes:?}");
}

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Version 4, which `mkfs.xfs` fills from a description.
#[track_caller]
fn check_version_4(options: &str, attributes: &str) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let content: Vec<u8> = (0..300_000u32).map(|at| (at / 3) as u8).collect();
    fs::write(source.join("content"), &content).unwrap();
    let mut names = String::new();
    for index in 0..3000 {
        names.push_str(&format!("name-{index} ---644 3 4 /dev/null\n"));
    }
    let content = source.join("content").display().to_string();
    let long = "t".repeat(1000);
    let prototype = format!(
        "/none\n0 0\nd--755 0 0\ncontent -u-640 5 70000 {content}\nmany d--755 0 0\n{names}$\nfew d--711 0 0\n\
         one ---600 1 2 {content}\ntwo ---644 1 2 /dev/null\n$\nshort l--777 0 0 there\nlong l--777 0 0 {long}\n\
         null c--666 0 0 1 3\ndisk b--660 0 6 8 1\npipe p--600 0 0\n$\n"
    );
    let description = dir.path().join("prototype");
    fs::write(&description, prototype).unwrap();
    let image = made(dir.path(), &format!("-m crc=0,finobt=0 {options} -p {}", description.display()));
    // Attributes in all forms: what the tool writes is as many v as it is told.
    let mut commands = vec!["-x".to_string(), "-c".into(), "path /content".into()];
    for (name, len) in [("a", 1), ("b", 200), ("c", 3000), ("d", 65_536)] {
        commands.extend(["-c".into(), format!("attr_set -u -v {len} {name}")]);
    }
    commands.push(image.to_str().unwrap().to_string());
    run("xfs_db", &commands.iter().map(String::as_str).collect::<Vec<_>>());
    let tree = open(&image);
    assert_eq!(tree.summary().warnings, Vec::<String>::new());
    let seen = of_tree(&tree);
    let of = |path: &str| &*seen.get(path.as_bytes()).unwrap_or_else(|| panic!("{path}")).node;
    assert_eq!(seen.len(), 3000 + 11);
    let expected = crate::guest_tree::of_folder(&source);
    for path in ["content", "few/one"] {
        assert_eq!(of(path).content, expected[&b"content"[..]].node.content, "{path}");
    }
    assert_eq!((of("content").mode, of("content").uid, of("content").gid), (0o4640, 5, 70_000));
    assert_eq!(of("many").kind, NodeKind::Directory);
    assert_eq!((of("many/name-2999").size, of("many/name-2999").uid), (0, 3));
    assert_eq!(of("long").target.as_deref(), Some(long.as_bytes()));
    assert_eq!(of("short").target.as_deref(), Some(&b"there"[..]));
    assert_eq!((of("null").kind, of("null").device), (NodeKind::CharacterDevice, Some((1, 3))));
    assert_eq!((of("disk").kind, of("disk").device), (NodeKind::BlockDevice, Some((8, 1))));
    assert_eq!(of("pipe").kind, NodeKind::Fifo);
    let lengths: Vec<_> = of("content").attributes.iter().map(|(name, value)| (&name[..], value.len())).collect();
    assert_eq!(
        lengths,
        [(&b"user.a"[..], 1), (b"user.b", 200), (b"user.c", 3000), (b"user.d", 65_536)],
        "{attributes}"
    );
}

#[test]
fn version_4() {
    check_version_4("", "of 4 KiB blocks");
    check_version_4("-n ftype=0 -b size=512 -i size=256", "of small blocks");
    check_version_4("-n ftype=0,version=ci", "without regard to case");
}
