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
use crate::repo::{RepoError, Repository, name};

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only backups of this machine
    machine: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'m> {
    backups: Vec<BackupAnswer<'m>>,
    unreadable: Vec<Unreadable>,
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
    let shown: Vec<&Arc<Brief>> = match &arguments.machine {
        None => all.briefs.iter().collect(),
        Some(machine) => {
            // Not the bare name: that could also be the beginning of an id.
            name::find(&format!("{machine}@latest"), &all.briefs)?;
            all.briefs.iter().filter(|brief| brief.machine == *machine).collect()
        }
    };
    context.terminal.json(&Answer {
        backups: shown.iter().map(|brief| BackupAnswer::of(brief)).collect(),
        unreadable: all
            .unreadable
            .iter()
            .map(|(id, error)| Unreadable { backup: *id, message: error.to_string() })
            .collect(),
    })?;
    if shown.is_empty() {
        context.terminal.say("there are no backups yet");
    } else {
        let table = table(&shown);
        context.terminal.result(&table.to_text(context.terminal.columns()))?;
    }
    Ok(if all.unreadable.is_empty() { Exit::Done } else { Exit::Damaged })
}

fn table(briefs: &[&Arc<Brief>]) -> Table {
    let mut table = Table::new([
        Column::text("ID"),
        Column::text("BACKUP"),
        Column::text("LEVEL").spare(),
        Column::number("SIZE").spare(),
        Column::number("STORED").spare(),
    ]);
    for brief in briefs {
        let mark = if brief.warnings.is_empty() { "" } else { " !" };
        table.row([
            text::short_id(brief.backup),
            text::backup_name(*brief) + mark,
            brief.level.clone(),
            text::bytes(brief.statistics.size),
            text::bytes(brief.statistics.stored.unwrap_or(0)),
        ]);
    }
    table
}
