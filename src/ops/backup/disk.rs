//! Reading one disk into the repository: a feeder decides for each segment, workers read and cut those that need it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::plan::{Base, Earlier, Reference, SampleError, sample};
use super::source::SourceDisk;
use crate::capture::identity::LayerIdentity;
use crate::disk::cursor::{ExtentCursor, RangeKind};
use crate::disk::stack::Stack;
use crate::disk::{Disk, DiskError, ExtentKind};
use crate::ops::{Control, Event, OpsError, worker_count};
use crate::repo::ids::{BackupId, ChunkId};
use crate::repo::intake::{Intake, SegmentWriter, State};
use crate::repo::manifest::{DiskRecord, Statistics};
use crate::repo::map::{MapShape, NODE_SEGMENTS, encode_ids};
use crate::repo::map_builder::MapBuilder;
use crate::repo::{BackupDisk, RepoError};
use crate::units::GuestOffset;

/// Segments waiting for a worker; they are numbers, the bytes are read by the workers.
const WORK_QUEUE: usize = 64;
/// While one waits for the medium, another cuts and compresses. Each holds a portion of a segment and its blobs, some 3 MiB.
const WORKERS_PER_CORE: usize = 2;

/// What all disks of a backup share.
pub struct Context<'a, 'r> {
    /// Where segments go.
    pub intake: &'a Intake<'r>,
    /// Its counters, and whether a part of it has failed.
    pub state: &'a State,
    /// Events out, interruption in.
    pub control: Control<'a>,
}

/// What became of a disk.
pub struct Outcome {
    /// Its record for the manifest.
    pub record: DiskRecord,
    /// The backup it was built on.
    pub parent: Option<BackupId>,
    /// What was less than asked for.
    pub warnings: Vec<String>,
}

/// What is to be done with one segment.
#[derive(Clone, Copy)]
enum Work {
    /// Read whole.
    Read(u64),
    /// Only what the redo logs hold is read; the rest is as the earlier backup has it.
    Patch(u64),
    /// Read as a sample: it must be as the earlier backup has it.
    Sample(u64),
}

/// What reading a disk counts. Bytes.
#[derive(Default)]
struct Tally {
    read: AtomicU64,
    sampled: AtomicU64,
    unchanged: AtomicU64,
}

/// Reads `disk` into the repository, building on `earlier` where that is proven to be right.
///
/// # Errors
/// [`OpsError::Disk`] if it cannot be read, [`OpsError::Capture`] if it changed meanwhile, [`OpsError::Interrupted`],
/// what the repository says.
pub fn store(context: &Context<'_, '_>, disk: &SourceDisk, earlier: &Earlier) -> Result<Outcome, OpsError> {
    let size = disk.image.size().0;
    let shape = MapShape::new(size).ok_or_else(|| OpsError::TooLarge { slot: disk.slot.clone(), size })?;
    let identities: Vec<LayerIdentity> = disk.image.layers.iter().map(LayerIdentity::of).collect();
    let mut base = earlier.base_of(disk, &identities);
    let mut warnings = std::mem::take(&mut base.warnings);
    let before = Instant::now();
    let counters = &context.state.counters;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (new, known) = (count(&counters.new), count(&counters.deduplicated));

    context.control.tell(Event::Begin { what: &disk.slot, bytes: size });
    let mut pass = Pass::new(context, disk, shape, &base);
    let mut root = pass.run()?;
    if let Err(why) = &root {
        let warning = format!("disk {}: {why}; the earlier backup is not built on, everything was read", disk.slot);
        context.control.tell(Event::Warning(&warning));
        warnings.push(warning);
        base.reference = None;
        pass = Pass::new(context, disk, shape, &base);
        root = pass.run()?;
    }
    let root = root.expect("without a reference there is nothing to distrust");
    context.control.tell(Event::End);

    let base_layer = disk.image.layers.last().expect("an image has at least one layer");
    let record = DiskRecord {
        slot: disk.slot.clone(),
        file_name: disk.named_image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        size,
        root,
        variant: base_layer.variant.clone(),
        properties: base_layer.properties.clone(),
        layers: serde_json::to_value(&identities).expect("plain data serialises"),
        statistics: Statistics {
            size,
            read: count(&pass.tally.read),
            sampled: count(&pass.tally.sampled),
            new: count(&counters.new) - new,
            deduplicated: count(&counters.deduplicated) - known,
            unchanged: count(&pass.tally.unchanged),
            stored: None,
            duration_ms: u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX),
        },
    };
    Ok(Outcome { record, parent: base.reference.map(|reference| reference.backup), warnings })
}

/// One pass over a disk.
struct Pass<'a, 'r> {
    context: &'a Context<'a, 'r>,
    slot: &'a str,
    source: Stack,
    shape: MapShape,
    base: &'a Base,
    map: Mutex<MapBuilder>,
    tally: Tally,
    /// The run's new bytes that were told so far.
    new_told: AtomicU64,
    /// Why what the reference says is not to be trusted: a sample differed, or its map cannot be read.
    distrusted: OnceLock<String>,
    failure: Mutex<Option<OpsError>>,
}

impl<'a, 'r> Pass<'a, 'r> {
    fn new(context: &'a Context<'a, 'r>, disk: &'a SourceDisk, shape: MapShape, base: &'a Base) -> Pass<'a, 'r> {
        Pass {
            context,
            slot: &disk.slot,
            source: disk.image.disk(),
            shape,
            base,
            map: Mutex::new(MapBuilder::new(shape)),
            tally: Tally::default(),
            new_told: AtomicU64::new(context.state.counters.new.load(Ordering::Relaxed)),
            distrusted: OnceLock::new(),
            failure: Mutex::new(None),
        }
    }

    /// Gives the root's id, or why the reference is not to be trusted, and everything is to be read.
    fn run(&mut self) -> Result<Result<ChunkId, String>, OpsError> {
        let (work_tx, work_rx) = bounded(WORK_QUEUE);
        let this = &*self;
        thread::scope(|scope| {
            for _ in 0..WORKERS_PER_CORE * worker_count() {
                let work = work_rx.clone();
                scope.spawn(move || this.note(this.read_all(&work)));
            }
            drop(work_rx);
            let mut writer = this.context.intake.writer();
            this.note(this.feed(&work_tx, &mut writer));
            // Also of a pass that is not finished: the next one takes what was gathered for stored.
            this.note(writer.flush().map_err(OpsError::from));
            drop(work_tx);
        });
        let failure = lock(&self.failure).take();
        if let (Some(why), None | Some(OpsError::Repo(RepoError::GivenUp))) = (self.distrusted.take(), &failure) {
            return Ok(Err(why));
        }
        if let Some(error) = failure {
            return Err(error);
        }
        // A pack writer failed, and nobody of the pass met it: it stopped half-way all the same.
        if self.context.state.has_failed() {
            return Err(RepoError::GivenUp.into());
        }
        let map =
            std::mem::replace(self.map.get_mut().unwrap_or_else(PoisonError::into_inner), MapBuilder::new(self.shape));
        let nodes = map.root().expect("every segment was fed or the pass has failed");
        if nodes.iter().all(|node| *node == ChunkId::ZERO) {
            return Ok(Ok(ChunkId::ZERO));
        }
        let mut writer = self.context.intake.writer();
        let root = writer.store_map(&encode_ids(&nodes))?;
        writer.flush()?;
        Ok(Ok(root))
    }

    /// Keeps the first error that is a cause; giving up because another part failed is none.
    fn note(&self, outcome: Result<(), OpsError>) {
        if let Err(error) = outcome {
            let mut failure = lock(&self.failure);
            if failure.is_none() || matches!(*failure, Some(OpsError::Repo(RepoError::GivenUp))) {
                *failure = Some(error);
            }
        }
    }

    fn distrust(&self, why: &str) {
        self.distrusted.get_or_init(|| why.to_owned());
    }

    /// A reference whose map is damaged is not worth the backup: only an error of the store itself is one.
    fn distrust_map(&self, error: RepoError) -> Result<(), OpsError> {
        match error {
            RepoError::Damaged { .. } | RepoError::MissingChunk { .. } => {
                self.distrust(&format!("the earlier backup's map cannot be read ({error})"));
                Ok(())
            }
            other => Err(other.into()),
        }
    }

    fn stopped(&self) -> bool {
        self.distrusted.get().is_some() || lock(&self.failure).is_some() || self.context.state.has_failed()
    }

    fn disk_error(&self, source: DiskError) -> OpsError {
        OpsError::Disk { slot: self.slot.to_owned(), source }
    }

    /// Decides for every segment: taken over, zero, or to be read.
    fn feed(&self, work: &Sender<Work>, writer: &mut SegmentWriter<'_, '_>) -> Result<(), OpsError> {
        let samples: BTreeSet<u64> = match self.base.reference.as_ref().map(sample) {
            Some(Ok(drawn)) => drawn.into_iter().collect(),
            Some(Err(SampleError::Map(error))) => return self.distrust_map(error),
            Some(Err(SampleError::Source(error))) => return Err(self.disk_error(error)),
            None => BTreeSet::new(),
        };
        let mut source = ExtentCursor::new(&self.source);
        let changes = self.base.reference.as_ref().and_then(|reference| reference.changes.as_ref());
        let mut changes = changes.map(|stack| ExtentCursor::new(stack));
        for node in 0..self.shape.nodes() {
            if self.stopped() {
                return Ok(());
            }
            if self.context.control.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let first = node * NODE_SEGMENTS;
            let last = first + self.shape.segments_in_node(node);
            let bytes = self.shape.segment_at(first)..self.shape.segment_at(last).min(self.shape.disk_bytes());
            if let Some(reference) = &self.base.reference {
                let changed = match &mut changes {
                    Some(cursor) => cursor.kind_of(bytes.clone()).map_err(|e| self.disk_error(e))? != RangeKind::Hole,
                    None => false,
                };
                let sampled = samples.range(first..last).next().is_some();
                if !changed && !sampled {
                    self.take_node(&reference.disk, node, bytes.end - bytes.start);
                    continue;
                }
            }
            for segment in first..last {
                self.feed_segment(segment, &samples, &mut changes, &mut source, work, writer)?;
            }
        }
        Ok(())
    }

    fn take_node(&self, reference: &BackupDisk, node: u64, bytes: u64) {
        let id = reference.nodes()[usize::try_from(node).expect("a node of this disk")];
        lock(&self.map).set_node(node, id);
        self.skip(bytes);
    }

    fn skip(&self, bytes: u64) {
        self.tally.unchanged.fetch_add(bytes, Ordering::Relaxed);
        self.context.control.tell(Event::Skipped(bytes));
    }

    fn feed_segment(
        &self,
        segment: u64,
        samples: &BTreeSet<u64>,
        changes: &mut Option<ExtentCursor<'_>>,
        source: &mut ExtentCursor<'_>,
        work: &Sender<Work>,
        writer: &mut SegmentWriter<'_, '_>,
    ) -> Result<(), OpsError> {
        let at = self.shape.segment_at(segment);
        let len = self.shape.segment_len(segment) as u64;
        if let Some(reference) = &self.base.reference {
            let changed = match changes {
                Some(cursor) => cursor.kind_of(at..at + len).map_err(|e| self.disk_error(e))? != RangeKind::Hole,
                None => false,
            };
            if changed {
                return self.send(work, Work::Patch(segment));
            }
            let list = match reference.disk.list_id(segment) {
                Ok(list) => list,
                Err(error) => return self.distrust_map(error),
            };
            self.skip(len);
            self.settle(writer, segment, list)?;
            return if samples.contains(&segment) { self.send(work, Work::Sample(segment)) } else { Ok(()) };
        }
        if source.kind_of(at..at + len).map_err(|e| self.disk_error(e))? == RangeKind::Data {
            return self.send(work, Work::Read(segment));
        }
        self.context.control.tell(Event::Skipped(len));
        self.settle(writer, segment, ChunkId::ZERO)
    }

    fn send(&self, work: &Sender<Work>, item: Work) -> Result<(), OpsError> {
        // The workers go only when all of them have failed: the cause is theirs.
        work.send(item).map_err(|_| OpsError::Repo(RepoError::GivenUp))
    }

    /// Notes a segment's list; stores the node that it completes.
    fn settle(&self, writer: &mut SegmentWriter<'_, '_>, segment: u64, list: ChunkId) -> Result<(), OpsError> {
        let complete = lock(&self.map).set_segment(segment, list);
        if let Some((node, lists)) = complete {
            let zero = lists.iter().all(|list| *list == ChunkId::ZERO);
            let id = if zero { ChunkId::ZERO } else { writer.store_map(&encode_ids(&lists))? };
            lock(&self.map).set_node(node, id);
        }
        Ok(())
    }

    /// A worker: reads, cuts and stores segments until there are no more.
    fn read_all(&self, work: &Receiver<Work>) -> Result<(), OpsError> {
        let mut writer = self.context.intake.writer();
        let mut sample = Vec::new();
        for item in work {
            if self.stopped() {
                break; // what was gathered is sent all the same: a second pass takes it for stored
            }
            if self.context.control.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let Some(reference) = &self.base.reference else {
                self.read(&mut writer, item.segment())?;
                continue;
            };
            match item {
                Work::Read(segment) => self.read(&mut writer, segment)?,
                Work::Patch(segment) => self.patch(&mut writer, segment, reference)?,
                Work::Sample(segment) => {
                    sample.resize(self.shape.segment_len(segment), 0);
                    if !self.is_as_recorded(segment, &reference.disk, &mut sample)? {
                        self.distrust("a sample of what should be unchanged has changed");
                    }
                }
            }
        }
        Ok(writer.flush()?)
    }

    /// Reads a whole segment from the source and stores it.
    fn read(&self, writer: &mut SegmentWriter<'_, '_>, segment: u64) -> Result<(), OpsError> {
        let start = self.shape.segment_at(segment);
        let recorded = self.base.guess.as_ref().and_then(|disk| disk.list(segment).ok());
        let recorded = recorded.as_ref().map_or(&[][..], |list| list.entries());
        writer.append(0..self.shape.segment_len(segment), recorded, |at, part| {
            let read = self.read_source(start + at as u64, part)?;
            self.tally.read.fetch_add(read, Ordering::Relaxed);
            Ok::<_, OpsError>(())
        })?;
        self.settle_list(writer, segment)
    }

    /// Stores a segment of which the redo logs hold a part: the chunks they touch are cut anew, all others stay. The
    /// rest of a touched chunk comes from the repository, or, should that fail, from the source.
    fn patch(&self, writer: &mut SegmentWriter<'_, '_>, segment: u64, reference: &Reference) -> Result<(), OpsError> {
        let Some(changes) = &reference.changes else { return self.read(writer, segment) };
        let Ok(list) = reference.disk.list(segment) else { return self.read(writer, segment) };
        let start = self.shape.segment_at(segment);
        let mut cursor = ExtentCursor::new(changes);
        let mut entries = list.entries().iter().copied().peekable();
        let mut at = 0usize;
        while let Some(entry) = entries.next() {
            let from = at;
            at += entry.len() as usize;
            let mut touched = |from: usize, to: usize| {
                let kind = cursor.kind_of(start + from as u64..start + to as u64);
                kind.map(|kind| kind != RangeKind::Hole).map_err(|error| self.disk_error(error))
            };
            if !touched(from, at)? {
                writer.append_entry(entry);
                continue;
            }
            // Neighbouring touched entries are cut as one run of bytes.
            while let Some(next) = entries.peek() {
                let end = at + next.len() as usize;
                if !touched(at, end)? {
                    break;
                }
                at = end;
                entries.next();
            }
            writer.append(from..at, &[], |at, part| {
                let read = self.read_patched(segment, at, part, reference, changes)?;
                self.tally.read.fetch_add(read, Ordering::Relaxed);
                self.tally.unchanged.fetch_add(part.len() as u64 - read.min(part.len() as u64), Ordering::Relaxed);
                Ok::<_, OpsError>(())
            })?;
        }
        self.settle_list(writer, segment)
    }

    /// Fills `bytes`, which begin `skip` bytes into `segment`; gives how many of them were read from the source.
    fn read_patched(
        &self,
        segment: u64,
        skip: usize,
        bytes: &mut [u8],
        reference: &Reference,
        changes: &Stack,
    ) -> Result<u64, OpsError> {
        let start = self.shape.segment_at(segment) + skip as u64;
        let mut read = 0;
        for_each_extent(changes, start, bytes, |kind, here, part| {
            match kind {
                ExtentKind::Zero => part.fill(0),
                ExtentKind::Hole => {
                    let within = skip + usize::try_from(here.0 - start).expect("inside a segment");
                    if reference.disk.read_segment(segment, within, part).is_err() {
                        read += self.read_source(here.0, part).map_err(|error| match error {
                            OpsError::Disk { source, .. } => source,
                            other => DiskError::Backing(Box::new(other)),
                        })?;
                    }
                }
                ExtentKind::Data => {
                    changes.read_at(here, part)?;
                    read += part.len() as u64;
                }
            }
            Ok(())
        })
        .map_err(|error| self.disk_error(error))?;
        Ok(read)
    }

    /// Whether the source still holds in `segment` what the earlier backup recorded. `bytes` is room for it.
    fn is_as_recorded(&self, segment: u64, recorded: &BackupDisk, bytes: &mut [u8]) -> Result<bool, OpsError> {
        let read = self.read_source(self.shape.segment_at(segment), bytes)?;
        self.tally.sampled.fetch_add(read, Ordering::Relaxed);
        recorded.holds(segment, bytes).or_else(|error| {
            self.distrust_map(error)?;
            Ok(false)
        })
    }

    fn settle_list(&self, writer: &mut SegmentWriter<'_, '_>, segment: u64) -> Result<(), OpsError> {
        let list = writer.finish_list()?;
        self.settle(writer, segment, list)?;
        self.context.control.tell(Event::Done(self.shape.segment_len(segment) as u64));
        self.tell_new();
        Ok(())
    }

    /// Tells what has become new since it was last told, by whichever worker.
    fn tell_new(&self) {
        let new = self.context.state.counters.new.load(Ordering::Relaxed);
        let told = self.new_told.fetch_max(new, Ordering::Relaxed);
        if new > told {
            self.context.control.tell(Event::New(new - told));
        }
    }

    /// Fills `bytes` from `start` on; gives how many of them were data, and so were asked of the medium.
    fn read_source(&self, start: u64, bytes: &mut [u8]) -> Result<u64, OpsError> {
        let mut read = 0;
        for_each_extent(&self.source, start, bytes, |kind, here, part| {
            match kind {
                ExtentKind::Data => {
                    self.source.read_at(here, part)?;
                    read += part.len() as u64;
                }
                ExtentKind::Hole | ExtentKind::Zero => part.fill(0),
            }
            Ok(())
        })
        .map_err(|error| self.disk_error(error))?;
        Ok(read)
    }
}

impl Work {
    fn segment(self) -> u64 {
        match self {
            Work::Read(segment) | Work::Patch(segment) | Work::Sample(segment) => segment,
        }
    }
}

/// Calls `each` with the parts of `bytes`, which begin at `start` of `disk`, that lie in one extent each.
fn for_each_extent(
    disk: &dyn Disk,
    start: u64,
    bytes: &mut [u8],
    mut each: impl FnMut(ExtentKind, GuestOffset, &mut [u8]) -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    let mut at = start;
    let mut rest = bytes;
    while !rest.is_empty() {
        let extent = disk.extent_at(GuestOffset(at))?;
        let len = usize::try_from(extent.len.0).map_or(rest.len(), |len| len.min(rest.len()));
        let (part, later) = rest.split_at_mut(len);
        each(extent.kind, GuestOffset(at), part)?;
        at += len as u64;
        rest = later;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
