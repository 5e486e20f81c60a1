//! Writing what disks and large files are made of: gigabytes, in no hurry to be read again, durable in the end.
//!
//! Not in here: where it belongs, and what a failure means.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

/// What is written with one call. For longer ones Linux looks for memory in one piece, which on a host whose memory is in
/// use takes it several times as long as the copy itself (6.18: 4 MiB at a time take 3.2 seconds of a core for 1.7 GB,
/// 128 KiB at a time 0.9).
const PIECE_BYTES: usize = 128 << 10;
/// The kernel is asked to bring to the medium what was written when it is this much. It is no small request: among others
/// each core is asked for what it holds back.
const WRITE_BACK_BYTES: u64 = 4 << 20;
/// How far apart the first and the last of it may lie.
const HULL_BYTES_MAX: u64 = 4 * WRITE_BACK_BYTES;

/// The way to write into a file; one for each file.
#[derive(Debug, Default)]
pub struct BulkWriter {
    dirty: Mutex<Dirty>,
}

/// What was written since the kernel was asked last: how much, and between which bytes of the file.
#[derive(Debug, Default)]
struct Dirty {
    bytes: u64,
    range: Range<u64>,
}

impl BulkWriter {
    /// Writes all of `data` at byte `at` of `file`, and has the kernel begin to bring it to the medium: the flush at the end
    /// then has little left to wait for.
    ///
    /// # Errors
    /// What the system says; part of `data` may be written.
    pub fn write_all_at(&self, file: &File, data: &[u8], at: u64) -> io::Result<()> {
        let mut from = at;
        for piece in data.chunks(PIECE_BYTES) {
            file.write_all_at(piece, from)?;
            from += piece.len() as u64; // no overflow: the system took them
        }
        if let Some(Range { start, end }) = self.due(at..from) {
            // What is dirty is written back by it, what is clean would be forgotten. A hint: its failure means nothing.
            let _ = fadvise(file, start, NonZeroU64::new(end - start), Advice::DontNeed);
        }
        Ok(())
    }

    /// Notes what was written; gives what the kernel is to be asked for now.
    fn due(&self, written: Range<u64>) -> Option<Range<u64>> {
        if written.is_empty() {
            return None;
        }
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let hull = dirty.range.start.min(written.start)..dirty.range.end.max(written.end);
        // What lies far apart would take too much that is clean along: it waits for the flush at the end.
        if dirty.bytes == 0 || hull.end - hull.start > HULL_BYTES_MAX {
            *dirty = Dirty { bytes: 0, range: written.clone() };
        } else {
            dirty.range = hull;
        }
        dirty.bytes += written.end - written.start;
        (dirty.bytes >= WRITE_BACK_BYTES).then(|| std::mem::take(&mut *dirty).range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_whatever_its_length() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 77] {
            let path = folder.path().join(len.to_string());
            let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8 + 1).collect();
            BulkWriter::default().write_all_at(&File::create(&path).unwrap(), &data, 5).unwrap();
            let expected = [vec![0; if len == 0 { 0 } else { 5 }], data].concat();
            assert!(std::fs::read(path).unwrap() == expected, "{len}");
        }
    }

    #[test]
    fn the_kernel_is_asked_for_all_that_was_written_but_not_for_each_write() {
        const MIB: u64 = 1 << 20;
        let writer = BulkWriter::default();
        for at in [9 * MIB, 4 * MIB, 7 * MIB] {
            assert_eq!(writer.due(at..at + MIB), None);
        }
        assert_eq!(writer.due(5 * MIB..6 * MIB), Some(4 * MIB..10 * MIB));
        assert_eq!(writer.due(MIB..2 * MIB), None, "what was asked for is forgotten");
        assert_eq!(writer.due(0..0), None);
        assert_eq!(writer.due(100 * MIB..103 * MIB), None, "far from the other");
        assert_eq!(writer.due(103 * MIB..104 * MIB), Some(100 * MIB..104 * MIB));
    }

    #[test]
    fn a_full_medium_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let outcome = BulkWriter::default().write_all_at(&full, &[1; PIECE_BYTES + 1], 0);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
