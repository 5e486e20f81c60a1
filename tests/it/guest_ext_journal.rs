//! Volumes with a journal that nobody replayed: we show what the kernel shows after it did.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use abbild::guest::tree::FileSystem;

use crate::guest_ext::{Stage, opened};
use crate::guest_tree::{self as tree, Mount};

/// A journal's block kinds.
const COMMIT: u8 = 2;
const REVOCATION: u8 = 5;

/// Blocks of a kind in the whole image: old ones too.
fn journal_blocks(image: &Path, kind: u8) -> usize {
    let bytes = fs::read(image).unwrap();
    bytes.chunks(1024).filter(|block| block.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, kind])).count()
}

fn sync(folder: &Path) {
    rustix::fs::syncfs(fs::File::open(folder).unwrap()).unwrap();
}

/// Changes of every kind in many transactions, and some that reach the journal in no transaction.
fn busy(folder: &Path) {
    for round in 0..40u64 {
        let place = folder.join(format!("round {round}"));
        fs::create_dir(&place).unwrap();
        for index in 0..25 {
            let file = place.join(format!("{index} of {round}"));
            fs::write(&file, tree::noise(round * 100 + index, usize::try_from(index).unwrap() * 300)).unwrap();
            if index % 5 == 0 {
                tree::set_attribute(&file, "user.round", &tree::noise(round, 300));
                fs::hard_link(&file, place.join(format!("again {index}"))).unwrap();
            }
        }
        // Blocks that were directories and maps become data: their older versions in the journal must not come back.
        if let Some(old) = round.checked_sub(2).filter(|old| old % 4 != 0) {
            fs::remove_dir_all(folder.join(format!("round {old}"))).unwrap();
        }
        sync(folder);
    }
    fs::write(folder.join("forced out"), "by fsync").unwrap();
    fs::File::open(folder.join("forced out")).unwrap().sync_all().unwrap();
    fs::write(folder.join("never written"), "lost with the power").unwrap();
}

/// Data that looks like the journal's own, where data goes through the journal.
fn journal_in_journal(folder: &Path) {
    let file = fs::File::create(folder.join("magic")).unwrap();
    for block in 0..40 {
        file.write_all_at(&[&[0xc0, 0x3b, 0x39, 0x98][..], &[block; 1020]].concat(), u64::from(block) * 1024).unwrap();
    }
    sync(folder);
    file.write_all_at(&tree::noise(1, 10_000), 512).unwrap();
    sync(folder);
}

/// A copy of the image as the power failed after `work`.
fn copied_while_mounted(stage: &Stage, args: &[&str], options: &str, work: fn(&Path)) -> PathBuf {
    let image = stage.image(48, args);
    // No commits but those that are asked for, so that the copy is one moment's.
    let mount = Mount::new(&image, &stage.path("mount"), &format!("rw,commit=600{options}"));
    work(mount.path());
    fs::copy(&image, stage.path("copy.img")).unwrap();
    mount.unmount();
    stage.path("copy.img")
}

/// What the kernel shows of a copy after it replayed its journal.
fn replayed_by_kernel(stage: &Stage, image: &Path) -> tree::Tree {
    let judged = stage.path("judged.img");
    fs::copy(image, &judged).unwrap();
    Mount::new(&judged, &stage.path("mount"), "rw").unmount();
    let mount = Mount::new(&judged, &stage.path("mount"), "ro");
    tree::of_folder(mount.path())
}

#[track_caller]
fn as_the_kernel_replays_it(args: &[&str], options: &str, work: fn(&Path)) -> (Stage, PathBuf) {
    let stage = Stage::new();
    let image = copied_while_mounted(&stage, args, options, work);
    let ours = opened(&image);
    let warnings = &ours.summary().warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("journal replayed in memory: "), "{warnings:?}");
    tree::compare(&args.join(" "), &replayed_by_kernel(&stage, &image), &tree::of_tree(&ours), &[]);
    (stage, image)
}

#[test]
fn a_journal_of_ext4_is_replayed() {
    let args = ["-t", "ext4", "-O", "metadata_csum,64bit", "-b", "1024", "-J", "size=4"];
    let (_stage, image) = as_the_kernel_replays_it(&args, "", busy);
    assert!(journal_blocks(&image, REVOCATION) > 0, "the story was to have revocations");
}

#[test]
fn a_journal_that_wrapped_around_is_replayed() {
    let args = ["-t", "ext4", "-O", "^metadata_csum,^64bit", "-b", "1024", "-J", "size=1"];
    let (_stage, image) = as_the_kernel_replays_it(&args, "", busy);
    // More transactions than a journal of 1024 blocks holds left their traces.
    assert!(journal_blocks(&image, COMMIT) > 5);
}

#[test]
fn a_journal_of_ext3_is_replayed() {
    as_the_kernel_replays_it(&["-t", "ext3", "-b", "1024"], "", busy);
}

#[test]
fn a_journal_with_old_checksums_is_replayed() {
    let args = ["-t", "ext4", "-O", "^metadata_csum", "-b", "1024"];
    as_the_kernel_replays_it(&args, ",journal_checksum", busy);
}

#[test]
fn a_journal_that_holds_data_is_replayed() {
    for args in [&["-t", "ext4", "-b", "1024"][..], &["-t", "ext3", "-b", "1024"]] {
        let (_stage, image) = as_the_kernel_replays_it(args, ",data=journal", journal_in_journal);
        let bytes = fs::read(&image).unwrap();
        let escaped = bytes.chunks(1024).any(|block| block.starts_with(&[0, 0, 0, 0, 30, 30, 30, 30]));
        assert!(escaped, "the story was to have data whose magic the journal took away");
    }
}

#[test]
fn replay_ends_before_what_is_not_whole() {
    let stage = Stage::new();
    let args = ["-t", "ext4", "-O", "metadata_csum", "-b", "1024", "-J", "size=4"];
    let image = copied_while_mounted(&stage, &args, "", busy);
    let whole = opened(&image).summary().warnings.clone();
    let mut bytes = fs::read(&image).unwrap();
    let last = bytes
        .chunks(1024)
        .enumerate()
        .filter(|(_, block)| block.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, COMMIT]));
    // The newest commit; the sequence lies behind the kind.
    let (last, sequence) =
        last.map(|(index, block)| (index, block[8..12].to_vec())).max_by_key(|it| it.1.clone()).unwrap();
    bytes[last * 1024 + 60] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let ours = opened(&image);
    let sequence = u32::from_be_bytes(sequence.try_into().unwrap());
    let warnings = &ours.summary().warnings;
    assert_ne!(*warnings, whole);
    assert!(warnings[0].starts_with("journal replayed in memory: "), "{warnings:?}");
    assert_eq!(warnings[1], format!("the journal's replay stopped early: bad commit in transaction {sequence}"));
    // The transaction of the single file is gone, the ones before it are not.
    assert_eq!(ours.lookup(ours.root(), b"forced out").unwrap(), None);
    assert!(ours.lookup(ours.root(), b"round 39").unwrap().is_some());
    tree::of_tree(&ours);
}

#[test]
fn a_damaged_journal_leaves_the_volume_as_it_lies() {
    let stage = Stage::new();
    let args = ["-t", "ext4", "-O", "metadata_csum", "-b", "1024", "-J", "size=4"];
    let image = copied_while_mounted(&stage, &args, "", busy);
    let mut bytes = fs::read(&image).unwrap();
    let superblock = bytes.chunks(1024).position(|block| block.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4]));
    let at = superblock.unwrap() * 1024;
    bytes[at + 24] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let ours = opened(&image);
    let warning = &ours.summary().warnings[0];
    let begin = "the journal was not replayed: the newest changes may be missing or half done \
                 (checksum of the journal's superblock at ";
    assert!(warning.starts_with(begin), "{warning}");
    ours.metadata(ours.root()).unwrap();
}

#[test]
fn tags_of_the_second_version_are_read() {
    let stage = Stage::new();
    for features in ["metadata_csum,64bit", "metadata_csum,^64bit"] {
        let image = stage.image(24, &["-t", "ext4", "-O", features, "-b", "1024", "-J", "size=1"]);
        let file = image.to_str().unwrap();
        // The root directory's block with another name in it, as a journal's transaction.
        fs::write(stage.path("name"), "").unwrap();
        let before = stage.path("before.img");
        fs::copy(&image, &before).unwrap();
        tree::run("debugfs", &["-w", "-R", &format!("write {} name", stage.path("name").display()), file]);
        let (old, new) = (fs::read(&before).unwrap(), fs::read(&image).unwrap());
        let changed: Vec<usize> =
            (0..new.len() / 1024).filter(|block| old[block * 1024..][..1024] != new[block * 1024..][..1024]).collect();
        let blocks: Vec<String> = changed.iter().map(ToString::to_string).collect();
        let content = changed.iter().flat_map(|block| new[block * 1024..][..1024].to_vec()).collect::<Vec<u8>>();
        fs::write(stage.path("blocks"), content).unwrap();
        let script = format!(
            "journal_open -c -v 2\njournal_write -b {} {}\njournal_close\n",
            blocks.join(","),
            stage.path("blocks").display()
        );
        fs::write(stage.path("script"), script).unwrap();
        let before = before.to_str().unwrap();
        tree::run("debugfs", &["-w", "-f", stage.path("script").to_str().unwrap(), before]);
        let ours = opened(Path::new(before));
        let expected = format!("journal replayed in memory: 1 transaction, {} blocks", changed.len());
        assert_eq!(ours.summary().warnings, [expected]);
        assert!(ours.lookup(ours.root(), b"name").unwrap().is_some());
        tree::of_tree(&ours);
    }
}

#[test]
fn fast_commits_are_named() {
    let stage = Stage::new();
    let image = copied_while_mounted(
        &stage,
        &["-t", "ext4", "-O", "fast_commit", "-b", "1024", "-J", "size=8"],
        "",
        |folder| {
            fs::write(folder.join("first"), "a whole transaction").unwrap();
            sync(folder);
            fs::write(folder.join("second"), "a fast commit").unwrap();
            fs::File::open(folder.join("second")).unwrap().sync_all().unwrap();
        },
    );
    let ours = opened(&image);
    let warnings = &ours.summary().warnings;
    assert!(
        warnings.last().unwrap().starts_with("the journal ends in fast commits, which are not replayed"),
        "{warnings:?}"
    );
    assert!(ours.lookup(ours.root(), b"first").unwrap().is_some());
}

#[test]
fn a_journal_elsewhere_is_named() {
    let stage = Stage::new();
    let image = stage.image(24, &["-t", "ext4", "-O", "^metadata_csum"]);
    let file = image.to_str().unwrap();
    for command in ["feature +needs_recovery", "set_super_value journal_inum 0", "set_super_value journal_dev 0x801"] {
        tree::run("debugfs", &["-w", "-R", command, file]);
    }
    let expected =
        "the journal is on another volume and was not replayed: the newest changes may be missing or half done";
    assert_eq!(opened(&image).summary().warnings, [expected]);
}
