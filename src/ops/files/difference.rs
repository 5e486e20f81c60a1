//! What changed between two trees, by walking both side by side: names in order, so that memory holds one directory of each a
//! level and nothing else.
//!
//! By metadata, unless contents are asked for: kind, size, time of change, mode, owner, link target, device, attributes. A
//! node with the same number, the same time of its own last change and equal metadata is the same without another look.
//! Of directories neither size nor time count: both follow from what is in them, which is told anyway.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::ControlFlow;

use serde::Serialize;

use super::FilesError;
use super::content::{PIECE_BYTES, Readable};
use super::found::Found;
use super::listing::{Child, DEPTH_MAX, Listing, Step, Way, list, walk};
use crate::guest::tree::{FileSystem, Metadata, NodeId, NodeKind};
use crate::ops::Control;

/// Whose contents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nobody's: metadata decide.
    None,
    /// Those of files whose metadata differ: whether the content does too.
    Changed,
    /// Those of all files of equal size.
    All,
}

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference<'d> {
    /// Path below the two starts: empty, or beginning with `/`.
    pub path: &'d [u8],
    /// In the first tree.
    pub before: Option<&'d Metadata>,
    /// In the second tree.
    pub after: Option<&'d Metadata>,
    /// What differs, if it is in both.
    pub aspects: &'d [Aspect],
    /// What happened, in a word.
    pub change: Change,
}

/// What happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only in the second tree.
    Added,
    /// Only in the first.
    Removed,
    /// In both, with other content (as far as it was asked for, or by size, time, kind or target).
    Changed,
    /// In both, with other metadata only, or with something that could not be compared.
    Metadata,
}

/// What of a node differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// What it is.
    Kind,
    /// Bytes of content: read and compared.
    Content,
    /// Its length.
    Size,
    /// When its content changed.
    Modified,
    /// Permissions.
    Mode,
    /// User or group.
    Owner,
    /// Where a link leads.
    Target,
    /// Numbers of a device.
    Device,
    /// Extended attributes and access control lists.
    Attributes,
    /// Something in it could not be read and compared.
    Unreadable,
}

/// How many nodes differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Only in the second tree.
    pub added: u64,
    /// Only in the first.
    pub removed: u64,
    /// In both, [`Change::Changed`].
    pub changed: u64,
    /// In both, [`Change::Metadata`].
    pub metadata_only: u64,
    /// In both, without a difference.
    pub same: u64,
    /// What could not be read.
    pub unreadable: u64,
}

/// Compares what is at and below two nodes; `None` where there is none.
pub struct Comparison<'c> {
    /// The earlier tree.
    pub before: Option<&'c Found>,
    /// The later tree.
    pub after: Option<&'c Found>,
    /// Whose contents are read.
    pub contents: Contents,
    /// Events and the wish to stop.
    pub control: Control<'c>,
    /// Takes each difference; to break ends the comparison.
    pub differs: &'c mut dyn FnMut(&Difference<'_>) -> Result<ControlFlow<()>, FilesError>,
    /// Takes what could not be read.
    pub fault: &'c mut dyn FnMut(&FilesError),
}

impl Comparison<'_> {
    /// Does it.
    ///
    /// # Errors
    /// [`FilesError::Interrupted`], and what `differs` fails with.
    pub fn run(&mut self) -> Result<Counts, FilesError> {
        let mut work = Work { counts: Counts::default(), path: Vec::new(), entered: HashSet::new(), comparison: self };
        let (before, after) = (work.comparison.before, work.comparison.after);
        // Breaking is an end like any other.
        let _ = match (before, after) {
            (Some(before), Some(after)) => work.both(before.node, after.node, 0)?,
            (Some(before), None) => work.one(Side::Before, before, before.node)?,
            (None, Some(after)) => work.one(Side::After, after, after.node)?,
            (None, None) => ControlFlow::Continue(()),
        };
        Ok(work.counts)
    }
}

#[derive(Clone, Copy)]
enum Side {
    Before,
    After,
}

struct Work<'w, 'c> {
    counts: Counts,
    path: Vec<u8>,
    /// Directories of the first tree that were looked into: a damaged tree may show one in several places.
    entered: HashSet<NodeId>,
    comparison: &'w mut Comparison<'c>,
}

type Flow = Result<ControlFlow<()>, FilesError>;

impl<'c> Work<'_, 'c> {
    /// Both trees have this path.
    fn both(&mut self, before: NodeId, after: NodeId, depth: usize) -> Flow {
        if self.comparison.control.interrupted() {
            return Err(FilesError::Interrupted);
        }
        let (old_tree, new_tree) = self.trees();
        let old = old_tree.filesystem.metadata(before);
        let new = new_tree.filesystem.metadata(after);
        let (old, new) = match (old, new) {
            (Ok(old), Ok(new)) => (old, new),
            (old, new) => {
                for (tree, error) in [(old_tree, old.err()), (new_tree, new.err())] {
                    self.unreadable(tree, error);
                }
                return Ok(ControlFlow::Continue(()));
            }
        };
        let aspects = self.aspects((before, &old), (after, &new));
        let change = self.change(&aspects);
        match change {
            _ if aspects.is_empty() => self.counts.same += 1,
            // Counted when it was met.
            _ if aspects == [Aspect::Unreadable] => {}
            Change::Changed => self.counts.changed += 1,
            _ => self.counts.metadata_only += 1,
        }
        if !aspects.is_empty() {
            let told =
                Difference { path: &self.path, before: Some(&old), after: Some(&new), aspects: &aspects, change };
            if (self.comparison.differs)(&told)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        match (old.kind == NodeKind::Directory, new.kind == NodeKind::Directory) {
            (true, true) => self.inside(before, after, depth),
            (true, false) => self.below(Side::Before, before),
            (false, true) => self.below(Side::After, after),
            (false, false) => Ok(ControlFlow::Continue(())),
        }
    }

    fn trees(&self) -> (&'c Found, &'c Found) {
        let both = self.comparison.before.zip(self.comparison.after);
        both.expect("called only where there are two")
    }

    fn inside(&mut self, before: NodeId, after: NodeId, depth: usize) -> Flow {
        let (old_tree, new_tree) = self.trees();
        if !self.entered.insert(before) || depth == DEPTH_MAX {
            let what = "this directory is also elsewhere in the tree, or absurdly deep";
            let error = FilesError::Inconsistent { place: old_tree.shown(&self.path), what };
            return Ok(self.unreadable_error(&error));
        }
        let old = list(old_tree.filesystem.as_ref(), before);
        let new = list(new_tree.filesystem.as_ref(), after);
        let (Listing { children: old, fault: old_fault }, Listing { children: new, fault: new_fault }) = (old, new);
        let partial = old_fault.is_some() || new_fault.is_some();
        for (tree, fault) in [(old_tree, old_fault), (new_tree, new_fault)] {
            self.unreadable(tree, fault);
        }
        let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(ControlFlow::Continue(())),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.name.cmp(&new.name),
            };
            let left = if order.is_le() { old.next() } else { None };
            let right = if order.is_ge() { new.next() } else { None };
            if self.child(left, right, depth, partial)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn child(&mut self, before: Option<Child>, after: Option<Child>, depth: usize, partial: bool) -> Flow {
        let len = self.path.len();
        self.path.push(b'/');
        self.path.extend(before.iter().chain(&after).next().into_iter().flat_map(|child| &child.name));
        let (old_tree, new_tree) = (self.comparison.before, self.comparison.after);
        let flow = match (before, after) {
            (Some(before), Some(after)) => self.both(before.node, after.node, depth + 1),
            // What is missing from a list that breaks off may well be there.
            _ if partial => Ok(ControlFlow::Continue(())),
            (Some(before), None) => self.one(Side::Before, old_tree.expect("it has the child"), before.node),
            (None, Some(after)) => self.one(Side::After, new_tree.expect("it has the child"), after.node),
            (None, None) => Ok(ControlFlow::Continue(())),
        };
        self.path.truncate(len);
        flow
    }

    /// Everything below a directory that only one tree has, but not itself.
    fn below(&mut self, side: Side, directory: NodeId) -> Flow {
        let tree = match side {
            Side::Before => self.comparison.before,
            Side::After => self.comparison.after,
        };
        self.tell_all(side, tree.expect("it has the directory"), directory, false)
    }

    /// Only one tree has this.
    fn one(&mut self, side: Side, tree: &Found, node: NodeId) -> Flow {
        self.tell_all(side, tree, node, true)
    }

    fn tell_all(&mut self, side: Side, tree: &Found, node: NodeId, itself: bool) -> Flow {
        let start = Found {
            place: [&tree.place, self.path.as_slice()].concat(),
            filesystem: std::sync::Arc::clone(&tree.filesystem),
            node,
            missing: Vec::new(),
        };
        let mut flow = ControlFlow::Continue(());
        let control = self.comparison.control;
        walk(&start, control, &mut |step| {
            let item = match step {
                Step::Fault(error) => {
                    let _ = self.unreadable_error(&error);
                    return Ok(Way::Past);
                }
                Step::Leave(_) => return Ok(Way::Into),
                Step::Node(item) if item.depth == 0 && !itself => return Ok(Way::Into),
                Step::Node(item) => item,
            };
            let path = [&self.path, item.path].concat();
            let (before, after, change) = match side {
                Side::Before => (Some(item.metadata), None, Change::Removed),
                Side::After => (None, Some(item.metadata), Change::Added),
            };
            match side {
                Side::Before => self.counts.removed += 1,
                Side::After => self.counts.added += 1,
            }
            flow = (self.comparison.differs)(&Difference { path: &path, before, after, aspects: &[], change })?;
            Ok(if flow.is_break() { Way::End } else { Way::Into })
        })?;
        Ok(flow)
    }

    fn aspects(&mut self, (before, old): (NodeId, &Metadata), (after, new): (NodeId, &Metadata)) -> Vec<Aspect> {
        let mut aspects = Vec::new();
        let mut note = |differs: bool, aspect| {
            if differs {
                aspects.push(aspect);
            }
        };
        note(old.kind != new.kind, Aspect::Kind);
        let both = |kind| old.kind == kind && new.kind == kind;
        let is_directory = both(NodeKind::Directory);
        note(!is_directory && old.kind == new.kind && old.size != new.size, Aspect::Size);
        note(!is_directory && old.modified != new.modified, Aspect::Modified);
        note(old.mode != new.mode, Aspect::Mode);
        note((old.uid, old.gid) != (new.uid, new.gid), Aspect::Owner);
        note(old.device != new.device, Aspect::Device);
        let untouched = before == after && old.changed == new.changed && aspects.is_empty();
        let (old_tree, new_tree) = self.trees();
        let (old_fs, new_fs) = (old_tree.filesystem.as_ref(), new_tree.filesystem.as_ref());
        let mut faults = Vec::new();
        if !untouched {
            if both(NodeKind::Symlink) {
                let targets = (old_fs.read_link(before), new_fs.read_link(after));
                differ(targets, Aspect::Target, &mut aspects, &mut faults);
            }
            let attributes = (old_fs.extended_attributes(before), new_fs.extended_attributes(after));
            differ(attributes, Aspect::Attributes, &mut aspects, &mut faults);
        }
        let mut failed: Vec<FilesError> = faults
            .into_iter()
            .map(|(side, source)| {
                let tree = if side { new_tree } else { old_tree };
                FilesError::node(tree.shown(&self.path), source)
            })
            .collect();
        let wanted = match self.comparison.contents {
            Contents::None => false,
            Contents::Changed => !untouched,
            Contents::All => true,
        };
        if wanted && both(NodeKind::File) && old.size == new.size {
            match self.same_content((old_fs, before), (new_fs, after)) {
                Ok(true) => {}
                Ok(false) => aspects.push(Aspect::Content),
                Err(error) => failed.push(error),
            }
        }
        for error in &failed {
            let _ = self.unreadable_error(error);
            aspects.push(Aspect::Unreadable);
        }
        aspects.dedup();
        aspects
    }

    fn same_content(
        &self,
        (old_fs, before): (&dyn FileSystem, NodeId),
        (new_fs, after): (&dyn FileSystem, NodeId),
    ) -> Result<bool, FilesError> {
        let (old_tree, new_tree) = self.trees();
        let (old_place, new_place) = (old_tree.shown(&self.path), new_tree.shown(&self.path));
        let old = Readable { filesystem: old_fs, node: before, place: &old_place };
        let new = Readable { filesystem: new_fs, node: after, place: &new_place };
        let (mut left, mut right) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
        let mut at = 0;
        loop {
            if self.comparison.control.interrupted() {
                return Err(FilesError::Interrupted);
            }
            let read = |file: &Readable<'_>, buf: &mut [u8]| {
                let read = file.filesystem.read_at(file.node, at, buf);
                read.map_err(|source| FilesError::content(file.place.to_owned(), at, source))
            };
            let (len, other) = (read(&old, &mut left)?, read(&new, &mut right)?);
            if left[..len] != right[..other] {
                return Ok(false);
            }
            if len == 0 {
                return Ok(true);
            }
            at += len as u64;
        }
    }

    /// What happened to a node in both trees of which `aspects` differ.
    fn change(&self, aspects: &[Aspect]) -> Change {
        let read = self.comparison.contents != Contents::None;
        // Where contents were read, a time alone says nothing about them.
        let is_content = |aspect: &Aspect| match aspect {
            Aspect::Kind | Aspect::Content | Aspect::Size | Aspect::Target | Aspect::Device => true,
            Aspect::Modified => !read,
            Aspect::Mode | Aspect::Owner | Aspect::Attributes | Aspect::Unreadable => false,
        };
        if aspects.iter().any(is_content) { Change::Changed } else { Change::Metadata }
    }

    fn unreadable(&mut self, tree: &Found, error: Option<crate::guest::GuestError>) {
        if let Some(source) = error {
            let place = tree.shown(&self.path);
            let _ = self.unreadable_error(&FilesError::node(place, source));
        }
    }

    fn unreadable_error(&mut self, error: &FilesError) -> ControlFlow<()> {
        self.counts.unreadable += 1;
        (self.comparison.fault)(error);
        ControlFlow::Continue(())
    }
}

/// Notes an aspect if both could be read and differ; notes which side could not be.
fn differ<T: PartialEq>(
    both: (Result<T, crate::guest::GuestError>, Result<T, crate::guest::GuestError>),
    aspect: Aspect,
    aspects: &mut Vec<Aspect>,
    faults: &mut Vec<(bool, crate::guest::GuestError)>,
) {
    match both {
        (Ok(old), Ok(new)) if old == new => {}
        (Ok(_), Ok(_)) => aspects.push(aspect),
        (old, new) => {
            faults.extend(old.err().map(|error| (false, error)));
            faults.extend(new.err().map(|error| (true, error)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::guest::memory::MemoryTree;
    use crate::ops::event::Silent;

    #[track_caller]
    fn check(before: &[(&str, &str)], after: &[(&str, &str)], contents: Contents, expected: &[&str], changed: u64) {
        let found = |files| {
            let tree = MemoryTree::new(files);
            Found { place: b"m:".to_vec(), node: tree.root(), filesystem: Arc::new(tree), missing: Vec::new() }
        };
        let (before, after) = (found(before), found(after));
        let mut told = Vec::new();
        let interrupt = AtomicBool::new(false);
        let counts = Comparison {
            before: Some(&before),
            after: Some(&after),
            contents,
            control: Control { events: &Silent, interrupt: &interrupt },
            differs: &mut |difference| {
                let mark = match (difference.before, difference.after) {
                    (None, _) => "+".to_owned(),
                    (_, None) => "-".to_owned(),
                    _ => format!("{:?}", difference.aspects),
                };
                told.push(format!("{mark} {}", String::from_utf8_lossy(difference.path)));
                Ok(ControlFlow::Continue(()))
            },
            fault: &mut |error| panic!("{error}"),
        }
        .run()
        .unwrap();
        assert_eq!(told, expected);
        assert_eq!((counts.changed, counts.unreadable), (changed, 0));
    }

    #[test]
    fn trees_side_by_side() {
        let before =
            [("/a", "1"), ("/b/x", "1"), ("/b/y", "1"), ("/c", "-> a"), ("/d/e/f", "1"), ("/g", "1"), ("/z", "1")];
        let after = [
            ("/a", "1"),
            ("/b/x", "22"),
            ("/b/y", "2"),
            ("/b/z", "1"),
            ("/c", "-> b"),
            ("/d", "1"),
            ("/h/i", "1"),
            ("/z", "1"),
        ];
        let told =
            ["[Size] /b/x", "+ /b/z", "[Target] /c", "[Kind] /d", "- /d/e", "- /d/e/f", "- /g", "+ /h", "+ /h/i"];
        // /b/y has the same number and times in both: nothing says that it is another.
        check(&before, &after, Contents::None, &told, 3);
        check(&before, &before, Contents::All, &[], 0);
        let same_nodes = [("/a", "1"), ("/b", "2")];
        check(&same_nodes, &[("/a", "1"), ("/b", "3")], Contents::None, &[], 0);
        check(&same_nodes, &[("/a", "1"), ("/b", "3")], Contents::All, &["[Content] /b"], 1);
        // Other numbers: links are looked at, and contents where they are asked for.
        let (one, other) = ([("/x", "1"), ("/b", "2"), ("/l", "-> b")], [("/b", "3"), ("/l", "-> x"), ("/x", "1")]);
        check(&one, &other, Contents::None, &["[Target] /l"], 1);
        check(&one, &other, Contents::Changed, &["[Content] /b", "[Target] /l"], 2);
    }
}
