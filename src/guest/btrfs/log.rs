//! The log: what was made durable file by file after the last commit. It is one tree for every subvolume.
//!
//! It is not replayed: what it has would have to be merged into directories, extents and counts of links. A view of the
//! last commit is consistent by itself; what it lacks is said.

use super::cursor::Cursor;
use super::key::{Key, kind, object};
use super::subvolumes;
use super::volume::Volume;
use crate::guest::GuestError;

/// More inodes than these are not counted.
const COUNTED_MAX: usize = 10_000;

/// What the view lacks, if there is a log.
pub(crate) fn warning(volume: &Volume) -> Option<String> {
    let roots = volume.superblock.log_root?;
    let what = match count(volume, &roots) {
        Ok(0) => return None,
        Ok(COUNTED_MAX..) => format!("{COUNTED_MAX} or more files and directories"),
        Ok(1) => "1 file or directory".to_string(),
        Ok(count) => format!("{count} files and directories"),
        Err(err) => format!("an unknown number of files, for its log cannot be read ({err})"),
    };
    Some(format!("the newest changes, synced after the last commit, are not shown: those to {what}"))
}

/// How many inodes are in the log.
fn count(volume: &Volume, roots: &super::superblock::Root) -> Result<usize, GuestError> {
    let mut inodes = 0;
    let mut trees = Cursor::from(volume, roots, Key::new(object::LOG, kind::ROOT, 0))?;
    while let Some(tree) = trees.item().filter(|item| item.key.is_of(object::LOG, kind::ROOT)) {
        if let Some(root) = subvolumes::root_in(volume, roots, tree.key)? {
            let mut items = Cursor::from(volume, &root, Key::MIN)?;
            while let Some(item) = items.item() {
                inodes += usize::from(item.key.kind == kind::INODE);
                if inodes >= COUNTED_MAX {
                    return Ok(inodes);
                }
                items.advance()?;
            }
        }
        trees.advance()?;
    }
    Ok(inodes)
}
