//! The boot sector: where the tables, the root directory and the clusters lie.
//!
//! Layout of the volume: `reserved sectors | tables | root directory (not FAT32) | clusters`. Which FAT it is, the number
//! of clusters says, but that a table length of 0 in 16 bits means FAT32 whatever their number: small ones exist.
//!
//! Source: fatgen103, "Boot Sector and BPB Structure", "FAT Type Determination", "FAT Volume Initialization".

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use crate::guest::GuestError;
use crate::guest::clusters::content::RECORD_BYTES;
use crate::guest::clusters::table::{Table, Width};
use crate::guest::clusters::{FIRST_CLUSTER, Heap, corrupt};

/// Bytes that hold all fields.
pub(super) const BOOT_BYTES: usize = 512;
/// Clusters from which a FAT is FAT16, and from which only FAT32 can be.
const FAT16_CLUSTERS_MIN: u32 = 4085;
const FAT32_CLUSTERS_MIN: u32 = 65_525;
/// Clusters that FAT32 can number in its 28 bits, below the numbers that mean something else.
const CLUSTERS_MAX: u64 = 0x0fff_fff5;
/// Set in the state byte while a volume is in use.
const STATE_DIRTY: u8 = 1;
/// The serial number is there, and label and type after it.
const SIGNATURE_SERIAL: u8 = 0x28;
const SIGNATURE_ALL: u8 = 0x29;

/// The fields we use, nothing checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RawBoot {
    sector_bytes: u16,
    cluster_sectors: u8,
    reserved_sectors: u16,
    tables: u8,
    root_entries: u16,
    sectors_16: u16,
    media: u8,
    table_sectors_16: u16,
    sectors_32: u32,
    /// From byte 36, of FAT32 only.
    wide: RawWide,
    narrow_end: RawEnd,
    wide_end: RawEnd,
}

/// What FAT32 has between the common fields and the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RawWide {
    table_sectors: u32,
    flags: u16,
    version: u16,
    root_cluster: u32,
}

/// The last fields: at byte 36, on FAT32 at byte 64.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RawEnd {
    state: u8,
    signature: u8,
    serial: u32,
    label: [u8; 11],
}

fn boot(input: &[u8]) -> IResult<&[u8], RawBoot> {
    let (input, _jump_and_name) = take(11usize).parse(input)?;
    let (input, (sector_bytes, cluster_sectors, reserved_sectors, tables)) =
        (le_u16, le_u8, le_u16, le_u8).parse(input)?;
    let (input, (root_entries, sectors_16, media, table_sectors_16)) = (le_u16, le_u16, le_u8, le_u16).parse(input)?;
    let (rest, (_geometry, _hidden, sectors_32)) = (le_u32, le_u32, le_u32).parse(input)?;
    let (_, narrow_end) = end(rest)?;
    let (rest, (table_sectors, flags, version, root_cluster)) = (le_u32, le_u16, le_u16, le_u32).parse(rest)?;
    let (rest, _info_and_copy_and_reserved) = take(16usize).parse(rest)?;
    let (rest, wide_end) = end(rest)?;
    let raw = RawBoot {
        sector_bytes,
        cluster_sectors,
        reserved_sectors,
        tables,
        root_entries,
        sectors_16,
        media,
        table_sectors_16,
        sectors_32,
        wide: RawWide { table_sectors, flags, version, root_cluster },
        narrow_end,
        wide_end,
    };
    Ok((rest, raw))
}

fn end(input: &[u8]) -> IResult<&[u8], RawEnd> {
    let (input, (_drive, state, signature, serial)) = (le_u8, le_u8, le_u8, le_u32).parse(input)?;
    let (input, label) = take(11usize).parse(input)?;
    let label = label.try_into().expect("11 bytes were taken");
    Ok((input, RawEnd { state, signature, serial, label }))
}

/// Where things lie, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub kind: Kind,
    /// Bytes of the volume by its own account.
    pub bytes: u64,
    pub heap: Heap,
    pub table: Table,
    pub root: Root,
    /// It was in use, and nobody said that it no longer is.
    pub dirty: bool,
    pub serial: Option<u32>,
    /// The label that was given when it was made.
    pub label: Option<[u8; 11]>,
}

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

/// Where the root directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    /// Before the clusters.
    Fixed { at: u64, len: u64 },
    /// Like any other directory, from this cluster.
    Chain(u32),
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Fat12 => "fat12",
            Kind::Fat16 => "fat16",
            Kind::Fat32 => "fat32",
        }
    }
}

/// Reads the boot sector.
pub(super) fn read(bytes: &[u8; BOOT_BYTES]) -> Result<Geometry, GuestError> {
    let (_, raw) = boot(bytes).expect("all fields lie in the first 512 bytes");
    raw.validate()
}

impl RawBoot {
    fn validate(self) -> Result<Geometry, GuestError> {
        let sector_bytes = u64::from(self.sector_bytes);
        if !self.sector_bytes.is_power_of_two() || !(512..=4096).contains(&self.sector_bytes) {
            return Err(corrupt("bytes of a FAT's sector", 11, "512, 1024, 2048 or 4096", self.sector_bytes));
        }
        if !self.cluster_sectors.is_power_of_two() {
            return Err(corrupt("sectors of a FAT's cluster", 13, "a power of two", self.cluster_sectors));
        }
        if self.reserved_sectors == 0 {
            return Err(corrupt("reserved sectors of a FAT", 14, "at least 1", 0));
        }
        if self.tables == 0 {
            return Err(corrupt("number of file allocation tables", 16, "at least 1", 0));
        }
        if self.media != 0xf0 && self.media < 0xf8 {
            return Err(corrupt("media of a FAT", 21, "f0, or f8 to ff", format!("{:02x}", self.media)));
        }
        let is_wide = self.table_sectors_16 == 0;
        let table_sectors = if is_wide { self.wide.table_sectors.into() } else { u64::from(self.table_sectors_16) };
        if table_sectors == 0 {
            return Err(corrupt("sectors of a file allocation table", 36, "at least 1", 0));
        }
        let sectors = if self.sectors_16 == 0 { self.sectors_32.into() } else { u64::from(self.sectors_16) };
        // Numbers of at most 32 bits, times at most 2^8, and positions times 2^12: far below 2^64.
        let root_sector = u64::from(self.reserved_sectors) + u64::from(self.tables) * table_sectors;
        let root_bytes = u64::from(self.root_entries) * RECORD_BYTES as u64;
        let heap_sector = root_sector + root_bytes.div_ceil(sector_bytes);
        let heap_sectors = sectors.saturating_sub(heap_sector);
        let counted = heap_sectors / u64::from(self.cluster_sectors);
        if counted == 0 {
            let expected = format!("more than the {heap_sector} before the first cluster");
            return Err(corrupt("sectors of a FAT", 32, expected, sectors));
        }
        let kind = self.kind(is_wide, counted)?;
        let width = match kind {
            Kind::Fat12 => Width::Twelve,
            Kind::Fat16 => Width::Sixteen,
            Kind::Fat32 => Width::TwentyEight,
        };
        // A cluster that the table has no entry for does not exist.
        let entries = table_sectors * sector_bytes * 8 / width.stride_bits();
        let clusters = counted.min(entries.saturating_sub(FIRST_CLUSTER.into())).min(CLUSTERS_MAX);
        let heap = Heap {
            at: heap_sector * sector_bytes,
            cluster_log: (sector_bytes * u64::from(self.cluster_sectors)).trailing_zeros(),
            clusters: u32::try_from(clusters).expect("28 bits"),
        };
        let table_at = u64::from(self.reserved_sectors) + self.active_table(is_wide)? * table_sectors;
        let root = match kind {
            Kind::Fat32 => Root::Chain(self.wide.root_cluster),
            Kind::Fat12 | Kind::Fat16 => Root::Fixed { at: root_sector * sector_bytes, len: root_bytes },
        };
        match root {
            Root::Chain(cluster) if !heap.has(cluster) => {
                return Err(corrupt("root directory of a FAT", 44, heap.range(), format!("cluster {cluster}")));
            }
            Root::Fixed { len: 0, .. } => {
                return Err(corrupt("entries of a FAT's root directory", 17, "at least 1", 0));
            }
            _ => {}
        }
        let end = if is_wide { self.wide_end } else { self.narrow_end };
        Ok(Geometry {
            kind,
            bytes: sectors * sector_bytes,
            heap,
            table: Table { at: table_at * sector_bytes, width },
            root,
            dirty: end.state & STATE_DIRTY != 0,
            serial: matches!(end.signature, SIGNATURE_SERIAL | SIGNATURE_ALL).then_some(end.serial),
            label: (end.signature == SIGNATURE_ALL).then_some(end.label),
        })
    }

    fn kind(&self, is_wide: bool, clusters: u64) -> Result<Kind, GuestError> {
        if is_wide && self.wide.version != 0 {
            let feature = format!("FAT32 of version {}.{}", self.wide.version >> 8, self.wide.version & 0xff);
            return Err(GuestError::Unsupported { feature });
        }
        match clusters {
            _ if is_wide => Ok(Kind::Fat32),
            few if few < FAT16_CLUSTERS_MIN.into() => Ok(Kind::Fat12),
            some if some < FAT32_CLUSTERS_MIN.into() => Ok(Kind::Fat16),
            many => {
                let expected = format!("fewer than {FAT32_CLUSTERS_MIN} with a table of 16 bits");
                Err(corrupt("clusters of a FAT", 32, expected, many))
            }
        }
    }

    /// Which table counts: the first, unless FAT32 says that only another one is kept up to date.
    fn active_table(&self, is_wide: bool) -> Result<u64, GuestError> {
        const MIRRORING_OFF: u16 = 0x80;
        const ACTIVE: u16 = 0xf;
        if !is_wide || self.wide.flags & MIRRORING_OFF == 0 {
            return Ok(0);
        }
        let active = self.wide.flags & ACTIVE;
        if active >= self.tables.into() {
            let expected = format!("below {}", self.tables);
            return Err(corrupt("active file allocation table", 40, expected, active));
        }
        Ok(active.into())
    }
}
