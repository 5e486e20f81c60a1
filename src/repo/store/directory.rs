//! The store in a directory: one file an object, at the object's name below the root.
//!
//! In here: the order of operations that makes objects appear whole and stay. Not in here: system calls ([`fs`]).
//!
//! A new object is written to `.tmp-<random>` in its own folder, flushed, closed, looked at once more, renamed without
//! replacing, and then the folder is flushed. A folder is trusted only after this process has flushed its parent, even
//! if the folder was there already: who made it may have died before doing so.
//!
//! [`fs`]: super::fs

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::faulty::MemFs;
use super::fs::{DirEntry, FileKind, Fs, RealFs, Stat};
use super::handles::Handles;
use super::{Cleaned, ListedObject, ObjectName, ObjectStore, ObjectWriter, Space, StoreError};

/// How names of unfinished objects begin; no object name can begin with a dot.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// Entries accepted in one folder: a million names need about 100 MB while they are looked at, and the repository
/// spreads packs over 256 folders (1 << 20 packs of 64 MiB in each would be 16 PiB).
const FOLDER_ENTRIES_MAX: usize = 1 << 20;

/// Bytes after which a writer asks the system to write back and then forget what was written, so that a backup does
/// not push everything else out of the page cache. Objects that stay below are small, and are soon read again.
const CACHE_DROP_BYTES: u64 = 8 << 20;

/// An [`ObjectStore`] in a directory of some filesystem.
pub struct DirectoryStore<F: Fs> {
    fs: F,
    root: PathBuf,
    /// Folders whose own entry is known to be durable.
    durable_folders: Mutex<HashSet<String>>,
    handles: Handles<F::File>,
}

impl DirectoryStore<RealFs> {
    /// The store in an existing directory.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it is not there or not a directory.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_on(RealFs, &absolute(root)?)
    }

    /// The store in a directory that is created first, with its parents, if it is missing.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::NoSpace`].
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        Self::create_on(RealFs, &absolute(root)?)
    }
}

impl DirectoryStore<MemFs> {
    /// A store in memory, for tests: the same code on a filesystem that is gone with the process.
    pub fn in_memory() -> Self {
        Self::create_on(MemFs::new(), Path::new("/memory")).expect("without planned faults memory takes a folder")
    }
}

impl<F: Fs> DirectoryStore<F> {
    /// As [`DirectoryStore::open`], on any filesystem; `root` is absolute.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it is not there or not a directory.
    pub fn open_on(fs: F, root: &Path) -> Result<Self, StoreError> {
        let store = DirectoryStore {
            fs,
            root: root.to_owned(),
            durable_folders: Mutex::new(HashSet::new()),
            handles: Handles::new(),
        };
        store.check_root()?;
        Ok(store)
    }

    /// As [`DirectoryStore::create`], on any filesystem; `root` is absolute.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::NoSpace`].
    pub fn create_on(fs: F, root: &Path) -> Result<Self, StoreError> {
        make_root(&fs, root).map_err(|source| io_error(root, "", "create", source))?;
        Self::open_on(fs, root)
    }

    /// The filesystem below, for tests that plan faults.
    pub fn fs(&self) -> &F {
        &self.fs
    }

    /// Refuses a root that is not there (any more): an unmounted store must not look like an empty one.
    fn check_root(&self) -> Result<(), StoreError> {
        // `root/.` and not `root`: the root itself may be a link to where the space is.
        match self.fs.stat(&self.root.join(".")).map_err(|e| self.error("", "open", e))?.kind {
            FileKind::Folder => Ok(()),
            _ => Err(self.error("", "open", io::ErrorKind::NotADirectory.into())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn error(&self, name: &str, action: &'static str, source: io::Error) -> StoreError {
        io_error(&self.root, name, action, source)
    }

    /// For operations on one object: a missing file is a missing object, and so is a folder of that name.
    fn object_error(&self, name: &ObjectName, action: &'static str, source: io::Error) -> StoreError {
        match source.kind() {
            // NotADirectory: a part of the name in front is an object.
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
                StoreError::NotFound { place: self.place(), name: name.clone() }
            }
            _ => self.error(name.as_str(), action, source),
        }
    }

    /// Creates a folder with its parents and makes their entries durable, once a folder.
    fn ensure_folder(&self, folder: &str) -> Result<(), StoreError> {
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        for path in ends.map(|end| &folder[..end]).filter(|path| !path.is_empty()) {
            if self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).contains(path) {
                continue;
            }
            match self.fs.mkdir(&self.path(path)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let stat = self.fs.stat(&self.path(path)).map_err(|e| self.error(path, "look at folder", e))?;
                    if stat.kind != FileKind::Folder {
                        return Err(self.error(path, "use as a folder", io::ErrorKind::NotADirectory.into()));
                    }
                }
                outcome => outcome.map_err(|e| self.error(path, "create folder", e))?,
            }
            self.sync_folder(path.rsplit_once('/').map_or("", |(parent, _)| parent))?;
            self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StoreError> {
        self.fs.sync_dir(&self.path(folder)).map_err(|e| self.error(folder, "flush folder", e))
    }

    /// The answer "it exists", given only when that is durable: who stored it may have died, or have been told of an
    /// error, after the rename and before the flush of the folder. Its bytes were flushed before it got its name.
    fn exists(&self, name: &ObjectName) -> StoreError {
        match self.sync_folder(name.folder()) {
            Ok(()) => StoreError::Exists { place: self.place(), name: name.clone() },
            Err(error) => error,
        }
    }

    fn create_temporary(&self, name: &ObjectName) -> Result<(PathBuf, F::File), StoreError> {
        let folder = self.path(name.folder());
        loop {
            let random = getrandom::u64()
                .map_err(|e| self.error(name.as_str(), "draw a temporary name for", io::Error::other(e.to_string())))?;
            let path = folder.join(format!("{TEMPORARY_PREFIX}{random:016x}"));
            match self.fs.create_new(&path) {
                // Somebody else drew the same 64 bits.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => return Ok((path, outcome.map_err(|e| self.error(name.as_str(), "create", e))?)),
            }
        }
    }

    /// Shows everything below `folder`; what cannot be read is passed over, and the first such error returned.
    fn walk(&self, folder: &str, see: &mut dyn FnMut(Seen) -> ControlFlow<()>) -> Result<(), StoreError> {
        if !folder.is_empty() {
            ObjectName::new(folder)?;
        }
        self.check_root()?;
        let mut first_error = None;
        let mut waiting = Vec::new();
        if folder.is_empty() {
            waiting.push(String::new());
        } else {
            match self.fs.stat(&self.path(folder)).map(|stat| stat.kind) {
                Ok(FileKind::Folder) => waiting.push(folder.to_owned()),
                Ok(FileKind::File) => {}
                Ok(FileKind::Other) => return Err(self.error(folder, "list", io::ErrorKind::NotADirectory.into())),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(self.error(folder, "list", e)),
            }
        }
        while let Some(folder) = waiting.pop() {
            let entries = match self.fs.list_dir(&self.path(&folder), FOLDER_ENTRIES_MAX) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    first_error.get_or_insert(self.error(&folder, "list", e));
                    continue;
                }
            };
            for entry in entries {
                let seen = match self.look_at(&folder, &entry) {
                    Ok(Seen::Folder(below)) => {
                        waiting.push(below);
                        continue;
                    }
                    Ok(seen) => seen,
                    Err(e) => {
                        first_error.get_or_insert(e);
                        continue;
                    }
                };
                if see(seen).is_break() {
                    return first_error.map_or(Ok(()), Err);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn look_at(&self, folder: &str, entry: &DirEntry) -> Result<Seen, StoreError> {
        let text = entry.name.to_string_lossy();
        let full = if folder.is_empty() { text.to_string() } else { format!("{folder}/{text}") };
        let temporary = text.starts_with(TEMPORARY_PREFIX);
        // A name that is not UTF-8 has a replacement character by now, and is no object name.
        let name = ObjectName::new(&full);
        match entry.kind {
            FileKind::Folder if name.is_ok() => return Ok(Seen::Folder(full)),
            FileKind::File if name.is_ok() || temporary => {}
            _ => return Ok(Seen::Foreign(full.escape_debug().to_string())),
        }
        let path = self.path(folder).join(&entry.name);
        match (self.fs.stat(&path), name) {
            (Ok(stat), Ok(name)) => Ok(Seen::Object(ListedObject { name, len: stat.len })),
            (Ok(stat), Err(_)) => Ok(Seen::Temporary { path, stat }),
            (Err(e), _) if e.kind() == io::ErrorKind::NotFound => Ok(Seen::Gone),
            (Err(e), _) => Err(self.error(&full, "look at", e)),
        }
    }
}

/// What a folder's entry turned out to be.
enum Seen {
    Object(ListedObject),
    Folder(String),
    Temporary {
        path: PathBuf,
        stat: Stat,
    },
    Foreign(String),
    /// Removed between the listing and the look.
    Gone,
}

impl<F: Fs> ObjectStore for DirectoryStore<F> {
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter + '_>, StoreError> {
        self.ensure_folder(name.folder())?;
        match self.fs.stat(&self.path(name.as_str())) {
            Ok(_) => return Err(self.exists(name)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(self.error(name.as_str(), "look at", e)),
        }
        let (temporary, file) = self.create_temporary(name)?;
        Ok(Box::new(DirectoryWriter {
            store: self,
            name: name.clone(),
            temporary,
            file: Some(file),
            written: 0,
            cached: 0,
            renamed: false,
        }))
    }

    fn put_exclusive(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
        // The rename refuses an existing name in one atomic step, so every `put` here is exclusive.
        self.put(name, bytes)
    }

    fn read_into(&self, name: &ObjectName, limit: u64, bytes: &mut Vec<u8>) -> Result<(), StoreError> {
        let file = self.fs.open(&self.path(name.as_str())).map_err(|e| self.object_error(name, "open", e))?;
        let found = self.fs.len(&file).map_err(|e| self.error(name.as_str(), "look at", e))?;
        let len = match usize::try_from(found) {
            Ok(len) if found <= limit => len,
            _ => return Err(StoreError::TooLarge { place: self.place(), name: name.clone(), limit, found }),
        };
        bytes.resize(len, 0);
        let got = self.fs.read_at(&file, 0, bytes).map_err(|e| self.error(name.as_str(), "read", e))?;
        if got < len {
            let (expected, found) = (found, got as u64);
            return Err(StoreError::Short { place: self.place(), name: name.clone(), expected, found });
        }
        Ok(())
    }

    fn read_ahead(&self, name: &ObjectName, limit: u64) {
        // What is wrong with the object is said to whoever reads it.
        let Ok(file) = self.fs.open(&self.path(name.as_str())) else { return };
        if let Ok(len) = self.fs.len(&file)
            && len <= limit
        {
            self.fs.read_ahead(&file, len);
        }
    }

    fn read_range(&self, name: &ObjectName, at: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let file: Arc<F::File> = self
            .handles
            .get(name, || self.fs.open(&self.path(name.as_str())))
            .map_err(|e| self.object_error(name, "open", e))?;
        let expected = at.saturating_add(buf.len() as u64);
        let short = |found| StoreError::Short { place: self.place(), name: name.clone(), expected, found };
        // A handle that failed (a network filesystem's stale one) is not tried again.
        let failed = |e| {
            self.handles.forget(name);
            self.error(name.as_str(), "read", e)
        };
        // First the length: an offset from outside may be one that the system refuses as a mistake.
        let found = self.fs.len(&file).map_err(failed)?;
        match at.checked_add(buf.len() as u64) {
            Some(end) if end <= found => {}
            _ => return Err(short(found)),
        }
        match self.fs.read_at(&file, at, buf).map_err(failed)? {
            got if got == buf.len() => Ok(()),
            got => Err(short(at + got as u64)),
        }
    }

    fn len(&self, name: &ObjectName) -> Result<u64, StoreError> {
        let stat = self.fs.stat(&self.path(name.as_str())).map_err(|e| self.object_error(name, "look at", e))?;
        match stat.kind {
            FileKind::File => Ok(stat.len),
            FileKind::Folder => Err(StoreError::NotFound { place: self.place(), name: name.clone() }),
            FileKind::Other => {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
                Err(self.error(name.as_str(), "look at", source))
            }
        }
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(ListedObject) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.walk(folder, &mut |seen| match seen {
            Seen::Object(object) => each(object),
            _ => ControlFlow::Continue(()),
        })
    }

    fn foreign(&self, folder: &str, each: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.walk(folder, &mut |seen| match seen {
            Seen::Foreign(name) => each(&name),
            _ => ControlFlow::Continue(()),
        })
    }

    fn unfinished(&self, folder: &str, each: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.walk(folder, &mut |seen| match seen {
            Seen::Temporary { path, .. } => {
                let below = path.strip_prefix(&self.root).unwrap_or(&path);
                each(&below.to_string_lossy().escape_debug().to_string())
            }
            _ => ControlFlow::Continue(()),
        })
    }

    fn rename(&self, from: &ObjectName, to: &ObjectName) -> Result<(), StoreError> {
        self.len(from)?; // only objects move: a folder of this name must not
        self.ensure_folder(to.folder())?;
        match self.fs.rename_noreplace(&self.path(from.as_str()), &self.path(to.as_str())) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(self.exists(to)),
            outcome => outcome.map_err(|e| self.object_error(from, "rename", e))?,
        }
        self.handles.forget(from);
        // The new name first: between the two flushes a power cut may leave both names, but never none.
        self.sync_folder(to.folder())?;
        if from.folder() != to.folder() {
            self.sync_folder(from.folder())?;
        }
        Ok(())
    }

    fn settle(&self, folder: &str) -> Result<(), StoreError> {
        self.ensure_folder(folder)?;
        self.sync_folder(folder)
    }

    fn remove(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.fs.remove_file(&self.path(name.as_str())).map_err(|e| self.object_error(name, "remove", e))?;
        self.handles.forget(name);
        self.sync_folder(name.folder())
    }

    fn clean_temporaries(&self, older_than: Duration) -> Result<Cleaned, StoreError> {
        let mut cleaned = Cleaned::default();
        let mut first_error = None;
        let now = self.fs.now();
        let walked = self.walk("", &mut |seen| {
            let Seen::Temporary { path, stat } = seen else { return ControlFlow::Continue(()) };
            // A time in the future (a clock was set back) counts as just now.
            if now.duration_since(stat.modified).unwrap_or_default() < older_than {
                return ControlFlow::Continue(());
            }
            match self.fs.remove_file(&path) {
                Ok(()) => {
                    cleaned.objects += 1;
                    cleaned.bytes = cleaned.bytes.saturating_add(stat.len);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    let shown = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
                    first_error.get_or_insert(self.error(&shown, "remove", e));
                }
            }
            ControlFlow::Continue(())
        });
        walked?;
        first_error.map_or(Ok(cleaned), Err)
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.fs.space(&self.root).map_err(|e| self.error("", "ask for the room on", e))
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

/// An object on its way: a temporary file in the folder where the object will be.
struct DirectoryWriter<'a, F: Fs> {
    store: &'a DirectoryStore<F>,
    name: ObjectName,
    temporary: PathBuf,
    /// `None` after a failure: the file's content is unknown then.
    file: Option<F::File>,
    written: u64,
    /// Bytes written since the page cache was last relieved.
    cached: u64,
    renamed: bool,
}

impl<F: Fs> DirectoryWriter<'_, F> {
    fn error(&self, action: &'static str, source: io::Error) -> StoreError {
        self.store.error(self.name.as_str(), action, source)
    }

    fn open_file(&mut self) -> Result<F::File, StoreError> {
        self.file.take().ok_or_else(|| self.error("go on writing", io::Error::other("an earlier write failed")))
    }
}

impl<F: Fs> ObjectWriter for DirectoryWriter<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = self.open_file()?;
        let fs = &self.store.fs;
        fs.write_all(&mut file, bytes).map_err(|e| self.error("write", e))?;
        self.written += bytes.len() as u64;
        self.cached += bytes.len() as u64;
        if self.cached >= CACHE_DROP_BYTES {
            fs.drop_cached(&file, self.written);
            self.cached = 0;
        }
        self.file = Some(file);
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        let file = self.open_file()?;
        let (store, name) = (self.store, self.name.clone());
        store.fs.sync_file(&file).map_err(|e| self.error("flush", e))?;
        if self.written >= CACHE_DROP_BYTES {
            store.fs.drop_cached(&file, self.written);
        }
        store.fs.close(file).map_err(|e| self.error("close", e))?;
        // One look before the name: filesystems were seen to lose the end of a file and report it nowhere.
        let found = store.fs.stat(&self.temporary).map_err(|e| self.error("look at", e))?.len;
        if found != self.written {
            return Err(StoreError::Short { place: store.place(), name, expected: self.written, found });
        }
        match store.fs.rename_noreplace(&self.temporary, &store.path(name.as_str())) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(store.exists(&name)),
            outcome => outcome.map_err(|e| self.error("name", e))?,
        }
        self.renamed = true;
        store.sync_folder(name.folder())
    }
}

impl<F: Fs> Drop for DirectoryWriter<'_, F> {
    fn drop(&mut self) {
        if !self.renamed {
            self.file = None;
            // Best effort: what stays is recognisable, and `clean_temporaries` removes it.
            let _ = self.store.fs.remove_file(&self.temporary);
        }
    }
}

fn absolute(root: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(root).map_err(|source| io_error(root, "", "open", source))
}

fn io_error(root: &Path, name: &str, action: &'static str, source: io::Error) -> StoreError {
    let place = root.display().to_string();
    let name = if name.is_empty() { "the store's directory".to_owned() } else { name.to_owned() };
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace { place, name, source },
        _ => StoreError::Io { place, name, action, source },
    }
}

/// Creates the root with its missing parents and makes the whole path durable. All of it, not only what was missing: an
/// earlier try may have died between the making of a folder and the flush of its parent. (The fault campaign found it.)
fn make_root<F: Fs>(fs: &F, root: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for path in root.ancestors() {
        match fs.stat(&path.join(".")) {
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing.push(path),
            Err(e) => return Err(e),
        }
    }
    for path in missing.iter().rev() {
        match fs.mkdir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => outcome?,
        }
    }
    root.ancestors().skip(1).try_for_each(|parent| match fs.sync_dir(parent) {
        // A folder that we may not read is not one that an earlier try of ours made.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        outcome => outcome,
    })
}
