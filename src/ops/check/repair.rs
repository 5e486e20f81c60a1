//! The order of a repair. It deletes nothing: what is damaged is moved to `quarantine/`, after everything that can be saved
//! of it is durable somewhere else; what is new is new objects.
//!
//! A repair is a writer: it holds a session, so what it wrote stays until it is done, and it looks after its last move
//! whether the session was held all the while; if not, it moves back what it put aside. Killed anywhere, the next repair
//! finds what is damaged again, and what was saved already.
//!
//! Why it is safe beside others (docs/FORMAT.md, "Quarantine"): a writer that relied on a pack that is put aside finds all
//! that was sound in it in new packs; a prune that took a new pack for unneeded, as it saw the old one, finds it missing in
//! its next round and moves it back before it deletes anything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::metadata::{Finding, Remedy, is_gone, named_packs};
use super::packs::{Packs, interrupted};
use super::walk::Walk;
use super::{CheckReport, Damaged, Repaired, heal};
use crate::ops::OpsError;
use crate::ops::event::{Control, Event};
use crate::repo::gc::{records, segments, trash};
use crate::repo::ids::{BackupId, PackId};
use crate::repo::manifest::{self, Manifest};
use crate::repo::pack::reader;
use crate::repo::parity::{self, HealError};
use crate::repo::salvage::{
    Remains, Rescued, examine, is_of_object, may_be_later, named_in_segments, open, rescue, twice,
};
use crate::repo::seal::Kind;
use crate::repo::session::{self, OpenSession, renewal};
use crate::repo::store::{self, ObjectName, StoreError};
use crate::repo::{RepoError, Repository, host_name, object, pack, quarantine, text};

/// A first generation is so far above every number that is known: others may know higher ones.
const GENERATION_MARGIN: u64 = 1000;

/// Damaged packs that are saved at a time: the ids of what is in them lie in memory.
const PACKS_AT_ONCE: usize = 64;

/// Repairs; gives the backups that are damaged all the same.
pub fn repair(
    repository: &Arc<Repository>,
    from: Option<&Arc<Repository>>,
    packs: &mut Packs,
    damaged: Damaged,
    findings: &mut [Finding],
    control: Control<'_>,
    report: &mut CheckReport,
) -> Result<Damaged, OpsError> {
    control.tell(Event::Step("repairing"));
    let session = OpenSession::begin(repository.store(), repository.keys(), "repair")?;
    let run = Run { repository, from, control, findings, session: &session, done: Repaired::default() };
    // Whether it was lost all the same is looked at where packs are put aside.
    let (done, left) = renewal::while_working(&session, repository.keys(), drop, || run.all(packs, damaged))?;
    report.repair = Some(done);
    if let Err(error) = session.end() {
        report.warnings.push(format!("the session object could not be removed: {error}"));
    }
    Ok(left)
}

/// A backup's manifest, if it is there and can be read.
fn present(repository: &Repository, id: BackupId) -> Result<Option<Manifest>, OpsError> {
    match twice(|| repository.manifest(id)) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if is_of_object(repository, &error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Run<'a, 's> {
    repository: &'a Arc<Repository>,
    from: Option<&'a Arc<Repository>>,
    control: Control<'a>,
    findings: &'a mut [Finding],
    session: &'a OpenSession<'s>,
    done: Repaired,
}

impl Run<'_, '_> {
    /// Repairs everything; gives what was done, and what is damaged all the same.
    fn all(mut self, packs: &mut Packs, damaged: Damaged) -> Result<(Repaired, Damaged), OpsError> {
        self.plain()?;
        let mut backups = damaged.backups.clone();
        backups.extend(self.manifests()?);
        self.heal_in_place(packs)?;
        self.rescue(packs)?;
        self.bring_back(packs, &backups)?;
        self.put_packs_aside(packs)?;
        self.segments(packs)?;
        self.small_objects()?;

        let Run { repository, control, mut done, .. } = self;
        control.tell(Event::Step("checking what was repaired"));
        repository.sync_index(&mut |_| {})?;
        let mut left = Damaged::default();
        let mut walk = Walk::new(repository, &packs.remains);
        for id in backups {
            let Some(manifest) = present(repository, id)? else { continue };
            if walk.backup(&manifest, control)?.is_damaged() {
                left.backups.push(id);
            } else {
                done.whole_again.push(format!("{} ({id})", manifest.machine));
            }
        }
        // A manifest that was put aside is no backup any more; one that was left alone is still in the way.
        for id in damaged.unreadable {
            if twice(|| repository.manifest(id)).is_err_and(|error| !is_gone(&error)) {
                left.unreadable.push(id);
            }
        }
        Ok((done, left))
    }

    /// The remedies of all faults, by their numbers.
    fn remedies(&self) -> Vec<(usize, Remedy)> {
        self.findings.iter().enumerate().map(|(number, finding)| (number, finding.remedy.clone())).collect()
    }

    fn check_stop(&self) -> Result<(), OpsError> {
        if self.control.interrupted() { Err(OpsError::Interrupted) } else { Ok(()) }
    }

    /// Moves an object aside; that somebody else did so is as good.
    fn put_aside(&mut self, sealed_as: &ObjectName, at: &ObjectName) -> Result<(), OpsError> {
        if quarantine::put(self.repository.store(), sealed_as, at)?.is_some() {
            self.done.quarantined += 1;
        }
        Ok(())
    }

    /// Configuration and key slots, each from its twin.
    fn plain(&mut self) -> Result<(), OpsError> {
        for (number, remedy) in self.remedies() {
            let Remedy::Twin { object, twin } = remedy else { continue };
            // Judged once more, and both together: the twin is what is left of it.
            let still = self.repository.plain_faults()?;
            if let Some(fault) = still.iter().find(|fault| fault.object == object) {
                if fault.twin.as_ref() != Some(&twin) {
                    continue;
                }
                let is_there = !matches!(fault.error, RepoError::Store(StoreError::NotFound { .. }));
                text::restore(self.repository.store(), &object, &twin)?;
                self.done.quarantined += usize::from(is_there);
            }
            self.findings[number].fault.repaired = true;
        }
        Ok(())
    }

    /// Manifests that cannot be read make way; a mirror gives them back. Gives those that are there again.
    fn manifests(&mut self) -> Result<Vec<BackupId>, OpsError> {
        let (mut back, mut staged) = self.manifests_aside()?;
        let (store, keys) = (self.repository.store(), self.repository.keys());
        for (number, remedy) in self.remedies() {
            let Remedy::Manifest(id) = remedy else { continue };
            self.check_stop()?;
            let name = manifest::object_name(id);
            match twice(|| self.repository.manifest(id)) {
                Ok(_) => {}
                Err(error) if may_be_later(&error) => continue,
                Err(_) => {
                    let mirrored = self.from.filter(|from| heal::is_mirror(self.repository, from));
                    if let Some(manifest) = mirrored.and_then(|from| from.manifest(id).ok())
                        && !staged.contains_key(&id)
                    {
                        let bytes = object::encode(keys, Kind::Manifest, &name, &manifest.encode());
                        staged.insert(id, quarantine::stage(store, &name, &bytes)?);
                    }
                    self.put_aside(&name, &name)?;
                    // Put aside and nothing else, the backup is lost: that is no repair.
                    let Some(whole) = staged.get(&id) else { continue };
                    match store.rename(whole, &name) {
                        // Another repair was faster.
                        Ok(()) | Err(StoreError::Exists { .. } | StoreError::NotFound { .. }) => {}
                        Err(error) => return Err(RepoError::from(error).into()),
                    }
                }
            }
            back.push(id);
            self.findings[number].fault.repaired = true;
        }
        Ok(back)
    }

    /// Whole manifests in quarantine: a repair put them there to take the place of damaged ones, and died. Those whose
    /// place is free take it now; of the others it is said where they lie.
    fn manifests_aside(&mut self) -> Result<(Vec<BackupId>, HashMap<BackupId, ObjectName>), OpsError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let (mut back, mut staged) = (Vec::new(), HashMap::new());
        for aside in quarantine::list(store)? {
            let Ok(id) = aside.was.last_part().parse::<BackupId>() else { continue };
            if manifest::object_name(id) != aside.was {
                continue;
            }
            let payload = object::get_moved(store, keys, Kind::Manifest, &aside.was, &aside.name);
            if payload.and_then(|payload| manifest::checked(id, &payload)).is_err() {
                continue;
            }
            match store.rename(&aside.name, &aside.was) {
                Ok(()) => back.push(id),
                Err(StoreError::Exists { .. }) => drop(staged.insert(id, aside.name)),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(RepoError::from(error).into()),
            }
        }
        Ok((back, staged))
    }

    /// Packs that parity records make whole where they lie need nothing else.
    fn heal_in_place(&mut self, packs: &mut Packs) -> Result<(), OpsError> {
        for (number, remedy) in self.remedies() {
            let Remedy::Pack(id) = remedy else { continue };
            self.check_stop()?;
            match parity::heal(self.repository.store(), id) {
                Ok(healed) => self.done.quarantined += usize::from(healed.quarantined.is_some()),
                Err(HealError::Repo(error)) if !is_of_object(self.repository, &error) => return Err(error.into()),
                // There is no record, or it does not make up for so much: what is sound is saved chunk by chunk.
                Err(_) => continue,
            }
            if reader::verify(self.repository.store(), self.repository.keys(), id).is_ok() {
                self.repository.index().note_verified(id, jiff::Timestamp::now().as_second())?;
                packs.remains.retain(|remains| remains.id != id);
                self.findings[number].fault.repaired = true;
                self.done.healed_in_place += 1;
            }
        }
        self.repository.forget_rows();
        Ok(())
    }

    /// The packs that are to be put aside.
    fn damaged_packs(&self) -> HashSet<PackId> {
        let packs = self.findings.iter().filter(|finding| !finding.fault.repaired);
        packs.filter_map(|finding| if let Remedy::Pack(id) = finding.remedy { Some(id) } else { None }).collect()
    }

    fn rescue(&mut self, packs: &Packs) -> Result<(), OpsError> {
        if packs.remains.is_empty() {
            return Ok(());
        }
        self.control.tell(Event::Step("writing anew what is sound in damaged packs"));
        let damaged = packs.remains.iter().map(|remains| remains.id).collect();
        for some in packs.remains.chunks(PACKS_AT_ONCE) {
            let stop = || self.control.interrupted();
            let rescued = rescue(self.repository, some, &damaged, &|_| true, &stop).map_err(interrupted)?;
            add(&mut self.done.rescued, rescued);
        }
        Ok(())
    }

    /// What damaged backups miss: from packs that lie in quarantine or, damaged, in the trash; then from elsewhere.
    fn bring_back(&mut self, packs: &Packs, backups: &[BackupId]) -> Result<(), OpsError> {
        if backups.is_empty() {
            return Ok(());
        }
        let mut manifests = Vec::new();
        for id in backups {
            manifests.extend(present(self.repository, *id)?);
        }
        manifests.sort_by_key(|manifest| (manifest.instant, manifest.backup));
        let mut walk = Walk::new(self.repository, &packs.remains);
        for manifest in &manifests {
            walk.backup(manifest, self.control)?;
        }
        let missing = walk.missing().cloned();
        if missing.as_ref().is_some_and(HashSet::is_empty) {
            return Ok(());
        }
        let aside = self.aside(missing.as_ref())?;
        if !aside.is_empty() {
            self.control.tell(Event::Step("looking into the quarantine"));
            let wanted = |id| missing.as_ref().is_none_or(|missing| missing.contains(&id));
            let stop = || self.control.interrupted();
            let damaged = packs.remains.iter().chain(&aside).map(|remains| remains.id).collect();
            let rescued = rescue(self.repository, &aside, &damaged, &wanted, &stop).map_err(interrupted)?;
            add(&mut self.done.rescued, rescued);
        }
        if let Some(from) = self.from {
            self.control.tell(Event::Step("taking from the second repository what is lost"));
            let walk = Walk::new(self.repository, &packs.remains);
            self.done.healed = heal::heal(self.repository, from, walk, &manifests, self.control)?;
        }
        Ok(())
    }

    /// Packs nobody reads where they lie, if they hold something that is missing.
    fn aside(&self, missing: Option<&HashSet<crate::repo::ids::ChunkId>>) -> Result<Vec<Remains>, OpsError> {
        let mut places: HashMap<ObjectName, PackId> = HashMap::new();
        for object in quarantine::list(self.repository.store())? {
            if let Some(id) = pack::id_of(&object.was) {
                places.insert(object.name, id);
            }
        }
        for trashed in trash::list(self.repository.store())? {
            places.insert(trashed.name, trashed.id);
        }
        let named = named_in_segments(self.repository, &places.values().copied().collect())?;
        let stop = || self.control.interrupted();
        let mut aside = Vec::new();
        for (place, id) in places {
            let Some(open) = open(self.repository, id, &place, &named)? else { continue };
            let is_of_use =
                missing.is_none_or(|missing| open.directory.chunks().iter().any(|(chunk, _)| missing.contains(chunk)));
            if is_of_use {
                aside.push(examine(self.repository, id, &place, &named, &stop).map_err(interrupted)?);
            }
        }
        Ok(aside)
    }

    /// Damaged packs make way; nothing relies on them any more.
    fn put_packs_aside(&mut self, packs: &mut Packs) -> Result<(), OpsError> {
        let damaged = self.damaged_packs();
        if damaged.is_empty() {
            return Ok(());
        }
        self.check_stop()?;
        let (store, index) = (self.repository.store(), self.repository.index());
        self.session.check()?;
        let mut moved = Vec::new();
        for id in &damaged {
            let name = pack::object_name(*id);
            moved.extend(quarantine::put(store, &name, &name)?.map(|place| (name, place)));
        }
        if let Err(error) = self.session.check() {
            // Taken for dead: a prune may have gone on without what was written for these.
            for (name, place) in moved {
                let _ = store.rename(&place, &name);
            }
            return Err(error.into());
        }
        self.done.quarantined += moved.len();
        let ids: Vec<PackId> = damaged.iter().copied().collect();
        index.drop_packs(&ids)?;
        index.forget_rotten(&ids)?;
        self.repository.forget_rows();
        packs.remains.retain(|remains| !damaged.contains(&remains.id));
        for finding in self.findings.iter_mut() {
            if matches!(finding.remedy, Remedy::Pack(id) if damaged.contains(&id)) {
                finding.fault.repaired = true;
            }
        }
        Ok(())
    }

    /// Every pack in use is named by an index segment; what names others, or cannot be read, makes way.
    fn segments(&mut self, packs: &Packs) -> Result<(), OpsError> {
        self.check_stop()?;
        self.repository.sync_index(&mut |_| {})?;
        let named = named_packs(self.repository)?;
        let without = packs.remains.iter().map(|remains| remains.id).collect();
        segments::complete(self.repository, &named, &without)?;
        for (number, remedy) in self.remedies() {
            let Remedy::Segment(name) = remedy else { continue };
            match twice(|| self.repository.read_segment(&name)) {
                Ok(_) => {}
                Err(error) if may_be_later(&error) => continue,
                Err(_) => {
                    self.put_aside(&name, &name)?;
                    self.repository.index().forget_segments([name.as_str()])?;
                }
            }
            self.findings[number].fault.repaired = true;
        }
        self.done.quarantined += segments::rewrite(self.repository, segments::Old::Quarantine)?;
        Ok(())
    }

    /// What prunes and writers leave for each other.
    fn small_objects(&mut self) -> Result<(), OpsError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        for (number, remedy) in self.remedies() {
            self.check_stop()?;
            match remedy {
                Remedy::PutAside { sealed_as, at } => self.put_aside(&sealed_as, &at)?,
                Remedy::Generation(name) => {
                    let its = records::generation_of(&name);
                    if its.is_none_or(|its| its >= session::newest_generation(store).unwrap_or(0)) {
                        session::take_next_generation(store, keys)?;
                    }
                    self.put_aside(&name, &name)?;
                }
                Remedy::FirstGeneration => {
                    let number = self.highest_number()?.saturating_add(GENERATION_MARGIN);
                    match session::take_generation(store, keys, number, &host_name()) {
                        Ok(()) | Err(RepoError::Store(StoreError::Exists { .. })) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                _ => continue,
            }
            self.findings[number].fault.repaired = true;
        }
        Ok(())
    }

    /// The highest number of a generation that anything still speaks of.
    fn highest_number(&self) -> Result<u64, OpsError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let mut highest = self.repository.index().generation()?;
        for folder in [records::TOMBSTONES, records::CLOSINGS] {
            highest = store::names(store, folder)?.iter().filter_map(records::generation_of).fold(highest, u64::max);
        }
        highest = trash::list(store)?.iter().map(|trashed| trashed.generation).fold(highest, u64::max);
        for name in session::names(store)?.0 {
            if let Ok(session) = session::load_session(store, keys, &name) {
                highest = highest.max(session.generation);
            }
        }
        for manifest in self.repository.manifests(&mut |_, _| {})? {
            highest = highest.max(manifest.generation);
        }
        Ok(highest)
    }
}

fn add(sum: &mut Rescued, more: Rescued) {
    sum.chunks += more.chunks;
    sum.packs += more.packs;
    sum.bytes += more.bytes;
}
