//! `abbild ls`: what is in a folder of a guest, as `ls` shows it.

use std::ffi::OsString;
use std::ops::ControlFlow;

use unicode_width::UnicodeWidthStr;

use super::exit::Exit;
use super::guests::{Guests, ImageOptions, NAMES_HELP, NodeAnswer, Outcome, print_volumes, timestamp};
use super::output::Output;
use super::{Context, text};
use crate::guest::path::LastLink;
use crate::guest::tree::{FileSystem, Metadata, NodeId, NodeKind};
use crate::ops::files::FilesError;
use crate::ops::files::found::Found;
use crate::ops::files::listing::list;
use crate::ops::files::owners::Owners;
use crate::ops::files::place::{Inside, Place};

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
#[command(after_help = NAMES_HELP)]
pub struct Arguments {
    /// Files and folders in guests; without a path the root, or the volumes if no volume has a system's root
    #[arg(required = true, value_name = "BACKUP:PATH")]
    places: Vec<OsString>,
    /// Also mode, number of names, owner, group, size, time, and where links lead
    #[arg(short, long)]
    long: bool,
    /// Also names that begin with a dot
    #[arg(short, long)]
    all: bool,
    /// Also what is in folders below
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Folders themselves, not what is in them
    #[arg(short, long)]
    directory: bool,
    /// Numbers of owners and groups instead of the guest's names
    #[arg(short, long)]
    numeric: bool,
    /// Show the volumes: partitions, logical volumes, and what is on them
    #[arg(long, conflicts_with_all = ["recursive", "directory"])]
    volumes: bool,
    #[command(flatten)]
    images: ImageOptions,
}

/// A folder to show.
struct Folder {
    path: Vec<u8>,
    node: NodeId,
    depth: usize,
}

/// One run over one place.
struct Lister<'l> {
    arguments: &'l Arguments,
    context: &'l Context<'l>,
    found: &'l Found,
    owners: Owners,
    output: &'l mut Output,
    outcome: &'l mut Outcome,
}

/// A node as a line.
struct Row {
    /// What stands before the name, with `-l`.
    cells: Vec<String>,
    name: String,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut guests = Guests::new(context, &arguments.images);
    let mut outcome = Outcome::default();
    let mut output = Output::new();
    for (number, text) in arguments.places.iter().enumerate() {
        let (source, place) = guests.open(text)?;
        if arguments.volumes {
            print_volumes(context, &source)?;
            continue;
        }
        // A link is looked through as `ls` does it: not where the link itself is to be shown.
        let last = if arguments.long || arguments.directory { LastLink::Keep } else { LastLink::Follow };
        let found = match source.find(&place, last) {
            Err(FilesError::WhichVolume { .. }) if is_root(&place) && !arguments.directory => {
                print_volumes(context, &source)?;
                continue;
            }
            found => found?,
        };
        let less = guests.tell_missing(&found, arguments.recursive);
        outcome.less(less);
        let owners = if arguments.numeric { Owners::default() } else { source.owners(&found) };
        let mut lister =
            Lister { arguments, context, found: &found, owners, output: &mut output, outcome: &mut outcome };
        let has_title = arguments.recursive || arguments.places.len() > 1;
        if lister.show(number == 0, has_title)?.is_break() {
            break;
        }
    }
    output.finish()?;
    Ok(outcome.exit())
}

fn is_root(place: &Place) -> bool {
    matches!(&place.inside, Inside::View(path) if path.iter().all(|byte| *byte == b'/'))
}

impl Lister<'_> {
    fn show(&mut self, is_first: bool, has_title: bool) -> anyhow::Result<ControlFlow<()>> {
        let filesystem = self.found.filesystem.as_ref();
        let start = self.found.node;
        let metadata = filesystem.metadata(start).map_err(|source| FilesError::node(self.found.shown(b""), source))?;
        if metadata.kind != NodeKind::Directory || self.arguments.directory {
            let name = self.found.place_of(b"");
            return self.print(vec![(name, Vec::new(), start, metadata)]);
        }
        let mut entered = std::collections::HashSet::new();
        let mut folders = vec![Folder { path: Vec::new(), node: start, depth: 0 }];
        let mut is_first = is_first;
        while let Some(folder) = folders.pop() {
            if !entered.insert(folder.node) || folder.depth > crate::ops::files::listing::DEPTH_MAX {
                let what = "this directory is also elsewhere in the tree, or absurdly deep";
                let error = FilesError::Inconsistent { place: self.found.shown(&folder.path), what };
                self.outcome.left_out(self.context, &error);
                continue;
            }
            if has_title && !self.context.terminal.json {
                let gap = if is_first { "" } else { "\n" };
                let title = format!("{gap}{}:\n", text::name(&self.found.place_of(&folder.path)));
                if self.output.bytes(title.as_bytes())?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            is_first = false;
            let (flow, below) = self.folder(&folder)?;
            if flow.is_break() {
                return Ok(flow);
            }
            if self.arguments.recursive {
                folders.extend(below.into_iter().rev());
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Shows what is in a folder; gives the folders in it.
    fn folder(&mut self, folder: &Folder) -> anyhow::Result<(ControlFlow<()>, Vec<Folder>)> {
        let filesystem = self.found.filesystem.as_ref();
        let listing = list(filesystem, folder.node);
        let (mut nodes, mut below) = (Vec::new(), Vec::new());
        for child in listing.children {
            if child.name.starts_with(b".") && !self.arguments.all {
                continue;
            }
            let path = [folder.path.as_slice(), b"/", &child.name].concat();
            match filesystem.metadata(child.node) {
                Ok(metadata) => {
                    if metadata.kind == NodeKind::Directory && self.arguments.recursive {
                        below.push(Folder { path: path.clone(), node: child.node, depth: folder.depth + 1 });
                    }
                    nodes.push((child.name, path, child.node, metadata));
                }
                Err(source) => {
                    let place = self.found.shown(&path);
                    self.outcome.left_out(self.context, &FilesError::node(place, source));
                }
            }
        }
        let flow = self.print(nodes)?;
        if let Some(source) = listing.fault {
            let place = self.found.shown(&folder.path);
            self.outcome.left_out(self.context, &FilesError::node(place, source));
        }
        Ok((flow, below))
    }

    /// Prints nodes: name, path below the start, node, metadata.
    fn print(&mut self, nodes: Vec<(Vec<u8>, Vec<u8>, NodeId, Metadata)>) -> anyhow::Result<ControlFlow<()>> {
        let filesystem = self.found.filesystem.as_ref();
        if self.context.terminal.json {
            for (_, path, node, metadata) in nodes {
                let target = target(filesystem, node, &metadata);
                let answer = NodeAnswer::of(&self.found.place_of(&path), &metadata, &self.owners, target.as_deref());
                if self.output.json(&answer)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        let rows: Vec<Row> =
            nodes.iter().map(|(name, _, node, metadata)| self.row(filesystem, name, *node, metadata)).collect();
        Ok(self.output.bytes(aligned(&rows).as_bytes())?)
    }

    fn row(&self, filesystem: &dyn FileSystem, name: &[u8], node: NodeId, metadata: &Metadata) -> Row {
        if !self.arguments.long {
            return Row { cells: Vec::new(), name: text::name(name) };
        }
        let or_number = |name: Option<&str>, number: u32| name.map_or_else(|| number.to_string(), text::printable_name);
        let size = match metadata.device {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => metadata.size.to_string(),
        };
        let mut shown = text::name(name);
        if metadata.kind == NodeKind::Symlink {
            let target = target(filesystem, node, metadata);
            shown.push_str(&format!(" -> {}", target.map_or_else(|| "?".to_owned(), |target| text::name(&target))));
        }
        if let Some(special) = metadata.special {
            shown.push_str(&format!("  [{special}]"));
        }
        let cells = vec![
            mode(metadata),
            metadata.links.to_string(),
            or_number(self.owners.user(metadata.uid), metadata.uid),
            or_number(self.owners.group(metadata.gid), metadata.gid),
            size,
            timestamp(metadata.modified)
                .map_or_else(|| metadata.modified.seconds.to_string(), text::time_to_the_minute),
        ];
        Row { cells, name: shown }
    }
}

fn target(filesystem: &dyn FileSystem, node: NodeId, metadata: &Metadata) -> Option<Vec<u8>> {
    if metadata.kind == NodeKind::Symlink { filesystem.read_link(node).ok() } else { None }
}

/// `-rwsr-xr-t`.
fn mode(metadata: &Metadata) -> String {
    let kind = match metadata.kind {
        NodeKind::File => '-',
        NodeKind::Directory => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::CharacterDevice => 'c',
        NodeKind::BlockDevice => 'b',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = metadata.mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (metadata.mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// Lines whose columns line up: numbers to the right, owners to the left.
fn aligned(rows: &[Row]) -> String {
    const TO_THE_RIGHT: [bool; 6] = [false, true, false, false, true, false];
    let columns = rows.first().map_or(0, |row| row.cells.len());
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row.cells[column].width()).max().unwrap_or(0)).collect();
    let mut lines = String::new();
    for row in rows {
        for (column, cell) in row.cells.iter().enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.width()));
            let cell = if TO_THE_RIGHT[column] { padding + cell } else { cell.clone() + &padding };
            lines.push_str(&cell);
            lines.push(' ');
        }
        lines.push_str(&row.name);
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::memory::MemoryTree;

    #[test]
    fn modes_read_as_in_ls() {
        let tree = MemoryTree::new(&[]);
        let plain = tree.metadata(tree.root()).unwrap();
        for (kind, bits, text) in [
            (NodeKind::File, 0o644, "-rw-r--r--"),
            (NodeKind::File, 0o4755, "-rwsr-xr-x"),
            (NodeKind::File, 0o6600, "-rwS--S---"),
            (NodeKind::Directory, 0o1777, "drwxrwxrwt"),
            (NodeKind::Directory, 0o1776, "drwxrwxrwT"),
            (NodeKind::Symlink, 0o777, "lrwxrwxrwx"),
            (NodeKind::BlockDevice, 0, "b---------"),
        ] {
            assert_eq!(mode(&Metadata { kind, mode: bits, ..plain.clone() }), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 6], name: &str| Row { cells: cells.map(str::to_owned).into(), name: name.to_owned() };
        let rows =
            [row(["-rw", "1", "root", "bücher", "5", "t"], "a"), row(["drwx", "12", "u", "g", "4096", "t"], "b")];
        assert_eq!(aligned(&rows), "-rw   1 root bücher    5 t a\ndrwx 12 u    g      4096 t b\n");
        let short = Row { cells: Vec::new(), name: "x".to_owned() };
        assert_eq!(aligned(&[short]), "x\n");
    }
}
