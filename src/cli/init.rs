//! `abbild init`: creates a repository.

use super::Context;
use super::exit::Exit;
use super::place::Place;
use crate::repo::parity::{self, Share};

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --key-file the key is read from that file, or made there if it does not exist. Without it the passphrase is asked
for. The default repository gets a key file of its own.")]
pub struct Arguments {
    /// A name for the first key, to tell keys apart later
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Store a recovery record of this share of its length with each pack, so that rotten packs can be made whole
    #[arg(long, value_name = "N%")]
    parity: Option<Share>,
}

pub fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let place = Place::of(context)?;
    let repository = place.create(context, &arguments.label)?;
    if let Some(share) = arguments.parity {
        parity::set_share(repository.store(), share)?;
    }
    context.terminal.json(&serde_json::json!({
        "repository": repository.config().repository,
        "folder": place.folder,
        "slot": repository.slot(),
        "parity": arguments.parity,
    }))?;
    Ok(Exit::Done)
}
