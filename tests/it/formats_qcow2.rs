//! Every qcow2 variant that qemu-img makes reads as qemu-img reads it: alone, in chains of any formats, in the state of
//! internal snapshots, under any writes and discards.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use abbild::disk::{Disk, ExtentKind, conformance};
use abbild::formats::qcow2::{Selector, list_snapshots, open_snapshot};
use abbild::formats::{ImageError, OpenPolicy, inspect};
use abbild::units::{ByteLen, GuestOffset};
use proptest::prelude::*;

use crate::formats_vmdk::{open, try_open};
use crate::qemu;

/// Not a multiple of any cluster.
const SIZE: u64 = (40 << 20) + 3 * 512;

fn create(folder: &Path, name: &str, options: &str, size: u64) {
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    let size = size.to_string();
    args.extend([name, &size]);
    qemu::img(folder, &args);
}

/// Writes that cross clusters and tables, leave gaps, zero, discard, and touch the end of a disk of `size` bytes.
fn writes(size: u64, with_compressed: bool) -> Vec<String> {
    let mut commands = vec![
        "write -P 1 0 512".to_string(),
        "write -P 2 60k 10k".to_string(),
        "write -P 3 1M 3M".to_string(),
        "write -P 4 33553920 1024".to_string(),
        "write -P 5 5M 64k".to_string(),
        "write -P 6 4544k 64k".to_string(), // stored behind its successor
        "write -z 1536k 512k".to_string(),
        "write -z -u 2M 100k".to_string(),
        "discard 3M 512k".to_string(),
    ];
    if with_compressed {
        commands.push("write -c -P 9 8M 4M".to_string());
        commands.push("write -P 8 9M 3k".to_string()); // into a compressed cluster
        commands.push("write -c -P 10 20M 2M".to_string());
    }
    commands.push(format!("write -P 7 {} 512", size - 512));
    commands
}

#[test]
fn every_variant_reads_as_qemu_reads_it() {
    for (options, variant) in [
        ("compat=0.10", "qcow2 v2"),
        ("compat=0.10,cluster_size=512", "qcow2 v2"),
        ("", "qcow2 v3"),
        ("cluster_size=512", "qcow2 v3"),
        ("cluster_size=1k", "qcow2 v3"),
        ("cluster_size=4k", "qcow2 v3"),
        ("cluster_size=2M", "qcow2 v3"),
        ("refcount_bits=1", "qcow2 v3"),
        ("refcount_bits=64,lazy_refcounts=on", "qcow2 v3"),
        ("preallocation=metadata", "qcow2 v3"),
        ("preallocation=full,cluster_size=512", "qcow2 v3"),
        ("extended_l2=on", "qcow2 v3 extended-l2"),
        ("extended_l2=on,cluster_size=16k", "qcow2 v3 extended-l2"),
        ("extended_l2=on,cluster_size=2M,preallocation=metadata", "qcow2 v3 extended-l2"),
        ("compression_type=zstd", "qcow2 v3 zstd"),
        ("compression_type=zstd,cluster_size=512", "qcow2 v3 zstd"),
        ("compression_type=zstd,extended_l2=on,cluster_size=2M", "qcow2 v3 zstd extended-l2"),
        ("data_file=data.bin", "qcow2 v3 data-file"),
        ("data_file=data.bin,data_file_raw=on", "qcow2 v3 data-file"),
        ("data_file=data.bin,extended_l2=on", "qcow2 v3 extended-l2 data-file"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), "disk.qcow2", options, SIZE);
        // QEMU compresses nothing beside a data file, over what is allocated, or with refcounts of one bit.
        let is_refused = ["data_file", "refcount_bits=1", "preallocation"].iter().any(|word| options.contains(word));
        qemu::write(dir.path(), "disk.qcow2", "qcow2", &writes(SIZE, !is_refused));
        let image = open(&dir.path().join("disk.qcow2"));
        conformance::check(&image.disk(), &qemu::qcow2_content(dir.path(), "disk.qcow2", &[]));
        let layer = &image.layers[0];
        assert_eq!((image.layers.len(), layer.variant.as_str()), (1, variant), "{options}");
        assert_eq!(layer.files.len(), 1 + usize::from(options.contains("data_file")), "{options}");
        assert_eq!((layer.content_id.as_str(), &layer.parent_content_id), ("", &None));
        assert_eq!((layer.warnings.as_slice(), &layer.in_use), ([].as_slice(), &None), "{options}");
        if !options.contains("preallocation") && !options.contains("data_file_raw") {
            let gap = image.disk().extent_at(GuestOffset(24 << 20)).unwrap();
            assert_eq!(gap.kind, ExtentKind::Hole, "{options}");
        }
    }
}

/// Data that does not compress, data that does, and holes.
fn mixed(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut bytes = vec![0; len];
    for (number, part) in bytes.chunks_mut(100_000).enumerate() {
        match number % 4 {
            0 => part.fill_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            }),
            1 => part.iter_mut().zip(0u32..).for_each(|(byte, n)| *byte = (n.wrapping_mul(n) >> 9) as u8),
            2 => part.fill(b'a'),
            _ => {}
        }
    }
    bytes
}

#[test]
fn compressed_images_read_as_their_source() {
    let source = mixed((9 << 20) + 512 * 5);
    for options in ["compression_type=zlib", "compression_type=zstd"] {
        for cluster in ["512", "4k", "64k", "2M"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("source.raw"), &source).unwrap();
            let options = format!("{options},cluster_size={cluster}");
            qemu::img(dir.path(), &["convert", "-c", "-O", "qcow2", "-o", &options, "source.raw", "disk.qcow2"]);
            conformance::check(&open(&dir.path().join("disk.qcow2")).disk(), &source);
        }
    }
}

#[test]
fn empty_and_full_images() {
    let dir = tempfile::tempdir().unwrap();
    for size in [0u64, 512, 65536, 65536 + 512] {
        create(dir.path(), "disk.qcow2", "", size);
        conformance::check(&open(&dir.path().join("disk.qcow2")).disk(), &vec![0; size as usize]);
        if size > 0 {
            qemu::write(dir.path(), "disk.qcow2", "qcow2", &[format!("write -P 5 0 {size}")]);
            conformance::check(&open(&dir.path().join("disk.qcow2")).disk(), &vec![5; size as usize]);
        }
    }
}

#[test]
fn disks_beyond_two_tebibytes_are_cheap_to_walk() {
    for options in ["", "extended_l2=on", "cluster_size=2M"] {
        let dir = tempfile::tempdir().unwrap();
        let size = 60u64 << 40;
        create(dir.path(), "disk.qcow2", options, size);
        let places = [0, 3 << 40, (5 << 40) + (1 << 30), size - (2 << 20)];
        let commands: Vec<_> = places.iter().map(|at| format!("write -P 7 {at} 2M")).collect();
        qemu::write(dir.path(), "disk.qcow2", "qcow2", &commands);
        let disk = open(&dir.path().join("disk.qcow2")).disk();
        let (mut at, mut seen, mut asked) = (0, Vec::new(), 0);
        while at < size {
            let extent = disk.extent_at(GuestOffset(at)).unwrap();
            if extent.kind == ExtentKind::Data {
                seen.push((at, extent.len.0));
                let mut buf = vec![0; 2 << 20];
                disk.read_at(GuestOffset(at), &mut buf).unwrap();
                assert!(buf.iter().all(|b| *b == 7));
            }
            at += extent.len.0;
            asked += 1;
        }
        assert_eq!(seen, places.map(|at| (at, 2 << 20)));
        assert!(asked < 3000, "{options}: {asked} questions");
    }
}

#[test]
fn kinds_of_nothing_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "base.qcow2", "", 8 << 20);
    qemu::write(dir.path(), "base.qcow2", "qcow2", &["write -P 1 0 8M".to_string()]);
    let args = ["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"];
    qemu::img(dir.path(), &args);
    let commands = ["write -z 1M 2M", "write -P 2 3M 64k", "write -P 3 4M 2k", "write -z 4100k 2k"];
    qemu::write(dir.path(), "top.qcow2", "qcow2", &commands.map(str::to_string));
    let image = open(&dir.path().join("top.qcow2"));
    conformance::check(&image.disk(), &qemu::qcow2_content(dir.path(), "top.qcow2", &[]));
    let of_top =
        |at| image.layers[0].disk.extent_at(GuestOffset(at)).map(|extent| (extent.kind, extent.len.0)).unwrap();
    assert_eq!(of_top(0), (ExtentKind::Hole, 1 << 20));
    assert_eq!(of_top(1 << 20), (ExtentKind::Zero, 2 << 20));
    assert_eq!(of_top(3 << 20), (ExtentKind::Data, 65536));
    assert_eq!(of_top(4 << 20), (ExtentKind::Data, 2048));
    assert_eq!(of_top((4 << 20) + 2048), (ExtentKind::Hole, 2048));
    assert_eq!(of_top((4 << 20) + 4096), (ExtentKind::Zero, 2048));
}

#[test]
fn overlays_lie_over_any_format() {
    for (format, options) in [
        ("raw", ""),
        ("qcow2", "compression_type=zstd"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let base = format!("base.{format}");
        let mut args = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([&base, "8M"]);
        qemu::img(dir.path(), &args);
        qemu::write(dir.path(), &base, format, &["write -P 1 0 5M".to_string()]);
        qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", &base, "-F", format, "one.qcow2"]);
        qemu::write(
            dir.path(),
            "one.qcow2",
            "qcow2",
            &["write -P 2 1M 1M".to_string(), "write -z 2M 512k".to_string()],
        );
        qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", "one.qcow2", "-F", "qcow2", "two.qcow2", "12M"]);
        qemu::write(dir.path(), "two.qcow2", "qcow2", &["write -P 3 1536k 64k".to_string()]);
        let image = open(&dir.path().join("two.qcow2"));
        conformance::check(&image.disk(), &qemu::qcow2_content(dir.path(), "two.qcow2", &[]));
        let formats: Vec<_> = image.layers.iter().map(|layer| layer.variant.split(' ').next().unwrap()).collect();
        assert_eq!(formats, ["qcow2", "qcow2", format]);
        assert!(image.layers.iter().all(|layer| layer.warnings.is_empty() && layer.in_use.is_none()));
        let changes = image.changes_of_upper(2).unwrap();
        assert_eq!(changes.extent_at(GuestOffset(0)).unwrap().len, ByteLen(1 << 20));
        assert_eq!(changes.extent_at(GuestOffset(1 << 20)).unwrap().kind, ExtentKind::Data);
        let report = inspect(&dir.path().join("two.qcow2"), &policy(&dir.path().join("two.qcow2")));
        assert_eq!((report.faults, report.layers.len()), (Vec::new(), 3));
        assert_eq!((report.format.as_deref(), report.virtual_size), (Some("qcow2"), Some(ByteLen(12 << 20))));
    }
}

fn policy(path: &Path) -> OpenPolicy {
    OpenPolicy::named_by_user(path).unwrap()
}

#[test]
fn an_overlay_may_be_smaller_than_its_base() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "base.qcow2", "", 3 << 20);
    qemu::write(dir.path(), "base.qcow2", "qcow2", &["write -P 1 0 3M".to_string()]);
    qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "1049088"]);
    qemu::write(dir.path(), "top.qcow2", "qcow2", &["write -P 2 1M 512".to_string()]);
    let image = open(&dir.path().join("top.qcow2"));
    conformance::check(&image.disk(), &qemu::qcow2_content(dir.path(), "top.qcow2", &[]));
}

#[test]
fn a_base_without_a_stated_format_is_taken_only_if_it_shows_one() {
    let dir = tempfile::tempdir().unwrap();
    // qemu-img no longer makes overlays without a format: take the extension out of one that has it.
    let overlay = |base: &str, format: &str| {
        qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", base, "-F", format, "top.qcow2"]);
        let mut bytes = fs::read(dir.path().join("top.qcow2")).unwrap();
        let at = bytes.windows(4).position(|window| window == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
        bytes[at..at + 4].fill(0xee);
        fs::write(dir.path().join("top.qcow2"), bytes).unwrap();
        try_open(&dir.path().join("top.qcow2"))
    };
    create(dir.path(), "base.qcow2", "", 1 << 20);
    let image = overlay("base.qcow2", "qcow2").unwrap();
    assert!(
        image.layers[0].warnings[0].contains("is taken as qcow2, by its content"),
        "{:?}",
        image.layers[0].warnings
    );
    fs::write(dir.path().join("base.img"), [1; 1 << 20]).unwrap();
    let err = overlay("base.img", "raw").err().unwrap();
    assert!(err.to_string().contains("a raw backing file whose overlay does not say that it is raw"), "{err}");
}

/// The hole that a guest would dig: a raw disk whose first bytes are an image that names a secret.
#[test]
fn a_raw_base_stays_raw_whatever_the_guest_wrote_into_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), [0x53; 4096]).unwrap();
    qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", "secret", "-F", "raw", "evil.qcow2"]);
    fs::copy(dir.path().join("evil.qcow2"), dir.path().join("base.img")).unwrap();
    qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", "top.qcow2"]);
    let image = open(&dir.path().join("top.qcow2"));
    assert_eq!(image.layers.iter().map(|layer| layer.variant.as_str()).collect::<Vec<_>>(), ["qcow2 v3", "raw"]);
    conformance::check(&image.disk(), &qemu::qcow2_content(dir.path(), "top.qcow2", &[]));
}

#[test]
fn internal_snapshots_open_by_id_and_name() {
    for options in ["compat=0.10", "", "extended_l2=on", "cluster_size=512"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.qcow2");
        create(dir.path(), "disk.qcow2", options, 4 << 20);
        let mut expected = Vec::new();
        for (name, command) in [("clean", "write -P 1 0 2M"), ("later", "write -P 2 1M 64k"), ("2", "discard 0 64k")] {
            qemu::write(dir.path(), "disk.qcow2", "qcow2", &[command.to_string()]);
            qemu::img(dir.path(), &["snapshot", "-c", name, "disk.qcow2"]);
            // With another size than the active state's, qemu-img would give the snapshot that size.
            let option = format!("snapshot.name={name}");
            expected.push((name, qemu::qcow2_content(dir.path(), "disk.qcow2", &["-l", &option])));
            if name == "later" && options != "compat=0.10" {
                qemu::img(dir.path(), &["resize", "-q", "disk.qcow2", "6M"]);
            }
        }
        qemu::write(dir.path(), "disk.qcow2", "qcow2", &["write -P 9 0 4M".to_string()]);

        let listed = list_snapshots(&path, &policy(&path)).unwrap();
        let of_listed: Vec<_> = listed.iter().map(|s| (s.id.as_str(), s.name.as_str(), s.disk_size.0)).collect();
        let last_size = if options == "compat=0.10" { 4 << 20 } else { 6 << 20 };
        assert_eq!(of_listed, [("1", "clean", 4 << 20), ("2", "later", 4 << 20), ("3", "2", last_size)]);
        assert!(listed.iter().all(|s| s.machine_state.0 == 0 && s.made_at > 1_700_000_000));
        for (snapshot, (name, content)) in listed.iter().zip(&expected) {
            for selector in [Selector::Id(&snapshot.id), Selector::Name(name)] {
                let image = open_snapshot(&path, selector, &policy(&path)).unwrap();
                conformance::check(&image.disk(), content);
            }
        }
        let active = open(&path);
        conformance::check(&active.disk(), &qemu::qcow2_content(dir.path(), "disk.qcow2", &[]));
        assert_eq!(
            active.layers[0].notes,
            ["it holds 3 internal snapshots, which are not part of this: clean, later, 2"]
        );
        let err = open_snapshot(&path, Selector::Name("gone"), &policy(&path)).err().unwrap();
        assert!(matches!(&err, ImageError::Missing { role: "internal snapshot", .. }), "{err}");
        qemu::img(dir.path(), &["snapshot", "-c", "clean", "disk.qcow2"]);
        let err = open_snapshot(&path, Selector::Name("clean"), &policy(&path)).err().unwrap();
        assert!(err.to_string().contains("choosing among 2 internal snapshots called clean"), "{err}");
    }
}

#[test]
fn bitmaps_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "disk.qcow2", "", 4 << 20);
    for args in [&["bitmap", "--add", "disk.qcow2", "daily"][..], &["bitmap", "--add", "-g", "4k", "disk.qcow2", "b"]] {
        qemu::img(dir.path(), args);
    }
    let layer = &open(&dir.path().join("disk.qcow2")).layers[0];
    let expected = [("qcow2.bitmap.daily", "granularity 2^16, sound"), ("qcow2.bitmap.b", "granularity 2^12, sound")];
    assert_eq!(layer.properties, expected.map(|(name, value)| (name.to_string(), value.to_string())));
    assert_eq!(layer.warnings, Vec::<String>::new());
}

#[test]
fn a_writing_qemu_is_seen_and_a_reading_one_is_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "base.qcow2", "", 1 << 20);
    for (top, options) in [("top.qcow2", ""), ("other.qcow2", "data_file=data.bin")] {
        if options.is_empty() {
            qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", top]);
        } else {
            create(dir.path(), top, options, 1 << 20);
        }
        let mut qemu = Command::new("qemu-io");
        qemu.current_dir(dir.path()).args(["-f", "qcow2", top]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut qemu = qemu.spawn().unwrap_or_else(|e| panic!("this test needs the program qemu-io: {e}"));
        // It answers only when it has the images open, and then waits for the next command.
        qemu.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        assert!(qemu.stdout.as_mut().unwrap().read(&mut [0; 64]).unwrap() > 0);
        let held = open(&dir.path().join(top));
        drop(qemu.stdin.take());
        qemu.wait().unwrap();
        let sign = held.layers[0].in_use.as_deref().unwrap();
        assert!(sign.contains("a running QEMU has") && sign.contains(top), "{sign}");
        assert!(held.layers[1..].iter().all(|layer| layer.in_use.is_none()), "the base is only read");
        assert_eq!(open(&dir.path().join(top)).layers[0].in_use, None, "closed again");
    }
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Unmap(u64, u64),
    Discard(u64, u64),
    Compressed(u64, u8),
}

impl Step {
    /// As a qemu-io command on a disk of `sectors`.
    fn command(&self, sectors: u64) -> String {
        let clip = |at: u64, len: u64| (at * 512, len.min(sectors - at) * 512);
        match *self {
            Step::Write(at, len, byte) => format!("write -P {byte} {} {}", clip(at, len).0, clip(at, len).1),
            Step::Zero(at, len) => format!("write -z {} {}", clip(at, len).0, clip(at, len).1),
            Step::Unmap(at, len) => format!("write -z -u {} {}", clip(at, len).0, clip(at, len).1),
            Step::Discard(at, len) => format!("discard {} {}", clip(at, len).0, clip(at, len).1),
            Step::Compressed(cluster, byte) => format!("write -c -P {byte} {} 64k", cluster * 65536),
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let place = || (0..8192u64, prop_oneof![1..9u64, 120..300u64, 1000..3000u64]);
    prop_oneof![
        3 => (place(), 1..255u8).prop_map(|((at, len), byte)| Step::Write(at, len, byte)),
        1 => place().prop_map(|(at, len)| Step::Zero(at, len)),
        1 => place().prop_map(|(at, len)| Step::Unmap(at, len)),
        1 => place().prop_map(|(at, len)| Step::Discard(at, len)),
        1 => (0..60u64, 1..255u8).prop_map(|(cluster, byte)| Step::Compressed(cluster, byte)),
    ]
}

fn any_options() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "compat=0.10",
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=4k",
        "extended_l2=on",
        "extended_l2=on,cluster_size=16k",
        "compression_type=zstd",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_a_chain_of_three_reads_equal(
        steps in proptest::collection::vec((0..3usize, any_step()), 1..24),
        options in proptest::collection::vec(any_options(), 3),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let sectors = 8192 + 37;
        for (level, options) in options.iter().enumerate() {
            let (name, parent) = (format!("{level}.qcow2"), format!("{}.qcow2", level.max(1) - 1));
            let size = (sectors * 512).to_string();
            let mut args = vec!["create", "-q", "-f", "qcow2", "-o", options];
            if level > 0 {
                args.extend(["-b", &parent, "-F", "qcow2"]);
            }
            args.extend([&name[..], &size]);
            qemu::img(folder, &args);
            let of_level = steps.iter().filter(|(of, _)| *of == level).map(|(_, step)| step);
            // QEMU compresses only what is not stored yet: such steps go first, once for each cluster.
            let (first, then): (Vec<_>, Vec<_>) = of_level.partition(|step| matches!(step, Step::Compressed(..)));
            let mut taken = HashSet::new();
            let first = first.into_iter().filter(|step| match step {
                Step::Compressed(cluster, _) => taken.insert(*cluster),
                _ => true,
            });
            let commands: Vec<_> = first.chain(then).map(|step| step.command(sectors)).collect();
            if !commands.is_empty() {
                qemu::write(folder, &name, "qcow2", &commands);
            }
        }
        let image = open(&folder.join("2.qcow2"));
        conformance::check(&image.disk(), &qemu::qcow2_content(folder, "2.qcow2", &[]));
    }
}

/// Not run by itself: `cargo nextest run --release --run-ignored only qcow2_reading` prints the rates.
#[test]
#[ignore = "a measurement"]
fn qcow2_reading_is_close_to_reading_the_file() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "disk.qcow2", "", 2 << 30);
    qemu::write(dir.path(), "disk.qcow2", "qcow2", &["write -P 5 0 2047M".to_string()]);
    let path = dir.path().join("disk.qcow2");
    let mut buf = vec![0; 4 << 20];
    for round in 0..3 {
        let start = Instant::now();
        let file = fs::File::open(&path).unwrap();
        for at in (0..2044u64 << 20).step_by(buf.len()) {
            file.read_at(&mut buf, at).unwrap();
        }
        let plain = start.elapsed();
        let start = Instant::now();
        let disk = open(&path).disk();
        for at in (0..2044u64 << 20).step_by(buf.len()) {
            disk.read_at(GuestOffset(at), &mut buf).unwrap();
        }
        let ours = start.elapsed();
        eprintln!("round {round}: pread {plain:?}, disk {ours:?}");
        assert!(round < 2 || ours < plain * 3 / 2, "{ours:?} against {plain:?}");
    }
}
