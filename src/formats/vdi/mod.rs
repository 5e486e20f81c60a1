//! VDI: the format of VirtualBox. Everything little-endian.
//!
//! - `header` raw header → `layout` checked
//! - `image` dynamic, fixed and differencing disks, which differ only in how many blocks are stored
//! - `chain` from the newest snapshot down to the base; parents are known by UUID alone
//! - [`writer`] dynamic
//!
//! Sources: VirtualBox, Storage/VDICore.h; QEMU's block/vdi.c.

pub(crate) mod chain;
pub(crate) mod header;
pub(crate) mod image;
pub(crate) mod layout;
pub mod writer;
