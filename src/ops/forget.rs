//! Forgetting backups by rules or by name, and bringing them back. A plan first, that can be shown; then it is carried out.
//!
//! Nothing is deleted here: a forgotten backup's brief is moved, and what it holds stays until a prune.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::OpsError;
use crate::repo::Repository;
use crate::repo::brief::Brief;
use crate::repo::gc::forgotten::{self, Forgotten, Outcome};
use crate::repo::gc::retention::{self, Candidate, NoRule, Policy, Reason, Verdict};
use crate::repo::ids::BackupId;
use crate::repo::manifest::Manifest;
use crate::repo::pins::Pins;
use crate::repo::tag::{self, Tag};

/// What is to become of the backups, oldest first, each with its reasons.
pub struct ForgetPlan<'b> {
    /// Every backup that was looked at.
    pub lines: Vec<(&'b Brief, Verdict)>,
}

impl<'b> ForgetPlan<'b> {
    /// The backups that go.
    pub fn forgotten(&self) -> impl Iterator<Item = &(&'b Brief, Verdict)> {
        self.lines.iter().filter(|(_, verdict)| !verdict.keep)
    }

    /// The backups that are dated in the future, and so were left alone.
    pub fn of_the_future(&self) -> impl Iterator<Item = &'b Brief> {
        let future = self.lines.iter().filter(|(_, verdict)| verdict.reasons.contains(&Reason::Future));
        future.map(|(brief, _)| *brief)
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
    fn about(&self, brief: &Brief) -> bool {
        let by_machine = self.machines.is_empty() || self.machines.contains(&brief.machine);
        by_machine && (self.tags.is_empty() || tag::has_any(&brief.tags, self.tags))
    }
}

/// Decides by rules.
///
/// # Errors
/// [`NoRule`].
pub fn by_rules<'b>(
    policy: &Policy,
    briefs: &'b [Arc<Brief>],
    pins: &Pins,
    asked: Asked<'_>,
    now: Timestamp,
) -> Result<ForgetPlan<'b>, NoRule> {
    let candidates: Vec<Candidate> = briefs
        .iter()
        .map(|brief| Candidate { asked: asked.about(brief), pinned: pins.reason(brief.backup), ..Candidate::of(brief) })
        .collect();
    let verdicts = retention::plan(policy, &candidates, now, &TimeZone::system())?;
    let lines = briefs.iter().map(|brief| &**brief).zip(verdicts);
    // What was not asked about is no news, unless it is dated in the future.
    let asked = lines
        .zip(&candidates)
        .filter(|((_, verdict), candidate)| candidate.asked && !verdict.reasons.contains(&Reason::NotAsked));
    Ok(ForgetPlan { lines: asked.map(|(line, _)| line).collect() })
}

/// The newest backups of their machines among `named`: these are not forgotten by accident. A backup dated in the future
/// is nobody's newest.
pub fn newest_among<'b>(briefs: &'b [Arc<Brief>], named: &HashSet<BackupId>, now: Timestamp) -> Vec<&'b Brief> {
    let machine = |brief: &Brief| (brief.identity.clone(), brief.machine.clone());
    let mut newest = std::collections::BTreeMap::new();
    for brief in briefs.iter().filter(|brief| brief.instant <= now) {
        newest.insert(machine(brief), &**brief); // oldest first: the last one stays
    }
    newest.into_values().filter(|brief| named.contains(&brief.backup)).collect()
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
