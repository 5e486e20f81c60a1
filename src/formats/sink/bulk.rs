//! Writing what a whole disk is made of: gigabytes, in no hurry to be read again, durable in the end.
//!
//! Not in here: where it belongs, and what a failure means.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};

/// What is written with one call. For longer ones Linux looks for memory in one piece, which on a host whose memory is in
/// use takes it several times as long as the copy itself (6.18: 4 MiB at a time take 3.2 seconds of a core for 1.7 GB,
/// 128 KiB at a time 0.9).
const PIECE_BYTES: usize = 128 << 10;
/// What is shorter is left to the kernel's own time.
const WRITE_BACK_BYTES_MIN: usize = 64 << 10;

/// Writes all of `data` at byte `at`, and has the kernel begin to bring it to the medium: the flush at the end then has
/// little left to wait for.
///
/// # Errors
/// What the system says; part of `data` may be written.
pub(in crate::formats) fn write_all_at(file: &File, data: &[u8], at: u64) -> io::Result<()> {
    let mut from = at;
    for piece in data.chunks(PIECE_BYTES) {
        file.write_all_at(piece, from)?;
        from += piece.len() as u64; // no overflow: the system took them
    }
    if let Some(len) = NonZeroU64::new(data.len() as u64).filter(|_| data.len() >= WRITE_BACK_BYTES_MIN) {
        // What is dirty is written back by it, what is clean would be forgotten. A hint: its failure means nothing.
        let _ = fadvise(file, at, Some(len), Advice::DontNeed);
    }
    Ok(())
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
            write_all_at(&File::create(&path).unwrap(), &data, 5).unwrap();
            let expected = [vec![0; if len == 0 { 0 } else { 5 }], data].concat();
            assert!(std::fs::read(path).unwrap() == expected, "{len}");
        }
    }

    #[test]
    fn a_full_medium_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let outcome = write_all_at(&full, &[1; PIECE_BYTES + 1], 0);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
