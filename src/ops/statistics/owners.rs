//! Who needs a chunk: nobody yet, one backup, several backups of one machine, or several machines. Four bytes a chunk.
//!
//! This is what "unique" is made of: a chunk that one backup alone needs goes when that one is forgotten and all is pruned.

/// Who needs a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner(u32);

/// The bit that says that the number is a machine's.
const MACHINE: u32 = 1 << 31;
const SEVERAL: u32 = u32::MAX;
/// So many backups, and so many machines, can be told apart.
pub const NUMBERS_MAX: u32 = MACHINE - 2;

/// An owner, told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nobody.
    Nobody,
    /// This backup.
    Backup(u32),
    /// Several backups of this machine.
    Machine(u32),
    /// Backups of several machines.
    Several,
}

impl Owner {
    /// The owner once backup `backup` needs it, too; `machine_of` tells whose a backup is.
    pub fn with(self, backup: u32, machine_of: &[u32]) -> Owner {
        let machine = |backup: u32| machine_of.get(backup as usize).copied();
        Owner(match self.told() {
            Told::Nobody => backup + 1,
            Told::Backup(other) if other == backup => return self,
            Told::Backup(other) => match machine(other) {
                Some(number) if machine(backup) == Some(number) => MACHINE | number,
                _ => SEVERAL,
            },
            Told::Machine(number) if machine(backup) == Some(number) => return self,
            Told::Machine(_) | Told::Several => SEVERAL,
        })
    }

    /// Who it is.
    pub fn told(self) -> Told {
        match self.0 {
            0 => Told::Nobody,
            SEVERAL => Told::Several,
            number if number & MACHINE != 0 => Told::Machine(number & !MACHINE),
            number => Told::Backup(number - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn from_nobody_to_several() {
        let machine_of = [0, 0, 1];
        #[track_caller]
        fn check(backups: &[u32], machine_of: &[u32], expected: Told) {
            let owner = backups.iter().fold(Owner::default(), |owner, backup| owner.with(*backup, machine_of));
            assert_eq!(owner.told(), expected, "{backups:?}");
        }
        check(&[], &machine_of, Told::Nobody);
        check(&[0], &machine_of, Told::Backup(0));
        check(&[2, 2], &machine_of, Told::Backup(2));
        check(&[0, 1], &machine_of, Told::Machine(0));
        check(&[1, 0, 1], &machine_of, Told::Machine(0));
        check(&[0, 2], &machine_of, Told::Several);
        check(&[0, 1, 2, 0], &machine_of, Told::Several);
        check(&[NUMBERS_MAX], &machine_of, Told::Backup(NUMBERS_MAX));
    }

    proptest! {
        /// In whatever order and however often: what is told depends only on who needs it.
        #[test]
        fn the_order_does_not_matter(backups in prop::collection::vec(0u32..6, 0..12)) {
            let machine_of = [0, 0, 0, 1, 1, 2];
            let owner = backups.iter().fold(Owner::default(), |owner, backup| owner.with(*backup, &machine_of));
            let mut distinct = backups.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let mut machines: Vec<u32> = distinct.iter().map(|backup| machine_of[*backup as usize]).collect();
            machines.dedup();
            let expected = match (distinct.as_slice(), machines.as_slice()) {
                ([], _) => Told::Nobody,
                ([one], _) => Told::Backup(*one),
                (_, [machine]) => Told::Machine(*machine),
                _ => Told::Several,
            };
            prop_assert_eq!(owner.told(), expected);
        }
    }
}
