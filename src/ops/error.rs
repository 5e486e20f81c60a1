//! What can go wrong in an operation. Errors of the source and errors of the repository stay apart: the first may cost
//! one disk, the second ends the run.

use std::path::PathBuf;

use crate::capture::CaptureError;
use crate::disk::DiskError;
use crate::formats::ImageError;
use crate::machine::MachineError;
use crate::repo::RepoError;
use crate::repo::store::StoreError;
use crate::units::GuestOffset;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// The machine's definition.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// libvirt, asked for a machine.
    #[error("libvirt was asked for {machine} (virsh {verb}): {reason}")]
    Libvirt {
        /// The name it was asked for.
        machine: String,
        /// The command.
        verb: &'static str,
        /// What it said.
        reason: String,
        /// What the system said.
        source: Option<std::io::Error>,
    },
    /// An image: opening or writing it.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The machine's state: it must not be read now.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Reading a disk.
    #[error("cannot read disk {slot}")]
    Disk {
        /// Which disk.
        slot: String,
        /// What its reader said.
        source: DiskError,
    },
    /// A definition file.
    #[error("cannot read {}", file.display())]
    DefinitionFile {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The target of a restore.
    #[error("{}: {reason}", target.display())]
    Target {
        /// Where it was to go.
        target: PathBuf,
        /// Why that is refused.
        reason: String,
    },
    /// Writing something else than a disk.
    #[error("cannot write {}", file.display())]
    Write {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was restored is not what was to be restored.
    #[error("{}: guest offset {at}: reads back different from what was written", target.display())]
    NotVerified {
        /// The restored image.
        target: PathBuf,
        /// The segment that differs.
        at: GuestOffset,
    },
    /// A file of a package is not what its manifest says.
    #[error("{}: {algorithm} digest in the manifest of the package: expected {expected}, found {found}", file.display())]
    WrongDigest {
        /// Which file.
        file: PathBuf,
        /// How the digest is computed.
        algorithm: &'static str,
        /// What the manifest says.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A disk that no repository of this format can hold.
    #[error("disk {slot} has {size} bytes, more than the 128 TiB that a repository can map")]
    TooLarge {
        /// Which disk.
        slot: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<StoreError> for OpsError {
    fn from(error: StoreError) -> OpsError {
        OpsError::Repo(error.into())
    }
}
