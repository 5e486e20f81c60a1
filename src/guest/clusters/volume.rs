//! The volume's bytes. Tables and directories are read through a small cache of pages, because their records lie close
//! together; content goes past it.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::corrupt;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::recent;
use crate::units::GuestOffset;

/// Bytes of a page.
pub(super) const PAGE_BYTES: u64 = 16 << 10;
/// Pages that are kept: 6 MiB.
const PAGES_MAX: usize = 384;

/// The bytes of a volume.
pub(in crate::guest) struct Volume {
    disk: Arc<dyn Disk>,
    pages: Cache<u64, Page>,
}

/// Some bytes of metadata, in memory as long as they are held.
pub(super) type Page = Arc<[u8]>;

impl Volume {
    pub fn new(disk: Arc<dyn Disk>) -> Volume {
        Volume { disk, pages: recent::entries(PAGES_MAX) }
    }

    /// Fills `buf` from byte `at`, past the cache.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let size = self.disk.size().0;
        if at.checked_add(buf.len() as u64).is_none_or(|end| end > size) {
            let expected = format!("{} bytes at {}", buf.len(), GuestOffset(at));
            return Err(corrupt("end of the volume", size, expected, format!("a volume of {size} bytes")));
        }
        Ok(self.disk.read_at(GuestOffset(at), buf)?)
    }

    /// Fills `buf` from byte `at`, through the cache.
    pub fn metadata(&self, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let mut done = 0;
        while done < buf.len() {
            let position = at.saturating_add(done as u64);
            let inside = usize::try_from(position % PAGE_BYTES).expect("below the size of a page");
            let Some(page) = self.page(position / PAGE_BYTES).filter(|page| page.len() > inside) else {
                // The volume ends here, or a neighbour cannot be read: these bytes alone decide.
                return self.read(position, &mut buf[done..]);
            };
            let len = (page.len() - inside).min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&page[inside..inside + len]);
            done += len;
        }
        Ok(())
    }

    /// A page, shorter where the volume ends in it; `None` if something in it cannot be read.
    pub(super) fn page(&self, number: u64) -> Option<Page> {
        if let Some(page) = self.pages.get(&number) {
            return Some(page);
        }
        let at = number.checked_mul(PAGE_BYTES)?;
        let len = self.disk.size().0.checked_sub(at)?.min(PAGE_BYTES);
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.disk.read_at(GuestOffset(at), &mut bytes).ok()?;
        let page = Page::from(bytes);
        self.pages.insert(number, Arc::clone(&page));
        Some(page)
    }
}
