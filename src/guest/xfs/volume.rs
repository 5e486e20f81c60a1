//! The volume's bytes: the disk, and over it what the log replays.
//!
//! Metadata is read through a small cache of pages, because inodes and directory blocks lie close together; content goes
//! past it, in one read for every contiguous run.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::corrupt;
use super::geometry::Geometry;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::guest::pages::Pages;
use crate::units::GuestOffset;

/// Bytes of pages that are kept.
const CACHE_BYTES: u64 = 8 << 20;
/// Bytes of a piece of the overlay: the unit of the log.
pub(crate) const PIECE_BYTES: u64 = 512;

/// What the log replays: pieces by number. They hide what the disk has.
pub(crate) type Overlay = BTreeMap<u64, Box<[u8; PIECE_BYTES as usize]>>;

/// The bytes of a volume whose geometry is known.
pub(crate) struct Volume {
    disk: Arc<dyn Disk>,
    overlay: Overlay,
    pages: Pages,
    pub geometry: Geometry,
}

impl Volume {
    pub fn new(disk: Arc<dyn Disk>, geometry: Geometry, overlay: Overlay) -> Volume {
        let pages = Pages::new(disk.size().0, CACHE_BYTES);
        Volume { disk, overlay, pages, geometry }
    }

    /// Fills `buf` from byte `at`, past the cache.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        read_under(self.disk.as_ref(), &self.overlay, at, buf)
    }

    /// `len` bytes of metadata from byte `at`. The caller bounds `len`.
    pub fn metadata(&self, at: u64, len: usize) -> Result<Vec<u8>, GuestError> {
        let end = at.checked_add(len as u64);
        if end.is_none_or(|end| end > self.disk.size().0) {
            return Err(corrupt("metadata", at, format!("{len} bytes"), "the end of the volume"));
        }
        self.pages.gather(at, len, &|at, buf| self.read(at, buf))
    }
}

/// Fills `buf` from byte `at` of `disk` as it is under `overlay`.
pub(crate) fn read_under(disk: &dyn Disk, overlay: &Overlay, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
    disk.read_at(GuestOffset(at), buf)?;
    let end = at + buf.len() as u64; // the disk has it, so it is below 2^64
    for (number, piece) in overlay.range(at / PIECE_BYTES..end.div_ceil(PIECE_BYTES)) {
        let start = number * PIECE_BYTES;
        let (from, to) = (start.max(at), (start + PIECE_BYTES).min(end));
        let target = &mut buf[(from - at) as usize..(to - at) as usize];
        target.copy_from_slice(&piece[(from - start) as usize..(to - start) as usize]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn the_overlay_hides_the_disk_piece_by_piece() {
        let disk = MemoryDisk(vec![1; 4096]);
        let overlay = Overlay::from([(1, Box::new([2; 512])), (3, Box::new([4; 512]))]);
        let mut expected = vec![1u8; 4096];
        expected[512..1024].fill(2);
        expected[1536..2048].fill(4);
        for at in [0usize, 1, 511, 512, 513, 1023, 1024, 1700, 2048, 4095, 4096] {
            for len in [0usize, 1, 511, 512, 513, 1500, 4096] {
                let len = len.min(4096 - at);
                let mut buf = vec![0; len];
                read_under(&disk, &overlay, at as u64, &mut buf).expect("inside");
                assert_eq!(buf, expected[at..at + len], "{len} bytes at {at}");
            }
        }
    }
}
