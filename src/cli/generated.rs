//! Manual pages and completions, made from the definitions of the command line; a test compares the files in the source
//! tree with what this makes.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory;
use clap_complete::Shell;

use super::Context;
use super::arguments::Cli;
use super::exit::Exit;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For bash:  abbild completions bash > ~/.local/share/bash-completion/completions/abbild
For zsh:   abbild completions zsh > ~/.zfunc/_abbild     (with ~/.zfunc in $fpath)
For fish:  abbild completions fish > ~/.config/fish/completions/abbild.fish")]
pub struct CompletionArguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of the hidden `generate`.
#[derive(Debug, clap::Args)]
pub struct GenerateArguments {
    /// Folder that gets the folders man and completions
    dir: PathBuf,
}

pub fn completions(arguments: &CompletionArguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let script = String::from_utf8(completion(arguments.shell)).context("completions are text")?;
    context.terminal.json(&serde_json::json!({ "shell": arguments.shell.to_string(), "script": script }))?;
    context.terminal.result_as_is(&script)?;
    Ok(Exit::Done)
}

fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "abbild", &mut script);
    script
}

pub fn write_files(arguments: &GenerateArguments) -> anyhow::Result<Exit> {
    let (man, completions) = (arguments.dir.join("man"), arguments.dir.join("completions"));
    for folder in [&man, &completions] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    for (shell, name) in [(Shell::Bash, "abbild.bash"), (Shell::Zsh, "_abbild"), (Shell::Fish, "abbild.fish")] {
        write(&completions.join(name), &completion(shell))?;
    }
    let mut command = Cli::command();
    command.build();
    pages(&man, command)?;
    Ok(Exit::Done)
}

/// A page a command: `abbild.1`, `abbild-key.1`, `abbild-key-add.1`.
fn pages(folder: &Path, command: clap::Command) -> anyhow::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).date("").source(format!("abbild {}", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text).context("cannot make a manual page")?;
    write(&folder.join(page.get_filename()), &text)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        pages(folder, verb.clone())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
