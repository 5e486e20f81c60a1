//! qcow2, the image format of QEMU: versions 2 and 3, with overlays, internal snapshots and data files.
//!
//! - `header` what lies in the file (nom) → `layout` the same, checked
//! - `entries` what L1 and L2 entries mean → `tables` runs of them, cached → `image` the [`Disk`](crate::disk::Disk)
//! - `compressed` deflate and zstd clusters
//! - `snapshots` internal snapshots; [`open_snapshot`] opens one
//! - `chain` one level; the way down to the base, whatever the formats below, is that of `formats::backing`
//! - `lock` signs that a running machine is writing
//! - [`writer`] a disk into a new image
//!
//! Sources: QEMU docs/interop/qcow2.txt and block/qcow2*.c. qemu-img is the judge in the tests.

pub(crate) mod chain;
mod compressed;
mod entries;
pub(crate) mod header;
mod image;
mod layout;
mod lock;
mod snapshots;
mod tables;
pub mod writer;

use std::path::Path;

pub use self::snapshots::InternalSnapshot;
use super::{Image, ImageError, OpenPolicy};

/// Which internal snapshot is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector<'a> {
    /// The one with this id.
    Id(&'a str),
    /// The only one of this name.
    Name(&'a str),
}

/// The internal snapshots of the qcow2 file at `path`, in the order of its table.
///
/// # Errors
/// As [`formats::open`](super::open), but for the backing files, which are not looked at.
pub fn list_snapshots(path: &Path, policy: &OpenPolicy) -> Result<Vec<InternalSnapshot>, ImageError> {
    chain::list_snapshots(&policy.open_top(path)?)
}

/// Opens the qcow2 file at `path`, and its chain, in the state of an internal snapshot.
///
/// # Errors
/// [`ImageError::Missing`] if there is no such snapshot, [`ImageError::Unsupported`] if several have that name; else as
/// [`formats::open`](super::open).
pub fn open_snapshot(path: &Path, selector: Selector<'_>, policy: &OpenPolicy) -> Result<Image, ImageError> {
    let (layers, faults) = chain::open_chain(policy.open_top(path)?, Some(selector), policy);
    match faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(Image { layers }),
    }
}
