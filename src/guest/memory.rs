//! A small tree in memory, for tests of whatever works on trees.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::GuestError;
use super::tree::{Entry, FileSystem, Metadata, NodeId, NodeKind, Summary, Time};
use crate::disk::{Extent, ExtentKind};
use crate::units::ByteLen;

/// A tree in memory.
pub struct MemoryTree {
    summary: Summary,
    /// By number; 0 is the root.
    nodes: Vec<Node>,
}

enum Node {
    Directory(BTreeMap<String, u64>),
    File(Vec<u8>),
    Link(String),
}

impl MemoryTree {
    /// A tree of files by path and content; a content of `-> x` makes a link to `x`, a path that ends in `/` a directory.
    pub fn new(files: &[(&str, &str)]) -> MemoryTree {
        let summary = Summary {
            kind: "memory",
            label: String::new(),
            uuid: String::new(),
            size: 0,
            block_size: 1,
            warnings: Vec::new(),
        };
        let mut tree = MemoryTree { summary, nodes: vec![Node::Directory(BTreeMap::new())] };
        for (path, content) in files {
            let mut at = 0;
            let (folder, name) = path.rsplit_once('/').expect("an absolute path");
            for step in folder.split('/').filter(|step| !step.is_empty()) {
                at = tree.child(at, step, || Node::Directory(BTreeMap::new()));
            }
            if !name.is_empty() {
                tree.child(at, name, || match content.strip_prefix("-> ") {
                    Some(target) => Node::Link(target.to_owned()),
                    None => Node::File(content.as_bytes().to_vec()),
                });
            }
        }
        tree
    }

    fn child(&mut self, parent: u64, name: &str, make: impl Fn() -> Node) -> u64 {
        let next = self.nodes.len() as u64;
        let Node::Directory(names) = &mut self.nodes[parent as usize] else { panic!("{name} in a file") };
        let number = *names.entry(name.to_owned()).or_insert(next);
        if number == next {
            self.nodes.push(make());
        }
        number
    }

    fn node(&self, node: NodeId) -> Result<&Node, GuestError> {
        self.nodes.get(node.number as usize).ok_or(GuestError::NoSuchNode { node })
    }

    fn content(&self, node: NodeId) -> Result<&[u8], GuestError> {
        match self.node(node)? {
            Node::File(content) => Ok(content),
            _ => Err(GuestError::WrongKind { expected: "a file", found: "something else" }),
        }
    }
}

fn id(number: u64) -> NodeId {
    NodeId { tree: 0, number }
}

impl FileSystem for MemoryTree {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        id(0)
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let (kind, size) = match self.node(node)? {
            Node::Directory(_) => (NodeKind::Directory, 0),
            Node::File(content) => (NodeKind::File, content.len()),
            Node::Link(target) => (NodeKind::Symlink, target.len()),
        };
        Ok(Metadata {
            kind,
            size: size as u64,
            allocated: size as u64,
            mode: 0o644,
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
        let Node::Directory(names) = self.node(directory)? else {
            return Err(GuestError::WrongKind { expected: "a directory", found: "something else" });
        };
        for (name, number) in names {
            if visit(Entry { name: name.as_bytes(), node: id(*number), kind: None }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let content = self.content(file)?;
        let rest = content.get(at as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let left = (self.content(file)?.len() as u64).saturating_sub(at);
        Ok((left > 0).then_some(Extent { kind: ExtentKind::Data, len: ByteLen(left) }))
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        match self.node(link)? {
            Node::Link(target) => Ok(target.as_bytes().to_vec()),
            _ => Err(GuestError::WrongKind { expected: "a symbolic link", found: "something else" }),
        }
    }
}
