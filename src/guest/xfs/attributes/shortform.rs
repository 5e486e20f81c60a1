//! Few attributes, whole in the inode (`xfs_attr_sf_hdr`).
//!
//! Layout: `all bytes 2 | attributes 1 | pad 1 | attribute × n`; an attribute:
//! `name length 1 | value length 1 | flags 1 | name | value`.

use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};
use nom::{IResult, Parser};

use super::{RawAttribute, Value};
use crate::guest::GuestError;
use crate::guest::xfs::too_short;

/// The attributes in `bytes`, the attribute fork of the inode at byte `at`.
pub(super) fn attributes(bytes: &[u8], at: u64) -> Result<Vec<RawAttribute<'_>>, GuestError> {
    let (_, attributes) = fork(bytes, at).map_err(|_| too_short("attributes inside the inode", at))?;
    Ok(attributes)
}

fn fork(input: &[u8], at: u64) -> IResult<&[u8], Vec<RawAttribute<'_>>> {
    let (mut input, (_bytes, count, _pad)) = (be_u16, be_u8, be_u8).parse(input)?;
    let mut attributes = Vec::with_capacity(count.into());
    for _ in 0..count {
        let (rest, (name_bytes, value_bytes, flags)) = (be_u8, be_u8, be_u8).parse(input)?;
        let (rest, (name, value)) = (take(name_bytes), take(value_bytes)).parse(rest)?;
        input = rest;
        attributes.push(RawAttribute { flags, name, value: Value::Here(value), at });
    }
    Ok((input, attributes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_follow_each_other() {
        let bytes = b"\0\x11\x02\0\x01\x02\0avv\x02\0\x08pp and the rest of the inode";
        let found: Vec<_> =
            attributes(bytes, 0).unwrap().into_iter().map(|raw| (raw.flags, raw.name, raw.value)).collect();
        assert_eq!(found, [(0, &b"a"[..], Value::Here(b"vv")), (8, &b"pp"[..], Value::Here(b""))]);
        for len in 0..15 {
            assert!(attributes(&bytes[..len], 0).is_err(), "{len} bytes");
        }
    }
}
