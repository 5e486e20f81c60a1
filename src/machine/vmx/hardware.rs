//! `.vmx` → [`Hardware`]. Pure: no file of the machine is looked at.
//!
//! Source: VMware KB 1714 and 2001, open-vm-tools; defaults are those of Workstation where a key is not there.

use super::{Attached, attached, parse_slot, slots};
use crate::machine::dictionary::Dictionary;
use crate::machine::error::MachineError;
use crate::machine::hardware::{AttachedDisk, Bus, Firmware, Hardware, NetworkCard, ScsiModel};
use crate::machine::names::{normal_uuid, printable};

/// Most network cards; vSphere allows 10.
const CARDS_MAX: u32 = 64;
/// Devices and settings with a `present` or `enabled` key that have no place in the model, and what they are.
const NOT_MODELLED: [(&str, &str); 10] = [
    ("usb", "a USB controller"),
    ("usb_xhci", "a USB 3 controller"),
    ("sound", "a sound card"),
    ("serial", "a serial port"),
    ("parallel", "a parallel port"),
    ("floppy", "a floppy drive"),
    ("pcipassthru", "a passed-through PCI device"),
    ("vtpm", "a TPM"),
    ("sharedfolder", "a shared folder"),
    ("vhv", "nested virtualization"),
];

/// The hardware that a definition describes.
pub(in crate::machine) fn hardware(vmx: &Dictionary) -> Result<Hardware, MachineError> {
    let mut hardware = Hardware {
        name: vmx
            .text("displayname")
            .map(printable)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| printable(&vmx.file().file_stem().unwrap_or_default().to_string_lossy())),
        description: vmx.text("annotation").map(str::to_owned).filter(|text| !text.trim().is_empty()),
        uuid: vmx.text("uuid.bios").and_then(normal_uuid),
        memory_bytes: memory_bytes(vmx)?,
        processors: vmx.number("numvcpus", "a number of processors")?.unwrap_or(1),
        firmware: firmware(vmx),
        guest_os: vmx.text("guestos").map(printable).filter(|name| !name.is_empty()),
        network_cards: network_cards(vmx),
        ..Hardware::default()
    };
    for (slot, prefix) in slots(vmx)? {
        match attached(vmx, &prefix)? {
            Attached::Disk { mode, .. } => {
                hardware.disks.extend(disk(vmx, &slot));
                if !matches!(mode.as_str(), "" | "persistent") {
                    hardware.not_carried_over.push(format!("{slot}: its disk mode {}", printable(&mode)));
                }
            }
            Attached::NoDisk(what) | Attached::Skipped(what) => {
                hardware.not_carried_over.push(format!("{slot}: {}", printable(&what)));
            }
            Attached::Nothing => {}
        }
    }
    hardware.not_carried_over.extend(not_modelled(vmx));
    Ok(hardware)
}

/// `memsize` counts MiB.
fn memory_bytes(vmx: &Dictionary) -> Result<u64, MachineError> {
    const EXPECTED: &str = "a memory size in MiB";
    let mib: u64 = vmx.number("memsize", EXPECTED)?.unwrap_or(0);
    mib.checked_mul(1 << 20).ok_or_else(|| vmx.wrong("memsize", EXPECTED, mib.to_string()))
}

fn firmware(vmx: &Dictionary) -> Firmware {
    match vmx.text("firmware") {
        Some(name) if name.trim().eq_ignore_ascii_case("efi") => {
            Firmware::Uefi { secure_boot: vmx.is_true("uefi.secureboot.enabled") }
        }
        _ => Firmware::Bios,
    }
}

fn disk(vmx: &Dictionary, prefix: &str) -> Option<AttachedDisk> {
    let slot = parse_slot(prefix)?;
    let bus = match slot.bus {
        "ide" => Bus::Ide,
        "sata" => Bus::Sata,
        "nvme" => Bus::Nvme,
        _ => Bus::Scsi(scsi_model(vmx.text(&format!("scsi{}.virtualdev", slot.controller)))),
    };
    Some(AttachedDisk { slot: prefix.to_owned(), bus, controller: slot.controller.into(), unit: slot.unit.into() })
}

fn scsi_model(name: Option<&str>) -> ScsiModel {
    match name.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "lsisas1068" => ScsiModel::LsiSas,
        "buslogic" => ScsiModel::BusLogic,
        "pvscsi" => ScsiModel::VmwareParavirtual,
        _ => ScsiModel::LsiLogic,
    }
}

fn network_cards(vmx: &Dictionary) -> Vec<NetworkCard> {
    let text = |card: u32, key: &str| {
        let text = vmx.text(&format!("ethernet{card}.{key}"))?;
        Some(printable(text)).filter(|text| !text.is_empty())
    };
    let present = (0..CARDS_MAX).filter(|card| vmx.is_true(&format!("ethernet{card}.present")));
    present
        .map(|card| NetworkCard {
            // `address` is the admin's own; without it the hypervisor made one up and keeps it.
            mac: text(card, "address").or_else(|| text(card, "generatedaddress")).map(|mac| mac.to_ascii_lowercase()),
            model: text(card, "virtualdev").map(|model| model.to_ascii_lowercase()),
            network: text(card, "networkname").or_else(|| text(card, "vnet")).or_else(|| text(card, "connectiontype")),
        })
        .collect()
}

/// What the definition has beyond the model, a line each, sorted.
fn not_modelled(vmx: &Dictionary) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut keys: Vec<&str> = vmx.keys().filter(|key| vmx.is_true(key)).collect();
    keys.sort_unstable();
    for key in keys {
        let Some((device, "present" | "enable" | "enabled")) = key.split_once('.') else { continue };
        let kind = device.trim_end_matches(|c: char| c.is_ascii_digit());
        if let Some((_, what)) = NOT_MODELLED.iter().find(|(known, _)| *known == kind) {
            lines.push(format!("{device}: {what}"));
        }
    }
    if let Some(cores) = vmx.text("cpuid.corespersocket").filter(|cores| cores.trim() != "1") {
        lines.push(format!("cpuid.coresPerSocket: {} cores a socket", printable(cores)));
    }
    if vmx.text("nvram").is_some() && firmware(vmx) != Firmware::Bios {
        lines.push("nvram: the UEFI variables, boot entries among them".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Hardware, String> {
        let vmx = Dictionary::parse(Path::new("/vm/web1.vmx"), text.as_bytes()).unwrap();
        hardware(&vmx).map_err(|error| error.to_string())
    }

    /// A definition as Workstation 17 writes it, without the lines that say nothing of hardware.
    const WEB1: &str = r#"
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "21"
displayName = "Shop"
annotation = "Front end|0Aask Anna first"
guestOS = "debian12-64"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
nvram = "web1.nvram"
uuid.bios = "56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0"
memsize = "4096"
numvcpus = "4"
cpuid.coresPerSocket = "2"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web1.vmdk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "swap.vmdk"
scsi0:1.mode = "independent-persistent"
scsi1.present = "TRUE"
scsi1:3.present = "TRUE"
scsi1:3.fileName = "old.vmdk"
nvme0:0.present = "TRUE"
nvme0:0.fileName = "fast.vmdk"
sata0:1.present = "TRUE"
sata0:1.fileName = "auto detect"
sata0:1.deviceType = "cdrom-raw"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0C:29:44:81:F0"
ethernet0.connectionType = "nat"
ethernet1.present = "FALSE"
ethernet2.present = "TRUE"
ethernet2.networkName = "VM Network"
ethernet2.address = "00:50:56:aa:bb:cc"
usb.present = "TRUE"
serial0.present = "TRUE"
serial1.present = "FALSE"
"#;

    #[test]
    fn a_whole_definition() {
        let disk = |slot: &str, bus, controller, unit| AttachedDisk { slot: slot.to_owned(), bus, controller, unit };
        let card = |mac: &str, model: Option<&str>, network: &str| NetworkCard {
            mac: Some(mac.to_owned()),
            model: model.map(str::to_owned),
            network: Some(network.to_owned()),
        };
        let paravirtual = Bus::Scsi(ScsiModel::VmwareParavirtual);
        let expected = Hardware {
            name: "Shop".to_owned(),
            description: Some("Front end\nask Anna first".to_owned()),
            uuid: Some("564d1f3a-7720-4c01-9d5e-0a6b2c4481f0".to_owned()),
            memory_bytes: 4 << 30,
            processors: 4,
            firmware: Firmware::Uefi { secure_boot: true },
            guest_os: Some("debian12-64".to_owned()),
            disks: vec![
                disk("nvme0:0", Bus::Nvme, 0, 0),
                disk("scsi0:0", paravirtual, 0, 0),
                disk("scsi0:1", paravirtual, 0, 1),
                disk("scsi1:3", Bus::Scsi(ScsiModel::LsiLogic), 1, 3),
            ],
            network_cards: vec![
                card("00:0c:29:44:81:f0", Some("vmxnet3"), "nat"),
                card("00:50:56:aa:bb:cc", None, "VM Network"),
            ],
            not_carried_over: [
                "sata0:1: a CD-ROM drive (cdrom-raw)",
                "scsi0:1: its disk mode independent-persistent",
                "serial0: a serial port",
                "usb: a USB controller",
                "cpuid.coresPerSocket: 2 cores a socket",
                "nvram: the UEFI variables, boot entries among them",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        assert_eq!(read(WEB1).unwrap(), expected);
    }

    #[test]
    fn what_a_short_definition_does_not_say() {
        let hardware = read("").unwrap();
        assert_eq!(hardware, Hardware { name: "web1".to_owned(), processors: 1, ..Hardware::default() });
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for (line, message) in [
            ("memsize = \"-1\"", "/vm/web1.vmx: memsize: expected a memory size in MiB, found \"-1\""),
            (
                "memsize = \"18446744073709551615\"",
                "/vm/web1.vmx: memsize: expected a memory size in MiB, found 18446744073709551615",
            ),
            ("numvcpus = \"many\"", "/vm/web1.vmx: numvcpus: expected a number of processors, found \"many\""),
        ] {
            assert_eq!(read(line).unwrap_err(), message);
        }
    }
}
