//! "Here is my VMware folder": what is read from a machine as VMware leaves it, and what hostile folders get told.
//!
//! The fixture is made by `fixtures/guest/make.sh`; qemu-img, which is not ours, judges that a level's image is that level.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use abbild::machine::level::{SnapshotChoice, choose};
use abbild::machine::{Machine, MachineError, MachineIdentity, MachineKind};
use abbild::ops::machines;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// The fixture's folder `web1` in a place of its own, with its real path: answers have real paths.
fn web1() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    run("tar", &["-xzf", &format!("{FIXTURES}/guest.tar.gz"), "-C", place.path().to_str().unwrap()]);
    let folder = place.path().join("web1").canonicalize().unwrap();
    (place, folder)
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A machine that must be readable.
#[track_caller]
fn read(path: &Path) -> Machine {
    machines::read(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The message for a path that must be refused, without the folder's name.
#[track_caller]
fn refusal(path: &Path, folder: &Path) -> String {
    match machines::read(path) {
        Ok(machine) => panic!("was accepted as {machine:?}"),
        Err(error) => error.to_string().replace(folder.to_str().unwrap(), "DIR"),
    }
}

fn names(paths: &[PathBuf]) -> Vec<&str> {
    paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect()
}

fn append(file: &Path, text: &str) {
    let whole = fs::read_to_string(file).unwrap() + text;
    fs::write(file, whole).unwrap();
}

#[test]
fn a_folder_and_its_definition_are_the_same_machine() {
    let (_place, folder) = web1();
    for path in [folder.clone(), folder.join("web1.vmx")] {
        let web1 = read(&path);
        assert_eq!(web1.name, "web1");
        assert_eq!(web1.kind, MachineKind::Vmware);
        assert_eq!(web1.identity, MachineIdentity::BiosUuid("564d1f3a-7720-4c01-9d5e-0a6b2c4481f0".to_owned()));
        assert_eq!(web1.folder, folder);
        assert_eq!(web1.running, None);
        assert!(web1.warnings.is_empty(), "{:?}", web1.warnings);
        assert_eq!(web1.notes, ["ide1:0: skipped: a CD-ROM drive (cdrom-image)"]);
        let [disk] = web1.disks.as_slice() else { panic!("one disk, not {:?}", web1.disks) };
        assert_eq!((disk.slot.as_str(), &disk.image), ("scsi0:0", &folder.join("web1-000002.vmdk")));
        assert_eq!(
            names(&web1.definition_files),
            [
                "web1.vmx",
                "web1.nvram",
                "web1.vmxf",
                "web1.vmsd",
                "vmware.log",
                "web1-Snapshot1.vmsn",
                "web1-Snapshot2.vmsn"
            ]
        );
        let [before, after] = web1.snapshots.as_slice() else { panic!("two snapshots, not {:?}", web1.snapshots) };
        assert_eq!((before.uid, before.parent, before.name.as_str()), (1, None, "before upgrade"));
        assert_eq!((after.uid, after.parent, after.name.as_str()), (2, Some(1), "after upgrade"));
        assert_eq!(before.taken_us, Some(1_773_042_900_000_000));
        assert_eq!(after.taken_us, Some(1_773_044_400_000_000));
        assert_eq!(before.frozen, [("scsi0:0".to_owned(), folder.join("web1.vmdk"))]);
        assert_eq!(after.frozen, [("scsi0:0".to_owned(), folder.join("web1-000001.vmdk"))]);
    }
}

#[test]
fn each_level_names_the_image_that_holds_it() {
    let (place, folder) = web1();
    let expected = fs::read_to_string(format!("{FIXTURES}/guest/expected.sha256")).unwrap();
    let expected: BTreeMap<&str, &str> =
        expected.lines().filter_map(|line| line.split_once("  ").map(|(sum, name)| (name, sum))).collect();

    let web1 = read(&folder);
    for (choice, level, frozen) in [
        ("current", "current.raw", false),
        ("after upgrade", "level1.raw", true),
        ("2", "level1.raw", true),
        ("before upgrade", "base.raw", true),
        ("1", "base.raw", true),
    ] {
        let chosen = choose(&web1, &choice.parse().unwrap()).unwrap();
        let [disk] = chosen.disks.as_slice() else { panic!("one disk, not {:?}", chosen.disks) };
        assert_eq!(disk.frozen, frozen, "{choice}");
        let raw = place.path().join("judge.raw");
        let image = disk.level.image().to_str().unwrap();
        run("qemu-img", &["convert", "-f", "vmdk", "-O", "raw", image, raw.to_str().unwrap()]);
        let sum: String = Sha256::digest(fs::read(&raw).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Some(&sum.as_str()), expected.get(level), "{choice}");
    }
    let error = choose(&web1, &SnapshotChoice::Named("yesterday".to_owned())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "web1 has no snapshot \"yesterday\": it has \"before upgrade\" (number 1), \"after upgrade\" (number 2)"
    );
}

#[test]
fn signs_of_a_running_machine() {
    type Act = fn(&Path);
    let lock = |folder: &Path, name: &str| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("M12345.lck"), "").unwrap();
    };
    let (_place, folder) = web1();
    fs::create_dir(folder.join("web1.vmx.lck")).unwrap();
    assert_eq!(read(&folder).running, None, "an empty lock folder is a leftover");
    fs::remove_dir(folder.join("web1.vmx.lck")).unwrap();
    lock(&folder, "web1.vmdk.lck");
    assert_eq!(read(&folder).running, None, "the lock of a frozen layer says nothing of the newest");

    for name in ["web1.vmx.lck", "web1-000002.vmdk.lck"] {
        lock(&folder, name);
        assert_eq!(read(&folder).running, Some(format!("the lock {} is held", folder.join(name).display())));
        fs::remove_dir_all(folder.join(name)).unwrap();
    }
    let table: [(&str, Act, Option<&str>); 5] = [
        ("web1-5f3a.vswp", |_| (), Some("its swap file web1-5f3a.vswp is there")),
        (".lck-3a00000000000000", |_| (), Some("the lock file .lck-3a00000000000000 of an NFS datastore is there")),
        ("web1-5f3a.vmem", |_| (), Some("its memory file web1-5f3a.vmem is there")),
        ("web1-Snapshot1.vmem", |_| (), None),
        ("web1-77aa.vmem", |folder| fs::write(folder.join("web1-77aa.vmss"), "").unwrap(), None),
    ];
    for (name, also, expected) in table {
        fs::write(folder.join(name), "").unwrap();
        also(&folder);
        assert_eq!(read(&folder).running.as_deref(), expected, "{name}");
        fs::remove_file(folder.join(name)).unwrap();
    }
    let suspended = "the machine is suspended: its disks are backed up, its memory is not";
    assert!(read(&folder).warnings.contains(&suspended.to_owned()));
}

#[test]
fn which_neighbours_are_kept() {
    let (_place, folder) = web1();
    for name in ["web1.vmem", "web1-1.vswp", "vmware-0.log", "web1.vmx~", "other.log", "web12.vmsn", "debian.iso"] {
        fs::write(folder.join(name), "x").unwrap();
    }
    File::create(folder.join("web1-Snapshot3.vmsn")).unwrap().set_len((16 << 20) + 1).unwrap();
    for number in 1..=5 {
        File::create(folder.join(format!("vmware-{number}.log"))).unwrap().set_len(16 << 20).unwrap();
    }
    symlink("/etc/hostname", folder.join("vmware-9.log")).unwrap();
    let web1 = read(&folder);
    assert_eq!(
        names(&web1.definition_files),
        [
            "web1.vmx",
            "web1.nvram",
            "web1.vmxf",
            "web1.vmsd",
            "vmware-0.log",
            "vmware-1.log",
            "vmware-2.log",
            "vmware-3.log",
            "vmware.log",
            "web1-Snapshot1.vmsn",
            "web1-Snapshot2.vmsn"
        ]
    );
    assert_eq!(
        web1.warnings[..],
        [
            "vmware-4.log is not kept: with its 16777216 bytes the definition files would exceed 67108864",
            "vmware-5.log is not kept: with its 16777216 bytes the definition files would exceed 67108864",
            "vmware-9.log is not kept: it is no plain file",
            "web1-Snapshot3.vmsn is not kept: it has 16777217 bytes, at most 16777216 are kept",
        ]
    );
}

#[test]
fn a_definition_cannot_make_us_keep_other_files() {
    let (_place, folder) = web1();
    let vmx = folder.join("web1.vmx");
    for name in ["../../etc/shadow", "/etc/shadow", "sub/x.nvram"] {
        append(&vmx, &format!("nvram = \"{name}\"\n"));
        let web1 = read(&folder);
        assert!(web1.definition_files.iter().all(|file| file.parent() == Some(folder.as_path())), "{name}");
        assert_eq!(web1.warnings[0], format!("nvram: \"{name}\" is not in the machine's folder: not kept"));
    }
    fs::remove_file(folder.join("web1.nvram")).unwrap();
    symlink("/etc/shadow", folder.join("web1.nvram")).unwrap();
    append(&vmx, "nvram = \"web1.nvram\"\n");
    let web1 = read(&folder);
    assert!(!names(&web1.definition_files).contains(&"web1.nvram"));
    assert_eq!(web1.warnings[0], "web1.nvram is not kept: it is no plain file");
}

#[test]
fn hostile_definitions() {
    let (_place, folder) = web1();
    let vmx = folder.join("web1.vmx");
    let sound = fs::read(&vmx).unwrap();

    File::options().write(true).open(&vmx).unwrap().set_len(1 << 30).unwrap();
    let too_long = "DIR/web1.vmx: length in bytes: expected at most 16777216, found 1073741824";
    assert_eq!(refusal(&folder, &folder), too_long);
    File::options().write(true).open(&vmx).unwrap().set_len(sound.len() as u64 + 1).unwrap();
    let nul = "DIR/web1.vmx: line 25: expected text without NUL bytes, found \"\\0\"";
    assert_eq!(refusal(&folder, &folder), nul);
    fs::write(&vmx, "displayName = web1\n").unwrap();
    let quotes = "DIR/web1.vmx: line 1: expected key = \"value\", found \"displayName = web1\"";
    assert_eq!(refusal(&folder, &folder), quotes);
    fs::write(&vmx, "").unwrap();
    assert_eq!(refusal(&folder, &folder), "DIR/web1.vmx has no disk to back up");
    fs::write(&vmx, "displayName = \"Vault\"\nencryption.keySafe = \"vmware:key\"\n").unwrap();
    let encrypted =
        "DIR/web1.vmx: the machine Vault is encrypted (encryption.keysafe): encrypted machines are not supported";
    assert_eq!(refusal(&folder, &folder), encrypted);

    // A pipe under the name would block whoever opens it.
    fs::remove_file(&vmx).unwrap();
    run("mkfifo", &[vmx.to_str().unwrap()]);
    assert_eq!(
        refusal(&vmx, &folder),
        "DIR/web1.vmx: a machine that is neither file, folder nor block device is not supported"
    );
    fs::remove_file(&vmx).unwrap();
    assert!(matches!(machines::read(&vmx), Err(MachineError::Io { .. })));

    // A path that leads away stays as it is: the open policy refuses it when the image is opened.
    fs::write(&vmx, &sound).unwrap();
    append(&vmx, "scsi0:0.fileName = \"../../etc/shadow\"\n");
    assert_eq!(read(&folder).disks[0].image, folder.join("../../etc/shadow"));
}

#[test]
fn a_damaged_list_of_snapshots_does_not_prevent_the_backup() {
    let (_place, folder) = web1();
    let vmsd = folder.join("web1.vmsd");
    for (damage, message) in [
        ("snapshot.numSnapshots = \"4000000000\"\n", "snapshot.numsnapshots: expected at most 4096, found 4000000000"),
        ("snapshot0.parent = \"2\"\n", "snapshotN.parent: expected a tree of snapshots, found 1 above itself"),
        ("\0", "line 22: expected text without NUL bytes, found \"\\0\""),
    ] {
        let sound = fs::read_to_string(&vmsd).unwrap();
        append(&vmsd, damage);
        let web1 = read(&folder);
        assert!(web1.snapshots.is_empty());
        assert_eq!(web1.warnings[0], format!("no snapshot can be chosen: {}: {message}", vmsd.display()));
        assert!(choose(&web1, &SnapshotChoice::Current).is_ok());
        assert!(choose(&web1, &SnapshotChoice::Named("1".to_owned())).is_err());
        fs::write(&vmsd, sound).unwrap();
    }
    File::options().write(true).open(&vmsd).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(
        read(&folder).warnings[..],
        [
            format!(
                "no snapshot can be chosen: {}: length in bytes: expected at most 16777216, found 1073741824",
                vmsd.display()
            ),
            "web1.vmsd is not kept: it has 1073741824 bytes, at most 16777216 are kept".to_owned(),
        ]
    );
    fs::write(&vmsd, "").unwrap();
    assert_eq!(read(&folder).warnings.len(), 0, "an empty list is a machine without snapshots");
}

#[test]
fn folders_of_several_machines_are_explained() {
    let (place, folder) = web1();
    let above = place.path().canonicalize().unwrap();
    assert_eq!(read(&above).folder, folder, "a folder above one machine means that machine");

    fs::create_dir(above.join("db1")).unwrap();
    fs::copy(folder.join("web1.vmx"), above.join("db1/db1.vmx")).unwrap();
    assert_eq!(
        refusal(&above, &above),
        "DIR holds several machines, name one of them: DIR/db1/db1.vmx, DIR/web1/web1.vmx"
    );
    fs::copy(folder.join("web1.vmx"), folder.join("copy.vmx")).unwrap();
    assert_eq!(refusal(&folder, &folder), "DIR holds several machines, name one of them: DIR/copy.vmx, DIR/web1.vmx");
    fs::create_dir(above.join("empty")).unwrap();
    assert_eq!(
        refusal(&above.join("empty"), &above),
        "DIR/empty holds no machine: no definition of one and no disk image"
    );
}

#[test]
fn a_folder_without_definition_has_the_newest_image_of_each_chain() {
    let (_place, folder) = web1();
    fs::remove_file(folder.join("web1.vmx")).unwrap();
    let vmdk = |name: &str, subformat: &str| {
        let file = folder.join(name);
        let option = format!("subformat={subformat}");
        run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &option, file.to_str().unwrap(), "3G"]);
    };
    vmdk("flat.vmdk", "monolithicFlat");
    vmdk("split.vmdk", "twoGbMaxExtentSparse");
    vmdk("stream.vmdk", "streamOptimized");
    fs::write(folder.join("data.img"), [0; 512]).unwrap();
    fs::write(folder.join("split-ctk.vmdk"), b"\xa2\x72\x19\xf6").unwrap();
    assert!(folder.join("split-s002.vmdk").exists() && folder.join("flat-flat.vmdk").exists());

    let machine = read(&folder);
    assert_eq!((machine.kind, machine.name.as_str()), (MachineKind::ImageFolder, "web1"));
    assert_eq!(machine.identity, MachineIdentity::Name("web1".to_owned()));
    let disks: Vec<_> =
        machine.disks.iter().map(|d| (d.slot.as_str(), d.image.file_name().unwrap().to_str().unwrap())).collect();
    assert_eq!(
        disks,
        [
            ("disk0", "data.img"),
            ("disk1", "flat.vmdk"),
            ("disk2", "split.vmdk"),
            ("disk3", "stream.vmdk"),
            ("disk4", "web1-000002.vmdk"),
        ]
    );

    for (part, what, descriptor) in [
        ("flat-flat.vmdk", "the data of a flat disk", "flat.vmdk"),
        ("split-s001.vmdk", "one piece of a split sparse disk", "split.vmdk"),
        ("split-ctk.vmdk", "a change tracking file", "split.vmdk"),
    ] {
        assert_eq!(
            refusal(&folder.join(part), &folder),
            format!("DIR/{part} is only a part of a disk ({what}): name DIR/{descriptor}")
        );
    }
    assert_eq!(
        refusal(&folder.join("web1.vmsd"), &folder),
        "DIR/web1.vmsd: a .vmsd file as a machine (name its folder, its .vmx or a disk image) is not supported"
    );

    let image = read(&folder.join("web1-000001.vmdk"));
    assert_eq!((image.kind, image.name.as_str()), (MachineKind::Image, "web1-000001"));
    assert_eq!(image.disks[0].image, folder.join("web1-000001.vmdk"));
    // A name is only a habit: a whole disk that is called like a part is taken.
    fs::rename(folder.join("stream.vmdk"), folder.join("stream-s001.vmdk")).unwrap();
    assert_eq!(read(&folder.join("stream-s001.vmdk")).name, "stream-s001");
    assert_eq!(read(&folder).disks.len(), 5);
}

#[test]
fn images_that_are_each_others_parents_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    for (name, parent) in [("a.vmdk", "b.vmdk"), ("b.vmdk", "a.vmdk")] {
        let text = format!("# Disk DescriptorFile\r\nversion=1\r\nParentFileNameHint = \"C:\\VMs\\{parent}\"\r\n");
        fs::write(path.join(name), text).unwrap();
    }
    assert_eq!(
        refusal(&path, &path),
        "DIR: each image is the parent of another (DIR/a.vmdk, DIR/b.vmdk): none is the newest"
    );
}
