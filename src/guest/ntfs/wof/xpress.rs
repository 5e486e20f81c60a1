//! XPRESS with Huffman codes: the lengths of 512 codes, 4 bits each, then symbols. Below 256 they are bytes; above, the low
//! half is a repetition's length less 3 and the high half how many bits its distance has.
//!
//! Source: \[MS-XCA\] sections 2.1 and 2.2.

use super::huffman::{Bits, Code, repeat};

const SYMBOLS: usize = 512;
/// A length that does not fit goes on in a byte, and that in a word.
const LENGTH_GOES_ON: usize = 0xf;
const BYTE_GOES_ON: u8 = 0xff;

/// Fills `out`.
///
/// # Errors
/// What is wrong with `stored`.
pub(super) fn unpack(stored: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
    let (lengths, stored) = stored.split_at_checked(SYMBOLS / 2).ok_or("a chunk that ends within its codes")?;
    let lengths: Vec<u8> = lengths.iter().flat_map(|pair| [pair & 0xf, pair >> 4]).collect();
    let code = Code::new(&lengths)?;
    let mut bits = Bits::new(stored);
    let mut done = 0;
    while done < out.len() {
        let symbol = code.next(&mut bits)?;
        if let Ok(byte) = u8::try_from(symbol) {
            out[done] = byte;
            done += 1;
            continue;
        }
        let (distance_bits, mut len) = (u32::try_from(symbol >> 4 & 0xf).expect("four bits"), symbol & 0xf);
        bits.ensure(16);
        let distance = 1 << distance_bits | bits.take(distance_bits);
        if len == LENGTH_GOES_ON {
            let more = bits.bytes(1).ok_or("a chunk that ends within a length")?[0];
            len = if more == BYTE_GOES_ON {
                let word = bits.bytes(2).ok_or("a chunk that ends within a length")?;
                usize::from(u16::from_le_bytes([word[0], word[1]]))
            } else {
                len + usize::from(more)
            };
        }
        done = repeat(out, done, distance, len + 3)?;
        if bits.is_exhausted() {
            return Err("a chunk that ends too early");
        }
    }
    if bits.is_exhausted() { Err("a chunk that ends too early") } else { Ok(()) }
}
