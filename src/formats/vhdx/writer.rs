//! A disk into a dynamic VHDX: blocks as they arrive.
//!
//! Layout, in MiB: `identifier, headers, region tables 1 | log 1 | metadata 1 | table | blocks…`. The log is there and
//! empty: the headers carry no log GUID. Both headers and both region tables are whole.
//!
//! Source: \[MS-VHDX\]. Sector sizes are 512 (logical) and 4096 (physical), as Hyper-V makes them.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::header::{HEADERS_AT, MAGIC, METADATA_TABLE_BYTES, REGION_TABLE_BYTES, REGIONS_AT, checksum};
use super::{MIB, guid};
use crate::formats::ImageError;
use crate::formats::sink::growing::{GrowingDisk, Grown, Places};
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{DiskSink, Overwrite, TargetError, WriteOrder, failed, fresh_uuid};
use crate::units::{ByteLen, FileOffset, GuestOffset, SECTOR_BYTES};

/// Largest disk, the format's own limit.
const DISK_BYTES_MAX: u64 = 64 << 40;
/// Smallest block we write: small ones waste little, and Hyper-V's own 32 MiB suit its own allocation only.
const BLOCK_BYTES_MIN: u64 = 2 << 20;
/// Blocks of larger disks grow so that the table stays at 8 MiB: 64 MiB for 64 TiB.
const BLOCKS_MAX: u64 = 1 << 20;
const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;
/// Entry of a block that is present.
const FULLY_PRESENT: u64 = 6;
/// Table entries that are put together at once.
const ENTRIES_AT_ONCE: u64 = 64 << 10;

/// A VHDX under construction.
#[derive(Debug)]
pub struct DynamicSink {
    disk: GrowingDisk,
    shape: Shape,
    ids: Ids,
}

/// Sizes and places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    size: u64,
    block: u64,
    /// Blocks between two entries for sector bitmaps.
    chunk_blocks: u64,
    table_len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ids {
    file_write: Uuid,
    data_write: Uuid,
    disk: Uuid,
}

impl Shape {
    fn of(size: u64) -> Shape {
        let block = size.div_ceil(BLOCKS_MAX).next_power_of_two().max(BLOCK_BYTES_MIN);
        let chunk_blocks = (SECTOR_BYTES << 23) / block;
        let blocks = size.div_ceil(block);
        let entries = blocks + (blocks - 1) / chunk_blocks;
        let table_len = u32::try_from((entries * 8).next_multiple_of(MIB)).expect("little more than 2^20 entries");
        Shape { size, block, chunk_blocks, table_len }
    }

    fn first_block_at(self) -> u64 {
        TABLE_AT + u64::from(self.table_len)
    }
}

/// Starts a dynamic VHDX for a disk of `size` bytes that appears as `path` when it is finished.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the disk is empty, no whole sectors, or beyond
/// 64 TiB.
pub fn create_dynamic(path: &Path, size: ByteLen, overwrite: Overwrite) -> Result<DynamicSink, ImageError> {
    if size.0 == 0 || size.0 > DISK_BYTES_MAX || !size.0.is_multiple_of(SECTOR_BYTES) {
        let expected = format!("a multiple of 512, from 512 to {DISK_BYTES_MAX} bytes (64 TiB) for a VHDX");
        return Err(TargetError::DiskSize { file: path.to_owned(), expected, found: size }.into());
    }
    let shape = Shape::of(size.0);
    let fresh = || fresh_uuid().map_err(failed("find a GUID for", path));
    let ids = Ids { file_write: fresh()?, data_write: fresh()?, disk: fresh()? };
    let file = NewFile::create(path, overwrite)?;
    let places = Places { block: shape.block, first: shape.first_block_at() };
    let disk = GrowingDisk::new(file, size, places, Vec::new())?;
    Ok(DynamicSink { disk, shape, ids })
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
        let (shape, ids) = (self.shape, self.ids);
        let grown = self.disk.grown()?;
        write_table(&grown, shape)?;
        grown.file.write_all_at(FileOffset(METADATA_AT), &metadata(shape, ids))?;
        for at in REGIONS_AT {
            grown.file.write_all_at(FileOffset(at), &region_table(shape))?;
        }
        for (at, sequence) in HEADERS_AT.into_iter().zip(1..) {
            grown.file.write_all_at(FileOffset(at), &header(sequence, ids))?;
        }
        let creator = concat!("abbild ", env!("CARGO_PKG_VERSION")).encode_utf16().flat_map(u16::to_le_bytes);
        let identifier: Vec<u8> = MAGIC.iter().copied().chain(creator).collect();
        grown.file.write_all_at(FileOffset(0), &identifier)?;
        Ok(vec![grown.file.publish()?])
    }
}

/// Writes the entries of the blocks that are there; all others, and those for bitmaps, are zeros: a hole of the file.
fn write_table(grown: &Grown, shape: Shape) -> Result<(), TargetError> {
    let mut first = 0;
    let mut part: Vec<u64> = Vec::new();
    let flush = |first: u64, part: &mut Vec<u64>| -> Result<(), TargetError> {
        if part.iter().any(|entry| *entry != 0) {
            let bytes: Vec<u8> = part.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            grown.file.write_all_at(FileOffset(TABLE_AT + first * 8), &bytes)?;
        }
        part.clear();
        Ok(())
    };
    for (block, number) in (0u64..).zip(grown.numbers()) {
        if block > 0 && block.is_multiple_of(shape.chunk_blocks) {
            part.push(0); // the chunk's sector bitmaps: a disk without parent has none
        }
        let entry = number.map(|number| (shape.first_block_at() + u64::from(number) * shape.block) | FULLY_PRESENT);
        part.push(entry.unwrap_or(0));
        if part.len() as u64 >= ENTRIES_AT_ONCE {
            let len = part.len() as u64;
            flush(first, &mut part)?;
            first += len;
        }
    }
    flush(first, &mut part)
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Puts the checksum of a whole structure into it.
fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&out);
    put(&mut out, 4, &sum.to_le_bytes());
    out
}

fn header(sequence: u64, ids: Ids) -> Vec<u8> {
    let mut out = vec![0; 4096];
    put(&mut out, 0, b"head");
    put(&mut out, 8, &sequence.to_le_bytes());
    put(&mut out, 16, &ids.file_write.to_bytes_le());
    put(&mut out, 32, &ids.data_write.to_bytes_le());
    // 48: no log GUID, nothing to replay; 64: log version 0.
    put(&mut out, 66, &1u16.to_le_bytes());
    put(&mut out, 68, &(MIB as u32).to_le_bytes());
    put(&mut out, 72, &LOG_AT.to_le_bytes());
    seal(out)
}

fn region_table(shape: Shape) -> Vec<u8> {
    let mut out = vec![0; REGION_TABLE_BYTES as usize];
    put(&mut out, 0, b"regi");
    put(&mut out, 8, &2u32.to_le_bytes());
    let regions = [(guid::BAT, TABLE_AT, shape.table_len), (guid::METADATA, METADATA_AT, MIB as u32)];
    for (number, (guid, at, len)) in regions.into_iter().enumerate() {
        let entry = 16 + number * 32;
        put(&mut out, entry, &guid.to_bytes_le());
        put(&mut out, entry + 16, &at.to_le_bytes());
        put(&mut out, entry + 24, &len.to_le_bytes());
        put(&mut out, entry + 28, &1u32.to_le_bytes()); // required
    }
    seal(out)
}

/// The metadata table and its items, which follow each other behind it.
fn metadata(shape: Shape, ids: Ids) -> Vec<u8> {
    /// Who needs an item: it describes the disk (2), a reader must know it (4).
    const REQUIRED: u32 = 4;
    const OF_DISK: u32 = 2 | REQUIRED;
    let block = u32::try_from(shape.block).expect("at most 64 MiB");
    let parameters = [block.to_le_bytes(), [0; 4]].concat(); // neither fixed nor with a parent
    let items: [(Uuid, u32, Vec<u8>); 5] = [
        (guid::FILE_PARAMETERS, REQUIRED, parameters),
        (guid::DISK_SIZE, OF_DISK, shape.size.to_le_bytes().to_vec()),
        (guid::DISK_ID, OF_DISK, ids.disk.to_bytes_le().to_vec()),
        (guid::LOGICAL_SECTOR, OF_DISK, 512u32.to_le_bytes().to_vec()),
        (guid::PHYSICAL_SECTOR, OF_DISK, 4096u32.to_le_bytes().to_vec()),
    ];
    let mut out = vec![0; METADATA_TABLE_BYTES as usize];
    put(&mut out, 0, b"metadata");
    put(&mut out, 10, &(items.len() as u16).to_le_bytes());
    for (number, (guid, flags, value)) in items.into_iter().enumerate() {
        let (entry, at) = (32 + number * 32, out.len() as u32);
        put(&mut out, entry, &guid.to_bytes_le());
        put(&mut out, entry + 16, &at.to_le_bytes());
        put(&mut out, entry + 20, &(value.len() as u32).to_le_bytes());
        put(&mut out, entry + 24, &flags.to_le_bytes());
        out.extend(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_so_that_the_table_does_not() {
        let check = |size, block, table_mib| {
            let shape = Shape::of(size);
            assert_eq!((shape.block, u64::from(shape.table_len)), (block, table_mib * MIB), "{size}");
        };
        check(512, 2 * MIB, 1);
        check(2 << 40, 2 * MIB, 9); // 2^20 blocks, and one entry for the bitmaps of each 2048
        check((2 << 40) + 512, 4 * MIB, 5);
        check(DISK_BYTES_MAX, 64 * MIB, 9);
    }

    #[test]
    fn checksums_cover_all_but_themselves() {
        let ids = Ids { file_write: Uuid::from_u128(1), data_write: Uuid::from_u128(2), disk: Uuid::from_u128(3) };
        let header = header(7, ids);
        let mut zeroed = header.clone();
        zeroed[4..8].fill(0);
        assert_eq!(header[4..8], crc32c::crc32c(&zeroed).to_le_bytes());
        assert_eq!(header[8..16], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((header[32], header[47], &header[48..64]), (0, 2, &[0; 16][..]));
    }
}
