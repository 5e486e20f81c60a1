//! What is remembered of a repository, as text: lines that a person can read, and a checksum keyed with the repository's
//! secret, so that nobody without it writes this host a memory.
//!
//! ```text
//! abbild memory 1
//! repository (hex)
//! generation 12
//! backup (hex) 2026-11-20T02:15:00Z "web1"
//! gone (hex)
//! check (hex)
//! ```
//!
//! Bounded: of the newest backups only; what was let go of is not missed.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use jiff::Timestamp;

use crate::repo::ids::{BackupId, RepoId, to_hex};
use crate::repo::seal::Keys;

/// So many backups are remembered, the newest: 4 MiB.
const PRESENT_MAX: usize = 40_000;
/// So many backups that were pruned, the last: 1.5 MiB.
const GONE_MAX: usize = 40_000;
/// Longest name of a machine that is remembered whole.
const NAME_CHARS_MAX: usize = 60;
/// Largest memory that is read.
pub const BYTES_MAX: u64 = 32 << 20;
const FIRST_LINE: &str = "abbild memory 1";
/// What the checksum is bound to.
const PURPOSE: &str = "memory";

/// What is remembered of a backup.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Known {
    /// Its machine.
    pub machine: String,
    /// The instant it shows.
    pub instant: Timestamp,
}

/// What is remembered of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Which.
    pub repository: RepoId,
    /// The newest generation.
    pub generation: u64,
    /// Backups that were there.
    pub present: BTreeMap<BackupId, Known>,
    /// Backups that were forgotten and pruned, the last one last.
    pub gone: Vec<BackupId>,
}

impl Memory {
    /// Nothing.
    pub fn new(repository: RepoId) -> Memory {
        Memory { repository, generation: 0, present: BTreeMap::new(), gone: Vec::new() }
    }

    /// Lets go of what is beyond the bounds.
    pub fn bound(&mut self) {
        if let Some(excess) = self.present.len().checked_sub(PRESENT_MAX).filter(|excess| *excess > 0) {
            let mut oldest: Vec<(Timestamp, BackupId)> =
                self.present.iter().map(|(id, known)| (known.instant, *id)).collect();
            oldest.sort_unstable();
            for (_, id) in oldest.into_iter().take(excess) {
                self.present.remove(&id);
            }
        }
        let excess = self.gone.len().saturating_sub(GONE_MAX);
        self.gone.drain(..excess);
    }

    /// Adds what another run of this host remembered meanwhile.
    pub fn merge(&mut self, other: Memory) {
        self.generation = self.generation.max(other.generation);
        let mut gone: HashSet<BackupId> = self.gone.iter().copied().collect();
        self.gone.extend(other.gone.into_iter().filter(|id| gone.insert(*id)));
        for (id, known) in other.present {
            self.present.entry(id).or_insert(known);
        }
        self.present.retain(|id, _| !gone.contains(id));
        self.bound();
    }

    /// As text.
    pub fn encode(&self, keys: &Keys) -> String {
        let mut text = format!("{FIRST_LINE}\nrepository {}\ngeneration {}\n", self.repository, self.generation);
        for (id, known) in &self.present {
            let machine: String = known.machine.chars().take(NAME_CHARS_MAX).collect();
            let machine = serde_json::to_string(&machine).expect("text serialises");
            writeln!(text, "backup {id} {} {machine}", known.instant).expect("writing into memory");
        }
        for id in &self.gone {
            writeln!(text, "gone {id}").expect("writing into memory");
        }
        let check = to_hex(&keys.host_checksum(PURPOSE, &[text.as_bytes()]));
        text + "check " + &check + "\n"
    }

    /// Reads text; says what is wrong with it.
    ///
    /// # Errors
    /// A text for people.
    pub fn decode(bytes: &[u8], keys: &Keys) -> Result<Memory, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let (body, check) = text
            .strip_suffix('\n')
            .and_then(|text| text.rfind('\n').map(|at| text.split_at(at + 1)))
            .ok_or_else(|| "it ends too early".to_owned())?;
        let expected = to_hex(&keys.host_checksum(PURPOSE, &[body.as_bytes()]));
        if check.strip_prefix("check ") != Some(&expected) {
            return Err("its checksum is wrong".to_owned());
        }
        let mut memory = Memory::new(keys.repository());
        for (number, line) in body.lines().enumerate() {
            memory.line(number, line).ok_or_else(|| format!("line {} is not understood", number + 1))?;
        }
        Ok(memory)
    }

    fn line(&mut self, number: usize, line: &str) -> Option<()> {
        if number == 0 {
            return (line == FIRST_LINE).then_some(());
        }
        let (key, value) = line.split_once(' ')?;
        match key {
            "repository" => (value == self.repository.to_string()).then_some(()),
            "generation" => value.parse().ok().map(|generation| self.generation = generation),
            "gone" => value.parse().ok().map(|id| self.gone.push(id)),
            "backup" => {
                let (id, rest) = value.split_once(' ')?;
                let (instant, machine) = rest.split_once(' ')?;
                let known = Known { machine: serde_json::from_str(machine).ok()?, instant: instant.parse().ok()? };
                self.present.insert(id.parse().ok()?, known);
                Some(())
            }
            // A later version's, with the same first line: nothing that must be understood.
            _ => Some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::seal::{MasterSecret, MasterSecrets};

    fn keys(byte: u8) -> Keys {
        Keys::derive(&MasterSecrets::of_first(MasterSecret([byte; 32])), RepoId([7; 16]))
    }

    fn memory() -> Memory {
        let mut memory = Memory::new(RepoId([7; 16]));
        memory.generation = 12;
        for (number, machine) in [(1, "web1"), (2, "two words\nand a line \"quoted\""), (3, "")] {
            let instant = Timestamp::from_second(1_795_000_000 + i64::from(number)).unwrap();
            memory.present.insert(BackupId([number; 16]), Known { machine: machine.to_owned(), instant });
        }
        memory.gone = vec![BackupId([9; 16]), BackupId([8; 16])];
        memory
    }

    #[test]
    fn survives_its_text_and_no_change_of_it_does() {
        let text = memory().encode(&keys(1));
        assert_eq!(Memory::decode(text.as_bytes(), &keys(1)).unwrap(), memory());
        assert!(Memory::decode(text.as_bytes(), &keys(2)).is_err(), "another secret");
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            assert!(Memory::decode(&bytes[..at], &keys(1)).is_err(), "cut to {at}");
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(Memory::decode(&flipped, &keys(1)).is_err(), "byte {at}");
        }
        assert!(Memory::decode(b"", &keys(1)).is_err());
    }

    #[test]
    fn stays_bounded_and_lets_go_of_the_oldest() {
        let mut memory = Memory::new(RepoId([7; 16]));
        for number in 0..PRESENT_MAX + 2 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let instant = Timestamp::from_second(number as i64).unwrap();
            memory.present.insert(BackupId(id), Known { machine: "x".repeat(500), instant });
            memory.gone.push(BackupId(id));
        }
        memory.bound();
        assert_eq!((memory.present.len(), memory.gone.len()), (PRESENT_MAX, GONE_MAX));
        let oldest = memory.present.values().map(|known| known.instant).min().unwrap();
        assert_eq!(oldest, Timestamp::from_second(2).unwrap());
        assert_eq!(memory.gone[0].0[0], 2);
        let text = memory.encode(&keys(1));
        assert!((text.len() as u64) < BYTES_MAX / 2, "{} bytes", text.len());
    }

    #[test]
    fn two_runs_beside_each_other_lose_nothing() {
        let (mut one, mut other) = (memory(), memory());
        other.generation = 13;
        let pruned = BackupId([1; 16]);
        other.present.remove(&pruned);
        other.gone.push(pruned);
        one.present.insert(BackupId([4; 16]), Known { machine: "new".to_owned(), instant: Timestamp::UNIX_EPOCH });
        one.merge(other);
        assert_eq!((one.generation, one.gone.last(), one.gone.len()), (13, Some(&pruned), 3));
        assert_eq!(one.present.keys().map(|id| id.0[0]).collect::<Vec<_>>(), [2, 3, 4]);
    }
}
