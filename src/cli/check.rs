//! `abbild check`: is every backup still whole? And `--repair`: what can be made whole again.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use jiff::{Span, Timestamp};

use super::exit::Exit;
use super::failure::Usage;
use super::place::Place;
use super::progress::Progress;
use super::secret::{SecretSource, Variables};
use super::{Context, failure, scrub, text, watch};
use crate::ops::check::{
    BackupLoss, CheckReport, DiskLoss, Fault, Part, ReadData, Repair, Repaired, Share, Verified, check_and_repair,
};
use crate::repo::Repository;
use crate::repo::keys::Secret;

/// Ranges of a disk that are printed; `--json` has more.
const RANGES_SHOWN: usize = 8;
/// Damaged backups that are printed with all they miss.
const BACKUPS_SHOWN: usize = 20;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --read-data, keys, indexes, pack directories, manifests and disk maps are verified: that finds lost and
exchanged objects. Only reading all data finds every damaged byte. When each pack was read whole last is remembered on
this host, so --read-data=10G every night comes round by itself: what was never read goes first, then what was read
longest ago.

--repair deletes nothing. What is sound in damaged packs is written anew, what is damaged is moved to the folder
quarantine in the repository, and what can be made anew (copies, index segments) is. It may run beside backups. With
--from, what is lost is taken from a second repository, whatever its keys, if its backups of the same machine have the
same bytes in the same place. Its key comes from the first of --from-key-file, --from-password-file,
--from-password-command and the variables ABBILD_FROM_PASSWORD_FILE, ABBILD_FROM_PASSWORD_COMMAND and
ABBILD_FROM_PASSWORD; if none is given, the key of the first repository is tried.

This host remembers which backups it saw. If the store went back to an earlier state, or backups are gone that nobody
forgot, that is a fault (exit code 13), until --accept-store says that it is all right.

With --scrub every stored byte is compared with its checksums instead, which needs neither key nor password: the host that
keeps the store can do it. With --repair it makes damaged packs whole from their recovery records.")]
pub struct Arguments {
    /// Also read the data of all packs, or of this share of them, by number or size
    #[arg(long, value_name = "N%|SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    read_data: Option<Amount>,
    /// Read only data that was not verified for so long (30d, 12h)
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Span>,
    #[command(flatten)]
    scrub: scrub::ScrubArguments,
    /// Repair what can be repaired; nothing is deleted
    #[arg(long)]
    repair: bool,
    /// Take the store as it is now for the right one, whatever this host remembers of it: after it was restored from a copy
    #[arg(long, conflicts_with = "scrub")]
    accept_store: bool,
    /// Folder of a second repository to take from what is lost
    #[arg(long, value_name = "REPO", requires = "repair", value_hint = clap::ValueHint::DirPath)]
    from: Option<PathBuf>,
    /// Key file that opens the second repository
    #[arg(long, value_name = "FILE", env = "ABBILD_FROM_KEY_FILE", hide_env_values = true)]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    from_key_file: Option<PathBuf>,
    /// File whose first line is the passphrase of the second repository
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "from_key_file")]
    from_password_file: Option<PathBuf>,
    /// Shell command that prints the passphrase of the second repository
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["from_key_file", "from_password_file"])]
    from_password_command: Option<String>,
}

const VARIABLES: Variables = Variables {
    file: "ABBILD_FROM_PASSWORD_FILE",
    command: "ABBILD_FROM_PASSWORD_COMMAND",
    password: "ABBILD_FROM_PASSWORD",
};

/// How much data to read.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Amount(Share);

impl FromStr for Amount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Amount, &'static str> {
        const EXPECTED: &str = "expected a percentage above 0 and up to 100, such as 5%, or a size such as 10G";
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" => {
                let percent: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
                let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
                return percent.map(|percent| Amount(Share::Percent(percent))).ok_or(EXPECTED);
            }
            "k" | "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return Err(EXPECTED),
        };
        let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
        let number: Option<u64> = digits.parse().ok().filter(|number| is_number && *number > 0);
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes.map(|bytes| Amount(Share::Bytes(bytes))).ok_or(EXPECTED)
    }
}

fn age(text: &str) -> Result<Span, String> {
    let expected = || "expected an age such as 30d, 12h or 2w".to_owned();
    let span: Span = text.parse().map_err(|_| expected())?;
    if span.is_negative() || span.is_zero() { Err(expected()) } else { Ok(span) }
}

impl Arguments {
    fn read_data(&self, now: Timestamp) -> anyhow::Result<ReadData> {
        let not_since = match &self.older_than {
            None => None,
            Some(age) => {
                let zoned = now.to_zoned(jiff::tz::TimeZone::system());
                let limit = zoned.checked_sub(*age);
                let limit = limit.map_err(|_| Usage::new("--older-than: that is before all time", "name less"))?;
                Some(limit.timestamp().as_second())
            }
        };
        Ok(match (self.read_data, not_since) {
            (None, None) => ReadData::Nothing,
            (share, not_since) => {
                let Amount(share) = share.unwrap_or(Amount(Share::Percent(100.0)));
                ReadData::Part(Part { share, not_since })
            }
        })
    }

    /// The second repository, if one is named.
    fn second(&self, context: &Context<'_>, first: &Place, key: &Secret) -> anyhow::Result<Option<Arc<Repository>>> {
        let Some(folder) = &self.from else { return Ok(None) };
        let place = Place::named(folder)?;
        let real = |folder: &std::path::Path| folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        if real(&place.folder) == real(&first.folder) {
            let message = format!("{} is the repository that is to be repaired", place.shown());
            return Err(Usage::new(message, "name another repository with --from").into());
        }
        let source = if let Some(file) = &self.from_password_file {
            SecretSource::PasswordFile(file.clone())
        } else if let Some(command) = &self.from_password_command {
            SecretSource::PasswordCommand { command: command.clone(), named: "--from-password-command" }
        } else {
            let key_file = self.from_key_file.as_deref().filter(|path| !path.as_os_str().is_empty());
            SecretSource::choose(key_file, &VARIABLES)
        };
        place.open_beside(context, &source, key).map(Some)
    }
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    if arguments.scrub.is_wanted() {
        return scrub::run(&arguments.scrub, arguments.repair, context);
    }
    let read_data = arguments.read_data(Timestamp::now())?;
    let place = Place::of(context)?;
    let (repository, key) = place.open(context)?;
    let second = arguments.second(context, &place, &key)?;
    let repair = if arguments.repair { Repair::All { from: second.as_ref() } } else { Repair::Nothing };
    let progress = Progress::new(context.terminal, "");
    let outcome = check_and_repair(&repository, read_data, repair, progress.control());
    progress.finish(outcome.iter().flat_map(|report| &report.warnings));
    let mut report =
        outcome.map_err(|error| failure::of_work(error, "nothing is lost: run it again, it goes on from here"))?;
    report.notes.iter().for_each(|note| context.terminal.detail(&format!("note: {note}")));
    let alarm = look_back(&repository, arguments, context)?;
    report.faults.extend(alarm.iter().map(|line| Fault {
        what: "store".to_owned(),
        message: line.clone(),
        remedy: "left alone: only you can tell whether that is all right".to_owned(),
        repaired: false,
    }));
    context.terminal.json(&report)?;
    let text = as_text(&report);
    if report.is_sound() && report.faults.is_empty() {
        context.terminal.done(&text)?;
        return Ok(Exit::done_with(!report.warnings.is_empty()));
    }
    context.terminal.result(&text)?;
    if report.is_sound() {
        return Ok(Exit::done_with(!report.warnings.is_empty()));
    }
    let (message, mut hint) = verdict(&report, arguments);
    if !alarm.is_empty() {
        hint = format!("{hint}\n{}", watch::HINT);
    }
    context.terminal.error(&message, &[], Some(&hint));
    Ok(Exit::Damaged)
}

/// Compares the store with what this host remembers; what is wrong, as lines.
fn look_back(repository: &Repository, arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Vec<String>> {
    let briefs = repository.briefs(&mut |_, _| {})?;
    if arguments.accept_store {
        watch::accept(repository, &briefs)?;
    }
    Ok(watch::look(repository, &briefs, context))
}

/// What is wrong, in one line, and what to do.
fn verdict(report: &CheckReport, arguments: &Arguments) -> (String, String) {
    let faults = text::counted(report.faults.iter().filter(|fault| !fault.repaired).count(), "fault");
    let backups = text::counted(report.damaged_backups.len(), "damaged backup");
    if !arguments.repair {
        let message = format!("the repository is damaged: {faults}, {backups}");
        return (
            message,
            "save what can be saved, and put the rest aside; nothing is deleted: abbild check --repair".to_owned(),
        );
    }
    let message = format!("not all could be repaired: {faults}, {backups}");
    let mut hint =
        "every other backup can be restored; back up the machines that are hit again: what is lost and still the \
                    same on them makes these backups whole"
            .to_owned();
    if arguments.from.is_none() {
        hint.push_str("\nif there is a second repository: abbild check --repair --from REPO");
    }
    (message, hint)
}

fn as_text(report: &CheckReport) -> String {
    let mut text = String::new();
    for fault in &report.faults {
        let state = if fault.repaired { "repaired" } else { "fault" };
        let remedy = if report.repair.is_some() || fault.remedy.starts_with("left alone") {
            fault.remedy.clone()
        } else {
            format!("with --repair: {}", fault.remedy)
        };
        // Most messages begin with the object that they are about.
        let message = fault.message.strip_prefix(&format!("{}: ", fault.what)).unwrap_or(&fault.message);
        text.push_str(&format!("{state}: {}: {message}\n  {remedy}\n", fault.what));
    }
    for loss in report.losses.iter().rev().take(BACKUPS_SHOWN) {
        text.push_str(&loss_text(loss));
    }
    if report.losses.len() > BACKUPS_SHOWN {
        text.push_str(&format!(
            "and {} earlier damaged backups; --json lists them all\n",
            report.losses.len() - BACKUPS_SHOWN
        ));
    }
    if let Some(repaired) = &report.repair {
        text.push_str(&repair_text(repaired));
    }
    if let Some((objects, bytes)) = report.quarantine {
        let objects = text::counted(objects, "object");
        text.push_str(&format!("in quarantine, until somebody removes it: {objects} ({})\n", text::bytes(bytes)));
    }
    let verdict = match (report.is_sound(), report.faults.is_empty()) {
        (true, true) => "no fault found",
        (true, false) => "everything was repaired",
        (false, _) => "faults found",
    };
    let read = match report.packs_read {
        0 => "no data read".to_owned(),
        packs => format!("{} of data in {} read", text::bytes(report.bytes_read), text::counted(packs, "pack")),
    };
    let packs = text::counted(report.packs, "pack");
    text.push_str(&format!("{verdict}: {}, {packs}, {read}\n", text::counted(report.backups, "backup")));
    text.push_str(&verified_text(&report.verified));
    text
}

fn verified_text(verified: &Verified) -> String {
    let Some(oldest) = verified.oldest else { return String::new() };
    let since = text::time_to_the_minute(oldest);
    if verified.bytes == verified.all_bytes {
        return format!("all {} of data were verified on this host since {since}\n", text::bytes(verified.bytes));
    }
    format!(
        "{} of {} of data were verified on this host since {since}; {} never were\n",
        text::bytes(verified.bytes),
        text::bytes(verified.all_bytes),
        text::bytes(verified.all_bytes - verified.bytes)
    )
}

fn repair_text(repaired: &Repaired) -> String {
    let mut text = String::new();
    let mut line = |is_worth_it: bool, line: String| {
        if is_worth_it {
            text.push_str(&line);
            text.push('\n');
        }
    };
    let count = |count: u64, what| text::counted(usize::try_from(count).unwrap_or(usize::MAX), what);
    line(
        repaired.healed_in_place > 0,
        format!("made whole by recovery records: {}", text::counted(repaired.healed_in_place, "pack")),
    );
    for (what, amount) in [
        ("sound in damaged packs, written anew", repaired.rescued),
        ("lost, taken from the second repository", repaired.healed),
    ] {
        let amounts = format!("{}, {}", count(amount.chunks, "chunk"), text::bytes(amount.bytes));
        line(amount.chunks > 0, format!("{what}: {amounts}"));
    }
    line(repaired.quarantined > 0, format!("moved to quarantine: {}", text::counted(repaired.quarantined, "object")));
    for backup in &repaired.whole_again {
        line(true, format!("whole again: {backup}"));
    }
    text
}

fn loss_text(loss: &BackupLoss) -> String {
    let name = match (&loss.machine, loss.instant) {
        (Some(machine), Some(instant)) => {
            format!("{machine}@{} ({})", text::time(instant), text::short_id(loss.backup))
        }
        _ => format!("{}: its manifest cannot be read", loss.backup),
    };
    let mut text = format!("damaged backup: {name}\n");
    if loss.repairable {
        text.push_str("  nothing is lost: --repair makes it whole\n");
    }
    for file in &loss.definition_files {
        text.push_str(&format!("  definition file {file}\n"));
    }
    loss.disks.iter().filter(|disk| disk.lost_bytes > 0).for_each(|disk| text.push_str(&disk_text(disk)));
    text
}

fn disk_text(disk: &DiskLoss) -> String {
    let (lost, size) = (text::bytes(disk.lost_bytes), text::bytes(disk.size));
    let mut text = format!("  disk {}: {lost} of {size} are lost\n", disk.slot);
    for (at, len) in disk.ranges.iter().take(RANGES_SHOWN) {
        text.push_str(&format!("    bytes {at} to {} ({})\n", at + len - 1, text::bytes(*len)));
    }
    let more = disk.ranges.len().saturating_sub(RANGES_SHOWN) + disk.more_ranges;
    if more > 0 {
        text.push_str(&format!("    and {} more\n", text::counted(more, "range")));
    }
    let Some(guest) = &disk.guest else { return text };
    for file in &guest.files {
        text.push_str(&format!("    hit: {}\n", text::printable_name(file)));
    }
    if guest.more_files > 0 {
        text.push_str(&format!("    and {} more files\n", guest.more_files));
    }
    for place in &guest.unknown {
        text.push_str(&format!("    cannot be looked into: {}\n", text::printable_name(place)));
    }
    if guest.files.is_empty() && guest.unknown.is_empty() {
        text.push_str("    no file that can be seen lies there\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        use Share::{Bytes, Percent};
        for (text, expected) in [
            ("5%", Percent(5.0)),
            ("100", Percent(100.0)),
            ("0.5%", Percent(0.5)),
            ("1G", Bytes(1 << 30)),
            ("512KiB", Bytes(512 << 10)),
            ("2T", Bytes(2 << 40)),
        ] {
            assert_eq!(text.parse(), Ok(Amount(expected)), "{text}");
        }
        for bad in
            ["", "%", "0", "-1", "101%", "NaN", "inf", "5%%", "0G", "1X", "G", "-1G", "+1G", "99999999T", "1.5G", "1%G"]
        {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ages() {
        for good in ["30d", "12h", "2w", "1mo"] {
            assert!(age(good).is_ok(), "{good}");
        }
        for bad in ["", "-1d", "0d", "30", "soon"] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_read() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let read = |read_data, older_than: Option<&str>| {
            let older_than = older_than.map(|text| age(text).unwrap());
            let arguments = Arguments {
                read_data,
                older_than,
                scrub: scrub::ScrubArguments::default(),
                repair: false,
                accept_store: false,
                from: None,
                from_key_file: None,
                from_password_file: None,
                from_password_command: None,
            };
            arguments.read_data(now).unwrap()
        };
        assert_eq!(read(None, None), ReadData::Nothing);
        let hour_ago = Some(now.as_second() - 3600);
        let all = Share::Percent(100.0);
        assert_eq!(read(None, Some("1h")), ReadData::Part(Part { share: all, not_since: hour_ago }));
        let share = Share::Bytes(7);
        assert_eq!(read(Some(Amount(share)), None), ReadData::Part(Part { share, not_since: None }));
        assert_eq!(read(Some(Amount(share)), Some("1h")), ReadData::Part(Part { share, not_since: hour_ago }));
    }
}
