//! Every VMDK variant that qemu-img writes reads as qemu-img reads it: alone, in chains, under any writes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use abbild::disk::{Disk, ExtentKind, conformance};
use abbild::formats::{self, Image, ImageError, OpenPolicy};
use abbild::units::{ByteLen, GuestOffset};
use proptest::prelude::*;

use crate::qemu;

#[track_caller]
pub fn open(path: &Path) -> Image {
    try_open(path).unwrap_or_else(|err| panic!("{err} ({err:?})"))
}

pub fn try_open(path: &Path) -> Result<Image, ImageError> {
    formats::open(path, &OpenPolicy::named_by_user(path)?)
}

/// Compares a disk with a file of the same content without holding either.
#[track_caller]
fn same_as_file(disk: &dyn Disk, path: &Path) {
    let file = File::open(path).unwrap();
    assert_eq!(disk.size().0, file.metadata().unwrap().len());
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < disk.size().0 {
        let len = usize::try_from(disk.size().0 - at).unwrap().min(1 << 20);
        disk.read_at(GuestOffset(at), &mut ours[..len]).unwrap();
        file.read_exact_at(&mut theirs[..len], at).unwrap();
        assert!(ours[..len] == theirs[..len], "differs in the MiB at {at}");
        at += len as u64;
    }
}

/// Writes that cross grains and tables, leave gaps, and touch the end of a disk of `size` bytes.
fn writes(size: u64) -> Vec<String> {
    let mut commands = vec![
        "write -P 1 0 512".to_string(),
        "write -P 2 60k 10k".to_string(),
        "write -P 3 1M 3M".to_string(),
        "write -P 4 33553920 1024".to_string(), // over the end of the first grain table
        "write -P 5 5M 64k".to_string(),
        "write -P 6 4544k 64k".to_string(), // stored behind its successor
    ];
    commands.push(format!("write -P 7 {} 512", size - 512));
    commands
}

/// Not a multiple of the grain.
const SIZE: u64 = (40 << 20) + 3 * 512;

#[test]
fn every_variant_reads_as_qemu_reads_it() {
    for variant in
        ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]
    {
        let dir = tempfile::tempdir().unwrap();
        qemu::img(dir.path(), &["create", "-q", "-f", "raw", "source.raw", &SIZE.to_string()]);
        qemu::write(dir.path(), "source.raw", "raw", &writes(SIZE));
        let option = format!("subformat={variant}");
        qemu::img(dir.path(), &["convert", "-O", "vmdk", "-o", &option, "source.raw", "disk.vmdk"]);
        let image = open(&dir.path().join("disk.vmdk"));
        let source = std::fs::read(dir.path().join("source.raw")).unwrap();
        conformance::check(&image.disk(), &source);
        let layer = &image.layers[0];
        assert_eq!((image.layers.len(), layer.variant.as_str()), (1, format!("vmdk {variant}").as_str()));
        assert_eq!(layer.files.len(), 1 + usize::from(variant.contains("Flat") || variant.contains("twoGb")));
        assert_eq!((layer.content_id.len(), &layer.parent_content_id), (8, &None));
        assert!(
            layer.properties.contains(&("ddb.adapterType".to_string(), "ide".to_string())),
            "{:?}",
            layer.properties
        );
        assert_eq!((layer.warnings.as_slice(), &layer.in_use), ([].as_slice(), &None));
        let gap = image.disk().extent_at(GuestOffset(10 << 20)).unwrap();
        assert_eq!(gap.kind, ExtentKind::Hole, "{variant}");
        assert!(gap.len >= ByteLen(20 << 20), "{variant}: {gap:?}");
    }
}

#[test]
fn a_disk_in_two_extents_is_read_across_their_border() {
    for variant in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("subformat={variant}");
        let size = (2u64 << 30) + (33 << 20) + 512;
        qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "-o", &option, "disk.vmdk", &size.to_string()]);
        let border = (2u64 << 30) - (100 << 10);
        let commands = [format!("write -P 9 {border} 200k"), format!("write -P 8 {} 512", size - 512)];
        qemu::write(dir.path(), "disk.vmdk", "vmdk", &commands);
        let image = open(&dir.path().join("disk.vmdk"));
        assert_eq!(image.layers[0].files.len(), 3, "{variant}");
        same_as_file(&image.disk(), &qemu::raw_copy(dir.path(), "disk.vmdk"));
    }
}

#[test]
fn a_compressed_stream_is_read_from_several_threads() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..8u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(dir.path().join("source.raw"), &noise).unwrap();
    let args = ["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "source.raw", "disk.vmdk"];
    qemu::img(dir.path(), &args);
    let disk = open(&dir.path().join("disk.vmdk")).disk();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (disk, noise) = (&disk, &noise);
            scope.spawn(move || {
                let mut buf = vec![0; 100_001];
                for round in 0..40 {
                    let at = (round * 977_777 + thread * 333_333) % (noise.len() - buf.len());
                    disk.read_at(GuestOffset(at as u64), &mut buf).unwrap();
                    assert!(buf == noise[at..at + buf.len()], "thread {thread}, round {round}");
                }
            });
        }
    });
}

#[test]
fn zeroed_grains_hide_the_parent_and_holes_do_not() {
    let dir = tempfile::tempdir().unwrap();
    qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "base.vmdk", "8M"]);
    qemu::write(dir.path(), "base.vmdk", "vmdk", &["write -P 1 0 8M".to_string()]);
    let args = ["create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk"];
    qemu::img(dir.path(), &args);
    let commands = ["write -z 1M 2M".to_string(), "write -P 2 2M 64k".to_string()];
    qemu::write(dir.path(), "child.vmdk", "vmdk", &commands);
    let image = open(&dir.path().join("child.vmdk"));
    conformance::check(&image.disk(), &qemu::content(dir.path(), "child.vmdk"));
    let of_child =
        |at| image.layers[0].disk.extent_at(GuestOffset(at)).map(|extent| (extent.kind, extent.len.0)).unwrap();
    assert_eq!(of_child(0), (ExtentKind::Hole, 1 << 20));
    assert_eq!(of_child(1 << 20), (ExtentKind::Zero, 1 << 20));
    assert_eq!(of_child(2 << 20), (ExtentKind::Data, 65536));
}

#[test]
fn a_chain_knows_its_levels_their_identities_and_their_changes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    qemu::img(folder, &["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "base.vmdk", "4M"]);
    qemu::write(folder, "base.vmdk", "vmdk", &["write -P 1 0 1M".to_string()]);
    for (child, parent, command) in
        [("one.vmdk", "base.vmdk", "write -P 2 64k 64k"), ("two.vmdk", "one.vmdk", "write -P 3 128k 128k")]
    {
        qemu::img(folder, &["create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", child]);
        qemu::write(folder, child, "vmdk", &[command.to_string()]);
    }
    let image = open(&folder.join("two.vmdk"));
    conformance::check(&image.disk(), &qemu::content(folder, "two.vmdk"));
    let names: Vec<_> = image.layers.iter().map(|layer| layer.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["two.vmdk", "one.vmdk", "base.vmdk"]);
    for pair in image.layers.windows(2) {
        assert_eq!(pair[0].parent_content_id.as_deref(), Some(pair[1].content_id.as_str()));
    }
    let changes = image.changes_of_upper(2).unwrap();
    let kinds: Vec<_> = (0..5).map(|i| changes.extent_at(GuestOffset(i << 16)).unwrap().kind).collect();
    assert_eq!(kinds, [ExtentKind::Hole, ExtentKind::Data, ExtentKind::Data, ExtentKind::Data, ExtentKind::Hole]);

    // A write into the middle changes its identity: the top was not made over what lies there now.
    qemu::write(folder, "one.vmdk", "vmdk", &["write -P 9 0 512".to_string()]);
    let err = try_open(&folder.join("two.vmdk")).err().unwrap();
    assert!(matches!(&err, ImageError::ParentMismatch { found, .. } if *found == image.layers[1].content_id), "{err}");
    let now = open(&folder.join("one.vmdk"));
    assert_ne!(now.layers[0].content_id, image.layers[1].content_id);
    assert_ne!(now.layers[0].files, image.layers[1].files, "a write shows in the state of the files");
}

#[test]
fn a_child_may_be_larger_or_smaller_than_its_parent() {
    for (parent_size, child_size) in [("1M", "3M"), ("3M", "1M")] {
        let dir = tempfile::tempdir().unwrap();
        qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "base.vmdk", parent_size]);
        qemu::write(dir.path(), "base.vmdk", "vmdk", &["write -P 1 0 1M".to_string()]);
        let args = ["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk", child_size];
        qemu::img(dir.path(), &args);
        qemu::write(dir.path(), "child.vmdk", "vmdk", &["write -P 2 960k 64k".to_string()]);
        let image = open(&dir.path().join("child.vmdk"));
        conformance::check(&image.disk(), &qemu::content(dir.path(), "child.vmdk"));
    }
}

#[test]
fn a_chain_copied_from_another_host_is_found_beside_its_child() {
    let dir = tempfile::tempdir().unwrap();
    qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "base.vmdk", "1M"]);
    qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk"]);
    for hint in ["/vmfs/volumes/5f12-ab/web/base.vmdk", "C:\\\\vm\\\\web\\\\base.vmdk".replace("\\\\", "\\").as_str()] {
        let moved = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("base.vmdk"), moved.path().join("base.vmdk")).unwrap();
        let bytes = std::fs::read(dir.path().join("child.vmdk")).unwrap();
        let bytes =
            replace_padded(&bytes, b"parentFileNameHint=\"base.vmdk\"", &format!("parentFileNameHint=\"{hint}\""));
        std::fs::write(moved.path().join("child.vmdk"), bytes).unwrap();
        let image = open(&moved.path().join("child.vmdk"));
        assert_eq!(image.layers.len(), 2);
        let warning = &image.layers[0].warnings[0];
        assert!(warning.contains(hint) && warning.contains("does not exist here"), "{warning}");
    }
}

/// Replaces a text in an embedded descriptor; what follows moves into the NUL padding.
pub fn replace_padded(bytes: &[u8], old: &[u8], new: &str) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("the text to replace");
    let end = at + bytes[at..].iter().position(|b| *b == 0).expect("padding");
    let mut text = new.as_bytes().to_vec();
    text.extend(&bytes[at + old.len()..end]);
    let mut replaced = bytes.to_vec();
    replaced[at..at + text.len()].copy_from_slice(&text);
    replaced
}

/// A write: level of the chain, sector, sectors, byte (0: zeros).
fn any_write() -> impl Strategy<Value = (usize, u64, u64, u8)> {
    (0..3usize, 0..4096u64, prop_oneof![1..9u64, 120..300u64], 0..4u8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_writes_onto_a_chain_of_three_read_equal(
        mut writes in proptest::collection::vec(any_write(), 1..20),
        flat_base in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let sectors = 4096 + 37;
        let base = if flat_base { "subformat=twoGbMaxExtentFlat" } else { "zeroed_grain=on" };
        qemu::img(folder, &["create", "-q", "-f", "vmdk", "-o", base, "0.vmdk", &(sectors * 512).to_string()]);
        writes.sort_by_key(|write| write.0);
        for level in 0..3 {
            let (name, parent) = (format!("{level}.vmdk"), format!("{}.vmdk", level.max(1) - 1));
            if level > 0 {
                let options = ["create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-b", &parent, "-F", "vmdk", &name];
                qemu::img(folder, &options);
            }
            let commands: Vec<String> = writes.iter().filter(|write| write.0 == level).map(|(_, at, len, byte)| {
                let len = (*len).min(sectors - at);
                match byte {
                    0 => format!("write -z {} {}", at * 512, len * 512),
                    byte => format!("write -P {byte} {} {}", at * 512, len * 512),
                }
            }).collect();
            if !commands.is_empty() {
                qemu::write(folder, &name, "vmdk", &commands);
            }
        }
        let image = open(&folder.join("2.vmdk"));
        conformance::check(&image.disk(), &qemu::content(folder, "2.vmdk"));
    }
}

/// Not run by itself: `cargo nextest run --release --run-ignored only sequential` prints both rates.
#[test]
#[ignore = "a measurement"]
fn sequential_reading_is_close_to_reading_the_file() {
    let dir = tempfile::tempdir().unwrap();
    qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "disk.vmdk", "2G"]);
    qemu::write(dir.path(), "disk.vmdk", "vmdk", &["write -P 5 0 2047M".to_string()]);
    let path = dir.path().join("disk.vmdk");
    let image = open(&path);
    let mut buf = vec![0; 4 << 20];
    for round in 0..3 {
        let start = Instant::now();
        let file = File::open(&path).unwrap();
        for at in (0..2047u64 << 20).step_by(buf.len()) {
            file.read_at(&mut buf, at).unwrap();
        }
        let plain = start.elapsed();
        let start = Instant::now();
        let disk = image.disk();
        for at in (0..2044u64 << 20).step_by(buf.len()) {
            disk.read_at(GuestOffset(at), &mut buf).unwrap();
        }
        let ours = start.elapsed();
        eprintln!("round {round}: pread {plain:?}, disk {ours:?}");
        if round == 2 {
            assert!(ours < plain * 3 / 2, "{ours:?} against {plain:?}");
        }
    }
}
