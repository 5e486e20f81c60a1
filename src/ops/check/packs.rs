//! Packs: each one's own directory against the index, all data of those that were chosen, and what is left of damaged ones.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::metadata::{Finding, Remedy, is_gone};
use super::selection::{ReadData, select};
use super::{CheckReport, Verified};
use crate::ops::event::{Control, Event};
use crate::ops::{OpsError, worker_count};
use crate::repo::ids::{ChunkId, PackId, random};
use crate::repo::pack::{self, reader};
use crate::repo::salvage::{
    CopyReader, Remains, copies, examine, is_of_object, may_be_later, named_in_segments, twice,
};
use crate::repo::{RepoError, Repository, listed_packs, quarantine};

/// Packs verified at once: each lies in memory whole, 64 MiB.
const READERS_MAX: usize = 2;
/// Packs at the end of a check that are read in the order of their lengths.
const LAST_BY_LENGTH: usize = 16;
/// Lost chunks that copies are looked for at a time: one pass over the index each.
const LOST_AT_ONCE: usize = 1 << 20;

/// The packs that cannot be relied on.
#[derive(Default)]
pub struct Packs {
    /// What is left of each.
    pub remains: Vec<Remains>,
}

/// Looks at every pack, and reads those chosen by `read_data`, and those that were found damaged before.
pub fn check(
    repository: &Repository,
    read_data: ReadData,
    control: Control<'_>,
    findings: &mut Vec<Finding>,
    report: &mut CheckReport,
) -> Result<Packs, OpsError> {
    let index = repository.index();
    if !index.is_whole()? {
        report.warnings.push("the index cache was damaged and is built anew from the store".to_owned());
        index.recreate()?;
        repository.forget_rows();
    }
    let synced = repository.sync_index(&mut |_| {})?;
    let aside: HashSet<PackId> = quarantined(repository)?;
    let listed: HashMap<PackId, u64> = listed_packs(repository.store())?;
    // One of another length is damaged, and is found so below.
    for id in synced.vanished.iter().filter(|id| !aside.contains(id) && !listed.contains_key(id)) {
        findings.push(Finding::new(pack::object_name(*id), "it has vanished from the store", Remedy::Vanished(*id)));
    }
    let mut packs: Vec<(PackId, u64)> = listed.iter().map(|(id, len)| (*id, *len)).collect();
    packs.sort();
    report.packs = packs.len();
    let gone = |ids: Vec<PackId>| ids.into_iter().filter(|id| !listed.contains_key(id)).collect::<Vec<_>>();
    let verified = index.verified()?;
    index.forget_verified(&gone(verified.keys().copied().collect()))?;
    let rotten = index.rotten()?;
    index.forget_rotten(&gone(rotten.iter().copied().collect()))?;

    let mut chosen = select(&packs, &verified, read_data, &mut || u64::from_le_bytes(random()));
    chosen.extend(rotten.iter().filter(|id| listed.contains_key(id)));
    // Long ones first among the last, so that all readers come to their end together.
    let last = chosen.len().saturating_sub(LAST_BY_LENGTH);
    chosen[last..].sort_by_key(|id| std::cmp::Reverse(listed[id]));
    let to_read: HashSet<PackId> = chosen.iter().copied().collect();
    // Otherwise in the order of the choice, so that a check that is interrupted has read what was most worth it.
    let mut order: Vec<PackId> = Vec::with_capacity(packs.len());
    let mut seen = HashSet::new();
    order.extend(chosen.into_iter().chain(packs.iter().map(|(id, _)| *id)).filter(|id| seen.insert(*id)));
    let bytes: u64 = to_read.iter().map(|id| listed[id]).sum();
    control.tell(Event::Begin { what: "packs", bytes });
    let reading = Reading { repository, control, to_read: &to_read, listed: &listed };
    let found = reading.run(&order)?;
    control.tell(Event::End);
    report.packs_read = to_read.len();
    report.bytes_read = bytes;
    let bad: HashSet<PackId> = found.bad.iter().map(|(id, _)| *id).collect();
    compare_index(repository, &found.good, &bad, report)?;
    let mut packs = Packs::default();
    packs.take(repository, found.bad, control, findings)?;
    Ok(packs)
}

/// The packs that lie in quarantine.
pub fn quarantined(repository: &Repository) -> Result<HashSet<PackId>, RepoError> {
    let objects = quarantine::list(repository.store())?;
    Ok(objects.iter().filter_map(|object| pack::id_of(&object.was)).collect())
}

struct Reading<'a> {
    repository: &'a Repository,
    control: Control<'a>,
    to_read: &'a HashSet<PackId>,
    listed: &'a HashMap<PackId, u64>,
}

/// What reading the packs gave.
#[derive(Default)]
struct Found {
    /// Digests of what the sound ones say of themselves.
    good: HashSet<[u8; 32]>,
    bad: Vec<(PackId, RepoError)>,
}

impl Reading<'_> {
    fn run(&self, order: &[PackId]) -> Result<Found, OpsError> {
        let found = Mutex::new(Found::default());
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let readers = worker_count().min(READERS_MAX);
        let work = || -> Result<(), OpsError> {
            let mut bytes = Vec::new();
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let Some(id) = order.get(turn) else { return Ok(()) };
                if self.control.interrupted() {
                    return Err(OpsError::Interrupted);
                }
                // The medium need not wait while this pack is verified.
                if let Some(later) = order.get(turn + readers).filter(|later| self.to_read.contains(later)) {
                    self.repository.store().read_ahead(&pack::object_name(*later), pack::PACK_BYTES_MAX);
                }
                self.one(*id, &mut bytes, &found)?;
            }
        };
        thread::scope(|scope| {
            for _ in 0..readers {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        next.store(order.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.bad.sort_by_key(|(id, _)| *id);
        Ok(found)
    }

    fn one(&self, id: PackId, bytes: &mut Vec<u8>, found: &Mutex<Found>) -> Result<(), OpsError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let read_it = self.to_read.contains(&id);
        let name = pack::object_name(id);
        let record = twice(|| match read_it {
            true => reader::verify_in(store, keys, id, &name, bytes),
            false => reader::read_record(store, keys, id),
        });
        if read_it {
            self.control.tell(Event::Done(self.listed[&id]));
        }
        let noted = || found.lock().unwrap_or_else(PoisonError::into_inner);
        match record {
            Ok(record) => {
                if read_it {
                    self.repository.index().note_verified(id, jiff::Timestamp::now().as_second())?;
                }
                let digest = digest(id, &record.header, &record.directory);
                noted().good.insert(digest);
            }
            // A prune or a repair that runs beside us took it out of use; the maps will tell if it is needed.
            Err(error) if is_gone(&error) && was_taken_out_of_use(self.repository, id)? => {}
            Err(error) if is_of_object(self.repository, &error) => {
                noted().bad.push((id, error));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn digest(id: PackId, header: &[u8], directory: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&id.0).update(header).update(directory);
    *hasher.finalize().as_bytes()
}

fn was_taken_out_of_use(repository: &Repository, id: PackId) -> Result<bool, RepoError> {
    Ok(!repository.taken_out_of_use(&[id])?.is_empty() || quarantined(repository)?.contains(&id))
}

/// What the index remembers of each sound pack must be what the pack itself says; if not, the index is built anew.
fn compare_index(
    repository: &Repository,
    good: &HashSet<[u8; 32]>,
    bad: &HashSet<PackId>,
    report: &mut CheckReport,
) -> Result<(), OpsError> {
    let (mut differing, mut same) = (0usize, 0usize);
    repository.index().each_pack(|pack| {
        if good.contains(&digest(pack.id, &pack.header, &pack.directory)) {
            same += 1;
        } else if !bad.contains(&pack.id) {
            differing += 1;
        }
        Ok(())
    })?;
    if differing > 0 || same < good.len() {
        let warning = "the index cache disagreed with the packs and was built anew from the store";
        report.warnings.push(warning.to_owned());
        repository.rebuild_index(&mut |_| {})?;
    }
    Ok(())
}

impl Packs {
    /// Takes in packs that were thought sound, and of which something could not be read.
    pub fn found_damaged(
        &mut self,
        repository: &Repository,
        ids: HashSet<PackId>,
        control: Control<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), OpsError> {
        let mut bad = Vec::new();
        for id in ids.into_iter().filter(|id| super::remains_of(&self.remains, *id).is_none()) {
            match twice(|| reader::verify(repository.store(), repository.keys(), id)) {
                Ok(_) => {}
                Err(error) if is_of_object(repository, &error) => bad.push((id, error)),
                Err(error) => return Err(error.into()),
            }
        }
        self.take(repository, bad, control, findings)
    }

    /// From now on nothing relies on these packs: what they hold and is lost is stored again when the next backup sees it,
    /// and what lies elsewhere as well is read there.
    fn take(
        &mut self,
        repository: &Repository,
        bad: Vec<(PackId, RepoError)>,
        control: Control<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), OpsError> {
        if bad.is_empty() {
            return Ok(());
        }
        control.tell(Event::Step("looking what is left of damaged packs"));
        let ids: Vec<PackId> = bad.iter().map(|(id, _)| *id).collect();
        repository.index().forget_verified(&ids)?;
        repository.note_rotten(&ids)?;
        let named = named_in_segments(repository, &ids.iter().copied().collect())?;
        let before = self.remains.len();
        for (id, error) in bad {
            let name = pack::object_name(id);
            let is_whole = || reader::scrub_at(repository.store(), &pack::object_name(id), &mut |_| {}).is_ok();
            let remedy = if is_gone(&error) {
                Remedy::Vanished(id)
            } else if may_be_later(&error) && is_whole() {
                Remedy::None("left alone: a later version may have written it")
            } else {
                Remedy::Pack(id)
            };
            let stop = || control.interrupted();
            let remains = examine(repository, id, &name, &named, &stop).map_err(interrupted)?;
            let message = match (remains.is_known(), remains.lost()) {
                (false, _) => format!("{error}; nobody knows what was in it"),
                (true, 0) => format!("{error}; all its chunks can still be read"),
                (true, lost) => {
                    format!("{error}; {lost} of its {} chunks cannot be read", remains.chunks().count())
                }
            };
            findings.push(Finding::new(&name, message, remedy));
            self.remains.push(remains);
        }
        self.prefer_copies(repository, before)
    }

    /// Chunks that are lost here and lie in another pack as well are to be read there.
    fn prefer_copies(&self, repository: &Repository, from: usize) -> Result<(), OpsError> {
        let damaged: HashSet<PackId> = self.remains.iter().map(|remains| remains.id).collect();
        let mut lost = self.remains[from..].iter().flat_map(Remains::chunks).filter(|(_, sound)| !sound);
        let mut reader = CopyReader::default();
        loop {
            let wanted: HashSet<ChunkId> = lost.by_ref().map(|(id, _)| id).take(LOST_AT_ONCE).collect();
            if wanted.is_empty() {
                return Ok(());
            }
            let mut by_pack: Vec<(PackId, ChunkId)> =
                copies(repository, &wanted, &damaged)?.into_iter().map(|(id, pack)| (pack, id)).collect();
            by_pack.sort();
            let mut good = Vec::new();
            for (pack, id) in by_pack {
                if good.last() != Some(&pack) && reader.gives(repository, pack, id)? {
                    good.push(pack);
                }
            }
            if !good.is_empty() {
                repository.index().note_again(&good)?;
                repository.forget_rows();
            }
        }
    }
}

/// How much of what there is was read whole, and since when.
pub fn say_what_was_verified(repository: &Repository, report: &mut CheckReport) -> Result<(), OpsError> {
    let verified = repository.index().verified()?;
    let mut sum = Verified::default();
    for (id, len) in listed_packs(repository.store())? {
        sum.all_bytes += len;
        if let Some(second) = verified.get(&id) {
            sum.packs += 1;
            sum.bytes += len;
            let time = jiff::Timestamp::from_second(*second).ok();
            sum.oldest = sum.oldest.into_iter().chain(time).min();
        }
    }
    report.verified = sum;
    Ok(())
}

/// The wish to stop, as this room's error.
pub fn interrupted(error: RepoError) -> OpsError {
    match error {
        RepoError::Interrupted => OpsError::Interrupted,
        error => error.into(),
    }
}
