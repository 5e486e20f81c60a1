//! exFAT, read-only.
//!
//! - `boot` the boot region and its copy: raw → geometry
//! - `entry` a file's set of records: attributes, times, where its content lies, its name
//! - `root` what only the root directory holds: label, allocation bitmap, up-case table
//! - `directory` entries of a directory, and how one is found by name
//! - `tree` the filesystem as the house wants it
//!
//! The table, its chains and content are `clusters`'. A file without a chain (NoFatChain) is one run; bytes past a file's
//! valid length were never written and are zeros. Owners and permissions are what Linux makes up by default: root's, 0755.
//!
//! Source: Microsoft, exFAT file system specification, revision 1.00; section numbers in the rooms are its own.

mod boot;
mod directory;
mod entry;
mod root;
mod tree;

pub use tree::{ExFat, open};
