//! What only Windows leaves on NTFS, put by hand into volumes that ntfs-3g made: reparse points of every kind, files
//! compressed behind our back (wimlib, which has the same decoders' other half, is the judge), content that is not yet
//! initialized or encrypted, and the state in which a system went away.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use abbild::disk::{ExtentKind, MemoryDisk};
use abbild::guest::ntfs::{self, Ntfs};
use abbild::guest::tree::{FileSystem, NodeId, NodeKind};

use crate::guest_ntfs::{Stage, content, node, opened, text};
use crate::guest_tree::{self as tree, noise, set_attribute};

const DATA: u32 = 0x80;
const VOLUME_INFORMATION: u32 = 0x70;

pub(crate) fn open_bytes(bytes: Vec<u8>) -> Ntfs {
    ntfs::open(std::sync::Arc::new(MemoryDisk(bytes))).unwrap_or_else(|err| panic!("{err}"))
}

fn le(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// Where the record of a number lies.
#[track_caller]
pub(crate) fn record_at(bytes: &[u8], number: u64) -> usize {
    let is_it = |at: &usize| bytes[*at..].starts_with(b"FILE") && le(bytes, at + 44, 4) as u64 == number;
    // The copy of the first ones lies behind them.
    let table = le(bytes, 48, 8) * usize::from(bytes[13]) * le(bytes, 11, 2);
    (table..bytes.len()).step_by(1024).find(is_it).expect("no such record")
}

/// Where an attribute without a name lies.
#[track_caller]
pub(crate) fn attribute_at(bytes: &[u8], number: u64, kind: u32) -> usize {
    let record = record_at(bytes, number);
    let mut at = record + le(bytes, record + 20, 2);
    while le(bytes, at, 4) != kind as usize || bytes[at + 9] != 0 {
        assert!(le(bytes, at, 4) != 0xffff_ffff, "no such attribute");
        at += le(bytes, at + 4, 4);
    }
    at
}

/// Number of a node's record.
pub(crate) fn number(node: NodeId) -> u64 {
    node.number & 0xffff_ffff_ffff
}

fn reparse_point(tag: u32, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap();
    [&tag.to_le_bytes()[..], &len.to_le_bytes(), &[0, 0], data].concat()
}

fn set_reparse_point(place: &Path, tag: u32, data: &[u8]) {
    set_attribute(place, "system.ntfs_reparse_data", &reparse_point(tag, data));
}

// ---- links ----------------------------------------------------------------------------------------------------------

/// A symbolic link's or junction's data: what it leads to, then the name to print.
fn link_data(target: &str, flags: Option<u32>) -> Vec<u8> {
    let target: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let len = u16::try_from(target.len()).unwrap();
    let mut data = [0, len, len + 2, 0].map(u16::to_le_bytes).concat();
    data.extend(flags.into_iter().flat_map(u32::to_le_bytes));
    [&data, &target[..], &[0; 4]].concat()
}

#[test]
fn links_of_windows_lead_somewhere() {
    const SYMLINK: u32 = 0xa000_000c;
    const JUNCTION: u32 = 0xa000_0003;
    // Where, tag, target as stored, what we make of it; whether ntfs-3g makes the same of it.
    let links = [
        ("relative", SYMLINK, r"Users\Public", Some(1), "Users/Public", true),
        ("Users/up", SYMLINK, r"..\Users\.\Public", Some(1), "../Users/./Public", false),
        ("dangling", SYMLINK, r"no\such thing", Some(1), "no/such thing", false),
        ("from the root", SYMLINK, r"\Users\Public", Some(1), "Users/Public", false),
        ("absolute", SYMLINK, r"\??\C:\Users\Public", Some(0), "Users/Public", true),
        ("Users/Public/junction", JUNCTION, r"\??\C:\Users\Public", None, "../../Users/Public", true),
        ("Users/root", JUNCTION, r"\??\C:\", None, "..", false),
        ("other case", JUNCTION, r"\??\c:\USERS", None, "USERS", false),
        ("other drive", JUNCTION, r"\??\D:\Daten\Büro", None, "/D:/Daten/Büro", false),
        (
            "volume",
            JUNCTION,
            r"\??\Volume{01234567-0000-0000-0000-100000000000}\",
            None,
            "/??/Volume{01234567-0000-0000-0000-100000000000}/",
            false,
        ),
        ("share", SYMLINK, r"\??\UNC\server\share", Some(0), "/??/UNC/server/share", false),
        ("behind a junction", SYMLINK, r"\??\C:\other case\Public", Some(0), "other case/Public", false),
        // Each leads over the other: whoever followed them would not end.
        ("circle", JUNCTION, r"\??\C:\circle back\x", None, "circle back/x", false),
        ("circle back", JUNCTION, r"\??\C:\circle\x", None, "circle/x", false),
    ];
    let stage = Stage::new();
    let image = stage.filled(20, &[], |folder| {
        fs::create_dir_all(folder.join("Users/Public")).unwrap();
        for (name, tag, target, flags, ..) in &links {
            fs::create_dir(folder.join(name)).unwrap();
            set_reparse_point(&folder.join(name), *tag, &link_data(target, *flags));
        }
        fs::write(folder.join("of Linux"), "").unwrap();
        set_reparse_point(
            &folder.join("of Linux"),
            0xa000_001d,
            &[&2u32.to_le_bytes()[..], "../ü".as_bytes()].concat(),
        );
    });
    let ours = opened(&image);
    for (name, _, stored, _, expected, _) in &links {
        let link = node(&ours, name);
        let metadata = ours.metadata(link).unwrap();
        let target = String::from_utf8(ours.read_link(link).unwrap()).unwrap();
        assert_eq!((metadata.kind, &*target), (NodeKind::Symlink, *expected), "{name}: {stored}");
        assert_eq!(metadata.size, target.len() as u64);
    }
    assert_eq!(ours.read_link(node(&ours, "of Linux")).unwrap(), "../ü".as_bytes());
    stage.mounted(&image, "ro", |folder| {
        for (name, _, _, _, expected, same) in &links {
            if *same {
                let judged = fs::read_link(folder.join(name)).unwrap();
                let judged = fs::canonicalize(folder.join(name).parent().unwrap().join(judged)).unwrap();
                let found = fs::canonicalize(folder.join(name).parent().unwrap().join(expected)).unwrap();
                assert_eq!(found, judged, "{name}");
            }
        }
    });
}

// ---- content elsewhere ----------------------------------------------------------------------------------------------

#[test]
fn content_that_is_elsewhere_is_never_empty() {
    const OFFLINE: u32 = 0x1000;
    const RECALL: u32 = 0x40_0000;
    let wim_provider = [1u32, 1, 0, 0].map(u32::to_le_bytes).concat();
    let algorithm_9 = [1u32, 2, 1, 9].map(u32::to_le_bytes).concat();
    // Tag and data of the reparse point, DOS attributes, what is special.
    let files: [(u32, &[u8], u32, Option<&str>); 13] = [
        (0x8000_0013, &[1; 40], 0, Some("deduplicated")),
        (0x8000_0017, &wim_provider, 0, Some("in a WIM archive (WOF)")),
        (0x8000_0017, &algorithm_9, 0, Some("compressed by Windows (WOF)")),
        (0x8000_0017, &[], 0, Some("compressed by Windows (WOF)")),
        (0xc000_0004, &[1; 8], 0, Some("on other storage (HSM)")),
        (0x8000_0008, &[1; 8], 0, Some("in a WIM archive")),
        (0x8000_001b, &[1; 8], 0, Some("an alias of an app")),
        (0x8000_001e, &[1; 8], 0, Some("in the cloud (Azure File Sync)")),
        (0x9000_601a, &[1; 8], OFFLINE | RECALL, Some("in the cloud")),
        (0x9000_001a, &[1; 8], 0, None),
        (0x8123_4567, &[1; 8], 0, Some("a reparse point of an unknown kind")),
        (0, &[], RECALL, Some("offline")),
        (0, &[], OFFLINE, None),
    ];
    let stage = Stage::new();
    let image = stage.filled(20, &[], |folder| {
        for (index, (tag, data, ..)) in files.iter().enumerate() {
            let place = folder.join(index.to_string());
            fs::write(&place, noise(1, 3000)).unwrap();
            if *tag != 0 {
                set_reparse_point(&place, *tag, data);
            }
        }
        // A stub of a file in the cloud: a hole, whatever the attributes say.
        fs::File::create(folder.join("stub")).unwrap().set_len(100_000).unwrap();
        set_reparse_point(&folder.join("stub"), 0x9000_101a, &[1; 8]);
        // A directory of such files is one all the same.
        fs::create_dir(folder.join("cloud")).unwrap();
        set_reparse_point(&folder.join("cloud"), 0x9000_101a, &[1; 8]);
    });
    let mut bytes = fs::read(&image).unwrap();
    let before = opened(&image);
    for (index, (.., attributes, _)) in files.iter().enumerate() {
        let information = attribute_at(&bytes, number(node(&before, &index.to_string())), 0x10);
        let at = information + 24 + 32;
        let all = u32::try_from(le(&bytes, at, 4)).unwrap() | attributes;
        bytes[at..at + 4].copy_from_slice(&all.to_le_bytes());
    }
    let ours = open_bytes(bytes);
    for (index, (tag, .., special)) in files.iter().enumerate() {
        let file = node(&ours, &index.to_string());
        let metadata = ours.metadata(file).unwrap();
        assert_eq!((metadata.kind, metadata.size, metadata.special), (NodeKind::File, 3000, *special), "{tag:#x}");
        let Some(special) = special else {
            assert!(content(&ours, &index.to_string()) == noise(1, 3000));
            continue;
        };
        let expected = format!("reading a file that is {special} is not supported");
        assert_eq!(ours.read_at(file, 0, &mut [0; 10]).unwrap_err().to_string(), expected);
        assert_eq!(ours.extent_at(file, 0).unwrap_err().to_string(), expected);
    }
    assert_eq!(ours.metadata(node(&ours, "stub")).unwrap().special, Some("in the cloud"));
    assert_eq!(ours.metadata(node(&ours, "cloud")).unwrap().kind, NodeKind::Directory);
    ours.read_directory(node(&ours, "cloud"), &mut |_| panic!("it is empty")).unwrap();
}

#[test]
fn what_the_guest_encrypted_is_refused() {
    let stage = Stage::new();
    let image = stage.filled(20, &[], |folder| fs::write(folder.join("file"), noise(1, 9000)).unwrap());
    let mut bytes = fs::read(&image).unwrap();
    let at = attribute_at(&bytes, number(node(&opened(&image), "file")), DATA);
    bytes[at + 13] |= 0x40;
    let ours = open_bytes(bytes);
    let file = node(&ours, "file");
    assert_eq!(ours.metadata(file).unwrap().special, Some("encrypted (EFS)"));
    let expected = "reading what the guest encrypted (EFS) is not supported";
    assert_eq!(ours.read_at(file, 0, &mut [0; 10]).unwrap_err().to_string(), expected);
    assert_eq!(ours.extent_at(file, 0).unwrap_err().to_string(), expected);
}

#[test]
fn bytes_behind_the_initialized_length_are_zeros() {
    let stage = Stage::new();
    let image = stage.filled(20, &[], |folder| {
        fs::write(folder.join("file"), noise(1, 100_000)).unwrap();
        crate::guest_ntfs::compressing(&folder.join("compressed"));
        fs::write(folder.join("compressed/file"), text(5000)).unwrap();
    });
    let before = opened(&image);
    let mut bytes = fs::read(&image).unwrap();
    for path in ["file", "compressed/file"] {
        let at = attribute_at(&bytes, number(node(&before, path)), DATA);
        bytes[at + 56..at + 64].copy_from_slice(&70_001u64.to_le_bytes());
    }
    let ours = open_bytes(bytes);
    for (path, mut expected) in [("file", noise(1, 100_000)), ("compressed/file", text(5000))] {
        expected[70_001..].fill(0);
        assert!(content(&ours, path) == expected, "{path}");
        let file = node(&ours, path);
        let mut buf = [0xa5; 10];
        assert_eq!(ours.read_at(file, 69_996, &mut buf).unwrap(), 10);
        assert_eq!(buf[..], expected[69_996..70_006]);
        let mut at = 0;
        let mut data = 0;
        while let Some(extent) = ours.extent_at(file, at).unwrap() {
            data += if extent.kind == ExtentKind::Data { extent.len.0 } else { 0 };
            at += extent.len.0;
        }
        assert_eq!((at, data), (expected.len() as u64, 70_001), "{path}");
    }
}

// ---- WOF ------------------------------------------------------------------------------------------------------------

/// The chunks that wimlib compresses a file to: the table of their places, and they themselves.
fn compressed_by_wimlib(stage: &Stage, bytes: &[u8], way: &str, chunk: usize) -> Vec<u8> {
    let (folder, archive) = (stage.path("captured"), stage.path("archive.wim"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), bytes).unwrap();
    let _ = fs::remove_file(&archive);
    let options = [format!("--compress={way}"), format!("--chunk-size={chunk}")];
    let [folder, file] = [&folder, &archive].map(|path| path.to_str().unwrap());
    tree::run("wimlib-imagex", &["capture", folder, file, &options[0], &options[1], "--threads=1"]);
    let archive = fs::read(archive).unwrap();
    // Resources: length in the archive (7 bytes) and flags, place, whole length. The list of them is one itself.
    let resource =
        |at: usize| (le(&archive, at, 7), archive[at + 7], le(&archive, at + 8, 8), le(&archive, at + 16, 8));
    let (list_len, _, list, _) = resource(48);
    let (len, _, at, _) = (list..list + list_len)
        .step_by(50)
        .map(resource)
        .find(|(_, flags, _, whole)| flags & 4 != 0 && flags & 2 == 0 && *whole == bytes.len())
        .expect("the file's resource, compressed");
    archive[at..at + len].to_vec()
}

/// Code with its calls, text, noise and zeros.
fn of_all_kinds() -> Vec<u8> {
    let program = fs::read("/proc/self/exe").unwrap();
    let code = program[program.len() / 3..][..150_000].to_vec();
    [code, text(4000), noise(1, 70_000), vec![0; 100_000], b"\xe8\x10\x00\x00\x00".repeat(5000), text(10)].concat()
}

#[test]
fn files_that_windows_compressed_are_read() {
    let stage = Stage::new();
    let large = of_all_kinds();
    let ways = [("XPRESS", 4096, 0u32), ("LZX", 32_768, 1), ("XPRESS", 8192, 2), ("XPRESS", 16_384, 3)];
    let contents = [large.clone(), large[..40_000].to_vec(), text(100), vec![b'x'; 32_768]];
    let mut streams = Vec::new();
    for (way, chunk, algorithm) in ways {
        for (index, bytes) in contents.iter().enumerate() {
            streams.push((algorithm, index, compressed_by_wimlib(&stage, bytes, way, chunk)));
        }
    }
    let image = stage.image(40, &[]);
    let mount = tree::Mount::new(&image, &stage.path("mount"), "rw,streams_interface=windows");
    for (algorithm, index, stream) in &streams {
        let place = mount.path().join(format!("{algorithm} {index}"));
        fs::File::create(&place).unwrap().set_len(contents[*index].len() as u64).unwrap();
        fs::write(mount.path().join(format!("{algorithm} {index}:WofCompressedData")), stream).unwrap();
        set_reparse_point(&place, 0x8000_0017, &[1, 2, 1, *algorithm].map(u32::to_le_bytes).concat());
    }
    mount.unmount();
    let ours = opened(&image);
    for (algorithm, index, stream) in &streams {
        let name = format!("{algorithm} {index}");
        assert!(content(&ours, &name) == contents[*index], "{name}");
        let file = node(&ours, &name);
        let metadata = ours.metadata(file).unwrap();
        assert_eq!((metadata.kind, metadata.special), (NodeKind::File, None));
        assert!(metadata.allocated >= stream.len() as u64 && metadata.allocated < stream.len() as u64 + 4096);
        assert_eq!(ours.streams(file).unwrap(), []);
        let mut buf = [0xa5; 9000];
        assert_eq!(ours.read_at(file, 2000, &mut buf[..100]).unwrap(), 100);
        assert_eq!(buf[..100], contents[*index][2000..2100]);
        assert_eq!(ours.read_at(file, contents[*index].len() as u64 - 5, &mut buf).unwrap(), 5);
    }
}

#[test]
fn damaged_chunks_are_refused() {
    let stage = Stage::new();
    let bytes = text(600);
    for (way, chunk, algorithm) in [("XPRESS", 8192, 2u32), ("LZX", 32_768, 1)] {
        let stream = compressed_by_wimlib(&stage, &bytes, way, chunk);
        let image = stage.image(2, &[]);
        let mount = tree::Mount::new(&image, &stage.path("mount"), "rw,streams_interface=windows");
        let place = mount.path().join("file");
        fs::File::create(&place).unwrap().set_len(bytes.len() as u64).unwrap();
        fs::write(mount.path().join("file:WofCompressedData"), &stream).unwrap();
        set_reparse_point(&place, 0x8000_0017, &[1, 2, 1, algorithm].map(u32::to_le_bytes).concat());
        mount.unmount();
        let whole = fs::read(&image).unwrap();
        let at = whole.windows(64).position(|window| window == &stream[..64]).unwrap();
        let mut refused = 0;
        for step in 0..300 {
            let mut damaged = whole.clone();
            let place = at + step * 7919 % stream.len();
            damaged[place] ^= 1 << (step % 8);
            let ours = open_bytes(damaged);
            let file = node(&ours, "file");
            let mut buf = vec![0; bytes.len()];
            match ours.read_at(file, 0, &mut buf) {
                Ok(len) => assert_eq!(len, bytes.len()),
                Err(err) => {
                    assert!(err.to_string().starts_with("file compressed by Windows at 0x"), "{err}");
                    refused += 1;
                }
            }
        }
        // There are no checksums: some damage is other content. But most of it breaks a code or a length.
        assert!(refused > 40, "{way}: {refused}");
    }
}

// ---- what Linux leaves ----------------------------------------------------------------------------------------------

#[test]
fn owners_of_linux_are_told() {
    let entry = |name: &str, value: &[u8]| {
        let mut entry = vec![0; 4];
        entry.extend([0, u8::try_from(name.len()).unwrap()]);
        entry.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        entry.extend(name.bytes().chain([0]).chain(value.iter().copied()));
        entry.resize(entry.len().next_multiple_of(4), 0);
        let next = u32::try_from(entry.len()).unwrap();
        entry[..4].copy_from_slice(&next.to_le_bytes());
        entry
    };
    let attributes = [
        entry("$LXUID", &1000u32.to_le_bytes()),
        entry("$LXGID", &70_000u32.to_le_bytes()),
        entry("$LXMOD", &0o100_640u32.to_le_bytes()),
        entry("user.comment", b"a word"),
        entry("$KERNEL.PURGE.ESBCACHE", &[7; 20]),
        entry("$LXDEV", &[3u32, 9].map(u32::to_le_bytes).concat()),
    ]
    .concat();
    let stage = Stage::new();
    let image = stage.filled(20, &[], |folder| {
        for name in ["file", "damaged"] {
            fs::write(folder.join(name), "").unwrap();
            set_attribute(&folder.join(name), "system.ntfs_ea", &attributes);
        }
    });
    let mut bytes = fs::read(&image).unwrap();
    let before = opened(&image);
    let at = attribute_at(&bytes, number(node(&before, "damaged")), 0xe0);
    let value = at + le(&bytes, at + 20, 2);
    bytes[value + 5] = 200;
    let ours = open_bytes(bytes);
    let metadata = ours.metadata(node(&ours, "file")).unwrap();
    assert_eq!((metadata.uid, metadata.gid, metadata.mode), (1000, 70_000, 0o640));
    let listed = ours.extended_attributes(node(&ours, "file")).unwrap();
    let listed: Vec<_> = listed.iter().map(|it| (&it.name[..], &it.value[..])).collect();
    assert_eq!(listed, [(&b"user.comment"[..], &b"a word"[..])]);
    let err = ours.metadata(node(&ours, "damaged")).unwrap_err().to_string();
    assert!(err.starts_with("extended attributes at 0x"), "{err}");
}

// ---- how the system went away ---------------------------------------------------------------------------------------

#[test]
fn the_state_of_the_volume_is_told() {
    let stage = Stage::new();
    let image = stage.filled(20, &["-L", "Läbel 日本"], |folder| fs::write(folder.join("file"), "content").unwrap());
    let sound = fs::read(&image).unwrap();
    #[track_caller]
    fn check(bytes: Vec<u8>, expected: &[&str]) {
        let ours = open_bytes(bytes);
        assert_eq!(ours.summary().warnings, expected);
        assert_eq!(ours.summary().label, "Läbel 日本");
        assert_eq!(content(&ours, "file"), b"content");
    }
    check(sound.clone(), &[]);
    let mut dirty = sound.clone();
    let at = attribute_at(&dirty, 3, VOLUME_INFORMATION);
    dirty[at + 24 + 10] |= 1;
    check(dirty, &["the guest's system marked the volume as dirty: it wants to check it"]);

    // The log's two restart pages: the newer one counts.
    let log =
        sound.chunks(4096).collect::<Vec<_>>().windows(4).position(|it| it.concat().iter().all(|byte| *byte == 0xff));
    let log = log.expect("mkntfs fills the log with ones") * 4096;
    let page = |number: u64, client: u16, flags: u16| {
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(b"RSTR\x1e\x00\x09\x00");
        page[16..28].copy_from_slice(&[0, 0x10, 0, 0, 0, 0x10, 0, 0, 0x30, 0, 1, 0]);
        page[0x30..0x38].copy_from_slice(&number.to_le_bytes());
        page[0x3c..0x3e].copy_from_slice(&client.to_le_bytes());
        page[0x3e..0x40].copy_from_slice(&flags.to_le_bytes());
        page
    };
    let with_log = |pages: [Vec<u8>; 2]| {
        let mut bytes = sound.clone();
        bytes[log..log + 8192].copy_from_slice(&pages.concat());
        bytes
    };
    let unclean = "not unmounted, and its log was not replayed: the newest changes may be missing or half done";
    check(with_log([page(5, 0, 0), page(4, 0xffff, 0)]), &[unclean]);
    check(with_log([page(5, 0xffff, 0), page(4, 0, 0)]), &[]);
    check(with_log([page(4, 0, 0), page(5, 0, 2)]), &[]);
    check(with_log([page(4, 0xffff, 0), page(5, 0, 0)]), &[unclean]);
    check(with_log([vec![0; 4096], vec![0; 4096]]), &[unclean]);

    stage.mounted(&image, "rw", |folder| {
        let file = fs::File::create(folder.join("hiberfil.sys")).unwrap();
        file.write_all_at(&[b"HIBR".to_vec(), noise(1, 9000)].concat(), 0).unwrap();
    });
    let asleep = "Windows is hibernated or was shut down for a fast start: the newest changes may be missing";
    check(fs::read(&image).unwrap(), &[asleep]);
}
