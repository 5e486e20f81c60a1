//! Asking for what the command line left out: machine → backup → what → target. At the end stands the command that would
//! have done the same, so that it can be kept.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use dialoguer::console::Term;
use dialoguer::theme::ColorfulTheme;
use dialoguer::{Confirm, Input, Select};

use super::plan::{self, Plan, Target, format_of_machine};
use super::{Arguments, Definition, overwrite};
use crate::cli::list::Readable;
use crate::cli::terminal::printable;
use crate::cli::{Context, interrupt, text};
use crate::ops::restore::{DiskFormat, DiskTarget};
use crate::repo::RepoError;
use crate::repo::brief::Brief;
use crate::repo::ids::BackupId;
use crate::repo::manifest::Manifest;

/// Lines of a list that are seen at once.
const LINES_SEEN: usize = 12;

/// The backup that was named, or is asked for; `None` if the user would rather not.
pub fn which(arguments: &Arguments, all: &Readable) -> anyhow::Result<Option<BackupId>> {
    match &arguments.backup {
        Some(wanted) => Ok(Some(all.find(wanted)?.backup)),
        None => asking(|| choose_backup(&all.briefs)),
    }
}

/// Asks for the rest; `None` if the user would rather not.
pub fn ask<'m>(
    arguments: &Arguments,
    manifest: &'m Manifest,
    context: &Context<'_>,
) -> anyhow::Result<Option<Plan<'m>>> {
    asking(|| ask_each(arguments, manifest, context))
}

fn asking<T>(work: impl FnOnce() -> anyhow::Result<Option<T>>) -> anyhow::Result<Option<T>> {
    // With a handler Ctrl-C becomes an error of the prompt; without one it would end us while the cursor is hidden.
    let _ = interrupt::flag();
    let outcome = work();
    let _ = Term::stderr().show_cursor();
    match outcome {
        Err(error) if is_interruption(&error) => Ok(None),
        outcome => outcome,
    }
}

fn is_interruption(error: &anyhow::Error) -> bool {
    let Some(dialoguer::Error::IO(error)) = error.downcast_ref() else { return false };
    error.kind() == std::io::ErrorKind::Interrupted
}

fn ask_each<'m>(
    arguments: &Arguments,
    manifest: &'m Manifest,
    context: &Context<'_>,
) -> anyhow::Result<Option<Plan<'m>>> {
    let mut answered = Arguments {
        backup: Some(text::short_id(manifest.backup)),
        to: arguments.to.clone(),
        disk: arguments.disk.clone(),
        format: arguments.format,
        definition: arguments.definition,
        new_identity: arguments.new_identity,
        in_place: arguments.in_place,
        overwrite: arguments.overwrite,
    };
    if answered.disk.is_none() && answered.to.is_none() {
        match choose_what(manifest)? {
            Some(disk) => answered.disk = disk,
            None => return Ok(None),
        }
    }
    if answered.disk.is_none() && answered.to.is_none() && answered.definition.is_none() && answered.format.is_none() {
        match choose_definition(manifest)? {
            Some(definition) => answered.definition = definition,
            None => return Ok(None),
        }
    }
    let to = match &answered.to {
        Some(to) => to.clone(),
        None => ask_target(&answered, manifest)?,
    };
    if !answered.overwrite && exists(&answered, &to) {
        let question = format!("{} exists. Overwrite what is there?", printable(&to.display().to_string()));
        if !Confirm::with_theme(&ColorfulTheme::default()).with_prompt(question).default(false).interact()? {
            return Ok(None);
        }
        answered.overwrite = true;
    }
    let plan = plan::make(&answered, manifest, to)?;
    context.terminal.say(&format!("this is: {}", command(&answered, &plan)));
    Ok(Some(plan))
}

fn choose_backup(briefs: &[Arc<Brief>]) -> anyhow::Result<Option<BackupId>> {
    let mut machines: Vec<&str> = briefs.iter().map(|brief| brief.machine.as_str()).collect();
    machines.sort_unstable();
    machines.dedup();
    let machine = match machines.as_slice() {
        [] => return Err(RepoError::UnknownBackup { wanted: "anything".to_owned(), candidates: Vec::new() }.into()),
        [one] => *one,
        several => match choose("Which machine?", several.iter().map(|name| (*name).to_owned()).collect())? {
            Some(number) => several[number],
            None => return Ok(None),
        },
    };
    let backups: Vec<&Arc<Brief>> = briefs.iter().rev().filter(|brief| brief.machine == machine).collect();
    let lines = backups.iter().map(|brief| {
        format!(
            "{}  {}  {} ({})",
            text::time_with_zone(brief.instant),
            text::short_id(brief.backup),
            brief.level,
            text::bytes(brief.statistics.size)
        )
    });
    let chosen = choose(&format!("Which backup of {}?", printable(machine)), lines.collect())?;
    Ok(chosen.map(|number| backups[number].backup))
}

/// The number of a disk, or none for the whole machine; nothing at all if the user would rather not.
fn choose_what(manifest: &Manifest) -> anyhow::Result<Option<Option<String>>> {
    let mut lines = vec![format!("the whole machine ({})", text::counted(manifest.disks.len(), "disk"))];
    for (number, disk) in manifest.disks.iter().enumerate() {
        lines.push(format!("only disk {number}: {}, {}, {}", disk.slot, text::bytes(disk.size), disk.file_name));
    }
    let chosen = choose("What?", lines)?;
    Ok(chosen.map(|number| number.checked_sub(1).map(|disk| disk.to_string())))
}

/// For which hypervisor, or none for its own; nothing at all if the user would rather not.
fn choose_definition(manifest: &Manifest) -> anyhow::Result<Option<Option<Definition>>> {
    let mut choices = vec![(None, format!("as it was ({})", manifest.machine_kind.replace('_', " ")))];
    for definition in Definition::value_variants() {
        let Some(value) = definition.to_possible_value() else { continue };
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        choices.push((Some(*definition), format!("{}: {help}", value.get_name())));
    }
    let chosen = choose("As what?", choices.iter().map(|(_, line)| line.clone()).collect())?;
    Ok(chosen.map(|number| choices[number].0))
}

fn ask_target(answered: &Arguments, manifest: &Manifest) -> anyhow::Result<PathBuf> {
    let stem: String = manifest.machine.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    let (prompt, suggestion) = match &answered.disk {
        None => ("Into which folder?", format!("{stem}-restored")),
        Some(disk) => {
            let extension = answered.format.map_or_else(|| format_of_machine(manifest), DiskFormat::from).extension();
            ("To which file or block device?", format!("{stem}-disk{}.{extension}", disk.replace('/', "_")))
        }
    };
    let theme = ColorfulTheme::default();
    let input = Input::<String>::with_theme(&theme).with_prompt(prompt).with_initial_text(suggestion);
    Ok(input.interact_text()?.trim().into())
}

/// Whether the target holds something that the restore would overwrite.
fn exists(answered: &Arguments, to: &std::path::Path) -> bool {
    if answered.in_place {
        return false;
    }
    match std::fs::read_dir(to) {
        Ok(mut entries) => answered.disk.is_none() && entries.next().is_some(),
        Err(_) => answered.disk.is_some() && to.exists(),
    }
}

fn choose(prompt: &str, lines: Vec<String>) -> anyhow::Result<Option<usize>> {
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    let theme = ColorfulTheme::default();
    let select = Select::with_theme(&theme).with_prompt(prompt).items(&lines).default(0).max_length(LINES_SEEN);
    Ok(select.interact_opt()?)
}

/// The command line that does the same.
fn command(answered: &Arguments, plan: &Plan<'_>) -> String {
    let mut words = vec!["abbild".to_owned(), "restore".to_owned()];
    words.extend(answered.backup.clone());
    let path = match &plan.target {
        Target::Machine { folder, .. } => folder.clone(),
        Target::Disk { target, .. } => target.path().to_owned(),
    };
    if let Some(disk) = &answered.disk {
        words.extend(["--disk".to_owned(), disk.clone()]);
    }
    words.extend(["--to".to_owned(), quoted(&path.display().to_string())]);
    if let Some(value) = answered.definition.and_then(|definition| definition.to_possible_value()) {
        words.extend(["--as".to_owned(), value.get_name().to_owned()]);
    }
    if answered.new_identity {
        words.push("--new-identity".to_owned());
    }
    let format = match &plan.target {
        Target::Machine { options, .. } if answered.definition.is_none() => Some(options.format),
        Target::Disk { target: DiskTarget::File { format, .. }, .. } => Some(*format),
        _ => answered.format.map(DiskFormat::from),
    };
    if let Some(format) = format.filter(|format| answered.format.is_some() || *format == DiskFormat::Raw) {
        words.extend(["--format".to_owned(), plan::format_name(format)]);
    }
    if overwrite(answered.overwrite) == crate::formats::sink::Overwrite::Replace {
        words.push("--overwrite".to_owned());
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
