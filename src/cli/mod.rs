//! The command line: one file a verb, and around them what all verbs share.
//!
//! In here: `arguments` what can be typed · `terminal` what is printed and how · `progress` long work as it goes ·
//! `interrupt` Ctrl-C · `secret`, `place` how a repository is found and opened · `failure` errors → exit code and
//! hint · `guests` places in guests, opened · `watch` a store that went back in time · `space` one that is nearly full ·
//! `output` results that come one by one · `text`, `table` numbers, times and columns for people · `generated` manual pages and completions.
//! This room alone knows clap, indicatif and anyhow, and it alone prints: results on stdout, all else on stderr.
//!
//! A verb takes its arguments and a [`Context`], does its work through `ops`, and gives an [`Exit`] back.

mod arguments;
mod exit;
mod failure;
mod generated;
mod guests;
mod interrupt;
mod output;
mod place;
mod progress;
mod secret;
mod table;
mod terminal;
mod text;
mod watch;

mod backup;
mod cat;
mod check;
mod copy;
mod cp;
mod diff;
mod find;
mod forget;
mod index;
mod init;
mod inspect;
mod key;
mod list;
mod ls;
mod mount;
mod pin;
mod prune;
mod restore;
mod scrub;
mod show;
mod space;
mod stats;
mod version;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Cli, Global, Verb};
use exit::Exit;
use terminal::Terminal;

/// What every verb is given.
struct Context<'a> {
    global: &'a Global,
    terminal: &'a Terminal,
}

/// Parses the command line, runs one verb, and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return arguments::refuse(&error).into(),
    };
    let terminal = Terminal::new(&cli.global);
    let context = Context { global: &cli.global, terminal: &terminal };
    let exit = run(&cli.verb, &context).unwrap_or_else(|error| failure::report(&terminal, &error));
    exit.into()
}

fn run(verb: &Verb, context: &Context<'_>) -> anyhow::Result<Exit> {
    match verb {
        Verb::Init(arguments) => init::run(arguments, context),
        Verb::Backup(arguments) => backup::run(arguments, context),
        Verb::List(arguments) => list::run(arguments, context),
        Verb::Show(arguments) => show::run(arguments, context),
        Verb::Stats(arguments) => stats::run(arguments, context),
        Verb::Restore(arguments) => restore::run(arguments, context),
        Verb::Mount(arguments) => mount::mount(arguments, context),
        Verb::Umount(arguments) => mount::umount(arguments, context),
        Verb::Ls(arguments) => ls::run(arguments, context),
        Verb::Cat(arguments) => cat::run(arguments, context),
        Verb::Cp(arguments) => cp::run(arguments, context),
        Verb::Find(arguments) => find::run(arguments, context),
        Verb::Diff(arguments) => diff::run(arguments, context),
        Verb::Forget(arguments) => forget::run(arguments, context),
        Verb::Pin(arguments) => pin::run(arguments, context),
        Verb::Prune(arguments) => prune::run(arguments, context),
        Verb::Copy(arguments) => copy::run(arguments, context),
        Verb::Check(arguments) => check::run(arguments, context),
        Verb::Inspect(arguments) => inspect::run(arguments, context),
        Verb::Index(arguments) => index::run(arguments, context),
        Verb::Key(arguments) => key::run(arguments, context),
        Verb::Completions(arguments) => generated::completions(arguments, context),
        Verb::Version => version::run(context),
        Verb::Generate(arguments) => generated::write_files(arguments),
    }
}
