//! NTFS: what we read is what ntfs-3g shows of volumes that it filled, for every size of cluster, record and sector; and
//! what only Windows writes, put into such volumes by hand.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abbild::disk::{Disk, DiskError, Extent, ExtentKind};
use abbild::guest::ntfs::{self, Ntfs};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind, Time};
use abbild::units::{ByteLen, GuestOffset};
use rustix::fs as sys;

use crate::guest_tree::{self as tree, Field, Mount, noise, set_attribute};

/// A folder for images and mounts.
pub(crate) struct Stage(tempfile::TempDir);

impl Stage {
    pub fn new() -> Stage {
        Stage(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes an image of so many MiB with `mkntfs ARGS`.
    #[track_caller]
    pub fn image(&self, mib: u64, args: &[&str]) -> PathBuf {
        let image = self.path("volume.img");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        tree::run("mkntfs", &[&["-q", "-F", "-f", "-T"], args, &[image.to_str().unwrap()]].concat());
        image
    }

    /// Lets `fill` fill the volume through ntfs-3g.
    #[track_caller]
    pub fn filled(&self, mib: u64, args: &[&str], fill: impl FnOnce(&Path)) -> PathBuf {
        let image = self.image(mib, args);
        self.mounted(&image, "rw", fill);
        image
    }

    /// Mounts an image by ntfs-3g for a while.
    #[track_caller]
    pub fn mounted<T>(&self, image: &Path, options: &str, look: impl FnOnce(&Path) -> T) -> T {
        let mount = Mount::new(image, &self.path("mount"), &format!("{options},compression"));
        let seen = look(mount.path());
        mount.unmount();
        seen
    }
}

pub(crate) fn opened(image: &Path) -> Ntfs {
    ntfs::open(tree::disk(image)).unwrap_or_else(|err| panic!("{err}"))
}

#[track_caller]
pub(crate) fn node(tree: &dyn FileSystem, path: &str) -> NodeId {
    path.split('/').filter(|name| !name.is_empty()).fold(tree.root(), |node, name| {
        tree.lookup(node, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{path}: there is no {name}"))
    })
}

/// All of a file.
#[track_caller]
pub(crate) fn content(tree: &dyn FileSystem, path: &str) -> Vec<u8> {
    let file = node(tree, path);
    let mut bytes = vec![0xa5; usize::try_from(tree.metadata(file).unwrap().size).unwrap()];
    assert_eq!(tree.read_at(file, 0, &mut bytes).unwrap_or_else(|err| panic!("{path}: {err}")), bytes.len());
    bytes
}

/// A directory whose new files are compressed.
pub(crate) fn compressing(folder: &Path) {
    fs::create_dir(folder).unwrap();
    set_attribute(folder, "system.ntfs_attrib_be", &0x800u32.to_be_bytes());
}

/// Words that come again and again, and differ.
pub(crate) fn text(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|line| format!("{line}: the same words again, {}\n", line * line % 977).into_bytes()).collect()
}

// ---- an awkward volume ----------------------------------------------------------------------------------------------

/// Makes what ntfs-3g can make.
fn fill(folder: &Path) {
    files(folder);
    names(folder);
    sparse(folder);
    compressed(folder);
    special(folder);
    fragmented(folder);
    times(folder);
}

/// Files, names, holes, compressed files and times: what an ordinary volume has.
pub(crate) fn fill_ordinary(folder: &Path) {
    [files, names, sparse, compressed, times].into_iter().for_each(|fill| fill(folder));
}

fn files(folder: &Path) {
    for (seed, len) in [0, 1, 511, 512, 513, 600, 700, 1023, 1024, 4095, 4096, 4097, 65_536, 270_336, (2 << 20) + 77]
        .into_iter()
        .enumerate()
    {
        fs::write(folder.join(format!("bytes-{len}")), noise(seed as u64, len)).unwrap();
    }
    let many = folder.join("many small");
    fs::create_dir(&many).unwrap();
    for index in 0..300u32 {
        let len = usize::try_from(index * 7).unwrap();
        fs::write(many.join(format!("{index}.conf")), noise(u64::from(index), len)).unwrap();
    }
    let mut deep = folder.join("deep");
    for level in 0..60 {
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("here"), level.to_string()).unwrap();
        deep = deep.join(format!("level {level}"));
    }
    fs::hard_link(folder.join("deep/here"), folder.join("deep/level 0/also here")).unwrap();
}

fn names(folder: &Path) {
    let names = folder.join("names");
    fs::create_dir(&names).unwrap();
    let (long, wide) = ("n".repeat(255), "語".repeat(253) + "🦀");
    let awkward: [&[u8]; 17] = [
        long.as_bytes(),
        wide.as_bytes(),
        "ü".as_bytes(),
        "Ü".as_bytes(),
        "u\u{308}".as_bytes(),
        "ΑΣς".as_bytes(),
        b"half of a pair \xed\xa0\xbe",
        b"new\nline",
        b" ",
        b"...",
        b"-rf",
        b"\x01\x7f",
        b"back\\slash",
        b"a:stream",
        b"Upper",
        b"upper",
        b"UPPER",
    ];
    for name in awkward {
        fs::write(names.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let big = folder.join("four thousand");
    fs::create_dir(&big).unwrap();
    for index in 0..4000 {
        let padding = "x".repeat(if index % 100 == 0 { 200 } else { index % 17 });
        fs::File::create(big.join(format!("{index}{padding}"))).unwrap();
    }
    // A directory that was larger once.
    let emptied = folder.join("emptied");
    fs::create_dir(&emptied).unwrap();
    for index in 0..600 {
        fs::File::create(emptied.join(format!("a name of some length, {index}"))).unwrap();
    }
    for index in (0..600).filter(|index| index % 50 != 7) {
        fs::remove_file(emptied.join(format!("a name of some length, {index}"))).unwrap();
    }
    // More names than a record has room for.
    let links = folder.join("many names");
    fs::create_dir(&links).unwrap();
    fs::write(links.join("0"), "one node, many names").unwrap();
    for index in 1..80 {
        fs::hard_link(links.join("0"), links.join(format!("{index} {}", "n".repeat(index)))).unwrap();
    }
}

fn sparse(folder: &Path) {
    let new = |name: &str, len: u64| {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_len(len).unwrap();
        file
    };
    new("all hole", 3 << 20);
    let file = new("hole in the middle", 10 << 20);
    file.write_all_at(&noise(3, 100_000), 0).unwrap();
    file.write_all_at(&noise(4, 100_000), (9 << 20) + 12_345).unwrap();
    let file = new("fragments", 300 * 16_384);
    for index in 0..300 {
        file.write_all_at(&noise(index, 4096), index * 16_384).unwrap();
    }
}

fn compressed(folder: &Path) {
    let place = folder.join("compressed");
    compressing(&place);
    fs::write(place.join("text"), text(20_000)).unwrap();
    fs::write(place.join("short"), text(20)).unwrap();
    fs::write(place.join("resident"), "short").unwrap();
    fs::write(place.join("noise"), noise(1, 300_000)).unwrap();
    fs::write(place.join("zeros"), vec![0; 200_000]).unwrap();
    // Units of each kind in turn, and a tail.
    let mixed: Vec<u8> = (0..12u64)
        .flat_map(|unit| match unit % 4 {
            0 => noise(unit, 65_536),
            1 => text(3000)[..65_536].to_vec(),
            2 => vec![0; 65_536],
            _ => [noise(unit, 30_000), text(3000)[..35_536].to_vec()].concat(),
        })
        .chain(text(50))
        .collect();
    fs::write(place.join("mixed"), mixed).unwrap();
    let file = fs::File::create(place.join("sparse")).unwrap();
    file.write_all_at(&text(2000), 0).unwrap();
    file.write_all_at(&text(2000), 1 << 20).unwrap();
}

fn special(folder: &Path) {
    let place = folder.join("special");
    fs::create_dir(&place).unwrap();
    symlink("../a target/elsewhere", place.join("link")).unwrap();
    symlink("ü/".repeat(300), place.join("long link")).unwrap();
    for (name, kind, (major, minor)) in [
        ("character", sys::FileType::CharacterDevice, (4000, 700_001)),
        ("block", sys::FileType::BlockDevice, (8, 1)),
        ("pipe", sys::FileType::Fifo, (0, 0)),
        ("socket", sys::FileType::Socket, (0, 0)),
    ] {
        let device = sys::makedev(major, minor);
        sys::mknodat(sys::CWD, place.join(name), kind, sys::Mode::from_raw_mode(0o640), device).unwrap();
    }
    let streams = place.join("streams");
    fs::write(&streams, "the content").unwrap();
    set_attribute(&streams, "user.small", b"a word");
    set_attribute(&streams, "user.large", &noise(7, 50_000));
    set_attribute(&place, "user.of a directory", b"too");
    // More streams than a record has room for.
    let many = place.join("many streams");
    fs::write(&many, noise(2, 10_000)).unwrap();
    for index in 0..60u64 {
        set_attribute(&many, &format!("user.stream {index}"), &noise(index, usize::try_from(index).unwrap() * 20));
    }
}

/// Files whose runs lie far apart, and need records of their own; the table of records gets its share.
fn fragmented(folder: &Path) {
    let place = folder.join("fragmented");
    fs::create_dir(&place).unwrap();
    let mut files: Vec<_> = (0..3).map(|it| fs::File::create(place.join(it.to_string())).unwrap()).collect();
    for index in 0..900u64 {
        let file = &mut files[usize::try_from(index % 3).unwrap()];
        file.write_all(&noise(index, 4096)).unwrap();
        file.sync_data().unwrap();
        if index % 9 == 0 {
            fs::File::create(place.join(format!("between {index}"))).unwrap();
        }
    }
}

fn times(folder: &Path) {
    let place = folder.join("times");
    fs::create_dir(&place).unwrap();
    // Fractions of seconds before 1970 are wrong in ntfs-3g.
    let moments = [(0, 0), (-1, 0), (-11_644_473_600, 0), (4_294_967_296, 200), (12_000_000_000, 300)];
    for (index, (seconds, nanoseconds)) in moments.into_iter().enumerate() {
        let path = place.join(index.to_string());
        fs::write(&path, "").unwrap();
        let moment = sys::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let later = sys::Timespec { tv_sec: seconds + 5, tv_nsec: nanoseconds };
        let times = sys::Timestamps { last_access: later, last_modification: moment };
        sys::utimensat(sys::CWD, &path, &times, sys::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// What ntfs-3g cannot tell: it has no place for where data lies.
const UNKNOWN: [Field; 2] = [Field::Data, Field::DirectoryLinks];

/// What ntfs-3g tells in a way of its own: when a node was made, and its DOS attributes.
fn of_windows(folder: &Path, path: &[u8]) -> (Time, u32) {
    let place = folder.join(std::ffi::OsStr::from_bytes(path));
    let mut value = [0; 8];
    sys::lgetxattr(&place, "system.ntfs_crtime_be", &mut value[..]).unwrap();
    // In units of 100 ns since 1601.
    let stored = i64::from_be_bytes(value);
    let nanoseconds = u32::try_from(stored.rem_euclid(10_000_000) * 100).unwrap();
    let created = Time { seconds: stored.div_euclid(10_000_000) - 11_644_473_600, nanoseconds };
    let mut value = [0; 4];
    sys::lgetxattr(&place, "system.ntfs_attrib_be", &mut value[..]).unwrap();
    (created, u32::from_be_bytes(value))
}

/// Our tree with named streams as attributes, the way ntfs-3g shows them.
fn of_tree(ours: &Ntfs) -> tree::Tree {
    let mut seen = tree::of_tree(ours);
    for (path, named) in &mut seen {
        if path.starts_with(b"four thousand/") {
            continue; // they have none, and there are too many to look up each by its path
        }
        let node = node(ours, std::str::from_utf8(path).unwrap_or_default());
        let streams = ours.streams(node).unwrap();
        if streams.is_empty() {
            continue;
        }
        let mut node_seen = (*named.node).clone();
        for (stream, len) in streams {
            let mut value = vec![0xa5; usize::try_from(len).unwrap() + 1];
            let count = ours.read_stream(node, &stream, 0, &mut value).unwrap();
            assert_eq!(count as u64, len, "{stream}");
            value.truncate(count);
            node_seen.attributes.push((format!("user.{stream}").into_bytes(), value));
        }
        node_seen.attributes.sort();
        named.node = Rc::new(node_seen);
    }
    seen
}

/// Compares what ntfs-3g and we see of a volume.
#[track_caller]
fn compared(stage: &Stage, image: &Path, what: &str) {
    let (mut expected, windows) = stage.mounted(image, "ro", |folder| {
        let expected = tree::of_folder(folder);
        let windows: Vec<_> = expected.keys().map(|path| of_windows(folder, path)).collect();
        (expected, windows)
    });
    let ours = opened(image);
    for ((path, named), (created, attributes)) in expected.iter_mut().zip(windows) {
        named.node = Rc::new(tree::Seen { created: Some(created), ..(*named.node).clone() });
        if let Ok(path) = std::str::from_utf8(path) {
            // That a directory is one is stored elsewhere.
            let found = ours.metadata(node(&ours, path)).unwrap().attributes;
            let directory = if named.node.kind == NodeKind::Directory { 0x10 } else { 0 };
            assert_eq!(found.map(|found| found | directory), Some(attributes), "{what}: {path}");
        }
        let kind = named.node.kind;
        if !matches!(kind, NodeKind::File | NodeKind::Directory | NodeKind::Symlink) {
            // ntfs-3g tells the length of what it has made a device's node of; and no permissions where these come from the
            // subsystem for Linux, though it stores them: always the same.
            let mode = if named.node.mode == 0 { 0o644 } else { named.node.mode };
            named.node = Rc::new(tree::Seen { size: 0, allocated: 0, mode, ..(*named.node).clone() });
        }
    }
    tree::compare(what, &expected, &of_tree(&ours), &UNKNOWN);
    eprintln!("{what}: {} nodes compared", expected.len());
}

#[track_caller]
fn as_ntfs_3g_sees_it(mib: u64, args: &[&str], fill: fn(&Path)) -> (Stage, PathBuf) {
    let stage = Stage::new();
    let image = stage.filled(mib, args, fill);
    compared(&stage, &image, &args.join(" "));
    let ours = opened(&image);
    assert_eq!(ours.summary().warnings, Vec::<String>::new());
    assert_eq!(ours.summary().kind, "ntfs");
    let mut known = vec![ours.summary().uuid.clone()];
    known.extend(Some(ours.summary().label.clone()).filter(|label| !label.is_empty()));
    known.sort_unstable();
    let blkid = tree::run("blkid", &["-p", "-o", "value", "-s", "UUID", "-s", "LABEL", image.to_str().unwrap()]);
    let mut expected: Vec<&str> = blkid.lines().collect();
    expected.sort_unstable();
    assert_eq!(known, expected);
    (stage, image)
}

#[test]
fn a_volume_as_usual() {
    as_ntfs_3g_sees_it(120, &["-L", "Daten und mehr"], fill);
}

#[test]
fn a_volume_of_small_clusters() {
    as_ntfs_3g_sees_it(120, &["-c", "512"], fill);
}

/// What large clusters have room for: no compression there.
fn fill_less(folder: &Path) {
    files(folder);
    sparse(folder);
    special(folder);
}

/// Where each file of any size takes 2 MiB.
fn fill_largest(folder: &Path) {
    special(folder);
    let many = folder.join("many");
    fs::create_dir(&many).unwrap();
    for index in 0..1000 {
        fs::write(many.join(format!("a name of some length, {index}")), vec![b'x'; index % 600]).unwrap();
    }
    fs::write(folder.join("file"), noise(1, (5 << 20) + 77)).unwrap();
    let file = fs::File::create(folder.join("hole")).unwrap();
    file.write_all_at(&noise(2, 3000), 17 << 20).unwrap();
}

#[test]
fn volumes_of_large_clusters_and_sectors() {
    as_ntfs_3g_sees_it(200, &["-c", "65536"], fill_less);
    as_ntfs_3g_sees_it(120, &["-s", "4096", "-c", "4096"], fill_less);
    as_ntfs_3g_sees_it(2000, &["-c", "2097152"], fill_largest);
}

#[test]
fn special_files_of_linux() {
    let stage = Stage::new();
    let image = stage.image(20, &[]);
    stage.mounted(&image, "rw,special_files=wsl", special);
    compared(&stage, &image, "special files as in the subsystem for Linux");
    let ours = opened(&image);
    assert_eq!(ours.metadata(node(&ours, "special/character")).unwrap().device, Some((4000, 700_001)));
}

// ---- stories --------------------------------------------------------------------------------------------------------

#[test]
fn sparse_beyond_4_gib() {
    let stage = Stage::new();
    let place = |file: &fs::File| {
        file.write_all_at(&noise(1, 5000), 0).unwrap();
        file.write_all_at(&noise(2, 5000), (4 << 30) - 2500).unwrap();
        file.write_all_at(b"end", 5 << 30).unwrap();
    };
    let image = stage.filled(20, &[], |folder| place(&fs::File::create(folder.join("sparse")).unwrap()));
    let ours = opened(&image);
    let file = node(&ours, "sparse");
    assert_eq!(ours.metadata(file).unwrap().size, (5 << 30) + 3);
    let mut buf = vec![0xa5; 10_000];
    assert_eq!(ours.read_at(file, (4 << 30) - 4000, &mut buf).unwrap(), buf.len());
    assert!(buf[1500..6500] == noise(2, 5000) && buf[..1500].iter().chain(&buf[6500..]).all(|byte| *byte == 0));
    assert_eq!(ours.read_at(file, 5 << 30, &mut buf).unwrap(), 3);
    assert_eq!(&buf[..3], b"end");
    let mut data = 0;
    let mut at = 0;
    while let Some(extent) = ours.extent_at(file, at).unwrap() {
        data += if extent.kind == ExtentKind::Data { extent.len.0 } else { 0 };
        at += extent.len.0;
    }
    assert_eq!(at, (5 << 30) + 3);
    assert!(data < 100_000, "{data}");
}

#[test]
fn a_short_name_is_no_second_name() {
    let stage = Stage::new();
    let image = stage.filled(20, &[], |folder| {
        fs::write(folder.join("A long name.text"), "one").unwrap();
        set_attribute(&folder.join("A long name.text"), "system.ntfs_dos_name", b"ALONGN~1.TEX");
    });
    let ours = opened(&image);
    let mut names = Vec::new();
    ours.read_directory(ours.root(), &mut |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(names, ["A long name.text"]);
    let file = node(&ours, "A long name.text");
    assert_eq!(ours.metadata(file).unwrap().links, 1);
    for name in ["a LONG name.TEXT", "ALONGN~1.TEX", "alongn~1.tex"] {
        assert_eq!(node(&ours, name), file, "{name}");
    }
    assert_eq!(ours.lookup(ours.root(), b"A long name").unwrap(), None);
}

/// A disk that counts what is read of it.
struct Counting {
    disk: Arc<dyn Disk>,
    bytes: AtomicUsize,
    requests: AtomicUsize,
}

impl Disk for Counting {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.bytes.fetch_add(buf.len(), Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.disk.read_at(at, buf)
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        self.disk.extent_at(at)
    }
}

#[test]
fn a_name_in_a_large_directory_is_found_by_the_tree_whatever_its_case() {
    let stage = Stage::new();
    const NAMES: u32 = 5000;
    let name = |index: u32| format!("Ein Ünbequemer Name {:05} {}", index * 7919 % NAMES, "x".repeat(60));
    let image = stage.filled(40, &[], |folder| {
        for index in 0..NAMES {
            fs::File::create(folder.join(name(index))).unwrap();
        }
        fs::write(folder.join("file"), noise(1, 3 << 20)).unwrap();
    });
    let disk = Arc::new(Counting { disk: tree::disk(&image), bytes: 0.into(), requests: 0.into() });
    let ours = ntfs::open(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    ours.metadata(ours.root()).unwrap();
    for index in (0..NAMES).step_by(997) {
        let before = disk.bytes.load(Ordering::Relaxed);
        let found = ours.lookup(ours.root(), name(index).as_bytes()).unwrap();
        assert!(found.is_some());
        for other in [name(index).to_uppercase(), name(index).to_lowercase()] {
            assert_eq!(ours.lookup(ours.root(), other.as_bytes()).unwrap(), found, "{other}");
        }
        assert_eq!(ours.lookup(ours.root(), format!("{}!", name(index)).as_bytes()).unwrap(), None);
        // The directory has more than 1 MB; a few of its blocks come in pieces of 32 KiB.
        let read = disk.bytes.load(Ordering::Relaxed) - before;
        assert!(read <= 5 << 15, "{index}: {read} bytes read");
    }
    let file = node(&ours, "file");
    let (bytes, requests) = (disk.bytes.load(Ordering::Relaxed), disk.requests.load(Ordering::Relaxed));
    let mut buf = vec![0; 3 << 20];
    assert_eq!(ours.read_at(file, 0, &mut buf).unwrap(), buf.len());
    assert!(buf == noise(1, 3 << 20));
    // What lies together is read in one request, besides the file's record.
    assert!(disk.requests.load(Ordering::Relaxed) - requests <= 6);
    assert!(disk.bytes.load(Ordering::Relaxed) - bytes <= (3 << 20) + (2 << 15));
}

#[test]
fn several_threads_may_read_at_once() {
    let stage = Stage::new();
    let image = stage.filled(40, &[], |folder| {
        compressed(folder);
        fs::write(folder.join("plain"), noise(9, 500_000)).unwrap();
    });
    let ours = opened(&image);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert!(content(&ours, "compressed/text") == text(20_000));
                assert!(content(&ours, "plain") == noise(9, 500_000));
            });
        }
    });
}

#[test]
fn kinds_and_attributes_are_told() {
    let stage = Stage::new();
    let image = stage.filled(20, &[], |folder| {
        fs::write(folder.join("hidden"), "1").unwrap();
        set_attribute(&folder.join("hidden"), "system.ntfs_attrib_be", &0x23u32.to_be_bytes());
    });
    let ours = opened(&image);
    let metadata = ours.metadata(node(&ours, "hidden")).unwrap();
    assert_eq!((metadata.kind, metadata.attributes, metadata.special), (NodeKind::File, Some(0x23), None));
    assert!(metadata.created.is_some());
    // The system's own files are there for those who name them.
    assert_eq!(content(&ours, "$UpCase").len(), 128 << 10);
}
