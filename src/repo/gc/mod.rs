//! Forgetting backups, and giving back the space that nothing needs any more.
//!
//! - [`retention`] which backups a set of rules keeps · [`forgotten`] moving manifests out of the way and back

pub mod forgotten;
pub mod retention;
