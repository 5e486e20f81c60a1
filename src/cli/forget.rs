//! `abbild forget`: backups that are not to be kept, by rules or by name; and back again.

use std::collections::HashSet;

use jiff::{Span, Timestamp};
use serde::Serialize;

use super::exit::Exit;
use super::failure::Usage;
use super::list::Readable;
use super::progress::Progress;
use super::table::{Column, Table};
use super::{Context, place, text};
use crate::ops::OpsError;
use crate::ops::forget::{self, Asked, ForgetPlan};
use crate::repo::brief::Brief;
use crate::repo::gc::forgotten::{self, Forgotten};
use crate::repo::gc::retention::{GroupBy, Policy, Reason, Verdict};
use crate::repo::ids::BackupId;
use crate::repo::manifest::Manifest;
use crate::repo::name::Named;
use crate::repo::pins::{self, Pins};
use crate::repo::tag::Tag;
use crate::repo::{Repository, name};

/// Arguments of `forget`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --keep options, the backups of the named machines, or of all, that no rule keeps are forgotten. Without them, the
named backups are: web1@2026-11-20 or the beginning of an id.

The newest backup of a machine is always kept, and so is one that is dated in the future, or pinned (abbild pin). Forgotten backups take room
until abbild prune; until then, --undo brings them back.")]
pub struct Arguments {
    /// With rules, machines; without, backups
    #[arg(value_name = "MACHINE|BACKUP")]
    names: Vec<String>,
    #[command(flatten)]
    rules: Rules,
    /// Restrict the rules to backups with this tag; may be given several times
    #[arg(long, value_name = "TAG", requires = "rules", conflicts_with = "undo")]
    tag: Vec<Tag>,
    /// Whether a period's newest backup is that of a machine, or of a machine with the same tags
    #[arg(long, value_name = "GROUP", value_enum, default_value = "machine", requires = "rules")]
    group_by: Group,
    /// Forget nothing younger than this, whatever the rules say, such as 7d
    #[arg(long, value_name = "SPAN", value_parser = span)]
    min_age: Option<Span>,
    /// Also forget a machine's newest backup, if it is named
    #[arg(long, conflicts_with_all = ["rules", "undo"])]
    newest_too: bool,
    /// Bring forgotten backups back
    #[arg(long, conflicts_with = "rules")]
    undo: bool,
    /// Bring all forgotten backups back
    #[arg(long, requires = "undo", conflicts_with = "names")]
    all: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What is to be kept.
#[derive(Debug, clap::Args)]
#[group(id = "rules", multiple = true)]
struct Rules {
    /// Keep the newest N backups of each machine
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest backup of each of the newest N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// Keep the newest backup of each of the newest N days that have one
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// Keep the newest backup of each of the newest N weeks that have one
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// Keep the newest backup of each of the newest N months that have one
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Keep the newest backup of each of the newest N years that have one
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep all that are not older than this before the machine's newest, such as 30d or 1y6mo
    #[arg(long, value_name = "SPAN", value_parser = span)]
    keep_within: Option<Span>,
    /// Besides what the other rules keep, keep all backups with this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<Tag>,
}

/// What a rule looks at as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    /// The backups of a machine
    Machine,
    /// The backups of a machine with the same tags
    #[value(name = "machine,tag")]
    MachineTag,
}

/// A span as it is typed: `7d`, `2w`, `1y 6mo`, `36h`.
fn span(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|_| "expected a span such as 36h, 7d, 2w or 1y6mo".to_owned())?;
    if span.is_negative() { Err("a span cannot be negative".to_owned()) } else { Ok(span) }
}

impl Arguments {
    fn policy(&self) -> Policy {
        let rules = &self.rules;
        Policy {
            last: rules.keep_last,
            hourly: rules.keep_hourly,
            daily: rules.keep_daily,
            weekly: rules.keep_weekly,
            monthly: rules.keep_monthly,
            yearly: rules.keep_yearly,
            within: rules.keep_within,
            min_age: self.min_age,
            tags: rules.keep_tag.clone(),
            group: match self.group_by {
                Group::Machine => GroupBy::Machine,
                Group::MachineTag => GroupBy::MachineAndTags,
            },
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    dry_run: bool,
    forgotten: Vec<Line<'a>>,
    kept: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    backup: BackupId,
    name: String,
    machine: &'a str,
    instant: Timestamp,
    reasons: &'a [Reason],
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let policy = arguments.policy();
    if arguments.undo {
        return undo(arguments, context);
    }
    if !policy.has_rule() && !policy.tags.is_empty() {
        let hint = "if only the newest and those with the tag are to stay, say so: add --keep-last 1";
        return Err(Usage::new("--keep-tag alone is no rule: a misspelt tag would forget all", hint).into());
    }
    if !policy.has_rule() && arguments.names.is_empty() {
        let hint = "keep, for example, a week of days and a year of months: \
                    abbild forget --keep-daily 7 --keep-monthly 12 --dry-run";
        return Err(Usage::new("nothing says which backups to keep, or to forget", hint).into());
    }
    let repository = place::open(context)?;
    if policy.has_rule() {
        by_rules(&repository, &policy, arguments, context)
    } else {
        by_name(&repository, arguments, context)
    }
}

fn by_rules(
    repository: &Repository,
    policy: &Policy,
    arguments: &Arguments,
    context: &Context<'_>,
) -> anyhow::Result<Exit> {
    let all = Readable::of(repository, context)?;
    for machine in &arguments.names {
        name::find(&format!("{machine}@latest"), &all.briefs)?;
    }
    let pins = Pins::load(repository.store(), repository.keys())?;
    let asked = Asked { machines: &arguments.names, tags: &arguments.tag };
    let plan = forget::by_rules(policy, &all.briefs, &pins, asked, Timestamp::now())?;
    context.terminal.done(&as_table(&plan).to_text(context.terminal.columns()))?;
    let future: Vec<&Brief> = plan.of_the_future().collect();
    for brief in &future {
        context.terminal.warn(&format!(
            "{} is dated in the future: it is kept and counts for no rule; to forget it, name it: abbild forget {}",
            text::backup_name(*brief),
            text::short_id(brief.backup)
        ));
    }
    let going: Vec<BackupId> = plan.forgotten().map(|(brief, _)| brief.backup).collect();
    let Carried { gone, spared } = carry_out(repository, &going, arguments.dry_run, context)?;
    let stays = |brief: &Brief, verdict: &Verdict| verdict.keep || spared.contains(&brief.backup);
    context.terminal.json(&Answer {
        dry_run: arguments.dry_run,
        forgotten: lines(&plan, |brief, verdict| !stays(brief, verdict)),
        kept: lines(&plan, stays),
    })?;
    let kept = plan.lines.len() - going.len() + spared.len();
    tell(context, arguments.dry_run, gone, &format!(", {kept} kept"))?;
    let warned = !future.is_empty() || !spared.is_empty();
    Ok(if !all.unreadable.is_empty() { Exit::Damaged } else { Exit::done_with(warned) })
}

fn by_name(repository: &Repository, arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let all = Readable::of(repository, context)?;
    let mut named: Vec<BackupId> = Vec::new();
    let mut lines = Vec::new();
    for wanted in &arguments.names {
        // A damaged manifest has no name left but its id.
        if let Some((id, _)) = all.unreadable.iter().find(|(id, _)| id.to_string() == *wanted) {
            named.push(*id);
            continue;
        }
        if all.briefs.iter().any(|brief| brief.machine == *wanted) {
            let hint = format!(
                "name one of its backups: abbild list {wanted}\n\
                 or say what to keep: abbild forget {wanted} --keep-last 7"
            );
            return Err(Usage::new(format!("{wanted} is a machine, not a backup"), hint).into());
        }
        let brief = all.find(wanted)?;
        named.push(brief.backup);
        lines.push(brief);
    }
    let set: HashSet<BackupId> = named.iter().copied().collect();
    if !arguments.newest_too
        && let Some(newest) = forget::newest_among(&all.briefs, &set, Timestamp::now()).first()
    {
        let message = format!("{} is the newest backup of {}", text::backup_name(*newest), newest.machine);
        return Err(Usage::new(message, "if you mean it, add --newest-too").into());
    }
    named.sort();
    named.dedup();
    for id in &named {
        if pins::is_pinned(repository.store(), *id)? {
            return Err(refuse_pinned(repository, *id, &lines)?.into());
        }
    }
    let Carried { gone, spared } = carry_out(repository, &named, arguments.dry_run, context)?;
    lines.retain(|brief| !spared.contains(&brief.backup));
    let forgotten = lines.iter().map(|brief| line(*brief, &[])).collect();
    context.terminal.json(&Answer { dry_run: arguments.dry_run, forgotten, kept: Vec::new() })?;
    tell(context, arguments.dry_run, gone, "")?;
    Ok(Exit::done_with(!spared.is_empty()))
}

fn refuse_pinned(repository: &Repository, id: BackupId, named: &[&Brief]) -> anyhow::Result<Usage> {
    let name = named.iter().find(|brief| brief.backup == id).map(|brief| text::backup_name(*brief));
    let name = name.unwrap_or_else(|| id.to_string());
    let reason = Pins::load(repository.store(), repository.keys())?.reason(id).unwrap_or_default();
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let hint = format!("if it may go, unpin it first: abbild pin --remove {}", text::short_id(id));
    Ok(Usage::new(format!("{name} is pinned{reason}"), hint))
}

/// What became of those that were to go.
struct Carried {
    gone: usize,
    /// Pinned since the plan was made.
    spared: Vec<BackupId>,
}

fn carry_out(
    repository: &Repository,
    going: &[BackupId],
    dry_run: bool,
    context: &Context<'_>,
) -> anyhow::Result<Carried> {
    if dry_run {
        return Ok(Carried { gone: going.len(), spared: Vec::new() });
    }
    let mut gone = 0;
    let spared = forget::carry_out(repository, going.iter().copied(), &mut |_| gone += 1)?;
    for id in &spared {
        context.terminal.warn(&format!("{id} was pinned meanwhile and stays"));
    }
    Ok(Carried { gone, spared })
}

fn tell(context: &Context<'_>, dry_run: bool, gone: usize, more: &str) -> anyhow::Result<()> {
    let backups = text::counted(gone, "backup");
    let text = match (dry_run, gone) {
        (true, _) => format!("{backups} would be forgotten{more}\n"),
        (false, 0) => format!("{backups} forgotten{more}\n"),
        (false, _) => {
            format!("{backups} forgotten{more}; they take room until abbild prune, and --undo brings them back\n")
        }
    };
    context.terminal.done(&text)
}

fn as_table(plan: &ForgetPlan<'_>) -> Table {
    let mut table =
        Table::new([Column::text("ID"), Column::text("BACKUP"), Column::text("PLAN"), Column::text("REASON")]);
    for (brief, verdict) in &plan.lines {
        let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        table.row([
            text::short_id(brief.backup),
            text::backup_name(*brief),
            if verdict.keep { "keep" } else { "forget" }.to_owned(),
            reasons.join(", "),
        ]);
    }
    table
}

fn lines<'a>(plan: &'a ForgetPlan<'_>, wanted: impl Fn(&Brief, &Verdict) -> bool) -> Vec<Line<'a>> {
    let lines = plan.lines.iter().filter(|(brief, verdict)| wanted(brief, verdict));
    lines.map(|(brief, verdict)| line(*brief, &verdict.reasons)).collect()
}

fn line<'a>(backup: &'a impl Named, reasons: &'a [Reason]) -> Line<'a> {
    Line {
        backup: backup.backup(),
        name: text::backup_name(backup),
        machine: backup.machine(),
        instant: backup.instant(),
        reasons,
    }
}

fn undo(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    if arguments.names.is_empty() && !arguments.all {
        let hint = "see which there are: abbild forget --undo --all --dry-run";
        return Err(Usage::new("nothing says which backups to bring back", hint).into());
    }
    let repository = place::open(context)?;
    let mut manifests = Vec::new();
    let mut places = Vec::new();
    for forgotten in forgotten::list(repository.store())? {
        match forgotten::load(&repository, &forgotten) {
            Ok(manifest) => {
                manifests.push(manifest);
                places.push(forgotten);
            }
            Err(error) => {
                context.terminal.warn(&format!("forgotten backup {} cannot be read: {error}", forgotten.backup))
            }
        }
    }
    manifests.sort_by_key(|manifest| (manifest.instant, manifest.backup));
    let mut wanted: Vec<&Manifest> = if arguments.all { manifests.iter().collect() } else { Vec::new() };
    for named in &arguments.names {
        wanted.push(name::find(named, &manifests)?);
    }
    wanted.sort_by_key(|manifest| manifest.backup);
    wanted.dedup_by_key(|manifest| manifest.backup);
    let mut failure = None;
    let mut back = Vec::new();
    let progress = Progress::new(context.terminal, "");
    for manifest in wanted {
        let place = places.iter().find(|place| place.backup == manifest.backup);
        let place: &Forgotten = place.expect("each manifest was read from its place");
        if !arguments.dry_run {
            match forget::undo(&repository, place, manifest, progress.control()) {
                Ok(()) => {}
                Err(error @ OpsError::Interrupted) => return Err(error.into()),
                Err(error) => {
                    context.terminal.warn(&format!("{} cannot be brought back: {error}", text::backup_name(manifest)));
                    failure.get_or_insert(error);
                    continue;
                }
            }
        }
        back.push(manifest);
    }
    progress.finish([]);
    context.terminal.json(&serde_json::json!({
        "dry_run": arguments.dry_run,
        "brought_back": back.iter().map(|manifest| line(*manifest, &[])).collect::<Vec<_>>(),
    }))?;
    for manifest in &back {
        context.terminal.done(&format!("{}  {}\n", text::short_id(manifest.backup), text::backup_name(*manifest)))?;
    }
    let would = if arguments.dry_run { " can be" } else { "" };
    context.terminal.done(&format!("{}{would} brought back\n", text::counted(back.len(), "backup")))?;
    match failure {
        Some(error) if back.is_empty() => Err(error.into()),
        failure => Ok(Exit::done_with(failure.is_some())),
    }
}
