//! Reading packs: the directory, one blob, a scrub without a key, a full verification with one. A pack in the store is
//! untrusted: every length is checked before it is used, every byte before it is believed.

use std::cell::RefCell;
use std::slice;

use super::directory::{BlobEntry, ChunkPlace, Directory};
use super::plain::PlainBlob;
use super::writer::FinishedPack;
use super::{
    DIRECTORY_PART, LOCATOR_BYTES, LOCATOR_PART, PACK_BYTES_MAX, STRIPE_BYTES, TRAILER_FIXED_BYTES, TRAILER_MAGIC,
    object_name, trailer_len,
};
use crate::repo::blob::{PackedBlob, unpack, unpack_start};
use crate::repo::error::RepoError;
use crate::repo::ids::{ChunkId, PackId, to_hex};
use crate::repo::seal::{ChunkKind, HEADER_BYTES, Keys, Kind, ObjectCipher, TAG_BYTES};
use crate::repo::store::{ObjectName, ObjectStore};

/// Bytes after the stripe hashes: trailer length, checksum, magic.
const TRAILER_END_BYTES: usize = 4 + 32 + 8;

thread_local! {
    /// A blob as it is stored, for as long as it takes to unpack it: fresh memory would cost a fault for each page.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The beginning of a blob, for as long as it takes to take one chunk out of it.
    static START: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A pack whose blobs can be opened.
pub struct OpenPack {
    /// Its name.
    pub id: PackId,
    /// Where it lies; packs in the trash keep the name that they were sealed under.
    name: ObjectName,
    cipher: ObjectCipher,
    chunk_kind: ChunkKind,
    /// What it holds.
    pub directory: Directory,
}

/// The trailer, its own checksum verified; what it says of the body is not, yet.
struct Trailer {
    body_len: u64,
    locator: Vec<u8>,
    stripe_hashes: Vec<u8>,
}

impl OpenPack {
    /// Opens a pack from what the index remembers of it.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if header or directory are not of a pack of that name.
    pub fn from_index(keys: &Keys, pack: &FinishedPack) -> Result<OpenPack, RepoError> {
        let name = object_name(pack.id);
        let cipher = ObjectCipher::open(keys, pack.kind, name.as_str(), &pack.header)?;
        let directory = decode_directory(name.as_str(), &pack.directory, pack.len)?;
        Ok(OpenPack { id: pack.id, name, cipher, chunk_kind: ChunkKind::in_pack(pack.kind), directory })
    }

    /// The same pack, lying somewhere else.
    pub fn lying_at(mut self, name: &ObjectName) -> OpenPack {
        self.name = name.clone();
        self
    }

    /// Whether it holds data or maps.
    pub fn chunk_kind(&self) -> ChunkKind {
        self.chunk_kind
    }

    /// Reads one blob as it was packed, to be put into another pack. It is unpacked, and all its chunks are verified.
    ///
    /// # Errors
    /// As [`OpenPack::read_blob`].
    pub fn read_packed(
        &self,
        store: &dyn ObjectStore,
        keys: &Keys,
        number: u32,
    ) -> Result<(PackedBlob, PlainBlob), RepoError> {
        let entry = self.blob(number)?;
        let mut bytes = Vec::new();
        self.read_sealed(store, number, entry, &mut bytes)?;
        let plain = self.unpack(number, entry, &bytes)?;
        plain.verify(keys)?;
        let chunks = self.directory.chunks_of_blob(number).iter().map(|(id, place)| (*id, place.len)).collect();
        Ok((PackedBlob { codec: entry.codec, bytes, plain_len: entry.plain_len, chunks }, plain))
    }

    /// Reads and unpacks one blob; its chunks are verified when they are asked for.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] naming object and offset; [`RepoError::Store`].
    pub fn read_blob(&self, store: &dyn ObjectStore, number: u32) -> Result<PlainBlob, RepoError> {
        let entry = self.blob(number)?;
        SEALED.with_borrow_mut(|bytes| {
            self.read_sealed(store, number, entry, bytes)?;
            self.unpack(number, entry, bytes)
        })
    }

    /// The same with nothing but the chunk at `place`: all of the blob is read and proven to be what was sealed, but it is
    /// unpacked no further than needed.
    ///
    /// # Errors
    /// As [`OpenPack::read_blob`].
    pub fn read_lone_chunk(&self, store: &dyn ObjectStore, place: ChunkPlace) -> Result<PlainBlob, RepoError> {
        let entry = self.blob(place.blob)?;
        let chunks = self.directory.chunks_of_blob(place.blob);
        let Some(chunk) = chunks.iter().find(|chunk| chunk.1 == place) else {
            return self.read_blob(store, place.blob);
        };
        SEALED.with_borrow_mut(|bytes| {
            self.read_sealed(store, place.blob, entry, bytes)?;
            START.with_borrow_mut(|start| {
                start.resize(start.len().max(entry.plain_len as usize), 0); // bounded by the directory
                unpack_start(entry.codec, bytes, place.end() as usize, &mut start[..entry.plain_len as usize])
                    .map_err(|found| self.not_unpacked(entry, found))?;
                let plain = start[place.at as usize..place.end() as usize].to_vec();
                Ok(self.plain_blob(entry, plain, slice::from_ref(chunk)))
            })
        })
    }

    fn blob(&self, number: u32) -> Result<BlobEntry, RepoError> {
        self.directory.blobs().get(number as usize).copied().ok_or_else(|| RepoError::Damaged {
            object: self.name.to_string(),
            field: "blob number",
            at: 0,
            expected: format!("below {}", self.directory.blobs().len()),
            found: number.to_string(),
        })
    }

    /// Reads the packed bytes of blob `number` into `bytes`, decrypted.
    fn read_sealed(
        &self,
        store: &dyn ObjectStore,
        number: u32,
        entry: BlobEntry,
        bytes: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        bytes.resize(entry.sealed_len as usize, 0); // bounded by the directory
        store.read_range(&self.name, entry.at, bytes)?;
        self.cipher.open_part(u64::from(number), u64::from(entry.plain_len), entry.at, bytes)
    }

    fn unpack(&self, number: u32, entry: BlobEntry, bytes: &[u8]) -> Result<PlainBlob, RepoError> {
        let plain = unpack(entry.codec, bytes, entry.plain_len).map_err(|found| self.not_unpacked(entry, found))?;
        Ok(self.plain_blob(entry, plain, self.directory.chunks_of_blob(number)))
    }

    fn plain_blob(&self, entry: BlobEntry, plain: Vec<u8>, chunks: &[(ChunkId, ChunkPlace)]) -> PlainBlob {
        PlainBlob::new(self.name.clone(), entry.at, self.chunk_kind, entry.codec, plain, chunks)
    }

    fn not_unpacked(&self, entry: BlobEntry, found: String) -> RepoError {
        RepoError::Damaged {
            object: self.name.to_string(),
            field: "blob",
            at: entry.at,
            expected: format!("{} plain bytes", entry.plain_len),
            found,
        }
    }
}

/// Reads header and directory of the pack `id` from the store: what the index needs to know of it.
///
/// # Errors
/// [`RepoError::Damaged`] naming object and offset; [`RepoError::Store`].
pub fn read_record(store: &dyn ObjectStore, keys: &Keys, id: PackId) -> Result<FinishedPack, RepoError> {
    read_record_at(store, keys, id, &object_name(id))
}

/// The same for a pack that lies elsewhere than it was sealed for: in the trash.
///
/// # Errors
/// As [`read_record`].
pub fn read_record_at(
    store: &dyn ObjectStore,
    keys: &Keys,
    id: PackId,
    place: &ObjectName,
) -> Result<FinishedPack, RepoError> {
    let name = object_name(id);
    let len = store.len(place)?;
    let trailer = read_trailer(store, place, len)?;
    let mut header = [0; HEADER_BYTES];
    store.read_range(place, 0, &mut header)?;
    let kind = kind_of(name.as_str(), &header)?;
    let cipher = ObjectCipher::open(keys, kind, name.as_str(), &header)?;
    let (at, plain_len) = open_locator(&cipher, name.as_str(), &trailer)?;
    let sealed_len = usize::try_from(plain_len).expect("checked against the body") + TAG_BYTES;
    let mut directory = vec![0; sealed_len];
    store.read_range(place, at, &mut directory)?;
    cipher.open_part(DIRECTORY_PART, plain_len, at, &mut directory)?;
    decode_directory(name.as_str(), &directory, at)?;
    Ok(FinishedPack { id, kind, len, header, directory })
}

/// Compares every byte of the pack that lies at `name` with its trailer's hashes, and shows all of it to `each`, in order.
/// Needs no key. Gives the pack's length.
///
/// # Errors
/// [`RepoError::Damaged`] naming the first stripe that differs; [`RepoError::Store`].
pub fn scrub_at(store: &dyn ObjectStore, name: &ObjectName, each: &mut dyn FnMut(&[u8])) -> Result<u64, RepoError> {
    let len = store.len(name)?;
    let trailer = read_trailer(store, name, len)?;
    let mut stripe = vec![0; STRIPE_BYTES];
    let mut at = 0;
    for expected in trailer.stripe_hashes.chunks_exact(32) {
        let len = (trailer.body_len - at).min(STRIPE_BYTES as u64);
        let bytes = &mut stripe[..usize::try_from(len).expect("a stripe fits in memory")];
        store.read_range(name, at, bytes)?;
        check_stripe(name.as_str(), at, bytes, expected)?;
        each(bytes);
        at += len;
    }
    let mut end = vec![0; usize::try_from(len - at).expect("a trailer has 32 bytes a MiB")];
    store.read_range(name, at, &mut end)?;
    check_trailer(name.as_str(), len, &end)?;
    each(&end);
    Ok(len)
}

/// Which stripes of a pack in memory are what its trailer says. Needs no key.
///
/// # Errors
/// [`RepoError::Damaged`] if the trailer itself is not sound: then nothing is known of any stripe.
pub(crate) fn sound_stripes(name: &str, pack: &[u8]) -> Result<Vec<bool>, RepoError> {
    let trailer = parse_trailer(name, pack)?;
    let body = &pack[..usize::try_from(trailer.body_len).expect("the pack is in memory")];
    let stripes = body.chunks(STRIPE_BYTES).zip(trailer.stripe_hashes.chunks_exact(32));
    Ok(stripes.map(|(stripe, expected)| blake3::hash(stripe).as_bytes() == expected).collect())
}

/// Reads a whole pack once and verifies all of it: trailer, stripes, header, directory, every blob, every chunk id.
/// Gives back what the index must know of it.
///
/// # Errors
/// [`RepoError::Damaged`] naming object and offset; [`RepoError::Store`].
pub fn verify(store: &dyn ObjectStore, keys: &Keys, id: PackId) -> Result<FinishedPack, RepoError> {
    verify_in(store, keys, id, &object_name(id), &mut Vec::new())
}

/// The same for a pack that lies elsewhere than it was sealed for: in the trash.
///
/// # Errors
/// As [`verify`].
pub fn verify_at(
    store: &dyn ObjectStore,
    keys: &Keys,
    id: PackId,
    place: &ObjectName,
) -> Result<FinishedPack, RepoError> {
    verify_in(store, keys, id, place, &mut Vec::new())
}

/// The same, with memory for the pack that is kept from one to the next.
///
/// # Errors
/// As [`verify`].
pub fn verify_in(
    store: &dyn ObjectStore,
    keys: &Keys,
    id: PackId,
    place: &ObjectName,
    bytes: &mut Vec<u8>,
) -> Result<FinishedPack, RepoError> {
    let name = object_name(id);
    store.read_into(place, PACK_BYTES_MAX, bytes)?;
    let len = bytes.len() as u64;
    let trailer = parse_trailer(name.as_str(), bytes)?;
    for (number, expected) in trailer.stripe_hashes.chunks_exact(32).enumerate() {
        let at = number * STRIPE_BYTES;
        let end = (at + STRIPE_BYTES).min(usize::try_from(trailer.body_len).expect("the pack is in memory"));
        check_stripe(name.as_str(), at as u64, &bytes[at..end], expected)?;
    }
    let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("the trailer proves the length");
    let kind = kind_of(name.as_str(), &header)?;
    let cipher = ObjectCipher::open(keys, kind, name.as_str(), &header)?;
    let (at, plain_len) = open_locator(&cipher, name.as_str(), &trailer)?;
    let range = |at: u64, len: u64| at as usize..(at + len) as usize; // both inside the body, which is in memory
    let mut directory = bytes[range(at, plain_len + TAG_BYTES as u64)].to_vec();
    cipher.open_part(DIRECTORY_PART, plain_len, at, &mut directory)?;
    let pack = FinishedPack { id, kind, len, header, directory };
    let decoded = decode_directory(name.as_str(), &pack.directory, at)?;
    let open = OpenPack { id, name, cipher, chunk_kind: ChunkKind::in_pack(kind), directory: decoded };
    let mut blob = Vec::new();
    for (number, entry) in open.directory.blobs().iter().enumerate() {
        let number = u32::try_from(number).expect("the directory counts in 32 bits");
        blob.clear();
        blob.extend_from_slice(&bytes[range(entry.at, u64::from(entry.sealed_len))]);
        open.cipher.open_part(u64::from(number), u64::from(entry.plain_len), entry.at, &mut blob)?;
        open.unpack(number, *entry, &blob)?.verify(keys)?;
    }
    Ok(pack)
}

fn read_trailer(store: &dyn ObjectStore, name: &ObjectName, len: u64) -> Result<Trailer, RepoError> {
    let min = (HEADER_BYTES + TRAILER_FIXED_BYTES) as u64;
    if len < min {
        return Err(RepoError::short(name.as_str(), min, len));
    }
    let mut end = [0; TRAILER_END_BYTES];
    store.read_range(name, len - TRAILER_END_BYTES as u64, &mut end)?;
    let trailer_len = trailer_len_of(name.as_str(), len, &end)?;
    let mut trailer = vec![0; usize::try_from(trailer_len).expect("a trailer has 32 bytes a MiB")];
    store.read_range(name, len - trailer_len, &mut trailer)?;
    check_trailer(name.as_str(), len, &trailer)
}

fn parse_trailer(name: &str, pack: &[u8]) -> Result<Trailer, RepoError> {
    let len = pack.len() as u64;
    let min = HEADER_BYTES + TRAILER_FIXED_BYTES;
    if pack.len() < min {
        return Err(RepoError::short(name, min as u64, len));
    }
    let trailer_len = trailer_len_of(name, len, &pack[pack.len() - TRAILER_END_BYTES..])?;
    check_trailer(name, len, &pack[usize::try_from(len - trailer_len).expect("the pack is in memory")..])
}

/// The trailer's length from the pack's last bytes; only the one that fits the pack's length is believed.
fn trailer_len_of(name: &str, len: u64, end: &[u8]) -> Result<u64, RepoError> {
    let damaged = |field, at, expected: String, found: String| {
        Err(RepoError::Damaged { object: name.to_owned(), field, at, expected, found })
    };
    if end[36..] != *TRAILER_MAGIC {
        return damaged("trailer magic", len - 8, "ABBILDt1".to_owned(), end[36..].escape_ascii().to_string());
    }
    let found = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    match len.checked_sub(found) {
        Some(body) if body >= HEADER_BYTES as u64 && len <= PACK_BYTES_MAX && trailer_len(body) == found => Ok(found),
        _ => damaged("trailer length", len - 44, format!("that of a pack of {len} bytes"), found.to_string()),
    }
}

fn check_trailer(name: &str, len: u64, trailer: &[u8]) -> Result<Trailer, RepoError> {
    let (checked, end) = trailer.split_at(trailer.len() - 40);
    let checksum = blake3::hash(checked);
    if checksum.as_bytes() != &end[..32] {
        return Err(RepoError::Damaged {
            object: name.to_owned(),
            field: "trailer checksum",
            at: len - 40,
            expected: to_hex(checksum.as_bytes()),
            found: to_hex(&end[..32]),
        });
    }
    let (locator, rest) = checked.split_at(LOCATOR_BYTES + TAG_BYTES);
    let stripe_hashes = rest[..rest.len() - 4].to_vec();
    Ok(Trailer { body_len: len - trailer.len() as u64, locator: locator.to_vec(), stripe_hashes })
}

/// Offset and plain length of the directory, both proven to lie in the body.
fn open_locator(cipher: &ObjectCipher, name: &str, trailer: &Trailer) -> Result<(u64, u64), RepoError> {
    let mut locator = trailer.locator.clone();
    cipher.open_part(LOCATOR_PART, LOCATOR_BYTES as u64, trailer.body_len, &mut locator)?;
    let word = |at: usize| u64::from_le_bytes(locator[at..at + 8].try_into().expect("eight bytes"));
    let (at, len) = (word(0), word(8));
    let end = at.checked_add(len).and_then(|end| end.checked_add(TAG_BYTES as u64));
    match end {
        Some(end) if at >= HEADER_BYTES as u64 && end <= trailer.body_len => Ok((at, len)),
        _ => Err(RepoError::Damaged {
            object: name.to_owned(),
            field: "directory place",
            at: trailer.body_len,
            expected: format!("inside the pack's {} bytes", trailer.body_len),
            found: format!("{len} bytes at {at}"),
        }),
    }
}

fn decode_directory(name: &str, bytes: &[u8], body_len: u64) -> Result<Directory, RepoError> {
    Directory::decode(bytes, body_len).map_err(|error| RepoError::Damaged {
        object: name.to_owned(),
        field: "directory",
        at: body_len,
        expected: "a directory that adds up".to_owned(),
        found: error.to_string(),
    })
}

fn check_stripe(name: &str, at: u64, stripe: &[u8], expected: &[u8]) -> Result<(), RepoError> {
    let found = blake3::hash(stripe);
    if found.as_bytes() == expected {
        return Ok(());
    }
    Err(RepoError::Damaged {
        object: name.to_owned(),
        field: "stripe hash",
        at,
        expected: to_hex(expected),
        found: to_hex(found.as_bytes()),
    })
}

fn kind_of(name: &str, header: &[u8; HEADER_BYTES]) -> Result<Kind, RepoError> {
    [Kind::DataPack, Kind::MapPack].into_iter().find(|kind| *kind as u8 == header[8]).ok_or_else(|| {
        RepoError::Damaged {
            object: name.to_owned(),
            field: "kind",
            at: 8,
            expected: "1 or 2".to_owned(),
            found: header[8].to_string(),
        }
    })
}
