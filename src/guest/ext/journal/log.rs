//! Walking the log: transaction after transaction, each taken whole or not at all.

use super::layout::{self, Checksums, JournalSuperblock, Kind};
use crate::guest::GuestError;
use crate::guest::ext::Ext;
use crate::guest::ext::checksum::crc32_be;
use crate::guest::ext::content::RunKind;
use crate::guest::ext::inode::Inode;
use crate::guest::ext::volume::{Bytes, Overlay, Replayed};

/// Blocks with newer versions that we keep track of: 8 GiB of a usual volume's, in about 80 MiB.
const REPLAYED_BLOCKS_MAX: usize = 1 << 21;

/// What the log holds.
pub(super) struct Replay {
    pub overlay: Overlay,
    pub transactions: u32,
    /// Why it ended at something that looks like a part of it.
    pub stopped: Option<String>,
    pub fast_commits: bool,
}

/// The journal's file.
struct Log<'e> {
    ext: &'e Ext,
    inode: Inode,
}

impl Log<'_> {
    fn block(&self, number: u32) -> Result<Bytes, GuestError> {
        match self.ext.run_at(&self.inode, number.into())?.kind {
            RunKind::Data(at) => self.ext.volume.block(at),
            RunKind::Unwritten | RunKind::Hole => Err(GuestError::Corrupt {
                field: "journal",
                at: self.inode.bytes.at,
                expected: "a file without holes".to_owned(),
                found: format!("one at its block {number}"),
            }),
        }
    }
}

/// A transaction on the way to its commit.
struct Transaction {
    blocks: Vec<(u64, Replayed)>,
    /// Places of its revocations in the log: their content could be much more than the log's data.
    revocations: Vec<u32>,
    sum: u32,
}

impl Transaction {
    fn new() -> Transaction {
        Transaction { blocks: Vec::new(), revocations: Vec::new(), sum: u32::MAX }
    }
}

/// Reads the whole log.
pub(super) fn scan(ext: &Ext) -> Result<Replay, GuestError> {
    let log = Log { ext, inode: ext.inode(ext.superblock.journal_inode)? };
    let journal = layout::read(&log.block(0)?, log.inode.size / ext.superblock.block_bytes())?;
    let mut replay = Replay { overlay: Overlay::new(), transactions: 0, stopped: None, fast_commits: false };
    // Without a start the journal was emptied; what lies in it is old.
    let Some(start) = journal.start else { return Ok(replay) };
    let mut sequence = journal.sequence;
    replay.stopped = transactions(&log, &journal, start, &mut sequence, &mut replay)?;
    if let Some(first) = journal.fast_commits {
        replay.fast_commits = layout::begins_fast_commits(&log.block(first)?, sequence);
    }
    Ok(replay)
}

/// Takes over transactions until the log ends; returns why, if not for its regular end.
fn transactions(
    log: &Log<'_>,
    journal: &JournalSuperblock,
    start: u32,
    sequence: &mut u32,
    replay: &mut Replay,
) -> Result<Option<String>, GuestError> {
    let mut at = start;
    // The log is a ring: who has seen so many blocks has seen all.
    let mut left = journal.blocks;
    let mut transaction = Transaction::new();
    let bad = |what: &str, sequence: u32| Ok(Some(format!("bad {what} in transaction {sequence}")));
    while left > 0 {
        left -= 1;
        let place = at;
        let block = log.block(place)?;
        let Some((kind, found)) = layout::header(&block) else { return Ok(None) };
        if found != *sequence {
            return Ok(None);
        }
        at = journal.after(at);
        match kind {
            Kind::Descriptor => {
                if !journal.proves_tail(&block) {
                    return bad("descriptor", *sequence);
                }
                sum(journal, &mut transaction, &block);
                for tag in journal.tags(&block) {
                    if left == 0 || transaction.blocks.len() + replay.overlay.len() >= REPLAYED_BLOCKS_MAX {
                        return bad("number of blocks", *sequence);
                    }
                    left -= 1;
                    let data = log.block(at)?;
                    at = journal.after(at);
                    if !journal.proves_data(tag, *sequence, &data) {
                        return bad("data", *sequence);
                    }
                    sum(journal, &mut transaction, &data);
                    transaction.blocks.push((tag.block, Replayed { at: data.at, escaped: tag.escaped }));
                }
            }
            Kind::Revocation => {
                if !journal.proves_tail(&block) {
                    return bad("revocation", *sequence);
                }
                transaction.revocations.push(place);
            }
            Kind::Commit => {
                if !journal.proves_commit(&block, transaction.sum) {
                    return bad("commit", *sequence);
                }
                commit(log, journal, std::mem::replace(&mut transaction, Transaction::new()), replay)?;
                replay.transactions += 1;
                *sequence = sequence.wrapping_add(1);
            }
        }
    }
    Ok(None)
}

/// Adds a block to the first version's checksum of its transaction.
fn sum(journal: &JournalSuperblock, transaction: &mut Transaction, block: &[u8]) {
    if journal.checksums == Checksums::V1 {
        transaction.sum = crc32_be(transaction.sum, block);
    }
}

fn commit(
    log: &Log<'_>,
    journal: &JournalSuperblock,
    transaction: Transaction,
    replay: &mut Replay,
) -> Result<(), GuestError> {
    replay.overlay.extend(transaction.blocks);
    // A revocation is for all versions up to its own transaction's; a later transaction's stand.
    for place in transaction.revocations {
        for block in journal.revoked(&log.block(place)?) {
            replay.overlay.remove(&block);
        }
    }
    Ok(())
}
