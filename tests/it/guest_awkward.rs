//! One awkward tree on every filesystem, divided in every way: what we read of it is what the filesystem's own driver
//! shows. Printed as a table by `cargo nextest run awkward_trees --no-capture`.
//!
//! Columns are ways to divide disks: an MBR's logical partition, a GPT partition, a logical volume of LVM in three pieces
//! on two disks. The last column is a copy made while the filesystem was mounted and busy: nothing of what had come to rest
//! before may be other than it was without an error that names it.

use std::any::Any;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abbild::disk::Disk;
use abbild::guest::machine::GuestMachine;
use abbild::guest::tree::{FileSystem, NodeId, NodeKind};
use flate2::read::GzDecoder;

use crate::guest_tree::{self as tree, Field, Mount, Tree, compare, of_folder, of_tree, run};
use crate::{guest_exfat, guest_fat, guest_iso, guest_ntfs, guest_squashfs, user_mode_linux};

/// Size of every filesystem: that of the logical volume of fixtures/lvm/two.
const SIZE: u64 = 520 << 20;
const MIB: u64 = 1 << 20;

/// A filesystem: what it is filled by, and what that does not show as it is.
struct Row {
    name: &'static str,
    driver: Driver,
    left_out: &'static [Field],
}

/// What fills a filesystem, and shows it.
enum Driver {
    /// What `mount` calls, with options for filling and for looking.
    Mount { make: &'static [&'static str], options: [&'static str; 2], fill: fn(&Path) },
    /// exfat-fuse.
    ExFat,
    /// The kernel's vfat, in a machine of its own.
    Vfat,
    /// mksquashfs packs a folder, the kernel shows it.
    Squashfs,
    /// genisoimage packs a folder; the folder itself is what has to be there.
    RockRidge,
}

const fn row(name: &'static str, make: &'static [&'static str], options: [&'static str; 2]) -> Row {
    Row { name, driver: Driver::Mount { make, options, fill: tree::fill }, left_out: &[] }
}

const ROWS: &[Row] = &[
    row("ext2", &["mke2fs", "-q", "-F", "-t", "ext2"], ["rw", "ro"]),
    row("ext3", &["mke2fs", "-q", "-F", "-t", "ext3"], ["rw", "ro"]),
    row("ext4", &["mke2fs", "-q", "-F", "-t", "ext4"], ["rw", "ro"]),
    row("xfs", &["mkfs.xfs", "-q", "-f"], ["rw", "ro,norecovery"]),
    row("btrfs, zstd", &["mkfs.btrfs", "-q", "-f"], ["compress=zstd", "ro"]),
    Row {
        name: "ntfs",
        driver: Driver::Mount {
            make: &["mkntfs", "-q", "-F", "-f", "-T"],
            options: ["rw,compression", "ro,compression"],
            fill: |folder| {
                guest_ntfs::fill_ordinary(folder);
                many(folder);
            },
        },
        // ntfs-3g has no place for these; it shows streams as attributes.
        left_out: &[Field::Data, Field::DirectoryLinks, Field::Created],
    },
    Row { name: "exfat", driver: Driver::ExFat, left_out: &guest_exfat::UNKNOWN },
    Row { name: "fat32", driver: Driver::Vfat, left_out: &[] },
    Row { name: "squashfs", driver: Driver::Squashfs, left_out: &[] },
    Row { name: "iso9660", driver: Driver::RockRidge, left_out: &guest_iso::NOT_THERE },
];

/// Files enough to make ten thousand with those that are there.
fn many(folder: &Path) {
    for outer in 0..60 {
        let place = folder.join(format!("folder {outer}"));
        fs::create_dir(&place).unwrap();
        for index in 0..100 {
            fs::write(place.join(format!("{index} of a hundred")), vec![outer; index * 7]).unwrap();
        }
    }
}

impl Driver {
    /// A filled filesystem in `image`, made in `folder`, and what its driver shows of it.
    fn filled(&self, folder: &Path, image: &Path) -> Tree {
        let place = folder.join("mount");
        let name = image.file_name().unwrap().to_str().unwrap();
        match self {
            Driver::Mount { make, options: [filling, looking], fill } => {
                File::create(image).unwrap().set_len(SIZE).unwrap();
                run(make[0], &[&make[1..], &[image.to_str().unwrap()]].concat());
                let mount = Mount::new(image, &place, filling);
                fill(mount.path());
                mount.unmount();
                let _mount = Mount::new(image, &place, looking);
                plain(of_folder(&place))
            }
            Driver::ExFat => {
                guest_exfat::made(folder, name, SIZE >> 20, "");
                guest_exfat::filled(image, &place, guest_exfat::ALL)
            }
            Driver::Vfat => {
                guest_fat::made(folder, name, SIZE >> 10, "-F 32");
                let fill = [guest_fat::BASIC, &["many"]].concat();
                guest_fat::shown_by_vfat(folder, &[(image.to_path_buf(), &[], &fill)]).remove(0).0
            }
            Driver::Squashfs => {
                let packed = folder.join("packed");
                fs::create_dir(&packed).unwrap();
                tree::fill(&packed);
                // Its packer reads all those zeros; the stories of squashfs have such a file.
                fs::remove_file(packed.join("beyond 4 GiB")).unwrap();
                fs::rename(guest_squashfs::made(&packed, "-comp zstd"), image).unwrap();
                guest_squashfs::of_kernel(image)
            }
            Driver::RockRidge => {
                let packed = folder.join("packed");
                guest_iso::awkward(&packed);
                let made = guest_iso::made("genisoimage", &["-R", "-input-charset", "iso8859-1"], &packed);
                fs::rename(made, image).unwrap();
                guest_iso::as_on_a_disc(of_folder(&packed))
            }
        }
    }

    /// The filesystem mounted at `place` for writing, until the result is dropped; `None` if it can be mounted only
    /// elsewhere.
    fn mounted(&self, image: &Path, place: &Path) -> Option<Box<dyn Any>> {
        match self {
            Driver::Mount { options: [filling, _], .. } => Some(Box::new(Mount::new(image, place, filling))),
            Driver::ExFat => Some(Box::new(guest_exfat::Mount::new(image, place, "noatime"))),
            Driver::Vfat | Driver::Squashfs | Driver::RockRidge => None,
        }
    }
}

fn table(rows: &[Row]) {
    println!("{:<14}{:>9}  {:<14}{:<8}{:<20}busy copy", "", "names", "MBR, logical", "GPT", "LVM over two disks");
    for row in rows {
        let dir = user_mode_linux::folder();
        let image = dir.path().join("volume");
        let expected = row.driver.filled(dir.path(), &image);
        assert!(expected.len() > 10_000, "{}: {} names", row.name, expected.len());
        for (what, disks, volume) in divided(dir.path(), &image) {
            let machine = GuestMachine::new(&disks);
            let filesystem = machine.filesystem(volume).unwrap_or_else(|| panic!("{} {what}: no {volume}", row.name));
            let filesystem = filesystem.unwrap_or_else(|error| panic!("{} {what}: {error}", row.name));
            assert_eq!(filesystem.summary().warnings, Vec::<String>::new(), "{} {what}", row.name);
            let mut found = of_tree(filesystem.as_ref());
            if matches!(row.driver, Driver::RockRidge) {
                found.remove(&b"rr_moved"[..]).expect("directories that are too deep are moved there");
            }
            compare(&format!("{} {what}", row.name), &expected, &found, row.left_out);
        }
        let busy = match copied_while_busy(row, dir.path(), &image) {
            None if matches!(row.driver, Driver::Vfat) => "its driver is in another machine".to_owned(),
            None => "never written".to_owned(),
            Some(copy) => {
                let (equal, named) = at_rest(row, &copy, &expected);
                format!("{equal} equal, {named} named")
            }
        };
        println!("{:<14}{:>9}  {:<14}{:<8}{:<20}{busy}", row.name, expected.len(), "equal", "equal", "equal");
    }
}

#[test]
fn awkward_trees_on_every_filesystem_however_divided() {
    table(ROWS);
}

/// XFS shows ACLs twice to root.
fn plain(mut seen: Tree) -> Tree {
    for named in seen.values_mut() {
        let node = std::rc::Rc::make_mut(&mut named.node);
        node.attributes.retain(|(name, _)| !name.starts_with(b"trusted.SGI_ACL_"));
    }
    seen
}

// ---- ways to divide disks -------------------------------------------------------------------------------------------

type Divided = (&'static str, Vec<Arc<dyn Disk>>, &'static str);

fn divided(folder: &Path, volume: &Path) -> [Divided; 3] {
    let table = |name: &str, text: &str, start: u64| {
        let disk = folder.join(name);
        File::create(&disk).unwrap().set_len(SIZE + 64 * MIB).unwrap();
        crate::tools::run_with("sfdisk", "fdisk", folder, &["-q", name], text);
        copy(volume, &disk, &[(0, start, SIZE)]);
        vec![tree::disk(&disk)]
    };
    let mbr = "label: dos\nstart=2048, size=8M, type=83\nstart=20480, size=540M, type=5\n5: size=4M\n6: start=32768, size=520M\n";
    let gpt = "label: gpt\nsize=8M\nstart=20480, size=520M, name=files\n";
    [
        ("MBR", table("mbr", mbr, 16 * MIB), "disk0/p6"),
        ("GPT", table("gpt", gpt, 10 * MIB), "disk0/p2"),
        ("LVM", logical_volume(folder, volume), "vg1/files"),
    ]
}

/// Two disks as LVM wrote their beginnings, with the volume's three pieces where `make.sh` there put them.
fn logical_volume(folder: &Path, volume: &Path) -> Vec<Arc<dyn Disk>> {
    let pieces: [&[(u64, u64, u64)]; 2] =
        [&[(0, MIB, 200 * MIB), (440 * MIB, 201 * MIB, 80 * MIB)], &[(200 * MIB, MIB, 240 * MIB)]];
    let disks = pieces.iter().enumerate().map(|(number, pieces)| {
        let head = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/lvm/two/pv{number}.gz"));
        let mut bytes = Vec::new();
        GzDecoder::new(File::open(head).unwrap()).read_to_end(&mut bytes).unwrap();
        let disk = folder.join(format!("pv{number}"));
        fs::write(&disk, bytes).unwrap();
        File::options().write(true).open(&disk).unwrap().set_len(301 * MIB).unwrap();
        copy(volume, &disk, pieces);
        tree::disk(&disk)
    });
    disks.collect()
}

/// Copies what is data in pieces of `from` (start there, start in `to`, length; in bytes).
fn copy(from: &Path, to: &Path, pieces: &[(u64, u64, u64)]) {
    let (source, target) = (File::open(from).unwrap(), File::options().write(true).open(to).unwrap());
    let ranges = tree::data_ranges(&source, source.metadata().unwrap().len());
    let mut buf = vec![0; 1 << 20];
    for (start, there, len) in pieces {
        for range in &ranges {
            let (mut at, end) = (range.start.max(*start), range.end.min(start + len));
            while at < end {
                let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
                source.read_exact_at(&mut buf[..step], at).unwrap();
                target.write_all_at(&buf[..step], there + (at - start)).unwrap();
                at += step as u64;
            }
        }
    }
}

// ---- copies of what is in use ---------------------------------------------------------------------------------------

/// A copy of the image, made while two threads make, change and remove files on it.
fn copied_while_busy(row: &Row, folder: &Path, image: &Path) -> Option<PathBuf> {
    let mount = row.driver.mounted(image, &folder.join("mount"))?;
    let place = folder.join("mount/busy");
    let (stop, rounds) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    let target = folder.join("copy");
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (place, stop, rounds) = (place.join(writer.to_string()), &stop, &rounds);
            scope.spawn(move || {
                for round in 0.. {
                    let inner = place.join((round % 7).to_string());
                    fs::create_dir_all(&inner).unwrap();
                    for index in 0..40 {
                        fs::write(inner.join(format!("{index} of {round}")), vec![round as u8; index * 300]).unwrap();
                    }
                    if round % 5 == 4 {
                        fs::remove_dir_all(&inner).unwrap();
                    }
                    if round % 9 == 8 {
                        File::open(&place).unwrap().sync_all().unwrap();
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        while rounds.load(Ordering::Relaxed) < 40 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        File::create(&target).unwrap().set_len(SIZE).unwrap();
        copy(image, &target, &[(0, 0, SIZE)]);
        stop.store(true, Ordering::Relaxed);
    });
    drop(mount);
    Some(target)
}

/// Looks for all that was at rest in a copy of what was busy: how many of its names are there and equal in kind, owner,
/// mode, size and content, and how many an error named. Anything else fails.
fn at_rest(row: &Row, image: &Path, expected: &Tree) -> (usize, usize) {
    let machine = GuestMachine::new(&[tree::disk(image)]);
    let filesystem = match machine.filesystem("disk0").expect("a filesystem on the whole disk") {
        Ok(filesystem) => filesystem,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return (0, expected.len());
        }
    };
    let (mut equal, mut named) = (0, 0);
    for (path, known) in expected {
        let shown = String::from_utf8_lossy(path);
        match look(filesystem.as_ref(), path, &known.node) {
            Ok(None) => equal += 1,
            // The root has one more folder in it.
            Ok(Some(_)) if path.is_empty() => equal += 1,
            Ok(Some(difference)) => panic!("{} copied while busy, {shown}: {difference}", row.name),
            Err(_) => named += 1,
        }
    }
    (equal, named)
}

/// What differs at `path`; an error if something could not be read.
fn look(filesystem: &dyn FileSystem, path: &[u8], known: &tree::Seen) -> Result<Option<String>, String> {
    let said = |error: abbild::guest::GuestError| error.to_string();
    let mut node: NodeId = filesystem.root();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        match filesystem.lookup(node, name).map_err(said)? {
            Some(child) => node = child,
            None => return Ok(Some(format!("{} is not there", String::from_utf8_lossy(name)))),
        }
    }
    let found = filesystem.metadata(node).map_err(said)?;
    let facts = |kind, mode, owner, size| format!("{kind:?}, mode {mode:o}, owner {owner:?}, {size:?} bytes");
    let size = |size: u64| (known.kind != NodeKind::Directory).then_some(size);
    let expected = facts(known.kind, known.mode, (known.uid, known.gid), size(known.size));
    let found = facts(found.kind, found.mode, (found.uid, found.gid), size(found.size));
    if expected != found {
        return Ok(Some(format!("expected {expected}, found {found}")));
    }
    match &known.content {
        Some(content) => {
            let found = tree::content_by_us(filesystem, node, known.size, &mut Vec::new(), "")?;
            Ok((content.as_ref() != Ok(&found)).then(|| "other content".to_owned()))
        }
        None if known.kind == NodeKind::Symlink => {
            let target = filesystem.read_link(node).map_err(said)?;
            Ok((known.target.as_ref() != Some(&target)).then(|| "another target".to_owned()))
        }
        None => Ok(None),
    }
}
