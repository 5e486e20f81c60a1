//! Small objects: configuration, key slots, sessions, generations, what prunes leave, index segments.

use std::collections::HashSet;

use super::report::Fault;
use super::{CheckReport, ReadData};
use crate::ops::OpsError;
use crate::repo::gc::{forgotten, records, trash};
use crate::repo::ids::{BackupId, PackId};
use crate::repo::pack::reader;
use crate::repo::pins::{self, Pins};
use crate::repo::salvage::{is_of_object, may_be_later, twice};
use crate::repo::store::{self, ObjectName, StoreError};
use crate::repo::{RepoError, Repository, manifest, pack, session};

/// Names of unfinished objects that are told.
const NAMES_TOLD: usize = 20;

/// A fault, and what can be done about it.
pub struct Finding {
    /// What is reported.
    pub fault: Fault,
    /// What can be done.
    pub remedy: Remedy,
}

/// What can be done about a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing by us, for this reason.
    None(&'static str),
    /// To write it anew from its twin.
    Twin {
        /// What is damaged.
        object: ObjectName,
        /// What is sound.
        twin: ObjectName,
    },
    /// To put it aside: it is as good as not there.
    PutAside {
        /// The name it was sealed under.
        sealed_as: ObjectName,
        /// Where it lies.
        at: ObjectName,
    },
    /// To write its packs' directories anew, and put it aside.
    Segment(ObjectName),
    /// To put it aside, and take it from a second repository if that has it.
    Manifest(BackupId),
    /// To put it aside once there is a newer one.
    Generation(ObjectName),
    /// To make one that is newer than any there ever was.
    FirstGeneration,
    /// To save what is sound, and put it aside.
    Pack(PackId),
    /// To look for what was in it in other places.
    Vanished(PackId),
}

impl Remedy {
    fn told(&self) -> String {
        let told = match self {
            Remedy::None(why) => why,
            Remedy::Twin { twin, .. } => return format!("written anew from {twin}"),
            Remedy::PutAside { .. } => "put in quarantine: nothing needs it",
            Remedy::Segment(_) => "written anew from the packs it names; then put in quarantine",
            Remedy::Manifest(_) => {
                "put in quarantine: the backup is lost, but for a second repository with this one's keys"
            }
            Remedy::Generation(_) => "put in quarantine once a newer one is there: only the newest number counts",
            Remedy::FirstGeneration => "a new one is made, above every number that is still in use",
            Remedy::Pack(_) => "what is sound in it is written anew; then it is put in quarantine",
            Remedy::Vanished(_) => {
                "what was in it comes back from a second repository, or when the next backup sees it"
            }
        };
        told.to_owned()
    }
}

impl Finding {
    /// A fault of `what`.
    pub fn new(what: impl ToString, message: impl ToString, remedy: Remedy) -> Finding {
        let remedy_told = remedy.told();
        let fault =
            Fault { what: what.to_string(), message: message.to_string(), remedy: remedy_told, repaired: false };
        Finding { fault, remedy }
    }

    /// A damaged object that is to be put where `remedy` says; one that may be whole, or cannot be read just now, stays.
    fn of(what: &ObjectName, error: &RepoError, remedy: Remedy) -> Finding {
        let remedy = if may_be_later(error) {
            Remedy::None("left alone: a later version may have written it")
        } else if matches!(error, RepoError::Store(StoreError::Io { .. })) {
            Remedy::None("left alone: the medium does not give it back; it may do so later")
        } else {
            remedy
        };
        Finding::new(what, error, remedy)
    }
}

/// The finding for a manifest that cannot be read.
pub fn manifest_finding(id: BackupId, error: &RepoError) -> Finding {
    Finding::of(&manifest::object_name(id), error, Remedy::Manifest(id))
}

/// Whether an object is simply not there any more: others are at work.
pub fn is_gone(error: &RepoError) -> bool {
    matches!(error, RepoError::Store(StoreError::NotFound { .. }))
}

/// Looks at all small objects but manifests.
pub fn small_objects(
    repository: &Repository,
    read_data: ReadData,
    report: &mut CheckReport,
) -> Result<Vec<Finding>, OpsError> {
    let store = repository.store();
    let mut look = Look { repository, report, findings: Vec::new() };
    look.plain()?;
    look.sessions()?;
    look.prunes(read_data.is_all())?;
    look.pins()?;
    look.segments()?;
    let mut foreign = 0usize;
    store.foreign("", &mut |_| {
        foreign += 1;
        std::ops::ControlFlow::Continue(())
    })?;
    if foreign > 0 {
        look.report.notes.push(format!("{foreign} files in the store are none of ours"));
    }
    look.unfinished()?;
    Ok(look.findings)
}

struct Look<'a> {
    repository: &'a Repository,
    report: &'a mut CheckReport,
    findings: Vec<Finding>,
}

impl Look<'_> {
    /// Reads an object twice if need be; what is wrong with it becomes a finding.
    fn read<T>(
        &mut self,
        name: &ObjectName,
        remedy: Remedy,
        read: impl FnMut() -> Result<T, RepoError>,
    ) -> Result<Option<T>, OpsError> {
        match twice(read) {
            Ok(read) => Ok(Some(read)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) if is_of_object(self.repository, &error) => {
                self.findings.push(Finding::of(name, &error, remedy));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn plain(&mut self) -> Result<(), OpsError> {
        for fault in self.repository.plain_faults()? {
            let remedy = match fault.twin {
                Some(twin) => Remedy::Twin { object: fault.object.clone(), twin },
                None if matches!(fault.error, RepoError::Unsupported { .. }) => {
                    Remedy::None("left alone: a later version may have written it")
                }
                None => Remedy::None("left alone: there is no sound twin to write it anew from"),
            };
            self.findings.push(Finding::new(&fault.object, &fault.error, remedy));
        }
        Ok(())
    }

    fn sessions(&mut self) -> Result<(), OpsError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let (sessions, generations) = session::names(store)?;
        for name in &sessions {
            // Renaming it is what a prune does with one whose owner it takes for dead: the owner finds that out before
            // its backup counts.
            let remedy = Remedy::PutAside { sealed_as: name.clone(), at: name.clone() };
            if let Some(session) = self.read(name, remedy, || session::load_session(store, keys, name))? {
                self.report.notes.push(format!(
                    "a session of {} (process {}, begun {}) has not ended: it is running, or it died and is harmless",
                    session.host, session.process, session.started
                ));
            }
        }
        for name in session::renewal::names(store)? {
            // One that cannot be read holds its session for ever; its owner renews it again.
            let remedy = Remedy::PutAside { sealed_as: name.clone(), at: name.clone() };
            self.read(&name, remedy, || session::load_session(store, keys, &name))?;
        }
        for name in &generations {
            self.read(name, Remedy::Generation(name.clone()), || session::load_generation(store, keys, name))?;
        }
        if generations.is_empty() {
            self.findings.push(Finding::new("generations", "there is none", Remedy::FirstGeneration));
        }
        Ok(())
    }

    /// Pins, and pins of nothing: only who made one takes it away.
    fn pins(&mut self) -> Result<(), OpsError> {
        let store = self.repository.store();
        let pins = Pins::load(store, self.repository.keys())?;
        // Forgotten ones before and after those in use: one that is brought back meanwhile is in one of the listings.
        let forgotten = || -> Result<Vec<BackupId>, RepoError> {
            Ok(forgotten::list(store)?.into_iter().map(|forgotten| forgotten.backup).collect())
        };
        let mut there: HashSet<BackupId> = forgotten()?.into_iter().collect();
        there.extend(self.repository.backup_ids()?);
        there.extend(forgotten()?);
        for (backup, pin) in pins.iter() {
            if let Err(error) = pin {
                let remedy = Remedy::None("left alone: it pins all the same; whoever made it can make it anew");
                self.findings.push(Finding::of(&pins::object_name(backup), error, remedy));
            }
            if !there.contains(&backup) {
                let note = format!("backup {backup} is pinned and gone; abbild pin --remove {backup}");
                self.report.notes.push(note);
            }
        }
        Ok(())
    }

    /// What prunes leave for each other, forgotten backups, and what lies in the trash.
    fn prunes(&mut self, all_data: bool) -> Result<(), OpsError> {
        let (store, keys) = (self.repository.store(), self.repository.keys());
        let aside = |name: &ObjectName| Remedy::PutAside { sealed_as: name.clone(), at: name.clone() };
        for name in store::names(store, records::TOMBSTONES)? {
            self.read(&name, aside(&name), || records::load_tombstones(store, keys, &name))?;
        }
        for name in store::names(store, records::CLOSINGS)? {
            self.read(&name, aside(&name), || records::load_closing(store, keys, &name))?;
        }
        let forgotten = forgotten::list(store)?;
        for backup in &forgotten {
            let sealed_as = manifest::object_name(backup.backup);
            let remedy = Remedy::PutAside { sealed_as, at: backup.name.clone() };
            self.read(&backup.name, remedy, || forgotten::load(self.repository, backup))?;
        }
        let trashed = trash::list(store)?;
        for trashed in &trashed {
            let sealed_as = pack::object_name(trashed.id);
            let remedy = Remedy::PutAside { sealed_as, at: trashed.name.clone() };
            let read = if all_data { reader::verify_at } else { reader::read_record_at };
            self.read(&trashed.name, remedy, || read(store, keys, trashed.id, &trashed.name))?;
        }
        let notes = &mut self.report.notes;
        if !forgotten.is_empty() {
            notes.push(format!("{} forgotten backups can be brought back until they are pruned", forgotten.len()));
        }
        if !trashed.is_empty() {
            notes.push(format!("{} packs in the trash wait for a prune", trashed.len()));
        }
        Ok(())
    }

    fn segments(&mut self) -> Result<(), OpsError> {
        for name in self.repository.segment_names()? {
            self.read(&name, Remedy::Segment(name.clone()), || self.repository.read_segment(&name))?;
        }
        Ok(())
    }

    /// What writers that died left unfinished, or writers at work have not finished: it is only named.
    fn unfinished(&mut self) -> Result<(), OpsError> {
        let (mut names, mut count) = (Vec::new(), 0usize);
        let store = self.repository.store();
        store.unfinished("", &mut |name| {
            count += 1;
            if names.len() < NAMES_TOLD {
                names.push(name.to_owned());
            }
            std::ops::ControlFlow::Continue(())
        })?;
        if count > 0 {
            let more = if count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
            let notes = &mut self.report.notes;
            notes.push(format!("unfinished, by a run at work or one that died: {}{more}", names.join(", ")));
        }
        Ok(())
    }
}

/// The packs that sound index segments name.
pub fn named_packs(repository: &Repository) -> Result<HashSet<PackId>, RepoError> {
    let mut named = HashSet::new();
    for name in repository.segment_names()? {
        match twice(|| repository.read_segment(&name)) {
            Ok(packs) => named.extend(packs.into_iter().map(|pack| pack.id)),
            Err(error) if is_of_object(repository, &error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}
