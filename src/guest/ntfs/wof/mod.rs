//! Files that Windows keeps compressed behind a reparse point (WOF, "Compact OS"): `$DATA` is one hole, the content lies in
//! chunks in the stream `WofCompressedData`.
//!
//! Reparse data: 0 version u32 (1) | 4 provider u32 (2: the file itself) | 8 version u32 (1) | 12 algorithm u32. Stream: the
//! places of all chunks but the first, u32 each (u64 for files of 4 GiB and more), from the end of this table on; then the
//! chunks. A chunk that is as long as what it becomes is stored as it is.
//!
//! Source: \[MS-FSCC\] sections 2.1.2 and 2.3; the layout is the same as that of resources in WIM files, with which the
//! decoders are tested.

mod huffman;
mod lzx;
mod xpress;

use std::sync::Arc;

use super::Ntfs;
use super::content::Content;
use super::node::Node;
use super::record::kind;
use crate::guest::GuestError;

/// The stream with the chunks: `WofCompressedData`.
pub(super) const STREAM: &str = "WofCompressedData";
/// From this size on, places of chunks are 64 bits.
const LARGE_FILE_BYTES: u64 = 1 << 32;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// XPRESS with Huffman codes, in chunks of so many bytes.
    Xpress(usize),
    /// LZX in chunks of 32 KiB.
    Lzx,
}

impl Packing {
    fn chunk_size(self) -> usize {
        match self {
            Packing::Xpress(size) => size,
            Packing::Lzx => lzx::CHUNK_BYTES,
        }
    }

    fn chunk_bytes(self) -> u64 {
        u64::try_from(self.chunk_size()).expect("at most 32 KiB")
    }

    fn unpack(self, stored: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
        match self {
            Packing::Xpress(_) => xpress::unpack(stored, out),
            Packing::Lzx => lzx::unpack(stored, out),
        }
    }
}

/// Reads the reparse point's data.
///
/// # Errors
/// What is special about a file that is kept in another way.
pub(super) fn packing(data: &[u8]) -> Result<Packing, &'static str> {
    let word =
        |index: usize| data.get(4 * index..4 * index + 4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]));
    match [word(0), word(1), word(2), word(3)] {
        [Some(1), Some(2), Some(1), Some(0)] => Ok(Packing::Xpress(4096)),
        [Some(1), Some(2), Some(1), Some(1)] => Ok(Packing::Lzx),
        [Some(1), Some(2), Some(1), Some(2)] => Ok(Packing::Xpress(8192)),
        [Some(1), Some(2), Some(1), Some(3)] => Ok(Packing::Xpress(16384)),
        [Some(1), Some(1), ..] => Err("in a WIM archive (WOF)"),
        _ => Err("compressed by Windows (WOF)"),
    }
}

impl Ntfs {
    /// The stream with a file's chunks.
    pub(super) fn packed(&self, node: &Node) -> Result<Content, GuestError> {
        let name: Vec<u16> = STREAM.encode_utf16().collect();
        self.content(node, kind::DATA, &name)?.ok_or_else(|| corrupt(node, format!("a stream {STREAM}"), "none"))
    }

    /// Fills `buf` from byte `at` of a file of `len` bytes; returns how much there was.
    pub(super) fn read_packed(
        &self,
        node: &Node,
        packing: Packing,
        len: u64,
        at: u64,
        buf: &mut [u8],
    ) -> Result<usize, GuestError> {
        let left = len.saturating_sub(at);
        let wanted = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..wanted];
        if buf.is_empty() {
            return Ok(0);
        }
        let stream = self.packed(node)?;
        let mut done = 0;
        while done < buf.len() {
            let position = at + done as u64;
            let inside = usize::try_from(position % packing.chunk_bytes()).expect("chunks are small");
            let chunk = self.chunk(node, &stream, packing, len, position / packing.chunk_bytes())?;
            let part = &chunk[inside..];
            let count = part.len().min(buf.len() - done);
            buf[done..done + count].copy_from_slice(&part[..count]);
            done += count;
        }
        Ok(wanted)
    }

    /// A chunk's content.
    fn chunk(
        &self,
        node: &Node,
        stream: &Content,
        packing: Packing,
        len: u64,
        number: u64,
    ) -> Result<Arc<[u8]>, GuestError> {
        let key = (node.reference, number);
        if let Some(chunk) = self.chunks.get(&key) {
            return Ok(chunk);
        }
        let chunks = len.div_ceil(packing.chunk_bytes());
        let place_bytes = if len < LARGE_FILE_BYTES { 4 } else { 8 };
        // Files are shorter than 2^63 bytes, their chunks 4 KiB or more: all of this fits.
        let table_bytes = (chunks - 1) * place_bytes;
        let place = |number: u64| -> Result<u64, GuestError> {
            if number == 0 || number == chunks {
                return Ok(if number == 0 { 0 } else { stream.len.saturating_sub(table_bytes) });
            }
            let mut place = [0; 8];
            let width = usize::try_from(place_bytes).expect("4 or 8");
            let at = (number - 1) * place_bytes;
            if self.read_content(stream, at, &mut place[..width])? < width {
                return Err(corrupt(node, format!("a place for chunk {number}"), "the end of the stream"));
            }
            Ok(u64::from_le_bytes(place))
        };
        let (start, end) = (place(number)?, place(number + 1)?);
        let becomes = usize::try_from((len - number * packing.chunk_bytes()).min(packing.chunk_bytes()));
        let becomes = becomes.expect("chunks are small");
        let stored = end.checked_sub(start).and_then(|stored| usize::try_from(stored).ok());
        let Some(stored) = stored.filter(|stored| (1..=becomes).contains(stored)) else {
            let expected = format!("1 to {becomes} bytes for chunk {number}");
            return Err(corrupt(node, expected, format!("bytes {start} to {end}")));
        };
        let mut bytes = vec![0; stored];
        let at = table_bytes.saturating_add(start);
        if self.read_content(stream, at, &mut bytes)? < stored {
            return Err(corrupt(node, format!("{stored} bytes for chunk {number}"), "the end of the stream"));
        }
        let chunk: Arc<[u8]> = if stored == becomes {
            bytes.into()
        } else {
            let mut chunk = vec![0; becomes];
            let unpacked = packing.unpack(&bytes, &mut chunk);
            unpacked.map_err(|found| corrupt(node, format!("{packing:?} in chunk {number}"), found))?;
            chunk.into()
        };
        self.chunks.insert(key, Arc::clone(&chunk));
        Ok(chunk)
    }
}

fn corrupt(node: &Node, expected: String, found: impl Into<String>) -> GuestError {
    GuestError::Corrupt { field: "file compressed by Windows", at: node.at, expected, found: found.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few values, so that codes and lengths make sense more often than not.
    fn stored() -> impl Strategy<Value = Vec<u8>> {
        let codes = proptest::collection::vec(prop_oneof![Just(0x88u8), Just(0x99), any::<u8>()], 0..300);
        (codes, proptest::collection::vec(any::<u8>(), 0..400)).prop_map(|(codes, rest)| [codes, rest].concat())
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(stored in stored(), len in 1usize..5000) {
            for packing in [Packing::Xpress(8192), Packing::Lzx] {
                let _ = packing.unpack(&stored, &mut vec![0; len]);
            }
        }

        #[test]
        fn bits_and_bytes_come_in_their_order(words in proptest::collection::vec(any::<u16>(), 1..20)) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut bits = huffman::Bits::new(&bytes);
            for word in &words {
                let high = bits.take(3);
                prop_assert_eq!(high << 13 | bits.take(13), usize::from(*word));
            }
            prop_assert!(!bits.is_exhausted());
            prop_assert_eq!(bits.take(1), 0);
            prop_assert!(bits.is_exhausted());
        }
    }

    #[test]
    fn only_what_is_known_is_unpacked() {
        #[track_caller]
        fn check(words: &[u32], expected: Result<Packing, &str>) {
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert_eq!(packing(&data), expected);
        }
        check(&[1, 2, 1, 0], Ok(Packing::Xpress(4096)));
        check(&[1, 2, 1, 1, 7], Ok(Packing::Lzx));
        check(&[1, 2, 1, 2], Ok(Packing::Xpress(8192)));
        check(&[1, 2, 1, 3], Ok(Packing::Xpress(16_384)));
        check(&[1, 1, 1, 0], Err("in a WIM archive (WOF)"));
        for unknown in [&[1, 2, 1, 4][..], &[1, 2, 2, 0], &[2, 2, 1, 0], &[1, 3, 1, 0], &[1, 2, 1], &[]] {
            check(unknown, Err("compressed by Windows (WOF)"));
        }
    }
}
