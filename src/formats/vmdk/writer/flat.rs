//! monolithicFlat: a descriptor, and beside it the guest's bytes as they are, sparse. What every VMware product reads, and
//! what an ESX host makes its own disks of after an import.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use super::descriptor::{Descriptor, Extent, Kind, exact_name, fresh_content_id, lasting_content_id};
use super::{extent_path, name_for_line};
use crate::formats::ImageError;
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::new_files::publish_all;
use crate::formats::sink::{DiskSink, Overwrite, TargetError, WriteOrder, check_inside, data_runs, failed};
use crate::units::{ByteLen, FileOffset, GuestOffset, SECTOR_BYTES};

/// Zeros of this length and alignment stay a hole: the usual block of a filesystem.
const HOLE_BYTES_MIN: usize = 4096;
/// The largest disk of a VMware machine, 62 TB in their words.
const BYTES_MAX: u64 = 62 << 40;

/// A monolithicFlat VMDK under construction.
#[derive(Debug)]
struct FlatSink {
    descriptor: NewFile,
    flat: NewFile,
    size: ByteLen,
    overwrite: Overwrite,
    warnings: Vec<String>,
}

/// The name of the file with the data that belongs to the descriptor `path`.
pub(super) fn flat_path(path: &Path) -> PathBuf {
    extent_path(path, "flat")
}

/// Starts a monolithicFlat VMDK for a disk of `size` bytes: the descriptor `path` and the data beside it, which appear when
/// it is finished. `properties` are the `ddb.*` lines of the source, kept as they are where they fit.
///
/// # Errors
/// [`ImageError::Target`]: one of the names is taken or cannot stand in a descriptor, there is no such folder, the disk is
/// empty, no whole sectors, or beyond 62 TiB.
pub fn create_flat(
    path: &Path,
    size: ByteLen,
    properties: &[(String, String)],
    overwrite: Overwrite,
) -> Result<impl DiskSink + Debug + use<>, ImageError> {
    if !fits(size) {
        let expected =
            format!("a multiple of {SECTOR_BYTES}, from {SECTOR_BYTES} to {BYTES_MAX} bytes for a flat VMDK");
        return Err(TargetError::DiskSize { file: path.to_owned(), expected, found: size }.into());
    }
    let data = flat_path(path);
    let content_id = fresh_content_id().map_err(failed("find a content id for", path))?;
    let (text, warnings) = describe(name_for_line(&data)?, size, &content_id, properties);
    let descriptor = NewFile::create(path, overwrite)?;
    descriptor.write_all_at(FileOffset(0), text.as_bytes())?;
    let flat = NewFile::create(&data, overwrite)?;
    flat.set_len(size.0)?;
    Ok(FlatSink { descriptor, flat, size, overwrite, warnings })
}

/// The descriptor of a monolithicFlat VMDK over data that is there already: the raw disk of `size` bytes in the file
/// `data` beside it, a plain name. `content` names what is in it: the same name gives the same content id. `None` if a flat
/// VMDK cannot have that size.
pub fn flat_descriptor(data: &str, size: ByteLen, content: &[u8], properties: &[(String, String)]) -> Option<Vec<u8>> {
    let name = exact_name(Path::new(data)).filter(|_| fits(size))?;
    Some(describe(name, size, &lasting_content_id(content), properties).0.into_bytes())
}

fn fits(size: ByteLen) -> bool {
    size.0 > 0 && size.0 <= BYTES_MAX && size.0.is_multiple_of(SECTOR_BYTES)
}

fn describe(name: String, size: ByteLen, content_id: &str, properties: &[(String, String)]) -> (String, Vec<String>) {
    let extents = vec![Extent { sectors: size.0 / SECTOR_BYTES, kind: Kind::Flat, name }];
    Descriptor { create_type: "monolithicFlat", extents, content_id, properties }.encode()
}

impl DiskSink for FlatSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        check_inside(self.descriptor.target(), self.size, at, data.len() as u64)?;
        for run in data_runs(data, HOLE_BYTES_MIN) {
            // In a flat extent the guest's offset is the file's.
            self.flat.write_all_at(FileOffset(at.0 + run.start as u64), &data[run])?;
        }
        Ok(())
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        // The file is new: what nobody writes reads as zeros already.
        Ok(check_inside(self.descriptor.target(), self.size, at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        let files = vec![self.flat.seal()?, self.descriptor.seal()?];
        Ok(publish_all(files, self.overwrite)?)
    }
}
