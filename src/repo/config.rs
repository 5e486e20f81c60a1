//! The configuration of a repository: what must be known before anything else can be read. One JSON line of a plain
//! object; authenticated, because every key slot binds its hash.

use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::ids::RepoId;
use super::store::{ObjectName, ObjectStore, StoreError};
use super::text::{self, PlainFault};
use crate::chunker::{ChunkSizes, SEGMENT_BYTES};

/// The repository format this version reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// What is fixed when a repository is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Version of the repository format.
    pub format: u32,
    /// Identity of the repository.
    pub repository: RepoId,
    /// How segments are cut into chunks.
    pub chunks: ChunkSizes,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// When it was made.
    pub created: jiff::Timestamp,
}

/// The name of its object.
pub fn object_name() -> ObjectName {
    ObjectName::new("config").expect("a good name")
}

impl Config {
    /// The configuration of a new repository.
    pub fn create(repository: RepoId) -> Config {
        Config {
            format: FORMAT_VERSION,
            repository,
            chunks: ChunkSizes::default(),
            segment_bytes: SEGMENT_BYTES as u64,
            created: jiff::Timestamp::now(),
        }
    }

    /// The object that stores it.
    pub fn encode(&self) -> Vec<u8> {
        text::encode(&[&serde_json::to_string(self).expect("plain data serialises")])
    }

    /// Reads and checks it; also gives the BLAKE3 of its bytes, which the key slots bind.
    ///
    /// # Errors
    /// [`RepoError::NoRepository`] if there is none, [`RepoError::Damaged`], [`RepoError::Unsupported`].
    pub fn load(store: &dyn ObjectStore) -> Result<(Config, [u8; 32]), RepoError> {
        let name = object_name();
        let decode = |bytes: &[u8]| Ok((Config::decode(name.as_str(), bytes)?, *blake3::hash(bytes).as_bytes()));
        text::get(store, &name, decode).map_err(|error| match error {
            RepoError::Store(StoreError::NotFound { .. }) => RepoError::NoRepository { place: store.place() },
            other => other,
        })
    }

    /// The configuration and its copy, where both are whole and differ: only a key tells which is this repository's.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_other(store: &dyn ObjectStore, than: &[u8; 32]) -> Result<Option<(Config, [u8; 32])>, RepoError> {
        let name = text::copy_of(&object_name());
        let bytes = store.read(&name, text::TEXT_BYTES_MAX)?;
        let config = Config::decode(name.as_str(), &bytes)?;
        let hash = *blake3::hash(&bytes).as_bytes();
        Ok((hash != *than).then_some((config, hash)))
    }

    /// What is wrong with it, and with its copy; `hash` is that of the right one, where a key tells which that is.
    pub fn faults(store: &dyn ObjectStore, hash: Option<&[u8; 32]>) -> Vec<PlainFault> {
        let name = object_name();
        text::faults(store, &name, |bytes| {
            Config::decode(name.as_str(), bytes)?;
            let found = blake3::hash(bytes);
            if hash.is_none_or(|hash| found.as_bytes() == hash) {
                return Ok(());
            }
            Err(RepoError::Damaged {
                object: name.to_string(),
                field: "configuration",
                at: 0,
                expected: "the one that the keys were made for".to_owned(),
                found: "another one".to_owned(),
            })
        })
    }

    /// Makes it anew from its copy, or the copy from it, as [`text::mend`].
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn mend(store: &dyn ObjectStore) -> Result<Option<ObjectName>, RepoError> {
        let name = object_name();
        text::mend(store, &name, |bytes| Config::decode(name.as_str(), bytes))
    }

    fn decode(object: &str, bytes: &[u8]) -> Result<Config, RepoError> {
        let line = text::decode(object, bytes, 1)?[0];
        let bad = |expected: &str, found: String| RepoError::Damaged {
            object: object.to_owned(),
            field: "configuration",
            at: 0,
            expected: expected.to_owned(),
            found,
        };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_str(line).map_err(|e| bad("JSON with a format", e.to_string()))?;
        if format != FORMAT_VERSION {
            let feature = format!("repository format {format}");
            return Err(RepoError::Unsupported { object: object.to_owned(), feature });
        }
        let config: Config = serde_json::from_str(line).map_err(|e| bad("a configuration", e.to_string()))?;
        config.chunks.validate().map_err(|rule| bad(rule, format!("{:?}", config.chunks)))?;
        if config.segment_bytes != SEGMENT_BYTES as u64 {
            return Err(bad(&SEGMENT_BYTES.to_string(), config.segment_bytes.to_string()));
        }
        Ok(config)
    }
}
