//! A disk in memory with some bytes changed, and numbers that look random: for stories about damage.

use std::sync::Arc;

use abbild::disk::{Disk, DiskError, Extent, MemoryDisk};
use abbild::units::{ByteLen, GuestOffset};

/// Bytes that lie somewhere now.
pub(crate) type Patch = (u64, Vec<u8>);

/// A disk with some bytes changed.
pub(crate) struct Patched {
    pub below: Arc<dyn Disk>,
    /// Later ones hide earlier ones.
    pub patches: Vec<Patch>,
}

impl Disk for Patched {
    fn size(&self) -> ByteLen {
        self.below.size()
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.below.read_at(at, buf)?;
        let end = at.0 + buf.len() as u64;
        for (start, bytes) in &self.patches {
            let (from, to) = ((*start).max(at.0), (start + bytes.len() as u64).min(end));
            if from < to {
                let piece = &bytes[(from - start) as usize..(to - start) as usize];
                buf[(from - at.0) as usize..(to - at.0) as usize].copy_from_slice(piece);
            }
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        self.below.extent_at(at)
    }
}

impl Patched {
    /// A disk with these bytes turned over.
    pub fn rotten(below: &Arc<dyn Disk>, places: impl IntoIterator<Item = u64>) -> Arc<dyn Disk> {
        let turned = |at| {
            let mut byte = [0];
            below.read_at(GuestOffset(at), &mut byte).unwrap();
            (at, vec![byte[0] ^ 0x10])
        };
        let patches = places.into_iter().map(turned).collect();
        Arc::new(Patched { below: Arc::clone(below), patches })
    }
}

/// Numbers that are the same every time (xorshift).
pub(crate) fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    }
}

/// The same numbers every time.
pub(crate) struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    /// A few bytes for `at`, as damage leaves them: flipped, cleared, set, or others.
    pub fn damage(&mut self, below: &MemoryDisk, at: usize) -> Patch {
        let len = 1 + self.below(4);
        let mut bytes = below.0[at..below.0.len().min(at + len)].to_vec();
        match self.below(4) {
            0 => bytes[0] ^= 1 << self.below(8),
            1 => bytes.fill(0),
            2 => bytes.fill(0xff),
            _ => bytes.iter_mut().for_each(|byte| *byte = self.below(256) as u8),
        }
        (at as u64, bytes)
    }
}
