//! How much memory the maps of one chain may take.
//!
//! Grain directories are held whole. Each has its limit, but a descriptor can list a hundred thousand extents and a chain has
//! many levels, so what they take together is limited too, before any of it is read.

use crate::formats::ImageError;
use crate::formats::file::ImageFile;

/// What all directories of a chain may take in memory: six levels of 62 TiB, VMware's largest disk, of the kind with the
/// most tables.
const BYTES_MAX: u64 = 96 << 20;
/// What an extent takes besides its directory, caches not yet filled. 62 TiB split into parts of 2 GiB still fit.
const EXTENT_BYTES: u64 = 2560;

/// What is left for the directories of a chain.
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    /// For a new chain.
    pub fn new() -> Budget {
        Budget { left: BYTES_MAX }
    }

    /// Takes what an extent in `file` needs whose directory will be `directory_bytes` long in memory.
    pub fn take(&mut self, file: &ImageFile, directory_bytes: u64) -> Result<(), ImageError> {
        let needed = directory_bytes.saturating_add(EXTENT_BYTES);
        self.left = self.left.checked_sub(needed).ok_or_else(|| {
            file.unsupported(format!("a chain whose grain directories take more than {} MiB", BYTES_MAX >> 20))
        })?;
        Ok(())
    }
}
