//! Names of things in a repository: random where the store sees them, keyed hashes where it does not.
//!
//! A [`ChunkId`] never appears outside sealed objects. The other ids are random and name objects in the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), to_hex(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                from_hex(text).map($name).ok_or(NotHex { digits: $len * 2 })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&to_hex(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// Identity of a repository: random, made once by `init`.
    RepoId,
    16
);
hex_id!(
    /// Name of a pack: random.
    PackId,
    16
);
hex_id!(
    /// Name of a backup and of its manifest: random.
    BackupId,
    16
);
hex_id!(
    /// Name of a session, an index segment or a key slot: random.
    ObjectId,
    16
);
hex_id!(
    /// The first 20 bytes of the keyed BLAKE3 of a chunk's plain bytes.
    ChunkId,
    20
);

/// A text that is not the wanted number of lower-case hex digits.
#[derive(Debug, thiserror::Error)]
#[error("expected {digits} lower-case hex digits")]
pub struct NotHex {
    digits: usize,
}

impl ChunkId {
    /// Stands in maps for "all zeros": no chunk has this id (a keyed hash of zeros is not to be found).
    pub const ZERO: ChunkId = ChunkId([0; ChunkId::LEN]);
}

/// `N` bytes from the system's generator.
///
/// # Panics
/// If the system has no random numbers to give: nothing may be sealed then.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system's random number generator works");
    bytes
}

/// Lower-case hex digits of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// The bytes of exactly `2 * N` lower-case hex digits.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 { None } else { bytes_from_hex(text)?.try_into().ok() }
}

/// The bytes of an even number of lower-case hex digits.
pub fn bytes_from_hex(text: &str) -> Option<Vec<u8>> {
    fn digit(c: u8) -> Option<u8> {
        match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        }
    }
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_all_else() {
        let id = PackId(random());
        assert_eq!(id.to_string().parse::<PackId>().unwrap(), id);
        for bad in ["", "00", "0g000000000000000000000000000000", "AA000000000000000000000000000000"] {
            assert!(bad.parse::<PackId>().is_err(), "{bad}");
        }
    }
}
