//! The recovery record of a pack: its bytes, and what of them is sound when they come back from a medium that rots.
//!
//! Layout, little-endian, lengths in bytes (docs/FORMAT.md, "Recovery records"):
//!
//!     header 96 | table | recovery shards | table | header 96
//!     header:  magic 8 | version 2 | zeros 2 | shard length 4 | pack length 8 | data shards 4 | recovery shards 4
//!              | width 4 | zeros 12 | pack id 16 | BLAKE3 of the header so far 32
//!     table:   pages of at most 255 hashes 16 each, data shards first, and the page's checksum 16
//!
//! Everything but the recovery shards is there twice, far apart; a page of the table is taken from wherever it is sound.
//! A record comes from the store and is untrusted: its numbers are compared with their limits before they are used.

use super::share::Share;
use super::{object_name, salvage};
use crate::repo::error::RepoError;
use crate::repo::ids::{PackId, to_hex};
use crate::repo::pack::PACK_BYTES_MAX;
use crate::repo::store::{ObjectStore, StoreError};

/// Largest record that is read: 25 % of the largest pack, and its tables.
pub const RECORD_BYTES_MAX: u64 = 40 << 20;
/// First bytes of a record.
const MAGIC: &[u8; 8] = b"ABBILDr1";
const VERSION: u16 = 1;
/// Length of a header, in bytes.
const HEADER_BYTES: usize = 96;
/// Bytes of a header that its checksum covers.
const FIELDS_BYTES: usize = 64;
/// Shards' hashes and pages' checksums: the first bytes of BLAKE3. They tell rot, and need not resist a forger.
pub(super) const HASH_BYTES: usize = 16;
/// Hashes in a page: with its checksum it has 4096 bytes.
const PAGE_HASHES: usize = 255;
/// Longest shard.
const SHARD_BYTES_MAX: usize = 1 << 20;
/// Numbers that the code has for shards of both sorts.
const SHARDS_MAX: usize = 1 << 16;

pub(super) type Hash = [u8; HASH_BYTES];

/// How a pack is divided into shards. Only [`Shape::new`] makes one: its numbers are within all limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) pack_len: u64,
    pub(super) shard_bytes: usize,
    /// Data shards: the pack's bytes, the last one filled up with zeros.
    pub(super) data: usize,
    /// Recovery shards.
    pub(super) recovery: usize,
    /// Recovery shards that the code could have made: a power of two.
    pub(super) width: usize,
}

impl Shape {
    /// `None` beyond the limits.
    pub(super) fn new(pack_len: u64, shard_bytes: usize, recovery: usize, width: usize) -> Option<Shape> {
        let is_shard = shard_bytes.is_power_of_two() && (64..=SHARD_BYTES_MAX).contains(&shard_bytes);
        if !is_shard || !(1..=PACK_BYTES_MAX).contains(&pack_len) {
            return None;
        }
        let data = usize::try_from(pack_len).ok()?.div_ceil(shard_bytes);
        let is_code = width.is_power_of_two() && width.checked_add(data)? <= SHARDS_MAX;
        if !is_code || !(1..=width).contains(&recovery) {
            return None;
        }
        let shape = Shape { pack_len, shard_bytes, data, recovery, width };
        (shape.record_len() as u64 <= RECORD_BYTES_MAX).then_some(shape)
    }

    /// Bytes of the pack's shards, zeros at the end included.
    pub(super) fn padded_len(&self) -> usize {
        self.data * self.shard_bytes
    }

    fn shards(&self) -> usize {
        self.data + self.recovery
    }

    fn table_len(&self) -> usize {
        self.shards() * HASH_BYTES + self.shards().div_ceil(PAGE_HASHES) * HASH_BYTES
    }

    /// Where the parts of a record lie: first table, recovery shards, second table, second header, end.
    fn places(&self) -> [usize; 5] {
        let shards = HEADER_BYTES + self.table_len();
        let second = shards + self.recovery * self.shard_bytes;
        let header = second + self.table_len();
        [HEADER_BYTES, shards, second, header, header + HEADER_BYTES]
    }

    pub(super) fn record_len(&self) -> usize {
        self.places()[4]
    }
}

/// The object of a record.
pub(super) fn encode(id: PackId, shape: &Shape, data_hashes: &[u8], recovery: &[u8]) -> Vec<u8> {
    let header = encode_header(id, shape);
    let mut hashes = data_hashes.to_vec();
    recovery.chunks(shape.shard_bytes).for_each(|shard| hashes.extend_from_slice(&hash(shard)));
    let mut table = Vec::with_capacity(shape.table_len());
    for (number, page) in (0u32..).zip(hashes.chunks(PAGE_HASHES * HASH_BYTES)) {
        table.extend_from_slice(page);
        table.extend_from_slice(&page_checksum(&header, number, page));
    }
    let record = [&header, table.as_slice(), recovery, &table, &header].concat();
    assert_eq!(record.len(), shape.record_len(), "a hash for each shard");
    record
}

fn encode_header(id: PackId, shape: &Shape) -> [u8; HEADER_BYTES] {
    let small = |number: usize| u32::try_from(number).expect("a shape's numbers are small").to_le_bytes();
    let mut fields = [0; HEADER_BYTES];
    fields[..8].copy_from_slice(MAGIC);
    fields[8..10].copy_from_slice(&VERSION.to_le_bytes());
    fields[12..16].copy_from_slice(&small(shape.shard_bytes));
    fields[16..24].copy_from_slice(&shape.pack_len.to_le_bytes());
    fields[24..28].copy_from_slice(&small(shape.data));
    fields[28..32].copy_from_slice(&small(shape.recovery));
    fields[32..36].copy_from_slice(&small(shape.width));
    fields[48..64].copy_from_slice(&id.0);
    let checksum = blake3::hash(&fields[..FIELDS_BYTES]);
    fields[FIELDS_BYTES..].copy_from_slice(checksum.as_bytes());
    fields
}

/// The hash of a shard.
pub(super) fn hash(shard: &[u8]) -> Hash {
    shortened(blake3::hash(shard))
}

fn page_checksum(header: &[u8; HEADER_BYTES], number: u32, hashes: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..FIELDS_BYTES]).update(&number.to_le_bytes()).update(hashes);
    shortened(hasher.finalize())
}

fn shortened(hash: blake3::Hash) -> Hash {
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// A record as it was found: perhaps damaged, but its header is sound at least once.
pub struct Record {
    pub(super) shape: Shape,
    bytes: Vec<u8>,
    /// Of each shard, data first; `None` where both tables are damaged.
    hashes: Vec<Option<Hash>>,
    /// Which recovery shards are what the table says.
    is_sound: Vec<bool>,
    /// The first thing that is wrong with it, and how many are.
    faults: Option<(RepoError, usize)>,
}

impl Record {
    /// Reads the record of a pack, as much of it as the medium gives; `None` if there is none.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if both headers are, [`RepoError::Unsupported`] for a later version, [`RepoError::Store`].
    pub fn load(store: &dyn ObjectStore, id: PackId) -> Result<Option<Record>, RepoError> {
        let name = object_name(id);
        match salvage::read(store, &name, RECORD_BYTES_MAX) {
            Ok(bytes) => Record::decode(id, bytes).map(Some),
            Err(RepoError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at the object of a record.
    ///
    /// # Errors
    /// As [`Record::load`].
    pub fn decode(id: PackId, bytes: Vec<u8>) -> Result<Record, RepoError> {
        let front = bytes.first_chunk().map(|header| decode_header(id, header));
        let shape = match front {
            Some(Ok(shape)) => shape,
            Some(Err(error @ RepoError::Unsupported { .. })) => return Err(error),
            front => {
                let end = bytes.last_chunk().map(|header| decode_header(id, header));
                match (end, front) {
                    // Only where its record is as long as it says does the second header tell where things lie.
                    (Some(Ok(shape)), _) if shape.record_len() == bytes.len() => shape,
                    (_, Some(Err(error))) => return Err(error),
                    _ => {
                        let name = object_name(id);
                        return Err(RepoError::short(name.as_str(), HEADER_BYTES as u64, bytes.len() as u64));
                    }
                }
            }
        };
        let mut record = Record { shape, bytes, hashes: Vec::new(), is_sound: Vec::new(), faults: None };
        record.look(id);
        Ok(record)
    }

    fn look(&mut self, id: PackId) {
        let expected = encode_header(id, &self.shape);
        let [first, shards, second, header, end] = self.shape.places();
        if self.bytes.len() != end {
            self.note(
                id,
                "length",
                self.bytes.len().min(end),
                format!("{end} bytes"),
                format!("{} bytes", self.bytes.len()),
            );
            self.bytes.resize(end, 0);
        }
        for at in [0, header] {
            if self.bytes[at..at + HEADER_BYTES] != expected {
                self.note(id, "header", at, "the other header's bytes".to_owned(), "other bytes".to_owned());
            }
        }
        let total = self.shape.shards();
        let mut page_at = 0;
        for (number, from) in (0u32..).zip((0..total).step_by(PAGE_HASHES)) {
            let count = PAGE_HASHES.min(total - from);
            let len = count * HASH_BYTES;
            let mut page = None;
            for at in [first + page_at, second + page_at] {
                let (hashes, checksum) = self.bytes[at..at + len + HASH_BYTES].split_at(len);
                let sum = page_checksum(&expected, number, hashes);
                if sum == *checksum {
                    page = Some(at);
                } else {
                    let found = to_hex(checksum);
                    self.note(id, "table page", at, to_hex(&sum), found);
                }
            }
            let hash = |number: usize| {
                let bytes = &self.bytes[page? + number * HASH_BYTES..];
                bytes.first_chunk().copied()
            };
            let hashes: Vec<Option<Hash>> = (0..count).map(hash).collect();
            self.hashes.extend(hashes);
            page_at += len + HASH_BYTES;
        }
        for number in 0..self.shape.recovery {
            let found = hash(self.recovery_shard(number));
            let expected = self.hashes[self.shape.data + number];
            if expected.is_some_and(|expected| expected != found) {
                let at = shards + number * self.shape.shard_bytes;
                self.note(id, "recovery shard", at, to_hex(&expected.unwrap_or_default()), to_hex(&found));
            }
            self.is_sound.push(expected == Some(found));
        }
    }

    fn note(&mut self, id: PackId, field: &'static str, at: usize, expected: String, found: String) {
        if let Some((_, count)) = &mut self.faults {
            *count += 1;
            return;
        }
        let object = object_name(id).to_string();
        self.faults = Some((RepoError::Damaged { object, field, at: at as u64, expected, found }, 1));
    }

    /// The first thing that is wrong with the record, and how many are; `None` if each of its bytes is sound.
    pub fn fault(&self) -> Option<(&RepoError, usize)> {
        self.faults.as_ref().map(|(error, count)| (error, *count))
    }

    /// Bytes of the pack that it was made of.
    pub fn pack_len(&self) -> u64 {
        self.shape.pack_len
    }

    /// How many of a pack's shards can be lost, and how many there are.
    pub fn capacity(&self) -> (usize, usize) {
        (self.is_sound.iter().filter(|is_sound| **is_sound).count(), self.shape.data)
    }

    /// Bytes of a shard.
    pub fn shard_bytes(&self) -> usize {
        self.shape.shard_bytes
    }

    /// The hash of a data shard; `None` if it was lost.
    pub(super) fn data_hash(&self, number: usize) -> Option<Hash> {
        self.hashes[number]
    }

    /// The recovery shards that are sound.
    pub(super) fn recovery(&self) -> Vec<(usize, &[u8])> {
        let sound = (0..self.shape.recovery).filter(|number| self.is_sound[*number]);
        sound.map(|number| (number, self.recovery_shard(number))).collect()
    }

    fn recovery_shard(&self, number: usize) -> &[u8] {
        let at = self.shape.places()[1] + number * self.shape.shard_bytes;
        &self.bytes[at..at + self.shape.shard_bytes]
    }
}

fn decode_header(id: PackId, header: &[u8; HEADER_BYTES]) -> Result<Shape, RepoError> {
    let object = object_name(id).to_string();
    let damaged = |field, at, expected: String, found: String| {
        Err(RepoError::Damaged { object: object.clone(), field, at, expected, found })
    };
    if header[..8] != *MAGIC {
        return damaged("magic", 0, "ABBILDr1".to_owned(), header[..8].escape_ascii().to_string());
    }
    let checksum = blake3::hash(&header[..FIELDS_BYTES]);
    if checksum.as_bytes() != &header[FIELDS_BYTES..] {
        return damaged("header checksum", 64, checksum.to_string(), to_hex(&header[FIELDS_BYTES..]));
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(RepoError::Unsupported { object, feature: format!("recovery record version {version}") });
    }
    if header[48..64] != id.0 {
        return damaged("pack id", 48, id.to_string(), to_hex(&header[48..64]));
    }
    let pack_len = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
    let number = |at: usize| usize::try_from(word(at)).ok();
    let shape = || Shape::new(pack_len, number(12)?, number(28)?, number(32)?);
    match shape() {
        Some(shape) if number(24) == Some(shape.data) => Ok(shape),
        _ => {
            let found = format!("{} + {} of {} for {pack_len} bytes", word(24), word(28), word(12));
            damaged("shards", 12, "counts within the limits".to_owned(), found)
        }
    }
}

/// Compares a pack with its record while it is read from front to end.
pub struct Comparison<'r> {
    record: &'r Record,
    shard: Vec<u8>,
    /// Data shards seen.
    seen: usize,
    len: u64,
    differing: usize,
}

impl<'r> Comparison<'r> {
    /// Begins.
    pub fn new(record: &'r Record) -> Comparison<'r> {
        Comparison { record, shard: Vec::new(), seen: 0, len: 0, differing: 0 }
    }

    /// Takes the next bytes of the pack.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.record.shape.shard_bytes - self.shard.len()));
            self.shard.extend_from_slice(now);
            if self.shard.len() == self.record.shape.shard_bytes {
                self.compare();
            }
            bytes = later;
        }
    }

    /// Whether the record was made of these bytes.
    pub fn fits(mut self) -> bool {
        if !self.shard.is_empty() {
            self.shard.resize(self.record.shape.shard_bytes, 0);
            self.compare();
        }
        self.differing == 0 && self.len == self.record.shape.pack_len
    }

    fn compare(&mut self) {
        let expected = (self.seen < self.record.shape.data).then(|| self.record.data_hash(self.seen));
        // A hash that the record lost says nothing; that it is damaged is known already.
        let is_other = expected.is_none_or(|expected| expected.is_some_and(|expected| expected != hash(&self.shard)));
        self.differing += usize::from(is_other);
        self.seen += 1;
        self.shard.clear();
    }
}

/// The shape of a record of a pack whose bytes are all there.
pub(super) fn shape_of(share: Share, pack_len: u64, shard_bytes: usize, width: Option<usize>) -> Shape {
    let data = usize::try_from(pack_len).expect("a pack fits in memory").div_ceil(shard_bytes);
    let wanted = share.recovery_shards(data);
    let width = width.unwrap_or(wanted.next_power_of_two());
    Shape::new(pack_len, shard_bytes, wanted.min(width), width).expect("packs and shares have limits of their own")
}
