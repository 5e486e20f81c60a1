//! A run: one process's writing into a repository, of one backup or of very many. It holds a session, and looks at the
//! repository once for all of its backups, not once for each.
//!
//! First the session, then the look: what was found then, no prune deletes while the session is held. If a prune began
//! since, or a day has passed, the session gives way to a new one before the next backup, with a look of its own: so a
//! prune never waits for more than one backup, and no session grows old.
//!
//! Not in here: what is written (`intake`), who renews the session while one backup takes days (`session::renewal`).

use std::time::Instant;

use super::error::RepoError;
use super::manifest::Manifest;
use super::session::{self, OpenSession, renewal};
use super::sync::SyncReport;
use super::{Repository, gc};

/// A new backup that is in the repository, durably.
#[derive(Debug)]
pub struct Committed {
    /// Its manifest, as stored.
    pub manifest: Manifest,
    /// Things that went wrong after it was safe.
    pub warnings: Vec<String>,
}

/// What is known of the chunks that a backup takes over unread from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenOver {
    /// They were whole when the session had begun.
    Proven,
    /// They are to be proven before the backup is done.
    Unproven,
}

/// A run.
pub struct Run<'r> {
    repository: &'r Repository,
    work: &'static str,
    held: Option<Held<'r>>,
}

/// A session, and what is known since it began.
pub struct Held<'r> {
    /// The session.
    pub session: OpenSession<'r>,
    /// What a backup in it may take over.
    pub taken_over: TakenOver,
    since: Instant,
}

impl<'r> Run<'r> {
    /// A run that does `work`; nothing is looked at yet.
    pub fn new(repository: &'r Repository, work: &'static str) -> Run<'r> {
        Run { repository, work, held: None }
    }

    /// Must be called before each backup. Gives what to write it in, and what a look brought if one was due: always before
    /// the first backup, rarely later.
    ///
    /// # Errors
    /// As [`Repository::sync_index`].
    pub fn look(&mut self) -> Result<(&Held<'r>, Option<SyncReport>), RepoError> {
        if let Some(held) = &self.held
            && !self.is_over(held)?
        {
            return Ok((self.held.as_ref().expect("just seen"), None));
        }
        self.held = None;
        let session = OpenSession::begin(self.repository.store(), self.repository.keys(), self.work)?;
        let since = Instant::now();
        let synced = self.repository.sync_index(&mut |_| {})?;
        let taken_over = if synced.generation_moved { TakenOver::Unproven } else { TakenOver::Proven };
        Ok((self.held.insert(Held { session, taken_over, since }), Some(synced)))
    }

    fn is_over(&self, held: &Held<'_>) -> Result<bool, RepoError> {
        if held.since.elapsed() >= renewal::EVERY {
            return Ok(true);
        }
        match held.session.check() {
            Ok(()) => Ok(session::newest_generation(self.repository.store())? != held.session.record().generation),
            Err(RepoError::SessionLost { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Ends it; gives what went wrong, which takes nothing back.
    pub fn end(self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(Err(error)) = self.held.map(|held| held.session.end()) {
            warnings.push(format!("the session object could not be removed: {error}"));
        }
        // Nothing depends on it; on a medium that is nearly full the next prune makes do with less.
        let _ = gc::reserve::make(self.repository.store());
        warnings
    }
}
