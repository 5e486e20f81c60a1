//! Whether QEMU has a file open for writing.
//!
//! For each thing it may do to an image, QEMU holds a read lock on one byte of the file: 100 + n for what it does,
//! 200 + n for what others must not do. So a lock on 101 (write) or 103 (resize) tells a running machine from one that
//! only reads the file as the frozen base of an overlay, which holds 100 and 201.
//!
//! Asked with `F_OFD_GETLK`, which takes no lock and needs no permission. Source: QEMU block/file-posix.c.

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::formats::file::ImageFile;

/// Bytes that are locked while somebody writes or resizes.
const WRITER_BYTES: [i64; 2] = [101, 103];

/// Why `file` looks in use; `None` if nothing says so, or locks cannot be asked for here.
pub(super) fn sign(file: &ImageFile) -> Option<String> {
    let is_held = WRITER_BYTES.into_iter().any(|byte| {
        let mut lock = libc::flock {
            l_type: i16::try_from(libc::F_WRLCK).expect("a small constant"),
            l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant"),
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        let asked = fcntl(file.as_file(), FcntlArg::F_OFD_GETLK(&mut lock));
        asked.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
    });
    is_held.then(|| format!("a running QEMU has {} open for writing", file.path().display()))
}
