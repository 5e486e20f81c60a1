//! The header, its extensions, and the entries of the tables beside it, as they lie in the file: big-endian, nothing
//! checked yet.
//!
//! Source: QEMU docs/interop/qcow2.txt, "Header", "Feature name table", "Snapshots", "Bitmaps extension".

use nom::bytes::complete::{tag, take};
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

/// First bytes of every version.
pub(crate) const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Length of a version 2 header, and of what both versions begin with.
pub(super) const HEADER_V2_BYTES: u32 = 72;
/// Least length of a version 3 header.
pub(super) const HEADER_V3_BYTES: u32 = 104;
/// Length of a feature name table's entry.
const FEATURE_NAME_BYTES: usize = 48;

/// The header's fields in their order; what a version 2 header does not have is as if a version 3 header had the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawHeader {
    pub version: u32,
    pub backing_name_at: u64,
    pub backing_name_len: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub encryption: u32,
    pub l1_entries: u32,
    pub l1_at: u64,
    pub snapshots: u32,
    pub snapshots_at: u64,
    pub incompatible: u64,
    pub autoclear: u64,
    pub refcount_order: u32,
    pub header_len: u32,
    pub compression: u8,
}

/// Takes a header apart; fails only on the magic and on an input too short for its version.
pub(super) fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (rest, (_, version, backing_name_at, backing_name_len)) =
        (tag(&MAGIC[..]), be_u32, be_u64, be_u32).parse(input)?;
    let (rest, (cluster_bits, size, encryption)) = (be_u32, be_u64, be_u32).parse(rest)?;
    let (rest, (l1_entries, l1_at)) = (be_u32, be_u64).parse(rest)?;
    let (rest, (_refcount_table_at, _refcount_table_clusters)) = (be_u64, be_u32).parse(rest)?;
    let (rest, (snapshots, snapshots_at)) = (be_u32, be_u64).parse(rest)?;
    let mut raw = RawHeader {
        version,
        backing_name_at,
        backing_name_len,
        cluster_bits,
        size,
        encryption,
        l1_entries,
        l1_at,
        snapshots,
        snapshots_at,
        incompatible: 0,
        autoclear: 0,
        refcount_order: 4,
        header_len: HEADER_V2_BYTES,
        compression: 0,
    };
    if version < 3 {
        return Ok((rest, raw));
    }
    let (mut rest, (incompatible, _compatible, autoclear, refcount_order, header_len)) =
        (be_u64, be_u64, be_u64, be_u32, be_u32).parse(rest)?;
    if header_len > HEADER_V3_BYTES {
        (rest, raw.compression) = be_u8(rest)?;
    }
    Ok((rest, RawHeader { incompatible, autoclear, refcount_order, header_len, ..raw }))
}

/// A header extension: kind and data.
pub(super) type Extension<'a> = (u32, &'a [u8]);

/// One extension with its padding to 8 bytes, which may be cut off at the end of the area.
pub(super) fn extension(input: &[u8]) -> IResult<&[u8], Extension<'_>> {
    let (rest, (kind, len)) = (be_u32, be_u32).parse(input)?;
    let (rest, data) = take(len)(rest)?;
    let padding = data.len().next_multiple_of(8) - data.len();
    let (rest, _) = take(padding.min(rest.len()))(rest)?;
    Ok((rest, (kind, data)))
}

/// The name that a feature name table has for an incompatible feature bit.
pub(super) fn feature_name(table: &[u8], bit: u32) -> Option<String> {
    const INCOMPATIBLE: u8 = 0;
    let entry =
        table.chunks_exact(FEATURE_NAME_BYTES).find(|entry| entry[0] == INCOMPATIBLE && u32::from(entry[1]) == bit)?;
    let name = entry[2..].split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The bitmaps extension: how many there are, and where their directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawBitmaps {
    pub count: u32,
    pub directory_len: u64,
    pub directory_at: u64,
}

pub(super) fn bitmaps(input: &[u8]) -> IResult<&[u8], RawBitmaps> {
    let (rest, (count, _reserved, directory_len, directory_at)) = (be_u32, be_u32, be_u64, be_u64).parse(input)?;
    Ok((rest, RawBitmaps { count, directory_len, directory_at }))
}

/// An entry of the bitmap directory.
pub(super) struct RawBitmap<'a> {
    pub flags: u32,
    pub granularity_bits: u8,
    pub name: &'a [u8],
}

pub(super) fn bitmap(input: &[u8]) -> IResult<&[u8], RawBitmap<'_>> {
    let (rest, (_table_at, _table_entries, flags)) = (be_u64, be_u32, be_u32).parse(input)?;
    let (rest, (_kind, granularity_bits, name_len, extra_len)) = (be_u8, be_u8, be_u16, be_u32).parse(rest)?;
    let (rest, _extra) = take(extra_len)(rest)?;
    let (rest, name) = take(name_len)(rest)?;
    let len = input.len() - rest.len();
    let (rest, _) = take((len.next_multiple_of(8) - len).min(rest.len()))(rest)?;
    Ok((rest, RawBitmap { flags, granularity_bits, name }))
}

/// Length of the fixed part of a snapshot table's entry.
pub(super) const SNAPSHOT_BYTES: u64 = 40;

/// The fixed part of a snapshot table's entry; extra data, id and name follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawSnapshot {
    pub l1_at: u64,
    pub l1_entries: u32,
    pub id_len: u16,
    pub name_len: u16,
    pub seconds: u32,
    pub nanoseconds: u32,
    pub vm_state_len: u32,
    pub extra_len: u32,
}

pub(super) fn snapshot(input: &[u8]) -> IResult<&[u8], RawSnapshot> {
    let (rest, (l1_at, l1_entries, id_len, name_len)) = (be_u64, be_u32, be_u16, be_u16).parse(input)?;
    let (rest, (seconds, nanoseconds, _guest_clock)) = (be_u32, be_u32, be_u64).parse(rest)?;
    let (rest, (vm_state_len, extra_len)) = (be_u32, be_u32).parse(rest)?;
    let raw = RawSnapshot { l1_at, l1_entries, id_len, name_len, seconds, nanoseconds, vm_state_len, extra_len };
    Ok((rest, raw))
}

/// Of a snapshot's extra data: length of the machine state and size of the disk. Old writers left them out.
pub(super) fn snapshot_extra(input: &[u8]) -> IResult<&[u8], (u64, u64)> {
    (be_u64, be_u64).parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_lie_where_the_format_has_them() {
        let bytes: Vec<u8> = MAGIC.iter().copied().chain([0, 0, 0, 3]).chain(8..120).collect();
        let (_, raw) = header(&bytes).unwrap();
        let u32_at = |at: u8| u32::from_be_bytes([at, at + 1, at + 2, at + 3]);
        let u64_at = |at: u8| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        let expected = RawHeader {
            version: 3,
            backing_name_at: u64_at(8),
            backing_name_len: u32_at(16),
            cluster_bits: u32_at(20),
            size: u64_at(24),
            encryption: u32_at(32),
            l1_entries: u32_at(36),
            l1_at: u64_at(40),
            snapshots: u32_at(60),
            snapshots_at: u64_at(64),
            incompatible: u64_at(72),
            autoclear: u64_at(88),
            refcount_order: u32_at(96),
            header_len: u32_at(100),
            compression: 104,
        };
        assert_eq!(raw, expected);
        let mut old = bytes[..72].to_vec();
        old[7] = 2;
        let (_, raw) = header(&old).unwrap();
        assert_eq!((raw.incompatible, raw.header_len, raw.compression, raw.snapshots_at), (0, 72, 0, u64_at(64)));
        assert!(header(&bytes[..104]).is_err(), "its length says that a byte follows");
        assert!(header(&bytes[..71]).is_err());
    }

    #[test]
    fn extensions_are_padded_and_end_in_the_area() {
        let bytes = [0, 0, 0, 7, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 9];
        assert_eq!(extension(&bytes).unwrap(), (&[9][..], (7, &[1, 2, 3][..])));
        assert_eq!(extension(&bytes[..11]).unwrap(), (&[][..], (7, &[1, 2, 3][..])));
        assert!(extension(&bytes[..10]).is_err());
        assert!(extension(&[0, 0, 0, 7, 255, 255, 255, 255, 1]).is_err());
    }

    #[test]
    fn names_of_features_are_found_by_kind_and_bit() {
        let entry = |kind: u8, bit: u8, name: &str| {
            let mut entry = vec![kind, bit];
            entry.extend(name.bytes());
            entry.resize(48, 0);
            entry
        };
        let table = [entry(1, 9, "other"), entry(0, 9, "wanted"), entry(0, 10, &"x".repeat(46)), vec![0, 11]].concat();
        assert_eq!(feature_name(&table, 9).as_deref(), Some("wanted"));
        assert_eq!(feature_name(&table, 10), Some("x".repeat(46)));
        assert_eq!(feature_name(&table, 11), None);
    }
}
