//! What is said when the store's medium gets full: a word below the higher thresholds, a warning below the lowest.

use serde_json::json;

use super::{Context, text};
use crate::ops::statistics::left;
use crate::ops::statistics::space::{Left, Thresholds};
use crate::repo::Repository;

/// When to speak up.
#[derive(Debug, clap::Args)]
pub struct SpaceOptions {
    /// Say so when less than this share of the store's filesystem is free; below the last it is a warning; 0 is never
    #[arg(long = "warn-free", value_name = "N%,…", env = "ABBILD_WARN_FREE", default_value = "30,20,10")]
    pub thresholds: Thresholds,
}

/// Looks how full the store's medium is, and says so if that is due; whether it is a warning. A medium that does not tell is
/// no reason to call the work that was done a failure.
pub fn look(repository: &Repository, options: &SpaceOptions, context: &Context<'_>) -> anyhow::Result<bool> {
    match left(repository, &options.thresholds) {
        Ok(left) => {
            if let Some(left) = left.filter(|left| left.below.is_some()) {
                context.terminal.json(&json!({ "space": left }))?;
            }
            Ok(warn(left, context))
        }
        Err(error) => {
            context.terminal.warn(&format!("how much room is left cannot be told: {error}"));
            Ok(true)
        }
    }
}

/// Says how full it is, if that is due; whether it is a warning.
pub fn warn(left: Option<Left>, context: &Context<'_>) -> bool {
    let Some(left) = left.filter(|left| left.below.is_some()) else { return false };
    let free = format!(
        "only {:.0} % of the store's filesystem are free: {} of {}",
        left.free_percent.floor(),
        text::bytes(left.free),
        text::bytes(left.size)
    );
    if left.is_urgent {
        context.terminal.warn(&format!("{free}; make room: abbild forget --keep-daily 7 …, then abbild prune"));
    } else {
        context.terminal.say(&free);
    }
    left.is_urgent
}
