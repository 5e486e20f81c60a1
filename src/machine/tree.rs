//! Which machines a folder holds, however deep: datastores, `/etc/libvirt/qemu`, exports side by side.
//!
//! In here: the search, bounded in depth and number, and what it leaves out, with the reasons. Not in here: what any
//! definition says.
//!
//! - A folder with definitions belongs to the machines they define. It is not searched for further machines inside;
//!   definitions found there all the same are reported.
//! - Where one folder describes a machine in two formats (files of one name with different endings), a hypervisor's own
//!   definition comes before one made for transport, and the other is reported.
//! - Images that no machine found uses are orphans and reported. In a tree without a single definition each folder with
//!   images is a machine.
//! - Symbolic links to folders are not followed.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::definition::DefinitionKind;
use super::error::MachineError;
use super::folder::{self, Entry};
use super::{FilesBelow, Machine, hyperv, images};

/// Deepest folder that is searched, below the one that was named.
const DEPTH_MAX: usize = 8;
/// Most folders that are searched.
const FOLDERS_MAX: usize = 100_000;
/// Most machines; each is held in memory.
const MACHINES_MAX: usize = 10_000;
/// Most orphans that are named one by one.
const ORPHANS_MAX: usize = 1000;

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// The machines, by their paths in order; those that cannot be read with the reason.
    pub machines: Vec<FoundMachine>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

/// A machine that was found.
#[derive(Debug)]
pub struct FoundMachine {
    /// Its definition, or the folder of its images.
    pub path: PathBuf,
    /// The machine, or why it cannot be read.
    pub machine: Result<Machine, MachineError>,
}

/// Something in the tree that is no machine, or was not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where.
    pub path: PathBuf,
    /// Why.
    pub why: String,
    /// Whether a machine may have been missed because of it.
    pub is_loss: bool,
}

/// Searches `folder`, a canonical path. `below` tells which files an image stands on.
pub(super) fn find(folder: &Path, below: &FilesBelow<'_>) -> Result<Found, MachineError> {
    let entries = folder::entries(folder)?;
    let mut search = Search {
        root: folder,
        below,
        folders: 0,
        found: Found::default(),
        known: HashSet::new(),
        images: BTreeMap::new(),
    };
    search.folder(folder, &entries, 0);
    search.finish()
}

struct Search<'s> {
    root: &'s Path,
    below: &'s FilesBelow<'s>,
    folders: usize,
    found: Found,
    /// The definitions in it.
    known: HashSet<PathBuf>,
    /// Images that lie about, by folder.
    images: BTreeMap<PathBuf, Vec<PathBuf>>,
}

impl Search<'_> {
    fn folder(&mut self, folder: &Path, entries: &[Entry], depth: usize) {
        self.folders += 1;
        let images = images::files(entries);
        if !images.is_empty() {
            self.images.insert(folder.to_path_buf(), images);
        }
        let definitions = self.definitions(entries);
        for (path, kind) in &definitions {
            let machine = kind.read(path, self.below);
            self.known.insert(path.clone());
            self.found.machines.push(FoundMachine { path: path.clone(), machine });
        }
        for subfolder in entries {
            let Some(inside) = self.list(subfolder, depth) else { continue };
            if definitions.is_empty() {
                self.folder(&subfolder.path, &inside, depth + 1);
            } else {
                self.own_folder(&subfolder.path, &inside, depth + 1);
            }
        }
    }

    /// A folder inside that of a machine: its images may be the machine's; definitions are only reported.
    fn own_folder(&mut self, folder: &Path, entries: &[Entry], depth: usize) {
        self.folders += 1;
        let images = images::files(entries);
        if !images.is_empty() {
            self.images.insert(folder.to_path_buf(), images);
        }
        for (path, _) in definitions_among(entries) {
            if path.canonicalize().is_ok_and(|real| !self.known.contains(&real)) {
                self.skip(&path, "it lies inside another machine's folder; name it to back it up", true);
            }
        }
        for subfolder in entries {
            if let Some(inside) = self.list(subfolder, depth) {
                self.own_folder(&subfolder.path, &inside, depth + 1);
            }
        }
    }

    /// What lies in an entry that is a folder to be searched.
    fn list(&mut self, entry: &Entry, depth: usize) -> Option<Vec<Entry>> {
        let own = entry.path.symlink_metadata().ok()?;
        if own.is_symlink() {
            let real = entry.path.canonicalize().ok()?;
            if real.is_dir() && !real.starts_with(self.root) {
                let why = format!("a link that leads out of the folder, to {}", real.display());
                self.skip(&entry.path, why, true);
            }
            return None;
        }
        if !own.is_dir() || entry.name == "lost+found" || entry.extension() == "lck" {
            return None;
        }
        if depth == DEPTH_MAX {
            self.skip(&entry.path, format!("more than {DEPTH_MAX} folders deep: not searched"), true);
            return None;
        }
        if self.folders >= FOLDERS_MAX || self.found.machines.len() >= MACHINES_MAX {
            if self.found.skipped.last().is_none_or(|skipped| !skipped.why.starts_with("the search ended")) {
                let why = format!("the search ended here, after {FOLDERS_MAX} folders or {MACHINES_MAX} machines");
                self.skip(&entry.path, why, true);
            }
            return None;
        }
        match folder::entries(&entry.path) {
            Ok(inside) => Some(inside),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                self.skip(&entry.path, format!("{error}{cause}"), true);
                None
            }
        }
    }

    /// The definitions to be read in a folder: each machine once, each file once, none from outside of the tree.
    fn definitions(&mut self, entries: &[Entry]) -> Vec<(PathBuf, DefinitionKind)> {
        let mut chosen: BTreeMap<PathBuf, DefinitionKind> = BTreeMap::new();
        for (path, kind) in definitions_among(entries) {
            let Ok(real) = path.canonicalize() else { continue };
            if !real.starts_with(self.root) {
                let why = format!("a link that leads out of the folder, to {}", real.display());
                self.skip(&path, why, true);
            } else if !self.known.contains(&real) {
                chosen.insert(real, kind);
            }
        }
        let mut best: Vec<(PathBuf, DefinitionKind)> = chosen.into_iter().collect();
        best.sort_by(|(one, kind), (other, other_kind)| (kind, one).cmp(&(other_kind, other)));
        // By the name without its ending: the first definition of that name, which is the best.
        let mut first: BTreeMap<OsString, (PathBuf, DefinitionKind)> = BTreeMap::new();
        let mut taken: Vec<(PathBuf, DefinitionKind)> = Vec::new();
        for (path, kind) in best {
            let stem = path.file_stem().unwrap_or_default().to_os_string();
            match first.get(&stem).filter(|(_, other)| *other != kind) {
                Some((preferred, _)) => {
                    let why = format!("it describes the machine of {}, which is used", preferred.display());
                    self.skip(&path, why, false);
                }
                None => {
                    first.entry(stem).or_insert_with(|| (path.clone(), kind));
                    taken.push((path, kind));
                }
            }
        }
        taken.sort();
        taken
    }

    fn skip(&mut self, path: &Path, why: impl Into<String>, is_loss: bool) {
        self.found.skipped.push(Skipped { path: path.to_path_buf(), why: why.into(), is_loss });
    }

    /// What to do with the images: machines of their own, or orphans.
    fn finish(mut self) -> Result<Found, MachineError> {
        let images = std::mem::take(&mut self.images);
        if self.found.machines.is_empty() {
            for (folder, inside) in images {
                match images::folder(&folder, &inside, self.below) {
                    Ok(machine) => {
                        self.found.machines.extend(machine.map(|m| FoundMachine { path: folder, machine: Ok(m) }));
                    }
                    Err(error) => self.found.machines.push(FoundMachine { path: folder, machine: Err(error) }),
                }
            }
        } else {
            self.orphans(images.into_values().flatten().collect());
        }
        self.found.machines.sort_by(|one, other| one.path.cmp(&other.path));
        self.found.skipped.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(self.found)
    }

    /// Reports the images that no machine uses. Chains are opened only if there is a doubt.
    fn orphans(&mut self, images: Vec<PathBuf>) {
        let real = |path: &Path| path.canonicalize().ok();
        let mut used: HashSet<PathBuf> = HashSet::new();
        let machines: Vec<&Machine> = self.found.machines.iter().filter_map(|m| m.machine.as_ref().ok()).collect();
        for machine in &machines {
            let frozen = machine.snapshots.iter().flat_map(|snapshot| &snapshot.frozen).map(|(_, image)| image);
            used.extend(machine.disks.iter().map(|disk| &disk.image).chain(frozen).filter_map(|image| real(image)));
        }
        let doubtful = |used: &HashSet<PathBuf>| -> Vec<PathBuf> {
            images.iter().filter(|image| real(image).is_some_and(|real| !used.contains(&real))).cloned().collect()
        };
        if doubtful(&used).is_empty() {
            return;
        }
        for machine in &machines {
            for disk in &machine.disks {
                used.extend((self.below)(&disk.image, &machine.folder).iter().filter_map(|file| real(file)));
            }
        }
        // What cannot be read may be what uses them.
        let unread = self.found.machines.len() - machines.len();
        let why = match unread {
            0 => "an image that belongs to no machine found".to_owned(),
            _ => "an image that belongs to no machine that could be read".to_owned(),
        };
        let orphans = doubtful(&used);
        for orphan in orphans.iter().take(ORPHANS_MAX) {
            self.skip(orphan, why.clone(), false);
        }
        if let Some(more) = orphans.len().checked_sub(ORPHANS_MAX).filter(|more| *more > 0) {
            self.skip(self.root, format!("{more} more images that belong to no machine"), false);
        }
    }
}

/// The definitions among a folder's files, and those of a Hyper-V machine whose folder it is.
fn definitions_among(entries: &[Entry]) -> Vec<(PathBuf, DefinitionKind)> {
    let plain = |entry: &&Entry| entry.metadata().is_some_and(|metadata| metadata.is_file());
    let of = |entries: &[Entry]| -> Vec<(PathBuf, DefinitionKind)> {
        let files = entries.iter().filter(plain);
        files.filter_map(|entry| Some((entry.path.clone(), DefinitionKind::of_file(&entry.path)?))).collect()
    };
    let mut found = of(entries);
    for apart in entries.iter().filter(|entry| hyperv::is_configuration_folder(entry)) {
        let inside = folder::entries(&apart.path).unwrap_or_default();
        found.extend(of(&inside).into_iter().filter(|(_, kind)| *kind == DefinitionKind::HyperV));
    }
    found.retain(|(path, kind)| *kind != DefinitionKind::HyperV || !hyperv::is_checkpoint(path));
    found
}
