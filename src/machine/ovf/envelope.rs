//! An OVF descriptor: its files, its disks, and the one machine in it with its hardware items.
//!
//! Elements go by their local names: prefixes and namespaces differ from version to version, and 0.9 says in an attribute
//! which section an element is. Pure. Source: DMTF DSP0243; ovftool's and VirtualBox's output.

use std::collections::HashSet;
use std::path::Path;

use crate::machine::error::{MachineError, shown};
use crate::machine::hardware::{AttachedDisk, Bus, ScsiModel};
use crate::machine::names::printable;
use crate::machine::xml::Element;

/// Most disks; vSphere allows 256.
const DISKS_MAX: u64 = 1024;

/// `ResourceType` of CIM_ResourceAllocationSettingData, as far as it matters here.
pub(super) mod resource {
    pub const PROCESSOR: u32 = 3;
    pub const MEMORY: u32 = 4;
    pub const IDE: u32 = 5;
    pub const SCSI: u32 = 6;
    pub const ETHERNET: u32 = 10;
    pub const FLOPPY: u32 = 14;
    pub const CD: u32 = 15;
    pub const DVD: u32 = 16;
    pub const DISK: u32 = 17;
    pub const OTHER_STORAGE: u32 = 20;
    /// A disk in OVF 2.
    pub const LOGICAL_DISK: u32 = 31;
}

/// A whole descriptor.
pub(in crate::machine) struct Envelope<'x> {
    /// For errors.
    pub(super) file: &'x Path,
    root: &'x Element,
}

/// The machine in it.
pub(super) struct System<'x> {
    file: &'x Path,
    pub(super) element: &'x Element,
    pub(super) items: Vec<Item<'x>>,
    /// Disks of the package that no item uses.
    unattached: Vec<&'x str>,
}

/// One item of the hardware section.
pub(super) struct Item<'x> {
    element: &'x Element,
    pub(super) kind: u32,
}

/// A disk of the machine.
pub(super) struct PackageDisk {
    pub(super) attached: AttachedDisk,
    /// What it is, as `HostResource` names it: `disk/vmdisk1`, `file/file1`.
    pub(super) resource: String,
    pub(super) remark: Option<String>,
}

/// How a disk is stored.
pub(super) enum Stored<'x> {
    File(PackageFile<'x>),
    /// No file: the disk is new and empty.
    Blank,
}

/// A file of the package.
pub(super) struct PackageFile<'x> {
    /// Its id among the references.
    pub(super) id: &'x str,
    /// Its name, or what stands for it.
    pub(super) name: &'x str,
}

impl<'x> Envelope<'x> {
    /// Takes the root of a document for an envelope.
    pub(in crate::machine) fn of(file: &'x Path, root: &'x Element) -> Result<Envelope<'x>, MachineError> {
        if root.name == "Envelope" {
            return Ok(Envelope { file, root });
        }
        let feature = format!("an XML file of <{}> as an OVF descriptor", printable(&root.name));
        Err(MachineError::Unsupported { path: file.to_path_buf(), feature })
    }

    /// The only machine.
    pub(super) fn system(&self) -> Result<System<'x>, MachineError> {
        let mut systems = Vec::new();
        collect_systems(self.root, &mut systems);
        let element = match systems.as_slice() {
            [one] => *one,
            several => {
                let names: Vec<String> = several.iter().take(20).map(|system| shown(system_name(system))).collect();
                let feature = format!("a package of {} machines ({})", several.len(), names.join(", "));
                return Err(MachineError::Unsupported { path: self.file.to_path_buf(), feature });
            }
        };
        let hardware = section(element, "VirtualHardwareSection");
        let items = hardware.into_iter().flat_map(|hardware| &hardware.children);
        let items: Vec<Item<'x>> = items
            .filter(|child| matches!(child.name.as_str(), "Item" | "StorageItem" | "EthernetPortItem"))
            .filter_map(|element| Some(Item { element, kind: element.text_at(&["ResourceType"])?.parse().ok()? }))
            .collect();
        let used: HashSet<String> = items.iter().filter_map(Item::resource).collect();
        let unattached = self.disk_elements().filter_map(|disk| disk.attribute("diskId"));
        let unattached = unattached.filter(|id| !used.contains(&format!("disk/{id}"))).collect();
        Ok(System { file: self.file, element, items, unattached })
    }

    fn disk_elements(&self) -> impl Iterator<Item = &'x Element> {
        section(self.root, "DiskSection").into_iter().flat_map(|section| section.children("Disk"))
    }

    /// How the disk that an item names is stored.
    pub(super) fn stored(&self, resource: &str) -> Result<Stored<'x>, MachineError> {
        let wrong = |key: &str, expected: &str, found: &str| MachineError::Value {
            file: self.file.to_path_buf(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: shown(found),
        };
        let unsupported = |feature| MachineError::Unsupported { path: self.file.to_path_buf(), feature };
        let file_id = match resource.split_once('/') {
            Some(("file", id)) => id,
            Some(("disk", id)) => {
                let disk = self.disk_elements().find(|disk| disk.attribute("diskId") == Some(id));
                let disk = disk.ok_or_else(|| wrong("HostResource", "a disk of the DiskSection", id))?;
                if let Some(parent) = disk.attribute("parentRef").filter(|parent| !parent.is_empty()) {
                    let (disk, parent) = (shown(id), shown(parent));
                    return Err(unsupported(format!(
                        "the disk {disk}, which holds only changes to {parent} (parentRef)"
                    )));
                }
                match disk.attribute("fileRef").filter(|id| !id.is_empty()) {
                    Some(file) => file,
                    None => return Ok(Stored::Blank),
                }
            }
            _ => return Err(wrong("HostResource", "ovf:/disk/ID or ovf:/file/ID", resource)),
        };
        let files = self.root.child("References").into_iter().flat_map(|references| references.children("File"));
        let mut files = files.filter(|file| file.attribute("id") == Some(file_id));
        let file = files.next().ok_or_else(|| wrong("fileRef", "a file of the References", file_id))?;
        let name = file.attribute("href").unwrap_or_default().trim_start_matches("./");
        if name.is_empty() {
            return Err(wrong("File@href", "a file name", name));
        }
        if name.contains("://") {
            return Err(unsupported(format!("the file {}, which is not in the package", shown(name))));
        }
        if file.attribute("chunkSize").is_some_and(|size| !size.is_empty()) {
            return Err(unsupported(format!("the file {}, which is split into chunks", shown(name))));
        }
        let compression = file.attribute("compression").filter(|way| !matches!(*way, "" | "identity"));
        if let Some(way) = compression {
            let feature =
                format!("the file {}, which is compressed ({}): unpack it first", shown(name), printable(way));
            return Err(unsupported(feature));
        }
        Ok(Stored::File(PackageFile { id: file.attribute("id").unwrap_or_default(), name }))
    }
}

/// Machines may stand in collections, and these in others.
fn collect_systems<'x>(element: &'x Element, found: &mut Vec<&'x Element>) {
    for child in &element.children {
        let kind = child.attribute("type").unwrap_or_default();
        let is =
            |name: &str| child.name == name || (child.name == "Content" && kind.ends_with(&format!("{name}_Type")));
        if is("VirtualSystem") {
            found.push(child);
        } else if is("VirtualSystemCollection") {
            collect_systems(child, found);
        }
    }
}

/// The first section of that name: as an element, or as 0.9 has it.
pub(super) fn section<'x>(element: &'x Element, name: &str) -> Option<&'x Element> {
    let old = |child: &&Element| {
        let kind = child.attribute("type").unwrap_or_default();
        child.name == "Section" && (kind == format!("{name}_Type") || kind.ends_with(&format!(":{name}_Type")))
    };
    element.child(name).or_else(|| element.children.iter().find(old))
}

fn system_name(system: &Element) -> &str {
    system.text_at(&["Name"]).or_else(|| system.attribute("id")).unwrap_or_default()
}

impl<'x> Item<'x> {
    /// The text of an element inside.
    pub(super) fn text(&self, name: &str) -> Option<&'x str> {
        self.element.text_at(&[name])
    }

    /// The item's number; 1.0 and older wrote it otherwise.
    fn id(&self) -> Option<&'x str> {
        self.text("InstanceID").or_else(|| self.text("InstanceId"))
    }

    fn sub_type(&self) -> String {
        self.text("ResourceSubType").unwrap_or_default().to_ascii_lowercase()
    }

    /// `ovf:/disk/vmdisk1` → `disk/vmdisk1`.
    fn resource(&self) -> Option<String> {
        let text = self.text("HostResource")?;
        Some(text.strip_prefix("ovf:").unwrap_or(text).trim_start_matches('/').to_owned())
    }

    fn bus(&self) -> Option<Bus> {
        match self.kind {
            resource::IDE => Some(Bus::Ide),
            resource::SCSI => Some(Bus::Scsi(scsi_model(&self.sub_type()))),
            resource::OTHER_STORAGE => Some(match self.sub_type() {
                sub_type if sub_type.contains("nvme") => Bus::Nvme,
                sub_type if sub_type.contains("virtio") => Bus::Scsi(ScsiModel::Virtio),
                _ => Bus::Sata,
            }),
            _ => None,
        }
    }
}

fn scsi_model(sub_type: &str) -> ScsiModel {
    match sub_type {
        "lsilogicsas" => ScsiModel::LsiSas,
        "buslogic" => ScsiModel::BusLogic,
        "virtualscsi" => ScsiModel::VmwareParavirtual,
        _ if sub_type.contains("virtio") => ScsiModel::Virtio,
        _ => ScsiModel::LsiLogic,
    }
}

/// A controller and what it is called in slots.
struct Controller<'x> {
    id: Option<&'x str>,
    bus: Bus,
    prefix: &'static str,
    number: u32,
}

impl<'x> System<'x> {
    /// What it is called.
    pub(super) fn name(&self) -> String {
        let name = printable(system_name(self.element));
        match name.is_empty() {
            true => printable(&self.file.file_stem().unwrap_or_default().to_string_lossy()),
            false => name,
        }
    }

    /// Drives that are no disks, a line each.
    pub(super) fn drives(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for item in &self.items {
            let what = match item.kind {
                resource::FLOPPY => "a floppy drive",
                resource::CD | resource::DVD => "a CD-ROM drive",
                _ => continue,
            };
            let name = item.text("ElementName").or_else(|| item.text("Caption")).unwrap_or("drive");
            lines.push(format!("{}: {what}", printable(name)));
        }
        lines
    }

    fn controllers(&self) -> Vec<Controller<'x>> {
        let mut controllers: Vec<Controller<'x>> = Vec::new();
        for item in &self.items {
            let Some(bus) = item.bus() else { continue };
            let prefix = match bus {
                Bus::Ide => "ide",
                Bus::Scsi(_) => "scsi",
                Bus::Nvme => "nvme",
                Bus::Sata | Bus::Virtio => "sata",
            };
            let is_free = |number: &u32| !controllers.iter().any(|c| c.prefix == prefix && c.number == *number);
            let said = item.text("Address").and_then(|address| address.parse().ok()).filter(|n| *n < 64);
            let number = said.filter(is_free).or_else(|| (0..).find(is_free)).unwrap_or_default();
            controllers.push(Controller { id: item.id(), bus, prefix, number });
        }
        controllers
    }

    /// The machine's disks in the order of their items; those that no item uses come last.
    pub(super) fn disks(&self) -> Result<Vec<PackageDisk>, MachineError> {
        let controllers = self.controllers();
        let mut disks: Vec<PackageDisk> = Vec::new();
        for item in &self.items {
            if !matches!(item.kind, resource::DISK | resource::LOGICAL_DISK) {
                continue;
            }
            let Some(resource) = item.resource() else { continue };
            let parent = item.text("Parent");
            let on = controllers.iter().find(|controller| parent.is_some() && controller.id == parent);
            let (prefix, bus, controller) = on.map_or(("disk", Bus::Sata, 0), |c| (c.prefix, c.bus, c.number));
            let slot = |unit: u32| match on {
                Some(_) => format!("{prefix}{controller}:{unit}"),
                None => format!("{prefix}{unit}"),
            };
            let is_free = |unit: &u32| !disks.iter().any(|disk| disk.attached.slot == slot(*unit));
            let said =
                item.text("AddressOnParent").and_then(|address| address.parse().ok()).filter(|unit| *unit < 4096);
            let unit = said.filter(is_free).or_else(|| (0..).find(is_free)).unwrap_or_default();
            let attached = AttachedDisk { slot: slot(unit), bus, controller, unit };
            disks.push(PackageDisk { attached, resource, remark: None });
            self.limit(disks.len())?;
        }
        for (unit, id) in (0..).zip(&self.unattached) {
            let attached = AttachedDisk { slot: format!("unattached{unit}"), bus: Bus::Sata, controller: 0, unit };
            let remark = format!("the package has this disk ({}), and the machine no place for it", shown(id));
            disks.push(PackageDisk { attached, resource: format!("disk/{id}"), remark: Some(remark) });
            self.limit(disks.len())?;
        }
        Ok(disks)
    }

    fn limit(&self, found: usize) -> Result<(), MachineError> {
        let found = found as u64;
        match found <= DISKS_MAX {
            true => Ok(()),
            false => Err(MachineError::TooMuch { path: self.file.to_path_buf(), what: "disks", max: DISKS_MAX, found }),
        }
    }
}
