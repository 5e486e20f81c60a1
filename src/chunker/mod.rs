//! Cutting a segment into pieces: runs of zeros, and chunks whose ends are chosen by their content (FastCDC), or where a
//! file of the guest seems to end.
//!
//! Pure: bytes in, pieces out. Knows no disk, no repository, no id. The gear table is the caller's secret, so that an
//! observer of chunk sizes cannot compare them with those of known files.
//!
//! The pieces of a segment depend on its bytes alone, never on how the source stored them, nor in which portions they
//! came: a hole, explicit zeros and zero bytes give the same pieces, hence the same map.
//!
//! Guests fill the last block of a file with zeros, its slack. A chunk that ends there and a next one that begins with the
//! next file are found again on every other guest that has one of the two files, whatever its neighbours: of four guests
//! with common packages a twelfth less is stored (docs/BENCHMARKS.md).
//!
//! Source: Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems"
//! (TPDS 2020), as the crate `fastcdc` (`v2020`) implements it.

use std::ops::Range;

use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use serde::{Deserialize, Serialize};

/// Bytes of a segment: the unit of parallel work and of reuse between backups. Chunks never cross its border.
pub const SEGMENT_BYTES: usize = 4 << 20;

/// Zero runs begin and end, and files are taken to end, at multiples of this many bytes: the page, and the block of most
/// guest filesystems.
const BLOCK: usize = 4096;

/// What a caller who reads a segment in portions should have in hand, in bytes, if the lengths allow it: little enough to
/// stay in a core's cache from the first look at it to the last hash.
const WINDOW_BYTES: usize = 512 << 10;

/// How a repository's segments are cut; fixed when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkSizes {
    /// No chunk but the last before a border is shorter, in bytes; even.
    pub min: u32,
    /// Average length aimed at, in bytes; even.
    pub avg: u32,
    /// No chunk is longer, in bytes; even.
    pub max: u32,
    /// Runs of zeros of at least this many bytes become a zero run, shorter ones stay in their chunk.
    pub zero_run_min: u32,
    /// A block that ends in at least so many zero bytes ends its chunk if the next block is not all zeros; 0 for never.
    #[serde(default, skip_serializing_if = "is_never")]
    pub slack_min: u32,
}

/// A configuration without the field has always meant this, and keeps its bytes.
fn is_never(slack_min: &u32) -> bool {
    *slack_min == 0
}

impl Default for ChunkSizes {
    /// 16 KiB on average: the measured optimum of stored size against the number of chunks (docs/BENCHMARKS.md).
    fn default() -> ChunkSizes {
        ChunkSizes { min: 8 << 10, avg: 16 << 10, max: 64 << 10, zero_run_min: 16 << 10, slack_min: 8 }
    }
}

impl ChunkSizes {
    /// Refuses sizes that the chunker cannot work with; says what is wrong.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn validate(self) -> Result<ChunkSizes, &'static str> {
        let ChunkSizes { min, avg, max, zero_run_min, slack_min } = self;
        if [min, avg, max].iter().any(|size| size % 2 != 0) {
            return Err("chunk sizes must be even");
        }
        // The list of a segment (24 bytes a chunk, and twice the chunks where parts were cut anew) must fit into 1 MiB.
        if min < 512 || !(min < avg && avg < max) {
            return Err("chunk sizes must satisfy 512 ≤ min < avg < max");
        }
        if max as usize > 1 << 20 {
            return Err("chunks must not be longer than 1 MiB");
        }
        if zero_run_min < BLOCK as u32 || zero_run_min as usize > SEGMENT_BYTES {
            return Err("zero runs must be between 4 KiB and 4 MiB");
        }
        if slack_min as usize >= BLOCK {
            return Err("the slack that ends a chunk must be shorter than 4 KiB");
        }
        Ok(self)
    }
}

/// A piece of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This range is all zeros.
    Zero(Range<usize>),
    /// This range is one chunk.
    Chunk(Range<usize>),
}

/// Cuts segments for one repository.
pub struct Chunker {
    sizes: ChunkSizes,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// A chunker for these (validated) sizes and this secret gear table.
    pub fn new(sizes: ChunkSizes, gear: Box<[u64; 256]>) -> Chunker {
        let mut gear_shifted = gear.clone();
        gear_shifted.iter_mut().for_each(|word| *word <<= 1);
        let (mask_small, mask_large) = select_masks(sizes.avg as usize, Normalization::Level1);
        Chunker { sizes, gear, gear_shifted, mask_small, mask_large }
    }

    /// How many bytes [`Chunker::cut_portion`] should be given at once, if there are so many.
    pub fn window_bytes(&self) -> usize {
        WINDOW_BYTES.max((2 * self.lookahead()).next_multiple_of(BLOCK)).min(SEGMENT_BYTES)
    }

    /// Calls `each` with the pieces of `segment`, in order; together they cover it exactly. `each` is given positions in
    /// `segment`.
    ///
    /// # Errors
    /// Stops at, and returns, the first error of `each`.
    pub fn cut<E>(&self, segment: &[u8], each: impl FnMut(Piece) -> Result<(), E>) -> Result<(), E> {
        self.cut_portion(0, segment, false, each).map(drop)
    }

    /// Calls `each` with the pieces that begin `bytes`, which lie `at` bytes into their segment, in order; gives the
    /// length of those pieces together. If `more` bytes are to come, what is left over must come again before them, as its
    /// pieces are not decided yet. A long zero run may come in several pieces. `each` is given positions in `bytes`.
    ///
    /// # Errors
    /// Stops at, and returns, the first error of `each`.
    pub fn cut_portion<E>(
        &self,
        at: usize,
        bytes: &[u8],
        more: bool,
        mut each: impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<usize, E> {
        let portion = Portion { at, bytes, sizes: &self.sizes };
        let mut here = 0;
        while here < bytes.len() && !(more && bytes.len() - here < self.lookahead()) {
            let mut zeros = portion.zero_run_at(here);
            if zeros > 0 {
                if more && here + zeros + BLOCK > bytes.len() {
                    // Its end is not in sight: enough whole blocks of it come again for it to be known for what it is.
                    zeros -= zeros % BLOCK + self.zero_run_blocks();
                }
                each(Piece::Zero(here..here + zeros))?;
                here += zeros;
                continue;
            }
            let end = portion.end_of_data(here);
            let (_, len) = cut_gear(
                &bytes[here..end],
                self.sizes.min as usize,
                self.sizes.avg as usize,
                self.sizes.max as usize,
                self.mask_small,
                self.mask_large,
                self.mask_small << 1,
                self.mask_large << 1,
                self.gear.as_slice(),
                self.gear_shifted.as_slice(),
            );
            each(Piece::Chunk(here..here + len))?;
            here += len;
        }
        Ok(here)
    }

    /// So many bytes behind a piece's last one help to decide that it ends there: whether a file, or a zero run, begins.
    pub fn decided_by(&self) -> usize {
        self.zero_run_blocks() + BLOCK
    }

    /// Bytes of the shortest zero run, in whole blocks.
    fn zero_run_blocks(&self) -> usize {
        (self.sizes.zero_run_min as usize).next_multiple_of(BLOCK)
    }

    /// So many bytes from a piece's first one on decide what the piece is; a zero run needs more to be cut at its end.
    fn lookahead(&self) -> usize {
        self.sizes.max as usize + self.zero_run_blocks() + 2 * BLOCK
    }
}

/// Bytes of a segment that are being cut.
struct Portion<'a> {
    /// Where they begin in the segment.
    at: usize,
    bytes: &'a [u8],
    sizes: &'a ChunkSizes,
}

impl Portion<'_> {
    /// The block from `from` on, which is shorter at the end.
    fn block(&self, from: usize) -> &[u8] {
        &self.bytes[from..self.bytes.len().min(from + BLOCK)]
    }

    /// Length of the zero run that begins at `from`, if a block begins there and it is long enough to be one; else 0.
    fn zero_run_at(&self, from: usize) -> usize {
        if !(self.at + from).is_multiple_of(BLOCK) {
            return 0;
        }
        let mut end = from;
        while end < self.bytes.len() && is_zero(self.block(end)) {
            end = self.bytes.len().min(end + BLOCK);
        }
        let is_long_enough = end - from >= self.sizes.zero_run_min as usize || end == self.bytes.len();
        if is_long_enough { end - from } else { 0 }
    }

    /// Where data that begins at `from` ends for sure, if within the length of a chunk: before a zero run, after a
    /// file's slack, with the bytes; else the end of that length.
    fn end_of_data(&self, from: usize) -> usize {
        let last = self.bytes.len().min(from + self.sizes.max as usize);
        let slack = self.sizes.slack_min as usize;
        let mut border = from + BLOCK - (self.at + from) % BLOCK;
        while border < last {
            if is_zero(self.block(border)) {
                if self.zero_run_at(border) > 0 {
                    return border;
                }
            } else if slack > 0 && border - from >= slack && is_zero(&self.bytes[border - slack..border]) {
                return border;
            }
            border += BLOCK;
        }
        last
    }
}

/// Whether all bytes are zero. Compared in wide lanes, so that skipping zeros runs at memory speed.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (lanes, rest) = bytes.as_chunks::<64>();
    lanes.iter().all(|lane| lane.iter().fold(0, |sum, byte| sum | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunker() -> Chunker {
        let word = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        Chunker::new(ChunkSizes::default(), Box::new(std::array::from_fn(word)))
    }

    fn pieces(segment: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let outcome: Result<(), ()> = chunker().cut(segment, |piece| {
            pieces.push(piece);
            Ok(())
        });
        outcome.unwrap();
        pieces
    }

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn edges() {
        assert_eq!(pieces(&[]), []);
        assert_eq!(pieces(&[0; 100]), [Piece::Zero(0..100)]);
        assert_eq!(pieces(&[1; 100]), [Piece::Chunk(0..100)]);
        assert_eq!(pieces(&vec![0; SEGMENT_BYTES]), [Piece::Zero(0..SEGMENT_BYTES)]);
        // A short run of zeros stays inside its chunk; one of the minimum length does not.
        let with_zeros = |len: usize| [vec![1; 8192], vec![0; len], vec![1; 4096]].concat();
        assert!(pieces(&with_zeros(8192)).iter().all(|piece| matches!(piece, Piece::Chunk(_))));
        assert!(pieces(&with_zeros(16384)).contains(&Piece::Zero(8192..24576)));
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let before = noise(1 << 20, 1);
        let mut after = before.clone();
        after.splice(500_000..500_000, [1, 2, 3]);
        let contents = |bytes: &[u8]| -> std::collections::HashSet<Vec<u8>> {
            pieces(bytes)
                .into_iter()
                .map(|piece| match piece {
                    Piece::Chunk(range) | Piece::Zero(range) => bytes[range].to_vec(),
                })
                .collect()
        };
        let (before, after) = (contents(&before), contents(&after));
        assert!(before.len() > 30, "{} chunks", before.len());
        assert!(after.difference(&before).count() <= 4);
    }

    #[test]
    fn a_length_that_the_chunker_cannot_work_with_is_refused() {
        let good = ChunkSizes::default();
        assert!(good.validate().is_ok());
        for bad in [
            ChunkSizes { min: 4097, ..good },
            ChunkSizes { min: 510, ..good },
            ChunkSizes { min: 16 << 10, ..good },
            ChunkSizes { max: 2 << 20, ..good },
            ChunkSizes { max: 16 << 10, ..good },
            ChunkSizes { zero_run_min: 0, ..good },
            ChunkSizes { slack_min: 4096, ..good },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    /// As `pieces`, with the segment coming in portions of these lengths at least.
    fn pieces_of_portions(segment: &[u8], portion: usize) -> Vec<Piece> {
        let chunker = chunker();
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut from, mut to) = (0, 0);
        while from < segment.len() {
            to = segment.len().min(to + portion);
            let outcome: Result<usize, ()> =
                chunker.cut_portion(from, &segment[from..to], to < segment.len(), |piece| {
                    match (pieces.last_mut(), piece) {
                        (Some(Piece::Zero(last)), Piece::Zero(range)) => last.end = from + range.end,
                        (_, Piece::Zero(range)) => pieces.push(Piece::Zero(from + range.start..from + range.end)),
                        (_, Piece::Chunk(range)) => pieces.push(Piece::Chunk(from + range.start..from + range.end)),
                    }
                    Ok(())
                });
            from += outcome.unwrap();
        }
        pieces
    }

    #[test]
    fn a_chunk_ends_with_the_slack_of_a_file() {
        let ends = |segment: &[u8]| -> Vec<usize> {
            pieces(segment)
                .into_iter()
                .map(|piece| match piece {
                    Piece::Chunk(range) | Piece::Zero(range) => range.end,
                })
                .collect()
        };
        let file = |len: usize, slack: usize| [vec![1; len - slack], vec![0; slack]].concat();
        assert_eq!(
            ends(&[file(4096, 8), file(4096, 4000), file(8192, 7), file(4096, 0)].concat()),
            [4096, 8192, 20480]
        );
        // Zero blocks after it belong to it, as long as they are no zero run.
        assert_eq!(ends(&[file(12288, 8200), file(4096, 0)].concat()), [12288, 16384]);
        assert_eq!(ends(&[file(4096, 8), vec![0; 4096]].concat()), [4096, 8192]);
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_depend_on_the_portions(
            runs in proptest::collection::vec((0usize..200_000, any::<u8>(), 0u8..3), 0..12),
            portion in 100_000usize..400_000,
        ) {
            let segment: Vec<u8> = runs.into_iter().flat_map(|(len, seed, kind)| match kind {
                0 => vec![0; len],
                1 => noise(len, seed),
                _ => (0..len / 64).flat_map(|i| if i % 50 > 45 { vec![0; 64] } else { noise(64, seed) }).collect(),
            }).collect();
            prop_assert_eq!(pieces_of_portions(&segment, portion), pieces(&segment));
        }

        #[test]
        fn pieces_tile_the_segment_and_obey_the_sizes(
            runs in proptest::collection::vec((0usize..80_000, any::<u8>(), any::<bool>()), 0..12)
        ) {
            let segment: Vec<u8> =
                runs.into_iter().flat_map(|(len, seed, zero)| if zero { vec![0; len] } else { noise(len, seed) }).collect();
            let mut at = 0;
            for piece in pieces(&segment) {
                match piece {
                    Piece::Zero(range) => {
                        prop_assert_eq!(range.start, at);
                        prop_assert!(is_zero(&segment[range.clone()]));
                        at = range.end;
                    }
                    Piece::Chunk(range) => {
                        prop_assert_eq!(range.start, at);
                        prop_assert!(!range.is_empty() && range.len() <= 64 << 10);
                        at = range.end;
                    }
                }
            }
            prop_assert_eq!(at, segment.len());
        }
    }
}
