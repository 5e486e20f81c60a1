//! The superblock (`btrfs_super_block`): raw → checked. It lies at 64 KiB, with copies at 64 MiB and 256 GiB where the
//! volume is that large; the newest that is sound counts.

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use super::checksum::Checksum;
use super::{corrupt, too_short, unsupported};
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Bytes of a superblock.
pub(crate) const SUPERBLOCK_BYTES: usize = 4096;
/// Where it lies, and its copies.
pub(crate) const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const MAGIC: &[u8; 8] = b"_BHRfS_M";
const MAGIC_AT: usize = 64;
const SYSTEM_CHUNKS_BYTES_MAX: usize = 2048;
/// Smallest and largest sector, and block of a tree, that any kernel makes.
const UNIT_BYTES_MIN: u32 = 1 << 10;
const UNIT_BYTES_MAX: u32 = 64 << 10;
/// Levels of trees are 0 to 7.
pub(crate) const LEVEL_MAX: u8 = 7;

/// Features that change what a reader must know, by bit; whether we do.
const FEATURES: [(u32, &str, bool); 17] = [
    (0, "mixed back references", true),
    (1, "default subvolume", true),
    (2, "mixed block groups", true),
    (3, "compression by LZO", true),
    (4, "compression by zstd", true),
    (5, "large metadata blocks", true),
    (6, "extended inode references", true),
    (7, "RAID5 and RAID6", true),
    (8, "small extent references", true),
    (9, "no extents for holes", true),
    (10, "a UUID of its own for metadata", true),
    (11, "RAID1 with three and four copies", true),
    (12, "zones", false),
    (13, "the second version of the extent tree", false),
    (14, "the tree of RAID stripes", false),
    (16, "simple quotas", true),
    (17, "the tree of remapped chunks", false),
];
const METADATA_UUID: u64 = 1 << 10;

/// The superblock's fields that we use, in their order.
#[derive(Clone, Debug)]
struct RawSuperblock<'a> {
    uuid: [u8; 16],
    place: u64,
    generation: u64,
    root: u64,
    chunk_root: u64,
    log_root: u64,
    total_bytes: u64,
    devices: u64,
    sector_bytes: u32,
    node_bytes: u32,
    system_chunks_bytes: u32,
    chunk_root_generation: u64,
    features: u64,
    checksum: u16,
    root_level: u8,
    chunk_root_level: u8,
    log_root_level: u8,
    device: u64,
    device_uuid: [u8; 16],
    label: &'a [u8],
    metadata_uuid: [u8; 16],
    system_chunks: &'a [u8],
}

/// Takes a superblock apart; fails only on too few bytes.
fn superblock(input: &[u8]) -> IResult<&[u8], RawSuperblock<'_>> {
    let (input, (_checksum, uuid, place, _flags, _magic)) =
        (take(32usize), uuid, le_u64, le_u64, le_u64).parse(input)?;
    let (input, (generation, root, chunk_root, log_root)) = (le_u64, le_u64, le_u64, le_u64).parse(input)?;
    let (input, (_log_generation, total_bytes, _used, _directory)) = (le_u64, le_u64, le_u64, le_u64).parse(input)?;
    let (input, (devices, sector_bytes, node_bytes, _leaf_bytes)) = (le_u64, le_u32, le_u32, le_u32).parse(input)?;
    let (input, (_stripe_bytes, system_chunks_bytes, chunk_root_generation)) = (le_u32, le_u32, le_u64).parse(input)?;
    let (input, (_compatible, _read_only, features, checksum)) = (le_u64, le_u64, le_u64, le_u16).parse(input)?;
    let (input, (root_level, chunk_root_level, log_root_level)) = (le_u8, le_u8, le_u8).parse(input)?;
    // The device's own item: number, sizes, alignments, kind, generation, start, group, speeds.
    let (input, (device, _, device_uuid, _)) = (le_u64, take(58usize), self::uuid, self::uuid).parse(input)?;
    let (input, (label, _caches, metadata_uuid)) = (take(256usize), take(16usize), self::uuid).parse(input)?;
    let (input, (_reserved, system_chunks)) = (take(224usize), take(SYSTEM_CHUNKS_BYTES_MAX)).parse(input)?;
    let raw = RawSuperblock {
        uuid,
        place,
        generation,
        root,
        chunk_root,
        log_root,
        total_bytes,
        devices,
        sector_bytes,
        node_bytes,
        system_chunks_bytes,
        chunk_root_generation,
        features,
        checksum,
        root_level,
        chunk_root_level,
        log_root_level,
        device,
        device_uuid,
        label,
        metadata_uuid,
        system_chunks,
    };
    Ok((input, raw))
}

pub(crate) fn uuid(input: &[u8]) -> IResult<&[u8], [u8; 16]> {
    let (rest, bytes) = take(16usize).parse(input)?;
    Ok((rest, bytes.try_into().expect("sixteen bytes")))
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Logical address of its topmost block.
    pub logical: u64,
    /// That block's level; at most [`LEVEL_MAX`].
    pub level: u8,
    /// That block's generation.
    pub generation: u64,
}

/// A sound superblock. Its holder may divide by its sizes and allocate a block of a tree without looking again.
#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    /// Where it was read.
    pub at: u64,
    pub uuid: [u8; 16],
    /// What blocks of trees carry.
    pub metadata_uuid: [u8; 16],
    pub label: String,
    pub generation: u64,
    pub root: Root,
    pub chunk_root: Root,
    /// The tree of logs, if there is one.
    pub log_root: Option<Root>,
    pub total_bytes: u64,
    /// How many devices the filesystem has, and which of them this is.
    pub devices: u64,
    pub device: u64,
    pub device_uuid: [u8; 16],
    pub sector_bytes: u32,
    pub node_bytes: u32,
    pub checksum: Checksum,
    pub system_chunks: Vec<u8>,
}

/// Reads the newest sound superblock; also says what was wrong with the first place, if it had to look further.
pub(crate) fn read(disk: &dyn Disk) -> Result<(Superblock, Option<String>), GuestError> {
    let mut best: Option<Superblock> = None;
    let mut first_error = None;
    for at in PLACES {
        match read_at(disk, at) {
            // Without a sound first one any copy may speak, but a left-over copy of an earlier filesystem never
            // overrules the first.
            Ok(Some(found)) => {
                let newer = best.as_ref().is_none_or(|best| best.is_same(&found) && found.generation > best.generation);
                if newer {
                    best = Some(found);
                }
            }
            Ok(None) => {}
            Err(err) => first_error = first_error.or(Some((at, err))),
        }
    }
    match (best, first_error) {
        (Some(best), error) => {
            let error = error.filter(|(at, _)| *at == PLACES[0]).map(|(_, err)| err.to_string());
            let stale = (best.at != PLACES[0] && error.is_none()).then(|| "it is older than a copy of it".to_string());
            Ok((best, error.or(stale)))
        }
        (None, Some((_, err))) => Err(err),
        (None, None) => Err(corrupt("btrfs superblock", PLACES[0], "a superblock", "the end of the volume")),
    }
}

/// The superblock at `at`; `None` if the volume is too small to have it there.
fn read_at(disk: &dyn Disk, at: u64) -> Result<Option<Superblock>, GuestError> {
    if disk.size().0 < at + SUPERBLOCK_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    disk.read_at(GuestOffset(at), &mut bytes)?;
    let magic = &bytes[MAGIC_AT..MAGIC_AT + MAGIC.len()];
    if magic != MAGIC {
        let expected = format!("the magic {}", MAGIC.escape_ascii());
        return Err(corrupt("btrfs superblock", at + MAGIC_AT as u64, expected, magic.escape_ascii()));
    }
    let (_, raw) = superblock(&bytes).map_err(|_| too_short("btrfs superblock", at))?;
    let Some(checksum) = Checksum::from_code(raw.checksum) else {
        return Err(unsupported(format!("kind {} of btrfs checksums", raw.checksum)));
    };
    if let Some((stored, computed)) = checksum.mismatch(&bytes) {
        return Err(corrupt("btrfs superblock", at, format!("the checksum {stored}"), computed));
    }
    raw.validate(at, checksum).map(Some)
}

impl RawSuperblock<'_> {
    fn validate(self, at: u64, checksum: Checksum) -> Result<Superblock, GuestError> {
        if self.place != at {
            return Err(corrupt(
                "btrfs superblock",
                at,
                format!("one of {at:#x}"),
                format!("one of {:#x}", self.place),
            ));
        }
        let lacking = |bit: u32| match FEATURES.iter().find(|(known, _, _)| *known == bit) {
            Some((_, _, true)) => None,
            Some((_, name, false)) => Some((*name).to_string()),
            None => Some(format!("the unknown feature {bit}")),
        };
        let lacking: Vec<String> =
            (0..u64::BITS).filter(|bit| self.features >> bit & 1 != 0).filter_map(lacking).collect();
        if !lacking.is_empty() {
            return Err(unsupported(format!("btrfs with {}", lacking.join(" and "))));
        }
        for (field, bytes) in [("sector size", self.sector_bytes), ("size of tree blocks", self.node_bytes)] {
            if !bytes.is_power_of_two() || !(UNIT_BYTES_MIN..=UNIT_BYTES_MAX).contains(&bytes) {
                let expected = format!("a power of two from {UNIT_BYTES_MIN} to {UNIT_BYTES_MAX}");
                return Err(corrupt(field, at, expected, bytes));
            }
        }
        for level in [self.root_level, self.chunk_root_level, self.log_root_level] {
            if level > LEVEL_MAX {
                return Err(corrupt("level of a root", at, format!("at most {LEVEL_MAX}"), level));
            }
        }
        let system_chunks = usize::try_from(self.system_chunks_bytes).unwrap_or(usize::MAX);
        let Some(system_chunks) = self.system_chunks.get(..system_chunks) else {
            let expected = format!("at most {SYSTEM_CHUNKS_BYTES_MAX} bytes");
            return Err(corrupt("system chunks in the superblock", at, expected, self.system_chunks_bytes));
        };
        let label = self.label.split(|byte| *byte == 0).next().unwrap_or_default();
        let own_uuid = self.features & METADATA_UUID != 0;
        // The log is written before the commit that it belongs to.
        let log =
            Root { logical: self.log_root, level: self.log_root_level, generation: self.generation.wrapping_add(1) };
        Ok(Superblock {
            at,
            uuid: self.uuid,
            metadata_uuid: if own_uuid { self.metadata_uuid } else { self.uuid },
            label: String::from_utf8_lossy(label).into_owned(),
            generation: self.generation,
            root: Root { logical: self.root, level: self.root_level, generation: self.generation },
            chunk_root: Root {
                logical: self.chunk_root,
                level: self.chunk_root_level,
                generation: self.chunk_root_generation,
            },
            log_root: (self.log_root != 0).then_some(log),
            total_bytes: self.total_bytes,
            devices: self.devices,
            device: self.device,
            device_uuid: self.device_uuid,
            sector_bytes: self.sector_bytes,
            node_bytes: self.node_bytes,
            checksum,
            system_chunks: system_chunks.to_vec(),
        })
    }
}

impl Superblock {
    /// Whether both are of the same filesystem and device.
    fn is_same(&self, other: &Superblock) -> bool {
        (self.uuid, self.metadata_uuid, self.device_uuid) == (other.uuid, other.metadata_uuid, other.device_uuid)
    }

    /// `bytes`, up to whole sectors.
    pub fn round_up(&self, bytes: u64) -> Option<u64> {
        bytes.checked_next_multiple_of(self.sector_bytes.into())
    }

    /// Whether it is a whole number of sectors.
    pub fn is_aligned(&self, bytes: u64) -> bool {
        bytes.is_multiple_of(self.sector_bytes.into())
    }
}
