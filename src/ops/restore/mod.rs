//! Restore: a disk of a backup goes into a file of some format, onto a block device, or over what is there already.
//!
//! In here: opening targets, one disk, a whole machine with its definition. Copying is `copy`, proving that what was
//! written reads back is `verify`. A restore is done only when it has been verified.

mod copy;
mod definition;
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
use crate::formats::{ImageError, vdi, vhd, vhdx, vmdk};
use crate::machine::write::Target;
use crate::repo::Repository;
use crate::repo::manifest::Manifest;
use crate::units::ByteLen;

pub use definition::DefinitionChoice;
pub use machine::{MachineOptions, RestoredMachine, planned_names, restore_machine};

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
    /// VMDK, monolithicFlat: a descriptor, and the guest's bytes in a second file, sparse.
    VmdkFlat,
    /// VMDK, twoGbMaxExtentSparse: a descriptor, and growing files of less than 2 GiB.
    VmdkSplit,
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
    pub const ALL: [DiskFormat; 10] = [
        DiskFormat::Raw,
        DiskFormat::Vmdk,
        DiskFormat::VmdkStream,
        DiskFormat::VmdkFlat,
        DiskFormat::VmdkSplit,
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
            DiskFormat::Vmdk | DiskFormat::VmdkStream | DiskFormat::VmdkFlat | DiskFormat::VmdkSplit => "vmdk",
            DiskFormat::Vhd | DiskFormat::VhdFixed => "vhd",
            DiskFormat::Vhdx => "vhdx",
            DiskFormat::Vdi => "vdi",
            DiskFormat::Qcow2 => "qcow2",
        }
    }

    /// QEMU's name of it.
    pub fn qemu_driver(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Vmdk | DiskFormat::VmdkStream | DiskFormat::VmdkFlat | DiskFormat::VmdkSplit => "vmdk",
            DiskFormat::Vhd | DiskFormat::VhdFixed => "vpc",
            DiskFormat::Vhdx => "vhdx",
            DiskFormat::Vdi => "vdi",
            DiskFormat::Qcow2 => "qcow2",
        }
    }

    /// What machines of that definition use best.
    pub fn best_for(target: Target) -> DiskFormat {
        match target {
            Target::Vmx => DiskFormat::Vmdk,
            Target::Libvirt => DiskFormat::Qcow2,
            Target::Ovf => DiskFormat::VmdkStream,
        }
    }

    /// Whether machines of that definition can use it. Nobody writes into a stream-optimised image.
    pub fn fits(self, target: Target) -> bool {
        match target {
            Target::Vmx => matches!(self, DiskFormat::Vmdk | DiskFormat::VmdkFlat | DiskFormat::VmdkSplit),
            Target::Libvirt => self != DiskFormat::VmdkStream,
            Target::Ovf => self == DiskFormat::VmdkStream,
        }
    }

    /// All files that a disk of `size` bytes called `path` consists of; the one to open first.
    pub fn files(self, path: &Path, size: ByteLen) -> Vec<PathBuf> {
        match self {
            DiskFormat::VmdkFlat => vmdk::writer::file_names(path, size, vmdk::writer::Variant::Flat),
            DiskFormat::VmdkSplit => vmdk::writer::file_names(path, size, vmdk::writer::Variant::Split),
            _ => vec![path.to_owned()],
        }
    }

    /// Starts a file of this format; `properties` are what is known of the image that was backed up.
    fn create(
        self,
        path: &Path,
        size: ByteLen,
        properties: &[(String, String)],
        overwrite: Overwrite,
    ) -> Result<Box<dyn DiskSink>, ImageError> {
        Ok(match self {
            DiskFormat::Raw => Box::new(create_file(path, size, overwrite)?),
            DiskFormat::Vmdk => Box::new(vmdk::writer::create_sparse(path, size, properties, overwrite)?),
            DiskFormat::VmdkStream => Box::new(vmdk::writer::create_stream(path, size, properties, overwrite)?),
            DiskFormat::VmdkFlat => Box::new(vmdk::writer::create_flat(path, size, properties, overwrite)?),
            DiskFormat::VmdkSplit => Box::new(vmdk::writer::create_split(path, size, properties, overwrite)?),
            DiskFormat::Vhd => Box::new(vhd::writer::create_dynamic(path, size, overwrite)?),
            DiskFormat::VhdFixed => Box::new(vhd::writer::create_fixed(path, size, overwrite)?),
            DiskFormat::Vhdx => Box::new(vhdx::writer::create_dynamic(path, size, overwrite)?),
            DiskFormat::Vdi => Box::new(vdi::writer::create_dynamic(path, size, overwrite)?),
            DiskFormat::Qcow2 => Box::new(create_plain(path, size, overwrite)?),
        })
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
        DiskTarget::File { path, format, overwrite } => {
            let sink = format.create(path, size, &record.properties, *overwrite)?;
            warnings.extend_from_slice(sink.warnings());
            OpenTarget::New(sink)
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
