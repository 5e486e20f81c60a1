//! What streamOptimized adds: grains behind markers, deflated, and a footer that proves that the stream is complete.
//!
//! At the end of a complete stream: footer marker, footer (a header with the directory's place), end-of-stream marker.
//! Source: VMware "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents".

use flate2::{Decompress, FlushDecompress, Status};
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};

use crate::disk::DiskError;
use crate::formats::file::ImageFile;
use crate::formats::mapped::{Packed, Unpacker};
use crate::units::FileOffset;

/// Length of a grain marker: sector and byte count, then the data.
pub(crate) const MARKER_BYTES: u64 = 12;
/// Length of a metadata marker: it fills a sector.
const SECTOR: u64 = 512;
/// The footer's kind in its marker.
const KIND_FOOTER: u32 = 3;

/// The beginning of every marker. A `len` of 0 is a metadata marker, and its kind follows.
struct RawMarker {
    sector: u64,
    len: u32,
}

struct RawMetadataMarker {
    sectors: u64,
    len: u32,
    kind: u32,
}

fn marker(input: &[u8]) -> IResult<&[u8], RawMarker> {
    let (rest, (sector, len)) = (le_u64, le_u32).parse(input)?;
    Ok((rest, RawMarker { sector, len }))
}

fn metadata_marker(input: &[u8]) -> IResult<&[u8], RawMetadataMarker> {
    let (rest, (sectors, len, kind)) = (le_u64, le_u32, le_u32).parse(input)?;
    Ok((rest, RawMetadataMarker { sectors, len, kind }))
}

/// Where the footer is, after checking that the stream ends as a complete one does.
pub(crate) fn footer_at(file: &ImageFile) -> Result<FileOffset, DiskError> {
    const EXPECTED: &str = "a footer marker, a footer and an end-of-stream marker";
    let truncated = |at| file.corrupt("end of the stream", FileOffset(at), EXPECTED, "other data: a truncated image");
    let start = file.len().checked_sub(3 * SECTOR).ok_or_else(|| truncated(0))?;
    let footer_marker = read_metadata_marker(file, start)?;
    if (footer_marker.sectors, footer_marker.len, footer_marker.kind) != (1, 0, KIND_FOOTER) {
        return Err(truncated(start));
    }
    let end_marker = read_metadata_marker(file, start + 2 * SECTOR)?;
    if (end_marker.sectors, end_marker.len, end_marker.kind) != (0, 0, 0) {
        return Err(truncated(start + 2 * SECTOR));
    }
    Ok(FileOffset(start + SECTOR))
}

fn read_metadata_marker(file: &ImageFile, at: u64) -> Result<RawMetadataMarker, DiskError> {
    let mut bytes = [0; 16];
    file.read("marker", FileOffset(at), &mut bytes)?;
    let (_, raw) = metadata_marker(&bytes).expect("16 bytes hold a marker");
    Ok(raw)
}

/// Reads the grain whose marker lies at `packed.at`, which must be the one for `packed.start`, into `out`: what the disk
/// needs of it, at most `grain_bytes`.
pub(crate) fn inflate_grain(
    file: &ImageFile,
    packed: Packed,
    grain_bytes: u64,
    unpacker: &mut Unpacker,
    out: &mut [u8],
) -> Result<(), DiskError> {
    let Packed { start, at: place, ahead, .. } = packed;
    let (window, zlib) = unpacker.deflate(true);
    let bytes = window.get(file, "grain marker", place, (MARKER_BYTES, ahead))?;
    let (_, raw) = marker(bytes).expect("12 bytes hold a marker");
    if raw.sector != start / 512 {
        let (expected, found) = (format!("sector {}", start / 512), format!("sector {}", raw.sector));
        return Err(file.corrupt("grain marker", place, expected, found));
    }
    // Deflate expands incompressible data by a few bytes in a thousand; twice the grain is beyond any writer.
    let len_max = 2 * grain_bytes + 64;
    let len = u64::from(raw.len);
    if len == 0 || len > len_max {
        let expected = format!("1 to {len_max} bytes of compressed data");
        return Err(file.corrupt("grain marker", place, expected, len));
    }
    let data_at = FileOffset(place.0.saturating_add(MARKER_BYTES));
    let data = window.get(file, "compressed grain", data_at, (len, ahead))?;
    inflate(zlib, data, out, grain_bytes).map_err(|found| {
        file.corrupt("compressed grain", data_at, format_args!("zlib data of one grain ({grain_bytes} bytes)"), found)
    })
}

/// Inflates `data` into all of `out`. More than `out` is allowed up to a whole grain (the disk may end inside it);
/// beyond that it is a bomb, and less is a damaged image.
fn inflate(zlib: &mut Decompress, data: &[u8], out: &mut [u8], grain_bytes: u64) -> Result<(), String> {
    let mut status = step(zlib, data, out)?;
    if zlib.total_out() < out.len() as u64 {
        return Err(format!(
            "{} bytes, {}",
            zlib.total_out(),
            if status == Status::StreamEnd { "complete" } else { "cut short" }
        ));
    }
    let mut surplus = [0; 4096];
    while status != Status::StreamEnd {
        let before = (zlib.total_in(), zlib.total_out());
        status = step(zlib, data, &mut surplus)?;
        if zlib.total_out() > grain_bytes {
            return Err("more".to_string());
        }
        if status != Status::StreamEnd && (zlib.total_in(), zlib.total_out()) == before {
            return Err("data cut short".to_string());
        }
    }
    Ok(())
}

fn step(zlib: &mut Decompress, data: &[u8], out: &mut [u8]) -> Result<Status, String> {
    let done = usize::try_from(zlib.total_in()).unwrap_or(usize::MAX).min(data.len());
    zlib.decompress(&data[done..], out, FlushDecompress::Finish).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    fn deflated(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[track_caller]
    fn check(data: &[u8], out_len: usize, expected: Result<(), &str>) {
        let mut out = vec![0xa5; out_len];
        match (inflate(&mut Decompress::new(true), data, &mut out, 65536), expected) {
            (Ok(()), Ok(())) => assert!(out.iter().all(|b| *b == 7)),
            (Err(found), Err(said)) => assert!(found.contains(said), "{found}"),
            (outcome, _) => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn exactly_one_grain_comes_out() {
        let grain = deflated(&[7; 65536]);
        check(&grain, 65536, Ok(()));
        check(&grain, 512, Ok(()));
        check(&grain, 65024, Ok(()));
        check(&deflated(&[7; 512]), 512, Ok(()));
        check(&deflated(&[7; 512]), 1024, Err("512 bytes, complete"));
        check(&deflated(&[7; 65537]), 65536, Err("more"));
        check(&deflated(&vec![7; 64 << 20]), 512, Err("more"));
        check(&grain[..grain.len() - 1], 65536, Err("cut short"));
        check(&grain[..grain.len() / 2], 65536, Err(""));
        check(&[0x42; 100], 65536, Err(""));
        check(&[], 65536, Err("0 bytes, cut short"));
        let mut flipped = grain.clone();
        *flipped.last_mut().unwrap() ^= 1;
        check(&flipped, 65536, Err(""));
    }
}
