//! `abbild inspect`: what a disk image is, what it consists of, what is on it, and what is wrong with it. Needs no
//! repository.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::exit::Exit;
use super::table::{Column, Table};
use super::{Context, text};
use crate::formats::inspect::{MapKind, map};
use crate::formats::{self, OpenPolicy};
use crate::guest::partitions::Scheme;
use crate::ops::inspect::{Contents, Inspection, inspect};

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An image with faults ends with exit code 13. With --json and --map, the description is followed by one object a line for
each run of the disk.")]
pub struct Arguments {
    /// A disk image or block device
    #[arg(value_hint = clap::ValueHint::FilePath)]
    image: PathBuf,
    /// Also list which layer stores what
    #[arg(long)]
    map: bool,
    /// Also open parent images in this folder; may be given several times
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    allow_folder: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let policy = arguments
        .allow_folder
        .iter()
        .try_fold(OpenPolicy::named_by_user(&arguments.image)?, |policy, folder| policy.allow(folder))?;
    let inspection = inspect(&arguments.image, &policy);
    context.terminal.json(&inspection)?;
    context.terminal.result(&as_text(&inspection, context))?;
    let image = &inspection.image;
    if !image.faults.is_empty() {
        let faults = text::counted(image.faults.len(), "fault");
        context.terminal.error(&format!("{}: {faults} found", arguments.image.display()), &image.faults, None);
        return Ok(if image.layers.is_empty() { Exit::Failed } else { Exit::Damaged });
    }
    if arguments.map {
        print_map(arguments, &policy, context)?;
    }
    Ok(Exit::Done)
}

/// Line by line: a fragmented disk has more runs than should be held at once.
fn print_map(arguments: &Arguments, policy: &OpenPolicy, context: &Context<'_>) -> anyhow::Result<()> {
    let image = formats::open(&arguments.image, policy)?;
    context.terminal.result(&format!("\n{:>18}  {:>18}  {:<4}  LAYER\n", "START", "LENGTH", "KIND"))?;
    let mut outcome = Ok(());
    map(&image, |entry| {
        let kind = match entry.kind {
            MapKind::Hole => "hole",
            MapKind::Zero => "zero",
            MapKind::Data => "data",
        };
        let layer = entry.layer.map(|layer| layer.to_string()).unwrap_or_default();
        let start = entry.start.to_string();
        let line = format!("{start:>18}  {:>#18x}  {kind:<4}  {layer:>5}", entry.len.0);
        outcome =
            context.terminal.json(&entry).and_then(|()| context.terminal.result(&format!("{}\n", line.trim_end())));
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome
}

fn as_text(inspection: &Inspection, context: &Context<'_>) -> String {
    let mut text = image_as_text(&inspection.image, context);
    if let Some(contents) = &inspection.contents {
        text.push_str(&contents_as_text(contents, context));
    }
    text
}

/// How the disk is divided and what lies where.
fn contents_as_text(contents: &Contents, context: &Context<'_>) -> String {
    let mut text = match &contents.table {
        Some(table) if table.scheme == Scheme::Gpt => format!("\ntable      GPT {}\n", table.id),
        Some(table) if table.scheme == Scheme::Mbr => format!("\ntable      MBR {}\n", table.id),
        Some(_) => "\ntable      none\n".to_string(),
        None => "\ntable      unknown\n".to_string(),
    };
    if !contents.volumes.is_empty() {
        let mut table = Table::new([
            Column::text("VOLUME"),
            Column::number("START"),
            Column::number("SIZE"),
            Column::text("CONTENT"),
            Column::text("TYPE"),
            Column::text("LABEL").spare(),
            Column::text("NAME").spare(),
            Column::text("UUID").spare(),
        ]);
        for volume in &contents.volumes {
            let partition = volume.partition.as_ref();
            let kind = partition.map_or(String::new(), |partition| match partition.type_name {
                "" => partition.type_id.clone(),
                name => name.to_string(),
            });
            table.row([
                volume.name.clone(),
                partition.map_or(String::new(), |partition| text::bytes(partition.start.0)),
                text::bytes(volume.size.0),
                volume.content.kind.to_string(),
                kind,
                volume.content.label.clone(),
                partition.map_or(String::new(), |partition| partition.name.clone()),
                volume.content.uuid.clone(),
            ]);
        }
        text.push_str(&table.to_text(context.terminal.columns()));
    }
    let unavailable = contents.unavailable.iter().map(|volume| format!("{}: {}", volume.name, volume.reason));
    for remark in unavailable.chain(contents.faults.iter().cloned()).chain(contents.warnings.iter().cloned()) {
        text.push_str(&format!("{remark}\n"));
    }
    text
}

fn image_as_text(inspection: &formats::Inspection, context: &Context<'_>) -> String {
    let mut text = format!("image      {}\n", inspection.path.display());
    if let Some(variant) = &inspection.variant {
        text.push_str(&format!("format     {variant}\n"));
    }
    if let Some(size) = inspection.virtual_size {
        text.push_str(&format!("disk       {} ({size} bytes)\n", text::bytes(size.0)));
        text.push_str(&format!("allocated  {}\n", text::bytes(inspection.allocated_bytes)));
    }
    if inspection.layers.is_empty() {
        return text;
    }
    let mut table = Table::new([
        Column::number("LAYER"),
        Column::text("FILE"),
        Column::number("DATA"),
        Column::number("ZEROS").spare(),
        Column::text("ID").spare(),
        Column::text("PARENT ID").spare(),
        Column::text("FORMAT").spare(),
    ]);
    for (number, layer) in inspection.layers.iter().enumerate() {
        table.row([
            number.to_string(),
            layer.path.file_name().unwrap_or(layer.path.as_os_str()).to_string_lossy().into_owned(),
            text::bytes(layer.data_bytes),
            text::bytes(layer.zero_bytes),
            layer.content_id.clone().unwrap_or_default(),
            layer.parent_content_id.clone().unwrap_or_default(),
            layer.variant.clone(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.to_text(context.terminal.columns()));
    for layer in &inspection.layers {
        for remark in layer.in_use.iter().map(|why| format!("in use: {why}")).chain(layer.warnings.iter().cloned()) {
            text.push_str(&format!("{}: {remark}\n", layer.path.display()));
        }
    }
    text
}
