//! One awkward tree on every filesystem, divided in every way: what we read of it is what the filesystem's own driver
//! shows. Printed as a table by `cargo nextest run awkward_trees --no-capture`.
//!
//! Columns are ways to divide disks: an MBR's logical partition, a GPT partition, a logical volume of LVM in three pieces
//! on two disks. The last column is a copy made while the filesystem was mounted and busy: nothing of what had come to rest
//! before may be other than it was without an error that names it.

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

/// Size of every filesystem: that of the logical volume of fixtures/lvm/two.
const SIZE: u64 = 520 << 20;
const MIB: u64 = 1 << 20;

/// A filesystem: how it is made and mounted, and what its driver does not show as it is.
struct Row {
    name: &'static str,
    make: &'static [&'static str],
    /// Options to mount it for filling, and for looking at it.
    mount: [&'static str; 2],
    left_out: &'static [Field],
}

const ROWS: &[Row] = &[
    Row { name: "ext2", make: &["mke2fs", "-q", "-F", "-t", "ext2"], mount: ["rw", "ro"], left_out: &[] },
    Row { name: "ext3", make: &["mke2fs", "-q", "-F", "-t", "ext3"], mount: ["rw", "ro"], left_out: &[] },
    Row { name: "ext4", make: &["mke2fs", "-q", "-F", "-t", "ext4"], mount: ["rw", "ro"], left_out: &[] },
    Row { name: "xfs", make: &["mkfs.xfs", "-q", "-f"], mount: ["rw", "ro,norecovery"], left_out: &[] },
    Row { name: "btrfs, zstd", make: &["mkfs.btrfs", "-q", "-f"], mount: ["compress=zstd", "ro"], left_out: &[] },
];

fn table(rows: &[Row]) {
    println!("{:<14}{:>9}  {:<14}{:<14}{:<20}busy copy", "", "names", "MBR, logical", "GPT", "LVM over two disks");
    for row in rows {
        let dir = tempfile::tempdir().unwrap();
        let (image, place) = (dir.path().join("volume"), dir.path().join("mount"));
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        run(row.make[0], &[&row.make[1..], &[image.to_str().unwrap()]].concat());
        let mount = Mount::new(&image, &place, row.mount[0]);
        tree::fill(mount.path());
        mount.unmount();
        let mount = Mount::new(&image, &place, row.mount[1]);
        let expected = plain(of_folder(mount.path()));
        mount.unmount();
        for (what, disks, volume) in divided(dir.path(), &image) {
            let machine = GuestMachine::new(&disks);
            let filesystem = machine.filesystem(volume).unwrap_or_else(|| panic!("{} {what}: no {volume}", row.name));
            let filesystem = filesystem.unwrap_or_else(|error| panic!("{} {what}: {error}", row.name));
            assert_eq!(filesystem.summary().warnings, Vec::<String>::new(), "{} {what}", row.name);
            compare(&format!("{} {what}", row.name), &expected, &of_tree(filesystem.as_ref()), row.left_out);
        }
        let busy = copied_while_busy(row, dir.path(), &image);
        let (equal, named) = at_rest(row, &busy, &expected);
        println!(
            "{:<14}{:>9}  {:<14}{:<14}{:<20}{equal} equal, {named} named",
            row.name,
            expected.len(),
            "equal",
            "equal",
            "equal"
        );
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
fn copied_while_busy(row: &Row, folder: &Path, image: &Path) -> PathBuf {
    let mount = Mount::new(image, &folder.join("mount"), row.mount[0]);
    let place = mount.path().join("busy");
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
    mount.unmount();
    target
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
