//! Blobs: several chunks compressed together. Dedup wants small pieces, compression large ones; a blob is where they meet.
//!
//! Pure: chunks in, packed bytes out and back. Sealing and placing them is the pack's business.
//! What was packed is unpacked and compared before anybody may store it: libraries and memory have failed before.

use std::cell::RefCell;

use zstd::zstd_safe::{CParameter, Strategy};

use super::error::RepoError;
use super::ids::ChunkId;
use super::seal::ChunkKind;

/// Chunks of data are gathered until a blob holds this many plain bytes: a random read unpacks a whole blob, so this trades
/// stored size against the latency of a mount. Against 128 KiB, four guests take 1.8 % less (docs/BENCHMARKS.md).
pub const DATA_BLOB_BYTES_TARGET: usize = 256 << 10;
/// The same for parts of maps, which are nearly random numbers: longer blobs store nothing less.
pub const MAP_BLOB_BYTES_TARGET: usize = 64 << 10;
/// No chunk, of data or of a map, is longer.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// No blob holds more plain bytes (docs/FORMAT.md, section 8.1): what reading one chunk can cost at most. A blob is closed
/// as soon as it has its target, so it overshoots by less than its last chunk.
pub const BLOB_PLAIN_BYTES_MAX: usize = (256 << 10) + CHUNK_BYTES_MAX;
/// zstd's parameters for new blobs: those of its level 3, with a smaller table for short matches, which stays in a core's
/// cache. Against the level itself 0.1 % more is stored, in 7 % less time.
const PARAMETERS: [CParameter; 6] = [
    CParameter::Strategy(Strategy::ZSTD_dfast),
    CParameter::WindowLog(18),
    CParameter::HashLog(17),
    CParameter::ChainLog(14),
    CParameter::MinMatch(4),
    CParameter::TargetLength(0),
];

/// How a blob's plain bytes were packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are: compressing them gained nothing.
    Stored,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// The byte that stands for it in a directory.
    pub fn to_byte(self) -> u8 {
        match self {
            Codec::Stored => 0,
            Codec::Zstd => 1,
        }
    }

    /// The codec of a directory's byte.
    pub fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Stored),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// A blob ready to be sealed.
pub struct PackedBlob {
    /// How `bytes` were packed.
    pub codec: Codec,
    /// The packed bytes.
    pub bytes: Vec<u8>,
    /// Length of the plain bytes.
    pub plain_len: u32,
    /// The chunks, in the order in which they follow each other in the plain bytes, with their lengths.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// Gathers chunks and packs them; keeps its compression contexts and buffers from blob to blob.
pub struct BlobPacker {
    target: usize,
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    unpacked: Vec<u8>,
}

impl BlobPacker {
    /// A packer for chunks of that kind.
    pub fn new(kind: ChunkKind) -> BlobPacker {
        let target = match kind {
            ChunkKind::Data => DATA_BLOB_BYTES_TARGET,
            ChunkKind::Map => MAP_BLOB_BYTES_TARGET,
        };
        BlobPacker {
            target,
            plain: Vec::with_capacity(target + (64 << 10)),
            chunks: Vec::new(),
            compressor: compressor(),
            decompressor: zstd::bulk::Decompressor::new().expect("a context without a dictionary"),
            unpacked: Vec::new(),
        }
    }

    /// Adds a chunk; gives the blob back once it is full.
    ///
    /// # Errors
    /// [`RepoError::BlobNotReproduced`] if unpacking gave other bytes.
    pub fn add(&mut self, id: ChunkId, chunk: &[u8]) -> Result<Option<PackedBlob>, RepoError> {
        let len = u32::try_from(chunk.len()).expect("chunks are at most 1 MiB long");
        self.plain.extend_from_slice(chunk);
        self.chunks.push((id, len));
        if self.plain.len() >= self.target { self.take() } else { Ok(None) }
    }

    /// Whether nothing has been gathered.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Packs what has been gathered; `None` if that is nothing.
    ///
    /// # Errors
    /// [`RepoError::BlobNotReproduced`] if unpacking gave other bytes.
    pub fn take(&mut self) -> Result<Option<PackedBlob>, RepoError> {
        if self.chunks.is_empty() {
            return Ok(None);
        }
        let packed = self.compressor.compress(&self.plain).expect("the bound of the output is reserved by the library");
        let (codec, bytes) = if packed.len() < self.plain.len() {
            self.verify(&packed)?;
            (Codec::Zstd, packed)
        } else {
            (Codec::Stored, self.plain.clone())
        };
        let plain_len = u32::try_from(self.plain.len()).expect("a blob is at most 1 MiB and one chunk long");
        self.plain.clear();
        Ok(Some(PackedBlob { codec, bytes, plain_len, chunks: std::mem::take(&mut self.chunks) }))
    }

    fn verify(&mut self, packed: &[u8]) -> Result<(), RepoError> {
        self.unpacked.resize(self.plain.len(), 0);
        let same = self
            .decompressor
            .decompress_to_buffer(packed, self.unpacked.as_mut_slice())
            .is_ok_and(|len| len == self.plain.len() && self.unpacked == self.plain);
        if same { Ok(()) } else { Err(RepoError::BlobNotReproduced { plain_bytes: self.plain.len() }) }
    }
}

fn compressor() -> zstd::bulk::Compressor<'static> {
    let mut compressor = zstd::bulk::Compressor::new(3).expect("the level is one that zstd has");
    for parameter in PARAMETERS {
        compressor.set_parameter(parameter).expect("the parameter is within zstd's bounds");
    }
    compressor
}

thread_local! {
    /// Making a context costs more than unpacking a small blob with it.
    static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> =
        RefCell::new(zstd::bulk::Decompressor::new().expect("a context without a dictionary"));
}

/// Unpacks a blob to exactly `plain_len` bytes; says what it found instead.
///
/// # Errors
/// What is wrong with the packed bytes.
pub fn unpack(codec: Codec, packed: Vec<u8>, plain_len: u32) -> Result<Vec<u8>, String> {
    let wanted = plain_len as usize; // at most BLOB_PLAIN_BYTES_MAX, checked by the directory
    let plain = match codec {
        Codec::Stored => packed,
        Codec::Zstd => DECOMPRESSOR.with_borrow_mut(|decompressor| {
            // The capacity is the bound: the library writes no further, and tells how far it came.
            let mut plain = Vec::with_capacity(wanted);
            decompressor.decompress_to_buffer(&packed, &mut plain).map_err(|error| error.to_string())?;
            Ok::<_, String>(plain)
        })?,
    };
    if plain.len() == wanted { Ok(plain) } else { Err(format!("{} plain bytes", plain.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks() {
        let mut packer = BlobPacker::new(ChunkKind::Data);
        let text = b"likeness ".repeat(3000);
        let noise: Vec<u8> = (0u32..3000).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        for (content, codec) in [(text, Codec::Zstd), (noise, Codec::Stored)] {
            assert!(packer.add(ChunkId([1; 32]), &content[..100]).unwrap().is_none());
            assert!(packer.add(ChunkId([2; 32]), &content[100..]).unwrap().is_none());
            let blob = packer.take().unwrap().unwrap();
            assert_eq!(blob.codec, codec);
            assert_eq!(blob.chunks, [(ChunkId([1; 32]), 100), (ChunkId([2; 32]), content.len() as u32 - 100)]);
            assert_eq!(unpack(blob.codec, blob.bytes, blob.plain_len).unwrap(), content);
        }
        assert!(packer.take().unwrap().is_none());
    }

    #[test]
    fn the_longest_chunk_after_an_almost_full_blob_stays_within_what_a_directory_accepts() {
        use crate::repo::pack::directory::{Directory, DirectoryBuilder};
        let mut packer = BlobPacker::new(ChunkKind::Data);
        assert!(packer.add(ChunkId([1; 32]), &[1; DATA_BLOB_BYTES_TARGET - 1]).unwrap().is_none());
        let blob = packer.add(ChunkId([2; 32]), &[2; CHUNK_BYTES_MAX]).unwrap().unwrap();
        let mut builder = DirectoryBuilder::default();
        builder.add(blob.bytes.len() as u32 + 16, blob.plain_len, blob.codec, &blob.chunks);
        assert!(Directory::decode(&builder.encode(), 64 << 20).is_ok());
    }

    #[test]
    fn a_full_blob_is_given_back_and_a_wrong_length_is_refused() {
        let mut packer = BlobPacker::new(ChunkKind::Data);
        let chunk = vec![7; DATA_BLOB_BYTES_TARGET];
        let blob = packer.add(ChunkId([1; 32]), &chunk).unwrap().unwrap();
        assert!(unpack(blob.codec, blob.bytes.clone(), blob.plain_len + 1).is_err());
        assert!(unpack(blob.codec, blob.bytes.clone(), blob.plain_len - 1).is_err());
        assert!(unpack(Codec::Stored, blob.bytes, blob.plain_len).is_err());
    }
}
