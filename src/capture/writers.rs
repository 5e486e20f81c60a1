//! Which process of this host has an image open for writing: a sign of a running machine that no hypervisor can forget to
//! leave, and no crash leaves behind.
//!
//! Only processes that this user may look at are seen: root sees all. A hypervisor on another host that shares the storage
//! is not seen, and a block device attached through the kernel neither. The absence of a sign proves nothing.
//!
//! Source: proc(5), `/proc/PID/fd` and `/proc/PID/fdinfo`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::formats::FileState;

/// Flags of an open file that say it can be written to; `O_WRONLY` and `O_RDWR`.
const WRITING: u32 = 0o3;

/// What to say of the first process found that can write to one of `files`; `None` if there is none.
pub fn of(files: &[FileState]) -> Option<String> {
    let own = std::process::id();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()).filter(|id| *id != own) else {
            continue;
        };
        // A process that ends meanwhile, or belongs to somebody else, shows nothing.
        let Ok(handles) = fs::read_dir(process.path().join("fd")) else { continue };
        for handle in handles.flatten() {
            let file = files.iter().find(|file| is_open_as(&handle.path(), file));
            if let Some(file) = file.filter(|_| writes(&process.path().join("fdinfo").join(handle.file_name()))) {
                let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("process {id} ({}) can write to {}", program.trim(), file.path.display()));
            }
        }
    }
    None
}

/// Whether a handle is one of that file. Names are compared first: to look at the file itself can hang where it lies on a
/// server that is gone. Folders are not: a container has its own.
fn is_open_as(handle: &Path, file: &FileState) -> bool {
    fs::read_link(handle).is_ok_and(|target| target.file_name() == file.path.file_name())
        && fs::metadata(handle).is_ok_and(|found| (found.dev(), found.ino()) == (file.device, file.inode))
}

/// Whether the information about a handle says so.
fn writes(info: &Path) -> bool {
    fs::read_to_string(info).is_ok_and(|text| can_write(&text))
}

/// `flags:` are octal.
fn can_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & WRITING != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that holds `file` open until it is killed.
    fn holding(file: &Path, redirection: &str) -> Child {
        let script = format!("exec 3{redirection}\"$0\"; echo ready; read wait");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs sh");
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        child
    }

    #[test]
    fn a_writer_is_seen_and_a_reader_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let own = File::create(&path).unwrap();
        let file = FileState::of_path(&path).unwrap();
        assert_eq!(of(std::slice::from_ref(&file)), None, "ourselves do not count");
        drop(own);
        for (redirection, seen) in [("<", false), ("<>", true), (">>", true)] {
            let mut child = holding(&path, redirection);
            let expected = seen.then(|| format!("process {} (sh) can write to {}", child.id(), path.display()));
            let found = of(&[FileState::of_path(&path).unwrap()]);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(found, expected, "{redirection}");
        }
        assert_eq!(of(&[file]), None);
    }

    #[test]
    fn flags() {
        for (info, expected) in [
            ("pos:\t0\nflags:\t02100002\nmnt_id:\t29\n", true),
            ("flags:\t0100001\n", true),
            ("flags:\t0100000\n", false),
            ("flags:\t9\n", false),
            ("", false),
        ] {
            assert_eq!(can_write(info), expected, "{info}");
        }
    }
}
