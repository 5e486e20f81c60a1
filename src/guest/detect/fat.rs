//! FAT and exFAT: no magic of its own for the one, a label in the root directory for both.
//!
//! Boot sector, little-endian: 11 bytes a sector u16 | 13 sectors a cluster u8 | 14 reserved sectors u16 | 16 FATs u8 | 17 root
//! entries u16 | 19 sectors u16 | 21 media u8 | 22 sectors a FAT u16 | 32 sectors u32; FAT32 also 36 sectors a FAT u32 |
//! 44 root cluster u32. Serial number and label at 39 and 43, on FAT32 at 67 and 71.
//!
//! Sources: Microsoft, FAT: General Overview of On-Disk Format 1.03; exFAT file system specification.

use super::identity::{dos_label, serial};
use super::probe::{Probe, utf16};
use super::{Content, ContentKind};
use crate::disk::DiskError;

/// Clusters from which a FAT is FAT16, and FAT32.
const FAT16_CLUSTERS_MIN: u64 = 4085;
const FAT32_CLUSTERS_MIN: u64 = 65_525;
/// Bytes of a root directory that are searched for a label: it is normally the first entry.
const ROOT_BYTES_MAX: usize = 16 << 10;
/// Bytes of an entry in a directory of either.
const ENTRY_BYTES: usize = 32;

/// A volume is FAT if all of its geometry is sane; which FAT, its number of clusters says.
pub(super) fn fat(probe: &Probe<'_>, _: ContentKind, _: u64) -> Result<Option<Content>, DiskError> {
    let sector_bytes = u64::from(probe.le16(11)?);
    let cluster_sectors = u64::from(probe.byte(13)?);
    let reserved = u64::from(probe.le16(14)?);
    let fats = u64::from(probe.byte(16)?);
    let root_entries = u64::from(probe.le16(17)?);
    let media = probe.byte(21)?;
    let fat_sectors_16 = u64::from(probe.le16(22)?);
    let is_sane = (512..=4096).contains(&sector_bytes)
        && sector_bytes.is_power_of_two()
        && cluster_sectors.is_power_of_two()
        && reserved > 0
        && (1..=4).contains(&fats)
        && (media == 0xf0 || media >= 0xf8);
    if !is_sane {
        return Ok(None);
    }
    let (is_32, fat_sectors) =
        if fat_sectors_16 > 0 { (false, fat_sectors_16) } else { (true, u64::from(probe.le32(36)?)) };
    let sectors = match probe.le16(19)? {
        0 => u64::from(probe.le32(32)?),
        few => few.into(),
    };
    // Numbers of at most 32 bits times one of at most 13: far below 2^64.
    let root_at = reserved + fats * fat_sectors;
    let root_sectors = (root_entries * ENTRY_BYTES as u64).div_ceil(sector_bytes);
    let data_at = root_at + root_sectors;
    let Some(data_sectors) = sectors.checked_sub(data_at) else { return Ok(None) };
    let clusters = data_sectors / cluster_sectors;
    if fat_sectors == 0 || clusters == 0 || (!is_32 && (root_entries == 0 || clusters >= FAT32_CLUSTERS_MIN)) {
        return Ok(None);
    }
    let (kind, names_at, root_at, root_bytes) = if is_32 {
        let cluster = u64::from(probe.le32(44)?);
        if !(2..clusters + 2).contains(&cluster) {
            return Ok(None);
        }
        let root_at = data_at + (cluster - 2) * cluster_sectors;
        (ContentKind::Fat32, 67, root_at, cluster_sectors * sector_bytes)
    } else {
        let kind = if clusters < FAT16_CLUSTERS_MIN { ContentKind::Fat12 } else { ContentKind::Fat16 };
        (kind, 39, root_at, root_entries * ENTRY_BYTES as u64)
    };
    // 28 or 29 before these fields says that they are there.
    let has_names = matches!(probe.byte(names_at - 1)?, 0x28 | 0x29);
    let uuid = if has_names { serial(probe.le32(names_at)?) } else { String::new() };
    let mut root = vec![0; ROOT_BYTES_MAX.min(usize::try_from(root_bytes).unwrap_or(usize::MAX))];
    probe.read(root_at * sector_bytes, &mut root)?;
    let label = match root_label(&root) {
        Some(label) => label,
        None if probe.byte(names_at - 1)? == 0x29 => dos_label(&probe.bytes(names_at + 4)?),
        None => String::new(),
    };
    Ok(Some(Content { kind, label, uuid }))
}

/// The entry that is neither file nor part of a long name, but the volume's label.
fn root_label(root: &[u8]) -> Option<String> {
    const ATTRIBUTES: usize = 11;
    const LABEL: u8 = 0x08;
    const DIRECTORY: u8 = 0x10;
    const LONG_NAME: u8 = 0x0f;
    const DELETED: u8 = 0xe5;
    let is_label = |entry: &&[u8]| {
        let attributes = entry[ATTRIBUTES];
        entry[0] != DELETED && attributes & 0x3f != LONG_NAME && attributes & (LABEL | DIRECTORY) == LABEL
    };
    let entry = root.chunks_exact(ENTRY_BYTES).take_while(|entry| entry[0] != 0).find(is_label)?;
    Some(dos_label(entry[..11].try_into().expect("11 of 32 bytes")))
}

/// The label of an exFAT is an entry of its root directory.
pub(super) fn exfat(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Result<Option<Content>, DiskError> {
    const LABEL: u8 = 0x83;
    let (heap_at, root_cluster) = (u64::from(probe.le32(88)?), u64::from(probe.le32(96)?));
    let (sector_shift, cluster_shift) = (probe.byte(108)?, probe.byte(109)?);
    if !(9..=12).contains(&sector_shift) || cluster_shift > 25 - sector_shift || root_cluster < 2 {
        return Ok(None);
    }
    // 32-bit numbers shifted by at most 25: below 2^58.
    let root_at = (heap_at << sector_shift) + ((root_cluster - 2) << (sector_shift + cluster_shift));
    let mut root = vec![0; ROOT_BYTES_MAX.min(1 << (sector_shift + cluster_shift))];
    probe.read(root_at, &mut root)?;
    let entry = root.chunks_exact(ENTRY_BYTES).take_while(|entry| entry[0] != 0).find(|entry| entry[0] == LABEL);
    let label = entry.map_or(String::new(), |entry| {
        let units = usize::from(entry[1]).min(11);
        utf16(&entry[2..2 + 2 * units])
    });
    Ok(Some(Content { kind, label, uuid: serial(probe.le32(100)?) }))
}
