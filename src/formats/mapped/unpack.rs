//! What unpacking a cell needs and the next cell can use again: decoders, and a window of the file.
//!
//! To make a decoder costs as much as a quarter of its work on a cell; so readers take one from a pool and give it back.
//! Packed cells lie one behind the other as a rule: the window is read once for all that one call wants.

use std::sync::{Mutex, PoisonError};

use flate2::Decompress;
use zstd::bulk::Decompressor;

use crate::disk::DiskError;
use crate::formats::file::Bytes;
use crate::units::FileOffset;

/// Kept for one layer: as many readers as unpack at once without making decoders anew.
const KEPT_MAX: usize = 4;
/// Largest window that is kept, and that is read ahead of what was asked for; a larger one is only for a larger cell.
const WINDOW_BYTES: usize = 256 << 10;

/// What one reader needs; where it was used before does not matter.
#[derive(Default)]
pub(crate) struct Unpacker {
    /// With and without the frame of zlib.
    zlib: [Option<Decompress>; 2],
    zstd: Option<Decompressor<'static>>,
    window: Window,
}

impl Unpacker {
    /// The window, and a decoder for deflate, at its beginning; `is_framed`: in the frame of zlib.
    pub fn deflate(&mut self, is_framed: bool) -> (&mut Window, &mut Decompress) {
        let decoder = self.zlib[usize::from(is_framed)].get_or_insert_with(|| Decompress::new(is_framed));
        decoder.reset(is_framed);
        (&mut self.window, decoder)
    }

    /// The window, and a decoder for zstd.
    pub fn zstd(&mut self) -> std::io::Result<(&mut Window, &mut Decompressor<'static>)> {
        let decoder = match self.zstd.take() {
            Some(decoder) => decoder,
            None => Decompressor::new()?,
        };
        Ok((&mut self.window, self.zstd.insert(decoder)))
    }
}

/// A part of a file in memory. Within one call of a reader it is always the same file.
#[derive(Default)]
pub(crate) struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The `len` bytes from `at`, which must be in the file. If they have to be read, so are the bytes behind them, as many
    /// as `ahead` says that may be wanted soon.
    pub fn get(
        &mut self,
        file: &dyn Bytes,
        field: &'static str,
        at: FileOffset,
        (len, ahead): (u64, u64),
    ) -> Result<&[u8], DiskError> {
        file.check_holds(field, at, len)?;
        let held = at.0.checked_sub(self.at).filter(|skipped| skipped + len <= self.bytes.len() as u64);
        let skipped = match held {
            Some(skipped) => skipped,
            None => {
                let most = len.max(ahead.min(WINDOW_BYTES as u64)).min(file.len() - at.0);
                self.bytes.resize(usize::try_from(most).map_err(|_| file.file().truncated(field, at, len))?, 0);
                self.at = at.0;
                if let Err(fault) = file.read(field, at, &mut self.bytes) {
                    self.bytes.clear(); // nobody may find there what was not read
                    return Err(fault);
                }
                0
            }
        };
        let from = usize::try_from(skipped).expect("inside a buffer in memory");
        Ok(&self.bytes[from..][..usize::try_from(len).expect("inside a buffer in memory")])
    }
}

/// Unpackers that nobody is using.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Unpacker>>);

impl Pool {
    /// One of those left, or a new one.
    pub fn take(&self) -> Unpacker {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        left.unwrap_or_default()
    }

    /// Keeps it for the next reader, but none of the bytes in it.
    pub fn put(&self, mut unpacker: Unpacker) {
        let bytes = &mut unpacker.window.bytes;
        bytes.clear();
        bytes.shrink_to(WINDOW_BYTES);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(unpacker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::ImageFile;

    #[test]
    fn a_window_moves_only_when_it_must() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = ImageFile::new(&path, std::fs::File::open(&path).unwrap()).unwrap();
        let mut window = Window::default();
        let mut check = |at: u64, len: u64, ahead: u64, expected: (u64, usize)| {
            let bytes = window.get(&file, "cell", FileOffset(at), (len, ahead)).unwrap().to_vec();
            assert_eq!(bytes, content[at as usize..(at + len) as usize], "{at}");
            assert_eq!((window.at, window.bytes.len()), expected, "{at}");
        };
        check(100, 50, 200, (100, 200));
        check(150, 150, 0, (100, 200));
        check(120, 180, 999, (100, 200));
        check(120, 181, 0, (120, 181));
        check(99, 1, 0, (99, 1));
        check(900, 10, u64::MAX, (900, 100));
        check(1000, 0, 10, (900, 100));
        for (at, len) in [(1000, 1), (0, 1001), (u64::MAX, 1), (1, u64::MAX)] {
            let fault = window.get(&file, "cell", FileOffset(at), (len, 0)).unwrap_err().to_string();
            assert!(fault.contains("a truncated image of 1000 bytes"), "{fault}");
        }
    }

    #[test]
    fn a_pool_keeps_few_and_nothing_of_what_they_read() {
        let pool = Pool::default();
        let taken: Vec<_> = (0..KEPT_MAX + 2).map(|_| pool.take()).collect();
        for mut unpacker in taken {
            unpacker.window.bytes = vec![1; 4 * WINDOW_BYTES];
            pool.put(unpacker);
        }
        let kept = pool.0.lock().unwrap();
        assert_eq!(kept.len(), KEPT_MAX);
        assert!(kept.iter().all(|one| one.window.bytes.is_empty() && one.window.bytes.capacity() <= WINDOW_BYTES));
    }
}
