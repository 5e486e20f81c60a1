//! VDIs read as qemu-img reads them; children, which it refuses, are laid out here byte by byte.

use std::path::Path;

use abbild::disk::{Disk, ExtentKind, conformance};
use abbild::formats::{self, OpenPolicy};
use abbild::units::GuestOffset;
use proptest::prelude::*;

use crate::formats_vhd::{apply, attempt, says};
use crate::formats_vmdk::open;
use crate::qemu;

const BLOCK: usize = 64 << 10;
const SIZE: u64 = (1 << 20) + 3 * 512;
const MAP: usize = 512;
const DATA: usize = 4096;

/// A VDI to be laid out: kind, UUID, modification UUID, those of its parent, bytes before each block, and blocks: number
/// and byte, 0 for an explicit zero.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub kind: u32,
    pub ids: [u8; 4],
    pub extra: usize,
    pub blocks: &'a [(usize, u8)],
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    bytes[at..at + part.len()].copy_from_slice(part);
}

pub fn build(plan: &Plan) -> Vec<u8> {
    let blocks = SIZE.div_ceil(BLOCK as u64) as usize;
    let mut bytes = vec![0; DATA];
    put(&mut bytes, 0, b"<<< a test >>>\n");
    bytes[MAP..MAP + blocks * 4].fill(0xff);
    let mut stored = 0u32;
    for (number, byte) in plan.blocks {
        let entry = if *byte == 0 { u32::MAX - 1 } else { stored };
        put(&mut bytes, MAP + number * 4, &entry.to_le_bytes());
        if *byte != 0 {
            stored += 1;
            bytes.resize(bytes.len() + plan.extra, 0xee);
            bytes.resize(bytes.len() + BLOCK, *byte);
        }
    }
    let fields = [
        (64, 0xbeda_107f),
        (68, 0x1_0001),
        (72, 400),
        (76, plan.kind),
        (340, MAP as u32),
        (344, DATA as u32),
        (360, 512),
        (368, SIZE as u32),
        (376, BLOCK as u32),
        (380, plan.extra as u32),
        (384, blocks as u32),
        (388, stored),
    ];
    for (at, value) in fields {
        put(&mut bytes, at, &u32::to_le_bytes(value));
    }
    for (number, id) in plan.ids.into_iter().enumerate() {
        bytes[392 + number * 16..][..16].fill(id);
    }
    bytes
}

pub fn base(blocks: &[(usize, u8)]) -> Plan<'_> {
    Plan { kind: 1, ids: [1, 11, 0, 0], extra: 0, blocks }
}

fn write(folder: &Path, name: &str, plan: &Plan) {
    std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
    std::fs::write(folder.join(name), build(plan)).unwrap();
}

#[test]
fn every_variant_reads_as_qemu_reads_it() {
    for (is_static, variant) in [("off", "vdi dynamic"), ("on", "vdi fixed")] {
        let dir = tempfile::tempdir().unwrap();
        let size = (20u64 << 20) + 512;
        let option = format!("static={is_static}");
        qemu::img(dir.path(), &["create", "-q", "-f", "vdi", "-o", &option, "disk.vdi", &size.to_string()]);
        let commands = ["write -P 1 0 512", "write -P 2 5M 3M", "write -P 3 4M 64k", "write -P 4 20971520 512"];
        qemu::write(dir.path(), "disk.vdi", "vdi", &commands.map(str::to_string));
        let image = open(&dir.path().join("disk.vdi"));
        conformance::check(&image.disk(), &qemu::content_as(dir.path(), "disk.vdi", "vdi"));
        let layer = &image.layers[0];
        assert_eq!((layer.variant.as_str(), layer.warnings.as_slice()), (variant, [].as_slice()));
        assert_eq!((layer.content_id.len(), &layer.parent_content_id), (36, &None));
        let gap = image.disk().extent_at(GuestOffset(10 << 20)).unwrap();
        let expected = if is_static == "on" { ExtentKind::Data } else { ExtentKind::Hole };
        assert_eq!((gap.kind, gap.len.0 >= 10 << 20), (expected, true), "{variant}");
    }
}

#[test]
fn a_disk_of_three_tebibytes_is_read_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let size: u64 = 3 << 40;
    qemu::img(dir.path(), &["create", "-q", "-f", "vdi", "disk.vdi", &size.to_string()]);
    qemu::write(dir.path(), "disk.vdi", "vdi", &[format!("write -P 7 {} 512", size - 512)]);
    let disk = open(&dir.path().join("disk.vdi")).disk();
    let mut tail = vec![1; 1024];
    disk.read_at(GuestOffset(size - 1024), &mut tail).unwrap();
    assert_eq!((&tail[..512], &tail[512..]), (&[0; 512][..], &[7; 512][..]));
    assert_eq!(disk.extent_at(GuestOffset(0)).unwrap().kind, ExtentKind::Hole);
}

#[test]
fn bytes_before_each_block_are_not_the_disks() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "disk.vdi", &Plan { extra: 512, ..base(&[(3, 1), (4, 2), (0, 3)]) });
    let mut expected = Vec::new();
    apply(&mut expected, SIZE, 512, &[(3 * 128, 128, 1), (4 * 128, 128, 2), (0, 128, 3)]);
    conformance::check(&open(&dir.path().join("disk.vdi")).disk(), &expected);
}

/// VirtualBox's own layout: the base in the machine's folder, the snapshots below it.
#[test]
fn a_chain_of_three_is_found_by_uuid() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    apply(&mut expected, SIZE, 512, &[(0, 2048, 1), (128, 128, 2), (256, 128, 0), (384, 128, 3)]);
    let all: Vec<_> = (0..16).map(|number| (number, 1)).collect();
    for folder in ["", "Snapshots/"] {
        let vm = dir.path().join(format!("vm{}", folder.len()));
        write(&vm, "disk.vdi", &base(&all));
        // Same name, other disk: names count for nothing.
        write(&vm, &format!("{folder}another.vdi"), &Plan { ids: [7, 77, 0, 0], ..base(&[]) });
        // A copy of the base that was written to since.
        write(&vm, "a copy.vdi", &Plan { ids: [1, 12, 0, 0], ..base(&[(0, 9)]) });
        let middle = Plan { kind: 4, ids: [2, 22, 1, 11], ..base(&[(1, 2), (2, 0)]) };
        write(&vm, &format!("{folder}{{middle}}.vdi"), &middle);
        write(&vm, &format!("{folder}top.vdi"), &Plan { kind: 4, ids: [3, 33, 2, 22], ..base(&[(3, 3)]) });
        let policy = OpenPolicy::within(&vm).unwrap();
        let image = formats::open(&vm.join(format!("{folder}top.vdi")), &policy).unwrap();
        conformance::check(&image.disk(), &expected);
        assert_eq!(image.layers.len(), 3);
        assert_eq!(image.layers[2].path.file_name().unwrap(), "disk.vdi");
        assert_eq!(image.layers[0].parent_content_id.as_ref(), Some(&image.layers[1].content_id));
        assert_eq!(image.disk().extent_at(GuestOffset(256 * 512)).unwrap().kind, ExtentKind::Zero);
    }
}

#[test]
fn a_parent_that_is_not_there_or_not_allowed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vm = dir.path().join("vm");
    let child = Plan { kind: 4, ids: [2, 22, 1, 11], ..base(&[]) };
    write(&vm, "child.vdi", &child);
    let path = vm.join("child.vdi");
    says(
        &attempt(&path),
        "parent with UUID 01010101-0101-0101-0101-010101010101 (looked for in the folders around it)",
    );
    // Above the folder that the user named: not looked at.
    write(dir.path(), "base.vdi", &base(&[]));
    std::os::unix::fs::symlink("../base.vdi", vm.join("link.vdi")).unwrap();
    says(&attempt(&path), "is missing");
    write(&vm, "base.vdi", &Plan { ids: [1, 12, 0, 0], ..base(&[]) });
    says(&attempt(&path), "base.vdi), found 0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b");
    write(&vm, "base.vdi", &base(&[]));
    says(&attempt(&path), "read");
    // Its own parent, and a parent whose parent is its child.
    write(&vm, "child.vdi", &Plan { ids: [2, 22, 2, 22], ..child });
    says(&attempt(&path), "child.vdi is in the chain above it already");
    write(&vm, "child.vdi", &child);
    write(&vm, "base.vdi", &Plan { kind: 4, ids: [1, 11, 2, 22], ..base(&[]) });
    says(&attempt(&path), "child.vdi is in the chain above it already");
}

#[test]
fn the_search_for_a_parent_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "child.vdi", &Plan { kind: 4, ids: [2, 22, 1, 11], ..base(&[]) });
    for number in 0..1100 {
        std::fs::write(dir.path().join(format!("{number:04}.vdi")), "x").unwrap();
    }
    write(dir.path(), "9999.vdi", &base(&[]));
    says(&attempt(&dir.path().join("child.vdi")), "is missing");
    for number in 0..200 {
        std::fs::rename(dir.path().join(format!("{number:04}.vdi")), dir.path().join(format!("{number}.txt"))).unwrap();
    }
    says(&attempt(&dir.path().join("child.vdi")), "read"); // names that end in .vdi come first
}

#[test]
fn damaged_and_absurd_headers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vdi");
    let u32s = |value: u32| value.to_le_bytes();
    let u64s = |value: u64| value.to_le_bytes();
    let table: [(usize, &[u8], &str); 18] = [
        (68, &u32s(0x2_0000), "VDI version 0x20000 is not supported"),
        (76, &u32s(3), "VDI image type 3 is not supported"),
        (340, &u32s(u32::MAX), "block map at offset 0xffffffff: expected 68 bytes there, found a truncated image"),
        (344, &u32s(u32::MAX), "block at offset 0xffffffff: expected 65536 bytes there, found a truncated image"),
        (360, &u32s(4096), "sector size at offset 0x168: expected 512, found 4096"),
        (368, &u64s(0), "disk size at offset 0x170: expected whole sectors, 512 to 2^63 bytes, found 0 bytes"),
        (368, &u64s(513), "found 513 bytes"),
        (368, &u64s(u64::MAX), "found 18446744073709551615 bytes"),
        (368, &u64s(1 << 60), "blocks at offset 0x180: expected 17592186044416"),
        (376, &u32s(0), "block size at offset 0x178: expected a power of two from 4096 to 268435456, found 0"),
        (376, &u32s(3 << 16), "found 196608"),
        (376, &u32s(1 << 31), "found 2147483648"),
        (380, &u32s(u32::MAX), "bytes before each block at offset 0x17c: expected at most the block size of 65536"),
        (380, &u32s(65_536), "block at offset 0x11000: expected 65536 bytes there, found a truncated image"),
        (384, &u32s(16), "blocks at offset 0x180: expected 17, for 1050112 bytes of disk"),
        (388, &u32s(0), "block table entry at offset 0x200: expected a block below the number of allocated blocks"),
        (388, &u32s(18), "allocated blocks at offset 0x184: expected at most 17, found 18"),
        (MAP, &u32s(1), "block table entry at offset 0x200: expected a block below the number of allocated blocks"),
    ];
    for (at, patch, expected) in table {
        let mut bytes = build(&base(&[(0, 1)]));
        put(&mut bytes, at, patch);
        std::fs::write(&path, bytes).unwrap();
        says(&attempt(&path), expected);
    }
    let sound = build(&base(&[(0, 1), (5, 2)]));
    for len in [sound.len() - 1, DATA + BLOCK + 1, DATA + 1, 600, 520] {
        std::fs::write(&path, &sound[..len]).unwrap();
        says(&attempt(&path), "truncated image");
    }
    // The last block of the disk may be short in the file, as the disk ends inside it.
    let mut short = build(&base(&[(16, 4)]));
    short.truncate(short.len() - BLOCK + 3 * 512);
    std::fs::write(&path, &short).unwrap();
    says(&attempt(&path), "read");
    short.pop();
    std::fs::write(&path, &short).unwrap();
    says(&attempt(&path), "truncated image");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever is written in whatever order, qemu-img and we read the same.
    #[test]
    fn random_writes_read_as_qemu_reads_them(
        writes in proptest::collection::vec((0..16_000u64, 1..5000u64, 1..=255u8), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        qemu::img(dir.path(), &["create", "-q", "-f", "vdi", "disk.vdi", "8704000"]);
        let commands: Vec<_> = writes
            .iter()
            .map(|(at, len, byte)| format!("write -P {byte} {} {}", at * 512, len.min(&(17_000 - at)) * 512))
            .collect();
        qemu::write(dir.path(), "disk.vdi", "vdi", &commands);
        let expected = qemu::content_as(dir.path(), "disk.vdi", "vdi");
        conformance::check(&open(&dir.path().join("disk.vdi")).disk(), &expected);
    }

    /// No damage makes us panic or hang.
    #[test]
    fn random_damage_is_survived(damage in proptest::collection::vec((64..600usize, any::<u8>()), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vdi");
        let mut bytes = build(&Plan { kind: 4, ids: [2, 22, 2, 22], ..base(&[(0, 1), (1, 2)]) });
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        prop_assert!(!attempt(&path).is_empty());
    }
}
