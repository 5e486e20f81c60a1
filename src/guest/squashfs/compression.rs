//! Blocks, unpacked into memory. Whoever asks says how long they may be; no more is ever made of them.

use std::io::Read;

use flate2::bufread::ZlibDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::guest::lzo;

/// Memory that one LZMA stream may ask for: its dictionary is no larger than a block of 1 MiB, in sound ones.
const LZMA_KIB_MAX: u32 = 8 << 10;
/// The same for zstd, as a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 20;

/// How a volume is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Zlib,
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd,
}

impl Compression {
    /// The kind that a superblock names.
    pub fn from_code(code: u16) -> Option<Compression> {
        Some(match code {
            1 => Compression::Zlib,
            2 => Compression::Lzma,
            3 => Compression::Lzo,
            4 => Compression::Xz,
            5 => Compression::Lz4,
            6 => Compression::Zstd,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Compression::Zlib => "zlib",
            Compression::Lzma => "LZMA",
            Compression::Lzo => "LZO",
            Compression::Xz => "xz",
            Compression::Lz4 => "LZ4",
            Compression::Zstd => "zstd",
        }
    }

    /// What was packed: at most `limit` bytes, or it is an error.
    pub fn unpack(self, stored: &[u8], limit: usize) -> Result<Vec<u8>, String> {
        match self {
            Compression::Zlib => read_to(ZlibDecoder::new(stored), limit),
            Compression::Lzma => {
                let reader = LzmaReader::new_mem_limit(stored, LZMA_KIB_MAX, None).map_err(|err| err.to_string())?;
                read_to(reader, limit)
            }
            Compression::Lzo => {
                let mut bytes = Vec::with_capacity(limit);
                lzo::unpack_stream(stored, &mut bytes, limit)?;
                Ok(bytes)
            }
            Compression::Xz => read_to(XzReader::new_mem_limit(stored, false, LZMA_KIB_MAX), limit),
            Compression::Lz4 => {
                let mut bytes = vec![0; limit];
                let len = lz4_flex::block::decompress_into(stored, &mut bytes).map_err(|err| err.to_string())?;
                bytes.truncate(len);
                Ok(bytes)
            }
            Compression::Zstd => {
                let decoder = ZstdDecoder::with_buffer(stored).map_err(|err| err.to_string())?;
                let mut decoder = decoder.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|err| err.to_string())?;
                read_to(decoder, limit)
            }
        }
    }
}

fn read_to(mut decoder: impl Read, limit: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(limit);
    decoder.by_ref().take(limit as u64).read_to_end(&mut bytes).map_err(|err| err.to_string())?;
    if bytes.len() == limit && decoder.read(&mut [0]).map_err(|err| err.to_string())? > 0 {
        return Err(format!("more than {limit} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_made_than_the_limit() {
        let bomb = vec![0; 10 << 20];
        let mut zlib = Vec::new();
        flate2::read::ZlibEncoder::new(&bomb[..], flate2::Compression::best()).read_to_end(&mut zlib).expect("memory");
        let zstd = zstd::bulk::compress(&bomb, 1).expect("memory");
        for (compression, stored) in [(Compression::Zlib, &zlib), (Compression::Zstd, &zstd)] {
            let said = compression.unpack(stored, 8192).expect_err("too long");
            assert!(said == "more than 8192 bytes" || said.contains("too much memory"), "{said}");
        }
        let half = zstd::bulk::compress(&bomb[..8192], 1).expect("memory");
        assert_eq!(Compression::Zstd.unpack(&half, 8192).expect("sound").len(), 8192);
    }

    #[test]
    fn dictionaries_are_bounded() {
        // LZMA: properties, a dictionary of 1 GiB, an unknown length.
        let lzma = [&[0x5d, 0, 0, 0, 0x40][..], &[0xff; 8], &[0; 20]].concat();
        let said = Compression::Lzma.unpack(&lzma, 8192).expect_err("too much");
        assert!(said.contains("memory"), "{said}");
    }

    proptest::proptest! {
        #[test]
        fn anything_ends_and_keeps_to_its_limit(bytes in proptest::collection::vec(0u8.., 0..600), limit in 0usize..9000) {
            for code in 1..=6 {
                if let Ok(unpacked) = Compression::from_code(code).expect("known").unpack(&bytes, limit) {
                    assert!(unpacked.len() <= limit);
                }
            }
        }
    }
}
