//! `abbild show`: all that is known of one backup.

use std::time::Duration;

use serde_json::json;

use super::exit::Exit;
use super::list::Readable;
use super::table::{Column, Table};
use super::{Context, place, text};
use crate::repo::RepoError;
use crate::repo::manifest::{Consistency, Manifest};
use crate::repo::pins::{Pin, Pins};

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A machine (its newest backup), MACHINE@TIME, MACHINE@latest, or the beginning of an id
    backup: String,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let repository = place::open(context)?;
    let all = Readable::of(&repository, context)?;
    let manifest = all.manifest(&arguments.backup, &repository)?;
    let mut object = serde_json::to_value(&manifest)?;
    object["name"] = json!(text::backup_name(&manifest));
    let pins = Pins::load(repository.store(), repository.keys())?;
    let pin = pins.iter().find(|(backup, _)| *backup == manifest.backup).map(|(_, pin)| pin);
    object["pinned"] = json!(pins.reason(manifest.backup));
    context.terminal.json(&object)?;
    context.terminal.result(&as_text(&manifest, pin, context))?;
    Ok(Exit::Done)
}

fn as_text(manifest: &Manifest, pin: Option<&Result<Pin, RepoError>>, context: &Context<'_>) -> String {
    let costs = &manifest.statistics;
    let mut lines = vec![
        ("backup", manifest.backup.to_string()),
        ("name", text::backup_name(manifest)),
        ("machine", format!("{} ({})", manifest.machine, manifest.identity)),
        ("instant", text::time_with_zone(manifest.instant)),
        ("level", manifest.capture.level.clone()),
        ("capture", format!("{}, {} consistent", manifest.capture.way, consistency(manifest.consistency))),
    ];
    if let Some(taken) = manifest.capture.snapshot_taken {
        lines.push(("snapshot of", text::time_with_zone(taken)));
    }
    if let Some(parent) = manifest.parent {
        lines.push(("built on", text::short_id(parent)));
    }
    if !manifest.tags.is_empty() {
        lines.push(("tags", manifest.tags.join(" ")));
    }
    if let Some(pin) = pin {
        lines.push(("pinned", pinned(pin)));
    }
    if let Some(origin) = &manifest.copied_from {
        let from = format!("backup {} of repository {}", origin.backup, text::short_id(origin.repository));
        lines.push(("copied from", from));
    }
    let took = text::duration(Duration::from_millis(costs.duration_ms));
    lines.extend([
        ("size", text::bytes(costs.size)),
        ("read", format!("{}, and {} as a sample", text::bytes(costs.read), text::bytes(costs.sampled))),
        ("new", format!("{}, stored as {}", text::bytes(costs.new), text::bytes(costs.stored.unwrap_or(0)))),
        ("made", format!("by {} on {} in {took}", manifest.made_by, manifest.host)),
    ]);
    let mut text: String = lines.iter().map(|(key, value)| format!("{key:<12}{value}\n")).collect();
    text.push('\n');
    text.push_str(&disks(manifest).to_text(context.terminal.columns()));
    if !manifest.files.is_empty() {
        let mut table = Table::new([Column::text("FILE"), Column::number("SIZE")]);
        for file in &manifest.files {
            table.row([file.name.clone(), text::bytes(file.len)]);
        }
        text.push('\n');
        text.push_str(&table.to_text(context.terminal.columns()));
    }
    let remarks = manifest.warnings.iter().map(|warning| ("warning", warning));
    let remarks: Vec<String> = remarks
        .chain(manifest.notes.iter().map(|note| ("note", note)))
        .map(|(kind, remark)| format!("{kind}: {remark}\n"))
        .collect();
    if !remarks.is_empty() {
        text.push('\n');
        text.push_str(&remarks.concat());
    }
    text
}

fn pinned(pin: &Result<Pin, RepoError>) -> String {
    match pin {
        Ok(Pin { reason, host, created, .. }) => {
            let by = format!("{} on {host}", text::time_to_the_minute(*created));
            if reason.is_empty() { by } else { format!("{reason} ({by})") }
        }
        Err(error) => format!("yes; the pin is damaged: {error}"),
    }
}

fn disks(manifest: &Manifest) -> Table {
    let mut table = Table::new([
        Column::text("DISK"),
        Column::text("SLOT"),
        Column::number("SIZE"),
        Column::text("IMAGE").spare(),
        Column::text("FORMAT").spare(),
    ]);
    for (number, disk) in manifest.disks.iter().enumerate() {
        table.row([
            number.to_string(),
            disk.slot.clone(),
            text::bytes(disk.size),
            disk.file_name.clone(),
            disk.variant.clone(),
        ]);
    }
    table
}

fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "crash",
        Consistency::Filesystem => "filesystem",
        Consistency::Application => "application",
    }
}
