//! `abbild backup`: takes a backup of each machine that is named. One machine that fails does not stop the others; a
//! repository that fails does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::exit::Exit;
use super::failure::{self, Usage};
use super::progress::Progress;
use super::{Context, place, text};
use crate::machine::level::SnapshotChoice;
use crate::machine::{self, Machine, MachineKind};
use crate::ops::OpsError;
use crate::ops::backup::{BackupOptions, backup};
use crate::repo::Repository;
use crate::repo::ids::BackupId;
use crate::repo::manifest::{Manifest, Statistics};

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A machine's folder, its .vmx, a disk image, a folder of images, or a block device
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
}

/// How the machines fared.
#[derive(Default)]
struct Tally {
    done: usize,
    warned: bool,
    failures: Vec<Exit>,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    // Read before the repository is opened or even made: a mistyped name must have no effects.
    let machines: Vec<(&PathBuf, anyhow::Result<Machine>)> =
        arguments.machines.iter().map(|path| (path, read(path, arguments))).collect();
    let mut tally = Tally::default();
    if machines.iter().all(|(_, machine)| machine.is_err()) {
        for (path, machine) in machines {
            if let Err(error) = machine {
                tally.fail(context, path, &error)?;
            }
        }
        return Ok(tally.exit());
    }
    let repository = place::open_or_create_default(context)?;
    for (number, (path, machine)) in machines.iter().enumerate() {
        let outcome = match machine {
            Ok(machine) => one(&repository, machine, arguments, context),
            Err(error) => {
                tally.fail(context, path, error)?;
                continue;
            }
        };
        match outcome {
            Ok(manifest) => {
                tally.done += 1;
                tally.warned |= !manifest.warnings.is_empty();
            }
            Err(error) if ends_the_run(&error) => {
                let left = machines.len() - number - 1;
                if left > 0 {
                    context.terminal.warn(&format!("{} not backed up any more", text::counted(left, "machine")));
                }
                return Err(error);
            }
            Err(error) => tally.fail(context, path, &error)?,
        }
    }
    Ok(tally.exit())
}

fn read(path: &Path, arguments: &Arguments) -> anyhow::Result<Machine> {
    let machine = machine::read(path).with_context(|| format!("cannot back up {}", path.display()))?;
    if arguments.raw && machine.kind == MachineKind::Vmware {
        let message = format!("{} is a VMware machine: its definition says how its images are read", path.display());
        return Err(Usage::new(message, "--raw is for image files: leave it out, or name an image").into());
    }
    Ok(machine)
}

fn one(
    repository: &Arc<Repository>,
    machine: &Machine,
    arguments: &Arguments,
    context: &Context<'_>,
) -> anyhow::Result<Manifest> {
    let options = BackupOptions {
        level: arguments.snapshot.clone(),
        full_read: arguments.full,
        allowed_folders: arguments.allow_folder.clone(),
        as_raw: arguments.raw,
    };
    for note in &machine.notes {
        context.terminal.detail(&format!("{}: note: {note}", machine.name));
    }
    let progress = Progress::new(context.terminal, &machine.name);
    let outcome = backup(repository, machine, &options, progress.control());
    let mut committed = match outcome {
        Ok(committed) => committed,
        Err(error) => {
            progress.finish([]);
            let left = "nothing is lost: the next run goes on from what is stored";
            return Err(failure::of_work(error, left).context(format!("{} was not backed up", machine.name)));
        }
    };
    committed.manifest.warnings.append(&mut committed.warnings);
    let manifest = committed.manifest;
    progress.finish(&manifest.warnings);
    context.terminal.json(&BackupAnswer::of(&manifest))?;
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
    fn fail(&mut self, context: &Context<'_>, path: &Path, error: &anyhow::Error) -> anyhow::Result<()> {
        let verdict = failure::verdict(error);
        let mut object = failure::as_json(error);
        object["machine"] = json!(path);
        context.terminal.json(&object)?;
        let (message, causes) = failure::words(error);
        context.terminal.error(&message, &causes, verdict.hint.as_deref());
        self.failures.push(verdict.exit);
        Ok(())
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
}

#[derive(Serialize)]
struct DiskAnswer<'m> {
    slot: &'m str,
    #[serde(flatten)]
    costs: Statistics,
}

impl BackupAnswer<'_> {
    /// The answer for a backup.
    pub fn of(manifest: &Manifest) -> BackupAnswer<'_> {
        BackupAnswer {
            backup: manifest.backup,
            name: text::backup_name(manifest),
            machine: &manifest.machine,
            instant: manifest.instant,
            level: &manifest.capture.level,
            parent: manifest.parent,
            costs: manifest.statistics,
            disks: manifest.disks.iter().map(|disk| DiskAnswer { slot: &disk.slot, costs: disk.statistics }).collect(),
            warnings: &manifest.warnings,
            notes: &manifest.notes,
        }
    }
}
