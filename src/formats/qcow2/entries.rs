//! What the entries of L1 and L2 tables mean. Pure: no file is looked at.
//!
//! Source: QEMU docs/interop/qcow2.txt, "Cluster mapping". Reserved bits are ignored, as QEMU does.

use crate::formats::mapped::Cell;
use crate::units::FileOffset;

/// Where clusters and tables lie: bits 9 to 55.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// L2: the cluster has refcount 1. With a data file, tells offset 0 from "not allocated".
const COPIED: u64 = 1 << 63;
/// L2: a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// L2: reads as zeros, whatever is allocated.
const ZERO: u64 = 1 << 0;

/// Subclusters of a cluster with extended L2 entries.
pub(super) const SUBCLUSTERS: u32 = 32;

/// What an image's entries may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub version: u32,
    pub cluster_bits: u32,
    pub is_extended: bool,
    pub has_data_file: bool,
}

/// What an L2 entry means for its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// All of it alike. What is stored lies at a multiple of the cluster size.
    Whole(Cell),
    /// Each subcluster for itself.
    Split {
        /// Where the cluster lies; `None` if no subcluster is stored.
        at: Option<FileOffset>,
        stored: u32,
        zero: u32,
    },
}

/// Where the L2 table of an L1 entry lies: `None` if there is none, `Err` if it cannot lie there.
pub(super) fn l2_table(entry: u64, cluster_bits: u32) -> Result<Option<FileOffset>, ()> {
    let at = entry & OFFSET_MASK;
    match at {
        0 => Ok(None),
        _ if at.is_multiple_of(1 << cluster_bits) => Ok(Some(FileOffset(at))),
        _ => Err(()),
    }
}

impl Rules {
    /// What the L2 entry `entry` means; `bitmap` is its second half, 0 without extended entries.
    pub fn cluster(&self, entry: u64, bitmap: u64) -> Cluster {
        if entry & COMPRESSED != 0 {
            return self.compressed(entry);
        }
        let at = entry & OFFSET_MASK;
        if !at.is_multiple_of(1 << self.cluster_bits) {
            return Cluster::Whole(Cell::Invalid("an offset that is a multiple of the cluster size"));
        }
        let is_stored = at != 0 || (self.has_data_file && entry & COPIED != 0);
        if self.is_extended {
            return subclusters(is_stored.then_some(FileOffset(at)), bitmap);
        }
        match (entry & ZERO != 0, is_stored) {
            (true, _) if self.version < 3 => {
                Cluster::Whole(Cell::Invalid("bit 0 clear (zero clusters came with version 3)"))
            }
            (true, _) => Cluster::Whole(Cell::Zero),
            (false, true) => Cluster::Whole(Cell::Stored(FileOffset(at))),
            (false, false) => Cluster::Whole(Cell::Hole),
        }
    }

    fn compressed(&self, entry: u64) -> Cluster {
        if self.has_data_file {
            return Cluster::Whole(Cell::Invalid("no compressed cluster beside a data file"));
        }
        // Low bits: byte offset; above them up to bit 61: further sectors, at most two clusters long in all.
        let offset_bits = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << offset_bits) - 1);
        let further_sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        let len = (further_sectors + 1) * 512 - at % 512;
        Cluster::Whole(Cell::Packed(FileOffset(at), len))
    }
}

fn subclusters(at: Option<FileOffset>, bitmap: u64) -> Cluster {
    let stored = u32::try_from(bitmap & u64::from(u32::MAX)).expect("32 bits");
    let zero = u32::try_from(bitmap >> 32).expect("32 bits");
    match (at, stored, zero) {
        (_, stored, zero) if stored & zero != 0 => Cluster::Whole(Cell::Invalid("no subcluster both stored and zero")),
        (None, 1.., _) => Cluster::Whole(Cell::Invalid("no stored subcluster without an offset")),
        (_, 0, 0) => Cluster::Whole(Cell::Hole),
        (_, 0, u32::MAX) => Cluster::Whole(Cell::Zero),
        (Some(at), u32::MAX, _) => Cluster::Whole(Cell::Stored(at)),
        _ => Cluster::Split { at, stored, zero },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Rules = Rules { version: 3, cluster_bits: 16, is_extended: false, has_data_file: false };

    #[test]
    fn entries_of_the_plain_kind() {
        let check = |entry, expected| assert_eq!(PLAIN.cluster(entry, 0), expected, "{entry:#x}");
        check(0, Cluster::Whole(Cell::Hole));
        check(COPIED, Cluster::Whole(Cell::Hole));
        check(1, Cluster::Whole(Cell::Zero));
        check(0x5_0001, Cluster::Whole(Cell::Zero));
        check(COPIED | 0x5_0000, Cluster::Whole(Cell::Stored(FileOffset(0x5_0000))));
        check(0x00ff_ffff_ffff_0000, Cluster::Whole(Cell::Stored(FileOffset(0x00ff_ffff_ffff_0000))));
        check(0x5_0200, Cluster::Whole(Cell::Invalid("an offset that is a multiple of the cluster size")));
        // 54 bits of offset, 8 bits of further sectors.
        check(COMPRESSED | 0x5_0001, Cluster::Whole(Cell::Packed(FileOffset(0x5_0001), 511)));
        check(COMPRESSED | 0x5_01ff, Cluster::Whole(Cell::Packed(FileOffset(0x5_01ff), 1)));
        check(COMPRESSED | 3 << 54 | 0x5_0200, Cluster::Whole(Cell::Packed(FileOffset(0x5_0200), 2048)));
        check(u64::MAX >> 1, Cluster::Whole(Cell::Packed(FileOffset((1 << 54) - 1), 256 * 512 - 511)));
    }

    #[test]
    fn other_images_have_other_rules() {
        let old = Rules { version: 2, ..PLAIN };
        assert!(matches!(old.cluster(1, 0), Cluster::Whole(Cell::Invalid(said)) if said.contains("version 3")));
        let outside = Rules { has_data_file: true, ..PLAIN };
        assert_eq!(outside.cluster(COPIED, 0), Cluster::Whole(Cell::Stored(FileOffset(0))));
        assert_eq!(outside.cluster(0, 0), Cluster::Whole(Cell::Hole));
        assert!(matches!(outside.cluster(COMPRESSED | 512, 0), Cluster::Whole(Cell::Invalid(_))));
        for (bits, len_max) in [(9, 2 * 512), (21, 2 << 21)] {
            let rules = Rules { cluster_bits: bits, ..PLAIN };
            let offset_bits = 62 - (bits - 8);
            let entry = COMPRESSED | (COMPRESSED - 1) >> offset_bits << offset_bits;
            assert_eq!(rules.cluster(entry, 0), Cluster::Whole(Cell::Packed(FileOffset(0), len_max)));
        }
    }

    #[test]
    fn subclusters_are_stored_zero_or_neither() {
        let rules = Rules { is_extended: true, ..PLAIN };
        let at = Some(FileOffset(0x5_0000));
        let check = |entry, bitmap, expected| assert_eq!(rules.cluster(entry, bitmap), expected, "{bitmap:#x}");
        check(0, 0, Cluster::Whole(Cell::Hole));
        check(0x5_0000, 0, Cluster::Whole(Cell::Hole));
        check(0, u64::from(u32::MAX) << 32, Cluster::Whole(Cell::Zero));
        check(0x5_0000, u64::from(u32::MAX), Cluster::Whole(Cell::Stored(FileOffset(0x5_0000))));
        check(0x5_0000, 2 << 32 | 1, Cluster::Split { at, stored: 1, zero: 2 });
        check(0, 2 << 32, Cluster::Split { at: None, stored: 0, zero: 2 });
        check(0x5_0000, 3 << 32 | 1, Cluster::Whole(Cell::Invalid("no subcluster both stored and zero")));
        check(0, 1, Cluster::Whole(Cell::Invalid("no stored subcluster without an offset")));
    }

    #[test]
    fn l2_tables_are_aligned() {
        assert_eq!(l2_table(0, 16), Ok(None));
        assert_eq!(l2_table(COPIED | 0x4_0000, 16), Ok(Some(FileOffset(0x4_0000))));
        assert_eq!(l2_table(0x4_0200, 16), Err(()));
        assert_eq!(l2_table(0x4_0200, 9), Ok(Some(FileOffset(0x4_0200))));
    }
}
