//! Whether the running system uses a device or file: mounted, swapped on, held by another device, behind a loop device.
//!
//! Best effort, for a message that names the user; the exclusive open of block devices is the lock. What the kernel lists
//! is read from `/proc/mounts`, `/proc/swaps` and `/sys` (proc(5), Linux Documentation/ABI). If those cannot be read,
//! nothing is known and nothing refused.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, makedev, minor};

/// Who uses the device or regular file that `target` describes; `None` if nobody known does.
pub(super) fn by_system(target: &fs::Metadata) -> Option<String> {
    let own = Identity::of(target);
    let mut identities = vec![own];
    if let Identity::Device(device) = own {
        let parts = Devices::of(device);
        if let Some(holder) = parts.holder {
            return Some(format!("it is part of {}", holder.display()));
        }
        identities.extend(parts.partitions.into_iter().map(Identity::Device));
    }
    let is_ours = |path: &Path| fs::metadata(path).is_ok_and(|found| identities.contains(&Identity::of(&found)));

    let mounts = fs::read("/proc/mounts").unwrap_or_default();
    // Sources such as `proc` or `host:/export` are no paths, but would be found as such in the current folder.
    let mut mounts = mounted(&mounts).filter(|(source, _)| source.is_absolute());
    if let Some((source, place)) = mounts.find(|(source, _)| is_ours(source)) {
        return Some(format!("{} is mounted on {}", source.display(), place.display()));
    }
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    if let Some(source) = swapped_on(&swaps).find(|source| is_ours(source)) {
        return Some(format!("the system swaps on {}", source.display()));
    }
    let (device, _) = loops().into_iter().find(|(_, backing)| is_ours(backing))?;
    Some(format!("it is behind the loop device {device}"))
}

/// What two names of one thing have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// A block device, by its number.
    Device(u64),
    /// Anything else, by filesystem and inode.
    Inode(u64, u64),
}

impl Identity {
    fn of(found: &fs::Metadata) -> Identity {
        if found.file_type().is_block_device() {
            Identity::Device(found.rdev())
        } else {
            Identity::Inode(found.dev(), found.ino())
        }
    }
}

/// What the kernel has made out of a block device.
struct Devices {
    partitions: Vec<u64>,
    /// A device mapper, RAID or the like that is built on it or on one of its partitions.
    holder: Option<PathBuf>,
}

impl Devices {
    fn of(device: u64) -> Devices {
        let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
        let mut devices = Devices { partitions: Vec::new(), holder: first_holder(&folder) };
        for entry in entries(&folder) {
            if entry.join("partition").exists() {
                devices.partitions.extend(fs::read_to_string(entry.join("dev")).ok().as_deref().and_then(number));
                devices.holder = devices.holder.or_else(|| first_holder(&entry));
            }
        }
        devices
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|list| list.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn first_holder(device: &Path) -> Option<PathBuf> {
    let holder = entries(&device.join("holders")).into_iter().next()?;
    Some(Path::new("/dev").join(holder.file_name()?))
}

/// Loop devices with the files behind them.
fn loops() -> Vec<(String, PathBuf)> {
    let named = |entry: PathBuf| {
        let name = entry.file_name()?.to_str()?.to_owned();
        let mut backing = fs::read(entry.join("loop/backing_file")).ok()?;
        backing.pop_if(|last| *last == b'\n');
        Some((name, PathBuf::from(OsString::from_vec(backing))))
    };
    entries(Path::new("/sys/block")).into_iter().filter_map(named).collect()
}

/// `8:1` as a device number.
fn number(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Source and place of each line of `/proc/mounts`.
fn mounted(text: &[u8]) -> impl Iterator<Item = (PathBuf, PathBuf)> + '_ {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        Some((unescaped(fields.next()?), unescaped(fields.next()?)))
    })
}

/// The first field of each line of `/proc/swaps` but the heading.
fn swapped_on(text: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    let lines = text.split(|b| *b == b'\n').skip(1);
    lines.filter_map(|line| line.split(|b| *b == b' ' || *b == b'\t').next().filter(|f| !f.is_empty()).map(unescaped))
}

/// Undoes the kernel's `\040` for blanks and the like (three octal digits).
fn unescaped(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\').and_then(octal);
        plain.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(plain))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_escapes() {
        let text = b"proc /proc proc rw 0 0\n/dev/sda1 /mnt/a\\040b\\134c ext4 rw 0 0\nnonsense\n";
        let seen: Vec<_> = mounted(text).collect();
        let expected = [("proc", "/proc"), ("/dev/sda1", "/mnt/a b\\c")];
        assert_eq!(seen, expected.map(|(a, b)| (PathBuf::from(a), PathBuf::from(b))));
    }

    #[test]
    fn swaps_are_read_without_the_heading() {
        let text = b"Filename\t\t\t\tType\n/dev/vda2   partition\t1\t0\t-2\n/a\\040file\tfile\t1\t0\t-3\n";
        assert_eq!(swapped_on(text).collect::<Vec<_>>(), [PathBuf::from("/dev/vda2"), PathBuf::from("/a file")]);
        assert_eq!(swapped_on(b"").count(), 0);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for odd in ["\\", "\\0", "\\04", "\\999", "a\\x40", "\\777"] {
            assert_eq!(unescaped(odd.as_bytes()), PathBuf::from(odd));
        }
    }

    #[test]
    fn device_numbers() {
        assert_eq!(number("8:1\n"), Some(makedev(8, 1)));
        assert_eq!(number("8"), None);
        assert_eq!(number("a:b"), None);
    }
}
