//! The way out: a machine is restored for another hypervisor, packed, unpacked, and stays the same machine with the same
//! disks. `qemu-img` and GNU tar are the judges of the files; the readers of the definitions are ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use abbild::machine::hardware::{AttachedDisk, Bus, Firmware, Hardware, NetworkCard, ScsiModel};
use abbild::machine::write::{self, DiskFile, Target};
use serde_json::Value;

use crate::cli::{Stage, expected_sum, sum, text};
use crate::qemu;

/// A file's digest as the tools of coreutils compute it.
fn digest(tool: &str, file: &Path) -> String {
    let output = Command::new(tool).arg(file).output().unwrap_or_else(|e| panic!("this story needs {tool}: {e}"));
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().trim_start_matches('\\').to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn warnings(value: &Value) -> String {
    value["warnings"].to_string()
}

/// Packs members in this order, as ovftool and `tar` do.
fn tar(folder: &Path, format: &str, archive: &str, members: &[&str]) {
    let mut command = Command::new("tar");
    command.current_dir(folder).args(["-c", "--format", format, "-f", archive]).args(members);
    let output = command.output().expect("this story needs tar");
    assert!(output.status.success(), "{output:?}");
}

/// A stage with the guest restored as a package in `web1-ovf`.
fn packed() -> (Stage, PathBuf) {
    let stage = Stage::new();
    stage.backup("current");
    stage.run(&["restore", "web1", "--to", "web1-ovf", "--as", "ovf"]).ended(3);
    let folder = stage.path("web1-ovf");
    (stage, folder)
}

#[test]
fn a_vmware_machine_moves_to_libvirt() {
    let stage = Stage::new();
    stage.backup("current");
    let run = stage.run(&["restore", "web1", "--to", "kvm", "--as", "libvirt", "--json"]).ended(3);
    let restored = run.json();
    assert!(text(&restored, "definition").ends_with("kvm/web1.xml"), "{restored}");
    assert!(warnings(&restored).contains("not carried over"), "{restored}");
    assert!(run.stderr.contains("moved from LSI Logic parallel SCSI to SATA (AHCI)"), "{run:?}");
    let xml = read(&stage.path("kvm/web1.xml"));
    let image = stage.path("kvm/web1.qcow2").canonicalize().unwrap();
    for part in ["type='qcow2'", &format!("file=\"{}\"", image.display()), "<target dev='sda' bus='sata'/>"] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    qemu::img(&stage.path("kvm"), &["convert", "-f", "qcow2", "-O", "raw", "web1.qcow2", "../judge.raw"]);
    assert_eq!(sum(&stage.path("judge.raw")), expected_sum("current"));
    let vmx = read(&stage.path("kvm/web1.vmx.orig"));
    assert_eq!(vmx, read(&stage.path("web1/web1.vmx")));

    // It is a machine: its backup has the same disk, and stores nothing new of it.
    let again = stage.run(&["backup", "kvm", "--json"]).ok().json();
    assert!(again["new"].as_u64() < Some(1 << 20), "{again}");
    // As it came: a libvirt machine comes back as one, and the definition differs only in where the disk lies.
    stage.run(&["restore", text(&again, "backup"), "--to", "moved", "--new-identity"]).ok();
    let moved = read(&stage.path("moved/web1.xml"));
    let differing: Vec<&str> = xml.lines().zip(moved.lines()).filter(|(a, b)| a != b).map(|(_, b)| b.trim()).collect();
    assert_eq!(xml.lines().count(), moved.lines().count(), "{moved}");
    assert!(
        differing
            .iter()
            .all(|line| ["<uuid", "<driver", "<source file", "<mac"].iter().any(|tag| line.starts_with(tag))
                || line.starts_with("<disk")),
        "{differing:?}"
    );
    assert!(moved.contains("/moved/web1.qcow2\"/>"), "{moved}");
    // And back, from libvirt to VMware: the same hardware, other places.
    stage.run(&["restore", text(&again, "backup"), "--to", "back", "--as", "vmx", "--json"]).ended(3);
    let back = read(&stage.path("back/web1.vmx"));
    let uuid = |vmx: &str| {
        let line = vmx.lines().find(|line| line.to_lowercase().starts_with("uuid.bios")).expect("a UUID").to_owned();
        line.split('"').nth(1).unwrap().to_owned()
    };
    assert_eq!(uuid(&back), uuid(&vmx), "the machine keeps its UUID");
    assert!(back.contains("sata0:0.fileName = \"web1.vmdk\""), "{back}");
    assert_eq!(sum(&qemu::raw_copy(&stage.path("back"), "web1.vmdk")), expected_sum("current"));
}

/// libvirt's own schema takes what we write, for every kind of disk, card and firmware.
#[test]
fn libvirt_takes_our_definitions() {
    let place = tempfile::tempdir().unwrap();
    let buses =
        [Bus::Ide, Bus::Sata, Bus::Virtio, Bus::Nvme, Bus::Scsi(ScsiModel::LsiSas), Bus::Scsi(ScsiModel::Virtio)];
    let more = [Bus::Scsi(ScsiModel::VmwareParavirtual), Bus::Scsi(ScsiModel::HyperV)];
    let disk =
        |(number, bus): (u32, Bus)| AttachedDisk { slot: format!("d{number}"), bus, controller: number, unit: 0 };
    let disks: Vec<AttachedDisk> = (0..).zip(buses.into_iter().chain(more)).map(disk).collect();
    let card = |model: Option<&str>, mac: Option<&str>| NetworkCard {
        mac: mac.map(str::to_owned),
        model: model.map(str::to_owned),
        network: None,
    };
    let mut files = Vec::new();
    for (number, firmware) in
        [Firmware::Bios, Firmware::Uefi { secure_boot: false }, Firmware::Uefi { secure_boot: true }]
            .into_iter()
            .enumerate()
    {
        let hardware = Hardware {
            name: "web & <1>".to_owned(),
            description: Some("a \"b\"\nc".to_owned()),
            uuid: Some("564d1f3a-7720-4c01-9d5e-0a6b2c4481f0".to_owned()),
            memory_bytes: 1 << 30,
            processors: 2,
            firmware,
            guest_os: Some("debian12-64".to_owned()),
            disks: disks.clone(),
            network_cards: vec![
                card(Some("vmxnet3"), Some("00:0c:29:44:81:f0")),
                card(Some("virtio"), None),
                card(None, None),
            ],
            not_carried_over: Vec::new(),
        };
        let slots: Vec<String> = disks.iter().map(|disk| disk.slot.clone()).collect();
        let fitted = write::fit(&hardware, &slots, Target::Libvirt).unwrap().hardware;
        let images: Vec<DiskFile> = slots
            .iter()
            .map(|slot| DiskFile { name: format!("/vm/{slot}.img"), driver: "qcow2", capacity: 1, file_bytes: 1 })
            .collect();
        let file = place.path().join(format!("{number}.xml"));
        std::fs::write(&file, write::definition(Target::Libvirt, &fitted, &images)).unwrap();
        files.push(file);
    }
    for file in files {
        let output = Command::new("virt-xml-validate").arg(&file).arg("domain").output();
        let output = output.expect("this story needs virt-xml-validate (package libvirt-clients)");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{}", read(&file));
    }
}

#[test]
fn a_copy_beside_the_original_is_another_machine() {
    let stage = Stage::new();
    stage.backup("current");
    stage.run(&["restore", "web1", "--to", "copy", "--as", "vmx", "--new-identity"]).ok();
    let (old, new) = (read(&stage.path("web1/web1.vmx")), read(&stage.path("copy/web1.vmx")));
    let values = |vmx: &str, keys: &[&str]| -> Vec<String> {
        let is_one = |line: &&str| keys.iter().any(|key| line.to_lowercase().starts_with(key));
        vmx.lines().filter(is_one).filter_map(|line| line.split('"').nth(1)).map(str::to_lowercase).collect()
    };
    let identity = ["uuid.bios", "uuid.location", "ethernet0.address =", "ethernet0.generatedaddress ="];
    let (before, after) = (values(&old, &identity), values(&new, &identity));
    assert!(!before.is_empty() && after.len() >= 2, "{before:?} {after:?}");
    assert!(after.iter().all(|value| !before.contains(value)), "{before:?} {after:?}");
    assert!(new.contains("ethernet0.address = \"00:50:56:"), "{new}");
    // All the rest is to the letter what it was.
    let rest = |vmx: &str| -> Vec<String> {
        let changed = ["uuid.", "ethernet0.", "scsi0:0.filename", "vc.uuid"];
        let lines = vmx.lines().filter(|line| !changed.iter().any(|key| line.to_lowercase().starts_with(key)));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(rest(&old), rest(&new));

    stage.run(&["restore", "web1", "--to", "kvm", "--as", "libvirt", "--new-identity"]).ended(3);
    let xml = read(&stage.path("kvm/web1.xml"));
    assert!(xml.contains("<mac address='52:54:00:"), "{xml}");
    assert!(before.iter().all(|value| !xml.to_lowercase().contains(value.as_str())), "{xml}");
}

#[test]
fn a_package_goes_out_and_comes_in_again() {
    let (stage, folder) = packed();
    let mf = read(&folder.join("web1.mf"));
    for file in ["web1.ovf", "web1.vmdk"] {
        let line = format!("SHA256({file})= {}\n", digest("sha256sum", &folder.join(file)));
        assert!(mf.contains(&line), "{mf}");
    }
    let size = std::fs::metadata(folder.join("web1.vmdk")).unwrap().len();
    let ovf = read(&folder.join("web1.ovf"));
    assert!(ovf.contains(&format!("ovf:href=\"web1.vmdk\" ovf:size=\"{size}\"")), "{ovf}");

    // In again: the disk is the same, and nothing of it is new.
    let again = stage.run(&["backup", "web1-ovf", "--json"]).ok().json();
    assert!(again["new"].as_u64() < Some(1 << 20), "{again}");
    stage.run(&["restore", text(&again, "backup"), "--disk", "0", "--to", "a.raw"]).ok();
    assert_eq!(sum(&stage.path("a.raw")), expected_sum("current"));

    // As it came: the package is restored as a package, with a manifest of its own.
    stage.run(&["restore", text(&again, "backup"), "--to", "again"]).ok();
    let renewed = read(&stage.path("again/web1.mf"));
    assert!(renewed.contains(&digest("sha256sum", &stage.path("again/web1.ovf"))), "{renewed}");
    stage.run(&["backup", "again/web1.ovf"]).ok();
}

#[test]
fn an_archive_is_read_in_place() {
    let (stage, folder) = packed();
    let (ovf, mf, vmdk) = ("web1.ovf", "web1.mf", "web1.vmdk");
    std::fs::write(folder.join("web1.cert"), "SHA256(web1.mf)= 00\n").unwrap();
    for format in ["ustar", "gnu", "pax"] {
        tar(&folder, format, &format!("{format}.ova"), &[ovf, mf, "web1.cert", vmdk]);
        let archive = format!("web1-ovf/{format}.ova");
        let backup = stage.run(&["backup", &archive, "--json", "--full"]).ok().json();
        assert!(backup["new"].as_u64() < Some(1 << 20), "{backup}");
        let shown = stage.run(&["show", text(&backup, "backup"), "--json"]).ok().stdout;
        assert!(shown.contains("web1.cert: kept; the signature in it is not checked"), "{shown}");
        let to = format!("{format}.raw");
        stage.run(&["restore", text(&backup, "backup"), "--disk", "0", "--to", &to]).ok();
        assert_eq!(sum(&stage.path(&to)), expected_sum("current"), "{format}");
    }
    let inspected = stage.run(&["inspect", "web1-ovf/gnu.ova", "--json"]).ok().json();
    let names: Vec<&str> = inspected["members"].as_array().unwrap().iter().map(|member| text(member, "name")).collect();
    assert_eq!(names, [ovf, mf, "web1.cert", vmdk]);
    assert_eq!(inspected["disks"][0]["variant"], "vmdk streamOptimized", "{inspected}");
    stage.run(&["inspect", "web1-ovf/gnu.ova/web1.vmdk"]).ok();

    // No manifest: nothing is proven, and that is said. The descriptor need not be called like the archive.
    tar(&folder, "gnu", "bare.ova", &["./web1.ovf", "./web1.vmdk"]);
    let backup = stage.run(&["backup", "web1-ovf/bare.ova", "--json"]).ok().json();
    let shown = stage.run(&["show", text(&backup, "backup"), "--json"]).ok().stdout;
    assert!(shown.contains("it has no manifest"), "{shown}");
}

/// Refuses to back up `archive`, and names what is wrong with which member.
#[track_caller]
fn refused(stage: &Stage, archive: &str, code: i32, said: &[&str]) {
    let mut run = stage.run(&["backup", archive]).ended(code);
    for part in said {
        run = run.said(part);
    }
}

#[test]
fn damaged_and_hostile_packages_are_refused_by_name() {
    let (stage, folder) = packed();
    let (ovf, mf, vmdk) = ("web1.ovf", "web1.mf", "web1.vmdk");
    let write_mf = |tool: &str, name: &str, file: &str| {
        let line = format!("{name} ({file}) = {}\r\n", digest(tool, &folder.join(file)));
        std::fs::write(folder.join(mf), line).unwrap();
    };
    // A wrong digest, in each of the three kinds; the right one passes.
    for (tool, name) in [("sha1sum", "SHA1"), ("sha256sum", "SHA256"), ("sha512sum", "SHA512")] {
        write_mf(tool, name, vmdk);
        stage.run(&["backup", "web1-ovf/web1.ovf"]).ended(0);
        let right = read(&folder.join(mf));
        let wrong = right.trim_end().strip_suffix(|_: char| true).unwrap().to_owned();
        let last = if right.trim_end().ends_with('0') { '1' } else { '0' };
        std::fs::write(folder.join(mf), format!("{wrong}{last}\n")).unwrap();
        tar(&folder, "gnu", "wrong.ova", &[ovf, mf, vmdk]);
        refused(&stage, "web1-ovf/wrong.ova", 13, &["wrong.ova/web1.vmdk", name, "expected", "found"]);
    }

    // A disk that was cut before it was packed: the manifest is right, the disk is not.
    let whole = std::fs::read(folder.join(vmdk)).unwrap();
    std::fs::write(folder.join(vmdk), &whole[..whole.len() - 4096]).unwrap();
    write_mf("sha256sum", "SHA256", vmdk);
    tar(&folder, "gnu", "cut.ova", &[ovf, mf, vmdk]);
    refused(&stage, "web1-ovf/cut.ova", 1, &["cut.ova/web1.vmdk", "end of the stream", "truncated"]);
    std::fs::write(folder.join(vmdk), &whole).unwrap();

    // An archive that ends inside its last member.
    tar(&folder, "gnu", "short.ova", &[ovf, vmdk]);
    let archive = std::fs::read(folder.join("short.ova")).unwrap();
    std::fs::write(folder.join("short.ova"), &archive[..archive.len() / 2]).unwrap();
    refused(&stage, "web1-ovf/short.ova", 1, &["size of member \"web1.vmdk\"", "a truncated archive"]);

    // Descriptors that name what they must not, or what we cannot read.
    std::fs::write(stage.path("outside.vmdk"), &whole).unwrap();
    let text = read(&folder.join(ovf));
    let cases: [(&str, &str, &[&str]); 7] = [
        ("href=\"web1.vmdk\"", "href=\"../outside.vmdk\"", &["expected a member of that name, found none"]),
        ("href=\"web1.vmdk\"", "href=\"/etc/shadow\"", &["hostile.ova: member \"etc/shadow\""]),
        ("href=\"web1.vmdk\"", "href=\"http://x/web1.vmdk\"", &["which is not in the package"]),
        ("href=\"web1.vmdk\"", "href=\"web1.vmdk\" ovf:compression=\"gzip\"", &["\"web1.vmdk\"", "compressed (gzip)"]),
        ("href=\"web1.vmdk\"", "href=\"web1.vmdk\" ovf:chunkSize=\"7\"", &["split into chunks"]),
        (
            "ovf:diskId=\"vmdisk0\"",
            "ovf:diskId=\"vmdisk0\" ovf:parentRef=\"x\"",
            &["only changes to \"x\" (parentRef)"],
        ),
        ("ovf:fileRef=\"file0\"", "ovf:fileRef=\"file9\"", &["expected a file of the References, found \"file9\""]),
    ];
    for (good, bad, said) in cases {
        assert!(text.contains(good), "{good}");
        std::fs::write(folder.join(ovf), text.replace(good, bad)).unwrap();
        tar(&folder, "gnu", "hostile.ova", &[ovf, vmdk]);
        refused(&stage, "web1-ovf/hostile.ova", 1, said);
        std::fs::remove_file(folder.join("hostile.ova")).unwrap();
    }
    // Beside an .ovf, the same name leads out of its folder.
    std::fs::write(folder.join(ovf), text.replace("href=\"web1.vmdk\"", "href=\"../outside.vmdk\"")).unwrap();
    std::fs::remove_file(folder.join(mf)).unwrap();
    refused(&stage, "web1-ovf/web1.ovf", 1, &["is outside the allowed folders"]);

    // Two members of one name; a link in place of the disk.
    std::fs::write(folder.join(ovf), &text).unwrap();
    tar(&folder, "gnu", "twice.ova", &[ovf, vmdk, vmdk]);
    refused(&stage, "web1-ovf/twice.ova", 1, &["member \"web1.vmdk\": expected one member of that name, found 2"]);
    std::os::unix::fs::symlink("/etc/shadow", folder.join("link.vmdk")).unwrap();
    std::fs::write(folder.join(ovf), text.replace("href=\"web1.vmdk\"", "href=\"link.vmdk\"")).unwrap();
    tar(&folder, "gnu", "link.ova", &[ovf, "link.vmdk"]);
    refused(&stage, "web1-ovf/link.ova", 1, &["expected a file stored whole, found a symbolic link"]);
    tar(&folder, "gnu", "none.ova", &[vmdk]);
    refused(&stage, "web1-ovf/none.ova", 1, &["expected one .ovf among them, found 0"]);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_read() {
    let stage = Stage::new();
    stage.backup("base");
    for (arguments, said) in [
        (&["--as", "vmx", "--format", "qcow2"][..], "it would be vmdk"),
        (&["--as", "ovf", "--format", "vmdk"], "it would be vmdk-stream"),
        (&["--as", "libvirt", "--format", "vmdk-stream"], "it would be qcow2"),
        (&["--as", "none", "--new-identity"], "--as none writes none"),
        (&["--as", "xen"], "libvirt"),
    ] {
        let all: Vec<&str> = ["restore", "web1", "--to", "x"].iter().chain(arguments).copied().collect();
        stage.run(&all).ended(2).said(said);
    }
    stage.run(&["restore", "web1", "--to", "x", "--disk", "0", "--as", "vmx"]).ended(2);
    assert!(!stage.path("x").exists());

    stage.run(&["restore", "web1", "--to", "x", "--as", "none", "--format", "raw"]).ok();
    let names: Vec<_> = std::fs::read_dir(stage.path("x")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["web1.raw"]);
}
