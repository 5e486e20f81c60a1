//! What can go wrong with files in guests. Damage of one file is an error of that file, not of the work.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::place::PlaceError;
use crate::guest::GuestError;
use crate::guest::path::PathError;
use crate::ops::OpsError;

/// Why something could not be done with files in a guest.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The name names nothing.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The backup or image could not be opened.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// There are several volumes and none of them is the root of a system.
    #[error("{source_name} has no root filesystem that can be read, and several volumes")]
    WhichVolume {
        /// The backup or image.
        source_name: String,
        /// Its volumes with files.
        volumes: Vec<String>,
    },
    /// There is nothing with files.
    #[error("there are no files to be read in {source_name}{}", because(reasons))]
    NoFiles {
        /// The backup or image.
        source_name: String,
        /// What is there, and why it cannot be read.
        reasons: Vec<String>,
    },
    /// There is no such volume.
    #[error("{source_name} has no volume {wanted:?}")]
    NoVolume {
        /// The backup or image.
        source_name: String,
        /// What was asked for, with the path that may be part of it.
        wanted: String,
        /// Its volumes with files.
        volumes: Vec<String>,
    },
    /// The volume cannot be put together.
    #[error("{source_name}: cannot read {reason}")]
    Volume {
        /// The backup or image.
        source_name: String,
        /// The volume, and what it lacks.
        reason: String,
    },
    /// The volume's filesystem cannot be opened.
    #[error("{source_name}: cannot read {volume}")]
    FileSystem {
        /// The backup or image.
        source_name: String,
        /// The volume.
        volume: String,
        /// What its reader said.
        source: Arc<GuestError>,
    },
    /// No volume is that drive of Windows.
    #[error("{source_name}: no volume is known to be drive {letter}:")]
    Drive {
        /// The backup or image.
        source_name: String,
        /// Which.
        letter: char,
        /// Its volumes with files.
        volumes: Vec<String>,
    },
    /// The path leads nowhere.
    #[error("cannot find {place}")]
    Path {
        /// What was asked for.
        place: String,
        /// Why it leads nowhere.
        source: Box<PathError>,
    },
    /// A node could not be read.
    #[error("cannot read {place}")]
    Node {
        /// Which.
        place: String,
        /// What its filesystem said.
        source: Box<GuestError>,
    },
    /// A file's content could not be read to its end.
    #[error("cannot read {place}: only its first {good} bytes are good")]
    Content {
        /// Which file.
        place: String,
        /// Bytes before the place that could not be read.
        good: u64,
        /// What its filesystem said.
        source: Box<GuestError>,
    },
    /// A directory where a file is needed.
    #[error("{place} is a directory")]
    Directory {
        /// Which.
        place: String,
    },
    /// A device or the like where a file is needed.
    #[error("{place} is {found}")]
    NoFile {
        /// Which.
        place: String,
        /// What it is.
        found: &'static str,
    },
    /// What its filesystem says of it contradicts itself.
    #[error("{place}: {what}")]
    Inconsistent {
        /// Where.
        place: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Something is there already.
    #[error("{} exists", target.display())]
    Exists {
        /// What.
        target: PathBuf,
    },
    /// Something else is in the way, and nothing is written through or over it.
    #[error("{}: {what} is in the way", target.display())]
    InTheWay {
        /// Where.
        target: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The target cannot be written.
    #[error("cannot write {}", target.display())]
    Write {
        /// Which file.
        target: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The stream cannot be written.
    #[error("cannot write the archive")]
    Stream(#[source] io::Error),
    /// Stdout does not take the result.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl FilesError {
    /// A path that leads nowhere.
    pub fn path(place: String, source: PathError) -> FilesError {
        FilesError::Path { place, source: Box::new(source) }
    }

    /// A node that cannot be read.
    pub fn node(place: String, source: GuestError) -> FilesError {
        FilesError::Node { place, source: Box::new(source) }
    }

    /// Content that cannot be read beyond its first `good` bytes.
    pub fn content(place: String, good: u64, source: GuestError) -> FilesError {
        FilesError::Content { place, good, source: Box::new(source) }
    }

    /// Whether the work as a whole has to end: the next file would fail as this one did, or nobody wants it.
    pub fn ends_work(&self) -> bool {
        match self {
            FilesError::Stream(_) | FilesError::Stdout(_) | FilesError::Interrupted => true,
            FilesError::Write { source, .. } => {
                use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
                matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            }
            _ => false,
        }
    }
}

fn because(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) }
}
