//! The manifest of a package (`.mf`): which digest each of its files must have.
//!
//! In here: the lines, and where the files lie. Not in here: reading those files and comparing (`ops::backup`).
//!
//! Lines are `SHA256(web1.ovf)= 9f86d0…`; writers differ in the blanks around the parentheses and the sign, and older
//! packages have SHA1. Source: DMTF DSP0243, "Integrity of OVF package"; what ovftool, VirtualBox and others write.

use std::path::{Path, PathBuf};

use crate::archive::{self, is_plain_name};
use crate::machine::error::shown;
use crate::machine::folder::read_bounded;
use crate::machine::names::lower_extension;
use crate::machine::{Machine, MachineError, MachineKind};

/// Most lines; a package has a dozen files.
const LINES_MAX: u64 = 8192;

/// How a digest is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Old packages. Enough against accidents, not against a forger.
    Sha1,
    /// Usual today.
    Sha256,
    /// Allowed by version 2 of the specification.
    Sha512,
}

/// What one file of a package must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Its name, as the manifest has it.
    pub name: String,
    /// Where it lies, perhaps inside an archive.
    pub path: PathBuf,
    /// How the digest is computed.
    pub algorithm: Algorithm,
    /// The digest, in lower-case hex.
    pub expected: String,
}

impl Algorithm {
    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
            Algorithm::Sha512 => "SHA512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha1 => 40,
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// The digests of a machine's package; none if it is no package or has no manifest.
///
/// # Errors
/// [`MachineError::Syntax`] with the line that is none; [`MachineError::Value`] for a name that leads out of the package.
pub fn of(machine: &Machine) -> Result<Vec<FileDigest>, MachineError> {
    if machine.kind != MachineKind::Ovf {
        return Ok(Vec::new());
    }
    let archive = machine.disks.first().and_then(|disk| archive::through(&disk.image)).map(|(archive, _)| archive);
    let base = archive.as_deref().unwrap_or(&machine.folder);
    let in_archive = machine.definition_texts.iter().find(|(name, _)| lower_extension(name) == "mf");
    if let Some((name, text)) = in_archive {
        return parse(&base.join(name), text, base);
    }
    let beside = machine.definition_files.iter().find(|path| lower_extension(&path.to_string_lossy()) == "mf");
    beside.map_or_else(|| Ok(Vec::new()), |path| parse(path, &read_bounded(path)?, base))
}

fn parse(file: &Path, bytes: &[u8], base: &Path) -> Result<Vec<FileDigest>, MachineError> {
    let mut digests = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim().trim_start_matches('\u{feff}');
        if line.is_empty() {
            continue;
        }
        let (algorithm, name, expected) = entry(line).ok_or_else(|| MachineError::Syntax {
            file: file.to_path_buf(),
            line: number,
            expected: "SHA1, SHA256 or SHA512, a file name in parentheses, = and the digest in hex",
            found: shown(line),
        })?;
        let name = name.trim_start_matches("./");
        if !is_plain_name(name) {
            return Err(MachineError::Value {
                file: file.to_path_buf(),
                key: format!("line {number}"),
                expected: "the name of a file in the package".to_owned(),
                found: shown(name),
            });
        }
        digests.push(FileDigest { name: name.to_owned(), path: base.join(name), algorithm, expected });
        if digests.len() as u64 > LINES_MAX {
            let found = digests.len() as u64;
            return Err(MachineError::TooMuch { path: file.to_path_buf(), what: "lines", max: LINES_MAX, found });
        }
    }
    Ok(digests)
}

/// `SHA256 (name) = hex`: the name may have parentheses itself, so it ends at the last one.
fn entry(line: &str) -> Option<(Algorithm, &str, String)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, digest) = rest.rsplit_once(')')?;
    let digest = digest.trim().strip_prefix('=')?.trim().to_ascii_lowercase();
    let algorithm = match algorithm.trim().to_ascii_uppercase().replace('-', "").as_str() {
        "SHA1" => Algorithm::Sha1,
        "SHA256" => Algorithm::Sha256,
        "SHA512" => Algorithm::Sha512,
        _ => return None,
    };
    let is_hex = digest.len() == algorithm.hex_len() && digest.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then_some((algorithm, name, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<FileDigest>, String> {
        parse(Path::new("/p/x.mf"), text.as_bytes(), Path::new("/p")).map_err(|error| error.to_string())
    }

    #[test]
    fn blanks_vary() {
        let (short, long) = ("a".repeat(40), "0F".repeat(32));
        let text = format!(
            "SHA1(a.ovf)= {short}\r\nSHA256 (disk (1).vmdk) = {long}\n\n  sha-512(./b)={}\nSHA1(c)={short}",
            "9".repeat(128)
        );
        let found = read(&text).unwrap();
        let found: Vec<_> = found.iter().map(|d| (d.algorithm, d.name.as_str(), d.expected.len())).collect();
        assert_eq!(
            found,
            [
                (Algorithm::Sha1, "a.ovf", 40),
                (Algorithm::Sha256, "disk (1).vmdk", 64),
                (Algorithm::Sha512, "b", 128),
                (Algorithm::Sha1, "c", 40)
            ]
        );
        assert_eq!(read(&format!("SHA256(a)= {long}")).unwrap()[0].expected, "0f".repeat(32));
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn other_lines_and_foreign_names_are_refused() {
        let short = "a".repeat(40);
        for bad in ["hello", "MD5(a)= 0", "SHA1(a)= 12", "SHA1(a) 12", "SHA256(a)= zz"] {
            assert!(read(&format!("SHA1(a)= {short}\n{bad}")).unwrap_err().contains("line 2: expected SHA1"), "{bad}");
        }
        for bad in ["../a", "/etc/shadow", "", "a/../../b"] {
            let error = read(&format!("SHA1({bad})= {short}")).unwrap_err();
            assert!(error.contains("expected the name of a file in the package"), "{error}");
        }
    }
}
