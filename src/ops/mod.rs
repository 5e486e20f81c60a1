//! What abbild does, as library calls: backup, restore, check, inspect. The only room that joins the others.
//!
//! Calls take a [`Control`]: events go out through it as they happen, the wish to stop comes in. Nothing here prints,
//! parses a command line or asks anybody.

pub mod backup;
pub mod check;
pub mod copy;
pub mod definition_file;
mod digest;
pub mod error;
pub mod event;
pub mod files;
pub mod forget;
pub mod inspect;
pub mod machines;
pub mod mount;
pub mod prune;
pub mod restore;
pub mod scrub;
pub mod statistics;

pub use error::OpsError;
pub use event::{Control, Event, Events};

/// Threads that read and unpack, or read and verify: one a core, within reason for memory (each holds a segment and its
/// blobs, some 6 MiB).
pub fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8)
}
