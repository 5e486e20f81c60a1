//! Small sealed objects: one compressed, padded, sealed payload (manifests, index segments, sessions, generations).
//!
//! Layout (docs/FORMAT.md, "Small sealed objects"):
//!
//!     header 80 | sealed( payload length 8 | zstd payload | zero padding ) | tag 16 | BLAKE3 of all before 32
//!
//! The last 32 bytes need no key: a scrub without one still finds damage. The padding hides the payload's exact length.

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use zstd::zstd_safe::{DCtx, ResetDirective};

use super::error::RepoError;
use super::ids::to_hex;
use super::seal::{HEADER_BYTES, Keys, Kind, ObjectCipher, TAG_BYTES};
use super::store::{ObjectName, ObjectStore};

/// Largest small object we read: 256 MiB, far above an index segment of 8 MiB and a manifest of some KiB.
pub const OBJECT_BYTES_MAX: u64 = 256 << 20;
/// Largest payload we unpack from one.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// Fast enough not to be seen, small enough for text.
const LEVEL: i32 = 3;
const CHECKSUM_BYTES: usize = 32;

/// Seals `payload` as the object `name`.
pub fn encode(keys: &Keys, kind: Kind, name: &ObjectName, payload: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(payload, LEVEL).expect("compressing into memory cannot fail");
    let cipher = ObjectCipher::create(keys, kind, name.as_str());
    let plain_len = padded_len(8 + packed.len() as u64);
    let mut part = Vec::with_capacity(plain_len as usize + TAG_BYTES);
    part.extend_from_slice(&(packed.len() as u64).to_le_bytes());
    part.extend_from_slice(&packed);
    part.resize(plain_len as usize, 0);
    cipher.seal(0, plain_len, &mut part);
    let mut object = cipher.header().to_vec();
    object.extend_from_slice(&part);
    let checksum = blake3::hash(&object);
    object.extend_from_slice(checksum.as_bytes());
    object
}

/// Opens the object `name` and gives its payload back.
///
/// # Errors
/// [`RepoError::Damaged`] if a single bit differs from what was sealed under that name.
pub fn decode(keys: &Keys, kind: Kind, name: &ObjectName, object: &[u8]) -> Result<Vec<u8>, RepoError> {
    let body = verify_checksum(name.as_str(), object)?;
    let cipher = ObjectCipher::open(keys, kind, name.as_str(), body)?;
    let mut part = body[HEADER_BYTES..].to_vec();
    let plain_len = part.len().saturating_sub(TAG_BYTES) as u64;
    cipher.open_part(0, plain_len, HEADER_BYTES as u64, &mut part)?;
    let damaged = |field, found: String| RepoError::Damaged {
        object: name.to_string(),
        field,
        at: HEADER_BYTES as u64,
        expected: "what this program writes".to_owned(),
        found,
    };
    let (len, rest) = part.split_first_chunk::<8>().ok_or_else(|| damaged("payload length", "nothing".to_owned()))?;
    let len = u64::from_le_bytes(*len);
    let packed = usize::try_from(len)
        .ok()
        .and_then(|len| rest.get(..len))
        .ok_or_else(|| damaged("payload length", len.to_string()))?;
    decompress_bounded(packed, PAYLOAD_BYTES_MAX).map_err(|error| damaged("payload", error.to_string()))
}

/// Checks the trailing checksum, which needs no key, and gives what stands before it.
///
/// # Errors
/// [`RepoError::Damaged`].
pub fn verify_checksum<'a>(name: &str, object: &'a [u8]) -> Result<&'a [u8], RepoError> {
    let (body, checksum) = object
        .split_last_chunk::<CHECKSUM_BYTES>()
        .filter(|(body, _)| body.len() >= HEADER_BYTES + TAG_BYTES)
        .ok_or_else(|| {
            RepoError::short(name, (HEADER_BYTES + TAG_BYTES + CHECKSUM_BYTES) as u64, object.len() as u64)
        })?;
    let actual = blake3::hash(body);
    if actual.as_bytes() != checksum {
        return Err(RepoError::Damaged {
            object: name.to_owned(),
            field: "checksum",
            at: body.len() as u64,
            expected: to_hex(actual.as_bytes()),
            found: to_hex(checksum),
        });
    }
    Ok(body)
}

/// Seals `payload` and stores it durably under `name`, which must be new.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put(
    store: &dyn ObjectStore,
    keys: &Keys,
    kind: Kind,
    name: &ObjectName,
    payload: &[u8],
) -> Result<(), RepoError> {
    Ok(store.put_exclusive(name, &encode(keys, kind, name, payload))?)
}

/// Reads and opens the object `name`.
///
/// # Errors
/// As [`decode`], and [`RepoError::Store`].
pub fn get(store: &dyn ObjectStore, keys: &Keys, kind: Kind, name: &ObjectName) -> Result<Vec<u8>, RepoError> {
    decode(keys, kind, name, &store.read(name, OBJECT_BYTES_MAX)?)
}

/// Reads and opens the object `name`, whose payload is JSON.
///
/// # Errors
/// As [`get`]; [`RepoError::Damaged`] if it is other JSON, or none.
pub fn get_json<T: DeserializeOwned>(
    store: &dyn ObjectStore,
    keys: &Keys,
    kind: Kind,
    name: &ObjectName,
) -> Result<T, RepoError> {
    serde_json::from_slice(&get(store, keys, kind, name)?).map_err(|error| RepoError::Damaged {
        object: name.to_string(),
        field: "payload",
        at: 0,
        expected: "its JSON".to_owned(),
        found: error.to_string(),
    })
}

/// Reads and opens the object that was sealed as `sealed_as` and lies at `at` now.
///
/// # Errors
/// As [`get`].
pub fn get_moved(
    store: &dyn ObjectStore,
    keys: &Keys,
    kind: Kind,
    sealed_as: &ObjectName,
    at: &ObjectName,
) -> Result<Vec<u8>, RepoError> {
    decode(keys, kind, sealed_as, &store.read(at, OBJECT_BYTES_MAX)?)
}

thread_local! {
    /// Making a context costs more than unpacking a manifest with it.
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Unpacks zstd, never beyond `max` bytes.
fn decompress_bounded(packed: &[u8], max: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut plain = Vec::new();
    CONTEXT.with_borrow_mut(|context| {
        // Whatever the last object left, if it was damaged.
        context.reset(ResetDirective::SessionOnly).expect("a session can always be ended");
        zstd::stream::read::Decoder::with_context(packed, context).take(max as u64 + 1).read_to_end(&mut plain)
    })?;
    if plain.len() > max {
        return Err(std::io::Error::other(format!("more than {max} bytes")));
    }
    Ok(plain)
}

/// The size class of `len`: at most 12 % more for tiny lengths, at most 3 % for 64 MiB, so that a stored length tells
/// O(log log) bits about the real one. Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
/// Communication with PURBs" (PETS 2019), the function Padmé.
pub fn padded_len(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let mask = (1u64 << (exponent.saturating_sub(kept_bits))) - 1;
    len.checked_add(mask).map_or(len, |sum| sum & !mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::RepoId;
    use crate::repo::seal::{MasterSecret, MasterSecrets};

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let keys = Keys::derive(&MasterSecrets::of_first(MasterSecret([1; 32])), RepoId([2; 16]));
        let name = ObjectName::new("manifests/00").unwrap();
        let payload = b"{\"a\": 1}".repeat(20);
        let object = encode(&keys, Kind::Manifest, &name, &payload);
        assert_eq!(decode(&keys, Kind::Manifest, &name, &object).unwrap(), payload);
        for bit in 0..object.len() * 8 {
            let mut flipped = object.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&keys, Kind::Manifest, &name, &flipped).is_err(), "bit {bit}");
        }
        for len in 0..object.len() {
            assert!(decode(&keys, Kind::Manifest, &name, &object[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn size_classes_grow_and_cost_little() {
        #[track_caller]
        fn check(len: u64, expected: u64) {
            assert_eq!(padded_len(len), expected, "{len}");
        }
        check(0, 0);
        check(1, 1);
        check(9, 10);
        check(100, 104);
        check(1 << 20, 1 << 20);
        check((1 << 20) + 1, (1 << 20) + (1 << 15));
        check(u64::MAX, u64::MAX);
        for len in (1u64..100_000).chain((0..30).map(|bit| (1 << bit) + 3)) {
            let padded = padded_len(len);
            assert!(padded >= len && padded as f64 <= len as f64 * 1.13, "{len} → {padded}");
        }
    }
}
