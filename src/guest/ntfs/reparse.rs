//! What a file means besides its content: reparse points, and the special files of Interix (which ntfs-3g makes).
//!
//! Reparse point: 0 tag u32 | 4 length u16 | 8 data. A link's data: 0 place of its target u16, 2 length u16, 4 and 6 of the
//! name to print, 8 flags u32 (not in a junction), then both as UTF-16. Whatever we do not know keeps its file from being
//! read: the content that lies there may be a stub.
//!
//! Source: \[MS-FSCC\] section 2.1.2; the kernel's fs/ntfs3; ntfs-3g's special files were tried.

use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{le_u16, le_u32};

use super::node::Node;
use super::record::{Reference, kind, units};
use super::wof::Packing;
use super::{Ntfs, dos, names};
use crate::guest::GuestError;
use crate::guest::tree::NodeKind;

/// Longest reparse point, by Windows's own limit.
const REPARSE_BYTES_MAX: u64 = 16 << 10;
const HEADER_BYTES: usize = 8;

/// Tags.
mod tag {
    pub const SYMLINK: u32 = 0xa000_000c;
    pub const MOUNT_POINT: u32 = 0xa000_0003;
    pub const LX_SYMLINK: u32 = 0xa000_001d;
    pub const AF_UNIX: u32 = 0x8000_0023;
    pub const LX_FIFO: u32 = 0x8000_0024;
    pub const LX_CHR: u32 = 0x8000_0025;
    pub const LX_BLK: u32 = 0x8000_0026;
    pub const WOF: u32 = 0x8000_0017;
    pub const DEDUP: u32 = 0x8000_0013;
    pub const CLOUD: u32 = 0x9000_001a;
    /// Which of the cloud's tags it is.
    pub const CLOUD_VARIANT: u32 = 0x0000_f000;
    pub const HSM: u32 = 0xc000_0004;
    pub const HSM2: u32 = 0x8000_0006;
    pub const WIM: u32 = 0x8000_0008;
    pub const APP_EXEC_LINK: u32 = 0x8000_001b;
    pub const AZURE_FILE_SYNC: u32 = 0x8000_001e;
    pub const PROJECTED: u32 = 0x9000_001c;
}

/// The target is relative to the link's directory.
const IS_RELATIVE: u32 = 1;
/// A system's own way to write an absolute path.
const NT_PREFIX: &str = r"\??\";

/// What Interix's special files begin with.
const INTERIX_LINK: &[u8] = b"IntxLNK\x01";
const INTERIX_CHARACTER: &[u8] = b"IntxCHR\0";
const INTERIX_BLOCK: &[u8] = b"IntxBLK\0";
/// Longest target of a link there.
const INTERIX_BYTES_MAX: u64 = 8 + 2 * 4096;

/// Directories on the way from the root to a link, at most.
const DEPTH_MAX: usize = 1000;

/// What a file means.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// Its content.
    Plain,
    /// A symbolic link to here.
    Link(Vec<u8>),
    /// A device with its number, pipe or socket.
    Device(NodeKind, Option<(u32, u32)>),
    /// Its content, compressed in a stream of its own.
    Packed(Packing),
    /// Its content is elsewhere, or in a form that we cannot read.
    Elsewhere(&'static str),
}

pub(super) fn meaning(ntfs: &Ntfs, node: &Node) -> Result<Meaning, GuestError> {
    let point = ntfs.small_content(node, kind::REPARSE_POINT, "reparse point", REPARSE_BYTES_MAX)?;
    let meaning = match point {
        Some(point) => of_point(ntfs, node, &point)?,
        None if node.has_dos(dos::SYSTEM) && !node.directory => interix(ntfs, node)?,
        None => Meaning::Plain,
    };
    // Attributes say so even where a driver has taken the reparse point away.
    if matches!(meaning, Meaning::Plain) && !node.directory {
        let offline = node.has_dos(dos::OFFLINE | dos::RECALL_ON_DATA_ACCESS);
        let is_stub = || Ok::<_, GuestError>(ntfs.data(node)?.is_some_and(|data| data.is_all_hole()));
        if offline && is_stub()? || node.has_dos(dos::RECALL_ON_DATA_ACCESS) {
            return Ok(Meaning::Elsewhere("offline"));
        }
    }
    Ok(meaning)
}

fn corrupt(node: &Node, expected: &str, found: String) -> GuestError {
    GuestError::Corrupt { field: "reparse point", at: node.at, expected: expected.to_owned(), found }
}

fn of_point(ntfs: &Ntfs, node: &Node, point: &[u8]) -> Result<Meaning, GuestError> {
    let Ok((_, (tag, len, _))) = (le_u32::<_, nom::error::Error<&[u8]>>, le_u16, le_u16).parse(point) else {
        return Err(corrupt(node, "a tag and a length", format!("{} bytes", point.len())));
    };
    let data = point.get(HEADER_BYTES..HEADER_BYTES + usize::from(len));
    let data = data.ok_or_else(|| corrupt(node, "its data", format!("a length of {len}")))?;
    if node.directory && !matches!(tag, tag::SYMLINK | tag::MOUNT_POINT) {
        // What is special is how its files come here; those that are not here say so themselves.
        return Ok(Meaning::Plain);
    }
    Ok(match tag {
        tag::SYMLINK | tag::MOUNT_POINT => Meaning::Link(windows_link(ntfs, node, tag, data)?),
        tag::LX_SYMLINK => match data.split_first_chunk::<4>() {
            Some((version, target)) if u32::from_le_bytes(*version) == 2 => Meaning::Link(target.to_vec()),
            _ => return Err(corrupt(node, "a link of version 2", format!("{} bytes", data.len()))),
        },
        tag::AF_UNIX => Meaning::Device(NodeKind::Socket, None),
        tag::LX_FIFO => Meaning::Device(NodeKind::Fifo, None),
        tag::LX_CHR => Meaning::Device(NodeKind::CharacterDevice, ntfs.linux_metadata(node)?.device),
        tag::LX_BLK => Meaning::Device(NodeKind::BlockDevice, ntfs.linux_metadata(node)?.device),
        tag::WOF => super::wof::packing(data).map_or_else(Meaning::Elsewhere, Meaning::Packed),
        tag::DEDUP => Meaning::Elsewhere("deduplicated"),
        tag::HSM | tag::HSM2 => Meaning::Elsewhere("on other storage (HSM)"),
        tag::WIM => Meaning::Elsewhere("in a WIM archive"),
        tag::APP_EXEC_LINK => Meaning::Elsewhere("an alias of an app"),
        tag::AZURE_FILE_SYNC => Meaning::Elsewhere("in the cloud (Azure File Sync)"),
        tag::PROJECTED => Meaning::Elsewhere("projected from elsewhere"),
        cloud if cloud & !tag::CLOUD_VARIANT == tag::CLOUD => {
            let away = dos::OFFLINE | dos::RECALL_ON_DATA_ACCESS;
            let is_stub = ntfs.data(node)?.is_some_and(|data| data.is_all_hole());
            if is_stub || node.has_dos(away) { Meaning::Elsewhere("in the cloud") } else { Meaning::Plain }
        }
        _ => Meaning::Elsewhere("a reparse point of an unknown kind"),
    })
}

/// The target of one of Windows's own links, in a form that leads somewhere within the tree where it can.
fn windows_link(ntfs: &Ntfs, node: &Node, tag: u32, data: &[u8]) -> Result<Vec<u8>, GuestError> {
    let whole = || corrupt(node, "a link's target", format!("{} bytes", data.len()));
    let head = (le_u16::<_, nom::error::Error<&[u8]>>, le_u16, take(4usize)).parse(data);
    let Ok((rest, (at, len, _))) = head else { return Err(whole()) };
    let (flags, names) = match tag {
        tag::SYMLINK => rest.split_first_chunk::<4>().map(|(it, rest)| (u32::from_le_bytes(*it), rest)),
        _ => Some((0, rest)),
    }
    .ok_or_else(whole)?;
    let range = usize::from(at)..usize::from(at) + usize::from(len);
    let target: Vec<u16> = units(names.get(range).ok_or_else(whole)?).collect();
    let target = names::to_bytes(&target);
    let slashed = |path: &[u8]| path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect::<Vec<_>>();
    let path = target.strip_prefix(NT_PREFIX.as_bytes()).unwrap_or(&target);
    // Which drive a letter meant cannot be known. A path that exists here is taken for one of this volume.
    let within = match path {
        [letter, b':', rest @ ..] if letter.is_ascii_alphabetic() => Some(rest),
        [b'\\', rest @ ..] if flags & IS_RELATIVE != 0 => Some(rest),
        _ => None,
    };
    if let Some(found) = within.map(|path| on_this_volume(ntfs, node, &slashed(path))).transpose()?.flatten() {
        return Ok(found);
    }
    // Elsewhere: on the drive of that letter, which the guest's own view has in its root; or where only Windows could tell
    // (`\??\Volume{…}\`, `\??\UNC\…`): in full, so that it is no path from the link's own directory.
    Ok(match path {
        [letter, b':', rest @ ..] if letter.is_ascii_alphabetic() => {
            [&[b'/', letter.to_ascii_uppercase(), b':'], &slashed(rest)[..]].concat()
        }
        _ => slashed(&target),
    })
}

/// A path from the root as one from the directory of `link`; `None` if it does not exist.
fn on_this_volume(ntfs: &Ntfs, link: &Node, path: &[u8]) -> Result<Option<Vec<u8>>, GuestError> {
    let Some(depth) = depth(ntfs, link) else { return Ok(None) };
    let mut target = vec![&b".."[..]; depth];
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    // Bare nodes: to ask for the meaning of a directory on the way could lead back here without end.
    let mut directory = Some(ntfs.bare_node(ntfs.root)?);
    while let Some(name) = names.next() {
        target.push(name);
        let Some(here) = directory.take() else { continue };
        let Some(found) = ntfs.find(&here, name).ok().flatten() else { return Ok(None) };
        if names.peek().is_some() {
            // What goes on behind a link cannot be looked up.
            directory = ntfs.bare_node(found).ok().filter(|it| it.directory && !it.has(kind::REPARSE_POINT));
        }
    }
    Ok(Some(if target.is_empty() { b".".to_vec() } else { target.join(&b'/') }))
}

/// How many directories a link's first name lies below the root; `None` if that cannot be told.
fn depth(ntfs: &Ntfs, link: &Node) -> Option<usize> {
    let mut parent: Reference = link.parent?;
    for depth in 0..DEPTH_MAX {
        if parent == ntfs.root {
            return Some(depth);
        }
        let record = ntfs.record(parent).ok().filter(|record| record.directory)?;
        let name = record.resident(kind::FILE_NAME)?;
        parent = Reference(u64::from_le_bytes(*name.first_chunk::<8>()?));
    }
    None
}

/// The special files of Interix: marked as a system's, and their content says the rest.
fn interix(ntfs: &Ntfs, node: &Node) -> Result<Meaning, GuestError> {
    let Some(data) = ntfs.data(node)? else { return Ok(Meaning::Plain) };
    // Windows has empty system files of its own, which are hidden as a rule; ntfs-3g's are not.
    match data.len {
        0 if !node.has_dos(dos::HIDDEN) => return Ok(Meaning::Device(NodeKind::Fifo, None)),
        1 if !node.has_dos(dos::HIDDEN) => return Ok(Meaning::Device(NodeKind::Socket, None)),
        0..=8 => return Ok(Meaning::Plain),
        len if len > INTERIX_BYTES_MAX => return Ok(Meaning::Plain),
        _ => {}
    }
    if data.flags & super::record::flags::ENCRYPTED != 0 {
        return Ok(Meaning::Plain);
    }
    let mut bytes = vec![0; usize::try_from(data.len).expect("about 8 KiB")];
    ntfs.read_content(&data, 0, &mut bytes)?;
    let (magic, rest) = bytes.split_at(INTERIX_LINK.len());
    if magic == INTERIX_LINK {
        return Ok(Meaning::Link(names::to_bytes(&units(rest).collect::<Vec<_>>())));
    }
    let device_kind = match magic {
        INTERIX_CHARACTER => NodeKind::CharacterDevice,
        INTERIX_BLOCK => NodeKind::BlockDevice,
        _ => return Ok(Meaning::Plain),
    };
    let number = |at: usize| {
        let bytes = rest.get(at..at + 8)?.try_into().ok()?;
        u32::try_from(u64::from_le_bytes(bytes)).ok()
    };
    Ok(Meaning::Device(device_kind, number(0).zip(number(8))))
}
