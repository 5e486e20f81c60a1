//! Restoring a whole machine: its disks and definition files into a folder of its own.
//!
//! A backup is one level, so each restored disk is one image without redo logs. What becomes of the definition is decided
//! before a disk is written, and written after them (`definition`).

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::definition::{self, DefinitionChoice, KeptFile, Place};
use super::{DiskFormat, DiskTarget, RestoredDisk, restore_disk};
use crate::formats::sink::Overwrite;
use crate::ops::{Control, Event, OpsError, definition_file, digest};
use crate::repo::Repository;
use crate::repo::manifest::{FileRecord, Manifest};
use crate::units::ByteLen;

/// A machine that was restored.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RestoredMachine {
    /// The folder it is in.
    pub folder: PathBuf,
    /// Its disks.
    pub disks: Vec<RestoredDisk>,
    /// Its definition files.
    pub files: Vec<PathBuf>,
    /// The one to start or import the machine by, if one fits the restored disks.
    pub definition: Option<PathBuf>,
    /// What was adjusted so that the machine can use its disks.
    pub notes: Vec<String>,
    /// What is not as it was.
    pub warnings: Vec<String>,
}

/// How a machine is restored.
#[derive(Clone, Copy, Debug)]
pub struct MachineOptions {
    /// The format of its disks.
    pub format: DiskFormat,
    /// Which definition it gets.
    pub definition: DefinitionChoice,
    /// Whether it becomes another machine: new UUIDs, new network addresses.
    pub new_identity: bool,
    /// Whether files in its folder may be replaced.
    pub overwrite: Overwrite,
}

/// Restores every disk and definition file of a backup into `folder`, which is made if need be.
///
/// # Errors
/// [`OpsError::Target`] if the folder holds something and the options do not allow that; [`OpsError::Machine`] if the
/// definition cannot be converted; else as [`restore_disk`].
pub fn restore_machine(
    repository: &Arc<Repository>,
    manifest: &Manifest,
    folder: &Path,
    options: &MachineOptions,
    control: Control<'_>,
) -> Result<RestoredMachine, OpsError> {
    let MachineOptions { format, overwrite, .. } = *options;
    // Names first, and the definition before the disks: what cannot be done is known before hours are spent.
    let kept = match options.definition {
        DefinitionChoice::None => Vec::new(),
        _ => manifest.files.iter().map(|record| read_kept(repository, record, folder)).collect::<Result<_, _>>()?,
    };
    let way = definition::way(manifest, &kept, options.definition, options.new_identity)?;
    prepare_folder(folder, overwrite)?;
    let names = disk_names(manifest, format);
    let mut restored = RestoredMachine {
        folder: folder.to_owned(),
        disks: Vec::new(),
        files: Vec::new(),
        definition: None,
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
    let place = Place { folder, new_identity: options.new_identity };
    let made = definition::definitions(way, kept, &restored.disks, format, &place);
    restored.notes.extend(made.notes);
    restored.warnings.extend(made.warnings);
    let mut main = made.main;
    let seal = main.as_deref().and_then(definition::manifest_name);
    for file in made.files {
        // The old manifest of a package would say that the new files are damaged.
        if seal.as_deref() == Some(Path::new(&file.name)) {
            continue;
        }
        let path = folder.join(&file.name);
        write_file(&path, &file.bytes, file.mode, overwrite)?;
        if main.as_deref() == Some(file.name.as_str()) {
            main = None;
            restored.definition = Some(path.clone());
        }
        restored.files.push(path);
    }
    if let (Some(seal), Some(descriptor)) = (seal, &restored.definition) {
        control.tell(Event::Step("computing the digests of the package"));
        let images = restored.disks.iter().flat_map(|disk| &disk.files);
        let text = digest::manifest_of(std::iter::once(descriptor).chain(images), control)?;
        let path = folder.join(seal);
        write_file(&path, text.as_bytes(), 0o644, overwrite)?;
        restored.files.push(path);
    }
    Ok(restored)
}

fn read_kept(repository: &Repository, record: &FileRecord, folder: &Path) -> Result<KeptFile, OpsError> {
    safe_name(&record.name, folder)?;
    Ok(KeptFile { name: record.name.clone(), bytes: definition_file::read(repository, record)?, mode: record.mode })
}

/// The names of all files that [`restore_machine`] may write, for a plan: nothing is read for it.
pub fn planned_names(manifest: &Manifest, options: &MachineOptions) -> Vec<String> {
    let disks = disk_names(manifest, options.format).into_iter().zip(&manifest.disks);
    let images = disks.flat_map(|(name, disk)| file_names(&name, options.format, disk.size));
    images.chain(definition::planned_names(manifest, options.definition)).collect()
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
