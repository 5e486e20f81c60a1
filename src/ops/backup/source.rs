//! The source of a backup: the machine's images, open at the chosen level, with a guard over every file of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::capture::guard::FileGuard;
use crate::capture::offline::{self, OpenedDisk};
use crate::capture::writers;
use crate::disk::Disk;
use crate::formats::{self, Image, OpenPolicy, qcow2};
use crate::machine::level::{ChosenLevel, SnapshotChoice, choose};
use crate::machine::{Machine, MachineError, MachineKind, MachineSnapshot};
use crate::ops::OpsError;
use crate::ops::backup::BackupOptions;

/// A machine's disks, open at one level.
pub struct Source {
    /// The disks, in the machine's order.
    pub disks: Vec<SourceDisk>,
    /// Notices when any of their files changes.
    pub guard: FileGuard,
    /// The hypervisor's snapshot that was chosen, if it is one.
    pub snapshot: Option<MachineSnapshot>,
    /// The name of the internal snapshot that was chosen instead, if it is one of the images' own.
    pub internal_snapshot: Option<String>,
    /// What the level lacks, and what the images' readers found odd.
    pub warnings: Vec<String>,
    /// What the images hold besides the level.
    pub notes: Vec<String>,
}

/// One disk of the source.
pub struct SourceDisk {
    /// Its place on the machine.
    pub slot: String,
    /// The image that the definition names.
    pub named_image: PathBuf,
    /// The open chain, from the chosen level down.
    pub image: Image,
}

impl Source {
    /// Opens every disk of `machine` at the level asked for, and refuses what a running machine may be writing to. Images
    /// may name files in the machine's folder and in the allowed ones (parents of linked clones).
    ///
    /// # Errors
    /// [`OpsError`] naming the disk's file and what to do.
    pub fn open(machine: &Machine, options: &BackupOptions) -> Result<Source, OpsError> {
        let (chosen, internal_snapshot) = level(machine, options)?;
        let mut warnings = chosen.warnings.clone();
        let policy_of = |image: &Path| Ok(policy(machine, image, &options.allowed_folders)?.reading_once());
        let opened = open_all(machine, &chosen, internal_snapshot.as_deref(), options, &policy_of, &mut warnings)?;
        let captured = offline::take(machine, &chosen, opened)?;
        let disks: Vec<SourceDisk> = captured
            .into_iter()
            .zip(&chosen.disks)
            .map(|(disk, chosen)| SourceDisk {
                slot: disk.slot,
                named_image: chosen.level.image().to_owned(),
                image: disk.image,
            })
            .collect();
        let mut notes = Vec::new();
        for layer in disks.iter().flat_map(|disk| &disk.image.layers) {
            warnings.extend(layer.warnings.iter().map(|warning| format!("{}: {warning}", layer.path.display())));
            notes.extend(layer.notes.iter().map(|note| format!("{}: {note}", layer.path.display())));
        }
        let guard = FileGuard::of(disks.iter().flat_map(|disk| &disk.image.layers))?;
        let snapshot =
            chosen.snapshot.and_then(|(uid, _)| machine.snapshots.iter().find(|snapshot| snapshot.uid == uid).cloned());
        Ok(Source { disks, guard, snapshot, internal_snapshot, warnings, notes })
    }
}

/// The level asked for. A name that none of the hypervisor's snapshots has can be that of an internal snapshot, if every
/// disk's image has one of that name.
fn level(machine: &Machine, options: &BackupOptions) -> Result<(ChosenLevel, Option<String>), OpsError> {
    let unknown = match choose(machine, &options.level) {
        Err(unknown @ MachineError::NoSuchSnapshot { .. }) => unknown,
        chosen => return Ok((chosen?, None)),
    };
    let SnapshotChoice::Named(wanted) = &options.level else { return Err(unknown.into()) };
    let current = choose(machine, &SnapshotChoice::Current)?;
    for disk in &current.disks {
        let policy = policy(machine, disk.level.image(), &options.allowed_folders)?;
        let names = match qcow2::list_snapshots(disk.level.image(), &policy) {
            Ok(snapshots) if !disk.raw => snapshots.into_iter().map(|snapshot| snapshot.name).collect(),
            // Not qcow2, so it has none.
            _ => Vec::new(),
        };
        if !names.contains(wanted) {
            return Err(match unknown {
                MachineError::NoSuchSnapshot { machine, wanted, known } => {
                    let internal = names.iter().take(20).map(|name| format!("{name:?} (in {})", disk.slot));
                    let known = known.into_iter().chain(internal).collect();
                    MachineError::NoSuchSnapshot { machine, wanted, known }.into()
                }
                other => other.into(),
            });
        }
    }
    Ok((current, Some(wanted.clone())))
}

/// Whether the images of `machine` were found by their own names, not through a definition.
fn is_without_definition(machine: &Machine) -> bool {
    matches!(machine.kind, MachineKind::Image | MachineKind::BlockDevice | MachineKind::ImageFolder)
}

/// Whether the definition of `machine` says of each image whether it is raw.
fn has_formats(machine: &Machine) -> bool {
    matches!(machine.kind, MachineKind::Libvirt | MachineKind::Proxmox)
}

/// Opens every disk of the level; of an image with internal snapshots, the one that is named.
fn open_all(
    machine: &Machine,
    chosen: &ChosenLevel,
    internal_snapshot: Option<&str>,
    options: &BackupOptions,
    policy_of: &dyn Fn(&Path) -> Result<OpenPolicy, OpsError>,
    warnings: &mut Vec<String>,
) -> Result<Vec<OpenedDisk>, OpsError> {
    let mut opened = Vec::new();
    for disk in &chosen.disks {
        let path = disk.level.image();
        let policy = policy_of(path)?;
        let as_raw = disk.raw || (options.as_raw && is_without_definition(machine));
        let mut image = match internal_snapshot {
            Some(name) => qcow2::open_snapshot(path, qcow2::Selector::Name(name), &policy)?,
            None if as_raw => formats::open_raw(path, &policy)?,
            None => formats::open(path, &policy)?,
        };
        if !as_raw && has_formats(machine) && image.layers.first().is_some_and(|layer| layer.variant == "raw") {
            warnings.push(format!(
                "{}: the definition does not call {} raw, but it has no header of any format: it is read as raw",
                disk.slot,
                path.display()
            ));
        }
        if let Some(newest) = image.layers.first_mut().filter(|newest| newest.in_use.is_none()) {
            newest.in_use = writers::of(&newest.files);
        }
        opened.push(OpenedDisk { slot: disk.slot.clone(), image });
    }
    Ok(opened)
}

/// A machine's disks at their newest level, for looking into.
pub struct CurrentDisks {
    /// In the machine's order.
    pub disks: Vec<Arc<dyn Disk>>,
    /// What shows that somebody writes to one of them.
    pub in_use: Option<String>,
}

/// The disks of `machine` at their newest level, whoever writes to them.
///
/// # Errors
/// [`OpsError`] naming the disk's file.
pub fn current_disks(machine: &Machine, options: &BackupOptions) -> Result<CurrentDisks, OpsError> {
    let chosen = choose(machine, &SnapshotChoice::Current)?;
    let policy_of = |image: &Path| policy(machine, image, &options.allowed_folders);
    let opened = open_all(machine, &chosen, None, options, &policy_of, &mut Vec::new())?;
    let in_use = opened.iter().find_map(|disk| offline::written_to(machine, &disk.image));
    let disks = opened.iter().map(|disk| Arc::new(disk.image.disk()) as Arc<dyn Disk>).collect();
    Ok(CurrentDisks { disks, in_use })
}

/// Which files the images of `machine` may make us open.
fn policy(machine: &Machine, image: &Path, allowed: &[PathBuf]) -> Result<OpenPolicy, OpsError> {
    let policy = match machine.kind {
        MachineKind::Image | MachineKind::BlockDevice => OpenPolicy::named_by_user(image)?,
        // Definitions of the host's own hypervisor name images by absolute paths, wherever its storage is.
        MachineKind::Libvirt | MachineKind::Proxmox => OpenPolicy::named_by_user(image)?,
        MachineKind::Vmware
        | MachineKind::ImageFolder
        | MachineKind::VirtualBox
        | MachineKind::Ovf
        | MachineKind::HyperV => OpenPolicy::within(&machine.folder)?,
    };
    // A storage's folder that is not there now holds nothing that could be named.
    let configured = machine.image_folders.iter().filter(|folder| folder.is_dir());
    Ok(allowed.iter().chain(configured).try_fold(policy, |policy, folder| policy.allow(folder))?)
}
