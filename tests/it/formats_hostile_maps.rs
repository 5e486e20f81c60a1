//! Maps that lie: tables that lead to themselves, blocks that lie over each other or over the map, entries past the end.
//! None makes us hang, panic or hold much. One table for each format: what is wrong, and what we say; `read` where an
//! image is odd and yet each byte of the disk has a place in the file.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::formats_built::{cowd, descriptor, sesparse};
use crate::formats_gallery::folder;
use crate::formats_vhd::{attempt, says};
use crate::{formats_vdi, formats_vhd, formats_vhdx, qemu};

/// What is wrong, where and with which bytes the sound image is changed, what we say.
type Case<'a> = (&'a str, &'a [(usize, Vec<u8>)], &'a str);

/// Changes `sound`, lays it out by `lay`, and reads all of it.
#[track_caller]
fn check(sound: &[u8], cases: &[Case], seal: fn(&mut [u8]), lay: fn(&Path, &[u8])) {
    let scene = folder();
    for (what, patches, expected) in cases {
        let mut bytes = sound.to_vec();
        for (at, patch) in *patches {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        seal(&mut bytes);
        lay(scene.path(), &bytes);
        let began = Instant::now();
        let said = attempt(&scene.path().join("image"));
        assert!(said.contains(expected), "{what}: expected to be told: {expected}\nfound: {said}");
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
    }
}

fn as_it_is(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("image"), bytes).unwrap();
}

fn le32(value: usize) -> Vec<u8> {
    (value as u32).to_le_bytes().to_vec()
}

fn le64(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

#[test]
fn maps_of_vmdk_that_lie() {
    let dir = folder();
    qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "disk.vmdk", "80M"]);
    let commands = ["write -P 1 0 128k", "write -P 2 70M 64k"];
    qemu::write(dir.path(), "disk.vmdk", "vmdk", &commands.map(str::to_string));
    let mut sound = fs::read(dir.path().join("disk.vmdk")).unwrap();
    sound[8] = 1; // without a second directory to fall back to
    let word = |at: usize| u32::from_le_bytes(sound[at..at + 4].try_into().unwrap()) as usize;
    let directory = word(56) * 512;
    let (first, last) = (word(directory), word(directory + 8));
    let sectors = sound.len() / 512;
    check(
        &sound,
        &[
            ("nothing", &[], "read"),
            ("a table that is the directory", &[(directory, le32(directory / 512))], "read"),
            ("a table that is the header", &[(directory, le32(0))], "read"),
            ("two tables that are one", &[(directory + 4, le32(first))], "read"),
            ("tables changed places", &[(directory, le32(last)), (directory + 8, le32(first))], "read"),
            ("a grain that is its own table", &[(first * 512, le32(first))], "read"),
            ("a grain that is the descriptor", &[(first * 512, le32(1))], "expected 0 or a sector behind the header"),
            ("two grains that are one", &[(first * 512 + 4, le32(word(first * 512)))], "read"),
            ("grains that overlap", &[(first * 512 + 4, le32(word(first * 512) + 1))], "read"),
            ("a grain half past the end", &[(first * 512, le32(sectors - 64))], "found a truncated image"),
            ("a table half past the end", &[(directory, le32(sectors - 1))], "expected a grain table inside the file"),
            ("a directory that is the header", &[(56, le64(0))], "grain directory entry at offset 0x0"),
            ("a directory half past the end", &[(56, le64(sectors as u64))], "found a truncated image"),
        ],
        |_| {},
        as_it_is,
    );
}

/// The directories of all extents are held in memory, and a descriptor has room for thousands of lines.
#[test]
fn one_large_directory_named_many_times_is_refused() {
    let scene = folder();
    // A table of one entry, a grain of a sector: the directory has 4 bytes for each 512 of the disk, here 1 MiB.
    let sectors = 262_144u64;
    let mut header = vec![0; 512];
    header[..4].copy_from_slice(b"KDMV");
    for (at, value) in [(4, le32(1)), (12, le64(sectors)), (20, le64(1)), (44, le32(1)), (56, le64(1))] {
        header[at..at + value.len()].copy_from_slice(&value);
    }
    let extent = fs::File::create(scene.path().join("extent")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&extent, &header, 0).unwrap();
    extent.set_len(512 + sectors * 4).unwrap();
    let attempt_with = |lines: usize| {
        // Each line spells the name in its own way.
        let lines: Vec<_> = (0..lines).map(|n| format!("RW {sectors} SPARSE \"{}extent\"", "./".repeat(n))).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        fs::write(scene.path().join("image"), descriptor("custom", None, &lines)).unwrap();
        attempt(&scene.path().join("image"))
    };
    says(&attempt_with(95), "read");
    says(&attempt_with(96), "a chain whose grain directories take more than 96 MiB is not supported");
}

#[test]
fn maps_of_redo_logs_that_lie() {
    // Directory at 2 KiB, tables at 2560 and 2560 + 16 KiB, then the grains.
    let sound = cowd(40_960, 1, &[(0, 1), (1, 2), (4096, 3)]);
    let (directory, first) = (2048, 2560 / 512);
    let sectors = sound.len() / 512;
    check(
        &sound,
        &[
            ("nothing", &[], "read"),
            ("a table that is the directory", &[(directory, le32(4))], "read"),
            ("a table that is the header", &[(directory, le32(0))], "read"),
            ("two tables that are one", &[(directory + 4, le32(first))], "read"),
            ("a grain that is its own table", &[(first * 512, le32(first))], "read"),
            (
                "two grains that are one",
                &[(first * 512, le32(sectors - 1)), (first * 512 + 4, le32(sectors - 1))],
                "read",
            ),
            ("a grain past the end", &[(first * 512, le32(sectors))], "found a truncated image"),
            ("a table half past the end", &[(directory, le32(sectors - 1))], "expected a grain table inside the file"),
        ],
        |_| {},
        |folder, bytes| {
            fs::write(folder.join("delta"), bytes).unwrap();
            fs::write(folder.join("image"), descriptor("vmfsSparse", None, &["RW 40960 VMFSSPARSE \"delta\""]))
                .unwrap();
        },
    );
    // Directory at 4 KiB, two tables at 8 KiB in the reverse order, then the grains.
    let sound = sesparse(40_960, &[(0, 1), (1, 2), (4096, 3)]);
    let (directory, first) = (4096, 8192 + 32_768);
    let allocated = |table: u64| le64(0x1000_0000 << 32 | table);
    check(
        &sound,
        &[
            ("nothing", &[], "read"),
            ("two tables that are one", &[(directory + 8, allocated(1))], "read"),
            ("two grains that are one", &[(first, le64(3 << 60)), (first + 8, le64(3 << 60))], "read"),
            ("a grain past the end", &[(first, le64(3 << 60 | 3 << 48))], "found a truncated image"),
            ("tables that are the header", &[(144, le64(0))], "grain table entry at offset"),
            ("grains that are the header", &[(192, le64(0))], "read"),
            ("a directory that is the header", &[(128, le64(0))], "expected 0 or 0x10000000 in the upper half"),
        ],
        |_| {},
        |folder, bytes| {
            fs::write(folder.join("delta"), bytes).unwrap();
            fs::write(folder.join("image"), descriptor("seSparse", None, &["RW 40960 SESPARSE \"delta\""])).unwrap();
        },
    );
}

#[test]
fn maps_of_vhd_that_lie() {
    let be32 = |value: usize| (value as u32).to_be_bytes().to_vec();
    let sound = formats_vhd::build(&formats_vhd::plan(&[(0, 10, 1), (4096, 10, 2)]));
    let table = formats_vhd::TABLE;
    let first = u32::from_be_bytes(sound[table..table + 4].try_into().unwrap()) as usize;
    let sectors = sound.len() / 512;
    check(
        &sound,
        &[
            ("nothing", &[], "read"),
            ("two blocks that are one", &[(table + 4, be32(first))], "read"),
            ("blocks that overlap", &[(table + 4, be32(first + 1))], "read"),
            ("a block that is the footer's copy", &[(table, be32(0))], "read"),
            ("a block that is the table", &[(table, be32(table / 512))], "read"),
            ("a block past the footer", &[(table, be32(sectors - 1))], "found a truncated image"),
            ("a bitmap past the end", &[(table, be32(sectors + 1))], "found a truncated image"),
            ("a table that is the footer's copy", &[(512 + 16, vec![0; 8])], "found a truncated image"),
            ("a table that is the header", &[(512 + 16, 512u64.to_be_bytes().to_vec())], "found a truncated image"),
        ],
        |bytes| formats_vhd::seal(&mut bytes[512..1536], 36),
        as_it_is,
    );
}

#[test]
fn maps_of_vhdx_that_lie() {
    use formats_vhdx::{LOG, METADATA, MIB, PAYLOAD, TABLE};
    let sound = formats_vhdx::build(&formats_vhdx::plan(&[(0, 10, 1), (2048, 10, 2)]));
    let present = |at: usize| le64(at as u64 | 6);
    check(
        &sound,
        &[
            ("nothing", &[], "read"),
            ("two blocks that are one", &[(TABLE + 8, present(PAYLOAD))], "read"),
            ("a block that is the table", &[(TABLE, present(TABLE))], "read"),
            ("a block that is the metadata", &[(TABLE, present(METADATA))], "read"),
            ("a block that is the log", &[(TABLE, present(LOG))], "read"),
            ("a block over the headers", &[(TABLE, present(0))], "behind the headers"),
            ("a block past the end", &[(TABLE, present(PAYLOAD + 2 * MIB))], "found a truncated image"),
            ("a block near 2^64", &[(TABLE, present(usize::MAX & !0xf_ffff))], "found a truncated image"),
        ],
        |_| {},
        as_it_is,
    );
}

#[test]
fn maps_of_vdi_that_lie() {
    let sound = formats_vdi::build(&formats_vdi::base(&[(0, 1), (1, 2), (5, 3)]));
    let map = 512;
    check(
        &sound,
        &[
            ("nothing", &[], "read"),
            ("two blocks that are one", &[(map + 4, le32(0))], "read"),
            ("blocks that lie on the map", &[(344, le32(map))], "read"),
            ("blocks that lie on the header", &[(344, le32(0))], "read"),
            ("a map that is the header", &[(340, le32(0))], "block table entry at offset 0x0"),
            ("a map over the blocks", &[(340, le32(4096))], "block table entry at offset 0x1000"),
            ("a block past the last", &[(map, le32(3))], "expected a block below the number of allocated blocks"),
            ("more blocks than there are", &[(388, le32(17)), (map, le32(16))], "found a truncated image"),
        ],
        |_| {},
        as_it_is,
    );
}

/// Refcounts say which clusters are free to be written. A reader has no use for them: lies there cost nothing.
#[test]
fn refcounts_of_qcow2_that_lie() {
    let dir = folder();
    qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "disk.qcow2", "8M"]);
    qemu::write(dir.path(), "disk.qcow2", "qcow2", &["write -P 1 0 1M".to_string()]);
    let sound = fs::read(dir.path().join("disk.qcow2")).unwrap();
    let be64 = |value: u64| value.to_be_bytes().to_vec();
    let place = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00;
    let table = place(48);
    let block = place(table as usize);
    let l1 = place(40);
    check(
        &sound,
        &[
            ("nothing", &[], "read"),
            ("a table past the end", &[(48, be64(1 << 50))], "read"),
            ("a table that is no multiple", &[(48, be64(7))], "read"),
            ("a table of 2^32 clusters", &[(56, vec![0xff; 4])], "read"),
            ("no table", &[(48, be64(0)), (56, vec![0; 4])], "read"),
            ("a table that is the L1 table", &[(48, be64(l1))], "read"),
            ("a block that is the table", &[(table as usize, be64(table))], "read"),
            ("a block past the end", &[(table as usize, be64(1 << 50))], "read"),
            ("everything is free", &[(block as usize, vec![0; 512])], "read"),
            ("everything is used by thousands", &[(block as usize, vec![0xff; 512])], "read"),
        ],
        |_| {},
        as_it_is,
    );
}
