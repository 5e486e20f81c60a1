//! A blob taken out of its pack: plain bytes, of which each chunk is verified when it is first asked for.
//!
//! A random read wants one chunk of a blob; hashing its neighbours as well would cost more than hashing what was asked
//! for. Nothing comes out unverified: the only way to the bytes is [`PlainBlob::chunk`].

use std::sync::atomic::{AtomicBool, Ordering};

use super::ChunkPlace;
use crate::repo::error::RepoError;
use crate::repo::ids::ChunkId;
use crate::repo::seal::{ChunkKind, Keys};
use crate::repo::store::ObjectName;

/// The plain bytes of one blob.
pub struct PlainBlob {
    object: ObjectName,
    /// Where the blob lies in `object`, for errors.
    blob_at: u64,
    kind: ChunkKind,
    plain: Vec<u8>,
    /// In the order in which they lie in `plain`.
    chunks: Vec<PlainChunk>,
}

struct PlainChunk {
    id: ChunkId,
    at: u32,
    len: u32,
    is_verified: AtomicBool,
}

impl PlainBlob {
    /// `plain` is the blob at `blob_at` of `object`, and `chunks` what its directory says of it: ranges of `plain`, one
    /// behind the other.
    pub fn new(
        object: ObjectName,
        blob_at: u64,
        kind: ChunkKind,
        plain: Vec<u8>,
        chunks: &[(ChunkId, ChunkPlace)],
    ) -> PlainBlob {
        let chunk = |(id, place): &(ChunkId, ChunkPlace)| {
            let is_verified = AtomicBool::new(false);
            PlainChunk { id: *id, at: place.at, len: place.len, is_verified }
        };
        PlainBlob { object, blob_at, kind, plain, chunks: chunks.iter().map(chunk).collect() }
    }

    /// The bytes of the chunk that begins at `at`. Its id is verified.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if the bytes have another id, or no chunk begins there.
    pub fn chunk(&self, keys: &Keys, at: u32) -> Result<&[u8], RepoError> {
        let damaged = |expected: String, found: String| RepoError::Damaged {
            object: self.object.to_string(),
            field: "chunk",
            at: self.blob_at,
            expected,
            found,
        };
        let Ok(number) = self.chunks.binary_search_by_key(&at, |chunk| chunk.at) else {
            return Err(damaged(format!("a chunk that begins at {at}"), "none".to_owned()));
        };
        let chunk = &self.chunks[number];
        let bytes = &self.plain[chunk.at as usize..(chunk.at + chunk.len) as usize];
        if !chunk.is_verified.load(Ordering::Relaxed) {
            let found = keys.chunk_id(self.kind, bytes);
            if found != chunk.id {
                return Err(damaged(format!("chunk {}", chunk.id), format!("chunk {found}")));
            }
            chunk.is_verified.store(true, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// Verifies every chunk.
    ///
    /// # Errors
    /// As [`PlainBlob::chunk`].
    pub fn verify(&self, keys: &Keys) -> Result<(), RepoError> {
        self.chunks.iter().try_for_each(|chunk| self.chunk(keys, chunk.at).map(drop))
    }

    /// Bytes it takes in memory, but for the struct itself.
    pub fn weight(&self) -> usize {
        self.plain.len() + self.chunks.len() * size_of::<PlainChunk>() + self.object.as_str().len()
    }
}
