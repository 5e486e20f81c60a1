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

/// Permission bits of a definition that came from no file.
const TEXT_MODE: u32 = 0o600;

/// Stores every definition file and text.
///
/// # Errors
/// [`OpsError::DefinitionFile`]; what the repository says.
pub fn store(intake: &Intake<'_>, machine: &Machine, control: Control<'_>) -> Result<Vec<FileRecord>, OpsError> {
    control.tell(Event::Step("storing the definition files"));
    let mut writer = intake.writer();
    let mut records = Vec::new();
    for (name, text) in &machine.definition_texts {
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let segments = text.chunks(SEGMENT_BYTES).map(|part| writer.store_segment(part));
        let segments = segments.collect::<Result<_, _>>()?;
        let name = free_name(name.clone(), &records);
        records.push(FileRecord { name, len: text.len() as u64, mode: TEXT_MODE, modified_ns: now, segments });
    }
    for path in &machine.definition_files {
        if control.interrupted() {
            return Err(OpsError::Interrupted);
        }
        let name = free_name(name_of(path, &machine.folder), &records);
        records.push(store_file(&mut writer, name, path)?);
    }
    writer.flush()?;
    Ok(records)
}

/// A restore puts the files into one folder. Those that lie elsewhere on the host, such as the UEFI variables of libvirt,
/// come with their bare names.
fn name_of(path: &Path, folder: &Path) -> String {
    let inside = path.strip_prefix(folder).ok().filter(|_| folder.parent().is_some());
    let bare = || path.file_name().unwrap_or(path.as_os_str());
    inside.map_or_else(|| bare().to_string_lossy().into_owned(), |inside| inside.display().to_string())
}

/// `name`, or one like it that no other file has.
fn free_name(name: String, records: &[FileRecord]) -> String {
    let is_free = |name: &str| records.iter().all(|record| record.name != name);
    if is_free(&name) {
        return name;
    }
    let (front, ending) = name.split_at(name.rfind('.').unwrap_or(name.len()));
    (2..).map(|number: u64| format!("{front}-{number}{ending}")).find(|name| is_free(name)).expect("numbers go on")
}

fn store_file(writer: &mut SegmentWriter<'_, '_>, name: String, path: &Path) -> Result<FileRecord, OpsError> {
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
    let modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    Ok(FileRecord { name, len, mode: metadata.mode() & 0o7777, modified_ns, segments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_and_differ() {
        let name = |path: &str, folder: &str| name_of(Path::new(path), Path::new(folder));
        assert_eq!(name("/vm/web1.vmx", "/vm"), "web1.vmx");
        assert_eq!(name("/vm/Snapshots/1.xml", "/vm"), "Snapshots/1.xml");
        assert_eq!(name("/var/lib/libvirt/qemu/nvram/web1_VARS.fd", "/etc/libvirt/qemu"), "web1_VARS.fd");
        assert_eq!(name("/var/lib/libvirt/qemu/nvram/web1_VARS.fd", "/"), "web1_VARS.fd");
        let record =
            |name: &str| FileRecord { name: name.to_owned(), len: 0, mode: 0, modified_ns: 0, segments: Vec::new() };
        let taken = [record("a.xml"), record("a-2.xml"), record("b")];
        assert_eq!(free_name("a.xml".to_owned(), &taken), "a-3.xml");
        assert_eq!(free_name("b".to_owned(), &taken), "b-2");
        assert_eq!(free_name("c".to_owned(), &taken), "c");
    }
}
