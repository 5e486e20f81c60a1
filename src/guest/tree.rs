//! The seam of this room: a guest's filesystem as a read-only tree of nodes.
//!
//! A node is a file, directory, link or device; names are bytes and belong to directories, so that hard links are several
//! names of one node. Implementations never trust the volume: what they return is bounded by what was asked for, every
//! call ends (cycles in trees and chains are noticed), and damage is an error of the call that meets it, not of the tree.

use std::fmt;
use std::ops::ControlFlow;

use super::GuestError;
use crate::disk::Extent;

/// Longest name in a directory that any of our filesystems has: NTFS's 255 UTF-16 units are up to 765 bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 1024;

/// A node of one filesystem; stable as long as the tree is open, and the same for all names of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Which tree of the filesystem: the subvolume on btrfs, 0 elsewhere.
    pub tree: u64,
    /// Inode number, record number, or position of the directory entry.
    pub number: u64,
}

/// A filesystem, open for reading. Calls may come from several threads at once.
pub trait FileSystem: Send + Sync {
    /// What it is.
    fn summary(&self) -> &Summary;

    /// Its root directory.
    fn root(&self) -> NodeId;

    /// What is known about a node besides its content.
    ///
    /// # Errors
    /// [`GuestError`] if the node does not exist or is damaged; so everywhere below.
    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError>;

    /// Tells `visit` every entry of a directory until it breaks, without `.` and `..`, each name once. The order is that of
    /// the volume. Names with `/` or NUL, or empty, are damage.
    ///
    /// # Errors
    /// Also [`GuestError::WrongKind`].
    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError>;

    /// The node of that name in a directory, by the filesystem's own rules (NTFS and FAT ignore case).
    ///
    /// # Errors
    /// Also [`GuestError::WrongKind`].
    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        let mut found = None;
        self.read_directory(directory, &mut |entry| {
            if entry.name != name {
                return ControlFlow::Continue(());
            }
            found = Some(entry.node);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Fills `buf` with the file's content from byte `at`; returns how much there was: less than wanted only at the end of
    /// the file. Holes read as zeros.
    ///
    /// # Errors
    /// Also [`GuestError::WrongKind`]; [`GuestError::Unsupported`] for content in a form we cannot decode, never wrong bytes.
    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError>;

    /// The run that starts at byte `at` of the file: data, or a hole (`Zero` for stretches that are allocated but unwritten).
    /// `None` at or past the end. It may be shorter than the longest possible run; never longer than to the end.
    ///
    /// # Errors
    /// As [`FileSystem::read_at`].
    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError>;

    /// Where a symbolic link leads, as it is stored.
    ///
    /// # Errors
    /// Also [`GuestError::WrongKind`].
    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError>;

    /// Extended attributes, sorted by name; ACLs in the form that Linux's `getxattr` gives.
    ///
    /// # Errors
    /// Damage.
    fn extended_attributes(&self, _node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        Ok(Vec::new())
    }

    /// Named streams beside the content (NTFS), with their lengths in bytes.
    ///
    /// # Errors
    /// Damage.
    fn streams(&self, _node: NodeId) -> Result<Vec<(String, u64)>, GuestError> {
        Ok(Vec::new())
    }

    /// Reads from a named stream, as [`FileSystem::read_at`].
    ///
    /// # Errors
    /// [`GuestError::NoSuchNode`] if there is no such stream.
    fn read_stream(&self, node: NodeId, _stream: &str, _at: u64, _buf: &mut [u8]) -> Result<usize, GuestError> {
        Err(GuestError::NoSuchNode { node })
    }
}

/// What a filesystem is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// `ext4`, `xfs`, `btrfs`, `ntfs`, `fat32`, `exfat`, `iso9660`, `squashfs`…
    pub kind: &'static str,
    /// The admin's name for it; empty if there is none.
    pub label: String,
    /// Its UUID or serial number as `blkid` prints it; empty if there is none.
    pub uuid: String,
    /// Size in bytes by its own account.
    pub size: u64,
    /// Allocation unit in bytes.
    pub block_size: u32,
    /// What the view may lack or how it was obtained: `journal replayed in memory: 12 transactions`.
    pub warnings: Vec<String>,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name's bytes, as stored (UTF-8 where the volume has UTF-16).
    pub name: &'a [u8],
    /// The node it names.
    pub node: NodeId,
    /// The node's kind, where the directory says it.
    pub kind: Option<NodeKind>,
}

/// A name and value that somebody attached to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtendedAttribute {
    /// Its full name: `user.comment`, `security.capability`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A file with content.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, or a reparse point that means one.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What is known about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: NodeKind,
    /// Length of its content in bytes; of a link, the length of its target.
    pub size: u64,
    /// Bytes allocated on the volume.
    pub allocated: u64,
    /// The twelve permission bits; what the kernel's driver makes up by default where the filesystem has none.
    pub mode: u16,
    /// Owner; 0 where the filesystem has none.
    pub uid: u32,
    /// Group; 0 where the filesystem has none.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Last change of content.
    pub modified: Time,
    /// Last access.
    pub accessed: Time,
    /// Last change of the node itself; the modification time where the filesystem has none.
    pub changed: Time,
    /// When it was made, where the filesystem says.
    pub created: Option<Time>,
    /// DOS attributes (NTFS, FAT), as stored.
    pub attributes: Option<u32>,
    /// What is special about its content: `deduplicated`, `encrypted (EFS)`, `offline`. `None` for plain content.
    pub special: Option<&'static str>,
}

/// A point in time: seconds since 1970 (may be negative) and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The rest.
    pub nanoseconds: u32,
}

impl NodeKind {
    /// As a noun for messages: `a directory`.
    pub fn noun(self) -> &'static str {
        match self {
            NodeKind::File => "a file",
            NodeKind::Directory => "a directory",
            NodeKind::Symlink => "a symbolic link",
            NodeKind::CharacterDevice => "a character device",
            NodeKind::BlockDevice => "a block device",
            NodeKind::Fifo => "a named pipe",
            NodeKind::Socket => "a socket",
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tree {
            0 => write!(f, "{}", self.number),
            tree => write!(f, "{tree}/{}", self.number),
        }
    }
}
