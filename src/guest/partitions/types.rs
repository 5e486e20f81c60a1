//! What the types of partitions mean, in words.
//!
//! Sources: UEFI 2.10 table 5-7; the Discoverable Partitions Specification; the vendors' own lists.

use uuid::{Uuid, uuid};

/// The meaning of an MBR partition type; empty if it is not known.
pub(super) fn of_mbr(kind: u8) -> &'static str {
    match kind {
        0x01 => "FAT12",
        0x04 | 0x06 => "FAT16",
        0x05 | 0x0f | 0x85 => "extended",
        0x07 => "NTFS, exFAT or HPFS",
        0x0b | 0x0c => "FAT32",
        0x0e => "FAT16 (LBA)",
        0x11 | 0x14 | 0x16 | 0x1b | 0x1c | 0x1e => "FAT (hidden)",
        0x12 => "diagnostics",
        0x17 => "NTFS (hidden)",
        0x27 => "Windows recovery",
        0x39 => "Plan 9",
        0x42 => "Windows dynamic disk",
        0x63 => "Unix System V",
        0x82 => "Linux swap",
        0x83 => "Linux filesystem",
        0x8e => "Linux LVM",
        0xa5 => "FreeBSD",
        0xa6 => "OpenBSD",
        0xa8 => "Darwin UFS",
        0xa9 => "NetBSD",
        0xaf => "HFS or HFS+",
        0xbe => "Solaris boot",
        0xbf => "Solaris",
        0xea => "Linux extended boot",
        0xee => "GPT protective",
        0xef => "EFI system",
        0xfb => "VMware VMFS",
        0xfc => "VMware swap",
        0xfd => "Linux RAID",
        _ => "",
    }
}

/// The meaning of a GPT partition type; empty if it is not known.
pub(super) fn of_gpt(kind: Uuid) -> &'static str {
    GPT_TYPES.iter().find(|(id, _)| *id == kind).map_or("", |(_, name)| name)
}

static GPT_TYPES: [(Uuid, &str); 50] = [
    (uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), "EFI system"),
    (uuid!("21686148-6449-6e6f-744e-656564454649"), "BIOS boot"),
    (uuid!("024dee41-33e7-11d3-9d69-0008c781f39f"), "MBR partition scheme"),
    (uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"), "Linux filesystem"),
    (uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"), "Linux swap"),
    (uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928"), "Linux LVM"),
    (uuid!("a19d880f-05fc-4d3b-a006-743f0f84911e"), "Linux RAID"),
    (uuid!("bc13c2ff-59e6-4262-a352-b275fd6f7172"), "Linux extended boot"),
    (uuid!("933ac7e1-2eb4-4f13-b844-0e14e2aef915"), "Linux home"),
    (uuid!("3b8f8425-20e0-4f3b-907f-1a25a76f98e8"), "Linux server data"),
    (uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d"), "Linux variable data"),
    (uuid!("7ec6f557-3bc5-4aca-b293-16ef5df639d1"), "Linux temporary data"),
    (uuid!("8da63339-0007-60c0-c436-083ac8230908"), "Linux reserved"),
    (uuid!("ca7d7ccb-63ed-4c53-861c-1742536059cc"), "Linux LUKS"),
    (uuid!("7ffec5c9-2d00-49b7-8941-3ea10a5586b7"), "Linux dm-crypt"),
    (uuid!("44479540-f297-41b2-9af7-d131d5f0458a"), "Linux root (x86)"),
    (uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), "Linux root (x86-64)"),
    (uuid!("b921b045-1df0-41c3-af44-4c6f280d3fae"), "Linux root (ARM64)"),
    (uuid!("69dad710-2ce4-4e3c-b16c-21a1d49abed3"), "Linux root (ARM)"),
    (uuid!("8484680c-9521-48c6-9c11-b0720656f69e"), "Linux /usr (x86-64)"),
    (uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"), "Linux root verity (x86-64)"),
    (uuid!("e3c9e316-0b5c-4db8-817d-f92df00215ae"), "Microsoft reserved"),
    (uuid!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"), "Microsoft basic data"),
    (uuid!("de94bba4-06d1-4d40-a16a-bfd50179d6ac"), "Windows recovery"),
    (uuid!("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3"), "Windows dynamic disk metadata"),
    (uuid!("af9b60a0-1431-4f62-bc68-3311714a69ad"), "Windows dynamic disk"),
    (uuid!("e75caf8f-f680-4cee-afa3-b001e56efc2d"), "Windows Storage Spaces"),
    (uuid!("558d43c5-a1ac-43c0-aac8-d1472b2923d1"), "Windows Storage Replica"),
    (uuid!("aa31e02a-400f-11db-9590-000c2911d1b8"), "VMware VMFS"),
    (uuid!("9d275380-40ad-11db-bf97-000c2911d1b8"), "VMware diagnostics"),
    (uuid!("9198effc-31c0-11db-8f78-000c2911d1b8"), "VMware reserved"),
    (uuid!("48465300-0000-11aa-aa11-00306543ecac"), "Apple HFS+"),
    (uuid!("7c3457ef-0000-11aa-aa11-00306543ecac"), "Apple APFS"),
    (uuid!("426f6f74-0000-11aa-aa11-00306543ecac"), "Apple boot"),
    (uuid!("53746f72-6167-11aa-aa11-00306543ecac"), "Apple Core Storage"),
    (uuid!("52414944-0000-11aa-aa11-00306543ecac"), "Apple RAID"),
    (uuid!("83bd6b9d-7f41-11dc-be0b-001560b84f0f"), "FreeBSD boot"),
    (uuid!("516e7cb4-6ecf-11d6-8ff8-00022d09712b"), "FreeBSD data"),
    (uuid!("516e7cb5-6ecf-11d6-8ff8-00022d09712b"), "FreeBSD swap"),
    (uuid!("516e7cb6-6ecf-11d6-8ff8-00022d09712b"), "FreeBSD UFS"),
    (uuid!("516e7cba-6ecf-11d6-8ff8-00022d09712b"), "FreeBSD ZFS"),
    (uuid!("824cc7a0-36a8-11e3-890a-952519ad3f61"), "OpenBSD data"),
    (uuid!("49f48d5a-b10e-11dc-b99b-0019d1879648"), "NetBSD FFS"),
    (uuid!("49f48d32-b10e-11dc-b99b-0019d1879648"), "NetBSD swap"),
    (uuid!("6a898cc3-1dd2-11b2-99a6-080020736631"), "ZFS or Solaris /usr"),
    (uuid!("6a945a3b-1dd2-11b2-99a6-080020736631"), "Solaris reserved"),
    (uuid!("6a85cf4d-1dd2-11b2-99a6-080020736631"), "Solaris root"),
    (uuid!("fe3a2a5d-4f32-41a7-b725-accc3285a309"), "ChromeOS kernel"),
    (uuid!("3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec"), "ChromeOS root"),
    (uuid!("4fbd7e29-9d25-41b8-afd0-062c0ceff05d"), "Ceph OSD"),
];
