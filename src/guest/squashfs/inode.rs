//! Inodes: raw (`squashfs_*_inode`, `squashfs_l*_inode`) → checked.
//!
//! Layout: `kind 2 | permissions 2 | owner 2 | group 2 | modified 4 | number 4 |` and by kind, small and (*) large:
//! - directory `block 4 | links 4 | bytes 2 | offset 2 | parent 4`; * `links 4 | bytes 4 | block 4 | parent 4 | steps of its
//!   index 2 | offset 2 | attributes 4 | index`
//! - file `start 4 | fragment 4 | offset 4 | size 4 | lengths of blocks 4 × n`; * `start 8 | size 8 | holes 8 | links 4 |
//!   fragment 4 | offset 4 | attributes 4 | lengths of blocks`
//! - link `links 4 | length 4 | target`; device `links 4 | device 4`; pipe and socket `links 4`; * and `attributes 4`

use super::corrupt;
use super::metadata::{Cursor, Place, Table};
use super::volume::Volume;
use crate::guest::GuestError;
use crate::guest::tree::{Metadata, NodeId, NodeKind, Time};

/// Kinds from here on are the large forms of those from 1 on.
const LARGE: u16 = 7;
/// What stands where there is no fragment, and no attributes.
const NONE: u32 = u32::MAX;
/// Longest target of a link: the kernel takes a page, which is at most this much.
const TARGET_BYTES_MAX: u32 = 64 << 10;

/// A checked inode.
pub(crate) struct Inode {
    pub metadata: Metadata,
    /// Which list of attributes it has.
    pub attributes: Option<u32>,
    pub content: Content,
}

/// What an inode leads to.
pub(crate) enum Content {
    Directory(Directory),
    File(File),
    Link(Vec<u8>),
    None,
}

/// Where a directory's entries are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory {
    pub place: Place,
    /// Bytes of entries.
    pub len: u32,
    /// Steps of its index, and where they begin.
    pub steps: u16,
    pub index: Place,
}

/// Where a file's content is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    /// Where its first block lies on the volume.
    pub start: u64,
    pub size: u64,
    /// Fragment by number, and where its end begins in that.
    pub fragment: Option<(u32, u32)>,
    /// Where the lengths of its blocks begin.
    pub lengths: Place,
}

/// The kind of an entry or inode, of either form.
pub(crate) fn kind(code: u16) -> Option<NodeKind> {
    Some(match code {
        1 | 8 => NodeKind::Directory,
        2 | 9 => NodeKind::File,
        3 | 10 => NodeKind::Symlink,
        4 | 11 => NodeKind::BlockDevice,
        5 | 12 => NodeKind::CharacterDevice,
        6 | 13 => NodeKind::Fifo,
        7 | 14 => NodeKind::Socket,
        _ => return None,
    })
}

/// Reads and checks an inode.
pub(crate) fn read(volume: &Volume, node: NodeId) -> Result<Inode, GuestError> {
    if node.tree != 0 || node.number >> 48 != 0 {
        return Err(GuestError::NoSuchNode { node });
    }
    let place = Place::of_reference(volume.superblock.inode_table, node.number);
    let cursor = &mut Cursor::new(volume, place);
    let (code, mode, owner, group) = (cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?);
    let (modified, _number) = (cursor.u32()?, cursor.u32()?);
    let Some(kind) = kind(code) else {
        return Err(corrupt("inode", place.block, "a kind from 1 to 14", code));
    };
    let found = match (kind, code > LARGE) {
        (NodeKind::Directory, false) => small_directory(volume, cursor)?,
        (NodeKind::Directory, true) => large_directory(volume, cursor)?,
        (NodeKind::File, false) => small_file(cursor)?,
        (NodeKind::File, true) => large_file(cursor)?,
        (NodeKind::Symlink, large) => link(cursor, large)?,
        (NodeKind::BlockDevice | NodeKind::CharacterDevice, large) => device(cursor, large)?,
        (NodeKind::Fifo | NodeKind::Socket, large) => pipe(cursor, large)?,
    };
    let ids = Table { field: "table of owners", at: volume.superblock.id_table, len: volume.superblock.ids };
    let id = |index: u16| ids.entry(volume, index.into(), 4)?.u32();
    let time = Time { seconds: modified.into(), nanoseconds: 0 };
    let metadata = Metadata {
        kind,
        size: found.size,
        allocated: found.allocated.div_ceil(512).saturating_mul(512),
        mode: mode & 0o7777,
        uid: id(owner)?,
        gid: id(group)?,
        links: found.links,
        device: found.device,
        modified: time,
        accessed: time,
        changed: time,
        created: None,
        attributes: None,
        special: None,
    };
    let attributes = Some(found.attributes).filter(|index| *index != NONE);
    Ok(Inode { metadata, attributes, content: found.content })
}

/// What depends on the kind.
struct Found {
    size: u64,
    /// Bytes that are not holes.
    allocated: u64,
    links: u32,
    device: Option<(u32, u32)>,
    attributes: u32,
    content: Content,
}

impl Found {
    fn of_directory(links: u32, attributes: u32, bytes: u32, directory: Directory) -> Found {
        let content = Content::Directory(directory);
        Found { size: bytes.into(), allocated: 0, links, device: None, attributes, content }
    }
}

/// Bytes that a directory's length counts for `.` and `..`, which are not there.
const DOTS: u32 = 3;

fn small_directory(volume: &Volume, cursor: &mut Cursor<'_>) -> Result<Found, GuestError> {
    let (block, links, bytes) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
    let (offset, _parent) = (cursor.u16()?, cursor.u32()?);
    let place = directory_place(volume, block, offset);
    let directory = Directory { place, len: u32::from(bytes).saturating_sub(DOTS), steps: 0, index: cursor.place() };
    Ok(Found::of_directory(links, NONE, bytes.into(), directory))
}

fn large_directory(volume: &Volume, cursor: &mut Cursor<'_>) -> Result<Found, GuestError> {
    let (links, bytes, block, _parent) = (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let (steps, offset, attributes) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
    let place = directory_place(volume, block, offset);
    let directory = Directory { place, len: bytes.saturating_sub(DOTS), steps, index: cursor.place() };
    Ok(Found::of_directory(links, attributes, bytes, directory))
}

fn directory_place(volume: &Volume, block: u32, offset: u16) -> Place {
    Place { block: volume.superblock.directory_table + u64::from(block), offset: offset.into() }
}

fn small_file(cursor: &mut Cursor<'_>) -> Result<Found, GuestError> {
    let (start, fragment, offset, size) = (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let size = u64::from(size);
    file(cursor, start.into(), size, 0, 1, (fragment, offset), NONE)
}

fn large_file(cursor: &mut Cursor<'_>) -> Result<Found, GuestError> {
    let (start, size, holes, links) = (cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u32()?);
    let (fragment, offset, attributes) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    file(cursor, start, size, holes, links, (fragment, offset), attributes)
}

fn file(
    cursor: &mut Cursor<'_>,
    start: u64,
    size: u64,
    holes: u64,
    links: u32,
    fragment: (u32, u32),
    attributes: u32,
) -> Result<Found, GuestError> {
    let place = cursor.place();
    if i64::try_from(size).is_err() {
        return Err(corrupt("file size", place.block, "less than 2^63", size));
    }
    let fragment = Some(fragment).filter(|(number, _)| *number != NONE);
    let content = Content::File(File { start, size, fragment, lengths: place });
    Ok(Found { size, allocated: size.saturating_sub(holes), links, device: None, attributes, content })
}

fn link(cursor: &mut Cursor<'_>, large: bool) -> Result<Found, GuestError> {
    let at = cursor.place().block;
    let (links, len) = (cursor.u32()?, cursor.u32()?);
    if len > TARGET_BYTES_MAX {
        return Err(corrupt("link target", at, format!("at most {TARGET_BYTES_MAX} bytes"), format!("{len} bytes")));
    }
    let target = cursor.bytes(usize::try_from(len).expect("at most 64 KiB"))?;
    let attributes = if large { cursor.u32()? } else { NONE };
    Ok(Found { size: len.into(), allocated: 0, links, device: None, attributes, content: Content::Link(target) })
}

fn device(cursor: &mut Cursor<'_>, large: bool) -> Result<Found, GuestError> {
    let (links, number) = (cursor.u32()?, cursor.u32()?);
    let attributes = if large { cursor.u32()? } else { NONE };
    let device = Some((number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00));
    Ok(Found { size: 0, allocated: 0, links, device, attributes, content: Content::None })
}

fn pipe(cursor: &mut Cursor<'_>, large: bool) -> Result<Found, GuestError> {
    let links = cursor.u32()?;
    let attributes = if large { cursor.u32()? } else { NONE };
    Ok(Found { size: 0, allocated: 0, links, device: None, attributes, content: Content::None })
}
