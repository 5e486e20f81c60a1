//! The matrix: every way to store a disk, backed up and restored into every format and onto a block device. Each cell is
//! green only if our own reader gives the same SHA-256 for the target, and `qemu-img compare` finds it equal.
//!
//! To see it: `cargo nextest run matrix --no-capture`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use abbild::disk::Disk;
use abbild::formats::sink::Overwrite;
use abbild::formats::{self, Image, OpenPolicy};
use abbild::ops::backup::{BackupOptions, backup};
use abbild::ops::machines;
use abbild::ops::restore::{DiskFormat, DiskTarget, restore_disk};
use abbild::repo::Repository;
use abbild::repo::manifest::Manifest;
use abbild::repo::store::faulty::MemFs;
use abbild::units::GuestOffset;
use sha2::{Digest, Sha256};

use crate::formats_gallery::{folder, raw, rows};
use crate::formats_model::{Model, awkward};
use crate::world::{create_on, quiet};

/// What stands in a cell; all but this one and [`NOT_READ`] are failures.
const GREEN: &str = "ok";
/// QEMU does not read this variant: our own reader alone was asked.
const NOT_READ: &str = "ok*";

/// A column: where disks are restored to.
enum Target {
    File(DiskFormat),
    Device(PathBuf),
}

impl Target {
    fn name(&self) -> String {
        match self {
            Target::File(format) => serde_json::to_value(format).unwrap().as_str().unwrap().to_owned(),
            Target::Device(_) => "device".to_owned(),
        }
    }
}

/// A loop device; detached when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    /// Larger than the disk, full of something else; `Err` says why there is none.
    fn over(file: &Path, len: u64) -> Result<LoopDevice, String> {
        fs::write(file, vec![0xee; usize::try_from(len).unwrap()]).unwrap();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let output = output.map_err(|err| format!("losetup: {err}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(LoopDevice(PathBuf::from(text(&output.stdout)))),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// Everything that a cell is compared with.
struct Expected {
    model: Model,
    sha256: Vec<u8>,
    /// The content in a file, for `qemu-img compare`.
    plain: PathBuf,
}

fn sha256_of(disk: &dyn Disk, size: u64) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut part = vec![0; 1 << 20];
    for at in (0..size).step_by(part.len()) {
        let len = part.len().min(usize::try_from(size - at).unwrap());
        disk.read_at(GuestOffset(at), &mut part[..len]).unwrap();
        hash.update(&part[..len]);
    }
    hash.finalize().to_vec()
}

/// QEMU's name for the format of an image of ours.
fn driver(image: &Image) -> &str {
    match image.layers[0].variant.split(' ').next().unwrap() {
        "vhd" => "vpc",
        name => name,
    }
}

/// `Ok` if qemu-img finds `path` equal to the plain file and says nothing else.
fn compare(expected: &Expected, path: &Path, driver: &str) -> Result<(), String> {
    // QEMU looks for a data file of that name where it runs.
    let output = Command::new("qemu-img")
        .current_dir(path.parent().unwrap())
        .args(["compare", "-f", driver, "-F", "raw"])
        .args([path, &expected.plain])
        .output()
        .unwrap_or_else(|err| panic!("qemu-img is needed by this test (package qemu-utils): {err}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match output.status.success() && said == "Images are identical." {
        true => Ok(()),
        false => Err(format!("qemu-img: {said}")),
    }
}

fn back_up(repository: &Arc<Repository>, path: &Path) -> Result<Manifest, String> {
    let machine = machines::read(path).map_err(|err| format!("machine: {err}"))?;
    let options = BackupOptions::default();
    let committed = backup(repository, &machine, &options, quiet(&AtomicBool::new(false)));
    committed.map(|committed| committed.manifest).map_err(|err| format!("backup: {err}"))
}

/// Restores the backup to the target, and looks at what is there now.
fn cell(
    repository: &Arc<Repository>,
    manifest: &Manifest,
    target: &Target,
    folder: &Path,
    expected: &Expected,
) -> Result<&'static str, String> {
    let to = match target {
        Target::File(format) => {
            let path = folder.join(format!("restored.{}", format.extension()));
            DiskTarget::File { path, format: *format, overwrite: Overwrite::Refuse }
        }
        Target::Device(path) => DiskTarget::Device(path.clone()),
    };
    let restored = restore_disk(repository, manifest, 0, &to, quiet(&AtomicBool::new(false)));
    let restored = restored.map_err(|err| format!("restore: {err}"))?;
    let path = &restored.files[0];
    let image = formats::open(path, &OpenPolicy::named_by_user(path).unwrap()).map_err(|err| err.to_string())?;
    let is_larger = matches!(target, Target::Device(_));
    if image.size().0 != expected.model.size && !is_larger {
        return Err(format!("{} bytes", image.size()));
    }
    if sha256_of(&image.disk(), expected.model.size) != expected.sha256 {
        return Err("another SHA-256".to_owned());
    }
    if is_larger {
        // What lies behind the disk is not the restore's: qemu-img judges a copy of the disk's own range.
        let copy = folder.join("range");
        let device = fs::read(path).unwrap();
        fs::write(&copy, &device[..usize::try_from(expected.model.size).unwrap()]).unwrap();
        return compare(expected, &copy, "raw").map(|()| GREEN);
    }
    compare(expected, path, driver(&image)).map(|()| GREEN)
}

#[test]
fn matrix_of_sources_and_targets() {
    let dir = folder();
    let model = awkward();
    let plain = raw(dir.path(), "expected", &model);
    let expected = Expected { sha256: Sha256::digest(fs::read(&plain).unwrap()).to_vec(), plain, model };
    let device = LoopDevice::over(&dir.path().join("behind the device"), 8 << 20);
    let mut targets: Vec<Target> = DiskFormat::ALL.into_iter().map(Target::File).collect();
    targets.extend(device.as_ref().ok().map(|device| Target::Device(device.0.clone())));

    let mut table = vec![vec!["source".to_owned(), "read".to_owned()]];
    table[0].extend(targets.iter().map(Target::name));
    table[0].extend(device.is_err().then(|| "device".to_owned()));
    let mut failures = Vec::new();
    // One repository: what the first source stored, all others find.
    let repository = create_on(&MemFs::new());
    for source in rows() {
        let scene = folder();
        let path = source.lay(scene.path(), &expected.model);
        let mut cells = vec![source.name.to_owned()];
        let mut note = |column: &str, outcome: Result<&str, String>| {
            cells.push(outcome.as_ref().map_or("FAILED", |cell| *cell).to_owned());
            failures.extend(outcome.err().map(|why| format!("{} → {column}: {why}", source.name)));
        };
        note(
            "read",
            match source.driver {
                Some(driver) => compare(&expected, &path, driver).map(|()| GREEN),
                None => Ok(NOT_READ),
            },
        );
        let manifest = back_up(&repository, &path);
        // Side by side, because they mostly wait for their files to be durable.
        let cell_of = |target| {
            let scene = folder();
            let manifest = manifest.as_ref().map_err(String::clone)?;
            cell(&repository, manifest, target, scene.path(), &expected)
        };
        let outcomes: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = targets.iter().map(|target| scope.spawn(|| cell_of(target))).collect();
            running.into_iter().map(|cell| cell.join().unwrap()).collect()
        });
        for (target, outcome) in targets.iter().zip(outcomes) {
            note(&target.name(), outcome);
        }
        cells.extend(device.is_err().then(|| "NOT RUN".to_owned()));
        table.push(cells);
    }
    println!("{}", aligned(&table));
    println!("ok: SHA-256 by our reader and `qemu-img compare` agree; ok*: QEMU does not read this source");
    if let Err(why) = &device {
        println!("\n!!! The column \"device\" was NOT RUN: no loop device could be made (root is needed): {why}\n");
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert_eq!(table.len(), rows().len() + 1);
}

/// Columns as wide as their widest cell.
pub fn aligned(table: &[Vec<String>]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}
