//! Reads of a backup's disk here and there: of a blob only one chunk is unpacked then and kept. Whatever was read before,
//! and by however many at once, the bytes are the disk's.

use std::fs;

use abbild::disk::Disk;
use abbild::repo::BackupDisk;
use abbild::repo::branch_filter::looks_like_code;
use abbild::repo::store::faulty::MemFs;
use abbild::units::GuestOffset;

use crate::world::{RawMachine, create_on, noise, open_on};

/// Bytes of the disk.
const DISK: usize = 20 << 20;
/// Reads of each thread.
const READS: u64 = 1500;

/// Noise, text of numbers, zeros and the code of this program, in turns.
fn disk_content() -> Vec<u8> {
    let program = fs::read("/proc/self/exe").unwrap();
    let code =
        program.windows(1 << 20).step_by(1 << 20).find(|part| looks_like_code(part)).expect("a program has code");
    let numbers: Vec<u8> = (0u32..300_000).flat_map(|number| number.to_string().into_bytes()).collect();
    let mut content = Vec::with_capacity(DISK);
    for seed in 0.. {
        let turn = noise(300_000, seed);
        let begin = usize::from(turn[0]) << 9;
        for part in [&turn, &numbers[begin..begin + 500_000], &[0; 200_000][..], &code[begin..begin + 700_000]] {
            content.extend_from_slice(part);
        }
        if content.len() >= DISK {
            content.truncate(DISK);
            return content;
        }
    }
    unreachable!("the disk fills")
}

/// Reads places drawn by `seed`: mostly a few blocks, now and then on from the last, now and then long.
fn read_about(disk: &BackupDisk, content: &[u8], seed: u64) {
    let mut at = 0;
    for number in 0..READS {
        let drawn = noise(9, seed << 32 | number);
        let far = usize::try_from(u32::from_le_bytes(drawn[..4].try_into().unwrap())).unwrap() % content.len();
        let len = match drawn[4] % 16 {
            0 => 200_000,
            1 => 1,
            _ => 4096 * (1 + usize::from(drawn[5] % 4)),
        };
        at = if drawn[6] < 64 { at } else { far }.min(content.len() - len);
        let mut bytes = vec![0; len];
        disk.read_at(GuestOffset(at as u64), &mut bytes).unwrap();
        assert!(bytes == content[at..at + len], "{len} bytes at {at}, read {number} of seed {seed}");
        at += len;
    }
}

#[test]
fn reads_here_and_there_show_what_was_backed_up() {
    let content = disk_content();
    let fs = MemFs::default();
    let manifest = RawMachine::new(&content).back_up(&create_on(&fs)).unwrap().manifest;
    // Whoever opens it anew has nothing in its caches.
    let opened = || open_on(&fs).unwrap().disk(&manifest, 0).unwrap();
    let disk = opened();
    std::thread::scope(|scope| {
        for seed in 1..=3 {
            let (disk, content) = (&disk, &content);
            scope.spawn(move || read_about(disk, content, seed));
        }
    });
    let prepared = opened();
    prepared.prepare(&|| false);
    prepared.prepare(&|| true);
    read_about(&prepared, &content, 4);
}
