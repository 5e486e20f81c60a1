//! `abbild stats`: what the repository holds, what each machine and backup costs there, how it grows, when it is full.

use super::exit::Exit;
use super::list::Readable;
use super::progress::Progress;
use super::space::{self, SpaceOptions};
use super::table::{Column, Table};
use super::{Context, place, text};
use crate::ops::statistics::{Growth, RepositoryStatistics, StatisticsOptions, statistics};
use crate::repo::name;

/// Arguments of `stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SIZE is what the guest sees, DATA what of it is not zeros. UNIQUE is what would leave the store if the machine's backups, or
that backup alone, were forgotten and pruned; SHARED, what of the data is in other backups, too, or more than once in this
one. ADDED is what the backups added to the store when they were made.

The rate is what the backups of the last four weeks added that are still there, without the first one of each machine;
what prunes give back is not counted.")]
pub struct Arguments {
    /// Also show each backup of this machine
    machine: Option<String>,
    #[command(flatten)]
    space: SpaceOptions,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let repository = place::open(context)?;
    let all = Readable::of(&repository, context)?;
    if let Some(machine) = &arguments.machine {
        name::find(&format!("{machine}@latest"), &all.briefs)?;
    }
    let progress = Progress::new(context.terminal, "");
    let machine = arguments.machine.as_deref();
    let options = StatisticsOptions::new(machine, &arguments.space.thresholds);
    let gathered = statistics(&repository, &all.briefs, &options, progress.control());
    progress.finish([]);
    let statistics = gathered?;
    context.terminal.json(&statistics)?;
    context.terminal.result(&as_text(&statistics, context))?;
    if statistics.missing_chunks > 0 {
        let missing = text::counted(usize::try_from(statistics.missing_chunks).unwrap_or(usize::MAX), "chunk");
        context.terminal.warn(&format!("{missing} that backups need are missing: see abbild check"));
    }
    let is_urgent = space::warn(statistics.space, context);
    if statistics.missing_chunks > 0 || !all.unreadable.is_empty() {
        return Ok(Exit::Damaged);
    }
    Ok(Exit::done_with(is_urgent))
}

fn as_text(statistics: &RepositoryStatistics, context: &Context<'_>) -> String {
    let backups = text::counted(statistics.backups, "backup");
    let mut text = format!("{backups} of {}\n\n", text::counted(statistics.machines, "machine"));
    for (label, bytes, remark) in [
        ("disks, all backups", statistics.logical, String::new()),
        ("their data", statistics.data, String::new()),
        ("each chunk once", statistics.distinct, ratio(statistics.data, statistics.distinct)),
        ("compressed", statistics.compressed, ratio(statistics.data, statistics.compressed)),
        ("in the store", statistics.stored_bytes, ratio(statistics.data, statistics.stored_bytes)),
        ("of no use in packs", statistics.unneeded, String::new()),
    ] {
        text.push_str(&format!("{label:<20}{:>10}{remark}\n", text::bytes(bytes)));
    }
    if let Some(left) = statistics.space {
        let remark = format!("  ({:.0} % of {})", left.free_percent, text::bytes(left.size));
        text.push_str(&format!("{:<20}{:>10}{remark}\n", "free there", text::bytes(left.free)));
    }
    text.push_str(&format!("{:<20}{}\n", "grows", pace(statistics)));
    let columns = context.terminal.columns();
    for table in [machines(statistics), backups_of(statistics), weeks(&statistics.growth), folders(statistics)] {
        if !table.is_empty() {
            text.push('\n');
            text.push_str(&table.to_text(columns));
        }
    }
    text
}

fn pace(statistics: &RepositoryStatistics) -> String {
    let Some(rate) = statistics.growth.bytes_per_day else {
        return "not enough history to say how fast: two weeks are needed".to_owned();
    };
    let rate = format!("{} a day", text::bytes(rate));
    match statistics.days_left {
        Some(days) => format!(
            "{rate}; full in {} if nothing is pruned",
            text::counted(usize::try_from(days).unwrap_or(usize::MAX), "day")
        ),
        None => rate,
    }
}

fn machines(statistics: &RepositoryStatistics) -> Table {
    let mut table = Table::new([
        Column::text("MACHINE"),
        Column::number("BACKUPS"),
        Column::number("SIZE"),
        Column::number("DATA").spare(),
        Column::number("UNIQUE"),
        Column::number("ADDED").spare(),
    ]);
    for (machine, of_machine) in &statistics.by_machine {
        table.row([
            machine.clone(),
            of_machine.backups.to_string(),
            text::bytes(of_machine.size),
            text::bytes(of_machine.data),
            text::bytes(of_machine.unique),
            text::bytes(of_machine.added),
        ]);
    }
    table
}

fn backups_of(statistics: &RepositoryStatistics) -> Table {
    let mut table = Table::new([
        Column::text("ID"),
        Column::text("TIME"),
        Column::number("SIZE"),
        Column::number("DATA").spare(),
        Column::number("UNIQUE"),
        Column::number("SHARED"),
        Column::number("ADDED").spare(),
    ]);
    for backup in &statistics.by_backup {
        table.row([
            text::short_id(backup.backup),
            text::time_to_the_minute(backup.instant),
            text::bytes(backup.size),
            text::bytes(backup.data),
            text::bytes(backup.unique),
            text::bytes(backup.shared),
            text::bytes(backup.added),
        ]);
    }
    table
}

fn weeks(growth: &Growth) -> Table {
    let mut table = Table::new([Column::text("WEEK"), Column::number("BACKUPS"), Column::number("ADDED")]);
    for week in &growth.weeks {
        table.row([week.week.clone(), week.backups.to_string(), text::bytes(week.stored)]);
    }
    table
}

fn folders(statistics: &RepositoryStatistics) -> Table {
    let mut table = Table::new([Column::text("STORED IN"), Column::number("OBJECTS"), Column::number("SIZE")]);
    for (folder, (objects, bytes)) in &statistics.stored {
        table.row([folder.clone(), objects.to_string(), text::bytes(*bytes)]);
    }
    table
}

/// `  (4.2 × less)`; nothing where there is nothing to compare.
fn ratio(whole: u64, part: u64) -> String {
    if part == 0 || whole <= part { String::new() } else { format!("  ({:.1} × less)", whole as f64 / part as f64) }
}
