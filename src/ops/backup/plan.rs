//! Which segments of a disk may have changed since an earlier backup.
//!
//! A segment is taken over unread only if the earlier backup's whole chain is still there, file by file the same, as the
//! lower part of today's chain, and no redo log above it stores anything for that segment. Whatever is short of that is
//! read. Even so, a few unchanged segments are read again as a sample; one difference, and the whole disk is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::source::SourceDisk;
use crate::capture::identity::{LayerIdentity, common_frozen_base};
use crate::disk::DiskError;
use crate::disk::cursor::{ExtentCursor, RangeKind};
use crate::disk::stack::Stack;
use crate::repo::brief::{Brief, LayersDigest};
use crate::repo::ids::{BackupId, ChunkId};
use crate::repo::map::NODE_SEGMENTS;
use crate::repo::{BackupDisk, RepoError, Repository};

/// Segments of a disk that are read again although they are believed unchanged: 32 MiB at most. One run in which a
/// hundredth of the "unchanged" segments lies is noticed with 8 %; thirty nightly runs notice it with 92 %.
const SAMPLE_SEGMENTS: usize = 8;

/// The machine's earlier backups.
pub struct Earlier {
    repository: Arc<Repository>,
    /// Newest first.
    briefs: Vec<Arc<Brief>>,
    full_read: bool,
}

/// An earlier backup of one disk that today's can be built on.
pub struct Reference {
    /// The backup.
    pub backup: BackupId,
    /// Its disk.
    pub disk: BackupDisk,
    /// The redo logs above what it recorded; `None` if there are none: nothing changed.
    pub changes: Option<Stack>,
}

/// What one disk is built on.
#[derive(Default)]
pub struct Base {
    /// Whose unchanged segments are taken over.
    pub reference: Option<Reference>,
    /// Without a reference: the disk as the newest backup has it. Only a guess at what will be read.
    pub guess: Option<BackupDisk>,
    /// What could not be used, and why.
    pub warnings: Vec<String>,
}

impl Earlier {
    /// Nothing to build on.
    pub fn none(repository: &Arc<Repository>) -> Earlier {
        Earlier { repository: Arc::clone(repository), briefs: Vec::new(), full_read: true }
    }

    /// Builds on these, newest first; with `full_read` on none.
    pub fn new(repository: &Arc<Repository>, briefs: Vec<Arc<Brief>>, full_read: bool) -> Earlier {
        Earlier { repository: Arc::clone(repository), briefs, full_read }
    }

    /// What `disk` is best built on: of the backups whose chain lies whole under today's, the one with the most layers, and
    /// of those the newest. Briefs say which that may be; the manifest itself, and it alone, proves it.
    pub fn base_of(&self, disk: &SourceDisk, now: &[LayerIdentity]) -> Base {
        let mut base = Base::default();
        if self.full_read {
            return base;
        }
        for above in 0..now.len() {
            let layers = serde_json::to_value(&now[above..]).expect("plain data serialises");
            let wanted = LayersDigest::of(&layers);
            let lies_below = |brief: &Brief| {
                brief.disks.iter().any(|recorded| recorded.slot == disk.slot && recorded.layers == wanted)
            };
            for brief in self.briefs.iter().filter(|brief| lies_below(brief)) {
                match self.reference(brief.backup, disk, now, now.len() - above) {
                    Ok(Some(reference)) => {
                        base.reference = Some(reference);
                        return base;
                    }
                    Ok(None) => {}
                    Err(error) => base.warnings.push(unusable(&disk.slot, brief.backup, &error)),
                }
            }
        }
        base.guess = self.guess(disk);
        base
    }

    /// The disk as the newest backup has it, if that can be read.
    fn guess(&self, disk: &SourceDisk) -> Option<BackupDisk> {
        let newest = self.briefs.first()?;
        let size = disk.image.size().0;
        let number = newest.disks.iter().position(|brief| brief.slot == disk.slot && brief.costs.size == size)?;
        let manifest = self.repository.manifest(newest.backup).ok()?;
        // The brief only spares reading the manifest, which alone says what there is.
        manifest.disks.get(number).filter(|record| record.slot == disk.slot && record.size == size)?;
        self.repository.disk(&manifest, number).ok()
    }

    /// The backup `id` as a reference, if what it recorded of `disk` are the lowest `layers` layers of `now`.
    fn reference(
        &self,
        id: BackupId,
        disk: &SourceDisk,
        now: &[LayerIdentity],
        layers: usize,
    ) -> Result<Option<Reference>, RepoError> {
        let manifest = self.repository.manifest(id)?;
        let Some(number) = manifest.disks.iter().position(|record| record.slot == disk.slot) else { return Ok(None) };
        let record = &manifest.disks[number];
        let before = serde_json::from_value::<Vec<LayerIdentity>>(record.layers.clone()).unwrap_or_default();
        if record.size != disk.image.size().0 || common_frozen_base(&before, now) != layers {
            return Ok(None);
        }
        let recorded = self.repository.disk(&manifest, number)?;
        let changes = disk.image.changes_of_upper(now.len() - layers);
        Ok(Some(Reference { backup: id, disk: recorded, changes }))
    }
}

fn unusable(slot: &str, backup: BackupId, error: &RepoError) -> String {
    format!("disk {slot}: backup {backup} cannot be built on: {error}")
}

/// Segments to read again although believed unchanged: drawn among those of the reference that are not zero and that no
/// redo log touches, ascending.
///
/// # Errors
/// What reading the reference's map, or the redo logs', says.
pub fn sample(reference: &Reference) -> Result<Vec<u64>, SampleError> {
    let disk = &reference.disk;
    let full_nodes: Vec<u64> =
        (0u64..).zip(disk.nodes()).filter(|(_, id)| **id != ChunkId::ZERO).map(|(n, _)| n).collect();
    let mut drawn = BTreeSet::new();
    // Where nearly all has changed, unchanged segments are rarely met: that many tries, and no more.
    for _ in 0..SAMPLE_SEGMENTS * 8 {
        let Some(node) = draw(full_nodes.len()).map(|at| full_nodes[at]) else { break };
        let lists = disk.node(node).map_err(SampleError::Map)?;
        let full: Vec<u64> =
            (0u64..).zip(lists.iter()).filter(|(_, id)| **id != ChunkId::ZERO).map(|(n, _)| n).collect();
        let Some(at) = draw(full.len()) else { continue };
        let segment = node * NODE_SEGMENTS + full[at];
        let from = disk.shape().segment_at(segment);
        let range = from..from + disk.shape().segment_len(segment) as u64;
        let changed = match &reference.changes {
            Some(changes) => ExtentCursor::new(changes).kind_of(range).map_err(SampleError::Source)? != RangeKind::Hole,
            None => false,
        };
        if !changed {
            drawn.insert(segment);
        }
        if drawn.len() == SAMPLE_SEGMENTS {
            break;
        }
    }
    Ok(drawn.into_iter().collect())
}

/// Why no sample could be drawn.
pub enum SampleError {
    /// The reference's map cannot be read.
    Map(RepoError),
    /// The redo logs' maps cannot be read.
    Source(DiskError),
}

/// A random number below `len`; `None` for 0. The tiny bias of the remainder does not matter for a sample.
fn draw(len: usize) -> Option<usize> {
    let word = u64::from_le_bytes(crate::repo::ids::random());
    let at = word.checked_rem(len as u64)?;
    usize::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_stays_below_its_limit() {
        assert_eq!(draw(0), None);
        assert!((0..1000).all(|_| draw(3).is_some_and(|at| at < 3)));
    }
}
