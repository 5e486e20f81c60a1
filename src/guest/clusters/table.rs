//! The file allocation table: for every cluster, the one that follows it in its file.
//!
//! Entries lie one after the other from cluster 0, little-endian. Of 12 bits, two share three bytes: an even cluster's has
//! the low bits of the 16-bit number at `cluster × 3 / 2`, an odd one's the high bits. Of 32 bits, FAT32 uses 28.
//!
//! | meaning | 12 | 16 | 28 | 32 (exFAT) |
//! |---|---|---|---|---|
//! | free | 0 | 0 | 0 | 0 |
//! | bad | ff7 | fff7 | ffffff7 | fffffff7 |
//! | last | ff8–fff | fff8–ffff | ffffff8–fffffff | ffffffff |
//!
//! Sources: Microsoft, FAT: General Overview of On-Disk Format 1.03, "FAT Data Structure"; exFAT specification, 4.1.

use super::volume::{PAGE_BYTES, Page, Volume};
use super::{Heap, corrupt};
use crate::guest::GuestError;

/// Bits of an entry that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guest) enum Width {
    Twelve,
    Sixteen,
    TwentyEight,
    ThirtyTwo,
}

impl Width {
    /// Bits from one entry to the next.
    pub fn stride_bits(self) -> u64 {
        match self {
            Width::Twelve => 12,
            Width::Sixteen => 16,
            Width::TwentyEight | Width::ThirtyTwo => 32,
        }
    }

    /// The smallest number that means the end of a chain.
    fn end_min(self) -> u32 {
        match self {
            Width::Twelve => 0xff8,
            Width::Sixteen => 0xfff8,
            Width::TwentyEight => 0x0fff_fff8,
            Width::ThirtyTwo => 0xffff_ffff,
        }
    }

    fn bad(self) -> u32 {
        match self {
            Width::ThirtyTwo => 0xffff_fff7,
            other => other.end_min() - 1,
        }
    }
}

/// Where the table that counts lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guest) struct Table {
    pub at: u64,
    pub width: Width,
}

/// Reads entries one after the other; neighbours come from the page at hand.
pub(in crate::guest) struct Entries<'v> {
    volume: &'v Volume,
    heap: Heap,
    table: Table,
    page: Option<(u64, Page)>,
}

impl<'v> Entries<'v> {
    pub fn new(volume: &'v Volume, heap: Heap, table: Table) -> Entries<'v> {
        Entries { volume, heap, table, page: None }
    }

    /// The cluster after a cluster of the heap; `None` if it is the last of its chain.
    pub fn next(&mut self, cluster: u32) -> Result<Option<u32>, GuestError> {
        let entry = self.entry(cluster)?;
        if self.heap.has(entry) {
            return Ok(Some(entry));
        }
        if entry >= self.table.width.end_min() {
            return Ok(None);
        }
        let found = match entry {
            0 => "a free cluster".to_owned(),
            bad if bad == self.table.width.bad() => "a bad cluster".to_owned(),
            other => format!("cluster {other}"),
        };
        let at = self.table.at + u64::from(cluster) * self.table.width.stride_bits() / 8;
        let expected = format!("after cluster {cluster} {}, or the end", self.heap.range());
        Err(corrupt("file allocation table", at, expected, found))
    }

    /// An entry as it is stored.
    pub fn entry(&mut self, cluster: u32) -> Result<u32, GuestError> {
        let number = u64::from(cluster);
        Ok(match self.table.width {
            Width::Twelve => {
                let pair = u16::from_le_bytes(self.bytes(self.table.at + number * 3 / 2)?);
                u32::from(if cluster.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 })
            }
            Width::Sixteen => u16::from_le_bytes(self.bytes(self.table.at + number * 2)?).into(),
            Width::TwentyEight => u32::from_le_bytes(self.bytes(self.table.at + number * 4)?) & 0x0fff_ffff,
            Width::ThirtyTwo => u32::from_le_bytes(self.bytes(self.table.at + number * 4)?),
        })
    }

    fn bytes<const N: usize>(&mut self, at: u64) -> Result<[u8; N], GuestError> {
        let number = at / PAGE_BYTES;
        if self.page.as_ref().is_none_or(|(held, _)| *held != number) {
            self.page = self.volume.page(number).map(|page| (number, page));
        }
        let inside = usize::try_from(at % PAGE_BYTES).expect("below the size of a page");
        let held = self.page.as_ref().and_then(|(_, page)| page.get(inside..)?.first_chunk());
        if let Some(bytes) = held {
            return Ok(*bytes);
        }
        let mut bytes = [0; N];
        self.volume.metadata(at, &mut bytes)?;
        Ok(bytes)
    }
}
