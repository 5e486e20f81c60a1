//! How an earlier backup cut a segment: where its chunks are still the same, they need not be looked for.
//!
//! Pure. Nothing is believed: an entry is the same if the bytes of today have its id. And the cuts are those that cutting
//! would give, as an entry is only settled once what follows it, as far as the chunker would have looked, is the same too.

use crate::chunker::is_zero;
use crate::repo::ids::ChunkId;
use crate::repo::map::ListEntry;

/// A segment's list of an earlier backup, and how much of it was found again.
pub struct Recorded<'l> {
    entries: &'l [ListEntry],
    /// The next entry that is not settled, and where it begins in the segment.
    next: usize,
    at: usize,
    /// Where what was found the same ends, from `at` on.
    same_to: usize,
}

/// What [`Recorded::settle`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled<'l> {
    /// Entries that the bytes begin with.
    pub entries: &'l [ListEntry],
    /// Whether what follows them must be cut: it differs, or the list has no entry that begins there.
    pub differs: bool,
}

impl<'l> Recorded<'l> {
    /// The entries of a whole segment.
    pub fn new(entries: &'l [ListEntry]) -> Recorded<'l> {
        Recorded { entries, next: 0, at: 0, same_to: 0 }
    }

    /// Compares `bytes`, which begin `from` bytes into the segment, with the entries that begin there; all before them is
    /// settled. So many bytes `behind` a piece decide where it ends; after the last of `bytes` only if `more` are to come.
    pub fn settle(
        &mut self,
        from: usize,
        bytes: &[u8],
        more: bool,
        behind: usize,
        id_of: impl Fn(&[u8]) -> ChunkId,
    ) -> Settled<'l> {
        while self.at < from && self.next < self.entries.len() {
            self.at += self.entries[self.next].len() as usize;
            self.next += 1;
        }
        let mut settled = Settled { entries: &self.entries[self.next..self.next], differs: true };
        if self.at != from {
            return settled;
        }
        settled.differs = false;
        self.same_to = self.same_to.max(self.at);
        let mut end = self.at;
        for entry in &self.entries[self.next..] {
            let begin = end;
            end += entry.len() as usize;
            if end <= self.same_to {
                continue;
            }
            let Some(bytes) = bytes.get(begin - from..end - from) else { break };
            settled.differs = match entry {
                ListEntry::Zero(_) => !is_zero(bytes),
                ListEntry::Chunk(id, _) => id_of(bytes) != *id,
            };
            if settled.differs {
                break;
            }
            self.same_to = end;
        }
        let behind = if !more && self.same_to == from + bytes.len() { 0 } else { behind };
        let first = self.next;
        while let Some(entry) = self.entries.get(self.next) {
            let end = self.at + entry.len() as usize;
            if end + behind > self.same_to {
                break;
            }
            self.at = end;
            self.next += 1;
        }
        settled.entries = &self.entries[first..self.next];
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::{ChunkSizes, Chunker, Piece};
    use proptest::prelude::*;

    fn chunker() -> Chunker {
        let word = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        Chunker::new(ChunkSizes::default(), Box::new(std::array::from_fn(word)))
    }

    fn id_of(bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::hash(bytes).as_bytes().first_chunk().unwrap())
    }

    fn entry(piece: &Piece, bytes: &[u8]) -> ListEntry {
        match piece {
            Piece::Zero(range) => ListEntry::Zero(range.len() as u32),
            Piece::Chunk(range) => ListEntry::Chunk(id_of(&bytes[range.clone()]), range.len() as u32),
        }
    }

    fn cut(segment: &[u8]) -> Vec<ListEntry> {
        let mut entries = Vec::new();
        let outcome: Result<(), ()> = chunker().cut(segment, |piece| {
            entries.push(entry(&piece, segment));
            Ok(())
        });
        outcome.unwrap();
        entries
    }

    /// What the segment is made of, found with the help of `recorded`, and how many of its bytes were not cut.
    fn found_with(recorded: &[ListEntry], segment: &[u8], portion: usize) -> (Vec<ListEntry>, usize) {
        let chunker = chunker();
        let mut recorded = Recorded::new(recorded);
        let (mut entries, mut spared) = (Vec::new(), 0);
        let mut from = 0;
        while from < segment.len() {
            let to = segment.len().min(from + portion);
            let (bytes, more) = (&segment[from..to], to < segment.len());
            let same = recorded.settle(from, bytes, more, chunker.decided_by(), id_of);
            entries.extend_from_slice(same.entries);
            let len: usize = same.entries.iter().map(|entry| entry.len() as usize).sum();
            (spared, from) = (spared + len, from + len);
            if same.differs || len == 0 {
                let outcome: Result<usize, ()> = chunker.cut_portion(from, &bytes[len..], more, |piece| {
                    entries.push(entry(&piece, &bytes[len..]));
                    Ok(())
                });
                from += outcome.unwrap();
            }
        }
        (merged(entries), spared)
    }

    /// With neighbouring zero runs as one.
    fn merged(entries: Vec<ListEntry>) -> Vec<ListEntry> {
        let mut merged: Vec<ListEntry> = Vec::new();
        for entry in entries {
            match (merged.last_mut(), entry) {
                (Some(ListEntry::Zero(last)), ListEntry::Zero(len)) => *last += len,
                _ => merged.push(entry),
            }
        }
        merged
    }

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_the_same_is_not_cut() {
        let segment = noise(4 << 20, 1);
        let recorded = cut(&segment);
        assert_eq!(found_with(&recorded, &segment, 512 << 10), (recorded.clone(), segment.len()));
        // One page differs: only the rest of its portion is cut.
        let mut today = segment.clone();
        today[1 << 20..][..4096].fill(7);
        let (entries, spared) = found_with(&recorded, &today, 512 << 10);
        assert_eq!(entries, cut(&today));
        assert!(spared > 3 << 20 && spared < segment.len(), "{spared}");
        assert_eq!(found_with(&[], &segment, 512 << 10), (recorded, 0));
    }

    proptest! {
        #[test]
        fn the_entries_are_those_that_cutting_gives(
            runs in proptest::collection::vec((1usize..150_000, any::<u8>(), 0u8..3), 1..10),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..40_000, 0u8..3), 0..4),
            portion in 250_000usize..600_000,
        ) {
            let segment: Vec<u8> = runs.into_iter().flat_map(|(len, seed, kind)| match kind {
                0 => vec![0; len.next_multiple_of(4096)],
                1 => noise(len.next_multiple_of(4096), seed),
                _ => [noise(len, seed), vec![0; len.next_multiple_of(4096) - len]].concat(),
            }).collect();
            let mut today = segment.clone();
            for (at, len, fill) in changes {
                let from = at.index(today.len()) / 512 * 512;
                let to = (from + len).min(today.len());
                let bytes = if fill == 0 { vec![0; to - from] } else { noise(to - from, fill) };
                today[from..to].copy_from_slice(&bytes);
            }
            prop_assert_eq!(found_with(&cut(&segment), &today, portion).0, cut(&today));
        }
    }
}
