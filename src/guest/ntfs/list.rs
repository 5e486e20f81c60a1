//! Attribute lists: where the attributes of a file are that does not fit into one record.
//!
//! Entry: 0 type u32 | 4 length u16 | 6 length of the attribute's name u8 | 7 its place u8 | 8 first cluster of the piece
//! u64 | 16 record u64 | 24 id u16.

use nom::Parser;
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64};

use super::record::{Reference, units};
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Longest list: Windows stops at 256 KiB.
pub(super) const LIST_BYTES_MAX: u64 = 1 << 20;
const ENTRY_BYTES_MIN: usize = 26;

/// Where a piece of an attribute is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub kind: u32,
    pub name: Box<[u16]>,
    /// The attribute's cluster that the piece begins with.
    pub start: u64,
    pub record: Reference,
    pub id: u16,
}

impl Place {
    /// By this they are sorted.
    pub fn order(&self) -> (u32, &[u16], u64) {
        (self.kind, &self.name, self.start)
    }
}

/// Reads a whole list, of the record at `at`.
pub(super) fn read(bytes: &[u8], at: GuestOffset) -> Result<Vec<Place>, GuestError> {
    let mut places = Vec::new();
    let mut rest = bytes;
    while rest.len() >= ENTRY_BYTES_MIN {
        let header = (le_u32::<_, nom::error::Error<&[u8]>>, le_u16, le_u8, le_u8, le_u64, le_u64, le_u16).parse(rest);
        let (_, (kind, len, name_len, name_at, start, record, id)) = header.expect("at least 26 bytes");
        let name = usize::from(name_at)..usize::from(name_at) + 2 * usize::from(name_len);
        let len = usize::from(len);
        let name_end = if name_len == 0 { ENTRY_BYTES_MIN } else { name.end };
        if len < name_end.max(ENTRY_BYTES_MIN) || len > rest.len() {
            return Err(GuestError::Corrupt {
                field: "length of an entry in an attribute list",
                at,
                expected: format!("{} to {}", name_end.max(ENTRY_BYTES_MIN), rest.len()),
                found: len.to_string(),
            });
        }
        let name = if name_len == 0 { Box::default() } else { units(&rest[name]).collect() };
        places.push(Place { kind, name, start, record: Reference(record), id });
        rest = &rest[len..];
    }
    Ok(places)
}
