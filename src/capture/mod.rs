//! Frozen views of a machine's disks: may a level be read, did it stay what it was, what can the next backup reuse.
//!
//! In here: the offline way ([`offline`]), which processes have an image open for writing ([`writers`]), the watch over
//! files while they are read ([`guard`]), and how layers are known again on another day ([`identity`]). Not in here: how images are read (`formats`), which images a machine has
//! (`machine`), the repository. This room writes to no file of a machine.
//!
//! Unlike the other rooms of its line it knows two neighbours, by their types only: an open image (`formats`) and a machine
//! with its levels (`machine`) are what it decides about. Neither of them knows this room.

pub mod guard;
pub mod identity;
pub mod offline;
pub mod writers;

use std::io;
use std::path::PathBuf;

use crate::machine::MachineKind;

/// Why a level cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Somebody writes to the level that was asked for.
    #[error("{machine} is in use: {why}; {}", ways_out(*kind, snapshots))]
    InUse {
        /// What the machine is called.
        machine: String,
        /// What kind of machine it is: decides what the admin can do.
        kind: MachineKind,
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

fn ways_out(kind: MachineKind, snapshots: &[String]) -> String {
    /// A lock or flag does not tell a running machine from a crashed one.
    const IF_CRASHED: &str = "if it does not run, powering it on and off once removes what a crash left";
    match kind {
        MachineKind::BlockDevice => "unmount it, or name a snapshot volume of it".to_owned(),
        _ if !snapshots.is_empty() => {
            format!("power it off, or back up a frozen level: --snapshot {}; {IF_CRASHED}", snapshots.join(" | "))
        }
        MachineKind::Libvirt => {
            "shut it down, or let it write to an overlay (virsh snapshot-create-as --disk-only) and back \
                                 up what that froze with --snapshot base"
                .to_owned()
        }
        MachineKind::Proxmox => "shut it down, and let the task end that holds its lock".to_owned(),
        _ => format!("power it off, or take a snapshot of it and back that up with --snapshot NAME; {IF_CRASHED}"),
    }
}
