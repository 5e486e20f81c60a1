//! The watch over files while they are read: what they were at the start, they must be at the end.
//!
//! A frozen layer never changes, so any difference means that the level was not frozen: the machine was powered on, a
//! snapshot was removed and its redo log written down, a copy was still running. What was read is then no state that ever
//! existed, and the backup must fail. Access times are not looked at: reading changes them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::formats::{FileState, Layer};

use super::CaptureError;

/// Remembers what files were, to prove later that they are the same.
#[derive(Clone, Debug)]
pub struct FileGuard {
    files: Vec<FileState>,
}

impl FileGuard {
    /// Guards every file of these layers from the moment they were opened.
    ///
    /// # Errors
    /// [`CaptureError::Changed`] if two layers saw the same file in different states: it changed before we began.
    pub fn of<'l>(layers: impl IntoIterator<Item = &'l Layer>) -> Result<FileGuard, CaptureError> {
        let mut files: BTreeMap<PathBuf, FileState> = BTreeMap::new();
        for state in layers.into_iter().flat_map(|layer| &layer.files) {
            match files.get(&state.path) {
                Some(known) => compare(known, state)?,
                None => drop(files.insert(state.path.clone(), state.clone())),
            }
        }
        Ok(FileGuard { files: files.into_values().collect() })
    }

    /// Looks at every file again; cheap enough to be done now and then during a long backup.
    ///
    /// # Errors
    /// [`CaptureError::Changed`] with the first difference, [`CaptureError::Gone`] if a file cannot be looked at.
    pub fn verify(&self) -> Result<(), CaptureError> {
        for before in &self.files {
            let after = FileState::of_path(&before.path)
                .map_err(|source| CaptureError::Gone { file: before.path.clone(), source })?;
            compare(before, &after)?;
        }
        Ok(())
    }

    /// How many files are watched.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }
}

/// Another file under the same name comes first: it explains all other differences.
fn compare(before: &FileState, after: &FileState) -> Result<(), CaptureError> {
    let properties: [(&'static str, i128, i128); 5] = [
        ("its device", before.device.into(), after.device.into()),
        ("its inode", before.inode.into(), after.inode.into()),
        ("its length", before.len.into(), after.len.into()),
        ("its modification time (ns)", before.modified_ns, after.modified_ns),
        ("its change time (ns)", before.changed_ns, after.changed_ns),
    ];
    match properties.into_iter().find(|(_, before, after)| before != after) {
        None => Ok(()),
        Some((what, old, new)) => Err(CaptureError::Changed {
            file: before.path.clone(),
            what,
            before: old.to_string(),
            after: new.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::disk::MemoryDisk;

    fn layer(files: Vec<FileState>) -> Layer {
        Layer {
            disk: Arc::new(MemoryDisk(vec![0; 512])),
            path: "layer".into(),
            files,
            variant: "test".to_owned(),
            content_id: String::new(),
            parent_content_id: None,
            properties: Vec::new(),
            in_use: None,
            warnings: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// What the guard says after something was done to one of two guarded files.
    fn after(act: impl FnOnce(&Path)) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "content").unwrap();
        fs::write(&other, "").unwrap();
        // An old file: the clock of the filesystem is too coarse to tell two writes of one moment apart.
        let old = SystemTime::now() - Duration::from_secs(100);
        File::options().append(true).open(&file).unwrap().set_modified(old).unwrap();
        let states = vec![FileState::of_path(&file).unwrap(), FileState::of_path(&other).unwrap()];
        let guard = FileGuard::of(&[layer(states.clone()), layer(states)]).unwrap();
        assert_eq!(guard.file_count(), 2);
        guard.verify().unwrap();
        act(&file);
        guard.verify().map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
    }

    #[track_caller]
    fn noticed(what: &str, act: impl FnOnce(&Path)) {
        let message = after(act).expect_err("was not noticed");
        assert!(message.starts_with(&format!("/a changed while it was read: its {what} was ")), "{message}");
    }

    #[test]
    fn reading_is_no_change() {
        assert_eq!(after(|file| drop(fs::read(file).unwrap())), Ok(()));
    }

    #[test]
    fn changes_are_noticed() {
        let append = |file: &Path| File::options().append(true).open(file).unwrap().write_all(b"!").unwrap();
        assert_eq!(after(append), Err("/a changed while it was read: its length was 7, is 8".to_owned()));
        noticed("modification time (ns)", |file| fs::write(file, "CONTENT").unwrap());
        // A writer that sets the time back is betrayed by the change time.
        noticed("change time (ns)", |file| {
            let before = fs::metadata(file).unwrap().modified().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            fs::write(file, "CONTENT").unwrap();
            File::options().append(true).open(file).unwrap().set_modified(before).unwrap();
        });
        noticed("inode", |file| {
            fs::write(file.with_extension("new"), "content").unwrap();
            fs::rename(file.with_extension("new"), file).unwrap();
        });
        assert_eq!(after(|file| fs::remove_file(file).unwrap()), Err("cannot look at /a again".to_owned()));
    }

    #[test]
    fn a_file_that_changed_between_two_layers_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let first = FileState::of_path(folder.path()).unwrap();
        let second = FileState { len: first.len + 1, ..first.clone() };
        assert!(matches!(
            FileGuard::of(&[layer(vec![first]), layer(vec![second])]),
            Err(CaptureError::Changed { what: "its length", .. })
        ));
    }
}
