//! Memory against rollback: what this host saw in a repository, so that it notices when the store went back in time or when
//! backups vanished. Everything in a store is sealed, but whoever holds it can put back an earlier state of it, or take an
//! object away; only a memory outside of the store can tell.
//!
//! What is remembered: the newest generation, the backups (with machine and instant, so that they have names when they are
//! gone), and the backups that were forgotten and pruned. `memory` is the form that lies in a file, `file` the file.
//!
//! What explains that a backup is not there any more: it lies in `removed/`, or a prune said before it deleted it, in a
//! sealed tombstone, that it would. Tombstones are kept for 400 generations; who did not look for longer cannot tell.
//! A generation lower than one that was seen, a backup gone without a trace, and a pruned one that is back, are what nobody
//! does but who changes the store behind everybody's back, or restores it from a copy.
//!
//! A backup is remembered once its writer can no longer withdraw it: it was listed, then its session had ended, then it
//! was listed still. (A writer whose session a prune takes for dead *between* its last look before the manifest and its first
//! look after it withdraws a manifest that others may have seen; a false alarm then is possible, and accepted.)
//!
//! Not in here: what to do about it (`cli`), where the file lies.

pub mod file;
pub mod memory;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::brief::Brief;
use super::error::RepoError;
use super::gc::{forgotten, records};
use super::ids::{BackupId, ObjectId};
use super::{Repository, session};
use file::FileError;
use memory::{Known, Memory};

/// Looks at a store that changes beneath them are repeated so often.
const LOOKS_MAX: usize = 5;

/// What is wrong with the store, compared with what this host remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Alarm {
    /// The newest generation that was seen, and the newest there is now.
    pub went_back: Option<(u64, u64)>,
    /// Backups that are gone without a trace.
    pub vanished: Vec<Missing>,
    /// Backups that were forgotten and pruned, and are there again.
    pub returned: Vec<BackupId>,
}

/// A backup that is gone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// Its id.
    pub backup: BackupId,
    /// What is remembered of it.
    #[serde(flatten)]
    pub known: Known,
}

impl Alarm {
    /// Whether nothing is wrong.
    pub fn is_none(&self) -> bool {
        self.went_back.is_none() && self.vanished.is_empty() && self.returned.is_empty()
    }
}

/// What a look gave.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is wrong with the store.
    pub alarm: Alarm,
    /// Why the memory began anew, if it was there and could not be used.
    pub memory_lost: Option<String>,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum SeenError {
    /// The memory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store cannot be looked at.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

/// What the store shows.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The newest generation whose object is authentic.
    pub generation: u64,
    /// Every backup that is listed.
    pub listed: BTreeSet<BackupId>,
    /// Those that are there for good.
    pub settled: BTreeMap<BackupId, Known>,
    /// Forgotten backups that can be brought back.
    pub removed: HashSet<BackupId>,
    /// Backups that a prune said it would give up.
    pub given_up: HashSet<BackupId>,
}

/// Compares; gives what to remember from now on. What is wrong stays in the memory until it is accepted. Pure.
pub fn judge(memory: &Memory, sight: &Sight) -> (Memory, Alarm) {
    let mut next = memory.clone();
    let mut alarm = Alarm::default();
    if sight.generation < memory.generation {
        alarm.went_back = Some((memory.generation, sight.generation));
    }
    next.generation = memory.generation.max(sight.generation);
    let too_long_ago = sight.generation.saturating_sub(memory.generation) >= records::TOMBSTONES_KEPT;
    for (id, known) in &memory.present {
        if sight.listed.contains(id) || sight.removed.contains(id) {
            continue;
        }
        if sight.given_up.contains(id) || too_long_ago {
            next.present.remove(id);
            next.gone.push(*id);
        } else {
            alarm.vanished.push(Missing { backup: *id, known: known.clone() });
        }
    }
    alarm.returned = memory.gone.iter().copied().filter(|id| sight.listed.contains(id)).collect();
    for (id, known) in sight.settled.iter().filter(|(id, _)| !alarm.returned.contains(id)) {
        next.present.insert(*id, known.clone());
    }
    alarm.vanished.sort_by_key(|vanished| (vanished.known.instant, vanished.backup));
    next.bound();
    (next, alarm)
}

/// Compares the store with what this host remembers of that place in `folder`, and remembers what is new.
///
/// # Errors
/// [`SeenError`]; nothing is remembered then.
pub fn look(repository: &Repository, folder: &Path, briefs: &[Arc<Brief>]) -> Result<Looked, SeenError> {
    let (keys, place) = (repository.keys(), repository.store().place());
    let (before, memory_lost) = file::load(folder, &place, keys)?;
    let sight = see(repository, briefs, &before)?;
    let (next, alarm) = judge(&before, &sight);
    if next != before || memory_lost.is_some() {
        file::merge(folder, &place, keys, &next)?;
    }
    Ok(Looked { alarm, memory_lost })
}

/// Remembers the store as it is, whatever was seen before.
///
/// # Errors
/// [`SeenError`].
pub fn accept(repository: &Repository, folder: &Path, briefs: &[Arc<Brief>]) -> Result<(), SeenError> {
    let nothing = Memory::new(repository.config().repository);
    let (memory, _) = judge(&nothing, &see(repository, briefs, &nothing)?);
    Ok(file::replace(folder, &repository.store().place(), repository.keys(), &memory)?)
}

fn see(repository: &Repository, briefs: &[Arc<Brief>], memory: &Memory) -> Result<Sight, RepoError> {
    let (store, keys) = (repository.store(), repository.keys());
    let unfinished: HashSet<ObjectId> = session::ids(store)?.into_iter().chain(session::expired_ids(store)?).collect();
    let mut sight = Sight { listed: repository.backup_ids()?.into_iter().collect(), ..Sight::default() };
    for brief in briefs.iter().filter(|brief| !unfinished.contains(&brief.session)) {
        if sight.listed.contains(&brief.backup) {
            let known = Known { machine: brief.machine.clone(), instant: brief.instant };
            sight.settled.insert(brief.backup, known);
        }
    }
    // Backups come and go between one look and the next; what is explained once is explained.
    for _ in 0..LOOKS_MAX {
        if memory.present.keys().all(|id| sight.explains(*id)) {
            break;
        }
        sight.removed.extend(forgotten::list(store)?.into_iter().map(|forgotten| forgotten.backup));
        sight.given_up.extend(records::given_up(store, keys)?);
        sight.listed.extend(repository.backup_ids()?);
    }
    sight.generation = session::newest_authentic_generation(store, keys)?;
    Ok(sight)
}

impl Sight {
    fn explains(&self, id: BackupId) -> bool {
        self.listed.contains(&id) || self.removed.contains(&id) || self.given_up.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::RepoId;

    fn id(number: u8) -> BackupId {
        BackupId([number; 16])
    }

    fn known(number: u8) -> Known {
        Known { machine: format!("web{number}"), instant: jiff::Timestamp::from_second(i64::from(number)).unwrap() }
    }

    fn memory(generation: u64, present: &[u8], gone: &[u8]) -> Memory {
        let mut memory = Memory::new(RepoId([7; 16]));
        memory.generation = generation;
        memory.present = present.iter().map(|number| (id(*number), known(*number))).collect();
        memory.gone = gone.iter().map(|number| id(*number)).collect();
        memory
    }

    fn sight(generation: u64, listed: &[u8], removed: &[u8], given_up: &[u8]) -> Sight {
        Sight {
            generation,
            listed: listed.iter().map(|number| id(*number)).collect(),
            settled: listed.iter().map(|number| (id(*number), known(*number))).collect(),
            removed: removed.iter().map(|number| id(*number)).collect(),
            given_up: given_up.iter().map(|number| id(*number)).collect(),
        }
    }

    #[track_caller]
    fn check(before: Memory, sight: &Sight, after: Memory, vanished: &[u8], went_back: bool, returned: &[u8]) {
        let (next, alarm) = judge(&before, sight);
        assert_eq!(next, after);
        let found: Vec<u8> = alarm.vanished.iter().map(|missing| missing.backup.0[0]).collect();
        let back: Vec<u8> = alarm.returned.iter().map(|id| id.0[0]).collect();
        assert_eq!((found.as_slice(), alarm.went_back.is_some(), back.as_slice()), (vanished, went_back, returned));
        assert_eq!(alarm.is_none(), vanished.is_empty() && !went_back && returned.is_empty());
    }

    #[test]
    fn what_explains_a_backup_that_is_not_there() {
        let all = || memory(3, &[1, 2], &[]);
        check(memory(0, &[], &[]), &sight(3, &[1, 2], &[], &[]), all(), &[], false, &[]);
        check(all(), &sight(3, &[1, 2], &[], &[]), all(), &[], false, &[]);
        // Forgotten: it may come back. Pruned: it may not.
        check(all(), &sight(3, &[2], &[1], &[]), all(), &[], false, &[]);
        check(all(), &sight(5, &[2], &[], &[1]), memory(5, &[2], &[1]), &[], false, &[]);
        // A prune explains what it said, and nothing else.
        check(all(), &sight(5, &[], &[], &[1]), memory(5, &[2], &[1]), &[2], false, &[]);
        check(all(), &sight(3, &[2], &[], &[]), all(), &[1], false, &[]);
        check(all(), &sight(3 + records::TOMBSTONES_KEPT, &[2], &[], &[]), memory(403, &[2], &[1]), &[], false, &[]);
        check(all(), &sight(2 + records::TOMBSTONES_KEPT, &[2], &[], &[]), memory(402, &[1, 2], &[]), &[1], false, &[]);
    }

    #[test]
    fn a_store_that_went_back_or_has_what_was_pruned() {
        check(memory(5, &[1], &[]), &sight(4, &[1], &[], &[]), memory(5, &[1], &[]), &[], true, &[]);
        check(memory(5, &[1], &[]), &sight(4, &[], &[], &[]), memory(5, &[1], &[]), &[1], true, &[]);
        check(memory(5, &[1], &[2]), &sight(5, &[1, 2], &[], &[]), memory(5, &[1], &[2]), &[], false, &[2]);
        // An undo that was faster than the prune which had announced it.
        check(memory(5, &[1], &[]), &sight(6, &[1], &[], &[1]), memory(6, &[1], &[]), &[], false, &[]);
    }
}
