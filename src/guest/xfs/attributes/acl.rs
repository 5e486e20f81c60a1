//! ACLs: XFS stores them big-endian under IRIX's names; Linux shows them under its own names in its own form.
//!
//! Stored: `entries 4 | (tag 4, id 4, permissions 2, pad 2) × n`. Shown, little-endian:
//! `version 2 in 4 | (tag 2, permissions 2, id 4) × n`, the id all ones where the tag has none.

use nom::Parser;
use nom::bytes::complete::take;
use nom::multi::count;
use nom::number::complete::{be_u16, be_u32};

use super::flag;
use crate::guest::GuestError;
use crate::guest::xfs::{corrupt, too_short};

const ENTRY_BYTES: usize = 12;
const LINUX_VERSION: u32 = 2;
/// The tags whose entries are about somebody: `ACL_USER`, `ACL_GROUP`.
const TAGS_WITH_ID: [u32; 2] = [0x02, 0x08];
/// All tags: owner, user, owning group, group, mask, others.
const TAGS: [u32; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];

/// Linux's name of an attribute that is an ACL.
pub(super) fn linux_name(flags: u8, name: &[u8]) -> Option<&'static [u8]> {
    match name {
        _ if flags & flag::ROOT == 0 => None,
        b"SGI_ACL_FILE" => Some(b"system.posix_acl_access"),
        b"SGI_ACL_DEFAULT" => Some(b"system.posix_acl_default"),
        _ => None,
    }
}

/// Linux's form of an ACL; `at` is where the stored one lies.
pub(super) fn linux_value(stored: &[u8], at: u64) -> Result<Vec<u8>, GuestError> {
    let (rest, entries) = be_u32::<_, nom::error::Error<&[u8]>>(stored).map_err(|_| too_short("ACL", at))?;
    let room = rest.len() / ENTRY_BYTES;
    let Some(entries) = usize::try_from(entries).ok().filter(|entries| *entries <= room) else {
        return Err(corrupt("ACL", at, format!("at most {room} entries"), entries));
    };
    let entry = (be_u32::<_, nom::error::Error<&[u8]>>, be_u32, be_u16, take(2usize));
    let (_, entries) = count(entry, entries).parse(rest).map_err(|_| too_short("ACL", at))?;
    let mut shown = LINUX_VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions, _pad) in entries {
        let Some(short) = u16::try_from(tag).ok().filter(|_| TAGS.contains(&tag)) else {
            return Err(corrupt("ACL", at, "a known tag", format!("{tag:#x}")));
        };
        let id = if TAGS_WITH_ID.contains(&tag) { id } else { u32::MAX };
        shown.extend_from_slice(&short.to_le_bytes());
        shown.extend_from_slice(&permissions.to_le_bytes());
        shown.extend_from_slice(&id.to_le_bytes());
    }
    Ok(shown)
}
