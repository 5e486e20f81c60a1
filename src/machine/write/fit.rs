//! What a machine looks like on another hypervisor: the nearest hardware that is there, and what changed by it.
//!
//! Pure. Everything that comes out can be written in the target's words without a loss, and reads back the same.

use super::Target;
use super::guest_os::translated;
use super::places::{bus_on, place};
use crate::machine::MachineError;
use crate::machine::hardware::{AttachedDisk, Bus, Firmware, Hardware, NetworkCard, ScsiModel};

/// What a machine gets whose definition does not say: enough for most guests to start.
const MEMORY_BYTES_DEFAULT: u64 = 2 << 30;
/// VMware counts memory in steps of 4 MiB.
const VMWARE_MEMORY_STEP: u64 = 4 << 20;
/// Most memory we write down (1 PiB), beyond any hypervisor's limit: a definition is input.
const MEMORY_BYTES_MAX: u64 = 1 << 50;
/// Longest name: libvirt makes file names of it, and vSphere allows 80.
const NAME_CHARS_MAX: usize = 80;
/// Longest description that is carried over.
const DESCRIPTION_CHARS_MAX: usize = 4096;

/// A machine as the target has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// Its hardware; the disks are the restored ones, in their order.
    pub hardware: Hardware,
    /// What is different there, and the guest may have to be told.
    pub notes: Vec<String>,
    /// What is lost or was made up.
    pub warnings: Vec<String>,
}

/// Fits hardware to what `target` has. `restored` are the slots of the restored disks, in their order.
///
/// # Errors
/// [`MachineError::TooMuch`] if the target has not as many places for disks.
pub fn fit(hardware: &Hardware, restored: &[String], target: Target) -> Result<Fitted, MachineError> {
    let (mut notes, mut warnings) = (Vec::new(), Vec::new());
    let secure_boot = hardware.firmware == Firmware::Uefi { secure_boot: true };
    let disks = disks(hardware, restored, target, secure_boot, &mut notes, &mut warnings)?;
    let network_cards = network_cards(&hardware.network_cards, target, &mut notes);
    if hardware.firmware != Firmware::Bios {
        notes.push("it starts by UEFI with fresh variables: the firmware looks for the loader by itself".to_owned());
    }
    if !hardware.not_carried_over.is_empty() {
        warnings.push(format!("not carried over: {}", hardware.not_carried_over.join("; ")));
    }
    let fitted = Hardware {
        name: name(&hardware.name),
        description: hardware.description.as_deref().and_then(description),
        // An OVF is a template: whoever imports it gives the machine its UUID.
        uuid: hardware.uuid.clone().filter(|_| target != Target::Ovf),
        memory_bytes: memory(hardware.memory_bytes, target, &mut warnings),
        processors: hardware.processors.max(1),
        firmware: hardware.firmware,
        guest_os: translated(target, hardware.guest_os.as_deref()),
        disks,
        network_cards,
        not_carried_over: Vec::new(),
    };
    Ok(Fitted { hardware: fitted, notes, warnings })
}

fn name(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_control() || c == '/' || !is_xml(c) { '_' } else { c }).collect();
    let plain: String = plain.trim().chars().take(NAME_CHARS_MAX).collect();
    let plain = plain.trim().to_owned();
    if plain.is_empty() { "machine".to_owned() } else { plain }
}

fn description(text: &str) -> Option<String> {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let plain = lines.chars().filter(|c| matches!(c, '\n' | '\t') || (!c.is_control() && is_xml(*c)));
    let plain: String = plain.take(DESCRIPTION_CHARS_MAX).collect();
    Some(plain.trim().to_owned()).filter(|text| !text.is_empty())
}

/// XML 1.0 has no way at all to write these two.
fn is_xml(character: char) -> bool {
    !matches!(character, '\u{fffe}' | '\u{ffff}')
}

fn memory(bytes: u64, target: Target, warnings: &mut Vec<String>) -> u64 {
    let bytes = match bytes {
        0 => {
            warnings.push("its memory is not known: it gets 2 GiB".to_owned());
            MEMORY_BYTES_DEFAULT
        }
        bytes => bytes.min(MEMORY_BYTES_MAX),
    };
    match target {
        Target::Vmx | Target::Ovf => bytes.next_multiple_of(VMWARE_MEMORY_STEP),
        Target::Libvirt => bytes.next_multiple_of(1 << 10),
    }
}

/// The restored disks on the target. One that the definition does not know hangs at the first free place.
fn disks(
    hardware: &Hardware,
    restored: &[String],
    target: Target,
    secure_boot: bool,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<AttachedDisk>, MachineError> {
    let unknown = |slot: &String| AttachedDisk { slot: slot.clone(), bus: Bus::Sata, controller: 0, unit: u32::MAX };
    let source: Vec<AttachedDisk> = restored
        .iter()
        .map(|slot| hardware.disks.iter().find(|disk| disk.slot == *slot).cloned().unwrap_or_else(|| unknown(slot)))
        .collect();
    for disk in hardware.disks.iter().filter(|disk| !restored.contains(&disk.slot)) {
        warnings.push(format!("disk {} is not in the backup: the restored machine has no such disk", disk.slot));
    }
    let placed = place(target, &source, secure_boot).ok_or_else(|| MachineError::TooMuch {
        path: hardware.name.clone().into(),
        what: "disks of the machine",
        max: 180,
        found: source.len() as u64,
    })?;
    for (before, after) in source.iter().zip(&placed) {
        if before.bus != after.bus {
            let on = bus_on(target, before.bus, secure_boot);
            let full = if on == after.bus { "" } else { " (all places before it are taken)" };
            notes.push(format!(
                "disk {} moved from {} to {}{full} as {}: the guest needs the driver of that controller to start",
                before.slot,
                bus_name(before.bus),
                bus_name(after.bus),
                after.slot
            ));
        }
    }
    Ok(placed)
}

fn bus_name(bus: Bus) -> &'static str {
    match bus {
        Bus::Ide => "IDE",
        Bus::Sata => "SATA (AHCI)",
        Bus::Virtio => "virtio-blk",
        Bus::Nvme => "NVMe",
        Bus::Scsi(ScsiModel::LsiLogic) => "LSI Logic parallel SCSI",
        Bus::Scsi(ScsiModel::LsiSas) => "LSI Logic SAS",
        Bus::Scsi(ScsiModel::BusLogic) => "BusLogic SCSI",
        Bus::Scsi(ScsiModel::VmwareParavirtual) => "VMware paravirtual SCSI",
        Bus::Scsi(ScsiModel::Virtio) => "virtio-scsi",
        Bus::Scsi(ScsiModel::HyperV) => "Hyper-V SCSI",
    }
}

fn network_cards(cards: &[NetworkCard], target: Target, notes: &mut Vec<String>) -> Vec<NetworkCard> {
    let mut fitted = Vec::new();
    for (number, card) in cards.iter().enumerate() {
        let model = model(card.model.as_deref(), target);
        if let (Some(before), Some(after)) = (&card.model, &model)
            && !same_model(before, after)
        {
            notes.push(format!("network card {number} is {after} now, and was {before}: the guest sees another card"));
        }
        let network = network(card.network.as_deref(), target);
        if let Some(before) = card.network.as_ref().filter(|before| network.as_ref() != Some(*before)) {
            let after = network.as_deref().unwrap_or("the usual network");
            notes.push(format!("network card {number} is plugged into {after} now, and was into {before}"));
        }
        let mac = card.mac.as_deref().and_then(unicast);
        if let Some(bad) = card.mac.as_ref().filter(|_| mac.is_none()) {
            notes.push(format!("network card {number} gets another address: {bad:?} is none"));
        }
        fitted.push(NetworkCard { mac, model, network });
    }
    fitted
}

/// The kind of card that a name means, whatever the case and the hypervisor.
fn family(model: &str) -> &'static str {
    match model.to_ascii_lowercase().as_str() {
        "e1000e" => "e1000e",
        "vmxnet3" => "vmxnet3",
        "vlance" | "pcnet" | "pcnet32" | "am79c970a" | "am79c973" | "am79c960" | "flexible" => "pcnet",
        "rtl8139" => "rtl8139",
        name if name.starts_with("virtio") => "virtio",
        name if name.starts_with("e1000") || name.starts_with("825") => "e1000",
        _ => "other",
    }
}

fn same_model(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || (family(one) == family(other) && family(one) != "other")
}

/// The nearest card that the target has; one that most guests know where there is nothing near.
fn model(model: Option<&str>, target: Target) -> Option<String> {
    let family = model.map_or("e1000", family);
    let name = match (target, family) {
        (Target::Vmx, "pcnet") => "vlance",
        (Target::Ovf, "pcnet") => "pcnet32",
        (Target::Vmx | Target::Ovf, "e1000" | "e1000e" | "vmxnet3") => family,
        (Target::Libvirt, "e1000" | "e1000e" | "pcnet" | "rtl8139" | "virtio") => family,
        (Target::Vmx | Target::Ovf, "rtl8139") => "e1000",
        _ => "e1000e",
    };
    Some(name.to_owned())
}

/// A network of another hypervisor means nothing to libvirt, and it starts no machine whose network is not there; VMware
/// and importers of an OVF let the admin choose.
fn network(name: Option<&str>, target: Target) -> Option<String> {
    let printable = |name: &str| -> String { name.chars().filter(|c| !c.is_control() && is_xml(*c)).collect() };
    let name = name.map(printable).map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    match target {
        Target::Libvirt => Some("default".to_owned()),
        Target::Vmx => name,
        Target::Ovf => Some(name.unwrap_or_else(|| "VM Network".to_owned())),
    }
}

/// An address as all definitions take it: six bytes, lower case, with colons, of one card and not of a group.
fn unicast(mac: &str) -> Option<String> {
    let mac = mac.trim().to_ascii_lowercase().replace('-', ":");
    let bytes: Vec<&str> = mac.split(':').collect();
    let byte = |text: &&str| text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let first = u8::from_str_radix(bytes.first()?, 16).ok()?;
    (bytes.len() == 6 && bytes.iter().all(byte) && first & 1 == 0).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_said() {
        let disk = |slot: &str, bus, unit| AttachedDisk { slot: slot.to_owned(), bus, controller: 0, unit };
        let source = Hardware {
            name: " web/1\n".to_owned(),
            description: Some("Front end\r\nask\u{1} Anna \u{ffff}first\n".to_owned()),
            uuid: Some("564d1f3a-7720-4c01-9d5e-0a6b2c4481f0".to_owned()),
            disks: vec![disk("vda", Bus::Virtio, 0), disk("sda", Bus::Sata, 0), disk("vdb", Bus::Virtio, 1)],
            network_cards: vec![NetworkCard {
                mac: Some("01:00:5e:00:00:01".to_owned()),
                model: Some("virtio".to_owned()),
                network: Some("br0".to_owned()),
            }],
            firmware: Firmware::Uefi { secure_boot: false },
            not_carried_over: vec!["tpm: a TPM".to_owned()],
            ..Hardware::default()
        };
        let restored = ["vda".to_owned(), "sda".to_owned(), "disk9".to_owned()];
        let fitted = fit(&source, &restored, Target::Vmx).unwrap();
        let slots: Vec<&str> = fitted.hardware.disks.iter().map(|disk| disk.slot.as_str()).collect();
        assert_eq!(slots, ["sata0:1", "sata0:0", "sata0:2"]);
        assert_eq!(fitted.hardware.name, "web_1_");
        assert_eq!(fitted.hardware.description.as_deref(), Some("Front end\nask Anna first"));
        assert_eq!((fitted.hardware.memory_bytes, fitted.hardware.processors), (2 << 30, 1));
        let cards = &fitted.hardware.network_cards;
        assert_eq!(cards[0].model.as_deref(), Some("e1000e"));
        assert_eq!((cards[0].mac.as_deref(), cards[0].network.as_deref()), (None, Some("br0")));
        assert_eq!(
            fitted.warnings,
            [
                "disk vdb is not in the backup: the restored machine has no such disk",
                "not carried over: tpm: a TPM",
                "its memory is not known: it gets 2 GiB"
            ]
        );
        assert_eq!(
            fitted.notes,
            [
                "disk vda moved from virtio-blk to SATA (AHCI) as sata0:1: the guest needs the driver of that controller \
                 to start",
                "network card 0 is e1000e now, and was virtio: the guest sees another card",
                "network card 0 gets another address: \"01:00:5e:00:00:01\" is none",
                "it starts by UEFI with fresh variables: the firmware looks for the loader by itself"
            ]
        );
        assert_eq!(fit(&source, &restored, Target::Ovf).unwrap().hardware.uuid, None);
        let libvirt = fit(&source, &restored, Target::Libvirt).unwrap().hardware;
        assert_eq!(libvirt.network_cards[0].network.as_deref(), Some("default"));
        assert_eq!(libvirt.network_cards[0].model.as_deref(), Some("virtio"));
    }

    #[test]
    fn addresses() {
        for (mac, expected) in [
            ("00:0C:29:44:81:F0", Some("00:0c:29:44:81:f0")),
            ("00-0c-29-44-81-f0", Some("00:0c:29:44:81:f0")),
            ("ff:ff:ff:ff:ff:ff", None),
            ("00:0c:29:44:81", None),
            ("00:0c:29:44:81:+1", None),
            ("", None),
        ] {
            assert_eq!(unicast(mac).as_deref(), expected, "{mac}");
        }
    }
}
