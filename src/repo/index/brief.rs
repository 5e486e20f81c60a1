//! Rows about backups: one a manifest that was read, opaque here, each with a checksum that only holders of the key can make.
//! What they say, and when they are believed, is `repo::brief`'s.

use rusqlite::{TransactionBehavior, params};

use super::{Index, sqlite};
use crate::repo::error::RepoError;
use crate::repo::ids::BackupId;

/// The columns that statements rely on.
pub(super) const COLUMNS: &str = "backup, len, record, checksum FROM brief";
/// The table.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS brief (backup BLOB PRIMARY KEY, len INTEGER NOT NULL,
    record BLOB NOT NULL, checksum BLOB NOT NULL) STRICT, WITHOUT ROWID;";

/// What is noted of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BriefRow {
    /// The backup.
    pub backup: BackupId,
    /// Length of its manifest's object.
    pub len: u64,
    /// What the manifest says, in brief.
    pub record: Vec<u8>,
    /// Keyed checksum of all of these.
    pub checksum: [u8; 32],
}

impl Index {
    /// Calls `each` with every row that has the form of one. It must not ask the index for anything.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn each_brief(&self, each: &mut dyn FnMut(BriefRow)) -> Result<(), RepoError> {
        let connection = self.lock();
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = connection.prepare_cached("SELECT backup, len, record, checksum FROM brief")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let form = || -> rusqlite::Result<BriefRow> {
                    Ok(BriefRow {
                        backup: BackupId(row.get(0)?),
                        len: row.get::<_, i64>(1)?.try_into().unwrap_or(0),
                        record: row.get(2)?,
                        checksum: row.get(3)?,
                    })
                };
                form().into_iter().for_each(&mut *each);
            }
            Ok(())
        };
        read().map_err(sqlite(&self.file))
    }

    /// Notes backups, in one transaction.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn put_briefs(&self, briefs: &[BriefRow]) -> Result<(), RepoError> {
        if briefs.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let mut put = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for brief in briefs {
                let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO brief VALUES (?, ?, ?, ?)")?;
                insert.execute(params![
                    brief.backup.0.as_slice(),
                    i64::try_from(brief.len).unwrap_or(i64::MAX),
                    brief.record,
                    brief.checksum.as_slice(),
                ])?;
            }
            transaction.commit()
        };
        put().map_err(sqlite(&self.file))
    }

    /// Drops the rows of backups that are gone.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn drop_briefs(&self, backups: &[BackupId]) -> Result<(), RepoError> {
        if backups.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let mut drop_all = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for backup in backups {
                transaction.prepare_cached("DELETE FROM brief WHERE backup = ?")?.execute([backup.0.as_slice()])?;
            }
            transaction.commit()
        };
        drop_all().map_err(sqlite(&self.file))
    }

    /// Drops all rows.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn clear_briefs(&self) -> Result<(), RepoError> {
        self.lock().execute("DELETE FROM brief", []).map(drop).map_err(sqlite(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ids::RepoId;
    use crate::repo::index::IndexPlace;

    fn row(id: u8) -> BriefRow {
        BriefRow { backup: BackupId([id; 16]), len: 300, record: vec![id; 5], checksum: [id; 32] }
    }

    fn rows(index: &Index) -> Vec<u8> {
        let mut ids = Vec::new();
        index
            .each_brief(&mut |found| {
                assert_eq!(found, row(found.backup.0[0]));
                ids.push(found.backup.0[0]);
            })
            .unwrap();
        ids
    }

    #[test]
    fn rows_come_and_go_and_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let place = IndexPlace::Folder(folder.path().to_owned());
        let (index, _) = Index::open(&place, RepoId([1; 16])).unwrap();
        index.put_briefs(&[row(1), row(2), row(3)]).unwrap();
        index.put_briefs(&[row(2)]).unwrap();
        index.drop_briefs(&[row(1).backup, row(9).backup]).unwrap();
        drop(index);
        let (index, _) = Index::open(&place, RepoId([1; 16])).unwrap();
        assert_eq!(rows(&index), [2, 3]);
        // Packs may be forgotten for reasons that are none of a manifest's.
        index.clear().unwrap();
        assert_eq!(rows(&index), [2, 3]);
        index.clear_briefs().unwrap();
        assert!(rows(&index).is_empty());
    }

    #[test]
    fn a_row_without_the_form_of_one_is_passed_over() {
        let (index, _) = Index::open(&IndexPlace::Memory, RepoId([1; 16])).unwrap();
        index.put_briefs(&[row(1), row(2)]).unwrap();
        index
            .lock()
            .execute("UPDATE brief SET checksum = x'00' WHERE len = 300 AND record = x'0101010101'", [])
            .unwrap();
        assert_eq!(rows(&index), [2]);
    }
}
