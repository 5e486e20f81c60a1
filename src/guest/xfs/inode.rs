//! Inodes: raw (`xfs_dinode`) → checked.
//!
//! Layout: `core 100 (version 3: 176) | data fork | attribute fork`; the second fork begins at `forkoff` × 8 after the
//! core, or there is none.

use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use super::fork::{Fork, ForkFormat};
use super::superblock::uuid;
use super::volume::Volume;
use super::{checksum, corrupt, too_short};
use crate::guest::GuestError;
use crate::guest::tree::{Metadata, NodeId, NodeKind, Time};

/// The magic, `IN`.
pub(crate) const MAGIC: u16 = 0x494e;
/// Bytes of the core of versions 1 and 2.
const CORE_BYTES_V2: usize = 100;
/// Bytes of the core of version 3.
const CORE_BYTES_V3: usize = 176;
/// Where the checksum lies (version 3).
pub(crate) const CHECKSUM_AT: usize = 100;
/// `di_flags`: the content lies on the realtime device.
const REALTIME: u16 = 1;
/// `di_flags2`: times are nanoseconds since 1901.
const BIG_TIME: u64 = 1 << 3;
/// `di_flags2`: extents are counted in wider fields.
const LARGE_EXTENT_COUNTS: u64 = 1 << 4;
/// `di_flags2`: the filesystem's own, in no directory of the user's.
const METADATA: u64 = 1 << 5;
/// Seconds from the first instant of big times to 1970.
const BIG_TIME_EPOCH: i64 = 1 << 31;

/// The core's fields that we use, in their order; those of version 3 are 0 in older ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawInode {
    pub magic: u16,
    pub mode: u16,
    pub version: u8,
    pub format: u8,
    pub old_links: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub big_extents: u64,
    pub accessed: u64,
    pub modified: u64,
    pub changed: u64,
    pub size: u64,
    pub blocks: u64,
    pub extents: u32,
    pub attribute_extents: u16,
    pub fork_offset: u8,
    pub attribute_format: u8,
    pub flags: u16,
    pub flags2: u64,
    pub created: u64,
    pub number: u64,
    pub uuid: [u8; 16],
}

/// Takes a core apart; fails only on too few bytes.
fn core(input: &[u8]) -> IResult<&[u8], RawInode> {
    let (input, (magic, mode, version, format, old_links)) = (be_u16, be_u16, be_u8, be_u8, be_u16).parse(input)?;
    let (input, (uid, gid, links, _project, big_extents)) = (be_u32, be_u32, be_u32, be_u32, be_u64).parse(input)?;
    let (input, (accessed, modified, changed, size, blocks)) = (be_u64, be_u64, be_u64, be_u64, be_u64).parse(input)?;
    let (input, (_hint, extents, attribute_extents)) = (be_u32, be_u32, be_u16).parse(input)?;
    let (input, (fork_offset, attribute_format, _dmapi, flags)) = (be_u8, be_u8, take(6usize), be_u16).parse(input)?;
    let (mut input, (_generation, _next_unlinked)) = (be_u32, be_u32).parse(input)?;
    let (mut flags2, mut created, mut number, mut id) = (0, 0, 0, [0; 16]);
    if version >= 3 {
        (input, (_, _, _, flags2, _)) = (be_u32, be_u64, be_u64, be_u64, take(16usize)).parse(input)?;
        (input, (created, number, id)) = (be_u64, be_u64, uuid).parse(input)?;
    }
    let raw = RawInode {
        magic,
        mode,
        version,
        format,
        old_links,
        uid,
        gid,
        links,
        big_extents,
        accessed,
        modified,
        changed,
        size,
        blocks,
        extents,
        attribute_extents,
        fork_offset,
        attribute_format,
        flags,
        flags2,
        created,
        number,
        uuid: id,
    };
    Ok((input, raw))
}

/// An inode whose forks have a form that its kind may have.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub number: u64,
    /// Where it lies on the volume.
    pub at: u64,
    pub metadata: Metadata,
    pub data: Fork,
    pub attributes: Option<Fork>,
    /// Its content lies on the realtime device.
    pub realtime: bool,
}

/// Reads and checks an inode.
pub(crate) fn read(volume: &Volume, node: NodeId) -> Result<Inode, GuestError> {
    let geometry = &volume.geometry;
    let place = (node.tree == 0).then(|| geometry.inode_place(node.number)).flatten();
    let Some(at) = place.filter(|_| !geometry.hidden.contains(&node.number)) else {
        return Err(GuestError::NoSuchNode { node });
    };
    let bytes = volume.metadata(at, geometry.inode_bytes)?;
    let (_, raw) = core(&bytes).map_err(|_| too_short("inode", at))?;
    if raw.magic != MAGIC {
        // Blocks of inodes are never given back half: what is no inode never was one.
        return Err(corrupt("inode", at, "the magic IN", format!("{:#06x}", raw.magic)));
    }
    if geometry.checksums {
        checksum::check("inode", &bytes, CHECKSUM_AT, at)?;
    }
    raw.validate(volume, node, at, &bytes)
}

impl RawInode {
    fn validate(self, volume: &Volume, node: NodeId, at: u64, bytes: &[u8]) -> Result<Inode, GuestError> {
        let wrong = |field, expected: String, found: String| Err(corrupt(field, at, expected, found));
        let core_bytes = match (volume.geometry.checksums, self.version) {
            (true, 3) => CORE_BYTES_V3,
            (false, 1 | 2) => CORE_BYTES_V2,
            (true, other) => return wrong("inode version", "3".into(), other.to_string()),
            (false, other) => return wrong("inode version", "1 or 2".into(), other.to_string()),
        };
        if core_bytes == CORE_BYTES_V3 && self.number != node.number {
            return wrong("inode", format!("inode {}", node.number), format!("inode {}", self.number));
        }
        if core_bytes == CORE_BYTES_V3 && self.uuid != volume.geometry.meta_uuid {
            return wrong("inode", "one of this filesystem".into(), "one of another".into());
        }
        // Free inodes have mode 0; those of the filesystem itself are nobody's business.
        if self.mode == 0 || self.flags2 & METADATA != 0 {
            return Err(GuestError::NoSuchNode { node });
        }
        let Some(kind) = kind_of_mode(self.mode) else {
            return wrong("inode mode", "a known kind of file".into(), format!("{:#o}", self.mode));
        };
        if i64::try_from(self.size).is_err() {
            return wrong("file size", "less than 2^63".into(), self.size.to_string());
        }
        let forks = &bytes[core_bytes..];
        let fork_offset = usize::from(self.fork_offset) * 8;
        if fork_offset > forks.len() {
            let expected = format!("at most {} bytes", forks.len());
            return wrong("attribute fork", expected, format!("offset {fork_offset}"));
        }
        let data_end = if fork_offset == 0 { forks.len() } else { fork_offset };
        let (extents, attribute_extents) = if self.flags2 & LARGE_EXTENT_COUNTS != 0 {
            (self.big_extents, self.extents)
        } else {
            (self.extents.into(), self.attribute_extents.into())
        };
        let data_format = ForkFormat { code: self.format, extents, size: self.size };
        let data = data_format.read(kind, &forks[..data_end], at, volume)?;
        let attributes = if fork_offset == 0 {
            None
        } else {
            let format = ForkFormat { code: self.attribute_format, extents: attribute_extents.into(), size: 0 };
            Some(format.read_attributes(&forks[fork_offset..], at, volume)?)
        };
        let realtime = self.flags & REALTIME != 0 && kind == NodeKind::File;
        let metadata = self.metadata(kind, &data, volume);
        Ok(Inode { number: node.number, at, metadata, data, attributes, realtime })
    }

    fn metadata(&self, kind: NodeKind, data: &Fork, volume: &Volume) -> Metadata {
        let device = match data {
            Fork::Device(number) if matches!(kind, NodeKind::BlockDevice | NodeKind::CharacterDevice) => {
                Some((number >> 18 & 0x3fff, number & 0x3_ffff))
            }
            _ => None,
        };
        Metadata {
            kind,
            size: self.size,
            allocated: self.blocks.saturating_mul(volume.geometry.block_bytes),
            mode: self.mode & 0o7777,
            uid: self.uid,
            gid: self.gid,
            links: if self.version == 1 { self.old_links.into() } else { self.links },
            device,
            modified: self.time(self.modified),
            accessed: self.time(self.accessed),
            changed: self.time(self.changed),
            created: (self.version >= 3).then(|| self.time(self.created)),
            attributes: None,
            special: None,
        }
    }

    fn time(&self, stored: u64) -> Time {
        const NANOSECONDS: u64 = 1_000_000_000;
        if self.flags2 & BIG_TIME != 0 {
            let seconds = i64::try_from(stored / NANOSECONDS).expect("2^64 / 10^9 is below 2^63") - BIG_TIME_EPOCH;
            let nanoseconds = u32::try_from(stored % NANOSECONDS).expect("below 10^9");
            return Time { seconds, nanoseconds };
        }
        let bytes = stored.to_be_bytes();
        let seconds = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let nanoseconds = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        // A damaged fraction is no reason to refuse the file.
        Time { seconds: seconds.into(), nanoseconds: nanoseconds.min(999_999_999) }
    }
}

fn kind_of_mode(mode: u16) -> Option<NodeKind> {
    Some(match mode >> 12 {
        0o01 => NodeKind::Fifo,
        0o02 => NodeKind::CharacterDevice,
        0o04 => NodeKind::Directory,
        0o06 => NodeKind::BlockDevice,
        0o10 => NodeKind::File,
        0o12 => NodeKind::Symlink,
        0o14 => NodeKind::Socket,
        _ => return None,
    })
}

impl Inode {
    /// Refuses a node of another kind.
    pub fn expect(&self, kind: NodeKind) -> Result<(), GuestError> {
        if self.metadata.kind == kind {
            return Ok(());
        }
        Err(GuestError::WrongKind { expected: kind.noun(), found: self.metadata.kind.noun() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(flags2: u64, stored: u64, seconds: i64, nanoseconds: u32) {
        let mut bytes = [0; 176];
        bytes[4] = 3;
        bytes[120..128].copy_from_slice(&flags2.to_be_bytes());
        let (_, raw) = core(&bytes).expect("whole");
        assert_eq!(raw.time(stored), Time { seconds, nanoseconds });
    }

    #[test]
    fn times_of_both_kinds() {
        check(0, 0, 0, 0);
        check(0, (0xffff_ffff << 32) | 5, -1, 5);
        check(0, 0x7fff_ffff_3b9a_c9ff, 0x7fff_ffff, 999_999_999);
        check(0, u64::MAX, -1, 999_999_999);
        check(BIG_TIME, 0, -(1 << 31), 0);
        check(BIG_TIME, (1 << 31) * 1_000_000_000 + 7, 0, 7);
        check(BIG_TIME, u64::MAX, 18_446_744_073 - (1 << 31), 709_551_615);
    }
}
