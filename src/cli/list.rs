//! `abbild list`: the backups there are, oldest first.

use std::sync::Arc;

use serde::Serialize;

use super::backup::BackupAnswer;
use super::exit::Exit;
use super::table::{Column, Table};
use super::{Context, place, text, watch};
use crate::repo::brief::Brief;
use crate::repo::ids::BackupId;
use crate::repo::manifest::Manifest;
use crate::repo::pins::Pins;
use crate::repo::tag::{self, Tag};
use crate::repo::{RepoError, Repository, name};

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only backups of this machine
    machine: Option<String>,
    /// Only backups with this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<Tag>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'m> {
    backups: Vec<Line<'m>>,
    unreadable: Vec<Unreadable>,
}

#[derive(Serialize)]
struct Line<'m> {
    #[serde(flatten)]
    backup: BackupAnswer<'m>,
    /// Why it is pinned; null if it is not.
    pinned: Option<String>,
}

#[derive(Serialize)]
struct Unreadable {
    backup: BackupId,
    message: String,
}

/// Every backup whose manifest can be read, in brief, oldest first; and what is wrong with the others.
pub struct Readable {
    /// Oldest first.
    pub briefs: Vec<Arc<Brief>>,
    /// Backups whose manifest cannot be read, and why.
    pub unreadable: Vec<(BackupId, RepoError)>,
}

impl Readable {
    /// Looks what backups there are, and warns of those that cannot be read, or have vanished.
    pub fn of(repository: &Repository, context: &Context<'_>) -> anyhow::Result<Readable> {
        let mut unreadable = Vec::new();
        let briefs = repository.briefs(&mut |id, error| unreadable.push((id, error)))?;
        for (id, error) in &unreadable {
            context.terminal.warn(&format!("backup {id} cannot be read: {error}"));
        }
        watch::warn(repository, &briefs, context);
        Ok(Readable { briefs, unreadable })
    }

    /// The backup that `wanted` names.
    pub fn find(&self, wanted: &str) -> anyhow::Result<&Brief> {
        Ok(name::find(wanted, &self.briefs)?)
    }

    /// The manifest of the backup that `wanted` names.
    pub fn manifest(&self, wanted: &str, repository: &Repository) -> anyhow::Result<Manifest> {
        Ok(repository.manifest(self.find(wanted)?.backup)?)
    }
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let repository = place::open(context)?;
    let all = Readable::of(&repository, context)?;
    let mut shown: Vec<&Arc<Brief>> = match &arguments.machine {
        None => all.briefs.iter().collect(),
        Some(machine) => {
            // Not the bare name: that could also be the beginning of an id.
            name::find(&format!("{machine}@latest"), &all.briefs)?;
            all.briefs.iter().filter(|brief| brief.machine == *machine).collect()
        }
    };
    shown.retain(|brief| arguments.tag.is_empty() || tag::has_any(&brief.tags, &arguments.tag));
    let pins = Pins::load(repository.store(), repository.keys())?;
    context.terminal.json(&Answer {
        backups: shown
            .iter()
            .map(|brief| Line { backup: BackupAnswer::of(brief), pinned: pins.reason(brief.backup) })
            .collect(),
        unreadable: all
            .unreadable
            .iter()
            .map(|(id, error)| Unreadable { backup: *id, message: error.to_string() })
            .collect(),
    })?;
    if shown.is_empty() {
        let why = if all.briefs.is_empty() { "there are no backups yet" } else { "no backup has such a tag" };
        context.terminal.say(why);
    } else {
        let table = table(&shown, &pins);
        context.terminal.result(&table.to_text(context.terminal.columns()))?;
    }
    Ok(if all.unreadable.is_empty() { Exit::Done } else { Exit::Damaged })
}

/// Why a backup is pinned, where it must say that it is.
fn pinned(reason: &str) -> String {
    if reason.is_empty() { "yes".to_owned() } else { reason.to_owned() }
}

fn table(briefs: &[&Arc<Brief>], pins: &Pins) -> Table {
    let mut columns = vec![
        Column::text("ID"),
        Column::text("BACKUP"),
        Column::text("LEVEL").spare(),
        Column::number("SIZE").spare(),
        Column::number("STORED").spare(),
    ];
    let has_tags = briefs.iter().any(|brief| !brief.tags.is_empty());
    let has_pins = briefs.iter().any(|brief| pins.has(brief.backup));
    columns.extend(has_tags.then_some(Column::text("TAGS").spare()));
    columns.extend(has_pins.then_some(Column::text("PINNED").spare()));
    let mut table = Table::new(columns);
    for brief in briefs {
        let mark = if brief.warnings.is_empty() { "" } else { " !" };
        let mut row = vec![
            text::short_id(brief.backup),
            text::backup_name(*brief) + mark,
            brief.level.clone(),
            text::bytes(brief.statistics.size),
            text::bytes(brief.statistics.stored.unwrap_or(0)),
        ];
        row.extend(has_tags.then(|| brief.tags.join(" ")));
        row.extend(has_pins.then(|| pins.reason(brief.backup).map(|why| pinned(&why)).unwrap_or_default()));
        table.row(row);
    }
    table
}
