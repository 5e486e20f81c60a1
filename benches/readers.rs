//! Reads all of an image, as a backup would: what a reader of ours costs. `readers.py` runs it beside `qemu-img`.
//!
//! In here: the walk over the segments that hold data, on one or more threads. Not in here: what is done with the bytes
//! (nothing: they are thrown away), times and tables (`readers.py` measures this whole process from outside).

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use abbild::chunker::SEGMENT_BYTES;
use abbild::disk::cursor::{ExtentCursor, RangeKind};
use abbild::disk::stack::Stack;
use abbild::disk::{Disk, DiskError};
use abbild::formats::{self, OpenPolicy};
use abbild::units::GuestOffset;
use clap::Parser;

/// Reads all data of an image and throws it away; prints one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The image; without one there is nothing to do.
    image: Option<PathBuf>,
    /// How many threads read.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Print the BLAKE3 hash of the whole disk as well (on one thread).
    #[arg(long)]
    digest: bool,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(path) = &arguments.image else {
        eprintln!("readers: name an image, or run benches/readers.py");
        return ExitCode::SUCCESS;
    };
    let opened = OpenPolicy::named_by_user(path).and_then(|policy| formats::open(path, &policy));
    let image = match opened {
        Ok(image) => image,
        Err(error) => {
            eprintln!("readers: {error}");
            return ExitCode::FAILURE;
        }
    };
    let disk = image.disk();
    let outcome = match arguments.digest {
        true => digest(&disk).map(|hash| serde_json::json!({ "size": disk.size().0, "blake3": hash })),
        false => {
            read(&disk, arguments.threads).map(|bytes| serde_json::json!({ "size": disk.size().0, "read": bytes }))
        }
    };
    match outcome {
        Ok(said) => println!("{said}"),
        Err(error) => {
            eprintln!("readers: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Reads every segment that holds data; returns how many bytes that was.
fn read(disk: &Stack, threads: usize) -> Result<u64, DiskError> {
    let next = AtomicU64::new(0);
    let read = AtomicU64::new(0);
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                if let Err(error) = read_segments(disk, &next, &read) {
                    next.store(u64::MAX / 2, Ordering::Relaxed); // the others stop too
                    *failure.lock().expect("no reader panics") = Some(error);
                }
            });
        }
    });
    match failure.into_inner().expect("no reader panics") {
        Some(error) => Err(error),
        None => Ok(read.into_inner()),
    }
}

/// What one thread does: it takes the next segment that nobody has taken, until there is none.
fn read_segments(disk: &Stack, next: &AtomicU64, read: &AtomicU64) -> Result<(), DiskError> {
    let (size, segment) = (disk.size().0, SEGMENT_BYTES as u64);
    let mut extents = ExtentCursor::new(disk);
    let mut buffer = vec![0; SEGMENT_BYTES];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(at) = number.checked_mul(segment).filter(|at| *at < size) else { return Ok(()) };
        let end = size.min(at + segment);
        if extents.kind_of(at..end)? == RangeKind::Data {
            let len = usize::try_from(end - at).expect("at most a segment");
            disk.read_at(GuestOffset(at), &mut buffer[..len])?;
            read.fetch_add(end - at, Ordering::Relaxed);
        }
    }
}

fn digest(disk: &Stack) -> Result<String, DiskError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; SEGMENT_BYTES];
    let mut at = 0;
    while at < disk.size().0 {
        let len = buffer.len().min(usize::try_from(disk.size().0 - at).unwrap_or(usize::MAX));
        disk.read_at(GuestOffset(at), &mut buffer[..len])?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
