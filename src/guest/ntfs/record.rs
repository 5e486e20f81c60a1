//! A file record and the attributes in it.
//!
//! Record, little-endian: 0 `FILE` | 4 sector ends (see `volume`) | 16 sequence u16 | 20 first attribute u16 | 22 flags u16
//! | 24 bytes in use u32 | 32 reference of the base record u64 (0: this is one) | 40 … Attribute: 0 type u32 | 4 length u32 |
//! 8 non-resident u8 | 9 length of its name u8 | 10 its place u16 | 12 flags u16 | 14 id u16, then
//!
//!     resident:      16 length of its value u32 | 20 its place u16
//!     non-resident:  16 first cluster u64 | 24 last cluster u64 | 32 place of its runs u16 | 34 compression unit u8 (log2
//!                    clusters) | 40 allocated u64 | 48 length u64 | 56 initialized u64 | 64 allocated without holes u64
//!
//! Source: linux-ntfs documentation, "FILE Record" and "Attributes"; tried on volumes that ntfs-3g filled.

use std::ops::Range;

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use super::volume::restore_sector_ends;
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Types of attributes.
pub(super) mod kind {
    pub const STANDARD_INFORMATION: u32 = 0x10;
    pub const ATTRIBUTE_LIST: u32 = 0x20;
    pub const FILE_NAME: u32 = 0x30;
    pub const VOLUME_NAME: u32 = 0x60;
    pub const VOLUME_INFORMATION: u32 = 0x70;
    pub const DATA: u32 = 0x80;
    pub const INDEX_ROOT: u32 = 0x90;
    pub const INDEX_ALLOCATION: u32 = 0xa0;
    pub const BITMAP: u32 = 0xb0;
    pub const REPARSE_POINT: u32 = 0xc0;
    pub const EXTENDED_ATTRIBUTES: u32 = 0xe0;
    pub const END: u32 = u32::MAX;
}

/// Flags of an attribute.
pub(super) mod flags {
    /// How it is compressed: 1 is LZNT1, the only way there is.
    pub const COMPRESSION: u16 = 0x00ff;
    pub const ENCRYPTED: u16 = 0x4000;
    pub const SPARSE: u16 = 0x8000;
}

const MAGIC: &[u8] = b"FILE";
/// What a system puts there when a record's sector ends were wrong.
const MAGIC_BAD: &[u8] = b"BAAD";
const IN_USE: u16 = 1;
const IS_DIRECTORY: u16 = 2;
/// Shortest attribute: a header with an empty value.
const ATTRIBUTE_BYTES_MIN: usize = 24;

/// A file record's number and the number of its use: another file in the same place has another sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Reference(pub u64);

impl Reference {
    /// Number of the record.
    pub fn number(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }

    /// Which use of the record.
    pub fn sequence(self) -> u16 {
        u16::try_from(self.0 >> 48).expect("sixteen bits are left")
    }
}

/// A file record, its sector ends put back.
pub(super) struct Record {
    bytes: Vec<u8>,
    /// Where it lies on the volume.
    pub at: GuestOffset,
    pub in_use: bool,
    pub directory: bool,
    pub sequence: u16,
    /// The record that this one belongs to; 0 if it stands for itself.
    pub base: Reference,
    pub attributes: Vec<Attribute>,
}

/// An attribute, or a piece of one, as a record has it.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    pub kind: u32,
    pub name: Box<[u16]>,
    pub flags: u16,
    pub id: u16,
    pub body: Body,
}

/// Where an attribute's value is.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Here in the record.
    Resident(Range<usize>),
    /// In clusters.
    NonResident(Extents),
}

/// An attribute's clusters. Only the piece that begins with cluster 0 tells the lengths.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    pub start: u64,
    /// Where in the record its runs are.
    pub runs: Range<usize>,
    /// log2 of the clusters that are compressed together; 0 if none are.
    pub unit_bits: u8,
    pub allocated: u64,
    pub len: u64,
    pub initialized: u64,
}

struct RawAttribute {
    name_len: u8,
    name_at: u16,
    flags: u16,
    id: u16,
    body: RawBody,
}

enum RawBody {
    Resident { len: u32, at: u16 },
    NonResident { start: u64, runs_at: u16, unit_bits: u8, lens: [u64; 3], compressed: Option<u64> },
}

fn raw_attribute(input: &[u8]) -> IResult<&[u8], RawAttribute> {
    let (rest, (_, non_resident, name_len, name_at, flags, id)) =
        (take(8usize), le_u8, le_u8, le_u16, le_u16, le_u16).parse(input)?;
    if non_resident == 0 {
        let (rest, (len, at)) = (le_u32, le_u16).parse(rest)?;
        return Ok((rest, RawAttribute { name_len, name_at, flags, id, body: RawBody::Resident { len, at } }));
    }
    let (rest, (start, _, runs_at, unit_bits, _)) = (le_u64, le_u64, le_u16, le_u8, take(5usize)).parse(rest)?;
    let (rest, lens) = (le_u64, le_u64, le_u64).parse(rest)?;
    // The last field is only there where allocated and stored can differ.
    let (rest, compressed) = if flags & (flags::COMPRESSION | flags::SPARSE) != 0 && start == 0 {
        let (rest, compressed) = le_u64(rest)?;
        (rest, Some(compressed))
    } else {
        (rest, None)
    };
    let body = RawBody::NonResident { start, runs_at, unit_bits, lens: lens.into(), compressed };
    Ok((rest, RawAttribute { name_len, name_at, flags, id, body }))
}

fn corrupt(field: &'static str, at: GuestOffset, expected: impl Into<String>, found: impl Into<String>) -> GuestError {
    GuestError::Corrupt { field, at, expected: expected.into(), found: found.into() }
}

/// Reads the record that lies at `at`.
pub(super) fn read(mut bytes: Vec<u8>, at: GuestOffset) -> Result<Record, GuestError> {
    if !bytes.starts_with(MAGIC) {
        let found = match &bytes[..4] {
            MAGIC_BAD => "one that the guest's system has marked as bad".to_owned(),
            other => format!("\"{}\"", other.escape_ascii()),
        };
        return Err(corrupt("magic of a file record", at, "\"FILE\"", found));
    }
    restore_sector_ends(&mut bytes, "file record", at)?;
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let quad = |at: usize| -> [u8; 8] { bytes[at..at + 8].try_into().expect("eight bytes") };
    let flags = word(22);
    let used = u32::from_le_bytes(bytes[24..28].try_into().expect("four bytes"));
    let used = usize::try_from(used).unwrap_or(usize::MAX).min(bytes.len());
    let attributes = if flags & IN_USE == 0 { Vec::new() } else { attributes(&bytes[..used], word(20).into(), at)? };
    Ok(Record {
        at,
        in_use: flags & IN_USE != 0,
        directory: flags & IS_DIRECTORY != 0,
        sequence: word(16),
        base: Reference(u64::from_le_bytes(quad(32))),
        attributes,
        bytes,
    })
}

/// All attributes, from the place of the first one.
fn attributes(bytes: &[u8], first: usize, at: GuestOffset) -> Result<Vec<Attribute>, GuestError> {
    let mut attributes = Vec::new();
    let mut place = first;
    loop {
        let here = GuestOffset(at.0 + place as u64);
        let rest = bytes.get(place..).unwrap_or_default();
        let word = |at: usize| rest.get(at..at + 4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]));
        let kind = word(0).ok_or_else(|| corrupt("attributes of a file record", at, "an end", "none"))?;
        if kind == kind::END {
            return Ok(attributes);
        }
        let len = word(4).and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        if len < ATTRIBUTE_BYTES_MIN || len > rest.len() {
            let expected = format!("{ATTRIBUTE_BYTES_MIN} to {}", rest.len());
            return Err(corrupt("length of an attribute", here, expected, len.to_string()));
        }
        attributes.push(attribute(kind, &rest[..len], place, here)?);
        place += len; // at least 24 bytes a step: this ends
    }
}

/// One attribute, which begins at `place` of its record and at `here` of the volume.
fn attribute(kind: u32, bytes: &[u8], place: usize, here: GuestOffset) -> Result<Attribute, GuestError> {
    let outside = |what: &str, from: usize, len: usize| {
        let expected = format!("its {what} within {} bytes", bytes.len());
        corrupt("attribute", here, expected, format!("{len} bytes from {from}"))
    };
    let Ok((_, raw)) = raw_attribute(bytes) else {
        return Err(corrupt("attribute", here, "a whole header", format!("{} bytes", bytes.len())));
    };
    let range = |what, from: usize, len: usize| {
        let range = from..from.saturating_add(len);
        if range.end > bytes.len() { Err(outside(what, from, len)) } else { Ok(range) }
    };
    let name = match raw.name_len {
        0 => Box::default(),
        len => units(&bytes[range("name", raw.name_at.into(), usize::from(len) * 2)?]).collect(),
    };
    let body = match raw.body {
        RawBody::Resident { len, at } => {
            let range = range("value", at.into(), usize::try_from(len).unwrap_or(usize::MAX))?;
            Body::Resident(place + range.start..place + range.end)
        }
        RawBody::NonResident { start, runs_at, unit_bits, lens: [allocated, len, initialized], compressed } => {
            let from = usize::from(runs_at);
            let range = range("runs", from, bytes.len().saturating_sub(from))?;
            if i64::try_from(len).is_err() {
                return Err(corrupt("length of an attribute's value", here, "less than 2^63", len.to_string()));
            }
            Body::NonResident(Extents {
                start,
                runs: place + range.start..place + range.end,
                unit_bits,
                allocated: compressed.unwrap_or(allocated),
                len,
                initialized,
            })
        }
    };
    Ok(Attribute { kind, name, flags: raw.flags, id: raw.id, body })
}

/// Bytes as UTF-16 units.
pub(super) fn units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

impl Record {
    /// A stretch that an attribute of this record names.
    pub fn part(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// The value of a resident attribute of a type.
    pub fn resident(&self, kind: u32) -> Option<&[u8]> {
        self.attributes.iter().find(|attribute| attribute.kind == kind).and_then(|attribute| match &attribute.body {
            Body::Resident(range) => Some(self.part(range)),
            Body::NonResident(_) => None,
        })
    }
}
