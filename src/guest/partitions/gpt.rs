//! The GUID partition table: two headers and two arrays of entries, all with checksums.
//!
//! Header in sector 1, its backup in the last sector; sectors have 512 or 4096 bytes. Little-endian: 0 `EFI PART` |
//! 8 revision u32 | 12 header size u32 | 16 CRC-32 (itself zeroed) | 24 own sector u64 | 32 the other's sector u64 | 56 disk
//! GUID | 72 first sector of the entries u64 | 80 entries u32 | 84 bytes of an entry u32 | 88 CRC-32 of the entries.
//! Entry: 0 type GUID | 16 GUID | 32 first sector u64 | 40 last sector u64, included | 48 attributes u64 | 56 name, 36 UTF-16.
//!
//! Source: UEFI 2.10, 5.3.

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};
use uuid::Uuid;

use super::{Partition, PartitionTable, Scheme, place, types};
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::units::{ByteLen, GuestOffset};

/// Sector sizes, in the order in which they are tried.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// Bytes of a header that are defined, and so its least size.
const HEADER_BYTES_MIN: usize = 92;
/// Where the header's own checksum lies.
const CHECKSUM_AT: std::ops::Range<usize> = 16..20;
/// Least size of an entry.
const ENTRY_BYTES_MIN: u32 = 128;
/// Greatest size of an entry; all that is known use 128.
const ENTRY_BYTES_MAX: u32 = 4096;
/// Largest array we read, 2048 entries; common tables have 128, and Linux stops at 256 partitions.
const ENTRIES_BYTES_MAX: u64 = 256 << 10;
/// Attribute: the old BIOS may boot from it.
const LEGACY_BOOT: u64 = 1 << 2;

/// A header as it lies on the disk.
struct RawHeader {
    header_bytes: u32,
    checksum: u32,
    own_sector: u64,
    other_sector: u64,
    disk: Uuid,
    entries_at: u64,
    entries: u32,
    entry_bytes: u32,
    entries_checksum: u32,
}

/// One entry of the array.
struct RawEntry {
    kind: Uuid,
    id: Uuid,
    first: u64,
    last: u64,
    attributes: u64,
    name: String,
}

/// A header and its array that agree with their checksums.
struct Table {
    sector_size: u64,
    disk: Uuid,
    other_sector: u64,
    entry_bytes: usize,
    entries: Vec<u8>,
}

fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (_, _revision, header_bytes, checksum, _)) =
        (tag(&b"EFI PART"[..]), le_u32, le_u32, le_u32, le_u32).parse(input)?;
    let (input, (own_sector, other_sector, _usable, disk)) = (le_u64, le_u64, take(16usize), guid).parse(input)?;
    let (input, (entries_at, entries, entry_bytes, entries_checksum)) =
        (le_u64, le_u32, le_u32, le_u32).parse(input)?;
    let raw = RawHeader {
        header_bytes,
        checksum,
        own_sector,
        other_sector,
        disk,
        entries_at,
        entries,
        entry_bytes,
        entries_checksum,
    };
    Ok((input, raw))
}

fn entry(input: &[u8]) -> IResult<&[u8], RawEntry> {
    let (input, (kind, id, first, last, attributes)) = (guid, guid, le_u64, le_u64, le_u64).parse(input)?;
    let (input, name) = take(72usize).parse(input)?;
    Ok((input, RawEntry { kind, id, first, last, attributes, name: name_of(name) }))
}

/// A GUID: its first three numbers little-endian, the rest as it is written.
fn guid(input: &[u8]) -> IResult<&[u8], Uuid> {
    let (input, bytes) = take(16usize).parse(input)?;
    Ok((input, Uuid::from_bytes_le(bytes.try_into().expect("16 bytes were taken"))))
}

/// UTF-16, ended by a zero or by the field's end; some tools fill what is unused with ones.
fn name_of(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| !matches!(unit, 0 | 0xffff)).collect();
    String::from_utf16_lossy(&units)
}

/// The table of a disk that should have one.
///
/// # Errors
/// [`GuestError::Corrupt`] about the copy that came closest, if no copy is sound.
pub(super) fn read(disk: &dyn Disk) -> Result<PartitionTable, GuestError> {
    let size = disk.size().0;
    let mut fault: Option<GuestError> = None;
    for (is_backup, sector_size) in [false, true].into_iter().flat_map(|backup| SECTOR_SIZES.map(|size| (backup, size)))
    {
        let sector = if is_backup { (size / sector_size).saturating_sub(1) } else { 1 };
        match table(disk, sector_size, sector) {
            Ok(table) if is_backup => {
                let why = fault.as_ref().map(ToString::to_string).unwrap_or_default();
                let warning = format!(
                    "the backup of the GPT at the end of the disk was used, the one at its beginning is damaged: {why}"
                );
                return Ok(partitions(&table, size, vec![warning]));
            }
            Ok(primary) => {
                let warnings = backup_warning(disk, &primary)?.into_iter().collect();
                return Ok(partitions(&primary, size, warnings));
            }
            Err(found @ GuestError::Corrupt { .. }) => fault = Some(closest(fault, found)),
            Err(error) => return Err(error),
        }
    }
    Err(fault.expect("every attempt that did not return has left a fault"))
}

/// Of two faults the one that says more: a header that is there, but wrong.
fn closest(before: Option<GuestError>, found: GuestError) -> GuestError {
    match before {
        Some(before) if !is_absence(&before) || is_absence(&found) => before,
        _ => found,
    }
}

fn is_absence(fault: &GuestError) -> bool {
    matches!(fault, GuestError::Corrupt { field: "GPT header", .. })
}

fn corrupt(field: &'static str, at: u64, expected: impl Into<String>, found: impl ToString) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.into(), found: found.to_string() }
}

/// Reads and checks the header in `sector` and its array.
fn table(disk: &dyn Disk, sector_size: u64, sector: u64) -> Result<Table, GuestError> {
    let size = disk.size().0;
    let at = sector.saturating_mul(sector_size);
    if at.saturating_add(sector_size) > size {
        return Err(corrupt("GPT header", at, "a disk that goes on", format!("a disk of {size} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(sector_size).expect("512 or 4096")];
    disk.read_at(GuestOffset(at), &mut bytes)?;
    let Ok((_, raw)) = header(&bytes) else {
        return Err(corrupt("GPT header", at, "the magic `EFI PART`", format!("{:02x?}", &bytes[..8])));
    };
    raw.validate(&mut bytes, disk, sector_size, sector)
}

impl RawHeader {
    /// `bytes` is the header's sector.
    fn validate(self, bytes: &mut [u8], disk: &dyn Disk, sector_size: u64, sector: u64) -> Result<Table, GuestError> {
        let at = sector * sector_size; // inside the disk, or the header could not have been read
        let header_bytes = usize::try_from(self.header_bytes).unwrap_or(usize::MAX);
        if !(HEADER_BYTES_MIN..=bytes.len()).contains(&header_bytes) {
            let expected = format!("{HEADER_BYTES_MIN} to {} bytes", bytes.len());
            return Err(corrupt("GPT header size", at + 12, expected, self.header_bytes));
        }
        bytes[CHECKSUM_AT].fill(0);
        let computed = crc32fast::hash(&bytes[..header_bytes]);
        if computed != self.checksum {
            let expected = format!("{:#010x} as the header says", self.checksum);
            return Err(corrupt("GPT header checksum", at + 16, expected, format!("{computed:#010x}")));
        }
        if self.own_sector != sector {
            return Err(corrupt("GPT header's own sector", at + 24, sector.to_string(), self.own_sector));
        }
        let range = ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX;
        if !self.entry_bytes.is_power_of_two() || !range.contains(&self.entry_bytes) {
            let expected = format!("a power of two from {ENTRY_BYTES_MIN} to {ENTRY_BYTES_MAX}");
            return Err(corrupt("GPT entry size", at + 84, expected, self.entry_bytes));
        }
        let entries_bytes = u64::from(self.entries) * u64::from(self.entry_bytes); // two 32-bit numbers
        if entries_bytes > ENTRIES_BYTES_MAX {
            let expected = format!("at most {}", ENTRIES_BYTES_MAX / u64::from(self.entry_bytes));
            return Err(corrupt("number of GPT entries", at + 80, expected, self.entries));
        }
        let entries_at = self.entries_at.checked_mul(sector_size).map(GuestOffset);
        let end = entries_at.and_then(|start| start.checked_add(ByteLen(entries_bytes)));
        let Some(entries_at) = entries_at.filter(|_| end.is_some_and(|end| end.0 <= disk.size().0)) else {
            let expected = format!("{entries_bytes} bytes inside the disk of {}", disk.size());
            return Err(corrupt("place of the GPT entries", at + 72, expected, format!("sector {}", self.entries_at)));
        };
        let mut entries = vec![0; usize::try_from(entries_bytes).expect("at most 256 KiB")];
        disk.read_at(entries_at, &mut entries)?;
        let computed = crc32fast::hash(&entries);
        if computed != self.entries_checksum {
            let expected = format!("{:#010x} as the header says", self.entries_checksum);
            return Err(corrupt("checksum of the GPT entries", entries_at.0, expected, format!("{computed:#010x}")));
        }
        Ok(Table {
            sector_size,
            disk: self.disk,
            other_sector: self.other_sector,
            entry_bytes: usize::try_from(self.entry_bytes).expect("at most 4096"),
            entries,
        })
    }
}

/// Looks at the backup of a sound table: an admin wants to know that it is gone before it is needed.
fn backup_warning(disk: &dyn Disk, primary: &Table) -> Result<Option<String>, GuestError> {
    let sector = primary.other_sector;
    match table(disk, primary.sector_size, sector) {
        Ok(backup) if backup.entries == primary.entries && backup.disk == primary.disk => Ok(None),
        Ok(_) => Ok(Some(format!("the backup of the GPT in sector {sector} differs from the table"))),
        Err(fault @ GuestError::Corrupt { .. }) => Ok(Some(format!("the backup of the GPT is damaged: {fault}"))),
        Err(error) => Err(error),
    }
}

fn partitions(table: &Table, disk_size: u64, mut warnings: Vec<String>) -> PartitionTable {
    let mut partitions = Vec::new();
    for (number, bytes) in (1..).zip(table.entries.chunks_exact(table.entry_bytes)) {
        let (_, raw) = entry(bytes).expect("an entry has at least 128 bytes");
        if raw.kind.is_nil() {
            continue;
        }
        let Some(count) = raw.last.checked_sub(raw.first).and_then(|distance| distance.checked_add(1)) else {
            warnings.push(format!(
                "partition {number} ends at sector {} before it begins at sector {}: left out",
                raw.last, raw.first
            ));
            continue;
        };
        let Some((start, len)) = place(disk_size, table.sector_size, number, raw.first, count, &mut warnings) else {
            continue;
        };
        partitions.push(Partition {
            number,
            start,
            len,
            type_id: raw.kind.to_string(),
            type_name: types::of_gpt(raw.kind),
            name: raw.name,
            uuid: raw.id.to_string(),
            bootable: raw.attributes & LEGACY_BOOT != 0,
            container: false,
        });
    }
    let table = PartitionTable {
        scheme: Scheme::Gpt,
        sector_size: table.sector_size,
        id: table.disk.to_string(),
        partitions,
        warnings,
    };
    table.finished()
}
