//! The test vectors of docs/FORMAT.md, section 16, against the code: a change of either that the other does not follow
//! fails here. The values in the document were computed by an independent implementation.
//!
//! Derivations are done here a second time, straight from the document's text, so that a mistake shared by sealing and
//! opening cannot pass.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::branch_filter;
use super::config::Config;
use super::ids::{PackId, RepoId, from_hex, to_hex};
use super::keys::{self, KeyFile, Secret};
use super::object;
use super::parity;
use super::seal::{ChunkKind, HEADER_BYTES, Keys, Kind, MAGIC, MasterSecret, MasterSecrets, ObjectCipher, TAG_BYTES};
use super::store::{DirectoryStore, ObjectName, ObjectStore};
use crate::chunker::{ChunkSizes, Chunker, Piece};

const DOCUMENT: &str = include_str!("../../docs/FORMAT.md");
const PASSPHRASE: &str = "correct horse battery staple";

/// What follows the fence "```info" in the document, up to its end.
fn block(info: &str) -> &'static str {
    let fence = format!("\n```{info}\n");
    let from = DOCUMENT.find(&fence).unwrap_or_else(|| panic!("docs/FORMAT.md has no block {info}")) + fence.len();
    let len = DOCUMENT[from..].find("```").expect("a block has an end");
    &DOCUMENT[from..from + len]
}

/// The value of the vector `name`; indented lines that follow are part of it.
fn vector(name: &str) -> String {
    let mut lines = block("vectors").lines();
    let first = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let first = first.unwrap_or_else(|| panic!("docs/FORMAT.md has no vector {name}"));
    lines.take_while(|line| line.starts_with("  ")).fold(first.trim().to_owned(), |value, line| value + line.trim())
}

fn bytes<const N: usize>(name: &str) -> [u8; N] {
    from_hex(&vector(name)).unwrap_or_else(|| panic!("{name} is not {N} bytes in hex"))
}

fn long_bytes(name: &str) -> Vec<u8> {
    let text = vector(name);
    text.as_bytes().chunks(2).map(|pair| from_hex::<1>(std::str::from_utf8(pair).unwrap()).unwrap()[0]).collect()
}

#[track_caller]
fn check(name: &str, computed: &str) {
    assert_eq!(vector(name), computed, "vector {name}: the document left, the code right");
}

fn expand<const N: usize>(secret: &[u8], salt: &[u8], info: &[u8]) -> [u8; N] {
    let mut output = [0; N];
    Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut output).unwrap();
    output
}

fn document_keys() -> Keys {
    Keys::derive(&MasterSecrets::of_first(MasterSecret(bytes("master secret"))), RepoId(bytes("repository id")))
}

#[test]
fn ids_and_gear_table() {
    let keys = document_keys();
    let id = |kind, plain: &[u8]| keys.chunk_id(kind, plain).to_string();
    check("data id of \"\"", &id(ChunkKind::Data, b""));
    check("data id of \"abbild\"", &id(ChunkKind::Data, b"abbild"));
    check("data id of 65536 bytes ab", &id(ChunkKind::Data, &[0xab; 65536]));
    check("map id of \"abbild\"", &id(ChunkKind::Map, b"abbild"));
    let gear = keys.gear_table();
    check("gear word 0", &format!("{:016x}", gear[0]));
    check("gear word 1", &format!("{:016x}", gear[1]));
    check("gear word 255", &format!("{:016x}", gear[255]));
}

#[test]
fn branch_filter() {
    let code = long_bytes("code at 4064");
    let mut chunk = code.clone();
    branch_filter::filter(&mut chunk, 4064);
    check("code at 4064, filtered", &to_hex(&chunk));
    branch_filter::unfilter(&mut chunk, 4064);
    assert_eq!(chunk, code);
}

#[test]
fn derived_keys() {
    let (master, repository) = (bytes::<32>("master secret"), bytes::<16>("repository id"));
    let derived = |info: &str| to_hex(&expand::<32>(&master, &repository, info.as_bytes()));
    check("sealing key", &derived("abbild v1 sealing epoch 0"));
    check("data id key", &derived("abbild v1 data chunk ids"));
    check("map id key", &derived("abbild v1 map chunk ids"));
    check("gear key", &derived("abbild v1 gear table"));
}

#[test]
fn pieces_of_a_segment() {
    let mut segment = vec![0; 300_000];
    blake3::Hasher::new().finalize_xof().fill(&mut segment);
    segment[70_001..120_000].fill(0);
    segment[200_000..210_000].fill(0);
    let mut pieces = Vec::new();
    let chunker = Chunker::new(ChunkSizes::default(), document_keys().gear_table());
    let cut = chunker.cut(&segment, |piece| {
        pieces.push(match piece {
            Piece::Zero(range) => format!("zero {}", range.len()),
            Piece::Chunk(range) => range.len().to_string(),
        });
        Ok::<(), ()>(())
    });
    assert_eq!(cut, Ok(()));
    check("pieces", &pieces.join(", "));
}

#[test]
fn sealed_object() {
    let keys = document_keys();
    let name = ObjectName::new(&vector("object name")).unwrap();
    // The header, from the document's derivation.
    let mut header = MAGIC.to_vec();
    header.extend([Kind::Manifest as u8, 1, 0, 0, 0, 0, 0, 0]);
    header.extend(bytes::<32>("object salt"));
    let info = [b"abbild v1 object", &header[8..16], &bytes::<16>("repository id"), name.as_str().as_bytes()].concat();
    let output: [u8; 64] = expand(&bytes::<32>("sealing key"), &header[16..48], &info);
    check("object key", &to_hex(&output[..32]));
    check("commitment", &to_hex(&output[32..]));
    header.extend(&output[32..]);

    let sealed = long_bytes("sealed object");
    assert_eq!(to_hex(&sealed[..HEADER_BYTES]), to_hex(&header));
    let payload = object::decode(&keys, Kind::Manifest, &name, &sealed).unwrap();
    check("payload", &to_hex(&payload));

    // Sealing what was opened gives the same bytes: nonce, associated data and checksum of the writer are the document's.
    let cipher = ObjectCipher::open(&keys, Kind::Manifest, name.as_str(), &header).unwrap();
    let mut part = sealed[HEADER_BYTES..sealed.len() - 32].to_vec();
    let plain_len = (part.len() - TAG_BYTES) as u64;
    cipher.open_part(0, plain_len, 80, &mut part).unwrap();
    assert_eq!(object::padded_len(plain_len), plain_len, "its length is a size class");
    cipher.seal(0, plain_len, &mut part);
    let again = [header, part].concat();
    let again = [again.as_slice(), blake3::hash(&again).as_bytes()].concat();
    assert_eq!(to_hex(&again), to_hex(&sealed));
}

#[test]
fn kinds_are_the_numbers_of_section_7() {
    let kinds = [Kind::DataPack, Kind::MapPack, Kind::IndexSegment, Kind::Manifest, Kind::Session, Kind::Generation];
    assert_eq!(kinds.map(|kind| kind as u8), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn limits_are_those_of_section_12() {
    use super::{blob, map, pack, text};
    let blob = blob::BLOB_PLAIN_BYTES_MAX;
    for row in [
        format!("| plain object | {} KiB |", text::TEXT_BYTES_MAX >> 10),
        format!("| key slots | {} |", keys::SLOTS_MAX),
        format!("| small sealed object; its payload | {} MiB each |", object::OBJECT_BYTES_MAX >> 20),
        format!("| pack | {} MiB |", pack::PACK_BYTES_MAX >> 20),
        format!("| plain blob; sealed blob | {blob}; {} |", blob + TAG_BYTES),
        format!("| chunk | {} |", blob::CHUNK_BYTES_MAX),
        format!("| disk | 2^{} |", map::DISK_BYTES_MAX.ilog2()),
    ] {
        assert!(DOCUMENT.contains(&row), "docs/FORMAT.md has no row {row}");
    }
}

#[test]
fn configuration_and_key_slots() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let put = |name: &str| {
        store.put(&ObjectName::new(name).unwrap(), block(&format!("object {name}")).as_bytes()).unwrap();
    };
    put("config");
    put("keys/a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
    put("keys/b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2");
    let (config, hash) = Config::load(&store).unwrap();
    assert_eq!(config.repository.0, bytes("repository id"));
    let sizes = ChunkSizes { min: 4096, avg: 16384, max: 65536, zero_run_min: 16384, slack_min: 0 };
    assert_eq!(config.chunks, sizes);
    assert_eq!(to_hex(&config.encode()), to_hex(block("object config").as_bytes()), "our writer's very bytes");

    let key_file = KeyFile::parse(block("object key file"), "docs/FORMAT.md").unwrap();
    assert_eq!(*key_file.to_text(), block("object key file"), "our writer's very text");
    for secret in [Secret::Passphrase(Zeroizing::new(PASSPHRASE.to_owned())), Secret::KeyFile(key_file)] {
        let (master, _) = keys::unlock(&store, &hash, &secret).unwrap();
        check("master secret", &to_hex(&master.to_bytes()));
    }
}

#[test]
fn recovery_record() {
    let mut pack = vec![0; 10_000];
    blake3::Hasher::new().update(b"abbild").finalize_xof().fill(&mut pack);
    let id = PackId(from_hex("00112233445566778899aabbccddeeff").unwrap());
    let mut encoder = parity::Encoder::new(id, parity::Share::permille(50).unwrap(), 10_000);
    encoder.update(&pack);
    let record = encoder.finish();
    check("recovery record header", &to_hex(&record[..96]));
    let shard = 96 + 5 * 16 + 16 + 4096; // five hashes and their page's checksum, and shard 0
    check("recovery shard 1 begins", &to_hex(&record[shard..shard + 32]));
    check("recovery record BLAKE3", blake3::hash(&record).to_hex().as_str());
}
