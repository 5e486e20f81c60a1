//! A VMware folder: the `.vmx` and its neighbours → [`Machine`].
//!
//! In here: which neighbours belong to the machine, which are kept with a backup, what shows that it runs.
//! Not in here: what the definition says (`vmx`), which snapshots there are (`vmsd`).
//!
//! Files are kept only if they are plain files of the machine's own folder: a definition from elsewhere must not make us
//! put `/etc/shadow` into a backup by calling it its nvram.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::dictionary::Dictionary;
use super::error::{MachineError, shown};
use super::folder::{Entry, KeptFiles, entries, extension, lock_of};
use super::vmsd::Vmsd;
use super::{Machine, MachineDisk, MachineKind, vmsd, vmx};

/// Reads the machine that a `.vmx` defines. `vmx_file` is canonical.
pub(super) fn read(vmx_file: &Path) -> Result<Machine, MachineError> {
    let folder = vmx_file.parent().unwrap_or(Path::new("/"));
    let definition = Dictionary::read(vmx_file)?;
    let vmx = vmx::machine(&definition, folder)?;
    let entries = entries(folder)?;
    let mut warnings = vmx.warnings;

    let vmsd = listed_snapshots(&vmx_file.with_extension("vmsd"), folder);
    warnings.extend(vmsd.warnings);
    let named = [("nvram", vmx.nvram.as_deref()), ("extendedConfigFile", vmx.vmxf.as_deref())];
    let definition_files = kept(vmx_file, &entries, &named, &mut warnings);
    let running = signs_of_running(vmx_file, &vmx.disks, &entries);
    if running.is_none() && own(&entries, vmx_file).any(|entry| entry.extension() == "vmss") {
        warnings.push("the machine is suspended: its disks are backed up, its memory is not".to_owned());
    }
    Ok(Machine {
        identity: vmx.identity,
        disks: vmx.disks,
        definition_files,
        snapshots: vmsd.snapshots,
        running,
        notes: vmx.notes,
        warnings,
        ..Machine::new(vmx.name, folder, MachineKind::Vmware)
    })
}

/// The snapshots, if their list can be read. A damaged list is a warning: the chain of redo logs tells the current state
/// without it, and a machine with a damaged list needs its backup all the more.
fn listed_snapshots(file: &Path, folder: &Path) -> Vmsd {
    if !file.exists() {
        return Vmsd { snapshots: Vec::new(), warnings: Vec::new() };
    }
    match Dictionary::read(file).and_then(|list| vmsd::snapshots(&list, folder)) {
        Ok(vmsd) => vmsd,
        Err(error) => Vmsd { snapshots: Vec::new(), warnings: vec![format!("no snapshot can be chosen: {error}")] },
    }
}

/// The files kept with the backup, most needed first, so that the limits cut what matters least.
fn kept(
    vmx_file: &Path,
    entries: &[Entry],
    named: &[(&str, Option<&str>)],
    warnings: &mut Vec<String>,
) -> Vec<PathBuf> {
    let mut wanted: Vec<&Entry> = Vec::new();
    let mut want = |entry| wanted.push(entry);
    entries.iter().filter(|entry| entry.path == vmx_file).for_each(&mut want);
    for (key, name) in named {
        let Some(name) = name.map(|name| name.trim().trim_start_matches("./")).filter(|name| !name.is_empty()) else {
            continue;
        };
        match entries.iter().find(|entry| entry.path.file_name() == Some(OsStr::new(name))) {
            Some(entry) => want(entry),
            // Ordinary for a definition that was copied by hand, so no more than a remark.
            None => warnings.push(format!("{key}: {} is not in the machine's folder: not kept", shown(name))),
        }
    }
    for kind in ["vmxf", "vmsd", "nvram"] {
        own(entries, vmx_file).filter(|entry| entry.extension() == kind).for_each(&mut want);
    }
    let is_log = |entry: &&Entry| entry.name.starts_with("vmware") && entry.extension() == "log";
    entries.iter().filter(is_log).for_each(&mut want);
    own(entries, vmx_file).filter(|entry| entry.extension() == "vmsn").for_each(&mut want);

    let mut kept = KeptFiles::default();
    wanted.into_iter().for_each(|entry| kept.keep(&entry.path, warnings));
    kept.files
}

/// The entries named after the definition: `web1.vmsd` and `web1-Snapshot1.vmsn` belong to `web1.vmx`.
fn own<'e>(entries: &'e [Entry], vmx_file: &Path) -> impl Iterator<Item = &'e Entry> {
    let stem = vmx_file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    entries.iter().filter(move |entry| {
        entry.name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('-'))
    })
}

/// What a hypervisor leaves beside a running machine. VMFS locks are invisible here: absence proves nothing, and the
/// in-use flags of the disks are looked at when they are open.
fn signs_of_running(vmx_file: &Path, disks: &[MachineDisk], entries: &[Entry]) -> Option<String> {
    let locked = std::iter::once(vmx_file).chain(disks.iter().map(|disk| disk.image.as_path())).find_map(lock_of);
    if locked.is_some() {
        return locked;
    }
    if let Some(entry) = entries.iter().find(|entry| entry.name.starts_with(".lck-")) {
        return Some(format!("the lock file {} of an NFS datastore is there", entry.name));
    }
    let stem = vmx_file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(entry) = entries.iter().find(|e| e.extension() == "vswp" && e.name.contains(&stem)) {
        return Some(format!("its swap file {} is there", entry.name));
    }
    // The memory of snapshots and of a suspended machine (which also has a .vmss) lies there all the time.
    let is_memory = |entry: &&Entry| {
        entry.extension() == "vmem"
            && !entry.name.contains("-Snapshot")
            && !entries.iter().any(|e| extension(&e.path) == "vmss" && e.path == entry.path.with_extension("vmss"))
    };
    own(entries, vmx_file).find(is_memory).map(|entry| format!("its memory file {} is there", entry.name))
}
