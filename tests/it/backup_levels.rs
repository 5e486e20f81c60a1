//! "Back up my machine at each of its snapshots": only what the redo logs hold is read, each level restores equal.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abbild::capture::CaptureError;
use abbild::disk::{Disk, ExtentKind};
use abbild::formats::sink::Overwrite;
use abbild::formats::{self, OpenPolicy};
use abbild::ops::OpsError;
use abbild::ops::backup::{BackupOptions, backup};
use abbild::ops::event::{Control, Event, Events, Silent};
use abbild::ops::machines;
use abbild::ops::restore::{DefinitionChoice, DiskFormat, DiskTarget, MachineOptions, restore_disk, restore_machine};
use abbild::repo::manifest::{self, Manifest};
use abbild::repo::run::Committed;
use abbild::repo::seal::Kind;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::{Repository, object};
use abbild::units::GuestOffset;

use crate::qemu;
use crate::world::{RawMachine, content_of, create_on, noise, open_on, quiet};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// The fixture's machine, unpacked.
fn web1() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let archive = format!("{FIXTURES}/guest.tar.gz");
    let status = Command::new("tar").args(["-xzf", &archive, "-C"]).arg(place.path()).status();
    assert!(status.expect("this story needs tar").success());
    let folder = place.path().join("web1");
    (place, folder)
}

fn options(level: &str) -> BackupOptions {
    BackupOptions { level: level.parse().unwrap(), ..Default::default() }
}

fn back_up(repository: &Arc<Repository>, folder: &Path, level: &str) -> Result<Committed, OpsError> {
    let machine = machines::read(folder)?;
    backup(repository, &machine, &options(level), quiet(&AtomicBool::new(false)))
}

/// Bytes of data that the topmost layer alone stores.
fn data_in_top_layer(folder: &Path, image: &str) -> u64 {
    let image = formats::open(&folder.join(image), &OpenPolicy::within(folder).unwrap()).unwrap();
    let top = image.changes_of_upper(1).unwrap();
    let (mut at, mut data) = (0, 0);
    while at < top.size().0 {
        let extent = top.extent_at(GuestOffset(at)).unwrap();
        if extent.kind == ExtentKind::Data {
            data += extent.len.0;
        }
        at += extent.len.0;
    }
    data
}

fn restore_raw(repository: &Arc<Repository>, manifest: &Manifest, path: &Path) {
    let target = DiskTarget::File { path: path.to_owned(), format: DiskFormat::Raw, overwrite: Overwrite::Refuse };
    restore_disk(repository, manifest, 0, &target, quiet(&AtomicBool::new(false))).unwrap();
}

#[test]
fn each_level_reads_only_its_redo_log_and_restores_equal() {
    let (place, folder) = web1();
    let repository = create_on(&MemFs::new());
    let levels = [("base", "web1.vmdk"), ("after upgrade", "web1-000001.vmdk"), ("current", "web1-000002.vmdk")];
    let mut parent = None;
    for (number, (level, image)) in levels.into_iter().enumerate() {
        let committed = back_up(&repository, &folder, level).unwrap();
        let manifest = &committed.manifest;
        let (total, disk) = (&manifest.statistics, &manifest.disks[0].statistics);
        println!("{level}: {total:?}");
        assert_eq!(manifest.parent, parent, "{level}: built on the level below");
        assert_eq!(disk.read, data_in_top_layer(&folder, image), "{level}: read what this layer stores, and no more");
        if number > 0 {
            assert!(total.new < disk.read, "{level}: part of a redo log's grains is what was there before");
            assert!(disk.unchanged > disk.size * 9 / 10, "{level}: most of the disk is taken over");
        }
        let raw = place.path().join(format!("{number}.raw"));
        restore_raw(&repository, manifest, &raw);
        qemu::img(
            Path::new("/"),
            &["compare", "-f", "raw", "-F", "vmdk", raw.to_str().unwrap(), folder.join(image).to_str().unwrap()],
        );
        parent = Some(manifest.backup);
    }
}

#[test]
fn a_level_again_reads_a_sample_and_stores_nothing_new() {
    let (_place, folder) = web1();
    let repository = create_on(&MemFs::new());
    back_up(&repository, &folder, "current").unwrap();
    let again = back_up(&repository, &folder, "current").unwrap().manifest.statistics;
    assert_eq!((again.read, again.new), (0, 0));
    assert!(again.sampled > 0, "an unchanged disk is sampled all the same");
    assert!(again.sampled <= 8 * (4 << 20));
}

#[test]
fn a_sample_that_differs_makes_everything_be_read() {
    let content = noise(24 << 20, 1);
    let machine = RawMachine::new(&content);
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let first = machine.back_up(&repository).unwrap().manifest;
    // Every byte changes, and a manifest claims that the file is what it was: as if a clock or a filesystem had lied.
    let changed = noise(24 << 20, 2);
    machine.write(&changed);
    let lying = {
        let second = machine.back_up(&create_on(&MemFs::new())).unwrap().manifest;
        let mut lying = first.clone();
        lying.backup = second.backup;
        lying.disks[0].layers = second.disks[0].layers.clone();
        lying
    };
    let name = manifest::object_name(lying.backup);
    object::put(repository.store(), repository.keys(), Kind::Manifest, &name, &lying.encode()).unwrap();
    repository.store().remove(&manifest::object_name(first.backup)).unwrap();

    let found_out = machine.back_up(&repository).unwrap().manifest;
    assert!(found_out.warnings.iter().any(|warning| warning.contains("sample")), "{:?}", found_out.warnings);
    assert_eq!(found_out.parent, None);
    assert_eq!(found_out.disks[0].statistics.read, changed.len() as u64);
    assert!(content_of(&open_on(&fs).unwrap(), found_out.backup).unwrap() == changed);
}

/// The base changed behind its redo log, which is noticed while other workers have patched segments at hand: what they
/// gathered must not be taken for stored by the second pass.
#[test]
fn what_was_gathered_before_a_sample_differed_is_stored_all_the_same() {
    const SEGMENT: u64 = 4 << 20;
    for round in 0..6 {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path();
        let raw = |seed| std::fs::write(folder.join("base.raw"), noise(24 << 20, seed)).unwrap();
        let convert = |options: &[&str]| qemu::img(folder, &[&["convert"], options].concat());
        raw(100 + round);
        convert(&["-f", "raw", "-O", "vmdk", "base.raw", "base.vmdk"]);
        let fs = MemFs::new();
        let repository = create_on(&fs);
        let first = back_up(&repository, &folder.join("base.vmdk"), "current").unwrap().manifest;
        // Every byte of the base changes, and a manifest claims that it is what it was.
        raw(200 + round);
        convert(&["-n", "-f", "raw", "-O", "vmdk", "base.raw", "base.vmdk"]);
        let changed = back_up(&create_on(&MemFs::new()), &folder.join("base.vmdk"), "current").unwrap().manifest;
        qemu::img(folder, &["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "top.vmdk"]);
        let write = |segment| format!("write -P {} {} 400k", 10 + segment, segment * SEGMENT + (64 << 10));
        qemu::write(folder, "top.vmdk", "vmdk", &[0, 1, 3, 5].map(write));
        let top = back_up(&create_on(&MemFs::new()), &folder.join("top.vmdk"), "current").unwrap().manifest;
        let mut lying = first.clone();
        (lying.backup, lying.identity) = (changed.backup, top.identity);
        lying.disks[0].layers = changed.disks[0].layers.clone();
        let name = manifest::object_name(lying.backup);
        object::put(repository.store(), repository.keys(), Kind::Manifest, &name, &lying.encode()).unwrap();

        let second = back_up(&repository, &folder.join("top.vmdk"), "current").unwrap().manifest;
        assert!(second.warnings.iter().any(|warning| warning.contains("sample")), "{:?}", second.warnings);
        let expected = qemu::content(folder, "top.vmdk");
        assert!(content_of(&open_on(&fs).unwrap(), second.backup).unwrap() == expected, "round {round}");
    }
}

/// Does something when the first disk begins.
struct AtBegin<F: Fn() + Sync>(F);

impl<F: Fn() + Sync> Events for AtBegin<F> {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Begin { .. }) {
            (self.0)();
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_no_backup() {
    let source = RawMachine::new(&noise(8 << 20, 1));
    let repository = create_on(&MemFs::new());
    let machine = machines::read(&source.image()).unwrap();
    let events = AtBegin(|| source.write(&noise(8 << 20, 2)));
    let interrupt = AtomicBool::new(false);
    let control = Control { events: &events, interrupt: &interrupt };
    let outcome = backup(&repository, &machine, &options("current"), control);
    assert!(matches!(outcome, Err(OpsError::Capture(CaptureError::Changed { .. }))), "{outcome:?}");
    assert_eq!(repository.backup_ids().unwrap(), []);
}

#[test]
fn the_newest_level_of_a_running_machine_is_refused_and_a_frozen_one_is_not() {
    let (_place, folder) = web1();
    std::fs::create_dir(folder.join("web1.vmx.lck")).unwrap();
    std::fs::write(folder.join("web1.vmx.lck/M1.lck"), "").unwrap();
    let repository = create_on(&MemFs::new());
    let outcome = back_up(&repository, &folder, "current");
    let Err(OpsError::Capture(CaptureError::InUse { snapshots, .. })) = outcome else { panic!("{outcome:?}") };
    assert!(snapshots.iter().any(|name| name.contains("after upgrade")), "{snapshots:?}");
    back_up(&repository, &folder, "after upgrade").unwrap();
}

/// Interrupts after so many bytes.
struct InterruptAfter<'a> {
    bytes: std::sync::atomic::AtomicU64,
    interrupt: &'a AtomicBool,
}

impl Events for InterruptAfter<'_> {
    fn event(&self, event: Event<'_>) {
        let Event::Done(step) = event else { return };
        let left = self.bytes.load(Ordering::Relaxed).saturating_sub(step);
        self.bytes.store(left, Ordering::Relaxed);
        if left == 0 {
            self.interrupt.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn an_interrupted_backup_goes_on_from_what_is_stored() {
    let content = noise(240 << 20, 1);
    let source = RawMachine::new(&content);
    let fs = MemFs::new();
    let repository = create_on(&fs);
    let interrupt = AtomicBool::new(false);
    let events = InterruptAfter { bytes: (220 << 20).into(), interrupt: &interrupt };
    let control = Control { events: &events, interrupt: &interrupt };
    let machine = machines::read(&source.image()).unwrap();
    let outcome = backup(&repository, &machine, &options("current"), control);
    assert!(matches!(outcome, Err(OpsError::Interrupted)), "{outcome:?}");
    drop(repository);
    // Another process, without the first one's cache.
    let next = source.back_up(&open_on(&fs).unwrap()).unwrap().manifest;
    assert!(next.statistics.new < 200 << 20, "{:?}", next.statistics);
    assert!(content_of(&open_on(&fs).unwrap(), next.backup).unwrap() == content);
}

#[test]
fn a_restored_machine_has_its_disks_and_definition() {
    let (place, folder) = web1();
    let repository = create_on(&MemFs::new());
    let manifest = back_up(&repository, &folder, "current").unwrap().manifest;
    let interrupt = AtomicBool::new(false);
    let to = place.path().join("restored");
    let options = MachineOptions {
        format: DiskFormat::Vmdk,
        definition: DefinitionChoice::Own,
        new_identity: false,
        overwrite: Overwrite::Refuse,
    };
    let restored = restore_machine(&repository, &manifest, &to, &options, quiet(&interrupt)).unwrap();
    assert_eq!(restored.disks[0].files, [to.join("web1.vmdk")]);
    let read_back = machines::read(&to).unwrap();
    assert_eq!(read_back.identity, machines::read(&folder).unwrap().identity);
    assert_eq!(read_back.disks[0].image, to.join("web1.vmdk"));
    assert_eq!(read_back.snapshots.len(), 0);
    let original = folder.join("web1-000002.vmdk");
    qemu::img(
        Path::new("/"),
        &["compare", "-f", "vmdk", "-F", "vmdk", to.join("web1.vmdk").to_str().unwrap(), original.to_str().unwrap()],
    );
    for kept in ["web1.nvram", "vmware.log"] {
        assert_eq!(std::fs::read(to.join(kept)).unwrap(), std::fs::read(folder.join(kept)).unwrap(), "{kept}");
    }
    assert_eq!(std::fs::read(to.join("web1.vmx.orig")).unwrap(), std::fs::read(folder.join("web1.vmx")).unwrap());
    let again = restore_machine(&repository, &manifest, &to, &options, quiet(&interrupt));
    assert!(matches!(again, Err(OpsError::Target { .. })), "a folder that holds something is left alone");
    // The restored machine is the same machine: its backup builds on nothing, and its disk adds
    // nothing.
    let of_restored = back_up(&repository, &to, "current").unwrap().manifest;
    let disk = &of_restored.disks[0].statistics;
    assert_eq!((disk.new, disk.unchanged), (0, 0), "all of it is read, nothing of it is new: {disk:?}");
    assert!(disk.read > 0);
}

#[test]
fn in_place_writes_only_what_differs() {
    let content = [noise(9 << 20, 1), vec![0; 3 << 20], noise(512 * 77, 2)].concat();
    let source = RawMachine::new(&content);
    let repository = create_on(&MemFs::new());
    let manifest = source.back_up(&repository).unwrap().manifest;
    let target = source.folder.path().join("target.raw");
    let mut present = content.clone();
    present[5 << 20] ^= 1;
    present[10 << 20] ^= 1;
    std::fs::write(&target, &present).unwrap();
    let interrupt = AtomicBool::new(false);
    let in_place = DiskTarget::InPlace(target.clone());
    let restored = restore_disk(&repository, &manifest, 0, &in_place, quiet(&interrupt)).unwrap();
    assert!(std::fs::read(&target).unwrap() == content);
    assert_eq!(restored.written, 2 * (64 << 10), "two blocks of 64 KiB differed");
    let again = restore_disk(&repository, &manifest, 0, &in_place, quiet(&interrupt)).unwrap();
    assert_eq!((again.written, again.unchanged), (0, content.len() as u64));
    std::fs::write(&target, &present[..content.len() - 512]).unwrap();
    assert!(restore_disk(&repository, &manifest, 0, &in_place, quiet(&interrupt)).is_err(), "another size");
}

#[test]
fn every_format_restores_equal() {
    let content = [noise(3 << 20, 1), vec![0; 6 << 20], b"text ".repeat(99_968), noise(512 * 7, 2)].concat();
    let content = &content[..content.len() / 512 * 512];
    let source = RawMachine::new(content);
    let repository = create_on(&MemFs::new());
    let manifest = source.back_up(&repository).unwrap().manifest;
    for (format, qemu_format) in [
        (DiskFormat::Raw, "raw"),
        (DiskFormat::Vmdk, "vmdk"),
        (DiskFormat::VmdkStream, "vmdk"),
        (DiskFormat::VmdkFlat, "vmdk"),
        (DiskFormat::VmdkSplit, "vmdk"),
        (DiskFormat::Qcow2, "qcow2"),
        (DiskFormat::Vhd, "vpc"),
        (DiskFormat::VhdFixed, "vpc"),
        (DiskFormat::Vhdx, "vhdx"),
        (DiskFormat::Vdi, "vdi"),
    ] {
        let path = source.folder.path().join(format!("restored-{format:?}"));
        let target = DiskTarget::File { path: path.clone(), format, overwrite: Overwrite::Refuse };
        let interrupt = AtomicBool::new(false);
        let restored = restore_disk(&repository, &manifest, 0, &target, quiet(&interrupt)).unwrap();
        assert!(restored.verified > 0);
        let (image, path) = (source.image(), path.to_str().unwrap().to_owned());
        qemu::img(Path::new("/"), &["compare", "-f", "raw", "-F", qemu_format, image.to_str().unwrap(), &path]);
        let again = restore_disk(&repository, &manifest, 0, &target, quiet(&interrupt));
        assert!(again.is_err(), "{format:?}: an existing file is left alone");
    }
}

#[test]
fn a_control_that_says_nothing_is_enough() {
    // `Silent` is what library users without a terminal pass: it must not matter.
    let control = Control { events: &Silent, interrupt: &AtomicBool::new(true) };
    let source = RawMachine::new(&noise(1 << 20, 1));
    let machine = machines::read(&source.image()).unwrap();
    let outcome = backup(&create_on(&MemFs::new()), &machine, &options("current"), control);
    assert!(matches!(outcome, Err(OpsError::Interrupted)), "{outcome:?}");
}
