//! Images of several files, which get their names together: the parts first, what names them last.
//!
//! No filesystem renames several files in one step. So all of them are complete and durable before the first gets its
//! name, and the file that is opened, which names the others, is the last. If a name is refused on the way, the parts
//! that were new are taken away again; those that replaced others cannot be, and are named.

use std::fs;
use std::path::PathBuf;

use super::new_file::SealedFile;
use super::{Overwrite, TargetError};

/// Gives all files their names, in this order; returns the names, the last one first.
///
/// # Errors
/// As [`SealedFile::publish`], after taking new files away; [`TargetError::Mixed`] if others had been replaced.
pub(in crate::formats) fn publish_all(
    files: Vec<SealedFile>,
    overwrite: Overwrite,
) -> Result<Vec<PathBuf>, TargetError> {
    let mut published: Vec<PathBuf> = Vec::with_capacity(files.len());
    for file in files {
        let target = file.target().to_owned();
        match (file.publish(), overwrite) {
            (Ok(name), _) => published.push(name),
            (Err(fault), Overwrite::Refuse) => {
                // Created under these names a moment ago and by us alone.
                let left: Vec<PathBuf> = published.into_iter().filter(|name| fs::remove_file(name).is_err()).collect();
                return Err(mixed(target, left, fault));
            }
            (Err(fault), Overwrite::Replace) => return Err(mixed(target, published, fault)),
        }
    }
    if let Some(opened_first) = published.pop() {
        published.insert(0, opened_first);
    }
    Ok(published)
}

fn mixed(file: PathBuf, left: Vec<PathBuf>, fault: TargetError) -> TargetError {
    if left.is_empty() { fault } else { TargetError::Mixed { file, left, source: Box::new(fault) } }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::formats::sink::new_file::NewFile;
    use crate::units::FileOffset;

    fn sealed(path: &Path, overwrite: Overwrite) -> SealedFile {
        let file = NewFile::create(path, overwrite).unwrap();
        file.write_all_at(FileOffset(0), b"new").unwrap();
        file.seal().unwrap()
    }

    #[test]
    fn the_last_one_is_the_one_to_open() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        let files = paths.iter().map(|path| sealed(path, Overwrite::Refuse)).collect();
        assert_eq!(publish_all(files, Overwrite::Refuse).unwrap(), [2, 0, 1].map(|n: usize| paths[n].clone()));
        assert_eq!(publish_all(Vec::new(), Overwrite::Refuse).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_name_taken_meanwhile_takes_the_new_parts_away_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        let files = paths.iter().map(|path| sealed(path, Overwrite::Refuse)).collect();
        fs::write(&paths[1], "theirs").unwrap();
        assert!(matches!(publish_all(files, Overwrite::Refuse), Err(TargetError::Exists { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&paths[1]).unwrap(), b"theirs");
    }

    #[test]
    fn parts_that_replaced_others_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        fs::write(&paths[0], "old").unwrap();
        let files = paths.iter().map(|path| sealed(path, Overwrite::Replace)).collect();
        fs::create_dir(&paths[1]).unwrap();
        let fault = publish_all(files, Overwrite::Replace).unwrap_err();
        assert!(matches!(&fault, TargetError::Mixed { left, .. } if *left == paths[..1]), "{fault}");
        assert!(fault.to_string().contains(&paths[0].display().to_string()), "{fault}");
        assert_eq!((fs::read(&paths[0]).unwrap(), fs::read_dir(dir.path()).unwrap().count()), (b"new".to_vec(), 2));
    }
}
