//! `abbild check --scrub`: is every stored byte still what was written? Asks for no key.

use super::exit::Exit;
use super::place::Place;
use super::progress::Progress;
use super::{Context, text};
use crate::ops::scrub::{ScrubOptions, ScrubReport, scrub};
use crate::repo::parity::Share;

/// What `check` takes for a scrub.
#[derive(Debug, Default, clap::Args)]
pub struct ScrubArguments {
    /// Compare every stored byte with its checksums; needs no key
    #[arg(long, conflicts_with_all = ["read_data", "older_than", "from"])]
    scrub: bool,
    /// Have a recovery record of this share of its length made for every pack, present and future
    #[arg(long, value_name = "N%", requires_all = ["scrub", "repair"])]
    parity: Option<Share>,
}

impl ScrubArguments {
    /// Whether a scrub is asked for.
    pub fn is_wanted(&self) -> bool {
        self.scrub
    }
}

pub fn run(arguments: &ScrubArguments, repair: bool, context: &Context<'_>) -> anyhow::Result<Exit> {
    let store = Place::of(context)?.store()?;
    let progress = Progress::new(context.terminal, "");
    let options = ScrubOptions { repair, parity: arguments.parity };
    let report = scrub(store.as_ref(), options, progress.control())?;
    progress.finish(&report.warnings);
    report.notes.iter().for_each(|note| context.terminal.detail(&format!("note: {note}")));
    context.terminal.json(&report)?;
    let text = as_text(&report);
    if report.damage.is_empty() {
        context.terminal.done(&text)?;
    } else {
        context.terminal.result(&text)?;
    }
    let unrepaired = report.unrepaired();
    if unrepaired == 0 {
        return Ok(Exit::done_with(!(report.damage.is_empty() && report.warnings.is_empty())));
    }
    let hint = match (repair, report.recovery_records) {
        (false, 1..) => "make whole what can be: abbild check --scrub --repair",
        _ => "see which backups it hits, with the key: abbild check --read-data",
    };
    let message = format!("the store is damaged: {}", text::counted(unrepaired, "object"));
    context.terminal.error(&message, &[], Some(hint));
    Ok(Exit::Damaged)
}

fn as_text(report: &ScrubReport) -> String {
    let counted = |count: u64, what: &str| text::counted(usize::try_from(count).unwrap_or(usize::MAX), what);
    let mut lines = Vec::new();
    for damage in &report.damage {
        match (&damage.repaired, &damage.why_not) {
            (Some(repaired), _) => lines.push(format!("repaired: {}: {}: {repaired}", damage.what, damage.message)),
            (None, Some(why)) => {
                lines.push(format!("damaged: {}: {}; cannot be repaired: {why}", damage.what, damage.message))
            }
            (None, None) => lines.push(format!("damaged: {}: {}", damage.what, damage.message)),
        }
    }
    let verdict = match (report.damage.len(), report.unrepaired()) {
        (0, _) => "no damage found".to_owned(),
        (found, 0) => format!("{} found, all repaired", text::counted(found, "damaged object")),
        (found, left) => format!("{} found, {left} not repaired", text::counted(found, "damaged object")),
    };
    let read = format!("{} in {} read", text::bytes(report.bytes), counted(report.objects, "object"));
    lines.push(format!("{verdict}: {read}, {} among them", counted(report.packs, "pack")));
    lines.push(match (report.parity, report.recovery_records) {
        (None, 0) => {
            "no parity: damaged packs could not be made whole (turn it on with --repair --parity 5%)".to_owned()
        }
        (share, records) => {
            let made = match report.records_made {
                0 => String::new(),
                made => format!(", {made} of them made now"),
            };
            let share = share.map_or("parity is off".to_owned(), |share| format!("parity of {share}"));
            let bytes = text::bytes(report.recovery_bytes);
            format!(
                "{share}: {} ({bytes}){made}; packs without one: {}",
                counted(records, "recovery record"),
                report.packs_without_record
            )
        }
    });
    lines.push(String::new());
    lines.join("\n")
}
