//! A `.vmx` as VMware writes it. Order and keys follow a machine that Workstation 17 made anew.
//!
//! Hardware version 14 (ESXi 6.7, Workstation 14) knows NVMe and secure boot, and is read by everything newer.

use std::collections::BTreeSet;

use super::DiskFile;
use crate::machine::hardware::{Bus, Firmware, Hardware, NetworkCard, ScsiModel};
use crate::machine::rewrite;

const HARDWARE_VERSION: &str = "14";
/// Kinds of network that Workstation and Fusion have themselves; every other name is that of a port group.
const CONNECTION_TYPES: [&str; 3] = ["bridged", "hostonly", "nat"];

/// The definition of fitted hardware.
pub(super) fn text(hardware: &Hardware, files: &[DiskFile]) -> String {
    let mut vmx = Lines(String::new());
    vmx.set(".encoding", "UTF-8");
    vmx.set("config.version", "8");
    vmx.set("virtualHW.version", HARDWARE_VERSION);
    vmx.set("displayName", &hardware.name);
    if let Some(description) = &hardware.description {
        vmx.set("annotation", description);
    }
    vmx.set("guestOS", hardware.guest_os.as_deref().unwrap_or("other-64"));
    if let Firmware::Uefi { secure_boot } = hardware.firmware {
        vmx.set("firmware", "efi");
        if secure_boot {
            vmx.set("uefi.secureBoot.enabled", "TRUE");
        }
    }
    if let Some(uuid) = &hardware.uuid {
        vmx.set("uuid.bios", &rewrite::vmx::uuid(uuid));
        // Else the first start asks whether the machine was moved or copied, and nobody sees the question on a server.
        vmx.set("uuid.action", "keep");
    }
    vmx.set("memSize", &(hardware.memory_bytes >> 20).to_string());
    vmx.set("numvcpus", &hardware.processors.to_string());
    bridges(&mut vmx);
    vmx.set("vmci0.present", "TRUE");
    vmx.set("hpet0.present", "TRUE");
    vmx.set("floppy0.present", "FALSE");
    disks(&mut vmx, hardware, files);
    for (number, card) in hardware.network_cards.iter().enumerate() {
        network_card(&mut vmx, number, card);
    }
    vmx.0
}

struct Lines(String);

impl Lines {
    fn set(&mut self, key: &str, value: &str) {
        self.0.push_str(&format!("{key} = \"{}\"\n", rewrite::vmx::value(value)));
    }
}

/// Without these the machine has too few PCI slots for its controllers and cards.
fn bridges(vmx: &mut Lines) {
    vmx.set("pciBridge0.present", "TRUE");
    for bridge in 4..8 {
        vmx.set(&format!("pciBridge{bridge}.present"), "TRUE");
        vmx.set(&format!("pciBridge{bridge}.virtualDev"), "pcieRootPort");
        vmx.set(&format!("pciBridge{bridge}.functions"), "8");
    }
}

fn disks(vmx: &mut Lines, hardware: &Hardware, files: &[DiskFile]) {
    let mut controllers = BTreeSet::new();
    for (disk, file) in hardware.disks.iter().zip(files) {
        let controller = disk.slot.split(':').next().unwrap_or_default();
        // IDE controllers are there anyway.
        if disk.bus != Bus::Ide && controllers.insert(controller) {
            vmx.set(&format!("{controller}.present"), "TRUE");
            if let Bus::Scsi(model) = disk.bus {
                vmx.set(&format!("{controller}.virtualDev"), virtual_device(model));
            }
        }
        vmx.set(&format!("{}.present", disk.slot), "TRUE");
        vmx.set(&format!("{}.fileName", disk.slot), &file.name);
    }
}

fn virtual_device(model: ScsiModel) -> &'static str {
    match model {
        ScsiModel::LsiSas => "lsisas1068",
        ScsiModel::BusLogic => "buslogic",
        ScsiModel::VmwareParavirtual => "pvscsi",
        // The last two never come out of a fit.
        ScsiModel::LsiLogic | ScsiModel::Virtio | ScsiModel::HyperV => "lsilogic",
    }
}

fn network_card(vmx: &mut Lines, number: usize, card: &NetworkCard) {
    let key = |name: &str| format!("ethernet{number}.{name}");
    vmx.set(&key("present"), "TRUE");
    if let Some(model) = &card.model {
        vmx.set(&key("virtualDev"), model);
    }
    match card.network.as_deref() {
        Some(kind) if CONNECTION_TYPES.contains(&kind) => vmx.set(&key("connectionType"), kind),
        Some(name) => vmx.set(&key("networkName"), name),
        None => {}
    }
    match &card.mac {
        Some(mac) => {
            vmx.set(&key("addressType"), "static");
            vmx.set(&key("address"), mac);
            // Only 00:50:56:00 to 3f pass the check of addresses set by hand; this one is what the guest had.
            if !is_own_range(mac) {
                vmx.set(&key("checkMACAddress"), "FALSE");
            }
        }
        None => vmx.set(&key("addressType"), "generated"),
    }
}

fn is_own_range(mac: &str) -> bool {
    mac.strip_prefix("00:50:56:").is_some_and(|rest| rest.get(..2).is_some_and(|byte| byte < "40"))
}
