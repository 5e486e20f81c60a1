//! The log: changes of structures that a writer had promised and not yet carried out when the file was left.
//!
//! A log that is not empty must be replayed before anything else is believed; without it a sound image reads as zeros
//! or worse. The source is never written, so the changes become an overlay: which ranges of the file are zeros, which
//! 4 KiB sectors are really in the log. The overlay holds places, not content, and their number is limited.
//!
//! The log is a ring of 4 KiB units. An entry may begin at each; it counts if its checksum is right, it has the header's
//! GUID, and it belongs to the active sequence: entries side by side, numbered without gap, from the one that the last
//! of them (the head) names as the tail. Source: \[MS-VHDX\] 2.3 "Log".

use std::collections::{BTreeMap, HashMap};

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};
use uuid::Uuid;

use super::header::guid;
use super::layout::LogPlace;
use crate::disk::DiskError;
use crate::formats::file::{Bytes, ImageFile};
use crate::units::FileOffset;

/// The unit of the log, and of what it changes.
const UNIT: u64 = 4096;
const ENTRY_HEADER_BYTES: u64 = 64;
const DESCRIPTOR_BYTES: u64 = 32;
/// Leftovers of old entries are checked in vain; in a log made by a writer, seldom. A log that was made to cost time is
/// refused when more than this many times its length has been read.
const CHECKED_TIMES_MAX: u64 = 8;
/// Most places that a log may change, some 10 MiB of overlay: twice what the data sectors of the largest log could.
const CHANGES_MAX: usize = 1 << 17;

struct RawEntry {
    checksum: u32,
    len: u32,
    tail: u32,
    sequence: u64,
    descriptors: u32,
    log_guid: Uuid,
    flushed_len: u64,
    last_len: u64,
}

fn entry_header(input: &[u8]) -> IResult<&[u8], RawEntry> {
    let (input, (_, checksum, len, tail, sequence)) =
        (tag(&b"loge"[..]), le_u32, le_u32, le_u32, le_u64).parse(input)?;
    let (input, (descriptors, _reserved, log_guid)) = (le_u32, le_u32, guid).parse(input)?;
    let (input, (flushed_len, last_len)) = (le_u64, le_u64).parse(input)?;
    Ok((input, RawEntry { checksum, len, tail, sequence, descriptors, log_guid, flushed_len, last_len }))
}

enum RawDescriptor {
    Zero { len: u64, at: u64, sequence: u64 },
    Data { trailing: [u8; 4], leading: [u8; 8], at: u64, sequence: u64 },
}

fn descriptor(input: &[u8]) -> IResult<&[u8], RawDescriptor> {
    let (input, magic) = take(4usize).parse(input)?;
    let (input, (trailing, leading, at, sequence)) = (take(4usize), take(8usize), le_u64, le_u64).parse(input)?;
    let leading: [u8; 8] = leading.try_into().expect("8 bytes were taken");
    let raw = match magic {
        b"zero" => RawDescriptor::Zero { len: u64::from_le_bytes(leading), at, sequence },
        b"desc" => {
            RawDescriptor::Data { trailing: trailing.try_into().expect("4 bytes were taken"), leading, at, sequence }
        }
        _ => return Err(nom::Err::Error(nom::error::make_error(input, nom::error::ErrorKind::Tag))),
    };
    Ok((input, raw))
}

/// An entry whose checksum is right and whose lengths agree.
#[derive(Clone, Copy)]
struct Entry {
    /// Where it begins in the log.
    at: u64,
    /// Whole units, at most the log's length.
    len: u64,
    tail: u64,
    sequence: u64,
    descriptors: u64,
    flushed_len: u64,
    last_len: u64,
}

impl Entry {
    /// Bytes of header and descriptors, up to the first data sector.
    fn descriptor_area(&self) -> u64 {
        descriptor_area(self.descriptors)
    }
}

fn descriptor_area(descriptors: u64) -> u64 {
    (ENTRY_HEADER_BYTES + descriptors * DESCRIPTOR_BYTES).next_multiple_of(UNIT)
}

/// The file with its log replayed, in memory only.
pub(crate) struct Replayed {
    file: ImageFile,
    /// Changed ranges by their first byte; they do not overlap.
    changes: BTreeMap<u64, Change>,
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    end: u64,
    kind: ChangeKind,
}

#[derive(Clone, Copy, Debug)]
enum ChangeKind {
    Zero,
    /// One unit: in the log at this offset of the file, but for its first 8 and last 4 bytes.
    Sector {
        at: FileOffset,
        leading: [u8; 8],
        trailing: [u8; 4],
    },
}

impl Replayed {
    /// A file whose log is empty.
    pub fn unchanged(file: ImageFile) -> Replayed {
        Replayed { len: file.len(), file, changes: BTreeMap::new() }
    }

    /// Replays the log at `place`, which is inside the file.
    pub fn new(file: ImageFile, place: LogPlace) -> Result<Replayed, DiskError> {
        let log = Log { file: &file, place };
        let sequence = log.active_sequence()?;
        let head = sequence.last().expect("an active sequence has its head");
        if head.flushed_len > file.len() {
            let expected = format!("at least {} bytes, as the log says", head.flushed_len);
            let found = format!("a truncated image of {} bytes", file.len());
            return Err(file.corrupt("file length", FileOffset(file.len()), expected, found));
        }
        let mut changes = BTreeMap::new();
        for entry in &sequence {
            log.apply(entry, &mut changes)?;
        }
        let len = file.len().max(head.last_len);
        Ok(Replayed { file, changes, len })
    }

    /// Whether the log changes anything.
    pub fn is_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Fills `buf` with what the file has at `at`; what the log adds to the file is zeros.
    fn read_file(&self, field: &'static str, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let stored = usize::try_from(self.file.len().saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let (stored, beyond) = buf.split_at_mut(stored);
        beyond.fill(0);
        if stored.is_empty() { Ok(()) } else { self.file.read(field, FileOffset(at), stored) }
    }

    /// Fills `buf` from `skip` bytes into a changed range.
    fn read_change(&self, kind: ChangeKind, skip: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let ChangeKind::Sector { at, leading, trailing } = kind else {
            buf.fill(0);
            return Ok(());
        };
        let mut sector = [0; UNIT as usize];
        self.file.read("log data sector", at, &mut sector)?;
        sector[..8].copy_from_slice(&leading);
        sector[UNIT as usize - 4..].copy_from_slice(&trailing);
        let from = usize::try_from(skip).expect("below the unit");
        buf.copy_from_slice(&sector[from..from + buf.len()]);
        Ok(())
    }
}

impl Bytes for Replayed {
    fn file(&self) -> &ImageFile {
        &self.file
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, field: &'static str, at: FileOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.check_holds(field, at, buf.len() as u64)?;
        let mut at = at.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let before = self.changes.range(..=at).next_back().filter(|(_, change)| change.end > at);
            let until = match before {
                Some((_, change)) => change.end,
                None => self.changes.range(at..).next().map_or(u64::MAX, |(start, _)| *start),
            };
            let len = rest.len().min(usize::try_from(until - at).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match before {
                Some((start, change)) => self.read_change(change.kind, at - start, now)?,
                None => self.read_file(field, at, now)?,
            }
            at += len as u64; // inside the file by the check above
            rest = later;
        }
        Ok(())
    }
}

/// Puts a change over older ones. Ranges and sectors are whole units, so only zeros are ever cut.
fn put(changes: &mut BTreeMap<u64, Change>, start: u64, change: Change) {
    if let Some((&older_start, &older)) = changes.range(..start).next_back()
        && older.end > start
    {
        changes.insert(older_start, Change { end: start, kind: older.kind });
        if older.end > change.end {
            changes.insert(change.end, older);
        }
    }
    while let Some((&older_start, &older)) = changes.range(start..change.end).next() {
        changes.remove(&older_start);
        if older.end > change.end {
            changes.insert(change.end, older);
        }
    }
    changes.insert(start, change);
}

struct Log<'a> {
    file: &'a ImageFile,
    place: LogPlace,
}

impl Log<'_> {
    /// Reads from offset `at` of the ring, `at` below its length and the range no longer than it.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let to_end = usize::try_from(self.place.len - at).unwrap_or(usize::MAX).min(buf.len());
        let (first, wrapped) = buf.split_at_mut(to_end);
        self.file.read("log", FileOffset(self.place.at.0 + at), first)?;
        self.file.read("log", self.place.at, wrapped)
    }

    /// The place in the ring `len` bytes behind `at`.
    fn behind(&self, at: u64, len: u64) -> u64 {
        (at + len) % self.place.len
    }

    fn fault(&self, at: u64, expected: impl ToString, found: impl ToString) -> DiskError {
        self.file.corrupt("log", FileOffset(self.place.at.0 + at), expected, found)
    }

    /// The entries to replay, tail first.
    fn active_sequence(&self) -> Result<Vec<Entry>, DiskError> {
        let entries = self.entries()?;
        let by_place: HashMap<u64, &Entry> = entries.iter().map(|entry| (entry.at, entry)).collect();
        let next = |entry: &Entry| {
            let next = by_place.get(&self.behind(entry.at, entry.len))?;
            (entry.sequence.checked_add(1) == Some(next.sequence)).then_some(*next)
        };
        // Numbers grow along a run of entries, so going down by number meets each head before what leads to it.
        let mut order: Vec<&Entry> = entries.iter().collect();
        order.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
        let mut head_of: HashMap<u64, u64> = HashMap::new();
        for entry in &order {
            let head = next(entry).and_then(|next| head_of.get(&next.at)).copied().unwrap_or(entry.at);
            head_of.insert(entry.at, head);
        }
        let is_active =
            |head: &&&Entry| head_of.get(&head.at) == Some(&head.at) && head_of.get(&head.tail) == Some(&head.at);
        let Some(head) = order.iter().find(is_active) else {
            let expected = format!("a whole sequence of entries of {}", self.place.guid);
            return Err(self.fault(0, expected, "none (the log is damaged)"));
        };
        let mut entry = *by_place.get(&head.tail).expect("the tail is an entry: it has a head");
        let mut sequence = vec![*entry];
        while entry.at != head.at {
            entry = next(entry).expect("the tail leads to this head");
            sequence.push(*entry);
        }
        Ok(sequence)
    }

    /// All sound entries; no two begin inside each other.
    fn entries(&self) -> Result<Vec<Entry>, DiskError> {
        let mut entries = Vec::new();
        let mut budget = self.place.len.saturating_mul(CHECKED_TIMES_MAX);
        let mut at = 0;
        while at < self.place.len {
            match self.entry_at(at, &mut budget)? {
                Some(entry) => {
                    at += entry.len;
                    entries.push(entry);
                }
                None => at += UNIT,
            }
        }
        Ok(entries)
    }

    fn entry_at(&self, at: u64, budget: &mut u64) -> Result<Option<Entry>, DiskError> {
        let mut header = [0; ENTRY_HEADER_BYTES as usize];
        self.read(at, &mut header)?;
        let Ok((_, raw)) = entry_header(&header) else { return Ok(None) };
        let len = u64::from(raw.len);
        let area = descriptor_area(raw.descriptors.into());
        let most = area.saturating_add(u64::from(raw.descriptors) * UNIT);
        let is_sound = raw.log_guid == self.place.guid
            && raw.sequence > 0
            && len.is_multiple_of(UNIT)
            && (area..=most).contains(&len)
            && len <= self.place.len
            && u64::from(raw.tail) < self.place.len
            && u64::from(raw.tail).is_multiple_of(UNIT);
        if !is_sound {
            return Ok(None);
        }
        *budget = budget.checked_sub(len).ok_or_else(|| {
            self.fault(at, "entries apart from each other", "so many inside each other that checking them has no end")
        })?;
        if self.checksum(at, len)? != raw.checksum {
            return Ok(None);
        }
        Ok(Some(Entry {
            at,
            len,
            tail: raw.tail.into(),
            sequence: raw.sequence,
            descriptors: raw.descriptors.into(),
            flushed_len: raw.flushed_len,
            last_len: raw.last_len,
        }))
    }

    /// CRC-32C of an entry, its own checksum taken as zeros.
    fn checksum(&self, at: u64, len: u64) -> Result<u32, DiskError> {
        let mut unit = [0; UNIT as usize];
        let mut sum = 0;
        for done in (0..len).step_by(UNIT as usize) {
            self.read(self.behind(at, done), &mut unit)?;
            if done == 0 {
                unit[4..8].fill(0);
            }
            sum = crc32c::crc32c_append(sum, &unit);
        }
        Ok(sum)
    }

    /// Notes what an entry changes. Its checksum is right, so whatever is wrong in it was written so.
    fn apply(&self, entry: &Entry, changes: &mut BTreeMap<u64, Change>) -> Result<(), DiskError> {
        let mut next_sector = entry.descriptor_area();
        let mut raw = [0; DESCRIPTOR_BYTES as usize];
        for number in 0..entry.descriptors {
            let within = ENTRY_HEADER_BYTES + number * DESCRIPTOR_BYTES;
            let place = self.behind(entry.at, within);
            self.read(place, &mut raw)?;
            let (_, raw) = descriptor(&raw)
                .map_err(|_| self.fault(place, "a log descriptor (zero or desc)", format!("{:02x?}", &raw[..4])))?;
            let (start, end, sequence, kind) = match raw {
                RawDescriptor::Zero { len, at, sequence } => (at, at.checked_add(len), sequence, ChangeKind::Zero),
                RawDescriptor::Data { trailing, leading, at, sequence } => {
                    let sector = self.data_sector(entry, next_sector)?;
                    next_sector += UNIT;
                    let kind = ChangeKind::Sector { at: sector, leading, trailing };
                    (at, at.checked_add(UNIT), sequence, kind)
                }
            };
            if sequence != entry.sequence {
                let expected = format!("a log descriptor of entry {}", entry.sequence);
                return Err(self.fault(place, expected, format!("one of entry {sequence}")));
            }
            match end {
                Some(end) if start.is_multiple_of(UNIT) && end.is_multiple_of(UNIT) => {
                    if end > start {
                        put(changes, start, Change { end, kind });
                        if changes.len() > CHANGES_MAX {
                            return Err(self.fault(place, format!("at most {CHANGES_MAX} changes"), "more"));
                        }
                    }
                }
                _ => {
                    let expected = format!("a log descriptor of whole {UNIT} byte units");
                    return Err(self.fault(place, expected, format!("one from {start:#x}")));
                }
            }
        }
        Ok(())
    }

    /// Where a data sector of `entry` lies in the file, `within` bytes into the entry.
    fn data_sector(&self, entry: &Entry, within: u64) -> Result<FileOffset, DiskError> {
        let place = self.behind(entry.at, within);
        if within >= entry.len {
            let expected = format!("a data sector for each data descriptor of entry {}", entry.sequence);
            return Err(self.fault(place, expected, "the end of the entry"));
        }
        let mut sector = [0; UNIT as usize];
        self.read(place, &mut sector)?;
        let mut sequence = [0; 8];
        sequence[4..].copy_from_slice(&sector[4..8]);
        sequence[..4].copy_from_slice(&sector[UNIT as usize - 4..]);
        if &sector[..4] != b"data" || u64::from_le_bytes(sequence) != entry.sequence {
            let expected = format!("a data sector of entry {}", entry.sequence);
            return Err(self.fault(place, expected, format!("{:02x?}", &sector[..8])));
        }
        Ok(FileOffset(self.place.at.0 + place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_changes_lie_over_earlier_ones() {
        let mut changes = BTreeMap::new();
        let zero = |end| Change { end: end * UNIT, kind: ChangeKind::Zero };
        let sector = |start: u64| Change {
            end: (start + 1) * UNIT,
            kind: ChangeKind::Sector { at: FileOffset(0), leading: [0; 8], trailing: [0; 4] },
        };
        let mut check = |start: u64, change, expected: &[(u64, u64, bool)]| {
            put(&mut changes, start * UNIT, change);
            let found: Vec<_> = changes
                .iter()
                .map(|(start, change)| (start / UNIT, change.end / UNIT, matches!(change.kind, ChangeKind::Zero)))
                .collect();
            assert_eq!(found, expected);
        };
        check(2, zero(8), &[(2, 8, true)]);
        check(4, sector(4), &[(2, 4, true), (4, 5, false), (5, 8, true)]);
        check(2, sector(2), &[(2, 3, false), (3, 4, true), (4, 5, false), (5, 8, true)]);
        check(4, sector(4), &[(2, 3, false), (3, 4, true), (4, 5, false), (5, 8, true)]);
        check(3, zero(6), &[(2, 3, false), (3, 6, true), (6, 8, true)]);
        check(0, zero(7), &[(0, 7, true), (7, 8, true)]);
        check(9, sector(9), &[(0, 7, true), (7, 8, true), (9, 10, false)]);
        check(0, zero(20), &[(0, 20, true)]);
    }
}
