//! Which machines the arguments of `backup` mean, read but not yet touched.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Arguments;
use crate::cli::failure::Usage;
use crate::machine::{Found, Machine, MachineError, MachineIdentity, MachineKind, Skipped};
use crate::ops::machines;

/// What is to be backed up, and what was found and is not.
#[derive(Default)]
pub struct Targets {
    /// In the order of the arguments; each machine once.
    pub machines: Vec<Target>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// What is odd about them together.
    pub warnings: Vec<String>,
}

/// One machine.
pub struct Target {
    /// Its definition or image, or what was typed.
    pub path: PathBuf,
    /// The machine, or why it cannot be backed up.
    pub machine: anyhow::Result<Machine>,
}

impl Targets {
    /// Reads everything that the arguments name.
    pub fn of(arguments: &Arguments) -> Targets {
        let mut targets = Targets::default();
        for argument in &arguments.machines {
            targets.add(argument, arguments.raw);
        }
        // Named twice, by its folder and by its file: one backup is meant.
        let mut seen = HashSet::new();
        targets.machines.retain(|target| seen.insert(target.path.clone()));
        targets.warn_of_twins();
        targets
    }

    fn add(&mut self, argument: &Path, raw: bool) {
        let told = |error: anyhow::Error| error.context(format!("cannot back up {}", argument.display()));
        if let Some(name) = libvirt_name(argument) {
            let machine = machines::of_libvirt(name).map_err(|error| told(error.into()));
            self.machines.push(Target { path: argument.to_path_buf(), machine });
            return;
        }
        match machines::find(argument) {
            Err(error) => self.machines.push(Target { path: argument.to_path_buf(), machine: Err(told(error.into())) }),
            Ok(Found { mut machines, mut skipped }) => {
                // What lies beside a single machine is a note on it.
                if let [found] = machines.as_mut_slice()
                    && let Ok(machine) = &mut found.machine
                {
                    let beside = skipped.extract_if(.., |skipped| !skipped.is_loss);
                    machine.notes.extend(beside.map(|skipped| format!("{}: {}", skipped.path.display(), skipped.why)));
                }
                self.skipped.extend(skipped);
                if machines.is_empty() {
                    let error = MachineError::NoMachine { folder: argument.to_path_buf() };
                    self.machines.push(Target { path: argument.to_path_buf(), machine: Err(told(error.into())) });
                }
                let is_one = machines.len() == 1;
                for found in machines {
                    // Of one machine the user's own words are shown.
                    let shown = if is_one { argument } else { &found.path };
                    let what = format!("cannot back up {}", shown.display());
                    let path =
                        if found.machine.is_ok() || !is_one { found.path.clone() } else { argument.to_path_buf() };
                    let machine = found.machine.map_err(anyhow::Error::from).with_context(|| what);
                    let machine = machine.and_then(|machine| as_wanted(machine, shown, raw));
                    self.machines.push(Target { path, machine });
                }
            }
        }
    }

    /// Copies of a machine have its UUID; their backups would be taken for those of one machine.
    fn warn_of_twins(&mut self) {
        let mut by_identity: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for target in &self.machines {
            if let Ok(machine) = &target.machine {
                let identity = match &machine.identity {
                    MachineIdentity::BiosUuid(uuid) | MachineIdentity::Uuid(uuid) => format!("the UUID {uuid}"),
                    MachineIdentity::Name(name) => format!("the name {name:?} and no UUID"),
                };
                by_identity.entry(identity).or_default().push(target.path.clone());
            }
        }
        for (identity, paths) in by_identity.into_iter().filter(|(_, paths)| paths.len() > 1) {
            let others: Vec<String> = paths.iter().skip(1).take(8).map(|path| path.display().to_string()).collect();
            self.warnings.push(format!(
                "{} and {} have {identity}: their backups count as those of one machine",
                paths[0].display(),
                others.join(", ")
            ));
        }
    }
}

/// `libvirt:web1` → `web1`, unless a file has that name.
fn libvirt_name(argument: &Path) -> Option<&str> {
    let name = argument.to_str()?.strip_prefix(machines::LIBVIRT)?;
    (!name.is_empty() && !argument.exists()).then_some(name)
}

fn as_wanted(machine: Machine, shown: &Path, raw: bool) -> anyhow::Result<Machine> {
    let has_definition =
        !matches!(machine.kind, MachineKind::Image | MachineKind::BlockDevice | MachineKind::ImageFolder);
    if raw && has_definition {
        let message = format!("{}: its definition says how its images are read", shown.display());
        return Err(Usage::new(message, "--raw is for image files: leave it out, or name an image").into());
    }
    Ok(machine)
}
