//! `abbild stats`: what the repository holds, and what deduplication and compression save.

use super::exit::Exit;
use super::table::{Column, Table};
use super::{Context, place, text};
use crate::ops::statistics::{RepositoryStatistics, statistics};

pub fn run(context: &Context<'_>) -> anyhow::Result<Exit> {
    let repository = place::open(context)?;
    let statistics = statistics(&repository)?;
    context.terminal.json(&statistics)?;
    context.terminal.result(&as_text(&statistics, context))?;
    Ok(Exit::Done)
}

fn as_text(statistics: &RepositoryStatistics, context: &Context<'_>) -> String {
    let backups = text::counted(statistics.backups, "backup");
    let mut text = format!("{backups} of {}\n\n", text::counted(statistics.machines, "machine"));
    for (label, bytes, remark) in [
        ("disks, all backups", statistics.logical, String::new()),
        ("their data", statistics.referred, String::new()),
        ("each chunk once", statistics.unique, ratio(statistics.referred, statistics.unique)),
        ("in the store", statistics.stored_bytes, ratio(statistics.referred, statistics.stored_bytes)),
    ] {
        text.push_str(&format!("{label:<20}{:>10}{remark}\n", text::bytes(bytes)));
    }
    if statistics.machines > 0 {
        let mut table = Table::new([
            Column::text("MACHINE"),
            Column::number("BACKUPS"),
            Column::number("SIZE"),
            Column::number("UNIQUE").spare(),
            Column::number("STORED"),
        ]);
        for (machine, of_machine) in &statistics.by_machine {
            table.row([
                machine.clone(),
                of_machine.backups.to_string(),
                text::bytes(of_machine.size),
                text::bytes(of_machine.unique),
                text::bytes(of_machine.added),
            ]);
        }
        text.push('\n');
        text.push_str(&table.to_text(context.terminal.columns()));
    }
    let mut table = Table::new([Column::text("STORED IN"), Column::number("OBJECTS"), Column::number("SIZE")]);
    for (folder, (objects, bytes)) in &statistics.stored {
        table.row([folder.clone(), objects.to_string(), text::bytes(*bytes)]);
    }
    text.push('\n');
    text.push_str(&table.to_text(context.terminal.columns()));
    text
}

/// `  (4.2 × less)`; nothing where there is nothing to compare.
fn ratio(whole: u64, part: u64) -> String {
    if part == 0 || whole <= part { String::new() } else { format!("  ({:.1} × less)", whole as f64 / part as f64) }
}
