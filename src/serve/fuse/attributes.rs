//! What `stat` shows of a node, in the kernel's form.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::guest::tree::{Metadata, NodeKind, Time};

/// What our own folders and files have in common.
#[derive(Clone, Copy)]
pub struct Owner {
    /// Whose they are: the user who mounted.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
}

/// A guest's node.
pub fn of_guest(number: u64, metadata: &Metadata) -> FileAttr {
    let (major, minor) = metadata.device.unwrap_or_default();
    FileAttr {
        ino: INodeNo(number),
        size: metadata.size,
        blocks: metadata.allocated.div_ceil(512),
        atime: system_time(metadata.accessed),
        mtime: system_time(metadata.modified),
        ctime: system_time(metadata.changed),
        crtime: UNIX_EPOCH,
        kind: file_type(metadata.kind),
        perm: metadata.mode,
        nlink: metadata.links,
        uid: metadata.uid,
        gid: metadata.gid,
        rdev: device_number(major, minor),
        blksize: 4096,
        flags: 0,
    }
}

/// Something of our own: readable for all, writable for nobody.
pub fn of_own(number: u64, kind: FileType, size: u64, modified: Time, owner: Owner) -> FileAttr {
    let modified = system_time(modified);
    let directory = kind == FileType::Directory;
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: UNIX_EPOCH,
        kind,
        perm: if directory { 0o555 } else { 0o444 },
        // One, not the true count: programs take 1 for "not counted" and look for themselves.
        nlink: 1,
        uid: owner.uid,
        gid: owner.gid,
        rdev: 0,
        blksize: if directory { 4096 } else { 256 << 10 },
        flags: 0,
    }
}

/// A kind of node as the kernel calls it.
pub fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::CharacterDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
    }
}

/// The latest time shown, and as much before 1970 the earliest: some 34,000 years.
const SECONDS_MAX: i64 = 1 << 40;

/// The nearest that can be shown; a damaged inode may have any time.
fn system_time(time: Time) -> SystemTime {
    let seconds = time.seconds.clamp(-SECONDS_MAX, SECONDS_MAX);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    base + Duration::from_nanos(u64::from(time.nanoseconds.min(999_999_999)))
}

/// The kernel's 32-bit form: twelve bits of the major number between the minor's lower eight and upper twelve.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_beyond_all_clocks() {
        let at = |seconds, nanoseconds| system_time(Time { seconds, nanoseconds });
        assert_eq!(at(0, 5), UNIX_EPOCH + Duration::from_nanos(5));
        assert_eq!(at(-1, 999_999_999), UNIX_EPOCH - Duration::from_nanos(1));
        assert_eq!(at(i64::MIN, u32::MAX), at(-SECONDS_MAX, 999_999_999));
    }

    #[test]
    fn device_numbers_as_the_kernel_packs_them() {
        assert_eq!(device_number(8, 1), 0x801);
        assert_eq!(device_number(0x123, 0x45678), 0x4561_2378);
    }
}
