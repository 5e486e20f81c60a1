//! The system use sharing protocol: fields that extensions add to a directory record, and to areas where it continues.
//!
//! Layout of a field: `signature 2 | length 1 | version 1 | data`. Of those about itself: `SP` "it begins here", with the
//! bytes to skip in all other records; `CE` "it goes on there": block 8, offset 8, length 8; `ST` "it ends here".

use nom::Parser;

use super::record::Record;
use super::volume::Volume;
use super::{both, corrupt};
use crate::guest::GuestError;

const HEADER_BYTES: usize = 4;
/// Areas that may follow each other; Linux allows 32.
const AREAS_MAX: usize = 64;
/// Bytes of one area; Linux allows a block.
const AREA_BYTES_MAX: u32 = 64 << 10;
/// What CD-ROM XA puts before all other fields.
const XA_BYTES: usize = 14;

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub signature: [u8; 2],
    pub data: Vec<u8>,
    /// Where it lies on the volume.
    pub at: u64,
}

/// Whether the protocol is used, by the first record of the root directory: how many bytes to skip everywhere else.
pub(crate) fn skip(root: &Record) -> Option<usize> {
    [0, XA_BYTES].into_iter().find_map(|at| match root.system_use.get(at..)? {
        [b'S', b'P', 7, 1, 0xbe, 0xef, skip, ..] => Some(usize::from(*skip).max(at)),
        _ => None,
    })
}

/// All fields of a record, in their order.
pub(crate) fn fields(volume: &Volume, record: &Record, skip: usize) -> Result<Vec<Field>, GuestError> {
    // The first record of all says how many bytes to skip, and skips none itself.
    let skip = if record.system_use.starts_with(b"SP") { 0 } else { skip };
    let mut fields = Vec::new();
    let start = record.next - record.system_use.len() as u64 + skip as u64;
    let mut next = area(record.system_use.get(skip..).unwrap_or_default(), start, &mut fields)?;
    let mut areas = 0;
    while let Some(Continuation { block, offset, len, at }) = next {
        areas += 1;
        if areas > AREAS_MAX {
            return Err(corrupt("continuation area", at, format!("at most {AREAS_MAX} for a record"), "more"));
        }
        if len > AREA_BYTES_MAX {
            return Err(corrupt("continuation area", at, format!("at most {AREA_BYTES_MAX} bytes"), len));
        }
        let from = u64::from(block) * volume.block_bytes + u64::from(offset);
        let bytes = volume.metadata("continuation area", from, len as usize)?;
        next = area(&bytes, from, &mut fields)?;
    }
    Ok(fields)
}

/// Where the next area is.
struct Continuation {
    block: u32,
    offset: u32,
    len: u32,
    /// Where that is said.
    at: u64,
}

/// Takes an area apart.
fn area(mut bytes: &[u8], start: u64, fields: &mut Vec<Field>) -> Result<Option<Continuation>, GuestError> {
    let len = bytes.len();
    let mut next = None;
    while bytes.len() >= HEADER_BYTES && bytes[0] != 0 {
        let at = start + (len - bytes.len()) as u64;
        let field_len = usize::from(bytes[2]);
        if field_len < HEADER_BYTES || field_len > bytes.len() {
            let expected = format!("{HEADER_BYTES} to {} bytes", bytes.len());
            return Err(corrupt("system use field", at, expected, format!("{field_len} bytes")));
        }
        let (field, rest) = bytes.split_at(field_len);
        let (signature, data) = ([field[0], field[1]], &field[HEADER_BYTES..]);
        match &signature {
            b"ST" => break,
            b"CE" => {
                let Ok((_, (block, offset, len))) = (both, both, both).parse(data) else {
                    return Err(corrupt("continuation area", at, "24 bytes", format!("{} bytes", data.len())));
                };
                next = Some(Continuation {
                    block: block.agreed("block of a continuation area", at)?,
                    offset: offset.agreed("offset of a continuation area", at)?,
                    len: len.agreed("length of a continuation area", at)?,
                    at,
                });
            }
            _ => fields.push(Field { signature, data: data.to_vec(), at }),
        }
        bytes = rest;
    }
    Ok(next)
}
