//! `abbild mount` and `abbild umount`: backups as folders.
//!
//! A mount is served by a process of its own. By default this command starts itself a second time for that, waits until
//! the files are there, and ends; the second process keeps the terminal until then, so that it can ask for a passphrase.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde_json::json;

use super::exit::Exit;
use super::failure::Usage;
use super::list::Readable;
use super::place::Place;
use super::{Context, text};
use crate::ops::{mount, worker_count};
use crate::serve::fuse::log::Log;
use crate::serve::fuse::umount::{SOURCE_PREFIX, UmountError, is_mounted, unmount};
use crate::serve::fuse::{MountOptions, mount as fuse_mount};

/// What the serving process says on its output once the files are there.
const READY: &str = "ready";

/// Arguments of `mount`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "abbild mount [OPTIONS] [BACKUP]... <DIR>",
    after_help = "\
Without BACKUP all backups are shown, as MACHINE/TIME/; with one, its folders lie right in DIR:
  disks/       the guest's disks as raw images, with a VMDK descriptor for each
  files/       the guest's files, as the guest has them
  volumes/     every partition and logical volume by itself
  definition/  the machine's definition files

Examples:
  abbild mount web1@latest /mnt && cp /mnt/files/etc/fstab . && abbild umount /mnt
  abbild mount /mnt"
)]
pub struct MountArguments {
    /// Backups to show, and the folder to show them in
    #[arg(required = true, value_names = ["BACKUP", "DIR"], num_args = 1..)]
    names: Vec<String>,
    /// Serve in this process, until it is unmounted or interrupted
    #[arg(long)]
    foreground: bool,
    /// Let other users look, as far as the modes of the guest's files let them
    #[arg(long)]
    allow_other: bool,
    /// Where the serving process writes what goes wrong [default: $XDG_STATE_HOME/abbild/mount.log]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    log: Option<PathBuf>,
    /// This is the serving process
    #[arg(long, hide = true)]
    serve: bool,
}

/// Arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct UmountArguments {
    /// Folder that backups are mounted at
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    folder: PathBuf,
    /// Also while it is in use: it is gone at once, and ends with its last user
    #[arg(long)]
    lazy: bool,
}

pub fn mount(arguments: &MountArguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    let (folder, backups) = arguments.names.split_last().expect("clap wants at least one");
    let place = Place::of(context)?;
    let folder = checked_folder(Path::new(folder), &place)?;
    if arguments.foreground || arguments.serve {
        serve(arguments, backups, &folder, &place, context)
    } else {
        start(backups, &folder, context)
    }
}

pub fn umount(arguments: &UmountArguments, context: &Context<'_>) -> anyhow::Result<Exit> {
    unmount(&arguments.folder, arguments.lazy)?;
    context.terminal.json(&json!({ "unmounted": arguments.folder }))?;
    context.terminal.done(&format!("unmounted {}\n", arguments.folder.display()))?;
    Ok(Exit::Done)
}

/// What to do about a mount that stays.
pub fn hint(error: &UmountError) -> String {
    match error {
        UmountError::Busy { .. } => {
            "see who uses it: fuser -vm DIR; or unmount it all the same: abbild umount --lazy DIR".to_owned()
        }
        _ => "see all mounts: findmnt -t fuse,fuse.abbild".to_owned(),
    }
}

/// The folder to mount at, if a mount there hides nothing of ours.
fn checked_folder(folder: &Path, place: &Place) -> anyhow::Result<PathBuf> {
    let shown = folder.display();
    if is_mounted(folder) {
        let message = format!("backups are mounted at {shown} already");
        return Err(Usage::new(message, format!("end that first: abbild umount {shown}")).into());
    }
    let found = folder.canonicalize().with_context(|| format!("cannot mount at {shown}"))?;
    if !found.is_dir() {
        return Err(Usage::new(format!("{shown} is no folder"), "name an empty folder to mount at").into());
    }
    let repository = place.folder.canonicalize().unwrap_or_else(|_| place.folder.clone());
    if repository.starts_with(&found) || found.starts_with(&repository) {
        let message = format!("a mount at {shown} would hide the repository {}", place.shown());
        return Err(Usage::new(message, "name an empty folder elsewhere").into());
    }
    if std::fs::read_dir(&found).is_ok_and(|mut inside| inside.next().is_some()) {
        let message = format!("{shown} is not empty, and a mount would hide what is in it");
        return Err(Usage::new(message, "name an empty folder to mount at").into());
    }
    Ok(found)
}

/// Starts the serving process and waits until the files are there.
fn start(backups: &[String], folder: &Path, context: &Context<'_>) -> anyhow::Result<Exit> {
    let program = std::env::current_exe().context("cannot find this program")?;
    // The name of the folder goes on in full: nothing in it depends on where we are.
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--serve")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the serving process")?;
    let output = child.stdout.take().expect("it was asked for");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("cannot hear the serving process")?;
    if line.trim_end() != READY {
        // It has said why on the terminal.
        let status = child.wait().context("the serving process is lost")?;
        return Ok(Exit::of_code(status.code()));
    }
    let shown = if backups.is_empty() { "all backups".to_owned() } else { backups.join(", ") };
    context.terminal.json(&json!({ "mounted": folder, "process": child.id() }))?;
    let folder = folder.display();
    context.terminal.done(&format!("mounted {shown} at {folder}\n  to end it: abbild umount {folder}\n"))?;
    Ok(Exit::Done)
}

fn serve(
    arguments: &MountArguments,
    backups: &[String],
    folder: &Path,
    place: &Place,
    context: &Context<'_>,
) -> anyhow::Result<Exit> {
    let (repository, _) = place.open(context)?;
    let mut chosen = Vec::new();
    if !backups.is_empty() {
        let all = Readable::of(&repository, context)?;
        for name in backups {
            chosen.push(all.find(name)?.backup);
        }
    }
    let log = log_file(arguments)?;
    let root = mount::root(&repository, chosen, worker_count());
    let options =
        MountOptions { source: format!("{SOURCE_PREFIX}{}", place.shown()), allow_other: arguments.allow_other };
    let mut mounted =
        fuse_mount(root, folder, &options, log).with_context(|| format!("cannot mount at {}", folder.display()))?;
    let mut unmounter = mounted.unmounter();
    let at = folder.to_owned();
    ctrlc::set_handler(move || {
        if unmounter.unmount().is_err() {
            // Somebody is in there: it goes from the tree now, and their open files with this process.
            let _ = unmount(&at, true);
            std::process::exit(Exit::Done.code().into());
        }
    })
    .context("cannot wait for signals")?;
    if arguments.serve {
        detach(arguments)?;
    } else {
        context.terminal.say(&format!("mounted at {}; Ctrl-C ends it", folder.display()));
    }
    mounted.serve().with_context(|| format!("the mount at {} broke off", folder.display()))?;
    Ok(Exit::Done)
}

/// Says that the files are there, and lets go of the terminal.
fn detach(arguments: &MountArguments) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{READY}").and_then(|()| output.flush()).context("nobody waits for this process")?;
    drop(output);
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    let log = open_log(&log_path(arguments)?)?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&log)?;
    // Signals for the terminal's programs are no longer for us. Fails only for whoever leads a group already.
    let _ = rustix::process::setsid();
    Ok(())
}

fn log_path(arguments: &MountArguments) -> anyhow::Result<PathBuf> {
    match &arguments.log {
        Some(path) => Ok(path.clone()),
        None => super::place::state_folder().map(|folder| folder.join("mount.log")),
    }
}

fn open_log(path: &Path) -> anyhow::Result<std::fs::File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot write the log {}", path.display()))
}

/// Where a mount says what goes wrong: on the terminal as long as there is one.
fn log_file(arguments: &MountArguments) -> anyhow::Result<Log> {
    if !arguments.serve {
        return Ok(Log::new(|message| eprintln!("abbild: {}", super::terminal::printable(message))));
    }
    let file = Arc::new(Mutex::new(open_log(&log_path(arguments)?)?));
    Ok(Log::new(move |message| {
        let now = text::time_with_zone(jiff::Timestamp::now());
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // Where the log cannot be written there is nobody to tell.
        let _ = writeln!(file, "{now} {}", super::terminal::printable(message));
    }))
}
