//! Clusters compressed with zstd, one behind the other whatever their length.
//!
//! Layout, in clusters but for the packed data:
//!
//! ```text
//! header | refcount block 0 | L1 table | packed data, plain clusters and L2 tables … | refcount table
//! ```
//!
//! Clusters of the file are shared by the compressed clusters in them, so refcounts must be counted. The file only grows at
//! its end, so just the counts of the current 2 GiB are kept: the first cluster of each 2 GiB is left free for them, and
//! no piece of data lies across that border. Of the L2 tables only the current one is kept, for the disk ascends.
//!
//! The order and the threads are those of [`ascending`](crate::formats::sink::ascending).

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use super::{
    CLUSTER, CLUSTER_BYTES, COMPRESSED, COPIED, Header, REFCOUNTS, TABLE_COVERS, TABLE_ENTRIES, l1_clusters,
    l1_entries, to_bytes,
};
use crate::formats::ImageError;
use crate::formats::sink::ascending::{AscendingSink, Numbered, TableWriter};
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{DiskSink, Overwrite, TargetError};
use crate::units::{ByteLen, FileOffset, SECTOR_BYTES};

/// What QEMU uses.
const LEVEL: i32 = 3;
/// A cluster that saves less than a sixteenth is stored as it is: reading it back then costs no time.
const PACKED_BYTES_MAX: usize = CLUSTER_BYTES - CLUSTER_BYTES / 16;
/// Bytes of the file whose refcounts are in one block.
const BLOCK_COVERS: u64 = REFCOUNTS as u64 * CLUSTER;
/// Where the number of further sectors begins in a compressed cluster's entry.
const FURTHER_SECTORS_SHIFT: u32 = 54;

/// A compressed qcow2 image under construction.
#[derive(Debug)]
struct CompressedWriter {
    file: NewFile,
    size: ByteLen,
    /// Entries of the L2 table that is being filled.
    entries: Vec<u64>,
    l1: Vec<u64>,
    space: Space,
}

/// The file's end, and how often its clusters are used.
#[derive(Debug)]
struct Space {
    end: u64,
    /// Number of the refcount block that `end` lies in, and its counts.
    block: u64,
    counts: Vec<u16>,
}

/// How a piece lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Directly behind the piece before.
    Packed,
    /// At the beginning of a cluster.
    Aligned,
}

/// Starts a compressed qcow2 image for a disk of `size` bytes that appears as `path` when it is finished.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the disk is no whole sectors or beyond 2 PiB.
pub fn create_compressed(
    path: &Path,
    size: ByteLen,
    overwrite: Overwrite,
) -> Result<impl DiskSink + Debug + use<>, ImageError> {
    let entries = l1_entries(path, size)?;
    let file = NewFile::create(path, overwrite)?;
    let writer = CompressedWriter {
        file,
        size,
        entries: vec![0; TABLE_ENTRIES],
        l1: vec![0; entries as usize],
        space: Space::behind(L1_AT + l1_clusters(entries) * CLUSTER),
    };
    Ok(AscendingSink::new(writer, size, Vec::new()))
}

/// Behind the header and the first refcount block.
const L1_AT: u64 = 2 * CLUSTER;

/// Where refcount block number `block` lies: at the beginning of what it covers, but the header comes first.
fn block_at(block: u64) -> u64 {
    if block == 0 { CLUSTER } else { block * BLOCK_COVERS }
}

impl Space {
    /// All clusters up to `end` used once. The largest L1 table has 32 MiB, so this is far from the first border.
    fn behind(end: u64) -> Space {
        let mut counts = vec![0; REFCOUNTS];
        counts[..(end / CLUSTER) as usize].fill(1);
        Space { end, block: 0, counts }
    }

    /// Takes room for `len` bytes, at least 1 and at most what a block covers but for its first cluster. A block that is
    /// left behind goes to `store`.
    fn take<E>(
        &mut self,
        len: u64,
        place: Place,
        mut store: impl FnMut(u64, &[u16]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut at = match place {
            Place::Packed => self.end,
            Place::Aligned => self.end.next_multiple_of(CLUSTER),
        };
        let border = (self.block + 1) * BLOCK_COVERS;
        if at + len > border {
            store(self.block, &self.counts)?;
            self.block += 1;
            self.counts.fill(0);
            self.counts[0] = 1; // the block itself
            at = border + CLUSTER;
        }
        let first = (at - self.block * BLOCK_COVERS) / CLUSTER;
        let last = (at + len - 1 - self.block * BLOCK_COVERS) / CLUSTER;
        for count in &mut self.counts[first as usize..=last as usize] {
            // A compressed cluster has more than 10 bytes, so less than 2^16 of them lie in one cluster.
            *count += 1;
        }
        self.end = at + len;
        Ok(at)
    }
}

impl CompressedWriter {
    fn take(&mut self, len: usize, place: Place) -> Result<u64, TargetError> {
        let file = &self.file;
        self.space.take(len as u64, place, |block, counts| store_block(file, block, counts))
    }

    /// Stores a share's compressed clusters, with one write for all that lie behind each other.
    fn put_packed(&mut self, share: &Share<'_>) -> Result<(), TargetError> {
        let mut from = 0; // what is not written yet begins here in the share
        let mut from_place = 0;
        let mut at = 0;
        for (number, len) in &share.packed {
            let place = self.take(*len, Place::Packed)?;
            if place != from_place + (at - from) as u64 {
                self.file.write_all_at(FileOffset(from_place), &share.bytes[from..at])?;
                (from, from_place) = (at, place);
            }
            at += len;
            let further_sectors = (place + *len as u64 - 1) / SECTOR_BYTES - place / SECTOR_BYTES;
            let entry = COMPRESSED | further_sectors << FURTHER_SECTORS_SHIFT | place;
            self.entries[(number % TABLE_ENTRIES as u64) as usize] = entry;
        }
        self.file.write_all_at(FileOffset(from_place), &share.bytes[from..at])
    }
}

fn store_block(file: &NewFile, block: u64, counts: &[u16]) -> Result<(), TargetError> {
    let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
    file.write_all_at(FileOffset(block_at(block)), &bytes)
}

impl TableWriter for CompressedWriter {
    const CELL: usize = CLUSTER_BYTES;
    const TABLE_COVERS: u64 = TABLE_COVERS;
    type Share<'a> = Share<'a>;

    fn file(&self) -> &NewFile {
        &self.file
    }

    fn pack<'a>(clusters: &[Numbered<'a>]) -> io::Result<Share<'a>> {
        compress(clusters)
    }

    fn put(&mut self, shares: Vec<Share<'_>>) -> Result<(), TargetError> {
        for share in &shares {
            self.put_packed(share)?;
        }
        // All plain clusters behind all packed ones: the gap before the first is the only one of a call.
        for (number, cluster) in shares.iter().flat_map(|share| &share.plain) {
            let place = self.take(CLUSTER_BYTES, Place::Aligned)?;
            self.file.write_all_at(FileOffset(place), cluster)?;
            self.entries[(number % TABLE_ENTRIES as u64) as usize] = COPIED | place;
        }
        Ok(())
    }

    fn leave(&mut self, table: usize) -> Result<(), TargetError> {
        if self.entries.iter().any(|entry| *entry != 0) {
            let place = self.take(CLUSTER_BYTES, Place::Aligned)?;
            self.file.write_all_at(FileOffset(place), &to_bytes(&self.entries))?;
            self.l1[table] = COPIED | place;
            self.entries.fill(0);
        }
        Ok(())
    }

    /// Stores what is still in memory, and the header.
    fn close(mut self) -> Result<PathBuf, TargetError> {
        // One block more than there are now, should the table itself lie beyond the next border.
        let table_clusters = ((self.space.block + 2) * 8).div_ceil(CLUSTER);
        let table_at = self.take(table_clusters as usize * CLUSTER_BYTES, Place::Aligned)?;
        let blocks: Vec<u64> = (0..=self.space.block).map(block_at).collect();
        self.file.write_all_at(FileOffset(table_at), &to_bytes(&blocks))?;
        store_block(&self.file, self.space.block, &self.space.counts)?;
        self.file.write_all_at(FileOffset(L1_AT), &to_bytes(&self.l1))?;
        let header = Header {
            size: self.size.0,
            l1_entries: self.l1.len() as u32, // made from a u32
            l1_at: L1_AT,
            refcount_table_at: table_at,
            refcount_table_clusters: table_clusters as u32, // one for each 16 TiB
            is_zstd: true,
        };
        self.file.write_all_at(FileOffset(0), &header.encode())?;
        self.file.set_len(self.space.end)?;
        self.file.publish()
    }
}

/// What came out of some clusters.
struct Share<'a> {
    /// The compressed ones, one behind the other.
    bytes: Vec<u8>,
    /// Number of each of them, and its length.
    packed: Vec<(u64, usize)>,
    /// Those that do not compress.
    plain: Vec<Numbered<'a>>,
}

fn compress<'a>(clusters: &[Numbered<'a>]) -> io::Result<Share<'a>> {
    let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
    let mut share = Share { bytes: Vec::new(), packed: Vec::new(), plain: Vec::new() };
    let mut packed = vec![0; zstd::zstd_safe::compress_bound(CLUSTER_BYTES)];
    for (number, cluster) in clusters {
        let len = if cluster.len() < CLUSTER_BYTES {
            // A compressed cluster is always whole, even where the disk ends inside it.
            let mut whole = cluster.to_vec();
            whole.resize(CLUSTER_BYTES, 0);
            zstd.compress_to_buffer(&whole, &mut packed[..])?
        } else {
            zstd.compress_to_buffer(cluster, &mut packed[..])?
        };
        if len > PACKED_BYTES_MAX {
            share.plain.push((*number, cluster));
        } else {
            share.bytes.extend_from_slice(&packed[..len]);
            share.packed.push((*number, len));
        }
    }
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes room and returns the place, with the blocks that were left behind.
    fn take(space: &mut Space, len: u64, place: Place) -> (u64, Vec<(u64, Vec<u16>)>) {
        let mut stored = Vec::new();
        let at = space.take(len, place, |block, counts| {
            stored.push((block, counts.to_vec()));
            Ok::<_, ()>(())
        });
        (at.unwrap(), stored)
    }

    #[test]
    fn pieces_are_counted_in_every_cluster_they_touch() {
        let mut space = Space::behind(3 * CLUSTER);
        assert_eq!(take(&mut space, 100, Place::Packed), (3 * CLUSTER, vec![]));
        assert_eq!(take(&mut space, CLUSTER - 100, Place::Packed), (3 * CLUSTER + 100, vec![]));
        assert_eq!(take(&mut space, 10, Place::Packed), (4 * CLUSTER, vec![]));
        assert_eq!(take(&mut space, CLUSTER, Place::Packed), (4 * CLUSTER + 10, vec![]));
        assert_eq!(take(&mut space, CLUSTER, Place::Aligned), (6 * CLUSTER, vec![]));
        assert_eq!(space.counts[..8], [1, 1, 1, 2, 2, 1, 1, 0]);
    }

    #[test]
    fn nothing_lies_across_a_border_and_its_first_cluster_stays_free() {
        let mut space = Space::behind(3 * CLUSTER);
        space.end = BLOCK_COVERS - 10;
        assert_eq!(take(&mut space, 10, Place::Packed), (BLOCK_COVERS - 10, vec![]));
        let (at, stored) = take(&mut space, 1, Place::Packed);
        assert_eq!((at, stored.len(), stored[0].0), (BLOCK_COVERS + CLUSTER, 1, 0));
        assert_eq!((stored[0].1[0], stored[0].1[REFCOUNTS - 1]), (1, 1));
        assert_eq!(space.counts[..3], [1, 1, 0]);
        space.end = 2 * BLOCK_COVERS - 5;
        let (at, stored) = take(&mut space, CLUSTER, Place::Aligned);
        assert_eq!((at, stored[0].0), (2 * BLOCK_COVERS + CLUSTER, 1));
        assert_eq!(stored[0].1[REFCOUNTS - 1], 0, "left free");
    }
}
