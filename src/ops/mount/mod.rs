//! What a mount of a repository shows:
//!
//! ```text
//! web1/                               a machine
//!   latest -> 2026-11-20T02:15:00     its newest backup
//!   2026-11-20T02:15:00/              a backup, by the instant it shows
//!     disks/disk0.raw                 the guest's disks
//!     disks/disk0.vmdk                the same, for whoever wants a VMDK: a descriptor over the raw disk
//!     files/etc/fstab                 the guest's own view of its files
//!     volumes/disk0/p2/               every volume by itself
//!     definition/web1.vmx             the machine's definition files
//! ```
//!
//! In here: names, and how each is opened when somebody looks. Not in here: the kernel (`serve::fuse`), what is in a
//! guest's disk (`guest`).

mod backup;
mod folder;
mod guest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::guest::tree::Time;
use crate::repo::Repository;
use crate::repo::ids::BackupId;
use crate::serve::fuse::shown::{Fault, Folder, Name, NameKind, Shown};
use crate::serve::read_ahead::ReadAhead;
use backup::BackupFolder;
pub use backup::opened_disks;
use guest::OpenGuests;

/// How long the list of backups is believed before the store is asked again.
const LIST_AGE_MAX: Duration = Duration::from_secs(10);
/// Name of the link to a machine's newest backup.
const LATEST: &str = "latest";

/// What all folders of a mount share.
struct Mount {
    repository: Arc<Repository>,
    ahead: ReadAhead,
    /// What is inside the backups that were looked into last.
    guests: OpenGuests,
    /// Only these backups; all of them if it is empty.
    chosen: Vec<BackupId>,
    /// Backups by machine and name; when they were listed.
    listed: Mutex<Option<(Instant, Arc<Machines>)>>,
}

type Machines = BTreeMap<String, BTreeMap<String, BackupId>>;

/// The root of a mount: of all backups; of some; with one backup chosen, that backup's own folder. `threads` read ahead.
pub fn root(repository: &Arc<Repository>, chosen: Vec<BackupId>, threads: usize) -> Arc<dyn Folder> {
    let only = if let [only] = chosen.as_slice() { Some(*only) } else { None };
    let mount = Arc::new(Mount {
        repository: Arc::clone(repository),
        ahead: ReadAhead::start(threads),
        guests: OpenGuests::default(),
        chosen,
        listed: Mutex::default(),
    });
    match only {
        Some(backup) => Arc::new(BackupFolder::new(mount, backup)),
        None => Arc::new(Root(mount)),
    }
}

impl Mount {
    /// The backups to show, listed anew if the last list is old.
    fn machines(&self) -> Result<Arc<Machines>, Fault> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, machines)) = listed.as_ref()
            && when.elapsed() < LIST_AGE_MAX
        {
            return Ok(Arc::clone(machines));
        }
        // One that cannot be read has no name: `list` and `check` say so.
        let mut briefs = self.repository.briefs(&mut |_, _| {})?;
        briefs.retain(|brief| self.chosen.is_empty() || self.chosen.contains(&brief.backup));
        let mut machines = Machines::new();
        for brief in briefs {
            let backups = machines.entry(plain(&brief.machine)).or_default();
            let name = instant_name(brief.instant);
            let name =
                if backups.contains_key(&name) { format!("{name}-{}", &brief.backup.to_string()[..8]) } else { name };
            backups.insert(name, brief.backup);
        }
        let machines = Arc::new(machines);
        *listed = Some((Instant::now(), Arc::clone(&machines)));
        Ok(machines)
    }
}

/// All machines.
struct Root(Arc<Mount>);

impl Folder for Root {
    fn names(&self) -> Result<Vec<Name>, Fault> {
        Ok(self.0.machines()?.keys().map(|name| Name { name: name.clone(), kind: NameKind::Folder }).collect())
    }

    fn child(&self, name: &str) -> Result<Option<Shown>, Fault> {
        let there = self.0.machines()?.contains_key(name);
        let machine = || MachineFolder { mount: Arc::clone(&self.0), machine: name.to_owned() };
        Ok(there.then(|| Shown::Folder(Arc::new(machine()))))
    }

    fn modified(&self) -> Time {
        Time::default()
    }
}

/// The backups of a machine.
struct MachineFolder {
    mount: Arc<Mount>,
    machine: String,
}

impl MachineFolder {
    fn backups(&self) -> Result<BTreeMap<String, BackupId>, Fault> {
        Ok(self.mount.machines()?.get(&self.machine).cloned().unwrap_or_default())
    }
}

impl Folder for MachineFolder {
    fn names(&self) -> Result<Vec<Name>, Fault> {
        let backups = self.backups()?;
        let mut names: Vec<Name> =
            backups.keys().map(|name| Name { name: name.clone(), kind: NameKind::Folder }).collect();
        names.push(Name { name: LATEST.to_owned(), kind: NameKind::Link });
        Ok(names)
    }

    fn child(&self, name: &str) -> Result<Option<Shown>, Fault> {
        let backups = self.backups()?;
        if name == LATEST {
            let newest = backups.keys().next_back();
            let link = |target: &String| Shown::Link { target: target.clone(), modified: self.modified() };
            return Ok(newest.map(link));
        }
        let open = |id: &BackupId| Shown::Folder(Arc::new(BackupFolder::new(Arc::clone(&self.mount), *id)));
        Ok(backups.get(name).map(open))
    }

    fn modified(&self) -> Time {
        Time::default()
    }
}

/// An instant as a folder's name, in this host's time zone; names sort as the instants do but for the hour that a change
/// of clocks repeats.
fn instant_name(instant: Timestamp) -> String {
    instant.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// A machine's name as a folder's: names come from definition files and may hold anything.
fn plain(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    let plain = plain.trim();
    let cut: String = plain.chars().take(60).collect();
    if matches!(cut.as_str(), "" | "." | "..") { format!("_{cut}") } else { cut }
}

/// Each name once, in order.
fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(name.clone())).collect()
}

/// An instant as a file's time.
fn time(instant: Timestamp) -> Time {
    // Instants of backups are after 1970, where both parts count upwards.
    Time { seconds: instant.as_second(), nanoseconds: instant.subsec_nanosecond().unsigned_abs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names_become_one_folder_name() {
        for (name, expected) in
            [("web1", "web1"), ("a/b\n", "a_b_"), ("..", "_.."), ("", "_"), (" x ", "x"), ("/", "_")]
        {
            assert_eq!(plain(name), expected, "{name:?}");
        }
        assert!(plain(&"ä".repeat(300)).len() <= 255);
    }
}
