//! The code: recovery shards from data shards, and data shards back from whatever is left of both.
//!
//! A systematic Reed–Solomon code over GF(2^16), as Leopard-RS has it in the "high rate" form (docs/FORMAT.md, "The
//! code", has it as one formula). It is linear and works on each 64 bytes of all shards by themselves, so the data comes
//! `width` shards at a time and is forgotten, and the way back goes in thin slices: memory is that of the recovery shards
//! on the way in, of one slice on the way back, however long the pack.

use reed_solomon_simd::engine::{DefaultEngine, Engine, ShardsRefMut, utils};
use reed_solomon_simd::rate::{HighRateDecoder, RateDecoder};

use super::record::Shape;

/// Shards are made of so many bytes that the code works on together.
pub(super) const WORDS_BYTES: usize = 64;
/// Working space of a decoder.
const DECODER_BYTES: usize = 16 << 20;

/// Recovery shards being made. Data shards come in groups of `width`, in order.
pub(super) struct Recovery {
    engine: DefaultEngine,
    width: usize,
    shard_bytes: usize,
    /// Data shards before the next group.
    taken: usize,
    sums: Vec<u8>,
}

impl Recovery {
    /// Begins. `width` is a power of two; `shard_bytes` is a multiple of 64.
    pub(super) fn new(width: usize, shard_bytes: usize) -> Recovery {
        Recovery { engine: DefaultEngine::new(), width, shard_bytes, taken: 0, sums: vec![0; width * shard_bytes] }
    }

    /// Takes the next group: `width` shards, the last group's filled up with zeros. The shards are used as working space.
    pub(super) fn add(&mut self, group: &mut [u8]) {
        let shards = group.as_chunks_mut::<WORDS_BYTES>().0;
        let mut view = ShardsRefMut::new(self.width, self.shard_bytes / WORDS_BYTES, shards);
        self.engine.ifft(&mut view, 0, self.width, self.width, self.taken + self.width);
        utils::xor(self.sums.as_chunks_mut::<WORDS_BYTES>().0, group.as_chunks::<WORDS_BYTES>().0);
        self.taken += self.width;
    }

    /// The first `count` recovery shards, one behind the other.
    pub(super) fn finish(mut self, count: usize) -> Vec<u8> {
        let shards = self.sums.as_chunks_mut::<WORDS_BYTES>().0;
        let mut view = ShardsRefMut::new(self.width, self.shard_bytes / WORDS_BYTES, shards);
        self.engine.fft(&mut view, 0, self.width, count, 0);
        self.sums.truncate(count * self.shard_bytes);
        self.sums
    }
}

/// Makes the data shards `lost` of `data` anew from the others and from recovery shards (number, bytes), of which there
/// must be at least as many as are lost.
pub(super) fn restore(shape: &Shape, data: &mut [u8], lost: &[usize], recovery: &[(usize, &[u8])]) {
    assert!(lost.len() <= recovery.len(), "the caller counts");
    let shard_bytes = shape.shard_bytes;
    let space = (shape.width + shape.data).next_power_of_two();
    let slice_max = (DECODER_BYTES / space / WORDS_BYTES).max(1) * WORDS_BYTES;
    let slice = slice_max.min(shard_bytes);
    let mut is_lost = vec![false; shape.data];
    lost.iter().for_each(|number| is_lost[*number] = true);
    let supported = "a valid shape's counts are what the code supports";
    let mut decoder =
        HighRateDecoder::new(shape.data, shape.width, slice, DefaultEngine::new(), None).expect(supported);
    for at in (0..shard_bytes).step_by(slice) {
        let len = slice.min(shard_bytes - at);
        decoder.reset(shape.data, shape.width, len).expect(supported);
        for number in (0..shape.data).filter(|number| !is_lost[*number]) {
            let from = number * shard_bytes + at;
            decoder.add_original_shard(number, &data[from..from + len]).expect("each shard comes once");
        }
        for (number, bytes) in &recovery[..lost.len()] {
            decoder.add_recovery_shard(*number, &bytes[at..at + len]).expect("each shard comes once");
        }
        let restored = decoder.decode().expect("as many shards are there as there is data");
        for (number, bytes) in restored.restored_original_iter() {
            let from = number * shard_bytes + at;
            data[from..from + len].copy_from_slice(bytes);
        }
    }
}
