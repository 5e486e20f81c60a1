//! `abbild check`: is every backup still whole?

use std::str::FromStr;

use super::exit::Exit;
use super::progress::Progress;
use super::{Context, place, scrub, text};
use crate::ops::check::{CheckReport, ReadData, check};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --read-data, keys, indexes, pack directories, manifests and disk maps are verified: that finds lost and
exchanged objects. Only reading all data finds every damaged byte.

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
    let report = check(&repository, read_data, progress.control())?;
    progress.finish(&report.warnings);
    report.notes.iter().for_each(|note| context.terminal.detail(&format!("note: {note}")));
    context.terminal.json(&report)?;
    let is_sound = report.faults.is_empty() && report.damaged_backups.is_empty();
    let text = as_text(&report, is_sound);
    if is_sound {
        context.terminal.done(&text)?
    } else {
        context.terminal.result(&text)?
    }
    if !is_sound {
        let hint = (!report.damaged_backups.is_empty())
            .then_some("every other backup can be restored; back up the machines that are hit again, with --full");
        let faults = text::counted(report.faults.len(), "fault");
        let backups = text::counted(report.damaged_backups.len(), "damaged backup");
        context.terminal.error(&format!("the repository is damaged: {faults}, {backups}"), &[], hint);
        return Ok(Exit::Damaged);
    }
    Ok(Exit::done_with(!report.warnings.is_empty()))
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
