//! A package's [`Hardware`]. Pure.
//!
//! Source: DMTF DSP0243 and DSP0004 ("Programmatic units"); keys of `vmw:Config` as vSphere exports them.

use std::path::Path;

use super::Stored;
use super::envelope::{Envelope, Item, System, resource, section};
use crate::machine::error::{MachineError, shown};
use crate::machine::hardware::{Firmware, Hardware, NetworkCard};
use crate::machine::names::printable;
use crate::machine::xml::{self, Element};

/// Items that have no place in the model, and what they are. Controllers come with their disks, screens with every machine.
const NOT_MODELLED: [(u32, &str); 6] = [
    (1, "a device of another kind"),
    (21, "a serial port"),
    (22, "a parallel port"),
    (23, "a USB controller"),
    (7, "a Fibre Channel adapter"),
    (35, "a sound card"),
];

/// The hardware that a descriptor describes; `file` is for the errors.
pub(in crate::machine) fn hardware(file: &Path, bytes: &[u8]) -> Result<Hardware, MachineError> {
    let root = xml::parse(file, bytes)?;
    let envelope = Envelope::of(file, &root)?;
    let system = envelope.system()?;
    let mut hardware = Hardware {
        name: system.name(),
        description: annotation(system.element),
        uuid: None,
        firmware: firmware(system.element),
        guest_os: guest_os(system.element),
        not_carried_over: not_modelled(&system),
        ..Hardware::default()
    };
    for item in &system.items {
        match item.kind {
            resource::PROCESSOR => hardware.processors = processors(file, item)?,
            resource::MEMORY => hardware.memory_bytes = memory_bytes(file, item)?,
            resource::ETHERNET => hardware.network_cards.push(network_card(item)),
            _ => {}
        }
    }
    for disk in system.disks()? {
        if matches!(envelope.stored(&disk.resource)?, Stored::File(_)) {
            hardware.disks.push(disk.attached);
        }
    }
    Ok(hardware)
}

fn wrong(file: &Path, key: &str, expected: &str, found: &str) -> MachineError {
    MachineError::Value {
        file: file.to_path_buf(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: shown(found),
    }
}

fn quantity<'x>(item: &Item<'x>) -> &'x str {
    item.text("VirtualQuantity").unwrap_or("0")
}

fn processors(file: &Path, item: &Item<'_>) -> Result<u32, MachineError> {
    quantity(item).parse().map_err(|_| wrong(file, "processors", "a number", quantity(item)))
}

fn memory_bytes(file: &Path, item: &Item<'_>) -> Result<u64, MachineError> {
    let units = item.text("AllocationUnits").unwrap_or("byte * 2^20");
    let said = format!("{} {units}", quantity(item));
    let bytes = factor(units).and_then(|factor| quantity(item).parse::<u64>().ok()?.checked_mul(factor));
    bytes.ok_or_else(|| wrong(file, "memory", "a memory size", &said))
}

/// `byte * 2^20`, `MegaBytes`, `MB` → 1 MiB.
fn factor(units: &str) -> Option<u64> {
    let plain: String = units.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    match plain.as_str() {
        "byte" | "bytes" => return Some(1),
        "kilobytes" | "kb" | "kbytes" => return Some(1 << 10),
        "megabytes" | "mb" | "mbytes" => return Some(1 << 20),
        "gigabytes" | "gb" | "gbytes" => return Some(1 << 30),
        _ => {}
    }
    let (base, exponent) = plain.strip_prefix("byte*")?.split_once('^')?;
    base.parse::<u64>().ok()?.checked_pow(exponent.parse().ok()?)
}

fn annotation(system: &Element) -> Option<String> {
    let text = section(system, "AnnotationSection")?.text_at(&["Annotation"])?;
    Some(text.to_owned())
}

/// vSphere's own name for it, else the words beside the number.
fn guest_os(system: &Element) -> Option<String> {
    let section = section(system, "OperatingSystemSection")?;
    let name = section.attribute("osType").or_else(|| section.text_at(&["Description"]))?;
    Some(printable(name)).filter(|name| !name.is_empty())
}

fn firmware(system: &Element) -> Firmware {
    let Some(hardware) = section(system, "VirtualHardwareSection") else { return Firmware::Bios };
    let says = |key: &str, value: &str| {
        hardware.children("Config").any(|config| {
            config.attribute("key") == Some(key)
                && config.attribute("value").is_some_and(|found| found.eq_ignore_ascii_case(value))
        })
    };
    match says("firmware", "efi") {
        true => Firmware::Uefi { secure_boot: says("bootOptions.efiSecureBootEnabled", "true") },
        false => Firmware::Bios,
    }
}

fn network_card(item: &Item<'_>) -> NetworkCard {
    let text = |name: &str| item.text(name).map(printable).filter(|text| !text.is_empty());
    NetworkCard {
        mac: text("Address").map(|mac| mac.to_ascii_lowercase()),
        model: text("ResourceSubType").map(|model| model.to_ascii_lowercase()),
        network: text("Connection"),
    }
}

fn not_modelled(system: &System<'_>) -> Vec<String> {
    let mut lines = system.drives();
    for (kind, what) in NOT_MODELLED {
        for item in system.items.iter().filter(|item| item.kind == kind) {
            let name = item.text("ElementName").or_else(|| item.text("Caption")).unwrap_or("device");
            lines.push(format!("{}: {what}", printable(name)));
        }
    }
    lines
}
