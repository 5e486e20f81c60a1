//! Which machines a path or a name means: `machine` finds them, `formats` tells which images stand on which, libvirt is
//! asked for its own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::OpsError;
use crate::formats::{self, OpenPolicy};
use crate::machine::{self, Found, Machine, MachineError};

/// What stands in front of the name of a machine that libvirt is asked for.
pub const LIBVIRT: &str = "libvirt:";

/// The one machine that a path means.
///
/// # Errors
/// As [`machine::read`].
pub fn read(path: &Path) -> Result<Machine, MachineError> {
    machine::read(path, &files_below)
}

/// Every machine that a path means.
///
/// # Errors
/// As [`machine::find`].
pub fn find(path: &Path) -> Result<Found, MachineError> {
    machine::find(path, &files_below)
}

fn files_below(image: &Path, folder: &Path) -> Vec<PathBuf> {
    let policy = OpenPolicy::named_by_user(image).and_then(|policy| policy.allow(folder));
    // An image that cannot be looked at stands on nothing that we know; whoever opens it says why.
    policy.map(|policy| formats::files_below(image, &policy)).unwrap_or_default()
}

/// The machine that libvirt knows as `name`: a domain's name, its number or its UUID.
///
/// While it runs, its live definition is what names the images in use.
///
/// # Errors
/// [`OpsError::Libvirt`] if `virsh` is missing or does not know the machine; what is wrong with its definition.
pub fn of_libvirt(name: &str) -> Result<Machine, OpsError> {
    let dump = virsh(name, "dumpxml", &[])?;
    let state = virsh(name, "domstate", &[])?;
    let state = String::from_utf8_lossy(&state).trim().to_owned();
    let running = (state != "shut off").then(|| format!("libvirt has it as {state}"));
    Ok(machine::of_libvirt_dump(name, &dump, running)?)
}

/// Runs a command of `virsh` on a domain; its words are to be those of the C locale.
fn virsh(domain: &str, verb: &'static str, options: &[&str]) -> Result<Vec<u8>, OpsError> {
    let failed = |reason: String, source: Option<io::Error>| OpsError::Libvirt {
        machine: domain.to_owned(),
        verb,
        reason,
        source,
    };
    // Behind `--`, no name is taken for an option.
    let output = Command::new("virsh")
        .args(["--readonly", "--quiet", verb])
        .args(options)
        .args(["--", domain])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(Output { status, stdout, .. }) if status.success() => Ok(stdout),
        Ok(Output { status, stderr, .. }) => {
            let said = String::from_utf8_lossy(&stderr);
            let said = said.lines().map(|line| line.trim_start_matches("error: ")).collect::<Vec<_>>().join("; ");
            Err(failed(if said.is_empty() { status.to_string() } else { said }, None))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(failed("there is no virsh here".to_owned(), None)),
        Err(error) => Err(failed("virsh could not be run".to_owned(), Some(error))),
    }
}
