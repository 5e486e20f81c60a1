//! The promises of `formats` on any files: an image opens, or is refused in words that name the file; what opens can be
//! read.
//!
//! - Outside the disk every question is refused, inside it every question has an answer or a fault that names a file.
//! - Extents tile the disk; what is a hole or zeros reads as zeros, and asking in the middle of a run gives the same kind.
//! - A read equals the same read in two parts, in its bytes and in whether it succeeds.
//! - Opened twice, an image is the same; its files stay as they were, and all lie in the folder that is allowed.
//! - [`inspect`](formats::inspect) tells of a fault exactly where [`formats::open`] or a walk of the map meets one.

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::Path;

use abbild::disk::{Disk, DiskError, ExtentKind};
use abbild::formats::qcow2::{self, Selector};
use abbild::formats::{self, CHAIN_DEPTH_MAX, Image, ImageError, OpenPolicy};
use abbild::units::GuestOffset;

use super::checksums;
use super::message::is_short;
use super::stage::{self, REPAIR, Stage, states};

/// Options: the image is one that the user named, not one that a definition file names.
const NAMED_BY_USER: u8 = 2;
/// Extents that are looked at one after the other, from the beginning and before the end.
const STEPS: usize = 96;
/// Faults after which a walk is given up.
const FAULTS_MAX: usize = 8;
/// Bytes of one read.
const READ_BYTES: u64 = 16 << 10;
thread_local! {
    static STAGE: Stage = Stage::new();
}

/// Opens the first file of the folder that `input` describes, and holds it to the promises.
pub fn open(input: &[u8]) {
    staged(input, |path, policy, folder| {
        let first = look(path, policy, folder);
        assert_eq!(look(path, policy, folder), first, "opened again");
    });
}

/// Inspects the first file of the folder that `input` describes, and compares the report with the image.
pub fn inspect(input: &[u8]) {
    staged(input, |path, policy, folder| {
        let report = formats::inspect(path, policy);
        for fault in &report.faults {
            said(fault, folder);
        }
        for layer in &report.layers {
            layer.warnings.iter().chain(&layer.in_use).for_each(|warning| is_short(warning));
        }
        if report.faults.is_empty() {
            for layer in &report.layers {
                let sum = [layer.data_bytes, layer.zero_bytes, layer.hole_bytes].into_iter().sum::<u64>();
                assert_eq!(sum, layer.size.0, "the bytes of a layer are data, zeros or holes");
            }
        }
        match formats::open(path, policy) {
            Err(fault) => assert_eq!(report.faults.first(), Some(&in_one_line(&fault)), "what open says, inspect says"),
            Ok(image) => {
                assert_eq!(report.layers.len(), image.layers.len(), "layers");
                let mut end = 0;
                let walked = formats::inspect::map(&image, |entry| {
                    assert_eq!(entry.start.0, end, "a map without gaps");
                    assert!(entry.len.0 > 0, "no empty entry");
                    end += entry.len.0;
                    ControlFlow::Continue(())
                });
                match walked {
                    Ok(()) => assert_eq!(end, image.size().0, "a map of the whole disk"),
                    Err(fault) => {
                        is_damage(&fault, folder);
                        assert!(!report.faults.is_empty(), "a walk met {fault}, inspect did not");
                    }
                }
            }
        }
    });
}

/// Makes the files of `input`, and looks whether they are as before when `judge` is done with the first of them.
fn staged(input: &[u8], judge: impl FnOnce(&Path, &OpenPolicy, &Path)) {
    STAGE.with(|stage| {
        let plan = stage::decode(input);
        let folder = stage.folder();
        let Some(first) = stage.fill(&plan) else { return };
        if plan.options & REPAIR != 0 {
            states(folder).iter().for_each(|file| checksums::repair(&file.path));
        }
        let before = states(folder);
        let policy = match plan.options & NAMED_BY_USER {
            0 => OpenPolicy::within(folder),
            _ => OpenPolicy::named_by_user(&first),
        };
        judge(&first, &policy.expect("the folder is there"), folder);
        assert_eq!(states(folder), before, "the source is never written");
    });
}

/// Opens an image and looks at everything it promises; what was seen, to be compared with a second look.
fn look(path: &Path, policy: &OpenPolicy, folder: &Path) -> (String, u64) {
    let mut digest = DefaultHasher::new();
    let image = match formats::open(path, policy) {
        Ok(image) => image,
        Err(fault) => {
            is_refusal(&fault, folder);
            return (in_one_line(&fault), digest.finish());
        }
    };
    assert!(!image.layers.is_empty() && image.layers.len() <= CHAIN_DEPTH_MAX, "{} layers", image.layers.len());
    for layer in &image.layers {
        assert!(
            !layer.variant.is_empty() && layer.files.iter().any(|file| file.path == layer.path),
            "{}",
            layer.variant
        );
        is_short(&layer.variant);
        for file in &layer.files {
            let real = file.path.canonicalize().expect("a file that was opened is there");
            assert!(real.starts_with(folder), "{} is outside the allowed folder", real.display());
        }
        layer.warnings.iter().chain(&layer.in_use).for_each(|warning| is_short(warning));
        (&layer.content_id, &layer.parent_content_id, &layer.properties, &layer.warnings).hash(&mut digest);
    }
    walk(&image.disk(), folder, &mut digest);
    if image.layers.len() > 1 {
        image.layers.iter().take(4).for_each(|layer| walk(layer.disk.as_ref(), folder, &mut digest));
    }
    internal_snapshots(path, policy, folder, &mut digest);
    (summary(&image), digest.finish())
}

/// The states that a qcow2 file keeps besides the active one.
fn internal_snapshots(path: &Path, policy: &OpenPolicy, folder: &Path, digest: &mut DefaultHasher) {
    let Ok(snapshots) = qcow2::list_snapshots(path, policy) else { return };
    for snapshot in snapshots.iter().take(3) {
        match qcow2::open_snapshot(path, Selector::Id(&snapshot.id), policy) {
            Ok(image) => walk(&image.disk(), folder, digest),
            Err(fault) => is_refusal(&fault, folder),
        }
    }
}

fn summary(image: &Image) -> String {
    let layer = |layer: &formats::Layer| format!("{} of {} bytes", layer.variant, layer.disk.size().0);
    image.layers.iter().map(layer).collect::<Vec<_>>().join(" over ")
}

/// Looks at the beginning of a disk, at its end, and at some places between, each time at a run of extents.
fn walk(disk: &dyn Disk, folder: &Path, digest: &mut DefaultHasher) {
    let size = disk.size().0;
    assert!(i64::try_from(size).is_ok(), "a disk of {size} bytes");
    size.hash(digest);
    refusals(disk, size);
    let places = [0, size / 2, size / 3 * 2 + 1, size.saturating_sub(3 << 20), size.saturating_sub(513)];
    for (number, start) in places.into_iter().enumerate() {
        let steps = if number == 0 { STEPS } else { STEPS / 8 };
        let mut at = start;
        let mut faults = 0;
        for _ in 0..steps {
            if at >= size || faults == FAULTS_MAX {
                break;
            }
            match disk.extent_at(GuestOffset(at)) {
                Ok(extent) => {
                    let end = at.checked_add(extent.len.0).filter(|end| *end <= size && *end > at);
                    let end = end.unwrap_or_else(|| panic!("{extent:?} at {at} leaves the disk of {size} bytes"));
                    (extent.kind as u8).hash(digest);
                    // How far one answer reaches may depend on what is cached, where it ends for another reason not.
                    run(disk, at, end, extent.kind, folder, digest);
                    at = end;
                }
                Err(fault) => {
                    is_damage(&fault, folder);
                    let read = disk.read_at(GuestOffset(at), &mut [0]);
                    assert!(read.is_err(), "{at} can be read, but of its extent is said: {fault}");
                    in_one_line(&fault).hash(digest);
                    faults += 1;
                    at = (at / 512 + 1) * 512;
                }
            }
        }
    }
}

/// Looks at the run of one kind from `at` to `end`.
fn run(disk: &dyn Disk, at: u64, end: u64, kind: ExtentKind, folder: &Path, digest: &mut DefaultHasher) {
    for inside in [at + (end - at) / 2, end - 1] {
        let again = disk.extent_at(GuestOffset(inside));
        let again = again.unwrap_or_else(|fault| panic!("{kind:?} from {at} to {end}, but at {inside}: {fault}"));
        assert_eq!(again.kind, kind, "at {inside}, between {at} and {end}");
    }
    let len = READ_BYTES.min(end - at);
    for from in [at, end - len] {
        let read = read(disk, from, len, folder);
        if kind != ExtentKind::Data {
            let bytes = read.as_ref().unwrap_or_else(|fault| panic!("{kind:?} at {from}: {fault}"));
            assert!(bytes.iter().all(|byte| *byte == 0), "{kind:?} at {from} is not all zeros");
        }
        read.hash(digest);
        if from == end - len && at == from {
            break;
        }
    }
    // Two parts, once inside the run and once over its end.
    let past = disk.size().0.min(end.saturating_add(700));
    for (from, cut, to) in [(at, at + len / 3, at + len), (end.saturating_sub(300).max(at), end, past)] {
        if cut > from && to > cut {
            parts(disk, from, cut, to, folder);
        }
    }
}

/// A read equals the same read in two parts.
fn parts(disk: &dyn Disk, from: u64, cut: u64, to: u64, folder: &Path) {
    let whole = read(disk, from, to - from, folder);
    let parts = (read(disk, from, cut - from, folder), read(disk, cut, to - cut, folder));
    match (whole, parts) {
        (Ok(whole), (Ok(left), Ok(right))) => {
            assert!(whole == [left, right].concat(), "from {from} to {to}, differs when cut at {cut}");
        }
        (Err(_), (Err(_), _) | (_, Err(_))) => {}
        (whole, (left, right)) => panic!(
            "from {from} to {to}: {:?}, cut at {cut}: {:?} and {:?}",
            whole.map(|_| "read"),
            left.map(|_| "read"),
            right.map(|_| "read")
        ),
    }
}

fn read(disk: &dyn Disk, at: u64, len: u64, folder: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0xa5; usize::try_from(len).expect("short reads")];
    match disk.read_at(GuestOffset(at), &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(fault) => {
            is_damage(&fault, folder);
            Err(in_one_line(&fault))
        }
    }
}

/// Questions about what is outside the disk.
fn refusals(disk: &dyn Disk, size: u64) {
    disk.read_at(GuestOffset(size), &mut []).expect("an empty read at the end is fine");
    for (at, len) in [(size, 1), (size.saturating_sub(1), 2), (u64::MAX, 1), (u64::MAX - 3, 8)] {
        let outcome = disk.read_at(GuestOffset(at), &mut vec![0; len]);
        assert!(matches!(outcome, Err(DiskError::PastEnd { .. })), "{len} bytes at {at} of {size}: {outcome:?}");
    }
    for at in [size, u64::MAX] {
        let outcome = disk.extent_at(GuestOffset(at));
        assert!(matches!(outcome, Err(DiskError::PastEnd { .. })), "extent at {at} of {size}: {outcome:?}");
    }
}

/// Only damage may be found in a file that nobody touches, on a medium that does not fail.
fn is_damage(fault: &DiskError, folder: &Path) {
    assert!(matches!(fault, DiskError::Corrupt { .. }), "{fault:?}");
    said(&in_one_line(fault), folder);
}

fn is_refusal(fault: &ImageError, folder: &Path) {
    if let ImageError::Io { source, .. } = fault {
        // Names that no system takes: too long, or symlinks in a circle.
        assert!(matches!(source.raw_os_error(), Some(36 | 40)), "{fault:?}");
    }
    assert!(!matches!(fault, ImageError::Target(_)), "{fault:?}");
    said(&in_one_line(fault), folder);
}

/// A message that names a file and can be shown.
fn said(message: &str, folder: &Path) {
    assert!(message.contains(&folder.display().to_string()), "names no file: {message}");
    is_short(message);
}

/// An error with its causes.
fn in_one_line(fault: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(fault.source(), |cause: &&dyn Error| (*cause).source());
    causes.fold(fault.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// A judge that never panics would let everything pass.
#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use abbild::disk::{Extent, MemoryDisk, check_inside, check_range};
    use abbild::units::{ByteLen, FileOffset};

    use super::*;

    /// How a disk breaks its promises.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Breach {
        None,
        ReadsPastItsEnd,
        ExtentPastItsEnd,
        EmptyExtent,
        HoleWithData,
        HoleThatFails,
        KindChangesInside,
        PartsDiffer,
        PartsFail,
        FaultWithoutCause,
        FaultNamesNoFile,
        MediumFails,
    }

    struct Broken(Breach, MemoryDisk);

    impl Disk for Broken {
        fn size(&self) -> ByteLen {
            self.1.size()
        }

        fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
            let Broken(breach, disk) = self;
            if *breach == Breach::ReadsPastItsEnd && at.0 == disk.0.len() as u64 {
                return Ok(());
            }
            check_range(self.size(), at, buf.len())?;
            match breach {
                Breach::HoleThatFails | Breach::FaultNamesNoFile => return Err(damage("elsewhere")),
                Breach::MediumFails => {
                    let source = std::io::Error::other("the medium");
                    return Err(DiskError::Read { file: "/folder/disk".into(), at: FileOffset(at.0), len: 1, source });
                }
                Breach::PartsFail if buf.len() < 1000 => return Err(damage("/folder/disk")),
                _ => {}
            }
            disk.read_at(at, buf)?;
            if *breach == Breach::PartsDiffer && !at.0.is_multiple_of(512) {
                buf[0] ^= 1;
            }
            Ok(())
        }

        fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
            let left = check_inside(self.size(), at)?;
            let (kind, len) = match self.0 {
                Breach::ExtentPastItsEnd => (ExtentKind::Data, ByteLen(left.0 + 1)),
                Breach::EmptyExtent => (ExtentKind::Data, ByteLen(0)),
                Breach::HoleWithData | Breach::HoleThatFails => (ExtentKind::Hole, left),
                Breach::KindChangesInside if at.0 > 4000 => (ExtentKind::Zero, left),
                Breach::FaultWithoutCause => return Err(damage("/folder/disk")),
                _ => (ExtentKind::Data, left),
            };
            Ok(Extent { kind, len })
        }
    }

    fn damage(file: &str) -> DiskError {
        let (expected, found) = ("sense".to_string(), "none".to_string());
        DiskError::Corrupt { file: file.into(), field: "table", at: FileOffset(0), expected, found }
    }

    #[test]
    fn broken_disks_are_noticed() {
        use Breach::*;
        let is_kept = |breach| {
            catch_unwind(|| {
                let disk = Broken(breach, MemoryDisk(vec![7; 8192]));
                walk(&disk, Path::new("/folder"), &mut DefaultHasher::new());
            })
            .is_ok()
        };
        assert!(is_kept(None));
        let breaches = [
            ReadsPastItsEnd,
            ExtentPastItsEnd,
            EmptyExtent,
            HoleWithData,
            HoleThatFails,
            KindChangesInside,
            PartsDiffer,
            PartsFail,
            FaultWithoutCause,
            FaultNamesNoFile,
            MediumFails,
        ];
        let passed: Vec<_> = breaches.into_iter().filter(|breach| is_kept(*breach)).collect();
        assert_eq!(passed, [], "unnoticed");
    }
}
