//! Disks in blocks of one size, stored in the order in which they are first touched: what VHD, VHDX and VDI have in common.
//!
//! A call may cover a part of a block, and other threads may write its other parts at the same time; so a table in memory
//! says which blocks have a place. It is locked for the look-up only, never during I/O. The format's own table is made
//! from it at the end. Of a block that has a place, ranges of zeros stay holes of the file.

use std::sync::{Mutex, PoisonError};

use super::new_file::NewFile;
use super::{TargetError, check_inside, data_runs, is_zero};
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// Zeros of this length and alignment stay a hole of the file: the usual block of a filesystem.
const HOLE_BYTES_MIN: usize = 4096;

/// Where blocks go in the file.
#[derive(Clone, Copy, Debug)]
pub(in crate::formats) struct Places {
    /// Size of a block.
    pub block: u64,
    /// Where the first block's prefix begins.
    pub first: u64,
}

/// A disk under construction whose file grows by blocks.
#[derive(Debug)]
pub(in crate::formats) struct GrowingDisk {
    file: NewFile,
    size: ByteLen,
    places: Places,
    /// What lies before each block.
    prefix: Vec<u8>,
    table: Mutex<Table>,
}

/// Which blocks have a place.
#[derive(Debug)]
struct Table {
    /// Per block of the disk: 0, or 1 + its number in the file. Made as zeros, so that memory is used only where a disk
    /// of 64 TiB has data.
    numbers: Vec<u32>,
    stored: u32,
}

/// What is left when all blocks are written: the file, and where they are.
pub(in crate::formats) struct Grown {
    /// Still to get its tables, and to be published.
    pub file: NewFile,
    /// Where the last block ends.
    pub end: u64,
    /// How many blocks the file has.
    pub stored: u32,
    numbers: Vec<u32>,
}

impl Grown {
    /// For each block of the disk its number in the file, if it has one.
    pub fn numbers(&self) -> impl ExactSizeIterator<Item = Option<u32>> + '_ {
        self.numbers.iter().map(|number| number.checked_sub(1))
    }
}

impl Places {
    /// Where the prefix of block number `number` of the file begins; blocks and their numbers are bounded by the disk's
    /// size, which the formats keep far below 2^63.
    fn at(self, number: u32, prefix: usize) -> u64 {
        self.first + u64::from(number) * (self.block + prefix as u64)
    }
}

impl GrowingDisk {
    /// A disk of `size` bytes in `file`, which holds nothing from the first place on.
    ///
    /// # Errors
    /// [`TargetError::DiskSize`] if the disk has more blocks than 32 bits can number.
    pub fn new(file: NewFile, size: ByteLen, places: Places, prefix: Vec<u8>) -> Result<GrowingDisk, TargetError> {
        let too_many = || TargetError::DiskSize {
            file: file.target().to_owned(),
            expected: format!("less than 2^32 blocks of {} bytes", places.block),
            found: size,
        };
        let blocks = u32::try_from(size.0.div_ceil(places.block)).ok().filter(|blocks| *blocks < u32::MAX);
        let blocks = blocks.and_then(|blocks| usize::try_from(blocks).ok()).ok_or_else(too_many)?;
        let table = Mutex::new(Table { numbers: vec![0; blocks], stored: 0 });
        Ok(GrowingDisk { file, size, places, prefix, table })
    }

    /// Stores `data`, but no block of zeros alone.
    ///
    /// # Errors
    /// [`TargetError::Call`] if it leaves the disk, [`TargetError::Write`].
    pub fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), TargetError> {
        check_inside(self.file.target(), self.size, at, data.len() as u64)?;
        let block = self.places.block;
        let (mut at, mut rest) = (at.0, data);
        while !rest.is_empty() {
            let (number, within) = (at / block, at % block);
            let len = rest.len().min(usize::try_from(block - within).unwrap_or(usize::MAX));
            let (part, later) = rest.split_at(len);
            if !is_zero(part) {
                self.write_part(number, within, part)?;
            }
            (at, rest) = (at + len as u64, later);
        }
        Ok(())
    }

    fn write_part(&self, block: u64, within: u64, part: &[u8]) -> Result<(), TargetError> {
        let (number, is_new) = self.place_of(block);
        let place = self.places.at(number, self.prefix.len());
        if is_new && !self.prefix.is_empty() {
            self.file.write_all_at(FileOffset(place), &self.prefix)?;
        }
        let start = place + self.prefix.len() as u64 + within;
        for run in data_runs(part, HOLE_BYTES_MIN) {
            self.file.write_all_at(FileOffset(start + run.start as u64), &part[run])?;
        }
        Ok(())
    }

    /// The number of a block in the file, and whether it was given just now.
    fn place_of(&self, block: u64) -> (u32, bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { numbers, stored } = &mut *table;
        let number =
            &mut numbers[usize::try_from(block).expect("a block inside the disk, which has a table in memory")];
        match number.checked_sub(1) {
            Some(number) => (number, false),
            None => {
                *stored += 1; // at most the number of blocks, which is below 2^32
                *number = *stored;
                (*stored - 1, true)
            }
        }
    }

    /// Refuses a range outside the disk: a new file reads as zeros wherever nobody wrote.
    ///
    /// # Errors
    /// [`TargetError::Call`].
    pub fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), TargetError> {
        check_inside(self.file.target(), self.size, at, len)
    }

    /// Ends the file behind the last block.
    ///
    /// # Errors
    /// [`TargetError::Incomplete`] after a failed write, [`TargetError::Io`].
    pub fn grown(self) -> Result<Grown, TargetError> {
        let Table { numbers, stored } = self.table.into_inner().unwrap_or_else(PoisonError::into_inner);
        let end = self.places.at(stored, self.prefix.len());
        self.file.check_whole()?;
        self.file.set_len(end)?;
        Ok(Grown { file: self.file, end, stored, numbers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::sink::Overwrite;

    #[test]
    fn blocks_lie_in_the_order_in_which_they_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = NewFile::create(&path, Overwrite::Refuse).unwrap();
        let places = Places { block: 16_384, first: 4096 };
        let disk = GrowingDisk::new(file, ByteLen(5 * 16_384 + 512), places, b"<>".to_vec()).unwrap();
        disk.write_at(GuestOffset(3 * 16_384 + 8192), &[3; 4096]).unwrap();
        disk.write_at(GuestOffset(16_384), &[0; 2 * 16_384]).unwrap();
        disk.write_at(GuestOffset(16_384 - 4096), &[1; 8192]).unwrap();
        disk.write_at(GuestOffset(5 * 16_384), &[5; 512]).unwrap();
        assert!(matches!(disk.write_at(GuestOffset(5 * 16_384), &[5; 513]), Err(TargetError::Call { .. })));
        let grown = disk.grown().unwrap();
        let numbers: Vec<_> = grown.numbers().collect();
        assert_eq!(numbers, [Some(1), Some(2), None, Some(0), None, Some(3)]);
        assert_eq!((grown.stored, grown.end), (4, 4096 + 4 * 16_386));
        grown.file.publish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let block = |number: usize| &bytes[4096 + number * 16_386..][..16_386];
        assert!((0..4).all(|number| block(number).starts_with(b"<>")));
        assert_eq!((block(0)[2 + 8191], block(0)[2 + 8192], block(0)[2 + 12_288]), (0, 3, 0));
        assert_eq!((block(1)[2 + 12_287], block(1)[2 + 12_288], block(2)[2], block(2)[2 + 4096]), (0, 1, 1, 0));
        assert_eq!((block(3)[2 + 511], block(3)[2 + 512]), (5, 0));
    }
}
