//! What is inside the guests of a mount's backups, opened when it is used and closed when others were used since: memory
//! does not grow with the backups that somebody looked into.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::backup::Inside;
use crate::disk::{DiskError, Extent};
use crate::guest::GuestError;
use crate::guest::machine::GuestMachine;
use crate::guest::tree::{Entry, ExtendedAttribute, FileSystem, Metadata, NodeId, Summary};
use crate::repo::ids::BackupId;
use crate::serve::fuse::shown::Fault;

/// Guests kept open, those used last. Each keeps some 10 MiB of what it read.
const OPEN_MAX: usize = 4;

/// The guests that are open, the one used last in front.
#[derive(Default)]
pub struct OpenGuests(Mutex<Vec<(BackupId, Slot)>>);

/// A guest, once one thread has opened it; the others wait for that.
type Slot = Arc<Mutex<Option<Arc<GuestMachine>>>>;

impl OpenGuests {
    /// The guest of `backup`, opened by `open` if it is not.
    ///
    /// # Errors
    /// What `open` failed with; the next call tries again.
    pub fn get(
        &self,
        backup: BackupId,
        open: impl FnOnce() -> Result<GuestMachine, Fault>,
    ) -> Result<Arc<GuestMachine>, Fault> {
        let slot = self.slot(backup);
        let mut guest = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = guest.as_ref() {
            return Ok(Arc::clone(guest));
        }
        let opened = Arc::new(open()?);
        *guest = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn slot(&self, backup: BackupId) -> Slot {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.iter().position(|(known, _)| *known == backup) {
            Some(at) => open[..=at].rotate_right(1),
            None => {
                open.truncate(OPEN_MAX - 1);
                open.insert(0, (backup, Slot::default()));
            }
        }
        Arc::clone(&open[0].1)
    }
}

/// One filesystem of a backup's guest, or the guest's view of all.
pub struct GuestTree {
    inside: Arc<Inside>,
    /// The volume; `None` for the view.
    volume: Option<String>,
    summary: Summary,
    root: NodeId,
}

impl GuestTree {
    /// The filesystem on `volume`, or the guest's view; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(inside: &Arc<Inside>, volume: Option<&str>) -> Result<Option<GuestTree>, Fault> {
        let guest = inside.guest()?;
        let Some(opened) = find(&guest, volume)? else { return Ok(None) };
        Ok(Some(GuestTree {
            inside: Arc::clone(inside),
            volume: volume.map(str::to_owned),
            summary: opened.summary().clone(),
            root: opened.root(),
        }))
    }

    /// The tree itself, opened anew if it was closed: nodes have the same numbers each time.
    fn tree(&self) -> Result<Arc<dyn FileSystem>, GuestError> {
        let found = self.inside.guest().and_then(|guest| find(&guest, self.volume.as_deref()));
        let backing = |fault: Fault| GuestError::Disk(DiskError::Backing(fault));
        found.map_err(backing)?.ok_or_else(|| backing("it is no longer there".into()))
    }
}

fn find(guest: &GuestMachine, volume: Option<&str>) -> Result<Option<Arc<dyn FileSystem>>, Fault> {
    let Some(volume) = volume else { return Ok(guest.view().map(|view| view as Arc<dyn FileSystem>)) };
    match guest.filesystem(volume) {
        Some(Ok(filesystem)) => Ok(Some(filesystem)),
        Some(Err(error)) => Err(format!("{volume}: {error}").into()),
        None => Ok(None),
    }
}

impl FileSystem for GuestTree {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        self.root
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        self.tree()?.metadata(node)
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        self.tree()?.read_directory(directory, visit)
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        self.tree()?.lookup(directory, name)
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        self.tree()?.read_at(file, at, buf)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        self.tree()?.extent_at(file, at)
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        self.tree()?.read_link(link)
    }

    fn extended_attributes(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        self.tree()?.extended_attributes(node)
    }

    fn streams(&self, node: NodeId) -> Result<Vec<(String, u64)>, GuestError> {
        self.tree()?.streams(node)
    }

    fn read_stream(&self, node: NodeId, stream: &str, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        self.tree()?.read_stream(node, stream, at, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, MemoryDisk};

    fn guest() -> Result<GuestMachine, Fault> {
        Ok(GuestMachine::new(&[Arc::new(MemoryDisk(vec![0; 4096])) as Arc<dyn Disk>]))
    }

    fn id(number: u8) -> BackupId {
        BackupId([number; 16])
    }

    #[test]
    fn the_guests_used_last_stay_open() {
        let open = OpenGuests::default();
        let first = open.get(id(0), guest).unwrap();
        for number in 1..OPEN_MAX as u8 {
            open.get(id(number), guest).unwrap();
        }
        assert!(Arc::ptr_eq(&first, &open.get(id(0), guest).unwrap()), "used lately");
        open.get(id(9), guest).unwrap();
        let known: Vec<u8> = open.0.lock().unwrap().iter().map(|(backup, _)| backup.0[0]).collect();
        assert_eq!(known, [9, 0, 3, 2]);
        let closed = open.get(id(1), || Err("cannot".into())).err().unwrap();
        assert_eq!(closed.to_string(), "cannot");
        open.get(id(1), guest).expect("tried again");
    }
}
