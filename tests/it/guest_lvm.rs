//! LVM: a group as LVM itself wrote it (fixtures/lvm), compared with what `lvs` says of it; thin pools by `thin_restore`; and
//! groups of our own making, hostile ones too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use abbild::disk::{Disk, MemoryDisk, conformance};
use abbild::guest::detect::{ContentKind, detect};
use abbild::guest::lvm::{Groups, assemble};
use abbild::guest::volumes::{Volumes, volumes};
use abbild::units::GuestOffset;
use flate2::read::GzDecoder;
use proptest::prelude::*;

use crate::formats_vmdk::open;
use crate::tools;

const EXTENT: usize = 64 << 10;
const PE_START: usize = 1 << 20;

// ---- the group that LVM wrote ----------------------------------------------------------------------------------------

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lvm").join(name)
}

/// A physical volume: its head as LVM wrote it, and data that is different everywhere.
fn physical(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(fixture(&format!("pv{number}.gz"))).unwrap()).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), PE_START);
    for at in (bytes.len()..8 << 20).step_by(8) {
        bytes.extend((((number as u64) << 56) | 0xa5_0000_0000 | at as u64).to_le_bytes());
    }
    bytes
}

fn three() -> [Vec<u8>; 3] {
    [0, 1, 2].map(physical)
}

fn disks(contents: &[Vec<u8>]) -> Vec<(String, Arc<dyn Disk>)> {
    let named = contents.iter().enumerate();
    named.map(|(n, bytes)| (format!("disk{n}"), Arc::new(MemoryDisk(bytes.clone())) as Arc<dyn Disk>)).collect()
}

/// What `lvs` says of every volume of type linear or striped, as bytes taken from the physical volumes.
fn expected_contents(physical: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let mut volumes: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for line in std::fs::read_to_string(fixture("lvs.txt")).unwrap().lines() {
        let fields: Vec<&str> = line.split(';').collect();
        let [name, _uuid, kind, start, size, _stripes, stripe_size, devices] = fields[..] else { panic!("{line}") };
        if !matches!(kind, "linear" | "striped") {
            continue;
        }
        let [start, size, stripe]: [usize; 3] = [start, size, stripe_size].map(|number| number.parse().unwrap());
        let areas: Vec<&[u8]> = devices
            .split(',')
            .map(|device| {
                let (pv, extent) = device.strip_prefix("pv").unwrap().trim_end_matches(')').split_once('(').unwrap();
                let bytes: &Vec<u8> = &physical[pv.parse::<usize>().unwrap()];
                &bytes[PE_START + EXTENT * extent.parse::<usize>().unwrap()..]
            })
            .collect();
        let stripe = if areas.len() == 1 { size } else { stripe };
        let content = volumes.entry(name.to_string()).or_default();
        assert_eq!(content.len(), start);
        for number in 0..size / stripe {
            let row = number / areas.len() * stripe;
            content.extend(&areas[number % areas.len()][row..row + stripe]);
        }
    }
    volumes
}

fn disk_of<'a>(found: &'a Volumes, name: &str) -> &'a dyn Disk {
    let volume = found.volumes.iter().find(|volume| volume.name == name);
    volume.unwrap_or_else(|| panic!("no {name}: {:?}", found.unavailable)).disk.as_ref()
}

fn reason<'a>(found: &'a Volumes, name: &str) -> &'a str {
    let volume = found.unavailable.iter().find(|volume| volume.name == name);
    &volume.unwrap_or_else(|| panic!("{name} should be unavailable")).reason
}

#[test]
fn every_plain_volume_is_where_lvs_says() {
    let physical = three();
    let found = volumes(&disks(&physical));
    let expected = expected_contents(&physical);
    for name in ["root", "swap", "striped", "data-two", "old"] {
        conformance::check(disk_of(&found, &format!("vg0/{name}")), &expected[name]);
    }
    assert!(expected["root"].len() == 23 * EXTENT, "three segments on two devices");
    let names: Vec<&str> = found.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(
        names,
        ["disk0", "disk1", "disk2", "vg0/data-two", "vg0/mir", "vg0/old", "vg0/root", "vg0/striped", "vg0/swap"]
    );
    assert_eq!((&found.warnings, &found.faults), (&vec![], &vec![]));
}

#[test]
fn what_cannot_be_read_is_named_and_hides_nothing() {
    let found = volumes(&disks(&three()));
    let reasons: Vec<(&str, &str)> =
        found.unavailable.iter().map(|volume| (volume.name.as_str(), volume.reason.as_str())).collect();
    let no_metadata = "magic of the thin pool at 0x20 of the volume: expected 27022010, found ";
    assert_eq!(reasons[0], ("vg0/five", "a logical volume of type raid5_ls (with parity) is not supported"));
    assert_eq!(reasons[1], ("vg0/oldsnap", "a snapshot of the old kind (not thin) is not supported"));
    for (number, name) in [(2, "vg0/thin1"), (3, "vg0/thin2")] {
        assert_eq!(reasons[number].0, name);
        assert!(reasons[number].1.starts_with(no_metadata), "{reasons:?}");
    }
    assert_eq!(reasons.len(), 4);
}

#[test]
fn uuids_are_those_that_pvs_and_lvs_show() {
    let physical = three();
    for line in std::fs::read_to_string(fixture("pvs.txt")).unwrap().lines() {
        let fields: Vec<&str> = line.split(';').collect();
        let number: usize = fields[0].strip_prefix("pv").unwrap().parse().unwrap();
        let content = detect(&MemoryDisk(physical[number].clone())).unwrap();
        assert_eq!((content.kind, content.uuid.as_str()), (ContentKind::LvmPv, fields[1]));
    }
    let groups = assemble(&disks(&physical));
    let lvs = std::fs::read_to_string(fixture("lvs.txt")).unwrap();
    assert_eq!(groups.volumes.len(), 10);
    for volume in &groups.volumes {
        assert!(
            lvs.lines().any(|line| line.starts_with(&format!("{};{};", volume.name, volume.uuid))),
            "{}",
            volume.name
        );
    }
}

#[test]
fn volumes_on_a_missing_device_are_named_and_the_others_open() {
    let physical = three();
    let expected = expected_contents(&physical);
    let found = volumes(&disks(&[physical[2].clone(), physical[0].clone()]));
    for name in ["swap", "data-two", "old"] {
        conformance::check(disk_of(&found, &format!("vg0/{name}")), &expected[name]);
    }
    // One copy of the mirror is enough.
    conformance::check(disk_of(&found, "vg0/mir"), &expected["[mir_rimage_0]"]);
    let pvs = std::fs::read_to_string(fixture("pvs.txt")).unwrap();
    let uuid = pvs.lines().find_map(|line| line.strip_prefix("pv1;")?.split(';').next()).unwrap();
    let missing = format!("its physical volume pv1 ({uuid}) is on none of the disks");
    for name in ["root", "striped", "thin1"] {
        assert_eq!(reason(&found, &format!("vg0/{name}")), missing);
    }
}

#[test]
fn of_a_mirror_the_copy_that_missed_nothing_is_read() {
    let mut physical = three();
    let expected = expected_contents(&physical);
    let state = |events: u64, filled_to: u64| {
        let mut bytes = b"DmRd".to_vec();
        bytes.extend([0; 12]);
        for number in [events, 0, filled_to] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    };
    let rmeta = PE_START + 40 * EXTENT; // both, see fixtures/lvm/layered.py
    let mut put = |pv: usize, state: Vec<u8>| physical[pv][rmeta..rmeta + state.len()].copy_from_slice(&state);
    put(0, state(8, u64::MAX));
    put(1, state(9, u64::MAX));
    let found = volumes(&disks(&physical));
    conformance::check(disk_of(&found, "vg0/mir"), &expected["[mir_rimage_1]"]);
    assert_eq!(found.warnings, Vec::<String>::new());
    // The only copy at hand is not complete.
    let rmeta = PE_START + 40 * EXTENT;
    physical[0][rmeta..rmeta + 40].copy_from_slice(&state(8, 4096));
    let found = volumes(&disks(&[physical[0].clone(), physical[2].clone()]));
    conformance::check(disk_of(&found, "vg0/mir"), &expected["[mir_rimage_0]"]);
    assert_eq!(
        found.warnings,
        ["vg0/mir: no copy of the mirror at hand is known to be complete: its freshest was taken"]
    );
}

#[test]
fn copies_of_disks_beside_their_originals_are_not_mixed() {
    let physical = three();
    let twice = [&physical[..], &physical[..1]].concat();
    let found = volumes(&disks(&twice));
    assert_eq!(found.faults.len(), 1);
    assert!(
        found.faults[0].contains("volume group vg0: the same physical volumes are there more than once"),
        "{:?}",
        found.faults
    );
    assert!(found.faults[0].contains("disk0, disk1, disk2, disk3"), "{:?}", found.faults);
    // A group on one disk is whole in each copy.
    let own = built(
        "Xo",
        &group_text(
            "vgx",
            "Xo",
            3,
            "lv { id = \"b\" status = [\"VISIBLE\"] segment1 { \
        start_extent = 0 extent_count = 2 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 1] } }",
        ),
    );
    let mut other = own.clone();
    other[PE_START + EXTENT] ^= 0xff;
    let found = volumes(&disks(&[own.clone(), other.clone()]));
    conformance::check(disk_of(&found, "vgx@disk0/lv"), &own[PE_START + EXTENT..PE_START + 3 * EXTENT]);
    conformance::check(disk_of(&found, "vgx@disk1/lv"), &other[PE_START + EXTENT..PE_START + 3 * EXTENT]);
    assert_eq!(found.warnings.len(), 2);
}

// ---- thin pools ------------------------------------------------------------------------------------------------------

/// Blocks of a thin volume from the first on, blocks of the pool from the second on, their number.
type Run = (u64, u64, u64);

/// Maps blocks of thin volumes to blocks of the pool, in a form that `thin_restore` reads.
fn pool_xml(transaction: u64, blocks: u64, devices: &[(u64, &[Run])]) -> String {
    let mut xml = format!(
        "<superblock uuid=\"\" time=\"1\" transaction=\"{transaction}\" flags=\"0\" version=\"2\" data_block_size=\"128\" \
         nr_data_blocks=\"{blocks}\">\n"
    );
    for (id, runs) in devices {
        let mapped: u64 = runs.iter().map(|run| run.2).sum();
        xml += &format!(
            "<device dev_id=\"{id}\" mapped_blocks=\"{mapped}\" transaction=\"0\" creation_time=\"0\" snap_time=\"0\">\n"
        );
        for (origin, data, len) in *runs {
            xml += &format!(
                "<range_mapping origin_begin=\"{origin}\" data_begin=\"{data}\" length=\"{len}\" time=\"0\"/>\n"
            );
        }
        xml += "</device>\n";
    }
    xml + "</superblock>\n"
}

/// The metadata that `thin_restore` makes of it.
fn pool_metadata(xml: &str, len: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), xml).unwrap();
    tools::blank(dir.path(), "m", len);
    tools::run("thin_restore", "thin-provisioning-tools", dir.path(), &["-q", "-i", "x", "-o", "m"]);
    std::fs::read(dir.path().join("m")).unwrap()
}

#[test]
fn thin_volumes_have_what_was_written_and_holes_elsewhere() {
    let mut physical = three();
    let first: &[_] = &[(0, 3, 2), (5, 0, 1), (6, 9, 1), (39, 15, 1)];
    let second: &[_] = &[(0, 3, 1), (1, 7, 1)];
    let metadata = pool_metadata(&pool_xml(7, 16, &[(1, first), (2, second)]), 4 * EXTENT as u64);
    let tmeta = PE_START + 60 * EXTENT;
    physical[1][tmeta..tmeta + metadata.len()].copy_from_slice(&metadata);
    let pool = expected_contents(&physical)["[pool_tdata]"].clone();
    let content = |runs: &[Run]| {
        let mut bytes = vec![0; 40 * EXTENT];
        for (origin, data, len) in runs {
            let [to, from, len] = [origin, data, len].map(|blocks| *blocks as usize * EXTENT);
            bytes[to..to + len].copy_from_slice(&pool[from..from + len]);
        }
        bytes
    };
    let found = volumes(&disks(&physical));
    conformance::check(disk_of(&found, "vg0/thin1"), &content(first));
    conformance::check(disk_of(&found, "vg0/thin2"), &content(second));
    let extents = |at: u64| {
        let extent = disk_of(&found, "vg0/thin1").extent_at(GuestOffset(at * EXTENT as u64)).unwrap();
        (extent.kind, extent.len.0 / EXTENT as u64)
    };
    use abbild::disk::ExtentKind::{Data, Hole};
    assert_eq!([extents(0), extents(2), extents(5), extents(7)], [(Data, 2), (Hole, 3), (Data, 1), (Hole, 32)]);
    // A pool that went on without its group, and one that never had this volume.
    for (xml, expected) in [
        (
            pool_xml(8, 16, &[(1, first)]),
            "transaction of the thin pool at 0x30 of the volume: expected 7 as the volume group says, found 8",
        ),
        (pool_xml(7, 16, &[(2, first)]), "expected device 1, found no such device"),
    ] {
        let metadata = pool_metadata(&xml, 4 * EXTENT as u64);
        physical[1][tmeta..tmeta + metadata.len()].copy_from_slice(&metadata);
        assert!(reason(&volumes(&disks(&physical)), "vg0/thin1").contains(expected));
    }
}

#[test]
fn trees_of_several_levels_are_followed() {
    // Every other block, scattered over the pool: no runs, so 12 000 entries in some hundred nodes under inner ones.
    const BLOCKS: u64 = 24_000;
    let runs: Vec<Run> = (0..BLOCKS / 2).map(|n| (2 * n, (n * 7919) % BLOCKS, 1)).collect();
    let metadata = pool_metadata(&pool_xml(1, BLOCKS, &[(9, &runs)]), 4 << 20);
    let text = group_text("vgt", "Th", 1, &format!(
        "meta {{ id = \"m\" status = [\"READ\"] segment1 {{ start_extent = 0 extent_count = 64 type = \"striped\" stripes = [\"pv0\", 0] }} }}
         data {{ id = \"d\" status = [\"READ\"] segment1 {{ start_extent = 0 extent_count = {BLOCKS} type = \"striped\" stripes = [\"pv0\", 64] }} }}
         pool {{ id = \"p\" status = [\"VISIBLE\"] segment1 {{ start_extent = 0 extent_count = {BLOCKS} type = \"thin-pool\" metadata = \"meta\" pool = \"data\" transaction_id = 1 chunk_size = 128 }} }}
         thin {{ id = \"t\" status = [\"VISIBLE\"] segment1 {{ start_extent = 0 extent_count = {BLOCKS} type = \"thin\" thin_pool = \"pool\" device_id = 9 }} }}"
    ));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pv");
    let file = File::create(&path).unwrap();
    file.write_all_at(&built("Th", &text)[..PE_START], 0).unwrap();
    file.write_all_at(&metadata, PE_START as u64).unwrap();
    let data_at = (PE_START + 64 * EXTENT) as u64;
    file.set_len(data_at + BLOCKS * EXTENT as u64).unwrap();
    for (origin, data, _) in &runs {
        file.write_all_at(&(origin + 1).to_le_bytes(), data_at + data * EXTENT as u64 + 8).unwrap();
    }
    let found = volumes(&[("disk0".to_string(), Arc::new(open(&path).disk()) as Arc<dyn Disk>)]);
    let thin = disk_of(&found, "vgt/thin");
    for block in 0..BLOCKS {
        let mut mark = [0; 8];
        thin.read_at(GuestOffset(block * EXTENT as u64 + 8), &mut mark).unwrap();
        assert_eq!(u64::from_le_bytes(mark), if block % 2 == 0 { block + 1 } else { 0 }, "block {block}");
    }
}

// ---- groups of our own making ----------------------------------------------------------------------------------------

/// A UUID from two characters.
fn uuid_of(id: &str) -> [u8; 32] {
    id.repeat(16).into_bytes().try_into().unwrap()
}

fn dashed(id: &str) -> String {
    let id = id.repeat(16);
    [&id[..6], &id[6..10], &id[10..14], &id[14..18], &id[18..22], &id[22..26], &id[26..]].join("-")
}

fn group_text(name: &str, pv: &str, seqno: u64, volumes: &str) -> String {
    format!(
        "{name} {{ id = \"{name}\" seqno = {seqno} extent_size = 128\nphysical_volumes {{ pv0 {{ id = \"{}\" pe_start = 2048 \
         pe_count = 112 }} }}\nlogical_volumes {{ {volumes} }} }}\n",
        dashed(pv)
    )
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    (!hasher.finalize()).to_le_bytes()
}

/// A physical volume of 4 MiB with one metadata area, whose text lies across the end of its ring.
fn built(id: &str, text: &str) -> Vec<u8> {
    let (area, area_len) = (4096, PE_START - 4096);
    let mut bytes = vec![0; 4 << 20];
    for (number, byte) in bytes[PE_START..].iter_mut().enumerate() {
        *byte = (number / 512) as u8 | 1;
    }
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let before_end = text.len() / 2;
    put(area + area_len - before_end, &text.as_bytes()[..before_end]);
    put(area + 512, &text.as_bytes()[before_end..]);
    put(area + 4, b" LVM2 x[5A%r0N*>");
    put(area + 20, &1u32.to_le_bytes());
    for (at, number) in [(24, area), (32, area_len), (40, area_len - before_end), (48, text.len())] {
        put(area + at, &(number as u64).to_le_bytes());
    }
    put(area + 56, &checksum(text.as_bytes()));
    put(512, b"LABELONE");
    put(520, &1u64.to_le_bytes());
    put(532, &32u32.to_le_bytes());
    put(536, b"LVM2 001");
    put(544, &uuid_of(id));
    for (at, number) in [(40, PE_START), (56 + 16, area), (56 + 24, area_len)] {
        put(544 + at, &(number as u64).to_le_bytes());
    }
    let header = checksum(&bytes[area + 4..area + 512]);
    bytes[area..area + 4].copy_from_slice(&header);
    let label = checksum(&bytes[532..1024]);
    bytes[528..532].copy_from_slice(&label);
    bytes
}

fn assembled(volumes: &str) -> Groups {
    assemble(&disks(&[built("Ab", &group_text("vg", "Ab", 1, volumes))]))
}

fn linear(name: &str, on: &str, extent: i64, count: i64) -> String {
    format!(
        "{name} {{ id = \"x\" status = [\"VISIBLE\"] segment1 {{ start_extent = 0 extent_count = {count} type = \"striped\" \
         stripes = [\"{on}\", {extent}] }} }}\n"
    )
}

#[test]
fn volumes_that_cannot_be_have_a_reason_and_the_others_open() {
    #[track_caller]
    fn check(volume: &str, expected: &str) {
        let groups = assembled(&format!("{volume} {}", linear("sound", "pv0", 1, 2)));
        assert_eq!(groups.faults, Vec::<String>::new());
        let [bad, sound] = &groups.volumes[..] else { panic!("{}", groups.volumes.len()) };
        assert!(sound.disk.is_ok());
        assert_eq!(bad.disk.as_ref().err().map(String::as_str), Some(expected));
    }
    let segment = |fields: &str| format!("bad {{ id = \"x\" status = [\"VISIBLE\"] segment1 {{ {fields} }} }}");
    check(&linear("bad", "pv0", 47, 2), "it needs 131072 bytes from extent 47 of pv0, which has only 4194304 bytes");
    check(
        &linear("bad", "pv0", i64::MAX, 1),
        "it needs 65536 bytes from extent 9223372036854775807 of pv0, which has only 4194304 bytes",
    );
    check(&linear("bad", "bad", 0, 1), "the volume bad lies on itself");
    check(&linear("bad", "nobody", 0, 1), "there is no volume nobody in the group");
    check(
        &linear("bad", "pv0", 0, i64::MAX),
        "LVM extent_count at 0x0 of the volume: expected below 2^63 bytes in extents of 65536, found 9223372036854775807",
    );
    check(
        &linear("bad", "pv0", 0, 0),
        "LVM segment at 0x0 of the volume: expected one that begins at 0 and is not empty, found 0 bytes at 0",
    );
    check(
        &linear("bad", "pv0", -1, 1),
        "LVM areas at 0x0 of the volume: expected names, each with an extent, found stripes",
    );
    check(
        "bad { id = \"x\" status = [\"VISIBLE\"] }",
        "LVM segments at 0x0 of the volume: expected 1 to 2^63 bytes, found 0",
    );
    let count = "start_extent = 0 extent_count = 3";
    check(&segment(count), "LVM text at 0x0 of the volume: expected a text type, found none");
    check(
        &segment(&format!("{count} type = \"striped\" stripe_size = 0 stripes = [\"pv0\", 0, \"pv0\", 3]")),
        "LVM text at 0x0 of the volume: expected 1 to 2^54 sectors as stripe_size, found 0",
    );
    check(
        &segment(&format!("{count} type = \"error\"")),
        "a logical volume of type error (every read of it fails) is not supported",
    );
    check(
        &segment(&format!("{count} type = \"novel+FLAG\"")),
        "a logical volume of type novel (unknown) is not supported",
    );
    check(
        &segment(&format!("{count} type = \"cache\" cache_pool = \"c\" origin = \"o\"")),
        "a logical volume of type cache (its newest data may be in a cache) is not supported",
    );
    check(
        &segment(&format!("{count} type = \"thin\" thin_pool = \"sound\" device_id = 1")),
        "there is no thin pool sound in the group",
    );
    check(&segment(&format!("{count} type = \"raid1\" raids = [\"bad\", \"bad\"]")), "the volume bad lies on itself");
    check(
        &segment(&format!("{count} type = \"mirror\" mirrors = [\"bad\", 0, \"pv0\", 600]")),
        "the volume bad lies on itself",
    );
}

#[test]
fn towers_and_rings_of_volumes_end() {
    let tower: String = (0..5000).map(|n| linear(&format!("v{n:05}"), &format!("v{:05}", n + 1), 0, 1)).collect();
    let groups = assembled(&tower);
    assert_eq!(groups.volumes[0].disk.as_ref().err().unwrap(), "it lies on more than 8 levels of other volumes");
    let ring = linear("a", "b", 0, 1) + &linear("b", "c", 0, 1) + &linear("c", "a", 0, 1);
    assert!(
        assembled(&ring)
            .volumes
            .iter()
            .all(|volume| volume.disk.as_ref().err().unwrap() == "the volume a lies on itself")
    );
}

#[test]
fn damaged_labels_and_texts_say_where() {
    let sound = built("Ab", &group_text("vg", "Ab", 1, &linear("lv", "pv0", 1, 2)));
    let area_end = PE_START;
    let check = |damage: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut bytes = sound.clone();
        damage(&mut bytes);
        let groups = assemble(&disks(&[bytes]));
        assert_eq!(groups.volumes.len(), 0);
        assert!(groups.faults.len() == 1 && groups.faults[0].starts_with(expected), "{:?}", groups.faults);
    };
    check(&|bytes| bytes[600] ^= 1, "disk0: checksum of the LVM label at 0x210 of the volume: expected 0x");
    check(&|bytes| bytes[area_end - 100] ^= 1, "disk0: checksum of the LVM text at 0x");
    check(&|bytes| bytes[4096 + 513] ^= 1, "disk0: checksum of the LVM text at 0x");
    check(&|bytes| bytes[4096 + 41] ^= 1, "disk0: checksum of the LVM metadata area at 0x1000 of the volume");
    check(&|bytes| bytes[4096 + 10] ^= 1, "disk0: LVM metadata area at 0x1004 of the volume: expected its magic");
    check(
        &|bytes| bytes.truncate(PE_START - 1),
        "disk0: LVM metadata area at 0x1000 of the volume: expected at least 1024 bytes",
    );
    for (text, expected) in [
        (
            "vg { id = \"a\"",
            "disk0: LVM text at 0x0 of the volume: expected names with values or sections, found \"\" in line 1",
        ),
        ("a = 1", "disk0: LVM text at 0x0 of the volume: expected the section of a volume group, found none"),
        (
            "vg { id = \"a\" seqno = 1 extent_size = 0 }",
            "disk0: LVM extent_size at 0x0 of the volume: expected 1 to 2^54 sectors, found 0",
        ),
        ("vg { id = \"a\" seqno = 1 extent_size = 36028797018963968 }", "disk0: LVM extent_size at 0x0"),
        (
            "vg { id = \"a\" extent_size = 8 }",
            "disk0: LVM text at 0x0 of the volume: expected a number seqno, found none",
        ),
    ] {
        let groups = assemble(&disks(&[built("Ab", text)]));
        assert!(groups.faults.len() == 1 && groups.faults[0].starts_with(expected), "{:?}", groups.faults);
    }
}

#[test]
fn the_newest_description_counts_whatever_the_order() {
    let text = |seqno, count| {
        format!(
            "vg {{ id = \"v\" seqno = {seqno} extent_size = 128 physical_volumes {{ pv0 {{ id = \"{}\" pe_start = 2048 pe_count = 9 }}
             pv1 {{ id = \"{}\" pe_start = 2048 pe_count = 9 }} }} logical_volumes {{ {} }} }}",
            dashed("Ab"), dashed("Cd"), linear("lv", "pv0", 1, count)
        )
    };
    let (old, new) = (built("Ab", &text(4, 2)), built("Cd", &text(5, 3)));
    for pair in [[old.clone(), new.clone()], [new, old]] {
        let groups = assemble(&disks(&pair));
        assert_eq!(groups.volumes[0].disk.as_ref().ok().unwrap().size().0, 3 * EXTENT as u64);
        assert_eq!(groups.warnings, ["volume group vg: an older description on another disk was passed over"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A sound description after any change to it, under sound checksums: whatever opens can be read and mapped.
    #[test]
    fn any_description_is_answered(
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![
            "0", "1", "99999999999", "-1", "{", "}", "\"", "[", "]", "pv0", "a", "striped", "thin", "raid1", "mirror", " ",
        ])), 1..6),
        bytes in prop::collection::vec((0usize..8192, any::<u8>()), 0..3),
    ) {
        let mut text = group_text("vg", "Ab", 1, &(linear("a", "pv0", 1, 2) + &linear("b", "a", 0, 1) +
            "c { id = \"c\" status = [\"VISIBLE\"] segment1 { start_extent = 0 extent_count = 4 type = \"striped\" stripe_size = 8 stripes = [\"pv0\", 2, \"a\", 0] } }"));
        for (index, word) in &edits {
            // A number, a brace, a name: whatever stands there.
            let words: Vec<&str> = text.split_inclusive(' ').collect();
            let at = index.index(words.len());
            text = words.iter().enumerate().map(|(n, old)| if n == at { format!("{word} ") } else { old.to_string() }).collect();
        }
        let mut pv = built("Ab", &text);
        for (at, byte) in bytes {
            pv[at] ^= byte;
        }
        for volume in assemble(&disks(&[pv])).volumes {
            if let Ok(disk) = volume.disk {
                let mut buf = vec![0; usize::try_from(disk.size().0.min(1 << 20)).unwrap()];
                disk.read_at(GuestOffset(0), &mut buf).unwrap();
                prop_assert!(disk.extent_at(GuestOffset(disk.size().0 - 1)).unwrap().len.0 == 1);
            }
        }
    }
}
