//! What VHD, VHDX, VDI and Parallels share: the disk is cut into blocks of one size, and one table (the BAT, the block
//! map) says where each block lies. Some blocks come with a bitmap that says which of their sectors are theirs.
//!
//! A table may have 512 MiB, so it is read in pages. The formats differ in where an entry lies and what it means; that is
//! [`BlockMap`], whose implementations have checked that their whole table lies inside the file.

use std::sync::Arc;

use super::cache::SlotCache;
use super::file::{Bytes, ImageFile};
use super::mapped::{Cell, CellMap, Entry, MappedDisk, Names, Piece, Runs};
use crate::disk::{Disk, DiskError};
use crate::units::FileOffset;

/// Largest table we accept: enough for the 64 TiB of a VHDX in its smallest blocks.
pub(crate) const TABLE_BYTES_MAX: u64 = (512 << 20) + (8 << 20);
/// Largest block of any of these formats, the limit of VHDX.
pub(crate) const BLOCK_BYTES_MAX: u64 = 256 << 20;

/// Entries that are read at once; as runs they take at most 200 KiB.
const PAGE_ENTRIES: u64 = 4096;
/// Bitmaps kept for one layer; one has at most 64 KiB, that of the largest block.
const BITMAPS_CACHED: usize = 32;

/// Where a format keeps its table, and what the entries mean.
pub(crate) trait BlockMap: Send + Sync {
    /// How an entry lies there.
    const ENTRY: Entry;
    /// Where the entry of block number `block` lies; ascending, and inside the file for every block of the disk.
    fn entry_at(&self, block: u64) -> FileOffset;
    /// What an entry means.
    fn block(&self, entry: u64) -> Cell;
    /// Reads the bitmap of a [`Cell::Mixed`], a bit for each of its sectors; `stored` is what the entry said.
    fn bitmap(&self, bytes: &dyn Bytes, block: u64, stored: FileOffset) -> Result<Vec<u8>, DiskError> {
        let _ = block;
        Err(bytes.file().corrupt("sector bitmap", stored, "none in this format", "one"))
    }
    /// The bit of sector `sector` in such a bitmap; `None` past its end.
    fn bit(bitmap: &[u8], sector: u64) -> Option<bool> {
        let _ = (bitmap, sector);
        None
    }
}

/// Sizes of a blocked disk, already checked: neither block nor sector is 0, the block is whole sectors, and the table
/// fits [`TABLE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Size of the disk in bytes, below 2^63.
    pub size: u64,
    /// Size of a block in bytes.
    pub block: u64,
    /// Size of what a bit stands for.
    pub sector: u64,
}

impl Geometry {
    /// Blocks that cover the disk.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block)
    }
}

/// The disk that `map` describes.
pub(crate) fn disk<M: BlockMap + 'static>(bytes: Arc<dyn Bytes>, geometry: Geometry, map: M) -> Arc<dyn Disk> {
    Arc::new(MappedDisk::new(Blocks { bytes, geometry, map, bitmaps: SlotCache::new(BITMAPS_CACHED) }))
}

/// One layer of such an image.
struct Blocks<M> {
    bytes: Arc<dyn Bytes>,
    geometry: Geometry,
    map: M,
    bitmaps: SlotCache<Vec<u8>>,
}

impl<M: BlockMap> CellMap for Blocks<M> {
    const NAMES: Names = Names { entry: "block table entry", cell: "block" };
    // A page covers 4 GiB or more of the disk.
    const PIECES_CACHED: usize = 16;

    fn size(&self) -> u64 {
        self.geometry.size
    }

    fn cell(&self) -> u64 {
        self.geometry.block
    }

    fn table_file(&self) -> &ImageFile {
        self.bytes.file()
    }

    fn cells(&self) -> &dyn Bytes {
        self.bytes.as_ref()
    }

    fn piece_at(&self, at: u64) -> Result<Piece, DiskError> {
        let span = self.geometry.block * PAGE_ENTRIES; // at most 2^40
        let number = at / span;
        let (start, end) = (number * span, self.geometry.size.min((number + 1) * span));
        Ok(Piece { number, start, end, entries_at: Some(self.map.entry_at(number * PAGE_ENTRIES)) })
    }

    fn load(&self, piece: &Piece, entries_at: FileOffset, runs: &mut Runs) -> Result<(), DiskError> {
        let Geometry { block, .. } = self.geometry;
        let numbers = piece.start / block..piece.end.div_ceil(block);
        let len = self.map.entry_at(numbers.end - 1).0 + M::ENTRY.bytes() - entries_at.0;
        let table = self.bytes.read_vec("block table", entries_at, len)?;
        let entry_len = usize::try_from(M::ENTRY.bytes()).expect("4 or 8");
        for number in numbers {
            let place = self.map.entry_at(number); // not always behind the one before
            let from = usize::try_from(place.0 - entries_at.0).expect("inside a table in memory");
            let entry = M::ENTRY.value(&table[from..from + entry_len]);
            runs.push(number * block, block, self.map.block(entry), (place, entry));
        }
        Ok(())
    }

    fn mixed(&self, start: u64, stored: FileOffset, within: u64) -> Result<(bool, u64), DiskError> {
        let Geometry { block, sector, .. } = self.geometry;
        let number = start / block;
        let bitmap = self.bitmaps.get_or(number, || self.map.bitmap(self.bytes.as_ref(), number, stored))?;
        let (is_stored, change) = bit_run::<M>(&bitmap, within / sector);
        Ok((is_stored, change.saturating_mul(sector)))
    }
}

/// The bit of `sector`, and the number of the first sector behind it whose bit is another. Past the bitmap's end there
/// are holes.
fn bit_run<M: BlockMap>(bitmap: &[u8], sector: u64) -> (bool, u64) {
    let Some(first) = M::bit(bitmap, sector) else { return (false, u64::MAX) };
    let whole = if first { 0xff } else { 0 };
    let mut end = sector + 1;
    loop {
        // Whole bytes at once: a bitmap of the largest block has 64 KiB.
        let byte = usize::try_from(end / 8).ok().and_then(|byte| bitmap.get(byte));
        match byte {
            None => return (first, end),
            Some(byte) if end.is_multiple_of(8) && *byte == whole => end += 8,
            Some(_) if M::bit(bitmap, end) == Some(first) => end += 1,
            Some(_) => return (first, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{ExtentKind, conformance};
    use crate::units::GuestOffset;
    use std::fs::File;

    /// Blocks of 8 sectors of 512 bytes; 0 hole, 1 zero, 2 invalid; else an offset, odd ones with a bitmap in the byte
    /// before, least significant bit first.
    struct Toy;

    impl BlockMap for Toy {
        const ENTRY: Entry = Entry::Le64;
        fn entry_at(&self, block: u64) -> FileOffset {
            FileOffset(block * 8)
        }
        fn block(&self, entry: u64) -> Cell {
            match entry {
                0 => Cell::Hole,
                1 => Cell::Zero,
                2 => Cell::Invalid("no 2"),
                at if at % 2 == 1 => Cell::Mixed(FileOffset(at)),
                at => Cell::Stored(FileOffset(at)),
            }
        }
        fn bitmap(&self, bytes: &dyn Bytes, _: u64, stored: FileOffset) -> Result<Vec<u8>, DiskError> {
            bytes.read_vec("bitmap", FileOffset(stored.0 - 1), 1)
        }
        fn bit(bitmap: &[u8], sector: u64) -> Option<bool> {
            Some(bitmap.get(sector as usize / 8)? >> (sector % 8) & 1 == 1)
        }
    }

    fn toy(entries: &[u64], size: u64, content: &[(usize, u8, usize)]) -> (tempfile::TempDir, Arc<dyn Disk>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toy");
        let mut bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        for (at, byte, len) in content {
            bytes.resize(bytes.len().max(at + len), 0);
            bytes[*at..at + len].fill(*byte);
        }
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(ImageFile::new(&path, File::open(&path).unwrap()).unwrap());
        (dir, super::disk(file, Geometry { size, block: 4096, sector: 512 }, Toy))
    }

    #[test]
    fn neighbours_are_one_run_and_bitmaps_decide_sector_by_sector() {
        // Blocks 0 and 1 side by side; 2 hole; 3 zero; 4 mixed with sectors 1, 2 and 7; 5 short at the disk's end.
        let entries = [4096, 8192, 0, 1, 16_385, 20_482];
        let content =
            [(4096, 3, 4096), (8192, 4, 4096), (16_384, 0b1000_0110, 1), (16_385, 7, 4096), (20_482, 9, 1024)];
        let size = 5 * 4096 + 1024;
        let (_dir, disk) = toy(&entries, size, &content);
        let mut expected = vec![0; size as usize];
        expected[..4096].fill(3);
        expected[4096..8192].fill(4);
        for sector in [1, 2, 7] {
            expected[4 * 4096 + sector * 512..][..512].fill(7);
        }
        expected[5 * 4096..].fill(9);
        conformance::check(disk.as_ref(), &expected);
        let extent = |at| disk.extent_at(GuestOffset(at)).map(|extent| (extent.kind, extent.len.0)).unwrap();
        assert_eq!(extent(1), (ExtentKind::Data, 8191));
        assert_eq!(extent(8192), (ExtentKind::Hole, 4096));
        assert_eq!(extent(3 * 4096), (ExtentKind::Zero, 4096));
        assert_eq!(extent(4 * 4096), (ExtentKind::Hole, 512));
        assert_eq!(extent(4 * 4096 + 700), (ExtentKind::Data, 1536 - 700));
        assert_eq!(extent(4 * 4096 + 1536), (ExtentKind::Hole, 4 * 512));
        assert_eq!(extent(4 * 4096 + 3584), (ExtentKind::Data, 512 + 1024));
    }

    #[test]
    fn one_bad_entry_spoils_only_its_block() {
        let (_dir, disk) = toy(&[4096, 2, 6000, 0], 4 * 4096, &[(4096, 1, 4096)]);
        let mut block = [0; 4096];
        disk.read_at(GuestOffset(0), &mut block).unwrap();
        assert_eq!(disk.extent_at(GuestOffset(0)).unwrap().len.0, 4096);
        let said = |at, block: &mut [u8]| {
            let read = disk.read_at(GuestOffset(at), block).unwrap_err().to_string();
            assert_eq!(read, disk.extent_at(GuestOffset(at)).unwrap_err().to_string());
            read
        };
        assert!(said(4096, &mut block).contains("block table entry at offset 0x8: expected no 2, found 0x2"));
        let past = "block at offset 0x1770: expected 4096 bytes there, found a truncated image of 8192 bytes";
        assert!(said(8192, &mut block).contains(past));
        disk.read_at(GuestOffset(3 * 4096), &mut block).unwrap();
    }

    #[test]
    fn runs_of_bits_end_where_the_bits_change() {
        let check = |bitmap: &[u8], sector, expected| assert_eq!(bit_run::<Toy>(bitmap, sector), expected);
        check(&[0xff, 0xff], 0, (true, 16));
        check(&[0xff, 0xff], 9, (true, 16));
        check(&[0xff, 0x7f], 3, (true, 15));
        check(&[0x00, 0x00, 0x01], 1, (false, 16));
        check(&[0b0101_0101], 1, (false, 2));
        check(&[0xff], 8, (false, u64::MAX));
    }
}
