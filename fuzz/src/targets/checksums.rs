//! Makes the checksums of a file right, so that what lies behind them is fuzzed too: VHD footers and headers, VHDX
//! headers, region tables and log entries. A file of no such format stays as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Longest log whose entries are repaired, in bytes.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// Most entries repaired.
const LOG_ENTRIES_MAX: usize = 64;

/// Repairs the file at `path`; a file too short for a structure keeps it as it is.
pub fn repair(path: &Path) {
    let Ok(file) = File::options().read(true).write(true).open(path) else { return };
    let len = file.metadata().map_or(0, |meta| meta.len());
    // A structure that leaves the file has no checksum to repair; the others still have.
    let _ = vhd(&file, len);
    if bytes::<8>(&file, 0).is_ok_and(|magic| magic == *b"vhdxfile") {
        for at in [64 << 10, 128 << 10] {
            let _ = seal_crc(&file, at, 4096);
        }
        for at in [192 << 10, 256 << 10] {
            let _ = seal_crc(&file, at, 64 << 10);
        }
        for at in [64 << 10, 128 << 10] {
            let _ = log(&file, len, at);
        }
    }
}

fn vhd(file: &File, len: u64) -> io::Result<()> {
    let ends = [Some(0), len.checked_sub(512), len.checked_sub(511)];
    for at in ends.into_iter().flatten() {
        if bytes::<8>(file, at).is_ok_and(|magic| magic == *b"conectix") {
            let footer_len = usize::try_from((len - at).min(512)).expect("at most 512");
            let data_at = u64::from_be_bytes(bytes(file, at + 16)?);
            seal_sum(file, at, footer_len, 64)?;
            if bytes::<8>(file, data_at).is_ok_and(|magic| magic == *b"cxsparse") {
                seal_sum(file, data_at, 1024, 36)?;
            }
        }
    }
    Ok(())
}

/// One's complement of the sum of all bytes, the field itself as zeros.
fn seal_sum(file: &File, at: u64, len: usize, field: usize) -> io::Result<()> {
    let mut structure = vec![0; len];
    file.read_exact_at(&mut structure, at)?;
    structure[field..field + 4].fill(0);
    let sum: u32 = structure.iter().map(|byte| u32::from(*byte)).sum();
    file.write_all_at(&(!sum).to_be_bytes(), at + field as u64)
}

fn seal_crc(file: &File, at: u64, len: usize) -> io::Result<()> {
    let mut structure = vec![0; len];
    file.read_exact_at(&mut structure, at)?;
    structure[4..8].fill(0);
    file.write_all_at(&crc32c::crc32c(&structure).to_le_bytes(), at + 4)
}

/// The entries of the log that the header at `header` names.
fn log(file: &File, len: u64, header: u64) -> io::Result<()> {
    let log_len = u64::from(u32::from_le_bytes(bytes(file, header + 68)?));
    let log_at = u64::from_le_bytes(bytes(file, header + 72)?);
    let is_inside = log_at.checked_add(log_len).is_some_and(|end| end <= len);
    if !is_inside || log_len == 0 || log_len > LOG_BYTES_MAX || !log_len.is_multiple_of(4096) {
        return Ok(());
    }
    let mut ring = vec![0; usize::try_from(log_len).expect("at most 4 MiB")];
    file.read_exact_at(&mut ring, log_at)?;
    let starts: Vec<usize> = (0..ring.len()).step_by(4096).filter(|at| ring[*at..].starts_with(b"loge")).collect();
    for at in starts.into_iter().take(LOG_ENTRIES_MAX) {
        let len = u32::from_le_bytes(ring[at + 8..at + 12].try_into().expect("4 bytes")) as usize;
        if len < 64 || len > ring.len() {
            continue;
        }
        ring[at + 4..at + 8].fill(0);
        let to_end = len.min(ring.len() - at);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&ring[at..at + to_end]), &ring[..len - to_end]);
        ring[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&sum.to_le_bytes(), log_at + at as u64 + 4)?;
    }
    Ok(())
}

fn bytes<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
