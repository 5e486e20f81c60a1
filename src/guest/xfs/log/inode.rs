//! Inodes as the log has them: the core in the machine's order (`xfs_log_dinode`), forks as on the volume, but the roots of
//! trees as in memory.

use crate::guest::GuestError;
use crate::guest::xfs::corrupt;
use crate::guest::xfs::geometry::Geometry;

/// What of an inode was logged (`XFS_ILOG_*`).
mod field {
    pub(super) const DATA: u32 = 0x02 | 0x04;
    pub(super) const DATA_ROOT: u32 = 0x08;
    pub(super) const DEVICE: u32 = 0x10;
    pub(super) const ATTRIBUTES: u32 = 0x40 | 0x80;
    pub(super) const ATTRIBUTE_ROOT: u32 = 0x100;
}

/// Place and length of the core's numbers, up to the part that only version 3 has. `di_next_unlinked` is not logged with it.
const CORE: [(usize, usize); 27] = [
    (0, 2),
    (2, 2),
    (4, 1),
    (5, 1),
    (6, 2),
    (8, 4),
    (12, 4),
    (16, 4),
    (20, 2),
    (22, 2),
    (32, 4),
    (36, 4),
    (40, 4),
    (44, 4),
    (48, 4),
    (52, 4),
    (56, 8),
    (64, 8),
    (72, 4),
    (76, 4),
    (80, 2),
    (82, 1),
    (83, 1),
    (84, 4),
    (88, 2),
    (90, 2),
    (92, 4),
];
/// The numbers of version 3 alone.
const CORE_V3: [(usize, usize); 5] = [(104, 8), (120, 8), (128, 4), (144, 8), (152, 8)];
/// Times: halves in older inodes, whole in those with big times.
const TIMES: [usize; 4] = [32, 40, 48, 144];
const SEQUENCE_AT: usize = 112;
const FLAGS2_AT: usize = 120;
const BIG_TIME: u64 = 1 << 3;
/// Bytes of the logged core.
const CORE_BYTES: [usize; 2] = [96, 176];

/// Which inode an item is about, and what was logged of it (`xfs_inode_log_format`).
pub(super) struct Format {
    pub number: u64,
    fields: u32,
    device: u32,
    /// Its buffer, in 512 bytes: cancelled with it.
    pub buffer: (u64, u64),
}

impl Format {
    /// Takes the first region of an item apart. Machines of 32 bits wrote it without a gap before the number.
    pub fn read(region: &[u8]) -> Option<Format> {
        let gap = match region.len() {
            56 => 4,
            52 => 0,
            _ => return None,
        };
        let u32_at = |at: usize| region[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let u64_at = |at: usize| region[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        Some(Format {
            number: u64_at(12 + gap)?,
            fields: u32_at(4)?,
            device: u32_at(20 + gap)?,
            buffer: (u64_at(36 + gap)?, u32_at(44 + gap)?.into()),
        })
    }
}

/// Changes `inode`, as the volume has it, to what was logged by the transaction of that sequence number; not if it has newer
/// content already. The checksum is left to the caller. `at` is where it lies.
pub(super) fn apply(
    inode: &mut [u8],
    format: &Format,
    regions: &[Vec<u8>],
    sequence: u64,
    geometry: &Geometry,
    at: u64,
) -> Result<(), GuestError> {
    let wrong = |found: &str| corrupt("inode in the log", at, "a whole inode", found);
    let Some((core, forks)) = regions.split_first() else { return Err(wrong("no core")) };
    let core_bytes = CORE_BYTES[usize::from(geometry.checksums)];
    if core.len() < core_bytes || core[..2] != *b"NI" || (core[4] >= 3) != geometry.checksums {
        return Err(wrong("another core"));
    }
    if !inode.starts_with(b"IN") {
        return Err(corrupt("inode", at, "the magic IN, under the log", inode[..2].escape_ascii()));
    }
    if is_newer(inode, core, sequence, geometry.checksums) {
        return Ok(());
    }
    let big_time = geometry.checksums && u64_le(core, FLAGS2_AT) & BIG_TIME != 0;
    let swap = |inode: &mut [u8], (from, len): (usize, usize)| {
        inode[from..from + len].copy_from_slice(&core[from..from + len]);
        inode[from..from + len].reverse();
    };
    CORE.into_iter().for_each(|place| swap(inode, place));
    // Version 2 has padding and a counter of writes where version 3 has a number.
    if geometry.checksums {
        swap(inode, (24, 8));
        CORE_V3.into_iter().for_each(|place| swap(inode, place));
        inode[132..144].fill(0);
        inode[160..176].copy_from_slice(&core[160..176]);
        inode[SEQUENCE_AT..SEQUENCE_AT + 8].copy_from_slice(&sequence.to_be_bytes());
    }
    for time in TIMES.into_iter().filter(|time| time + 8 <= core_bytes) {
        let lengths: &[(usize, usize)] = if big_time { &[(time, 8)] } else { &[(time, 4), (time + 4, 4)] };
        lengths.iter().for_each(|place| swap(inode, *place));
    }
    apply_forks(inode, format, forks, geometry, at)
}

fn apply_forks(
    inode: &mut [u8],
    format: &Format,
    regions: &[Vec<u8>],
    geometry: &Geometry,
    at: u64,
) -> Result<(), GuestError> {
    let wrong = || corrupt("inode in the log", at, "forks that fit", "others");
    let first = if geometry.checksums { 176 } else { 100 };
    let second = match usize::from(inode[82]) * 8 {
        0 => inode.len(),
        offset => first + offset,
    };
    let (before, attributes) = inode.split_at_mut_checked(second).ok_or_else(wrong)?;
    let data = &mut before[first..];
    if format.fields & field::DEVICE != 0 {
        data.first_chunk_mut().map(|place| *place = format.device.to_be_bytes()).ok_or_else(wrong)?;
    }
    let mut regions = regions.iter();
    for (fork, plain, root) in
        [(data, field::DATA, field::DATA_ROOT), (attributes, field::ATTRIBUTES, field::ATTRIBUTE_ROOT)]
    {
        if format.fields & (plain | root) == 0 {
            continue;
        }
        // A fork that has become empty has no region.
        let Some(region) = regions.next() else { continue };
        if format.fields & plain != 0 {
            fork.get_mut(..region.len()).ok_or_else(wrong)?.copy_from_slice(region);
        } else {
            store_root(fork, region, geometry).ok_or_else(wrong)?;
        }
    }
    Ok(())
}

/// A tree's root, from the form in memory (a block's header, keys and pointers at their most) to that in the inode.
fn store_root(fork: &mut [u8], region: &[u8], geometry: &Geometry) -> Option<()> {
    let header = if geometry.checksums { 72 } else { 24 };
    let level_and_records: [u8; 4] = region.get(4..8)?.try_into().ok()?;
    let records = usize::from(u16::from_be_bytes([level_and_records[2], level_and_records[3]]));
    let body = region.get(header..)?;
    let (room, fork_room) = (body.len() / 16, fork.len().checked_sub(4)? / 16);
    if records > room || records > fork_room {
        return None;
    }
    let bytes = records * 8;
    fork[..4].copy_from_slice(&level_and_records);
    fork[4..4 + bytes].copy_from_slice(&body[..bytes]);
    let pointers = 4 + fork_room * 8;
    fork[pointers..pointers + bytes].copy_from_slice(&body[room * 8..room * 8 + bytes]);
    Some(())
}

/// Whether the volume has something newer than the log.
fn is_newer(inode: &[u8], core: &[u8], sequence: u64, checksums: bool) -> bool {
    if checksums {
        let on_volume = u64::from_be_bytes(inode[SEQUENCE_AT..SEQUENCE_AT + 8].try_into().expect("eight bytes"));
        return on_volume != u64::MAX && on_volume > sequence;
    }
    // Version 2 counts writes, and starts again after the last number.
    let on_volume = u16::from_be_bytes([inode[30], inode[31]]);
    let logged = u16::from_le_bytes([core[30], core[31]]);
    logged < on_volume && !(on_volume == u16::MAX && logged < u16::MAX / 2)
}

fn u64_le(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
