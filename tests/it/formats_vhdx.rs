//! VHDX read as qemu-img reads it; what it cannot make (differencing disks, sectors of 4096 bytes) is laid out here
//! byte by byte. Logs that were left behind are in `formats_vhdx_log`.

use std::path::Path;

use abbild::disk::{Disk, ExtentKind, conformance};
use abbild::units::GuestOffset;
use proptest::prelude::*;
use uuid::Uuid;

use crate::formats_vhd::{Run, apply, attempt, says, utf16};
use crate::formats_vmdk::open;
use crate::qemu;

pub const MIB: usize = 1 << 20;
pub const LOG: usize = MIB;
pub const METADATA: usize = 2 * MIB;
pub const TABLE: usize = 3 * MIB;
pub const PAYLOAD: usize = 4 * MIB;
pub const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
pub const REGIONS: [usize; 2] = [192 << 10, 256 << 10];

/// A VHDX to be laid out.
#[derive(Clone)]
pub struct Plan<'a> {
    pub size: u64,
    pub block: u64,
    pub sector: u64,
    /// Fills its "data write" GUID.
    pub id: u8,
    /// Keys and values of the parent locator.
    pub parent: Option<Vec<(&'a str, String)>>,
    pub runs: &'a [Run],
    /// Blocks in a state of their own.
    pub states: &'a [(u64, u64)],
}

pub const SIZE: u64 = (5 << 20) + (16 << 10);

pub fn plan(runs: &[Run]) -> Plan<'_> {
    Plan { size: SIZE, block: MIB as u64, sector: 512, id: 1, parent: None, runs, states: &[] }
}

pub fn parent(id: u8, name: &str) -> Option<Vec<(&'static str, String)>> {
    let linkage = format!("{{{}}}", Uuid::from_bytes_le([id; 16]));
    Some(vec![("parent_linkage", linkage), ("relative_path", name.to_string())])
}

pub fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    bytes[at..at + part.len()].copy_from_slice(part);
}

fn guid(text: &str) -> [u8; 16] {
    Uuid::parse_str(text).unwrap().to_bytes_le()
}

/// Makes the checksum of a structure right.
pub fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(bytes);
    put(bytes, 4, &sum.to_le_bytes());
}

pub fn seal_all(bytes: &mut [u8]) {
    for at in HEADERS {
        seal(&mut bytes[at..at + 4096]);
    }
    for at in REGIONS {
        seal(&mut bytes[at..at + (64 << 10)]);
    }
}

fn locator(pairs: &[(&str, String)]) -> Vec<u8> {
    let mut out = guid("b04aefb7-d19e-4a81-b789-25b8e9445913").to_vec();
    out.extend([0, 0]);
    out.extend((pairs.len() as u16).to_le_bytes());
    let mut text_at = 20 + pairs.len() * 12;
    let mut text = Vec::new();
    for (key, value) in pairs {
        let (key, value) = (utf16(key), utf16(value));
        out.extend((text_at as u32).to_le_bytes());
        out.extend(((text_at + key.len()) as u32).to_le_bytes());
        out.extend((key.len() as u16).to_le_bytes());
        out.extend((value.len() as u16).to_le_bytes());
        text_at += key.len() + value.len();
        text.extend([key, value].concat());
    }
    [out, text].concat()
}

fn metadata(plan: &Plan) -> Vec<u8> {
    let flags = if plan.parent.is_some() { 2u32 } else { 0 };
    let mut items = vec![
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", [(plan.block as u32).to_le_bytes(), flags.to_le_bytes()].concat()),
        ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", plan.size.to_le_bytes().to_vec()),
        ("beca12ab-b2e6-4523-93ef-c309e000c746", vec![5; 16]),
        ("8141bf1d-a96f-4709-ba47-f233a8faab5f", (plan.sector as u32).to_le_bytes().to_vec()),
        ("cda348c7-445d-4471-9cc9-e9885251c556", 4096u32.to_le_bytes().to_vec()),
    ];
    if let Some(parent) = &plan.parent {
        items.push(("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", locator(parent)));
    }
    let mut out = vec![0; 64 << 10];
    put(&mut out, 0, b"metadata");
    put(&mut out, 10, &(items.len() as u16).to_le_bytes());
    for (number, (name, value)) in items.into_iter().enumerate() {
        let (entry, at) = (32 + number * 32, out.len() as u32);
        put(&mut out, entry, &guid(name));
        put(&mut out, entry + 16, &at.to_le_bytes());
        put(&mut out, entry + 20, &(value.len() as u32).to_le_bytes());
        put(&mut out, entry + 24, &6u32.to_le_bytes());
        out.extend(value);
    }
    out
}

fn entry(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Room for a block at the end of the file, filled with `byte`; gives its place.
fn grow(bytes: &mut Vec<u8>, len: usize, byte: u8) -> usize {
    let at = bytes.len();
    bytes.resize(at + len.next_multiple_of(MIB), byte);
    at
}

pub fn build(plan: &Plan) -> Vec<u8> {
    let mut bytes = vec![0; PAYLOAD];
    put(&mut bytes, 0, b"vhdxfile");
    for (number, at) in HEADERS.into_iter().enumerate() {
        put(&mut bytes, at, b"head");
        bytes[at + 8] = number as u8 + 1;
        bytes[at + 16..at + 32].fill(0xf0);
        bytes[at + 32..at + 48].fill(plan.id);
        bytes[at + 66] = 1;
        put(&mut bytes, at + 68, &(MIB as u32).to_le_bytes());
        put(&mut bytes, at + 72, &(LOG as u64).to_le_bytes());
    }
    for at in REGIONS {
        put(&mut bytes, at, b"regi");
        bytes[at + 8] = 2;
        let regions =
            [("2dc27766-f623-4200-9d64-115e9bfd4a08", TABLE), ("8b7ca206-4790-4b9a-b8fe-575f050f886e", METADATA)];
        for (number, (name, place)) in regions.into_iter().enumerate() {
            let entry = at + 16 + number * 32;
            put(&mut bytes, entry, &guid(name));
            put(&mut bytes, entry + 16, &(place as u64).to_le_bytes());
            put(&mut bytes, entry + 24, &(MIB as u32).to_le_bytes());
            bytes[entry + 28] = 1;
        }
    }
    seal_all(&mut bytes);
    put(&mut bytes, METADATA, &metadata(plan));
    let ratio = (plan.sector << 23) / plan.block;
    for (first, count, byte) in plan.runs {
        for sector in *first..first + count {
            let at = sector * plan.sector;
            let (block, within) = (at / plan.block, (at % plan.block) as usize);
            let chunk = block / ratio;
            let slot = TABLE + (block + chunk) as usize * 8;
            if entry(&bytes, slot) == 0 {
                let len = plan.block.min(plan.size - block * plan.block) as usize;
                let filler = if plan.parent.is_some() { 0xdd } else { 0 };
                let place = grow(&mut bytes, len, filler) as u64;
                let state = if plan.parent.is_some() { 7 } else { 6 };
                put(&mut bytes, slot, &(place | state).to_le_bytes());
            }
            let place = (entry(&bytes, slot) & !0xf_ffff) as usize;
            bytes[place + within..place + within + plan.sector as usize].fill(*byte);
            if plan.parent.is_some() {
                let slot = TABLE + (chunk * (ratio + 1) + ratio) as usize * 8;
                if entry(&bytes, slot) == 0 {
                    let place = grow(&mut bytes, MIB, 0) as u64;
                    put(&mut bytes, slot, &(place | 6).to_le_bytes());
                }
                let bits = (entry(&bytes, slot) & !0xf_ffff) as usize;
                let bit = (sector - chunk * ratio * plan.block / plan.sector) as usize;
                bytes[bits + bit / 8] |= 1 << (bit % 8);
            }
        }
    }
    for (block, state) in plan.states {
        put(&mut bytes, TABLE + (block + block / ratio) as usize * 8, &state.to_le_bytes());
    }
    bytes
}

fn write(folder: &Path, name: &str, plan: &Plan) {
    std::fs::write(folder.join(name), build(plan)).unwrap();
}

#[test]
fn every_variant_reads_as_qemu_reads_it() {
    for (subformat, block) in [("dynamic", "1M"), ("dynamic", "8M"), ("dynamic", "256M"), ("fixed", "1M")] {
        let dir = tempfile::tempdir().unwrap();
        let size = (40u64 << 20) + 512;
        let option = format!("subformat={subformat},block_size={block}");
        qemu::img(dir.path(), &["create", "-q", "-f", "vhdx", "-o", &option, "disk.vhdx", &size.to_string()]);
        let commands = ["write -P 1 0 512", "write -P 2 5M 9M", "write -P 3 4M 64k", "write -P 4 41943040 512"];
        qemu::write(dir.path(), "disk.vhdx", "vhdx", &commands.map(str::to_string));
        let image = open(&dir.path().join("disk.vhdx"));
        conformance::check(&image.disk(), &qemu::content_as(dir.path(), "disk.vhdx", "vhdx"));
        let layer = &image.layers[0];
        let variant = format!("vhdx {subformat}");
        assert_eq!((layer.variant.as_str(), layer.warnings.as_slice()), (variant.as_str(), [].as_slice()));
        assert_eq!((layer.content_id.len(), &layer.parent_content_id, &layer.in_use), (36, &None, &None));
        if block == "1M" {
            // QEMU writes blocks that nobody touched as explicit zeros, even where it has made room for them.
            assert_eq!(image.disk().extent_at(GuestOffset(20 << 20)).unwrap().kind, ExtentKind::Zero);
        }
    }
}

#[test]
fn the_largest_disk_is_read_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let size: u64 = 64 << 40;
    qemu::img(dir.path(), &["create", "-q", "-f", "vhdx", "disk.vhdx", &size.to_string()]);
    qemu::write(dir.path(), "disk.vhdx", "vhdx", &[format!("write -P 7 {} 512", size - 512)]);
    let disk = open(&dir.path().join("disk.vhdx")).disk();
    let mut tail = vec![1; 1024];
    disk.read_at(GuestOffset(size - 1024), &mut tail).unwrap();
    assert_eq!((&tail[..512], &tail[512..]), (&[0; 512][..], &[7; 512][..]));
}

#[test]
fn states_of_blocks_mean_what_they_mean() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &plan(&[(0, 10_272, 1)]));
    let child = Plan { id: 2, parent: parent(1, "base.vhdx"), states: &[(1, 1), (2, 2), (3, 3)], ..plan(&[]) };
    write(dir.path(), "child.avhdx", &child);
    let mut expected = Vec::new();
    apply(&mut expected, SIZE, 512, &[(0, 10_272, 1), (2048, 3 * 2048, 0)]);
    let image = open(&dir.path().join("child.avhdx"));
    conformance::check(&image.disk(), &expected);
    let kind = |at| image.layers[0].disk.extent_at(GuestOffset(at)).unwrap().kind;
    assert_eq!([kind(0), kind(1 << 20), kind(2 << 20), kind(3 << 20)], {
        use ExtentKind::{Hole, Zero};
        [Hole, Zero, Zero, Zero]
    });
    for (state, said) in [(4, "a block state from 0 to 3, 6 or 7"), (5, "a block state"), (6, "behind the headers")] {
        write(dir.path(), "base.vhdx", &Plan { states: &[(1, state)], ..plan(&[]) });
        says(&attempt(&dir.path().join("base.vhdx")), "block table entry at offset 0x300008: expected");
        says(&attempt(&dir.path().join("base.vhdx")), said);
    }
    write(dir.path(), "base.vhdx", &Plan { states: &[(1, 0x40_0007)], ..plan(&[]) });
    says(&attempt(&dir.path().join("base.vhdx")), "no partially present block in a disk without parent");
    write(dir.path(), "base.vhdx", &Plan { states: &[(1, 0x7fff_0000_0000_0006)], ..plan(&[]) });
    says(&attempt(&dir.path().join("base.vhdx")), "block at offset 0x7fff000000000000: expected 1048576 bytes there");
}

#[test]
fn a_chain_of_three_is_read_sector_by_sector() {
    let third = SIZE / 512 - 1;
    for sector in [512u64, 4096] {
        let per = sector / 512;
        let last = third / per;
        let base = [(0, 9000 / per, 1)];
        let middle = [(10, 100, 2), (5000 / per, 1, 2), (last, 1, 2)];
        let top = [(50, 10, 3), (4096 / per - 1, 2, 3)];
        let mut expected = Vec::new();
        for runs in [&base[..], &middle, &top] {
            apply(&mut expected, SIZE, sector, runs);
        }
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "base disk.vhdx", &Plan { sector, ..plan(&base) });
        let names = vec![
            ("parent_linkage2", format!("{{{}}}", Uuid::from_bytes_le([1; 16]))),
            ("parent_linkage", format!("{{{}}}", Uuid::from_bytes_le([8; 16]))),
            ("relative_path", r".\gone.vhdx".to_string()),
            ("volume_path", r"\\?\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\vm\gone.vhdx".to_string()),
            ("absolute_win32_path", r"C:\vm\base disk.vhdx".to_string()),
        ];
        write(dir.path(), "middle.avhdx", &Plan { sector, id: 2, parent: Some(names), ..plan(&middle) });
        write(dir.path(), "top.avhdx", &Plan { sector, id: 3, parent: parent(2, r".\middle.avhdx"), ..plan(&top) });
        let image = open(&dir.path().join("top.avhdx"));
        conformance::check(&image.disk(), &expected);
        let variants: Vec<_> = image.layers.iter().map(|layer| layer.variant.as_str()).collect();
        assert_eq!(variants, ["vhdx differencing", "vhdx differencing", "vhdx dynamic"]);
        assert_eq!(image.layers[0].parent_content_id.as_ref(), Some(&image.layers[1].content_id));
        let shown = ("vhdx.logical_sector_size".to_string(), sector.to_string());
        assert!(image.layers[2].properties.contains(&shown));
    }
}

/// With blocks of 64 MiB an entry for bitmaps follows each 64 blocks; a disk of more has them in between.
#[test]
fn entries_for_bitmaps_lie_between_those_of_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (block, size) = (64u64 << 20, (65 * 64 + 1) << 20);
    let sectors = block / 512;
    let runs = [(65 * sectors, 8, 5), (65 * sectors + 10, 1, 6)];
    let small = Plan { size, block, ..plan(&runs) };
    write(dir.path(), "base.vhdx", &small);
    let child_runs = [(65 * sectors + 4, 2, 7)];
    let child = Plan { size, block, id: 2, parent: parent(1, "base.vhdx"), ..plan(&child_runs) };
    write(dir.path(), "child.vhdx", &child);
    let disk = open(&dir.path().join("child.vhdx")).disk();
    let mut tail = vec![9; 2 << 20];
    disk.read_at(GuestOffset(size - tail.len() as u64), &mut tail).unwrap();
    let mut expected = vec![0; 1 << 20];
    apply(&mut expected, 2 << 20, 512, &[(2048, 8, 5), (2058, 1, 6), (2052, 2, 7)]);
    assert!(tail == expected);
    // QEMU wants the last block whole, though the disk ends inside it.
    let base = std::fs::File::options().write(true).open(dir.path().join("base.vhdx")).unwrap();
    base.set_len(PAYLOAD as u64 + block).unwrap();
    let skip = format!("skip={}", size / (1 << 20) - 1);
    qemu::img(dir.path(), &["dd", "-f", "vhdx", "-O", "raw", "bs=1048576", &skip, "if=base.vhdx", "of=tail.raw"]);
    apply(&mut expected, 2 << 20, 512, &[(2052, 2, 5)]);
    assert!(std::fs::read(dir.path().join("tail.raw")).unwrap() == expected[1 << 20..], "qemu-img disagrees");
}

#[test]
fn one_sound_copy_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    let sound = build(&plan(&[(5, 5, 5)]));
    let mut expected = Vec::new();
    apply(&mut expected, SIZE, 512, &[(5, 5, 5)]);
    let damaged = |places: &[usize]| {
        let mut bytes = sound.clone();
        for at in places {
            bytes[at + 100] ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
    };
    for (places, warning) in [
        (&HEADERS[..1], "one of its two headers is damaged"),
        (&HEADERS[1..], "one of its two headers is damaged"),
        (&REGIONS[..1], "one of its two region tables is damaged"),
        (&REGIONS[1..], "one of its two region tables is damaged"),
    ] {
        damaged(places);
        let image = open(&path);
        conformance::check(&image.disk(), &expected);
        assert_eq!(image.layers[0].warnings.len(), 1);
        says(&image.layers[0].warnings[0], warning);
    }
    damaged(&HEADERS);
    says(&attempt(&path), "VHDX header checksum at offset 0x10000: expected 0x");
    damaged(&REGIONS);
    says(&attempt(&path), "region table checksum at offset 0x30000: expected 0x");
    // The newer of two sound headers counts: only it names the right log, here none.
    for newer in 0..2 {
        let mut bytes = sound.clone();
        bytes[HEADERS[newer] + 8] = 9;
        bytes[HEADERS[1 - newer] + 48] = 1;
        seal_all(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        conformance::check(&open(&path).disk(), &expected);
    }
}

#[test]
fn damaged_and_absurd_structures_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    let u32s = |value: u32| value.to_le_bytes();
    let u64s = |value: u64| value.to_le_bytes();
    let (region, item, value) = (REGIONS[0] + 16, METADATA + 32, METADATA + (64 << 10));
    let table: [(usize, &[u8], &str); 27] = [
        (HEADERS[1] + 66, &[2], "VHDX version 2 is not supported"),
        (REGIONS[0] + 8, &u32s(2048), "region table at offset 0x30000: expected at most 2047 entries, found 2048"),
        (REGIONS[0] + 8, &u32s(u32::MAX), "expected at most 2047 entries, found 4294967295"),
        (REGIONS[0] + 8, &u32s(1), "expected a region for the metadata, found none"),
        (region, &[0], "the region 2dc27700-f623-4200-9d64-115e9bfd4a08, which it requires is not supported"),
        (region + 16, &u64s(0), "region at offset 0x0: expected whole MiB behind the first"),
        (region + 16, &u64s(3 << 19), "region at offset 0x180000: expected whole MiB"),
        (region + 16, &u64s(u64::MAX << 20), "region at offset 0xfffffffffff00000: expected"),
        (region + 16, &u64s(1 << 40), "region at offset 0x10000000000: expected 1048576 bytes there"),
        (region + 16, &u64s(2 << 20), "region at offset 0x200000: expected regions apart from each other"),
        (region + 24, &u32s(0), "region at offset 0x300000: expected whole MiB behind the first, found 0 bytes"),
        (region + 24, &u32s(u32::MAX << 20), "region at offset 0x300000: expected 4293918720 bytes there"),
        (METADATA, b"metadate", "metadata table at offset 0x200000: expected the magic metadata"),
        (METADATA + 10, &2048u16.to_le_bytes(), "metadata table at offset 0x200000: expected at most 2047 entries"),
        (METADATA + 10, &[1], "expected an entry for logical sector size, found none"),
        (item, &[0], "the metadata item caa16700-fa36-4d43-b3b6-33f0aa44e76b, which it requires is not supported"),
        (item + 16, &u32s(0), "file parameters at offset 0x200000: expected a place inside the region"),
        (item + 16, &u32s(u32::MAX), "found 8 bytes at 0xffffffff"),
        (item + 20, &u32s(7), "file parameters at offset 0x210000: expected 8 bytes, found 7 bytes"),
        (value, &u32s(0), "block size at offset 0x210000: expected a power of two from 1 MiB to 256 MiB, found 0"),
        (value, &u32s(512 << 20), "found 536870912"),
        (value, &u32s(3 << 20), "found 3145728"),
        (value + 8, &u64s(0), "disk size at offset 0x210008: expected whole sectors of 512 bytes"),
        (value + 8, &u64s(513), "found 513"),
        (value + 8, &u64s((64 << 40) + 512), "found 70368744178176"),
        (value + 8, &u64s(1 << 40), "block table at offset 0x300000: expected at least 8390"),
        (value + 32, &u32s(1024), "logical sector size at offset 0x210020: expected 512 or 4096, found 1024"),
    ];
    for (at, patch, expected) in table {
        let mut bytes = build(&plan(&[(0, 1, 1)]));
        put(&mut bytes, at, patch);
        let first = bytes[REGIONS[0]..REGIONS[0] + (64 << 10)].to_vec();
        put(&mut bytes, REGIONS[1], &first);
        seal_all(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        says(&attempt(&path), expected);
    }
    let sound = build(&plan(&[(0, 1, 1)]));
    for len in [sound.len() - 1, PAYLOAD + 1, PAYLOAD - 1, METADATA + 1, 300_000, 70_000, 9] {
        std::fs::write(&path, &sound[..len]).unwrap();
        says(&attempt(&path), "truncated image");
    }
    // A partially present block without its bitmap.
    write(dir.path(), "base.vhdx", &plan(&[]));
    let mut child = build(&Plan { id: 2, parent: parent(1, "base.vhdx"), ..plan(&[(0, 1, 1)]) });
    let bitmap_entry = TABLE + 4096 * 8;
    put(&mut child, bitmap_entry, &u64s(0));
    std::fs::write(&path, &child).unwrap();
    says(&attempt(&path), "sector bitmap entry at offset 0x308000: expected a sector bitmap that is present");
    put(&mut child, bitmap_entry, &u64s(0xffff_ffff_fff0_0006));
    std::fs::write(&path, &child).unwrap();
    says(&attempt(&path), "sector bitmap at offset 0xfffffffffff00000: expected 256 bytes there");
}

#[test]
fn a_parent_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vm = dir.path().join("vm");
    std::fs::create_dir(&vm).unwrap();
    write(dir.path(), "secret.vhdx", &plan(&[]));
    write(&vm, "other.vhdx", &Plan { id: 9, ..plan(&[]) });
    std::fs::write(vm.join("text.vhdx"), "no image at all").unwrap();
    let path = vm.join("child.avhdx");
    let table = [
        (r".\gone.vhdx", "gone.vhdx is missing"),
        ("/etc/passwd", "names /etc/passwd as its parent: /etc/passwd is outside the allowed folders"),
        (r"..\secret.vhdx", "secret.vhdx is outside the allowed folders"),
        (r"\\server\share\gone.vhdx", r"\\server\share\gone.vhdx is missing"),
        (r"C:\vm\gone.vhdx", r"C:\vm\gone.vhdx is missing"),
        ("json:{}", "only files are opened, no URLs"),
        ("child.avhdx", "child.avhdx is in the chain above it already"),
        ("other.vhdx", "parent identity: expected 09090909-0909-0909-0909-090909090909 (of "),
        ("text.vhdx", "text.vhdx: VHDX file identifier at offset 0x0: expected the magic vhdxfile"),
        ("", "parent (no name in the parent locator) is missing"),
    ];
    for (name, expected) in table {
        write(&vm, "child.avhdx", &Plan { id: 2, parent: parent(7, name), ..plan(&[]) });
        says(&attempt(&path), expected);
    }
    for (pairs, expected) in [
        (vec![], "parent locator at offset 0x210028: expected a parent_linkage, found none"),
        (vec![("parent_linkage", "{x}".to_string())], "parent linkage at offset 0x210028: expected a GUID, found {x}"),
    ] {
        write(&vm, "child.avhdx", &Plan { id: 2, parent: Some(pairs), ..plan(&[]) });
        says(&attempt(&path), expected);
    }
    let item = METADATA + (64 << 10) + 40;
    for (at, patch, expected) in [
        (item + 20, &[0xff; 4], "parent locator at offset 0x210028: expected entries inside the item"),
        (item + 16, &[0, 0, 0xff, 0xff], "parent locator at offset 0x210028: expected entries inside the item"),
        (item, &[0; 4], "a parent locator of kind 00000000-d19e-4a81-b789-25b8e9445913 is not supported"),
    ] {
        let mut bytes = build(&Plan { id: 2, parent: parent(7, "other.vhdx"), ..plan(&[]) });
        put(&mut bytes, at, patch);
        std::fs::write(&path, &bytes).unwrap();
        says(&attempt(&path), expected);
    }
}

#[test]
fn chains_end() {
    let dir = tempfile::tempdir().unwrap();
    for (id, up) in [(1, 2), (2, 3), (3, 2)] {
        let child = Plan { id, parent: parent(up, &format!("{up}.vhdx")), ..plan(&[]) };
        write(dir.path(), &format!("{id}.vhdx"), &child);
    }
    says(&attempt(&dir.path().join("1.vhdx")), "2.vhdx is in the chain above it already");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever is written in whatever order, qemu-img and we read the same.
    #[test]
    fn random_writes_read_as_qemu_reads_them(
        writes in proptest::collection::vec((0..32_000u64, 1..2000u64, 1..=255u8), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        qemu::img(dir.path(), &["create", "-q", "-f", "vhdx", "-o", "block_size=1M", "disk.vhdx", "17408000"]);
        let commands: Vec<_> = writes
            .iter()
            .map(|(at, len, byte)| format!("write -P {byte} {} {}", at * 512, len.min(&(34_000 - at)) * 512))
            .collect();
        qemu::write(dir.path(), "disk.vhdx", "vhdx", &commands);
        let expected = qemu::content_as(dir.path(), "disk.vhdx", "vhdx");
        conformance::check(&open(&dir.path().join("disk.vhdx")).disk(), &expected);
    }
}
