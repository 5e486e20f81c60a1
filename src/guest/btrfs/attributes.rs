//! Extended attributes: items of the inode, by the hash of their names. ACLs have the form of the system calls already.

use super::cursor::Cursor;
use super::inode::Inode;
use super::key::{Key, kind};
use super::volume::Volume;
use super::{names, unsupported};
use crate::guest::GuestError;
use crate::guest::tree::ExtendedAttribute;

/// Most bytes of names and values of one node; Linux lists at most 64 KiB of names.
const ATTRIBUTES_BYTES_MAX: usize = 64 << 20;

/// All attributes of a node, sorted by name.
pub(crate) fn read(volume: &Volume, inode: &Inode) -> Result<Vec<ExtendedAttribute>, GuestError> {
    let number = inode.node.number;
    let mut cursor = Cursor::from(volume, &inode.root, Key::new(number, kind::ATTRIBUTE, 0))?;
    let mut attributes = Vec::new();
    let mut total: usize = 0;
    while let Some(item) = cursor.item().filter(|item| item.key.is_of(number, kind::ATTRIBUTE)) {
        for named in names::entries(item, "extended attribute") {
            let named = named?;
            // The entry itself costs memory, too.
            total += named.name.len() + named.value.len() + size_of::<ExtendedAttribute>();
            if total > ATTRIBUTES_BYTES_MAX {
                let feature = format!("a node with more than {ATTRIBUTES_BYTES_MAX} bytes of extended attributes");
                return Err(unsupported(feature));
            }
            attributes.push(ExtendedAttribute { name: named.name.to_vec(), value: named.value.to_vec() });
        }
        cursor.advance()?;
    }
    attributes.sort();
    Ok(attributes)
}
