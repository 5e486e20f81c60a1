//! VMDK: descriptors, the extents they list, and the redo logs built of them.
//!
//! - `descriptor` text → which extents, which parent
//! - `extents` extent lines → one [`Disk`](crate::disk::Disk), put together from
//!   `flat` (FLAT, VMFS, ZERO), [`sparse`] (hosted, `KDMV`), `cowd` (ESX `-delta.vmdk`), `sesparse` (ESX `-sesparse.vmdk`);
//!   what the three sparse kinds share is in `formats::grains`
//! - `budget` what the directories of a chain may take together
//! - `chain` from the newest redo log down to the base
//! - `lock` signs that a running machine is writing
//!
//! Sources: VMware "Virtual Disk Format 5.0"; the VDDK guide on version 3; libvmdk's documentation of COWD; QEMU's
//! block/vmdk.c for seSparse. Where they disagree, qemu-img is the judge in the tests.

mod budget;
pub(crate) mod chain;
pub(crate) mod cowd;
pub(crate) mod descriptor;
pub(crate) mod extents;
pub(crate) mod flat;
pub(crate) mod lock;
pub(crate) mod sesparse;
pub(crate) mod sparse;
pub mod writer;
