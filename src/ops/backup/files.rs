//! The machine's definition files go into the backup beside its disks.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::chunker::SEGMENT_BYTES;
use crate::machine::Machine;
use crate::ops::{Control, Event, OpsError};
use crate::repo::intake::{Intake, SegmentWriter};
use crate::repo::manifest::FileRecord;

/// Stores every definition file.
///
/// # Errors
/// [`OpsError::DefinitionFile`]; what the repository says.
pub fn store(intake: &Intake<'_>, machine: &Machine, control: Control<'_>) -> Result<Vec<FileRecord>, OpsError> {
    control.tell(Event::Step("storing the definition files"));
    let mut writer = intake.writer();
    let mut records = Vec::new();
    for path in &machine.definition_files {
        if control.interrupted() {
            return Err(OpsError::Interrupted);
        }
        records.push(store_file(&mut writer, &machine.folder, path)?);
    }
    writer.flush()?;
    Ok(records)
}

fn store_file(writer: &mut SegmentWriter<'_, '_>, folder: &Path, path: &Path) -> Result<FileRecord, OpsError> {
    let unreadable = |source| OpsError::DefinitionFile { file: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    // Read to the length it had when it was opened: a log may grow meanwhile, and its beginning is worth keeping.
    let len = metadata.len();
    let mut segments = Vec::new();
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left).map_or(SEGMENT_BYTES, |left| left.min(SEGMENT_BYTES));
        let mut segment = vec![0; part];
        file.read_exact(&mut segment).map_err(unreadable)?;
        segments.push(writer.store_segment(&segment)?);
        left -= part as u64;
    }
    let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
    let modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    Ok(FileRecord { name, len, mode: metadata.mode() & 0o7777, modified_ns, segments })
}
