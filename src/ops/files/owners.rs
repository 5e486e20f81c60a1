//! The guest's own names for users and groups, from its `/etc/passwd` and `/etc/group`. Source: passwd(5), group(5).

use std::collections::HashMap;

use crate::guest::path::{LastLink, resolve};
use crate::guest::tree::FileSystem;

/// Largest list read: a thousand accounts have some 100 KB.
const LIST_BYTES_MAX: usize = 4 << 20;

/// Names by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// The names that a system knows; `None` if this is no system's root.
    pub fn of(filesystem: &dyn FileSystem) -> Option<Owners> {
        let users = list(filesystem, b"etc/passwd")?;
        let groups = list(filesystem, b"etc/group").unwrap_or_default();
        Some(Owners { users: names(&users), groups: names(&groups) })
    }

    /// A user's name, if it has one.
    pub fn user(&self, uid: u32) -> Option<&str> {
        self.users.get(&uid).map(String::as_str)
    }

    /// A group's name, if it has one.
    pub fn group(&self, gid: u32) -> Option<&str> {
        self.groups.get(&gid).map(String::as_str)
    }

    /// The number of a user given by name or number.
    pub fn user_number(&self, wanted: &str) -> Option<u32> {
        let named = self.users.iter().find(|(_, name)| *name == wanted).map(|(uid, _)| *uid);
        named.or_else(|| wanted.parse().ok())
    }
}

fn list(filesystem: &dyn FileSystem, path: &[u8]) -> Option<Vec<u8>> {
    let node = resolve(filesystem, path, LastLink::Follow).ok()?;
    let size = usize::try_from(filesystem.metadata(node).ok()?.size).unwrap_or(usize::MAX);
    let mut text = vec![0; size.min(LIST_BYTES_MAX)];
    let len = filesystem.read_at(node, 0, &mut text).ok()?;
    text.truncate(len);
    Some(text)
}

/// `name:password:number:…`, the first name of a number counting.
fn names(text: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.split(':');
        let (name, number) = (fields.next().unwrap_or_default(), fields.nth(1).and_then(|field| field.parse().ok()));
        if let Some(number) = number.filter(|_| !name.is_empty() && !name.starts_with('#')) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::memory::MemoryTree;

    #[test]
    fn the_first_name_of_a_number_counts() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nbroken\n#old:x:5:5\nbig:x:99999999999:1\nwww:x:33:33::/:\n";
        let tree = MemoryTree::new(&[("/etc/passwd", passwd), ("/etc/group", "adm:x:4:\n")]);
        let owners = Owners::of(&tree).unwrap();
        assert_eq!((owners.user(0), owners.user(33), owners.user(5)), (Some("root"), Some("www"), None));
        assert_eq!((owners.group(4), owners.group(33)), (Some("adm"), None));
        assert_eq!(
            (owners.user_number("www"), owners.user_number("7"), owners.user_number("x")),
            (Some(33), Some(7), None)
        );
        assert_eq!(Owners::of(&MemoryTree::new(&[("/a", "")])), None);
    }
}
