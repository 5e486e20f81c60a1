//! The promises of `repo::parity` on records that a stranger wrote: no panic, no memory beyond the limits, and never a pack
//! that its own trailer does not vouch for.

use abbild::repo::ids::PackId;
use abbild::repo::pack::{self, reader};
use abbild::repo::parity::{self, Comparison, Record};
use abbild::repo::store::ObjectStore;
use abbild::repo::store::directory::DirectoryStore;
use abbild::repo::store::faulty::MemFs;

use super::message::is_short;

/// The pack whose records these are.
pub const ID: PackId = PackId([0x11; 16]);

/// A pack whose trailer is right: all that a scrub looks at.
pub fn sound_pack(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let mut trailer = vec![7; 48];
    bytes.chunks(pack::STRIPE_BYTES).for_each(|stripe| trailer.extend_from_slice(blake3::hash(stripe).as_bytes()));
    trailer.extend_from_slice(&(trailer.len() as u32 + 44).to_le_bytes());
    let checksum = blake3::hash(&trailer);
    trailer.extend_from_slice(checksum.as_bytes());
    trailer.extend_from_slice(b"ABBILDt1");
    bytes.extend_from_slice(&trailer);
    bytes
}

/// A record, its header's checksum made right: first looked at, then asked to heal a damaged pack.
pub fn record(input: &[u8]) {
    let mut bytes = input.to_vec();
    if bytes.len() >= 96 {
        let checksum = blake3::hash(&bytes[..64]);
        bytes[64..96].copy_from_slice(checksum.as_bytes());
    }
    let found = match Record::decode(ID, bytes.clone()) {
        Ok(found) => found,
        Err(fault) => return is_short(&fault.to_string()),
    };
    if let Some((fault, count)) = found.fault() {
        is_short(&fault.to_string());
        assert!(count > 0);
    }
    let pack = sound_pack(9000);
    let mut comparison = Comparison::new(&found);
    comparison.update(&pack);
    comparison.fits();

    let mut damaged = pack.clone();
    damaged[4200] ^= 1;
    let store = DirectoryStore::<MemFs>::in_memory();
    let name = pack::object_name(ID);
    store.put(&name, &damaged).expect("a store in memory takes an object");
    store.put(&parity::object_name(ID), &bytes).expect("a store in memory takes an object");
    match parity::heal(&store, ID) {
        Ok(_) => drop(reader::scrub_at(&store, &name, &mut |_| {}).expect("a healed pack is one by its trailer")),
        Err(fault) => {
            is_short(&fault.to_string());
            assert_eq!(store.read(&name, 1 << 20).expect("it is left there"), damaged);
        }
    }
}
