//! A disk into a raw image: a new sparse file ([`create_file`]), or over something that exists ([`open_device`],
//! [`open_in_place`]).
//!
//! The two differ in what zeros are. A new file is all hole, so zeros are simply not written. A device or an old image
//! holds other bytes, so zeros are really stored, by deallocating where the medium promises that this reads as zeros.
//!
//! Both take data in any order from several threads: `pwrite` has no shared position.

mod in_place;
mod in_use;

use std::path::{Path, PathBuf};

pub use self::in_place::{RawInPlaceSink, open_device, open_in_place};
use crate::formats::ImageError;
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{DiskSink, Overwrite, WriteOrder, check_inside, data_runs};
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// Zeros of this length and alignment stay a hole: the usual block of a filesystem; less would save no space.
const HOLE_BYTES_MIN: usize = 4096;

/// A raw image file under construction.
#[derive(Debug)]
pub struct RawFileSink {
    file: NewFile,
    size: ByteLen,
}

/// Starts a sparse raw image of `size` bytes that appears as `path` when it is finished.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the filesystem does not take a file of that size.
pub fn create_file(path: &Path, size: ByteLen, overwrite: Overwrite) -> Result<RawFileSink, ImageError> {
    let file = NewFile::create(path, overwrite)?;
    file.set_len(size.0)?;
    Ok(RawFileSink { file, size })
}

impl DiskSink for RawFileSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        check_inside(self.file.target(), self.size, at, data.len() as u64)?;
        for run in data_runs(data, HOLE_BYTES_MIN) {
            // In a raw image the guest's offset is the file's.
            self.file.write_all_at(FileOffset(at.0 + run.start as u64), &data[run])?;
        }
        Ok(())
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        // The file is new: what nobody writes reads as zeros already.
        Ok(check_inside(self.file.target(), self.size, at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        Ok(vec![self.file.publish()?])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::formats::sink::TargetError;

    #[test]
    fn zeros_inside_data_become_holes_and_the_rest_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let mut expected = vec![0u8; 1 << 20];
        expected[5000] = 1; // the second block
        expected[300_000..400_000].fill(7);
        expected[(1 << 20) - 1] = 9;
        let sink = Box::new(create_file(&path, ByteLen(1 << 20), Overwrite::Refuse).unwrap());
        sink.write_at(GuestOffset(0), &expected).unwrap();
        assert_eq!(sink.finish().unwrap(), std::slice::from_ref(&path));
        assert!(fs::read(&path).unwrap() == expected);
        let allocated = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(allocated < 200 << 10, "{allocated} bytes allocated for about 108 KiB of data");
    }

    #[test]
    fn sizes_of_any_kind() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0u64, 1, 511, 4096, 65_537] {
            let path = dir.path().join(size.to_string());
            let sink = Box::new(create_file(&path, ByteLen(size), Overwrite::Refuse).unwrap());
            let data = vec![3; size as usize];
            sink.write_at(GuestOffset(0), &data).unwrap();
            sink.finish().unwrap();
            assert!(fs::read(&path).unwrap() == data, "{size}");
        }
    }

    #[test]
    fn writes_past_the_end_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let sink = create_file(&dir.path().join("disk.raw"), ByteLen(100), Overwrite::Refuse).unwrap();
        for (at, len) in [(0, 101), (100, 1), (u64::MAX, 2)] {
            let outcome = sink.write_at(GuestOffset(at), &vec![1; len]);
            assert!(matches!(outcome, Err(ImageError::Target(TargetError::Call { .. }))), "{outcome:?}");
            assert!(sink.write_zeros(GuestOffset(at), len as u64).is_err());
        }
        sink.write_at(GuestOffset(100), &[]).unwrap();
    }
}
