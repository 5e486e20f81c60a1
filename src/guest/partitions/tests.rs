//! Hostile and odd tables, built byte by byte. What real tools write is in `tests/it/guest_partitions`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::disk::{DiskError, Extent, MemoryDisk};
use proptest::prelude::*;

const SECTORS: usize = 4096;

/// A disk with an MBR of entries (status, type, first, count).
fn mbr_disk(entries: &[(u8, u8, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; SECTORS * 512];
    put_mbr(&mut bytes, 0, entries);
    bytes
}

fn put_mbr(bytes: &mut [u8], sector: usize, entries: &[(u8, u8, u32, u32)]) {
    let start = sector * 512;
    for (slot, (status, kind, first, count)) in entries.iter().enumerate() {
        let at = start + 446 + 16 * slot;
        bytes[at] = *status;
        bytes[at + 4] = *kind;
        bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    }
    bytes[start + 510..start + 512].copy_from_slice(&[0x55, 0xaa]);
}

/// A disk with a sound GPT header, after `change` has had its way with header and entries, and only a primary table.
fn gpt_disk(change: impl FnOnce(&mut [u8], &mut [u8])) -> Vec<u8> {
    let mut bytes = mbr_disk(&[(0, 0xee, 1, u32::MAX)]);
    let (head, entries) = bytes.split_at_mut(1024);
    let header = &mut head[512..];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92u32.to_le_bytes());
    header[24..32].copy_from_slice(&1u64.to_le_bytes());
    header[32..40].copy_from_slice(&((SECTORS - 1) as u64).to_le_bytes());
    header[72..80].copy_from_slice(&2u64.to_le_bytes());
    header[80..84].copy_from_slice(&4u32.to_le_bytes());
    header[84..88].copy_from_slice(&128u32.to_le_bytes());
    change(header, entries);
    let checksum = crc32fast::hash(&entries[..512]);
    header[88..92].copy_from_slice(&checksum.to_le_bytes());
    let len = u32::from_le_bytes(header[12..16].try_into().unwrap()).min(512);
    header[16..20].fill(0);
    let checksum = crc32fast::hash(&header[..len as usize]);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn put_entry(entries: &mut [u8], number: usize, first: u64, last: u64) {
    let entry = &mut entries[128 * number..128 * (number + 1)];
    entry[..32].fill(7);
    entry[32..40].copy_from_slice(&first.to_le_bytes());
    entry[40..48].copy_from_slice(&last.to_le_bytes());
}

fn table(bytes: Vec<u8>) -> PartitionTable {
    read(&MemoryDisk(bytes)).unwrap()
}

fn numbers(table: &PartitionTable) -> Vec<u32> {
    table.partitions.iter().map(|partition| partition.number).collect()
}

#[track_caller]
fn check_gpt_refused(change: impl FnOnce(&mut [u8], &mut [u8]), message: &str) {
    let error = read(&MemoryDisk(gpt_disk(change))).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn a_gpt_that_cannot_be_is_refused_with_what_is_wrong() {
    let put = |at: usize, value: u32| {
        move |header: &mut [u8], _: &mut [u8]| header[at..at + 4].copy_from_slice(&value.to_le_bytes())
    };
    check_gpt_refused(
        put(84, 0),
        "GPT entry size at 0x254 of the volume: expected a power of two from 128 to 4096, found 0",
    );
    check_gpt_refused(
        put(84, 1 << 31),
        "GPT entry size at 0x254 of the volume: expected a power of two from 128 to 4096, found 2147483648",
    );
    check_gpt_refused(
        put(84, 129),
        "GPT entry size at 0x254 of the volume: expected a power of two from 128 to 4096, found 129",
    );
    check_gpt_refused(put(80, 2049), "number of GPT entries at 0x250 of the volume: expected at most 2048, found 2049");
    check_gpt_refused(
        put(80, u32::MAX),
        "number of GPT entries at 0x250 of the volume: expected at most 2048, found 4294967295",
    );
    check_gpt_refused(put(12, 91), "GPT header size at 0x20c of the volume: expected 92 to 512 bytes, found 91");
    check_gpt_refused(put(12, 513), "GPT header size at 0x20c of the volume: expected 92 to 512 bytes, found 513");
    check_gpt_refused(put(24, 2), "GPT header's own sector at 0x218 of the volume: expected 1, found 2");
    check_gpt_refused(
        put(72, 4096),
        "place of the GPT entries at 0x248 of the volume: expected 512 bytes inside the disk of 2097152, found sector 4096",
    );
    check_gpt_refused(
        put(76, u32::MAX),
        "place of the GPT entries at 0x248 of the volume: expected 512 bytes inside the disk of 2097152, found sector 18446744069414584322",
    );
    check_gpt_refused(
        put(0, 0),
        "GPT header at 0x200 of the volume: expected the magic `EFI PART`, found [00, 00, 00, 00, 50, 41, 52, 54]",
    );
}

#[test]
fn entries_beyond_the_disk_are_cut_or_left_out_and_overlaps_named() {
    let table = table(gpt_disk(|_, entries| {
        put_entry(entries, 0, 100, 50);
        put_entry(entries, 1, 2048, 5000);
        put_entry(entries, 2, 4096, 5000);
        put_entry(entries, 3, 100, u64::MAX);
    }));
    assert_eq!(numbers(&table), [2, 4]);
    assert_eq!((table.partitions[0].start.0, table.partitions[0].len.0), (2048 * 512, 2048 * 512));
    let expected = [
        "the backup of the GPT is damaged: GPT header at 0x1ffe00 of the volume: expected the magic `EFI PART`, found [00, 00, 00, 00, 00, 00, 00, 00]",
        "partition 1 ends at sector 50 before it begins at sector 100: left out",
        "partition 2 goes 463360 bytes past the end of the disk: cut off there",
        "partition 3 begins at sector 4096, past the end of the disk (2097152 bytes): left out",
        "partition 4 goes 18446744073707505663 bytes past the end of the disk: cut off there",
        "partitions 4 and 2 overlap",
    ];
    assert_eq!(table.warnings, expected);
}

#[test]
fn names_end_at_their_field_or_at_what_fills_it() {
    let name = |units: &[u16]| -> String {
        let table = table(gpt_disk(|_, entries| {
            put_entry(entries, 0, 2048, 2049);
            for (unit, at) in units.iter().zip((56..128).step_by(2)) {
                entries[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
        }));
        table.partitions[0].name.clone()
    };
    assert_eq!(name(&[0x61; 36]), "a".repeat(36));
    assert_eq!(name(&[0xffff; 36]), "");
    assert_eq!(name(&[0x61, 0xffff, 0x62]), "a");
    assert_eq!(name(&[0x61, 0, 0x62]), "a");
    assert_eq!(name(&[0xd83d, 0xde00, 0xd83d]), "😀\u{fffd}");
}

#[test]
fn chains_of_logical_partitions_end() {
    let extended = [(0, 0x05, 100, 1000)];
    // Back to the beginning.
    let mut bytes = mbr_disk(&extended);
    put_mbr(&mut bytes, 100, &[(0, 0x83, 1, 10), (0, 0x05, 50, 100)]);
    put_mbr(&mut bytes, 150, &[(0, 0x83, 1, 10), (0, 0x05, 0, 100)]);
    let looping = table(bytes);
    assert_eq!(numbers(&looping), [1, 5, 6]);
    assert_eq!(
        looping.warnings,
        ["the chain of logical partitions comes back to sector 100: it is followed no further"]
    );
    // Into nothing, and past the end.
    let mut bytes = mbr_disk(&extended);
    put_mbr(&mut bytes, 100, &[(0, 0x83, 1, 10), (0, 0x0f, 50, 100)]);
    let broken = table(bytes.clone());
    assert_eq!(numbers(&broken), [1, 5]);
    assert_eq!(broken.warnings, ["the chain of logical partitions breaks off: no boot record at sector 150"]);
    put_mbr(&mut bytes, 100, &[(0, 0x83, 1, 10), (0, 0x85, u32::MAX, 100)]);
    assert_eq!(
        table(bytes).warnings,
        ["the chain of logical partitions breaks off: no boot record at sector 4294967395"]
    );
    // Longer than anybody needs.
    let mut bytes = mbr_disk(&[(0, 0x05, 100, 3000)]);
    for link in 0..300 {
        put_mbr(&mut bytes, 100 + 2 * link, &[(0, 0x83, 1, 1), (0, 0x05, 2 * (link as u32 + 1), 2)]);
    }
    let long = table(bytes);
    assert_eq!(long.partitions.len(), 1 + 256);
    assert_eq!(long.warnings, ["more than 256 logical partitions: the rest is left out"]);
}

#[test]
fn garbage_in_the_last_slots_of_a_chain_is_ignored() {
    let mut bytes = mbr_disk(&[(0, 0x05, 100, 1000)]);
    put_mbr(&mut bytes, 100, &[(0, 0x83, 1, 10), (0, 0, 0, 0), (0, 0x20, 5000, 77), (0, 0x83, 20, 10)]);
    assert_eq!(numbers(&table(bytes)), [1, 5, 6]);
}

#[test]
fn boot_code_is_no_table() {
    // A status that is none.
    assert_eq!(table(mbr_disk(&[(0x33, 0x83, 1, 10)])).scheme, Scheme::None);
    // An empty table is one.
    let empty = table(mbr_disk(&[(0, 0, 0, 0)]));
    assert_eq!((empty.scheme, empty.partitions.len()), (Scheme::Mbr, 0));
}

#[test]
fn a_table_of_many_faults_does_not_flood() {
    let mut bytes = mbr_disk(&[(0, 0x05, 100, 3000)]);
    for link in 0..100 {
        put_mbr(&mut bytes, 100 + 2 * link, &[(0, 0x83, 1_000_000, 1), (0, 0x05, 2 * (link as u32 + 1), 2)]);
    }
    let warnings = table(bytes).warnings;
    assert_eq!(warnings.len(), WARNINGS_MAX + 1);
    assert_eq!(warnings[WARNINGS_MAX], "and 81 more");
}

/// A disk that counts what is read of it.
struct Counting(MemoryDisk, AtomicUsize);

impl Disk for Counting {
    fn size(&self) -> ByteLen {
        self.0.size()
    }
    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.1.fetch_add(buf.len(), Ordering::Relaxed);
        self.0.read_at(at, buf)
    }
    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        self.0.extent_at(at)
    }
}

#[test]
fn however_large_the_disk_and_its_table_little_is_read() {
    let read_of = |bytes: Vec<u8>| {
        let disk = Counting(MemoryDisk(bytes), AtomicUsize::new(0));
        let _ = read(&disk);
        disk.1.into_inner()
    };
    let largest = gpt_disk(|header, _| header[80..84].copy_from_slice(&2048u32.to_le_bytes()));
    let most = 2 * (256 << 10) + (512 << 10); // two tables, and one look at the content
    for disk in [largest, vec![0; 8 << 20], vec![0xa5; 8 << 20], mbr_disk(&[(0, 0x83, 8, 100)])] {
        let read = read_of(disk);
        assert!((512..=most).contains(&read), "{read}");
    }
}

proptest! {
    /// Whatever the first sectors say, there is an answer, and no partition leaves the disk.
    #[test]
    fn any_bytes_are_answered(
        head in prop::collection::vec(any::<u8>(), 0..4096),
        status in prop::sample::select(vec![0u8, 0x80]),
        kinds in prop::array::uniform4(prop::sample::select(vec![0u8, 0x05, 0x83, 0xee, 0x0f])),
        small in any::<bool>(),
    ) {
        let mut bytes = vec![0; SECTORS * 512];
        bytes[..head.len()].copy_from_slice(&head);
        for sector in 0..8 {
            for (slot, kind) in kinds.iter().enumerate() {
                let at = sector * 512 + 446 + 16 * slot;
                (bytes[at], bytes[at + 4]) = (status, *kind);
                if small {
                    // So that chains lead somewhere.
                    bytes[at + 9..at + 12].fill(0);
                    bytes[at + 8] &= 7;
                }
            }
            bytes[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
        }
        if let Ok(table) = read(&MemoryDisk(bytes)) {
            for partition in &table.partitions {
                prop_assert!(partition.len.0 > 0 && partition.end() <= (SECTORS * 512) as u64);
            }
        }
    }

    /// A sound header around any entries.
    #[test]
    fn any_entries_are_answered(bytes in prop::collection::vec(any::<u8>(), 512)) {
        let table = table(gpt_disk(|_, entries| entries[..512].copy_from_slice(&bytes)));
        for partition in &table.partitions {
            prop_assert!(partition.len.0 > 0 && partition.end() <= (SECTORS * 512) as u64);
        }
    }
}
