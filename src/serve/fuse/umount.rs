//! Ending a mount from outside: only what is one of ours.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount as system_unmount};

/// What the list of mounts shows as the source of each of ours begins with; its type may lack our name.
pub const SOURCE_PREFIX: &str = "abbild:";
/// What unmounts for ordinary users.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// Why a mount was not ended.
#[derive(Debug, thiserror::Error)]
pub enum UmountError {
    /// Nothing of ours is mounted there.
    #[error("{} is no mount of abbild", folder.display())]
    NotMounted {
        /// The folder that was named.
        folder: PathBuf,
    },
    /// A program still uses it.
    #[error("{} is in use", folder.display())]
    Busy {
        /// The folder that was named.
        folder: PathBuf,
    },
    /// The system refused.
    #[error("cannot unmount {}", folder.display())]
    System {
        /// The folder that was named.
        folder: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Unmounts what abbild mounted at `folder`; with `lazy` also while it is in use: it is gone from the tree at once, and
/// ends with its last user.
///
/// # Errors
/// [`UmountError`].
pub fn unmount(folder: &Path, lazy: bool) -> Result<(), UmountError> {
    let folder = absolute(folder);
    let failed = |source| UmountError::System { folder: folder.clone(), source };
    if !mounted_by_us(&std::fs::read("/proc/self/mountinfo").map_err(failed)?, &folder) {
        return Err(UmountError::NotMounted { folder });
    }
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match system_unmount(&folder, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(UmountError::Busy { folder }),
        Err(Errno::PERM) => by_helper(&folder, lazy),
        Err(error) => Err(failed(error.into())),
    }
}

/// An ordinary user's mounts are ended by the program that made them.
fn by_helper(folder: &Path, lazy: bool) -> Result<(), UmountError> {
    let failed = |source| UmountError::System { folder: folder.to_owned(), source };
    let arguments: &[&str] = if lazy { &["-u", "-z"] } else { &["-u"] };
    for helper in HELPERS {
        let output = Command::new(helper).args(arguments).arg("--").arg(folder).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                if said.contains("busy") {
                    return Err(UmountError::Busy { folder: folder.to_owned() });
                }
                return Err(failed(io::Error::other(said)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(io::Error::other("neither fusermount3 nor fusermount is installed")))
}

/// The folder's full name without asking it: a mount whose server died answers nothing.
fn absolute(folder: &Path) -> PathBuf {
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    match (full.parent().and_then(|parent| parent.canonicalize().ok()), full.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => full,
    }
}

/// Whether the newest mount at `folder` is one of ours, by the kernel's list; proc(5), `mountinfo`.
fn mounted_by_us(list: &[u8], folder: &Path) -> bool {
    let mut newest = None;
    for line in list.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let Some(at) = fields.nth(4) else { continue };
        if unescaped(at) == folder {
            let mut end = fields.skip_while(|field| *field != b"-").skip(1);
            newest = end.next().zip(end.next());
        }
    }
    newest.is_some_and(|(kind, source)| kind.starts_with(b"fuse") && source.starts_with(SOURCE_PREFIX.as_bytes()))
}

/// Blanks and backslashes stand as `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut plain = Vec::new();
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    PathBuf::from(OsString::from_vec(plain))
}

/// Whether something of ours lies at `folder`, alive or not.
pub fn is_mounted(folder: &Path) -> bool {
    let list = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounted_by_us(&list, &absolute(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_mount_at_a_folder_counts() {
        let line = |at: &str, kind: &str, source: &str| {
            let at = at.replace(' ', "\\040");
            format!("36 35 98:0 / {at} rw,noatime shared:1 - {kind} {source} ro,user_id=0\n")
        };
        let list = [
            line("/mnt/a b", "fuse", "abbild:/r"),
            line("/mnt/c", "fuse.abbild", "abbild:/r"),
            line("/mnt/c", "ext4", "/dev/sda1"),
            line("/mnt/d", "fuse.sshfs", "host:/"),
        ]
        .concat();
        assert!(mounted_by_us(list.as_bytes(), Path::new("/mnt/a b")));
        assert!(!mounted_by_us(list.as_bytes(), Path::new("/mnt/c")));
        assert!(!mounted_by_us(list.as_bytes(), Path::new("/mnt/d")));
        assert!(!mounted_by_us(list.as_bytes(), Path::new("/mnt")));
    }
}
