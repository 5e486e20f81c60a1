//! The stories: one file a wish, all in one binary. Fixtures are in `fixtures/`, the judge of images is `qemu-img`.

// A failed step of a test's own stage is a failed test; clippy's exception for tests does not reach its functions.
#![allow(clippy::unwrap_used)]

mod backup_levels;
mod capture_offline;
mod cli;
mod cli_backup;
mod cli_machines;
mod cli_repository;
mod cli_restore;
mod cli_trouble;
mod damaged_objects;
mod formats_blocked;
mod formats_built;
mod formats_conformance;
mod formats_gallery;
mod formats_hostile;
mod formats_hostile_maps;
mod formats_hostile_names;
mod formats_inspect;
mod formats_links;
mod formats_matrix;
mod formats_model;
mod formats_qcow2;
mod formats_qcow2_hostile;
mod formats_qed_parallels;
mod formats_random;
mod formats_second_judge;
mod formats_vdi;
mod formats_vhd;
mod formats_vhdx;
mod formats_vhdx_log;
mod formats_vmdk;
mod formats_writers;
mod formats_writers_qcow2;
mod formats_writers_vmdk;
mod fuzz_replay;
mod fuzz_seeds;
#[path = "../../fuzz/src/targets/mod.rs"]
mod fuzz_targets;
mod generated_files;
mod guest_btrfs;
mod guest_btrfs_hostile;
mod guest_detect;
mod guest_ext;
mod guest_ext_damage;
mod guest_ext_journal;
mod guest_files;
mod guest_inspect;
mod guest_lvm;
mod guest_partitions;
mod guest_tree;
mod guest_volumes;
mod guest_xfs;
mod independent_reader;
mod killed_processes;
mod lost_packs;
mod machine_definitions;
mod machine_trees;
mod machine_vmware;
mod power_loss;
mod qemu;
mod random_histories;
mod restore_elsewhere;
mod tools;
mod world;
