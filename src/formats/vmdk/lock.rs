//! Signs that a running machine is writing to a file. They make a report and a refusal possible; their absence proves
//! nothing (VMFS locks are invisible in a copy), so readers also compare file states before and after.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::formats::FileState;

/// Why `file` looks locked; `None` if nothing says so.
pub(crate) fn sign(file: &FileState) -> Option<String> {
    let mut name = OsString::from(file.path.as_os_str());
    name.push(".lck");
    let beside = PathBuf::from(name);
    // Workstation and Fusion: a folder with M*.lck files; it may stay behind empty.
    let is_held = match std::fs::read_dir(&beside) {
        Ok(mut entries) => entries.any(|entry| entry.is_ok_and(|entry| has_lock_name(&entry.path()))),
        Err(_) => beside.is_file(),
    };
    if is_held {
        return Some(format!("{} is held by a running machine", beside.display()));
    }
    // ESX on NFS: a file named after the locked file's id, lowest byte first.
    let on_nfs = file.path.with_file_name(format!(".lck-{:016x}", file.inode.swap_bytes()));
    on_nfs.is_file().then(|| format!("{} is held by a host that uses the datastore", on_nfs.display()))
}

fn has_lock_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("lck"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_held_locks_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.vmdk");
        std::fs::write(&path, "x").unwrap();
        let state = FileState::of_path(&path).unwrap();
        assert_eq!(sign(&state), None);
        let lock = dir.path().join("x.vmdk.lck");
        std::fs::create_dir(&lock).unwrap();
        assert_eq!(sign(&state), None, "an empty lock folder is a leftover");
        std::fs::write(lock.join("M12345.lck"), "").unwrap();
        assert!(sign(&state).unwrap().contains("x.vmdk.lck is held"));
        std::fs::remove_dir_all(&lock).unwrap();
        std::fs::write(&lock, "").unwrap();
        assert!(sign(&state).is_some());
        std::fs::remove_file(&lock).unwrap();
        let on_nfs = dir.path().join(format!(".lck-{:016x}", state.inode.swap_bytes()));
        std::fs::write(on_nfs, "").unwrap();
        assert!(sign(&state).unwrap().contains("datastore"));
    }
}
