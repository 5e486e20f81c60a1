//! Files inside guests: found by name, read, copied out, searched, compared.
//!
//! - `place` how a file is named, `BACKUP:PATH`; pure
//! - `source` a backup, an image or a machine's folder, opened as a guest; `found` the node that a place leads to
//! - `listing` directories in order, and the laws of every walk; `owners` the guest's own names for users and groups
//! - `content` reading a file to its end, or to where it is damaged
//! - `copy` files and folders out of a guest, into a folder or a tar stream
//! - `find`, `glob` searching; `difference` what changed between two guests
//!
//! Not in here: filesystems (`guest`), what is printed and how (`cli`). A guest's names and links are untrusted: none of
//! them ever decides where on this host something is written.

pub mod content;
pub mod copy;
pub mod difference;
pub mod error;
pub mod find;
pub mod found;
pub mod glob;
pub mod listing;
pub mod owners;
pub mod place;
pub mod source;

pub use error::FilesError;
