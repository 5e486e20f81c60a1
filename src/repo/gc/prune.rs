//! Giving back the space that nothing needs, beside any number of writers and other prunes on other hosts.
//!
//! A prune works in rounds. Each takes a generation of its own, and looks at the store *in this order*, which is what makes
//! it safe (docs/FORMAT.md, "Deleting", has the proof): trash and closings, packs in use, sessions, manifests until two
//! listings agree, forgotten manifests. Then
//!
//! 1. what settled closings name, and nothing needs, is deleted: forgotten manifests first, then packs of the trash;
//! 2. packs that nothing needs, and those of which the needed part was written anew, are moved to the trash, after
//!    tombstones for them are durable and this host's index has dropped them, durably, too;
//! 3. a closing says what lies in the trash and who is at work now.
//!
//! If nobody is, the next round may delete at once what this one moved; else a later prune does. Killed anywhere, the next
//! prune goes on: all it needs to know is in the store.
//!
//! Not in here: what is needed (`mark`), what is worth it (`plan`), how packs are written anew (`repack`).

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::forgotten;
use super::mark::{Marks, Trashed};
use super::plan::{PackUse, Plan, Unneeded, plan};
use super::records::{self, Closing, Tombstones};
use super::repack::{Repacked, repack};
use super::report::{Amount, PruneReport};
use super::walk::Needs;
use super::{reserve, segments, trash};
use crate::repo::error::RepoError;
use crate::repo::ids::{BackupId, ObjectId, PackId};
use crate::repo::pack::Directory;
use crate::repo::session::{self, OpenSession};
use crate::repo::store::{self, Cleaned, ObjectName, StoreError};
use crate::repo::{Repository, listed_packs, parity, pins, settle_packs};

/// Rounds of one prune: one to move, one to delete; more if space had to be made first.
const ROUNDS_MAX: u32 = 4;
/// Unfinished objects of runs that may live are taken away after so long untouched; of dead ones after an hour.
const UNFINISHED_FOR: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);
const UNFINISHED_DEAD_FOR: std::time::Duration = std::time::Duration::from_secs(3600);

/// What a prune is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct PruneOptions {
    /// How much of the packs that stay may be waste, in percent.
    pub max_unused_percent: f64,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What this host takes for now: decides which sessions are taken for dead, and nothing else.
    pub now: Timestamp,
}

/// How a prune is followed and stopped.
pub struct Follow<'a> {
    /// A step begins.
    pub step: &'a dyn Fn(&str),
    /// Packs to be written anew, in bytes.
    pub repacking: &'a dyn Fn(u64),
    /// So many of these are done.
    pub repacked: &'a dyn Fn(u64),
    /// Whether to stop. What was begun is gone on with by the next prune.
    pub stop: &'a dyn Fn() -> bool,
}

/// Prunes.
///
/// # Errors
/// [`RepoError`]; what was done until then is safe, and the next prune goes on from there.
pub fn prune(repository: &Repository, options: &PruneOptions, follow: &Follow<'_>) -> Result<PruneReport, RepoError> {
    let report = PruneReport { dry_run: options.dry_run, ..PruneReport::default() };
    if options.dry_run {
        let marks = Marks::new(repository, Trashed::Leave);
        let mut run = Run {
            repository,
            options,
            follow,
            session: None,
            marks,
            walked: HashSet::new(),
            report,
            repack_later: false,
        };
        run.look_only()?;
        return Ok(run.report);
    }
    // Room for what follows, on a full medium too.
    reserve::give_up(repository.store())?;
    let session = OpenSession::begin(repository.store(), repository.keys(), "prune")?;
    let marks = Marks::new(repository, Trashed::Revive);
    let session = Some(session);
    let mut run =
        Run { repository, options, follow, session, marks, walked: HashSet::new(), report, repack_later: false };
    for _ in 0..ROUNDS_MAX {
        if !run.round()? {
            break;
        }
    }
    run.tidy_up()?;
    run.report.revived = run.marks.revived();
    let Run { session, mut report, .. } = run;
    if let Some(Err(error)) = session.map(OpenSession::end) {
        report.warnings.push(format!("the session object could not be removed: {error}"));
    }
    Ok(report)
}

struct Run<'r, 'a> {
    repository: &'r Repository,
    options: &'a PruneOptions,
    follow: &'a Follow<'a>,
    /// None for a dry run.
    session: Option<OpenSession<'r>>,
    marks: Marks<'r>,
    /// Backups whose needs are in `marks`.
    walked: HashSet<BackupId>,
    report: PruneReport,
    /// There was no room to write packs anew.
    repack_later: bool,
}

/// What settled closings name.
#[derive(Default)]
struct Settled {
    trash: HashSet<(u64, PackId)>,
    removed: HashSet<String>,
    orphans: HashSet<PackId>,
}

impl Settled {
    /// The pinned backups are given up by nobody, should one have been forgotten.
    fn of(closings: &[(ObjectName, Closing)], alive: &HashSet<ObjectId>, pinned: &[BackupId]) -> Settled {
        let mut settled = Settled::default();
        for (_, closing) in closings.iter().filter(|(_, closing)| closing.is_settled(alive)) {
            settled.trash.extend(closing.trash.iter().copied());
            settled.removed.extend(closing.removed.iter().cloned());
            settled.orphans.extend(closing.orphans.iter().copied());
        }
        let pinned: HashSet<String> = pinned.iter().map(ToString::to_string).collect();
        settled.removed.retain(|name| !name.split_once('.').is_some_and(|(backup, _)| pinned.contains(backup)));
        settled
    }
}

impl<'r> Run<'r, '_> {
    fn check_stop(&self) -> Result<(), RepoError> {
        if (self.follow.stop)() { Err(RepoError::Interrupted) } else { Ok(()) }
    }

    /// One round; whether another one may free more at once.
    fn round(&mut self) -> Result<bool, RepoError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        (self.follow.step)("looking at the repository");
        let generation = session::take_next_generation(store, keys)?;
        // In this order: see the head of this file.
        let trashed = trash::list(store)?;
        let closings = records::closings(store, keys)?;
        self.list_packs()?;
        let alive = self.others_at_work()?;
        let settled = Settled::of(&closings, &alive, &pins::ids(store)?);
        self.mark(&settled)?;
        // What backups that can be seen to be forgotten needed is about to go, and other copies of what these packs hold.
        forgotten::settle(store)?;
        settle_packs(store, self.marks.live_packs())?;
        self.check_held()?;

        let deleted = self.delete(generation, &trashed, &settled)?;
        let wanted = self.plan(&alive, &settled)?;
        let repacked = self.repack(&wanted)?;
        self.check_held()?;
        let moving: Vec<PackId> = wanted.unneeded.iter().chain(&repacked.old).map(|pack| pack.id).collect();
        self.move_to_trash(generation, &moving, &repacked.new)?;
        let for_waste: HashSet<PackId> = wanted.repack.iter().map(|pack| pack.id).collect();
        let (repacked_ones, merged): (Vec<_>, Vec<_>) =
            repacked.old.iter().partition(|pack| for_waste.contains(&pack.id));
        self.report.unneeded += Amount::of(&wanted.unneeded);
        self.report.repacked += Amount::of(repacked_ones);
        self.report.merged += Amount::of(merged);
        self.report.written += Amount { objects: repacked.new.len() as u64, bytes: repacked.written };
        self.report.left = Amount::of(&wanted.left);
        self.report.unused_bytes = wanted.unused_bytes;
        match segments::rewrite(self.repository, segments::Old::Remove) {
            Err(error) if error.is_out_of_space() => {} // an aid only; a prune with more room does it
            outcome => drop(outcome?),
        }

        let orphans = wanted.left.iter().map(|pack| pack.id).collect();
        let closing = self.close(generation, orphans)?;
        self.clean_closings(&closings, &closing)?;
        let progress = deleted > 0 || !moving.is_empty();
        let is_settled = closing.sessions.is_empty() && !(closing.trash.is_empty() && closing.removed.is_empty());
        Ok(is_settled || (self.repack_later && progress))
    }

    /// Brings the index up to date with the packs in use. What was marked in packs that are not any more is marked anew.
    fn list_packs(&mut self) -> Result<(), RepoError> {
        let synced = self.repository.sync_index(&mut |_| {})?;
        for (object, error) in &synced.damaged {
            self.warn(format!("{object} is damaged and left alone: {error}"));
        }
        let indexed: HashSet<PackId> = self.repository.index().pack_ids()?.into_iter().map(|(id, _)| id).collect();
        if self.marks.live_packs().any(|pack| !indexed.contains(&pack)) {
            self.marks = Marks::new(self.repository, Trashed::Revive);
            self.walked.clear();
        }
        if self.report.packs == Amount::default() {
            listed_packs(self.repository.store())?.values().for_each(|len| self.report.packs.add(*len));
        }
        Ok(())
    }

    /// The sessions of others that live.
    fn others_at_work(&mut self) -> Result<HashSet<ObjectId>, RepoError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let expired = &mut self.report.expired;
        let own = self.session.as_ref().map(OpenSession::id);
        session::expire(store, keys, self.options.now, own, &mut |session| {
            expired.push(format!("{} (process {}, begun {})", session.host, session.process, session.started));
        })
    }

    /// Marks what backups need, until a listing brings nothing new, and then what forgotten ones need that are not given up.
    fn mark(&mut self, settled: &Settled) -> Result<(), RepoError> {
        (self.follow.step)("looking at what the backups need");
        self.marks.forget_held();
        loop {
            let before = self.mark_backups()?;
            let removed = forgotten::list(self.repository.store())?;
            // A backup brought back between the two listings would be in neither.
            if self.repository.backup_ids()?.iter().any(|id| !before.contains(id)) {
                continue;
            }
            for forgotten in removed.iter().filter(|f| !settled.removed.contains(f.name.last_part())) {
                self.check_stop()?;
                match forgotten::load(self.repository, forgotten) {
                    Ok(manifest) => self.marks.held(&Needs::of(&manifest))?,
                    Err(RepoError::Store(error @ StoreError::Io { .. })) => return Err(error.into()),
                    Err(_) => {} // damaged, or brought back, or given up by another prune: it holds nothing
                }
            }
            break;
        }
        let (count, needed_by) = self.marks.missing();
        if count > 0 {
            let needed_by = needed_by.unwrap_or_default().to_owned();
            self.report.missing_chunks = count;
            self.warn(format!("{count} chunks of data are in no pack; {needed_by} needs one of them"));
        }
        Ok(())
    }

    fn mark_backups(&mut self) -> Result<HashSet<BackupId>, RepoError> {
        loop {
            let ids: HashSet<BackupId> = self.repository.backup_ids()?.into_iter().collect();
            let mut new: Vec<BackupId> = ids.difference(&self.walked).copied().collect();
            if new.is_empty() {
                self.report.backups = ids.len();
                return Ok(ids);
            }
            new.sort();
            for id in new {
                self.check_stop()?;
                match self.repository.manifest(id) {
                    Ok(manifest) => {
                        self.marks.live(&Needs::of(&manifest))?;
                        self.walked.insert(id);
                    }
                    Err(RepoError::Store(StoreError::NotFound { .. })) => {} // forgotten since it was listed
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// A prune that was taken for dead stops: others may have gone on without it.
    fn check_held(&self) -> Result<(), RepoError> {
        self.session.as_ref().map_or(Ok(()), OpenSession::check)
    }

    /// Deletes what settled closings name and nothing needs; gives how many packs.
    fn delete(&mut self, generation: u64, trashed: &[trash::Trashed], settled: &Settled) -> Result<usize, RepoError> {
        let store = self.repository.store();
        let removed = forgotten::list(store)?;
        let given_up: Vec<_> = removed.iter().filter(|f| settled.removed.contains(f.name.last_part())).collect();
        let going: Vec<&trash::Trashed> = trashed
            .iter()
            .filter(|trashed| {
                settled.trash.contains(&(trashed.generation, trashed.id)) && !self.marks.is_held(trashed.id)
            })
            .collect();
        if given_up.is_empty() && going.is_empty() {
            return Ok(0);
        }
        (self.follow.step)("deleting what nothing needs");
        if !given_up.is_empty() {
            let backups = given_up.iter().map(|forgotten| forgotten.backup).collect();
            records::put_given_up(store, self.repository.keys(), generation, backups)?;
        }
        // Manifests before packs: none is ever there to be brought back whose packs are not.
        for forgotten in given_up {
            self.check_stop()?;
            match store.remove(&forgotten.name) {
                Ok(()) => self.report.forgotten += 1,
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut deleted = 0;
        for trashed in going {
            self.check_stop()?;
            // While something is missing, what cannot be read might be just that.
            let is_suspect = || -> Result<bool, RepoError> {
                Ok(self.marks.missing().0 > 0 && trash::open(store, self.repository.keys(), trashed)?.is_none())
            };
            if is_suspect()? {
                continue;
            }
            match store.remove(&trashed.name) {
                Ok(()) => {
                    deleted += 1;
                    self.report.deleted.add(trashed.len);
                }
                Err(StoreError::NotFound { .. }) => {} // moved back into use by who needs it
                Err(error) => return Err(error.into()),
            }
        }
        Ok(deleted)
    }

    fn plan(&mut self, alive: &HashSet<ObjectId>, settled: &Settled) -> Result<Plan, RepoError> {
        let mut uses = Vec::new();
        let marks = &self.marks;
        self.repository.index().each_pack(|pack| {
            let Ok(directory) = Directory::decode(&pack.directory, pack.len) else { return Ok(()) };
            let (mut plain, mut live) = (0u64, 0u64);
            for (position, (_, place)) in directory.chunks().iter().enumerate() {
                plain += u64::from(place.len);
                live += if marks.is_live(pack.id, position) { u64::from(place.len) } else { 0 };
            }
            let given = alive.is_empty() || marks.is_held(pack.id) || settled.orphans.contains(&pack.id);
            let unneeded = if given { Unneeded::Given } else { Unneeded::PerhapsNew };
            uses.push(PackUse { id: pack.id, kind: pack.kind, len: pack.len, plain, live, unneeded });
            Ok(())
        })?;
        Ok(plan(uses, self.options.max_unused_percent))
    }

    fn repack(&mut self, wanted: &Plan) -> Result<Repacked, RepoError> {
        let mut packs = wanted.repack.clone();
        if !self.repack_later {
            packs.extend_from_slice(&wanted.merge); // frees nothing: not while there is no room
        }
        if packs.is_empty() {
            self.repack_later = false;
            return Ok(Repacked::default());
        }
        (self.follow.step)("writing packs anew");
        (self.follow.repacking)(Amount::of(&packs).bytes);
        let follow = self.follow;
        let mut done = |bytes: u64| {
            (follow.repacked)(bytes);
            if (follow.stop)() { Err(RepoError::Interrupted) } else { Ok(()) }
        };
        match repack(self.repository, &mut self.marks, &packs, &mut done) {
            Ok(repacked) => {
                self.repack_later = false;
                for (pack, error) in &repacked.unreadable {
                    self.warn(format!("pack {pack} cannot be written anew and stays as it is: {error}"));
                }
                let rotten: Vec<PackId> = repacked.unreadable.iter().map(|(pack, _)| *pack).collect();
                self.repository.note_rotten(&rotten)?;
                Ok(repacked)
            }
            // First what can go without writing anything; then there is room.
            Err(error) if error.is_out_of_space() && !self.repack_later => {
                self.repack_later = true;
                Ok(Repacked::default())
            }
            Err(error) if error.is_out_of_space() => {
                self.repack_later = false;
                self.warn(format!("there is no room to write packs anew: {error}"));
                Ok(Repacked::default())
            }
            Err(error) => Err(error),
        }
    }

    fn move_to_trash(&mut self, generation: u64, moving: &[PackId], new: &[PackId]) -> Result<(), RepoError> {
        if moving.is_empty() {
            return Ok(());
        }
        (self.follow.step)("taking packs out of use");
        let (store, index) = (self.repository.store(), self.repository.index());
        let tombstones = Tombstones { generation, packs: moving.to_vec(), backups: Vec::new() };
        records::put_tombstones(store, self.repository.keys(), &tombstones)?;
        index.drop_packs(moving)?;
        index.note_again(new)?;
        self.repository.forget_rows();
        for pack in moving {
            self.check_stop()?;
            trash::put(store, generation, *pack)?;
        }
        Ok(())
    }

    /// Says what lies in the trash and who is at work, in this order.
    fn close(&mut self, generation: u64, orphans: Vec<PackId>) -> Result<Closing, RepoError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let trashed = trash::list(store)?;
        let removed = forgotten::list(store)?;
        let mut sessions = session::ids(store)?;
        if let Some(session) = &self.session {
            sessions.remove(&session.id());
        }
        self.report.waiting = Amount::default();
        trashed.iter().for_each(|trashed| self.report.waiting.add(trashed.len));
        self.report.at_work = self.names_of(&sessions);
        let closing = Closing {
            generation,
            trash: trashed.iter().map(|trashed| (trashed.generation, trashed.id)).collect(),
            removed: removed.iter().map(|forgotten| forgotten.name.last_part().to_owned()).collect(),
            orphans,
            sessions: sessions.into_iter().collect(),
        };
        if !(closing.trash.is_empty() && closing.removed.is_empty() && closing.orphans.is_empty()) {
            records::put_closing(store, keys, &closing)?;
        }
        Ok(closing)
    }

    fn names_of(&self, sessions: &HashSet<ObjectId>) -> Vec<String> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let mut names: Vec<String> = sessions
            .iter()
            .map(|id| match session::load_session(store, keys, &session::session_name(*id)) {
                Ok(session) => {
                    format!(
                        "{} on {} (process {}, since {})",
                        session.work, session.host, session.process, session.started
                    )
                }
                Err(_) => format!("session {id}"),
            })
            .collect();
        names.sort();
        names
    }

    /// Removes closings that name nothing any more, or nothing that the newest does not name.
    fn clean_closings(&self, closings: &[(ObjectName, Closing)], newest: &Closing) -> Result<(), RepoError> {
        let trash: HashSet<&(u64, PackId)> = newest.trash.iter().collect();
        let removed: HashSet<&String> = newest.removed.iter().collect();
        let orphans: HashSet<&PackId> = newest.orphans.iter().collect();
        for (name, closing) in closings {
            let is_of_use = closing.trash.iter().any(|place| trash.contains(place))
                || closing.removed.iter().any(|name| removed.contains(name))
                || closing.orphans.iter().any(|pack| orphans.contains(pack));
            if !is_of_use {
                remove_if_there(self.repository, name)?;
            }
        }
        Ok(())
    }

    /// What is left by dead runs, and what only old prunes needed.
    fn tidy_up(&mut self) -> Result<(), RepoError> {
        let store = self.repository.store();
        session::clean_expired(store)?;
        session::clean_generations(store)?;
        let newest = session::newest_generation(store)?;
        for name in store::names(store, records::TOMBSTONES)? {
            if records::generation_of(&name).is_some_and(|number| number + records::TOMBSTONES_KEPT < newest) {
                remove_if_there(self.repository, &name)?;
            }
        }
        let age = if self.report.at_work.is_empty() { UNFINISHED_DEAD_FOR } else { UNFINISHED_FOR };
        let Cleaned { objects, bytes } = store.clean_temporaries(age)?;
        self.report.unfinished = Amount { objects, bytes };
        let (objects, bytes) = parity::remove_orphans(store)?;
        self.report.recovery_records = Amount { objects, bytes };
        if let Err(error) = reserve::make(store) {
            self.warn(format!("no space could be reserved for the next prune: {error}"));
        }
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        if !self.report.warnings.contains(&warning) {
            self.report.warnings.push(warning);
        }
    }

    /// A dry run: the same looks and plans, and nothing written but this host's cache.
    fn look_only(&mut self) -> Result<(), RepoError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        (self.follow.step)("looking at the repository");
        let trashed = trash::list(store)?;
        let closings = records::closings(store, keys)?;
        let synced = self.repository.sync_index(&mut |_| {})?;
        synced.damaged.iter().for_each(|(object, error)| self.warn(format!("{object} is damaged: {error}")));
        listed_packs(store)?.values().for_each(|len| self.report.packs.add(*len));
        let mut alive = HashSet::new();
        let mut dead = BTreeMap::new();
        for id in session::ids(store)? {
            match session::load_session(store, keys, &session::session_name(id)) {
                Ok(session) if session.is_dead(store, keys, self.options.now)? => drop(dead.insert(id, session)),
                Err(RepoError::Store(StoreError::NotFound { .. })) => {}
                _ => drop(alive.insert(id)),
            }
        }
        let settled = Settled::of(&closings, &alive, &pins::ids(store)?);
        self.mark(&settled)?;
        let wanted = self.plan(&alive, &settled)?;
        self.report.unneeded = Amount::of(&wanted.unneeded);
        self.report.repacked = Amount::of(&wanted.repack);
        self.report.merged = Amount::of(&wanted.merge);
        let live = |pack: &PackUse| u128::from(pack.len) * u128::from(pack.live) / u128::from(pack.plain.max(1));
        let written: u128 = wanted.repack.iter().chain(&wanted.merge).map(live).sum();
        self.report.written.bytes = u64::try_from(written).unwrap_or(u64::MAX);
        self.report.left = Amount::of(&wanted.left);
        self.report.unused_bytes = wanted.unused_bytes;
        for trashed in trashed {
            let is_settled = alive.is_empty() || settled.trash.contains(&(trashed.generation, trashed.id));
            if self.marks.is_held(trashed.id) || !is_settled {
                self.report.waiting.add(trashed.len);
            } else {
                self.report.deleted.add(trashed.len);
            }
        }
        let moved = wanted.unneeded.iter().chain(&wanted.repack).chain(&wanted.merge);
        if alive.is_empty() {
            // A second round would delete what the first one moved.
            moved.for_each(|pack| self.report.deleted.add(pack.len));
        } else {
            moved.for_each(|pack| self.report.waiting.add(pack.len));
        }
        self.report.at_work = self.names_of(&alive);
        self.report.expired =
            dead.values().map(|session| format!("{} (process {})", session.host, session.process)).collect();
        Ok(())
    }
}

fn remove_if_there(repository: &Repository, name: &ObjectName) -> Result<(), RepoError> {
    match repository.store().remove(name) {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
