//! Positions and lengths as types, so that the classic bug of this field (a guest's offset used as a file's) does not
//! compile. Newtypes only: no I/O, no policy.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a sector, the unit in which most image formats count.
pub const SECTOR_BYTES: u64 = 512;

/// A position on the guest's disk, in bytes. A position inside an image file is a [`FileOffset`]; neither converts into
/// the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct GuestOffset(pub u64);

/// A position inside an image file or stored object, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct FileOffset(pub u64);

/// A length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ByteLen(pub u64);

impl GuestOffset {
    /// The position `len` bytes further on; `None` beyond 2^64.
    pub fn checked_add(self, len: ByteLen) -> Option<GuestOffset> {
        self.0.checked_add(len.0).map(GuestOffset)
    }
}

impl FileOffset {
    /// The position `len` bytes further on; `None` beyond 2^64.
    pub fn checked_add(self, len: ByteLen) -> Option<FileOffset> {
        self.0.checked_add(len.0).map(FileOffset)
    }

    /// The position of a sector number; `None` beyond 2^64 bytes.
    pub fn from_sector(sector: u64) -> Option<FileOffset> {
        sector.checked_mul(SECTOR_BYTES).map(FileOffset)
    }
}

impl ByteLen {
    /// The length of a number of sectors; `None` beyond 2^64 bytes.
    pub fn from_sectors(sectors: u64) -> Option<ByteLen> {
        sectors.checked_mul(SECTOR_BYTES).map(ByteLen)
    }
}

impl fmt::Display for GuestOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
