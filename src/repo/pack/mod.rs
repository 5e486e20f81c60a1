//! Packs: many sealed blobs in one object, so that a store holds few, large objects.
//!
//! In here: laying blobs out, the sealed directory that lists them, the trailer that a scrub can check without a key.
//! Not in here: how a blob's plain bytes are compressed (`blob`), where packs live (`store`), who wants them.
//!
//! Layout, little-endian, lengths in bytes (docs/FORMAT.md, "Packs"):
//!
//!     header 80 | sealed blob … | sealed directory | random padding | trailer
//!     trailer:  sealed locator 32+16 | stripe hash 32 × n | trailer length 4 | BLAKE3 of the trailer so far 32 | magic 8
//!
//! Blob borders, and the directory's place, are known only to who can open the locator: the store sees a padded length.
//! The stripe hashes are BLAKE3 of each 1 MiB of what precedes the trailer.
//!
//! Invariant: once a pack's name is visible in the store, its bytes never change.

pub mod directory;
pub mod plain;
pub mod reader;
pub mod writer;

pub use directory::{BlobEntry, ChunkPlace, Directory};
pub use plain::PlainBlob;

use super::ids::PackId;
use super::store::ObjectName;

/// Length a pack is filled to, and padded to unless it is the last of a run: 64 MiB.
pub const PACK_BYTES_TARGET: u64 = 64 << 20;
/// Largest pack we open; `check` holds one a worker in memory.
pub const PACK_BYTES_MAX: u64 = 128 << 20;
/// Each stripe of this many bytes before the trailer has a hash in the trailer.
pub const STRIPE_BYTES: usize = 1 << 20;
/// Last bytes of a pack.
const TRAILER_MAGIC: &[u8; 8] = b"ABBILDt1";
/// Plain bytes of the locator: directory offset 8, directory plain length 8, zeros 16.
const LOCATOR_BYTES: usize = 32;
/// Bytes of the trailer besides its stripe hashes.
const TRAILER_FIXED_BYTES: usize = LOCATOR_BYTES + super::seal::TAG_BYTES + 4 + 32 + 8;
/// Part number of the directory; blobs count up from 0 and never reach it.
const DIRECTORY_PART: u64 = u64::MAX - 1;
/// Part number of the locator.
const LOCATOR_PART: u64 = u64::MAX;

/// Bytes of a trailer for a pack whose part before the trailer has `body_len` bytes.
fn trailer_len(body_len: u64) -> u64 {
    body_len.div_ceil(STRIPE_BYTES as u64) * 32 + TRAILER_FIXED_BYTES as u64
}

/// The name of a pack's object: `packs/`, the first two digits of its id, its id.
pub fn object_name(id: PackId) -> ObjectName {
    let hex = id.to_string();
    ObjectName::new(&format!("packs/{}/{hex}", &hex[..2])).expect("hex digits make a good name")
}

/// The id in a pack's object name; `None` if it is not the name of a pack.
pub fn id_of(name: &ObjectName) -> Option<PackId> {
    let id: PackId = name.as_str().rsplit('/').next()?.parse().ok()?;
    (object_name(id) == *name).then_some(id)
}
