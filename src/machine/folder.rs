//! What lies in a folder: its names, bounded and sorted, and what hypervisors leave beside a machine that runs.
//!
//! Not in here: what any file contains.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::MachineError;
use super::names::printable;

/// Most entries of a folder we look at; a machine has dozens, a split disk of 62 TiB would have 32,000 parts.
const ENTRIES_MAX: u64 = 1 << 16;

/// Longest definition file we read; real ones have a few KiB, a `.vmsd` of 500 snapshots 300 KiB.
pub(super) const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most bytes of definition files kept with one backup: they travel in memory.
const KEPT_BYTES_MAX: u64 = 64 << 20;

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
}

/// The files kept with a backup besides the disks: plain files only, up to a limit together, each once.
#[derive(Default)]
pub(super) struct KeptFiles {
    /// In the order they came.
    pub(super) files: Vec<PathBuf>,
    bytes: u64,
}

impl KeptFiles {
    /// Keeps a file, or warns why not. A symbolic link is not followed: a definition from elsewhere must not make us put
    /// `/etc/shadow` into a backup.
    pub(super) fn keep(&mut self, file: &Path, warnings: &mut Vec<String>) {
        if self.files.iter().any(|kept| kept == file) {
            return;
        }
        let skipped = match file.symlink_metadata() {
            Err(error) => format!("it cannot be read ({})", error.kind()),
            Ok(metadata) if !metadata.is_file() => "it is no plain file".to_owned(),
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                format!("it has {} bytes, at most {FILE_BYTES_MAX} are kept", metadata.len())
            }
            Ok(metadata) if self.bytes + metadata.len() > KEPT_BYTES_MAX => {
                format!("with its {} bytes the definition files would exceed {KEPT_BYTES_MAX}", metadata.len())
            }
            Ok(metadata) => match File::open(file) {
                Ok(_) => {
                    self.bytes += metadata.len();
                    return self.files.push(file.to_path_buf());
                }
                Err(error) => format!("it cannot be read ({})", error.kind()),
            },
        };
        let name = printable(&file.file_name().unwrap_or(file.as_os_str()).to_string_lossy());
        warnings.push(format!("{name} is not kept: {skipped}"));
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
    held.then(|| format!("the lock {} is held", printable(&lock.to_string_lossy())))
}

/// Reads a plain file of at most [`FILE_BYTES_MAX`]; a pipe or device under that name would block or never end.
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, MachineError> {
    let too_long =
        |found| MachineError::TooMuch { path: path.to_path_buf(), what: "length in bytes", max: FILE_BYTES_MAX, found };
    let metadata = path.metadata().map_err(MachineError::io(path))?;
    if !metadata.is_file() {
        let source = std::io::Error::new(ErrorKind::InvalidInput, "not a plain file");
        return Err(MachineError::Io { file: path.to_path_buf(), source });
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_long(metadata.len()));
    }
    // The file may grow while it is read, so the limit holds for the reading too.
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(MachineError::io(path))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(MachineError::io(path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
}
