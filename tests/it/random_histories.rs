//! Random histories of one machine: writes, snapshots, a snapshot written down, lost packs, backups in between; backups
//! forgotten, and prunes. Each
//! backup that was reported as done equals a plain `Vec` that the same was done to.

use std::path::Path;
use std::sync::Arc;

use abbild::ops::backup::{BackupOptions, backup};
use abbild::ops::machines;
use abbild::repo::ids::BackupId;
use abbild::repo::store::faulty::MemFs;
use abbild::repo::{Repository, listed_packs, pack};

use crate::qemu;
use crate::world::{content_of, create_on, noise, open_on, quiet};

/// No multiple of a segment; of a grain neither.
const DISK_BYTES: usize = (9 << 20) + 512 * 77;
const STEPS: usize = 25;

/// Numbers that are random, and the same for the same seed.
struct Dice(Vec<u8>);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        let bytes = self.0.split_off(self.0.len() - 8);
        let word = u64::from_le_bytes(bytes.try_into().unwrap());
        usize::try_from(word % u64::try_from(limit).unwrap()).unwrap()
    }
}

struct History {
    folder: tempfile::TempDir,
    model: Vec<u8>,
    /// Layers made so far, and those of the chain, lowest first.
    made: usize,
    chain: Vec<String>,
    fs: MemFs,
    repository: Arc<Repository>,
    kept: Vec<(BackupId, Vec<u8>)>,
    lost_a_pack: bool,
}

impl History {
    fn new() -> History {
        let fs = MemFs::new();
        let repository = create_on(&fs);
        let folder = tempfile::tempdir().unwrap();
        let model = vec![0; DISK_BYTES];
        let mut history =
            History { folder, model, made: 0, chain: Vec::new(), fs, repository, kept: Vec::new(), lost_a_pack: false };
        history.snapshot();
        history
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn snapshot(&mut self) {
        self.made += 1;
        let name = format!("web-{:06}.vmdk", self.made);
        let size = DISK_BYTES.to_string();
        match self.chain.last() {
            Some(parent) => {
                qemu::img(self.folder(), &["create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", &name]);
            }
            None => qemu::img(self.folder(), &["create", "-q", "-f", "vmdk", &name, &size]),
        }
        self.chain.push(name);
        self.define();
    }

    /// The newest redo log is written down into its parent, and the machine goes on from there.
    fn commit(&mut self) {
        if self.chain.len() > 1 {
            let top = self.chain.pop().unwrap();
            qemu::img(self.folder(), &["commit", "-q", "-f", "vmdk", &top]);
            std::fs::remove_file(self.folder().join(top)).unwrap();
            self.define();
        }
    }

    fn define(&self) {
        let top = self.chain.last().unwrap();
        let vmx = format!(
            ".encoding = \"UTF-8\"\ndisplayName = \"web\"\nscsi0.present = \"TRUE\"\n\
             scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"{top}\"\n"
        );
        std::fs::write(self.folder().join("web.vmx"), vmx).unwrap();
    }

    fn write(&mut self, dice: &mut Dice) {
        let longest = [1, 16, 300, 9000][dice.below(4)];
        let sectors = DISK_BYTES / 512;
        let len = 1 + dice.below(longest);
        // Often across a border of segments, or up to the disk's end.
        let from = match dice.below(3) {
            0 => (8192usize * (1 + dice.below(2))).saturating_sub(dice.below(len)),
            1 => sectors.saturating_sub(len),
            _ => dice.below(sectors),
        };
        let (from, to) = (from * 512, ((from + len) * 512).min(DISK_BYTES));
        let top = self.chain.last().unwrap().clone();
        let source = self.folder().join("source.bin");
        let content = if dice.below(3) == 0 { vec![0; to - from] } else { noise(to - from, dice.below(9) as u64) };
        std::fs::write(&source, &content).unwrap();
        let command = format!("write -s {} {from} {}", source.display(), to - from);
        qemu::write(self.folder(), &top, "vmdk", &[command]);
        self.model[from..to].copy_from_slice(&content);
    }

    fn lose_a_pack(&mut self, dice: &mut Dice) {
        let mut packs: Vec<_> = listed_packs(self.repository.store()).unwrap().into_keys().collect();
        packs.sort();
        if packs.is_empty() {
            return;
        }
        self.repository.store().remove(&pack::object_name(packs[dice.below(packs.len())])).unwrap();
        self.kept.clear();
        self.lost_a_pack = true;
        if dice.below(2) == 0 {
            self.repository.sync_index(&mut |_| {}).unwrap(); // some other command noticed it
        }
    }

    fn forget(&mut self, dice: &mut Dice) {
        if self.kept.len() > 1 {
            let (id, _) = self.kept.remove(dice.below(self.kept.len()));
            crate::prune::forget_one(&self.repository, id).unwrap();
        }
    }

    /// As this host, or as another one.
    fn prune(&mut self, dice: &mut Dice) {
        let other = open_on(&self.fs).unwrap();
        let repository = if dice.below(2) == 0 { &self.repository } else { &other };
        if let Err(error) = crate::prune::prune_now(repository) {
            assert!(self.lost_a_pack, "{error}"); // of a map that is lost nobody knows what it referred to
        }
    }

    fn back_up(&mut self, full_read: bool) {
        let machine = machines::read(&self.folder().join("web.vmx")).unwrap();
        let options = BackupOptions { full_read, ..Default::default() };
        let done = backup(&self.repository, &machine, &options, quiet(&false.into())).unwrap();
        self.kept.push((done.manifest.backup, self.model.clone()));
    }

    #[track_caller]
    fn each_backup_is_right(&self, seed: u64) {
        let repository = open_on(&self.fs).unwrap();
        for (number, (id, model)) in self.kept.iter().enumerate() {
            let found = content_of(&repository, *id).unwrap_or_else(|error| panic!("seed {seed}, {number}: {error}"));
            assert!(found == *model, "seed {seed}, backup {number} of {}", self.kept.len());
        }
    }
}

#[test]
fn every_backup_of_a_random_history_is_what_was_there() {
    for seed in 0..24 {
        let mut dice = Dice(noise(8 * 1000, seed));
        let mut history = History::new();
        for _ in 0..STEPS {
            match dice.below(15) {
                0..=4 => history.write(&mut dice),
                5..=6 => history.snapshot(),
                7 => history.commit(),
                8 => history.lose_a_pack(&mut dice),
                9 => history.repository = open_on(&history.fs).unwrap(),
                12 => history.forget(&mut dice),
                13 => history.prune(&mut dice),
                step => history.back_up(step == 10 && dice.below(2) == 0),
            }
        }
        history.back_up(false);
        history.each_backup_is_right(seed);
    }
}
