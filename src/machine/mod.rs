//! Definition files → [`Machine`]: what a VM is called, which disks it has, which frozen levels its snapshots give.
//!
//! In here: the definitions of VMware, VirtualBox, Hyper-V, Proxmox VE and libvirt, bare images, folders of images, trees of
//! all these; identity that survives a move; the hardware a definition describes, for writing it in another format.
//! Not in here: what is inside an image (`formats`), whether it may be read now (`capture`), the repository.
//!
//! `definition` knows all formats and sends each file to its room; `tree` searches folders.

mod definition;
mod dictionary;
mod error;
mod folder;
pub mod hardware;
mod hyperv;
mod images;
pub mod level;
mod libvirt;
mod names;
pub mod ovf;
mod proxmox;
pub mod rewrite;
mod tree;
mod virtualbox;
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
pub use tree::{Found, FoundMachine, Skipped};

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
    /// Folders besides the machine's own in which its images may name files, by the host's own configuration.
    pub image_folders: Vec<PathBuf>,
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
            image_folders: Vec::new(),
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

/// Which files an image stands on: the lower layers of its chain and the parts it consists of, as far as they can be found.
/// The second path is the folder they must lie in. Only whoever can open images knows; this room does not.
pub type FilesBelow<'f> = dyn Fn(&Path, &Path) -> Vec<PathBuf> + 'f;

/// Reads the machine that a path means: a definition, an image file, a block device, or a folder with one machine in it.
///
/// Nothing is opened for writing; images are opened only by `below`, where chains must be told apart.
///
/// # Errors
/// [`MachineError::SeveralMachines`] with the choices if the path means more than one; else what is wrong with which file.
pub fn read(path: &Path, below: &FilesBelow<'_>) -> Result<Machine, MachineError> {
    let mut found = find(path, below)?.machines;
    match found.len() {
        0 => Err(MachineError::NoMachine { folder: path.to_path_buf() }),
        1 => found.remove(0).machine,
        _ => {
            let found = found.into_iter().map(|machine| machine.path).collect();
            Err(MachineError::SeveralMachines { folder: path.to_path_buf(), found })
        }
    }
}

/// Finds every machine that a path means: in a folder all those below it, else the one that the file or device is.
///
/// # Errors
/// If the path itself cannot be read. What is wrong with one of several machines is in [`Found::machines`].
pub fn find(path: &Path, below: &FilesBelow<'_>) -> Result<Found, MachineError> {
    let file_type = path.metadata().map_err(MachineError::io(path))?.file_type();
    let one = |path: PathBuf, machine| Found { machines: vec![FoundMachine { path, machine }], skipped: Vec::new() };
    if file_type.is_block_device() {
        // Not its canonical name: `/dev/disk/by-id/…` still means the same device tomorrow, `/dev/sdb` does not.
        return Ok(one(path.to_path_buf(), images::block_device(path)));
    }
    let path = path.canonicalize().map_err(MachineError::io(path))?;
    if file_type.is_dir() {
        tree::find(&path, below)
    } else if !file_type.is_file() {
        let feature = "a machine that is neither file, folder nor block device".to_owned();
        Err(MachineError::Unsupported { path, feature })
    } else if let Some(kind) = DefinitionKind::of_file(&path) {
        let machine = kind.read(&path, below);
        Ok(one(path, machine))
    } else {
        let machine = images::single(&path);
        Ok(one(path, machine))
    }
}
