//! A blob taken out of its pack, or one chunk of it: plain bytes, of which each chunk is verified when it is first asked
//! for.
//!
//! A random read wants one chunk of a blob; hashing its neighbours as well would cost more than hashing what was asked
//! for. Nothing comes out unverified: the only way to the bytes is [`PlainBlob::chunk`].

use std::sync::OnceLock;

use super::ChunkPlace;
use crate::repo::blob::Codec;
use crate::repo::branch_filter;
use crate::repo::error::RepoError;
use crate::repo::ids::ChunkId;
use crate::repo::seal::{ChunkKind, Keys};
use crate::repo::store::ObjectName;

/// One blob, unpacked: all its chunks, or some that follow each other.
pub struct PlainBlob {
    object: ObjectName,
    /// Where the blob lies in `object`, for errors.
    blob_at: u64,
    kind: ChunkKind,
    /// The chunks, filtered if they were packed so.
    unpacked: Vec<u8>,
    is_filtered: bool,
    /// In the order in which they lie in `unpacked`.
    chunks: Vec<PlainChunk>,
}

struct PlainChunk {
    id: ChunkId,
    at: u32,
    len: u32,
    /// Set once it was verified: its bytes, if those in the blob are filtered.
    verified: OnceLock<Option<Box<[u8]>>>,
}

impl PlainBlob {
    /// `unpacked` is of the blob at `blob_at` of `object`, which was packed by `codec`: those `chunks` of its directory, one
    /// behind the other, nothing before, between or behind them.
    pub fn new(
        object: ObjectName,
        blob_at: u64,
        kind: ChunkKind,
        codec: Codec,
        unpacked: Vec<u8>,
        chunks: &[(ChunkId, ChunkPlace)],
    ) -> PlainBlob {
        let chunk = |(id, place): &(ChunkId, ChunkPlace)| PlainChunk {
            id: *id,
            at: place.at,
            len: place.len,
            verified: OnceLock::new(),
        };
        let is_filtered = codec == Codec::FilteredZstd;
        PlainBlob { object, blob_at, kind, unpacked, is_filtered, chunks: chunks.iter().map(chunk).collect() }
    }

    /// Where the first of the chunks begins in the blob.
    fn begin(&self) -> u32 {
        self.chunks.first().map_or(0, |chunk| chunk.at)
    }

    /// Whether that part of the blob is here.
    pub fn covers(&self, place: ChunkPlace) -> bool {
        self.begin() <= place.at && (place.end() - self.begin()) as usize <= self.unpacked.len()
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
        let bytes = &self.unpacked[(chunk.at - self.begin()) as usize..][..chunk.len as usize];
        if let Some(verified) = chunk.verified.get() {
            return Ok(verified.as_deref().unwrap_or(bytes));
        }
        let unfiltered = self.is_filtered.then(|| {
            let mut bytes: Box<[u8]> = bytes.into();
            branch_filter::unfilter(&mut bytes, chunk.at);
            bytes
        });
        let found = keys.chunk_id(self.kind, unfiltered.as_deref().unwrap_or(bytes));
        if found != id {
            return Err(damaged(format!("chunk {id}"), format!("chunk {found}")));
        }
        Ok(chunk.verified.get_or_init(|| unfiltered).as_deref().unwrap_or(bytes))
    }

    /// Verifies every chunk.
    ///
    /// # Errors
    /// As [`PlainBlob::chunk`].
    pub fn verify(&self, keys: &Keys) -> Result<(), RepoError> {
        self.chunks.iter().try_for_each(|chunk| self.chunk(keys, chunk.id, chunk.at).map(drop))
    }

    /// Bytes that it takes in memory once all of it was read, but for the struct itself.
    pub fn weight(&self) -> usize {
        let times = if self.is_filtered { 2 } else { 1 };
        times * self.unpacked.len() + self.chunks.len() * size_of::<PlainChunk>() + self.object.as_str().len()
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
            PlainBlob::new(name, 80, ChunkKind::Data, Codec::Stored, plain.to_vec(), &chunks)
        };
        let sound = blob(b"oneother");
        assert_eq!(sound.chunk(&keys, ids[0], 0).unwrap(), b"one");
        assert_eq!(sound.chunk(&keys, ids[1], 3).unwrap(), b"other");
        // Verified already, and sound, but not what is wanted: whoever asks was led to the wrong blob.
        for (id, at) in [(ids[1], 0), (ids[0], 3), (ids[0], 1)] {
            assert!(matches!(sound.chunk(&keys, id, at), Err(RepoError::Damaged { .. })));
        }
        // The second chunk alone.
        let name = ObjectName::new("packs/00/00").unwrap();
        let lone = PlainBlob::new(name, 80, ChunkKind::Data, Codec::Stored, b"other".to_vec(), &chunks[1..]);
        assert_eq!(lone.chunk(&keys, ids[1], 3).unwrap(), b"other");
        assert!(lone.chunk(&keys, ids[0], 0).is_err() && lone.chunk(&keys, ids[1], 0).is_err());
        assert_eq!(chunks.map(|(_, place)| (sound.covers(place), lone.covers(place))), [(true, false), (true, true)]);
        let damaged = blob(b"oneOther");
        assert!(damaged.chunk(&keys, ids[0], 0).is_ok());
        assert!(damaged.chunk(&keys, ids[1], 3).is_err());
    }
}
