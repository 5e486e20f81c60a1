//! Definition files → [`Machine`]: what a VM is called, which disks it has, which frozen levels its snapshots give.
//!
//! In here: reading VMware folders, `.vmx` and `.vmsd`, bare images, folders of images; identity that survives a move.
//! Not in here: what is inside an image (`formats`), whether it may be read now (`capture`), the repository.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A virtual machine as its files describe it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What it is called: `displayName`, else the file's or folder's name.
    pub name: String,
    /// What makes it the same machine after its folder moved.
    pub identity: MachineIdentity,
    /// Where its files lie; images may name files only below this folder (and the policy's other roots).
    pub folder: PathBuf,
    /// Which kind of definition was read.
    pub kind: MachineKind,
    /// Its disks, in controller order.
    pub disks: Vec<MachineDisk>,
    /// Files kept with the backup besides the disks (definition, snapshots' list, nvram, logs).
    pub definition_files: Vec<PathBuf>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<MachineSnapshot>,
    /// What looks as if the machine were running (lock folder beside the definition); `None` if nothing does.
    pub running: Option<String>,
    /// What was found and skipped (CD-ROMs, raw devices, independent disks), and why; goes into the report.
    pub warnings: Vec<String>,
}

/// What makes a machine the same machine on another day, in another folder, on another host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "by", content = "value", rename_all = "snake_case")]
pub enum MachineIdentity {
    /// `uuid.bios`, lower-case hex with dashes.
    BiosUuid(String),
    /// Its name, where the definition has no UUID.
    Name(String),
}

/// Which kind of definition a machine was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineKind {
    /// A `.vmx` and its neighbours.
    Vmware,
    /// One image file.
    Image,
    /// One block device.
    BlockDevice,
    /// A folder of images without a definition.
    ImageFolder,
}

/// One disk of a machine.
#[derive(Clone, Debug)]
pub struct MachineDisk {
    /// Its place on the machine: `scsi0:0`; `disk0`, `disk1`… where the definition has no controllers.
    pub slot: String,
    /// The image that holds its current state (the newest redo log, if there are any).
    pub image: PathBuf,
}

/// One snapshot of a machine: the hypervisor's, with the files it froze.
#[derive(Clone, Debug)]
pub struct MachineSnapshot {
    /// The hypervisor's number for it.
    pub uid: u64,
    /// The uid of the snapshot it was taken on; `None` for the first.
    pub parent: Option<u64>,
    /// What the admin called it.
    pub name: String,
    /// When it was taken, microseconds since 1970; `None` if the definition does not say.
    pub taken_us: Option<i64>,
    /// The image that this snapshot froze, for each disk it covers: slot and path.
    pub frozen: Vec<(String, PathBuf)>,
}
