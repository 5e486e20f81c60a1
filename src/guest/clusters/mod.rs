//! What FAT and exFAT have in common: a heap of clusters, a table that chains them, records of 32 bytes, names in UTF-16.
//! Not a filesystem; it knows neither.
//!
//! - `volume` the volume's bytes, metadata through a small cache of pages
//! - `table` the file allocation table in its four widths; `chain` what it says of one file, walked once and remembered
//! - `content` bytes of a chain, and the records of a directory
//! - `name` UTF-16 ↔ bytes; `moment` dates and times of day in 16 bits each
//!
//! The heap begins with cluster 2; a position on the volume is `heap + (cluster − 2) × bytes of a cluster`.

pub(super) mod chain;
pub(super) mod content;
pub(super) mod moment;
pub(super) mod name;
pub(super) mod table;
pub(super) mod volume;

use std::fmt::Display;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::GuestError;
use crate::disk::Disk;
use crate::recent;
use crate::units::GuestOffset;
use chain::Chain;
use table::Table;
use volume::Volume;

/// The number of the first cluster of a heap.
pub(super) const FIRST_CLUSTER: u32 = 2;
/// Bytes of remembered chains at most.
const CHAINS_BYTES: u64 = 4 << 20;
/// Chains remembered at most.
const CHAINS_MAX: usize = 16 << 10;

/// Where clusters lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heap {
    /// Where the first one begins.
    pub at: u64,
    /// Bytes of each, as a power of two: at most 25.
    pub cluster_log: u32,
    /// How many there are: below 2^32 − 16.
    pub clusters: u32,
}

impl Heap {
    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_log
    }

    /// Whether there is such a cluster.
    pub fn has(&self, cluster: u32) -> bool {
        cluster >= FIRST_CLUSTER && cluster - FIRST_CLUSTER < self.clusters
    }

    /// Where a cluster of the heap begins.
    pub fn position(&self, cluster: u32) -> u64 {
        // Below 2^32 × 2^25, after a heap that begins below 2^62.
        self.at + (u64::from(cluster.saturating_sub(FIRST_CLUSTER)) << self.cluster_log)
    }

    /// The cluster that byte `at` of the volume belongs to.
    pub fn cluster_of(&self, at: u64) -> Option<u32> {
        let number = u32::try_from(at.checked_sub(self.at)? >> self.cluster_log).ok()?.checked_add(FIRST_CLUSTER)?;
        self.has(number).then_some(number)
    }

    /// What a sound pointer is, for messages.
    pub fn range(&self) -> String {
        format!("a cluster from {FIRST_CLUSTER} to {}", u64::from(self.clusters) + 1)
    }
}

/// A volume of clusters.
pub(super) struct Clusters {
    pub volume: Volume,
    pub heap: Heap,
    table: Table,
    /// By first cluster, and how many were wanted.
    chains: Cache<(u32, u32), Arc<Chain>, ChainWeight>,
}

#[derive(Clone)]
struct ChainWeight;

impl Weighter<(u32, u32), Arc<Chain>> for ChainWeight {
    fn weight(&self, _: &(u32, u32), chain: &Arc<Chain>) -> u64 {
        chain.weight()
    }
}

impl Clusters {
    /// `table` has an entry for every cluster of `heap`.
    pub fn new(disk: Arc<dyn Disk>, heap: Heap, table: Table) -> Clusters {
        let chains = recent::weighed(CHAINS_MAX, CHAINS_BYTES, ChainWeight);
        Clusters { volume: Volume::new(disk), heap, table, chains }
    }

    /// The chain from a first cluster, up to its end or so many clusters.
    pub fn chain(&self, first: u32, wanted: u32) -> Result<Arc<Chain>, GuestError> {
        if let Some(known) = self.chains.get(&(first, wanted)) {
            return Ok(known);
        }
        let chain = Arc::new(Chain::walk(self, first, wanted)?);
        self.chains.insert((first, wanted), Arc::clone(&chain));
        Ok(chain)
    }

    /// Clusters that so many bytes need.
    pub fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.heap.cluster_bytes())
    }
}

/// Damage at byte `at` of the volume.
pub(super) fn corrupt(field: &'static str, at: u64, expected: impl Display, found: impl Display) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.to_string(), found: found.to_string() }
}
