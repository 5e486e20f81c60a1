//! XFS: volumes made by `mkfs.xfs`, filled by the kernel, and read by both. The kernel's view of the same image is the judge;
//! where it no longer reads a form (version 4), the folder that `mkfs.xfs` copied from is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use abbild::guest::tree::FileSystem;
use abbild::guest::xfs::{self, Xfs};

use crate::guest_tree::{Mount, Tree, compare, disk, fill, of_folder, of_tree, run, set_attribute};

/// A sparse image file with a new XFS, made with these options.
#[track_caller]
fn made(folder: &Path, options: &str) -> PathBuf {
    let image = folder.join("xfs.img");
    fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    let mut args: Vec<&str> = vec!["-q", "-f"];
    args.extend(options.split_whitespace());
    args.push(image.to_str().unwrap());
    run("mkfs.xfs", &args);
    image
}

#[track_caller]
fn open(image: &Path) -> Xfs {
    xfs::open(disk(image)).unwrap()
}

/// The kernel's view; Linux shows ACLs twice to root, we once.
fn of_kernel(folder: &Path) -> Tree {
    let mut tree = of_folder(folder);
    for named in tree.values_mut() {
        if named.node.attributes.iter().any(|(name, _)| name.starts_with(b"trusted.SGI_ACL_")) {
            let mut node = (*named.node).clone();
            node.attributes.retain(|(name, _)| !name.starts_with(b"trusted.SGI_ACL_"));
            named.node = Rc::new(node);
        }
    }
    tree
}

/// Fills a new volume and compares our view with the kernel's.
#[track_caller]
fn check(options: &str, more: fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), options);
    let place = dir.path().join("mount");
    let mount = Mount::new(&image, &place, "defaults");
    fill(mount.path());
    more(mount.path());
    mount.unmount();
    let mount = Mount::new(&image, &place, "ro,norecovery");
    let expected = of_kernel(mount.path());
    mount.unmount();
    let tree = open(&image);
    assert_eq!(tree.summary().warnings, Vec::<String>::new());
    compare(options, &expected, &of_tree(&tree), &[]);
}

fn many_attributes(folder: &Path) {
    let many = folder.join("many attributes");
    fs::write(&many, "").unwrap();
    for index in 0..1500 {
        set_attribute(&many, &format!("user.{index}"), &vec![b'v'; index % 60]);
    }
    let long = folder.join("long values");
    fs::write(&long, "").unwrap();
    for len in [200, 1000, 2000, 3000, 4000, 4040, 4041, 4096, 20_000, 65_535, 65_536] {
        set_attribute(&long, &format!("user.{len}"), &(0..len).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    }
}

/// Two directories that grow in turns, so that neither is in one piece.
fn directories_in_pieces(folder: &Path) {
    for name in ["one", "other"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let file = folder.join("one/file");
    fs::write(&file, "").unwrap();
    for index in 0..2500 {
        for name in ["one", "other"] {
            fs::hard_link(&file, folder.join(format!("{name}/{index}{}", "n".repeat(200)))).unwrap();
        }
    }
}

/// A file of so many pieces that its map is a tree of several levels.
fn file_in_pieces(folder: &Path) {
    let file = fs::File::create(folder.join("pieces")).unwrap();
    for index in (0..3000).rev() {
        file.write_all_at(&[1 + (index % 255) as u8; 100], index * 8192).unwrap();
    }
    file.sync_all().unwrap();
    let file = fs::File::create(folder.join("1 TiB")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", 1 << 40).unwrap();
}

fn shared_extents(folder: &Path) {
    let content: Vec<u8> = (0..400_000u32).map(|at| (at / 7) as u8).collect();
    fs::write(folder.join("original"), &content).unwrap();
    let original = fs::File::open(folder.join("original")).unwrap();
    let copy = fs::File::create(folder.join("copy")).unwrap();
    rustix::fs::ioctl_ficlone(&copy, &original).unwrap();
    copy.write_all_at(b"changed here", 100_000).unwrap();
}

#[test]
fn as_made_by_default_with_shared_extents_and_many_attributes() {
    check("-L awkward", |folder| {
        many_attributes(folder);
        shared_extents(folder);
        directories_in_pieces(folder);
    });
}

#[test]
fn small_blocks_and_large_directory_blocks() {
    check("-b size=1024 -n size=8192 -m reflink=0,bigtime=0", |folder| {
        file_in_pieces(folder);
        many_attributes(folder);
        directories_in_pieces(folder);
    });
}

#[test]
fn small_blocks_everywhere() {
    check("-b size=1024 -n size=4096 -i nrext64=1", |folder| {
        file_in_pieces(folder);
        directories_in_pieces(folder);
    });
}

#[test]
fn large_sectors_inodes_and_directory_blocks() {
    check("-s size=4096 -i size=2048 -n size=65536 -i sparse=0", many_attributes);
}

#[test]
fn the_largest_blocks() {
    check("-b size=65536 -m rmapbt=1", many_attributes);
}
