//! The source of a backup: the machine's images, open at the chosen level, with a guard over every file of them.

use std::path::PathBuf;

use crate::capture::guard::FileGuard;
use crate::capture::offline;
use crate::formats::{self, Image, OpenPolicy};
use crate::machine::level::{LevelOfDisk, SnapshotChoice, choose};
use crate::machine::{Machine, MachineSnapshot};
use crate::ops::OpsError;

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
    /// Opens every disk of `machine` at `level`, and refuses what a running machine may be writing to.
    ///
    /// # Errors
    /// [`OpsError`] naming the disk's file and what to do.
    pub fn open(machine: &Machine, level: &SnapshotChoice) -> Result<Source, OpsError> {
        let chosen = choose(machine, level)?;
        let policy = OpenPolicy::new(&machine.folder)?;
        let mut warnings = chosen.warnings.clone();
        let mut disks = Vec::new();
        for disk in &chosen.disks {
            let named_image = disk.level.image().to_owned();
            let mut image = formats::open(&named_image, &policy)?;
            let mut frozen = disk.frozen;
            if matches!(disk.level, LevelOfDisk::BottomOfChain(_)) && image.layers.len() > 1 {
                let upper = image.layers.len() - 1;
                image.layers.drain(..upper);
                frozen = true; // a redo log lies above it
            }
            offline::check_disk(machine, disk, &image, frozen)?;
            for layer in &image.layers {
                warnings.extend(layer.warnings.iter().map(|warning| format!("{}: {warning}", layer.path.display())));
            }
            disks.push(SourceDisk { slot: disk.slot.clone(), named_image, image });
        }
        let guard = FileGuard::of(disks.iter().flat_map(|disk| &disk.image.layers))?;
        let snapshot = chosen
            .snapshot
            .and_then(|(uid, _)| machine.snapshots.iter().find(|snapshot| snapshot.uid == uid).cloned());
        Ok(Source { disks, guard, snapshot, warnings })
    }
}
