//! Whole trees, seen twice: through our readers and through the kernel, and compared node by node. Shared by the stories
//! of every filesystem; knows none of them.
//!
//! [`fill`] makes an awkward tree in a folder, [`of_folder`] looks at a folder as the kernel shows it, [`of_tree`] at one of
//! our trees (and checks the laws of [`FileSystem`] on the way), [`compare`] names the first differences.

mod awkward;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::hash::Hash;
use std::ops::{ControlFlow, Range};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;

use abbild::disk::{Disk, ExtentKind};
use abbild::formats::{self, policy::OpenPolicy};
use abbild::guest::tree::{FileSystem, NodeKind, Time};
use rustix::fs as sys;

pub(crate) use awkward::{fill, noise, set_attribute};

pub(crate) use crate::fuzz_targets::guests::survey;

/// Files up to this length are read whole, holes included; longer ones only where there is data.
const READ_WHOLE_BYTES_MAX: u64 = 32 << 20;

/// A tree: path from its root (which is the empty path) → what lies there.
pub(crate) type Tree = BTreeMap<Vec<u8>, Named>;

/// A name of a node.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// The first of all names of the node: equal for its hard links.
    pub first_name: Vec<u8>,
    /// The node.
    pub node: Rc<Seen>,
}

/// All that can be seen of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub kind: NodeKind,
    pub size: u64,
    pub allocated: u64,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub device: Option<(u32, u32)>,
    pub modified: Time,
    pub accessed: Time,
    pub changed: Time,
    pub created: Option<Time>,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// A link's target.
    pub target: Option<Vec<u8>>,
    /// A file's content: a hash of it, or why it could not be read.
    pub content: Option<Result<String, String>>,
    /// Where a file has data, in bytes.
    pub data: Vec<Range<u64>>,
}

/// What a comparison may leave out, where a filesystem or a way of making one cannot have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each filesystem leaves out what it cannot have")]
pub(crate) enum Field {
    Accessed,
    Changed,
    Created,
    Modified,
    Allocated,
    Data,
    DirectorySize,
    DirectoryLinks,
    Mode,
    Owner,
    Links,
    Attributes,
}

/// Fails with the first differences, unless both trees are the same in everything but `left_out`.
#[track_caller]
pub(crate) fn compare(what: &str, expected: &Tree, found: &Tree, left_out: &[Field]) {
    let mut differences = Vec::new();
    for path in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let name = String::from_utf8_lossy(path);
        match (expected.get(path), found.get(path)) {
            (Some(_), None) => differences.push(format!("{name}: missing")),
            (None, Some(_)) => differences.push(format!("{name}: not expected")),
            (Some(expected), Some(found)) => {
                if expected.first_name != found.first_name {
                    let [one, other] = [expected, found].map(|it| String::from_utf8_lossy(&it.first_name).into_owned());
                    differences.push(format!("{name}: expected to be the node of {one}, found that of {other}"));
                }
                let (expected, found) = (without(&expected.node, left_out), without(&found.node, left_out));
                if expected != found {
                    differences.push(format!("{name}:\n  expected {expected:?}\n  found    {found:?}"));
                }
            }
            (None, None) => unreachable!("a key of one of them"),
        }
    }
    let count = differences.len();
    differences.truncate(5);
    assert!(count == 0, "{what}: {count} of {} nodes differ:\n{}", expected.len(), differences.join("\n"));
}

fn without(seen: &Seen, left_out: &[Field]) -> Seen {
    let mut seen = seen.clone();
    let directory = seen.kind == NodeKind::Directory;
    for field in left_out {
        match field {
            Field::Accessed => seen.accessed = Time::default(),
            Field::Changed => seen.changed = Time::default(),
            Field::Created => seen.created = None,
            Field::Modified => seen.modified = Time::default(),
            Field::Allocated => seen.allocated = 0,
            Field::Data => seen.data.clear(),
            Field::DirectorySize if directory => seen.size = 0,
            Field::DirectoryLinks if directory => seen.links = 0,
            Field::DirectorySize | Field::DirectoryLinks => {}
            Field::Mode => seen.mode = 0,
            Field::Owner => (seen.uid, seen.gid) = (0, 0),
            Field::Links => seen.links = 0,
            Field::Attributes => seen.attributes.clear(),
        }
    }
    seen
}

/// Names with their nodes' ids → a tree.
fn named<Id: Eq + Hash>(names: BTreeMap<Vec<u8>, (Id, Rc<Seen>)>) -> Tree {
    let mut first_names: HashMap<Id, Vec<u8>> = HashMap::new();
    let named = names.into_iter().map(|(name, (id, node))| {
        let first_name = first_names.entry(id).or_insert_with(|| name.clone()).clone();
        (name, Named { first_name, node })
    });
    named.collect()
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// A hash of a file's bytes that does not care which of its zeros are holes; `read` fills a buffer from an offset.
pub(crate) fn hash_of(size: u64, data: &[Range<u64>], read: &mut dyn FnMut(u64, &mut [u8])) -> String {
    const BLOCK: usize = 4096;
    let whole = 0..size;
    let ranges = if size <= READ_WHOLE_BYTES_MAX { std::slice::from_ref(&whole) } else { data };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    let mut buf = vec![0; 1 << 20];
    for range in ranges {
        let mut at = range.start / BLOCK as u64 * BLOCK as u64;
        while at < range.end {
            let len = usize::try_from((size - at).min(buf.len() as u64)).unwrap();
            read(at, &mut buf[..len]);
            for (index, block) in buf[..len].chunks(BLOCK).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    hasher.update(&(at + (index * BLOCK) as u64).to_le_bytes());
                    hasher.update(block);
                }
            }
            at += len as u64;
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn push_range(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

// ---- the kernel's view ----------------------------------------------------------------------------------------------

/// A folder as the kernel shows it. Where data lies is asked before it is read: cached pages change the answer.
pub(crate) fn of_folder(root: &Path) -> Tree {
    let mut names = BTreeMap::new();
    let mut nodes: HashMap<(u64, u64), Rc<Seen>> = HashMap::new();
    let mut folders = vec![Vec::new()];
    let mut look = |path: &[u8]| {
        let place = root.join(OsStr::from_bytes(path));
        let metadata = fs::symlink_metadata(&place).unwrap();
        let id = (metadata.dev(), metadata.ino());
        let seen = Rc::clone(nodes.entry(id).or_insert_with(|| Rc::new(seen_by_kernel(&place, &metadata))));
        (id, seen)
    };
    names.insert(Vec::new(), look(&[]));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(OsStr::from_bytes(&folder))).unwrap() {
            let path = joined(&folder, entry.unwrap().file_name().as_bytes());
            let looked = look(&path);
            if looked.1.kind == NodeKind::Directory {
                folders.push(path.clone());
            }
            names.insert(path, looked);
        }
    }
    named(names)
}

fn seen_by_kernel(place: &Path, metadata: &fs::Metadata) -> Seen {
    let kind = match sys::FileType::from_raw_mode(metadata.mode()) {
        sys::FileType::RegularFile => NodeKind::File,
        sys::FileType::Directory => NodeKind::Directory,
        sys::FileType::Symlink => NodeKind::Symlink,
        sys::FileType::CharacterDevice => NodeKind::CharacterDevice,
        sys::FileType::BlockDevice => NodeKind::BlockDevice,
        sys::FileType::Fifo => NodeKind::Fifo,
        sys::FileType::Socket => NodeKind::Socket,
        other => panic!("{place:?} is {other:?}"),
    };
    let time = |seconds, nanoseconds: i64| Time { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap() };
    let statx = sys::statx(sys::CWD, place, sys::AtFlags::SYMLINK_NOFOLLOW, sys::StatxFlags::BTIME).unwrap();
    let born = sys::StatxFlags::from_bits_retain(statx.stx_mask).contains(sys::StatxFlags::BTIME);
    let is_device = matches!(kind, NodeKind::CharacterDevice | NodeKind::BlockDevice);
    let (mut content, mut data) = (None, Vec::new());
    if kind == NodeKind::File {
        let file = fs::File::open(place).unwrap();
        data = data_ranges(&file, metadata.len());
        let mut read = |at, buf: &mut [u8]| file.read_exact_at(buf, at).unwrap();
        content = Some(Ok(hash_of(metadata.len(), &data, &mut read)));
    }
    Seen {
        kind,
        size: metadata.len(),
        allocated: metadata.blocks() * 512,
        mode: u16::try_from(metadata.mode() & 0o7777).unwrap(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        links: u32::try_from(metadata.nlink()).unwrap(),
        device: is_device.then(|| (sys::major(metadata.rdev()), sys::minor(metadata.rdev()))),
        modified: time(metadata.mtime(), metadata.mtime_nsec()),
        accessed: time(metadata.atime(), metadata.atime_nsec()),
        changed: time(metadata.ctime(), metadata.ctime_nsec()),
        created: born.then(|| time(statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec.into())),
        attributes: attributes_by_kernel(place),
        target: (kind == NodeKind::Symlink).then(|| fs::read_link(place).unwrap().into_os_string().into_vec()),
        content,
        data,
    }
}

pub(crate) fn data_ranges(file: &fs::File, size: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match sys::seek(file, sys::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(err) => panic!("SEEK_DATA: {err}"),
        };
        at = sys::seek(file, sys::SeekFrom::Hole(start)).unwrap();
        push_range(&mut ranges, start..at);
    }
    ranges
}

fn attributes_by_kernel(place: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 65_536];
    let len = match sys::llistxattr(place, &mut list[..]) {
        Err(rustix::io::Errno::NOTSUP) => 0, // a driver that knows none
        other => other.unwrap(),
    };
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut attributes: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = sys::lgetxattr(place, name, &mut value[..]).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect();
    attributes.sort();
    attributes
}

// ---- our view -------------------------------------------------------------------------------------------------------

/// One of our trees, whole. On the way: every node is found by its name, kinds agree, extents tile the file and what is no
/// data reads as zeros.
pub(crate) fn of_tree(tree: &dyn FileSystem) -> Tree {
    let mut names = BTreeMap::new();
    let mut nodes = HashMap::new();
    let mut folders = vec![Vec::new()];
    let root = tree.root();
    names.insert(Vec::new(), (root, Rc::new(seen_by_us(tree, root, ""))));
    while let Some(folder) = folders.pop() {
        let (directory, _) = names[&folder];
        let mut count = 0;
        let mut looked_up = Vec::new();
        tree.read_directory(directory, &mut |entry| {
            let path = joined(&folder, entry.name);
            let shown = String::from_utf8_lossy(&path).into_owned();
            let look = || Rc::new(seen_by_us(tree, entry.node, &shown));
            let seen = Rc::clone(nodes.entry(entry.node).or_insert_with(look));
            assert!(entry.kind.is_none_or(|kind| kind == seen.kind), "{shown}: {:?} {:?}", entry.kind, seen.kind);
            if seen.kind == NodeKind::Directory {
                folders.push(path.clone());
            }
            // Not every one: a filesystem without an index looks through the whole directory each time.
            if count < 20 || count % 97 == 0 {
                looked_up.push((entry.name.to_vec(), entry.node));
            }
            count += 1;
            assert!(names.insert(path, (entry.node, seen)).is_none(), "{shown} is there twice");
            ControlFlow::Continue(())
        })
        .unwrap_or_else(|err| panic!("{}: {err}", String::from_utf8_lossy(&folder)));
        for (name, node) in looked_up {
            assert_eq!(tree.lookup(directory, &name).unwrap(), Some(node), "{}", String::from_utf8_lossy(&name));
        }
        for name in [&b"no such name"[..], b"", b".", b"..", &[b'x'; 300]] {
            assert_eq!(tree.lookup(directory, name).unwrap(), None, "{}", String::from_utf8_lossy(name));
        }
    }
    named(names)
}

fn seen_by_us(tree: &dyn FileSystem, node: abbild::guest::tree::NodeId, shown: &str) -> Seen {
    let metadata = tree.metadata(node).unwrap_or_else(|err| panic!("{shown}: {err}"));
    let (mut content, mut data) = (None, Vec::new());
    if metadata.kind == NodeKind::File {
        content = Some(content_by_us(tree, node, metadata.size, &mut data, shown));
    }
    let target = (metadata.kind == NodeKind::Symlink).then(|| tree.read_link(node));
    let target = target.map(|target| target.unwrap_or_else(|err| panic!("{shown}: {err}")));
    let attributes = tree.extended_attributes(node).unwrap_or_else(|err| panic!("{shown}: {err}"));
    assert!(attributes.is_sorted_by(|one, other| one.name < other.name), "{shown}: {attributes:?}");
    Seen {
        kind: metadata.kind,
        size: metadata.size,
        allocated: metadata.allocated,
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        links: metadata.links,
        device: metadata.device,
        modified: metadata.modified,
        accessed: metadata.accessed,
        changed: metadata.changed,
        created: metadata.created,
        attributes: attributes.into_iter().map(|attribute| (attribute.name, attribute.value)).collect(),
        target,
        content,
        data,
    }
}

pub(crate) fn content_by_us(
    tree: &dyn FileSystem,
    node: abbild::guest::tree::NodeId,
    size: u64,
    data: &mut Vec<Range<u64>>,
    shown: &str,
) -> Result<String, String> {
    let mut at = 0;
    let mut buf = vec![0xa5; 65_536];
    while let Some(extent) = tree.extent_at(node, at).map_err(|err| err.to_string())? {
        let end = at + extent.len.0;
        assert!(extent.len.0 > 0 && end <= size, "{shown}: {extent:?} at {at} of {size}");
        match extent.kind {
            ExtentKind::Data => push_range(data, at..end),
            ExtentKind::Hole | ExtentKind::Zero => {
                let len = usize::try_from(extent.len.0).map_or(buf.len(), |len| len.min(buf.len()));
                assert_eq!(tree.read_at(node, at, &mut buf[..len]).unwrap(), len, "{shown}");
                assert!(buf[..len].iter().all(|byte| *byte == 0), "{shown}: a hole at {at} that is not zero");
            }
        }
        at = end;
    }
    assert_eq!(at, size, "{shown}: extents end before the file");
    assert_eq!(tree.read_at(node, size, &mut buf).unwrap(), 0, "{shown}");
    if size > 0 {
        assert_eq!(tree.read_at(node, size - 1, &mut buf).map_err(|err| err.to_string())?, 1, "{shown}");
    }
    let mut failed = None;
    let hash = hash_of(size, data, &mut |at, buf| {
        buf.fill(0xa5);
        match tree.read_at(node, at, buf) {
            Ok(len) => assert_eq!(len, buf.len(), "{shown}: short at {at}"),
            Err(err) => failed = Some(err.to_string()),
        }
    });
    failed.map_or(Ok(hash), Err)
}

// ---- images and mounts ----------------------------------------------------------------------------------------------

/// A raw image file as a disk.
#[track_caller]
pub(crate) fn disk(image: &Path) -> Arc<dyn Disk> {
    let policy = OpenPolicy::named_by_user(image).unwrap();
    Arc::new(formats::open_raw(image, &policy).unwrap().disk())
}

/// A tool that a story needs; those for filesystems live where an ordinary user does not look.
fn command(tool: &str, args: &[&str]) -> std::process::Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tool).args(args).env("PATH", path).output();
    output.unwrap_or_else(|err| panic!("this story needs {tool}: {err}"))
}

/// Runs a tool; returns what it printed.
#[track_caller]
pub(crate) fn run(tool: &str, args: &[&str]) -> String {
    let output = command(tool, args);
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a checker of filesystems, which may say by a status of 1 that it changed something.
#[track_caller]
pub(crate) fn run_checker(tool: &str, args: &[&str]) {
    let output = command(tool, args);
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{tool} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A filesystem of an image file, mounted by the kernel; unmounted when dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts `image` on `place` (made if need be) with these options beside `loop`; needs root.
    #[track_caller]
    pub fn new(image: &Path, place: &Path, options: &str) -> Mount {
        assert!(rustix::process::geteuid().is_root(), "this story mounts filesystems: it needs root and loop devices");
        fs::create_dir_all(place).unwrap();
        let options = format!("loop,{options}");
        run("mount", &["-o", &options, image.to_str().unwrap(), place.to_str().unwrap()]);
        Mount(place.to_owned())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Unmounts it now; fails if that fails.
    #[track_caller]
    pub fn unmount(self) {
        run("umount", &[self.0.to_str().unwrap()]);
        std::mem::forget(self);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn the_comparison_sees_every_kind_of_difference() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    for folder in [&one, &other] {
        fs::create_dir(folder).unwrap();
        fill(folder);
        fs::write(folder.join("file"), "content").unwrap();
        fs::hard_link(folder.join("file"), folder.join("again")).unwrap();
        symlink("file", folder.join("link")).unwrap();
    }
    let one = of_folder(&one);
    assert!(one.len() > 10_500, "{}", one.len());
    // The folder below may give the two different places.
    let left_out = [Field::Allocated, Field::Data, Field::Accessed, Field::Changed, Field::Created, Field::Modified];
    let differ = |what: &str| {
        let outcome = std::panic::catch_unwind(|| compare(what, &one, &of_folder(&other), &left_out));
        outcome.is_err()
    };
    assert!(!differ("the same"));
    fs::write(other.join("file"), "Content").unwrap();
    assert!(differ("another byte"));
    fs::write(other.join("file"), "content").unwrap();
    fs::remove_file(other.join("again")).unwrap();
    fs::copy(other.join("file"), other.join("again")).unwrap();
    assert!(differ("a copy for a hard link"));
    fs::remove_file(other.join("again")).unwrap();
    assert!(differ("a name less"));
    fs::hard_link(other.join("file"), other.join("again")).unwrap();
    assert!(!differ("the same again"));
    fs::remove_file(other.join("link")).unwrap();
    symlink("File", other.join("link")).unwrap();
    assert!(differ("another target"));
    fs::remove_file(other.join("link")).unwrap();
    symlink("file", other.join("link")).unwrap();
    set_attribute(&other.join("file"), "user.one", b"1");
    assert!(differ("an attribute more"));
}
