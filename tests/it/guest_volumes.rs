//! All disks of a machine together: partitions, RAID over disks, LVM on top, filesystems on whole disks.

use std::path::Path;
use std::sync::Arc;

use abbild::disk::{Disk, MemoryDisk};
use abbild::guest::detect::ContentKind;
use abbild::guest::volumes::{Volumes, volumes};
use abbild::units::GuestOffset;

use crate::cli::Stage;
use crate::formats_vmdk::open;
use crate::guest_detect::superblock_1;
use crate::tools;

const MIB: usize = 1 << 20;

fn found(disks: Vec<Vec<u8>>) -> Volumes {
    let named = disks.into_iter().enumerate();
    let disks: Vec<(String, Arc<dyn Disk>)> =
        named.map(|(n, bytes)| (format!("disk{n}"), Arc::new(MemoryDisk(bytes)) as Arc<dyn Disk>)).collect();
    volumes(&disks)
}

fn summary(found: &Volumes) -> Vec<(&str, ContentKind, &str)> {
    found.volumes.iter().map(|v| (v.name.as_str(), v.content.kind, v.content.label.as_str())).collect()
}

fn made(folder: &Path, mib: usize, tool: &[&str], package: &str) -> Vec<u8> {
    tools::blank(folder, "v", (mib * MIB) as u64);
    tools::run(tool[0], package, folder, &[&tool[1..], &["v"]].concat());
    std::fs::read(folder.join("v")).unwrap()
}

#[test]
fn the_guest_of_the_fixture_has_its_one_filesystem() {
    let stage = Stage::new();
    let disk = open(&stage.path("web1/web1-000002.vmdk")).disk();
    let found = volumes(&[("scsi0:0".to_string(), Arc::new(disk) as Arc<dyn Disk>)]);
    assert_eq!(summary(&found), [("scsi0:0/p1", ContentKind::Ext4, "root")]);
    assert_eq!(found.volumes[0].content.uuid, "6e1f8a52-0c6b-4d7e-9a43-5b1d6c0f2a03");
    assert_eq!(found.volumes[0].size.0, 96 * MIB as u64);
    assert_eq!((&found.warnings, &found.faults), (&vec![], &vec![]));
}

#[test]
fn a_mirror_is_read_from_the_member_that_missed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let member = |label: &str, events: u64| {
        let mut disk = vec![0; 20 * MIB];
        disk[MIB..17 * MIB].copy_from_slice(&made(dir.path(), 16, &["mke2fs", "-q", "-L", label], "e2fsprogs"));
        disk[4096..4096 + 260].copy_from_slice(&superblock_1(8, 2048, events));
        disk
    };
    let (stale, fresh) = (member("stale", 17), member("fresh", 18));
    for disks in [vec![stale.clone(), fresh.clone()], vec![fresh.clone(), stale.clone()]] {
        let found = found(disks);
        let expected = [
            ("disk0", ContentKind::MdRaid, "web1:root"),
            ("disk1", ContentKind::MdRaid, "web1:root"),
            ("md/root", ContentKind::Ext2, "fresh"),
        ];
        assert_eq!(summary(&found), expected);
        let mut bytes = vec![0; 16 * MIB];
        found.volumes[2].disk.read_at(GuestOffset(0), &mut bytes).unwrap();
        assert!(bytes == fresh[MIB..17 * MIB]);
    }
    // A member that is shorter than it says, and an array of another level.
    let cut = found(vec![fresh[..16 * MIB].to_vec()]);
    assert_eq!(cut.unavailable[0].reason, "disk0 should hold 16777216 bytes from 0x100000, and has only 16777216");
    let mut raid5 = fresh;
    let superblock = &mut raid5[4096..4096 + 260];
    superblock[72] = 5;
    let sum = u32::from_le_bytes(superblock[216..220].try_into().unwrap()) + 4;
    superblock[216..220].copy_from_slice(&sum.to_le_bytes());
    let named = found(vec![raid5]);
    assert_eq!(named.unavailable[0].name, "md/root");
    assert_eq!(named.unavailable[0].reason, "software RAID of 2 devices is not supported: it is RAID 5");
}

#[test]
fn an_image_of_a_disc_that_is_a_disk_as_well_is_both() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("files")).unwrap();
    std::fs::write(dir.path().join("files/a"), vec![7; 3 * MIB]).unwrap();
    let options = ["-as", "mkisofs", "-quiet", "-V", "BOTH", "-partition_offset", "16", "-o", "v", "files"];
    tools::run("xorriso", "xorriso", dir.path(), &options);
    let found = found(vec![std::fs::read(dir.path().join("v")).unwrap()]);
    let kinds: Vec<_> = found.volumes.iter().map(|v| (v.name.as_str(), v.content.kind)).collect();
    assert_eq!(kinds, [("disk0/p1", ContentKind::Iso9660), ("disk0", ContentKind::Iso9660)]);
}

#[test]
fn disks_that_are_not_divided_are_volumes_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let fat = made(dir.path(), 8, &["mkfs.vfat", "-n", "DATA"], "dosfstools");
    let luks = b"LUKS\xba\xbe\0\x01".iter().copied().chain([0; 4096]).collect();
    let found = found(vec![fat, vec![0; MIB], luks, vec![]]);
    let expected = [
        ("disk0", ContentKind::Fat12, "DATA"),
        ("disk1", ContentKind::Blank, ""),
        ("disk2", ContentKind::Luks1, ""),
        ("disk3", ContentKind::Blank, ""),
    ];
    assert_eq!(summary(&found), expected);
    assert_eq!(found.with_files().count(), 1);
}
