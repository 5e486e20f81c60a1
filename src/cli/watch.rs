//! What every verb that looks at backups does beside its work: comparing the store with what this host remembers of it, and
//! saying so if the store went back in time or backups vanished. `check` alone makes an error of it, and alone can be told that
//! it is all right; `prune` refuses, as it would take away what vanished backups need if they are found again.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Context, place, text};
use crate::repo::Repository;
use crate::repo::brief::Brief;
use crate::repo::seen::{self, Alarm};

/// How many vanished backups are named on the terminal.
const NAMED_MAX: usize = 20;

/// What to do about an alarm.
pub const HINT: &str = "if nobody restored the store from a copy, somebody removed or put back objects: look who can write there\n\
                        if it is all right so, accept the store as it is: abbild check --accept-store";

/// Looks; gives what is wrong, as lines. A memory that cannot be used is warned of, and is no reason not to go on.
pub fn look(repository: &Repository, briefs: &[Arc<Brief>], context: &Context<'_>) -> Vec<String> {
    let outcome = folder(repository).and_then(|folder| Ok(seen::look(repository, &folder, briefs)?));
    match outcome {
        Ok(looked) => {
            if let Some(why) = looked.memory_lost {
                let loss = "what this host remembered of the repository is damaged and begins anew";
                context.terminal.warn(&format!("{loss}: {why}"));
            }
            lines(&looked.alarm)
        }
        Err(error) => {
            let loss = "whether the store went back in time cannot be told";
            context.terminal.warn(&format!("{loss}: {error:#}"));
            Vec::new()
        }
    }
}

/// Looks, and warns of what is wrong; whether anything is.
pub fn warn(repository: &Repository, briefs: &[Arc<Brief>], context: &Context<'_>) -> bool {
    let lines = look(repository, briefs, context);
    lines.iter().for_each(|line| context.terminal.warn(line));
    if !lines.is_empty() {
        context.terminal.warn("see what is lost, and what to do: abbild check");
    }
    !lines.is_empty()
}

/// The same once the work is done: what goes wrong here is warned of, and takes nothing back.
pub fn warn_afterwards(repository: &Repository, context: &Context<'_>) -> bool {
    match repository.briefs(&mut |_, _| {}) {
        Ok(briefs) => warn(repository, &briefs, context),
        Err(error) => {
            context.terminal.warn(&format!("whether the store went back in time cannot be told: {error}"));
            true
        }
    }
}

/// Remembers the store as it is now, whatever was seen before.
pub fn accept(repository: &Repository, briefs: &[Arc<Brief>]) -> anyhow::Result<()> {
    Ok(seen::accept(repository, &folder(repository)?, briefs)?)
}

/// Where this host's memory of the repository lies.
fn folder(repository: &Repository) -> anyhow::Result<PathBuf> {
    Ok(place::state_folder()?.join(repository.config().repository.to_string()))
}

fn lines(alarm: &Alarm) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some((seen, found)) = alarm.went_back {
        lines.push(format!(
            "the store went back in time: generation {seen} was seen here, and the newest is {found} now"
        ));
    }
    for missing in alarm.vanished.iter().take(NAMED_MAX) {
        let name = format!("{}@{}", missing.known.machine, text::time(missing.known.instant));
        lines.push(format!("backup {name} ({}) has vanished: nobody forgot it", text::short_id(missing.backup)));
    }
    if let Some(more) = alarm.vanished.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        lines.push(format!("and {more} more backups have vanished"));
    }
    for id in alarm.returned.iter().take(NAMED_MAX) {
        lines.push(format!("backup {id} was forgotten and pruned, and is there again: an old object was put back"));
    }
    if let Some(more) = alarm.returned.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        lines.push(format!("and {more} more pruned backups are there again"));
    }
    lines
}
