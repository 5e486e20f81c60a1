//! libvirt's domain XML, as `virsh dumpxml` prints it or as it lies in `/etc/libvirt/qemu`: what it says, and the
//! [`Machine`] it describes.
//!
//! In here: which disks a domain has and where their images lie; the files beside them. Not in here: XML itself (`xml`),
//! hardware for a conversion ([`hardware`]), whether a domain runs: only the status file in `/run/libvirt/qemu` tells.
//!
//! A domain's images may lie anywhere on the host. Without a driver type libvirt takes an image as raw, and so do we: the
//! guest can write any magic into a raw disk.
//!
//! Source: libvirt, "Domain XML format", "Snapshot XML format"; `virDomainDiskDef` for what is optional.

pub(super) mod hardware;

use std::path::{Path, PathBuf};

use super::error::{MachineError, shown};
use super::folder::KeptFiles;
use super::names::{locate, lower_extension, normal_uuid, printable};
use super::xml::{self, Element};
use super::{Machine, MachineDisk, MachineIdentity, MachineKind};

/// Most disks; a domain of QEMU can have some hundred.
const DISKS_MAX: u64 = 1024;
/// Endings of files with UEFI variables. A definition from elsewhere must not make us keep `/etc/shadow` by calling it so.
const VARIABLE_EXTENSIONS: [&str; 5] = ["fd", "nvram", "vars", "bin", "qcow2"];
/// Where libvirt keeps what its emulated TPMs remember, one folder a domain.
const TPM_FOLDER: &str = "/var/lib/libvirt/swtpm";

/// A domain found in a file, whatever is wrapped around it.
pub(super) struct Domain<'x> {
    element: &'x Element,
    wrapper: Wrapper,
}

/// In which of libvirt's files a domain stands.
enum Wrapper {
    /// A definition.
    Definition,
    /// The status of a domain that has a process: its state and process id.
    Status(String),
    /// What a domain was when a snapshot was taken: the snapshot's name.
    Snapshot(String),
}

/// The names of the outermost elements that hold a domain.
pub(super) const ROOTS: [&str; 3] = ["domain", "domainsnapshot", "domstatus"];

/// One `<disk>`.
struct Disk<'x> {
    /// `vda`; no two are equal.
    slot: String,
    element: &'x Element,
    attached: Attached<'x>,
}

/// What hangs there.
enum Attached<'x> {
    Image {
        file: &'x str,
        raw: bool,
    },
    /// A disk that is left out, and why.
    Skipped(String),
    /// No disk of the machine's own: what it is instead.
    NoDisk(String),
}

/// Reads the machine of a definition file; `file` is canonical.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Machine, MachineError> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let root = xml::parse(file, bytes)?;
    let domain = Domain::of(file, &root)?;
    let mut machine = domain.machine(file, folder)?;
    let mut kept = KeptFiles::default();
    kept.keep(file, &mut machine.warnings);
    domain.keep_state(&mut kept, folder, &mut machine);
    machine.definition_files = kept.files;
    Ok(machine)
}

/// The machine that `virsh dumpxml` describes; no file is kept but the UEFI variables and the TPM's state.
pub(super) fn of_dump(name: &str, bytes: &[u8], running: Option<String>) -> Result<Machine, MachineError> {
    let file = PathBuf::from(format!("libvirt:{name}"));
    let root = xml::parse(&file, bytes)?;
    let domain = Domain::of(&file, &root)?;
    let mut machine = domain.machine(&file, Path::new("/"))?;
    let mut kept = KeptFiles::default();
    domain.keep_state(&mut kept, Path::new("/"), &mut machine);
    machine.definition_files = kept.files;
    machine.definition_texts = vec![(definition_name(&machine.name), bytes.to_vec())];
    machine.running = running;
    Ok(machine)
}

/// A file name for the definition of a domain.
fn definition_name(name: &str) -> String {
    let plain: String = name.chars().map(|c| if matches!(c, '/' | '\\') { '_' } else { c }).collect();
    format!("{}.xml", plain.trim_start_matches('.'))
}

impl<'x> Domain<'x> {
    /// Finds the domain in a file of libvirt.
    pub(super) fn of(file: &Path, root: &'x Element) -> Result<Domain<'x>, MachineError> {
        let inner = || {
            root.child("domain").ok_or_else(|| MachineError::Value {
                file: file.to_path_buf(),
                key: root.name.clone(),
                expected: "a domain inside".to_owned(),
                found: "none".to_owned(),
            })
        };
        let (element, wrapper) = match root.name.as_str() {
            "domain" => (root, Wrapper::Definition),
            "domstatus" => {
                let state = printable(root.attribute("state").unwrap_or("running"));
                let process = root.attribute("pid").map(|pid| format!(" as process {}", printable(pid)));
                (inner()?, Wrapper::Status(state + &process.unwrap_or_default()))
            }
            "domainsnapshot" => {
                (inner()?, Wrapper::Snapshot(printable(root.text_at(&["name"]).unwrap_or("without a name"))))
            }
            other => {
                return Err(MachineError::Unsupported {
                    path: file.to_path_buf(),
                    feature: format!("an XML file of <{}> as a machine", printable(other)),
                });
            }
        };
        Ok(Domain { element, wrapper })
    }

    fn name(&self, file: &Path) -> String {
        let name = self.element.text_at(&["name"]).map(printable).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| printable(&file.file_stem().unwrap_or_default().to_string_lossy()))
    }

    fn uuid(&self) -> Option<String> {
        self.element.text_at(&["uuid"]).and_then(normal_uuid)
    }

    fn machine(&self, file: &Path, folder: &Path) -> Result<Machine, MachineError> {
        let name = self.name(file);
        let mut machine = Machine {
            identity: self.uuid().map_or_else(|| MachineIdentity::Name(name.clone()), MachineIdentity::Uuid),
            ..Machine::new(name, folder, MachineKind::Libvirt)
        };
        match &self.wrapper {
            Wrapper::Definition => {}
            Wrapper::Status(state) => machine.running = Some(format!("libvirt has it as {state}")),
            Wrapper::Snapshot(name) => machine.warnings.push(format!(
                "{} describes the machine as it was at its snapshot {}: other images may be in use since",
                printable(&file.to_string_lossy()),
                shown(name)
            )),
        }
        for disk in self.disks(file)? {
            let slot = &disk.slot;
            match &disk.attached {
                Attached::Image { file, raw } => {
                    let (image, moved) = locate(folder, file);
                    machine.warnings.extend(moved.map(|remark| format!("{slot}: {remark}")));
                    disk.remarks(&mut machine);
                    machine.disks.push(MachineDisk { slot: slot.clone(), image, raw: *raw });
                }
                Attached::Skipped(why) => machine.warnings.push(format!("{slot}: skipped: {why}")),
                Attached::NoDisk(what) => machine.notes.push(format!("{slot}: skipped: {what}")),
            }
        }
        machine.with_disks(file)
    }

    /// All disks, CD-ROM drives among them, in the order of the file.
    fn disks(&self, file: &Path) -> Result<Vec<Disk<'x>>, MachineError> {
        let elements: Vec<&Element> =
            self.element.child("devices").map(|devices| devices.children("disk").collect()).unwrap_or_default();
        if elements.len() as u64 > DISKS_MAX {
            return Err(MachineError::TooMuch {
                path: file.to_path_buf(),
                what: "disks",
                max: DISKS_MAX,
                found: elements.len() as u64,
            });
        }
        let mut disks: Vec<Disk<'x>> = Vec::new();
        for (number, element) in elements.into_iter().enumerate() {
            let target = element.child("target").and_then(|target| target.attribute("dev")).map(printable);
            let slot = target.filter(|slot| !slot.is_empty()).unwrap_or_else(|| format!("disk{number}"));
            if disks.iter().any(|disk| disk.slot == slot) {
                return Err(MachineError::Value {
                    file: file.to_path_buf(),
                    key: "disk/target@dev".to_owned(),
                    expected: "another name for each disk".to_owned(),
                    found: shown(&slot),
                });
            }
            disks.push(Disk { slot, element, attached: self.attached(element) });
        }
        Ok(disks)
    }

    fn attached(&self, disk: &'x Element) -> Attached<'x> {
        match disk.attribute("device").unwrap_or("disk") {
            "cdrom" => return Attached::NoDisk("a CD-ROM drive".to_owned()),
            "floppy" => return Attached::NoDisk("a floppy drive".to_owned()),
            _ => {}
        }
        let source = disk.child("source");
        let named = |attribute: &str| source.and_then(|source| source.attribute(attribute)).filter(|n| !n.is_empty());
        let driver = disk.child("driver").and_then(|driver| driver.attribute("type"));
        match disk.attribute("type").unwrap_or("file") {
            "file" => match named("file") {
                Some(file) => Attached::Image { file, raw: self.is_raw(driver) },
                None => Attached::NoDisk("no image".to_owned()),
            },
            "block" => match (named("dev"), driver) {
                (Some(_), Some(format)) if format != "raw" => Attached::Skipped(format!(
                    "a {} image inside a block device: only raw devices are supported",
                    printable(format)
                )),
                (Some(file), _) => Attached::Image { file, raw: true },
                (None, _) => Attached::NoDisk("no device".to_owned()),
            },
            "volume" => {
                let (pool, volume) = (named("pool").unwrap_or("?"), named("volume").unwrap_or("?"));
                Attached::Skipped(format!(
                    "the volume {} of the pool {}: back up its file or device by the path that \
                     `virsh vol-path --pool POOL VOLUME` prints",
                    shown(volume),
                    shown(pool)
                ))
            }
            "network" => Attached::Skipped(format!(
                "a disk over the network ({} {}): no file of this host has its content",
                printable(named("protocol").unwrap_or("?")),
                shown(named("name").unwrap_or("?"))
            )),
            "dir" => Attached::Skipped(format!("a folder shown as a disk ({})", shown(named("dir").unwrap_or("?")))),
            other => Attached::Skipped(format!("a disk of the type {}", shown(other))),
        }
    }

    /// Hypervisors other than QEMU do not take an image without a driver type as raw.
    fn is_raw(&self, driver: Option<&str>) -> bool {
        match driver {
            Some(format) => format == "raw",
            None => matches!(self.element.attribute("type"), None | Some("kvm" | "qemu" | "hvf")),
        }
    }

    /// The file of the UEFI variables.
    fn variables(&self) -> Option<&'x str> {
        let nvram = self.element.at(&["os", "nvram"])?;
        let named = nvram.child("source").and_then(|source| source.attribute("file"));
        named.or_else(|| Some(nvram.text())).filter(|file| !file.is_empty())
    }

    /// Keeps what the machine's firmware and TPM remember.
    fn keep_state(&self, kept: &mut KeptFiles, folder: &Path, machine: &mut Machine) {
        if let Some(name) = self.variables() {
            let (file, _) = locate(folder, name);
            if VARIABLE_EXTENSIONS.contains(&lower_extension(name).as_str()) {
                kept.keep(&file, &mut machine.warnings);
            } else {
                machine.warnings.push(format!("nvram: {} is not named like UEFI variables: not kept", shown(name)));
            }
        }
        let tpm = self.element.at(&["devices", "tpm", "backend"]);
        if tpm.is_some_and(|backend| backend.attribute("type") == Some("emulator")) {
            let folder = self.uuid().map(|uuid| Path::new(TPM_FOLDER).join(uuid));
            let states = ["tpm2/tpm2-00.permall", "tpm1.2/tpm-00.permall"];
            match folder.and_then(|folder| states.map(|state| folder.join(state)).into_iter().find(|f| f.is_file())) {
                Some(state) => kept.keep(&state, &mut machine.warnings),
                None => machine.warnings.push(format!(
                    "what its TPM remembers is not kept: no readable file in {TPM_FOLDER}; a guest that sealed keys in it \
                     (BitLocker) will ask for its recovery key"
                )),
            }
        }
    }
}

impl Disk<'_> {
    /// What is to be said of a disk that is taken.
    fn remarks(&self, machine: &mut Machine) {
        let (slot, has) = (&self.slot, |name: &str| self.element.child(name).is_some());
        if has("shareable") {
            machine
                .warnings
                .push(format!("{slot}: shared with other machines: whether one of them writes to it cannot be seen"));
        }
        if has("mirror") {
            machine.warnings.push(format!("{slot}: libvirt is copying it elsewhere (mirror)"));
        }
        if has("transient") {
            machine.notes.push(format!("{slot}: transient: what the guest writes is thrown away when it stops"));
        }
        if has("readonly") {
            machine.notes.push(format!("{slot}: read-only for the guest"));
        }
    }
}
