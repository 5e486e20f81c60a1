//! The header, checked: its holder may use every number without looking again.
//!
//! Only what reading needs is checked. Refcounts say what may be overwritten, so a reader does not look at them, and an
//! image whose refcounts are stale (the dirty bit) reads as well as any other.
//!
//! Source: QEMU docs/interop/qcow2.txt; the limits on tables and names are QEMU's.

use super::header::{self, HEADER_V2_BYTES, HEADER_V3_BYTES, RawBitmaps, RawHeader};
use super::tables::Geometry;
use crate::formats::ImageError;
use crate::formats::backing::Backing;
use crate::formats::file::ImageFile;
use crate::units::{FileOffset, SECTOR_BYTES};

/// Largest L1 table: 32 MiB.
pub(super) const L1_BYTES_MAX: u64 = 32 << 20;
/// Longest backing file name.
const BACKING_NAME_BYTES_MAX: u32 = 1023;
/// Clusters have 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// With subclusters, of which there are 32 and none is smaller than a sector, at least 16 KiB.
const CLUSTER_BITS_EXTENDED_MIN: u32 = 14;
/// Widest refcounts: 64 bits.
const REFCOUNT_ORDER_MAX: u32 = 6;

const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = 0x1f;
const AUTOCLEAR_BITMAPS: u64 = 1 << 0;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// Deflate without a header.
    Deflate,
    Zstd,
}

/// What the image says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub version: u32,
    pub geometry: Geometry,
    /// The active state's L1 table: long enough for the disk, not yet compared with the file.
    pub l1_at: FileOffset,
    pub compression: Compression,
    /// Name and, if the image says so, format of the backing file.
    pub backing: Option<Backing>,
    /// Name of the file that holds the data clusters; `None`: this file.
    pub data_file: Option<Vec<u8>>,
    /// Snapshot table: number of entries and place.
    pub snapshots: (u32, FileOffset),
    /// Persistent bitmaps, and whether they are up to date.
    pub bitmaps: Option<(RawBitmaps, bool)>,
    /// What is odd but harmless.
    pub warnings: Vec<String>,
}

/// The data of the extensions that matter here; a later one of a kind wins.
#[derive(Default)]
struct Extensions<'a> {
    backing_format: Option<&'a [u8]>,
    feature_names: &'a [u8],
    data_file: Option<&'a [u8]>,
    bitmaps: Option<&'a [u8]>,
}

/// Reads and checks the header of `file`.
pub(super) fn read(file: &ImageFile) -> Result<Layout, ImageError> {
    // Header, extensions and names all lie in the first cluster, which has at most 2 MiB.
    let front = file.read_vec("qcow2 header", FileOffset(0), file.len().min(1 << CLUSTER_BITS.end()))?;
    let (_, raw) = header::header(&front).map_err(|_| {
        let found = format!("{} bytes: {:02x?}", front.len(), front.get(..8).unwrap_or(&front));
        file.corrupt("qcow2 header", FileOffset(0), "the magic QFI\\xfb and a whole header", found)
    })?;
    raw.validate(file, &front)
}

impl RawHeader {
    /// Checks the header; `front` is the beginning of the file, at least as long as the file's first cluster.
    fn validate(&self, file: &ImageFile, front: &[u8]) -> Result<Layout, ImageError> {
        let field = |name, at, expected: &str, found: String| -> ImageError {
            file.corrupt(name, FileOffset(at), expected, found).into()
        };
        match self.version {
            2 | 3 => {}
            1 => return Err(file.unsupported("the qcow format (version 1, the one before qcow2)")),
            version => return Err(file.unsupported(format!("qcow2 version {version}"))),
        }
        if !CLUSTER_BITS.contains(&self.cluster_bits) {
            return Err(field("cluster bits", 20, "9 to 21", self.cluster_bits.to_string()));
        }
        let cluster = 1u64 << self.cluster_bits;
        let is_header_len = if self.version == 2 { HEADER_V2_BYTES } else { HEADER_V3_BYTES } <= self.header_len
            && u64::from(self.header_len) <= cluster;
        if !is_header_len {
            let expected = format!("{HEADER_V3_BYTES} to the cluster size of {cluster}");
            return Err(field("header length", 100, &expected, self.header_len.to_string()));
        }
        let first_cluster = front.get(..1 << self.cluster_bits).unwrap_or(front);
        let extensions = self.extensions(file, first_cluster)?;
        self.check_features(file, extensions.feature_names)?;
        let is_encrypted = match self.encryption {
            0 => None,
            1 => Some("AES encryption".to_string()),
            2 => Some("LUKS encryption".to_string()),
            method => Some(format!("encryption method {method}")),
        };
        if let Some(encryption) = is_encrypted {
            return Err(file.unsupported(encryption));
        }
        if self.refcount_order > REFCOUNT_ORDER_MAX {
            return Err(field("refcount order", 96, "at most 6", self.refcount_order.to_string()));
        }
        let mut warnings = Vec::new();
        let geometry = self.geometry(&field, &mut warnings)?;
        let has_data_file = self.incompatible & INCOMPATIBLE_DATA_FILE != 0;
        let data_file = match extensions.data_file {
            _ if !has_data_file => None,
            Some(name) => Some(name.to_vec()),
            None => return Err(file.unsupported("a data file whose name the image does not tell")),
        };
        if self.incompatible & INCOMPATIBLE_DIRTY != 0 {
            warnings.push("it was not closed cleanly (its dirty bit is set): its refcounts may be stale, which reading does not need".to_string());
        }
        Ok(Layout {
            version: self.version,
            geometry,
            l1_at: FileOffset(self.l1_at),
            compression: self.compression(file)?,
            backing: self.backing(&field, first_cluster, extensions.backing_format)?,
            data_file,
            snapshots: (self.snapshots, FileOffset(self.snapshots_at)),
            bitmaps: self.bitmaps(extensions.bitmaps),
            warnings,
        })
    }

    fn extensions<'a>(&self, file: &ImageFile, first_cluster: &'a [u8]) -> Result<Extensions<'a>, ImageError> {
        // The backing file's name ends the area; QEMU writes it behind the extensions.
        let end = match usize::try_from(self.backing_name_at) {
            Ok(at) if at > 0 => at.min(first_cluster.len()),
            _ => first_cluster.len(),
        };
        let start = usize::try_from(self.header_len).unwrap_or(usize::MAX);
        let mut rest = first_cluster.get(start..end).unwrap_or_default();
        let mut found = Extensions::default();
        while rest.len() >= 8 {
            let at = FileOffset((end - rest.len()) as u64);
            let (after, (kind, data)) = header::extension(rest).map_err(|_| {
                let expected = format!("data that ends before {end:#x}");
                file.corrupt("header extension", at, expected, format!("{:02x?}", &rest[..8]))
            })?;
            rest = after;
            match kind {
                EXTENSION_END => break,
                EXTENSION_BACKING_FORMAT => found.backing_format = Some(data),
                EXTENSION_FEATURE_NAMES => found.feature_names = data,
                EXTENSION_DATA_FILE => found.data_file = Some(data),
                EXTENSION_BITMAPS => found.bitmaps = Some(data),
                _ => {} // by the format's rule, what is not known may be ignored
            }
        }
        Ok(found)
    }

    fn check_features(&self, file: &ImageFile, names: &[u8]) -> Result<(), ImageError> {
        let unknown = self.incompatible & !INCOMPATIBLE_KNOWN;
        if unknown != 0 {
            let bit = unknown.trailing_zeros();
            let name = header::feature_name(names, bit).map_or(String::new(), |name| format!(" ({name})"));
            return Err(file.unsupported(format!("incompatible feature bit {bit}{name}")));
        }
        if self.incompatible & INCOMPATIBLE_CORRUPT != 0 {
            let expected = "an image that is not marked as corrupt (qemu-img check -r all may repair it)";
            let at = FileOffset(72);
            return Err(file.corrupt("incompatible features", at, expected, "the corrupt bit").into());
        }
        Ok(())
    }

    fn compression(&self, file: &ImageFile) -> Result<Compression, ImageError> {
        let compression = match self.compression {
            0 => Compression::Deflate,
            1 => Compression::Zstd,
            kind => return Err(file.unsupported(format!("compression type {kind}"))),
        };
        let has_flag = self.incompatible & INCOMPATIBLE_COMPRESSION != 0;
        if has_flag != (compression != Compression::Deflate) {
            let expected = "a compression type other than 0 exactly if incompatible feature bit 3 is set";
            let found = format!("type {} and the bit {}", self.compression, if has_flag { "set" } else { "clear" });
            return Err(file.corrupt("compression type", FileOffset(104), expected, found).into());
        }
        Ok(compression)
    }

    fn geometry(
        &self,
        field: &impl Fn(&'static str, u64, &str, String) -> ImageError,
        warnings: &mut Vec<String>,
    ) -> Result<Geometry, ImageError> {
        let is_extended = self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0;
        if is_extended && self.cluster_bits < CLUSTER_BITS_EXTENDED_MIN {
            let expected = format!("{CLUSTER_BITS_EXTENDED_MIN} to 21 with extended L2 entries");
            return Err(field("cluster bits", 20, &expected, self.cluster_bits.to_string()));
        }
        let size = match self.size.checked_next_multiple_of(SECTOR_BYTES) {
            Some(size) if size <= i64::MAX.unsigned_abs() => size,
            _ => return Err(field("size", 24, "at most 2^63 bytes", self.size.to_string())),
        };
        if size != self.size {
            let said = self.size;
            warnings.push(format!("its size of {said} bytes is not whole sectors: the disk has {size} bytes"));
        }
        let geometry = Geometry { size, cluster_bits: self.cluster_bits, is_extended };
        check_l1(field, geometry, ("size", 24), (self.l1_entries, 36), (self.l1_at, 40))?;
        Ok(geometry)
    }

    fn backing(
        &self,
        field: &impl Fn(&'static str, u64, &str, String) -> ImageError,
        first_cluster: &[u8],
        format: Option<&[u8]>,
    ) -> Result<Option<Backing>, ImageError> {
        if self.backing_name_at == 0 {
            return Ok(None);
        }
        if self.backing_name_len > BACKING_NAME_BYTES_MAX {
            let expected = format!("at most {BACKING_NAME_BYTES_MAX} bytes");
            return Err(field("backing file name length", 16, &expected, self.backing_name_len.to_string()));
        }
        if self.backing_name_len == 0 {
            return Ok(None); // as QEMU has it: no name, no backing file
        }
        let name = usize::try_from(self.backing_name_at).ok().and_then(|at| {
            let end = at.checked_add(usize::try_from(self.backing_name_len).ok()?)?;
            first_cluster.get(at..end)
        });
        match name {
            Some(name) => Ok(Some(Backing { name: name.to_vec(), format: format.map(<[u8]>::to_vec) })),
            None => {
                let found = format!("{:#x}, {} bytes", self.backing_name_at, self.backing_name_len);
                Err(field("backing file name offset", 8, "a name inside the first cluster", found))
            }
        }
    }

    fn bitmaps(&self, extension: Option<&[u8]>) -> Option<(RawBitmaps, bool)> {
        let (_, raw) = header::bitmaps(extension?).ok()?;
        Some((raw, self.autoclear & AUTOCLEAR_BITMAPS != 0))
    }
}

/// Checks that an L1 table is aligned, within the limit, and maps all of the disk. Each number comes with its offset in
/// the file, for the message.
pub(super) fn check_l1(
    field: &impl Fn(&'static str, u64, &str, String) -> ImageError,
    geometry: Geometry,
    (size_name, size_at): (&'static str, u64),
    (entries, entries_at): (u32, u64),
    (at, at_at): (u64, u64),
) -> Result<(), ImageError> {
    let needed = geometry.l1_entries();
    if needed > L1_BYTES_MAX / 8 {
        let expected = format!("a disk that an L1 table of at most {L1_BYTES_MAX} bytes can map");
        return Err(field(size_name, size_at, &expected, geometry.size.to_string()));
    }
    if u64::from(entries) < needed || u64::from(entries) > L1_BYTES_MAX / 8 {
        let expected = format!("{needed} to {} entries", L1_BYTES_MAX / 8);
        return Err(field("L1 table size", entries_at, &expected, entries.to_string()));
    }
    if !at.is_multiple_of(geometry.cluster()) || (at == 0 && needed > 0) {
        let expected = format!("a multiple of the cluster size of {} bytes", geometry.cluster());
        return Err(field("L1 table offset", at_at, &expected, format!("{at:#x}")));
    }
    Ok(())
}
