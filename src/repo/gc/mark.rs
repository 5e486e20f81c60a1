//! Which chunks are needed: a bit a chunk of every pack in use. Parts of maps have their bits too, so the bit also says that
//! what lies below was visited: maps that backups share are walked once.
//!
//! What is needed and in no pack in use is looked for in the trash. If it is there it is moved back into use, for what a
//! mark says is "needed, and in use"; only a dry run leaves it there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::trash;
use super::walk::Needs;
use crate::repo::error::RepoError;
use crate::repo::ids::{ChunkId, PackId};
use crate::repo::pack::reader::OpenPack;
use crate::repo::seal::ChunkKind;
use crate::repo::store::StoreError;
use crate::repo::{Repository, settle_packs};

/// What is done about a chunk that is needed and lies in the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trashed {
    /// Its pack is moved back into use.
    Revive,
    /// It stays, and is read there.
    Leave,
}

/// A bit for each chunk of a pack.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Sets a bit; whether it was not set before.
    fn set(&mut self, at: usize) -> bool {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        let word = &mut self.0[at / 64];
        let was = *word >> (at % 64) & 1;
        *word |= 1 << (at % 64);
        was == 0
    }

    fn any(&self) -> bool {
        self.0.iter().any(|word| *word != 0)
    }
}

#[derive(Clone, Debug, Default)]
struct PackMarks {
    /// Needed by a backup.
    live: Bits,
    /// Needed by a forgotten one that can be brought back.
    held: Bits,
}

/// What is needed, as far as backups were walked.
pub struct Marks<'r> {
    repository: &'r Repository,
    trashed: Trashed,
    packs: HashMap<PackId, PackMarks>,
    /// Packs in the trash that hold what a forgotten backup, or in a dry run any, needs.
    held_in_trash: HashSet<PackId>,
    /// Chunks seen that have no bit, as they are in no pack in use.
    seen_elsewhere: HashSet<ChunkId>,
    /// The packs that the last data and map chunk were found in: neighbours mostly lie in one.
    near: [Option<Arc<OpenPack>>; 2],
    /// Chunks of data that are in no pack at all, and who needs the first of them.
    missing: (u64, Option<String>),
    revived: u64,
    /// The index was brought up to date since the last backup that was not walked before.
    is_fresh: bool,
}

/// Whose needs are being walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Backup,
    Forgotten,
}

impl<'r> Marks<'r> {
    /// Nothing is needed yet. The index is up to date.
    pub fn new(repository: &'r Repository, trashed: Trashed) -> Marks<'r> {
        Marks {
            repository,
            trashed,
            packs: HashMap::new(),
            held_in_trash: HashSet::new(),
            seen_elsewhere: HashSet::new(),
            near: [None, None],
            missing: (0, None),
            revived: 0,
            is_fresh: true,
        }
    }

    /// Marks what a backup needs. Data that is in no pack at all is counted as missing, as nothing can be done for it; of
    /// a map it is an error, as nobody knows what it refers to.
    ///
    /// # Errors
    /// [`RepoError::MissingChunk`] for a part of a map, [`RepoError::Damaged`], what store and index say.
    pub fn live(&mut self, needs: &Needs) -> Result<(), RepoError> {
        self.is_fresh = false;
        let repository = self.repository;
        needs.visit(repository, &mut |kind, id, needed_by| self.visit(Of::Backup, kind, id, needed_by))
    }

    /// Marks what a forgotten backup needs. One that is damaged holds what can be found of it.
    ///
    /// # Errors
    /// What store and index say.
    pub fn held(&mut self, needs: &Needs) -> Result<(), RepoError> {
        let repository = self.repository;
        match needs.visit(repository, &mut |kind, id, needed_by| self.visit(Of::Forgotten, kind, id, needed_by)) {
            Err(RepoError::MissingChunk { .. } | RepoError::Damaged { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    fn visit(
        &mut self,
        of: Of,
        kind: ChunkKind,
        id: ChunkId,
        needed_by: &dyn Fn() -> String,
    ) -> Result<bool, RepoError> {
        let found = match self.find(kind, id)? {
            Some(found) => Some(found),
            None => self.search(of, kind, id)?,
        };
        if let Some((pack, position)) = found {
            let marks = self.packs.entry(pack).or_default();
            return Ok(match of {
                Of::Backup => marks.live.set(position),
                // Below what a backup needs, all is needed by it.
                Of::Forgotten => !marks.live.get(position) && marks.held.set(position),
            });
        }
        let is_new = self.seen_elsewhere.insert(id);
        if of == Of::Forgotten || self.trashed == Trashed::Leave {
            match self.repository.find_in_trash(id)? {
                Some(found) => {
                    self.held_in_trash.insert(found.pack.id);
                    return Ok(is_new);
                }
                None if of == Of::Forgotten => return Ok(false),
                None => {}
            }
        }
        if kind == ChunkKind::Map {
            return Err(RepoError::MissingChunk { id, needed_by: needed_by() });
        }
        if is_new {
            self.missing.0 += 1;
            self.missing.1.get_or_insert_with(needed_by);
        }
        Ok(false)
    }

    fn find(&mut self, kind: ChunkKind, id: ChunkId) -> Result<Option<(PackId, usize)>, RepoError> {
        let near = &mut self.near[usize::from(kind == ChunkKind::Map)];
        if let Some(pack) = near
            && let Some(position) = pack.directory.position(id)
        {
            return Ok(Some((pack.id, position)));
        }
        let Some(found) = self.repository.find_chunk(id)? else { return Ok(None) };
        let position = found.pack.directory.position(id).expect("it was found in this directory");
        let pack = found.pack.id;
        *near = Some(found.pack);
        Ok(Some((pack, position)))
    }

    /// Looks for a chunk that the index does not have where else it may be; afterwards the index has it, if it is in use.
    fn search(&mut self, of: Of, kind: ChunkKind, id: ChunkId) -> Result<Option<(PackId, usize)>, RepoError> {
        if !self.is_fresh {
            // Written since, by the run whose backup this is.
            self.repository.sync_index(&mut |_| {})?;
            self.near = [None, None];
            self.is_fresh = true;
            if let Some(found) = self.find(kind, id)? {
                return Ok(Some(found));
            }
        }
        if self.repository.find_hidden(id)?.is_some() {
            return self.find(kind, id);
        }
        if of == Of::Forgotten || self.trashed == Trashed::Leave {
            return Ok(None);
        }
        let (store, keys) = (self.repository.store(), self.repository.keys());
        while let Some((trashed, _)) = trash::find(store, keys, id)? {
            if trash::revive(store, &trashed)? {
                self.revived += 1;
                self.repository.sync_index(&mut |_| {})?;
                self.near = [None, None];
                return self.find(kind, id);
            }
        }
        Ok(None)
    }

    /// A pack that was written to hold what is needed, and nothing else.
    pub fn add_live_pack(&mut self, pack: PackId, chunks: usize) {
        let marks = self.packs.entry(pack).or_default();
        for position in 0..chunks {
            marks.live.set(position);
        }
    }

    /// Packs that hold what a backup needs.
    pub fn live_packs(&self) -> impl Iterator<Item = PackId> {
        self.packs.iter().filter(|(_, marks)| marks.live.any()).map(|(id, _)| *id)
    }

    /// Whether a backup needs the chunk at `position` of `pack`.
    pub fn is_live(&self, pack: PackId, position: usize) -> bool {
        self.packs.get(&pack).is_some_and(|marks| marks.live.get(position))
    }

    /// Whether a forgotten backup that can be brought back needs something of `pack`, in use or in the trash.
    pub fn is_held(&self, pack: PackId) -> bool {
        self.held_in_trash.contains(&pack) || self.packs.get(&pack).is_some_and(|marks| marks.held.any())
    }

    /// What forgotten backups need is to be found out anew.
    pub fn forget_held(&mut self) {
        self.held_in_trash.clear();
        self.seen_elsewhere.clear();
        self.packs.values_mut().for_each(|marks| marks.held = Bits::default());
        self.near = [None, None];
    }

    /// How many chunks of data are in no pack at all, and which backup needs the first of them.
    pub fn missing(&self) -> (u64, Option<&str>) {
        (self.missing.0, self.missing.1.as_deref())
    }

    /// Packs that were moved back into use.
    pub fn revived(&self) -> u64 {
        self.revived
    }
}

/// Proves that everything a backup needs lies in packs in use; what lies in the trash is moved back. The answer holds for
/// as long as the caller's session does.
///
/// # Errors
/// [`RepoError::MissingChunk`] if something is gone.
pub fn prove(repository: &Repository, needs: &Needs) -> Result<(), RepoError> {
    repository.sync_index(&mut |_| {})?;
    let mut marks = Marks::new(repository, Trashed::Revive);
    let outcome = marks.live(needs);
    let missing = match (&outcome, marks.missing()) {
        (Ok(()), (0, _)) => return settle_packs(repository.store(), marks.live_packs()),
        (Ok(()), (count, needed_by)) => {
            RepoError::ChunksVanished { count, needed_by: needed_by.unwrap_or_default().to_owned() }
        }
        (Err(RepoError::MissingChunk { .. } | RepoError::Damaged { .. }), _) => outcome.expect_err("it is an error"),
        // A pack went between the look and the reading: that is what vanished means, too.
        (Err(RepoError::Store(StoreError::NotFound { .. })), _) => outcome.expect_err("it is an error"),
        (Err(_), _) => return outcome,
    };
    // No later run builds on backups that may need what is gone: it reads all, and stores it again.
    repository.index().note_lost(&[], &repository.backup_ids()?)?;
    Err(missing)
}
