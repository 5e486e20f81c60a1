//! Thin pools: which block of the pool's data holds which block of a thin volume.
//!
//! Metadata in blocks of 4096 bytes, little-endian. Block 0: 0 CRC | 32 magic u64 | 40 version u32 | 48 transaction u64 | 320 root
//! of the mapping u64 | 336 sectors a data block u32 | 340 sectors a metadata block u32. A node of a B-tree: 0 CRC | 4 flags u32
//! (1 inner, 2 leaf) | 8 own block u64 | 16 entries u32 | 20 room for entries u32 | 24 bytes a value u32 | 32 keys u64 × room,
//! values. Inner values are blocks of nodes. The mapping is a tree of trees: device → block of the device → data block << 24 |
//! time. What has no entry was never written. CRC: CRC-32C of what follows it, not inverted, mixed with the kind's salt.
//!
//! Source: Linux drivers/md/dm-thin-metadata.c and drivers/md/persistent-data/dm-btree-internal.h.

use std::sync::Arc;

use nom::bytes::complete::take;
use nom::multi::count;
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};
use quick_cache::sync::Cache;

use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::guest::GuestError;
use crate::recent;
use crate::units::{ByteLen, GuestOffset, SECTOR_BYTES};

/// Bytes in a block of metadata.
const BLOCK_BYTES: u64 = 4096;
const MAGIC: u64 = 27_022_010;
const SUPERBLOCK_SALT: u32 = 160_774;
const NODE_SALT: u32 = 121_107;
/// Levels of one tree: with 126 entries a node, nine hold all 64 bits.
const LEVELS_MAX: usize = 12;
/// Nodes kept, some MiB at most.
const NODES_KEPT: usize = 512;
/// Largest data block that the kernel allows: 1 GiB.
const DATA_BLOCK_BYTES_MAX: u64 = 1 << 30;

/// A thin pool.
pub(super) struct Pool {
    metadata: Arc<dyn Disk>,
    data: Arc<dyn Disk>,
    /// Bytes in a data block.
    block: u64,
    mapping: u64,
    nodes: Cache<u64, Arc<Node>>,
}

/// A thin volume: what it never wrote is a hole.
pub(super) struct ThinDisk {
    pool: Arc<Pool>,
    root: u64,
    size: ByteLen,
}

struct RawSuperblock {
    checksum: u32,
    magic: u64,
    version: u32,
    transaction: u64,
    mapping: u64,
    data_block_sectors: u32,
    metadata_block_sectors: u32,
}

struct RawNode {
    checksum: u32,
    flags: u32,
    own_block: u64,
    entries: u32,
    room: u32,
    value_bytes: u32,
}

/// A node, checked: keys ascend, and there are as many values.
struct Node {
    is_leaf: bool,
    keys: Vec<u64>,
    values: Vec<u64>,
}

/// What a tree has for a key.
enum Found {
    /// This value, and so on for `run` keys with values that grow by `step`.
    Value { value: u64, run: u64 },
    /// Nothing, up to this key.
    NothingUntil(u64),
}

fn superblock(input: &[u8]) -> IResult<&[u8], RawSuperblock> {
    let (input, (checksum, _, magic, version, _time)) = (le_u32, take(28usize), le_u64, le_u32, le_u32).parse(input)?;
    let (input, (transaction, _, mapping, _details)) = (le_u64, take(264usize), le_u64, le_u64).parse(input)?;
    let (input, (data_block_sectors, metadata_block_sectors)) = (le_u32, le_u32).parse(input)?;
    let raw =
        RawSuperblock { checksum, magic, version, transaction, mapping, data_block_sectors, metadata_block_sectors };
    Ok((input, raw))
}

fn node(input: &[u8]) -> IResult<&[u8], RawNode> {
    let (input, (checksum, flags, own_block, entries)) = (le_u32, le_u32, le_u64, le_u32).parse(input)?;
    let (input, (room, value_bytes, _)) = (le_u32, le_u32, le_u32).parse(input)?;
    Ok((input, RawNode { checksum, flags, own_block, entries, room, value_bytes }))
}

fn numbers(input: &[u8], len: usize) -> IResult<&[u8], Vec<u64>> {
    count(le_u64, len).parse(input)
}

fn checksum(block: &[u8], salt: u32) -> u32 {
    !crc32c::crc32c(&block[4..]) ^ salt
}

fn corrupt(field: &'static str, at: u64, expected: impl ToString, found: impl ToString) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.to_string(), found: found.to_string() }
}

impl Pool {
    /// The pool whose metadata and data are these; `transaction` and `block` are what the volume group says of it.
    ///
    /// # Errors
    /// [`GuestError::Corrupt`] if the superblock is damaged, or of another time than the volume group.
    pub fn open(
        metadata: Arc<dyn Disk>,
        data: Arc<dyn Disk>,
        transaction: u64,
        block: u64,
    ) -> Result<Pool, GuestError> {
        let bytes = read_block(metadata.as_ref(), 0)?;
        let (_, raw) = superblock(&bytes).expect("a block has room for a superblock");
        if raw.magic != MAGIC {
            let found = format!("{} (was the pool ever used?)", raw.magic);
            return Err(corrupt("magic of the thin pool", 32, MAGIC, found));
        }
        let computed = checksum(&bytes, SUPERBLOCK_SALT);
        if computed != raw.checksum {
            let expected = format!("{:#010x} as it says", raw.checksum);
            return Err(corrupt("checksum of the thin pool", 0, expected, format!("{computed:#010x}")));
        }
        if !(1..=2).contains(&raw.version) {
            return Err(GuestError::Unsupported { feature: format!("version {} of thin pools", raw.version) });
        }
        if raw.transaction != transaction {
            let expected = format!("{transaction} as the volume group says");
            return Err(corrupt("transaction of the thin pool", 48, expected, raw.transaction));
        }
        let own_block = u64::from(raw.data_block_sectors) * SECTOR_BYTES;
        if own_block != block || !(1..=DATA_BLOCK_BYTES_MAX).contains(&block) {
            let expected = format!("{block} bytes as the volume group says, at most {DATA_BLOCK_BYTES_MAX}");
            return Err(corrupt("data blocks of the thin pool", 336, expected, own_block));
        }
        if u64::from(raw.metadata_block_sectors) * SECTOR_BYTES != BLOCK_BYTES {
            let expected = BLOCK_BYTES / SECTOR_BYTES;
            return Err(corrupt("metadata blocks of the thin pool", 340, expected, raw.metadata_block_sectors));
        }
        Ok(Pool { metadata, data, block, mapping: raw.mapping, nodes: recent::entries(NODES_KEPT) })
    }

    /// The thin volume of that number.
    ///
    /// # Errors
    /// [`GuestError::Corrupt`] if the pool does not know it, or is damaged.
    pub fn volume(self: Arc<Pool>, device: u64, size: ByteLen) -> Result<ThinDisk, GuestError> {
        match self.find(self.mapping, device)? {
            Found::Value { value: root, .. } => Ok(ThinDisk { pool: self, root, size }),
            Found::NothingUntil(_) => {
                let at = self.mapping.saturating_mul(BLOCK_BYTES);
                Err(corrupt("mapping of the thin pool", at, format!("device {device}"), "no such device"))
            }
        }
    }

    fn find(&self, root: u64, key: u64) -> Result<Found, GuestError> {
        let (mut block, mut until) = (root, u64::MAX);
        for _ in 0..LEVELS_MAX {
            let node = self.node(block)?;
            let after = node.keys.partition_point(|held| *held <= key);
            if let Some(next) = node.keys.get(after) {
                until = until.min(*next);
            }
            let Some(at) = after.checked_sub(1) else { return Ok(Found::NothingUntil(until)) };
            if !node.is_leaf {
                block = node.values[at];
                continue;
            }
            if node.keys[at] != key {
                return Ok(Found::NothingUntil(until));
            }
            let follows = |next: &usize| {
                let distance = (next - at) as u64;
                node.keys[*next] - key == distance
                    && (node.values[*next] >> 24).checked_sub(node.values[at] >> 24) == Some(distance)
            };
            let run = 1 + (after..node.keys.len()).take_while(follows).count() as u64;
            return Ok(Found::Value { value: node.values[at], run });
        }
        let at = root.saturating_mul(BLOCK_BYTES);
        Err(corrupt("tree of the thin pool", at, format!("at most {LEVELS_MAX} levels"), "more, or a loop"))
    }

    fn node(&self, block: u64) -> Result<Arc<Node>, GuestError> {
        self.nodes.get_or_insert_with(&block, || {
            let bytes = read_block(self.metadata.as_ref(), block)?;
            Node::read(&bytes, block).map(Arc::new)
        })
    }

    /// Where a data block lies.
    fn place(&self, data_block: u64) -> Result<u64, GuestError> {
        let at = data_block.checked_mul(self.block);
        let end = at.and_then(|at| at.checked_add(self.block));
        let inside = at.filter(|_| end.is_some_and(|end| end <= self.data.size().0));
        inside.ok_or_else(|| {
            let expected = format!("blocks of {} bytes inside the pool's {} bytes", self.block, self.data.size());
            corrupt("mapping of the thin pool", 0, expected, format!("block {data_block}"))
        })
    }
}

fn read_block(metadata: &dyn Disk, block: u64) -> Result<Vec<u8>, GuestError> {
    let at = block
        .checked_mul(BLOCK_BYTES)
        .filter(|at| at.checked_add(BLOCK_BYTES).is_some_and(|end| end <= metadata.size().0));
    let Some(at) = at else {
        let expected = format!("inside {} bytes of metadata", metadata.size());
        return Err(corrupt("block of the thin pool", 0, expected, format!("block {block}")));
    };
    let mut bytes = vec![0; usize::try_from(BLOCK_BYTES).expect("4096")];
    metadata.read_at(GuestOffset(at), &mut bytes)?;
    Ok(bytes)
}

impl Node {
    fn read(bytes: &[u8], block: u64) -> Result<Node, GuestError> {
        const HEADER_BYTES: u32 = 32;
        const LEAF: u32 = 2;
        let at = block * BLOCK_BYTES; // it was read from there
        let (rest, raw) = node(bytes).expect("a block has room for a header");
        let computed = checksum(bytes, NODE_SALT);
        if computed != raw.checksum {
            let expected = format!("{:#010x} as it says", raw.checksum);
            return Err(corrupt("checksum of a node of the thin pool", at, expected, format!("{computed:#010x}")));
        }
        if raw.own_block != block {
            return Err(corrupt("own block of a node of the thin pool", at + 8, block, raw.own_block));
        }
        let room_max = (4096 - HEADER_BYTES) / 16;
        if raw.value_bytes != 8 || raw.room > room_max || raw.entries > raw.room {
            let expected = format!("values of 8 bytes, and at most {room_max} of them");
            let found = format!("{} of {} bytes in a room for {}", raw.entries, raw.value_bytes, raw.room);
            return Err(corrupt("node of the thin pool", at + 16, expected, found));
        }
        let [entries, room] = [raw.entries, raw.room].map(|n| usize::try_from(n).expect("at most 254"));
        let (_, keys) = numbers(rest, entries).expect("keys fit in the block");
        let (_, values) = numbers(&rest[8 * room..], entries).expect("values fit in the block");
        if keys.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(corrupt("keys of a node of the thin pool", at + 32, "ascending keys", "others"));
        }
        Ok(Node { is_leaf: raw.flags & LEAF != 0, keys, values })
    }
}

impl ThinDisk {
    /// Where the byte `at` lies in the pool's data (`None`: nowhere), and for how many bytes that holds.
    fn answer(&self, at: u64) -> Result<(Option<u64>, u64), DiskError> {
        let block = self.pool.block;
        let (number, inside) = (at / block, at % block);
        let left = self.size.0 - at;
        let found = self.pool.find(self.root, number).map_err(backing)?;
        match found {
            Found::NothingUntil(next) => Ok((None, left.min(next.saturating_mul(block) - at))),
            Found::Value { value, run } => {
                let first = value >> 24;
                let place = self.pool.place(first).map_err(backing)?;
                self.pool.place(first + run - 1).map_err(backing)?; // 40 bits, and at most 254 more
                Ok((Some(place + inside), left.min(run * block - inside)))
            }
        }
    }
}

fn backing(error: GuestError) -> DiskError {
    match error {
        GuestError::Disk(error) => error,
        other => DiskError::Backing(Box::new(other)),
    }
}

impl Disk for ThinDisk {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size, at, buf.len())?;
        let (mut at, mut rest) = (at.0, buf);
        while !rest.is_empty() {
            let (place, len) = self.answer(at)?;
            let len = rest.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match place {
                Some(place) => self.pool.data.read_at(GuestOffset(place), now)?,
                None => now.fill(0),
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        check_inside(self.size, at)?;
        let (place, len) = self.answer(at.0)?;
        let Some(place) = place else { return Ok(Extent { kind: ExtentKind::Hole, len: ByteLen(len) }) };
        let below = self.pool.data.extent_at(GuestOffset(place))?;
        // A block of the pool hides the volume's origin, even where the pool itself lies in a hole.
        let kind = if below.kind == ExtentKind::Data { ExtentKind::Data } else { ExtentKind::Zero };
        Ok(Extent { kind, len: below.len.min(ByteLen(len)) })
    }
}

#[cfg(test)]
mod tests;
