//! What lies in a folder: its names, bounded and sorted, and what hypervisors leave beside a machine that runs.
//!
//! Not in here: what any file contains.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::error::MachineError;

/// Most entries of a folder we look at; a machine has dozens, a split disk of 62 TiB would have 32,000 parts.
const ENTRIES_MAX: u64 = 1 << 16;

/// One entry of a folder.
pub(super) struct Entry {
    /// Its name, as far as it is text: enough to recognise what it is.
    pub(super) name: String,
    /// Where it lies, exactly.
    pub(super) path: PathBuf,
}

impl Entry {
    /// What follows the last dot, in lower case; empty without one.
    pub(super) fn extension(&self) -> String {
        extension(&self.path)
    }

    /// What it is, symbolic links followed; `None` if it is gone or leads nowhere.
    pub(super) fn metadata(&self) -> Option<Metadata> {
        self.path.metadata().ok()
    }

    /// Whether it is a plain file and no symbolic link: what may be kept without being named by the admin.
    pub(super) fn is_own_file(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }
}

/// What follows the last dot of a path, in lower case; empty without one.
pub(super) fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// Everything in a folder, sorted by name: a directory's own order differs from day to day.
pub(super) fn entries(folder: &Path) -> Result<Vec<Entry>, MachineError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(MachineError::io(folder))? {
        let entry = entry.map_err(MachineError::io(folder))?;
        entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), path: entry.path() });
        if entries.len() as u64 > ENTRIES_MAX {
            return Err(MachineError::TooMuch {
                path: folder.to_path_buf(),
                what: "files in the folder",
                max: ENTRIES_MAX,
                found: entries.len() as u64,
            });
        }
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// The lock that a running hypervisor holds on a file: `FILE.lck`, a folder with something in it. Workstation and Fusion
/// remove it with the last lock; an empty one is a leftover.
pub(super) fn lock_of(file: &Path) -> Option<String> {
    let mut name = file.file_name()?.to_os_string();
    name.push(".lck");
    let lock = file.with_file_name(&name);
    let held = fs::read_dir(&lock).is_ok_and(|mut inside| inside.next().is_some());
    held.then(|| format!("the lock {} is held", lock.display()))
}
