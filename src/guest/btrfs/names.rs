//! The form of item that entries of directories and attributes share (`btrfs_dir_item`): one after another those whose
//! names have the same hash.
//!
//! Layout: `key of what is named 17 | transaction 8 | value length 2 | name length 2 | kind 1 | name | value`.

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u64};
use nom::{IResult, Parser};

use super::key::{Key, key};
use super::node::Item;
use super::{too_short, unsupported};
use crate::guest::GuestError;

/// In an entry's kind: its name is encrypted.
const ENCRYPTED: u8 = 0x80;

/// A name and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    /// The item of what it names; zeros for attributes.
    pub target: Key,
    pub kind: u8,
    pub name: &'a [u8],
    pub value: &'a [u8],
}

fn named(input: &[u8]) -> IResult<&[u8], Named<'_>> {
    let (input, (target, _transaction, value_bytes, name_bytes, kind)) =
        (key, le_u64, le_u16, le_u16, le_u8).parse(input)?;
    let (input, (name, value)) = (take(name_bytes), take(value_bytes)).parse(input)?;
    Ok((input, Named { target, kind, name, value }))
}

/// The entries of an item, one by one; an error ends them.
pub(crate) fn entries<'a>(item: Item<'a>, field: &'static str) -> impl Iterator<Item = Result<Named<'a>, GuestError>> {
    let mut rest = item.bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match named(rest) {
            Ok((after, named)) if named.kind & ENCRYPTED == 0 => {
                rest = after;
                Some(Ok(named))
            }
            Ok(_) => {
                rest = &[];
                Some(Err(unsupported("an encrypted directory on btrfs")))
            }
            Err(_) => {
                rest = &[];
                Some(Err(too_short(field, item.at)))
            }
        }
    })
}
