//! What version 5 writes into every structure: a CRC32c of it, its own place, and whose it is. Together they tell a torn
//! or rotten block, one that was written to the wrong place, and one that is left over from an earlier owner.

use super::corrupt;
use super::geometry::Geometry;
use crate::guest::GuestError;

/// Where a kind of block has the fields that describe itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SelfDescription {
    checksum: usize,
    place: usize,
    uuid: usize,
    owner: usize,
}

/// Blocks of directories that hold entries.
pub(crate) const DIRECTORY_DATA: SelfDescription = SelfDescription { checksum: 4, place: 8, uuid: 24, owner: 40 };
/// Blocks of trees by hash, of directories and attributes.
pub(crate) const HASH_TREE: SelfDescription = SelfDescription { checksum: 12, place: 16, uuid: 32, owner: 48 };
/// Blocks of trees of extents.
pub(crate) const EXTENT_TREE: SelfDescription = SelfDescription { checksum: 64, place: 24, uuid: 40, owner: 56 };
/// Blocks with values of attributes, and with targets of links.
pub(crate) const REMOTE: SelfDescription = SelfDescription { checksum: 12, place: 40, uuid: 16, owner: 32 };

/// The CRC32c of `bytes` with zeros where it is stored itself; `None` if it does not fit in.
pub(crate) fn of(bytes: &[u8], stored_at: usize) -> Option<u32> {
    let (before, rest) = bytes.split_at_checked(stored_at)?;
    let (_, after) = rest.split_at_checked(4)?;
    Some(crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after))
}

/// Refuses bytes from `at` of the volume whose checksum is not the one they carry.
pub(crate) fn check(field: &'static str, bytes: &[u8], stored_at: usize, at: u64) -> Result<(), GuestError> {
    let computed = of(bytes, stored_at).ok_or_else(|| super::too_short(field, at))?;
    let stored = u32::from_le_bytes(bytes[stored_at..stored_at + 4].try_into().expect("four bytes"));
    if stored == computed {
        return Ok(());
    }
    Err(corrupt(field, at, format!("the checksum {stored:#010x}"), format!("{computed:#010x}")))
}

impl SelfDescription {
    /// Refuses a block from `at` of the volume that is damaged, or not the one that `owner` should have there. Blocks
    /// of version 4 have nothing to check.
    pub fn check(
        &self,
        field: &'static str,
        bytes: &[u8],
        at: u64,
        owner: u64,
        geometry: &Geometry,
    ) -> Result<(), GuestError> {
        if !geometry.checksums {
            return Ok(());
        }
        check(field, bytes, self.checksum, at)?;
        let number = |from: usize| -> Result<u64, GuestError> {
            let bytes = bytes.get(from..from + 8).ok_or_else(|| super::too_short(field, at))?;
            Ok(u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
        };
        // Places are in units of 512 bytes, whatever the sector size.
        let (place, found_owner) = (number(self.place)?, number(self.owner)?);
        if place != at / 512 {
            return Err(corrupt(field, at, format!("a block of place {}", at / 512), format!("one of place {place}")));
        }
        if found_owner != owner {
            let (expected, found) = (format!("a block of inode {owner}"), format!("one of inode {found_owner}"));
            return Err(corrupt(field, at, expected, found));
        }
        if bytes.get(self.uuid..self.uuid + 16) != Some(&geometry.meta_uuid[..]) {
            return Err(corrupt(field, at, "a block of this filesystem", "one of another"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_checksum_counts_as_zeros() {
        let mut bytes = *b"XDB3....the rest of a block";
        let sum = crc32c::crc32c(b"XDB3\0\0\0\0the rest of a block");
        assert_eq!(of(&bytes, 4), Some(sum));
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(of(&bytes, 4), Some(sum));
        check("block", &bytes, 4, 0).expect("sound");
        bytes[9] ^= 1;
        check("block", &bytes, 4, 0).expect_err("damaged");
        assert_eq!(of(&bytes, bytes.len() - 3), None, "it must fit in");
        check("block", &bytes, usize::MAX, 0).expect_err("it must fit in");
    }
}
