//! Reading a file without leaving it in the kernel's page cache. Who reads terabytes once would push out what the host's
//! guests and services work with; what was in the cache before is taken from there, and stays.
//!
//! What is not in the cache is read directly (`O_DIRECT`), into the reader's memory: what was asked for and no more, and without
//! the CPU time of a cache. That needs a filesystem or a device that can say what is in the cache, and memory and positions
//! on pages. Otherwise Linux can drop what it has read since 6.14 (`RWF_DONTCACHE`), on filesystems that know of it; and
//! otherwise files are read as always.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut};
use std::num::NonZero;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{Advice, Mode, OFlags, fadvise};
use rustix::io::{Errno, ReadWriteFlags};

/// `RWF_DONTCACHE` of linux/fs.h.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// What is shorter is a header or a table, which may well be read again: it is read as always.
const SHORTEST_BYTES: usize = 64 << 10;
/// Positions, lengths and memory of direct reads are multiples of it: few disks have longer sectors, and no cache smaller
/// pages.
pub const PAGE_BYTES: usize = 4096;
/// Files that are read directly at once: each is open twice. A machine of split disks has hundreds.
const DIRECT_MAX: usize = 64;

/// How one file is read.
#[derive(Debug, Default)]
pub struct Uncached {
    /// Its filesystem, or the kernel, cannot drop what it has read.
    drop_refused: AtomicBool,
    /// How it is read directly, once that was tried; `None` if it cannot be.
    direct: OnceLock<Option<Direct>>,
}

/// A file that can be read directly.
#[derive(Debug)]
struct Direct {
    /// Opened again for that.
    file: File,
    /// Whether it can be asked what the cache has; if not, it is a device, and nothing is taken from the cache.
    asks: bool,
    /// A direct read has failed; what it asked for was read as always.
    refused: AtomicBool,
    _counted: Counted,
}

/// One of the files that are read directly.
#[derive(Debug)]
struct Counted;

static DIRECT: AtomicUsize = AtomicUsize::new(0);

impl Counted {
    /// `None` if there are [`DIRECT_MAX`] already.
    fn new() -> Option<Counted> {
        let counted = Counted; // which is not counted any more when it is dropped
        (DIRECT.fetch_add(1, Ordering::Relaxed) < DIRECT_MAX).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        DIRECT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the page cache has of a page.
#[derive(Debug, PartialEq, Eq)]
enum Cached {
    Yes,
    No,
    /// Nobody can say.
    Unknown,
}

impl Cached {
    /// Whether the cache has the byte at `at`: whether it can be read without waiting. If not, its page comes to be there.
    fn of(file: &File, at: u64) -> Cached {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut [0])], at, ReadWriteFlags::NOWAIT) {
            Ok(_) => Cached::Yes,
            Err(Errno::AGAIN) => Cached::No,
            Err(_) => Cached::Unknown,
        }
    }
}

impl Uncached {
    /// Fills all of `buf` from byte `at` of `file`, which must be the same in all calls.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, else what the system says; `buf` is then unspecified.
    pub fn read_exact_at(&self, file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
        let mut filled = self.read_directly(file, buf, at);
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

    /// Fills the beginning of `buf` past the page cache, as far as that can be done; gives its length.
    fn read_directly(&self, file: &File, buf: &mut [u8], at: u64) -> usize {
        let is_aligned = at.is_multiple_of(PAGE_BYTES as u64) && buf.as_ptr().addr().is_multiple_of(PAGE_BYTES);
        let whole_pages = buf.len() - buf.len() % PAGE_BYTES;
        if !is_aligned || whole_pages < SHORTEST_BYTES {
            return 0;
        }
        let direct = self.direct.get_or_init(|| Direct::open(file).ok().flatten());
        direct.as_ref().map_or(0, |direct| direct.read(file, &mut buf[..whole_pages], at))
    }

    /// As [`FileExt::read_at`].
    fn read_at(&self, file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if buf.len() < SHORTEST_BYTES || self.drop_refused.load(Ordering::Relaxed) {
            return file.read_at(buf, at);
        }
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buf)], at, DONT_CACHE) {
            // What an old kernel, a filter or a filesystem says to a flag that it does not know.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                self.drop_refused.store(true, Ordering::Relaxed);
                file.read_at(buf, at)
            }
            outcome => Ok(outcome?),
        }
    }
}

impl Direct {
    /// Opens `file` again, if it may be read directly. From then on nothing is read ahead of what is asked of `file` itself:
    /// it would be found in the cache by the next read, which would then not be direct, and so on to the end.
    fn open(file: &File) -> io::Result<Option<Direct>> {
        let Some(counted) = Counted::new() else { return Ok(None) };
        let meta = file.metadata()?;
        let asks = Cached::of(file, 0) != Cached::Unknown;
        if !asks && !meta.file_type().is_block_device() {
            return Ok(None);
        }
        // Its name may have gone to another file by now; the descriptor has not.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let again = rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT, Mode::empty())?;
        let again = File::from(again);
        let found = again.metadata()?;
        if (found.dev(), found.ino(), found.rdev()) != (meta.dev(), meta.ino(), meta.rdev()) {
            return Ok(None);
        }
        for file in [file, &again] {
            fadvise(file, 0, None, Advice::Random)?;
        }
        Ok(Some(Direct { file: again, asks, refused: AtomicBool::new(false), _counted: counted }))
    }

    /// Fills whole pages from `at` on, unless the cache of `file` has them; gives how many bytes were filled.
    fn read(&self, file: &File, pages: &mut [u8], at: u64) -> usize {
        if self.refused.load(Ordering::Relaxed) || (self.asks && Cached::of(file, at) != Cached::No) {
            return 0;
        }
        let filled = self.file.read_at(pages, at).unwrap_or_else(|error| {
            // Whatever it was, it is met again, and reported, by reading as always.
            self.refused.fetch_or(error.kind() != ErrorKind::Interrupted, Ordering::Relaxed);
            0
        });
        if self.asks {
            // Asking has brought it there.
            let _ = fadvise(file, at, NonZero::new(rustix::param::page_size() as u64), Advice::DontNeed);
        }
        filled - filled % PAGE_BYTES
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
            let uncached = Uncached { drop_refused: AtomicBool::new(is_refused), ..Uncached::default() };
            for (at, len) in [(0, 300_000), (1, 4096), (77_777, 200_000), (300_000, 0)] {
                let mut buf = vec![0; len];
                uncached.read_exact_at(&file, &mut buf, at as u64).unwrap();
                assert_eq!(buf, bytes[at..at + len]);
            }
            let past = uncached.read_exact_at(&file, &mut vec![0; 100_000], 200_001);
            assert_eq!(past.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }

    /// A file of noise that is on its medium and not in the cache, as far as its filesystem can do that.
    fn uncached_file(len: usize) -> (tempfile::TempDir, File, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        std::fs::write(folder.path().join("f"), &bytes).unwrap();
        let file = File::open(folder.path().join("f")).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        (folder, file, bytes)
    }

    /// Where pages begin in `memory`.
    fn page_in(memory: &[u8]) -> usize {
        memory.as_ptr().addr().wrapping_neg() % PAGE_BYTES
    }

    #[test]
    fn what_lies_on_pages_is_read_directly_and_the_rest_otherwise() {
        let (_folder, file, bytes) = uncached_file(1_000_000);
        let uncached = Uncached::default();
        let mut memory = vec![0; 1 << 20];
        let page = page_in(&memory);
        let mut directly = 0;
        for at in [4096, 81_920, 204_800] {
            let filled = uncached.read_directly(&file, &mut memory[page..page + 65_536], at as u64);
            assert!([0, 65_536].contains(&filled), "{filled}");
            assert_eq!(memory[page..page + filled], bytes[at..at + filled]);
            directly += filled;
        }
        // A medium that is fast enough is never seen to be waited for.
        let is_possible = uncached.direct.get().is_some_and(Option::is_some);
        assert!(is_possible || directly == 0);
        if let Ok(Some(direct)) = Direct::open(&file) {
            let direct = Direct { asks: false, ..direct };
            let filled = direct.read(&file, &mut memory[page..page + 65_536], 81_920);
            assert_eq!(filled == 65_536, !direct.refused.load(Ordering::Relaxed));
            assert_eq!(memory[page..page + filled], bytes[81_920..][..filled]);
        }
        // The end of the last page, memory off its page, the file's end.
        for (begin, at, len) in [(0, 204_800, 70_000), (1, 409_600, 100_000), (0, 901_120, 98_880)] {
            let buf = &mut memory[page + begin..page + begin + len];
            uncached.read_exact_at(&file, buf, at as u64).unwrap();
            assert_eq!(buf, &bytes[at..at + len]);
        }
        let past = uncached.read_exact_at(&file, &mut memory[page..page + 131_072], 901_120);
        assert_eq!(past.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn no_more_files_than_that_are_open_twice() {
        let (_folder, file, bytes) = uncached_file(300_000);
        let mut memory = vec![0; 200_000];
        let page = page_in(&memory);
        let many: Vec<Uncached> = (0..DIRECT_MAX + 10).map(|_| Uncached::default()).collect();
        for uncached in &many {
            uncached.read_exact_at(&file, &mut memory[page..page + 131_072], 4096).unwrap();
            assert_eq!(memory[page..page + 131_072], bytes[4096..][..131_072]);
        }
        let twice = many.iter().filter(|uncached| uncached.direct.get().is_some_and(Option::is_some)).count();
        assert!(twice <= DIRECT_MAX, "{twice}");
    }

    #[test]
    fn what_is_in_the_cache_is_taken_from_there() {
        let (_folder, file, bytes) = uncached_file(300_000);
        file.read_exact_at(&mut vec![0; 300_000], 0).unwrap();
        let uncached = Uncached::default();
        let mut memory = vec![0; 200_000];
        let page = page_in(&memory);
        assert_eq!(uncached.read_directly(&file, &mut memory[page..page + 131_072], 0), 0);
        uncached.read_exact_at(&file, &mut memory[page..page + 131_072], 4096).unwrap();
        assert_eq!(memory[page..page + 131_072], bytes[4096..][..131_072]);
    }

    #[test]
    fn what_refuses_the_flag_is_read_as_always() {
        // The filesystem of /proc knows nothing of it.
        let file = File::open("/proc/self/maps").unwrap();
        let uncached = Uncached::default();
        let mut buf = vec![0; SHORTEST_BYTES];
        assert!(uncached.read_at(&file, &mut buf, 0).unwrap() > 0);
        assert!(uncached.drop_refused.load(Ordering::Relaxed));
    }
}
