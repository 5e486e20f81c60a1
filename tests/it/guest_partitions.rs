//! Partition tables as sfdisk, sgdisk and fdisk write them, and as sfdisk and blkid read them.

use std::path::Path;

use abbild::guest::partitions::{self, PartitionTable, Scheme};

use crate::formats_vmdk::open;
use crate::tools;

const MIB: u64 = 1 << 20;

fn read(folder: &Path, image: &str) -> PartitionTable {
    partitions::read(&open(&folder.join(image)).disk()).unwrap()
}

fn sfdisk(folder: &Path, image: &str, script: &str) {
    tools::run_with("sfdisk", "fdisk", folder, &["-q", "--no-reread", "--no-tell-kernel", image], script);
}

fn sgdisk(folder: &Path, args: &[&str]) {
    tools::run("sgdisk", "gdisk", folder, args);
}

/// Compares every field that `sfdisk -J` knows.
#[track_caller]
fn check_against_sfdisk(folder: &Path, image: &str) -> PartitionTable {
    let table = read(folder, image);
    let json = tools::run("sfdisk", "fdisk", folder, &["-J", image]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let judge = &json["partitiontable"];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let is_gpt = judge["label"] == "gpt";
    assert_eq!(table.scheme, if is_gpt { Scheme::Gpt } else { Scheme::Mbr });
    assert_eq!(table.id, text(&judge["id"]).to_lowercase().trim_start_matches("0x"));
    let expected: Vec<_> = judge["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| {
            let number: u32 = text(&partition["node"]).strip_prefix(image).unwrap().parse().unwrap();
            let attributes = text(&partition["attrs"]);
            (
                number,
                partition["start"].as_u64().unwrap() * 512,
                partition["size"].as_u64().unwrap() * 512,
                text(&partition["type"]).to_lowercase(),
                text(&partition["name"]),
                partition["bootable"] == true || attributes.contains("LegacyBIOSBootable"),
            )
        })
        .collect();
    let found: Vec<_> = table
        .partitions
        .iter()
        .map(|partition| {
            let kind = partition.type_id.strip_prefix("0x").unwrap_or(&partition.type_id);
            let kind = if is_gpt { kind } else { kind.trim_start_matches('0') };
            (
                partition.number,
                partition.start.0,
                partition.len.0,
                kind.to_string(),
                partition.name.clone(),
                partition.bootable,
            )
        })
        .collect();
    assert_eq!(found, expected);
    for (partition, judge) in table.partitions.iter().zip(judge["partitions"].as_array().unwrap()) {
        if is_gpt {
            assert_eq!(partition.uuid, text(&judge["uuid"]).to_lowercase());
        }
    }
    table
}

#[test]
fn an_mbr_with_logical_partitions_is_numbered_as_linux_does() {
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "d", 256 * MIB);
    let script = "label: dos\nlabel-id: 0x1badcafe\n\
        2048,20480,83,*\n\
        ,20480,7\n\
        ,,f\n\
        ,20480,8e\n\
        ,40960,82\n\
        ,20480,fd\n";
    sfdisk(dir.path(), "d", script);
    let table = check_against_sfdisk(dir.path(), "d");
    let summary: Vec<_> =
        table.partitions.iter().map(|p| (p.number, p.type_name, p.container, p.uuid.as_str())).collect();
    let expected = [
        (1, "Linux filesystem", false, "1badcafe-01"),
        (2, "NTFS, exFAT or HPFS", false, "1badcafe-02"),
        (3, "extended", true, "1badcafe-03"),
        (5, "Linux LVM", false, "1badcafe-05"),
        (6, "Linux swap", false, "1badcafe-06"),
        (7, "Linux RAID", false, "1badcafe-07"),
    ];
    assert_eq!(summary, expected);
    assert_eq!(table.warnings, Vec::<String>::new());
    // A logical partition that was deleted leaves its numbers to those behind it.
    tools::run("sfdisk", "fdisk", dir.path(), &["-q", "--no-reread", "--no-tell-kernel", "--delete", "d", "5"]);
    check_against_sfdisk(dir.path(), "d");
}

#[test]
fn a_gpt_with_gaps_names_and_attributes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "d", 64 * MIB);
    sgdisk(
        dir.path(),
        &[
            "-n",
            "1:2048:+1M",
            "-t",
            "1:ef02",
            "-A",
            "1:set:2",
            "-n",
            "3:0:+8M",
            "-t",
            "3:ef00",
            "-c",
            "3:EFI, Überraschung 日本",
            "-n",
            "128:0:0",
            "-t",
            "128:8e00",
            "-c",
            "128:thirty-six units are the utmost length",
            "d",
        ],
    );
    let table = check_against_sfdisk(dir.path(), "d");
    assert_eq!(
        table.partitions.iter().map(|p| p.type_name).collect::<Vec<_>>(),
        ["BIOS boot", "EFI system", "Linux LVM"]
    );
    assert_eq!(table.partitions[2].name.chars().count(), 36);
    assert_eq!(table.warnings, Vec::<String>::new());
}

#[test]
fn every_named_type_means_to_sgdisk_what_it_means_to_us() {
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "d", 64 * MIB);
    let codes = [
        ("8200", "Linux swap"),
        ("8300", "Linux filesystem"),
        ("8302", "Linux home"),
        ("8303", "Linux root (x86)"),
        ("8304", "Linux root (x86-64)"),
        ("8305", "Linux root (ARM64)"),
        ("8306", "Linux server data"),
        ("8309", "Linux LUKS"),
        ("8e00", "Linux LVM"),
        ("fd00", "Linux RAID"),
        ("0c01", "Microsoft reserved"),
        ("0700", "Microsoft basic data"),
        ("2700", "Windows recovery"),
        ("4200", "Windows dynamic disk"),
        ("4201", "Windows dynamic disk metadata"),
        ("fb00", "VMware VMFS"),
        ("af00", "Apple HFS+"),
        ("af0a", "Apple APFS"),
        ("a504", "FreeBSD ZFS"),
        ("a503", "FreeBSD UFS"),
        ("bf01", "ZFS or Solaris /usr"),
        ("ea00", "Linux extended boot"),
        ("8308", "Linux dm-crypt"),
        ("8310", "Linux variable data"),
        ("a600", "OpenBSD data"),
        ("7f00", "ChromeOS kernel"),
    ];
    let mut args: Vec<String> = Vec::new();
    for (number, (code, _)) in codes.iter().enumerate() {
        let number = number + 1;
        args.extend(["-n".into(), format!("{number}:0:+1M"), "-t".into(), format!("{number}:{code}")]);
    }
    args.push("d".into());
    sgdisk(dir.path(), &args.iter().map(String::as_str).collect::<Vec<_>>());
    let table = check_against_sfdisk(dir.path(), "d");
    let names: Vec<_> = table.partitions.iter().map(|partition| partition.type_name).collect();
    assert_eq!(names, codes.map(|(_, name)| name));
}

#[test]
fn a_damaged_or_moved_gpt_is_read_from_its_other_copy_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "d", 64 * MIB);
    sgdisk(dir.path(), &["-n", "1:2048:+8M", "-n", "2:0:+8M", "d"]);
    let sound = read(dir.path(), "d");
    let bytes = std::fs::read(dir.path().join("d")).unwrap();
    let check = |damage: &dyn Fn(&mut Vec<u8>), warnings: &[&str]| {
        let mut bytes = bytes.clone();
        damage(&mut bytes);
        std::fs::write(dir.path().join("e"), &bytes).unwrap();
        let table = read(dir.path(), "e");
        assert_eq!((&table.partitions, &table.id), (&sound.partitions, &sound.id));
        assert_eq!(table.warnings.len(), warnings.len(), "{:?}", table.warnings);
        for (found, expected) in table.warnings.iter().zip(warnings) {
            assert!(found.contains(expected), "{found}");
        }
    };
    let end = bytes.len();
    check(&|_| {}, &[]);
    check(&|bytes| bytes[512 + 60] ^= 1, &["at its beginning is damaged: GPT header checksum at 0x210"]);
    check(&|bytes| bytes[1024 + 33] ^= 1, &["at its beginning is damaged: checksum of the GPT entries at 0x400"]);
    check(&|bytes| bytes[512..520].fill(0), &["at its beginning is damaged: GPT header at 0x"]);
    check(&|bytes| bytes[end - 512..].fill(0), &["the backup of the GPT is damaged: GPT header at 0x3fffe00"]);
    check(&|bytes| bytes[end - 512 - 100] ^= 1, &["the backup of the GPT is damaged: checksum of the GPT entries"]);
    check(&|bytes| bytes.truncate(end - MIB as usize), &["the backup of the GPT is damaged: GPT header at 0x3fffe00"]);
    // The first MiB was overwritten with zeros, as by a careless dd.
    let wiped = "the first sector, which should say that there is a GPT, is empty";
    check(&|bytes| bytes[..MIB as usize].fill(0), &[wiped, "the backup of the GPT at the end of the disk was used"]);
    check(&|bytes| bytes[..512].fill(0), &[wiped]);
    // The disk was enlarged: the backup is no longer at the end, but where the table says.
    check(&|bytes| bytes.extend([0; 4096]), &[]);
}

#[test]
fn sectors_of_4096_bytes_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "d", 64 * MIB);
    let script = "g\nn\n1\n256\n+8M\nn\n2\n\n\nt\n1\n1\nw\n";
    tools::run_with("fdisk", "fdisk", dir.path(), &["-b", "4096", "d"], script);
    let table = read(dir.path(), "d");
    let listing = tools::run("fdisk", "fdisk", dir.path(), &["-b", "4096", "-l", "-o", "Start,Sectors,UUID", "d"]);
    let expected: Vec<String> = listing.lines().rev().take(2).map(str::to_lowercase).collect();
    let found = table.partitions.iter().rev().map(|p| (p.start.0 / 4096, p.len.0 / 4096, &p.uuid));
    for (line, (start, len, uuid)) in expected.iter().zip(found) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields, [start.to_string().as_str(), len.to_string().as_str(), uuid.as_str()]);
    }
    assert_eq!((table.scheme, table.sector_size, table.partitions.len()), (Scheme::Gpt, 4096, 2));
    assert_eq!(table.partitions[0].type_name, "EFI system");
    // Its backup is found as well.
    let mut bytes = std::fs::read(dir.path().join("d")).unwrap();
    bytes[4096..8192].fill(0);
    std::fs::write(dir.path().join("d"), bytes).unwrap();
    let from_backup = read(dir.path(), "d");
    assert_eq!(from_backup.partitions, table.partitions);
    assert_eq!(from_backup.warnings.len(), 1);
}

#[test]
fn a_hybrid_mbr_does_not_hide_the_gpt() {
    let dir = tempfile::tempdir().unwrap();
    tools::blank(dir.path(), "d", 64 * MIB);
    sgdisk(dir.path(), &["-n", "1:2048:+8M", "-n", "2:0:+8M", "d"]);
    sgdisk(dir.path(), &["-h", "1:2", "d"]);
    let table = read(dir.path(), "d");
    assert_eq!((table.scheme, table.partitions.len()), (Scheme::Gpt, 2));
    assert_eq!(table.warnings, ["a hybrid MBR: its 2 further entries are ignored, as Linux does"]);
}

#[test]
fn filesystems_on_whole_disks_are_no_tables() {
    let dir = tempfile::tempdir().unwrap();
    let makers: [(&str, &str, &[&str]); 5] = [
        ("mkfs.vfat", "dosfstools", &["d"]),
        ("mkfs.vfat", "dosfstools", &["-F", "32", "d"]),
        ("mkntfs", "ntfs-3g", &["-q", "-F", "-Q", "d"]),
        ("mkfs.exfat", "exfatprogs", &["d"]),
        ("mkfs.ext4", "e2fsprogs", &["-q", "d"]),
    ];
    for (tool, package, args) in makers {
        tools::blank(dir.path(), "d", 64 * MIB);
        tools::run(tool, package, dir.path(), args);
        assert_eq!(read(dir.path(), "d").scheme, Scheme::None, "{tool}");
    }
    tools::blank(dir.path(), "d", 64 * MIB);
    assert_eq!(read(dir.path(), "d").scheme, Scheme::None);
    tools::blank(dir.path(), "d", 0);
    assert_eq!(read(dir.path(), "d").scheme, Scheme::None);
    // A GPT that a filesystem on the whole disk has overwritten, but for its backup.
    tools::blank(dir.path(), "d", 64 * MIB);
    sgdisk(dir.path(), &["-n", "1:2048:+8M", "d"]);
    tools::run("mkfs.ext4", "e2fsprogs", dir.path(), &["-q", "-F", "d"]);
    assert_eq!(read(dir.path(), "d").scheme, Scheme::None);
}
