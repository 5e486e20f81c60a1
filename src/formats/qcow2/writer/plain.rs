//! Clusters as they are, in the order in which they arrive.
//!
//! Layout, in clusters:
//!
//! ```text
//! header | L1 table | data and L2 tables in any order … | refcount blocks | refcount table
//! ```
//!
//! Calls never overlap, so no cluster is written twice and nobody has to look one up: the state is the end of the file, an
//! atomic counter, and where the L2 tables lie. L2 entries go to the file with each call. Every cluster up to the end is
//! used exactly once, so all refcounts are 1 and need not be kept.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{
    CLUSTER, CLUSTER_BYTES, COPIED, Header, REFCOUNTS, TABLE_COVERS, TABLE_ENTRIES, l1_clusters, l1_entries, to_bytes,
};
use crate::formats::ImageError;
use crate::formats::sink::new_file::NewFile;
use crate::formats::sink::{DiskSink, Overwrite, TargetError, WriteOrder, check_blocks, check_inside, data_runs};
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// An uncompressed qcow2 image under construction.
#[derive(Debug)]
pub struct PlainSink {
    file: NewFile,
    size: ByteLen,
    /// The first cluster of the file that nobody has taken yet.
    next_cluster: AtomicU64,
    /// Where each L2 table lies; 0 for those that do not exist yet.
    tables: Mutex<Vec<u64>>,
}

/// Starts an uncompressed qcow2 image for a disk of `size` bytes that appears as `path` when it is finished.
///
/// # Errors
/// [`ImageError::Target`]: the name is taken, there is no such folder, the disk is no whole sectors or beyond 2 PiB.
pub fn create_plain(path: &Path, size: ByteLen, overwrite: Overwrite) -> Result<PlainSink, ImageError> {
    let entries = l1_entries(path, size)?;
    let file = NewFile::create(path, overwrite)?;
    let next_cluster = AtomicU64::new(1 + l1_clusters(entries));
    Ok(PlainSink { file, size, next_cluster, tables: Mutex::new(vec![0; entries as usize]) })
}

impl PlainSink {
    /// Takes room for `clusters` clusters at the end of the file.
    fn allocate(&self, clusters: u64) -> u64 {
        self.next_cluster.fetch_add(clusters, Ordering::Relaxed) * CLUSTER
    }

    /// Where L2 table number `table` lies; makes it if need be. A new one needs no writing: it is a hole of the file.
    fn table_at(&self, table: usize) -> u64 {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables[table] == 0 {
            tables[table] = self.allocate(1);
        }
        tables[table]
    }

    /// Stores whole clusters side by side (the disk's last may be short), then points their L2 entries to them.
    fn put(&self, at: u64, clusters: &[u8]) -> Result<(), TargetError> {
        let place = self.allocate(clusters.len().div_ceil(CLUSTER_BYTES) as u64);
        self.file.write_all_at(FileOffset(place), clusters)?;
        let end = at + clusters.len() as u64;
        let mut from = at;
        while from < end {
            let to = end.min((from / TABLE_COVERS + 1) * TABLE_COVERS);
            let entries: Vec<u64> =
                (from..to).step_by(CLUSTER_BYTES).map(|guest| COPIED | (place + (guest - at))).collect();
            let table = self.table_at((from / TABLE_COVERS) as usize);
            let index = from / CLUSTER % TABLE_ENTRIES as u64;
            self.file.write_all_at(FileOffset(table + index * 8), &to_bytes(&entries))?;
            from = to;
        }
        Ok(())
    }

    /// Writes the refcounts of all clusters, `used` ones and their own; returns where the table of the blocks lies and the
    /// number of clusters in the file.
    fn write_refcounts(&self, used: u64) -> Result<(Refcounts, u64), TargetError> {
        let refcounts = Refcounts::for_clusters(used);
        let total = used + refcounts.blocks + refcounts.table_clusters;
        let mut block = vec![[0, 1]; REFCOUNTS].concat();
        for number in 0..refcounts.blocks {
            let covered = (total - number * REFCOUNTS as u64).min(REFCOUNTS as u64);
            block[covered as usize * 2..].fill(0); // only the last block is not full
            self.file.write_all_at(FileOffset((used + number) * CLUSTER), &block)?;
        }
        let table: Vec<u64> = (0..refcounts.blocks).map(|number| (used + number) * CLUSTER).collect();
        self.file.write_all_at(FileOffset((used + refcounts.blocks) * CLUSTER), &to_bytes(&table))?;
        Ok((refcounts, total))
    }
}

/// How many clusters the refcounts fill.
#[derive(Debug, PartialEq, Eq)]
struct Refcounts {
    blocks: u64,
    table_clusters: u64,
}

impl Refcounts {
    /// For `used` clusters and those of the refcounts themselves.
    fn for_clusters(used: u64) -> Refcounts {
        let mut now = Refcounts { blocks: 0, table_clusters: 0 };
        loop {
            let blocks = (used + now.blocks + now.table_clusters).div_ceil(REFCOUNTS as u64);
            let next = Refcounts { blocks, table_clusters: (blocks * 8).div_ceil(CLUSTER) };
            if next == now {
                return now;
            }
            now = next;
        }
    }
}

impl DiskSink for PlainSink {
    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        check_blocks(self.file.target(), self.size, at, data.len() as u64, CLUSTER)?;
        for run in data_runs(data, CLUSTER_BYTES) {
            self.put(at.0 + run.start as u64, &data[run])?;
        }
        Ok(())
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        // The file is new: what nobody writes reads as zeros already.
        Ok(check_inside(self.file.target(), self.size, at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        self.file.check_whole()?;
        let (refcounts, total) = self.write_refcounts(self.next_cluster.load(Ordering::Relaxed))?;
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let l1: Vec<u64> = tables.iter().map(|at| if *at == 0 { 0 } else { COPIED | at }).collect();
        drop(tables);
        self.file.write_all_at(FileOffset(CLUSTER), &to_bytes(&l1))?;
        let header = Header {
            size: self.size.0,
            l1_entries: l1.len() as u32, // made from a u32
            l1_at: CLUSTER,
            refcount_table_at: (total - refcounts.table_clusters) * CLUSTER,
            refcount_table_clusters: refcounts.table_clusters as u32, // one for each 16 TiB
            is_zstd: false,
        };
        self.file.write_all_at(FileOffset(0), &header.encode())?;
        self.file.set_len(total * CLUSTER)?;
        Ok(vec![self.file.publish()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_cover_themselves() {
        let check = |used, blocks, table_clusters| {
            assert_eq!(Refcounts::for_clusters(used), Refcounts { blocks, table_clusters }, "{used}");
        };
        check(2, 1, 1);
        check(32_766, 1, 1);
        check(32_767, 2, 1);
        check(2 * 32_768 - 3, 2, 1);
        check(2 * 32_768 - 2, 3, 1);
        // 8192 blocks fill the first cluster of the table.
        check(8192 * 32_768 - 8193, 8192, 1);
        check(8192 * 32_768 - 8192, 8193, 2);
        for used in (1..200_000).step_by(997) {
            let Refcounts { blocks, table_clusters } = Refcounts::for_clusters(used);
            assert!(blocks * 32_768 >= used + blocks + table_clusters);
        }
    }
}
