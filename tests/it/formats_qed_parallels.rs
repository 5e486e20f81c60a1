//! QED and Parallels images read as qemu-img reads them, with backing files; damaged and hostile ones are refused in words
//! that say what is wrong and where.

use std::fs;
use std::path::Path;

use abbild::disk::{ExtentKind, conformance};
use abbild::units::GuestOffset;
use proptest::prelude::*;

use crate::formats_vhd::{attempt, says};
use crate::formats_vmdk::{open, try_open};
use crate::qemu;

/// Makes `name` in `format` with what the commands write, and compares our reading of it with qemu-img's.
#[track_caller]
fn same(folder: &Path, name: &str, format: &str) -> Vec<u8> {
    let expected = qemu::content_as(folder, name, format);
    let image = open(&folder.join(name));
    conformance::check(&image.disk(), &expected);
    expected
}

fn commands(commands: &[&str]) -> Vec<String> {
    commands.iter().map(|command| (*command).to_string()).collect()
}

#[test]
fn what_qemu_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let writes = commands(&["write -P 1 0 100k", "write -P 2 3M 1M", "write -P 3 9500k 16k", "write -z 3200k 200k"]);
    for (format, options) in [
        ("qed", "cluster_size=4k,table_size=2"),
        ("qed", "cluster_size=64k"),
        ("qed", "cluster_size=1M,table_size=16"),
        ("parallels", "cluster_size=64k"),
        ("parallels", "cluster_size=1M"),
    ] {
        let name = format!("disk.{format}");
        let size = (10 << 20) + 512;
        qemu::img(folder, &["create", "-q", "-f", format, "-o", options, &name, &size.to_string()]);
        let empty = open(&folder.join(&name));
        assert_eq!((empty.size().0, empty.layers.len()), (size, 1), "{format}");
        let extent = empty.layers[0].disk.extent_at(GuestOffset(0)).unwrap();
        assert_eq!((extent.kind, extent.len.0), (ExtentKind::Hole, size), "{format}: {options}");
        qemu::write(folder, &name, format, &writes);
        let content = same(folder, &name, format);
        assert_eq!((content[0], content[3 << 20], content[9500 << 10], content[3200 << 10]), (1, 2, 3, 0));
    }
}

#[test]
fn a_converted_guest_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let mut content = crate::formats_writers::noise(1, 7 << 20);
    content[1 << 20..3 << 20].fill(0);
    fs::write(folder.join("disk.raw"), &content).unwrap();
    for format in ["qed", "parallels"] {
        let name = format!("disk.{format}");
        qemu::img(folder, &["convert", "-f", "raw", "-O", format, "disk.raw", &name]);
        assert!(same(folder, &name, format) == content, "{format}");
        assert!(open(&folder.join(&name)).layers[0].in_use.is_none());
    }
}

#[test]
fn qed_asks_its_backing_file_and_may_stand_between_others() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let overlay = |format: &str, below: &str, below_format: &str, name: &str| {
        qemu::img(folder, &["create", "-q", "-f", format, "-b", below, "-F", below_format, name, "4M"]);
    };
    fs::write(folder.join("base.raw"), vec![1; 3 << 20]).unwrap();
    overlay("qed", "base.raw", "raw", "first.qed");
    qemu::write(folder, "first.qed", "qed", &commands(&["write -P 2 64k 100k", "write -P 3 3M 64k"]));
    overlay("qcow2", "first.qed", "qed", "second.qcow2");
    qemu::write(folder, "second.qcow2", "qcow2", &commands(&["write -P 4 128k 64k"]));
    overlay("qed", "second.qcow2", "qcow2", "third.qed");
    qemu::write(folder, "third.qed", "qed", &commands(&["write -P 5 192k 64k", "write -z 1M 64k"]));
    let content = same(folder, "third.qed", "qed");
    assert_eq!((content[0], content[64 << 10], content[128 << 10], content[192 << 10]), (1, 2, 4, 5));
    assert_eq!((content[1 << 20], content[2 << 20], content[3 << 20], content[(3 << 20) + (64 << 10)]), (0, 1, 3, 0));
    let image = open(&folder.join("third.qed"));
    let variants: Vec<_> = image.layers.iter().map(|layer| layer.variant.as_str()).collect();
    assert_eq!(variants, ["qed", "qcow2 v3", "qed", "raw"]);
    let zero = image.layers[0].disk.extent_at(GuestOffset(1 << 20)).unwrap();
    assert_eq!((zero.kind, zero.len.0), (ExtentKind::Zero, 64 << 10));

    // Whatever a guest writes to the beginning of a raw disk, it stays a raw disk.
    fs::write(folder.join("base.raw"), [b"QFI\xfb".as_slice(), &vec![1; 1 << 20]].concat()).unwrap();
    let image = open(&folder.join("first.qed"));
    assert_eq!(image.layers[1].variant, "raw");
    // The bit that says so is gone: what is raw must not be guessed.
    let path = folder.join("first.qed");
    let mut bytes = fs::read(&path).unwrap();
    bytes[16] &= !4;
    fs::write(&path, &bytes).unwrap();
    fs::write(folder.join("base.raw"), vec![1; 1 << 20]).unwrap();
    says(&attempt(&path), "a raw backing file whose overlay does not say that it is raw");
}

#[test]
fn qed_chains_end() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    qemu::img(folder, &["create", "-q", "-f", "qed", "a.qed", "1M"]);
    for (name, below, format) in [("b.qcow2", "a.qed", "qed"), ("c.qed", "b.qcow2", "qcow2")] {
        let own = name.rsplit('.').next().unwrap();
        qemu::img(folder, &["create", "-q", "-f", own, "-b", below, "-F", format, name, "1M"]);
    }
    let mut looped = fs::read(folder.join("c.qed")).unwrap();
    looped[64..71].copy_from_slice(b"b.qcow2");
    fs::write(folder.join("a.qed"), &looped).unwrap();
    says(&attempt(&folder.join("c.qed")), "is in the chain above it already");
    for (name, said) in [
        ("../x.qed\0", "x.qed is missing"),
        ("/etc/passwd", "names /etc/passwd as its backing file"),
        ("nbd://h/x", "names nbd://h/x as its backing file"),
    ] {
        looped[64..64 + name.len()].copy_from_slice(name.as_bytes());
        let len = u32::try_from(name.trim_end_matches('\0').len()).unwrap();
        looped[60..64].copy_from_slice(&len.to_le_bytes());
        fs::write(folder.join("a.qed"), &looped).unwrap();
        says(&attempt(&folder.join("a.qed")), said);
    }
}

/// A sound image with data, and a function that patches it.
struct Scene {
    dir: tempfile::TempDir,
    name: &'static str,
    sound: Vec<u8>,
}

impl Scene {
    fn new(name: &'static str, format: &str, options: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        qemu::img(dir.path(), &["create", "-q", "-f", format, "-o", options, name, "10M"]);
        qemu::write(dir.path(), name, format, &commands(&["write -P 1 0 100k", "write -P 2 9M 64k"]));
        let sound = fs::read(dir.path().join(name)).unwrap();
        Scene { dir, name, sound }
    }

    fn attempt(&self, content: &[u8]) -> String {
        let path = self.dir.path().join(self.name);
        fs::write(&path, content).unwrap();
        attempt(&path)
    }

    fn patched(&self, patches: &[(usize, Vec<u8>)]) -> String {
        let mut content = self.sound.clone();
        for (at, patch) in patches {
            content[*at..at + patch.len()].copy_from_slice(patch);
        }
        self.attempt(&content)
    }
}

fn u32s(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn u64s(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

#[test]
fn a_damaged_qed_is_named() {
    let scene = Scene::new("disk.qed", "qed", "cluster_size=4k,table_size=2");
    assert_eq!(scene.attempt(&scene.sound), "read");
    let l1 = u64_at(&scene.sound, 40);
    let l2 = u64_at(&scene.sound, l1);
    let table = [
        (0, vec![b'R'], "expected a header of the format that its name .qed promises"),
        (4, u32s(4095), "cluster size at offset 0x4: expected a power of two from 4096 to 67108864 bytes, found 0xfff"),
        (4, u32s(2048), "found 0x800"),
        (4, u32s(1 << 27), "found 0x8000000"),
        (8, u32s(0), "table size at offset 0x8: expected a power of two up to 16 clusters, found 0x0"),
        (8, u32s(3), "found 0x3"),
        (8, u32s(32), "found 0x20"),
        (12, u32s(0), "header size at offset 0xc: expected 1 to 16 clusters, found 0x0"),
        (12, u32s(u32::MAX), "found 0xffffffff"),
        (16, u64s(8), "the QED feature bits 0x8 is not supported"),
        (16, u64s(1), "backing file name at offset 0x38: expected 1 to 1023 bytes inside the header of 4096 bytes"),
        (40, u64s(0), "L1 table offset at offset 0x28: expected a multiple of 4096 behind the header, found 0x0"),
        (40, u64s(4097), "found 0x1001"),
        (40, u64s(1 << 40), "L1 table at offset 0x10000000000: expected 24 bytes there, found a truncated image"),
        (48, u64s(511), "image size at offset 0x30: expected whole sectors"),
        (48, u64s(u64::MAX - 511), "image size at offset 0x30"),
        (48, u64s((4 << 30) + 512), "that 1024 tables can map, found 0x100000200"),
        (
            l1,
            u64s(1),
            "L1 table entry at offset 0x1000: expected an L2 table at a multiple of 4096 bytes inside the file",
        ),
        (l1, u64s(1 << 40), "found 0x10000000000"),
        (l2, u64s(2), "expected 0, 1 or a multiple of the cluster size behind the header, found 0x2"),
        (l2, u64s(1 << 40), "cluster at offset 0x10000000000: expected 4096 bytes there, found a truncated image"),
        (l2, u64s(u64::MAX - 4095), "cluster at offset 0xfffffffffffff000"),
    ];
    for (at, patch, said) in table {
        says(&scene.patched(&[(at, patch)]), said);
    }
    let data = u64_at(&scene.sound, l2);
    for len in [5, 63, 4096, l2, l2 + 100, data, data + 4095] {
        says(&scene.attempt(&scene.sound[..len]), "truncated image");
    }
    // Tables that lead to themselves are read as what they say; it ends.
    assert_eq!(scene.patched(&[(l2, u64s(l2 as u64)), (l1 + 8, u64s(l2 as u64))]), "read");
    scene.patched(&[(16, u64s(2))]);
    let image = open(&scene.dir.path().join("disk.qed"));
    assert!(image.layers[0].in_use.as_deref().is_some_and(|why| why.contains("was not closed cleanly")));
}

#[test]
fn a_damaged_parallels_image_is_named() {
    let scene = Scene::new("disk.hds", "parallels", "cluster_size=64k");
    assert_eq!(scene.attempt(&scene.sound), "read");
    let table = [
        (0, vec![b'X'], "expected a header of the format that its name .hds promises"),
        (16, u32s(3), "Parallels version 3 is not supported"),
        (28, u32s(0), "block size at offset 0x1c: expected 1 to 524288 sectors, found 0x0"),
        (28, u32s(u32::MAX), "found 0xffffffff"),
        (32, u32s(159), "disk size at offset 0x24: expected at most the 10420224 bytes that 159 table entries map"),
        (36, u64s(u64::MAX), "disk size at offset 0x24"),
        (64, u32s(u32::MAX), "block at offset 0xffffffff0000: expected 65536 bytes there, found a truncated image"),
        (56, u64s(u64::MAX), "extension offset at offset 0x38: expected a sector inside the file"),
        (56, u64s(1), "extension at offset 0x200: expected the magic of an extension"),
    ];
    for (at, patch, said) in table {
        says(&scene.patched(&[(at, patch)]), said);
    }
    // As large a table as the numbers allow, none of it in the file.
    let large = scene.patched(&[(32, u32s(u32::MAX)), (36, u64s(u64::from(u32::MAX) * 128))]);
    says(&large, "expected a table of at most");
    let long = scene.patched(&[(32, u32s(1 << 24)), (36, u64s((1 << 24) * 128))]);
    says(&long, "block table at offset 0x40: expected 67108864 bytes there, found a truncated image");
    for len in [17, 63, 64 + 639, 65536 * 2 - 1] {
        says(&scene.attempt(&scene.sound[..len]), "truncated image");
    }
    scene.patched(&[(44, u32s(0x746f_6e59))]);
    let image = open(&scene.dir.path().join("disk.hds"));
    assert!(image.layers[0].in_use.as_deref().is_some_and(|why| why.contains("was not closed cleanly")));
}

#[test]
fn an_extension_is_refused_only_if_it_is_needed() {
    let scene = Scene::new("disk.hds", "parallels", "cluster_size=64k");
    let end = scene.sound.len();
    let with = |features: &[(u64, u64, &[u8])]| {
        let mut content = [&scene.sound[..], &u64s(0xab23_4cef_23dc_ea87), &[0; 16]].concat();
        content[56..64].copy_from_slice(&u64s(end as u64 / 512));
        for (magic, flags, data) in features {
            let len = u32s(u32::try_from(data.len()).unwrap());
            content.extend([&u64s(*magic)[..], &u64s(*flags), &len, &[0; 4], data].concat());
            content.resize(content.len().next_multiple_of(8), 0);
        }
        scene.attempt(&content)
    };
    assert_eq!(with(&[(0x2038_5fae_252c_b34a, 1, b"bitmap"), (77, 0, b"unknown"), (0, 0, b"")]), "read");
    says(&with(&[(77, 1, b""), (0, 0, b"")]), "the Parallels feature 0x4d, which it needs is not supported");
    says(&with(&[(77, 0, b"")]), "features up to one that ends them");
    says(&with(&vec![(77, 0, b"" as &[u8]); 2000]), "features up to one that ends them");
}

#[test]
fn the_older_parallels_counts_in_sectors() {
    let scene = Scene::new("disk.hdd", "parallels", "cluster_size=64k");
    let mut old = scene.sound.clone();
    old[..16].copy_from_slice(b"WithoutFreeSpace");
    old[40..44].copy_from_slice(&u32s(0xdead_beef)); // the half that it does not have
    for entry in old[64..64 + 160 * 4].chunks_mut(4) {
        let block = u32::from_le_bytes(entry.try_into().unwrap());
        entry.copy_from_slice(&u32s(block * 128));
    }
    assert_eq!(scene.attempt(&old), "read");
    let content = same(scene.dir.path(), "disk.hdd", "parallels");
    assert_eq!((content.len(), content[0], content[9 << 20]), (10 << 20, 1, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever stands in headers and tables, an image is read or refused: no panic, no endless chain, no huge buffer.
    #[test]
    fn any_bytes_end_in_data_or_an_error(
        is_qed in any::<bool>(),
        patches in proptest::collection::vec((0..128usize, any::<u64>(), 0..64u32), 1..5),
    ) {
        let (name, at_max) = if is_qed { ("disk.qed", 3) } else { ("disk.hds", 1) };
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 64 << 10];
        if is_qed {
            bytes[..4].copy_from_slice(b"QED\0");
            bytes[4..16].copy_from_slice(&[u32s(4096), u32s(1), u32s(1)].concat());
            bytes[40..56].copy_from_slice(&[u64s(4096), u64s(4 << 20)].concat());
            bytes[4096..4104].copy_from_slice(&u64s(8192));
            bytes[8192..8200].copy_from_slice(&u64s(12_288));
        } else {
            bytes[..16].copy_from_slice(b"WithouFreSpacExt");
            bytes[16..44].copy_from_slice(&[u32s(2), u32s(0), u32s(0), u32s(8), u32s(1024), u64s(8192)].concat());
            bytes[64..72].copy_from_slice(&[u32s(2), u32s(3)].concat());
        }
        for (n, (place, value, shift)) in patches.iter().enumerate() {
            let at = n % at_max * 4096 + 4 + place;
            bytes[at..at + 8].copy_from_slice(&u64s(value >> shift));
        }
        let path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        if let Ok(image) = try_open(&path) {
            let disk = image.disk();
            let size = abbild::disk::Disk::size(&disk).0;
            let mut buffer = [0; 4096];
            for at in [0, 4096, size / 2, size.saturating_sub(4096)] {
                let len = usize::try_from(size.saturating_sub(at)).unwrap_or(4096).min(4096);
                let _ = abbild::disk::Disk::read_at(&disk, GuestOffset(at), &mut buffer[..len]);
                if at < size {
                    let _ = abbild::disk::Disk::extent_at(&disk, GuestOffset(at));
                }
            }
        }
    }
}
