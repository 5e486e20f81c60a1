//! Directories: blocks of entries, each a number, a length and a name. An index lies in blocks that look like empty ones,
//! so that a walk through all blocks meets every name once.
//!
//! Damage in a block costs that block's names alone: the walk goes on and ends with the first error.
//!
//! Source: Linux Documentation/filesystems/ext4/directory.rst, checksums.rst.

use std::ops::ControlFlow;

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use super::Ext;
use super::checksum::crc32c;
use super::content::RunKind;
use super::features::Incompatible;
use super::inode::{Inode, flags, node};
use super::volume::Bytes;
use crate::guest::GuestError;
use crate::guest::tree::{Entry, NodeKind};
use crate::units::GuestOffset;

/// Number, length, length of the name, kind.
const ENTRY_HEADER_BYTES: usize = 8;
/// Smallest entry: with a name of up to four bytes.
const ENTRY_BYTES_MIN: usize = 12;
/// An entry that is none, at the end of a block with a checksum.
const TAIL_BYTES: usize = 12;
const TAIL_KIND: u8 = 0xde;
/// Longest name.
pub(super) const NAME_BYTES_MAX: usize = 255;
/// Bytes of the inode's own part of an inline directory that are its parent's number.
const INLINE_PARENT_BYTES: usize = 4;

struct RawEntry<'a> {
    inode: u32,
    len: u16,
    kind: u8,
    name: &'a [u8],
}

/// The entry that begins here; fails if its name does not fit.
fn entry(input: &[u8]) -> IResult<&[u8], RawEntry<'_>> {
    let (rest, (inode, len, name_len, kind)) = (le_u32, le_u16, le_u8, le_u8).parse(input)?;
    let (rest, name) = take(name_len)(rest)?;
    Ok((rest, RawEntry { inode, len, kind, name }))
}

/// An entry's length: blocks of 64 KiB do not fit 16 bits, whose two lowest then count on.
pub(super) fn entry_len(stored: u16, block_size: usize) -> usize {
    match stored {
        0 | 0xffff if block_size >= 0x1_0000 => block_size,
        stored => usize::from(stored & !3) | usize::from(stored & 3) << 16,
    }
}

fn kind_of(stored: u8) -> Option<NodeKind> {
    // Above the lowest four bits are flags of `dirdata`.
    Some(match stored & 0xf {
        1 => NodeKind::File,
        2 => NodeKind::Directory,
        3 => NodeKind::CharacterDevice,
        4 => NodeKind::BlockDevice,
        5 => NodeKind::Fifo,
        6 => NodeKind::Socket,
        7 => NodeKind::Symlink,
        _ => return None,
    })
}

/// What to do with an entry.
pub(super) type Visit<'v> = &'v mut dyn FnMut(Entry<'_>) -> ControlFlow<()>;

impl Ext {
    /// Tells `visit` all entries but `.` and `..`.
    pub(super) fn each_entry(&self, directory: &Inode, visit: Visit<'_>) -> Result<(), GuestError> {
        self.check_plain(directory)?;
        if directory.has(flags::INLINE_DATA) {
            return self.each_inline(directory, visit);
        }
        let blocks = directory.size.div_ceil(self.volume.block_bytes());
        let mut damage = None;
        let mut block = 0;
        // More blocks than the volume has: some of them are named again and again.
        let mut left = self.volume.blocks();
        while block < blocks {
            let run = self.run_at(directory, block)?;
            let len = run.len.min(blocks - block);
            let RunKind::Data(first) = run.kind else {
                damage.get_or_insert_with(|| GuestError::Corrupt {
                    field: "directory",
                    at: directory.bytes.at,
                    expected: format!("{blocks} blocks of names"),
                    found: format!("none at block {block}"),
                });
                block = block.saturating_add(len);
                continue;
            };
            left = left.checked_sub(len).ok_or_else(|| GuestError::Corrupt {
                field: "directory",
                at: directory.bytes.at,
                expected: format!("at most the volume's {} blocks", self.volume.blocks()),
                found: "more".to_owned(),
            })?;
            for index in 0..len {
                let flow = self
                    .directory_block(directory, block + index, first + index)
                    .and_then(|bytes| self.each_in(&bytes, visit, &mut damage));
                match flow {
                    Ok(ControlFlow::Break(())) => return Ok(()),
                    Ok(ControlFlow::Continue(())) => {}
                    Err(err) => drop(damage.get_or_insert(err)),
                }
            }
            block += len;
        }
        damage.map_or(Ok(()), Err)
    }

    /// A block of a directory, its checksum verified.
    pub(super) fn directory_block(&self, directory: &Inode, index: u64, at: u64) -> Result<Bytes, GuestError> {
        let block = self.volume.block(at)?;
        if !self.superblock.has_checksums() {
            return Ok(block);
        }
        let first_len = entry_len(u16::from_le_bytes([block[4], block[5]]), block.len());
        let sums = if directory.has(flags::INDEX) && (index == 0 || first_len == block.len()) {
            super::htree::checksums(&block, directory.checksum_seed)
        } else {
            checksums(&block, directory.checksum_seed)
        };
        match sums {
            Some((sum, stored)) if sum == stored => Ok(block),
            sums => Err(GuestError::Corrupt {
                field: "checksum of a directory block",
                at: block.at,
                expected: sums.map_or_else(|| "one at its end".to_owned(), |(sum, _)| format!("{sum:#010x}")),
                found: sums.map_or_else(|| "none".to_owned(), |(_, stored)| format!("{stored:#010x}")),
            }),
        }
    }

    /// A directory inside its inode: two stretches of entries.
    fn each_inline(&self, directory: &Inode, visit: Visit<'_>) -> Result<(), GuestError> {
        let mut damage = None;
        let map = directory.map();
        let first = map.part(INLINE_PARENT_BYTES..map.len()).expect("60 bytes");
        let rest = self.inline_value(directory)?;
        for stretch in [Some(first), rest].into_iter().flatten() {
            match self.each_in(&stretch, visit, &mut damage) {
                Ok(ControlFlow::Break(())) => return Ok(()),
                Ok(ControlFlow::Continue(())) => {}
                Err(err) => drop(damage.get_or_insert(err)),
            }
        }
        damage.map_or(Ok(()), Err)
    }

    /// The entries of a stretch. A bad name or number is noted as damage; a bad length ends the stretch.
    fn each_in(
        &self,
        stretch: &Bytes,
        visit: Visit<'_>,
        damage: &mut Option<GuestError>,
    ) -> Result<ControlFlow<()>, GuestError> {
        let mut at = 0;
        while at + ENTRY_BYTES_MIN <= stretch.len() {
            let place = GuestOffset(stretch.at.0 + at as u64);
            let corrupt =
                |field, expected: String, found: String| GuestError::Corrupt { field, at: place, expected, found };
            let rest = &stretch[at..];
            let Ok((_, raw)) = entry(rest) else {
                return Err(corrupt("directory entry", "a name inside its block".to_owned(), "one beyond".to_owned()));
            };
            let len = entry_len(raw.len, self.volume.block_size());
            let least = (ENTRY_HEADER_BYTES + raw.name.len()).next_multiple_of(4).max(ENTRY_BYTES_MIN);
            // The name of an entry that is not in use means nothing.
            let least = if raw.inode == 0 { ENTRY_HEADER_BYTES } else { least };
            if len < least || len > rest.len() || !len.is_multiple_of(4) {
                let expected = format!("a multiple of 4 from {least} to {}", rest.len());
                return Err(corrupt("length of a directory entry", expected, len.to_string()));
            }
            at += len;
            if raw.inode == 0 || matches!(raw.name, b"." | b"..") {
                continue;
            }
            if raw.inode > self.superblock.inodes {
                let expected = format!("at most {}", self.superblock.inodes);
                damage.get_or_insert(corrupt("inode of a directory entry", expected, raw.inode.to_string()));
                continue;
            }
            if raw.name.is_empty() || raw.name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                let expected = "bytes without / and NUL".to_owned();
                damage.get_or_insert(corrupt(
                    "name in a directory",
                    expected,
                    format!("{:?}", raw.name.escape_ascii().to_string()),
                ));
                continue;
            }
            let kind = if self.superblock.incompatible.has(Incompatible::FILETYPE) { kind_of(raw.kind) } else { None };
            if visit(Entry { name: raw.name, node: node(raw.inode), kind }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The number that a directory has for a name, by its index if it has one that is sound.
    pub(super) fn find(&self, directory: &Inode, name: &[u8]) -> Result<Option<u32>, GuestError> {
        self.check_plain(directory)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || matches!(name, b"." | b"..") {
            return Ok(None);
        }
        let folds = directory.has(flags::CASEFOLD) && self.superblock.incompatible.has(Incompatible::CASEFOLD);
        if !folds && let Some(found) = self.find_by_index(directory, name) {
            return Ok(found);
        }
        let wanted = folds.then(|| folded(name)).flatten();
        let mut found = None;
        let outcome = self.each_entry(directory, &mut |entry| {
            let exact = entry.name == name;
            if exact || found.is_none() && wanted.is_some() && folded(entry.name) == wanted {
                found = u32::try_from(entry.node.number).ok();
            }
            if exact { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // A name that was found is found, whatever is wrong elsewhere in the directory.
        match (found, outcome) {
            (None, Err(err)) => Err(err),
            (found, _) => Ok(found),
        }
    }

    /// The number that a block of entries has for a name.
    pub(super) fn find_in(&self, block: &Bytes, name: &[u8]) -> Result<Option<u32>, GuestError> {
        let mut found = None;
        let mut damage = None;
        let _stopped = self.each_in(
            block,
            &mut |entry| {
                if entry.name != name {
                    return ControlFlow::Continue(());
                }
                found = u32::try_from(entry.node.number).ok();
                ControlFlow::Break(())
            },
            &mut damage,
        )?;
        match (found, damage) {
            (None, Some(err)) => Err(err),
            (found, _) => Ok(found),
        }
    }
}

/// A name without case, for directories that ignore it; `None` if it is not UTF-8. The filesystem also ignores how accents
/// are composed, which this does not.
fn folded(name: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(name).ok()?.chars().flat_map(char::to_lowercase).collect())
}

/// What the checksum of a block of entries must be, and what it is; `None` if it has none.
fn checksums(block: &[u8], seed: u32) -> Option<(u32, u32)> {
    let (entries, tail) = block.split_at(block.len() - TAIL_BYTES);
    let (rest, raw) = entry(tail).ok()?;
    if raw.inode != 0 || usize::from(raw.len) != TAIL_BYTES || !raw.name.is_empty() || raw.kind != TAIL_KIND {
        return None;
    }
    Some((crc32c(seed, entries), u32::from_le_bytes(rest.try_into().expect("four bytes"))))
}
