//! The stories: one file a wish, all in one binary. Fixtures are in `fixtures/`, the judge of images is `qemu-img`.

// A failed step of a test's own stage is a failed test; clippy's exception for tests does not reach its functions.
#![allow(clippy::unwrap_used)]

mod backup_levels;
mod capture_offline;
mod cli;
mod cli_backup;
mod cli_repository;
mod cli_restore;
mod cli_trouble;
mod damaged_objects;
mod formats_blocked;
mod formats_built;
mod formats_hostile;
mod formats_inspect;
mod formats_qcow2;
mod formats_qcow2_hostile;
mod formats_qed_parallels;
mod formats_vdi;
mod formats_vhd;
mod formats_vhdx;
mod formats_vhdx_log;
mod formats_vmdk;
mod formats_writers;
mod formats_writers_qcow2;
mod formats_writers_vmdk;
mod generated_files;
mod independent_reader;
mod killed_processes;
mod lost_packs;
mod machine_vmware;
mod power_loss;
mod qemu;
mod random_histories;
mod world;
