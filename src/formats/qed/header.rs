//! The header as it lies in the file: little-endian, nothing checked yet.
//!
//! Source: QEMU docs/interop/qed_spec.txt, "Header".

use nom::bytes::complete::tag;
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};

/// First bytes of the file.
pub(crate) const MAGIC: &[u8; 4] = b"QED\0";
/// Length of the header; the name of the backing file lies behind it.
pub(super) const HEADER_BYTES: u64 = 64;

/// The header's fields in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawHeader {
    /// Bytes.
    pub cluster: u32,
    /// Clusters of a table, of either level.
    pub table_clusters: u32,
    /// Clusters of the header.
    pub header_clusters: u32,
    pub features: u64,
    pub l1_at: u64,
    pub size: u64,
    pub backing_name_at: u32,
    pub backing_name_len: u32,
}

/// Takes a header apart; fails only on the magic and on fewer than [`HEADER_BYTES`].
pub(super) fn header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (rest, (_, cluster, table_clusters, header_clusters)) =
        (tag(&MAGIC[..]), le_u32, le_u32, le_u32).parse(input)?;
    let (rest, (features, _compatible, _autoclear)) = (le_u64, le_u64, le_u64).parse(rest)?;
    let (rest, (l1_at, size, backing_name_at, backing_name_len)) = (le_u64, le_u64, le_u32, le_u32).parse(rest)?;
    let raw = RawHeader {
        cluster,
        table_clusters,
        header_clusters,
        features,
        l1_at,
        size,
        backing_name_at,
        backing_name_len,
    };
    Ok((rest, raw))
}
