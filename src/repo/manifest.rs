//! The manifest: the sealed record of one backup. It is the commit point and the only truth; everything else in the
//! repository exists because a manifest needs it. Stored as JSON in a small sealed object (docs/FORMAT.md, "Manifests").
//!
//! In here: what a manifest says. Not in here: how its parts were obtained, or where they go.

use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::ids::{BackupId, ChunkId, ObjectId, RepoId};
use super::store::ObjectName;

/// The version of manifests this version reads and writes.
pub const MANIFEST_VERSION: u32 = 1;
/// Folder of manifests in the store.
pub const FOLDER: &str = "manifests";

/// The record of one backup: one machine at one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the manifest's form.
    pub version: u32,
    /// The backup's id, as in its object's name.
    pub backup: BackupId,
    /// What the machine is called.
    pub machine: String,
    /// What makes it the same machine elsewhere, as text: `bios_uuid:…` or `name:…`.
    pub identity: String,
    /// What its definition was read from: `vmware`, `image`, `block_device`, `image_folder`.
    pub machine_kind: String,
    /// The instant that the backup shows.
    pub instant: jiff::Timestamp,
    /// When it was finished.
    pub finished: jiff::Timestamp,
    /// How consistent the frozen view was.
    pub consistency: Consistency,
    /// How the frozen view was obtained.
    pub capture: Capture,
    /// The machine's disks.
    pub disks: Vec<DiskRecord>,
    /// Its definition files.
    pub files: Vec<FileRecord>,
    /// The backup that unchanged segments were taken from.
    pub parent: Option<BackupId>,
    /// What it cost.
    pub statistics: Statistics,
    /// Harmless facts: what was skipped without a loss.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What was less than asked for, or odd.
    pub warnings: Vec<String>,
    /// Words to choose backups by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The backup that this is a copy of; of a copy of a copy, the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<Origin>,
    /// The host it was made on.
    pub host: String,
    /// The version of abbild that made it.
    pub made_by: String,
    /// The session it was written in.
    pub session: ObjectId,
    /// The newest generation when it was committed.
    pub generation: u64,
}

/// A backup in another repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The repository's id.
    pub repository: RepoId,
    /// The backup's id there.
    pub backup: BackupId,
}

/// How consistent a frozen view is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// As after pulling the plug: journals will be replayed.
    Crash,
    /// Filesystems were frozen.
    Filesystem,
    /// Applications agreed, or the machine was off.
    Application,
}

/// How the frozen view was obtained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// The way: `offline` (files that nobody writes to).
    pub way: String,
    /// The frozen level: `current`, `base`, or the snapshot's name.
    pub level: String,
    /// When the hypervisor took that snapshot, if the level is one and its definition says so.
    pub snapshot_taken: Option<jiff::Timestamp>,
}

/// One disk of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Its place on the machine: `scsi0:0`, `disk0`.
    pub slot: String,
    /// The image's file name as the definition has it.
    pub file_name: String,
    /// Size of the guest's disk in bytes.
    pub size: u64,
    /// Id of the map's root; 32 zero bytes for a disk of zeros.
    pub root: ChunkId,
    /// Format and variant of the image it was read from.
    pub variant: String,
    /// Geometry and the like, for a restore into the same format.
    pub properties: Vec<(String, String)>,
    /// The layers it was read from, top first: what the next backup compares with. Opaque to the repository.
    pub layers: serde_json::Value,
    /// What this disk cost.
    pub statistics: Statistics,
}

/// One definition file of a backup; its content is cut and listed like a disk's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name, relative to the machine's folder.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last change, nanoseconds since 1970.
    pub modified_ns: i64,
    /// Ids of the segment lists of its content.
    pub segments: Vec<ChunkId>,
}

/// What a backup, or one disk of it, cost. All in bytes of the guest's disks but `stored`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Size of the disks.
    pub size: u64,
    /// Read from the source because it may have changed.
    pub read: u64,
    /// Read again as a sample of what is believed unchanged.
    pub sampled: u64,
    /// Chunks that were new.
    pub new: u64,
    /// Chunks, among those read, that the repository had.
    pub deduplicated: u64,
    /// Taken over from the parent without reading.
    pub unchanged: u64,
    /// Added to the store, after compression, with all overhead and padding. Only a whole run knows it: a pack holds
    /// chunks of several disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<u64>,
    /// Wall time in milliseconds.
    pub duration_ms: u64,
}

/// The name of a backup's manifest.
pub fn object_name(id: BackupId) -> ObjectName {
    ObjectName::new(&format!("{FOLDER}/{id}")).expect("hex digits make a good name")
}

/// Reads the payload of the manifest of `id`, which must be that backup's.
///
/// # Errors
/// As [`Manifest::decode`].
pub fn checked(id: BackupId, payload: &[u8]) -> Result<Manifest, RepoError> {
    let name = object_name(id);
    let manifest = Manifest::decode(name.as_str(), payload)?;
    if manifest.backup != id {
        return Err(RepoError::Damaged {
            object: name.to_string(),
            field: "backup id",
            at: 0,
            expected: id.to_string(),
            found: manifest.backup.to_string(),
        });
    }
    Ok(manifest)
}

impl Manifest {
    /// The payload that stores it.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data serialises")
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`RepoError::Unsupported`] for a later version, [`RepoError::Damaged`] for anything else that is no manifest.
    pub fn decode(object: &str, payload: &[u8]) -> Result<Manifest, RepoError> {
        let damaged = |error: serde_json::Error| RepoError::Damaged {
            object: object.to_owned(),
            field: "manifest",
            at: error.column() as u64,
            expected: "the JSON of a manifest".to_owned(),
            found: error.to_string(),
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(payload).map_err(damaged)?;
        if version != MANIFEST_VERSION {
            let feature = format!("manifest version {version}");
            return Err(RepoError::Unsupported { object: object.to_owned(), feature });
        }
        serde_json::from_slice(payload).map_err(damaged)
    }
}

impl Statistics {
    /// Adds another disk's costs; durations are not added, disks are read one after the other within one duration.
    pub fn add(&mut self, other: &Statistics) {
        self.size += other.size;
        self.read += other.read;
        self.sampled += other.sampled;
        self.new += other.new;
        self.deduplicated += other.deduplicated;
        self.unchanged += other.unchanged;
    }
}
