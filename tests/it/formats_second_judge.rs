//! A second judge: the libyal readers, which share nothing with QEMU nor with us, see the same content in what we write, and
//! in the differencing disks of our builders, which QEMU cannot read.

use std::path::{Path, PathBuf};
use std::process::Command;

use abbild::formats::sink::Overwrite;
use abbild::units::GuestOffset;
use sha2::{Digest, Sha256};

use crate::formats_gallery::{folder, level_name, rows};
use crate::formats_model::{Fill, Model, awkward};
use crate::formats_writers::{GRAIN, KINDS, Kind};

/// Size and SHA-256 of the disk, as libyal reads it; what it says if it cannot.
fn read(kind: &str, files: &[PathBuf]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/libyal.py");
    // Debian's modules belong to Debian's Python, whichever one comes first in the path.
    let output = Command::new("/usr/bin/python3").arg(script).arg(kind).args(files).output();
    let output = output.unwrap_or_else(|err| panic!("/usr/bin/python3 is needed by this test: {err}"));
    let said = String::from_utf8_lossy(&output.stderr);
    let packages = "python3-libvmdk, python3-libvhdi, python3-libqcow";
    assert!(!said.contains("ModuleNotFoundError"), "this test needs the packages {packages}: {said}");
    format!("{}{said}", String::from_utf8_lossy(&output.stdout)).trim().to_owned()
}

fn expected(size: u64, content: &[u8]) -> String {
    let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{size} {digest}")
}

#[test]
fn what_we_write_is_the_same_disk_to_libyal() {
    let model = awkward();
    let content = model.content();
    let mut judged = Vec::new();
    for kind in KINDS {
        let reader = match (kind, kind.driver()) {
            (Kind::Qcow2Compressed, _) => continue, // libqcow knows no zstd
            (_, "vmdk") => "vmdk",
            (_, "vpc" | "vhdx") => "vhd",
            (_, "qcow2") => "qcow2",
            _ => continue, // raw has no format, and nobody but QEMU and us reads VDI here
        };
        let scene = folder();
        let path = scene.path().join("disk");
        let sink = kind.create(&path, model.size, Overwrite::Refuse).unwrap();
        for (number, part) in content.chunks(GRAIN).enumerate() {
            sink.write_at(GuestOffset((number * GRAIN) as u64), part).unwrap();
        }
        let files = sink.finish().unwrap();
        assert_eq!(read(reader, &files[..1]), expected(model.size, &content), "{kind:?}");
        judged.push(kind);
    }
    for needed in [Kind::Sparse, Kind::Stream, Kind::Vhd, Kind::VhdFixed, Kind::Vhdx, Kind::Qcow2] {
        assert!(judged.contains(&needed), "{needed:?}");
    }
}

/// All in pieces of 4 KiB: libvhdi takes the eight sectors of a byte of a bitmap for one where the first of them is set.
#[test]
fn differencing_disks_are_the_same_disk_to_libyal() {
    use Fill::{Byte, Noise, Text, Zeros};
    let model = Model::new((5 << 20) + (12 << 10))
        .over([(0, 8, Text), (96, 904, Noise(1)), (2040, 16, Byte(7)), (3000, 2000, Text), (10_256, 8, Byte(9))])
        .over([(8, 8, Byte(2)), (512, 256, Zeros), (4096, 128, Zeros), (9000, 504, Text)])
        .over([(600, 16, Byte(3)), (4096, 8, Noise(4)), (10_256, 8, Noise(5))]);
    for name in ["vhd differencing", "vhdx differencing"] {
        let scene = folder();
        rows().into_iter().find(|row| row.name == name).unwrap().lay(scene.path(), &model);
        let levels: Vec<PathBuf> = (0..3).rev().map(|level| scene.path().join(level_name(level))).collect();
        assert_eq!(read("vhd", &levels), expected(model.size, &model.content()), "{name}");
    }
}
