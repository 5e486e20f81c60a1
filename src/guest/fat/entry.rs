//! A directory's record, 32 bytes, little-endian: a short name and all that is known about its file, or a piece of the long
//! name of the file that follows.
//!
//! Layout: `name 8 + 3 | attributes 1 | case 1 | created: 10 ms 1, time 2, date 2 | accessed: date 2 | first cluster, high 2 |
//! modified: time 2, date 2 | first cluster, low 2 | bytes 4`. The case bits are Windows NT's, not in the specification.
//!
//! Source: fatgen103, "FAT Directory Structure".

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use super::boot::Kind;
use crate::guest::clusters::content::Record;
use crate::guest::clusters::moment;
use crate::guest::tree::{NodeKind, Time};

/// Bits of the attributes.
pub(super) mod attributes {
    pub const READ_ONLY: u8 = 0x01;
    pub const VOLUME: u8 = 0x08;
    pub const DIRECTORY: u8 = 0x10;
    /// All of read-only, hidden, system and volume: a piece of a long name, for programs that know none.
    pub const LONG_NAME: u8 = 0x0f;
}

/// First bytes of the name of a record that means nothing: this one and all after it, or only this one.
const END: u8 = 0;
const DELETED: u8 = 0xe5;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// From here on nothing was ever written.
    End,
    Deleted,
    LongName,
    Volume,
    /// `.` and `..`.
    Dots,
    Entry,
}

/// A record with a short name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShortEntry {
    pub name: [u8; 11],
    pub attributes: u8,
    pub case: u8,
    created: (u16, u16, u8),
    accessed: u16,
    modified: (u16, u16),
    first_cluster: (u16, u16),
    pub bytes: u32,
}

/// What a record is.
pub(super) fn meaning(record: &Record) -> Meaning {
    let attributes = record[11];
    match record[0] {
        END => Meaning::End,
        DELETED => Meaning::Deleted,
        _ if attributes == attributes::LONG_NAME => Meaning::LongName,
        _ if attributes & attributes::VOLUME != 0 => Meaning::Volume,
        _ if record.starts_with(b".          ") || record.starts_with(b"..         ") => Meaning::Dots,
        _ => Meaning::Entry,
    }
}

/// A record as one with a short name.
pub(super) fn short(record: &Record) -> ShortEntry {
    fields(record).expect("all fields lie in 32 bytes").1
}

fn fields(input: &[u8]) -> IResult<&[u8], ShortEntry> {
    let (input, (name, attributes, case)) = (take(11usize), le_u8, le_u8).parse(input)?;
    let (input, (created_hundredths, created_time, created_date)) = (le_u8, le_u16, le_u16).parse(input)?;
    let (input, (accessed, high, time, date, low, bytes)) =
        (le_u16, le_u16, le_u16, le_u16, le_u16, le_u32).parse(input)?;
    let entry = ShortEntry {
        name: name.try_into().expect("11 bytes were taken"),
        attributes,
        case,
        created: (created_date, created_time, created_hundredths),
        accessed,
        modified: (date, time),
        first_cluster: (high, low),
        bytes,
    };
    Ok((input, entry))
}

impl ShortEntry {
    pub fn kind(&self) -> NodeKind {
        if self.attributes & attributes::DIRECTORY != 0 { NodeKind::Directory } else { NodeKind::File }
    }

    /// The first cluster; 0 for none. Before FAT32 the high half belonged to others.
    pub fn first_cluster(&self, kind: Kind) -> u32 {
        let (high, low) = self.first_cluster;
        let high = if kind == Kind::Fat32 { u32::from(high) << 16 } else { 0 };
        high | u32::from(low)
    }

    /// When it was made, where that was recorded.
    pub fn created(&self) -> Option<Time> {
        let (date, time, hundredths) = self.created;
        (date != 0).then(|| moment::time(date, time, hundredths))
    }

    pub fn modified(&self) -> Time {
        moment::time(self.modified.0, self.modified.1, 0)
    }

    /// The day of the last access.
    pub fn accessed(&self) -> Time {
        moment::time(self.accessed, 0, 0)
    }

    /// What every piece of its long name says, to be recognised as its own.
    pub fn checksum(&self) -> u8 {
        self.name.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
    }
}
