//! A file that appears under its name only when it is whole and durable.
//!
//! Written under a temporary name in the same folder (`.abbild-<16 hex digits>.partial`), then: fsync of the file,
//! rename, fsync of the folder. Without the first, a power loss can leave the name with wrong content; without the
//! second, lose the name. A failed fsync is never tried again: the kernel may already have dropped the pages that it
//! could not write, and a second call would report success.
//!
//! Invariant: dropped before [`NewFile::publish`] succeeded, it leaves nothing behind and the old file untouched.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Overwrite, TargetError, failed};
use crate::bulk::BulkWriter;
use crate::units::FileOffset;

/// A file under construction.
#[derive(Debug)]
pub(in crate::formats) struct NewFile {
    file: File,
    writer: BulkWriter,
    name: Temporary,
    overwrite: Overwrite,
    /// A write failed: the content is not what the caller believes.
    broken: AtomicBool,
}

impl NewFile {
    /// Starts a file that will be called `target`.
    ///
    /// # Errors
    /// [`TargetError::Exists`], [`TargetError::Kind`] if what is there is no regular file, [`TargetError::NoFolder`],
    /// [`TargetError::Io`].
    pub(in crate::formats) fn create(target: &Path, overwrite: Overwrite) -> Result<NewFile, TargetError> {
        let replaced = what_is_there(target, overwrite)?;
        let folder = folder_of(target);
        if !folder.is_dir() {
            return Err(TargetError::NoFolder { file: target.to_owned(), folder });
        }
        let temporary = folder.join(temporary_name(target)?);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(failed("create", target))?;
        let name = Temporary { temporary, target: target.to_owned(), folder, published: false };
        let new = NewFile { file, writer: BulkWriter::default(), name, overwrite, broken: AtomicBool::new(false) };
        // A disk that was private stays private.
        if let Some(old) = replaced {
            new.file.set_permissions(old.permissions()).map_err(failed("set the permissions of", target))?;
        }
        Ok(new)
    }

    /// The name it will have.
    pub(in crate::formats) fn target(&self) -> &Path {
        &self.name.target
    }

    /// Sets the file's length; new bytes are a hole.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub(in crate::formats) fn set_len(&self, len: u64) -> Result<(), TargetError> {
        self.noted(self.file.set_len(len)).map_err(failed("set the length of", &self.name.target))
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// [`TargetError::Write`]; the file can then no longer be published.
    pub(in crate::formats) fn write_all_at(&self, at: FileOffset, data: &[u8]) -> Result<(), TargetError> {
        self.noted(self.writer.write_all_at(&self.file, data, at.0)).map_err(|source| TargetError::Write {
            file: self.name.target.clone(),
            at,
            len: data.len() as u64,
            source,
        })
    }

    /// From now on the file cannot be published: something that belongs into it is missing.
    pub(in crate::formats) fn mark_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Refuses to go on after a failed write: for formats that write more at the end, which would hide that failure.
    ///
    /// # Errors
    /// [`TargetError::Incomplete`].
    pub(in crate::formats) fn check_whole(&self) -> Result<(), TargetError> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(TargetError::Incomplete { file: self.name.target.clone() }),
            false => Ok(()),
        }
    }

    fn noted<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if outcome.is_err() {
            self.mark_broken();
        }
        outcome
    }

    /// Makes the content durable and gives it its name. Returns the name.
    ///
    /// # Errors
    /// [`TargetError::Incomplete`] after a failed write, [`TargetError::Exists`] if somebody took the name meanwhile,
    /// [`TargetError::Io`].
    pub(in crate::formats) fn publish(self) -> Result<PathBuf, TargetError> {
        self.seal()?.publish()
    }

    /// Makes the content durable and closes the file; it keeps its temporary name.
    ///
    /// # Errors
    /// [`TargetError::Incomplete`] after a failed write, [`TargetError::Io`].
    pub(in crate::formats) fn seal(self) -> Result<SealedFile, TargetError> {
        self.check_whole()?;
        self.file.sync_all().map_err(failed("make durable", &self.name.target))?;
        Ok(SealedFile { name: self.name, overwrite: self.overwrite })
    }
}

/// A file whose content is complete and durable, but for its name.
#[derive(Debug)]
pub(in crate::formats) struct SealedFile {
    name: Temporary,
    overwrite: Overwrite,
}

impl SealedFile {
    /// The name it will have.
    pub(in crate::formats) fn target(&self) -> &Path {
        &self.name.target
    }

    /// Gives it its name, which it returns.
    ///
    /// # Errors
    /// [`TargetError::Exists`] if somebody took the name meanwhile, [`TargetError::Io`].
    pub(in crate::formats) fn publish(mut self) -> Result<PathBuf, TargetError> {
        let Temporary { temporary, target, folder, published } = &mut self.name;
        match self.overwrite {
            Overwrite::Replace => fs::rename(&*temporary, &*target).map_err(failed("rename into place", target))?,
            Overwrite::Refuse => rename_without_replacing(temporary, target)?,
        }
        *published = true;
        sync_folder(folder).map_err(failed("make durable the name of", target))?;
        Ok(target.clone())
    }
}

/// A name that goes away unless its file gets the right one.
#[derive(Debug)]
struct Temporary {
    temporary: PathBuf,
    target: PathBuf,
    folder: PathBuf,
    published: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // Nobody is left to tell if this fails; the name says whose it is and that it is incomplete.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Refuses a target that could not be created later on, without creating it.
///
/// # Errors
/// As [`NewFile::create`].
pub(in crate::formats) fn check_target(target: &Path, overwrite: Overwrite) -> Result<(), TargetError> {
    what_is_there(target, overwrite).map(|_| ())
}

/// Refuses a target that must not be replaced; returns the file that will be.
fn what_is_there(target: &Path, overwrite: Overwrite) -> Result<Option<fs::Metadata>, TargetError> {
    let found = match fs::symlink_metadata(target) {
        Ok(found) => found,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(failed("look at", target)(e)),
    };
    if overwrite == Overwrite::Refuse {
        return Err(TargetError::Exists { file: target.to_owned() });
    }
    if found.is_file() {
        return Ok(Some(found));
    }
    // A rename would replace the link, not the file it points to: another disk would fill up than the user meant.
    let kind = if found.is_symlink() {
        "a symbolic link"
    } else if found.is_dir() {
        "a folder"
    } else {
        "a device, pipe or socket"
    };
    Err(TargetError::Kind { file: target.to_owned(), expected: "a regular file to replace", found: kind })
}

fn folder_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn temporary_name(target: &Path) -> Result<String, TargetError> {
    let random = getrandom::u64().map_err(io::Error::from).map_err(failed("find a temporary name for", target))?;
    Ok(format!(".abbild-{random:016x}.partial"))
}

fn rename_without_replacing(temporary: &Path, target: &Path) -> Result<(), TargetError> {
    let exists = || TargetError::Exists { file: target.to_owned() };
    match renameat_with(CWD, temporary, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => return Err(exists()),
        // NFS and many FUSE filesystems cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(e) => return Err(failed("rename into place", target)(e.into())),
    }
    reserve_and_rename(temporary, target)
}

/// Reserves the name with an empty file of ours (exclusive create never replaces), then renames over that.
fn reserve_and_rename(temporary: &Path, target: &Path) -> Result<(), TargetError> {
    match OpenOptions::new().write(true).create_new(true).open(target) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(TargetError::Exists { file: target.to_owned() });
        }
        Err(e) => return Err(failed("create", target)(e)),
    }
    fs::rename(temporary, target).map_err(|e| {
        let _ = fs::remove_file(target);
        failed("rename into place", target)(e)
    })
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and FUSE filesystems have no fsync of folders; there is nothing stronger to ask them for.
        Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn appears_only_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk");
        let new = NewFile::create(&target, Overwrite::Refuse).unwrap();
        new.write_all_at(FileOffset(3), b"abc").unwrap();
        assert!(!target.exists());
        assert_eq!(new.publish().unwrap(), target);
        assert_eq!(fs::read(&target).unwrap(), b"\0\0\0abc");
        assert_eq!(names(dir.path()), ["disk"]);
    }

    #[test]
    fn dropped_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk");
        let new = NewFile::create(&target, Overwrite::Refuse).unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(new);
        assert_eq!(names(dir.path()).len(), 0);
    }

    #[test]
    fn name_taken_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk");
        let new = NewFile::create(&target, Overwrite::Refuse).unwrap();
        fs::write(&target, "theirs").unwrap();
        assert!(matches!(new.publish(), Err(TargetError::Exists { .. })));
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert_eq!(names(dir.path()), ["disk"]);
    }

    #[test]
    fn fallback_rename_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let (temporary, target) = (dir.path().join("t"), dir.path().join("disk"));
        fs::write(&temporary, "ours").unwrap();
        reserve_and_rename(&temporary, &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"ours");
        fs::write(&temporary, "second").unwrap();
        assert!(matches!(reserve_and_rename(&temporary, &target), Err(TargetError::Exists { .. })));
        assert_eq!(fs::read(&target).unwrap(), b"ours");
    }

    #[test]
    fn replacing_keeps_the_old_file_until_the_end_and_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk");
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        let new = NewFile::create(&target, Overwrite::Replace).unwrap();
        new.write_all_at(FileOffset(0), b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        new.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn after_a_failed_write_it_cannot_be_published() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk");
        let new = NewFile::create(&target, Overwrite::Refuse).unwrap();
        let outcome = new.write_all_at(FileOffset(i64::MAX as u64), b"beyond what any filesystem has");
        assert!(matches!(outcome, Err(TargetError::Write { .. })), "{outcome:?}");
        assert!(matches!(new.publish(), Err(TargetError::Incomplete { .. })));
        assert_eq!(names(dir.path()).len(), 0);
    }

    #[test]
    fn refusals_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        let create = |path: &Path, overwrite| NewFile::create(path, overwrite).map(|_| ()).unwrap_err();
        let (refuse, replace) = (Overwrite::Refuse, Overwrite::Replace);
        assert!(matches!(create(&file, refuse), TargetError::Exists { .. }));
        assert!(matches!(create(&link, refuse), TargetError::Exists { .. }));
        assert!(matches!(create(&link, replace), TargetError::Kind { found: "a symbolic link", .. }));
        assert!(matches!(create(dir.path(), replace), TargetError::Kind { found: "a folder", .. }));
        assert!(matches!(create(&dir.path().join("no/disk"), refuse), TargetError::NoFolder { .. }));
        assert!(matches!(create(&file.join("disk"), refuse), TargetError::NoFolder { .. }));
        assert_eq!(names(dir.path()), ["file", "link"]);
    }
}
