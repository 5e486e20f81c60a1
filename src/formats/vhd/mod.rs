//! VHD: the format of Virtual PC, of Hyper-V before 2012, of Azure and XenServer. Everything big-endian.
//!
//! - `header` raw footer, dynamic header, parent locators → `layout` checked
//! - `image` fixed, dynamic and differencing disks
//! - `chain` from the newest `.avhd` down to the base
//! - [`writer`] fixed and dynamic
//!
//! Sources: Microsoft, "Virtual Hard Disk Image Format Specification 1.0"; QEMU's block/vpc.c for who means which size.

pub(crate) mod chain;
pub(crate) mod header;
pub(crate) mod image;
pub(crate) mod layout;
pub mod writer;
