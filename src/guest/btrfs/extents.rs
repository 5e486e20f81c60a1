//! What the ranges of a file are: its extent items (`btrfs_file_extent_item`), raw → checked, and the gaps between them.
//!
//! An item shows a part of an extent of the volume; several items, of several files too, may show parts of one extent.

use nom::number::complete::{le_u8, le_u16, le_u64};
use nom::{IResult, Parser};

use super::compression::Compression;
use super::cursor::Cursor;
use super::inode::Inode;
use super::key::{Key, kind};
use super::node::Item;
use super::superblock::Superblock;
use super::volume::Volume;
use super::{corrupt, too_short, unsupported};
use crate::guest::GuestError;

/// Most bytes of a compressed extent, packed or not.
pub(crate) const PACKED_BYTES_MAX: u64 = 128 << 10;

/// Where an extent item's part lies.
struct RawPlace {
    logical: u64,
    stored_bytes: u64,
    offset: u64,
    bytes: u64,
}

/// The start of every extent item: size of the whole extent, how it is encoded, and its kind.
struct RawExtent {
    whole_bytes: u64,
    compression: u8,
    encryption: u8,
    other_encoding: u16,
    kind: u8,
}

fn raw_extent(input: &[u8]) -> IResult<&[u8], RawExtent> {
    let (input, (_generation, whole_bytes, compression, encryption, other_encoding, kind)) =
        (le_u64, le_u64, le_u8, le_u8, le_u16, le_u8).parse(input)?;
    Ok((input, RawExtent { whole_bytes, compression, encryption, other_encoding, kind }))
}

fn raw_place(input: &[u8]) -> IResult<&[u8], RawPlace> {
    let (input, (logical, stored_bytes, offset, bytes)) = (le_u64, le_u64, le_u64, le_u64).parse(input)?;
    Ok((input, RawPlace { logical, stored_bytes, offset, bytes }))
}

/// A compressed extent of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Packed {
    pub logical: u64,
    /// Bytes on the volume, whole sectors; at most [`PACKED_BYTES_MAX`].
    pub stored_bytes: u64,
    /// Bytes unpacked; at most [`PACKED_BYTES_MAX`].
    pub bytes: u64,
    pub compression: Compression,
}

/// What is stored for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Hole,
    Unwritten,
    /// The bytes from this logical address on.
    At(u64),
    /// The bytes of a compressed extent, from the `skip`th on.
    Packed {
        extent: Packed,
        skip: u64,
    },
    /// These bytes, from the `skip`th on, then zeros.
    Inline {
        bytes: Vec<u8>,
        skip: u64,
    },
}

/// A run of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Bytes; not 0.
    pub bytes: u64,
    pub what: Stored,
    /// Where the item that says so lies on the volume.
    pub item_at: u64,
}

/// An extent item, checked.
struct Extent {
    from: u64,
    to: u64,
    what: Stored,
}

/// The runs that tile a range of a file.
pub(crate) struct Runs<'v> {
    volume: &'v Volume,
    cursor: Cursor<'v>,
    inode: u64,
    inode_at: u64,
    at: u64,
    end: u64,
    /// Where the last extent seen ends: no other may begin before.
    known: u64,
}

impl<'v> Runs<'v> {
    /// The runs from byte `at` to byte `end`.
    pub fn new(volume: &'v Volume, inode: &Inode, at: u64, end: u64) -> Result<Runs<'v>, GuestError> {
        let number = inode.node.number;
        let mut cursor = Cursor::before(volume, &inode.root, Key::new(number, kind::EXTENT, at))?;
        while cursor.item().is_some_and(|item| item.key < Key::new(number, kind::EXTENT, 0)) {
            cursor.advance()?;
        }
        Ok(Runs { volume, cursor, inode: number, inode_at: inode.at, at, end, known: 0 })
    }

    /// The next run; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Run>, GuestError> {
        if self.at >= self.end {
            return Ok(None);
        }
        while let Some(item) = self.cursor.item().filter(|item| item.key.is_of(self.inode, kind::EXTENT)) {
            let item_at = item.at;
            let extent = extent(item, self.volume)?;
            if extent.from < self.known {
                let found = format!("one from byte {}", extent.from);
                return Err(corrupt("file extent", item_at, format!("one from byte {}", self.known), found));
            }
            if extent.to <= self.at {
                self.known = extent.to;
                self.cursor.advance()?;
                continue;
            }
            if extent.from > self.at {
                return Ok(Some(self.run(extent.from, Stored::Hole, item_at)));
            }
            let skipped = self.at - extent.from;
            return Ok(Some(self.run(extent.to, extent.what.skip(skipped), item_at)));
        }
        Ok(Some(self.run(self.end, Stored::Hole, self.inode_at)))
    }

    fn run(&mut self, until: u64, what: Stored, item_at: u64) -> Run {
        let until = until.min(self.end);
        let bytes = until - self.at;
        self.at = until;
        Run { bytes, what, item_at }
    }
}

impl Stored {
    /// The same from the `more`th byte on, which is inside.
    fn skip(self, more: u64) -> Stored {
        match self {
            Stored::At(logical) => Stored::At(logical + more),
            Stored::Packed { extent, skip } => Stored::Packed { extent, skip: skip + more },
            Stored::Inline { bytes, skip } => Stored::Inline { bytes, skip: skip + more },
            Stored::Hole | Stored::Unwritten => self,
        }
    }
}

/// Takes an extent item apart and checks it.
fn extent(item: Item<'_>, volume: &Volume) -> Result<Extent, GuestError> {
    let superblock = &volume.superblock;
    let (rest, raw) = raw_extent(item.bytes).map_err(|_| too_short("file extent", item.at))?;
    if raw.encryption != 0 || raw.other_encoding != 0 {
        return Err(unsupported("encrypted content on btrfs"));
    }
    let compression = match raw.compression {
        0 => None,
        code => Some(Compression::from_code(code).ok_or_else(|| unsupported(format!("btrfs compression {code}")))?),
    };
    match raw.kind {
        0 => inline(item, rest, &raw, compression, superblock),
        1 | 2 => {
            let (_, place) = raw_place(rest).map_err(|_| too_short("file extent", item.at))?;
            let what = place.check(item, &raw, compression, superblock)?;
            // The sum was checked just now.
            Ok(Extent { from: item.key.offset, to: item.key.offset + place.bytes, what })
        }
        other => Err(corrupt("kind of a file extent", item.at, "0 to 2", other)),
    }
}

/// An extent whose bytes are in the item itself.
fn inline(
    item: Item<'_>,
    bytes: &[u8],
    raw: &RawExtent,
    compression: Option<Compression>,
    superblock: &Superblock,
) -> Result<Extent, GuestError> {
    if item.key.offset != 0 {
        return Err(corrupt("file extent inside its item", item.at, "one at byte 0", item.key.offset));
    }
    let len = usize::try_from(raw.whole_bytes).ok().filter(|_| raw.whole_bytes <= PACKED_BYTES_MAX);
    let Some(len) = len else {
        let expected = format!("at most {PACKED_BYTES_MAX} bytes");
        return Err(corrupt("file extent inside its item", item.at, expected, raw.whole_bytes));
    };
    let bytes = match compression {
        Some(compression) => compression.unpack(bytes, len, superblock, item.at)?,
        None if bytes.len() == len => bytes.to_vec(),
        None => {
            return Err(corrupt("file extent inside its item", item.at, format!("{len} bytes"), bytes.len()));
        }
    };
    let to = superblock.round_up(raw.whole_bytes).expect("at most 128 KiB and a sector");
    Ok(Extent { from: 0, to, what: Stored::Inline { bytes, skip: 0 } })
}

impl RawPlace {
    fn check(
        &self,
        item: Item<'_>,
        raw: &RawExtent,
        compression: Option<Compression>,
        superblock: &Superblock,
    ) -> Result<Stored, GuestError> {
        let aligned = [item.key.offset, self.logical, self.stored_bytes, self.offset, self.bytes]
            .into_iter()
            .all(|number| superblock.is_aligned(number));
        let end_in_file = item.key.offset.checked_add(self.bytes);
        if !aligned || self.bytes == 0 || end_in_file.is_none() {
            let found = format!("{} bytes at {}, of an extent at {:#x}", self.bytes, item.key.offset, self.logical);
            return Err(corrupt("file extent", item.at, "whole sectors", found));
        }
        if self.logical == 0 {
            return Ok(Stored::Hole);
        }
        if raw.kind == 2 {
            return Ok(Stored::Unwritten);
        }
        let (whole, most) = match compression {
            None => (self.stored_bytes, u64::MAX),
            Some(_) => (raw.whole_bytes, PACKED_BYTES_MAX),
        };
        let inside = self.offset.checked_add(self.bytes).is_some_and(|end| end <= whole);
        if !inside || whole > most || self.stored_bytes > most {
            let expected = match compression {
                None => format!("a part of {whole} bytes"),
                Some(_) => format!("a part of {whole} bytes, packed in {}, both at most {most}", self.stored_bytes),
            };
            let found = format!("{} bytes from {} on", self.bytes, self.offset);
            return Err(corrupt("file extent", item.at, expected, found));
        }
        if self.logical.checked_add(self.stored_bytes).is_none() {
            return Err(corrupt("file extent", item.at, "an end below 2^64", format!("{:#x}", self.logical)));
        }
        Ok(match compression {
            None => Stored::At(self.logical + self.offset),
            Some(compression) => {
                let Self { logical, stored_bytes, .. } = *self;
                let extent = Packed { logical, stored_bytes, bytes: whole, compression };
                Stored::Packed { extent, skip: self.offset }
            }
        })
    }
}
