//! LZO: btrfs's frame around streams of it.
//!
//! Frame: `bytes in all 4 | (bytes of a segment 4 | segment) …`; each segment unpacks to one sector. The length of a
//! segment is never split by the end of a sector: what is too short for one is padding.
//!
//! Source: the btrfs documentation, "On-disk format".

use crate::guest::lzo::unpack_stream;

const LENGTH_BYTES: usize = 4;

/// Unpacks a frame until there are `len` bytes or it ends.
pub(crate) fn unpack(stored: &[u8], len: usize, sector_bytes: usize) -> Result<Vec<u8>, &'static str> {
    let total = length(stored, 0)?;
    let stored = stored.get(..total).ok_or("a frame that is longer than its extent")?;
    let mut at = LENGTH_BYTES;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let left_in_sector = sector_bytes - at % sector_bytes;
        if left_in_sector < LENGTH_BYTES {
            at += left_in_sector;
        }
        if at >= stored.len() {
            break;
        }
        let segment_bytes = length(stored, at)?;
        at += LENGTH_BYTES;
        let segment = stored.get(at..).and_then(|rest| rest.get(..segment_bytes)).ok_or("a segment past the frame")?;
        at += segment_bytes;
        let limit = out.len() + sector_bytes.min(len - out.len());
        unpack_stream(segment, &mut out, limit)?;
    }
    Ok(out)
}

fn length(stored: &[u8], at: usize) -> Result<usize, &'static str> {
    let bytes = stored.get(at..).and_then(<[u8]>::first_chunk).ok_or("no length of a segment")?;
    usize::try_from(u32::from_le_bytes(*bytes)).map_err(|_| "a length beyond memory")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn anything_ends_and_keeps_to_its_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            len in 0usize..9000,
        ) {
            let mut framed = u32::try_from(bytes.len() + 4).expect("short").to_le_bytes().to_vec();
            framed.extend(&bytes);
            if let Ok(out) = unpack(&framed, len, 4096) {
                prop_assert!(out.len() <= len);
            }
        }
    }
}
