//! Which frozen level of a machine is meant: its current state, one of its snapshots, or the bottom of its chains.
//!
//! Pure: no file is looked at. A level says which image to open for each disk; `capture` decides whether it may be read.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::{MachineError, shown};
use super::{Machine, MachineSnapshot};

/// What the admin asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// The newest state, redo logs included.
    #[default]
    Current,
    /// The bottom of each disk's chain, whether or not a snapshot is listed for it.
    Base,
    /// A snapshot, by its name or its uid.
    Named(String),
}

/// `--snapshot` with nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected current, base, or a snapshot's name or number")]
pub struct EmptyChoice;

impl FromStr for SnapshotChoice {
    type Err = EmptyChoice;

    fn from_str(text: &str) -> Result<SnapshotChoice, EmptyChoice> {
        match text.trim() {
            "" => Err(EmptyChoice),
            "current" => Ok(SnapshotChoice::Current),
            "base" => Ok(SnapshotChoice::Base),
            name => Ok(SnapshotChoice::Named(name.to_owned())),
        }
    }
}

/// The level of a machine that a choice means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenLevel {
    /// The hypervisor's snapshot, if one was chosen.
    pub snapshot: Option<(u64, String)>,
    /// What to open, for each disk the level has.
    pub disks: Vec<ChosenDisk>,
    /// Disks that the level does not have; goes into the report.
    pub warnings: Vec<String>,
}

/// One disk at the chosen level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenDisk {
    /// Its place on the machine.
    pub slot: String,
    /// What to open.
    pub level: LevelOfDisk,
    /// Whether the definition says that this image is raw, whatever its first bytes look like.
    pub raw: bool,
    /// Whether a snapshot lies above it, so that even a running machine does not write to it. For a
    /// [`LevelOfDisk::BottomOfChain`] this is `false`: only the open chain can tell.
    pub frozen: bool,
}

/// Where the level of a disk begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelOfDisk {
    /// This image, with the chain below it.
    Image(PathBuf),
    /// The lowest layer of this image's chain, alone.
    BottomOfChain(PathBuf),
}

impl LevelOfDisk {
    /// The image to open in either case.
    pub fn image(&self) -> &Path {
        match self {
            LevelOfDisk::Image(path) | LevelOfDisk::BottomOfChain(path) => path,
        }
    }
}

/// Finds the level that a choice means. Pure: equal arguments, equal level.
///
/// # Errors
/// [`MachineError::NoSuchSnapshot`] and [`MachineError::AmbiguousSnapshot`], both with the snapshots there are;
/// [`MachineError::NoDisk`] if the snapshot froze no disk.
pub fn choose(machine: &Machine, choice: &SnapshotChoice) -> Result<ChosenLevel, MachineError> {
    let whole = |level: fn(PathBuf) -> LevelOfDisk| {
        let disks = machine.disks.iter();
        let disks = disks.map(|d| ChosenDisk {
            slot: d.slot.clone(),
            level: level(d.image.clone()),
            raw: d.raw,
            frozen: false,
        });
        Ok(ChosenLevel { snapshot: None, disks: disks.collect(), warnings: Vec::new() })
    };
    match choice {
        SnapshotChoice::Current => whole(LevelOfDisk::Image),
        SnapshotChoice::Base => whole(LevelOfDisk::BottomOfChain),
        SnapshotChoice::Named(wanted) => at_snapshot(machine, find(machine, wanted)?),
    }
}

/// The snapshot of that name; else the one with that uid.
fn find<'m>(machine: &'m Machine, wanted: &str) -> Result<&'m MachineSnapshot, MachineError> {
    let mut fitting: Vec<&MachineSnapshot> = machine.snapshots.iter().filter(|s| s.name == wanted).collect();
    if fitting.is_empty() {
        let uid: Option<u64> = wanted.parse().ok();
        fitting.extend(machine.snapshots.iter().filter(|s| Some(s.uid) == uid));
    }
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => Err(MachineError::NoSuchSnapshot {
            machine: machine.name.clone(),
            wanted: wanted.to_owned(),
            known: machine.snapshots.iter().map(label).collect(),
        }),
        several => Err(MachineError::AmbiguousSnapshot {
            machine: machine.name.clone(),
            wanted: wanted.to_owned(),
            fitting: several.iter().map(|snapshot| label(snapshot)).collect(),
        }),
    }
}

/// How messages name a snapshot.
fn label(snapshot: &MachineSnapshot) -> String {
    format!("{} (number {})", shown(&snapshot.name), snapshot.uid)
}

fn at_snapshot(machine: &Machine, snapshot: &MachineSnapshot) -> Result<ChosenLevel, MachineError> {
    let mut warnings = Vec::new();
    for disk in &machine.disks {
        if !snapshot.frozen.iter().any(|(slot, _)| *slot == disk.slot) {
            warnings.push(format!("{}: left out: snapshot {} does not cover it", disk.slot, label(snapshot)));
        }
    }
    if snapshot.frozen.is_empty() {
        let skipped = vec![format!("snapshot {} covers no disk", label(snapshot))];
        return Err(MachineError::NoDisk { file: machine.folder.clone(), skipped });
    }
    let disks = snapshot.frozen.iter().map(|(slot, image)| ChosenDisk {
        slot: slot.clone(),
        level: LevelOfDisk::Image(image.clone()),
        raw: false,
        // A list that was not brought up to date can name a file that the machine writes to.
        frozen: !machine.disks.iter().any(|disk| disk.image == *image),
    });
    Ok(ChosenLevel { snapshot: Some((snapshot.uid, snapshot.name.clone())), disks: disks.collect(), warnings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{MachineDisk, MachineIdentity, MachineKind};

    /// Slots and the images frozen there.
    type Frozen<'t> = &'t [(&'t str, &'t str)];

    fn machine(snapshots: &[(u64, &str, Frozen<'_>)]) -> Machine {
        let disk = |slot: &str, image: &str| MachineDisk { slot: slot.to_owned(), image: image.into(), raw: false };
        Machine {
            name: "web1".to_owned(),
            identity: MachineIdentity::Name("web1".to_owned()),
            folder: "/vm".into(),
            kind: MachineKind::Vmware,
            disks: vec![disk("scsi0:0", "/vm/a-2.vmdk"), disk("scsi0:1", "/vm/b.vmdk")],
            definition_files: Vec::new(),
            definition_texts: Vec::new(),
            snapshots: snapshots
                .iter()
                .map(|(uid, name, frozen)| MachineSnapshot {
                    uid: *uid,
                    parent: None,
                    name: (*name).to_owned(),
                    taken_us: None,
                    frozen: frozen.iter().map(|(slot, image)| ((*slot).to_owned(), image.into())).collect(),
                })
                .collect(),
            image_folders: Vec::new(),
            running: None,
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    const A: Frozen<'_> = &[("scsi0:0", "/vm/a.vmdk")];
    const A1_B: Frozen<'_> = &[("scsi0:0", "/vm/a-1.vmdk"), ("scsi0:1", "/vm/b.vmdk")];

    #[test]
    fn choices_are_words() {
        let parse = |text: &str| text.parse::<SnapshotChoice>();
        assert_eq!(parse("current"), Ok(SnapshotChoice::Current));
        assert_eq!(parse(" base "), Ok(SnapshotChoice::Base));
        assert_eq!(parse("before upgrade"), Ok(SnapshotChoice::Named("before upgrade".to_owned())));
        assert_eq!(parse("2"), Ok(SnapshotChoice::Named("2".to_owned())));
        assert_eq!(parse("  "), Err(EmptyChoice));
    }

    #[track_caller]
    fn check(machine: &Machine, choice: &str, expected: &[(&str, &str, bool)], warnings: &[&str]) {
        let level = choose(machine, &choice.parse().unwrap()).unwrap();
        let found: Vec<_> =
            level.disks.iter().map(|d| (d.slot.as_str(), d.level.image().to_str().unwrap(), d.frozen)).collect();
        assert_eq!(found, expected, "{choice}");
        assert_eq!(level.warnings, warnings, "{choice}");
    }

    #[test]
    fn levels() {
        let machine = machine(&[(1, "before", A), (2, "after", A1_B), (7, "2", A), (8, "twin", A), (9, "twin", A1_B)]);
        let whole = [("scsi0:0", "/vm/a-2.vmdk", false), ("scsi0:1", "/vm/b.vmdk", false)];
        check(&machine, "current", &whole, &[]);
        check(&machine, "base", &whole, &[]);
        let base = choose(&machine, &SnapshotChoice::Base).unwrap();
        assert!(base.disks.iter().all(|disk| matches!(disk.level, LevelOfDisk::BottomOfChain(_))));

        let left_out = "scsi0:1: left out: snapshot \"before\" (number 1) does not cover it";
        check(&machine, "before", &[("scsi0:0", "/vm/a.vmdk", true)], &[left_out]);
        check(&machine, "1", &[("scsi0:0", "/vm/a.vmdk", true)], &[left_out]);
        // The list says that it froze the very file the machine writes to: not frozen.
        check(&machine, "after", &[("scsi0:0", "/vm/a-1.vmdk", true), ("scsi0:1", "/vm/b.vmdk", false)], &[]);
        // A name goes before a number.
        assert_eq!(choose(&machine, &"2".parse().unwrap()).unwrap().snapshot, Some((7, "2".to_owned())));
        assert_eq!(choose(&machine, &"9".parse().unwrap()).unwrap().snapshot, Some((9, "twin".to_owned())));
    }

    #[track_caller]
    fn refused(machine: &Machine, choice: &str, message: &str) {
        let Err(error) = choose(machine, &choice.parse().unwrap()) else { panic!("was accepted: {choice}") };
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn unknown_and_ambiguous_names_list_what_there_is() {
        refused(&machine(&[]), "before", "web1 has no snapshot \"before\": it has none");
        let several = machine(&[(1, "before", A), (8, "twin", A), (9, "twin", A)]);
        refused(
            &several,
            "Before",
            "web1 has no snapshot \"Before\": it has \"before\" (number 1), \"twin\" (number 8), \"twin\" (number 9)",
        );
        refused(&several, "3", &several_message("3"));
        refused(
            &several,
            "twin",
            "web1 has several snapshots \"twin\", choose one by its number: \"twin\" (number 8), \"twin\" (number 9)",
        );
        refused(
            &machine(&[(1, "bare", &[])]),
            "bare",
            "/vm has no disk to back up: snapshot \"bare\" (number 1) covers no disk",
        );
    }

    fn several_message(wanted: &str) -> String {
        format!(
            "web1 has no snapshot {wanted:?}: it has \"before\" (number 1), \"twin\" (number 8), \"twin\" (number 9)"
        )
    }
}
