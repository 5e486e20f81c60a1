//! Blocks with a directory's entries (`xfs_dir2_data_hdr`).
//!
//! Layout: `header 16 (version 5: 64) | entries and free stretches | (block form: index)`. An entry, padded to 8 bytes:
//! `inode 8 | name length 1 | name | (kind 1) | … | its offset 2`; a free stretch: `ffff 2 | length 2 | … | its offset 2`.
//! The index of the block form ends the block: `(hash 4, offset / 8 4) × n | n 4 | stale 4`.

use nom::bytes::complete::take;
use nom::combinator::cond;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use super::RawEntry;
use super::index::IndexEntry;
use crate::guest::GuestError;
use crate::guest::xfs::checksum::DIRECTORY_DATA;
use crate::guest::xfs::volume::Volume;
use crate::guest::xfs::{corrupt, too_short};

/// Marks a free stretch, in place of an inode number's first bytes.
const FREE: u16 = 0xffff;
/// Entries and stretches begin at multiples of it.
const ALIGNMENT: usize = 8;
/// Bytes of the end of a block with an index.
const TAIL_BYTES: usize = 8;

/// A block whose header, and tail if it has one, are sound.
pub(super) struct DataBlock {
    bytes: Vec<u8>,
    at: u64,
    file_types: bool,
    entries_from: usize,
    /// Entries end there, and the index begins.
    entries_to: usize,
    has_index: bool,
}

/// Takes apart the tail of a block with an index: entries, and stale ones among them.
fn tail(input: &[u8]) -> IResult<&[u8], (u32, u32)> {
    (be_u32, be_u32).parse(input)
}

impl DataBlock {
    pub fn new(volume: &Volume, owner: u64, bytes: Vec<u8>, at: u64) -> Result<DataBlock, GuestError> {
        let geometry = &volume.geometry;
        let magic = bytes.get(..4).unwrap_or_default();
        let (has_index, entries_from) = match (magic, geometry.checksums) {
            (b"XD2B", false) => (true, 16),
            (b"XD2D", false) => (false, 16),
            (b"XDB3", true) => (true, 64),
            (b"XDD3", true) => (false, 64),
            _ => {
                let expected = if geometry.checksums { "XDB3 or XDD3" } else { "XD2B or XD2D" };
                return Err(corrupt("directory block", at, expected, magic.escape_ascii()));
            }
        };
        DIRECTORY_DATA.check("directory block", &bytes, at, owner, geometry)?;
        let mut entries_to = bytes.len();
        if has_index {
            let tail_at = bytes.len() - TAIL_BYTES; // blocks have at least 512 bytes
            let (_, (count, _stale)) = tail(&bytes[tail_at..]).map_err(|_| too_short("directory block", at))?;
            let room = (tail_at - entries_from) / IndexEntry::BYTES;
            let count = usize::try_from(count).ok().filter(|count| *count <= room);
            let Some(count) = count else {
                let found = &bytes[tail_at..tail_at + 4];
                let expected = format!("at most {room} entries");
                return Err(corrupt("index of a directory block", at, expected, format!("{found:02x?}")));
            };
            entries_to = tail_at - count * IndexEntry::BYTES;
        }
        Ok(DataBlock { bytes, at, file_types: geometry.file_types, entries_from, entries_to, has_index })
    }

    /// Every entry, `.` and `..` among them.
    pub fn entries(&self) -> Result<Vec<RawEntry<'_>>, GuestError> {
        let mut entries = Vec::new();
        let mut from = self.entries_from;
        while from < self.entries_to {
            let rest = &self.bytes[from..self.entries_to];
            let wrong = |found: String| Err(corrupt("directory block", self.at, format!("an entry at {from}"), found));
            let bytes = match rest {
                [0xff, 0xff, high, low, ..] => {
                    let bytes = usize::from(u16::from_be_bytes([*high, *low]));
                    if bytes == 0 || !bytes.is_multiple_of(ALIGNMENT) {
                        return wrong(format!("{bytes} free bytes"));
                    }
                    bytes
                }
                _ => {
                    let entry = self.entry(from)?;
                    entries.push(entry);
                    self.entry_bytes(entry.name.len())
                }
            };
            if bytes > rest.len() {
                return wrong(format!("{bytes} bytes, past its end"));
            }
            from += bytes;
        }
        Ok(entries)
    }

    /// The entry at byte `from` of the block.
    pub fn entry(&self, from: usize) -> Result<RawEntry<'_>, GuestError> {
        let inside = (self.entries_from..self.entries_to).contains(&from) && from.is_multiple_of(ALIGNMENT);
        let rest = if inside { &self.bytes[from..self.entries_to] } else { &[] };
        let parsed = entry(rest, self.file_types).ok().map(|(_, entry)| entry);
        let fits = parsed.filter(|raw| raw.offset == from.try_into().ok() && raw.mark != FREE);
        let Some(raw) = fits else {
            return Err(corrupt("directory block", self.at, format!("an entry at {from}"), "none"));
        };
        Ok(RawEntry { name: raw.name, kind: raw.kind, inode: raw.inode, at: self.at })
    }

    fn entry_bytes(&self, name_bytes: usize) -> usize {
        // Inode number, length of the name, name, kind, offset.
        (8 + 1 + name_bytes + usize::from(self.file_types) + 2).next_multiple_of(ALIGNMENT)
    }

    /// The index at its end, where it has one.
    pub fn index(&self) -> Option<&[u8]> {
        self.has_index.then(|| &self.bytes[self.entries_to..self.bytes.len() - TAIL_BYTES])
    }

    /// Where it lies on the volume.
    pub fn at(&self) -> u64 {
        self.at
    }
}

/// An entry as it lies in the block, without its padding.
struct Parsed<'a> {
    mark: u16,
    inode: u64,
    name: &'a [u8],
    kind: Option<u8>,
    offset: Option<u16>,
}

fn entry(input: &[u8], file_types: bool) -> IResult<&[u8], Parsed<'_>> {
    let (_, mark) = be_u16(input)?;
    let (rest, (inode, name_bytes)) = (be_u64, be_u8).parse(input)?;
    let (rest, (name, kind)) = (take(name_bytes), cond(file_types, be_u8)).parse(rest)?;
    let used = input.len() - rest.len();
    let padding = (used + 2).next_multiple_of(ALIGNMENT) - used - 2;
    let (rest, (_, offset)) = (take(padding), be_u16).parse(rest)?;
    Ok((rest, Parsed { mark, inode, name, kind, offset: Some(offset) }))
}
