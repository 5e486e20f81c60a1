//! "Back up all that lies here": folders of many machines, of chains without a definition, and of things that are none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use abbild::machine::{Found, MachineKind};
use abbild::ops::machines;
use tempfile::TempDir;

use crate::formats_vdi;
use crate::machine_definitions::put;
use crate::qemu;

fn folder() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().canonicalize().unwrap();
    (place, path)
}

/// A `.vmx` with one disk.
fn vmx(folder: &Path, name: &str, disk: &str) {
    put(
        folder,
        &format!("{name}.vmx"),
        format!("displayName = \"{name}\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"{disk}\"\n"),
    );
}

/// What a search found and left out, paths relative to the folder.
fn told(found: &Found, folder: &Path) -> (Vec<String>, Vec<(String, String, bool)>) {
    let short =
        |text: String| text.replace(&format!("{}/", folder.display()), "").replace(folder.to_str().unwrap(), "DIR");
    let machines = found.machines.iter().map(|found| {
        let outcome = match &found.machine {
            Ok(machine) => format!("{} ({})", machine.name, machine.disks.len()),
            Err(error) => short(error.to_string()),
        };
        format!("{}: {outcome}", short(found.path.display().to_string()))
    });
    let skipped = found.skipped.iter().map(|s| (short(s.path.display().to_string()), short(s.why.clone()), s.is_loss));
    (machines.collect(), skipped.collect())
}

#[track_caller]
fn check(folder: &Path, machines: &[&str], skipped: &[(&str, &str, bool)]) {
    let (found, left_out) = told(&machines::find(folder).unwrap(), folder);
    assert_eq!(found, machines);
    let left_out: Vec<_> =
        left_out.iter().map(|(path, why, is_loss)| (path.as_str(), why.as_str(), *is_loss)).collect();
    assert_eq!(left_out, skipped);
}

#[test]
fn a_datastore_of_machines() {
    let (place, store) = folder();
    vmx(&store.join("web1"), "web1", "web1.vmdk");
    put(&store, "web1/web1.vmdk", "");
    put(&store, "web1/old.vmdk", "");
    vmx(&store.join("group/db1"), "db1", "db1.vmdk");
    put(&store, "group/db1/db1.ovf", "<Envelope/>");
    put(&store, "group/db1/inside/x.vmx", "");
    vmx(&store.join("a/b/c/d/e/f/g"), "deep", "deep.vmdk");
    vmx(&store.join("a/b/c/d/e/f/g/h/i"), "too deep", "deep.vmdk");
    put(&store, "broken/broken.vmx", "displayName = web");
    put(&store, "orphans/orphan.qcow2", "");
    put(&store, "iso/debian.iso", "");
    fs::create_dir(store.join("empty")).unwrap();
    // A link to a machine outside of the tree, one inside, one in a circle.
    let outside = tempfile::tempdir().unwrap();
    vmx(outside.path(), "other", "other.vmdk");
    symlink(outside.path(), store.join("link")).unwrap();
    symlink("web1", store.join("web1-again")).unwrap();
    symlink("..", store.join("group/up")).unwrap();
    let real = outside.path().canonicalize().unwrap();
    let none = "an image that belongs to no machine that could be read";
    check(
        &store,
        &[
            "a/b/c/d/e/f/g/deep.vmx: deep (1)",
            "broken/broken.vmx: broken/broken.vmx: line 1: expected key = \"value\", found \"displayName = web\"",
            "group/db1/db1.vmx: db1 (1)",
            "web1/web1.vmx: web1 (1)",
        ],
        &[
            ("a/b/c/d/e/f/g/h/i", "more than 8 folders deep: not searched", true),
            ("group/db1/db1.ovf", "it describes the machine of group/db1/db1.vmx, which is used", false),
            ("group/db1/inside/x.vmx", "it lies inside another machine's folder; name it to back it up", true),
            ("link", &format!("a link that leads out of the folder, to {}", real.display()), true),
            ("orphans/orphan.qcow2", none, false),
            ("web1/old.vmdk", none, false),
        ],
    );
    drop(place);
}

#[test]
fn one_machine_in_two_formats() {
    let (_place, store) = folder();
    vmx(&store, "web1", "web1.vmdk");
    let domain = "<domain type='vmware'><name>web1</name><devices><disk><driver type='vmdk'/><source file='web1.vmdk'/>\
                  <target dev='sda'/></disk></devices></domain>";
    put(&store, "web1.xml", domain);
    put(&store, "web2.xml", domain.replace("web1", "web2"));
    put(&store, "web1.vmdk", "");
    let why = "it describes the machine of web1.vmx, which is used";
    check(&store, &["web1.vmx: web1 (1)", "web2.xml: web2 (1)"], &[("web1.xml", why, false)]);
}

#[test]
fn definitions_apart_from_their_images() {
    let (_place, store) = folder();
    let images = store.join("images");
    fs::create_dir(&images).unwrap();
    qemu::img(&images, &["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    qemu::img(&images, &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "web1.snap"]);
    qemu::img(&images, &["create", "-q", "-f", "qcow2", "lonely.qcow2", "1M"]);
    let domain = |name: &str, image: &str| {
        format!(
            "<domain type='kvm'><name>{name}</name><devices><disk><driver type='qcow2'/><source file='{}'/>\
             <target dev='vda'/></disk></devices></domain>",
            images.join(image).display()
        )
    };
    put(&store, "qemu/web1.xml", domain("web1", "web1.snap"));
    put(&store, "qemu/networks/default.xml", "<network><name>default</name></network>");
    fs::create_dir(store.join("qemu/autostart")).unwrap();
    symlink("../web1.xml", store.join("qemu/autostart/web1.xml")).unwrap();
    let orphan = ("images/lonely.qcow2", "an image that belongs to no machine found", false);
    check(&store, &["qemu/web1.xml: web1 (1)"], &[orphan]);
}

#[test]
fn chains_without_a_definition_are_one_disk_each() {
    let (_place, store) = folder();
    let disks = |folder: &Path| -> Vec<String> {
        let machine = machines::read(folder).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(machine.kind, MachineKind::ImageFolder);
        machine
            .disks
            .iter()
            .map(|d| format!("{} {}", d.slot, d.image.strip_prefix(folder).unwrap().display()))
            .collect()
    };
    let qcow2 = store.join("qcow2");
    fs::create_dir(&qcow2).unwrap();
    qemu::img(&qcow2, &["create", "-q", "-f", "raw", "a base.img", "1M"]);
    qemu::img(&qcow2, &["create", "-q", "-f", "qcow2", "-b", "a base.img", "-F", "raw", "b.qcow2"]);
    qemu::img(&qcow2, &["create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "a newest.qcow2"]);
    qemu::img(&qcow2, &["create", "-q", "-f", "qcow2", "-o", "data_file=c.raw", "c.qcow2", "1M"]);
    qemu::img(&qcow2, &["create", "-q", "-f", "qcow2", "d.qcow2", "1M"]);
    assert_eq!(disks(&qcow2), ["disk0 a newest.qcow2", "disk1 c.qcow2", "disk2 d.qcow2"]);

    let vdi = store.join("vdi");
    formats_vdi::chain(&vdi, ["a.vdi", "b.vdi", "c.vdi"]);
    assert_eq!(disks(&vdi), ["disk0 c.vdi"]);

    // Several folders of images, and no definition far and wide: a machine each.
    check(&store, &["qcow2: qcow2 (3)", "vdi: vdi (1)"], &[]);

    // A newest one that is damaged does not make its parent a disk in silence: it is still there, and will be refused.
    fs::write(vdi.join("c.vdi"), [0; 512]).unwrap();
    assert_eq!(disks(&vdi), ["disk0 b.vdi", "disk1 c.vdi"]);
}

#[test]
fn what_cannot_be_searched_is_told() {
    let (_place, store) = folder();
    assert!(machines::find(&store.join("gone")).is_err());
    check(&store, &[], &[]);
    fs::create_dir(store.join("lost+found")).unwrap();
    let many = store.join("many");
    fs::create_dir(&many).unwrap();
    vmx(&store.join("web1"), "web1", "web1.vmdk");
    for number in 0..=1 << 16 {
        fs::File::create(many.join(number.to_string())).unwrap();
    }
    let why = "many: files in the folder: expected at most 65536, found 65537";
    check(&store, &["web1/web1.vmx: web1 (1)"], &[("many", why, true)]);
}
