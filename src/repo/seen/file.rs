//! The file that a memory lies in, in a folder of this host's own. Replaced as a whole and durably: whatever happens, it holds
//! the old memory or the new one. Runs beside each other take turns by a lock on the folder, which ends with them.
//!
//! A file for each place: a copy of a repository, at another place, may lag behind without anything being wrong with it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::memory::{BYTES_MAX, Memory};
use crate::repo::seal::Keys;

/// How its name begins.
const NAME: &str = "seen-";
/// Digits that tell places apart.
const PLACE_DIGITS: usize = 8;

/// The name of the memory of the store at `place`.
fn name_of(place: &str) -> String {
    let digest = blake3::hash(place.as_bytes()).to_hex();
    format!("{NAME}{}", &digest[..PLACE_DIGITS])
}

/// Why the memory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", file.display())]
pub struct FileError {
    /// The file or folder.
    pub file: PathBuf,
    /// What was being done, as a verb.
    pub action: &'static str,
    /// What the system said.
    pub source: io::Error,
}

fn failed<'a>(file: &'a Path, action: &'static str) -> impl Fn(io::Error) -> FileError + 'a {
    move |source| FileError { file: file.to_owned(), action, source }
}

/// What is remembered; nothing if there is no file. If there is one that cannot be used, that is said.
///
/// # Errors
/// [`FileError`].
pub fn load(folder: &Path, place: &str, keys: &Keys) -> Result<(Memory, Option<String>), FileError> {
    let path = folder.join(name_of(place));
    let nothing = || Memory::new(keys.repository());
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => {
            file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed(&path, "read"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((nothing(), None)),
        Err(error) => return Err(failed(&path, "read")(error)),
    }
    Ok(match Memory::decode(&bytes, keys) {
        Ok(memory) => (memory, None),
        Err(why) => (nothing(), Some(format!("{}: {why}", path.display()))),
    })
}

/// Adds `memory` to what is remembered.
///
/// # Errors
/// [`FileError`].
pub fn merge(folder: &Path, place: &str, keys: &Keys, memory: &Memory) -> Result<(), FileError> {
    let _turn = turn(folder)?;
    let (mut merged, _) = load(folder, place, keys)?;
    merged.merge(memory.clone());
    write(folder, place, keys, &merged)
}

/// Remembers `memory` and nothing else.
///
/// # Errors
/// [`FileError`].
pub fn replace(folder: &Path, place: &str, keys: &Keys, memory: &Memory) -> Result<(), FileError> {
    let _turn = turn(folder)?;
    write(folder, place, keys, memory)
}

/// This run's turn, for as long as the file is open.
fn turn(folder: &Path) -> Result<File, FileError> {
    fs::create_dir_all(folder).map_err(failed(folder, "create"))?;
    let handle = File::open(folder).map_err(failed(folder, "open"))?;
    flock(&handle, FlockOperation::LockExclusive).map_err(|errno| failed(folder, "lock")(errno.into()))?;
    Ok(handle)
}

fn write(folder: &Path, place: &str, keys: &Keys, memory: &Memory) -> Result<(), FileError> {
    // Only one has its turn, so the name can be the same each time; what a run that died left is written over.
    let name = name_of(place);
    let new = folder.join(format!(".{name}.new"));
    let path = folder.join(name);
    let mut file = File::create(&new).map_err(failed(&new, "create"))?;
    file.write_all(memory.encode(keys).as_bytes()).map_err(failed(&new, "write"))?;
    file.sync_all().map_err(failed(&new, "flush"))?;
    fs::rename(&new, &path).map_err(failed(&path, "replace"))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder, "flush"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::RepoId;
    use crate::repo::seal::{MasterSecret, MasterSecrets};

    const PLACE: &str = "/repository";

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_said() {
        let keys = Keys::derive(&MasterSecrets::of_first(MasterSecret([1; 32])), RepoId([7; 16]));
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("deep").join("below");
        assert_eq!(load(&folder, PLACE, &keys).unwrap(), (Memory::new(RepoId([7; 16])), None));
        let mut memory = Memory::new(RepoId([7; 16]));
        memory.generation = 4;
        merge(&folder, PLACE, &keys, &memory).unwrap();
        memory.generation = 3;
        merge(&folder, PLACE, &keys, &memory).unwrap();
        assert_eq!(load(&folder, PLACE, &keys).unwrap().0.generation, 4);
        replace(&folder, PLACE, &keys, &memory).unwrap();
        assert_eq!(load(&folder, PLACE, &keys).unwrap().0.generation, 3);
        assert_eq!(load(&folder, "/copy", &keys).unwrap().0.generation, 0, "a copy elsewhere has a memory of its own");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        fs::write(folder.join(name_of(PLACE)), b"torn").unwrap();
        let (found, lost) = load(&folder, PLACE, &keys).unwrap();
        assert!(found.generation == 0 && lost.is_some_and(|why| why.contains("/seen-")));
    }
}
