//! A file table in many pieces, whose runs need a second record that itself lies in one of the pieces: what decades of use
//! make of a volume, built by hand.

use std::fs;

use abbild::guest::tree::FileSystem;

use crate::guest_ntfs::{Stage, content};
use crate::guest_ntfs_windows::{open_bytes, record_at};
use crate::guest_tree::{self as tree, noise};

/// Bytes of a cluster and of a record: cluster n of the table is record n.
const RECORD: usize = 1024;
/// The record that gets the runs of the later pieces; free on a new volume.
pub(crate) const EXTENSION: u64 = 20;

/// The attributes of a record, each as its bytes, and the record without its protection.
pub(crate) fn taken_apart(record: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut bytes = record.to_vec();
    let array = usize::from(bytes[4]);
    for sector in 0..2 {
        let saved = [bytes[array + 2 + 2 * sector], bytes[array + 3 + 2 * sector]];
        bytes[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&saved);
    }
    let mut attributes = Vec::new();
    let mut at = usize::from(bytes[20]);
    while bytes[at..at + 4] != [0xff; 4] {
        let len = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        attributes.push(bytes[at..at + len].to_vec());
        at += len;
    }
    (bytes, attributes)
}

/// The record with these attributes.
pub(crate) fn put_together(mut bytes: Vec<u8>, attributes: &[Vec<u8>]) -> Vec<u8> {
    let first = usize::from(bytes[20]);
    let body = [attributes.concat(), vec![0xff; 4], vec![0; 4]].concat();
    assert!(first + body.len() < RECORD - 2, "the attributes fit");
    bytes[first..].fill(0);
    bytes[first..first + body.len()].copy_from_slice(&body);
    bytes[24..28].copy_from_slice(&u32::try_from(first + body.len()).unwrap().to_le_bytes());
    let array = usize::from(bytes[4]);
    for sector in 0..2 {
        let end = sector * 512 + 510;
        bytes.copy_within(end..end + 2, array + 2 + 2 * sector);
        bytes.copy_within(array..array + 2, end);
    }
    bytes
}

/// A content without a name, or a piece of it: `(clusters, first cluster of the volume)` each.
pub(crate) fn data(id: u16, start: u64, runs: &[(usize, usize)], len: u64) -> Vec<u8> {
    let mut pairs = Vec::new();
    let mut last = 0i32;
    for (clusters, place) in runs {
        let place = i32::try_from(*place).unwrap();
        pairs.push(0x42);
        pairs.extend(u16::try_from(*clusters).unwrap().to_le_bytes());
        pairs.extend((place - last).to_le_bytes());
        last = place;
    }
    pairs.push(0);
    pairs.resize(pairs.len().next_multiple_of(8), 0);
    let clusters: u64 = runs.iter().map(|(clusters, _)| *clusters as u64).sum();
    let mut attribute = 0x80u32.to_le_bytes().to_vec();
    attribute.extend(u32::try_from(64 + pairs.len()).unwrap().to_le_bytes());
    attribute.extend([1, 0, 64, 0, 0, 0]);
    attribute.extend(id.to_le_bytes());
    attribute.extend([start, (start + clusters).saturating_sub(1), 64].map(u64::to_le_bytes).concat());
    let lens = if start == 0 { [len; 3] } else { [0; 3] };
    attribute.extend(lens.map(u64::to_le_bytes).concat());
    [attribute, pairs].concat()
}

pub(crate) fn list(entries: &[(u32, u64, u64, u16)]) -> Vec<u8> {
    let mut value = Vec::new();
    for (kind, start, record, id) in entries {
        value.extend(kind.to_le_bytes());
        value.extend([32, 0, 0, 26]);
        value.extend([*start, *record].map(u64::to_le_bytes).concat());
        value.extend(id.to_le_bytes());
        value.extend([0; 6]);
    }
    let mut attribute = 0x20u32.to_le_bytes().to_vec();
    attribute.extend(u32::try_from(24 + value.len()).unwrap().to_le_bytes());
    attribute.extend([0, 0, 24, 0, 0, 0, 77, 0]);
    attribute.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
    attribute.extend([24, 0, 0, 0]);
    [attribute, value].concat()
}

/// A volume, and the same one with its table in pieces.
pub(crate) fn in_pieces(stage: &Stage) -> (Vec<u8>, Vec<u8>) {
    let image = stage.filled(6, &["-c", "1024"], |folder| {
        for index in 0..150u64 {
            fs::write(folder.join(format!("file {index}")), noise(index, 200)).unwrap();
        }
    });
    let sound = fs::read(&image).unwrap();
    let table = content(&open_bytes(sound.clone()), "$MFT");
    let records = table.len() / RECORD;
    let mut bytes = sound.clone();
    let first = record_at(&bytes, 0) / RECORD;
    // The first records stay; the others move to the end of the volume, in pieces of 7 with gaps between them, backwards.
    const STAY: usize = 24;
    let mut runs = vec![(STAY, first)];
    let mut place = bytes.len() / RECORD - 20;
    for piece in (STAY..records).step_by(7) {
        let len = 7.min(records - piece);
        place -= 10;
        let target = place * RECORD..(place + len) * RECORD;
        assert!(bytes[target.clone()].iter().all(|byte| *byte == 0), "that part of the volume is free");
        bytes[target].copy_from_slice(&table[piece * RECORD..(piece + len) * RECORD]);
        runs.push((len, place));
    }
    bytes[(first + STAY) * RECORD..(first + records) * RECORD].fill(0xa5);
    let (here, later) = runs.split_at(6);
    let start: u64 = here.iter().map(|(len, _)| *len as u64).sum();
    let (head, attributes) = taken_apart(&table[..RECORD]);
    let id = |attribute: &Vec<u8>| u16::from_le_bytes([attribute[14], attribute[15]]);
    let own = 1u64 << 48;
    let [information, name, old, bitmap] = &attributes[..] else { panic!("{} attributes", attributes.len()) };
    let extension = EXTENSION | 9 << 48;
    let listed = list(&[
        (0x10, 0, own, id(information)),
        (0x30, 0, own, id(name)),
        (0x80, 0, own, id(old)),
        (0x80, start, extension, 5),
        (0xb0, 0, own, id(bitmap)),
    ]);
    let all = [information.clone(), listed, name.clone(), data(id(old), 0, here, table.len() as u64), bitmap.clone()];
    bytes[first * RECORD..][..RECORD].copy_from_slice(&put_together(head.clone(), &all));
    let mut second = head;
    second[16..18].copy_from_slice(&9u16.to_le_bytes());
    second[32..40].copy_from_slice(&own.to_le_bytes());
    second[44..48].copy_from_slice(&u32::try_from(EXTENSION).unwrap().to_le_bytes());
    let second = put_together(second, &[data(5, start, later, 0)]);
    bytes[(first + usize::try_from(EXTENSION).unwrap()) * RECORD..][..RECORD].copy_from_slice(&second);
    (sound, bytes)
}

#[test]
fn a_table_in_pieces_is_read() {
    let stage = Stage::new();
    let (sound, pieces) = in_pieces(&stage);
    let (sound, pieces) = (open_bytes(sound), open_bytes(pieces));
    assert_eq!(pieces.summary(), sound.summary());
    tree::compare("in pieces", &tree::of_tree(&sound), &tree::of_tree(&pieces), &[]);
    assert!(content(&sound, "$MFT").len() == content(&pieces, "$MFT").len());
}

#[test]
fn a_table_that_misses_a_piece_is_refused() {
    let stage = Stage::new();
    let (_, mut bytes) = in_pieces(&stage);
    let second = record_at(&bytes, EXTENSION);
    bytes[second + 22] = 0;
    let said = abbild::guest::ntfs::open(std::sync::Arc::new(abbild::disk::MemoryDisk(bytes)));
    let said = said.map_or_else(|err| err.to_string(), |_| "opened".to_owned());
    assert!(said.starts_with("runs of $MFT at 0x") && said.contains("a piece from cluster 59, found none"), "{said}");
}
