//! Keys of items, and the kinds and objects that we look for.

use nom::number::complete::{le_u8, le_u64};
use nom::{IResult, Parser};

/// What items are sorted by (`btrfs_disk_key`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// What the item is about: an inode, a tree.
    pub object: u64,
    /// One of [`kind`].
    pub kind: u8,
    /// Depends on the kind: a position, a hash, a number.
    pub offset: u64,
}

/// Kinds of items.
pub(crate) mod kind {
    pub(crate) const INODE: u8 = 1;
    pub(crate) const ATTRIBUTE: u8 = 24;
    pub(crate) const DIRECTORY_BY_HASH: u8 = 84;
    pub(crate) const DIRECTORY_BY_INDEX: u8 = 96;
    pub(crate) const EXTENT: u8 = 108;
    pub(crate) const DATA_CHECKSUMS: u8 = 128;
    pub(crate) const ROOT: u8 = 132;
    pub(crate) const ROOT_REFERENCE: u8 = 156;
    pub(crate) const CHUNK: u8 = 228;
}

/// Objects with fixed numbers. Those counted from the top are negative numbers to the kernel.
pub(crate) mod object {
    /// The subvolume that every volume has.
    pub(crate) const TOP_LEVEL: u64 = 5;
    /// The tree of checksums of content.
    pub(crate) const CHECKSUM_TREE: u64 = 7;
    /// First and last number of other subvolumes, and of inodes; a subvolume's root directory has the first.
    pub(crate) const FIRST_FREE: u64 = 256;
    pub(crate) const LAST_FREE: u64 = u64::MAX - 255;
    /// All chunks.
    pub(crate) const CHUNKS: u64 = 256;
    /// All checksums of content.
    pub(crate) const DATA_CHECKSUMS: u64 = u64::MAX - 9;
    /// All trees of the log.
    pub(crate) const LOG: u64 = u64::MAX - 5;
}

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 17;

impl Key {
    pub const MIN: Key = Key { object: 0, kind: 0, offset: 0 };

    pub const fn new(object: u64, kind: u8, offset: u64) -> Key {
        Key { object, kind, offset }
    }

    /// Whether it is of that object and kind, whatever its offset.
    pub fn is_of(&self, object: u64, kind: u8) -> bool {
        self.object == object && self.kind == kind
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} {} {})", self.object, self.kind, self.offset)
    }
}

/// Takes a key apart; fails only on too few bytes.
pub(crate) fn key(input: &[u8]) -> IResult<&[u8], Key> {
    let (rest, (object, kind, offset)) = (le_u64, le_u8, le_u64).parse(input)?;
    Ok((rest, Key { object, kind, offset }))
}
