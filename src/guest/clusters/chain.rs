//! The clusters of one file, in their order.
//!
//! A chain is walked once, before the first byte of its file is given to anybody, so that no chain that bites its own tail
//! passes for content. What is kept are marks, every 2^n-th cluster, at most [`MARKS_MAX`]; between two marks the table is
//! asked again.

use super::table::Entries;
use super::{Clusters, corrupt};
use crate::guest::GuestError;

/// Marks of a chain at most: one of 4 GiB in 512-byte clusters then has one every 2048 clusters.
const MARKS_MAX: usize = 4096;

/// The clusters of a file that can be found.
#[derive(Debug)]
pub(in crate::guest) struct Chain {
    first: u32,
    /// How many: those before the damage, if there is any.
    len: u32,
    /// How many were asked for.
    wanted: u32,
    places: Places,
    damage: Option<Damage>,
}

#[derive(Debug)]
enum Places {
    /// One after the other.
    Run,
    /// Every `2^spacing_log`-th of them.
    Marks { spacing_log: u32, marks: Vec<u32> },
}

/// Why a chain does not go on, to be said to everybody who needs more of it.
#[derive(Debug)]
struct Damage {
    field: &'static str,
    at: u64,
    expected: String,
    found: String,
}

impl Chain {
    /// Clusters without a chain: `len` from `first`, which are in the heap.
    pub fn run(first: u32, len: u32) -> Chain {
        Chain { first, len, wanted: len, places: Places::Run, damage: None }
    }

    /// Follows the table, up to the chain's end or so many clusters.
    pub fn walk(clusters: &Clusters, first: u32, wanted: u32) -> Result<Chain, GuestError> {
        let mut chain =
            Chain { first, len: 0, wanted, places: Places::Marks { spacing_log: 0, marks: Vec::new() }, damage: None };
        let mut entries = clusters.entries();
        let mut next = Some(first);
        // Brent's method: a chain that comes back to where it was at a power of two goes round.
        // It needs up to three times the clusters before the first one that comes again; a sound file ends before that.
        let (mut anchor, mut steps, mut power) = (None, 0u64, 1u64);
        let mut left = u64::from(wanted).saturating_mul(4).saturating_add(8);
        while let Some(cluster) = next.filter(|_| left > 0 && wanted > 0) {
            if anchor == Some(cluster) {
                return Err(corrupt(
                    "file allocation table",
                    clusters.heap.position(first),
                    format!("a chain from cluster {first} that ends"),
                    format!("one that comes back to cluster {cluster}"),
                ));
            }
            steps += 1;
            if steps == power {
                (anchor, steps, power) = (Some(cluster), 0, power * 2);
            }
            left -= 1;
            if chain.len < wanted {
                chain.push(cluster);
            }
            next = match entries.next(cluster) {
                Ok(next) => next,
                // What comes before it is whole, and may be all that is wanted.
                Err(GuestError::Corrupt { field, at, expected, found }) => {
                    chain.damage = Some(Damage { field, at: at.0, expected, found }).filter(|_| chain.len < wanted);
                    None
                }
                Err(other) => return Err(other),
            };
        }
        Ok(chain)
    }

    fn push(&mut self, cluster: u32) {
        let Places::Marks { spacing_log, marks } = &mut self.places else { return };
        if self.len & ((1 << *spacing_log) - 1) == 0 {
            if marks.len() == MARKS_MAX {
                let mut keep = false;
                marks.retain(|_| {
                    keep = !keep;
                    keep
                });
                *spacing_log += 1;
            }
            // A full list had an even number, so the new spacing still divides this place.
            marks.push(cluster);
        }
        self.len += 1;
    }

    /// How many clusters there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Refuses a chain that is shorter than was asked for.
    pub fn check_whole(&self, clusters: &Clusters) -> Result<(), GuestError> {
        if self.len == self.wanted { Ok(()) } else { Err(self.end(clusters)) }
    }

    /// Why there is no more.
    fn end(&self, clusters: &Clusters) -> GuestError {
        match &self.damage {
            Some(damage) => corrupt(damage.field, damage.at, &damage.expected, &damage.found),
            None => corrupt(
                "file allocation table",
                clusters.heap.position(self.first),
                format!("a chain of {} clusters from cluster {}", self.wanted, self.first),
                format!("one of {}", self.len),
            ),
        }
    }

    /// The damage that ends it, if any.
    pub fn check_sound(&self) -> Result<(), GuestError> {
        match &self.damage {
            Some(damage) => Err(corrupt(damage.field, damage.at, &damage.expected, &damage.found)),
            None => Ok(()),
        }
    }

    /// The consecutive clusters from number `index` of the chain: the first, and how many, at most `most`.
    pub fn run_at(&self, clusters: &Clusters, index: u32, most: u32) -> Result<(u32, u32), GuestError> {
        let left = self.len.saturating_sub(index).min(most);
        if left == 0 {
            return Err(self.end(clusters));
        }
        let (spacing_log, marks) = match &self.places {
            Places::Run => return Ok((self.first + index, left)),
            Places::Marks { spacing_log, marks } => (*spacing_log, marks),
        };
        let mut entries = clusters.entries();
        let mark = usize::try_from(index >> spacing_log).expect("32 bits");
        let mut cluster = marks[mark];
        for _ in 0..index & ((1 << spacing_log) - 1) {
            cluster = self.step(clusters, &mut entries, cluster)?;
        }
        let (first, mut count) = (cluster, 1);
        while count < left {
            let next = self.step(clusters, &mut entries, cluster)?;
            if next != cluster + 1 {
                break;
            }
            (cluster, count) = (next, count + 1);
        }
        Ok((first, count))
    }

    /// The next of clusters that were walked before: there is one, unless the volume changed.
    fn step(&self, clusters: &Clusters, entries: &mut Entries<'_>, cluster: u32) -> Result<u32, GuestError> {
        entries.next(cluster)?.ok_or_else(|| self.end(clusters))
    }

    pub(super) fn weight(&self) -> u64 {
        let marks = match &self.places {
            Places::Run => 0,
            Places::Marks { marks, .. } => marks.capacity() as u64 * 4,
        };
        let damage = self.damage.as_ref().map_or(0, |damage| damage.expected.len() + damage.found.len());
        128 + marks + damage as u64
    }
}

impl Clusters {
    fn entries(&self) -> Entries<'_> {
        Entries::new(&self.volume, self.heap, self.table)
    }

    /// The cluster after one, by the table; `None` if it is its chain's last.
    pub fn next(&self, cluster: u32) -> Result<Option<u32>, GuestError> {
        self.entries().next(cluster)
    }
}
