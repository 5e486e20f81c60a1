//! A filesystem in memory that fails at the N-th operation and can lose power: for tests and fault campaigns.
//!
//! In here: [`MemFs`], what it keeps and what it forgets. Not in here: any store, any object.
//!
//! The durability model, as harsh as POSIX allows with one exception:
//!
//! - A file has bytes and a durable length; only `sync_file` raises it. What is above may survive a power cut whole, as
//!   a torn prefix, as a prefix followed by zeros, or not at all. After a `sync_file` that failed, the unsynced bytes
//!   never become durable, although later calls say they did (as kernels do that mark failed pages clean).
//! - A folder has entries and durable entries; only `sync_dir` of that very folder makes the ones into the others. Each
//!   unsynced creation, removal and `mkdir` may or may not survive, independent of all others.
//! - The exception: a rename is never half a loss. Unsynced it leaves the old name, the new one, or both. `sync_dir` of
//!   the new folder makes the new name durable, `sync_dir` of the old folder the whole rename. (No filesystem in use
//!   forgets a file in a rename.)
//!
//! Every choice is drawn from a seed, so a finding can be repeated. Single-threaded use is deterministic.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use super::fs::{DirEntry, FileKind, Fs, Stat};

/// What happens at a planned operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation is not done and answers EIO.
    Io,
    /// The operation is not done and answers ENOSPC.
    NoSpace,
    /// A write, read or `sync_file` is done by half, any other operation wholly, and then answers EIO: the lost reply.
    Torn,
    /// This and every later operation fail; see [`MemFs::after_power_cut`].
    PowerCut,
}

impl Fault {
    /// All of them, for campaigns.
    pub const ALL: [Fault; 4] = [Fault::Io, Fault::NoSpace, Fault::Torn, Fault::PowerCut];
}

/// A filesystem in memory with faults on demand. A clone is another handle to the same filesystem; for a copy see
/// [`MemFs::snapshot`].
#[derive(Clone)]
pub struct MemFs(Arc<Mutex<State>>);

/// An open file of a [`MemFs`]; it stays readable after its name is gone.
pub struct MemFile {
    node: NodeId,
    /// Counted by the node, so that it knows whether it is still open.
    _open: Arc<()>,
}

type NodeId = u64;

const ROOT: NodeId = 0;

/// Where the clock begins: any time that is not the epoch, from which nothing could be subtracted.
const CLOCK_START: Duration = Duration::from_secs(1_700_000_000);

#[derive(Clone)]
struct State {
    files: BTreeMap<NodeId, FileNode>,
    folders: BTreeMap<NodeId, FolderNode>,
    next_node: NodeId,
    /// Changes of folders that are not durable, in the order they were made.
    pending: Vec<Change>,
    operations: u64,
    plan: Option<(u64, Fault)>,
    power_is_out: bool,
    clock: Duration,
    /// Bytes that files and folders may take, in whole blocks.
    capacity: Option<u64>,
}

/// What files and folders take is a multiple of this, as on most filesystems.
const BLOCK_BYTES: u64 = 4096;

#[derive(Clone)]
struct FileNode {
    bytes: Arc<Vec<u8>>,
    durable_len: usize,
    /// A flush failed: what was not durable then never will be.
    flush_failed: bool,
    modified: Duration,
    open: Arc<()>,
}

#[derive(Clone, Default)]
struct FolderNode {
    now: BTreeMap<OsString, NodeId>,
    durable: BTreeMap<OsString, NodeId>,
}

/// A place for a name: a folder and the name in it.
type Slot = (NodeId, OsString);

/// One change that `sync_dir` has yet to make durable. Both halves are set for a rename only.
#[derive(Clone)]
struct Change {
    removes: Option<Slot>,
    adds: Option<(Slot, NodeId)>,
}

/// How far an operation gets.
enum Step {
    Whole,
    /// Do it (by half, if that has a meaning), then fail.
    TornThen(io::Error),
}

impl Default for MemFs {
    fn default() -> Self {
        Self::new()
    }
}

impl MemFs {
    /// An empty filesystem with a durable root folder `/`.
    pub fn new() -> MemFs {
        MemFs(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            folders: BTreeMap::from([(ROOT, FolderNode::default())]),
            next_node: ROOT + 1,
            pending: Vec::new(),
            operations: 0,
            plan: None,
            power_is_out: false,
            clock: CLOCK_START,
            capacity: None,
        })))
    }

    /// Plans one fault, at the `operation`-th operation counted from 1 and from the creation of this filesystem;
    /// replaces the plan before.
    pub fn plan(&self, operation: u64, fault: Fault) {
        self.lock().plan = Some((operation, fault));
    }

    /// Operations done or refused so far (hints and the clock are none); a campaign plans a fault at each of them.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Makes the medium so large; `None` lifts the limit. What is there already may be more: then there is no room left.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes that files and folders take, in whole blocks.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Whether a planned power cut was reached.
    pub fn power_is_out(&self) -> bool {
        self.lock().power_is_out
    }

    /// Lets the filesystem's clock go on.
    pub fn advance(&self, by: Duration) {
        self.lock().clock += by;
    }

    /// An independent copy of all of it, with nothing planned and nothing counted. Bytes are shared until written.
    pub fn snapshot(&self) -> MemFs {
        let mut state = self.lock().clone();
        state.files.values_mut().for_each(|file| file.open = Arc::new(()));
        (state.operations, state.plan, state.power_is_out) = (0, None, false);
        MemFs(Arc::new(Mutex::new(state)))
    }

    /// What is found after a power cut now and a reboot: everything durable, and of the rest what the seed decides.
    /// This filesystem itself is not changed.
    pub fn after_power_cut(&self, seed: u64) -> MemFs {
        let mut dice = Dice(seed);
        self.reboot(|choices| dice.below(choices))
    }

    /// What is found after the worst power cut: only what is durable.
    pub fn after_power_cut_worst(&self) -> MemFs {
        self.reboot(|_| 0)
    }

    /// `choose(n)` gives a number below n; 0 always means "lost".
    fn reboot(&self, mut choose: impl FnMut(usize) -> usize) -> MemFs {
        let rebooted = self.snapshot();
        let mut state = rebooted.lock();
        for change in std::mem::take(&mut state.pending) {
            let survives = if change.adds.is_some() && change.removes.is_some() { choose(3) } else { choose(2) };
            match (change, survives) {
                (_, 0) => {}
                (change, 1) => state.make_durable(change),
                (change, _) => state.make_durable(Change { removes: None, ..change }),
            }
        }
        state.folders.values_mut().for_each(|folder| folder.now = folder.durable.clone());
        state.drop_unreachable();
        for file in state.files.values_mut() {
            let unsynced = file.bytes.len() - file.durable_len;
            let (data, zeros) = match if unsynced > 0 { choose(4) } else { 0 } {
                0 => (0, 0),
                1 => (unsynced, 0),
                2 => (choose(unsynced), 0),
                // The length survived, the data only in part.
                _ => {
                    let data = choose(unsynced);
                    (data, choose(unsynced - data) + 1)
                }
            };
            let mut bytes = file.bytes[..file.durable_len + data].to_vec();
            bytes.resize(bytes.len() + zeros, 0);
            (file.durable_len, file.bytes, file.flush_failed) = (bytes.len(), Arc::new(bytes), false);
        }
        drop(state);
        rebooted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts one operation and says whether it may happen.
    fn step(&mut self) -> io::Result<Step> {
        if self.power_is_out {
            return Err(power_cut());
        }
        self.operations += 1;
        match self.plan {
            Some((at, fault)) if at == self.operations => match fault {
                Fault::Io => Err(Errno::IO.into()),
                Fault::NoSpace => Err(Errno::NOSPC.into()),
                Fault::Torn => Ok(Step::TornThen(Errno::IO.into())),
                Fault::PowerCut => {
                    self.power_is_out = true;
                    Err(power_cut())
                }
            },
            _ => Ok(Step::Whole),
        }
    }

    /// An operation that has no halves: `act` happens unless refused, and its answer may get lost.
    fn do_whole<T>(&mut self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        match self.step()? {
            Step::Whole => act(self),
            Step::TornThen(error) => act(self).and(Err(error)),
        }
    }

    fn used(&self) -> u64 {
        let blocks = |len: usize| (len as u64).next_multiple_of(BLOCK_BYTES);
        self.files.values().map(|file| blocks(file.bytes.len())).sum::<u64>() + self.folders.len() as u64 * BLOCK_BYTES
    }

    fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    let folder = self.folders.get(&node).ok_or(io::ErrorKind::NotADirectory)?;
                    node = *folder.now.get(name).ok_or(io::ErrorKind::NotFound)?;
                }
                Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(node)
    }

    fn find_slot(&self, path: &Path) -> io::Result<Slot> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = self.find(parent)?;
        if !self.folders.contains_key(&folder) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((folder, name.to_owned()))
    }

    fn find_free_slot(&self, path: &Path) -> io::Result<Slot> {
        let slot = self.find_slot(path)?;
        if self.folders[&slot.0].now.contains_key(&slot.1) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(slot)
    }

    fn find_file(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        if self.files.contains_key(&node) { Ok(node) } else { Err(io::ErrorKind::IsADirectory.into()) }
    }

    fn new_node(&mut self) -> NodeId {
        self.next_node += 1;
        self.next_node - 1
    }

    /// Makes a change visible at once and durable later.
    fn change(&mut self, change: Change) {
        if let Some((folder, name)) = &change.removes {
            self.folders.get_mut(folder).expect("slots name folders").now.remove(name);
        }
        if let Some(((folder, name), node)) = &change.adds {
            self.folders.get_mut(folder).expect("slots name folders").now.insert(name.clone(), *node);
        }
        self.pending.push(change);
    }

    fn make_durable(&mut self, change: Change) {
        if let Some((folder, name)) = change.removes {
            self.folders.get_mut(&folder).expect("folders are never removed").durable.remove(&name);
        }
        if let Some(((folder, name), node)) = change.adds {
            self.folders.get_mut(&folder).expect("folders are never removed").durable.insert(name, node);
        }
    }

    fn sync_folder(&mut self, folder: NodeId) {
        let mut removed = false;
        for change in std::mem::take(&mut self.pending) {
            let here = |slot: &Slot| slot.0 == folder;
            if change.removes.as_ref().is_some_and(here) {
                removed = true;
                self.make_durable(change);
            } else if change.adds.as_ref().is_some_and(|(slot, _)| here(slot)) {
                self.make_durable(Change { removes: None, adds: change.adds });
                if change.removes.is_some() {
                    self.pending.push(Change { adds: None, ..change });
                }
            } else {
                self.pending.push(change);
            }
        }
        if removed {
            self.drop_unreachable();
        }
    }

    /// Frees files that no name, no pending change and no open handle needs.
    fn drop_unreachable(&mut self) {
        let mut needed: BTreeSet<NodeId> =
            self.pending.iter().filter_map(|change| change.adds.as_ref()).map(|(_, node)| *node).collect();
        for folder in self.folders.values() {
            needed.extend(folder.now.values().chain(folder.durable.values()));
        }
        self.files.retain(|node, file| needed.contains(node) || Arc::strong_count(&file.open) > 1);
    }
}

impl Fs for MemFs {
    type File = MemFile;

    fn create_new(&self, path: &Path) -> io::Result<MemFile> {
        self.lock().do_whole(|state| {
            let slot = state.find_free_slot(path)?;
            let (node, open) = (state.new_node(), Arc::new(()));
            let (bytes, modified) = (Arc::default(), state.clock);
            let file = FileNode { bytes, durable_len: 0, flush_failed: false, modified, open: Arc::clone(&open) };
            state.files.insert(node, file);
            state.change(Change { removes: None, adds: Some((slot, node)) });
            Ok(MemFile { node, _open: open })
        })
    }

    fn open(&self, path: &Path) -> io::Result<MemFile> {
        self.lock().do_whole(|state| {
            let node = state.find_file(path)?;
            Ok(MemFile { node, _open: Arc::clone(&state.files[&node].open) })
        })
    }

    fn write_all(&self, file: &mut MemFile, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let (bytes, outcome) = match state.step()? {
            Step::Whole => (bytes, Ok(())),
            Step::TornThen(error) => (&bytes[..bytes.len() / 2], Err(error)),
        };
        let (clock, free) = (state.clock, state.free());
        let node = state.files.get_mut(&file.node).ok_or(io::ErrorKind::NotFound)?;
        // What is left of its last block is its own.
        let len = node.bytes.len() as u64;
        let room = (len.next_multiple_of(BLOCK_BYTES) - len).saturating_add(free / BLOCK_BYTES * BLOCK_BYTES);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        Arc::make_mut(&mut node.bytes).extend_from_slice(&bytes[..fits]);
        node.modified = clock;
        if fits < bytes.len() { Err(Errno::NOSPC.into()) } else { outcome }
    }

    fn read_at(&self, file: &MemFile, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let (buf, outcome) = match state.step()? {
            Step::Whole => (buf, None),
            Step::TornThen(error) => {
                let half = buf.len() / 2;
                (&mut buf[..half], Some(error))
            }
        };
        let bytes = &state.files.get(&file.node).ok_or(io::ErrorKind::NotFound)?.bytes;
        let tail = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let len = tail.len().min(buf.len());
        buf[..len].copy_from_slice(&tail[..len]);
        outcome.map_or(Ok(len), Err)
    }

    fn len(&self, file: &MemFile) -> io::Result<u64> {
        self.lock().do_whole(|state| {
            let file = state.files.get(&file.node).ok_or(io::ErrorKind::NotFound)?;
            Ok(file.bytes.len() as u64)
        })
    }

    fn sync_file(&self, file: &MemFile) -> io::Result<()> {
        let mut state = self.lock();
        let step = state.step();
        let node = state.files.get_mut(&file.node).ok_or(io::ErrorKind::NotFound)?;
        match step {
            Ok(Step::Whole) if node.flush_failed => Ok(()),
            Ok(Step::Whole) => {
                node.durable_len = node.bytes.len();
                Ok(())
            }
            Ok(Step::TornThen(error)) => {
                node.durable_len += (node.bytes.len() - node.durable_len) / 2;
                node.flush_failed = true;
                Err(error)
            }
            Err(error) => {
                node.flush_failed = true;
                Err(error)
            }
        }
    }

    fn close(&self, _file: MemFile) -> io::Result<()> {
        self.lock().do_whole(|_| Ok(()))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.lock().do_whole(|state| {
            let node = state.find(path)?;
            let at = |time| SystemTime::UNIX_EPOCH + time;
            Ok(match state.files.get(&node) {
                Some(file) => Stat { kind: FileKind::File, len: file.bytes.len() as u64, modified: at(file.modified) },
                None => Stat { kind: FileKind::Folder, len: 0, modified: at(CLOCK_START) },
            })
        })
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.lock().do_whole(|state| {
            let node = state.find_file(from)?;
            let (old, new) = (state.find_slot(from)?, state.find_free_slot(to)?);
            state.change(Change { removes: Some(old), adds: Some((new, node)) });
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.lock().do_whole(|state| {
            state.find_file(path)?;
            let slot = state.find_slot(path)?;
            state.change(Change { removes: Some(slot), adds: None });
            Ok(())
        })
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.lock().do_whole(|state| {
            let slot = state.find_free_slot(path)?;
            if state.free() < BLOCK_BYTES {
                return Err(Errno::NOSPC.into());
            }
            let node = state.new_node();
            state.folders.insert(node, FolderNode::default());
            state.change(Change { removes: None, adds: Some((slot, node)) });
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.lock().do_whole(|state| {
            let node = state.find(path)?;
            if !state.folders.contains_key(&node) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            state.sync_folder(node);
            Ok(())
        })
    }

    fn list_dir(&self, path: &Path, max: usize) -> io::Result<Vec<DirEntry>> {
        self.lock().do_whole(|state| {
            let folder = state.folders.get(&state.find(path)?).ok_or(io::ErrorKind::NotADirectory)?;
            if folder.now.len() > max {
                return Err(io::Error::other(format!("more than {max} entries in one folder")));
            }
            let kind = |node| if state.files.contains_key(node) { FileKind::File } else { FileKind::Folder };
            Ok(folder.now.iter().map(|(name, node)| DirEntry { name: name.clone(), kind: kind(node) }).collect())
        })
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.lock().clock
    }
}

fn power_cut() -> io::Error {
    io::Error::other("the power is out (planned by a test)")
}

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014): small, and the same forever,
/// so that a seed in a bug report stays good.
struct Dice(u64);

impl Dice {
    fn below(&mut self, choices: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The bias is far below what a test could notice; the remainder is below `choices`, so it fits.
        (z % choices.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests;
