//! Raw images: the guest's bytes as they are, in a file or on a block device.

pub mod image;
pub mod writer;
