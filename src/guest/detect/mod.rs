//! What lies on a volume: told by its magic numbers, not by what the partition table says.
//!
//! In here: one table of signatures in the order in which they are believed; labels and UUIDs as `blkid` prints them, where
//! a few reads are enough. Not in here: reading filesystems, finding volumes.
//!
//! Containers come before filesystems: a member of a RAID with its metadata at the end looks like a bare filesystem. Weak
//! magics (FAT has none) come late, and only count together with plausible fields. Nothing here is proof of health.
//!
//! Source: util-linux libblkid/src/superblocks; the published layout of each filesystem.

mod fat;
mod identity;
pub mod md;
mod ntfs;
mod probe;

use std::fmt;

use serde::Serialize;

use crate::disk::{Disk, DiskError};
pub(super) use identity::{dos_label, serial};
use probe::Probe;

/// What lies on a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// What it is.
    pub kind: ContentKind,
    /// The admin's name for it, as `blkid` prints it; empty if there is none, or it is not read here.
    pub label: String,
    /// Its UUID or serial number, as `blkid` prints it; empty if there is none, or it is not read here.
    pub uuid: String,
}

/// What a volume can hold, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // `word` says it
pub enum ContentKind {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    Ntfs,
    ExFat,
    Fat12,
    Fat16,
    Fat32,
    Iso9660,
    Squashfs,
    Swap,
    LvmPv,
    Luks1,
    Luks2,
    BitLocker,
    MdRaid,
    ReFs,
    Zfs,
    Apfs,
    HfsPlus,
    F2fs,
    Vmfs,
    Bcache,
    Bcachefs,
    Udf,
    Jfs,
    ReiserFs,
    Nilfs2,
    Erofs,
    Ufs,
    /// Only zeros where the above would have something.
    Blank,
    /// Something else.
    Unknown,
}

/// What can be done with a kind of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A filesystem that this program reads.
    FileSystem,
    /// Holds or joins other volumes.
    Container,
    /// Encrypted: unreadable without the guest's key.
    Encrypted,
    /// Known by name only.
    NamedOnly,
    /// Nothing to be read as files.
    NoFiles,
}

impl ContentKind {
    /// One word for tables, JSON and messages, the same as in a tree's summary.
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// What can be done with it.
    pub fn role(self) -> Role {
        self.row().1
    }

    fn row(self) -> (&'static str, Role) {
        match self {
            ContentKind::Ext2 => ("ext2", Role::FileSystem),
            ContentKind::Ext3 => ("ext3", Role::FileSystem),
            ContentKind::Ext4 => ("ext4", Role::FileSystem),
            ContentKind::Xfs => ("xfs", Role::FileSystem),
            ContentKind::Btrfs => ("btrfs", Role::FileSystem),
            ContentKind::Ntfs => ("ntfs", Role::FileSystem),
            ContentKind::ExFat => ("exfat", Role::FileSystem),
            ContentKind::Fat12 => ("fat12", Role::FileSystem),
            ContentKind::Fat16 => ("fat16", Role::FileSystem),
            ContentKind::Fat32 => ("fat32", Role::FileSystem),
            ContentKind::Iso9660 => ("iso9660", Role::FileSystem),
            ContentKind::Squashfs => ("squashfs", Role::FileSystem),
            ContentKind::Swap => ("swap", Role::NoFiles),
            ContentKind::LvmPv => ("lvm2", Role::Container),
            ContentKind::MdRaid => ("mdraid", Role::Container),
            ContentKind::Luks1 => ("luks1", Role::Encrypted),
            ContentKind::Luks2 => ("luks2", Role::Encrypted),
            ContentKind::BitLocker => ("bitlocker", Role::Encrypted),
            ContentKind::ReFs => ("refs", Role::NamedOnly),
            ContentKind::Zfs => ("zfs", Role::NamedOnly),
            ContentKind::Apfs => ("apfs", Role::NamedOnly),
            ContentKind::HfsPlus => ("hfsplus", Role::NamedOnly),
            ContentKind::F2fs => ("f2fs", Role::NamedOnly),
            ContentKind::Vmfs => ("vmfs", Role::NamedOnly),
            ContentKind::Bcache => ("bcache", Role::NamedOnly),
            ContentKind::Bcachefs => ("bcachefs", Role::NamedOnly),
            ContentKind::Udf => ("udf", Role::NamedOnly),
            ContentKind::Jfs => ("jfs", Role::NamedOnly),
            ContentKind::ReiserFs => ("reiserfs", Role::NamedOnly),
            ContentKind::Nilfs2 => ("nilfs2", Role::NamedOnly),
            ContentKind::Erofs => ("erofs", Role::NamedOnly),
            ContentKind::Ufs => ("ufs", Role::NamedOnly),
            ContentKind::Blank => ("blank", Role::NoFiles),
            ContentKind::Unknown => ("unknown", Role::NoFiles),
        }
    }

    /// Whether anything was recognised.
    pub fn is_known(self) -> bool {
        !matches!(self, ContentKind::Blank | ContentKind::Unknown)
    }

    /// Whether its first sector is a boot sector that could be taken for a partition table.
    pub(super) fn begins_with_boot_sector(self) -> bool {
        use ContentKind::{BitLocker, ExFat, Fat12, Fat16, Fat32, Ntfs, ReFs};
        matches!(self, Ntfs | ExFat | Fat12 | Fat16 | Fat32 | BitLocker | ReFs)
    }
}

impl fmt::Display for ContentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for ContentKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl Content {
    fn unnamed(kind: ContentKind) -> Content {
        Content { kind, label: String::new(), uuid: String::new() }
    }
}

/// Says what lies on `volume`. Reads about 70 KiB from its beginning, and a few sectors elsewhere.
///
/// # Errors
/// Only what the disk fails with: unknown content is no error.
pub fn detect(volume: &dyn Disk) -> Result<Content, DiskError> {
    let probe = Probe::new(volume)?;
    for signature in SIGNATURES {
        for place in signature.places {
            let at = match *place {
                Place::Start(at) => at,
                Place::End(distance) => match probe.size().checked_sub(distance) {
                    Some(at) => at,
                    None => continue,
                },
            };
            if probe.has(at, signature.magic)?
                && let Some(content) = (signature.look)(&probe, signature.kind, at)?
            {
                return Ok(content);
            }
        }
    }
    let kind = if probe.is_blank() { ContentKind::Blank } else { ContentKind::Unknown };
    Ok(Content::unnamed(kind))
}

/// A magic number, where it may lie, and who looks closer.
struct Signature {
    kind: ContentKind,
    places: &'static [Place],
    magic: &'static [u8],
    look: Look,
}

/// Bytes from the volume's beginning, or back from its end.
enum Place {
    Start(u64),
    End(u64),
}

/// Looks at the fields around a magic found at a place; `None` if it is not that kind after all.
type Look = fn(&Probe<'_>, ContentKind, u64) -> Result<Option<Content>, DiskError>;

const fn row(kind: ContentKind, places: &'static [Place], magic: &'static [u8], look: Look) -> Signature {
    Signature { kind, places, magic, look }
}

use ContentKind as Kind;
use Place::{End, Start};

/// In the order in which they are believed.
static SIGNATURES: &[Signature] = &[
    // Its superblock can be at the end of what looks like a bare filesystem: `md` looks at all its places.
    row(Kind::MdRaid, &[Start(0)], b"", identity::md_member),
    row(Kind::LvmPv, &[Start(512), Start(0), Start(1024), Start(1536)], b"LABELONE", identity::lvm_pv),
    row(Kind::Luks1, &[Start(0)], b"LUKS\xba\xbe\x00\x01", identity::luks1),
    row(Kind::Luks2, &[Start(0)], b"LUKS\xba\xbe\x00\x02", identity::luks2),
    row(Kind::BitLocker, &[Start(3)], b"-FVE-FS-", unnamed),
    row(
        Kind::BitLocker,
        &[Start(424)],
        &[0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01],
        unnamed,
    ),
    row(
        Kind::Bcache,
        &[Start(4096 + 24)],
        &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
        unnamed,
    ),
    row(
        Kind::Bcachefs,
        &[Start(4096 + 24)],
        &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef],
        identity::bcachefs,
    ),
    row(Kind::Xfs, &[Start(0)], b"XFSB", identity::xfs),
    row(Kind::Squashfs, &[Start(0)], b"hsqs", identity::squashfs),
    row(Kind::Ntfs, &[Start(3)], b"NTFS    ", ntfs::ntfs),
    row(Kind::ExFat, &[Start(3)], b"EXFAT   ", fat::exfat),
    row(Kind::ReFs, &[Start(3)], b"ReFS\0\0\0\0", unnamed),
    row(Kind::Apfs, &[Start(32)], b"NXSB", identity::apfs),
    row(Kind::F2fs, &[Start(1024)], &[0x10, 0x20, 0xf5, 0xf2], identity::f2fs),
    row(Kind::Erofs, &[Start(1024)], &[0xe2, 0xe1, 0xf5, 0xe0], identity::erofs),
    row(
        Kind::Swap,
        &[Start(4086), Start(8182), Start(16374), Start(32758), Start(65526)],
        b"SWAPSPACE2",
        identity::swap,
    ),
    row(Kind::Btrfs, &[Start(0x1_0040)], b"_BHRfS_M", identity::btrfs),
    row(Kind::ReiserFs, &[Start(0x1_0034)], b"ReIsEr", unnamed),
    row(Kind::Jfs, &[Start(0x8000)], b"JFS1", unnamed),
    row(Kind::Iso9660, &[Start(0x8001)], b"CD001", identity::iso9660),
    row(Kind::Udf, &[Start(0x8001)], b"BEA01", identity::udf),
    row(Kind::Ext2, &[Start(1080)], &[0x53, 0xef], identity::ext),
    row(Kind::HfsPlus, &[Start(1024)], b"H+\0\x04", unnamed),
    row(Kind::HfsPlus, &[Start(1024)], b"HX\0\x05", unnamed),
    row(Kind::Nilfs2, &[Start(1024 + 6)], &[0x34, 0x34], identity::nilfs2),
    row(Kind::Fat12, &[Start(510)], &[0x55, 0xaa], fat::fat),
    // From here on it costs reads far apart.
    row(Kind::Vmfs, &[Start(0x10_0000)], &[0x0d, 0xd0, 0x01, 0xc0], unnamed),
    row(Kind::Vmfs, &[Start(0x20_0000)], &[0x5e, 0xf1, 0xab, 0x2f], unnamed),
    row(Kind::Ufs, &[Start(8192 + 1372), Start(65536 + 1372)], &[0x19, 0x01, 0x54, 0x19], unnamed),
    row(Kind::Zfs, &[Start(0), Start(256 << 10), End(512 << 10), End(256 << 10)], b"", identity::zfs),
    // The first header of LUKS2 may be wiped; the second lies at one of these places, by the size of the first.
    row(
        Kind::Luks2,
        &[
            Start(0x4000),
            Start(0x8000),
            Start(0x1_0000),
            Start(0x2_0000),
            Start(0x4_0000),
            Start(0x8_0000),
            Start(0x10_0000),
            Start(0x20_0000),
            Start(0x40_0000),
        ],
        b"SKUL\xba\xbe\x00\x02",
        identity::luks2,
    ),
];

fn unnamed(_: &Probe<'_>, kind: ContentKind, _: u64) -> Result<Option<Content>, DiskError> {
    Ok(Some(Content::unnamed(kind)))
}

#[cfg(test)]
mod tests;
