//! What only the qcow2 writers have: refcounts in several blocks, disks of any size. The rest of what they must do is in
//! `formats_writers`, with all other formats.

use std::fs;
use std::os::unix::fs::MetadataExt;

use abbild::disk::Disk;
use abbild::formats::sink::{Overwrite, TargetError};
use abbild::formats::{self, ImageError, OpenPolicy};
use abbild::units::GuestOffset;

use crate::formats_writers::{GRAIN, Kind, MIB, judge, noise, run, text};

#[test]
fn large_qcow2_images_are_cheap_and_larger_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    for kind in [Kind::Qcow2, Kind::Qcow2Compressed] {
        let path = dir.path().join(format!("{kind:?}.qcow2"));
        let size = 60 * 1024 * 1024 * MIB;
        let sink = kind.create(&path, size, Overwrite::Refuse).unwrap();
        sink.write_at(GuestOffset(0), &noise(1, GRAIN)).unwrap();
        sink.write_at(GuestOffset(size / 2), &[7; GRAIN]).unwrap();
        sink.write_at(GuestOffset(size - GRAIN as u64), &noise(2, GRAIN)).unwrap();
        sink.finish().unwrap();
        run("qemu-img", &["check", "-f", "qcow2", text(&path)]);
        let image = formats::open(&path, &OpenPolicy::named_by_user(&path).unwrap()).unwrap();
        let mut seen = vec![0; GRAIN];
        for (at, expected) in [(0, noise(1, GRAIN)), (size / 2, vec![7; GRAIN]), (size - GRAIN as u64, noise(2, GRAIN))]
        {
            image.disk().read_at(GuestOffset(at), &mut seen).unwrap();
            assert!(seen == expected, "{kind:?} at {at}");
        }
        let allocated = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(allocated < 2 * MIB, "{kind:?}: {allocated}");
        for bad in [(2 << 50) + 512, 513, u64::MAX] {
            let error = kind.create(&dir.path().join("no"), bad, Overwrite::Refuse).map(|_| ()).unwrap_err();
            assert!(matches!(error, ImageError::Target(TargetError::DiskSize { .. })), "{error}");
        }
        let empty = dir.path().join("empty");
        kind.create(&empty, 0, Overwrite::Replace).unwrap().finish().unwrap();
        judge(kind, &empty, &[]);
    }
}

/// Not run by itself: `cargo nextest run --run-ignored only refcount_blocks`.
#[test]
#[ignore = "writes 5 GiB"]
fn several_refcount_blocks_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    for kind in [Kind::Qcow2, Kind::Qcow2Compressed] {
        let path = dir.path().join("disk.qcow2");
        let size = 4700 * MIB;
        let sink = kind.create(&path, size, Overwrite::Refuse).unwrap();
        // Eight parts noise, eight that compress to three quarters.
        let mut part = noise(7, 1 << 20);
        for cluster in part.chunks_mut(GRAIN).step_by(2) {
            cluster[..GRAIN / 4].fill(7);
        }
        for at in (0..size).step_by(1 << 20) {
            part[..8].copy_from_slice(&(at + 1).to_le_bytes());
            sink.write_at(GuestOffset(at), &part).unwrap();
        }
        sink.finish().unwrap();
        run("qemu-img", &["check", "-f", "qcow2", text(&path)]);
        let disk = formats::open(&path, &OpenPolicy::named_by_user(&path).unwrap()).unwrap().disk();
        let mut seen = vec![0; 1 << 20];
        for at in (0..size).step_by(1 << 20) {
            part[..8].copy_from_slice(&(at + 1).to_le_bytes());
            disk.read_at(GuestOffset(at), &mut seen).unwrap();
            assert!(seen == part, "{kind:?} at {at}");
        }
        fs::remove_file(&path).unwrap();
    }
}
