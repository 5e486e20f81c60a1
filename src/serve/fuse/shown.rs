//! What a mount shows: folders that know their children by name, disks as files, guest trees. Made by whoever mounts;
//! everything is asked for only when somebody looks.

use std::error::Error;
use std::sync::Arc;

use crate::disk::Disk;
use crate::guest::tree::{FileSystem, Time};

/// Why something cannot be shown; whoever asked gets EIO, the log gets the words.
pub type Fault = Box<dyn Error + Send + Sync>;

/// Something with a name in a mount.
#[derive(Clone)]
pub enum Shown {
    /// A folder of our own making.
    Folder(Arc<dyn Folder>),
    /// A disk, or any bytes, as a file.
    File {
        /// Its content.
        content: Arc<dyn Disk>,
        /// When it was last changed, as shown.
        modified: Time,
    },
    /// A guest's filesystem, shown as a folder.
    Tree(Arc<dyn FileSystem>),
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
        /// When it was last changed, as shown.
        modified: Time,
    },
}

/// A folder of our own making.
pub trait Folder: Send + Sync {
    /// The names of its children, in the order shown. Names are plain: no `/`, not `.` or `..`, not empty.
    ///
    /// # Errors
    /// [`Fault`] if they cannot be found out.
    fn names(&self) -> Result<Vec<Name>, Fault>;

    /// The child of that name.
    ///
    /// # Errors
    /// [`Fault`] if there should be one, but it cannot be opened.
    fn child(&self, name: &str) -> Result<Option<Shown>, Fault>;

    /// When it was last changed, as shown.
    fn modified(&self) -> Time;
}

/// A child's name and what it is, before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: NameKind,
}

/// What a child will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A folder or a tree.
    Folder,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}
