//! OVF packages, as a folder (`.ovf` and its files) or as one tar archive (`.ova`) → [`Machine`].
//!
//! In here: which files a package has and which of them are the machine's disks. Not in here: what the descriptor says
//! ([`envelope`], [`hardware`]), whether the digests of the manifest are right ([`digests`] reads them, `ops` compares).
//!
//! A disk in an archive is read where it lies: its path goes on behind that of the archive (`web1.ova/web1-disk1.vmdk`).
//! Names of members are compared, and become no paths of this host. Source: DMTF DSP0243, versions 0.9 to 2.1.

pub mod digests;
pub(super) mod envelope;
pub(super) mod hardware;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use envelope::{Envelope, PackageFile, Stored};

use super::error::{MachineError, shown};
use super::folder::{FILE_BYTES_MAX, KeptFiles, entries, extension};
use super::names::{lower_extension, printable};
use super::{Machine, MachineDisk, MachineKind, xml};
use crate::archive::{self, ArchiveError, Member, MemberKind};

/// The endings of files that belong to a package and are no disks, most needed first.
const KEPT_EXTENSIONS: [&str; 3] = ["mf", "cert", "nvram"];

/// Reads the machine of an `.ovf` or `.ova`; `file` is canonical.
pub(super) fn read(file: &Path) -> Result<Machine, MachineError> {
    if extension(file) == "ova" { Archived::open(file)?.read() } else { in_folder(file) }
}

fn in_folder(file: &Path) -> Result<Machine, MachineError> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let root = xml::parse(file, &super::folder::read_bounded(file)?)?;
    let mut machine = machine(&Envelope::of(file, &root)?, folder, |name| folder.join(name))?;
    let mut kept = KeptFiles::default();
    kept.keep(file, &mut machine.warnings);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let neighbours = entries(folder)?;
    let names: Vec<&str> = neighbours.iter().map(|entry| entry.name.as_str()).collect();
    for name in companions(&names, &stem) {
        kept.keep(&folder.join(name), &mut machine.warnings);
    }
    machine.definition_files = kept.files;
    let all: Vec<String> = machine.definition_files.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    say_what_proves_it(&mut machine, &all);
    Ok(machine)
}

/// A package in a tar archive.
struct Archived {
    path: PathBuf,
    file: std::fs::File,
    members: Vec<Member>,
}

impl Archived {
    fn open(path: &Path) -> Result<Archived, MachineError> {
        let opened = archive::open(path)?;
        let members = archive::members(&opened.file, opened.len, path)?;
        Ok(Archived { path: path.to_path_buf(), file: opened.file, members })
    }

    fn read(self) -> Result<Machine, MachineError> {
        let descriptors: Vec<&Member> = self.plain().filter(|m| lower_extension(&m.name) == "ovf").collect();
        let descriptor = match descriptors.as_slice() {
            [one] => *one,
            several => {
                return Err(MachineError::Value {
                    file: self.path.clone(),
                    key: "members".to_owned(),
                    expected: "one .ovf among them".to_owned(),
                    found: several.len().to_string(),
                });
            }
        };
        let text = self.content(descriptor)?;
        let path = self.place(&descriptor.name);
        let root = xml::parse(&path, &text)?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let mut machine = machine(&Envelope::of(&path, &root)?, folder, |name| self.place(name))?;
        machine.definition_texts.push((bare(&descriptor.name), text));
        let names: Vec<&str> = self.plain().map(|member| member.name.as_str()).collect();
        let stem = Path::new(&descriptor.name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for name in companions(&names, &stem) {
            match self.plain().find(|member| member.name == name).map(|member| self.content(member)) {
                Some(Ok(text)) => machine.definition_texts.push((bare(name), text)),
                Some(Err(error)) => machine.warnings.push(format!("{} is not kept: {error}", shown(name))),
                None => {}
            }
        }
        let all: Vec<String> = machine.definition_texts.iter().map(|(name, _)| name.clone()).collect();
        say_what_proves_it(&mut machine, &all);
        Ok(machine)
    }

    fn plain(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.kind == MemberKind::File)
    }

    /// Where a member lies; an absolute name must not lead out of the archive, as `join` would let it.
    fn place(&self, name: &str) -> PathBuf {
        self.path.join(name.trim_start_matches('/'))
    }

    /// The whole content of a member that goes into memory.
    fn content(&self, member: &Member) -> Result<Vec<u8>, MachineError> {
        let path = self.place(&member.name);
        if member.len > FILE_BYTES_MAX {
            return Err(MachineError::TooMuch {
                path,
                what: "length in bytes",
                max: FILE_BYTES_MAX,
                found: member.len,
            });
        }
        let mut bytes = vec![0; usize::try_from(member.len).expect("16 MiB at most")];
        self.file.read_exact_at(&mut bytes, member.at).map_err(MachineError::io(&path))?;
        Ok(bytes)
    }
}

/// A member's name without folders: what it is called when it is restored.
fn bare(name: &str) -> String {
    printable(name.rsplit('/').next().unwrap_or(name))
}

/// The files beside the descriptor that are kept with it: those named like it, and a manifest under any name if it is the
/// only one.
fn companions<'n>(names: &[&'n str], stem: &str) -> Vec<&'n str> {
    let mut found = Vec::new();
    for kind in KEPT_EXTENSIONS {
        let of_kind: Vec<&str> = names.iter().copied().filter(|name| lower_extension(name) == kind).collect();
        let own =
            of_kind.iter().find(|name| Path::new(name).file_stem().is_some_and(|own| own.to_string_lossy() == stem));
        match (own, of_kind.as_slice()) {
            (Some(own), _) => found.push(*own),
            (None, [one]) => found.push(*one),
            (None, _) => {}
        }
    }
    found
}

/// Whether damage in transport would be noticed.
fn say_what_proves_it(machine: &mut Machine, kept: &[String]) {
    let has = |kind: &str| kept.iter().find(|name| lower_extension(name) == kind);
    if has("mf").is_none() {
        machine
            .notes
            .push("it has no manifest (.mf): nothing tells whether its files are as they were packed".to_owned());
    }
    if let Some(certificate) = has("cert") {
        let name = certificate.rsplit('/').next().unwrap_or(certificate);
        machine.notes.push(format!("{}: kept; the signature in it is not checked", printable(name)));
    }
}

/// The machine of an envelope; `place` says where a file of the package lies.
fn machine(envelope: &Envelope<'_>, folder: &Path, place: impl Fn(&str) -> PathBuf) -> Result<Machine, MachineError> {
    let system = envelope.system()?;
    let mut machine = Machine::new(system.name(), folder, MachineKind::Ovf);
    for disk in system.disks()? {
        let slot = disk.attached.slot.clone();
        match envelope.stored(&disk.resource)? {
            Stored::File(file) => {
                machine.warnings.extend(disk.remark.map(|remark| format!("{slot}: {remark}")));
                machine.disks.push(MachineDisk { slot, image: image(&file, &place), raw: false });
            }
            Stored::Blank => machine.warnings.push(format!("{slot}: left out: a blank disk that no file stores")),
        }
    }
    machine.notes.extend(system.drives().into_iter().map(|line| format!("{line}: skipped")));
    machine.with_disks(envelope.file)
}

/// Which file of the package a disk of the machine is.
pub(super) struct DiskFile {
    pub(super) slot: String,
    /// The id of its file among the references.
    pub(super) file_id: String,
    /// Its id in the disk section, if it is named by that.
    pub(super) disk_id: Option<String>,
}

/// The files of a descriptor's disks; `file` is for the errors.
pub(super) fn disk_files(file: &Path, bytes: &[u8]) -> Result<Vec<DiskFile>, MachineError> {
    let root = xml::parse(file, bytes)?;
    let envelope = Envelope::of(file, &root)?;
    let mut files = Vec::new();
    for disk in envelope.system()?.disks()? {
        if let Stored::File(file) = envelope.stored(&disk.resource)? {
            let disk_id = disk.resource.strip_prefix("disk/").map(str::to_owned);
            files.push(DiskFile { slot: disk.attached.slot, file_id: file.id.to_owned(), disk_id });
        }
    }
    Ok(files)
}

/// References are URIs, and few writers know it: a name is taken as it stands, unless only its decoded form is there.
fn image(file: &PackageFile<'_>, place: &impl Fn(&str) -> PathBuf) -> PathBuf {
    let plain = place(file.name);
    let exists = |path: &Path| match archive::through(path) {
        Some(_) => archive::open(path).is_ok(),
        None => path.exists(),
    };
    match percent_decoded(file.name) {
        Some(decoded) if !exists(&plain) => Some(place(&decoded)).filter(|path| exists(path)).unwrap_or(plain),
        _ => plain,
    }
}

/// `My%20VM.vmdk` → `My VM.vmdk`; `None` if nothing in it is encoded.
fn percent_decoded(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut left = name.as_bytes();
    while let Some((&byte, after)) = left.split_first() {
        left = after;
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|digits| byte == b'%' && digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
            Some(digits) => {
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                left = after.get(2..)?;
            }
            None => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok().filter(|decoded| decoded != name && !decoded.contains('\0'))
}

impl From<ArchiveError> for MachineError {
    fn from(error: ArchiveError) -> MachineError {
        MachineError::Archive(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_once() {
        for (name, expected) in [
            ("a.vmdk", None),
            ("My%20VM.vmdk", Some("My VM.vmdk")),
            ("%2525", Some("%25")),
            ("100%", None),
            ("%+1", None),
            ("%00", None),
            ("%ff", None),
        ] {
            assert_eq!(percent_decoded(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn companions_are_few() {
        let names = ["web1.ovf", "web1.mf", "other.mf", "x.cert", "a.nvram", "b.nvram", "web1-disk1.vmdk"];
        assert_eq!(companions(&names, "web1"), ["web1.mf", "x.cert"]);
        assert!(companions(&["a.mf", "b.mf"], "web1").is_empty());
    }
}
