//! Seeds for the targets that look into guests: small volumes of every filesystem, with something of everything on them,
//! and small disks divided in every way.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use crate::fuzz_seeds::{place, seed_folder};
use crate::fuzz_targets::stage::REPAIR;
use crate::guest_tree::{Mount, run, set_attribute};
use crate::{guest_exfat, tools};

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

/// NTFS, FAT and exFAT.
fn of_windows() {
    let dir = place();
    let image = dir.path().join("disk");
    tools::blank(dir.path(), "disk", 2 << 20);
    run("mkntfs", &["-q", "-F", "-f", "-T", "-c", "512", image.to_str().unwrap()]);
    let mounts = place();
    let mount = Mount::new(&image, &mounts.path().join("mount"), "rw,compression");
    fs::write(mount.path().join("hello"), "hello\n").unwrap();
    fs::hard_link(mount.path().join("hello"), mount.path().join("again")).unwrap();
    symlink("hello", mount.path().join("link")).unwrap();
    set_attribute(&mount.path().join("hello"), "user.stream", b"words");
    let folder = mount.path().join("compressed");
    fs::create_dir(&folder).unwrap();
    set_attribute(&folder, "system.ntfs_attrib_be", &0x800u32.to_be_bytes());
    fs::write(folder.join("file"), "again and again ".repeat(1000)).unwrap();
    mount.unmount();
    // The table of capitals is large and the same everywhere; without it the usual one is used.
    let mut bytes = fs::read(&image).unwrap();
    let capitals: Vec<u8> = (0..64u16).flat_map(u16::to_le_bytes).collect();
    let at = bytes.windows(capitals.len()).position(|window| window == capitals).expect("a table of capitals");
    bytes[at..at + (128 << 10)].fill(0);
    // Nor is a log that holds nothing worth its length.
    for piece in bytes.chunks_mut(4096) {
        if piece.iter().all(|byte| *byte == 0xff) {
            piece.fill(0);
        }
    }
    fs::write(&image, bytes).unwrap();
    seed_folder("guest_ntfs", "compressed", 0, dir.path(), "disk");

    for (name, kib, options) in [
        ("fat12", 200, &["-F", "12"][..]),
        ("fat16", 5 << 10, &["-F", "16", "-s", "1"]),
        ("fat32", 40 << 10, &["-F", "32", "-s", "1"]),
    ] {
        let (dir, source) = (place(), place());
        tools::blank(dir.path(), "disk", kib << 10);
        let image = dir.path().join("disk").to_str().unwrap().to_owned();
        run("mkfs.vfat", &[options, &[image.as_str()]].concat());
        let folder = source.path().join("folder");
        fs::create_dir_all(folder.join("inner")).unwrap();
        for name in ["SHORT.TXT", "a longer name, in two records.text", "Größe", "inner/file"] {
            fs::write(folder.join(name), name.repeat(60)).unwrap();
        }
        run("mcopy", &["-s", "-Q", "-i", &image, folder.to_str().unwrap(), "::/"]);
        seed_folder("guest_fat", name, 0, dir.path(), "disk");
    }

    let dir = place();
    let image = guest_exfat::made(dir.path(), "disk", 4, "-c 512");
    let mount = guest_exfat::Mount::new(&image, &mounts.path().join("exfat"), "noatime");
    for name in ["file", "a longer name, in several entries", "Größe"] {
        fs::write(mounts.path().join("exfat").join(name), name.repeat(100)).unwrap();
    }
    fs::create_dir(mounts.path().join("exfat/folder")).unwrap();
    fs::write(mounts.path().join("exfat/folder/inner"), "inner").unwrap();
    drop(mount);
    seed_folder("guest_exfat", "small", 0, dir.path(), "disk");
}

/// ISO 9660 and squashfs, made of a folder.
fn read_only() {
    let source = place();
    fill(source.path());
    let source = source.path().to_str().unwrap();
    let made = |target: &str, name: &str, make: &[&str]| {
        let dir = place();
        let image = dir.path().join("disk");
        let words = make.iter().map(|word| match *word {
            "IMAGE" => image.to_str().unwrap(),
            "FOLDER" => source,
            word => word,
        });
        let words: Vec<&str> = words.collect();
        run(words[0], &words[1..]);
        seed_folder(target, name, 0, dir.path(), "disk");
    };
    made("guest_iso9660", "plain", &["genisoimage", "-quiet", "-iso-level", "1", "-o", "IMAGE", "FOLDER"]);
    made("guest_iso9660", "rock-ridge", &["genisoimage", "-quiet", "-R", "-o", "IMAGE", "FOLDER"]);
    made("guest_iso9660", "joliet", &["genisoimage", "-quiet", "-J", "-joliet-long", "-o", "IMAGE", "FOLDER"]);
    for compressor in ["gzip", "zstd", "xz", "lz4", "lzo"] {
        let make = ["mksquashfs", "FOLDER", "IMAGE", "-quiet", "-no-progress", "-comp", compressor];
        made("guest_squashfs", compressor, &make);
    }
    let plain =
        ["mksquashfs", "FOLDER", "IMAGE", "-quiet", "-no-progress", "-noI", "-noF", "-noX", "-noD", "-b", "4096"];
    made("guest_squashfs", "uncompressed", &plain);
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
    of_windows();
    read_only();
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
