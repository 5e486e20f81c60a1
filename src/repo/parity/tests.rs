//! The laws of recovery records: the code is the one formula of docs/FORMAT.md; whatever is lost within the share comes
//! back; a record says of each of its bytes whether it is sound; hostile ones are refused before they cost anything.

use proptest::prelude::*;

use super::record::{Record, Shape, hash};
use super::{Encoder, HealError, Share, code, heal, record};
use crate::repo::error::RepoError;
use crate::repo::ids::PackId;
use crate::repo::pack;

const ID: PackId = PackId([0xab; 16]);

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The field of the document: GF(2)[z] / (z^16 + z^5 + z^3 + z^2 + 1), an element written by its coordinates in a basis.
struct Field {
    exp: Vec<u16>,
    log: Vec<usize>,
}

const BASIS: [u16; 16] = [
    0x0001, 0xacca, 0x3c0e, 0x163e, 0xc582, 0xed2e, 0x914c, 0x4012, 0x6c98, 0x10d8, 0x6a72, 0xb900, 0xfdb8, 0xfb34,
    0xff38, 0x991e,
];

impl Field {
    fn new() -> Field {
        let polynomial_of = |coordinates: usize| {
            (0..16).filter(|bit| coordinates >> bit & 1 == 1).fold(0, |sum, bit| sum ^ usize::from(BASIS[bit]))
        };
        let mut coordinates_of = vec![0u16; 1 << 16];
        (0..1 << 16).for_each(|element| coordinates_of[polynomial_of(element)] = element as u16);
        let (mut exp, mut log, mut power) = (vec![0; 65535], vec![0; 1 << 16], 1usize);
        for (n, slot) in exp.iter_mut().enumerate() {
            *slot = coordinates_of[power];
            log[usize::from(*slot)] = n;
            power <<= 1;
            power ^= if power > 0xffff { 0x1002d } else { 0 };
        }
        Field { exp, log }
    }

    fn times(&self, a: u16, b: u16) -> u16 {
        if a == 0 || b == 0 { 0 } else { self.exp[(self.log[usize::from(a)] + self.log[usize::from(b)]) % 65535] }
    }

    fn divided(&self, a: u16, b: u16) -> u16 {
        self.exp[(self.log[usize::from(a)] + 65535 - self.log[usize::from(b)]) % 65535]
    }

    /// What data shard `j` counts in recovery shard `i`.
    fn factor(&self, width: usize, i: usize, j: usize) -> u16 {
        self.divided(((width + j) / width) as u16, (i ^ (width + j)) as u16)
    }
}

/// Word `n` of a shard.
fn word(shard: &[u8], n: usize) -> u16 {
    let at = n / 32 * 64 + n % 32;
    u16::from_le_bytes([shard[at], shard[at + 32]])
}

#[test]
fn recovery_shards_are_those_of_the_formula() {
    let field = Field::new();
    for (data, width, count) in [(1, 1, 1), (1, 2, 2), (5, 2, 2), (8, 8, 8), (21, 8, 5), (70, 16, 9), (300, 4, 3)] {
        let shard_bytes = 128;
        let bytes = noise(data * shard_bytes, data as u64);
        let mut recovery = code::Recovery::new(width, shard_bytes);
        let mut padded = bytes.clone();
        padded.resize(data.next_multiple_of(width) * shard_bytes, 0);
        padded.chunks_exact_mut(width * shard_bytes).for_each(|group| recovery.add(group));
        let made = recovery.finish(count);
        for (i, shard) in made.chunks(shard_bytes).enumerate() {
            for n in [0, 1, 31, 32, 63] {
                let expected = bytes
                    .chunks(shard_bytes)
                    .enumerate()
                    .fold(0, |sum, (j, shard)| sum ^ field.times(field.factor(width, i, j), word(shard, n)));
                assert_eq!(word(shard, n), expected, "{data} shards, width {width}: recovery shard {i}, word {n}");
            }
        }
    }
}

/// A pack's record, made in pieces of `step` bytes.
fn record_of(bytes: &[u8], permille: u16, step: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(ID, Share::permille(permille).unwrap(), 0);
    bytes.chunks(step).for_each(|part| encoder.update(part));
    encoder.finish()
}

/// A pack with a sound trailer; the rest of it is noise.
fn sound_pack(len: usize) -> Vec<u8> {
    let body_len = len.saturating_sub(92 + 32).max(80);
    let mut bytes = noise(body_len, len as u64);
    let mut trailer = vec![7; 48];
    bytes.chunks(pack::STRIPE_BYTES).for_each(|stripe| trailer.extend_from_slice(blake3::hash(stripe).as_bytes()));
    trailer.extend_from_slice(&((trailer.len() + 44) as u32).to_le_bytes());
    let checksum = blake3::hash(&trailer);
    trailer.extend_from_slice(checksum.as_bytes());
    trailer.extend_from_slice(b"ABBILDt1");
    bytes.extend_from_slice(&trailer);
    bytes
}

fn whole(bytes: Vec<u8>, record: &Record) -> Result<(Vec<u8>, usize), HealError> {
    heal::whole(&pack::object_name(ID), bytes, record)
}

#[test]
fn a_record_is_the_same_however_its_pack_comes() {
    for len in [1, 4096, 4097, 100_000, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 12345] {
        let bytes = noise(len, 3);
        let made = record_of(&bytes, 50, usize::MAX);
        for step in [1 << 20, 65_537] {
            assert!(record_of(&bytes, 50, step) == made, "{len} bytes in pieces of {step}");
        }
        let record = Record::decode(ID, made).unwrap();
        assert!(record.fault().is_none());
        assert_eq!(record.pack_len(), len as u64);
    }
}

#[test]
fn sizes_are_as_the_document_says() {
    let shape = |len: u64, permille| {
        let record =
            Record::decode(ID, record_of(&noise(usize::try_from(len).unwrap(), 1), permille, 1 << 20)).unwrap();
        (record.shape.shard_bytes, record.shape.data, record.shape.recovery, record.shape.width)
    };
    assert_eq!(shape(10_000, 50), (4096, 3, 2, 2));
    assert_eq!(shape(4 << 20, 50), (4096, 1024, 52, 64));
    assert_eq!(shape((4 << 20) + 1, 50), (16384, 257, 13, 256));
    assert_eq!(shape(64 << 20, 50), (16384, 4096, 205, 256));
    assert_eq!(shape(16 << 20, 250), (16384, 1024, 256, 256));
}

#[test]
fn a_large_pack_heals_in_slices() {
    let bytes = sound_pack(20 << 20);
    let record = Record::decode(ID, record_of(&bytes, 50, 1 << 20)).unwrap();
    let (spare, shards) = record.capacity();
    assert_eq!((spare, shards), (65, 1281));
    let mut damaged = bytes.clone();
    (0..spare).for_each(|n| damaged[n * 20 * 16384 + 5] ^= 1);
    assert!(whole(damaged.clone(), &record).unwrap() == (bytes.clone(), spare));
    damaged[19 * 16384] ^= 1;
    match whole(damaged, &record) {
        Err(HealError::TooMuch { lost: 66, shards: 1281, spare: 65, .. }) => {}
        other => panic!("{:?}", other.map(|made| made.1)),
    }
    let mut torn = bytes.clone();
    torn.truncate(bytes.len() - 63 * 16384);
    assert!(whole(torn, &record).unwrap().0 == bytes);
    assert!(whole([bytes.as_slice(), b"more"].concat(), &record).unwrap() == (bytes, 0));
}

#[test]
fn hashes_that_both_tables_lost_are_made_up_for_by_the_trailer() {
    let bytes = sound_pack(3 << 20);
    let made = record_of(&bytes, 50, 1 << 20);
    let table = Record::decode(ID, made.clone()).unwrap().shape;
    assert_eq!((table.data, table.recovery), (769, 39));
    let mut rotten = made.clone();
    let second = made.len() - 96 - (808 * 16 + 4 * 16);
    // The second page of both: shards 255 to 509, which lie in the first and the second MiB.
    for at in [96 + 4096 + 100, second + 4096 + 100] {
        rotten[at] ^= 0x40;
    }
    let record = Record::decode(ID, rotten).unwrap();
    assert!(matches!(record.fault(), Some((RepoError::Damaged { field: "table page", .. }, 2))));
    let mut damaged = bytes.clone();
    damaged[2_500_000] ^= 1;
    assert!(whole(damaged.clone(), &record).unwrap() == (bytes.clone(), 1), "elsewhere: the trailer vouches");
    damaged[300 * 4096] ^= 1;
    assert!(matches!(whole(damaged, &record), Err(HealError::TooMuch { .. })), "255 shards of its MiB are in doubt");
}

#[test]
fn every_flipped_byte_of_a_record_is_noticed_and_does_no_harm() {
    let bytes = sound_pack(9000);
    let made = record_of(&bytes, 50, 1000);
    let mut damaged = bytes.clone();
    damaged[4096..8192].fill(0);
    for at in 0..made.len() {
        let mut flipped = made.clone();
        flipped[at] ^= [0x01, 0x80, 0xff, 0x20][at % 4];
        let record = Record::decode(ID, flipped).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        assert!(record.fault().is_some(), "byte {at}: nothing said so");
        if at % 16 == 0 {
            assert!(whole(damaged.clone(), &record).unwrap() == (bytes.clone(), 1), "byte {at}");
        }
    }
    for len in (0..200).chain((200..made.len()).step_by(7)) {
        match Record::decode(ID, made[..len].to_vec()) {
            Ok(record) => assert!(record.fault().is_some(), "cut to {len}"),
            Err(RepoError::Damaged { .. }) => assert!(len < 96, "cut to {len}: the first header is there"),
            Err(error) => panic!("cut to {len}: {error}"),
        }
    }
}

#[test]
fn a_record_of_another_pack_or_version_is_refused() {
    let made = record_of(&noise(5000, 1), 50, 5000);
    assert!(matches!(Record::decode(PackId([1; 16]), made.clone()), Err(RepoError::Damaged { field: "pack id", .. })));
    let mut later = made;
    later[8] = 2;
    let checksum = blake3::hash(&later[..64]);
    later[64..96].copy_from_slice(checksum.as_bytes());
    assert!(matches!(Record::decode(ID, later), Err(RepoError::Unsupported { .. })));
}

#[test]
fn a_forged_record_makes_no_pack_that_its_trailer_does_not_say() {
    let bytes = sound_pack(9000);
    let other = sound_pack(9001);
    let mut damaged = bytes;
    damaged[0] ^= 1;
    let forged = Record::decode(ID, record_of(&noise(damaged.len(), 77), 250, 9000)).unwrap();
    assert!(matches!(whole(damaged.clone(), &forged), Err(HealError::TooMuch { .. })));
    // All hashes are right for bytes that no trailer vouches for.
    let unsound = noise(9000, 5);
    let forged = Record::decode(ID, record_of(&unsound, 250, 9000)).unwrap();
    assert!(matches!(whole(unsound, &forged), Err(HealError::NotProven { .. })));
    // Those of another sound pack make that pack: who reads it finds that it is not the one of this name.
    let forged = Record::decode(ID, record_of(&other, 250, 9000)).unwrap();
    assert!(whole(other.clone(), &forged).is_ok_and(|made| made.0 == other));
}

#[test]
fn numbers_beyond_the_limits_are_no_shape() {
    let is = |len, shard, recovery, width| Shape::new(len, shard, recovery, width).is_some();
    assert!(is(1 << 20, 4096, 13, 16));
    assert!(is(1 << 20, 64, 1, 1) && is(1, 64, 1, 1) && is(pack::PACK_BYTES_MAX, 1 << 20, 32, 32));
    assert!(!is(0, 4096, 2, 2) && !is(pack::PACK_BYTES_MAX + 1, 1 << 20, 2, 2) && !is(u64::MAX, 1 << 20, 2, 2));
    assert!(!is(1000, 0, 1, 1) && !is(1000, 32, 1, 1) && !is(1000, 96, 1, 1) && !is(1000, 1 << 21, 1, 1));
    assert!(!is(1000, 64, 0, 1) && !is(1000, 64, 3, 2) && !is(1000, 64, 2, 3) && !is(1000, 64, 0, 0));
    assert!(is(65535 * 64, 64, 1, 1) && !is(65536 * 64, 64, 1, 1) && !is(1000, 64, 1, usize::MAX / 2 + 1));
    assert!(!is(1000, 1 << 20, 64, 64), "a record above its limit");
    assert_eq!(record::shape_of(Share::permille(250).unwrap(), pack::PACK_BYTES_MAX, 32 << 10, None).recovery, 1024);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_lost_within_the_share_comes_back(
        len in 200usize..400_000,
        permille in 1u16..=250,
        seed in any::<u64>(),
        beyond in 0usize..3,
    ) {
        let bytes = sound_pack(len);
        let record = Record::decode(ID, record_of(&bytes, permille, 8192)).unwrap();
        let (spare, shards) = record.capacity();
        let lost = (spare + beyond).saturating_sub(1).min(shards);
        let mut order: Vec<usize> = (0..shards).collect();
        order.sort_by_key(|number| hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat()));
        let mut damaged = bytes.clone();
        for number in &order[..lost] {
            damaged[number * record.shard_bytes()] ^= 1;
        }
        match whole(damaged, &record) {
            Ok(made) => prop_assert!(made == (bytes, lost)),
            Err(HealError::TooMuch { lost: found, .. }) => prop_assert!(found == lost && lost > spare),
            Err(error) => prop_assert!(false, "{error}"),
        }

    }
}
