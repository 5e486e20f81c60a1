//! The volume's bytes: directories through a small cache of pages, because their records lie close together; content past it.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::corrupt;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Bytes of a page.
const PAGE_BYTES: u64 = 16 << 10;
/// Bytes of pages that are kept.
const CACHE_BYTES: u64 = 4 << 20;

/// The bytes of a volume.
pub(crate) struct Volume {
    disk: Arc<dyn Disk>,
    pages: Cache<u64, Arc<Vec<u8>>>,
    /// Bytes of a logical block, the unit of places.
    pub block_bytes: u64,
    /// Bytes at the start of every system use area that are not SUSP's; `None` without Rock Ridge.
    pub rock_ridge: Option<usize>,
    /// Whether names are those of Joliet.
    pub joliet: bool,
}

impl Volume {
    pub fn new(disk: Arc<dyn Disk>, block_bytes: u64) -> Volume {
        let pages = Cache::new((CACHE_BYTES / PAGE_BYTES) as usize);
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
        let end = at + len as u64;
        let mut bytes = Vec::with_capacity(len);
        let mut from = at;
        while from < end {
            let (number, inside) = (from / PAGE_BYTES, from % PAGE_BYTES);
            let page = self.page(number)?;
            let to = (inside + (end - from)).min(page.len() as u64);
            bytes.extend_from_slice(&page[inside as usize..to as usize]);
            from += to - inside;
        }
        Ok(bytes)
    }

    /// A page; the last may be shorter. Its first byte is inside the disk.
    fn page(&self, number: u64) -> Result<Arc<Vec<u8>>, GuestError> {
        if let Some(page) = self.pages.get(&number) {
            return Ok(page);
        }
        let at = number * PAGE_BYTES;
        let mut bytes = vec![0; PAGE_BYTES.min(self.disk.size().0 - at) as usize];
        self.read(at, &mut bytes)?;
        let page = Arc::new(bytes);
        self.pages.insert(number, Arc::clone(&page));
        Ok(page)
    }
}
