//! ext2, ext3, ext4: what we read is what the kernel shows, for every set of features, from whole volumes and from ones
//! that were copied while they were being written.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abbild::disk::{Disk, DiskError, Extent};
use abbild::guest::ext;
use abbild::guest::tree::FileSystem;
use abbild::units::{ByteLen, GuestOffset};

use crate::guest_tree::{self as tree, Field, Mount};

/// A folder for images and mounts.
pub(crate) struct Stage(tempfile::TempDir);

impl Stage {
    pub fn new() -> Stage {
        Stage(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes an image of so many MiB with `mke2fs ARGS`.
    #[track_caller]
    pub fn image(&self, mib: u64, args: &[&str]) -> PathBuf {
        let image = self.path("volume.img");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        // Nothing of the machine's own configuration: what is not asked for is off.
        let fixed = ["-q", "-F", "-E", "lazy_itable_init=0,nodiscard", "-N", if mib < 16 { "64" } else { "3000" }];
        tree::run("mke2fs", &[&fixed, args, &[image.to_str().unwrap()]].concat());
        image
    }
}

pub(crate) fn opened(image: &Path) -> ext::Ext {
    ext::open(tree::disk(image)).unwrap_or_else(|err| panic!("{err}"))
}

/// Fills a new filesystem with an awkward tree and `more`, and compares what the kernel and we see of it.
#[track_caller]
fn as_the_kernel_sees_it(mib: u64, args: &[&str], kind: &str, more: fn(&Path)) {
    let stage = Stage::new();
    let image = stage.image(mib, args);
    let mount = Mount::new(&image, &stage.path("mount"), "rw");
    tree::fill(mount.path());
    more(mount.path());
    mount.unmount();
    let mount = Mount::new(&image, &stage.path("mount"), "ro");
    let expected = tree::of_folder(mount.path());
    mount.unmount();
    let ours = opened(&image);
    tree::compare(&args.join(" "), &expected, &tree::of_tree(&ours), &[]);
    assert_eq!(ours.summary().kind, kind);
    assert_eq!(ours.summary().warnings, Vec::<String>::new());
    let blkid = tree::run("blkid", &["-p", "-o", "value", "-s", "UUID", "-s", "LABEL", image.to_str().unwrap()]);
    let mut known = vec![ours.summary().uuid.clone()];
    known.extend(Some(ours.summary().label.clone()).filter(|label| !label.is_empty()));
    known.sort_unstable();
    let mut expected: Vec<&str> = blkid.lines().collect();
    expected.sort_unstable();
    assert_eq!(known, expected);
}

fn nothing_more(_: &Path) {}

/// Attributes larger than a block: in inodes of their own.
fn large_attributes(folder: &Path) {
    let file = folder.join("large attributes");
    fs::write(&file, "content").unwrap();
    tree::set_attribute(&file, "user.small", b"1");
    for (name, len) in [("user.a", 5000), ("user.b", 40_000), ("user.c", 65_536)] {
        tree::set_attribute(&file, name, &vec![b'v'; len]);
    }
    std::os::unix::fs::symlink("short", folder.join("link with a large attribute")).unwrap();
    tree::set_attribute(&folder.join("link with a large attribute"), "trusted.large", &[b'w'; 9000]);
}

#[test]
fn ext2_with_small_blocks_and_inodes() {
    as_the_kernel_sees_it(80, &["-t", "ext2", "-b", "1024", "-I", "128", "-L", "small ones"], "ext2", nothing_more);
}

#[test]
fn ext3() {
    as_the_kernel_sees_it(80, &["-t", "ext3"], "ext3", nothing_more);
}

#[test]
fn ext4_by_default() {
    as_the_kernel_sees_it(80, &["-t", "ext4", "-L", "sixteen bytes ab"], "ext4", nothing_more);
}

#[test]
fn ext4_with_small_blocks_has_deep_trees() {
    as_the_kernel_sees_it(80, &["-t", "ext4", "-b", "1024", "-O", "large_dir"], "ext4", nothing_more);
}

#[test]
fn ext4_with_content_in_inodes() {
    let args = ["-t", "ext4", "-O", "64bit,metadata_csum,inline_data", "-I", "512"];
    as_the_kernel_sees_it(80, &args, "ext4", nothing_more);
}

#[test]
fn ext4_with_content_in_small_inodes_and_no_checksums() {
    let args = ["-t", "ext4", "-O", "^64bit,^metadata_csum,uninit_bg,inline_data"];
    as_the_kernel_sees_it(80, &args, "ext4", nothing_more);
}

#[test]
fn ext4_in_clusters() {
    as_the_kernel_sees_it(160, &["-t", "ext4", "-O", "bigalloc", "-C", "65536"], "ext4", nothing_more);
}

#[test]
fn ext4_without_extents() {
    as_the_kernel_sees_it(80, &["-t", "ext4", "-O", "^extents,^64bit", "-b", "1024"], "ext4", nothing_more);
}

#[test]
fn ext4_with_spread_descriptors() {
    let args = ["-t", "ext4", "-O", "meta_bg,^resize_inode,64bit", "-b", "1024", "-g", "1024"];
    as_the_kernel_sees_it(80, &args, "ext4", nothing_more);
}

#[test]
fn ext4_with_checksums_and_old_inodes() {
    let args = ["-t", "ext4", "-O", "metadata_csum,sparse_super2,^resize_inode,metadata_csum_seed", "-I", "128"];
    as_the_kernel_sees_it(80, &args, "ext4", nothing_more);
}

#[test]
fn ext4_with_large_attributes() {
    let args = ["-t", "ext4", "-O", "ea_inode,mmp,orphan_file"];
    as_the_kernel_sees_it(80, &args, "ext4", large_attributes);
}

#[test]
fn a_folder_without_root_is_an_image_and_comes_back() {
    let stage = Stage::new();
    let folder = stage.path("folder");
    fs::create_dir(&folder).unwrap();
    tree::fill(&folder);
    // mke2fs makes two links of one with two names, and takes long for large directories.
    fs::remove_file(folder.join("links/to bytes, again")).unwrap();
    fs::remove_dir_all(folder.join("ten thousand")).unwrap();
    // The largest blocks cannot be mounted on machines of small pages, so the folder itself is the judge.
    for block_size in ["2048", "65536"] {
        let args =
            ["-t", "ext4", "-b", block_size, "-O", "metadata_csum,quota,project", "-d", folder.to_str().unwrap()];
        let image = stage.image(160, &args);
        let mut ours = tree::of_tree(&opened(&image));
        ours.remove(&b"lost+found"[..]);
        // What mke2fs sets itself, or does not take over.
        let left_out = [
            Field::Accessed,
            Field::Changed,
            Field::Created,
            Field::Modified,
            Field::Allocated,
            Field::Data,
            Field::DirectorySize,
            Field::DirectoryLinks,
        ];
        tree::compare(block_size, &tree::of_folder(&folder), &ours, &left_out);
    }
}

/// A disk that counts what is read of it.
struct Counting {
    disk: Arc<dyn Disk>,
    bytes: AtomicUsize,
}

impl Disk for Counting {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.bytes.fetch_add(buf.len(), Ordering::Relaxed);
        self.disk.read_at(at, buf)
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        self.disk.extent_at(at)
    }
}

#[test]
fn a_name_in_a_large_directory_is_found_by_its_hash() {
    let stage = Stage::new();
    let folder = stage.path("folder");
    fs::create_dir_all(folder.join("large")).unwrap();
    fs::write(folder.join("large/0"), "one node, many names").unwrap();
    const NAMES: u32 = 3000;
    let name = |index: u32| [format!("{index} ").into_bytes(), vec![0x80 | index.to_le_bytes()[0]; 90]].concat();
    for index in 0..NAMES {
        fs::hard_link(folder.join("large/0"), folder.join("large").join(OsStr::from_bytes(&name(index)))).unwrap();
    }
    let image = stage.image(24, &["-t", "ext4", "-b", "1024", "-O", "metadata_csum", "-d", folder.to_str().unwrap()]);
    let file = image.to_str().unwrap();
    for (hash, flags) in [("half_md4", 1), ("half_md4", 2), ("tea", 1), ("tea", 2), ("legacy", 1), ("legacy", 2)] {
        tree::run("debugfs", &["-w", "-R", &format!("set_super_value flags {flags}"), file]);
        tree::run("tune2fs", &["-E", &format!("hash_alg={hash}"), file]);
        tree::run_checker("e2fsck", &["-fyD", file]);
        let sound = opened(&image);
        let large = sound.lookup(sound.root(), b"large").unwrap().unwrap();
        let one = sound.lookup(large, b"0").unwrap();
        assert!(one.is_some());
        for index in (0..NAMES).step_by(97) {
            for (name, expected) in [(name(index), one), (name(index + NAMES), None)] {
                let disk = Arc::new(Counting { disk: tree::disk(&image), bytes: AtomicUsize::new(0) });
                let ours = ext::open(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
                ours.metadata(large).unwrap();
                let before = disk.bytes.load(Ordering::Relaxed);
                assert_eq!(ours.lookup(large, &name).unwrap(), expected, "{hash} {flags} {index}");
                // The directory has more than 300 KB; the index's two blocks and one of names come in pieces of 32 KiB.
                let read = disk.bytes.load(Ordering::Relaxed) - before;
                assert!(read <= 3 << 15, "{hash} {flags} {index}: {read} bytes read");
            }
        }
    }
}
