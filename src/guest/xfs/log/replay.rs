//! Items of committed transactions → an overlay of the volume, in the kernel's order: of a transaction first buffers, then
//! inodes. What the volume has from a later transaction stays (version 5 knows), and buffers that are given up later in
//! the log are not touched before.

use std::collections::{HashMap, HashSet};

use super::inode::{self, Format};
use super::transaction::{Item, Transaction};
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::guest::xfs::geometry::Geometry;
use crate::guest::xfs::inode::CHECKSUM_AT;
use crate::guest::xfs::volume::{Overlay, PIECE_BYTES, read_under};
use crate::guest::xfs::{checksum, corrupt};

/// Kinds of items (`XFS_LI_*`).
mod kind {
    pub(super) const INODE: u16 = 0x123b;
    pub(super) const BUFFER: u16 = 0x123c;
    pub(super) const NEW_INODES: u16 = 0x123f;
    /// Intents that change files, each followed by what says that it is done: mappings, attributes, exchanges.
    pub(super) const INTENTS: [u16; 3] = [0x1244, 0x1246, 0x1248];
}

/// Flags of a logged buffer (`XFS_BLF_*`).
mod flag {
    /// Only links between unlinked inodes were logged.
    pub(super) const INODE_LINKS: u16 = 1 << 0;
    pub(super) const CANCELLED: u16 = 1 << 1;
    pub(super) const QUOTA: u16 = 1 << 2 | 1 << 3 | 1 << 4;
}

/// Bytes of a piece of a logged buffer.
const CHUNK_BYTES: usize = 128;
/// Largest buffer that is logged: a directory block, a cluster of inodes.
const BUFFER_BYTES_MAX: u64 = 64 << 10;

/// Replays all transactions; also says how many intents were left undone.
pub(super) fn replay(
    disk: &dyn Disk,
    geometry: &Geometry,
    transactions: &[Transaction],
) -> Result<(Overlay, usize), GuestError> {
    let mut replay = Replay { disk, geometry, overlay: Overlay::new(), cancelled: HashMap::new() };
    let mut undone = HashSet::new();
    for item in transactions.iter().flat_map(|transaction| &transaction.items) {
        if !item.is_whole() {
            return Err(corrupt("item in the log", 0, "all its regions", "fewer"));
        }
        replay.note_cancelled(item)?;
        note_intent(item, &mut undone);
    }
    for transaction in transactions {
        replay.transaction(transaction)?;
    }
    Ok((replay.overlay, undone.len()))
}

fn note_intent(item: &Item, undone: &mut HashSet<(u16, u64)>) {
    let Some(id) = item.regions[0].get(8..16) else { return };
    let id = u64::from_le_bytes(id.try_into().expect("eight bytes"));
    if kind::INTENTS.contains(&item.kind) {
        undone.insert((item.kind, id));
    } else if let Some(intent) = item.kind.checked_sub(1) {
        undone.remove(&(intent, id));
    }
}

/// What a buffer's item says of it (`xfs_buf_log_format`).
struct Buffer<'a> {
    flags: u16,
    /// Place and length in units of 512 bytes.
    place: (u64, u64),
    /// A bit for every chunk that was logged.
    map: &'a [u8],
}

impl<'a> Buffer<'a> {
    fn read(region: &'a [u8]) -> Result<Buffer<'a>, GuestError> {
        Buffer::parse(region).ok_or_else(|| corrupt("buffer in the log", 0, "a whole description", "less"))
    }

    fn parse(region: &'a [u8]) -> Option<Buffer<'a>> {
        let u16_at = |at: usize| Some(u16::from_le_bytes(region.get(at..at + 2)?.try_into().ok()?));
        let words = usize::try_from(u32::from_le_bytes(region.get(16..20)?.try_into().ok()?)).ok()?;
        Some(Buffer {
            flags: u16_at(4)?,
            place: (u64::from_le_bytes(region.get(8..16)?.try_into().ok()?), u16_at(6)?.into()),
            map: region.get(20..)?.get(..words.checked_mul(4)?)?,
        })
    }

    fn is_logged(&self, chunk: usize) -> bool {
        // Words are little-endian, and so are bits in bytes.
        self.map.get(chunk / 8).is_some_and(|byte| byte >> (chunk % 8) & 1 != 0)
    }
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    geometry: &'a Geometry,
    overlay: Overlay,
    /// How often each buffer is still to be given up.
    cancelled: HashMap<(u64, u64), usize>,
}

impl Replay<'_> {
    fn note_cancelled(&mut self, item: &Item) -> Result<(), GuestError> {
        if item.kind == kind::BUFFER {
            let buffer = Buffer::read(&item.regions[0])?;
            if buffer.flags & flag::CANCELLED != 0 {
                *self.cancelled.entry(buffer.place).or_default() += 1;
            }
        }
        Ok(())
    }

    fn transaction(&mut self, transaction: &Transaction) -> Result<(), GuestError> {
        let of = |wanted: &'static [u16]| transaction.items.iter().filter(move |item| wanted.contains(&item.kind));
        for item in of(&[kind::BUFFER, kind::NEW_INODES]) {
            if item.kind == kind::BUFFER {
                self.buffer(item, transaction.sequence)?;
            } else {
                self.new_inodes(&item.regions[0])?;
            }
        }
        for item in of(&[kind::INODE]) {
            self.inode(item, transaction.sequence)?;
        }
        for item in of(&[kind::BUFFER]) {
            let buffer = Buffer::read(&item.regions[0])?;
            if buffer.flags & flag::CANCELLED != 0
                && let Some(left) = self.cancelled.get_mut(&buffer.place)
            {
                *left -= 1;
                if *left == 0 {
                    self.cancelled.remove(&buffer.place);
                }
            }
        }
        Ok(())
    }

    fn load(&self, at: u64, len: usize) -> Result<Vec<u8>, GuestError> {
        let mut bytes = vec![0; len];
        read_under(self.disk, &self.overlay, at, &mut bytes)?;
        Ok(bytes)
    }

    /// Puts whole pieces over the volume.
    fn store(&mut self, at: u64, bytes: &[u8]) {
        for (index, piece) in bytes.chunks_exact(PIECE_BYTES as usize).enumerate() {
            let piece = Box::new(piece.try_into().expect("chunks are exact"));
            self.overlay.insert(at / PIECE_BYTES + index as u64, piece);
        }
    }

    fn buffer(&mut self, item: &Item, sequence: u64) -> Result<(), GuestError> {
        let buffer = Buffer::read(&item.regions[0])?;
        let skipped = flag::CANCELLED | flag::INODE_LINKS | flag::QUOTA;
        if buffer.flags & skipped != 0 || self.cancelled.contains_key(&buffer.place) {
            return Ok(());
        }
        let wrong = |found: String| corrupt("buffer in the log", 0, "a place and pieces inside the volume", found);
        let (Some(at), Some(len)) = (buffer.place.0.checked_mul(512), buffer.place.1.checked_mul(512)) else {
            return Err(wrong(format!("place {}", buffer.place.0)));
        };
        let len = usize::try_from(len).ok().filter(|len| (1..=BUFFER_BYTES_MAX).contains(&(*len as u64)));
        let Some(len) = len else { return Err(wrong(format!("{} × 512 bytes", buffer.place.1))) };
        let mut bytes = self.load(at, len)?;
        if self.geometry.checksums
            && Stamp::of(&bytes, self.geometry).is_some_and(|stamp| stamp.keeps(&bytes, sequence))
        {
            return Ok(());
        }
        let mut chunk = 0;
        for region in &item.regions[1..] {
            while chunk < len / CHUNK_BYTES && !buffer.is_logged(chunk) {
                chunk += 1;
            }
            let run = (chunk..).take_while(|chunk| buffer.is_logged(*chunk)).take(region.len() / CHUNK_BYTES).count();
            let from = chunk * CHUNK_BYTES;
            let target = bytes.get_mut(from..from + run * CHUNK_BYTES);
            let (Some(target), true) = (target, run > 0) else { return Err(wrong(format!("a piece at {from}"))) };
            target.copy_from_slice(&region[..run * CHUNK_BYTES]);
            chunk += run;
        }
        if self.geometry.checksums
            && let Some(stamp) = Stamp::of(&bytes, self.geometry)
        {
            stamp.put(&mut bytes, sequence);
        }
        self.store(at, &bytes);
        Ok(())
    }

    fn new_inodes(&mut self, region: &[u8]) -> Result<(), GuestError> {
        let wrong = || corrupt("new inodes in the log", 0, "a whole chunk inside a group", "something else");
        let number = |at: usize| region.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().expect("four bytes")));
        let (Some(group), Some(block), Some(count), Some(inode_bytes), Some(blocks), Some(generation)) =
            (number(4), number(8), number(12), number(16), number(20), number(24))
        else {
            return Err(wrong());
        };
        let geometry = self.geometry;
        let first = geometry.inode_of_block(group.into(), block.into(), blocks.into()).ok_or_else(wrong)?;
        let bytes = u64::from(blocks) << geometry.block_log;
        let fits = usize::try_from(inode_bytes) == Ok(geometry.inode_bytes)
            && u64::from(count) * u64::from(inode_bytes) == bytes
            && bytes <= 4 * BUFFER_BYTES_MAX;
        let at = geometry.inode_place(first).filter(|_| fits).ok_or_else(wrong)?;
        let place = (at / 512, at / 512 + bytes / 512);
        if self.cancelled.keys().any(|(from, len)| *from < place.1 && from.saturating_add(*len) > place.0) {
            return Ok(());
        }
        let mut all = Vec::new();
        for index in 0..u64::from(count) {
            let mut inode = vec![0; geometry.inode_bytes];
            inode[..2].copy_from_slice(b"IN");
            inode[4] = if geometry.checksums { 3 } else { 2 };
            inode[92..96].copy_from_slice(&generation.to_be_bytes());
            inode[96..100].fill(0xff);
            if geometry.checksums {
                inode[152..160].copy_from_slice(&(first + index).to_be_bytes());
                inode[160..176].copy_from_slice(&geometry.meta_uuid);
                put_checksum(&mut inode, CHECKSUM_AT);
            }
            all.extend(inode);
        }
        self.store(at, &all);
        Ok(())
    }

    fn inode(&mut self, item: &Item, sequence: u64) -> Result<(), GuestError> {
        let wrong = |found: String| corrupt("inode in the log", 0, "an inode of the volume", found);
        let format = Format::read(&item.regions[0]).ok_or_else(|| wrong("a strange description".to_string()))?;
        if self.cancelled.contains_key(&format.buffer) {
            return Ok(());
        }
        let at = self.geometry.inode_place(format.number).ok_or_else(|| wrong(format.number.to_string()))?;
        // Several old inodes may share a piece.
        let piece = at / PIECE_BYTES * PIECE_BYTES;
        let inside = usize::try_from(at - piece).expect("less than a piece");
        let len = (inside + self.geometry.inode_bytes).next_multiple_of(PIECE_BYTES as usize);
        let mut bytes = self.load(piece, len)?;
        let inode = &mut bytes[inside..inside + self.geometry.inode_bytes];
        inode::apply(inode, &format, &item.regions[1..], sequence, self.geometry, at)?;
        if self.geometry.checksums {
            put_checksum(inode, CHECKSUM_AT);
        }
        self.store(piece, &bytes);
        Ok(())
    }
}

fn put_checksum(bytes: &mut [u8], at: usize) {
    if let Some(sum) = checksum::of(bytes, at) {
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Where a kind of block says which transaction wrote it last, and has its checksum.
struct Stamp {
    checksum: usize,
    sequence: usize,
}

impl Stamp {
    /// Of a block of this filesystem; `None` for kinds without, and those that are not read here.
    fn of(bytes: &[u8], geometry: &Geometry) -> Option<Stamp> {
        let (checksum, sequence, uuid) = match (bytes.get(..4)?, bytes.get(8..10)?) {
            (b"BMA3", _) => (64, 32, 40),
            (b"XDB3" | b"XDD3" | b"XDF3", _) => (4, 16, 24),
            (b"XSLM", _) => (12, 48, 16),
            // The superblock has the visible UUID beside the one in all other blocks.
            (b"XFSB", _) => return (bytes.len() >= 512).then_some(Stamp { checksum: 224, sequence: 240 }),
            (_, [0x3d, 0xf1 | 0xff] | [0x3e, 0xbe] | [0x3b, 0xee]) => (12, 24, 32),
            _ => return None,
        };
        (bytes.get(uuid..uuid + 16)? == geometry.meta_uuid).then_some(Stamp { checksum, sequence })
    }

    /// Whether the volume's block is at least as new as the transaction.
    fn keeps(&self, bytes: &[u8], sequence: u64) -> bool {
        let found = bytes[self.sequence..self.sequence + 8].try_into().map(u64::from_be_bytes).expect("eight bytes");
        found != u64::MAX && found >= sequence
    }

    fn put(&self, bytes: &mut [u8], sequence: u64) {
        bytes[self.sequence..self.sequence + 8].copy_from_slice(&sequence.to_be_bytes());
        put_checksum(bytes, self.checksum);
    }
}
