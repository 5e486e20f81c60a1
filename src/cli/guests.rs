//! What `ls`, `cat`, `cp`, `find` and `diff` share: opening what a name like `web1@latest:/etc` means, and what is told about
//! it. The repository is opened when a backup is meant, and once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::exit::Exit;
use super::list::Readable;
use super::table::{Column, Table};
use super::{Context, failure, place, text};
use crate::guest::detect::Role;
use crate::guest::tree::{Metadata, NodeKind, Time};
use crate::ops::backup::BackupOptions;
use crate::ops::files::FilesError;
use crate::ops::files::found::Found;
use crate::ops::files::owners::Owners;
use crate::ops::files::place::{Place, SourceName};
use crate::ops::files::source::Source;
use crate::repo::Repository;

/// How names are written, for the help of each of these verbs.
pub const NAMES_HELP: &str = "\
How a file is named:
  web1@latest:/etc/fstab              in a backup, as the guest sees it
  web1@2026-11-20T02:15:/etc/fstab    in an earlier one; or by the beginning of its id: 3f2a91bc:/etc/fstab
  web1@latest:disk0/p2/etc/fstab      on one volume: a partition, a logical volume (vg0/root); `ls web1@latest:` shows them
  web1@latest:C:/Users                on a drive of Windows, by Windows's own letter
  disk.qcow2:/etc  vms/web1/:/etc     in an image file, a block device or a machine's folder, as it is now";

/// Options for images and folders that are no backups.
#[derive(Debug, Default, clap::Args)]
pub struct ImageOptions {
    /// Also open parent images in this folder; may be given several times
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    allow_folder: Vec<PathBuf>,
    /// Read an image file as raw, whatever format its first bytes say
    #[arg(long)]
    raw: bool,
}

/// Everything that was opened.
pub struct Guests<'g> {
    context: &'g Context<'g>,
    images: &'g ImageOptions,
    repository: Option<(Arc<Repository>, Readable)>,
    opened: Vec<(SourceName, Arc<Source>)>,
}

impl<'g> Guests<'g> {
    /// Nothing opened yet.
    pub fn new(context: &'g Context<'g>, images: &'g ImageOptions) -> Guests<'g> {
        Guests { context, images, repository: None, opened: Vec::new() }
    }

    /// What `text` names, opened.
    pub fn open(&mut self, text: &OsStr) -> anyhow::Result<(Arc<Source>, Place)> {
        let place = Place::parse(text, &|path| path.exists()).map_err(FilesError::from)?;
        if let Some((_, source)) = self.opened.iter().find(|(name, _)| *name == place.source) {
            return Ok((Arc::clone(source), place));
        }
        let source = match &place.source {
            SourceName::Backup(name) => self.open_backup(name)?,
            SourceName::File(path) => self.open_file(path)?,
        };
        let source = Arc::new(source);
        source.warnings.iter().for_each(|warning| self.context.terminal.warn(warning));
        self.opened.push((place.source.clone(), Arc::clone(&source)));
        Ok((source, place))
    }

    fn open_backup(&mut self, name: &str) -> anyhow::Result<Source> {
        let (repository, all) = match self.repository.take() {
            Some(opened) => opened,
            None => {
                let repository = place::open(self.context)?;
                let all = Readable::of(&repository, self.context)?;
                (repository, all)
            }
        };
        let (repository, all) = self.repository.insert((repository, all));
        let manifest = all.manifest(name, repository)?;
        Ok(Source::of_backup(name, repository, &manifest).map_err(FilesError::from)?)
    }

    fn open_file(&self, path: &Path) -> anyhow::Result<Source> {
        let name = path.display().to_string();
        // A machine's backups have its name too, and a folder of that name may be at hand by chance.
        if !name.contains('/') && path.is_dir() {
            let terminal = self.context.terminal;
            terminal.say(&format!("reading the folder {name} as it is now; for its backup, write {name}@latest"));
        }
        let options = BackupOptions {
            allowed_folders: self.images.allow_folder.clone(),
            as_raw: self.images.raw,
            ..Default::default()
        };
        Ok(Source::of_file(&name, path, &options).map_err(FilesError::from)?)
    }

    /// Tells what is odd about the tree that was found; if all of it counts, also what it does not show. Whether that makes
    /// the result less than was asked for.
    pub fn tell_missing(&self, found: &Found, whole_tree: bool) -> bool {
        let terminal = self.context.terminal;
        let is_missing = |warning: &&String| found.missing.iter().any(|missing| missing.warning == **warning);
        let (missing, odd): (Vec<_>, Vec<_>) = found.filesystem.summary().warnings.iter().partition(is_missing);
        odd.iter().for_each(|warning| terminal.detail(warning));
        if whole_tree {
            missing.iter().for_each(|warning| terminal.warn(warning));
        }
        whole_tree && !missing.is_empty()
    }
}

/// How several pieces of work ended together: damage counts most, then what was left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    damaged: bool,
    left_out: bool,
}

impl Outcome {
    /// Tells an error that did not end the work.
    pub fn left_out(&mut self, context: &Context<'_>, error: &FilesError) {
        let (message, causes) = words(error);
        let all: Vec<String> = std::iter::once(message).chain(causes).collect();
        context.terminal.warn(&all.join(": "));
        self.count(error);
    }

    /// Counts an error that was told.
    pub fn count(&mut self, error: &FilesError) {
        self.left_out = true;
        self.damaged |= failure::is_damage(error);
    }

    /// Something is less than was asked for.
    pub fn less(&mut self, less: bool) {
        self.left_out |= less;
    }

    /// The exit code.
    pub fn exit(self) -> Exit {
        if self.damaged { Exit::Damaged } else { Exit::done_with(self.left_out) }
    }
}

fn words(error: &FilesError) -> (String, Vec<String>) {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.dedup();
    (error.to_string(), causes)
}

/// A node as `--json` shows it.
#[derive(Serialize)]
pub struct NodeAnswer<'n> {
    /// Where it is, as it can be given to these verbs again.
    pub place: String,
    /// The bytes of that in hex, if they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_hex: Option<String>,
    /// What it is.
    pub kind: NodeKind,
    /// Permissions, octal.
    pub mode: String,
    /// Number of names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The guest's name for the owner.
    pub owner: Option<&'n str>,
    /// The guest's name for the group.
    pub group: Option<&'n str>,
    /// Bytes of content.
    pub size: u64,
    /// Bytes on the volume.
    pub allocated: u64,
    /// When the content changed.
    pub modified: Option<jiff::Timestamp>,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What is special about its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub special: Option<&'static str>,
}

impl<'n> NodeAnswer<'n> {
    /// What is known about the node at a place.
    pub fn of(place: &[u8], metadata: &Metadata, owners: &'n Owners, target: Option<&[u8]>) -> NodeAnswer<'n> {
        NodeAnswer {
            place: String::from_utf8_lossy(place).into_owned(),
            place_hex: std::str::from_utf8(place).is_err().then(|| crate::repo::ids::to_hex(place)),
            kind: metadata.kind,
            mode: format!("{:04o}", metadata.mode),
            links: metadata.links,
            uid: metadata.uid,
            gid: metadata.gid,
            owner: owners.user(metadata.uid),
            group: owners.group(metadata.gid),
            size: metadata.size,
            allocated: metadata.allocated,
            modified: timestamp(metadata.modified),
            device: metadata.device,
            target: target.map(|target| String::from_utf8_lossy(target).into_owned()),
            special: metadata.special,
        }
    }
}

/// A guest's time as one of this program; `None` beyond what a calendar can say.
pub fn timestamp(time: Time) -> Option<jiff::Timestamp> {
    let nanoseconds = i32::try_from(time.nanoseconds).ok()?;
    jiff::Timestamp::new(time.seconds, 0).ok()?.checked_add(jiff::SignedDuration::from_nanos(nanoseconds.into())).ok()
}

/// The volumes of a guest, for whoever has to choose one.
pub fn print_volumes(context: &Context<'_>, source: &Source) -> anyhow::Result<()> {
    let mut table = Table::new([
        Column::text("VOLUME"),
        Column::text("KIND"),
        Column::number("SIZE"),
        Column::text("LABEL").spare(),
        Column::text("NOTE").spare(),
    ]);
    for volume in &source.guest.volumes().volumes {
        let kind = volume.content.kind;
        let note = match kind.role() {
            Role::FileSystem => match source.guest.filesystem(&volume.name) {
                Some(Err(error)) => error.to_string(),
                _ => String::new(),
            },
            Role::Encrypted => "encrypted by the guest".to_owned(),
            _ => "no files".to_owned(),
        };
        context.terminal.json(&serde_json::json!({
            "volume": volume.name, "kind": kind, "size": volume.size, "label": volume.content.label,
            "uuid": volume.content.uuid, "note": (!note.is_empty()).then_some(&note),
        }))?;
        let size = text::bytes(volume.size.0);
        table.row([volume.name.clone(), kind.to_string(), size, volume.content.label.clone(), note]);
    }
    for volume in &source.guest.volumes().unavailable {
        context.terminal.json(&serde_json::json!({ "volume": volume.name, "note": volume.reason }))?;
        table.row([volume.name.clone(), String::new(), String::new(), String::new(), volume.reason.clone()]);
    }
    context.terminal.result(&table.to_text(context.terminal.columns()))
}
