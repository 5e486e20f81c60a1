//! A file's set of records, each 32 bytes, little-endian: the file's own, that of its content, and its name in pieces of 15
//! units; others may follow. A checksum in the first covers all of them.
//!
//! Layout: `85 | records that follow 1 | checksum 2 | attributes 2 | 0 2 | created 4, modified 4, accessed 4 | 10 ms of created
//! 1, modified 1 | zones of created 1, modified 1, accessed 1`; `c0 | flags 1 | 0 1 | units of the name 1 | its hash 2 | 0 2 |
//! valid length 8 | 0 4 | first cluster 4 | length 8`; `c1 | flags 1 | 15 units`.
//!
//! Source: exFAT specification, 6 "Directory Structure", 7.4 "File", 7.6 "Stream Extension", 7.7 "File Name".

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::guest::GuestError;
use crate::guest::clusters::content::Record;
use crate::guest::clusters::{Clusters, corrupt, moment, name};
use crate::guest::tree::{NodeKind, Time};

/// Types of records; 0 is the end of a directory.
pub(super) mod kinds {
    pub const END: u8 = 0;
    pub const BITMAP: u8 = 0x81;
    pub const UP_CASE: u8 = 0x82;
    pub const LABEL: u8 = 0x83;
    pub const FILE: u8 = 0x85;
    pub const CONTENT: u8 = 0xc0;
    pub const NAME: u8 = 0xc1;
    /// Set in the types of records that belong to the one before them, and in those in use.
    pub const SECONDARY: u8 = 0x40;
    pub const IN_USE: u8 = 0x80;
}

/// Bits of the attributes.
pub(super) mod attributes {
    pub const READ_ONLY: u16 = 0x01;
    pub const DIRECTORY: u16 = 0x10;
}

/// The content's clusters follow each other, and the table does not say so.
const NO_CHAIN: u8 = 0x02;
/// Units of a name in one record.
const PIECE_UNITS: usize = 15;
/// Where the checksum lies, which it does not cover.
const CHECKSUM_AT: std::ops::Range<usize> = 2..4;
/// A zone is given.
const ZONE_VALID: u8 = 0x80;

/// A point in time as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawTime {
    time: u16,
    date: u16,
    hundredths: u8,
    zone: u8,
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileEntry {
    /// Where its first record lies.
    pub at: u64,
    pub attributes: u16,
    created: RawTime,
    modified: RawTime,
    accessed: RawTime,
    pub name: Vec<u16>,
    pub content: Content,
}

/// Where content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub first_cluster: u32,
    pub bytes: u64,
    /// Bytes that were written; zeros follow.
    pub valid_bytes: u64,
    /// Its clusters follow each other.
    pub in_one_piece: bool,
}

struct RawFile {
    checksum: u16,
    attributes: u16,
    created: RawTime,
    modified: RawTime,
    accessed: RawTime,
}

fn file(input: &[u8]) -> IResult<&[u8], RawFile> {
    let (input, (_kind, _following, checksum, attributes, _)) = (le_u8, le_u8, le_u16, le_u16, le_u16).parse(input)?;
    let (input, times) = (le_u16, le_u16, le_u16, le_u16, le_u16, le_u16).parse(input)?;
    let (input, (created_hundredths, modified_hundredths)) = (le_u8, le_u8).parse(input)?;
    let (input, zones) = (le_u8, le_u8, le_u8).parse(input)?;
    let file = RawFile {
        checksum,
        attributes,
        created: RawTime { time: times.0, date: times.1, hundredths: created_hundredths, zone: zones.0 },
        modified: RawTime { time: times.2, date: times.3, hundredths: modified_hundredths, zone: zones.1 },
        accessed: RawTime { time: times.4, date: times.5, hundredths: 0, zone: zones.2 },
    };
    Ok((input, file))
}

struct RawContent {
    name_units: u8,
    content: Content,
}

fn content(input: &[u8]) -> IResult<&[u8], RawContent> {
    let (input, (_kind, flags, _, name_units, _hash)) = (le_u8, le_u8, le_u8, le_u8, le_u16).parse(input)?;
    let (input, (_, valid_bytes, _, first_cluster, bytes)) =
        (take(2usize), le_u64, take(4usize), le_u32, le_u64).parse(input)?;
    let in_one_piece = flags & NO_CHAIN != 0;
    let content = Content { first_cluster, bytes, valid_bytes, in_one_piece };
    Ok((input, RawContent { name_units, content }))
}

/// How many records follow a file's first.
pub(super) fn following(record: &Record) -> usize {
    record[1].into()
}

/// A set whose first record lies at `at`.
pub(super) fn parse(clusters: &Clusters, at: u64, set: &[Record]) -> Result<FileEntry, GuestError> {
    const FIELD: &str = "directory entry of an exFAT";
    let [first, second, names @ ..] = set else {
        return Err(corrupt(FIELD, at, "at least 3 records", set.len()));
    };
    let (_, raw) = file(first).expect("all fields lie in 32 bytes");
    let summed = set.as_flattened().iter().enumerate().filter(|(index, _)| !CHECKSUM_AT.contains(index));
    let sum = summed.fold(0u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    if sum != raw.checksum {
        let [expected, found] = [sum, raw.checksum].map(|sum| format!("{sum:04x}"));
        return Err(corrupt("checksum of a directory entry", at, expected, found));
    }
    if second[0] != kinds::CONTENT {
        return Err(corrupt(FIELD, at, "a record c0 after the first", format!("{:02x}", second[0])));
    }
    let (_, RawContent { name_units, content }) = content(second).expect("all fields lie in 32 bytes");
    let units = usize::from(name_units);
    let pieces = units.div_ceil(PIECE_UNITS);
    let has_name = |names: &[Record]| names.iter().all(|record| record[0] == kinds::NAME);
    let Some(names) = names.get(..pieces).filter(|names| has_name(names)) else {
        return Err(corrupt(FIELD, at, format!("{pieces} records c1 for a name of {units} units"), "fewer"));
    };
    let stored = names.iter().flat_map(|record| record[2..].as_chunks::<2>().0);
    let name: Vec<u16> = stored.take(units).map(|unit| u16::from_le_bytes(*unit)).collect();
    if !name::is_sound(&name::bytes(&name)) {
        let shown = String::from_utf16_lossy(&name);
        return Err(corrupt("name of a directory's entry", at, "a name without / and NUL", format!("{shown:?}")));
    }
    content.check(clusters, at)?;
    Ok(FileEntry {
        at,
        attributes: raw.attributes,
        created: raw.created,
        modified: raw.modified,
        accessed: raw.accessed,
        name,
        content,
    })
}

impl Content {
    fn check(&self, clusters: &Clusters, at: u64) -> Result<(), GuestError> {
        let heap = &clusters.heap;
        let room = u64::from(heap.clusters) << heap.cluster_log;
        if self.bytes > room {
            let expected = format!("at most the {room} bytes of all clusters");
            return Err(corrupt("length of a file", at, expected, self.bytes));
        }
        if self.valid_bytes > self.bytes {
            let expected = format!("at most its length of {} bytes", self.bytes);
            return Err(corrupt("valid length of a file", at, expected, self.valid_bytes));
        }
        if self.bytes > 0 {
            clusters.check_first("first cluster of a file", at, self.first_cluster)?;
        }
        let last = u64::from(self.first_cluster) + clusters.clusters_for(self.bytes);
        if self.in_one_piece && self.bytes > 0 && last > u64::from(heap.clusters) + 2 {
            return Err(corrupt("last cluster of a file", at, heap.range(), format!("cluster {}", last - 1)));
        }
        Ok(())
    }
}

impl RawTime {
    /// Without a zone it is what the clock on the wall said, taken for UTC.
    fn time(self) -> Time {
        let mut time = moment::time(self.date, self.time, self.hundredths);
        if self.zone & ZONE_VALID != 0 {
            // Seven bits with a sign: quarters of an hour east of UTC.
            let quarters = i64::from((self.zone << 1).cast_signed() >> 1);
            time.seconds -= quarters * 15 * 60;
        }
        time
    }
}

impl FileEntry {
    pub fn kind(&self) -> NodeKind {
        if self.attributes & attributes::DIRECTORY != 0 { NodeKind::Directory } else { NodeKind::File }
    }

    pub fn created(&self) -> Time {
        self.created.time()
    }

    pub fn modified(&self) -> Time {
        self.modified.time()
    }

    pub fn accessed(&self) -> Time {
        self.accessed.time()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_know_their_zones() {
        // 2026-11-22 06:30:12.
        let (date, time) = (46 << 9 | 11 << 5 | 22, 6 << 11 | 30 << 5 | 6);
        let utc = 1_795_329_012;
        for (zone, seconds) in
            [(0, utc), (0x80, utc), (0x84, utc - 3600), (0xf8, utc + 2 * 3600), (0xc0, utc + 16 * 3600), (0x04, utc)]
        {
            let found = RawTime { time, date, hundredths: 67, zone }.time();
            assert_eq!(found, Time { seconds, nanoseconds: 670_000_000 }, "{zone:02x}");
        }
    }
}
