//! Index segments: the directories of several packs in one sealed object, so that another host, or this one without
//! its cache, need not open every pack.
//!
//! Payload, little-endian (docs/FORMAT.md, "Index segments"):
//!
//!     pack count 4 | per pack: id 16 | kind 1 | length 8 | header 80 | directory length 4 | directory

use nom::Parser;
use nom::bytes::take;
use nom::multi::{length_count, length_data};
use nom::number::complete::{le_u8, le_u32, le_u64};

use crate::repo::error::RepoError;
use crate::repo::ids::PackId;
use crate::repo::pack::writer::FinishedPack;
use crate::repo::seal::{HEADER_BYTES, Kind};

/// The payload that lists `packs`.
pub fn encode_segment(packs: &[FinishedPack]) -> Vec<u8> {
    let count = |len: usize| u32::try_from(len).expect("a segment and its directories are some MiB long").to_le_bytes();
    let mut payload = count(packs.len()).to_vec();
    for pack in packs {
        payload.extend_from_slice(&pack.id.0);
        payload.push(pack.kind as u8);
        payload.extend_from_slice(&pack.len.to_le_bytes());
        payload.extend_from_slice(&pack.header);
        payload.extend_from_slice(&count(pack.directory.len()));
        payload.extend_from_slice(&pack.directory);
    }
    payload
}

/// Reads a payload; what it says of packs is still to be checked against the store.
///
/// # Errors
/// [`RepoError::Damaged`].
pub fn decode_segment(object: &str, payload: &[u8]) -> Result<Vec<FinishedPack>, RepoError> {
    let damaged = |found: &str| RepoError::Damaged {
        object: object.to_owned(),
        field: "index segment",
        at: 0,
        expected: "a list of packs".to_owned(),
        found: found.to_owned(),
    };
    let (rest, packs) = length_count(le_u32, raw_pack)
        .parse(payload)
        .map_err(|_: nom::Err<nom::error::Error<&[u8]>>| damaged("one that ends early"))?;
    if !rest.is_empty() {
        return Err(damaged("bytes after its last pack"));
    }
    packs.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| damaged("a pack of an unknown kind"))
}

fn raw_pack(input: &[u8]) -> nom::IResult<&[u8], Option<FinishedPack>> {
    let (rest, (id, kind, len, header, directory)) =
        (take(PackId::LEN), le_u8, le_u64, take(HEADER_BYTES), length_data(le_u32)).parse(input)?;
    let pack =
        [Kind::DataPack, Kind::MapPack].into_iter().find(|known| *known as u8 == kind).map(|kind| FinishedPack {
            id: PackId(id.try_into().expect("the parser took 16 bytes")),
            kind,
            len,
            header: header.try_into().expect("the parser took 80 bytes"),
            directory: directory.to_vec(),
        });
    Ok((rest, pack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_and_every_cut_is_refused() {
        let pack = |id, kind| FinishedPack {
            id: PackId([id; 16]),
            kind,
            len: 99,
            header: [id; HEADER_BYTES],
            directory: vec![id; 7],
        };
        let payload = encode_segment(&[pack(1, Kind::DataPack), pack(2, Kind::MapPack)]);
        let decoded = decode_segment("index/1", &payload).unwrap();
        assert_eq!(decoded[1].directory, [2; 7]);
        assert_eq!(decoded[1].kind, Kind::MapPack);
        for len in 0..payload.len() {
            assert!(decode_segment("index/1", &payload[..len]).is_err(), "cut to {len}");
        }
        assert!(decode_segment("index/1", &[payload, vec![0]].concat()).is_err());
    }
}
