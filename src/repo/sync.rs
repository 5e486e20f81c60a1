//! Bringing the index up to date with the store: from index segments where there are any, from the packs' own
//! directories where there are none. With an empty index this is the rebuild.

use std::collections::HashSet;

use super::error::RepoError;
use super::gc::{records, trash};
use super::ids::PackId;
use super::index::{decode_segment, encode_segment};
use super::pack::reader;
use super::pack::{Directory, writer::FinishedPack};
use super::seal::Kind;
use super::store::{self, ObjectName, StoreError};
use super::{Repository, listed_packs, object, session};

/// Folder of index segments in the store.
pub const FOLDER: &str = "index";

/// What a synchronisation did.
#[derive(Debug, Default)]
pub struct SyncReport {
    /// Packs in the index afterwards.
    pub packs: usize,
    /// Index segments read.
    pub segments_read: usize,
    /// Packs whose own directory had to be read because no segment lists them.
    pub directories_read: usize,
    /// Packs that the index knew, or an index segment names, and the store no longer has: the index was built anew, and
    /// what they held counts as lost until it is seen again. Each is reported once; the index remembers them.
    pub vanished: Vec<PackId>,
    /// Packs that the index knew and a prune took out of use.
    pub pruned: usize,
    /// Whether a prune began since this host last listed the store, or may have: what is missing may have been pruned, or
    /// brought back and then lost. What a new backup takes over unread is to be proven then.
    pub generation_moved: bool,
    /// Index segments and packs that could not be read, and why. Their chunks are not in the index.
    pub damaged: Vec<(String, RepoError)>,
}

impl SyncReport {
    /// A sentence for each object that is damaged.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.damaged.iter().map(|(object, error)| format!("{object} is damaged and not used: {error}"))
    }
}

/// How far a synchronisation is.
#[derive(Clone, Copy, Debug)]
pub struct SyncProgress {
    /// Packs done.
    pub done: usize,
    /// Packs to do.
    pub total: usize,
}

impl Repository {
    /// Adds what other hosts, or a run that died, have stored since; forgets what is gone.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Index`]. Damaged objects are reported, not errors: they concern only some.
    pub fn sync_index(&self, progress: &mut dyn FnMut(SyncProgress)) -> Result<SyncReport, RepoError> {
        match self.try_sync_index(progress) {
            Err(error) if error.is_damaged_index() => {
                self.index.recreate()?;
                self.forget_rows();
                self.try_sync_index(progress)
            }
            outcome => outcome,
        }
    }

    fn try_sync_index(&self, progress: &mut dyn FnMut(SyncProgress)) -> Result<SyncReport, RepoError> {
        // First what is known and what segments there are, then what is there: a pack that another process adds meanwhile
        // is then new, never gone.
        let generation = session::newest_generation(self.store())?;
        let indexed = self.index.pack_ids()?;
        let segments = self.segment_names()?;
        let listed = listed_packs(self.store())?;
        let lost_before = self.index.lost()?;
        let generation_moved = generation > 1 && self.index.generation()? != generation;
        let mut report = SyncReport { generation_moved, ..SyncReport::default() };
        let mut known: HashSet<PackId> = HashSet::new();
        for (id, len) in indexed {
            if listed.get(&id) == Some(&len) {
                known.insert(id);
            } else {
                report.vanished.push(id);
            }
        }
        let mut pruned = HashSet::new();
        if !report.vanished.is_empty() {
            pruned = self.taken_out_of_use(&report.vanished)?;
            let gone: Vec<PackId> = report.vanished.iter().copied().filter(|id| pruned.contains(id)).collect();
            self.index.drop_packs(&gone)?;
            report.vanished.retain(|id| !pruned.contains(id));
            report.pruned = gone.len();
        }
        if !report.vanished.is_empty() {
            self.note_lost(&report.vanished)?; // before the rows go that prove it
            self.index.clear()?;
            self.forget_rows();
            known.clear();
        }
        let named = self.read_segments(&segments, &listed, &mut known, &mut report, progress)?;
        let is_news = |id: &PackId| !lost_before.contains(id) && !pruned.contains(id) && !report.vanished.contains(id);
        let mut lost: Vec<PackId> = named.into_iter().filter(is_news).collect();
        if !lost.is_empty() {
            let pruned = self.taken_out_of_use(&lost)?;
            lost.retain(|id| !pruned.contains(id));
        }
        report.vanished.extend_from_slice(&lost);
        let mut missing: Vec<PackId> = listed.keys().copied().filter(|id| !known.contains(id)).collect();
        missing.sort();
        for id in missing {
            progress(SyncProgress { done: known.len(), total: listed.len() });
            match reader::read_record(self.store(), &self.keys, id) {
                Ok(pack) => {
                    self.add_to_index(&[pack])?;
                    known.insert(id);
                    report.directories_read += 1;
                }
                Err(RepoError::Store(StoreError::NotFound { .. })) => {} // gone between listing and reading
                Err(error) => {
                    if !lost_before.contains(&id) {
                        lost.push(id);
                    }
                    report.damaged.push((super::pack::object_name(id).to_string(), error));
                }
            }
        }
        self.note_lost(&lost)?;
        for id in lost_before.intersection(&known) {
            self.index.note_found(*id)?;
        }
        report.packs = known.len();
        self.index.set_generation(generation)?;
        Ok(report)
    }

    /// Those of `missing` that a prune took out of use, and nobody lost.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Index`].
    pub fn taken_out_of_use(&self, missing: &[PackId]) -> Result<HashSet<PackId>, RepoError> {
        let mut pruned = records::entombed(self.store(), &self.keys)?;
        pruned.extend(trash::list(self.store())?.into_iter().map(|trashed| trashed.id));
        // The tombstones of so long ago are gone: nobody can tell any more. Prunes may have come and gone since we began.
        let (seen, newest) = (self.index.generation()?, session::newest_generation(self.store())?);
        if seen > 0 && newest.saturating_sub(seen) >= records::TOMBSTONES_KEPT {
            pruned.extend(missing);
        }
        Ok(pruned)
    }

    /// Nothing may be built on backups that may need what is lost: they hold their places, and restore what is left.
    fn note_lost(&self, packs: &[PackId]) -> Result<(), RepoError> {
        if packs.is_empty() { Ok(()) } else { self.index.note_lost(packs, &self.backup_ids()?) }
    }

    /// Notes packs that are listed but damaged inside: nothing new relies on them, and nothing is built on what there is.
    ///
    /// # Errors
    /// [`RepoError::Index`], [`RepoError::Store`].
    pub fn note_rotten(&self, packs: &[PackId]) -> Result<(), RepoError> {
        if packs.is_empty() {
            return Ok(());
        }
        self.index.note_lost(&[], &self.backup_ids()?)?;
        self.index.note_rotten(packs)
    }

    /// Forgets the whole index and builds it anew.
    ///
    /// # Errors
    /// As [`Repository::sync_index`].
    pub fn rebuild_index(&self, progress: &mut dyn FnMut(SyncProgress)) -> Result<SyncReport, RepoError> {
        match self.index.clear() {
            Err(error) if error.is_damaged_index() => self.index.recreate()?,
            outcome => outcome?,
        }
        self.forget_rows();
        self.sync_index(progress)
    }

    /// Gives the packs that the newly read segments name and the store does not have.
    fn read_segments(
        &self,
        names: &[ObjectName],
        listed: &std::collections::HashMap<PackId, u64>,
        known: &mut HashSet<PackId>,
        report: &mut SyncReport,
        progress: &mut dyn FnMut(SyncProgress),
    ) -> Result<Vec<PackId>, RepoError> {
        let mut absent = Vec::new();
        let read_before = self.index.known_segments()?;
        for name in names.iter().filter(|name| !read_before.contains(name.as_str())) {
            progress(SyncProgress { done: known.len(), total: listed.len() });
            let packs = match self.read_segment(name) {
                Ok(packs) => packs,
                Err(RepoError::Store(StoreError::NotFound { .. })) => continue,
                Err(error) => {
                    report.damaged.push((name.to_string(), error));
                    continue;
                }
            };
            // Packs that the store does not list are no packs, whatever a segment says.
            let (present, gone): (Vec<FinishedPack>, Vec<FinishedPack>) =
                packs.into_iter().partition(|pack| listed.get(&pack.id) == Some(&pack.len));
            absent.extend(gone.iter().map(|pack| pack.id));
            self.add_to_index(&present)?;
            known.extend(present.iter().map(|pack| pack.id));
            let named = present.iter().chain(&gone).map(|pack| pack.id);
            self.index.remember_segment(name.as_str(), named)?;
            report.segments_read += 1;
        }
        Ok(absent)
    }

    /// The names of all index segments.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn segment_names(&self) -> Result<Vec<ObjectName>, RepoError> {
        Ok(store::names(self.store(), FOLDER)?)
    }

    /// Reads one index segment.
    ///
    /// # Errors
    /// [`RepoError::Damaged`], [`RepoError::Store`].
    pub fn read_segment(&self, name: &ObjectName) -> Result<Vec<FinishedPack>, RepoError> {
        let payload = object::get(self.store(), &self.keys, Kind::IndexSegment, name)?;
        let packs = decode_segment(name.as_str(), &payload)?;
        for pack in &packs {
            decode(pack)?;
        }
        Ok(packs)
    }

    /// Publishes the directories of `packs` as an index segment.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Index`].
    pub(super) fn publish_segment(&self, packs: &[FinishedPack]) -> Result<u64, RepoError> {
        let id = super::ids::ObjectId(super::ids::random());
        let name = ObjectName::new(&format!("{FOLDER}/{id}")).expect("hex digits make a good name");
        let bytes = object::encode(&self.keys, Kind::IndexSegment, &name, &encode_segment(packs));
        self.store.put_exclusive(&name, &bytes)?;
        self.index.remember_segment(name.as_str(), packs.iter().map(|pack| pack.id))?;
        Ok(bytes.len() as u64)
    }

    /// Adds durable packs to the index; gives their decoded directories back.
    ///
    /// # Errors
    /// [`RepoError::Index`], [`RepoError::Damaged`] for a directory that does not add up.
    pub(super) fn add_to_index(&self, packs: &[FinishedPack]) -> Result<Vec<Directory>, RepoError> {
        let directories = packs.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<_> = packs.iter().zip(&directories).collect();
        self.index.add(&pairs)?;
        Ok(directories)
    }
}

fn decode(pack: &FinishedPack) -> Result<Directory, RepoError> {
    Directory::decode(&pack.directory, pack.len).map_err(|error| RepoError::Damaged {
        object: super::pack::object_name(pack.id).to_string(),
        field: "directory",
        at: 0,
        expected: "a directory that adds up".to_owned(),
        found: error.to_string(),
    })
}
