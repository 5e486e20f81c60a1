//! What lies in the journal: big-endian, raw structs and a checked superblock.
//!
//! Source: Linux Documentation/filesystems/ext4/journal.rst.

use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use crate::guest::GuestError;
use crate::guest::ext::checksum::crc32c;
use crate::guest::ext::volume::{Bytes, JOURNAL_MAGIC};

/// What the superblock needs of its block.
const SUPERBLOCK_BYTES: usize = 1024;
const SUPERBLOCK_CHECKSUM_AT: usize = 252;
/// Largest journal, the limit of those who make them: ten million blocks.
const BLOCKS_MAX: u32 = 10_240_000;
/// Blocks for fast commits where the superblock does not say.
const FAST_COMMIT_BLOCKS: u32 = 256;
/// A log of fewer blocks gives none to fast commits.
const LOG_BLOCKS_MIN: u32 = 1024;
/// Magic, kind, sequence: before everything but data.
pub(super) const HEADER_BYTES: usize = 12;
/// The checksum behind tags and revocations.
const TAIL_BYTES: usize = 4;
/// Where a commit has its checksum.
const COMMIT_CHECKSUM_AT: usize = 16;

/// Features.
mod compatible {
    pub const CHECKSUM: u32 = 1;
}
mod incompatible {
    pub const BITS_64: u32 = 2;
    pub const CSUM_V2: u32 = 8;
    pub const CSUM_V3: u32 = 0x10;
    pub const FAST_COMMIT: u32 = 0x20;
    /// Revocations and commits that do not wait are the other two.
    pub const ALL: u32 = 0x3f;
}

/// What a block of the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Descriptor,
    Commit,
    Revocation,
}

/// Kind and sequence of a block; `None` if it is none of the log's.
pub(super) fn header(block: &[u8]) -> Option<(Kind, u32)> {
    fn raw(input: &[u8]) -> IResult<&[u8], (u32, u32)> {
        (be_u32, be_u32).parse(input)
    }
    let (_, (kind, sequence)) = raw(block.strip_prefix(&JOURNAL_MAGIC)?).ok()?;
    let kind = match kind {
        1 => Kind::Descriptor,
        2 => Kind::Commit,
        5 => Kind::Revocation,
        _ => return None,
    };
    Some((kind, sequence))
}

struct RawSuperblock {
    kind: u32,
    block_size: u32,
    blocks: u32,
    first: u32,
    sequence: u32,
    start: u32,
    compatible: u32,
    incompatible: u32,
    checksum_kind: u8,
    fast_commit_blocks: u32,
    checksum: u32,
}

fn superblock(input: &[u8]) -> IResult<&[u8], RawSuperblock> {
    let (rest, (_magic, kind, _sequence)) = (be_u32, be_u32, be_u32).parse(input)?;
    let (rest, (block_size, blocks, first)) = (be_u32, be_u32, be_u32).parse(rest)?;
    let (rest, (sequence, start, _errno)) = (be_u32, be_u32, be_u32).parse(rest)?;
    let (rest, (compatible, incompatible, _read_only)) = (be_u32, be_u32, be_u32).parse(rest)?;
    let (rest, (_uuid, _users_and_limits, checksum_kind)) = (take(16usize), take(16usize), be_u8).parse(rest)?;
    let (rest, (_padding, fast_commit_blocks, _head_and_padding)) =
        (take(3usize), be_u32, take(164usize)).parse(rest)?;
    let (rest, checksum) = be_u32(rest)?;
    let raw = RawSuperblock {
        kind,
        block_size,
        blocks,
        first,
        sequence,
        start,
        compatible,
        incompatible,
        checksum_kind,
        fast_commit_blocks,
        checksum,
    };
    Ok((rest, raw))
}

/// How the journal proves its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksums {
    None,
    /// A CRC-32 of a transaction's descriptors and data, in its commit.
    V1,
    /// A CRC-32C of every block, of data 16 bits of it.
    V2,
    /// The same, of data all of it.
    V3,
}

/// A checked superblock: the log lies inside the journal.
#[derive(Debug)]
pub(super) struct JournalSuperblock {
    /// All blocks of the journal.
    pub blocks: u32,
    /// First block of the log, and the one after its last.
    pub first: u32,
    pub end: u32,
    /// Where the oldest transaction begins, and which it is; `None` if there is nothing to replay.
    pub start: Option<u32>,
    pub sequence: u32,
    pub checksums: Checksums,
    pub checksum_seed: u32,
    pub bits_64: bool,
    /// First block of the fast commits.
    pub fast_commits: Option<u32>,
}

/// Checks the journal's superblock; the journal's file has `file_blocks` blocks.
pub(super) fn read(block: &Bytes, file_blocks: u64) -> Result<JournalSuperblock, GuestError> {
    let corrupt = |field, expected: String, found: String| GuestError::Corrupt { field, at: block.at, expected, found };
    // A block has at least 1024 bytes.
    let bytes = &block[..SUPERBLOCK_BYTES];
    let (_, raw) = superblock(bytes).expect("1024 bytes are enough");
    if !bytes.starts_with(&JOURNAL_MAGIC) || !matches!(raw.kind, 3 | 4) {
        let expected = "magic 0xc03b3998 and kind 3 or 4".to_owned();
        return Err(corrupt("superblock of the journal", expected, format!("{:02x?}", &bytes[..8])));
    }
    // The first version had no features.
    let (compatible, incompatible) = if raw.kind == 3 { (0, 0) } else { (raw.compatible, raw.incompatible) };
    let unknown = incompatible & !incompatible::ALL;
    if unknown != 0 {
        return Err(GuestError::Unsupported { feature: format!("the journal's feature {unknown:#x}") });
    }
    let checksums = match incompatible & (incompatible::CSUM_V2 | incompatible::CSUM_V3) {
        0 if compatible & compatible::CHECKSUM != 0 => Checksums::V1,
        0 => Checksums::None,
        incompatible::CSUM_V2 => Checksums::V2,
        _ => Checksums::V3,
    };
    if matches!(checksums, Checksums::V2 | Checksums::V3) {
        const CRC32C: u8 = 4;
        if raw.checksum_kind != CRC32C {
            return Err(corrupt("kind of the journal's checksums", "4".to_owned(), raw.checksum_kind.to_string()));
        }
        let sum = crc32c_without(u32::MAX, bytes, SUPERBLOCK_CHECKSUM_AT);
        if sum != raw.checksum {
            let (expected, found) = (format!("{sum:#010x}"), format!("{:#010x}", raw.checksum));
            return Err(corrupt("checksum of the journal's superblock", expected, found));
        }
    }
    if usize::try_from(raw.block_size) != Ok(block.len()) {
        return Err(corrupt("block size of the journal", block.len().to_string(), raw.block_size.to_string()));
    }
    let blocks_max = file_blocks.min(BLOCKS_MAX.into());
    if raw.blocks < 2 || u64::from(raw.blocks) > blocks_max {
        return Err(corrupt("blocks of the journal", format!("2 to {blocks_max}"), raw.blocks.to_string()));
    }
    let mut end = raw.blocks;
    let mut fast_commits = None;
    if incompatible & incompatible::FAST_COMMIT != 0 {
        let count = if raw.fast_commit_blocks == 0 { FAST_COMMIT_BLOCKS } else { raw.fast_commit_blocks };
        if let Some(left) = raw.blocks.checked_sub(count).filter(|left| *left >= LOG_BLOCKS_MIN) {
            end = left;
        }
        fast_commits = Some(end + 1).filter(|first| *first < raw.blocks);
    }
    if raw.first == 0 || raw.first >= end {
        return Err(corrupt("first block of the journal's log", format!("1 to {}", end - 1), raw.first.to_string()));
    }
    if raw.start != 0 && !(raw.first..end).contains(&raw.start) {
        let expected = format!("{} to {}, or 0", raw.first, end - 1);
        return Err(corrupt("start of the journal's log", expected, raw.start.to_string()));
    }
    Ok(JournalSuperblock {
        blocks: raw.blocks,
        first: raw.first,
        end,
        start: (raw.start != 0).then_some(raw.start),
        sequence: raw.sequence,
        checksums,
        checksum_seed: crc32c(u32::MAX, &bytes[48..64]),
        bits_64: incompatible & incompatible::BITS_64 != 0,
        fast_commits,
    })
}

/// A CRC-32C over bytes of which four, the checksum's own, count as zero.
fn crc32c_without(seed: u32, bytes: &[u8], at: usize) -> u32 {
    crc32c(crc32c(crc32c(seed, &bytes[..at]), &[0; 4]), &bytes[at + 4..])
}

/// A descriptor's entry: a block that follows it in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Where it belongs.
    pub block: u64,
    pub escaped: bool,
    /// Of the block as it lies in the log; 16 or 32 bits.
    pub checksum: u32,
}

impl JournalSuperblock {
    /// The block after `block` in the log.
    pub fn after(&self, block: u32) -> u32 {
        if block + 1 >= self.end { self.first } else { block + 1 }
    }

    fn has_tails(&self) -> bool {
        matches!(self.checksums, Checksums::V2 | Checksums::V3)
    }

    /// Whether a descriptor or revocation block is what was written.
    pub fn proves_tail(&self, block: &[u8]) -> bool {
        let at = block.len() - TAIL_BYTES;
        !self.has_tails() || self.proves(block, at)
    }

    /// Whether a commit block is what was written; `sum` is the first version's, of its transaction.
    pub fn proves_commit(&self, block: &[u8], sum: u32) -> bool {
        match self.checksums {
            Checksums::None => true,
            Checksums::V1 => {
                const CRC32: [u8; 2] = [1, 4];
                let kind = &block[HEADER_BYTES..HEADER_BYTES + 2];
                let stored = &block[COMMIT_CHECKSUM_AT..COMMIT_CHECKSUM_AT + 4];
                kind == CRC32 && stored == sum.to_be_bytes() || kind == [0, 0] && stored == [0; 4]
            }
            Checksums::V2 | Checksums::V3 => self.proves(block, COMMIT_CHECKSUM_AT),
        }
    }

    fn proves(&self, block: &[u8], at: usize) -> bool {
        block[at..at + 4] == crc32c_without(self.checksum_seed, block, at).to_be_bytes()
    }

    /// Whether a block of data is what was written.
    pub fn proves_data(&self, tag: Tag, sequence: u32, block: &[u8]) -> bool {
        let sum = || crc32c(crc32c(self.checksum_seed, &sequence.to_be_bytes()), block);
        match self.checksums {
            Checksums::None | Checksums::V1 => true,
            Checksums::V2 => sum() & 0xffff == tag.checksum,
            Checksums::V3 => sum() == tag.checksum,
        }
    }

    /// A descriptor's tags.
    pub fn tags(&self, block: &[u8]) -> Vec<Tag> {
        const SAME_UUID: u32 = 2;
        const LAST: u32 = 8;
        let end = block.len() - if self.has_tails() { TAIL_BYTES } else { 0 };
        let mut rest = &block[HEADER_BYTES..end];
        let mut tags = Vec::new();
        while let Ok((behind, (tag, flags))) = self.tag(rest) {
            tags.push(tag);
            let uuid_bytes = if flags & SAME_UUID == 0 { 16 } else { 0 };
            let Some(behind) = behind.get(uuid_bytes..).filter(|_| flags & LAST == 0) else { break };
            rest = behind;
        }
        tags
    }

    fn tag<'b>(&self, input: &'b [u8]) -> IResult<&'b [u8], (Tag, u32)> {
        const ESCAPED: u32 = 1;
        let (rest, low) = be_u32(input)?;
        let (rest, flags, high, checksum) = if self.checksums == Checksums::V3 {
            let (rest, (flags, high, checksum)) = (be_u32, be_u32, be_u32).parse(rest)?;
            (rest, flags, high, checksum)
        } else {
            let (rest, (checksum, flags)) = (be_u16, be_u16).parse(rest)?;
            let (rest, high) = if self.bits_64 { be_u32(rest)? } else { (rest, 0) };
            // Version 2 meant to add a checksum to the tag, and added two bytes that nobody uses.
            let (rest, _) = take(if self.checksums == Checksums::V2 { 2usize } else { 0 })(rest)?;
            (rest, flags.into(), high, checksum.into())
        };
        let high = if self.bits_64 { high } else { 0 };
        let block = u64::from(high) << 32 | u64::from(low);
        Ok((rest, (Tag { block, escaped: flags & ESCAPED != 0, checksum }, flags)))
    }

    /// The blocks that a revocation names; what earlier transactions and its own say of them is void.
    pub fn revoked(&self, block: &[u8]) -> Vec<u64> {
        fn used(input: &[u8]) -> IResult<&[u8], u32> {
            be_u32(input)
        }
        fn record(input: &[u8], wide: bool) -> IResult<&[u8], u64> {
            if wide { be_u64(input) } else { be_u32.map(u64::from).parse(input) }
        }
        let end = block.len() - if self.has_tails() { TAIL_BYTES } else { 0 };
        let Ok((_, used)) = used(&block[HEADER_BYTES..]) else { return Vec::new() };
        let end = usize::try_from(used).map_or(end, |used| used.min(end));
        let mut rest = block.get(HEADER_BYTES + 4..end).unwrap_or_default();
        let mut revoked = Vec::new();
        while let Ok((behind, number)) = record(rest, self.bits_64) {
            revoked.push(number);
            rest = behind;
        }
        revoked
    }
}

/// Whether a block begins fast commits that follow the transaction before `sequence`: a head with its number.
pub(super) fn begins_fast_commits(block: &[u8], sequence: u32) -> bool {
    // Tag 9 and a length of 8, then features and the sequence; little-endian, for the filesystem writes it.
    block.starts_with(&[9, 0, 8, 0]) && block.get(8..12) == Some(&sequence.to_le_bytes()[..])
}
