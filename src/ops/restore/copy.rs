//! Copying a backup's disk to its target: segments are put together in parallel, and written as they come or, for
//! formats that need it, in order.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::bounded;
use twox_hash::XxHash3_64;

use super::OpenTarget;
use crate::chunker::{SEGMENT_BYTES, is_zero};
use crate::formats::raw::writer::RawInPlaceSink;
use crate::formats::sink::{DiskSink, WriteOrder};
use crate::ops::{Control, Event, OpsError, worker_count};
use crate::repo::BackupDisk;
use crate::repo::ids::ChunkId;
use crate::units::GuestOffset;

/// What is compared, and written, as one when a target is brought up to date.
const BLOCK_BYTES: usize = 64 << 10;
/// Finished segments that each worker may be ahead of the writer, for formats that are written in order.
const SEGMENTS_AHEAD: usize = 1;

/// What was copied, for the report and for the verification.
pub struct Copied {
    /// For each segment a digest of the bytes it must read back as; 0 for zeros.
    digests: Vec<AtomicU64>,
    written: AtomicU64,
    unchanged: AtomicU64,
}

impl Copied {
    /// Bytes written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes that the target held already.
    pub fn unchanged(&self) -> u64 {
        self.unchanged.load(Ordering::Relaxed)
    }

    /// Notes what `segment` must read back as.
    fn note(&self, segment: u64, bytes: &[u8]) {
        self.place(segment).store(digest(bytes), Ordering::Relaxed);
    }

    fn place(&self, segment: u64) -> &AtomicU64 {
        &self.digests[usize::try_from(segment).expect("a segment of this disk")]
    }

    /// The digest that `segment` must have; `None` if it must be zeros.
    pub fn digest(&self, segment: u64) -> Option<u64> {
        Some(self.place(segment).load(Ordering::Relaxed)).filter(|digest| *digest != 0)
    }
}

/// XXH3 of a segment, never 0. It guards against our own mistakes and the medium's, not against a forger (what is written
/// was authenticated before); 8 bytes a segment keep it at 20 MiB for a disk of 10 TiB.
pub fn digest(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes).max(1)
}

/// Copies all of `disk`.
///
/// # Errors
/// The first error of any part.
pub fn copy(disk: &BackupDisk, slot: &str, target: &OpenTarget, control: Control<'_>) -> Result<Copied, OpsError> {
    let segments = disk.shape().segments();
    let digests = (0..segments).map(|_| AtomicU64::new(0)).collect();
    let copied = Copied { digests, written: AtomicU64::new(0), unchanged: AtomicU64::new(0) };
    control.tell(Event::Begin { what: slot, bytes: disk.shape().disk_bytes() });
    let (writing, failed, failure) = (Mutex::new(()), AtomicBool::new(false), Mutex::new(None));
    let job = Job { disk, target, control, copied: &copied, writing, failed, failure };
    match target {
        OpenTarget::New(sink) if sink.order() == WriteOrder::Ascending => job.run_in_order(sink.as_ref()),
        _ => job.run_in_any_order(),
    }
    let failure = job.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    control.tell(Event::End);
    failure.map_or(Ok(copied), Err)
}

struct Job<'a> {
    disk: &'a BackupDisk,
    target: &'a OpenTarget,
    control: Control<'a>,
    copied: &'a Copied,
    writing: Mutex<()>,
    failed: AtomicBool,
    failure: Mutex<Option<OpsError>>,
}

impl Job<'_> {
    fn note(&self, outcome: Result<(), OpsError>) {
        if let Err(error) = outcome {
            self.failed.store(true, Ordering::Relaxed);
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    fn go_on(&self) -> Result<bool, OpsError> {
        if self.control.interrupted() {
            return Err(OpsError::Interrupted);
        }
        Ok(!self.failed.load(Ordering::Relaxed))
    }

    fn run_in_any_order(&self) {
        let next = AtomicU64::new(0);
        thread::scope(|scope| {
            // One more than there are cores: while one writes, the others unpack.
            for _ in 0..=worker_count() {
                scope.spawn(|| self.note(self.copy_segments(&next)));
            }
        });
    }

    fn copy_segments(&self, next: &AtomicU64) -> Result<(), OpsError> {
        let mut wanted = vec![0; SEGMENT_BYTES];
        let mut present = Vec::new();
        while self.go_on()? {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= self.disk.shape().segments() {
                break;
            }
            self.copy_segment(segment, &mut wanted, &mut present)?;
            self.control.tell(Event::Done(self.disk.shape().segment_len(segment) as u64));
        }
        Ok(())
    }

    fn copy_segment(&self, segment: u64, wanted: &mut [u8], present: &mut Vec<u8>) -> Result<(), OpsError> {
        let at = self.disk.shape().segment_at(segment);
        let len = self.disk.shape().segment_len(segment);
        let wanted = &mut wanted[..len];
        match self.target {
            OpenTarget::InPlace(sink) => {
                present.resize(SEGMENT_BYTES, 0);
                let present = &mut present[..len];
                sink.read_at(GuestOffset(at), present)?;
                self.bring_up_to_date(sink, segment, wanted, present)
            }
            OpenTarget::New(sink) => {
                self.fill(segment, wanted)?.map_or(Ok(()), |data| self.put(sink.as_ref(), at, data))
            }
            OpenTarget::Device(sink) => match self.fill(segment, wanted)? {
                Some(data) => self.put(sink, at, data),
                None => Ok(sink.write_zeros(GuestOffset(at), len as u64)?),
            },
        }
    }

    /// The bytes of a segment; `None` if they are zeros. Notes the digest.
    fn fill<'b>(&self, segment: u64, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, OpsError> {
        if self.disk.list_id(segment)? == ChunkId::ZERO {
            return Ok(None);
        }
        self.disk.read_segment(segment, 0, buffer)?;
        self.copied.note(segment, buffer);
        Ok(Some(buffer))
    }

    fn put(&self, sink: &dyn DiskSink, at: u64, data: &[u8]) -> Result<(), OpsError> {
        {
            // The kernel lets one thread at a time write to a file and has the others spin: here they sleep.
            let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            sink.write_at(GuestOffset(at), data)?;
        }
        self.copied.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the blocks in which the target differs. If every chunk is there already, the repository is not even read.
    fn bring_up_to_date(
        &self,
        sink: &RawInPlaceSink,
        segment: u64,
        wanted: &mut [u8],
        present: &[u8],
    ) -> Result<(), OpsError> {
        let len = present.len() as u64;
        let at = self.disk.shape().segment_at(segment);
        if self.disk.holds(segment, present)? {
            if self.disk.list_id(segment)? != ChunkId::ZERO {
                self.copied.note(segment, present);
            }
            self.copied.unchanged.fetch_add(len, Ordering::Relaxed);
            return Ok(());
        }
        let Some(wanted) = self.fill(segment, wanted)? else {
            sink.write_zeros(GuestOffset(at), len)?;
            self.copied.written.fetch_add(len, Ordering::Relaxed);
            return Ok(());
        };
        let blocks = wanted.chunks(BLOCK_BYTES).zip(present.chunks(BLOCK_BYTES));
        for (number, (wanted, present)) in blocks.enumerate() {
            let here = at + (number * BLOCK_BYTES) as u64;
            if wanted == present {
                self.copied.unchanged.fetch_add(wanted.len() as u64, Ordering::Relaxed);
            } else if is_zero(wanted) {
                sink.write_zeros(GuestOffset(here), wanted.len() as u64)?;
                self.copied.written.fetch_add(wanted.len() as u64, Ordering::Relaxed);
            } else {
                self.put(sink, here, wanted)?;
            }
        }
        Ok(())
    }

    /// Worker `w` of `n` prepares segments w, w + n, w + 2n …; the writer takes them from the workers in turn.
    fn run_in_order(&self, sink: &dyn DiskSink) {
        let workers = worker_count() as u64;
        let segments = self.disk.shape().segments();
        thread::scope(|scope| {
            let queues: Vec<_> = (0..workers)
                .map(|worker| {
                    let (tx, rx) = bounded(SEGMENTS_AHEAD);
                    scope.spawn(move || {
                        let prepare = || -> Result<(), OpsError> {
                            let mut segment = worker;
                            while segment < segments && self.go_on()? {
                                let mut buffer = vec![0; self.disk.shape().segment_len(segment)];
                                let data = self.fill(segment, &mut buffer)?.is_some();
                                if tx.send(data.then_some(buffer)).is_err() {
                                    break; // the writer has failed; its error is the one that counts
                                }
                                segment += workers;
                            }
                            Ok(())
                        };
                        self.note(prepare());
                    });
                    rx
                })
                .collect();
            self.note(self.write_in_order(sink, queues));
        });
    }

    fn write_in_order(
        &self,
        sink: &dyn DiskSink,
        queues: Vec<crossbeam_channel::Receiver<Option<Vec<u8>>>>,
    ) -> Result<(), OpsError> {
        for segment in 0..self.disk.shape().segments() {
            let queue = &queues[usize::try_from(segment % queues.len() as u64).expect("a few queues")];
            let Ok(prepared) = queue.recv() else { return Ok(()) }; // that worker has failed and noted why
            if let Some(data) = prepared {
                self.put(sink, self.disk.shape().segment_at(segment), &data)?;
            }
            self.control.tell(Event::Done(self.disk.shape().segment_len(segment) as u64));
        }
        Ok(())
    }
}
