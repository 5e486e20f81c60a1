//! The offline way: read the image files as they lie there, if nobody writes to the level that is wanted.
//!
//! A level below a snapshot is frozen: the hypervisor only reads it, so it may be read while the machine runs. In-use flags
//! and locks of frozen layers are then normal (the hypervisor has the whole chain open, and a crash leaves flags behind).
//! The newest layer of a running machine changes under the reader and is refused.
//!
//! Deciding is pure: what was seen is in the arguments. Whether the files really stayed as they were, [`super::guard`]
//! proves afterwards.

use std::path::Path;

use crate::formats::Image;
use crate::machine::Machine;
use crate::machine::level::{ChosenLevel, LevelOfDisk};

use super::CaptureError;

/// An image that was opened for one disk of a level.
pub struct OpenedDisk {
    /// The disk's place on the machine.
    pub slot: String,
    /// The image that the level names for it, with its whole chain.
    pub image: Image,
}

/// One disk, frozen at its level.
pub struct CapturedDisk {
    /// The disk's place on the machine.
    pub slot: String,
    /// The layers of the level; of a base only the lowest.
    pub image: Image,
    /// Whether a snapshot lies above, so that the machine may run meanwhile.
    pub frozen: bool,
}

/// Takes the opened images as the machine's disks at that level, if they may be read now.
///
/// # Errors
/// [`CaptureError::InUse`] if a running machine writes to one of them; [`CaptureError::OtherDisks`] if `opened` are not
/// the disks of the level, in its order.
pub fn take(
    machine: &Machine,
    level: &ChosenLevel,
    opened: Vec<OpenedDisk>,
) -> Result<Vec<CapturedDisk>, CaptureError> {
    let expected: Vec<&str> = level.disks.iter().map(|disk| disk.slot.as_str()).collect();
    let found: Vec<&str> = opened.iter().map(|disk| disk.slot.as_str()).collect();
    if expected != found {
        return Err(CaptureError::OtherDisks { expected: expected.join(", "), found: found.join(", ") });
    }
    let captured = level.disks.iter().zip(opened).map(|(chosen, opened)| {
        let (image, frozen) = match chosen.level {
            LevelOfDisk::Image(_) => (opened.image, chosen.frozen),
            LevelOfDisk::BottomOfChain(_) => bottom_of(opened.image),
        };
        CapturedDisk { slot: opened.slot, image, frozen }
    });
    let captured: Vec<CapturedDisk> = captured.collect();
    for disk in captured.iter().filter(|disk| !disk.frozen) {
        if let Some(why) = written_to(machine, &disk.image) {
            let (machine, kind, snapshots) = (machine.name.clone(), machine.kind, frozen_levels(machine));
            return Err(CaptureError::InUse { machine, kind, why, snapshots });
        }
    }
    Ok(captured)
}

/// The lowest layer alone, and whether others lie above it.
fn bottom_of(mut image: Image) -> (Image, bool) {
    let above = image.layers.len().saturating_sub(1);
    image.layers.drain(..above);
    (image, above > 0)
}

/// What shows that somebody writes to the newest layer of a disk.
pub fn written_to(machine: &Machine, image: &Image) -> Option<String> {
    let newest = image.layers.first()?;
    let flagged = newest.in_use.as_ref().map(|why| format!("{}: {why}", newest.path.display()));
    machine.running.clone().or(flagged)
}

/// The snapshots that can be asked for, newest first: that is the one most likely wanted.
fn frozen_levels(machine: &Machine) -> Vec<String> {
    let covering = machine.snapshots.iter().rev().filter(|snapshot| {
        let current = |image: &Path| machine.disks.iter().any(|disk| disk.image == image);
        !snapshot.frozen.is_empty() && !snapshot.frozen.iter().any(|(_, image)| current(image))
    });
    covering
        .map(|snapshot| {
            let unique = machine.snapshots.iter().filter(|other| other.name == snapshot.name).count() == 1;
            if unique { format!("{:?}", snapshot.name) } else { snapshot.uid.to_string() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::MemoryDisk;
    use crate::formats::Layer;
    use crate::machine::level::{SnapshotChoice, choose};
    use crate::machine::{MachineDisk, MachineIdentity, MachineKind, MachineSnapshot};

    fn layer(name: &str, in_use: Option<&str>) -> Layer {
        Layer {
            disk: Arc::new(MemoryDisk(vec![0; 512])),
            path: name.into(),
            files: Vec::new(),
            variant: "test".to_owned(),
            content_id: String::new(),
            parent_content_id: None,
            properties: Vec::new(),
            in_use: in_use.map(str::to_owned),
            warnings: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A machine with one disk of three layers: `c` over `b` over `a`, frozen by "two" and "one".
    fn machine(running: bool) -> Machine {
        let snapshot = |uid, name: &str, image: &str| MachineSnapshot {
            uid,
            parent: None,
            name: name.to_owned(),
            taken_us: None,
            frozen: vec![("scsi0:0".to_owned(), image.into())],
        };
        Machine {
            name: "web1".to_owned(),
            identity: MachineIdentity::Name("web1".to_owned()),
            folder: "/vm".into(),
            kind: MachineKind::Vmware,
            disks: vec![MachineDisk { slot: "scsi0:0".to_owned(), image: "c".into(), raw: false }],
            definition_files: Vec::new(),
            definition_texts: Vec::new(),
            // The last is a leftover of the list: it names the file in use and must not be offered.
            snapshots: vec![snapshot(1, "one", "a"), snapshot(2, "two", "b"), snapshot(3, "stale", "c")],
            image_folders: Vec::new(),
            running: running.then(|| "the lock web1.vmx.lck is held".to_owned()),
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes a level of a chain of which the layers named in `flagged` are marked as in use.
    fn take_at(machine: &Machine, choice: &str, flagged: &str) -> Result<(Vec<String>, bool), String> {
        let level = choose(machine, &choice.parse::<SnapshotChoice>().unwrap()).unwrap();
        let top = level.disks[0].level.image().to_str().unwrap();
        let chain = ["c", "b", "a"].into_iter().skip_while(|name| *name != top);
        let layers = chain.map(|name| layer(name, flagged.contains(name).then_some("flag set"))).collect();
        let opened = vec![OpenedDisk { slot: "scsi0:0".to_owned(), image: Image { layers } }];
        let mut disks = take(machine, &level, opened).map_err(|error| error.to_string())?;
        let disk = disks.remove(0);
        Ok((disk.image.layers.iter().map(|layer| layer.path.display().to_string()).collect(), disk.frozen))
    }

    #[track_caller]
    fn taken(running: bool, choice: &str, flagged: &str, layers: &[&str], frozen: bool) {
        let expected = (layers.iter().map(|name| (*name).to_owned()).collect(), frozen);
        assert_eq!(take_at(&machine(running), choice, flagged), Ok(expected), "{running} {choice} {flagged}");
    }

    #[test]
    fn what_may_be_read() {
        taken(false, "current", "", &["c", "b", "a"], false);
        // Flags of frozen layers are leftovers of a crash, or of the hypervisor that has the chain open.
        taken(false, "current", "ba", &["c", "b", "a"], false);
        taken(false, "two", "cba", &["b", "a"], true);
        taken(true, "two", "", &["b", "a"], true);
        taken(true, "one", "ba", &["a"], true);
        taken(false, "base", "", &["a"], true);
        taken(true, "base", "cba", &["a"], true);
    }

    #[test]
    fn what_is_in_use() {
        let crashed = "if it does not run, powering it on and off once removes what a crash left";
        let way_out = format!("power it off, or back up a frozen level: --snapshot \"two\" | \"one\"; {crashed}");
        let locked = Err(format!("web1 is in use: the lock web1.vmx.lck is held; {way_out}"));
        let flagged = Err(format!("web1 is in use: c: flag set; {way_out}"));
        assert_eq!(take_at(&machine(true), "current", ""), locked);
        assert_eq!(take_at(&machine(true), "stale", ""), locked);
        assert_eq!(take_at(&machine(false), "current", "c"), flagged);

        // A base without redo logs is the file that the machine writes to.
        let mut single = machine(true);
        single.snapshots.clear();
        single.disks[0].image = "a".into();
        let alone = format!("power it off, or take a snapshot of it and back that up with --snapshot NAME; {crashed}");
        for choice in ["current", "base"] {
            let expected = Err(format!("web1 is in use: the lock web1.vmx.lck is held; {alone}"));
            assert_eq!(take_at(&single, choice, ""), expected);
        }
        single.kind = MachineKind::BlockDevice;
        let device = take_at(&single, "current", "").unwrap_err();
        assert!(device.ends_with("; unmount it, or name a snapshot volume of it"), "{device}");
        single.running = None;
        assert_eq!(take_at(&single, "base", ""), Ok((vec!["a".to_owned()], false)));
    }

    #[test]
    fn snapshots_of_one_name_are_offered_by_number() {
        let mut machine = machine(true);
        machine.snapshots[1].name = "one".to_owned();
        let message = take_at(&machine, "current", "").unwrap_err();
        assert!(message.contains("--snapshot 2 | 1; "), "{message}");
    }

    #[test]
    fn other_disks_are_refused() {
        let machine = machine(false);
        let level = choose(&machine, &SnapshotChoice::Current).unwrap();
        let Err(error) = take(&machine, &level, Vec::new()) else { panic!("was accepted") };
        assert_eq!(error.to_string(), "the level has the disks scsi0:0, but opened were ");
    }
}
