//! What a check found and a repair did, for people and for programs.

use crate::repo::ids::BackupId;
use crate::repo::salvage::Rescued;

/// Something that is wrong.
#[derive(Debug, serde::Serialize)]
pub struct Fault {
    /// The object, or the part of a backup.
    pub what: String,
    /// What is wrong with it.
    pub message: String,
    /// What a repair does about it, or why it leaves it alone.
    pub remedy: String,
    /// Whether that was done.
    pub repaired: bool,
}

/// What a check found.
#[derive(Debug, Default, serde::Serialize)]
pub struct CheckReport {
    /// Backups looked at.
    pub backups: usize,
    /// Packs in the store.
    pub packs: usize,
    /// Packs whose data was read and verified.
    pub packs_read: usize,
    /// Bytes of packs read.
    pub bytes_read: u64,
    /// Chunks that the backups' maps refer to (each counted once a segment list).
    pub chunks_referred: u64,
    /// What is, or was, wrong.
    pub faults: Vec<Fault>,
    /// Backups that cannot be restored whole: `machine (id): first reason`.
    pub damaged_backups: Vec<String>,
    /// What exactly these miss.
    pub losses: Vec<BackupLoss>,
    /// How much of the data was read whole, and when.
    pub verified: Verified,
    /// What a repair did, if one was asked for.
    pub repair: Option<Repaired>,
    /// Objects in quarantine and their bytes, if there are any.
    pub quarantine: Option<(usize, u64)>,
    /// Odd, but nothing is lost by it.
    pub warnings: Vec<String>,
    /// What a running or a killed run leaves; harmless.
    pub notes: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong (any more).
    pub fn is_sound(&self) -> bool {
        self.damaged_backups.is_empty() && self.faults.iter().all(|fault| fault.repaired)
    }
}

/// How much of the packs this host has read whole, and when.
#[derive(Debug, Default, serde::Serialize)]
pub struct Verified {
    /// Packs that were read whole at some time.
    pub packs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all packs.
    pub all_bytes: u64,
    /// When the one was read that was read longest ago.
    pub oldest: Option<jiff::Timestamp>,
}

/// What a backup misses.
#[derive(Debug, serde::Serialize)]
pub struct BackupLoss {
    /// The backup.
    pub backup: BackupId,
    /// Its machine; `None` if its manifest cannot be read.
    pub machine: Option<String>,
    /// The instant it shows.
    pub instant: Option<jiff::Timestamp>,
    /// Disks that miss something.
    pub disks: Vec<DiskLoss>,
    /// Definition files that miss something.
    pub definition_files: Vec<String>,
    /// Whether all that it misses is still in the store: a repair makes it whole.
    pub repairable: bool,
}

/// What a disk of a backup misses.
#[derive(Debug, serde::Serialize)]
pub struct DiskLoss {
    /// Its place on the machine.
    pub slot: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that are lost.
    pub lost_bytes: u64,
    /// Where, as offset and length: the first ones.
    pub ranges: Vec<(u64, u64)>,
    /// How many more there are.
    pub more_ranges: usize,
    /// What of the guest lies there; looked up for each machine's newest damaged backup.
    pub guest: Option<GuestLoss>,
}

/// What of a guest lies in ranges that are lost.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GuestLoss {
    /// Files that miss something, as they can be named for `abbild ls`: the first ones.
    pub files: Vec<String>,
    /// How many more there are.
    pub more_files: u64,
    /// Directories and volumes that cannot be read: what is in them is not known.
    pub unknown: Vec<String>,
}

/// What a repair did.
#[derive(Debug, Default, serde::Serialize)]
pub struct Repaired {
    /// What was sound in damaged packs, written anew.
    pub rescued: Rescued,
    /// What came from the second repository.
    pub healed: Rescued,
    /// Packs that were made whole where they lie, by parity.
    pub healed_in_place: usize,
    /// Objects moved to quarantine.
    pub quarantined: usize,
    /// Backups that were damaged and are whole again: `machine (id)`.
    pub whole_again: Vec<String>,
}
