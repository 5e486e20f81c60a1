//! `abbild key`: who can open the repository. Each key or passphrase has a slot of its own; any slot opens all.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::exit::Exit;
use super::failure::Usage;
use super::place::Place;
use super::table::{Column, Table};
use super::{Context, secret, text};
use crate::repo::RepoError;
use crate::repo::ids::ObjectId;
use crate::repo::keys::{self, KdfCost, KeyFile, ListedSlot, Secret, SlotKind};

/// Arguments of `key`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the keys that open the repository; needs none of them
    List,
    /// Add a key file or a passphrase
    Add(New),
    /// Remove a key
    Remove {
        /// The beginning of its slot's id
        slot: String,
    },
    /// Change the passphrase that the repository is opened with
    Passwd {
        /// Take the new passphrase from the first line of this file instead of asking
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        new_password_file: Option<PathBuf>,
    },
    /// Give the repository a new key, and take all others away: they open nothing that is stored from then on
    #[command(after_help = "\
What is stored from now on is sealed under a new secret, which only the new key opens; add further keys afterwards. Use it
when a key was lost to somebody. It cannot take back what they could read before: the backups made until now stay sealed
as they are, and who kept a copy of an old key can read those wherever the store can be read. Hosts need the new key for
their next run; a run that is at work now ends as it began.")]
    Rotate {
        #[command(flatten)]
        new: New,
        /// Take the keys away; without it the command only says which these are
        #[arg(long)]
        yes: bool,
    },
    /// Write the key as a short text that can be printed and typed in again
    #[command(after_help = "\
If the repository is opened with a key file, that key is written. If it is opened with a passphrase, a new key is made
and added: it opens the repository beside the passphrase.")]
    Export {
        /// Write to this new file instead of stdout
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
#[group(id = "new", required = true, multiple = false)]
struct NewSecret {
    /// A key file; it is made if it does not exist
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_key_file: Option<PathBuf>,
    /// A passphrase, asked for twice
    #[arg(long)]
    passphrase: bool,
    /// The passphrase in the first line of this file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_password_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct New {
    #[command(flatten)]
    secret: NewSecret,
    /// A name for the key, to tell keys apart later
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let place = Place::of(context)?;
    match &arguments.verb {
        Verb::List => list(&place, context),
        Verb::Add(arguments) => add(arguments, &place, context),
        Verb::Remove { slot } => remove(slot, &place, context),
        Verb::Rotate { new, yes } => rotate(new, *yes, &place, context),
        Verb::Passwd { new_password_file } => change(new_password_file.as_deref(), &place, context),
        Verb::Export { to } => export(to.as_deref(), &place, context),
    }
}

fn list(place: &Place, context: &Context<'_>) -> anyhow::Result<Exit> {
    let slots = keys::list(place.store()?.as_ref())?;
    context.terminal.json(&json!({ "slots": slots.iter().map(slot_json).collect::<Vec<_>>() }))?;
    let mut table =
        Table::new([Column::text("SLOT"), Column::text("KIND"), Column::text("ADDED"), Column::text("LABEL").spare()]);
    let mut damaged = false;
    for slot in &slots {
        let id = text::short_id(slot.name.last_part());
        match &slot.info {
            Ok(info) => {
                table.row([id, kind(&info.kind).to_owned(), text::time_with_zone(info.created), info.label.clone()]);
            }
            Err(error) => {
                damaged = true;
                context.terminal.warn(&format!("slot {id} is damaged: {error}"));
            }
        }
    }
    context.terminal.result(&table.to_text(context.terminal.columns()))?;
    Ok(if damaged { Exit::Damaged } else { Exit::Done })
}

fn slot_json(slot: &ListedSlot) -> serde_json::Value {
    match &slot.info {
        Ok(info) => json!({
            "slot": info.slot, "kind": kind(&info.kind), "label": info.label, "created": info.created
        }),
        Err(error) => json!({ "slot": slot.name.last_part(), "damaged": error.to_string() }),
    }
}

fn kind(kind: &SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase { .. } => "passphrase",
        SlotKind::KeyFile { .. } => "key file",
    }
}

fn add(new: &New, place: &Place, context: &Context<'_>) -> anyhow::Result<Exit> {
    let (repository, _) = place.open(context)?;
    let secret = new_secret(&new.secret, place, context)?;
    let slot = repository.add_key(&secret, &new.label, KdfCost::Calibrated)?;
    done(context, "added", slot)
}

fn new_secret(new: &NewSecret, place: &Place, context: &Context<'_>) -> anyhow::Result<Secret> {
    Ok(match (&new.new_key_file, &new.new_password_file) {
        (Some(file), _) if file.exists() => Secret::KeyFile(KeyFile::load(file)?),
        (Some(file), _) => {
            let key = KeyFile::generate(&file.display().to_string());
            key.save(file)?;
            context.terminal.say(&format!("made the key file {}", file.display()));
            Secret::KeyFile(key)
        }
        (None, Some(file)) => Secret::Passphrase(secret::from_file(file)?),
        (None, None) => Secret::Passphrase(secret::ask_twice(context.terminal, &place.shown())?),
    })
}

fn rotate(new: &New, yes: bool, place: &Place, context: &Context<'_>) -> anyhow::Result<Exit> {
    let (repository, _) = place.open(context)?;
    // Those of now: a slot that another rotation makes meanwhile is not ours to remove.
    let old = keys::list(repository.store())?;
    let named = old.iter().map(|slot| {
        let id = text::short_id(slot.name.last_part());
        let label = slot.info.as_ref().map_or("damaged", |info| info.label.as_str());
        if label.is_empty() { id } else { format!("{id} ({label})") }
    });
    let named = named.collect::<Vec<_>>().join(", ");
    if !yes {
        let message = format!("the keys that would open the repository no longer: {named}");
        return Err(Usage::new(message, "if that is wanted, say --yes").into());
    }
    let secret = new_secret(&new.secret, place, context)?;
    let slot = repository.begin_epoch(&secret, &new.label, KdfCost::Calibrated)?;
    // The new one is durable: from here on it opens everything, whatever happens to the rest.
    for listed in &old {
        keys::remove(repository.store(), listed.name.last_part().parse().context("a slot's name is its id")?)?;
    }
    let removed: Vec<&str> = old.iter().map(|listed| listed.name.last_part()).collect();
    context.terminal.json(&json!({ "added": slot, "removed": removed, "epoch": repository.epoch() + 1 }))?;
    let text = format!(
        "added key slot {}, removed {named}\n\
         what is stored from now on opens with the new key alone; give it to every host that uses this repository\n",
        text::short_id(slot)
    );
    context.terminal.done(&text)?;
    Ok(Exit::Done)
}

fn remove(wanted: &str, place: &Place, context: &Context<'_>) -> anyhow::Result<Exit> {
    // Opened first: whoever holds no key may not take keys away from others, and a key that works must stay.
    let (repository, _) = place.open(context)?;
    let slot = find(wanted, &keys::list(repository.store())?)?;
    if slot == repository.slot() {
        let reason = "the repository was opened with it just now; open it with another key to remove this one";
        return Err(RepoError::Slot { slot: text::short_id(slot), reason: reason.to_owned() }.into());
    }
    keys::remove(repository.store(), slot)?;
    done(context, "removed", slot)
}

/// The slot whose id begins so.
fn find(wanted: &str, slots: &[ListedSlot]) -> anyhow::Result<ObjectId> {
    let refuse = |reason: &str| RepoError::Slot { slot: wanted.to_owned(), reason: reason.to_owned() };
    let fits: Vec<&ListedSlot> =
        slots.iter().filter(|slot| !wanted.is_empty() && slot.name.last_part().starts_with(wanted)).collect();
    match fits.as_slice() {
        [one] => Ok(one.name.last_part().parse().context("a slot's name is its id")?),
        [] => Err(refuse("there is no such slot").into()),
        _ => Err(refuse("several slots begin so: type more of the id").into()),
    }
}

fn change(new_password_file: Option<&Path>, place: &Place, context: &Context<'_>) -> anyhow::Result<Exit> {
    let (repository, present) = place.open(context)?;
    if let Secret::KeyFile(key) = &present {
        let message = format!("the repository was opened with the key file {}, not with a passphrase", key.origin());
        return Err(Usage::new(message, "to add a passphrase: abbild key add --passphrase").into());
    }
    let new = match new_password_file {
        Some(file) => secret::from_file(file)?,
        None => secret::ask_twice(context.terminal, &place.shown())?,
    };
    let old = repository.slot();
    let label = keys::list(repository.store())?
        .into_iter()
        .find_map(|slot| slot.info.ok().filter(|info| info.slot == old))
        .map(|info| info.label)
        .unwrap_or_default();
    // The new one first: at no moment is the repository without a key.
    let slot = repository.add_key(&Secret::Passphrase(new), &label, KdfCost::Calibrated)?;
    keys::remove(repository.store(), old)?;
    context.terminal.json(&json!({ "added": slot, "removed": old }))?;
    context.terminal.done("the passphrase was changed\n")?;
    Ok(Exit::Done)
}

fn export(to: Option<&Path>, place: &Place, context: &Context<'_>) -> anyhow::Result<Exit> {
    let (repository, present) = place.open(context)?;
    let key = match present {
        Secret::KeyFile(key) => key,
        Secret::Passphrase(_) => {
            let key = KeyFile::generate("exported");
            let secret = Secret::KeyFile(key);
            let slot = repository.add_key(&secret, "exported", KdfCost::Calibrated)?;
            context.terminal.say(&format!("added a new key in slot {}", text::short_id(slot)));
            let Secret::KeyFile(key) = secret else { anyhow::bail!("a key file stays one") };
            key
        }
    };
    let text = key.to_text();
    match to {
        Some(path) => {
            key.save(path)?;
            context.terminal.json(&json!({ "file": path }))?;
            context.terminal.done(&format!("wrote the key to {}\n", path.display()))?;
        }
        None => {
            context.terminal.json(&json!({ "key": text.as_str() }))?;
            context.terminal.result(&text)?;
        }
    }
    Ok(Exit::Done)
}

fn done(context: &Context<'_>, what: &str, slot: ObjectId) -> anyhow::Result<Exit> {
    context.terminal.json(&json!({ what: slot }))?;
    context.terminal.done(&format!("{what} key slot {}\n", text::short_id(slot)))?;
    Ok(Exit::Done)
}
