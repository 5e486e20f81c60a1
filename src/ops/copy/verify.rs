//! Reading a copy back, out of the destination's store, beside the backup that it is a copy of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::error::{CopyError, destination, source};
use crate::chunker::SEGMENT_BYTES;
use crate::ops::{Control, Event, definition_file, worker_count};
use crate::repo::ids::ChunkId;
use crate::repo::manifest::Manifest;
use crate::repo::{BackupDisk, Repository};
use crate::units::GuestOffset;

/// Compares every segment of every disk, and every definition file.
///
/// # Errors
/// [`CopyError::NotVerified`], [`CopyError::FileNotVerified`]; what cannot be read on either side.
pub fn compare(
    from: (&Arc<Repository>, &Manifest),
    to: (&Arc<Repository>, &Manifest),
    control: Control<'_>,
) -> Result<(), CopyError> {
    control.tell(Event::Step("reading the copy back"));
    for (number, record) in from.1.disks.iter().enumerate() {
        let backup = from.0.disk(from.1, number).map_err(source)?;
        let copy = to.0.disk(to.1, number).map_err(destination)?;
        control.tell(Event::Begin { what: &record.slot, bytes: record.size });
        disks(&record.slot, &backup, &copy, control)?;
        control.tell(Event::End);
    }
    for (file, copied) in from.1.files.iter().zip(&to.1.files) {
        if definition_file::read(from.0, file).map_err(source)? != definition_file::read(to.0, copied)? {
            return Err(CopyError::FileNotVerified { name: file.name.clone() });
        }
    }
    Ok(())
}

fn disks(slot: &str, backup: &BackupDisk, copy: &BackupDisk, control: Control<'_>) -> Result<(), CopyError> {
    let next = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let segments = backup.shape().segments();
    let work = || -> Result<(), CopyError> {
        let (mut here, mut there) = (vec![0; SEGMENT_BYTES], vec![0; SEGMENT_BYTES]);
        loop {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= segments {
                return Ok(());
            }
            if control.interrupted() {
                return Err(CopyError::Interrupted);
            }
            let len = backup.shape().segment_len(segment);
            let zero = |disk: &BackupDisk| disk.list_id(segment).map(|id| id == ChunkId::ZERO);
            if zero(backup).map_err(source)? && zero(copy).map_err(destination)? {
                control.tell(Event::Skipped(len as u64));
                continue;
            }
            backup.read_segment(segment, 0, &mut here[..len]).map_err(source)?;
            copy.read_segment(segment, 0, &mut there[..len]).map_err(destination)?;
            if here[..len] != there[..len] {
                let at = GuestOffset(backup.shape().segment_at(segment));
                return Err(CopyError::NotVerified { slot: slot.to_owned(), at });
            }
            control.tell(Event::Done(len as u64));
        }
    };
    thread::scope(|scope| {
        for _ in 0..worker_count() {
            scope.spawn(|| {
                if let Err(error) = work() {
                    next.store(segments, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
