//! Who is hit: machines, backups, disks, ranges, and the files of the guest that lie there.
//!
//! A file is hit if reading it asks for a range that is lost. So every filesystem, volume manager and table in between is
//! right without being asked, and what is packed, scattered or stored in an inode counts, too. Long reads, which only fetch
//! content, are answered without being done: looking costs what the guest's metadata cost, not its data.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::walk::{BackupHoles, Holes, Walk};
use super::{BackupLoss, CheckReport, Damaged, DiskLoss, GuestLoss};
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_range};
use crate::guest::machine::GuestMachine;
use crate::guest::tree::{FileSystem, NodeId, NodeKind};
use crate::ops::OpsError;
use crate::ops::event::Control;
use crate::ops::files::FilesError;
use crate::ops::files::found::Found;
use crate::ops::files::listing::{Step, Way, walk};
use crate::repo::Repository;
use crate::repo::manifest::Manifest;
use crate::repo::salvage::{Remains, twice};
use crate::units::{ByteLen, GuestOffset};

/// Ranges of a disk that are told.
const RANGES_TOLD: usize = 100;
/// Files and directories of a disk that are told.
const FILES_TOLD: usize = 100;
/// Machines whose guests are looked into.
const GUESTS_MAX: usize = 100;
/// Content is read so much at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Reads of this length fetch content: no filesystem's metadata come in such pieces.
const CONTENT_BYTES_MIN: usize = 128 << 10;

/// Says what damaged backups miss.
pub fn losses(
    repository: &Arc<Repository>,
    remains: &[Remains],
    damaged: &Damaged,
    control: Control<'_>,
    report: &mut CheckReport,
) -> Result<(), OpsError> {
    for id in &damaged.unreadable {
        report.damaged_backups.push(format!("{id}: its manifest cannot be read"));
        report.losses.push(BackupLoss {
            backup: *id,
            machine: None,
            instant: None,
            disks: Vec::new(),
            definition_files: Vec::new(),
            repairable: false,
        });
    }
    let mut walk = Walk::new(repository, remains);
    let mut manifests = Vec::new();
    for id in &damaged.backups {
        // One that was forgotten meanwhile is nobody's loss.
        manifests.extend(twice(|| repository.manifest(*id)));
    }
    manifests.sort_by_key(|manifest| (manifest.instant, manifest.backup));
    let mut looked_into: HashSet<&str> = HashSet::new();
    let mut losses = Vec::new();
    // The newest first: its guest is the one that is looked into.
    for manifest in manifests.iter().rev() {
        let holes = walk.backup(manifest, control)?;
        if !holes.is_damaged() {
            continue;
        }
        let mut loss = loss_of(manifest, &holes);
        let is_of_interest = !holes.has_lost_nothing() && looked_into.len() < GUESTS_MAX;
        if is_of_interest && looked_into.insert(&manifest.identity) {
            for (slot, guest) in guest_losses(repository, manifest, &holes.disks, control)? {
                if let Some(disk) = loss.disks.iter_mut().find(|disk| disk.slot == slot) {
                    disk.guest = Some(guest);
                }
            }
        }
        losses.push(loss);
    }
    losses.reverse();
    report.damaged_backups.extend(losses.iter().map(sentence));
    report.losses.extend(losses);
    Ok(())
}

/// One line on what a backup misses.
fn sentence(loss: &BackupLoss) -> String {
    let machine = loss.machine.as_deref().unwrap_or_default();
    let disks = loss.disks.iter().filter(|disk| disk.lost_bytes > 0);
    let mut parts: Vec<String> =
        disks.map(|disk| format!("disk {}: {} bytes are lost", disk.slot, disk.lost_bytes)).collect();
    parts.extend(loss.definition_files.iter().map(|name| format!("{name} is damaged")));
    if loss.repairable {
        parts.push("nothing is lost, but it can be read only after a repair".to_owned());
    }
    format!("{machine} ({}): {}", loss.backup, parts.join(", "))
}

fn loss_of(manifest: &Manifest, holes: &BackupHoles) -> BackupLoss {
    let disks = manifest.disks.iter().zip(&holes.disks).filter(|(_, holes)| !holes.is_empty());
    let files = manifest.files.iter().zip(&holes.files).filter(|(_, holes)| !holes.is_empty());
    BackupLoss {
        backup: manifest.backup,
        machine: Some(manifest.machine.clone()),
        instant: Some(manifest.instant),
        disks: disks
            .map(|(disk, holes)| DiskLoss {
                slot: disk.slot.clone(),
                size: disk.size,
                lost_bytes: holes.bytes(),
                ranges: holes
                    .lost
                    .iter()
                    .take(RANGES_TOLD)
                    .map(|range| (range.start, range.end - range.start))
                    .collect(),
                more_ranges: holes.lost.len().saturating_sub(RANGES_TOLD),
                guest: None,
            })
            .collect(),
        definition_files: files.map(|(file, _)| file.name.clone()).collect(),
        repairable: holes.is_only_aside(),
    }
}

/// What of the guest lies in the holes of its disks, by the disks' slots.
fn guest_losses(
    repository: &Arc<Repository>,
    manifest: &Manifest,
    holes: &[Holes],
    control: Control<'_>,
) -> Result<Vec<(String, GuestLoss)>, OpsError> {
    let touched = Arc::new(Touched::default());
    let mut disks: Vec<Arc<dyn Disk>> = Vec::new();
    for (number, (record, holes)) in manifest.disks.iter().zip(holes).enumerate() {
        let below = match repository.disk(manifest, number) {
            Ok(disk) => Some(disk),
            Err(error) if crate::repo::salvage::is_of_object(repository, &error) => None, // all of it is lost
            Err(error) => return Err(error.into()),
        };
        let lost = if below.is_some() { holes.lost.clone() } else { std::iter::once(0..record.size).collect() };
        disks.push(Arc::new(Holey { number, size: record.size, below, lost, touched: Arc::clone(&touched) }));
    }
    let mut found: Vec<GuestLoss> = manifest.disks.iter().map(|_| GuestLoss::default()).collect();
    let guest = GuestMachine::new(&disks);
    // What is not even known to be a volume.
    for number in touched.take() {
        found[number].unknown.push("its partition table, or what says what lies on its partitions".to_owned());
    }
    for name in guest.names() {
        let opened = guest.filesystem(name).expect("the name was taken from the list");
        let Ok(filesystem) = opened else {
            touched.take().into_iter().for_each(|number| note(&mut found[number].unknown, name.to_owned()));
            continue;
        };
        touched.take().into_iter().for_each(|number| note(&mut found[number].unknown, name.to_owned()));
        let root = filesystem.root();
        let start = Found { place: name.as_bytes().to_vec(), node: root, filesystem, missing: Vec::new() };
        let walked = walk(&start, control, &mut |step| {
            look(&start, step, &touched, &mut found);
            Ok(Way::Into)
        });
        match walked {
            Err(FilesError::Interrupted) => return Err(OpsError::Interrupted),
            Err(FilesError::Ops(error)) => return Err(error),
            _ => {}
        }
    }
    let slots = manifest.disks.iter().map(|disk| disk.slot.clone());
    Ok(slots.zip(found).zip(holes).filter(|(_, holes)| !holes.lost.is_empty()).map(|(loss, _)| loss).collect())
}

fn note(list: &mut Vec<String>, name: String) {
    if list.len() < FILES_TOLD && !list.contains(&name) {
        list.push(name);
    }
}

/// One step of the walk through a filesystem: is what it met hit?
fn look(start: &Found, step: Step<'_>, touched: &Touched, found: &mut [GuestLoss]) {
    match step {
        Step::Node(item) => {
            if item.metadata.kind == NodeKind::File {
                read_all(start.filesystem.as_ref(), item.node, item.metadata.size, touched);
            } else if item.metadata.kind == NodeKind::Symlink {
                let _ = start.filesystem.read_link(item.node);
            }
            for number in touched.take() {
                if found[number].files.len() < FILES_TOLD {
                    found[number].files.push(start.shown(item.path));
                } else {
                    found[number].more_files += 1;
                }
            }
        }
        Step::Leave(_) => {}
        Step::Fault(error) => {
            let place = match &error {
                FilesError::Node { place, .. } => place.clone(),
                other => other.to_string(),
            };
            touched.take().into_iter().for_each(|number| note(&mut found[number].unknown, place.clone()));
        }
    }
}

/// Asks for all of a file's content, until a hole is met.
fn read_all(filesystem: &dyn FileSystem, file: NodeId, size: u64, touched: &Touched) {
    let mut buf = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < size && !touched.any() {
        let extent = filesystem.extent_at(file, at).ok().flatten();
        if let Some(hole) = extent.filter(|extent| extent.kind != ExtentKind::Data) {
            at = at.saturating_add(hole.len.0.max(1));
            continue;
        }
        let want = usize::try_from(size - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        touched.skip.store(true, Ordering::Relaxed);
        let outcome = filesystem.read_at(file, at, &mut buf[..want]);
        touched.skip.store(false, Ordering::Relaxed);
        if outcome.is_err() && !touched.any() {
            // What is packed cannot be unpacked from nothing: this piece is fetched.
            let _ = filesystem.read_at(file, at, &mut buf[..want]);
        }
        at += want as u64;
    }
}

/// Which disks' holes were met, and whether long reads are to be left out.
#[derive(Default)]
struct Touched {
    disks: Mutex<Vec<usize>>,
    skip: AtomicBool,
}

impl Touched {
    fn note(&self, number: usize) {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        if !disks.contains(&number) {
            disks.push(number);
        }
    }

    fn any(&self) -> bool {
        !self.disks.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut self.disks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A disk with holes: what lies in them cannot be read, and that is noted.
struct Holey<D> {
    number: usize,
    size: u64,
    /// `None` if nothing of it can be read.
    below: Option<D>,
    lost: Vec<Range<u64>>,
    touched: Arc<Touched>,
}

impl<D: Disk> Disk for Holey<D> {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        if buf.is_empty() {
            return Ok(());
        }
        let end = at.0 + buf.len() as u64;
        let next = self.lost.partition_point(|range| range.end <= at.0);
        let is_hit = self.lost.get(next).is_some_and(|range| range.start < end);
        match &self.below {
            Some(below) if !is_hit => {
                if buf.len() >= CONTENT_BYTES_MIN && self.touched.skip.load(Ordering::Relaxed) {
                    return Ok(());
                }
                below.read_at(at, buf)
            }
            _ => {
                self.touched.note(self.number);
                Err(DiskError::Backing("this range is lost".into()))
            }
        }
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        match &self.below {
            Some(below) => below.extent_at(at),
            None => Ok(Extent { kind: ExtentKind::Data, len: crate::disk::check_inside(self.size(), at)? }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn holes_are_noted_where_they_are_met_and_nowhere_else() {
        let touched = Arc::new(Touched::default());
        let below = Some(MemoryDisk(vec![7; 1 << 20]));
        let lost = vec![100..200, 300..301];
        let disk = Holey { number: 3, size: 1 << 20, below, lost, touched: Arc::clone(&touched) };
        for (at, len, hit) in [
            (0, 100, false),
            (0, 101, true),
            (199, 1, true),
            (200, 100, false),
            (200, 101, true),
            (301, 10, false),
            (150, 0, false),
            (250, 0, false),
        ] {
            let mut buf = vec![0; len];
            let outcome = disk.read_at(GuestOffset(at), &mut buf);
            assert_eq!(outcome.is_err(), hit, "{at}+{len}");
            assert_eq!(touched.take(), if hit { vec![3] } else { vec![] }, "{at}+{len}");
            assert!(hit || buf.iter().all(|byte| *byte == 7));
        }
        let mut long = vec![1; CONTENT_BYTES_MIN];
        touched.skip.store(true, Ordering::Relaxed);
        disk.read_at(GuestOffset(4096), &mut long).unwrap();
        assert_eq!(long[0], 1, "content is not fetched");
        assert!(disk.read_at(GuestOffset(0), &mut long).is_err() && touched.any());
    }
}
