//! Copying files out of a guest: the walk, and what of a file is handed on. Where it goes is a [`Sink`]'s: [`folder`] on this
//! host, or a [`tar`] stream.
//!
//! What cannot be read or written is told and left out; all else is copied. A file arrives whole or not at all. Names of one
//! file become names of one file again, as far as they are among what is copied.

pub mod acl;
pub mod folder;
pub mod losses;
pub mod tar;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::FilesError;
use super::content::Readable;
use super::found::Found;
use super::listing::{Item, Step, Way, walk};
use crate::guest::tree::{ExtendedAttribute, FileSystem, Metadata, NodeId, NodeKind};
use crate::ops::{Control, Event};
pub use losses::Losses;

/// Names of nodes that have others elsewhere; beyond these, each name becomes a file of its own, and that is told.
const LINKED_MAX: usize = 1 << 20;
/// Between two tellings of how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Files from this size on are a part of the work that is measured.
const LARGE_BYTES: u64 = 64 << 20;

/// Where copies go.
pub trait Sink {
    /// A directory begins.
    ///
    /// # Errors
    /// Why it cannot; it is left out with all that is in it. So below, for one node.
    fn enter(&mut self, node: &Node<'_>) -> Result<(), FilesError>;
    /// The last directory that was entered ends.
    ///
    /// # Errors
    /// What its metadata met.
    fn leave(&mut self, node: &Node<'_>) -> Result<(), FilesError>;
    /// A file with content.
    ///
    /// # Errors
    /// As [`Sink::enter`].
    fn file(&mut self, node: &Node<'_>, control: Control<'_>) -> Result<(), FilesError>;
    /// Another name of a node that was copied as `first`; `false` if this place cannot have it.
    ///
    /// # Errors
    /// As [`Sink::enter`].
    fn hard_link(&mut self, node: &Node<'_>, first: &[u8]) -> Result<bool, FilesError>;
    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Sink::enter`].
    fn symlink(&mut self, node: &Node<'_>, target: &[u8]) -> Result<(), FilesError>;
    /// A device, named pipe or socket.
    ///
    /// # Errors
    /// As [`Sink::enter`].
    fn special(&mut self, node: &Node<'_>) -> Result<(), FilesError>;
    /// What could not be kept.
    fn losses(&mut self) -> &mut Losses;
}

/// A node to be copied.
pub struct Node<'n> {
    /// Its path in the target: relative, steps of the guest's own names; empty for the target itself.
    pub path: &'n [u8],
    /// What messages call it.
    pub place: &'n str,
    /// Its filesystem.
    pub filesystem: &'n dyn FileSystem,
    /// The node.
    pub id: NodeId,
    /// What is known about it.
    pub metadata: &'n Metadata,
    /// What else is attached to it.
    pub attributes: &'n [ExtendedAttribute],
}

impl Node<'_> {
    /// Its content.
    pub fn readable(&self) -> Readable<'_> {
        Readable { filesystem: self.filesystem, node: self.id, place: self.place }
    }

    /// Its name in the target; empty for the target itself.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Files, each counted once.
    pub files: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, named pipes, sockets.
    pub specials: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
    /// What could not be copied, and was told.
    pub skipped: u64,
}

/// One run of copying: from one or more starts into one sink.
pub struct Copy<'c> {
    /// Where to.
    pub sink: &'c mut dyn Sink,
    /// Told of everything that is left out.
    pub skipped: &'c mut dyn FnMut(FilesError),
    /// Events and the wish to stop.
    pub control: Control<'c>,
    /// The sum so far.
    pub copied: Copied,
    told: Option<Instant>,
}

impl<'c> Copy<'c> {
    /// Nothing copied yet.
    pub fn new(sink: &'c mut dyn Sink, skipped: &'c mut dyn FnMut(FilesError), control: Control<'c>) -> Copy<'c> {
        Copy { sink, skipped, control, copied: Copied::default(), told: None }
    }

    /// Copies what is at and below `start`, under this name; without one, what is in it goes where the sink begins.
    ///
    /// # Errors
    /// What ends the work: the wish to stop, a full or lost target. What is left out is no error.
    pub fn run(&mut self, start: &Found, name: Option<&[u8]>) -> Result<(), FilesError> {
        let mut linked: HashMap<NodeId, (Vec<u8>, u32)> = HashMap::new();
        let control = self.control;
        walk(start, control, &mut |step| {
            let outcome = match step {
                Step::Fault(error) => Err(error),
                Step::Node(item) => self.node(start, name, item, &mut linked),
                Step::Leave(item) => self.leave(start, name, item),
            };
            match outcome {
                Ok(()) => Ok(Way::Into),
                Err(error) if error.ends_work() => Err(error),
                Err(error) => {
                    self.copied.skipped += 1;
                    (self.skipped)(error);
                    Ok(Way::Past)
                }
            }
        })
    }

    fn node(
        &mut self,
        start: &Found,
        name: Option<&[u8]>,
        item: Item<'_>,
        linked: &mut HashMap<NodeId, (Vec<u8>, u32)>,
    ) -> Result<(), FilesError> {
        let path = target_path(name, item.path);
        let place = start.shown(item.path);
        let filesystem = start.filesystem.as_ref();
        let metadata = item.metadata;
        // Attributes that cannot be read cost nobody the content.
        let attributes = filesystem.extended_attributes(item.node).unwrap_or_else(|error| {
            self.sink.losses().lost("extended attributes", &place, &error);
            Vec::new()
        });
        let node = Node { path: &path, place: &place, filesystem, id: item.node, metadata, attributes: &attributes };
        self.tell(&node);
        if metadata.kind == NodeKind::Directory {
            self.sink.enter(&node)?;
            self.copied.directories += 1;
            return Ok(());
        }
        let has_other_names = metadata.links > 1;
        if has_other_names && let Some((first, left)) = linked.get_mut(&item.node) {
            *left = left.saturating_sub(1);
            let (first, is_last) = (first.clone(), *left == 0);
            if is_last {
                linked.remove(&item.node);
            }
            if self.sink.hard_link(&node, &first)? {
                self.copied.hard_links += 1;
                return Ok(());
            }
        }
        match metadata.kind {
            NodeKind::File => self.file(&node)?,
            NodeKind::Symlink => {
                let target = filesystem.read_link(item.node);
                let target = target.map_err(|source| FilesError::node(place.clone(), source))?;
                self.sink.symlink(&node, &target)?;
                self.copied.symlinks += 1;
            }
            _ => {
                self.sink.special(&node)?;
                self.copied.specials += 1;
            }
        }
        if has_other_names && linked.len() < LINKED_MAX {
            linked.entry(item.node).or_insert((path, metadata.links - 1));
        }
        Ok(())
    }

    fn file(&mut self, node: &Node<'_>) -> Result<(), FilesError> {
        let streams = node.filesystem.streams(node.id).unwrap_or_default();
        if !streams.is_empty() {
            self.sink.losses().lost("named streams", node.place, &"neither folders nor archives have them");
        }
        let size = node.metadata.size;
        let is_large = size >= LARGE_BYTES;
        if is_large {
            self.control.tell(Event::Begin { what: node.place, bytes: size });
        }
        self.sink.file(node, self.control)?;
        if is_large {
            self.control.tell(Event::End);
        }
        self.copied.files += 1;
        self.copied.bytes += size;
        Ok(())
    }

    fn leave(&mut self, start: &Found, name: Option<&[u8]>, item: Item<'_>) -> Result<(), FilesError> {
        let path = target_path(name, item.path);
        let place = start.shown(item.path);
        let filesystem = start.filesystem.as_ref();
        // Told already when the directory was entered.
        let attributes = filesystem.extended_attributes(item.node).unwrap_or_default();
        let metadata = item.metadata;
        self.sink.leave(&Node {
            path: &path,
            place: &place,
            filesystem,
            id: item.node,
            metadata,
            attributes: &attributes,
        })
    }

    fn tell(&mut self, node: &Node<'_>) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            self.control.tell(Event::Step(&format!("{} files: {}", self.copied.files, node.place)));
        }
    }
}

fn target_path(name: Option<&[u8]>, below: &[u8]) -> Vec<u8> {
    match name {
        Some(name) => [name, below].concat(),
        None => below.strip_prefix(b"/").unwrap_or(below).to_vec(),
    }
}
