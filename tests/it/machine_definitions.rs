//! "Here is what my hypervisor wrote": machines read from the definitions of libvirt, VirtualBox, Proxmox VE and Hyper-V,
//! written as those programs write them, and what hostile ones get told.

use std::fs;
use std::path::{Path, PathBuf};

use abbild::machine::level::choose;
use abbild::machine::{self, Machine, MachineIdentity, MachineKind};
use abbild::ops::machines;
use tempfile::TempDir;

const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/definitions");
const HYPER_V: &str = "9D5E0A6B-2C44-4C01-9D5E-0A6B2C4481F0";

/// A folder with its real path: answers have real paths.
fn folder() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().canonicalize().unwrap();
    (place, path)
}

/// A definition of the fixtures as text.
pub fn definition(name: &str) -> String {
    fs::read_to_string(format!("{DEFINITIONS}/{name}")).unwrap()
}

pub fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

#[track_caller]
fn read(path: &Path) -> Machine {
    machines::read(path).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refusal(path: &Path, folder: &Path) -> String {
    match machines::read(path) {
        Ok(machine) => panic!("was accepted as {machine:?}"),
        Err(error) => error.to_string().replace(folder.to_str().unwrap(), "DIR"),
    }
}

/// Slots, images and whether they are raw.
fn disks(machine: &Machine) -> Vec<(&str, &str, bool)> {
    machine.disks.iter().map(|disk| (disk.slot.as_str(), disk.image.to_str().unwrap(), disk.raw)).collect()
}

fn names(paths: &[PathBuf]) -> Vec<&str> {
    paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect()
}

/// The disks' slots are those of the hardware, in its order.
#[track_caller]
fn agrees_with_its_hardware(machine: &Machine, definition: &Path) {
    let hardware = machine::hardware_of(definition, &fs::read(definition).unwrap()).unwrap();
    let slots: Vec<&str> = machine.disks.iter().map(|disk| disk.slot.as_str()).collect();
    let attached: Vec<&str> = hardware.disks.iter().map(|disk| disk.slot.as_str()).collect();
    assert_eq!(slots[..attached.len()], attached);
    assert_eq!(hardware.name, machine.name);
}

#[test]
fn a_domain_of_libvirt() {
    let (_place, folder) = folder();
    let file = put(&folder, "web1.xml", definition("web1.xml"));
    let web1 = read(&folder);
    assert_eq!((web1.name.as_str(), web1.kind), ("web1", MachineKind::Libvirt));
    assert_eq!(web1.identity, MachineIdentity::Uuid("6f0a1f3a-7720-4c01-9d5e-0a6b2c4481f0".to_owned()));
    assert_eq!(
        disks(&web1),
        [
            ("vda", "/var/lib/libvirt/images/web1.snap1", false),
            ("vdb", "/srv/images/web1-data.img", true),
            ("sda", "/dev/vg0/web1-db", true),
        ]
    );
    assert_eq!(web1.notes, ["sdb: skipped: a CD-ROM drive"]);
    assert_eq!(
        web1.warnings[..2],
        [
            "vdc: skipped: the volume \"scratch.qcow2\" of the pool \"default\": back up its file or device by the path that \
             `virsh vol-path --pool POOL VOLUME` prints",
            "vdd: skipped: a disk over the network (rbd \"pool/web1-logs\"): no file of this host has its content",
        ]
    );
    assert!(web1.warnings[2].starts_with("web1_VARS.fd is not kept: it cannot be read"), "{:?}", web1.warnings);
    assert!(web1.warnings[3].starts_with("what its TPM remembers is not kept"), "{:?}", web1.warnings);
    assert_eq!(names(&web1.definition_files), ["web1.xml"]);
    assert_eq!(web1.running, None);
    agrees_with_its_hardware(&web1, &file);
}

#[test]
fn what_libvirt_wraps_around_a_domain() {
    let (_place, folder) = folder();
    let domain = definition("web1.xml").split_once("-->").unwrap().1.to_owned();
    let status = format!("<domstatus state='paused' reason='user' pid='4711'>\n{domain}\n</domstatus>");
    let web1 = read(&put(&folder, "web1.xml", status));
    assert_eq!(web1.running.as_deref(), Some("libvirt has it as paused as process 4711"));
    let snapshot =
        format!("<domainsnapshot><name>before</name><creationTime>1</creationTime>{domain}</domainsnapshot>");
    let web1 = read(&put(&folder, "web1.xml", snapshot));
    assert_eq!(web1.running, None);
    assert!(web1.warnings[0].contains("as it was at its snapshot \"before\""), "{:?}", web1.warnings);
    put(&folder, "web1.xml", "<domainsnapshot><name>a</name></domainsnapshot>");
    let nothing = "DIR/web1.xml: domainsnapshot: expected a domain inside, found none";
    assert_eq!(refusal(&folder.join("web1.xml"), &folder), nothing);
    for other in ["<network><name>default</name></network>", "<pool type='dir'/>", "no xml", ""] {
        put(&folder, "web1.xml", other);
        assert!(refusal(&folder, &folder).starts_with("DIR holds no machine"), "{other}");
    }
}

/// What a domain with this disk is told.
#[track_caller]
fn libvirt_disk(disk: &str, expected: Result<(&str, &str, bool), &str>) {
    let (_place, folder) = folder();
    let domain = |disks: &str| format!("<domain type='kvm'><name>a</name><devices>{disks}</devices></domain>");
    let other = "<disk type='file'><source file='/x.img'/><target dev='vdz'/></disk>";
    put(&folder, "a.xml", domain(&format!("{other}{disk}")));
    let machine = read(&folder);
    match expected {
        Ok(expected) => assert_eq!(disks(&machine)[1], expected, "{disk}"),
        Err(said) => {
            assert_eq!(machine.disks.len(), 1, "{disk}");
            let all: Vec<&String> = machine.notes.iter().chain(&machine.warnings).collect();
            assert_eq!(all, [said], "{disk}");
        }
    }
}

#[test]
fn disks_of_libvirt() {
    let file = "<source file='/a.img'/><target dev='vda'/>";
    libvirt_disk(&format!("<disk>{file}</disk>"), Ok(("vda", "/a.img", true)));
    libvirt_disk(&format!("<disk><driver type='qcow2'/>{file}</disk>"), Ok(("vda", "/a.img", false)));
    libvirt_disk(&format!("<disk><driver name='qemu'/>{file}</disk>"), Ok(("vda", "/a.img", true)));
    libvirt_disk("<disk type='block'><source dev='/dev/sdz'/></disk>", Ok(("disk1", "/dev/sdz", true)));
    libvirt_disk("<disk type='block' device='lun'><source dev='/dev/sdz'/></disk>", Ok(("disk1", "/dev/sdz", true)));
    libvirt_disk("<disk><source file='/a&amp;b.img'/><target dev='v&#10;da'/></disk>", Ok(("v da", "/a&b.img", true)));
    libvirt_disk("<disk><target dev='vda'/></disk>", Err("vda: skipped: no image"));
    libvirt_disk("<disk device='floppy'><source file='/a'/></disk>", Err("disk1: skipped: a floppy drive"));
    libvirt_disk(
        "<disk type='block'><driver type='qcow2'/><source dev='/dev/vg/a'/></disk>",
        Err("disk1: skipped: a qcow2 image inside a block device: only raw devices are supported"),
    );
    libvirt_disk(
        "<disk type='dir'><source dir='/srv'/></disk>",
        Err("disk1: skipped: a folder shown as a disk (\"/srv\")"),
    );
    libvirt_disk("<disk type='nvme'/>", Err("disk1: skipped: a disk of the type \"nvme\""));
    libvirt_disk(
        "<disk type='network'><source protocol='nbd' name='&#27;[2J'/></disk>",
        Err("disk1: skipped: a disk over the network (nbd \"\\u{1b}[2J\"): no file of this host has its content"),
    );
}

#[test]
fn hostile_domains() {
    let (_place, folder) = folder();
    let file = folder.join("a.xml");
    let domain = |disks: &str| format!("<domain type='kvm'><name>a</name><devices>{disks}</devices></domain>");
    let disk = |path: &str| format!("<disk><source file='{path}'/><target dev='vda'/></disk>");
    // A path that leads elsewhere stays as it is: whoever opens it has a policy.
    put(&folder, "a.xml", domain(&disk("../../etc/shadow")));
    assert_eq!(read(&folder).disks[0].image, folder.join("../../etc/shadow"));

    let nvram =
        |path: &str| domain(&disk("/a")).replace("<devices>", &format!("<os><nvram>{path}</nvram></os><devices>"));
    put(&folder, "a.xml", nvram("/etc/shadow"));
    let machine = read(&folder);
    assert_eq!(machine.warnings, ["nvram: \"/etc/shadow\" is not named like UEFI variables: not kept"]);
    assert_eq!(names(&machine.definition_files), ["a.xml"]);
    std::os::unix::fs::symlink("/etc/shadow", folder.join("x_VARS.fd")).unwrap();
    put(&folder, "a.xml", nvram(folder.join("x_VARS.fd").to_str().unwrap()));
    assert_eq!(read(&folder).warnings, ["x_VARS.fd is not kept: it is no plain file"]);
    fs::remove_file(folder.join("x_VARS.fd")).unwrap();
    put(&folder, "x_VARS.fd", "variables");
    assert_eq!(names(&read(&folder).definition_files), ["a.xml", "x_VARS.fd"]);

    for (text, message) in [
        (domain(""), "DIR/a.xml has no disk to back up"),
        (
            domain("<disk device='cdrom'><target dev='sda'/></disk>"),
            "DIR/a.xml has no disk to back up: sda: skipped: a CD-ROM drive",
        ),
        (
            domain(&(disk("/a") + &disk("/b"))),
            "DIR/a.xml: disk/target@dev: expected another name for each disk, found \"vda\"",
        ),
        (domain(&"<disk/>".repeat(1025)), "DIR/a.xml: disks: expected at most 1024, found 1025"),
        ("<domain>".repeat(1_000_000), "DIR/a.xml: nesting of elements: expected at most 600, found 601"),
        (
            "<domain><name>&name;</name></domain>".to_owned(),
            "DIR/a.xml: line 1: expected one of XML's own entities, found \"&name;\"",
        ),
    ] {
        put(&folder, "a.xml", text);
        assert_eq!(refusal(&file, &folder), message);
    }
    // A document type makes it a file that nobody takes for a domain.
    put(&folder, "a.xml", "<!DOCTYPE domain [<!ENTITY a \"b\">]><domain/>");
    assert!(refusal(&file, &folder).contains("a .xml file as a machine"), "{}", refusal(&file, &folder));
}

#[test]
fn a_machine_of_virtualbox_with_its_snapshots() {
    let (_place, folder) = folder();
    let file = put(&folder, "web2.vbox", definition("web2.vbox"));
    put(&folder, "web2.nvram", "variables");
    put(&folder, "Logs/VBox.log", "log");
    put(&folder, "web2.vbox-prev", "old");
    let web2 = read(&folder);
    assert_eq!((web2.name.as_str(), web2.kind), ("web2", MachineKind::VirtualBox));
    assert_eq!(web2.identity, MachineIdentity::Uuid("7a1c2e90-0b5d-4a57-8f1e-3d2b6c4481f0".to_owned()));
    let at = |name: &str| folder.join(name);
    let frozen = |name: &str| vec![("sata0:0".to_owned(), at(name))];
    let [middle, top] = [2, 3].map(|n| format!("Snapshots/{{11111111-0000-4000-8000-00000000000{n}}}.vdi"));
    assert_eq!(
        disks(&web2),
        [("sata0:0", at(&top).to_str().unwrap(), false), ("sata0:1", at("swap.vdi").to_str().unwrap(), false)]
    );
    assert_eq!(web2.notes, ["sata0:1: its disk is writethrough", "ide1:0: skipped: a CD-ROM drive"]);
    assert_eq!(web2.warnings, ["sata0:2: skipped: \"vault.vdi\" is encrypted: that is not supported"]);
    assert_eq!(names(&web2.definition_files), ["web2.vbox", "web2.nvram", "VBox.log"]);
    let [before, after] = web2.snapshots.as_slice() else { panic!("two snapshots, not {:?}", web2.snapshots) };
    assert_eq!((before.uid, before.parent, before.name.as_str()), (1, None, "before upgrade"));
    assert_eq!((after.uid, after.parent, after.name.as_str()), (2, Some(1), "after upgrade"));
    assert_eq!(before.taken_us, Some(1_773_042_900_000_000));
    assert_eq!((&before.frozen, &after.frozen), (&frozen("web2.vdi"), &frozen(&middle)));
    let chosen = choose(&web2, &"after upgrade".parse().unwrap()).unwrap();
    assert!(chosen.disks[0].frozen && chosen.warnings[0].starts_with("sata0:1: left out"), "{chosen:?}");
    agrees_with_its_hardware(&web2, &file);
}

#[test]
fn states_of_virtualbox() {
    let (_place, folder) = folder();
    let sound = definition("web2.vbox");
    let with = |attribute: &str| {
        put(&folder, "web2.vbox", sound.replace("snapshotFolder", &format!("{attribute} snapshotFolder")));
        read(&folder)
    };
    let suspended = with("stateFile=\"Snapshots/2026-03-09T17-20-11Z.sav\"");
    assert_eq!(suspended.warnings[0], "the machine is suspended: its disks are backed up, its memory is not");
    let aborted = with("aborted=\"true\"");
    assert_eq!(aborted.notes[0], "it was stopped without being shut down (aborted)");
    assert_eq!((suspended.running, aborted.running), (None, None));

    // Variables from elsewhere are not taken along.
    put(&folder, "web2.vbox", sound.replace("web2.nvram", "../../etc/shadow"));
    assert!(
        read(&folder)
            .warnings
            .contains(&"NVRAM: \"../../etc/shadow\" is not in the machine's folder: not kept".to_owned())
    );
    // Without the registry there is no image.
    put(&folder, "web2.vbox", sound.replace("MediaRegistry", "ExtraData"));
    let refused = refusal(&folder, &folder);
    assert!(refused.contains("its image \"{11111111-0000-4000-8000-000000000003}\" is not in the machine's registry"));
    let deep = 300;
    let snapshots = "<Snapshot name='a'><Snapshots>".repeat(deep) + &"</Snapshots></Snapshot>".repeat(deep);
    put(&folder, "web2.vbox", sound.replace("<ExtraData>", &format!("{snapshots}<ExtraData>")));
    assert!(refusal(&folder, &folder).contains("nesting of elements: expected at most 600"));
}

#[test]
fn a_machine_of_proxmox() {
    let (_place, folder) = folder();
    let storage = format!(
        "dir: local\n\tpath {}/vz\n\tcontent images\n\nlvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\nrbd: ceph\n\tpool vms\n",
        folder.display()
    );
    put(&folder, "pve/storage.cfg", storage);
    let file = put(&folder, "pve/qemu-server/100.conf", definition("100.conf"));
    let web3 = read(&folder.join("pve"));
    assert_eq!((web3.name.as_str(), web3.kind), ("web3", MachineKind::Proxmox));
    assert_eq!(web3.identity, MachineIdentity::Uuid("8c5e0a6b-2c44-4c01-9d5e-0a6b2c4481f0".to_owned()));
    let system = format!("{}/vz/images/100/vm-100-disk-0.qcow2", folder.display());
    assert_eq!(
        disks(&web3),
        [
            ("scsi0", system.as_str(), false),
            ("virtio1", "/dev/disk/by-id/ata-EXAMPLE_1234", true),
            ("efidisk0", "/dev/pve/vm-100-disk-0", true),
            ("tpmstate0", "/dev/pve/vm-100-disk-1", true),
        ]
    );
    assert_eq!(
        web3.warnings,
        ["scsi2: skipped: \"ceph:vm-100-disk-2\": on a storage of the type rbd: no file of this host has its content"]
    );
    assert_eq!(
        web3.notes,
        [
            "ide2: skipped: a CD-ROM drive",
            "scsi1: skipped: \"local:100/vm-100-disk-1.raw\" is excluded by its definition (backup=0)",
            "unused0: skipped: \"local-lvm:vm-100-disk-9\" is no longer part of the machine (unused)",
            "its 1 snapshots are inside its volumes and not part of the backup: \"before\"",
        ]
    );
    assert_eq!(web3.running, None);
    assert_eq!(web3.image_folders, [folder.join("vz/images")]);

    // The current part alone counts, and a lock in it.
    let locked = definition("100.conf").replace("machine: q35", "lock: backup\nmachine: q35");
    fs::write(&file, &locked).unwrap();
    assert_eq!(read(&file).running.as_deref(), Some("Proxmox VE has locked it (backup)"));
    fs::write(&file, locked.replace("lock: backup", "lock: suspended")).unwrap();
    let suspended = read(&file);
    assert_eq!(suspended.running, None);
    assert!(suspended.warnings[0].starts_with("the machine is suspended"));
    fs::write(&file, definition("100.conf").replace("[before]", "[before]\nlock: backup")).unwrap();
    assert_eq!(read(&file).running, None);

    // Copied together with its images, and without the storages.
    let copy = folder.join("copy");
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("100.conf"), "name: web3\nscsi0: nas:100/vm-100-disk-0.qcow2\nscsi1: nas:100/gone.raw\n")
        .unwrap();
    put(&copy, "vm-100-disk-0.qcow2", "");
    let copied = machines::read(&copy.join("100.conf")).unwrap();
    assert_eq!(copied.disks[0].image, copy.join("vm-100-disk-0.qcow2"));
    assert_eq!(copied.identity, MachineIdentity::Name("web3".to_owned()));
    assert!(copied.warnings[0].starts_with("scsi0: taken from "), "{:?}", copied.warnings);
    assert!(copied.warnings[1].contains("its storage \"nas\" is not in "), "{:?}", copied.warnings);
    // Any other .conf is none of a machine.
    put(&folder, "etc/app.conf", "server: example\nport: 80\n");
    assert!(refusal(&folder.join("etc"), &folder).starts_with("DIR/etc holds no machine"));
}

#[test]
fn a_machine_of_hyper_v_before_binary_configurations() {
    let (_place, folder) = folder();
    let root = folder.join("web4");
    let utf16: Vec<u8> = format!("\u{feff}{}", definition(&format!("hyperv/{HYPER_V}.xml")))
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let file = put(&root, &format!("Virtual Machines/{HYPER_V}.xml"), utf16);
    let system = put(&root, "Virtual Hard Disks/Web4.VHDX", "");
    put(&root, "Snapshots/00000000-0000-4000-8000-000000000001.xml", "<configuration/>");
    let web4 = read(&root);
    assert_eq!((web4.name.as_str(), web4.kind), ("web4", MachineKind::HyperV));
    assert_eq!(web4.identity, MachineIdentity::Uuid(HYPER_V.to_ascii_lowercase()));
    let data = root.join("data_1F0A2B3C.avhdx");
    assert_eq!(disks(&web4), [("ide0:0", system.to_str().unwrap(), false), ("scsi0:0", data.to_str().unwrap(), false)]);
    assert_eq!(web4.notes, ["ide1:0: skipped: a CD-ROM drive"]);
    assert!(web4.warnings[0].starts_with("scsi0:1: skipped: a raw device"), "{:?}", web4.warnings);
    assert_eq!(names(&web4.definition_files), [format!("{HYPER_V}.xml")]);
    agrees_with_its_hardware(&web4, &file);
}

#[test]
fn machines_of_hyper_v_with_binary_configurations() {
    let (_place, folder) = folder();
    let root = folder.join("web5");
    let name = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    put(&root, &format!("Virtual Machines/{HYPER_V}.vmcx"), [&[0; 64][..], &name("D:\\VMs\\web5\\Web5.vhdx")].concat());
    put(&root, &format!("Virtual Machines/{HYPER_V}.vmrs"), "state");
    put(&root, "Snapshots/00000000-0000-4000-8000-000000000001.vmcx", "checkpoint");
    let system = put(&root, "Virtual Hard Disks/web5.vhdx", "");
    let data = put(&root, "Virtual Hard Disks/data.vhdx", "");
    let paths = |machine: &Machine| machine.disks.iter().map(|disk| disk.image.clone()).collect::<Vec<_>>();
    let web5 = read(&root);
    assert_eq!((web5.name.as_str(), web5.kind), ("web5", MachineKind::HyperV));
    assert_eq!(web5.identity, MachineIdentity::Uuid(HYPER_V.to_ascii_lowercase()));
    assert_eq!(paths(&web5), [data.clone(), system.clone()]);
    assert_eq!(names(&web5.definition_files), [format!("{HYPER_V}.vmcx"), format!("{HYPER_V}.vmrs")]);
    assert_eq!(web5.notes, [format!("{HYPER_V}.vmcx is binary: it is kept, and its hardware is not read")]);
    let refused = machine::hardware_of(Path::new("a.vmcx"), b"").unwrap_err().to_string();
    assert_eq!(refused, "a.vmcx: a binary configuration of Hyper-V as the description of hardware is not supported");

    // Two machines in one folder: each has the images that its configuration names.
    let other = "11111111-2C44-4C01-9D5E-0A6B2C4481F0";
    let other_file = put(&root, &format!("Virtual Machines/{other}.vmcx"), name("E:\\DATA.VHDX"));
    let found = machines::find(&root).unwrap();
    let by_name: Vec<_> = found.machines.iter().map(|found| found.machine.as_ref().unwrap()).collect();
    assert_eq!(by_name.iter().map(|machine| machine.name.as_str()).collect::<Vec<_>>(), [other, HYPER_V]);
    assert_eq!((paths(by_name[0]), paths(by_name[1])), (vec![data], vec![system]));
    assert_eq!(found.machines[0].path, other_file);
    assert_eq!(found.skipped, []);
}
