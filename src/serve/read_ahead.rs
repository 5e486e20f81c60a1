//! Reading ahead: whoever reads a disk from front to back finds the next piece already at hand, and whoever reads it here
//! and there what leads to the pieces.
//!
//! A disk behind this wrapper is asked a second time for what it was asked ahead, so it must keep what it decoded: a
//! backup's disk does, in the repository's cache of blobs. The pieces that readers are at are told apart by where the next
//! read of each would begin; a read that continues one moves it on, any other begins a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::disk::{Disk, DiskError, Extent, check_range};
use crate::units::{ByteLen, GuestOffset};

/// How far ahead of a reader the disk is asked at most, and never further than the reader has come: who reads a small file
/// will not read what lies behind it.
const WINDOW_BYTES: u64 = 4 << 20;
/// What one request ahead asks for: a few blobs.
const PIECE_BYTES: u64 = 256 << 10;
/// Readers told apart; the one that moved least lately makes room.
const STREAMS: usize = 32;
/// A read this far behind or ahead of where a reader is still counts as its next: the kernel sends reads out of order.
const SLACK_BYTES: u64 = 512 << 10;
/// Requests that wait; more are dropped, they are only a favour.
const QUEUE: usize = 64;

/// Work that makes scattered reads of a disk cheaper. It ends early once it is told that nobody wants it any more.
pub type Preparation = Box<dyn FnOnce(&dyn Fn() -> bool) + Send>;

/// The threads that ask ahead, for any number of disks.
pub struct ReadAhead {
    queue: Sender<Request>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a thread is to do next.
enum Request {
    /// To ask for what somebody will read.
    Piece {
        disk: Arc<dyn Disk>,
        at: u64,
        len: usize,
    },
    Preparation(Preparation),
    End,
}

/// A disk with readers' places remembered.
struct Ahead {
    disk: Arc<dyn Disk>,
    queue: Sender<Request>,
    streams: Mutex<Vec<Stream>>,
    /// Until it was begun.
    preparation: Mutex<Option<Preparation>>,
}

/// One reader.
struct Stream {
    /// Where it began.
    begin: u64,
    /// Where its next read would begin.
    next: u64,
    /// Up to where the disk was asked ahead for it.
    asked: u64,
    /// How many reads in a row went on where the one before had ended.
    run: u32,
}

impl ReadAhead {
    /// Starts `threads` threads.
    pub fn start(threads: usize) -> ReadAhead {
        let (queue, requests) = crossbeam_channel::bounded(QUEUE);
        let stopped = Arc::new(AtomicBool::new(false));
        let threads = (0..threads).map(|_| {
            let (requests, stopped) = (requests.clone(), Arc::clone(&stopped));
            std::thread::spawn(move || serve(&requests, &stopped))
        });
        let threads = threads.collect();
        ReadAhead { queue, stopped, threads }
    }

    /// `disk`, read ahead of its readers.
    pub fn over(&self, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        self.over_prepared(disk, None)
    }

    /// The same for a disk that is prepared as soon as it is read in more than one place.
    pub fn over_prepared(&self, disk: Arc<dyn Disk>, preparation: Option<Preparation>) -> Arc<dyn Disk> {
        let (queue, streams, preparation) = (self.queue.clone(), Mutex::default(), Mutex::new(preparation));
        Arc::new(Ahead { disk, queue, streams, preparation })
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Disks may outlive us and hold the queue open: each thread is woken to see that it is over.
        for _ in &self.threads {
            let _ = self.queue.send(Request::End); // fails only if all threads are gone
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a thread that panicked has said so already
        }
    }
}

fn serve(requests: &Receiver<Request>, stopped: &AtomicBool) {
    let is_wanted = || !stopped.load(Ordering::Relaxed);
    let mut scratch = Vec::new();
    while let Ok(request) = requests.recv()
        && is_wanted()
    {
        match request {
            Request::Piece { disk, at, len } => {
                scratch.resize(scratch.len().max(len), 0);
                // Nobody asked for it yet: whoever does will meet the fault again, and be told.
                let _ = disk.read_at(GuestOffset(at), &mut scratch[..len]);
            }
            Request::Preparation(prepare) => prepare(&is_wanted),
            Request::End => return,
        }
    }
}

impl Ahead {
    /// Has the disk prepared, if that was not begun; later if the threads have too much to do now.
    fn prepare(&self) {
        let mut preparation = self.preparation.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = preparation.take() else { return };
        if let Err(TrySendError::Full(Request::Preparation(later))) = self.queue.try_send(Request::Preparation(wanted))
        {
            *preparation = Some(later);
        }
    }

    /// Notes a read and asks for what will follow it.
    fn moved(&self, at: u64, len: u64) {
        let end = at + len;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let found = streams.iter().position(|stream| stream.next.abs_diff(at) <= SLACK_BYTES);
        let Some(found) = found else {
            if streams.len() == STREAMS {
                streams.pop();
            }
            if !streams.is_empty() {
                self.prepare();
            }
            streams.insert(0, Stream { begin: at, next: end, asked: end, run: 0 });
            return;
        };
        let mut stream = streams.remove(found);
        stream.run += u32::from(end > stream.next);
        stream.next = stream.next.max(end);
        stream.asked = stream.asked.max(stream.next);
        // Two reads may follow each other by chance.
        if stream.run >= 2 {
            let window = (stream.next - stream.begin).min(WINDOW_BYTES);
            let until = (stream.next + window).min(self.disk.size().0);
            while stream.asked < until {
                let len = PIECE_BYTES.min(until - stream.asked);
                let len_in_memory = usize::try_from(len).expect("a piece fits in memory");
                let piece = Request::Piece { disk: Arc::clone(&self.disk), at: stream.asked, len: len_in_memory };
                match self.queue.try_send(piece) {
                    Ok(()) => stream.asked += len,
                    Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => break,
                }
            }
        }
        streams.insert(0, stream);
    }
}

impl Disk for Ahead {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        self.moved(at.0, buf.len() as u64);
        self.disk.read_at(at, buf)
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        self.disk.extent_at(at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::disk::{MemoryDisk, conformance};

    /// Remembers which megabytes were asked for.
    struct Watched(MemoryDisk, Mutex<BTreeSet<u64>>);

    impl Disk for Watched {
        fn size(&self) -> ByteLen {
            self.0.size()
        }

        fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
            self.1.lock().unwrap().insert(at.0 >> 20);
            self.0.read_at(at, buf)
        }

        fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
            self.0.extent_at(at)
        }
    }

    fn after_reads(offsets: &[u64]) -> BTreeSet<u64> {
        let watched = Arc::new(Watched(MemoryDisk(vec![7; 32 << 20]), Mutex::default()));
        let ahead = ReadAhead::start(2);
        let disk = ahead.over(Arc::clone(&watched) as Arc<dyn Disk>);
        for offset in offsets {
            disk.read_at(GuestOffset(*offset), &mut [0; 128 << 10]).unwrap();
        }
        drop(ahead); // what was asked ahead is done or dropped by now, and no thread is left
        watched.1.lock().unwrap().clone()
    }

    #[test]
    fn it_is_a_disk_and_outlives_its_threads() {
        let bytes: Vec<u8> = (0..=250).cycle().take(3 << 20).collect();
        let ahead = ReadAhead::start(1);
        let disk = ahead.over(Arc::new(MemoryDisk(bytes.clone())));
        conformance::check(disk.as_ref(), &bytes);
        drop(ahead);
        conformance::check(disk.as_ref(), &bytes);
    }

    #[test]
    fn scattered_reads_ask_for_nothing_more() {
        assert_eq!(after_reads(&[0, 9 << 20, 4 << 20, 20 << 20]), BTreeSet::from([0, 4, 9, 20]));
    }

    #[test]
    fn a_disk_is_prepared_once_and_only_when_it_is_read_here_and_there() {
        let (told, began) = crossbeam_channel::unbounded();
        let prepare: Preparation = Box::new(move |is_wanted| told.send(is_wanted()).unwrap());
        let ahead = ReadAhead::start(1);
        let disk = ahead.over_prepared(Arc::new(MemoryDisk(vec![7; 32 << 20])), Some(prepare));
        let read = |at: u64| disk.read_at(GuestOffset(at), &mut [0; 4096]).unwrap();
        (0..3).for_each(|number| read(number * 4096));
        assert!(began.is_empty());
        read(20 << 20);
        assert_eq!(began.recv(), Ok(true));
        read(10 << 20);
        drop((ahead, disk));
        assert!(began.recv().is_err());
    }

    #[test]
    fn a_reader_from_front_to_back_is_known_among_others() {
        let step = 128 << 10;
        let reads = [5 << 20, 20 << 20, (5 << 20) + step, (5 << 20) + 2 * step, (5 << 20) + 3 * step];
        let asked = after_reads(&reads);
        assert!(asked.is_superset(&BTreeSet::from([5, 20])), "{asked:?}");
        assert!(asked.iter().all(|megabyte| (5..=9).contains(megabyte) || *megabyte == 20), "{asked:?}");
    }
}
