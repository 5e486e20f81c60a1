//! From a path to a node, by the guest's own rules: symbolic links are followed inside the guest, and no further.

use super::GuestError;
use super::tree::{FileSystem, NodeId, NodeKind};

/// Links followed on one way, as Linux has it.
const LINKS_MAX: usize = 40;
/// Steps of one way, links' own steps included.
const STEPS_MAX: usize = 4096;

/// What to do with a symbolic link at the very end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// The link itself is meant.
    Keep,
    /// What it leads to is meant.
    Follow,
}

/// Why a path leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// There is no such name.
    #[error("there is no {name:?} in {folder:?}")]
    NotFound {
        /// The path so far.
        folder: String,
        /// What is not there.
        name: String,
    },
    /// Something on the way is no directory.
    #[error("{path:?} is no directory but {found}")]
    NoDirectory {
        /// The path so far.
        path: String,
        /// What it is.
        found: &'static str,
    },
    /// Links lead in a circle, or the way is absurdly long.
    #[error("{path:?}: too many steps or symbolic links")]
    TooLong {
        /// The path asked for.
        path: String,
    },
    /// The filesystem is damaged there.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// The node at `path`, which begins at the root whether or not it begins with `/`.
///
/// # Errors
/// [`PathError`].
pub fn resolve(filesystem: &dyn FileSystem, path: &[u8], last: LastLink) -> Result<NodeId, PathError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut to_do: Vec<Vec<u8>> = steps(path).rev().map(<[u8]>::to_vec).collect();
    // The way to where we are: directory and the name it was reached by.
    let mut way: Vec<(NodeId, Vec<u8>)> = vec![(filesystem.root(), Vec::new())];
    let (mut links, mut taken) = (0, 0);
    while let Some(name) = to_do.pop() {
        taken += 1;
        if taken > STEPS_MAX {
            return Err(PathError::TooLong { path: text(path) });
        }
        if name == b".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let here = way.last().expect("the root is never left").0;
        let kind = filesystem.metadata(here)?.kind;
        if kind != NodeKind::Directory {
            return Err(PathError::NoDirectory { path: text(&shown(&way)), found: kind.noun() });
        }
        let Some(node) = filesystem.lookup(here, &name)? else {
            return Err(PathError::NotFound { folder: text(&shown(&way)), name: text(&name) });
        };
        let is_last = to_do.is_empty();
        let follow = !is_last || last == LastLink::Follow;
        if follow && filesystem.metadata(node)?.kind == NodeKind::Symlink {
            links += 1;
            if links > LINKS_MAX {
                return Err(PathError::TooLong { path: text(path) });
            }
            let target = filesystem.read_link(node)?;
            if target.starts_with(b"/") {
                way.truncate(1);
            }
            to_do.extend(steps(&target).rev().map(<[u8]>::to_vec));
            continue;
        }
        way.push((node, name));
    }
    Ok(way.last().expect("the root is never left").0)
}

fn steps(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|step| !step.is_empty() && *step != b".")
}

fn shown(way: &[(NodeId, Vec<u8>)]) -> Vec<u8> {
    if way.len() == 1 {
        return b"/".to_vec();
    }
    way.iter().skip(1).flat_map(|(_, name)| b"/".iter().chain(name).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::memory::MemoryTree;

    #[test]
    fn links_are_followed_inside_the_guest_only() {
        let tree = MemoryTree::new(&[
            ("/etc/hosts", "127.0.0.1"),
            ("/run/resolv", "nameserver"),
            ("/etc/resolv.conf", "-> ../run/resolv"),
            ("/abs", "-> /etc/hosts"),
            ("/out", "-> ../../../../etc/hosts"),
            ("/loop", "-> loop"),
            ("/dir", "-> etc"),
        ]);
        let content = |path: &str| {
            let node = resolve(&tree, path.as_bytes(), LastLink::Follow)?;
            let mut buf = [0; 64];
            let len = tree.read_at(node, 0, &mut buf)?;
            Ok::<_, PathError>(String::from_utf8_lossy(&buf[..len]).into_owned())
        };
        for path in [
            "/etc/hosts",
            "etc/hosts",
            "//etc/./hosts",
            "/abs",
            "/out",
            "/dir/hosts",
            "/run/../etc/hosts",
            "/../etc/hosts",
        ] {
            assert_eq!(content(path).unwrap(), "127.0.0.1", "{path}");
        }
        assert_eq!(content("/etc/resolv.conf").unwrap(), "nameserver");
        let link = resolve(&tree, b"/dir", LastLink::Keep).unwrap();
        assert_eq!(tree.metadata(link).unwrap().kind, NodeKind::Symlink);

        #[track_caller]
        fn check(result: Result<String, PathError>, expected: &str) {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
        check(content("/loop"), "\"/loop\": too many steps or symbolic links");
        check(content("/etc/shadow"), "there is no \"shadow\" in \"/etc\"");
        check(content("/etc/hosts/x"), "\"/etc/hosts\" is no directory but a file");
    }
}
