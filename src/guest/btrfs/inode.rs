//! Inodes (`btrfs_inode_item`): raw → checked.

use nom::bytes::complete::take;
use nom::number::complete::{le_i64, le_u32, le_u64};
use nom::{IResult, Parser};

use super::cursor::Cursor;
use super::key::{Key, kind, object};
use super::subvolumes;
use super::superblock::{Root, Superblock};
use super::volume::Volume;
use super::{corrupt, too_short};
use crate::guest::GuestError;
use crate::guest::tree::{Metadata, NodeId, NodeKind, Time};

/// The empty directory that stands where a snapshot has the name of a subvolume which is not in it. It has no item.
pub(crate) const EMPTY_DIRECTORY: u64 = 2;
/// In the flags: content has no checksums.
const NO_CHECKSUMS: u64 = 1;

/// The item's fields that we use, in their order.
struct RawInode {
    size: u64,
    bytes: u64,
    links: u32,
    uid: u32,
    gid: u32,
    mode: u32,
    device: u64,
    flags: u64,
    accessed: Time,
    changed: Time,
    modified: Time,
    created: Time,
}

/// Takes an inode apart; fails only on too few bytes.
fn raw_inode(input: &[u8]) -> IResult<&[u8], RawInode> {
    let (input, (_generation, _transaction, size, bytes, _group)) =
        (le_u64, le_u64, le_u64, le_u64, le_u64).parse(input)?;
    let (input, (links, uid, gid, mode, device, flags)) =
        (le_u32, le_u32, le_u32, le_u32, le_u64, le_u64).parse(input)?;
    let (input, (_sequence_and_reserved, accessed, changed, modified, created)) =
        (take(40usize), time, time, time, time).parse(input)?;
    Ok((input, RawInode { size, bytes, links, uid, gid, mode, device, flags, accessed, changed, modified, created }))
}

fn time(input: &[u8]) -> IResult<&[u8], Time> {
    let (rest, (seconds, nanoseconds)) = (le_i64, le_u32).parse(input)?;
    // A damaged fraction is no reason to refuse the file.
    Ok((rest, Time { seconds, nanoseconds: nanoseconds.min(999_999_999) }))
}

/// An inode whose kind is known.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub node: NodeId,
    /// The subvolume's tree.
    pub root: Root,
    /// Where its item lies on the volume.
    pub at: u64,
    pub metadata: Metadata,
    /// Whether its content should have checksums.
    pub has_checksums: bool,
}

/// Reads and checks an inode of the subvolume that begins at `root`.
pub(crate) fn read(volume: &Volume, root: Root, node: NodeId) -> Result<Inode, GuestError> {
    if node.number == EMPTY_DIRECTORY {
        return Ok(empty_directory(&read(volume, root, NodeId { number: object::FIRST_FREE, ..node })?, node));
    }
    if !(object::FIRST_FREE..=object::LAST_FREE).contains(&node.number) {
        return Err(GuestError::NoSuchNode { node });
    }
    let wanted = Key::new(node.number, kind::INODE, 0);
    let cursor = Cursor::from(volume, &root, wanted)?;
    let Some(item) = cursor.item().filter(|item| item.key == wanted) else {
        return Err(GuestError::NoSuchNode { node });
    };
    let (_, raw) = raw_inode(item.bytes).map_err(|_| too_short("inode", item.at))?;
    let has_checksums = raw.flags & NO_CHECKSUMS == 0;
    Ok(Inode { node, root, at: item.at, metadata: raw.validate(item.at, &volume.superblock)?, has_checksums })
}

/// The root of the tree that a node is in.
pub(crate) fn root_of(volume: &Volume, node: NodeId) -> Result<Root, GuestError> {
    let root = if subvolumes::is_subvolume(node.tree) { subvolumes::root(volume, node.tree)? } else { None };
    root.ok_or(GuestError::NoSuchNode { node })
}

/// What the kernel makes up for it, with the owner and times of the snapshot's own root.
fn empty_directory(of: &Inode, node: NodeId) -> Inode {
    let metadata =
        Metadata { kind: NodeKind::Directory, size: 0, allocated: 0, mode: 0o755, links: 1, ..of.metadata.clone() };
    Inode { node, metadata, ..of.clone() }
}

impl RawInode {
    fn validate(self, at: u64, superblock: &Superblock) -> Result<Metadata, GuestError> {
        let Some(kind) = kind_of_mode(self.mode) else {
            return Err(corrupt("inode mode", at, "a known kind of file", format!("{:#o}", self.mode)));
        };
        if i64::try_from(self.size).is_err() {
            return Err(corrupt("file size", at, "less than 2^63", self.size));
        }
        // The kernel's own form, narrower than its field: 12 bits of major number, 20 of minor.
        let device = match (kind, u32::try_from(self.device)) {
            (NodeKind::BlockDevice | NodeKind::CharacterDevice, Ok(number)) => Some((number >> 20, number & 0xf_ffff)),
            (NodeKind::BlockDevice | NodeKind::CharacterDevice, Err(_)) => {
                return Err(corrupt("device number", at, "less than 2^32", self.device));
            }
            _ => None,
        };
        Ok(Metadata {
            kind,
            size: self.size,
            allocated: superblock.round_up(self.bytes).unwrap_or(self.bytes),
            mode: u16::try_from(self.mode & 0o7777).expect("twelve bits"),
            uid: self.uid,
            gid: self.gid,
            links: self.links,
            device,
            modified: self.modified,
            accessed: self.accessed,
            changed: self.changed,
            // Old kernels left it empty.
            created: (self.created != Time::default()).then_some(self.created),
            attributes: None,
            special: None,
        })
    }
}

fn kind_of_mode(mode: u32) -> Option<NodeKind> {
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
