//! Values of attributes in blocks of their own (`xfs_attr3_rmt_hdr`).
//!
//! Layout of version 5, of every block: `XARM | place in the value 4 | bytes 4 | checksum 4 | uuid 16 | owner 8 | place 8 |
//! sequence 8 | the value's bytes`. In version 4 the value lies in its blocks without anything else.

use nom::Parser;
use nom::bytes::complete::tag;
use nom::number::complete::be_u32;

use crate::guest::GuestError;
use crate::guest::xfs::checksum::REMOTE;
use crate::guest::xfs::corrupt;
use crate::guest::xfs::inode::Inode;
use crate::guest::xfs::volume::Volume;

/// Bytes before the value's in a block of version 5.
const HEADER_BYTES: usize = 56;
const FIELD: &str = "value of an attribute";

/// The value of `len` bytes from that block of the attribute fork; `len` was checked against the longest.
pub(super) fn read(volume: &Volume, inode: &Inode, block: u32, len: u32) -> Result<Vec<u8>, GuestError> {
    let geometry = &volume.geometry;
    let len = usize::try_from(len).expect("at most 64 KiB");
    let header_bytes = if geometry.checksums { HEADER_BYTES } else { 0 };
    let blocks = len.div_ceil(geometry.block_bytes as usize - header_bytes);
    let mut value = Vec::with_capacity(len);
    for number in u64::from(block)..u64::from(block) + blocks as u64 {
        let fork = inode.attributes.as_ref();
        let read = fork.map(|fork| fork.metadata(volume, inode.number, number, 1)).transpose()?.flatten();
        let Some((bytes, at)) = read else {
            let found = format!("a hole at block {number} of inode {}", inode.number);
            return Err(corrupt(FIELD, inode.at, "a stored block", found));
        };
        let wanted = (len - value.len()).min(bytes.len() - header_bytes);
        if geometry.checksums {
            let header: nom::IResult<&[u8], _> = (tag(&b"XARM"[..]), be_u32, be_u32).parse(&bytes);
            let Ok((_, (_, from, here))) = header else {
                return Err(corrupt(FIELD, at, "the magic XARM", bytes[..4].escape_ascii()));
            };
            REMOTE.check(FIELD, &bytes, at, inode.number, geometry)?;
            if usize::try_from(from) != Ok(value.len()) || usize::try_from(here) != Ok(wanted) {
                let expected = format!("{wanted} bytes from {}", value.len());
                return Err(corrupt(FIELD, at, expected, format!("{here} bytes from {from}")));
            }
        }
        value.extend_from_slice(&bytes[header_bytes..header_bytes + wanted]);
    }
    Ok(value)
}
