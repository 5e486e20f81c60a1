//! "Back up a level of my machine": the offline way over a real chain of redo logs, whether or not the machine runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use abbild::capture::CaptureError;
use abbild::capture::guard::FileGuard;
use abbild::capture::identity::{LayerIdentity, common_frozen_base};
use abbild::capture::offline::{CapturedDisk, OpenedDisk, take};
use abbild::disk::Disk;
use abbild::formats::{self, OpenPolicy};
use abbild::machine::level::choose;
use abbild::ops::machines;
use abbild::units::GuestOffset;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

fn web1() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let archive = format!("{FIXTURES}/guest.tar.gz");
    let status = Command::new("tar").args(["-xzf", &archive, "-C"]).arg(place.path()).status();
    assert!(status.expect("this test needs tar").success());
    let folder = place.path().join("web1");
    (place, folder)
}

/// The one disk of the machine at a level, as `backup` would take it.
fn capture(folder: &Path, choice: &str) -> Result<CapturedDisk, CaptureError> {
    let machine = machines::read(folder).unwrap();
    let level = choose(&machine, &choice.parse().unwrap()).unwrap();
    let policy = OpenPolicy::within(&machine.folder).unwrap();
    let open = |image: &Path| formats::open(image, &policy).unwrap();
    let opened = level.disks.iter().map(|disk| OpenedDisk { slot: disk.slot.clone(), image: open(disk.level.image()) });
    let mut disks = take(&machine, &level, opened.collect())?;
    assert_eq!(disks.len(), 1);
    Ok(disks.remove(0))
}

fn content(disk: &CapturedDisk) -> String {
    let stack = disk.image.disk();
    let mut bytes = vec![0; usize::try_from(stack.size().0).unwrap()];
    stack.read_at(GuestOffset(0), &mut bytes).unwrap();
    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(folder: &Path, name: &str) {
    fs::create_dir(folder.join(name)).unwrap();
    fs::write(folder.join(name).join("M1.lck"), "").unwrap();
}

#[test]
fn every_level_is_what_qemu_img_reads() {
    let (_place, folder) = web1();
    let expected = fs::read_to_string(format!("{FIXTURES}/guest/expected.sha256")).unwrap();
    for (choice, level, layers, frozen) in [
        ("current", "current.raw", 3, false),
        ("after upgrade", "level1.raw", 2, true),
        ("before upgrade", "base.raw", 1, true),
        ("base", "base.raw", 1, true),
    ] {
        let disk = capture(&folder, choice).unwrap();
        assert_eq!((disk.slot.as_str(), disk.image.layers.len(), disk.frozen), ("scsi0:0", layers, frozen), "{choice}");
        let guard = FileGuard::of(&disk.image.layers).unwrap();
        assert!(expected.contains(&format!("{}  {level}\n", content(&disk))), "{choice}");
        guard.verify().unwrap();
    }
}

#[test]
fn a_running_machine_gives_only_its_frozen_levels() {
    let (_place, folder) = web1();
    for name in ["web1.vmx.lck", "web1.vmdk.lck", "web1-000001.vmdk.lck", "web1-000002.vmdk.lck"] {
        lock(&folder, name);
    }
    for choice in ["after upgrade", "before upgrade", "base"] {
        assert!(capture(&folder, choice).unwrap().frozen, "{choice}");
    }
    let Err(CaptureError::InUse { machine, why, snapshots, .. }) = capture(&folder, "current") else {
        panic!("the current level of a running machine was taken")
    };
    assert_eq!(machine, "web1");
    assert!(why.contains("web1.vmx.lck"), "{why}");
    assert_eq!(snapshots, ["\"after upgrade\"", "\"before upgrade\""]);

    // Only the image's own lock is left: the open image tells.
    fs::remove_dir_all(folder.join("web1.vmx.lck")).unwrap();
    assert!(matches!(capture(&folder, "current"), Err(CaptureError::InUse { .. })));
}

#[test]
fn a_write_under_the_reader_is_noticed() {
    let (_place, folder) = web1();
    let disk = capture(&folder, "after upgrade").unwrap();
    let guard = FileGuard::of(&disk.image.layers).unwrap();
    let base = folder.join("web1.vmdk");
    // The guest's own redo log may change: it is no part of the level.
    let write = |file: &Path| {
        let script = "write -P 7 0 64k";
        let output = Command::new("qemu-io").args(["-f", "vmdk", "-c", script]).arg(file).output();
        assert!(output.expect("this test needs qemu-io").status.success());
    };
    write(&folder.join("web1-000002.vmdk"));
    guard.verify().unwrap();
    write(&base);
    let message = guard.verify().unwrap_err().to_string();
    assert!(message.contains("web1.vmdk changed while it was read: its "), "{message}");
}

#[test]
fn layers_are_known_again() {
    let (_place, folder) = web1();
    let layers = |choice: &str| -> Vec<LayerIdentity> {
        capture(&folder, choice).unwrap().image.layers.iter().map(LayerIdentity::of).collect()
    };
    assert_eq!(common_frozen_base(&layers("before upgrade"), &layers("current")), 1);
    assert_eq!(common_frozen_base(&layers("after upgrade"), &layers("current")), 2);
    assert_eq!(common_frozen_base(&layers("current"), &layers("current")), 3);
    assert_eq!(common_frozen_base(&layers("current"), &layers("after upgrade")), 0);
    let before = layers("after upgrade");
    // The same bytes in another file are another file.
    fs::copy(folder.join("web1.vmdk"), folder.join("copy")).unwrap();
    fs::rename(folder.join("copy"), folder.join("web1.vmdk")).unwrap();
    assert_eq!(common_frozen_base(&before, &layers("current")), 0);
}
