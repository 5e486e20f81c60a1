//! A disk into a VMDK: one file that grows with its content ([`create_sparse`]), the compressed stream of OVF and OVA
//! ([`create_stream`]), a descriptor beside the guest's bytes ([`create_flat`]) or beside growing files of at most 2 GiB
//! ([`create_split`]).
//!
//! In here: what they have in common, i.e. the names of their files, and the hosted sparse extent's header and limits. The
//! sparse ones write 64 KiB grains and leave grains of zeros out; all have a descriptor with a fresh content id. Sector
//! numbers in grain tables have 32 bits, so neither a sparse disk nor its file may pass 2 TiB.
//!
//! Source: VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents" and "Stream-Optimized Compressed Sparse Extents".

mod descriptor;
mod flat;
mod sparse;
mod split;
mod stream;

use std::path::{Path, PathBuf};

pub use self::flat::{create_flat, flat_descriptor};
pub use self::sparse::create_sparse;
pub use self::split::create_split;
pub use self::stream::create_stream;
use crate::formats::sink::TargetError;
use crate::units::{ByteLen, SECTOR_BYTES};

/// A grain, the unit of allocation and compression: 64 KiB, what VMware itself uses.
const GRAIN_BYTES: usize = 64 << 10;
const GRAIN_SECTORS: u32 = 128;
/// Entries of a grain table; the format knows no other number.
const TABLE_ENTRIES: u32 = 512;
const TABLE_BYTES: usize = 2048;
const TABLE_SECTORS: u32 = 4;
/// Directory and table entries are 32-bit sector numbers: files and disks end here, at 2 TiB.
const BYTES_MAX: u64 = SECTOR_BYTES << 32;
/// The descriptor follows the header.
const DESCRIPTOR_SECTOR: u32 = 1;

const FLAG_NEWLINE_TEST: u32 = 0x1;
const FLAG_REDUNDANT_DIRECTORY: u32 = 0x2;
const FLAG_COMPRESSED: u32 = 0x1_0000;
const FLAG_MARKERS: u32 = 0x2_0000;
/// In place of the directory's sector: "see the footer".
const DIRECTORY_AT_END: u64 = u64::MAX;

/// The header of a hosted sparse extent, as far as it differs between our variants.
#[derive(Clone, Debug)]
struct Header {
    version: u32,
    flags: u32,
    capacity_sectors: u64,
    descriptor_sectors: u32,
    redundant_directory_sector: u64,
    directory_sector: u64,
    overhead_sectors: u32,
}

impl Header {
    fn encode(&self) -> [u8; 512] {
        let mut out = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"KDMV");
        put(4, &self.version.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &self.capacity_sectors.to_le_bytes());
        put(20, &u64::from(GRAIN_SECTORS).to_le_bytes());
        put(28, &u64::from(DESCRIPTOR_SECTOR).to_le_bytes());
        put(36, &u64::from(self.descriptor_sectors).to_le_bytes());
        put(44, &TABLE_ENTRIES.to_le_bytes());
        put(48, &self.redundant_directory_sector.to_le_bytes());
        put(56, &self.directory_sector.to_le_bytes());
        put(64, &u64::from(self.overhead_sectors).to_le_bytes());
        // 72 is uncleanShutdown: 0, for the file gets its name only when it is whole.
        put(73, b"\n \r\n");
        let deflate = u16::from(self.flags & FLAG_COMPRESSED != 0);
        put(77, &deflate.to_le_bytes());
        out
    }
}

/// How a VMDK is laid out in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// All in one file.
    Single,
    /// [`create_flat`].
    Flat,
    /// [`create_split`].
    Split,
}

/// The names of all files of a VMDK called `path`, for a disk of `size` bytes; the one to open first.
pub fn file_names(path: &Path, size: ByteLen, variant: Variant) -> Vec<PathBuf> {
    let beside = match variant {
        Variant::Single => Vec::new(),
        Variant::Flat => vec![flat::flat_path(path)],
        Variant::Split => split::split_paths(path, size),
    };
    [vec![path.to_owned()], beside].concat()
}

/// `x.vmdk`, `flat` → `x-flat.vmdk`: how VMware names what lies beside a descriptor. Another ending than `.vmdk` stays in
/// front.
fn extent_path(path: &Path, part: &str) -> PathBuf {
    let is_vmdk = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("vmdk"));
    let stem = if is_vmdk { path.file_stem() } else { path.file_name() };
    let mut name = stem.unwrap_or_default().to_owned();
    name.push(format!("-{part}.vmdk"));
    path.with_file_name(name)
}

/// The name of an extent as its line carries it.
fn name_for_line(path: &Path) -> Result<String, TargetError> {
    descriptor::exact_name(path).ok_or_else(|| TargetError::Kind {
        file: path.to_owned(),
        expected: "a name in UTF-8 that can stand in a VMDK descriptor",
        found: "one with a quote, a backslash, a control character or other bytes",
    })
}

/// The disk's size in sectors and in grain tables, if the format can hold it.
fn capacity(file: &Path, size: ByteLen) -> Result<(u64, u32), TargetError> {
    let refused = || TargetError::DiskSize {
        file: file.to_owned(),
        expected: format!("a multiple of {SECTOR_BYTES}, from {SECTOR_BYTES} to {BYTES_MAX} bytes (2 TiB) for a VMDK"),
        found: size,
    };
    // Capacity 0 would mean "only a descriptor".
    if size.0 == 0 || size.0 > BYTES_MAX || !size.0.is_multiple_of(SECTOR_BYTES) {
        return Err(refused());
    }
    let tables = size.0.div_ceil(u64::from(TABLE_ENTRIES) * GRAIN_BYTES as u64);
    Ok((size.0 / SECTOR_BYTES, u32::try_from(tables).map_err(|_| refused())?))
}

/// The number of a sector that begins at file offset `at`, as it stands in a table; the file must end at `end` or before.
fn entry(file: &Path, at: u64, end: u64) -> Result<u32, TargetError> {
    let full = || TargetError::FileFull { file: file.to_owned(), needed: end, limit: BYTES_MAX };
    if end > BYTES_MAX {
        return Err(full());
    }
    u32::try_from(at / SECTOR_BYTES).map_err(|_| full())
}

/// Sectors that `bytes` bytes occupy.
fn sectors_for(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR_BYTES as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_lie_where_the_format_has_them() {
        let header = Header {
            version: 3,
            flags: 0x3_0001,
            capacity_sectors: 0x0102_0304_0506,
            descriptor_sectors: 20,
            redundant_directory_sector: 21,
            directory_sector: DIRECTORY_AT_END,
            overhead_sectors: 128,
        };
        let bytes = header.encode();
        assert_eq!(bytes[..12], *b"KDMV\x03\0\0\0\x01\0\x03\0");
        assert_eq!(bytes[12..20], [6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(bytes[20..28], [128, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[28..44], [1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[44..56], [0, 2, 0, 0, 21, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[56..72], [255, 255, 255, 255, 255, 255, 255, 255, 128, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[72..80], *b"\0\n \r\n\x01\0\0");
        assert!(bytes[80..].iter().all(|b| *b == 0));
    }

    #[test]
    fn files_are_named_as_vmware_names_them() {
        let check = |path: &str, size, variant, expected: &[&str]| {
            let names = file_names(Path::new(path), ByteLen(size), variant);
            assert_eq!(names, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
        };
        check("/a/x.vmdk", 512, Variant::Single, &["/a/x.vmdk"]);
        check("/a/x.vmdk", 512, Variant::Flat, &["/a/x.vmdk", "/a/x-flat.vmdk"]);
        check("x.VMDK", 512, Variant::Flat, &["x.VMDK", "x-flat.vmdk"]);
        check("x.y", 512, Variant::Flat, &["x.y", "x.y-flat.vmdk"]);
        check("x.vmdk", 2047 << 20, Variant::Split, &["x.vmdk", "x-s001.vmdk"]);
        check("x.vmdk", (2047 << 20) + 512, Variant::Split, &["x.vmdk", "x-s001.vmdk", "x-s002.vmdk"]);
        let large = file_names(Path::new("x.vmdk"), ByteLen(2 << 40), Variant::Split);
        assert_eq!((large.len(), large[1025].as_path()), (1026, Path::new("x-s1025.vmdk")));
    }

    #[test]
    fn sizes_at_the_limits() {
        let check = |size| capacity(Path::new("x"), ByteLen(size)).ok();
        assert_eq!(check(0), None);
        assert_eq!(check(511), None);
        assert_eq!(check(512), Some((1, 1)));
        assert_eq!(check(513), None);
        assert_eq!(check(32 << 20), Some((65_536, 1)));
        assert_eq!(check((32 << 20) + 512), Some((65_537, 2)));
        assert_eq!(check(2 << 40), Some((1 << 32, 65_536)));
        assert_eq!(check((2 << 40) + 512), None);
        assert_eq!(check(u64::MAX), None);
    }

    #[test]
    fn files_end_at_two_tebibytes() {
        let check = |at, end| entry(Path::new("x"), at, end).ok();
        assert_eq!(check(BYTES_MAX - 65_536, BYTES_MAX), Some(u32::MAX - 127));
        assert_eq!(check(BYTES_MAX - 65_536, BYTES_MAX + 1), None);
        assert_eq!(check(BYTES_MAX, BYTES_MAX), None);
    }
}
