//! Block maps of ext2 and ext3: twelve blocks in the inode, then blocks of block numbers, one to three levels deep. A zero
//! is a hole.
//!
//! Source: Linux Documentation/filesystems/ext4/ifork.rst, "Direct/Indirect Block Addressing".

use super::content::{Run, RunKind};
use super::inode::Inode;
use super::volume::{Bytes, Volume};
use crate::guest::GuestError;

/// Blocks that the inode itself names.
const DIRECT: u64 = 12;
/// Bytes of a block number.
const POINTER_BYTES: usize = 4;
/// Levels of blocks of block numbers.
const LEVELS: usize = 3;

/// The run of a file's blocks that begins with `block`.
pub(super) fn run_at(volume: &Volume, inode: &Inode, block: u64) -> Result<Run, GuestError> {
    let map = inode.map();
    if block < DIRECT {
        let direct = map.part(0..48).expect("twelve of fifteen pointers");
        return run_of(volume, &direct, usize::try_from(block).expect("below twelve"));
    }
    // A power of two: at most 2^14, so that three levels stay below 2^42 blocks.
    let per_block = (volume.block_size() / POINTER_BYTES) as u64;
    let mut offset = block - DIRECT;
    let mut span = 1;
    for level in 0..LEVELS {
        span *= per_block;
        if offset < span {
            let top = pointer(&map, usize::try_from(DIRECT).expect("twelve") + level);
            return below(volume, &map, top, span, offset, per_block);
        }
        offset -= span;
    }
    // Beyond what a map can say.
    Ok(Run { kind: RunKind::Hole, len: u64::MAX - block })
}

/// The run at `offset` of the `span` blocks below a pointer.
fn below(
    volume: &Volume,
    map: &Bytes,
    top: u64,
    mut span: u64,
    mut offset: u64,
    per_block: u64,
) -> Result<Run, GuestError> {
    let mut node = map.clone();
    let mut block = top;
    loop {
        if block == 0 {
            return Ok(Run { kind: RunKind::Hole, len: span - offset });
        }
        volume.check_run("block of block numbers", node.at, block, 1)?;
        node = volume.block(block)?;
        span /= per_block;
        let index = usize::try_from(offset / span).expect("an index in a block");
        if span == 1 {
            return run_of(volume, &node, index);
        }
        offset %= span;
        block = pointer(&node, index);
    }
}

fn pointer(pointers: &[u8], index: usize) -> u64 {
    let at = index * POINTER_BYTES;
    pointers
        .get(at..at + POINTER_BYTES)
        .map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")).into())
}

/// The longest run of consecutive blocks, or of holes, from the pointer of that index.
fn run_of(volume: &Volume, pointers: &Bytes, index: usize) -> Result<Run, GuestError> {
    let first = pointer(pointers, index);
    let step = u64::from(first != 0);
    let count = pointers.len() / POINTER_BYTES;
    let mut len = 1;
    while index + len < count && pointer(pointers, index + len) == first + len as u64 * step {
        len += 1;
    }
    let len = len as u64;
    if first == 0 {
        return Ok(Run { kind: RunKind::Hole, len });
    }
    volume.check_run("block number", pointers.at, first, len)?;
    Ok(Run { kind: RunKind::Data(first), len })
}
