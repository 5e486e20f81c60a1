//! Restoring a whole machine: its disks and definition files into a folder of its own.
//!
//! A backup is one level, so each restored disk is one image without redo logs. The `.vmx` is rewritten to name these
//! images and the `.vmsd` to list no snapshots; what they were is kept beside them as `….orig`.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{DiskFormat, DiskTarget, RestoredDisk, restore_disk};
use crate::formats::sink::Overwrite;
use crate::machine::rewrite;
use crate::ops::{Control, Event, OpsError};
use crate::repo::Repository;
use crate::repo::manifest::{FileRecord, Manifest};
use crate::repo::map::decode_list;
use crate::repo::map::{ListEntry, MapShape};
use crate::units::ByteLen;

/// Largest definition file that is restored, as it lies in memory meanwhile; backups keep 64 MiB of them.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A machine that was restored.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RestoredMachine {
    /// The folder it is in.
    pub folder: PathBuf,
    /// Its disks.
    pub disks: Vec<RestoredDisk>,
    /// Its definition files.
    pub files: Vec<PathBuf>,
    /// What was adjusted so that the machine can use its disks.
    pub notes: Vec<String>,
    /// What is not as it was.
    pub warnings: Vec<String>,
}

/// Restores every disk and definition file of a backup into `folder`, which is made if need be.
///
/// # Errors
/// [`OpsError::Target`] if the folder holds something and `overwrite` does not allow that; else as [`restore_disk`].
pub fn restore_machine(
    repository: &Arc<Repository>,
    manifest: &Manifest,
    folder: &Path,
    format: DiskFormat,
    overwrite: Overwrite,
    control: Control<'_>,
) -> Result<RestoredMachine, OpsError> {
    prepare_folder(folder, overwrite)?;
    let names = disk_names(manifest, format);
    let mut restored = RestoredMachine {
        folder: folder.to_owned(),
        disks: Vec::new(),
        files: Vec::new(),
        notes: Vec::new(),
        warnings: Vec::new(),
    };
    for (number, name) in names.iter().enumerate() {
        let target = DiskTarget::File { path: folder.join(name), format, overwrite };
        let disk = restore_disk(repository, manifest, number, &target, control)?;
        restored.warnings.extend(disk.warnings.iter().map(|warning| format!("{name}: {warning}")));
        restored.disks.push(disk);
    }
    control.tell(Event::Step("restoring the definition files"));
    let slots: Vec<(String, String)> = manifest.disks.iter().map(|disk| disk.slot.clone()).zip(names).collect();
    for record in &manifest.files {
        let bytes = read_file(repository, record)?;
        for (name, bytes) in adjusted(record, bytes, &slots, format, &mut restored) {
            let path = folder.join(safe_name(&name, folder)?);
            write_file(&path, &bytes, record.mode, overwrite)?;
            restored.files.push(path);
        }
    }
    Ok(restored)
}

/// The names of all files that [`restore_machine`] may write, for a plan: nothing is read for it.
pub fn planned_names(manifest: &Manifest, format: DiskFormat) -> Vec<String> {
    let files = manifest.files.iter().map(|file| file.name.clone());
    let originals = files.clone().map(|name| format!("{name}.orig"));
    let disks = disk_names(manifest, format).into_iter().zip(&manifest.disks);
    let images = disks.flat_map(|(name, disk)| file_names(&name, format, disk.size));
    images.chain(files.clone()).chain(originals).collect()
}

fn prepare_folder(folder: &Path, overwrite: Overwrite) -> Result<(), OpsError> {
    let failed = |source| OpsError::Write { file: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut entries = std::fs::read_dir(folder).map_err(failed)?;
    match (overwrite, entries.next()) {
        (Overwrite::Refuse, Some(_)) => {
            Err(OpsError::Target { target: folder.to_owned(), reason: "the folder is not empty".to_owned() })
        }
        _ => Ok(()),
    }
}

/// The names of all files of a disk called `name`.
fn file_names(name: &str, format: DiskFormat, size: u64) -> Vec<String> {
    let files = format.files(Path::new(name), ByteLen(size));
    files.into_iter().map(|file| file.to_string_lossy().into_owned()).collect()
}

/// A file name for each disk: that of its image without the number of a redo log, with the ending of the format; no two
/// are equal, nor are those of the further files that the format needs.
fn disk_names(manifest: &Manifest, format: DiskFormat) -> Vec<String> {
    let mut taken: HashSet<String> = manifest.files.iter().map(|file| file.name.clone()).collect();
    let mut names = Vec::new();
    for disk in &manifest.disks {
        let image = Path::new(&disk.file_name);
        let stem = image.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = without_redo_number(&stem);
        let stem = if stem.is_empty() { "disk" } else { stem };
        names.push(free_name(stem, format, disk.size, &mut taken));
    }
    names
}

/// `stem.ENDING`, or the first `stem-N.ENDING` none of whose files has a name that is taken; takes their names.
fn free_name(stem: &str, format: DiskFormat, size: u64, taken: &mut HashSet<String>) -> String {
    let mut name = format!("{stem}.{}", format.extension());
    let mut number = 2u64;
    loop {
        let files = file_names(&name, format, size);
        if files.iter().all(|file| !taken.contains(file)) {
            taken.extend(files);
            return name;
        }
        name = format!("{stem}-{number}.{}", format.extension());
        number += 1;
    }
}

/// `web1-000002` → `web1`: VMware numbers redo logs with six digits.
fn without_redo_number(stem: &str) -> &str {
    match stem.rsplit_once('-') {
        Some((front, digits)) if digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_digit()) => front,
        _ => stem,
    }
}

/// The files to write for one definition file: itself, or what it becomes and what it was.
fn adjusted(
    record: &FileRecord,
    bytes: Vec<u8>,
    slots: &[(String, String)],
    format: DiskFormat,
    restored: &mut RestoredMachine,
) -> Vec<(String, Vec<u8>)> {
    let extension = Path::new(&record.name).extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let new = match extension.as_deref() {
        Some("vmx") if format.extension() != "vmdk" => {
            let kind = format.extension();
            let warning = format!("{}: kept as it was: VMware cannot use the {kind} images beside it", record.name);
            restored.warnings.push(warning);
            return vec![(record.name.clone(), bytes)];
        }
        Some("vmx") => rewrite::vmx_with_disks(&bytes, slots),
        Some("vmsd") => rewrite::vmsd_without_snapshots().to_vec(),
        _ => return vec![(record.name.clone(), bytes)],
    };
    if new == bytes {
        return vec![(record.name.clone(), bytes)];
    }
    let original = format!("{}.orig", record.name);
    restored.notes.push(format!("{}: adjusted to the restored disks; as it was: {original}", record.name));
    vec![(record.name.clone(), new), (original, bytes)]
}

fn read_file(repository: &Repository, record: &FileRecord) -> Result<Vec<u8>, OpsError> {
    let needed_by = || format!("definition file {}", record.name);
    let damaged = |found: String| crate::repo::RepoError::Damaged {
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
        return Err(damaged(format!("{} bytes", bytes.len())).into());
    }
    Ok(bytes)
}

/// A name that stays inside the folder.
fn safe_name(name: &str, folder: &Path) -> Result<PathBuf, OpsError> {
    let path = Path::new(name);
    let safe = !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    if safe {
        return Ok(path.to_owned());
    }
    let reason = format!("the backup names a file outside of it: {name:?}");
    Err(OpsError::Target { target: folder.to_owned(), reason })
}

fn write_file(path: &Path, bytes: &[u8], mode: u32, overwrite: Overwrite) -> Result<(), OpsError> {
    let failed = |source| OpsError::Write { file: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).mode(mode & 0o777);
    match overwrite {
        Overwrite::Refuse => options.create_new(true),
        Overwrite::Replace => options.create(true).truncate(true),
    };
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redo_numbers_go_and_other_names_stay() {
        #[track_caller]
        fn check(stem: &str, expected: &str) {
            assert_eq!(without_redo_number(stem), expected);
        }
        check("web1-000002", "web1");
        check("web1-2", "web1-2");
        check("web1", "web1");
        check("a-b-000010", "a-b");
        check("web-00000x", "web-00000x");
    }

    #[test]
    fn no_file_of_a_disk_has_the_name_of_another() {
        let name = |stem: &str, format, taken: &mut HashSet<String>| free_name(stem, format, 3 << 30, taken);
        let mut taken = HashSet::from(["a.vmdk".to_owned()]);
        assert_eq!(name("a", DiskFormat::Vmdk, &mut taken), "a-2.vmdk");
        assert_eq!(name("a", DiskFormat::Vmdk, &mut taken), "a-3.vmdk");
        // A disk that is called what the data of another would be called.
        let mut taken = HashSet::new();
        assert_eq!(name("b-flat", DiskFormat::VmdkFlat, &mut taken), "b-flat.vmdk");
        assert_eq!(name("b", DiskFormat::VmdkFlat, &mut taken), "b-2.vmdk");
        let mut taken = HashSet::from(["c-s002.vmdk".to_owned()]);
        assert_eq!(name("c", DiskFormat::VmdkSplit, &mut taken), "c-2.vmdk");
        assert!(["c-2.vmdk", "c-2-s001.vmdk", "c-2-s002.vmdk"].iter().all(|file| taken.contains(*file)));
    }

    #[test]
    fn names_never_leave_the_folder() {
        for bad in ["", "..", "../x", "/etc/shadow", "a/../../b", "./x"] {
            assert!(safe_name(bad, Path::new("/restore")).is_err(), "{bad}");
        }
        assert!(safe_name("sub/web1.nvram", Path::new("/restore")).is_ok());
    }
}
