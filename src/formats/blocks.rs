//! What VHD, VHDX and VDI share: the disk is cut into blocks of one size, and a table (the BAT, the block map) says where
//! each block lies. Some blocks come with a bitmap that says which of their sectors are theirs.
//!
//! A table may have 512 MiB, so it is read in pages when they are needed, and a page becomes a list of runs, neighbouring
//! blocks joined: a sequential read turns into few large reads of the file. Pages and bitmaps live in bounded caches.
//!
//! The formats differ in where an entry lies and what it means; that is [`BlockMap`], whose implementations have checked
//! that their whole table lies inside the file.

use std::sync::Arc;

use super::cache::SlotCache;
use super::file::ImageFile;
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// Largest table we accept: enough for the 64 TiB of a VHDX in its smallest blocks.
pub(crate) const TABLE_BYTES_MAX: u64 = (512 << 20) + (8 << 20);
/// Largest block of any of these formats, the limit of VHDX.
pub(crate) const BLOCK_BYTES_MAX: u64 = 256 << 20;

/// Entries that are read at once; as runs they take at most 128 KiB.
const PAGE_ENTRIES: u64 = 4096;
/// Pages kept for one layer: a page covers 4 GiB or more of the disk.
const PAGES_CACHED: usize = 16;
/// Bitmaps kept for one layer; one has at most 64 KiB, that of the largest block.
const BITMAPS_CACHED: usize = 32;
/// Blocks with a bitmap that one answer of `extent_at` looks at, so that asking stays cheap.
const MIXED_AHEAD: usize = 64;

/// The bytes of an image file, as its structures are to be read: the file itself, or the file under its own log.
pub(crate) trait Bytes: Send + Sync {
    /// The file, to name it in errors.
    fn file(&self) -> &ImageFile;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// As [`ImageFile::read`].
    fn read(&self, field: &'static str, at: FileOffset, buf: &mut [u8]) -> Result<(), DiskError>;

    /// Refuses a range that leaves the file.
    fn check_holds(&self, field: &'static str, at: FileOffset, len: u64) -> Result<(), DiskError> {
        match at.checked_add(ByteLen(len)) {
            Some(end) if end.0 <= self.len() => Ok(()),
            _ => Err(self.file().truncated(field, at, len)),
        }
    }

    /// Reads `len` bytes into a new buffer; nothing is allocated before the file is known to hold them.
    fn read_vec(&self, field: &'static str, at: FileOffset, len: u64) -> Result<Vec<u8>, DiskError> {
        self.check_holds(field, at, len)?;
        let len = usize::try_from(len).map_err(|_| self.file().truncated(field, at, len))?;
        let mut buf = vec![0; len];
        self.read(field, at, &mut buf)?;
        Ok(buf)
    }
}

impl Bytes for ImageFile {
    fn file(&self) -> &ImageFile {
        self
    }

    fn len(&self) -> u64 {
        ImageFile::len(self)
    }

    fn read(&self, field: &'static str, at: FileOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        ImageFile::read(self, field, at, buf)
    }
}

/// Where a format keeps its table, and what the entries mean.
pub(crate) trait BlockMap: Send + Sync {
    /// Bytes of an entry.
    const ENTRY_BYTES: u64;
    /// Where the entry of block number `block` lies; ascending, and inside the file for every block of the disk.
    fn entry_at(&self, block: u64) -> FileOffset;
    /// What an entry means; `entry` has [`BlockMap::ENTRY_BYTES`] bytes.
    fn block(&self, entry: &[u8]) -> Block;
    /// Reads the bitmap of a [`Block::Mixed`], a bit for each of its sectors; `stored` is what the entry said.
    fn bitmap(&self, bytes: &dyn Bytes, block: u64, stored: FileOffset) -> Result<Vec<u8>, DiskError>;
    /// The bit of sector `sector` in such a bitmap; `None` past its end.
    fn bit(bitmap: &[u8], sector: u64) -> Option<bool>;
}

/// What a table entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Hole,
    Zero,
    /// All of it is stored at this offset, which need not be inside the file.
    Stored(FileOffset),
    /// Stored there, but only where its bitmap says so; the rest is a hole.
    Mixed(FileOffset),
    /// No such entry may exist; what would be right instead.
    Invalid(&'static str),
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

/// One layer of such an image as a disk.
pub(crate) struct BlockDisk<M> {
    bytes: Arc<dyn Bytes>,
    geometry: Geometry,
    map: M,
    pages: SlotCache<Vec<Run>>,
    bitmaps: SlotCache<Vec<u8>>,
}

/// Blocks that follow each other, in the disk and (if stored) in the file.
struct Run {
    /// Number of its first block.
    first: u64,
    kind: RunKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Hole,
    Zero,
    Stored(FileOffset),
    /// One block with a bitmap.
    Mixed(FileOffset),
    /// The entry's place, and what would be right.
    Invalid(FileOffset, &'static str),
    /// The entry leads past the end of the file, to this offset.
    PastEnd(FileOffset),
}

/// What covers an offset, and for how many bytes from there, at least 1.
struct Answer {
    kind: Stored,
    len: u64,
    /// It took a bitmap to know.
    is_mixed: bool,
}

#[derive(Clone, Copy)]
enum Stored {
    Hole,
    Zero,
    /// The byte asked about lies here.
    At(FileOffset),
}

impl From<Stored> for ExtentKind {
    fn from(stored: Stored) -> ExtentKind {
        match stored {
            Stored::Hole => ExtentKind::Hole,
            Stored::Zero => ExtentKind::Zero,
            Stored::At(_) => ExtentKind::Data,
        }
    }
}

impl<M: BlockMap> BlockDisk<M> {
    pub fn new(bytes: Arc<dyn Bytes>, geometry: Geometry, map: M) -> BlockDisk<M> {
        let (pages, bitmaps) = (SlotCache::new(PAGES_CACHED), SlotCache::new(BITMAPS_CACHED));
        BlockDisk { bytes, geometry, map, pages, bitmaps }
    }

    /// What covers `at`, which is inside the disk.
    fn answer_at(&self, at: u64) -> Result<Answer, DiskError> {
        let Geometry { size, block, sector } = self.geometry;
        let number = at / block;
        let page = number / PAGE_ENTRIES;
        let runs = self.pages.get_or(page, || self.load_page(page))?;
        // A page's first run begins with its first block, so there is one at or before any of its blocks.
        let index = runs.partition_point(|run| run.first <= number) - 1;
        let run = &runs[index];
        let last = runs.get(index + 1).map_or((page + 1) * PAGE_ENTRIES, |next| next.first);
        let len = size.min(last.saturating_mul(block)) - at;
        let skipped = at - run.first * block;
        let whole = |kind| Ok(Answer { kind, len, is_mixed: false });
        match run.kind {
            RunKind::Hole => whole(Stored::Hole),
            RunKind::Zero => whole(Stored::Zero),
            RunKind::Stored(from) => whole(Stored::At(FileOffset(from.0 + skipped))),
            RunKind::Mixed(from) => {
                let bitmap = self.bitmaps.get_or(number, || self.map.bitmap(self.bytes.as_ref(), number, from))?;
                let (is_stored, end) = bit_run::<M>(&bitmap, skipped / sector);
                let kind = if is_stored { Stored::At(FileOffset(from.0 + skipped)) } else { Stored::Hole };
                Ok(Answer { kind, len: len.min(end.saturating_mul(sector) - skipped), is_mixed: true })
            }
            RunKind::Invalid(place, expected) => {
                let mut entry = vec![0; usize::try_from(M::ENTRY_BYTES).expect("4 or 8")];
                self.bytes.read("block table", place, &mut entry)?;
                Err(self.bytes.file().corrupt("block table entry", place, expected, format_args!("{entry:02x?}")))
            }
            RunKind::PastEnd(from) => Err(self.bytes.file().truncated("block", from, block)),
        }
    }

    /// Reads a page of the table and joins its entries into runs.
    fn load_page(&self, page: u64) -> Result<Vec<Run>, DiskError> {
        let first = page * PAGE_ENTRIES;
        let count = PAGE_ENTRIES.min(self.geometry.blocks() - first);
        let start = self.map.entry_at(first);
        let end = self.map.entry_at(first + count - 1).0 + M::ENTRY_BYTES;
        let table = self.bytes.read_vec("block table", start, end - start.0)?;
        let mut runs: Vec<Run> = Vec::new();
        for number in first..first + count {
            let place = self.map.entry_at(number);
            let from = usize::try_from(place.0 - start.0).expect("inside a table in memory");
            let entry = &table[from..from + usize::try_from(M::ENTRY_BYTES).expect("4 or 8")];
            let kind = match self.map.block(entry) {
                Block::Hole => RunKind::Hole,
                Block::Zero => RunKind::Zero,
                Block::Invalid(expected) => RunKind::Invalid(place, expected),
                Block::Stored(at) | Block::Mixed(at) if !self.is_in_file(at, number) => RunKind::PastEnd(at),
                Block::Stored(at) => RunKind::Stored(at),
                Block::Mixed(at) => RunKind::Mixed(at),
            };
            let follows = runs.last().is_some_and(|last| match (last.kind, kind) {
                (RunKind::Hole, RunKind::Hole) | (RunKind::Zero, RunKind::Zero) => true,
                (RunKind::Stored(from), RunKind::Stored(at)) => {
                    at.0.checked_sub(from.0) == Some((number - last.first) * self.geometry.block)
                }
                _ => false,
            });
            if !follows {
                runs.push(Run { first: number, kind });
            }
        }
        Ok(runs)
    }

    /// Whether the file holds what the disk needs of block number `number` at `at`: sparse writers leave a short last
    /// block, which is fine only if the disk ends inside it.
    fn is_in_file(&self, at: FileOffset, number: u64) -> bool {
        let needed = self.geometry.block.min(self.geometry.size - number * self.geometry.block);
        at.0.checked_add(needed).is_some_and(|end| end <= self.bytes.len())
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

impl<M: BlockMap> Disk for BlockDisk<M> {
    fn size(&self) -> ByteLen {
        ByteLen(self.geometry.size)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let mut at = at.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let answer = self.answer_at(at)?;
            let len = rest.len().min(usize::try_from(answer.len).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match answer.kind {
                Stored::Hole | Stored::Zero => now.fill(0),
                Stored::At(from) => self.bytes.read("block", from, now)?,
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        let left = check_inside(self.size(), at)?.0;
        let span = self.geometry.block.saturating_mul(PAGE_ENTRIES);
        let first = self.answer_at(at.0)?;
        let kind = ExtentKind::from(first.kind);
        let mut len = first.len;
        let mut bitmaps_left = MIXED_AHEAD;
        while len < left && bitmaps_left > 0 && (at.0 + len) / span == at.0 / span {
            // What is wrong further on is said when it is asked about.
            let Ok(next) = self.answer_at(at.0 + len) else { break };
            if ExtentKind::from(next.kind) != kind {
                break;
            }
            len += next.len;
            bitmaps_left -= usize::from(next.is_mixed);
        }
        Ok(Extent { kind, len: ByteLen(len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;
    use std::fs::File;

    /// Blocks of 8 sectors of 512 bytes; 0 hole, 1 zero, 2 invalid; else an offset, odd ones with a bitmap in the byte
    /// before, least significant bit first.
    struct Toy;

    impl BlockMap for Toy {
        const ENTRY_BYTES: u64 = 8;
        fn entry_at(&self, block: u64) -> FileOffset {
            FileOffset(block * 8)
        }
        fn block(&self, entry: &[u8]) -> Block {
            match u64::from_le_bytes(entry.try_into().unwrap()) {
                0 => Block::Hole,
                1 => Block::Zero,
                2 => Block::Invalid("no 2"),
                at if at % 2 == 1 => Block::Mixed(FileOffset(at)),
                at => Block::Stored(FileOffset(at)),
            }
        }
        fn bitmap(&self, bytes: &dyn Bytes, _: u64, stored: FileOffset) -> Result<Vec<u8>, DiskError> {
            bytes.read_vec("bitmap", FileOffset(stored.0 - 1), 1)
        }
        fn bit(bitmap: &[u8], sector: u64) -> Option<bool> {
            Some(bitmap.get(sector as usize / 8)? >> (sector % 8) & 1 == 1)
        }
    }

    fn toy(entries: &[u64], size: u64, content: &[(usize, u8, usize)]) -> (tempfile::TempDir, BlockDisk<Toy>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toy");
        let mut bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        for (at, byte, len) in content {
            bytes.resize(bytes.len().max(at + len), 0);
            bytes[*at..at + len].fill(*byte);
        }
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(ImageFile::new(&path, File::open(&path).unwrap()).unwrap());
        (dir, BlockDisk::new(file, Geometry { size, block: 4096, sector: 512 }, Toy))
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
        conformance::check(&disk, &expected);
        let extent = |at| disk.extent_at(GuestOffset(at)).map(|extent| (extent.kind, extent.len.0)).unwrap();
        assert_eq!(disk.pages.get_or(0, || Err(())).unwrap().len(), 5);
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
        assert!(said(4096, &mut block).contains("block table entry at offset 0x8: expected no 2, found [02, 00"));
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
