//! An XML configuration's [`Hardware`]. Pure.

use std::path::Path;

use super::{Attached, drives, name_of, uuid_of};
use crate::machine::error::{MachineError, shown};
use crate::machine::hardware::{AttachedDisk, Firmware, Hardware, NetworkCard};
use crate::machine::names::{normal_uuid, printable};
use crate::machine::xml::{self, Element};

/// The hardware that a configuration describes; `file` is for the errors.
pub(in crate::machine) fn hardware(file: &Path, bytes: &[u8]) -> Result<Hardware, MachineError> {
    let root = xml::parse(file, bytes)?;
    let settings = |path: &[&str]| root.child("settings").and_then(|settings| settings.text_at(path));
    let number = |path: &[&str], expected: &str| {
        let Some(text) = settings(path) else { return Ok(0) };
        text.parse::<u64>().map_err(|_| wrong(file, path, expected, text))
    };
    let memory = ["memory", "bank", "size"];
    let memory_mib = number(&memory, "a memory size in MiB")?;
    let count = ["processors", "count"];
    let processors = number(&count, "a number of processors")?;
    let mut hardware = Hardware {
        name: name_of(&root, file),
        description: root.text_at(&["properties", "notes"]).map(str::to_owned),
        // The firmware shows another one than the machine's own.
        uuid: root
            .at(&["settings"])
            .and_then(|settings| settings.text_at(&["bios", "bios_guid"]))
            .and_then(normal_uuid)
            .or_else(|| uuid_of(file)),
        memory_bytes: memory_mib
            .checked_mul(1 << 20)
            .ok_or_else(|| wrong(file, &memory, "a memory size in MiB", &memory_mib.to_string()))?,
        processors: u32::try_from(processors)
            .map_err(|_| wrong(file, &count, "a number of processors", &processors.to_string()))?,
        firmware: firmware(&root),
        network_cards: network_cards(&root),
        ..Hardware::default()
    };
    for drive in drives(file, &root)? {
        let slot = drive.slot;
        match drive.attached {
            Attached::Image(_) => {
                let (bus, controller, unit) = (drive.bus, drive.controller, drive.unit);
                hardware.disks.push(AttachedDisk { slot, bus, controller, unit });
            }
            Attached::Skipped(what) => hardware.not_carried_over.push(format!("{slot}: {what}")),
            Attached::NoDisk(what) => hardware.not_carried_over.push(format!("{slot}: {what}")),
        }
    }
    if settings(&["memory", "bank", "dynamic_memory_enabled"]).is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        hardware.not_carried_over.push("dynamic_memory_enabled: memory that can be taken back".to_owned());
    }
    Ok(hardware)
}

fn wrong(file: &Path, path: &[&str], expected: &str, found: &str) -> MachineError {
    MachineError::Value {
        file: file.to_path_buf(),
        key: format!("settings/{}", path.join("/")),
        expected: expected.to_owned(),
        found: shown(found),
    }
}

/// Machines of generation 2 have UEFI; `subtype` counts generations from 0.
fn firmware(root: &Element) -> Firmware {
    match root.text_at(&["properties", "subtype"]) {
        Some("1") => Firmware::Uefi { secure_boot: says_secure_boot(root) },
        _ => Firmware::Bios,
    }
}

fn says_secure_boot(root: &Element) -> bool {
    let mut devices = root.children.iter().flat_map(|device| std::iter::once(device).chain(&device.children));
    devices.any(|device| device.text_at(&["secure_boot_enabled"]).is_some_and(|text| text.eq_ignore_ascii_case("true")))
}

fn network_cards(root: &Element) -> Vec<NetworkCard> {
    let cards = root.children.iter().filter(|child| child.name.starts_with('_')).filter_map(|device| {
        let mac = device.text_at(&["MacAddress"])?;
        let digits: String = mac.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase();
        let pairs: Vec<&str> = (0..digits.len()).step_by(2).filter_map(|at| digits.get(at..at + 2)).collect();
        Some(NetworkCard {
            mac: Some(pairs.join(":")).filter(|_| digits.len() == 12),
            model: None,
            network: device.text_at(&["AltSwitchName"]).or_else(|| device.text_at(&["SwitchName"])).map(printable),
        })
    });
    cards.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::hardware::{Bus, ScsiModel};

    const WEB4: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/definitions/hyperv/9D5E0A6B-2C44-4C01-9D5E-0A6B2C4481F0.xml"
    ));

    #[test]
    fn a_whole_configuration_as_utf_16() {
        let bytes: Vec<u8> = format!("\u{feff}{WEB4}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let found = hardware(Path::new("9D5E0A6B-2C44-4C01-9D5E-0A6B2C4481F0.xml"), &bytes).unwrap();
        let disk = |slot: &str, bus| AttachedDisk { slot: slot.to_owned(), bus, controller: 0, unit: 0 };
        let expected = Hardware {
            name: "web4".to_owned(),
            description: Some("Front end".to_owned()),
            uuid: Some("0a6b2c44-81f0-4c01-9d5e-112233445566".to_owned()),
            memory_bytes: 2 << 30,
            processors: 2,
            firmware: Firmware::Bios,
            guest_os: None,
            disks: vec![disk("ide0:0", Bus::Ide), disk("scsi0:0", Bus::Scsi(ScsiModel::HyperV))],
            network_cards: vec![NetworkCard {
                mac: Some("00:15:5d:01:0a:0b".to_owned()),
                model: None,
                network: Some("External".to_owned()),
            }],
            not_carried_over: [
                "ide1:0: a CD-ROM drive",
                "scsi0:1: a raw device (\"\\\\\\\\.\\\\PHYSICALDRIVE3\"): its content is in no file of the machine",
                "dynamic_memory_enabled: memory that can be taken back",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        assert_eq!(found, expected);
    }
}
