//! What the fuzzer begins with: a small image of every variant, a definition of every kind, an object of every sort.
//!
//! Run it to add the seeds to `fuzz/corpus` (those of other programs differ each time, in identities and times):
//!
//!     cargo test --test it -- --ignored makes_the_seeds_of_the_fuzzer

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use abbild::repo::blob::Codec;
use abbild::repo::config::Config;
use abbild::repo::ids::{ChunkId, ObjectId, PackId, RepoId};
use abbild::repo::index::encode_segment;
use abbild::repo::keys::KeyFile;
use abbild::repo::map::{ListEntry, encode_ids, push_entry};
use abbild::repo::pack::directory::DirectoryBuilder;
use abbild::repo::pack::writer::FinishedPack;
use abbild::repo::parity::{Encoder, Share};
use abbild::repo::seal::Kind;
use tempfile::TempDir;

use crate::fuzz_targets::stage::{Content, Entry, Plan, REPAIR, encode};
use crate::{formats_built, formats_vdi, formats_vhd, formats_vhdx, formats_vhdx_log, fuzz_seeds_guests, qemu};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

#[test]
#[ignore = "writes into fuzz/corpus"]
fn makes_the_seeds_of_the_fuzzer() {
    vmdk();
    qcow2();
    vhd();
    vhdx();
    vdi();
    qed();
    parallels();
    chains();
    machines();
    objects();
    fuzz_seeds_guests::seeds();
}

/// Writes a seed, plain bytes.
fn seed(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(CORPUS).join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
}

/// Writes a seed of the folder, `first` in front; images also go to the target `inspect`.
pub(crate) fn seed_folder(target: &str, name: &str, options: u8, folder: &Path, first: &str) {
    let mut entries = Vec::new();
    collect(folder, "", &mut entries);
    entries.sort_by_key(|entry| (entry.name != first, entry.name.clone()));
    assert_eq!(entries[0].name, first);
    let bytes = encode(&Plan { options, entries });
    assert!(bytes.len() < 128 << 10, "{target} {name}: {} bytes", bytes.len());
    seed(target, name, &bytes);
    if !target.starts_with("machine") && !target.starts_with("guest") {
        seed("inspect", &format!("{target}-{name}"), &bytes);
    }
}

fn collect(folder: &Path, prefix: &str, entries: &mut Vec<Entry>) {
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            collect(&path, &format!("{name}/"), entries);
            continue;
        }
        let content = match kind.is_symlink() {
            true => Content::Link(fs::read_link(&path).unwrap().to_str().unwrap().to_string()),
            false => Content::file(&lean(fs::read(&path).unwrap())),
        };
        entries.push(Entry { name, content });
    }
}

/// The same bytes with runs of a guest's equal sectors cut to the first: where data lies matters, not what it is.
fn lean(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut last = 0;
    for sector in bytes.chunks_mut(512) {
        let byte = sector[0];
        let is_uniform = byte != 0xff && sector.iter().all(|other| *other == byte);
        if is_uniform && byte == last {
            sector.fill(0);
        }
        last = if is_uniform { byte } else { 0 };
    }
    bytes
}

pub(crate) fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A seed of what qemu-img makes: `commands` for qemu-io, then `after` for qemu-img.
fn made(target: &str, name: &str, driver: &str, options: &str, size: &str, after: &[&[&str]]) {
    let (dir, file) = (place(), format!("disk.{}", if driver == "vpc" { "vhd" } else { driver }));
    let options = if options.is_empty() { vec![] } else { vec!["-o", options] };
    qemu::img(dir.path(), &[&["create", "-q", "-f", driver], &options[..], &[&file, size]].concat());
    let commands = ["write -P 1 0 512", "write -P 2 100k 1k", "write -P 3 200k 128k"].map(str::to_string);
    qemu::write(dir.path(), &file, driver, &commands);
    for args in after {
        qemu::img(dir.path(), &[args, &[file.as_str()][..]].concat());
    }
    let repair = if matches!(driver, "vpc" | "vhdx") { REPAIR } else { 0 };
    seed_folder(target, name, repair, dir.path(), &file);
}

fn qed() {
    made("qed", "plain", "qed", "cluster_size=4096", "1M", &[]);
    made("qed", "big-tables", "qed", "cluster_size=65536,table_size=2", "20M", &[]);
    let dir = place();
    for (file, options) in
        [("base.qed", "cluster_size=4096"), ("top.qed", "cluster_size=8192,backing_file=base.qed,backing_fmt=qed")]
    {
        qemu::img(dir.path(), &["create", "-q", "-f", "qed", "-o", options, file, "1M"]);
        qemu::write(dir.path(), file, "qed", &["write -P 1 4k 12k", "write -z 32k 16k"].map(str::to_string));
    }
    seed_folder("qed", "over-qed", 0, dir.path(), "top.qed");
}

fn parallels() {
    made("parallels", "plain", "parallels", "cluster_size=65536", "1M", &[]);
    made("parallels", "big-clusters", "parallels", "", "20M", &[]);
}

fn vmdk() {
    made("vmdk_sparse", "monolithic", "vmdk", "subformat=monolithicSparse", "20M", &[]);
    made("vmdk_sparse", "zeroed-grains", "vmdk", "subformat=monolithicSparse,zeroed_grain=on", "1M", &[]);
    made("vmdk_sparse", "split", "vmdk", "subformat=twoGbMaxExtentSparse", "1M", &[]);
    made("vmdk_descriptor", "monolithic-flat", "vmdk", "subformat=monolithicFlat", "1M", &[]);
    made("vmdk_descriptor", "split-flat", "vmdk", "subformat=twoGbMaxExtentFlat", "1M", &[]);
    let lines = [
        "RW 20 FLAT \"f.img\" 0",
        "RDONLY 30 VMFS \"f.img\"",
        "NOACCESS 8 FLAT \"f.img\" 20",
        "RW 100 ZERO",
        "RW 40960 VMFSSPARSE \"x-delta.vmdk\"",
        "RW 40960 SESPARSE \"x-sesparse.vmdk\"",
        "rw 7 vmfsthin \"a b\"",
    ];
    for count in 1..=lines.len() {
        let dir = place();
        fs::write(dir.path().join("f.img"), [1; 40 * 512]).unwrap();
        fs::write(dir.path().join("x-delta.vmdk"), formats_built::cowd(40960, 1, &[(0, 5), (4096, 9)])).unwrap();
        fs::write(dir.path().join("x-sesparse.vmdk"), formats_built::sesparse(40960, &[(0, 5), (1, 0)])).unwrap();
        let text = formats_built::descriptor("custom", None, &lines[..count]);
        let text =
            text.replace("# The Disk", "encoding=\"windows-1252\"\nddb.longContentID = \"00c0ffee\"\n# The Disk");
        fs::write(dir.path().join("x.vmdk"), text).unwrap();
        fs::write(dir.path().join("a b"), [2; 7 * 512]).unwrap();
        seed_folder("vmdk_descriptor", &format!("{count}-extents"), 0, dir.path(), "x.vmdk");
    }
    for (grain, grains) in [(1, vec![(0, 5), (3, 6), (4096, 8)]), (16, vec![(9, 4), (8, 3), (10, 5)])] {
        let dir = place();
        fs::write(dir.path().join("x-delta.vmdk"), formats_built::cowd(40960, grain, &grains)).unwrap();
        let text = formats_built::descriptor("vmfsSparse", None, &["RW 40960 VMFSSPARSE \"x-delta.vmdk\""]);
        fs::write(dir.path().join("x.vmdk"), text).unwrap();
        seed_folder("vmdk_cowd", &format!("grain-{grain}"), 0, dir.path(), "x.vmdk");
    }
    let dir = place();
    let grains = [(0, 5), (1, 6), (2, 0), (4095, 8), (4096, 9), (5119, 7)];
    fs::write(dir.path().join("x-sesparse.vmdk"), formats_built::sesparse(40960, &grains)).unwrap();
    let text = formats_built::descriptor("seSparse", None, &["RW 40960 SESPARSE \"x-sesparse.vmdk\""]);
    fs::write(dir.path().join("x.vmdk"), text).unwrap();
    seed_folder("vmdk_sesparse", "two-tables", 0, dir.path(), "x.vmdk");
    let noise: Vec<u8> = (0..65536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 21) as u8 & 3).collect();
    let grains = [(0, vec![3; 65536]), (1, noise), (511, vec![4; 65536]), (515, vec![5; 5 * 512])];
    for (name, capacity, count) in [("footer", 65536 + 128 * 3 + 5, 4), ("one-table", 1024, 1)] {
        let dir = place();
        fs::write(dir.path().join("s.vmdk"), formats_built::stream(capacity, &grains[..count])).unwrap();
        seed_folder("vmdk_stream", name, 0, dir.path(), "s.vmdk");
    }
    let dir = place();
    qemu::img(dir.path(), &["create", "-q", "-f", "raw", "raw", "1M"]);
    qemu::write(dir.path(), "raw", "raw", &["write -P 1 100k 200k".to_string()]);
    qemu::img(dir.path(), &["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "raw", "s.vmdk"]);
    fs::remove_file(dir.path().join("raw")).unwrap();
    seed_folder("vmdk_stream", "qemu", 0, dir.path(), "s.vmdk");
}

fn qcow2() {
    for (name, options, size) in [
        ("v2", "compat=0.10", "1M"),
        ("v3", "", "20M"),
        ("clusters-of-512", "cluster_size=512", "1M"),
        ("clusters-of-4k", "cluster_size=4k,lazy_refcounts=on", "40M"),
        ("clusters-of-2m", "cluster_size=2M", "20M"),
        ("subclusters", "extended_l2=on", "10M"),
        ("zstd", "compression_type=zstd,cluster_size=4k", "1M"),
        ("data-file", "data_file=data.bin,cluster_size=4k", "1M"),
    ] {
        made("qcow2", name, "qcow2", options, size, &[]);
    }
    made(
        "qcow2",
        "snapshots",
        "qcow2",
        "cluster_size=4k",
        "1M",
        &[&["snapshot", "-c", "one"], &["snapshot", "-c", "2"]],
    );
    let dir = place();
    qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "disk.qcow2", "1M"]);
    qemu::img(dir.path(), &["bitmap", "--add", "disk.qcow2", "daily"]);
    seed_folder("qcow2", "bitmap", 0, dir.path(), "disk.qcow2");
    for kind in ["zlib", "zstd"] {
        let dir = place();
        qemu::img(dir.path(), &["create", "-q", "-f", "raw", "raw", "256k"]);
        qemu::write(dir.path(), "raw", "raw", &["write -P 1 10k 100k".to_string(), "write -P 2 40k 1k".to_string()]);
        let options = format!("compression_type={kind},cluster_size=16k");
        qemu::img(dir.path(), &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, "raw", "disk.qcow2"]);
        fs::remove_file(dir.path().join("raw")).unwrap();
        seed_folder("qcow2", &format!("compressed-{kind}"), 0, dir.path(), "disk.qcow2");
    }
}

fn vhd() {
    made("vhd", "dynamic", "vpc", "subformat=dynamic,force_size=on", "20M", &[]);
    made("vhd", "geometry", "vpc", "subformat=dynamic", "1M", &[]);
    made("vhd", "fixed", "vpc", "subformat=fixed,force_size=on", "1M", &[]);
    let runs = [(0, 1, 1), (7, 2, 2), (4095, 2, 3), (9000, 100, 4)];
    for block in [4096, 64 << 10, 2 << 20] {
        let dir = place();
        let plan = formats_vhd::Plan { block, ..formats_vhd::plan(&runs) };
        fs::write(dir.path().join("disk.vhd"), formats_vhd::build(&plan)).unwrap();
        seed_folder("vhd", &format!("block-{block}"), REPAIR, dir.path(), "disk.vhd");
        seed_folder("vhd", &format!("block-{block}-as-it-is"), 0, dir.path(), "disk.vhd");
    }
}

fn vhdx() {
    for (name, options) in [
        ("dynamic", "subformat=dynamic,block_size=1M"),
        ("large-blocks", "subformat=dynamic,block_size=256M"),
        ("fixed", "subformat=fixed,block_size=1M"),
    ] {
        made("vhdx", name, "vhdx", options, "5M", &[]);
    }
    let dir = place();
    let plan = formats_vhdx::Plan { sector: 4096, ..formats_vhdx::plan(&[(0, 2, 1), (900, 1, 2)]) };
    let plan = formats_vhdx::Plan { states: &[(1, 1), (2, 2), (3, 3)], ..plan };
    fs::write(dir.path().join("disk.vhdx"), formats_vhdx::build(&plan)).unwrap();
    seed_folder("vhdx", "sectors-of-4096", REPAIR, dir.path(), "disk.vhdx");
    seed_folder("vhdx", "as-it-is", 0, dir.path(), "disk.vhdx");

    let (sound, mut dirty, _) = formats_vhdx_log::dirty();
    let (len, at) = (sound.len() as u64, formats_vhdx::TABLE as u64);
    dirty[formats_vhdx::TABLE..formats_vhdx::TABLE + 4096].fill(0);
    let table = formats_vhdx_log::Change::Data(at, formats_vhdx_log::page(&sound, formats_vhdx::TABLE));
    let zero = formats_vhdx_log::Change::Zero(at, 8192);
    let entry = formats_vhdx_log::log_entry;
    let start = formats_vhdx::MIB - 12288;
    for (name, place_of, entries) in [
        ("one", 0, vec![entry(5, 0, std::slice::from_ref(&table), len)]),
        (
            "two",
            40_960,
            vec![
                entry(5, 40_960, std::slice::from_ref(&zero), len),
                entry(6, 40_960, std::slice::from_ref(&table), len),
            ],
        ),
        ("wrapped", start, vec![entry(5, start, &[zero.clone(), table.clone(), zero, table], len)]),
    ] {
        let mut image = dirty.clone();
        formats_vhdx_log::put_log(&mut image, place_of, &entries);
        let dir = place();
        fs::write(dir.path().join("disk.vhdx"), image).unwrap();
        seed_folder("vhdx_log", name, REPAIR, dir.path(), "disk.vhdx");
    }
}

fn vdi() {
    made("vdi", "dynamic", "vdi", "", "20M", &[]);
    made("vdi", "fixed", "vdi", "static=on", "1M", &[]);
    let dir = place();
    let plan = formats_vdi::Plan { extra: 512, ..formats_vdi::base(&[(3, 1), (4, 2), (0, 3), (5, 0)]) };
    fs::write(dir.path().join("disk.vdi"), formats_vdi::build(&plan)).unwrap();
    seed_folder("vdi", "extra", 0, dir.path(), "disk.vdi");
}

fn chains() {
    for (driver, base) in [("raw", "base.img"), ("qcow2", "base.qcow2"), ("vmdk", "base.vmdk"), ("vpc", "base.vhd")] {
        let dir = place();
        qemu::img(dir.path(), &["create", "-q", "-f", driver, base, "1M"]);
        qemu::write(dir.path(), base, driver, &["write -P 1 0 100k".to_string()]);
        qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", base, "-F", driver, "one.qcow2"]);
        qemu::write(dir.path(), "one.qcow2", "qcow2", &["write -P 2 64k 64k".to_string()]);
        qemu::img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", "one.qcow2", "-F", "qcow2", "two.qcow2", "2M"]);
        seed_folder("chain", &format!("qcow2-over-{driver}"), 0, dir.path(), "two.qcow2");
    }
    let dir = place();
    qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "base.vmdk", "1M"]);
    for (child, parent) in [("one.vmdk", "base.vmdk"), ("two.vmdk", "one.vmdk")] {
        qemu::img(dir.path(), &["create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", child]);
        qemu::write(dir.path(), child, "vmdk", &["write -P 2 64k 64k".to_string()]);
    }
    seed_folder("chain", "vmdk", 0, dir.path(), "two.vmdk");
    fs::rename(dir.path().join("base.vmdk"), dir.path().join("moved.vmdk")).unwrap();
    symlink("moved.vmdk", dir.path().join("base.vmdk")).unwrap();
    seed_folder("chain", "vmdk-link", 0, dir.path(), "two.vmdk");
    fs::remove_file(dir.path().join("base.vmdk")).unwrap();
    symlink("/etc/hostname", dir.path().join("base.vmdk")).unwrap();
    seed_folder("chain", "vmdk-link-away", 0, dir.path(), "two.vmdk");

    let dir = place();
    let write = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
    let to = |id: u8, name: &str| Some((id, vec![(b"W2ru", formats_vhd::utf16(name))], ""));
    let vhd = |block| formats_vhd::Plan { block, ..formats_vhd::plan(&[(0, 40, 1), (60, 2, 2)]) };
    write("base.vhd", formats_vhd::build(&vhd(4096)));
    write("one.avhd", formats_vhd::build(&formats_vhd::Plan { uuid: 2, parent: to(1, r".\base.vhd"), ..vhd(8192) }));
    write("two.avhd", formats_vhd::build(&formats_vhd::Plan { uuid: 3, parent: to(2, r"one.avhd"), ..vhd(4096) }));
    seed_folder("chain", "vhd", REPAIR, dir.path(), "two.avhd");

    let dir = place();
    let write = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
    let vhdx = formats_vhdx::plan(&[(0, 40, 1), (60, 2, 2)]);
    write("base.vhdx", formats_vhdx::build(&vhdx));
    let parent = formats_vhdx::parent(1, r".\base.vhdx");
    write("top.avhdx", formats_vhdx::build(&formats_vhdx::Plan { id: 2, parent, ..vhdx }));
    seed_folder("chain", "vhdx", REPAIR, dir.path(), "top.avhdx");

    for folder in ["", "Snapshots/"] {
        let dir = place();
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        let write = |name: &str, plan: formats_vdi::Plan| {
            fs::write(dir.path().join(name), formats_vdi::build(&plan)).unwrap();
        };
        write("disk.vdi", formats_vdi::base(&[(0, 1), (1, 1), (3, 1)]));
        let child = |ids, blocks| formats_vdi::Plan { kind: 4, ids, blocks, ..formats_vdi::base(&[]) };
        write(&format!("{folder}{{middle}}.vdi"), child([2, 22, 1, 11], &[(1, 2), (2, 0)]));
        let top = format!("{folder}top.vdi");
        write(&top, child([3, 33, 2, 22], &[(3, 3)]));
        seed_folder("chain", &format!("vdi-{}", folder.len()), 0, dir.path(), &top);
    }
}

const VMX: &str = r#".encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "Shop |22A|22"
uuid.bios = "56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0"
nvram = "web1.nvram"
extendedConfigFile = "web1.vmxf"
scsi0.present = "TRUE"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "disk.vmdk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "/vmfs/volumes/5f3a/web1/disk-000001.vmdk"
scsi0:1.mode = "independent-persistent"
# a comment
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "C:\isos\x.iso"
nvme0:10.present = "FALSE"
nvme0:10.fileName = "old.vmdk"
sata0:0.present = "TRUE"
sata0:0.deviceType = "rawDisk"
"#;
const VMSD: &str = r#".encoding = "windows-1252"
snapshot.lastUID = "2"
snapshot.current = "2"
snapshot.numSnapshots = "2"
snapshot.needConsolidate = "TRUE"
snapshot0.uid = "1"
snapshot0.filename = "web1-Snapshot1.vmsn"
snapshot0.displayName = "before"
snapshot0.createTimeHigh = "401831"
snapshot0.createTimeLow = "-1234567"
snapshot0.numDisks = "1"
snapshot0.disk0.fileName = "disk.vmdk"
snapshot0.disk0.node = "scsi0:0"
snapshot1.uid = "2"
snapshot1.parent = "1"
snapshot1.displayName = "2"
snapshot1.numDisks = "2"
snapshot1.disk0.fileName = "disk-000001.vmdk"
snapshot1.disk0.node = "scsi0:0"
snapshot1.disk1.fileName = "D:\x\disk.vmdk"
snapshot1.disk1.node = "scsi0:1"
"#;

fn machines() {
    seed("machine_vmx", "usual", VMX.as_bytes());
    seed("machine_vmx", "encrypted", b"displayName = \"Vault\"\nencryption.keySafe = \"vmware:key/list\"\n");
    seed(
        "machine_vmx",
        "windows",
        b"\xef\xbb\xbf.encoding = \"GBK\"\r\nSCSI0:0.Present = \"true\"\r\nscsi0:0.filename = \"\xd6\xd0.vmdk\"\r\n",
    );
    seed("machine_vmsd", "tree", VMSD.as_bytes());
    seed("machine_vmsd", "empty", b"");
    let dir = place();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("a.vmx", VMX);
    write("a.vmsd", VMSD);
    for name in ["disk.vmdk", "disk-000001.vmdk", "a.nvram", "a.vmxf", "a-Snapshot1.vmsn", "vmware.log", "a.vmss"] {
        write(name, "x");
    }
    symlink("/etc/hostname", dir.path().join("web1.nvram")).unwrap();
    seed_folder("machine_folder", "vmware", 0, dir.path(), "a.vmx");
    let dir = place();
    let text = formats_built::descriptor("monolithicFlat", None, &["RW 20 FLAT \"a-flat.vmdk\" 0"]);
    fs::write(dir.path().join("a.vmdk"), text).unwrap();
    fs::write(dir.path().join("a-flat.vmdk"), [0; 10240]).unwrap();
    let child =
        formats_built::descriptor("vmfsSparse", Some(("a.vmdk", "00c0ffee")), &["RW 20 VMFSSPARSE \"b-delta.vmdk\""]);
    fs::write(dir.path().join("b.vmdk"), child).unwrap();
    fs::write(dir.path().join("b-delta.vmdk"), b"COWD").unwrap();
    seed_folder("machine_folder", "images", 0, dir.path(), "a.vmdk");
}

fn objects() {
    let config = Config::create(RepoId([7; 16])).encode();
    let body = |object: &[u8]| {
        let text = std::str::from_utf8(object).unwrap();
        text[..text.rfind("\nblake3").unwrap()].to_string()
    };
    seed("repo_config", "sealed", &[b"\x01", &config[..]].concat());
    seed("repo_config", "body", &[b"\0", body(&config).as_bytes()].concat());
    let id = ObjectId([0x11; 16]);
    let (salt, words) = ("ab".repeat(16), "cd".repeat(32));
    let kinds = [
        ("passphrase", format!(r#""kind":"passphrase","memory_kib":131072,"passes":3,"lanes":4,"salt":"{salt}""#)),
        ("key_file", format!(r#""kind":"key_file","salt":"{salt}""#)),
    ];
    for (name, kind) in kinds {
        let line = format!(r#"{{"slot":"{id}",{kind},"label":"first","created":"2026-11-20T02:15:00Z"}}"#);
        seed("repo_key_slot", name, format!("\0{line}\n{words}\n{words}{}", &words[..32]).as_bytes());
    }
    seed("repo_key_file", "usual", KeyFile::generate("x").to_text().as_bytes());
    seed("repo_manifest", "usual", MANIFEST.replace("ZERO", &"0".repeat(40)).as_bytes());
    let mut list = vec![0x6a, 1, 0];
    for entry in [ListEntry::Zero(100), ListEntry::Chunk(ChunkId([1; 20]), 256), ListEntry::Zero(6)] {
        push_entry(&mut list, entry);
    }
    seed("repo_map", "list", &list);
    seed("repo_map", "node", &[&[2, 0, 0], &encode_ids(&[ChunkId([1; 20]), ChunkId([0; 20])])[..]].concat());
    let mut builder = DirectoryBuilder::default();
    builder.add(116, 150, Codec::Zstd, &[(ChunkId([1; 20]), 100), (ChunkId([2; 20]), 50)]);
    builder.add(216, 200, Codec::Stored, &[(ChunkId([3; 20]), 200)]);
    let directory = builder.encode();
    seed("repo_pack_directory", "two-blobs", &[&1000u64.to_le_bytes(), &directory[..]].concat());
    let pack =
        |kind| FinishedPack { id: PackId([5; 16]), kind, len: 1000, header: [9; 80], directory: directory.clone() };
    seed("repo_index_segment", "two-packs", &encode_segment(&[pack(Kind::DataPack), pack(Kind::MapPack)]));
    let pack = crate::fuzz_targets::recovery::sound_pack(9000);
    let mut encoder = Encoder::new(crate::fuzz_targets::recovery::ID, Share::permille(50).unwrap(), 9000);
    encoder.update(&pack);
    seed("parity_record", "9000", &encoder.finish());
    seed("repo_blob", "stored", b"\x05\0\0hello");
    let packed = zstd::bulk::compress(&b"likeness ".repeat(100), 3).unwrap();
    seed("repo_blob", "zstd", &[&[0x84, 3, 0], &packed[..]].concat());
    let calls = [0xe8, 1, 2, 0, 0, 0x48, 0x8b, 0x05, 3, 4, 0, 0, 0x0f, 0x84, 5, 6, 0xff, 0xff].repeat(50);
    seed("repo_branch_filter", "calls", &[&[0, 1, 0, 0], &calls[..]].concat());
}

const MANIFEST: &str = r#"{"version":1,"backup":"11111111111111111111111111111111","machine":"web1","identity":"name:web1",
"machine_kind":"vmware","instant":"2026-11-20T02:15:00Z","finished":"2026-11-20T02:16:00Z","consistency":"crash",
"capture":{"way":"offline","level":"current","snapshot_taken":null},"disks":[{"slot":"scsi0:0","file_name":"a.vmdk",
"size":1048576,"root":"ZERO","variant":"vmdk","properties":[["a","b"]],"layers":[1,{"x":null}],"statistics":{"size":1,
"read":1,"sampled":0,"new":1,"deduplicated":0,"unchanged":0,"duration_ms":5}}],"files":[{"name":"a.vmx","len":5,"mode":420,
"modified_ns":-1,"segments":["ZERO"]}],"parent":null,"statistics":{"size":1,"read":1,"sampled":0,"new":1,"deduplicated":0,
"unchanged":0,"stored":7,"duration_ms":5},"notes":[],"warnings":["w"],"host":"h","made_by":"0.1.0",
"session":"22222222222222222222222222222222","generation":3}"#;
