//! Definition files → [`Machine`]: what a VM is called, which disks it has, which frozen levels its snapshots give.
//!
//! In here: reading VMware folders, `.vmx` and `.vmsd`, bare images, folders of images; identity that survives a move.
//! Not in here: what is inside an image (`formats`), whether it may be read now (`capture`), the repository.

mod definition;
mod dictionary;
mod error;
mod folder;
pub mod hardware;
mod images;
pub mod level;
mod libvirt;
mod names;
pub mod ovf;
pub mod rewrite;
mod vmsd;
mod vmware;
mod vmx;
pub mod write;
mod xml;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use definition::DefinitionKind;
pub use definition::{hardware_of, of_libvirt_dump};
pub use error::MachineError;
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
    /// Definitions that lie in no file, such as what libvirt told: a file name for each, and its bytes.
    pub definition_texts: Vec<(String, Vec<u8>)>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<MachineSnapshot>,
    /// What looks as if the machine were running (lock folder beside the definition); `None` if nothing does.
    pub running: Option<String>,
    /// What was skipped without a loss: CD-ROM drives, CD images, empty slots.
    pub notes: Vec<String>,
    /// What a restore would lack (raw devices, unreadable files), and why; goes into the report.
    pub warnings: Vec<String>,
}

/// What makes a machine the same machine on another day, in another folder, on another host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "by", content = "value", rename_all = "snake_case")]
pub enum MachineIdentity {
    /// `uuid.bios`, lower-case hex with dashes.
    BiosUuid(String),
    /// The UUID that its hypervisor knows it by (libvirt, VirtualBox, Proxmox VE, Hyper-V), lower-case hex with dashes.
    Uuid(String),
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
    /// A libvirt domain XML; its images may lie anywhere on the host.
    Libvirt,
    /// A VirtualBox `.vbox` and its folder.
    VirtualBox,
    /// An `.ovf` and its files, or an `.ova`.
    Ovf,
    /// A Proxmox VE `qemu-server/*.conf`; its images may lie anywhere on the host.
    Proxmox,
    /// A Hyper-V export or machine folder.
    HyperV,
}

/// One disk of a machine.
#[derive(Clone, Debug)]
pub struct MachineDisk {
    /// Its place on the machine: `scsi0:0`; `disk0`, `disk1`… where the definition has no controllers.
    pub slot: String,
    /// The image that holds its current state (the newest redo log, if there are any).
    pub image: PathBuf,
    /// The definition says that the image is raw: its first bytes, which the guest can write, must not decide otherwise.
    pub raw: bool,
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

impl Machine {
    /// A machine of that name, with nothing yet known of it.
    fn new(name: String, folder: &Path, kind: MachineKind) -> Machine {
        Machine {
            identity: MachineIdentity::Name(name.clone()),
            name,
            folder: folder.to_path_buf(),
            kind,
            disks: Vec::new(),
            definition_files: Vec::new(),
            definition_texts: Vec::new(),
            snapshots: Vec::new(),
            running: None,
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The machine, if it has a disk: else there is nothing to back up, and `definition` is at fault.
    fn with_disks(self, definition: &Path) -> Result<Machine, MachineError> {
        if !self.disks.is_empty() {
            return Ok(self);
        }
        let skipped = self.notes.into_iter().chain(self.warnings).collect();
        Err(MachineError::NoDisk { file: definition.to_path_buf(), skipped })
    }
}

/// Reads the machine that a path means: a VMware folder, a `.vmx`, an image file, a block device, or a folder of images.
///
/// Nothing is opened for writing, no disk is opened at all.
///
/// # Errors
/// [`MachineError::SeveralMachines`] with the choices if the path means more than one; else what is wrong with which file.
pub fn read(path: &Path) -> Result<Machine, MachineError> {
    let file_type = path.metadata().map_err(MachineError::io(path))?.file_type();
    if file_type.is_block_device() {
        // Not its canonical name: `/dev/disk/by-id/…` still means the same device tomorrow, `/dev/sdb` does not.
        return images::block_device(path);
    }
    let path = path.canonicalize().map_err(MachineError::io(path))?;
    if file_type.is_dir() {
        in_folder(&path)
    } else if !file_type.is_file() {
        Err(MachineError::Unsupported {
            path,
            feature: "a machine that is neither file, folder nor block device".into(),
        })
    } else if let Some(kind) = DefinitionKind::of_file(&path) {
        kind.read(&path)
    } else {
        images::single(&path)
    }
}

/// The one machine of a folder: its definition, its images, or those of the only subfolder that has any.
fn in_folder(folder: &Path) -> Result<Machine, MachineError> {
    let entries = folder::entries(folder)?;
    match definitions(&entries).as_slice() {
        [] => {}
        [(one, kind)] => return kind.read(one),
        several => return Err(several_machines(folder, several)),
    }
    if let Some(machine) = images::folder(folder, &entries)? {
        return Ok(machine);
    }
    // A folder above machines, such as a datastore. Folders that cannot be listed hold no machine for us.
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| entry.metadata().is_some_and(|metadata| metadata.is_dir())) {
        found.extend(folder::entries(&entry.path).map(|inside| definitions(&inside)).unwrap_or_default());
    }
    match found.as_slice() {
        [] => Err(MachineError::NoMachine { folder: folder.to_path_buf() }),
        [(one, kind)] => kind.read(one),
        _ => Err(several_machines(folder, &found)),
    }
}

/// The definitions among a folder's files.
fn definitions(entries: &[folder::Entry]) -> Vec<(PathBuf, DefinitionKind)> {
    let files = entries.iter().filter(|entry| entry.metadata().is_some_and(|metadata| metadata.is_file()));
    files.filter_map(|entry| Some((entry.path.clone(), DefinitionKind::of_file(&entry.path)?))).collect()
}

fn several_machines(folder: &Path, found: &[(PathBuf, DefinitionKind)]) -> MachineError {
    let found = found.iter().map(|(path, _)| path.clone()).collect();
    MachineError::SeveralMachines { folder: folder.to_path_buf(), found }
}
