//! `abbild pin`: backups that are not to be forgotten, whatever the rules say.

use std::collections::BTreeSet;

use serde::Serialize;

use super::exit::Exit;
use super::failure::Usage;
use super::list::Readable;
use super::table::{Column, Table};
use super::{Context, place, text};
use crate::repo::gc::forgotten;
use crate::repo::ids::BackupId;
use crate::repo::pins::{self, Pins};
use crate::repo::store::StoreError;
use crate::repo::{RepoError, Repository};

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1000;

/// Arguments of `pin`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without BACKUP, the pinned backups are listed. A pinned backup is not forgotten by rules, nor by name, until it is
unpinned. Pins are not copied to other repositories.")]
pub struct Arguments {
    /// Backups: MACHINE@TIME, MACHINE@latest, a machine (its newest backup), or the beginning of an id
    #[arg(value_name = "BACKUP")]
    backups: Vec<String>,
    /// Why, shown wherever the backup is
    #[arg(long, value_name = "TEXT", requires = "backups", value_parser = reason)]
    reason: Option<String>,
    /// Unpin the backups
    #[arg(long, requires = "backups", conflicts_with = "reason")]
    remove: bool,
}

fn reason(text: &str) -> Result<String, String> {
    if text.len() > REASON_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!("expected one line of at most {REASON_BYTES_MAX} bytes"));
    }
    Ok(text.trim().to_owned())
}

/// What `--json` prints for a pin.
#[derive(Serialize)]
struct Line {
    backup: BackupId,
    name: Option<String>,
    reason: Option<String>,
    host: Option<String>,
    created: Option<jiff::Timestamp>,
    state: State,
    /// What is wrong with the pin; it counts all the same.
    damaged: Option<String>,
}

/// Where the backup of a pin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Among the backups.
    Kept,
    /// Forgotten at the very instant it was pinned, and never pruned.
    Forgotten,
    /// Neither, or its manifest cannot be read.
    NotFound,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let repository = place::open(context)?;
    let all = Readable::of(&repository, context)?;
    if arguments.backups.is_empty() {
        return list(&repository, &all, context);
    }
    let named = arguments.backups.iter().map(|wanted| named(wanted, &all, arguments.remove));
    // All are found before any is touched.
    let named: BTreeSet<BackupId> = named.collect::<anyhow::Result<_>>()?;
    let by_id = |id: BackupId| all.briefs.iter().find(|brief| brief.backup == id);
    let shown = |id: BackupId| by_id(id).map_or_else(|| id.to_string(), |brief| text::backup_name(&**brief));
    for id in &named {
        if arguments.remove {
            unpin(&repository, *id, &shown(*id))?;
        } else {
            pin(&repository, *id, &shown(*id), arguments.reason.as_deref().unwrap_or_default())?;
        }
    }
    let done = if arguments.remove { "unpinned" } else { "pinned" };
    context.terminal.json(&serde_json::json!({ done: named }))?;
    for id in &named {
        context.terminal.done(&format!("{}  {}  {done}\n", text::short_id(*id), shown(*id)))?;
    }
    Ok(Exit::Done)
}

fn named(wanted: &str, all: &Readable, remove: bool) -> anyhow::Result<BackupId> {
    // What is gone or damaged has no name left but its id.
    match wanted.parse::<BackupId>() {
        Ok(id) if remove || all.unreadable.iter().any(|(unreadable, _)| *unreadable == id) => Ok(id),
        _ => Ok(all.find(wanted)?.backup),
    }
}

fn pin(repository: &Repository, id: BackupId, shown: &str, reason: &str) -> anyhow::Result<()> {
    match pins::add(repository.store(), repository.keys(), id, reason) {
        Err(RepoError::Store(StoreError::Exists { .. })) => {
            let before = Pins::load(repository.store(), repository.keys())?.reason(id).unwrap_or_default();
            if reason.is_empty() || reason == before {
                return Ok(());
            }
            let message = format!("{shown} is pinned already: {before}");
            let hint = format!("to give another reason, unpin it first: abbild pin --remove {id}");
            Err(Usage::new(message, hint).into())
        }
        Err(error @ RepoError::Store(StoreError::NotFound { .. })) => {
            Err(anyhow::Error::from(error).context(format!("{shown} was forgotten meanwhile; it is not pinned")))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

fn unpin(repository: &Repository, id: BackupId, shown: &str) -> anyhow::Result<()> {
    match pins::remove(repository.store(), id) {
        Err(RepoError::Store(StoreError::NotFound { .. })) => {
            Err(Usage::new(format!("{shown} is not pinned"), "see which are: abbild pin").into())
        }
        outcome => Ok(outcome?),
    }
}

fn list(repository: &Repository, all: &Readable, context: &Context<'_>) -> anyhow::Result<Exit> {
    let pins = Pins::load(repository.store(), repository.keys())?;
    let forgotten = forgotten::list(repository.store())?;
    let lines: Vec<Line> = pins
        .iter()
        .map(|(backup, pin)| {
            let brief = all.briefs.iter().find(|brief| brief.backup == backup);
            let state = if brief.is_some() {
                State::Kept
            } else if forgotten.iter().any(|forgotten| forgotten.backup == backup) {
                State::Forgotten
            } else {
                State::NotFound
            };
            let known = pin.as_ref().ok();
            Line {
                backup,
                name: brief.map(|brief| text::backup_name(&**brief)),
                reason: known.map(|pin| pin.reason.clone()),
                host: known.map(|pin| pin.host.clone()),
                created: known.map(|pin| pin.created),
                state,
                damaged: pin.as_ref().err().map(ToString::to_string),
            }
        })
        .collect();
    for line in &lines {
        if let Some(damaged) = &line.damaged {
            context.terminal.warn(&format!("the pin of {} counts, and cannot be read: {damaged}", line.backup));
        }
        if line.state == State::Forgotten {
            let hint = format!("bring it back: abbild forget --undo {}", line.backup);
            context.terminal.warn(&format!("{} is pinned and was forgotten at the same instant; {hint}", line.backup));
        }
    }
    context.terminal.json(&serde_json::json!({ "pins": lines }))?;
    if lines.is_empty() {
        context.terminal.say("nothing is pinned");
    } else {
        context.terminal.result(&table(&lines).to_text(context.terminal.columns()))?;
    }
    Ok(if lines.iter().any(|line| line.damaged.is_some()) { Exit::Damaged } else { Exit::Done })
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new([
        Column::text("ID"),
        Column::text("BACKUP"),
        Column::text("REASON"),
        Column::text("PINNED").spare(),
        Column::text("BY").spare(),
    ]);
    for line in lines {
        table.row([
            text::short_id(line.backup),
            line.name.clone().unwrap_or_else(|| format!("({})", line.state.word())),
            line.reason.clone().unwrap_or_else(|| "(damaged)".to_owned()),
            line.created.map(text::time_to_the_minute).unwrap_or_default(),
            line.host.clone().unwrap_or_default(),
        ]);
    }
    table
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Kept => "kept",
            State::Forgotten => "forgotten",
            State::NotFound => "not found",
        }
    }
}
