//! A machine's disks as its files: every volume, every filesystem on them, and the guest's own view of them all.
//!
//! Filesystems are opened when somebody looks, once, and stay open. One that cannot be opened hides no other.

use std::sync::{Arc, OnceLock};

use super::GuestError;
use super::detect::{ContentKind, Role};
use super::fstab::DeviceNames;
use super::tree::FileSystem;
use super::view::{GuestView, MountableVolume};
use super::volumes::{Volume, Volumes, volumes};
use super::windows::{self, Drives, NamedVolume};
use super::{btrfs, exfat, ext, fat, iso9660, ntfs, squashfs, xfs};
use crate::disk::Disk;

/// A filesystem, or why it cannot be opened.
pub type Opened = Result<Arc<dyn FileSystem>, Arc<GuestError>>;

/// What is on a machine's disks.
pub struct GuestMachine {
    volumes: Volumes,
    filesystems: Vec<OnceLock<Opened>>,
    drives: OnceLock<Drives>,
    view: OnceLock<Option<Arc<GuestView>>>,
}

impl GuestMachine {
    /// Looks at what `disks` are divided into; no filesystem is opened yet.
    pub fn new(disks: &[Arc<dyn Disk>]) -> GuestMachine {
        let named: Vec<(String, Arc<dyn Disk>)> =
            disks.iter().enumerate().map(|(number, disk)| (format!("disk{number}"), Arc::clone(disk))).collect();
        let volumes = volumes(&named);
        let filesystems = volumes.volumes.iter().map(|_| OnceLock::new()).collect();
        GuestMachine { volumes, filesystems, drives: OnceLock::new(), view: OnceLock::new() }
    }

    /// Everything found on the disks.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// The names of all volumes that hold files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.volumes.with_files().map(|volume| volume.name.as_str())
    }

    /// The filesystem on the volume `name`; `None` if there is no such volume.
    pub fn filesystem(&self, name: &str) -> Option<Opened> {
        let number = self.volumes.volumes.iter().position(|volume| volume.name == name)?;
        Some(self.opened(number))
    }

    /// The guest's own view; `None` if no volume looks like the root of a system.
    pub fn view(&self) -> Option<Arc<GuestView>> {
        let view = self.view.get_or_init(|| {
            let mountable: Vec<MountableVolume> = (0..self.volumes.volumes.len())
                .filter(|number| self.volumes.volumes[*number].content.kind.role() == Role::FileSystem)
                .filter_map(|number| self.mountable(number))
                .collect();
            let view = GuestView::new(&mountable).or_else(|| GuestView::of_drives(self.drives(), &self.named()));
            view.map(Arc::new)
        });
        view.clone()
    }

    /// The drives of Windows; none if no volume has one.
    pub fn drives(&self) -> &Drives {
        self.drives.get_or_init(|| windows::drives(&self.named()))
    }

    /// All volumes, also those that hold no files.
    fn named(&self) -> Vec<NamedVolume> {
        let volumes = self.volumes.volumes.iter().enumerate();
        let named = volumes.map(|(number, volume)| NamedVolume {
            name: volume.name.clone(),
            names: device_names(volume),
            filesystem: self.opened(number),
        });
        named.collect()
    }

    fn opened(&self, number: usize) -> Opened {
        let volume = &self.volumes.volumes[number];
        let opened = self.filesystems[number].get_or_init(|| Ok(open(volume.content.kind, &volume.disk)?));
        opened.clone()
    }

    fn mountable(&self, number: usize) -> Option<MountableVolume> {
        let volume = &self.volumes.volumes[number];
        let filesystem = self.opened(number).ok()?;
        Some(MountableVolume { name: volume.name.clone(), names: device_names(volume), filesystem })
    }
}

/// Opens the filesystem on a volume.
///
/// # Errors
/// [`GuestError::Unsupported`] for what is known by name only; else what its reader says.
pub fn open(kind: ContentKind, disk: &Arc<dyn Disk>) -> Result<Arc<dyn FileSystem>, GuestError> {
    match kind {
        _ if kind.role() == Role::Encrypted => {
            Err(GuestError::Unsupported { feature: format!("{kind} (encrypted by the guest)") })
        }
        ContentKind::Ext2 | ContentKind::Ext3 | ContentKind::Ext4 => Ok(Arc::new(ext::open(Arc::clone(disk))?)),
        ContentKind::Btrfs => Ok(Arc::new(btrfs::open(Arc::clone(disk))?)),
        ContentKind::Ntfs => Ok(Arc::new(ntfs::open(Arc::clone(disk))?)),
        ContentKind::Xfs => Ok(Arc::new(xfs::open(Arc::clone(disk))?)),
        ContentKind::ExFat => Ok(Arc::new(exfat::open(Arc::clone(disk))?)),
        ContentKind::Fat12 | ContentKind::Fat16 | ContentKind::Fat32 => Ok(Arc::new(fat::open(Arc::clone(disk))?)),
        ContentKind::Iso9660 => Ok(Arc::new(iso9660::open(Arc::clone(disk))?)),
        ContentKind::Squashfs => Ok(Arc::new(squashfs::open(Arc::clone(disk))?)),
        _ => Err(GuestError::Unsupported { feature: format!("reading files from {kind}") }),
    }
}

/// What the guest may call a volume.
fn device_names(volume: &Volume) -> DeviceNames {
    let partition = volume.partition.as_ref();
    let mut names = DeviceNames {
        uuid: volume.content.uuid.clone(),
        label: volume.content.label.clone(),
        partition_uuid: partition.map(|partition| partition.uuid.clone()).unwrap_or_default(),
        partition_start: partition.map(|partition| partition.start.0),
        partition_label: partition.map(|partition| partition.name.clone()).unwrap_or_default(),
        place: None,
        logical: None,
    };
    let (first, second) = volume.name.split_once('/').unwrap_or((&volume.name, ""));
    match (first.strip_prefix("disk").map(str::parse), partition) {
        (Some(Ok(disk)), Some(partition)) => names.place = Some((disk, partition.number)),
        (Some(Ok(disk)), None) if second.is_empty() => names.place = Some((disk, 0)),
        _ if !second.is_empty() => names.logical = Some((first.to_owned(), second.to_owned())),
        _ => {}
    }
    names
}
