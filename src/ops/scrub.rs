//! Scrub: is every stored byte still what was written? Without a key, without this host's cache, beside any number of
//! writers and prunes; and, if asked, what rots is made whole from recovery records and second copies.
//!
//! What a scrub cannot see: forgeries, and which backups a lost pack hits. That takes the key: `check`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::event::{Control, Event};
use super::{OpsError, worker_count};
use crate::repo::config::Config;
use crate::repo::gc::trash;
use crate::repo::ids::PackId;
use crate::repo::parity::{self, Comparison, HealError, Healed, Record, Share};
use crate::repo::store::{ListedObject, ObjectName, ObjectStore, StoreError};
use crate::repo::{RepoError, keyless, keys, pack};

/// Objects read at once; each holds a record, 3.5 MiB for a share of 5 %, and a MiB of its pack.
const READERS_MAX: usize = 4;

/// What a scrub is asked to do besides looking.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubOptions {
    /// Make whole what can be.
    pub repair: bool,
    /// From now on every pack is to have so much parity.
    pub parity: Option<Share>,
}

/// Something that is wrong, or was.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The object.
    pub what: String,
    /// What is wrong with it.
    pub message: String,
    /// What became of it: `None` if it is still damaged.
    pub repaired: Option<String>,
    /// Why it could not be repaired, if that was tried.
    pub why_not: Option<String>,
}

/// What a scrub found.
#[derive(Debug, Default, serde::Serialize)]
pub struct ScrubReport {
    /// Objects looked at.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Packs among them, those in the trash included.
    pub packs: u64,
    /// Recovery records among them.
    pub recovery_records: u64,
    /// Bytes of these.
    pub recovery_bytes: u64,
    /// Sound packs in use that have no recovery record.
    pub packs_without_record: u64,
    /// Recovery records made for packs that had none.
    pub records_made: u64,
    /// How much parity new packs are given, in thousandths.
    pub parity: Option<Share>,
    /// What is wrong, or was: by object.
    pub damage: Vec<Damage>,
    /// Less than could be, but nothing is damaged.
    pub warnings: Vec<String>,
    /// What runs beside the scrub, or earlier ones, leave; harmless.
    pub notes: Vec<String>,
}

impl ScrubReport {
    /// Objects that are still damaged.
    pub fn unrepaired(&self) -> usize {
        self.damage.iter().filter(|damage| damage.repaired.is_none()).count()
    }

    fn damaged(&mut self, what: impl ToString, error: &dyn std::error::Error) {
        let what = what.to_string();
        let message = about(&what, error);
        self.damage.push(Damage { what, message, repaired: None, why_not: None });
    }
}

/// Scrubs a store.
///
/// # Errors
/// [`OpsError`] if the scrub itself cannot go on; what is wrong with the store is in the report.
pub fn scrub(store: &dyn ObjectStore, options: ScrubOptions, control: Control<'_>) -> Result<ScrubReport, OpsError> {
    let mut report = ScrubReport::default();
    control.tell(Event::Step("looking at the configuration and the key slots"));
    plain_objects(store, options, &mut report)?;
    if let Some(share) = options.parity {
        parity::set_share(store, share)?;
    }
    report.parity = match parity::share(store) {
        Err(RepoError::Damaged { .. }) => None, // it is among what is damaged
        share => share?,
    };
    let run =
        Run { store, options, share: report.parity, control, report: Mutex::new(report), healing: Mutex::new(()) };
    run.finish_healing()?;
    run.objects()?;
    let mut report = run.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.damage.sort_by(|a, b| a.what.cmp(&b.what));
    if report.packs_without_record > 0 && report.parity.is_some() {
        let warning = format!("packs without a recovery record: {}", report.packs_without_record);
        report.warnings.push(warning);
    }
    Ok(report)
}

/// Configuration, key slots and the share of parity, each of which is stored twice.
fn plain_objects(store: &dyn ObjectStore, options: ScrubOptions, report: &mut ScrubReport) -> Result<(), OpsError> {
    let mut faults = Config::faults(store, None);
    faults.extend(keys::faults(store)?);
    faults.extend(parity::share_faults(store));
    for fault in &faults {
        report.damaged(&fault.object, &fault.error);
    }
    if faults.is_empty() || !options.repair {
        return Ok(());
    }
    let mut mended: Vec<ObjectName> = Config::mend(store)?.into_iter().collect();
    mended.extend(keys::mend(store)?);
    mended.extend(parity::mend_share(store)?);
    for damage in &mut report.damage {
        match mended.iter().find(|name| name.as_str() == damage.what) {
            Some(_) => damage.repaired = Some("written anew from its second copy".to_owned()),
            None => damage.why_not = Some("its second copy is damaged, too".to_owned()),
        }
    }
    Ok(())
}

/// One object, or a pack with its record.
enum Item {
    Small(ListedObject, u8),
    Pack {
        id: PackId,
        len: u64,
        record: u64,
    },
    Trashed(trash::Trashed),
    /// A record whose pack is not in use: in the trash, in the quarantine, or gone.
    Record(PackId, u64),
}

impl Item {
    fn bytes(&self) -> u64 {
        match self {
            Item::Small(object, _) => object.len,
            Item::Pack { len, record, .. } => len + record,
            Item::Trashed(trashed) => trashed.len,
            Item::Record(_, len) => *len,
        }
    }
}

struct Run<'a> {
    store: &'a dyn ObjectStore,
    options: ScrubOptions,
    share: Option<Share>,
    control: Control<'a>,
    report: Mutex<ScrubReport>,
    /// A pack that is healed lies in memory whole: one at a time.
    healing: Mutex<()>,
}

impl Run<'_> {
    fn report(&self) -> MutexGuard<'_, ScrubReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs that a killed run left between two names.
    fn finish_healing(&self) -> Result<(), OpsError> {
        let unfinished: BTreeSet<PackId> = parity::unfinished(self.store)?.into_iter().collect();
        let quarantined = parity::quarantined(self.store)?;
        if !quarantined.is_empty() {
            let note = format!("packs with damaged copies in {}/: {}", parity::QUARANTINE, quarantined.len());
            self.report().notes.push(note);
        }
        let waiting: BTreeSet<PackId> = quarantined.into_iter().chain(unfinished.iter().copied()).collect();
        let trashed: HashSet<PackId> = trash::list(self.store)?.into_iter().map(|trashed| trashed.id).collect();
        for id in waiting {
            let name = pack::object_name(id);
            let is_there = match self.store.len(&name) {
                Ok(_) => true,
                Err(StoreError::NotFound { .. }) => false,
                Err(error) => return Err(RepoError::from(error).into()),
            };
            // Packs in use are looked at with all others; what a finished healing left over goes now.
            if trashed.contains(&id) || (is_there && !(self.options.repair && unfinished.contains(&id))) {
                continue;
            }
            match keyless::pack(self.store, &name, &mut |_| {}) {
                Ok(_) => parity::drop_unfinished(self.store, id)?,
                Err(error) if unfinished.contains(&id) => drop(self.heal(id, &error)?),
                // Somebody took it out of use, who may have saved what was needed of it: brought back if that is possible.
                Err(error) if self.options.repair => {
                    if let Ok(healed) = parity::heal(self.store, id) {
                        self.healed(id, about(name.as_str(), &error), &healed);
                    }
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn objects(&self) -> Result<(), OpsError> {
        let items = self.list()?;
        let bytes = items.iter().map(Item::bytes).sum();
        self.control.tell(Event::Begin { what: "objects", bytes });
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || -> Result<(), OpsError> {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.control.interrupted() {
                    return Err(OpsError::Interrupted);
                }
                self.look_at(item)?;
                self.control.tell(Event::Done(item.bytes()));
            }
            Ok(())
        };
        thread::scope(|scope| {
            for _ in 0..worker_count().min(READERS_MAX) {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        next.store(items.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
        });
        self.control.tell(Event::End);
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Everything there is. Records come first: a writer stores them after their packs.
    fn list(&self) -> Result<Vec<Item>, OpsError> {
        let mut records = BTreeMap::new();
        self.store.list(parity::FOLDER, &mut |object| {
            records.extend(parity::id_of(&object.name).map(|id| (id, object.len)));
            ControlFlow::Continue(())
        })?;
        let mut items = Vec::new();
        let mut seen = HashSet::new();
        let mut strange = 0u64;
        let listed = self.store.list("", &mut |object| {
            if let Some(id) = pack::id_of(&object.name) {
                if seen.insert(id) {
                    let record = records.get(&id).copied().unwrap_or(0);
                    items.push(Item::Pack { id, len: object.len, record });
                }
            } else if let Some(kind) = keyless::kind_of(&object.name) {
                items.push(Item::Small(object, kind));
            } else if !is_looked_at_elsewhere(&object.name) {
                strange += 1;
            }
            ControlFlow::Continue(())
        });
        // A folder that cannot be read hides objects: the rest is looked at all the same.
        if let Err(error) = listed {
            self.report().damaged("the store's folders", &error);
        }
        let trashed = trash::list(self.store)?;
        records.retain(|id, _| !seen.contains(id));
        seen.extend(trashed.iter().map(|trashed| trashed.id));
        seen.extend(parity::quarantined(self.store)?);
        let gone = records.keys().filter(|id| !seen.contains(id)).count();
        if gone > 0 {
            let warning = format!(
                "recovery records whose packs are gone: {gone}; a prune that died leaves them, and the next one removes them, \
                 but packs that were lost leave them, too: abbild check tells"
            );
            self.report().warnings.push(warning);
        }
        items.extend(trashed.into_iter().map(Item::Trashed));
        items.extend(records.into_iter().map(|(id, len)| Item::Record(id, len)));
        if strange > 0 {
            self.report().notes.push(format!("objects of no known folder: {strange}"));
        }
        Ok(items)
    }

    fn look_at(&self, item: &Item) -> Result<(), OpsError> {
        match item {
            Item::Small(object, kind) => self.small(object, *kind),
            Item::Pack { id, .. } => self.pack(*id),
            Item::Trashed(trashed) => self.trashed(trashed),
            Item::Record(id, _) => self.record_alone(*id),
        }
    }

    fn seen(&self, bytes: u64) {
        let mut report = self.report();
        report.objects += 1;
        report.bytes += bytes;
    }

    fn small(&self, object: &ListedObject, kind: u8) -> Result<(), OpsError> {
        match keyless::small_object(self.store, &object.name, kind) {
            Ok(len) => self.seen(len),
            // A session that ended, a backup that was forgotten, a closing that was cleaned away.
            Err(RepoError::Store(StoreError::NotFound { .. })) => {}
            Err(error) => self.report().damaged(&object.name, &error),
        }
        Ok(())
    }

    fn trashed(&self, trashed: &trash::Trashed) -> Result<(), OpsError> {
        match keyless::pack(self.store, &trashed.name, &mut |_| {}) {
            Ok(len) => {
                self.seen(len);
                self.report().packs += 1;
            }
            Err(RepoError::Store(StoreError::NotFound { .. })) => {} // deleted, or moved back into use
            Err(error) => {
                self.report().notes.push(format!("{}, which waits to be deleted, is damaged: {error}", trashed.name))
            }
        }
        Ok(())
    }

    /// A record that no pack in use belongs to: it must be sound by itself, and a prune removes it in time.
    fn record_alone(&self, id: PackId) -> Result<(), OpsError> {
        if let Some(error) = self.load_record(id)?.1 {
            self.report()
                .notes
                .push(format!("{} belongs to no pack in use, and is damaged: {error}", parity::object_name(id)));
        }
        Ok(())
    }

    /// The record of a pack, and what is wrong with it.
    fn load_record(&self, id: PackId) -> Result<(Option<Record>, Option<String>), OpsError> {
        let record = match Record::load(self.store, id) {
            Ok(None) => return Ok((None, None)),
            Ok(Some(record)) => record,
            Err(error @ (RepoError::Damaged { .. } | RepoError::Unsupported { .. } | RepoError::Store(_))) => {
                return Ok((None, Some(about(parity::object_name(id).as_str(), &error))));
            }
            Err(error) => return Err(error.into()),
        };
        let len = parity::stored_bytes(self.store, id)?;
        {
            let mut report = self.report();
            report.recovery_records += 1;
            report.recovery_bytes += len;
            report.objects += 1;
            report.bytes += len;
        }
        let fault = record.fault().map(|(error, count)| match count {
            1 => about(parity::object_name(id).as_str(), error),
            count => format!("{}, and {} more places", about(parity::object_name(id).as_str(), error), count - 1),
        });
        Ok((Some(record), fault))
    }

    fn pack(&self, id: PackId) -> Result<(), OpsError> {
        let name = pack::object_name(id);
        let (record, mut fault) = self.load_record(id)?;
        let has_none = record.is_none() && fault.is_none();
        let mut comparison = record.as_ref().map(Comparison::new);
        let looked = keyless::pack(self.store, &name, &mut |bytes| {
            if let Some(comparison) = &mut comparison {
                comparison.update(bytes);
            }
        });
        match looked {
            Ok(len) => {
                self.seen(len);
                self.report().packs += 1;
            }
            Err(RepoError::Store(StoreError::NotFound { .. })) => return self.moved(id),
            Err(error) => {
                // Rot that hit the pack may have hit its record, too; that is made anew once the pack is whole.
                let is_whole = self.heal(id, &error)?;
                return match fault {
                    Some(message) => self.renew(id, message, is_whole),
                    // It could not be read for a moment.
                    None if has_none && is_whole => self.make_record(id),
                    None => Ok(()),
                };
            }
        }
        if fault.is_none() && comparison.is_some_and(|comparison| !comparison.fits()) {
            fault = Some("it was made of other bytes than its pack has".to_owned());
        }
        match fault {
            Some(message) => self.renew(id, message, true),
            None if has_none => self.make_record(id),
            None => Ok(()),
        }
    }

    /// Makes a damaged record anew.
    fn renew(&self, id: PackId, message: String, is_pack_whole: bool) -> Result<(), OpsError> {
        let mut damage = Damage { what: parity::object_name(id).to_string(), message, repaired: None, why_not: None };
        match self.share {
            _ if !self.options.repair => {}
            _ if !is_pack_whole => damage.why_not = Some("its pack is damaged, too".to_owned()),
            None => damage.why_not = Some("no parity is wanted: say how much with --parity".to_owned()),
            Some(share) => match parity::renew(self.store, id, share) {
                Ok(_) => damage.repaired = Some("made anew from its sound pack".to_owned()),
                Err(error) => damage.why_not = Some(chain(&error)),
            },
        }
        self.report().damage.push(damage);
        Ok(())
    }

    fn make_record(&self, id: PackId) -> Result<(), OpsError> {
        match self.share.filter(|_| self.options.repair) {
            None => self.report().packs_without_record += 1,
            Some(share) => match parity::renew(self.store, id, share) {
                Ok(bytes) => {
                    let mut report = self.report();
                    report.records_made += 1;
                    report.recovery_records += 1;
                    report.recovery_bytes += bytes;
                }
                Err(RepoError::Store(StoreError::NotFound { .. })) => {} // its pack was pruned meanwhile
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }

    /// A pack that is not in its place any more: a prune took it out of use, or another run heals it.
    fn moved(&self, id: PackId) -> Result<(), OpsError> {
        if let Some(trashed) = trash::list(self.store)?.iter().find(|trashed| trashed.id == id) {
            return self.trashed(trashed);
        }
        self.report().notes.push(format!("{} went away during the scrub", pack::object_name(id)));
        Ok(())
    }

    /// Whether a damaged pack is whole now.
    fn heal(&self, id: PackId, error: &RepoError) -> Result<bool, OpsError> {
        let what = pack::object_name(id);
        if !self.options.repair {
            self.report().damaged(&what, error);
            return Ok(false);
        }
        let outcome = {
            let _one_at_a_time = self.healing.lock().unwrap_or_else(PoisonError::into_inner);
            parity::heal(self.store, id)
        };
        let is_whole = outcome.is_ok();
        match outcome {
            Ok(healed) => self.healed(id, about(what.as_str(), error), &healed),
            Err(HealError::Trashed { .. }) => {
                self.report().notes.push(format!("{what} is damaged, and was taken out of use meanwhile"));
            }
            Err(why) => {
                let (what, message) = (what.to_string(), about(what.as_str(), error));
                let why_not = Some(about(&what, &why));
                self.report().damage.push(Damage { what, message, repaired: None, why_not });
            }
        }
        Ok(is_whole)
    }

    fn healed(&self, id: PackId, message: String, healed: &Healed) {
        let mut repaired = match healed.shards {
            0 => "whole".to_owned(),
            shards => format!("whole again, {shards} parts of it made anew from its recovery record"),
        };
        if let Some(place) = &healed.quarantined {
            repaired.push_str(&format!("; the damaged pack lies in {place}"));
        }
        let what = pack::object_name(id).to_string();
        self.report().damage.push(Damage { what, message, repaired: Some(repaired), why_not: None });
    }
}

/// Objects that are looked at by another part of the scrub, or hold nothing that could be damaged.
fn is_looked_at_elsewhere(name: &ObjectName) -> bool {
    let folder = name.as_str().split('/').next().unwrap_or_default();
    let others = ["config", "keys", "copies", "trash", "reserve"];
    others.contains(&folder) || [parity::FOLDER, parity::HEALED, parity::QUARANTINE].contains(&folder)
}

/// What is wrong with `object`, whose name is said already.
fn about(object: &str, error: &dyn std::error::Error) -> String {
    let text = chain(error);
    let rest = text.strip_prefix(object).and_then(|rest| rest.strip_prefix(": "));
    rest.map_or_else(|| text.clone(), str::to_owned)
}

/// An error with its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
