//! The guest's own view of its files: the root filesystem, with the other volumes where the guest mounts them.
//!
//! On Linux the root is the volume that has an `/etc/fstab` or an `os-release`; its `fstab` says the rest. What cannot be placed is
//! named in the summary's warnings: such a volume is still there under its own name, outside of this view. On Windows the
//! root has a folder for each drive, `C:` and so on, by Windows's own letters.
//!
//! A view is a filesystem again. Nodes of its parts get numbers of the view's own in [`NodeId::tree`]: one for each tree of
//! each part, given out when it is first met.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};

use super::GuestError;
use super::fstab::{DeviceNames, FSTAB_BYTES_MAX, mounts};
use super::path::{LastLink, resolve};
use super::tree::{Entry, ExtendedAttribute, FileSystem, Metadata, NodeId, NodeKind, Summary};
use super::windows::{Drive, DriveFolders, Drives, NamedVolume};
use crate::disk::Extent;

/// Files that tell a Linux root filesystem, one of them.
const ROOT_SIGNS: [&str; 3] = ["etc/fstab", "etc/os-release", "usr/lib/os-release"];
/// Where distributions put the root of a btrfs volume: at its top, or in a subvolume of that name.
const ROOT_FOLDERS: [&str; 5] = ["", "@", "@rootfs", "root", "@/.snapshots/1/snapshot"];

/// A volume with a filesystem that could be opened.
#[derive(Clone)]
pub struct MountableVolume {
    /// What we call it: `disk0/p2`.
    pub name: String,
    /// What the guest may call it.
    pub names: DeviceNames,
    /// What is on it.
    pub filesystem: Arc<dyn FileSystem>,
}

/// A volume that the guest mounts and the view does not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Where the guest mounts it.
    pub folder: String,
    /// What is missing and why, for people.
    pub warning: String,
}

/// The guest's own view.
pub struct GuestView {
    summary: Summary,
    missing: Vec<Missing>,
    parts: Vec<Part>,
    /// Directories (by part) that another part lies over.
    covered: HashMap<(usize, NodeId), usize>,
    trees: RwLock<Trees>,
}

struct Part {
    filesystem: Arc<dyn FileSystem>,
    root: NodeId,
}

/// The view's numbers for the parts' trees.
#[derive(Default)]
struct Trees {
    of: HashMap<(usize, u64), u64>,
    known: Vec<(usize, u64)>,
}

impl GuestView {
    /// The view of a machine with these volumes; `None` if none of them looks like a root filesystem.
    pub fn new(volumes: &[MountableVolume]) -> Option<GuestView> {
        let (root_volume, root) =
            volumes.iter().find_map(|volume| Some((volume, root_of(volume.filesystem.as_ref())?)))?;
        let first = Part { filesystem: Arc::clone(&root_volume.filesystem), root };
        let mut view = GuestView {
            summary: root_volume.filesystem.summary().clone(),
            missing: Vec::new(),
            parts: vec![first],
            covered: HashMap::new(),
            trees: RwLock::default(),
        };
        view.summary.warnings.clear();
        view.note_warnings(&root_volume.name, root_volume.filesystem.as_ref());
        view.mount_all(volumes);
        Some(view)
    }

    /// The view of a machine with Windows: a folder for each drive. `None` if there are no drives.
    pub fn of_drives(drives: &Drives, volumes: &[NamedVolume]) -> Option<GuestView> {
        if drives.drives.is_empty() {
            return None;
        }
        let named = |drive: &Drive| volumes.iter().find(|volume| volume.name == drive.volume);
        let (mut shown, mut missing) = (Vec::new(), Vec::new());
        for (drive, volume) in drives.drives.iter().filter_map(|drive| Some((drive, named(drive)?))) {
            match &volume.filesystem {
                Ok(filesystem) => shown.push((drive, volume, filesystem)),
                Err(reason) => {
                    let warning = format!("drive {}: is not shown: {}: {reason}", drive.letter, volume.name);
                    missing.push(Missing { folder: format!("/{}:", drive.letter), warning });
                }
            }
        }
        let folders: Arc<dyn FileSystem> = Arc::new(DriveFolders::new(shown.iter().map(|(drive, ..)| drive.letter)));
        let mut summary = folders.summary().clone();
        summary.warnings.extend(drives.warnings.iter().cloned());
        summary.warnings.extend(missing.iter().map(|missing| missing.warning.clone()));
        let root = folders.root();
        let parts = vec![Part { filesystem: folders, root }];
        let mut view = GuestView { summary, missing, parts, covered: HashMap::new(), trees: RwLock::default() };
        for (index, (_, volume, filesystem)) in shown.into_iter().enumerate() {
            view.parts.push(Part { filesystem: Arc::clone(filesystem), root: filesystem.root() });
            view.covered.insert((0, DriveFolders::folder(index)), index + 1);
            view.note_warnings(&volume.name, filesystem.as_ref());
        }
        Some(view)
    }

    /// What the guest mounts and this view does not show, and why; also among the summary's warnings.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Whether it shows Windows's drives, each as a folder of the root.
    pub fn has_drives(&self) -> bool {
        self.summary.kind == DriveFolders::KIND
    }

    fn mount_all(&mut self, volumes: &[MountableVolume]) {
        let Ok(Some(text)) = self.small_file("etc/fstab") else { return };
        for mount in mounts(&text) {
            if mount.folder == "/" {
                continue;
            }
            let placed = self.mount(volumes, &mount.device, &mount.folder, mount.subvolume.as_deref());
            // Nobody misses the drive for CDs.
            if let Some(reason) = placed.err().filter(|_| !mount.on_demand) {
                let warning = format!("{} is not shown at {}: {reason}", mount.device, mount.folder);
                self.missing.push(Missing { folder: mount.folder.clone(), warning: warning.clone() });
                self.summary.warnings.push(warning);
            }
        }
    }

    fn mount(
        &mut self,
        volumes: &[MountableVolume],
        device: &str,
        folder: &str,
        subvolume: Option<&str>,
    ) -> Result<(), String> {
        let fitting: Vec<&MountableVolume> = volumes.iter().filter(|volume| volume.names.fits(device)).collect();
        let volume = match fitting.as_slice() {
            [] => return Err("no volume of the backup is called that, or it cannot be opened".to_owned()),
            [one] => *one,
            several => {
                let names: Vec<&str> = several.iter().map(|volume| volume.name.as_str()).collect();
                return Err(format!("several volumes are called that: {}", names.join(", ")));
            }
        };
        let filesystem = Arc::clone(&volume.filesystem);
        let root = match subvolume {
            None => filesystem.root(),
            Some(path) => {
                resolve(filesystem.as_ref(), path.as_bytes(), LastLink::Keep).map_err(|error| error.to_string())?
            }
        };
        let place = resolve(self, folder.as_bytes(), LastLink::Follow).map_err(|error| error.to_string())?;
        if self.metadata(place).map_err(|error| error.to_string())?.kind != NodeKind::Directory {
            return Err("that is no directory".to_owned());
        }
        let place = self.inner(place).map_err(|error| error.to_string())?;
        let known = self.parts.iter().any(|part| Arc::ptr_eq(&part.filesystem, &filesystem));
        self.parts.push(Part { filesystem, root });
        self.covered.insert((place.0, place.1), self.parts.len() - 1);
        if !known {
            self.note_warnings(&volume.name, volume.filesystem.as_ref());
        }
        Ok(())
    }

    fn note_warnings(&mut self, name: &str, filesystem: &dyn FileSystem) {
        let warnings = filesystem.summary().warnings.iter();
        self.summary.warnings.extend(warnings.map(|warning| format!("{name}: {warning}")));
    }

    fn small_file(&self, path: &str) -> Result<Option<Vec<u8>>, GuestError> {
        let Ok(node) = resolve(self, path.as_bytes(), LastLink::Follow) else { return Ok(None) };
        let size = usize::try_from(self.metadata(node)?.size).unwrap_or(usize::MAX);
        let mut text = vec![0; size.min(FSTAB_BYTES_MAX)];
        let len = self.read_at(node, 0, &mut text)?;
        text.truncate(len);
        Ok(Some(text))
    }

    /// The part's node for a node of the view.
    fn inner(&self, node: NodeId) -> Result<(usize, NodeId), GuestError> {
        let trees = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        let known = usize::try_from(node.tree).ok().and_then(|at| trees.known.get(at));
        let (part, tree) = *known.ok_or(GuestError::NoSuchNode { node })?;
        Ok((part, NodeId { tree, number: node.number }))
    }

    /// The view's node for a part's node; where another part lies over it, that part's root.
    fn outer(&self, part: usize, node: NodeId) -> NodeId {
        let (part, node) = match self.covered.get(&(part, node)) {
            Some(over) => (*over, self.parts[*over].root),
            None => (part, node),
        };
        let key = (part, node.tree);
        if let Some(tree) = self.trees.read().unwrap_or_else(PoisonError::into_inner).of.get(&key) {
            return NodeId { tree: *tree, number: node.number };
        }
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let next = trees.known.len() as u64;
        let tree = *trees.of.entry(key).or_insert(next);
        if tree == next {
            trees.known.push(key);
        }
        NodeId { tree, number: node.number }
    }

    fn part(&self, node: NodeId) -> Result<(&dyn FileSystem, NodeId), GuestError> {
        let (part, node) = self.inner(node)?;
        Ok((self.parts[part].filesystem.as_ref(), node))
    }
}

/// The directory that is the root of a Linux system, if this filesystem has one.
fn root_of(filesystem: &dyn FileSystem) -> Option<NodeId> {
    ROOT_FOLDERS.iter().find_map(|folder| {
        let has = |sign: &&str| resolve(filesystem, format!("{folder}/{sign}").as_bytes(), LastLink::Keep).is_ok();
        ROOT_SIGNS.iter().any(has).then(|| resolve(filesystem, folder.as_bytes(), LastLink::Keep).ok())?
    })
}

impl FileSystem for GuestView {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> NodeId {
        self.outer(0, self.parts[0].root)
    }

    fn metadata(&self, node: NodeId) -> Result<Metadata, GuestError> {
        let (filesystem, node) = self.part(node)?;
        filesystem.metadata(node)
    }

    fn read_directory(
        &self,
        directory: NodeId,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        let (part, node) = self.inner(directory)?;
        self.parts[part].filesystem.read_directory(node, &mut |entry| {
            visit(Entry { name: entry.name, node: self.outer(part, entry.node), kind: entry.kind })
        })
    }

    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, GuestError> {
        let (part, node) = self.inner(directory)?;
        let found = self.parts[part].filesystem.lookup(node, name)?;
        Ok(found.map(|node| self.outer(part, node)))
    }

    fn read_at(&self, file: NodeId, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let (filesystem, node) = self.part(file)?;
        filesystem.read_at(node, at, buf)
    }

    fn extent_at(&self, file: NodeId, at: u64) -> Result<Option<Extent>, GuestError> {
        let (filesystem, node) = self.part(file)?;
        filesystem.extent_at(node, at)
    }

    fn read_link(&self, link: NodeId) -> Result<Vec<u8>, GuestError> {
        let (filesystem, node) = self.part(link)?;
        filesystem.read_link(node)
    }

    fn extended_attributes(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, GuestError> {
        let (filesystem, node) = self.part(node)?;
        filesystem.extended_attributes(node)
    }

    fn streams(&self, node: NodeId) -> Result<Vec<(String, u64)>, GuestError> {
        let (filesystem, node) = self.part(node)?;
        filesystem.streams(node)
    }

    fn read_stream(&self, node: NodeId, stream: &str, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let (filesystem, node) = self.part(node)?;
        filesystem.read_stream(node, stream, at, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::memory::MemoryTree;

    fn volume(name: &str, uuid: &str, files: &[(&str, &str)]) -> MountableVolume {
        let names = DeviceNames { uuid: uuid.to_owned(), ..DeviceNames::default() };
        MountableVolume { name: name.to_owned(), names, filesystem: Arc::new(MemoryTree::new(files)) }
    }

    fn text(view: &GuestView, path: &str) -> String {
        let node = resolve(view, path.as_bytes(), LastLink::Follow).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut buf = [0; 64];
        let len = view.read_at(node, 0, &mut buf).unwrap();
        String::from_utf8_lossy(&buf[..len]).into_owned()
    }

    #[test]
    fn volumes_lie_where_the_guest_mounts_them() {
        let fstab = "UUID=r / ext4\nUUID=e /boot/efi vfat\nUUID=b /boot ext4\nUUID=gone /srv xfs\nUUID=h /nowhere ext4";
        let volumes = [
            volume("disk0/p1", "e", &[("/grub.cfg", "efi")]),
            volume("disk0/p2", "b", &[("/vmlinuz", "kernel"), ("/efi/", "")]),
            volume("disk0/p3", "r", &[("/etc/fstab", fstab), ("/boot/hidden", "x"), ("/home/a", "-> /boot/vmlinuz")]),
            volume("disk1/p1", "h", &[("/x", "x")]),
        ];
        let view = GuestView::new(&volumes).expect("disk0/p3 is a root");
        assert_eq!(text(&view, "/boot/vmlinuz"), "kernel");
        assert_eq!(text(&view, "/boot/efi/grub.cfg"), "efi");
        assert_eq!(text(&view, "/home/a"), "kernel");
        assert!(resolve(&view, b"/boot/hidden", LastLink::Keep).is_err());
        let boot = resolve(&view, b"/boot", LastLink::Keep).unwrap();
        let mut names = Vec::new();
        view.read_directory(boot, &mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(names, ["efi", "vmlinuz"]);
        let expected = [
            "UUID=gone is not shown at /srv: no volume of the backup is called that, or it cannot be opened",
            "UUID=h is not shown at /nowhere: there is no \"nowhere\" in \"/\"",
        ];
        assert_eq!(view.summary().warnings, expected);
    }

    #[test]
    fn a_root_may_be_a_subvolume_and_may_be_missing() {
        let volumes = [volume("disk0", "r", &[("/@/etc/os-release", "x"), ("/@home/a", "y")])];
        let view = GuestView::new(&volumes).expect("a root in @");
        assert_eq!(text(&view, "/etc/os-release"), "x");
        assert!(GuestView::new(&[volume("disk0", "d", &[("/data", "x")])]).is_none());
    }
}
