//! What VHD, VHDX and VDI written by us have to stand beyond being equal: use by others, and their largest sizes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use abbild::disk::Disk;
use abbild::formats::sink::{Overwrite, TargetError};
use abbild::formats::{self, ImageError, OpenPolicy};
use abbild::units::{ByteLen, GuestOffset};

use crate::formats_writers::{GRAIN, Kind, MIB, judge, noise, run, text, written};

/// A restored disk is there to be used: a hypervisor adds blocks to it, and changes those that are there.
#[test]
fn images_go_on_being_written_by_others() {
    let mut content = noise(1, 40 << 20);
    content[9 << 20..31 << 20].fill(0);
    let dir = tempfile::tempdir().unwrap();
    for kind in [Kind::Sparse, Kind::Vhd, Kind::VhdFixed, Kind::Vhdx, Kind::Vdi] {
        for empty in [false, true] {
            let mut content = if empty { vec![0; 40 << 20] } else { content.clone() };
            let path = dir.path().join(format!("{kind:?}-{empty}"));
            written(kind, &path, &content, 64, true);
            let write = |command: &str| run("qemu-io", &["-f", kind.driver(), "-c", command, text(&path)]);
            write("write -P 7 20M 3M");
            write("write -P 8 1000k 100k");
            content[20 << 20..23 << 20].fill(7);
            content[1000 << 10..1100 << 10].fill(8);
            judge(kind, &path, &content);
        }
    }
}

/// The limits of each format, and one step beyond; the largest disks are as cheap as others, for their tables are holes.
#[test]
fn the_largest_disks_of_blocked_formats_work_and_larger_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = [(Kind::Vhd, 2040 << 30), (Kind::VhdFixed, 2040 << 30), (Kind::Vhdx, 64 << 40), (Kind::Vdi, 64 << 40)];
    for (kind, limit) in limits {
        // The map of a 64 TiB VDI would have 256 MiB that are no hole.
        let size: u64 = if kind == Kind::Vdi { 3 << 40 } else { limit };
        let path = dir.path().join(format!("{kind:?}"));
        let sink = kind.create(&path, size, Overwrite::Refuse).unwrap();
        sink.write_at(GuestOffset(0), &noise(1, GRAIN)).unwrap();
        sink.write_at(GuestOffset(size - GRAIN as u64), &noise(2, GRAIN)).unwrap();
        sink.finish().unwrap();
        let ours = formats::open(&path, &OpenPolicy::named_by_user(&path).unwrap()).unwrap();
        assert_eq!(ours.size(), ByteLen(size));
        let mut tail = vec![0; 2 * GRAIN];
        ours.disk().read_at(GuestOffset(size - tail.len() as u64), &mut tail).unwrap();
        assert!(tail == [vec![0; GRAIN], noise(2, GRAIN)].concat(), "{kind:?}");
        let judged = dir.path().join("tail");
        let skip = format!("skip={}", size / GRAIN as u64 - 2);
        let (from, to) = (format!("if={}", text(&path)), format!("of={}", text(&judged)));
        run("qemu-img", &["dd", "-f", kind.driver(), "-O", "raw", "bs=65536", &skip, &from, &to]);
        assert!(fs::read(&judged).unwrap() == tail, "{kind:?}");
        let allocated = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(allocated < 16 * MIB, "{kind:?}: {allocated}");
        for bad in [limit + 512, 0, 513, u64::MAX] {
            let error = kind.create(&dir.path().join("no"), bad, Overwrite::Refuse).map(|_| ()).unwrap_err();
            assert!(matches!(error, ImageError::Target(TargetError::DiskSize { .. })), "{error}");
            assert!(error.to_string().ends_with(&format!("found {bad} bytes")), "{error}");
        }
    }
}
