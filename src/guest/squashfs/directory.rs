//! Directories: runs of entries, each with a header that their inodes have in common, sorted by name.
//!
//! Header: `entries - 1 4 | block of their inodes 4 | number 4`; entry: `offset of its inode 2 | 2 | kind 2 | length of name - 1
//! 2 | name`. Index of a large directory, a step for every metadata block or so: `bytes of entries before 4 | block 4 | length
//! of name - 1 4 | first name there`.

use std::ops::ControlFlow;

use super::corrupt;
use super::inode::{self, Directory};
use super::metadata::{Cursor, Place};
use super::volume::{METADATA_BYTES, Volume};
use crate::guest::GuestError;
use crate::guest::tree::{Entry, NodeId};

const HEADER_BYTES: u32 = 12;
const ENTRY_BYTES: u32 = 8;
/// Entries that one header can have.
const RUN_MAX: u32 = 256;
/// Longest name.
const NAME_BYTES_MAX: u32 = 256;

/// Tells `visit` all entries.
pub(crate) fn read(
    volume: &Volume,
    directory: &Directory,
    own: NodeId,
    visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> Result<(), GuestError> {
    walk(volume, own, Cursor::new(volume, directory.place), directory.len, visit)
}

/// The entry of that name, found by the index where there is one.
pub(crate) fn lookup(
    volume: &Volume,
    directory: &Directory,
    own: NodeId,
    name: &[u8],
) -> Result<Option<NodeId>, GuestError> {
    let (place, len) = stretch(volume, directory, name)?;
    let mut found = None;
    walk(volume, own, Cursor::new(volume, place), len, &mut |entry| {
        if entry.name != name {
            return ControlFlow::Continue(());
        }
        found = Some(entry.node);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Where entries with names like this one are, and how many bytes of them.
fn stretch(volume: &Volume, directory: &Directory, name: &[u8]) -> Result<(Place, u32), GuestError> {
    let mut cursor = Cursor::new(volume, directory.index);
    let (mut place, mut before, mut end) = (directory.place, 0, directory.len);
    for _ in 0..directory.steps {
        let at = cursor.place().block;
        let (bytes, block, name_len) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let first = cursor.bytes(name_bytes(name_len, at)?)?;
        if bytes < before || bytes > directory.len {
            let expected = format!("{before} to {} bytes before a step", directory.len);
            return Err(corrupt("index of a directory", at, expected, bytes));
        }
        if first.as_slice() > name {
            end = bytes;
            break;
        }
        // Metadata blocks of directories are full, but the last.
        let in_table = directory.place.offset + usize::try_from(bytes).expect("32 bits");
        let block = volume.superblock.directory_table + u64::from(block);
        (place, before) = (Place { block, offset: in_table % METADATA_BYTES }, bytes);
    }
    Ok((place, end - before))
}

fn name_bytes(stored: u32, at: u64) -> Result<usize, GuestError> {
    if stored >= NAME_BYTES_MAX {
        return Err(corrupt("name", at, format!("at most {NAME_BYTES_MAX} bytes"), u64::from(stored) + 1));
    }
    Ok(usize::try_from(stored + 1).expect("at most 256"))
}

/// Tells `visit` the entries in the next `left` bytes.
fn walk(
    volume: &Volume,
    own: NodeId,
    mut cursor: Cursor<'_>,
    mut left: u32,
    visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> Result<(), GuestError> {
    const FIELD: &str = "directory";
    while left > 0 {
        let at = cursor.place().block;
        let ends = |left: u32| corrupt(FIELD, at, "a whole entry", format!("{left} bytes to its end"));
        left = left.checked_sub(HEADER_BYTES).ok_or_else(|| ends(left))?;
        let (count, block, _number) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        if count >= RUN_MAX {
            return Err(corrupt(FIELD, at, format!("at most {RUN_MAX} entries"), u64::from(count) + 1));
        }
        for _ in 0..=count {
            let (offset, _delta, code, name_len) = (cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?);
            let name_len = name_bytes(name_len.into(), at)?;
            let len = ENTRY_BYTES + u32::try_from(name_len).expect("at most 256");
            left = left.checked_sub(len).ok_or_else(|| ends(left))?;
            let name = cursor.bytes(name_len)?;
            let Some(kind) = inode::kind(code) else {
                return Err(corrupt(FIELD, at, "a kind from 1 to 14", code));
            };
            if matches!(&name[..], b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                let found = format!("{:?}", String::from_utf8_lossy(&name));
                return Err(corrupt("name", at, "one without / and NUL", found));
            }
            let node = NodeId { tree: 0, number: u64::from(block) << 16 | u64::from(offset) };
            if node == own || node.number == volume.superblock.root {
                return Err(corrupt(FIELD, at, "a node below this one", "this one or the root"));
            }
            if visit(Entry { name: &name, node, kind: Some(kind) }).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}
