//! Reading a restored disk back, through the reader of its format, and comparing every segment with what was to be
//! written. Holes count as zeros and are not read.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::copy::{Copied, digest};
use crate::chunker::{SEGMENT_BYTES, is_zero};
use crate::disk::Disk;
use crate::disk::cursor::{ExtentCursor, RangeKind};
use crate::disk::stack::Stack;
use crate::formats::{self, OpenPolicy};
use crate::ops::{Control, Event, OpsError, worker_count};
use crate::repo::map::MapShape;
use crate::units::GuestOffset;

/// Verifies the disk in `target`; gives the bytes read back.
///
/// # Errors
/// [`OpsError::NotVerified`] at the first segment that differs; [`OpsError::Disk`] if it cannot be read back.
pub fn verify(
    target: &Path,
    as_raw: bool,
    slot: &str,
    copied: &Copied,
    shape: MapShape,
    control: Control<'_>,
) -> Result<u64, OpsError> {
    let policy = OpenPolicy::named_by_user(target)?;
    let image = if as_raw { formats::open_raw(target, &policy)? } else { formats::open(target, &policy)? };
    let disk = image.disk();
    if disk.size().0 < shape.disk_bytes() {
        return Err(OpsError::NotVerified { target: target.to_owned(), at: GuestOffset(disk.size().0) });
    }
    control.tell(Event::Begin { what: "verifying", bytes: shape.disk_bytes() });
    let (next, verified, failure) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(None));
    let work = || -> Result<(), OpsError> {
        let mut buffer = vec![0; SEGMENT_BYTES];
        loop {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= shape.segments() {
                return Ok(());
            }
            if control.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let bytes = &mut buffer[..shape.segment_len(segment)];
            let at = shape.segment_at(segment);
            let read = matches(&disk, at, bytes, copied.digest(segment))
                .map_err(|source| OpsError::Disk { slot: slot.to_owned(), source })?;
            match read {
                Some(read) => verified.fetch_add(read, Ordering::Relaxed),
                None => return Err(OpsError::NotVerified { target: target.to_owned(), at: GuestOffset(at) }),
            };
            control.tell(Event::Done(bytes.len() as u64));
        }
    };
    thread::scope(|scope| {
        for _ in 0..worker_count() {
            scope.spawn(|| {
                if let Err(error) = work() {
                    next.store(shape.segments(), Ordering::Relaxed); // nobody begins another
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    control.tell(Event::End);
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(verified.load(Ordering::Relaxed)),
    }
}

/// How many bytes were read to see that a segment is right; `None` if it is not.
fn matches(
    disk: &Stack,
    at: u64,
    buffer: &mut [u8],
    expected: Option<u64>,
) -> Result<Option<u64>, crate::disk::DiskError> {
    let len = buffer.len() as u64;
    let holds_data = ExtentCursor::new(disk).kind_of(at..at + len)? == RangeKind::Data;
    if !holds_data {
        return Ok(expected.is_none().then_some(0));
    }
    disk.read_at(GuestOffset(at), buffer)?;
    let right = match expected {
        Some(expected) => digest(buffer) == expected,
        None => is_zero(buffer),
    };
    Ok(right.then_some(len))
}
