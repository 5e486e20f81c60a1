//! `.vmx`, VMware's definition of a machine: which disks it has, what it is called, which files belong to it.
//!
//! In here: what the keys mean. Not in here: the syntax (`dictionary`), the neighbours in the folder (`vmware`), what is
//! inside a disk. This room reads no directory and opens no disk; it only asks whether a disk file exists.
//!
//! File names in a definition are untrusted: disks keep them as paths (the open policy of `formats` decides later
//! whether they may be opened).
//!
//! Source: VMware KB 1006614 on the files of a machine; virt-v2v `parse_vmx.ml`.

use std::collections::BTreeMap;
use std::path::Path;

use super::dictionary::Dictionary;
use super::error::{MachineError, shown};
use super::names::{locate, lower_extension, normal_uuid, printable};
use super::{MachineDisk, MachineIdentity};

pub(super) mod hardware;

/// Most disks; vSphere allows 256 on four paravirtual controllers.
pub(super) const DISKS_MAX: u64 = 1024;

/// What a `.vmx` says.
pub(super) struct Vmx {
    pub(super) name: String,
    pub(super) identity: MachineIdentity,
    pub(super) disks: Vec<MachineDisk>,
    /// `nvram`, as it stands there.
    pub(super) nvram: Option<String>,
    /// `extendedConfigFile`, as it stands there.
    pub(super) vmxf: Option<String>,
    /// Skipped because a restore lacks nothing without it: CD-ROM drives, empty slots.
    pub(super) notes: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Where a disk hangs; the order of the fields is the order of a machine's disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    bus: &'static str,
    controller: u16,
    unit: u16,
}

/// The controllers that carry disks; floppies have keys of another shape.
const BUSES: [&str; 4] = ["ide", "nvme", "sata", "scsi"];

/// Takes a machine out of its definition; `folder` is where relative file names begin.
pub(super) fn machine(vmx: &Dictionary, folder: &Path) -> Result<Vmx, MachineError> {
    let stem = vmx.file().file_stem().unwrap_or_default().to_string_lossy();
    let name = vmx.text("displayname").map(printable).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| printable(&stem));
    if let Some(key) = vmx.keys().filter(|key| says_encrypted(key)).min() {
        return Err(MachineError::Encrypted { file: vmx.file().to_path_buf(), name, key: key.to_owned() });
    }

    let identity = match vmx.text("uuid.bios").and_then(normal_uuid) {
        Some(uuid) => MachineIdentity::BiosUuid(uuid),
        None => MachineIdentity::Name(name.clone()),
    };
    let mut disks = Vec::new();
    let (mut notes, mut warnings) = (Vec::new(), Vec::new());
    if let Some(uuid) = vmx.text("uuid.bios").filter(|uuid| normal_uuid(uuid).is_none()) {
        warnings.push(format!("uuid.bios is no UUID ({}): the machine is known by its name", shown(uuid)));
    }
    for (slot, prefix) in slots(vmx)? {
        match attached(vmx, &prefix)? {
            Attached::Disk { file, mode } => {
                let (image, moved) = locate(folder, file);
                warnings.extend(moved.or_else(|| independent(&mode)).map(|remark| format!("{slot}: {remark}")));
                disks.push(MachineDisk { slot, image, raw: false });
            }
            Attached::Skipped(reason) => warnings.push(format!("{slot}: skipped: {reason}")),
            Attached::NoDisk(what) => notes.push(format!("{slot}: skipped: {what}")),
            Attached::Nothing => {}
        }
    }
    if disks.is_empty() {
        notes.append(&mut warnings);
        return Err(MachineError::NoDisk { file: vmx.file().to_path_buf(), skipped: notes });
    }
    // Inexact names are fine here: they match no file of the folder, and that becomes a warning.
    let nvram = vmx.text("nvram").map(str::to_owned);
    let vmxf = vmx.text("extendedconfigfile").map(str::to_owned);
    Ok(Vmx { name, identity, disks, nvram, vmxf, notes, warnings })
}

/// What hangs at a slot.
enum Attached<'v> {
    Disk {
        file: &'v str,
        /// Lower case; empty if there is none.
        mode: String,
    },
    /// A disk that is left out, and why.
    Skipped(String),
    /// No disk of the machine's own: what it is instead.
    NoDisk(String),
    Nothing,
}

fn attached<'v>(vmx: &'v Dictionary, prefix: &str) -> Result<Attached<'v>, MachineError> {
    let key = |name: &str| format!("{prefix}.{name}");
    let shown_file = vmx.text(&key("filename")).map(str::trim).filter(|name| !name.is_empty());
    if !vmx.is_true(&key("present")) {
        // A slot that was emptied leaves its file name behind; the file may matter to someone.
        let leftover = shown_file.filter(|name| lower_extension(name) == "vmdk");
        return Ok(leftover.map_or(Attached::Nothing, |name| {
            Attached::Skipped(format!("{} is named there but not connected (present is not TRUE)", shown(name)))
        }));
    }
    let kind = printable(vmx.text(&key("devicetype")).unwrap_or("disk")).to_ascii_lowercase();
    if kind.contains("cdrom") {
        return Ok(Attached::NoDisk(format!("a CD-ROM drive ({kind})")));
    }
    if kind.contains("raw") || kind.contains("passthru") {
        return Ok(Attached::Skipped(format!("a raw device ({kind}): its content is in no file of the machine")));
    }
    let Some(file) = shown_file else {
        return Ok(Attached::NoDisk("no fileName".to_owned()));
    };
    if lower_extension(file) == "iso" {
        return Ok(Attached::NoDisk(format!("{} is a CD image", shown(file))));
    }
    let exact = vmx.exact(&key("filename"))?.unwrap_or(file).trim();
    let mode = vmx.text(&key("mode")).unwrap_or_default().to_ascii_lowercase();
    Ok(Attached::Disk { file: exact, mode })
}

/// What to say of a disk that snapshots leave out.
fn independent(mode: &str) -> Option<String> {
    mode.starts_with("independent").then(|| {
        format!(
            "its mode is {}: no snapshot covers it, so only a backup of the machine powered off has it",
            shown(mode)
        )
    })
}

/// Every slot that any key names, with its name and the prefix of its keys.
fn slots(vmx: &Dictionary) -> Result<Vec<(String, String)>, MachineError> {
    let mut found: BTreeMap<Slot, String> = BTreeMap::new();
    for key in vmx.keys() {
        let Some((prefix, _)) = key.split_once('.') else { continue };
        if let Some(slot) = parse_slot(prefix) {
            found.insert(slot, prefix.to_owned());
        }
    }
    if found.len() as u64 > DISKS_MAX {
        return Err(MachineError::TooMuch {
            path: vmx.file().to_path_buf(),
            what: "disks",
            max: DISKS_MAX,
            found: found.len() as u64,
        });
    }
    Ok(found.into_values().map(|prefix| (prefix.clone(), prefix)).collect())
}

/// `scsi0:1` → its parts; a number that is not written the one usual way (`scsi0:01`) is no slot.
fn parse_slot(prefix: &str) -> Option<Slot> {
    let bus = *BUSES.iter().find(|bus| prefix.starts_with(**bus))?;
    let (controller, unit) = prefix.strip_prefix(bus)?.split_once(':')?;
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| number.to_string() == text);
    Some(Slot { bus, controller: number(controller)?, unit: number(unit)? })
}

fn says_encrypted(key: &str) -> bool {
    key.starts_with("encryption.") || key.starts_with("vmx.encryption")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vmx, MachineError> {
        let dictionary = Dictionary::parse(Path::new("/nowhere/web1.vmx"), text.as_bytes())?;
        machine(&dictionary, Path::new("/nowhere"))
    }

    /// A definition with one sound disk and more lines.
    fn with(lines: &str) -> String {
        format!("scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"web1.vmdk\"\n{lines}")
    }

    #[track_caller]
    fn disks(lines: &str, expected: &[(&str, &str)], warnings: &[&str]) {
        let vmx = read(lines).unwrap();
        let found: Vec<_> = vmx.disks.iter().map(|d| (d.slot.as_str(), d.image.to_str().unwrap())).collect();
        assert_eq!(found, expected, "{lines}");
        let said: Vec<&String> = vmx.notes.iter().chain(&vmx.warnings).collect();
        assert_eq!(said, warnings, "{lines}");
    }

    #[test]
    fn which_disks() {
        let base = ("scsi0:0", "/nowhere/web1.vmdk");
        disks(&with(""), &[base], &[]);
        disks(&with("scsi0:0.deviceType = \"scsi-hardDisk\"\nscsi0:0.mode = \"persistent\""), &[base], &[]);
        disks("IDE0:0.Present = \"true\"\nide0:0.FILENAME = \"./a.vmdk\"", &[("ide0:0", "/nowhere/a.vmdk")], &[]);
        // Order: by bus, controller, unit as numbers.
        disks(
            &with(concat!(
                "scsi0:10.present=\"TRUE\"\nscsi0:10.fileName=\"k.vmdk\"\n",
                "scsi0:2.present=\"TRUE\"\nscsi0:2.fileName=\"c.vmdk\"\n",
                "nvme0:0.present=\"TRUE\"\nnvme0:0.fileName=\"n.vmdk\"\n",
                "sata1:0.present=\"TRUE\"\nsata1:0.fileName=\"s.vmdk\"\n"
            )),
            &[
                ("nvme0:0", "/nowhere/n.vmdk"),
                ("sata1:0", "/nowhere/s.vmdk"),
                base,
                ("scsi0:2", "/nowhere/c.vmdk"),
                ("scsi0:10", "/nowhere/k.vmdk"),
            ],
            &[],
        );
        // The last of two equal keys.
        disks(&with("SCSI0:0.fileName = \"new.vmdk\""), &[("scsi0:0", "/nowhere/new.vmdk")], &[]);
    }

    #[test]
    fn what_is_skipped_and_why() {
        let base = ("scsi0:0", "/nowhere/web1.vmdk");
        let second = |lines: &str| with(&format!("scsi0:1.present = \"TRUE\"\n{lines}"));
        disks(
            &second("scsi0:1.fileName = \"x.iso\"\nscsi0:1.deviceType = \"cdrom-image\""),
            &[base],
            &["scsi0:1: skipped: a CD-ROM drive (cdrom-image)"],
        );
        disks(
            &second("scsi0:1.fileName = \"auto detect\"\nscsi0:1.deviceType = \"atapi-cdrom\""),
            &[base],
            &["scsi0:1: skipped: a CD-ROM drive (atapi-cdrom)"],
        );
        disks(&second("scsi0:1.fileName = \"X.ISO\""), &[base], &["scsi0:1: skipped: \"X.ISO\" is a CD image"]);
        disks(&second(""), &[base], &["scsi0:1: skipped: no fileName"]);
        disks(
            &second("scsi0:1.fileName = \"r.vmdk\"\nscsi0:1.deviceType = \"rawDisk\""),
            &[base],
            &["scsi0:1: skipped: a raw device (rawdisk): its content is in no file of the machine"],
        );
        disks(
            &with("scsi0:1.present = \"FALSE\"\nscsi0:1.fileName = \"old.vmdk\""),
            &[base],
            &["scsi0:1: skipped: \"old.vmdk\" is named there but not connected (present is not TRUE)"],
        );
        disks(
            &with("scsi0:1.present = \"FALSE\"\nscsi0.present = \"TRUE\"\nscsi0:01.present = \"TRUE\""),
            &[base],
            &[],
        );
        disks(
            &second("scsi0:1.fileName = \"swap.vmdk\"\nscsi0:1.mode = \"independent-persistent\""),
            &[base, ("scsi0:1", "/nowhere/swap.vmdk")],
            &[
                "scsi0:1: its mode is \"independent-persistent\": no snapshot covers it, so only a backup of the machine \
               powered off has it",
            ],
        );
    }

    #[test]
    fn what_no_restore_lacks_is_a_note_and_no_warning() {
        let second = |lines: &str| read(&with(&format!("scsi0:1.present = \"TRUE\"\n{lines}"))).unwrap();
        for harmless in ["scsi0:1.deviceType = \"cdrom-image\"", "scsi0:1.fileName = \"x.iso\"", ""] {
            let vmx = second(harmless);
            assert_eq!((vmx.notes.len(), vmx.warnings.len()), (1, 0), "{harmless}");
        }
        let vmx = second("scsi0:1.fileName = \"r.vmdk\"\nscsi0:1.deviceType = \"rawDisk\"");
        assert_eq!((vmx.notes.len(), vmx.warnings.len()), (0, 1));
    }

    #[test]
    fn hostile_paths_stay_paths() {
        // The open policy of `formats` refuses them; here they must neither be opened nor made harmless in silence.
        let image = |name: &str| ("scsi0:0", name.to_owned());
        for (name, path) in [
            ("../../etc/shadow", "/nowhere/../../etc/shadow"),
            ("/etc/shadow", "/etc/shadow"),
            ("/dev/sda", "/dev/sda"),
            (r"C:\VMs\web1.vmdk", r"/nowhere/C:\VMs\web1.vmdk"),
            ("..", "/nowhere/.."),
        ] {
            let vmx = read(&format!("scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"{name}\"")).unwrap();
            assert_eq!((vmx.disks[0].slot.as_str(), vmx.disks[0].image.display().to_string()), image(path));
        }
    }

    #[test]
    fn identity() {
        let vmx = read(&with("displayName = \"Shop\"\nuuid.bios = \"?\"")).unwrap();
        assert_eq!(vmx.identity, MachineIdentity::Name("Shop".to_owned()));
        assert_eq!(vmx.warnings, ["uuid.bios is no UUID (\"?\"): the machine is known by its name"]);
    }

    #[test]
    fn names_are_printable() {
        for (line, name) in [
            ("", "web1"),
            ("displayName = \"\"", "web1"),
            ("displayName = \"Shop |22A|22\"", "Shop \"A\""),
            ("displayName = \"|1B[31mred|0A\"", "[31mred"),
        ] {
            assert_eq!(read(&with(line)).unwrap().name, name);
        }
        assert_eq!(read(&with(&format!("displayName = \"{}\"", "n".repeat(300)))).unwrap().name.len(), 255);
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let Err(error) = read(text) else { panic!("was accepted: {text}") };
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn hostile_definitions_are_refused() {
        refused("", "/nowhere/web1.vmx has no disk to back up");
        refused(
            "ide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-raw\"",
            "/nowhere/web1.vmx has no disk to back up: ide1:0: skipped: a CD-ROM drive (cdrom-raw)",
        );
        refused(
            &with("displayName = \"Vault\"\nencryption.keySafe = \"vmware:key/list/(pair…)\"\nencryption.data = \"x\""),
            "/nowhere/web1.vmx: the machine Vault is encrypted (encryption.data): encrypted machines are not supported",
        );
        refused(
            ".encoding = \"GBK\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"中.vmdk\"",
            "/nowhere/web1.vmx: scsi0:0.filename: expected a name in UTF-8, US-ASCII or windows-1252, found \"中.vmdk\"",
        );
        let many: String = (0..1025).map(|unit| format!("scsi0:{unit}.present = \"TRUE\"\n")).collect();
        refused(&many, "/nowhere/web1.vmx: disks: expected at most 1024, found 1025");
    }

    proptest::proptest! {
        /// Whatever a definition says: it is refused, or its disks hang at different slots in their order.
        #[test]
        fn slots_are_unique_and_in_order(lines in proptest::collection::vec(
            ("(ide|sata|scsi|nvme|x)[0-3]{0,2}:?[0-9]{1,5}", "(present|fileName|deviceType|mode|x)",
             "(TRUE|FALSE|a.vmdk|b.ISO|/c/d.vmdk|cdrom-image|rawDisk|independent-persistent|\\PC{0,8})"), 0..40)
        ) {
            let text: String = lines.iter().map(|(slot, key, value)| format!("{slot}.{key} = \"{value}\"\n")).collect();
            if let Ok(vmx) = read(&text) {
                let slots: Vec<Slot> = vmx.disks.iter().map(|disk| parse_slot(&disk.slot).unwrap()).collect();
                proptest::prop_assert!(!slots.is_empty() && slots.is_sorted_by(|one, other| one < other), "{:?}", slots);
            }
        }
    }
}
