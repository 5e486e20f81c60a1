//! The directory of a pack: which blobs it holds, and which chunks each blob holds. Sealed in the pack itself, repeated
//! in index segments, cached in the index.
//!
//! Layout, little-endian (docs/FORMAT.md, "Pack directory"):
//!
//!     blob count 4 | per blob: sealed length 4 | plain length 4 | codec 1 | chunk count 4 | (chunk id 20 | length 4) …
//!
//! Blobs lie one behind the other from byte 80 on, chunks one behind the other in their blob.

use nom::Parser;
use nom::bytes::take;
use nom::number::complete::{le_u8, le_u32};

use crate::repo::blob::{BLOB_PLAIN_BYTES_MAX, CHUNK_BYTES_MAX, Codec};
use crate::repo::ids::ChunkId;
use crate::repo::seal::{HEADER_BYTES, TAG_BYTES};

/// Where a blob lies in its pack, and what it unpacks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// Offset in the pack, in bytes.
    pub at: u64,
    /// Length in the pack, in bytes, tag included.
    pub sealed_len: u32,
    /// Length of its plain bytes.
    pub plain_len: u32,
    /// How the plain bytes were packed.
    pub codec: Codec,
}

/// Where a chunk lies: the number of its blob, and its range in the blob's plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Number of the blob in the pack.
    pub blob: u32,
    /// Offset in the blob's plain bytes.
    pub at: u32,
    /// Length in bytes.
    pub len: u32,
}

impl ChunkPlace {
    /// Where it ends in the blob's plain bytes; a directory has none that ends behind them.
    pub fn end(self) -> u32 {
        self.at + self.len
    }
}

/// The checked directory of one pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    blobs: Vec<BlobEntry>,
    /// In the order in which they lie in the pack; `first_chunk[b]..first_chunk[b + 1]` are those of blob `b`.
    chunks: Vec<(ChunkId, ChunkPlace)>,
    first_chunk: Vec<u32>,
    /// Positions in `chunks`, sorted by id: a search stays in few cache lines.
    by_id: Vec<IdAndPosition>,
}

/// The first four bytes of an id, and below them its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct IdAndPosition(u64);

/// What is wrong with a directory.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadDirectory(pub String);

/// A blob as the directory lists it, nothing checked yet.
struct RawBlob<'a> {
    sealed_len: u32,
    plain_len: u32,
    codec: u8,
    /// Of each an id and a length.
    chunks: &'a [[u8; ENTRY_BYTES]],
}

/// What the directory says of a blob before its chunks.
const BLOB_BYTES: usize = 4 + 4 + 1 + 4;
/// A chunk as the directory lists it.
const ENTRY_BYTES: usize = ChunkId::LEN + 4;

type Parsed<'a, T> = nom::IResult<&'a [u8], T>;

fn raw_blob(input: &[u8]) -> Parsed<'_, RawBlob<'_>> {
    let (rest, (sealed_len, plain_len, codec, count)) = (le_u32, le_u32, le_u8, le_u32).parse(input)?;
    let (rest, entries) = take((count as usize).saturating_mul(ENTRY_BYTES)).parse(rest)?;
    Ok((rest, RawBlob { sealed_len, plain_len, codec, chunks: entries.as_chunks().0 }))
}

impl Directory {
    /// Reads a directory; `body_len` is the length of what may hold blobs (the pack without directory and trailer).
    ///
    /// # Errors
    /// [`BadDirectory`] with what does not add up.
    pub fn decode(bytes: &[u8], body_len: u64) -> Result<Directory, BadDirectory> {
        let ends_early = |_: nom::Err<nom::error::Error<&[u8]>>| BadDirectory("it ends early".to_owned());
        let (mut rest, blobs) = le_u32(bytes).map_err(ends_early)?;
        let mut directory = Directory { chunks: Vec::with_capacity(bytes.len() / ENTRY_BYTES), ..Directory::default() };
        let mut at = HEADER_BYTES as u64;
        for number in 0..blobs {
            let (behind, raw) = raw_blob(rest).map_err(ends_early)?;
            directory.add_raw(number, &mut at, &raw, body_len)?;
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(BadDirectory(format!("{} bytes follow its last blob", rest.len())));
        }
        let count = u32::try_from(directory.chunks.len()).map_err(|_| BadDirectory("too many chunks".to_owned()))?;
        directory.first_chunk.push(count);
        let chunks = &directory.chunks;
        directory.by_id =
            (0..count).map(|position| IdAndPosition::new(chunks[position as usize].0, position)).collect();
        directory.by_id.sort_unstable();
        for alike in directory.by_id.chunk_by_mut(|a, b| a.id_start() == b.id_start()).filter(|alike| alike.len() > 1) {
            alike.sort_unstable_by_key(|entry| chunks[entry.position()].0);
        }
        Ok(directory)
    }

    fn add_raw(&mut self, blob: u32, at: &mut u64, raw: &RawBlob<'_>, body_len: u64) -> Result<(), BadDirectory> {
        let codec = Codec::from_byte(raw.codec)
            .ok_or_else(|| BadDirectory(format!("blob {blob}: unknown codec {}", raw.codec)))?;
        if raw.plain_len as usize > BLOB_PLAIN_BYTES_MAX {
            return Err(BadDirectory(format!("blob {blob}: {} plain bytes, more than allowed", raw.plain_len)));
        }
        if (raw.sealed_len as usize) < TAG_BYTES {
            return Err(BadDirectory(format!("blob {blob}: {} sealed bytes, less than a tag", raw.sealed_len)));
        }
        let end = at.checked_add(u64::from(raw.sealed_len)).filter(|end| *end <= body_len);
        let Some(end) = end else {
            return Err(BadDirectory(format!("blob {blob} at {at} with {} bytes leaves the pack", raw.sealed_len)));
        };
        // A blob that compression would lengthen is stored as it is, so none is longer than its plain bytes may be.
        if raw.sealed_len as usize > BLOB_PLAIN_BYTES_MAX + TAG_BYTES {
            return Err(BadDirectory(format!("blob {blob}: {} sealed bytes, more than allowed", raw.sealed_len)));
        }
        let first = u32::try_from(self.chunks.len()).map_err(|_| BadDirectory("too many chunks".to_owned()))?;
        self.first_chunk.push(first);
        let mut chunk_at = 0u32;
        for entry in raw.chunks {
            let (id, len) = entry.split_first_chunk().expect("an entry has an id and a length");
            let (id, len) = (ChunkId(*id), u32::from_le_bytes(len.try_into().expect("a length has four bytes")));
            let chunk_end = chunk_at.checked_add(len).filter(|end| *end <= raw.plain_len && len > 0);
            if len as usize > CHUNK_BYTES_MAX {
                return Err(BadDirectory(format!("blob {blob}: a chunk of {len} bytes, more than allowed")));
            }
            let Some(chunk_end) = chunk_end else {
                return Err(BadDirectory(format!("blob {blob}: chunk at {chunk_at} with {len} bytes leaves it")));
            };
            self.chunks.push((id, ChunkPlace { blob, at: chunk_at, len }));
            chunk_at = chunk_end;
        }
        if chunk_at != raw.plain_len {
            return Err(BadDirectory(format!("blob {blob}: chunks cover {chunk_at} of {} bytes", raw.plain_len)));
        }
        self.blobs.push(BlobEntry { at: *at, sealed_len: raw.sealed_len, plain_len: raw.plain_len, codec });
        *at = end;
        Ok(())
    }

    /// The blobs, in the order in which they lie in the pack.
    pub fn blobs(&self) -> &[BlobEntry] {
        &self.blobs
    }

    /// The chunks, in the order in which they lie in the pack.
    pub fn chunks(&self) -> &[(ChunkId, ChunkPlace)] {
        &self.chunks
    }

    /// The chunks of one blob, in the order in which they lie in it; empty for a blob that is not there.
    pub fn chunks_of_blob(&self, blob: u32) -> &[(ChunkId, ChunkPlace)] {
        let blob = blob as usize;
        match self.first_chunk.get(blob..blob + 2) {
            Some([from, to]) => &self.chunks[*from as usize..*to as usize],
            _ => &[],
        }
    }

    /// Where the chunk `id` lies, if this pack holds it.
    pub fn find(&self, id: ChunkId) -> Option<ChunkPlace> {
        Some(self.chunks[self.position(id)?].1)
    }

    /// As [`Directory::position`], with a guess: what was stored in one run probably comes again in the same order.
    pub fn position_after(&self, last: usize, id: ChunkId) -> Option<usize> {
        let next = last + 1;
        if self.chunks.get(next).is_some_and(|chunk| chunk.0 == id) { Some(next) } else { self.position(id) }
    }

    /// Which of the pack's chunks `id` is, counted from 0 in the order in which they lie in it.
    pub fn position(&self, id: ChunkId) -> Option<usize> {
        let start = IdAndPosition::new(id, 0).id_start();
        let found = self.by_id.binary_search_by(|entry| {
            entry.id_start().cmp(&start).then_with(|| self.chunks[entry.position()].0.cmp(&id))
        });
        Some(self.by_id[found.ok()?].position())
    }
}

impl IdAndPosition {
    fn new(id: ChunkId, position: u32) -> IdAndPosition {
        let start = u32::from_be_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]);
        IdAndPosition(u64::from(start) << 32 | u64::from(position))
    }

    /// A number that sorts as ids do, and nearly always tells an id from all others of a pack.
    fn id_start(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn position(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }
}

/// Builds the bytes of a directory while a pack is being written.
#[derive(Default)]
pub struct DirectoryBuilder {
    blobs: u32,
    entries: Vec<u8>,
}

impl DirectoryBuilder {
    /// Adds the next blob.
    pub fn add(&mut self, sealed_len: u32, plain_len: u32, codec: Codec, chunks: &[(ChunkId, u32)]) {
        self.entries.extend_from_slice(&sealed_len.to_le_bytes());
        self.entries.extend_from_slice(&plain_len.to_le_bytes());
        self.entries.push(codec.to_byte());
        let count = u32::try_from(chunks.len()).expect("a blob holds far fewer than 2^32 chunks");
        self.entries.extend_from_slice(&count.to_le_bytes());
        for (id, len) in chunks {
            self.entries.extend_from_slice(&id.0);
            self.entries.extend_from_slice(&len.to_le_bytes());
        }
        self.blobs += 1;
    }

    /// Number of blobs so far; the next blob's part number.
    pub fn blobs(&self) -> u32 {
        self.blobs
    }

    /// Length of the encoded directory, in bytes.
    pub fn encoded_len(&self) -> u64 {
        4 + self.entries.len() as u64
    }

    /// The same, once a blob of so many chunks was added.
    pub fn encoded_len_with(&self, chunks: usize) -> u64 {
        self.encoded_len() + (BLOB_BYTES + ENTRY_BYTES * chunks) as u64
    }

    /// The encoded directory.
    pub fn encode(&self) -> Vec<u8> {
        [self.blobs.to_le_bytes().as_slice(), &self.entries].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(bytes: &[u8], body_len: u64, expected: &str) {
        let error = Directory::decode(bytes, body_len).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    fn one_blob(sealed: u32, plain: u32, codec: u8, chunks: &[u32]) -> Vec<u8> {
        let mut bytes = [1u32.to_le_bytes(), sealed.to_le_bytes(), plain.to_le_bytes()].concat();
        bytes.push(codec);
        bytes.extend((chunks.len() as u32).to_le_bytes());
        for (i, len) in chunks.iter().enumerate() {
            bytes.extend([i as u8; ChunkId::LEN]);
            bytes.extend(len.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn what_is_built_decodes() {
        let mut builder = DirectoryBuilder::default();
        builder.add(100, 30, Codec::Zstd, &[(ChunkId([5; 20]), 10), (ChunkId([1; 20]), 20)]);
        builder.add(50, 7, Codec::Stored, &[(ChunkId([3; 20]), 7)]);
        let bytes = builder.encode();
        assert_eq!(bytes.len() as u64, builder.encoded_len());
        let directory = Directory::decode(&bytes, 230).unwrap();
        assert_eq!(directory.blobs()[1], BlobEntry { at: 180, sealed_len: 50, plain_len: 7, codec: Codec::Stored });
        assert_eq!(directory.find(ChunkId([1; 20])), Some(ChunkPlace { blob: 0, at: 10, len: 20 }));
        assert_eq!(directory.find(ChunkId([2; 20])), None);
    }

    #[test]
    fn whatever_does_not_add_up_is_refused() {
        assert!(Directory::decode(&one_blob(20, 4, 1, &[4]), 100).is_ok());
        refused(&[], 100, "ends early");
        refused(&u32::MAX.to_le_bytes(), 100, "ends early");
        refused(&[one_blob(20, 4, 1, &[4]), vec![0]].concat(), 100, "1 bytes follow");
        refused(&one_blob(21, 4, 1, &[4]), 100, "leaves the pack");
        refused(&one_blob(u32::MAX, 4, 1, &[4]), 100, "leaves the pack");
        let longest = (BLOB_PLAIN_BYTES_MAX + TAG_BYTES) as u32;
        assert!(Directory::decode(&one_blob(longest, 4, 1, &[4]), 64 << 20).is_ok());
        refused(&one_blob(longest + 1, 4, 1, &[4]), 64 << 20, "sealed bytes, more than allowed");
        refused(&one_blob(15, 4, 1, &[4]), 100, "less than a tag");
        refused(&one_blob(20, 4, 9, &[4]), 100, "unknown codec 9");
        refused(&one_blob(20, 2 << 20, 1, &[4]), 100, "more than allowed");
        refused(&one_blob(20, 4, 1, &[5]), 100, "leaves it");
        refused(&one_blob(20, 4, 1, &[3]), 100, "cover 3 of 4");
        refused(&one_blob(20, 4, 1, &[4, 0]), 100, "leaves it");
        refused(&one_blob(20, 4, 1, &[u32::MAX, 5]), 100, "a chunk of 4294967295 bytes");
        let chunk = CHUNK_BYTES_MAX as u32;
        assert!(Directory::decode(&one_blob(20, chunk, 1, &[chunk]), 100).is_ok());
        refused(&one_blob(20, chunk + 1, 1, &[chunk + 1]), 100, "a chunk of 1048577 bytes");
    }
}
