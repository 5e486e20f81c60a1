//! Checksums of content: a tree of items, each the checksums of neighbouring sectors from a logical address on.

use super::cursor::Cursor;
use super::key::{Key, kind, object};
use super::superblock::Root;
use super::volume::Volume;
use super::{checksum, corrupt};
use crate::guest::GuestError;

/// A sector that is not what its checksum says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Its first byte in what was looked at.
    pub offset: usize,
    /// The checksum that it should have.
    pub expected: Vec<u8>,
}

/// The wrong ones among the whole sectors `bytes`, from a logical address. Sectors without a checksum are right.
pub(crate) fn wrong(volume: &Volume, root: &Root, logical: u64, bytes: &[u8]) -> Result<Vec<Wrong>, GuestError> {
    let superblock = &volume.superblock;
    let sector_bytes = usize::try_from(superblock.sector_bytes).expect("at most 64 KiB");
    let (kind_of_sum, sum_bytes) = (superblock.checksum, superblock.checksum.len());
    let first = Key::new(object::DATA_CHECKSUMS, kind::DATA_CHECKSUMS, 0);
    let mut cursor = Cursor::before(volume, root, Key { offset: logical, ..first })?;
    let mut wrong = Vec::new();
    while let Some(item) = cursor.item() {
        let Key { offset: start, .. } = item.key;
        if item.key >= first {
            // From here on sectors are counted from the first that was asked for.
            let same = item.key.is_of(first.object, first.kind);
            if !same || start >= logical.saturating_add(bytes.len() as u64) {
                break;
            }
            if !superblock.is_aligned(start) || !item.bytes.len().is_multiple_of(sum_bytes) {
                let found = format!("{} bytes for {start:#x}", item.bytes.len());
                return Err(corrupt("checksums of content", item.at, "checksums of whole sectors", found));
            }
            let sector = u64::from(superblock.sector_bytes);
            let skip_sums = usize::try_from(logical.saturating_sub(start) / sector).unwrap_or(usize::MAX);
            let skip_sectors = usize::try_from(start.saturating_sub(logical) / sector).unwrap_or(usize::MAX);
            let sums = item.bytes.chunks_exact(sum_bytes).skip(skip_sums);
            let sectors = bytes.chunks(sector_bytes).enumerate().skip(skip_sectors);
            for ((index, sector), sum) in sectors.zip(sums) {
                if kind_of_sum.of(sector).bytes() != sum {
                    wrong.push(Wrong { offset: index * sector_bytes, expected: sum.to_vec() });
                }
            }
        }
        cursor.advance()?;
    }
    Ok(wrong)
}

impl Wrong {
    /// The error for a sector, at byte `at` of the volume, none of whose copies is right.
    pub fn error(&self, at: u64, found: impl std::fmt::Display) -> GuestError {
        corrupt("content", at, format!("the checksum {}", checksum::shown(&self.expected)), found)
    }
}
