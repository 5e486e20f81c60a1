//! A disk written into each format is the same disk to `qemu-img`; targets that will not do are refused by name.
//!
//! Needs `qemu-img` and `qemu-io`; the stories about devices and full filesystems need root (mount, loop devices).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use abbild::disk::{Disk, conformance};
use abbild::formats::qcow2::writer::{create_compressed, create_plain};
use abbild::formats::raw::writer::{create_file, open_device, open_in_place};
use abbild::formats::sink::{DiskSink, Overwrite, TargetError, WriteOrder};
use abbild::formats::vmdk::writer::{create_flat, create_sparse, create_split, create_stream};
use abbild::formats::{self, ImageError, OpenPolicy, vdi, vhd, vhdx};
use abbild::units::{ByteLen, GuestOffset};
use proptest::prelude::*;

pub const GRAIN: usize = 64 << 10;
pub const MIB: u64 = 1 << 20;

/// Runs a program that a test needs; its failure, or its absence, fails the test.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("this test needs the program {program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} failed; as root?\n{text}{errors}");
    text
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Raw,
    Sparse,
    Stream,
    Flat,
    Split,
    Vhd,
    VhdFixed,
    Vhdx,
    Vdi,
    Qcow2,
    Qcow2Compressed,
}

pub const KINDS: [Kind; 11] = [
    Kind::Raw,
    Kind::Sparse,
    Kind::Stream,
    Kind::Flat,
    Kind::Split,
    Kind::Vhd,
    Kind::VhdFixed,
    Kind::Vhdx,
    Kind::Vdi,
    Kind::Qcow2,
    Kind::Qcow2Compressed,
];

impl Kind {
    pub fn create(self, path: &Path, size: u64, overwrite: Overwrite) -> Result<Box<dyn DiskSink>, ImageError> {
        let size = ByteLen(size);
        Ok(match self {
            Kind::Raw => Box::new(create_file(path, size, overwrite)?),
            Kind::Sparse => Box::new(create_sparse(path, size, &[], overwrite)?),
            Kind::Stream => Box::new(create_stream(path, size, &[], overwrite)?),
            Kind::Flat => Box::new(create_flat(path, size, &[], overwrite)?),
            Kind::Split => Box::new(create_split(path, size, &[], overwrite)?),
            Kind::Vhd => Box::new(vhd::writer::create_dynamic(path, size, overwrite)?),
            Kind::VhdFixed => Box::new(vhd::writer::create_fixed(path, size, overwrite)?),
            Kind::Vhdx => Box::new(vhdx::writer::create_dynamic(path, size, overwrite)?),
            Kind::Vdi => Box::new(vdi::writer::create_dynamic(path, size, overwrite)?),
            Kind::Qcow2 => Box::new(create_plain(path, size, overwrite)?),
            Kind::Qcow2Compressed => Box::new(create_compressed(path, size, overwrite)?),
        })
    }

    /// What a VMDK calls itself.
    pub fn create_type(self) -> Option<&'static str> {
        match self {
            Kind::Sparse => Some("monolithicSparse"),
            Kind::Stream => Some("streamOptimized"),
            Kind::Flat => Some("monolithicFlat"),
            Kind::Split => Some("twoGbMaxExtentSparse"),
            _ => None,
        }
    }

    /// The first file that holds data of an image called `path`.
    pub fn data_file(self, path: &Path) -> PathBuf {
        let suffix = match self {
            Kind::Flat => "-flat.vmdk",
            Kind::Split => "-s001.vmdk",
            _ => "",
        };
        PathBuf::from(format!("{}{suffix}", text(path)))
    }

    /// QEMU's name of the format.
    pub fn driver(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Sparse | Kind::Stream | Kind::Flat | Kind::Split => "vmdk",
            Kind::Vhd | Kind::VhdFixed => "vpc",
            Kind::Vhdx => "vhdx",
            Kind::Vdi => "vdi",
            Kind::Qcow2 | Kind::Qcow2Compressed => "qcow2",
        }
    }
}

/// `qemu-img` finds the image sound and equal to `expected`.
#[track_caller]
pub fn judge(kind: Kind, image: &Path, expected: &[u8]) {
    let plain = image.with_extension("expected");
    fs::write(&plain, expected).unwrap();
    run("qemu-img", &["compare", "-f", kind.driver(), "-F", "raw", text(image), text(&plain)]);
    let info = run("qemu-img", &["info", "--output=json", "-f", kind.driver(), text(image)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], expected.len() as u64);
    // QEMU has no check of raw images and VHDs.
    if !["raw", "vpc"].contains(&kind.driver()) {
        let said = run("qemu-img", &["check", "-f", kind.driver(), text(image)]);
        assert!(said.contains("No errors were found"), "{said}");
    }
    if let Kind::Qcow2 | Kind::Qcow2Compressed = kind {
        let data = &info["format-specific"]["data"];
        let compression = if kind == Kind::Qcow2 { "zlib" } else { "zstd" };
        assert_eq!((&data["compat"], &data["compression-type"]), (&"1.1".into(), &compression.into()));
        let ours = formats::open(image, &OpenPolicy::named_by_user(image).unwrap()).unwrap();
        conformance::check(&ours.disk(), expected);
    }
    if let Some(variant) = kind.create_type() {
        let data = &info["format-specific"]["data"];
        assert_eq!(data["create-type"], variant);
        assert_eq!(data["parent-cid"], u32::MAX);
    }
    fs::remove_file(&plain).unwrap();
    if kind != Kind::Raw {
        // What verifies a restored disk is our own reader.
        let ours = formats::open(image, &OpenPolicy::named_by_user(image).unwrap()).unwrap();
        assert_eq!(ours.layers[0].warnings, [] as [&str; 0]);
        let mut content = vec![0; expected.len()];
        ours.disk().read_at(GuestOffset(0), &mut content).unwrap();
        assert!(content == expected, "{kind:?}: our own reader sees another disk");
    }
}

/// Bytes that do not compress and differ from place to place.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = std::iter::repeat_with(|| next().to_le_bytes()).take(len.div_ceil(8));
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(len);
    bytes
}

/// Writes `content`, and returns the image's files: in one call for each range of `step` grains, `skip`ping zeros altogether if asked to.
pub fn written(kind: Kind, path: &Path, content: &[u8], step: usize, skip_zeros: bool) -> Vec<PathBuf> {
    let sink = kind.create(path, content.len() as u64, Overwrite::Refuse).unwrap();
    for (n, part) in content.chunks(step * GRAIN).enumerate() {
        if !(skip_zeros && part.iter().all(|b| *b == 0)) {
            sink.write_at(GuestOffset((n * step * GRAIN) as u64), part).unwrap();
        }
    }
    let files = sink.finish().unwrap();
    assert_eq!(files[0], path);
    files
}

#[test]
fn known_disks_are_the_same_in_every_format() {
    let mut zeros_inside = noise(1, 10 * GRAIN);
    zeros_inside[GRAIN + 100..5 * GRAIN - 100].fill(0);
    let mut text_and_holes = vec![0; 70 << 20]; // three grain tables, the middle one without a grain
    text_and_holes[..3 * GRAIN].fill(b'a');
    text_and_holes[(69 << 20)..].copy_from_slice(&noise(2, 1 << 20));
    let disks: [(&str, Vec<u8>); 9] = [
        ("one sector", noise(3, 512)),
        ("one sector of zeros", vec![0; 512]),
        ("one grain", noise(4, GRAIN)),
        ("a grain and a sector", noise(5, GRAIN + 512)),
        ("a grain of zeros and a sector", [vec![0; GRAIN], noise(6, 512)].concat()),
        ("full", noise(7, 4 << 20)),
        ("full, unaligned end", noise(8, (33 << 20) + 7 * 512)),
        ("zeros inside data", zeros_inside),
        ("text and holes", text_and_holes),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in &disks {
        for kind in KINDS {
            for (step, skip_zeros) in [(1, true), (64, false), (100_000, false)] {
                let path = dir.path().join(format!("{name} {kind:?} {step}"));
                let files = written(kind, &path, content, step, skip_zeros);
                judge(kind, &path, content);
                files.iter().for_each(|file| fs::remove_file(file).unwrap());
            }
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no temporary file is left");
}

#[test]
fn a_disk_that_was_never_written_is_all_zeros() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = dir.path().join(format!("{kind:?}"));
        let sink = kind.create(&path, 100 * MIB + 512, Overwrite::Refuse).unwrap();
        sink.write_zeros(GuestOffset(0), 100 * MIB + 512).unwrap();
        sink.finish().unwrap();
        judge(kind, &path, &vec![0; (100 << 20) + 512]);
    }
}

#[test]
fn threads_may_write_out_of_order_where_the_format_says_so() {
    let content: Vec<u8> =
        (0..24).flat_map(|n| if n % 5 == 3 { vec![0; 2 << 20] } else { noise(n, 2 << 20) }).collect();
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS.into_iter().filter(|kind| !matches!(kind, Kind::Stream | Kind::Split | Kind::Qcow2Compressed)) {
        let path = dir.path().join(format!("{kind:?}"));
        let sink = kind.create(&path, content.len() as u64, Overwrite::Refuse).unwrap();
        assert_eq!(sink.order(), WriteOrder::Any);
        thread::scope(|scope| {
            for worker in 0..4 {
                let (sink, content) = (&sink, &content);
                scope.spawn(move || {
                    // Backwards, every fourth segment, so that the threads are always close to each other.
                    for n in (0..24usize).rev().filter(|n| n % 4 == worker) {
                        let at = n * (2 << 20);
                        sink.write_at(GuestOffset(at as u64), &content[at..at + (2 << 20)]).unwrap();
                    }
                });
            }
        });
        sink.finish().unwrap();
        judge(kind, &path, &content);
    }
    for kind in [Kind::Stream, Kind::Qcow2Compressed] {
        let sink = kind.create(&dir.path().join("ascending"), 512, Overwrite::Refuse).unwrap();
        assert_eq!(sink.order(), WriteOrder::Ascending);
    }
}

#[test]
fn holes_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = dir.path().join(format!("{kind:?}"));
        let size = 1024 * MIB + 2 * MIB;
        let sink = kind.create(&path, size, Overwrite::Refuse).unwrap();
        sink.write_at(GuestOffset(0), &noise(1, 1 << 20)).unwrap();
        sink.write_at(GuestOffset(MIB), &vec![0; 64 << 20]).unwrap();
        sink.write_at(GuestOffset(size - MIB), &noise(2, 1 << 20)).unwrap();
        let files = sink.finish().unwrap();
        let allocated: u64 = files.iter().map(|file| fs::metadata(file).unwrap().blocks() * 512).sum();
        assert!(allocated < 3 * MIB, "{kind:?}: {allocated} bytes on disk for 2 MiB of data");
    }
}

/// What a stretch of a random disk holds.
#[derive(Clone, Debug)]
enum Stretch {
    Unwritten,
    Zeros,
    Noise(u64),
    /// One byte, somewhere.
    Speck(usize),
    Same(u8),
}

fn stretch() -> impl Strategy<Value = (Stretch, usize)> {
    let kind = prop_oneof![
        Just(Stretch::Unwritten),
        Just(Stretch::Zeros),
        any::<u64>().prop_map(Stretch::Noise),
        (0..GRAIN).prop_map(Stretch::Speck),
        any::<u8>().prop_map(Stretch::Same),
    ];
    // Mostly a few grains; sometimes more than a whole grain table.
    (kind, prop_oneof![8 => 1..20usize, 1 => 500..530usize])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any disk, in any cut, in any order that the format takes, comes out as it went in.
    #[test]
    fn any_disk_comes_out_as_it_went_in(
        stretches in proptest::collection::vec(stretch(), 1..12),
        tail_sectors in 0..128usize,
        shuffle in any::<u64>(),
    ) {
        let mut content = Vec::new();
        let mut calls = Vec::new();
        for (kind, grains) in &stretches {
            let at = content.len();
            let len = grains * GRAIN;
            match kind {
                Stretch::Unwritten | Stretch::Zeros => content.resize(at + len, 0),
                Stretch::Noise(seed) => content.extend(noise(*seed, len)),
                Stretch::Speck(place) => {
                    content.resize(at + len, 0);
                    content[at + place] = 1;
                }
                Stretch::Same(byte) => content.resize(at + len, *byte),
            }
            if !matches!(kind, Stretch::Unwritten) {
                calls.push(at..at + len);
            }
        }
        if tail_sectors > 0 {
            let at = content.len();
            content.extend(noise(shuffle, tail_sectors * 512));
            calls.push(at..content.len());
        }
        let dir = tempfile::tempdir().unwrap();
        for kind in KINDS {
            let path = dir.path().join(format!("{kind:?}"));
            let sink = kind.create(&path, content.len() as u64, Overwrite::Refuse).unwrap();
            let mut calls = calls.clone();
            if sink.order() == WriteOrder::Any {
                calls.sort_by_key(|call| (call.start as u64 ^ shuffle).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            }
            for call in calls {
                sink.write_at(GuestOffset(call.start as u64), &content[call]).unwrap();
            }
            sink.finish().unwrap();
            judge(kind, &path, &content);
        }
    }
}

#[track_caller]
fn target_error<T>(outcome: Result<T, ImageError>) -> TargetError {
    match outcome.map(|_| ()).unwrap_err() {
        ImageError::Target(error) => error,
        other => panic!("not an error of the target: {other:?}"),
    }
}

#[test]
fn an_existing_file_is_kept_unless_it_is_to_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = dir.path().join(format!("{kind:?}"));
        fs::write(&path, "old").unwrap();
        let error = target_error(kind.create(&path, 512, Overwrite::Refuse));
        assert_eq!(error.to_string(), format!("{} exists already", path.display()));
        let abandoned = kind.create(&path, 512, Overwrite::Replace).unwrap();
        abandoned.write_at(GuestOffset(0), &[1; 512]).unwrap();
        drop(abandoned);
        assert_eq!(fs::read(&path).unwrap(), b"old", "an abandoned restore changes nothing");
        let sink = kind.create(&path, 512, Overwrite::Replace).unwrap();
        sink.write_at(GuestOffset(0), &[1; 512]).unwrap();
        sink.finish().unwrap();
        judge(kind, &path, &[1; 512]);
        let missing = dir.path().join("no folder/disk");
        assert!(matches!(target_error(kind.create(&missing, 512, Overwrite::Refuse)), TargetError::NoFolder { .. }));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KINDS.len() + 2, "two kinds have a second file");
}

/// A mounted filesystem; unmounted when dropped, whatever the test did.
struct Mounted(PathBuf);

impl Mounted {
    #[track_caller]
    fn new(place: &Path, args: &[&str]) -> Mounted {
        fs::create_dir_all(place).unwrap();
        run("mount", &[args, &[text(place)]].concat());
        Mounted(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A loop device over a file; detached when dropped.
struct Loop(PathBuf);

impl Loop {
    #[track_caller]
    fn over(file: &Path, len: u64) -> Loop {
        fs::File::create(file).unwrap().set_len(len).unwrap();
        Loop(PathBuf::from(run("losetup", &["--find", "--show", text(file)]).trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The next user of this loop device must not meet a partition that a failed story left.
        if Path::new(&format!("{}p1", self.0.display())).exists() {
            let _ = Command::new("delpart").arg(&self.0).arg("1").status();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_full_filesystem_is_an_error_that_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let small = Mounted::new(&dir.path().join("small"), &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
    for kind in KINDS {
        let sink = kind.create(&small.0.join("disk"), 8 * MIB, Overwrite::Refuse).unwrap();
        let error = target_error(sink.write_at(GuestOffset(0), &noise(1, 4 << 20)));
        let TargetError::Write { file, source, .. } = &error else { panic!("{kind:?}: {error:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(*file, kind.data_file(&small.0.join("disk")), "the name that the user knows");
        let error = target_error(sink.finish());
        assert!(matches!(error, TargetError::Incomplete { .. }), "{error}");
        assert_eq!(fs::read_dir(&small.0).unwrap().count(), 0, "{kind:?}");
    }
}

#[test]
fn a_device_takes_a_disk_and_what_lies_beyond_stays() {
    let dir = tempfile::tempdir().unwrap();
    let device = Loop::over(&dir.path().join("backing"), 8 * MIB);
    fs::write(&device.0, vec![0xee; 8 << 20]).unwrap();
    let size = 5 * MIB + 512;
    let error = target_error(open_device(&device.0, ByteLen(8 * MIB + 1)));
    let expected = format!("expected at least {} bytes, found {}", 8 * MIB + 1, 8 * MIB);
    assert!(error.to_string().ends_with(&expected), "{error}");

    let mut disk = noise(1, size as usize);
    disk[MIB as usize..3 << 20].fill(0);
    disk[4 << 20..].fill(0);
    let sink = Box::new(open_device(&device.0, ByteLen(size)).unwrap());
    assert_eq!(sink.order(), WriteOrder::Any);
    sink.write_at(GuestOffset(0), &disk[..4 << 20]).unwrap();
    sink.write_zeros(GuestOffset(4 * MIB), size - 4 * MIB).unwrap();
    let mut seen = vec![0; 1 << 20];
    sink.read_at(GuestOffset(MIB / 2), &mut seen).unwrap();
    assert!(seen == disk[1 << 19..(1 << 19) + (1 << 20)]);
    assert_eq!(sink.finish().unwrap(), std::slice::from_ref(&device.0));

    let after = fs::read(&device.0).unwrap();
    assert!(after[..size as usize] == disk);
    assert!(after[size as usize..].iter().all(|b| *b == 0xee));
}

#[test]
fn a_mounted_device_and_the_file_behind_it_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let backing = dir.path().join("backing");
    let device = Loop::over(&backing, 8 * MIB);
    run("mkfs.ext4", &["-q", text(&device.0)]);
    let mounted = Mounted::new(&dir.path().join("a place"), &[text(&device.0)]);
    let error = target_error(open_device(&device.0, ByteLen(MIB)));
    let expected = format!("{0} is in use: {0} is mounted on {1}", device.0.display(), mounted.0.display());
    assert_eq!(error.to_string(), expected);
    drop(mounted);
    let error = target_error(open_in_place(&backing, ByteLen(8 * MIB)));
    assert!(error.to_string().contains("is in use: it is behind the loop device loop"), "{error}");
    open_device(&device.0, ByteLen(MIB)).expect("nobody uses it any more");
}

/// The mistake that costs a host: the name of a whole disk, one partition of which is in use.
#[test]
fn a_device_with_a_mounted_partition_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let device = Loop::over(&dir.path().join("backing"), 16 * MIB);
    // Told to the kernel directly: not every kernel reads partition tables, but every one takes partitions.
    run("addpart", &[text(&device.0), "1", "2048", "16384"]);
    let partition = PathBuf::from(format!("{}p1", device.0.display()));
    assert!(partition.exists(), "this test needs a /dev in which {} appears", partition.display());
    run("mkfs.ext4", &["-q", text(&partition)]);
    let mounted = Mounted::new(&dir.path().join("place"), &[text(&partition)]);
    let error = target_error(open_device(&device.0, ByteLen(MIB)));
    let expected = format!("{} is mounted on {}", partition.display(), mounted.0.display());
    assert!(error.to_string().ends_with(&expected), "{error}");
    drop(mounted);
    open_device(&device.0, ByteLen(MIB)).expect("nobody uses it any more");
}

#[test]
fn a_device_that_somebody_holds_exclusively_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let device = Loop::over(&dir.path().join("backing"), MIB);
    let _held = open_device(&device.0, ByteLen(MIB)).unwrap();
    let error = target_error(open_device(&device.0, ByteLen(MIB)));
    assert!(error.to_string().contains("the kernel has the device"), "{error}");
}

#[test]
fn an_image_that_a_running_qemu_has_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    fs::write(&image, vec![1; 1 << 20]).unwrap();
    let mut qemu = Command::new("qemu-io");
    qemu.args(["-f", "raw", text(&image)]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut qemu = qemu.spawn().unwrap_or_else(|e| panic!("this test needs the program qemu-io: {e}"));
    // It answers only when it has the image open, and then waits for the next command.
    use std::io::{Read, Write};
    let mut answer = [0; 64];
    qemu.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
    let seen = qemu.stdout.as_mut().unwrap().read(&mut answer).unwrap();
    assert!(seen > 0);
    let outcome = open_in_place(&image, ByteLen(MIB));
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
    let error = target_error(outcome);
    assert!(error.to_string().contains("another process holds a lock"), "{error}");
    open_in_place(&image, ByteLen(MIB)).expect("free again");
}
