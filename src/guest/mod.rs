//! What is inside a guest's disk: partitions and volumes, each again a [`Disk`](crate::disk::Disk), and the filesystems
//! on them as read-only [`tree`]s.
//!
//! In here: on-disk layouts, one folder a filesystem, nom → checked → tree; everything read is untrusted input. Nothing is
//! ever written: a dirty journal is replayed in memory, or the tree says what it may lack.
//! Not in here: image formats, the repository, mounting, who wants the files.

pub mod btrfs;
mod clusters;
pub mod detect;
pub mod error;
pub mod exfat;
pub mod ext;
pub mod fat;
pub mod fstab;
pub mod iso9660;
pub mod lvm;
mod lzo;
pub mod machine;
#[cfg(test)]
pub(crate) mod memory;
pub mod ntfs;
mod pages;
pub mod partitions;
pub mod path;
pub mod squashfs;
pub mod tree;
pub mod view;
pub mod volumes;
pub mod window;
pub mod windows;
pub mod xfs;

pub use error::GuestError;
