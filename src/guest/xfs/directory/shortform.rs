//! Small directories, whole in the inode (`xfs_dir2_sf_hdr`).
//!
//! Layout: `entries 1 | entries with long inode numbers 1 | parent 4 or 8 | entry × n`; an entry:
//! `name length 1 | offset 2 | name | (kind 1) | inode 4 or 8`. All inode numbers are long if one needs it.

use nom::bytes::complete::take;
use nom::combinator::cond;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use super::RawEntry;
use crate::guest::GuestError;
use crate::guest::xfs::too_short;
use crate::guest::xfs::volume::Volume;

/// The entries in `bytes`, content of the inode at byte `at`.
pub(super) fn entries<'b>(volume: &Volume, bytes: &'b [u8], at: u64) -> Result<Vec<RawEntry<'b>>, GuestError> {
    let (_, entries) =
        directory(bytes, volume.geometry.file_types, at).map_err(|_| too_short("directory inside the inode", at))?;
    Ok(entries)
}

fn directory(input: &[u8], file_types: bool, at: u64) -> IResult<&[u8], Vec<RawEntry<'_>>> {
    let (input, (count, long_numbers)) = (be_u8, be_u8).parse(input)?;
    let long = long_numbers != 0;
    let (mut input, _parent) = number(input, long)?;
    let mut entries = Vec::with_capacity(count.into());
    for _ in 0..count {
        let (rest, (name_bytes, _offset)) = (be_u8, be_u16).parse(input)?;
        let (rest, (name, kind)) = (take(name_bytes), cond(file_types, be_u8)).parse(rest)?;
        let (rest, inode) = number(rest, long)?;
        input = rest;
        entries.push(RawEntry { name, kind, inode, at });
    }
    Ok((input, entries))
}

fn number(input: &[u8], long: bool) -> IResult<&[u8], u64> {
    if long { be_u64(input) } else { be_u32.map(u64::from).parse(input) }
}
