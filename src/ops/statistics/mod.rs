//! How much is in a repository, and what each backup and machine costs there. Nothing is changed.
//!
//! In here: gathering it. Who needs which chunk is `walk` and `owners`; how it grows is `growth`; how full the medium is,
//! `space`.
//!
//! What the numbers mean, exactly:
//!
//! - *size*: of the disks, as the guest sees them;
//! - *data*: bytes of them that are not zeros, as chunks are cut, and of definition files, as often as they are there;
//! - *unique*: bytes that would leave the store if this backup alone (or all backups of this machine) were forgotten and
//!   all of that were pruned: the stored bytes of chunks, parts of maps included, that nothing else needs. A chunk's stored
//!   bytes are its share of its blob, as compressed and sealed, by its length. Headers, directories and padding of packs are
//!   left out, and so are manifests;
//! - *shared*: what of the data is in other backups, too, or more than once in this one: data less the plain bytes of
//!   unique chunks;
//! - *added*: what was added to the store when it was made.

mod growth;
mod owners;
pub mod space;
mod walk;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{Control, Event, OpsError};
use crate::repo::brief::Brief;
use crate::repo::ids::BackupId;
use crate::repo::{RepoError, Repository};
use growth::Added;
pub use growth::{Growth, Week};
use space::{Left, Thresholds};
use walk::{Backups, owned};

/// What a repository holds. Bytes, unless said.
#[derive(Debug, Default, Serialize)]
pub struct RepositoryStatistics {
    /// Number of backups.
    pub backups: usize,
    /// Number of machines.
    pub machines: usize,
    /// Sum of the sizes of all backed-up disks.
    pub logical: u64,
    /// Sum of the data of all backups: what they would need without deduplication and compression, but without zeros.
    pub data: u64,
    /// The same, each chunk once.
    pub distinct: u64,
    /// That, as it is stored.
    pub compressed: u64,
    /// Sum of all objects.
    pub stored_bytes: u64,
    /// Objects by folder: how many, how many bytes.
    pub stored: BTreeMap<String, (u64, u64)>,
    /// Stored bytes of chunks that no backup needs: of forgotten backups and dead runs.
    pub unneeded: u64,
    /// Chunks of data that backups need and no pack has: see `check`.
    pub missing_chunks: u64,
    /// How it grows.
    pub growth: Growth,
    /// What is left on its medium; null where nobody knows.
    pub space: Option<Left>,
    /// Days until that is used up, if nothing is pruned; null where nobody knows.
    pub days_left: Option<u64>,
    /// By machine.
    pub by_machine: BTreeMap<String, MachineStatistics>,
    /// By backup, of the machine that was asked for, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_backup: Vec<BackupStatistics>,
}

/// What one machine has in a repository. Bytes, unless said.
#[derive(Debug, Default, Serialize)]
pub struct MachineStatistics {
    /// Number of backups.
    pub backups: usize,
    /// Size of its disks at its newest backup.
    pub size: u64,
    /// Data of its newest backup.
    pub data: u64,
    /// What would go if all its backups went.
    pub unique: u64,
    /// What its backups added to the store when they were made.
    pub added: u64,
}

/// What one backup has in a repository. Bytes, unless said.
#[derive(Debug, Serialize)]
pub struct BackupStatistics {
    /// Its id.
    pub backup: BackupId,
    /// The instant it shows.
    pub instant: Timestamp,
    /// Size of its disks.
    pub size: u64,
    /// Their data.
    pub data: u64,
    /// What would go if it went alone.
    pub unique: u64,
    /// What of its data is in other backups, too, or more than once in this one.
    pub shared: u64,
    /// What it added to the store when it was made.
    pub added: u64,
}

/// What is to be gathered.
pub struct StatisticsOptions<'o> {
    /// The machine whose backups are told one by one.
    pub machine: Option<&'o str>,
    /// From when on the medium counts as nearly full.
    pub thresholds: &'o Thresholds,
    /// For so many chunks of data at once it is known who needs them: what bounds the memory, at 4 bytes each.
    pub chunks_at_once: usize,
}

impl<'o> StatisticsOptions<'o> {
    /// With the memory that any host has.
    pub fn new(machine: Option<&'o str>, thresholds: &'o Thresholds) -> StatisticsOptions<'o> {
        StatisticsOptions { machine, thresholds, chunks_at_once: walk::CHUNKS_AT_ONCE }
    }
}

/// Gathers the statistics.
///
/// # Errors
/// What the repository says.
pub fn statistics(
    repository: &Repository,
    briefs: &[Arc<Brief>],
    options: &StatisticsOptions<'_>,
    control: Control<'_>,
) -> Result<RepositoryStatistics, OpsError> {
    let mut statistics = RepositoryStatistics { backups: briefs.len(), ..RepositoryStatistics::default() };
    count_objects(repository, &mut statistics)?;
    repository.sync_index(&mut |_| {})?;
    control.tell(Event::Step("walking the backups' maps"));
    let numbers: BTreeMap<&str, u32> = machines(briefs);
    let machine_of: Vec<u32> = briefs.iter().map(|brief| numbers[brief.machine.as_str()]).collect();
    let ids: Vec<BackupId> = briefs.iter().map(|brief| brief.backup).collect();
    let backups = Backups { ids: &ids, machine_of: &machine_of, machines: numbers.len() };
    let owned = owned(repository, &backups, options.chunks_at_once, control)?;
    for (number, brief) in briefs.iter().enumerate() {
        let of_machine = statistics.by_machine.entry(brief.machine.clone()).or_default();
        let added = brief.statistics.stored.unwrap_or(0);
        of_machine.backups += 1;
        of_machine.size = brief.statistics.size;
        of_machine.data = owned.held[number];
        of_machine.added += added;
        statistics.logical += brief.statistics.size;
        statistics.data += owned.held[number];
        if options.machine == Some(brief.machine.as_str()) {
            statistics.by_backup.push(BackupStatistics {
                backup: brief.backup,
                instant: brief.instant,
                size: brief.statistics.size,
                data: owned.held[number],
                unique: owned.by_backup[number].stored,
                shared: owned.held[number].saturating_sub(owned.by_backup[number].plain),
                added,
            });
        }
    }
    for (name, number) in numbers {
        if let Some(of_machine) = statistics.by_machine.get_mut(name) {
            of_machine.unique = owned.by_machine[number as usize].stored;
        }
    }
    statistics.machines = statistics.by_machine.len();
    statistics.distinct = owned.data.plain;
    statistics.compressed = owned.data.stored;
    statistics.missing_chunks = owned.missing;
    statistics.unneeded = owned.unneeded;
    statistics.growth = growth(briefs, Timestamp::now());
    statistics.space = left(repository, options.thresholds)?;
    statistics.days_left = statistics.space.and_then(|left| statistics.growth.days_left(left.free));
    Ok(statistics)
}

/// What is left on the medium that a repository lies on; `None` where nobody knows.
///
/// # Errors
/// What the store says.
pub fn left(repository: &Repository, thresholds: &Thresholds) -> Result<Option<Left>, RepoError> {
    Ok(repository.store().space()?.and_then(|space| thresholds.judge(space)))
}

/// How the store grows, by what is known of backups without reading them.
pub fn growth(briefs: &[Arc<Brief>], now: Timestamp) -> Growth {
    let mut met = std::collections::BTreeSet::new();
    let added: Vec<Added> = briefs
        .iter()
        .map(|brief| Added {
            finished: brief.finished,
            bytes: brief.statistics.stored.unwrap_or(0),
            is_first: met.insert((brief.identity.as_str(), brief.machine.as_str())),
        })
        .collect();
    Growth::of(&added, now, &TimeZone::system())
}

/// The machines, numbered.
fn machines(briefs: &[Arc<Brief>]) -> BTreeMap<&str, u32> {
    let mut machines: BTreeMap<&str, u32> = briefs.iter().map(|brief| (brief.machine.as_str(), 0)).collect();
    for (number, machine) in (0u32..).zip(machines.values_mut()) {
        *machine = number;
    }
    machines
}

fn count_objects(repository: &Repository, statistics: &mut RepositoryStatistics) -> Result<(), OpsError> {
    repository.store().list("", &mut |object| {
        let folder = object.name.as_str().split_once('/').map_or("config", |(folder, _)| folder).to_owned();
        let entry = statistics.stored.entry(folder).or_default();
        entry.0 += 1;
        entry.1 += object.len;
        statistics.stored_bytes += object.len;
        ControlFlow::Continue(())
    })?;
    Ok(())
}
