//! Directories: every entry is there twice, by the hash of its name to be found, and by a running number to be listed.

use std::ops::ControlFlow;

use super::checksum::name_hash;
use super::corrupt;
use super::cursor::Cursor;
use super::inode::{EMPTY_DIRECTORY, Inode};
use super::key::{Key, kind, object};
use super::names::{self, Named};
use super::subvolumes;
use super::volume::Volume;
use crate::guest::GuestError;
use crate::guest::tree::{Entry, NodeId, NodeKind};

const NAME_BYTES_MAX: usize = 255;

/// Tells `visit` every entry, in the order in which they were made.
pub(crate) fn read(
    volume: &Volume,
    directory: &Inode,
    visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> Result<(), GuestError> {
    let number = directory.node.number;
    let mut cursor = Cursor::from(volume, &directory.root, Key::new(number, kind::DIRECTORY_BY_INDEX, 0))?;
    while let Some(item) = cursor.item().filter(|item| item.key.is_of(number, kind::DIRECTORY_BY_INDEX)) {
        for named in names::entries(item, "directory entry") {
            let named = named?;
            check_name(named.name, item.at)?;
            let node = target(volume, directory, &named, item.at)?;
            let kind = kind_of_entry(named.kind, item.at)?;
            if visit(Entry { name: named.name, node, kind }).is_break() {
                return Ok(());
            }
        }
        cursor.advance()?;
    }
    Ok(())
}

/// The node of that name.
pub(crate) fn lookup(volume: &Volume, directory: &Inode, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
    if check_name(name, directory.at).is_err() {
        return Ok(None);
    }
    let wanted = Key::new(directory.node.number, kind::DIRECTORY_BY_HASH, name_hash(name));
    let cursor = Cursor::from(volume, &directory.root, wanted)?;
    let Some(item) = cursor.item().filter(|item| item.key == wanted) else { return Ok(None) };
    for named in names::entries(item, "directory entry") {
        let named = named?;
        if named.name == name {
            return target(volume, directory, &named, item.at).map(Some);
        }
    }
    Ok(None)
}

fn check_name(name: &[u8], at: u64) -> Result<(), GuestError> {
    let sound = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if sound && name != b"." && name != b".." {
        return Ok(());
    }
    Err(corrupt("name of a directory entry", at, "a name", name.escape_ascii()))
}

/// The node that an entry leads to.
fn target(volume: &Volume, directory: &Inode, named: &Named<'_>, at: u64) -> Result<NodeId, GuestError> {
    let (from, to) = (directory.node, named.target);
    match to.kind {
        kind::INODE => Ok(NodeId { tree: from.tree, number: to.object }),
        kind::ROOT if subvolumes::is_linked(volume, from.tree, from.number, named.name, to.object)? => {
            Ok(NodeId { tree: to.object, number: object::FIRST_FREE })
        }
        kind::ROOT => Ok(NodeId { tree: from.tree, number: EMPTY_DIRECTORY }),
        _ => Err(corrupt("target of a directory entry", at, "an inode or a subvolume", to)),
    }
}

fn kind_of_entry(kind: u8, at: u64) -> Result<Option<NodeKind>, GuestError> {
    Ok(Some(match kind {
        0 => return Ok(None),
        1 => NodeKind::File,
        2 => NodeKind::Directory,
        3 => NodeKind::CharacterDevice,
        4 => NodeKind::BlockDevice,
        5 => NodeKind::Fifo,
        6 => NodeKind::Socket,
        7 => NodeKind::Symlink,
        other => return Err(corrupt("kind of a directory entry", at, "0 to 7", other)),
    }))
}
