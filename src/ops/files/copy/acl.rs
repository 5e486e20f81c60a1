//! POSIX access control lists: from the form that extended attributes have to the text that archives have. Pure.
//!
//! Layout, little-endian: version 4 (= 2) | entries of tag 2, permissions 2, id 4. Source: Linux
//! `include/uapi/linux/posix_acl_xattr.h`; the text is that of acl(5), long form, numbers instead of names.

use nom::Parser;
use nom::combinator::all_consuming;
use nom::multi::many0;
use nom::number::complete::{le_u16, le_u32};

/// The attribute of a file's own list.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the list that new files of a directory get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;

/// The list as text; `None` if it is none that we know.
pub fn to_text(value: &[u8]) -> Option<String> {
    let entry = (le_u16::<&[u8], nom::error::Error<&[u8]>>, le_u16, le_u32);
    let (_, (version, entries)) = all_consuming((le_u32, many0(entry))).parse(value).ok()?;
    if version != VERSION {
        return None;
    }
    let lines: Option<Vec<String>> =
        entries.into_iter().map(|(tag, permissions, id)| line(tag, permissions, id)).collect();
    Some(lines?.join(","))
}

fn line(tag: u16, permissions: u16, id: u32) -> Option<String> {
    let who = match tag {
        0x01 => "user:".to_owned(),
        0x02 => format!("user:{id}"),
        0x04 => "group:".to_owned(),
        0x08 => format!("group:{id}"),
        0x10 => "mask:".to_owned(),
        0x20 => "other:".to_owned(),
        _ => return None,
    };
    let may = |bit, letter| if permissions & bit == 0 { '-' } else { letter };
    Some(format!("{who}:{}{}{}", may(4, 'r'), may(2, 'w'), may(1, 'x')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_text() {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(1u16, 7u16, u32::MAX), (2, 4, 1000), (4, 5, u32::MAX), (8, 0, 50), (16, 5, u32::MAX), (32, 1, u32::MAX)]
        {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        let text = "user::rwx,user:1000:r--,group::r-x,group:50:---,mask::r-x,other::--x";
        assert_eq!(to_text(&value).as_deref(), Some(text));
        assert_eq!(to_text(&value[..value.len() - 1]), None);
        assert_eq!(to_text(&[3, 0, 0, 0]), None);
        assert_eq!(to_text(&[2, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(to_text(b""), None);
    }
}
