//! The boot region: twelve sectors, and a copy of them after it.
//!
//! Layout of the first sector, little-endian: `jump 3 | "EXFAT   " | 0 × 53 | partition at 8 | sectors 8 | table at 4 |
//! sectors of the table 4 | heap at 4 | clusters 4 | root's cluster 4 | serial 4 | revision 2 | flags 2 | log2 bytes of a sector
//! 1 | log2 sectors of a cluster 1 | tables 1 | …`; places are in sectors. The twelfth sector repeats the checksum of the
//! eleven before it. The main region is believed if its checksum is right, else the copy.
//!
//! Source: exFAT specification, 3 "Main and Backup Boot Regions".

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::disk::Disk;
use crate::guest::GuestError;
use crate::guest::clusters::table::{Table, Width};
use crate::guest::clusters::{FIRST_CLUSTER, Heap, corrupt};
use crate::units::GuestOffset;

/// Sectors of a region.
const REGION_SECTORS: u64 = 12;
/// log2 of the bytes of a sector.
const SECTOR_LOGS: std::ops::RangeInclusive<u8> = 9..=12;
/// log2 of the bytes of a cluster at most: 32 MiB.
const CLUSTER_LOG_MAX: u8 = 25;
/// Clusters at most (3.1.9).
const CLUSTERS_MAX: u32 = u32::MAX - 10;
/// Bytes that hold all fields.
const FIELDS_BYTES: usize = 112;
/// Bytes of the first sector that are no part of the checksum: flags, and how full the volume is.
const NOT_SUMMED: [usize; 3] = [106, 107, 112];

/// Bits of the flags (3.1.13).
mod flags {
    pub const SECOND_TABLE: u16 = 1;
    pub const DIRTY: u16 = 2;
    pub const MEDIA_FAILED: u16 = 4;
}

/// The fields we use, nothing checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RawBoot {
    magic: [u8; 8],
    zeros: [u8; 53],
    sectors: u64,
    table_at: u32,
    table_sectors: u32,
    heap_at: u32,
    clusters: u32,
    root_cluster: u32,
    serial: u32,
    revision: u16,
    flags: u16,
    sector_log: u8,
    cluster_log: u8,
    tables: u8,
}

fn boot(input: &[u8]) -> IResult<&[u8], RawBoot> {
    let (input, (_jump, magic, zeros)) = (take(3usize), take(8usize), take(53usize)).parse(input)?;
    let (input, (_partition_at, sectors)) = (le_u64, le_u64).parse(input)?;
    let (input, (table_at, table_sectors, heap_at, clusters)) = (le_u32, le_u32, le_u32, le_u32).parse(input)?;
    let (input, (root_cluster, serial, revision, flags)) = (le_u32, le_u32, le_u16, le_u16).parse(input)?;
    let (input, (sector_log, cluster_log, tables)) = (le_u8, le_u8, le_u8).parse(input)?;
    let raw = RawBoot {
        magic: magic.try_into().expect("8 bytes were taken"),
        zeros: zeros.try_into().expect("53 bytes were taken"),
        sectors,
        table_at,
        table_sectors,
        heap_at,
        clusters,
        root_cluster,
        serial,
        revision,
        flags,
        sector_log,
        cluster_log,
        tables,
    };
    Ok((input, raw))
}

/// Where things lie, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of the volume by its own account.
    pub bytes: u64,
    pub heap: Heap,
    pub table: Table,
    /// Which of two allocation bitmaps counts.
    pub bitmap: u8,
    pub root_cluster: u32,
    pub serial: u32,
    /// It was in use, and nobody said that it no longer is.
    pub dirty: bool,
    pub media_failed: bool,
}

/// Reads the boot region, or its copy if it is damaged: then also why it is not believed.
pub(super) fn read(disk: &dyn Disk) -> Result<(Geometry, Option<GuestError>), GuestError> {
    let damage = match region(disk, 0, None) {
        Ok(geometry) => return Ok((geometry, None)),
        Err(damage) => damage,
    };
    // How long the main region is, its own damage may hide.
    let copies = SECTOR_LOGS.map(|sector_log| region(disk, REGION_SECTORS << sector_log, Some(sector_log)));
    match copies.flatten().next() {
        Some(geometry) => Ok((geometry, Some(damage))),
        None => Err(damage),
    }
}

/// The region at byte `at`, which may be told how long its sectors are.
fn region(disk: &dyn Disk, at: u64, sector_log: Option<u8>) -> Result<Geometry, GuestError> {
    let mut fields = [0; FIELDS_BYTES];
    read_inside(disk, at, &mut fields)?;
    let (_, raw) = boot(&fields).expect("all fields lie in the first 112 bytes");
    let geometry = raw.validate(at)?;
    if sector_log.is_some_and(|log| log != raw.sector_log) {
        return Err(corrupt("log2 of the bytes of an exFAT's sector", at + 108, "that of its place", raw.sector_log));
    }
    let sector_bytes = 1usize << raw.sector_log;
    let mut sectors = vec![0; sector_bytes * 12]; // 48 KiB at most
    read_inside(disk, at, &mut sectors)?;
    let (summed, stored) = sectors.split_at(sector_bytes * 11);
    let is_summed = |(index, byte): (usize, &u8)| (!NOT_SUMMED.contains(&index)).then_some(*byte);
    let expected = checksum(summed.iter().enumerate().filter_map(is_summed));
    let found = stored.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if found != expected {
        let place = at + (11 << raw.sector_log);
        return Err(corrupt(
            "checksum of an exFAT's boot region",
            place,
            format!("{expected:08x}"),
            format!("{found:08x}"),
        ));
    }
    Ok(geometry)
}

fn read_inside(disk: &dyn Disk, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
    let size = disk.size().0;
    if size < at.saturating_add(buf.len() as u64) {
        let expected = format!("{} bytes", buf.len());
        return Err(corrupt("boot region of an exFAT", at, expected, format!("a volume of {size} bytes")));
    }
    Ok(disk.read_at(GuestOffset(at), buf)?)
}

/// The checksum of boot region and up-case table (3.4, 7.2.2).
pub(super) fn checksum(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0, |sum: u32, byte| sum.rotate_right(1).wrapping_add(byte.into()))
}

impl RawBoot {
    /// `at` is where the region begins.
    fn validate(&self, at: u64) -> Result<Geometry, GuestError> {
        if &self.magic != b"EXFAT   " {
            return Err(corrupt(
                "name of an exFAT",
                at + 3,
                "\"EXFAT   \"",
                format!("{:?}", self.magic.escape_ascii().to_string()),
            ));
        }
        if self.zeros.iter().any(|byte| *byte != 0) {
            return Err(corrupt("boot sector of an exFAT", at + 11, "53 zeros", "others"));
        }
        if !SECTOR_LOGS.contains(&self.sector_log) {
            return Err(corrupt("log2 of the bytes of an exFAT's sector", at + 108, "9 to 12", self.sector_log));
        }
        let most = CLUSTER_LOG_MAX - self.sector_log;
        if self.cluster_log > most {
            let expected = format!("at most {most}");
            return Err(corrupt("log2 of the sectors of an exFAT's cluster", at + 109, expected, self.cluster_log));
        }
        if self.revision >> 8 != 1 {
            let feature = format!("exFAT of revision {}.{:02}", self.revision >> 8, self.revision & 0xff);
            return Err(GuestError::Unsupported { feature });
        }
        if !matches!(self.tables, 1 | 2) {
            return Err(corrupt("number of an exFAT's tables", at + 110, "1 or 2", self.tables));
        }
        let bytes = self.sectors.checked_mul(1 << self.sector_log).filter(|bytes| *bytes < 1 << 62);
        let Some(bytes) = bytes else {
            return Err(corrupt("sectors of an exFAT", at + 72, "fewer than 2^62 bytes", self.sectors));
        };
        let table_sectors = u64::from(self.table_sectors);
        let table_end = u64::from(self.table_at) + table_sectors * u64::from(self.tables);
        let heap_at = u64::from(self.heap_at);
        if u64::from(self.table_at) < 2 * REGION_SECTORS || table_end > heap_at {
            let expected = format!("after the boot regions and before the clusters at sector {heap_at}");
            let found = format!("sectors {} to {table_end}", self.table_at);
            return Err(corrupt("file allocation table of an exFAT", at + 80, expected, found));
        }
        // At most 2^33 entries of 4 bytes, and 2^32 sectors of 4 KiB.
        let needed = (u64::from(self.clusters) + u64::from(FIRST_CLUSTER)) * 4;
        if table_sectors << self.sector_log < needed {
            let expected = format!("{needed} bytes for {} clusters", self.clusters);
            let found = format!("{table_sectors} sectors");
            return Err(corrupt("file allocation table of an exFAT", at + 84, expected, found));
        }
        let room = self.sectors.saturating_sub(heap_at) >> self.cluster_log;
        if self.clusters == 0 || self.clusters > CLUSTERS_MAX || u64::from(self.clusters) > room {
            let expected = format!("1 to {}", room.min(CLUSTERS_MAX.into()));
            return Err(corrupt("clusters of an exFAT", at + 92, expected, self.clusters));
        }
        let heap = Heap {
            at: heap_at << self.sector_log,
            cluster_log: u32::from(self.sector_log + self.cluster_log),
            clusters: self.clusters,
        };
        if !heap.has(self.root_cluster) {
            let found = format!("cluster {}", self.root_cluster);
            return Err(corrupt("root directory of an exFAT", at + 96, heap.range(), found));
        }
        let second = self.flags & flags::SECOND_TABLE != 0 && self.tables == 2;
        let table_at = u64::from(self.table_at) + if second { table_sectors } else { 0 };
        Ok(Geometry {
            bytes,
            heap,
            table: Table { at: table_at << self.sector_log, width: Width::ThirtyTwo },
            bitmap: second.into(),
            root_cluster: self.root_cluster,
            serial: self.serial,
            dirty: self.flags & flags::DIRTY != 0,
            media_failed: self.flags & flags::MEDIA_FAILED != 0,
        })
    }
}
