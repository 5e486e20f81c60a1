//! The only place where the repository calls the operating system for its files.
//!
//! In here: the trait [`Fs`], with just the operations whose durability the store above reasons about, and the real one.
//! Not in here: names of objects, temporary files, any order of operations.
//!
//! Files are only ever appended to while new and only read afterwards; so a model of them
//! ([`faulty`](super::faulty)) needs no more than a volatile and a durable length.

use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{Advice, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Space;

/// The operations of a filesystem that a directory store needs.
///
/// None of them promises durability but [`sync_file`](Fs::sync_file) (the bytes and length of a file) and
/// [`sync_dir`](Fs::sync_dir) (which names a folder holds); one does not include the other.
pub trait Fs: Send + Sync {
    /// An open file.
    type File: Send + Sync;

    /// Creates a file for writing; `AlreadyExists` if anything has this name.
    fn create_new(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a regular file for reading; other kinds are refused, `IsADirectory` for folders.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Appends all of `bytes`, or fails with an unknown part of them written.
    fn write_all(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;

    /// Reads at `at`; fewer bytes than asked only at the end of the file.
    fn read_at(&self, file: &Self::File, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Length of an open file.
    fn len(&self, file: &Self::File) -> io::Result<u64>;

    /// Makes the bytes and the length of a file durable. After an error a second call proves nothing.
    fn sync_file(&self, file: &Self::File) -> io::Result<()>;

    /// Closes a file and reports what the filesystem found out only now.
    fn close(&self, file: Self::File) -> io::Result<()>;

    /// Kind, length and time of last change; links are not followed.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// Renames a file; `AlreadyExists` if anything has the new name.
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Creates one folder; `AlreadyExists` if anything has this name.
    fn mkdir(&self, path: &Path) -> io::Result<()>;

    /// Makes durable which names a folder holds.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The entries of a folder, at most `max`, else an error.
    fn list_dir(&self, path: &Path, max: usize) -> io::Result<Vec<DirEntry>>;

    /// The clock that [`Stat::modified`] is told by.
    fn now(&self) -> SystemTime;

    /// Room on the filesystem that `path` lies on; `None` where there is no such thing.
    fn space(&self, _path: &Path) -> io::Result<Option<Space>> {
        Ok(None)
    }

    /// A hint: the first `len` bytes of the file will not be read soon.
    fn drop_cached(&self, _file: &Self::File, _len: u64) {}

    /// A hint: the first `len` bytes of the file will be read soon.
    fn read_ahead(&self, _file: &Self::File, _len: u64) {}
}

/// Linux reads no more ahead at a time than the device takes in one request.
const READ_AHEAD_BYTES: u64 = 128 << 10;

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Folder,
    /// A link, pipe, device, socket.
    Other,
}

/// What [`Fs::stat`] tells.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// What the path is.
    pub kind: FileKind,
    /// Bytes, for files.
    pub len: u64,
    /// Last change of the content.
    pub modified: SystemTime,
}

/// One name in a folder.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// The name, in whatever bytes the filesystem has.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
}

/// The filesystem of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl Fs for RealFs {
    type File = std::fs::File;

    fn create_new(&self, path: &Path) -> io::Result<Self::File> {
        std::fs::OpenOptions::new().write(true).create_new(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<Self::File> {
        // NONBLOCK: a pipe that somebody planted under an object's name must not hang us. NOFOLLOW: nor may a link
        // make us read a file outside the store. Regular files ignore NONBLOCK.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    fn write_all(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn read_at(&self, file: &Self::File, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            let from = at.checked_add(filled as u64).ok_or(io::ErrorKind::InvalidInput)?;
            match file.read_at(&mut buf[filled..], from) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn len(&self, file: &Self::File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn sync_file(&self, file: &Self::File) -> io::Result<()> {
        file.sync_all()
    }

    fn close(&self, file: Self::File) -> io::Result<()> {
        // Dropping a `File` hides what close says, and some network and FUSE filesystems report lost writes only here.
        match nix::unistd::close(file) {
            // On Linux the descriptor is gone after EINTR, and the bytes were flushed by fsync before.
            Ok(()) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Stat { kind: kind_of(meta.file_type()), len: meta.len(), modified: meta.modified()? })
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // NFS and many FUSE filesystems know no flags: EINVAL; kernels before 3.15: ENOSYS.
            Err(Errno::INVAL | Errno::NOSYS) => link_and_unlink(from, to),
            outcome => Ok(outcome?),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
        match std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?).sync_all() {
            // Says "this filesystem has no such operation" (some FUSE and network ones); there is nothing to be had.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
            outcome => outcome,
        }
    }

    fn list_dir(&self, path: &Path, max: usize) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entries.len() == max {
                return Err(io::Error::other(format!("more than {max} entries in one folder")));
            }
            entries.push(DirEntry { name: entry.file_name(), kind: kind_of(entry.file_type()?) });
        }
        Ok(entries)
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn space(&self, path: &Path) -> io::Result<Option<Space>> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Some(Space { free: bytes(stat.f_bavail), size: bytes(stat.f_blocks) }))
    }

    fn drop_cached(&self, file: &Self::File, len: u64) {
        // Starts the write-back of dirty pages and drops clean ones; only a hint, so a refusal means nothing.
        if let Some(len) = NonZeroU64::new(len) {
            let _ = rustix::fs::fadvise(file, 0, Some(len), Advice::DontNeed);
        }
    }

    fn read_ahead(&self, file: &Self::File, len: u64) {
        for at in (0..len).step_by(READ_AHEAD_BYTES as usize) {
            let _ = rustix::fs::fadvise(file, at, NonZeroU64::new(READ_AHEAD_BYTES), Advice::WillNeed);
        }
    }
}

fn kind_of(file_type: std::fs::FileType) -> FileKind {
    if file_type.is_file() {
        FileKind::File
    } else if file_type.is_dir() {
        FileKind::Folder
    } else {
        FileKind::Other
    }
}

/// The way to rename without replacing where the filesystem cannot do it in one call: `link` is atomic and refuses an
/// existing name everywhere. A crash between the two calls leaves both names, of one file; nothing is lost.
fn link_and_unlink(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        // NFS repeats a request whose answer got lost and then finds its own link: the same file is no stranger.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && same_file(from, to) => {}
        outcome => outcome?,
    }
    std::fs::remove_file(from)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::symlink_metadata(a), std::fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_of_rename_never_replaces_and_moves_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "new").unwrap();
        std::fs::write(&b, "old").unwrap();
        assert_eq!(link_and_unlink(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap()), (b"new".to_vec(), b"old".to_vec()));

        std::fs::remove_file(&b).unwrap();
        link_and_unlink(&a, &b).unwrap();
        assert_eq!(std::fs::read(&b).unwrap(), b"new");
        assert!(!a.exists());

        // The answer of the first link got lost: both names are there already, and are one file.
        std::fs::hard_link(&b, &a).unwrap();
        link_and_unlink(&a, &b).unwrap();
        assert!(b.exists() && !a.exists());
    }

    #[test]
    fn only_regular_files_open_and_a_pipe_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(RealFs.open(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(RealFs.open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(RealFs.open(&link).is_err());
        assert_eq!(RealFs.stat(&link).unwrap().kind, FileKind::Other);
    }

    #[test]
    fn a_folder_with_too_many_entries_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(RealFs.list_dir(dir.path(), 3).unwrap().len(), 3);
        assert!(RealFs.list_dir(dir.path(), 2).is_err());
    }
}
