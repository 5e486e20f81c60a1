//! The master boot record, and the chain of extended boot records with its logical partitions.
//!
//! Sector 0, little-endian: 440 disk id u32 | 446 entries 16 × 4 | 510 55 AA. An entry: 0 status (00, or 80 to boot) |
//! 4 type | 8 first sector u32 | 12 sectors u32. An extended partition holds a chain of such sectors (EBR): one entry is the
//! logical partition, counted from its own EBR, the other the next EBR, counted from the extended partition.

use std::collections::HashSet;

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u8, le_u32};
use nom::{IResult, Parser};

use super::{Partition, PartitionTable, Scheme, place, types};
use crate::disk::{Disk, check_range};
use crate::guest::GuestError;
use crate::units::{GuestOffset, SECTOR_BYTES};

/// Type of the entry that protects a GPT from programs that know only this table.
const PROTECTIVE: u8 = 0xee;
/// Types of partitions that hold an EBR chain: CHS, LBA, and Linux's own.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Extended boot records followed; Linux has minor numbers for 255 partitions.
const EBRS_MAX: usize = 256;
/// Number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

/// A boot record as it lies on the disk, nothing checked but the two bytes at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawTable {
    pub disk_id: u32,
    pub entries: [RawEntry; 4],
}

/// One of its four entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RawEntry {
    pub status: u8,
    pub kind: u8,
    pub first: u32,
    pub count: u32,
}

/// Takes a boot record apart; fails only on the two bytes at its end.
pub(super) fn table(input: &[u8]) -> IResult<&[u8], RawTable> {
    let (input, (_code, disk_id, _)) = (take(440usize), le_u32, take(2usize)).parse(input)?;
    let (input, (a, b, c, d)) = (entry, entry, entry, entry).parse(input)?;
    let (input, _) = tag(&[0x55, 0xaa][..]).parse(input)?;
    Ok((input, RawTable { disk_id, entries: [a, b, c, d] }))
}

fn entry(input: &[u8]) -> IResult<&[u8], RawEntry> {
    let (input, (status, _, kind, _)) = (le_u8, take(3usize), le_u8, take(3usize)).parse(input)?;
    let (input, (first, count)) = (le_u32, le_u32).parse(input)?;
    Ok((input, RawEntry { status, kind, first, count }))
}

impl RawTable {
    /// Whether these can be entries at all, and not just the last bytes of somebody's boot code.
    pub fn is_plausible(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.status, 0x00 | 0x80))
    }

    pub fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_protective())
    }

    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|entry| entry.is_empty())
    }
}

impl RawEntry {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn is_protective(&self) -> bool {
        self.kind == PROTECTIVE
    }

    fn is_extended(&self) -> bool {
        EXTENDED.contains(&self.kind)
    }
}

/// The partitions of a boot record that is known to be one.
pub(super) fn read(disk: &dyn Disk, raw: &RawTable) -> Result<PartitionTable, GuestError> {
    let mut reader = Reader {
        disk,
        disk_id: raw.disk_id,
        next_logical: FIRST_LOGICAL,
        partitions: Vec::new(),
        warnings: Vec::new(),
    };
    for (number, entry) in (1..).zip(&raw.entries).filter(|(_, entry)| !entry.is_empty()) {
        reader.add(number, entry, entry.first.into());
    }
    for extended in raw.entries.iter().filter(|entry| !entry.is_empty() && entry.is_extended()) {
        reader.logical_partitions(extended)?;
    }
    let table = PartitionTable {
        scheme: Scheme::Mbr,
        sector_size: SECTOR_BYTES,
        id: format!("{:08x}", raw.disk_id),
        partitions: reader.partitions,
        warnings: reader.warnings,
    };
    Ok(table.finished())
}

struct Reader<'d> {
    disk: &'d dyn Disk,
    disk_id: u32,
    next_logical: u32,
    partitions: Vec<Partition>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn add(&mut self, number: u32, entry: &RawEntry, first: u64) {
        let size = self.disk.size().0;
        let Some((start, len)) = place(size, SECTOR_BYTES, number, first, entry.count.into(), &mut self.warnings)
        else {
            return;
        };
        self.partitions.push(Partition {
            number,
            start,
            len,
            type_id: format!("{:#04x}", entry.kind),
            type_name: types::of_mbr(entry.kind),
            name: String::new(),
            uuid: format!("{:08x}-{number:02x}", self.disk_id),
            bootable: entry.status == 0x80,
            container: entry.is_extended(),
        });
    }

    /// Follows the chain in an extended partition as far as it makes sense.
    fn logical_partitions(&mut self, extended: &RawEntry) -> Result<(), GuestError> {
        let container = u64::from(extended.first);
        let mut ebr_at = container;
        let mut seen = HashSet::new();
        loop {
            if !seen.insert(ebr_at) {
                self.warnings.push(format!(
                    "the chain of logical partitions comes back to sector {ebr_at}: it is followed no further"
                ));
                return Ok(());
            }
            if seen.len() > EBRS_MAX {
                self.warnings.push(format!("more than {EBRS_MAX} logical partitions: the rest is left out"));
                return Ok(());
            }
            let Some(ebr) = self.boot_record(ebr_at)? else {
                self.warnings
                    .push(format!("the chain of logical partitions breaks off: no boot record at sector {ebr_at}"));
                return Ok(());
            };
            for (slot, entry) in ebr.entries.iter().enumerate() {
                let first = ebr_at + u64::from(entry.first); // each below 2^34
                // The last two entries should be empty, and hold garbage on some disks; Linux asks for the same.
                let is_sane = slot < 2
                    || (first + u64::from(entry.count) <= container + u64::from(extended.count)
                        && u64::from(entry.first) + u64::from(entry.count) <= u64::from(extended.count));
                if !entry.is_empty() && !entry.is_extended() && is_sane {
                    self.add(self.next_logical, entry, first);
                    self.next_logical += 1; // at most four for each of the records followed
                }
            }
            let next = ebr.entries.iter().find(|entry| !entry.is_empty() && entry.is_extended());
            let Some(next) = next else { return Ok(()) };
            ebr_at = container + u64::from(next.first);
        }
    }

    fn boot_record(&self, sector: u64) -> Result<Option<RawTable>, GuestError> {
        let at = GuestOffset(sector * SECTOR_BYTES); // two 32-bit sector numbers: below 2^42
        let mut bytes = [0; SECTOR_BYTES as usize];
        if check_range(self.disk.size(), at, bytes.len()).is_err() {
            return Ok(None);
        }
        self.disk.read_at(at, &mut bytes)?;
        Ok(table(&bytes).ok().map(|(_, table)| table))
    }
}
