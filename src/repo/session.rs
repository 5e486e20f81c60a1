//! Sessions and generations: how writers and prunes on many hosts keep out of each other's way without locks.
//!
//! A writer makes its session durable first, and remembers the newest generation it saw. Each prune takes the next
//! generation by exclusive creation, so its number is a fencing token. Before and after its manifest a writer looks
//! whether a newer generation exists; if so, it proves its packs again. What is deleted, and when, is decided in `gc`: never
//! while a session lives that may need it.
//!
//! A writer that works for days renews its session (`renewal`).
//!
//! A session ends by being removed, or by being *expired*: a prune that takes its owner for dead renames it. The rename is
//! the fence, as the owner looks for its session after its manifest. So a clock that is wrong costs work, and no data.
//!
//! Both are small sealed objects holding JSON (docs/FORMAT.md, "Sessions and generations").

pub mod renewal;

use std::collections::HashSet;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::ids::{ObjectId, random};
use super::object;
use super::seal::{Keys, Kind};
use super::store::{self, ObjectName, ObjectStore, StoreError};

const SESSIONS: &str = "sessions";
const EXPIRED: &str = "expired";
const GENERATIONS: &str = "generations";
/// Generations that stay in the store.
const GENERATIONS_KEPT: usize = 16;
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
    /// Which process it is, so that another one on the same running kernel can tell whether it still lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

impl Session {
    /// Whether its owner is to be taken for dead: its time has run out, also that of its renewals, or its process is
    /// certainly gone.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn is_dead(&self, store: &dyn ObjectStore, keys: &Keys, now: jiff::Timestamp) -> Result<bool, RepoError> {
        if self.owner.as_ref().is_some_and(Owner::is_gone) {
            return Ok(true);
        }
        let is_over = |expires: jiff::Timestamp| expires <= now;
        Ok(is_over(self.expires) && renewal::latest(store, keys, self.session)?.is_none_or(is_over))
    }
}

/// A process, named so that no other one is ever taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Random name of the kernel's run.
    pub boot: String,
    /// Its namespace of process numbers.
    pub namespace: String,
    /// Its number there.
    pub process: u32,
    /// When it began, in the kernel's ticks.
    pub began: u64,
}

impl Owner {
    /// This process; `None` where `/proc` does not say.
    pub fn this() -> Option<Owner> {
        let process = std::process::id();
        Some(Owner { boot: boot_id()?, namespace: namespace()?, process, began: began(process)? })
    }

    /// Whether it is certain that this process is gone. Of another host, or namespace, nothing is certain.
    pub fn is_gone(&self) -> bool {
        let here = boot_id().is_some_and(|boot| boot == self.boot) && namespace().is_some_and(|n| n == self.namespace);
        // A process that may not be looked at is one that is there.
        let missing = || {
            matches!(std::fs::metadata(format!("/proc/{}", self.process)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound)
        };
        here && match began(self.process) {
            Some(began) => began != self.began,
            None => std::path::Path::new("/proc/self").exists() && missing(),
        }
    }
}

fn boot_id() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

fn namespace() -> Option<String> {
    std::fs::read_link("/proc/self/ns/pid").ok()?.into_os_string().into_string().ok()
}

/// Field 22 of `/proc/PID/stat`; the name in field 2 may hold anything, so it is counted from its closing bracket.
fn began(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
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

/// A session of this process. Dropped, it is ended as far as the store lets us.
pub struct OpenSession<'s> {
    store: &'s dyn ObjectStore,
    session: Session,
    is_over: bool,
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
        expires: expiry(started),
        owner: Owner::this(),
    };
    let payload = serde_json::to_vec(&session).expect("plain data serialises");
    object::put(store, keys, Kind::Session, &session_name(session.session), &payload)?;
    Ok(session)
}

/// When a session that begins, or is renewed, at `now` expires.
fn expiry(now: jiff::Timestamp) -> jiff::Timestamp {
    now.saturating_add(EXPIRES_AFTER).unwrap_or(jiff::Timestamp::MAX)
}

impl<'s> OpenSession<'s> {
    /// Begins a session.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn begin(store: &'s dyn ObjectStore, keys: &Keys, work: &str) -> Result<OpenSession<'s>, RepoError> {
        let session = begin(store, keys, &super::host_name(), work)?;
        Ok(OpenSession { store, session, is_over: false })
    }

    /// What its object says.
    pub fn record(&self) -> &Session {
        &self.session
    }

    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.session.session
    }

    /// Must be held still: nobody took its owner for dead.
    ///
    /// # Errors
    /// [`RepoError::SessionLost`], [`RepoError::Store`].
    pub fn check(&self) -> Result<(), RepoError> {
        match self.store.len(&session_name(self.id())) {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => Err(RepoError::SessionLost { session: self.id().to_string() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends it. Nothing depends on this: a session left behind is garbage.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn end(mut self) -> Result<(), RepoError> {
        self.is_over = true;
        self.remove()
    }

    fn remove(&self) -> Result<(), RepoError> {
        match self.store.remove(&session_name(self.id())) {
            Ok(()) | Err(StoreError::NotFound { .. }) => renewal::clean(self.store, |session| session == self.id()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for OpenSession<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.remove();
        }
    }
}

/// The sessions that live but for `own`, after those were expired whose time has run out at `now` or whose process is
/// certainly gone. One that cannot be read lives: nobody can say that its owner is dead.
///
/// # Errors
/// [`RepoError::Store`].
pub fn expire(
    store: &dyn ObjectStore,
    keys: &Keys,
    now: jiff::Timestamp,
    own: Option<ObjectId>,
    expired: &mut dyn FnMut(&Session),
) -> Result<HashSet<ObjectId>, RepoError> {
    let mut alive = HashSet::new();
    for name in names(store)?.0 {
        let Ok(id) = name.last_part().parse::<ObjectId>() else { continue };
        if own == Some(id) {
            continue;
        }
        let session = match load_session(store, keys, &name) {
            Ok(session) => session,
            Err(RepoError::Store(StoreError::NotFound { .. })) => continue,
            Err(RepoError::Store(error @ StoreError::Io { .. })) => return Err(error.into()),
            Err(_) => {
                alive.insert(id);
                continue;
            }
        };
        if !session.is_dead(store, keys, now)? {
            alive.insert(id);
            continue;
        }
        let fenced = ObjectName::new(&format!("{EXPIRED}/{id}")).expect("hex digits make a good name");
        match store.rename(&name, &fenced) {
            Ok(()) | Err(StoreError::NotFound { .. }) => expired(&session),
            // A power cut during an earlier expiry left both names.
            Err(StoreError::Exists { .. }) => match store.remove(&name) {
                Ok(()) | Err(StoreError::NotFound { .. }) => expired(&session),
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(alive)
}

/// The sessions that there are, as of now; none is read or expired.
///
/// # Errors
/// [`RepoError::Store`].
pub fn ids(store: &dyn ObjectStore) -> Result<HashSet<ObjectId>, RepoError> {
    Ok(names(store)?.0.iter().filter_map(|name| name.last_part().parse().ok()).collect())
}

/// The sessions that were taken for dead, and whose owners may not know yet.
///
/// # Errors
/// [`RepoError::Store`].
pub fn expired_ids(store: &dyn ObjectStore) -> Result<HashSet<ObjectId>, RepoError> {
    Ok(store::names(store, EXPIRED)?.iter().filter_map(|name| name.last_part().parse().ok()).collect())
}

/// Removes the sessions that were expired (their owners have noticed, or are dead) and the renewals of sessions that are
/// no more.
///
/// # Errors
/// [`RepoError::Store`].
pub fn clean_expired(store: &dyn ObjectStore) -> Result<(), RepoError> {
    // A session that begins after this look has no renewal for a day.
    let alive = ids(store)?;
    renewal::clean(store, |session| !alive.contains(&session))?;
    for name in store::names(store, EXPIRED)? {
        match store.remove(&name) {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads a session.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn load_session(store: &dyn ObjectStore, keys: &Keys, name: &ObjectName) -> Result<Session, RepoError> {
    object::get_json(store, keys, Kind::Session, name)
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

/// Takes the next generation; gives its number, which nobody else ever had.
///
/// # Errors
/// [`RepoError::Store`].
pub fn take_next_generation(store: &dyn ObjectStore, keys: &Keys) -> Result<u64, RepoError> {
    let host = super::host_name();
    loop {
        let number = newest_generation(store)?.saturating_add(1);
        match take_generation(store, keys, number, &host) {
            // Between the look and the taking so many may have come and gone that an old number was free again.
            Ok(()) if newest_generation(store)? == number => return Ok(number),
            Ok(()) | Err(RepoError::Store(StoreError::Exists { .. })) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes generations of which only the number was of use; the newest ones stay.
///
/// # Errors
/// [`RepoError::Store`].
pub fn clean_generations(store: &dyn ObjectStore) -> Result<(), RepoError> {
    let names = store::names(store, GENERATIONS)?;
    for name in names.iter().rev().skip(GENERATIONS_KEPT) {
        match store.remove(name) {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads a generation.
///
/// # Errors
/// [`RepoError::Damaged`], [`RepoError::Store`].
pub fn load_generation(store: &dyn ObjectStore, keys: &Keys, name: &ObjectName) -> Result<Generation, RepoError> {
    object::get_json(store, keys, Kind::Generation, name)
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

/// The number of the newest generation whose object is what was stored; 0 if there is none. Anybody can make a name; this is
/// what can be relied on to have been.
///
/// # Errors
/// [`RepoError::Store`].
pub fn newest_authentic_generation(store: &dyn ObjectStore, keys: &Keys) -> Result<u64, RepoError> {
    for name in store::names(store, GENERATIONS)?.iter().rev() {
        let Ok(number) = name.last_part().parse::<u64>() else { continue };
        match load_generation(store, keys, name) {
            Ok(generation) if generation.generation == number => return Ok(number),
            Err(RepoError::Store(error @ StoreError::Io { .. })) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(0)
}

/// The names of all sessions and generations, for `check`.
///
/// # Errors
/// [`RepoError::Store`].
pub fn names(store: &dyn ObjectStore) -> Result<(Vec<ObjectName>, Vec<ObjectName>), RepoError> {
    Ok((store::names(store, SESSIONS)?, store::names(store, GENERATIONS)?))
}

/// A generation's number as names have it.
pub fn numbered(generation: u64) -> String {
    format!("{generation:0GENERATION_DIGITS$}")
}

/// The name of a session's object.
pub fn session_name(id: ObjectId) -> ObjectName {
    ObjectName::new(&format!("{SESSIONS}/{id}")).expect("hex digits make a good name")
}

fn generation_name(number: u64) -> ObjectName {
    ObjectName::new(&format!("{GENERATIONS}/{}", numbered(number))).expect("digits make a good name")
}
