//! Names out of definition files: made fit to be shown, compared, and looked for on this host.
//!
//! Not in here: whether a file may be opened (`formats` has a policy for that); here it is only asked whether one exists.

use std::path::{Component, Path, PathBuf};

use super::error::shown;

/// Longest name shown; VMware allows 80 characters.
const NAME_CHARS_MAX: usize = 255;

/// Where a disk file that a definition names lies, and a remark if that is not where it says.
///
/// A folder that was copied from its host keeps absolute names of that host (`/vmfs/volumes/…`, `C:\VMs\…`). If nothing is
/// at such a place and a file of that name lies in the folder, that one is meant.
pub(super) fn locate(folder: &Path, name: &str) -> (PathBuf, Option<String>) {
    let named = join(folder, name);
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    if last == name || matches!(last, "" | "." | "..") || named.exists() {
        return (named, None);
    }
    let neighbour = folder.join(last);
    if !neighbour.exists() {
        return (named, None);
    }
    let remark = format!("{} is not there; {} in the machine's folder is used instead", shown(name), shown(last));
    (neighbour, Some(remark))
}

/// The folder with a name under it; `.` parts go, so that equal places have equal paths, and `..` stays for the policy.
fn join(folder: &Path, name: &str) -> PathBuf {
    folder.join(name).components().filter(|part| *part != Component::CurDir).collect()
}

/// A name for people, tables and file names: control characters out, cut to [`NAME_CHARS_MAX`].
pub(super) fn printable(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.trim().chars().take(NAME_CHARS_MAX).collect()
}

/// What follows the last dot of a name, in lower case; empty without one.
pub(super) fn lower_extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

/// `56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0` or `{564d1f3a-…}` → lower-case hex in groups of 8-4-4-4-12.
pub(super) fn normal_uuid(text: &str) -> Option<String> {
    let mut digits = String::with_capacity(32);
    for character in text.trim().chars().filter(|c| !matches!(c, ' ' | '-' | '{' | '}')) {
        if !character.is_ascii_hexdigit() || digits.len() == 32 {
            return None;
        }
        digits.push(character.to_ascii_lowercase());
    }
    // All zeros is what a definition has that was never powered on: it would make many machines one.
    if digits.len() != 32 || digits.bytes().all(|digit| digit == b'0') {
        return None;
    }
    let group = |from: usize, to: usize| digits.get(from..to);
    Some([group(0, 8)?, group(8, 12)?, group(12, 16)?, group(16, 20)?, group(20, 32)?].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_names_of_another_host_mean_the_neighbour() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("web1.vmdk"), "").unwrap();
        let neighbour = folder.path().join("web1.vmdk");
        for name in ["/vmfs/volumes/5f3a/web1/web1.vmdk", r"C:\VMs\web1.vmdk", r"..\web1\web1.vmdk"] {
            let (path, remark) = locate(folder.path(), name);
            assert_eq!(path, neighbour, "{name}");
            assert!(remark.unwrap().contains("is used instead"), "{name}");
        }
        assert_eq!(locate(folder.path(), "./web1.vmdk"), (neighbour.clone(), None));
        assert_eq!(locate(folder.path(), neighbour.to_str().unwrap()), (neighbour, None));
        assert_eq!(locate(folder.path(), "/vmfs/none.vmdk"), (PathBuf::from("/vmfs/none.vmdk"), None));
    }

    #[test]
    fn uuids() {
        let uuid = |text: &str| normal_uuid(text);
        let normal = Some("564d1f3a-7720-4c01-9d5e-0a6b2c4481f0".to_owned());
        assert_eq!(uuid("56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0"), normal);
        assert_eq!(uuid("564D1F3A-7720-4C01-9D5E-0A6B2C4481F0"), normal);
        assert_eq!(uuid(" 564d1f3a77204c019d5e0a6b2c4481f0 "), normal);
        assert_eq!(uuid("{564d1f3a-7720-4c01-9d5e-0a6b2c4481f0}"), normal);
        for wrong in ["", "56 4d", "564d1f3a77204c019d5e0a6b2c4481f", "564d1f3a77204c019d5e0a6b2c4481f00", "ü"] {
            assert_eq!(uuid(wrong), None, "{wrong}");
        }
        assert_eq!(uuid("00 00 00 00 00 00 00 00-00 00 00 00 00 00 00 00"), None);
    }
}
