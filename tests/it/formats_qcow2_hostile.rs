//! qcow2 images that are damaged or mean harm: each is refused in words that say what is wrong and where, and none makes
//! us open a file it has no business with, nor hold more than our limits.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use abbild::disk::Disk;
use abbild::formats::qcow2::list_snapshots;
use abbild::formats::{self, OpenPolicy};
use abbild::units::GuestOffset;
use proptest::prelude::*;

use crate::formats_vmdk::try_open;
use crate::qemu;

/// Size of a cluster: L2 tables then map 2 MiB each.
const CLUSTER: usize = 4096;

/// A folder with a sound image `disk.qcow2` of 80 MiB, two snapshots in it, and a secret beside the folder.
struct Scene {
    dir: tempfile::TempDir,
    sound: Vec<u8>,
    /// Offsets of the L1 table, the first L2 table, and the snapshot table.
    l1: usize,
    l2: usize,
    snapshots: usize,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn offset_at(bytes: &[u8], at: usize) -> usize {
    (u64_at(bytes, at) & 0x00ff_ffff_ffff_fe00) as usize
}

fn scene() -> Scene {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let dir = tempfile::tempdir().unwrap();
    let vm = dir.path().join("vm");
    fs::create_dir(&vm).unwrap();
    fs::write(dir.path().join("secret.qcow2"), "secret").unwrap();
    let sound = SOUND
        .get_or_init(|| {
            qemu::img(&vm, &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "disk.qcow2", "80M"]);
            qemu::img(&vm, &["snapshot", "-c", "first", "disk.qcow2"]);
            let commands = ["write -P 1 0 64k", "write -P 2 70M 64k", "write -c -P 3 128k 64k"];
            qemu::write(&vm, "disk.qcow2", "qcow2", &commands.map(str::to_string));
            qemu::img(&vm, &["snapshot", "-c", "second", "disk.qcow2"]);
            fs::read(vm.join("disk.qcow2")).unwrap()
        })
        .clone();
    let l1 = offset_at(&sound, 40);
    let (l2, snapshots) = (offset_at(&sound, l1), offset_at(&sound, 64));
    Scene { dir, sound, l1, l2, snapshots }
}

impl Scene {
    fn vm(&self) -> PathBuf {
        self.dir.path().join("vm")
    }

    /// Opens `disk.qcow2` with that content and reads all of it; what went wrong, or `read`.
    fn attempt(&self, content: &[u8]) -> String {
        let path = self.vm().join("disk.qcow2");
        fs::write(&path, content).unwrap();
        read_all(&path)
    }

    /// The sound image with each patch at its place.
    fn patched(&self, patches: &[(usize, &[u8])]) -> String {
        let mut content = self.sound.clone();
        for (at, patch) in patches {
            content[*at..at + patch.len()].copy_from_slice(patch);
        }
        self.attempt(&content)
    }
}

fn read_all(path: &Path) -> String {
    let image = match try_open(path) {
        Ok(image) => image,
        Err(err) => return err.to_string(),
    };
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
fn says(found: &str, expected: &str) {
    assert!(found.contains(expected), "expected to be told: {expected}\nfound: {found}");
}

#[test]
fn a_damaged_header_is_named() {
    let scene = scene();
    says(&scene.attempt(&scene.sound), "read");
    let u64s = |value: u64| value.to_be_bytes();
    let u32s = |value: u32| value.to_be_bytes();
    let table: [(usize, &[u8], &str); 32] = [
        (0, b"QFJ", "expected a header of the format that its name .qcow2 promises"),
        (4, &u32s(1), "the qcow format (version 1, the one before qcow2) is not supported"),
        (4, &u32s(0), "qcow2 version 0 is not supported"),
        (4, &u32s(4), "qcow2 version 4 is not supported"),
        (20, &u32s(63), "cluster bits at offset 0x14: expected 9 to 21, found 63"),
        (20, &u32s(8), "expected 9 to 21, found 8"),
        (20, &u32s(22), "expected 9 to 21, found 22"),
        (20, &u32s(u32::MAX), "expected 9 to 21, found 4294967295"),
        (24, &u64s(u64::MAX), "size at offset 0x18: expected at most 2^63 bytes, found 18446744073709551615"),
        (24, &u64s(1 << 63), "size at offset 0x18: expected at most 2^63 bytes"),
        (24, &u64s(1 << 62), "size at offset 0x18: expected a disk that an L1 table of at most 33554432 bytes can map"),
        (24, &u64s(1 << 40), "L1 table size at offset 0x24: expected 524288 to 4194304 entries, found 40"),
        (32, &u32s(1), "AES encryption is not supported"),
        (32, &u32s(2), "LUKS encryption is not supported"),
        (32, &u32s(9), "encryption method 9 is not supported"),
        (36, &u32s(0), "L1 table size at offset 0x24: expected 40 to 4194304 entries, found 0"),
        (36, &u32s(39), "expected 40 to 4194304 entries, found 39"),
        (36, &u32s(u32::MAX), "expected 40 to 4194304 entries, found 4294967295"),
        (40, &u64s(0), "L1 table offset at offset 0x28: expected a multiple of the cluster size of 4096 bytes"),
        (40, &u64s(513), "L1 table offset at offset 0x28"),
        (40, &u64s(1 << 40), "L1 table at offset 0x10000000000: expected 320 bytes there, found a truncated image"),
        (40, &u64s(u64::MAX << 12), "L1 table at offset 0xfffffffffffff000: expected 320 bytes there"),
        (60, &u32s(65_537), "number of snapshots at offset 0x3c: expected at most 65536, found 65537"),
        (64, &u64s(7), "snapshot table offset at offset 0x40: expected a multiple of the cluster size"),
        (64, &u64s(u64::MAX << 12), "snapshot table at offset 0xfffffffffffff000: expected 40 bytes there"),
        (72, &u64s(2), "incompatible features at offset 0x48: expected an image that is not marked as corrupt"),
        (72, &u64s(4), "a data file whose name the image does not tell is not supported"),
        (72, &u64s(8), "compression type at offset 0x68: expected a compression type other than 0 exactly if"),
        (72, &u64s(16), "cluster bits at offset 0x14: expected 14 to 21 with extended L2 entries, found 12"),
        (72, &u64s(1 << 63), "incompatible feature bit 63 is not supported"),
        (96, &u32s(7), "refcount order at offset 0x60: expected at most 6, found 7"),
        (104, &[2], "compression type 2 is not supported"),
    ];
    for (at, patch, expected) in table {
        says(&scene.patched(&[(at, patch)]), expected);
    }
    for len in [0, 71, 103, 4097, u32::MAX] {
        says(&scene.patched(&[(100, &u32s(len))]), "header length at offset 0x64: expected 104 to the cluster size");
    }
    says(&scene.patched(&[(104, &[1])]), "found type 1 and the bit clear");
    says(&scene.patched(&[(72, &u64s(1))]), "read");
    for len in [5, 71, 100] {
        says(&scene.attempt(&scene.sound[..len]), "qcow2 header at offset 0x0: expected the magic");
    }
}

#[test]
fn a_size_in_bytes_is_rounded_up_and_said() {
    let scene = scene();
    let size = (80u64 << 20) - 100;
    says(&scene.patched(&[(24, &size.to_be_bytes())]), "read");
    let image = try_open(&scene.vm().join("disk.qcow2")).unwrap();
    assert_eq!(image.size().0, 80 << 20);
    says(&image.layers[0].warnings.join("\n"), "is not whole sectors: the disk has 83886080 bytes");
}

#[test]
fn the_last_cluster_may_be_as_short_as_the_disk() {
    let scene = scene();
    let path = scene.vm().join("disk.qcow2");
    for options in ["cluster_size=64k", "extended_l2=on", "compat=0.10"] {
        qemu::img(&scene.vm(), &["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", "66048"]);
        qemu::write(&scene.vm(), "disk.qcow2", "qcow2", &["write -P 5 0 66048".to_string()]);
        let content = fs::read(&path).unwrap();
        let data = content.iter().rposition(|byte| *byte == 5).unwrap() + 1;
        says(&scene.attempt(&content[..data]), "read");
        says(&scene.attempt(&content[..data - 1]), "expected 512 bytes there, found a truncated image");
    }
}

#[test]
fn an_unknown_feature_has_its_name() {
    let scene = scene();
    let name = b"time travel";
    let mut extension = vec![0; 8 + 48 + 8];
    extension[..8].copy_from_slice(&[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 48]);
    extension[9] = 9;
    extension[10..10 + name.len()].copy_from_slice(name);
    let patches = [(72, &(1u64 << 9).to_be_bytes()[..]), (112, &extension)];
    says(&scene.patched(&patches), "incompatible feature bit 9 (time travel) is not supported");
}

#[test]
fn extensions_stay_in_the_first_cluster() {
    let scene = scene();
    let header_len = u32::from_be_bytes(scene.sound[100..104].try_into().unwrap()) as usize;
    says(
        &scene.patched(&[(header_len + 4, &u32::MAX.to_be_bytes())]),
        "header extension at offset 0x70: expected data that ends before 0x1000",
    );
    says(&scene.patched(&[(header_len + 4, &4096u32.to_be_bytes())]), "header extension at offset 0x70");
}

#[test]
fn tables_that_lie_are_named_and_those_that_overlap_end() {
    let scene = scene();
    let (l1, l2) = (scene.l1, scene.l2);
    let u64s = |value: u64| value.to_be_bytes();
    let in_l1 = format!("L1 table entry at offset {l1:#x}: expected an L2 table at a multiple of 4096 bytes inside");
    for entry in [1 << 40, 0x00ff_ffff_ffff_f000, 1 << 63 | 0x200, scene.sound.len() as u64 & !0xfff] {
        says(&scene.patched(&[(l1, &u64s(entry))]), &in_l1);
    }
    let aligned =
        format!("L2 table entry at offset {l2:#x}: expected an offset that is a multiple of the cluster size");
    says(&scene.patched(&[(l2, &u64s(l2 as u64 + 512))]), &aligned);
    let past = "cluster at offset 0xfffffffffff000: expected 4096 bytes there, found a truncated image of";
    says(&scene.patched(&[(l2, &u64s(0x00ff_ffff_ffff_f000))]), past);
    // A table that leads to itself, to the header, to the L1 table, or that two entries share, is odd; it reads.
    for entry in [l2, l1, CLUSTER] {
        says(&scene.patched(&[(l2, &u64s(entry as u64)), (l2 + 8, &u64s(entry as u64))]), "read");
    }
    let shared = u64_at(&scene.sound, l1);
    says(&scene.patched(&[(l1 + 8, &u64s(shared))]), "read");
    for entry in [l1, CLUSTER] {
        let outcome = scene.patched(&[(l1, &u64s(entry as u64))]);
        assert!(outcome == "read" || outcome.contains("at offset"), "{outcome}");
    }
    let mut old = scene.sound.clone();
    old[7] = 2;
    old[60..64].fill(0);
    old[l2..l2 + 8].copy_from_slice(&u64s(1));
    old[72..CLUSTER].fill(0);
    says(&scene.attempt(&old), "expected bit 0 clear (zero clusters came with version 3), found 0x1");
    for len in [scene.sound.len() / 2, l1 + 8, CLUSTER] {
        says(&scene.attempt(&scene.sound[..len]), "truncated image");
    }
}

/// The largest disk of the format, in a file that is nearly all hole: opened and walked at once.
#[test]
fn the_largest_disk_is_walked_in_bounded_time() {
    let scene = scene();
    let path = scene.vm().join("huge.qcow2");
    let mut header = scene.sound[..112].to_vec();
    header[20..24].copy_from_slice(&21u32.to_be_bytes());
    header[24..32].copy_from_slice(&(1u64 << 61).to_be_bytes());
    header[36..40].copy_from_slice(&(1u32 << 22).to_be_bytes());
    header[40..48].copy_from_slice(&(2u64 << 20).to_be_bytes());
    header[60..72].fill(0);
    let file = File::create(&path).unwrap();
    file.write_all_at(&header, 0).unwrap();
    file.set_len((2 << 20) + (32 << 20)).unwrap();
    let start = Instant::now();
    let disk = try_open(&path).unwrap().disk();
    let (mut at, mut asked) = (0, 0);
    while at < 1 << 61 {
        at += disk.extent_at(GuestOffset(at)).unwrap().len.0;
        asked += 1;
    }
    assert!(asked <= 1025 && start.elapsed() < Duration::from_secs(10), "{asked} questions, {:?}", start.elapsed());
}

#[test]
fn compressed_clusters_that_lie_are_named() {
    let scene = scene();
    // 128 KiB into the disk; 62 - (12 - 8) bits of offset.
    let place = scene.l2 + 32 * 8;
    let entry = u64_at(&scene.sound, place);
    assert_eq!(entry >> 62, 1);
    let at = (entry & ((1 << 58) - 1)) as usize;
    let says_it = |patches: &[(usize, &[u8])], expected: &str| says(&scene.patched(patches), expected);
    let where_it_is =
        format!("compressed cluster at offset {at:#x}: expected deflate data of one cluster (4096 bytes)");
    says_it(&[(at, &[0xff; 8])], &where_it_is);
    // A stored block of 8 bytes, and the end: complete, but not a cluster.
    says_it(&[(at, &[1, 8, 0, 0xf7, 0xff, 1, 2, 3, 4, 5, 6, 7, 8])], "found 8 bytes, complete");
    says_it(&[(place, &((1u64 << 62) | ((1 << 58) - 1)).to_be_bytes())], "cluster at offset 0x3ffffffffffffff");
    let last = (1u64 << 62 | (scene.sound.len() as u64 - 1)).to_be_bytes();
    let outcome = scene.patched(&[(place, &last)]);
    assert!(outcome.contains("compressed cluster at offset"), "{outcome}");

    // A bomb: one block of deflate that goes on for megabytes.
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![7; 1 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    let mut content = scene.sound.clone();
    let bomb_at = content.len() as u64;
    content.extend(&bomb);
    content[place..place + 8].copy_from_slice(&(1u64 << 62 | 15 << 58 | bomb_at).to_be_bytes());
    says(&scene.attempt(&content), "expected deflate data of one cluster (4096 bytes), found more");
}

/// The image with a backing file called `name`, in `format` if given.
fn overlay_of(image: &[u8], name: &str, format: Option<&str>) -> Vec<u8> {
    let mut bytes = image.to_vec();
    let (start, name_at) = (112, 2048usize);
    bytes[start..CLUSTER].fill(0);
    if let Some(format) = format {
        bytes[start..start + 4].copy_from_slice(&0xe279_2acau32.to_be_bytes());
        bytes[start + 4..start + 8].copy_from_slice(&(format.len() as u32).to_be_bytes());
        bytes[start + 8..start + 8 + format.len()].copy_from_slice(format.as_bytes());
    }
    bytes[8..16].copy_from_slice(&(name_at as u64).to_be_bytes());
    bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
    bytes[name_at..name_at + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

#[test]
fn a_backing_file_that_is_none_is_refused() {
    let scene = scene();
    fs::write(scene.vm().join("text.bin"), "no image at all").unwrap();
    fs::write(scene.vm().join("other.qcow2"), &scene.sound).unwrap();
    symlink("../secret.qcow2", scene.vm().join("link.bin")).unwrap();
    fs::create_dir(scene.vm().join("folder")).unwrap();
    let no_url = "only files are opened, no URLs and no devices";
    let table = [
        ("other.qcow2", Some("qcow2"), "read"),
        ("other.qcow2", Some("raw"), "read"),
        ("text.bin", Some("raw"), "read"),
        ("disk.qcow2", Some("qcow2"), "its backing file"),
        ("./../vm/disk.qcow2", Some("raw"), "is in the chain above it already"),
        ("gone.qcow2", Some("qcow2"), "gone.qcow2 is missing"),
        (
            "/etc/passwd",
            Some("raw"),
            "names /etc/passwd as its backing file: /etc/passwd is outside the allowed folders",
        ),
        ("../secret.qcow2", Some("raw"), "secret.qcow2 is outside the allowed folders"),
        ("link.bin", Some("raw"), "secret.qcow2 is outside the allowed folders"),
        ("folder", Some("raw"), "is a folder, not a regular file"),
        ("/dev/zero", Some("host_device"), "/dev/zero is outside the allowed folders"),
        ("json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}", Some("raw"), no_url),
        ("nbd://host/disk", Some("raw"), no_url),
        ("nbd:unix:/run/s", Some("raw"), no_url),
        ("http://host/disk", Some("raw"), no_url),
        ("a\0b", Some("raw"), "the name contains a NUL byte"),
        ("text.bin", None, "a raw backing file whose overlay does not say that it is raw"),
        ("text.bin", Some("qcow2"), "text.bin: backing file at offset 0x0: expected an image in the format qcow2"),
        ("other.qcow2", Some("vmdk"), "expected an image in the format vmdk, as its overlay says, found qcow2"),
        ("other.qcow2", Some("luks"), "expected an image in the format luks"),
    ];
    for (name, format, expected) in table {
        says(&scene.attempt(&overlay_of(&scene.sound, name, format)), expected);
    }
    let mut long = overlay_of(&scene.sound, "x", None);
    long[16..20].copy_from_slice(&1024u32.to_be_bytes());
    says(&scene.attempt(&long), "backing file name length at offset 0x10: expected at most 1023 bytes, found 1024");
    long[16..20].copy_from_slice(&1023u32.to_be_bytes());
    long[8..16].copy_from_slice(&4000u64.to_be_bytes());
    says(&scene.attempt(&long), "backing file name offset at offset 0x8: expected a name inside the first cluster");
    long[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
    says(&scene.attempt(&long), "backing file name offset at offset 0x8");
}

#[test]
fn a_data_file_is_opened_only_in_the_allowed_folders() {
    let scene = scene();
    for (name, expected) in [
        ("/etc/passwd", "names /etc/passwd as its data file: /etc/passwd is outside the allowed folders"),
        ("../secret.qcow2", "is outside the allowed folders"),
        ("json:{}", "only files are opened"),
        ("gone.bin", "data file "),
    ] {
        let mut bytes = scene.sound.clone();
        bytes[79] = 4;
        bytes[112..CLUSTER].fill(0);
        bytes[112..116].copy_from_slice(b"DATA");
        bytes[116..120].copy_from_slice(&(name.len() as u32).to_be_bytes());
        bytes[120..120 + name.len()].copy_from_slice(name.as_bytes());
        says(&scene.attempt(&bytes), expected);
    }
}

#[test]
fn chains_end() {
    let scene = scene();
    let text = |name: &str| overlay_of(&scene.sound, name, Some("qcow2"));
    for (name, parent) in [("a.qcow2", "b.qcow2"), ("b.qcow2", "c.qcow2"), ("c.qcow2", "b.qcow2")] {
        fs::write(scene.vm().join(name), text(parent)).unwrap();
    }
    says(&read_all(&scene.vm().join("a.qcow2")), "b.qcow2 is in the chain above it already");
    fs::write(scene.vm().join("x.qcow2"), text("y.qcow2")).unwrap();
    fs::hard_link(scene.vm().join("x.qcow2"), scene.vm().join("y.qcow2")).unwrap();
    says(&read_all(&scene.vm().join("x.qcow2")), "in the chain above it already");

    let depth = formats::CHAIN_DEPTH_MAX;
    for level in 0..=depth {
        fs::write(scene.vm().join(format!("{level}.qcow2")), text(&format!("{}.qcow2", level + 1))).unwrap();
    }
    fs::write(scene.vm().join(format!("{}.qcow2", depth + 1)), &scene.sound).unwrap();
    assert_eq!(try_open(&scene.vm().join("2.qcow2")).unwrap().layers.len(), depth);
    says(&read_all(&scene.vm().join("1.qcow2")), "the chain has more than 64 levels");
    // The last level in another format counts as well.
    let last = scene.vm().join(format!("{depth}.qcow2"));
    fs::write(scene.vm().join("base.raw"), [0; 512]).unwrap();
    fs::write(&last, overlay_of(&scene.sound, "base.raw", Some("raw"))).unwrap();
    assert_eq!(try_open(&scene.vm().join("2.qcow2")).unwrap().layers.len(), depth);
    says(&read_all(&scene.vm().join("1.qcow2")), "the chain has more than 64 levels");
}

#[test]
fn snapshot_tables_that_lie_are_named() {
    let scene = scene();
    let at = scene.snapshots;
    let table: [(usize, &[u8], &str); 8] = [
        (0, &7u64.to_be_bytes(), "L1 table offset at offset"),
        (8, &0u32.to_be_bytes(), "L1 table size at offset"),
        (8, &u32::MAX.to_be_bytes(), "expected 40 to 4194304 entries, found 4294967295"),
        (12, &u16::MAX.to_be_bytes(), "snapshot table at offset"),
        (36, &u32::MAX.to_be_bytes(), "snapshot extra data length at offset"),
        (36, &1025u32.to_be_bytes(), "expected at most 1024 bytes, found 1025"),
        (48, &u64::MAX.to_be_bytes(), "disk size of the snapshot at offset"),
        (48, &(1u64 << 62).to_be_bytes(), "expected a disk that an L1 table of at most 33554432 bytes can map"),
    ];
    for (offset, patch, expected) in table {
        let mut content = scene.sound.clone();
        content[at + offset..at + offset + patch.len()].copy_from_slice(patch);
        content.truncate(content.len().min(at + 32768));
        says(&scene.attempt(&content), expected);
    }
    // As many entries as may be, each 64 KiB of name: the table's limit ends it.
    let path = scene.vm().join("huge.qcow2");
    let file = File::create(&path).unwrap();
    let mut header = scene.sound[..CLUSTER].to_vec();
    header[60..64].copy_from_slice(&65_536u32.to_be_bytes());
    header[64..72].copy_from_slice(&(1u64 << 30).to_be_bytes());
    file.write_all_at(&scene.sound, 0).unwrap();
    file.write_all_at(&header, 0).unwrap();
    let mut entry = scene.sound[at..at + 40].to_vec();
    entry[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    entry[12..14].fill(0);
    entry[36..40].fill(0);
    for number in 0..300u64 {
        file.write_all_at(&entry, (1 << 30) + number * (40u64 + 65_535).next_multiple_of(8)).unwrap();
    }
    file.set_len(2 << 30).unwrap();
    let err = list_snapshots(&path, &OpenPolicy::named_by_user(&path).unwrap()).unwrap_err().to_string();
    says(&err, "snapshot table at offset 0x40000000: expected at most 16777216 bytes, found more");
}

#[test]
fn damaged_bitmaps_are_only_noted() {
    let scene = scene();
    let mut bytes = scene.sound.clone();
    bytes[112..CLUSTER].fill(0);
    bytes[112..116].copy_from_slice(&0x2385_2875u32.to_be_bytes());
    bytes[116..120].copy_from_slice(&24u32.to_be_bytes());
    for (count, len, at, expected) in [
        (1u32, u64::MAX, 0u64, "18446744073709551615 bytes are too many"),
        (1, 1 << 20, u64::MAX - 9, "a truncated image"),
        (u32::MAX, 24, 0, "an entry leaves it"),
    ] {
        bytes[120..124].copy_from_slice(&count.to_be_bytes());
        bytes[128..136].copy_from_slice(&len.to_be_bytes());
        bytes[136..144].copy_from_slice(&at.to_be_bytes());
        fs::write(scene.vm().join("disk.qcow2"), &bytes).unwrap();
        let image = try_open(&scene.vm().join("disk.qcow2")).unwrap();
        says(&image.layers[0].warnings.join("\n"), expected);
    }
}

fn victims() -> &'static [Vec<u8>] {
    static VICTIMS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    VICTIMS.get_or_init(|| {
        let made = |options: &str| {
            let dir = tempfile::tempdir().unwrap();
            qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", "8M"]);
            let commands = ["write -P 1 0 40k", "write -c -P 2 64k 64k", "write -P 3 7M 3k", "write -z 1M 64k"];
            qemu::write(dir.path(), "disk.qcow2", "qcow2", &commands.map(str::to_string));
            qemu::img(dir.path(), &["snapshot", "-c", "s", "disk.qcow2"]);
            fs::read(dir.path().join("disk.qcow2")).unwrap()
        };
        ["compat=0.10,cluster_size=512", "cluster_size=4k,compression_type=zstd", "extended_l2=on,cluster_size=16k"]
            .map(made)
            .to_vec()
    })
}

fn look_everywhere(disk: &dyn Disk) {
    let size = disk.size().0;
    let mut buf = vec![0; 65536];
    let mut at = 0;
    for _ in 0..200 {
        if at >= size {
            break;
        }
        let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(buf.len());
        let read = disk.read_at(GuestOffset(at), &mut buf[..len]);
        match disk.extent_at(GuestOffset(at)) {
            Ok(extent) => {
                assert!(extent.len.0 >= 1 && extent.len.0 <= size - at);
                at += extent.len.0;
            }
            Err(_) => {
                assert!(read.is_err(), "no extent at {at} and yet it reads");
                at += 65536;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_us_panic(
        victim in 0..3usize,
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0..3u8, 0..5usize, any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.2, any::<proptest::sample::Index>()),
    ) {
        let mut bytes = victims()[victim].clone();
        let l1 = offset_at(&bytes, 40);
        for (index, area, width, value) in flips {
            // Most hits go to the header and the tables, where they do the most.
            let (from, len) = match area {
                0 => (0, 200),
                1 => (l1, (16384).min(bytes.len() - l1)),
                _ => (0, bytes.len()),
            };
            let at = from + index.index(len);
            let end = bytes.len().min(at + (1 << width) / 2 + 1);
            bytes[at..end].fill(value);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.qcow2");
        fs::write(&path, bytes).unwrap();
        if let Ok(image) = try_open(&path) {
            look_everywhere(&image.disk());
        }
        let _ = list_snapshots(&path, &OpenPolicy::named_by_user(&path).unwrap());
    }
}
