//! A small world for the stories about repositories: a store that can fail, a machine with one raw disk, backups taken
//! and read back through the library's own calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use abbild::disk::Disk;
use abbild::ops::backup::{BackupOptions, backup};
use abbild::ops::event::{Control, Silent};
use abbild::ops::machines;
use abbild::ops::{OpsError, check};
use abbild::repo::ids::BackupId;
use abbild::repo::index::IndexPlace;
use abbild::repo::keys::{KdfCost, KeyFile, Secret};
use abbild::repo::run::Committed;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::store::{self, DirectoryStore, ObjectName, ObjectStore};
use abbild::repo::{RepoError, Repository, gc};
use abbild::units::GuestOffset;

/// Where the repository lies on a [`MemFs`].
pub const ROOT: &str = "/repository";

/// The least that a passphrase slot may cost: stories are not about guessing.
pub const CHEAP: KdfCost = KdfCost::Fixed { memory_kib: 64, passes: 1 };

/// What opens every repository of these stories.
pub fn secret() -> Secret {
    let text = KEY;
    Secret::KeyFile(KeyFile::parse(text, "the stories' key").unwrap())
}

const KEY: &str = "abbild key file 1\n\
    00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n\
    check: 21f2613d\n";

/// Nobody listens, nobody interrupts.
pub fn quiet(interrupt: &AtomicBool) -> Control<'_> {
    Control { events: &Silent, interrupt }
}

/// A store on a filesystem in memory.
pub fn store_on(fs: &MemFs) -> Result<Arc<dyn ObjectStore>, RepoError> {
    Ok(Arc::new(DirectoryStore::open_on(fs.clone(), Path::new(ROOT)).map_err(RepoError::from)?))
}

/// A new repository on a filesystem in memory.
pub fn create_on(fs: &MemFs) -> Arc<Repository> {
    let store = Arc::new(DirectoryStore::create_on(fs.clone(), Path::new(ROOT)).unwrap());
    Arc::new(Repository::create(store, &secret(), "key", CHEAP, |_| IndexPlace::Memory).unwrap())
}

/// Opens the repository on a filesystem in memory, without any cache.
pub fn open_on(fs: &MemFs) -> Result<Arc<Repository>, RepoError> {
    Ok(Arc::new(Repository::open(store_on(fs)?, &secret(), |_| IndexPlace::Memory)?))
}

/// A raw image file that stories write and back up.
pub struct RawMachine {
    /// Where the image lies.
    pub folder: tempfile::TempDir,
}

impl RawMachine {
    /// A machine whose disk holds `content`.
    pub fn new(content: &[u8]) -> RawMachine {
        let machine = RawMachine { folder: tempfile::tempdir().unwrap() };
        machine.write(content);
        machine
    }

    /// The image.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("guest.raw")
    }

    /// Makes the disk hold `content`.
    pub fn write(&self, content: &[u8]) {
        fs::write(self.image(), content).unwrap();
    }

    /// Backs it up.
    pub fn back_up(&self, repository: &Arc<Repository>) -> Result<Committed, OpsError> {
        let machine = machines::read(&self.image())?;
        let options = BackupOptions::default();
        backup(repository, &machine, &options, quiet(&AtomicBool::new(false)))
    }
}

/// The whole content of a backup's first disk.
pub fn content_of(repository: &Arc<Repository>, id: BackupId) -> Result<Vec<u8>, RepoError> {
    let manifest = repository.manifest(id)?;
    let disk = repository.disk(&manifest, 0)?;
    let mut bytes = vec![0; usize::try_from(disk.size().0).unwrap()];
    disk.read_at(GuestOffset(0), &mut bytes).map_err(|error| match error {
        abbild::disk::DiskError::Backing(source) => *source.downcast::<RepoError>().unwrap(),
        other => panic!("a backup's disk fails as a repository does: {other}"),
    })?;
    Ok(bytes)
}

/// Everything that a check with all data read finds.
pub fn full_check(repository: &Arc<Repository>) -> Result<check::CheckReport, OpsError> {
    check::check(repository, check::ReadData::Percent(100.0), quiet(&AtomicBool::new(false)))
}

/// Bytes that look random, equal for equal seeds.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut bytes);
    bytes
}

/// A disk of somewhat more than one segment: noise, text, zeros, and an end that is no whole block.
pub fn small_disk(seed: u64) -> Vec<u8> {
    let text = b"a line that compresses well, as most of a guest does\n".repeat(4000);
    let mut disk = [noise(150_000, seed), vec![0; 3 << 20], text, noise(100_000, 7), vec![0; 700_000]].concat();
    disk.extend(noise(4096, seed + 1));
    disk.truncate(disk.len() / 512 * 512);
    disk
}

/// Every object but the noise that is kept for a prune.
pub fn objects(store: &dyn ObjectStore) -> BTreeMap<ObjectName, Vec<u8>> {
    let names = store::names(store, "").unwrap();
    let names = names.into_iter().filter(|name| name.folder() != gc::reserve::FOLDER);
    names.map(|name| (name.clone(), store.read(&name, 1 << 30).unwrap())).collect()
}

/// Puts other bytes under a name.
pub fn replace(store: &dyn ObjectStore, name: &ObjectName, bytes: &[u8]) {
    store.remove(name).unwrap();
    store.put(name, bytes).unwrap();
}

/// SplitMix64: numbers that look random, and a seed in a bug report stays good.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `choices`.
    pub fn below(&mut self, choices: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % choices.max(1) as u64) as usize
    }
}
