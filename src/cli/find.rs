//! `abbild find`: files in guests by name, kind, size, time and owner, told as they are found.

use std::ffi::OsString;

use anyhow::Context as _;
use clap::ValueEnum;

use super::exit::Exit;
use super::failure::{Interrupted, Usage};
use super::guests::{Guests, ImageOptions, NAMES_HELP, NodeAnswer, Outcome};
use super::output::Output;
use super::{Context, interrupt, text};
use crate::guest::path::LastLink;
use crate::guest::tree::{NodeKind, Time};
use crate::ops::Control;
use crate::ops::event::Silent;
use crate::ops::files::FilesError;
use crate::ops::files::find::{Query, SizeTest};
use crate::ops::files::found::Found;
use crate::ops::files::glob::Glob;
use crate::ops::files::listing::{Step, Way, walk};
use crate::ops::files::owners::Owners;

/// Arguments of `find`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
All tests must hold; of several --name, --path or --type one is enough. Patterns know *, ? and [a-z].

{NAMES_HELP}

Examples:
  abbild find web1@latest:/etc --name '*.conf' --newer 2026-11-01
  abbild find web1@latest: --type f --size +100M"))]
pub struct Arguments {
    /// Folders in guests to look in
    #[arg(required = true, value_name = "BACKUP:PATH")]
    places: Vec<OsString>,
    /// The name fits this pattern
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Glob>,
    /// The same, with A and a alike
    #[arg(long, value_name = "PATTERN")]
    iname: Vec<Glob>,
    /// The path fits this pattern, as it stands behind the backup's name: '/etc/*.conf'
    #[arg(long, value_name = "PATTERN")]
    path: Vec<Glob>,
    /// It is of this kind
    #[arg(long = "type", value_name = "KIND", value_enum, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// It has more (+10M), less (-4k) or just so many bytes
    #[arg(long, value_name = "[+|-]SIZE", allow_hyphen_values = true)]
    size: Vec<SizeTest>,
    /// Its content changed then or later: 2026-11-20, 2026-11-20T02:15, or so long ago: 7d, 12h, 30min
    #[arg(long, value_name = "TIME")]
    newer: Option<String>,
    /// Its content changed before that
    #[arg(long, value_name = "TIME")]
    older: Option<String>,
    /// Its content changed less (-7) or more (+7) than so many days ago
    #[arg(long, value_name = "+|-DAYS", allow_hyphen_values = true)]
    mtime: Option<String>,
    /// It belongs to this user of the guest, by name or number
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Go so many folders down at most
    #[arg(long, value_name = "N")]
    max_depth: Option<usize>,
    /// End each name with a zero byte, and change nothing in it: for xargs -0
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,
    #[command(flatten)]
    images: ImageOptions,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// File with content
    F,
    /// Directory
    D,
    /// Symbolic link
    L,
    /// Block device
    B,
    /// Character device
    C,
    /// Named pipe
    P,
    /// Socket
    S,
}

impl From<Kind> for NodeKind {
    fn from(kind: Kind) -> NodeKind {
        match kind {
            Kind::F => NodeKind::File,
            Kind::D => NodeKind::Directory,
            Kind::L => NodeKind::Symlink,
            Kind::B => NodeKind::BlockDevice,
            Kind::C => NodeKind::CharacterDevice,
            Kind::P => NodeKind::Fifo,
            Kind::S => NodeKind::Socket,
        }
    }
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let query = query(arguments, jiff::Timestamp::now())?;
    let mut guests = Guests::new(context, &arguments.images);
    let mut outcome = Outcome::default();
    let mut output = Output::new();
    for text in &arguments.places {
        let (source, place) = guests.open(text)?;
        let found = source.find(&place, LastLink::Keep)?;
        let less = guests.tell_missing(&found, true);
        outcome.less(less);
        let owners = source.owners(&found);
        let mut query = query.clone();
        if let Some(owner) = &arguments.owner {
            let unknown = || Usage::new(format!("the guest knows no user {owner:?}"), "name the user by its number");
            query.uid = Some(owners.user_number(owner).ok_or_else(unknown)?);
        }
        match search(arguments, &query, &found, &owners, &mut output, context, &mut outcome) {
            Ok(Way::End) => break,
            Ok(_) => {}
            Err(FilesError::Interrupted) => {
                output.finish()?;
                return Err(Interrupted { hint: "not everything was searched" }.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    output.finish()?;
    Ok(outcome.exit())
}

fn search(
    arguments: &Arguments,
    query: &Query,
    found: &Found,
    owners: &Owners,
    output: &mut Output,
    context: &Context<'_>,
    outcome: &mut Outcome,
) -> Result<Way, FilesError> {
    // What stands behind the backup's name and its colon.
    let before = found.place.iter().position(|byte| *byte == b':');
    let inside = found.place.iter().enumerate().skip(before.unwrap_or(0)).find(|(at, _)| is_start(&found.place, *at));
    let base = inside.map_or(&b""[..], |(at, _)| &found.place[at + 1..]);
    let control = Control { events: &Silent, interrupt: interrupt::flag() };
    let mut last = Way::Into;
    walk(found, control, &mut |step| {
        let item = match step {
            Step::Fault(error) => {
                outcome.left_out(context, &error);
                return Ok(Way::Past);
            }
            Step::Leave(_) => return Ok(Way::Into),
            Step::Node(item) => item,
        };
        let way = if arguments.max_depth.is_some_and(|depth| item.depth >= depth) { Way::Past } else { Way::Into };
        let path = [base, item.path].concat();
        let path = if path.is_empty() { b"/".to_vec() } else { path };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if !query.fits(name, &path, item.metadata) {
            return Ok(way);
        }
        let place = found.place_of(item.path);
        let flow = if context.terminal.json {
            let target = match item.metadata.kind {
                NodeKind::Symlink => found.filesystem.read_link(item.node).ok(),
                _ => None,
            };
            output.json(&NodeAnswer::of(&place, item.metadata, owners, target.as_deref()))
        } else if arguments.null {
            output.bytes(&[&place, &b"\0"[..]].concat())
        } else {
            output.bytes(format!("{}\n", text::name(&place)).as_bytes())
        };
        if flow.map_err(FilesError::Stdout)?.is_break() {
            last = Way::End;
            return Ok(Way::End);
        }
        Ok(way)
    })?;
    Ok(last)
}

/// Whether the path inside begins behind the colon at `at`.
fn is_start(place: &[u8], at: usize) -> bool {
    place[at] == b':' && (at + 1 == place.len() || place[at + 1] == b'/')
}

fn query(arguments: &Arguments, now: jiff::Timestamp) -> anyhow::Result<Query> {
    let time = |text: &Option<String>| text.as_deref().map(|text| instant(text, now)).transpose();
    let (mut newer, mut older) = (time(&arguments.newer)?, time(&arguments.older)?);
    if let Some(days) = &arguments.mtime {
        let wrong = || Usage::new(format!("--mtime {days} is no number of days"), "--mtime -7 or --mtime +7");
        let count = days.strip_prefix(['+', '-']).ok_or_else(wrong)?;
        let limit = instant(&format!("{count}d"), now).map_err(|_| wrong())?;
        if days.starts_with('-') {
            newer = newer.max(Some(limit))
        } else {
            older = older.or(Some(limit)).min(Some(limit))
        }
    }
    let names = arguments.name.iter().cloned();
    let names = names.chain(arguments.iname.iter().cloned().map(Glob::ignoring_case)).collect();
    Ok(Query {
        names,
        paths: arguments.path.clone(),
        kinds: arguments.kinds.iter().map(|kind| (*kind).into()).collect(),
        sizes: arguments.size.clone(),
        newer,
        older,
        uid: None,
    })
}

/// A date, a time of this host's zone, or an age.
fn instant(text: &str, now: jiff::Timestamp) -> anyhow::Result<Time> {
    let wrong =
        || Usage::new(format!("{text:?} is no time"), "2026-11-20, 2026-11-20T02:15, or an age: 7d, 12h, 30min");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "d" => Some(86_400),
        "h" => Some(3600),
        "min" => Some(60),
        "w" => Some(7 * 86_400),
        _ => None,
    };
    let instant = match (unit, digits.parse::<u32>()) {
        (Some(seconds), Ok(count)) => {
            let age = jiff::SignedDuration::from_secs(i64::from(count) * seconds);
            now.checked_sub(age).map_err(|_| wrong())?
        }
        _ => {
            let civil: jiff::civil::DateTime = text.replace(' ', "T").parse().map_err(|_| wrong())?;
            civil.to_zoned(jiff::tz::TimeZone::system()).context("beyond the calendar")?.timestamp()
        }
    };
    let (seconds, nanoseconds) =
        (instant.as_nanosecond().div_euclid(1_000_000_000), instant.as_nanosecond().rem_euclid(1_000_000_000));
    Ok(Time { seconds: i64::try_from(seconds)?, nanoseconds: u32::try_from(nanoseconds)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ages() {
        let now: jiff::Timestamp = "2026-11-20T02:15:00Z".parse().unwrap();
        let at = |text: &str| instant(text, now).map(|time| time.seconds).ok();
        let base = now.as_second();
        assert_eq!(at("7d"), Some(base - 7 * 86_400));
        assert_eq!(
            (at("12h"), at("30min"), at("0d"), at("1w")),
            (Some(base - 43_200), Some(base - 1800), Some(base), Some(base - 604_800))
        );
        let zone = jiff::tz::TimeZone::system();
        let civil = |text: &str| {
            text.parse::<jiff::civil::DateTime>().unwrap().to_zoned(zone.clone()).unwrap().timestamp().as_second()
        };
        for text in ["2026-11-20", "2026-11-20T02:15", "1969-12-31T23:59:59"] {
            assert_eq!(at(text), Some(civil(text)), "{text}");
        }
        assert_eq!(at("2026-11-20 02:15"), at("2026-11-20T02:15"));
        for text in ["", "d", "7", "7x", "yesterday", "2026-13-01", "99999999999d", "-7d"] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
