//! The volume's bytes: directories through a small cache of pages, because their records lie close together; content past it.

use std::sync::Arc;

use super::corrupt;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::guest::pages::Pages;
use crate::units::GuestOffset;

/// Bytes of pages that are kept.
const CACHE_BYTES: u64 = 4 << 20;

/// The bytes of a volume.
pub(crate) struct Volume {
    disk: Arc<dyn Disk>,
    pages: Pages,
    /// Bytes of a logical block, the unit of places.
    pub block_bytes: u64,
    /// Bytes at the start of every system use area that are not SUSP's; `None` without Rock Ridge.
    pub rock_ridge: Option<usize>,
    /// Whether names are those of Joliet.
    pub joliet: bool,
}

impl Volume {
    pub fn new(disk: Arc<dyn Disk>, block_bytes: u64) -> Volume {
        let pages = Pages::new(disk.size().0, CACHE_BYTES);
        Volume { disk, pages, block_bytes, rock_ridge: None, joliet: false }
    }

    /// Fills `buf` from byte `at`, past the cache.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        Ok(self.disk.read_at(GuestOffset(at), buf)?)
    }

    /// Refuses a stretch that leaves the volume.
    pub fn check(&self, field: &'static str, at: u64, len: u64) -> Result<(), GuestError> {
        let size = self.disk.size().0;
        match at.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(corrupt(field, at, format!("{len} bytes"), format!("the end of the volume at {size:#x}"))),
        }
    }

    /// `len` bytes of metadata from byte `at`. The caller bounds `len`.
    pub fn metadata(&self, field: &'static str, at: u64, len: usize) -> Result<Vec<u8>, GuestError> {
        self.check(field, at, len as u64)?;
        self.pages.gather(at, len, &|at, buf| self.read(at, buf))
    }
}
