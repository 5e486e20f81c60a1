//! Checksums of blocks and of content. A volume has one kind for everything.

use std::fmt;

use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha2::{Digest, Sha256};
use twox_hash::XxHash64;

/// Room for a checksum in superblocks and tree blocks, whatever the kind needs of it.
pub(crate) const FIELD_BYTES: usize = 32;

/// The kind of a volume's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    Blake2b,
}

/// A computed checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum {
    bytes: [u8; FIELD_BYTES],
    len: usize,
}

impl Checksum {
    /// The kind that `csum_type` names.
    pub fn from_code(code: u16) -> Option<Checksum> {
        Some(match code {
            0 => Checksum::Crc32c,
            1 => Checksum::Xxhash64,
            2 => Checksum::Sha256,
            3 => Checksum::Blake2b,
            _ => return None,
        })
    }

    /// Bytes of one.
    pub fn len(self) -> usize {
        match self {
            Checksum::Crc32c => 4,
            Checksum::Xxhash64 => 8,
            Checksum::Sha256 | Checksum::Blake2b => 32,
        }
    }

    /// The checksum of `bytes`.
    pub fn of(self, bytes: &[u8]) -> Sum {
        let mut sum = Sum { bytes: [0; FIELD_BYTES], len: self.len() };
        let field = &mut sum.bytes[..self.len()];
        match self {
            Checksum::Crc32c => field.copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes()),
            Checksum::Xxhash64 => field.copy_from_slice(&XxHash64::oneshot(0, bytes).to_le_bytes()),
            Checksum::Sha256 => field.copy_from_slice(&Sha256::digest(bytes)),
            Checksum::Blake2b => field.copy_from_slice(&Blake2b::<U32>::digest(bytes)),
        }
        sum
    }

    /// Compares a structure that begins with its checksum: what it carries and what it should, if they differ.
    pub fn mismatch(self, structure: &[u8]) -> Option<(String, String)> {
        let (field, rest) = structure.split_at_checked(FIELD_BYTES)?;
        let computed = self.of(rest);
        (computed.bytes() != &field[..self.len()]).then(|| (shown(&field[..self.len()]), computed.to_string()))
    }
}

impl Sum {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.bytes()))
    }
}

/// A checksum for messages: its bytes as they lie.
pub(crate) fn shown(sum: &[u8]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash that directories and attributes are sorted by: a CRC32c that begins and ends otherwise than usual.
pub(crate) fn name_hash(name: &[u8]) -> u64 {
    u64::from(!crc32c::crc32c_append(1, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u16, expected: &str) {
        let kind = Checksum::from_code(code).expect("known");
        assert_eq!(kind.of(b"abc").to_string(), expected);
        let sum = kind.of(b"the rest");
        let mut structure = [sum.bytes(), &vec![0; FIELD_BYTES - kind.len()], b"the rest"].concat();
        assert_eq!(kind.mismatch(&structure), None);
        structure[FIELD_BYTES] ^= 1;
        assert!(kind.mismatch(&structure).is_some());
    }

    #[test]
    fn the_four_kinds() {
        check(0, "b73f4b36");
        check(1, "990977adf52cbc44");
        check(2, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        check(3, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
        assert_eq!(Checksum::from_code(4), None);
    }

    #[test]
    fn hashes_of_names() {
        // Of the item that names the default subvolume on every volume.
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
