//! How much is in a repository, and what it is worth: a reading of manifests and listings, nothing is changed.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::OpsError;
use crate::repo::ids::ChunkId;
use crate::repo::manifest::Manifest;
use crate::repo::map::ListEntry;
use crate::repo::{RepoError, Repository};

/// What a repository holds. Bytes, unless said.
#[derive(Debug, Default, serde::Serialize)]
pub struct RepositoryStatistics {
    /// Number of backups.
    pub backups: usize,
    /// Number of machines.
    pub machines: usize,
    /// Sum of the sizes of all backed-up disks.
    pub logical: u64,
    /// Sum of the chunks that all backups refer to, each as often as it is referred to: what they would need without
    /// deduplication and compression, but without zeros.
    pub referred: u64,
    /// The same, each chunk once.
    pub unique: u64,
    /// Objects by folder: how many, how many bytes.
    pub stored: BTreeMap<String, (u64, u64)>,
    /// Sum of all objects.
    pub stored_bytes: u64,
    /// By machine.
    pub by_machine: BTreeMap<String, MachineStatistics>,
}

/// What one machine has in a repository. Bytes, unless said.
#[derive(Debug, Default, serde::Serialize)]
pub struct MachineStatistics {
    /// Number of backups.
    pub backups: usize,
    /// Size of its disks at its newest backup.
    pub size: u64,
    /// Chunks that its backups refer to, each once.
    pub unique: u64,
    /// What its backups added to the store when they were made.
    pub added: u64,
}

/// Gathers the statistics. Every list of every backup is read once; needs memory for 32 bytes a distinct chunk.
///
/// # Errors
/// What the repository says.
pub fn statistics(repository: &Arc<Repository>) -> Result<RepositoryStatistics, OpsError> {
    let mut statistics = RepositoryStatistics::default();
    repository
        .store()
        .list("", &mut |object| {
            let folder = object.name.as_str().split_once('/').map_or("config", |(folder, _)| folder).to_owned();
            let entry = statistics.stored.entry(folder).or_default();
            entry.0 += 1;
            entry.1 += object.len;
            statistics.stored_bytes += object.len;
            ControlFlow::Continue(())
        })
        .map_err(RepoError::from)?;
    let mut first_damage = None;
    let manifests = repository.manifests(&mut |_, error| {
        first_damage.get_or_insert(error);
    })?;
    if let Some(error) = first_damage {
        return Err(error.into());
    }
    statistics.backups = manifests.len();
    let mut seen = Seen::default();
    for manifest in &manifests {
        let machine = statistics.by_machine.entry(manifest.machine.clone()).or_default();
        machine.backups += 1;
        machine.size = manifest.statistics.size;
        machine.added += manifest.statistics.stored.unwrap_or(0);
        statistics.logical += manifest.statistics.size;
        statistics.referred += seen.add(repository, manifest)?;
    }
    statistics.machines = statistics.by_machine.len();
    statistics.unique = seen.unique;
    for (machine, unique) in seen.unique_by_machine {
        statistics.by_machine.entry(machine).or_default().unique = unique;
    }
    Ok(statistics)
}

#[derive(Default)]
struct Seen {
    chunks: HashSet<ChunkId>,
    chunks_of: BTreeMap<String, HashSet<ChunkId>>,
    /// Bytes of chunks that a list refers to: lists recur from backup to backup.
    lists: std::collections::HashMap<ChunkId, u64>,
    unique: u64,
    unique_by_machine: BTreeMap<String, u64>,
}

impl Seen {
    fn add(&mut self, repository: &Arc<Repository>, manifest: &Manifest) -> Result<u64, OpsError> {
        let mut referred = 0;
        for number in 0..manifest.disks.len() {
            let disk = repository.disk(manifest, number)?;
            for segment in 0..disk.shape().segments() {
                let id = disk.list_id(segment)?;
                if id == ChunkId::ZERO {
                    continue;
                }
                let of_machine = self.chunks_of.entry(manifest.machine.clone()).or_default();
                if of_machine.insert(id) || !self.lists.contains_key(&id) {
                    let mut bytes = 0;
                    for entry in disk.list(segment)?.entries().iter() {
                        let ListEntry::Chunk(chunk, len) = entry else { continue };
                        bytes += u64::from(*len);
                        if self.chunks.insert(*chunk) {
                            self.unique += u64::from(*len);
                        }
                        if of_machine.insert(*chunk) {
                            *self.unique_by_machine.entry(manifest.machine.clone()).or_default() += u64::from(*len);
                        }
                    }
                    self.lists.insert(id, bytes);
                }
                referred += self.lists.get(&id).copied().unwrap_or(0);
            }
        }
        Ok(referred)
    }
}
