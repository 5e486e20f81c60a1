//! Inspecting an image: all that can be known about it, sound or broken.

use std::ops::ControlFlow;
use std::path::Path;

use abbild::formats::inspect::{MapEntry, MapKind, map};
use abbild::formats::{Inspection, OpenPolicy, inspect};
use abbild::units::{ByteLen, GuestOffset};

use crate::formats_vmdk::open;
use crate::qemu;

fn look(path: &Path) -> Inspection {
    inspect(path, &OpenPolicy::named_by_user(path).unwrap())
}

/// base ← one ← two, each with a MiB of its own.
fn chain(folder: &Path) {
    qemu::img(folder, &["create", "-q", "-f", "vmdk", "base.vmdk", "8M"]);
    qemu::write(folder, "base.vmdk", "vmdk", &["write -P 1 0 1M".to_string()]);
    for (child, parent, command) in
        [("one.vmdk", "base.vmdk", "write -P 2 1M 1M"), ("two.vmdk", "one.vmdk", "write -z 512k 512k")]
    {
        let options = ["create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-b", parent, "-F", "vmdk", child];
        qemu::img(folder, &options);
        qemu::write(folder, child, "vmdk", &[command.to_string()]);
    }
}

#[test]
fn a_sound_chain_is_described() {
    let dir = tempfile::tempdir().unwrap();
    chain(dir.path());
    let report = look(&dir.path().join("two.vmdk"));
    assert_eq!(report.faults, Vec::<String>::new());
    assert_eq!((report.format.as_deref(), report.variant.as_deref()), (Some("vmdk"), Some("vmdk monolithicSparse")));
    assert_eq!(report.virtual_size, Some(ByteLen(8 << 20)));
    assert!((2 << 20..4 << 20).contains(&report.allocated_bytes), "{}", report.allocated_bytes);
    let sums: Vec<_> = report.layers.iter().map(|layer| (layer.data_bytes, layer.zero_bytes)).collect();
    assert_eq!(sums, [(0, 512 << 10), (1 << 20, 0), (1 << 20, 0)]);
    assert!(report.layers.iter().all(|layer| layer.data_bytes + layer.zero_bytes + layer.hole_bytes == 8 << 20));
    assert_eq!(report.layers[0].parent_content_id, report.layers[1].content_id);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["virtual_size"], 8 << 20);
    assert_eq!(json["layers"][2]["variant"], "vmdk monolithicSparse");
    assert_eq!(json["layers"][0]["files"][0]["len"], report.layers[0].files[0].len);
}

#[test]
fn the_map_names_the_layer_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    chain(dir.path());
    let image = open(&dir.path().join("two.vmdk"));
    let mut entries = Vec::new();
    map(&image, |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })
    .unwrap();
    let entry = |start: u64, len: u64, kind, layer| MapEntry {
        start: GuestOffset(start << 10),
        len: ByteLen(len << 10),
        kind,
        layer,
    };
    let expected = [
        entry(0, 512, MapKind::Data, Some(2)),
        entry(512, 512, MapKind::Zero, Some(0)),
        entry(1024, 1024, MapKind::Data, Some(1)),
        entry(2048, 6144, MapKind::Hole, None),
    ];
    assert_eq!(entries, expected);
    let mut count = 0;
    map(&image, |_| {
        count += 1;
        if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(count, 2);
}

#[test]
fn a_broken_chain_is_described_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    chain(dir.path());
    let names = |report: &Inspection| -> Vec<String> {
        report.layers.iter().map(|layer| layer.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    // Written after the snapshot: all levels are shown, and what does not fit.
    qemu::write(dir.path(), "one.vmdk", "vmdk", &["write -P 9 0 512".to_string()]);
    let report = look(&dir.path().join("two.vmdk"));
    assert_eq!(names(&report), ["two.vmdk", "one.vmdk", "base.vmdk"]);
    assert_eq!(report.faults.len(), 1);
    assert!(report.faults[0].contains("parent identity: expected"), "{:?}", report.faults);
    // The base is gone as well.
    std::fs::remove_file(dir.path().join("base.vmdk")).unwrap();
    let report = look(&dir.path().join("two.vmdk"));
    assert_eq!(names(&report), ["two.vmdk", "one.vmdk"]);
    assert!(report.faults[1].contains("base.vmdk is missing"), "{:?}", report.faults);
}

#[test]
fn a_grain_past_the_end_is_found_without_reading_data() {
    let dir = tempfile::tempdir().unwrap();
    chain(dir.path());
    let path = dir.path().join("base.vmdk");
    let len = std::fs::metadata(&path).unwrap().len();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
    let report = look(&path);
    assert_eq!(report.layers.len(), 1);
    assert!(report.faults[0].contains("a truncated image"), "{:?}", report.faults);
    assert_eq!(report.layers[0].data_bytes, (1 << 20) - 65536);
}

#[test]
fn what_cannot_be_opened_is_a_fault_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(&path, "ENCRYPTED VMDK".repeat(100)).unwrap();
    let report = look(&path);
    assert_eq!((report.layers.len(), &report.format), (0, &None));
    assert!(report.faults[0].ends_with("disk.vmdk: an encrypted VMDK is not supported"), "{:?}", report.faults);
    let policy = OpenPolicy::named_by_user(&path).unwrap();
    let report = inspect(&dir.path().join("gone.vmdk"), &policy);
    assert!(
        report.faults[0].contains("cannot read") && report.faults[0].contains("No such file"),
        "{:?}",
        report.faults
    );
}
