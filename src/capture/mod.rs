//! Frozen views of a machine's disks: may a level be read, did it stay what it was, what can the next backup reuse.
//!
//! In here: the offline way ([`offline`]), the watch over files while they are read ([`guard`]), and how layers are known
//! again on another day ([`identity`]). Not in here: how images are read (`formats`), which images a machine has
//! (`machine`), the repository. This room writes to no file of a machine.

pub mod guard;
pub mod identity;
pub mod offline;

use std::io;
use std::path::PathBuf;

/// Why a level cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Somebody writes to the level that was asked for.
    #[error("{machine} is in use: {why}; {}", ways_out(snapshots))]
    InUse {
        /// What the machine is called.
        machine: String,
        /// What shows it.
        why: String,
        /// Frozen levels that could be read instead, as they can be asked for.
        snapshots: Vec<String>,
    },
    /// A file is not what it was when it was opened: what was read is a mixture of two states.
    #[error("{} changed while it was read: {what} was {before}, is {after}", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// Which of its properties.
        what: &'static str,
        /// What it was.
        before: String,
        /// What it is.
        after: String,
    },
    /// A file that was open cannot be looked at any more.
    #[error("cannot look at {} again", file.display())]
    Gone {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller opened other disks than the level has: a mistake of ours, refused rather than backed up.
    #[error("the level has the disks {expected}, but opened were {found}")]
    OtherDisks {
        /// The slots of the level.
        expected: String,
        /// The slots that were opened.
        found: String,
    },
}

fn ways_out(snapshots: &[String]) -> String {
    if snapshots.is_empty() {
        "power it off, or take a snapshot of it and back that up with --snapshot NAME".to_owned()
    } else {
        format!("power it off, or back up a frozen level: --snapshot {}", snapshots.join(" | "))
    }
}
