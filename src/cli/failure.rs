//! Errors → exit code and next step, by type and never by the text of a message.

use std::error::Error;
use std::io;
use std::sync::Arc;

use super::exit::Exit;
use super::terminal::{Terminal, json_error, print_json_error};
use crate::capture::CaptureError;
use crate::disk::DiskError;
use crate::formats::ImageError;
use crate::formats::sink::TargetError;
use crate::guest::GuestError;
use crate::guest::path::PathError;
use crate::machine::MachineError;
use crate::ops::OpsError;
use crate::ops::copy::CopyError;
use crate::ops::files::FilesError;
use crate::repo::RepoError;
use crate::repo::store::StoreError;
use crate::serve::fuse::umount::UmountError;

/// A command line that is well-formed but cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Usage {
    /// What is wrong.
    pub message: String,
    /// What to type instead.
    pub hint: Option<String>,
}

impl Usage {
    /// Wrong usage, with what to type instead.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Usage {
        Usage { message: message.into(), hint: Some(hint.into()) }
    }
}

/// The user asked to stop; what that leaves depends on what was being done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted {
    /// What is there now.
    pub hint: &'static str,
}

/// What this host remembers of the store, and what the store shows, do not fit.
#[derive(Debug, thiserror::Error)]
#[error("the store is not what it was: pruning it would make that final")]
pub struct StoreWentBack;

/// An error of `ops`; if it is an interruption, with what that leaves.
pub fn of_work(error: OpsError, left_by_interruption: &'static str) -> anyhow::Error {
    match error {
        OpsError::Interrupted | OpsError::Repo(RepoError::Interrupted) => {
            Interrupted { hint: left_by_interruption }.into()
        }
        error => error.into(),
    }
}

/// What is known of an error: how the run ends, and what the user can do.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How the run ends.
    pub exit: Exit,
    /// What to do next, a line each.
    pub hint: Option<String>,
}

/// Prints an error in the form that is wanted; gives the exit code.
pub fn report(terminal: &Terminal, error: &anyhow::Error) -> Exit {
    let verdict = verdict(error);
    let (message, causes) = words(error);
    if terminal.json {
        print_json_error(&message, &causes, verdict.hint.as_deref(), verdict.exit);
    }
    terminal.error(&message, &causes, verdict.hint.as_deref());
    verdict.exit
}

/// An error as the value that `--json` prints.
pub fn as_json(error: &anyhow::Error) -> serde_json::Value {
    let verdict = verdict(error);
    let (message, causes) = words(error);
    json_error(&message, &causes, verdict.hint.as_deref(), verdict.exit)
}

/// The message, and its causes, each once.
pub fn words(error: &anyhow::Error) -> (String, Vec<String>) {
    let mut causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    causes.dedup();
    (error.to_string(), causes)
}

/// How a run with this error ends, and what to do next: the first link of the chain that is known decides.
pub fn verdict(error: &anyhow::Error) -> Verdict {
    let unknown = Verdict { exit: Exit::Failed, hint: None };
    // A full medium has many names on the way up; it counts before what it broke.
    let full = error.chain().any(is_out_of_space);
    let known = error.chain().find_map(of_link);
    match (full, known) {
        (true, Some(known)) if known.exit == Exit::NoSpace => known,
        (true, _) => Verdict { exit: Exit::NoSpace, hint: Some("make room there, then run it again".to_owned()) },
        (false, known) => known.unwrap_or(unknown),
    }
}

fn is_out_of_space(link: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    link.downcast_ref::<io::Error>().is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
}

fn of_link(link: &(dyn Error + 'static)) -> Option<Verdict> {
    if let Some(usage) = link.downcast_ref::<Usage>() {
        return Some(Verdict { exit: Exit::Usage, hint: usage.hint.clone() });
    }
    if let Some(Interrupted { hint }) = link.downcast_ref() {
        return Some(Verdict { exit: Exit::Interrupted, hint: Some((*hint).to_owned()) });
    }
    if link.is::<StoreWentBack>() {
        return Some(Verdict { exit: Exit::Damaged, hint: Some(super::watch::HINT.to_owned()) });
    }
    if let Some(error) = link.downcast_ref::<UmountError>() {
        return failed(super::mount::hint(error));
    }
    // Errors that only pass another one on do not show it as their cause: look inside.
    match link.downcast_ref::<FilesError>() {
        Some(FilesError::Ops(error)) => return of_link(error),
        Some(error) => return of_files(error),
        None => {}
    }
    let boxed = link.downcast_ref::<Box<GuestError>>().map(AsRef::as_ref);
    let shared = || link.downcast_ref::<Arc<GuestError>>().map(AsRef::as_ref);
    if let Some(error) = boxed.or_else(shared).or_else(|| link.downcast_ref()) {
        return of_guest(error);
    }
    // A path that met damage passes that on.
    if let Some(PathError::Guest(error)) = link.downcast_ref::<Box<PathError>>().map(AsRef::as_ref) {
        return of_guest(error);
    }
    if let Some(CopyError::NotVerified { .. } | CopyError::FileNotVerified { .. }) = link.downcast_ref() {
        let hint =
            "nothing wrong was left there: test this host's memory and the destination's medium, then copy again";
        return Some(Verdict { exit: Exit::Damaged, hint: Some(hint.to_owned()) });
    }
    match link.downcast_ref::<OpsError>() {
        Some(OpsError::Machine(error)) => return of_machine(error),
        Some(OpsError::Image(error)) => return of_image(error),
        Some(OpsError::Capture(error)) => return of_capture(error),
        Some(OpsError::Repo(error)) => return of_repo(error),
        Some(error) => return of_ops(error),
        None => {}
    }
    if let Some(error) = link.downcast_ref::<RepoError>() {
        return of_repo(error);
    }
    if let Some(error) = link.downcast_ref::<StoreError>() {
        return of_store(error);
    }
    if let Some(error) = link.downcast_ref::<MachineError>() {
        return of_machine(error);
    }
    if let Some(error) = link.downcast_ref::<ImageError>() {
        return of_image(error);
    }
    if let Some(error) = link.downcast_ref::<CaptureError>() {
        return of_capture(error);
    }
    if let Some(error) = link.downcast_ref::<DiskError>() {
        return of_disk(error);
    }
    link.downcast_ref::<io::Error>().filter(|error| error.kind() == io::ErrorKind::Interrupted).map(|_| interrupted())
}

fn failed(hint: impl Into<String>) -> Option<Verdict> {
    Some(Verdict { exit: Exit::Failed, hint: Some(hint.into()) })
}

fn interrupted() -> Verdict {
    Verdict { exit: Exit::Interrupted, hint: None }
}

fn of_ops(error: &OpsError) -> Option<Verdict> {
    match error {
        OpsError::Interrupted => Some(interrupted()),
        OpsError::NotVerified { .. } => Some(Verdict {
            exit: Exit::Damaged,
            hint: Some(
                "do not use it: the target's medium or this host's memory is faulty; restore elsewhere".to_owned(),
            ),
        }),
        OpsError::WrongDigest { .. } => Some(Verdict {
            exit: Exit::Damaged,
            hint: Some(
                "the package was damaged or changed after it was made: fetch it again from where it came".to_owned(),
            ),
        }),
        OpsError::Libvirt { .. } => {
            failed("see what libvirt has: virsh list --all; or name the machine's XML file, as virsh dumpxml prints it")
        }
        OpsError::Target { .. } => failed("name another folder, or allow files in it to be replaced: --overwrite"),
        // Their cause may be known.
        _ => None,
    }
}

/// Whether stored data or a guest's filesystem is damaged, so that something could not be read.
pub fn is_damage(error: &(dyn Error + 'static)) -> bool {
    let links = std::iter::successors(Some(error), |link| (*link).source());
    links.filter_map(of_link).next().is_some_and(|verdict| verdict.exit == Exit::Damaged)
}

fn of_files(error: &FilesError) -> Option<Verdict> {
    let choose = |volumes: &[String], source: &str| match volumes {
        [] => failed(format!("see what is there: abbild ls --volumes {source}:")),
        volumes => failed(format!(
            "name one of {}, as in {source}:{}/PATH\nsee what is on them: abbild ls --volumes {source}:",
            volumes.join(", "),
            volumes[0]
        )),
    };
    match error {
        FilesError::Interrupted => Some(interrupted()),
        FilesError::WhichVolume { source_name, volumes } | FilesError::Drive { source_name, volumes, .. } => {
            choose(volumes, source_name)
        }
        FilesError::NoVolume { source_name, wanted, volumes } => {
            let hint = format!("a path in the guest begins with a slash: {source_name}:/{wanted}");
            let more = choose(volumes, source_name).and_then(|verdict| verdict.hint).unwrap_or_default();
            failed(format!("{hint}\n{more}"))
        }
        FilesError::NoFiles { source_name, .. } | FilesError::Volume { source_name, .. } => choose(&[], source_name),
        FilesError::Place(_) => Some(Verdict {
            exit: Exit::Usage,
            hint: Some("BACKUP:PATH, as in web1@latest:/etc/fstab or disk.qcow2:/etc/fstab".to_owned()),
        }),
        FilesError::Directory { place } => failed(format!("see what is in it: abbild ls {place}")),
        FilesError::Exists { .. } => failed("name another place, or replace it: --overwrite"),
        FilesError::InTheWay { .. } => failed("copy to another folder, or move it away"),
        FilesError::Inconsistent { .. } => Some(Verdict { exit: Exit::Damaged, hint: None }),
        // Their cause says more.
        _ => None,
    }
}

fn of_guest(error: &GuestError) -> Option<Verdict> {
    match error {
        GuestError::Corrupt { .. } => Some(Verdict {
            exit: Exit::Damaged,
            hint: Some(
                "the guest's filesystem was damaged when this was taken; an earlier backup may be whole".to_owned(),
            ),
        }),
        GuestError::Disk(error) => of_disk(error),
        _ => None,
    }
}

fn of_repo(error: &RepoError) -> Option<Verdict> {
    let verdict = |exit, hint: &str| Some(Verdict { exit, hint: Some(hint.to_owned()) });
    match error {
        error if error.is_busy() => {
            verdict(Exit::Busy, "another abbild of this host is writing to the index cache: try again when it is done")
        }
        error if error.is_out_of_space() => verdict(
            Exit::NoSpace,
            "make room there (abbild forget and abbild prune work on a full disk), then run it again: it goes on from what is stored",
        ),
        RepoError::NoRepository { place } => {
            let place = if place.contains(char::is_whitespace) { format!("{place:?}") } else { place.clone() };
            verdict(Exit::NoRepository, &format!("check the name, or create one: abbild init --repo {place}"))
        }
        RepoError::NotEmpty { .. } => {
            failed("name an empty or new folder; if a run of abbild init died here, delete what it left")
        }
        RepoError::WrongKey { .. } => verdict(Exit::WrongKey, "see which keys open it: abbild key list"),
        RepoError::KeyFile { .. } => verdict(
            Exit::WrongKey,
            "name the repository's key file with --key-file or ABBILD_KEY_FILE; a printed key can be typed in again",
        ),
        RepoError::Damaged { object, .. } if object.starts_with("index/") => {
            verdict(Exit::Damaged, "the index can be made anew from the packs: abbild index rebuild")
        }
        RepoError::ChunksVanished { .. } => {
            verdict(Exit::Damaged, "run it again: it reads everything then, and stores what is missing")
        }
        RepoError::SessionLost { .. } => failed("run it again: it goes on from what is stored"),
        RepoError::Damaged { .. } | RepoError::MissingChunk { .. } | RepoError::PacksVanished { .. } => {
            verdict(Exit::Damaged, "see which backups are hit: abbild check --read-data")
        }
        RepoError::Unsupported { .. } => failed("it was written by a later version: update abbild"),
        RepoError::UnknownBackup { candidates, .. } if candidates.is_empty() => failed("there are no backups yet"),
        RepoError::UnknownBackup { candidates, .. } => {
            failed(format!("there are: {}\nsee all: abbild list", candidates.join(", ")))
        }
        RepoError::AmbiguousBackup { fits, .. } => {
            let fits: Vec<String> = fits.iter().take(10).map(ToString::to_string).collect();
            failed(format!("type more of the id: {}", fits.join(", ")))
        }
        RepoError::Slot { .. } => failed("see the slots: abbild key list"),
        RepoError::BlobNotReproduced { .. } => failed("test this host's memory; nothing wrong was stored"),
        RepoError::IndexPlace { .. } => failed("name a folder on a local disk: --cache-dir DIR"),
        RepoError::Index { .. } => failed(
            "the index cache holds nothing that is not in the repository: delete the file, or name another --cache-dir",
        ),
        RepoError::Store(error) => of_store(error),
        RepoError::Interrupted => Some(interrupted()),
        RepoError::GivenUp => None,
    }
}

fn of_store(error: &StoreError) -> Option<Verdict> {
    let damaged = || {
        let hint = Some("see which backups are hit: abbild check --read-data".to_owned());
        Some(Verdict { exit: Exit::Damaged, hint })
    };
    match error {
        StoreError::NoSpace { .. } => Some(Verdict {
            exit: Exit::NoSpace,
            hint: Some("make room there (abbild forget and abbild prune work on a full disk), then run it again: it goes on from what is stored".to_owned()),
        }),
        StoreError::NotFound { .. } | StoreError::Short { .. } | StoreError::TooLarge { .. } => damaged(),
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            failed("this user may not do that in the repository: check who owns it")
        }
        _ => None,
    }
}

/// What to type instead.
const NAME_A_MACHINE: &str = "name a machine's folder or definition, a disk image or a block device";

fn of_machine(error: &MachineError) -> Option<Verdict> {
    match error {
        MachineError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => failed(NAME_A_MACHINE),
        MachineError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            failed("this user may not read it: run abbild as a user who may")
        }
        MachineError::NoSuchSnapshot { known, .. } if known.is_empty() => {
            failed("leave --snapshot out to back up the current state")
        }
        MachineError::NoSuchSnapshot { .. } | MachineError::AmbiguousSnapshot { .. } => {
            failed("choose one of these with --snapshot, by name or number; or base, or current")
        }
        MachineError::NoMachine { .. } => failed(NAME_A_MACHINE),
        _ => None,
    }
}

fn of_image(error: &ImageError) -> Option<Verdict> {
    match error {
        ImageError::Corrupt { file, .. } => failed(inspect(file)),
        ImageError::Missing { named_by, .. } => failed(inspect(named_by)),
        ImageError::ParentMismatch { child, .. } => failed(inspect(child)),
        ImageError::Chain { file, .. } => failed(inspect(file)),
        ImageError::Unsupported { file, .. } => {
            failed(format!("{}\nif it is a raw disk all the same, back it up with --raw", inspect(file)))
        }
        ImageError::Forbidden { .. } => {
            failed("if you trust this machine, allow the folder that the file lies in: --allow-folder DIR")
        }
        ImageError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            failed("this user may not read it: run abbild as a user who may")
        }
        ImageError::Target(error) => of_target(error),
        _ => None,
    }
}

fn inspect(file: &std::path::Path) -> String {
    let file = file.display().to_string();
    let file = if file.contains(char::is_whitespace) { format!("{file:?}") } else { file };
    format!("see all that is wrong with it: abbild inspect {file}")
}

fn of_target(error: &TargetError) -> Option<Verdict> {
    match error {
        TargetError::Exists { .. } => failed("name another file, or replace this one: --overwrite"),
        TargetError::NoFolder { .. } => failed("make the folder first"),
        TargetError::Size { .. } => failed("restore to a new file, or to a device that is large enough"),
        TargetError::Kind { .. } => failed("name a file or a block device"),
        TargetError::InUse { .. } => failed("unmount it or stop what uses it; nothing was written"),
        TargetError::DiskSize { .. } | TargetError::FileFull { .. } => failed("choose another format: --format raw"),
        _ => None,
    }
}

fn of_capture(error: &CaptureError) -> Option<Verdict> {
    match error {
        // The message itself says the ways out: they depend on the machine.
        CaptureError::InUse { .. } => Some(Verdict { exit: Exit::Failed, hint: None }),
        CaptureError::Changed { .. } | CaptureError::Gone { .. } => failed(
            "the machine was started or a snapshot removed meanwhile; nothing was recorded: try again, or back up a snapshot",
        ),
        CaptureError::OtherDisks { .. } => None,
    }
}

fn of_disk(error: &DiskError) -> Option<Verdict> {
    match error {
        DiskError::Corrupt { file, .. } => failed(inspect(file)),
        DiskError::Changed { .. } => failed(
            "the machine was started or a snapshot removed meanwhile; nothing was recorded: try again, or back up a snapshot",
        ),
        _ => None,
    }
}
