//! The journal (jbd2), replayed in memory: which blocks have newer versions in it, and where. The versions stay in the
//! journal; only their places are kept, so that memory follows the number of blocks, not their bytes.
//!
//! Replay ends before the first transaction that is not whole, as the kernel's does. A journal that cannot be read at all
//! leaves the filesystem as it lies on the volume. Either way the summary's warnings say it.
//!
//! Source: Linux Documentation/filesystems/ext4/journal.rst.

mod layout;
mod log;

use std::sync::Arc;

use super::Ext;
use super::superblock::{self, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use super::volume::{Overlay, Volume};
use crate::guest::GuestError;

/// The same filesystem with its journal replayed, as far as it can be.
pub(super) fn replayed(plain: Ext) -> Ext {
    let stays = |warning: String| {
        let disk = Arc::clone(plain.volume.disk());
        Ext::new(disk, plain.superblock.clone(), Overlay::new(), vec![warning])
    };
    if plain.superblock.journal_inode == 0 {
        let place = if plain.superblock.journal_device == 0 { "missing" } else { "on another volume" };
        return stays(format!(
            "the journal is {place} and was not replayed: the newest changes may be missing or half done"
        ));
    }
    let replay = match log::scan(&plain) {
        Ok(replay) => replay,
        Err(err) => {
            return stays(format!(
                "the journal was not replayed: the newest changes may be missing or half done ({err})"
            ));
        }
    };
    let mut warnings = Vec::new();
    if replay.transactions > 0 {
        let blocks = replay.overlay.len();
        let transactions = replay.transactions;
        let s = if transactions == 1 { "" } else { "s" };
        warnings.push(format!("journal replayed in memory: {transactions} transaction{s}, {blocks} blocks"));
    }
    warnings.extend(replay.stopped.map(|why| format!("the journal's replay stopped early: {why}")));
    if replay.fast_commits {
        let what = "the journal ends in fast commits, which are not replayed";
        warnings.push(format!("{what}: the changes of the guest's last seconds may be missing"));
    }
    match superblock_under(&plain, &replay.overlay) {
        Ok(superblock) => Ext::new(Arc::clone(plain.volume.disk()), superblock, replay.overlay, warnings),
        Err(err) => stays(format!("the journal was not replayed, for it holds a bad superblock ({err})")),
    }
}

/// The superblock as the journal has it.
fn superblock_under(plain: &Ext, overlay: &Overlay) -> Result<Superblock, GuestError> {
    let volume = Volume::new(Arc::clone(plain.volume.disk()), &plain.superblock, overlay.clone());
    let mut bytes = [0; SUPERBLOCK_BYTES];
    volume.read(SUPERBLOCK_AT, &mut bytes)?;
    let superblock = superblock::read(&bytes)?;
    if superblock.block_bits != plain.superblock.block_bits {
        return Err(GuestError::Corrupt {
            field: "block size in the journal's superblock copy",
            at: SUPERBLOCK_AT,
            expected: plain.superblock.block_bytes().to_string(),
            found: superblock.block_bytes().to_string(),
        });
    }
    Ok(superblock)
}
