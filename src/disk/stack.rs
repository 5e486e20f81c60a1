//! Disks stacked as redo logs: the topmost layer that stores something for an offset answers for it.
//!
//! A stack is itself a [`Disk`]. A stack of only the *upper* layers of a chain answers another question: what did those
//! redo logs change? (Every extent of it that is not a hole.)

use std::sync::Arc;

use super::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::units::{ByteLen, GuestOffset};

/// Layers over each other, top first. The top one gives the size; beyond a lower layer's end that layer is a hole.
#[derive(Clone)]
pub struct Stack {
    layers: Vec<Arc<dyn Disk>>,
    size: ByteLen,
}

impl Stack {
    /// Stacks `layers`, top (newest) first; `None` if there are none.
    pub fn new(layers: Vec<Arc<dyn Disk>>) -> Option<Stack> {
        let size = layers.first()?.size();
        Some(Stack { layers, size })
    }

    /// The layer that answers for `at` (`None`: nobody, a hole) and how far that answer holds.
    fn answer_at(&self, at: GuestOffset) -> Result<(Option<&dyn Disk>, Extent), DiskError> {
        let mut len = check_inside(self.size, at)?;
        for layer in &self.layers {
            if at.0 >= layer.size().0 {
                continue; // a lower layer may be shorter: past its end it is a hole
            }
            let extent = layer.extent_at(at)?;
            len = len.min(extent.len);
            if extent.kind != ExtentKind::Hole {
                return Ok((Some(layer.as_ref()), Extent { kind: extent.kind, len }));
            }
        }
        Ok((None, Extent { kind: ExtentKind::Hole, len }))
    }
}

impl Disk for Stack {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size, at, buf.len())?;
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let (layer, extent) = self.answer_at(at)?;
            let len = rest.len().min(usize::try_from(extent.len.0).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match (layer, extent.kind) {
                (Some(layer), ExtentKind::Data) => layer.read_at(at, now)?,
                _ => now.fill(0),
            }
            at = GuestOffset(at.0 + len as u64); // below the size by the range check
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        self.answer_at(at).map(|(_, extent)| extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;

    /// A layer of 512-byte blocks: `Some(byte)` data, `None` hole.
    struct Blocks(Vec<Option<u8>>);

    impl Disk for Blocks {
        fn size(&self) -> ByteLen {
            ByteLen(self.0.len() as u64 * 512)
        }
        fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
            check_range(self.size(), at, buf.len())?;
            for (i, byte) in buf.iter_mut().enumerate() {
                *byte = self.0[(at.0 as usize + i) / 512].unwrap_or(0);
            }
            Ok(())
        }
        fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
            check_inside(self.size(), at)?;
            let kind = match self.0[at.0 as usize / 512] {
                Some(0) => ExtentKind::Zero,
                Some(_) => ExtentKind::Data,
                None => ExtentKind::Hole,
            };
            Ok(Extent { kind, len: ByteLen(512 - at.0 % 512) })
        }
    }

    #[test]
    fn the_topmost_layer_that_stores_something_answers() {
        let base = Blocks(vec![Some(1), Some(1), Some(1), Some(1)]);
        let middle = Blocks(vec![None, Some(2), Some(0), None, None]);
        let top = Blocks(vec![None, None, None, None, None, Some(3)]);
        let stack = Stack::new(vec![Arc::new(top), Arc::new(middle), Arc::new(base)]).unwrap();
        let expected: Vec<u8> = [1u8, 2, 0, 1, 0, 3].iter().flat_map(|b| [*b; 512]).collect();
        conformance::check(&stack, &expected);
        let kind = |at| stack.extent_at(GuestOffset(at)).unwrap().kind;
        assert_eq!(kind(1024), ExtentKind::Zero);
        assert_eq!(kind(2048), ExtentKind::Hole);
    }
}
