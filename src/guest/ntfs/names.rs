//! Names: UTF-16 on the volume, bytes in the tree; and the volume's own table of capital letters, `$UpCase`, by which names
//! are compared.
//!
//! Windows does not mind halves of surrogate pairs that stand alone. They become three bytes as any other character would
//! (as ntfs-3g has it), so that each name stays different from all others and can be looked up.

use std::cmp::Ordering;

use super::record::units;

/// A table for all 16-bit units.
const TABLE_UNITS: usize = 1 << 16;
/// Its length in bytes.
pub(super) const TABLE_BYTES: u64 = 2 << 16;
/// Longest name.
pub(super) const NAME_UNITS_MAX: usize = 255;

/// Capital letters of a volume.
pub(super) struct Capitals(Box<[u16]>);

impl Capitals {
    /// From the content of `$UpCase`; units that it does not have are their own capitals. `None` if it has no letters.
    pub fn read(bytes: &[u8]) -> Option<Capitals> {
        let mut table: Vec<u16> = (0..=u16::MAX).collect();
        for (own, stored) in table.iter_mut().zip(units(bytes)) {
            *own = stored;
        }
        let sound = table[..128].iter().zip(0u8..).all(|(unit, own)| *unit == u16::from(own.to_ascii_uppercase()));
        sound.then(|| Capitals(table.into()))
    }

    /// What comes close where a volume's own table cannot be read.
    pub fn of_unicode() -> Capitals {
        let capital = |unit: u16| {
            let mut upper = char::from_u32(unit.into())?.to_uppercase();
            let first = upper.next()?;
            u16::try_from(u32::from(first)).ok().filter(|_| upper.next().is_none())
        };
        Capitals((0..=u16::MAX).map(|unit| capital(unit).unwrap_or(unit)).collect())
    }

    /// Compares two names as the volume orders them.
    pub fn compare(&self, one: &[u16], other: &[u16]) -> Ordering {
        let capital = |unit: &u16| self.0[usize::from(*unit)];
        debug_assert_eq!(self.0.len(), TABLE_UNITS);
        one.iter().map(capital).cmp(other.iter().map(capital))
    }
}

/// A name as bytes.
pub(super) fn to_bytes(name: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    for unit in char::decode_utf16(name.iter().copied()) {
        match unit {
            Ok(char) => bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(alone) => {
                let [high, low] = alone.unpaired_surrogate().to_be_bytes();
                let bits = [high >> 4, (high & 0xf) << 2 | low >> 6, low & 0x3f];
                bytes.extend([0xe0 | bits[0], 0x80 | bits[1], 0x80 | bits[2]]);
            }
        }
    }
    bytes
}

/// The units of a name; `None` if no name on a volume can be these bytes.
pub(super) fn from_bytes(name: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        let (valid, err) = match std::str::from_utf8(rest) {
            Ok(valid) => (valid, None),
            Err(err) => (std::str::from_utf8(&rest[..err.valid_up_to()]).ok()?, Some(err)),
        };
        units.extend(valid.encode_utf16());
        rest = &rest[valid.len()..];
        if err.is_some() {
            // Half of a pair, alone: ED, then A0 to BF.
            let [0xed, middle @ 0xa0..=0xbf, last @ 0x80..=0xbf, behind @ ..] = rest else { return None };
            units.push(0xd000 | u16::from(middle & 0x3f) << 6 | u16::from(last & 0x3f));
            rest = behind;
        }
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_come_back(name in proptest::collection::vec(prop_oneof![any::<u16>(), 0xd700u16..0xe100, 0u16..128], 0..20)) {
            let bytes = to_bytes(&name);
            prop_assert!(bytes.len() <= 3 * name.len());
            prop_assert_eq!(from_bytes(&bytes), Some(name));
        }

        #[test]
        fn any_bytes_are_a_name_or_none(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0xe0u8..=0xf4, 0x80u8..0xc0], 0..12)) {
            let _ = from_bytes(&bytes);
        }
    }

    #[test]
    fn halves_of_pairs_have_bytes_of_their_own() {
        assert_eq!(to_bytes(&[0x61, 0xd83e, 0xdd80]), "a🦀".as_bytes());
        assert_eq!(to_bytes(&[0xdd80, 0xd83e]), b"\xed\xb6\x80\xed\xa0\xbe");
        assert_eq!(from_bytes(b"\xff"), None);
        assert_eq!(from_bytes(b"\xed\xb6"), None);
    }

    #[test]
    fn names_are_ordered_by_their_capitals() {
        let capitals = Capitals::of_unicode();
        let compare = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|name| name.encode_utf16().collect::<Vec<_>>());
            capitals.compare(&one, &other)
        };
        assert_eq!(compare("Größe", "GRÖßE"), Ordering::Equal);
        assert_eq!(compare("a", "B"), Ordering::Less);
        assert_eq!(compare("_", "a"), Ordering::Greater);
        assert_eq!(compare("ab", "A"), Ordering::Greater);
        assert!(Capitals::read(&[0; 512]).is_none());
        let identity: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        assert!(Capitals::read(&identity).is_none());
    }
}
