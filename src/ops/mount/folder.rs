//! Folders whose children are known from the start.

use crate::guest::tree::Time;
use crate::serve::fuse::shown::{Fault, Folder, Name, NameKind, Shown};

/// A folder of known children, each opened by a call when somebody looks.
pub struct Fixed {
    children: Vec<(Name, Opener)>,
    modified: Time,
}

type Opener = Box<dyn Fn() -> Result<Shown, Fault> + Send + Sync>;

impl Fixed {
    /// A folder without children yet.
    pub fn new(modified: Time) -> Fixed {
        Fixed { children: Vec::new(), modified }
    }

    /// Adds a child.
    pub fn add(&mut self, name: &str, kind: NameKind, open: impl Fn() -> Result<Shown, Fault> + Send + Sync + 'static) {
        self.children.push((Name { name: name.to_owned(), kind }, Box::new(open)));
    }
}

impl Folder for Fixed {
    fn names(&self) -> Result<Vec<Name>, Fault> {
        Ok(self.children.iter().map(|(name, _)| name.clone()).collect())
    }

    fn child(&self, name: &str) -> Result<Option<Shown>, Fault> {
        self.children.iter().find(|(child, _)| child.name == name).map(|(_, open)| open()).transpose()
    }

    fn modified(&self) -> Time {
        self.modified
    }
}
