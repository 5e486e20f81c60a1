//! The boot sector: sizes, and where the file table begins.
//!
//! Little-endian: 3 `NTFS    ` | 11 bytes a sector u16 | 13 sectors a cluster u8 (above 0x80: 2^(256-n)) | 40 sectors u64 |
//! 48 first cluster of `$MFT` u64 | 56 of `$MFTMirr` u64 | 64 clusters a file record i8 (negative: 2^-n bytes) |
//! 68 clusters an index block, likewise | 72 serial number u64. After this step all sizes are powers of two within their
//! limits, and the volume's length in bytes fits 63 bits.
//!
//! Source: linux-ntfs documentation, "$Boot"; tried on volumes that mkntfs made.

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u8, le_u16, le_u64};
use nom::{IResult, Parser};

use crate::guest::GuestError;
use crate::units::GuestOffset;

/// What is read of it.
pub(super) const BOOT_BYTES: usize = 512;
const MAGIC: &[u8] = b"NTFS    ";
const SECTOR_BYTES_MIN: u16 = 256;
const SECTOR_BYTES_MAX: u16 = 4096;
/// Largest cluster, since Windows 10.
const CLUSTER_BYTES_MAX: u64 = 2 << 20;
const RECORD_BYTES_MIN: u64 = 512;
/// All that are known have 1 KiB or 4 KiB.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// What the boot sector says, checked.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    /// log2 of the cluster size in bytes.
    pub cluster_bits: u32,
    /// Whole clusters of the volume.
    pub clusters: u64,
    /// Size in bytes.
    pub size: u64,
    /// First cluster of the file table.
    pub table: u64,
    /// First cluster of the copy of its first records.
    pub mirror: u64,
    /// Bytes of a file record.
    pub record_size: usize,
    pub serial: u64,
}

struct RawBoot {
    sector_bytes: u16,
    cluster_sectors: u8,
    sectors: u64,
    table: u64,
    mirror: u64,
    record: u8,
    serial: u64,
}

fn raw(input: &[u8]) -> IResult<&[u8], RawBoot> {
    let (rest, (_, _, sector_bytes, cluster_sectors, _)) =
        (take(3usize), tag(MAGIC), le_u16, le_u8, take(26usize)).parse(input)?;
    let (rest, (sectors, table, mirror, record, _, serial)) =
        (le_u64, le_u64, le_u64, le_u8, take(7usize), le_u64).parse(rest)?;
    Ok((rest, RawBoot { sector_bytes, cluster_sectors, sectors, table, mirror, record, serial }))
}

fn corrupt(field: &'static str, at: u64, expected: impl Into<String>, found: impl ToString) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.into(), found: found.to_string() }
}

/// Reads the volume's first bytes.
pub(super) fn read(bytes: &[u8; BOOT_BYTES]) -> Result<Boot, GuestError> {
    let Ok((_, raw)) = raw(bytes) else {
        let found = bytes[3..11].escape_ascii();
        return Err(corrupt("magic of an NTFS boot sector", 3, "\"NTFS    \"", format!("\"{found}\"")));
    };
    let sector_bytes = raw.sector_bytes;
    if !sector_bytes.is_power_of_two() || !(SECTOR_BYTES_MIN..=SECTOR_BYTES_MAX).contains(&sector_bytes) {
        let expected = format!("a power of two from {SECTOR_BYTES_MIN} to {SECTOR_BYTES_MAX}");
        return Err(corrupt("bytes per sector", 11, expected, sector_bytes));
    }
    let cluster_sectors = match raw.cluster_sectors {
        small @ 0..=0x80 => u64::from(small),
        large => 1u64.checked_shl(256 - u32::from(large)).unwrap_or(0),
    };
    let cluster_bytes = cluster_sectors
        .checked_mul(sector_bytes.into())
        .filter(|bytes| bytes.is_power_of_two() && *bytes <= CLUSTER_BYTES_MAX)
        .ok_or_else(|| {
            let expected = format!("a power of two, and clusters of at most {CLUSTER_BYTES_MAX} bytes");
            corrupt("sectors per cluster", 13, expected, raw.cluster_sectors)
        })?;
    let size = raw
        .sectors
        .checked_mul(sector_bytes.into())
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| corrupt("number of sectors", 40, "fewer than 2^63 bytes", raw.sectors))?;
    let clusters = size / cluster_bytes;
    let inside = |field, at, cluster: u64| {
        if cluster == 0 || cluster >= clusters {
            return Err(corrupt(field, at, format!("1 to {}", clusters.saturating_sub(1)), cluster));
        }
        Ok(cluster)
    };
    let record_bytes = match raw.record {
        clusters @ 0..=0x7f => cluster_bytes * u64::from(clusters),
        shift => 1u64.checked_shl(256 - u32::from(shift)).unwrap_or(0),
    };
    if !record_bytes.is_power_of_two() || !(RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&record_bytes) {
        let expected = format!("a power of two from {RECORD_BYTES_MIN} to {RECORD_BYTES_MAX} bytes");
        return Err(corrupt("size of a file record", 64, expected, record_bytes));
    }
    Ok(Boot {
        cluster_bits: cluster_bytes.trailing_zeros(),
        clusters,
        size,
        table: inside("first cluster of $MFT", 48, raw.table)?,
        // A copy that is nowhere is missed only when it is needed.
        mirror: raw.mirror,
        record_size: usize::try_from(record_bytes).expect("at most 64 KiB"),
        serial: raw.serial,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(changes: &[(usize, &[u8])]) -> [u8; BOOT_BYTES] {
        let mut bytes = [0; BOOT_BYTES];
        bytes[3..11].copy_from_slice(MAGIC);
        let sound: [(usize, &[u8]); 6] =
            [(11, &[0, 2]), (13, &[8]), (40, &[0xff, 0xff]), (48, &[4]), (56, &[2]), (64, &[0xf6])];
        for (at, value) in sound.iter().chain(changes) {
            bytes[*at..*at + value.len()].copy_from_slice(value);
        }
        bytes
    }

    #[track_caller]
    fn check(changes: &[(usize, &[u8])], expected: Result<(u32, u64, usize), &str>) {
        let said = read(&bytes(changes)).map(|boot| (boot.cluster_bits, boot.clusters, boot.record_size));
        assert_eq!(said.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn sizes_are_powers_within_their_limits() {
        check(&[], Ok((12, 8191, 1024)));
        check(&[(11, &[0, 16]), (13, &[1]), (64, &[1])], Ok((12, 65_535, 4096)));
        // 2 MiB clusters: 2^12 sectors.
        check(&[(13, &[0xf4])], Ok((21, 15, 1024)));
        check(&[(13, &[0x80])], Ok((16, 511, 1024)));
        let limits = "a power of two, and clusters of at most 2097152 bytes";
        for (sectors, shown) in [(0, "0"), (3, "3"), (0xf3, "243"), (0x81, "129")] {
            let expected = format!("sectors per cluster at 0xd of the volume: expected {limits}, found {shown}");
            check(&[(13, &[sectors])], Err(&expected));
        }
        let expected = "bytes per sector at 0xb of the volume: expected a power of two from 256 to 4096, found 8192";
        check(&[(11, &[0, 32])], Err(expected));
        for (record, found) in [(0, "0"), (0x7f, "520192"), (0xef, "131072"), (0xf8, "256"), (3, "12288")] {
            let range = "expected a power of two from 512 to 65536 bytes";
            check(
                &[(64, &[record])],
                Err(&format!("size of a file record at 0x40 of the volume: {range}, found {found}")),
            );
        }
        check(
            &[(40, &[0xff; 8])],
            Err("number of sectors at 0x28 of the volume: expected fewer than 2^63 bytes, found 18446744073709551615"),
        );
        check(&[(48, &[0])], Err("first cluster of $MFT at 0x30 of the volume: expected 1 to 8190, found 0"));
        check(
            &[(48, &[0xff, 0x1f])],
            Err("first cluster of $MFT at 0x30 of the volume: expected 1 to 8190, found 8191"),
        );
        check(
            &[(3, b"MSDOS5.0")],
            Err("magic of an NTFS boot sector at 0x3 of the volume: expected \"NTFS    \", found \"MSDOS5.0\""),
        );
    }
}
