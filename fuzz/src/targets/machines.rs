//! The promises of `machine` on any definition: it is refused in words, or describes a machine that makes sense.
//!
//! - Disks hang at different slots; snapshots are a tree; every choice of a level has an answer.
//! - Files to be kept with a backup are plain files of the machine's own folder.
//! - What is said can be shown on a terminal; read twice, a definition says the same.

use std::collections::HashSet;
use std::path::Path;

use abbild::machine::level::{SnapshotChoice, choose};
use abbild::machine::{Machine, MachineKind};
use abbild::ops::machines;

use super::message::can_be_shown;
use super::stage::{self, Content, Entry, Plan, Stage, states};

/// What lies beside a definition.
const NEIGHBOURS: [&str; 6] = ["disk.vmdk", "disk-000001.vmdk", "disk.qcow2", "disk.vdi", "web1.nvram", "vmware.log"];
/// A definition with a disk and a snapshot's redo log, for lists of snapshots.
const DEFINITION: &str =
    "displayName = \"web1\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"disk-000001.vmdk\"\n";

thread_local! {
    static STAGE: Stage = Stage::new();
}

/// A definition file called `name`, beside some neighbours.
pub fn definition(name: &str, input: &[u8]) {
    let mut entries = vec![file(name, input)];
    entries.extend(NEIGHBOURS.map(|name| file(name, b"")));
    judge(&Plan { options: 0, entries }, false);
}

/// A list of snapshots beside a sound definition.
pub fn snapshots(input: &[u8]) {
    let mut entries = vec![file("web1.vmx", DEFINITION.as_bytes()), file("web1.vmsd", input)];
    entries.extend(NEIGHBOURS.map(|name| file(name, b"")));
    judge(&Plan { options: 0, entries }, false);
}

/// A whole folder of files, links and folders.
pub fn folder(input: &[u8]) {
    judge(&stage::decode(input), true);
}

fn file(name: &str, bytes: &[u8]) -> Entry {
    Entry { name: name.to_string(), content: Content::File(bytes.len() as u64, vec![(0, bytes.to_vec())]) }
}

/// Reads the machine in the planned folder, or that its first file defines.
fn judge(plan: &Plan, whole_folder: bool) {
    STAGE.with(|stage| {
        let first = stage.fill(plan);
        let path = if whole_folder { stage.folder().to_path_buf() } else { first.expect("the definition is a file") };
        let before = states(stage.folder());
        let outcome = machines::read(&path);
        let again = machines::read(&path);
        assert_eq!(format!("{again:?}"), format!("{outcome:?}"), "read again");
        match outcome {
            Ok(machine) => makes_sense(&machine, stage.folder()),
            Err(fault) => can_be_shown(&fault.to_string()),
        }
        assert_eq!(states(stage.folder()), before, "the source is never written");
    });
}

fn makes_sense(machine: &Machine, folder: &Path) {
    assert!(!machine.name.is_empty() && machine.name.chars().count() <= 255, "{:?}", machine.name);
    can_be_shown(&machine.name);
    machine.notes.iter().chain(&machine.warnings).chain(&machine.running).for_each(|said| can_be_shown(said));
    let slots: HashSet<&str> = machine.disks.iter().map(|disk| disk.slot.as_str()).collect();
    assert!(!slots.is_empty() && slots.len() == machine.disks.len(), "{:?}", machine.disks);
    slots.into_iter().for_each(can_be_shown);
    for file in &machine.definition_files {
        let is_plain = file.symlink_metadata().is_ok_and(|meta| meta.is_file());
        let real = file.canonicalize().expect("a file to be kept is there");
        // A libvirt definition is the host's own, and names its firmware's variables where libvirt keeps them.
        let may_lie_there = machine.kind == MachineKind::Libvirt || real.starts_with(folder);
        assert!(is_plain && may_lie_there, "{} is to be kept", file.display());
    }
    let uids: HashSet<u64> = machine.snapshots.iter().map(|snapshot| snapshot.uid).collect();
    assert_eq!(uids.len(), machine.snapshots.len(), "a number for each snapshot");
    for snapshot in &machine.snapshots {
        assert!(snapshot.parent.is_none_or(|parent| uids.contains(&parent)), "{snapshot:?}");
        can_be_shown(&snapshot.name);
        let frozen: HashSet<&str> = snapshot.frozen.iter().map(|(slot, _)| slot.as_str()).collect();
        assert_eq!(frozen.len(), snapshot.frozen.len(), "a slot for each frozen disk");
    }
    let named = machine.snapshots.iter().take(16).map(|snapshot| SnapshotChoice::Named(snapshot.uid.to_string()));
    for choice in [SnapshotChoice::Current, SnapshotChoice::Base].into_iter().chain(named) {
        match choose(machine, &choice) {
            Ok(level) => assert!(!level.disks.is_empty(), "{choice:?} has no disk"),
            Err(fault) => {
                assert!(matches!(choice, SnapshotChoice::Named(_)), "{choice:?}: {fault}");
                can_be_shown(&fault.to_string());
            }
        }
    }
    if machine.kind == MachineKind::ImageFolder {
        assert!(machine.snapshots.is_empty(), "images without a definition have no snapshots");
    }
}
