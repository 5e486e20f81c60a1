//! Variants that qemu-img reads and does not write (COWD, seSparse, streams with a footer), and flags and damage that it
//! never makes: laid out here byte by byte, with qemu-img as the judge where it reads the variant.

use std::io::Write;
use std::path::Path;

use abbild::disk::{Disk, ExtentKind, conformance};
use abbild::units::{ByteLen, GuestOffset};
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::formats_vmdk::{open, replace_padded, try_open};
use crate::qemu;

/// A text descriptor with a parent (name, CID) if there is one.
pub fn descriptor(create_type: &str, parent: Option<(&str, &str)>, extents: &[&str]) -> String {
    let (hint, parent_cid) =
        parent.map_or((String::new(), "ffffffff"), |(name, cid)| (format!("parentFileNameHint=\"{name}\"\n"), cid));
    let extents = extents.join("\n");
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=00c0ffee\nparentCID={parent_cid}\ncreateType=\"{create_type}\"\n{hint}\
         # Extent description\n{extents}\n# The Disk Data Base\n#DDB\nddb.adapterType = \"lsilogic\"\n"
    )
}

/// Numbers at their places.
fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A grain's place on the disk and its byte, 0 for an explicit zero.
type Grains<'a> = &'a [(u64, u8)];

/// A COWD extent: header, directory at sector 4, tables, grains of `grain` sectors.
pub fn cowd(capacity: u32, grain: u32, grains: Grains) -> Vec<u8> {
    let grains = grains.iter().map(|(number, byte)| (*number, vec![*byte; grain as usize * 512]));
    cowd_of(capacity, grain, grains)
}

/// The same with any content: numbers of grains, and their bytes.
pub fn cowd_of(capacity: u32, grain: u32, grains: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Vec<u8> {
    let tables = capacity.div_ceil(4096 * grain);
    let directory_sectors = (tables * 4).div_ceil(512);
    let first_table = 4 + directory_sectors;
    let mut bytes = vec![0; (first_table + tables * 32) as usize * 512];
    bytes[..4].copy_from_slice(b"COWD");
    for (at, value) in [(4, 1), (8, 3), (12, capacity), (16, grain), (20, 4), (24, tables)] {
        put32(&mut bytes, at, value);
    }
    for (number, content) in grains {
        let (table, entry) = ((number / 4096) as u32, (number % 4096) as usize);
        let sector = bytes.len() as u32 / 512;
        put32(&mut bytes, (4 * 512 + table * 4) as usize, first_table + table * 32);
        put32(&mut bytes, ((first_table + table * 32) * 512) as usize + entry * 4, sector);
        assert_eq!(content.len(), grain as usize * 512);
        bytes.extend(content);
    }
    let next_free = bytes.len() as u32 / 512;
    put32(&mut bytes, 28, next_free);
    bytes
}

/// Where [`sesparse`] puts things, in sectors: volatile header, directory; tables and grains follow.
const VOLATILE: u64 = 1;
const DIRECTORY: u64 = 8;

/// A seSparse extent; 0 becomes an unmapped grain.
pub fn sesparse(capacity: u64, grains: Grains) -> Vec<u8> {
    let grains: Vec<_> = grains.iter().map(|(number, byte)| (*number, vec![*byte; 4096])).collect();
    sesparse_of(capacity, &grains)
}

/// The same with any content: numbers of grains, and their bytes. It has only the tables that are used.
pub fn sesparse_of(capacity: u64, grains: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut used: Vec<u64> = grains.iter().map(|(number, _)| number / 4096).collect();
    used.sort_unstable();
    used.dedup();
    let tables = used.len().max(1) as u64;
    let directory_sectors = (capacity.div_ceil(4096 * 8) * 8).div_ceil(4096) * 8;
    let tables_at = DIRECTORY + directory_sectors;
    let grains_at = tables_at + tables * 64;
    let mut bytes = vec![0; grains_at as usize * 512];
    let header = [
        (0, 0xcafe_babe),
        (8, 0x2_0000_0001),
        (16, capacity),
        (24, 8),
        (32, 64),
        (80, VOLATILE),
        (88, 1),
        (96, 2),
        (104, 1),
        (112, 3),
        (120, 1),
        (128, DIRECTORY),
        (136, directory_sectors),
        (144, tables_at),
        (152, tables * 64),
        (192, grains_at),
        (200, capacity),
    ];
    for (at, value) in header {
        put64(&mut bytes, at, value);
    }
    put64(&mut bytes, VOLATILE as usize * 512, 0xcafe_cafe);
    let mut stored = 0u64;
    for (number, content) in grains {
        // Tables lie in the reverse order of the disk, so that the directory's numbers matter.
        let place = used.binary_search(&(number / 4096)).unwrap() as u64;
        let (table, entry) = (tables - 1 - place, number % 4096);
        put64(&mut bytes, (DIRECTORY * 512 + number / 4096 * 8) as usize, 0x1000_0000 << 32 | table);
        let is_zero = content.iter().all(|byte| *byte == 0);
        let value = if is_zero { 1 << 60 } else { 3 << 60 | (stored & 0xfff) << 48 | stored >> 12 };
        put64(&mut bytes, ((tables_at + table * 64) * 512 + entry * 8) as usize, value);
        if !is_zero {
            assert_eq!(content.len(), 4096);
            bytes.extend(content);
            stored += 1;
        }
    }
    bytes
}

/// A streamOptimized image as VMware exports it: tables behind the grains, the directory's place in the footer.
pub fn stream(capacity: u64, grains: &[(u64, Vec<u8>)]) -> Vec<u8> {
    const GRAIN: u64 = 128;
    let text = descriptor("streamOptimized", None, &[&format!("RW {capacity} SPARSE \"call-me-stream.vmdk\"")]);
    let mut bytes = vec![0; 128 * 512];
    let mut header = vec![0; 512];
    header[..4].copy_from_slice(b"KDMV");
    put32(&mut header, 4, 3);
    put32(&mut header, 8, 0x3_0001);
    for (at, value) in [(12, capacity), (20, GRAIN), (28, 1), (36, 20), (56, u64::MAX), (64, 128)] {
        put64(&mut header, at, value);
    }
    put32(&mut header, 44, 512);
    header[73..79].copy_from_slice(b"\n \r\n\x01\0");
    bytes[..512].copy_from_slice(&header);
    bytes[512..512 + text.len()].copy_from_slice(text.as_bytes());
    let tables = capacity.div_ceil(512 * GRAIN);
    let mut entries = vec![0u32; tables as usize * 512];
    for (number, plain) in grains {
        entries[*number as usize] = bytes.len() as u32 / 512;
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(plain).unwrap();
        let data = zlib.finish().unwrap();
        bytes.extend((number * GRAIN).to_le_bytes());
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    let mut directory = Vec::new();
    for table in entries.chunks(512) {
        if table.iter().all(|entry| *entry == 0) {
            directory.extend(0u32.to_le_bytes());
            continue;
        }
        marker(&mut bytes, 4, 1);
        directory.extend((bytes.len() as u32 / 512).to_le_bytes());
        bytes.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    }
    marker(&mut bytes, directory.len().div_ceil(512) as u64, 2);
    put64(&mut header, 56, bytes.len() as u64 / 512);
    bytes.extend(directory);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    marker(&mut bytes, 1, 3);
    bytes.extend(header);
    marker(&mut bytes, 0, 0);
    bytes
}

/// A metadata marker: it fills a sector.
fn marker(bytes: &mut Vec<u8>, sectors: u64, kind: u32) {
    let start = bytes.len();
    bytes.resize(start + 512, 0);
    put64(bytes, start, sectors);
    put32(bytes, start + 12, kind);
}

/// A 2 MiB disk full of ones, called `base.vmdk`; returns its CID.
pub fn base(folder: &Path) -> String {
    qemu::img(folder, &["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "base.vmdk", "20M"]);
    qemu::write(folder, "base.vmdk", "vmdk", &["write -P 1 0 20M".to_string()]);
    open(&folder.join("base.vmdk")).layers[0].content_id.clone()
}

#[test]
fn a_cowd_delta_over_its_base() {
    // Grain 4096 begins the second table; the last one is the disk's last sector.
    for (grain, grains) in
        [(1u32, vec![(0u64, 5u8), (3, 6), (4, 7), (4095, 8), (4096, 9), (40959, 2)]), (16, vec![(9, 4), (8, 3)])]
    {
        let dir = tempfile::tempdir().unwrap();
        let cid = base(dir.path());
        std::fs::write(dir.path().join("x-000001-delta.vmdk"), cowd(40960, grain, &grains)).unwrap();
        let lines = ["RW 40960 VMFSSPARSE \"x-000001-delta.vmdk\""];
        let text = descriptor("vmfsSparse", Some(("base.vmdk", &cid)), &lines);
        std::fs::write(dir.path().join("x-000001.vmdk"), text).unwrap();
        let image = open(&dir.path().join("x-000001.vmdk"));
        let content = qemu::content(dir.path(), "x-000001.vmdk");
        conformance::check(&image.disk(), &content);
        for (number, byte) in grains {
            assert_eq!(content[number as usize * grain as usize * 512], byte);
        }
        assert_eq!(image.layers[0].variant, "vmdk vmfsSparse");
        assert_eq!(image.layers[0].disk.extent_at(GuestOffset(1 << 20)).unwrap().kind, ExtentKind::Hole);
    }
}

#[test]
fn a_sesparse_delta_over_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let cid = base(dir.path());
    let grains = [(0, 5), (1, 6), (2, 0), (4095, 8), (4096, 9), (5119, 7)];
    std::fs::write(dir.path().join("x-000001-sesparse.vmdk"), sesparse(40960, &grains)).unwrap();
    let text = descriptor("seSparse", Some(("base.vmdk", &cid)), &["RW 40960 SESPARSE \"x-000001-sesparse.vmdk\""]);
    std::fs::write(dir.path().join("x-000001.vmdk"), text).unwrap();
    let image = open(&dir.path().join("x-000001.vmdk"));
    let content = qemu::content(dir.path(), "x-000001.vmdk");
    conformance::check(&image.disk(), &content);
    for (number, byte) in grains {
        assert_eq!(content[number as usize * 4096], byte);
    }
    let kind = |grain: u64| image.layers[0].disk.extent_at(GuestOffset(grain * 4096)).unwrap().kind;
    assert_eq!([kind(1), kind(2), kind(3)], [ExtentKind::Data, ExtentKind::Zero, ExtentKind::Hole]);
}

#[test]
fn a_sesparse_index_is_stored_rotated() {
    // 4097 grains need bit 12 of the index, which lies at bit 0 of the entry.
    let dir = tempfile::tempdir().unwrap();
    let grains: Vec<(u64, u8)> = (0..4100).map(|number| (number, 1 + (number % 250) as u8)).collect();
    std::fs::write(dir.path().join("x-sesparse.vmdk"), sesparse(40960, &grains)).unwrap();
    let text = descriptor("seSparse", None, &["RW 40960 SESPARSE \"x-sesparse.vmdk\""]);
    std::fs::write(dir.path().join("x.vmdk"), text).unwrap();
    conformance::check(&open(&dir.path().join("x.vmdk")).disk(), &qemu::content(dir.path(), "x.vmdk"));
}

#[test]
fn a_stream_with_a_footer_reads_as_qemu_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    // The disk ends 5 sectors into its last grain, which therefore inflates short.
    let capacity = 65536 + 128 * 3 + 5;
    let noise: Vec<u8> = (0..65536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let grains = [(0, vec![3; 65536]), (1, noise), (511, vec![4; 65536]), (515, vec![5; 5 * 512])];
    let path = dir.path().join("stream.vmdk");
    std::fs::write(&path, stream(capacity, &grains)).unwrap();
    let image = open(&path);
    let mut expected = vec![0; capacity as usize * 512];
    for (number, plain) in &grains {
        let at = *number as usize * 65536;
        expected[at..at + plain.len()].copy_from_slice(plain);
    }
    conformance::check(&image.disk(), &expected);
    // qemu wants whole grains, so it judges a disk that ends with one.
    let grains = [(0, vec![3; 65536]), (513, vec![4; 65536])];
    std::fs::write(&path, stream(65536 + 256, &grains)).unwrap();
    conformance::check(&open(&path).disk(), &qemu::content(dir.path(), "stream.vmdk"));
}

#[test]
fn damaged_streams_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream.vmdk");
    let sound = stream(1024, &[(0, vec![3; 65536]), (2, vec![4; 65536])]);
    let attempt = |bytes: &[u8]| -> String {
        std::fs::write(&path, bytes).unwrap();
        let image = match try_open(&path) {
            Ok(image) => image,
            Err(err) => return err.to_string(),
        };
        let mut all = vec![0; 1024 * 512];
        image.disk().read_at(GuestOffset(0), &mut all).map_or_else(|err| err.to_string(), |()| "read".to_string())
    };
    assert_eq!(attempt(&sound), "read");
    for cut in [1, 512, 1024, 1536, 2048, sound.len() - 512 * 128] {
        let said = attempt(&sound[..sound.len() - cut]);
        assert!(said.contains("end of the stream") || said.contains("marker at"), "{cut}: {said}");
    }
    let mut wrong_place = sound.clone();
    put64(&mut wrong_place, 128 * 512, 128);
    assert!(attempt(&wrong_place).contains("grain marker at offset 0x10000: expected sector 0, found sector 128"));
    let mut too_long = sound.clone();
    put32(&mut too_long, 128 * 512 + 8, 131_137);
    assert!(attempt(&too_long).contains("expected 1 to 131136 bytes of compressed data, found 131137"));
    let mut noise = sound.clone();
    noise[128 * 512 + 14..128 * 512 + 40].fill(0xee);
    assert!(attempt(&noise).contains("compressed grain at offset 0x1000c: expected zlib data of one grain"));
    let bomb = stream(1024, &[(0, vec![0; 64 << 20])]);
    let said = attempt(&bomb);
    assert!(said.contains("expected zlib data of one grain (65536 bytes), found more"), "{said}");
    let short = stream(1024, &[(0, vec![0; 60000])]);
    assert!(attempt(&short).contains("found 60000 bytes, complete"));
}

#[test]
fn zero_and_unreadable_extents_are_zeros_that_hide_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let cid = base(dir.path());
    std::fs::write(dir.path().join("part.bin"), [vec![8; 8192], vec![9; 8192]].concat()).unwrap();
    let lines = [
        "RW 16 ZERO",
        "RDONLY 16 FLAT \"part.bin\" 16",
        "NOACCESS 16 FLAT \"part.bin\" 0",
        "NOACCESS 16 SPARSE \"never-opened.vmdk\"",
        "RW 16 VMFS \"part.bin\"",
        "RW 40880 VMFSSPARSE \"delta.vmdk\"",
    ];
    std::fs::write(dir.path().join("delta.vmdk"), cowd(40880, 1, &[(0, 7)])).unwrap();
    let text = descriptor("custom", Some(("base.vmdk", &cid)), &lines);
    std::fs::write(dir.path().join("child.vmdk"), text).unwrap();
    let image = open(&dir.path().join("child.vmdk"));
    let mut expected: Vec<u8> = [0, 9, 0, 0, 8].iter().flat_map(|byte| [*byte; 8192]).collect();
    expected.extend([7; 512]);
    expected.resize(20 << 20, 1);
    conformance::check(&image.disk(), &expected);
    assert_eq!(image.disk().extent_at(GuestOffset(0)).unwrap().kind, ExtentKind::Zero);
    assert_eq!(image.layers[0].files.len(), 3);
}

#[test]
fn a_hole_in_a_flat_redo_log_hides_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let cid = base(dir.path());
    std::fs::File::create(dir.path().join("hole.bin")).unwrap().set_len(20 << 20).unwrap();
    let text = descriptor("monolithicFlat", Some(("base.vmdk", &cid)), &["RW 40960 FLAT \"hole.bin\" 0"]);
    std::fs::write(dir.path().join("child.vmdk"), text).unwrap();
    let image = open(&dir.path().join("child.vmdk"));
    conformance::check(&image.disk(), &qemu::content(dir.path(), "child.vmdk"));
    let changed = image.changes_of_upper(1).unwrap().extent_at(GuestOffset(0)).unwrap();
    assert_eq!((changed.kind, changed.len), (ExtentKind::Zero, ByteLen(20 << 20)));
}

/// An image of 80 MiB (three tables) with a second copy of directory and tables, as qemu writes it.
fn with_two_directories(folder: &Path) -> (Vec<u8>, Vec<u8>, usize, usize) {
    qemu::img(folder, &["create", "-q", "-f", "vmdk", "disk.vmdk", "80M"]);
    qemu::write(folder, "disk.vmdk", "vmdk", &["write -P 1 0 1M".to_string(), "write -P 2 70M 1M".to_string()]);
    let content = qemu::content(folder, "disk.vmdk");
    let bytes = std::fs::read(folder.join("disk.vmdk")).unwrap();
    let sector = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize * 512;
    let (redundant, primary) = (sector(48), sector(56));
    (bytes, content, primary, redundant)
}

#[test]
fn the_redundant_directory_serves_where_the_first_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (sound, content, primary, redundant) = with_two_directories(dir.path());
    let path = dir.path().join("disk.vmdk");
    let attempt = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        try_open(&path)
    };
    assert!(attempt(&sound).unwrap().layers[0].warnings.is_empty());

    let mut first = sound.clone();
    put32(&mut first, primary + 8, 0xfff_ffff);
    let image = attempt(&first).unwrap();
    conformance::check(&image.disk(), &content);
    let warning = &image.layers[0].warnings[0];
    let place = format!("grain directory entry at offset {:#x}", primary + 8);
    assert!(warning.contains(&place) && warning.contains("the redundant grain directory is used instead"), "{warning}");

    let mut gone = sound.clone();
    put64(&mut gone, 56, 1 << 40);
    conformance::check(&attempt(&gone).unwrap().disk(), &content);

    let mut both = first.clone();
    put32(&mut both, redundant, 0xfff_ffff);
    let err = attempt(&both).err().unwrap().to_string();
    assert!(err.contains(&place) && err.contains("found sector 268435455"), "{err}");

    let mut not_promised = first;
    put32(&mut not_promised, 8, 1); // no redundant directory in use
    assert!(attempt(&not_promised).is_err());
}

#[test]
fn a_file_with_only_a_descriptor_leads_to_its_extents() {
    let dir = tempfile::tempdir().unwrap();
    let (sound, content, ..) = with_two_directories(dir.path());
    let extent = replace_padded(&sound, b"createType", "createTypo");
    std::fs::write(dir.path().join("extent.vmdk"), extent).unwrap();
    let mut top = replace_padded(&sound[..32768], b"SPARSE \"disk.vmdk\"", "SPARSE \"extent.vmdk\"");
    put64(&mut top, 12, 0); // capacity
    std::fs::write(dir.path().join("top.vmdk"), top).unwrap();
    let image = open(&dir.path().join("top.vmdk"));
    conformance::check(&image.disk(), &content);
    assert_eq!(image.layers[0].files.len(), 2);
}

#[test]
fn an_image_that_was_not_closed_or_is_locked_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bytes, ..) = with_two_directories(dir.path());
    let path = dir.path().join("disk.vmdk");
    bytes[72] = 1;
    std::fs::write(&path, bytes).unwrap();
    let note = open(&path).layers.remove(0).in_use.unwrap();
    assert!(note.contains("disk.vmdk was not closed cleanly"), "{note}");
    std::fs::create_dir(dir.path().join("disk.vmdk.lck")).unwrap();
    std::fs::write(dir.path().join("disk.vmdk.lck/M00001.lck"), "").unwrap();
    let note = open(&path).layers.remove(0).in_use.unwrap();
    assert!(note.contains("disk.vmdk.lck is held"), "{note}");
}

#[test]
fn an_unclean_delta_says_so_through_its_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = cowd(2048, 1, &[(0, 1)]);
    put32(&mut bytes, 1648, 1);
    std::fs::write(dir.path().join("d-delta.vmdk"), bytes).unwrap();
    let text = descriptor("vmfsSparse", None, &["RW 2048 VMFSSPARSE \"d-delta.vmdk\""]);
    std::fs::write(dir.path().join("d.vmdk"), text).unwrap();
    let note = open(&dir.path().join("d.vmdk")).layers.remove(0).in_use.unwrap();
    assert!(note.contains("d-delta.vmdk was not closed cleanly"), "{note}");
}
