//! Compressed clusters: as many bytes as an L2 entry says come out as exactly one cluster.
//!
//! Lengths are in whole sectors, so other data follows a cluster's own: what comes after its end is nobody's business.
//! Source: QEMU docs/interop/qcow2.txt, "Compressed Clusters Descriptor"; block/qcow2-threads.c for what QEMU accepts.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::bulk::Decompressor;

use super::layout::Compression;
use crate::disk::DiskError;
use crate::formats::file::ImageFile;
use crate::formats::mapped::{Packed, Unpacker};

/// Reads the bytes of `packed`, or what the file has of them, and decompresses them into `out`, one cluster.
pub(super) fn read_cluster(
    file: &ImageFile,
    compression: Compression,
    packed: Packed,
    unpacker: &mut Unpacker,
    out: &mut [u8],
) -> Result<(), DiskError> {
    let Packed { at, ahead, .. } = packed;
    let len = packed.len.min(file.len().saturating_sub(at.0)); // at most two clusters by its entry
    let outcome = match compression {
        Compression::Deflate => {
            let (window, deflate) = unpacker.deflate(false);
            inflate(deflate, window.get(file, "compressed cluster", at, (len, ahead))?, out)
        }
        Compression::Zstd => {
            let failed = |source| DiskError::Read { file: file.path().to_path_buf(), at, len, source };
            let (window, zstd) = unpacker.zstd().map_err(failed)?;
            unpack_zstd(zstd, window.get(file, "compressed cluster", at, (len, ahead))?, out)
        }
    };
    outcome.map_err(|found| {
        let name = if compression == Compression::Zstd { "zstd" } else { "deflate" };
        let expected = format!("{name} data of one cluster ({} bytes)", out.len());
        file.corrupt("compressed cluster", at, expected, found)
    })
}

/// Inflates a raw deflate stream into all of `out`; more than that is a bomb.
fn inflate(deflate: &mut Decompress, data: &[u8], out: &mut [u8]) -> Result<(), String> {
    let status = deflate.decompress(data, out, FlushDecompress::Finish).map_err(|err| err.to_string())?;
    let made = deflate.total_out();
    if made < out.len() as u64 {
        return Err(format!("{made} bytes, {}", if status == Status::StreamEnd { "complete" } else { "cut short" }));
    }
    if status != Status::StreamEnd {
        // The end of the stream may not have been looked at yet. QEMU does not ask for it, and neither do we: only
        // a further byte is wrong.
        let used = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX).min(data.len());
        let further = deflate.decompress(&data[used..], &mut [0], FlushDecompress::Finish);
        if further.is_ok() && deflate.total_out() > made {
            return Err("more".to_string());
        }
    }
    Ok(())
}

/// Unpacks one zstd frame into all of `out`.
fn unpack_zstd(zstd: &mut Decompressor<'_>, data: &[u8], out: &mut [u8]) -> Result<(), String> {
    let in_words = |code| zstd::zstd_safe::get_error_name(code).to_string();
    let frame_len = zstd::zstd_safe::find_frame_compressed_size(data).map_err(in_words)?;
    let frame = data.get(..frame_len).ok_or("a frame cut short")?;
    // In one step into a buffer of the right size: whatever window the frame asks for, nothing else is allocated.
    let made = zstd.decompress_to_buffer(frame, out).map_err(|err| err.to_string())?;
    if made == out.len() { Ok(()) } else { Err(format!("{made} bytes, complete")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn deflated(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn packed(plain: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(plain, 3).unwrap()
    }

    type Unpack = fn(&[u8], &mut [u8]) -> Result<(), String>;

    #[track_caller]
    fn check(unpack: Unpack, data: &[u8], expected: Result<(), &str>) {
        let mut out = vec![0xa5; 65536];
        match (unpack(data, &mut out), expected) {
            (Ok(()), Ok(())) => assert!(out.iter().all(|b| *b == 7)),
            (Err(found), Err(said)) => assert!(found.contains(said), "{found}"),
            (outcome, _) => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn exactly_one_cluster_comes_out() {
        let bomb = vec![7; 64 << 20];
        let inflate: Unpack = |data, out| inflate(&mut Decompress::new(false), data, out);
        let unpack_zstd: Unpack = |data, out| unpack_zstd(&mut Decompressor::new().unwrap(), data, out);
        for (unpack, pack) in [(inflate, deflated as fn(&[u8]) -> Vec<u8>), (unpack_zstd, packed)] {
            let cluster = pack(&[7; 65536]);
            check(unpack, &cluster, Ok(()));
            check(unpack, &[&cluster[..], &[0xff; 700]].concat(), Ok(()));
            check(unpack, &[&cluster[..], &cluster[..]].concat(), Ok(()));
            check(unpack, &pack(&[7; 65535]), Err("65535 bytes, complete"));
            check(unpack, &pack(&[7; 65537]), Err(""));
            check(unpack, &pack(&bomb), Err(""));
            check(unpack, &cluster[..cluster.len() / 2], Err(""));
            check(unpack, &[0x42; 100], Err(""));
            check(unpack, &[], Err(""));
        }
        check(inflate, &deflated(&[7; 65537]), Err("more"));
        check(inflate, &deflated(&[7; 65536])[..20], Err("cut short"));
        check(unpack_zstd, &packed(&bomb), Err("Destination buffer is too small"));
    }
}
