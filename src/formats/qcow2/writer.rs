//! A disk into a qcow2 image of version 3: clusters as they are ([`create_plain`]), or compressed with zstd
//! ([`create_compressed`]).
//!
//! In here: what both have in common, i.e. the header and its limits. Both write clusters of 64 KiB with refcounts of
//! 16 bits, leave clusters of zeros out, and name no backing file. L2 tables come into being with their first cluster,
//! so the file grows with its content alone. Header and L1 table are written last.
//!
//! Memory: 16 KiB for each TiB of the disk (its L1 table), whatever is stored; while compressing, a few MiB a thread.
//!
//! Source: QEMU docs/interop/qcow2.txt. qemu-img check finds neither leaks nor errors in what is written here.

mod compressed;
mod plain;

use std::path::Path;

pub use self::compressed::create_compressed;
pub use self::plain::{PlainSink, create_plain};
use super::header::MAGIC;
use crate::formats::sink::TargetError;
use crate::units::{ByteLen, SECTOR_BYTES};

/// The unit of allocation and compression, QEMU's default.
const CLUSTER_BYTES: usize = 64 << 10;
const CLUSTER: u64 = CLUSTER_BYTES as u64;
/// Entries of an L2 table, which fills a cluster.
const TABLE_ENTRIES: usize = CLUSTER_BYTES / 8;
/// Bytes of the disk that an L2 table maps: 512 MiB.
const TABLE_COVERS: u64 = TABLE_ENTRIES as u64 * CLUSTER;
/// Refcounts in a refcount block, which fills a cluster: it covers 2 GiB of the file.
const REFCOUNTS: usize = CLUSTER_BYTES / 2;
/// An L1 table has at most 32 MiB, so a disk at most 2 PiB.
const DISK_BYTES_MAX: u64 = (32 << 20) / 8 * TABLE_COVERS;

/// L1 and L2 entries: what it leads to has refcount 1.
const COPIED: u64 = 1 << 63;
/// L2 entries: a compressed cluster.
const COMPRESSED: u64 = 1 << 62;

const HEADER_BYTES: u32 = 112;
const INCOMPATIBLE_COMPRESSION_BIT: u8 = 3;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const REFCOUNT_ORDER: u32 = 4;

/// The header, as far as it differs between images.
#[derive(Clone, Copy, Debug)]
struct Header {
    size: u64,
    l1_entries: u32,
    l1_at: u64,
    refcount_table_at: u64,
    refcount_table_clusters: u32,
    is_zstd: bool,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(4, &3u32.to_be_bytes());
        put(20, &CLUSTER.trailing_zeros().to_be_bytes());
        put(24, &self.size.to_be_bytes());
        put(36, &self.l1_entries.to_be_bytes());
        put(40, &self.l1_at.to_be_bytes());
        put(48, &self.refcount_table_at.to_be_bytes());
        put(56, &self.refcount_table_clusters.to_be_bytes());
        put(96, &REFCOUNT_ORDER.to_be_bytes());
        put(100, &HEADER_BYTES.to_be_bytes());
        if self.is_zstd {
            put(72, &(1u64 << INCOMPATIBLE_COMPRESSION_BIT).to_be_bytes());
            put(104, &[1]);
            // So that a reader too old for it can say what it lacks.
            out.extend(EXTENSION_FEATURE_NAMES.to_be_bytes());
            out.extend(48u32.to_be_bytes());
            out.extend([0, INCOMPATIBLE_COMPRESSION_BIT]);
            out.extend(b"compression type");
            out.resize(HEADER_BYTES as usize + 8 + 48, 0);
        }
        out.extend([0; 8]); // the end of the extensions
        out
    }
}

/// Entries of the L1 table for a disk of `size` bytes, if the format can hold it.
fn l1_entries(file: &Path, size: ByteLen) -> Result<u32, TargetError> {
    let refused = || TargetError::DiskSize {
        file: file.to_owned(),
        expected: format!("a multiple of {SECTOR_BYTES}, at most {DISK_BYTES_MAX} bytes (2 PiB) for a qcow2"),
        found: size,
    };
    if size.0 > DISK_BYTES_MAX || !size.0.is_multiple_of(SECTOR_BYTES) {
        return Err(refused());
    }
    u32::try_from(size.0.div_ceil(TABLE_COVERS)).map_err(|_| refused())
}

/// Clusters that an L1 table of so many entries fills.
fn l1_clusters(entries: u32) -> u64 {
    (u64::from(entries) * 8).div_ceil(CLUSTER)
}

fn to_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_lie_where_the_format_has_them() {
        let header = Header {
            size: 0x0102_0304_0506,
            l1_entries: 7,
            l1_at: 0x2_0000,
            refcount_table_at: 0x9_0000,
            refcount_table_clusters: 3,
            is_zstd: true,
        };
        let bytes = header.encode();
        let (_, raw) = super::super::header::header(&bytes).unwrap();
        assert_eq!((raw.version, raw.cluster_bits, raw.size, raw.encryption), (3, 16, 0x0102_0304_0506, 0));
        assert_eq!((raw.l1_entries, raw.l1_at, raw.snapshots, raw.backing_name_at), (7, 0x2_0000, 0, 0));
        assert_eq!((raw.incompatible, raw.compression, raw.refcount_order, raw.header_len), (8, 1, 4, 112));
        assert_eq!(bytes[48..60], [0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 3]);
        let (rest, (kind, data)) = super::super::header::extension(&bytes[112..]).unwrap();
        assert_eq!((kind, rest), (EXTENSION_FEATURE_NAMES, &[0; 8][..]));
        assert_eq!(super::super::header::feature_name(data, 3).as_deref(), Some("compression type"));
        let plain = Header { is_zstd: false, ..header }.encode();
        assert_eq!((plain.len(), plain[72..80].to_vec(), plain[104]), (120, vec![0; 8], 0));
    }

    #[test]
    fn sizes_at_the_limits() {
        let check = |size| l1_entries(Path::new("x"), ByteLen(size)).ok();
        assert_eq!(check(0), Some(0));
        assert_eq!(check(511), None);
        assert_eq!(check(512), Some(1));
        assert_eq!(check(512 << 20), Some(1));
        assert_eq!(check((512 << 20) + 512), Some(2));
        assert_eq!(check(2 << 50), Some(1 << 22));
        assert_eq!(check((2 << 50) + 512), None);
        assert_eq!((l1_clusters(0), l1_clusters(8192), l1_clusters(8193)), (0, 1, 2));
    }
}
