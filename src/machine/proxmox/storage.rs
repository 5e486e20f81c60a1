//! `storage.cfg`: where on this host a volume such as `local-lvm:vm-100-disk-0` lies.
//!
//! The file has sections `type: name` with indented lines `key value`. Volumes of storages that are no folder and no local
//! volume group (Ceph, iSCSI) lie in no file and no device of this host that we could name.
//!
//! Source: pve-storage, PVE/Storage/Plugin.pm and its plugins.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::read_config;
use crate::machine::error::shown;
use crate::machine::names::{lower_extension, printable};

/// Where a cluster keeps its configuration.
const SYSTEM_CONFIG: &str = "/etc/pve/storage.cfg";
/// Most storages; clusters have dozens.
const STORAGES_MAX: usize = 4096;

/// The storages that are known.
pub(super) struct Storages {
    /// By name.
    known: HashMap<String, Storage>,
    /// Which file they come from, for messages.
    source: String,
}

/// One section.
#[derive(Debug, Default, PartialEq, Eq)]
struct Storage {
    kind: String,
    values: HashMap<String, String>,
}

/// Where a volume lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) path: PathBuf,
    /// Nothing but the guest's bytes is in it.
    pub(super) raw: bool,
    /// The folder of all images of the storage: a linked clone names its base in there.
    pub(super) images: Option<PathBuf>,
    /// What is odd.
    pub(super) remark: Option<String>,
}

impl Storages {
    /// Those of a `storage.cfg` beside the configuration, or above it as in `/etc/pve`, or of this host. Without any, only
    /// what every installation has is known.
    pub(super) fn around(folder: &Path, warnings: &mut Vec<String>) -> Storages {
        // `/etc/pve/qemu-server` is a link into `/etc/pve/nodes/NAME/qemu-server`.
        let around = folder.ancestors().take(4).map(|folder| folder.join("storage.cfg"));
        for file in around.chain([PathBuf::from(SYSTEM_CONFIG)]) {
            if !file.is_file() {
                continue;
            }
            match read_config(&file) {
                Ok(text) => return Storages { known: parse(&text), source: file.display().to_string() },
                Err(error) => warnings.push(format!("no storage can be found: {error}")),
            }
        }
        Storages {
            known: parse("dir: local\n path /var/lib/vz\n"),
            source: "a storage.cfg that could be read".to_owned(),
        }
    }

    /// Where a volume lies; `Err` says why that cannot be told.
    pub(super) fn locate(&self, volume: &str, folder: &Path, vmid: &str) -> Result<Volume, String> {
        if volume.starts_with('/') {
            return Ok(by_path(PathBuf::from(volume), None));
        }
        let (storage, name) = volume.split_once(':').ok_or("not the name of a volume")?;
        if Path::new(name).components().any(|part| !matches!(part, Component::Normal(_))) || name.is_empty() {
            return Err("not the name of a volume".to_owned());
        }
        let stored = self.known.get(storage).map(|known| known.volume(storage, name));
        let is_there = matches!(&stored, Some(Ok(found)) if found.path.exists());
        match beside(folder, vmid, name).filter(|_| !is_there) {
            Some(copied) => Ok(copied),
            None => stored.unwrap_or_else(|| Err(format!("its storage {} is not in {}", shown(storage), self.source))),
        }
    }
}

/// The volume's file around a configuration that was copied together with its images.
fn beside(folder: &Path, vmid: &str, name: &str) -> Option<Volume> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let places = [folder.join(last), folder.join(vmid).join(last), folder.join("images").join(vmid).join(last)];
    let path = places.into_iter().find(|path| path.is_file())?;
    let remark = format!("taken from {}, as its storage does not have it here", path.display());
    let images = path.parent().map(Path::to_path_buf);
    Some(Volume { remark: Some(remark), ..by_path(path, images) })
}

/// A device holds the guest's bytes; a file is what its ending says, as for Proxmox VE itself.
fn by_path(path: PathBuf, images: Option<PathBuf>) -> Volume {
    let is_device = path.starts_with("/dev");
    let ending = lower_extension(&path.to_string_lossy());
    let raw = is_device || !matches!(ending.as_str(), "qcow2" | "vmdk" | "vhdx" | "vdi" | "vpc");
    Volume { path, raw, images, remark: None }
}

impl Storage {
    fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Where a volume of this storage lies.
    fn volume(&self, own_name: &str, name: &str) -> Result<Volume, String> {
        let needs = |key: &str| self.value(key).ok_or_else(|| format!("its storage {} has no {key}", shown(own_name)));
        match self.kind.as_str() {
            "dir" | "nfs" | "cifs" | "glusterfs" | "btrfs" => {
                let mounted = format!("/mnt/pve/{own_name}");
                let folder = PathBuf::from(self.value("path").unwrap_or(&mounted)).join(self.images_folder());
                // `9000/base-9000-disk-0.qcow2/100/vm-100-disk-0.qcow2`: a linked clone, with its base in front.
                let parts: Vec<&str> = name.split('/').collect();
                let [.., vmid, file] = parts.as_slice() else { return Err("not the name of a volume".to_owned()) };
                let mut path = folder.join(vmid).join(file);
                if self.kind == "btrfs" && lower_extension(file) == "raw" {
                    path = path.with_extension("").join("disk.raw");
                }
                Ok(by_path(path, Some(folder)))
            }
            "lvm" | "lvmthin" => {
                if !lower_extension(name).is_empty() {
                    return Err("an image inside a block device: only raw devices are supported".to_owned());
                }
                // A linked clone on thin volumes has its base in front, too.
                let name = name.rsplit('/').next().unwrap_or(name);
                Ok(by_path(Path::new("/dev").join(needs("vgname")?).join(name), None))
            }
            "zfspool" => {
                let name = name.rsplit('/').next().unwrap_or(name);
                Ok(by_path(Path::new("/dev/zvol").join(needs("pool")?).join(name), None))
            }
            kind => Err(format!("on a storage of the type {}: no file of this host has its content", printable(kind))),
        }
    }

    /// `content-dirs images=some/folder` moves it.
    fn images_folder(&self) -> &str {
        let moved = self.value("content-dirs").into_iter().flat_map(|dirs| dirs.split(','));
        moved.filter_map(|dir| dir.trim().strip_prefix("images=")).next().unwrap_or("images")
    }
}

/// The sections of a `storage.cfg`; what is no section and no value is not looked at.
fn parse(text: &str) -> HashMap<String, Storage> {
    let mut storages: HashMap<String, Storage> = HashMap::new();
    let mut current = None;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if line.starts_with(char::is_whitespace) {
            let (key, value) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
            if let Some(storage) = current.as_ref().and_then(|name| storages.get_mut::<String>(name)) {
                storage.values.insert(key.to_owned(), value.trim().to_owned());
            }
        } else if let Some((kind, name)) = line.split_once(':').filter(|_| storages.len() < STORAGES_MAX) {
            let name = name.trim().to_owned();
            storages.insert(name.clone(), Storage { kind: kind.trim().to_owned(), values: HashMap::new() });
            current = Some(name);
        }
    }
    storages
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup\n\nlvmthin: local-lvm\n\tthinpool data\n\t\
                          vgname pve\n\tcontent rootdir,images\n\nzfspool: tank\n\tpool rpool/data\n\nnfs: nas\n\tserver 192.0.2.7\n\t\
                          export /vm\n\ndir: odd\n\tpath /srv/vm\n\tcontent-dirs iso=a,images=b/c\n\nbtrfs: bt\n\tpath /srv/bt\n\n\
                          rbd: ceph\n\tpool vms\n\nlvm: broken\n";

    #[track_caller]
    fn check(volume: &str, expected: Result<(&str, bool), &str>) {
        let storages = Storages { known: parse(CONFIG), source: "/etc/pve/storage.cfg".to_owned() };
        let found = storages.locate(volume, Path::new("/nowhere"), "100");
        let found = found.map(|volume| (volume.path.display().to_string(), volume.raw));
        assert_eq!(
            found.as_ref().map(|(path, raw)| (path.as_str(), *raw)).map_err(String::as_str),
            expected,
            "{volume}"
        );
    }

    #[test]
    fn volumes() {
        check("local:100/vm-100-disk-0.qcow2", Ok(("/var/lib/vz/images/100/vm-100-disk-0.qcow2", false)));
        check("local:100/vm-100-disk-1.raw", Ok(("/var/lib/vz/images/100/vm-100-disk-1.raw", true)));
        check(
            "local:9000/base-9000-disk-0.qcow2/100/vm-100-disk-0.qcow2",
            Ok(("/var/lib/vz/images/100/vm-100-disk-0.qcow2", false)),
        );
        check("local-lvm:vm-100-disk-0", Ok(("/dev/pve/vm-100-disk-0", true)));
        check("local-lvm:base-9000-disk-0/vm-100-disk-0", Ok(("/dev/pve/vm-100-disk-0", true)));
        check("tank:vm-100-disk-0", Ok(("/dev/zvol/rpool/data/vm-100-disk-0", true)));
        check("nas:100/vm-100-disk-0.vmdk", Ok(("/mnt/pve/nas/images/100/vm-100-disk-0.vmdk", false)));
        check("odd:100/vm-100-disk-0.raw", Ok(("/srv/vm/b/c/100/vm-100-disk-0.raw", true)));
        check("bt:100/vm-100-disk-0.raw", Ok(("/srv/bt/images/100/vm-100-disk-0/disk.raw", true)));
        check("/dev/disk/by-id/ata-X", Ok(("/dev/disk/by-id/ata-X", true)));
        check("/srv/old.qcow2", Ok(("/srv/old.qcow2", false)));
        check("ceph:vm-100-disk-0", Err("on a storage of the type rbd: no file of this host has its content"));
        check("gone:vm-100-disk-0", Err("its storage \"gone\" is not in /etc/pve/storage.cfg"));
        check("broken:vm-100-disk-0", Err("its storage \"broken\" has no vgname"));
        check("local-lvm:vm-100-disk-0.qcow2", Err("an image inside a block device: only raw devices are supported"));
        for hostile in ["local:../../etc/shadow", "local:100/../../../etc/shadow", "local:/etc/shadow", "local:", "x"] {
            check(hostile, Err("not the name of a volume"));
        }
        check("local:shadow", Err("not the name of a volume"));
    }
}
