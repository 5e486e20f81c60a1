//! What files are in, opened: a backup of the repository, or the current state of an image, device or machine's folder.

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::guest::machine::GuestMachine;
use crate::ops::backup::{self, BackupOptions, CurrentDisks};
use crate::ops::mount::opened_disks;
use crate::ops::{OpsError, worker_count};
use crate::repo::Repository;
use crate::repo::manifest::Manifest;
use crate::serve::read_ahead::ReadAhead;

/// A guest's disks, open for looking into.
pub struct Source {
    /// What messages call it: as it was typed.
    pub name: String,
    /// What is on its disks.
    pub guest: GuestMachine,
    /// What is odd about it: it is in use, its image is odd.
    pub warnings: Vec<String>,
    /// Works for as long as anybody reads.
    _ahead: Option<ReadAhead>,
}

impl Source {
    /// A backup, called `name`.
    ///
    /// # Errors
    /// [`OpsError::Repo`] if a disk's map is damaged.
    pub fn of_backup(name: &str, repository: &Arc<Repository>, manifest: &Manifest) -> Result<Source, OpsError> {
        let ahead = ReadAhead::start(worker_count());
        let disks: Vec<Arc<dyn Disk>> =
            opened_disks(repository, manifest)?.into_iter().map(|disk| ahead.over(disk)).collect();
        Ok(Source {
            name: name.to_owned(),
            guest: GuestMachine::new(&disks),
            warnings: Vec::new(),
            _ahead: Some(ahead),
        })
    }

    /// An image file, block device or machine's folder as it is now. If somebody is writing to it that is a warning: what
    /// is read then may be of several moments.
    ///
    /// # Errors
    /// [`OpsError`] naming the file.
    pub fn of_file(name: &str, path: &Path, options: &BackupOptions) -> Result<Source, OpsError> {
        let machine = crate::ops::machines::read(path)?;
        let CurrentDisks { disks, in_use } = backup::current_disks(&machine, options)?;
        let mut warnings = machine.warnings.clone();
        if let Some(why) = in_use {
            warnings.push(format!("{name} is in use ({why}): what is read may be damaged or of several moments"));
        }
        Ok(Source { name: name.to_owned(), guest: GuestMachine::new(&disks), warnings, _ahead: None })
    }
}
