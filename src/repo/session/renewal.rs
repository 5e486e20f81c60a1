//! Renewals: how a writer that works for longer than a session lasts says that it still lives.
//!
//! Objects never change, so a renewal is one of its own, `renewals/` session id `.` 16 random hex digits: what the session
//! says, with a later expiry. It counts for as long as its session is there; the fence is the session's own name, so a
//! renewal that comes too late renews nothing.

use std::thread;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::{OpenSession, Session};
use crate::repo::error::RepoError;
use crate::repo::ids::{ObjectId, random, to_hex};
use crate::repo::object;
use crate::repo::seal::{Keys, Kind};
use crate::repo::store::{self, ObjectName, ObjectStore, StoreError};

/// Folder of renewals in the store.
pub const FOLDER: &str = "renewals";
/// How long a writer waits before it renews its session: a seventh of what a session lasts.
pub const EVERY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

impl OpenSession<'_> {
    /// Makes the session last as long from `now` on as one that begins now.
    ///
    /// # Errors
    /// [`RepoError::SessionLost`] if its owner was taken for dead meanwhile, [`RepoError::Store`].
    pub fn renew(&self, keys: &Keys, now: jiff::Timestamp) -> Result<(), RepoError> {
        let renewed = Session { expires: super::expiry(now), ..self.session.clone() };
        let payload = serde_json::to_vec(&renewed).expect("plain data serialises");
        object::put(self.store, keys, Kind::Session, &fresh_name(self.id()), &payload)?;
        // A prune that looked before may have expired it.
        self.check()
    }
}

/// Does `work`, however long it takes: a thread renews the session meanwhile. `lost` hears of it if the owner was taken for
/// dead all the same; what it then works on is for nothing.
pub fn while_working<T>(
    session: &OpenSession<'_>,
    keys: &Keys,
    lost: impl FnOnce(RepoError) + Send,
    work: impl FnOnce() -> T,
) -> T {
    thread::scope(|scope| {
        let (_at_work, over) = bounded::<()>(0); // hangs up when the work is done
        scope.spawn(move || {
            while over.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                // After any other error another try comes tomorrow, and the session lasts for seven days.
                if let Err(error @ RepoError::SessionLost { .. }) = session.renew(keys, jiff::Timestamp::now()) {
                    return lost(error);
                }
            }
        });
        work()
    })
}

/// When `session` expires by its renewals: `None` without any; never, if one cannot be read.
///
/// # Errors
/// [`RepoError::Store`].
pub fn latest(store: &dyn ObjectStore, keys: &Keys, session: ObjectId) -> Result<Option<jiff::Timestamp>, RepoError> {
    let mut latest = None;
    for name in names(store)?.into_iter().filter(|name| session_of(name) == Some(session)) {
        let read = object::get_json::<Session>(store, keys, Kind::Session, &name);
        let expires = match read {
            Ok(renewal) if renewal.session == session => renewal.expires,
            Err(RepoError::Store(StoreError::NotFound { .. })) => continue,
            Err(RepoError::Store(error @ StoreError::Io { .. })) => return Err(error.into()),
            // Nobody can say until when.
            Ok(_) | Err(_) => jiff::Timestamp::MAX,
        };
        latest = latest.max(Some(expires));
    }
    Ok(latest)
}

/// Removes the renewals of every session that `is_over`.
///
/// # Errors
/// [`RepoError::Store`].
pub fn clean(store: &dyn ObjectStore, is_over: impl Fn(ObjectId) -> bool) -> Result<(), RepoError> {
    for name in names(store)?.into_iter().filter(|name| session_of(name).is_some_and(&is_over)) {
        match store.remove(&name) {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The names of all renewals.
///
/// # Errors
/// [`RepoError::Store`].
pub fn names(store: &dyn ObjectStore) -> Result<Vec<ObjectName>, RepoError> {
    Ok(store::names(store, FOLDER)?)
}

fn session_of(name: &ObjectName) -> Option<ObjectId> {
    name.last_part().split_once('.')?.0.parse().ok()
}

fn fresh_name(session: ObjectId) -> ObjectName {
    let number = to_hex(&random::<8>());
    ObjectName::new(&format!("{FOLDER}/{session}.{number}")).expect("hex digits make a good name")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::repo::ids::RepoId;
    use crate::repo::seal::{MasterSecret, MasterSecrets};
    use crate::repo::session::{self, OpenSession};
    use crate::repo::store::{DirectoryStore, StoreError};

    fn keys() -> Keys {
        Keys::derive(&MasterSecrets::of_first(MasterSecret([7; 32])), RepoId([9; 16]))
    }

    fn days(days: i64) -> jiff::Timestamp {
        jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_hours(24 * days)).unwrap()
    }

    /// The sessions that live at `now`. Their owner is this process, which does.
    fn alive(store: &dyn ObjectStore, now: jiff::Timestamp) -> HashSet<ObjectId> {
        session::expire(store, &keys(), now, None, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_renewed_session_lives_for_as_long_again() {
        let store = DirectoryStore::in_memory();
        let session = OpenSession::begin(&store, &keys(), "backup").unwrap();
        session.renew(&keys(), days(6)).unwrap();
        session.renew(&keys(), days(5)).unwrap();
        assert_eq!(alive(&store, days(8)), HashSet::from([session.id()]), "by its renewal");
        assert_eq!(alive(&store, days(14)), HashSet::new());
        assert!(matches!(session.check(), Err(RepoError::SessionLost { .. })));
        assert!(matches!(session.renew(&keys(), days(14)), Err(RepoError::SessionLost { .. })), "too late");
        session::clean_expired(&store).unwrap();
        assert_eq!(names(&store).unwrap(), [], "renewals of no session are rubbish");
    }

    #[test]
    fn a_session_that_ends_takes_its_renewals_along() {
        let store = DirectoryStore::in_memory();
        let session = OpenSession::begin(&store, &keys(), "backup").unwrap();
        let other = OpenSession::begin(&store, &keys(), "backup").unwrap();
        session.renew(&keys(), days(1)).unwrap();
        other.renew(&keys(), days(1)).unwrap();
        session.end().unwrap();
        assert_eq!(names(&store).unwrap().len(), 1);
        session::clean_expired(&store).unwrap();
        assert_eq!(names(&store).unwrap().len(), 1, "that of a session that lives stays");
    }

    #[test]
    fn a_renewal_that_nobody_can_read_keeps_its_session() {
        let store = DirectoryStore::in_memory();
        let session = OpenSession::begin(&store, &keys(), "backup").unwrap();
        let name = fresh_name(session.id());
        let mut writer = store.create(&name).unwrap();
        writer.write(b"torn").unwrap();
        writer.commit().unwrap();
        assert_eq!(alive(&store, days(1000)), HashSet::from([session.id()]));
        assert!(!matches!(store.len(&name), Err(StoreError::NotFound { .. })));
    }
}
