//! One backup in a mount: its disks, its guest's files, its definition files.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::folder::Fixed;
use super::guest::GuestTree;
use super::{Mount, distinct, time};
use crate::disk::{Disk, MemoryDisk};
use crate::formats::vmdk;
use crate::guest::machine::GuestMachine;
use crate::guest::tree::Time;
use crate::ops::OpsError;
use crate::ops::definition_file;
use crate::repo::Repository;
use crate::repo::ids::BackupId;
use crate::repo::manifest::Manifest;
use crate::serve::fuse::shown::{Fault, Folder, Name, NameKind, Shown};
use crate::serve::read_ahead::Preparation;
use crate::units::ByteLen;

/// A backup's folder; its manifest is read when somebody looks inside.
pub struct BackupFolder {
    mount: Arc<Mount>,
    backup: BackupId,
    inside: Mutex<Weak<Inside>>,
}

/// What is in it.
pub(super) struct Inside {
    mount: Arc<Mount>,
    manifest: Manifest,
}

/// The disks of a backup, in the machine's order.
///
/// # Errors
/// [`OpsError::Repo`] if a disk's map is damaged.
pub fn opened_disks(repository: &Arc<Repository>, manifest: &Manifest) -> Result<Vec<Arc<dyn Disk>>, OpsError> {
    let disk = |number| Ok(Arc::new(repository.disk(manifest, number)?) as Arc<dyn Disk>);
    (0..manifest.disks.len()).map(disk).collect()
}

impl BackupFolder {
    pub(super) fn new(mount: Arc<Mount>, backup: BackupId) -> BackupFolder {
        BackupFolder { mount, backup, inside: Mutex::default() }
    }

    fn inside(&self) -> Result<Arc<Inside>, Fault> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inside) = inside.upgrade() {
            return Ok(inside);
        }
        let manifest = self.mount.repository.manifest(self.backup)?;
        let opened = Arc::new(Inside { mount: Arc::clone(&self.mount), manifest });
        *inside = Arc::downgrade(&opened);
        Ok(opened)
    }
}

impl Folder for BackupFolder {
    fn names(&self) -> Result<Vec<Name>, Fault> {
        let names = ["disks", "files", "volumes", "definition"];
        Ok(names.map(|name| Name { name: name.to_owned(), kind: NameKind::Folder }).into())
    }

    fn child(&self, name: &str) -> Result<Option<Shown>, Fault> {
        let inside = self.inside()?;
        Ok(match name {
            "disks" => Some(Shown::Folder(Arc::new(inside.disks()))),
            "files" => Some(inside.files()?),
            "volumes" => Some(Shown::Folder(Arc::new(inside.volumes()?))),
            "definition" => Some(Shown::Folder(Arc::new(inside.definition()))),
            _ => None,
        })
    }

    fn modified(&self) -> Time {
        self.inside().map(|inside| inside.modified()).unwrap_or_default()
    }
}

impl Inside {
    fn modified(&self) -> Time {
        time(self.manifest.instant)
    }

    fn disk(&self, number: usize) -> Result<Arc<dyn Disk>, Fault> {
        let disk = self.mount.repository.disk(&self.manifest, number)?;
        Ok(self.mount.ahead.over(Arc::new(disk)))
    }

    /// The same for the disk's own file. Who reads that in several places is a machine or a loop device, and will go on so:
    /// the disk is prepared for it.
    fn disk_file(&self, number: usize) -> Result<Arc<dyn Disk>, Fault> {
        let disk = Arc::new(self.mount.repository.disk(&self.manifest, number)?);
        let prepared = Arc::clone(&disk);
        let prepare: Preparation = Box::new(move |is_wanted| prepared.prepare(is_wanted));
        Ok(self.mount.ahead.over_prepared(disk, Some(prepare)))
    }

    fn disks(self: &Arc<Self>) -> Fixed {
        let mut folder = Fixed::new(self.modified());
        for number in 0..self.manifest.disks.len() {
            let inside = Arc::clone(self);
            folder.add(&format!("disk{number}.raw"), NameKind::File, move || {
                Ok(Shown::File { content: inside.disk_file(number)?, modified: inside.modified() })
            });
            // For whoever wants a VMDK: a few lines over the same bytes.
            if let Some(descriptor) = self.descriptor(number) {
                let modified = self.modified();
                folder.add(&format!("disk{number}.vmdk"), NameKind::File, move || {
                    Ok(Shown::File { content: Arc::new(MemoryDisk(descriptor.clone())), modified })
                });
            }
        }
        folder
    }

    fn descriptor(&self, number: usize) -> Option<Vec<u8>> {
        let record = &self.manifest.disks[number];
        let content = format!("{} {}", self.manifest.backup, record.slot);
        let data = format!("disk{number}.raw");
        vmdk::writer::flat_descriptor(&data, ByteLen(record.size), content.as_bytes(), &record.properties)
    }

    /// What is on the disks; those that cannot be opened hide no other.
    pub(super) fn guest(&self) -> Result<Arc<GuestMachine>, Fault> {
        self.mount.guests.get(self.manifest.backup, || {
            let disks =
                (0..self.manifest.disks.len()).map(|number| self.disk(number)).collect::<Result<Vec<_>, _>>()?;
            Ok(GuestMachine::new(&disks))
        })
    }

    /// The filesystem on `volume`.
    fn tree(self: &Arc<Self>, volume: &str) -> Result<Shown, Fault> {
        match GuestTree::open(self, Some(volume))? {
            Some(tree) => Ok(Shown::Tree(Arc::new(tree))),
            None => Err(format!("there is no volume {volume}").into()),
        }
    }

    /// The guest's own view; where there is no root filesystem, every volume by itself.
    fn files(self: &Arc<Self>) -> Result<Shown, Fault> {
        match GuestTree::open(self, None)? {
            Some(view) => Ok(Shown::Tree(Arc::new(view))),
            None => Ok(Shown::Folder(Arc::new(self.volumes()?))),
        }
    }

    /// Volumes by name: `disk0/p2` is the folder `p2` in the folder `disk0`.
    fn volumes(self: &Arc<Self>) -> Result<Fixed, Fault> {
        let names: Vec<String> = self.guest()?.names().map(str::to_owned).collect();
        let mut folder = Fixed::new(self.modified());
        for first in distinct(names.iter().map(|name| first_part(name).to_owned())) {
            let below: Vec<String> = names
                .iter()
                .filter(|name| first_part(name) == first && **name != first)
                .map(|name| name[first.len() + 1..].to_owned())
                .collect();
            if below.is_empty() {
                let inside = Arc::clone(self);
                folder.add(&first.clone(), NameKind::Folder, move || inside.tree(&first));
                continue;
            }
            let (inside, modified) = (Arc::clone(self), self.modified());
            let itself = names.contains(&first);
            folder.add(&first.clone(), NameKind::Folder, move || {
                let mut inner = Fixed::new(modified);
                for name in &below {
                    let (inside, volume) = (Arc::clone(&inside), format!("{first}/{name}"));
                    inner.add(&name.replace('/', "-"), NameKind::Folder, move || inside.tree(&volume));
                }
                if itself {
                    let (inside, volume) = (Arc::clone(&inside), first.clone());
                    inner.add("whole", NameKind::Folder, move || inside.tree(&volume));
                }
                Ok(Shown::Folder(Arc::new(inner)))
            });
        }
        Ok(folder)
    }

    fn definition(self: &Arc<Self>) -> Fixed {
        let mut folder = Fixed::new(self.modified());
        let plain = |name: &str| !name.is_empty() && !name.contains('/') && !matches!(name, "." | "..");
        for (number, record) in self.manifest.files.iter().enumerate().filter(|(_, record)| plain(&record.name)) {
            let inside = Arc::clone(self);
            folder.add(&record.name, NameKind::File, move || {
                let bytes = definition_file::read(&inside.mount.repository, &inside.manifest.files[number])?;
                Ok(Shown::File { content: Arc::new(MemoryDisk(bytes)), modified: inside.modified() })
            });
        }
        folder
    }
}

fn first_part(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}
