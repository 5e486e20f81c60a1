//! The bytes of a pack, as they are written, into its recovery record. A pack is never in memory whole: what is kept is
//! one group of shards and the recovery shards so far, 8 MiB for a share of 5 %.

use super::code::Recovery;
use super::record::{self, HASH_BYTES, Shape};
use super::share::Share;
use crate::repo::ids::PackId;
use crate::repo::pack::PACK_BYTES_TARGET;

/// Shards of a pack of the usual length: so many that scattered rotten sectors are made up for one by one, so few that
/// their hashes cost little.
const SHARD_BYTES: usize = 16 << 10;
/// A sector: smaller shards would not survive more of them.
const SHARD_BYTES_MIN: usize = 4096;
/// A small pack is divided into about so many shards.
const SMALL_SHARDS: u64 = 1024;

/// Makes the record of one pack.
pub struct Encoder {
    id: PackId,
    share: Share,
    shard_bytes: usize,
    width: usize,
    /// The present group of shards, `width` at most.
    group: Vec<u8>,
    recovery: Option<Recovery>,
    data_hashes: Vec<u8>,
    len: u64,
}

impl Encoder {
    /// Begins the record of a pack of at most `len_max` bytes.
    pub fn new(id: PackId, share: Share, len_max: u64) -> Encoder {
        let len_max = len_max.max(PACK_BYTES_TARGET);
        // A longer pack than ours has longer shards: the group, and so the memory, stays the same.
        let shard_bytes = if len_max == PACK_BYTES_TARGET { SHARD_BYTES } else { 2 * SHARD_BYTES };
        let Shape { width, .. } = record::shape_of(share, len_max, shard_bytes, None);
        let (group, data_hashes) = (Vec::new(), Vec::new());
        Encoder { id, share, shard_bytes, width, group, recovery: None, data_hashes, len: 0 }
    }

    /// Takes the next bytes of the pack.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let group_bytes = self.width * self.shard_bytes;
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            // Not before more comes: a pack that fits in one group is divided otherwise.
            if self.group.len() == group_bytes {
                self.add_group(self.shard_bytes, self.width);
                self.group.clear();
            }
            let (now, later) = bytes.split_at(bytes.len().min(group_bytes - self.group.len()));
            self.group.extend_from_slice(now);
            bytes = later;
        }
    }

    /// The object of the record, once all of the pack has been taken.
    pub fn finish(mut self) -> Vec<u8> {
        let shape = match self.recovery {
            Some(_) => record::shape_of(self.share, self.len, self.shard_bytes, Some(self.width)),
            None => {
                let wanted = self.len.div_ceil(SMALL_SHARDS).next_power_of_two();
                let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).clamp(SHARD_BYTES_MIN, self.shard_bytes);
                record::shape_of(self.share, self.len, wanted, None)
            }
        };
        self.add_group(shape.shard_bytes, shape.width);
        let recovery = self.recovery.expect("the last group was added").finish(shape.recovery);
        record::encode(self.id, &shape, &self.data_hashes, &recovery)
    }

    /// Hashes and adds what is gathered, in groups of `width` shards.
    fn add_group(&mut self, shard_bytes: usize, width: usize) {
        let data = self.group.len().div_ceil(shard_bytes);
        self.group.resize(data.next_multiple_of(width) * shard_bytes, 0);
        self.data_hashes.reserve(data * HASH_BYTES);
        for shard in self.group.chunks_exact(shard_bytes).take(data) {
            self.data_hashes.extend_from_slice(&record::hash(shard));
        }
        let recovery = self.recovery.get_or_insert_with(|| Recovery::new(width, shard_bytes));
        self.group.chunks_exact_mut(width * shard_bytes).for_each(|group| recovery.add(group));
    }
}
