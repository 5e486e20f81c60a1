//! Extended attributes, in all their forms: [`shortform`] in the inode, or in the leaves of a tree by hash ([`leaf`]), with
//! longer values in blocks of their own ([`remote`]). ACLs are attributes with a form of their own ([`acl`]).

mod acl;
mod leaf;
mod remote;
mod shortform;

use std::collections::HashSet;

use super::dabtree::{BlockKind, HashTree};
use super::fork::Fork;
use super::inode::Inode;
use super::volume::Volume;
use super::{corrupt, unsupported};
use crate::guest::GuestError;
use crate::guest::tree::ExtendedAttribute;

/// Bytes of a node's attributes that we hold at once, names and values together. Linux lists 64 KiB of names at most.
const BYTES_MAX: usize = 64 << 20;
/// Longest value (`XFS_XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: u32 = 64 << 10;

/// What an attribute is for (`XFS_ATTR_*`), as its flags say.
mod flag {
    pub(super) const LOCAL: u8 = 1 << 0;
    pub(super) const ROOT: u8 = 1 << 1;
    pub(super) const SECURE: u8 = 1 << 2;
    pub(super) const PARENT: u8 = 1 << 3;
    pub(super) const INCOMPLETE: u8 = 1 << 7;
}

/// An attribute as it is stored.
struct RawAttribute<'a> {
    flags: u8,
    name: &'a [u8],
    value: Value<'a>,
    /// Where its block or inode lies, for messages.
    at: u64,
}

/// Where an attribute's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Here(&'a [u8]),
    /// From that block of the fork.
    Remote {
        block: u32,
        bytes: u32,
    },
}

/// All attributes of an inode that Linux shows, sorted by name.
pub(crate) fn read(volume: &Volume, inode: &Inode) -> Result<Vec<ExtendedAttribute>, GuestError> {
    let mut list = List { volume, inode, bytes: 0, attributes: Vec::new() };
    match &inode.attributes {
        None => {}
        Some(Fork::Local(bytes)) => {
            for raw in shortform::attributes(bytes, inode.at)? {
                list.add(raw)?;
            }
        }
        Some(fork) => {
            let tree = HashTree {
                volume,
                inode,
                fork,
                root: 0,
                blocks: 1,
                leaves: &[BlockKind::AttributeLeaf],
                field: "attribute block",
            };
            let mut seen = HashSet::new();
            let mut leaf = tree.leaf_for(0)?;
            while let Some(block) = leaf {
                for raw in leaf::attributes(&block, volume.geometry.checksums)? {
                    list.add(raw)?;
                }
                leaf = tree.next_leaf(&block, &mut seen)?;
            }
        }
    }
    list.attributes.sort_unstable();
    Ok(list.attributes)
}

struct List<'a> {
    volume: &'a Volume,
    inode: &'a Inode,
    bytes: usize,
    attributes: Vec<ExtendedAttribute>,
}

impl List<'_> {
    fn add(&mut self, raw: RawAttribute<'_>) -> Result<(), GuestError> {
        // Parent pointers are the filesystem's own; what is incomplete was being written or removed.
        if raw.flags & (flag::PARENT | flag::INCOMPLETE) != 0 {
            return Ok(());
        }
        let space: &[u8] = match raw.flags & (flag::ROOT | flag::SECURE) {
            0 => b"user.",
            flag::ROOT => b"trusted.",
            flag::SECURE => b"security.",
            both => return Err(corrupt("namespace of an attribute", raw.at, "one", format!("{both:#x}"))),
        };
        if raw.name.is_empty() || raw.name.contains(&0) {
            let found = raw.name.escape_ascii();
            return Err(corrupt("name of an attribute", raw.at, "one or more bytes without NUL", found));
        }
        let value = match raw.value {
            Value::Here(value) => value.to_vec(),
            Value::Remote { block, bytes } => remote::read(self.volume, self.inode, block, bytes)?,
        };
        let attribute = match acl::linux_name(raw.flags, raw.name) {
            Some(name) => ExtendedAttribute { name: name.to_vec(), value: acl::linux_value(&value, raw.at)? },
            None => ExtendedAttribute { name: [space, raw.name].concat(), value },
        };
        self.bytes += attribute.name.len() + attribute.value.len();
        if self.bytes > BYTES_MAX {
            return Err(unsupported(format!("a node with more than {BYTES_MAX} bytes of extended attributes")));
        }
        self.attributes.push(attribute);
        Ok(())
    }
}
