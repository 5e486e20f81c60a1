//! `abbild list`: the backups there are, oldest first.

use serde::Serialize;

use super::backup::BackupAnswer;
use super::exit::Exit;
use super::table::{Column, Table};
use super::{Context, place, text};
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

/// Every readable manifest, oldest first, and what is wrong with the others.
pub struct Readable {
    /// Oldest first.
    pub manifests: Vec<Manifest>,
    /// Backups whose manifest cannot be read, and why.
    pub unreadable: Vec<(BackupId, RepoError)>,
}

impl Readable {
    /// Reads all manifests and warns of those that cannot be read.
    pub fn of(repository: &Repository, context: &Context<'_>) -> anyhow::Result<Readable> {
        let mut unreadable = Vec::new();
        let manifests = repository.manifests(&mut |id, error| unreadable.push((id, error)))?;
        for (id, error) in &unreadable {
            context.terminal.warn(&format!("backup {id} cannot be read: {error}"));
        }
        Ok(Readable { manifests, unreadable })
    }

    /// The backup that `wanted` names.
    pub fn find(&self, wanted: &str) -> anyhow::Result<&Manifest> {
        Ok(name::find(wanted, &self.manifests)?)
    }
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let repository = place::open(context)?;
    let all = Readable::of(&repository, context)?;
    let shown: Vec<&Manifest> = match &arguments.machine {
        None => all.manifests.iter().collect(),
        Some(machine) => {
            // Not the bare name: that could also be the beginning of an id.
            name::find(&format!("{machine}@latest"), &all.manifests)?;
            all.manifests.iter().filter(|manifest| manifest.machine == *machine).collect()
        }
    };
    context.terminal.json(&Answer {
        backups: shown.iter().map(|manifest| BackupAnswer::of(manifest)).collect(),
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

fn table(manifests: &[&Manifest]) -> Table {
    let mut table = Table::new([
        Column::text("ID"),
        Column::text("BACKUP"),
        Column::text("LEVEL").spare(),
        Column::number("SIZE").spare(),
        Column::number("STORED").spare(),
    ]);
    for manifest in manifests {
        let mark = if manifest.warnings.is_empty() { "" } else { " !" };
        table.row([
            text::short_id(manifest.backup),
            text::backup_name(manifest) + mark,
            manifest.capture.level.clone(),
            text::bytes(manifest.statistics.size),
            text::bytes(manifest.statistics.stored.unwrap_or(0)),
        ]);
    }
    table
}
