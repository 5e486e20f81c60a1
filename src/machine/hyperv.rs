//! A Hyper-V machine's or export's folder: `Virtual Machines`, `Virtual Hard Disks`, `Snapshots` → [`Machine`].
//!
//! In here: the old XML configuration, and what can be known of a machine with a binary `.vmcx`. Not in here: hardware for
//! a conversion ([`hardware`]), the chains of checkpoints (`formats`).
//!
//! A `.vmcx` is a store of keys and values that nobody documents, with a log that may have to be replayed. It is kept
//! whole with the backup; of its content only the names of images are looked for, to tell machines apart that share a
//! folder. Its disks are then the newest images of the chains that lie there.
//!
//! Configurations name images by paths of a Windows host: the last part is what is looked for in the machine's folders.
//!
//! Source: exports of Windows Server 2008 R2 to 2025; dissect.hypervisor's description of the formats.

pub(super) mod hardware;

use std::path::{Path, PathBuf};

use super::error::{MachineError, shown};
use super::folder::{self, Entry, KeptFiles, extension, read_bounded};
use super::hardware::{Bus, ScsiModel};
use super::names::{lower_extension, normal_uuid, printable};
use super::xml::{self, Element};
use super::{FilesBelow, Machine, MachineDisk, MachineIdentity, MachineKind, images};

/// The outermost element of an XML configuration.
pub(super) const ROOT: &str = "configuration";
/// Where configurations lie in a machine's folder.
const CONFIGURATIONS: &str = "Virtual Machines";
/// Where checkpoints' configurations lie: states of a machine, and none themselves.
const CHECKPOINTS: &str = "Snapshots";
/// Where images may lie below a machine's folder.
const IMAGE_FOLDERS: [&str; 4] = ["", "Virtual Hard Disks", CHECKPOINTS, CONFIGURATIONS];
/// Endings of images, those of checkpoints among them.
const IMAGE_EXTENSIONS: [&str; 4] = ["vhd", "vhdx", "avhd", "avhdx"];
/// The emulated IDE controllers of a machine of generation 1.
const IDE: &str = "_83f8638b-8dca-4152-9eda-2ca8b33039b4_";
/// Most drives; a machine can have four controllers of 64.
const DRIVES_MAX: u64 = 1024;

/// A drive of an XML configuration.
struct Drive<'x> {
    slot: String,
    bus: Bus,
    controller: u32,
    unit: u32,
    attached: Attached<'x>,
}

enum Attached<'x> {
    /// The name of its image, without the folders of the Windows host.
    Image(&'x str),
    /// A disk that is left out, and why.
    Skipped(String),
    /// No disk of the machine's own: what it is instead.
    NoDisk(&'static str),
}

/// Whether a configuration is that of a checkpoint.
pub(super) fn is_checkpoint(file: &Path) -> bool {
    file.parent().and_then(Path::file_name).is_some_and(|name| name.eq_ignore_ascii_case(CHECKPOINTS))
}

/// The folder of configurations below a machine's own folder.
pub(super) fn is_configuration_folder(entry: &Entry) -> bool {
    entry.name.eq_ignore_ascii_case(CONFIGURATIONS)
}

/// Reads the machine of a configuration; `file` is canonical.
pub(super) fn read(file: &Path, below: &FilesBelow<'_>) -> Result<Machine, MachineError> {
    let own = file.parent().unwrap_or(Path::new("/"));
    let is_apart = own.file_name().is_some_and(|name| name.eq_ignore_ascii_case(CONFIGURATIONS));
    let folder = if is_apart { own.parent().unwrap_or(own) } else { own };
    let images = images_of(folder)?;
    let entries = folder::entries(own)?;
    let mut machine = match extension(file).as_str() {
        "xml" => of_xml(file, folder, &images)?,
        _ => of_binary(file, folder, &images, &entries, below)?,
    };
    let mut kept = KeptFiles::default();
    kept.keep(file, &mut machine.warnings);
    for kind in ["vmrs", "vmgs"] {
        let neighbour = file.with_extension(kind);
        match neighbour.metadata() {
            // With the memory of a suspended machine in it, it has gigabytes.
            Ok(state) if kind == "vmrs" && state.len() > folder::FILE_BYTES_MAX => {
                let suspended = "the machine is suspended: its disks are backed up, its memory is not";
                machine.warnings.push(suspended.to_owned());
            }
            Ok(_) => kept.keep(&neighbour, &mut machine.warnings),
            Err(_) => {}
        }
    }
    machine.definition_files = kept.files;
    machine.with_disks(file)
}

/// Every image in a machine's folders, sorted.
fn images_of(folder: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let subfolders = folder::entries(folder)?;
    let mut images = Vec::new();
    for wanted in IMAGE_FOLDERS {
        let found = subfolders.iter().find(|entry| !wanted.is_empty() && entry.name.eq_ignore_ascii_case(wanted));
        let place = match (wanted, found) {
            ("", _) => folder,
            (_, Some(entry)) if entry.metadata().is_some_and(|metadata| metadata.is_dir()) => &entry.path,
            _ => continue,
        };
        let files = folder::entries(place)?.into_iter().filter(|entry| {
            IMAGE_EXTENSIONS.contains(&entry.extension().as_str()) && entry.metadata().is_some_and(|m| m.is_file())
        });
        images.extend(files.map(|entry| entry.path));
    }
    Ok(images)
}

fn of_xml(file: &Path, folder: &Path, images: &[PathBuf]) -> Result<Machine, MachineError> {
    let root = xml::parse(file, &read_bounded(file)?)?;
    let name = name_of(&root, file);
    let uuid = root.text_at(&["properties", "global_id"]).and_then(normal_uuid).or_else(|| uuid_of(file));
    let mut machine = Machine {
        identity: uuid.map_or_else(|| MachineIdentity::Name(name.clone()), MachineIdentity::Uuid),
        ..Machine::new(name, folder, MachineKind::HyperV)
    };
    for drive in drives(file, &root)? {
        let slot = drive.slot;
        match drive.attached {
            Attached::Image(name) => {
                let lies = |image: &&PathBuf| image.file_name().is_some_and(|own| own.eq_ignore_ascii_case(name));
                let image = images.iter().find(lies).cloned().unwrap_or_else(|| folder.join(name));
                machine.disks.push(MachineDisk { slot, image, raw: false });
            }
            Attached::Skipped(why) => machine.warnings.push(format!("{slot}: skipped: {why}")),
            Attached::NoDisk(what) => machine.notes.push(format!("{slot}: skipped: {what}")),
        }
    }
    Ok(machine)
}

fn of_binary(
    file: &Path,
    folder: &Path,
    images: &[PathBuf],
    entries: &[Entry],
    below: &FilesBelow<'_>,
) -> Result<Machine, MachineError> {
    let content = read_bounded(file)?;
    let others = entries.iter().filter(|entry| entry.extension() == "vmcx" && entry.path != file).count();
    let stem = printable(&file.file_stem().unwrap_or_default().to_string_lossy());
    let name = folder.file_name().map(|name| printable(&name.to_string_lossy())).filter(|_| others == 0);
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| stem.clone());
    let mut machine = Machine {
        identity: uuid_of(file).map_or_else(|| MachineIdentity::Name(name.clone()), MachineIdentity::Uuid),
        ..Machine::new(name, folder, MachineKind::HyperV)
    };
    machine.notes.push(format!("{stem}.vmcx is binary: it is kept, and its hardware is not read"));
    let mut newest = images::newest(folder, images, below);
    if others > 0 {
        let lower = content.to_ascii_lowercase();
        newest.retain(|image| is_named(&lower, image));
    }
    let disks = (0..).zip(newest).map(|(index, image): (usize, _)| MachineDisk {
        slot: format!("disk{index}"),
        image,
        raw: false,
    });
    machine.disks.extend(disks);
    Ok(machine)
}

/// Whether the name of an image stands in a binary configuration, as UTF-16; `lower` is its content in lower case.
fn is_named(lower: &[u8], image: &Path) -> bool {
    let name = image.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let wanted: Vec<u8> = format!("\\{name}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    lower.windows(wanted.len()).any(|window| window == wanted)
}

fn name_of(root: &Element, file: &Path) -> String {
    let name = root.text_at(&["properties", "name"]).map(printable).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| printable(&file.file_stem().unwrap_or_default().to_string_lossy()))
}

/// A configuration is called by the machine's GUID.
fn uuid_of(file: &Path) -> Option<String> {
    normal_uuid(&file.file_stem()?.to_string_lossy())
}

/// The drives of all controllers: IDE first, then SCSI controllers in the order of the file.
fn drives<'x>(file: &Path, root: &'x Element) -> Result<Vec<Drive<'x>>, MachineError> {
    let mut drives = Vec::new();
    let mut scsi = 0;
    let devices: Vec<&Element> = root.children.iter().filter(|child| child.name.starts_with('_')).collect();
    let (ide, others): (Vec<&Element>, Vec<&Element>) =
        devices.into_iter().partition(|device| device.name.eq_ignore_ascii_case(IDE));
    for device in ide.iter().chain(&others) {
        let is_ide = device.name.eq_ignore_ascii_case(IDE);
        for controller in &device.children {
            let Some(number) = numbered(&controller.name, "controller") else { continue };
            let (word, bus, number) =
                if is_ide { ("ide", Bus::Ide, number) } else { ("scsi", Bus::Scsi(ScsiModel::HyperV), scsi) };
            scsi += u32::from(!is_ide);
            for drive in &controller.children {
                let Some(unit) = numbered(&drive.name, "drive") else { continue };
                let slot = format!("{word}{number}:{unit}");
                drives.push(Drive { slot, bus, controller: number, unit, attached: attached(drive) });
                if drives.len() as u64 > DRIVES_MAX {
                    return Err(MachineError::TooMuch {
                        path: file.to_path_buf(),
                        what: "drives",
                        max: DRIVES_MAX,
                        found: drives.len() as u64,
                    });
                }
            }
        }
    }
    Ok(drives)
}

/// `drive12` → 12.
fn numbered(name: &str, word: &str) -> Option<u32> {
    name.strip_prefix(word)?.parse().ok()
}

fn attached(drive: &Element) -> Attached<'_> {
    let path = drive.text_at(&["pathname"]).unwrap_or_default();
    let name = path.rsplit(['\\', '/']).next().unwrap_or(path);
    match drive.text_at(&["type"]).unwrap_or_default().to_ascii_uppercase().as_str() {
        "ISO" => return Attached::NoDisk("a CD-ROM drive"),
        "PHYSICAL" => {
            return Attached::Skipped(format!(
                "a raw device ({}): its content is in no file of the machine",
                shown(path)
            ));
        }
        _ => {}
    }
    match lower_extension(name).as_str() {
        "iso" => Attached::NoDisk("a CD-ROM drive"),
        "vfd" => Attached::NoDisk("a floppy drive"),
        _ if matches!(name, "" | "." | "..") => Attached::NoDisk("no image"),
        _ => Attached::Image(name),
    }
}
