//! `abbild copy`: backups go into a second repository, those that are not there yet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::exit::Exit;
use super::failure::{self, Interrupted, Usage};
use super::place::Place;
use super::progress::Progress;
use super::secret::{SecretSource, Variables};
use super::table::{Column, Table};
use super::{Context, text};
use crate::ops::copy::{Copier, CopyError, Selection, Verdict};
use crate::repo::ids::BackupId;
use crate::repo::manifest::Manifest;
use crate::repo::name;
use crate::repo::tag::Tag;

/// Where the destination's secret comes from, if no option says so.
const VARIABLES: Variables = Variables {
    file: "ABBILD_TO_PASSWORD_FILE",
    command: "ABBILD_TO_PASSWORD_COMMAND",
    password: "ABBILD_TO_PASSWORD",
};
/// What an interruption leaves.
const LEFT: &str = "nothing is lost: the next copy goes on from what is there";

/// Arguments of `copy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without BACKUP, all backups that are not there yet are copied, oldest first. A backup that was copied before is skipped;
one that was copied and then forgotten there is copied again only if it is named. Both repositories may be in use.

The destination's key comes from the first of --to-password-file, --to-password-command, --to-key-file and the variables
ABBILD_TO_PASSWORD_FILE, ABBILD_TO_PASSWORD_COMMAND and ABBILD_TO_PASSWORD that is given; else the key of the repository
that is copied from is tried; else the passphrase is asked for. Make a destination with: abbild init --repo REPO")]
pub struct Arguments {
    /// Backups: MACHINE@TIME, MACHINE@latest, a machine (its newest backup), or the beginning of an id
    #[arg(value_name = "BACKUP", conflicts_with_all = ["machine", "tag", "latest", "newer"])]
    backups: Vec<String>,
    /// Folder of the repository to copy to
    #[arg(long, value_name = "REPO", value_hint = clap::ValueHint::DirPath)]
    to: PathBuf,
    /// Key file that opens the repository to copy to
    #[arg(long, value_name = "FILE", env = "ABBILD_TO_KEY_FILE", hide_env_values = true)]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    to_key_file: Option<PathBuf>,
    /// File whose first line is the passphrase of the repository to copy to
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    to_password_file: Option<PathBuf>,
    /// Shell command that prints the passphrase of the repository to copy to
    #[arg(long, value_name = "COMMAND", conflicts_with = "to_password_file")]
    to_password_command: Option<String>,
    /// Only backups of this machine; may be given several times
    #[arg(long, value_name = "MACHINE")]
    machine: Vec<String>,
    /// Only backups with this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<Tag>,
    /// Only the newest backup of each machine
    #[arg(long)]
    latest: bool,
    /// Only backups newer than every copy of their machine that is there
    #[arg(long)]
    newer: bool,
    /// Read each copy back and compare it with the backup before it is reported
    #[arg(long)]
    verify: bool,
    /// Show what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
}

/// What `--json` prints for a copy.
#[derive(Serialize)]
struct Copied<'m> {
    /// The backup that was copied.
    backup: BackupId,
    name: String,
    machine: &'m str,
    instant: jiff::Timestamp,
    /// Its id in the destination.
    copy: BackupId,
    parent: Option<BackupId>,
    #[serde(flatten)]
    costs: crate::repo::manifest::Statistics,
    verified: bool,
    warnings: &'m [String],
}

/// How the backups fared.
#[derive(Default)]
struct Tally {
    copied: usize,
    there: usize,
    left_out: usize,
    warned: bool,
    failures: Vec<Exit>,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let place = Place::of(context)?;
    let destination = Place::named(&arguments.to)?;
    refuse_the_same(&place, &destination)?;
    // That there is a repository is seen before a secret is asked for.
    destination.store()?;
    let (from, secret) = place.open(context)?;
    let to = destination.open_beside(context, &source_of(arguments), &secret)?;
    let progress = Progress::new(context.terminal, "");
    let mut copier = match Copier::begin(&from, &to, progress.control()) {
        Err(CopyError::SameRepository { repository }) => return Err(same_repository(&destination, repository).into()),
        outcome => outcome.map_err(of_copy)?,
    };
    progress.finish(copier.warnings());
    let mut tally = Tally { warned: !copier.warnings().is_empty(), ..Tally::default() };
    for (id, error) in copier.unreadable() {
        context.terminal.json(&json!({ "unreadable": id, "message": error.to_string() }))?;
        context.terminal.warn(&format!("backup {id} cannot be read and is not copied: {error}"));
        tally.failures.push(Exit::Damaged);
    }
    let selection = selection(arguments, copier.backups())?;
    let plan = copier.plan(&selection);
    if arguments.dry_run {
        show(&plan, copier.backups(), context)?;
        return Ok(tally.exit());
    }
    for (number, (id, verdict)) in plan.iter().enumerate() {
        let manifest = copier.backups().iter().find(|manifest| manifest.backup == *id);
        let manifest = manifest.expect("the plan is of these backups").clone();
        match verdict {
            Verdict::There(_) => tally.there += 1,
            Verdict::ForgottenThere | Verdict::Older => tally.left_out += 1,
            Verdict::Copy => match one(&mut copier, &manifest, arguments.verify, context) {
                Ok(warned) => {
                    tally.copied += 1;
                    tally.warned |= warned;
                }
                Err(error) if ends_the_run(&error) => {
                    let left = plan.iter().skip(number + 1).filter(|(_, verdict)| *verdict == Verdict::Copy).count();
                    if left > 0 {
                        context.terminal.warn(&format!("{} not copied any more", text::counted(left, "backup")));
                    }
                    return Err(error);
                }
                Err(error) => tally.fail(&error, context)?,
            },
        }
    }
    for warning in copier.end() {
        context.terminal.warn(&warning);
        tally.warned = true;
    }
    context.terminal.json(&json!({
        "copied": tally.copied, "there_before": tally.there, "left_out": tally.left_out, "failed": tally.failures.len(),
    }))?;
    context.terminal.done(&tally.summary())?;
    Ok(tally.exit())
}

/// Copies one backup and says so; whether with warnings.
fn one(copier: &mut Copier<'_>, manifest: &Manifest, verify: bool, context: &Context<'_>) -> anyhow::Result<bool> {
    let name = text::backup_name(manifest);
    let progress = Progress::new(context.terminal, &name);
    let committed = match copier.copy(manifest.backup, verify, progress.control()) {
        Ok(committed) => committed,
        Err(error) => {
            progress.finish([]);
            return Err(of_copy(error).context(format!("{name} ({}) was not copied", text::short_id(manifest.backup))));
        }
    };
    progress.finish(&committed.warnings);
    let copy = &committed.manifest;
    context.terminal.json(&Copied {
        backup: manifest.backup,
        name: name.clone(),
        machine: &manifest.machine,
        instant: manifest.instant,
        copy: copy.backup,
        parent: copy.parent,
        costs: copy.statistics,
        verified: verify,
        warnings: &committed.warnings,
    })?;
    let costs = &copy.statistics;
    let verified = if verify { ", read back and equal" } else { "" };
    context.terminal.done(&format!(
        "{name}: {} copied as {}\n  {} of {} read, {} stored, in {}{verified}\n",
        text::short_id(manifest.backup),
        text::short_id(copy.backup),
        text::bytes(costs.read),
        text::bytes(costs.size),
        text::bytes(costs.stored.unwrap_or(0)),
        text::duration(Duration::from_millis(costs.duration_ms))
    ))?;
    Ok(!committed.warnings.is_empty())
}

fn source_of(arguments: &Arguments) -> SecretSource {
    let key_file = arguments.to_key_file.as_deref().filter(|path| !path.as_os_str().is_empty());
    if let Some(file) = &arguments.to_password_file {
        SecretSource::PasswordFile(file.clone())
    } else if let Some(command) = &arguments.to_password_command {
        SecretSource::PasswordCommand { command: command.clone(), named: "--to-password-command" }
    } else {
        SecretSource::choose(key_file, &VARIABLES)
    }
}

/// One repository in two roles, or one inside the other, is a mistake whatever is asked for.
fn refuse_the_same(from: &Place, to: &Place) -> Result<(), Usage> {
    let real = |folder: &Path| folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let (here, there) = (real(&from.folder), real(&to.folder));
    let hint = "name another repository with --to; make one with: abbild init --repo REPO";
    if here == there {
        return Err(Usage::new(format!("{} is the repository that is copied from", to.shown()), hint));
    }
    if here.starts_with(&there) || there.starts_with(&here) {
        return Err(Usage::new(format!("{} and {} lie in each other", from.shown(), to.shown()), hint));
    }
    Ok(())
}

fn same_repository(to: &Place, repository: crate::repo::ids::RepoId) -> Usage {
    Usage::new(
        format!("{} is another store of the same repository ({})", to.shown(), text::short_id(repository)),
        "a store that was made with cp or rsync is kept alike with these; \
         a repository of its own is made with: abbild init --repo REPO",
    )
}

fn selection(arguments: &Arguments, backups: &[Manifest]) -> anyhow::Result<Selection> {
    for machine in &arguments.machine {
        name::find(&format!("{machine}@latest"), backups)?;
    }
    let named = arguments.backups.iter().map(|wanted| Ok(name::find(wanted, backups)?.backup));
    Ok(Selection {
        backups: named.collect::<anyhow::Result<_>>()?,
        machines: arguments.machine.clone(),
        tags: arguments.tag.clone(),
        latest: arguments.latest,
        newer: arguments.newer,
    })
}

fn show(plan: &[(BackupId, Verdict)], backups: &[Manifest], context: &Context<'_>) -> anyhow::Result<()> {
    let mut table =
        Table::new([Column::text("ID"), Column::text("BACKUP"), Column::number("SIZE").spare(), Column::text("PLAN")]);
    let mut copies = Vec::new();
    for (id, verdict) in plan {
        let manifest = backups.iter().find(|manifest| manifest.backup == *id).expect("the plan is of these backups");
        let word = match verdict {
            Verdict::Copy => "copy".to_owned(),
            Verdict::There(copy) => format!("there as {}", text::short_id(*copy)),
            Verdict::ForgottenThere => "forgotten there".to_owned(),
            Verdict::Older => "older than what is there".to_owned(),
        };
        let name = text::backup_name(manifest);
        if *verdict == Verdict::Copy {
            copies.push(json!({ "backup": id, "name": name, "size": manifest.statistics.size }));
        }
        table.row([text::short_id(*id), name, text::bytes(manifest.statistics.size), word]);
    }
    context.terminal.json(&json!({ "dry_run": true, "would_copy": copies }))?;
    context.terminal.result(&table.to_text(context.terminal.columns()))?;
    context.terminal.done(&format!("{} would be copied\n", text::counted(copies.len(), "backup")))
}

fn of_copy(error: CopyError) -> anyhow::Error {
    match error {
        CopyError::Interrupted => Interrupted { hint: LEFT }.into(),
        error => error.into(),
    }
}

/// What no further backup could be spared from.
fn ends_the_run(error: &anyhow::Error) -> bool {
    !error.chain().any(|link| link.downcast_ref::<CopyError>().is_some_and(CopyError::is_of_one_backup))
}

impl Tally {
    fn fail(&mut self, error: &anyhow::Error, context: &Context<'_>) -> anyhow::Result<()> {
        let verdict = failure::verdict(error);
        context.terminal.json(&failure::as_json(error))?;
        let (message, causes) = failure::words(error);
        context.terminal.error(&message, &causes, verdict.hint.as_deref());
        self.failures.push(verdict.exit);
        Ok(())
    }

    fn summary(&self) -> String {
        let mut text = format!("{} copied, {} there before", text::counted(self.copied, "backup"), self.there);
        if self.left_out > 0 {
            text.push_str(&format!(", {} left out", self.left_out));
        }
        if !self.failures.is_empty() {
            text.push_str(&format!(", {} not copied", self.failures.len()));
        }
        text.push('\n');
        text
    }

    /// A code of its own only if none was copied, and all failed in the same way.
    fn exit(&self) -> Exit {
        match self.failures.as_slice() {
            [] => Exit::done_with(self.warned),
            _ if self.copied + self.there > 0 => Exit::Warnings,
            [first, rest @ ..] if rest.iter().all(|exit| exit == first) => *first,
            _ => Exit::Failed,
        }
    }
}
