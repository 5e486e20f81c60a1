//! Reading across metadata blocks, and tables whose entries are found by index.
//!
//! A table by index: places of its metadata blocks 8 × n, each block full of entries.

use std::sync::Arc;

use super::corrupt;
use super::volume::{METADATA_BYTES, MetadataBlock, Volume};
use crate::guest::GuestError;

/// A byte in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Where its block begins on the volume.
    pub block: u64,
    /// Which byte of the unpacked block.
    pub offset: usize,
}

impl Place {
    /// What a reference means in the table that begins at `table`.
    pub fn of_reference(table: u64, reference: u64) -> Place {
        Place {
            block: table.saturating_add(reference >> 16),
            offset: usize::try_from(reference & 0xffff).expect("16 bits"),
        }
    }
}

/// Reads on from a place. Blocks follow each other upwards, so every walk ends.
pub(crate) struct Cursor<'v> {
    volume: &'v Volume,
    place: Place,
    block: Option<Arc<MetadataBlock>>,
}

impl<'v> Cursor<'v> {
    pub fn new(volume: &'v Volume, place: Place) -> Cursor<'v> {
        Cursor { volume, place, block: None }
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Appends the next `len` bytes to `out`. The caller bounds `len`.
    fn copy(&mut self, mut len: usize, out: &mut Vec<u8>) -> Result<(), GuestError> {
        while len > 0 {
            let block = match &self.block {
                Some(block) => Arc::clone(block),
                None => Arc::clone(self.block.insert(self.volume.metadata(self.place.block)?)),
            };
            let Some(rest) = block.bytes.get(self.place.offset..) else {
                let found = format!("byte {}", self.place.offset);
                return Err(corrupt("metadata", self.place.block, format!("{} bytes", block.bytes.len()), found));
            };
            let now = rest.len().min(len);
            out.extend_from_slice(&rest[..now]);
            self.place.offset += now;
            len -= now;
            if self.place.offset == block.bytes.len() {
                self.place = Place { block: block.next, offset: 0 };
                self.block = None;
            }
        }
        Ok(())
    }

    /// The next `len` bytes. The caller bounds `len`.
    pub fn bytes(&mut self, len: usize) -> Result<Vec<u8>, GuestError> {
        let mut out = Vec::with_capacity(len);
        self.copy(len, &mut out)?;
        Ok(out)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], GuestError> {
        Ok(self.bytes(N)?.try_into().expect("as many as were asked for"))
    }

    pub fn u16(&mut self) -> Result<u16, GuestError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, GuestError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, GuestError> {
        self.array().map(u64::from_le_bytes)
    }
}

/// A table whose entries are found by index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// What it is, for messages.
    pub field: &'static str,
    /// Where the places of its blocks begin.
    pub at: u64,
    /// How many entries it has.
    pub len: u32,
}

impl Table {
    /// Where an entry begins; each has `entry_bytes`, a divisor of a metadata block's length.
    pub fn entry<'v>(&self, volume: &'v Volume, index: u32, entry_bytes: usize) -> Result<Cursor<'v>, GuestError> {
        if index >= self.len {
            return Err(corrupt(self.field, self.at, format!("an index below {}", self.len), index));
        }
        let entries = u32::try_from(METADATA_BYTES / entry_bytes).expect("at most 8192");
        let block = volume.pointer(self.field, self.at.saturating_add(u64::from(index / entries) * 8))?;
        let offset = usize::try_from(index % entries).expect("below 8192") * entry_bytes;
        Ok(Cursor::new(volume, Place { block, offset }))
    }
}
