//! Check: is every backup still whole? Looks at all metadata always, at the data of packs if asked.
//!
//! Nothing is believed because the index says so: each pack's own directory is read from the store and compared. The
//! store is not changed; what is wrong is reported with what it hits. This host's cache remembers packs that were found
//! damaged: no later backup relies on them, so what they held is stored again when it is seen.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::event::{Control, Event};
use super::{OpsError, worker_count};
use crate::repo::gc::{forgotten, records, trash};
use crate::repo::ids::{BackupId, ChunkId, PackId};
use crate::repo::manifest::Manifest;
use crate::repo::map::{ListEntry, MapShape, decode_list};
use crate::repo::pack::{self, reader};
use crate::repo::pins::{self, Pins};
use crate::repo::store::StoreError;
use crate::repo::{RepoError, Repository, listed_packs, session};

/// Packs verified at once: each lies in memory whole, 64 MiB.
const READERS_MAX: usize = 2;

/// How much data to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReadData {
    /// None: metadata only.
    Nothing,
    /// So many percent of the packs, drawn at random.
    Percent(f64),
}

/// Something that is wrong.
#[derive(Debug, serde::Serialize)]
pub struct Fault {
    /// The object, or the part of a backup.
    pub what: String,
    /// What is wrong with it.
    pub message: String,
}

/// What a check found.
#[derive(Debug, Default, serde::Serialize)]
pub struct CheckReport {
    /// Backups looked at.
    pub backups: usize,
    /// Packs in the store.
    pub packs: usize,
    /// Packs whose data was read and verified.
    pub packs_read: usize,
    /// Bytes of packs read.
    pub bytes_read: u64,
    /// Chunks that the backups' maps refer to (each counted once a segment list).
    pub chunks_referred: u64,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Backups that cannot be restored whole: `machine (id): first reason`.
    pub damaged_backups: Vec<String>,
    /// Odd, but nothing is lost by it.
    pub warnings: Vec<String>,
    /// What a running or a killed run leaves; harmless.
    pub notes: Vec<String>,
}

/// Checks a repository.
///
/// # Errors
/// [`OpsError`] if the check itself cannot go on; what is wrong with the repository is in the report.
pub fn check(repository: &Arc<Repository>, read_data: ReadData, control: Control<'_>) -> Result<CheckReport, OpsError> {
    let mut report = CheckReport::default();
    control.tell(Event::Step("checking keys, sessions and index segments"));
    small_objects(repository, &mut report)?;
    let bad_packs = packs(repository, read_data, control, &mut report)?;
    backups(repository, &bad_packs, control, &mut report)?;
    Ok(report)
}

fn fault(report: &mut CheckReport, what: impl ToString, error: &RepoError) {
    report.faults.push(Fault { what: what.to_string(), message: error.to_string() });
}

/// The same for an object that was listed; one that is gone by now was removed by a run beside us.
fn fault_unless_gone(report: &mut CheckReport, what: impl ToString, error: &RepoError) {
    if !matches!(error, RepoError::Store(StoreError::NotFound { .. })) {
        fault(report, what, error);
    }
}

fn small_objects(repository: &Repository, report: &mut CheckReport) -> Result<(), OpsError> {
    let store = repository.store();
    let plain = crate::repo::config::Config::faults(store).into_iter().chain(crate::repo::keys::faults(store)?);
    for (name, error) in plain {
        fault(report, name, &error);
    }
    let (sessions, generations) = session::names(store)?;
    for name in &sessions {
        match session::load_session(store, repository.keys(), name) {
            Ok(session) => report.notes.push(format!(
                "a session of {} (process {}, begun {}) has not ended: it is running, or it died and is harmless",
                session.host, session.process, session.started
            )),
            Err(error) => fault_unless_gone(report, name, &error),
        }
    }
    for name in &generations {
        if let Err(error) = session::load_generation(store, repository.keys(), name) {
            fault_unless_gone(report, name, &error);
        }
    }
    if generations.is_empty() {
        report.faults.push(Fault { what: "generations".to_owned(), message: "there is none".to_owned() });
    }
    prunes(repository, report)?;
    pinned(repository, report)?;
    for name in repository.segment_names()? {
        if let Err(error) = repository.read_segment(&name) {
            fault_unless_gone(report, &name, &error);
        }
    }
    let mut foreign = 0usize;
    store
        .foreign("", &mut |_| {
            foreign += 1;
            std::ops::ControlFlow::Continue(())
        })
        .map_err(RepoError::from)?;
    if foreign > 0 {
        report.notes.push(format!("{foreign} files in the store are none of ours, or were left by a run that died"));
    }
    Ok(())
}

/// What prunes leave for each other, forgotten backups, and what lies in the trash.
fn prunes(repository: &Repository, report: &mut CheckReport) -> Result<(), OpsError> {
    let (store, keys) = (repository.store(), repository.keys());
    for name in records::names(store, records::TOMBSTONES)? {
        if let Err(error) = records::load_tombstones(store, keys, &name) {
            fault_unless_gone(report, &name, &error);
        }
    }
    for name in records::names(store, records::CLOSINGS)? {
        if let Err(error) = records::load_closing(store, keys, &name) {
            fault_unless_gone(report, &name, &error);
        }
    }
    let forgotten = forgotten::list(store)?;
    for backup in &forgotten {
        if let Err(error) = forgotten::load(repository, backup) {
            fault_unless_gone(report, &backup.name, &error);
        }
    }
    let trashed = trash::list(store)?;
    for pack in &trashed {
        if let Err(error) = reader::read_record_at(store, keys, pack.id, &pack.name) {
            fault_unless_gone(report, &pack.name, &error);
        }
    }
    if !forgotten.is_empty() {
        report.notes.push(format!("{} forgotten backups can be brought back until they are pruned", forgotten.len()));
    }
    if !trashed.is_empty() {
        report.notes.push(format!("{} packs in the trash wait for a prune", trashed.len()));
    }
    Ok(())
}

/// Pins, and pins of nothing: only who made one takes it away.
fn pinned(repository: &Repository, report: &mut CheckReport) -> Result<(), OpsError> {
    let store = repository.store();
    let pins = Pins::load(store, repository.keys())?;
    // Forgotten ones before and after those in use: one that is brought back meanwhile is in one of the listings.
    let mut there: HashSet<BackupId> = forgotten::list(store)?.into_iter().map(|forgotten| forgotten.backup).collect();
    there.extend(repository.backup_ids()?);
    there.extend(forgotten::list(store)?.into_iter().map(|forgotten| forgotten.backup));
    for (backup, pin) in pins.iter() {
        if let Err(error) = pin {
            fault(report, pins::object_name(backup), error);
        }
        if !there.contains(&backup) {
            report.notes.push(format!("backup {backup} is pinned and gone; abbild pin --remove {backup}"));
        }
    }
    Ok(())
}

/// Looks at every pack: its own directory against the index, and all of its data for those that are drawn. Gives the
/// packs that cannot be relied on.
fn packs(
    repository: &Repository,
    read_data: ReadData,
    control: Control<'_>,
    report: &mut CheckReport,
) -> Result<HashSet<PackId>, OpsError> {
    let synced = repository.sync_index(&mut |_| {})?;
    for (object, error) in &synced.damaged {
        if !report.faults.iter().any(|fault| fault.what == *object) {
            fault(report, object, error);
        }
    }
    for id in &synced.vanished {
        let message = "it has vanished from the store".to_owned();
        report.faults.push(Fault { what: pack::object_name(*id).to_string(), message });
    }
    let mut packs: Vec<(PackId, u64)> = listed_packs(repository.store())?.into_iter().collect();
    packs.sort();
    report.packs = packs.len();
    let drawn = draw(&packs, read_data);
    let bytes: u64 = packs.iter().filter(|(id, _)| drawn.contains(id)).map(|(_, len)| len).sum();
    control.tell(Event::Begin { what: "packs", bytes });
    let shared = Mutex::new((report, HashSet::new(), HashSet::new()));
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || -> Result<(), OpsError> {
        loop {
            let Some((id, len)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            if control.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let read_it = drawn.contains(id);
            let record = if read_it {
                reader::verify(repository.store(), repository.keys(), *id)
            } else {
                reader::read_record(repository.store(), repository.keys(), *id)
            };
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (report, good, bad) = &mut *shared;
            if read_it {
                report.packs_read += 1;
                report.bytes_read += len;
                control.tell(Event::Done(*len));
            }
            match record {
                Ok(record) => {
                    good.insert(
                        *blake3::hash(&[id.0.as_slice(), &record.header, &record.directory].concat()).as_bytes(),
                    );
                }
                Err(RepoError::Store(error @ StoreError::Io { .. })) => return Err(RepoError::Store(error).into()),
                // A prune that runs beside us took it out of use; the maps will tell if it is needed.
                Err(RepoError::Store(StoreError::NotFound { .. })) if was_pruned(repository, *id)? => {}
                Err(error) => {
                    if !report.faults.iter().any(|fault| fault.what == pack::object_name(*id).as_str()) {
                        fault(report, pack::object_name(*id), &error);
                    }
                    bad.insert(*id);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..worker_count().min(READERS_MAX) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    next.store(packs.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    control.tell(Event::End);
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let (report, good, bad) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    compare_index(repository, &good, &bad, report)?;
    // From now on nothing relies on them: what they hold is stored again when the next backup sees it.
    repository.note_rotten(&bad.iter().copied().collect::<Vec<_>>())?;
    Ok(bad)
}

/// Whether a pack that is missing was taken out of use.
fn was_pruned(repository: &Repository, id: PackId) -> Result<bool, RepoError> {
    let store = repository.store();
    let trashed = trash::list(store)?.iter().any(|trashed| trashed.id == id);
    Ok(trashed || records::entombed(store, repository.keys())?.contains(&id))
}

/// What the index remembers of each sound pack must be what the pack itself says; if not, the index is built anew.
fn compare_index(
    repository: &Repository,
    good: &HashSet<[u8; 32]>,
    bad: &HashSet<PackId>,
    report: &mut CheckReport,
) -> Result<(), OpsError> {
    let mut differing = 0usize;
    let mut same = 0usize;
    repository.index().each_pack(|pack| {
        let digest = *blake3::hash(&[pack.id.0.as_slice(), &pack.header, &pack.directory].concat()).as_bytes();
        if good.contains(&digest) {
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

fn draw(packs: &[(PackId, u64)], read_data: ReadData) -> HashSet<PackId> {
    let ReadData::Percent(percent) = read_data else { return HashSet::new() };
    let wanted = (packs.len() as f64 * (percent / 100.0).clamp(0.0, 1.0)).ceil() as usize;
    // Ordered by a random key: every set of that size is equally likely.
    let mut keyed: BTreeMap<[u8; 16], PackId> = BTreeMap::new();
    for (id, _) in packs {
        keyed.insert(crate::repo::ids::random(), *id);
    }
    keyed.into_values().take(wanted).collect()
}

/// Walks every backup's maps; each chunk must be in a pack that can be relied on.
fn backups(
    repository: &Arc<Repository>,
    bad_packs: &HashSet<PackId>,
    control: Control<'_>,
    report: &mut CheckReport,
) -> Result<(), OpsError> {
    control.tell(Event::Step("checking the backups' maps"));
    let mut walk = Walk { repository, bad_packs, good_lists: HashSet::new(), chunks: 0 };
    let mut ids: Vec<BackupId> = repository.backup_ids()?;
    ids.sort();
    report.backups = ids.len();
    for id in ids {
        if control.interrupted() {
            return Err(OpsError::Interrupted);
        }
        // One at a time: there may be very many.
        let manifest = match repository.manifest(id) {
            Ok(manifest) => manifest,
            // Forgotten since it was listed.
            Err(RepoError::Store(StoreError::NotFound { .. })) => continue,
            Err(error) => {
                fault(report, crate::repo::manifest::object_name(id), &error);
                report.damaged_backups.push(format!("{id}: its manifest cannot be read"));
                continue;
            }
        };
        if let Err(error) = walk.backup(&manifest) {
            let reason = format!("{} ({}): {error}", manifest.machine, manifest.backup);
            report.damaged_backups.push(reason);
        }
    }
    report.chunks_referred = walk.chunks;
    Ok(())
}

struct Walk<'a> {
    repository: &'a Arc<Repository>,
    bad_packs: &'a HashSet<PackId>,
    /// Nodes and lists found whole: backups share most of them.
    good_lists: HashSet<ChunkId>,
    chunks: u64,
}

impl Walk<'_> {
    fn backup(&mut self, manifest: &Manifest) -> Result<(), RepoError> {
        for (number, record) in manifest.disks.iter().enumerate() {
            let needed_by = || format!("disk {} of {}", record.slot, manifest.machine);
            if record.root == ChunkId::ZERO || self.good_lists.contains(&record.root) {
                continue;
            }
            self.chunk(record.root, &needed_by)?;
            let disk = self.repository.disk(manifest, number)?;
            for (node, id) in (0u64..).zip(disk.nodes().to_vec()) {
                if id == ChunkId::ZERO || self.good_lists.contains(&id) {
                    continue;
                }
                self.chunk(id, &needed_by)?;
                let lists = disk.node(node)?;
                for (segment, list) in (node * crate::repo::map::NODE_SEGMENTS..).zip(lists.iter()) {
                    self.list(*list, disk.shape().segment_len(segment), &needed_by)?;
                }
                self.good_lists.insert(id);
            }
            self.good_lists.insert(record.root);
        }
        for file in &manifest.files {
            let needed_by = || format!("file {} of {}", file.name, manifest.machine);
            let shape = MapShape::new(file.len);
            for (segment, list) in (0u64..).zip(&file.segments) {
                self.list(*list, shape.map_or(0, |shape| shape.segment_len(segment)), &needed_by)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, id: ChunkId, segment_len: usize, needed_by: &dyn Fn() -> String) -> Result<(), RepoError> {
        if id == ChunkId::ZERO || self.good_lists.contains(&id) {
            return Ok(());
        }
        self.chunk(id, needed_by)?;
        let bytes = self.repository.read_chunk(id, needed_by)?;
        let entries = decode_list(&bytes, segment_len).map_err(|error| RepoError::Damaged {
            object: format!("map chunk {id} of {}", needed_by()),
            field: "segment list",
            at: 0,
            expected: format!("one of {segment_len} bytes"),
            found: error.to_string(),
        })?;
        for entry in entries {
            if let ListEntry::Chunk(chunk, len) = entry {
                let found = self.chunk(chunk, needed_by)?;
                if found != len {
                    return Err(RepoError::Damaged {
                        object: format!("map chunk {id} of {}", needed_by()),
                        field: "chunk length",
                        at: 0,
                        expected: found.to_string(),
                        found: len.to_string(),
                    });
                }
                self.chunks += 1;
            }
        }
        self.good_lists.insert(id);
        Ok(())
    }

    /// The chunk must be in a pack that can be relied on; gives its length.
    fn chunk(&self, id: ChunkId, needed_by: &dyn Fn() -> String) -> Result<u32, RepoError> {
        match self.repository.find_chunk(id)? {
            Some(found) if !self.bad_packs.contains(&found.pack.id) => return Ok(found.place.len),
            Some(_) => {}
            // A prune that runs now, or the next one, brings it back into use.
            None => match self.repository.locate(id, needed_by) {
                Ok(found) => return Ok(found.place.len),
                Err(RepoError::MissingChunk { .. }) => {}
                Err(error) => return Err(error),
            },
        }
        Err(RepoError::MissingChunk { id, needed_by: needed_by() })
    }
}
