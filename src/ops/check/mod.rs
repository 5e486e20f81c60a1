//! Check: is every backup still whole? And repair: what can be made whole again, without ever deleting anything.
//!
//! Looks at all metadata always, at the data of packs if asked. Nothing is believed because the index says so: each pack's
//! own directory is read from the store and compared. Without a repair the store is not changed; what is wrong is reported
//! with what it hits. This host's cache remembers packs that were found damaged (no later backup relies on them, so what
//! they held is stored again when it is seen) and when each pack was read whole last.
//!
//! - [`selection`] which packs are read · `metadata` small objects · `packs` packs, and what is left of damaged ones
//! - `walk` the backups' maps: which ranges are lost · `blame` which files of the guest lie there
//! - `repair` the order of a repair · `heal` what a second repository gives back

mod blame;
mod heal;
mod metadata;
mod packs;
mod repair;
mod report;
pub mod selection;
mod walk;

use std::collections::HashSet;
use std::sync::Arc;

use super::OpsError;
use super::event::{Control, Event};
use crate::repo::ids::BackupId;
use crate::repo::salvage::Remains;
use crate::repo::{Repository, quarantine};
use packs::Packs;
pub use report::{BackupLoss, CheckReport, DiskLoss, Fault, GuestLoss, Repaired, Verified};
pub use selection::{Part, ReadData, Share};
use walk::Walk;

/// Rounds in which a walk may find packs damaged that were sound until then: each round reads what the last could not.
const ROUNDS_MAX: usize = 16;

/// What is done about what is wrong.
#[derive(Clone, Copy, Default)]
pub enum Repair<'a> {
    /// Nothing: it is only said what would be done.
    #[default]
    Nothing,
    /// Everything that this repository can do by itself, and with what a second one has.
    All {
        /// A second repository to take from what is lost.
        from: Option<&'a Arc<Repository>>,
    },
}

/// Checks a repository.
///
/// # Errors
/// [`OpsError`] if the check itself cannot go on; what is wrong with the repository is in the report.
pub fn check(repository: &Arc<Repository>, read_data: ReadData, control: Control<'_>) -> Result<CheckReport, OpsError> {
    check_and_repair(repository, read_data, Repair::Nothing, control)
}

/// Checks a repository, and repairs what can be repaired.
///
/// # Errors
/// [`OpsError`] if it cannot go on. A repair that ended early has lost nothing; the next one goes on from there.
pub fn check_and_repair(
    repository: &Arc<Repository>,
    read_data: ReadData,
    repair: Repair<'_>,
    control: Control<'_>,
) -> Result<CheckReport, OpsError> {
    let mut report = CheckReport::default();
    control.tell(Event::Step("checking keys, sessions and index segments"));
    let mut findings = metadata::small_objects(repository, read_data, &mut report)?;
    // The backups are listed before the packs: whatever one of these needs was there before it.
    let ids = repository.backup_ids()?;
    let mut packs = packs::check(repository, read_data, control, &mut findings, &mut report)?;

    control.tell(Event::Step("checking the backups' maps"));
    let damaged = loop_walk(repository, &ids, &mut packs, control, &mut findings, &mut report)?;
    let outcome = match repair {
        Repair::Nothing => damaged,
        Repair::All { from } => {
            repair::repair(repository, from, &mut packs, damaged, findings.as_mut(), control, &mut report)?
        }
    };
    report.faults = findings.into_iter().map(|finding| finding.fault).collect();
    control.tell(Event::Step("looking which files of the guests are hit"));
    blame::losses(repository, &packs.remains, &outcome, control, &mut report)?;
    packs::say_what_was_verified(repository, &mut report)?;
    notes_on_quarantine(repository, &mut report)?;
    Ok(report)
}

/// The backups that are not whole: their manifests cannot be read, or something that they need is missing.
#[derive(Default)]
struct Damaged {
    /// What they miss; their ids, oldest first.
    backups: Vec<BackupId>,
    /// Those whose manifest cannot be read.
    unreadable: Vec<BackupId>,
}

/// Walks all backups; packs that turn out to be damaged on the way are looked into, and the walk is done again.
fn loop_walk(
    repository: &Arc<Repository>,
    ids: &[BackupId],
    packs: &mut Packs,
    control: Control<'_>,
    findings: &mut Vec<metadata::Finding>,
    report: &mut CheckReport,
) -> Result<Damaged, OpsError> {
    for round in 0.. {
        let mut walk = Walk::new(repository, &packs.remains);
        let mut damaged = Damaged::default();
        let mut unreadable = Vec::new();
        report.backups = 0;
        for id in ids {
            if control.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let manifest = match crate::repo::salvage::twice(|| repository.manifest(*id)) {
                Ok(manifest) => manifest,
                Err(error) if metadata::is_gone(&error) => continue, // forgotten since it was listed
                Err(error) if crate::repo::salvage::is_of_object(repository, &error) => {
                    report.backups += 1;
                    damaged.unreadable.push(*id);
                    unreadable.push(metadata::manifest_finding(*id, &error));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            report.backups += 1;
            if walk.backup(&manifest, control)?.is_damaged() {
                damaged.backups.push(*id);
            }
        }
        report.chunks_referred = walk.chunks();
        let newly_bad: HashSet<_> = walk.take_newly_bad();
        if newly_bad.is_empty() || round == ROUNDS_MAX {
            findings.extend(unreadable);
            return Ok(damaged);
        }
        packs.found_damaged(repository, newly_bad, control, findings)?;
    }
    unreachable!("the loop returns")
}

fn notes_on_quarantine(repository: &Repository, report: &mut CheckReport) -> Result<(), OpsError> {
    let objects = quarantine::list(repository.store())?;
    if !objects.is_empty() {
        let bytes: u64 = objects.iter().map(|object| object.len).sum();
        report.quarantine = Some((objects.len(), bytes));
    }
    Ok(())
}

/// Finds what is left of a pack in `remains`.
fn remains_of(remains: &[Remains], id: crate::repo::ids::PackId) -> Option<&Remains> {
    remains.iter().find(|remains| remains.id == id)
}
