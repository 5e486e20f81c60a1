//! VMDK.

pub mod writer;
