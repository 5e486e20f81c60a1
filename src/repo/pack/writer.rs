//! Writing a pack: blobs are sealed and streamed out as they come, so a pack never lies in memory whole. Whoever writes a
//! pack writes its recovery record, too, if the repository wants parity: this is the one place for it.

use super::directory::DirectoryBuilder;
use super::{
    DIRECTORY_PART, LOCATOR_BYTES, LOCATOR_PART, PACK_BYTES_TARGET, STRIPE_BYTES, TRAILER_MAGIC, object_name,
    trailer_len,
};
use crate::repo::blob::PackedBlob;
use crate::repo::error::RepoError;
use crate::repo::ids::{PackId, random};
use crate::repo::object::padded_len;
use crate::repo::parity::{self, Share};
use crate::repo::seal::{HEADER_BYTES, Keys, Kind, ObjectCipher, TAG_BYTES};
use crate::repo::store::{ObjectStore, ObjectWriter};

/// How a finished pack is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// To the full length of a pack: the next blob did not fit.
    Full,
    /// To its size class: the last pack of a run.
    SizeClass,
}

/// A pack that is in the store, durably.
#[derive(Clone, Debug)]
pub struct FinishedPack {
    /// Its name.
    pub id: PackId,
    /// Whether it holds data or maps.
    pub kind: Kind,
    /// Length of the object, in bytes.
    pub len: u64,
    /// Its header, needed to open its blobs.
    pub header: [u8; HEADER_BYTES],
    /// Its encoded directory.
    pub directory: Vec<u8>,
}

/// A pack being written. Dropped unfinished, it leaves nothing behind.
pub struct PackWriter<'s> {
    id: PackId,
    kind: Kind,
    cipher: ObjectCipher,
    store: &'s dyn ObjectStore,
    object: Box<dyn ObjectWriter + 's>,
    /// The recovery record in the making.
    parity: Option<parity::Encoder>,
    /// The stripe being filled; written and hashed whole.
    stripe: Vec<u8>,
    stripe_hashes: Vec<u8>,
    body_len: u64,
    directory: DirectoryBuilder,
}

impl<'s> PackWriter<'s> {
    /// Begins a pack under a fresh random name, with a recovery record if `parity` says how large.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn create(
        store: &'s dyn ObjectStore,
        keys: &Keys,
        kind: Kind,
        parity: Option<Share>,
    ) -> Result<PackWriter<'s>, RepoError> {
        let id = PackId(random());
        let name = object_name(id);
        let cipher = ObjectCipher::create(keys, kind, name.as_str());
        let mut writer = PackWriter {
            id,
            kind,
            store,
            object: store.create(&name)?,
            parity: parity.map(|share| parity::Encoder::new(id, share, PACK_BYTES_TARGET)),
            stripe: Vec::with_capacity(STRIPE_BYTES),
            stripe_hashes: Vec::new(),
            body_len: 0,
            directory: DirectoryBuilder::default(),
            cipher,
        };
        let header = *writer.cipher.header();
        writer.append(&header)?;
        Ok(writer)
    }

    /// Whether the pack stays within its length with `blob` added. The first blob always fits.
    pub fn fits(&self, blob: &PackedBlob) -> bool {
        let directory = self.directory.encoded_len_with(blob.chunks.len());
        let body = self.body_len + (blob.bytes.len() + 2 * TAG_BYTES) as u64 + directory;
        self.directory.blobs() == 0 || body + trailer_len(body) <= PACK_BYTES_TARGET
    }

    /// Seals and appends a blob.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn add(&mut self, mut blob: PackedBlob) -> Result<(), RepoError> {
        self.cipher.seal(u64::from(self.directory.blobs()), u64::from(blob.plain_len), &mut blob.bytes);
        let sealed_len = u32::try_from(blob.bytes.len()).expect("a blob is at most little more than 1 MiB long");
        self.directory.add(sealed_len, blob.plain_len, blob.codec, &blob.chunks);
        self.append(&blob.bytes)
    }

    /// Appends directory, padding and trailer, commits the object, and then its recovery record.
    ///
    /// # Errors
    /// [`RepoError::Store`]; if the pack is in the store then, it is nobody's.
    pub fn finish(mut self, padding: Padding) -> Result<FinishedPack, RepoError> {
        let directory = self.directory.encode();
        let directory_at = self.body_len;
        let mut sealed = directory.clone();
        self.cipher.seal(DIRECTORY_PART, directory.len() as u64, &mut sealed);
        self.append(&sealed)?;
        self.pad(padding)?;
        self.flush_stripe()?;
        let trailer = self.trailer(directory_at, directory.len() as u64);
        self.object.write(&trailer)?;
        self.object.commit()?;
        // The record comes second: whoever sees one without its pack may take it away.
        if let Some(mut encoder) = self.parity {
            encoder.update(&trailer);
            parity::put(self.store, self.id, &encoder.finish())?;
        }
        Ok(FinishedPack {
            id: self.id,
            kind: self.kind,
            len: self.body_len + trailer.len() as u64,
            header: *self.cipher.header(),
            directory,
        })
    }

    fn pad(&mut self, padding: Padding) -> Result<(), RepoError> {
        let unpadded = self.body_len + trailer_len(self.body_len);
        let class = match padding {
            Padding::Full => PACK_BYTES_TARGET.max(padded_len(unpadded)),
            Padding::SizeClass => padded_len(unpadded),
        };
        // A longer body can need one more stripe hash: then the object ends 32 bytes below its class, which tells as little.
        let wanted = class.saturating_sub(trailer_len(class));
        let mut stream = blake3::Hasher::new_keyed(&random()).finalize_xof();
        let mut noise = [0; 8192];
        while self.body_len < wanted {
            stream.fill(&mut noise);
            let len = usize::try_from(wanted - self.body_len).unwrap_or(usize::MAX).min(noise.len());
            self.append(&noise[..len])?;
        }
        Ok(())
    }

    fn trailer(&self, directory_at: u64, directory_len: u64) -> Vec<u8> {
        let mut locator = [directory_at.to_le_bytes(), directory_len.to_le_bytes(), [0; 8], [0; 8]].concat();
        self.cipher.seal(LOCATOR_PART, LOCATOR_BYTES as u64, &mut locator);
        let mut trailer = [locator, self.stripe_hashes.clone()].concat();
        let len = u32::try_from(trailer_len(self.body_len)).expect("a trailer has 32 bytes a MiB");
        trailer.extend_from_slice(&len.to_le_bytes());
        let checksum = blake3::hash(&trailer);
        trailer.extend_from_slice(checksum.as_bytes());
        trailer.extend_from_slice(TRAILER_MAGIC);
        trailer
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), RepoError> {
        self.body_len += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(STRIPE_BYTES - self.stripe.len()));
            self.stripe.extend_from_slice(now);
            if self.stripe.len() == STRIPE_BYTES {
                self.flush_stripe()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn flush_stripe(&mut self) -> Result<(), RepoError> {
        if !self.stripe.is_empty() {
            self.stripe_hashes.extend_from_slice(blake3::hash(&self.stripe).as_bytes());
            if let Some(encoder) = &mut self.parity {
                encoder.update(&self.stripe);
            }
            self.object.write(&self.stripe)?;
            self.stripe.clear();
        }
        Ok(())
    }
}
