//! Makes the checksums of a disk right, so that what lies behind them is fuzzed too: GPT headers, LVM's labels and texts,
//! blocks of XFS and btrfs. What has none of these stays as it is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes looked at, at most: small volumes begin and end within them.
const LOOKED_AT_MAX: u64 = 24 << 20;
/// Blocks of btrfs and of XFS's directories in the volumes that the seeds are.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;
/// Inodes of XFS there.
const INODE: usize = 512;
/// LVM's checksum begins with this.
const LVM_FIRST: u32 = 0xf597_a6cf;

/// Repairs the disk in the file at `path`.
pub fn repair(path: &Path) {
    let Ok(file) = File::options().read(true).write(true).open(path) else { return };
    let len = file.metadata().map_or(0, |meta| meta.len()).min(LOOKED_AT_MAX);
    let mut bytes = vec![0; usize::try_from(len).expect("at most some MiB")];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return;
    }
    let before = bytes.clone();
    gpt(&mut bytes);
    lvm(&mut bytes);
    xfs(&mut bytes);
    btrfs(&mut bytes);
    for (number, (old, new)) in before.chunks(SECTOR).zip(bytes.chunks(SECTOR)).enumerate() {
        if old != new {
            file.write_all_at(new, (number * SECTOR) as u64).expect("the file was just opened for writing");
        }
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().expect("4 bytes")) as usize)
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}

/// The usual CRC-32, going on from `first`.
fn crc32(first: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(first, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn gpt(bytes: &mut [u8]) {
    if bytes.get(SECTOR..SECTOR + 8) != Some(b"EFI PART") {
        return;
    }
    let (first, count, size) = (word(bytes, SECTOR + 72), word(bytes, SECTOR + 80), word(bytes, SECTOR + 84));
    let start = first.saturating_mul(SECTOR);
    if let Some(entries) = bytes.get(start..start.saturating_add(count.saturating_mul(size).min(32 << 10))) {
        let crc = !crc32(!0, entries);
        put(bytes, SECTOR + 88, crc);
    }
    put(bytes, SECTOR + 16, 0);
    let crc = !crc32(!0, &bytes[SECTOR..(SECTOR + word(bytes, SECTOR + 12).clamp(92, SECTOR)).min(bytes.len())]);
    put(bytes, SECTOR + 16, crc);
}

fn lvm(bytes: &mut [u8]) {
    const AREA: usize = 4096;
    const AREA_BYTES_MAX: usize = 1 << 20;
    if bytes.get(AREA + 4..AREA + 20) == Some(b" LVM2 x[5A%r0N*>") {
        let (at, len) = (word(bytes, AREA + 40), word(bytes, AREA + 48));
        let text = AREA.saturating_add(at);
        if let Some(text) = bytes.get(text..text.saturating_add(len.min(AREA_BYTES_MAX))) {
            let crc = crc32(LVM_FIRST, text);
            put(bytes, AREA + 56, crc);
        }
        let crc = crc32(LVM_FIRST, &bytes[AREA + 4..(AREA + SECTOR).min(bytes.len())]);
        put(bytes, AREA, crc);
    }
    if bytes.get(SECTOR..SECTOR + 8) == Some(b"LABELONE") {
        let crc = crc32(LVM_FIRST, &bytes[SECTOR + 20..(2 * SECTOR).min(bytes.len())]);
        put(bytes, SECTOR + 16, crc);
    }
}

/// Puts CRC-32C of a block, its field as zeros, into the field.
fn seal(bytes: &mut [u8], start: usize, len: usize, field: usize) {
    let Some(block) = bytes.get_mut(start..start + len) else { return };
    put(block, field, 0);
    let crc = crc32c::crc32c(block);
    put(block, field, crc);
}

fn xfs(bytes: &mut [u8]) {
    if bytes.get(..4) != Some(b"XFSB") {
        return;
    }
    for start in (0..bytes.len()).step_by(SECTOR) {
        match bytes.get(start..start + 4).unwrap_or_default() {
            b"XFSB" => seal(bytes, start, SECTOR, 224),
            b"XAGF" => seal(bytes, start, SECTOR, 216),
            b"XAGI" => seal(bytes, start, SECTOR, 312),
            [b'I', b'N', ..] => seal(bytes, start, INODE, 100),
            b"XDB3" | b"XDD3" | b"XDF3" => seal(bytes, start, BLOCK, 4),
            b"BMA3" => seal(bytes, start, BLOCK, 64),
            _ if bytes.get(start + 8..start + 10).is_some_and(|magic| magic[0] == 0x3d) => {
                seal(bytes, start, BLOCK, 12)
            }
            _ => {}
        }
    }
}

fn btrfs(bytes: &mut [u8]) {
    const SUPERBLOCK: usize = 64 << 10;
    if bytes.get(SUPERBLOCK + 64..SUPERBLOCK + 72) != Some(b"_BHRfS_M") {
        return;
    }
    let identity = bytes[SUPERBLOCK + 32..SUPERBLOCK + 48].to_vec();
    for start in (0..bytes.len()).step_by(BLOCK) {
        // Superblocks and nodes have checksum and identity at the same places.
        if bytes.get(start + 32..start + 48) == Some(&identity[..])
            && let Some(block) = bytes.get_mut(start..start + BLOCK)
        {
            let crc = crc32c::crc32c(&block[32..]);
            put(block, 0, crc);
        }
    }
}
