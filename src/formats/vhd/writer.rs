//! A disk into a VHD: [`create_fixed`] (the disk as it is, then the footer; what Azure takes) or [`create_dynamic`] (2 MiB
//! blocks as they arrive).
//!
//! Layout of a dynamic one, in sectors:
//!
//! ```text
//! copy of the footer 1 | dynamic header 2 | table | pad | (pad 7 | bitmap 1 | block 4096) … | footer 1
//! ```
//!
//! The padding lets all blocks begin at whole 4 KiB, as Windows does since version 8: else every write of a guest would
//! cost two of the host's, and holes inside blocks could not be holes of the file.
//!
//! Readers disagree about a disk's size: Virtual PC and QEMU's own images mean the geometry, all others "current size".
//! QEMU decides by the creator, and knows Hyper-V's, `win `. So that is the creator written here, with the geometry that
//! the specification computes: every reader then sees the same size, also for disks that are no whole cylinders.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification 1.0", and its appendix "CHS Calculation".

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::header::{FOOTER_CHECKSUM_AT, FOOTER_MAGIC, HEADER_CHECKSUM_AT, HEADER_MAGIC, checksum};
use crate::formats::ImageError;
use crate::formats::sink::growing::{GrowingDisk, Places};
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{DiskSink, Overwrite, TargetError, WriteOrder, check_inside, data_runs, failed, fresh_uuid};
use crate::units::{ByteLen, FileOffset, GuestOffset, SECTOR_BYTES};

/// A block, without its bitmap: what all writers use.
const BLOCK_BYTES: u64 = 2 << 20;
/// Its bitmap: a bit for each of 4096 sectors.
const BITMAP_BYTES: usize = 512;
/// Bytes before each block, of which the bitmap is the last part.
const PREFIX_BYTES: usize = 4096;
/// Largest disk, the specification's limit.
const DISK_BYTES_MAX: u64 = 2040 << 30;
/// Where the table begins.
const TABLE_AT: u64 = 1536;
/// Entry of a block that is not stored.
const UNUSED: u32 = u32::MAX;
/// Seconds from 1970 to 2000, where the time stamps of this format begin.
const SECONDS_TO_2000: u64 = 946_684_800;
/// Zeros of this length and alignment stay a hole of the file.
const HOLE_BYTES_MIN: usize = 4096;
/// Table entries that are put together at once.
const ENTRIES_AT_ONCE: usize = 64 << 10;

/// What a footer says about this disk.
#[derive(Clone, Copy, Debug)]
struct Footer {
    size: u64,
    is_dynamic: bool,
    seconds: u32,
    uuid: Uuid,
}

impl Footer {
    fn new(path: &Path, size: ByteLen, is_dynamic: bool) -> Result<Footer, TargetError> {
        if size.0 == 0 || size.0 > DISK_BYTES_MAX || !size.0.is_multiple_of(SECTOR_BYTES) {
            return Err(TargetError::DiskSize {
                file: path.to_owned(),
                expected: format!("a multiple of 512, from 512 to {DISK_BYTES_MAX} bytes (2040 GiB) for a VHD"),
                found: size,
            });
        }
        // A clock before 2000 or past 2136 makes a wrong time stamp, which nothing depends on.
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let seconds = u32::try_from(seconds.saturating_sub(SECONDS_TO_2000)).unwrap_or(0);
        let uuid = fresh_uuid().map_err(failed("find a UUID for", path))?;
        Ok(Footer { size: size.0, is_dynamic, seconds, uuid })
    }

    fn encode(&self) -> [u8; 512] {
        let (cylinders, heads, sectors_per_track) = geometry(self.size / SECTOR_BYTES);
        let (data_offset, disk_type) = if self.is_dynamic { (512, 3u32) } else { (u64::MAX, 2) };
        let mut out = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, FOOTER_MAGIC);
        put(8, &2u32.to_be_bytes()); // features: the bit that is always set
        put(12, &0x1_0000u32.to_be_bytes());
        put(16, &data_offset.to_be_bytes());
        put(24, &self.seconds.to_be_bytes());
        put(28, b"win ");
        put(32, &0xa_0000u32.to_be_bytes());
        put(36, b"Wi2k");
        put(40, &self.size.to_be_bytes());
        put(48, &self.size.to_be_bytes());
        put(56, &cylinders.to_be_bytes());
        put(58, &[heads, sectors_per_track]);
        put(60, &disk_type.to_be_bytes());
        put(68, self.uuid.as_bytes());
        let sum = checksum(&out, FOOTER_CHECKSUM_AT);
        out[FOOTER_CHECKSUM_AT..FOOTER_CHECKSUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

fn dynamic_header(entries: u32) -> [u8; 1024] {
    let mut out = [0; 1024];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, HEADER_MAGIC);
    put(8, &u64::MAX.to_be_bytes());
    put(16, &TABLE_AT.to_be_bytes());
    put(24, &0x1_0000u32.to_be_bytes());
    put(28, &entries.to_be_bytes());
    put(32, &(BLOCK_BYTES as u32).to_be_bytes());
    let sum = checksum(&out, HEADER_CHECKSUM_AT);
    out[HEADER_CHECKSUM_AT..HEADER_CHECKSUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
    out
}

/// Cylinders, heads and sectors of a disk of that many sectors, as the specification's appendix computes them.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(65_535 * 16 * 255);
    let (heads, per_track) = if sectors >= 65_535 * 16 * 63 {
        (16, 255)
    } else {
        let tracks = sectors / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if heads <= 16 && tracks < heads * 1024 {
            (heads, 17)
        } else if sectors / 31 < 16 * 1024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    let cylinders = sectors / per_track / heads;
    let small = "bounded by the largest geometry";
    (u16::try_from(cylinders).expect(small), u8::try_from(heads).expect(small), u8::try_from(per_track).expect(small))
}

/// A dynamic VHD under construction.
#[derive(Debug)]
pub struct DynamicSink {
    disk: GrowingDisk,
    footer: Footer,
}

/// Starts a dynamic VHD for a disk of `size` bytes that appears as `path` when it is finished.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the disk is empty, no whole sectors, or beyond
/// 2040 GiB.
pub fn create_dynamic(path: &Path, size: ByteLen, overwrite: Overwrite) -> Result<DynamicSink, ImageError> {
    let footer = Footer::new(path, size, true)?;
    let entries = u32::try_from(size.0.div_ceil(BLOCK_BYTES)).expect("at most 2040 GiB in blocks of 2 MiB");
    let file = NewFile::create(path, overwrite)?;
    file.write_all_at(FileOffset(0), &footer.encode())?;
    file.write_all_at(FileOffset(512), &dynamic_header(entries))?;
    let places = Places { block: BLOCK_BYTES, first: first_block_at(entries.into()) };
    // All sectors of a stored block are stored; those of zeros are holes of the file.
    let mut prefix = vec![0; PREFIX_BYTES];
    prefix[PREFIX_BYTES - BITMAP_BYTES..].fill(0xff);
    let disk = GrowingDisk::new(file, size, places, prefix)?;
    Ok(DynamicSink { disk, footer })
}

/// Where the first block's padding begins, behind a table of so many entries.
fn first_block_at(entries: u64) -> u64 {
    (TABLE_AT + entries * 4).next_multiple_of(PREFIX_BYTES as u64)
}

/// Table entry of block number `number` of the file: the sector of its bitmap. At most 2^20 blocks of 2 MiB and 4 KiB end
/// below sector 2^32.
fn entry(first: u64, number: Option<u32>) -> u32 {
    let Some(number) = number else { return UNUSED };
    let prefix = PREFIX_BYTES as u64;
    let bitmap_at = first + u64::from(number) * (prefix + BLOCK_BYTES) + prefix - BITMAP_BYTES as u64;
    u32::try_from(bitmap_at / SECTOR_BYTES).expect("below 2 TiB")
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
        let grown = self.disk.grown()?;
        let entries = grown.numbers().len() as u64;
        let first = first_block_at(entries);
        let mut at = TABLE_AT;
        let mut numbers = grown.numbers().map(|number| entry(first, number)).peekable();
        while numbers.peek().is_some() {
            let part: Vec<u8> = numbers.by_ref().take(ENTRIES_AT_ONCE).flat_map(u32::to_be_bytes).collect();
            grown.file.write_all_at(FileOffset(at), &part)?;
            at += part.len() as u64;
        }
        drop(numbers);
        // To the end of its sector the table has no entries, and readers that look see none.
        let rest = usize::try_from(at.next_multiple_of(SECTOR_BYTES) - at).expect("below a sector");
        grown.file.write_all_at(FileOffset(at), &vec![0xff; rest])?;
        grown.file.write_all_at(FileOffset(grown.end), &self.footer.encode())?;
        Ok(vec![grown.file.publish()?])
    }
}

/// A fixed VHD under construction.
#[derive(Debug)]
pub struct FixedSink {
    file: NewFile,
    footer: Footer,
}

/// Starts a fixed VHD for a disk of `size` bytes that appears as `path` when it is finished. The file is sparse.
///
/// # Errors
/// As [`create_dynamic`].
pub fn create_fixed(path: &Path, size: ByteLen, overwrite: Overwrite) -> Result<FixedSink, ImageError> {
    let footer = Footer::new(path, size, false)?;
    let file = NewFile::create(path, overwrite)?;
    file.set_len(size.0 + 512)?;
    Ok(FixedSink { file, footer })
}

impl DiskSink for FixedSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        check_inside(self.file.target(), ByteLen(self.footer.size), at, data.len() as u64)?;
        for run in data_runs(data, HOLE_BYTES_MIN) {
            self.file.write_all_at(FileOffset(at.0 + run.start as u64), &data[run])?;
        }
        Ok(())
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        // The file is new: what nobody writes reads as zeros already.
        Ok(check_inside(self.file.target(), ByteLen(self.footer.size), at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        self.file.check_whole()?;
        self.file.write_all_at(FileOffset(self.footer.size), &self.footer.encode())?;
        Ok(vec![self.file.publish()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_at_the_edges_of_the_appendix() {
        let check = |sectors, expected| assert_eq!(geometry(sectors), expected, "{sectors}");
        check(1, (0, 4, 17));
        check(4 * 17, (1, 4, 17));
        check(4 * 17 * 1024 - 1, (1023, 4, 17));
        check(4 * 17 * 1024, (140, 16, 31)); // as the appendix has it, not (819, 5, 17)
        check(16 * 17 * 1024 - 1, (1023, 16, 17));
        check(16 * 17 * 1024, (561, 16, 31));
        check(16 * 31 * 1024 - 1, (1023, 16, 31));
        check(16 * 31 * 1024, (503, 16, 63));
        check(65_535 * 16 * 63 - 1, (65_534, 16, 63));
        check(65_535 * 16 * 63, (16_191, 16, 255));
        check(65_535 * 16 * 255, (65_535, 16, 255));
        check(u64::MAX, (65_535, 16, 255));
    }

    #[test]
    fn the_last_block_of_the_largest_disk_has_a_sector_of_32_bits() {
        let blocks = u32::try_from(DISK_BYTES_MAX / BLOCK_BYTES).unwrap();
        let first = first_block_at(blocks.into());
        assert!(entry(first, Some(blocks - 1)) < UNUSED);
        assert_eq!((entry(4096, Some(0)), entry(4096, Some(1))), (15, 15 + 8 + 4096));
    }

    #[test]
    fn footer_fields_lie_where_the_format_has_them() {
        let footer = Footer { size: 40 << 20, is_dynamic: true, seconds: 0x0102_0304, uuid: Uuid::from_u128(7) };
        let bytes = footer.encode();
        assert_eq!(bytes[..16], *b"conectix\0\0\0\x02\0\x01\0\0");
        assert_eq!(bytes[16..28], [0, 0, 0, 0, 0, 0, 2, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[28..32], *b"win ");
        assert_eq!(bytes[48..56], (40u64 << 20).to_be_bytes());
        assert_eq!(bytes[56..64], [3, 0xc3, 5, 17, 0, 0, 0, 3]);
        let sum: u32 =
            bytes.iter().enumerate().filter(|(at, _)| !(64..68).contains(at)).map(|(_, b)| u32::from(*b)).sum();
        assert_eq!(bytes[64..68], (!sum).to_be_bytes());
        assert_eq!(bytes[83], 7);
        let fixed = Footer { is_dynamic: false, ..footer }.encode();
        assert_eq!((&fixed[16..24], fixed[63]), (&[255; 8][..], 2));
    }
}
