//! The disk map: which chunks make up a disk, as a tree whose parts are themselves stored as (map) chunks.
//!
//!     root: id of a node …  →  node: id of a segment list … (1024)  →  segment list: zero runs and chunks of 4 MiB
//!
//! An all-zero segment, node or disk has the id of zero bytes and costs nothing. An unchanged segment is the same id
//! in the next backup's node. As ids are keyed hashes, the root proves the whole disk.
//!
//! Pure: bytes ⇄ lists. Layouts in docs/FORMAT.md, "Disk map".

use super::ids::ChunkId;
use crate::chunker::SEGMENT_BYTES;

/// Segments in a node: 4 GiB of the disk.
pub const NODE_SEGMENTS: u64 = 1024;
/// Largest disk: its root is then one chunk of 640 KiB.
pub const DISK_BYTES_MAX: u64 = 32_768 * NODE_SEGMENTS * SEGMENT_BYTES as u64;
/// Set in a list entry's length where a chunk id follows.
const CHUNK_FLAG: u32 = 1 << 31;

/// A piece of a segment as its list names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// So many zero bytes.
    Zero(u32),
    /// A chunk and its length in bytes.
    Chunk(ChunkId, u32),
}

impl ListEntry {
    /// Length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u32 {
        match self {
            ListEntry::Zero(len) | ListEntry::Chunk(_, len) => len,
        }
    }
}

/// What is wrong with a map chunk.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadMap(pub String);

/// Appends an entry to a list's bytes.
pub fn push_entry(list: &mut Vec<u8>, entry: ListEntry) {
    match entry {
        ListEntry::Zero(len) => list.extend_from_slice(&len.to_le_bytes()),
        ListEntry::Chunk(id, len) => {
            list.extend_from_slice(&(len | CHUNK_FLAG).to_le_bytes());
            list.extend_from_slice(&id.0);
        }
    }
}

/// Reads the list of a segment of `segment_len` bytes, which its entries must cover exactly.
///
/// # Errors
/// [`BadMap`].
pub fn decode_list(bytes: &[u8], segment_len: usize) -> Result<Vec<ListEntry>, BadMap> {
    let mut entries = Vec::with_capacity(bytes.len() / (4 + ChunkId::LEN));
    let mut covered = 0usize;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<4>() {
        let word = u32::from_le_bytes(*word);
        let len = word & !CHUNK_FLAG;
        covered = covered.saturating_add(len as usize);
        if len == 0 || covered > segment_len {
            return Err(BadMap(format!("an entry of {len} bytes ends at {covered} of {segment_len}")));
        }
        if word & CHUNK_FLAG == 0 {
            entries.push(ListEntry::Zero(len));
            rest = after;
            continue;
        }
        let (id, after) = after
            .split_first_chunk::<{ ChunkId::LEN }>()
            .ok_or_else(|| BadMap("it ends inside a chunk id".to_owned()))?;
        entries.push(ListEntry::Chunk(ChunkId(*id), len));
        rest = after;
    }
    if !rest.is_empty() || covered != segment_len {
        return Err(BadMap(format!("entries cover {covered} of {segment_len} bytes, {} bytes are left", rest.len())));
    }
    Ok(entries)
}

/// The bytes of a node or root.
pub fn encode_ids(ids: &[ChunkId]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.0).collect()
}

/// Reads a node or root of exactly `count` ids.
///
/// # Errors
/// [`BadMap`].
pub fn decode_ids(bytes: &[u8], count: u64) -> Result<Vec<ChunkId>, BadMap> {
    let (ids, rest) = bytes.as_chunks::<{ ChunkId::LEN }>();
    if !rest.is_empty() || ids.len() as u64 != count {
        return Err(BadMap(format!("{} bytes instead of {count} ids", bytes.len())));
    }
    Ok(ids.iter().map(|id| ChunkId(*id)).collect())
}

/// How a disk of some size is divided; all counts are for that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    disk_bytes: u64,
}

impl MapShape {
    /// The shape for a disk of `disk_bytes`; `None` beyond [`DISK_BYTES_MAX`].
    pub fn new(disk_bytes: u64) -> Option<MapShape> {
        (disk_bytes <= DISK_BYTES_MAX).then_some(MapShape { disk_bytes })
    }

    /// Size of the disk in bytes.
    pub fn disk_bytes(self) -> u64 {
        self.disk_bytes
    }

    /// Number of segments.
    pub fn segments(self) -> u64 {
        self.disk_bytes.div_ceil(SEGMENT_BYTES as u64)
    }

    /// Number of nodes.
    pub fn nodes(self) -> u64 {
        self.segments().div_ceil(NODE_SEGMENTS)
    }

    /// Number of segments in node `node`.
    pub fn segments_in_node(self, node: u64) -> u64 {
        self.segments().saturating_sub(node * NODE_SEGMENTS).min(NODE_SEGMENTS)
    }

    /// Where segment `segment` begins, in bytes.
    pub fn segment_at(self, segment: u64) -> u64 {
        segment * SEGMENT_BYTES as u64
    }

    /// Length of segment `segment`, in bytes: shorter only at the end of the disk.
    pub fn segment_len(self, segment: u64) -> usize {
        let left = self.disk_bytes.saturating_sub(self.segment_at(segment));
        usize::try_from(left).map_or(SEGMENT_BYTES, |left| left.min(SEGMENT_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_round_trip_and_must_cover_their_segment() {
        let entries = [ListEntry::Zero(100), ListEntry::Chunk(ChunkId([1; 20]), 50), ListEntry::Zero(6)];
        let mut list = Vec::new();
        entries.iter().for_each(|entry| push_entry(&mut list, *entry));
        assert_eq!(decode_list(&list, 156).unwrap(), entries);
        assert!(decode_list(&list, 155).is_err());
        assert!(decode_list(&list, 157).is_err());
        for len in 0..list.len() {
            assert!(decode_list(&list[..len], 156).is_err(), "cut to {len}");
        }
        assert!(decode_list(&[0; 4], 0).is_err(), "an empty entry");
    }

    #[test]
    fn shapes_at_the_borders() {
        #[track_caller]
        fn check(bytes: u64, segments: u64, nodes: u64, last_len: usize) {
            let shape = MapShape::new(bytes).unwrap();
            assert_eq!((shape.segments(), shape.nodes()), (segments, nodes));
            assert_eq!(shape.segment_len(segments.saturating_sub(1)), last_len);
        }
        let segment = SEGMENT_BYTES as u64;
        check(0, 0, 0, 0);
        check(1, 1, 1, 1);
        check(segment, 1, 1, SEGMENT_BYTES);
        check(segment + 1, 2, 1, 1);
        check(segment * 1024, 1024, 1, SEGMENT_BYTES);
        check(segment * 1024 + 512, 1025, 2, 512);
        check(DISK_BYTES_MAX, 1024 * 32_768, 32_768, SEGMENT_BYTES);
        assert!(MapShape::new(DISK_BYTES_MAX + 1).is_none());
        assert_eq!(MapShape::new(segment * 1025).unwrap().segments_in_node(1), 1);
    }
}
