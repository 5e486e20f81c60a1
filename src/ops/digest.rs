//! Digests of whole files, read front to back: what the manifest of an OVF package promises, and what it is to say.
//!
//! Memory is a buffer, whatever the files are. Source: DMTF DSP0243, "Integrity of OVF package".

use std::fmt::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::digest::{Digest, Output, OutputSizeUser};
use sha2::{Sha256, Sha512};

use super::{Control, Event, OpsError};
use crate::archive::{self, ArchiveError, Opened};
use crate::machine::ovf::digests::{self, Algorithm};
use crate::machine::{Machine, MachineError};

/// What is read as one.
const BUFFER_BYTES: usize = 1 << 20;

/// Compares the files of a package with its manifest; gives what its manifest says nothing of. Nothing is read if the
/// machine comes from no package, or from one without a manifest.
///
/// # Errors
/// [`OpsError::WrongDigest`] at the first file that differs; what cannot be read.
pub fn check_package(machine: &Machine, control: Control<'_>) -> Result<Vec<String>, OpsError> {
    let digests = digests::of(machine)?;
    if digests.is_empty() {
        return Ok(Vec::new());
    }
    let mut unlisted = Vec::new();
    for disk in machine.disks.iter().filter(|disk| !digests.iter().any(|digest| digest.path == disk.image)) {
        unlisted.push(format!("{}: {} is not in the manifest of the package", disk.slot, disk.image.display()));
    }
    for digest in &digests {
        let Ok(opened) = open(&digest.path) else {
            // A disk that is missing fails when it is opened.
            unlisted.push(format!("{} is in the manifest of the package, and cannot be read", digest.name));
            continue;
        };
        control.tell(Event::Begin { what: &digest.name, bytes: opened.len });
        let found = match digest.algorithm {
            Algorithm::Sha1 => hex::<Sha1>(&opened, &digest.path, control),
            Algorithm::Sha256 => hex::<Sha256>(&opened, &digest.path, control),
            Algorithm::Sha512 => hex::<Sha512>(&opened, &digest.path, control),
        };
        control.tell(Event::End);
        let (found, expected) = (found?, digest.expected.clone());
        if found != expected {
            let algorithm = digest.algorithm.name();
            return Err(OpsError::WrongDigest { file: digest.path.clone(), algorithm, expected, found });
        }
    }
    Ok(unlisted)
}

/// The manifest of a package of these files.
///
/// # Errors
/// What cannot be read.
pub fn manifest_of<'p>(files: impl Iterator<Item = &'p PathBuf>, control: Control<'_>) -> Result<String, OpsError> {
    let mut text = String::new();
    for file in files {
        let digest = hex::<Sha256>(&open(file)?, file, control)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("SHA256({name})= {digest}\n"));
    }
    Ok(text)
}

fn open(path: &Path) -> Result<Opened, OpsError> {
    Ok(archive::open(path).map_err(MachineError::Archive)?)
}

fn hex<D: Digest + OutputSizeUser>(opened: &Opened, path: &Path, control: Control<'_>) -> Result<String, OpsError> {
    let mut digest = D::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut at, end) = (opened.at, opened.at.saturating_add(opened.len));
    while at < end {
        if control.interrupted() {
            return Err(OpsError::Interrupted);
        }
        let len = usize::try_from(end - at).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        let part = &mut buffer[..len];
        let failed = |source| MachineError::Archive(ArchiveError::Io { file: path.to_path_buf(), source });
        opened.file.read_exact_at(part, at).map_err(failed)?;
        digest.update(&*part);
        at += len as u64;
        control.tell(Event::Done(len as u64));
    }
    let bytes: Output<D> = digest.finalize();
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    }))
}
