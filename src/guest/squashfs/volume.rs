//! The volume's blocks: read, unpacked, and kept for a while.
//!
//! A metadata block: `length 2 | bytes`; bit 15 of the length says that it is not packed.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::corrupt;
use super::superblock::Superblock;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::recent;
use crate::units::GuestOffset;

/// Bytes of an unpacked metadata block; only the last of a table is shorter.
pub(crate) const METADATA_BYTES: usize = 8192;
/// Bytes of unpacked metadata that are kept.
const METADATA_CACHE_BYTES: usize = 8 << 20;
/// Bytes of unpacked content that are kept: fragments are asked for again and again.
const CONTENT_CACHE_BYTES: u64 = 16 << 20;
/// The length that says "not packed", and the mask of the rest.
const NOT_PACKED: u16 = 0x8000;

/// An unpacked metadata block.
pub(crate) struct MetadataBlock {
    pub bytes: Vec<u8>,
    /// Where the next one begins.
    pub next: u64,
}

/// Where a packed block of content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    pub at: u64,
    pub len: u32,
    pub packed: bool,
}

/// The blocks of a volume.
pub(crate) struct Volume {
    disk: Arc<dyn Disk>,
    metadata: Cache<u64, Arc<MetadataBlock>>,
    content: Cache<Stored, Arc<Vec<u8>>>,
    pub superblock: Superblock,
}

impl Volume {
    pub fn new(disk: Arc<dyn Disk>, superblock: Superblock) -> Volume {
        let blocks = usize::try_from(CONTENT_CACHE_BYTES / superblock.block_bytes()).expect("few");
        let metadata = recent::entries(METADATA_CACHE_BYTES / METADATA_BYTES);
        Volume { disk, metadata, content: recent::entries(blocks), superblock }
    }

    /// Reads `len` bytes at `at`, which must be bytes of the filesystem. The caller bounds `len`.
    fn read(&self, field: &'static str, at: u64, len: usize) -> Result<Vec<u8>, GuestError> {
        let end = self.superblock.bytes_used.min(self.disk.size().0);
        if at.checked_add(len as u64).is_none_or(|last| last > end) {
            return Err(corrupt(field, at, format!("{len} bytes"), format!("the end of the filesystem at {end:#x}")));
        }
        let mut bytes = vec![0; len];
        self.disk.read_at(GuestOffset(at), &mut bytes)?;
        Ok(bytes)
    }

    /// A number of a table of places.
    pub fn pointer(&self, field: &'static str, at: u64) -> Result<u64, GuestError> {
        Ok(u64::from_le_bytes(self.array(field, at)?))
    }

    /// Bytes that are in no metadata block.
    pub fn array<const N: usize>(&self, field: &'static str, at: u64) -> Result<[u8; N], GuestError> {
        Ok(self.read(field, at, N)?.try_into().expect("as many as were asked for"))
    }

    /// The metadata block that begins at byte `at`.
    pub fn metadata(&self, at: u64) -> Result<Arc<MetadataBlock>, GuestError> {
        const FIELD: &str = "metadata block";
        if let Some(block) = self.metadata.get(&at) {
            return Ok(block);
        }
        let header = u16::from_le_bytes(self.array(FIELD, at)?);
        let len = usize::from(header & !NOT_PACKED);
        if len == 0 || len > METADATA_BYTES {
            return Err(corrupt(FIELD, at, format!("1 to {METADATA_BYTES} bytes"), format!("{len} bytes")));
        }
        let stored = self.read(FIELD, at + 2, len)?;
        let bytes = if header & NOT_PACKED != 0 { stored } else { self.unpack(FIELD, &stored, METADATA_BYTES, at)? };
        if bytes.is_empty() {
            return Err(corrupt(FIELD, at, "one or more bytes", "none"));
        }
        let block = Arc::new(MetadataBlock { bytes, next: at + 2 + len as u64 });
        self.metadata.insert(at, Arc::clone(&block));
        Ok(block)
    }

    /// An unpacked block of content, or fragment.
    pub fn content(&self, stored: Stored) -> Result<Arc<Vec<u8>>, GuestError> {
        const FIELD: &str = "block of content";
        if let Some(block) = self.content.get(&stored) {
            return Ok(block);
        }
        let limit = self.superblock.block_bytes();
        if u64::from(stored.len) > limit {
            return Err(corrupt(FIELD, stored.at, format!("at most {limit} bytes"), format!("{} bytes", stored.len)));
        }
        let limit = usize::try_from(limit).expect("at most 1 MiB");
        let mut bytes = self.read(FIELD, stored.at, usize::try_from(stored.len).expect("at most 1 MiB"))?;
        if stored.packed {
            bytes = self.unpack(FIELD, &bytes, limit, stored.at)?;
        }
        let block = Arc::new(bytes);
        self.content.insert(stored, Arc::clone(&block));
        Ok(block)
    }

    fn unpack(&self, field: &'static str, stored: &[u8], limit: usize, at: u64) -> Result<Vec<u8>, GuestError> {
        let compression = self.superblock.compression;
        compression.unpack(stored, limit).map_err(|found| {
            corrupt(field, at, format!("at most {limit} bytes packed by {}", compression.name()), found)
        })
    }
}

impl Stored {
    /// From a length as inodes and fragments store it: bit 24 says that it is not packed.
    pub fn new(at: u64, size: u32) -> Stored {
        const NOT_PACKED: u32 = 1 << 24;
        Stored { at, len: size & !NOT_PACKED, packed: size & NOT_PACKED == 0 }
    }
}
