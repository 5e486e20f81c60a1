//! Windows's drives: by the letters in its registry, which hivex writes here, over partitions of both kinds of table.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use abbild::disk::{Disk, MemoryDisk};
use abbild::guest::machine::GuestMachine;
use abbild::guest::path::{LastLink, resolve};
use abbild::guest::tree::FileSystem;
use abbild::guest::windows::Drive;

use crate::guest_ntfs::{Stage, opened};
use crate::guest_tree::set_attribute;
use crate::tools;

const MIB: usize = 1 << 20;
const HIVE: &str = "Windows/System32/config/SYSTEM";
const GUID: &str = "00112233-4455-6677-8899-AABBCCDDEEFF";
const GUID_BYTES: [u8; 16] =
    [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

/// A hive with nothing in it but its root, for hivex to fill: a key and who may use it.
fn empty_hive() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let (base, bin, root, security, free) = (0, 4096, 4128, 4216, 4264);
    put(base, b"regf\x01\0\0\0\x01\0\0\0");
    for (at, value) in [(20, 1u32), (24, 3), (32, 1), (36, 32), (40, 4096), (44, 1)] {
        put(base + at, &value.to_le_bytes());
    }
    put(bin, b"hbin\0\0\0\0\0\x10\0\0");
    put(root, &(-88i32).to_le_bytes());
    put(root + 4, b"nk\x2c\0");
    for at in [16, 28, 32, 40, 48] {
        put(root + 4 + at, &[0xff; 4]);
    }
    put(root + 4 + 44, &120u32.to_le_bytes());
    put(root + 4 + 72, b"\x04\0\0\0ROOT");
    put(security, &(-48i32).to_le_bytes());
    put(security + 4, b"sk\0\0\x78\0\0\0\x78\0\0\0\x01\0\0\0\x14\0\0\0\x01\0\0\x80");
    put(free, &(4096i32 - 168).to_le_bytes());
    let checksum =
        bytes[..508].chunks(4).fold([0; 4], |sum: [u8; 4], word| std::array::from_fn(|at| sum[at] ^ word[at]));
    bytes[508..512].copy_from_slice(&checksum);
    bytes
}

/// The hive of a system that has these letters.
fn hive(folder: &Path, letters: &[(&str, Vec<u8>)]) -> Vec<u8> {
    fs::write(folder.join("hive"), empty_hive()).unwrap();
    let mut commands = String::new();
    // Enough other keys that their list is more than one entry.
    for index in 0..30 {
        commands.push_str(&format!("add ControlSet{index:03}\n"));
    }
    commands.push_str(&format!("add MountedDevices\ncd MountedDevices\nsetval {}\n", letters.len()));
    for (name, data) in letters {
        let data: Vec<String> = data.iter().map(|byte| format!("{byte:02x}")).collect();
        commands.push_str(&format!("{name}\nhex:3:{}\n", data.join(",")));
    }
    commands.push_str("commit\n");
    tools::run_with("hivexsh", "libhivex-bin", folder, &["-w", "hive"], &commands);
    fs::read(folder.join("hive")).unwrap()
}

fn mbr(signature: u32, start: usize) -> Vec<u8> {
    [&signature.to_le_bytes()[..], &(start as u64).to_le_bytes()].concat()
}

fn set_junction(place: &Path, target: &str) {
    fs::create_dir(place).unwrap();
    let target: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let len = u8::try_from(target.len()).unwrap();
    let data = [&[3, 0, 0, 0xa0, len + 12, 0, 0, 0, 0, 0, len, 0, len + 2, 0, 0, 0], &target[..], &[0; 4]].concat();
    set_attribute(place, "system.ntfs_reparse_data", &data);
}

/// A volume with Windows, of 4 MiB.
fn system(letters: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let stage = Stage::new();
    let hive = hive(&stage.path(""), letters);
    let image = stage.filled(4, &["-c", "1024", "-L", "System"], |folder| {
        fs::create_dir_all(folder.join(HIVE).parent().unwrap()).unwrap();
        fs::write(folder.join(HIVE), hive).unwrap();
        fs::create_dir_all(folder.join("Users/anna")).unwrap();
        fs::write(folder.join("Users/anna/letter.txt"), "dear reader").unwrap();
        set_junction(&folder.join("Users/anna/data"), r"\??\D:\Data");
        set_junction(&folder.join("Documents and Settings"), r"\??\C:\Users");
    });
    assert_eq!(opened(&image).summary().warnings, Vec::<String>::new());
    fs::read(image).unwrap()
}

/// A disk with partitions at 1 MiB and at 2 MiB; `sgdisk` or `sfdisk` made their table.
fn disk(folder: &Path, gpt: bool, parts: &[&[u8]]) -> Vec<u8> {
    tools::blank(folder, "disk", 7 * MIB as u64);
    if gpt {
        let [first, second] = ["1:2048:+512K", "2:4096:+4M"];
        let id = format!("2:{GUID}");
        tools::run("sgdisk", "gdisk", folder, &["-n", first, "-n", second, "-u", &id, "-t", "2:0700", "disk"]);
    } else {
        let table = "label: dos\nlabel-id: 0x0badf00d\nstart=2048, size=1024, type=7\nstart=4096, size=8192, type=7\n";
        tools::run_with("sfdisk", "fdisk", folder, &["-q", "disk"], table);
    }
    let mut bytes = fs::read(folder.join("disk")).unwrap();
    for (at, part) in [MIB, 2 * MIB].into_iter().zip(parts) {
        bytes[at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

#[track_caller]
fn text(tree: &dyn FileSystem, path: &str) -> String {
    let node = resolve(tree, path.as_bytes(), LastLink::Follow).unwrap_or_else(|err| panic!("{path}: {err}"));
    let mut buf = [0; 64];
    let len = tree.read_at(node, 0, &mut buf).unwrap_or_else(|err| panic!("{path}: {err}"));
    String::from_utf8_lossy(&buf[..len]).into_owned()
}

#[test]
fn drives_have_the_letters_that_windows_gave_them() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new();
    let data = stage.filled(4, &["-c", "1024"], |folder| {
        fs::create_dir(folder.join("Data")).unwrap();
        fs::write(folder.join("Data/report"), "on D").unwrap();
    });
    let data = fs::read(data).unwrap();
    let mut locked = vec![0; 4096];
    locked[3..11].copy_from_slice(b"-FVE-FS-");
    let cd: Vec<u8> = r"\??\IDE#CdRom".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let letters = [
        (r"\??\Volume{01234567-0000-0000-0000-100000000000}", mbr(0x0bad_f00d, MIB)),
        (r"\DosDevices\E:", mbr(0x0bad_f00d, MIB)),
        (r"\DosDevices\D:", mbr(0x0bad_f00d, 2 * MIB)),
        (r"\DosDevices\S:", [&b"DMIO:ID:"[..], &GUID_BYTES].concat()),
        (r"\DosDevices\X:", mbr(0x0bad_f00d, 3 * MIB)),
        (r"\DosDevices\Y:", cd),
    ];
    let windows = system(&letters);
    let disks = [disk(dir.path(), true, &[b"", &windows]), disk(dir.path(), false, &[&locked, &data])];
    let disks = disks.map(|bytes| Arc::new(MemoryDisk(bytes)) as Arc<dyn Disk>);
    let machine = GuestMachine::new(&disks);
    let drive = |letter, volume: &str| Drive { letter, volume: volume.to_owned() };
    let expected = [drive('D', "disk1/p2"), drive('E', "disk1/p1"), drive('S', "disk0/p2")];
    assert_eq!(machine.drives().drives, expected);
    assert_eq!(machine.drives().warnings, Vec::<String>::new());
    let view = machine.view().expect("a view of drives");
    assert_eq!(text(view.as_ref(), "/s:/users/ANNA/letter.txt"), "dear reader");
    assert_eq!(text(view.as_ref(), "/D:/Data/report"), "on D");
    assert_eq!(text(view.as_ref(), "/S:/Users/anna/data/report"), "on D");
    assert_eq!(text(view.as_ref(), "/S:/Documents and Settings/anna/letter.txt"), "dear reader");
    let missing: Vec<_> = view.missing().iter().map(|missing| missing.warning.as_str()).collect();
    assert_eq!(missing, ["drive E: is not shown: disk1/p1: bitlocker (encrypted by the guest) is not supported"]);
}

#[test]
fn commands_know_drives() {
    let stage = crate::cli::Stage::empty();
    let bytes = disk(&stage.path(""), true, &[b"", &system(&[])]);
    fs::write(stage.path("vm.img"), bytes).unwrap();
    let printed = |arguments: &[&str]| stage.run(arguments).ok().stdout;
    assert_eq!(printed(&["ls", "vm.img:"]), "C:\n");
    assert_eq!(printed(&["ls", "vm.img:C:/Users/anna"]), "data\nletter.txt\n");
    assert_eq!(printed(&["ls", "vm.img:/C:/Users"]), "anna\n");
    assert_eq!(printed(&["cat", "vm.img:c:/users/anna/LETTER.TXT"]), "dear reader");
    assert_eq!(printed(&["cat", "vm.img:disk0/p2/Documents and Settings/anna/letter.txt"]), "dear reader");
    stage.run(&["ls", "vm.img:D:/"]).ended(1).said("no volume is known to be drive D:");
}

#[test]
fn a_damaged_hive_costs_the_letters_alone() {
    const ROUNDS: usize = 400;
    let letters = [(r"\DosDevices\K:", mbr(0x0bad_f00d, 2 * MIB))];
    let windows = system(&letters);
    let hive = (0..windows.len()).step_by(512).find(|at| windows[*at..].starts_with(b"regf")).expect("a hive");
    let dir = tempfile::tempdir().unwrap();
    let sound = disk(dir.path(), false, &[b"", &windows]);
    let (mut known, mut warned) = (0, 0);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let used: Vec<usize> = (0..16_384).filter(|at| windows[hive + at] != 0).collect();
    for _ in 0..ROUNDS {
        let mut bytes = sound.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = used[usize::try_from(state >> 33).unwrap() % used.len()];
            let value = u8::try_from(state >> 24 & 0xff).unwrap();
            bytes[2 * MIB + hive + at] = if state & 1 << 32 == 0 { value } else { 0xff };
        }
        let machine = GuestMachine::new(&[Arc::new(MemoryDisk(bytes)) as Arc<dyn Disk>]);
        let drives = machine.drives();
        let [drive] = &drives.drives[..] else { panic!("{drives:?}") };
        assert_eq!(drive.volume, "disk0/p2");
        known += usize::from(drive.letter == 'K');
        warned += usize::from(!drives.warnings.is_empty());
        assert!(drive.letter == 'C' || drives.warnings.is_empty(), "{drives:?}");
    }
    assert!(known > ROUNDS / 4 && warned > ROUNDS / 20, "{known} {warned}");
}
