//! Leaves with attributes (`xfs_attr_leaf_hdr`).
//!
//! Layout: `links | count 2 | … to byte 32 (version 5: 80) | index entry 8 × n | … | attributes, up to the end`; an index entry:
//! `hash 4 | place in the block 2 | flags 1 | pad 1`; an attribute:
//! `value length 2 | name length 1 | name | value`, or `block 4 | value length 4 | name length 1 | name`.

use nom::bytes::complete::take;
use nom::multi::count;
use nom::number::complete::{be_u8, be_u16, be_u32};
use nom::{IResult, Parser};

use super::{RawAttribute, VALUE_BYTES_MAX, Value, flag};
use crate::guest::GuestError;
use crate::guest::xfs::dabtree::{Block, links_bytes};
use crate::guest::xfs::{corrupt, too_short};

const INDEX_ENTRY_BYTES: usize = 8;

/// Place and flags of the attributes of a leaf.
fn index(input: &[u8], checksums: bool) -> IResult<&[u8], Vec<(u16, u8)>> {
    let (rest, (_, used)) = (take(links_bytes(checksums)), be_u16).parse(input)?;
    let (rest, _) = take(if checksums { 22usize } else { 18 }).parse(rest)?;
    if usize::from(used) > rest.len() / INDEX_ENTRY_BYTES {
        return Err(nom::Err::Error(nom::error::Error::new(rest, nom::error::ErrorKind::Eof)));
    }
    count((be_u32, be_u16, be_u8, be_u8).map(|(_hash, place, flags, _pad)| (place, flags)), used.into()).parse(rest)
}

fn attribute(input: &[u8], flags: u8) -> IResult<&[u8], (&[u8], Value<'_>)> {
    if flags & flag::LOCAL != 0 {
        let (rest, (value_bytes, name_bytes)) = (be_u16, be_u8).parse(input)?;
        let (rest, (name, value)) = (take(name_bytes), take(value_bytes)).parse(rest)?;
        return Ok((rest, (name, Value::Here(value))));
    }
    let (rest, (block, bytes, name_bytes)) = (be_u32, be_u32, be_u8).parse(input)?;
    let (rest, name) = take(name_bytes).parse(rest)?;
    Ok((rest, (name, Value::Remote { block, bytes })))
}

/// The attributes of a leaf, those that are being written or removed among them.
pub(super) fn attributes(block: &Block, checksums: bool) -> Result<Vec<RawAttribute<'_>>, GuestError> {
    let (_, index) = index(&block.bytes, checksums).map_err(|_| too_short("attribute block", block.at))?;
    let mut attributes = Vec::with_capacity(index.len());
    let mut bytes_left = block.bytes.len();
    for (place, flags) in index {
        let bytes = block.bytes.get(usize::from(place)..).unwrap_or_default();
        let (rest, (name, value)) = attribute(bytes, flags).map_err(|_| too_short("attribute", block.at))?;
        // Attributes of one leaf share no bytes, or a hostile one would hold far more than it has.
        let used = bytes.len() - rest.len();
        let Some(left) = bytes_left.checked_sub(used) else {
            return Err(corrupt("attribute block", block.at, "attributes that share no bytes", "overlapping ones"));
        };
        bytes_left = left;
        if let Value::Remote { bytes: bytes @ VALUE_BYTES_MAX.., .. } = value
            && bytes > VALUE_BYTES_MAX
        {
            let expected = format!("at most {VALUE_BYTES_MAX} bytes");
            return Err(corrupt("value of an attribute", block.at, expected, bytes));
        }
        attributes.push(RawAttribute { flags, name, value, at: block.at });
    }
    Ok(attributes)
}
