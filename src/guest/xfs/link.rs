//! Targets of symbolic links: in the inode, or in blocks of their own (`xfs_dsymlink_hdr`).
//!
//! Layout of version 5, of every run of blocks: `XSLM | place in the target 4 | bytes 4 | checksum 4 | uuid 16 | owner 8 |
//! place 8 | sequence 8 | the target's bytes`. In version 4 the target lies in its blocks without anything else.

use nom::Parser;
use nom::bytes::complete::tag;
use nom::number::complete::be_u32;

use super::checksum::REMOTE;
use super::corrupt;
use super::fork::{Fork, Runs, Stored};
use super::inode::Inode;
use super::volume::Volume;
use crate::guest::GuestError;

/// Longest target (`XFS_SYMLINK_MAXLEN`).
const TARGET_BYTES_MAX: u64 = 1024;
/// Bytes before the target's in a run of blocks of version 5.
const HEADER_BYTES: usize = 56;
const FIELD: &str = "symbolic link";

/// Where a link leads.
pub(crate) fn read(volume: &Volume, link: &Inode) -> Result<Vec<u8>, GuestError> {
    if let Fork::Local(target) = &link.data {
        return Ok(target.clone());
    }
    let size = link.metadata.size;
    let Some(len) = usize::try_from(size).ok().filter(|_| (1..=TARGET_BYTES_MAX).contains(&size)) else {
        return Err(corrupt(FIELD, link.at, format!("1 to {TARGET_BYTES_MAX} bytes"), size));
    };
    let geometry = &volume.geometry;
    let header_bytes = if geometry.checksums { HEADER_BYTES } else { 0 };
    let mut target = Vec::with_capacity(len);
    // At worst every block is a run of its own, with a header.
    let blocks = len.div_ceil(geometry.block_bytes as usize - header_bytes) as u64;
    let mut runs = Runs::new(volume, &link.data, link.number, 0, blocks);
    while let Some(run) = runs.next()?
        && target.len() < len
    {
        let Stored::At(at) = run.what else {
            return Err(corrupt(FIELD, link.at, "a stored block", format!("none for block {}", run.offset)));
        };
        let bytes = volume.metadata(at, (run.count << geometry.block_log) as usize)?; // at most three blocks
        let wanted = (len - target.len()).min(bytes.len() - header_bytes);
        if geometry.checksums {
            let header: nom::IResult<&[u8], _> = (tag(&b"XSLM"[..]), be_u32, be_u32).parse(&bytes);
            let Ok((_, (_, from, here))) = header else {
                return Err(corrupt(FIELD, at, "the magic XSLM", bytes[..4].escape_ascii()));
            };
            REMOTE.check(FIELD, &bytes, at, link.number, geometry)?;
            if usize::try_from(from) != Ok(target.len()) || usize::try_from(here) != Ok(wanted) {
                let expected = format!("{wanted} bytes from {}", target.len());
                return Err(corrupt(FIELD, at, expected, format!("{here} bytes from {from}")));
            }
        }
        target.extend_from_slice(&bytes[header_bytes..header_bytes + wanted]);
    }
    if target.len() < len {
        return Err(corrupt(FIELD, link.at, format!("{len} bytes"), target.len()));
    }
    Ok(target)
}
