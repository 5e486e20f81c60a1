//! Walking a disk's extents: what does this range hold?

use std::ops::Range;

use super::{Disk, DiskError, ExtentKind};
use crate::units::GuestOffset;

/// Walks a disk's extents forward: answers for ascending ranges without asking twice.
pub struct ExtentCursor<'d> {
    disk: &'d dyn Disk,
    from: u64,
    to: u64,
    kind: ExtentKind,
}

/// What a range of a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Holes alone.
    Hole,
    /// No data, but explicit zeros.
    Zero,
    /// Some data.
    Data,
}

impl<'d> ExtentCursor<'d> {
    /// At the beginning of `disk`.
    pub fn new(disk: &'d dyn Disk) -> ExtentCursor<'d> {
        ExtentCursor { disk, from: 0, to: 0, kind: ExtentKind::Hole }
    }

    /// What `range` holds; ranges must ascend. Past the disk's end there are holes.
    ///
    /// # Errors
    /// What the disk says.
    pub fn kind_of(&mut self, range: Range<u64>) -> Result<RangeKind, DiskError> {
        let end = range.end.min(self.disk.size().0);
        let mut at = range.start;
        let mut answer = RangeKind::Hole;
        while at < end {
            if at < self.from || at >= self.to {
                let extent = self.disk.extent_at(GuestOffset(at))?;
                (self.from, self.to, self.kind) = (at, at.saturating_add(extent.len.0), extent.kind);
            }
            match self.kind {
                ExtentKind::Data => return Ok(RangeKind::Data),
                ExtentKind::Zero => answer = RangeKind::Zero,
                ExtentKind::Hole => {}
            }
            at = self.to;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Extent;
    use crate::units::ByteLen;

    /// A disk of 512-byte blocks of the given kinds.
    struct Kinds(Vec<ExtentKind>);

    impl Disk for Kinds {
        fn size(&self) -> ByteLen {
            ByteLen(self.0.len() as u64 * 512)
        }
        fn read_at(&self, _: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
            buf.fill(0);
            Ok(())
        }
        fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
            Ok(Extent { kind: self.0[at.0 as usize / 512], len: ByteLen(512 - at.0 % 512) })
        }
    }

    #[test]
    fn ranges_are_classified_by_the_strongest_kind_in_them() {
        use ExtentKind::{Data, Hole, Zero};
        let disk = Kinds(vec![Hole, Hole, Zero, Hole, Data, Hole]);
        let mut cursor = ExtentCursor::new(&disk);
        let mut check = |range, expected| assert_eq!(cursor.kind_of(range).unwrap(), expected);
        check(0..1024, RangeKind::Hole);
        check(1024..2048, RangeKind::Zero);
        check(2048..3072, RangeKind::Data);
        check(2559..2560, RangeKind::Data);
        check(2560..9999, RangeKind::Hole);
    }
}
