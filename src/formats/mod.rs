//! Image file ⇄ [`Disk`]: reading every variant into one trait, writing a restored disk into a format.
//!
//! One folder a format: `header.rs` (nom, raw structs, nothing checked) → `layout.rs` (checked, safe to use) →
//! `image.rs` (the [`Disk`]) → `writer.rs`. Everything read here is untrusted input.
//!
//! Not in here: the repository, machines and their definition files, who wants the disk. `formats` knows no repository.

pub(crate) mod backing;
pub(crate) mod blocks;
pub(crate) mod cache;
pub(crate) mod chain;
pub(crate) mod detect;
pub mod file;
pub(crate) mod grains;
pub mod inspect;
pub(crate) mod mapped;
pub(crate) mod parallels;
pub mod policy;
pub mod qcow2;
pub(crate) mod qed;
pub mod raw;
pub mod sink;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::archive::ArchiveError;
use crate::disk::Disk;
use crate::disk::stack::Stack;
use crate::units::{ByteLen, FileOffset};
pub use inspect::{Inspection, inspect};
pub use policy::OpenPolicy;

/// Deepest chain of redo logs we follow; VMware itself stops at 32.
pub const CHAIN_DEPTH_MAX: usize = 64;

/// A disk image with its whole chain open: layers top (newest) first, the last one is the base.
pub struct Image {
    /// Top first; never empty.
    pub layers: Vec<Layer>,
}

/// One level of a chain: the base, or a redo log over it.
pub struct Layer {
    /// What this layer alone stores: a hole means "ask the parent". Its size is this layer's own.
    pub disk: Arc<dyn Disk>,
    /// The file that names this layer (the VMDK descriptor or the image itself).
    pub path: PathBuf,
    /// Every file this layer consists of, `path` included, with what it was when it was opened.
    pub files: Vec<FileState>,
    /// Format and variant, as `inspect` shows them, e.g. `vmdk monolithicSparse`, `qcow2 v3 zstd`, `raw`.
    pub variant: String,
    /// This layer's own identity in its format (VMDK: CID as 8 hex digits; VHD, VHDX, VDI: a UUID; an internal snapshot of
    /// qcow2: its id); empty where the format has none.
    pub content_id: String,
    /// The identity the parent must have; `None` for a base.
    pub parent_content_id: Option<String>,
    /// Geometry, adapter type and the like, worth keeping for a restore (VMDK: the `ddb.*` lines, in order;
    /// qcow2: its persistent bitmaps, which a restore cannot keep).
    pub properties: Vec<(String, String)>,
    /// Why this layer looks as if a running machine were writing to it (lock folder, in-use flag); `None` if it does not.
    pub in_use: Option<String>,
    /// What is odd but harmless; goes into the report.
    pub warnings: Vec<String>,
    /// What the file holds besides this state of the disk, and without what the disk is still whole.
    pub notes: Vec<String>,
}

/// What a file was at one moment; a difference later means that somebody wrote to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Where it lies.
    pub path: PathBuf,
    /// Length in bytes (0 for a block device that does not say).
    pub len: u64,
    /// Device number of the filesystem.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Last change of content, nanoseconds since 1970.
    pub modified_ns: i128,
    /// Last change of content or metadata, nanoseconds since 1970.
    pub changed_ns: i128,
}

/// Why an image could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The data is wrong.
    #[error("{}: {field} at offset {at}: expected {expected}, found {found}", file.display())]
    Corrupt {
        /// The file at fault.
        file: PathBuf,
        /// Which structure.
        field: &'static str,
        /// Where it lies in the file.
        at: FileOffset,
        /// What a sound image has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// We cannot do it.
    #[error("{}: {feature} is not supported", file.display())]
    Unsupported {
        /// The file at fault.
        file: PathBuf,
        /// What it would need.
        feature: String,
    },
    /// The file or the system failed.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file at fault.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A parent, extent or data file that the image names is not there.
    #[error("{}: {role} {} is missing", named_by.display(), wanted.display())]
    Missing {
        /// The image that names it.
        named_by: PathBuf,
        /// What it is to the image: `parent`, `extent`.
        role: &'static str,
        /// The path looked for.
        wanted: PathBuf,
    },
    /// The image names a file it must not make us open.
    #[error("{}: names {wanted} as its {role}: {reason}", named_by.display())]
    Forbidden {
        /// The image that names it.
        named_by: PathBuf,
        /// What it is to the image: `parent`, `extent`.
        role: &'static str,
        /// The name as it stands in the image.
        wanted: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// Parent and child do not belong together.
    #[error("{}: parent identity: expected {expected} (of {}), found {found}", child.display(), parent.display())]
    ParentMismatch {
        /// The redo log.
        child: PathBuf,
        /// The file it names as its parent.
        parent: PathBuf,
        /// The identity that the parent has.
        expected: String,
        /// The identity that the child asks for.
        found: String,
    },
    /// A chain that comes back to itself or never ends.
    #[error("{}: {what}", file.display())]
    Chain {
        /// The file where it was noticed.
        file: PathBuf,
        /// Cycle or depth, with the names or numbers.
        what: String,
    },
    /// The archive that holds the image.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A disk could not be written.
    #[error(transparent)]
    Target(#[from] sink::TargetError),
}

/// Opens an image and its whole chain. Nothing of a chain that is damaged, incomplete or not allowed is returned.
///
/// # Errors
/// The first fault from the top; [`inspect`] shows all that can be known.
pub fn open(path: &Path, policy: &OpenPolicy) -> Result<Image, ImageError> {
    let (layers, faults) = open_layers(path, policy);
    match faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(Image { layers }),
    }
}

/// Opens a file or device as a raw image, whatever its first bytes look like: a guest can write any magic there.
///
/// # Errors
/// As [`open`].
pub fn open_raw(path: &Path, policy: &OpenPolicy) -> Result<Image, ImageError> {
    let layer = raw::image::open(policy.open_top(path)?)?;
    Ok(Image { layers: vec![layer] })
}

/// Every file besides `path` that the image at `path` consists of or stands on, as far as its chain can be opened.
pub fn files_below(path: &Path, policy: &OpenPolicy) -> Vec<PathBuf> {
    let (layers, _) = open_layers(path, policy);
    let files = layers.into_iter().flat_map(|layer| layer.files).map(|file| file.path);
    files.filter(|file| file != path).collect()
}

/// The layers that could be opened, and what is wrong; without faults the chain is complete.
fn open_layers(path: &Path, policy: &OpenPolicy) -> (Vec<Layer>, Vec<ImageError>) {
    // A device holds a guest's disk: what the guest wrote at its beginning must not decide how it is read.
    let top = policy.open_top(path).and_then(|file| {
        let format = if file.is_device() { detect::Format::Raw } else { detect::detect(&file)? };
        Ok((format, file))
    });
    match top {
        Ok((format, file)) => open_file(file, format, policy),
        Err(fault) => (Vec::new(), vec![fault]),
    }
}

/// Opens `file`, which is in `format`, and all levels below it. The one way to open a level of any format: overlays whose
/// backing files may be in another format go on through here.
pub(crate) fn open_file(
    file: file::ImageFile,
    format: detect::Format,
    policy: &OpenPolicy,
) -> (Vec<Layer>, Vec<ImageError>) {
    match format {
        detect::Format::Vmdk => vmdk::chain::open_chain(file, policy),
        detect::Format::Qcow2 => qcow2::chain::open_chain(file, None, policy),
        detect::Format::Qed => backing::open_chain(qed::open_level(file), policy),
        detect::Format::Vdi => chain::open_chain::<vdi::chain::Vdi>(file, policy),
        detect::Format::Vhdx => chain::open_chain::<vhdx::chain::Vhdx>(file, policy),
        detect::Format::Vhd => chain::open_chain::<vhd::chain::Vhd>(file, policy),
        detect::Format::Parallels => single(parallels::open(file, policy)),
        detect::Format::Raw => single(raw::image::open(file)),
    }
}

/// A chain of one level.
fn single(layer: Result<Layer, ImageError>) -> (Vec<Layer>, Vec<ImageError>) {
    match layer {
        Ok(layer) => (vec![layer], Vec::new()),
        Err(fault) => (Vec::new(), vec![fault]),
    }
}

impl Image {
    /// The guest's view: all layers together.
    pub fn disk(&self) -> Stack {
        stack_of(&self.layers)
    }

    /// Only the upper `count` layers: every extent that is no hole is something those redo logs changed.
    /// `None` if `count` is 0.
    pub fn changes_of_upper(&self, count: usize) -> Option<Stack> {
        Stack::new(self.layers.iter().take(count).map(|layer| Arc::clone(&layer.disk)).collect())
    }

    /// Size of the guest's disk.
    pub fn size(&self) -> ByteLen {
        self.disk().size()
    }
}

/// Text of an image as a message may quote it: cut where it would become longer than any real name.
pub(crate) fn excerpt(text: &[u8]) -> String {
    const CHARS_MAX: usize = 255;
    // A character has at most four bytes: what lies further behind than one character more is not looked at.
    let text = String::from_utf8_lossy(text.get(..(CHARS_MAX + 1) * 4).unwrap_or(text));
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

fn stack_of(layers: &[Layer]) -> Stack {
    let disks = layers.iter().map(|layer| Arc::clone(&layer.disk)).collect();
    Stack::new(disks).expect("an image has at least one layer")
}
