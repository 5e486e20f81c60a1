//! The promises of `repo` on what is stored, once it is unsealed: what decodes means what its bytes say. Most of these
//! bytes are authenticated before they are decoded; who has the key, or is asked to open a strange repository, meets them
//! all the same.

use abbild::repo::blob::{self, BLOB_PLAIN_BYTES_MAX, Codec};
use abbild::repo::branch_filter;
use abbild::repo::config::{self, Config};
use abbild::repo::ids::ObjectId;
use abbild::repo::index::{decode_segment, encode_segment};
use abbild::repo::keys::SlotInfo;
use abbild::repo::keys::file::KeyFile;
use abbild::repo::manifest::Manifest;
use abbild::repo::map::{self, MapShape};
use abbild::repo::pack::directory::{Directory, DirectoryBuilder};
use abbild::repo::store::ObjectStore;
use abbild::repo::store::directory::DirectoryStore;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::{keys, text};

use super::message::is_short;

/// The configuration: JSON, made a plain object with a right checksum if the first byte is even.
pub fn config(input: &[u8]) {
    let Some(object) = plain_object(input) else { return };
    let store = DirectoryStore::<MemFs>::in_memory();
    store.put_exclusive(&config::object_name(), &object).expect("a store in memory takes an object");
    match Config::load(&store) {
        Ok((config, _)) => {
            let again = DirectoryStore::<MemFs>::in_memory();
            again.put_exclusive(&config::object_name(), &config.encode()).expect("a store in memory takes an object");
            assert_eq!(Config::load(&again).expect("what was read can be written").0, config);
        }
        Err(fault) => is_short(&fault.to_string()),
    }
}

/// A key slot.
pub fn key_slot(input: &[u8]) {
    let Some(object) = plain_object(input) else { return };
    // Its name must fit its content: the fuzzer would hardly guess it.
    let id = ObjectId([0x11; 16]);
    let store = DirectoryStore::<MemFs>::in_memory();
    store.put_exclusive(&keys::object_name(id), &object).expect("a store in memory takes an object");
    let listed = keys::list(&store).expect("a store in memory can be listed");
    let [slot] = listed.as_slice() else { panic!("{} slots", listed.len()) };
    let faults = keys::faults(&store).expect("a store in memory can be listed");
    // The copy is missing in any case.
    assert_eq!(faults.len(), if slot.info.is_ok() { 1 } else { 2 }, "what a list says, a check says");
    match &slot.info {
        Ok(SlotInfo { slot, .. }) => assert_eq!(*slot, id, "a slot under a name that is not its own"),
        Err(fault) => is_short(&fault.to_string()),
    }
}

/// The text of a key file.
pub fn key_file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match KeyFile::parse(text, "web1.key") {
        Ok(key) => {
            let written = key.to_text();
            let again = KeyFile::parse(&written, "web1.key").expect("what was read can be written");
            assert_eq!(again.to_text(), written);
        }
        Err(fault) => is_short(&fault.to_string()),
    }
}

/// The payload of a manifest.
pub fn manifest(input: &[u8]) {
    match Manifest::decode("manifests/1", input) {
        Ok(manifest) => {
            let again = Manifest::decode("manifests/1", &manifest.encode()).expect("what was read can be written");
            assert_eq!(again, manifest);
            for disk in &manifest.disks {
                if let Some(shape) = MapShape::new(disk.size) {
                    shape_adds_up(shape);
                }
            }
        }
        Err(fault) => is_short(&fault.to_string()),
    }
}

/// A segment list, after the length of its segment (3 bytes); the same bytes as a node or root.
pub fn map(input: &[u8]) {
    let Some((len, list)) = input.split_first_chunk::<3>() else { return };
    let segment = usize::from(len[0]) | usize::from(len[1]) << 8 | usize::from(len[2]) << 16;
    if let Ok(entries) = map::decode_list(list, segment) {
        assert_eq!(entries.iter().map(|entry| entry.len() as usize).sum::<usize>(), segment);
        let mut again = Vec::new();
        entries.iter().for_each(|entry| map::push_entry(&mut again, *entry));
        assert_eq!(again, list);
    }
    if let Ok(ids) = map::decode_ids(list, segment as u64) {
        assert_eq!(ids.len(), segment);
        assert_eq!(map::encode_ids(&ids), list);
    }
    if let Some(size) = list.first_chunk::<8>()
        && let Some(shape) = MapShape::new(u64::from_le_bytes(*size))
    {
        shape_adds_up(shape);
    }
}

fn shape_adds_up(shape: MapShape) {
    let (segments, nodes) = (shape.segments(), shape.nodes());
    assert!(segments == 0 || shape.segment_at(segments - 1) < shape.disk_bytes());
    assert_eq!(
        segments.checked_sub(1).map_or(0, |last| shape.segment_at(last) + shape.segment_len(last) as u64),
        shape.disk_bytes()
    );
    assert_eq!(shape.segment_len(segments), 0);
    assert_eq!(shape.segments_in_node(nodes), 0);
}

/// The directory of a pack, after the length of the pack's body (8 bytes).
pub fn pack_directory(input: &[u8]) {
    let Some((len, bytes)) = input.split_first_chunk::<8>() else { return };
    let body_len = u64::from_le_bytes(*len);
    match Directory::decode(bytes, body_len) {
        Ok(directory) => directory_adds_up(&directory, bytes, body_len),
        Err(fault) => is_short(&fault.to_string()),
    }
}

fn directory_adds_up(directory: &Directory, bytes: &[u8], body_len: u64) {
    let mut builder = DirectoryBuilder::default();
    let mut end = None;
    let mut chunks = 0;
    for (number, entry) in (0u32..).zip(directory.blobs()) {
        assert!(end.is_none_or(|end| end == entry.at), "blobs lie one behind the other");
        end = entry.at.checked_add(entry.sealed_len.into());
        assert!(end.is_some_and(|end| end <= body_len), "a blob leaves the pack");
        let own = directory.chunks_of_blob(number);
        for (id, place) in own {
            assert_eq!(place.blob, number);
            assert!(place.at + place.len <= entry.plain_len, "a chunk leaves its blob");
            let found = directory.find(*id).expect("a listed chunk is found");
            assert!(directory.chunks_of_blob(found.blob).contains(&(*id, found)), "what is found is listed");
        }
        chunks += own.len();
        let own: Vec<_> = own.iter().map(|(id, place)| (*id, place.len)).collect();
        builder.add(entry.sealed_len, entry.plain_len, entry.codec, &own);
    }
    assert_eq!(chunks, directory.chunks().len());
    assert_eq!(builder.encode(), bytes, "what was read is written the same");
}

/// The payload of an index segment, and the directories in it.
pub fn index_segment(input: &[u8]) {
    match decode_segment("index/1", input) {
        Ok(packs) => {
            assert_eq!(encode_segment(&packs), input, "what was read is written the same");
            for pack in &packs {
                if let Ok(directory) = Directory::decode(&pack.directory, pack.len) {
                    directory_adds_up(&directory, &pack.directory, pack.len);
                }
            }
        }
        Err(fault) => is_short(&fault.to_string()),
    }
}

/// A packed blob, after its plain length (3 bytes).
pub fn blob(input: &[u8]) {
    let Some((len, packed)) = input.split_first_chunk::<3>() else { return };
    let plain_len = u32::from_le_bytes([len[0], len[1], len[2], 0]).min(BLOB_PLAIN_BYTES_MAX as u32);
    let wanted = plain_len as usize / 2;
    let mut start = vec![0; plain_len as usize];
    for codec in [Codec::Stored, Codec::Zstd, Codec::FilteredZstd] {
        let begun = blob::unpack_start(codec, packed, wanted, &mut start);
        match blob::unpack(codec, packed, plain_len) {
            Ok(plain) => {
                assert_eq!(plain.len(), plain_len as usize);
                assert!(begun.is_err() || plain[..wanted] == start[..wanted], "a beginning is a part of the whole");
            }
            Err(found) => is_short(&found),
        }
        begun.unwrap_or_else(|found| is_short(&found));
    }
}

/// A chunk that goes through the branch filter and back, after its place in the blob (4 bytes).
pub fn branch_filter(input: &[u8]) {
    let Some((base, chunk)) = input.split_first_chunk::<4>() else { return };
    let base = u32::from_le_bytes(*base);
    let mut filtered = chunk.to_vec();
    branch_filter::filter(&mut filtered, base);
    branch_filter::unfilter(&mut filtered, base);
    assert_eq!(filtered, chunk, "what was filtered comes back");
    branch_filter::unfilter(&mut filtered, base);
    branch_filter::filter(&mut filtered, base);
    assert_eq!(filtered, chunk, "so does what was unfiltered");
}

/// The rest of `input` as it is, or (the first byte is even) its lines under a right checksum.
fn plain_object(input: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = input.split_first()?;
    if first % 2 == 1 {
        return Some(rest.to_vec());
    }
    let lines: Vec<&str> = std::str::from_utf8(rest).ok()?.split('\n').collect();
    Some(text::encode(&lines))
}
