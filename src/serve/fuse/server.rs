//! The kernel's questions and our answers. Read-only; nothing changes while it is mounted but the lists of backups.
//!
//! An error of a guest's tree or a backup is an error of that call: EIO (EOPNOTSUPP for what we cannot decode), with the
//! words in the log. Every call may come from any thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::attributes::{self, Owner};
use super::inodes::{Inode, Inodes};
use super::log::Log;
use super::shown::{Fault, Folder, NameKind, Shown};
use crate::disk::ExtentKind;
use crate::guest::GuestError;
use crate::guest::tree::{FileSystem, NodeId, Time};
use crate::units::GuestOffset;

/// How long the kernel may believe what we said of a guest's node: a backup never changes.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// How long it may believe what we said of our own folders: backups are added.
const SHORT: Duration = Duration::from_secs(2);
/// Most entries of one directory that are listed: each is held in memory while the directory is open.
const ENTRIES_MAX: usize = 4 << 20;
/// Largest read we answer at once; the kernel asks for at most 1 MiB unless it was told otherwise.
const READ_BYTES_MAX: usize = 16 << 20;

/// Serves one mount.
pub struct Server {
    inodes: Inodes,
    owner: Owner,
    log: Log,
    listings: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
    next_handle: AtomicU64,
    /// Whether the kernel insists on opening files, which are nothing but their numbers here.
    opens: bool,
}

/// One entry of an open directory.
struct Listed {
    name: Box<[u8]>,
    what: Child,
    kind: FileType,
}

/// What an entry leads to.
enum Child {
    Guest(NodeId),
    Own,
    /// `.` and `..`: the kernel knows better.
    Number(u64),
}

/// An error on its way to the kernel.
struct Failure(Errno);

impl Server {
    /// Serves `root`; what fails goes to `log`.
    pub fn new(root: Arc<dyn Folder>, owner: Owner, log: Log) -> Server {
        Server {
            inodes: Inodes::new(Shown::Folder(root)),
            owner,
            log,
            listings: Mutex::default(),
            next_handle: AtomicU64::new(1),
            opens: true,
        }
    }

    /// What `number` stands for, opened.
    fn inode(&self, number: INodeNo) -> Result<Inode, Failure> {
        match self.inodes.get(number.0).ok_or(Failure(Errno::ENOENT))? {
            Inode::Unopened { folder, name } => {
                let child = folder.child(&name).map_err(|fault| self.own_failed(&name, &fault))?;
                Ok(self.inodes.opened(number.0, child.ok_or(Failure(Errno::ENOENT))?))
            }
            inode => Ok(inode),
        }
    }

    fn guest_failed(&self, node: NodeId, filesystem: &Arc<dyn FileSystem>, error: &GuestError) -> Failure {
        match error {
            GuestError::WrongKind { expected: "a directory", .. } => Failure(Errno::ENOTDIR),
            GuestError::WrongKind { .. } => Failure(Errno::EINVAL),
            GuestError::Unsupported { .. } => {
                self.log.say(&format!("{} node {node}", filesystem.summary().kind), error);
                Failure(Errno::EOPNOTSUPP)
            }
            _ => {
                self.log.say(&format!("{} node {node}", filesystem.summary().kind), error);
                Failure(Errno::EIO)
            }
        }
    }

    fn own_failed(&self, name: &str, fault: &Fault) -> Failure {
        self.log.say(name, fault.as_ref());
        Failure(Errno::EIO)
    }

    fn number_of(&self, filesystem: &Arc<dyn FileSystem>, node: NodeId) -> Result<u64, Failure> {
        self.inodes.of_node(filesystem, node).ok_or_else(|| {
            self.log.words(&format!("node {node} cannot be shown: too many trees, or its number is beyond 48 bits"));
            Failure(Errno::EOVERFLOW)
        })
    }

    fn attributes(&self, number: u64, inode: &Inode) -> Result<(FileAttr, Duration), Failure> {
        match inode {
            Inode::Guest(filesystem, node) => {
                let metadata = filesystem.metadata(*node).map_err(|e| self.guest_failed(*node, filesystem, &e))?;
                Ok((attributes::of_guest(number, &metadata), FOREVER))
            }
            Inode::Own(shown) => Ok((self.own_attributes(number, shown), SHORT)),
            Inode::Unopened { .. } => Err(Failure(Errno::EIO)), // nobody asks before it is opened
        }
    }

    fn own_attributes(&self, number: u64, shown: &Shown) -> FileAttr {
        let (kind, size, modified) = match shown {
            Shown::Folder(folder) => (FileType::Directory, 0, folder.modified()),
            Shown::Tree(_) => (FileType::Directory, 0, Time::default()),
            Shown::File { content, modified } => (FileType::RegularFile, content.size().0, *modified),
            Shown::Link { target, modified } => (FileType::Symlink, target.len() as u64, *modified),
        };
        attributes::of_own(number, kind, size, modified, self.owner)
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<(FileAttr, Duration), Failure> {
        let number = match self.inode(parent)? {
            Inode::Guest(filesystem, node) => {
                let found = filesystem.lookup(node, name.as_bytes());
                let found = found.map_err(|error| self.guest_failed(node, &filesystem, &error))?;
                self.number_of(&filesystem, found.ok_or(Failure(Errno::ENOENT))?)?
            }
            Inode::Own(Shown::Folder(folder)) => {
                let name = name.to_str().ok_or(Failure(Errno::ENOENT))?;
                let names = folder.names().map_err(|fault| self.own_failed("a folder", &fault))?;
                if !names.iter().any(|child| child.name == name) {
                    return Err(Failure(Errno::ENOENT));
                }
                self.inodes.of_child(parent.0, &folder, name)
            }
            _ => return Err(Failure(Errno::ENOTDIR)),
        };
        let inode = self.inode(INodeNo(number))?;
        self.attributes(number, &inode)
    }

    fn list(&self, directory: INodeNo) -> Result<Vec<Listed>, Failure> {
        let dot = |name: &str| Listed {
            name: name.as_bytes().into(),
            what: Child::Number(directory.0),
            kind: FileType::Directory,
        };
        let mut listed = vec![dot("."), dot("..")];
        match self.inode(directory)? {
            Inode::Own(Shown::Folder(folder)) => {
                let names = folder.names().map_err(|fault| self.own_failed("a folder", &fault))?;
                listed.extend(names.into_iter().map(|name| Listed {
                    name: name.name.as_bytes().into(),
                    what: Child::Own,
                    kind: match name.kind {
                        NameKind::Folder => FileType::Directory,
                        NameKind::File => FileType::RegularFile,
                        NameKind::Link => FileType::Symlink,
                    },
                }));
            }
            Inode::Own(_) | Inode::Unopened { .. } => return Err(Failure(Errno::ENOTDIR)),
            Inode::Guest(filesystem, node) => {
                let read = filesystem.read_directory(node, &mut |entry| {
                    listed.push(Listed {
                        name: entry.name.into(),
                        what: Child::Guest(entry.node),
                        kind: entry.kind.map_or(FileType::RegularFile, attributes::file_type),
                    });
                    if listed.len() > ENTRIES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                read.map_err(|error| self.guest_failed(node, &filesystem, &error))?;
                if listed.len() > ENTRIES_MAX {
                    self.log
                        .words(&format!("directory {node} has more than {ENTRIES_MAX} entries: it cannot be listed"));
                    return Err(Failure(Errno::EOVERFLOW));
                }
            }
        }
        Ok(listed)
    }

    fn listing(&self, handle: FileHandle) -> Result<Arc<Vec<Listed>>, Failure> {
        let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.get(&handle.0).cloned().ok_or(Failure(Errno::EBADF))
    }

    /// The number of a listed entry; `None` if it cannot have one.
    fn listed_number(&self, directory: u64, inode: &Inode, entry: &Listed) -> Option<u64> {
        match (&entry.what, inode) {
            (Child::Number(number), _) => Some(*number),
            (Child::Guest(node), Inode::Guest(filesystem, _)) => self.inodes.of_node(filesystem, *node),
            (Child::Own, Inode::Own(Shown::Folder(folder))) => {
                Some(self.inodes.of_child(directory, folder, std::str::from_utf8(&entry.name).ok()?))
            }
            _ => None,
        }
    }

    /// A listed entry's attributes, as far as they are known without opening anything of our own; what is not known may
    /// be believed for no time, so that whoever looks at it asks again, and is told why it fails.
    fn listed_attributes(&self, number: u64, entry: &Listed) -> (FileAttr, Duration) {
        let known = match self.inodes.get(number) {
            Some(Inode::Unopened { .. }) | None => None,
            Some(inode) => self.attributes(number, &inode).ok(),
        };
        known
            .unwrap_or_else(|| (attributes::of_own(number, entry.kind, 0, Time::default(), self.owner), Duration::ZERO))
    }

    /// Reads into `buf`; how much there was.
    fn read_into(&self, number: INodeNo, at: u64, buf: &mut [u8]) -> Result<usize, Failure> {
        match self.inode(number)? {
            Inode::Guest(filesystem, node) => {
                filesystem.read_at(node, at, buf).map_err(|error| self.guest_failed(node, &filesystem, &error))
            }
            Inode::Own(Shown::File { content, .. }) => {
                let left = content.size().0.saturating_sub(at);
                let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                content.read_at(GuestOffset(at), &mut buf[..len]).map_err(|error| {
                    self.log.say("a disk", &error);
                    Failure(Errno::EIO)
                })?;
                Ok(len)
            }
            Inode::Own(Shown::Link { .. }) => Err(Failure(Errno::EINVAL)),
            Inode::Own(_) | Inode::Unopened { .. } => Err(Failure(Errno::EISDIR)),
        }
    }

    /// Where data, or a hole, begins at or after `from`.
    fn seek(&self, number: INodeNo, from: u64, wanted: Wanted) -> Result<u64, Failure> {
        let inode = self.inode(number)?;
        let size = self.attributes(number.0, &inode)?.0.size;
        let mut at = from;
        while at < size {
            let extent = match &inode {
                Inode::Guest(filesystem, node) => {
                    filesystem.extent_at(*node, at).map_err(|error| self.guest_failed(*node, filesystem, &error))?
                }
                Inode::Own(Shown::File { content, .. }) => {
                    Some(content.extent_at(GuestOffset(at)).map_err(|error| {
                        self.log.say("a disk", &error);
                        Failure(Errno::EIO)
                    })?)
                }
                _ => return Err(Failure(Errno::EINVAL)),
            };
            let Some(extent) = extent else { break };
            if (extent.kind == ExtentKind::Data) == (wanted == Wanted::Data) {
                return Ok(at);
            }
            at = at.saturating_add(extent.len.0);
        }
        match wanted {
            Wanted::Hole if from < size => Ok(size),
            _ => Err(Failure(Errno::ENXIO)),
        }
    }

    fn link(&self, number: INodeNo) -> Result<Vec<u8>, Failure> {
        match self.inode(number)? {
            Inode::Guest(filesystem, node) => {
                filesystem.read_link(node).map_err(|error| self.guest_failed(node, &filesystem, &error))
            }
            Inode::Own(Shown::Link { target, .. }) => Ok(target.into_bytes()),
            _ => Err(Failure(Errno::EINVAL)),
        }
    }

    /// The names of all extended attributes, each ended by NUL.
    fn attribute_names(&self, number: INodeNo) -> Result<Vec<u8>, Failure> {
        let Inode::Guest(filesystem, node) = self.inode(number)? else { return Ok(Vec::new()) };
        let all = filesystem.extended_attributes(node).map_err(|e| self.guest_failed(node, &filesystem, &e))?;
        Ok(all.into_iter().flat_map(|attribute| attribute.name.into_iter().chain([0])).collect())
    }

    fn attribute(&self, number: INodeNo, name: &OsStr) -> Result<Vec<u8>, Failure> {
        let Inode::Guest(filesystem, node) = self.inode(number)? else { return Err(Failure(Errno::NO_XATTR)) };
        let all = filesystem.extended_attributes(node).map_err(|e| self.guest_failed(node, &filesystem, &e))?;
        let found = all.into_iter().find(|attribute| attribute.name == name.as_bytes());
        found.map(|attribute| attribute.value).ok_or(Failure(Errno::NO_XATTR))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Data,
    Hole,
}

impl fuser::Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What an older kernel lacks only costs speed.
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        self.opens = config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT).is_err();
        let _ = config.set_max_write(1 << 20); // we take no writes; the kernel bounds its reads by it
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok((attributes, ttl)) => reply.entry(&ttl, &attributes, Generation(0)),
            Err(Failure(errno)) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.inode(number).and_then(|inode| self.attributes(number.0, &inode)) {
            Ok((attributes, ttl)) => reply.attr(&ttl, &attributes),
            Err(Failure(errno)) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.link(number) {
            Ok(target) => reply.data(&target),
            Err(Failure(errno)) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.opens {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        } else {
            // Said once, it saves the kernel asking for every file, and keeps its cache just so.
            reply.error(Errno::ENOSYS);
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        at: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local! {
            /// Kept from call to call: to make it anew would zero it anew.
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let len = usize::try_from(len).unwrap_or(READ_BYTES_MAX).min(READ_BYTES_MAX);
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(len), 0);
            match self.read_into(number, at, &mut buffer[..len]) {
                Ok(len) => reply.data(&buffer[..len]),
                Err(Failure(errno)) => reply.error(errno),
            }
        });
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(number) {
            Ok(listed) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.listings.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, Arc::new(listed));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(Failure(errno)) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, from: u64, mut reply: ReplyDirectory) {
        let (inode, listing) = match (self.inode(number), self.listing(handle)) {
            (Ok(inode), Ok(listing)) => (inode, listing),
            (Err(Failure(errno)), _) | (_, Err(Failure(errno))) => return reply.error(errno),
        };
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        for (next, entry) in (1u64..).zip(listing.iter()).skip(skip) {
            let Some(child) = self.listed_number(number.0, &inode, entry) else { continue };
            if reply.add(INodeNo(child), next, entry.kind, OsStr::from_bytes(&entry.name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, handle: FileHandle, from: u64, mut reply: ReplyDirectoryPlus) {
        let (inode, listing) = match (self.inode(number), self.listing(handle)) {
            (Ok(inode), Ok(listing)) => (inode, listing),
            (Err(Failure(errno)), _) | (_, Err(Failure(errno))) => return reply.error(errno),
        };
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        for (next, entry) in (1u64..).zip(listing.iter()).skip(skip) {
            let Some(child) = self.listed_number(number.0, &inode, entry) else { continue };
            let (attributes, ttl) = self.listed_attributes(child, entry);
            let name = OsStr::from_bytes(&entry.name);
            if reply.add(attributes.ino, next, name, &ttl, &attributes, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        let (blocks, block_size) = match self.inode(number) {
            Ok(Inode::Guest(filesystem, _)) => (filesystem.summary().size / 4096, 4096),
            _ => (0, 4096),
        };
        reply.statfs(blocks, 0, 0, 0, 0, block_size, 255, block_size);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(self.attribute(number, name), size, reply);
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        sized(self.attribute_names(number), size, reply);
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    fn lseek(&self, _: &Request, number: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // lseek(2): 3 is SEEK_DATA, 4 is SEEK_HOLE; the kernel does the others itself.
        let wanted = match whence {
            3 => Wanted::Data,
            4 => Wanted::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let found = match u64::try_from(offset) {
            Ok(from) => self.seek(number, from, wanted),
            Err(_) => Err(Failure(Errno::ENXIO)),
        };
        match found.map(i64::try_from) {
            Ok(Ok(at)) => reply.offset(at),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(Failure(errno)) => reply.error(errno),
        }
    }
}

/// Answers with the bytes, or with how many there are if that was asked.
fn sized(bytes: Result<Vec<u8>, Failure>, room: u32, reply: ReplyXattr) {
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(Failure(errno)) => return reply.error(errno),
    };
    match u32::try_from(bytes.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(&bytes),
        _ => reply.error(Errno::ERANGE),
    }
}
