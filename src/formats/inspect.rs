//! What an image is, what it consists of, and what is wrong with it. Works on broken images too: whatever could be
//! opened is described, and every fault found is listed in words.

use std::collections::HashSet;
use std::error::Error;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{FileState, Image, Layer, OpenPolicy, open_layers};
use crate::disk::{Disk, DiskError, ExtentKind};
use crate::units::{ByteLen, GuestOffset};

/// A report on an image file and its chain.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The file asked about.
    pub path: PathBuf,
    /// `vmdk`, `qcow2`, `raw`; `None` if not even that could be found out.
    pub format: Option<String>,
    /// Format and variant of the top layer, e.g. `vmdk monolithicSparse`.
    pub variant: Option<String>,
    /// Size of the guest's disk in bytes.
    pub virtual_size: Option<ByteLen>,
    /// Bytes the filesystem has allocated for all files of the layers below.
    pub allocated_bytes: u64,
    /// Layers that could be opened, top first.
    pub layers: Vec<LayerReport>,
    /// What is wrong, each in one line; empty for a sound image.
    pub faults: Vec<String>,
}

/// One layer of an inspected image.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// The file that names the layer.
    pub path: PathBuf,
    /// Format and variant.
    pub variant: String,
    /// Size of the layer in bytes.
    pub size: ByteLen,
    /// Bytes it stores.
    pub data_bytes: u64,
    /// Bytes it declares to be zeros.
    pub zero_bytes: u64,
    /// Bytes it says nothing about.
    pub hole_bytes: u64,
    /// Its identity, if its format has one.
    pub content_id: Option<String>,
    /// The identity its parent must have.
    pub parent_content_id: Option<String>,
    /// Why it looks in use.
    pub in_use: Option<String>,
    /// What is odd but harmless.
    pub warnings: Vec<String>,
    /// What the file holds besides this state of the disk.
    pub notes: Vec<String>,
    /// The files it consists of.
    pub files: Vec<FileState>,
    /// Geometry and the like.
    pub properties: Vec<(String, String)>,
}

/// A run of a disk and the layer that answers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// Where it begins.
    pub start: GuestOffset,
    /// Its length.
    pub len: ByteLen,
    /// What is stored.
    pub kind: MapKind,
    /// Which layer stores it, 0 is the top; `None` for a hole.
    pub layer: Option<usize>,
}

/// What is stored for a run, in the words of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MapKind {
    /// Nothing, in no layer.
    Hole,
    /// Explicit zeros.
    Zero,
    /// Stored bytes.
    Data,
}

/// Describes the image at `path`: opens what can be opened, walks every layer's map, reads no data.
pub fn inspect(path: &Path, policy: &OpenPolicy) -> Inspection {
    let (layers, faults) = open_layers(path, policy);
    let mut faults: Vec<String> = faults.iter().map(|fault| in_one_line(fault)).collect();
    let virtual_size = layers.first().map(|layer| layer.disk.size());
    let variant = layers.first().map(|layer| layer.variant.clone());
    let format = variant.as_ref().and_then(|variant| variant.split(' ').next()).map(str::to_string);
    let allocated_bytes = allocated(layers.iter().flat_map(|layer| &layer.files));
    let layers = layers.into_iter().map(|layer| report(layer, &mut faults)).collect();
    Inspection { path: path.to_path_buf(), format, variant, virtual_size, allocated_bytes, layers, faults }
}

/// Tells `visit` every run of the guest's disk in order, longest possible runs, until it breaks.
///
/// # Errors
/// What [`Disk::extent_at`] fails with.
pub fn map(image: &Image, mut visit: impl FnMut(MapEntry) -> ControlFlow<()>) -> Result<(), DiskError> {
    let size = image.size().0;
    let mut pending: Option<MapEntry> = None;
    let mut at = 0;
    while at < size {
        let next = entry_at(image, GuestOffset(at), size - at)?;
        at += next.len.0;
        match &mut pending {
            Some(entry) if (entry.kind, entry.layer) == (next.kind, next.layer) => entry.len.0 += next.len.0,
            _ => {
                if let Some(entry) = pending.replace(next)
                    && visit(entry).is_break()
                {
                    return Ok(());
                }
            }
        }
    }
    if let Some(entry) = pending {
        let _ = visit(entry); // nothing is left to break off
    }
    Ok(())
}

/// The topmost layer's answer for `at`, as far as all layers above it agree.
fn entry_at(image: &Image, start: GuestOffset, left: u64) -> Result<MapEntry, DiskError> {
    let mut len = ByteLen(left);
    for (number, layer) in image.layers.iter().enumerate() {
        if start >= GuestOffset(layer.disk.size().0) {
            continue; // a shorter parent is a hole past its end
        }
        let extent = layer.disk.extent_at(start)?;
        len = len.min(extent.len);
        let kind = match extent.kind {
            ExtentKind::Hole => continue,
            ExtentKind::Zero => MapKind::Zero,
            ExtentKind::Data => MapKind::Data,
        };
        return Ok(MapEntry { start, len, kind, layer: Some(number) });
    }
    Ok(MapEntry { start, len, kind: MapKind::Hole, layer: None })
}

fn report(layer: Layer, faults: &mut Vec<String>) -> LayerReport {
    let (mut data_bytes, mut zero_bytes, mut hole_bytes) = (0, 0, 0);
    let walked = walk(layer.disk.as_ref(), |kind, len| match kind {
        ExtentKind::Data => data_bytes += len,
        ExtentKind::Zero => zero_bytes += len,
        ExtentKind::Hole => hole_bytes += len,
    });
    if let Err(fault) = walked {
        faults.push(in_one_line(&fault));
    }
    LayerReport {
        path: layer.path,
        variant: layer.variant,
        size: layer.disk.size(),
        data_bytes,
        zero_bytes,
        hole_bytes,
        content_id: Some(layer.content_id).filter(|id| !id.is_empty()),
        parent_content_id: layer.parent_content_id,
        in_use: layer.in_use,
        warnings: layer.warnings,
        notes: layer.notes,
        files: layer.files,
        properties: layer.properties,
    }
}

/// Looks at every extent up to the first fault.
fn walk(disk: &dyn Disk, mut visit: impl FnMut(ExtentKind, u64)) -> Result<(), DiskError> {
    let size = disk.size().0;
    let mut at = 0;
    while at < size {
        let extent = disk.extent_at(GuestOffset(at))?;
        visit(extent.kind, extent.len.0);
        at += extent.len.0;
    }
    Ok(())
}

/// Bytes allocated for `files`, each counted once; a file that has gone meanwhile counts nothing.
fn allocated<'a>(files: impl Iterator<Item = &'a FileState>) -> u64 {
    let mut seen = HashSet::new();
    files
        .filter(|file| seen.insert((file.device, file.inode)))
        .filter_map(|file| std::fs::metadata(&file.path).ok())
        .map(|meta| meta.blocks().saturating_mul(512))
        .fold(0, u64::saturating_add)
}

/// An error with its causes.
fn in_one_line(err: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(err.source(), |cause: &&dyn Error| (*cause).source());
    causes.fold(err.to_string(), |line, cause| format!("{line}: {cause}"))
}
