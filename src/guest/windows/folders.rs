//! The root of Windows's view: a folder for each drive, over which the view lays the drive's volume.

use std::ops::ControlFlow;

use crate::disk::Extent;
use crate::guest::GuestError;
use crate::guest::tree::{Entry, FileSystem, Metadata, NodeId, NodeKind, Summary, Time};

/// Folders that are called `C:`, `D:`; the root is node 0, they follow in their order.
pub struct DriveFolders {
    summary: Summary,
    names: Vec<String>,
}

impl DriveFolders {
    /// What the summary calls it.
    pub const KIND: &str = "drives";

    /// A folder for each letter.
    pub fn new(letters: impl Iterator<Item = char>) -> DriveFolders {
        let summary = Summary {
            kind: DriveFolders::KIND,
            label: String::new(),
            uuid: String::new(),
            size: 0,
            block_size: 1,
            warnings: Vec::new(),
        };
        DriveFolders { summary, names: letters.map(|letter| format!("{letter}:")).collect() }
    }

    /// The node of the folder at a place in the order of letters.
    pub fn folder(index: usize) -> NodeId {
        NodeId { tree: 0, number: index as u64 + 1 }
    }

    fn known(&self, node: NodeId) -> Result<(), GuestError> {
        let exists = node.tree == 0 && node.number <= self.names.len() as u64;
        if exists { Ok(()) } else { Err(GuestError::NoSuchNode { node }) }
    }
}

impl FileSystem for DriveFolders {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        NodeId { tree: 0, number: 0 }
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        self.known(node)?;
        Ok(Metadata {
            kind: NodeKind::Directory,
            size: 0,
            allocated: 0,
            mode: 0o777,
            uid: 0,
            gid: 0,
            links: 1,
            device: None,
            modified: Time::default(),
            accessed: Time::default(),
            changed: Time::default(),
            created: None,
            attributes: None,
            special: None,
        })
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        self.known(directory)?;
        let names = if directory == self.root() { &self.names[..] } else { &[] };
        for (index, name) in names.iter().enumerate() {
            let entry =
                Entry { name: name.as_bytes(), node: DriveFolders::folder(index), kind: Some(NodeKind::Directory) };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        self.known(directory)?;
        let index = self.names.iter().position(|own| own.as_bytes().eq_ignore_ascii_case(name));
        Ok(index.filter(|_| directory == self.root()).map(DriveFolders::folder))
    }

    fn read_at(&self, _file: NodeId, _at: u64, _buf: &mut [u8]) -> Result<usize, GuestError> {
        Err(GuestError::WrongKind { expected: NodeKind::File.noun(), found: NodeKind::Directory.noun() })
    }

    fn extent_at(&self, _file: NodeId, _at: u64) -> Result<Option<Extent>, GuestError> {
        Err(GuestError::WrongKind { expected: NodeKind::File.noun(), found: NodeKind::Directory.noun() })
    }

    fn read_link(&self, _link: NodeId) -> Result<Vec<u8>, GuestError> {
        Err(GuestError::WrongKind { expected: NodeKind::Symlink.noun(), found: NodeKind::Directory.noun() })
    }
}
