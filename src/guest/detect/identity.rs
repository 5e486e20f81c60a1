//! Labels and UUIDs of whatever keeps them at fixed places, and the further fields that a weak magic needs.

use super::probe::{Probe, text, utf16, uuid};
use super::{Content, ContentKind, md};
use crate::disk::DiskError;

type Found = Result<Option<Content>, DiskError>;

fn found(kind: ContentKind, label: String, uuid: String) -> Found {
    Ok(Some(Content { kind, label, uuid }))
}

/// ext2, ext3 and ext4 share one magic of 16 bits; features tell them apart, as libblkid does.
pub(super) fn ext(probe: &Probe<'_>, _: ContentKind, _: u64) -> Found {
    const SUPER: u64 = 1024;
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    /// What ext3 knows of the features that old programs may not read: filetype, recover, meta_bg.
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    /// What ext2 and ext3 know of those that they may not write: sparse_super, large_file, btree_dir.
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    let inodes = probe.le32(SUPER)?;
    let log_block_size = probe.le32(SUPER + 24)?;
    let blocks_per_group = probe.le32(SUPER + 32)?;
    let revision = probe.le32(SUPER + 76)?;
    if inodes == 0 || blocks_per_group == 0 || log_block_size > 6 || revision > 1 {
        return Ok(None);
    }
    let (compatible, incompatible, read_only) = if revision == 0 {
        (0, 0, 0)
    } else {
        (probe.le32(SUPER + 92)?, probe.le32(SUPER + 96)?, probe.le32(SUPER + 100)?)
    };
    let is_journal = incompatible & JOURNAL_DEVICE != 0;
    let beyond_ext3 = incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0;
    let kind = match () {
        () if is_journal => return Ok(Some(Content::unnamed(ContentKind::Unknown))), // somebody else's journal: no files
        () if beyond_ext3 => ContentKind::Ext4,
        () if compatible & HAS_JOURNAL != 0 => ContentKind::Ext3,
        () => ContentKind::Ext2,
    };
    found(kind, probe.text::<16>(SUPER + 120)?, probe.uuid(SUPER + 104)?)
}

pub(super) fn xfs(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Found {
    found(kind, probe.text::<12>(108)?, probe.uuid(32)?)
}

pub(super) fn btrfs(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    let start = at - 0x40;
    found(kind, probe.text::<256>(start + 299)?, probe.uuid(start + 32)?)
}

/// Version 4.0 is the only one that Linux reads.
pub(super) fn squashfs(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Found {
    let is_version_4 = probe.le16(28)? == 4;
    Ok(is_version_4.then(|| Content::unnamed(kind)))
}

pub(super) fn swap(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Found {
    // The fields before the UUID are of the machine's own byte order.
    let version = probe.le32(1024)?;
    if version != 1 && version.swap_bytes() != 1 {
        return Ok(None);
    }
    found(kind, probe.text::<16>(1052)?, probe.uuid(1036)?)
}

pub(super) fn apfs(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Found {
    found(kind, String::new(), probe.uuid(72)?)
}

pub(super) fn f2fs(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    found(kind, utf16(&probe.bytes::<1024>(at + 124)?), probe.uuid(at + 108)?)
}

pub(super) fn erofs(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    found(kind, probe.text::<16>(at + 64)?, probe.uuid(at + 48)?)
}

pub(super) fn bcachefs(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Found {
    found(kind, probe.text::<32>(4096 + 72)?, probe.uuid(4096 + 56)?)
}

/// Its magic has 16 bits: also asks for a plausible revision and size of the superblock.
pub(super) fn nilfs2(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Found {
    let (revision, bytes) = (probe.le32(1024)?, probe.le16(1024 + 8)?);
    if revision != 2 || !(88..=1024).contains(&bytes) {
        return Ok(None);
    }
    found(kind, probe.text::<80>(1024 + 168)?, probe.uuid(1024 + 152)?)
}

/// The UUID is made of a date, as libblkid does: the last change, or else when it was made.
pub(super) fn iso9660(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    let descriptor = at - 1;
    let dates = [probe.bytes::<17>(descriptor + 830)?, probe.bytes::<17>(descriptor + 813)?];
    let is_set = |date: &&[u8; 17]| date[..16].iter().all(u8::is_ascii_digit) && date[..16] != *b"0000000000000000";
    let uuid = dates.iter().find(is_set).map_or(String::new(), |date| {
        let digits = String::from_utf8_lossy(&date[..16]);
        let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16].map(|range| digits[range].to_string());
        parts.join("-")
    });
    found(kind, probe.text::<32>(descriptor + 40)?, uuid)
}

/// Volume structure descriptors follow each other; one of UDF must be among the first.
pub(super) fn udf(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    const DESCRIPTORS_MAX: u64 = 8;
    for number in 1..DESCRIPTORS_MAX {
        let id = probe.bytes::<5>(at + number * 2048)?;
        if id == *b"NSR02" || id == *b"NSR03" {
            return Ok(Some(Content::unnamed(kind)));
        }
    }
    Ok(None)
}

pub(super) fn luks1(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    found(kind, String::new(), probe.text::<40>(at + 168)?)
}

pub(super) fn luks2(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    found(kind, probe.text::<48>(at + 24)?, probe.text::<40>(at + 168)?)
}

/// The UUID of the physical volume, in the groups in which LVM writes it.
pub(super) fn lvm_pv(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    if !probe.has(at + 24, b"LVM2 001")? {
        return Ok(None);
    }
    let header = at.saturating_add(probe.le32(at + 20)?.into());
    found(kind, String::new(), crate::guest::lvm::dashed(&probe.bytes::<32>(header)?))
}

pub(super) fn md_member(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Found {
    match md::in_probe(probe)? {
        Some(member) => found(kind, member.name, uuid(member.array)),
        None => Ok(None),
    }
}

/// A label of ZFS has room for 128 uberblocks in its second half; libblkid asks for several as well.
pub(super) fn zfs(probe: &Probe<'_>, kind: ContentKind, at: u64) -> Found {
    const UBERBLOCKS_AT: u64 = 128 << 10;
    const UBERBLOCK_MIN: usize = 1024;
    const MAGIC: u64 = 0x00ba_b10c;
    const ENOUGH: usize = 4;
    if at.saturating_add(2 * UBERBLOCKS_AT) > probe.size() {
        return Ok(None);
    }
    // The list of names and values before them begins with its encoding: XDR. A cheap look first.
    if probe.bytes::<2>(at + (16 << 10))?[0] != 1 {
        return Ok(None);
    }
    let mut ring = vec![0; 128 << 10];
    probe.read(at + UBERBLOCKS_AT, &mut ring)?;
    let is_uberblock = |block: &&[u8]| {
        let magic = u64::from_le_bytes(block[..8].try_into().expect("8 of 1024 bytes"));
        magic == MAGIC || magic.swap_bytes() == MAGIC
    };
    if ring.chunks_exact(UBERBLOCK_MIN).filter(is_uberblock).count() < ENOUGH {
        return Ok(None);
    }
    Ok(Some(Content::unnamed(kind)))
}

/// Joins the parts of a FAT or exFAT serial number as `blkid` prints it.
pub(in crate::guest) fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}

/// A label of eleven bytes, padded with spaces; what mkfs writes for "none" is none.
pub(in crate::guest) fn dos_label(bytes: &[u8; 11]) -> String {
    match text(bytes) {
        none if none == "NO NAME" => String::new(),
        label => label,
    }
}
