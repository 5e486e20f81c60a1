//! What is special about writing VMDKs: properties of the source, streams that are read front to back, the largest disk,
//! and images of several files, all of which appear together or not at all.
//!
//! Needs `qemu-img`. That every variant holds the disk it was given is told in `formats_writers`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use abbild::disk::Disk;
use abbild::formats::sink::{DiskSink, Overwrite, TargetError};
use abbild::formats::vmdk::writer::{create_flat, create_sparse, create_split, create_stream};
use abbild::formats::{self, ImageError, OpenPolicy};
use abbild::units::{ByteLen, GuestOffset};

use crate::formats_writers::{GRAIN, Kind, MIB, noise, run, text, written};

#[test]
fn properties_of_the_source_reach_the_restored_image() {
    let given = [("ddb.adapterType", "ide"), ("ddb.uuid", "60 00 C2 9a 01"), ("ddb.bad", "a\nb")];
    let given = given.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let dir = tempfile::tempdir().unwrap();
    let names = ["sparse", "stream", "flat", "split"].map(|name| dir.path().join(format!("{name}.vmdk")));
    let (size, new) = (ByteLen(MIB), Overwrite::Refuse);
    let sinks: [Box<dyn DiskSink>; 4] = [
        Box::new(create_sparse(&names[0], size, &given, new).unwrap()),
        Box::new(create_stream(&names[1], size, &given, new).unwrap()),
        Box::new(create_flat(&names[2], size, &given, new).unwrap()),
        Box::new(create_split(&names[3], size, &given, new).unwrap()),
    ];
    for sink in sinks {
        assert_eq!(sink.warnings().len(), 1);
        sink.finish().unwrap();
    }
    let mut cids = BTreeSet::new();
    for path in &names {
        let bytes = fs::read(path).unwrap();
        let embedded = if bytes.starts_with(b"KDMV") { &bytes[512..21 * 512] } else { &bytes[..] };
        let descriptor = String::from_utf8_lossy(embedded).into_owned();
        assert!(descriptor.contains("ddb.adapterType = \"ide\"\n"), "{descriptor}");
        assert!(descriptor.contains("ddb.uuid = \"60 00 C2 9a 01\"\n"), "{descriptor}");
        assert!(!descriptor.contains("ddb.bad"), "{descriptor}");
        let info = run("qemu-img", &["info", "--output=json", text(path)]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        cids.insert(info["format-specific"]["data"]["cid"].as_u64().unwrap());
    }
    assert_eq!(cids.len(), names.len(), "each image has an identity of its own");
}

/// Importers that read from a network never see the directory first: markers alone must lead from start to end, each table
/// after its grains, with nothing in between.
#[test]
fn a_stream_can_be_read_front_to_back() {
    let mut content = vec![0; (100 << 20) + 512];
    for (seed, at) in [(1, 0), (2, (32 << 20) - (1 << 20)), (3, 32 << 20), (4, 99 << 20)] {
        content[at..at + (1 << 20)].copy_from_slice(&noise(seed, 1 << 20));
    }
    content[100 << 20..].fill(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream.vmdk");
    written(Kind::Stream, &path, &content, 100_000, false);

    let file = fs::read(&path).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let mut seen = vec![0; content.len()];
    let mut at = u64_at(64) * 512; // overhead
    let mut entries = vec![0; 512];
    let mut directory = Vec::new();
    let mut last = None;
    loop {
        let (value, bytes) = (u64_at(at), u32_at(at + 8) as usize);
        if bytes > 0 {
            assert!(last < Some(value), "grains ascend");
            last = Some(value);
            let mut plain = Vec::new();
            let zlib = &file[at + 12..at + 12 + bytes];
            std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(zlib), &mut plain).unwrap();
            let place = value * 512;
            let len = plain.len().min(seen.len() - place);
            seen[place..place + len].copy_from_slice(&plain[..len]);
            let table = value / 128 / 512;
            assert!(table >= directory.len(), "a grain after its table");
            directory.resize(table, 0);
            entries[value / 128 % 512] = (at / 512) as u32;
            at += (12 + bytes).next_multiple_of(512);
            continue;
        }
        let payload = at + 512;
        match u32_at(at + 12) {
            1 => {
                let table: Vec<_> = (0..512).map(|n| u32_at(payload + n * 4)).collect();
                assert!(table == entries, "table {}", directory.len());
                entries.fill(0);
                directory.push((payload / 512) as u32);
            }
            2 => {
                directory.resize(128, 0); // a sector of entries
                let stored: Vec<_> = (0..128).map(|n| u32_at(payload + n * 4)).collect();
                assert_eq!(stored, directory);
                assert_eq!(payload, u64_at(file.len() - 1024 + 56) * 512, "the footer names the directory");
            }
            3 => assert_eq!(payload, file.len() - 1024),
            kind => {
                assert_eq!((kind, value, at), (0, 0, file.len() - 512), "end of stream");
                break;
            }
        }
        at = payload + value * 512;
    }
    assert!(seen == content);
}

/// The largest VMDK is as cheap to start and finish as any other: its 256 MiB of tables are a hole.
#[test]
fn the_largest_vmdk_works_and_one_sector_more_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let size = 2048 * 1024 * MIB;
    for kind in [Kind::Sparse, Kind::Stream] {
        let path = dir.path().join(format!("{kind:?}.vmdk"));
        let sink = kind.create(&path, size, Overwrite::Refuse).unwrap();
        sink.write_at(GuestOffset(0), &noise(1, GRAIN)).unwrap();
        sink.write_at(GuestOffset(size - GRAIN as u64), &noise(2, GRAIN)).unwrap();
        sink.finish().unwrap();
        run("qemu-img", &["check", "-f", "vmdk", text(&path)]);
        let tail = dir.path().join("tail");
        let skip = format!("skip={}", size / GRAIN as u64 - 1);
        let (from, to) = (format!("if={}", text(&path)), format!("of={}", text(&tail)));
        run("qemu-img", &["dd", "-f", "vmdk", "-O", "raw", "bs=65536", &skip, &from, &to]);
        assert!(fs::read(&tail).unwrap() == noise(2, GRAIN), "{kind:?}");
        let allocated = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(allocated < 2 * MIB, "{kind:?}: {allocated}");
        for bad in [size + 512, 0, 513] {
            let error = kind.create(&dir.path().join("no"), bad, Overwrite::Refuse).map(|_| ()).unwrap_err();
            assert!(matches!(error, ImageError::Target(TargetError::DiskSize { .. })), "{error}");
            assert!(error.to_string().ends_with(&format!("found {bad} bytes")), "{error}");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const EXTENT: u64 = 2047 * MIB;

#[test]
fn a_split_disk_is_cut_every_2047_mib_and_is_one_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web 1.vmdk");
    let size = 50 * EXTENT + 3 * 512;
    let data = noise(1, 4 << 20);
    // Across the first border, in the last extent but one, and at the very end; the 47 between them hold nothing.
    let calls = [(EXTENT - 2 * MIB, data.len()), (50 * EXTENT - MIB, 1 << 20), (50 * EXTENT, 3 * 512)];
    let sink = Kind::Split.create(&path, size, Overwrite::Refuse).unwrap();
    let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_files();
    for (at, len) in calls {
        sink.write_at(GuestOffset(at), &data[..len]).unwrap();
    }
    assert!(open_files() < before + 20, "as many files as a disk has extents may not be open");
    let early = sink.write_at(GuestOffset(0), &data).unwrap_err();
    assert!(early.to_string().contains("expected ascending offsets"), "{early}");
    assert_eq!(names(dir.path()).iter().filter(|name| !name.starts_with(".abbild-")).count(), 0);
    let files = sink.finish().unwrap();
    let expected: Vec<PathBuf> = (1..=51).map(|n| dir.path().join(format!("web 1-s{n:03}.vmdk"))).collect();
    assert_eq!(files, [std::slice::from_ref(&path), &expected[..]].concat());
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() < 2 << 30));

    let descriptor = fs::read_to_string(&path).unwrap();
    assert!(descriptor.contains("RW 4192256 SPARSE \"web 1-s001.vmdk\"\n"), "{descriptor}");
    assert!(descriptor.contains("RW 3 SPARSE \"web 1-s051.vmdk\"\n"), "{descriptor}");
    let check = run("qemu-img", &["check", "-f", "vmdk", text(&path)]);
    assert!(check.contains("No errors were found"), "{check}");
    let info = run("qemu-img", &["info", "--output=json", "-f", "vmdk", text(&path)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], size);
    let plain = dir.path().join("expected.raw");
    let raw = Kind::Raw.create(&plain, size, Overwrite::Refuse).unwrap();
    calls.iter().for_each(|(at, len)| raw.write_at(GuestOffset(*at), &data[..*len]).unwrap());
    raw.finish().unwrap();
    run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", text(&path), text(&plain)]);
    let ours = formats::open(&path, &OpenPolicy::named_by_user(&path).unwrap()).unwrap();
    assert_eq!((ours.size().0, ours.layers[0].variant.as_str()), (size, "vmdk twoGbMaxExtentSparse"));
    let mut seen = vec![0; data.len()];
    ours.disk().read_at(GuestOffset(EXTENT - 2 * MIB), &mut seen).unwrap();
    assert!(seen == data);
}

#[test]
fn no_file_of_an_image_is_replaced_unless_it_was_allowed() {
    for (kind, extents) in [(Kind::Flat, vec!["x-flat.vmdk"]), (Kind::Split, vec!["x-s001.vmdk", "x-s002.vmdk"])] {
        let dir = tempfile::tempdir().unwrap();
        let (path, size) = (dir.path().join("x.vmdk"), EXTENT + MIB);
        for extent in &extents {
            let taken = dir.path().join(extent);
            fs::write(&taken, "theirs").unwrap();
            let refused = kind.create(&path, size, Overwrite::Refuse).map(|_| ()).unwrap_err();
            assert_eq!(refused.to_string(), format!("{} exists already", taken.display()));
            assert_eq!(names(dir.path()), [*extent], "nothing else is left");
            let replacing = kind.create(&path, size, Overwrite::Replace).unwrap();
            replacing.write_at(GuestOffset(0), &noise(1, GRAIN)).unwrap();
            drop(replacing);
            assert_eq!((names(dir.path()), fs::read(&taken).unwrap()), (vec![extent.to_string()], b"theirs".to_vec()));
            fs::remove_file(&taken).unwrap();
        }
        // Taken while it was written: what has its name already goes again.
        let sink = kind.create(&path, size, Overwrite::Refuse).unwrap();
        sink.write_at(GuestOffset(0), &noise(1, GRAIN)).unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(matches!(sink.finish(), Err(ImageError::Target(TargetError::Exists { .. }))));
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["x.vmdk".to_owned()], b"theirs".to_vec()));
        let sink = kind.create(&path, size, Overwrite::Replace).unwrap();
        sink.write_at(GuestOffset(EXTENT), &noise(1, GRAIN)).unwrap();
        sink.finish().unwrap();
        let said = run("qemu-img", &["check", "-f", "vmdk", text(&path)]);
        assert!(said.contains("No errors were found"), "{said}");
        assert_eq!(names(dir.path()).len(), 1 + extents.len());
    }
}

#[test]
fn a_name_that_no_descriptor_can_carry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for kind in [Kind::Flat, Kind::Split] {
        for name in ["a\"b.vmdk", "a\nb.vmdk", "a\\b.vmdk"] {
            let refused = kind.create(&dir.path().join(name), MIB, Overwrite::Refuse).map(|_| ()).unwrap_err();
            assert!(refused.to_string().contains("a name in UTF-8 that can stand in a VMDK descriptor"), "{refused}");
        }
        for size in [0, 513, u64::MAX] {
            let refused = kind.create(&dir.path().join("x.vmdk"), size, Overwrite::Refuse).map(|_| ()).unwrap_err();
            assert!(matches!(refused, ImageError::Target(TargetError::DiskSize { .. })), "{refused}");
        }
    }
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}
