//! The directory store on real filesystems and in memory: conformance, a full disk, strangers' files, leftovers.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::fs::RealFs;
use super::{Cleaned, DirectoryStore, ObjectName, ObjectStore, StoreError, conformance};

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn real() -> (tempfile::TempDir, DirectoryStore<RealFs>) {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryStore::create(&dir.path().join("deep/repository")).unwrap();
    (dir, store)
}

#[test]
fn a_real_directory_conforms() {
    let (_dir, store) = real();
    conformance::check(&store);
}

#[test]
fn memory_conforms() {
    conformance::check(&DirectoryStore::in_memory());
}

/// A tmpfs of its own, unmounted at the end. Needs root, as CI has it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size_bytes: u64) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={size_bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test needs root: mount -t tmpfs failed");
        SmallDisk(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_behind() {
    let disk = SmallDisk::mount(1 << 20);
    let store = DirectoryStore::create(&disk.path().join("r")).unwrap();
    let kept = name("packs/ab/kept");
    store.put(&kept, &[1; 300_000]).unwrap();
    let full = |outcome: Result<(), StoreError>| match outcome {
        Err(StoreError::NoSpace { name, .. }) => assert_eq!(name, "packs/ab/big"),
        outcome => panic!("{outcome:?}"),
    };
    full(store.put(&name("packs/ab/big"), &[2; 2 << 20]));
    full(store.put_exclusive(&name("packs/ab/big"), &[2; 2 << 20]));
    let mut writer = store.create(&name("packs/ab/big")).unwrap();
    full(std::iter::repeat_n([3; 65_536], 64).try_for_each(|part| writer.write(&part)));
    let refused = writer.commit();
    assert!(matches!(refused, Err(StoreError::Io { .. })), "an object that could not be written: {refused:?}");

    let mut listed = Vec::new();
    store
        .list("", &mut |object| {
            listed.push((object.name.to_string(), object.len));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(listed, [(kept.to_string(), 300_000)]);
    assert_eq!(store.clean_temporaries(Duration::ZERO).unwrap(), Cleaned::default(), "the space is free again");
    store.put(&name("packs/ab/next"), &[4; 300_000]).unwrap();
    assert_eq!(store.read(&kept, 1 << 20).unwrap(), [1; 300_000]);
}

#[test]
fn strangers_files_are_no_objects_and_are_told_when_asked() {
    let (dir, store) = real();
    let root = dir.path().join("deep/repository");
    store.put(&name("packs/ab/p1"), b"one").unwrap();
    std::fs::write(root.join("packs/README.txt"), "x").unwrap();
    std::fs::write(root.join("packs/ab/.hidden"), "x").unwrap();
    std::fs::create_dir(root.join("lost+found")).unwrap();
    std::fs::write(root.join("lost+found/p9"), "not looked at").unwrap();
    std::os::unix::fs::symlink("/etc", root.join("packs/etc")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("packs/passwd")).unwrap();
    std::fs::write(root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"n\xff\n")), "x").unwrap();

    let mut objects = Vec::new();
    let mut see = |object: super::ListedObject| {
        objects.push(object.name.to_string());
        ControlFlow::Continue(())
    };
    store.list("", &mut see).unwrap();
    assert_eq!(objects, ["packs/ab/p1"]);
    let mut foreign = Vec::new();
    let mut see = |name: &str| {
        foreign.push(name.to_owned());
        ControlFlow::Continue(())
    };
    store.foreign("", &mut see).unwrap();
    foreign.sort();
    let expected = ["lost+found", "n\u{fffd}\\n", "packs/README.txt", "packs/ab/.hidden", "packs/etc", "packs/passwd"];
    assert_eq!(foreign, expected);

    assert!(matches!(store.read(&name("packs/passwd"), 1 << 20), Err(StoreError::Io { .. })), "a link was followed");
    assert!(matches!(store.put(&name("packs/etc/x"), b""), Err(StoreError::Io { .. })), "a link was followed");
    assert!(!Path::new("/etc/x").exists());
    assert!(store.list("packs/etc", &mut |_| ControlFlow::Continue(())).is_err(), "a link is no empty folder");
}

#[test]
fn folders_are_no_objects() {
    let (_dir, store) = real();
    store.put(&name("packs/ab/p1"), b"one").unwrap();
    let folder = name("packs/ab");
    for outcome in [
        store.read(&folder, 10).map(drop),
        store.read_range(&folder, 0, &mut [0]),
        store.len(&folder).map(drop),
        store.remove(&folder),
        store.rename(&folder, &name("packs/cd")),
    ] {
        assert!(matches!(outcome, Err(StoreError::NotFound { .. })), "{outcome:?}");
    }
    assert!(matches!(store.put(&folder, b"x"), Err(StoreError::Exists { .. })));
    assert!(matches!(store.put(&name("packs/ab/p1/x"), b"x"), Err(StoreError::Io { .. })));
    assert_eq!(store.read(&name("packs/ab/p1"), 10).unwrap(), b"one");
}

#[test]
fn a_store_that_went_away_is_not_an_empty_one() {
    let (dir, store) = real();
    std::fs::rename(dir.path().join("deep"), dir.path().join("gone")).unwrap();
    assert!(store.list("packs", &mut |_| ControlFlow::Continue(())).is_err());
    let Err(error) = DirectoryStore::open(&dir.path().join("deep/repository")) else { panic!("opened") };
    let shown = error.to_string();
    assert!(shown.contains("deep/repository") && shown.contains("open"), "{shown}");
}

#[test]
fn leftovers_go_by_their_age() {
    let store = DirectoryStore::in_memory();
    let hour = Duration::from_secs(3600);
    for (object, len) in [("packs/ab/old", 10), ("packs/cd/old", 20)] {
        let mut writer = store.create(&name(object)).unwrap();
        writer.write(&vec![0; len]).unwrap();
        std::mem::forget(writer); // the process died
    }
    store.fs().advance(hour);
    let mut young = store.create(&name("packs/ab/young")).unwrap();
    young.write(b"young").unwrap();
    assert_eq!(store.clean_temporaries(hour + Duration::from_secs(1)).unwrap(), Cleaned::default());
    assert_eq!(store.clean_temporaries(hour).unwrap(), Cleaned { objects: 2, bytes: 30 });
    young.commit().unwrap();
    assert_eq!(store.read(&name("packs/ab/young"), 10).unwrap(), b"young");
}

/// Far more packs than handles are read at once from several threads, while some of them go away.
#[test]
fn range_reads_from_many_threads_are_right_while_objects_move() {
    let (_dir, store) = real();
    let store = Arc::new(store);
    let pack = |n: usize| name(&format!("packs/{:02x}/p{n}", n % 4));
    for n in 0..100 {
        store.put(&pack(n), &[n as u8; 1000]).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = Arc::clone(&store);
            scope.spawn(move || {
                for turn in 0..2000 {
                    let n = (turn * (2 * thread + 3)) % 100;
                    let mut part = [0; 10];
                    match store.read_range(&pack(n), 7, &mut part) {
                        Ok(()) => assert_eq!(part, [n as u8; 10]),
                        Err(StoreError::NotFound { .. }) => assert!(n < 20, "pack {n} is still there"),
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
        for n in 0..20 {
            store.rename(&pack(n), &name(&format!("trash/p{n}"))).unwrap();
        }
    });
    for n in 0..20 {
        let outcome = store.read_range(&pack(n), 0, &mut [0]);
        assert!(matches!(outcome, Err(StoreError::NotFound { .. })), "a handle outlived pack {n}");
    }
}
