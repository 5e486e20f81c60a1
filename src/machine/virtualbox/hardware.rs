//! A `.vbox`'s [`Hardware`]. Pure.

use std::path::Path;

use super::{Attached, Definition};
use crate::machine::error::MachineError;
use crate::machine::hardware::{AttachedDisk, Firmware, Hardware, NetworkCard};
use crate::machine::names::{normal_uuid, printable};
use crate::machine::xml::{self, Element};

/// The hardware that a definition describes; `file` is for the errors.
pub(in crate::machine) fn hardware(file: &Path, bytes: &[u8]) -> Result<Hardware, MachineError> {
    let root = xml::parse(file, bytes)?;
    let definition = Definition::of(file, &root)?;
    let machine = definition.machine;
    let empty = Element::default();
    let own = machine.child("Hardware").unwrap_or(&empty);
    let number = |path: &str, name: &str, expected: &str, default: u64| {
        let Some(text) = own.child(path).and_then(|element| element.attribute(name)) else { return Ok(default) };
        text.parse::<u64>().map_err(|_| definition.wrong(&format!("{path}@{name}"), expected, text))
    };
    let memory_mib = number("Memory", "RAMSize", "a memory size in MiB", 0)?;
    let processors = number("CPU", "count", "a number of processors", 1)?;
    let mut hardware = Hardware {
        name: definition.name(),
        description: machine.text_at(&["Description"]).map(str::to_owned),
        // The guest sees the machine's own unless the admin set another.
        uuid: own.attribute("uuid").and_then(normal_uuid).or_else(|| definition.uuid()),
        memory_bytes: memory_mib
            .checked_mul(1 << 20)
            .ok_or_else(|| definition.wrong("Memory@RAMSize", "a memory size in MiB", &memory_mib.to_string()))?,
        processors: u32::try_from(processors)
            .map_err(|_| definition.wrong("CPU@count", "a number of processors", &processors.to_string()))?,
        firmware: firmware(own),
        guest_os: machine.attribute("OSType").map(printable).filter(|name| !name.is_empty()),
        network_cards: network_cards(own),
        ..Hardware::default()
    };
    for device in definition.devices(machine)? {
        let slot = device.slot;
        match device.attached {
            Attached::Image { .. } => {
                if let Some(bus) = device.foreign_bus {
                    hardware.not_carried_over.push(format!("{slot}: its bus {}, taken as SATA", printable(bus)));
                }
                let (bus, controller, unit) = (device.bus, device.controller, device.unit);
                hardware.disks.push(AttachedDisk { slot, bus, controller, unit });
            }
            Attached::Skipped(what) => hardware.not_carried_over.push(format!("{slot}: {what}")),
            Attached::NoDisk(what) => hardware.not_carried_over.push(format!("{slot}: {what}")),
        }
    }
    hardware.not_carried_over.extend(not_modelled(machine, own));
    Ok(hardware)
}

/// Whether only signed loaders start stands in the UEFI variables, which are opaque.
fn firmware(hardware: &Element) -> Firmware {
    match hardware.child("Firmware").and_then(|firmware| firmware.attribute("type")) {
        Some(kind) if kind.starts_with("EFI") => Firmware::Uefi { secure_boot: false },
        _ => Firmware::Bios,
    }
}

fn network_cards(hardware: &Element) -> Vec<NetworkCard> {
    let adapters = hardware.child("Network").into_iter().flat_map(|network| network.children("Adapter"));
    adapters
        .filter(|adapter| adapter.attribute("enabled") == Some("true"))
        .map(|adapter| NetworkCard {
            mac: adapter.attribute("MACAddress").and_then(mac),
            // A PCnet-FAST III is what an adapter is that does not say.
            model: Some(
                adapter.attribute("type").map_or_else(|| "am79c973".to_owned(), |t| printable(t).to_lowercase()),
            ),
            network: network(adapter),
        })
        .collect()
}

/// `080027A1B2C3` → `08:00:27:a1:b2:c3`.
fn mac(text: &str) -> Option<String> {
    if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let pairs: Vec<&str> = (0..12).step_by(2).filter_map(|at| lower.get(at..at + 2)).collect();
    Some(pairs.join(":"))
}

fn network(adapter: &Element) -> Option<String> {
    let modes = ["BridgedInterface", "HostOnlyInterface", "HostOnlyNetwork", "InternalNetwork", "NATNetwork"];
    let named = modes.iter().find_map(|mode| adapter.child(mode)?.attribute("name")).map(printable);
    named.or_else(|| adapter.child("NAT").map(|_| "nat".to_owned()))
}

/// What the definition has beyond the model, a line each.
fn not_modelled(machine: &Element, hardware: &Element) -> Vec<String> {
    let mut lines = Vec::new();
    let is_on = |path: &[&str], name: &str| hardware.at(path).and_then(|e| e.attribute(name)) == Some("true");
    if is_on(&["AudioAdapter"], "enabled") {
        lines.push("AudioAdapter: a sound card".to_owned());
    }
    if is_on(&["RemoteDisplay"], "enabled") {
        lines.push("RemoteDisplay: a remote screen".to_owned());
    }
    let tpm = hardware.child("TrustedPlatformModule").and_then(|tpm| tpm.attribute("type"));
    if tpm.is_some_and(|kind| kind != "None") {
        lines.push("TrustedPlatformModule: a TPM".to_owned());
    }
    let inside = |path: &[&str], name: &str| hardware.at(path).map_or(0, |element| element.children(name).count());
    for (path, name, what) in [
        (&["SharedFolders"][..], "SharedFolder", "shared folders"),
        (&["USB", "Controllers"], "Controller", "USB controllers"),
    ] {
        let count = inside(path, name);
        if count > 0 {
            lines.push(format!("{}: {what}: {count}", path[0]));
        }
    }
    if machine.child("Snapshot").is_some() {
        lines.push("Snapshot: its snapshots".to_owned());
    }
    if firmware(hardware) != Firmware::Bios {
        lines.push("NVRAM: the UEFI variables, boot entries and secure boot among them".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::hardware::Bus;

    const WEB2: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/definitions/web2.vbox"));

    fn read(text: &str) -> Result<Hardware, String> {
        hardware(Path::new("web2.vbox"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_definition() {
        let disk = |slot: &str, unit| AttachedDisk { slot: slot.to_owned(), bus: Bus::Sata, controller: 0, unit };
        let card = |mac: &str, model: &str, network: &str| NetworkCard {
            mac: Some(mac.to_owned()),
            model: Some(model.to_owned()),
            network: Some(network.to_owned()),
        };
        let expected = Hardware {
            name: "web2".to_owned(),
            description: Some("Front end\nsecond of two".to_owned()),
            uuid: Some("7a1c2e90-0b5d-4a57-8f1e-3d2b6c4481f0".to_owned()),
            memory_bytes: 4 << 30,
            processors: 4,
            firmware: Firmware::Uefi { secure_boot: false },
            guest_os: Some("Debian12_64".to_owned()),
            disks: vec![disk("sata0:0", 0), disk("sata0:1", 1)],
            network_cards: vec![
                card("08:00:27:a1:b2:c3", "virtio", "nat"),
                card("08:00:27:a1:b2:c4", "am79c973", "eth0"),
            ],
            not_carried_over: [
                "sata0:2: \"vault.vdi\" is encrypted: that is not supported",
                "ide1:0: a CD-ROM drive",
                "AudioAdapter: a sound card",
                "TrustedPlatformModule: a TPM",
                "SharedFolders: shared folders: 1",
                "USB: USB controllers: 1",
                "Snapshot: its snapshots",
                "NVRAM: the UEFI variables, boot entries and secure boot among them",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        assert_eq!(read(WEB2).unwrap(), expected);
    }

    #[test]
    fn hostile_definitions_are_refused() {
        let with = |hardware: &str| {
            format!("<VirtualBox><Machine name='a'><Hardware>{hardware}</Hardware></Machine></VirtualBox>")
        };
        for (text, message) in [
            ("<VirtualBox/>".to_owned(), "web2.vbox: VirtualBox: expected a Machine inside, found none"),
            (
                "<VirtualBox><MachineEncrypted keyId='a' keyStore='b'/></VirtualBox>".to_owned(),
                "web2.vbox: the machine web2 is encrypted (MachineEncrypted): encrypted machines are not supported",
            ),
            (
                with("<Memory RAMSize='18446744073709551615'/>"),
                "web2.vbox: Memory@RAMSize: expected a memory size in MiB, found \"18446744073709551615\"",
            ),
            (with("<CPU count='-1'/>"), "web2.vbox: CPU@count: expected a number of processors, found \"-1\""),
            (
                with(
                    "<StorageControllers><StorageController type='AHCI'><AttachedDevice/><AttachedDevice/>\
                     </StorageController></StorageControllers>",
                ),
                "web2.vbox: AttachedDevice: expected another place for each device, found \"sata0:0\"",
            ),
        ] {
            assert_eq!(read(&text).unwrap_err(), message);
        }
    }
}
