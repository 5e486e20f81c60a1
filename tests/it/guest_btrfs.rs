//! Btrfs: volumes made by `mkfs.btrfs`, filled by the kernel, and read by both. The kernel's view of the same image is
//! the judge.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use abbild::guest::btrfs::{self, Btrfs};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind};

use crate::guest_tree::{Mount, Tree, compare, disk, fill, noise, of_folder, of_tree, run, set_attribute};

/// A sparse image file with a new btrfs, made with these options.
#[track_caller]
pub(crate) fn made(folder: &Path, options: &str) -> PathBuf {
    let image = folder.join("btrfs.img");
    fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    let mut args: Vec<&str> = vec!["-q", "-f"];
    args.extend(options.split_whitespace());
    args.push(image.to_str().unwrap());
    run("mkfs.btrfs", &args);
    image
}

#[track_caller]
pub(crate) fn open(image: &Path) -> Btrfs {
    btrfs::open(disk(image)).unwrap()
}

/// Fills a new volume and compares our view with the kernel's; returns both, and the image.
#[track_caller]
fn check(dir: &Path, options: &str, mount_options: &str, more: fn(&Path)) -> PathBuf {
    let image = made(dir, options);
    let place = dir.join("mount");
    let mount = Mount::new(&image, &place, mount_options);
    fill(mount.path());
    more(mount.path());
    mount.unmount();
    let tree = open(&image);
    assert_eq!(tree.summary().warnings, Vec::<String>::new());
    compare(options, &of_kernel(&image, &place, "ro"), &of_tree(&tree), &[]);
    image
}

#[track_caller]
fn of_kernel(image: &Path, place: &Path, options: &str) -> Tree {
    let mount = Mount::new(image, place, options);
    let tree = of_folder(mount.path());
    mount.unmount();
    tree
}

/// Lines that compress well, from the `from`th on.
pub(crate) fn lines(from: usize, len: usize) -> Vec<u8> {
    (from..).flat_map(|line| format!("{line}: the same words again and again\n").into_bytes()).take(len).collect()
}

/// Files that compress, and changes inside what was compressed.
fn compressible(folder: &Path) {
    let folder = folder.join("compressible");
    fs::create_dir(&folder).unwrap();
    for len in [1, 30, 200, 1000, 2048, 3000, 4095, 4096, 4097, 8191, 100_000, 131_072, 131_073, 1 << 20] {
        fs::write(folder.join(format!("{len}")), lines(len, len)).unwrap();
    }
    fs::write(folder.join("zeros"), vec![0; 300_000]).unwrap();
    // Half of it compresses.
    let mixed: Vec<u8> =
        (0..20).flat_map(|at| if at % 2 == 0 { lines(at, 60_000) } else { noise(at as u64, 60_000) }).collect();
    fs::write(folder.join("mixed"), &mixed).unwrap();
    run("sync", &["-f", folder.to_str().unwrap()]);
    // Parts of extents, from their middle, too.
    let file = fs::File::options().write(true).open(folder.join("1048576")).unwrap();
    for at in [5000, 70_000, 200_000, 262_144, 500_001] {
        file.write_all_at(b"changed here", at).unwrap();
    }
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        600_000,
        90_000,
    )
    .unwrap();
    file.set_len(900_001).unwrap();
    fs::File::options().write(true).open(folder.join("3000")).unwrap().set_len(1500).unwrap();
    fs::File::options().write(true).open(folder.join("2048")).unwrap().set_len(50_000).unwrap();
    let copy = fs::File::create(folder.join("copy")).unwrap();
    rustix::fs::ioctl_ficlone(&copy, fs::File::open(folder.join("131073")).unwrap()).unwrap();
    copy.write_all_at(b"in the copy", 40_000).unwrap();
}

fn many_attributes(folder: &Path) {
    let many = folder.join("many attributes");
    fs::write(&many, "").unwrap();
    for index in 0..800 {
        set_attribute(&many, &format!("user.{index}"), &vec![b'v'; index % 60]);
    }
    let long = folder.join("long values");
    fs::write(&long, "").unwrap();
    for len in [200, 1000, 2000, 3000] {
        set_attribute(&long, &format!("user.{len}"), &noise(len, len as usize));
    }
}

/// The hash by which names are found.
fn name_hash(name: &str) -> u32 {
    !crc32c::crc32c_append(1, name.as_bytes())
}

/// Different names that begin like `prefix` and have the same hash, in groups.
fn colliding(prefix: &str) -> Vec<[String; 2]> {
    let mut seen: HashMap<u32, String> = HashMap::new();
    let mut groups = Vec::new();
    for index in 0u64.. {
        let name = format!("{prefix}{:016x}", index.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ index << 40);
        if let Some(other) = seen.insert(name_hash(&name), name.clone()) {
            groups.push([other, name]);
            if groups.len() == 3 {
                break;
            }
        }
        assert!(index < 2_000_000, "no collisions");
    }
    groups
}

fn collisions(folder: &Path) {
    let folder = folder.join("collisions");
    fs::create_dir(&folder).unwrap();
    for [one, other] in colliding("") {
        fs::write(folder.join(&one), &one).unwrap();
        fs::write(folder.join(&other), &other).unwrap();
    }
    for [one, other] in colliding("user.") {
        set_attribute(&folder, &one, b"one");
        set_attribute(&folder, &other, b"other");
    }
}

fn shared_extents(folder: &Path) {
    let content = noise(77, 400_000);
    fs::write(folder.join("original"), &content).unwrap();
    let original = fs::File::open(folder.join("original")).unwrap();
    let copy = fs::File::create(folder.join("copy")).unwrap();
    rustix::fs::ioctl_ficlone(&copy, &original).unwrap();
    copy.write_all_at(b"changed here", 100_000).unwrap();
    // Content without checksums.
    let plain = folder.join("no copy on write");
    fs::write(&plain, "").unwrap();
    run("chattr", &["+C", plain.to_str().unwrap()]);
    fs::write(&plain, &content).unwrap();
}

/// A file of so many pieces that its extents fill many leaves.
fn file_in_pieces(folder: &Path) {
    let file = fs::File::create(folder.join("pieces")).unwrap();
    for index in (0..1500).rev() {
        file.write_all_at(&[1 + (index % 255) as u8; 100], index * 8192).unwrap();
    }
    file.sync_all().unwrap();
    let file = fs::File::create(folder.join("1 TiB")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", 1 << 40).unwrap();
}

#[test]
fn as_made_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let image = check(dir.path(), "-L awkward", "defaults", |folder| {
        many_attributes(folder);
        collisions(folder);
        shared_extents(folder);
        file_in_pieces(folder);
    });
    let tree = open(&image);
    assert_eq!((tree.summary().kind, tree.summary().label.as_str()), ("btrfs", "awkward"));
    assert_eq!((tree.summary().size, tree.summary().block_size), (512 << 20, 4096));
    let uuid = run("blkid", &["-p", "-s", "UUID", "-o", "value", image.to_str().unwrap()]);
    assert_eq!(tree.summary().uuid, uuid.trim());
}

#[test]
fn small_blocks_with_extents_for_holes_and_lzo() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), "-n 4096 --csum xxhash -O ^no-holes", "compress=lzo", |folder| {
        compressible(folder);
        file_in_pieces(folder);
    });
}

#[test]
fn the_largest_blocks_and_zlib() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), "-n 65536 --csum sha256", "compress=zlib:9", |folder| {
        compressible(folder);
        many_attributes(folder);
    });
}

#[test]
fn data_among_metadata_twice_and_zstd() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), "-M -m dup -d dup --csum blake2", "compress=zstd", compressible);
}

#[test]
fn everything_once_and_all_of_it_compressed() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), "-m single -d single -R ^free-space-tree", "compress-force=lzo,max_inline=4095", |folder| {
        compressible(folder);
        shared_extents(folder);
    });
}

/// `btrfs subvolume …`.
#[track_caller]
pub(crate) fn subvolume(args: &[&str]) {
    run("btrfs", &[&["subvolume"], args].concat());
}

#[test]
fn subvolumes_and_snapshots_are_directories_where_they_are_linked() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "");
    let place = dir.path().join("mount");
    let mount = Mount::new(&image, &place, "defaults");
    let path = |name: &str| place.join(name).to_str().unwrap().to_string();
    fs::write(place.join("at the top"), "of all").unwrap();
    subvolume(&["create", &path("home")]);
    fs::create_dir(place.join("home/folder")).unwrap();
    subvolume(&["create", &path("home/folder/nested")]);
    subvolume(&["create", &path("home/other")]);
    for name in ["home/file", "home/folder/file", "home/folder/nested/file"] {
        fs::write(place.join(name), noise(1, 20_000)).unwrap();
    }
    subvolume(&["snapshot", &path("home"), &path("writable")]);
    subvolume(&["snapshot", "-r", &path("home"), &path("read-only")]);
    subvolume(&["snapshot", "-r", &path("home/folder/nested"), &path("home/folder/of the nested")]);
    fs::write(place.join("home/file"), "changed after the snapshot").unwrap();
    fs::write(place.join("writable/file"), "changed in the snapshot").unwrap();
    fs::rename(place.join("home/folder/nested"), place.join("home/moved")).unwrap();
    subvolume(&["create", &path("short-lived")]);
    subvolume(&["delete", "-c", &path("short-lived")]);
    mount.unmount();

    // In snapshots the names of nested subvolumes are empty directories that the kernel makes up anew at every look.
    let made_up = ["writable/folder/nested", "writable/other", "read-only/folder/nested", "read-only/other"];
    let without_made_up = |mut tree: Tree| {
        for path in made_up {
            let named = tree.remove(path.as_bytes()).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((named.node.kind, named.node.mode, named.node.size), (NodeKind::Directory, 0o755, 0), "{path}");
            assert_eq!((named.node.links, named.node.uid, named.node.allocated), (1, 0, 0), "{path}");
        }
        tree
    };
    let tree = open(&image);
    assert_eq!(tree.summary().warnings, Vec::<String>::new());
    assert_eq!(tree.root(), tree.top_level());
    let expected = without_made_up(of_kernel(&image, &place, "ro"));
    assert!(expected.contains_key(&b"home/moved/file"[..]));
    compare("subvolumes", &expected, &without_made_up(of_tree(&tree)), &[]);

    let mount = Mount::new(&image, &place, "defaults");
    subvolume(&["set-default", &path("home")]);
    mount.unmount();
    let tree = open(&image);
    let shown = tree.root();
    assert_eq!(
        tree.summary().warnings,
        [format!("its default subvolume, {}, is shown; what is not linked below it is not", shown.tree)]
    );
    let found = of_tree(&tree);
    assert!(found.contains_key(&b"moved/file"[..]));
    compare("the default subvolume", &of_kernel(&image, &place, "ro"), &found, &[]);
    assert!(tree.lookup(tree.top_level(), b"read-only").unwrap().is_some());
    for absent in [NodeId { tree: 9999, ..shown }, NodeId { tree: 2, ..shown }, NodeId { number: 1 << 40, ..shown }] {
        assert_eq!(tree.metadata(absent).unwrap_err().to_string(), format!("there is no node {absent}"));
    }
    let file = tree.lookup(shown, b"file").unwrap().unwrap();
    let message = tree.read_directory(file, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert_eq!(message, "expected a directory, found a file");
}

#[test]
fn what_was_synced_after_the_last_commit_is_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "");
    let place = dir.path().join("mount");
    let mount = Mount::new(&image, &place, "commit=300");
    fill(mount.path());
    run("sync", &["-f", place.to_str().unwrap()]);
    for name in ["text", "a new file"] {
        let file = fs::File::options().create(true).append(true).open(place.join(name)).unwrap();
        file.write_all_at(&noise(3, 50_000), 0).unwrap();
        file.sync_all().unwrap();
    }
    let copy = dir.path().join("copy.img");
    run("cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]);
    mount.unmount();
    let tree = open(&copy);
    let warnings = &tree.summary().warnings;
    assert!(
        matches!(&warnings[..], [one] if one.starts_with("the newest changes, synced after the last commit, are not shown: those to ") && one.ends_with(" files and directories")),
        "{warnings:?}"
    );
    let expected = of_kernel(&copy, &place, "ro,rescue=nologreplay");
    assert!(expected.contains_key(&b"text"[..]) && !expected.contains_key(&b"a new file"[..]));
    compare("the last commit", &expected, &of_tree(&tree), &[]);
}

/// A file behind a loop device.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Loop {
        Loop(run("losetup", &["--find", "--show", image.to_str().unwrap()]).trim().to_string())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// Enough for a second chunk, which goes to the other device.
const LARGE_BYTES: usize = 80 << 20;

/// A filesystem on two devices with a large file; our view of the first.
#[track_caller]
fn on_two_devices(dir: &Path, options: &str) -> Btrfs {
    let images = ["one.img", "two.img"].map(|name| dir.join(name));
    for image in &images {
        fs::File::create(image).unwrap().set_len(256 << 20).unwrap();
    }
    let devices = images.each_ref().map(|image| Loop::new(image));
    let [one, two] = devices.each_ref().map(|device| device.0.as_str());
    run("mkfs.btrfs", &[&options.split(' ').collect::<Vec<_>>()[..], &["-q", "-f", one, two]].concat());
    let place = dir.join("mount");
    fs::create_dir_all(&place).unwrap();
    run("mount", &["-o", &format!("device={two}"), one, place.to_str().unwrap()]);
    fs::write(place.join("large"), noise(1, LARGE_BYTES)).unwrap();
    run("umount", &[place.to_str().unwrap()]);
    drop(devices);
    open(&images[0])
}

#[test]
fn of_several_devices_the_first_is_read_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let warning = "this is device 1 of 2: what lies on others only cannot be read, and what lies here may be older";
    let mut outcomes = BTreeMap::new();
    for options in ["-m raid1 -d raid1", "-m raid1 -d raid0", "-m raid1 -d single"] {
        let tree = on_two_devices(dir.path(), options);
        assert_eq!(tree.summary().warnings, [warning]);
        let file = tree.lookup(tree.root(), b"large").unwrap().unwrap();
        let mut buf = vec![0; 1 << 20];
        let outcome =
            (0..LARGE_BYTES as u64 >> 20).try_for_each(|piece| tree.read_at(file, piece << 20, &mut buf).map(|_| ()));
        outcomes.insert(options, outcome.map_err(|err| err.to_string()));
    }
    assert_eq!(outcomes["-m raid1 -d raid1"], Ok(()));
    assert_eq!(outcomes["-m raid1 -d raid0"], Err("content in RAID0 of a btrfs is not supported".to_string()));
    let expected =
        "content on device 2 of a btrfs of 2 devices, which is not here (this is device 1), is not supported"
            .to_string();
    assert_eq!(outcomes["-m raid1 -d single"], Err(expected));
}
