//! The log: changes that were promised, and may not be where they belong yet.
//!
//! - `ring` the log's blocks, and where the newest record ends; `record` raw → checked and unpacked
//! - `transaction` the operations of all records → the items of committed transactions
//! - `replay` items → an overlay of the volume; `inode` the log's form of inodes
//!
//! What is not replayed is what only the kernel's bookkeeping needs: intents to free or to count space. An intent to change a
//! file that is not done (a mapping, an attribute, an exchange of contents) is left undone, and the outcome says so.
//!
//! Source: XFS Algorithms & Data Structures, "Journaling Log"; where it is silent, the behaviour of the Linux kernel's
//! recovery, which is the judge in our tests.

mod inode;
mod record;
mod replay;
mod ring;
mod transaction;

use ring::{Newest, Ring};

use super::geometry::Geometry;
use super::volume::Overlay;
use crate::disk::Disk;
use crate::guest::GuestError;

/// Bytes of records that we replay. Their items are held in memory until they are.
const ACTIVE_BYTES_MAX: u64 = 128 << 20;

/// What the log says.
pub(crate) struct Outcome {
    /// Its changes.
    pub overlay: Overlay,
    /// What a reader of the volume should know.
    pub warnings: Vec<String>,
}

/// Replays the log of a volume. A log that cannot be replayed is no error: the volume is as it is without it.
pub(crate) fn recover(disk: &dyn Disk, geometry: &Geometry) -> Outcome {
    let only = |warning: String| Outcome { overlay: Overlay::new(), warnings: vec![warning] };
    let missing = "the newest changes may be missing, or half there";
    let Some(start) = geometry.log_start else {
        return only(format!("its log lies on another device: {missing}"));
    };
    match replayed(disk, geometry, start) {
        Ok(outcome) => outcome,
        Err(err) => only(format!("its log could not be replayed ({err}): {missing}")),
    }
}

fn replayed(disk: &dyn Disk, geometry: &Geometry, start: u64) -> Result<Outcome, GuestError> {
    let ring = Ring::new(disk, geometry, start)?;
    let Newest::Record(newest) = ring.newest()? else {
        return Ok(Outcome { overlay: Overlay::new(), warnings: Vec::new() });
    };
    let mut transactions = transaction::Transactions::default();
    for record in ring.records_to(&newest, ACTIVE_BYTES_MAX)? {
        transactions.add(&record?)?;
    }
    let committed = transactions.committed();
    let (overlay, undone) = replay::replay(disk, geometry, &committed)?;
    let mut warnings = vec![format!("its log was replayed in memory: {} transactions", committed.len())];
    if undone > 0 {
        warnings.push(format!("{undone} changes of several steps had begun and are shown half done"));
    }
    Ok(Outcome { overlay, warnings })
}
