//! Images that are damaged or mean harm: each is refused in words that say what is wrong and where, and none makes us
//! open a file it has no business with.

use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use abbild::disk::Disk;
use abbild::formats::{self, Image, OpenPolicy};
use abbild::units::GuestOffset;
use proptest::prelude::*;

use crate::formats_built::{cowd, descriptor, sesparse, stream};
use crate::formats_vmdk::{replace_padded, try_open};
use crate::qemu;

/// A folder with a sound image `disk.vmdk` of 80 MiB with one directory only, and a secret beside the folder.
struct Scene {
    dir: tempfile::TempDir,
    sound: Vec<u8>,
    /// Where its grain directory lies.
    directory: usize,
}

fn scene() -> Scene {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let dir = tempfile::tempdir().unwrap();
    let vm = dir.path().join("vm");
    std::fs::create_dir(&vm).unwrap();
    std::fs::write(dir.path().join("secret.vmdk"), "secret").unwrap();
    let mut sound = SOUND
        .get_or_init(|| {
            qemu::img(&vm, &["create", "-q", "-f", "vmdk", "disk.vmdk", "80M"]);
            qemu::write(&vm, "disk.vmdk", "vmdk", &["write -P 1 0 1M".to_string(), "write -P 2 70M 64k".to_string()]);
            std::fs::read(vm.join("disk.vmdk")).unwrap()
        })
        .clone();
    sound[8] = 1; // without the flag of a redundant directory
    let directory = u64::from_le_bytes(sound[56..64].try_into().unwrap()) as usize * 512;
    Scene { dir, sound, directory }
}

impl Scene {
    fn vm(&self) -> PathBuf {
        self.dir.path().join("vm")
    }

    /// Opens `disk.vmdk` with that content and reads all of it; what went wrong, or `read`.
    fn attempt(&self, content: &[u8]) -> String {
        let path = self.vm().join("disk.vmdk");
        std::fs::write(&path, content).unwrap();
        match try_open(&path) {
            Ok(image) => read_all(&image),
            Err(err) => err.to_string(),
        }
    }

    /// The sound image with `patch` at `at`.
    fn patched(&self, at: usize, patch: &[u8]) -> String {
        let mut content = self.sound.clone();
        content[at..at + patch.len()].copy_from_slice(patch);
        self.attempt(&content)
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
fn says(found: &str, expected: &str) {
    assert!(found.contains(expected), "expected to be told: {expected}\nfound: {found}");
}

#[test]
fn a_damaged_sparse_header_is_named() {
    let scene = scene();
    says(&scene.attempt(&scene.sound), "read");
    let u64s = |value: u64| value.to_le_bytes();
    let u32s = |value: u32| value.to_le_bytes();
    let table: [(usize, &[u8], &str); 15] = [
        (0, b"KDMX", "expected a header of the format that its name .vmdk promises, found [4b, 44, 4d, 58"),
        (4, &u32s(9), "sparse extent version 9 is not supported"),
        (
            12,
            &u64s(u64::MAX),
            "capacity at offset 0xc: expected 1 sector to 2^63 bytes, found 18446744073709551615 sectors",
        ),
        (12, &u64s(1 << 54), "capacity at offset 0xc: expected 1 sector to 2^63 bytes"),
        (
            12,
            &u64s(1 << 53),
            "capacity at offset 0xc: expected a disk that a grain directory of at most 33554432 bytes",
        ),
        (12, &u64s(1 << 30), "grain directory entry at offset 0x10000: expected a grain table inside the file"),
        (20, &u64s(0), "grain size at offset 0x14: expected a power of two of at most 32768 sectors, found 0 sectors"),
        (20, &u64s(96), "found 96 sectors"),
        (20, &u64s(1 << 63), "found 9223372036854775808 sectors"),
        (28, &u64s(u64::MAX), "descriptor offset at offset 0x1c"),
        (36, &u64s(2049), "descriptor size at offset 0x24: expected at most 2048 sectors, found 2049 sectors"),
        (44, &u32s(0), "grain table entries at offset 0x2c: expected 1 to 512, found 0"),
        (44, &u32s(513), "expected 1 to 512, found 513"),
        (73, b"\n\r\n ", "newline test at offset 0x49: expected 0a 20 0d 0a"),
        (77, &[2], "compression method 2 is not supported"),
    ];
    for (at, patch, expected) in table {
        says(&scene.patched(at, patch), expected);
    }
    says(&scene.patched(28, &u64s(0)), "an extent without its descriptor");
    says(&scene.patched(10, &[1]), "compression at offset 0x4d: expected 1 (deflate)");
}

#[test]
fn tables_and_grains_past_the_end_are_truncated_images() {
    let scene = scene();
    let past = u32::MAX.to_le_bytes();
    says(
        &scene.patched(56, &(1u64 << 40).to_le_bytes()),
        "grain directory at offset 0x2000000000000: expected 12 bytes there",
    );
    says(&scene.patched(56, &(1u64 << 60).to_le_bytes()), "grain directory offset at offset 0x38");
    says(&scene.patched(scene.directory, &past), "grain directory entry at offset");
    let table =
        u32::from_le_bytes(scene.sound[scene.directory..scene.directory + 4].try_into().unwrap()) as usize * 512;
    says(
        &scene.patched(table + 4, &past),
        "grain at offset 0x1fffffffe00: expected 65536 bytes there, found a truncated image",
    );
    let flag = format!("grain table entry at offset {:#x}: expected 0 or a sector behind the header", table + 4);
    says(&scene.patched(table + 4, &1u32.to_le_bytes()), &flag);
    for len in [scene.sound.len() - 1, scene.sound.len() - 65536, scene.directory + 2048, scene.directory + 4, 10000] {
        says(&scene.attempt(&scene.sound[..len]), "truncated image");
    }
    for len in [100, 511] {
        says(&scene.attempt(&scene.sound[..len]), "sparse extent header at offset 0x0: expected 512 bytes there");
    }
}

#[test]
fn a_parent_that_is_none_is_refused() {
    let scene = scene();
    std::fs::write(scene.vm().join("text.vmdk"), "no image at all").unwrap();
    symlink("../secret.vmdk", scene.vm().join("link.vmdk")).unwrap();
    std::fs::create_dir(scene.vm().join("folder.vmdk")).unwrap();
    let table = [
        ("disk.vmdk", "disk.vmdk is in the chain above it already"),
        ("./../vm/disk.vmdk", "is in the chain above it already"),
        ("gone.vmdk", "gone.vmdk is missing"),
        ("/etc/passwd", "names /etc/passwd as its parent: /etc/passwd is outside the allowed folders"),
        ("../secret.vmdk", "names ../secret.vmdk as its parent"),
        ("..\\secret.vmdk", "secret.vmdk is outside the allowed folders"),
        ("link.vmdk", "secret.vmdk is outside the allowed folders"),
        ("folder.vmdk", "is a folder, not a regular file"),
        ("/dev/zero", "/dev/zero is outside the allowed folders"),
        ("nbd://host/disk", "only files are opened, no URLs and no devices"),
        ("json:{driver:x}", "only files are opened, no URLs and no devices"),
        ("text.vmdk", "VMDK header at offset 0x0: expected a descriptor or the magic KDMV"),
    ];
    for (hint, expected) in table {
        let content = child_of(&scene.sound, hint, "12345678");
        says(&scene.attempt(&content), expected);
    }
}

/// The image as a child of `hint`, whose CID it remembers as `cid`.
fn child_of(image: &[u8], hint: &str, cid: &str) -> Vec<u8> {
    let lines = format!("parentCID={cid}\nparentFileNameHint=\"{hint}\"");
    replace_padded(image, b"parentCID=ffffffff", &lines)
}

#[test]
fn chains_end() {
    let scene = scene();
    let text = |hint: &str| descriptor("custom", Some((hint, "00c0ffee")), &["RW 8 ZERO"]);
    for (name, parent) in [("a.vmdk", "b.vmdk"), ("b.vmdk", "c.vmdk"), ("c.vmdk", "b.vmdk")] {
        std::fs::write(scene.vm().join(name), text(parent)).unwrap();
    }
    says(&try_open(&scene.vm().join("a.vmdk")).err().unwrap().to_string(), "b.vmdk is in the chain above it already");
    // A hard link is the same file under another name.
    std::fs::write(scene.vm().join("x.vmdk"), text("y.vmdk")).unwrap();
    std::fs::hard_link(scene.vm().join("x.vmdk"), scene.vm().join("y.vmdk")).unwrap();
    says(&try_open(&scene.vm().join("x.vmdk")).err().unwrap().to_string(), "in the chain above it already");

    let depth = formats::CHAIN_DEPTH_MAX;
    for level in 0..=depth {
        std::fs::write(scene.vm().join(format!("{level}.vmdk")), text(&format!("{}.vmdk", level + 1))).unwrap();
    }
    std::fs::write(scene.vm().join(format!("{}.vmdk", depth + 1)), descriptor("custom", None, &["RW 8 ZERO"])).unwrap();
    assert_eq!(try_open(&scene.vm().join("2.vmdk")).unwrap().layers.len(), depth);
    says(&try_open(&scene.vm().join("1.vmdk")).err().unwrap().to_string(), "the chain has more than 64 levels");
}

#[test]
fn extents_that_are_none_are_refused() {
    let scene = scene();
    std::fs::write(scene.vm().join("small.bin"), [0; 4096]).unwrap();
    std::fs::write(scene.vm().join("sparse.vmdk"), &scene.sound).unwrap();
    symlink("/dev/zero", scene.vm().join("link.bin")).unwrap();
    let table = [
        ("RW 8 FLAT \"/dev/zero\" 0", "names /dev/zero as its extent: /dev/zero is outside the allowed folders"),
        ("RW 8 FLAT \"link.bin\" 0", "/dev/zero is outside the allowed folders"),
        ("RW 8 FLAT \"../secret.vmdk\" 0", "secret.vmdk is outside the allowed folders"),
        ("RW 8 FLAT \"gone.bin\" 0", "gone.bin is missing"),
        ("RW 8 FLAT \"http://host/x\" 0", "no URLs"),
        (
            "RW 9 FLAT \"small.bin\" 0",
            "flat extent at offset 0x0: expected 4608 bytes there, found a truncated image of 4096",
        ),
        ("RW 8 FLAT \"small.bin\" 1", "flat extent at offset 0x200"),
        ("RW 8 FLAT \"small.bin\" 36028797018963967", "flat extent at offset 0xfffffffffffffe00"),
        ("RW 8 SPARSE \"small.bin\"", "expected the magic of a hosted sparse, COWD or seSparse extent"),
        (
            "RW 163841 SPARSE \"sparse.vmdk\"",
            "expected at most the 83886080 bytes that the extent has, found 83886592 bytes",
        ),
        ("RW 8 VMFSRDM \"small.bin\"", "extent type VMFSRDM"),
    ];
    for (line, expected) in table {
        says(&scene.attempt(descriptor("custom", None, &[line]).as_bytes()), expected);
    }
}

#[test]
fn a_descriptor_of_a_gibibyte_is_refused_unread() {
    let scene = scene();
    let path = scene.vm().join("huge.vmdk");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"# Disk DescriptorFile\n", 0).unwrap();
    file.set_len(1 << 30).unwrap();
    let said = try_open(&path).err().unwrap().to_string();
    says(&said, "descriptor at offset 0x0: expected at most 1048576 bytes, found 1073741824 bytes");
}

/// Each directory is within its limit; what a descriptor makes of them must be as well.
#[test]
fn many_extents_with_large_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // 2 TiB in grains of one sector: a directory of 32 MiB.
    let mut header = vec![0; 512];
    header[..4].copy_from_slice(b"KDMV");
    for (at, value) in [(4, 1), (12, 0), (16, 1), (20, 1), (44, 512), (56, 1)] {
        header[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    let extent = dir.path().join("extent.vmdk");
    std::fs::write(&extent, header).unwrap();
    std::fs::File::options().write(true).open(&extent).unwrap().set_len((32 << 20) + 512).unwrap();
    let path = dir.path().join("disk.vmdk");
    let attempt = |count| {
        let text = descriptor("custom", None, &vec!["RW 8 SPARSE \"extent.vmdk\""; count]);
        std::fs::write(&path, text).unwrap();
        try_open(&path).map_or_else(|err| err.to_string(), |image| format!("{} bytes", image.size()))
    };
    assert_eq!(attempt(2), "8192 bytes");
    says(&attempt(3), "extent.vmdk: a chain whose grain directories take more than 96 MiB is not supported");
}

#[test]
fn damaged_deltas_are_named() {
    let scene = scene();
    let check = |extent: &[u8], kind: &str, expected: &str| {
        std::fs::write(scene.vm().join("delta.bin"), extent).unwrap();
        let text = descriptor("custom", None, &[&format!("RW 40960 {kind} \"delta.bin\"")]);
        says(&scene.attempt(text.as_bytes()), expected);
    };
    let patched = |mut bytes: Vec<u8>, at: usize, patch: &[u8]| {
        bytes[at..at + patch.len()].copy_from_slice(patch);
        bytes
    };
    let sound = || cowd(40960, 1, &[(0, 1), (4096, 2)]);
    check(&sound(), "VMFSSPARSE", "read");
    let table: [(usize, u32, &str); 7] = [
        (4, 2, "COWD version 2 is not supported"),
        (12, 0, "capacity at offset 0xc: expected at least 1 sector, found 0"),
        (16, 0, "grain size at offset 0x10: expected 1 to 128 sectors, found 0"),
        (16, 129, "expected 1 to 128 sectors, found 129"),
        (20, u32::MAX, "grain directory at offset 0x1fffffffe00: expected 40 bytes there"),
        (24, 9, "grain directory entries at offset 0x18: expected at least 10, found 9"),
        (2048, u32::MAX, "grain directory entry at offset 0x800: expected a grain table inside the file"),
    ];
    for (at, value, expected) in table {
        check(&patched(sound(), at, &value.to_le_bytes()), "VMFSSPARSE", expected);
    }
    check(&sound()[..sound().len() - 1], "VMFSSPARSE", "expected 512 bytes there, found a truncated image");

    let sound = || sesparse(40960, &[(0, 1), (4096, 2)]);
    check(&sound(), "SESPARSE", "read");
    let table: [(usize, u64, &str); 15] = [
        (8, 0x3_0000_0000, "seSparse version 0x300000000 is not supported"),
        (16, 0, "capacity at offset 0x10"),
        (16, u64::MAX, "capacity at offset 0x10: expected 1 sector to 2^63 bytes"),
        (16, 1 << 53, "capacity at offset 0x10: expected a disk that a grain directory of 32 MiB can map"),
        (24, 16, "grain size at offset 0x18: expected 8 sectors, found 0x10"),
        (32, 32, "grain table size at offset 0x20: expected 64 sectors"),
        (40, 1, "seSparse flags 0x1 is not supported"),
        (80, u64::MAX, "volatile header offset at offset 0x50"),
        (136, 0, "grain directory size at offset 0x88"),
        (152, u64::MAX, "grain tables size at offset 0x98"),
        (512, 1, "volatile header at offset 0x200: expected the magic 0xcafecafe, found 0x1"),
        (512 + 24, 1, "a seSparse journal that waits to be replayed"),
        (4096, 5, "grain directory entry at offset 0x1000: expected 0 or 0x10000000 in the upper half, found 0x5"),
        (4096, 0x1000_0000_0000_0002, "expected a grain table inside the table area"),
        (16 * 512, 4 << 60, "grain table entry at offset 0x2000: expected 0, or 1 to 3 in the top four bits"),
    ];
    for (at, value, expected) in table {
        check(&patched(sound(), at, &value.to_le_bytes()), "SESPARSE", expected);
    }
    check(&patched(sound(), 16 * 512, &(3u64 << 60 | 7 << 48).to_le_bytes()), "SESPARSE", "a truncated image");
    check(
        &patched(sound(), 16 * 512, &(3u64 << 60 | 0xffff_ffff_ffff).to_le_bytes()),
        "SESPARSE",
        "expected a grain below 2^64",
    );
}

#[test]
fn a_definition_file_cannot_name_what_lies_elsewhere() {
    let scene = scene();
    std::fs::write(scene.vm().join("disk.vmdk"), &scene.sound).unwrap();
    let policy = OpenPolicy::within(&scene.vm()).unwrap();
    assert!(formats::open(&scene.vm().join("disk.vmdk"), &policy).is_ok());
    for path in [scene.dir.path().join("secret.vmdk"), PathBuf::from("/dev/zero"), scene.vm().join("../secret.vmdk")] {
        says(&formats::open(&path, &policy).err().unwrap().to_string(), "is outside the allowed folders");
    }
}

/// Small images of every kind, each in a folder with what it needs.
fn victims() -> &'static [(&'static str, Vec<u8>)] {
    static VICTIMS: OnceLock<Vec<(&'static str, Vec<u8>)>> = OnceLock::new();
    VICTIMS.get_or_init(|| {
        vec![
            ("hosted", scene().sound),
            (
                "stream",
                stream(1024, &[(0, vec![3; 65536]), (2, (0..65536u32).map(|i| ((i * i) >> 7) as u8).collect())]),
            ),
            ("cowd", cowd(40960, 1, &[(0, 1), (4096, 2), (9, 9)])),
            ("sesparse", sesparse(40960, &[(0, 1), (4096, 2), (9, 0)])),
            ("text", descriptor("custom", None, &["RW 8 ZERO", "RW 8 FLAT \"extent.bin\" 0"]).into_bytes()),
        ]
    })
}

fn look_everywhere(path: &Path) {
    let Ok(image) = try_open(path) else { return };
    let disk = image.disk();
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
        victim in 0..5usize,
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>(), 0..5usize, any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.2, any::<proptest::sample::Index>()),
    ) {
        let (kind, bytes) = &victims()[victim];
        let mut bytes = bytes.clone();
        for (index, is_header, width, value) in flips {
            // Half the hits go to the header, where they do the most.
            let reach = if is_header { bytes.len().min(220) } else { bytes.len() };
            let at = index.index(reach);
            let end = bytes.len().min(at + (1 << width) / 2 + 1);
            bytes[at..end].fill(value);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("disk.vmdk");
        match *kind {
            "cowd" | "sesparse" => {
                std::fs::write(dir.path().join("extent.bin"), bytes).unwrap();
                std::fs::write(&top, descriptor("custom", None, &["RW 40960 SPARSE \"extent.bin\""])).unwrap();
            }
            _ => {
                std::fs::write(dir.path().join("extent.bin"), [0; 4096]).unwrap();
                std::fs::write(&top, bytes).unwrap();
            }
        }
        look_everywhere(&top);
    }
}
