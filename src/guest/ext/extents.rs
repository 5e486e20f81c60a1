//! Extent trees: which blocks of the volume a file's blocks lie in.
//!
//! A node is a header of 12 bytes and entries of 12: extents in leaves, pointers to nodes above. The root lies in the inode.
//! Every step down must be to a lower depth, so a tree that points at itself ends as damage.
//!
//! Source: Linux Documentation/filesystems/ext4/ifork.rst, "Extent Tree".

use nom::number::complete::{le_u16, le_u32};
use nom::{IResult, Parser};

use super::checksum::crc32c;
use super::content::{Run, RunKind};
use super::inode::Inode;
use super::volume::{Bytes, Volume};
use crate::guest::GuestError;

const MAGIC: u16 = 0xf30a;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 12;
/// Deepest tree: five levels of full nodes hold more than 2^32 blocks even in the smallest blocks.
const DEPTH_MAX: u16 = 5;
/// Longer extents are unwritten ones, of so much less.
const WRITTEN_BLOCKS_MAX: u16 = 0x8000;
/// A file's blocks have numbers of 32 bits.
const FILE_BLOCKS: u64 = 1 << 32;

struct RawHeader {
    magic: u16,
    entries: u16,
    max: u16,
    depth: u16,
}

fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (rest, (magic, entries, max, depth, _generation)) = (le_u16, le_u16, le_u16, le_u16, le_u32).parse(input)?;
    Ok((rest, RawHeader { magic, entries, max, depth }))
}

/// An entry of a leaf.
struct RawExtent {
    block: u32,
    len: u16,
    start_high: u16,
    start_low: u32,
}

fn extent(input: &[u8]) -> IResult<&[u8], RawExtent> {
    let (rest, (block, len, start_high, start_low)) = (le_u32, le_u16, le_u16, le_u32).parse(input)?;
    Ok((rest, RawExtent { block, len, start_high, start_low }))
}

/// An entry above the leaves: its first block, and the node's.
fn index(input: &[u8]) -> IResult<&[u8], (u32, u64)> {
    let (rest, (block, leaf_low, leaf_high, _unused)) = (le_u32, le_u32, le_u16, le_u16).parse(input)?;
    Ok((rest, (block, u64::from(leaf_high) << 32 | u64::from(leaf_low))))
}

/// The run of a file's blocks that begins with `block`.
pub(super) fn run_at(volume: &Volume, inode: &Inode, checksums: bool, block: u64) -> Result<Run, GuestError> {
    if block >= FILE_BLOCKS {
        return Ok(Run { kind: RunKind::Hole, len: u64::MAX - block });
    }
    let mut node = inode.map();
    let mut depth_expected = None;
    // First block that belongs to the next node, if not to a later one.
    let mut end = FILE_BLOCKS;
    loop {
        let header = checked_header(&node, depth_expected)?;
        if checksums && depth_expected.is_some() {
            check_checksum(inode.checksum_seed, &node, header.max)?;
        }
        let entries = &node[HEADER_BYTES..HEADER_BYTES + usize::from(header.entries) * ENTRY_BYTES];
        if header.depth == 0 {
            return in_leaf(volume, &node, entries, block, end);
        }
        let mut child = None;
        let mut last = None;
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let (_, (first, leaf)) = index(entry).expect("twelve bytes");
            let first = u64::from(first);
            if last.is_some_and(|last| first <= last) {
                return Err(disorder(&node, first));
            }
            last = Some(first);
            if first > block {
                end = end.min(first);
                break;
            }
            child = Some(leaf);
        }
        let Some(child) = child else { return Ok(Run { kind: RunKind::Hole, len: hole(block, end) }) };
        volume.check_run("node of an extent tree", node.at, child, 1)?;
        node = volume.block(child)?;
        depth_expected = Some(header.depth - 1);
    }
}

/// Length of a hole from `block` to `end`; damage may put the end before it.
fn hole(block: u64, end: u64) -> u64 {
    end.saturating_sub(block).max(1)
}

fn checked_header(node: &Bytes, depth_expected: Option<u16>) -> Result<RawHeader, GuestError> {
    let (_, header) = header(node).expect("a node has room for its header");
    let corrupt = |field, expected: String, found: u16| GuestError::Corrupt {
        field,
        at: node.at,
        expected,
        found: format!("{found:#x}"),
    };
    if header.magic != MAGIC {
        return Err(corrupt("magic of an extent node", format!("{MAGIC:#x}"), header.magic));
    }
    let room = (node.len() - HEADER_BYTES) / ENTRY_BYTES;
    if usize::from(header.max) > room {
        return Err(corrupt("room in an extent node", format!("at most {room:#x}"), header.max));
    }
    // Above the leaves an empty node has no meaning.
    let least = u16::from(header.depth > 0);
    if header.entries > header.max || header.entries < least {
        return Err(corrupt("entries of an extent node", format!("{least} to {:#x}", header.max), header.entries));
    }
    match depth_expected {
        Some(depth) if header.depth != depth => {
            Err(corrupt("depth of an extent node", format!("{depth:#x}"), header.depth))
        }
        None if header.depth > DEPTH_MAX => {
            Err(corrupt("depth of an extent tree", format!("at most {DEPTH_MAX:#x}"), header.depth))
        }
        _ => Ok(header),
    }
}

fn check_checksum(seed: u32, node: &Bytes, max: u16) -> Result<(), GuestError> {
    let at = HEADER_BYTES + usize::from(max) * ENTRY_BYTES;
    let stored = node.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")));
    let sum = crc32c(seed, &node[..at]);
    if stored == Some(sum) {
        return Ok(());
    }
    Err(GuestError::Corrupt {
        field: "checksum of an extent node",
        at: node.at,
        expected: format!("{sum:#010x}"),
        found: stored.map_or_else(|| "no room for one".to_owned(), |stored| format!("{stored:#010x}")),
    })
}

fn in_leaf(volume: &Volume, node: &Bytes, entries: &[u8], block: u64, end: u64) -> Result<Run, GuestError> {
    let mut covered = 0;
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let (_, raw) = extent(entry).expect("twelve bytes");
        let first = u64::from(raw.block);
        let (len, written) = match raw.len {
            len @ ..=WRITTEN_BLOCKS_MAX => (u64::from(len), true),
            len => (u64::from(len - WRITTEN_BLOCKS_MAX), false),
        };
        let next = first + len;
        if first < covered || len == 0 || next > FILE_BLOCKS {
            return Err(disorder(node, first));
        }
        covered = next;
        if block < first {
            return Ok(Run { kind: RunKind::Hole, len: hole(block, end.min(first)) });
        }
        if block >= next {
            continue;
        }
        let start = u64::from(raw.start_high) << 32 | u64::from(raw.start_low);
        volume.check_run("extent", node.at, start, len)?;
        let kind = if written { RunKind::Data(start + (block - first)) } else { RunKind::Unwritten };
        return Ok(Run { kind, len: next - block });
    }
    Ok(Run { kind: RunKind::Hole, len: hole(block, end) })
}

fn disorder(node: &Bytes, block: u64) -> GuestError {
    GuestError::Corrupt {
        field: "entries of an extent node",
        at: node.at,
        expected: "ascending, apart and not empty".to_owned(),
        found: format!("one out of order at the file's block {block}"),
    }
}
