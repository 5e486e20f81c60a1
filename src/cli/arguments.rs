//! What can be typed: the verbs and the options that all of them take. Help, manual pages and completions are made from
//! this. No secret is ever an argument: arguments are seen by every user of the host.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::exit::Exit;
use super::{
    backup, cat, check, copy, cp, diff, find, forget, generated, index, init, inspect, key, list, ls, mount, pin,
    prune, restore, show, stats, terminal,
};

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed
    2  wrong usage
    3  done, but with warnings, or not for every machine
   10  there is no repository
   11  somebody else is at work
   12  the key opens no slot
   13  damaged data was found
   14  out of space
  130  interrupted; the next run goes on from what is stored";

const ENVIRONMENT: &str = "\
Environment:
  ABBILD_REPOSITORY        the repository, if there is no --repo
  ABBILD_KEY_FILE          the key file, if there is no --key-file
  ABBILD_PASSWORD_FILE     a file whose first line is the passphrase
  ABBILD_PASSWORD_COMMAND  a shell command that prints the passphrase
  ABBILD_PASSWORD          the passphrase
  ABBILD_TO_KEY_FILE …     the same for the repository that abbild copy copies to
  ABBILD_WARN_FREE         when to warn of a full store, if there is no --warn-free
  NO_COLOR                 no colours, unless --color=always

The first of key file, password file, password command and password that is set is used; if none is, the passphrase is
asked for on the terminal. The default repository is $XDG_DATA_HOME/abbild/repository, with the key file
$XDG_CONFIG_HOME/abbild/key.";

/// Back up and restore virtual machines by their disk images
#[derive(Debug, Parser)]
#[command(
    name = "abbild",
    version,
    about,
    after_help = EXIT_CODES,
    after_long_help = format!("{ENVIRONMENT}\n\n{EXIT_CODES}"),
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    infer_long_args = false
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Folder of the repository
    #[arg(long, global = true, value_name = "DIR", env = "ABBILD_REPOSITORY", hide_env_values = true)]
    #[arg(value_parser = path_or_nothing(), value_hint = clap::ValueHint::DirPath)]
    repo: Option<PathBuf>,
    /// Key file that opens the repository
    #[arg(long, global = true, value_name = "FILE", env = "ABBILD_KEY_FILE", hide_env_values = true)]
    #[arg(value_parser = path_or_nothing(), value_hint = clap::ValueHint::FilePath)]
    key_file: Option<PathBuf>,
    /// Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub cache_dir: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress and nothing on success; warnings and errors stay
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Tell each step in plain lines
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Draw no progress bar
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// When to colour messages
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", value_enum)]
    pub color: Color,
}

impl Global {
    /// The repository that was named, by option or environment.
    pub fn repo(&self) -> Option<&Path> {
        set(self.repo.as_deref())
    }

    /// The key file that was named, by option or environment.
    pub fn key_file(&self) -> Option<&Path> {
        set(self.key_file.as_deref())
    }
}

/// `ABBILD_REPOSITORY=` means that it is not set.
fn path_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn set(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// When to colour messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a repository
    Init(init::Arguments),
    /// Back up machines
    Backup(backup::Arguments),
    /// List backups
    List(list::Arguments),
    /// Show all that is known of a backup
    Show(show::Arguments),
    /// Show what the repository holds, what each machine costs there, and how it grows
    Stats(stats::Arguments),
    /// Restore a machine, or one of its disks
    Restore(restore::Arguments),
    /// Show backups as folders: their disks, and the files of their guests
    Mount(mount::MountArguments),
    /// End a mount
    Umount(mount::UmountArguments),
    /// List files in guests
    Ls(ls::Arguments),
    /// Print files in guests
    Cat(cat::Arguments),
    /// Copy files out of guests
    Cp(cp::Arguments),
    /// Search files in guests
    Find(find::Arguments),
    /// Show which files differ between two backups
    Diff(diff::Arguments),
    /// Forget backups that need not be kept, and bring them back
    Forget(forget::Arguments),
    /// Keep backups from being forgotten, and list those that are pinned
    Pin(pin::Arguments),
    /// Give back the space that nothing needs
    Prune(prune::Arguments),
    /// Copy backups to a second repository, those that are not there yet
    Copy(copy::Arguments),
    /// Check whether every backup is whole
    Check(check::Arguments),
    /// Describe a disk image, and what is wrong with it
    Inspect(inspect::Arguments),
    /// Maintain the index cache
    Index(index::Arguments),
    /// Manage who can open the repository
    Key(key::Arguments),
    /// Print completions for a shell
    Completions(generated::CompletionArguments),
    /// Print the version
    Version,
    /// Write the manual pages and completions, as they are kept in the source tree
    #[command(hide = true)]
    Generate(generated::GenerateArguments),
}

/// Prints what clap has to say: help and version are results, all else is wrong usage.
pub fn refuse(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // A closed pipe is no error here either.
        let _ = error.print();
        return Exit::Done;
    }
    if std::env::args_os().any(|argument| argument == OsStr::new("--json")) {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        terminal::print_json_error(message, &[], None, Exit::Usage);
    }
    let _ = error.print();
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let cli = Cli::try_parse_from(["abbild", "--repo", "", "stats"]).unwrap();
        assert_eq!(cli.global.repo(), None);
        let cli = Cli::try_parse_from(["abbild", "stats", "--repo", "r"]).unwrap();
        assert_eq!(cli.global.repo(), Some(Path::new("r")));
    }
}
