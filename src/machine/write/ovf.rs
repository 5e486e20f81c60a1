//! An OVF descriptor of one machine with stream-optimised VMDKs beside it.
//!
//! Sections, and the elements of an item, come in the order that the schema demands (those of an item by the alphabet).
//! Source: DMTF DSP0243 1.1 and its schema; what vSphere and VirtualBox understand beyond it has VMware's names.

use std::collections::{BTreeMap, BTreeSet};

use super::guest_os::cim_number;
use super::{DiskFile, escaped};
use crate::machine::hardware::{Bus, Firmware, Hardware, ScsiModel};

const NAMESPACES: &str = "xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
    xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
    xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
    xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
    xmlns:vmw=\"http://www.vmware.com/schema/ovf\"";
const STREAM_OPTIMIZED: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
/// Hardware version 14: ESXi 6.7 and newer.
const SYSTEM_TYPE: &str = "vmx-14";

/// The descriptor of fitted hardware.
pub(super) fn text(hardware: &Hardware, files: &[DiskFile]) -> String {
    let mut xml = Xml { text: String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"), depth: 0 };
    xml.open(&format!("Envelope {NAMESPACES}"));
    references_and_disks(&mut xml, files);
    networks(&mut xml, hardware);
    xml.open(&format!("VirtualSystem ovf:id=\"{}\"", escaped(&hardware.name)));
    xml.leaf("Info", "A virtual machine");
    xml.leaf("Name", &hardware.name);
    let system = hardware.guest_os.as_deref();
    let vendor = system.map(|system| format!(" vmw:osType=\"{}\"", escaped(system))).unwrap_or_default();
    xml.open(&format!("OperatingSystemSection ovf:id=\"{}\"{vendor}", cim_number(system)));
    xml.leaf("Info", "The kind of installed guest operating system");
    xml.close("OperatingSystemSection");
    virtual_hardware(&mut xml, hardware);
    if let Some(description) = &hardware.description {
        xml.open("AnnotationSection");
        xml.leaf("Info", "A human-readable annotation");
        xml.leaf("Annotation", description);
        xml.close("AnnotationSection");
    }
    xml.close("VirtualSystem");
    xml.close("Envelope");
    xml.text
}

struct Xml {
    text: String,
    depth: usize,
}

impl Xml {
    fn line(&mut self, text: &str) {
        self.text.push_str(&"  ".repeat(self.depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn open(&mut self, tag: &str) {
        self.line(&format!("<{tag}>"));
        self.depth += 1;
    }

    fn close(&mut self, tag: &str) {
        self.depth -= 1;
        self.line(&format!("</{tag}>"));
    }

    fn leaf(&mut self, tag: &str, text: &str) {
        self.line(&format!("<{tag}>{}</{tag}>", escaped(text)));
    }

    /// One `Item`; its elements are sorted here, as the schema is a sequence in the order of the alphabet.
    fn item(&mut self, elements: &[(&str, &str)]) {
        let sorted: BTreeMap<&str, &str> = elements.iter().copied().collect();
        self.open("Item");
        for (name, text) in sorted {
            self.leaf(&format!("rasd:{name}"), text);
        }
        self.close("Item");
    }
}

fn references_and_disks(xml: &mut Xml, files: &[DiskFile]) {
    xml.open("References");
    for (number, file) in files.iter().enumerate() {
        let (name, bytes) = (escaped(&file.name), file.file_bytes);
        xml.line(&format!("<File ovf:id=\"file{number}\" ovf:href=\"{name}\" ovf:size=\"{bytes}\"/>"));
    }
    xml.close("References");
    xml.open("DiskSection");
    xml.leaf("Info", "Virtual disk information");
    for (number, file) in files.iter().enumerate() {
        xml.line(&format!(
            "<Disk ovf:diskId=\"vmdisk{number}\" ovf:fileRef=\"file{number}\" ovf:capacity=\"{}\" \
             ovf:capacityAllocationUnits=\"byte\" ovf:format=\"{STREAM_OPTIMIZED}\"/>",
            file.capacity
        ));
    }
    xml.close("DiskSection");
}

fn networks(xml: &mut Xml, hardware: &Hardware) {
    let names: BTreeSet<&str> = hardware.network_cards.iter().filter_map(|card| card.network.as_deref()).collect();
    if names.is_empty() {
        return;
    }
    xml.open("NetworkSection");
    xml.leaf("Info", "The list of logical networks");
    for name in names {
        xml.open(&format!("Network ovf:name=\"{}\"", escaped(name)));
        xml.leaf("Description", &format!("The {name} network"));
        xml.close("Network");
    }
    xml.close("NetworkSection");
}

fn virtual_hardware(xml: &mut Xml, hardware: &Hardware) {
    xml.open("VirtualHardwareSection");
    xml.leaf("Info", "Virtual hardware requirements");
    xml.open("System");
    xml.leaf("vssd:ElementName", "Virtual Hardware Family");
    xml.leaf("vssd:InstanceID", "0");
    xml.leaf("vssd:VirtualSystemIdentifier", &hardware.name);
    xml.leaf("vssd:VirtualSystemType", SYSTEM_TYPE);
    xml.close("System");
    let mut next_id = 0;
    let mut instance = || {
        next_id += 1;
        next_id.to_string()
    };
    let processors = hardware.processors.to_string();
    xml.item(&[
        ("AllocationUnits", "hertz * 10^6"),
        ("Description", "Number of Virtual CPUs"),
        ("ElementName", &format!("{processors} virtual CPU(s)")),
        ("InstanceID", &instance()),
        ("ResourceType", "3"),
        ("VirtualQuantity", &processors),
    ]);
    let memory = (hardware.memory_bytes >> 20).to_string();
    xml.item(&[
        ("AllocationUnits", "byte * 2^20"),
        ("Description", "Memory Size"),
        ("ElementName", &format!("{memory}MB of memory")),
        ("InstanceID", &instance()),
        ("ResourceType", "4"),
        ("VirtualQuantity", &memory),
    ]);
    disks(xml, hardware, &mut instance);
    for (number, card) in hardware.network_cards.iter().enumerate() {
        let id = instance();
        let name = format!("Ethernet adapter {}", number + 1);
        let at = number.to_string();
        let mut elements = vec![
            ("AddressOnParent", at.as_str()),
            ("AutomaticAllocation", "true"),
            ("ElementName", &name),
            ("InstanceID", &id),
            ("ResourceType", "10"),
        ];
        elements.extend(card.mac.as_deref().map(|mac| ("Address", mac)));
        elements.extend(card.network.as_deref().map(|network| ("Connection", network)));
        let model = card.model.as_deref().map(sub_type_of_card);
        elements.extend(model.map(|model| ("ResourceSubType", model)));
        xml.item(&elements);
    }
    if let Firmware::Uefi { secure_boot } = hardware.firmware {
        config(xml, "firmware", "efi");
        if secure_boot {
            config(xml, "bootOptions.efiSecureBootEnabled", "true");
        }
    }
    xml.close("VirtualHardwareSection");
}

fn config(xml: &mut Xml, key: &str, value: &str) {
    xml.line(&format!("<vmw:Config ovf:required=\"false\" vmw:key=\"{key}\" vmw:value=\"{value}\"/>"));
}

/// The spelling of the specification's own examples, which importers compare with.
fn sub_type_of_card(model: &str) -> &str {
    match model {
        "e1000" => "E1000",
        "e1000e" => "E1000e",
        "vmxnet3" => "VmxNet3",
        "pcnet32" => "PCNet32",
        other => other,
    }
}

fn disks(xml: &mut Xml, hardware: &Hardware, instance: &mut impl FnMut() -> String) {
    // Every controller comes before the disks on it.
    let mut controllers: BTreeMap<&str, String> = BTreeMap::new();
    for disk in &hardware.disks {
        let name = controller_name(&disk.slot);
        if controllers.contains_key(name) {
            continue;
        }
        let id = instance();
        let (kind, sub_type, label) = controller_kind(disk.bus);
        let (number, element) = (disk.controller.to_string(), format!("{label} {}", disk.controller));
        let mut elements =
            vec![("Address", number.as_str()), ("ElementName", &element), ("InstanceID", &id), ("ResourceType", kind)];
        elements.extend(sub_type.map(|sub_type| ("ResourceSubType", sub_type)));
        xml.item(&elements);
        controllers.insert(name, id);
    }
    for (number, disk) in hardware.disks.iter().enumerate() {
        let parent = controllers.get(controller_name(&disk.slot)).map(String::as_str).unwrap_or_default();
        xml.item(&[
            ("AddressOnParent", &disk.unit.to_string()),
            ("ElementName", &format!("Hard disk {}", number + 1)),
            ("HostResource", &format!("ovf:/disk/vmdisk{number}")),
            ("InstanceID", &instance()),
            ("Parent", parent),
            ("ResourceType", "17"),
        ]);
    }
}

fn controller_name(slot: &str) -> &str {
    slot.split(':').next().unwrap_or_default()
}

/// A controller's `ResourceType`, `ResourceSubType` and what to call it.
fn controller_kind(bus: Bus) -> (&'static str, Option<&'static str>, &'static str) {
    match bus {
        Bus::Ide => ("5", None, "IDE controller"),
        Bus::Sata | Bus::Virtio => ("20", Some("vmware.sata.ahci"), "SATA controller"),
        Bus::Nvme => ("20", Some("vmware.nvme.controller"), "NVMe controller"),
        Bus::Scsi(model) => {
            let sub_type = match model {
                ScsiModel::LsiSas => "lsilogicsas",
                ScsiModel::BusLogic => "buslogic",
                ScsiModel::VmwareParavirtual => "VirtualSCSI",
                ScsiModel::LsiLogic | ScsiModel::Virtio | ScsiModel::HyperV => "lsilogic",
            };
            ("6", Some(sub_type), "SCSI controller")
        }
    }
}
