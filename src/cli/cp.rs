//! `abbild cp`: files and folders out of guests, into a folder of this host or as a tar archive on stdout.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::exit::Exit;
use super::failure::{Interrupted, Usage};
use super::guests::{Guests, ImageOptions, NAMES_HELP, Outcome};
use super::progress::Progress;
use super::{Context, text};
use crate::formats::sink::Overwrite;
use crate::guest::path::LastLink;
use crate::guest::tree::NodeKind;
use crate::ops::files::FilesError;
use crate::ops::files::copy::folder::FolderSink;
use crate::ops::files::copy::tar::TarSink;
use crate::ops::files::copy::{Copied, Copy, Losses, Sink};
use crate::ops::files::found::Found;

/// Arguments of `cp`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "abbild cp [OPTIONS] <BACKUP:PATH>... <DEST>\n       abbild cp --tar [OPTIONS] <BACKUP:PATH>... > FILE",
    after_help = format!("\
Mode, times and links are kept, holes stay holes; owners, devices and system attributes if root copies. Existing files are
left alone. A file that is damaged is named and left out; all else is copied.

{NAMES_HELP}

Examples:
  abbild cp web1@latest:/etc/fstab .
  abbild cp -r web1@latest:/var/www /srv/restored
  abbild cp --tar web1@latest:/home | ssh web1 tar -xpf - -C /")
)]
pub struct Arguments {
    /// Files and folders in guests, and last the file or folder they are copied to
    #[arg(required = true, value_names = ["BACKUP:PATH", "DEST"], num_args = 1.., value_hint = clap::ValueHint::AnyPath)]
    names: Vec<OsString>,
    /// Copy folders with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,
    /// Write a tar archive to stdout; folders are taken with all that is in them
    #[arg(long, conflicts_with = "overwrite")]
    tar: bool,
    #[command(flatten)]
    images: ImageOptions,
}

/// What is to be copied, and the name it gets; none if what is in it goes right into the target.
struct Start {
    found: Found,
    name: Option<Vec<u8>>,
    whole_tree: bool,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    if arguments.tar {
        return to_stdout(arguments, context);
    }
    let (dest, places) = arguments.names.split_last().expect("clap wants at least one");
    if places.is_empty() {
        let hint = "abbild cp BACKUP:PATH DEST; or a tar archive on stdout: --tar";
        return Err(Usage::new(format!("no place to copy {} to", dest.display()), hint).into());
    }
    let dest = Path::new(dest);
    let (folder, only_name) = target_of(dest, places.len())?;
    let mut starts = open(places, arguments.recursive, arguments, context)?;
    if let (Some(name), [start]) = (only_name, starts.as_mut_slice()) {
        start.name = Some(name);
    }
    let overwrite = if arguments.overwrite { Overwrite::Replace } else { Overwrite::Refuse };
    let mut sink = FolderSink::new(&folder, overwrite)?;
    let ended = copy(&starts, &mut sink, context)?;
    ended.report(context, sink.losses(), Some(dest))
}

fn to_stdout(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    if std::io::stdout().is_terminal() {
        let hint = "send it on: abbild cp --tar BACKUP:PATH > FILE, or | tar -xpf - -C DIR";
        return Err(Usage::new("an archive is no text for a terminal", hint).into());
    }
    let starts = open(&arguments.names, true, arguments, context)?;
    let mut sink = TarSink::new(std::io::BufWriter::with_capacity(1 << 20, std::io::stdout()));
    let ended = copy(&starts, &mut sink, context)?;
    sink.finish()?;
    ended.report(context, sink.losses(), None)
}

/// The folder that copies go into, and the name of a single copy if it is `dest` itself.
fn target_of(dest: &Path, sources: usize) -> anyhow::Result<(PathBuf, Option<Vec<u8>>)> {
    if dest.is_dir() {
        return Ok((dest.to_owned(), None));
    }
    let shown = dest.display();
    if sources > 1 {
        let message = format!("{shown} is no folder, and there are several things to copy");
        return Err(Usage::new(message, "make the folder first").into());
    }
    let Some(name) = dest.file_name() else {
        return Err(Usage::new(format!("{shown} is no folder"), "name a folder or a file").into());
    };
    let folder = match dest.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        return Err(Usage::new(format!("there is no folder {}", folder.display()), "make the folder first").into());
    }
    Ok((folder, Some(name.as_bytes().to_vec())))
}

/// Finds everything before anything is copied: a mistyped name has no effects.
fn open(
    places: &[OsString],
    recursive: bool,
    arguments: &Arguments,
    context: &Context<'_>,
) -> anyhow::Result<Vec<Start>> {
    let mut guests = Guests::new(context, &arguments.images);
    let mut starts = Vec::new();
    for text in places {
        let (source, place) = guests.open(text)?;
        let last = if recursive { LastLink::Keep } else { LastLink::Follow };
        let found = source.find(&place, last)?;
        let metadata = found.filesystem.metadata(found.node);
        let metadata = metadata.map_err(|source| FilesError::node(found.shown(b""), source))?;
        let is_folder = metadata.kind == NodeKind::Directory;
        if is_folder && !recursive {
            let message = format!("{} is a directory", text::name(text.as_bytes()));
            return Err(Usage::new(message, "copy it with all that is in it: -r").into());
        }
        guests.tell_missing(&found, is_folder);
        starts.push(Start { name: place.inside.last_name().map(<[u8]>::to_vec), found, whole_tree: is_folder });
    }
    Ok(starts)
}

/// How a copy ended.
struct Ended {
    copied: Copied,
    outcome: Outcome,
    /// The only thing to be copied could not be.
    failure: Option<FilesError>,
}

fn copy(starts: &[Start], sink: &mut dyn Sink, context: &Context<'_>) -> anyhow::Result<Ended> {
    let progress = Progress::new(context.terminal, "");
    let mut outcome = Outcome::default();
    let mut failed = Vec::new();
    let single = matches!(starts, [start] if !start.whole_tree);
    let mut skipped = |error: FilesError| {
        if single {
            failed.push(error);
        } else {
            progress.beside(|| outcome.left_out(context, &error));
        }
    };
    let mut copy = Copy::new(sink, &mut skipped, progress.control());
    let mut ended = Ok(());
    for start in starts {
        ended = copy.run(&start.found, start.name.as_deref());
        if ended.is_err() {
            break;
        }
    }
    let copied = copy.copied;
    progress.finish([]);
    outcome.less(starts.iter().any(|start| start.whole_tree && !start.found.missing.is_empty()));
    match ended {
        Err(FilesError::Interrupted) => {
            let hint = "files copied so far are whole; to go on over them: --overwrite";
            Err(Interrupted { hint }.into())
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok(Ended { copied, outcome, failure: failed.pop() }),
    }
}

impl Ended {
    fn report(self, context: &Context<'_>, losses: &Losses, dest: Option<&Path>) -> anyhow::Result<Exit> {
        let Ended { copied, mut outcome, failure } = self;
        if let Some(error) = failure {
            return Err(error.into());
        }
        let terminal = context.terminal;
        losses.lines().iter().for_each(|line| terminal.warn(line));
        losses.lines_not_tried().iter().for_each(|line| terminal.detail(line));
        outcome.less(!losses.lost.is_empty());
        let count = |count: u64, what: &str| {
            (count > 0).then(|| text::counted(usize::try_from(count).unwrap_or(usize::MAX), what))
        };
        let directories = match copied.directories {
            0 => None,
            1 => Some("1 directory".to_owned()),
            many => Some(format!("{many} directories")),
        };
        let parts: Vec<String> = [
            Some(format!(
                "{} ({})",
                text::counted(usize::try_from(copied.files).unwrap_or(usize::MAX), "file"),
                text::bytes(copied.bytes)
            )),
            directories,
            count(copied.symlinks, "link"),
            count(copied.hard_links, "further name"),
            count(copied.specials, "special file"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let left_out = if copied.skipped > 0 { format!("; left out: {}", copied.skipped) } else { String::new() };
        let to = dest.map_or_else(String::new, |dest| format!(" to {}", dest.display()));
        let line = format!("copied {}{to}{left_out}", parts.join(", "));
        match dest {
            Some(dest) => {
                terminal.json(&json!({ "target": dest, "copied": copied, "not_kept": losses }))?;
                terminal.done(&format!("{line}\n"))?;
            }
            // Stdout has the archive.
            None => terminal.say(&line),
        }
        Ok(outcome.exit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_copies_go() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        assert_eq!(target_of(dir.path(), 2).unwrap(), (dir.path().to_owned(), None));
        assert_eq!(target_of(&at("new"), 1).unwrap(), (dir.path().to_owned(), Some(b"new".to_vec())));
        assert_eq!(target_of(&at("file"), 1).unwrap(), (dir.path().to_owned(), Some(b"file".to_vec())));
        assert_eq!(target_of(Path::new("new"), 1).unwrap(), (PathBuf::from("."), Some(b"new".to_vec())));
        for (dest, sources) in [(at("file"), 2), (at("gone/x"), 1), (at("new"), 2), (at("gone/.."), 1)] {
            assert!(target_of(&dest, sources).is_err(), "{dest:?}");
        }
    }
}
