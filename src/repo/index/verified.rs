//! What this host remembers of packs that were read whole: when each was verified last, and which were found damaged.
//!
//! Times only say what is worth reading next, and what may be told; no chunk counts as sound because of them.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{Index, pack_from, sqlite};
use crate::repo::error::RepoError;
use crate::repo::ids::PackId;
use crate::repo::pack::writer::FinishedPack;

impl Index {
    /// Remembers that all data of `pack` was read and found whole at `second` (since 1970). Survives [`Index::clear`].
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn note_verified(&self, pack: PackId, second: i64) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let mut note = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO verified (id, second) VALUES (?, ?)")?
                .execute(params![pack.0.as_slice(), second])?;
            // What can be read whole is not damaged any more, whoever healed it.
            transaction.prepare_cached("DELETE FROM rotten WHERE id = ?")?.execute([pack.0.as_slice()])?;
            transaction.commit()
        };
        note().map_err(sqlite(&self.file))
    }

    /// When each pack was verified last, in seconds since 1970.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn verified(&self) -> Result<HashMap<PackId, i64>, RepoError> {
        let connection = self.lock();
        let list = || -> rusqlite::Result<HashMap<PackId, i64>> {
            let mut statement = connection.prepare_cached("SELECT id, second FROM verified")?;
            let rows = statement.query_map([], |row| Ok((PackId(row.get(0)?), row.get(1)?)))?;
            rows.collect()
        };
        list().map_err(sqlite(&self.file))
    }

    /// Forgets what was known of these packs: they are gone, or damaged.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn forget_verified(&self, packs: &[PackId]) -> Result<(), RepoError> {
        self.delete_ids("DELETE FROM verified WHERE id = ?", packs)
    }

    /// Forgets that these packs are damaged inside: they are out of use.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn forget_rotten(&self, packs: &[PackId]) -> Result<(), RepoError> {
        self.delete_ids("DELETE FROM rotten WHERE id = ?", packs)
    }

    /// What the index remembers of the pack `id`, if it has it and its row is sound.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn record_of(&self, id: PackId) -> Result<Option<FinishedPack>, RepoError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT id, kind, len, header, directory, checksum FROM pack WHERE id = ?")
            .map_err(sqlite(&self.file))?;
        let found = statement.query_row([id.0.as_slice()], |row| Ok(pack_from(row))).optional();
        Ok(found.map_err(sqlite(&self.file))?.flatten())
    }

    /// Whether SQLite finds the cache's own structure whole: a page that a sick medium changed can hide chunks.
    ///
    /// # Errors
    /// [`RepoError::Index`] if that cannot be found out.
    pub fn is_whole(&self) -> Result<bool, RepoError> {
        let found: rusqlite::Result<String> = self.lock().query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match found.map_err(sqlite(&self.file)) {
            Ok(verdict) => Ok(verdict == "ok"),
            Err(error) if error.is_damaged_index() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn delete_ids(&self, statement: &str, packs: &[PackId]) -> Result<(), RepoError> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let mut delete = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for pack in packs {
                transaction.prepare_cached(statement)?.execute([pack.0.as_slice()])?;
            }
            transaction.commit()
        };
        delete().map_err(sqlite(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::RepoId;
    use crate::repo::index::IndexPlace;

    #[test]
    fn what_was_verified_survives_a_rebuild_and_ends_what_was_rotten() {
        let (index, _) = Index::open(&IndexPlace::Memory, RepoId([1; 16])).unwrap();
        let (a, b) = (PackId([1; 16]), PackId([2; 16]));
        index.note_rotten(&[a, b]).unwrap();
        index.note_verified(a, 5).unwrap();
        index.note_verified(a, 7).unwrap();
        index.clear().unwrap();
        assert_eq!(index.verified().unwrap(), HashMap::from([(a, 7)]));
        assert_eq!(index.rotten().unwrap(), std::collections::HashSet::from([b]));
        index.forget_verified(&[a, b]).unwrap();
        index.forget_rotten(&[b]).unwrap();
        assert!(index.verified().unwrap().is_empty() && index.rotten().unwrap().is_empty());
    }
}
