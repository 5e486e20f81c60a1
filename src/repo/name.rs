//! Naming a backup: `web1@latest`, `web1@2026-11-20`, `web1@2026-11-20T02:15`, or the beginning of its id. Pure.

use super::error::RepoError;
use super::manifest::Manifest;

/// Shortest beginning of an id that is taken for one.
const ID_DIGITS_MIN: usize = 4;

/// The backup among `manifests` (oldest first) that `wanted` names. A date or time names the newest backup that began
/// in it, as this host's time zone has it.
///
/// # Errors
/// [`RepoError::UnknownBackup`], [`RepoError::AmbiguousBackup`].
pub fn find<'m>(wanted: &str, manifests: &'m [Manifest]) -> Result<&'m Manifest, RepoError> {
    let unknown = || RepoError::UnknownBackup { wanted: wanted.to_owned(), candidates: candidates(wanted, manifests) };
    let Some((machine, when)) = wanted.rsplit_once('@') else {
        if let Some(newest) = manifests.iter().rev().find(|manifest| manifest.machine == wanted) {
            return Ok(newest); // a bare machine name means its latest backup
        }
        return by_id(wanted, manifests)?.ok_or_else(unknown);
    };
    let of_machine = manifests.iter().rev().filter(|manifest| manifest.machine == machine);
    let zone = jiff::tz::TimeZone::system();
    let mut fitting = of_machine.filter(|manifest| {
        // `2026-11-20T02:15` names a minute: whatever its length, the text is a prefix of the instant's own.
        let local = manifest.instant.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S").to_string();
        when == "latest" || (when.len() >= 4 && local.starts_with(&when.replace(' ', "T")))
    });
    match fitting.next() {
        Some(newest) => Ok(newest),
        None => by_id(when, manifests)?.filter(|manifest| manifest.machine == machine).ok_or_else(unknown),
    }
}

fn by_id<'m>(wanted: &str, manifests: &'m [Manifest]) -> Result<Option<&'m Manifest>, RepoError> {
    if wanted.len() < ID_DIGITS_MIN || !wanted.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let wanted_lower = wanted.to_ascii_lowercase();
    let fits: Vec<&Manifest> =
        manifests.iter().filter(|manifest| manifest.backup.to_string().starts_with(&wanted_lower)).collect();
    match fits.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(RepoError::AmbiguousBackup {
            wanted: wanted.to_owned(),
            fits: several.iter().map(|manifest| manifest.backup).collect(),
        }),
    }
}

/// What the user may have meant: the machine's newest backups, else the machines there are.
fn candidates(wanted: &str, manifests: &[Manifest]) -> Vec<String> {
    let machine = wanted.rsplit_once('@').map_or(wanted, |(machine, _)| machine);
    let zone = jiff::tz::TimeZone::system();
    let of_machine: Vec<String> = manifests
        .iter()
        .rev()
        .filter(|manifest| manifest.machine == machine)
        .take(5)
        .map(|manifest| format!("{machine}@{}", manifest.instant.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S")))
        .collect();
    if !of_machine.is_empty() {
        return of_machine;
    }
    let machines: std::collections::BTreeSet<&str> =
        manifests.iter().map(|manifest| manifest.machine.as_str()).collect();
    machines.into_iter().take(10).map(|machine| format!("{machine}@latest")).collect()
}
