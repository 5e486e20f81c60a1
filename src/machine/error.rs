//! Why a machine could not be read from its files.
//!
//! Every value that comes from a definition file is quoted through [`shown`]: a hostile `.vmx` must not write escape
//! sequences to the admin's terminal, nor fill it.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveError;

/// Longest piece of a file's own text that an error quotes.
const SHOWN_CHARS_MAX: usize = 80;

/// Why a machine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The file or the system failed.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file at fault.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of a definition file is not what its syntax allows.
    #[error("{}: line {line}: expected {expected}, found {found}", file.display())]
    Syntax {
        /// The file at fault.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A key of a definition file has an impossible value.
    #[error("{}: {key}: expected {expected}, found {found}", file.display())]
    Value {
        /// The file at fault.
        file: PathBuf,
        /// Which key.
        key: String,
        /// What a sound file has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// More of something than any real machine has.
    #[error("{}: {what}: expected at most {max}, found {found}", path.display())]
    TooMuch {
        /// The file or folder at fault.
        path: PathBuf,
        /// What there is too much of.
        what: &'static str,
        /// Our limit.
        max: u64,
        /// What was found.
        found: u64,
    },
    /// The whole machine is encrypted by its hypervisor; its disks are, too.
    #[error("{}: the machine {name} is encrypted ({key}): encrypted machines are not supported", file.display())]
    Encrypted {
        /// The definition file.
        file: PathBuf,
        /// What the machine is called.
        name: String,
        /// The key that says so.
        key: String,
    },
    /// We cannot do it.
    #[error("{}: {feature} is not supported", path.display())]
    Unsupported {
        /// The file at fault.
        path: PathBuf,
        /// What it would need.
        feature: String,
    },
    /// Part of a disk was named instead of the file that describes the disk.
    #[error("{} is only a part of a disk ({part}): name {}", file.display(), descriptor.display())]
    PartOfDisk {
        /// The file that was named.
        file: PathBuf,
        /// What kind of part it is.
        part: &'static str,
        /// The file to name instead, as far as its name tells.
        descriptor: PathBuf,
    },
    /// More than one machine where one was asked for.
    #[error("{} holds several machines, name one of them: {}", folder.display(), listed(found))]
    SeveralMachines {
        /// The folder that was named.
        folder: PathBuf,
        /// What can be named instead.
        found: Vec<PathBuf>,
    },
    /// Nothing that looks like a machine.
    #[error("{} holds no machine: no definition of one and no disk image", folder.display())]
    NoMachine {
        /// The folder that was named.
        folder: PathBuf,
    },
    /// Every image names another as its parent, so none is the newest.
    #[error("{}: each image is the parent of another ({}): none is the newest", folder.display(), listed(found))]
    NoNewestImage {
        /// The folder that was named.
        folder: PathBuf,
        /// The images in it.
        found: Vec<PathBuf>,
    },
    /// A definition without a disk that could be backed up.
    #[error("{} has no disk to back up{}", file.display(), because(skipped))]
    NoDisk {
        /// The definition file.
        file: PathBuf,
        /// What was found and skipped, with the reasons.
        skipped: Vec<String>,
    },
    /// The archive that the package lies in.
    #[error(transparent)]
    Archive(ArchiveError),
    /// No snapshot has the name that was asked for.
    #[error("{machine} has no snapshot {wanted:?}: {}", offered(known))]
    NoSuchSnapshot {
        /// What the machine is called.
        machine: String,
        /// What was asked for.
        wanted: String,
        /// What could be asked for: names with uids.
        known: Vec<String>,
    },
    /// Several snapshots have the name that was asked for.
    #[error("{machine} has several snapshots {wanted:?}, choose one by its number: {}", fitting.join(", "))]
    AmbiguousSnapshot {
        /// What the machine is called.
        machine: String,
        /// What was asked for.
        wanted: String,
        /// Which snapshots fit: names with uids.
        fitting: Vec<String>,
    },
}

impl MachineError {
    /// The closure that `map_err` wants where a file could not be read.
    pub(super) fn io(file: &Path) -> impl FnOnce(io::Error) -> MachineError {
        let file = file.to_path_buf();
        move |source| MachineError::Io { file, source }
    }
}

/// Text of a file as an error may quote it: quoted, without control characters, cut.
pub(super) fn shown(text: &str) -> String {
    let mut quoted = String::new();
    for character in text.chars().take(SHOWN_CHARS_MAX) {
        match character {
            '\'' => quoted.push('\''),
            _ => quoted.extend(character.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        quoted.push('…');
    }
    format!("\"{quoted}\"")
}

fn listed(paths: &[PathBuf]) -> String {
    /// More would scroll the message's beginning away.
    const LISTED_MAX: usize = 20;
    let mut names: Vec<String> = paths.iter().take(LISTED_MAX).map(|path| path.display().to_string()).collect();
    if let Some(more) = paths.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

fn because(skipped: &[String]) -> String {
    if skipped.is_empty() { String::new() } else { format!(": {}", skipped.join("; ")) }
}

fn offered(known: &[String]) -> String {
    if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) }
}
