//! A cursor on the items of a tree.
//!
//! It believes no pointer: a block must begin with the key that points to it and end before the next one. So every step
//! goes upwards in keys, no block is seen twice, and every walk ends.

use std::sync::Arc;

use super::corrupt;
use super::key::Key;
use super::node::{Item, Node};
use super::superblock::Root;
use super::volume::Volume;
use crate::guest::GuestError;

/// A place in a tree.
pub(crate) struct Cursor<'v> {
    volume: &'v Volume,
    /// From the root to a leaf.
    path: Vec<Step>,
}

struct Step {
    node: Arc<Node>,
    slot: usize,
    /// All keys of the node are below, if there is an end.
    end: Option<Key>,
}

impl<'v> Cursor<'v> {
    /// Stands on the last item whose key is not above `key`; if there is none, on the first of all.
    pub fn before(volume: &'v Volume, root: &Root, key: Key) -> Result<Cursor<'v>, GuestError> {
        let mut cursor = Cursor { volume, path: Vec::with_capacity(usize::from(root.level) + 1) };
        let node = volume.node(root, volume.superblock.at)?;
        if node.len() == 0 && node.level > 0 {
            return Err(corrupt("tree block", node.at, "pointers", "none"));
        }
        let slot = node.slot_before(key).unwrap_or(0);
        cursor.path.push(Step { node, slot, end: None });
        cursor.descend(key)?;
        Ok(cursor)
    }

    /// Stands on the first item whose key is not below `key`.
    pub fn from(volume: &'v Volume, root: &Root, key: Key) -> Result<Cursor<'v>, GuestError> {
        let mut cursor = Cursor::before(volume, root, key)?;
        if cursor.item().is_some_and(|item| item.key < key) {
            cursor.advance()?;
        }
        Ok(cursor)
    }

    /// The item it stands on; `None` past the last.
    pub fn item(&self) -> Option<Item<'_>> {
        self.path.last().and_then(|step| step.node.item(step.slot))
    }

    /// Goes to the next item.
    pub fn advance(&mut self) -> Result<(), GuestError> {
        while let Some(step) = self.path.last_mut() {
            step.slot += 1;
            if step.slot < step.node.len() {
                return self.descend(Key::MIN);
            }
            if self.path.len() == 1 {
                return Ok(());
            }
            self.path.pop();
        }
        Ok(())
    }

    /// From where it stands down to a leaf, to the last entries whose keys are not above `key`, or the first ones.
    fn descend(&mut self, key: Key) -> Result<(), GuestError> {
        while let Some(step) = self.path.last() {
            let Some(pointer) = step.node.pointer(step.slot) else { return Ok(()) };
            let wanted = Root {
                logical: pointer.logical,
                // A node with pointers has a level above 0.
                level: step.node.level - 1,
                generation: pointer.generation,
            };
            let end = step.node.key(step.slot + 1).or(step.end);
            let node = self.volume.node(&wanted, step.node.at)?;
            let first = node.key(0);
            if first != Some(pointer.key) {
                let found = first.map_or("none".to_string(), |key| key.to_string());
                return Err(corrupt("first key of a tree block", node.at, pointer.key, found));
            }
            let last = node.key(node.len() - 1);
            if let Some((last, end)) = last.zip(end).filter(|(last, end)| last >= end) {
                return Err(corrupt("last key of a tree block", node.at, format!("one below {end}"), last));
            }
            let slot = node.slot_before(key).unwrap_or(0);
            self.path.push(Step { node, slot, end });
        }
        Ok(())
    }
}
