//! Reading a file without leaving it in the kernel's page cache. Who reads terabytes once would push out what the host's
//! guests and services work with; pages that were in the cache before stay there.
//!
//! Linux can do so since 6.14 (`RWF_DONTCACHE`), on filesystems that know of it; elsewhere files are read as always.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags};

/// `RWF_DONTCACHE` of linux/fs.h.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// What is shorter is a header or a table, which may well be read again.
const SHORTEST_BYTES: usize = 64 << 10;

/// How one file is read.
#[derive(Debug, Default)]
pub struct Uncached {
    /// Its filesystem, or the kernel, cannot do it.
    is_refused: AtomicBool,
}

impl Uncached {
    /// Fills all of `buf` from byte `at` of `file`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, else what the system says; `buf` is then unspecified.
    pub fn read_exact_at(&self, file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            let from = at.checked_add(filled as u64).ok_or(ErrorKind::InvalidInput)?;
            match self.read_at(file, &mut buf[filled..], from) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As [`FileExt::read_at`].
    fn read_at(&self, file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if buf.len() < SHORTEST_BYTES || self.is_refused.load(Ordering::Relaxed) {
            return file.read_at(buf, at);
        }
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buf)], at, DONT_CACHE) {
            // What an old kernel, a filter or a filesystem says to a flag that it does not know.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                self.is_refused.store(true, Ordering::Relaxed);
                file.read_at(buf, at)
            }
            outcome => Ok(outcome?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_file_and_its_end_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        std::fs::write(folder.path().join("f"), &bytes).unwrap();
        let file = File::open(folder.path().join("f")).unwrap();
        for is_refused in [false, true] {
            let uncached = Uncached { is_refused: AtomicBool::new(is_refused) };
            for (at, len) in [(0, 300_000), (1, 4096), (77_777, 200_000), (300_000, 0)] {
                let mut buf = vec![0; len];
                uncached.read_exact_at(&file, &mut buf, at as u64).unwrap();
                assert_eq!(buf, bytes[at..at + len]);
            }
            let past = uncached.read_exact_at(&file, &mut vec![0; 100_000], 200_001);
            assert_eq!(past.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn what_refuses_the_flag_is_read_as_always() {
        // The filesystem of /proc knows nothing of it.
        let file = File::open("/proc/self/maps").unwrap();
        let uncached = Uncached::default();
        let mut buf = vec![0; SHORTEST_BYTES];
        assert!(uncached.read_at(&file, &mut buf, 0).unwrap() > 0);
        assert!(uncached.is_refused.load(Ordering::Relaxed));
    }
}
