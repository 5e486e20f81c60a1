//! Flat extents (FLAT, VMFS, VMFSTHIN): a run of a file that holds every byte of the extent.

use std::sync::Arc;

use crate::disk::{Disk, DiskError, ExtentKind};
use crate::formats::file::ImageFile;
use crate::formats::raw::image::FileRun;
use crate::units::{ByteLen, FileOffset};

/// Opens the `len` bytes from `from`; all of them must be in the file.
///
/// In a redo log (`has_parent`) a hole of the file is zeros that hide the parent: a flat extent stores everything.
pub(super) fn open(
    file: Arc<ImageFile>,
    from: FileOffset,
    len: ByteLen,
    has_parent: bool,
) -> Result<Arc<dyn Disk>, DiskError> {
    let hole = if has_parent { ExtentKind::Zero } else { ExtentKind::Hole };
    Ok(Arc::new(FileRun::new(file, from, len.0, len.0, hole)?))
}
