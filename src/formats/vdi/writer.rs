//! A disk into a dynamic VDI: 1 MiB blocks, numbered in the order in which they arrive.
//!
//! Layout: `header 512 | … | map, from 1 MiB | blocks, from the next whole MiB`. Places and sizes are VirtualBox's own; it
//! and QEMU accept no other size of blocks.
//!
//! Source: VirtualBox, Storage/VDICore.h.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::header::MAGIC;
use crate::formats::ImageError;
use crate::formats::sink::growing::{GrowingDisk, Places};
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{DiskSink, Overwrite, TargetError, WriteOrder, failed, fresh_uuid};
use crate::units::{ByteLen, FileOffset, GuestOffset, SECTOR_BYTES};

const BLOCK_BYTES: u64 = 1 << 20;
const MAP_AT: u64 = 1 << 20;
/// Largest disk: its map has 256 MiB, and the table in memory as much where there is data.
const DISK_BYTES_MAX: u64 = 64 << 40;
/// Map entry of a block that is not stored.
const UNUSED: u32 = u32::MAX;
/// Map entries that are put together at once.
const ENTRIES_AT_ONCE: usize = 64 << 10;

/// A VDI under construction.
#[derive(Debug)]
pub struct DynamicSink {
    disk: GrowingDisk,
    head: Head,
}

/// What the header says about this disk.
#[derive(Clone, Copy, Debug)]
struct Head {
    size: u64,
    blocks: u32,
    data_at: u32,
    uuid: Uuid,
    modification: Uuid,
}

/// Starts a dynamic VDI for a disk of `size` bytes that appears as `path` when it is finished.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the disk is empty, no whole sectors, or beyond
/// 64 TiB.
pub fn create_dynamic(path: &Path, size: ByteLen, overwrite: Overwrite) -> Result<DynamicSink, ImageError> {
    if size.0 == 0 || size.0 > DISK_BYTES_MAX || !size.0.is_multiple_of(SECTOR_BYTES) {
        let expected = format!("a multiple of 512, from 512 to {DISK_BYTES_MAX} bytes (64 TiB) for a VDI");
        return Err(TargetError::DiskSize { file: path.to_owned(), expected, found: size }.into());
    }
    let small = "64 TiB are 2^26 blocks, whose map has 256 MiB";
    let blocks = u32::try_from(size.0.div_ceil(BLOCK_BYTES)).expect(small);
    let data_at = (MAP_AT + u64::from(blocks) * 4).next_multiple_of(BLOCK_BYTES);
    let uuid = fresh_uuid().map_err(failed("find a UUID for", path))?;
    let modification = fresh_uuid().map_err(failed("find a UUID for", path))?;
    let file = NewFile::create(path, overwrite)?;
    let places = Places { block: BLOCK_BYTES, first: data_at };
    let disk = GrowingDisk::new(file, size, places, Vec::new())?;
    let data_at = u32::try_from(data_at).expect(small);
    Ok(DynamicSink { disk, head: Head { size: size.0, blocks, data_at, uuid, modification } })
}

impl Head {
    fn encode(&self, stored: u32) -> [u8; 512] {
        let mut out = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
        put(64, MAGIC);
        put(68, &0x1_0001u32.to_le_bytes());
        put(72, &400u32.to_le_bytes());
        put(76, &1u32.to_le_bytes()); // dynamic
        put(340, &(MAP_AT as u32).to_le_bytes());
        put(344, &self.data_at.to_le_bytes());
        // 348: cylinders, heads, sectors 0; VirtualBox then computes them.
        put(360, &(SECTOR_BYTES as u32).to_le_bytes());
        put(368, &self.size.to_le_bytes());
        put(376, &(BLOCK_BYTES as u32).to_le_bytes());
        put(384, &self.blocks.to_le_bytes());
        put(388, &stored.to_le_bytes());
        put(392, &self.uuid.to_bytes_le());
        put(408, &self.modification.to_bytes_le());
        // 424, 440: no parent.
        out
    }
}

impl DiskSink for DynamicSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        Ok(self.disk.write_at(at, data)?)
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        Ok(self.disk.write_zeros(at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        let DynamicSink { disk, head } = *self;
        let grown = disk.grown()?;
        grown.file.write_all_at(FileOffset(0), &head.encode(grown.stored))?;
        let mut at = MAP_AT;
        let mut numbers = grown.numbers().map(|number| number.unwrap_or(UNUSED)).peekable();
        while numbers.peek().is_some() {
            let part: Vec<u8> = numbers.by_ref().take(ENTRIES_AT_ONCE).flat_map(u32::to_le_bytes).collect();
            grown.file.write_all_at(FileOffset(at), &part)?;
            at += part.len() as u64;
        }
        drop(numbers);
        Ok(vec![grown.file.publish()?])
    }
}
