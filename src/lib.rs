//! Abbild backs up and restores virtual machines by their disk images.
//!
//! The one seam of the house is [`disk::Disk`]: a backup reads a `Disk` into the repository, and restore, check and
//! every later way out reads a `Disk` out of it. A frozen VMDK chain, a block device and a backup are all `Disk`s.
//!
//! The rooms, from the roof down; a room knows only rooms below it, and rooms of one line do not know each other:
//!
//! - `cli`: one file a verb; alone knows clap and anyhow; alone prints
//! - [`ops`]: backup, restore, check as library calls with typed events; the only room that joins the others
//! - [`formats`] image file ⇄ `Disk` · [`machine`] definition files → machine · [`capture`] frozen views ·
//!   [`guest`] what is inside a disk · [`repo`] chunks, packs, index, manifests
//! - [`disk`] the seam · [`chunker`] segment → chunks · [`archive`] members of a tar, where they lie
//! - [`units`] positions and lengths as types · [`uncached`] reading without filling the page cache
//! - [`bulk`] writing as much as a disk · [`recent`] caches of what was read lately
//!
//! ARCHITECTURE.md has the map with its reasons; docs/FORMAT.md specifies the repository.

pub mod archive;
pub mod bulk;
pub mod capture;
pub mod chunker;
pub mod cli;
pub mod disk;
pub mod formats;
pub mod guest;
pub mod machine;
pub mod ops;
pub mod recent;
pub mod repo;
pub mod serve;
pub mod uncached;
pub mod units;
