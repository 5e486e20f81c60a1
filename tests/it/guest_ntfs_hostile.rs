//! NTFS volumes that claim what cannot be: directories that lead over the same blocks again and again, lists that lead in
//! circles, lengths beyond any disk. Every call ends, with an error that says what was wrong.

use std::ops::ControlFlow;
use std::sync::Arc;

use abbild::disk::{ExtentKind, MemoryDisk};
use abbild::guest::ntfs::{self, Ntfs};
use abbild::guest::tree::FileSystem;

use crate::guest_ntfs::{Stage, content, node};
use crate::guest_ntfs_damage::small;
use crate::guest_ntfs_table::{EXTENSION, data, in_pieces, list, put_together, taken_apart};
use crate::guest_ntfs_windows::{attribute_at, number, open_bytes, record_at};
use crate::guest_tree::survey;

const RECORD: usize = 1024;
const LIST: u8 = 0x20;
const DATA: u8 = 0x80;
const INDEX_ALLOCATION: u8 = 0xa0;
const BITMAP: u8 = 0xb0;
/// A cluster of the volumes below, and what its blocks are numbered in.
const CLUSTER: usize = 1024;

/// The volume with the attributes of one file changed.
fn with_attributes(sound: &[u8], path: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    let record = record_at(sound, number(node(&open_bytes(sound.to_vec()), path)));
    let (head, mut attributes) = taken_apart(&bytes[record..record + RECORD]);
    change(&mut attributes);
    bytes[record..record + RECORD].copy_from_slice(&put_together(head, &attributes));
    bytes
}

fn position(attributes: &[Vec<u8>], kind: u8) -> usize {
    attributes.iter().position(|attribute| attribute[0] == kind).expect("an attribute of that type")
}

/// An attribute with the name of directories' own, after the header of one without a name.
fn of_directory(mut attribute: Vec<u8>, kind: u8) -> Vec<u8> {
    let header = if attribute[8] == 0 { 24 } else { 64 };
    attribute[0] = kind;
    attribute[9] = 4;
    attribute[10] = header;
    let value_at = if header == 24 { 20 } else { 32 };
    attribute[value_at] += 8;
    attribute.splice(usize::from(header)..usize::from(header), *b"$\0I\x003\x000\0");
    let len = u32::try_from(attribute.len()).unwrap();
    attribute[4..8].copy_from_slice(&len.to_le_bytes());
    attribute
}

/// A resident attribute.
fn resident(kind: u8, id: u8, value: &[u8]) -> Vec<u8> {
    let mut attribute = vec![0; 24];
    attribute[0] = kind;
    attribute[14] = id;
    attribute[16] = u8::try_from(value.len()).unwrap();
    attribute[20] = 24;
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(8), 0);
    let len = u32::try_from(attribute.len()).unwrap();
    attribute[4..8].copy_from_slice(&len.to_le_bytes());
    attribute
}

fn names(ours: &Ntfs, path: &str) -> (usize, Result<(), String>) {
    let mut count = 0;
    let outcome = ours.read_directory(node(ours, path), &mut |_| {
        count += 1;
        ControlFlow::Continue(())
    });
    (count, outcome.map_err(|err| err.to_string()))
}

/// The content of a file, or why it cannot be read.
fn asked(ours: &Ntfs, path: &str) -> String {
    let ask = || {
        let file = ours.lookup(ours.root(), path.as_bytes())?.expect("the name is there");
        ours.metadata(file)?;
        let mut buf = [0; 100];
        let len = ours.read_at(file, 0, &mut buf)?;
        Ok(String::from_utf8_lossy(&buf[..len]).into_owned())
    };
    ask().unwrap_or_else(|err: abbild::guest::GuestError| err.to_string())
}

// ---- directories ----------------------------------------------------------------------------------------------------

#[test]
fn a_directory_whose_blocks_are_all_the_same_one_is_walked_once() {
    const BLOCKS: usize = 40;
    let stage = Stage::new();
    let sound = small(&stage);
    let first = (0..sound.len()).step_by(CLUSTER).find(|at| {
        // Block 0 of the directory with many names, not that of the root.
        let name: Vec<u8> = "a long name for".encode_utf16().flat_map(u16::to_le_bytes).collect();
        sound[*at..].starts_with(b"INDX") && sound[at + 16..at + 24] == [0; 8] && {
            sound[*at..at + 4096].windows(name.len()).any(|it| it == name)
        }
    });
    let first = first.expect("a block with such names");
    let bytes = with_attributes(&sound, "directory", |attributes| {
        let blocks = position(attributes, INDEX_ALLOCATION);
        let id = u16::from(attributes[blocks][14]);
        let runs = vec![(4096 / CLUSTER, first / CLUSTER); BLOCKS];
        attributes[blocks] = of_directory(data(id, 0, &runs, (BLOCKS * 4096) as u64), INDEX_ALLOCATION);
        let bitmap = position(attributes, BITMAP);
        let id = attributes[bitmap][14];
        attributes[bitmap] = of_directory(resident(BITMAP, id, &[0xff; BLOCKS / 8]), BITMAP);
    });
    let (before, _) = names(&open_bytes(sound), "directory");
    let ours = open_bytes(bytes);
    let (count, outcome) = names(&ours, "directory");
    assert!(count < before, "{count} of {before}");
    let expected = format!("number of a directory's block at {first:#x} of the volume: expected 4, found 0");
    assert_eq!(outcome, Err(expected.clone()));
    // A look-up that is led to such a block says so too, and finds no name that the walk has not shown.
    let directory = node(&ours, "directory");
    let (mut found, mut refused) = (0, 0);
    for index in 0..120 {
        match ours.lookup(directory, format!("a long name for {index}").as_bytes()) {
            Ok(name) => found += usize::from(name.is_some()),
            Err(err) => {
                assert!(err.to_string().starts_with("number of a directory's block at"), "{err}");
                refused += 1;
            }
        }
    }
    assert!(found <= count && refused > 0, "{found} of {count}, {refused}");
    assert_eq!(content(&ours, "small"), b"content");
}

#[test]
fn a_directory_of_blocks_that_nobody_stored_ends() {
    let stage = Stage::new();
    let mut sound = small(&stage);
    // A volume of 2^60 bytes, by its own account.
    sound[40..48].copy_from_slice(&(1u64 << 51).to_le_bytes());
    let of_length = |len: u64, bitmap_len: u64| {
        with_attributes(&sound, "directory", |attributes| {
            for (kind, len) in [(INDEX_ALLOCATION, len), (BITMAP, bitmap_len)] {
                let at = position(attributes, kind);
                let mut hole = data(u16::from(attributes[at][14]), 0, &[], len);
                // One run without a place, of as many clusters as it takes.
                hole[64..72].copy_from_slice(&[0x06, 0, 0, 0, 0, 0, 2, 0]);
                attributes[at] = of_directory(hole, kind);
            }
        })
    };
    let err = names(&open_bytes(of_length(1 << 50, 1 << 35)), "directory").1.unwrap_err();
    let expected = "expected blocks of at most 1099511627776 bytes, found 1125899906842624";
    assert!(err.starts_with("root of a directory's index at 0x") && err.ends_with(expected), "{err}");
    // The longest that is looked at: none of its blocks is marked as used.
    assert_eq!(names(&open_bytes(of_length(1 << 40, 1 << 25)), "directory").1, Ok(()));
}

#[test]
fn a_directory_that_claims_more_blocks_than_are_sound_ends() {
    let stage = Stage::new();
    let mut sound = small(&stage);
    sound[40..48].copy_from_slice(&(1u64 << 51).to_le_bytes());
    // A cluster of ones, named hundreds of times by the bitmap; blocks that are a hole.
    let ones = sound.len() / CLUSTER - 30;
    sound[ones * CLUSTER..][..CLUSTER].fill(0xff);
    let bytes = with_attributes(&sound, "directory", |attributes| {
        let at = position(attributes, INDEX_ALLOCATION);
        let mut hole = data(u16::from(attributes[at][14]), 0, &[], 1 << 40);
        hole[64..72].copy_from_slice(&[0x06, 0, 0, 0, 0, 0, 2, 0]);
        attributes[at] = of_directory(hole, INDEX_ALLOCATION);
        let at = position(attributes, BITMAP);
        let runs = [(1, ones); 40];
        attributes[at] = of_directory(data(u16::from(attributes[at][14]), 0, &runs, 40 * CLUSTER as u64), BITMAP);
    });
    let err = names(&open_bytes(bytes), "directory").1.unwrap_err();
    assert!(err.ends_with("expected a run with cluster 0, found none"), "{err}");
}

// ---- attribute lists ------------------------------------------------------------------------------------------------

#[test]
fn lists_that_lead_elsewhere_or_in_circles_are_refused() {
    let stage = Stage::new();
    let sound = small(&stage);
    let ours = open_bytes(sound.clone());
    let own = node(&ours, "small").number;
    let other = node(&ours, "file").number;
    let record = record_at(&sound, number(node(&ours, "small")));
    let other_record = record_at(&sound, number(node(&ours, "file")));
    // The file with a list of these entries before its content.
    let asked = |entries: &[(u32, u64, u64, u16)], change: &dyn Fn(&mut Vec<u8>)| {
        let bytes = with_attributes(&sound, "small", |attributes| {
            let mut attribute = list(entries);
            change(&mut attribute);
            attributes.insert(1, attribute);
        });
        asked(&open_bytes(bytes), "small")
    };
    let as_it_is = |_: &mut Vec<u8>| {};
    let id = u16::from(sound[attribute_at(&sound, number(node(&ours, "small")), u32::from(DATA)) + 14]);
    // A list that names itself, and its content twice, is one all the same.
    let circle = [(LIST.into(), 0, own, 77), (DATA.into(), 0, own, id), (DATA.into(), 0, own, id)];
    assert_eq!(asked(&circle, &as_it_is), "content");
    let content = |record: u64, id: u16| asked(&[(DATA.into(), 0, record, id)], &as_it_is);
    let none = format!("file record at {record:#x} of the volume: expected attribute 0x80 with id 99 of file");
    assert_eq!(content(own, 99), format!("{none} {}, found none", own & 0xffff_ffff));
    let base = format!("base of a file record at {other_record:#x} of the volume: expected {}, found 0", own & 0xffff);
    assert_eq!(content(other, id), base);
    let nowhere = 1 << 47 | 1 << 48;
    assert_eq!(content(nowhere, id), format!("there is no node {nowhere}"));
    let gone = own + (1 << 48);
    assert_eq!(content(gone, id), format!("there is no node {gone}"));
    // Without a content there is none.
    assert_eq!(asked(&[(0x10, 0, own, 0)], &as_it_is), "");
    let no_length = asked(&[(DATA.into(), 0, own, id)], &|list| list[24 + 4] = 0);
    let expected =
        format!("length of an entry in an attribute list at {record:#x} of the volume: expected 26 to 32, found 0");
    assert_eq!(no_length, expected);
    let long_name = asked(&[(DATA.into(), 0, own, id)], &|list| list[24 + 6] = 200);
    let expected =
        format!("length of an entry in an attribute list at {record:#x} of the volume: expected 426 to 32, found 32");
    assert_eq!(long_name, expected);
    // A list in clusters, longer than any.
    let bytes = with_attributes(&sound, "small", |attributes| {
        let mut far = data(77, 0, &[(1, 5)], 1 << 40);
        far[0] = LIST;
        attributes.insert(1, far);
    });
    let expected =
        format!("attribute list at {record:#x} of the volume: expected at most 1048576 bytes, found {}", 1u64 << 40);
    assert_eq!(self::asked(&open_bytes(bytes), "small"), expected);
}

#[test]
fn a_table_whose_runs_lie_where_they_lead_is_refused() {
    let stage = Stage::new();
    let (_, bytes) = in_pieces(&stage);
    let base = record_at(&bytes, 0);
    let reference = |number: u64| (number | 9 << 48).to_le_bytes();
    let place = bytes[base..base + RECORD].windows(8).position(|it| it == reference(EXTENSION)).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        ntfs::open(Arc::new(MemoryDisk(bytes))).map_or_else(|err| err.to_string(), |_| "opened".to_owned())
    };
    // The record with the later runs would lie in the part that they lead to.
    let circle = refused(&|bytes| bytes[base + place..][..8].copy_from_slice(&reference(100)));
    assert_eq!(circle, "there is no node 100");
    // The table's own record stands for the later ones.
    let itself = refused(&|bytes| bytes[base + place..][..8].copy_from_slice(&(1u64 << 48).to_le_bytes()));
    assert!(itself.starts_with("runs of $MFT at 0x") && itself.contains("expected a piece from cluster"), "{itself}");
    // A piece that does not go on where the one before ended.
    let gap = refused(&|bytes| bytes[base + place - 8] += 1);
    assert!(gap.starts_with("runs of $MFT at 0x") && gap.contains("expected the next from cluster"), "{gap}");
}

// ---- contents -------------------------------------------------------------------------------------------------------

#[test]
fn lengths_beyond_any_disk_cost_nothing() {
    let stage = Stage::new();
    let sound = small(&stage);
    let with_hole = |len: u64, pairs: [u8; 8]| {
        let bytes = with_attributes(&sound, "file", |attributes| {
            let at = position(attributes, DATA);
            let mut hole = data(u16::from(attributes[at][14]), 0, &[], len);
            hole[64..72].copy_from_slice(&pairs);
            attributes[at] = hole;
        });
        open_bytes(bytes)
    };
    // A hole of 2^42 clusters, the most that is read.
    let ours = with_hole(1 << 52, [0x06, 0, 0, 0, 0, 0, 4, 0]);
    let file = node(&ours, "file");
    assert_eq!(ours.metadata(file).unwrap().size, 1 << 52);
    let mut buf = [0xa5; 5000];
    assert_eq!(ours.read_at(file, (1 << 52) - 100, &mut buf).unwrap(), 100);
    assert!(buf[..100].iter().all(|byte| *byte == 0));
    let extent = ours.extent_at(file, 12_345).unwrap().unwrap();
    assert_eq!((extent.kind, extent.len.0), (ExtentKind::Hole, (1 << 52) - 12_345));
    // Compressed in units of 16 clusters: the hole is one all the same.
    let bytes = with_attributes(&sound, "file", |attributes| {
        let at = position(attributes, DATA);
        let mut hole = data(u16::from(attributes[at][14]), 0, &[], 1 << 52);
        hole[12] = 1;
        hole[32] = 72;
        hole[34] = 4;
        hole.splice(64..72, [0, 0, 0, 0, 0, 0, 0, 0, 0x06, 0, 0, 0, 0, 0, 4, 0]);
        hole[4] += 8;
        attributes[at] = hole;
    });
    let ours = open_bytes(bytes);
    let extent = ours.extent_at(node(&ours, "file"), 100_000).unwrap().unwrap();
    assert_eq!((extent.kind, extent.len.0), (ExtentKind::Hole, (1 << 52) - 100_000));
    // A longer file than it has runs, and runs longer than that.
    let ours = with_hole((1 << 62) + 5, [0x06, 0, 0, 0, 0, 0, 4, 0]);
    assert_eq!(ours.metadata(node(&ours, "file")).unwrap().size, (1 << 62) + 5);
    let err = ours.read_at(node(&ours, "file"), 1 << 61, &mut buf).unwrap_err().to_string();
    assert!(err.ends_with(&format!("expected a run with cluster {}, found none", 1u64 << 51)), "{err}");
    survey(&ours);
    let ours = with_hole(1 << 62, [0x07, 0, 0, 0, 0, 0, 0, 1]);
    let err = ours.read_at(node(&ours, "file"), 0, &mut buf).unwrap_err().to_string();
    assert!(err.contains("expected a length of at least 1, and at most 4398046511104 clusters"), "{err}");
}

#[test]
fn what_is_encrypted_in_its_record_is_refused_too() {
    let stage = Stage::new();
    let sound = small(&stage);
    let bytes = with_attributes(&sound, "small", |attributes| {
        let at = position(attributes, DATA);
        attributes[at][13] |= 0x40;
    });
    let ours = open_bytes(bytes);
    assert_eq!(asked(&ours, "small"), "reading what the guest encrypted (EFS) is not supported");
    assert_eq!(ours.metadata(node(&ours, "small")).unwrap().special, Some("encrypted (EFS)"));
}

#[test]
fn records_behind_the_written_part_of_the_table_are_none() {
    let stage = Stage::new();
    let sound = small(&stage);
    let file = number(node(&open_bytes(sound.clone()), "file"));
    let table = attribute_at(&sound, 0, u32::from(DATA));
    let mut bytes = sound;
    bytes[table + 56..table + 64].copy_from_slice(&(file * RECORD as u64).to_le_bytes());
    let ours = open_bytes(bytes);
    let said = ours.metadata(node(&ours, "file")).unwrap_err();
    assert!(matches!(said, abbild::guest::GuestError::NoSuchNode { .. }), "{said}");
}
