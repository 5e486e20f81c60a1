//! The index: a local SQLite cache that says which pack holds which chunk. The only room that knows SQLite.
//!
//! A cache and nothing more: it can be deleted at any time, and nothing it says is believed unproven. A chunk counts as
//! present only if the pack's directory, whose checksum is verified on every load, lists its full id; packs count as
//! present only once the store has listed them.
//!
//! Tables: `pack` has a row a pack with its directory; `chunk` maps the first 16 bytes of an id to a pack's row; `segment`
//! remembers which index segments were read. Rows are added for durable packs only, a pack in one transaction. A row
//! number is never given twice, as what was read from a row is kept beyond the row's life. `named` says which packs the read
//! segments name. `state` has the generation that the store was last listed in, and whether packs were dropped: a chunk of
//! theirs may lie in another pack as well, which then only a rebuild finds. `lost` has the packs that were
//! missing or damaged once, `doubted` the backups that may have needed them: no later backup may be built on those. `brief`
//! has what is worth knowing of manifests that were read, `verified` when each pack was read whole last.
//!
//! It lies on a local disk: SQLite's write-ahead log needs shared memory, which network mounts do not have.

mod brief;
mod file;
mod segment;
mod upkeep;
mod verified;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

pub use brief::BriefRow;
pub(super) use file::is_damage;
pub use file::read_ahead;
use file::{FILE_NAME, connect_anew, open_waiting, prepare};
pub use segment::{decode_segment, encode_segment};

use super::error::RepoError;
use super::ids::{BackupId, ChunkId, PackId, RepoId, random};
use super::pack::Directory;
use super::pack::writer::FinishedPack;
use super::seal::{HEADER_BYTES, Kind};

/// How long to wait for another process of this host that is writing to the same cache.
const BUSY: Duration = Duration::from_secs(60);
/// Bytes of an id that `chunk` keeps; the full id is compared in the directory.
const KEY_BYTES: usize = 16;

/// Notes where a chunk lies. One that was found rotten and came again is read from its new place.
const ADD_CHUNK: &str =
    "INSERT INTO chunk (key, pack) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET pack = excluded.pack
     WHERE (SELECT id FROM pack WHERE row = chunk.pack) IN rotten";

/// Where an index lies.
#[derive(Clone, Debug)]
pub enum IndexPlace {
    /// In this folder, as `index.sqlite`.
    Folder(PathBuf),
    /// In memory, gone with the process.
    Memory,
}

/// Row number of a pack in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackRow(pub i64);

/// What became of the cache when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was there and belongs to this repository.
    Found,
    /// There was none.
    Created,
    /// There was one that could not be used; it was discarded. Says why.
    Discarded(String),
    /// There was no room for it; it is in memory, and gone with the process.
    InMemory,
}

/// The index of one repository on this host.
pub struct Index {
    file: String,
    repository: RepoId,
    /// `None` in memory.
    folder: Option<PathBuf>,
    connection: Mutex<Connection>,
}

impl Index {
    /// Opens or creates the cache of `repository`. One that is damaged, of another repository or of another layout is
    /// discarded: everything in it can be built anew.
    ///
    /// # Errors
    /// [`RepoError::Index`], [`RepoError::IndexPlace`] on a network mount.
    pub fn open(place: &IndexPlace, repository: RepoId) -> Result<(Index, Opened), RepoError> {
        open_waiting(place, repository, BUSY)
    }

    /// Forgets all packs; what follows is a rebuild. What was lost stays known.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn clear(&self) -> Result<(), RepoError> {
        self.lock()
            .execute_batch(
                "BEGIN IMMEDIATE; DELETE FROM chunk; DELETE FROM pack; DELETE FROM segment; DELETE FROM named;
                 UPDATE state SET dropped = 0; COMMIT",
            )
            .map_err(sqlite(&self.file))
    }

    /// Makes an empty cache in place of one that SQLite found damaged while it was open. What can still be read of what
    /// outlives [`Index::clear`] is kept.
    ///
    /// # Errors
    /// [`RepoError::Index`], [`RepoError::IndexPlace`].
    pub fn recreate(&self) -> Result<(), RepoError> {
        let (lost, doubted) = (self.lost().unwrap_or_default(), self.doubted().unwrap_or_default());
        let (rotten, verified) = (self.rotten().unwrap_or_default(), self.verified().unwrap_or_default());
        {
            let mut connection = self.lock();
            // Closed before its file goes.
            *connection = Connection::open_in_memory().map_err(sqlite(&self.file))?;
            match &self.folder {
                Some(folder) => *connection = connect_anew(&folder.join(FILE_NAME), self.repository, BUSY)?,
                None => prepare(&connection, self.repository, BUSY).map_err(sqlite(&self.file))?,
            }
            // Somebody may still hold a row of the old one: none of the new may pass for it.
            let after = i64::from(u32::from_le_bytes(random())) << 16;
            connection
                .execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('pack', ?)", [after])
                .map_err(sqlite(&self.file))?;
        }
        let all = |ids: HashSet<PackId>| ids.into_iter().collect::<Vec<_>>();
        self.note_lost(&all(lost), &doubted.into_iter().collect::<Vec<_>>())?;
        for (pack, second) in verified {
            self.note_verified(pack, second)?;
        }
        self.note_rotten(&all(rotten))
    }

    /// Adds durable packs and their chunks, in one transaction. Packs that are known are left as they are.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn add(&self, packs: &[(&FinishedPack, &Directory)]) -> Result<(), RepoError> {
        self.add_packs(packs).map_err(sqlite(&self.file))
    }

    fn add_packs(&self, packs: &[(&FinishedPack, &Directory)]) -> rusqlite::Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut add_pack = transaction.prepare_cached(
                "INSERT OR IGNORE INTO pack (id, kind, len, header, directory, checksum) VALUES (?, ?, ?, ?, ?, ?)",
            )?;
            let mut add_chunk = transaction.prepare_cached(ADD_CHUNK)?;
            for (pack, directory) in packs {
                let added = add_pack.execute(params![
                    pack.id.0.as_slice(),
                    pack.kind as u8,
                    i64::try_from(pack.len).unwrap_or(i64::MAX),
                    pack.header.as_slice(),
                    pack.directory,
                    checksum(pack).as_slice(),
                ])?;
                if added == 0 {
                    continue;
                }
                let row = transaction.last_insert_rowid();
                // In key order the tree's pages are touched once each.
                let mut keys: Vec<&[u8]> = directory.chunks().iter().map(|(id, _)| &id.0[..KEY_BYTES]).collect();
                keys.sort_unstable();
                for key in keys {
                    add_chunk.execute(params![key, row])?;
                }
            }
        }
        transaction.commit()
    }

    /// The row of the pack that probably holds `id`; the pack's directory has the last word.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn find(&self, id: ChunkId) -> Result<Option<PackRow>, RepoError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT pack FROM chunk WHERE key = ?").map_err(sqlite(&self.file))?;
        let row = statement.query_row([&id.0[..KEY_BYTES]], |row| row.get(0)).optional();
        Ok(row.map_err(sqlite(&self.file))?.map(PackRow))
    }

    /// What the index remembers of a pack; `None` if the row is gone or its checksum is wrong.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn load(&self, row: PackRow) -> Result<Option<FinishedPack>, RepoError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT id, kind, len, header, directory, checksum FROM pack WHERE row = ?")
            .map_err(sqlite(&self.file))?;
        let found = statement.query_row([row.0], |row| Ok(pack_from(row))).optional();
        Ok(found.map_err(sqlite(&self.file))?.flatten())
    }

    /// Calls `each` with every pack of the index whose row is sound.
    ///
    /// # Errors
    /// [`RepoError::Index`], and what `each` returns.
    pub fn each_pack(&self, mut each: impl FnMut(FinishedPack) -> Result<(), RepoError>) -> Result<(), RepoError> {
        let mut after = i64::MIN;
        loop {
            // One row at a time, so that the connection is free while `each` works.
            let next = {
                let connection = self.lock();
                let mut statement = connection
                    .prepare_cached("SELECT row FROM pack WHERE row > ? ORDER BY row LIMIT 1")
                    .map_err(sqlite(&self.file))?;
                statement.query_row([after], |row| row.get(0)).optional().map_err(sqlite(&self.file))?
            };
            let Some(row) = next else { return Ok(()) };
            after = row;
            if let Some(pack) = self.load(PackRow(row))? {
                each(pack)?;
            }
        }
    }

    /// Ids and lengths of all packs in the index.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn pack_ids(&self) -> Result<Vec<(PackId, u64)>, RepoError> {
        let connection = self.lock();
        let list = || -> rusqlite::Result<Vec<(PackId, u64)>> {
            let mut statement = connection.prepare_cached("SELECT id, len FROM pack")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, i64>(1)?)))?;
            rows.map(|row| row.map(|(id, len)| (PackId(id), u64::try_from(len).unwrap_or(0)))).collect()
        };
        list().map_err(sqlite(&self.file))
    }

    /// Remembers that `packs` are lost, and that `backups` may have needed them; both outlive [`Index::clear`].
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn note_lost(&self, packs: &[PackId], backups: &[BackupId]) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let mut note = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for id in packs {
                transaction.execute("INSERT OR IGNORE INTO lost (id) VALUES (?)", [id.0.as_slice()])?;
            }
            for id in backups {
                transaction.execute("INSERT OR IGNORE INTO doubted (backup) VALUES (?)", [id.0.as_slice()])?;
            }
            transaction.commit()
        };
        note().map_err(sqlite(&self.file))
    }

    /// Remembers that these packs are in the store but damaged inside: what they hold is stored again when it is seen.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn note_rotten(&self, packs: &[PackId]) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let mut note = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for id in packs {
                transaction.execute("INSERT OR IGNORE INTO rotten (id) VALUES (?)", [id.0.as_slice()])?;
            }
            transaction.commit()
        };
        note().map_err(sqlite(&self.file))
    }

    /// The packs that were found damaged inside.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn rotten(&self) -> Result<HashSet<PackId>, RepoError> {
        Ok(self.ids("SELECT id FROM rotten")?.into_iter().map(PackId).collect())
    }

    /// Forgets that `pack` was lost: it is there again, and could be lost again.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn note_found(&self, pack: PackId) -> Result<(), RepoError> {
        let deleted = self.lock().execute("DELETE FROM lost WHERE id = ?", [pack.0.as_slice()]);
        deleted.map(|_| ()).map_err(sqlite(&self.file))
    }

    /// The packs that are lost.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn lost(&self) -> Result<HashSet<PackId>, RepoError> {
        Ok(self.ids("SELECT id FROM lost")?.into_iter().map(PackId).collect())
    }

    /// The backups that may have needed a lost pack.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn doubted(&self) -> Result<HashSet<BackupId>, RepoError> {
        Ok(self.ids("SELECT backup FROM doubted")?.into_iter().map(BackupId).collect())
    }

    fn ids(&self, query: &str) -> Result<Vec<[u8; 16]>, RepoError> {
        let connection = self.lock();
        let list = || -> rusqlite::Result<Vec<[u8; 16]>> {
            connection.prepare_cached(query)?.query_map([], |row| row.get(0))?.collect()
        };
        list().map_err(sqlite(&self.file))
    }

    /// The index segments that were read before.
    ///
    /// # Errors
    /// [`RepoError::Index`].
    pub fn known_segments(&self) -> Result<HashSet<String>, RepoError> {
        let connection = self.lock();
        let list = || -> rusqlite::Result<HashSet<String>> {
            connection.prepare_cached("SELECT name FROM segment")?.query_map([], |row| row.get(0))?.collect()
        };
        list().map_err(sqlite(&self.file))
    }

    /// The file it lies in.
    pub fn file(&self) -> &str {
        &self.file
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere cannot leave a transaction half done: it is rolled back when its guard is dropped.
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn checksum(pack: &FinishedPack) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pack.id.0).update(&[pack.kind as u8]).update(&pack.len.to_le_bytes());
    hasher.update(&pack.header).update(&pack.directory);
    *hasher.finalize().as_bytes()
}

/// A pack's row, if its checksum is right.
fn pack_from(row: &rusqlite::Row<'_>) -> Option<FinishedPack> {
    let kind: u8 = row.get(1).ok()?;
    let header: Vec<u8> = row.get(3).ok()?;
    let pack = FinishedPack {
        id: PackId(row.get(0).ok()?),
        kind: [Kind::DataPack, Kind::MapPack].into_iter().find(|known| *known as u8 == kind)?,
        len: u64::try_from(row.get::<_, i64>(2).ok()?).ok()?,
        header: <[u8; HEADER_BYTES]>::try_from(header).ok()?,
        directory: row.get(4).ok()?,
    };
    let stored: Vec<u8> = row.get(5).ok()?;
    (stored == checksum(&pack)).then_some(pack)
}

fn sqlite(file: &str) -> impl Fn(rusqlite::Error) -> RepoError + '_ {
    move |source| RepoError::Index { file: file.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::blob::Codec;
    use crate::repo::pack::directory::DirectoryBuilder;

    fn pack(id: u8, chunks: &[u8]) -> (FinishedPack, Directory) {
        let mut builder = DirectoryBuilder::default();
        let chunks: Vec<(ChunkId, u32)> = chunks.iter().map(|byte| (ChunkId([*byte; 20]), 10)).collect();
        builder.add(100, 10 * chunks.len() as u32, Codec::Zstd, &chunks);
        let directory = builder.encode();
        let decoded = Directory::decode(&directory, 1000).unwrap();
        let header = [7; HEADER_BYTES];
        (FinishedPack { id: PackId([id; 16]), kind: Kind::DataPack, len: 1000, header, directory }, decoded)
    }

    #[test]
    fn what_was_added_is_found_again_by_a_later_process() {
        let folder = tempfile::tempdir().unwrap();
        let place = IndexPlace::Folder(folder.path().to_owned());
        let repository = RepoId([1; 16]);
        let (index, opened) = Index::open(&place, repository).unwrap();
        assert_eq!(opened, Opened::Created);
        let ((a, a_dir), (b, b_dir)) = (pack(1, &[1, 2]), pack(2, &[2, 3]));
        index.add(&[(&a, &a_dir), (&b, &b_dir)]).unwrap();
        index.add(&[(&a, &a_dir)]).unwrap();
        drop(index);
        let (index, opened) = Index::open(&place, repository).unwrap();
        assert_eq!(opened, Opened::Found);
        let holder = |byte| index.find(ChunkId([byte; 20])).unwrap().map(|row| index.load(row).unwrap().unwrap().id);
        assert_eq!(holder(1), Some(a.id));
        assert_eq!(holder(3), Some(b.id));
        assert_eq!(holder(4), None);
        assert_eq!(index.pack_ids().unwrap().len(), 2);
        index.clear().unwrap();
        assert_eq!(index.find(ChunkId([1; 20])).unwrap(), None);
    }

    #[test]
    fn rows_of_a_cache_that_was_made_anew_are_none_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        for place in [IndexPlace::Folder(folder.path().to_owned()), IndexPlace::Memory] {
            let (index, _) = Index::open(&place, RepoId([1; 16])).unwrap();
            let row_of = |pack: &(FinishedPack, Directory), byte| {
                index.add(&[(&pack.0, &pack.1)]).unwrap();
                index.find(ChunkId([byte; 20])).unwrap().unwrap()
            };
            let old = row_of(&pack(1, &[1]), 1);
            index.recreate().unwrap();
            assert_eq!(index.load(old).unwrap().map(|pack| pack.id), None);
            let new = row_of(&pack(2, &[2]), 2);
            assert!(new.0 > old.0 + 1, "{old:?} and then {new:?}");
            assert_eq!(index.load(old).unwrap().map(|pack| pack.id), None, "the row is not given out again");
        }
    }

    #[test]
    fn a_cache_of_another_repository_or_with_torn_pages_is_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let place = IndexPlace::Folder(folder.path().to_owned());
        let (index, _) = Index::open(&place, RepoId([1; 16])).unwrap();
        let (a, a_dir) = pack(1, &[1]);
        index.add(&[(&a, &a_dir)]).unwrap();
        drop(index);
        let (index, opened) = Index::open(&place, RepoId([2; 16])).unwrap();
        assert!(matches!(opened, Opened::Discarded(why) if why.contains("another repository")));
        assert_eq!(index.pack_ids().unwrap(), []);
        drop(index);
        let file = folder.path().join("index.sqlite");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[..4096].fill(0x55);
        std::fs::write(&file, bytes).unwrap();
        let (_, opened) = Index::open(&place, RepoId([2; 16])).unwrap();
        assert!(matches!(opened, Opened::Discarded(_)));
    }

    #[test]
    fn a_row_whose_bytes_were_changed_is_no_answer() {
        let (index, _) = Index::open(&IndexPlace::Memory, RepoId([1; 16])).unwrap();
        let (a, a_dir) = pack(1, &[1]);
        index.add(&[(&a, &a_dir)]).unwrap();
        let row = index.find(ChunkId([1; 20])).unwrap().unwrap();
        assert!(index.load(row).unwrap().is_some());
        index.lock().execute("UPDATE pack SET len = len + 1", []).unwrap();
        assert!(index.load(row).unwrap().is_none());
    }

    #[test]
    fn a_row_number_never_means_another_pack_later() {
        let (index, _) = Index::open(&IndexPlace::Memory, RepoId([1; 16])).unwrap();
        let ((a, a_dir), (b, b_dir)) = (pack(1, &[1]), pack(2, &[2]));
        index.add(&[(&a, &a_dir)]).unwrap();
        let before = index.find(ChunkId([1; 20])).unwrap().unwrap();
        // As when another process has the index built anew, while this one keeps what it read from that row.
        index.clear().unwrap();
        index.add(&[(&b, &b_dir)]).unwrap();
        assert_ne!(index.find(ChunkId([2; 20])).unwrap().unwrap(), before);
    }

    #[test]
    fn a_cache_that_is_merely_busy_or_not_allowed_is_not_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let place = IndexPlace::Folder(folder.path().to_owned());
        let (index, _) = Index::open(&place, RepoId([1; 16])).unwrap();
        let inode =
            || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(folder.path().join("index.sqlite")).unwrap());
        let before = inode();
        index.lock().execute_batch("BEGIN IMMEDIATE").unwrap();
        let outcome = open_waiting(&place, RepoId([1; 16]), Duration::from_millis(10));
        assert!(matches!(outcome, Err(RepoError::Index { .. })), "{:?}", outcome.map(|(_, opened)| opened));
        index.lock().execute_batch("COMMIT").unwrap();
        assert_eq!(inode(), before);
    }
}
