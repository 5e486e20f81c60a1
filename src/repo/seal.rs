//! Sealing: how every object of a repository is encrypted, authenticated and bound to its place.
//!
//! In here: the master secret and the keys derived from it, the header that sealed objects begin with, AES-256-GCM over
//! their parts. Not in here: what the parts mean, where objects live, how the master secret is kept (`keys`).
//!
//! Header, 80 bytes, little-endian (docs/FORMAT.md, "Sealed objects"):
//!
//!     magic 8 | kind 1 | version 1 | epoch 2 | flags 4 | salt 32 | commitment 32
//!
//! Each object has a key of its own, HKDF-SHA-256 over the random salt, so a nonce is a plain counter and never repeats
//! under a key. GCM alone opens under several keys; the commitment, a second output of the same derivation, is compared
//! first. The associated data binds the header, the repository, the object's name and the part's number and length.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::error::RepoError;
use super::ids::{ChunkId, RepoId, random};

/// First bytes of every sealed object.
pub const MAGIC: &[u8; 8] = b"ABBILDs1";
/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 80;
/// What sealing adds to a part, in bytes.
pub const TAG_BYTES: usize = 16;
/// The only version of sealed objects there is.
pub(crate) const VERSION: u8 = 1;

/// What a sealed object is; part of its key and of its associated data, so that none passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A pack of data chunks.
    DataPack = 1,
    /// A pack of map chunks.
    MapPack = 2,
    /// An index segment.
    IndexSegment = 3,
    /// A manifest.
    Manifest = 4,
    /// A session.
    Session = 5,
    /// A generation.
    Generation = 6,
    /// Tombstones: packs that a prune was about to move.
    Tombstones = 7,
    /// A closing: what a prune left, and who was at work then.
    Closing = 8,
    /// A pin: a backup that is not to be forgotten.
    Pin = 9,
}

/// What everything of one epoch is derived from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterSecret(pub(crate) [u8; 32]);

/// The master secrets of a repository, one an epoch: what opens it, and what key slots wrap. New objects are sealed under
/// the newest; chunk ids and cuts come from the first, for good.
#[derive(Clone)]
pub struct MasterSecrets {
    first: MasterSecret,
    /// Epochs from 1 up, ascending.
    later: Vec<(u16, MasterSecret)>,
}

impl MasterSecrets {
    /// Those of a new repository.
    pub fn generate() -> MasterSecrets {
        MasterSecrets::of_first(MasterSecret(random()))
    }

    /// Those of a repository that has had one epoch only.
    pub fn of_first(first: MasterSecret) -> MasterSecrets {
        MasterSecrets { first, later: Vec::new() }
    }

    /// The same, and a fresh secret for the next epoch; `None` if there is no number left for it.
    pub fn with_next(&self) -> Option<MasterSecrets> {
        let mut next = self.clone();
        next.later.push((self.newest().checked_add(1)?, MasterSecret(random())));
        Some(next)
    }

    /// `epochs` and their secrets, one behind the other; `None` unless the epochs ascend from 0 and each has its bytes.
    pub fn from_bytes(epochs: &[u16], bytes: &[u8]) -> Option<MasterSecrets> {
        let (secrets, []) = bytes.as_chunks::<32>() else { return None };
        let ascend = epochs.windows(2).all(|pair| pair[0] < pair[1]);
        if secrets.len() != epochs.len() || epochs.first() != Some(&0) || !ascend {
            return None;
        }
        let mut secrets = epochs.iter().copied().zip(secrets.iter().map(|bytes| MasterSecret(*bytes)));
        let (_, first) = secrets.next()?;
        Some(MasterSecrets { first, later: secrets.collect() })
    }

    /// The epochs, ascending.
    pub fn epochs(&self) -> Vec<u16> {
        self.iter().map(|(epoch, _)| epoch).collect()
    }

    /// The secrets in the order of their epochs, one behind the other.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(32 * (1 + self.later.len())));
        self.iter().for_each(|(_, secret)| bytes.extend_from_slice(&secret.0));
        bytes
    }

    /// The epoch that new objects belong to.
    pub fn newest(&self) -> u16 {
        self.later.last().map_or(0, |(epoch, _)| *epoch)
    }

    fn iter(&self) -> impl Iterator<Item = (u16, &MasterSecret)> {
        std::iter::once((0, &self.first)).chain(self.later.iter().map(|(epoch, secret)| (*epoch, secret)))
    }
}

/// The keys of one repository, derived from its master secrets.
pub struct Keys {
    repository: RepoId,
    /// By epoch, ascending; never empty.
    sealing: Vec<(u16, Zeroizing<[u8; 32]>)>,
    data_ids: Zeroizing<[u8; 32]>,
    map_ids: Zeroizing<[u8; 32]>,
    gear: Zeroizing<[u8; 32]>,
    host: Zeroizing<[u8; 32]>,
}

/// Which of the two sets of chunks an id belongs to: the guest's bytes, or our maps of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// Bytes of a guest's disk or of a definition file.
    Data,
    /// A segment list, a node or a root of a disk map.
    Map,
}

impl ChunkKind {
    /// What packs of that kind hold.
    pub fn in_pack(kind: Kind) -> ChunkKind {
        if kind == Kind::MapPack { ChunkKind::Map } else { ChunkKind::Data }
    }
}

impl Keys {
    /// Derives every key of the repository.
    pub fn derive(masters: &MasterSecrets, repository: RepoId) -> Keys {
        let expand = |master: &MasterSecret, info: &str| {
            let mut key = Zeroizing::new([0; 32]);
            let hkdf = Hkdf::<Sha256>::new(Some(&repository.0), &master.0);
            hkdf.expand(info.as_bytes(), key.as_mut()).expect("32 bytes are a valid output length");
            key
        };
        let sealing = |(epoch, master)| (epoch, expand(master, &format!("abbild v1 sealing epoch {epoch}")));
        Keys {
            repository,
            sealing: masters.iter().map(sealing).collect(),
            data_ids: expand(&masters.first, "abbild v1 data chunk ids"),
            map_ids: expand(&masters.first, "abbild v1 map chunk ids"),
            gear: expand(&masters.first, "abbild v1 gear table"),
            host: expand(&masters.first, "abbild v1 host records"),
        }
    }

    /// The repository these keys belong to.
    pub fn repository(&self) -> RepoId {
        self.repository
    }

    /// The id of a chunk with these plain bytes.
    pub fn chunk_id(&self, kind: ChunkKind, plain: &[u8]) -> ChunkId {
        let key = match kind {
            ChunkKind::Data => &self.data_ids,
            ChunkKind::Map => &self.map_ids,
        };
        let hash = blake3::keyed_hash(key, plain);
        ChunkId(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }

    /// The chunker's gear table: 256 words of the BLAKE3 output stream keyed for this repository.
    pub fn gear_table(&self) -> Box<[u64; 256]> {
        let mut bytes = Zeroizing::new([0u8; 2048]);
        blake3::Hasher::new_keyed(&self.gear).finalize_xof().fill(bytes.as_mut());
        let mut table = Box::new([0; 256]);
        for (word, eight) in table.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(eight.try_into().expect("chunks of eight bytes"));
        }
        table
    }

    /// A checksum of what this host keeps for itself: who holds no key can neither make it nor change what it is of. Each
    /// part is taken with its length, so that no two rows of parts are the same bytes.
    pub fn host_checksum(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.host);
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// The key of the object with that header, and the commitment to it; `None` if its epoch is none of ours.
    fn object_key(&self, header: &[u8; HEADER_BYTES], name: &str) -> Option<(Aes256Gcm, [u8; 32])> {
        let epoch = u16::from_le_bytes([header[10], header[11]]);
        let (_, sealing) = self.sealing.iter().find(|(known, _)| *known == epoch)?;
        let hkdf = Hkdf::<Sha256>::new(Some(&header[16..48]), sealing.as_ref());
        let info = [b"abbild v1 object", &header[8..16], &self.repository.0, name.as_bytes()].concat();
        let mut output = Zeroizing::new([0; 64]);
        hkdf.expand(&info, output.as_mut()).expect("64 bytes are a valid output length");
        let mut commitment = [0; 32];
        commitment.copy_from_slice(&output[32..]);
        Some((Aes256Gcm::new_from_slice(&output[..32]).expect("a key of 32 bytes"), commitment))
    }
}

/// Seals and opens the parts of one object.
pub struct ObjectCipher {
    cipher: Aes256Gcm,
    header: [u8; HEADER_BYTES],
    name: String,
    repository: RepoId,
}

impl ObjectCipher {
    /// Starts a new object: draws its salt and derives its key.
    pub fn create(keys: &Keys, kind: Kind, name: &str) -> ObjectCipher {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8] = kind as u8;
        header[9] = VERSION;
        let (newest, _) = keys.sealing.last().expect("there is always a first epoch");
        header[10..12].copy_from_slice(&newest.to_le_bytes());
        header[16..48].copy_from_slice(&fresh_salt());
        let (cipher, commitment) = keys.object_key(&header, name).expect("its epoch is one of ours");
        header[48..].copy_from_slice(&commitment);
        ObjectCipher { cipher, header, name: name.to_owned(), repository: keys.repository }
    }

    /// Opens an object from its header. Nothing is decrypted before the commitment has been compared.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if this is not the header of that kind of object of this repository under that name,
    /// [`RepoError::Unsupported`] for a later version.
    pub fn open(keys: &Keys, kind: Kind, name: &str, header: &[u8]) -> Result<ObjectCipher, RepoError> {
        let damaged = |field, at, expected: &str, found: String| RepoError::Damaged {
            object: name.to_owned(),
            field,
            at,
            expected: expected.to_owned(),
            found,
        };
        let header: [u8; HEADER_BYTES] = header
            .get(..HEADER_BYTES)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| RepoError::short(name, HEADER_BYTES as u64, header.len() as u64))?;
        if header[..8] != *MAGIC {
            return Err(damaged("magic", 0, "ABBILDs1", header[..8].escape_ascii().to_string()));
        }
        if header[8] != kind as u8 {
            return Err(damaged("kind", 8, &(kind as u8).to_string(), header[8].to_string()));
        }
        let Some((cipher, commitment)) = keys.object_key(&header, name) else {
            let known: Vec<String> = keys.sealing.iter().map(|(epoch, _)| epoch.to_string()).collect();
            let found = format!(
                "{}: damage, or sealed after a change of keys by a newer key than this one, or by a later version",
                u16::from_le_bytes([header[10], header[11]])
            );
            return Err(damaged("epoch", 10, &known.join(" or "), found));
        };
        if !constant_time_equal(&commitment, &header[48..]) {
            // A later version derives another key; so does a damaged byte. Nobody can tell which.
            if header[9] != VERSION || header[12..16] != [0; 4] {
                let found = format!("{:02x?}: damage, or written by a later version", &header[9..16]);
                return Err(damaged("version and flags", 9, "1 and zeros", found));
            }
            return Err(RepoError::unauthentic(name, "key commitment", 48));
        }
        // Authenticated from here on (the key covers kind, version, epoch and flags): these are honest, not damaged.
        if header[9] != VERSION || header[12..16] != [0; 4] {
            let feature = format!("object version {} and flags {:02x?}", header[9], &header[12..16]);
            return Err(RepoError::Unsupported { object: name.to_owned(), feature });
        }
        Ok(ObjectCipher { cipher, header, name: name.to_owned(), repository: keys.repository })
    }

    /// The header to store in front of the sealed parts.
    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        &self.header
    }

    /// Encrypts `part` in place and appends its tag. A part number must be used once only.
    pub fn seal(&self, number: u64, plain_len: u64, part: &mut Vec<u8>) {
        let aad = self.associated_data(number, plain_len);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce(number), &aad, part.as_mut_slice().into())
            .expect("a part is far below the 64 GiB that GCM allows");
        part.extend_from_slice(&tag);
    }

    /// Decrypts a sealed part in place and cuts its tag off. `at` is where it lies in the object, for the message.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if one bit of it, of its number or of its length is not what was sealed.
    pub fn open_part(&self, number: u64, plain_len: u64, at: u64, part: &mut Vec<u8>) -> Result<(), RepoError> {
        let cut = part
            .len()
            .checked_sub(TAG_BYTES)
            .ok_or_else(|| RepoError::short(&self.name, at + TAG_BYTES as u64, at + part.len() as u64))?;
        let tag: [u8; TAG_BYTES] = part[cut..].try_into().expect("the tag's length was cut off");
        part.truncate(cut);
        let aad = self.associated_data(number, plain_len);
        self.cipher
            .decrypt_inout_detached(&nonce(number), &aad, part.as_mut_slice().into(), &Tag::from(tag))
            .map_err(|_| RepoError::unauthentic(&self.name, "sealed part", at))
    }

    fn associated_data(&self, number: u64, plain_len: u64) -> Vec<u8> {
        [
            self.header.as_slice(),
            &self.repository.0,
            &number.to_le_bytes(),
            &plain_len.to_le_bytes(),
            self.name.as_bytes(),
        ]
        .concat()
    }
}

/// The nonce of a part: four zero bytes, then its number.
fn nonce(number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    bytes.into()
}

/// 32 bytes that no other object has: random ones, hashed together with what tells a cloned host's twin apart should
/// both draw the same random bytes (boot, process, time, a counter).
fn fresh_salt() -> [u8; 32] {
    use std::sync::atomic::{AtomicU64, Ordering};
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&random::<32>());
    hasher.update(&std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(&jiff::Timestamp::now().as_nanosecond().to_le_bytes());
    hasher.update(&DRAWN.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Compares without telling by its duration where the difference lies.
pub(crate) fn constant_time_equal(a: &[u8], b: &[u8]) -> bool {
    let (Ok(a), Ok(b)) = (<[u8; 32]>::try_from(a), <[u8; 32]>::try_from(b)) else { return false };
    blake3::Hash::from_bytes(a) == blake3::Hash::from_bytes(b) // this comparison is constant-time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::derive(&MasterSecrets::of_first(MasterSecret([7; 32])), RepoId([9; 16]))
    }

    #[test]
    fn a_part_opens_only_as_what_and_where_it_was_sealed() {
        let keys = keys();
        let cipher = ObjectCipher::create(&keys, Kind::Manifest, "manifests/a");
        let mut sealed = b"hello".to_vec();
        cipher.seal(3, 5, &mut sealed);
        let open = |kind, name: &str, number, len, bytes: &[u8], header: &[u8]| {
            let mut part = bytes.to_vec();
            ObjectCipher::open(&keys, kind, name, header)?.open_part(number, len, 80, &mut part).map(|()| part)
        };
        let header = *cipher.header();
        assert_eq!(open(Kind::Manifest, "manifests/a", 3, 5, &sealed, &header).unwrap(), b"hello");
        assert!(open(Kind::Session, "manifests/a", 3, 5, &sealed, &header).is_err());
        assert!(open(Kind::Manifest, "manifests/b", 3, 5, &sealed, &header).is_err());
        assert!(open(Kind::Manifest, "manifests/a", 4, 5, &sealed, &header).is_err());
        assert!(open(Kind::Manifest, "manifests/a", 3, 6, &sealed, &header).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(Kind::Manifest, "manifests/a", 3, 5, &flipped, &header).is_err(), "bit {bit} of the part");
        }
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = header;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(Kind::Manifest, "manifests/a", 3, 5, &sealed, &flipped).is_err(), "bit {bit} of the header");
        }
        let other = Keys::derive(&MasterSecrets::of_first(MasterSecret([7; 32])), RepoId([8; 16]));
        assert!(ObjectCipher::open(&other, Kind::Manifest, "manifests/a", &header).is_err());
    }

    #[test]
    fn what_may_be_of_a_later_version_is_said_to_be() {
        let keys = keys();
        let mut header = *ObjectCipher::create(&keys, Kind::Manifest, "manifests/a").header();
        for at in [9, 10, 12] {
            header[at] ^= 2;
            let Err(error) = ObjectCipher::open(&keys, Kind::Manifest, "manifests/a", &header) else { panic!("{at}") };
            assert!(error.to_string().contains("later version"), "{error}");
            header[at] ^= 2;
        }
        header[20] ^= 1;
        let Err(error) = ObjectCipher::open(&keys, Kind::Manifest, "manifests/a", &header) else { panic!("the salt") };
        assert!(error.to_string().contains("key commitment"), "{error}");
    }

    #[test]
    fn what_a_newer_epoch_sealed_opens_for_who_knows_it_alone() {
        let before = MasterSecrets::of_first(MasterSecret([7; 32]));
        let after = before.with_next().unwrap();
        let (old, new) = (Keys::derive(&before, RepoId([9; 16])), Keys::derive(&after, RepoId([9; 16])));
        let from_old = *ObjectCipher::create(&old, Kind::Session, "sessions/a").header();
        let from_new = *ObjectCipher::create(&new, Kind::Session, "sessions/a").header();
        assert_eq!((from_old[10], from_new[10]), (0, 1));
        assert!(ObjectCipher::open(&new, Kind::Session, "sessions/a", &from_old).is_ok());
        assert!(ObjectCipher::open(&new, Kind::Session, "sessions/a", &from_new).is_ok());
        let Err(error) = ObjectCipher::open(&old, Kind::Session, "sessions/a", &from_new) else { panic!("opened") };
        assert!(error.to_string().contains("newer key"), "{error}");
        // The epoch's number alone helps nobody, and ids stay what they were.
        let mut relabelled = from_new;
        relabelled[10] = 0;
        assert!(ObjectCipher::open(&old, Kind::Session, "sessions/a", &relabelled).is_err());
        assert_eq!(old.chunk_id(ChunkKind::Data, b"x"), new.chunk_id(ChunkKind::Data, b"x"));
        assert_eq!(old.gear_table(), new.gear_table());
    }

    #[test]
    fn master_secrets_come_back_from_their_bytes() {
        let secrets = MasterSecrets::generate().with_next().unwrap().with_next().unwrap();
        let (epochs, bytes) = (secrets.epochs(), secrets.to_bytes());
        assert_eq!(epochs, [0, 1, 2]);
        let again = MasterSecrets::from_bytes(&epochs, &bytes).unwrap();
        assert_eq!((again.epochs(), again.to_bytes()), (epochs, bytes.clone()));
        for bad in [&[] as &[u16], &[0, 1], &[1, 2, 3], &[0, 2, 2], &[0, 2, 1], &[0, 1, 2, 3]] {
            assert!(MasterSecrets::from_bytes(bad, &bytes).is_none(), "{bad:?}");
        }
        assert!(MasterSecrets::from_bytes(&[0], &bytes[..33]).is_none());
    }

    #[test]
    fn salts_and_with_them_keys_never_repeat() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(fresh_salt()));
        }
    }

    #[test]
    fn ids_depend_on_kind_and_repository() {
        let (a, b) = (keys(), Keys::derive(&MasterSecrets::of_first(MasterSecret([7; 32])), RepoId([1; 16])));
        let id = a.chunk_id(ChunkKind::Data, b"x");
        assert_ne!(id, a.chunk_id(ChunkKind::Map, b"x"));
        assert_ne!(id, b.chunk_id(ChunkKind::Data, b"x"));
        assert_ne!(a.gear_table(), b.gear_table());
    }
}
