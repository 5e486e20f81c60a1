//! Inode numbers for everything in a mount, without a table that grows with what is looked at.
//!
//! ```text
//! 0 … 2^48-1    our own folders and files: numbered as they are first named; 1 is the root
//! n << 48 | m   node m of guest tree n (a filesystem, or one subvolume of it), n ≥ 1
//! ```
//!
//! The first kind grows with backups, disks and volumes that were looked at, not with the guests' files.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::shown::{Folder, Shown};
use crate::guest::tree::{FileSystem, NodeId};

/// The mount's root.
pub const ROOT: u64 = 1;
/// Bits of an inode number that hold the node's own number; NTFS record numbers and squashfs references have 48.
const NODE_BITS: u32 = 48;
/// Guest trees that can be told apart.
const TREES_MAX: usize = u16::MAX as usize;

/// What an inode number stands for.
#[derive(Clone)]
pub enum Inode {
    /// A folder or file of our own.
    Own(Shown),
    /// Something of our own that was listed, but not opened yet.
    Unopened {
        /// The folder it is in.
        folder: Arc<dyn Folder>,
        /// Its name there.
        name: String,
    },
    /// A node of a guest's filesystem.
    Guest(Arc<dyn FileSystem>, NodeId),
}

/// All inode numbers given out.
pub struct Inodes {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    own: Vec<Inode>,
    by_name: HashMap<(u64, String), u64>,
    trees: Vec<(Arc<dyn FileSystem>, u64)>,
    /// By the filesystem's address: it lives as long as `trees` does.
    tree_numbers: HashMap<(usize, u64), u64>,
}

impl Inodes {
    /// Only the root has a number.
    pub fn new(root: Shown) -> Inodes {
        Inodes { tables: RwLock::new(Tables { own: vec![Inode::Own(root)], ..Tables::default() }) }
    }

    /// What `number` stands for; `None` if it was never given out.
    pub fn get(&self, number: u64) -> Option<Inode> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let tree = number >> NODE_BITS;
        if tree == 0 {
            let at = usize::try_from(number.checked_sub(ROOT)?).ok()?;
            return tables.own.get(at).cloned();
        }
        let (filesystem, tree) = tables.trees.get(usize::try_from(tree - 1).ok()?)?;
        let node = NodeId { tree: *tree, number: number & ((1 << NODE_BITS) - 1) };
        Some(Inode::Guest(Arc::clone(filesystem), node))
    }

    /// The number of the child `name` of `parent`, made if need be; it is opened when somebody looks at it.
    pub fn of_child(&self, parent: u64, folder: &Arc<dyn Folder>, name: &str) -> u64 {
        let key = (parent, name.to_owned());
        let known = self.tables.read().unwrap_or_else(PoisonError::into_inner).by_name.get(&key).copied();
        if let Some(number) = known {
            return number;
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let next = ROOT + tables.own.len() as u64;
        let number = *tables.by_name.entry(key).or_insert(next);
        if number == next {
            tables.own.push(Inode::Unopened { folder: Arc::clone(folder), name: name.to_owned() });
        }
        number
    }

    /// What was unopened under `number` is `shown`. A tree stands for its root.
    pub fn opened(&self, number: u64, shown: Shown) -> Inode {
        let inode = match shown {
            Shown::Tree(filesystem) => {
                let root = filesystem.root();
                Inode::Guest(filesystem, root)
            }
            other => Inode::Own(other),
        };
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(number - ROOT).ok().and_then(|at| tables.own.get_mut(at));
        match place {
            // Two threads may open it at once; nodes must not belong to two instances of one tree.
            Some(place @ Inode::Unopened { .. }) => {
                *place = inode.clone();
                inode
            }
            Some(before) => before.clone(),
            None => inode,
        }
    }

    /// The number of a node; `None` if it has too large a number of its own, or there are too many trees.
    pub fn of_node(&self, filesystem: &Arc<dyn FileSystem>, node: NodeId) -> Option<u64> {
        if node.number >> NODE_BITS != 0 {
            return None;
        }
        let key = (Arc::as_ptr(filesystem).cast::<()>().addr(), node.tree);
        let known = self.tables.read().unwrap_or_else(PoisonError::into_inner).tree_numbers.get(&key).copied();
        let tree = match known {
            Some(tree) => tree,
            None => {
                let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
                let next = tables.trees.len() as u64 + 1;
                let tree = *tables.tree_numbers.entry(key).or_insert(next);
                if tree == next {
                    if tables.trees.len() == TREES_MAX {
                        tables.tree_numbers.remove(&key);
                        return None;
                    }
                    tables.trees.push((Arc::clone(filesystem), node.tree));
                }
                tree
            }
        };
        Some(tree << NODE_BITS | node.number)
    }
}
