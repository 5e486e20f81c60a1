//! NTFS: the serial number is in the boot sector, the label in an attribute of the fourth file record, `$Volume`.
//!
//! Boot sector, little-endian: 11 bytes a sector u16 | 13 sectors a cluster u8 (from 0x81: 2^-n) | 48 cluster of the first
//! record u64 | 64 clusters a record i8 (negative: 2^-n bytes) | 72 serial number u64. Record: 0 `FILE` | 20 first attribute
//! u16. Attribute: 0 type u32 | 4 length u32 | 8 not in the record u8 | 16 length of its value u32 | 20 place of its value u16.

use super::probe::{Probe, utf16};
use super::{Content, ContentKind};
use crate::disk::DiskError;

/// Number of the record that describes the volume.
const VOLUME_RECORD: u64 = 3;
/// Type of the attribute that holds the label, and the mark behind the last attribute.
const VOLUME_NAME: u32 = 0x60;
const END: u32 = u32::MAX;
/// Largest record; all that are known have 1 KiB or 4 KiB.
const RECORD_BYTES_MAX: u64 = 4096;

pub(super) fn ntfs(probe: &Probe<'_>, kind: ContentKind, _: u64) -> Result<Option<Content>, DiskError> {
    let uuid = format!("{:016X}", probe.le64(72)?);
    let label = volume_record(probe)?.and_then(|record| label(&record)).unwrap_or_default();
    Ok(Some(Content { kind, label, uuid }))
}

/// `None` if the geometry makes no sense: the volume may be NTFS all the same, damaged.
fn volume_record(probe: &Probe<'_>) -> Result<Option<Vec<u8>>, DiskError> {
    let sector_bytes = u64::from(probe.le16(11)?);
    let cluster_sectors = match probe.byte(13)? {
        small @ 0..=0x80 => u64::from(small),
        large => 1u64.checked_shl(256 - u32::from(large)).unwrap_or(0),
    };
    let cluster_bytes = sector_bytes.saturating_mul(cluster_sectors);
    let record_bytes = match probe.byte(64)? {
        clusters @ 0..=0x7f => cluster_bytes.saturating_mul(clusters.into()),
        shift => 1u64.checked_shl(256 - u32::from(shift)).unwrap_or(0),
    };
    let at = probe
        .le64(48)?
        .checked_mul(cluster_bytes)
        .and_then(|first| first.checked_add(VOLUME_RECORD.checked_mul(record_bytes)?));
    let Some(at) = at.filter(|_| (64..=RECORD_BYTES_MAX).contains(&record_bytes)) else { return Ok(None) };
    let mut record = vec![0; usize::try_from(record_bytes).expect("at most 4096")];
    probe.read(at, &mut record)?;
    // The last two bytes of each sector are kept at its beginning, and would stand in the middle of a long label.
    restore_sector_ends(&mut record);
    Ok(record.starts_with(b"FILE").then_some(record))
}

/// Puts back what the update sequence has replaced; on nonsense the record stays as it is.
fn restore_sector_ends(record: &mut [u8]) {
    let (array_at, count) = (usize::from(le16(record, 4)), usize::from(le16(record, 6)));
    for sector in 1..count {
        let saved = le16(record, array_at.saturating_add(2 * sector)).to_le_bytes();
        if let Some(end) = record.get_mut(sector * 512 - 2..sector * 512) {
            end.copy_from_slice(&saved);
        }
    }
}

fn label(record: &[u8]) -> Option<String> {
    let mut at = usize::from(le16(record, 20));
    while let Some(attribute) = record.get(at..) {
        let (kind, len) = (le32(attribute, 0), usize::try_from(le32(attribute, 4)).ok()?);
        if kind == END || len < 24 {
            break; // each step goes on by at least 24 bytes, so this ends
        }
        if kind == VOLUME_NAME {
            let value = usize::from(le16(attribute, 20));
            let bytes = usize::try_from(le32(attribute, 16)).ok()?;
            return attribute.get(value..value.checked_add(bytes)?).map(utf16);
        }
        at = at.checked_add(len)?;
    }
    None
}

/// Past the end everything is zero.
fn le16(bytes: &[u8], at: usize) -> u16 {
    let pair = at.checked_add(2).and_then(|end| bytes.get(at..end));
    pair.map_or(0, |pair| u16::from_le_bytes([pair[0], pair[1]]))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at.saturating_add(2))) << 16
}
