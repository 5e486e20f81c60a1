//! Feature bits of the superblock, and which of them we read. A volume with an incompatible feature that is not listed here
//! is refused by the feature's name: it may store anything anywhere.
//!
//! Source: Linux Documentation/filesystems/ext4/super.rst, "Super Block Feature Sets".

use crate::guest::GuestError;

/// Compatible features: nothing breaks for who does not know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compatible(pub u32);

/// Incompatible features: who does not know one must not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incompatible(pub u32);

/// Features that one must know to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadOnlyCompatible(pub u32);

impl Compatible {
    pub const HAS_JOURNAL: u32 = 0x4;
    pub const DIR_INDEX: u32 = 0x20;
    pub const SPARSE_SUPER2: u32 = 0x200;

    pub fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

impl Incompatible {
    pub const FILETYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const JOURNAL_DEV: u32 = 0x8;
    pub const META_BG: u32 = 0x10;
    pub const EXTENTS: u32 = 0x40;
    pub const BITS_64: u32 = 0x80;
    pub const MMP: u32 = 0x100;
    pub const FLEX_BG: u32 = 0x200;
    pub const EA_INODE: u32 = 0x400;
    pub const DIRDATA: u32 = 0x1000;
    pub const CSUM_SEED: u32 = 0x2000;
    pub const LARGEDIR: u32 = 0x4000;
    pub const INLINE_DATA: u32 = 0x8000;
    pub const ENCRYPT: u32 = 0x1_0000;
    pub const CASEFOLD: u32 = 0x2_0000;

    const SUPPORTED: u32 = Self::FILETYPE
        | Self::RECOVER
        | Self::META_BG
        | Self::EXTENTS
        | Self::BITS_64
        | Self::MMP
        | Self::FLEX_BG
        | Self::EA_INODE
        | Self::DIRDATA
        | Self::CSUM_SEED
        | Self::LARGEDIR
        | Self::INLINE_DATA
        | Self::ENCRYPT
        | Self::CASEFOLD;

    pub fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// Refuses what we cannot read.
    pub fn validate(self) -> Result<(), GuestError> {
        let unknown = self.0 & !Self::SUPPORTED;
        if unknown == 0 {
            return Ok(());
        }
        let names: Vec<String> = (0..u32::BITS)
            .filter(|bit| unknown & 1 << bit != 0)
            .map(|bit| match 1 << bit {
                0x1 => "compression".to_owned(),
                Self::JOURNAL_DEV => "journal_dev (this volume is another filesystem's journal)".to_owned(),
                _ => format!("of unknown bit {bit}"),
            })
            .collect();
        Err(GuestError::Unsupported { feature: format!("the ext filesystem feature {}", names.join(", ")) })
    }
}

impl ReadOnlyCompatible {
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const HUGE_FILE: u32 = 0x8;
    pub const GDT_CSUM: u32 = 0x10;
    pub const BIGALLOC: u32 = 0x200;
    pub const METADATA_CSUM: u32 = 0x400;

    pub fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

/// Which of the three names the features earn, by the rule that `blkid` has: whatever ext2 or ext3 of old would not have
/// mounted is ext4.
pub(super) fn kind(compatible: Compatible, incompatible: Incompatible, read_only: ReadOnlyCompatible) -> &'static str {
    // sparse_super, large_file, btree_dir
    const OLD_READ_ONLY: u32 = 0x7;
    const OLD_INCOMPATIBLE: u32 = Incompatible::FILETYPE | Incompatible::RECOVER | Incompatible::META_BG;
    if incompatible.0 & !OLD_INCOMPATIBLE != 0 || read_only.0 & !OLD_READ_ONLY != 0 {
        return "ext4";
    }
    if compatible.has(Compatible::HAS_JOURNAL) { "ext3" } else { "ext2" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_cannot_read_is_refused_by_name() {
        #[track_caller]
        fn check(bits: u32, expected: &str) {
            let said = Incompatible(bits).validate().map_or_else(|err| err.to_string(), |()| "fine".to_owned());
            assert_eq!(said, expected);
        }
        check(0, "fine");
        check(0x3_f7d6, "fine");
        check(0x43, "the ext filesystem feature compression is not supported");
        check(0x8004_0000, "the ext filesystem feature of unknown bit 18, of unknown bit 31 is not supported");
        check(
            0x8,
            "the ext filesystem feature journal_dev (this volume is another filesystem's journal) is not supported",
        );
    }

    #[test]
    fn names_follow_features() {
        #[track_caller]
        fn check(compatible: u32, incompatible: u32, read_only: u32, expected: &str) {
            assert_eq!(
                kind(Compatible(compatible), Incompatible(incompatible), ReadOnlyCompatible(read_only)),
                expected
            );
        }
        check(0x38, 0x2, 0x3, "ext2");
        check(0x3c, 0x6, 0x3, "ext3");
        check(0x3c, 0x42, 0x3, "ext4");
        check(0x38, 0x2, 0x10, "ext4");
    }
}
