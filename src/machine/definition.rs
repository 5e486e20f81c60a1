//! Which kind of definition a file is, and who reads it: the one place that knows all of them.
//!
//! The name decides where hypervisors have endings of their own; `.xml` and `.conf` are anybody's, so their beginning is
//! looked at.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::dictionary::Dictionary;
use super::error::MachineError;
use super::folder::{extension, read_bounded};
use super::hardware::Hardware;
use super::{FilesBelow, Machine, hyperv, libvirt, ovf, proxmox, virtualbox, vmware, vmx, xml};

/// A format of definitions. The order is the order of preference where one folder describes the same machine twice: a
/// hypervisor's own file before one made for transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DefinitionKind {
    /// `.vmx`; `.vmtx` is that of a template, with the same keys.
    Vmware,
    /// `.vbox`.
    VirtualBox,
    /// `.vmcx`, or the XML of before.
    HyperV,
    /// `VMID.conf`.
    Proxmox,
    /// Domain XML.
    Libvirt,
    /// `.ovf`, alone or in an `.ova`.
    Ovf,
}

impl DefinitionKind {
    /// The kind of a file, by its name and its first bytes; `None` if it defines no machine.
    pub(super) fn of(file: &Path, head: &[u8]) -> Option<DefinitionKind> {
        match extension(file).as_str() {
            "vmx" | "vmtx" => Some(DefinitionKind::Vmware),
            "ovf" | "ova" => Some(DefinitionKind::Ovf),
            "vbox" => Some(DefinitionKind::VirtualBox),
            "vmcx" => Some(DefinitionKind::HyperV),
            "conf" => proxmox::looks_like(head).then_some(DefinitionKind::Proxmox),
            "xml" => match xml::first_name(head)?.as_str() {
                hyperv::ROOT => Some(DefinitionKind::HyperV),
                name if libvirt::ROOTS.contains(&name) => Some(DefinitionKind::Libvirt),
                _ => None,
            },
            _ => None,
        }
    }

    /// The kind of a plain file of this host. One that cannot be read is taken for what its name says.
    pub(super) fn of_file(file: &Path) -> Option<DefinitionKind> {
        let head = match extension(file).as_str() {
            "xml" | "conf" => head_of(file).unwrap_or_default(),
            _ => Vec::new(),
        };
        DefinitionKind::of(file, &head)
    }

    /// Reads the machine that `file`, a canonical path, defines; `below` tells which files an image stands on.
    pub(super) fn read(self, file: &Path, below: &FilesBelow<'_>) -> Result<Machine, MachineError> {
        match self {
            DefinitionKind::Vmware => vmware::read(file),
            DefinitionKind::VirtualBox => virtualbox::read(file, &read_bounded(file)?),
            DefinitionKind::HyperV => hyperv::read(file, below),
            DefinitionKind::Proxmox => proxmox::read(file, &read_bounded(file)?),
            DefinitionKind::Libvirt => libvirt::read(file, &read_bounded(file)?),
            DefinitionKind::Ovf => ovf::read(file),
        }
    }
}

/// The hardware that a definition describes. Pure: only its bytes are looked at; `file` is its name, which tells the kind
/// together with the first bytes, and names it in errors. Disks are in the order of [`Machine::disks`], which may have more
/// behind them (what UEFI firmware and a TPM remember).
///
/// # Errors
/// [`MachineError::Unsupported`] for a file that is no definition with hardware; else what is wrong with it.
pub fn hardware_of(file: &Path, bytes: &[u8]) -> Result<Hardware, MachineError> {
    match DefinitionKind::of(file, bytes) {
        Some(DefinitionKind::Vmware) => vmx::hardware::hardware(&Dictionary::parse(file, bytes)?),
        Some(DefinitionKind::VirtualBox) => virtualbox::hardware::hardware(file, bytes),
        Some(DefinitionKind::HyperV) if extension(file) == "xml" => hyperv::hardware::hardware(file, bytes),
        Some(DefinitionKind::HyperV) => Err(MachineError::Unsupported {
            path: file.to_path_buf(),
            feature: "a binary configuration of Hyper-V as the description of hardware".to_owned(),
        }),
        Some(DefinitionKind::Proxmox) => proxmox::hardware::hardware(file, bytes),
        Some(DefinitionKind::Libvirt) => libvirt::hardware::hardware(file, bytes),
        Some(DefinitionKind::Ovf) => ovf::hardware::hardware(file, bytes),
        None => Err(MachineError::Unsupported {
            path: file.to_path_buf(),
            feature: "a file of this kind as the description of hardware".to_owned(),
        }),
    }
}

/// The machine that `virsh dumpxml` describes, known to libvirt as `name`. `running` says so if it has a process.
///
/// # Errors
/// What is wrong with the definition.
pub fn of_libvirt_dump(name: &str, dump: &[u8], running: Option<String>) -> Result<Machine, MachineError> {
    libvirt::of_dump(name, dump, running)
}

/// The beginning of a file; nothing if it is no plain file: a pipe of that name would block.
fn head_of(file: &Path) -> Option<Vec<u8>> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut head = Vec::new();
    File::open(file).ok()?.take(xml::HEAD_BYTES).read_to_end(&mut head).ok()?;
    Some(head)
}
