//! A logical volume as a disk: stretches that lie on other disks, one after the other.

use std::sync::Arc;

use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::units::{ByteLen, GuestOffset};

/// A logical volume.
pub(super) struct LogicalDisk {
    size: u64,
    /// In order, without gaps, never empty.
    stretches: Vec<Stretch>,
}

/// A part of a logical volume; its maker has checked that the disks below hold all of it.
pub(super) struct Stretch {
    /// Where it begins on the logical volume.
    pub start: u64,
    /// ≥ 1.
    pub len: u64,
    pub source: Source,
}

/// Where the bytes of a stretch are.
pub(super) enum Source {
    /// In one piece.
    Piece(Place),
    /// Round robin, `stripe` bytes from each.
    Stripes { stripe: u64, columns: Vec<Place> },
    /// Nowhere: zeros.
    Zero,
}

/// A position on a disk below.
pub(super) struct Place {
    pub disk: Arc<dyn Disk>,
    pub at: u64,
}

impl LogicalDisk {
    /// The stretches one after the other; `None` if they leave gaps, overlap or go beyond 2^63.
    pub fn new(stretches: Vec<Stretch>) -> Option<LogicalDisk> {
        let mut size = 0u64;
        for stretch in &stretches {
            if stretch.start != size || stretch.len == 0 {
                return None;
            }
            size = size.checked_add(stretch.len).filter(|size| i64::try_from(*size).is_ok())?;
        }
        (size > 0).then_some(LogicalDisk { size, stretches })
    }

    /// The disk that answers for `at`, the position on it, and for how many bytes; no disk: zeros. `at` is inside.
    fn answer(&self, at: u64) -> (Option<&Place>, u64, u64) {
        let number = self.stretches.partition_point(|stretch| stretch.start <= at) - 1; // the first begins at 0
        let stretch = &self.stretches[number];
        let inside = at - stretch.start;
        let left = stretch.len - inside;
        match &stretch.source {
            Source::Zero => (None, 0, left),
            Source::Piece(place) => (Some(place), place.at + inside, left),
            Source::Stripes { stripe, columns } => {
                let (number, in_stripe) = (inside / stripe, inside % stripe);
                let count = columns.len() as u64;
                let place = &columns[usize::try_from(number % count).expect("below the number of columns")];
                (Some(place), place.at + number / count * stripe + in_stripe, left.min(stripe - in_stripe))
            }
        }
    }
}

impl Disk for LogicalDisk {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let (mut at, mut rest) = (at.0, buf);
        while !rest.is_empty() {
            let (place, below, len) = self.answer(at);
            let len = rest.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match place {
                Some(place) => place.disk.read_at(GuestOffset(below), now)?,
                None => now.fill(0),
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        check_inside(self.size(), at)?;
        let (place, below, len) = self.answer(at.0);
        match place {
            None => Ok(Extent { kind: ExtentKind::Zero, len: ByteLen(len) }),
            Some(place) => {
                let extent = place.disk.extent_at(GuestOffset(below))?;
                Ok(Extent { kind: extent.kind, len: extent.len.min(ByteLen(len)) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::disk::conformance;

    #[test]
    fn stretches_and_stripes_are_one_disk() {
        let bytes = |seed: u8| -> Vec<u8> { (0..20_000u32).map(|n| (n.wrapping_mul(31) >> 3) as u8 ^ seed).collect() };
        let disks: Vec<Arc<dyn Disk>> = [1, 2, 3].map(|seed| Arc::new(MemoryDisk(bytes(seed))) as Arc<dyn Disk>).into();
        let place = |number: usize, at| Place { disk: Arc::clone(&disks[number]), at };
        let stretches = vec![
            Stretch { start: 0, len: 5000, source: Source::Piece(place(0, 100)) },
            Stretch { start: 5000, len: 700, source: Source::Zero },
            // Three stripes of 512, and a last round that is cut short.
            Stretch {
                start: 5700,
                len: 3 * 1024 - 512,
                source: Source::Stripes { stripe: 512, columns: vec![place(0, 0), place(1, 512), place(2, 1)] },
            },
        ];
        let mut expected = bytes(1)[100..5100].to_vec();
        expected.extend([0; 700]);
        for (seed, at) in [(1, 0), (2, 512), (3, 1), (1, 512), (2, 1024)] {
            expected.extend(&bytes(seed)[at..at + 512]);
        }
        conformance::check(&LogicalDisk::new(stretches).expect("without gaps"), &expected);
        assert!(LogicalDisk::new(vec![]).is_none());
        assert!(LogicalDisk::new(vec![Stretch { start: 1, len: 5, source: Source::Zero }]).is_none());
        let huge = |start| Stretch { start, len: i64::MAX as u64, source: Source::Zero };
        assert!(LogicalDisk::new(vec![huge(0), huge(i64::MAX as u64)]).is_none());
    }
}
