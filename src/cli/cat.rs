//! `abbild cat`: the content of files in guests, on stdout, byte by byte.

use std::ffi::OsString;
use std::ops::ControlFlow;

use super::Context;
use super::exit::Exit;
use super::failure::{self, Interrupted};
use super::guests::{Guests, ImageOptions, NAMES_HELP, Outcome};
use super::interrupt;
use super::output::Output;
use crate::guest::path::LastLink;
use crate::ops::Control;
use crate::ops::event::Silent;
use crate::ops::files::FilesError;
use crate::ops::files::content::{Readable, Stream};

/// Arguments of `cat`.
#[derive(Debug, clap::Args)]
#[command(after_help = NAMES_HELP)]
pub struct Arguments {
    /// Files in guests
    #[arg(required = true, value_name = "BACKUP:PATH")]
    places: Vec<OsString>,
    /// A named stream instead of the content (NTFS)
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    #[command(flatten)]
    images: ImageOptions,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut guests = Guests::new(context, &arguments.images);
    let mut outcome = Outcome::default();
    let mut output = Output::new();
    let stream = arguments.stream.as_deref().map_or(Stream::Content, Stream::Named);
    for text in &arguments.places {
        let (source, place) = guests.open(text)?;
        let printed = source.find(&place, LastLink::Follow).and_then(|found| {
            guests.tell_missing(&found, false);
            let place = found.shown(b"");
            let file = Readable { filesystem: found.filesystem.as_ref(), node: found.node, place: &place };
            print(&file, stream, &mut output)
        });
        match printed {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(outcome.exit()),
            Err(FilesError::Interrupted) => {
                return Err(Interrupted { hint: "what was printed so far is good, but not all" }.into());
            }
            // The others are printed all the same, unless it is the only one.
            Err(error) if arguments.places.len() > 1 && !error.ends_work() => {
                outcome.count(&error);
                failure::report(context.terminal, &error.into());
            }
            Err(error) => {
                output.finish()?;
                return Err(error.into());
            }
        }
    }
    output.finish()?;
    Ok(outcome.exit())
}

fn print(file: &Readable<'_>, stream: Stream<'_>, output: &mut Output) -> Result<ControlFlow<()>, FilesError> {
    // A folder may have named streams too.
    if stream == Stream::Content {
        file.check_kind()?;
    }
    let mut flow = ControlFlow::Continue(());
    let control = Control { events: &Silent, interrupt: interrupt::flag() };
    file.read_all(stream, control, &mut |bytes| {
        flow = output.bytes(bytes).map_err(FilesError::Stdout)?;
        Ok(flow)
    })?;
    Ok(flow)
}
