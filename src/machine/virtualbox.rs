//! VirtualBox's `.vbox`: what it says, and the [`Machine`] it describes.
//!
//! In here: the registry of media (which image is whose parent), what hangs at the controllers now and hung there at each
//! snapshot. Not in here: XML itself (`xml`), hardware for a conversion ([`hardware`]), the chains as the images know them
//! (`formats`): the registry may be stale, the images are what is true.
//!
//! Whether a machine runs stands in no file. `stateFile` says that it is suspended, `aborted` that its process died.
//!
//! Source: VirtualBox, Main/xml/Settings.cpp and VirtualBox-settings.xsd.

pub(super) mod hardware;

use std::collections::HashMap;
use std::path::Path;

use super::error::{MachineError, shown};
use super::folder::KeptFiles;
use super::hardware::{Bus, ScsiModel};
use super::names::{locate, normal_uuid, printable};
use super::xml::{self, Element};
use super::{Machine, MachineDisk, MachineIdentity, MachineKind, MachineSnapshot};

/// Most disks of one state; four controllers of 255 ports would be possible.
const DISKS_MAX: u64 = 1024;
/// Most snapshots; VirtualBox itself allows 250 in a row.
const SNAPSHOTS_MAX: u64 = 4096;

/// A `.vbox`.
pub(super) struct Definition<'x> {
    file: &'x Path,
    machine: &'x Element,
    /// By UUID.
    media: HashMap<String, Medium<'x>>,
}

/// An image in the registry.
struct Medium<'x> {
    location: &'x str,
    format: &'x str,
    /// Its own or an ancestor's.
    encrypted: bool,
    /// `Normal`, `Immutable`, `Writethrough`, `Shareable`…; that of the base.
    kind: &'x str,
}

/// What one `AttachedDevice` means.
struct Device<'x> {
    slot: String,
    bus: Bus,
    controller: u32,
    unit: u32,
    /// The bus as VirtualBox calls it, where the model has none such.
    foreign_bus: Option<&'x str>,
    attached: Attached<'x>,
}

enum Attached<'x> {
    Image {
        medium: &'x Medium<'x>,
    },
    /// A disk that is left out, and why.
    Skipped(String),
    /// No disk of the machine's own: what it is instead.
    NoDisk(&'static str),
}

/// Reads the machine of a definition file; `file` is canonical.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Machine, MachineError> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let root = xml::parse(file, bytes)?;
    let definition = Definition::of(file, &root)?;
    let mut machine = definition.machine(folder)?;
    let mut kept = KeptFiles::default();
    kept.keep(file, &mut machine.warnings);
    definition.keep_neighbours(&mut kept, folder, &mut machine.warnings);
    machine.definition_files = kept.files;
    Ok(machine)
}

impl<'x> Definition<'x> {
    /// Finds the machine and its media in the document.
    pub(super) fn of(file: &'x Path, root: &'x Element) -> Result<Definition<'x>, MachineError> {
        if root.child("MachineEncrypted").is_some() {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let (file, name) = (file.to_path_buf(), printable(&name));
            return Err(MachineError::Encrypted { file, name, key: "MachineEncrypted".to_owned() });
        }
        let machine = root.child("Machine").ok_or_else(|| MachineError::Value {
            file: file.to_path_buf(),
            key: root.name.clone(),
            expected: "a Machine inside".to_owned(),
            found: "none".to_owned(),
        })?;
        let mut media = HashMap::new();
        // The registry of all machines, in files of before version 4, stood beside the machine.
        for registry in [machine, root].into_iter().filter_map(|of| of.at(&["MediaRegistry", "HardDisks"])) {
            registry.children("HardDisk").for_each(|disk| register(disk, None, &mut media));
        }
        Ok(Definition { file, machine, media })
    }

    fn name(&self) -> String {
        let name = self.machine.attribute("name").map(printable).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| printable(&self.file.file_stem().unwrap_or_default().to_string_lossy()))
    }

    fn uuid(&self) -> Option<String> {
        self.machine.attribute("uuid").and_then(normal_uuid)
    }

    fn machine(&self, folder: &Path) -> Result<Machine, MachineError> {
        let name = self.name();
        let mut machine = Machine {
            identity: self.uuid().map_or_else(|| MachineIdentity::Name(name.clone()), MachineIdentity::Uuid),
            ..Machine::new(name, folder, MachineKind::VirtualBox)
        };
        if self.machine.attribute("stateFile").is_some_and(|state| !state.is_empty()) {
            let suspended = "the machine is suspended: its disks are backed up, its memory is not";
            machine.warnings.push(suspended.to_owned());
        }
        if matches!(self.machine.attribute("aborted"), Some("true" | "1")) {
            machine.notes.push("it was stopped without being shut down (aborted)".to_owned());
        }
        for device in self.devices(self.machine)? {
            let slot = device.slot;
            match device.attached {
                Attached::Image { medium } => {
                    let (image, moved) = locate(folder, medium.location);
                    machine.warnings.extend(moved.map(|remark| format!("{slot}: {remark}")));
                    match medium.kind {
                        "Shareable" => machine.warnings.push(format!(
                            "{slot}: shared with other machines: whether one of them writes to it cannot be seen"
                        )),
                        "" | "Normal" => {}
                        kind => machine.notes.push(format!("{slot}: its disk is {}", printable(kind).to_lowercase())),
                    }
                    let raw = medium.format.eq_ignore_ascii_case("raw");
                    machine.disks.push(MachineDisk { slot, image, raw });
                }
                Attached::Skipped(why) => machine.warnings.push(format!("{slot}: skipped: {why}")),
                Attached::NoDisk(what) => machine.notes.push(format!("{slot}: skipped: {what}")),
            }
        }
        if let Some(first) = self.machine.child("Snapshot") {
            self.collect_snapshots(first, None, folder, &mut machine)?;
        }
        machine.with_disks(self.file)
    }

    /// What hangs at the controllers of one state: the machine itself, or a snapshot of it.
    fn devices(&'x self, state: &'x Element) -> Result<Vec<Device<'x>>, MachineError> {
        // Up to version 1.15 of the format the controllers stood beside the hardware, not in it.
        let controllers = state.at(&["Hardware", "StorageControllers"]).or_else(|| state.child("StorageControllers"));
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut devices: Vec<Device<'x>> = Vec::new();
        for controller in controllers.into_iter().flat_map(|all| all.children("StorageController")) {
            let kind = controller.attribute("type").unwrap_or_default();
            let (word, bus) = bus_of(kind);
            let foreign_bus = bus.is_none().then_some(kind);
            let number = numbers.entry(word).or_insert(0);
            let this = *number;
            *number += 1;
            for device in controller.children("AttachedDevice") {
                let number = |name| device.attribute(name).and_then(|text| text.parse().ok()).unwrap_or(0_u32);
                let (port, on_port) = (number("port"), number("device"));
                // An IDE controller has two channels of two; everyone else counts channels.
                let (controller, unit) = match bus {
                    Some(Bus::Ide) => (this.saturating_mul(2).saturating_add(port), on_port),
                    _ => (this, port),
                };
                let slot = format!("{word}{controller}:{unit}");
                if devices.iter().any(|device| device.slot == slot) {
                    return Err(self.wrong("AttachedDevice", "another place for each device", &slot));
                }
                let attached = self.attached(device);
                devices.push(Device { slot, bus: bus.unwrap_or(Bus::Sata), controller, unit, foreign_bus, attached });
                if devices.len() as u64 > DISKS_MAX {
                    return Err(MachineError::TooMuch {
                        path: self.file.to_path_buf(),
                        what: "disks",
                        max: DISKS_MAX,
                        found: devices.len() as u64,
                    });
                }
            }
        }
        Ok(devices)
    }

    fn attached(&'x self, device: &'x Element) -> Attached<'x> {
        match device.attribute("type").unwrap_or("HardDisk") {
            "DVD" => return Attached::NoDisk("a CD-ROM drive"),
            "Floppy" => return Attached::NoDisk("a floppy drive"),
            _ => {}
        }
        let Some(image) = device.child("Image").and_then(|image| image.attribute("uuid")) else {
            return Attached::NoDisk("no image");
        };
        let medium = normal_uuid(image).and_then(|uuid| self.media.get(&uuid));
        match medium {
            None => Attached::Skipped(format!("its image {} is not in the machine's registry of media", shown(image))),
            Some(medium) if medium.encrypted => {
                Attached::Skipped(format!("{} is encrypted: that is not supported", shown(medium.location)))
            }
            Some(medium) if medium.format.eq_ignore_ascii_case("iscsi") => {
                Attached::Skipped(format!("a disk over the network ({})", shown(medium.location)))
            }
            Some(medium) => Attached::Image { medium },
        }
    }

    /// Adds a snapshot and all that were taken on it, oldest first. VirtualBox has no numbers for them: they are counted.
    fn collect_snapshots(
        &'x self,
        snapshot: &'x Element,
        parent: Option<u64>,
        folder: &Path,
        machine: &mut Machine,
    ) -> Result<(), MachineError> {
        let uid = machine.snapshots.len() as u64 + 1;
        if uid > SNAPSHOTS_MAX {
            return Err(MachineError::TooMuch {
                path: self.file.to_path_buf(),
                what: "snapshots",
                max: SNAPSHOTS_MAX,
                found: uid,
            });
        }
        let name = snapshot.attribute("name").map(printable).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| format!("snapshot {uid}"));
        let taken: Option<jiff::Timestamp> = snapshot.attribute("timeStamp").and_then(|time| time.parse().ok());
        let mut frozen = Vec::new();
        for device in self.devices(snapshot)? {
            match device.attached {
                Attached::Image { medium } => frozen.push((device.slot, locate(folder, medium.location).0)),
                Attached::Skipped(why) => {
                    machine.warnings.push(format!("snapshot {}, {}: skipped: {why}", shown(&name), device.slot));
                }
                Attached::NoDisk(_) => {}
            }
        }
        let taken_us = taken.map(jiff::Timestamp::as_microsecond);
        machine.snapshots.push(MachineSnapshot { uid, parent, name, taken_us, frozen });
        for child in snapshot.child("Snapshots").into_iter().flat_map(|all| all.children("Snapshot")) {
            self.collect_snapshots(child, Some(uid), folder, machine)?;
        }
        Ok(())
    }

    /// The UEFI variables (with the TPM's state among them) and the log.
    fn keep_neighbours(&self, kept: &mut KeptFiles, folder: &Path, warnings: &mut Vec<String>) {
        let hardware = self.machine.child("Hardware");
        let named = hardware.and_then(|hardware| {
            hardware.at(&["BIOS", "NVRAM"]).or_else(|| hardware.child("NVRAM"))?.attribute("path")
        });
        if let Some(name) = named.filter(|name| !name.is_empty()) {
            let (file, _) = locate(folder, name);
            let is_own = file.starts_with(folder) && !file.components().any(|part| part.as_os_str() == "..");
            if is_own {
                kept.keep(&file, warnings);
            } else {
                warnings.push(format!("NVRAM: {} is not in the machine's folder: not kept", shown(name)));
            }
        }
        let log = folder.join("Logs/VBox.log");
        if log.is_file() {
            kept.keep(&log, warnings);
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: &str) -> MachineError {
        MachineError::Value {
            file: self.file.to_path_buf(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: shown(found),
        }
    }
}

/// Enters an image and all its children. The depth is that of the document, which is limited.
fn register<'x>(disk: &'x Element, parent: Option<(bool, &'x str)>, media: &mut HashMap<String, Medium<'x>>) {
    let attribute = |name| disk.attribute(name).unwrap_or_default();
    let own_key = disk
        .children("Property")
        .any(|property| property.attribute("name").is_some_and(|name| name.starts_with("CRYPT/")));
    let encrypted = own_key || parent.is_some_and(|(encrypted, _)| encrypted);
    let kind = parent.map_or(attribute("type"), |(_, kind)| kind);
    if let Some(uuid) = normal_uuid(attribute("uuid")) {
        media.insert(uuid, Medium { location: attribute("location"), format: attribute("format"), encrypted, kind });
    }
    disk.children("HardDisk").for_each(|child| register(child, Some((encrypted, kind)), media));
}

/// The word for slots, and the bus if the model has it. Source: `StorageControllerType`.
fn bus_of(kind: &str) -> (&'static str, Option<Bus>) {
    match kind {
        "PIIX3" | "PIIX4" | "ICH6" => ("ide", Some(Bus::Ide)),
        "AHCI" => ("sata", Some(Bus::Sata)),
        "LsiLogic" => ("scsi", Some(Bus::Scsi(ScsiModel::LsiLogic))),
        "BusLogic" => ("scsi", Some(Bus::Scsi(ScsiModel::BusLogic))),
        "LsiLogicSas" => ("scsi", Some(Bus::Scsi(ScsiModel::LsiSas))),
        "VirtioSCSI" => ("scsi", Some(Bus::Scsi(ScsiModel::Virtio))),
        "NVMe" => ("nvme", Some(Bus::Nvme)),
        "I82078" => ("floppy", None),
        "USB" => ("usb", None),
        _ => ("disk", None),
    }
}
