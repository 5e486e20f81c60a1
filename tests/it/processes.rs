//! A place where real processes of the program meet on one repository, each host with a cache of its own.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use abbild::repo::Repository;
use abbild::repo::ids::BackupId;
use abbild::repo::index::IndexPlace;
use abbild::repo::keys::{KeyFile, Secret};
use abbild::repo::store::DirectoryStore;
use serde_json::Value;

use crate::world::{content_of, full_check, noise};

/// A number from the environment, for the long forms of stories.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// A number that looks random, equal for equal seeds.
pub fn draw(seed: u64) -> u64 {
    u64::from_le_bytes(noise(8, seed + 7_000_000).try_into().unwrap())
}

/// A folder with a repository in `repository`, its key in `key`.
pub struct Stage {
    folder: tempfile::TempDir,
}

/// What was reported, by the hash of what it must restore to.
pub type Reported = HashMap<BackupId, blake3::Hash>;

impl Stage {
    /// A stage with an empty repository.
    pub fn new() -> Stage {
        let stage = Stage { folder: tempfile::tempdir().unwrap() };
        assert!(stage.abbild("init", &["init"]).status().unwrap().success());
        stage
    }

    /// The path of `name` on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command as `host` runs it, with JSON on stdout.
    pub fn abbild(&self, host: &str, args: &[&str]) -> Command {
        self.abbild_on("repository", host, args)
    }

    /// The same on the repository in `folder`.
    pub fn abbild_on(&self, folder: &str, host: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_abbild"));
        command.args(args).args(["--json", "--no-progress", "--repo"]).arg(self.path(folder));
        command.arg("--key-file").arg(self.path("key")).arg("--cache-dir").arg(self.path(host));
        command.env("XDG_STATE_HOME", self.path(&format!("state-of-{host}")));
        // However full the disk of this machine is.
        command.env("ABBILD_WARN_FREE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Opens the repository in `folder` as another host would: without a cache.
    pub fn open(&self, folder: &str) -> Arc<Repository> {
        let store = DirectoryStore::open(&self.path(folder)).unwrap();
        let secret = Secret::KeyFile(KeyFile::load(&self.path("key")).unwrap());
        Arc::new(Repository::open(Arc::new(store), &secret, |_| IndexPlace::Memory).unwrap())
    }

    /// Opens the repository as another host would.
    pub fn repository(&self) -> Arc<Repository> {
        self.open("repository")
    }

    /// What was reported and not forgotten is listed; what is listed restores, to what was reported; all data is sound.
    /// Gives how many backups are listed.
    #[track_caller]
    pub fn assert_kept(&self, reported: &Reported, forgotten: &HashSet<BackupId>) -> usize {
        let repository = self.repository();
        let listed: HashSet<BackupId> = repository.backup_ids().unwrap().into_iter().collect();
        for id in reported.keys().filter(|id| !forgotten.contains(*id)) {
            assert!(listed.contains(id), "{id} was reported, and is neither forgotten nor listed");
        }
        for id in &listed {
            let content = content_of(&repository, *id).unwrap_or_else(|error| panic!("{id} is lost: {error}"));
            if let Some(hash) = reported.get(id) {
                assert_eq!(blake3::hash(&content), *hash, "{id} restores other bytes");
            }
        }
        let report = full_check(&repository).unwrap();
        assert!(report.faults.is_empty() && report.damaged_backups.is_empty(), "{report:?}");
        listed.len()
    }
}

/// The first line of what a process said on stdout, as JSON.
pub fn answer(stdout: &[u8]) -> Option<Value> {
    answers(stdout).into_iter().next()
}

/// All answers, a line each; the last may have been cut short by a kill.
pub fn answers(stdout: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(stdout).lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// The backup that an answer of `backup` reports.
pub fn backup_of(answer: &Value) -> Option<BackupId> {
    answer["backup"].as_str()?.parse().ok()
}

/// The backups that an answer of `forget` says are forgotten.
pub fn forgotten_of(answer: &Value) -> Vec<BackupId> {
    let gone = answer["forgotten"].as_array().map(Vec::as_slice).unwrap_or_default();
    gone.iter().map(|line| line["backup"].as_str().unwrap().parse().unwrap()).collect()
}
