//! `abbild index`: the cache that says which pack holds which chunk.

use serde_json::json;

use super::exit::Exit;
use super::progress::Progress;
use super::{Context, place, text};
use crate::ops::{Event, Events};

/// Arguments of `index`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Forget the index cache and build it anew from the repository
    Rebuild,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let Verb::Rebuild = arguments.verb;
    let repository = place::open(context)?;
    let progress = Progress::new(context.terminal, "");
    progress.event(Event::Step("building the index"));
    repository.forget_briefs()?;
    let report = repository.rebuild_index(&mut |at| {
        progress.event(Event::Step(&format!("building the index: {} of {} packs", at.done, at.total)));
    })?;
    progress.finish([]);
    for (object, error) in &report.damaged {
        context.terminal.warn(&format!("{object} is damaged and not in the index: {error}"));
    }
    context.terminal.json(&json!({
        "packs": report.packs,
        "segments_read": report.segments_read,
        "directories_read": report.directories_read,
        "damaged": report.damaged.iter().map(|(object, error)| {
            json!({ "object": object, "message": error.to_string() })
        }).collect::<Vec<_>>(),
        "file": repository.index().file(),
    }))?;
    context.terminal.done(&format!("the index has {}\n", text::counted(report.packs, "pack")))?;
    Ok(if report.damaged.is_empty() { Exit::Done } else { Exit::Damaged })
}
