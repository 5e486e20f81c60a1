//! What becomes of a machine's definition files: rewritten for the restored disks, kept as they were, or replaced by a
//! definition for another hypervisor.
//!
//! In here: deciding, and making the texts; the originals of what changes are kept as `….orig`. Not in here: reading files
//! out of the repository, writing any (`machine`), what the formats look like (`machine::rewrite`, `machine::write`).

use std::path::{Path, PathBuf};

use super::{DiskFormat, RestoredDisk};
use crate::machine::hardware::{AttachedDisk, Bus, Hardware};
use crate::machine::rewrite::{self, NewImage};
use crate::machine::write::{self, DiskFile, Fitted, Target, identity};
use crate::machine::{MachineError, hardware_of};
use crate::repo::manifest::Manifest;

/// Which definition a restored machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefinitionChoice {
    /// Its own, adjusted to the restored disks where that is possible.
    Own,
    /// One for that hypervisor.
    For(Target),
    /// None at all, only disks.
    None,
}

/// A definition file of the backup.
pub(super) struct KeptFile {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
}

/// What is to be written beside the disks.
#[derive(Default)]
pub(super) struct Definitions {
    pub(super) files: Vec<KeptFile>,
    /// The one to start the machine by, if there is one that fits the disks.
    pub(super) main: Option<String>,
    pub(super) notes: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// What is decided before any disk is written.
pub(super) enum Way {
    /// The kept files, rewritten where we can.
    Own(Option<Target>),
    /// A new definition beside the originals.
    Converted(Target, Box<Fitted>),
    Nothing,
}

/// Where the machine goes, for definitions that name whole paths, and whether it becomes another one.
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    pub(super) new_identity: bool,
}

/// Decides how the definition comes about, and so whether it can.
///
/// # Errors
/// [`MachineError`] if the backup's definition cannot be read, or the target has not enough places for disks.
pub(super) fn way(
    manifest: &Manifest,
    files: &[KeptFile],
    choice: DefinitionChoice,
    new_identity: bool,
) -> Result<Way, MachineError> {
    let target = match choice {
        DefinitionChoice::None => return Ok(Way::Nothing),
        DefinitionChoice::Own => own_target(manifest),
        DefinitionChoice::For(target) => Some(target),
    };
    let own = own_target(manifest);
    let Some(target) = target else { return Ok(Way::Own(None)) };
    // An OVF has its addresses in too many places to change them one by one.
    if own == Some(target) && !(new_identity && target == Target::Ovf) {
        return Ok(Way::Own(own));
    }
    let slots: Vec<String> = manifest.disks.iter().map(|disk| disk.slot.clone()).collect();
    let hardware = match own_definition(files) {
        Some(outcome) => outcome?,
        None => undefined(manifest),
    };
    let mut fitted = write::fit(&hardware, &slots, target)?;
    if new_identity {
        identity::renew(&mut fitted.hardware, target, &mut crate::repo::ids::random);
        fitted.hardware.uuid = fitted.hardware.uuid.filter(|_| target != Target::Ovf);
    }
    Ok(Way::Converted(target, Box::new(fitted)))
}

/// The kind of definition that we can rewrite for a machine of this kind.
fn own_target(manifest: &Manifest) -> Option<Target> {
    match manifest.machine_kind.as_str() {
        "vmware" => Some(Target::Vmx),
        "libvirt" => Some(Target::Libvirt),
        "ovf" => Some(Target::Ovf),
        _ => None,
    }
}

/// The first file that describes hardware; the definition comes first in every backup. If none can be read, why the first
/// one that looks like a definition cannot.
fn own_definition(files: &[KeptFile]) -> Option<Result<Hardware, MachineError>> {
    let mut first_error = None;
    for file in files {
        match hardware_of(Path::new(&file.name), &file.bytes) {
            Ok(hardware) => return Some(Ok(hardware)),
            Err(MachineError::Unsupported { .. }) => {}
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    first_error.map(Err)
}

/// A machine without a definition: its disks in their order, and nothing else that is known.
fn undefined(manifest: &Manifest) -> Hardware {
    let disks = (0..).zip(&manifest.disks).map(|(unit, disk)| AttachedDisk {
        slot: disk.slot.clone(),
        bus: Bus::Sata,
        controller: 0,
        unit,
    });
    Hardware { name: manifest.machine.clone(), disks: disks.collect(), ..Hardware::default() }
}

/// Makes the files to write, now that the disks are there.
pub(super) fn definitions(
    way: Way,
    files: Vec<KeptFile>,
    disks: &[RestoredDisk],
    format: DiskFormat,
    place: &Place<'_>,
) -> Definitions {
    match way {
        Way::Nothing => Definitions::default(),
        Way::Own(target) => own(target, files, disks, format, place),
        Way::Converted(target, fitted) => converted(target, *fitted, files, disks, format, place),
    }
}

fn converted(
    target: Target,
    fitted: Fitted,
    files: Vec<KeptFile>,
    disks: &[RestoredDisk],
    format: DiskFormat,
    place: &Place<'_>,
) -> Definitions {
    let images: Vec<DiskFile> = disks
        .iter()
        .map(|disk| DiskFile {
            name: named_in(target, disk, place),
            driver: format.qemu_driver(),
            capacity: disk.size,
            file_bytes: file_bytes(disk),
        })
        .collect();
    let text = write::definition(target, &fitted.hardware, &images).into_bytes();
    let mut made = Definitions { notes: fitted.notes, warnings: fitted.warnings, ..Definitions::default() };
    let name = definition_name(&fitted.hardware.name, target);
    made.files.push(KeptFile { name: name.clone(), bytes: text, mode: 0o644 });
    made.main = Some(name);
    // Under their own names they would be taken for the machine's definition.
    let originals = files.into_iter().map(|file| KeptFile { name: format!("{}.orig", file.name), ..file });
    made.files.extend(originals);
    if target == Target::Vmx {
        made.notes.push("ESXi needs each disk copied once: vmkfstools -i FILE.vmdk NEW.vmdk".to_owned());
    }
    made
}

/// A file name for the definition of a machine of that name.
pub(super) fn definition_name(machine: &str, target: Target) -> String {
    let plain: String =
        machine.chars().map(|c| if matches!(c, '/' | '\\') || c.is_control() { '_' } else { c }).collect();
    let plain = plain.trim().trim_start_matches('.');
    let plain = if plain.is_empty() { "machine" } else { plain };
    format!("{plain}.{}", target.extension())
}

/// How a definition names a disk's file: libvirt knows no folder of the definition.
fn named_in(target: Target, disk: &RestoredDisk, place: &Place<'_>) -> String {
    let file = disk.files.first().cloned().unwrap_or_default();
    match target {
        Target::Libvirt => absolute(&file, place),
        Target::Vmx | Target::Ovf => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

fn absolute(file: &Path, place: &Place<'_>) -> String {
    let folder = place.folder.canonicalize().unwrap_or_else(|_| place.folder.to_path_buf());
    folder.join(file.file_name().unwrap_or_default()).display().to_string()
}

fn file_bytes(disk: &RestoredDisk) -> u64 {
    disk.files.first().and_then(|file| std::fs::metadata(file).ok()).map_or(0, |metadata| metadata.len())
}

/// The machine's own files.
fn own(
    target: Option<Target>,
    files: Vec<KeptFile>,
    disks: &[RestoredDisk],
    format: DiskFormat,
    place: &Place<'_>,
) -> Definitions {
    let mut made = Definitions::default();
    let images: Vec<NewImage> = disks
        .iter()
        .map(|disk| NewImage {
            slot: disk.slot.clone(),
            file: named_in(target.unwrap_or(Target::Vmx), disk, place),
            driver: format.qemu_driver(),
            file_bytes: file_bytes(disk),
        })
        .collect();
    let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    let has_definition = !files.is_empty();
    for file in files {
        let new = match target {
            Some(target) => rewritten(target, &file, &images, &names, format, place, &mut made),
            None => None,
        };
        match new {
            Some(new) if new != file.bytes => {
                let original = format!("{}.orig", file.name);
                made.notes.push(format!("{}: adjusted to the restored disks; as it was: {original}", file.name));
                made.files.push(KeptFile { name: file.name, bytes: new, mode: file.mode });
                made.files.push(KeptFile { name: original, bytes: file.bytes, mode: file.mode });
            }
            _ => made.files.push(file),
        }
    }
    if target.is_none() && has_definition {
        let identity = if place.new_identity { ", with its old identity" } else { "" };
        made.warnings.push(format!(
            "the definition is kept as it was{identity}, and names the disks it had: for one that uses the restored disks, \
             restore with --as vmx, --as libvirt or --as ovf"
        ));
    }
    made
}

/// What a file becomes; `None` if it stays as it is.
fn rewritten(
    target: Target,
    file: &KeptFile,
    images: &[NewImage],
    names: &[String],
    format: DiskFormat,
    place: &Place<'_>,
    made: &mut Definitions,
) -> Option<Vec<u8>> {
    let extension = Path::new(&file.name).extension().map(|e| e.to_string_lossy().to_ascii_lowercase())?;
    let is_first = made.main.is_none();
    let random: identity::Random<'_> = &mut crate::repo::ids::random;
    let new = match (target, extension.as_str()) {
        (Target::Vmx, "vmsd") => return Some(rewrite::vmx::list_without_snapshots().to_vec()),
        (Target::Vmx, "vmx" | "vmtx") | (Target::Ovf, "ovf")
            if !format.fits(target) && format != DiskFormat::VmdkStream =>
        {
            let (kind, who) = (format.extension(), if target == Target::Vmx { "VMware" } else { "an OVF" });
            made.warnings.push(format!("{}: kept as it was: {who} cannot use the {kind} images beside it", file.name));
            return None;
        }
        (Target::Vmx, "vmx" | "vmtx") => {
            let new = rewrite::vmx::with_disks(&file.bytes, images);
            Some(if place.new_identity { rewrite::vmx::with_new_identity(&new, random) } else { new })
        }
        (Target::Libvirt, "xml") if is_first => {
            let variables =
                |name: &str| names.iter().any(|known| known == name).then(|| absolute(Path::new(name), place));
            let new = rewrite::libvirt::with_disks(&file.bytes, images, variables);
            match new {
                Some(new) if place.new_identity => rewrite::libvirt::with_new_identity(&new, random),
                new => new,
            }
        }
        (Target::Ovf, "ovf") if is_first => rewrite::ovf::with_disks(&file.bytes, images).map(|(new, others)| {
            for other in others.iter().filter(|other| !names.contains(other)) {
                made.warnings.push(format!("{}: names {other:?}, which the backup does not have", file.name));
            }
            new
        }),
        _ => return None,
    };
    match &new {
        Some(_) => made.main = Some(file.name.clone()),
        None => made.warnings.push(format!("{}: kept as it was: it could not be rewritten", file.name)),
    }
    new
}

/// The names that [`definitions`] may write, for a plan.
pub(super) fn planned_names(manifest: &Manifest, choice: DefinitionChoice) -> Vec<String> {
    let files = manifest.files.iter().map(|file| file.name.clone());
    let originals = manifest.files.iter().map(|file| format!("{}.orig", file.name));
    let mut names: Vec<String> = match choice {
        DefinitionChoice::None => return Vec::new(),
        DefinitionChoice::Own => files.chain(originals).collect(),
        DefinitionChoice::For(target) => {
            let own = definition_name(&manifest.machine, target);
            files.chain(originals).chain([own]).collect()
        }
    };
    let manifests: Vec<String> =
        names.iter().filter_map(|name| Some(format!("{}.mf", name.strip_suffix(".ovf")?))).collect();
    names.extend(manifests);
    names.sort();
    names.dedup();
    names
}

/// The name of the manifest of a descriptor.
pub(super) fn manifest_name(descriptor: &str) -> Option<PathBuf> {
    let path = Path::new(descriptor);
    (path.extension()? == "ovf").then(|| path.with_extension("mf"))
}
