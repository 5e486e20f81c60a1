//! A small cache of a volume's pages, for metadata: inodes, records and blocks of directories lie close together. Knows
//! neither what is in them nor how a page is read.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::GuestError;
use crate::recent;

/// Bytes of a page: a cluster of inodes, some blocks of a directory.
const PAGE_BYTES: u64 = 16 << 10;

/// Fills a buffer from a byte of the volume.
type Read<'r> = dyn Fn(u64, &mut [u8]) -> Result<(), GuestError> + 'r;

/// Pages of a volume by their number.
pub(super) struct Pages {
    kept: Cache<u64, Arc<Vec<u8>>>,
    /// Bytes of the volume; its last page may be shorter.
    size: u64,
}

impl Pages {
    /// Of a volume of `size` bytes, about `kept_bytes` of it kept.
    pub fn new(size: u64, kept_bytes: u64) -> Pages {
        Pages { kept: recent::entries((kept_bytes / PAGE_BYTES) as usize), size }
    }

    /// `len` bytes from byte `at`, which the volume has; `read` fills a page that is not at hand, from its first byte on.
    /// The caller bounds `len`.
    pub fn gather(&self, at: u64, len: usize, read: &Read<'_>) -> Result<Vec<u8>, GuestError> {
        let end = at + len as u64;
        let mut bytes = Vec::with_capacity(len);
        let mut from = at;
        while from < end {
            let (number, inside) = (from / PAGE_BYTES, from % PAGE_BYTES);
            let page = self.page(number, read)?;
            let to = (inside + (end - from)).min(page.len() as u64);
            bytes.extend_from_slice(&page[inside as usize..to as usize]);
            from += to - inside;
        }
        Ok(bytes)
    }

    /// A page; its first byte is inside the volume.
    fn page(&self, number: u64, read: &Read<'_>) -> Result<Arc<Vec<u8>>, GuestError> {
        if let Some(page) = self.kept.get(&number) {
            return Ok(page);
        }
        let at = number * PAGE_BYTES;
        let mut bytes = vec![0; PAGE_BYTES.min(self.size - at) as usize];
        read(at, &mut bytes)?;
        let page = Arc::new(bytes);
        self.kept.insert(number, Arc::clone(&page));
        Ok(page)
    }
}
