//! `abbild backup`: takes a backup of each machine that is named or found. One machine that fails does not stop the
//! others; a repository that fails does.

mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::exit::Exit;
use super::failure;
use super::progress::Progress;
use super::space::{self, SpaceOptions};
use super::table::{Column, Table};
use super::{Context, place, text, watch};
use crate::machine::level::SnapshotChoice;
use crate::machine::{Machine, Skipped};
use crate::ops::OpsError;
use crate::ops::backup::{BackupOptions, Backups};
use crate::repo::brief::Brief;
use crate::repo::ids::BackupId;
use crate::repo::manifest::{Manifest, Origin, Statistics};
use crate::repo::tag::Tag;
use targets::Targets;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A machine's folder, its definition, a disk image, a block device, a folder of any of these, or libvirt:NAME
    ///
    /// Definitions are VMware's .vmx, VirtualBox's .vbox, libvirt's domain XML, Proxmox VE's VMID.conf, and Hyper-V's
    /// .vmcx or XML. Of a folder, all machines in it are backed up, however deep they lie. With libvirt:NAME, virsh is
    /// asked for the machine.
    #[arg(required = true, value_name = "MACHINE", value_hint = clap::ValueHint::AnyPath)]
    machines: Vec<PathBuf>,
    /// Which level: the current state, the base below all redo logs, or a snapshot by its name or number
    #[arg(long, value_name = "current|base|NAME", default_value = "current")]
    snapshot: SnapshotChoice,
    /// Read everything, whatever earlier backups and redo logs say
    #[arg(long)]
    full: bool,
    /// Also open parent images in this folder; may be given several times
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    allow_folder: Vec<PathBuf>,
    /// Read an image file as raw, whatever format its first bytes say
    #[arg(long)]
    raw: bool,
    /// Give the backups a tag to choose them by later; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<Tag>,
    #[command(flatten)]
    space: SpaceOptions,
}

/// How the machines fared.
#[derive(Default)]
struct Tally {
    done: usize,
    warned: bool,
    failures: Vec<Exit>,
    rows: Vec<[String; 6]>,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    // Read before the repository is opened or even made: a mistyped name must have no effects.
    let Targets { machines, skipped, warnings } = Targets::of(arguments);
    let mut tally = Tally { warned: !warnings.is_empty(), ..Tally::default() };
    for warning in &warnings {
        context.terminal.json(&json!({ "warning": warning }))?;
        context.terminal.warn(warning);
    }
    for skipped in &skipped {
        tally.skip(context, skipped)?;
    }
    if machines.iter().all(|target| target.machine.is_err()) {
        for target in machines {
            if let Err(error) = target.machine {
                tally.fail(context, &target.path, &error)?;
            }
        }
        return Ok(tally.exit());
    }
    let repository = place::open_or_create_default(context)?;
    let mut backups = Backups::new(&repository);
    for (number, target) in machines.iter().enumerate() {
        let outcome = match &target.machine {
            Ok(machine) => one(&mut backups, machine, arguments, context),
            Err(error) => {
                tally.fail(context, &target.path, error)?;
                continue;
            }
        };
        match outcome {
            Ok(manifest) => tally.succeed(&manifest),
            Err(error) if ends_the_run(&error) => {
                let left = machines.len() - number - 1;
                if left > 0 {
                    context.terminal.warn(&format!("{} not backed up any more", text::counted(left, "machine")));
                }
                return Err(error);
            }
            Err(error) => tally.fail(context, &target.path, &error)?,
        }
    }
    for warning in backups.end() {
        context.terminal.json(&json!({ "warning": warning }))?;
        context.terminal.warn(&warning);
        tally.warned = true;
    }
    // Now that they are there: from now on they are missed if they vanish.
    tally.warned |= watch::warn_afterwards(&repository, context);
    tally.warned |= space::look(&repository, &arguments.space, context)?;
    if machines.len() > 1 {
        context.terminal.done(&tally.summary(context.terminal.columns()))?;
    }
    Ok(tally.exit())
}

fn one(
    backups: &mut Backups<'_>,
    machine: &Machine,
    arguments: &Arguments,
    context: &Context<'_>,
) -> anyhow::Result<Manifest> {
    let options = BackupOptions {
        level: arguments.snapshot.clone(),
        full_read: arguments.full,
        allowed_folders: arguments.allow_folder.clone(),
        as_raw: arguments.raw,
        tags: arguments.tag.clone(),
    };
    for note in &machine.notes {
        context.terminal.detail(&format!("{}: note: {note}", machine.name));
    }
    let progress = Progress::new(context.terminal, &machine.name);
    let manifest = match backups.take(machine, &options, progress.control()) {
        Ok(manifest) => manifest,
        Err(error) => {
            progress.finish([]);
            let left = "nothing is lost: the next run goes on from what is stored";
            return Err(failure::of_work(error, left).context(format!("{} was not backed up", machine.name)));
        }
    };
    progress.finish(&manifest.warnings);
    context.terminal.json(&BackupAnswer::of(&Brief::of(&manifest)))?;
    context.terminal.done(&as_text(&manifest))?;
    Ok(manifest)
}

/// What no further machine could be spared from.
fn ends_the_run(error: &anyhow::Error) -> bool {
    error.chain().any(|link| {
        link.is::<failure::Interrupted>()
            || matches!(link.downcast_ref::<OpsError>(), Some(OpsError::Repo(_) | OpsError::Interrupted))
    })
}

impl Tally {
    fn succeed(&mut self, manifest: &Manifest) {
        self.done += 1;
        self.warned |= !manifest.warnings.is_empty();
        let costs = &manifest.statistics;
        self.rows.push([
            manifest.machine.clone(),
            text::short_id(manifest.backup),
            text::bytes(costs.size),
            text::bytes(costs.read),
            text::bytes(costs.stored.unwrap_or(0)),
            match manifest.warnings.len() {
                0 => String::new(),
                count => text::counted(count, "warning"),
            },
        ]);
    }

    fn fail(&mut self, context: &Context<'_>, path: &Path, error: &anyhow::Error) -> anyhow::Result<()> {
        let verdict = failure::verdict(error);
        let mut object = failure::as_json(error);
        object["machine"] = json!(path);
        context.terminal.json(&object)?;
        let (message, causes) = failure::words(error);
        context.terminal.error(&message, &causes, verdict.hint.as_deref());
        self.failures.push(verdict.exit);
        let nothing = String::new;
        self.rows.push([path.display().to_string(), nothing(), nothing(), nothing(), nothing(), "failed".to_owned()]);
        Ok(())
    }

    fn skip(&mut self, context: &Context<'_>, skipped: &Skipped) -> anyhow::Result<()> {
        let Skipped { path, why, is_loss } = skipped;
        context.terminal.json(&json!({ "skipped": path, "why": why, "warning": is_loss }))?;
        let line = format!("{} is not backed up: {why}", path.display());
        if *is_loss {
            context.terminal.warn(&line);
        } else {
            context.terminal.say(&line);
        }
        self.warned |= is_loss;
        Ok(())
    }

    /// What became of each machine, a line each.
    fn summary(&self, columns: Option<usize>) -> String {
        let mut table = Table::new([
            Column::text("MACHINE"),
            Column::text("BACKUP"),
            Column::number("SIZE").spare(),
            Column::number("READ").spare(),
            Column::number("STORED").spare(),
            Column::text("REMARK"),
        ]);
        self.rows.iter().for_each(|row| table.row(row.clone()));
        format!("\n{}", table.to_text(columns))
    }

    /// A code of its own only if all failed, and in the same way.
    fn exit(&self) -> Exit {
        match self.failures.as_slice() {
            [] => Exit::done_with(self.warned),
            _ if self.done > 0 => Exit::Warnings,
            [first, rest @ ..] if rest.iter().all(|exit| exit == first) => *first,
            _ => Exit::Failed,
        }
    }
}

fn as_text(manifest: &Manifest) -> String {
    let costs = &manifest.statistics;
    let mut text = format!("{}: backup {}", text::backup_name(manifest), text::short_id(manifest.backup));
    match manifest.capture.level.as_str() {
        "current" => {}
        level => text.push_str(&format!(" of level {level:?}")),
    }
    let size = format!("{} in {}", text::bytes(costs.size), text::counted(manifest.disks.len(), "disk"));
    text.push_str(&format!(
        "\n  {size}: {} read, {} new, {} stored, in {}\n",
        text::bytes(costs.read),
        text::bytes(costs.new),
        text::bytes(costs.stored.unwrap_or(0)),
        text::duration(Duration::from_millis(costs.duration_ms))
    ));
    if let Some(parent) = manifest.parent {
        text.push_str(&format!(
            "  {} unchanged since {}, {} of it read as a sample\n",
            text::bytes(costs.unchanged),
            text::short_id(parent),
            text::bytes(costs.sampled)
        ));
    }
    text
}

/// What `--json` prints for a backup: the whole's costs beside its identity, each disk's beside its slot.
#[derive(Serialize)]
pub struct BackupAnswer<'m> {
    backup: BackupId,
    name: String,
    machine: &'m str,
    instant: jiff::Timestamp,
    level: &'m str,
    parent: Option<BackupId>,
    #[serde(flatten)]
    costs: Statistics,
    disks: Vec<DiskAnswer<'m>>,
    warnings: &'m [String],
    notes: &'m [String],
    tags: &'m [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_from: Option<Origin>,
}

#[derive(Serialize)]
struct DiskAnswer<'m> {
    slot: &'m str,
    #[serde(flatten)]
    costs: Statistics,
}

impl BackupAnswer<'_> {
    /// The answer for a backup.
    pub fn of(brief: &Brief) -> BackupAnswer<'_> {
        BackupAnswer {
            backup: brief.backup,
            name: text::backup_name(brief),
            machine: &brief.machine,
            instant: brief.instant,
            level: &brief.level,
            parent: brief.parent,
            costs: brief.statistics,
            disks: brief.disks.iter().map(|disk| DiskAnswer { slot: &disk.slot, costs: disk.costs }).collect(),
            warnings: &brief.warnings,
            notes: &brief.notes,
            tags: &brief.tags,
            copied_from: brief.copied_from,
        }
    }
}
