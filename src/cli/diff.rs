//! `abbild diff`: what changed between two backups of a machine, or between any two guests.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use clap::ValueEnum;
use serde_json::json;

use super::exit::Exit;
use super::failure::Interrupted;
use super::guests::{Guests, ImageOptions, NodeAnswer, Outcome};
use super::output::Output;
use super::progress::Progress;
use super::{Context, text};
use crate::guest::path::LastLink;
use crate::guest::tree::Metadata;
use crate::ops::files::FilesError;
use crate::ops::files::difference::{Aspect, Change, Comparison, Contents, Counts, Difference};
use crate::ops::files::owners::Owners;
use crate::ops::files::place::Place;

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line begins with what happened: + added, - removed, M changed, U only its metadata (mode, owner, attributes).
Files are compared by size, time, mode and owner; nothing of them is read unless --content asks for it.

Examples:
  abbild diff web1@2026-11-20 web1@latest /etc
  abbild diff web1@latest vms/web1 --content
  abbild diff web1@2026-11-20:vg0/home web1@latest:vg0/home")]
pub struct Arguments {
    /// The earlier backup, image or machine's folder, perhaps with a path: BACKUP:PATH
    #[arg(value_name = "A")]
    before: OsString,
    /// The later one
    #[arg(value_name = "B")]
    after: OsString,
    /// Only what is at and below this path
    path: Option<OsString>,
    /// Compare contents: of files whose metadata differ, or of all
    #[arg(long, value_name = "WHICH", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "changed")]
    content: Option<WhichContents>,
    #[command(flatten)]
    images: ImageOptions,
}

/// Whose contents are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhichContents {
    /// Of files whose metadata differ
    Changed,
    /// Of all files
    All,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut guests = Guests::new(context, &arguments.images);
    let (old_source, mut old_place) = guests.open(&arguments.before)?;
    let (new_source, mut new_place) = guests.open(&arguments.after)?;
    if let Some(path) = &arguments.path {
        (old_place, new_place) = (old_place.below(path.as_bytes()), new_place.below(path.as_bytes()));
    }
    let start = start(&old_place, &new_place);
    let before = old_source.find_if_there(&old_place, LastLink::Keep)?;
    let after = new_source.find_if_there(&new_place, LastLink::Keep)?;
    if before.is_none() && after.is_none() {
        // It says what is not there.
        old_source.find(&old_place, LastLink::Keep)?;
    }
    let mut outcome = Outcome::default();
    for found in before.iter().chain(&after) {
        let less = guests.tell_missing(found, true);
        outcome.less(less);
    }
    let names = |source: &crate::ops::files::source::Source, found: &Option<_>| {
        found.as_ref().map(|found| source.owners(found)).unwrap_or_default()
    };
    let (old_owners, new_owners) = (names(&old_source, &before), names(&new_source, &after));
    let mut output = Output::new();
    let progress = Progress::new(context.terminal, "");
    let mut comparison = Comparison {
        before: before.as_ref(),
        after: after.as_ref(),
        contents: match arguments.content {
            None => Contents::None,
            Some(WhichContents::Changed) => Contents::Changed,
            Some(WhichContents::All) => Contents::All,
        },
        control: progress.control(),
        differs: &mut |difference| {
            let mut flow = Ok(ControlFlow::Continue(()));
            progress.beside(|| {
                flow = if context.terminal.json {
                    output.json(&as_json(&start, difference, &old_owners, &new_owners))
                } else {
                    output.bytes(line(&start, difference, &old_owners, &new_owners).as_bytes())
                };
            });
            flow.map_err(FilesError::Stdout)
        },
        fault: &mut |error| progress.beside(|| outcome.left_out(context, error)),
    };
    let counts = comparison.run();
    progress.finish([]);
    let finished = output.finish();
    let counts = match counts {
        Err(FilesError::Interrupted) => return Err(Interrupted { hint: "not everything was compared" }.into()),
        counts => counts?,
    };
    finished?;
    context.terminal.json(&json!({ "summary": counts }))?;
    context.terminal.done(&summary(&counts))?;
    Ok(outcome.exit())
}

fn summary(counts: &Counts) -> String {
    let unreadable = match counts.unreadable {
        0 => String::new(),
        some => format!(", {some} not readable"),
    };
    format!(
        "{} added, {} removed, {} changed, {} only in metadata, {} the same{unreadable}\n",
        counts.added, counts.removed, counts.changed, counts.metadata_only, counts.same
    )
}

/// The path of a difference, from the root of what is compared.
fn shown_path(start: &[u8], path: &[u8]) -> Vec<u8> {
    let whole = [start, path].concat();
    if whole.is_empty() { b"/".to_vec() } else { whole }
}

/// Where the comparison begins, as both places call it; empty if each calls it otherwise.
fn start(before: &Place, after: &Place) -> Vec<u8> {
    if before.inside == after.inside { before.inside.plain() } else { Vec::new() }
}

fn letter(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed => 'M',
        Change::Metadata => 'U',
    }
}

fn line(start: &[u8], difference: &Difference<'_>, old_owners: &Owners, new_owners: &Owners) -> String {
    let mut line = format!("{} {}", letter(difference.change), text::name(&shown_path(start, difference.path)));
    if let (Some(old), Some(new)) = (difference.before, difference.after) {
        let aspects: Vec<String> =
            difference.aspects.iter().map(|aspect| words(*aspect, (old, old_owners), (new, new_owners))).collect();
        line.push_str(&format!("  ({})", aspects.join(", ")));
    }
    line.push('\n');
    line
}

fn words(aspect: Aspect, (old, old_owners): (&Metadata, &Owners), (new, new_owners): (&Metadata, &Owners)) -> String {
    let owner = |metadata: &Metadata, owners: &Owners| {
        let or_number = |name: Option<&str>, number: u32| name.map_or_else(|| number.to_string(), text::printable_name);
        let user = or_number(owners.user(metadata.uid), metadata.uid);
        format!("{user}:{}", or_number(owners.group(metadata.gid), metadata.gid))
    };
    match aspect {
        Aspect::Kind => format!("{} became {}", old.kind.noun(), new.kind.noun()),
        Aspect::Content => "content".to_owned(),
        Aspect::Size => format!("{} → {} bytes", old.size, new.size),
        Aspect::Modified => "time".to_owned(),
        Aspect::Mode => format!("mode {:04o} → {:04o}", old.mode, new.mode),
        Aspect::Owner => format!("owner {} → {}", owner(old, old_owners), owner(new, new_owners)),
        Aspect::Target => "target".to_owned(),
        Aspect::Device => "device".to_owned(),
        Aspect::Attributes => "attributes".to_owned(),
        Aspect::Unreadable => "not readable".to_owned(),
    }
}

fn as_json(start: &[u8], difference: &Difference<'_>, old_owners: &Owners, new_owners: &Owners) -> serde_json::Value {
    let path = shown_path(start, difference.path);
    json!({
        "change": difference.change,
        "path": String::from_utf8_lossy(&path),
        "path_hex": std::str::from_utf8(&path).is_err().then(|| crate::repo::ids::to_hex(&path)),
        "aspects": difference.aspects,
        "before": difference.before.map(|metadata| NodeAnswer::of(&path, metadata, old_owners, None)),
        "after": difference.after.map(|metadata| NodeAnswer::of(&path, metadata, new_owners, None)),
    })
}
