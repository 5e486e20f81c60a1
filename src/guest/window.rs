//! A stretch of a disk as a disk of its own: a partition, a piece of a logical volume.

use std::sync::Arc;

use crate::disk::{Disk, DiskError, Extent, check_inside, check_range};
use crate::units::{ByteLen, GuestOffset};

/// A stretch of a disk.
pub struct Window {
    disk: Arc<dyn Disk>,
    start: u64,
    len: ByteLen,
}

impl Window {
    /// The `len` bytes of `disk` from `start`; `None` if they leave it.
    pub fn new(disk: Arc<dyn Disk>, start: GuestOffset, len: ByteLen) -> Option<Window> {
        let end = start.checked_add(len)?;
        (end.0 <= disk.size().0).then_some(Window { disk, start: start.0, len })
    }
}

impl Disk for Window {
    fn size(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.len, at, buf.len())?;
        self.disk.read_at(GuestOffset(self.start + at.0), buf)
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        let left = check_inside(self.len, at)?;
        let extent = self.disk.extent_at(GuestOffset(self.start + at.0))?;
        Ok(Extent { kind: extent.kind, len: extent.len.min(left) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::disk::conformance;

    #[test]
    fn a_window_is_a_disk_and_never_leaves_the_one_below() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk(bytes.clone()));
        let window = Window::new(Arc::clone(&disk), GuestOffset(700), ByteLen(3000)).expect("inside");
        conformance::check(&window, &bytes[700..3700]);
        assert!(Window::new(Arc::clone(&disk), GuestOffset(4999), ByteLen(2)).is_none());
        assert!(Window::new(disk, GuestOffset(u64::MAX), ByteLen(2)).is_none());
    }
}
