//! An awkward tree: what filesystems get wrong, in one folder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use rustix::fs as sys;

/// Makes an awkward tree in `folder`: about 20 MB of data, 800 nodes and 10 600 names. What needs root (owners, devices,
/// `trusted.` and `security.` attributes) is there if we are root. Attributes stay below 700 bytes a node.
pub(crate) fn fill(folder: &Path) {
    files(folder);
    directories(folder);
    sparse_files(folder);
    links(folder);
    attributes(folder);
    if rustix::process::geteuid().is_root() {
        owned_by_root(folder);
    }
    // Last, for all that comes before sets times itself.
    times(folder);
}

/// Bytes that look random, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn files(folder: &Path) {
    for (seed, len) in [0, 1, 59, 60, 61, 100, 156, 160, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097]
        .into_iter()
        .chain([12 * 1024, 12 * 1024 + 1, 49_152, 49_153, 65_536, 270_336, 1 << 20, (4 << 20) + 77])
        .enumerate()
    {
        fs::write(folder.join(format!("bytes-{len}")), noise(seed as u64, len)).unwrap();
    }
    let many = folder.join("many small");
    fs::create_dir(&many).unwrap();
    for index in 0..400u32 {
        let len = usize::try_from(index * 7).unwrap();
        fs::write(many.join(format!("{index}.conf")), noise(u64::from(index), len)).unwrap();
    }
    let mut text = String::new();
    for line in 0..40_000 {
        text.push_str(&format!("{line}: the same words again and again\n"));
    }
    fs::write(folder.join("text"), text).unwrap();
}

fn directories(folder: &Path) {
    let mut deep = folder.join("deep");
    for level in 0..60 {
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("here"), level.to_string()).unwrap();
        deep = deep.join(format!("level {level}"));
    }
    fs::create_dir(folder.join("empty")).unwrap();
    let names = folder.join("names");
    fs::create_dir(&names).unwrap();
    let awkward: [&[u8]; 14] = [
        &[b'n'; 255],
        "ü".as_bytes(),
        "u\u{308}".as_bytes(),
        "日本語のとても長い名前".as_bytes(),
        "🦀".as_bytes(),
        b"\xff\xfe not UTF-8 \x80",
        b"new\nline",
        b" ",
        b"...",
        b"-rf",
        b"\x01\x7f",
        b"back\\slash",
        b"Upper",
        b"upper",
    ];
    for name in awkward {
        fs::write(names.join(OsStr::from_bytes(name)), name).unwrap();
    }
    // Names without nodes of their own, so that it is quick: what counts here is the directory.
    let big = folder.join("ten thousand");
    fs::create_dir(&big).unwrap();
    fs::write(big.join("0"), "one node, many names").unwrap();
    for index in 1..10_000 {
        let padding = "x".repeat(if index % 100 == 0 { 200 } else { index % 17 });
        fs::hard_link(big.join("0"), big.join(format!("{index}{padding}"))).unwrap();
    }
    // A directory that was larger once.
    let emptied = folder.join("emptied");
    fs::create_dir(&emptied).unwrap();
    for index in 0..600 {
        fs::write(emptied.join(format!("a name of some length, {index}")), "").unwrap();
    }
    for index in (0..600).filter(|index| index % 50 != 7) {
        fs::remove_file(emptied.join(format!("a name of some length, {index}"))).unwrap();
    }
}

fn sparse_files(folder: &Path) {
    let new = |name: &str, len: u64| {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_len(len).unwrap();
        file
    };
    new("all hole", 3 << 20);
    let file = new("beyond 4 GiB", (5 << 30) + 3);
    file.write_all_at(&noise(1, 5000), 0).unwrap();
    file.write_all_at(&noise(2, 5000), (4 << 30) - 2500).unwrap();
    file.write_all_at(b"end", 5 << 30).unwrap();
    let file = new("hole in the middle", 10 << 20);
    file.write_all_at(&noise(3, 100_000), 0).unwrap();
    file.write_all_at(&noise(4, 100_000), (9 << 20) + 12_345).unwrap();
    let file = new("fragments", 700 * 8192);
    for index in 0..700 {
        file.write_all_at(&noise(index, 4096), index * 8192).unwrap();
    }
    // Unwritten stretches; an old filesystem may refuse them, then there is nothing to compare.
    let file = new("unwritten", 0);
    if sys::fallocate(&file, sys::FallocateFlags::empty(), 0, 1 << 20).is_ok() {
        file.write_all_at(&noise(5, 70_000), 300_000).unwrap();
    }
    let file = new("allocated beyond the end", 0);
    file.write_all_at(&noise(6, 10_000), 0).unwrap();
    let _ = sys::fallocate(&file, sys::FallocateFlags::KEEP_SIZE, 0, 300_000);
    let file = new("punched", 0);
    file.write_all_at(&noise(7, 300_000), 0).unwrap();
    let _ = sys::fallocate(&file, sys::FallocateFlags::PUNCH_HOLE | sys::FallocateFlags::KEEP_SIZE, 65_536, 131_072);
    file.sync_all().unwrap();
}

fn links(folder: &Path) {
    let links = folder.join("links");
    fs::create_dir(&links).unwrap();
    for len in [1, 23, 24, 58, 59, 60, 61, 155, 156, 160, 500, 1000] {
        symlink("t".repeat(len), links.join(format!("to {len} bytes"))).unwrap();
    }
    symlink(OsStr::from_bytes(b"../\xff/\xc3\xbc"), links.join("to bytes")).unwrap();
    fs::hard_link(folder.join("text"), links.join("text")).unwrap();
    fs::hard_link(folder.join("text"), folder.join("deep/also text")).unwrap();
    fs::hard_link(links.join("to bytes"), links.join("to bytes, again")).unwrap();
}

/// Sets an extended attribute of a node, of a link itself.
#[track_caller]
pub(crate) fn set_attribute(place: &Path, name: &str, value: &[u8]) {
    sys::lsetxattr(place, name, value, sys::XattrFlags::empty())
        .unwrap_or_else(|err| panic!("{place:?} {name}: {err}"));
}

fn attributes(folder: &Path) {
    let place = folder.join("attributes");
    fs::create_dir(&place).unwrap();
    let new = |name: &str| {
        let path = place.join(name);
        fs::write(&path, name).unwrap();
        path
    };
    set_attribute(&new("small"), "user.comment", b"a word");
    set_attribute(&new("empty value"), "user.nothing", b"");
    set_attribute(&new("larger"), "user.larger", &noise(1, 500));
    let several = new("several");
    for index in 0..12 {
        set_attribute(&several, &format!("user.name{index}"), &noise(index, usize::try_from(index).unwrap() * 3));
    }
    // Two nodes with the same attributes may share their block.
    for name in ["shared one", "shared other"] {
        set_attribute(&new(name), "user.shared", &noise(9, 400));
    }
    set_attribute(&place, "user.of a directory", b"too");
    let listed = new("access list");
    set_attribute(&listed, "system.posix_acl_access", &access_list(&[(2, 6, 1000), (2, 4, 70_000), (8, 5, 4_000_000)]));
    set_attribute(&place, "system.posix_acl_default", &access_list(&[(8, 7, 12)]));
    fs::write(place.join("inherits"), "its list comes from the directory").unwrap();
}

/// An access control list in the form of the system calls: the owner's, group's, others' entries and a mask, with the
/// named entries (tag, permissions, id) among them.
fn access_list(named: &[(u16, u16, u32)]) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut entries = vec![(1, 6, NOBODY), (4, 4, NOBODY), (0x10, 7, NOBODY), (0x20, 4, NOBODY)];
    entries.extend(named);
    entries.sort_unstable();
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

fn owned_by_root(folder: &Path) {
    let place = folder.join("root's");
    fs::create_dir(&place).unwrap();
    let devices = [
        ("null", sys::FileType::CharacterDevice, (1, 3)),
        ("last old", sys::FileType::BlockDevice, (255, 255)),
        ("first new", sys::FileType::BlockDevice, (256, 0)),
        // XFS has no larger ones: 9 and 18 bits.
        ("large", sys::FileType::CharacterDevice, (500, 200_001)),
        ("socket", sys::FileType::Socket, (0, 0)),
        ("pipe", sys::FileType::Fifo, (0, 0)),
    ];
    for (name, kind, (major, minor)) in devices {
        let device = sys::makedev(major, minor);
        sys::mknodat(sys::CWD, place.join(name), kind, sys::Mode::from_raw_mode(0o640), device).unwrap();
    }
    for (name, uid, gid) in [("small ids", 1, 2), ("16 bits", 65_535, 65_534), ("large ids", 70_000, 4_000_000_000)] {
        fs::write(place.join(name), name).unwrap();
        std::os::unix::fs::chown(place.join(name), Some(uid), Some(gid)).unwrap();
    }
    for (name, mode) in [("no rights", 0), ("all rights", 0o7777), ("set user", 0o4711)] {
        fs::write(place.join(name), name).unwrap();
        sys::chmodat(sys::CWD, place.join(name), sys::Mode::from_raw_mode(mode), sys::AtFlags::empty()).unwrap();
    }
    fs::create_dir(place.join("sticky")).unwrap();
    sys::chmodat(sys::CWD, place.join("sticky"), sys::Mode::from_raw_mode(0o3777), sys::AtFlags::empty()).unwrap();
    let capable = place.join("capable");
    fs::write(&capable, "").unwrap();
    let capability = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    set_attribute(&capable, "security.capability", &capability);
    set_attribute(&capable, "trusted.overlay.opaque", b"y");
    symlink("nowhere", place.join("link with an attribute")).unwrap();
    set_attribute(&place.join("link with an attribute"), "trusted.of a link", b"yes");
    set_attribute(&place.join("null"), "trusted.of a device", b"yes");
}

fn times(folder: &Path) {
    let place = folder.join("times");
    fs::create_dir(&place).unwrap();
    let moments = [
        (0, 0),
        (0, 1),
        (-1, 999_999_999),
        (-86_400 * 365 * 60, 5),
        (i64::from(i32::MAX), 999_999_999),
        (i64::from(i32::MAX) + 1, 123_456_789),
        (i64::from(u32::MAX), 1),
        (i64::from(u32::MAX) + 1, 2),
        (7_289_654_400, 987_654_321),
        (12_000_000_000, 3),
        (1_700_000_000, 100),
    ];
    for (index, (seconds, nanoseconds)) in moments.into_iter().enumerate() {
        let path = place.join(index.to_string());
        fs::write(&path, "").unwrap();
        let moment = sys::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let earlier = sys::Timespec { tv_sec: seconds - 100, tv_nsec: nanoseconds };
        let times = sys::Timestamps { last_access: earlier, last_modification: moment };
        sys::utimensat(sys::CWD, &path, &times, sys::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}
