//! How a file in a guest is named, as in `web1@latest:/etc/fstab`. Pure, but for asking whether a file exists.
//!
//! ```text
//! web1@latest:/etc/fstab                the guest's own view of its files
//! web1@2026-11-20T02:15:/etc            names of backups have colons too
//! web1@latest:disk0/p2/etc/fstab        one volume: a partition, a whole disk (disk0), a logical volume (vg0/root)
//! web1@latest:   web1@latest            the root
//! disk.vmdk:/etc   vms/web1/:/etc       an image file, a block device, a machine's folder: anything that exists here
//! web1@latest:C:/Windows                a drive of Windows, by its own letters
//! ```
//!
//! The part behind the source begins at the first colon behind which stands
//! nothing at all · `/` · a letter, `:` and `/` · `diskN` · something up to a `/` that has no colon in it.
//! The digits of a time are none of these. If what stands before a later such colon exists as a file and what stands before
//! the first does not, the file is meant. Existing files win over backups of the same name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Where a file is: in what, and there where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In what.
    pub source: SourceName,
    /// There where.
    pub inside: Inside,
}

/// What files are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// A backup, by a name that the repository understands.
    Backup(String),
    /// An image file, block device or machine's folder.
    File(PathBuf),
}

/// A place in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inside {
    /// A path in the guest's own view; the root if it is empty.
    View(Vec<u8>),
    /// A volume's name and a path on it, not yet told apart: `disk0/p2/etc/fstab`.
    Volume(Vec<u8>),
    /// A path on a drive of Windows.
    Drive(char, Vec<u8>),
}

/// Why a name names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Nothing before the colon.
    #[error("{text:?} does not say in which backup or image")]
    NoSource {
        /// What was typed.
        text: String,
    },
    /// Two files exist that may be meant.
    #[error("{text:?} may mean a place in {first:?} or in {second:?}")]
    Ambiguous {
        /// What was typed.
        text: String,
        /// One that exists.
        first: PathBuf,
        /// Another that exists.
        second: PathBuf,
    },
    /// A name that no backup has.
    #[error("{text:?}: names of backups are UTF-8, and no file of that name exists")]
    NoText {
        /// What was typed.
        text: String,
    },
}

impl Place {
    /// The place that `text` names; `exists` tells whether there is such a file on this host.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn parse(text: &OsStr, exists: &dyn Fn(&Path) -> bool) -> Result<Place, PlaceError> {
        let bytes = text.as_bytes();
        let shown = || text.to_string_lossy().into_owned();
        // The whole text may be a source without a path, above all a file whose name has a colon.
        let splits: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at] == b':' && begins_inside(&bytes[at + 1..])).collect();
        let file = |at: usize| PathBuf::from(OsString::from_vec(bytes[..at].to_vec()));
        let mut existing = splits.iter().copied().chain([bytes.len()]).filter(|at| *at > 0 && exists(&file(*at)));
        if let Some(at) = existing.next() {
            if let Some(other) = existing.next() {
                return Err(PlaceError::Ambiguous { text: shown(), first: file(at), second: file(other) });
            }
            return Ok(Place {
                source: SourceName::File(file(at)),
                inside: inside(bytes.get(at + 1..).unwrap_or_default()),
            });
        }
        let at = splits.first().copied().unwrap_or(bytes.len());
        if at == 0 {
            return Err(PlaceError::NoSource { text: shown() });
        }
        let name = std::str::from_utf8(&bytes[..at]).map_err(|_| PlaceError::NoText { text: shown() })?;
        // What looks like a path can only be one: no machine's name begins so.
        let source = if name.starts_with(['/', '.', '~']) || name.ends_with('/') {
            SourceName::File(name.into())
        } else {
            SourceName::Backup(name.to_owned())
        };
        Ok(Place { source, inside: inside(bytes.get(at + 1..).unwrap_or_default()) })
    }

    /// The place `path` below this one.
    pub fn below(&self, path: &[u8]) -> Place {
        let join = |base: &[u8]| {
            [base.strip_suffix(b"/").unwrap_or(base), b"/", path.strip_prefix(b"/").unwrap_or(path)].concat()
        };
        let inside = match &self.inside {
            Inside::View(base) => Inside::View(join(base)),
            Inside::Volume(base) => Inside::Volume(join(base)),
            Inside::Drive(letter, base) => Inside::Drive(*letter, join(base)),
        };
        Place { source: self.source.clone(), inside }
    }
}

impl Inside {
    /// In its plain form: without slashes at the end; a root is empty.
    pub fn plain(&self) -> Vec<u8> {
        let (drive, path) = match self {
            Inside::View(path) | Inside::Volume(path) => (String::new(), path),
            Inside::Drive(letter, path) => (format!("{letter}:"), path),
        };
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        [drive.as_bytes(), &path[..end]].concat()
    }

    /// The last step of the path; `None` for a root and for what has no name of its own (`..`).
    pub fn last_name(&self) -> Option<&[u8]> {
        let (Inside::View(path) | Inside::Volume(path) | Inside::Drive(_, path)) = self;
        let mut steps = path.split(|byte| *byte == b'/').filter(|step| !step.is_empty());
        steps.next_back().filter(|name| *name != b"." && *name != b"..")
    }
}

/// Whether a place inside a guest may begin here.
fn begins_inside(rest: &[u8]) -> bool {
    if rest.is_empty() || rest[0] == b'/' || drive(rest).is_some() || is_disk(rest) {
        return true;
    }
    let first = rest.iter().position(|byte| *byte == b'/').map(|end| &rest[..end]);
    first.is_some_and(|first| !first.contains(&b':'))
}

fn inside(rest: &[u8]) -> Inside {
    if rest.is_empty() || rest[0] == b'/' {
        return Inside::View(rest.to_vec());
    }
    match drive(rest) {
        Some(letter) => Inside::Drive(letter, rest[2..].to_vec()),
        None => Inside::Volume(rest.to_vec()),
    }
}

/// `C:/…` or `C:` at the end.
fn drive(rest: &[u8]) -> Option<char> {
    let [letter, b':', behind @ ..] = rest else { return None };
    (letter.is_ascii_alphabetic() && (behind.is_empty() || behind[0] == b'/'))
        .then(|| char::from(letter.to_ascii_uppercase()))
}

/// `disk0`, with nothing behind it.
fn is_disk(rest: &[u8]) -> bool {
    rest.strip_prefix(b"disk").is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 6] = ["disk.vmdk", "vms/web1", "vms/web1/", "a:/b.img", "one", "one:/two"];

    #[track_caller]
    fn check(text: &str, source: SourceName, inside: Inside) {
        let exists = |path: &Path| FILES.iter().any(|file| Path::new(file) == path);
        assert_eq!(Place::parse(OsStr::new(text), &exists), Ok(Place { source, inside }), "{text}");
    }

    fn backup(name: &str) -> SourceName {
        SourceName::Backup(name.to_owned())
    }

    fn file(name: &str) -> SourceName {
        SourceName::File(name.into())
    }

    fn view(path: &str) -> Inside {
        Inside::View(path.into())
    }

    fn volume(path: &str) -> Inside {
        Inside::Volume(path.into())
    }

    #[test]
    fn names_of_backups_have_colons_too() {
        check("web1@latest:/etc/fstab", backup("web1@latest"), view("/etc/fstab"));
        check("web1:/etc", backup("web1"), view("/etc"));
        check("web1@latest:", backup("web1@latest"), view(""));
        check("web1@latest", backup("web1@latest"), view(""));
        check("3f2a91bc:/a:/b", backup("3f2a91bc"), view("/a:/b"));
        for time in ["2026-11-20", "2026-11-20T02:15", "2026-11-20T02:15:00", "2026-11-20 02:15:00"] {
            let name = format!("web1@{time}");
            check(&name, backup(&name), view(""));
            check(&format!("{name}:"), backup(&name), view(""));
            check(&format!("{name}:/"), backup(&name), view("/"));
            check(&format!("{name}:/etc/x:/y"), backup(&name), view("/etc/x:/y"));
            check(&format!("{name}:disk0"), backup(&name), volume("disk0"));
            check(&format!("{name}:disk0/p2/etc"), backup(&name), volume("disk0/p2/etc"));
            check(&format!("{name}:vg0/root"), backup(&name), volume("vg0/root"));
            check(&format!("{name}:vg0/root/a:/b"), backup(&name), volume("vg0/root/a:/b"));
            check(&format!("{name}:C:/Users"), backup(&name), Inside::Drive('C', b"/Users".to_vec()));
            check(&format!("{name}:d:"), backup(&name), Inside::Drive('D', Vec::new()));
        }
        // A path without its leading slash: the volume will not be found, and the message says so.
        check("web1:etc/fstab", backup("web1"), volume("etc/fstab"));
    }

    #[test]
    fn files_of_this_host_win() {
        check("disk.vmdk:/etc", file("disk.vmdk"), view("/etc"));
        check("disk.vmdk", file("disk.vmdk"), view(""));
        check("disk.vmdk:disk0/p1/x", file("disk.vmdk"), volume("disk0/p1/x"));
        check("vms/web1/:/etc", file("vms/web1/"), view("/etc"));
        check("a:/b.img:/etc", file("a:/b.img"), view("/etc"));
        check("a:/b.img", file("a:/b.img"), view(""));
        // What is not there and yet can be nothing else.
        check("./gone.img:/etc", file("./gone.img"), view("/etc"));
        check("/dev/gone:/etc", file("/dev/gone"), view("/etc"));
        check("vms/gone:/etc", backup("vms/gone"), view("/etc"));
    }

    #[test]
    fn what_names_no_place() {
        let exists = |path: &Path| FILES.iter().any(|file| Path::new(file) == path);
        let error = |text: &str| Place::parse(OsStr::new(text), &exists).unwrap_err().to_string();
        assert_eq!(error(":/etc"), "\":/etc\" does not say in which backup or image");
        assert_eq!(error(""), "\"\" does not say in which backup or image");
        assert_eq!(error("one:/two:/x"), "\"one:/two:/x\" may mean a place in \"one\" or in \"one:/two\"");
        let bytes = OsStr::from_bytes(b"\xff:/etc");
        assert!(matches!(Place::parse(bytes, &exists), Err(PlaceError::NoText { .. })));
    }

    #[test]
    fn places_below_and_last_names() {
        let place = |text: &str| Place::parse(OsStr::new(text), &|_| false).unwrap();
        assert_eq!(place("a:").below(b"/etc"), place("a:/etc"));
        assert_eq!(place("a:/").below(b"etc"), place("a:/etc"));
        assert_eq!(place("a:disk0/p1").below(b"etc"), place("a:disk0/p1/etc"));
        for (text, name) in
            [("a:/x/y", Some("y")), ("a:/x/y//", Some("y")), ("a:", None), ("a:/", None), ("a:/x/..", None)]
        {
            assert_eq!(place(text).inside.last_name(), name.map(str::as_bytes), "{text}");
        }
    }
}
