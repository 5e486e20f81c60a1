//! streamOptimized: compressed grains in ascending order, as OVF and OVA carry disks.
//!
//! Layout, everything on sector boundaries:
//!
//! ```text
//! header | descriptor | pad to 128 | (grain marker + zlib data)… | table marker | table | … |
//! directory marker | directory | footer marker | footer | end-of-stream marker
//! ```
//!
//! A table follows the grains of its 32 MiB of disk and is then forgotten; only the directory stays in memory, 4 bytes
//! for each 32 MiB (256 KiB for 2 TiB). Tables without a grain are not written. The header says "directory at the end" and
//! the footer where it is, so the file could have been written into a pipe.
//!
//! The order and the threads are those of [`ascending`](crate::formats::sink::ascending); each thread's share is stored with
//! one write.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use flate2::{Compress, Compression, FlushCompress, Status};

use super::descriptor::{Descriptor, Extent, Kind, extent_name, fresh_content_id};
use super::{
    DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINE_TEST, GRAIN_BYTES, GRAIN_SECTORS, Header,
    TABLE_BYTES, TABLE_ENTRIES, capacity, entry, sectors_for,
};
use crate::formats::ImageError;
use crate::formats::sink::ascending::{AscendingSink, Numbered, TableWriter};
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{DiskSink, Overwrite, TargetError, failed};
use crate::units::{ByteLen, FileOffset, SECTOR_BYTES};

/// On program files and libraries 3 is as fast as 1 and saves 14 % more; 6 takes a third longer for another 2 %.
const LEVEL: u32 = 3;
/// Before each grain's data: u64 sector on the disk, u32 length of the data.
const GRAIN_MARKER_BYTES: usize = 12;
/// Room for a grain that does not compress: deflate stores it with a few bytes for each block, zlib frames it.
const COMPRESSED_BYTES_MAX: usize = GRAIN_BYTES + GRAIN_BYTES / 64 + 64;

/// Kinds of markers that are not grains.
#[derive(Clone, Copy)]
enum Marker {
    EndOfStream = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

impl Marker {
    /// The marker's sector; `payload` bytes follow it.
    fn encode(self, payload: usize) -> [u8; SECTOR_BYTES as usize] {
        let mut out = [0; SECTOR_BYTES as usize];
        out[..8].copy_from_slice(&(sectors_for(payload) as u64).to_le_bytes());
        out[12..16].copy_from_slice(&(self as u32).to_le_bytes());
        out
    }
}

/// A streamOptimized VMDK under construction.
#[derive(Debug)]
struct StreamWriter {
    file: NewFile,
    header: Header,
    /// End of the file.
    end: u64,
    /// Entries of the table that is being filled.
    entries: Vec<u32>,
    /// Sectors of the tables so far; 0 for those without grains.
    directory: Vec<u32>,
}

/// Starts a streamOptimized VMDK for a disk of `size` bytes that appears as `path` when it is finished. `properties` are
/// the `ddb.*` lines of the source (adapter, geometry, uuid), kept as they are where they fit.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the disk is empty, no whole sectors, or beyond 2 TiB.
pub fn create_stream(
    path: &Path,
    size: ByteLen,
    properties: &[(String, String)],
    overwrite: Overwrite,
) -> Result<impl DiskSink + Debug + use<>, ImageError> {
    let (capacity_sectors, tables) = capacity(path, size)?;
    let content_id = fresh_content_id().map_err(failed("find a content id for", path))?;
    let extents = vec![Extent { sectors: capacity_sectors, kind: Kind::Sparse, name: extent_name(path) }];
    let (descriptor, warnings) =
        Descriptor { create_type: "streamOptimized", extents, content_id: &content_id, properties }.embedded();
    let mut front = Vec::new();
    let descriptor_sectors = sectors_for(descriptor.len()) as u32; // bounded by the descriptor's own limits
    let header = Header {
        version: 3,
        flags: FLAG_NEWLINE_TEST | FLAG_COMPRESSED | FLAG_MARKERS,
        capacity_sectors,
        descriptor_sectors,
        redundant_directory_sector: 0,
        directory_sector: DIRECTORY_AT_END,
        overhead_sectors: (1 + descriptor_sectors).next_multiple_of(GRAIN_SECTORS),
    };
    front.extend(header.encode());
    front.extend(descriptor);
    front.resize(header.overhead_sectors as usize * SECTOR_BYTES as usize, 0);

    let file = NewFile::create(path, overwrite)?;
    file.write_all_at(FileOffset(0), &front)?;
    let (end, entries) = (front.len() as u64, vec![0; TABLE_ENTRIES as usize]);
    let writer = StreamWriter { file, header, end, entries, directory: vec![0; tables as usize] };
    Ok(AscendingSink::new(writer, size, warnings))
}

impl StreamWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        self.file.write_all_at(FileOffset(self.end), bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn sector_at(&self, at: u64) -> Result<u32, TargetError> {
        entry(self.file.target(), at, at).inspect_err(|_| self.file.mark_broken())
    }
}

impl TableWriter for StreamWriter {
    const CELL: usize = GRAIN_BYTES;
    const TABLE_COVERS: u64 = TABLE_ENTRIES as u64 * GRAIN_BYTES as u64;
    type Share<'a> = Share;

    fn file(&self) -> &NewFile {
        &self.file
    }

    fn pack(grains: &[Numbered<'_>]) -> io::Result<Share> {
        compress(grains)
    }

    fn put(&mut self, shares: Vec<Share>) -> Result<(), TargetError> {
        for share in shares {
            for (grain, offset) in &share.grains {
                let index = (grain % u64::from(TABLE_ENTRIES)) as usize;
                self.entries[index] = self.sector_at(self.end + *offset as u64)?;
            }
            self.append(&share.bytes)?;
        }
        Ok(())
    }

    fn leave(&mut self, table: usize) -> Result<(), TargetError> {
        if self.entries.iter().any(|sector| *sector != 0) {
            let mut bytes = Marker::Table.encode(TABLE_BYTES).to_vec();
            bytes.extend(self.entries.iter().flat_map(|sector| sector.to_le_bytes()));
            self.directory[table] = self.sector_at(self.end + SECTOR_BYTES)?;
            self.append(&bytes)?;
            self.entries.fill(0);
        }
        Ok(())
    }

    fn close(mut self) -> Result<PathBuf, TargetError> {
        let directory_sector = self.sector_at(self.end + SECTOR_BYTES)?;
        let footer = Header { directory_sector: directory_sector.into(), ..self.header.clone() };
        let mut directory: Vec<u8> = self.directory.iter().flat_map(|sector| sector.to_le_bytes()).collect();
        directory.resize(sectors_for(directory.len()) * SECTOR_BYTES as usize, 0);
        let mut tail = Marker::Directory.encode(directory.len()).to_vec();
        tail.extend(directory);
        tail.extend(Marker::Footer.encode(SECTOR_BYTES as usize));
        tail.extend(footer.encode());
        tail.extend(Marker::EndOfStream.encode(0));
        self.append(&tail)?;
        self.file.publish()
    }
}

/// Compressed grains with their markers, ready for the file.
struct Share {
    bytes: Vec<u8>,
    /// Number of each grain, and where its marker begins in `bytes`.
    grains: Vec<(u64, usize)>,
}

fn compress(grains: &[Numbered<'_>]) -> io::Result<Share> {
    let mut zlib = Compress::new(Compression::new(LEVEL), true);
    // Half is what disks usually come to; what does not fit grows.
    let mut share = Share { bytes: Vec::with_capacity(grains.len() * GRAIN_BYTES / 2), grains: Vec::new() };
    for (number, grain) in grains {
        let bytes = &mut share.bytes;
        let start = bytes.len();
        share.grains.push((*number, start));
        bytes.extend((number * u64::from(GRAIN_SECTORS)).to_le_bytes());
        bytes.extend([0; 4]);
        zlib.reset();
        if grain.len() < GRAIN_BYTES {
            // The format lets the last grain inflate short; some readers ask for whole ones.
            let mut whole = grain.to_vec();
            whole.resize(GRAIN_BYTES, 0);
            deflate(&mut zlib, &whole, bytes)?;
        } else {
            deflate(&mut zlib, grain, bytes)?;
        }
        let len = u32::try_from(bytes.len() - start - GRAIN_MARKER_BYTES).map_err(io::Error::other)?;
        bytes[start + 8..start + GRAIN_MARKER_BYTES].copy_from_slice(&len.to_le_bytes());
        bytes.resize(sectors_for(bytes.len()) * SECTOR_BYTES as usize, 0);
    }
    Ok(share)
}

/// Appends all of `input` as one zlib stream.
fn deflate(zlib: &mut Compress, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.reserve(COMPRESSED_BYTES_MAX);
    match zlib.compress_vec(input, out, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => Ok(()),
        Ok(_) => Err(io::Error::other("a grain grew beyond what deflate can make of it")),
        Err(e) => Err(io::Error::other(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;
    use crate::formats::sink::is_zero;
    use crate::units::GuestOffset;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn markers_lie_where_the_format_has_them() {
        let table = Marker::Table.encode(2048);
        assert_eq!(table[..20], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Marker::Directory.encode(513)[..13], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(Marker::Footer.encode(512)[..13], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(Marker::EndOfStream.encode(0), [0; 512]);
    }

    #[test]
    fn a_share_inflates_to_its_grains() {
        let data: Vec<u8> =
            (0..7).flat_map(|n| if n % 2 == 0 { noise(GRAIN_BYTES) } else { vec![n; GRAIN_BYTES] }).collect();
        let short = [9u8; 512];
        let mut grains: Vec<Numbered> = (100..).zip(data.chunks(GRAIN_BYTES)).collect();
        grains.push((200, &short));
        let share = compress(&grains).unwrap();
        assert!(share.bytes.len().is_multiple_of(512));
        assert_eq!(share.grains.len(), grains.len());
        for ((number, at), (expected_number, expected)) in share.grains.iter().zip(&grains) {
            let marker = &share.bytes[*at..];
            assert_eq!((number, u64::from_le_bytes(marker[..8].try_into().unwrap())), (expected_number, number * 128));
            let len = u32::from_le_bytes(marker[8..12].try_into().unwrap()) as usize;
            let mut plain = Vec::new();
            flate2::read::ZlibDecoder::new(&marker[12..12 + len]).read_to_end(&mut plain).unwrap();
            assert_eq!(plain.len(), GRAIN_BYTES);
            assert!(plain.starts_with(expected) && is_zero(&plain[expected.len()..]));
        }
    }

    #[test]
    fn front_and_end_of_a_stream() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        let sink = Box::new(create_stream(&path, ByteLen(100 << 20), &[], Overwrite::Refuse).unwrap());
        sink.write_at(GuestOffset(64 << 20), &noise(GRAIN_BYTES)).unwrap();
        sink.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        assert_eq!(bytes[56..64], [0xff; 8]);
        assert_eq!(bytes[..8], bytes[len - 1024..len - 1016], "footer is a header");
        assert_eq!(bytes[len - 1536..len - 1520], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        assert!(is_zero(&bytes[len - 512..]), "end of stream");
        let directory = u64::from_le_bytes(bytes[len - 1024 + 56..len - 1024 + 64].try_into().unwrap()) as usize * 512;
        let entries: Vec<_> = bytes[directory..directory + 16].chunks(4).map(|e| e != [0; 4]).collect();
        assert_eq!(entries, [false, false, true, false], "one table, for the third 32 MiB");
    }
}
