//! `abbild version`.

use super::Context;
use super::exit::Exit;

pub fn run(context: &Context<'_>) -> anyhow::Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    let format = crate::repo::config::FORMAT_VERSION;
    context.terminal.json(&serde_json::json!({ "version": version, "repository_format": format }))?;
    context.terminal.result(&format!("abbild {version} (repository format {format})\n"))?;
    Ok(Exit::Done)
}
