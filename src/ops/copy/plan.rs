//! Which backups are to be copied, in which order, and on what each is built. Pure: equal arguments, equal plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::repo::ids::{BackupId, RepoId};
use crate::repo::manifest::{Manifest, Origin};
use crate::repo::tag::{self, Tag};

/// Which backups are asked for. What is empty restricts nothing.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These.
    pub backups: Vec<BackupId>,
    /// Those of machines with one of these names.
    pub machines: Vec<String>,
    /// Those with one of these tags.
    pub tags: Vec<Tag>,
    /// Only the newest of each machine among them.
    pub latest: bool,
    /// Only those newer than all copies of their machine that are there, or were forgotten there.
    pub newer: bool,
}

/// What is to become of a backup that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is copied.
    Copy,
    /// It is there, under this id.
    There(BackupId),
    /// It was copied before, and forgotten there. Only a backup that is named is copied again.
    ForgottenThere,
    /// A newer one of its machine is there.
    Older,
}

/// What a backup of `repository` is, wherever it is copied to: itself, or what it is a copy of.
pub fn origin_of(manifest: &Manifest, repository: RepoId) -> Origin {
    manifest.copied_from.unwrap_or(Origin { repository, backup: manifest.backup })
}

/// Decides for the backups of `from` that are asked for, in its order: oldest first, so that each builds on the one before.
/// `to` has backups, and forgotten ones.
pub fn plan(
    selection: &Selection,
    from: (RepoId, &[Manifest]),
    to: (RepoId, &[Manifest], &[Manifest]),
) -> Vec<(BackupId, Verdict)> {
    let there: HashMap<Origin, BackupId> = to.1.iter().map(|copy| (origin_of(copy, to.0), copy.backup)).collect();
    let forgotten: BTreeSet<Origin> = to.2.iter().map(|copy| origin_of(copy, to.0)).collect();
    let mut newest_there = BTreeMap::new();
    for copy in to.1.iter().chain(to.2).filter(|copy| copy.copied_from.is_some()) {
        let newest = newest_there.entry(machine_of(copy)).or_insert(copy.instant);
        *newest = copy.instant.max(*newest);
    }
    let asked = from.1.iter().filter(|backup| {
        (selection.backups.is_empty() || selection.backups.contains(&backup.backup))
            && (selection.machines.is_empty() || selection.machines.contains(&backup.machine))
            && (selection.tags.is_empty() || tag::has_any(&backup.tags, &selection.tags))
    });
    let mut asked: Vec<&Manifest> = asked.collect();
    if selection.latest {
        // Oldest first: the last one of each machine stays.
        let latest: BTreeMap<_, BackupId> = asked.iter().map(|backup| (machine_of(backup), backup.backup)).collect();
        asked.retain(|backup| latest.get(&machine_of(backup)) == Some(&backup.backup));
    }
    let verdict = |backup: &Manifest| {
        let origin = origin_of(backup, from.0);
        if let Some(copy) = there.get(&origin) {
            Verdict::There(*copy)
        } else if selection.backups.is_empty() && forgotten.contains(&origin) {
            Verdict::ForgottenThere
        } else if selection.newer
            && newest_there.get(&machine_of(backup)).is_some_and(|newest| backup.instant <= *newest)
        {
            Verdict::Older
        } else {
            Verdict::Copy
        }
    };
    asked.into_iter().map(|backup| (backup.backup, verdict(backup))).collect()
}

fn machine_of(manifest: &Manifest) -> (&str, &str) {
    (&manifest.identity, &manifest.machine)
}

/// The other backups of `wanted`'s machine, the nearest first: those before it from the newest, then those after it from
/// the oldest.
pub fn nearest<'m>(wanted: &Manifest, backups: &'m [Manifest]) -> impl Iterator<Item = &'m Manifest> {
    let key = (wanted.instant, wanted.backup);
    let identity = wanted.identity.clone();
    let mut of_machine: Vec<&Manifest> =
        backups.iter().filter(|other| other.identity == identity && other.backup != wanted.backup).collect();
    of_machine.sort_by_key(|other| (other.instant, other.backup));
    let before = of_machine.partition_point(|other| (other.instant, other.backup) < key);
    let after = of_machine.split_off(before);
    of_machine.into_iter().rev().chain(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::ObjectId;
    use crate::repo::manifest::{Capture, Consistency, MANIFEST_VERSION, Statistics};

    const HERE: RepoId = RepoId([1; 16]);
    const THERE: RepoId = RepoId([2; 16]);

    fn backup(id: u8, machine: &str, second: i64) -> Manifest {
        let instant = jiff::Timestamp::from_second(second).unwrap();
        Manifest {
            version: MANIFEST_VERSION,
            backup: BackupId([id; 16]),
            machine: machine.to_owned(),
            identity: format!("name:{machine}"),
            machine_kind: "image".to_owned(),
            instant,
            finished: instant,
            consistency: Consistency::Crash,
            capture: Capture { way: "offline".to_owned(), level: "current".to_owned(), snapshot_taken: None },
            disks: Vec::new(),
            files: Vec::new(),
            parent: None,
            statistics: Statistics::default(),
            notes: Vec::new(),
            warnings: Vec::new(),
            tags: Vec::new(),
            copied_from: None,
            host: String::new(),
            made_by: String::new(),
            session: ObjectId([0; 16]),
            generation: 1,
        }
    }

    fn copy_of(original: &Manifest, repository: RepoId, id: u8) -> Manifest {
        let backup = BackupId([id; 16]);
        Manifest { backup, copied_from: Some(origin_of(original, repository)), ..original.clone() }
    }

    #[track_caller]
    fn check(selection: &Selection, to: (&[Manifest], &[Manifest]), expected: &[(u8, Verdict)]) {
        let mut from = [backup(1, "web", 10), backup(2, "db", 15), backup(3, "web", 20), backup(4, "web", 30)];
        from[2].tags = vec!["gold".to_owned()];
        let plan = plan(selection, (HERE, &from), (THERE, to.0, to.1));
        let found: Vec<(u8, Verdict)> = plan.into_iter().map(|(id, verdict)| (id.0[0], verdict)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_there_is_not_copied_again_and_what_was_forgotten_only_by_name() {
        use Verdict::{Copy, ForgottenThere, Older, There};
        let there = [copy_of(&backup(3, "web", 20), HERE, 0x33), backup(0x77, "web", 40)];
        let gone = [copy_of(&backup(1, "web", 10), HERE, 0x11)];
        let to = (there.as_slice(), gone.as_slice());
        let three = There(BackupId([0x33; 16]));
        check(&Selection::default(), to, &[(1, ForgottenThere), (2, Copy), (3, three), (4, Copy)]);
        let named = |ids: &[u8]| Selection {
            backups: ids.iter().map(|id| BackupId([*id; 16])).collect(),
            ..Selection::default()
        };
        check(&named(&[1, 3]), to, &[(1, Copy), (3, three)]);
        let web = Selection { machines: vec!["web".to_owned()], ..Selection::default() };
        check(&Selection { latest: true, ..web.clone() }, to, &[(4, Copy)]);
        check(&Selection { latest: true, ..Selection::default() }, to, &[(2, Copy), (4, Copy)]);
        check(&Selection { tags: vec!["gold".parse().unwrap()], ..Selection::default() }, (&[], &[]), &[(3, Copy)]);
        check(&Selection { newer: true, ..web.clone() }, (&there, &[]), &[(1, Older), (3, three), (4, Copy)]);
        // A backup that was made there directly says nothing about what was copied.
        check(&Selection { newer: true, ..web }, (&there[1..], &[]), &[(1, Copy), (3, Copy), (4, Copy)]);
    }

    #[test]
    fn copies_of_copies_are_known_wherever_they_went() {
        let original = backup(1, "web", 10);
        let second = copy_of(&original, HERE, 2);
        let third_place = RepoId([3; 16]);
        // Back to where it came from; and to where it went on another way.
        let back = plan(
            &Selection::default(),
            (THERE, std::slice::from_ref(&second)),
            (HERE, std::slice::from_ref(&original), &[]),
        );
        assert_eq!(back, [(second.backup, Verdict::There(original.backup))]);
        let third = copy_of(&original, HERE, 3);
        let on = plan(
            &Selection::default(),
            (THERE, std::slice::from_ref(&second)),
            (third_place, std::slice::from_ref(&third), &[]),
        );
        assert_eq!(on, [(second.backup, Verdict::There(third.backup))]);
        assert_eq!(
            origin_of(&copy_of(&second, THERE, 9), third_place),
            Origin { repository: HERE, backup: original.backup }
        );
    }

    #[test]
    fn the_nearest_comes_first() {
        let all = [
            backup(1, "web", 10),
            backup(2, "web", 20),
            backup(3, "db", 25),
            backup(4, "web", 30),
            backup(5, "web", 40),
        ];
        let of = |wanted: usize| nearest(&all[wanted], &all).map(|backup| backup.backup.0[0]).collect::<Vec<_>>();
        assert_eq!(of(3), [2, 1, 5]);
        assert_eq!(of(0), [2, 4, 5]);
        assert_eq!(of(2), [] as [u8; 0]);
    }
}
