//! Which format a file is in, by its content and never by its name. The name only ever forbids: a file called
//! `.vmdk` without a sign of VMDK is refused, because reading it as raw would back up garbage.

use super::ImageError;
use super::file::ImageFile;
use super::vmdk::{cowd, descriptor, sesparse, sparse};
use super::{parallels, qcow2, qed, vdi, vhd, vhdx};
use crate::units::FileOffset;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Vdi,
    Vhd,
    Vhdx,
    Vmdk,
    Qcow2,
    Qed,
    Parallels,
}

impl Format {
    /// QEMU's name for it, which stands in the header of an overlay.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Vmdk => "vmdk",
            Format::Qcow2 => "qcow2",
            Format::Vhd => "vpc",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
            Format::Qed => "qed",
            Format::Parallels => "parallels",
        }
    }
}

/// Bytes looked at from the beginning: a descriptor may have padding before its first line.
const HEAD_BYTES: u64 = 4096;
/// Magics of formats that are known and not read: offset, bytes, name.
const KNOWN: [(usize, &[u8], &str); 1] = [(0, b"ENCRYPTED VMDK", "an encrypted VMDK")];
/// Names that promise a format with a magic.
const NAMES_WITH_MAGIC: [&str; 13] =
    ["vmdk", "vhd", "avhd", "vhdx", "avhdx", "qcow2", "qcow", "vdi", "qed", "hdd", "hds", "ova", "ovf"];

/// Looks at the beginning and the end of `file`.
pub(crate) fn detect(file: &ImageFile) -> Result<Format, ImageError> {
    let head = file.read_vec("image header", FileOffset(0), file.len().min(HEAD_BYTES))?;
    if head.starts_with(sparse::header::MAGIC) || descriptor::is_descriptor(&head) {
        return Ok(Format::Vmdk);
    }
    if head.starts_with(qcow2::header::MAGIC) {
        return Ok(Format::Qcow2);
    }
    if head.starts_with(qed::header::MAGIC) {
        return Ok(Format::Qed);
    }
    if head.starts_with(parallels::header::MAGIC_SECTORS) || head.starts_with(parallels::header::MAGIC_BLOCKS) {
        return Ok(Format::Parallels);
    }
    for (magic, name) in [(&cowd::MAGIC[..], "COWD"), (&sesparse::MAGIC[..], "seSparse")] {
        if head.starts_with(magic) {
            let feature = format!("a {name} extent without its descriptor (open the .vmdk that names it; alone, it)");
            return Err(file.unsupported(feature));
        }
    }
    for (at, magic, name) in KNOWN {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(file.unsupported(name));
        }
    }
    if head.starts_with(vhdx::header::MAGIC) {
        return Ok(Format::Vhdx);
    }
    if head.get(vdi::header::MAGIC_AT..).is_some_and(|rest| rest.starts_with(vdi::header::MAGIC)) {
        return Ok(Format::Vdi);
    }
    if head.starts_with(vhd::header::FOOTER_MAGIC) || has_vhd_footer(file)? {
        return Ok(Format::Vhd);
    }
    refuse_promising_name(file, &head)?;
    Ok(Format::Raw)
}

/// A fixed VHD has nothing at its beginning. The other kinds have a copy of their footer there, so at the end of a file
/// that is not called a VHD their footer counts for nothing: the guest of a raw disk can write one that names a parent.
fn has_vhd_footer(file: &ImageFile) -> Result<bool, ImageError> {
    // Old writers left a byte off the footer.
    for footer_bytes in [512, 511] {
        if let Some(at) = file.len().checked_sub(footer_bytes)
            && let footer = file.read_vec("last sector", FileOffset(at), footer_bytes)?
            && let Ok((_, footer)) = vhd::header::footer(&footer)
        {
            return Ok(footer.disk_type == 2 || has_extension(file, &["vhd", "avhd"]));
        }
    }
    Ok(false)
}

fn has_extension(file: &ImageFile, extensions: &[&str]) -> bool {
    let own = file.path().extension().map(|own| own.to_string_lossy().to_ascii_lowercase());
    own.is_some_and(|own| extensions.contains(&own.as_str()))
}

fn refuse_promising_name(file: &ImageFile, head: &[u8]) -> Result<(), ImageError> {
    let extension = file.path().extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let Some(extension) = extension.filter(|extension| NAMES_WITH_MAGIC.contains(&extension.as_str())) else {
        return Ok(());
    };
    if file.is_device() {
        return Ok(()); // a volume may be called anything
    }
    let is_flat = file.path().to_string_lossy().to_ascii_lowercase().ends_with("-flat.vmdk");
    let expected = match is_flat {
        true => "a VMDK header (a -flat.vmdk is opened through the .vmdk that names it)".to_string(),
        false => format!("a header of the format that its name .{extension} promises"),
    };
    let found = format!("{:02x?}", head.get(..8).unwrap_or(head));
    Err(file.corrupt("image header", FileOffset(0), expected, found).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[track_caller]
    fn check(name: &str, content: &[u8], expected: Result<Format, &str>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let outcome = detect(&ImageFile::new(&path, File::open(&path).unwrap()).unwrap());
        match (outcome, expected) {
            (Ok(format), Ok(expected)) => assert_eq!(format, expected, "{name}"),
            (Err(err), Err(said)) => assert!(err.to_string().contains(said), "{name}: {err}"),
            (outcome, _) => panic!("{name}: {outcome:?}"),
        }
    }

    fn sectors(head: &[u8], at: usize, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count * 512];
        bytes[at..at + head.len()].copy_from_slice(head);
        bytes
    }

    #[test]
    fn content_decides_and_names_only_forbid() {
        check("a.img", &[], Ok(Format::Raw));
        check("a.img", &[0; 700], Ok(Format::Raw));
        check("a", &sectors(b"KDMV", 0, 1), Ok(Format::Vmdk));
        check("a.img", b"\n# Disk DescriptorFile", Ok(Format::Vmdk));
        check("a.img", &sectors(b"QFI\xfb", 0, 2), Ok(Format::Qcow2));
        check("a.img", &sectors(b"QFI\xfb", 1, 2), Ok(Format::Raw));
        check("a.img", &sectors(b"vhdxfile", 0, 1), Ok(Format::Vhdx));
        check("a.img", &sectors(b"conectix", 0, 9), Ok(Format::Vhd));
        let footer = |disk_type: u8| [b"conectix".as_slice(), &[0; 55], &[disk_type]].concat();
        check("a.img", &sectors(&footer(2), 512 * 8, 9), Ok(Format::Vhd));
        check("a.img", &sectors(&footer(2), 1, 1), Ok(Format::Vhd)); // a footer of 511 bytes
        check("a.img", &sectors(&footer(2), 512 * 7, 9), Ok(Format::Raw));
        check("a.img", &sectors(&footer(4), 512 * 8, 9), Ok(Format::Raw));
        check("a.avhd", &sectors(&footer(4), 512 * 8, 9), Ok(Format::Vhd));
        check("a.img", &sectors(b"\x7f\x10\xda\xbe", 64, 1), Ok(Format::Vdi));
        check("a.img", &sectors(b"QED\0", 0, 1), Ok(Format::Qed));
        check("a.img", &sectors(b"WithoutFreeSpace", 0, 1), Ok(Format::Parallels));
        check("a.img", &sectors(b"WithouFreSpacExt", 0, 1), Ok(Format::Parallels));
        check("a.img", &sectors(b"ENCRYPTED VMDK", 0, 1), Err("an encrypted VMDK"));
        check("a.vmdk", &sectors(b"COWD", 0, 4), Err("a COWD extent without its descriptor"));
        check("a.vmdk", &sectors(sesparse::MAGIC, 0, 1), Err("a seSparse extent without its descriptor"));
        for name in ["a.vmdk", "a.VMDK", "a.vhd", "a.avhd", "a.vhdx", "a.qcow2", "a.vdi", "a.qed", "a.hds"] {
            check(name, &[0; 512], Err("image header at offset 0x0: expected a header of the format that its name"));
        }
        check("a-flat.vmdk", &[0; 512], Err("opened through the .vmdk that names it"));
    }
}
