//! Trees that cannot be. Pools as `thin_restore` writes them are in `tests/it/guest_lvm`.

use super::*;
use crate::disk::MemoryDisk;
use proptest::prelude::*;

const BLOCK: usize = 4096;
const DATA_BLOCK: u64 = 64 << 10;

fn sealed(mut block: Vec<u8>, salt: u32) -> Vec<u8> {
    let sum = checksum(&block, salt);
    block[..4].copy_from_slice(&sum.to_le_bytes());
    block
}

fn superblock_of(mapping: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, value: &[u8]| block[at..at + value.len()].copy_from_slice(value);
    put(32, &MAGIC.to_le_bytes());
    put(40, &2u32.to_le_bytes());
    put(48, &7u64.to_le_bytes());
    put(320, &mapping.to_le_bytes());
    put(336, &128u32.to_le_bytes());
    put(340, &8u32.to_le_bytes());
    sealed(block, SUPERBLOCK_SALT)
}

/// A node of entries, for block `own`.
fn node_of(own: u64, is_leaf: bool, entries: &[(u64, u64)]) -> Vec<u8> {
    raw_node(own, is_leaf, entries.len() as u32, 252, 8, entries)
}

fn raw_node(own: u64, is_leaf: bool, count: u32, room: u32, value_bytes: u32, entries: &[(u64, u64)]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, value: &[u8]| block[at..at + value.len()].copy_from_slice(value);
    put(4, &(if is_leaf { 2u32 } else { 1 }).to_le_bytes());
    put(8, &own.to_le_bytes());
    for (at, number) in [(16, count), (20, room), (24, value_bytes)] {
        put(at, &number.to_le_bytes());
    }
    for (slot, (key, value)) in entries.iter().enumerate() {
        put(32 + 8 * slot, &key.to_le_bytes());
        put(32 + 8 * 252 + 8 * slot, &value.to_le_bytes());
    }
    sealed(block, NODE_SALT)
}

fn pool(blocks: &[Vec<u8>]) -> Result<Arc<Pool>, GuestError> {
    let metadata = Arc::new(MemoryDisk(blocks.concat()));
    let data = Arc::new(MemoryDisk(vec![7; 4 * DATA_BLOCK as usize]));
    Pool::open(metadata, data, 7, DATA_BLOCK).map(Arc::new)
}

/// The message with its causes when the first byte of device 1 is read.
fn trouble(blocks: &[Vec<u8>]) -> String {
    let outcome = pool(blocks).and_then(|pool| pool.volume(1, ByteLen(1 << 30)));
    let outcome = outcome.and_then(|thin| Ok(thin.read_at(GuestOffset(0), &mut [0; 1])?));
    let error = outcome.expect_err("should be refused");
    match std::error::Error::source(&error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

#[test]
fn trees_that_cannot_be_are_refused() {
    #[track_caller]
    fn check(nodes: &[Vec<u8>], expected: &str) {
        assert_eq!(trouble(&[&[superblock_of(1)], nodes].concat()), expected);
    }
    let device = |root| node_of(1, true, &[(1, root)]);
    check(
        &[node_of(1, false, &[(0, 1)])],
        "tree of the thin pool at 0x1000 of the volume: expected at most 12 levels, found more, or a loop",
    );
    check(
        &[device(2), node_of(2, false, &[(0, 3)]), node_of(3, false, &[(0, 2)])],
        "tree of the thin pool at 0x2000 of the volume: expected at most 12 levels, found more, or a loop",
    );
    check(
        &[device(9)],
        "block of the thin pool at 0x0 of the volume: expected inside 8192 bytes of metadata, found block 9",
    );
    check(
        &[device(u64::MAX)],
        "block of the thin pool at 0x0 of the volume: expected inside 8192 bytes of metadata, found block 18446744073709551615",
    );
    check(
        &[device(2), node_of(3, true, &[])],
        "own block of a node of the thin pool at 0x2008 of the volume: expected 2, found 3",
    );
    check(
        &[device(2), node_of(2, true, &[(5, 0), (5, 0)])],
        "keys of a node of the thin pool at 0x2020 of the volume: expected ascending keys, found others",
    );
    for (count, room, value_bytes) in [(255, 252, 8), (1, 255, 8), (1, 252, 24), (u32::MAX, u32::MAX, 8)] {
        let expected = format!(
            "node of the thin pool at 0x2010 of the volume: expected values of 8 bytes, and at most 254 of them, \
             found {count} of {value_bytes} bytes in a room for {room}"
        );
        check(&[device(2), raw_node(2, true, count, room, value_bytes, &[])], &expected);
    }
    for block in [4, (1 << 40) - 1] {
        let expected = format!(
            "mapping of the thin pool at 0x0 of the volume: expected blocks of 65536 bytes inside the pool's 262144 bytes, \
             found block {block}"
        );
        check(&[device(2), node_of(2, true, &[(0, block << 24)])], &expected);
    }
    let mut flipped = device(2);
    flipped[100] ^= 1;
    assert!(trouble(&[superblock_of(1), flipped]).starts_with("checksum of a node of the thin pool at 0x1000"));
}

#[test]
fn keys_far_apart_are_holes_up_to_the_next() {
    let nodes = [
        superblock_of(1),
        node_of(1, true, &[(1, 2)]),
        node_of(2, false, &[(0, 3), (1000, 4)]),
        node_of(3, true, &[(10, 1 << 24 | 5)]),
        node_of(4, true, &[(1000, 2 << 24), (1001, 3 << 24), (u64::MAX, 0)]),
    ];
    let thin = pool(&nodes).unwrap().volume(1, ByteLen(1 << 30)).unwrap();
    let extent = |block: u64| {
        let extent = thin.extent_at(GuestOffset(block * DATA_BLOCK)).unwrap();
        (extent.kind, extent.len.0 / DATA_BLOCK)
    };
    assert_eq!(extent(0), (ExtentKind::Hole, 10));
    assert_eq!(extent(10), (ExtentKind::Data, 1));
    assert_eq!(extent(11), (ExtentKind::Hole, 989));
    assert_eq!(extent(1000), (ExtentKind::Data, 2));
    assert_eq!(extent(1002), (ExtentKind::Hole, (1 << 14) - 1002));
}

proptest! {
    /// Nodes of any numbers under sound checksums: every answer ends, and what is read is the pool's or zero.
    #[test]
    fn any_tree_is_answered(
        nodes in prop::collection::vec((any::<bool>(), prop::collection::btree_map(0u64..40, 0u64..6, 0..6), any::<u64>()), 4),
        at in 0u64..(40 * DATA_BLOCK),
    ) {
        let mut blocks = vec![superblock_of(1)];
        for (number, (is_leaf, entries, noise)) in nodes.iter().enumerate() {
            let value = |value: &u64| if noise % 7 == 0 { *noise } else if *is_leaf && number > 1 { value << 24 } else { *value };
            let entries: Vec<(u64, u64)> = entries.iter().map(|(key, held)| (*key, value(held))).collect();
            blocks.push(node_of(number as u64 + 1, *is_leaf, &entries));
        }
        if let Ok(thin) = pool(&blocks).unwrap().volume(1, ByteLen(40 * DATA_BLOCK)) {
            let mut byte = [9];
            if thin.read_at(GuestOffset(at), &mut byte).is_ok() {
                prop_assert!(byte[0] == 7 || byte[0] == 0);
                prop_assert!(thin.extent_at(GuestOffset(at)).unwrap().len.0 > 0);
            }
        }
    }
}
