//! Sessions and generations: how writers and (later) prunes on many hosts keep out of each other's way without locks.
//!
//! A writer makes its session durable first, and remembers the newest generation it saw. Each prune takes the next
//! generation by exclusive creation, so its number is a fencing token. Before and after its manifest a writer looks
//! whether a newer generation exists; if so, it proves its packs again. No clock decides anything here.
//!
//! Both are small sealed objects holding JSON (docs/FORMAT.md, "Sessions and generations").

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::ids::{ObjectId, random};
use super::object;
use super::seal::{Keys, Kind};
use super::store::{ObjectName, ObjectStore};

const SESSIONS: &str = "sessions";
const GENERATIONS: &str = "generations";
/// Digits of a generation's number in its name, so that names sort like numbers.
const GENERATION_DIGITS: usize = 12;
/// A session that was not renewed for so long may be ignored by a prune; its owner will notice before it publishes.
const EXPIRES_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// What a session object says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id, as in its name.
    pub session: ObjectId,
    /// Host name.
    pub host: String,
    /// Process number.
    pub process: u32,
    /// What it does: `backup`.
    pub work: String,
    /// Newest generation when it began.
    pub generation: u64,
    /// When it began.
    pub started: jiff::Timestamp,
    /// From when on a prune may ignore it.
    pub expires: jiff::Timestamp,
}

/// What a generation object says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number, as in its name; the first is 1, made with the repository.
    pub generation: u64,
    /// The host that made it.
    pub host: String,
    /// When.
    pub created: jiff::Timestamp,
}

/// Makes a session durable.
///
/// # Errors
/// [`RepoError::Store`].
pub fn begin(store: &dyn ObjectStore, keys: &Keys, host: &str, work: &str) -> Result<Session, RepoError> {
    let started = jiff::Timestamp::now();
    let session = Session {
        session: ObjectId(random()),
        host: host.to_owned(),
        process: std::process::id(),
        work: work.to_owned(),
        generation: newest_generation(store)?,
        started,
        expires: started.saturating_add(EXPIRES_AFTER).unwrap_or(jiff::Timestamp::MAX),
    };
    let payload = serde_json::to_vec(&session).expect("plain data serialises");
    object::put(store, keys, Kind::Session, &session_name(session.session), &payload)?;
    Ok(session)
}

/// Ends a session. Nothing depends on this: a session left behind is garbage.
///
/// # Errors
/// [`RepoError::Store`].
pub fn end(store: &dyn ObjectStore, session: &Session) -> Result<(), RepoError> {
    Ok(store.remove(&session_name(session.session))?)
}

/// Reads a session.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn load_session(store: &dyn ObjectStore, keys: &Keys, name: &ObjectName) -> Result<Session, RepoError> {
    parse(name, &object::get(store, keys, Kind::Session, name)?)
}

/// Takes generation `number`; only one writer in the world succeeds.
///
/// # Errors
/// [`RepoError::Store`], with `Exists` if somebody else took it.
pub fn take_generation(store: &dyn ObjectStore, keys: &Keys, number: u64, host: &str) -> Result<(), RepoError> {
    let generation = Generation { generation: number, host: host.to_owned(), created: jiff::Timestamp::now() };
    let payload = serde_json::to_vec(&generation).expect("plain data serialises");
    object::put(store, keys, Kind::Generation, &generation_name(number), &payload)
}

/// Reads a generation.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn load_generation(store: &dyn ObjectStore, keys: &Keys, name: &ObjectName) -> Result<Generation, RepoError> {
    parse(name, &object::get(store, keys, Kind::Generation, name)?)
}

/// The number of the newest generation; 0 if there is none (a repository always has one).
///
/// # Errors
/// [`RepoError::Store`].
pub fn newest_generation(store: &dyn ObjectStore) -> Result<u64, RepoError> {
    let mut newest = 0;
    store.list(GENERATIONS, &mut |object| {
        newest = newest.max(object.name.last_part().parse().unwrap_or(0));
        ControlFlow::Continue(())
    })?;
    Ok(newest)
}

/// The names of all sessions and generations, for `check`.
///
/// # Errors
/// [`RepoError::Store`].
pub fn names(store: &dyn ObjectStore) -> Result<(Vec<ObjectName>, Vec<ObjectName>), RepoError> {
    let collect = |folder| -> Result<Vec<ObjectName>, RepoError> {
        let mut names = Vec::new();
        store.list(folder, &mut |object| {
            names.push(object.name);
            ControlFlow::Continue(())
        })?;
        names.sort();
        Ok(names)
    };
    Ok((collect(SESSIONS)?, collect(GENERATIONS)?))
}

fn session_name(id: ObjectId) -> ObjectName {
    ObjectName::new(&format!("{SESSIONS}/{id}")).expect("hex digits make a good name")
}

fn generation_name(number: u64) -> ObjectName {
    ObjectName::new(&format!("{GENERATIONS}/{number:0GENERATION_DIGITS$}")).expect("digits make a good name")
}

fn parse<T: serde::de::DeserializeOwned>(name: &ObjectName, payload: &[u8]) -> Result<T, RepoError> {
    serde_json::from_slice(payload).map_err(|error| RepoError::Damaged {
        object: name.to_string(),
        field: "payload",
        at: 0,
        expected: "its JSON".to_owned(),
        found: error.to_string(),
    })
}
