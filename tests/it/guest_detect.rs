//! What lies on a volume: images made by every mkfs at hand, judged by `blkid`.

use std::path::Path;

use abbild::guest::detect::{Content, ContentKind, detect, md};

use crate::formats_vmdk::open;
use crate::tools;

const MIB: u64 = 1 << 20;

fn look(folder: &Path, image: &str) -> Content {
    detect(&open(&folder.join(image)).disk()).unwrap()
}

/// Makes an image with a tool and compares kind, label and UUID with what blkid says.
#[track_caller]
fn check(mib: u64, command: &[&str], package: &str, kind: ContentKind, blkid_type: &str) {
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "v", mib * MIB);
    std::fs::create_dir(dir.path().join("files")).unwrap();
    std::fs::write(dir.path().join("files/a"), "content").unwrap();
    tools::run(command[0], package, dir.path(), &command[1..]);
    let judge = tools::blkid(dir.path(), "v");
    let of_judge = |key: &str| judge.get(key).cloned().unwrap_or_default();
    let found = look(dir.path(), "v");
    assert_eq!((found.kind, of_judge("TYPE").as_str()), (kind, blkid_type), "{command:?}: {judge:?}");
    assert_eq!(found.label, of_judge("LABEL"), "{command:?}");
    assert_eq!(found.uuid, of_judge("UUID"), "{command:?}");
}

#[test]
fn the_ext_family_is_told_apart_by_its_features() {
    let check = |command: &[&str], kind: ContentKind, word| check(16, command, "e2fsprogs", kind, word);
    check(&["mke2fs", "-q", "-t", "ext2", "-L", "zwei", "v"], ContentKind::Ext2, "ext2");
    check(&["mke2fs", "-q", "-t", "ext3", "-L", "sixteen bytes ok", "v"], ContentKind::Ext3, "ext3");
    check(&["mke2fs", "-q", "-t", "ext4", "-L", "größe", "v"], ContentKind::Ext4, "ext4");
    check(&["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "v"], ContentKind::Ext4, "ext4");
    check(&["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "64bit,inline_data", "v"], ContentKind::Ext4, "ext4");
    check(&["mke2fs", "-q", "-t", "ext2", "-r", "0", "v"], ContentKind::Ext2, "ext2");
}

#[test]
fn other_filesystems_of_linux() {
    check(300, &["mkfs.xfs", "-q", "-L", "twelve_bytes", "v"], "xfsprogs", ContentKind::Xfs, "xfs");
    check(300, &["mkfs.xfs", "-q", "-m", "crc=0", "v"], "xfsprogs", ContentKind::Xfs, "xfs");
    check(128, &["mkfs.btrfs", "-q", "-L", "b tr", "v"], "btrfs-progs", ContentKind::Btrfs, "btrfs");
    check(64, &["mkfs.f2fs", "-q", "-l", "flash ü", "v"], "f2fs-tools", ContentKind::F2fs, "f2fs");
    check(0, &["mksquashfs", "files", "v", "-noappend", "-quiet"], "squashfs-tools", ContentKind::Squashfs, "squashfs");
    check(4, &["mkswap", "-L", "swap one", "v"], "util-linux", ContentKind::Swap, "swap");
    check(4, &["mkswap", "-p", "65536", "v"], "util-linux", ContentKind::Swap, "swap");
}

#[test]
fn filesystems_of_windows_and_discs() {
    let fat = |mib, args: &[&str], kind| {
        check(mib, &[&["mkfs.vfat"], args, &["v"]].concat(), "dosfstools", kind, "vfat");
    };
    fat(2, &["-n", "FLOPPY"], ContentKind::Fat12);
    fat(2, &[], ContentKind::Fat12);
    fat(32, &["-n", "SIXTEEN"], ContentKind::Fat16);
    fat(600, &["-n", "THIRTYTWO"], ContentKind::Fat32);
    fat(40, &["-F", "32"], ContentKind::Fat32);
    fat(64, &["-S", "4096", "-F", "16", "-n", "BIGSECTORS"], ContentKind::Fat16);
    check(16, &["mkfs.exfat", "-L", "Große Datei", "v"], "exfatprogs", ContentKind::ExFat, "exfat");
    check(16, &["mkfs.exfat", "v"], "exfatprogs", ContentKind::ExFat, "exfat");
    check(16, &["mkntfs", "-q", "-F", "-Q", "-L", "Größe C", "v"], "ntfs-3g", ContentKind::Ntfs, "ntfs");
    check(16, &["mkntfs", "-q", "-F", "-Q", "-c", "65536", "v"], "ntfs-3g", ContentKind::Ntfs, "ntfs");
    let iso = ["genisoimage", "-quiet", "-V", "CD_1", "-R", "-o", "v", "files"];
    check(0, &iso, "genisoimage", ContentKind::Iso9660, "iso9660");
    let iso = ["xorriso", "-as", "mkisofs", "-quiet", "-V", "CD_2", "-o", "v", "files"];
    check(0, &iso, "xorriso", ContentKind::Iso9660, "iso9660");
}

/// blkid shows such a label with two wrong bytes: it does not put back what NTFS keeps elsewhere of each sector's end.
#[test]
fn a_label_across_the_end_of_a_sector_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let label = "A label that is long enough to lie across the end of a sector of its record";
    tools::blank(dir.path(), "v", 16 * MIB);
    tools::run("mkntfs", "ntfs-3g", dir.path(), &["-q", "-F", "-Q", "-L", label, "v"]);
    assert_eq!(tools::run("ntfslabel", "ntfs-3g", dir.path(), &["v"]).trim_end(), label);
    assert_eq!(look(dir.path(), "v").label, label);
}

#[test]
fn what_is_encrypted_or_only_known_by_name() {
    let luks = |kind: &str| -> Vec<String> {
        let options =
            ["-q", "--type", kind, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "files/a"];
        let label: &[&str] = if kind == "luks2" { &["--label", "geheim"] } else { &[] };
        [&["cryptsetup", "luksFormat"], &options[..], label, &["v"]].concat().into_iter().map(String::from).collect()
    };
    for (kind, expected) in [("luks1", ContentKind::Luks1), ("luks2", ContentKind::Luks2)] {
        let command = luks(kind);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        check(32, &command, "cryptsetup-bin", expected, "crypto_LUKS");
    }
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "v", 32 * MIB);
    tools::run("mkudffs", "udftools", dir.path(), &["-b", "2048", "v"]);
    assert_eq!(look(dir.path(), "v").kind, ContentKind::Udf);
    assert_eq!(tools::blkid(dir.path(), "v")["TYPE"], "udf");
}

/// An array of two that nobody started: the superblock as mdadm(8) would write it, judged by blkid.
#[test]
fn members_of_a_software_raid_are_no_bare_filesystems() {
    let dir = tempfile::tempdir().unwrap();
    for (version, at, data_start) in
        [("1.0", 32 * MIB - 8192, 0), ("1.1", 0, MIB), ("1.2", 4096, MIB), ("0.90", 32 * MIB - 65536, 0)]
    {
        tools::blank(dir.path(), "v", 32 * MIB);
        tools::run("mkfs.ext4", "e2fsprogs", dir.path(), &["-q", "v"]);
        let mut bytes = std::fs::read(dir.path().join("v")).unwrap();
        let superblock = if version == "0.90" { superblock_0() } else { superblock_1(at / 512, data_start / 512, 17) };
        bytes[at as usize..at as usize + superblock.len()].copy_from_slice(&superblock);
        std::fs::write(dir.path().join("v"), &bytes).unwrap();
        let judge = tools::blkid(dir.path(), "v");
        let found = look(dir.path(), "v");
        assert_eq!((found.kind, judge["TYPE"].as_str()), (ContentKind::MdRaid, "linux_raid_member"), "{version}");
        assert_eq!(found.uuid, judge["UUID"]);
        assert!(judge["VERSION"].starts_with(version), "{judge:?}");
        assert_eq!(found.label, judge.get("LABEL").cloned().unwrap_or_default());
        let member = md::member(&open(&dir.path().join("v")).disk()).unwrap().expect("a member");
        assert_eq!((member.version, member.level, member.devices, member.in_sync), (version, 1, 2, true));
        assert_eq!((member.data_start.0, member.data_len.0, member.events), (data_start, 16 * MIB, 17));
        // One bit of the superblock flipped, and it is one no more.
        bytes[at as usize + 34] ^= 1;
        std::fs::write(dir.path().join("v"), &bytes).unwrap();
        assert_ne!(look(dir.path(), "v").kind, ContentKind::MdRaid, "{version}");
    }
}

pub fn superblock_1(at_sector: u64, data_sector: u64, events: u64) -> Vec<u8> {
    let mut bytes = vec![0; 256 + 4];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, b"0123456789abcdef");
    put(32, b"web1:root");
    put(72, &1u32.to_le_bytes());
    put(80, &(16 * MIB / 512).to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &data_sector.to_le_bytes());
    put(136, &(16 * MIB / 512).to_le_bytes());
    put(144, &at_sector.to_le_bytes());
    put(160, &1u32.to_le_bytes());
    put(200, &events.to_le_bytes());
    put(220, &2u32.to_le_bytes());
    put(258, &1u16.to_le_bytes());
    let sum: u64 = bytes.chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    bytes[216..220].copy_from_slice(&((sum as u32).wrapping_add((sum >> 32) as u32)).to_le_bytes());
    bytes
}

fn superblock_0() -> Vec<u8> {
    let mut words = [0u32; 1024];
    words[0] = 0xa92b_4efc;
    words[2] = 90;
    (words[5], words[13], words[14], words[15]) = (0x0102_0304, 0x0506_0708, 0x090a_0b0c, 0x0d0e_0f10);
    words[7] = 1;
    words[8] = 16 << 10;
    words[10] = 2;
    words[39] = 17;
    words[992 + 4] = 6;
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    words[38] = (sum as u32).wrapping_add((sum >> 32) as u32);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn names_of_what_no_free_tool_makes() {
    let magics: [(u64, &[u8], ContentKind); 14] = [
        (3, b"-FVE-FS-", ContentKind::BitLocker),
        (
            424,
            &[0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01],
            ContentKind::BitLocker,
        ),
        (3, b"ReFS\0\0\0\0FSRS", ContentKind::ReFs),
        (32, b"NXSB", ContentKind::Apfs),
        (1024, b"H+\0\x04", ContentKind::HfsPlus),
        (1024, b"HX\0\x05", ContentKind::HfsPlus),
        (0x10_0000, &[0x0d, 0xd0, 0x01, 0xc0], ContentKind::Vmfs),
        (
            4120,
            &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef],
            ContentKind::Bcachefs,
        ),
        (0x8000, b"JFS1", ContentKind::Jfs),
        (0x1_0034, b"ReIsEr2Fs", ContentKind::ReiserFs),
        (0x4000, b"SKUL\xba\xbe\0\x02", ContentKind::Luks2),
        (9564, &[0x19, 0x01, 0x54, 0x19], ContentKind::Ufs),
        (700_000, b"anything", ContentKind::Blank),
        (7, b"anything", ContentKind::Unknown),
    ];
    for (at, magic, kind) in magics {
        let mut bytes = vec![0; 2 << 20];
        bytes[at as usize..at as usize + magic.len()].copy_from_slice(magic);
        assert_eq!(detect(&abbild::disk::MemoryDisk(bytes)).unwrap().kind, kind);
    }
}
