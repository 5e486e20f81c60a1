//! A definition file of a backup, read back.

use crate::repo::manifest::FileRecord;
use crate::repo::map::{ListEntry, MapShape, decode_list};
use crate::repo::{RepoError, Repository};

/// Largest definition file that is restored, as it lies in memory meanwhile; backups keep 64 MiB of them.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The content of a definition file.
///
/// # Errors
/// [`RepoError::Damaged`] also if it is absurdly long; what the repository says.
pub fn read(repository: &Repository, record: &FileRecord) -> Result<Vec<u8>, RepoError> {
    let needed_by = || format!("definition file {}", record.name);
    let damaged = |found: String| RepoError::Damaged {
        object: needed_by(),
        field: "content",
        at: 0,
        expected: format!("{} bytes", record.len),
        found,
    };
    let shape = MapShape::new(record.len)
        .filter(|shape| record.len <= FILE_BYTES_MAX && record.segments.len() as u64 == shape.segments())
        .ok_or_else(|| damaged(format!("a list of {} segments, or more than we restore", record.segments.len())))?;
    let mut bytes = Vec::new();
    for (segment, id) in (0u64..).zip(&record.segments) {
        let len = shape.segment_len(segment);
        if *id == crate::repo::ids::ChunkId::ZERO {
            bytes.resize(bytes.len() + len, 0);
            continue;
        }
        let list = repository.read_chunk(*id, &needed_by)?;
        for entry in decode_list(&list, len).map_err(|error| damaged(error.to_string()))? {
            match entry {
                ListEntry::Zero(len) => bytes.resize(bytes.len() + len as usize, 0),
                ListEntry::Chunk(id, _) => bytes.extend(repository.read_chunk(id, &needed_by)?),
            }
        }
    }
    if bytes.len() as u64 != record.len {
        return Err(damaged(format!("{} bytes", bytes.len())));
    }
    Ok(bytes)
}
