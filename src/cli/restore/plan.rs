//! What a restore will do, decided before anything is written: the disk, the target, the format, and what is lost by it.
//! Looks at the target; changes nothing.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::{Arguments, Format, overwrite};
use crate::cli::failure::Usage;
use crate::cli::text;
use crate::formats::ImageError;
use crate::formats::sink::{Overwrite, TargetError};
use crate::ops::restore::{DefinitionChoice, DiskFormat, DiskTarget, MachineOptions, planned_names};
use crate::repo::manifest::Manifest;
use crate::units::ByteLen;

/// Files that are listed by name before they are replaced.
const LISTED_MAX: usize = 20;

/// A restore that can be carried out.
pub struct Plan<'m> {
    /// The backup.
    pub manifest: &'m Manifest,
    /// Where it goes.
    pub target: Target,
}

/// Where a restore goes.
pub enum Target {
    /// The whole machine, into a folder.
    Machine {
        /// The folder.
        folder: PathBuf,
        /// How.
        options: MachineOptions,
    },
    /// One disk.
    Disk {
        /// Its number in the backup.
        number: usize,
        /// Where it goes.
        target: DiskTarget,
    },
}

/// Refuses options that contradict each other, before anything is opened.
pub fn check(arguments: &Arguments) -> Result<(), Usage> {
    if arguments.in_place {
        if arguments.disk.is_none() || arguments.to.is_none() {
            let hint = "abbild restore BACKUP --disk N --to FILE|DEVICE --in-place";
            return Err(Usage::new("--in-place needs --disk and --to", hint));
        }
        if arguments.format.is_some_and(|format| format != Format::Raw) {
            return Err(Usage::new("--in-place writes raw images and devices only", "leave --format out"));
        }
    }
    let definition = arguments.definition.map(DefinitionChoice::from);
    if let (Some(DefinitionChoice::For(target)), Some(format)) = (definition, arguments.format.map(DiskFormat::from))
        && !format.fits(target)
    {
        let best = DiskFormat::best_for(target);
        let message = format!("a machine defined by a .{} cannot use disks of that format", target.extension());
        return Err(Usage::new(message, format!("leave --format out; it would be {}", format_name(best))));
    }
    if arguments.new_identity && definition == Some(DefinitionChoice::None) {
        return Err(Usage::new("--new-identity changes the definition, and --as none writes none", "leave one out"));
    }
    Ok(())
}

/// Decides what a restore with these arguments does.
pub fn make<'m>(arguments: &Arguments, manifest: &'m Manifest, to: PathBuf) -> anyhow::Result<Plan<'m>> {
    let target = match &arguments.disk {
        None => machine_target(arguments, manifest, to)?,
        Some(disk) => Target::Disk { number: find_disk(disk, manifest)?, target: disk_target(arguments, to)? },
    };
    Ok(Plan { manifest, target })
}

fn machine_target(arguments: &Arguments, manifest: &Manifest, folder: PathBuf) -> anyhow::Result<Target> {
    if folder.exists() && !folder.is_dir() {
        let message = format!("{} is no folder, and a whole machine needs one", folder.display());
        let hint = "name a folder, or one disk of the machine: --disk N";
        return Err(Usage::new(message, hint).into());
    }
    let definition = arguments.definition.map_or(DefinitionChoice::Own, DefinitionChoice::from);
    let format = match (arguments.format, definition) {
        (Some(format), _) => DiskFormat::from(format),
        (None, DefinitionChoice::For(target)) => DiskFormat::best_for(target),
        (None, _) => format_of_machine(manifest),
    };
    let (new_identity, overwrite) = (arguments.new_identity, overwrite(arguments.overwrite));
    Ok(Target::Machine { folder, options: MachineOptions { format, definition, new_identity, overwrite } })
}

/// What the machine's own hypervisor uses.
pub fn format_of_machine(manifest: &Manifest) -> DiskFormat {
    match manifest.machine_kind.as_str() {
        "vmware" => DiskFormat::Vmdk,
        "libvirt" | "proxmox" => DiskFormat::Qcow2,
        "virtual_box" => DiskFormat::Vdi,
        "hyper_v" => DiskFormat::Vhdx,
        "ovf" => DiskFormat::VmdkStream,
        _ => DiskFormat::Raw,
    }
}

/// What `--format` calls it.
pub fn format_name(format: DiskFormat) -> String {
    let same = |value: &&Format| DiskFormat::from(**value) == format;
    let value = Format::value_variants().iter().find(same).and_then(ValueEnum::to_possible_value);
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The disk of that slot, else of that number.
fn find_disk(wanted: &str, manifest: &Manifest) -> Result<usize, Usage> {
    let number: Option<usize> = wanted.parse().ok();
    let by_slot = manifest.disks.iter().position(|disk| disk.slot == wanted);
    by_slot.or_else(|| number.filter(|number| *number < manifest.disks.len())).ok_or_else(|| {
        let there: Vec<String> = manifest
            .disks
            .iter()
            .enumerate()
            .map(|(number, disk)| format!("{number} ({}, {})", disk.slot, text::bytes(disk.size)))
            .collect();
        let message = format!("{} has no disk {wanted:?}", text::backup_name(manifest));
        Usage::new(message, format!("it has: {}", there.join(", ")))
    })
}

fn disk_target(arguments: &Arguments, path: PathBuf) -> anyhow::Result<DiskTarget> {
    let kind = std::fs::metadata(&path).ok().map(|metadata| metadata.file_type());
    if kind.is_some_and(|kind| kind.is_dir()) {
        let message = format!("{} is a folder, and a disk needs a file", path.display());
        return Err(Usage::new(message, format!("name a file in it: --to {}", path.join("disk.raw").display())).into());
    }
    if arguments.in_place {
        return Ok(DiskTarget::InPlace(path));
    }
    if kind.is_some_and(|kind| kind.is_block_device()) {
        if arguments.format.is_some_and(|format| format != Format::Raw) {
            let message = format!("{} is a block device: only raw goes onto it", path.display());
            return Err(Usage::new(message, "leave --format out").into());
        }
        if !arguments.overwrite {
            return Err(ImageError::from(TargetError::Exists { file: path }).into());
        }
        return Ok(DiskTarget::Device(path));
    }
    if kind.is_some() && !arguments.overwrite {
        // The writer refuses it too; here it is known before the repository is read.
        return Err(ImageError::from(TargetError::Exists { file: path }).into());
    }
    let format = arguments.format.map_or_else(|| format_of_file(&path), DiskFormat::from);
    Ok(DiskTarget::File { path, format, overwrite: overwrite(arguments.overwrite) })
}

/// By the ending of the name.
pub fn format_of_file(path: &Path) -> DiskFormat {
    const ENDED: [DiskFormat; 5] =
        [DiskFormat::Vmdk, DiskFormat::Qcow2, DiskFormat::Vhdx, DiskFormat::Vhd, DiskFormat::Vdi];
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let named = ENDED.into_iter().find(|format| ending.as_deref() == Some(format.extension()));
    named.unwrap_or(DiskFormat::Raw)
}

impl Plan<'_> {
    /// What will be overwritten, a line each; nothing if all of it is new.
    pub fn overwritten(&self) -> Vec<String> {
        match &self.target {
            Target::Disk { target: DiskTarget::InPlace(path), .. } => {
                existing(path, "will be brought up to date in place; interrupted, it is a mixture of old and new")
            }
            Target::Disk { number, target: DiskTarget::File { path, format, .. } } => {
                let size = self.manifest.disks.get(*number).map_or(0, |disk| disk.size);
                let files = format.files(path, ByteLen(size));
                files.iter().flat_map(|file| existing(file, "will be overwritten")).collect()
            }
            Target::Disk { target, .. } => existing(target.path(), "will be overwritten"),
            Target::Machine { options: MachineOptions { overwrite: Overwrite::Refuse, .. }, .. } => Vec::new(),
            Target::Machine { folder, options } => {
                let mut lines: Vec<String> = planned_names(self.manifest, options)
                    .into_iter()
                    .flat_map(|name| existing(&folder.join(name), "will be overwritten"))
                    .collect();
                if let Some(more) = lines.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
                    lines.truncate(LISTED_MAX);
                    lines.push(format!("and {more} more"));
                }
                lines
            }
        }
    }
}

fn existing(path: &Path, what_happens: &str) -> Vec<String> {
    let Ok(metadata) = std::fs::metadata(path) else { return Vec::new() };
    let what = if metadata.file_type().is_block_device() { "block device" } else { "file" };
    // A block device has no length in its metadata; its end can be sought, if we may open it.
    let len = std::fs::File::open(path)
        .and_then(|mut file| std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)))
        .unwrap_or(metadata.len());
    vec![format!("{} ({what}, {}) {what_happens}", path.display(), text::bytes(len))]
}

#[cfg(test)]
mod tests {
    use super::super::Definition;
    use super::*;

    #[test]
    fn the_ending_decides_where_no_format_is_named() {
        for (name, expected) in [
            ("a.vmdk", DiskFormat::Vmdk),
            ("a.VMDK", DiskFormat::Vmdk),
            ("a.qcow2", DiskFormat::Qcow2),
            ("a.vhd", DiskFormat::Vhd),
            ("a.VHDX", DiskFormat::Vhdx),
            ("a.vdi", DiskFormat::Vdi),
            ("a.raw", DiskFormat::Raw),
            ("a.vmdk.bak", DiskFormat::Raw),
            ("vmdk", DiskFormat::Raw),
        ] {
            assert_eq!(format_of_file(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn in_place_needs_a_disk_a_target_and_raw() {
        let whole = Arguments { in_place: true, to: Some("x".into()), ..Arguments::default() };
        assert!(check(&whole).is_err());
        let disk = Arguments { disk: Some("0".into()), ..whole };
        assert!(check(&disk).is_ok());
        assert!(check(&Arguments { format: Some(Format::Vmdk), ..disk }).is_err());
    }

    #[test]
    fn a_definition_and_a_format_must_fit() {
        let check = |definition, format| {
            check(&Arguments { definition: Some(definition), format: Some(format), ..Arguments::default() }).is_ok()
        };
        assert!(check(Definition::Vmx, Format::Vmdk) && !check(Definition::Vmx, Format::Qcow2));
        assert!(check(Definition::Ovf, Format::VmdkStream) && !check(Definition::Ovf, Format::Vmdk));
        assert!(check(Definition::Libvirt, Format::Raw) && !check(Definition::Libvirt, Format::VmdkStream));
        assert!(check(Definition::None, Format::Vhd));
    }
}
