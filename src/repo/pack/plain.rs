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

    /// The bytes of the chunk `id`, which begins at `at`. The id is verified.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if the bytes have another id, or another chunk begins there, or none.
    pub fn chunk(&self, keys: &Keys, id: ChunkId, at: u32) -> Result<&[u8], RepoError> {
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
        if chunk.id != id {
            return Err(damaged(format!("chunk {id}"), format!("chunk {}, by the directory", chunk.id)));
        }
        let bytes = &self.plain[chunk.at as usize..(chunk.at + chunk.len) as usize];
        if !chunk.is_verified.load(Ordering::Relaxed) {
            let found = keys.chunk_id(self.kind, bytes);
            if found != id {
                return Err(damaged(format!("chunk {id}"), format!("chunk {found}")));
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
        self.chunks.iter().try_for_each(|chunk| self.chunk(keys, chunk.id, chunk.at).map(drop))
    }

    /// Bytes it takes in memory, but for the struct itself.
    pub fn weight(&self) -> usize {
        self.plain.len() + self.chunks.len() * size_of::<PlainChunk>() + self.object.as_str().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::RepoId;
    use crate::repo::seal::{MasterSecret, MasterSecrets};

    #[test]
    fn only_the_chunk_that_is_asked_for_comes_out() {
        let keys = Keys::derive(&MasterSecrets::of_first(MasterSecret([1; 32])), RepoId([2; 16]));
        let ids = [&b"one"[..], b"other"].map(|bytes| keys.chunk_id(ChunkKind::Data, bytes));
        let place = |at, len| ChunkPlace { blob: 0, at, len };
        let chunks = [(ids[0], place(0, 3)), (ids[1], place(3, 5))];
        let blob = |plain: &[u8]| {
            let name = ObjectName::new("packs/00/00").unwrap();
            PlainBlob::new(name, 80, ChunkKind::Data, plain.to_vec(), &chunks)
        };
        let sound = blob(b"oneother");
        assert_eq!(sound.chunk(&keys, ids[0], 0).unwrap(), b"one");
        assert_eq!(sound.chunk(&keys, ids[1], 3).unwrap(), b"other");
        // Verified already, and sound, but not what is wanted: whoever asks was led to the wrong blob.
        for (id, at) in [(ids[1], 0), (ids[0], 3), (ids[0], 1)] {
            assert!(matches!(sound.chunk(&keys, id, at), Err(RepoError::Damaged { .. })));
        }
        let damaged = blob(b"oneOther");
        assert!(damaged.chunk(&keys, ids[0], 0).is_ok());
        assert!(damaged.chunk(&keys, ids[1], 3).is_err());
    }
}
