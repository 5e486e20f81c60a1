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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::hardware::{AttachedDisk, Bus, ScsiModel};

    fn read(text: &str) -> Result<Hardware, String> {
        hardware(Path::new("x.ovf"), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn item(id: u32, kind: u32, more: &str) -> String {
        format!(
            "<Item><rasd:InstanceID>{id}</rasd:InstanceID><rasd:ResourceType>{kind}</rasd:ResourceType>{more}</Item>"
        )
    }

    /// A package as VirtualBox exports it: prefixes as they come, SATA by name, memory in words.
    #[test]
    fn a_package_of_virtualbox() {
        let items = [
            item(1, 3, "<rasd:VirtualQuantity>2</rasd:VirtualQuantity>"),
            item(2, 4, "<rasd:AllocationUnits>MegaByte</rasd:AllocationUnits>"),
            item(3, 5, "<rasd:Address>0</rasd:Address>"),
            item(4, 5, "<rasd:Address>1</rasd:Address>"),
            item(5, 20, "<rasd:Address>0</rasd:Address><rasd:ResourceSubType>AHCI</rasd:ResourceSubType>"),
            item(6, 35, "<rasd:ElementName>sound</rasd:ElementName>"),
            item(7, 15, "<rasd:ElementName>CD1</rasd:ElementName><rasd:Parent>4</rasd:Parent>"),
            item(
                8,
                17,
                "<rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>/disk/vmdisk1</rasd:HostResource>\
                 <rasd:Parent>5</rasd:Parent>",
            ),
            item(9, 10, "<rasd:Connection>NAT</rasd:Connection><rasd:ResourceSubType>E1000</rasd:ResourceSubType>"),
        ];
        let text = format!(
            "<Envelope><References><File ovf:id='file1' ovf:href='a.vmdk'/></References><DiskSection><Disk \
             ovf:diskId='vmdisk1' ovf:fileRef='file1'/></DiskSection><VirtualSystem ovf:id='shop'>\
             <OperatingSystemSection ovf:id='96'><Description>Debian_64</Description></OperatingSystemSection>\
             <VirtualHardwareSection>{}</VirtualHardwareSection></VirtualSystem></Envelope>",
            items.concat()
        );
        // MegaByte is none of the units that DSP0004 or any writer we know has.
        assert!(read(&text).unwrap_err().contains("memory: expected a memory size, found \"0 MegaByte\""));
        let text = text.replace(
            "MegaByte<",
            "MegaBytes</rasd:AllocationUnits><rasd:VirtualQuantity>512</rasd:VirtualQuantity>\
             <rasd:AllocationUnits>MegaBytes<",
        );
        let found = read(&text).unwrap();
        assert_eq!((found.name.as_str(), found.memory_bytes, found.processors), ("shop", 512 << 20, 2));
        assert_eq!(found.guest_os.as_deref(), Some("Debian_64"));
        let disk = AttachedDisk { slot: "sata0:0".to_owned(), bus: Bus::Sata, controller: 0, unit: 0 };
        assert_eq!(found.disks, [disk]);
        assert_eq!(found.network_cards[0].model.as_deref(), Some("e1000"));
        assert_eq!(found.not_carried_over, ["CD1: a CD-ROM drive", "sound: a sound card"]);
    }

    /// OVF 0.9 says in an attribute which section an element is.
    #[test]
    fn a_package_of_the_first_days() {
        let text = "<ovf:Envelope xmlns:ovf='x' xmlns:xsi='y'><ovf:References><ovf:File ovf:id='f' ovf:href='a.vmdk'/>\
             </ovf:References><ovf:Section xsi:type='ovf:DiskSection_Type'><ovf:Disk ovf:diskId='d' ovf:fileRef='f'/>\
             </ovf:Section><ovf:Content ovf:id='old' xsi:type='ovf:VirtualSystem_Type'>\
             <ovf:Section xsi:type='ovf:VirtualHardwareSection_Type'>\
             <ovf:Item><rasd:InstanceId>4</rasd:InstanceId><rasd:ResourceType>6</rasd:ResourceType>\
             <rasd:ResourceSubType>buslogic</rasd:ResourceSubType></ovf:Item>\
             <ovf:Item><rasd:InstanceId>5</rasd:InstanceId><rasd:ResourceType>17</rasd:ResourceType>\
             <rasd:HostResource>disk/d</rasd:HostResource><rasd:Parent>4</rasd:Parent>\
             <rasd:AddressOnParent>3</rasd:AddressOnParent></ovf:Item></ovf:Section></ovf:Content></ovf:Envelope>";
        let found = read(text).unwrap();
        assert_eq!(found.name, "old");
        let bus = Bus::Scsi(ScsiModel::BusLogic);
        assert_eq!(found.disks, [AttachedDisk { slot: "scsi0:3".to_owned(), bus, controller: 0, unit: 3 }]);
    }

    #[test]
    fn units() {
        for (units, expected) in [
            ("byte * 2^20", Some(1 << 20)),
            ("byte*2^30", Some(1 << 30)),
            ("bytes", Some(1)),
            ("byte * 10^3", Some(1000)),
            ("MegaBytes", Some(1 << 20)),
            ("byte * 2^64", None),
            ("byte * 2^-1", None),
            ("hertz * 10^6", None),
        ] {
            assert_eq!(factor(units), expected, "{units}");
        }
    }

    #[test]
    fn several_machines_and_other_files_are_refused() {
        let two = "<Envelope><VirtualSystemCollection><VirtualSystem id='a'/><VirtualSystem id='b'/>\
             </VirtualSystemCollection></Envelope>";
        assert_eq!(read(two).unwrap_err(), "x.ovf: a package of 2 machines (\"a\", \"b\") is not supported");
        assert_eq!(read("<x/>").unwrap_err(), "x.ovf: an XML file of <x> as an OVF descriptor is not supported");
    }
}
