//! What Linux systems leave on NTFS: owner, mode and device in extended attributes (WSL, the kernel's ntfs3), and other
//! attributes of Linux's own namespaces.
//!
//! Entry: 0 distance to the next u32 (or to the end; 0: the last) | 4 flags u8 | 5 length of its name u8 | 6 of its value u16 | 8 the name, a
//! zero byte, the value.
//!
//! Source: \[MS-FSCC\] section 2.4.15 for the entries; the kernel's fs/ntfs3 for the names.

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use super::Ntfs;
use super::node::Node;
use super::record::kind;
use crate::guest::GuestError;
use crate::guest::tree::ExtendedAttribute;

/// All of a file's attributes: Windows stops at 64 KiB.
const ATTRIBUTES_BYTES_MAX: u64 = 256 << 10;
/// Namespaces of Linux; what Windows and its subsystem keep is theirs.
const NAMESPACES: [&[u8]; 4] = [b"security.", b"system.", b"trusted.", b"user."];

/// What Linux knows of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinuxMetadata {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
    pub device: Option<(u32, u32)>,
}

struct RawEntry<'a> {
    next: u32,
    name: &'a [u8],
    value: &'a [u8],
}

fn entry(input: &[u8]) -> IResult<&[u8], RawEntry<'_>> {
    let (rest, (next, _, name_len, value_len)) = (le_u32, le_u8, le_u8, le_u16).parse(input)?;
    let (rest, (name, _, value)) = (take(name_len), tag(&b"\0"[..]), take(value_len)).parse(rest)?;
    Ok((rest, RawEntry { next, name, value }))
}

impl Ntfs {
    /// Names and values of a file's extended attributes.
    fn each_attribute(&self, node: &Node, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), GuestError> {
        const FIELD: &str = "extended attributes";
        let bytes = self.small_content(node, kind::EXTENDED_ATTRIBUTES, FIELD, ATTRIBUTES_BYTES_MAX)?;
        let bytes = bytes.unwrap_or_default();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let corrupt = |found: String| GuestError::Corrupt {
                field: FIELD,
                at: node.at,
                expected: "a name and a value within their entry".to_owned(),
                found,
            };
            let Ok((behind, RawEntry { next, name, value })) = entry(rest) else {
                return Err(corrupt(format!("an entry in the last {} bytes", rest.len())));
            };
            visit(name, value);
            if next == 0 {
                break;
            }
            let used = rest.len() - behind.len();
            let next = usize::try_from(next).ok().filter(|next| *next >= used);
            // Each step goes on by at least one entry: this ends.
            rest =
                next.and_then(|next| rest.get(next..)).ok_or_else(|| corrupt("a next entry elsewhere".to_owned()))?;
        }
        Ok(())
    }

    /// What Linux knows of a file.
    pub(super) fn linux_metadata(&self, node: &Node) -> Result<LinuxMetadata, GuestError> {
        let mut known = LinuxMetadata::default();
        if !node.has(kind::EXTENDED_ATTRIBUTES) {
            return Ok(known);
        }
        self.each_attribute(node, &mut |name, value| {
            let word = |at: usize| value.get(at..at + 4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]));
            match name {
                b"$LXUID" => known.uid = word(0),
                b"$LXGID" => known.gid = word(0),
                b"$LXMOD" => known.mode = word(0),
                b"$LXDEV" => known.device = word(0).zip(word(4)),
                _ => {}
            }
        })?;
        Ok(known)
    }

    /// Attributes that Linux can take back.
    pub(super) fn linux_attributes(&self, node: &Node) -> Result<Vec<ExtendedAttribute>, GuestError> {
        let mut attributes = Vec::new();
        self.each_attribute(node, &mut |name, value| {
            if NAMESPACES.iter().any(|namespace| name.len() > namespace.len() && name.starts_with(namespace)) {
                attributes.push(ExtendedAttribute { name: name.to_vec(), value: value.to_vec() });
            }
        })?;
        attributes.sort();
        attributes.dedup_by(|one, other| one.name == other.name);
        Ok(attributes)
    }
}
