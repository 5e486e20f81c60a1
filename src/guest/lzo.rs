//! LZO1X streams, unpacked. Who frames them, and how long they become, the filesystems say.
//!
//! Source: the kernel's "LZO stream format as understood by Linux's LZO decompressor".

/// An LZO1X stream that is being read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<usize, &'static str> {
        let (first, rest) = self.0.split_first().ok_or("a stream without an end")?;
        self.0 = rest;
        Ok(usize::from(*first))
    }

    /// Two bytes, little-endian.
    fn pair(&mut self) -> Result<usize, &'static str> {
        Ok(self.byte()? | self.byte()? << 8)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("literals past the stream's end")?;
        self.0 = rest;
        Ok(taken)
    }

    /// A length that did not fit into its instruction, whose largest is `base`: 255 for every zero, then the rest.
    fn long_length(&mut self, base: usize) -> Result<usize, &'static str> {
        // The stream is far shorter than 2^56 bytes, so no sum overflows.
        let mut len = base;
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Ok(len + last),
            }
        }
    }
}

/// What the last instruction copied literally; it changes the meaning of the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// One to three bytes.
    Few,
    /// Four or more.
    Run,
}

/// Unpacks one stream behind what `out` has, until `out` has `limit` bytes or the stream ends.
pub(crate) fn unpack_stream(stream: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), &'static str> {
    let start = out.len();
    let mut input = Input(stream);
    let mut before = Before::Nothing;
    // Only the first instruction may be such a run of literals.
    if let Some(first) = stream.first().filter(|first| **first > 17) {
        let len = usize::from(*first) - 17;
        input.byte()?;
        literals(&mut input, out, len, limit)?;
        before = if len < 4 { Before::Few } else { Before::Run };
    }
    while out.len() < limit {
        let code = input.byte()?;
        // Each match has a distance, a length, and a number of literals that follow it.
        let (distance, len, follow) = match code {
            0..=15 => match before {
                Before::Nothing => {
                    let len = if code == 0 { input.long_length(15)? } else { code } + 3;
                    literals(&mut input, out, len, limit)?;
                    before = Before::Run;
                    continue;
                }
                Before::Few => ((code >> 2) + (input.byte()? << 2) + 1, 2, code & 3),
                Before::Run => ((code >> 2) + (input.byte()? << 2) + 2049, 3, code & 3),
            },
            16..=31 => {
                let len = if code & 7 == 0 { input.long_length(7)? } else { code & 7 } + 2;
                let pair = input.pair()?;
                let distance = ((code & 8) << 11) + (pair >> 2);
                if distance == 0 {
                    return Ok(());
                }
                (distance + 16_384, len, pair & 3)
            }
            32..=63 => {
                let len = if code & 31 == 0 { input.long_length(31)? } else { code & 31 } + 2;
                let pair = input.pair()?;
                ((pair >> 2) + 1, len, pair & 3)
            }
            _ => ((code >> 2 & 7) + (input.byte()? << 3) + 1, (code >> 5) + 1, code & 3),
        };
        copy(out, start, distance, len, limit)?;
        literals(&mut input, out, follow, limit)?;
        before = if follow == 0 { Before::Nothing } else { Before::Few };
    }
    Ok(())
}

fn literals(input: &mut Input<'_>, out: &mut Vec<u8>, len: usize, limit: usize) -> Result<(), &'static str> {
    let bytes = input.take(len)?;
    out.extend_from_slice(&bytes[..len.min(limit - out.len())]);
    Ok(())
}

/// Repeats `len` bytes from `distance` back, which may be bytes that it makes itself.
fn copy(out: &mut Vec<u8>, start: usize, distance: usize, len: usize, limit: usize) -> Result<(), &'static str> {
    let from = out.len().checked_sub(distance).filter(|from| *from >= start).ok_or("a match before the start")?;
    for at in from..from + len.min(limit - out.len()) {
        out.push(out[at]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(stream: &[u8], expected: Result<&[u8], &str>) {
        let mut out = b"before".to_vec();
        let outcome = unpack_stream(stream, &mut out, 6 + 5000).map(|()| &out[6..]);
        assert_eq!(outcome, expected);
    }

    #[test]
    fn every_instruction() {
        let end = [17, 0, 0];
        let with_end = |stream: &[u8]| [stream, &end].concat();
        check(&end, Ok(b""));
        check(&with_end(b"\x15abcd"), Ok(b"abcd"));
        check(&with_end(b"\x01abcd"), Ok(b"abcd"));
        // Three literals, then two bytes from two back and another literal.
        check(&with_end(b"\x14abc\x05\0d"), Ok(b"abcbcd"));
        // A long run, and a match far back that follows it.
        let noise: Vec<u8> = (0..2100u32).map(|at| (at * at / 7) as u8).collect();
        let run = [&[0u8; 9][..], &[(2100 - 18 - 8 * 255) as u8], &noise].concat();
        let expected = [&noise[..], &noise[2100 - 2049..][..3]].concat();
        check(&with_end(&[&run[..], &[0, 0]].concat()), Ok(&expected));
        // Lengths 2 to 8 with short distances, overlapping; lengths from 2 with 14 bits of distance.
        check(&with_end(b"\x12a\xe0\0"), Ok(b"aaaaaaaaa"));
        check(&with_end(b"\x12a\x40\0"), Ok(b"aaaa"));
        check(&with_end(b"\x13ab\x23\x04\0"), Ok(b"abababa"));
        check(&with_end(&[b"\x12a\x20", &[0; 3][..], &[10, 0, 0]].concat()), Ok(&vec![b'a'; 1 + 2 + 31 + 765 + 10]));
        // Behind the limit nothing is made.
        let mut out = Vec::new();
        unpack_stream(&with_end(b"\x12a\xe0\0"), &mut out, 5).expect("sound");
        assert_eq!(out, b"aaaaa");
        check(b"", Err("a stream without an end"));
        check(b"\x12", Err("literals past the stream's end"));
        check(b"\x12a\x23\x04\0", Err("a match before the start"));
        check(&[0; 100], Err("a stream without an end"));
    }

    proptest! {
        #[test]
        fn anything_ends_and_keeps_to_its_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            len in 0usize..9000,
        ) {
            let mut out = Vec::new();
            let _ = unpack_stream(&bytes, &mut out, len);
            prop_assert!(out.len() <= len);
        }
    }
}
