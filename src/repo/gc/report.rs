//! What a prune says of itself. Pure.

use std::ops::AddAssign;

use super::plan::PackUse;

/// So many packs or other objects, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Amount {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }

    /// That of `packs`.
    pub fn of<'p>(packs: impl IntoIterator<Item = &'p PackUse>) -> Amount {
        let mut amount = Amount::default();
        packs.into_iter().for_each(|pack| amount.add(pack.len));
        amount
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// What a prune did, or would do.
#[derive(Debug, Default, serde::Serialize)]
pub struct PruneReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Backups whose needs were looked at.
    pub backups: usize,
    /// Packs in use before.
    pub packs: Amount,
    /// Packs that nothing needs, taken out of use.
    pub unneeded: Amount,
    /// Packs of which the needed part was written anew, taken out of use.
    pub repacked: Amount,
    /// Small packs that were written into longer ones, taken out of use.
    pub merged: Amount,
    /// What was written for these and those.
    pub written: Amount,
    /// Packs deleted for good.
    pub deleted: Amount,
    /// Packs in the trash that wait for others to be done.
    pub waiting: Amount,
    /// Packs that nothing needs, which may be those of a run that is at work.
    pub left: Amount,
    /// Packs that were in the trash and are needed: moved back into use.
    pub revived: u64,
    /// Forgotten backups that cannot be brought back any more.
    pub forgotten: u64,
    /// Waste in the packs that stay, about. Bytes.
    pub unused_bytes: u64,
    /// Who is at work, or may be: host, process, since when.
    pub at_work: Vec<String>,
    /// Sessions that were taken for dead.
    pub expired: Vec<String>,
    /// What dead runs had left unfinished.
    pub unfinished: Amount,
    /// Recovery records whose packs are gone.
    pub recovery_records: Amount,
    /// Chunks of data that backups need and no pack has.
    pub missing_chunks: u64,
    /// What was less than asked for, or odd.
    pub warnings: Vec<String>,
}
