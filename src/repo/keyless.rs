//! What can be seen of stored objects without a key: headers, lengths, checksums. Needs neither password nor cache, so
//! that the host that keeps a store can look after it. Finds rot and misplaced objects; forgeries are found with the key.
//!
//! In here: each form of object looked at by itself, a stripe at a time. Not in here: which objects there are, and what is
//! done about a damaged one (`ops::scrub`).

use super::error::RepoError;
use super::ids::to_hex;
use super::object::OBJECT_BYTES_MAX;
use super::pack::reader;
use super::seal::{HEADER_BYTES, Kind, MAGIC, TAG_BYTES, VERSION};
use super::store::{ObjectName, ObjectStore, StoreError};

/// Read at once.
const PART_BYTES: usize = 1 << 20;
/// Checksum at the end of a small sealed object.
const CHECKSUM_BYTES: usize = 32;

/// Folders of small sealed objects, and the kind that each calls for. Pins are kind 9.
const SEALED: &[(&str, u8)] = &[
    ("index", Kind::IndexSegment as u8),
    ("manifests", Kind::Manifest as u8),
    ("removed", Kind::Manifest as u8),
    ("sessions", Kind::Session as u8),
    ("expired", Kind::Session as u8),
    ("renewals", Kind::Session as u8),
    ("generations", Kind::Generation as u8),
    ("tombstones", Kind::Tombstones as u8),
    ("closings", Kind::Closing as u8),
    ("pins", 9),
];

/// The kind of small sealed object that a name calls for; `None` for all other names.
pub fn kind_of(name: &ObjectName) -> Option<u8> {
    SEALED.iter().find(|(folder, _)| *folder == name.folder()).map(|(_, kind)| *kind)
}

/// Looks at a small sealed object: header, length, checksum. Gives its length.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Unsupported`] for a later version, [`RepoError::Store`].
pub fn small_object(store: &dyn ObjectStore, name: &ObjectName, kind: u8) -> Result<u64, RepoError> {
    let len = store.len(name)?;
    let min = (HEADER_BYTES + TAG_BYTES + CHECKSUM_BYTES) as u64;
    if len < min {
        return Err(RepoError::short(name.as_str(), min, len));
    }
    if len > OBJECT_BYTES_MAX {
        let (place, name, limit) = (store.place(), name.clone(), OBJECT_BYTES_MAX);
        return Err(StoreError::TooLarge { place, name, limit, found: len }.into());
    }
    let body_len = len - CHECKSUM_BYTES as u64;
    let mut hasher = blake3::Hasher::new();
    let mut header = [0; HEADER_BYTES];
    store.read_range(name, 0, &mut header)?;
    let mut part = vec![0; usize::try_from(body_len).unwrap_or(PART_BYTES).min(PART_BYTES)];
    let mut at = 0;
    while at < body_len {
        let len = usize::try_from(body_len - at).unwrap_or(PART_BYTES).min(PART_BYTES);
        store.read_range(name, at, &mut part[..len])?;
        hasher.update(&part[..len]);
        at += len as u64;
    }
    let mut checksum = [0; CHECKSUM_BYTES];
    store.read_range(name, body_len, &mut checksum)?;
    let found = hasher.finalize();
    if found.as_bytes() != &checksum {
        return Err(RepoError::Damaged {
            object: name.to_string(),
            field: "checksum",
            at: body_len,
            expected: found.to_string(),
            found: to_hex(&checksum),
        });
    }
    check_header(name, &header, &[kind])?;
    Ok(len)
}

/// Looks at a pack: every byte of it by its trailer, then its header. Shows all of it to `each`, in order; gives its length.
///
/// # Errors
/// As [`small_object`].
pub fn pack(store: &dyn ObjectStore, name: &ObjectName, each: &mut dyn FnMut(&[u8])) -> Result<u64, RepoError> {
    let mut header = Vec::new();
    let len = reader::scrub_at(store, name, &mut |bytes| {
        let wanted = HEADER_BYTES - header.len();
        header.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
        each(bytes);
    })?;
    let header = header.first_chunk().ok_or_else(|| RepoError::short(name.as_str(), HEADER_BYTES as u64, len))?;
    check_header(name, header, &[Kind::DataPack as u8, Kind::MapPack as u8])?;
    Ok(len)
}

/// The checksums are right, so this is what was written: a misplaced object, or one of a later version.
fn check_header(name: &ObjectName, header: &[u8; HEADER_BYTES], kinds: &[u8]) -> Result<(), RepoError> {
    let damaged = |field, at, expected: String, found: String| {
        Err(RepoError::Damaged { object: name.to_string(), field, at, expected, found })
    };
    if header[..8] != *MAGIC {
        return damaged("magic", 0, "ABBILDs1".to_owned(), header[..8].escape_ascii().to_string());
    }
    if !kinds.contains(&header[8]) {
        let kinds: Vec<String> = kinds.iter().map(u8::to_string).collect();
        return damaged("kind", 8, kinds.join(" or "), header[8].to_string());
    }
    if header[9] != VERSION {
        let feature = format!("object version {}", header[9]);
        return Err(RepoError::Unsupported { object: name.to_string(), feature });
    }
    Ok(())
}
