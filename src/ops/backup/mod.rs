//! Backup: a machine's frozen view goes into the repository.
//!
//! In here: which level, which images, which earlier backup to build on, the manifest. Reading one disk is `disk`; which
//! of its segments may have changed is `plan`.
//!
//! Half a machine is never a backup: if one disk fails, nothing is committed.

mod disk;
mod files;
mod plan;
mod source;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::error::OpsError;
use super::event::{Control, Event};
use crate::machine::level::SnapshotChoice;
use crate::machine::{Machine, MachineIdentity, MachineKind};
use crate::ops::digest;
use crate::repo::Repository;
use crate::repo::brief::Brief;
use crate::repo::intake::{self, State};
use crate::repo::manifest::{Capture, Consistency, MANIFEST_VERSION, Manifest, Statistics};
use crate::repo::run::{Committed, Run};
use crate::repo::tag::{self, Tag};
use plan::Earlier;
use source::Source;
pub use source::{CurrentDisks, current_disks};

/// What the session says it does.
const WORK: &str = "backup";

/// What a backup is asked to do.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Which level of the machine.
    pub level: SnapshotChoice,
    /// Read everything, whatever earlier backups and redo logs say.
    pub full_read: bool,
    /// Folders besides the machine's own that its images may name files in.
    pub allowed_folders: Vec<PathBuf>,
    /// Read images as raw, whatever their first bytes say: a guest can write any magic there. For machines without a
    /// definition only.
    pub as_raw: bool,
    /// Words to choose the backup by later.
    pub tags: Vec<Tag>,
}

/// Takes a backup of `machine`, in a run of its own.
///
/// # Errors
/// As [`Backups::take`].
pub fn backup(
    repository: &Arc<Repository>,
    machine: &Machine,
    options: &BackupOptions,
    control: Control<'_>,
) -> Result<Committed, OpsError> {
    let mut backups = Backups::new(repository);
    let manifest = backups.take(machine, options, control)?;
    Ok(Committed { manifest, warnings: backups.end() })
}

/// Backups of any number of machines in one run: the repository is looked at once, not for each.
pub struct Backups<'r> {
    repository: &'r Arc<Repository>,
    run: Run<'r>,
    /// What was seen with the run's last look, and what was added since: by the machine's identity, newest first.
    briefs: HashMap<String, Vec<Arc<Brief>>>,
}

impl<'r> Backups<'r> {
    /// A run; nothing is looked at yet.
    pub fn new(repository: &'r Arc<Repository>) -> Backups<'r> {
        Backups { repository, run: Run::new(repository, WORK), briefs: HashMap::new() }
    }

    /// Takes a backup of `machine`.
    ///
    /// # Errors
    /// [`OpsError`]; nothing was committed then. What was stored so far is found again by the next run.
    pub fn take(
        &mut self,
        machine: &Machine,
        options: &BackupOptions,
        control: Control<'_>,
    ) -> Result<Manifest, OpsError> {
        let began = Instant::now();
        let mut warnings = machine.warnings.clone();
        control.tell(Event::Step("opening the machine's images"));
        let source = Source::open(machine, options)?;
        warnings.extend(source.warnings.iter().cloned());
        // After the guard stands, so that what was compared is what is read.
        warnings.extend(digest::check_package(machine, control)?);
        control.tell(Event::Step("looking at the repository"));
        let identity = identity_text(&machine.identity);
        let (held, synced) = self.run.look()?;
        let mut are_packs_gone = false;
        if let Some(synced) = synced {
            self.briefs = briefs_by_identity(self.repository, &mut warnings)?;
            are_packs_gone = !synced.vanished.is_empty();
            warnings.extend(synced.warnings());
            warnings.extend(are_packs_gone.then(|| {
                let packs = synced.vanished.len();
                format!(
                    "{packs} packs have vanished from the repository; all is read, and what they held is stored again"
                )
            }));
        }
        let earlier = if are_packs_gone {
            Earlier::none(self.repository)
        } else {
            let briefs = self.briefs.get(&identity).cloned().unwrap_or_default();
            Earlier::new(self.repository, undoubted(self.repository, briefs, &mut warnings)?, options.full_read)
        };
        warnings.iter().for_each(|warning| control.tell(Event::Warning(warning)));

        let state = State::default();
        let manifest = intake::run_in(
            self.repository,
            held,
            &state,
            |intake| {
                let mut manifest = draft(machine, &source, options, std::mem::take(&mut warnings));
                manifest.backup = intake.backup_id();
                for disk in &source.disks {
                    let context = disk::Context { intake, state: &state, control };
                    let outcome = disk::store(&context, disk, &earlier)?;
                    if outcome.parent.is_some() {
                        manifest.parent = outcome.parent;
                    }
                    manifest.warnings.extend(outcome.warnings);
                    manifest.disks.push(outcome.record);
                }
                manifest.files = files::store(intake, machine, control)?;
                // The last look at the source: what changed while it was read is not a frozen view.
                source.guard.verify()?;
                if control.interrupted() {
                    return Err(OpsError::Interrupted);
                }
                control.tell(Event::Step("making it durable"));
                Ok(manifest)
            },
            |manifest| manifest.statistics = state.counters.of(manifest, began),
        )?;
        self.briefs.entry(identity).or_default().insert(0, Arc::new(Brief::of(&manifest)));
        Ok(manifest)
    }

    /// Ends the run; gives what went wrong, which takes nothing back.
    pub fn end(self) -> Vec<String> {
        self.run.end()
    }
}

/// What is known of all backups: by the machine's identity, newest first.
fn briefs_by_identity(
    repository: &Repository,
    warnings: &mut Vec<String>,
) -> Result<HashMap<String, Vec<Arc<Brief>>>, OpsError> {
    let mut by_identity: HashMap<String, Vec<Arc<Brief>>> = HashMap::new();
    let briefs = repository.briefs(&mut |id, error| {
        warnings.push(format!("the manifest of backup {id} cannot be read and is not built on: {error}"));
    })?;
    for brief in briefs.into_iter().rev() {
        by_identity.entry(brief.identity.clone()).or_default().push(brief);
    }
    Ok(by_identity)
}

/// Those of a machine's earlier backups that can be built on: none of which packs have vanished since.
fn undoubted(
    repository: &Repository,
    mut briefs: Vec<Arc<Brief>>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Arc<Brief>>, OpsError> {
    let doubted = repository.index().doubted()?;
    if briefs.first().is_some_and(|newest| doubted.contains(&newest.backup)) {
        warnings.push("packs have vanished since the last backup, or are damaged; it is not built on".to_owned());
    }
    briefs.retain(|brief| !doubted.contains(&brief.backup));
    Ok(briefs)
}

fn draft(machine: &Machine, source: &Source, options: &BackupOptions, warnings: Vec<String>) -> Manifest {
    let now = jiff::Timestamp::now();
    Manifest {
        version: MANIFEST_VERSION,
        backup: crate::repo::ids::BackupId([0; 16]),
        machine: machine.name.clone(),
        identity: identity_text(&machine.identity),
        machine_kind: kind_text(machine.kind).to_owned(),
        instant: now,
        finished: now,
        consistency: Consistency::Crash,
        capture: Capture {
            way: "offline".to_owned(),
            level: match (&source.snapshot, &options.level) {
                (Some(snapshot), _) => snapshot.name.clone(),
                (None, _) if source.internal_snapshot.is_some() => source.internal_snapshot.clone().unwrap_or_default(),
                (None, SnapshotChoice::Base) => "base".to_owned(),
                (None, _) => "current".to_owned(),
            },
            snapshot_taken: source
                .snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.taken_us)
                .and_then(|us| jiff::Timestamp::from_microsecond(us).ok()),
        },
        disks: Vec::new(),
        files: Vec::new(),
        parent: None,
        statistics: Statistics::default(),
        notes: machine.notes.iter().chain(&source.notes).cloned().collect(),
        warnings,
        tags: tag::as_texts(&options.tags),
        copied_from: None,
        host: crate::repo::host_name(),
        made_by: format!("abbild {}", env!("CARGO_PKG_VERSION")),
        session: crate::repo::ids::ObjectId([0; 16]),
        generation: 0,
    }
}

/// An identity as manifests hold it.
pub fn identity_text(identity: &MachineIdentity) -> String {
    match identity {
        MachineIdentity::BiosUuid(uuid) => format!("bios_uuid:{uuid}"),
        MachineIdentity::Uuid(uuid) => format!("uuid:{uuid}"),
        MachineIdentity::Name(name) => format!("name:{name}"),
    }
}

fn kind_text(kind: MachineKind) -> &'static str {
    match kind {
        MachineKind::Vmware => "vmware",
        MachineKind::Image => "image",
        MachineKind::BlockDevice => "block_device",
        MachineKind::ImageFolder => "image_folder",
        MachineKind::Libvirt => "libvirt",
        MachineKind::VirtualBox => "virtual_box",
        MachineKind::Ovf => "ovf",
        MachineKind::Proxmox => "proxmox",
        MachineKind::HyperV => "hyper_v",
    }
}
