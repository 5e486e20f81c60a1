//! Chunks: which stretch of logical addresses lies where on the volume. Those that hold the chunk tree itself are in the
//! superblock too.
//!
//! Invariant: chunks do not overlap, and neither their ends nor those of their stripes pass 2^64.

use std::collections::BTreeMap;

use nom::multi::count;
use nom::number::complete::{le_u16, le_u64};
use nom::{IResult, Parser};

use super::key::{KEY_BYTES, key, kind, object};
use super::superblock::{Superblock, uuid};
use super::{corrupt, too_short, unsupported};
use crate::guest::GuestError;

/// Chunks are of 1 GiB on large volumes, and some tens on small ones: enough for 256 TiB.
const CHUNKS_MAX: usize = 1 << 18;

/// Bits of a chunk's type.
mod profile {
    pub(super) const RAID0: u64 = 1 << 3;
    pub(super) const RAID1: u64 = 1 << 4;
    pub(super) const DUP: u64 = 1 << 5;
    pub(super) const RAID10: u64 = 1 << 6;
    pub(super) const RAID5: u64 = 1 << 7;
    pub(super) const RAID6: u64 = 1 << 8;
    pub(super) const RAID1C3: u64 = 1 << 9;
    pub(super) const RAID1C4: u64 = 1 << 10;
    /// What a chunk is for: data, system, metadata.
    pub(super) const USES: u64 = 7;
}

/// A chunk as it lies in its item (`btrfs_chunk`).
struct RawChunk {
    bytes: u64,
    kind: u64,
    /// Device, place on it, and its UUID.
    stripes: Vec<(u64, u64, [u8; 16])>,
}

/// Takes a chunk apart; fails only on too few bytes.
fn chunk(input: &[u8]) -> IResult<&[u8], RawChunk> {
    let (input, (bytes, _owner, _stripe_bytes, kind)) = (le_u64, le_u64, le_u64, le_u64).parse(input)?;
    // Alignments and sector size are advice for writers.
    let (input, (_, _, stripes, _sub_stripes)) =
        (le_u64, nom::number::complete::le_u32, le_u16, le_u16).parse(input)?;
    let (input, stripes) = count((le_u64, le_u64, uuid), usize::from(stripes)).parse(input)?;
    Ok((input, RawChunk { bytes, kind, stripes }))
}

/// Where a chunk's bytes are.
#[derive(Debug, PartialEq, Eq)]
struct Chunk {
    bytes: u64,
    copies: Copies,
}

#[derive(Debug, PartialEq, Eq)]
enum Copies {
    /// Each copy's first byte on this volume.
    Here(Vec<u64>),
    /// Nothing of it can be read from here: why.
    Nowhere(String),
}

/// A run of logical addresses inside one chunk.
#[derive(Debug)]
pub(crate) struct Place {
    /// Where it begins, in each copy; at least one.
    pub copies: Vec<u64>,
    /// Bytes to the chunk's end; not 0.
    pub left: u64,
}

/// All chunks.
#[derive(Debug, Default)]
pub(crate) struct Chunks(BTreeMap<u64, Chunk>);

impl Chunks {
    /// The chunks that the superblock lists, so that the chunk tree can be read.
    pub fn of_superblock(superblock: &Superblock) -> Result<Chunks, GuestError> {
        let mut chunks = Chunks::default();
        let mut rest = &superblock.system_chunks[..];
        while !rest.is_empty() {
            let short = || too_short("system chunks in the superblock", superblock.at);
            let (after_key, key) = key(rest).map_err(|_| short())?;
            if !key.is_of(object::CHUNKS, kind::CHUNK) {
                return Err(corrupt("system chunks in the superblock", superblock.at, "the key of a chunk", key));
            }
            let (after, _) = chunk(after_key).map_err(|_| short())?;
            let item = &rest[KEY_BYTES..rest.len() - after.len()];
            chunks.add(key.offset, item, superblock.at, superblock)?;
            rest = after;
        }
        Ok(chunks)
    }

    /// Adds the chunk from logical address `start`, whose item lies at `at`. One that is known is replaced.
    pub fn add(&mut self, start: u64, item: &[u8], at: u64, superblock: &Superblock) -> Result<(), GuestError> {
        let (_, raw) = chunk(item).map_err(|_| too_short("chunk", at))?;
        let end = start.checked_add(raw.bytes).filter(|_| {
            raw.bytes > 0 && superblock.is_aligned(start) && superblock.is_aligned(raw.bytes) && !raw.stripes.is_empty()
        });
        let Some(end) = end else {
            let found = format!("{} bytes from {start:#x} in {} stripes", raw.bytes, raw.stripes.len());
            return Err(corrupt("chunk", at, "whole sectors in stripes", found));
        };
        let before = self.0.range(..start).next_back();
        let after = self.0.range(start..).find(|(other, _)| **other != start);
        if before.is_some_and(|(other, chunk)| other + chunk.bytes > start)
            || after.is_some_and(|(other, _)| *other < end)
        {
            return Err(corrupt("chunk", at, "addresses of its own", format!("{start:#x}, which another has")));
        }
        if self.0.len() >= CHUNKS_MAX {
            return Err(unsupported(format!("a btrfs of more than {CHUNKS_MAX} chunks")));
        }
        let copies = raw.copies(at, superblock)?;
        self.0.insert(start, Chunk { bytes: raw.bytes, copies });
        Ok(())
    }

    /// Where the byte of logical address `logical` is. `asked_at` is the place of the structure that points there.
    pub fn place(&self, logical: u64, asked_at: u64) -> Result<Place, GuestError> {
        let chunk = self.0.range(..=logical).next_back().filter(|(start, chunk)| logical - *start < chunk.bytes);
        let Some((start, chunk)) = chunk else {
            return Err(corrupt("logical address", asked_at, "one inside a chunk", format!("{logical:#x}")));
        };
        let inside = logical - start;
        match &chunk.copies {
            Copies::Here(copies) => {
                let copies = copies.iter().map(|copy| copy + inside).collect();
                Ok(Place { copies, left: chunk.bytes - inside })
            }
            Copies::Nowhere(why) => Err(unsupported(why.clone())),
        }
    }
}

impl RawChunk {
    fn copies(&self, at: u64, superblock: &Superblock) -> Result<Copies, GuestError> {
        use profile::{DUP, RAID0, RAID1, RAID1C3, RAID1C4, RAID5, RAID6, RAID10};
        let whole = match self.kind & !profile::USES {
            0 | DUP | RAID1 | RAID1C3 | RAID1C4 => None,
            // One stripe is no stripe.
            RAID0 | RAID10 if self.stripes.len() == 1 => None,
            RAID0 => Some("RAID0".to_string()),
            RAID10 => Some("RAID10".to_string()),
            RAID5 => Some("RAID5".to_string()),
            RAID6 => Some("RAID6".to_string()),
            other => Some(format!("chunks of kind {other:#x}")),
        };
        if let Some(profile) = whole {
            return Ok(Copies::Nowhere(format!("content in {profile} of a btrfs")));
        }
        let mut here = Vec::new();
        for (device, start, uuid) in &self.stripes {
            if (*device, *uuid) != (superblock.device, superblock.device_uuid) {
                continue;
            }
            if start.checked_add(self.bytes).is_none() {
                return Err(corrupt("stripe of a chunk", at, "an end below 2^64", format!("{start:#x}")));
            }
            here.push(*start);
        }
        if here.is_empty() {
            let there: Vec<String> = self.stripes.iter().map(|(device, _, _)| device.to_string()).collect();
            return Ok(Copies::Nowhere(format!(
                "content on device {} of a btrfs of {} devices, which is not here (this is device {}),",
                there.join(" and "),
                superblock.devices,
                superblock.device
            )));
        }
        Ok(Copies::Here(here))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::btrfs::checksum::Checksum;
    use crate::guest::btrfs::superblock::Root;

    const HERE: [u8; 16] = [7; 16];

    fn superblock() -> Superblock {
        let root = Root { logical: 0, level: 0, generation: 0 };
        Superblock {
            at: 65_536,
            uuid: [1; 16],
            metadata_uuid: [1; 16],
            label: String::new(),
            generation: 0,
            root,
            chunk_root: root,
            log_root: None,
            total_bytes: 0,
            devices: 2,
            device: 1,
            device_uuid: HERE,
            sector_bytes: 4096,
            node_bytes: 16_384,
            checksum: Checksum::Crc32c,
            system_chunks: Vec::new(),
        }
    }

    fn item(bytes: u64, kind: u64, stripes: &[(u64, u64, [u8; 16])]) -> Vec<u8> {
        let mut item: Vec<u8> = [bytes, 2, 65_536, kind, 0].map(u64::to_le_bytes).concat();
        item.extend([0; 4]);
        item.extend(u16::try_from(stripes.len()).expect("few").to_le_bytes());
        item.extend([0; 2]);
        for (device, start, uuid) in stripes {
            item.extend(device.to_le_bytes());
            item.extend(start.to_le_bytes());
            item.extend(uuid);
        }
        item
    }

    /// Where byte 4096 of a chunk of 64 KiB is, or the message.
    #[track_caller]
    fn check(kind: u64, stripes: &[(u64, u64, [u8; 16])], expected: Result<&[u64], &str>) {
        let mut chunks = Chunks::default();
        let added = chunks.add(1 << 20, &item(65_536, kind, stripes), 0, &superblock());
        let found = added.and_then(|()| chunks.place((1 << 20) + 4096, 0));
        let found = found.map(|place| {
            assert_eq!(place.left, 65_536 - 4096);
            place.copies
        });
        assert_eq!(found.map_err(|err| err.to_string()), expected.map(<[u64]>::to_vec).map_err(str::to_string));
    }

    #[test]
    fn copies_by_profile() {
        let (one, two, other) = ((1, 8192, HERE), (1, 1 << 30, HERE), (2, 4096, [8; 16]));
        let (first, second) = (8192 + 4096, (1 << 30) + 4096);
        check(1, &[one], Ok(&[first]));
        check(4 | profile::DUP, &[one, two], Ok(&[first, second]));
        check(1 | profile::RAID1, &[other, two], Ok(&[second]));
        check(1 | profile::RAID1C4, &[other, other, other, one], Ok(&[first]));
        check(1 | profile::RAID0, &[one], Ok(&[first]));
        check(1 | profile::RAID0, &[one, other], Err("content in RAID0 of a btrfs is not supported"));
        check(1 | profile::RAID10, &[one, other], Err("content in RAID10 of a btrfs is not supported"));
        check(1 | profile::RAID5, &[one, other], Err("content in RAID5 of a btrfs is not supported"));
        check(1 | profile::RAID6, &[one, other], Err("content in RAID6 of a btrfs is not supported"));
        check(1 | 1 << 11, &[one], Err("content in chunks of kind 0x800 of a btrfs is not supported"));
        let message =
            "content on device 2 of a btrfs of 2 devices, which is not here (this is device 1), is not supported";
        check(1, &[other], Err(message));
        check(1, &[(1, 0, [8; 16])], Err(&message.replacen("device 2", "device 1", 1)));
        check(
            1,
            &[],
            Err(
                "chunk at 0x0 of the volume: expected whole sectors in stripes, found 65536 bytes from 0x100000 in 0 stripes",
            ),
        );
        let message = "stripe of a chunk at 0x0 of the volume: expected an end below 2^64, found 0xffffffffffff0001";
        check(1, &[(1, u64::MAX - 65_534, HERE)], Err(message));
    }

    #[test]
    fn chunks_have_addresses_of_their_own() {
        let mut chunks = Chunks::default();
        let mut add =
            |start: u64, bytes: u64| chunks.add(start, &item(bytes, 1, &[(1, 0, HERE)]), 0, &superblock()).is_ok();
        assert!(add(1 << 20, 1 << 20));
        assert!(add(1 << 20, 1 << 20), "a known one is replaced");
        assert!(add(0, 1 << 20));
        assert!(add(2 << 20, 4096));
        for (start, bytes) in
            [(4096, 4096), ((2 << 20) - 4096, 4096), (0, (1 << 20) + 4096), (8 << 20, 0), (8 << 20, 1)]
        {
            assert!(!add(start, bytes), "{bytes} from {start}");
        }
        assert!(!add(u64::MAX - 4095, 8192), "its end is past 2^64");
        for outside in [(2 << 20) + 4096, 1 << 60, u64::MAX] {
            chunks.place(outside, 0).expect_err("in no chunk");
        }
        assert_eq!(chunks.place((2 << 20) + 4095, 0).expect("the last byte").left, 1);
    }
}
