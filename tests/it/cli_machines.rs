//! Machines of every hypervisor through the command as a user runs it: into the repository, and back byte for byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::cli::{Stage, text};
use crate::machine_definitions::{definition, put};
use crate::{formats_vdi, qemu};

/// A domain whose first disk is an overlay over an overlay over a raw base, and whose second is raw with the magic of
/// qcow2 at its beginning, as a guest can write it. Gives the bytes of both.
fn libvirt_machine(stage: &Stage) -> (Vec<u8>, Vec<u8>) {
    let images = stage.path("images");
    fs::create_dir(&images).unwrap();
    let make = |arguments: &[&str]| qemu::img(&images, &[&["create", "-q", "-f"], arguments].concat());
    let write = |image: &str, format: &str, command: &str| qemu::write(&images, image, format, &[command.to_owned()]);
    make(&["raw", "base.img", "8M"]);
    write("base.img", "raw", "write -P 1 0 2M");
    make(&["qcow2", "-b", "base.img", "-F", "raw", "web1.snap1"]);
    write("web1.snap1", "qcow2", "write -P 2 1M 1M");
    make(&["qcow2", "-b", "web1.snap1", "-F", "qcow2", "web1.snap2"]);
    write("web1.snap2", "qcow2", "write -P 3 6M 512k");
    let mut data = vec![9; 1 << 20];
    data[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    fs::write(images.join("data.img"), &data).unwrap();
    let disk = |target: &str, driver: &str, file: &str| {
        let path = images.join(file);
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{driver}'/><source file='{}'/><target dev='{target}' \
             bus='virtio'/></disk>",
            path.display()
        )
    };
    let domain = format!(
        "<domain type='kvm'><name>web1</name><uuid>6f0a1f3a-7720-4c01-9d5e-0a6b2c4481f0</uuid><memory>1048576</memory>\
         <os><nvram>{}</nvram></os><devices>{}{}</devices></domain>",
        images.join("web1_VARS.fd").display(),
        disk("vda", "qcow2", "web1.snap2"),
        disk("vdb", "raw", "data.img")
    );
    fs::write(images.join("web1_VARS.fd"), "variables").unwrap();
    put(&stage.path("qemu"), "web1.xml", domain);
    (qemu::qcow2_content(&images, "web1.snap2", &[]), data)
}

/// Each disk of the newest backup of `machine` is what it was.
#[track_caller]
fn comes_back(stage: &Stage, machine: &str, disks: &[(&str, &[u8])]) {
    for (slot, expected) in disks {
        let target = format!("back-{machine}-{}.raw", slot.replace(':', "-"));
        stage.run(&["restore", machine, "--disk", slot, "--to", &target, "--overwrite"]).ok();
        assert!(fs::read(stage.path(&target)).unwrap() == *expected, "{machine} {slot} differs");
    }
}

#[test]
fn a_domain_of_libvirt_with_overlays_comes_back() {
    let stage = Stage::empty();
    let (system, data) = libvirt_machine(&stage);
    let backup = stage.run(&["backup", "qemu/web1.xml", "--json"]).ok().json();
    assert_eq!((text(&backup, "machine"), backup["disks"].as_array().unwrap().len()), ("web1", 2));
    comes_back(&stage, "web1", &[("vda", &system), ("vdb", &data)]);
    stage.run(&["restore", "web1", "--to", "whole", "--format", "qcow2"]).ok();
    for file in ["web1.xml", "web1_VARS.fd"] {
        assert!(stage.path("whole").join(file).exists(), "{file}");
    }
    assert_eq!(fs::read(stage.path("whole/web1_VARS.fd")).unwrap(), b"variables");
    // Another snapshot: only what the new overlay holds is read.
    let images = stage.path("images");
    qemu::img(&images, &["create", "-q", "-f", "qcow2", "-b", "web1.snap2", "-F", "qcow2", "web1.snap3"]);
    qemu::write(&images, "web1.snap3", "qcow2", &["write -P 4 4M 64k".to_owned()]);
    let xml = stage.path("qemu/web1.xml");
    fs::write(&xml, fs::read_to_string(&xml).unwrap().replace("snap2", "snap3")).unwrap();
    let next = stage.run(&["backup", "qemu", "--json"]).ok().json();
    assert_eq!(next["parent"], backup["backup"]);
    assert_eq!(next["disks"][0]["read"].as_u64(), Some(64 << 10), "{next}");
    comes_back(&stage, "web1", &[("vda", &qemu::qcow2_content(&images, "web1.snap3", &[]))]);
}

#[test]
fn a_process_that_writes_to_an_image_is_noticed() {
    let stage = Stage::empty();
    libvirt_machine(&stage);
    let mut writer = Command::new("sh")
        .args(["-c", "exec 3<>images/data.img; echo ready; read wait"])
        .current_dir(stage.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(writer.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    let run = stage.run(&["backup", "qemu/web1.xml"]);
    writer.kill().unwrap();
    writer.wait().unwrap();
    run.ended(1).said("(sh) can write to").said("--snapshot base");
    stage.run(&["backup", "qemu/web1.xml"]).ok();
}

#[test]
fn libvirt_is_asked_for_a_machine() {
    let stage = Stage::empty();
    let (system, data) = libvirt_machine(&stage);
    let without = stage.run_with("PATH", "/nowhere", &["backup", "libvirt:web1"]).ended(1);
    without.said("libvirt was asked for web1 (virsh dumpxml): there is no virsh");
    // A stand-in for virsh: what it is asked, and what it would say.
    let virsh = put(
        &stage.path("bin"),
        "virsh",
        "#!/bin/sh\nshift 2\ncase $1:$3 in\ndumpxml:web1) cat qemu/web1.xml ;;\ndomstate:web1) cat state ;;\n\
         *) echo \"error: failed to get domain '$3'\" >&2; exit 1 ;;\nesac\n",
    );
    fs::set_permissions(&virsh, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", stage.path("bin").display(), std::env::var("PATH").unwrap());
    let ask = |machine: &str| stage.run_with("PATH", &path, &["backup", machine, "--json"]);
    fs::write(stage.path("state"), "running\n\n").unwrap();
    ask("libvirt:web1").ended(1).said("web1 is in use: libvirt has it as running");
    ask("libvirt:gone").ended(1).said("failed to get domain 'gone'").said("virsh list --all");
    fs::write(stage.path("state"), "shut off\n\n").unwrap();
    ask("libvirt:web1").ok();
    comes_back(&stage, "web1", &[("vda", &system), ("vdb", &data)]);
    stage.run(&["restore", "web1", "--to", "whole", "--format", "raw"]).ok();
    assert_eq!(
        fs::read(stage.path("whole/web1.xml.orig")).unwrap(),
        fs::read(stage.path("qemu/web1.xml")).unwrap(),
        "what libvirt told is kept"
    );
}

#[test]
fn a_machine_of_virtualbox_comes_back_at_every_snapshot() {
    let stage = Stage::empty();
    let folder = stage.path("web2");
    let [middle, top] = [2, 3].map(|n| format!("Snapshots/{{11111111-0000-4000-8000-00000000000{n}}}.vdi"));
    let levels = formats_vdi::chain(&folder, ["web2.vdi", &middle, &top]);
    let vbox = definition("web2.vbox");
    // Only the disk with the chain.
    let (front, rest) =
        vbox.rsplit_once("<AttachedDevice type=\"HardDisk\" hotpluggable=\"false\" port=\"1\"").unwrap();
    let (_, back) = rest.split_once("</StorageController>").unwrap();
    put(&folder, "web2.vbox", format!("{front}</StorageController>{back}"));
    put(&folder, "web2.nvram", "variables");
    let snapshots = [("before upgrade", &levels[0]), ("after upgrade", &levels[1]), ("current", &levels[2])];
    for (level, content) in snapshots {
        let backup = stage.run(&["backup", "web2", "--snapshot", level, "--json"]).ok().json();
        assert_eq!(text(&backup, "level"), level);
        let target = format!("{}.raw", level.len());
        stage.run(&["restore", text(&backup, "backup"), "--disk", "sata0:0", "--to", &target]).ok();
        let mut expected = content.clone();
        expected.resize(expected.len().next_multiple_of(512), 0);
        assert!(fs::read(stage.path(&target)).unwrap() == expected, "{level}");
    }
}

#[test]
fn internal_snapshots_are_a_note_and_can_be_chosen() {
    let stage = Stage::empty();
    let folder = stage.path("vm");
    fs::create_dir(&folder).unwrap();
    qemu::img(&folder, &["create", "-q", "-f", "qcow2", "disk.qcow2", "4M"]);
    qemu::write(&folder, "disk.qcow2", "qcow2", &["write -P 1 0 1M".to_owned()]);
    let before = qemu::qcow2_content(&folder, "disk.qcow2", &[]);
    qemu::img(&folder, &["snapshot", "-c", "before upgrade", "disk.qcow2"]);
    qemu::write(&folder, "disk.qcow2", "qcow2", &["write -P 2 512k 1M".to_owned()]);
    let now = qemu::qcow2_content(&folder, "disk.qcow2", &[]);

    let current = stage.run(&["backup", "vm/disk.qcow2", "--json"]).ok().json();
    assert!(current["notes"][0].as_str().unwrap().contains("it holds 1 internal snapshots"), "{current}");
    comes_back(&stage, "disk", &[("disk0", &now)]);
    let snapshot = stage.run(&["backup", "vm/disk.qcow2", "--snapshot", "before upgrade", "--json"]).ok().json();
    assert_eq!(text(&snapshot, "level"), "before upgrade");
    stage.run(&["restore", text(&snapshot, "backup"), "--disk", "disk0", "--to", "before.raw"]).ok();
    assert!(fs::read(stage.path("before.raw")).unwrap() == before);
    // The snapshot before says nothing of what the next backup of the current state may take over.
    stage.run(&["backup", "vm/disk.qcow2"]).ok();
    stage.run(&["restore", "disk", "--disk", "disk0", "--to", "now.raw"]).ok();
    assert!(fs::read(stage.path("now.raw")).unwrap() == now);
    let unknown = stage.run(&["backup", "vm/disk.qcow2", "--snapshot", "never"]).ended(1);
    assert!(unknown.stderr.contains("it has \"before upgrade\" (in disk0)"), "{unknown:?}");
}

#[test]
fn a_tree_of_five_machines_of_which_one_is_broken() {
    let stage = Stage::new();
    let (system, data) = libvirt_machine(&stage);
    let store = stage.path("store");
    fs::create_dir(&store).unwrap();
    for folder in ["web1", "images", "qemu"] {
        let to = if folder == "web1" { "vmware" } else { folder };
        fs::rename(stage.path(folder), store.join(to)).unwrap();
    }
    let xml = store.join("qemu/web1.xml");
    let moved = fs::read_to_string(&xml).unwrap().replace("/images/", "/store/images/").replace(">web1<", ">domain<");
    fs::write(&xml, moved).unwrap();
    let top = "Snapshots/{11111111-0000-4000-8000-000000000003}.vdi";
    let middle = top.replace("003}", "002}");
    let levels = formats_vdi::chain(&store.join("box"), ["web2.vdi", &middle, top]);
    let vbox = definition("web2.vbox");
    let (front, rest) =
        vbox.rsplit_once("<AttachedDevice type=\"HardDisk\" hotpluggable=\"false\" port=\"1\"").unwrap();
    let (_, back) = rest.split_once("</StorageController>").unwrap();
    put(
        &store,
        "box/web2.vbox",
        format!("{front}</StorageController>{back}").replace("<NVRAM path=\"web2.nvram\"/>", ""),
    );
    put(&store, "pve/100.conf", "name: pve\nscsi0: local:100/vm-100-disk-0.raw\nide2: none,media=cdrom\n");
    put(&store, "pve/vm-100-disk-0.raw", vec![7; 1 << 20]);
    put(&store, "pve/storage.cfg", "dir: nowhere\n\tpath /nowhere\n");
    put(&store, "broken/broken.vmx", "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"gone.vmdk\"\n");
    put(&store, "images/forgotten.qcow2", "");

    let run = stage.run(&["backup", "store", "--json"]).ended(3);
    let lines = run.json_lines();
    let backed_up: Vec<&str> =
        lines.iter().filter(|line| line["backup"].is_string()).map(|line| text(line, "machine")).collect();
    assert_eq!(backed_up, ["web2", "pve", "domain", "web1"], "{run:?}");
    let failed: Vec<_> = lines.iter().filter(|line| line["error"].is_object()).collect();
    assert_eq!(failed.len(), 1, "{run:?}");
    assert!(text(failed[0], "machine").ends_with("store/broken/broken.vmx"));
    let skipped: Vec<_> = lines.iter().filter(|line| line["skipped"].is_string()).collect();
    assert_eq!(skipped.len(), 1, "{run:?}");
    assert!(text(skipped[0], "skipped").ends_with("store/images/forgotten.qcow2"));
    assert_eq!(skipped[0]["warning"], false);
    comes_back(&stage, "domain", &[("vda", &system), ("vdb", &data)]);
    comes_back(&stage, "web2", &[("sata0:0", &levels[2])]);
    comes_back(&stage, "pve", &[("scsi0", &[7; 1 << 20])]);

    let run =
        stage.run(&["backup", "store"]).ended(3).said("forgotten.qcow2 is not backed up: an image that belongs to");
    let table: Vec<&str> = run.stdout.lines().skip_while(|line| !line.starts_with("MACHINE")).collect();
    assert_eq!(table.len(), 6, "{run:?}");
    assert!(table.iter().any(|line| line.contains("broken.vmx") && line.ends_with("failed")), "{table:?}");
}

#[test]
fn copies_of_a_machine_are_told_apart_or_warned_of() {
    let stage = Stage::empty();
    for name in ["a", "b"] {
        let vmx = "displayName = \"web1\"\nuuid.bios = \"56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0\"\n\
                   scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"web1.vmdk\"\n";
        put(&stage.path(name), "web1.vmx", vmx);
        qemu::img(&stage.path(name), &["create", "-q", "-f", "vmdk", "web1.vmdk", "1M"]);
    }
    stage.run(&["backup", "a", "a/web1.vmx"]).ok();
    stage
        .run(&["backup", "a", "b"])
        .ended(3)
        .said("have the UUID 564d1f3a-7720-4c01-9d5e-0a6b2c4481f0: their backups count");
}
