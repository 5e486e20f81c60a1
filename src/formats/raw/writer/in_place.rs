//! A disk written over what exists: a block device, or a raw image that keeps its file.
//!
//! There is no temporary name here: an interrupted run leaves a mixture of old and new. The caller says so to its user,
//! and a second run over the same target repairs it. [`RawInPlaceSink::read_at`] lets the caller write only what differs.
//!
//! Before the first byte: size, and nobody else at work, as far as can be told (`in_use`, exclusive open of block
//! devices, a write lock on the file, which a running QEMU holds on its images). The lock
//! stays while the sink lives, unless this process opens and closes the file elsewhere (POSIX locks end with the first close).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, fcntl_lock};
use rustix::io::Errno;

use super::in_use;
use crate::bulk::BulkWriter;
use crate::formats::ImageError;
use crate::formats::sink::{DiskSink, TargetError, WriteOrder, check_inside, data_runs, failed};
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// Zeros of this length and alignment inside data are deallocated instead of written. Not smaller: each is a call of its
/// own, and tears the target into fragments.
const ZERO_OUT_BYTES_MIN: usize = 64 << 10;

/// Zeros written at once where the medium has no other way.
const ZERO_BUFFER_BYTES: usize = 1 << 20;

/// A device or raw image that is being overwritten.
#[derive(Debug)]
pub struct RawInPlaceSink {
    file: File,
    writer: BulkWriter,
    path: PathBuf,
    size: ByteLen,
    broken: AtomicBool,
    /// Ways to zero that this target has shown not to have, in the order of [`ZEROING`].
    lacking: [AtomicBool; ZEROING.len()],
}

/// Ways to make a range read as zeros without sending the zeros, best first: giving the space back, then merely marking
/// it. For block devices the kernel does the first only where the device promises zeros afterwards.
const ZEROING: [FallocateFlags; 2] =
    [FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE), FallocateFlags::ZERO_RANGE];

/// Opens a block device, or an existing file, as the target of a disk of `size` bytes. What the target has beyond that
/// size stays as it is.
///
/// # Errors
/// [`ImageError::Target`]: too small, in use, neither device nor regular file, no permission.
pub fn open_device(path: &Path, size: ByteLen) -> Result<RawInPlaceSink, ImageError> {
    let (file, found) = open_exclusively(path)?;
    if found < size {
        return Err(wrong_size(path, "at least", size, found).into());
    }
    Ok(RawInPlaceSink::new(file, path, size))
}

/// Opens an existing raw image (or device) to be made equal to a disk of exactly its size.
///
/// # Errors
/// [`ImageError::Target`]: another size, in use, neither device nor regular file, no permission.
pub fn open_in_place(path: &Path, size: ByteLen) -> Result<RawInPlaceSink, ImageError> {
    let (file, found) = open_exclusively(path)?;
    if found != size {
        return Err(wrong_size(path, "exactly", size, found).into());
    }
    Ok(RawInPlaceSink::new(file, path, size))
}

fn wrong_size(path: &Path, rule: &'static str, needed: ByteLen, found: ByteLen) -> TargetError {
    TargetError::Size { file: path.to_owned(), rule, needed, found }
}

/// Opens the target for reading and writing, sure that nobody known uses it, and finds its size.
fn open_exclusively(path: &Path) -> Result<(File, ByteLen), TargetError> {
    let seen = fs::metadata(path).map_err(failed("open", path))?;
    let is_device = seen.file_type().is_block_device();
    // Looked at before the open: opening a pipe would wait for its other end.
    if !is_device && !seen.is_file() {
        let found = if seen.is_dir() { "a folder" } else { "a character device, pipe or socket" };
        let expected = "a block device or a regular file";
        return Err(TargetError::Kind { file: path.to_owned(), expected, found });
    }
    let in_use = |reason| TargetError::InUse { file: path.to_owned(), reason };
    if let Some(reason) = in_use::by_system(&seen) {
        return Err(in_use(reason));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if is_device {
        // Exclusive among all that mount, swap on, stack on, or open a device in this way.
        options.custom_flags(OFlags::EXCL.bits().cast_signed());
    }
    let mut file = options.open(path).map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::BUSY) => in_use("the kernel has the device, or one of its partitions, in use".to_owned()),
        _ => failed("open", path)(e),
    })?;
    let opened = file.metadata().map_err(failed("look at", path))?;
    if (opened.dev(), opened.ino(), opened.rdev()) != (seen.dev(), seen.ino(), seen.rdev()) {
        return Err(in_use("it was exchanged for another file while it was being opened".to_owned()));
    }
    // Other failures mean a filesystem without locks, which cannot be asked.
    if let Err(Errno::AGAIN | Errno::ACCESS) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        return Err(in_use("another process holds a lock on it, as a running QEMU does".to_owned()));
    }
    // Block devices have no length in their metadata; the end of both can be sought.
    let len = file.seek(SeekFrom::End(0)).map_err(failed("find the size of", path))?;
    Ok((file, ByteLen(len)))
}

impl RawInPlaceSink {
    fn new(file: File, path: &Path, size: ByteLen) -> RawInPlaceSink {
        let lacking = [AtomicBool::new(false), AtomicBool::new(false)];
        let (writer, broken) = (BulkWriter::default(), AtomicBool::new(false));
        RawInPlaceSink { file, writer, path: path.to_owned(), size, broken, lacking }
    }

    /// Fills `buf` with what the target holds now.
    ///
    /// # Errors
    /// [`ImageError::Target`] if the range leaves the disk, [`ImageError::Io`] if the medium fails.
    pub fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), ImageError> {
        check_inside(&self.path, self.size, at, buf.len() as u64)?;
        self.file.read_exact_at(buf, at.0).map_err(|source| ImageError::Io { file: self.path.clone(), source })
    }

    fn put(&self, at: u64, data: &[u8]) -> Result<(), TargetError> {
        self.writer
            .write_all_at(&self.file, data, at)
            .map_err(|source| self.write_failed(at, data.len() as u64, source))
    }

    fn write_failed(&self, at: u64, len: u64, source: io::Error) -> TargetError {
        self.broken.store(true, Ordering::Relaxed);
        TargetError::Write { file: self.path.clone(), at: FileOffset(at), len, source }
    }

    /// Makes a range inside the disk read as zeros, in the best way the target has.
    fn zero(&self, at: u64, len: u64) -> Result<(), TargetError> {
        if len == 0 {
            return Ok(()); // fallocate refuses empty ranges
        }
        for (flags, lacking) in ZEROING.into_iter().zip(&self.lacking) {
            if lacking.load(Ordering::Relaxed) {
                continue;
            }
            match fallocate(&self.file, flags, at, len) {
                Ok(()) => return Ok(()),
                // Asked once, not again for each of a million holes.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => lacking.store(true, Ordering::Relaxed),
                // A range that is not whole blocks of the device (EINVAL) must be written, and so must whatever else
                // fails: if the medium is at fault, the write says so.
                Err(_) => {}
            }
        }
        let zeros = vec![0; ZERO_BUFFER_BYTES.min(usize::try_from(len).unwrap_or(ZERO_BUFFER_BYTES))];
        let mut done = 0;
        while done < len {
            let part = usize::try_from(len - done).map_or(zeros.len(), |left| left.min(zeros.len()));
            self.put(at + done, &zeros[..part])?;
            done += part as u64;
        }
        Ok(())
    }
}

impl DiskSink for RawInPlaceSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        check_inside(&self.path, self.size, at, data.len() as u64)?;
        let mut done = 0;
        for run in data_runs(data, ZERO_OUT_BYTES_MIN) {
            self.zero(at.0 + done as u64, (run.start - done) as u64)?;
            done = run.end;
            self.put(at.0 + run.start as u64, &data[run])?;
        }
        Ok(self.zero(at.0 + done as u64, (data.len() - done) as u64)?)
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        check_inside(&self.path, self.size, at, len)?;
        Ok(self.zero(at.0, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(TargetError::Incomplete { file: self.path.clone() }.into());
        }
        self.file.sync_all().map_err(failed("make durable", &self.path))?;
        Ok(vec![self.path.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[track_caller]
    fn refused(outcome: Result<RawInPlaceSink, ImageError>, expected: &str) {
        let message = outcome.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn old_content_gives_way_to_zeros_and_data() {
        const LEN: usize = 1_000_000; // no multiple of anything
        for lacking in [[false, false], [true, false], [true, true]] {
            let (_dir, path) = target(&[0xee; LEN]);
            let sink = open_in_place(&path, ByteLen(LEN as u64)).unwrap();
            for (known, lacking) in sink.lacking.iter().zip(lacking) {
                known.store(lacking, Ordering::Relaxed);
            }
            let mut expected = vec![0xee; LEN];
            expected[0..65_536].fill(1);
            expected[65_536..458_752].fill(0);
            expected[300_000] = 5; // in the fifth 64 KiB, with zeros on both sides
            sink.write_at(GuestOffset(0), &expected[..458_752]).unwrap();
            expected[524_288..].fill(0);
            sink.write_zeros(GuestOffset(524_288), (LEN - 524_288) as u64).unwrap();
            let mut seen = vec![0; 1000];
            sink.read_at(GuestOffset(299_900), &mut seen).unwrap();
            assert!(seen == expected[299_900..300_900]);
            assert_eq!(Box::new(sink).finish().unwrap(), std::slice::from_ref(&path));
            assert!(fs::read(&path).unwrap() == expected, "lacking {lacking:?}");
        }
    }

    #[test]
    fn zeros_give_the_space_back() {
        let (_dir, path) = target(&vec![0xee; 8 << 20]);
        let sink = Box::new(open_in_place(&path, ByteLen(8 << 20)).unwrap());
        sink.write_at(GuestOffset(0), &vec![0; 8 << 20]).unwrap();
        sink.finish().unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.len(), after.blocks()), (8 << 20, 0));
    }

    #[test]
    fn sizes_are_compared_and_both_are_named() {
        let (_dir, path) = target(&[1; 1000]);
        refused(open_in_place(&path, ByteLen(999)), "expected exactly 999 bytes, found 1000");
        refused(open_in_place(&path, ByteLen(1001)), "expected exactly 1001 bytes, found 1000");
        refused(open_device(&path, ByteLen(1001)), "expected at least 1001 bytes, found 1000");
        let sink = Box::new(open_device(&path, ByteLen(999)).unwrap());
        assert!(sink.write_at(GuestOffset(999), &[2]).is_err(), "beyond the disk, though inside the target");
        sink.write_at(GuestOffset(998), &[2]).unwrap();
        sink.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap()[997..], [1, 2, 1]);
    }

    #[test]
    fn only_devices_and_regular_files() {
        let (dir, path) = target(b"");
        refused(open_device(dir.path(), ByteLen(0)), "found a folder");
        refused(open_device(Path::new("/dev/null"), ByteLen(0)), "found a character device");
        fs::remove_file(&path).unwrap();
        refused(open_device(&path, ByteLen(0)), "cannot open");
    }
}
