//! Proxmox VE's `VMID.conf`: what it says, and the [`Machine`] it describes.
//!
//! In here: the current part of the file, and where a volume of a storage lies on this host ([`storage`]). Not in here:
//! hardware for a conversion ([`hardware`]), what is inside a volume.
//!
//! The file has lines `key: value`; lines with `#` in front of everything are the admin's notes, percent-encoded. A line
//! `[name]` begins the state at a snapshot; `[PENDING]` and `[special:…]` hold neither. Snapshots are inside the volumes
//! (qcow2, LVM, ZFS), so they give no level that could be read as a file.
//!
//! Source: qemu-server, PVE/QemuConfig.pm and QemuServer/Drive.pm.

pub(super) mod hardware;
mod storage;

use std::path::Path;

use super::error::{MachineError, shown};
use super::folder::{KeptFiles, read_bounded};
use super::names::{lower_extension, normal_uuid, printable};
use super::{Machine, MachineDisk, MachineIdentity, MachineKind};
use storage::{Storages, Volume};

/// Most lines; a machine with thirty disks and a hundred snapshots has 6,000.
const LINES_MAX: u64 = 1 << 16;
/// Drives as keys: name, first number behind the last, whether the guest sees a disk there.
const DRIVES: [(&str, u32, Role); 7] = [
    ("ide", 4, Role::Disk),
    ("sata", 6, Role::Disk),
    ("scsi", 31, Role::Disk),
    ("virtio", 16, Role::Disk),
    ("efidisk", 1, Role::Firmware),
    ("tpmstate", 1, Role::Firmware),
    ("unused", 256, Role::Unused),
];

/// What a drive is to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Disk,
    /// What firmware or TPM remember: backed up like a disk, and none for the guest.
    Firmware,
    /// A volume that was taken off the machine and not deleted.
    Unused,
}

/// A configuration file.
pub(super) struct Conf<'t> {
    file: &'t Path,
    /// The current part, in its order.
    entries: Vec<(&'t str, &'t str)>,
    /// The admin's notes, decoded.
    description: String,
    /// Names of its snapshots.
    snapshots: Vec<&'t str>,
}

/// A drive of the current part.
struct Drive<'t> {
    slot: String,
    bus: &'static str,
    number: u32,
    role: Role,
    /// The volume as it stands there.
    volume: &'t str,
    /// Option and value, in their order.
    options: Vec<(&'t str, &'t str)>,
}

/// What is done with a drive.
enum Attached {
    Image,
    /// No disk of the machine's own, or one the admin excluded: why.
    NoDisk(String),
}

/// Reads the machine of a configuration file; `file` is canonical.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Machine, MachineError> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let text = text_of(file, bytes)?;
    let conf = Conf::parse(file, &text)?;
    let mut machine = conf.machine(folder)?;
    let mut kept = KeptFiles::default();
    kept.keep(file, &mut machine.warnings);
    machine.definition_files = kept.files;
    Ok(machine)
}

/// Whether the beginning of a `.conf` looks like one of a machine.
pub(super) fn looks_like(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let entries = text.lines().filter_map(entry);
    entries.take(64).any(|(key, _)| drive_key(key).is_some() || matches!(key, "scsihw" | "smbios1" | "vmgenid"))
}

/// Proxmox VE writes UTF-8; a byte order mark never.
fn text_of(file: &Path, bytes: &[u8]) -> Result<String, MachineError> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| MachineError::Syntax {
        file: file.to_path_buf(),
        line: 1,
        expected: "text in UTF-8 without NUL bytes",
        found: shown(&String::from_utf8_lossy(bytes.get(..80).unwrap_or(bytes))),
    })
}

/// `key: value`.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_key = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    is_key.then(|| (key, value.trim()))
}

/// `scsi12` → its place in [`DRIVES`] and its number; a number that is not written the one usual way is none.
fn drive_key(key: &str) -> Option<(&'static str, u32, Role)> {
    DRIVES.iter().find_map(|(name, end, role)| {
        let digits = key.strip_prefix(name)?;
        let number: u32 = digits.parse().ok()?;
        (number < *end && number.to_string() == digits).then_some((*name, number, *role))
    })
}

impl<'t> Conf<'t> {
    /// Takes a file apart. A line that is neither is refused: a file that is not understood is not half a machine.
    fn parse(file: &'t Path, text: &'t str) -> Result<Conf<'t>, MachineError> {
        let mut conf = Conf { file, entries: Vec::new(), description: String::new(), snapshots: Vec::new() };
        let mut is_current = true;
        for (number, line) in (1..).zip(text.lines()) {
            if number as u64 > LINES_MAX {
                return Err(MachineError::TooMuch {
                    path: file.to_path_buf(),
                    what: "lines",
                    max: LINES_MAX,
                    found: number as u64,
                });
            }
            let line = line.trim_end();
            if let Some(note) = line.strip_prefix('#') {
                if is_current {
                    conf.description.push_str(&percent_decoded(note));
                    conf.description.push('\n');
                }
            } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                is_current = false;
                if !name.eq_ignore_ascii_case("pending") && !name.contains(':') {
                    conf.snapshots.push(name);
                }
            } else if let Some((key, value)) = entry(line) {
                if is_current {
                    // The last of two equal keys wins, as for Proxmox VE itself.
                    conf.entries.retain(|(known, _)| *known != key);
                    conf.entries.push((key, value));
                }
            } else if !line.trim().is_empty() {
                return Err(MachineError::Syntax {
                    file: file.to_path_buf(),
                    line: number,
                    expected: "key: value",
                    found: shown(line),
                });
            }
        }
        if conf.value("rootfs").is_some() {
            return Err(MachineError::Unsupported { path: file.to_path_buf(), feature: "a container".to_owned() });
        }
        if let Some(text) = conf.value("description") {
            conf.description.push_str(&percent_decoded(text));
        }
        Ok(conf)
    }

    fn value(&self, key: &str) -> Option<&'t str> {
        self.entries.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// An option of a value such as `uuid=…,serial=…`.
    fn option(&self, key: &str, option: &str) -> Option<&'t str> {
        options(self.value(key)?).find(|(name, _)| *name == option).map(|(_, value)| value)
    }

    fn name(&self) -> String {
        let name = self.value("name").map(printable).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| printable(&self.file.file_stem().unwrap_or_default().to_string_lossy()))
    }

    fn uuid(&self) -> Option<String> {
        self.option("smbios1", "uuid").and_then(normal_uuid)
    }

    /// All drives, those for the guest first, each kind in the order of its numbers.
    fn drives(&self) -> Vec<Drive<'t>> {
        let mut drives: Vec<Drive<'t>> = Vec::new();
        for (key, value) in &self.entries {
            let Some((bus, number, role)) = drive_key(key) else { continue };
            let mut parts = options(value).collect::<Vec<_>>();
            let volume = match parts.iter().position(|(name, _)| matches!(*name, "" | "file" | "volume")) {
                Some(at) => parts.remove(at).1,
                None => "none",
            };
            drives.push(Drive { slot: (*key).to_owned(), bus, number, role, volume, options: parts });
        }
        let place = |drive: &Drive<'_>| (DRIVES.iter().position(|(bus, ..)| *bus == drive.bus), drive.number);
        drives.sort_by_key(place);
        drives
    }

    fn machine(&self, folder: &Path) -> Result<Machine, MachineError> {
        let name = self.name();
        let mut machine = Machine {
            identity: self.uuid().map_or_else(|| MachineIdentity::Name(name.clone()), MachineIdentity::Uuid),
            ..Machine::new(name, folder, MachineKind::Proxmox)
        };
        match self.value("lock") {
            None => {}
            Some("suspended") => {
                let suspended = "the machine is suspended: its disks are backed up, its memory is not";
                machine.warnings.push(suspended.to_owned());
            }
            Some(lock) => machine.running = Some(format!("Proxmox VE has locked it ({})", printable(lock))),
        }
        let storages = Storages::around(folder, &mut machine.warnings);
        let vmid = self.file.file_stem().unwrap_or_default().to_string_lossy();
        for drive in self.drives() {
            let slot = &drive.slot;
            if let Attached::NoDisk(what) = drive.attached() {
                machine.notes.push(format!("{slot}: skipped: {what}"));
                continue;
            }
            match storages.locate(drive.volume, folder, &vmid) {
                Ok(Volume { path, raw, images, remark }) => {
                    machine.warnings.extend(remark.map(|remark| format!("{slot}: {remark}")));
                    machine.image_folders.extend(images.filter(|images| !machine.image_folders.contains(images)));
                    machine.disks.push(MachineDisk { slot: slot.clone(), image: path, raw });
                }
                Err(why) => machine.warnings.push(format!("{slot}: skipped: {}: {why}", shown(drive.volume))),
            }
        }
        if !self.snapshots.is_empty() {
            let names: Vec<String> = self.snapshots.iter().take(8).map(|name| shown(name)).collect();
            machine.notes.push(format!(
                "its {} snapshots are inside its volumes and not part of the backup: {}",
                self.snapshots.len(),
                names.join(", ")
            ));
        }
        machine.with_disks(self.file)
    }
}

impl Drive<'_> {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn attached(&self) -> Attached {
        let no_disk = |what: &str| Attached::NoDisk(what.to_owned());
        if self.option("media") == Some("cdrom") || self.volume == "cdrom" || lower_extension(self.volume) == "iso" {
            return no_disk("a CD-ROM drive");
        }
        if self.volume == "none" {
            return no_disk("no volume");
        }
        match self.role {
            Role::Unused => {
                Attached::NoDisk(format!("{} is no longer part of the machine (unused)", shown(self.volume)))
            }
            // What was asked for is no loss, so it is no warning.
            _ if matches!(self.option("backup"), Some("0" | "no" | "off" | "false")) => {
                Attached::NoDisk(format!("{} is excluded by its definition (backup=0)", shown(self.volume)))
            }
            Role::Disk | Role::Firmware => Attached::Image,
        }
    }
}

/// The parts of a value, divided by commas; a part without a name has an empty one.
fn options(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value
        .split(',')
        .map(|part| part.split_once('=').unwrap_or(("", part)))
        .map(|(name, text)| (name.trim(), text.trim()))
}

/// Resolves `%XX`; what is not followed by two hex digits stands for itself.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let Some((&byte, after)) = left.split_first() {
        left = after;
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(escaped) => {
                bytes.push(escaped);
                left = after.get(2..).unwrap_or_default();
            }
            None => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads `storage.cfg` for [`storage`]; bounded like every definition.
fn read_config(file: &Path) -> Result<String, MachineError> {
    text_of(file, &read_bounded(file)?)
}
