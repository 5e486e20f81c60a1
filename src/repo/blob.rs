//! Blobs: several chunks compressed together. Dedup wants small pieces, compression large ones; a blob is where they meet.
//!
//! Pure: chunks in, packed bytes out and back. Sealing and placing them is the pack's business. Code comes into blobs of its
//! own, which are filtered before they are compressed.
//! What was packed is unpacked and compared before anybody may store it: libraries and memory have failed before.

use std::cell::RefCell;

use zstd::zstd_safe::{
    CParameter, DCtx, DParameter, ErrorCode, InBuffer, OutBuffer, ResetDirective, Strategy, get_error_name,
};

use super::branch_filter;
use super::error::RepoError;
use super::ids::ChunkId;
use super::seal::ChunkKind;

/// Chunks are gathered until a blob holds this many plain bytes: a random read opens a whole blob and unpacks half of it, so
/// this trades stored size against the latency of a mount. With 128 KiB, four guests take 2.5 % less (docs/BENCHMARKS.md).
pub const BLOB_BYTES_TARGET: usize = 48 << 10;
/// No chunk, of data or of a map, is longer.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// No blob holds more plain bytes (docs/FORMAT.md, section 8.1): what reading one chunk can cost at most. A blob is closed
/// as soon as it has its target, so it overshoots by less than its last chunk.
pub const BLOB_PLAIN_BYTES_MAX: usize = (256 << 10) + CHUNK_BYTES_MAX;
/// Plain bytes of one of a frame's blocks. Each may have codes of its own, which suits mixed content better than the same
/// codes for a whole blob, and whoever wants one chunk unpacks no further than the block in which it ends.
const BLOCK_BYTES: u32 = 24 << 10;
/// A window that takes the longest blob: the format allows no longer one.
const WINDOW_LOG_MAX: u32 = BLOB_PLAIN_BYTES_MAX.next_power_of_two().ilog2();
/// The shortest header of a frame (RFC 8878, section 3.1.1).
const FRAME_HEADER_BYTES_MIN: usize = 6;
/// zstd's parameters for new blobs: those of its level 3, with smaller tables, which stay in a core's cache.
const PARAMETERS: [CParameter; 7] = [
    CParameter::Strategy(Strategy::ZSTD_dfast),
    CParameter::WindowLog(18),
    CParameter::HashLog(16),
    CParameter::ChainLog(15),
    CParameter::MinMatch(4),
    CParameter::TargetLength(0),
    CParameter::MaxBlockSize(BLOCK_BYTES),
];

/// How a blob's plain bytes were packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are: compressing them gained nothing.
    Stored,
    /// One zstd frame.
    Zstd,
    /// One zstd frame of chunks that each went through the branch filter.
    FilteredZstd,
}

impl Codec {
    /// The byte that stands for it in a directory.
    pub fn to_byte(self) -> u8 {
        match self {
            Codec::Stored => 0,
            Codec::Zstd => 1,
            Codec::FilteredZstd => 2,
        }
    }

    /// The codec of a directory's byte.
    pub fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Stored),
            1 => Some(Codec::Zstd),
            2 => Some(Codec::FilteredZstd),
            _ => None,
        }
    }
}

/// A blob ready to be sealed.
pub struct PackedBlob {
    /// How `bytes` were packed.
    pub codec: Codec,
    /// The packed bytes.
    pub bytes: Vec<u8>,
    /// Length of the plain bytes.
    pub plain_len: u32,
    /// The chunks, in the order in which they follow each other in the plain bytes, with their lengths.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// Gathers chunks and packs them; keeps its compression contexts and buffers from blob to blob.
pub struct BlobPacker {
    kind: ChunkKind,
    code: Gathered,
    others: Gathered,
    filtered: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
}

/// What will become one blob.
#[derive(Default)]
struct Gathered {
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

impl BlobPacker {
    /// A packer for chunks of that kind.
    pub fn new(kind: ChunkKind) -> BlobPacker {
        BlobPacker {
            kind,
            code: Gathered::default(),
            others: Gathered::default(),
            filtered: Vec::new(),
            compressor: compressor(),
        }
    }

    /// Adds a chunk; gives the blob back that it has filled.
    ///
    /// # Errors
    /// [`RepoError::BlobNotReproduced`] if unpacking gave other bytes.
    pub fn add(&mut self, id: ChunkId, chunk: &[u8]) -> Result<Option<PackedBlob>, RepoError> {
        let is_code = self.kind == ChunkKind::Data && branch_filter::looks_like_code(chunk);
        let len = u32::try_from(chunk.len()).expect("chunks are at most 1 MiB long");
        let gathered = if is_code { &mut self.code } else { &mut self.others };
        gathered.plain.extend_from_slice(chunk);
        gathered.chunks.push((id, len));
        if gathered.plain.len() >= BLOB_BYTES_TARGET { self.pack(is_code).map(Some) } else { Ok(None) }
    }

    /// Whether nothing has been gathered.
    pub fn is_empty(&self) -> bool {
        self.code.chunks.is_empty() && self.others.chunks.is_empty()
    }

    /// Packs a blob of what has been gathered, full or not; `None` if nothing is left.
    ///
    /// # Errors
    /// [`RepoError::BlobNotReproduced`] if unpacking gave other bytes.
    pub fn take(&mut self) -> Result<Option<PackedBlob>, RepoError> {
        if self.is_empty() { Ok(None) } else { self.pack(self.others.chunks.is_empty()).map(Some) }
    }

    fn pack(&mut self, is_code: bool) -> Result<PackedBlob, RepoError> {
        let gathered = if is_code { &mut self.code } else { &mut self.others };
        let (codec, input) = if is_code {
            self.filtered.clone_from(&gathered.plain);
            gathered.for_each_chunk(&mut self.filtered, branch_filter::filter);
            (Codec::FilteredZstd, &self.filtered)
        } else {
            (Codec::Zstd, &gathered.plain)
        };
        let packed = self.compressor.compress(input).expect("the bound of the output is reserved by the library");
        if packed.len() >= input.len() {
            let plain = gathered.plain.clone();
            return Ok(gathered.packed(Codec::Stored, plain));
        }
        // As whoever reads it will do.
        let mut unpacked = unpack(codec, &packed, gathered.plain_len()).unwrap_or_default();
        if is_code && !unpacked.is_empty() {
            gathered.for_each_chunk(&mut unpacked, branch_filter::unfilter);
        }
        if unpacked == gathered.plain {
            Ok(gathered.packed(codec, packed))
        } else {
            Err(RepoError::BlobNotReproduced { plain_bytes: gathered.plain.len() })
        }
    }
}

impl Gathered {
    fn plain_len(&self) -> u32 {
        u32::try_from(self.plain.len()).expect("a blob is at most 1 MiB and one chunk long")
    }

    /// Shows each chunk's part of `bytes`, and where it begins, to `what`.
    fn for_each_chunk(&self, bytes: &mut [u8], what: impl Fn(&mut [u8], u32)) {
        let mut at = 0;
        for (_, len) in &self.chunks {
            what(&mut bytes[at as usize..(at + len) as usize], at);
            at += len;
        }
    }

    /// The blob of what was gathered, which begins anew.
    fn packed(&mut self, codec: Codec, bytes: Vec<u8>) -> PackedBlob {
        let plain_len = self.plain_len();
        self.plain.clear();
        PackedBlob { codec, bytes, plain_len, chunks: std::mem::take(&mut self.chunks) }
    }
}

fn compressor() -> zstd::bulk::Compressor<'static> {
    let mut compressor = zstd::bulk::Compressor::new(3).expect("the level is one that zstd has");
    for parameter in PARAMETERS {
        compressor.set_parameter(parameter).expect("the parameter is within zstd's bounds");
    }
    compressor
}

thread_local! {
    /// Making a context costs more than unpacking a small blob with it.
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(decompressor());
}

fn decompressor() -> DCtx<'static> {
    let mut context = DCtx::create();
    for parameter in [DParameter::WindowLogMax(WINDOW_LOG_MAX), DParameter::StableOutBuffer(true)] {
        context.set_parameter(parameter).expect("the parameter is within zstd's bounds");
    }
    context
}

/// Runs `work` with this thread's context, which begins anew.
fn with_decompressor(work: impl FnOnce(&mut DCtx<'static>) -> Result<usize, ErrorCode>) -> Result<usize, String> {
    let unpacked = DECOMPRESSOR.with_borrow_mut(|context| {
        context.reset(ResetDirective::SessionOnly)?;
        work(context)
    });
    unpacked.map_err(|code| get_error_name(code).to_owned())
}

/// Unpacks a blob to exactly `plain_len` bytes, filtered as they were packed; says what it found instead.
///
/// # Errors
/// What is wrong with the packed bytes.
pub fn unpack(codec: Codec, packed: &[u8], plain_len: u32) -> Result<Vec<u8>, String> {
    let wanted = plain_len as usize; // at most BLOB_PLAIN_BYTES_MAX, checked by the directory
    let plain = match codec {
        Codec::Stored => packed.to_vec(),
        Codec::Zstd | Codec::FilteredZstd => {
            // The capacity is the bound: the library writes no further, and tells how far it came.
            let mut plain = Vec::with_capacity(wanted);
            with_decompressor(|context| context.decompress(&mut plain, packed))?;
            plain
        }
    };
    if plain.len() == wanted { Ok(plain) } else { Err(format!("{} plain bytes", plain.len())) }
}

/// Unpacks the beginning of a blob of as many bytes as `plain` has: the first `wanted` of them. What is in `plain` behind
/// these means nothing, and packed bytes behind the block in which they end are not looked at.
///
/// # Errors
/// What is wrong with the packed bytes; also that there are not as many as wanted.
pub fn unpack_start(codec: Codec, packed: &[u8], wanted: usize, plain: &mut [u8]) -> Result<(), String> {
    let found = match codec {
        Codec::Stored => {
            let found = packed.len().min(wanted).min(plain.len());
            plain[..found].copy_from_slice(&packed[..found]);
            found
        }
        Codec::Zstd | Codec::FilteredZstd => {
            with_decompressor(|context| unpack_blocks(context, packed, wanted, plain))?
        }
    };
    if found >= wanted { Ok(()) } else { Err(format!("{found} plain bytes")) }
}

/// Unpacks a frame block by block until there are `wanted` bytes, or it ends; says how many there are.
fn unpack_blocks(context: &mut DCtx<'_>, packed: &[u8], wanted: usize, plain: &mut [u8]) -> Result<usize, ErrorCode> {
    let mut output = OutBuffer::around(plain);
    let (mut at, mut step) = (0, FRAME_HEADER_BYTES_MIN);
    loop {
        let (mut input, before) = (InBuffer::around(&packed[at..packed.len().min(at + step)]), output.pos());
        // The library says what it needs next, a header or a block. Given no more than that, it goes no further.
        step = context.decompress_stream(&mut output, &mut input)?;
        at += input.pos();
        let is_cut_off = input.pos() == 0 && output.pos() == before;
        if step == 0 || output.pos() >= wanted || is_cut_off {
            return Ok(output.pos());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks() {
        let mut packer = BlobPacker::new(ChunkKind::Data);
        let text = b"likeness ".repeat(5000);
        let noise: Vec<u8> = (0u32..1400).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        for (content, codec) in [(text, Codec::Zstd), (noise, Codec::Stored)] {
            assert!(packer.add(ChunkId([1; 20]), &content[..100]).unwrap().is_none());
            assert!(packer.add(ChunkId([2; 20]), &content[100..]).unwrap().is_none());
            let blob = packer.take().unwrap().unwrap();
            assert_eq!(blob.codec, codec);
            assert_eq!(blob.chunks, [(ChunkId([1; 20]), 100), (ChunkId([2; 20]), content.len() as u32 - 100)]);
            assert_eq!(unpack(blob.codec, &blob.bytes, blob.plain_len).unwrap(), content);
            let mut plain = vec![0; content.len()];
            for wanted in [0, 1, 100, BLOCK_BYTES as usize, BLOCK_BYTES as usize + 1, content.len()] {
                unpack_start(blob.codec, &blob.bytes, wanted, &mut plain).unwrap();
                assert_eq!(plain[..wanted], content[..wanted]);
            }
            let more = content.len() + 1;
            assert!(unpack_start(blob.codec, &blob.bytes, more, &mut vec![0; more]).is_err());
        }
        assert!(packer.take().unwrap().is_none());
    }

    #[test]
    fn a_beginning_needs_no_more_than_the_blocks_it_lies_in() {
        let digits: Vec<u8> =
            (0u32..700).flat_map(|i| blake3::hash(&i.to_le_bytes()).to_hex().as_bytes().to_vec()).collect();
        let mut packer = BlobPacker::new(ChunkKind::Data);
        assert!(packer.add(ChunkId([1; 20]), &digits).unwrap().is_none());
        let blob = packer.take().unwrap().unwrap();
        let first_block = &blob.bytes[..blob.bytes.len() * 3 / 5];
        let block = BLOCK_BYTES as usize;
        let mut plain = vec![0; digits.len()];
        unpack_start(blob.codec, first_block, block, &mut plain).unwrap();
        assert_eq!(plain[..block], digits[..block]);
        for cut in (0..blob.bytes.len()).step_by(997).chain(0..40) {
            assert!(unpack_start(blob.codec, &blob.bytes[..cut], digits.len(), &mut plain).is_err(), "{cut} bytes");
            // The same of a frame to be skipped, for which the library looks, too.
            let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 200, 0, 0, 0][..], &blob.bytes].concat();
            assert!(unpack_start(blob.codec, &skipped[..cut], digits.len(), &mut plain).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn the_longest_chunk_after_an_almost_full_blob_stays_within_what_a_directory_accepts() {
        use crate::repo::pack::directory::{Directory, DirectoryBuilder};
        let mut packer = BlobPacker::new(ChunkKind::Data);
        assert!(packer.add(ChunkId([1; 20]), &[1; BLOB_BYTES_TARGET - 1]).unwrap().is_none());
        let blob = packer.add(ChunkId([2; 20]), &[2; CHUNK_BYTES_MAX]).unwrap().unwrap();
        let mut builder = DirectoryBuilder::default();
        builder.add(blob.bytes.len() as u32 + 16, blob.plain_len, blob.codec, &blob.chunks);
        assert!(Directory::decode(&builder.encode(), 64 << 20).is_ok());
    }

    /// A chunk full of near calls.
    fn code(len: usize) -> Vec<u8> {
        let instruction = |place: usize| [0xe8, place as u8, (place >> 8) as u8, 0, 0, 0x90, 0x90, 0x90];
        (0..len / 8).flat_map(instruction).collect()
    }

    #[test]
    fn code_comes_into_blobs_of_its_own() {
        let mut packer = BlobPacker::new(ChunkKind::Data);
        let text = b"likeness ".repeat(100);
        for number in 0..4 {
            assert!(packer.add(ChunkId([number; 20]), &text).unwrap().is_none());
            assert!(packer.add(ChunkId([number + 100; 20]), &code(4096)).unwrap().is_none());
        }
        let others = packer.take().unwrap().unwrap();
        assert_eq!((others.codec, others.chunks.len(), others.plain_len), (Codec::Zstd, 4, 3600));
        assert!(!packer.is_empty());
        let blob = packer.take().unwrap().unwrap();
        assert!(packer.is_empty() && packer.take().unwrap().is_none());
        assert_eq!((blob.codec, blob.chunks.len(), blob.plain_len), (Codec::FilteredZstd, 4, 4 * 4096));
        assert!(blob.chunks.iter().all(|(id, len)| id.0[0] >= 100 && *len == 4096));
        let mut unpacked = unpack(blob.codec, &blob.bytes, blob.plain_len).unwrap();
        for (number, chunk) in unpacked.chunks_mut(4096).enumerate() {
            assert!(chunk != code(4096));
            branch_filter::unfilter(chunk, 4096 * number as u32);
            assert!(chunk == code(4096));
        }
        // Nothing of a map is code, whatever it looks like.
        let mut packer = BlobPacker::new(ChunkKind::Map);
        packer.add(ChunkId([3; 20]), &code(4096)).unwrap();
        assert_eq!(packer.take().unwrap().unwrap().codec, Codec::Zstd);
    }

    #[test]
    fn a_full_blob_is_given_back_and_a_wrong_length_is_refused() {
        let mut packer = BlobPacker::new(ChunkKind::Data);
        let chunk = vec![7; BLOB_BYTES_TARGET];
        let blob = packer.add(ChunkId([1; 20]), &chunk).unwrap().unwrap();
        assert!(unpack(blob.codec, &blob.bytes, blob.plain_len + 1).is_err());
        assert!(unpack(blob.codec, &blob.bytes, blob.plain_len - 1).is_err());
        assert!(unpack(Codec::Stored, &blob.bytes, blob.plain_len).is_err());
    }
}
