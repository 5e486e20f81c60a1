//! The source of a backup: the machine's images, open at the chosen level, with a guard over every file of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::capture::guard::FileGuard;
use crate::capture::offline::{self, OpenedDisk};
use crate::disk::Disk;
use crate::formats::{self, Image, OpenPolicy};
use crate::machine::level::{ChosenDisk, ChosenLevel, SnapshotChoice, choose};
use crate::machine::{Machine, MachineKind, MachineSnapshot};
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
    /// What the level lacks, and what the images' readers found odd.
    pub warnings: Vec<String>,
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
        let chosen = choose(machine, &options.level)?;
        let mut warnings = chosen.warnings.clone();
        let opened = open_all(machine, &chosen, options)?;
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
        for layer in disks.iter().flat_map(|disk| &disk.image.layers) {
            warnings.extend(layer.warnings.iter().map(|warning| format!("{}: {warning}", layer.path.display())));
        }
        let guard = FileGuard::of(disks.iter().flat_map(|disk| &disk.image.layers))?;
        let snapshot =
            chosen.snapshot.and_then(|(uid, _)| machine.snapshots.iter().find(|snapshot| snapshot.uid == uid).cloned());
        Ok(Source { disks, guard, snapshot, warnings })
    }
}

fn open_all(machine: &Machine, chosen: &ChosenLevel, options: &BackupOptions) -> Result<Vec<OpenedDisk>, OpsError> {
    let open = |disk: &ChosenDisk| {
        let path = disk.level.image();
        let policy = policy(machine, path, &options.allowed_folders)?;
        let as_raw = disk.raw || (options.as_raw && machine.kind != MachineKind::Vmware);
        let image = if as_raw { formats::open_raw(path, &policy)? } else { formats::open(path, &policy)? };
        Ok(OpenedDisk { slot: disk.slot.clone(), image })
    };
    chosen.disks.iter().map(open).collect()
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
    let opened = open_all(machine, &chosen, options)?;
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
    Ok(allowed.iter().try_fold(policy, |policy, folder| policy.allow(folder))?)
}
