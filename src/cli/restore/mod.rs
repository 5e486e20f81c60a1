//! `abbild restore`: gives a whole machine or one of its disks back. What will be overwritten is said before it is.
//!
//! In here: which backup, which disk, which target, in which format; doing it. Asking for what was left out is `ask`.

mod ask;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::json;

use super::exit::Exit;
use super::failure::{self, Usage};
use super::list::Readable;
use super::progress::Progress;
use super::{Context, place, text};
use crate::formats::sink::Overwrite;
use crate::machine::write::Target as DefinitionTarget;
use crate::ops::restore::{DefinitionChoice, DiskFormat, DiskTarget, RestoredDisk, restore_disk, restore_machine};
use crate::repo::Repository;
use plan::{Plan, Target};

/// Arguments of `restore`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
What is left out is asked for if there is a terminal.

Examples:
  abbild restore web1 --to /vm/web1-restored             the newest backup of web1 as a machine
  abbild restore web1 --to /vm/web2 --as libvirt --new-identity
                                                         a copy for libvirt, to run beside the original
  abbild restore web1@2026-11-20 --disk 0 --to web1.raw  one disk, as it was on that day
  abbild restore 3f2a91bc --disk scsi0:1 --to /dev/vg/data --overwrite")]
pub struct Arguments {
    /// A machine (its newest backup), MACHINE@TIME, MACHINE@latest, or the beginning of an id
    backup: Option<String>,
    /// Folder for the whole machine; with --disk, a file or block device
    #[arg(long, value_name = "DIR|FILE|DEVICE", value_hint = clap::ValueHint::AnyPath)]
    to: Option<PathBuf>,
    /// Only this disk, by its number or slot
    #[arg(long, value_name = "N|SLOT")]
    disk: Option<String>,
    /// Write the machine's definition for this hypervisor [default: its own, adjusted to the restored disks]
    #[arg(long = "as", value_enum, value_name = "KIND", conflicts_with = "disk")]
    definition: Option<Definition>,
    /// Make it another machine, to run beside the original: new UUIDs and network addresses
    #[arg(long, conflicts_with = "disk")]
    new_identity: bool,
    /// Format of restored disks [default: what the machine's hypervisor uses; of one disk, by the ending of the file]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Bring an existing raw image of the same size, or a device, up to date: only what differs is written
    #[arg(long)]
    in_place: bool,
    /// Replace files that exist, or write onto a block device
    #[arg(long)]
    overwrite: bool,
}

/// Which definition a restored machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Definition {
    /// .vmx for VMware Workstation, Fusion and ESXi; disks as vmdk
    Vmx,
    /// Domain XML for libvirt and QEMU; disks as qcow2
    Libvirt,
    /// .ovf and its manifest, to be imported elsewhere; disks as vmdk-stream
    Ovf,
    /// None, only the disks
    None,
}

impl From<Definition> for DefinitionChoice {
    fn from(definition: Definition) -> DefinitionChoice {
        match definition {
            Definition::Vmx => DefinitionChoice::For(DefinitionTarget::Vmx),
            Definition::Libvirt => DefinitionChoice::For(DefinitionTarget::Libvirt),
            Definition::Ovf => DefinitionChoice::For(DefinitionTarget::Ovf),
            Definition::None => DefinitionChoice::None,
        }
    }
}

/// Format of restored disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The guest's bytes, sparse
    Raw,
    /// VMDK, one growing file (monolithicSparse)
    Vmdk,
    /// VMDK, compressed for transport (streamOptimized)
    VmdkStream,
    /// VMDK, a descriptor and the guest's bytes beside it, sparse (monolithicFlat)
    VmdkFlat,
    /// VMDK, a descriptor and growing files of less than 2 GiB (twoGbMaxExtentSparse)
    VmdkSplit,
    /// qcow2 version 3, for QEMU, libvirt, Proxmox
    Qcow2,
    /// VHDX, dynamic, for Hyper-V
    Vhdx,
    /// VHD, dynamic, for older Hyper-V and Xen
    Vhd,
    /// VHD, fixed size, as Azure wants it
    VhdFixed,
    /// VDI, dynamic, for VirtualBox
    Vdi,
}

impl From<Format> for DiskFormat {
    fn from(format: Format) -> DiskFormat {
        match format {
            Format::Raw => DiskFormat::Raw,
            Format::Vmdk => DiskFormat::Vmdk,
            Format::VmdkStream => DiskFormat::VmdkStream,
            Format::VmdkFlat => DiskFormat::VmdkFlat,
            Format::VmdkSplit => DiskFormat::VmdkSplit,
            Format::Qcow2 => DiskFormat::Qcow2,
            Format::Vhdx => DiskFormat::Vhdx,
            Format::Vhd => DiskFormat::Vhd,
            Format::VhdFixed => DiskFormat::VhdFixed,
            Format::Vdi => DiskFormat::Vdi,
        }
    }
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    plan::check(arguments)?;
    let is_complete = arguments.backup.is_some() && arguments.to.is_some();
    if !is_complete && !context.terminal.can_ask() {
        let message = match arguments.backup {
            None => "no backup is named, and there is no terminal to ask",
            Some(_) => "no target is named (--to), and there is no terminal to ask",
        };
        let hint = "abbild restore BACKUP --to DIR; see the backups: abbild list";
        return Err(Usage::new(message, hint).into());
    }
    let repository = place::open(context)?;
    let all = Readable::of(&repository, context)?;
    let manifest;
    let plan = if is_complete {
        manifest = all.manifest(arguments.backup.as_deref().unwrap_or_default(), &repository)?;
        plan::make(arguments, &manifest, arguments.to.clone().unwrap_or_default())?
    } else {
        let Some(backup) = ask::which(arguments, &all)? else { return Ok(Exit::Interrupted) };
        manifest = repository.manifest(backup)?;
        match ask::ask(arguments, &manifest, context)? {
            Some(plan) => plan,
            None => return Ok(Exit::Interrupted),
        }
    };
    for line in plan.overwritten() {
        context.terminal.say(&line);
    }
    carry_out(&plan, &repository, context)
}

fn carry_out(plan: &Plan<'_>, repository: &Arc<Repository>, context: &Context<'_>) -> anyhow::Result<Exit> {
    let manifest = plan.manifest;
    let name = text::backup_name(manifest);
    let progress = Progress::new(context.terminal, &manifest.machine);
    match &plan.target {
        Target::Machine { folder, options } => {
            let restored = restore_machine(repository, manifest, folder, options, progress.control())
                .map_err(|error| failure::of_work(error, "the disks finished so far are whole; to go on: --overwrite"))
                .with_context(|| format!("cannot restore {name} to {}", folder.display()))?;
            progress.finish(&restored.warnings);
            for note in &restored.notes {
                // What changed on the way to another hypervisor is needed to start the machine there.
                match options.definition {
                    DefinitionChoice::For(_) => context.terminal.say(&format!("note: {note}")),
                    _ => context.terminal.detail(&format!("note: {note}")),
                }
            }
            let mut object = serde_json::to_value(&restored)?;
            object["backup"] = json!(manifest.backup);
            object["name"] = json!(name);
            context.terminal.json(&object)?;
            let mut text = format!("restored {name} to {}\n", folder.display());
            restored.disks.iter().for_each(|disk| text.push_str(&disk_line(disk)));
            if let Some(definition) = &restored.definition {
                text.push_str(&format!("  defined by {}\n", definition.display()));
            }
            if !restored.files.is_empty() {
                text.push_str(&format!("  and {}\n", text::counted(restored.files.len(), "definition file")));
            }
            context.terminal.done(&text)?;
            Ok(Exit::done_with(!restored.warnings.is_empty()))
        }
        Target::Disk { number, target } => {
            let left = match target {
                DiskTarget::File { .. } => "the target is as it was before",
                _ => "the target is a mixture of old and new now: run it again",
            };
            let restored = restore_disk(repository, manifest, *number, target, progress.control())
                .map_err(|error| failure::of_work(error, left))
                .with_context(|| format!("cannot restore {name} to {}", target.path().display()))?;
            progress.finish(&restored.warnings);
            let mut object = serde_json::to_value(&restored)?;
            object["backup"] = json!(manifest.backup);
            object["name"] = json!(name);
            context.terminal.json(&object)?;
            context.terminal.done(&format!("restored {name}\n{}", disk_line(&restored)))?;
            Ok(Exit::done_with(!restored.warnings.is_empty()))
        }
    }
}

fn disk_line(disk: &RestoredDisk) -> String {
    let file = disk.files.first().map(|file| file.display().to_string()).unwrap_or_default();
    let size = text::bytes(disk.size);
    let mut line = format!("  {} to {file}\n    {size}: {} written", disk.slot, text::bytes(disk.written));
    if disk.unchanged > 0 {
        line.push_str(&format!(", {} was there already", text::bytes(disk.unchanged)));
    }
    let took = text::duration(Duration::from_millis(disk.duration_ms));
    line.push_str(&format!(", {} read back and equal, in {took}\n", text::bytes(disk.verified)));
    line
}

fn overwrite(wanted: bool) -> Overwrite {
    if wanted { Overwrite::Replace } else { Overwrite::Refuse }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_can_be_asked_for() {
        let offered: Vec<DiskFormat> =
            Format::value_variants().iter().map(|format| DiskFormat::from(*format)).collect();
        assert_eq!(offered, DiskFormat::ALL);
    }
}
