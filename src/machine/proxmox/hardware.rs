//! A Proxmox VE configuration's [`Hardware`]. Pure. Defaults are those of qemu-server where a key is not there.

use std::path::Path;

use super::{Attached, Conf, Drive, Role, options, text_of};
use crate::machine::error::{MachineError, shown};
use crate::machine::hardware::{AttachedDisk, Bus, Firmware, Hardware, NetworkCard, ScsiModel};
use crate::machine::names::printable;

/// Most network cards; Proxmox VE allows 32.
const CARDS_MAX: u32 = 32;
/// Keys that have no place in the model, with their numbers cut off, and what they are.
const NOT_MODELLED: [(&str, &str); 15] = [
    ("args", "arguments passed to QEMU"),
    ("audio", "a sound card"),
    ("balloon", "memory that can be taken back"),
    ("cpu", "the processor model"),
    ("cpulimit", "limits of its processors"),
    ("cpuunits", "limits of its processors"),
    ("hookscript", "a script of the host"),
    ("hostpci", "a passed-through PCI device"),
    ("hugepages", "how its memory is provided"),
    ("ivshmem", "shared memory"),
    ("numa", "placement of its memory"),
    ("serial", "a serial port"),
    ("usb", "a passed-through USB device"),
    ("virtiofs", "a shared folder"),
    ("watchdog", "a watchdog"),
];

/// The hardware that a configuration describes; `file` is for the errors.
pub(in crate::machine) fn hardware(file: &Path, bytes: &[u8]) -> Result<Hardware, MachineError> {
    let text = text_of(file, bytes)?;
    let conf = Conf::parse(file, &text)?;
    let mut hardware = Hardware {
        name: conf.name(),
        description: Some(conf.description.trim().to_owned()).filter(|text| !text.is_empty()),
        uuid: conf.uuid(),
        memory_bytes: memory_bytes(&conf)?,
        processors: processors(&conf)?,
        firmware: firmware(&conf),
        guest_os: conf.value("ostype").map(printable).filter(|name| !name.is_empty()),
        network_cards: (0..CARDS_MAX).filter_map(|card| conf.value(&format!("net{card}"))).map(network_card).collect(),
        ..Hardware::default()
    };
    for drive in conf.drives() {
        match drive.attached() {
            Attached::Image if drive.role == Role::Disk => hardware.disks.push(attached_disk(&conf, &drive)),
            Attached::Image => {
                let what = if drive.bus == "efidisk" { "the UEFI variables" } else { "a TPM and what it remembers" };
                hardware.not_carried_over.push(format!("{}: {what}", drive.slot));
            }
            Attached::NoDisk(what) => hardware.not_carried_over.push(format!("{}: {what}", drive.slot)),
        }
    }
    for (key, _) in &conf.entries {
        let kind = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let known = NOT_MODELLED.iter().find(|(name, _)| *name == kind);
        hardware.not_carried_over.extend(known.map(|(_, what)| format!("{key}: {what}")));
    }
    Ok(hardware)
}

fn wrong(conf: &Conf<'_>, key: &str, expected: &str, found: &str) -> MachineError {
    MachineError::Value {
        file: conf.file.to_path_buf(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: shown(found),
    }
}

/// MiB, as a number or as `current=NUMBER`.
fn memory_bytes(conf: &Conf<'_>) -> Result<u64, MachineError> {
    const DEFAULT_MIB: &str = "512";
    let value = conf.value("memory").unwrap_or(DEFAULT_MIB);
    let number = options(value).find(|(name, _)| matches!(*name, "" | "current")).map(|(_, number)| number);
    let bytes = number.and_then(|number| number.parse::<u64>().ok()?.checked_mul(1 << 20));
    bytes.ok_or_else(|| wrong(conf, "memory", "a memory size in MiB", value))
}

fn processors(conf: &Conf<'_>) -> Result<u32, MachineError> {
    let number = |key: &str| {
        let text = conf.value(key).unwrap_or("1");
        text.parse::<u32>().map_err(|_| wrong(conf, key, "a number of processors", text))
    };
    let (sockets, cores) = (number("sockets")?, number("cores")?);
    let all = sockets.checked_mul(cores);
    all.ok_or_else(|| wrong(conf, "sockets", "a number of processors", &format!("{sockets} times {cores}")))
}

fn firmware(conf: &Conf<'_>) -> Firmware {
    match conf.value("bios") {
        Some("ovmf") => Firmware::Uefi { secure_boot: conf.option("efidisk0", "pre-enrolled-keys") == Some("1") },
        _ => Firmware::Bios,
    }
}

/// `virtio=BC:24:11:AA:BB:01,bridge=vmbr0`: the model with the address, or `model=` and `macaddr=`.
fn network_card(value: &str) -> NetworkCard {
    let find = |wanted: &str| options(value).find(|(name, _)| *name == wanted).map(|(_, text)| text);
    let (model, mac) = match options(value).next() {
        Some(("model", model)) => (Some(model), find("macaddr")),
        Some(("", model)) => (Some(model), find("macaddr")),
        Some((model, mac)) => (Some(model), Some(mac)),
        None => (None, None),
    };
    let text = |text: &str| Some(printable(text)).filter(|text| !text.is_empty());
    NetworkCard {
        mac: mac.and_then(text).map(|mac| mac.to_ascii_lowercase()),
        model: model.and_then(text).map(|model| model.to_ascii_lowercase()),
        network: find("bridge").and_then(text),
    }
}

fn attached_disk(conf: &Conf<'_>, drive: &Drive<'_>) -> AttachedDisk {
    let slot = drive.slot.clone();
    let (bus, controller, unit) = match drive.bus {
        "ide" => (Bus::Ide, drive.number / 2, drive.number % 2),
        "sata" => (Bus::Sata, 0, drive.number),
        "virtio" => (Bus::Virtio, 0, drive.number),
        _ => {
            let model = scsi_model(conf.value("scsihw"));
            // Controllers that are not virtio carry seven disks; further ones are added.
            let (controller, unit) = match model {
                ScsiModel::Virtio => (0, drive.number),
                _ => (drive.number / 7, drive.number % 7),
            };
            (Bus::Scsi(model), controller, unit)
        }
    };
    AttachedDisk { slot, bus, controller, unit }
}

fn scsi_model(name: Option<&str>) -> ScsiModel {
    match name.unwrap_or("lsi") {
        name if name.starts_with("virtio-scsi") => ScsiModel::Virtio,
        "pvscsi" => ScsiModel::VmwareParavirtual,
        "megasas" => ScsiModel::LsiSas,
        _ => ScsiModel::LsiLogic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB3: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/definitions/100.conf"));

    fn read(text: &str) -> Result<Hardware, String> {
        hardware(Path::new("100.conf"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_configuration() {
        let disk = |slot: &str, bus, unit| AttachedDisk { slot: slot.to_owned(), bus, controller: 0, unit };
        let card = |mac: &str, model: &str, network: &str| NetworkCard {
            mac: Some(mac.to_owned()),
            model: Some(model.to_owned()),
            network: Some(network.to_owned()),
        };
        let expected = Hardware {
            name: "web3".to_owned(),
            description: Some("Front end: ask **Anna** first\nsecond line, 100%".to_owned()),
            uuid: Some("8c5e0a6b-2c44-4c01-9d5e-0a6b2c4481f0".to_owned()),
            memory_bytes: 4 << 30,
            processors: 4,
            firmware: Firmware::Uefi { secure_boot: true },
            guest_os: Some("l26".to_owned()),
            disks: vec![
                disk("scsi0", Bus::Scsi(ScsiModel::Virtio), 0),
                disk("scsi2", Bus::Scsi(ScsiModel::Virtio), 2),
                disk("virtio1", Bus::Virtio, 1),
            ],
            network_cards: vec![
                card("bc:24:11:0a:6b:2c", "virtio", "vmbr0"),
                card("bc:24:11:0a:6b:2d", "e1000", "vmbr1"),
            ],
            not_carried_over: [
                "ide2: a CD-ROM drive",
                "scsi1: \"local:100/vm-100-disk-1.raw\" is excluded by its definition (backup=0)",
                "efidisk0: the UEFI variables",
                "tpmstate0: a TPM and what it remembers",
                "unused0: \"local-lvm:vm-100-disk-9\" is no longer part of the machine (unused)",
                "balloon: memory that can be taken back",
                "cpu: the processor model",
                "numa: placement of its memory",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        assert_eq!(read(WEB3).unwrap(), expected);
    }

    #[test]
    fn edges() {
        let short = read("name: a\n").unwrap();
        assert_eq!((short.memory_bytes, short.processors, short.description), (512 << 20, 1, None));
        assert_eq!(read("memory: current=2048\n").unwrap().memory_bytes, 2 << 30);
        assert_eq!(read("#a%zz%4%\n").unwrap().description.as_deref(), Some("a%zz%4%"));
        assert_eq!(read("scsi9: x:y\n").unwrap().disks[0].controller, 1);
        for (text, message) in [
            ("memory: lots\n", "100.conf: memory: expected a memory size in MiB, found \"lots\""),
            (
                "cores: 4294967295\nsockets: 2\n",
                "100.conf: sockets: expected a number of processors, found \"2 times 4294967295\"",
            ),
            ("a\n", "100.conf: line 1: expected key: value, found \"a\""),
            ("name: a\n\u{1b}[2J\n", "100.conf: line 2: expected key: value, found \"\\u{1b}[2J\""),
            ("name: \0\n", "100.conf: line 1: expected text in UTF-8 without NUL bytes, found \"name: \\0\\n\""),
            ("arch: amd64\nrootfs: local:101/vm-101-disk-0.raw\n", "100.conf: a container is not supported"),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
        let long = "a: b\n".repeat(65_537);
        assert_eq!(read(&long).unwrap_err(), "100.conf: lines: expected at most 65536, found 65537");
    }

    proptest::proptest! {
        /// Whatever is in the file, it is refused or read; the disks are in order.
        #[test]
        fn nothing_panics(lines in proptest::collection::vec("(scsi|virtio|ide|unused|net|#|\\[)[0-9]{0,3}:? ?[-,=:./%a-f0-9\\]]{0,20}", 0..20)) {
            if let Ok(hardware) = read(&lines.join("\n")) {
                let units: Vec<_> = hardware.disks.iter().map(|disk| disk.slot.clone()).collect();
                let unique: std::collections::HashSet<_> = units.iter().collect();
                proptest::prop_assert_eq!(unique.len(), units.len());
            }
        }
    }
}
