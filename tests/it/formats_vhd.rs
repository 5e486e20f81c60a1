//! VHDs read as qemu-img reads them; what it cannot make (differencing disks, bitmaps with gaps, footers of other
//! writers) is laid out here byte by byte. Damaged and hostile ones are refused in words.

use std::path::Path;

use abbild::disk::{Disk, ExtentKind, conformance};
use abbild::formats::Image;
use abbild::units::GuestOffset;
use proptest::prelude::*;

use crate::formats_vmdk::{open, try_open};
use crate::qemu;

/// A run of sectors, all of one byte.
pub type Run = (u64, u64, u8);

/// Bytes of `size` with `runs` of sectors of `sector` bytes in them, over what was there.
pub fn apply(content: &mut Vec<u8>, size: u64, sector: u64, runs: &[Run]) {
    content.resize(size as usize, 0);
    for (first, count, byte) in runs {
        content[(first * sector) as usize..((first + count) * sector) as usize].fill(*byte);
    }
}

/// Opens an image and reads all of it; what went wrong, or `read`.
pub fn attempt(path: &Path) -> String {
    match try_open(path) {
        Ok(image) => read_all(&image),
        Err(err) => err.to_string(),
    }
}

fn read_all(image: &Image) -> String {
    let disk = image.disk();
    let mut buf = vec![0; 1 << 20];
    for at in (0..disk.size().0).step_by(1 << 20) {
        let len = usize::try_from(disk.size().0 - at).unwrap().min(1 << 20);
        if let Err(err) = disk.read_at(GuestOffset(at), &mut buf[..len]) {
            return err.to_string();
        }
    }
    "read".to_string()
}

#[track_caller]
pub fn says(found: &str, expected: &str) {
    assert!(found.contains(expected), "expected to be told: {expected}\nfound: {found}");
}

pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Code and content of a parent locator.
pub type Locator<'a> = (&'a [u8; 4], Vec<u8>);

/// A dynamic or differencing VHD to be laid out.
#[derive(Clone)]
pub struct Plan<'a> {
    pub size: u64,
    pub block: u32,
    pub creator: &'a [u8; 4],
    pub geometry: (u16, u8, u8),
    pub uuid: u8,
    /// UUID, locators, the name in the header.
    pub parent: Option<(u8, Vec<Locator<'a>>, &'a str)>,
    pub runs: &'a [Run],
}

const SIZE: u64 = (9 << 20) + 3 * 512;

pub fn plan(runs: &[Run]) -> Plan<'_> {
    Plan { size: SIZE, block: 2 << 20, creator: b"win ", geometry: (271, 4, 17), uuid: 1, parent: None, runs }
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    bytes[at..at + part.len()].copy_from_slice(part);
}

/// Makes the checksum at `own` of a structure right.
fn seal(bytes: &mut [u8], own: usize) {
    bytes[own..own + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    put(bytes, own, &(!sum).to_be_bytes());
}

fn footer(plan: &Plan, disk_type: u32) -> Vec<u8> {
    let mut out = vec![0; 512];
    put(&mut out, 0, b"conectix");
    put(&mut out, 8, &2u32.to_be_bytes());
    put(&mut out, 12, &0x1_0000u32.to_be_bytes());
    put(&mut out, 16, &(if disk_type == 2 { u64::MAX } else { 512 }).to_be_bytes());
    put(&mut out, 28, plan.creator);
    put(&mut out, 40, &plan.size.to_be_bytes());
    put(&mut out, 48, &plan.size.to_be_bytes());
    put(&mut out, 56, &plan.geometry.0.to_be_bytes());
    put(&mut out, 58, &[plan.geometry.1, plan.geometry.2]);
    put(&mut out, 60, &disk_type.to_be_bytes());
    out[68..84].fill(plan.uuid);
    seal(&mut out, 64);
    out
}

/// Where the table of the images here lies.
const TABLE: usize = 16 << 10;

/// footer | header | … locators from 4 KiB | table at 16 KiB | blocks | footer
pub fn build(plan: &Plan) -> Vec<u8> {
    let kind = if plan.parent.is_some() { 4 } else { 3 };
    let block = u64::from(plan.block);
    let blocks = plan.size.div_ceil(block) as usize;
    let bitmap = (block / 512).div_ceil(8).next_multiple_of(512) as usize;
    let mut bytes = footer(plan, kind);
    bytes.resize((TABLE + blocks * 4).next_multiple_of(512), 0);
    bytes[TABLE..].fill(0xff);
    let mut header = vec![0; 1024];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &[0xff; 8]);
    put(&mut header, 16, &(TABLE as u64).to_be_bytes());
    put(&mut header, 24, &0x1_0000u32.to_be_bytes());
    put(&mut header, 28, &(blocks as u32).to_be_bytes());
    put(&mut header, 32, &plan.block.to_be_bytes());
    if let Some((uuid, locators, name)) = &plan.parent {
        header[40..56].fill(*uuid);
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        put(&mut header, 64, &name);
        for (number, (code, name)) in locators.iter().enumerate() {
            let (entry, at) = (576 + number * 24, 4096 + number * 512);
            put(&mut header, entry, *code);
            put(&mut header, entry + 4, &512u32.to_be_bytes());
            put(&mut header, entry + 8, &(name.len() as u32).to_be_bytes());
            put(&mut header, entry + 16, &(at as u64).to_be_bytes());
            put(&mut bytes, at, name);
        }
    }
    seal(&mut header, 36);
    put(&mut bytes, 512, &header);
    for (first, count, byte) in plan.runs {
        for sector in *first..first + count {
            let (number, within) = ((sector * 512 / block) as usize, (sector * 512 % block) as usize / 512);
            let entry = TABLE + number * 4;
            if bytes[entry..entry + 4] == [0xff; 4] {
                let place = (bytes.len() / 512) as u32;
                put(&mut bytes, entry, &place.to_be_bytes());
                // What the bitmap does not claim is noise, so that a reader that ignores it is found out.
                bytes.resize(bytes.len() + bitmap, 0);
                bytes.resize(bytes.len() + block as usize, 0xdd);
            }
            let place = u32::from_be_bytes(bytes[entry..entry + 4].try_into().unwrap()) as usize * 512;
            bytes[place + within / 8] |= 0x80 >> (within % 8);
            bytes[place + bitmap + within * 512..][..512].fill(*byte);
        }
    }
    bytes.extend(footer(plan, kind));
    bytes
}

fn writes(size: u64) -> Vec<String> {
    vec![
        "write -P 1 0 512".to_string(),
        "write -P 2 60k 10k".to_string(),
        "write -P 3 1M 3M".to_string(),
        "write -P 4 5M 64k".to_string(),
        format!("write -P 5 {} 512", size - 512),
    ]
}

#[test]
fn every_variant_reads_as_qemu_reads_it() {
    for (subformat, variant) in [("dynamic", "vhd dynamic"), ("fixed", "vhd fixed")] {
        for force_size in ["on", "off"] {
            let dir = tempfile::tempdir().unwrap();
            let option = format!("subformat={subformat},force_size={force_size}");
            qemu::img(dir.path(), &["create", "-q", "-f", "vpc", "-o", &option, "disk.vhd", "20971520"]);
            qemu::write(dir.path(), "disk.vhd", "vpc", &writes(20 << 20));
            let image = open(&dir.path().join("disk.vhd"));
            let expected = qemu::content_as(dir.path(), "disk.vhd", "vpc");
            assert_eq!(expected.len() == 20 << 20, force_size == "on", "a geometry that says something else");
            conformance::check(&image.disk(), &expected);
            let layer = &image.layers[0];
            assert_eq!((layer.variant.as_str(), layer.warnings.as_slice()), (variant, [].as_slice()));
            assert_eq!((layer.content_id.len(), &layer.parent_content_id), (36, &None));
            assert_eq!(image.disk().extent_at(GuestOffset(10 << 20)).unwrap().kind, ExtentKind::Hole);
        }
    }
}

#[test]
fn the_largest_disk_is_read_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let size: u64 = 2040 << 30;
    qemu::img(dir.path(), &["create", "-q", "-f", "vpc", "-o", "force_size=on", "disk.vhd", &size.to_string()]);
    qemu::write(dir.path(), "disk.vhd", "vpc", &[format!("write -P 7 {} 1M", size - (1 << 20))]);
    let disk = open(&dir.path().join("disk.vhd")).disk();
    let mut tail = vec![0; 2 << 20];
    disk.read_at(GuestOffset(size - (2 << 20)), &mut tail).unwrap();
    assert!(tail[..1 << 20].iter().all(|b| *b == 0) && tail[1 << 20..].iter().all(|b| *b == 7));
}

#[test]
fn a_bitmap_decides_sector_by_sector() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    let end = SIZE / 512;
    for block in [4096, 512 << 10, 2 << 20, 4 << 20] {
        let runs = [(0, 1, 1), (7, 2, 2), (4095, 2, 3), (9000, 1000, 4), (end - 1, 1, 5)];
        std::fs::write(&path, build(&Plan { block, ..plan(&runs) })).unwrap();
        let mut expected = Vec::new();
        apply(&mut expected, SIZE, 512, &runs);
        conformance::check(&open(&path).disk(), &expected);
    }
}

#[test]
fn a_chain_of_three_is_read_through_names_of_every_kind() {
    let (base, middle, top) = ([(0, 9000, 1)], [(10, 100, 2), (5000, 1, 2)], [(50, 10, 3), (4095, 2, 3)]);
    let mut expected = Vec::new();
    for runs in [&base[..], &middle, &top] {
        apply(&mut expected, SIZE, 512, runs);
    }
    let parent = |locators: Vec<Locator<'static>>, name| Some((1, locators, name));
    let ways = [
        parent(vec![(b"W2ru", utf16(r".\base disk.vhd"))], ""),
        parent(vec![(b"W2ku", utf16(r"D:\vm\base disk.vhd")), (b"W2ru", utf16(r".\gone.vhd"))], ""),
        parent(vec![(b"MacX", b"file://./base%20disk.vhd".to_vec())], ""),
        parent(vec![(b"MacX", b"file://localhost/vm/base%20disk.vhd\0".to_vec())], ""),
        parent(vec![(b"Wi2k", b"?".to_vec())], "base disk.vhd"),
        parent(vec![], r"C:\vm\base disk.vhd"),
    ];
    for (number, parent) in ways.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, plan: &Plan| std::fs::write(dir.path().join(name), build(plan)).unwrap();
        write("base disk.vhd", &plan(&base));
        write("middle.avhd", &Plan { uuid: 2, parent, ..plan(&middle) });
        let to_middle = Some((2, vec![(b"W2ru", utf16("middle.avhd"))], "x"));
        write("top.avhd", &Plan { uuid: 3, parent: to_middle, ..plan(&top) });
        let image = open(&dir.path().join("top.avhd"));
        conformance::check(&image.disk(), &expected);
        let variants: Vec<_> = image.layers.iter().map(|layer| layer.variant.as_str()).collect();
        assert_eq!(variants, ["vhd differencing", "vhd differencing", "vhd dynamic"], "way {number}");
        assert_eq!(image.layers[0].parent_content_id.as_ref(), Some(&image.layers[1].content_id));
        assert_eq!(image.layers[1].content_id, "02020202-0202-0202-0202-020202020202");
    }
}

#[test]
fn a_child_may_be_larger_than_its_parent_and_the_parent_may_be_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let small = Plan { size: 1 << 20, ..plan(&[]) };
    let mut fixed = vec![6; 1 << 20];
    fixed.extend(footer(&small, 2));
    std::fs::write(dir.path().join("base.vhd"), fixed).unwrap();
    let parent = Some((1, vec![(b"W2ru", utf16("base.vhd"))], ""));
    std::fs::write(dir.path().join("child.vhd"), build(&Plan { uuid: 2, parent, ..plan(&[(3, 1, 9)]) })).unwrap();
    let mut expected = Vec::new();
    apply(&mut expected, SIZE, 512, &[(0, 2048, 6), (3, 1, 9)]);
    conformance::check(&open(&dir.path().join("child.vhd")).disk(), &expected);
}

#[test]
fn who_wrote_it_decides_what_the_size_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    let by_geometry = 271 * 4 * 17 * 512;
    let check = |creator: &[u8; 4], geometry, expected: u64| {
        let plan = Plan { creator, geometry, ..plan(&[]) };
        std::fs::write(&path, build(&plan)).unwrap();
        let image = open(&path);
        assert_eq!(image.size().0, expected, "{creator:?}");
        let shown = |name: &str| image.layers[0].properties.iter().find(|(key, _)| key == name).unwrap().1.clone();
        assert_eq!((shown("vhd.current_size"), shown("vhd.geometry_size").is_empty()), (SIZE.to_string(), false));
        if creator != b"vbox" {
            assert_eq!(qemu::content_as(dir.path(), "disk.vhd", "vpc").len() as u64, expected, "{creator:?}");
        }
    };
    assert_ne!(by_geometry, SIZE);
    check(b"vpc ", (271, 4, 17), by_geometry);
    check(b"qemu", (271, 4, 17), by_geometry);
    for creator in [b"win ", b"d2v ", b"tap\0", b"CTXS", b"qem2", b"vbox"] {
        check(creator, (271, 4, 17), SIZE);
    }
    check(b"vpc ", (65_535, 16, 255), SIZE);
    check(b"d2v ", (65_535, 16, 255), SIZE);
}

#[test]
fn one_sound_footer_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    let sound = build(&plan(&[(5, 5, 5)]));
    let (len, mut expected) = (sound.len(), Vec::new());
    apply(&mut expected, SIZE, 512, &[(5, 5, 5)]);
    let check = |bytes: &[u8], warning: &str| {
        std::fs::write(&path, bytes).unwrap();
        let image = open(&path);
        conformance::check(&image.disk(), &expected);
        assert_eq!(image.layers[0].warnings.len(), usize::from(!warning.is_empty()));
        says(&format!("{:?}", image.layers[0].warnings), warning);
    };
    check(&sound, "");
    check(&sound[..len - 1], ""); // a footer of 511 bytes
    let mut bytes = sound.clone();
    bytes[len - 440] ^= 1;
    check(&bytes, "checksum at offset 0x204400: expected");
    check(&sound[..len - 512], "the copy of the footer at the beginning is used instead");
    let mut bytes = sound.clone();
    bytes[100] ^= 1;
    check(&bytes, "the copy of its footer is damaged");
    bytes[len - 440] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    says(&attempt(&path), "VHD footer checksum at offset 0x204400: expected 0x");
}

/// A sound image, changed and with its checksums made right again.
fn patched(at_end_too: bool, at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = build(&plan(&[(0, 1, 1)]));
    let end = bytes.len() - 512;
    put(&mut bytes, at, patch);
    seal(&mut bytes[..512], 64);
    seal(&mut bytes[512..1536], 36);
    if at_end_too {
        put(&mut bytes[end..], at, patch);
        seal(&mut bytes[end..], 64);
    }
    bytes
}

#[test]
fn damaged_and_absurd_headers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    let u32s = |value: u32| value.to_be_bytes();
    let u64s = |value: u64| value.to_be_bytes();
    let table: [(usize, &[u8], &str); 17] = [
        (12, &u32s(0x2_0000), "VHD version 0x20000 is not supported"),
        (16, &u64s(u64::MAX), "dynamic header at offset 0xffffffffffffffff: expected 1024 bytes there"),
        (16, &u64s(4096), "dynamic header at offset 0x1000: expected the magic cxsparse, found [00, 00"),
        (48, &u64s(0), "current size at offset 0x204430: expected whole sectors, 512 to 2^63 bytes, found 0 bytes"),
        (48, &u64s(513), "found 513 bytes"),
        (48, &u64s(1 << 63), "found 9223372036854775808 bytes"),
        (48, &u64s(1 << 60), "block size at offset 0x220: expected a disk that a table of at most 545259520 bytes can"),
        (
            48,
            &u64s(1 << 40),
            "table entries at offset 0x21c: expected at least 524288, for 1099511627776 bytes of disk",
        ),
        (60, &u32s(5), "VHD disk type 5 is not supported"),
        (512 + 16, &u64s(u64::MAX - 3), "block table at offset 0xfffffffffffffffc: expected 20 bytes there"),
        (512 + 16, &u64s(1 << 40), "block table at offset 0x10000000000: expected 20 bytes there, found a truncated"),
        (512 + 24, &u32s(0), "dynamic VHD version 0x0 is not supported"),
        (512 + 28, &u32s(4), "table entries at offset 0x21c: expected at least 5"),
        (512 + 32, &u32s(0), "block size at offset 0x220: expected a power of two from 4096 to 268435456, found 0"),
        (512 + 32, &u32s(3 << 20), "found 3145728"),
        (512 + 32, &u32s(1 << 31), "found 2147483648"),
        (TABLE, &u32s(u32::MAX - 1), "block at offset 0x1fffffffe00: expected 2097152 bytes there, found a truncated"),
    ];
    for (at, patch, expected) in table {
        std::fs::write(&path, patched(at < 512, at, patch)).unwrap();
        says(&attempt(&path), expected);
    }
    let mut bytes = build(&plan(&[]));
    bytes[700] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    says(&attempt(&path), "dynamic header checksum at offset 0x200: expected 0x");
    let fixed = [vec![1; 4096], footer(&Plan { size: 8192, ..plan(&[]) }, 2)].concat();
    std::fs::write(&path, fixed).unwrap();
    says(&attempt(&path), "data of a fixed VHD at offset 0x0: expected 8192 bytes there, found a truncated image");
}

#[test]
fn a_parent_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vm = dir.path().join("vm");
    std::fs::create_dir(&vm).unwrap();
    std::fs::write(dir.path().join("secret.vhd"), build(&plan(&[]))).unwrap();
    std::fs::write(vm.join("other.vhd"), build(&Plan { uuid: 9, ..plan(&[]) })).unwrap();
    std::fs::write(vm.join("text.vhd"), vec![b'x'; 4096]).unwrap();
    let path = vm.join("child.avhd");
    let table: [(&[u8; 4], &str, &str); 12] = [
        (b"W2ru", r".\gone.vhd", "gone.vhd is missing"),
        (b"W2ru", "/etc/passwd", "names /etc/passwd as its parent: /etc/passwd is outside the allowed folders"),
        (b"W2ru", r"..\secret.vhd", "secret.vhd is outside the allowed folders"),
        (b"W2ku", r"\\server\share\gone.vhd", r"\\server\share\gone.vhd is missing"),
        (b"W2ku", r"C:\vm\gone.vhd", r"C:\vm\gone.vhd is missing"),
        (b"W2ku", "nbd://host/disk", "only files are opened, no URLs"),
        (b"W2ru", "child.avhd", "child.avhd is in the chain above it already"),
        (b"W2ru", "other.vhd", "expected 09090909-0909-0909-0909-090909090909 (of "),
        (b"W2ru", "text.vhd", "text.vhd: VHD footer at offset 0xe00: expected the magic conectix"),
        (b"MacX", "file:///etc/passwd", "outside the allowed folders"),
        (b"MacX", "http://host/x.vhd", "only files are opened, no URLs"),
        (b"MacX", "file://%2e%2e/secret.vhd", "outside the allowed folders"),
    ];
    for (code, name, expected) in table {
        let name = if code == b"MacX" { name.as_bytes().to_vec() } else { utf16(name) };
        let parent = Some((7, vec![(code, name)], ""));
        std::fs::write(&path, build(&Plan { uuid: 2, parent, ..plan(&[]) })).unwrap();
        says(&attempt(&path), expected);
    }
    let nameless = Some((7, vec![], ""));
    std::fs::write(&path, build(&Plan { uuid: 2, parent: nameless, ..plan(&[]) })).unwrap();
    says(&attempt(&path), "parent (no name, UUID 07070707-0707-0707-0707-070707070707) is missing");

    let locator = |at: usize, patch: &[u8]| {
        let parent = Some((7, vec![(b"W2ru", utf16("other.vhd"))], ""));
        let mut bytes = build(&Plan { uuid: 2, parent, ..plan(&[]) });
        put(&mut bytes, at, patch);
        seal(&mut bytes[512..1536], 36);
        std::fs::write(&path, bytes).unwrap();
        attempt(&path)
    };
    let entry = 512 + 576;
    says(&locator(entry + 8, &[0xff; 4]), "parent locator at offset 0x1000: expected at most 65536 bytes");
    says(&locator(entry + 16, &[0xff; 8]), "parent locator at offset 0xffffffffffffffff: expected 18 bytes there");
    says(&locator(4096, &0xd800u16.to_le_bytes()), "parent locator at offset 0x1000: expected a name in UTF-16");
}

#[test]
fn chains_end() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, uuid, parent: &str, parent_uuid| {
        let parent = Some((parent_uuid, vec![(b"W2ru", utf16(parent))], ""));
        std::fs::write(dir.path().join(name), build(&Plan { uuid, parent, ..plan(&[]) })).unwrap();
    };
    write("a.vhd", 1, "b.vhd", 2);
    write("b.vhd", 2, "c.vhd", 3);
    write("c.vhd", 3, "b.vhd", 2);
    says(&attempt(&dir.path().join("a.vhd")), "b.vhd is in the chain above it already");
    for level in 0..70u8 {
        write(&format!("{level}.vhd"), level, &format!("{}.vhd", level + 1), level + 1);
    }
    std::fs::write(dir.path().join("70.vhd"), build(&Plan { uuid: 70, ..plan(&[]) })).unwrap();
    assert_eq!(open(&dir.path().join("7.vhd")).layers.len(), 64);
    says(&attempt(&dir.path().join("6.vhd")), "the chain has more than 64 levels");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever is written in whatever order, qemu-img and we read the same.
    #[test]
    fn random_writes_read_as_qemu_reads_them(
        writes in proptest::collection::vec((0..32_000u64, 1..2000u64, 1..=255u8), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        qemu::img(dir.path(), &["create", "-q", "-f", "vpc", "-o", "force_size=on", "disk.vhd", "17408000"]);
        let commands: Vec<_> = writes
            .iter()
            .map(|(at, len, byte)| format!("write -P {byte} {} {}", at * 512, len.min(&(34_000 - at)) * 512))
            .collect();
        qemu::write(dir.path(), "disk.vhd", "vpc", &commands);
        let expected = qemu::content_as(dir.path(), "disk.vhd", "vpc");
        conformance::check(&open(&dir.path().join("disk.vhd")).disk(), &expected);
    }

    /// No damage makes us panic or hang; what can still be read has the right size.
    #[test]
    fn random_damage_is_survived(damage in proptest::collection::vec((0..20_000usize, any::<u8>()), 1..6), sealed: bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vhd");
        let parent = Some((1, vec![(b"W2ru", utf16("disk.vhd"))], ""));
        let mut bytes = build(&Plan { uuid: 2, parent, ..plan(&[(0, 1, 1)]) });
        let last = bytes.len() - 1;
        for (at, byte) in damage {
            bytes[at.min(last)] = byte;
        }
        if sealed {
            seal(&mut bytes[..512], 64);
            seal(&mut bytes[512..1536], 36);
            let copy = bytes[..512].to_vec();
            put(&mut bytes, last - 511, &copy);
        }
        std::fs::write(&path, bytes).unwrap();
        prop_assert!(!attempt(&path).is_empty());
    }
}
