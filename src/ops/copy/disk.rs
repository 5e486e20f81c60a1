//! Copying one disk: a feeder compares the backup's map with that of the earlier one, workers read and cut what differs.
//!
//! A node or segment with the id that it has in the earlier backup is the same bytes, as ids are keyed hashes: what the
//! earlier copy has in its place is taken over, and neither side is read. So a copy costs what changed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::{CopyError, destination, source};
use crate::chunker::SEGMENT_BYTES;
use crate::ops::{Control, Event, worker_count};
use crate::repo::ids::ChunkId;
use crate::repo::intake::{Intake, SegmentWriter, State};
use crate::repo::manifest::Statistics;
use crate::repo::map::{ListEntry, MapShape, NODE_SEGMENTS, encode_ids};
use crate::repo::map_builder::MapBuilder;
use crate::repo::{BackupDisk, RepoError};

/// Segments waiting for a worker; they are numbers, the bytes are read by the workers.
const WORK_QUEUE: usize = 64;

/// What all disks of a copy share.
pub struct Context<'a, 'r> {
    /// Where segments go.
    pub intake: &'a Intake<'r>,
    /// Its counters, and whether a part of it has failed.
    pub state: &'a State,
    /// Events out, interruption in.
    pub control: Control<'a>,
}

/// The same disk of an earlier backup that was copied before.
pub struct Reference {
    /// As the source has it.
    pub source: BackupDisk,
    /// As the destination has it.
    pub copy: BackupDisk,
}

/// Copies `disk`; gives the copy's root and what it cost.
///
/// # Errors
/// [`CopyError`].
pub fn copy(
    context: &Context<'_, '_>,
    slot: &str,
    disk: &BackupDisk,
    reference: Option<&Reference>,
) -> Result<(ChunkId, Statistics), CopyError> {
    let (before, size) = (Instant::now(), disk.shape().disk_bytes());
    let counters = &context.state.counters;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (new, known) = (count(&counters.new), count(&counters.deduplicated));
    context.control.tell(Event::Begin { what: slot, bytes: size });
    let mut pass = Pass {
        context,
        source: disk,
        shape: disk.shape(),
        reference,
        map: Mutex::new(MapBuilder::new(disk.shape())),
        read: AtomicU64::new(0),
        unchanged: AtomicU64::new(0),
        new_told: AtomicU64::new(new),
        warned: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let root = pass.run()?;
    context.control.tell(Event::End);
    let statistics = Statistics {
        size,
        read: count(&pass.read),
        sampled: 0,
        new: count(&counters.new) - new,
        deduplicated: count(&counters.deduplicated) - known,
        unchanged: count(&pass.unchanged),
        stored: None,
        duration_ms: u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    Ok((root, statistics))
}

struct Pass<'a, 'r> {
    context: &'a Context<'a, 'r>,
    source: &'a BackupDisk,
    shape: MapShape,
    reference: Option<&'a Reference>,
    map: Mutex<MapBuilder>,
    /// Bytes of the source's chunks that were read.
    read: AtomicU64,
    /// Bytes taken over from the earlier copy.
    unchanged: AtomicU64,
    /// The run's new bytes that were told so far.
    new_told: AtomicU64,
    /// Whether it was said that the reference cannot be used everywhere.
    warned: AtomicBool,
    failure: Mutex<Option<CopyError>>,
}

/// The lists of a node: of the backup, and of the earlier one here and there.
struct Lists {
    wanted: Arc<Vec<ChunkId>>,
    earlier: Option<EarlierLists>,
}

struct EarlierLists {
    here: Arc<Vec<ChunkId>>,
    there: Arc<Vec<ChunkId>>,
}

impl Pass<'_, '_> {
    /// Gives the root's id.
    fn run(&mut self) -> Result<ChunkId, CopyError> {
        let (work_tx, work_rx) = bounded(WORK_QUEUE);
        let this = &*self;
        thread::scope(|scope| {
            for _ in 0..worker_count() {
                let work = work_rx.clone();
                scope.spawn(move || this.note(this.read_all(&work)));
            }
            drop(work_rx);
            let mut writer = this.context.intake.writer();
            this.note(this.feed(&work_tx, &mut writer));
            this.note(writer.flush().map_err(destination));
            drop(work_tx);
        });
        if let Some(error) = lock(&self.failure).take() {
            return Err(error);
        }
        // A pack writer failed, and nobody of the pass met it: it stopped half-way all the same.
        if self.context.state.has_failed() {
            return Err(destination(RepoError::GivenUp));
        }
        let map =
            std::mem::replace(self.map.get_mut().unwrap_or_else(PoisonError::into_inner), MapBuilder::new(self.shape));
        let nodes = map.root().expect("every segment was fed or the pass has failed");
        if nodes.iter().all(|node| *node == ChunkId::ZERO) {
            return Ok(ChunkId::ZERO);
        }
        let mut writer = self.context.intake.writer();
        let root = writer.store_map(&encode_ids(&nodes)).map_err(destination)?;
        writer.flush().map_err(destination)?;
        Ok(root)
    }

    /// Keeps the first error that is a cause; giving up because another part failed is none.
    fn note(&self, outcome: Result<(), CopyError>) {
        if let Err(error) = outcome {
            let mut failure = lock(&self.failure);
            if failure.is_none() || matches!(*failure, Some(CopyError::Destination(RepoError::GivenUp))) {
                *failure = Some(error);
            }
        }
    }

    fn stopped(&self) -> bool {
        lock(&self.failure).is_some() || self.context.state.has_failed()
    }

    /// Decides for every segment: taken over, zero, or to be read.
    fn feed(&self, work: &Sender<u64>, writer: &mut SegmentWriter<'_, '_>) -> Result<(), CopyError> {
        for node in 0..self.shape.nodes() {
            if self.stopped() {
                return Ok(());
            }
            if self.context.control.interrupted() {
                return Err(CopyError::Interrupted);
            }
            let first = node * NODE_SEGMENTS;
            let last = first + self.shape.segments_in_node(node);
            let at = usize::try_from(node).expect("at most 32768 nodes");
            let same = self.reference.filter(|reference| reference.source.nodes()[at] == self.source.nodes()[at]);
            if let Some(reference) = same {
                lock(&self.map).set_node(node, reference.copy.nodes()[at]);
                let end = self.shape.segment_at(last).min(self.shape.disk_bytes());
                self.skip(end - self.shape.segment_at(first));
                continue;
            }
            let lists = self.lists(node)?;
            for (segment, number) in (first..last).zip(0usize..) {
                let wanted = lists.wanted[number];
                let len = self.shape.segment_len(segment) as u64;
                if wanted == ChunkId::ZERO {
                    self.context.control.tell(Event::Skipped(len));
                    self.settle(writer, segment, ChunkId::ZERO)?;
                    continue;
                }
                match &lists.earlier {
                    Some(earlier) if earlier.here[number] == wanted => {
                        self.skip(len);
                        self.settle(writer, segment, earlier.there[number])?;
                    }
                    // The workers go only when all of them have failed: the cause is theirs.
                    _ => work.send(segment).map_err(|_| CopyError::Destination(RepoError::GivenUp))?,
                }
            }
        }
        Ok(())
    }

    fn lists(&self, node: u64) -> Result<Lists, CopyError> {
        let wanted = self.source.node(node).map_err(source)?;
        let Some(reference) = self.reference else { return Ok(Lists { wanted, earlier: None }) };
        let here = reference.source.node(node);
        let earlier = here.and_then(|here| Ok(EarlierLists { here, there: reference.copy.node(node)? }));
        // What cannot be compared is read.
        let earlier = earlier.inspect_err(|error| {
            if !self.warned.swap(true, Ordering::Relaxed) {
                let warning =
                    format!("the map of an earlier copy cannot be read, more is copied than changed: {error}");
                self.context.control.tell(Event::Warning(&warning));
            }
        });
        Ok(Lists { wanted, earlier: earlier.ok() })
    }

    fn skip(&self, bytes: u64) {
        self.unchanged.fetch_add(bytes, Ordering::Relaxed);
        self.context.control.tell(Event::Skipped(bytes));
    }

    /// Notes a segment's list; stores the node that it completes.
    fn settle(&self, writer: &mut SegmentWriter<'_, '_>, segment: u64, list: ChunkId) -> Result<(), CopyError> {
        let complete = lock(&self.map).set_segment(segment, list);
        if let Some((node, lists)) = complete {
            let zero = lists.iter().all(|list| *list == ChunkId::ZERO);
            let id = if zero { ChunkId::ZERO } else { writer.store_map(&encode_ids(&lists)).map_err(destination)? };
            lock(&self.map).set_node(node, id);
        }
        Ok(())
    }

    /// A worker: reads, cuts and stores segments until there are no more.
    fn read_all(&self, work: &Receiver<u64>) -> Result<(), CopyError> {
        let mut writer = self.context.intake.writer();
        let mut buffer = vec![0; SEGMENT_BYTES];
        for segment in work {
            if self.stopped() {
                break;
            }
            if self.context.control.interrupted() {
                return Err(CopyError::Interrupted);
            }
            let bytes = &mut buffer[..self.shape.segment_len(segment)];
            self.source.read_segment(segment, 0, bytes).map_err(source)?;
            let list = self.source.list(segment).map_err(source)?;
            let data = list.entries().iter().filter(|entry| matches!(entry, ListEntry::Chunk(..)));
            self.read.fetch_add(data.map(|entry| u64::from(entry.len())).sum(), Ordering::Relaxed);
            let list = writer.store_segment(bytes).map_err(destination)?;
            self.settle(&mut writer, segment, list)?;
            self.context.control.tell(Event::Done(bytes.len() as u64));
            self.tell_new();
        }
        writer.flush().map_err(destination)
    }

    /// Tells what has become new since it was last told, by whichever worker.
    fn tell_new(&self) {
        let new = self.context.state.counters.new.load(Ordering::Relaxed);
        let told = self.new_told.fetch_max(new, Ordering::Relaxed);
        if new > told {
            self.context.control.tell(Event::New(new - told));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
