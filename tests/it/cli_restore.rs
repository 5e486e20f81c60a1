//! Restoring under stress: whole machines, single disks, what is refused, and what is said before anything is lost.

use crate::cli::{Stage, expected_sum, sum, text};
use crate::qemu;

#[test]
fn a_whole_machine_comes_back_as_its_hypervisor_wants_it() {
    let stage = Stage::new();
    stage.backup("current");
    let run = stage.run(&["restore", "web1", "--to", "back/web1", "--json"]).ok();
    let restored = run.json();
    assert_eq!(restored["disks"][0]["size"], 100 << 20, "{restored}");
    assert_eq!(restored["warnings"].as_array().unwrap().len(), 0, "{restored}");
    let raw = qemu::raw_copy(&stage.path("back/web1"), "web1.vmdk");
    assert_eq!(sum(&raw), expected_sum("current"));
    let vmx = std::fs::read_to_string(stage.path("back/web1/web1.vmx")).unwrap();
    assert!(vmx.contains("\"web1.vmdk\"") && !vmx.contains("000002"), "{vmx}");
    // What was restored can be backed up, and is the same machine with the same bytes.
    let again = stage.run(&["backup", "back/web1", "--json"]).ok().json();
    assert_eq!((text(&again, "machine"), again["new"].as_u64().unwrap() < 1 << 20), ("web1", true), "{again}");

    let run = stage.run(&["restore", "web1", "--to", "back/web1"]).ended(1);
    assert_eq!(
        stage.redacted(&run.stderr).split_once('\n').unwrap().1,
        "  cause: back/web1: the folder is not empty\n  \
         hint: name another folder, or allow files in it to be replaced: --overwrite\n"
    );
    let run = stage.run(&["restore", "web1", "--to", "back/web1", "--overwrite"]).ok();
    assert!(
        run.stderr.contains("back/web1/web1.vmdk (file, ") && run.stderr.contains("will be overwritten"),
        "{run:?}"
    );
}

#[test]
fn a_file_is_replaced_only_on_request_and_only_when_the_new_one_is_whole() {
    let stage = Stage::new();
    stage.backup("base");
    std::fs::write(stage.path("x.raw"), "precious").unwrap();
    let refused = stage.run(&["restore", "web1", "--disk", "0", "--to", "x.raw"]).ended(1);
    assert_eq!(
        refused.stderr,
        "error: x.raw exists already\n  hint: name another file, or replace this one: --overwrite\n"
    );
    assert_eq!(std::fs::read(stage.path("x.raw")).unwrap(), b"precious");
    let run = stage.run(&["restore", "web1", "--disk", "scsi0:0", "--to", "x.raw", "--overwrite"]).ok();
    assert_eq!(run.stderr, "x.raw (file, 8 B) will be overwritten\n");
    assert_eq!(sum(&stage.path("x.raw")), expected_sum("base"));
}

#[test]
fn each_format_holds_the_same_disk() {
    let stage = Stage::new();
    stage.backup("current");
    for (file, format) in [
        ("a.vmdk", None),
        ("b.vmdk", Some("vmdk-stream")),
        ("c.raw", None),
        ("d", Some("vmdk")),
        ("e.vmdk", Some("vmdk-flat")),
        ("f.vmdk", Some("vmdk-split")),
    ] {
        let mut arguments = vec!["restore", "web1", "--disk", "0", "--to", file];
        arguments.extend(format.map(|_| "--format"));
        arguments.extend(format);
        stage.run(&arguments).ok();
        let got = if file == "c.raw" { stage.path(file) } else { qemu::raw_copy(&stage.path(""), file) };
        assert_eq!(sum(&got), expected_sum("current"), "{file}");
    }
    // The ending names the format, and qemu-img reads in it what the guest held.
    let others = [("a.qcow2", None, "qcow2"), ("a.vhdx", None, "vhdx"), ("a.vhd", None, "vpc"), ("a.vdi", None, "vdi")];
    for (file, format, driver) in others.into_iter().chain([("b.vhd", Some("vhd-fixed"), "vpc")]) {
        let mut arguments = vec!["restore", "web1", "--disk", "0", "--to", file];
        arguments.extend(format.map(|_| "--format"));
        arguments.extend(format);
        stage.run(&arguments).ok();
        qemu::img(&stage.path(""), &["compare", "-f", driver, "-F", "raw", file, "c.raw"]);
    }
}

/// A loop device over a file; it goes with the value.
struct LoopDevice(String);

impl LoopDevice {
    fn over(file: &std::path::Path) -> LoopDevice {
        let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let output = output.expect("this story needs losetup");
        assert!(output.status.success(), "this story needs root and loop devices: {output:?}");
        LoopDevice(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_takes_a_disk_and_is_brought_up_to_date() {
    const DISK: usize = 100 << 20;
    let stage = Stage::new();
    stage.backup("base");
    stage.backup("current");
    // Larger than the disk, and full of something else: what lies beyond must stay.
    let file = stage.path("device.img");
    std::fs::write(&file, vec![0xa5; DISK + (1 << 20)]).unwrap();
    let device = LoopDevice::over(&file);
    let to_device = ["restore", "web1", "--disk", "0", "--to", &device.0];
    stage.run(&to_device).ended(1).said("--overwrite");
    stage.run(&[&to_device[..], &["--overwrite"]].concat()).ok();
    let content = || {
        let bytes = std::fs::read(&device.0).unwrap();
        assert!(bytes[DISK..].iter().all(|byte| *byte == 0xa5), "what lies beyond the disk is not touched");
        std::fs::write(stage.path("seen.raw"), &bytes[..DISK]).unwrap();
        sum(&stage.path("seen.raw"))
    };
    assert_eq!(content(), expected_sum("current"));
    let list = stage.run(&["list", "--json"]).ok().json();
    let base = text(&list["backups"][0], "backup").to_owned();
    let run = stage.run(&["restore", &base, "--disk", "0", "--to", &device.0, "--in-place", "--json"]).ok();
    assert!(run.json()["written"].as_u64() < Some(8 << 20), "{run:?}");
    assert_eq!(content(), expected_sum("base"));
    // And back: a device is a source as well.
    stage.run(&["backup", &device.0]).ok();
    let name = device.0.rsplit('/').next().unwrap();
    stage.run(&["restore", name, "--disk", "0", "--to", "again.raw"]).ok();
    let again = std::fs::read(stage.path("again.raw")).unwrap();
    assert!(again == std::fs::read(&device.0).unwrap(), "the device comes back whole");
}

#[test]
fn in_place_writes_only_what_differs() {
    let stage = Stage::new();
    stage.backup("base");
    stage.backup("current");
    stage.run(&["restore", "web1", "--disk", "0", "--to", "disk.raw"]).ok();
    assert_eq!(sum(&stage.path("disk.raw")), expected_sum("current"));
    let list = stage.run(&["list", "--json"]).ok().json();
    let base = text(&list["backups"][0], "backup").to_owned();
    let run = stage.run(&["restore", &base, "--disk", "0", "--to", "disk.raw", "--in-place", "--json"]).ok();
    let disk = run.json();
    assert!(run.stderr.contains("disk.raw (file, 100.0 MiB) will be brought up to date in place"), "{run:?}");
    assert!(disk["written"].as_u64() < Some(8 << 20) && disk["unchanged"].as_u64() > Some(90 << 20), "{disk}");
    assert_eq!(sum(&stage.path("disk.raw")), expected_sum("base"));
    // Another size, no file: refused.
    std::fs::write(stage.path("small.raw"), [0; 512]).unwrap();
    let place = |file| stage.run(&["restore", &base, "--disk", "0", "--to", file, "--in-place"]);
    place("small.raw").ended(1).said("expected exactly 104857600 bytes, found 512");
    place("none.raw").ended(1);
}

#[test]
fn contradictions_are_wrong_usage_and_say_what_to_type() {
    let stage = Stage::new();
    stage.backup("base");
    for (arguments, hint) in [
        (&["restore"][..], "abbild restore BACKUP --to DIR"),
        (&["restore", "web1"], "abbild restore BACKUP --to DIR"),
        (&["restore", "web1", "--to", "x", "--in-place"], "--in-place"),
        (&["restore", "web1", "--to", "x", "--disk", "0", "--in-place", "--format", "vmdk"], "leave --format out"),
        (&["restore", "web1", "--to", "web1/web1.vmx"], "name a folder"),
        (&["restore", "web1", "--disk", "0", "--to", "web1"], "name a file in it"),
        (&["restore", "web1", "--disk", "7", "--to", "x"], "it has: 0 (scsi0:0, 100.0 MiB)"),
        (&["restore", "web1", "--format", "qcow9", "--to", "x"], "vmdk-stream"),
    ] {
        stage.run(arguments).ended(2).said(hint);
    }
    assert!(!stage.path("x").exists());
}

#[test]
fn a_backup_that_is_not_there_names_those_that_are() {
    let stage = Stage::new();
    let backup = stage.backup("base");
    let id = text(&backup, "backup").to_owned();
    let year = text(&backup, "name")[.."web1@2026".len()].to_owned();
    let run = stage.run(&["show", "web2"]).ended(1);
    assert_eq!(
        run.stderr,
        "error: no backup fits web2\n  hint: there are: web1@latest\n  hint: see all: abbild list\n"
    );
    stage.run(&["show", "web1@1999-01-01"]).ended(1).said("there are: web1@20");
    let error = stage.run(&["restore", "web1@1999", "--to", "x", "--json"]).ended(1).json();
    assert_eq!(error["error"]["exit_code"], 1, "{error}");
    for name in ["web1", "web1@latest", &year, &id[..8], &id] {
        assert!(stage.run(&["show", name]).ok().stdout.contains(&id), "{name}");
    }
}
