//! Naming a backup: `web1@latest`, `web1@2026-11-20`, `web1@2026-11-20T02:15`, or the beginning of its id. Pure.

use std::sync::Arc;

use super::error::RepoError;
use super::ids::BackupId;
use super::manifest::Manifest;

/// Shortest beginning of an id that is taken for one.
const ID_DIGITS_MIN: usize = 4;
/// How an instant is written in full, in this host's time zone.
const SECOND: &str = "%Y-%m-%dT%H:%M:%S";
/// Its length.
const SECOND_CHARS: usize = "2026-11-20T02:15:00".len();

/// What a backup is named by.
pub trait Named {
    /// Its id.
    fn backup(&self) -> BackupId;
    /// What its machine is called.
    fn machine(&self) -> &str;
    /// The instant that it shows.
    fn instant(&self) -> jiff::Timestamp;
}

impl Named for Manifest {
    fn backup(&self) -> BackupId {
        self.backup
    }

    fn machine(&self) -> &str {
        &self.machine
    }

    fn instant(&self) -> jiff::Timestamp {
        self.instant
    }
}

impl<N: Named> Named for Arc<N> {
    fn backup(&self) -> BackupId {
        (**self).backup()
    }

    fn machine(&self) -> &str {
        (**self).machine()
    }

    fn instant(&self) -> jiff::Timestamp {
        (**self).instant()
    }
}

/// The backup among `backups` (oldest first) that `wanted` names. A date or time names the newest backup that began
/// in it, as this host's time zone has it.
///
/// # Errors
/// [`RepoError::UnknownBackup`], [`RepoError::AmbiguousBackup`].
pub fn find<'b, N: Named>(wanted: &str, backups: &'b [N]) -> Result<&'b N, RepoError> {
    let unknown = || RepoError::UnknownBackup { wanted: wanted.to_owned(), candidates: candidates(wanted, backups) };
    let Some((machine, when)) = wanted.rsplit_once('@') else {
        if let Some(newest) = backups.iter().rev().find(|backup| backup.machine() == wanted) {
            return Ok(newest); // a bare machine name means its latest backup
        }
        return by_id(wanted, backups)?.ok_or_else(unknown);
    };
    let of_machine = backups.iter().rev().filter(|backup| backup.machine() == machine);
    let zone = jiff::tz::TimeZone::system();
    let when = when.replace(' ', "T");
    let fitting: Vec<&N> = of_machine
        .filter(|backup| {
            // `2026-11-20T02:15` names a minute: whatever its length, the text is a prefix of the instant's own.
            let local = backup.instant().to_zoned(zone.clone()).strftime(SECOND).to_string();
            when == "latest" || (when.len() >= 4 && local.starts_with(&when))
        })
        .collect();
    match fitting.as_slice() {
        [] => by_id(&when, backups)?.filter(|backup| backup.machine() == machine).ok_or_else(unknown),
        // A day or a minute means its newest backup; a second was copied from a list, and there it was one of them.
        [_, _, ..] if when.len() >= SECOND_CHARS => Err(ambiguous(wanted, &fitting)),
        [newest, ..] => Ok(newest),
    }
}

fn ambiguous<N: Named>(wanted: &str, fits: &[&N]) -> RepoError {
    let fits = fits.iter().map(|backup| backup.backup()).collect();
    RepoError::AmbiguousBackup { wanted: wanted.to_owned(), fits }
}

fn by_id<'b, N: Named>(wanted: &str, backups: &'b [N]) -> Result<Option<&'b N>, RepoError> {
    if wanted.len() < ID_DIGITS_MIN || !wanted.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let wanted_lower = wanted.to_ascii_lowercase();
    let fits: Vec<&N> =
        backups.iter().filter(|backup| backup.backup().to_string().starts_with(&wanted_lower)).collect();
    match fits.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(ambiguous(wanted, several)),
    }
}

/// What the user may have meant: the machine's newest backups, else the machines there are.
fn candidates<N: Named>(wanted: &str, backups: &[N]) -> Vec<String> {
    let machine = wanted.rsplit_once('@').map_or(wanted, |(machine, _)| machine);
    let zone = jiff::tz::TimeZone::system();
    let of_machine: Vec<String> = backups
        .iter()
        .rev()
        .filter(|backup| backup.machine() == machine)
        .take(5)
        .map(|backup| format!("{machine}@{}", backup.instant().to_zoned(zone.clone()).strftime(SECOND)))
        .collect();
    if !of_machine.is_empty() {
        return of_machine;
    }
    let machines: std::collections::BTreeSet<&str> = backups.iter().map(|backup| backup.machine()).collect();
    machines.into_iter().take(10).map(|machine| format!("{machine}@latest")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::{BackupId, ObjectId};
    use crate::repo::manifest::{Capture, Consistency, MANIFEST_VERSION, Statistics};

    fn manifest(id: u8, machine: &str, second: i64) -> Manifest {
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
            warnings: Vec::new(),
            notes: Vec::new(),
            tags: Vec::new(),
            copied_from: None,
            host: String::new(),
            made_by: String::new(),
            session: ObjectId([0; 16]),
            generation: 1,
        }
    }

    #[test]
    fn names_find_what_a_person_means() {
        // 20 November 2026, 02:15:00, :30 (twice) and the next day, in whatever zone this host has.
        let zone = jiff::tz::TimeZone::system();
        let at = |text: &str| text.parse::<jiff::civil::DateTime>().unwrap().to_zoned(zone.clone()).unwrap();
        let (first, second) = (at("2026-11-20T02:15:00").timestamp(), at("2026-11-20T02:15:30").timestamp());
        let next = at("2026-11-21T02:15:00").timestamp();
        let manifests = [
            manifest(0xa1, "web1", first.as_second()),
            manifest(0xa2, "web1", second.as_second()),
            manifest(0xb3, "web1", second.as_second()),
            manifest(0xb4, "web1", next.as_second()),
            manifest(0xc5, "db@2", next.as_second()),
        ];
        let check = |wanted: &str, expected: Result<u8, &str>| {
            let found = find(wanted, &manifests).map(|manifest| manifest.backup.0[0]);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{wanted}"),
                (Err(RepoError::AmbiguousBackup { fits, .. }), Err("ambiguous")) => {
                    assert_eq!(fits.len(), 2, "{wanted}")
                }
                (Err(RepoError::UnknownBackup { .. }), Err("unknown")) => {}
                (found, expected) => panic!("{wanted}: {expected:?} expected, {found:?} found"),
            }
        };
        check("web1", Ok(0xb4));
        check("web1@latest", Ok(0xb4));
        check("db@2@latest", Ok(0xc5));
        check("web1@2026-11-20", Ok(0xb3));
        check("web1@2026-11-20T02:15", Ok(0xb3));
        check("web1@2026-11-20 02:15:00", Ok(0xa1));
        check("web1@2026-11-20T02:15:30", Err("ambiguous"));
        check("a1a1", Ok(0xa1));
        check("web1@a1a1a1", Ok(0xa1));
        check("db@2@a1a1a1", Err("unknown"));
        check("a1a", Err("unknown"));
        check("web1@2026-11-22", Err("unknown"));
        check("web2", Err("unknown"));
    }
}
