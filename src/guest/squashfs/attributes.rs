//! Extended attributes: lists that several nodes may share.
//!
//! Head of the table: `start of the lists 8 | how many 4 | 4 | places of metadata blocks`; entry: `reference 8 | attributes 4 |
//! bytes 4`. A list: `kind 2 | length 2 | name | length 4 | value`; kinds with bit 8 have the reference of a value instead.

use super::corrupt;
use super::metadata::{Cursor, Place, Table};
use super::volume::Volume;
use crate::guest::GuestError;
use crate::guest::tree::ExtendedAttribute;

const FIELD: &str = "extended attributes";
const HEAD_BYTES: u64 = 16;
const ENTRY_BYTES: usize = 16;
/// The value lies elsewhere.
const ELSEWHERE: u16 = 0x100;
/// What the system calls allow: longer values and lists nobody could have set.
const VALUE_BYTES_MAX: u32 = 64 << 10;
const LIST_MAX: u32 = 16 << 10;
/// Bytes of all values of a node that are read.
const BYTES_MAX: usize = 64 << 20;

/// Where a list lies, and how much it is.
struct List {
    first: Place,
    count: u32,
    bytes: u32,
    /// Where all lists begin.
    lists: u64,
}

fn list(volume: &Volume, number: u32) -> Result<List, GuestError> {
    let Some(at) = volume.superblock.attribute_table else {
        return Err(corrupt(FIELD, 56, "a table of them", "none"));
    };
    let lists = volume.pointer(FIELD, at)?;
    let len = u32::from_le_bytes(volume.array(FIELD, at.saturating_add(8))?);
    let table = Table { field: "table of extended attributes", at: at.saturating_add(HEAD_BYTES), len };
    let mut entry = table.entry(volume, number, ENTRY_BYTES)?;
    let (reference, count, bytes) = (entry.u64()?, entry.u32()?, entry.u32()?);
    Ok(List { first: Place::of_reference(lists, reference), count, bytes, lists })
}

/// Bytes that a list takes on the volume, unpacked.
pub(crate) fn bytes(volume: &Volume, number: u32) -> Result<u64, GuestError> {
    list(volume, number).map(|list| list.bytes.into())
}

/// The list with this number, sorted by name.
pub(crate) fn read(volume: &Volume, number: u32) -> Result<Vec<ExtendedAttribute>, GuestError> {
    let List { first, count, lists, .. } = list(volume, number)?;
    let mut cursor = Cursor::new(volume, first);
    if count > LIST_MAX {
        return Err(corrupt(FIELD, cursor.place().block, format!("at most {LIST_MAX} of them"), count));
    }
    let (mut attributes, mut bytes) = (Vec::new(), 0);
    for _ in 0..count {
        let at = cursor.place().block;
        let (kind, name_len) = (cursor.u16()?, cursor.u16()?);
        let prefix: &[u8] = match kind & !ELSEWHERE {
            0 => b"user.",
            1 => b"trusted.",
            2 => b"security.",
            other => return Err(corrupt(FIELD, at, "a kind from 0 to 2", other)),
        };
        let name = [prefix, &cursor.bytes(name_len.into())?].concat();
        let value = if kind & ELSEWHERE != 0 {
            let len = cursor.u32()?;
            if len != 8 {
                return Err(corrupt(FIELD, at, "a reference of 8 bytes", format!("{len} bytes")));
            }
            value(&mut Cursor::new(volume, Place::of_reference(lists, cursor.u64()?)))?
        } else {
            value(&mut cursor)?
        };
        bytes += name.len() + value.len();
        if bytes > BYTES_MAX {
            return Err(corrupt(FIELD, at, format!("at most {BYTES_MAX} bytes"), "more"));
        }
        attributes.push(ExtendedAttribute { name, value });
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn value(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, GuestError> {
    let (at, len) = (cursor.place().block, cursor.u32()?);
    if len > VALUE_BYTES_MAX {
        let expected = format!("at most {VALUE_BYTES_MAX} bytes");
        return Err(corrupt("value of an extended attribute", at, expected, format!("{len} bytes")));
    }
    cursor.bytes(usize::try_from(len).expect("at most 64 KiB"))
}
