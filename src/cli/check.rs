//! `abbild check`: is every backup still whole?

use std::str::FromStr;

use super::exit::Exit;
use super::progress::Progress;
use super::{Context, place, scrub, text, watch};
use crate::ops::check::{CheckReport, Fault, ReadData, check};
use crate::repo::Repository;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --read-data, keys, indexes, pack directories, manifests and disk maps are verified: that finds lost and
exchanged objects. Only reading all data finds every damaged byte.

This host remembers which backups it saw. If the store went back to an earlier state, or backups are gone that nobody
forgot, that is a fault (exit code 13), until --accept-store says that it is all right.

With --scrub every stored byte is compared with its checksums instead, which needs neither key nor password: the host that
keeps the store can do it. With --repair it makes damaged packs whole from their recovery records.")]
pub struct Arguments {
    /// Also read the data of all packs, or of this share of them, drawn at random
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    read_data: Option<Share>,
    #[command(flatten)]
    scrub: scrub::ScrubArguments,
    /// Repair what can be repaired
    #[arg(long, requires = "scrub")]
    repair: bool,
    /// Take the store as it is now for the right one, whatever this host remembers of it: after it was restored from a copy
    #[arg(long, conflicts_with = "scrub")]
    accept_store: bool,
}

/// A share of the packs, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Share(f64);

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Share, &'static str> {
        let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
        number
            .filter(|percent| *percent > 0.0 && *percent <= 100.0)
            .map(Share)
            .ok_or("expected a percentage above 0 and up to 100, such as 5%")
    }
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    if arguments.scrub.is_wanted() {
        return scrub::run(&arguments.scrub, arguments.repair, context);
    }
    let repository = place::open(context)?;
    let read_data = arguments.read_data.map_or(ReadData::Nothing, |Share(percent)| ReadData::Percent(percent));
    let progress = Progress::new(context.terminal, "");
    let mut report = check(&repository, read_data, progress.control())?;
    progress.finish(&report.warnings);
    report.notes.iter().for_each(|note| context.terminal.detail(&format!("note: {note}")));
    let alarm = look_back(&repository, arguments, context)?;
    let faults = alarm.iter().map(|line| Fault { what: "store".to_owned(), message: line.clone() });
    report.faults.extend(faults);
    context.terminal.json(&report)?;
    let is_sound = report.faults.is_empty() && report.damaged_backups.is_empty();
    let text = as_text(&report, is_sound);
    if is_sound {
        context.terminal.done(&text)?
    } else {
        context.terminal.result(&text)?
    }
    if !is_sound {
        let damaged = "every other backup can be restored; back up the machines that are hit again, with --full";
        let hints = [(!report.damaged_backups.is_empty(), damaged), (!alarm.is_empty(), watch::HINT)];
        let hints: Vec<&str> = hints.iter().filter(|(applies, _)| *applies).map(|(_, hint)| *hint).collect();
        let hint = (!hints.is_empty()).then(|| hints.join("\n"));
        let faults = text::counted(report.faults.len(), "fault");
        let backups = text::counted(report.damaged_backups.len(), "damaged backup");
        context.terminal.error(&format!("the repository is damaged: {faults}, {backups}"), &[], hint.as_deref());
        return Ok(Exit::Damaged);
    }
    Ok(Exit::done_with(!report.warnings.is_empty()))
}

/// Compares the store with what this host remembers; what is wrong, as lines.
fn look_back(repository: &Repository, arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Vec<String>> {
    let briefs = repository.briefs(&mut |_, _| {})?;
    if arguments.accept_store {
        watch::accept(repository, &briefs)?;
    }
    Ok(watch::look(repository, &briefs, context))
}

fn as_text(report: &CheckReport, is_sound: bool) -> String {
    let mut text = String::new();
    for fault in &report.faults {
        text.push_str(&format!("fault: {}: {}\n", fault.what, fault.message));
    }
    for backup in &report.damaged_backups {
        text.push_str(&format!("damaged backup: {backup}\n"));
    }
    let verdict = if is_sound { "no fault found" } else { "faults found" };
    let read = match report.packs_read {
        0 => "no data read".to_owned(),
        packs => format!("{} of data in {} read", text::bytes(report.bytes_read), text::counted(packs, "pack")),
    };
    let packs = text::counted(report.packs, "pack");
    text.push_str(&format!("{verdict}: {}, {packs}, {read}\n", text::counted(report.backups, "backup")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, expected) in [("5%", Some(5.0)), ("100", Some(100.0)), ("0.5%", Some(0.5))] {
            assert_eq!(text.parse::<Share>().ok().map(|share| share.0), expected, "{text}");
        }
        for bad in ["", "%", "0", "-1", "101%", "NaN", "inf", "5%%"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
