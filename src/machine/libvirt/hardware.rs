//! A domain's [`Hardware`]. Pure.
//!
//! Where a device has no address (libvirt fills it in when it defines the domain), its place follows from the letters of
//! its target, as libvirt itself does it.

use std::path::Path;

use super::{Attached, Disk, Domain};
use crate::machine::error::{MachineError, shown};
use crate::machine::hardware::{AttachedDisk, Bus, Firmware, Hardware, NetworkCard, ScsiModel};
use crate::machine::names::printable;
use crate::machine::xml::{self, Element};

/// Devices that have no place in the model, and what they are. Left out are those that every machine gets anyway:
/// consoles, screens, controllers, keyboards.
const NOT_MODELLED: [(&str, &str); 15] = [
    ("filesystem", "a shared folder"),
    ("hostdev", "a passed-through device"),
    ("iommu", "an IOMMU"),
    ("lease", "a lease"),
    ("memory", "a memory module"),
    ("nvram", "an NVRAM device"),
    ("parallel", "a parallel port"),
    ("redirdev", "USB redirection"),
    ("shmem", "shared memory"),
    ("smartcard", "a smartcard reader"),
    ("sound", "a sound card"),
    ("tpm", "a TPM"),
    ("vsock", "a socket to the host"),
    ("watchdog", "a watchdog"),
    ("panic", "a panic notifier"),
];
/// Settings of the domain itself that have no place in the model.
const SETTINGS_NOT_MODELLED: [(&str, &str); 9] = [
    ("blkiotune", "limits of its disk input and output"),
    ("cputune", "limits and placement of its processors"),
    ("iothreads", "threads for its disks"),
    ("launchSecurity", "encrypted memory"),
    ("memoryBacking", "how its memory is provided"),
    ("memtune", "limits of its memory"),
    ("numatune", "placement of its memory"),
    ("commandline", "arguments passed to QEMU"),
    ("sysinfo", "SMBIOS texts"),
];

/// The hardware that a definition describes; `file` is for the errors.
pub(in crate::machine) fn hardware(file: &Path, bytes: &[u8]) -> Result<Hardware, MachineError> {
    let root = xml::parse(file, bytes)?;
    let domain = Domain::of(file, &root)?;
    let element = domain.element;
    let mut hardware = Hardware {
        name: domain.name(file),
        description: element.text_at(&["description"]).or_else(|| element.text_at(&["title"])).map(str::to_owned),
        uuid: domain.uuid(),
        memory_bytes: memory_bytes(file, element)?,
        processors: processors(file, element)?,
        firmware: firmware(element),
        guest_os: guest_os(element),
        network_cards: network_cards(element),
        ..Hardware::default()
    };
    for disk in domain.disks(file)? {
        match &disk.attached {
            Attached::Image { .. } => {
                hardware.disks.push(attached_disk(&disk, element, &mut hardware.not_carried_over))
            }
            Attached::Skipped(what) | Attached::NoDisk(what) => {
                hardware.not_carried_over.push(format!("{}: {what}", disk.slot));
            }
        }
    }
    hardware.not_carried_over.extend(not_modelled(element));
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

/// `<memory unit='KiB'>`; without a unit it counts KiB.
fn memory_bytes(file: &Path, domain: &Element) -> Result<u64, MachineError> {
    let Some(memory) = domain.child("memory") else { return Ok(0) };
    let unit = memory.attribute("unit").unwrap_or("KiB");
    let factor: Option<u64> = match unit {
        "b" | "bytes" => Some(1),
        "KB" => Some(1000),
        "k" | "KiB" => Some(1 << 10),
        "MB" => Some(1000 * 1000),
        "M" | "MiB" => Some(1 << 20),
        "GB" => Some(1000 * 1000 * 1000),
        "G" | "GiB" => Some(1 << 30),
        "TB" => Some(1000 * 1000 * 1000 * 1000),
        "T" | "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes = factor.and_then(|factor| memory.text().parse::<u64>().ok()?.checked_mul(factor));
    bytes.ok_or_else(|| wrong(file, "memory", "a memory size", &format!("{} {unit}", memory.text())))
}

fn processors(file: &Path, domain: &Element) -> Result<u32, MachineError> {
    let Some(text) = domain.text_at(&["vcpu"]) else { return Ok(1) };
    text.parse().map_err(|_| wrong(file, "vcpu", "a number of processors", text))
}

fn firmware(domain: &Element) -> Firmware {
    let Some(os) = domain.child("os") else { return Firmware::Bios };
    let loader = os.child("loader");
    let is_flash = loader.is_some_and(|loader| loader.attribute("type") == Some("pflash"));
    if os.attribute("firmware") != Some("efi") && !is_flash {
        return Firmware::Bios;
    }
    let says_secure = loader.is_some_and(|loader| loader.attribute("secure") == Some("yes"));
    let feature = os.child("firmware").is_some_and(|firmware| {
        firmware.children("feature").any(|feature| {
            feature.attribute("name") == Some("secure-boot") && feature.attribute("enabled") == Some("yes")
        })
    });
    Firmware::Uefi { secure_boot: says_secure || feature }
}

/// libosinfo's identifier, which virt-manager and virt-install leave in the metadata.
fn guest_os(domain: &Element) -> Option<String> {
    let id = domain.at(&["metadata", "libosinfo", "os"])?.attribute("id")?;
    Some(printable(id)).filter(|id| !id.is_empty())
}

fn network_cards(domain: &Element) -> Vec<NetworkCard> {
    let Some(devices) = domain.child("devices") else { return Vec::new() };
    let value = |element: &Element, child: &str, attribute: &str| {
        let text = element.child(child)?.attribute(attribute)?;
        Some(printable(text)).filter(|text| !text.is_empty())
    };
    devices
        .children("interface")
        .map(|card| NetworkCard {
            mac: value(card, "mac", "address").map(|mac| mac.to_ascii_lowercase()),
            model: value(card, "model", "type").map(|model| model.to_ascii_lowercase()),
            network: ["network", "bridge", "dev"].iter().find_map(|name| value(card, "source", name)),
        })
        .collect()
}

fn attached_disk(disk: &Disk<'_>, domain: &Element, lost: &mut Vec<String>) -> AttachedDisk {
    let slot = disk.slot.clone();
    let index = index_of(&slot);
    let said = disk.element.child("target").and_then(|target| target.attribute("bus"));
    let bus = said.unwrap_or(match slot.get(..2) {
        Some("hd") => "ide",
        Some("sd") => "scsi",
        Some("xv") => "xen",
        _ => "virtio",
    });
    let number = |name: &str| {
        let address = disk.element.child("address").filter(|address| address.attribute("type") == Some("drive"))?;
        address.attribute(name)?.parse::<u32>().ok()
    };
    let at = |per_controller: u32| (index / per_controller, index % per_controller);
    let (bus, (controller, unit)) = match bus {
        // One controller has two channels of two; everyone else counts channels.
        "ide" => (Bus::Ide, number("bus").zip(number("unit")).unwrap_or(at(2))),
        "sata" => (Bus::Sata, number("controller").zip(number("unit")).unwrap_or(at(6))),
        "scsi" => {
            let controller = number("controller");
            let model = scsi_model(domain, controller.unwrap_or(0));
            let per_controller = if model == ScsiModel::LsiLogic { 7 } else { 16 };
            let unit = number("target").filter(|target| *target != 0).or_else(|| number("unit"));
            (Bus::Scsi(model), controller.zip(unit).unwrap_or(at(per_controller)))
        }
        "virtio" => (Bus::Virtio, (0, index)),
        "nvme" => (Bus::Nvme, (0, index)),
        other => {
            lost.push(format!("{slot}: its bus {}, taken as SATA", shown(other)));
            (Bus::Sata, at(6))
        }
    };
    AttachedDisk { slot, bus, controller, unit }
}

/// `vda` → 0, `sdz` → 25, `vdaa` → 26; 0 for a name of another shape.
fn index_of(slot: &str) -> u32 {
    let letters = ["vd", "sd", "hd", "xvd", "ubd"].iter().find_map(|prefix| slot.strip_prefix(prefix));
    let letters = letters.filter(|letters| (1..=4).contains(&letters.len()));
    let Some(letters) = letters.filter(|letters| letters.bytes().all(|byte| byte.is_ascii_lowercase())) else {
        return 0;
    };
    letters.bytes().fold(0, |index, letter| index * 26 + u32::from(letter - b'a') + 1) - 1
}

/// Without a model, a PC gets an LSI Logic controller.
fn scsi_model(domain: &Element, number: u32) -> ScsiModel {
    let controllers = domain.child("devices").into_iter().flat_map(|devices| devices.children("controller"));
    let mut scsi = controllers.filter(|controller| controller.attribute("type") == Some("scsi"));
    let own = scsi.find(|c| c.attribute("index").and_then(|index| index.parse().ok()).unwrap_or(0) == number);
    match own.and_then(|controller| controller.attribute("model")) {
        Some(model) if model.starts_with("virtio") => ScsiModel::Virtio,
        Some("lsisas1068" | "lsisas1078") => ScsiModel::LsiSas,
        Some("buslogic") => ScsiModel::BusLogic,
        Some("vmpvscsi") => ScsiModel::VmwareParavirtual,
        _ => ScsiModel::LsiLogic,
    }
}

/// What the definition has beyond the model, a line for each kind.
fn not_modelled(domain: &Element) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(devices) = domain.child("devices") {
        for (name, what) in NOT_MODELLED {
            match devices.children(name).count() {
                0 => {}
                1 => lines.push(format!("{name}: {what}")),
                count => lines.push(format!("{name}: {what}, {count} times")),
            }
        }
    }
    let settings = SETTINGS_NOT_MODELLED.iter().filter(|(name, _)| domain.child(name).is_some());
    lines.extend(settings.map(|(name, what)| format!("{name}: {what}")));
    if let Some(cpu) = domain.child("cpu") {
        let mode = cpu.attribute("mode").map(printable).or_else(|| cpu.text_at(&["model"]).map(printable));
        lines.extend(mode.map(|mode| format!("cpu: the processor model {mode}")));
        lines.extend(cpu.child("topology").map(|_| "cpu: sockets, cores and threads".to_owned()));
    }
    let memory = domain.text_at(&["memory"]);
    if domain.text_at(&["currentMemory"]).is_some_and(|current| Some(current) != memory) {
        lines.push("currentMemory: it starts with less memory than it can have".to_owned());
    }
    if domain.child("vcpu").is_some_and(|vcpu| vcpu.attribute("current").is_some()) {
        lines.push("vcpu: it starts with fewer processors than it can have".to_owned());
    }
    if domain.at(&["os", "nvram"]).is_some() {
        lines.push("nvram: the UEFI variables, boot entries among them".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB1: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/definitions/web1.xml"));

    fn read(text: &str) -> Result<Hardware, String> {
        hardware(Path::new("web1.xml"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_definition() {
        let disk = |slot: &str, bus, unit| AttachedDisk { slot: slot.to_owned(), bus, controller: 0, unit };
        let card = |mac: &str, model: &str, network: &str| NetworkCard {
            mac: Some(mac.to_owned()),
            model: Some(model.to_owned()),
            network: Some(network.to_owned()),
        };
        let found = read(WEB1).unwrap();
        let expected = Hardware {
            name: "web1".to_owned(),
            description: Some("Front end\nask Anna & Bo first".to_owned()),
            uuid: Some("6f0a1f3a-7720-4c01-9d5e-0a6b2c4481f0".to_owned()),
            memory_bytes: 4 << 30,
            processors: 4,
            firmware: Firmware::Uefi { secure_boot: true },
            guest_os: Some("http://debian.org/debian/12".to_owned()),
            disks: vec![
                disk("vda", Bus::Virtio, 0),
                disk("vdb", Bus::Virtio, 1),
                disk("sda", Bus::Scsi(ScsiModel::Virtio), 3),
            ],
            network_cards: vec![
                card("52:54:00:aa:bb:01", "virtio", "default"),
                card("52:54:00:aa:bb:02", "e1000e", "br0"),
            ],
            not_carried_over: found.not_carried_over.clone(),
        };
        assert_eq!(found, expected);
        for line in [
            "sdb: a CD-ROM drive",
            "hostdev: a passed-through device",
            "redirdev: USB redirection, 2 times",
            "tpm: a TPM",
            "commandline: arguments passed to QEMU",
            "cpu: the processor model host-passthrough",
            "currentMemory: it starts with less memory than it can have",
            "vcpu: it starts with fewer processors than it can have",
            "nvram: the UEFI variables, boot entries among them",
        ] {
            assert!(found.not_carried_over.contains(&line.to_owned()), "{line}: {:?}", found.not_carried_over);
        }
        assert!(found.not_carried_over.iter().any(|line| line.starts_with("vdd: a disk over the network")));
    }

    #[track_caller]
    fn place(devices: &str, expected: (Bus, u32, u32)) {
        let hardware = read(&format!("<domain type='kvm'><devices>{devices}</devices></domain>")).unwrap();
        let disk = hardware.disks.last().expect("a disk");
        assert_eq!((disk.bus, disk.controller, disk.unit), expected, "{devices}");
    }

    fn on(target: &str, more: &str) -> String {
        format!("<disk><source file='/x'/><target {target}/>{more}</disk>")
    }

    #[test]
    fn places() {
        let lsi = Bus::Scsi(ScsiModel::LsiLogic);
        place(&on("dev='hda' bus='ide'", ""), (Bus::Ide, 0, 0));
        place(&on("dev='hdd'", ""), (Bus::Ide, 1, 1));
        let secondary = "<address type='drive' controller='0' bus='1' target='0' unit='0'/>";
        place(&on("dev='hdc' bus='ide'", secondary), (Bus::Ide, 1, 0));
        place(&on("dev='sdh' bus='sata'", ""), (Bus::Sata, 1, 1));
        place(&on("dev='sdh' bus='scsi'", ""), (lsi, 1, 0));
        place(&on("dev='vdaa' bus='virtio'", ""), (Bus::Virtio, 0, 26));
        place(&on("dev='vdzzzzzzzzz' bus='virtio'", ""), (Bus::Virtio, 0, 0));
        place(&on("dev='nvme0n1' bus='nvme'", ""), (Bus::Nvme, 0, 0));
        place(&on("dev='sda' bus='usb'", ""), (Bus::Sata, 0, 0));
        for (model, expected) in [
            ("lsilogic", ScsiModel::LsiLogic),
            ("lsisas1068", ScsiModel::LsiSas),
            ("buslogic", ScsiModel::BusLogic),
            ("vmpvscsi", ScsiModel::VmwareParavirtual),
            ("virtio-scsi", ScsiModel::Virtio),
            ("virtio-transitional", ScsiModel::Virtio),
        ] {
            let controllers = format!(
                "<controller type='scsi' index='0'/><controller type='scsi' index='1' model='{model}'/>{}",
                on("dev='sda' bus='scsi'", "<address type='drive' controller='1' bus='0' target='5' unit='0'/>")
            );
            place(&controllers, (Bus::Scsi(expected), 1, 5));
        }
    }

    #[test]
    fn sizes_have_units() {
        for (memory, bytes) in [
            ("", 0),
            ("<memory>1024</memory>", 1 << 20),
            ("<memory unit='b'>4096</memory>", 4096),
            ("<memory unit='MB'>1</memory>", 1_000_000),
            ("<memory unit='GiB'>8</memory>", 8 << 30),
        ] {
            assert_eq!(read(&format!("<domain>{memory}</domain>")).unwrap().memory_bytes, bytes, "{memory}");
        }
        for (memory, found) in [
            ("<memory unit='TiB'>18446744073709551615</memory>", "\"18446744073709551615 TiB\""),
            ("<memory unit='furlong'>1</memory>", "\"1 furlong\""),
            ("<memory>-1</memory>", "\"-1 KiB\""),
        ] {
            let message = format!("web1.xml: memory: expected a memory size, found {found}");
            assert_eq!(read(&format!("<domain>{memory}</domain>")), Err(message));
        }
        let absurd = "<domain><vcpu>4294967296</vcpu></domain>";
        assert_eq!(read(absurd).unwrap_err(), "web1.xml: vcpu: expected a number of processors, found \"4294967296\"");
    }
}
