//! `abbild inspect` shows what is on the disk of an image: partitions, logical volumes, filesystems.

use std::os::unix::fs::FileExt;

use crate::cli::Stage;
use crate::tools;

const MIB: u64 = 1 << 20;

/// A GPT with an EFI system, a root filesystem, swap, something encrypted and something unknown.
fn divided(stage: &Stage) {
    let folder = stage.path("");
    tools::blank(&folder, "d", 128 * MIB);
    let table = "label: gpt\nlabel-id: 5d0a1c3e-0000-4000-8000-00000000d15c\n\
        start=2048, size=16384, type=U, name=\"EFI System\"\nsize=65536, type=L, name=root\nsize=8192, type=S\n\
        size=16384, type=L\ntype=L\n";
    tools::run_with("sfdisk", "fdisk", &folder, &["-q", "--no-reread", "--no-tell-kernel", "d"], table);
    let disk = std::fs::File::options().write(true).open(folder.join("d")).unwrap();
    let put = |name: &str, mib: u64| disk.write_all_at(&std::fs::read(folder.join(name)).unwrap(), mib * MIB).unwrap();
    tools::blank(&folder, "efi", 8 * MIB);
    tools::run("mkfs.vfat", "dosfstools", &folder, &["-n", "EFI", "-i", "12345678", "efi"]);
    put("efi", 1);
    tools::blank(&folder, "root", 32 * MIB);
    let uuid = "11111111-2222-3333-4444-555555555555";
    tools::run("mke2fs", "e2fsprogs", &folder, &["-q", "-t", "ext4", "-L", "wurzel", "-U", uuid, "root"]);
    put("root", 9);
    tools::blank(&folder, "swap", 4 * MIB);
    tools::run("mkswap", "util-linux", &folder, &["-U", uuid, "swap"]);
    put("swap", 41);
    disk.write_all_at(b"-FVE-FS-", 45 * MIB + 3).unwrap();
    disk.write_all_at(b"mystery", 53 * MIB).unwrap();
}

#[test]
fn partitions_are_listed_with_what_lies_on_them() {
    let stage = Stage::empty();
    divided(&stage);
    let run = stage.run(&["inspect", "d"]).ok();
    let expected = "\
table      GPT 5d0a1c3e-0000-4000-8000-00000000d15c
VOLUME       START      SIZE  CONTENT    TYPE              LABEL   NAME        UUID
disk0/p1   1.0 MiB   8.0 MiB  fat12      EFI system        EFI     EFI System  1234-5678
disk0/p2   9.0 MiB  32.0 MiB  ext4       Linux filesystem  wurzel  root        11111111-2222-3333-4444-555555555555
disk0/p3  41.0 MiB   4.0 MiB  swap       Linux swap                            11111111-2222-3333-4444-555555555555
disk0/p4  45.0 MiB   8.0 MiB  bitlocker  Linux filesystem
disk0/p5  53.0 MiB  74.0 MiB  unknown    Linux filesystem
";
    let (_, table) = run.stdout.split_once("\n\n").and_then(|(_, rest)| rest.split_once("\n\n")).unwrap();
    assert_eq!(table, expected, "{}", run.stdout);
    let json = stage.run(&["inspect", "d", "--json"]).ok().json();
    let contents = &json["contents"];
    assert_eq!(contents["table"]["scheme"], "gpt");
    assert_eq!(contents["table"]["partitions"].as_array().unwrap().len(), 5);
    let root = &contents["volumes"][1];
    assert_eq!((&root["name"], &root["kind"], &root["label"]), (&"disk0/p2".into(), &"ext4".into(), &"wurzel".into()));
    assert_eq!(root["partition"]["start"], 9 * MIB);
    assert_eq!(root["partition"]["number"], 2);
    assert_eq!(json["virtual_size"], 128 * MIB);
}

#[test]
fn a_damaged_table_is_named_and_the_image_still_described() {
    let stage = Stage::empty();
    divided(&stage);
    let disk = std::fs::File::options().write(true).open(stage.path("d")).unwrap();
    disk.write_all_at(&[0xff; 8], 512 + 60).unwrap();
    let run = stage.run(&["inspect", "d"]).ok();
    assert!(run.stdout.contains("disk0: the backup of the GPT at the end of the disk was used"), "{run:?}");
    assert!(run.stdout.contains("disk0/p2   9.0 MiB"), "{run:?}");
    disk.write_all_at(&[0xff; 8], 128 * MIB - 512 + 60).unwrap();
    let run = stage.run(&["inspect", "d"]).ok();
    assert!(run.stdout.contains("\ntable      unknown\ndisk0: GPT header checksum at 0x210"), "{run:?}");
    // No image, no content: there is nothing to say about it.
    let json = stage.run(&["inspect", "nothing", "--json"]).ended(1).json();
    assert!(json["contents"].is_null());
}

#[test]
fn an_undivided_disk_is_one_volume() {
    let stage = Stage::empty();
    tools::blank(&stage.path(""), "d", 32 * MIB);
    let contents = |stage: &Stage| stage.run(&["inspect", "d", "--json"]).ok().json()["contents"].clone();
    let blank = contents(&stage);
    assert_eq!((&blank["table"]["scheme"], &blank["volumes"][0]["kind"]), (&"none".into(), &"blank".into()));
    tools::run("mke2fs", "e2fsprogs", &stage.path(""), &["-q", "-t", "ext2", "d"]);
    let whole = contents(&stage);
    assert_eq!((&whole["volumes"][0]["name"], &whole["volumes"][0]["kind"]), (&"disk0".into(), &"ext2".into()));
    assert!(whole["volumes"][0]["partition"].is_null());
}
