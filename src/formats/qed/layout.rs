//! The header, checked: its holder may use every number without looking again. The limits are QEMU's or tighter.

use super::header::{HEADER_BYTES, RawHeader, header};
use crate::formats::ImageError;
use crate::formats::backing::Backing;
use crate::formats::file::ImageFile;
use crate::formats::grains::Geometry;
use crate::units::{FileOffset, SECTOR_BYTES};

const CLUSTER_BYTES_MIN: u32 = 1 << 12;
const CLUSTER_BYTES_MAX: u32 = 1 << 26;
const TABLE_CLUSTERS_MAX: u32 = 16;
/// The header needs one cluster, and no writer takes more; this bounds the look for a name.
const HEADER_CLUSTERS_MAX: u32 = 16;
/// Longest name of a backing file, as in QEMU.
const BACKING_NAME_BYTES_MAX: u32 = 1023;
/// Entries of the first table that we load: 2^41 bytes of disk in the smallest clusters and tables, far more in others.
const L1_ENTRIES_MAX: u64 = 1 << 20;
/// Entries of a second table that are read at once, at most.
const SLICE_ENTRIES: u64 = 4096;

const FEATURE_BACKING: u64 = 1 << 0;
const FEATURE_NEED_CHECK: u64 = 1 << 1;
const FEATURE_BACKING_RAW: u64 = 1 << 2;

/// What an image consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub map: MapLayout,
    pub backing: Option<Backing>,
    /// It was not closed: its tables may lead to clusters that are leaked, never to wrong ones.
    pub needs_check: bool,
}

/// Where the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapLayout {
    /// What is one table there is a slice of a second table here.
    pub geometry: Geometry,
    /// Where the first table lies, as far as the disk needs it inside the file.
    pub l1_at: FileOffset,
    /// Entries of the first table that the disk needs.
    pub l1_entries: u64,
    /// Slices of a second table.
    pub slices: u64,
    /// Bytes of the header: nothing else may lie there.
    pub header: u64,
}

/// Reads and checks the header.
pub(super) fn read(file: &ImageFile) -> Result<Layout, ImageError> {
    let bytes = file.read_vec("QED header", FileOffset(0), HEADER_BYTES)?;
    let (_, raw) = header(&bytes)
        .map_err(|_| file.corrupt("QED header", FileOffset(0), "the magic QED", format!("{:02x?}", &bytes[..4])))?;
    raw.validate(file)
}

impl RawHeader {
    fn validate(&self, file: &ImageFile) -> Result<Layout, ImageError> {
        let field = |name, at, expected: String, found: u64| -> ImageError {
            file.corrupt(name, FileOffset(at), expected, format!("{found:#x}")).into()
        };
        let unknown = self.features & !(FEATURE_BACKING | FEATURE_NEED_CHECK | FEATURE_BACKING_RAW);
        if unknown != 0 {
            return Err(file.unsupported(format!("the QED feature bits {unknown:#x}")));
        }
        if !self.cluster.is_power_of_two() || !(CLUSTER_BYTES_MIN..=CLUSTER_BYTES_MAX).contains(&self.cluster) {
            let expected = format!("a power of two from {CLUSTER_BYTES_MIN} to {CLUSTER_BYTES_MAX} bytes");
            return Err(field("cluster size", 4, expected, self.cluster.into()));
        }
        if !self.table_clusters.is_power_of_two() || self.table_clusters > TABLE_CLUSTERS_MAX {
            let expected = format!("a power of two up to {TABLE_CLUSTERS_MAX} clusters");
            return Err(field("table size", 8, expected, self.table_clusters.into()));
        }
        if self.header_clusters == 0 || self.header_clusters > HEADER_CLUSTERS_MAX {
            let expected = format!("1 to {HEADER_CLUSTERS_MAX} clusters");
            return Err(field("header size", 12, expected, self.header_clusters.into()));
        }
        let cluster = u64::from(self.cluster);
        let entries = cluster * u64::from(self.table_clusters) / 8; // at most 2^27
        let span = cluster * entries; // at most 2^53
        let l1_entries = self.size.div_ceil(span);
        let is_mapped = l1_entries <= entries.min(L1_ENTRIES_MAX) && self.size <= i64::MAX.unsigned_abs();
        if !self.size.is_multiple_of(SECTOR_BYTES) || !is_mapped {
            let expected =
                format!("whole sectors, below 2^63 bytes, that {} tables can map", entries.min(L1_ENTRIES_MAX));
            return Err(field("image size", 48, expected, self.size));
        }
        let header = cluster * u64::from(self.header_clusters);
        let l1_at = FileOffset(self.l1_at);
        if !is_cluster(self.l1_at, cluster, header) {
            let expected = format!("a multiple of {cluster} behind the header");
            return Err(field("L1 table offset", 40, expected, self.l1_at));
        }
        file.check_holds("L1 table", l1_at, l1_entries * 8)?;
        let slice = entries.min(SLICE_ENTRIES);
        let geometry = Geometry { size: self.size, grain: cluster, grains_per_table: slice };
        let map = MapLayout { geometry, l1_at, l1_entries, slices: entries / slice, header };
        let backing = self.backing(file, header)?;
        Ok(Layout { map, backing, needs_check: self.features & FEATURE_NEED_CHECK != 0 })
    }

    fn backing(&self, file: &ImageFile, header: u64) -> Result<Option<Backing>, ImageError> {
        if self.features & FEATURE_BACKING == 0 {
            return Ok(None);
        }
        let (at, len) = (u64::from(self.backing_name_at), u64::from(self.backing_name_len));
        if self.backing_name_len == 0 || self.backing_name_len > BACKING_NAME_BYTES_MAX || at + len > header {
            let expected = format!("1 to {BACKING_NAME_BYTES_MAX} bytes inside the header of {header} bytes");
            let found = format!("{len} bytes at {at:#x}");
            return Err(file.corrupt("backing file name", FileOffset(56), expected, found).into());
        }
        let name = file.read_vec("backing file name", FileOffset(at), len)?;
        let is_raw = self.features & FEATURE_BACKING_RAW != 0;
        Ok(Some(Backing { name, format: is_raw.then(|| b"raw".to_vec()) }))
    }
}

/// Whether a table or a cluster may begin there.
pub(super) fn is_cluster(at: u64, cluster: u64, header: u64) -> bool {
    at.is_multiple_of(cluster) && at >= header
}
