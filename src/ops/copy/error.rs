//! What can go wrong in a copy. Which side it went wrong on stays apart: what is damaged in the source costs one backup, a
//! destination that fails ends the run.

use crate::repo::RepoError;
use crate::repo::ids::RepoId;
use crate::units::GuestOffset;

/// Why a backup was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The backup, or its repository, cannot be read.
    #[error("cannot read the repository that is copied from")]
    Source(#[source] RepoError),
    /// The repository that it is copied to.
    #[error("cannot write the repository that is copied to")]
    Destination(#[source] RepoError),
    /// The copy that was stored is not the backup.
    #[error("disk {slot}: guest offset {at}: the copy reads back different from the backup")]
    NotVerified {
        /// The disk.
        slot: String,
        /// The segment that differs.
        at: GuestOffset,
    },
    /// The copy of a definition file is not the file.
    #[error("definition file {name}: the copy reads back different from the backup")]
    FileNotVerified {
        /// The file.
        name: String,
    },
    /// Both are one repository.
    #[error("both are the repository {repository}")]
    SameRepository {
        /// Its id.
        repository: RepoId,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl CopyError {
    /// Whether other backups may be copied all the same.
    pub fn is_of_one_backup(&self) -> bool {
        matches!(self, CopyError::Source(_) | CopyError::NotVerified { .. } | CopyError::FileNotVerified { .. })
    }
}

/// What the way in says is the destination's.
impl From<RepoError> for CopyError {
    fn from(error: RepoError) -> CopyError {
        destination(error)
    }
}

pub(super) fn source(error: RepoError) -> CopyError {
    match error {
        RepoError::Interrupted => CopyError::Interrupted,
        error => CopyError::Source(error),
    }
}

pub(super) fn destination(error: RepoError) -> CopyError {
    match error {
        RepoError::Interrupted => CopyError::Interrupted,
        error => CopyError::Destination(error),
    }
}
