//! Giving disks and guest trees out to others: through the kernel as files ([`fuse`]).
//!
//! In here: protocols and thin servers over [`Disk`](crate::disk::Disk) and guest trees. Not in here: where a disk comes
//! from; a server shows what [`fuse::shown`] describes, and knows no repository.

pub mod fuse;
pub mod read_ahead;
