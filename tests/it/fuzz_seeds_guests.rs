//! Seeds for the targets that look into guests: small volumes of every filesystem, with something of everything on them,
//! and small disks divided in every way.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use crate::fuzz_seeds::{place, seed_folder};
use crate::fuzz_targets::stage::REPAIR;
use crate::guest_tree::{Mount, run, set_attribute};
use crate::tools;

/// A small tree with something of everything.
fn fill(folder: &Path) {
    fs::write(folder.join("hello"), "hello\n").unwrap();
    fs::hard_link(folder.join("hello"), folder.join("again")).unwrap();
    symlink("hello", folder.join("link")).unwrap();
    symlink("t".repeat(200), folder.join("long link")).unwrap();
    let many = folder.join("folder");
    fs::create_dir(&many).unwrap();
    for index in 0..40 {
        fs::hard_link(folder.join("hello"), many.join(format!("{index} {}", "n".repeat(100)))).unwrap();
    }
    let holes = fs::File::create(folder.join("holes")).unwrap();
    for index in 0..12u64 {
        holes.write_all_at(&[index as u8 + 1; 64], index * 16_384).unwrap();
    }
    set_attribute(&folder.join("hello"), "user.comment", &[b'c'; 30]);
    set_attribute(&many, "user.long", &[b'l'; 300]);
}

/// A seed of a volume in an image of so many MiB: made by a tool, filled through a mount with these options.
fn mounted(target: &str, name: &str, options: u8, mib: u64, make: &[&str], mount_options: &str) {
    let dir = place();
    let image = dir.path().join("disk");
    tools::blank(dir.path(), "disk", mib << 20);
    run(make[0], &[&make[1..], &[image.to_str().unwrap()]].concat());
    let mounts = place();
    let mount = Mount::new(&image, &mounts.path().join("mount"), mount_options);
    fill(mount.path());
    mount.unmount();
    seed_folder(target, name, options, dir.path(), "disk");
}

/// XFS, filled by its maker: kernels no longer mount version 4, and a log that was used has something in every sector.
fn prototype(name: &str, make: &[&str]) {
    let (dir, source) = (place(), place());
    let description = source.path().join("description");
    let content = source.path().join("content");
    fs::write(&content, [7; 3000]).unwrap();
    let names: String = (0..40).map(|index| format!("name{index} ---644 0 0 /dev/null\n")).collect();
    let content = content.display();
    let text = format!(
        "/\n0 0\nd--755 0 0\nfile ---640 1 2 {content}\nlink l--777 0 0 file\nnull c--666 0 0 1 3\n\
         folder d--755 0 0\n{names}$\n$\n"
    );
    fs::write(&description, text).unwrap();
    tools::blank(dir.path(), "disk", 24 << 20);
    let (place, image) = (description.to_str().unwrap(), dir.path().join("disk"));
    run(make[0], &[&make[1..], &["-p", place, image.to_str().unwrap()]].concat());
    seed_folder("guest_xfs", name, REPAIR, dir.path(), "disk");
}

pub(crate) fn seeds() {
    let ext = |name: &str, args: &[&str]| {
        let make = [&["mke2fs", "-q", "-F", "-N", "32", "-b", "1024"], args].concat();
        mounted("guest_ext", name, 0, 4, &make, "rw");
    };
    ext("ext2", &["-t", "ext2"]);
    ext("ext3", &["-t", "ext3", "-J", "size=1"]);
    ext("ext4", &["-t", "ext4", "-O", "^metadata_csum,inline_data,64bit", "-I", "256", "-J", "size=1"]);
    ext("ext4-csum", &["-t", "ext4", "-O", "metadata_csum,^has_journal"]);
    let xfs = ["mkfs.xfs", "-q", "-f", "--unsupported", "-d", "agcount=1", "-l", "size=8m", "-i", "maxpct=1"];
    prototype("v4", &[&xfs[..], &["-m", "crc=0,finobt=0"]].concat());
    prototype("v5", &[&xfs[..], &["-m", "crc=1"]].concat());
    for (name, options) in [("plain", "rw"), ("zlib", "compress-force=zlib"), ("zstd", "compress-force=zstd")] {
        let make = ["mkfs.btrfs", "-q", "-f", "--mixed", "-m", "single", "-d", "single", "-n", "4096", "-s", "4096"];
        mounted("guest_btrfs", name, REPAIR, 24, &make, options);
    }
    for (name, script) in [
        (
            "mbr",
            "label: dos\nstart=2048, size=2048, type=83\nstart=4096, size=8192, type=5\n5: size=1024\n6: size=1024\n",
        ),
        ("gpt", "label: gpt\nsize=1M, name=one\nsize=2M, name=two\n"),
    ] {
        let dir = place();
        tools::blank(dir.path(), "disk", 8 << 20);
        tools::run_with("sfdisk", "fdisk", dir.path(), &["-q", "disk"], script);
        tools::blank(dir.path(), "volume", 1 << 20);
        tools::run("mke2fs", "e2fsprogs", dir.path(), &["-q", "-F", "-t", "ext2", "-N", "16", "volume"]);
        let disk = fs::File::options().write(true).open(dir.path().join("disk")).unwrap();
        disk.write_all_at(&fs::read(dir.path().join("volume")).unwrap(), 1 << 20).unwrap();
        fs::remove_file(dir.path().join("volume")).unwrap();
        seed_folder("guest_partitions", name, REPAIR, dir.path(), "disk");
    }
    let groups = [("several-kinds", "fixtures/lvm/pv%.gz", 3), ("on-two-disks", "fixtures/lvm/two/pv%.gz", 2)];
    for (name, heads, count) in groups {
        let dir = place();
        for number in 0..count {
            let head = Path::new(env!("CARGO_MANIFEST_DIR")).join(heads.replace('%', &number.to_string()));
            let disk = dir.path().join(format!("disk{number}"));
            run("sh", &["-c", &format!("gzip -dc {} > {}", head.display(), disk.display())]);
            fs::File::options().write(true).open(&disk).unwrap().set_len(8 << 20).unwrap();
        }
        seed_folder("guest_lvm", name, REPAIR, dir.path(), "disk0");
    }
}
