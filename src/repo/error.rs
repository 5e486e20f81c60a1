//! What can go wrong in a repository: wrong key, damaged or missing objects, a failing store. Fields instead of
//! sentences; the cause stays in `source`.

use super::ids::{BackupId, ChunkId};
use super::store::StoreError;

/// Why a repository did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// There is no repository at this place.
    #[error("{place} holds no repository")]
    NoRepository {
        /// Where we looked.
        place: String,
    },
    /// There is something at this place already.
    #[error("{place} is not empty: it holds {found}")]
    NotEmpty {
        /// Where a repository was to be made.
        place: String,
        /// The first thing found there.
        found: String,
    },
    /// The passphrase or key file opens none of the slots.
    #[error("{secret} opens none of the {slots} key slots of {place}")]
    WrongKey {
        /// Which secret was tried: `the passphrase`, `the key file …`.
        secret: String,
        /// How many slots of that kind were tried.
        slots: usize,
        /// The repository.
        place: String,
    },
    /// A key file that cannot be read as one.
    #[error("key file {file}: expected {expected}, found {found}")]
    KeyFile {
        /// The file.
        file: String,
        /// What a key file has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// A stored object is not what was stored.
    #[error("{object}: {field} at offset {at}: expected {expected}, found {found}")]
    Damaged {
        /// The object's name in the store.
        object: String,
        /// Which part of it.
        field: &'static str,
        /// Where in the object, in bytes.
        at: u64,
        /// What a sound object has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// Something that a backup needs is in no pack.
    #[error("chunk {id} is in no pack of the repository; {needed_by} needs it")]
    MissingChunk {
        /// The chunk.
        id: ChunkId,
        /// What is incomplete without it.
        needed_by: String,
    },
    /// Packs that a new backup refers to are not in the store.
    #[error("{count} packs that the backup needs are not in the store, {first} among them")]
    PacksVanished {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// Data that a new backup needs is in no pack any more.
    #[error("{count} chunks that the backup needs are in no pack any more; {needed_by} needs one of them")]
    ChunksVanished {
        /// How many.
        count: u64,
        /// A backup.
        needed_by: String,
    },
    /// A prune took this process for dead: what it relied on may be gone.
    #[error("session {session} was ended by a prune that took this process for dead")]
    SessionLost {
        /// The session.
        session: String,
    },
    /// Written by a later version.
    #[error("{object}: {feature} is not supported by this version")]
    Unsupported {
        /// The object's name in the store.
        object: String,
        /// What it would need.
        feature: String,
    },
    /// No backup fits the name.
    #[error("no backup fits {wanted}")]
    UnknownBackup {
        /// What was asked for.
        wanted: String,
        /// What there is, nearest first, for the message's hint.
        candidates: Vec<String>,
    },
    /// Several backups fit the name.
    #[error("{wanted} fits {} backups", fits.len())]
    AmbiguousBackup {
        /// What was asked for.
        wanted: String,
        /// Those that fit.
        fits: Vec<BackupId>,
    },
    /// A key slot that must not go or cannot be found.
    #[error("key slot {slot}: {reason}")]
    Slot {
        /// The slot asked for.
        slot: String,
        /// Why it was refused.
        reason: String,
    },
    /// A chunk came back from compression different from what went in: memory or the library is faulty.
    #[error("a blob of {plain_bytes} bytes did not survive compression: decoding gave other bytes back")]
    BlobNotReproduced {
        /// Its plain length.
        plain_bytes: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index cache failed; it can be deleted at any time.
    #[error("index cache {file}")]
    Index {
        /// The SQLite file.
        file: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The index cache cannot be where it was asked to be.
    #[error("index cache {file}: {reason}")]
    IndexPlace {
        /// The SQLite file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// A worker or the pack writer stopped; its own error is reported by whoever joined it.
    #[error("the write was given up because another part of it failed")]
    GivenUp,
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl RepoError {
    /// Whether the index cache is held by another process of this host.
    pub fn is_busy(&self) -> bool {
        matches!(self, RepoError::Index { source, .. } if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy))
    }

    /// Whether SQLite found the index cache itself damaged: it is to be made anew.
    pub fn is_damaged_index(&self) -> bool {
        matches!(self, RepoError::Index { source, .. } if super::index::is_damage(source))
    }

    /// Whether the store's medium, or that of the index cache, is full.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            RepoError::Store(error) => matches!(error, StoreError::NoSpace { .. }),
            RepoError::Index { source: rusqlite::Error::SqliteFailure(error, _), .. } => {
                // The second is what SQLite says when there is no room for the memory that its processes share.
                error.code == rusqlite::ErrorCode::DiskFull
                    || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            }
            _ => false,
        }
    }

    /// An object that ends too early.
    pub(crate) fn short(object: &str, expected: u64, found: u64) -> RepoError {
        RepoError::Damaged {
            object: object.to_owned(),
            field: "length",
            at: found,
            expected: format!("at least {expected} bytes"),
            found: format!("{found} bytes"),
        }
    }

    /// An authenticated part that does not open.
    pub(crate) fn unauthentic(object: &str, field: &'static str, at: u64) -> RepoError {
        RepoError::Damaged {
            object: object.to_owned(),
            field,
            at,
            expected: "bytes that its key authenticates".to_owned(),
            found: "other bytes".to_owned(),
        }
    }
}
