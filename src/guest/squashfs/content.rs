//! A file's content: blocks one behind the other on the volume, of which only the lengths are known, and an end that may lie
//! in a fragment. A length of 0 is a hole.
//!
//! Fragment table entry: `start 8 | length 4 | 4`.

use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;

use super::corrupt;
use super::inode::File;
use super::metadata::{Cursor, Place, Table};
use super::unsupported;
use super::volume::{Stored, Volume};
use crate::disk::{Extent, ExtentKind};
use crate::guest::GuestError;
use crate::recent;
use crate::units::ByteLen;

/// Bytes of an entry of the table of fragments.
const FRAGMENT_BYTES: usize = 16;
/// Blocks of a file that are followed: 32 TiB of the usual size. A billion of lengths that are all zero packs well.
const BLOCKS_MAX: u64 = 1 << 28;
/// Every so many blocks, where a file goes on is remembered.
const MARK_BLOCKS: u64 = 4096;
/// Files whose marks are kept.
const FILES_MARKED: usize = 16;
/// Blocks that one question about extents may follow.
const EXTENT_BLOCKS_MAX: u64 = 1 << 16;

/// What is remembered about files: how to get to the middle without following all blocks before.
pub(crate) struct Marks(Cache<Place, Arc<Mutex<Vec<Mark>>>>);

/// Where a block's length is stored, and where the block lies.
#[derive(Clone, Copy)]
struct Mark {
    length: Place,
    at: u64,
}

impl Marks {
    pub fn new() -> Marks {
        Marks(recent::entries(FILES_MARKED))
    }

    /// The lengths of `file`'s blocks from `block` on, which it has.
    fn lengths<'v>(&self, volume: &'v Volume, file: &File, block: u64) -> Result<Lengths<'v>, GuestError> {
        let first = Mark { length: file.lengths, at: file.start };
        let known = match self.0.get(&file.lengths) {
            Some(known) => known,
            None => {
                let known = Arc::new(Mutex::new(vec![first]));
                self.0.insert(file.lengths, Arc::clone(&known));
                known
            }
        };
        let wanted = usize::try_from(block / MARK_BLOCKS).expect("at most 2^16 marks");
        let (start, mark) = {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let start = wanted.min(known.len() - 1);
            (start, known[start])
        };
        // From the nearest mark on, and new marks on the way.
        let mut lengths = Lengths::new(volume, mark);
        let mut new = Vec::new();
        for number in start as u64 * MARK_BLOCKS..block {
            lengths.next()?;
            if (number + 1) % MARK_BLOCKS == 0 {
                new.push(Mark { length: lengths.cursor.place(), at: lengths.at });
            }
        }
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == start + 1 {
            known.extend(new);
        }
        Ok(lengths)
    }
}

/// Walks the lengths of a file's blocks.
struct Lengths<'v> {
    cursor: Cursor<'v>,
    /// Where the next block lies.
    at: u64,
}

impl<'v> Lengths<'v> {
    fn new(volume: &'v Volume, from: Mark) -> Lengths<'v> {
        Lengths { cursor: Cursor::new(volume, from.length), at: from.at }
    }

    /// The next block; `None` for a hole.
    fn next(&mut self) -> Result<Option<Stored>, GuestError> {
        let stored = Stored::new(self.at, self.cursor.u32()?);
        self.at = self.at.saturating_add(stored.len.into());
        Ok((stored.len > 0).then_some(stored))
    }
}

/// Whole blocks of a file, without what lies in a fragment.
fn blocks(volume: &Volume, file: &File) -> Result<u64, GuestError> {
    let block_bytes = volume.superblock.block_bytes();
    let blocks = if file.fragment.is_some() { file.size / block_bytes } else { file.size.div_ceil(block_bytes) };
    if blocks > BLOCKS_MAX {
        return Err(unsupported(format!("a file of more than {BLOCKS_MAX} blocks")));
    }
    Ok(blocks)
}

/// Fills `buf` from byte `at`; the range lies inside the file.
pub(crate) fn read(volume: &Volume, marks: &Marks, file: &File, at: u64, mut buf: &mut [u8]) -> Result<(), GuestError> {
    let block_bytes = volume.superblock.block_bytes();
    let blocks = blocks(volume, file)?;
    let (mut block, mut skip) = (at / block_bytes, at % block_bytes);
    let mut lengths = if block < blocks { Some(marks.lengths(volume, file, block)?) } else { None };
    while !buf.is_empty() {
        // What the block has: all but the last are full.
        let len = block_bytes.min(file.size - block * block_bytes);
        let now = usize::try_from(len - skip).expect("at most 1 MiB").min(buf.len());
        let (target, rest) = buf.split_at_mut(now);
        let skip_bytes = usize::try_from(skip).expect("at most 1 MiB");
        match lengths.as_mut().filter(|_| block < blocks) {
            Some(lengths) => match lengths.next()? {
                Some(stored) => {
                    let bytes = volume.content(stored)?;
                    if bytes.len() as u64 != len {
                        let found = format!("{} bytes", bytes.len());
                        return Err(corrupt("block of content", stored.at, format!("{len} bytes"), found));
                    }
                    target.copy_from_slice(&bytes[skip_bytes..skip_bytes + now]);
                }
                None => target.fill(0),
            },
            None => {
                let fragment = fragment(volume, file, len)?;
                target.copy_from_slice(&fragment[skip_bytes..skip_bytes + now]);
            }
        }
        (buf, block, skip) = (rest, block + 1, 0);
    }
    Ok(())
}

/// The `len` bytes of a file's end that lie in a fragment.
fn fragment(volume: &Volume, file: &File, len: u64) -> Result<Vec<u8>, GuestError> {
    let superblock = &volume.superblock;
    let table = Table { field: "table of fragments", at: superblock.fragment_table, len: superblock.fragments };
    let (number, offset) = file.fragment.expect("only files with one end in one");
    let mut entry = table.entry(volume, number, FRAGMENT_BYTES)?;
    let (start, size) = (entry.u64()?, entry.u32()?);
    let stored = Stored::new(start, size);
    let bytes = volume.content(stored)?;
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let len = usize::try_from(len).expect("at most 1 MiB");
    let end = bytes.get(from..).and_then(|rest| rest.get(..len));
    end.map(<[u8]>::to_vec).ok_or_else(|| {
        corrupt("fragment", start, format!("{len} bytes from byte {offset}"), format!("{} bytes", bytes.len()))
    })
}

/// The run that begins at byte `at`, which the file has.
pub(crate) fn extent(volume: &Volume, marks: &Marks, file: &File, at: u64) -> Result<Extent, GuestError> {
    let block_bytes = volume.superblock.block_bytes();
    let blocks = blocks(volume, file)?;
    let first = at / block_bytes;
    if first >= blocks {
        return Ok(Extent { kind: ExtentKind::Data, len: ByteLen(file.size - at) });
    }
    let mut lengths = marks.lengths(volume, file, first)?;
    let is_hole = lengths.next()?.is_none();
    let mut end = first + 1;
    let limit = blocks.min(first + EXTENT_BLOCKS_MAX);
    while end < limit && lengths.next()?.is_none() == is_hole {
        end += 1;
    }
    let kind = if is_hole { ExtentKind::Hole } else { ExtentKind::Data };
    Ok(Extent { kind, len: ByteLen((end * block_bytes).min(file.size) - at) })
}
