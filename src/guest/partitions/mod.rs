//! Partition tables: which stretches of a disk are meant as disks of their own.
//!
//! In here: MBR with its chain of logical partitions, GPT with its backup, and the decision that a disk has no table at
//! all. Not in here: what lies on a partition ([`detect`](super::detect)), and who wants to know.
//!
//! Partitions are numbered as Linux numbers them, so that `p2` here is `sda2` in the guest. Entries that make no sense are
//! left out with a warning; a damaged table is an error only if nothing of it can be used. At most some hundred KiB are
//! read.
//!
//! Sources: UEFI 2.10 chapter 5; Linux block/partitions (numbering, what counts as a table).

mod gpt;
mod mbr;
mod types;

use serde::Serialize;

use super::GuestError;
use super::detect::{self, ContentKind};
use crate::disk::Disk;
use crate::units::{ByteLen, GuestOffset, SECTOR_BYTES};

/// Warnings of one table; a hostile one could have thousands.
const WARNINGS_MAX: usize = 20;

/// How a disk is divided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionTable {
    /// By which rules.
    pub scheme: Scheme,
    /// Bytes in the sector that the table counts in.
    pub sector_size: u64,
    /// The table's identity as `blkid` prints it: a GUID or eight hexadecimal digits; empty without a table.
    pub id: String,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
    /// What is odd, each in one line.
    pub warnings: Vec<String>,
}

/// The rules by which a disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Not divided: the whole disk is one volume, or empty.
    None,
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// A stretch of the disk; never leaves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// As Linux numbers it, from 1; logical partitions of an MBR from 5.
    pub number: u32,
    /// Where it begins on the disk, in bytes.
    pub start: GuestOffset,
    /// Its length in bytes, ≥ 1.
    pub len: ByteLen,
    /// Its type as `blkid` prints it: `0x83` or a GUID.
    pub type_id: String,
    /// What the type means: `Linux filesystem`; empty if it is not known.
    pub type_name: &'static str,
    /// Its name (GPT only).
    pub name: String,
    /// As Linux's PARTUUID.
    pub uuid: String,
    /// Marked as the one to boot from.
    pub bootable: bool,
    /// An extended partition: it holds logical ones, and nothing of its own.
    pub container: bool,
}

/// Reads a disk's partition table. A disk without one has [`Scheme::None`].
///
/// # Errors
/// [`GuestError::Corrupt`] if there must be a table and no copy of it is sound, or if the disk fails.
pub fn read(disk: &dyn Disk) -> Result<PartitionTable, GuestError> {
    if disk.size().0 < SECTOR_BYTES {
        return Ok(PartitionTable::none());
    }
    let mut sector = [0; SECTOR_BYTES as usize];
    disk.read_at(GuestOffset(0), &mut sector)?;
    if sector.iter().all(|byte| *byte == 0) {
        return without_first_sector(disk);
    }
    let Ok((_, raw)) = mbr::table(&sector) else { return Ok(PartitionTable::none()) };
    if !raw.is_plausible() {
        return Ok(PartitionTable::none());
    }
    if raw.is_protective() {
        return match gpt::read(disk) {
            Ok(table) => Ok(with_hybrid_warning(table, &raw)),
            // A filesystem made over the whole disk may have left the protective MBR as it was.
            Err(GuestError::Corrupt { .. }) if is_one_volume(disk)? => Ok(PartitionTable::none()),
            Err(error) => Err(error),
        };
    }
    // Boot sectors of FAT, NTFS and exFAT end like an MBR, and their code can look like entries.
    let content = detect::detect(disk)?.kind;
    if content.begins_with_boot_sector() || (raw.is_empty() && content.is_known()) {
        return Ok(PartitionTable::none());
    }
    mbr::read(disk, &raw)
}

impl PartitionTable {
    fn none() -> PartitionTable {
        PartitionTable {
            scheme: Scheme::None,
            sector_size: SECTOR_BYTES,
            id: String::new(),
            partitions: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Puts the partitions in order, names overlaps, and cuts the warnings to a readable number.
    fn finished(mut self) -> PartitionTable {
        self.partitions.sort_by_key(|partition| partition.number);
        let mut by_start: Vec<&Partition> = self.partitions.iter().filter(|partition| !partition.container).collect();
        by_start.sort_by_key(|partition| (partition.start, partition.number));
        let mut overlaps = Vec::new();
        let mut reaches_furthest: Option<&Partition> = None;
        for partition in by_start {
            if let Some(before) = reaches_furthest.filter(|before| before.end() > partition.start.0) {
                overlaps.push(format!("partitions {} and {} overlap", before.number, partition.number));
            }
            if reaches_furthest.is_none_or(|before| partition.end() > before.end()) {
                reaches_furthest = Some(partition);
            }
        }
        self.warnings.extend(overlaps);
        let more = self.warnings.len().saturating_sub(WARNINGS_MAX);
        if more > 0 {
            self.warnings.truncate(WARNINGS_MAX);
            self.warnings.push(format!("and {more} more"));
        }
        self
    }
}

impl Partition {
    /// The first byte behind it.
    fn end(&self) -> u64 {
        self.start.0 + self.len.0 // inside the disk, as its maker has checked
    }
}

/// Where an entry lies on the disk in bytes, from its first sector and its number of sectors; what goes beyond the disk is
/// cut off with a warning. `None`, with a warning, if nothing of it is on the disk.
fn place(
    disk_size: u64,
    sector_size: u64,
    number: u32,
    first: u64,
    count: u64,
    warnings: &mut Vec<String>,
) -> Option<(GuestOffset, ByteLen)> {
    let start = first.checked_mul(sector_size).filter(|start| *start < disk_size);
    let Some(start) = start else {
        warnings.push(format!(
            "partition {number} begins at sector {first}, past the end of the disk ({disk_size} bytes): left out"
        ));
        return None;
    };
    let wanted = count.saturating_mul(sector_size);
    let len = wanted.min(disk_size - start);
    if len < wanted {
        let missing = wanted - len;
        warnings.push(format!("partition {number} goes {missing} bytes past the end of the disk: cut off there"));
    }
    (len > 0).then_some((GuestOffset(start), ByteLen(len)))
}

/// The first sector was wiped: a sound GPT is still taken, unless something was made over the whole disk.
fn without_first_sector(disk: &dyn Disk) -> Result<PartitionTable, GuestError> {
    if is_one_volume(disk)? {
        return Ok(PartitionTable::none());
    }
    match gpt::read(disk) {
        Ok(mut table) => {
            table.warnings.insert(0, "the first sector, which should say that there is a GPT, is empty".into());
            Ok(table)
        }
        Err(GuestError::Corrupt { .. }) => Ok(PartitionTable::none()),
        Err(error) => Err(error),
    }
}

fn is_one_volume(disk: &dyn Disk) -> Result<bool, GuestError> {
    // An ISO image may be meant as a disk as well; then its table is as good as its filesystem.
    let kind = detect::detect(disk)?.kind;
    Ok(kind.is_known() && kind != ContentKind::Iso9660)
}

fn with_hybrid_warning(mut table: PartitionTable, raw: &mbr::RawTable) -> PartitionTable {
    let others = raw.entries.iter().filter(|entry| !entry.is_empty() && !entry.is_protective()).count();
    if others > 0 {
        let noun = if others == 1 { "entry" } else { "entries" };
        table.warnings.push(format!("a hybrid MBR: its {others} further {noun} are ignored, as Linux does"));
    }
    table
}

#[cfg(test)]
mod tests;
