//! Names: UTF-16 on the volume, bytes for everybody else.
//!
//! What is sound UTF-16 becomes UTF-8. A surrogate without its partner becomes the three bytes that UTF-8 would have for it,
//! so that different names stay different, and every name leads back to its units.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// The name's bytes.
pub(in crate::guest) fn bytes(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    let mut buf = [0; 4];
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(char) => bytes.extend_from_slice(char.encode_utf8(&mut buf).as_bytes()),
            Err(lone) => {
                let [high, low] = lone.unpaired_surrogate().to_be_bytes();
                bytes.extend_from_slice(&[0xe0 | high >> 4, 0x80 | (high & 0xf) << 2 | low >> 6, 0x80 | low & 0x3f]);
            }
        }
    }
    bytes
}

/// The units of a name; `None` if no units have such bytes.
pub(in crate::guest) fn units(name: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    let mut rest = name;
    loop {
        let valid = match std::str::from_utf8(rest) {
            Ok(text) => {
                units.extend(text.encode_utf16());
                return Some(units);
            }
            Err(error) => error.valid_up_to(),
        };
        let (text, bad) = rest.split_at(valid);
        units.extend(std::str::from_utf8(text).ok()?.encode_utf16());
        let (surrogate, after) = bad.split_first_chunk()?;
        let [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf] = *surrogate else { return None };
        units.push(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f));
        rest = after;
    }
}

/// Names of a directory that were met, as hashes that nobody can foresee: memory does not depend on how long names are.
#[derive(Default)]
pub(in crate::guest) struct Distinct {
    met: HashSet<u64>,
    state: RandomState,
}

impl Distinct {
    /// Takes a name; `false` if it was met before.
    pub fn insert(&mut self, name: &[u8]) -> bool {
        self.met.insert(self.state.hash_one(name))
    }
}

/// Whether a name may be an entry of a directory: nothing that a path means otherwise.
pub(in crate::guest) fn is_sound(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_and_units_lead_to_each_other(units in prop::collection::vec(
            prop_oneof![any::<u16>(), 0xd7f0u16..0xe010, 0x20u16..0x7f], 0..40,
        )) {
            let name = bytes(&units);
            prop_assert_eq!(super::units(&name), Some(units.clone()));
            if let Ok(text) = String::from_utf16(&units) {
                prop_assert_eq!(name, text.into_bytes());
            }
        }

        #[test]
        fn any_bytes_are_units_or_none(name in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(units) = units(&name) && std::str::from_utf8(&name).is_ok() {
                prop_assert_eq!(bytes(&units), name);
            }
        }
    }

    #[test]
    fn names_that_mean_something_else_in_a_path_are_none() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(!is_sound(name), "{name:?}");
        }
        for name in [&b"..."[..], b" ", b".a", b"\\", b"a..b"] {
            assert!(is_sound(name), "{name:?}");
        }
    }
}
