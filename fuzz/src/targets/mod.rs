//! What is fuzzed: every reader of what a stranger may have written. One line a target; a new parser is a new line.
//!
//! A target is a name and a judge. A judge takes any bytes, makes of them what the parser reads, and panics if a promise
//! is broken; that the input is nonsense is no breach. The fuzzer runs judges on what it invents, `cargo test` runs the
//! same judges on the kept corpora and finds, so this folder is compiled into both and knows neither.
//!
//! - `stage` a folder in memory, and the encoding of small, mostly empty files
//! - `checksums`, `guest_checksums` make checksums right, so that the fuzzer gets past them
//! - `message` what may be said to a terminal
//! - `images` the promises of `formats`, `machines` those of `machine`, `guests` those of `guest`, `objects` and `recovery` those of `repo`

mod checksums;
mod guest_checksums;
pub mod guests;
mod images;
mod machines;
mod message;
mod objects;
pub mod recovery;
pub mod stage;

/// Panics if a promise is broken.
pub type Judge = fn(&[u8]);

/// Name and judge of every target. The name is the folder of its corpus and its finds.
pub const TARGETS: &[(&str, Judge)] = &[
    ("vmdk_descriptor", |input| images::open(input)),
    ("vmdk_sparse", |input| images::open(input)),
    ("vmdk_stream", |input| images::open(input)),
    ("vmdk_cowd", |input| images::open(input)),
    ("vmdk_sesparse", |input| images::open(input)),
    ("qcow2", |input| images::open(input)),
    ("vhd", |input| images::open(input)),
    ("vhdx", |input| images::open(input)),
    ("vhdx_log", |input| images::open(input)),
    ("vdi", |input| images::open(input)),
    ("qed", |input| images::open(input)),
    ("parallels", |input| images::open(input)),
    ("chain", |input| images::open(input)),
    ("inspect", |input| images::inspect(input)),
    ("machine_vmx", |input| machines::definition("web1.vmx", input)),
    ("machine_vmsd", |input| machines::snapshots(input)),
    ("machine_libvirt", |input| machines::definition("web1.xml", input)),
    ("machine_hyper_v", |input| machines::definition("web1.xml", input)),
    ("machine_virtual_box", |input| machines::definition("web1.vbox", input)),
    ("machine_proxmox", |input| machines::definition("100.conf", input)),
    ("machine_ovf", |input| machines::definition("web1.ovf", input)),
    ("machine_ova", |input| machines::definition("web1.ova", input)),
    ("machine_folder", |input| machines::folder(input)),
    ("guest_partitions", |input| guests::disks(input)),
    ("guest_lvm", |input| guests::disks(input)),
    ("guest_ext", |input| guests::disks(input)),
    ("guest_xfs", |input| guests::disks(input)),
    ("guest_btrfs", |input| guests::disks(input)),
    ("guest_ntfs", |input| guests::disks(input)),
    ("guest_fat", |input| guests::disks(input)),
    ("guest_exfat", |input| guests::disks(input)),
    ("guest_iso9660", |input| guests::disks(input)),
    ("guest_squashfs", |input| guests::disks(input)),
    ("repo_config", |input| objects::config(input)),
    ("repo_key_slot", |input| objects::key_slot(input)),
    ("repo_key_file", |input| objects::key_file(input)),
    ("repo_manifest", |input| objects::manifest(input)),
    ("repo_map", |input| objects::map(input)),
    ("repo_pack_directory", |input| objects::pack_directory(input)),
    ("repo_index_segment", |input| objects::index_segment(input)),
    ("repo_blob", |input| objects::blob(input)),
    ("repo_branch_filter", |input| objects::branch_filter(input)),
    ("parity_record", |input| recovery::record(input)),
];
