//! Keeping the index true to a store that prunes take packs from: which segments name what, packs that are dropped, and the
//! generation that the store was last listed in.

use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{Index, KEY_BYTES, pack_from, sqlite};
use crate::repo::error::RepoError;
use crate::repo::ids::PackId;
use crate::repo::pack::Directory;

impl Index {
    /// Remembers that the index segment `name` was read, or written by us, and which packs it names.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn remember_segment(&self, name: &str, packs: impl IntoIterator<Item = PackId>) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let remember = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute("INSERT OR IGNORE INTO segment (name) VALUES (?)", [name])?;
            for pack in packs {
                let row = params![pack.0.as_slice(), name];
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO named (pack, segment) VALUES (?, ?)")?
                    .execute(row)?;
            }
            transaction.commit()
        };
        remember().map_err(sqlite(&self.file))
    }

    /// The index segments that name packs which the index does not have, sorted.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn stale_segments(&self) -> Result<Vec<String>, RepoError> {
        let connection = self.lock();
        let list = || -> rusqlite::Result<Vec<String>> {
            let query = "SELECT DISTINCT segment FROM named WHERE pack NOT IN (SELECT id FROM pack) ORDER BY segment";
            connection.prepare_cached(query)?.query_map([], |row| row.get(0))?.collect()
        };
        list().map_err(sqlite(&self.file))
    }

    /// Forgets index segments that are gone.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn forget_segments<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let forget = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for name in names {
                transaction.prepare_cached("DELETE FROM segment WHERE name = ?")?.execute([name])?;
            }
            // What they named, in one pass: it is sorted by pack.
            transaction.execute("DELETE FROM named WHERE segment NOT IN (SELECT name FROM segment)", [])?;
            transaction.commit()
        };
        forget().map_err(sqlite(&self.file))
    }

    /// Drops packs and what is known of their chunks: they are taken out of use. Unlike all else this is durable when it
    /// returns, so that no later run takes a chunk for stored that is about to go.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn drop_packs(&self, packs: &[PackId]) -> Result<(), RepoError> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let mut drop_all = || -> rusqlite::Result<()> {
            connection.execute_batch("PRAGMA synchronous = FULL")?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute("UPDATE state SET dropped = 1", [])?;
            for pack in packs {
                drop_pack(&transaction, *pack)?;
            }
            transaction.commit()?;
            connection.execute_batch("PRAGMA synchronous = NORMAL")
        };
        drop_all().map_err(sqlite(&self.file))
    }

    /// Notes the chunks of packs that the index has once more: where another pack had them, that one was dropped, or was
    /// found damaged.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn note_again(&self, packs: &[PackId]) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let mut note = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for pack in packs {
                let Some((row, directory)) = directory_of(&transaction, *pack)? else { continue };
                let mut add = transaction.prepare_cached(super::ADD_CHUNK)?;
                for (id, _) in directory.chunks() {
                    add.execute(params![&id.0[..KEY_BYTES], row])?;
                }
            }
            transaction.commit()
        };
        note().map_err(sqlite(&self.file))
    }

    /// Whether packs were dropped since the index was built: then what it does not find may still be in a pack.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn has_dropped(&self) -> Result<bool, RepoError> {
        let dropped = self.lock().query_row("SELECT dropped FROM state", [], |row| row.get::<_, i64>(0));
        Ok(dropped.map_err(sqlite(&self.file))? != 0)
    }

    /// The newest generation when the store was last listed; 0 if it never was.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn generation(&self) -> Result<u64, RepoError> {
        let generation = self.lock().query_row("SELECT generation FROM state", [], |row| row.get::<_, i64>(0));
        generation.map(|number| u64::try_from(number).unwrap_or(0)).map_err(sqlite(&self.file))
    }

    /// Notes the generation that the store was listed in.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn set_generation(&self, generation: u64) -> Result<(), RepoError> {
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        let set = self.lock().execute("UPDATE state SET generation = max(generation, ?)", [generation]);
        set.map(drop).map_err(sqlite(&self.file))
    }
}

/// Removes a pack and the chunks that are noted as lying in it.
fn drop_pack(transaction: &rusqlite::Transaction<'_>, pack: PackId) -> rusqlite::Result<()> {
    match directory_of(transaction, pack)? {
        Some((row, directory)) => {
            let mut remove = transaction.prepare_cached("DELETE FROM chunk WHERE key = ? AND pack = ?")?;
            for (id, _) in directory.chunks() {
                remove.execute(params![&id.0[..KEY_BYTES], row])?;
            }
        }
        // Its row is damaged: look at all chunks rather than leave one behind.
        None => {
            let chunks = "DELETE FROM chunk WHERE pack IN (SELECT row FROM pack WHERE id = ?)";
            transaction.execute(chunks, [pack.0.as_slice()])?;
        }
    }
    transaction.execute("DELETE FROM pack WHERE id = ?", [pack.0.as_slice()]).map(drop)
}

/// Row and directory of a pack, if they are sound.
fn directory_of(transaction: &rusqlite::Transaction<'_>, pack: PackId) -> rusqlite::Result<Option<(i64, Directory)>> {
    let query = "SELECT id, kind, len, header, directory, checksum, row FROM pack WHERE id = ?";
    let mut statement = transaction.prepare_cached(query)?;
    let found = statement.query_row([pack.0.as_slice()], |row| Ok((row.get(6)?, pack_from(row)))).optional()?;
    Ok(found.and_then(|(row, pack)| {
        let pack = pack?;
        Some((row, Directory::decode(&pack.directory, pack.len).ok()?))
    }))
}
