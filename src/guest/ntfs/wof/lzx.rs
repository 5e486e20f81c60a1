//! LZX as it is in WIM files and behind WOF: chunks of 32 KiB that know nothing of each other, each in blocks with codes of
//! their own, and with the targets of x86 calls made absolute.
//!
//! Block: 3 bits its type | 1 bit: it becomes 32 KiB, else 16 bits how much | the lengths of its codes, as differences to
//! those of the block before. A symbol of the main code is a byte, or a repetition: three bits of length, and the slot of its
//! distance. Three slots stand for the latest distances.
//!
//! Source: \[MS-PATCH\] (LZX DELTA) for the blocks; what WIM does otherwise was tried on files that wimlib made.

use super::huffman::{Bits, Code, repeat};

/// What one chunk becomes at most.
pub(super) const CHUNK_BYTES: usize = 32 << 10;

/// Kinds of blocks.
mod block {
    pub const VERBATIM: usize = 1;
    pub const ALIGNED: usize = 2;
    pub const UNCOMPRESSED: usize = 3;
}

/// Distances of a window of 32 KiB.
const SLOTS: usize = 30;
const MAIN_SYMBOLS: usize = 256 + 8 * SLOTS;
const LENGTH_SYMBOLS: usize = 249;
const ALIGNED_SYMBOLS: usize = 8;
const LENGTHS_SYMBOLS: usize = 20;
/// A length that does not fit three bits goes on with a symbol of the length code.
const LENGTH_GOES_ON: usize = 7;
const LENGTH_MIN: usize = 2;

/// Fills `out`, of at most 32 KiB.
///
/// # Errors
/// What is wrong with `stored`.
pub(super) fn unpack(stored: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
    let mut bits = Bits::new(stored);
    let mut main_lengths = [0; MAIN_SYMBOLS];
    let mut length_lengths = [0; LENGTH_SYMBOLS];
    let mut recent = [1; 3];
    let mut done = 0;
    while done < out.len() {
        let kind = bits.take(3);
        let len = if bits.take(1) == 1 { CHUNK_BYTES } else { bits.take(16) };
        let end = done + len;
        if len == 0 || end > out.len() {
            return Err("a block that is empty or becomes too long");
        }
        match kind {
            block::VERBATIM | block::ALIGNED => {
                let aligned = (kind == block::ALIGNED).then(|| aligned_code(&mut bits)).transpose()?;
                let (bytes, repetitions) = main_lengths.split_at_mut(256);
                read_lengths(&mut bits, bytes)?;
                read_lengths(&mut bits, repetitions)?;
                read_lengths(&mut bits, &mut length_lengths)?;
                let codes = Codes { main: Code::new(&main_lengths)?, length: Code::new(&length_lengths)?, aligned };
                done = codes.unpack(&mut bits, &mut recent, &mut out[..end], done)?;
            }
            block::UNCOMPRESSED => {
                bits.align();
                for distance in &mut recent {
                    let stored = bits.bytes(4).ok_or("a chunk that ends too early")?;
                    let stored = u32::from_le_bytes(stored.try_into().expect("four bytes"));
                    *distance = usize::try_from(stored).map_err(|_| "a distance that is too long")?;
                }
                out[done..end].copy_from_slice(bits.bytes(len).ok_or("a chunk that ends too early")?);
                if len % 2 == 1 {
                    let _padding = bits.bytes(1);
                }
                done = end;
            }
            _ => return Err("a block of an unknown kind"),
        }
        if bits.is_exhausted() {
            return Err("a chunk that ends too early");
        }
    }
    restore_calls(out);
    Ok(())
}

/// The codes of a block.
struct Codes {
    main: Code,
    length: Code,
    /// For the lowest three bits of distances.
    aligned: Option<Code>,
}

fn aligned_code(bits: &mut Bits<'_>) -> Result<Code, &'static str> {
    let mut lengths = [0; ALIGNED_SYMBOLS];
    for length in &mut lengths {
        *length = u8::try_from(bits.take(3)).expect("three bits");
    }
    Code::new(&lengths)
}

/// Reads the lengths of codes over those of the block before.
fn read_lengths(bits: &mut Bits<'_>, lengths: &mut [u8]) -> Result<(), &'static str> {
    let mut own = [0; LENGTHS_SYMBOLS];
    for length in &mut own {
        *length = u8::try_from(bits.take(4)).expect("four bits");
    }
    let code = Code::new(&own)?;
    let changed = |old: u8, symbol: usize| u8::try_from((usize::from(old) + 17 - symbol) % 17).expect("below 17");
    let mut at = 0;
    while at < lengths.len() {
        let old = lengths[at];
        let (count, length) = match code.next(bits)? {
            17 => (4 + bits.take(4), 0),
            18 => (20 + bits.take(5), 0),
            19 => {
                let count = 4 + bits.take(1);
                match code.next(bits)? {
                    symbol @ 0..17 => (count, changed(old, symbol)),
                    _ => return Err("a length that is repeated twice"),
                }
            }
            symbol => (1, changed(old, symbol)),
        };
        let end = (at + count).min(lengths.len());
        lengths[at..end].fill(length);
        at = end;
    }
    Ok(())
}

impl Codes {
    /// Fills `out` from `done` on; returns its length.
    fn unpack(
        &self,
        bits: &mut Bits<'_>,
        recent: &mut [usize; 3],
        out: &mut [u8],
        mut done: usize,
    ) -> Result<usize, &'static str> {
        while done < out.len() {
            let symbol = self.main.next(bits)?;
            if let Ok(byte) = u8::try_from(symbol) {
                out[done] = byte;
                done += 1;
                continue;
            }
            let (slot, mut len) = ((symbol - 256) / 8, (symbol - 256) % 8);
            if len == LENGTH_GOES_ON {
                len += self.length.next(bits)?;
            }
            let distance = match slot {
                0..3 => {
                    recent.swap(0, slot);
                    recent[0]
                }
                slot => {
                    let distance = self.distance(bits, slot)?;
                    *recent = [distance, recent[0], recent[1]];
                    distance
                }
            };
            done = repeat(out, done, distance, len + LENGTH_MIN)?;
            if bits.is_exhausted() {
                return Err("a chunk that ends too early");
            }
        }
        Ok(done)
    }

    /// A distance by its slot: 3 is 1, 4 and 5 have one more bit, 6 and 7 two, and so on.
    fn distance(&self, bits: &mut Bits<'_>, slot: usize) -> Result<usize, &'static str> {
        let more = u32::try_from(slot / 2 - 1).expect("below 15");
        let base = (2 + slot % 2) << more;
        let low = match &self.aligned {
            Some(aligned) if more >= 3 => bits.take(more - 3) << 3 | aligned.next(bits)?,
            _ => bits.take(more),
        };
        Ok(base + low - 2)
    }
}

/// Makes the targets of calls relative again, which were made absolute to be more alike: as if the file had 12 000 000 bytes.
fn restore_calls(out: &mut [u8]) {
    const FILE_BYTES: i32 = 12_000_000;
    const CALL: u8 = 0xe8;
    /// No call is looked for in the last bytes.
    const TAIL_BYTES: usize = 10;
    let mut at = 0;
    while at + TAIL_BYTES < out.len() {
        if out[at] != CALL {
            at += 1;
            continue;
        }
        let here = i32::try_from(at).expect("below 32 KiB");
        let target = &mut out[at + 1..at + 5];
        let absolute = i32::from_le_bytes([target[0], target[1], target[2], target[3]]);
        let relative = match absolute {
            0..FILE_BYTES => absolute - here,
            _ if absolute < 0 && absolute >= -here => absolute + FILE_BYTES,
            _ => absolute,
        };
        target.copy_from_slice(&relative.to_le_bytes());
        at += 5;
    }
}
