//! Reading what a failing medium still gives of an object: parts that it refuses are zeros, which their hashes find out.

use crate::repo::error::RepoError;
use crate::repo::store::{ObjectName, ObjectStore, StoreError};

/// What is asked for at once.
const PART_BYTES: usize = 1 << 20;
/// What is given up at once: a sector.
const SECTOR_BYTES: usize = 4096;
/// Sectors that may fail before the medium is given up: more than any parity makes up for, and each may take seconds.
const SECTORS_LOST_MAX: usize = 1 << 14;

/// All that can be read of an object of at most `limit` bytes.
///
/// # Errors
/// [`RepoError::Store`] if it is not there or too large, or if far too much of it cannot be read.
pub(super) fn read(store: &dyn ObjectStore, name: &ObjectName, limit: u64) -> Result<Vec<u8>, RepoError> {
    let found = store.len(name)?;
    let len = match usize::try_from(found) {
        Ok(len) if found <= limit => len,
        _ => return Err(StoreError::TooLarge { place: store.place(), name: name.clone(), limit, found }.into()),
    };
    let mut bytes = vec![0; len];
    let mut lost = 0;
    for (number, part) in bytes.chunks_mut(PART_BYTES).enumerate() {
        let at = number * PART_BYTES;
        match store.read_range(name, at as u64, part) {
            Ok(()) => continue,
            Err(StoreError::Io { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        for (sector, bytes) in part.chunks_mut(SECTOR_BYTES).enumerate() {
            match store.read_range(name, (at + sector * SECTOR_BYTES) as u64, bytes) {
                Ok(()) => {}
                Err(StoreError::Io { .. }) if lost < SECTORS_LOST_MAX => {
                    lost += 1;
                    bytes.fill(0);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}
