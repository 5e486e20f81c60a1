//! Copies into a folder of this host.
//!
//! Everything is made through the open directory it goes into, by a single name: no path is looked up that a guest's link
//! could bend, no existing link is followed, and nothing existing is written into. A file gets its content, owner, mode,
//! attributes and times under a passing name, and then its own; what dies before leaves at most the passing name
//! (`.abbild-….part`). Directories are closed to others until they are complete.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::acl;
use super::{Losses, Node, Sink};
use crate::bulk::BulkWriter;
use crate::formats::sink::Overwrite;
use crate::guest::tree::{ExtendedAttribute, NodeKind, Time};
use crate::ops::files::FilesError;
use crate::ops::{Control, Event};
use crate::repo::ids;

/// Mode of directories and files until they are complete.
const PRIVATE: Mode = Mode::RWXU;
/// Why something is not tried.
const ONLY_ROOT: &str = "only root can keep it";
/// The bits that make a program run as its owner.
const SET_USER_AND_GROUP_ID: u16 = 0o6000;

/// A folder that copies go into.
pub struct FolderSink {
    /// What messages call it.
    folder: PathBuf,
    top: OwnedFd,
    overwrite: Overwrite,
    is_root: bool,
    /// The directories on the way to where we are, below the top.
    open: Vec<Directory>,
    losses: Losses,
}

struct Directory {
    fd: OwnedFd,
    /// Made by us, or to be made like the guest's.
    gets_metadata: bool,
}

/// A name that goes again unless it becomes the right one.
struct Passing<'d> {
    directory: BorrowedFd<'d>,
    name: String,
    done: bool,
}

impl FolderSink {
    /// Copies go into `folder`, which exists.
    ///
    /// # Errors
    /// [`FilesError::Write`] if it cannot be opened as a directory.
    pub fn new(folder: &Path, overwrite: Overwrite) -> Result<FolderSink, FilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = sys::open(folder, flags, Mode::empty())
            .map_err(|errno| FilesError::Write { target: folder.to_owned(), source: errno.into() })?;
        Ok(FolderSink {
            folder: folder.to_owned(),
            top,
            overwrite,
            is_root: rustix::process::geteuid().is_root(),
            open: Vec::new(),
            losses: Losses::default(),
        })
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.top.as_fd(), |directory| directory.fd.as_fd())
    }

    fn target(&self, node: &Node<'_>) -> PathBuf {
        self.folder.join(OsStr::from_bytes(node.path))
    }

    fn failed(&self, node: &Node<'_>) -> impl Fn(Errno) -> FilesError + use<> {
        let target = self.target(node);
        move |errno| FilesError::Write { target: target.clone(), source: errno.into() }
    }

    /// Refuses to go on if something has the node's name and must not be replaced: before anything is read for it.
    fn check_free(&self, node: &Node<'_>) -> Result<(), FilesError> {
        let found = match sys::statat(self.here(), node.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.failed(node)(errno)),
            Ok(found) => FileType::from_raw_mode(found.st_mode),
        };
        let target = self.target(node);
        match (found, self.overwrite) {
            (FileType::Directory, _) => Err(FilesError::InTheWay { target, what: "a directory" }),
            (_, Overwrite::Refuse) => Err(FilesError::Exists { target }),
            (_, Overwrite::Replace) => Ok(()),
        }
    }

    /// Gives what has a passing name its own.
    fn settle(&self, node: &Node<'_>, mut passing: Passing<'_>) -> Result<(), FilesError> {
        let here = self.here();
        let renamed = match self.overwrite {
            Overwrite::Replace => sys::renameat(here, &passing.name, here, node.name()),
            Overwrite::Refuse => {
                match sys::renameat_with(here, &passing.name, here, node.name(), RenameFlags::NOREPLACE) {
                    // Not every filesystem can: then there is a moment between looking and renaming.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        self.check_free(node)?;
                        sys::renameat(here, &passing.name, here, node.name())
                    }
                    other => other,
                }
            }
        };
        match renamed {
            Ok(()) => passing.done = self.overwrite == Overwrite::Refuse,
            Err(Errno::EXIST) => return Err(FilesError::Exists { target: self.target(node) }),
            Err(errno) => return Err(self.failed(node)(errno)),
        }
        // Where both names are of one node, renaming does nothing, and the passing one is still there to go.
        Ok(())
    }

    /// Owner, attributes, mode and times of what is open as `fd`.
    fn complete(&mut self, fd: BorrowedFd<'_>, node: &Node<'_>) {
        let metadata = node.metadata;
        let mut mode = metadata.mode;
        if !self.own(node, |uid, gid| sys::fchown(fd, uid, gid)) {
            // Somebody else's program must not run as us.
            mode &= !SET_USER_AND_GROUP_ID;
        }
        let (lists, others): (Vec<_>, Vec<_>) = node.attributes.iter().partition(|attribute| is_acl(attribute));
        let set = |attribute: &ExtendedAttribute| {
            sys::fsetxattr(fd, attribute.name.as_slice(), &attribute.value, sys::XattrFlags::empty())
        };
        // Before the mode, which may forbid it even to the owner; lists after it, for they refine it.
        self.attach(node, &others, "extended attributes", &set);
        if let Err(errno) = sys::fchmod(fd, Mode::from_raw_mode(mode.into())) {
            self.losses.lost("mode", node.place, &io::Error::from(errno));
        }
        self.attach(node, &lists, "access control lists", &set);
        if let Err(errno) = sys::futimens(fd, &times(node)) {
            self.losses.lost("times", node.place, &io::Error::from(errno));
        }
    }

    /// The same for what cannot be opened, by its name in a directory.
    fn complete_by_name(&mut self, directory: BorrowedFd<'_>, name: &str, node: &Node<'_>) {
        self.own(node, |uid, gid| sys::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW));
        if node.metadata.kind != NodeKind::Symlink {
            // Made by us a moment ago in a directory that is closed to others, so that no link can stand there.
            let mode = Mode::from_raw_mode(node.metadata.mode.into());
            if let Err(errno) = sys::chmodat(directory, name, mode, AtFlags::empty()) {
                self.losses.lost("mode", node.place, &io::Error::from(errno));
            }
        }
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let set = |attribute: &ExtendedAttribute| {
            sys::lsetxattr(&path, attribute.name.as_slice(), &attribute.value, sys::XattrFlags::empty())
        };
        self.attach(node, &node.attributes.iter().collect::<Vec<_>>(), "extended attributes", &set);
        if let Err(errno) = sys::utimensat(directory, name, &times(node), AtFlags::SYMLINK_NOFOLLOW) {
            self.losses.lost("times", node.place, &io::Error::from(errno));
        }
    }

    /// Whether the node has its owner and group now.
    fn own(
        &mut self,
        node: &Node<'_>,
        change: impl Fn(Option<sys::Uid>, Option<sys::Gid>) -> rustix::io::Result<()>,
    ) -> bool {
        let (uid, gid) = (node.metadata.uid, node.metadata.gid);
        if !self.is_root {
            let ours = uid == rustix::process::geteuid().as_raw() && gid == rustix::process::getegid().as_raw();
            if !ours {
                self.losses.not_tried("owner and group", node.place, &ONLY_ROOT);
            }
            return ours;
        }
        // These numbers mean nobody at all, and "leave it" to the system.
        if uid == u32::MAX || gid == u32::MAX {
            self.losses.lost("owner and group", node.place, &"there is no user or group 4294967295");
            return false;
        }
        let changed = change(Some(sys::Uid::from_raw(uid)), Some(sys::Gid::from_raw(gid)));
        if let Err(errno) = changed {
            self.losses.lost("owner and group", node.place, &io::Error::from(errno));
        }
        changed.is_ok()
    }

    fn attach(
        &mut self,
        node: &Node<'_>,
        attributes: &[&ExtendedAttribute],
        what: &'static str,
        set: &dyn Fn(&ExtendedAttribute) -> rustix::io::Result<()>,
    ) {
        let for_all = |name: &[u8]| name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
        for attribute in attributes {
            if !self.is_root && !for_all(&attribute.name) {
                self.losses.not_tried(what, node.place, &ONLY_ROOT);
            } else if let Err(errno) = set(attribute) {
                let reason = format!("{}: {}", String::from_utf8_lossy(&attribute.name), io::Error::from(errno));
                self.losses.lost(what, node.place, &reason);
            }
        }
    }

    fn write_content(&self, file: &File, node: &Node<'_>, control: Control<'_>) -> Result<(), FilesError> {
        let size = node.metadata.size;
        let failed = |source| FilesError::Write { target: self.target(node), source };
        let writer = BulkWriter::default();
        node.readable().read_data(size, control, &mut |at, bytes| {
            control.tell(Event::Done(bytes.len() as u64));
            writer.write_all_at(file, bytes, at).map_err(failed)
        })?;
        // Holes at the end; also those of a file without data.
        file.set_len(size).map_err(failed)
    }
}

impl Sink for FolderSink {
    fn enter(&mut self, node: &Node<'_>) -> Result<(), FilesError> {
        let failed = self.failed(node);
        let name = if node.path.is_empty() { b"." } else { node.name() };
        let made = match sys::mkdirat(self.here(), name, PRIVATE) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(failed(errno)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match sys::openat(self.here(), name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(FilesError::InTheWay { target: self.target(node), what: "something that is no directory" });
            }
            Err(errno) => return Err(failed(errno)),
        };
        // What was there before keeps its owner and mode, unless it may be replaced; the target itself always does.
        let gets_metadata = made || (self.overwrite == Overwrite::Replace && !node.path.is_empty());
        self.open.push(Directory { fd, gets_metadata });
        Ok(())
    }

    fn leave(&mut self, node: &Node<'_>) -> Result<(), FilesError> {
        let directory = self.open.pop().expect("it was entered");
        if directory.gets_metadata {
            self.complete(directory.fd.as_fd(), node);
        }
        Ok(())
    }

    fn file(&mut self, node: &Node<'_>, control: Control<'_>) -> Result<(), FilesError> {
        self.check_free(node)?;
        // The borrow of a directory must not hold all of us.
        let here = self
            .here()
            .try_clone_to_owned()
            .map_err(|source| FilesError::Write { target: self.target(node), source })?;
        let passing = Passing::new(here.as_fd());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = sys::openat(&here, &passing.name, flags, PRIVATE & !Mode::XUSR).map_err(self.failed(node))?;
        let file = File::from(fd);
        self.write_content(&file, node, control)?;
        self.complete(file.as_fd(), node);
        self.settle(node, passing)
    }

    fn hard_link(&mut self, node: &Node<'_>, first: &[u8]) -> Result<bool, FilesError> {
        self.check_free(node)?;
        let (folder, name) = match first.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&first[..at], &first[at + 1..]),
            None => (&b"."[..], first),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let here = self
            .here()
            .try_clone_to_owned()
            .map_err(|source| FilesError::Write { target: self.target(node), source })?;
        let passing = Passing::new(here.as_fd());
        let linked = sys::openat2(&self.top, folder, flags, Mode::empty(), beneath)
            .and_then(|folder| sys::linkat(folder, name, &here, &passing.name, AtFlags::empty()));
        match linked {
            Ok(()) => self.settle(node, passing).map(|()| true),
            // Too many names, or a filesystem without: a file of its own then.
            Err(errno) => {
                self.losses.lost("being one file under several names", node.place, &io::Error::from(errno));
                Ok(false)
            }
        }
    }

    fn symlink(&mut self, node: &Node<'_>, target: &[u8]) -> Result<(), FilesError> {
        self.check_free(node)?;
        let here = self
            .here()
            .try_clone_to_owned()
            .map_err(|source| FilesError::Write { target: self.target(node), source })?;
        let passing = Passing::new(here.as_fd());
        sys::symlinkat(target, &here, &passing.name).map_err(self.failed(node))?;
        self.complete_by_name(here.as_fd(), &passing.name, node);
        self.settle(node, passing)
    }

    fn special(&mut self, node: &Node<'_>) -> Result<(), FilesError> {
        self.check_free(node)?;
        let kind = match node.metadata.kind {
            NodeKind::CharacterDevice => FileType::CharacterDevice,
            NodeKind::BlockDevice => FileType::BlockDevice,
            NodeKind::Fifo => FileType::Fifo,
            _ => FileType::Socket,
        };
        let (major, minor) = node.metadata.device.unwrap_or_default();
        let here = self
            .here()
            .try_clone_to_owned()
            .map_err(|source| FilesError::Write { target: self.target(node), source })?;
        let passing = Passing::new(here.as_fd());
        sys::mknodat(&here, &passing.name, kind, PRIVATE, sys::makedev(major, minor)).map_err(self.failed(node))?;
        self.complete_by_name(here.as_fd(), &passing.name, node);
        self.settle(node, passing)
    }

    fn losses(&mut self) -> &mut Losses {
        &mut self.losses
    }
}

impl<'d> Passing<'d> {
    fn new(directory: BorrowedFd<'d>) -> Passing<'d> {
        let name = format!(".abbild-{}.part", ids::to_hex(&ids::random::<8>()));
        Passing { directory, name, done: false }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        if !self.done {
            // After a rename it is gone already; after a failure nothing better can be done.
            let _ = sys::unlinkat(self.directory, &self.name, AtFlags::empty());
        }
    }
}

fn is_acl(attribute: &ExtendedAttribute) -> bool {
    attribute.name == acl::ACCESS || attribute.name == acl::DEFAULT
}

fn times(node: &Node<'_>) -> sys::Timestamps {
    let time = |time: Time| sys::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    sys::Timestamps { last_access: time(node.metadata.accessed), last_modification: time(node.metadata.modified) }
}
