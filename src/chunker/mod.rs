//! Cutting a segment into pieces: runs of zeros, and chunks whose ends are chosen by their content (FastCDC).
//!
//! Pure: bytes in, pieces out. Knows no disk, no repository, no id. The gear table is the caller's secret, so that an
//! observer of chunk sizes cannot compare them with those of known files.
//!
//! The pieces of a segment depend on its bytes alone, never on how the source stored them: a hole, explicit zeros and
//! zero bytes give the same pieces, hence the same map.
//!
//! Source: Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems"
//! (TPDS 2020), as the crate `fastcdc` (`v2020`) implements it.

use std::ops::Range;

use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use serde::{Deserialize, Serialize};

/// Bytes of a segment: the unit of parallel work and of reuse between backups. Chunks never cross its border.
pub const SEGMENT_BYTES: usize = 4 << 20;

/// Zero runs begin and end at multiples of this many bytes: the page, and the block of most guest filesystems.
const ZERO_BLOCK: usize = 4096;

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
}

impl Default for ChunkSizes {
    /// 16 KiB on average: the measured optimum of stored size against the number of chunks (DESIGN, section 5).
    fn default() -> ChunkSizes {
        ChunkSizes { min: 4 << 10, avg: 16 << 10, max: 64 << 10, zero_run_min: 16 << 10 }
    }
}

impl ChunkSizes {
    /// Refuses sizes that the chunker cannot work with; says what is wrong.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn validate(self) -> Result<ChunkSizes, &'static str> {
        let ChunkSizes { min, avg, max, zero_run_min } = self;
        if [min, avg, max].iter().any(|size| size % 2 != 0) {
            return Err("chunk sizes must be even");
        }
        // The list of a segment (36 bytes a chunk, and twice the chunks where parts were cut anew) must fit into 1 MiB.
        if min < 512 || !(min < avg && avg < max) {
            return Err("chunk sizes must satisfy 512 ≤ min < avg < max");
        }
        if max as usize > 1 << 20 {
            return Err("chunks must not be longer than 1 MiB");
        }
        if zero_run_min < ZERO_BLOCK as u32 || zero_run_min as usize > SEGMENT_BYTES {
            return Err("zero runs must be between 4 KiB and 4 MiB");
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

    /// Calls `each` with the pieces of `segment`, in order; together they cover it exactly.
    ///
    /// # Errors
    /// Stops at, and returns, the first error of `each`.
    pub fn cut<E>(&self, segment: &[u8], mut each: impl FnMut(Piece) -> Result<(), E>) -> Result<(), E> {
        let mut data_from = 0;
        let mut at = 0;
        while at < segment.len() {
            let zeros = self.zero_run_at(segment, at);
            if zeros == 0 {
                at += ZERO_BLOCK;
                continue;
            }
            self.cut_data(segment, data_from..at, &mut each)?;
            each(Piece::Zero(at..at + zeros))?;
            at += zeros;
            data_from = at;
        }
        self.cut_data(segment, data_from..segment.len(), &mut each)
    }

    /// Length of the zero run that begins at block border `at`, if it is long enough to be one; else 0.
    fn zero_run_at(&self, segment: &[u8], at: usize) -> usize {
        let mut end = at;
        while end < segment.len() {
            let block = &segment[end..segment.len().min(end + ZERO_BLOCK)];
            if !is_zero(block) {
                break;
            }
            end += block.len();
        }
        let long_enough = end - at >= self.sizes.zero_run_min as usize || end - at == segment.len();
        if long_enough { end - at } else { 0 }
    }

    fn cut_data<E>(
        &self,
        segment: &[u8],
        mut range: Range<usize>,
        each: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        while !range.is_empty() {
            let (_, len) = cut_gear(
                &segment[range.clone()],
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
            each(Piece::Chunk(range.start..range.start + len))?;
            range.start += len;
        }
        Ok(())
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
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    proptest! {
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
