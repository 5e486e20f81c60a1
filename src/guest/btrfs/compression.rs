//! Compressed extents, unpacked into memory. Whoever asks says how long they are; no more is ever made of them.

use std::io::Read;

use flate2::bufread::ZlibDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::superblock::Superblock;
use super::{corrupt, lzo};
use crate::guest::GuestError;

/// Largest window of zstd that any kernel writes or reads, as a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 17;

/// How an extent is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Compression {
    Zlib,
    Lzo,
    Zstd,
}

impl Compression {
    /// The kind that an extent item names.
    pub fn from_code(code: u8) -> Option<Compression> {
        Some(match code {
            1 => Compression::Zlib,
            2 => Compression::Lzo,
            3 => Compression::Zstd,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Compression::Zlib => "zlib",
            Compression::Lzo => "LZO",
            Compression::Zstd => "zstd",
        }
    }

    /// The first `len` bytes of what was packed; `stored` may have padding behind. It lies at byte `at` of the volume.
    /// Of whole sectors, the last may have been packed without its end: zeros.
    pub fn unpack(self, stored: &[u8], len: usize, superblock: &Superblock, at: u64) -> Result<Vec<u8>, GuestError> {
        let sector_bytes = usize::try_from(superblock.sector_bytes).expect("at most 64 KiB");
        let least = if len.is_multiple_of(sector_bytes) { (len + 1).saturating_sub(sector_bytes) } else { len };
        let unpacked = match self {
            Compression::Zlib => read_to(ZlibDecoder::new(stored), len),
            Compression::Zstd => zstd(stored).and_then(|decoder| read_to(decoder, len)),
            Compression::Lzo => lzo::unpack(stored, len, sector_bytes).map_err(str::to_string),
        };
        let expected = || format!("{len} bytes packed by {}", self.name());
        match unpacked {
            Ok(mut bytes) if bytes.len() >= least => {
                bytes.resize(len, 0);
                Ok(bytes)
            }
            Ok(bytes) => Err(corrupt("compressed content", at, expected(), format!("{} bytes", bytes.len()))),
            Err(err) => Err(corrupt("compressed content", at, expected(), err)),
        }
    }
}

fn zstd(stored: &[u8]) -> Result<impl Read, String> {
    let mut decoder = ZstdDecoder::with_buffer(stored).map_err(|err| err.to_string())?.single_frame();
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|err| err.to_string())?;
    Ok(decoder)
}

fn read_to(decoder: impl Read, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(len);
    decoder.take(len as u64).read_to_end(&mut bytes).map_err(|err| err.to_string())?;
    Ok(bytes)
}
