//! Forgetting backups by rules or by name, and bringing them back. A plan first, that can be shown; then it is carried out.
//!
//! Nothing is deleted here: a forgotten backup's manifest is moved, and what it holds stays until a prune.

use std::collections::HashSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::OpsError;
use crate::repo::Repository;
use crate::repo::gc::forgotten::{self, Forgotten, Outcome};
use crate::repo::gc::retention::{self, Candidate, NoRule, Policy, Reason, Verdict};
use crate::repo::ids::BackupId;
use crate::repo::manifest::Manifest;
use crate::repo::pins::Pins;
use crate::repo::tag::{self, Tag};

/// What is to become of the backups, oldest first, each with its reasons.
pub struct ForgetPlan<'m> {
    /// Every backup that was looked at.
    pub lines: Vec<(&'m Manifest, Verdict)>,
}

impl<'m> ForgetPlan<'m> {
    /// The backups that go.
    pub fn forgotten(&self) -> impl Iterator<Item = &(&'m Manifest, Verdict)> {
        self.lines.iter().filter(|(_, verdict)| !verdict.keep)
    }

    /// The backups that are dated in the future, and so were left alone.
    pub fn of_the_future(&self) -> impl Iterator<Item = &'m Manifest> {
        let future = self.lines.iter().filter(|(_, verdict)| verdict.reasons.contains(&Reason::Future));
        future.map(|(manifest, _)| *manifest)
    }
}

/// Which backups rules are asked about. What is empty restricts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Those of machines with one of these names.
    pub machines: &'a [String],
    /// Those with one of these tags.
    pub tags: &'a [Tag],
}

impl Asked<'_> {
    fn about(&self, manifest: &Manifest) -> bool {
        let by_machine = self.machines.is_empty() || self.machines.contains(&manifest.machine);
        by_machine && (self.tags.is_empty() || tag::has_any(&manifest.tags, self.tags))
    }
}

/// Decides by rules.
///
/// # Errors
/// [`NoRule`].
pub fn by_rules<'m>(
    policy: &Policy,
    manifests: &'m [Manifest],
    pins: &Pins,
    asked: Asked<'_>,
    now: Timestamp,
) -> Result<ForgetPlan<'m>, NoRule> {
    let candidates: Vec<Candidate> = manifests
        .iter()
        .map(|manifest| Candidate {
            asked: asked.about(manifest),
            pinned: pins.reason(manifest.backup),
            ..Candidate::of(manifest)
        })
        .collect();
    let verdicts = retention::plan(policy, &candidates, now, &TimeZone::system())?;
    let lines = manifests.iter().zip(verdicts);
    // What was not asked about is no news, unless it is dated in the future.
    let asked = lines
        .zip(&candidates)
        .filter(|((_, verdict), candidate)| candidate.asked && !verdict.reasons.contains(&Reason::NotAsked));
    Ok(ForgetPlan { lines: asked.map(|(line, _)| line).collect() })
}

/// The newest backups of their machines among `named`: these are not forgotten by accident. A backup dated in the future
/// is nobody's newest.
pub fn newest_among<'m>(manifests: &'m [Manifest], named: &HashSet<BackupId>, now: Timestamp) -> Vec<&'m Manifest> {
    let machine = |manifest: &Manifest| (manifest.identity.clone(), manifest.machine.clone());
    let mut newest = std::collections::BTreeMap::new();
    for manifest in manifests.iter().filter(|manifest| manifest.instant <= now) {
        newest.insert(machine(manifest), manifest); // oldest first: the last one stays
    }
    newest.into_values().filter(|manifest| named.contains(&manifest.backup)).collect()
}

/// Forgets these backups, each durably; calls `done` after each. One that is gone already is none of the forgotten, and
/// one that has been pinned is spared: those are given back.
///
/// # Errors
/// What the store says; those told to `done` are forgotten.
pub fn carry_out(
    repository: &Repository,
    backups: impl IntoIterator<Item = BackupId>,
    done: &mut dyn FnMut(&Forgotten),
) -> Result<Vec<BackupId>, OpsError> {
    let mut spared = Vec::new();
    for backup in backups {
        match forgotten::forget_unless_pinned(repository, backup)? {
            Outcome::Forgotten(forgotten) => done(&forgotten),
            Outcome::Pinned => spared.push(backup),
            Outcome::Gone => {}
        }
    }
    Ok(spared)
}

/// Brings a forgotten backup back. Before it is among the backups again, everything it needs is proven to be there, and
/// moved back into use where a prune had taken it away.
///
/// # Errors
/// [`RepoError::MissingChunk`], [`RepoError::ChunksVanished`] if a prune has deleted some of it; what the store says.
pub fn undo(
    repository: &Repository,
    forgotten: &Forgotten,
    manifest: &Manifest,
    control: super::Control<'_>,
) -> Result<(), OpsError> {
    if control.interrupted() {
        return Err(OpsError::Interrupted);
    }
    control.tell(super::Event::Step("looking whether all of it is there"));
    Ok(forgotten::undo(repository, forgotten, manifest)?)
}
