//! Directories in order, and whole trees from the top down.
//!
//! Laws of a walk, whatever a damaged filesystem says: it ends; no directory is entered twice; a directory that can be read
//! only in part is told as far as it goes, and then its fault.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::FilesError;
use super::found::Found;
use crate::guest::GuestError;
use crate::guest::tree::{FileSystem, Metadata, NodeId, NodeKind};
use crate::ops::Control;

/// Most names of one directory: they are sorted in memory. The largest seen in the field hold a few million mails.
const NAMES_MAX: usize = 4 << 20;
/// Most bytes that the names of one directory may have together.
const NAME_BYTES_MAX: usize = 128 << 20;
/// Deepest directory entered; a copy holds one open directory a level. Real trees have some 50 levels.
pub const DEPTH_MAX: usize = 500;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The name.
    pub name: Vec<u8>,
    /// The node.
    pub node: NodeId,
}

/// The names of a directory.
pub struct Listing {
    /// By name, in the order of bytes.
    pub children: Vec<Child>,
    /// Why there may be more of them.
    pub fault: Option<GuestError>,
}

/// The names of a directory in order, as far as they can be read.
pub fn list(filesystem: &dyn FileSystem, directory: NodeId) -> Listing {
    let (mut children, mut bytes) = (Vec::new(), 0);
    let mut too_many = false;
    let read = filesystem.read_directory(directory, &mut |entry| {
        bytes += entry.name.len();
        too_many = children.len() == NAMES_MAX || bytes > NAME_BYTES_MAX;
        if too_many {
            return ControlFlow::Break(());
        }
        children.push(Child { name: entry.name.to_vec(), node: entry.node });
        ControlFlow::Continue(())
    });
    let fault = match read {
        Err(error) => Some(error),
        Ok(()) => {
            too_many.then(|| GuestError::Unsupported { feature: format!("a directory of more than {NAMES_MAX} names") })
        }
    };
    children.sort_by(|a, b| a.name.cmp(&b.name));
    // Twice the same name is damage that the tree should have noticed; below, names decide what is written where.
    children.dedup_by(|a, b| a.name == b.name);
    Listing { children, fault }
}

/// What a walk meets.
pub enum Step<'w> {
    /// A node; directories before what is in them.
    Node(Item<'w>),
    /// The end of a directory that was entered.
    Leave(Item<'w>),
    /// Something that cannot be read, and is left out.
    Fault(FilesError),
}

/// A node on a walk.
#[derive(Clone, Copy)]
pub struct Item<'w> {
    /// Its path below the start: empty, or beginning with `/`.
    pub path: &'w [u8],
    /// Levels below the start.
    pub depth: usize,
    /// The node.
    pub node: NodeId,
    /// What is known about it.
    pub metadata: &'w Metadata,
}

impl Item<'_> {
    /// Its name; empty for the start.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// Where to go from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On; if it is a directory, into it.
    Into,
    /// Past it.
    Past,
    /// Nowhere: the walk ends.
    End,
}

/// Walks the tree at and below `start`, names in order.
///
/// # Errors
/// [`FilesError::Interrupted`], and what `visit` fails with.
pub fn walk(
    start: &Found,
    control: Control<'_>,
    visit: &mut dyn FnMut(Step<'_>) -> Result<Way, FilesError>,
) -> Result<(), FilesError> {
    let mut walk = Walk { start, control, entered: HashSet::new(), path: Vec::new(), visit };
    walk.node(start.node, 0).map(|_| ())
}

struct Walk<'w> {
    start: &'w Found,
    control: Control<'w>,
    entered: HashSet<NodeId>,
    path: Vec<u8>,
    visit: &'w mut dyn FnMut(Step<'_>) -> Result<Way, FilesError>,
}

impl Walk<'_> {
    fn node(&mut self, node: NodeId, depth: usize) -> Result<Way, FilesError> {
        if self.control.interrupted() {
            return Err(FilesError::Interrupted);
        }
        let metadata = match self.start.filesystem.metadata(node) {
            Ok(metadata) => metadata,
            Err(source) => return self.fault(|place| FilesError::node(place, source)),
        };
        let way = (self.visit)(Step::Node(Item { path: &self.path, depth, node, metadata: &metadata }))?;
        if way != Way::Into || metadata.kind != NodeKind::Directory {
            return Ok(way);
        }
        let way = self.inside(node, depth)?;
        if way == Way::End {
            return Ok(way);
        }
        (self.visit)(Step::Leave(Item { path: &self.path, depth, node, metadata: &metadata }))
    }

    fn inside(&mut self, directory: NodeId, depth: usize) -> Result<Way, FilesError> {
        if !self.entered.insert(directory) {
            let what = "this directory is also elsewhere in the tree, and was looked at there";
            return self.fault(|place| FilesError::Inconsistent { place, what });
        }
        if depth == DEPTH_MAX {
            return self.fault(|place| FilesError::Inconsistent { place, what: "more than 500 directories deep" });
        }
        let Listing { children, fault } = list(self.start.filesystem.as_ref(), directory);
        for child in children {
            let len = self.path.len();
            self.path.push(b'/');
            self.path.extend(&child.name);
            let way = self.node(child.node, depth + 1);
            self.path.truncate(len);
            if way? == Way::End {
                return Ok(Way::End);
            }
        }
        match fault {
            Some(source) => self.fault(|place| FilesError::node(place, source)),
            None => Ok(Way::Into),
        }
    }

    fn fault(&mut self, error: impl FnOnce(String) -> FilesError) -> Result<Way, FilesError> {
        (self.visit)(Step::Fault(error(self.start.shown(&self.path))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::guest::memory::MemoryTree;
    use crate::ops::event::Silent;

    fn steps(way: impl Fn(&[u8]) -> Way) -> Vec<String> {
        let tree = MemoryTree::new(&[("/b/x", ""), ("/b/a/y", ""), ("/a", ""), ("/c", "-> b")]);
        let start = Found { place: b"m:".to_vec(), node: tree.root(), filesystem: Arc::new(tree), missing: Vec::new() };
        let mut told = Vec::new();
        let interrupt = AtomicBool::new(false);
        walk(&start, Control { events: &Silent, interrupt: &interrupt }, &mut |step| {
            let (mark, item) = match step {
                Step::Node(item) => ("", item),
                Step::Leave(item) => ("end ", item),
                Step::Fault(error) => panic!("{error}"),
            };
            told.push(format!("{mark}{}", start.shown(item.path)));
            Ok(way(item.path))
        })
        .unwrap();
        told
    }

    #[test]
    fn a_walk_goes_down_in_order_and_where_it_is_sent() {
        let all = ["m:/", "m:/a", "m:/b", "m:/b/a", "m:/b/a/y", "end m:/b/a", "m:/b/x", "end m:/b", "m:/c", "end m:/"];
        assert_eq!(steps(|_| Way::Into), all);
        let past = |path: &[u8]| if path == b"/b" { Way::Past } else { Way::Into };
        assert_eq!(steps(past), ["m:/", "m:/a", "m:/b", "m:/c", "end m:/"]);
        let end = |path: &[u8]| if path == b"/b/a/y" { Way::End } else { Way::Into };
        assert_eq!(steps(end), all[..5]);
    }
}
