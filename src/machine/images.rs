//! Machines without a definition: one image, one block device, a folder of images.
//!
//! In here: which files are images, and which of them are the newest of their chain. For that it looks at the text of
//! VMDK descriptors, no further; what is inside an image is the matter of `formats`, and which files an image stands on is
//! asked of the caller ([`FilesBelow`]): to parse every format's parent locators here once more would be a second reader
//! of each, with its own faults.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::error::MachineError;
use super::folder::{Entry, extension, lock_of};
use super::names::printable;
use super::{FilesBelow, Machine, MachineDisk, MachineKind};

/// Extensions of disk images. A file of one that we cannot read yet is still taken: `formats` will name it, and nothing
/// is left out in silence.
const IMAGE_EXTENSIONS: [&str; 15] =
    ["vmdk", "img", "raw", "dd", "vhd", "vpc", "vhdx", "avhd", "avhdx", "vdi", "qcow2", "qcow", "qed", "hdd", "hds"];
/// Files of a machine that are no images, and what to say about them.
const NO_IMAGE_EXTENSIONS: [&str; 11] =
    ["vmxf", "vmsd", "vmsn", "vmss", "vmem", "vswp", "nvram", "log", "mf", "cert", "xml"];
/// Most of a descriptor we look at: a split disk of 62 TiB has 32,000 lines of 50 bytes.
const DESCRIPTOR_BYTES_MAX: u64 = 2 << 20;

/// A machine that is one image file; `file` is canonical.
pub(super) fn single(file: &Path) -> Result<Machine, MachineError> {
    let kind = extension(file);
    if NO_IMAGE_EXTENSIONS.contains(&kind.as_str()) {
        let feature = format!("a .{kind} file as a machine (name its folder, its .vmx or a disk image)");
        return Err(MachineError::Unsupported { path: file.to_path_buf(), feature });
    }
    if kind == "vmdk"
        && let Some((part, descriptor)) = part_of_disk(file)
        && names_in(file).map_err(MachineError::io(file))?.is_none()
    {
        return Err(MachineError::PartOfDisk { file: file.to_path_buf(), part, descriptor });
    }
    let name = printable(&file.file_stem().unwrap_or_default().to_string_lossy());
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut machine = without_definition(name, folder, MachineKind::Image, vec![file.to_path_buf()]);
    machine.running = lock_of(file);
    Ok(machine)
}

/// A machine that is one block device, named as the admin named it.
pub(super) fn block_device(device: &Path) -> Result<Machine, MachineError> {
    let name = printable(&device.file_name().unwrap_or_default().to_string_lossy());
    let folder = device.parent().unwrap_or(Path::new("/"));
    let mut machine = without_definition(name, folder, MachineKind::BlockDevice, vec![device.to_path_buf()]);
    machine.running = held_by_kernel(device).map_err(MachineError::io(device))?;
    Ok(machine)
}

/// The images among a folder's entries; pieces that a descriptor beside them names are none.
pub(super) fn files(entries: &[Entry]) -> Vec<PathBuf> {
    let files = entries.iter().filter(|entry| IMAGE_EXTENSIONS.contains(&entry.extension().as_str()));
    let plain = files.filter(|entry| entry.metadata().is_some_and(|metadata| metadata.is_file()));
    let whole = plain.filter(|entry| {
        let is_part = entry.extension() == "vmdk" && part_of_disk(&entry.path).is_some();
        // What cannot be read is left to whoever opens it.
        !is_part || !matches!(names_in(&entry.path), Ok(None))
    });
    whole.map(|entry| entry.path.clone()).collect()
}

/// The images of a folder without a definition, the newest of each chain as a disk; `None` if there is no image.
pub(super) fn folder(
    folder: &Path,
    images: &[PathBuf],
    below: &FilesBelow<'_>,
) -> Result<Option<Machine>, MachineError> {
    if images.is_empty() {
        return Ok(None);
    }
    let newest = newest(folder, images, below);
    if newest.is_empty() {
        return Err(MachineError::NoNewestImage { folder: folder.to_path_buf(), found: images.to_vec() });
    }
    let name = printable(&folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy());
    let running = newest.iter().find_map(|image| lock_of(image));
    let mut machine = without_definition(name, folder, MachineKind::ImageFolder, newest);
    machine.running = running;
    Ok(Some(machine))
}

/// Those of `images` that no other of them stands on. Names in descriptors count besides what can be opened: a redo log
/// that is broken must not make its parent a disk of its own.
pub(super) fn newest(folder: &Path, images: &[PathBuf], below: &FilesBelow<'_>) -> Vec<PathBuf> {
    let mut used: HashSet<PathBuf> = HashSet::new();
    for image in images {
        let named = if extension(image) == "vmdk" { names_in(image).ok().flatten() } else { None };
        let named = named.into_iter().flatten().map(|name| image.with_file_name(name));
        let own = image.canonicalize().ok();
        let files = named.chain(below(image, folder)).filter_map(|file| file.canonicalize().ok());
        used.extend(files.filter(|file| Some(file) != own.as_ref()));
    }
    let is_newest = |image: &&PathBuf| image.canonicalize().map_or(true, |real| !used.contains(&real));
    images.iter().filter(is_newest).cloned().collect()
}

fn without_definition(name: String, folder: &Path, kind: MachineKind, images: Vec<PathBuf>) -> Machine {
    let disks = (0..).zip(images).map(|(index, image): (usize, _)| MachineDisk {
        slot: format!("disk{index}"),
        image,
        raw: false,
    });
    Machine { disks: disks.collect(), ..Machine::new(name, folder, kind) }
}

/// Whether a device is mounted, or part of a volume or array: the kernel then refuses it an exclusive reader. A hypervisor
/// that uses the device shows no sign.
fn held_by_kernel(device: &Path) -> io::Result<Option<String>> {
    let exclusive = i32::try_from(OFlags::EXCL.bits()).map_err(io::Error::other)?;
    match OpenOptions::new().read(true).custom_flags(exclusive).open(device) {
        Ok(_) => Ok(None),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
            Ok(Some(format!("{} is mounted or part of a volume in use", device.display())))
        }
        Err(error) => Err(error),
    }
}

/// What kind of part the name of a `.vmdk` says it is, and the file that then describes the disk. Names are only a habit:
/// a file with a descriptor inside is a whole disk, whatever it is called.
fn part_of_disk(file: &Path) -> Option<(&'static str, PathBuf)> {
    let stem = file.file_stem()?.to_str()?;
    let (disk, tail) = stem.rsplit_once('-')?;
    let numbered = |letter: char| {
        tail.strip_prefix(letter).is_some_and(|digits| digits.len() >= 3 && digits.bytes().all(|d| d.is_ascii_digit()))
    };
    let part = match tail {
        "flat" => "the data of a flat disk",
        "delta" | "sesparse" => "the data of a redo log",
        "ctk" => "a change tracking file",
        "rdm" | "rdmp" => "the map of a raw device",
        _ if numbered('s') => "one piece of a split sparse disk",
        _ if numbered('f') => "one piece of a split flat disk",
        _ => return None,
    };
    Some((part, file.with_file_name(format!("{disk}.vmdk"))))
}

/// The names of the files that a VMDK's descriptor needs, parent and extents, without folders; `None` if the file has no
/// descriptor. Damage is not noticed here: whoever opens the image reports it.
fn names_in(file: &Path) -> io::Result<Option<Vec<String>>> {
    let mut file = File::open(file)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(512).read_to_end(&mut head)?;
    let mut text = Vec::new();
    if head.starts_with(b"KDMV") {
        // Descriptor's place and length in sectors; Virtual Disk Format 5.0, "Hosted Sparse Extent Header".
        let sectors = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (Some(at), Some(len)) = (sectors(28), sectors(36)) else { return Ok(None) };
        let (Some(at), Some(len)) = (at.checked_mul(512), len.checked_mul(512)) else { return Ok(None) };
        if at == 0 || at > i64::MAX as u64 {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(at))?;
        file.take(len.min(DESCRIPTOR_BYTES_MAX)).read_to_end(&mut text)?;
    } else {
        file.seek(SeekFrom::Start(0))?;
        file.take(DESCRIPTOR_BYTES_MAX).read_to_end(&mut text)?;
    }
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if !text.get(..21).is_some_and(|first| first.eq_ignore_ascii_case("# Disk DescriptorFile")) {
        return Ok(None);
    }
    Ok(Some(text.lines().filter_map(named_file).collect()))
}

/// The file that one line of a descriptor names: `parentFileNameHint="…"` or `RW 204800 SPARSE "…"`.
fn named_file(line: &str) -> Option<String> {
    let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
    let first = words.next()?.to_ascii_lowercase();
    if !matches!(first.as_str(), "parentfilenamehint" | "rw" | "rdonly" | "noaccess") {
        return None;
    }
    let (_, quoted) = line.split_once('"')?;
    let (name, _) = quoted.rsplit_once('"').or_else(|| quoted.split_once('"'))?;
    name.rsplit(['/', '\\']).next().filter(|name| !name.is_empty()).map(str::to_owned)
}
