//! The cache's file: found, proven to be usable, made anew. The only place that knows the tables' layout as a whole.
//!
//! Not in here: what the rows mean, and what is asked of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params};
use rustix::fs::{Advice, fadvise};

use super::{Index, IndexPlace, Opened, brief, sqlite};
use crate::repo::error::RepoError;
use crate::repo::ids::RepoId;

/// Oldest SQLite without the bug that corrupts a database when its write-ahead log is reset (fixed in 3.51.3).
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Layout of the tables; another one is discarded and built anew.
const SCHEMA: i64 = 5;
pub(super) const FILE_NAME: &str = "index.sqlite";
/// An index of more bytes is not read ahead: that of a million chunks.
const READ_AHEAD_BYTES_MAX: u64 = 64 << 20;
/// SQLite's page cache: 16 MiB.
const CACHE_KIB: i64 = 16 << 10;

/// As [`Index::open`], waiting at most `busy` for others.
pub(super) fn open_waiting(
    place: &IndexPlace,
    repository: RepoId,
    busy: Duration,
) -> Result<(Index, Opened), RepoError> {
    let IndexPlace::Folder(folder) = place else {
        let file = "in memory".to_owned();
        let connection = Connection::open_in_memory().map_err(sqlite(&file))?;
        prepare(&connection, repository, busy).map_err(sqlite(&file))?;
        return Ok((Index { file, repository, folder: None, connection: Mutex::new(connection) }, Opened::Created));
    };
    let path = folder.join(FILE_NAME);
    let file = path.display().to_string();
    let version = rusqlite::version_number();
    if version < SQLITE_VERSION_MIN {
        let reason = format!("SQLite {} has a bug that corrupts it; 3.51.3 or later is needed", rusqlite::version());
        return Err(RepoError::IndexPlace { file, reason });
    }
    let unusable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => {
            let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            RepoError::Index {
                file: file.clone(),
                source: rusqlite::Error::SqliteFailure(full, Some(error.to_string())),
            }
        }
        _ => RepoError::IndexPlace { file: file.clone(), reason: error.to_string() },
    };
    std::fs::create_dir_all(folder).map_err(unusable)?;
    if let Some(kind) = network_mount(folder) {
        let reason = format!("it would lie on a network mount ({kind}), where SQLite's log does not work");
        return Err(RepoError::IndexPlace { file, reason });
    }
    let existed = path.exists();
    let index = |connection| {
        let connection = Mutex::new(connection);
        Index { file: file.clone(), repository, folder: Some(folder.clone()), connection }
    };
    match connect(&path, repository, busy) {
        Ok(connection) => {
            let opened = if existed { Opened::Found } else { Opened::Created };
            Ok((index(connection), opened))
        }
        // Busy, full, not allowed: nothing is wrong with it, and another process may be using it.
        Err(Unusable::Sqlite(source)) if !is_damage(&source) => Err(RepoError::Index { file, source }),
        Err(why) => {
            let connection = connect_anew(&path, repository, busy)?;
            let why = match why {
                Unusable::Sqlite(error) => error.to_string(),
                Unusable::Foreign(reason) => reason,
            };
            Ok((index(connection), Opened::Discarded(why)))
        }
    }
}

/// Has the kernel read a small index as a whole, while there is other work to do: rows lie all over the file, and each that is
/// not in memory costs a read of its own.
pub fn read_ahead(place: &IndexPlace) {
    /// Never closed: that would end every lock that SQLite holds on the same file in this process.
    static FILES: Mutex<BTreeMap<PathBuf, File>> = Mutex::new(BTreeMap::new());
    let IndexPlace::Folder(folder) = place else { return };
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let Entry::Vacant(vacant) = files.entry(folder.join(FILE_NAME)) else { return };
    let Ok(file) = File::open(vacant.key()) else { return };
    let file = vacant.insert(file);
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    if let Some(len) = NonZeroU64::new(len).filter(|len| len.get() <= READ_AHEAD_BYTES_MAX) {
        // Advice: without it everything takes longer, no more.
        let _ = fadvise(&*file, 0, Some(len), Advice::WillNeed);
    }
}

/// Removes the cache and makes an empty one.
pub(super) fn connect_anew(path: &Path, repository: RepoId, busy: Duration) -> Result<Connection, RepoError> {
    let file = path.display().to_string();
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(PathBuf::from(format!("{file}{suffix}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RepoError::IndexPlace { file, reason: error.to_string() });
            }
            _ => {}
        }
    }
    connect(path, repository, busy).map_err(|error| match error {
        Unusable::Sqlite(source) => RepoError::Index { file: file.clone(), source },
        Unusable::Foreign(reason) => RepoError::IndexPlace { file: file.clone(), reason },
    })
}

/// Whether an error means that the cache itself is no good, rather than that it cannot be used just now.
pub(in crate::repo) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OperationInterrupted,
        OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure,
    };
    // SQLite has many words for a file that is not as it left it: even a broken constraint, as no statement of ours breaks
    // one. Without a code the rows are not ours. What the system refuses to do says nothing about the file.
    !matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | OperationInterrupted
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure
        )
    )
}

enum Unusable {
    Sqlite(rusqlite::Error),
    Foreign(String),
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Unusable {
        Unusable::Sqlite(error)
    }
}

fn connect(path: &Path, repository: RepoId, busy: Duration) -> Result<Connection, Unusable> {
    let connection = Connection::open(path)?;
    prepare(&connection, repository, busy)?;
    let (schema, owner): (i64, Vec<u8>) =
        connection.query_row("SELECT schema, repository FROM owner", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if schema != SCHEMA {
        return Err(Unusable::Foreign(format!("its layout is {schema}, this version's is {SCHEMA}")));
    }
    if owner != repository.0 {
        return Err(Unusable::Foreign("it belongs to another repository".to_owned()));
    }
    Ok(connection)
}

pub(super) fn prepare(connection: &Connection, repository: RepoId, busy: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy)?;
    // NORMAL is enough: after a power cut the newest rows may be missing, and rows are never a proof.
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA mmap_size = 0;
         BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS owner (schema INTEGER NOT NULL, repository BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS pack (row INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL,
             len INTEGER NOT NULL, header BLOB NOT NULL, directory BLOB NOT NULL, checksum BLOB NOT NULL) STRICT;
         CREATE TABLE IF NOT EXISTS chunk (key BLOB PRIMARY KEY, pack INTEGER NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS segment (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS named (pack BLOB NOT NULL, segment TEXT NOT NULL, PRIMARY KEY (pack, segment)) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS state (generation INTEGER NOT NULL, dropped INTEGER NOT NULL) STRICT;
         INSERT INTO state SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM state);
         CREATE TABLE IF NOT EXISTS lost (id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS doubted (backup BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS rotten (id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS verified (id BLOB PRIMARY KEY, second INTEGER NOT NULL) STRICT, WITHOUT ROWID;
         {}",
        brief::TABLE
    ))?;
    connection.execute(
        "INSERT INTO owner SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM owner)",
        params![SCHEMA, repository.0.as_slice()],
    )?;
    connection.execute_batch("COMMIT")?;
    // A schema with other columns is sound for SQLite, and of no use to us: better known now than half-way.
    COLUMNS.iter().try_for_each(|columns| connection.prepare(&format!("SELECT {columns} LIMIT 0")).map(drop))
}

/// What statements rely on, table by table.
const COLUMNS: [&str; 11] = [
    "schema, repository FROM owner",
    "row, id, kind, len, header, directory, checksum FROM pack",
    "key, pack FROM chunk",
    "name FROM segment",
    "pack, segment FROM named",
    "generation, dropped FROM state",
    "id FROM lost",
    "backup FROM doubted",
    "id FROM rotten",
    "id, second FROM verified",
    brief::COLUMNS,
];

/// The kind of network filesystem that `folder` lies on; `None` for a local one. Source: statfs(2), magic numbers.
fn network_mount(folder: &Path) -> Option<&'static str> {
    let magic = rustix::fs::statfs(folder).ok()?.f_type as u64 & 0xffff_ffff;
    match magic {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        0x00c3_6400 => Some("Ceph"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x4750_4653 => Some("GPFS"),
        _ => None,
    }
}
