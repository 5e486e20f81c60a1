//! Restore: a disk of a backup goes into a file of some format, onto a block device, or over what is there already.
//!
//! In here: opening targets, one disk, a whole machine with its definition. Copying is `copy`, proving that what was
//! written reads back is `verify`. A restore is done only when it has been verified.

mod copy;
mod machine;
mod verify;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::error::OpsError;
use super::event::Control;
use crate::formats::qcow2::writer::create_plain;
use crate::formats::raw::writer::{RawInPlaceSink, create_file, open_device, open_in_place};
use crate::formats::sink::{DiskSink, Overwrite};
use crate::formats::vmdk::writer::{create_sparse, create_stream};
use crate::formats::{vdi, vhd, vhdx};
use crate::repo::Repository;
use crate::repo::manifest::Manifest;
use crate::units::ByteLen;

pub use machine::{RestoredMachine, planned_names, restore_machine};

/// The format of a restored disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// The guest's bytes as they are, sparse.
    Raw,
    /// VMDK, monolithicSparse: one growing file.
    Vmdk,
    /// VMDK, streamOptimized: compressed, for transport.
    VmdkStream,
    /// VHD, dynamic: one growing file.
    Vhd,
    /// VHD, fixed: the guest's bytes and a footer, sparse.
    VhdFixed,
    /// VHDX, dynamic: one growing file.
    Vhdx,
    /// VDI, dynamic: one growing file.
    Vdi,
    /// qcow2, version 3: one growing file.
    Qcow2,
}

impl DiskFormat {
    /// Every format, in the order of the command line.
    pub const ALL: [DiskFormat; 8] = [
        DiskFormat::Raw,
        DiskFormat::Vmdk,
        DiskFormat::VmdkStream,
        DiskFormat::Qcow2,
        DiskFormat::Vhdx,
        DiskFormat::Vhd,
        DiskFormat::VhdFixed,
        DiskFormat::Vdi,
    ];

    /// The ending of its files' names.
    pub fn extension(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Vmdk | DiskFormat::VmdkStream => "vmdk",
            DiskFormat::Vhd | DiskFormat::VhdFixed => "vhd",
            DiskFormat::Vhdx => "vhdx",
            DiskFormat::Vdi => "vdi",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

/// Where a disk goes.
#[derive(Clone, Debug)]
pub enum DiskTarget {
    /// A new file.
    File {
        /// Its name.
        path: PathBuf,
        /// Its format.
        format: DiskFormat,
        /// Whether a file of that name may be replaced.
        overwrite: Overwrite,
    },
    /// A block device, or an existing file, that is large enough; all of the disk's range is written.
    Device(PathBuf),
    /// An existing raw image of the same size, or a device that is large enough; only what differs is written.
    InPlace(PathBuf),
}

/// A disk that was restored and verified.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RestoredDisk {
    /// Its place on the machine.
    pub slot: String,
    /// The files it consists of, the one to open first.
    pub files: Vec<PathBuf>,
    /// Size of the guest's disk in bytes.
    pub size: u64,
    /// Bytes written.
    pub written: u64,
    /// Bytes that the target held already (in place only).
    pub unchanged: u64,
    /// Bytes read back and compared.
    pub verified: u64,
    /// Wall time in milliseconds.
    pub duration_ms: u64,
    /// What the target's format could not keep.
    pub warnings: Vec<String>,
}

/// A target that is open for writing.
enum OpenTarget {
    New(Box<dyn DiskSink>),
    Device(RawInPlaceSink),
    InPlace(RawInPlaceSink),
}

/// Restores disk number `number` of a backup, and verifies it.
///
/// # Errors
/// [`OpsError::Image`] with the target's trouble, [`OpsError::NotVerified`], [`OpsError::Interrupted`], what the
/// repository says. A new file that was not finished is removed.
pub fn restore_disk(
    repository: &Arc<Repository>,
    manifest: &Manifest,
    number: usize,
    target: &DiskTarget,
    control: Control<'_>,
) -> Result<RestoredDisk, OpsError> {
    let began = Instant::now();
    let disk = repository.disk(manifest, number)?;
    let record = &manifest.disks[number];
    let size = ByteLen(record.size);
    let mut warnings = Vec::new();
    let open = match target {
        DiskTarget::File { path, format: DiskFormat::Raw, overwrite } => {
            OpenTarget::New(Box::new(create_file(path, size, *overwrite)?))
        }
        DiskTarget::File { path, format: DiskFormat::Vmdk, overwrite } => {
            let sink = create_sparse(path, size, &record.properties, *overwrite)?;
            warnings.extend_from_slice(sink.warnings());
            OpenTarget::New(Box::new(sink))
        }
        DiskTarget::File { path, format: DiskFormat::VmdkStream, overwrite } => {
            let sink = create_stream(path, size, &record.properties, *overwrite)?;
            warnings.extend_from_slice(sink.warnings());
            OpenTarget::New(Box::new(sink))
        }
        DiskTarget::File { path, format: DiskFormat::Vhd, overwrite } => {
            OpenTarget::New(Box::new(vhd::writer::create_dynamic(path, size, *overwrite)?))
        }
        DiskTarget::File { path, format: DiskFormat::VhdFixed, overwrite } => {
            OpenTarget::New(Box::new(vhd::writer::create_fixed(path, size, *overwrite)?))
        }
        DiskTarget::File { path, format: DiskFormat::Vhdx, overwrite } => {
            OpenTarget::New(Box::new(vhdx::writer::create_dynamic(path, size, *overwrite)?))
        }
        DiskTarget::File { path, format: DiskFormat::Vdi, overwrite } => {
            OpenTarget::New(Box::new(vdi::writer::create_dynamic(path, size, *overwrite)?))
        }
        DiskTarget::File { path, format: DiskFormat::Qcow2, overwrite } => {
            OpenTarget::New(Box::new(create_plain(path, size, *overwrite)?))
        }
        DiskTarget::Device(path) => OpenTarget::Device(open_device(path, size)?),
        // A device is rarely of just the disk's size; what it has beyond stays as it is.
        DiskTarget::InPlace(path) if is_block_device(path) => OpenTarget::InPlace(open_device(path, size)?),
        DiskTarget::InPlace(path) => OpenTarget::InPlace(open_in_place(path, size)?),
    };
    let copied = copy::copy(&disk, &record.slot, &open, control)?;
    let files = match open {
        OpenTarget::New(sink) => sink.finish()?,
        OpenTarget::Device(sink) | OpenTarget::InPlace(sink) => Box::new(sink).finish()?,
    };
    let as_raw = match target {
        DiskTarget::File { format, .. } => *format == DiskFormat::Raw,
        DiskTarget::Device(_) | DiskTarget::InPlace(_) => true,
    };
    let first: &Path = files.first().map_or(target.path(), PathBuf::as_path);
    let verified = verify::verify(first, as_raw, &record.slot, &copied, disk.shape(), control)?;
    Ok(RestoredDisk {
        slot: record.slot.clone(),
        size: record.size,
        written: copied.written(),
        unchanged: copied.unchanged(),
        verified,
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        warnings,
        files,
    })
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

impl DiskTarget {
    /// The file or device.
    pub fn path(&self) -> &Path {
        match self {
            DiskTarget::File { path, .. } | DiskTarget::Device(path) | DiskTarget::InPlace(path) => path,
        }
    }
}
