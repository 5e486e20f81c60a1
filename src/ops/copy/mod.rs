//! Copy: backups of one repository go into another, with keys of its own; only what is not there yet.
//!
//! A copy is a backup whose source is a backup: the disks are read as any reader reads them, every chunk id verified, and
//! take the ordinary way in (`repo::intake`), cut with the destination's own gear table. So a copy shares its chunks with
//! backups that were made there directly, everything that holds for a backup holds for it, and a copy that died is
//! nothing but chunks that the next one finds. Its manifest says what the backup's says, and what it is a copy of.
//!
//! In here: what is to be read on which side, and in which order (`plan` decides purely what is to be copied; `disk` copies
//! one; `verify` reads both sides again). Not in here: where the repositories are, what becomes of one that fails.
//!
//! Beside prunes: in the destination a copy is a writer as any other. In the source it holds a session, so that what was
//! forgotten and pruned meanwhile stays in the trash, where readers look.

mod disk;
mod error;
mod plan;
mod verify;

use std::sync::Arc;
use std::time::Instant;

pub use error::CopyError;
pub use plan::{Selection, Verdict, origin_of, plan};

use super::event::{Control, Event};
use crate::repo::gc::forgotten;
use crate::repo::ids::BackupId;
use crate::repo::intake::{self, Intake, State};
use crate::repo::manifest::{self, DiskRecord, FileRecord, Manifest, Origin, Statistics};
use crate::repo::run::{Committed, Run};
use crate::repo::session::{OpenSession, renewal};
use crate::repo::store::StoreError;
use crate::repo::{RepoError, Repository};
use disk::Reference;
use error::{destination, source};

/// What the source's session says it does, and the destination's.
const WORK: &str = "copy";

/// Copies backups.
pub struct Copier<'r> {
    sides: Sides<'r>,
    /// What is written to the destination.
    run: Run<'r>,
    /// None if nothing can be written to the source.
    session: Option<OpenSession<'r>>,
    /// When it began, or was renewed.
    renewed: Instant,
    /// The source's backups that cannot be read.
    unreadable: Vec<(BackupId, RepoError)>,
    warnings: Vec<String>,
}

/// Two repositories, and what was in them when it was looked.
struct Sides<'r> {
    from: &'r Arc<Repository>,
    to: &'r Arc<Repository>,
    /// The source's backups, oldest first.
    backups: Vec<Manifest>,
    /// The destination's backups, oldest first; with those copied since.
    there: Vec<Manifest>,
    /// The destination's forgotten ones that can be read.
    forgotten_there: Vec<Manifest>,
}

/// The backup that a copy builds on: the same one, here and there.
struct Earlier<'m> {
    backup: &'m Manifest,
    copy: &'m Manifest,
}

impl<'r> Copier<'r> {
    /// Looks at both repositories, in a session of the source.
    ///
    /// # Errors
    /// [`CopyError::SameRepository`]; what either repository says.
    pub fn begin(
        from: &'r Arc<Repository>,
        to: &'r Arc<Repository>,
        control: Control<'_>,
    ) -> Result<Copier<'r>, CopyError> {
        if from.config().repository == to.config().repository {
            return Err(CopyError::SameRepository { repository: from.config().repository });
        }
        control.tell(Event::Step("looking at both repositories"));
        let mut warnings = Vec::new();
        let session = match OpenSession::begin(from.store(), from.keys(), WORK) {
            Ok(session) => Some(session),
            Err(error) if is_read_only(&error) => {
                warnings.push(format!(
                    "the repository that is copied from cannot be written to, so a prune there may not notice the copy: {error}"
                ));
                None
            }
            Err(error) => return Err(source(error)),
        };
        // After the session: whatever is found from now on, no prune deletes while it is held.
        let synced = from.sync_index(&mut |_| {}).map_err(source)?;
        warnings.extend(synced.damaged.iter().map(|(object, error)| format!("{object} is damaged: {error}")));
        if !synced.vanished.is_empty() {
            let count = synced.vanished.len();
            warnings.push(format!("{count} packs have vanished from the repository that is copied from"));
        }
        let mut unreadable = Vec::new();
        let backups = from.manifests(&mut |id, error| unreadable.push((id, error))).map_err(source)?;
        let mut unreadable_there = Vec::new();
        let there = to.manifests(&mut |id, error| unreadable_there.push((id, error))).map_err(destination)?;
        for (id, error) in unreadable_there {
            warnings.push(format!("backup {id} of the repository that is copied to cannot be read: {error}"));
        }
        let forgotten = forgotten::list(to.store()).map_err(destination)?;
        let forgotten_there = forgotten.iter().filter_map(|forgotten| forgotten::load(to, forgotten).ok()).collect();
        let sides = Sides { from, to, backups, there, forgotten_there };
        Ok(Copier { sides, run: Run::new(to, WORK), session, renewed: Instant::now(), unreadable, warnings })
    }

    /// The source's backups, oldest first.
    pub fn backups(&self) -> &[Manifest] {
        &self.sides.backups
    }

    /// The source's backups that cannot be read, and why.
    pub fn unreadable(&self) -> &[(BackupId, RepoError)] {
        &self.unreadable
    }

    /// What was odd when it was looked.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What is to become of each backup of the source.
    pub fn plan(&self, selection: &Selection) -> Vec<(BackupId, Verdict)> {
        let Sides { from, to, backups, there, forgotten_there } = &self.sides;
        plan(selection, (from.config().repository, backups), (to.config().repository, there, forgotten_there))
    }

    /// Copies a backup of the source. With `verify` the copy is read back and compared before it is reported.
    ///
    /// # Errors
    /// [`CopyError`]; nothing was copied then. What was stored so far is found again by the next copy.
    pub fn copy(&mut self, backup: BackupId, verify: bool, control: Control<'_>) -> Result<Committed, CopyError> {
        let began = Instant::now();
        self.stay_alive();
        let sides = &self.sides;
        let (from, to) = (sides.from, sides.to);
        let wanted = sides.backups.iter().find(|manifest| manifest.backup == backup);
        let wanted = wanted
            .ok_or_else(|| source(RepoError::UnknownBackup { wanted: backup.to_string(), candidates: Vec::new() }))?;
        let mut warnings = Vec::new();
        let (held, synced) = self.run.look().map_err(destination)?;
        let vanished = synced.map_or(0, |synced| {
            warnings.extend(synced.warnings());
            synced.vanished.len()
        });
        let earlier = if vanished > 0 {
            warnings.push(format!(
                "{vanished} packs have vanished from the repository that is copied to; what they held is stored again"
            ));
            None
        } else {
            sides.earlier(wanted)?
        };
        warnings.iter().for_each(|warning| control.tell(Event::Warning(warning)));

        let state = State::default();
        let origin = origin_of(wanted, from.config().repository);
        let manifest = intake::run_in(
            to,
            held,
            &state,
            |intake| {
                let mut copy = draft(wanted, origin, earlier.as_ref());
                copy.backup = intake.backup_id();
                let context = disk::Context { intake, state: &state, control };
                for (number, record) in wanted.disks.iter().enumerate() {
                    let reference = earlier.as_ref().and_then(|earlier| sides.reference(earlier, record, control));
                    let read = from.disk(wanted, number).map_err(source)?;
                    let (root, statistics) = disk::copy(&context, &record.slot, &read, reference.as_ref())?;
                    copy.disks.push(DiskRecord { root, statistics, ..record.clone() });
                }
                copy.files = sides.files(intake, wanted, earlier.as_ref(), control)?;
                if control.interrupted() {
                    return Err(CopyError::Interrupted);
                }
                control.tell(Event::Step("making it durable"));
                Ok(copy)
            },
            |copy| copy.statistics = state.counters.of(copy, began),
        )?;
        if verify {
            let verified = verify::compare((from, wanted), (to, &manifest), control);
            verified.inspect_err(|_| {
                // Never report a copy that is none; the next one finds its chunks, and is compared again.
                let _ = to.store().remove(&manifest::object_name(manifest.backup));
            })?;
        }
        self.sides.there.push(manifest.clone());
        Ok(Committed { manifest, warnings })
    }

    /// Ends the sessions; gives what went wrong, which takes nothing back.
    pub fn end(self) -> Vec<String> {
        let mut warnings = self.run.end();
        if let Some(Err(error)) = self.session.map(OpenSession::end) {
            warnings.push(format!("the session in the repository that is copied from could not be removed: {error}"));
        }
        warnings
    }

    /// A long history outlasts a session. Should it be lost all the same, what a prune took is noticed when it is read.
    fn stay_alive(&mut self) {
        if let Some(session) = self.session.as_ref().filter(|_| self.renewed.elapsed() >= renewal::EVERY) {
            let _ = session.renew(self.sides.from.keys(), jiff::Timestamp::now());
            self.renewed = Instant::now();
        }
    }
}

impl Sides<'_> {
    /// The backup of the same machine that was copied before and is nearest: what it has in common is taken over. Looked
    /// for after the destination's session began.
    fn earlier(&self, wanted: &Manifest) -> Result<Option<Earlier<'_>>, CopyError> {
        let doubted = self.to.index().doubted().map_err(destination)?;
        let (from, to) = (self.from.config().repository, self.to.config().repository);
        for backup in plan::nearest(wanted, &self.backups) {
            let origin = origin_of(backup, from);
            let copies = self.there.iter().rev().filter(|copy| origin_of(copy, to) == origin);
            for copy in copies.filter(|copy| copy.copied_from.is_some() && !doubted.contains(&copy.backup)) {
                // It may have been forgotten since it was read.
                match self.to.store().len(&manifest::object_name(copy.backup)) {
                    Ok(_) => return Ok(Some(Earlier { backup, copy })),
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(destination(error.into())),
                }
            }
        }
        Ok(None)
    }

    /// The disk of the earlier backup that `record`'s is compared with, here and there.
    fn reference(&self, earlier: &Earlier<'_>, record: &DiskRecord, control: Control<'_>) -> Option<Reference> {
        let same = |other: &DiskRecord| other.slot == record.slot && other.size == record.size;
        let number = earlier.backup.disks.iter().position(same)?;
        earlier.copy.disks.get(number).filter(|copy| same(copy))?;
        let open = || -> Result<Reference, RepoError> {
            let source = self.from.disk(earlier.backup, number)?;
            Ok(Reference { source, copy: self.to.disk(earlier.copy, number)? })
        };
        open()
            .inspect_err(|error| {
                let backup = earlier.backup.backup;
                let warning = format!("disk {}: backup {backup} cannot be built on, all is read: {error}", record.slot);
                control.tell(Event::Warning(&warning));
            })
            .ok()
    }

    /// Copies the definition files.
    fn files(
        &self,
        intake: &Intake<'_>,
        wanted: &Manifest,
        earlier: Option<&Earlier<'_>>,
        control: Control<'_>,
    ) -> Result<Vec<FileRecord>, CopyError> {
        control.tell(Event::Step("copying the definition files"));
        let mut writer = intake.writer();
        let mut records = Vec::new();
        for file in &wanted.files {
            if control.interrupted() {
                return Err(CopyError::Interrupted);
            }
            let segments = match earlier.and_then(|earlier| earlier.file(file)) {
                Some(copied) => copied.segments.clone(),
                None => {
                    let bytes = super::definition_file::read(self.from, file).map_err(source)?;
                    let stored = bytes.chunks(crate::chunker::SEGMENT_BYTES).map(|part| writer.store_segment(part));
                    stored.collect::<Result<_, _>>().map_err(destination)?
                }
            };
            records.push(FileRecord { segments, ..file.clone() });
        }
        writer.flush().map_err(destination)?;
        Ok(records)
    }
}

impl Earlier<'_> {
    /// The copy of a definition file with the same content as `file`.
    fn file(&self, file: &FileRecord) -> Option<&FileRecord> {
        let same = |other: &FileRecord| other.len == file.len && other.segments == file.segments;
        let number = self.backup.files.iter().position(same)?;
        self.copy.files.get(number).filter(|copy| copy.len == file.len && copy.segments.len() == file.segments.len())
    }
}

/// The manifest of a copy, with no disks and files yet. What says how the source was obtained stays, so that a later backup
/// into the destination can build on the copy; what says how it got into the repository is the copy's own.
fn draft(backup: &Manifest, origin: Origin, earlier: Option<&Earlier<'_>>) -> Manifest {
    Manifest {
        parent: earlier.map(|earlier| earlier.copy.backup),
        copied_from: Some(origin),
        disks: Vec::new(),
        files: Vec::new(),
        statistics: Statistics::default(),
        ..backup.clone()
    }
}

fn is_read_only(error: &RepoError) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error, RepoError::Store(StoreError::Io { source, .. })
        if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
}
