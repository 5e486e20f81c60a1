//! LZNT1, which NTFS compresses files with.
//!
//! Chunks of up to 4096 bytes, each behind a word: bits 0 to 11 its length on the volume less 1, bit 15 set if it is
//! compressed; a zero word ends them. In a compressed chunk a byte of flags stands before each eight items: a byte as it is,
//! or a word that repeats what came before. How many of its upper bits are the distance depends on how far the chunk has
//! come; the rest is the length less 3.
//!
//! Source: \[MS-XCA\] section 2.5.

/// What one chunk becomes.
const CHUNK_BYTES: usize = 4096;
const LENGTH_MASK: u16 = 0xfff;
const COMPRESSED: u16 = 0x8000;

/// Fills `unit` from `stored`; what the chunks do not say is zero.
///
/// # Errors
/// What is wrong with them.
pub(super) fn unpack(stored: &[u8], unit: &mut [u8]) -> Result<(), &'static str> {
    let mut rest = stored;
    for out in unit.chunks_mut(CHUNK_BYTES) {
        let Some((header, behind)) = rest.split_first_chunk::<2>() else {
            out.fill(0);
            rest = &[];
            continue;
        };
        let header = u16::from_le_bytes(*header);
        if header == 0 {
            out.fill(0);
            rest = &[];
            continue;
        }
        let len = usize::from(header & LENGTH_MASK) + 1;
        let (chunk, behind) = behind.split_at_checked(len).ok_or("a chunk that ends behind its unit")?;
        rest = behind;
        let done = if header & COMPRESSED == 0 {
            let part = out.get_mut(..len).ok_or("a chunk that is too long")?;
            part.copy_from_slice(chunk);
            len
        } else {
            unpack_chunk(chunk, out)?
        };
        out[done..].fill(0);
    }
    Ok(())
}

/// Returns how much the chunk became.
fn unpack_chunk(chunk: &[u8], out: &mut [u8]) -> Result<usize, &'static str> {
    let mut items = chunk.iter().copied();
    let mut done = 0;
    while let Some(flags) = items.next() {
        for bit in 0..8 {
            let Some(first) = items.next() else { return Ok(done) };
            if flags & 1 << bit == 0 {
                *out.get_mut(done).ok_or("a chunk that becomes too long")? = first;
                done += 1;
                continue;
            }
            let second = items.next().ok_or("a chunk that ends within a repetition")?;
            let word = usize::from(u16::from_le_bytes([first, second]));
            let length_bits = length_bits(done);
            let distance = (word >> length_bits) + 1;
            let len = (word & ((1 << length_bits) - 1)) + 3;
            if distance > done {
                return Err("a repetition of what was before its chunk");
            }
            if done + len > out.len() {
                return Err("a chunk that becomes too long");
            }
            // The two may overlap: then what was just written is repeated.
            for at in done..done + len {
                out[at] = out[at - distance];
            }
            done += len;
        }
    }
    Ok(done)
}

/// Bits of a repetition's length where so many bytes came before: the distance takes at least 4, and as many as it needs.
fn length_bits(done: usize) -> u32 {
    let distance_bits = done.saturating_sub(1).checked_ilog2().map_or(0, |bits| bits + 1);
    16 - distance_bits.clamp(4, 12)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(stored: &[u8], expected: Result<&[u8], &str>) {
        let mut unit = vec![0xa5; 5000];
        let said = unpack(stored, &mut unit).map(|()| {
            let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            &unit[..end]
        });
        assert_eq!(said, expected);
    }

    #[test]
    fn chunks_are_unpacked() {
        check(&[], Ok(b""));
        check(&[0, 0, 9, 9], Ok(b""));
        check(&[2, 0x30, b'a', b'b', b'c'], Ok(b"abc"));
        // The example of the specification: a sentence with repetitions.
        let example = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0, 0x45,
            0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4,
            0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00,
            0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        check(
            &example,
            Ok(b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# \
                 E D E A F# F# G A A G F# E D D E F# E D D\0"
                .strip_suffix(b"\0")
                .unwrap()),
        );
        check(&[3, 0x80, 0b10, b'x', 0xfc, 0x0f], Ok(&[b'x'; 4096]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(stored in proptest::collection::vec(any::<u8>(), 0..300), compressed: bool) {
            let header = if compressed { 0xb0 } else { 0x30 };
            let _ = unpack(&[&[u8::try_from(stored.len() & 0xff).unwrap(), header][..], &stored].concat(), &mut [0; 9000]);
            let _ = unpack(&stored, &mut [0; 4096]);
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        check(&[5, 0xb0, 0, b'a'], Err("a chunk that ends behind its unit"));
        check(&[1, 0xb0, 1, 7], Err("a chunk that ends within a repetition"));
        check(&[2, 0xb0, 1, 7, 0], Err("a repetition of what was before its chunk"));
        check(&[3, 0xb0, 2, b'x', 0xfe, 0x0f], Err("a chunk that becomes too long"));
    }
}
