//! `abbild prune`: gives back the space that nothing needs.

use std::str::FromStr;

use jiff::Timestamp;

use super::exit::Exit;
use super::progress::Progress;
use super::{Context, failure, place, text, watch};
use crate::ops::prune::{Amount, PruneOptions, PruneReport, prune};
use crate::repo::Repository;

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Other runs may go on meanwhile, on this host and on others. What nothing needs is first moved to the trash; it is deleted
once every run has ended that was at work then: at once if there is none, else by a later prune. Forgotten backups cannot
be brought back after that. The small packs that many small runs leave are merged into longer ones.

If the store went back to an earlier state, or backups are gone that nobody forgot, nothing is pruned: see abbild check.")]
pub struct Arguments {
    /// Leave at most this share of waste in the packs that stay
    #[arg(long, value_name = "N%", default_value = "5%")]
    max_unused: Percent,
    /// Show what would be freed, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Percent(f64);

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Percent, &'static str> {
        let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
        number
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(Percent)
            .ok_or("expected a percentage from 0 to 100, such as 5%")
    }
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let repository = place::open(context)?;
    refuse_if_gone_back(&repository, arguments, context)?;
    if !arguments.dry_run && context.terminal.verbose {
        context.terminal.detail(&as_text(&work(&repository, arguments, context, true)?));
    }
    let report = work(&repository, arguments, context, arguments.dry_run)?;
    context.terminal.json(&report)?;
    context.terminal.done(&as_text(&report))?;
    if !arguments.dry_run {
        watch::warn_afterwards(&repository, context);
    }
    Ok(match report.missing_chunks {
        0 => Exit::done_with(!report.warnings.is_empty()),
        _ => Exit::Damaged,
    })
}

/// What backups need that vanished looks like waste. If the store is put right again, it must still be there.
fn refuse_if_gone_back(repository: &Repository, arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<()> {
    let alarm = watch::look(repository, &repository.briefs(&mut |_, _| {})?, context);
    alarm.iter().for_each(|line| context.terminal.warn(line));
    match alarm.is_empty() || arguments.dry_run {
        true => Ok(()),
        false => Err(failure::StoreWentBack.into()),
    }
}

fn work(
    repository: &Repository,
    arguments: &Arguments,
    context: &Context<'_>,
    dry_run: bool,
) -> anyhow::Result<PruneReport> {
    let options = PruneOptions { max_unused_percent: arguments.max_unused.0, dry_run, now: Timestamp::now() };
    let progress = Progress::new(context.terminal, "");
    let outcome = prune(repository, &options, progress.control());
    progress.finish(outcome.iter().flat_map(|report| &report.warnings));
    outcome.map_err(|error| failure::of_work(error, "nothing is lost: the next prune goes on from here"))
}

fn as_text(report: &PruneReport) -> String {
    let amount = |amount: &Amount| {
        format!(
            "{} ({})",
            text::counted(usize::try_from(amount.objects).unwrap_or(usize::MAX), "pack"),
            text::bytes(amount.bytes)
        )
    };
    let would = if report.dry_run { "would be " } else { "" };
    let mut text = format!("{}, {} in use\n", text::counted(report.backups, "backup"), amount(&report.packs));
    let mut line = |is_worth_it: bool, line: String| {
        if is_worth_it {
            text.push_str(&line);
            text.push('\n');
        }
    };
    line(report.unneeded.objects > 0, format!("needed by nothing: {}", amount(&report.unneeded)));
    line(
        report.repacked.objects > 0,
        format!(
            "{would}written anew: {}; {} of waste stay",
            amount(&report.repacked),
            text::bytes(report.unused_bytes)
        ),
    );
    line(report.merged.objects > 0, format!("{would}merged, being small: {}", amount(&report.merged)));
    line(report.written.bytes > 0, format!("{would}written for that: {}", text::bytes(report.written.bytes)));
    line(
        report.revived > 0,
        format!(
            "needed after all, out of the trash: {}",
            text::counted(usize::try_from(report.revived).unwrap_or(usize::MAX), "pack")
        ),
    );
    line(report.left.objects > 0, format!("left for a run that may be at work: {}", amount(&report.left)));
    line(report.waiting.objects > 0, format!("in the trash until others are done: {}", amount(&report.waiting)));
    for who in &report.at_work {
        line(true, format!("  at work: {who}"));
    }
    for who in &report.expired {
        line(true, format!("  taken for dead: {who}"));
    }
    line(
        report.unfinished.objects > 0,
        format!("left unfinished by runs that died: {}", text::bytes(report.unfinished.bytes)),
    );
    line(true, format!("{would}freed: {}", text::bytes(freed(report))));
    text
}

/// What was deleted, recovery records included, less what was written for it.
fn freed(report: &PruneReport) -> u64 {
    (report.deleted.bytes + report.unfinished.bytes + report.recovery_records.bytes)
        .saturating_sub(report.written.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        for (text, expected) in [("5%", Some(5.0)), ("0", Some(0.0)), ("100%", Some(100.0)), ("0.5", Some(0.5))] {
            assert_eq!(text.parse::<Percent>().ok().map(|percent| percent.0), expected, "{text}");
        }
        for bad in ["", "%", "-1", "101%", "NaN", "inf", "5%%"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }
}
